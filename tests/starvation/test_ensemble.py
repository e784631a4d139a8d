"""Starvation in higher dimension: against the starvation matrix, pair by pair, and against theory."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from scipy.special import expit

from gsjax import Ridge, SpectralDecoupling, dual, features, starvation
from gsjax.starvation.ensemble import Ensemble, elasticity, ensemble
from tests.instances import orthogonal, rotation

K, N = 8, 6  # of every ensemble, so that one program serves all
S2 = np.array([5.0, 3.0, 2.0, 1.0, 0.5, 0.2])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@functools.cache
def bases() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([orthogonal(rng, N) for _ in range(K)])


def bases_with_first(first) -> np.ndarray:
    """Random bases whose first column is parallel to `first (K, N)`."""
    columns = np.random.default_rng(1).normal(size=(K, N, N))
    columns[:, :, 0] = first
    q, r = np.linalg.qr(columns)
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]


def found(u, s2=S2, strength=0.3) -> Ensemble:
    return Ensemble(*map(np.asarray, ensemble(u, s2, Ridge(strength))))


def feats(u) -> features.Features:
    return features.from_spectrum(u, np.sqrt(S2))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["exact", "linearized"])
def test_elasticities_are_the_starvation_matrix_without_dimensions(form):
    for u, strength in zip(bases(), (1e-3, 0.1, 10.0), strict=False):
        lower, z, upper = (
            np.asarray(dual.equilibrium(feats(u), Ridge(strength * np.exp(x)), form=form).response)
            for x in (-1e-4, 0, 1e-4)
        )
        e = np.asarray(elasticity(feats(u), Ridge(strength), form=form))
        g = np.asarray(starvation.matrix(feats(u), Ridge(strength), form=form))
        np.testing.assert_allclose(e, g * S2 / np.abs(z)[:, None], rtol=1e-6, atol=1e-8 * np.abs(e).max())
        # E[j, i] / E[i, j] is the ratio of squared weights in theta*.
        weight = z**2 / S2
        np.testing.assert_allclose(e / e.T, weight / weight[:, None], rtol=1e-6)
        # Responses depend on s^2 / lambda alone.
        np.testing.assert_allclose(e.sum(axis=1), np.log(lower / upper) / 2e-4, rtol=1e-4, atol=1e-6)


def test_an_ensemble_agrees_with_its_starvation_matrices():
    ensembles = found(bases())
    for k, u in enumerate(bases()):
        # The equilibrium by SciPy, and the closed form of the dimensionless, oriented starvation matrix in NumPy.
        kernel = (u * S2) @ u.T / 0.3
        margins = scipy.optimize.root(lambda m, k: m - k @ expit(-m), np.zeros(N), args=(kernel,), tol=1e-13).x
        z, alpha = u.T @ margins, expit(-margins)
        curvature = u.T @ ((alpha * (1 - alpha))[:, None] * u)
        g = np.linalg.solve(np.eye(N) + S2[:, None] * curvature / 0.3, np.diag(u.T @ alpha)) / 0.3
        e = g * S2 / z[:, None]
        starving = [(j, i) for j in range(N) for i in range(N) if e[j, i] < 0]
        best = np.argmax(np.abs(u.sum(axis=0)))
        starved_by_best = [(j, best) in starving for j in range(best + 1, N)]
        expected = Ensemble(
            share=len(starving) / 30,
            coupled=1.0,
            strongest=max(np.sqrt(e[j, i] * e[i, j]) for j, i in starving),
            inequality=np.median([abs(np.log10(z[i] ** 2 * S2[j] / (z[j] ** 2 * S2[i]))) for j, i in starving]),
            downhill=np.mean([e[j, i] < e[i, j] for j, i in starving if S2[i] > S2[j]]),
            by_strongest=sum(i == 0 for _, i in starving) / 5,
            by_aligned=np.mean(starved_by_best) if starved_by_best else np.nan,
            support=alpha.sum() ** 2 / (N * (alpha**2).sum()),
            converged=True,
        )
        for name, values in ensembles._asdict().items():
            np.testing.assert_allclose(values[k], getattr(expected, name), rtol=1e-6, err_msg=name)
    assert ensembles.strongest.max() <= 0.5


def test_order_of_examples_and_features_signs_and_scale_do_not_matter():
    rng, expected = np.random.default_rng(1), found(bases())
    order, signs = rng.permutation(N), rng.choice([-1, 1], N)
    for changed in (
        found(bases()[:, rng.permutation(N)]),
        found(bases() * signs),
        found(bases()[:, :, order], S2[order]),
        found(bases(), 100 * S2, 30.0),
        found(bases(), np.tile(S2, (K, 1))),
    ):
        for name, values in changed._asdict().items():
            np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-6, err_msg=name)


def test_features_that_share_no_example_are_not_coupled():
    rng = np.random.default_rng(0)
    separate = found(np.stack([np.eye(N)[rng.permutation(N)] for _ in range(K)]))
    for values in (separate.share, separate.coupled, separate.strongest, separate.by_strongest):
        np.testing.assert_array_equal(values, 0)
    assert np.isnan(separate.inequality).all()
    assert np.isnan(separate.downhill).all()
    halves = found(np.stack([np.kron(np.eye(2), orthogonal(rng, 3)) for _ in range(K)]))
    np.testing.assert_allclose(halves.coupled, 2 / 5)
    assert np.all(halves.share <= halves.coupled)


def test_two_features_follow_theorem_2():
    # Three pairs of features in each basis, coupled by Eq. 15.
    delta = np.array([-0.9, -0.3, -0.01, 0.01, 0.3, 0.6, 0.8, 0.99])
    u = np.stack([np.kron(np.eye(3), rotation(d)) for d in delta])
    descending, ascending = found(u), found(u, S2[::-1])
    np.testing.assert_allclose(descending.share, np.where(delta > 0, 6 / 30, 0))
    np.testing.assert_allclose(ascending.share, np.where(delta < 0, 6 / 30, 0))
    np.testing.assert_allclose(descending.by_strongest, np.where(delta > 0, 1 / 5, 0))


def test_a_feature_that_agrees_with_the_labels_starves_exactly_the_weaker_ones():
    rest, order = np.random.default_rng(2).normal(size=(K, N)), [1, 2, 0, 3, 4, 5]  # two features are stronger
    u = bases_with_first(1 + 1e-4 * rest)[:, :, order]
    for strength in (1e-2, 1.0):
        np.testing.assert_array_equal(found(u, strength=strength).by_aligned, 1)
        # With reversed strengths, three features are stronger.
        turned = found(u, S2[::-1], strength)
        np.testing.assert_array_equal(turned.by_aligned, 1)
        assert (turned.by_strongest < 1).all()  # the strongest is another one
    assert np.mean(found(bases_with_first(0.3 + rest)).by_strongest) < 0.8  # a control


def test_in_a_perturbed_identity_a_positive_loading_starves():
    loadings = 1e-4 * np.tril(np.random.default_rng(3).normal(size=(K, N, N)), -1)
    triangle = np.tril_indices(N, -1)
    for lower in (loadings, np.abs(loadings)):
        u = np.stack([scipy.linalg.expm(a - a.T) for a in lower])
        np.testing.assert_allclose(found(u).share, [np.mean(basis[triangle] > 0) for basis in u])


def test_features_that_compete_for_one_example_starve_each_other():
    s2 = np.array([5.0, 1, 1, 1, 1, 1])
    u = bases_with_first([-1.0, 1, 1, 1, 1, 1])
    for strength in (1e-2, 1.0, 10.0):
        one = found(u, s2, strength)
        others = N * (N - 1) * one.share - 2 * (N - 1) * one.by_strongest
        np.testing.assert_allclose(others, (N - 1) * (N - 2))


def test_equally_hard_examples_do_not_couple_features():
    half = bases_with_first([-1.0, -1, -1, 1, 1, 1])
    for uncoupled in (found(half, np.array([5.0, 1, 1, 1, 1, 1])), found(bases(), np.ones(N))):
        np.testing.assert_array_equal(uncoupled.coupled, 0)


@pytest.mark.slow
def test_under_spectral_decoupling_nothing_starves():
    np.testing.assert_array_equal(elasticity(feats(bases()[0]), SpectralDecoupling(0.1)), 0)


def test_without_an_equilibrium_all_numbers_are_nan():
    *numbers, converged = found(bases(), S2 * 1e300, 1e-300)
    assert not converged.any()
    assert np.isnan(numbers).all()


@pytest.mark.parametrize(
    ("argument", "u", "s2", "penalty", "options"),
    [
        ("u", np.eye(2), np.ones(2), Ridge(1.0), {}),
        ("u", np.ones((1, 3, 1)), np.ones(1), Ridge(1.0), {}),
        ("u", np.ones((1, 2, 3)), np.ones(3), Ridge(1.0), {}),
        ("u", np.ones((1, 2, 2)), np.ones(2), Ridge(1.0), {}),
        ("u", np.full((1, 2, 2), np.nan), np.ones(2), Ridge(1.0), {}),
        ("s2", np.eye(2)[None], np.ones(3), Ridge(1.0), {}),
        ("s2", np.eye(2)[None], np.array([1.0, 0.0]), Ridge(1.0), {}),
        ("form", np.eye(2)[None], np.ones(2), Ridge(1.0), {"form": "primal"}),
        ("penalty", np.eye(2)[None], np.ones(2), None, {}),
        ("penalty.strength", np.eye(2)[None], np.ones(2), Ridge(np.ones(2)), {}),
    ],
)
def test_bad_input_is_named(argument, u, s2, penalty, options):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        ensemble(u, s2, penalty, **options)
