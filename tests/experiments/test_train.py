"""Training of any method on any task with any network, by name."""

from __future__ import annotations

import csv
import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import _tasks, train
from experiments.__main__ import main
from gsjax import data, methods, networks
from gsjax.methods import Batch
from tests.plotting.shown import legend, points

TINY = {
    "mlp": ("widths=3",),
    "cnn": ("channels=2",),
    "fully_connected": ("widths=3", "dropout=0.5", "batch_norm=True"),
    "convnet": ("channels=2", "widths=3"),
    "vgg": ("channels=(2,),",),
    "preact_resnet": ("channels=2", "blocks=1"),
    "resnet": ("blocks=1",),
    "two_layer": ("width=3", "trained=True"),
}
OPTIONS = {
    # The number of groups comes from the data.
    name: tuple(f"{key}={value}" for key, value in entry.example.items() if key != "groups")
    for name, entry in methods.REGISTRY.items()
}


@pytest.fixture(scope="module")
def tasks():
    """Small tasks of each kind that needs no files."""
    names = ("two_moons", "digits", "colored_digits", "oracle_digits")
    found = {name: _tasks.load(jax.random.key(0), name, n=100, test=50) for name in names}
    return found | {"two digits": _tasks.load(jax.random.key(0), "digits", classes=(3, 8), n=100, test=50)}


def fields(batch):
    """The arrays of a batch by name."""
    return {name: np.asarray(leaf) for name, leaf in batch._asdict().items() if leaf is not None}


def idx(path, array):
    """Writes an array of bytes as an idx file."""
    path.parent.mkdir(exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4) for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def mnist_like(folder, parts):
    """Writes files in the format of MNIST with these numbers of images, random pixels and all labels in turn."""
    for prefix, count in parts.items():
        rng = np.random.default_rng(count)
        idx(folder / f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)


def traced(config, task):
    """The shapes of the results of a step and a measurement. Arguments are checked, nothing is computed."""
    method, network = train.build(config, task)

    def one(key):
        state, info = method.update(method.init(key, task.train), task.train)
        return state, info, train.measure(network, state, task.held_out["test"])

    return jax.eval_shape(one, jax.random.key(0))


@pytest.mark.parametrize("method", methods.NAMES)
def test_every_method_runs_on_every_task_or_names_what_is_missing(method, tasks):
    for name, task in tasks.items():
        config = train.Config(method, OPTIONS[method], network="mlp", network_options=("widths=3",))
        lacking = [field for field in methods.REGISTRY[method].needs if getattr(task.train, field) is None]
        if lacking:
            # Without groups, the number of groups is missing as well.
            with pytest.raises(ValueError, match=f"^{lacking[0]}: expected|expected groups=VALUE"):
                traced(config, task)
            continue
        _, info, measured = traced(config, task)
        assert {leaf.shape for leaf in jax.tree.leaves((info, measured))} == {()}
        assert ("worst group" in measured) == (task.train.group is not None), name


@pytest.mark.parametrize("network", networks.NAMES)
def test_every_network_runs_on_every_task_of_images(network, tasks):
    config = train.Config(network=network, network_options=TINY[network])
    for name in ("digits", "colored_digits"):
        traced(config, tasks[name])
    if network in ("mlp", "fully_connected", "two_layer"):
        traced(config, tasks["two_moons"])
    else:
        with pytest.raises(ValueError, match=r"^x: expected"):
            traced(config, tasks["two_moons"])


def test_a_student_gets_a_teacher(tasks):
    config = train.Config(
        "distillation", ("position=h1",), network="mlp", network_options=("widths=3",), steps=2, batch_size=20
    )
    task, key = tasks["digits"], jax.random.key(0)
    method, network = train.build(config, task)
    found = train.taught(config, task, network, key).train
    assert fields(found)["teacher_logits"].shape == (100, 10)
    assert fields(found)["teacher_features"].shape == (100, 3)
    _, info = jax.eval_shape(lambda key: method.update(method.init(key, found), found), key)
    assert info.penalty.shape == ()
    # The position of a readout is no stage to match.
    early = dataclasses.replace(config, method="dedier", method_options=OPTIONS["dedier"])
    assert "teacher_features" not in fields(train.taught(early, task, network, key).train)
    assert train.taught(dataclasses.replace(config, method="erm", method_options=()), task, network, key) is task


