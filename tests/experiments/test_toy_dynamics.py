"""The toy of Fig. 5: the run from the command line, paths, equilibria and signatures."""

from __future__ import annotations

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from experiments import _rows, toy_dynamics
from experiments.__main__ import main
from tests.plotting.shown import legend, points

U = np.array([[0.75**0.5, -0.5], [0.5, 0.75**0.5]])
EXACT = {("ridge", 2): (6.1204, 1.6400), ("ridge", 3): (7.0681, 1.5831), ("sd", 2): (6.3727, 1.7076)}
EXACT["sd", 3] = EXACT["sd", 2]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, module_figures):
    out = tmp_path_factory.mktemp("toy")
    assert main(["toy_dynamics", "--preset", "smoke", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def rows(smoke):
    return [json.loads(line) for line in (smoke / "rows.jsonl").read_text().splitlines()]


def one(rows, penalty, s1):
    return next(row for row in rows if (row["penalty"], row["s1"]) == (penalty, s1))


def test_primal_and_dual_paths_end_at_the_exact_equilibrium(rows):
    """The equilibrium of the reference, and the minimum of the objective that SciPy finds."""
    assert len(rows) == 4
    for row in rows:
        s, measured, predicted = np.array([row["s1"], 2.0]), row["measured"], row["predicted"]

        def objective(theta, s=s, penalty=row["penalty"]):
            margins = U @ (s * theta)
            term = 0.01 * theta @ theta if penalty == "ridge" else 0.002 * margins @ margins
            return np.logaddexp(0, -margins).sum() + term / 2

        minimum = s * optimize.minimize(objective, np.zeros(2), tol=1e-10).x
        assert all(measured["converged"])
        for found in (*measured["end"], predicted["dual_end"], predicted["equilibrium"], minimum):
            np.testing.assert_allclose(found, EXACT[row["penalty"], row["s1"]], atol=1e-3)


def test_the_paths_follow_the_published_recipe(rows):
    """In two dimensions, by hand: theta <- theta - 0.05 dL/dtheta from zero, and the dual from 1e-8."""
    row = one(rows, "ridge", 3)
    s, theta = np.array([3.0, 2.0]), np.zeros(2)
    for _ in range(500):
        theta += 0.05 * (s * (U.T @ (1 / (1 + np.exp(U @ (s * theta))))) - 0.01 * theta)
    predicted = row["predicted"]
    assert predicted["times"][-1] == pytest.approx(25)
    for path in row["measured"]["path"]:  # one path per V
        assert path[0] == [0, 0]
        np.testing.assert_allclose(path[-1], s * theta, rtol=1e-9)
    np.testing.assert_allclose(predicted["alpha"][0], 1e-8)
    np.testing.assert_allclose(predicted["alpha"][-1], predicted["alpha_equilibrium"], rtol=1e-6)


def test_the_distance_from_the_flow_is_proportional_to_the_step(rows):
    """The distance between gradient descent and its flow, for two step sizes."""
    config, flow, distances = toy_dynamics.PRESETS["smoke"], one(rows, "sd", 3)["predicted"], []
    s = np.array([3.0, 2.0])
    for factor in (1, 4):
        theta, path = np.zeros(2), [np.zeros(2)]
        for _ in range(100 * factor):
            margins = U @ (s * theta)
            theta = theta + 0.05 / factor * s * (U.T @ (1 / (1 + np.exp(margins)) - config.sd * margins))
            path.append(s * theta)
        keep = [step for step in toy_dynamics.recorded_steps(config) if step <= 100]
        distances.append(np.abs(np.array(path)[np.multiply(keep, factor)] - flow["flow"][: len(keep)]).max())
    assert 3 < distances[0] / distances[1] < 6


def test_under_spectral_decoupling_the_dual_does_not_depend_on_s1(rows):
    for penalty, same in (("sd", True), ("ridge", False)):
        first, second = (np.array(one(rows, penalty, s1)["predicted"]["alpha"]) for s1 in (2, 3))
        assert np.allclose(first, second, rtol=1e-6, atol=0) == same


def test_the_summary_separates_measured_and_predicted_numbers(smoke, rows):
    summary = json.loads((smoke / "summary.json").read_text())
    values = {row["name"]: row for row in summary["rows"]}
    measured, predicted = (values[f"ridge, s_1 = 3: z_2, {kind}"] for kind in ("measured", "predicted"))
    assert measured["measured"] != predicted["measured"]
    assert measured["measured"] == pytest.approx(predicted["measured"], abs=1e-3)
    assert measured["differs"] == f"run on to {max(one(rows, 'ridge', 3)['measured']['steps']):,} steps"
    assert measured["seeds"] == 2
    assert values["ridge, s_1 = 3: error of z after 500 steps"]["measured"] > 0.01
    assert [signature["name"] for signature in summary["signatures"]] == [
        "s_1 = 2: the paths end at the exact equilibrium",
        "s_1 = 3: the paths end at the exact equilibrium",
        "ridge: z_2 falls as s_1 grows",
        "spectral decoupling: z_2 stays as s_1 grows",
    ]
    assert all(signature["holds"] for signature in summary["signatures"])


def test_the_figure_shows_the_paths_and_the_equilibria(rows, module_figures):
    for ax, penalty in zip(module_figures["paths.png"].axes[::2], ("ridge", "sd"), strict=True):
        first, _, second, _, _, crosses = ax.lines
        for line, s1 in ((first, 2), (second, 3)):
            np.testing.assert_array_equal(points(line), one(rows, penalty, s1)["measured"]["path"][0])
        np.testing.assert_allclose(points(crosses), [EXACT[penalty, s1] for s1 in (2, 3)], atol=1e-3)
        assert legend(ax) == ["$s_1 = 2$", "$s_1 = 3$", "theory"]


def test_signatures_do_not_hold_where_they_should_not(rows):
    """Negative controls: paths that were cut off, and decreasing s_1."""
    config, cut = toy_dynamics.PRESETS["smoke"], copy.deepcopy(rows)
    for row in cut:
        row["measured"] |= {"end": [path[-1] for path in row["measured"]["path"]], "converged": [False, True]}
    assert "not converged at step" in toy_dynamics.summarise(cut[:2], config)[0]["differs"]
    assert [one["holds"] for one in _rows.judged(toy_dynamics.judge(cut, config))] == [False, False, True, False]
    exchanged = [row | {"s1": 5 - row["s1"]} for row in reversed(rows)]
    assert [one["holds"] for one in _rows.judged(toy_dynamics.judge(exchanged, config))] == [True, True, False, True]


def test_a_descent_stops_at_its_bound():
    config = dataclasses.replace(toy_dynamics.PRESETS["smoke"], steps=2, max_steps=7)
    arguments = map(jnp.asarray, (0.0, 0.002, 2.0))
    found = jax.jit(toy_dynamics.descend, static_argnums=0)(config, *arguments, jax.random.key(0))
    assert (int(found.steps), bool(found.converged)) == (7, False)


def test_a_finished_run_computes_nothing(smoke, monkeypatch):
    before = {path.name: path.read_bytes() for path in smoke.iterdir()}
    monkeypatch.setattr(toy_dynamics, "predict", None)
    assert main(["toy_dynamics", "--preset", "smoke", "--out", str(smoke)]) == 0
    after = {path.name: path.read_bytes() for path in smoke.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"provenance.json"}


def test_the_presets_are_the_published_settings():
    assert toy_dynamics.PRESETS["laptop"] == toy_dynamics.PRESETS["paper"] == toy_dynamics.Config()
    steps = toy_dynamics.recorded_steps(toy_dynamics.Config())
    assert (steps[0], steps[1], steps[-1]) == (0, 1, 5000)
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--s1", "2"], "s1: expected at least 2 values, got 2.0"),
        (["--s1", "3", "2"], "s1: expected increasing numbers, got (3.0, 2.0)"),
        (["--delta", "1"], "delta: expected a finite number above 0 and below 1, got 1.0"),
        (["--initial", "0"], "initial: expected a finite number above 0 and below 1"),
        (["--ridge", "0"], "ridge: expected a finite number above 0"),
        (["--learning-rate", "-1"], "--learning-rate: expected a finite number above 0"),
        (["--seeds", "1"], "seeds: expected a whole number of at least 2, got 1"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, one_line):
    assert main(["toy_dynamics", "--preset", "smoke", "--out", str(tmp_path / "out"), *flags]) == 2
    assert complaint in one_line()
    assert not (tmp_path / "out").exists()
