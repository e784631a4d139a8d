"""The width sweep: the run from the command line, local slopes and data."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from experiments import width_sweep
from experiments.__main__ import main
from tests.plotting.shown import points


def test_smoke_run_interrupted_and_finished(tmp_path, interrupt_after, figures):
    """The run is stopped after one cell and finished: the rows of every network, the summary and the figure."""
    cells = interrupt_after(1)
    command = ["width_sweep", "--preset", "smoke", "--out", str(tmp_path)]
    assert main(command) == 130
    assert main(command) == 0
    assert len(cells) == 4 + 1  # two widths, two penalties; starvation at one width

    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["width"], row["penalty"], row["seed"]) for row in rows] == [
        (width, penalty, seed) for width in (16, 32) for penalty in ("ridge", "sd") for seed in (0, 1)
    ]
    assert all(row["converged"] and 0 < row["error_empirical"] < 0.5 for row in rows)
    assert all(row["gradient_norm"] <= 1e-3 * row["initial_gradient_norm"] for row in rows)

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["experiment"], summary["preset"], summary["config"]["seed"]) == ("width_sweep", "smoke", 0)
    values = {row["name"]: row["measured"] for row in summary["rows"]}
    errors = [np.mean([row["error_empirical"] for row in rows if row["penalty"] == "ridge" and row["width"] == 32])]
    assert values["digits, ridge, lambda = 10, depth 1: error at width 32"] == pytest.approx(errors[0])
    ridge, _, starved, _ = figures["digits.png"].axes
    first = next(line for line in ridge.lines if line.get_marker() == "o")
    for (width, drawn), expected in zip(points(first), (16, 32), strict=True):
        error = [row["error_empirical"] for row in rows if (row["penalty"], row["width"]) == ("ridge", expected)]
        assert (width, drawn) == pytest.approx((expected, np.exp(np.mean(np.log(error)))))
    found = [json.loads(line) for line in (tmp_path / "starvation" / "rows.jsonl").read_text().splitlines()]
    pairs = np.stack([np.ravel([row[key] for row in found]) for key in ("predicted", "measured")], axis=1)
    np.testing.assert_array_equal(points(starved.lines[0]), pairs)
    assert {"starvation", "timing.json", "timing.jsonl"} <= {path.name for path in tmp_path.iterdir()}

    assert main([*command, "--n", "30"]) == 2  # the folder has another configuration


def test_local_slopes_are_those_between_neighbouring_widths():
    """For errors 1 / (width + 100) the slope goes from 0 to -1, which a single fit over all widths hides."""
    widths = [50, 100, 200, 400, 6400, 12800]
    errors = np.array([[1.0], [3.0]]) / (np.array(widths) + 100)
    slopes = width_sweep.local_slopes(widths, errors)
    expected = np.diff(np.log(errors[0])) / np.diff(np.log(widths))
    np.testing.assert_allclose([slope.value for slope in slopes], expected)
    np.testing.assert_allclose([slope.high - slope.low for slope in slopes], 0, atol=1e-9)  # both seeds agree
    assert -1 < slopes[-1].value < -0.98 < -0.5 < slopes[0].value < -0.4
    assert width_sweep.local_slopes(widths[:2], errors[:, :2]) == []


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--widths", "0"], "widths: expected"),
        (["--depth", "0", "-1"], "depths: expected"),
        (["--penalty", "sd", "--seeds", "0"], "seeds: expected"),
        (["--strengths", "-1"], "strengths: expected"),
        (["--classes", "3", "11"], "classes: expected"),
        (["--n", "1000"], "n: expected 1 to 357"),
        (["--data", "mnist"], "fetch MNIST"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, nowhere, one_line):
    assert main(["width_sweep", "--preset", "smoke", "--out", str(tmp_path / "out"), *flags]) == 2
    assert complaint in one_line()


@pytest.mark.parametrize("name", ["two_moons", "digits"])
def test_training_and_test_examples_are_disjoint(name):
    config = width_sweep.PRESETS["laptop"]
    train, test = width_sweep.load(name, config, seed=0)
    assert (len(train.y), len(test.y)) == (config.n, config.test)
    assert abs(np.mean(train.y)) < 0.2
    rows = {np.asarray(x).tobytes() for x in train.x}
    assert not any(np.asarray(x).tobytes() in rows for x in test.x)
    assert not np.array_equal(train.x, width_sweep.load(name, config, seed=1)[0].x)


def test_presets_have_tolerances_for_their_precision():
    for config in width_sweep.PRESETS.values():
        assert config.tolerance >= (1e-6 if config.x64 else 1e-3)
    assert jax.numpy.zeros(()).dtype == np.float32
