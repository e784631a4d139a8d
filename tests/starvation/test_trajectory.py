"""Starvation over time: against finite differences of SciPy's integration, its limits, and its first moments."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.integrate
from scipy.special import expit

from gsjax import Ridge, SpectralDecoupling, features, starvation
from tests.instances import central_differences, dense, instance

EXAMPLE, LOW = instance(0), instance(0, rank=3)
TIMES = np.array([0, 1e-3, 3e-3, 0.3, 2.0, 10.0, 1e5])
PENALTIES = {
    "ridge": Ridge(0.3),
    "decoupling": SpectralDecoupling(0.3),
    "targets": SpectralDecoupling(np.array([0.1, 0.4, 2.0, 0.7, 0.2]), np.array([1.0, -0.5, 0.3, 2.5, 0.0])),
}
penalties = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)


@jax.jit
def _trajectory(u, s, y, penalty, times):
    return starvation.trajectory(features.from_spectrum(u, s, y), penalty, times, oriented=False)


def trajectory(penalty, example=EXAMPLE) -> starvation.Trajectory:
    """`starvation.trajectory`, compiled once for every kind of penalty."""
    return _trajectory(example.u, example.s, example.y, dense(penalty, 5), TIMES)


def responses(s2, example, penalty):
    """`z(t) (T, r)` by SciPy, the flow written out anew."""
    u, y = example.u, example.y

    def velocity(_, z):
        m = u @ z
        if isinstance(penalty, Ridge):
            return s2 * (u.T @ expit(-m)) - penalty.strength * z
        return s2 * (u.T @ (expit(-m) - penalty.strength * (m - y * penalty.target)))

    found = scipy.integrate.solve_ivp(velocity, (0, 10), np.zeros(5), "DOP853", TIMES[:-1], rtol=1e-12, atol=1e-14)
    return found.y.T


@penalties
def test_it_is_the_derivative_of_the_flow(penalty):
    with jax.enable_x64(True):
        found = trajectory(penalty)
        assert bool(found.converged)
        slopes = central_differences(responses, EXAMPLE.s**2, 1e-3, EXAMPLE, penalty)
        np.testing.assert_allclose(found.response[:-1], responses(EXAMPLE.s**2, EXAMPLE, penalty), atol=1e-7)
        np.testing.assert_allclose(found.starvation[:-1], slopes, atol=2e-7)
        assert np.abs(slopes * ~np.eye(5, dtype=bool)).max() > 2e-4  # far above the tolerance


@penalties
def test_it_ends_at_the_starvation_matrix(penalty):
    with jax.enable_x64(True):
        feats = features.from_spectrum(EXAMPLE.u, EXAMPLE.s, EXAMPLE.y)
        expected = starvation.matrix(feats, penalty, oriented=False)
        np.testing.assert_allclose(trajectory(penalty).starvation[-1], expected, atol=1e-7)


@pytest.mark.parametrize("example", [EXAMPLE, LOW], ids=["full rank", "low rank"])
@penalties
def test_it_sets_in_with_the_fourth_power_of_time_or_by_unequal_strengths_the_second(penalty, example):
    r = int((example.s > 0).sum())
    u, s2, t = example.u[:, :r], example.s[:r] ** 2, TIMES[1]
    pull, target = (0.0, 0.0) if isinstance(penalty, Ridge) else (penalty.strength, penalty.target)
    c = u.T @ (0.5 + pull * example.y * target)
    if np.ndim(pull):
        expected = -(t**2) / 2 * s2[:, None] * (u.T * (0.25 + pull) @ u) * c
    else:
        expected = t**4 / 64 * s2[:, None] * (u.T * (u @ (s2 * c)) ** 2 @ u) * c
    with jax.enable_x64(True):
        early = np.asarray(trajectory(penalty, example._replace(u=u, s=example.s[:r])).starvation[1])
    off = ~np.eye(r, dtype=bool)
    np.testing.assert_allclose(np.diag(early), t * c, rtol=2e-2)
    np.testing.assert_allclose(early[off], expected[off], atol=2e-2 * np.abs(expected[off]).max())
