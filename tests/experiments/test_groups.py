"""Rare groups: the run from the command line, what counts as its result, and photographs read batch by batch."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from safetensors.numpy import save_file

from experiments import _photographs, _rows, groups
from experiments.__main__ import main
from gsjax import data, methods, networks, records
from gsjax.data import sources


def read(folder, name="summary.json"):
    return json.loads((folder / name).read_text())


def values(summary):
    return {row["name"]: row["measured"] for row in summary["rows"]}


def test_smoke_run_interrupted_and_finished(tmp_path, monkeypatch):
    """Stopped after a method, then run to its end: the rows of every network, Table 3, and the figure."""
    add, cells = records.Table.add, []

    def stop(self, cell, rows, seconds):
        add(self, cell, rows, seconds)
        cells.append(cell["arm"])
        if len(cells) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(records.Table, "add", stop)
    draw, drawn = groups.from_colored, []

    def once(config, keys):  # the same images, without compiling their program again
        drawn.extend([] if drawn else [draw(config, keys)])
        return drawn[0]

    monkeypatch.setattr(groups, "from_colored", once)
    arms = ["erm", "sd"]
    command = ["groups", "--preset", "smoke", "--out", str(tmp_path), "--arms", *arms]
    assert main(command) == 130
    assert main(command) == 0
    assert cells == arms

    summary = read(tmp_path)
    assert summary["data"]["stand-in"]
    assert min(summary["data"]["train"]) / sum(summary["data"]["train"]) < 0.01
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["seed"]) for row in rows] == [(arm, seed) for arm in arms for seed in (0, 1)]
    assert all(row["finite"] and np.shape(row["test"]) == (6, 4) for row in rows)
    found = values(summary)
    erm = groups.selected(rows[:2])
    assert found["ERM: worst-group accuracy"] == pytest.approx(erm.min(axis=1).mean())
    shares = np.array(summary["data"]["train"]) / sum(summary["data"]["train"])
    assert found["ERM: average accuracy"] == pytest.approx((erm @ shares).mean())
    assert found["ERM: average accuracy"] > 0.9
    assert [signature["name"] for signature in summary["signatures"]] == [
        "SD beats ERM on the worst group",
        "SD beats ERM on the rarest group",
    ]
    assert all(row["differs"] for row in summary["rows"])
    assert (tmp_path / "groups.png").stat().st_size > 10_000


def row(seed, validation, test):
    return {"seed": seed, "shares": [0.44, 0.41, 0.14, 0.01], "finite": True, "validation": validation, "test": test}


def test_signatures_are_of_paired_differences():
    def of(worst):
        return [row(seed, [[1, 1, 1, 1]], [[0.9, 0.9, 0.9, value]]) for seed, value in enumerate(worst)]

    found = {"erm": of([0.1, 0.5, 0.3, 0.7]), "sd": of([0.2, 0.6, 0.4, 0.8]), "lff": of([0.7, 0.3, 0.5, 0.1])}
    worst, rarest, *of_lff = _rows.judged(groups.judge(found))
    assert worst["value"] == rarest["value"] == pytest.approx(0.1)
    assert [signature["holds"] for signature in (worst, rarest, *of_lff)] == [True, True, False, False]
    assert groups.judge({"sd": found["sd"]}) == []


def test_spectral_decoupling_is_the_published_objective():
    """Mean softplus + .1 mean over each class of (f - target)^2, and the square of the parameters as for the others."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    y = jnp.array([-1.0, -1.0, 1.0, -1.0, -1.0, 1.0])
    network = networks.FullyConnected((4,))
    method = groups.method("sd", network, groups.Config(weight_decay=0.0), 6)

    @jax.jit
    def first(key):
        state = method.init(key, methods.Batch(x, y))
        return method.update(state, methods.Batch(x, y))[1], methods.predict(network, state, x)

    info, f = first(jax.random.key(1))
    f = np.asarray(f, float)
    dark, blond = f[np.asarray(y) < 0], f[np.asarray(y) > 0]
    expected = np.logaddexp(0, -np.asarray(y) * f).mean() + 0.1 * ((dark - 0.44) ** 2).mean()
    assert info.objective == pytest.approx(expected + 0.1 * ((blond - 2.5) ** 2).mean(), rel=1e-5)


@pytest.fixture
def portraits(tmp_path, monkeypatch):
    """CelebA in miniature: 10 portraits of each group in each split, whose hair tells by its colour."""
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    generator, lines, parts = np.random.default_rng(0), [], []
    for number in range(120):
        blond, male, split = number % 2, number // 2 % 2, number // 4 % 3
        name = f"{number:06d}.jpg"
        shade = np.array([100, 90, 90]) + 60 * blond + 40 * np.array([0, 0, male]) + generator.integers(-90, 91, 3)
        Image.new("RGB", (18, 22), tuple(shade.clip(0, 255).tolist())).save(folder / name)
        lines.append(f"{name} {2 * blond - 1:2d} {2 * male - 1:2d}\n")
        parts.append(f"{name} {split}\n")
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text(f"120\nBlond_Hair Male\n{''.join(lines)}")
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("".join(parts))
    return data.celeba()


