"""What relying on one feature costs and saves: the run from the command line, optima, errors and densities."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import optimize, stats

from experiments import invariance
from experiments.__main__ import main
from gsjax.objectives import Ridge, SpectralDecoupling
from tests.plotting.shown import points

CONFIG = invariance.Config()
PROBLEM = invariance.problem(CONFIG, 3, 2.0)
RECORD = Path(invariance.__file__).parent / "records" / "invariance" / "laptop" / "summary.json"


@pytest.mark.slow
def test_smoke_run(tmp_path, figures):
    """Every arm in every setting, with equal confidence in distribution; a second run computes nothing."""
    command = ["invariance", "--preset", "smoke", "--out", str(tmp_path)]
    assert main(command) == 0
    written = (tmp_path / "rows.jsonl").read_bytes()
    rows = [json.loads(line) for line in written.decode().splitlines()]
    assert [(row["noise"], row["seed"], row["arm"]) for row in rows] == [
        (noise, seed, arm) for noise in (2, 6) for seed in (0, 1) for arm in invariance.ARMS
    ]
    for row in rows:
        assert row["calibrated"]["in distribution"] == pytest.approx(CONFIG.confidence)
        density = row["log_density"]
        assert density["far"] < density["contradicted"] < density["in distribution"]
        assert row["error"]["shared"] <= row["error"]["lost"] <= row["error"]["reversed"]

    summary = json.loads((tmp_path / "summary.json").read_text())
    values = [
        row["error"]["lost"] - other["error"]["lost"]
        for row in rows
        for other in rows
        if (row["arm"], other["arm"], row["noise"]) == ("sd", "ridge", 6)
        and (row["noise"], row["seed"]) == (other["noise"], other["seed"])
    ]
    name = "starved deviation 0.7, 6 of noise: where the feature is lost, SD errs less than the ridge"
    [found] = [entry["value"] for entry in summary["signatures"] if entry["name"] == name]
    assert found == pytest.approx(np.mean(values))

    [ax] = [ax for ax in figures["errors.png"].axes if ax.get_ylabel() == "error, lost"]
    for bars, arm in zip(ax.containers, invariance.ARMS, strict=True):
        assert bars.get_label() == invariance.ARMS[arm]
        means = [
            np.mean([row["error"]["lost"] for row in rows if (row["arm"], row["noise"]) == (arm, noise)])
            for noise in (2, 6)
        ]
        np.testing.assert_allclose(points(bars[0]), np.stack([(2, 6), means], axis=1))

    assert main(command) == 0
    assert (tmp_path / "rows.jsonl").read_bytes() == written


@pytest.mark.parametrize("penalty", [Ridge(0.5), SpectralDecoupling(0.1)])
def test_the_optimum_matches_scipy(penalty):
    x, y = invariance.draw_points(PROBLEM, np.random.default_rng(0), 30)

    def objective(theta):
        yhat = x @ theta
        size = theta @ theta if isinstance(penalty, Ridge) else yhat @ yhat
        return np.logaddexp(0, -y * yhat).sum() + float(penalty.strength) * size / 2

    expected = optimize.minimize(objective, np.zeros(x.shape[1]), tol=1e-9).x
    with jax.enable_x64(True):
        np.testing.assert_allclose(invariance.optimum(x, y, penalty), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("shift", "mean"), [(1.0, 5.0), (0.0, 0.0), (-1.0, -5.0)])
def test_the_error_matches_that_of_random_points(shift, mean):
    theta, rng, n = np.array([0.3, 1.0, 0.5, -0.2, 0.1]), np.random.default_rng(1), 200_000
    x = rng.normal([mean, 1, 0, 0, 0], [5 * 0.7, 2, 1, 1, 1], (n, 5))  # points of the class +1
    measured = np.mean(x @ theta < 0)
    assert invariance.error(PROBLEM, theta, shift) == pytest.approx(measured, abs=5 * 0.5 / n**0.5)


def test_the_density_is_that_of_a_mixture():
    x, _ = invariance.draw_points(PROBLEM, np.random.default_rng(2), 50)
    mean, scale = np.array([5.0, 1, 0, 0, 0]), np.array([3.5, 2, 1, 1, 1])
    both = [stats.norm.pdf(x, sign * mean, scale).prod(axis=1) for sign in (1, -1)]
    np.testing.assert_allclose(invariance.log_density(PROBLEM, x), np.log(np.mean(both, axis=0)))


def test_points_lie_where_the_name_of_their_place_says():
    drawn = {
        p: invariance.draw_points(PROBLEM, np.random.default_rng(3), 20_000, place=p, far=5) for p in invariance.PLACES
    }
    expected = {"in distribution": [5, 1], "contradicted": [5, -1], "far": [25, 5]}
    for place, (x, y) in drawn.items():
        scale = 5 if place == "far" else 1
        np.testing.assert_allclose((y[:, None] * x)[:, :2].mean(axis=0), expected[place], atol=0.1 * scale)


def test_descent_converges_to_the_minimum():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((60, 2)), rng.choice([-1.0, 1.0], 60)
    minimum = optimize.minimize(lambda theta: np.logaddexp(0, -y * (x @ theta)).sum(), np.zeros(2), tol=1e-9).x
    early, late = invariance.descent(x, y, [1, 500])
    np.testing.assert_allclose(early, 4 / np.linalg.norm(x, 2) ** 2 * x.T @ y / 2)
    np.testing.assert_allclose(late, minimum, atol=1e-5)


@pytest.mark.parametrize("target", [0.6, 0.9, 0.99])
def test_a_temperature_brings_confidence_to_its_target(target):
    logits = np.random.default_rng(5).normal(0, 3, 1000)
    calibrated = invariance.temperature(logits, target)
    assert invariance.confidence(logits, calibrated) == pytest.approx(target)
    assert invariance.temperature(10 * logits, target) == pytest.approx(10 * calibrated)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--noise", "3", "18"], "noise: expected less than n - 2 = 18, got 18"),
        (["--noise", "6", "2"], "noise: expected increasing numbers"),
        (["--confidence", "0.5"], "--confidence: expected"),
        (["--seeds", "1"], "--seeds: expected"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, one_line):
    assert main(["invariance", "--preset", "smoke", "--out", str(tmp_path), *flags]) == 2
    assert complaint in one_line()


def test_what_the_page_quotes_is_in_the_record():
    """Each difference on the page, with its interval, is that of a signature of the record."""
    page = (Path(invariance.__file__).parents[1] / "docs" / "results" / "invariance.md").read_text()
    summary = json.loads(RECORD.read_text())
    known = {
        f"{entry['value']:+.3f} [{entry['interval'][0]:+.3f}, {entry['interval'][1]:+.3f}]": entry
        for entry in summary["signatures"]
    }
    quoted = re.findall(r"[+-]\d\.\d{3}\s\[[^\]]*\]", page.partition("<!--")[0])
    assert len(quoted) >= 6
    assert {re.sub(r"\s+", " ", text) for text in quoted} <= known.keys()
    far_differences = [entry["value"] for entry in summary["signatures"] if "far out" in entry["name"]]
    assert max(map(abs, far_differences)) < 0.0035  # "at most 0.003"
    values = {row["name"]: row["measured"] for row in summary["rows"]}
    assert all(value > 0.97 for name, value in values.items() if "confidence far, at 0.9" in name)
    assert all(values[f"starved deviation {s}, 30 of noise: SD, error, reversed"] > 0.5 for s in ("0.7", "2"))
    held = sum(entry["holds"] for entry in summary["signatures"])
    assert f"{held} of {len(known)} signatures hold" in page
