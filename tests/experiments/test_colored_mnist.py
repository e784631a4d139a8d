"""Coloured digits: the run from the command line, arms, schedule, selection and calibration."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _calibration, _rows, colored_mnist
from experiments.__main__ import main
from gsjax import data
from tests.plotting.shown import points

SMOKE = colored_mnist.PRESETS["smoke"]


def test_smoke_run(tmp_path, figures):
    assert main(["colored_mnist", "--preset", "smoke", "--arms", "erm", "sd", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["data"]["stand-in"]
    rows = {row["name"]: row for row in summary["rows"]}
    published = rows["erm: test accuracy at the published step"]
    assert published["published"] == 0.237
    assert "400 of 50,000 training images" in published["differs"]
    assert rows["sd, gray blank: entropy"]["published"] == 0.66
    assert 0 <= rows["sd, gray blank: entropy"]["measured"] <= np.log(2) + 1e-6
    names = [entry["name"] for entry in summary["signatures"]]
    assert "test accuracy, SD minus ERM with the threshold that is best on test images" in names
    assert "entropy on coloured blank images, SD minus ERM at a temperature" in names
    assert all(entry["why"] for entry in summary["signatures"])

    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    rows = [row for row in found if row["arm"] == "sd"]
    accuracies, entropies = figures["environments.png"].axes
    for ax, kind in ((accuracies, "accuracies"), (entropies, "entropies")):
        [means] = [line for line in ax.lines if line.get_label() == "SD"]
        np.testing.assert_allclose(points(means)[:, 1], np.mean([row[kind] for row in rows], axis=0))
    for ax, split in zip(figures["schedule.png"].axes, ("train", "test"), strict=True):
        [line] = [line for line in ax.lines if line.get_linestyle() == "--"]
        np.testing.assert_allclose(points(line)[:, 1], np.mean([row[split] for row in rows], axis=0))


@pytest.mark.slow
def test_all_arms_twice_give_the_same_bytes(tmp_path):
    for name in ("first", "second"):
        assert main(["colored_mnist", "--preset", "smoke", "--out", str(tmp_path / name)]) == 0
    for name in ("rows.jsonl", "summary.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_every_arm_has_its_published_or_stated_recipe():
    """The numbers of steps without scaling, and the widths, as in the reference."""
    arms = {arm.name: arm for arm in colored_mnist.arms(colored_mnist.PRESETS["paper"])}
    assert {name: arm.steps for name, arm in arms.items()} == {
        "erm": 1001,
        "rex": 501,
        "irm": 501,
        "sd": 2001,
        "group dro": 1001,
        "lff": 1001,
        "oracle": 101,
        "rex, earlier": 501,
        "irm, earlier": 501,
        "sd, penalty alone": 2001,
        "sd, slow phase alone": 2001,
    }
    assert arms["irm"].network.widths == (390, 390)
    assert arms["erm"].network.widths == (300, 300)
    assert arms["oracle"].network.widths == (83, 83)


@pytest.mark.slow
def test_the_two_halves_of_the_schedule():
    """The objectives of the three SD arms before and after the switch, from their formulas."""
    config = colored_mnist.PRESETS["smoke"]
    arms = {arm.name: arm for arm in colored_mnist.arms(config)}
    batch = colored_mnist.sample(jax.random.key(0), data.digit_images(), SMOKE).train
    state = arms["sd"].method.init(jax.random.key(1), batch)
    c, switch = 2e-5, round(450 * config.stretch)
    updates = {name: jax.jit(arm.method.update) for name, arm in arms.items() if name.startswith("sd")}
    for step, (scale, factor) in {switch - 1: (1.0, c), switch: (c, 1.0)}.items():
        current = state._replace(step=jnp.asarray(step, jnp.int32))
        infos = {name: update(current, batch)[1] for name, update in updates.items()}
        logits = np.asarray(arms["sd"].network.apply({"params": state.params}, batch.x))
        loss, square = np.mean(np.log1p(np.exp(-np.asarray(batch.y) * logits))), np.mean(logits**2)
        expected = {
            "sd": scale * (loss + factor * square),
            "sd, penalty alone": loss + factor * square,
            "sd, slow phase alone": scale * loss,
        }
        for name, value in expected.items():
            assert float(infos[name].objective) == pytest.approx(value, rel=1e-5), (name, step)


def test_a_restart_has_its_own_images_in_three_disjoint_parts():
    images = data.digit_images()
    first, second = (colored_mnist.sample(jax.random.key(seed), images, SMOKE) for seed in (0, 1))
    assert [len(part.y) for part in first] == [400, 200, 200]
    assert not np.array_equal(first.train.x, second.train.x)
    seen = {np.asarray(x.sum(axis=-1)).tobytes() for x in first.train.x}
    both = [np.asarray(x.sum(axis=-1)).tobytes() in seen for part in first[1:] for x in part.x]
    assert np.mean(both) < 0.02  # a few digits are in the file twice
    for part, share in zip(first, (0.85, 0.85, 0.1), strict=True):
        agrees = np.mean((np.asarray(part.group) % 2 == 1) == (np.asarray(part.y) > 0))
        assert abs(agrees - share) < 0.07
    assert set(np.unique(np.asarray(first.train.environment))) == {0, 1}
    assert set(np.unique(np.asarray(first.test.environment))) == {0}


def test_selection_by_validation_and_by_test():
    rows = [
        {"validation": [0.1, 0.9, 0.5], "test": [0.7, 0.2, 0.3]},
        {"validation": [0.3, 0.2, 0.1], "test": [0.4, 0.5, 0.6]},
    ]
    assert colored_mnist.selected(rows, "published").tolist() == [0.3, 0.6]
    assert colored_mnist.selected(rows, "validation").tolist() == [0.2, 0.4]
    assert colored_mnist.selected(rows, "test").tolist() == [0.7, 0.6]
    other = [{"validation": [0.95], "test": [0.1]}, {"validation": [0.1], "test": [0.8]}]
    chosen, values = colored_mnist.selected_arm({"erm": rows, "sd": other, "oracle": other}, "validation")
    assert (chosen, values.tolist()) == ("erm 1, sd 1", [0.1, 0.4])


@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold_is_as_good_as_any(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=rng.integers(1, 40)).round(1)
    y = np.where(rng.random(len(logits)) < 0.4, 1.0, -1.0)
    ours = float(_calibration.best_threshold(jnp.asarray(logits), jnp.asarray(y)))
    others = np.concatenate([logits - 1e-3, logits + 1e-3])
    best = max(np.mean(y * (logits - other) > 0) for other in others)
    assert np.mean(y * (logits - ours) > 0) == pytest.approx(best)


def test_a_temperature_undoes_a_scale():
    """A network with seven times the logits of another has the same entropies, once its temperature is matched."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 200))  # validation and the four environments

    def row(scale):
        cooled = [
            [np.mean(_calibration.entropy(scale * part / t)) for part in logits] for t in _calibration.TEMPERATURES
        ]
        return {"cooled": cooled}

    one, seven = row(1.0), row(7.0)
    calmed = _calibration.calmed([seven, seven], [one, one])
    np.testing.assert_allclose(calmed, [one["cooled"][0][1:]] * 2, atol=2e-3)
    assert np.abs(np.subtract(seven["cooled"][0][1:], one["cooled"][0][1:])).min() > 0.1


