"""Relative accuracy of every response: strong and weak penalties, weak features, both precisions.

The truth is in extended precision. `tests/benchmarks/test_equilibrium_extremes.py` does the same for thousands of
problems of more sizes.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, SpectralDecoupling, data, dual, features, multiclass, networks, starvation, tangent
from tests.dual import truth
from tests.instances import decoupled_margins, orthogonal, rotation

pytestmark = pytest.mark.skipif(bool(np.finfo(truth.LONG).eps > 1e-18), reason="needs extended precision")

WRONG = {jnp.float32: 3e-4, jnp.float64: 1e-9}  # relative error of a response


@functools.partial(jax.jit, static_argnames="form")
def _solve(u, s, penalty, form="exact"):
    feats = features.from_spectrum(u, s)
    return dual.equilibrium(feats, penalty, form=form), starvation.matrix(feats, penalty, form=form, oriented=False)


def solve(u, s, strength, dtype, form="exact"):
    """Our numbers and the true ones, for a problem rounded to `dtype`."""
    u, s, strength = (np.asarray(part, dtype) for part in (u, s, strength))
    state, slopes = _solve(u, s, Ridge(strength), form=form)
    true = truth.solve(u, s, strength, form=form, eps=float(jnp.finfo(dtype).eps), guess=np.asarray(state.response))
    return state, np.asarray(slopes), true


def relative(found, true):
    return float(np.max(np.abs(np.asarray(found) / true.astype(float) - 1), initial=0))


@pytest.mark.parametrize("form", ["exact", "linearized"])
@pytest.mark.parametrize("exponent", [-12, -6, -2, 1, 4, 8, 12])
def test_penalties_over_twenty_four_decades(x64, form, exponent):
    rng = np.random.default_rng(exponent + 20)
    for u, s in (
        (np.eye(3), np.ones(3)),
        (orthogonal(rng, 3), np.array([1.0, 1e-2, 1e-4])),
        (orthogonal(rng, 3), np.array([30.0, 1.0, 0.5])),
    ):
        state, slopes, true = solve(u, s, 10.0**exponent, x64, form)
        assert bool(state.converged)
        assert relative(state.response, true.response) < WRONG[x64]
        normal = true.alpha > jnp.finfo(x64).tiny  # below, floats have no relative accuracy
        assert relative(np.asarray(state.alpha)[normal], true.alpha[normal]) < WRONG[x64]
        np.testing.assert_array_less(np.abs(slopes - true.slopes.astype(float)), 1e-2 * true.scale.astype(float))


def test_two_equal_features_under_a_strong_ridge():
    """A regression: the initial value 4.578e-05 was accepted without a step."""
    for strength, response in ((1e4, 4.99988e-05), (1e6, 4.999999e-07), (1e12, 5e-13)):
        state = dual.equilibrium(features.from_spectrum(jnp.eye(2), jnp.ones(2)), Ridge(strength))
        assert bool(state.converged)
        assert int(state.iterations) >= 1
        np.testing.assert_allclose(state.response, response, rtol=2e-5)
        np.testing.assert_allclose(state.response, state.alpha / strength, rtol=1e-5)  # Eq. 11


@pytest.mark.parametrize("s", [1e-3, 1e-8, 1e-15])
def test_a_weak_feature_has_the_response_of_equation_11(x64, s):
    state, slopes, true = solve(rotation(0.3), np.array([2.0, s]), 1.0, x64)
    assert bool(state.converged)
    assert relative(state.response, true.response) < WRONG[x64]
    assert np.sign(state.response[1]) == np.sign(np.asarray(true.response[1], float))
    np.testing.assert_allclose(slopes, true.slopes.astype(float), rtol=100 * WRONG[x64])


@pytest.mark.parametrize("strength", [1e-5, 1e-6])
def test_sensitivities_of_a_weak_feature_under_a_weak_penalty(x64, strength):
    """A regression: in single precision, entry [0, 1] was 0.28 instead of -0.39 at strength 1e-6."""
    _, slopes, true = solve([[0.8, -0.6], [0.6, 0.8]], [10, 1e-3], strength, x64)
    np.testing.assert_allclose(slopes, true.slopes.astype(float), rtol=1e-2 if x64 is jnp.float32 else 1e-8)


def test_sensitivities_to_features_without_strength():
    """A regression in double precision: with s = 0 and lambda = 3e-13 an entry was wrong in size and sign."""
    with jax.enable_x64(True):
        for seed in range(5):
            u = orthogonal(np.random.default_rng(seed), 3)
            for last in (0.0, 1e-9):
                _, slopes, true = solve(u, np.array([3.0, 1.0, last]), 3e-13, jnp.float64)
                wrong = np.abs(slopes - true.slopes.astype(float))
                assert (wrong <= 1e-6 * np.abs(true.slopes.astype(float)).max(axis=0)).all()


@pytest.mark.parametrize("strength", [1e-6, 1e-2, 1.0, 1e3, 1e4, 1e8, 1e12])
def test_decoupling_over_many_decades(x64, strength):
    u = orthogonal(np.random.default_rng(1), 4).astype(x64)
    for target in (0.0, 0.5):
        state, _ = _solve(u, np.ones(4, x64), SpectralDecoupling(np.asarray(strength, x64), np.asarray(target, x64)))
        margins = decoupled_margins(np.float64(np.asarray(strength, x64)), target, np.ones(4))
        assert bool(state.converged)
        np.testing.assert_allclose(state.response, u.T.astype(float) @ margins, rtol=WRONG[x64])


def test_several_classes_under_strong_and_weak_penalties(x64):
    """Single against double precision, and double against Eq. 11."""
    rng = np.random.default_rng(2)
    u, s, labels = orthogonal(rng, 6).astype(np.float32), np.geomspace(1, 1e-3, 6), np.array([0, 2])
    solve = jax.jit(multiclass.equilibrium)
    for strength in (1e-6, 1e-2, 1e2, 1e6, 1e12):
        feats = multiclass.Features(jnp.asarray(u, x64), jnp.asarray(s, x64), None, labels, 6)
        state = solve(feats, Ridge(jnp.asarray(strength, x64)))
        assert bool(state.converged)
        with jax.enable_x64(True):
            exact = solve(multiclass.Features(u.astype(float), s, None, labels, 6), Ridge(strength))
            p = np.asarray(jax.nn.softmax(exact.logits))
            exact = jax.tree.map(np.asarray, exact)
            if strength >= 1:
                pull = u.T.astype(float) @ np.asarray(np.eye(3)[labels] - p).ravel()
                np.testing.assert_allclose(exact.response, s**2 * pull / strength, rtol=1e-9)
        sums = s**2 / strength * (np.abs(u).T @ np.abs(np.asarray(np.eye(3)[labels] - p).ravel()))
        sums = np.minimum(sums, np.abs(u).T @ np.abs(np.asarray(exact.logits)).ravel())  # sums of magnitudes
        wrong = np.maximum(np.abs(np.asarray(state.response) - exact.response) - 32 * jnp.finfo(x64).eps * sums, 0)
        assert np.max(wrong / np.abs(exact.response)) < WRONG[x64]


def test_single_precision_on_real_images():
    """Responses for digits in float32 against the same kernel in float64, for weak and strong penalties."""
    x, y = data.digits((3, 8), n=60)
    network = networks.MLP((64,))
    kernel = np.asarray(tangent.ntk(network.apply, network.init(jax.random.key(0), x), x))
    feats = features.from_ntk(kernel, y, rtol=1e-4)
    solve = jax.jit(dual.equilibrium)
    for penalty in (Ridge, SpectralDecoupling):
        for strength in (1.0, 1e3, 1e4, 1e6, 1e9):
            state = solve(feats, penalty(jnp.float32(strength)))
            with jax.enable_x64(True):
                u, s, labels = (np.asarray(leaf, float) for leaf in (feats.u, feats.s, feats.y))
                wide = features.Features(u, s, None, labels, feats.rank)
                exact = jax.tree.map(np.asarray, solve(wide, penalty(strength)))
            assert bool(state.converged)
            # Basis and alpha are rounded: allow for eps times the sum of magnitudes in a response.
            sums = np.abs(np.asarray(feats.u)).T @ np.abs(np.asarray(exact.margins))
            size = np.asarray(feats.s) ** 2 / strength * np.abs(np.asarray(feats.u)).T @ np.asarray(exact.alpha)
            rounding = 10 * np.finfo(np.float32).eps * (np.minimum(size, sums) if penalty is Ridge else sums)
            wrong = np.maximum(np.abs(np.asarray(state.response) - exact.response) - rounding, 0)
            assert np.max(wrong / np.abs(exact.response)) < WRONG[jnp.float32]


def test_features_of_another_kind_are_refused():
    classes = multiclass.from_ntrf(jnp.eye(4).reshape(2, 2, 4), jnp.array([0, 1]))
    binary = features.from_spectrum(jnp.eye(2), jnp.ones(2))
    for call in (dual.equilibrium, starvation.matrix, starvation.share):
        with pytest.raises(
            ValueError, match=r"^feats: expected gsjax.features.Features; .*gsjax.multiclass, got gsjax."
        ):
            call(classes, Ridge(1.0))
    for call in (multiclass.equilibrium, multiclass.starvation_matrix):
        with pytest.raises(ValueError, match=r"^feats: expected gsjax.multiclass.Features; .*, got gsjax.features"):
            call(binary, Ridge(1.0))
