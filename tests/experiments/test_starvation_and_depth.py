"""Starvation and depth: predictions of kernels, what is measured, statistics over tasks, and the run."""

from __future__ import annotations

import dataclasses
import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from experiments import _rows, _starved_measures, _starved_report, _starved_rows, starvation_and_depth
from experiments import _starved_statistics as statistics
from experiments import _starved_theory as theory
from experiments.__main__ import main
from experiments._study import fits
from gsjax import methods, networks

SMOKE = starvation_and_depth.PRESETS["smoke"]


@pytest.fixture(scope="module")
def problem():
    """Random features of a linear network, on training and held-out examples, in double precision."""
    rng = np.random.default_rng(0)
    n, t, m = 14, 60, 20
    core, spurious, y = (rng.choice([-1.0, 1.0], size) for size in (t, t, n))
    scale = 1 / np.arange(1, m + 1)
    x = scale * (rng.normal(size=(n, m)) + y[:, None] * (np.arange(m) < 4))
    random = scale * (rng.normal(size=(t, m)) + core[:, None] * (np.arange(m) < 2) - spurious[:, None])
    blank = scale * rng.normal(size=(t, m))
    return x, random, blank, y, core, spurious


def solve(phi, y, strength):
    """The optimum of ridge on logistic losses, without a kernel or a dual."""

    def objective(w):
        margins = y * (phi @ w)
        slope = -(y / (1 + np.exp(margins))) @ phi + strength * w
        return np.logaddexp(0, -margins).sum() + strength / 2 * w @ w, slope

    return optimize.minimize(objective, np.zeros(phi.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-10}).x


def predicted(problem, strength=0.3, **changed):
    x, random, blank, y, core, spurious = problem
    with jax.enable_x64(True):
        given = [x @ x.T, random @ x.T, blank @ x.T, changed.get("y", y), core, spurious]
        kernel, random, blank, labels, core, spurious = map(jnp.asarray, given)
        return jax.tree.map(np.asarray, theory.predict(kernel, random, blank, labels, core, spurious, strength))


def slope(problem, outputs, label):
    """The coefficient of a label in the regression of outputs on both labels and a constant."""
    _, _, _, _, core, spurious = problem
    design = np.stack([np.ones(len(core)), core, spurious], axis=1)
    return np.linalg.lstsq(design, outputs, rcond=None)[0][1 + ("core", "spurious").index(label)]


def test_the_predictor_is_that_of_the_linear_network(problem):
    x, random, blank, y, core, _ = problem
    w, found = solve(x, y, 0.3), predicted(problem)
    assert found.converged
    assert found.accuracy == np.mean((random @ w) * core > 0)
    assert found.blank == np.mean((blank @ w) * core > 0)
    for name in ("core", "spurious"):
        assert getattr(found, name).sum() == pytest.approx(slope(problem, random @ w, name), rel=1e-6)
    b, d = (slope(problem, random @ w, name) for name in ("core", "spurious"))
    assert found.share == pytest.approx(b / (abs(b) + abs(d)), rel=1e-6)


def test_starvation_is_the_loss_of_core_signal_as_spurious_features_grow(problem):
    """By finite differences of the optimum of a linear network whose features are rescaled one by one."""
    x, random, _, y, _, _ = problem
    u, s, vt = np.linalg.svd(y[:, None] * x, full_matrices=False)
    held = random @ vt.T
    b, d = (np.array([slope(problem, column, name) for column in held.T]) for name in ("core", "spurious"))
    part = d**2 / (b**2 + d**2)

    def response(scale):
        """z with the strengths of features scaled."""
        phi = y[:, None] * (u * s * np.sqrt(scale))
        return u.T @ (y * (phi @ solve(phi, y, 0.3)))

    usual, step = response(np.ones(len(s))), 1e-3
    core = b / s  # the s of held-out features stay
    weight, loss, starved = (1 - part) * np.abs(usual), 0.0, 0.0
    for i in range(len(s)):
        up, down = (response(np.exp(sign * step * (np.arange(len(s)) == i))) for sign in (1, -1))
        others = np.arange(len(s)) != i
        loss -= part[i] * (core * (up - down))[others].sum() / (2 * step)
        starved -= part[i] * (weight * np.log(up / down))[others].sum() / (2 * step)
    found = predicted(problem)
    assert found.loss == pytest.approx(loss / np.abs(core * usual).sum(), rel=1e-4)
    assert found.starvation == pytest.approx(starved / weight.sum(), rel=1e-4)
    before, after = core @ usual, core @ response(1 - part)
    assert found.released == pytest.approx((after - before) / (abs(after) + abs(before)), rel=1e-5)