def test_signatures_fail_where_they_should():
    """SD is no better than ERM, and ERM does not follow the colour: no signature holds, and each says why."""
    cooled = [[0.5 + 0.001 * number] * 5 for number in range(len(_calibration.TEMPERATURES))]

    def row(train, test):
        curve = {"train": [0.5, train], "test": [0.5, test], "validation": [0.5, train], "steps": [0, 1001]}
        return {**curve, "shifted": [test, test], "entropies": [0.5] * 4, "cooled": cooled}

    rng = np.random.default_rng(0)
    rows = {
        name: [row(0.7 + 0.01 * rng.random(), 0.7 + 0.01 * rng.random()) for _ in range(5)] for name in ("erm", "sd")
    }
    found = _rows.judged(colored_mnist.judge(rows))
    assert len(found) == 9
    assert not any(entry["holds"] for entry in found)
    assert all("Criterion: " in entry["why"] for entry in found)


def test_entropy_is_that_of_the_predicted_distribution():
    logits = np.array([-3.0, 0.0, 0.5, 90.0])
    p = 1 / (1 + np.exp(-logits))
    expected = -p * np.log(p) - np.log1p(-p, where=p < 1, out=np.zeros(4)) * (1 - p)
    np.testing.assert_allclose(_calibration.entropy(jnp.asarray(logits)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--arms", "magic"], "arms: expected some of erm, rex"),
        (["--train", "2000"], "train: expected at most 1797 images in all"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, one_line):
    assert main(["colored_mnist", "--preset", "smoke", "--out", str(tmp_path), *flags]) == 2
    assert complaint in one_line()
