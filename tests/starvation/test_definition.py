"""The starvation matrix: three ways to compute it, Definition 2, and properties beyond the paper."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsjax import Ridge, SpectralDecoupling, dual, features, starvation
from tests.instances import Instance, central_differences, dense, instance, orthogonal, rotation

forms = pytest.mark.parametrize("form", ["exact", "linearized"])
ONES = np.ones(5)


@functools.partial(jax.jit, static_argnames=("form", "oriented"))
def _matrix(u, s, y, penalty, *, form, oriented):
    return starvation.matrix(features.from_spectrum(u, s, y), penalty, form=form, oriented=oriented)


def matrix(example: Instance, penalty, *, form="exact", oriented=True) -> np.ndarray:
    """`starvation.matrix`, compiled once for all problems of one shape."""
    penalty = dense(penalty, len(example.y))
    return np.asarray(_matrix(example.u, example.s, example.y, penalty, form=form, oriented=oriented))


def _response(s2, u, y, penalty, *, form):
    feats = features.from_spectrum(u, jnp.sqrt(s2), y)
    return dual.equilibrium(feats, penalty, form=form, tolerance=1e-13).response


response = jax.jit(_response, static_argnames="form")
slopes = jax.jit(jax.jacfwd(_response), static_argnames="form")


def planar(s, delta) -> Instance:
    return Instance(rotation(delta), np.asarray(s, float), np.eye(2), np.ones(2))


@forms
def test_the_closed_form_is_the_derivative_of_the_response(form):
    for seed, strength in ((0, 0.01), (1, 0.3), (2, 10.0)):
        example, penalty = instance(seed), dense(Ridge(strength), 5)
        with jax.enable_x64(True):
            closed = matrix(example, Ridge(strength), form=form, oriented=False)
            arguments = (example.s**2, example.u, example.y, penalty)
            if form == "exact":  # differences check the other form without another compilation
                np.testing.assert_allclose(closed, slopes(*arguments, form=form), rtol=1e-8, atol=1e-10)

            def relative(x, s2, *arguments):
                return response(s2 * np.exp(x), *arguments, form=form)

            differences = central_differences(relative, np.zeros(5), 1e-2, *arguments) / example.s**2
            np.testing.assert_allclose(closed, differences, rtol=1e-4, atol=1e-6 * np.abs(closed).max())


def test_single_precision_gives_the_same_matrix():
    example = instance(0)
    with jax.enable_x64(True):
        double = matrix(example, Ridge(0.1))
    single = matrix(example, Ridge(0.1))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=1e-3, atol=1e-4 * np.abs(double).max())


def test_single_precision_is_accurate_for_features_far_above_the_penalty():
    # There U^T alpha = lambda z / s^2 is a small difference of large numbers.
    s = np.array([30.0, 10.0, 3.0, 1.0, 0.3])
    answers = 0
    for seed in range(20):
        example = instance(seed)._replace(s=s)
        with jax.enable_x64(True):
            double = np.diag(matrix(example, Ridge(1e-5)))
        single = np.diag(matrix(example, Ridge(1e-5)))
        if not np.isnan(single).any():  # NaN says that the equilibrium did not converge
            np.testing.assert_allclose(single, double, rtol=0.03)
            answers += 1
    assert answers >= 10


def test_below_full_rank_it_is_the_matrix_of_the_features_with_strength():
    example = instance(3, rank=3)
    with jax.enable_x64(True):
        wide = matrix(example, Ridge(0.1), oriented=False)
        narrow = example._replace(u=example.u[:, :3], s=example.s[:3])
        np.testing.assert_allclose(wide[:3, :3], matrix(narrow, Ridge(0.1), oriented=False), rtol=1e-7)
        # A feature without strength responds only to its own strength, but changes the others.
        np.testing.assert_array_equal(wide[3:] * (1 - np.eye(5)[3:]), 0)
        fainter = example._replace(s=np.where(example.s > 0, example.s, 1e-7))
        np.testing.assert_allclose(wide, matrix(fainter, Ridge(0.1), oriented=False), rtol=1e-6, atol=1e-9)


def test_a_feature_without_strength_has_the_orientation_of_a_weak_one():
    # z_j = s_j^2 c_j / lambda has the sign of c_j for small strengths: no feature starves itself.
    with jax.enable_x64(True):
        for seed in range(12):
            example = instance(seed, rank=3)
            assert np.all(np.diag(matrix(example._replace(s=np.maximum(example.s, 1e-4)), Ridge(0.1))) > 0)
            assert np.all(np.diag(matrix(example, Ridge(0.1))) > 0)


def test_the_oriented_matrix_does_not_depend_on_the_signs_of_features():
    example, signs = instance(4), np.array([1, -1, -1, 1, -1])
    flipped = example._replace(u=example.u * signs)
    with jax.enable_x64(True):
        oriented, bare = (matrix(example, Ridge(0.1), oriented=o) for o in (True, False))
        np.testing.assert_allclose(matrix(flipped, Ridge(0.1)), oriented, atol=1e-10)
        # Without orientation, the sign of a row is that of its feature.
        np.testing.assert_allclose(matrix(flipped, Ridge(0.1), oriented=False), signs[:, None] * bare, atol=1e-10)
        z = response(example.s**2, example.u, example.y, dense(Ridge(0.1), 5), form="exact")
        np.testing.assert_allclose(oriented, np.sign(z)[:, None] * bare, atol=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), exponent=st.floats(-3, 1), form=st.sampled_from(["exact", "linearized"]))
def test_starvation_is_mutual_in_sign_and_of_known_ratio(seed, exponent, form):
    example, strength = instance(seed), 10**exponent
    with jax.enable_x64(True):
        bare = matrix(example, Ridge(strength), form=form, oriented=False)
        z = np.asarray(response(example.s**2, example.u, example.y, dense(Ridge(strength), 5), form=form))
    oriented = np.sign(z)[:, None] * bare
    size = z / example.s**4
    # G[j, i] / G[i, j] = (z_i / s_i^4) / (z_j / s_j^4)
    symmetric = bare * size[:, None]
    np.testing.assert_allclose(symmetric, symmetric.T, rtol=1e-5, atol=1e-10 * np.abs(bare).max())
    clear = np.abs(oriented) > 1e-9 * np.abs(oriented).max()
    clear &= clear.T
    np.testing.assert_array_equal(np.sign(oriented)[clear], np.sign(oriented).T[clear])
    assert np.all(np.diag(oriented) > 0)


def test_a_stronger_feature_starves_a_weaker_one_for_all_couplings():
    # Theorem 2 for the exact dynamics, oriented: it also holds beyond delta = 1 / sqrt(2), where z_2 changes its sign.
    with jax.enable_x64(True):
        for delta in (0.01, 0.3, 0.6, 0.8, 0.99):
            for strength in (1e-3, 0.1):
                assert matrix(planar((3, 2), delta), Ridge(strength))[1, 0] < 0
        # Negative controls: the coupling or the order of the strengths is reversed.
        assert matrix(planar((3, 2), -0.3), Ridge(0.1))[1, 0] > 0
        assert matrix(planar((2, 3), 0.3), Ridge(0.1))[1, 0] > 0


def test_features_that_share_no_example_do_not_starve_each_other():
    order = np.array([2, 0, 4, 1, 3])
    example = instance(0)._replace(u=np.eye(5)[:, order])
    with jax.enable_x64(True):
        closed = matrix(example, Ridge(0.1))
        np.testing.assert_allclose(closed, np.diag(np.diag(closed)), atol=1e-12)


def test_under_decoupling_nothing_starves():
    penalty = SpectralDecoupling(np.array([0.1, 0.4, 2.0, 0.7, 0.2]), np.array([1.0, -0.5, 0.3, 2.5, 0.0]))
    with jax.enable_x64(True):
        for example in (instance(5), instance(5, rank=3)):
            np.testing.assert_array_equal(matrix(example, penalty), 0)
        example = instance(5)
        np.testing.assert_array_equal(slopes(example.s**2, example.u, example.y, penalty, form="exact"), 0)


def test_about_half_of_all_pairs_starve_in_a_random_basis():
    rng = np.random.default_rng(0)
    off_diagonal = ~np.eye(32, dtype=bool)
    shares = []
    with jax.enable_x64(True):
        for _ in range(12):
            s = np.sort(rng.uniform(0.5, 5, 32))[::-1]
            example = Instance(orthogonal(rng, 32), s, np.eye(32), np.ones(32))
            shares.append(np.mean(matrix(example, Ridge(0.01))[off_diagonal] < 0))
    mean, error = np.mean(shares), np.std(shares, ddof=1) / np.sqrt(len(shares))
    assert mean - 3 * error > 0.4
    assert mean + 3 * error < 0.6


def test_without_an_equilibrium_the_matrix_is_nan():
    assert np.all(np.isnan(matrix(instance(0)._replace(s=np.full(5, np.nan)), Ridge(0.1))))


def test_orientation_multiplies_rows_by_the_sign_of_the_response():
    slopes = np.arange(6.0).reshape(2, 3) + 1
    np.testing.assert_array_equal(starvation.orient(slopes, np.array([0.5, -0.1])), [[1, 2, 3], [-4, -5, -6]])


@pytest.mark.parametrize(
    ("argument", "penalty", "options"),
    [
        ("form", Ridge(1.0), {"form": "primal"}),
        ("penalty", None, {}),
        ("penalty", 1.0, {}),
        ("penalty.strength", Ridge(np.ones(2)), {}),
        ("penalty.target", SpectralDecoupling(1.0, np.ones(3)), {}),
    ],
)
def test_bad_input_is_named(argument, penalty, options):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        starvation.matrix(features.from_spectrum(np.eye(2), np.ones(2)), penalty, **options)
