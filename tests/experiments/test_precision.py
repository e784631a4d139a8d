"""Float32 against float64: measures against known errors, and what is concluded from the rows."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _precision_measures as measures
from experiments import _precision_report, _rows, precision
from experiments.__main__ import main
from experiments._architectures import Transformer
from experiments._precision_measures import Solved
from gsjax import dual, features, starvation
from gsjax.objectives import Ridge
from tests.experiments.figures import record_figures
from tests.plotting.shown import points

SMOKE = precision.PRESETS["smoke"]


def solved(s2, u, **changes):
    """What follows from a kernel, for one condition, made up except for the decomposition."""
    n = len(s2)
    found = Solved(
        s2=np.asarray(s2, float),
        u=u,
        rank=n,
        held=np.ones(n),
        margins=np.ones((1, n)),
        alpha=np.ones((1, n)),
        response=np.ones((1, n)),
        slopes=np.ones((1, n, n)),
        weighted=np.full(1, 0.5),
        converged=np.ones(1, bool),
    )
    return found._replace(**changes)


def test_digits_are_those_of_the_relative_error():
    assert measures.digits([1.0, 2.0], [1.0, 2.0]) == 16
    assert measures.digits([1.0, -1.99], [1.0, -2.0]) == pytest.approx(-np.log10(0.005), abs=1e-5)
    np.testing.assert_allclose(measures.entries([1.001, 20.0], [1.0, 10.0]), [3.0, 0.0], atol=1e-5)
    assert measures.digits([np.nan, 1.0], [1.0, 1.0]) == 0
    assert measures.digits([np.inf], [1.0]) == 0


def test_a_rotation_turns_two_features_by_its_angle():
    """Two of four features are turned, strengths have errors of 0.1% and 10%, and the gaps are known."""
    s2, angle = np.array([8.0, 4.0, 2.0, 1.0]), 1e-3
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    exact = solved(s2, np.eye(4))
    found = solved(s2 * [1, 1.001, 1, 1.1], turn * [1, -1, 1, 1])  # a sign is arbitrary
    directions = measures.directions(found, exact)
    np.testing.assert_allclose(directions.sine, [np.sin(angle)] * 2 + [0, 0], rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(directions.gap, [4 / 8, 2 / 8, 1 / 8, 1 / 8])
    row = measures.against(found, exact, np.diag(found.s2), np.diag(s2))
    # of ranks 1, n / 4, n / 2, 3 n / 4 and n
    assert row["strengths"] == pytest.approx([16, 16, 3, 16, 1], abs=1e-5)
    assert row["resolved"] == 3
    eps = 4 * float(np.finfo(np.float32).eps)
    assert row["weyl"] == pytest.approx(0.1 / (8 * eps))
    assert row["davis_kahan"] == pytest.approx(np.sin(angle) * 0.5 / eps)
    assert row["kernel"] == pytest.approx(-np.log10(0.1 / 8), abs=1e-5)
    assert row["condition"] == pytest.approx(np.log10(8))


def test_flipped_signs_are_counted_among_pairs():
    n = 12
    s2, truth = np.linspace(2, 1, n), -np.ones((1, n, n))
    slopes = truth.copy()
    slopes[0, 0, 1] = slopes[0, 11, 3] = 1.0
    slopes[0, 5, 5] = 1.0  # not a pair
    exact = solved(s2, np.eye(n), slopes=truth)
    row = measures.at_condition(solved(s2, np.eye(n), slopes=slopes, alpha=np.full((1, n), 1.001)), exact, 0)
    assert row["flipped_top"] == pytest.approx(1 / 90)
    assert row["flipped"] == pytest.approx(2 / 132)
    assert (row["share"], row["share_exact"]) == (pytest.approx(130 / 132), 1.0)
    assert row["alpha"] == pytest.approx(3, abs=1e-5)
    few = measures.at_condition(solved(s2, np.eye(n), slopes=slopes, rank=4), exact, 0)
    assert few["flipped"] == few["flipped_top"] == pytest.approx(1 / 12)


def test_responses_are_compared_with_the_signs_of_their_features():
    exact = solved([2.0, 1.0], np.eye(2), response=np.array([[3.0, 4.0]]))
    found = solved([2.0, 1.0], np.diag([1.0, -1.0]), response=np.array([[3.003, -4.0]]))
    row = measures.at_condition(found, exact, 0)
    assert row["response"] == pytest.approx(-np.log10(0.003 / 4), abs=1e-5)
    assert row["strongest"] == pytest.approx((3 + 16) / 2, abs=1e-5)


@pytest.fixture(scope="module")
def kernel():
    u = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    return u * np.geomspace(1, 1e-4, 16) @ u.T


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_solution_is_that_of_the_library(kernel, dtype):
    y, strengths = np.array([1.0, -1.0] * 8), (1e-2, 1e-4)
    found = measures.solve(kernel, y, strengths, dtype)
    assert all(value.dtype == np.float64 for value in (found.s2, found.u, found.slopes))
    with jax.enable_x64(dtype == jnp.float64):
        feats = features.from_ntk(jnp.asarray(kernel, dtype), jnp.asarray(y))
        tolerance = 100 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(found.s2, feats.s2, rtol=0, atol=tolerance)
        assert found.rank == feats.rank == 16
        for number, strength in enumerate(strengths):
            state = dual.equilibrium(feats, Ridge(strength))
            np.testing.assert_allclose(found.alpha[number], state.alpha, atol=1e3 * tolerance)
            assert found.converged[number]
            np.testing.assert_allclose(
                found.slopes[number, :3, :3], starvation.matrix(feats, Ridge(strength))[:3, :3], rtol=1e4 * tolerance
            )


def test_float32_loses_what_it_loses(kernel):
    """A kernel whose strengths span four decades, as it is and rounded: at most n eps s_1^2 is lost."""
    y, strengths = np.array([1.0, -1.0] * 8), (1e-2, 1e-4)
    exact, found = (measures.solve(kernel, y, strengths, dtype) for dtype in (jnp.float64, jnp.float32))
    row = measures.against(found, exact, kernel.astype(np.float32), kernel)
    assert 6.5 < row["kernel"] < 8.5
    assert 0 < row["weyl"] < 1
    assert row["davis_kahan"] < 2
    assert row["kept"] == row["resolved"] == 16
    assert row["decoupled"]
    same = measures.against(exact, exact, kernel, kernel)
    assert same["kernel"] == 16
    assert same["weyl"] == 0
    assert same["davis_kahan"] < 1e-6
    mild, harsh = (measures.at_condition(found, exact, number) for number in range(2))
    assert mild["flipped"] == 0
    assert mild["weakest"] > harsh["weakest"] - 1


@pytest.mark.slow
def test_kernels_are_computed_in_their_type():
    network = Transformer(8)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    variables = network.init(jax.random.key(0), x)
    exact, single, half = (
        measures.kernel(network, variables, x, kind) for kind in (jnp.float64, jnp.float32, jnp.bfloat16)
    )
    assert 5 < measures.digits(single, exact) < 9
    assert 0.5 < measures.digits(half, exact) < 4
    np.testing.assert_array_equal(exact, exact.T)


def test_a_transformer_distinguishes_the_order_of_its_strips():
    network, x = Transformer(8, depth=2), jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 1)))
    variables = network.init(jax.random.key(0), x)
    outputs, turned, one = (np.asarray(network.apply(variables, given)) for given in (x, x[:, ::-1], x[1:2]))
    assert outputs.shape == (3,)
    assert not np.allclose(outputs, turned, atol=1e-3)
    np.testing.assert_allclose(one, outputs[1:2], rtol=1e-5)


@pytest.fixture
def rows():
    """Rows as a run writes them, with what theory says in place of measurements."""
    made, config = [], SMOKE
    for seed in range(config.seeds):
        noise = 0.001 * seed
        for n in config.ns:
            for arm in precision.ARMS:
                at = {
                    str(number): {
                        **dict.fromkeys(precision.AT, 0.0),
                        "alpha": 6.0 - 2 * number + noise,
                        "flipped": 0.05 + noise,
                        "flipped_top": 0.001 * noise,
                        "share": 0.5 + noise / 10,
                        "share_exact": 0.5,
                        "weighted": 0.5,
                        "weighted_exact": 0.5,
                        "converged": True,
                    }
                    for number in range(len(config.conditions))
                }
                made.append(
                    {
                        "kind": "mlp",
                        "seed": seed,
                        "measure": "kernel",
                        "n": n,
                        "arm": arm,
                        "at": at,
                        "kernel": (2.0 if arm == "bfloat16" else 6.5) + noise,
                        "norm": 7.0,
                        "condition": 6.0,
                        "weyl": 0.1 + noise,
                        "davis_kahan": 0.2 + noise,
                        "loss_by_strength": 1.0,
                        "turn_by_gap": -1.0,
                        "held": 15.0 if arm == "kernel in float32" else 1.0 + noise,
                        "strengths": [7.0, 6.0, 5.0, 4.0, 3.0],
                        "sine": [1e-6, 1e-5, None, None, None, None],
                        "kept": n if arm == "kernel in float32" else n - 4,
                        "kept_exact": n,
                        "resolved": n - (8 if arm == "float32" else 0) + seed % 2,
                        "decoupled": False,
                    }
                )
        last = max(config.ns)
        made.append({"kind": "mlp", "seed": seed, "measure": "features", "n": last, "kept": last - 5, "resolved": last})
        path = {"kind": "mlp", "seed": seed, "logits": 5.0, "converged": True, "converged_exact": True}
        made.append({**path, "measure": "paths", "dual": 5.5})
        made += [{**path, "measure": "trained", "penalty": name, "objective": 6.0} for name in ("ridge", "SD")]
    return made


def test_signatures_hold_for_rows_that_follow_theory_and_not_for_others(rows):
    def held():
        found = _precision_report.signatures(rows, SMOKE)
        return {entry["name"]: entry["p"] <= _rows.LEVEL for entry in found}

    assert all(held().values())
    for row in rows:
        if row["measure"] == "kernel":
            row.update(kernel=4.0, weyl=1.5, davis_kahan=3.0, held=2.0, resolved=10)
            for found in row["at"].values():
                found.update(alpha=3.0, flipped=0.2, flipped_top=0.2, share=0.6)
        row.update({"resolved": 10} if row["measure"] == "features" else {})
    assert not any(held().values())


def test_the_worst_kind_decides_about_bounds(rows):
    other = [{**row, "kind": "cnn", **({"weyl": 7.0} if row["measure"] == "kernel" else {})} for row in rows]
    config = dataclasses.replace(SMOKE, kinds=("mlp", "cnn"))
    found = {entry["name"]: entry["value"] for entry in _precision_report.signatures([*rows, *other], config)}
    [bound] = [value for name, value in found.items() if "largest error" in name]
    assert bound == 7.0


def test_rows_have_what_was_measured_and_say_what_is_missing(rows):
    found = {row["name"]: row for row in _precision_report.summarise(rows, SMOKE)}
    n = max(SMOKE.ns)
    assert found["MLP: strength, n / 2"]["measured"] == 5.0
    assert found["MLP: features kept"]["measured"] == n - 4
    assert found["MLP: kept from the feature matrix"]["measured"] == n - 5
    assert found["MLP: kept, only the kernel in float32"]["measured"] == n
    assert found["MLP, s_1^2 / lambda = 1e6: alpha"]["measured"] == pytest.approx(4.0005)
    assert found["MLP, bfloat16: kernel"]["measured"] == pytest.approx(2.0005)
    assert "MLP: sine at gaps to 1e-03" not in found
    rows[0]["turn_by_gap"] = None
    rows[3]["turn_by_gap"] = None  # the same seed, with the largest n
    [row] = [r for r in _precision_report.summarise(rows, SMOKE) if r["name"] == "MLP: angle per decade of the gap"]
    assert (row["seeds"], row["differs"]) == (1, "1 of 2 seeds have one")


def test_figures_show_the_means_of_the_rows(rows, monkeypatch, tmp_path):
    figures = record_figures(monkeypatch, write=False)
    _precision_report.draw_spectrum(rows, SMOKE, tmp_path / "spectrum.png")
    left, middle, right = figures["spectrum.png"].axes
    np.testing.assert_allclose(points(left.lines[0])[:, 1], [7, 6, 5, 4, 3])
    np.testing.assert_allclose(points(middle.lines[0])[:2], [[1e-1, 1e-6], [1e-2, 1e-5]])
    np.testing.assert_allclose(points(right.lines[0])[:, 1], [(n - 4) / n for n in SMOKE.ns])
    _precision_report.draw_conditions(rows, SMOKE, tmp_path / "conditions.png")
    panels = figures["conditions.png"].axes
    np.testing.assert_allclose(points(panels[0].lines[0]), [[1e2, 6.0005], [1e6, 4.0005]])
    np.testing.assert_allclose(points(panels[4].lines[0])[:, 1], [0.0505] * 2)
    np.testing.assert_allclose(points(panels[5].lines[2])[:, 1], [0.5] * 2)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--ns", "24", "16"], "--ns: expected increasing numbers"),
        (["--conditions", "1e6", "1e2"], "--conditions: expected increasing numbers"),
        (["--conditions", "1"], "--conditions: expected finite numbers above 1"),
        (["--width", "10"], "--width: expected a multiple of 4, got 10"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, one_line):
    assert main(["precision", "--preset", "smoke", "--out", str(tmp_path / "out"), *flags]) == 2
    assert complaint in one_line()


@pytest.mark.slow
def test_smoke_run_interrupted_and_finished(tmp_path, interrupt_after, nowhere, figures):
    cells = interrupt_after(2)
    command = ["precision", "--preset", "smoke", "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert main(command) == 0
    assert len(cells) == 4 * SMOKE.seeds
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    single = [row for row in rows if row["measure"] == "kernel" and row["arm"] == "float32"]
    assert all(5 < row["kernel"] < 8 and row["resolved"] <= row["kept_exact"] for row in single)
    assert all(row["at"]["0"]["flipped_top"] < 0.1 for row in single)
    assert figures.keys() == {"spectrum.png", "conditions.png"}