def test_photographs_in_batches_are_trained_on_like_arrays_in_memory(portraits):
    network, epochs, size = networks.FullyConnected((8,)), 2, 6
    method = methods.get("group_dro")(network, optax.sgd(0.03, momentum=0.9), groups=4, weight_decay=1e-3)
    key = jax.random.key(3)
    course = _photographs.train(method, network, key, portraits, epochs=epochs, batch_size=12, size=size)

    def part(split):
        rows = portraits.rows(split)
        x = _photographs.normalised(data.load_images(portraits, rows, size=size))
        return methods.Batch(x, jnp.asarray(portraits.y[rows]), jnp.asarray(portraits.group[rows]))

    def evaluate(state, held_out):
        return [groups.by_group(methods.predict(network, state, of.x) * of.y > 0, of.group) for of in held_out]

    run = methods.train(
        method,
        key[None],
        part("train"),
        steps=6,  # of three whole batches an epoch, four photographs being left out
        batch_size=12,
        record=(3, 6),
        evaluate=evaluate,
        held_out=[part("validation"), part("test")],
    )
    np.testing.assert_allclose(course.validation, run.records[0][0], atol=1e-6)
    np.testing.assert_allclose(course.test, run.records[1][0], atol=1e-6)
    assert course.finite
    assert 0 < course.validation.mean() < 1
    with pytest.raises(ValueError, match=r"^batch_size: expected 1 to 40, got 41"):
        _photographs.train(method, network, key, portraits, epochs=1, batch_size=41, size=size)


def test_a_damaged_photograph_ends_the_run_with_its_name(portraits, tmp_path):
    next((tmp_path / "celeba" / "img_align_celeba").glob("000117*")).write_bytes(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"000117.jpg: cannot be read"):
        list(_photographs.read(portraits, np.arange(120).reshape(3, 40), size=8))


@pytest.mark.slow
def test_the_paper_preset_on_a_small_folder(portraits, tmp_path):
    """All methods from the same pretrained weights, a network a cell; a second run computes nothing anew."""
    network, x = networks.ResNet((1,)), jnp.zeros((1, 32, 32, 3))
    variables = network.init(jax.random.key(9), x)
    entries = {}
    for keys, leaf in jax.tree.flatten_with_path(dict(variables))[0]:
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim]
        entries[networks.resnet._torch_name(keys)] = np.ascontiguousarray(np.asarray(leaf).transpose(axes))
    entries["fc.weight"], entries["fc.bias"] = np.zeros((1000, 256), np.float32), np.zeros(1000, np.float32)
    save_file(entries, tmp_path / "weights.safetensors")

    out = tmp_path / "out"
    command = ["groups", "--preset", "paper", "--out", str(out), "--weights", str(tmp_path / "weights.safetensors")]
    command += ["--blocks", "1", "--size", "32", "--epochs", "3", "--seeds", "2", "--batch-size", "8"]
    command += ["--learning-rate", "0.01"]
    assert main(command) == 0
    summary, before = read(out), (out / "rows.jsonl").read_bytes()
    assert not summary["data"]["stand-in"]
    assert summary["data"]["train"] == [10, 10, 10, 10]
    found = values(summary)
    assert all(found[f"{label}: accuracy, blond men"] >= 0 for label in groups.LABELS.values())
    assert found["ERM: average accuracy"] > 0.6
    assert len(before.splitlines()) == 8
    (out / "summary.json").unlink()
    assert main(command) == 0
    assert (out / "rows.jsonl").read_bytes() == before
    assert read(out)["rows"] == summary["rows"]


def test_pretrained_weights_reach_both_networks_of_learning_from_failure():
    network = networks.FullyConnected((2,))
    method = methods.get("lff")(network, optax.sgd(0.1))
    state = method.init(jax.random.key(0), methods.Batch(jnp.ones((2, 3)), jnp.array([-1.0, 1.0])))
    after = _photographs.pretrained(state, lambda variables: jax.tree.map(lambda leaf: leaf + 1, variables))
    for old, new in ((state, after), (state.memory.biased, after.memory.biased)):
        for leaf, changed in zip(jax.tree.leaves(old.params), jax.tree.leaves(new.params), strict=True):
            np.testing.assert_array_equal(changed, leaf + 1)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--epochs", "0"], "epochs: expected"),
        (["--seeds", "0"], "seeds: expected"),
        (["--data", "celeba"], "fetch CelebA"),
        (["--data", "waterbirds"], "fetch Waterbirds"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["groups", "--preset", "smoke", "--out", str(tmp_path / "out"), *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line
