"""Rare groups: the run from the command line, offsets and epochs, signatures, and photographs in batches."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from experiments import _offsets, _photographs, _rows, groups
from experiments.__main__ import main
from gsjax import data, methods, networks
from tests.plotting.shown import points


def read(folder, name="summary.json"):
    return json.loads((folder / name).read_text())


def values(summary):
    return {row["name"]: row["measured"] for row in summary["rows"]}


def test_smoke_run_interrupted_and_finished(tmp_path, monkeypatch, interrupt_after, figures):
    """The run is stopped after one method and finished: the rows of every network, Table 3 and the figure."""
    cells = interrupt_after(1)
    draw, drawn = groups.from_colored, []

    def draw_once(config, keys):  # the same images again, without compiling the program
        drawn.extend([] if drawn else [draw(config, keys)])
        return drawn[0]

    monkeypatch.setattr(groups, "from_colored", draw_once)
    arms = ["erm", "sd"]
    command = ["groups", "--preset", "smoke", "--out", str(tmp_path), "--arms", *arms]
    assert main(command) == 130
    assert main(command) == 0
    assert [cell["arm"] for cell in cells] == arms

    summary = read(tmp_path)
    assert summary["data"]["stand-in"]
    assert min(summary["data"]["train"]) / sum(summary["data"]["train"]) < 0.01
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["seed"]) for row in rows] == [(arm, seed) for arm in arms for seed in (0, 1)]
    assert all(row["finite"] and np.shape(row["none"]["test"]) == (6, 4) for row in rows)
    for row in rows:  # an offset does not lower the score that it is selected for
        for kind, score in {"groups": worst, "classes": balanced_score(row["shares"])}.items():
            for after, before in zip(row[kind]["validation"], row["none"]["validation"], strict=True):
                assert score(after) >= score(before) - 1e-6
        sizes = summary["data"]["train"]
        assert row["odds"]["offset"] == pytest.approx([np.log(sum(sizes[:2]) / sum(sizes[2:]))] * 6)
    found = values(summary)
    erm = _offsets.selected(rows[:2])
    assert found["ERM: worst-group accuracy"] == pytest.approx(erm.min(axis=1).mean())
    shares = np.array(summary["data"]["train"]) / sum(summary["data"]["train"])
    assert found["ERM: average accuracy"] == pytest.approx((erm @ shares).mean())
    assert found["ERM: average accuracy"] > 0.9
    assert [signature["name"] for signature in summary["signatures"]] == [
        "SD beats ERM on the worst group",
        "SD beats ERM on the rarest group",
        "worst group, (ERM + offset) minus ERM",
        "worst group, SD minus (ERM + offset)",
        "worst group, (SD + offset) minus (ERM + offset)",
        "worst group, (SD + offset) minus (ERM + offset), near 0",
        "worst group, SD minus (ERM + offset by class balance)",
        "worst group, (SD, no group labels) minus (ERM, no group labels)",
        "worst group, (SD, no group labels) minus (ERM + offset, no group labels)",
        "worst group, (SD, no group labels) minus (ERM + log odds, no group labels)",
    ]
    assert all(row["differs"] for row in summary["rows"])

    left, middle, right = figures["groups.png"].axes
    accuracies, worst_groups = (next(line for line in ax.lines if line.get_label() == "ERM") for ax in (left, middle))
    np.testing.assert_allclose(points(accuracies)[:, 1], erm.mean(axis=0))
    assert points(worst_groups)[0, 1] == pytest.approx(found["ERM: worst-group accuracy"])
    course = np.mean([np.min(row["none"]["test"], axis=1) for row in rows[:2]], axis=0)
    np.testing.assert_allclose(points(right.lines[0]), np.stack([np.arange(1, 7), course], axis=1))


def worst(accuracies):
    return min(accuracies)


def balanced_score(shares):
    """The score that averages the accuracies of both classes, for groups with these shares."""

    def score(accuracies):
        right = [share * accuracy for share, accuracy in zip(shares, accuracies, strict=True)]
        return (sum(right[:2]) / sum(shares[:2]) + sum(right[2:]) / sum(shares[2:])) / 2

    return score


def row(seed, validation, test, **moved):
    """A row with the same accuracies for every kind of offset, except for the kinds in `moved`."""
    kinds = dict.fromkeys(("none", "groups", "classes", "odds"), (validation, test)) | moved
    found = {kind: {"validation": ours, "test": theirs} for kind, (ours, theirs) in kinds.items()}
    return {"seed": seed, "shares": [0.44, 0.41, 0.14, 0.01], "finite": True, **found}


def brute_force(logits, y, group, score):
    """The best score over all thresholds between logits, tried one by one; the smallest offset that reaches it."""
    ends = sorted({logits.min() - 1, *logits.tolist(), logits.max() + 1})
    offsets = [-(low + high) / 2 for low, high in itertools.pairwise(ends)] + [0.0]

    def accuracies(offset):
        return [((logits + offset) * y > 0)[group == g].mean() for g in range(4)]

    best = max(score(accuracies(offset)) for offset in offsets)
    equal = [abs(offset) for offset in offsets if score(accuracies(offset)) > best - 1e-9]
    return best, min(equal), accuracies


@pytest.mark.parametrize("score", ["worst", "balanced"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shift", [0.0, 2.0, -40.0])
def test_the_best_offset_is_that_of_an_exhaustive_search(score, ties, shift):
    generator, shares = np.random.default_rng(int(ties) + 5), np.array([0.4, 0.3, 0.2, 0.1])
    group = generator.permutation(np.repeat(np.arange(4), [12, 9, 7, 3]))
    y = np.where(group > 1, 1.0, -1.0)
    logits = (y + 1.5 * generator.normal(size=len(y)) + shift).astype(np.float32)
    logits = np.round(logits) + 0.25 if ties else logits
    own = worst if score == "worst" else balanced_score(shares)
    given = (
        (lambda values: values.min(axis=0))
        if score == "worst"
        else lambda values: _offsets.class_balance(values, shares)
    )
    best, smallest, accuracies = brute_force(logits.astype(float), y, group, own)
    found = float(_offsets.best_offset(_photographs.Outputs(*map(jnp.asarray, (logits, y, group))), given))
    assert own(accuracies(found)) == pytest.approx(best, abs=1e-6)
    if score == "worst":  # sums of shares are equal up to rounding
        assert abs(found) == pytest.approx(smallest, abs=1e-5)


def test_an_epoch_is_selected_together_with_its_offset():
    """For groups, the first epoch without an offset and the second with one; for classes, the second without one."""
    plain = [[0.9, 0.9, 0.9, 0.6], [1.0, 1.0, 0.9, 0.1]], [[1.0] * 4, [0.5] * 4]
    moved = [[0.8, 0.8, 0.8, 0.4], [0.8, 0.8, 0.8, 0.7]], [[0.0] * 4, [0.3] * 4]
    one = row(0, *plain, groups=moved)
    for name, expected in {"published": 1.0, "offset": 0.3, "blind": 0.5}.items():
        assert _offsets.selected([one], _offsets.CHOICES[name]).tolist() == [[expected] * 4]


@pytest.mark.parametrize("moved", [0.0, 0.3])
def test_sd_is_compared_with_an_offset_on_erm(moved):
    """SD gains 0.2 over ERM: more than ERM gains by an offset of 0, less than by one of 0.3."""

    def arm_rows(worst, offset):
        test = [[[0.9, 0.9, 0.9, value]] for value in worst]
        return [
            row(seed, [[1] * 4], each, groups=([[1] * 4], [[0.9, 0.9, 0.9, each[0][3] + offset]]))
            for seed, each in enumerate(test)
        ]

    erm = np.array([0.3, 0.31, 0.29, 0.305, 0.295])
    jitter = np.array([0.01, -0.01, 0.0, 0.005, -0.005])
    found = {"erm": arm_rows(erm, moved), "sd": arm_rows(erm + 0.2 + jitter, 0.0)}
    holds = {signature["name"]: signature["holds"] for signature in _rows.judged(groups.judge(found))}
    assert holds["SD beats ERM on the worst group"]
    assert holds["worst group, SD minus (ERM + offset)"] == (moved == 0)
    assert holds["worst group, (SD + offset) minus (ERM + offset)"] == (moved == 0)
    assert holds["worst group, (SD + offset) minus (ERM + offset), near 0"]
    assert holds["worst group, (SD, no group labels) minus (ERM, no group labels)"]


def test_balanced_classes_have_equal_weight():
    """The objective is the mean over classes of their mean losses, for a batch with the class sizes of training."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    y = jnp.array([-1.0, -1.0, 1.0, -1.0, -1.0, 1.0])
    network, batch = networks.FullyConnected((4,)), methods.Batch(x, y)
    method = groups.method("balanced", network, groups.Config(weight_decay=0.0), (4, 2))
    state = method.init(jax.random.key(1), batch)
    f = np.asarray(methods.predict(network, state, x), float)
    each = np.logaddexp(0, -np.asarray(y) * f)
    expected = (each[np.asarray(y) < 0].mean() + each[np.asarray(y) > 0].mean()) / 2
    assert method.update(state, batch)[1].objective == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("arm", "learning_rate"), [("erm_adam", 0.003), ("sd_adam", 0.003), ("erm", 0.02)])