def test_predictions_do_not_depend_on_which_class_is_called_plus_one(problem):
    x, random, blank, y, core, spurious = problem
    other = predicted((x, random, blank, -y, -core, -spurious))
    for name, ours in predicted(problem)._asdict().items():
        np.testing.assert_allclose(getattr(other, name), ours, rtol=1e-7, atol=1e-12)


def test_a_kernel_of_a_network_gives_the_predictions_of_its_gradients():
    """For a network that is linear in its parameters the tangent features are the inputs, with a one for the bias."""
    network = networks.FullyConnected(())
    rng = np.random.default_rng(1)
    x, random, blank = (rng.normal(size=(size, 2, 2, 1)).astype(np.float32) for size in (10, 30, 30))
    y, core, spurious = (rng.choice([-1.0, 1.0], size) for size in (10, 30, 30))
    params = network.init(jax.random.key(0), x)["params"]
    held = theory.Held(*map(jnp.asarray, (random, blank, core, spurious)))
    found = theory.of_kernel(network, params, x=x, labels={"own": y, "other": -y}, held=held, strength=2.0)
    features = [np.column_stack([part.reshape(len(part), -1), np.ones(len(part))]) for part in (x, random, blank)]
    w = solve(features[0].astype(float), y, 2.0)
    assert found["own"]["accuracy"] == np.mean((features[1] @ w) * core > 0)
    assert found["own"]["blank"] == np.mean((features[2] @ w) * core > 0)
    assert found["other"]["accuracy"] == pytest.approx(1 - found["own"]["accuracy"])
    assert found["own"]["rank"] == 5
    assert all(fits(row[name], kind) for row in found.values() for name, kind in theory.COLUMNS.items())


@pytest.fixture(scope="module")
def painted():
    """Images whose halves are constant: light above if the core label is +1, light below for the spurious label."""
    rng = np.random.default_rng(2)

    def batch(n, correlation):
        y = np.where(np.arange(n) % 2, 1.0, -1.0)
        s = np.where(rng.random(n) < correlation, y, -y)
        x = np.repeat(np.stack([y, s], axis=1), 4, axis=1)[:, :, None, None] * np.ones((1, 1, 8, 1))
        x = x + rng.normal(size=x.shape) / 10
        return methods.Batch(*map(jnp.asarray, (x.astype(np.float32), y, (2 * (y > 0) + (s > 0)).astype(int))))

    region = np.arange(8)[:, None] >= np.full(8, 4)
    train, validation, test = batch(60, 0.8), batch(40, 0.5), batch(40, 0.5)
    black = test._replace(x=jnp.where(region[..., None], -1.0, test.x))
    variants = {name: black if name == "core only" else test for name in _starved_measures.VARIANTS}
    return train, validation, variants, region


def test_measurements_of_a_network_that_looks_at_one_half(painted):
    train, validation, test, region = painted
    network = networks.FullyConnected((2,), activation="linear")
    weights = np.where(region, 0.0, 1.0).ravel()
    for looks_at_core in (True, False):
        looked = weights if looks_at_core else 1 - weights
        params = {
            "Dense_0": {"kernel": jnp.asarray(np.stack([looked, 0 * looked], 1), jnp.float32), "bias": jnp.zeros(2)},
            "Dense_1": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)},
        }
        sizes = _starved_measures.Sizes(5, 40)
        found = _starved_measures.measure(network, params, train, validation, test, region, sizes)
        assert found["share"] == pytest.approx(float(looks_at_core), abs=0.02)
        assert found["saliency"] == pytest.approx(float(not looks_at_core), abs=1e-6)
        agree = np.mean(np.asarray(test["random"].y) == np.asarray(_starved_measures.spurious_label(test["random"])))
        assert found["accuracy"]["random"] == pytest.approx(1.0 if looks_at_core else agree)
        seen, hidden = ("core", "spurious") if looks_at_core else ("spurious", "core")
        assert found["told"][seen] == [1.0, 1.0]
        assert found["told"][hidden][0] == 1.0
        assert found["told"][hidden][1] < 0.8
        assert found["votes"][seen][1] == 1.0 if looks_at_core else found["votes"][seen][1] > 0.8
        assert all(fits(found[name], _starved_measures.COLUMNS[name]) for name in found)


