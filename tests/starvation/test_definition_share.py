"""The share of pairs that starve: eagerly, under jit and in both precisions."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, SpectralDecoupling, features, starvation
from tests.instances import orthogonal

PENALTY = Ridge(0.1)


def kernel(rng, n, strengths):
    u = orthogonal(rng, n)
    return (u * strengths) @ u.T, rng.choice([-1.0, 1.0], n)


def shares(kernel, y, **options):
    return starvation.share(features.from_ntk(kernel, y), PENALTY, **options)


def test_it_counts_the_ordered_pairs_of_the_matrix():
    feats = features.from_spectrum(orthogonal(np.random.default_rng(0), 6), np.geomspace(3, 0.1, 6))
    matrix = np.asarray(starvation.matrix(feats, PENALTY))
    assert float(starvation.share(feats, PENALTY)) == pytest.approx((matrix < 0).sum() / 30)
    elastic = np.asarray(starvation.elasticity(feats, PENALTY))
    mutual = np.sqrt(elastic * elastic.T) * ~np.eye(6, dtype=bool)
    assert mutual.max() <= 0.5
    expected = mutual[elastic < 0].sum() / mutual.sum()
    assert float(starvation.share(feats, PENALTY, weighted=True)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [8, 3, 1])
def test_features_without_strength_under_jit_do_not_count(rank):
    matrix, y = kernel(np.random.default_rng(rank), 8, np.where(np.arange(8) < rank, np.geomspace(4, 0.5, 8), 0))
    both = jax.jit(lambda kernel: [shares(kernel, y, weighted=weighted) for weighted in (False, True)])
    for weighted, traced in zip((False, True), both(jnp.asarray(matrix)), strict=True):
        eager = shares(jnp.asarray(matrix), y, weighted=weighted)
        assert float(eager) == pytest.approx(float(traced), abs=1e-6)
        assert rank > 1 or float(eager) == 0


@pytest.mark.slow
def test_a_rank_cut_by_precision_warns_and_hardly_changes_the_weighted_share():
    """Strengths over twelve decades, of which single precision resolves about five."""
    matrix, y = kernel(np.random.default_rng(0), 40, np.geomspace(10, 1e-11, 40))
    with jax.enable_x64(True):
        assert features.from_ntk(matrix, y).rank == 40
        both = jax.jit(lambda kernel: [shares(kernel, y, weighted=weighted) for weighted in (False, True)])
        share, weighted = map(float, both(matrix))
    with pytest.warns(UserWarning, match=r"ntk: float32 resolves \d+ of 40 features"):
        feats = features.from_ntk(jnp.asarray(matrix, jnp.float32), y)
    assert feats.rank < 25
    assert abs(float(starvation.share(feats, PENALTY, weighted=True)) - weighted) < 0.01
    assert 0.2 < share < 0.8


def test_a_kernel_of_low_rank_does_not_warn():
    """A gap separates the features from rounding, so there is no warning."""
    matrix, y = kernel(np.random.default_rng(1), 8, np.array([4.0, 2, 1, 0, 0, 0, 0, 0]))
    phi = np.random.default_rng(2).standard_normal((8, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert features.from_ntk(jnp.asarray(matrix), y).rank == 3
        assert features.from_ntrf(jnp.asarray(phi), y).rank == 3


def test_a_feature_matrix_whose_rank_is_cut_by_precision_warns():
    rng = np.random.default_rng(3)
    phi = (orthogonal(rng, 8) * np.geomspace(1, 1e-9, 8)) @ orthogonal(rng, 8)
    with pytest.warns(UserWarning, match=r"phi: float32 resolves \d of 8 features"):
        features.from_ntrf(jnp.asarray(phi, jnp.float32), np.ones(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features.from_ntrf(jnp.asarray(phi, jnp.float32), np.ones(8), rtol=1e-3)  # the user's choice


def test_the_share_is_0_under_decoupling_and_nan_without_convergence():
    feats = features.from_spectrum(orthogonal(np.random.default_rng(4), 5), np.geomspace(3, 0.1, 5))
    assert float(starvation.share(feats, SpectralDecoupling(0.1))) == 0
    rubbish = jax.jit(lambda u: starvation.share(features.from_spectrum(u, jnp.ones(5)), PENALTY))
    assert np.isnan(rubbish(np.full((5, 5), np.nan)))


def test_half_precision_is_computed_in_single():
    matrix = np.diag([4.0, 2.0, 1.0])
    for construct in (features.from_ntk, features.from_ntrf):
        for dtype in (jnp.float16, jnp.bfloat16):
            feats = construct(jnp.asarray(matrix, dtype), np.ones(3))
            assert feats.u.dtype == feats.s.dtype == jnp.float32
