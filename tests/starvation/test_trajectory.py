"""Starvation over time: against finite differences of SciPy's integration, its limit, and its onset.

There are always seven times, and three features of five examples, so that one program per kind of penalty serves all.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
import scipy.integrate
from scipy.special import expit

from gsjax import Ridge, SpectralDecoupling, features, multiclass, starvation
from tests.instances import Instance, central_differences, dense, instance, primal_minimum, slope

N = 5
STRENGTHS, TARGETS = np.array([0.1, 0.4, 2.0, 0.7, 0.2]), np.array([1.0, -0.5, 0.3, 2.5, 0.0])
PENALTIES = {
    "ridge": Ridge(0.3),
    "decoupling": SpectralDecoupling(0.3),
    "targets": SpectralDecoupling(STRENGTHS, TARGETS),
}
penalties = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
ridge_is_slow = pytest.mark.parametrize(
    "penalty",
    [pytest.param(PENALTIES["ridge"], marks=pytest.mark.slow), *list(PENALTIES.values())[1:]],
    ids=PENALTIES,
)

TIMES = np.array([0, 1e-3, 3e-3, 0.3, 2.0, 10.0, 1e5])
DISORDER = {"decreasing": TIMES[::-1], "negative": TIMES - 1, "NaN": np.where(TIMES == 2, np.nan, TIMES)}


def low(seed: int = 0, r: int = 3) -> Instance:
    """The r strongest features of an instance."""
    full = instance(seed, n=N)
    return full._replace(u=full.u[:, :r], s=full.s[:r])


FULL, EXAMPLE = low(r=N), low()
examples = pytest.mark.parametrize(
    "example", [EXAMPLE, pytest.param(FULL, marks=pytest.mark.slow)], ids=["low rank", "full rank"]
)


@jax.jit
def _trajectory(u, s, y, penalty, times):
    return starvation.trajectory(features.from_spectrum(u, s, y), penalty, times=times, oriented=False)


def trajectory(penalty, example=EXAMPLE, times=TIMES) -> starvation.Trajectory:
    """`starvation.trajectory`, compiled once for every kind of penalty."""
    return jax.tree.map(np.asarray, _trajectory(example.u, example.s, example.y, dense(penalty, N), times))


def off_diagonal(matrices):
    """The entries off the diagonal, `(..., r (r - 1))`."""
    return matrices[..., ~np.eye(matrices.shape[-1], dtype=bool)]


def responses(s2, example, penalty):
    """`z(t) (T, r)` by SciPy, from the formula of the flow."""
    u, y = example.u, example.y

    def velocity(_, z):
        m = u @ z
        if isinstance(penalty, Ridge):
            return s2 * (u.T @ expit(-m)) - penalty.strength * z
        return s2 * (u.T @ (expit(-m) - penalty.strength * (m - y * penalty.target)))

    found = scipy.integrate.solve_ivp(velocity, (0, 10), 0 * s2, "DOP853", TIMES[:-1], rtol=1e-12, atol=1e-14)
    return found.y.T


@examples
@penalties
def test_it_is_the_derivative_of_the_flow(penalty, example):
    with jax.enable_x64(True):
        found = trajectory(penalty, example)
    assert found.converged
    slopes = central_differences(responses, example.s**2, 1e-3, example, penalty)
    np.testing.assert_array_equal(found.times, TIMES)
    np.testing.assert_array_equal(found.sensitivity[0], 0)
    np.testing.assert_allclose(found.response[:-1], responses(example.s**2, example, penalty), atol=1e-7)
    np.testing.assert_allclose(found.sensitivity[:-1], slopes, atol=2e-7)
    assert np.abs(off_diagonal(slopes)).max() > 1e-3  # far above the tolerance


@examples
@penalties
def test_it_ends_at_the_derivative_of_the_minimum(penalty, example):
    def minimum(s2):
        phi = example.y[:, None] * (example.u * np.sqrt(s2))
        return example.u.T @ (example.y * (phi @ primal_minimum(phi, example.y, penalty)))

    with jax.enable_x64(True):
        found = trajectory(penalty, example)
    np.testing.assert_allclose(found.response[-1], minimum(example.s**2), atol=1e-6)
    np.testing.assert_allclose(found.sensitivity[-1], central_differences(minimum, example.s**2, 1e-3), atol=1e-6)


@examples
@penalties
def test_it_grows_with_the_fourth_power_of_time_or_for_unequal_penalties_the_second(penalty, example):
    u, s2, times = example.u, example.s**2, np.geomspace(1e-4, 1e-3, 7)
    pull, target = (0.0, 0.0) if isinstance(penalty, Ridge) else (penalty.strength, penalty.target)
    c = u.T @ (0.5 + pull * example.y * target)
    if np.ndim(pull):
        power, expected = 2, -(times[0] ** 2) / 2 * s2[:, None] * (u.T * (0.25 + pull) @ u) * c
    else:
        power, expected = 4, times[0] ** 4 / 64 * s2[:, None] * (u.T * (u @ (s2 * c)) ** 2 @ u) * c
    with jax.enable_x64(True):
        early = trajectory(penalty, example, times).sensitivity
    for entries, exponent in ((off_diagonal(early), power), (np.diagonal(early, axis1=1, axis2=2), 1)):
        assert [slope(times, np.abs(entry)) for entry in entries.T] == pytest.approx(
            [exponent] * entries.shape[1], 2e-2
        )
    np.testing.assert_allclose(np.diag(early[0]), times[0] * c, rtol=2e-3)
    size = np.abs(off_diagonal(expected)).max()
    np.testing.assert_allclose(off_diagonal(early[0]), off_diagonal(expected), rtol=2e-3, atol=2e-3 * size)


@ridge_is_slow
def test_every_entry_is_relatively_accurate_in_single_precision(penalty):
    found = trajectory(penalty)
    assert found.sensitivity.dtype == found.response.dtype == np.float32
    assert found.converged
    with jax.enable_x64(True):
        expected = trajectory(penalty).sensitivity
    # The integrator has the tolerance sqrt(eps), 3e-4, at each step.
    np.testing.assert_allclose(found.sensitivity[3:6], expected[3:6], rtol=2e-2)
    if isinstance(penalty, Ridge):
        np.testing.assert_allclose(found.sensitivity[6], expected[6], rtol=1e-4)
    # At the onset, the fourth power is below rounding by cancellation; the first and second powers are not.
    early, truth = found.sensitivity[1:3], expected[1:3]
    rounding = 0.0 if penalty is PENALTIES["targets"] else np.finfo(np.float32).eps * TIMES[1:3, None, None] ** 2
    assert np.all(np.abs(early - truth) <= 1e-4 * np.abs(truth) + rounding)


@jax.jit
@jax.vmap
def _oriented(u, s, y, penalty):
    feats = features.from_spectrum(u, s, y)
    return starvation.trajectory(feats, penalty, times=TIMES), starvation.matrix(feats, penalty)


@ridge_is_slow
def test_the_order_of_examples_and_the_signs_of_features_do_not_matter(penalty):
    """Under `vmap` with a problem that takes other steps, against a single call that is oriented by hand."""
    order, signs, penalty = np.array([3, 0, 4, 2, 1]), np.array([-1.0, 1.0, -1.0]), dense(penalty, N)
    (u, s, _, y), other = EXAMPLE, low(1)
    permuted = penalty if isinstance(penalty, Ridge) else jax.tree.map(lambda leaf: leaf[order], penalty)
    stiff = jax.tree.map(lambda leaf: 30 * leaf, penalty)
    problems = [
        (u, s, y, penalty),
        (u[order], s, y[order], permuted),
        (u * signs, s, y, penalty),
        (other.u, 3 * other.s, other.y, stiff),
    ]
    with jax.enable_x64(True):
        single = trajectory(penalty)
        found, end = jax.tree.map(np.asarray, _oriented(*jax.tree.map(lambda *leaves: np.stack(leaves), *problems)))
    signs_at_end = np.sign(single.response[-1])
    assert set(signs_at_end) == {-1, 1}
    assert found.converged.all()
    for sensitivity, response, sign in zip(found.sensitivity, found.response, (1, 1, signs), strict=False):
        np.testing.assert_allclose(sensitivity, signs_at_end[:, None] * single.sensitivity, rtol=1e-5, atol=1e-10)
        np.testing.assert_allclose(response, sign * single.response, atol=1e-9)
    np.testing.assert_allclose(found.sensitivity[:, -1], end, atol=1e-7)
    assert np.abs(found.sensitivity[3] - found.sensitivity[0]).max() > 1e-2


@pytest.mark.parametrize("times", DISORDER.values(), ids=DISORDER)
def test_traced_times_that_do_not_increase_are_not_integrated(times):
    with jax.enable_x64(True):
        found = trajectory(Ridge(0.3), times=times)
    assert not found.converged
    assert np.isnan(found.response).all()
    assert np.isnan(found.sensitivity).all()


def test_times_that_are_not_reached_are_nan():
    """In single precision under a very strong penalty, rounding limits the steps and their number runs out."""
    found = trajectory(SpectralDecoupling(1e6), times=np.array([0, 1e-9, 1e-7, 1e-5, 1e-3, 1, 1e3]))
    assert not found.converged
    reached = np.all(np.isfinite(found.response), axis=1)
    assert reached.tolist() == sorted(reached, reverse=True)
    assert 0 < reached.sum() < 7
    np.testing.assert_array_equal(np.isfinite(found.sensitivity), np.broadcast_to(reached[:, None, None], (7, 3, 3)))


@pytest.mark.slow
def test_without_the_end_of_the_path_rows_are_not_oriented(monkeypatch):
    module = sys.modules["gsjax.starvation.trajectory"]
    solve = module.equilibrium
    monkeypatch.setattr(module, "equilibrium", lambda *args: solve(*args)._replace(converged=np.False_))
    feats = features.from_spectrum(EXAMPLE.u, EXAMPLE.s, EXAMPLE.y)
    with jax.enable_x64(True):
        oriented, raw = (
            starvation.trajectory(feats, dense(Ridge(0.3), N), times=TIMES, oriented=flag) for flag in (True, False)
        )
    assert not oriented.converged
    assert np.isnan(oriented.sensitivity).all()
    assert raw.converged
    assert np.isfinite(raw.sensitivity).all()


FEATS = features.from_spectrum(np.eye(2), np.ones(2))


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("feats", {"feats": multiclass.from_ntrf(np.eye(4).reshape(2, 2, 4), [0, 1])}),
        ("feats", {"feats": np.eye(2)}),
        ("times", {"times": np.array([])}),
        ("times", {"times": np.array([-1.0, 1.0])}),
        ("times", {"times": np.array([1.0, 1.0])}),
        ("times", {"times": np.array([2.0, 1.0])}),
        ("times", {"times": np.array([0.0, np.nan])}),
        ("times", {"times": np.array([0.0, np.inf])}),
        ("times", {"times": np.ones((2, 2))}),
        ("times", {"times": np.array([1.0, 1.0 + 1e-12])}),  # one number in float32
        ("penalty", {"penalty": None}),
        ("penalty.strength", {"penalty": Ridge(np.ones(2))}),
        ("penalty.strength", {"penalty": SpectralDecoupling(np.ones(3))}),
        ("penalty.target", {"penalty": SpectralDecoupling(1.0, np.ones(3))}),
        ("oriented", {"oriented": 1}),
    ],
)
def test_bad_input_is_named(argument, options):
    arguments = {"feats": FEATS, "penalty": Ridge(1.0), "times": np.array([0.0, 1.0]), **options}
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        starvation.trajectory(**arguments)