def test_simple_classifiers_see_their_halves(painted):
    train, _, test, region = painted
    found = _starved_measures.simple(train, test, region)
    assert found["core"] == found["spurious"] == 1.0
    assert found["dominoes"] > 0.9
    half_black = {**test, "core only": test["core only"]._replace(x=-jnp.ones_like(train.x[:40]))}
    assert _starved_measures.simple(train, half_black, region)["core"] == pytest.approx(0.5)


def rank_correlation(x, y):
    """Spearman's correlation by SciPy."""
    found: Any = stats.spearmanr(x, y)
    return found.statistic


def test_weights_of_rank_correlations_are_repetitions():
    rng = np.random.default_rng(3)
    x, y, z = rng.integers(0, 5, (3, 12)).astype(float)
    weights = rng.integers(0, 4, 12)
    repeated = [np.repeat(each, weights) for each in (x, y, z)]
    expected = rank_correlation(*repeated[:2])
    assert statistics.spearman(x, y, weights=weights.astype(float)) == pytest.approx(expected)
    assert statistics.spearman(x, y, weights=weights / 12) == pytest.approx(expected)
    first, second, third = (rank_correlation(*pair) for pair in ((x, y), (x, z), (y, z)))
    partial = (first - second * third) / np.sqrt((1 - second**2) * (1 - third**2))
    assert statistics.spearman(x, y, z) == pytest.approx(partial)
    assert statistics.spearman(x, x, x) == 0
    assert statistics.spearman(np.ones(12), y) == 0


def made_tasks(pairs=6, levels=2):
    order = np.repeat(np.arange(2 * pairs), levels)
    return statistics.Tasks(order // 2, order)


def test_p_values_of_ordered_pairs_without_a_relation_are_uniform():
    """Outcomes that all correlations of an ordered pair share do not make more evidence."""
    tasks, rng = made_tasks(levels=6), np.random.default_rng(4)
    found = []
    for _ in range(100):
        x, y = (np.repeat(rng.normal(size=12), 6) + 0.01 * rng.normal(size=72) for _ in range(2))
        found.append(statistics.p_value(tasks, x, y))
    assert stats.kstest(found, "uniform").pvalue > 0.01
    x = np.repeat(np.arange(12.0), 6)
    assert statistics.p_value(tasks, x, x**3) < 1e-3
    assert statistics.p_value(tasks, x, -x) == 1.0
    noise = rng.normal(size=72)
    assert statistics.p_value(tasks, x + 3 * noise, noise, x) < 0.01
    assert statistics.over_tasks(tasks, x, x**3).value == 1


def test_within_tasks_is_the_correlation_of_deviations():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 7, 4))
    parts = statistics.within_tasks(100 * np.arange(7.0)[:, None] + x, y - 50 * np.arange(7.0)[:, None])
    expected = np.corrcoef(*((each - each.mean(axis=1, keepdims=True)).ravel() for each in (x, y)))[0, 1]
    assert parts is not None
    assert parts.mean() == pytest.approx(expected)
    assert statistics.within_tasks(np.ones((3, 2)), y[:3, :2]) is None


PAIRS = [("mnist_0_1", "mnist_4_9"), ("mnist_3_8", "fashion_mnist_2_4"), ("mnist_2_7", "fashion_mnist_5_7")]
PAIRS += [("mnist_3_5", "cifar10_0_1"), ("mnist_0_6", "fashion_mnist_0_6")]


