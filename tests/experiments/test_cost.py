"""What kernels cost: counts against formulas, measurements, and what is made of the rows."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments import _cost_counts, _cost_report, _cost_worker, _markdown, _page, cost
from experiments.__main__ import main
from experiments._multiplications import multiplications
from gsjax import dual, features, records, tangent
from gsjax.objectives import Ridge
from gsjax.tangent import empirical
from tests.experiments.figures import record_figures
from tests.plotting.shown import points

SMOKE = cost.PRESETS["smoke"]
WIDTH = 64


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_are_counted():
    assert multiplications(jnp.matmul, spec(2, 3), spec(3, 5)) == 2 * 3 * 5
    assert multiplications(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), spec(4, 2, 3), spec(4, 5, 3)) == 4 * 2 * 5 * 3
    assert multiplications(lambda a: jnp.sin(a) * a, spec(9)) == 0
    assert multiplications(jax.vmap(lambda a: a @ a), spec(7, 3, 3)) == 7 * 27
    assert multiplications(jax.jit(lambda a: jax.checkpoint(jnp.matmul)(a, a)), spec(3, 3)) == 27


def convolve(x, w, stride=1, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (stride,) * 2, "SAME", dimension_numbers=numbers, feature_group_count=groups)


def test_convolutions_are_counted_forwards_and_backwards():
    """Each pass of a convolution has positions x window x channels in x channels out, with stride or without."""
    x, w = spec(2, 8, 8, 3), spec(3, 3, 3, 5)
    assert multiplications(convolve, x, w) == 2 * 64 * 9 * 3 * 5
    assert multiplications(lambda x, w: convolve(x, w, groups=3), x, spec(3, 3, 1, 6)) == 2 * 64 * 9 * 6
    for stride in (1, 2):
        once = 2 * (8 // stride) ** 2 * 9 * 3 * 5
        y = jax.eval_shape(lambda x, w, stride=stride: convolve(x, w, stride), x, w)
        for position in (0, 1):

            def backwards(x, w, y, position=position, stride=stride):
                given = (x, w)

                def function(value):
                    return convolve(*(value if i == position else given[i] for i in range(2)), stride=stride)

                return jax.linear_transpose(function, given[position])(y)

            assert multiplications(backwards, x, w, y) == once


def test_loops_and_branches_are_counted():
    def steps(x):
        return lax.scan(lambda x, _: (x @ x, None), x, None, length=6)[0]

    def branches(x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert multiplications(steps, spec(3, 3)) == 6 * 27
    assert multiplications(lambda x: lax.map(lambda a: a @ a, x), spec(5, 3, 3)) == 5 * 27
    assert multiplications(branches, spec(3, 3)) == 2 * 27
    assert multiplications(lambda x: lax.while_loop(lambda x: x[0] > 0, lambda x: x - 1, x), spec(3)) == 0
    with pytest.raises(ValueError, match="a while loop with products"):
        multiplications(lambda x: lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x), spec(3, 3))


SIZES = [(3072, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)]


def test_the_counts_of_a_fully_connected_network_are_those_of_its_layers():
    """Forward, backward without the first layer, and two Gram matrices per layer, which are cheaper for n < 60."""
    n = 40
    found = _cost_counts.work("mlp", WIDTH, n)
    layers = [fan_in * fan_out for fan_in, fan_out in SIZES]
    assert found.parameters == sum(layers)
    assert found.forward == n * sum(layers)
    # Gradients do not need the outputs, and the last cotangents are the same for all examples.
    assert found.factors == n * (sum(layers[:2]) + layers[1]) + layers[2]
    grams = [min(n**2 * (a + b), 2 * n * a * b + n**2 * a * b) for a, b in SIZES]
    assert found.contraction == sum(grams) == n**2 * sum(a + b for a, b in SIZES[:2]) + grams[2]
    assert found.total == found.factors + found.contraction
    triangle = n * (n + 1) // 2
    least = sum(min(triangle * (a + b), n * a * b + triangle * a * b) for a, b in SIZES)
    assert found.floor == n * (sum(layers) + sum(layers[1:])) + least
    # Back to all gradients, and forward along them.
    assert found.product == n * (2 * sum(layers) + 2 * sum(layers[1:]))
    assert (found.blocks, found.size, found.kernel_bytes) == (1, n, 4 * n * n)


def test_the_contraction_is_that_of_the_plan():
    """`tangent.explain` counts it from the forms of the gradients, without the program."""
    n, network = 10, _cost_counts.network("mlp", WIDTH)
    x = jnp.ones(_cost_counts.shape(n))
    explained = tangent.explain(network.apply, _cost_counts.variables("mlp", WIDTH, 0), x)
    assert {leaf.way for leaf in explained.leaves} == {"Gram matrices"}
    assert sum(leaf.multiplications for leaf in explained.leaves) == _cost_counts.work("mlp", WIDTH, n).contraction


def test_factors_count_as_often_as_blocks_need_them(monkeypatch):
    whole = _cost_counts.work("mlp", WIDTH, 40)
    monkeypatch.setattr(empirical, "_FACTORS", whole.factor_bytes // 4 // 4)
    found = _cost_counts.work("mlp", WIDTH, 40)
    assert (found.size, found.blocks) == (10, 10)
    each = (whole.factors - WIDTH) // 40
    assert found.factors == 10 * (10 * each + WIDTH)
    assert found.contraction == whole.contraction * 10 // 16
    assert found.floor == whole.floor
    assert found.factor_bytes == whole.factor_bytes * 2 // 4


@pytest.mark.parametrize("kind", ["cnn", pytest.param("transformer", marks=pytest.mark.slow)])
def test_a_kernel_costs_no_less_than_its_floor(kind):
    found = _cost_counts.work(kind, WIDTH, 12)
    assert 0 < found.forward < found.floor <= found.total
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(_cost_counts.variables(kind, WIDTH, 0)))
    assert found.product > 2 * found.forward


@pytest.mark.slow
def test_a_worker_measures_what_the_library_computes():
    options = {"width": WIDTH, "seed": 3, "side": 16, "patience": 0.01, "decomposed": 12}
    found = _cost_worker.measure("mlp", n=12, **options)
    assert all(found[name] > 0 for name in ("kernel", "first", "unit", "product", "kernel64", "eigh", "equilibrium"))
    assert found["peak"] >= 0
    with jax.enable_x64(True):
        given = _cost_counts.variables("mlp", WIDTH, 3)
        x = jax.random.normal(jax.random.key(4), _cost_counts.shape(12), jnp.float32)
        given, x = jax.tree.map(lambda leaf: leaf.astype(float), (given, x))
        kernel = tangent.ntk(_cost_counts.network("mlp", WIDTH).apply, given, x)
        y = jnp.asarray(np.where(np.random.default_rng(3).random(12) < 0.5, -1.0, 1.0))
        feats = features.from_ntk(kernel, y)
        state = dual.equilibrium(feats, Ridge(float(feats.s2[0]) / 1e4))
    assert (found["rank"], found["converged"]) == (12, 1)
    assert abs(found["iterations"] - int(state.iterations)) <= 1
    assert found["products"] == 12  # as many as there are dimensions
    assert "eigh" not in _cost_worker.measure("mlp", n=12, **{**options, "decomposed": 8})


def test_the_least_of_several_calls_counts(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 13.0, 20.0, 22.0, 30.0, 34.0])
    monkeypatch.setattr(_cost_worker.time, "perf_counter", lambda: next(clock))
    assert _cost_worker.least(lambda: 0, 100.0) == (9.0, 2.0)
    clock = iter([0.0, 9.0, 10.0, 13.0])
    assert _cost_worker.least(lambda: 0, 1.0) == (9.0, 3.0)


FOUND = {"machine": "abacus", "peak": 5.0, "first": 9.0, "kernel": 2.0, "unit": 0.5, "product": 1.0, "kernel64": 5.0}
WORK = _cost_counts.Work(7, 100, 300, 500, 800, 400, 200, 3, 50, 2**20, 2**21)


def test_measurements_are_told_as_ratios():
    line = cost.told("mlp", 9, WORK, FOUND, dataclasses.replace(SMOKE, side=2))
    assert line["float64 / float32"] == 2.5
    assert line["matrix-free product / kernel"] == 0.5
    # 800 multiplications in 2 seconds, where the matrix product has 8 in half a second
    assert line["speed, of a matrix product's"] == 25.0
    assert line["eigendecomposition, seconds"] is None
    assert cost.told("cnn", 9, WORK, {}, SMOKE) == {"network": "CNN", "n": 9, "kernel, seconds": "by count only"}


def made(kind, n, **changes):
    solved = {"rank": n, "iterations": 6, "converged": 1, "products": 20}
    return {"kind": kind, "n": n, **WORK._asdict(), "computed": True, **solved, **changes}


def test_rows_of_the_summary_are_ratios_of_counts():
    config = dataclasses.replace(SMOKE, kinds=("mlp",), ns=(10, 20))
    nothing = dict.fromkeys(("rank", "iterations", "converged", "products"))
    rows = [made("mlp", 10), made("mlp", 20, computed=False, **nothing)]
    found = cost._cost_report.report(rows, config, list)
    values = {row["name"]: row["measured"] for row in found.rows}
    assert values["MLP, n = 10: multiplications / floor"] == 2.0
    assert values["MLP, n = 10: of which contraction"] == 500 / 800
    assert values["MLP, n = 10: multiplications / forward passes"] == 8.0
    assert values["MLP, n = 10: factors, MiB"] == 2.0
    assert values["MLP, n = 10: matrix-free / kernel"] == 20 * 200 / 800
    assert values["MLP, n = 10: eigendecomposition / kernel"] == pytest.approx(2000 / 3 / 800)
    assert "MLP, n = 20: matrix-free / kernel" not in values
    notes = {row["name"]: row["differs"] for row in found.rows}
    assert notes["MLP, n = 20: multiplications"] == "by count only"
    assert notes["MLP, n = 10: multiplications"] is None


def test_figures_show_counts_and_seconds(monkeypatch, tmp_path):
    figures = record_figures(monkeypatch, write=False)
    config = dataclasses.replace(SMOKE, kinds=("mlp",), ns=(10, 20))
    rows = [made("mlp", 10), made("mlp", 20, total=1600)]
    _cost_report.draw_counts(rows, config, tmp_path / "counts.png")
    left, middle, _ = figures["counts.png"].axes
    np.testing.assert_allclose(points(left.lines[0]), [[10, 800], [20, 1600]])
    np.testing.assert_allclose(points(middle.lines[0]), [[10, 2], [20, 4]])
    told = [
        cost.told("mlp", n, WORK, {**FOUND, "eigh": 0.1, "equilibrium": 1.0, "starvation": 2.0}, SMOKE)
        for n in (20, 10)
    ]
    _cost_report.draw_seconds([*told, cost.told("mlp", 30, WORK, {}, SMOKE)], config, tmp_path / "seconds.png")
    left, _, right = figures["seconds.png"].axes
    np.testing.assert_allclose(points(left.lines[0]), [[10, 2], [20, 2]])
    np.testing.assert_allclose(points(right.lines[0]), [[10, 2.5], [20, 2.5]])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--ns", "16", "8"], "--ns: expected increasing numbers"),
        (["--width", "100"], "--width: expected a multiple of 64, got 100"),
        (["--limit", "0"], "--limit: expected a finite number above 0"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, one_line):
    assert main(["cost", "--preset", "smoke", "--out", str(tmp_path / "out"), *flags]) == 2
    assert complaint in one_line()


def test_a_process_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(cost.sys, "executable", "false")
    with pytest.raises(ValueError, match="mlp, n = 8: expected measurements from a process, got status 1"):
        cost.measured("mlp", 8, SMOKE, 0)


def test_seconds_become_a_table(tmp_path):
    folder = tmp_path / "cost" / "laptop"
    (folder / "seconds").mkdir(parents=True)
    records.summary(folder, experiment="cost", preset="laptop", config={}, data=[], rows=[], signatures=[])
    found = {"cost/laptop": _page.read(folder / "summary.json")}
    text = "<!-- seconds: cost -->\nold\n<!-- end -->\n"
    with pytest.raises(ValueError, match="no files in seconds/"):
        _markdown.fill(text, found)
    assert "No record of cost" in _markdown.fill(text, {})
    for n, line in ((9, {"network": "MLP", "n": 9, "s": 0.125}), (8, {"network": "MLP", "n": 8, "s": "by count only"})):
        (folder / "seconds" / f"mlp_{n}.json").write_text(json.dumps(line))
    assert _markdown.fill(text, found).splitlines()[1:-1] == [
        "| network | n | s |",
        "| --- | --- | --- |",
        "| MLP | 8 | by count only |",
        "| MLP | 9 | 0.125 |",
    ]
    (folder / "seconds" / "mlp_8.json").write_text("{")
    with pytest.raises(ValueError, match=r"mlp_8\.json is damaged"):
        _markdown.fill(text, found)


@pytest.mark.slow
def test_smoke_run(tmp_path, figures):
    """Kernels beyond the limit are counted alone; seconds are in no summary."""
    limit = _cost_counts.work("mlp", WIDTH, 8).total
    options = ["--kinds", "mlp", "--limit", str(float(limit)), "--out", str(tmp_path / "out")]
    assert main(["cost", "--preset", "smoke", *options]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [(row["n"], row["computed"], row["products"]) for row in rows] == [(8, True, 8), (16, False, None)]
    told = json.loads((tmp_path / "out" / "seconds" / "mlp_000008.json").read_text())
    assert told["kernel, seconds"] > 0
    assert "seconds" not in (tmp_path / "out" / "summary.json").read_text()
    assert figures.keys() == {"counts.png", "seconds.png"}