@pytest.mark.slow
@pytest.mark.parametrize("method", methods.NAMES)
def test_every_method_trains(method, tmp_path):
    command = ["train", "--preset", "smoke", "--out", str(tmp_path), "--method", method]
    assert main([*command, "--method-options", *OPTIONS[method]]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["rows"]) == 9


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, module_figures):
    out = tmp_path_factory.mktemp("train")
    flags = ["--method", "irm", "--method-options", "penalty_weight=1e2", "anneal=20"]
    assert main(["train", "--preset", "smoke", "--out", str(out), *flags]) == 0
    return out, flags


def test_a_run_writes_curves_a_summary_and_a_figure(smoke, module_figures):
    out, _ = smoke
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1]
    for row in rows:
        assert row["steps"] == [0, 10, 20, 30, 40]
        for name in ("train", "test", "gray"):
            assert {key: len(curve) for key, curve in row[name].items()} == {
                "accuracy": 5, "loss": 5, "worst group": 5,
            }  # fmt: skip
            assert all(
                worst <= mean for worst, mean in zip(row[name]["worst group"], row[name]["accuracy"], strict=True)
            )
        assert row["train"]["loss"][-1] < row["train"]["loss"][0]
    assert rows[0]["train"] != rows[1]["train"]
    summary = json.loads((out / "summary.json").read_text())
    sizes = {"train": 100, "test": 50, "gray": 50}
    assert summary["data"] == {"name": "colored_digits: 8x8 digits of scikit-learn", **sizes, "stand-in": False}
    values = {row["name"]: row for row in summary["rows"]}
    assert values["test: accuracy"]["measured"] == pytest.approx(np.mean([row["test"]["accuracy"][-1] for row in rows]))
    assert values["test: accuracy"]["seeds"] == 2
    assert next(iter(values)) == "train: accuracy"

    panels = {ax.get_ylabel(): ax for ax in module_figures["curves.png"].axes}
    names = legend(panels["loss in nats"]) or []
    assert set(names) == {"train", "test", "gray"}
    labels = {"accuracy": "accuracy", "loss": "loss in nats", "worst group": "accuracy of the worst group"}
    for key, label in labels.items():
        for line, name in zip(panels[label].lines, names, strict=True):
            means = np.mean([row[name][key] for row in rows], axis=0)
            np.testing.assert_allclose(points(line), np.stack([rows[0]["steps"], means], axis=1))


def test_a_finished_run_computes_nothing(smoke, monkeypatch):
    out, flags = smoke
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(train, "train", None)
    assert main(["train", "--preset", "smoke", "--out", str(out), *flags]) == 0
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"provenance.json"}


