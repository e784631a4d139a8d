"""Debiased distillation: images, controls, candidates and their selection, signatures, and the run."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from experiments import (
    _debiased_measures,
    _debiased_methods,
    _debiased_photographs,
    _debiased_report,
    _debiased_rows,
    _debiased_tasks,
)
from experiments import debiased_distillation as experiment
from experiments.__main__ import main
from experiments._rows import judged
from experiments._study import keys
from gsjax import methods, networks
from gsjax.methods import dedier, distillation

SMOKE = experiment.PRESETS["smoke"]


def test_coloured_groups_have_the_sizes_of_waterbirds_and_the_teacher_s_colour_says_nothing():
    task = _debiased_tasks.draw("groups", "digits", keys(3, range(2)), n=300, test=40, stride=1, correlation=0.95)
    share = np.array([3498, 184, 56, 1057]) / 4795
    assert np.abs(np.bincount(np.asarray(task.train.group)[0]) - 300 * share).max() <= 1
    assert np.abs(task.shares - share).max() < 0.01
    classes, colours = np.asarray(task.balanced.group) // 2, np.asarray(task.balanced.group) % 2
    for label in (0, 1):
        assert abs(colours[classes == label].mean() - 0.5) < 0.02
    assert (np.asarray(task.balanced.y > 0).sum(axis=1) == task.sizes[1]).all()
    for part in (task.validation, task.test):
        assert Counter(np.asarray(part.group)[0].tolist()) == dict.fromkeys(range(4), 10)
        np.testing.assert_array_equal(np.asarray(part.group) >= 2, np.asarray(part.y) > 0)
    trained = {image.tobytes() for image in np.asarray(task.train.x[0]).max(axis=3)}
    held_out = [
        {image.tobytes() for image in np.asarray(part.x[0]).max(axis=3)} for part in (task.validation, task.test)
    ]
    assert not trained & held_out[0]
    assert not trained & held_out[1]
    assert not held_out[0] & held_out[1]


def test_dominoes_are_biased_for_the_student_only():
    task = _debiased_tasks.draw("dominoes", "digits", keys(3, range(1)), n=200, test=80, stride=2, correlation=0.9)

    def agreeing(batch):
        return np.isin(batch.group, (0, 3)).mean()

    assert 0.82 < agreeing(task.train) < 0.97
    for part in (task.balanced, task.validation, task.test):
        assert 0.3 < agreeing(part) < 0.7
    np.testing.assert_allclose(task.shares, [0.45, 0.05, 0.05, 0.45])
    assert not np.array_equal(task.train.x, task.balanced.x)


NETWORK = networks.FullyConnected((6,))
WHERE: dict[str, Any] = {"position": "h1", "depth": 0, "width": 4, "pooled": True}
PACE = {"refresh_every": 3, "readout_steps": 2}


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    y = np.where(rng.random(40) < 0.3, 1.0, -1.0)
    x = np.stack([y + rng.normal(size=40), rng.normal(size=40)], axis=1)
    return methods.Batch(*map(jnp.asarray, (x, y)), teacher_logits=jnp.asarray(2 * y + rng.normal(size=40)))


def after(method, batch, updates):
    state, update = method.init(jax.random.key(1), batch), jax.jit(method.update)
    for _ in range(updates):
        state, _ = update(state, batch)
    return state


def controlled(**changed):
    options: dict[str, Any] = {
        "within": False,
        "beta": 3.0,
        "alpha": 1.0,
        "mix": 0.7,
        "temperature": 2.0,
        "weight_decay": 1e-3,
    } | changed
    return _debiased_methods.permuted(NETWORK, optax.sgd(0.1, momentum=0.9), where=WHERE, **PACE, **options)


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(np.asarray, each.params) for each in (ours, theirs)))


def test_without_a_permutation_the_control_is_dedier_and_with_one_it_has_the_same_weights_elsewhere(batch):
    options: dict[str, Any] = {"beta": 3.0, "alpha": 1.0, "mix": 0.7, "temperature": 2.0, "weight_decay": 1e-3}
    plain = after(dedier.dedier(NETWORK, optax.sgd(0.1, momentum=0.9), **WHERE, **PACE, **options), batch, 6)
    assert float(plain.memory.mean_weight) > 1
    for change, moves in (({"shuffle": False}, False), ({}, True), ({"within": True}, True)):
        ours = after(controlled(**change), batch, 6)
        assert int(ours.memory.errors) == int(plain.memory.errors) > 0
        assert float(ours.memory.mean_weight) == pytest.approx(float(plain.memory.mean_weight), rel=1e-5)
        gaps = jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), ours.params, plain.params))
        assert (max(gaps) > 1e-4) == moves
        assert max(gaps) > 1e-4 or max(gaps) < 1e-6


def test_within_classes_only_examples_of_a_class_exchange_weights():
    y = jnp.array([1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    orders = np.array([_debiased_methods.order(key, y) for key in jax.random.split(jax.random.key(0), 200)])
    assert (np.sort(orders, axis=1) == np.arange(7)).all()
    np.testing.assert_array_equal(np.asarray(y)[orders], np.tile(y, (200, 1)))
    for place, members in ((0, {0, 3, 4}), (1, {1, 2, 5, 6})):
        assert set(orders[:, place].tolist()) == members


def test_a_paced_method_pauses_and_otherwise_is_itself(batch):
    plain = distillation.distillation(NETWORK, optax.sgd(optax.cosine_decay_schedule(0.1, 6), momentum=0.9))
    paced = _debiased_methods.paced(plain, **PACE)
    for updates, active in ((3, 3), (5, 3), (6, 4), (8, 6), (10, 6)):
        ours = after(paced, batch, updates)
        assert int(ours.step) == updates
        assert_same(ours, after(plain, batch, active))


def test_all_methods_have_the_same_number_of_student_updates():
    how = experiment.recipe("groups", SMOKE, 0)
    network, positions = networks.FullyConnected((4, 4)), ("h1", "h2")
    tried = {"dedier": None, **{arm: None for arm in experiment.Arm.__args__ if arm not in ("teacher", "sweep")}}
    for arm, _, options in experiment.planned(positions, "groups", dataclasses.replace(SMOKE, arms=tuple(tried))):
        planned = experiment.build(arm, options, network, how)
        extra = planned.updates - how.steps
        if arm in experiment.TAUGHT:  # two refreshes lie before the end of three epochs
            assert extra == 2 * how.reading
            assert planned.first in (None, how.refresh + how.reading)
        else:
            assert extra == (options["identify"] * how.epoch if arm == "jtt" else 0)


def test_every_method_has_the_same_number_of_candidates_and_dedier_has_plain_distillation():
    config = dataclasses.replace(SMOKE, candidates=4, arms=experiment.Arm.__args__)
    plan = experiment.planned(("h1", "h2"), "groups", config)
    counts = Counter(arm for arm, _, _ in plan)
    searched = ("erm", "balanced", "distillation", "dedier", "sd", "group_dro", "lff", "jtt")
    assert {counts[arm] for arm in searched} == {4}
    own = [options for arm, _, options in plan if arm == "dedier"]
    assert own[0]["beta"] == 0
    assert all(options not in own for arm, _, options in plan if arm == "sweep")
    labels = Counter((arm, teacher, experiment.labelled(options)) for arm, teacher, options in plan)
    assert max(labels.values()) == 1
    assert "balanced" not in {arm for arm, _, _ in experiment.planned(("pool1",), "dominoes", config)}


def test_signals_are_sums_over_the_examples_of_each_group():
    rng = np.random.default_rng(1)
    logits, y, group = rng.normal(size=60) * 3, rng.choice([-1.0, 1.0], 60), rng.integers(0, 3, 60)
    batch = methods.Batch(jnp.zeros((60, 1)), jnp.asarray(y), jnp.asarray(group))
    found = _debiased_measures.signals(jnp.asarray(logits), batch, 2.0, 0.5)
    p = 1 / (1 + np.exp(-logits))
    margin, wrong = np.abs(2 * p - 1), np.sign(logits) != y
    each = {"count": np.ones(60), "errors": wrong, "margin": margin, "wrong": wrong * margin}
    each["weight"] = np.where(wrong, np.exp(2 * margin**0.5), 1)
    for name, values in each.items():
        expected = [values[group == number].sum() for number in range(4)]
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, err_msg=name)


def row(seed, accuracies, *, validation=None, digest="a", offset=0.0, signals=None, **key):
    """A row of made-up numbers."""
    noise = 0.01 * np.sin(5.0 * seed)
    test = [value + noise for value in accuracies]
    none = {"offset": 0.0, "validation": validation or test, "test": test}
    moved = {name: [value + offset for value in none[name]] for name in ("validation", "test")}
    sums = signals or {}
    shares = [0.475, 0.025, 0.025, 0.475]
    return {"seed": seed, "finite": True, "digest": digest, "shares": shares, **key, **sums} | {
        "none": none,
        "groups": {"offset": 1.0, **moved},
    }


def test_selection_takes_the_best_validation_accuracy_of_each_seed_and_the_first_of_ties():
    tried = {
        "a": [row(0, [0.5] * 4, validation=[0.9, 0.6, 0.9, 0.9]), row(1, [0.5] * 4, validation=[0.9, 0.7, 0.9, 0.9])],
        "b": [row(0, [0.7] * 4, validation=[0.7, 0.7, 0.7, 0.7]), row(1, [0.7] * 4, validation=[0.7, 0.9, 0.9, 0.9])],
    }
    assert _debiased_rows.choices(tried) == ["b", "a"]
    found = _debiased_rows.selected(tried)
    assert [each["seed"] for each in found] == [0, 1]
    assert _debiased_rows.worst(found) == pytest.approx([0.7, 0.5 + 0.01 * np.sin(5.0)])
    weighed = [row(0, [1.0, 0.0, 0.5, 0.8])]
    assert _debiased_rows.average(weighed) == pytest.approx([0.475 + 0.025 * 0.5 + 0.475 * 0.8])


def sums(aligned, conflicting, seed):
    """Signals with these (error rate, margin of errors, mean weight) in groups of 100."""
    noise = 0.01 * np.cos(3.0 * seed)
    sides = [aligned, conflicting, conflicting, aligned]
    each = {
        "count": [100.0] * 4,
        "errors": [100 * (rate + noise) for rate, _, _ in sides],
        "margin": [50.0] * 4,
        "wrong": [100 * (rate + noise) * (margin - noise) for rate, margin, _ in sides],
        "weight": [100 * (weight - noise) for _, _, weight in sides],
    }
    return {"first": each, "last": each}


def story(holds):
    """Rows of all arms of `groups` that show every signature, or none."""
    config = dataclasses.replace(SMOKE, arms=experiment.Arm.__args__, depths=(2,), seeds=5)
    plan = experiment.planned(("h1", "h2"), "groups", config)
    worst = {"erm": 0.1, "distillation": 0.4, "dedier": 0.5, "sweep": 0.5, "permuted": 0.4, "permuted in classes": 0.42}
    rows = []
    for arm, teacher, options in plan:
        for seed in range(5):
            depth, free = "depth" in options, options.get("beta") == 0
            value = worst.get(arm, 0.3) - 0.1 * free if holds else 0.4 + 0.02 * (hash_of(arm, seed) - 0.5)
            gap = ((0.1, 0.4, 1.1), (0.6 - 0.2 * depth, 0.8, 3.0)) if holds else ((0.3, 0.5, 1.5),) * 2
            signals = (
                sums(gap[0], gap[1], seed if holds else hash_of(str(options), seed)) if "position" in options else None
            )
            same = "plain" if arm == "distillation" or free else arm
            key = {"setting": "groups", "arm": arm, "teacher": teacher, "candidate": experiment.labelled(options)}
            digest = f"{same if holds else key} {seed}"
            rows.append(row(seed, [0.95, value, 0.9, 0.95], digest=digest, offset=0.01, signals=signals, **key))
    return _debiased_rows.gathered(
        "groups", (1, 2), rows, plan, experiment.labelled, experiment.chosen(("h1", "h2"), config)
    )


def hash_of(text, seed):
    """A number in [0, 1) that looks random."""
    return np.random.default_rng([seed, *text.encode()]).random()


@pytest.mark.parametrize("holds", [True, False])
def test_signatures(holds):
    part = story(holds)
    found = judged(_debiased_report.signatures(part))
    assert len(found) == 11
    verdicts = {entry["name"]: entry["holds"] for entry in found}
    assert set(verdicts.values()) == {holds}, verdicts


def test_the_report_names_all_methods_teachers_and_readouts(figures, tmp_path):
    made = _debiased_report.report([story(True)])
    lines = {line["name"]: line for line in made.rows}
    assert lines["groups: DeDiER: worst-group accuracy"]["differs"].startswith("selected: position h1, beta 2, alpha 1")
    assert lines["groups: readout of h1, 2 blocks, first refresh: error rate, conflicting"][
        "measured"
    ] == pytest.approx(0.4, abs=0.01)
    assert lines["groups: readout of h2, last refresh: margin of errors, aligned"]["measured"] == pytest.approx(
        0.4, abs=0.01
    )
    assert "groups: DeDiER, teacher by Group DRO: worst-group accuracy" not in lines  # the smoke preset has one teacher
    assert "groups: DeDiER, readout of h1, beta 4, alpha 1: worst-group accuracy" in lines
    for file, draw in made.figures.items():
        draw(tmp_path / file)
    assert set(figures) == {"methods.png", "readouts.png", "weights.png"}
    beta = figures["weights.png"].axes[0]
    assert beta.get_xlabel() == "beta, groups"
    middle = next(line for line in beta.lines if line.get_label() == "worst group")
    assert middle.get_xdata().tolist() == [0, 2, 4]
    np.testing.assert_allclose(middle.get_ydata()[1] - middle.get_ydata()[0], 0.1, atol=1e-6)


def test_a_readout_without_errors_has_no_margin():
    each = sums((0.0, 0.0, 1.0), (0.5, 0.8, 3.0), 0)["first"]
    each["errors"][0] = each["errors"][3] = 0.0
    margin = _debiased_rows.side([{"first": each}], (1, 2), "wrong", "errors")
    assert np.isnan(margin["aligned"]).all()
    assert margin["conflicting"] == pytest.approx([0.79], abs=0.01)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("debiased")
    assert main(["debiased_distillation", "--preset", "smoke", "--out", str(out)]) == 0
    return out


def test_smoke_run(smoke):
    summary = json.loads((smoke / "summary.json").read_text())
    rows = [json.loads(line) for line in (smoke / "rows.jsonl").read_text().splitlines()]
    assert all(each["finite"] for each in rows)
    same = [entry for entry in summary["signatures"] if "beta 0" in entry["name"]]
    assert [entry["holds"] for entry in same] == [True]
    plain, free, weighted = (
        [each["digest"] for each in rows if each["arm"] == arm and each["candidate"] == candidate]
        for arm, candidate in (
            ("distillation", "mix 0.9, temperature 4"),
            ("dedier", "position h1, beta 0, alpha 1"),
            ("dedier", "position h1, beta 2, alpha 1"),
        )
    )
    assert plain == free
    assert not set(plain) & set(weighted)
    read = [each for each in rows if "first" in each]
    starts = {
        each["candidate"]: each["first"]["errors"] for each in read if each["seed"] == 0 and "h1" in each["candidate"]
    }
    assert len(starts) == 3
    assert len({tuple(errors) for errors in starts.values()}) == 1  # all weights are 1 until the first refresh
    for each in read:
        assert sum(each["first"]["count"]) == 200


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """Waterbirds in miniature: 6 photographs per group and split, whose shade shows the class."""
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "waterbird_complete95_forest2water2"
    folder.mkdir()
    rng, lines = np.random.default_rng(0), ["img_filename,y,split,place"]
    for number in range(72):
        y, place, split = number % 2, number // 2 % 2, number // 4 % 3
        shade = np.array([60, 90, 90]) + 120 * np.array([y, 0, place]) + rng.integers(-20, 21, 3)
        Image.new("RGB", (12, 12), tuple(shade.clip(0, 255).tolist())).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{y},{split},{place}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_the_preset_for_photographs_on_a_small_folder(birds, tmp_path):
    out = tmp_path / "out"
    command = ["debiased_distillation", "--preset", "waterbirds", "--out", str(out), "--blocks", "1", "1"]
    command += [
        "--size",
        "32",
        "--epochs",
        "2",
        "--refresh",
        "1",
        "--reading",
        "1",
        "--seeds",
        "2",
        "--batch-size",
        "8",
    ]
    command += ["--candidates", "2", "--arms", "teacher", "distillation", "dedier", "--teachers", "balanced"]
    assert main(command) == 0
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (1 + 2 + 2)
    plain, free = (
        [each for each in rows if each["arm"] == arm and text in each["candidate"]]
        for arm, text in (("distillation", "mix 0.9, temperature 4"), ("dedier", "beta 0"))
    )
    for ours, theirs in zip(plain, free, strict=True):
        assert ours["groups"]["offset"] == pytest.approx(theirs["groups"]["offset"], rel=1e-2, abs=1e-3)
    assert {sum(each["last"]["count"]) for each in rows if each["arm"] == "dedier"} == {24}
    assert "holds" in (out / "summary.json").read_text()


def test_a_teacher_of_photographs_gives_its_outputs_to_every_batch(batch):
    teacher = methods.init_learner(NETWORK, optax.sgd(0.1), jax.random.key(5), batch.x)._replace(optimizer=None)
    plain = distillation.distillation(NETWORK, optax.sgd(0.1), mix=0.7)
    ours = after(_debiased_photographs.taught_by(plain, NETWORK, teacher), batch._replace(teacher_logits=None), 4)
    theirs = after(plain, methods.with_teacher(NETWORK, teacher, batch), 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours.params, theirs.params)
    assert_same(ours.others["teacher"], teacher)


def test_numbers_that_do_not_fit_together():
    for change, complaint in (
        ({"n": 201}, "n: expected an even number"),
        ({"test": 42}, "test: expected a multiple of 4"),
        ({"batch_size": 201}, "batch_size: expected at most 200"),
        ({"refresh": 3}, "refresh: expected fewer than epochs = 3"),
        ({"betas": (2.0,)}, "betas: expected other numbers than beta = 2.0"),
        ({"alphas": (1.0,)}, "alphas: expected other numbers than alpha = 1.0"),
    ):
        with pytest.raises(ValueError, match=f"^{complaint}"):
            experiment.check(dataclasses.replace(SMOKE, **change))