def row(core, spurious, correlation, seed, harm, **changed):
    """A network that the theory predicts; `harm` from 0 to 1 says how harmful the task is."""
    rng = np.random.default_rng(zlib.crc32(f"{core}{spurious}{correlation}{seed}".encode()))
    noise, chance = 0.01 * rng.normal(), rng.normal(size=8)
    used = 0.95 - 0.4 * harm + noise
    kernel = {
        "accuracy": used + 0.01,
        "blank": used,
        "share": 1 - harm,
        "starvation": harm - 0.5,
        "loss": harm,
        "released": harm,
    }
    kernel |= {"core": [0.1, 1.0 - harm], "spurious": [0.0, harm], "rank": 3, "converged": True}
    kernel |= changed.get("kernel", {})
    levels = np.array([0.5, 0.6, 0.9]) if harm < 0.5 else np.array([0.5, 0.5, 0.55])
    return {
        "core": core,
        "spurious": spurious,
        "correlation": correlation,
        "seed": seed,
        "finite": True,
        "train": 1.0,
        "accuracy": dict.fromkeys(_starved_measures.VARIANTS, used),
        "share": 1 - harm,
        "saliency": changed.get("saliency", 0.3 + 0.4 * harm),
        "depth": changed.get("depth", 2 - harm + 0.001 * chance[0]),
        "invalid": 0.0,
        "votes": {"core": (levels - (0.3 * harm) * np.array([1, 0.5, 0])).tolist(), "spurious": [0.55, 0.55, 0.56]},
        "told": {"core": [0.5, 0.5 + 0.4 * (harm < 0.6), 0.9], "spurious": [0.5 + 0.4 * (harm > 0.3), 0.9, 0.9]},
        "simple": {"dominoes": 0.7 + 0.05 * chance[1], "core": 0.9 + 0.01 * chance[2], "spurious": 0.9},
        "initial": kernel,
        "trained": kernel,
        "shuffled": kernel | {"accuracy": 0.5 + 0.02 * chance[3]},
    }


def rows(**changed):
    made, number = [], 0
    for pair in PAIRS:
        for core, spurious in (pair, pair[::-1]):
            for correlation in (0.9, 1.0):
                harm = (0.85 if (core, spurious) == pair else 0.05) + 0.05 * (correlation == 1) + 0.01 * number
                made += [row(core, spurious, correlation, seed, harm - 0.1, **changed) for seed in range(3)]
            number += 1
    return made


def reported(made):
    return _starved_report.report(made, told=0.75, layers=["input", "h1", "h2"])


@pytest.fixture(scope="module")
def faithful():
    """The report of networks that the theory predicts."""
    return reported(rows())


def holding(signatures):
    return {entry["name"]: entry["holds"] for entry in _rows.judged(signatures)}


def test_all_signatures_hold_where_the_theory_is_right(faithful):
    found = holding(faithful.signatures)
    assert len(found) == 12
    assert [name for name, holds in found.items() if not holds] == []


def test_signatures_fail_where_the_theory_is_wrong():
    found = holding(
        _starved_report.signatures(_starved_rows.gather(rows(kernel={"accuracy": 0.8}, saliency=0.5, depth=None), 0.75))
    )
    missed = {name for name, holds in found.items() if not holds}
    assert any("predicted accuracy and core-only accuracy" in name for name in missed)
    assert any("mean depth" in name for name in missed)
    assert any("saliency" in name for name in missed)
    assert not any("starvation and core-only" in name for name in missed)


def test_rows_of_the_summary(faithful):
    made = rows()
    lines = {line["name"]: line for line in faithful.rows}
    line = lines["rank correlation: kernel at initialisation: predicted accuracy and core-only accuracy"]
    x, y = (
        [np.mean([one[part]["random" if part == "accuracy" else "accuracy"] for one in made[i : i + 3]]) for i in at]
        for part, at in (("initial", range(0, len(made), 3)), ("accuracy", range(0, len(made), 3)))
    )
    assert line["measured"] == pytest.approx(rank_correlation(x, y))
    assert line["seeds"] == 20
    assert line["interval"][0] <= line["measured"] <= line["interval"][1]
    assert lines["kernel at initialisation: predicted accuracy, minus measured"]["measured"] == pytest.approx(0.01)
    assert lines["within tasks: kernel at initialisation: predicted accuracy and core-only accuracy"][
        "measured"
    ] == pytest.approx(1)
    name = "core MNIST 0/1, spurious MNIST 4/9, 0.9: core-only accuracy"
    assert lines[name]["measured"] == pytest.approx(np.mean([one["accuracy"]["random"] for one in made[:3]]))
    change = lines["rank correlation: starvation and core-only accuracy, after training minus at initialisation"]
    assert change["measured"] == 0


