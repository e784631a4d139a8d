"""The starvation matrix of a kernel that is known by its products, against its definition in dense linear algebra."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, SpectralDecoupling, dual, features, starvation
from tests.operators import hidden, kernel, logistic, optimum, slopes

TOP = 4
Y = np.where(np.random.default_rng(7).random(60) < 0.5, 1.0, -1.0)


@pytest.mark.parametrize(("decades", "strength"), [(1, 5.0), (3, 0.1), (3, 1e-3)])
def test_every_entry_is_that_of_the_definition(decades, strength, x64):
    """Relative to itself; entries far from the diagonal are up to 1e5 times smaller than the others."""
    matrix, calls = kernel(60, decades), []
    operator, y = hidden(matrix, x64, calls=calls), jnp.asarray(Y, x64)
    feats = features.from_operator(operator, y, top=TOP)
    found = dual.equilibrium_from_operator(operator, y, Ridge(strength), feats=feats)
    jax.effects_barrier()
    before = len(calls)
    made = starvation.matrix_from_operator(operator, y, Ridge(strength), feats=feats, equilibrium=found)
    jax.effects_barrier()
    assert made.converged
    assert made.matrix.dtype == x64
    assert made.products <= len(calls) - before <= made.products + 3
    signed = Y[:, None] * matrix * Y
    expected = slopes(signed, strength, optimum(signed, strength, logistic), np.asarray(feats.u, float))
    np.testing.assert_allclose(made.matrix, expected, rtol=20 * float(jnp.finfo(x64).eps) ** 0.5)
    assert made.error <= float(jnp.finfo(x64).eps) ** 0.5


def test_it_is_the_block_of_the_whole_matrix():
    """And the control: the matrix of the given features alone differs by far more than the tolerance."""
    matrix, y = kernel(20, 1), jnp.asarray(Y[:20], jnp.float32)
    operator, penalty = hidden(matrix, jnp.float32), Ridge(0.5)
    feats = features.from_operator(operator, y, top=TOP)
    whole = features.from_ntk(jnp.asarray(matrix, jnp.float32), y)
    sign = np.sign(np.sum(np.asarray(feats.u) * np.asarray(whole.u[:, :TOP]), axis=0))
    for oriented in (True, False):
        found = starvation.matrix_from_operator(operator, y, penalty, feats=feats, oriented=oriented)
        expected = np.asarray(starvation.matrix(whole, penalty, oriented=oriented))[:TOP, :TOP]
        expected = expected if oriented else sign[:, None] * expected
        np.testing.assert_allclose(found.matrix, expected, rtol=1e-3)
    alone = np.asarray(starvation.matrix(feats, penalty, oriented=False))
    assert np.max(np.abs(1 - np.diag(alone) / np.diag(found.matrix))) > 0.05


def test_errors_of_the_features_are_corrected_to_first_order():
    """Features turned by about 2e-5 towards the others: the entries stay those of the definition, for these features.

    Without the correction they would be wrong by about s^2 D / lambda = 2500 times as much.
    """
    with jax.enable_x64(True):
        matrix, strength, rng = kernel(60, 3), 1e-3, np.random.default_rng(3)
        signed = Y[:, None] * matrix * Y
        operator = hidden(matrix, float)
        u = np.asarray(features.from_operator(operator, Y, top=TOP).u)
        u = np.linalg.qr(u + 3e-6 * rng.normal(size=u.shape))[0]
        s = np.sqrt(np.diag(u.T @ signed @ u))
        feats = features.from_spectrum(jnp.asarray(u), jnp.asarray(s), jnp.asarray(Y))
        found = starvation.matrix_from_operator(operator, Y, Ridge(strength), feats=feats, tolerance=1e-3)
    expected = slopes(signed, strength, optimum(signed, strength, logistic), u)
    assert found.converged
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-3)
    assert found.error > 1e-9


def test_what_is_not_known_to_the_tolerance_is_nan():
    operator, y = hidden(kernel(60, 3), jnp.float32), jnp.asarray(Y, jnp.float32)
    feats, penalty = features.from_operator(operator, y, top=TOP), Ridge(0.01)
    few = dual.equilibrium_from_operator(operator, y, penalty, feats=feats, max_products=5)
    found = dual.equilibrium_from_operator(operator, y, penalty, feats=feats)
    for options in (
        {"equilibrium": few},
        {"equilibrium": found, "max_products": 2},
        {"equilibrium": found, "max_products": 12},
        {"equilibrium": found, "tolerance": 1e-14},
        {"max_products": 12},
    ):
        made = starvation.matrix_from_operator(operator, y, penalty, feats=feats, **options)
        assert not made.converged
        assert np.isnan(made.matrix).all()


def test_nothing_starves_under_decoupling():
    operator, y = hidden(kernel(20, 1), jnp.float32), jnp.asarray(Y[:20], jnp.float32)
    feats = features.from_operator(operator, y, top=TOP)
    made = starvation.matrix_from_operator(operator, y, SpectralDecoupling(0.1), feats=feats)
    assert (made.products, made.converged, made.error) == (0, True, 0.0)
    assert made.matrix.shape == (TOP, TOP)
    assert not np.any(made.matrix)


def test_an_equilibrium_of_something_else_is_refused():
    operator, y = hidden(kernel(20, 1), jnp.float32), jnp.asarray(Y[:20], jnp.float32)
    feats = features.from_operator(operator, y, top=TOP)
    other = dual.equilibrium_from_operator(operator, y, SpectralDecoupling(0.1), feats=feats)
    for change in ({"margins": other.margins[:10]}, {"response": other.response[:2]}):
        with pytest.raises(ValueError, match="equilibrium: expected margins and responses of shapes"):
            starvation.matrix_from_operator(operator, y, Ridge(1.0), feats=feats, equilibrium=other._replace(**change))
