"""Two features over a grid: against the general solver, extended precision and theory."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from gsjax import Ridge, SpectralDecoupling, dual, features, starvation
from gsjax.starvation import diagram
from tests.dual import truth

LONG = np.longdouble


def random_axes(seed: int, sizes=(4, 5, 3)) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    ratio, delta, strength = (rng.uniform(-1, 1, size) for size in sizes)
    return 10 ** (2 * ratio), 0.99 * delta, 10 ** (2 * strength - 2)


def solved(ratio, delta, strength, **options) -> starvation.PhaseDiagram:
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, starvation.phase_diagram(ratio, delta, strength, **options))


@pytest.mark.parametrize("penalty", [Ridge, SpectralDecoupling])
def test_the_diagram_matches_the_general_solver(penalty):
    axes = random_axes(0)

    @jax.jit
    def one(ratio, delta, strength):
        feats = features.planar(delta, jnp.stack([ratio, jnp.ones_like(ratio)]))
        state = dual.equilibrium(feats, penalty(strength), tolerance=1e-13)
        return state.response, starvation.matrix(feats, penalty(strength)), state.converged

    found = solved(*axes, penalty=penalty)
    with jax.enable_x64(True):
        grid = [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
        response, slopes, converged = jax.vmap(one)(*map(jnp.asarray, grid))
    assert np.all(converged)
    assert found.converged.all()
    np.testing.assert_allclose(found.response, response.reshape(found.response.shape), rtol=1e-9)
    np.testing.assert_allclose(found.starvation, slopes.reshape(found.starvation.shape), rtol=1e-7, atol=1e-12)


@pytest.mark.skipif(bool(np.finfo(LONG).eps > 1e-18), reason="needs extended precision for the truth")
def test_extremes_satisfy_the_conditions_of_the_optimum():
    """z = S^2 U^T sigma(-U z) / lambda, with strengths and penalties over many decades, and couplings close to one."""
    ratio, strength = np.geomspace(1e-4, 1e4, 9), np.geomspace(1e-8, 1e4, 7)
    delta = np.array([-0.99999, -0.7, -1e-6, 0.0, 1e-6, 0.3, 0.7, 0.99999])
    found = solved(ratio, delta, strength)
    assert found.converged.all()
    s2, slope = np.stack(np.broadcast_arrays(ratio[:, None, None], 1.0), -1).astype(LONG), delta.astype(LONG)
    cosine = np.sqrt((1 - slope) * (1 + slope))
    u = np.moveaxis(np.array([[cosine, -slope], [slope, cosine]]), -1, 0)[:, None]
    z = found.response.astype(LONG)
    for _ in range(3):  # Newton in extended precision; its first step is the error
        margins = np.einsum("...ij,...j->...i", u, z)
        alpha, curvature = 1 / (1 + np.exp(margins)), 1 / (2 + np.exp(margins) + np.exp(-margins))
        relative = s2 / strength[:, None]
        gradient = z - relative * np.einsum("...ij,...i->...j", u, alpha)
        hessian = relative[..., None] * np.einsum("...ij,...i,...ik->...jk", u, curvature, u) + np.eye(2)
        determinant = hessian[..., 0, 0] * hessian[..., 1, 1] - hessian[..., 0, 1] * hessian[..., 1, 0]
        swapped = np.stack(
            [
                hessian[..., 1, 1] * gradient[..., 0] - hessian[..., 0, 1] * gradient[..., 1],
                hessian[..., 0, 0] * gradient[..., 1] - hessian[..., 1, 0] * gradient[..., 0],
            ],
            axis=-1,
        )
        z = z - swapped / determinant[..., None]
    np.testing.assert_allclose(found.response.astype(LONG) / z, 1, rtol=0, atol=1e-6)
    assert np.quantile(np.abs(found.response / z - 1), 0.99) < 1e-9


def test_the_signs_agree_with_theorem_2():
    """A stronger feature starves a weaker one for delta > 0; signs are reversed in the other two quadrants."""
    ratio = np.concatenate([np.geomspace(0.01, 0.99, 7), np.geomspace(1.01, 100, 7)])
    delta = np.concatenate([-np.geomspace(0.999, 0.001, 9), np.geomspace(0.001, 0.999, 9)])
    found = solved(ratio, delta, np.geomspace(1e-3, 1, 4))
    starves = ((ratio[:, None] > 1) == (delta > 0))[..., None]
    for entry in ((1, 0), (0, 1)):  # in both directions: starvation is mutual
        np.testing.assert_array_equal(found.starvation[..., *entry] < 0, np.broadcast_to(starves, (14, 18, 4)))
    assert np.all(found.starvation[..., [0, 1], [0, 1]] > 0)


def test_boundaries_are_where_theory_puts_them():
    """No coupling at delta = 0, none between equal strengths; z_2 changes its sign at delta = 1 / sqrt(2)."""
    ratio, strength, half = np.array([0.3, 1.0, 5.0]), np.array([0.01, 1.0]), np.sqrt(0.5)
    found = solved(ratio, np.array([0.0, half - 1e-6, half, half + 1e-6]), strength)
    off_diagonal = found.starvation[..., [0, 1], [1, 0]]
    assert np.all(off_diagonal[:, 0] == 0)
    scale = np.abs(found.starvation).max()
    assert np.abs(off_diagonal[1]).max() < 1e-12 * scale
    assert np.abs(off_diagonal[::2, 1:]).min() == pytest.approx(
        0, abs=1e-12
    )  # at 1 / sqrt(2) the two examples are equal
    z2 = found.response[..., 1]
    assert np.all(z2[:, 1] > 0)
    assert np.all(z2[:, 3] < 0)
    np.testing.assert_allclose(z2[:, 2], 0, atol=1e-12)
    # With the signs of Eq. 15, Theorem 2 changes its sign there; oriented, it does not.
    axes = np.array([4.0]), np.array([0.6, 0.8]), strength
    bare, oriented = (solved(*axes, oriented=choice).starvation[0, :, :, 1, 0] for choice in (False, True))
    assert np.all(bare[0] < 0)
    assert np.all(bare[1] > 0)
    assert np.all(oriented < 0)


def test_exchanging_the_features_gives_the_same_problem():
    """(s_1^2, s_2^2, delta) and (s_2^2, s_1^2, -delta) are one problem, up to the unit of strength."""
    ratio, delta, strength = 3.0, 0.4, 0.05
    one = solved([ratio], [delta], [strength])
    other = solved([1 / ratio], [-delta], [strength / ratio])
    np.testing.assert_allclose(one.response, other.response[..., ::-1], rtol=1e-12)
    np.testing.assert_allclose(ratio * one.starvation, other.starvation[..., ::-1, ::-1], rtol=1e-10)


def test_under_decoupling_nothing_starves_and_strengths_do_not_matter():
    ratio, delta, strength = random_axes(1)
    found = solved(ratio, delta, strength, penalty=SpectralDecoupling)
    assert found.converged.all()
    np.testing.assert_array_equal(found.starvation, 0)
    np.testing.assert_array_equal(found.response, np.broadcast_to(found.response[:1], found.response.shape))
    # Eq. 18: every margin solves lambda m = sigma(-m), and z = m U^T 1.
    cosine = np.sqrt(1 - delta**2)
    margin = found.response[0] / np.stack([cosine + delta, cosine - delta], axis=-1)[:, None]
    np.testing.assert_allclose(strength[:, None] * margin, expit(-margin), rtol=1e-9)


def test_chunks_do_not_change_the_result(monkeypatch):
    axes = random_axes(2)
    whole = solved(*axes)
    monkeypatch.setattr(diagram, "_CHUNK", 7)
    with jax.enable_x64(True):
        # A new program, not the cached one of `whole`.
        pieces = jax.jit(lambda ratio, delta, strength: diagram._diagram(ratio, delta, strength, False, True))(*axes)
    for expected, got in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_single_precision_follows_the_input():
    axes = [axis.astype(np.float32) for axis in random_axes(3)]
    found = starvation.phase_diagram(*axes)
    double = solved(*(axis.astype(float) for axis in axes))
    assert found.response.dtype == found.starvation.dtype == np.float32
    assert np.all(found.converged)
    np.testing.assert_allclose(found.response, double.response, rtol=2e-3)
    scale = np.abs(double.starvation).max(axis=(3, 4), keepdims=True)
    np.testing.assert_allclose(found.starvation / scale, double.starvation / scale, atol=2e-3)


def test_grids_of_one_shape_share_a_program(monkeypatch):
    traced = chex.assert_max_traces(diagram._diagram, 1)
    monkeypatch.setattr(diagram, "_diagram", traced)
    for seed in range(3):
        starvation.phase_diagram(*random_axes(seed, (2, 2, 2)))


def test_under_jit_a_bad_strength_is_reported():
    found = jax.jit(starvation.phase_diagram)(np.ones(1), np.zeros(1), np.array([0.1, -1.0, np.nan]))
    assert found.converged[0, 0].tolist() == [True, False, False]
    assert np.isnan(found.response[0, 0, 1:]).all()
    assert np.isnan(found.starvation[0, 0, 1:]).all()


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        *(("ratio", {"ratio": value}) for value in ([], [[1.0]], 1.0, [0.0], [-1.0], [np.nan], [np.inf])),
        *(("delta", {"delta": value}) for value in ([], [1.0], [-1.0], [1.5], [np.nan])),
        *(("strength", {"strength": value}) for value in ([], [0.0], [-0.1], [np.inf])),
        ("penalty", {"penalty": Ridge(1.0)}),
        ("penalty", {"penalty": "ridge"}),
    ],
)
def test_bad_input_is_named(argument, change):
    options = {"ratio": [2.0], "delta": [0.1], "strength": [0.1], **change}
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        starvation.phase_diagram(**options)


def test_penalties_over_twenty_four_decades(x64):
    """Responses relative to themselves, and the starvation matrix, against extended precision."""
    ratio, delta, strength = (
        np.asarray(axis, x64) for axis in ([1e-4, 0.3, 4, 1e4], [-0.9, 1e-3, 0.5], [1e-12, 1e-4, 1, 1e4, 1e12])
    )
    found = starvation.phase_diagram(ratio, delta, strength, oriented=False)
    assert bool(found.converged.all())
    for (i, r), (j, d), (k, penalty) in itertools.product(*map(enumerate, (ratio, delta, strength))):
        u = np.array([[np.sqrt(1 - float(d) ** 2), -float(d)], [float(d), np.sqrt(1 - float(d) ** 2)]])
        true = truth.solve(u, np.sqrt([float(r), 1]), float(penalty), form="exact", eps=float(jnp.finfo(x64).eps))
        wrong = np.abs(np.asarray(found.response[i, j, k]) - true.response) - 128 * true.rounding
        assert np.max(wrong / np.abs(true.response)) < (1e-5 if x64 is jnp.float32 else 1e-13)
        assert np.max(np.abs(np.asarray(found.starvation[i, j, k]) - true.slopes) / true.scale) < 1e-4