def test_depths_by_layer():
    votes = {"core": [0.4, 0.7, 0.5, 0.9, 0.9], "spurious": [0.6, 0.6, 0.6, 0.5, 0.9]}
    assert _starved_rows.turn({"votes": votes}) == 5
    assert _starved_rows.turn({"votes": {name: each[:4] for name, each in votes.items()}}) == 3
    assert _starved_rows.turn({"votes": {"core": [0.9], "spurious": [0.5]}}) == 0
    told = {"core": [0.5, 0.7, 0.74], "spurious": [0.8, 0.7, 0.9]}
    assert _starved_rows.lead(0.75)({"told": told}) == 3
    assert _starved_rows.lead(0.7)({"told": told}) == 1


def test_figures_show_the_tasks(faithful, figures, tmp_path):
    made = rows()
    for name, draw in faithful.figures.items():
        draw(tmp_path / name)
    assert set(figures) == {"predicted.png", "correlations.png", "depth.png", "starvation.png", "features.png"}
    first = figures["predicted.png"].axes[0]
    shown = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in first.lines if len(line.get_xdata()) == 1
    }
    used = np.mean([one["accuracy"]["random"] for one in made[:3]])
    assert any(place == pytest.approx((used + 0.01, used)) for place in shown)
    assert len(figures["correlations.png"].axes) == 4
    labels = [text.get_text() for text in figures["correlations.png"].axes[0].get_yticklabels()]
    assert labels == list(_starved_rows.PREDICTORS)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"pairs": ("digits_0_1+digits_8", "digits_2_7+digits_3_5")}, "pairs: expected two halves"),
        ({"pairs": ("digits_0_0+digits_8_9", "digits_2_7+digits_3_5")}, "pairs: expected two halves"),
        ({"pairs": ("digits_0_1+digits_0_1", "digits_2_7+digits_3_5")}, "pairs: expected two different halves"),
        ({"pairs": ("digits_0_1+digits_8_9", "digits_8_9+digits_0_1")}, "pairs: expected each pair once"),
        ({"batch_size": 101}, "batch_size: expected at most n = 100"),
        ({"queries": 51}, "queries: expected at most test = 50"),
        ({"k": 51}, "k: expected at most the smaller of n and test, 50"),
    ],
)
def test_numbers_that_do_not_fit_together(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        starvation_and_depth.check(dataclasses.replace(SMOKE, **change))


def test_presets_have_as_many_layers_as_the_network():
    for config in starvation_and_depth.PRESETS.values():
        starvation_and_depth.check(config)
        network = starvation_and_depth.build(config)
        x = jax.ShapeDtypeStruct((1, 16 if config.stride == 1 and "digits" in config.pairs[0] else 28, 14, 1), float)
        assert ["input", *networks.stages.names(network, x)] == starvation_and_depth.layers(config)


@pytest.mark.slow
def test_smoke_run_interrupted_and_finished(tmp_path, interrupt_after, figures):
    """The run is stopped after one task and finished; rows, signatures and figures."""
    cells = interrupt_after(1)
    pairs = ["digits_0_1+digits_8_9", "digits_2_7+digits_3_5"]
    command = ["starvation_and_depth", "--preset", "smoke", "--out", str(tmp_path), "--pairs", *pairs]
    assert main(command) == 130
    assert main(command) == 0
    assert [cell["core"] for cell in cells] == ["digits_0_1", "digits_8_9", "digits_2_7", "digits_3_5"]
    made = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(made) == 4 * SMOKE.seeds
    for one in made:
        assert all(fits(one[name], kind) for name, kind in _starved_measures.COLUMNS.items())
        assert one["finite"]
        assert one["initial"]["converged"]
        assert one["trained"]["converged"]
        assert len(one["votes"]["core"]) == len(starvation_and_depth.layers(SMOKE))
    assert made[0]["initial"] != made[1]["initial"]
    assert set(figures) == {"predicted.png", "correlations.png", "depth.png", "starvation.png", "features.png"}
