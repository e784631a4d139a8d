"""The equilibrium and the starvation matrix of a kernel that is known by its products, against those of the matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from gsjax import Ridge, SpectralDecoupling, dual, features, networks, starvation, tangent

TOP = 4


def problem(n, decades, dtype, seed=0):
    """A kernel with strengths over some decades, as a matrix and as an operator that does not show it."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = (q * (10 * np.logspace(0, -decades, n))) @ q.T
    matrix = jnp.asarray((matrix + matrix.T) / 2, dtype)
    y = jnp.asarray(np.where(rng.random(n) < 0.5, 1, -1), dtype)
    structure = jax.ShapeDtypeStruct((n,), matrix.dtype)
    operator = lx.FunctionLinearOperator(lambda v: matrix @ v, structure, lx.positive_semidefinite_tag)
    return matrix, y, operator


@pytest.mark.parametrize(
    ("n", "decades", "strength"), [(60, 1, 5.0), (60, 3, 0.1), pytest.param(100, 3, 1e-3, marks=pytest.mark.slow)]
)
def test_products_versus_matrix(n, decades, strength, x64):
    matrix, y, operator = problem(n, decades, x64)
    penalty, whole = Ridge(strength), features.from_ntk(matrix, y)
    feats = features.from_operator(operator, y, top=TOP)
    sign = np.sign(np.sum(np.asarray(feats.u) * np.asarray(whole.u[:, :TOP]), axis=0))
    expected = dual.equilibrium(whole, penalty)
    found = dual.equilibrium_from_operator(operator, y, penalty, feats=feats)
    assert found.converged
    assert not found.decoupled
    assert found.products > 0
    tolerance = 10 * float(jnp.finfo(x64).eps) ** 0.5
    np.testing.assert_allclose(found.margins, expected.margins, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.alpha, expected.alpha, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(sign * found.response, expected.response[:TOP], rtol=tolerance)

    slopes = starvation.matrix_from_operator(operator, y, penalty, feats=feats, equilibrium=found)
    whole_slopes = np.asarray(starvation.matrix(whole, penalty))[:TOP, :TOP]
    assert slopes.converged
    assert slopes.products > 0
    np.testing.assert_allclose(slopes.matrix, whole_slopes, rtol=tolerance, atol=tolerance * np.abs(whole_slopes).max())
    signed = starvation.matrix_from_operator(operator, y, penalty, feats=feats, equilibrium=found, oriented=False)
    kept = np.asarray(starvation.matrix(whole, penalty, oriented=False))[:TOP, :TOP]
    np.testing.assert_allclose(sign[:, None] * signed.matrix, kept, rtol=tolerance, atol=tolerance * np.abs(kept).max())


def test_the_low_rank_approximation_would_be_wrong():
    """The control: without the other features, responses and sensitivities differ by far more than the tolerance."""
    _, y, operator = problem(60, 1, float)
    feats = features.from_operator(operator, y, top=TOP)
    found = dual.equilibrium_from_operator(operator, y, Ridge(0.5), feats=feats)
    low_rank = dual.equilibrium(feats, Ridge(0.5))
    assert np.max(np.abs(1 - low_rank.response / found.response)) > 0.05
    slopes = starvation.matrix_from_operator(operator, y, Ridge(0.5), feats=feats, equilibrium=found)
    assert np.max(np.abs(1 - np.diag(starvation.matrix(feats, Ridge(0.5))) / np.diag(slopes.matrix))) > 0.05


def test_decoupling_solves_the_equation_of_each_example():
    matrix, y, operator = problem(20, 1, float)
    feats = features.from_operator(operator, y, top=TOP)
    strength, target = jnp.linspace(0.1, 2.0, 20), 0.5 * y
    penalty = SpectralDecoupling(strength, target)
    found = dual.equilibrium_from_operator(operator, y, penalty, feats=feats)
    expected = dual.equilibrium(features.from_ntk(matrix, y), penalty)
    np.testing.assert_allclose(found.margins, expected.margins, rtol=1e-4)
    assert (found.products, found.decoupled, found.converged) == (0, True, True)
    slopes = starvation.matrix_from_operator(operator, y, penalty, feats=feats)
    assert not np.any(slopes.matrix)
    assert slopes.products == 0


def test_too_few_products_are_said_and_give_no_numbers():
    _, y, operator = problem(60, 3, float)
    feats = features.from_operator(operator, y, top=TOP)
    few = dual.equilibrium_from_operator(operator, y, Ridge(0.01), feats=feats, max_products=5)
    assert not few.converged
    assert np.isnan(
        starvation.matrix_from_operator(operator, y, Ridge(0.01), feats=feats, equilibrium=few).matrix
    ).all()
    solved = dual.equilibrium_from_operator(operator, y, Ridge(0.01), feats=feats)
    slopes = starvation.matrix_from_operator(operator, y, Ridge(0.01), feats=feats, equilibrium=solved, max_products=2)
    assert not slopes.converged
    assert np.isnan(slopes.matrix).all()


@pytest.mark.slow
def test_a_network_matrix_free_versus_matrix():
    """The kernel of a network that is too large to be held, by products alone, against the decomposed matrix."""
    from gsjax import data

    x, y = data.digits((3, 8), n=340)
    network = networks.MLP((64, 64))
    params = network.init(jax.random.key(0), x)
    kernel = tangent.ntk(network.apply, params, x)
    operator = tangent.ntk_operator(network.apply, params, x)
    hidden = lx.FunctionLinearOperator(operator.mv, operator.in_structure(), operator.tags)
    feats = features.from_operator(hidden, y, top=8)
    found = dual.equilibrium_from_operator(hidden, y, Ridge(0.5), feats=feats)
    expected = dual.equilibrium(features.from_ntk(kernel, y, rtol=0.0), Ridge(0.5))
    assert found.converged
    np.testing.assert_allclose(found.margins, expected.margins, atol=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": lx.MatrixLinearOperator(jnp.eye(20))}, "operator: expected a lineax operator that is tagged"),
        ({"y": jnp.ones(19)}, r"y: expected shape \(20,\)"),
        ({"y": jnp.ones(20)}, "feats: expected features of these 20 examples and labels"),
        ({"penalty": 0.1}, "penalty: expected"),
        ({"tolerance": 0.0}, "tolerance: expected a finite positive number"),
        ({"max_products": 0}, "max_products: expected a whole number"),
    ],
)
def test_what_is_refused(change, message):
    _, y, operator = problem(20, 1, float)
    arguments = {
        "operator": operator,
        "y": y,
        "penalty": Ridge(1.0),
        "feats": features.from_operator(operator, y, top=2),
    }
    arguments |= change
    operator, y, penalty = (arguments.pop(name) for name in ("operator", "y", "penalty"))
    with pytest.raises(ValueError, match=message):
        dual.equilibrium_from_operator(operator, y, penalty, **arguments)
