"""The equilibrium of a kernel that is known by its products, against dense linear algebra and `dual.equilibrium`."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.special import expit

from gsjax import Ridge, SpectralDecoupling, dual, features, networks, starvation, tangent
from tests.operators import hidden, kernel, logistic, optimum

TOP = 4
Y = np.where(np.random.default_rng(7).random(60) < 0.5, 1.0, -1.0)


@pytest.mark.parametrize(("decades", "strength"), [(1, 5.0), (3, 0.1), (3, 1e-3)])
def test_products_versus_dense_algebra(decades, strength, x64):
    matrix = kernel(60, decades)
    operator, y = hidden(matrix, x64), jnp.asarray(Y, x64)
    feats = features.from_operator(operator, y, top=TOP)
    found = dual.equilibrium_from_operator(operator, y, Ridge(strength), feats=feats)
    expected = optimum(Y[:, None] * matrix * Y, strength, logistic)
    assert found.converged
    assert not found.decoupled
    assert {found.alpha.dtype, found.margins.dtype, found.response.dtype} == {jnp.dtype(x64)}
    # Products have errors of eps times the largest strength over that of the penalty.
    eps = float(jnp.finfo(x64).eps)
    tolerance = 10 * eps ** (2 / 3) + eps * 10 / strength
    np.testing.assert_allclose(found.margins, expected.outputs, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.alpha, expected.dual, rtol=10 * tolerance)
    response = np.asarray(feats.u, float).T @ expected.outputs
    np.testing.assert_allclose(found.response, response, rtol=10 * tolerance)
    assert max(found.residual, found.error) <= eps**0.5


def test_it_is_the_equilibrium_of_all_features():
    """And the control: that of the given features alone differs by far more than the tolerance."""
    matrix, y = kernel(20, 1), jnp.asarray(Y[:20], jnp.float32)
    operator, penalty = hidden(matrix, jnp.float32), Ridge(0.5)
    feats = features.from_operator(operator, y, top=TOP)
    found = dual.equilibrium_from_operator(operator, y, penalty, feats=feats)
    expected = dual.equilibrium(features.from_ntk(jnp.asarray(matrix, jnp.float32), y), penalty)
    np.testing.assert_allclose(found.margins, expected.margins, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.alpha, expected.alpha, rtol=1e-4)
    low_rank = dual.equilibrium(feats, penalty)
    assert np.max(np.abs(1 - low_rank.response / found.response)) > 0.05


def test_products_are_counted_and_known_features_save_some(x64):
    matrix, y, counts = kernel(60, 3), jnp.asarray(Y, x64), []
    for top in (1, 12):
        calls: list[None] = []
        operator = hidden(matrix, x64, calls=calls)
        feats = features.from_operator(operator, y, top=top)
        jax.effects_barrier()
        before = len(calls)
        found = dual.equilibrium_from_operator(operator, y, Ridge(1e-2), feats=feats)
        jax.effects_barrier()
        # The first product may be repeated to find the scale of the vectors.
        assert found.products <= len(calls) - before <= found.products + 3
        counts.append(found.products)
    assert counts[1] < 0.7 * counts[0]


def test_decoupling_solves_the_equation_of_each_example():
    matrix, y = kernel(20, 1), jnp.asarray(Y[:20], jnp.float32)
    operator = hidden(matrix, jnp.float32)
    feats = features.from_operator(operator, y, top=TOP)
    strength, target = np.linspace(0.1, 2.0, 20), 0.5 * Y[:20]
    penalty = SpectralDecoupling(jnp.asarray(strength), jnp.asarray(target))
    found = dual.equilibrium_from_operator(operator, y, penalty, feats=feats)
    margins = np.asarray(found.margins, float)
    np.testing.assert_allclose(strength * (margins - Y[:20] * target), 1 / (1 + np.exp(margins)), rtol=1e-5)
    np.testing.assert_allclose(found.alpha, 1 / (1 + np.exp(margins)), rtol=1e-6)
    np.testing.assert_allclose(found.response, np.asarray(feats.u).T @ margins, atol=1e-5)
    assert (found.products, found.decoupled, found.converged) == (0, True, True)
    expected = dual.equilibrium(features.from_ntk(jnp.asarray(matrix, jnp.float32), y), penalty)
    np.testing.assert_allclose(found.margins, expected.margins, rtol=1e-4)


@pytest.mark.parametrize("most", [1, 5, 60])
def test_too_few_products_are_said(most):
    operator, y = hidden(kernel(60, 3), jnp.float32), jnp.asarray(Y, jnp.float32)
    feats = features.from_operator(operator, y, top=TOP)
    few = dual.equilibrium_from_operator(operator, y, Ridge(0.01), feats=feats, max_products=most)
    assert not few.converged
    assert few.products <= most + 1


def test_a_tolerance_out_of_reach_is_not_converged():
    operator, y = hidden(kernel(60, 3), jnp.float32), jnp.asarray(Y, jnp.float32)
    feats = features.from_operator(operator, y, top=TOP)
    found = dual.equilibrium_from_operator(operator, y, Ridge(0.01), feats=feats, tolerance=1e-12)
    assert not found.converged
    assert 1e-12 < max(found.residual, found.error) < 1e-3


@pytest.mark.slow
def test_a_network_of_thousands_of_examples_without_its_kernel():
    """By products with the network alone, against dense linear algebra with its kernel."""
    n, strength, rng = 3000, 1.0, np.random.default_rng(0)
    x = rng.normal(size=(n, 12))
    y = np.where(x[:, 0] + 0.5 * np.sin(3 * x[:, 1]) + 0.3 * x[:, 2] * x[:, 3] > 0, 1.0, -1.0)
    with jax.enable_x64(True):
        network = networks.MLP((64, 64))
        params = network.init(jax.random.key(0), x)
        known = tangent.ntk_operator(network.apply, params, x)
        # Of another type than that of `tangent`, so that it is not replaced by its matrix.
        operator = lx.FunctionLinearOperator(known.fn, known.in_structure(), known.tags, closure_convert=False)
        feats = features.from_operator(operator, y, top=6)
        found = dual.equilibrium_from_operator(operator, y, Ridge(strength), feats=feats)
        slopes = starvation.matrix_from_operator(operator, y, Ridge(strength), feats=feats, equilibrium=found)
        kernel = y[:, None] * np.asarray(tangent.ntk(network.apply, params, x)) * y
    assert found.converged
    assert slopes.converged
    assert found.products + slopes.products < n / 2
    m, u = np.asarray(found.margins), np.asarray(feats.u)
    a, curvature = expit(-m), expit(m) * expit(-m)
    lacking = kernel @ a / strength - m
    # The Newton step of the dense problem is the error of the margins.
    steps = np.linalg.solve(np.eye(n) + kernel * curvature / strength, np.column_stack([lacking, u]))
    assert np.max(np.abs(steps[:, 0])) < 1e-8
    np.testing.assert_allclose(found.response, u.T @ (m + steps[:, 0]), rtol=1e-8)
    expected = np.where(u.T @ m < 0, -1, 1)[:, None] * (u.T @ steps[:, 1:]) * (u.T @ a) / strength
    np.testing.assert_allclose(slopes.matrix, expected, rtol=1e-6)


OPERATOR = hidden(kernel(20, 1), np.float32)
WEAKEST = features.from_ntk(kernel(20, 1, seed=1).astype(np.float32), Y[:20])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": lx.MatrixLinearOperator(jnp.eye(20))}, "operator: expected a lineax operator that is tagged"),
        ({"operator": hidden(np.eye(20), np.float32, (10, 2))}, r"operator: expected one on vectors \(n,\)"),
        ({"operator": hidden(np.full((20, 20), np.nan), np.float32)}, "operator: expected finite products"),
        ({"y": jnp.ones(19)}, r"y: expected shape \(20,\)"),
        ({"y": jnp.ones(20)}, "feats: expected features of these 20 examples and labels"),
        ({"feats": WEAKEST}, "feats: expected features of this operator, got a relative residual of"),
        ({"penalty": 0.1}, "penalty: expected"),
        ({"penalty": Ridge(jnp.ones(20))}, "strength: expected"),
        ({"tolerance": 0.0}, "tolerance: expected a finite positive number"),
        ({"max_products": 0}, "max_products: expected a whole number"),
    ],
)
@pytest.mark.parametrize("function", [dual.equilibrium_from_operator, starvation.matrix_from_operator])
def test_what_is_refused(function, change, message):
    arguments = {"operator": OPERATOR, "y": Y[:20], "penalty": Ridge(1.0)}
    arguments["feats"] = features.from_operator(OPERATOR, Y[:20], top=2)
    arguments |= change
    operator, y, penalty = (arguments.pop(name) for name in ("operator", "y", "penalty"))
    with pytest.raises(ValueError, match=message):
        function(operator, y, penalty, **arguments)