def test_the_first_step_of_adam_changes_all_parameters_equally(arm, learning_rate):
    """The first step of Adam is learning_rate times the sign of the gradient; that of SGD is not."""
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3))), jnp.array([-1.0, -1.0, 1.0, -1.0, -1.0, 1.0])
    method = groups.method(arm, networks.FullyConnected(()), groups.Config(adam_learning_rate=0.003), (4, 2))
    state = method.init(jax.random.key(1), methods.Batch(x, y))
    after, _ = method.update(state, methods.Batch(x, y))
    steps = jax.tree.map(lambda new, old: jnp.abs(new - old), after.params, state.params)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(steps)])
    assert bool(np.ptp(flat) < 1e-5) == arm.endswith("_adam")
    if arm.endswith("_adam"):
        assert flat.mean() == pytest.approx(learning_rate, rel=1e-3)


def test_signatures_pair_the_seeds():
    def arm_rows(worst):
        return [row(seed, [[1, 1, 1, 1]], [[0.9, 0.9, 0.9, value]]) for seed, value in enumerate(worst)]

    found = {
        "erm": arm_rows([0.1, 0.5, 0.3, 0.7]),
        "sd": arm_rows([0.2, 0.6, 0.4, 0.8]),
        "lff": arm_rows([0.7, 0.3, 0.5, 0.1]),
    }
    judged = _rows.judged(groups.judge(found))
    worst_group, rarest, *lff = (signature for signature in judged if "beats ERM" in signature["name"])
    assert worst_group["value"] == rarest["value"] == pytest.approx(0.1)
    assert [signature["holds"] for signature in (worst_group, rarest, *lff)] == [True, True, False, False]
    assert groups.judge({"sd": found["sd"]}) == []


