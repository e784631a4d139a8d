"""Closed forms: Eqs. 12 and 13 solve Eq. 10; Lemma 1 and Theorem 2 are exact to the order that they claim."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.special import lambertw

from gsjax import Ridge, dual, features
from gsjax.dual import closed_form
from tests.instances import ROUNDING, equilibrium, orthogonal, ridge_field, rotation, slope

U = orthogonal(np.random.default_rng(0), 4)
DELTAS = np.geomspace(1e-3, 1e-1, 7)


@pytest.mark.parametrize("strength", [1e-6, 1e-2, 1.0, 1e3])
def test_equal_strengths(x64, strength):
    s2 = 4.0
    alpha, response = closed_form.equal_strengths(s2, U, strength)
    w = lambertw(s2 / strength + 1).real
    tolerance = ROUNDING[x64]
    np.testing.assert_allclose(alpha, strength * w / (s2 + strength), rtol=tolerance)  # Eq. 12
    np.testing.assert_allclose(response, s2 * w / (s2 + strength) * U.sum(0), rtol=10 * tolerance, atol=tolerance)
    assert alpha.dtype == response.dtype == x64
    if x64 is jnp.float64:
        field = ridge_field(s2 * np.eye(4), strength, np.asarray(alpha), "linearized")
        np.testing.assert_allclose(field, 0, atol=1e-12)


def test_a_permutation(x64):
    s2 = np.array([9.0, 0.0, 1.0, 1e-4])
    alpha, response = closed_form.permutation(s2, 0.1)
    w = lambertw(s2 / 0.1 + 1).real
    np.testing.assert_allclose(alpha, 0.1 * w / (s2 + 0.1), rtol=ROUNDING[x64])  # Eq. 13
    np.testing.assert_allclose(response, s2 * w / (s2 + 0.1), rtol=ROUNDING[x64])
    same, _ = closed_form.equal_strengths(2.0, U, 0.1)
    np.testing.assert_allclose(closed_form.permutation(np.full(4, 2.0), 0.1)[0], same, rtol=ROUNDING[x64])


def test_the_closed_forms_compile_and_differentiate():
    with jax.enable_x64(True):
        derivative = jax.jit(jax.jacrev(lambda s2: closed_form.permutation(s2, 0.1)[1]))(jnp.array([4.0, 1.0]))
        # z = (1 - 1 / x) W(x), x = s^2 / lambda + 1, and W' = W / (x (1 + W)).
        x = np.array([41.0, 11.0])
        w = lambertw(x).real
        expected = (w / x**2 + (1 - 1 / x) * w / (x * (1 + w))) / 0.1
        np.testing.assert_allclose(derivative, np.diag(expected), rtol=1e-12)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_error_of_lemma_1_is_of_second_order(strength):
    generator = np.random.default_rng(1).standard_normal((4, 4))
    s2 = np.array([9.0, 4.0, 1.0, 0.25])
    with jax.enable_x64(True):
        errors = []
        for delta in DELTAS:
            u = scipy.linalg.expm(delta * (generator - generator.T))
            exact = equilibrium(u, np.sqrt(s2), np.ones(4), Ridge(strength), form="linearized").alpha
            errors.append(np.abs(exact - closed_form.lemma1(u, s2, strength)).max())
        assert slope(DELTAS, errors) == pytest.approx(2, abs=0.15)
        # The negative control: alpha_0 alone is off to first order.
        start, _ = closed_form.permutation(s2, strength)
        errors = []
        for delta in DELTAS:
            u = scipy.linalg.expm(delta * (generator - generator.T))
            exact = equilibrium(u, np.sqrt(s2), np.ones(4), Ridge(strength), form="linearized").alpha
            errors.append(np.abs(exact - start).max())
        assert slope(DELTAS, errors) == pytest.approx(1, abs=0.15)


def test_lemma_1_is_equation_14_in_either_precision(x64):
    u, s2, strength = rotation(0.2), np.array([4.0, 1.0]), 0.5
    x = s2 / strength + 1
    start = lambertw(x).real / x
    matrix = u @ np.diag((s2 + strength) / strength) @ u.T + np.diag(1 / start)
    expected = (1 - np.log(start)) @ np.linalg.inv(matrix)
    np.testing.assert_allclose(closed_form.lemma1(u, s2, strength), expected, rtol=10 * ROUNDING[x64])


@pytest.mark.parametrize(("s2", "strength"), [((9.0, 4.0), 0.01), ((4.0, 1.0), 1.0), ((1.0, 4.0), 0.1)])
def test_theorem_2_to_first_order(s2, strength):
    with jax.enable_x64(True):
        exact = np.asarray(slope_of_second_response(DELTAS, *s2, strength))
        first_order = np.array([closed_form.theorem2_slope(delta, np.array(s2), strength) for delta in DELTAS])
        assert np.all(np.sign(exact) == np.sign(s2[1] - s2[0]))
        errors = np.abs(first_order - exact)
        assert np.all(np.diff(np.log(errors / DELTAS)) > 0)  # smaller than first order
        if s2[0] > s2[1]:
            assert slope(DELTAS, errors) == pytest.approx(2, abs=0.15)
        # The odd part in delta is exact up to the third order.
        odd = (exact - np.asarray(slope_of_second_response(-DELTAS, *s2, strength))) / 2
        assert slope(DELTAS, np.abs(first_order - odd)) == pytest.approx(3, abs=0.15)
        np.testing.assert_allclose(closed_form.theorem2_slope(-0.1, np.array(s2), strength), -first_order[-1])


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def slope_of_second_response(delta, s2_1, s2_2, strength):
    """`d z_2* / d(s_1^2)` of Eq. 10 for the U of Eq. 15, by implicit differentiation."""
    cosine = jnp.sqrt(1 - delta**2)
    u = jnp.array([[cosine, -delta], [delta, cosine]])

    def second_response(s2_1):
        feats = features.from_spectrum(u, jnp.sqrt(jnp.stack([s2_1, s2_2])))
        return dual.equilibrium(feats, Ridge(strength), form="linearized", tolerance=1e-13).response[1]

    return jax.grad(second_response)(s2_1)


def test_theorem_2_accepts_whole_numbers():
    whole = closed_form.theorem2_slope(0.1, np.array([4, 1]), 1)
    np.testing.assert_allclose(whole, closed_form.theorem2_slope(0.1, np.array([4.0, 1.0]), 1.0), rtol=1e-6)
    assert float(whole) < 0


EYE, ONES = np.eye(2), np.ones(2)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("s2", lambda: closed_form.equal_strengths(-1.0, EYE, 1.0)),
        ("s2", lambda: closed_form.equal_strengths(np.nan, EYE, 1.0)),
        ("s2", lambda: closed_form.equal_strengths(ONES, EYE, 1.0)),
        ("u", lambda: closed_form.equal_strengths(1.0, np.ones((2, 2)), 1.0)),
        ("u", lambda: closed_form.equal_strengths(1.0, np.eye(3)[:, :2], 1.0)),
        ("u", lambda: closed_form.equal_strengths(1.0, ONES, 1.0)),
        ("u", lambda: closed_form.equal_strengths(1.0, EYE * np.nan, 1.0)),
        ("strength", lambda: closed_form.equal_strengths(1.0, EYE, 0.0)),
        ("strength", lambda: closed_form.equal_strengths(1.0, EYE, np.nan)),
        ("s2", lambda: closed_form.permutation(np.array([1.0, -1.0]), 1.0)),
        ("s2", lambda: closed_form.permutation(np.array([1.0, np.inf]), 1.0)),
        ("s2", lambda: closed_form.permutation(1.0, 1.0)),
        ("strength", lambda: closed_form.permutation(ONES, -1.0)),
        ("u", lambda: closed_form.lemma1(2 * EYE, ONES, 1.0)),
        ("s2", lambda: closed_form.lemma1(EYE, np.ones(3), 1.0)),
        ("s2", lambda: closed_form.lemma1(EYE, -ONES, 1.0)),
        ("strength", lambda: closed_form.lemma1(EYE, ONES, 0.0)),
        ("delta", lambda: closed_form.theorem2_slope(1.0, ONES, 1.0)),
        ("delta", lambda: closed_form.theorem2_slope(np.nan, ONES, 1.0)),
        ("s2", lambda: closed_form.theorem2_slope(0.1, np.ones(3), 1.0)),
        ("s2", lambda: closed_form.theorem2_slope(0.1, np.array([1.0, 0.0]), 1.0)),
        ("s2", lambda: closed_form.theorem2_slope(0.1, np.array([1.0, np.nan]), 1.0)),
        ("strength", lambda: closed_form.theorem2_slope(0.1, ONES, 0.0)),
    ],
)
def test_bad_input_is_named(argument, call):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        call()