@pytest.mark.parametrize("outputs", [1, 3])
def test_measurements_by_hand(outputs):
    """In NumPy, from the logits of a linear network."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(50, 2)), rng.normal(size=(2, outputs))
    label, group = rng.integers(0, max(outputs, 2), 50), rng.integers(0, 3, 50)
    batch = Batch(jnp.array(x), jnp.array(2.0 * label - 1 if outputs == 1 else label), group=jnp.array(group))
    network = networks.FullyConnected((), outputs=outputs)
    params = {"Dense_0": {"kernel": jnp.array(w), "bias": jnp.zeros(outputs)}}
    state = methods.State(params, {}, (), jnp.zeros((), int), jax.random.key(0), ())
    found = jax.jit(lambda: train.measure(network, state, batch))()
    logits = x @ w if outputs > 1 else np.concatenate([0 * x @ w, x @ w], axis=1)
    right = logits.argmax(axis=1) == label
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(50), label]
    assert float(found["accuracy"]) == pytest.approx(right.mean())
    assert float(found["loss"]) == pytest.approx(losses.mean(), rel=1e-5)
    assert float(found["worst group"]) == pytest.approx(min(right[group == g].mean() for g in range(3)))


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("fully_connected", ["widths=30,40"], {"widths": (30, 40)}),
        ("fully_connected", ["widths=30", "dropout=1e-1"], {"widths": (30,), "dropout": 0.1}),
        (
            "fully_connected",
            ["batch_norm=True", "activation=tanh"],
            {"widths": 7, "batch_norm": True, "activation": "tanh"},
        ),
        ("vgg", ["channels=(8,),(16,16)"], {"channels": ((8,), (16, 16))}),
    ],
)
def test_options_get_the_types_of_the_signature(name, given, found):
    assert train.options(name, networks.get(name), given, {"widths": 7}) == found


def test_options_of_a_method(tasks):
    given = ["strength=0.1,0.2", "target=0.5", "class_means=True"]
    found = train.options("spectral_decoupling", methods.get("spectral_decoupling"), given, {})
    assert found == {"strength": (0.1, 0.2), "target": 0.5, "class_means": True}
    for options in (given, ["strength=4e-5", "switch=450"]):
        traced(train.Config("spectral_decoupling", tuple(options), network="mlp"), tasks["colored_digits"])


def test_the_help_lists_every_method(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"{', '.join(methods.NAMES)}. (default" in shown


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["widths"], "options of fully_connected: expected NAME=VALUE, each once, with names from widths, activation"),
        (["width=3"], "got width=3"),
        (["outputs=3"], "got outputs=3"),
        (["widths=3", "widths=4"], "got widths=4"),
        (["dropout=some"], "dropout: expected a value of type float, got 'some'"),
        (["dropout=True"], "dropout: expected a value of type float"),
        (["batch_norm=1"], "batch_norm: expected a value of type bool"),
        (["dropout=0"], r"options of fully_connected: expected widths=VALUE, got \['dropout=0'\]"),
    ],
)
def test_bad_options_are_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        train.options("fully_connected", networks.FullyConnected, given, {})


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--method", "sd"], "method: expected one of erm, spectral_decoupling, irm"),
        (["--method", "irm"], "options of irm: expected penalty_weight=VALUE, got []"),
        (["--method", "irm", "--method-options", "penalty=1"], "with names from penalty_weight, anneal, environments"),
        (["--network", "mpl"], "network: expected one of mlp, cnn, fully_connected"),
        (["--network-options", "widths=0"], "widths: expected"),
        (["--data", "moons"], "data: expected one of two_moons, digits"),
        (["--classes", "3", "8"], "classes: expected none, because colored_digits has only two, got (3, 8)"),
        (["--data", "digits", "--classes", "3", "11"], "classes: expected none, or two different labels of [0, 1,"),
        (["--data", "digits", "--n", "10000"], "n: expected at most 1497, the number of examples, got 10000"),
        (["--n", "0"], "n: expected a whole number of at least 1, got 0"),
        (["--momentum", "0.9"], "momentum: expected 0, as adam has its own, got 0.9"),
        (["--learning-rate", "0"], "--learning-rate: expected a finite number above 0"),
        (["--data", "mnist"], "fetch MNIST"),
        (["--data", "colored_groups"], "fetch Fashion-MNIST"),
        (["--data", "celeba"], "fetch CelebA"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, nowhere, one_line):
    assert main(["train", "--preset", "smoke", "--out", str(tmp_path / "out"), *flags]) == 2
    assert complaint in one_line()
    assert not (tmp_path / "out").exists()


def test_a_diverged_run_is_an_error(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "train", lambda *_, **__: SimpleNamespace(finite=np.array([True, False])))
    config = dataclasses.replace(train.PRESETS["smoke"], learning_rate=5.0)
    with pytest.raises(ValueError, match=r"learning_rate: expected one at which .* finite, got 5.0: 1 of 2 lost it"):
        train.train(config, tasks["digits"], *train.build(config, tasks["digits"]), jax.random.key(0))


def test_colours_agree_with_labels_as_in_colored_mnist(tasks):
    batch, test, gray = fields(tasks["colored_digits"].train), *map(fields, tasks["colored_digits"].held_out.values())
    np.testing.assert_array_equal(batch["index"], np.arange(100))
    np.testing.assert_array_equal(np.bincount(batch["environment"]), [50, 50])
    for part in (batch, test):
        np.testing.assert_array_equal(part["group"] // 2, part["y"] > 0)
        np.testing.assert_array_equal(part["group"] % 2, part["x"].sum(axis=(1, 2)).argmax(axis=1))
    agree = [((part["y"] > 0) == part["group"] % 2).mean() for part in (batch, test)]
    assert abs(agree[0] - 0.85) < 0.15  # four standard deviations of 100 and of 50 examples
    assert abs(agree[1] - 0.1) < 0.17
    np.testing.assert_array_equal(gray["x"][..., 0], gray["x"][..., 1])
    np.testing.assert_array_equal(gray["y"], test["y"])
    oracle = fields(tasks["oracle_digits"].train)
    np.testing.assert_array_equal(oracle["x"], data.grayscale(tasks["colored_digits"].train.x))
    np.testing.assert_array_equal(oracle["y"], batch["y"])


def test_training_and_test_examples_are_disjoint(tasks):
    for name in ("digits", "two digits", "oracle_digits", "two_moons"):
        batch, test = fields(tasks[name].train), fields(tasks[name].held_out["test"])
        seen = {x.tobytes() for x in batch["x"]}
        assert not any(x.tobytes() in seen for x in test["x"])
    assert tasks["digits"].outputs == 10
    assert set(np.unique(tasks["two digits"].train.y)) == {-1, 1}
    assert np.abs(tasks["digits"].train.x).max() == 1


def test_the_order_of_classes_sets_the_sign_of_labels():
    same = [_tasks.load(jax.random.key(0), "digits", classes=classes, n=100, test=50) for classes in ((3, 8), (8, 3))]
    np.testing.assert_array_equal(same[0].train.x, same[1].train.x)
    np.testing.assert_array_equal(same[0].train.y, -same[1].train.y)


def test_data_sets_in_files_say_what_is_missing(nowhere):
    mnist_like(nowhere / "mnist", {"t10k": 60})
    task = _tasks.load(jax.random.key(0), "mnist")
    assert task.about == {"name": "mnist, the 60 images of its test split", "train": 50, "test": 10, "stand-in": False}
    assert (task.train.x.shape, task.outputs) == ((50, 28, 28, 1), 10)
    mnist_like(nowhere / "mnist", {"train": 100})
    task = _tasks.load(jax.random.key(0), "colored_mnist", test=7)
    assert task.about["name"] == "colored_mnist: mnist, 100 of 60,000 training images"
    assert task.train.x.shape == (100, 14, 14, 2)
    assert len(task.held_out["test"].y) == 7


@pytest.mark.slow
def test_groups_stand_in_for_celeba(nowhere):
    mnist_like(nowhere / "fashion-mnist", {"train": 1000, "t10k": 100})
    task = _tasks.load(jax.random.key(0), "colored_groups")
    assert task.about["stand-in"] == "for CelebA"
    counts = np.bincount(fields(task.train)["group"])
    assert counts[3] / counts.sum() == pytest.approx(0.0085, abs=2e-3)
    np.testing.assert_array_equal(np.bincount(fields(task.held_out["test"])["group"]), [5, 5, 5, 5])
    assert len(_tasks.load(jax.random.key(0), "colored_groups", n=30).train.y) == 30


def test_photographs_from_a_folder(nowhere):
    folder = nowhere / "waterbird_complete95_forest2water2"
    folder.mkdir()
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["img_filename", "y", "split", "place"])
        for number in range(8):
            Image.new("RGB", (20, 30), (255, 255, 255)).save(folder / f"{number}.png")
            table.writerow([f"{number}.png", number % 2, 2 if number > 5 else 0, number // 2 % 2])
    task = _tasks.load(jax.random.key(0), "waterbirds", image_size=8)
    assert task.train.x.shape == (6, 8, 8, 3)
    assert float(task.train.x.min()) == 1
    assert len(task.held_out["test"].y) == 2
    batch = fields(task.train)
    np.testing.assert_array_equal(batch["group"] // 2, batch["y"] > 0)
    assert sorted(batch["group"]) == [0, 0, 1, 2, 2, 3]