def test_spectral_decoupling_is_the_published_objective():
    """Mean softplus plus 0.1 times the mean of (f - target)^2 over each class."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    y = jnp.array([-1.0, -1.0, 1.0, -1.0, -1.0, 1.0])
    network = networks.FullyConnected((4,))
    method = groups.method("sd", network, groups.Config(weight_decay=0.0), (4, 2))

    @jax.jit
    def first(key):
        state = method.init(key, methods.Batch(x, y))
        return method.update(state, methods.Batch(x, y))[1], methods.predict(network, state, x)

    info, f = first(jax.random.key(1))
    f = np.asarray(f, float)
    dark, blond = f[np.asarray(y) < 0], f[np.asarray(y) > 0]
    expected = np.logaddexp(0, -np.asarray(y) * f).mean() + 0.1 * ((dark - 0.44) ** 2).mean()
    assert info.objective == pytest.approx(expected + 0.1 * ((blond - 2.5) ** 2).mean(), rel=1e-5)


def test_training_on_batches_of_photographs_is_that_on_arrays_in_memory(portraits):
    network, epochs, size = networks.FullyConnected((8,)), 2, 6
    method = methods.get("group_dro")(network, optax.sgd(0.03, momentum=0.9), groups=4, weight_decay=1e-3)
    key = jax.random.key(3)

    def right(part):
        return _offsets.by_group(part.logits * part.y > 0, part.group)

    def measure(validation, test):
        return {"validation": right(validation), "test": right(test)}

    train = functools.partial(_photographs.train, method, network, key, portraits, measure, epochs=epochs, size=size)
    course = train(batch_size=12)

    def part(split):
        rows = portraits.rows(split)
        x = data.scaling.imagenet(data.load_images(portraits, rows, size=size))
        return methods.Batch(x, jnp.asarray(portraits.y[rows]), jnp.asarray(portraits.group[rows]))

    def evaluate(state, held_out):
        return [
            _offsets.by_group(methods.predict(network, state, batch.x) * batch.y > 0, batch.group) for batch in held_out
        ]

    run = methods.train(
        method,
        key[None],
        part("train"),
        steps=6,  # three full batches per epoch; four photographs are left out
        batch_size=12,
        record=(3, 6),
        evaluate=evaluate,
        held_out=[part("validation"), part("test")],
    )
    for name, expected in zip(("validation", "test"), run.records, strict=True):
        np.testing.assert_allclose(course.found[name], expected[0], atol=1e-6)
    assert course.finite
    assert 0 < course.found["validation"].mean() < 1
    with pytest.raises(ValueError, match=r"^batch_size: expected 1 to 40, got 41"):
        train(batch_size=41)


def test_a_damaged_photograph_stops_the_run_and_is_named(portraits, tmp_path):
    next((tmp_path / "celeba" / "img_align_celeba").glob("000117*")).write_bytes(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"000117.jpg: cannot be read"):
        list(_photographs.read(portraits, np.arange(120).reshape(3, 40), size=8))


@pytest.mark.slow
def test_the_paper_preset_on_a_small_folder(portraits, tmp_path):
    """All methods start from the same pretrained weights, one network per cell; a second run computes nothing."""
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
    assert len(before.splitlines()) == 2 * len(groups.LABELS)
    offsets = [row["groups"]["offset"] for row in map(json.loads, before.splitlines())]
    assert np.shape(offsets) == (2 * len(groups.LABELS), 3)
    assert np.any(offsets)
    (out / "summary.json").unlink()
    assert main(command) == 0
    assert (out / "rows.jsonl").read_bytes() == before
    assert read(out)["rows"] == summary["rows"]


def test_pretrained_weights_reach_every_learner_that_starts_like_the_main_one():
    network = networks.FullyConnected((2,))
    method = methods.get("lff")(network, optax.sgd(0.1))
    state = method.init(jax.random.key(0), methods.Batch(jnp.ones((2, 3)), jnp.array([-1.0, 1.0])))
    small = methods.init_learner(networks.FullyConnected(()), optax.sgd(0.1), jax.random.key(1), jnp.ones((2, 3)))
    state = state.with_learners(teacher=state.main._replace(optimizer=None), readout=small)
    after = _photographs.pretrained(state, lambda variables: jax.tree.map(lambda leaf: leaf + 1, variables))
    for name, added in {"main": 1, "biased": 1, "teacher": 0, "readout": 0}.items():
        old, new = (jax.tree.leaves(version.learners[name].params) for version in (state, after))
        for leaf, changed in zip(old, new, strict=True):
            np.testing.assert_array_equal(changed, leaf + added)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--epochs", "0"], "epochs: expected"),
        (["--seeds", "0"], "seeds: expected"),
        (["--data", "celeba"], "fetch CelebA"),
        (["--data", "waterbirds"], "fetch Waterbirds"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, nowhere, one_line):
    assert main(["groups", "--preset", "smoke", "--out", str(tmp_path / "out"), *flags]) == 2
    assert complaint in one_line()


def test_the_text_says_what_the_records_say():
    """Accuracies in percent and differences in points, for the presets laptop and shirts."""
    folder = Path(__file__).parents[2] / "experiments" / "records" / "groups"
    summaries = [read(folder / preset) for preset in ("laptop", "shirts")]
    page = Path(groups.__file__).parents[1] / "docs" / "results" / "groups.md"
    text = " ".join(page.read_text().split())

    def found(name, kind, digits):
        for summary in summaries:
            [entry] = [entry for entry in summary[kind] if entry["name"] == name]
            ends = ", ".join(f"{100 * end:.{digits}f}" for end in entry["interval"])
            yield f"{100 * entry['measured' if kind == 'rows' else 'value']:.{digits}f}", f"[{ends}]"

    def worst_group(label):
        return [(f"{mean}%", ends) for mean, ends in found(f"{label}: worst-group accuracy", "rows", 0)]

    def points(name):
        return [f"{mean} {ends}" for mean, ends in found(name, "signatures", 1)]

    (erm, _), (sd, _), (lff, _), (dro, _) = methods = [worst_group(groups.LABELS[arm]) for arm in groups.PUBLISHED]
    names = ("ERM", "spectral decoupling (SD)", "Learning from Failure", "Group DRO")
    *first, last = (f"{' '.join(texts)} for {name}" for name, texts in zip(names, (erm, sd, lff, dro), strict=True))
    shirts = [texts[1][0] for texts in methods]
    shirts = f"with shirts it is {', '.join(shirts[:3])} and {shirts[3]}."
    assert f"Worst-group accuracy is {', '.join(first)} and {last}; {shirts}" in text
    moved, decoupled = worst_group("ERM + offset"), worst_group("SD + offset")
    assert f"With this offset ERM has {' '.join(moved[0])}, with shirts {' '.join(moved[1])}" in text
    assert f"and SD has {' '.join(decoupled[0])} and {' '.join(decoupled[1])}." in text
    for phrase, label in {
        "needs no group labels, gives ERM {} and {}. SD is": "ERM + offset by class balance",
        "balanced classes gives ERM {} and {}.": "Balanced ERM",
        "SD has {} and {}, and ERM": "SD, no group labels",
        "offset has {} and {}: no difference": "ERM + offset, no group labels",
        "Adam gives ERM {} and {}, a change": "ERM by Adam",
    }.items():
        assert phrase.format(*(mean for mean, _ in worst_group(label))) in text
    unitless = text.replace(" points", "")
    for phrase, name in {
        "SD minus ERM, is then {}, with shirts {};": "worst group, (SD + offset) minus (ERM + offset)",
        "without an offset it is {} and {}.": "SD beats ERM on the worst group",
        "SD is {} and {} above that": "worst group, SD minus (ERM + offset by class balance)",
        "Group DRO with one is {} and {} above": "worst group, (Group DRO + offset) minus (ERM + offset)",
    }.items():
        assert phrase.format(*points(name)) in unitless
    _, last = points("worst group, (SD, no group labels) minus (ERM + offset, no group labels)")
    assert f"one of {last} for shirts" in unitless
