"""Dominoes: the images of every network, what is measured and concluded, and the run from the command line."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from experiments import _domino_measures, _domino_report, _domino_rows, _domino_tasks, _rows, dominoes
from experiments.__main__ import main
from experiments._domino_tasks import EASY, HARD, Half
from experiments._study import fits, keys
from gsjax.probes import monitoring

SMOKE = dominoes.PRESETS["smoke"]
HALVES = Half("digits", HARD["digits"]), Half("digits", EASY["digits"])


@pytest.fixture(scope="module")
def task():
    return _domino_tasks.draw(keys(3, range(2)), *HALVES, correlations=(0.8, 1.0), n=160, test=60)


def core(task, batch):
    """The core halves of the images of the first network, one row per image."""
    return np.asarray(batch.x[0])[:, ~task.spurious].reshape(len(batch.y[0]), -1)


def test_environments_have_their_correlations_and_images_of_their_own(task):
    for group, environment in zip(np.asarray(task.train.group), np.asarray(task.train.environment), strict=True):
        agrees = np.isin(group, (0, 3))
        assert agrees[environment == 1].all()
        assert 0.6 < agrees[environment == 0].mean() < 0.95
    images = core(task, task.train)
    own = [{image.tobytes() for image in images[np.asarray(task.train.environment[0]) == number]} for number in (0, 1)]
    assert not own[0] & own[1]
    assert len(own[0]) == 80
    assert not np.array_equal(task.train.x[0], task.train.x[1])


def test_no_held_out_image_is_used_in_training(task):
    trained = {image.tobytes() for image in core(task, task.train)}
    held_out = [core(task, part["test"]) for part in (task.validation, task.test)]
    for images in held_out:
        assert not trained & {image.tobytes() for image in images}
    assert not set(map(bytes, held_out[0])) & set(map(bytes, held_out[1]))


def test_variants_and_groups(task):
    assert set(task.test) == set(_domino_tasks.VARIANTS)
    assert task.spurious.mean() == 0.5
    for batch in task.test.values():
        np.testing.assert_array_equal(np.asarray(batch.group) >= 2, np.asarray(batch.y) > 0)
    assert np.isin(task.test["reversed"].group, (1, 2)).all()
    assert 0.75 < np.isin(task.test["test"].group, (0, 3)).mean() <= 1  # the mean of both environments is 0.9
    assert 0.3 < np.isin(task.test["random"].group, (0, 3)).mean() < 0.7
    np.testing.assert_array_equal(core(task, task.test["test"]), core(task, task.test["random"]))
    assert (np.asarray(task.test["core only"].x)[:, :, task.spurious] == -1).all()


def test_alone_blanks_the_spurious_half_and_nothing_else(task):
    alone = _domino_tasks.draw(keys(3, range(2)), *HALVES, correlations=(0.8, 1.0), n=160, test=60, alone=True)
    for ours, theirs in ((alone.train, task.train), (alone.test["reversed"], task.test["reversed"])):
        assert (np.asarray(ours.x)[:, :, task.spurious] == -1).all()
        np.testing.assert_array_equal(core(task, ours), core(task, theirs))
        np.testing.assert_array_equal(ours.y, theirs.y)


def test_the_temperature_makes_confidence_equal_to_accuracy():
    rng = np.random.default_rng(0)
    y = rng.choice([-1.0, 1.0], 400)
    logits = y * np.where(rng.random(400) < 0.9, 1.0, -1.0) * 20
    right = (y * logits > 0).mean()
    found = _domino_measures.temperature(logits, y)
    assert 1 / (1 + np.exp(-20 / found)) == pytest.approx(right, abs=1e-4)


def test_rank_correlations_leave_out_invalid_examples():
    depth, own = np.array([1.0, np.nan, 2.0, 3.0, 5.0]), np.array([9.0, 0.0, 8.0, 7.0, 6.0])
    found = _domino_measures.ranks(depth, own, np.array([1.0, 99.0, 2.0, 3.0, 4.0]), 0)
    assert (found["network"], found["linear"]) == pytest.approx((-1, 1))
    assert abs(found["permuted"]) <= 1
    assert np.isnan(_domino_measures.ranks(np.ones(5), own, own, 0)["network"])


def test_accuracy_shows_the_feature_where_it_leaves_the_prediction_interval():
    clean = np.array([[0.5, 0.80], [0.5, 0.84], [0.5, 0.76], [0.5, 0.80]])
    # A binomial error of 1/200 is larger than the deviation at the first checkpoint, that of clean networks at the
    # second; Student's t with 3 degrees of freedom has its upper 5% at 2.3534.
    reach = 2.3534 * np.sqrt(1.25)
    bounds = 0.5 - reach * 0.005, 0.8 - reach * np.sqrt(0.0032 / 3)
    watched = np.array([[bounds[0] - 1e-4, 0.9], [0.5, bounds[1] - 1e-4], [0.5, bounds[1] + 1e-3], [0.6, 0.6]])
    assert _domino_rows.first_outside(clean, watched, 0.1, 10_000).tolist() == [0, 1, 2, 1]
    assert _domino_rows.first_outside(1 - clean, 1 - watched, 0.1, 10_000, above=True).tolist() == [0, 1, 2, 1]
    assert _domino_rows.first_outside(clean, watched, 0.1, 10_000, above=True).tolist() == [1, 2, 2, 0]


def row(arm, seed, **changed):
    """A row with plausible numbers; `changed` sets some of them, `noise` is added where seeds should differ."""
    noise = 0.01 * np.sin(7.0 * seed + len(arm))
    options = {"core": 0.85, "first": 50, "linear": 0.5, "stages": 0.4, "rank": -0.5, "permuted": 0.0, "share": 0.5}
    options |= {"early": (0.5, 0.5), "random": (0.6, 0.85)} | changed
    first = options["first"] + seed % 3
    counts = [first, 90 - first, 5]
    early = [[round(100 * share) + seed % 4, 100 - round(100 * share) - seed % 4, 0] for share in options["early"]]
    return {
        "arm": arm,
        "seed": seed,
        "finite": True,
        "null_gap": 0.001,
        "accuracy": dict.fromkeys(_domino_rows.ACCURACIES, 0.9)
        | dict.fromkeys(("random", "core only"), options["core"] + noise),
        "groups": [0.9, options["core"] + noise, 0.9, 0.9],
        "offset": 0.1,
        "groups_offset": [0.9, 0.88, 0.9, 0.9],
        "depth": counts,
        "invalid": 5,
        "votes": [0.7, 0.8, 0.9, 0.9],
        "information": {
            "linear": options["linear"] + noise,
            "first": 0.3,
            "stages": options["stages"] + noise,
            "network": 0.8,
            "uncalibrated": 0.7,
        },
        "temperature": 2.0,
        "ranks": {"network": options["rank"] + noise, "linear": -0.2, "permuted": options["permuted"] + noise},
        "saliency": options["share"] + noise,
        "area": 0.5,
        "pictures": {name: np.full((4, 6, 3), 0.5).tolist() for name in ("input", "saliency", "cam")},
        "course": {
            "steps": [5, 20],
            "counts": early,
            "invalid": [0, 0],
            "information": [0.1, 0.5],
            "test": [0.6 + noise, 0.9 + noise],
            "random": [value + noise for value in options["random"]],
        },
    }


STORY = {
    "harmful": {"core": 0.52, "first": 85, "linear": 0.95, "stages": 0.9, "share": 0.8, "random": (0.6, 0.51)}
    | {"early": (0.9, 0.9)},
    "harmful clean": {"first": 30, "linear": 0.3, "stages": 0.2},
    "harmful alone": {"first": 40, "linear": 0.4},
    "benign": {"core": 0.98, "first": 80, "linear": 0.9, "share": 0.2},
    "benign clean": {"core": 0.97, "first": 70, "linear": 0.8},
    "benign alone": {"core": 0.98, "first": 75, "linear": 0.85},
    "erm": {"core": 0.6},
    "sd": {"core": 0.7},
}
CLEAN = 10


def rows(**changed):
    """Rows as a run writes them; `changed` replaces numbers of an arm, whose name has _ in place of a space."""
    made = []
    for arm, numbers in STORY.items():
        options = numbers | changed.get(arm.replace(" ", "_"), {})
        made += [row(arm, seed, **options) for seed in range(CLEAN if "clean" in arm else 5)]
    return made


def reported(made, **options):
    return _domino_report.report(made, **{"epoch": 10, "rate": 0.05, "judged": 5, "images": 500} | options)


def holding(report):
    return {entry["name"]: entry["holds"] for entry in _rows.judged(report.signatures)}


def test_all_signatures_hold_for_a_faithful_story():
    found = holding(reported(rows()))
    assert len(found) == 14
    assert all(found.values())


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        (
            {"harmful": {"core": 0.8}},
            [
                "harmful: core-only accuracy, spurious half " + how + ", is near chance"
                for how in ("randomised", "blanked")
            ],
        ),
        (
            {"benign": {"core": 0.7}},
            ["benign: core-only accuracy, spurious half " + how + ", is high" for how in ("randomised", "blanked")],
        ),
        ({"harmful": {"linear": 0.2}}, ["information, linear, harmful minus clean"]),
        ({"harmful": {"stages": 0.1}}, ["information, mean over stages, harmful minus clean"]),
        ({"harmful_clean": {"rank": 0.2}}, ["harmful, clean: depth and information of an image, rank correlation"]),
        ({"harmful_clean": {"permuted": -0.3}}, ["harmful, clean: the same with permuted information, a control"]),
        ({"harmful": {"share": 0.4}}, ["harmful: saliency on the spurious half minus its area"]),
        ({"benign": {"share": 0.6}}, ["benign: saliency on the spurious half minus its area"]),
        (
            {"harmful": {"early": (0.5, 0.9), "random": (0.2, 0.2)}},
            ["harmful: epochs from the warning to accuracy with a random spurious half"],
        ),
        (
            {"harmful": {"first": 10}},
            ["mean depth, harmful minus clean", "share of depth 1, harmful minus clean"],
        ),
    ],
)
def test_a_signature_fails_with_its_evidence(changed, failing):
    found = holding(reported(rows(**changed)))
    missed = {name for name, holds in found.items() if not holds}
    assert set(failing) <= missed
    assert missed <= {*failing, "depth and linear information over the six data sets"}


def test_when_the_monitor_and_accuracies_tell():
    made = {arm: [one for one in rows() if one["arm"] == arm] for arm in STORY}
    found = _domino_rows.warnings(made["harmful"], made["harmful clean"], epoch=10, rate=0.05, images=500)
    assert found.monitor.tolist() == [0.5] * 5  # step 5 of 10 per epoch
    assert found.random.tolist() == [2.0] * 5
    assert np.isinf(found.test).all()
    lines = {line["name"]: line["measured"] for line in _domino_rows.told("harmful", found)}
    assert lines["harmful: share of networks that the monitor tells"] == 1
    assert lines["harmful: epoch at which the accuracy with a random spurious half tells first"] == 2
    assert lines["harmful: epochs from the warning until the accuracy with a random spurious half tells"] == 1.5
    assert lines["harmful: share of networks that the iid accuracy, by being lower, tells"] == 0
    assert "harmful: epoch at which the iid accuracy, by being lower, tells first" not in lines
    assert np.isinf(found.higher).all()
    for one in made["harmful"]:
        one["course"]["test"] = [0.95, 0.9]
    found = _domino_rows.warnings(made["harmful"], made["harmful clean"], epoch=10, rate=0.05, images=500)
    assert found.higher.tolist() == [0.5] * 5


def test_the_course_of_a_row_is_that_of_its_counts():
    made = [row("harmful", seed) for seed in range(3)]
    made[1]["course"] |= {"counts": [[10, 20, 30], [0, 0, 0]], "invalid": [41, 101]}
    made = [one | {"course": one["course"] | {"counts": [[10, 20, 30], [1, 2, 3]], "invalid": [4, 58]}} for one in made]
    found = _domino_rows.course(made)
    assert found.depth.shape == (3, 2, 64)
    np.testing.assert_allclose(monitoring.early_mass(found), [[10 / 60, 1 / 6]] * 3)
    histogram = monitoring.histogram(found)
    assert histogram.counts[0].tolist() == [[10, 20, 30], [1, 2, 3]]
    assert histogram.invalid[0].tolist() == [4, 58]


def test_rows_of_the_summary():
    report = reported(rows())
    lines = {line["name"]: line for line in report.rows}
    sd, erm = (np.array([one["groups"][1] for one in rows() if one["arm"] == arm]) for arm in ("sd", "erm"))
    assert lines["SD minus ERM: worst-group accuracy"]["measured"] == pytest.approx((sd - erm).mean())
    assert lines["SD minus (ERM + offset): worst-group accuracy"]["measured"] == pytest.approx((sd - 0.88).mean())
    first = np.array([85 + seed % 3 for seed in range(5)])
    expected = (first + 2 * (90 - first) + 15) / 95
    assert lines["harmful: mean depth"]["measured"] == pytest.approx(expected.mean())
    assert lines["harmful: share of invalid examples"]["measured"] == pytest.approx(5 / 100)
    assert lines["benign: saliency on the spurious half"]["differs"] == "its share of the area is 0.5"
    assert "ERM: information, linear, bits" in lines
    assert "SD: information, linear, bits" not in lines  # the same images
    false = lines["harmful, clean: share of networks with a false alarm"]
    assert (false["seeds"], false["interval"][0]) == (CLEAN, 0)
    assert "0.05" in false["differs"]


def test_networks_without_a_value_are_named():
    made = rows()
    for one in made:
        if one["arm"] == "benign":
            one["ranks"]["network"] = None
        if one["arm"] == "harmful" and one["seed"] > 0:
            one["ranks"]["network"], one["depth"], one["invalid"], one["finite"] = None, [0, 0, 0], 100, False
    lines = {line["name"]: line for line in reported(made).rows}
    line = lines["harmful: rank correlation of depth and information, network"]
    assert line["seeds"] == 1
    assert line["differs"] == "the objective was not always finite; 1 of 5 networks have a value"
    assert lines["harmful: mean depth"]["seeds"] == 1
    assert lines["harmful: iid accuracy"]["differs"] == "the objective was not always finite"
    never = np.full(5, np.inf)
    told = _domino_rows.told("harmful", _domino_rows.Warned(never, never, never, never, np.ones(2)))
    assert {(line["measured"], line["interval"], line["seeds"]) for line in told} == {(0, None, 5)}
    found = {entry["name"]: entry for entry in reported(made).signatures}
    assert found["mean depth, harmful minus clean"]["value"] is None
    assert "fewer than two" in found["mean depth, harmful minus clean"]["reason"]


def test_figures_show_the_rows(figures, tmp_path):
    made = rows()
    for name, draw in reported(made).figures.items():
        draw(tmp_path / name)
    assert set(figures) == {"depths.png", "courses.png", "saliency.png", "remedies.png"}
    top, _, bottom, _ = figures["courses.png"].axes
    mass = np.mean([np.array(one["course"]["counts"])[:, 0] / 100 for one in made if one["arm"] == "harmful"], axis=0)
    np.testing.assert_allclose(top.lines[0].get_ydata(), mass)
    assert [text.get_text() for text in top.get_xticklabels()] == ["0.5", "2"]
    [warned] = [line for line in top.lines if line.get_label() == "warning"]
    assert warned.get_xdata().tolist() == [0] * 5
    [shown] = [line for line in bottom.lines if line.get_label() == "shown by accuracy"]
    assert shown.get_xdata().tolist() == [1] * 5
    assert len(figures["saliency.png"].axes) == 4


def test_checkpoints_begin_before_training_and_end_with_it():
    for config in dominoes.PRESETS.values():
        steps = dominoes.checkpoints(config)
        assert steps[-1] == config.epochs * (config.n // config.batch_size)
        assert steps[:2] == [0, 1]
        assert len(steps) == config.checkpoints


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n": 201}, "n: expected an even number"),
        ({"batch_size": 201}, "batch_size: expected at most n = 200"),
        ({"bank": 201}, "bank: expected at most n = 200"),
        ({"queries": 81}, "queries: expected at most test = 80"),
        ({"k": 61}, "k: expected at most bank = 60"),
        ({"seeds": 5}, "clean: expected at least seeds = 5"),
        ({"checkpoints": 9}, "checkpoints: expected a smaller number"),
        ({"rate": 0.05}, "clean: expected more networks"),
    ],
)
def test_numbers_that_do_not_fit_together(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        dominoes.check(dataclasses.replace(SMOKE, **change))


def test_smoke_run_interrupted_and_finished(tmp_path, interrupt_after, figures):
    """The run is stopped after one arm and finished; rows, signatures and figures."""
    cells = interrupt_after(1)
    arms = ["harmful", "harmful clean"]
    command = ["dominoes", "--preset", "smoke", "--out", str(tmp_path), "--arms", *arms]
    assert main(command) == 130
    assert main(command) == 0
    assert [cell["arm"] for cell in cells] == arms
    made = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(one["arm"], one["seed"]) for one in made] == [
        *(("harmful", seed) for seed in range(SMOKE.seeds)),
        *(("harmful clean", seed) for seed in range(SMOKE.clean)),
    ]
    for one in made:
        assert all(fits(one[name], kind) for name, kind in _domino_measures.COLUMNS.items())
        assert sum(one["depth"]) + one["invalid"] == SMOKE.queries
        # The monitor's last checkpoint is the trained network, which is measured by other programs.
        assert one["course"]["counts"][-1] == one["depth"]
        assert one["course"]["random"][-1] == pytest.approx(one["accuracy"]["random"])
        assert one["course"]["information"][-1] == pytest.approx(one["information"]["uncalibrated"], abs=0.02)
        assert one["information"]["network"] <= 1
        wrong = 1 - np.array(one["votes"][1:-1])
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = np.nan_to_num(-wrong * np.log2(wrong)) + np.nan_to_num(-(1 - wrong) * np.log2(1 - wrong))
        own = np.maximum.accumulate(np.where(wrong < 0.5, 1 - entropy, 0))
        assert one["information"]["stages"] == pytest.approx(own.mean(), abs=1e-6)
        assert min(one["groups_offset"]) >= 0
        assert one["area"] == 0.5
        assert len(one["pictures"]["input"]) == (4 if one["seed"] == 0 else 0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "harmful: epochs from the warning to accuracy with a random spurious half" in [
        entry["name"] for entry in summary["signatures"]
    ]
    assert set(figures) == {"depths.png", "courses.png", "saliency.png"}


@pytest.mark.slow
@pytest.mark.parametrize("arm", dominoes.Remedy.__args__)
def test_every_remedy_runs(arm):
    planned = dominoes.arm(arm, SMOKE)
    assert planned.correlations == SMOKE.environments
    made = dominoes.train(arm, planned, SMOKE, 0)
    assert len(made) == SMOKE.seeds
    assert all(one["finite"] and one["course"]["steps"] == [8] for one in made)
