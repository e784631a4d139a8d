"""The primal flow: the limit of gradient descent for small steps, with the optimum of the dual."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from scipy.special import expit

from gsjax import Ridge, SpectralDecoupling, dual, features, linearized
from tests.instances import dense, equilibrium, instance, slope

EXAMPLE = instance(0)
TIMES = np.array([0, 0.1, 0.5, 1, 2, 1e2, 1e4])
STRENGTHS, TARGETS = np.array([0.1, 0.4, 2.0, 0.7, 0.2]), np.array([1.0, -0.5, 0.3, 2.5, 0.0])
PENALTIES = {
    "ridge": Ridge(0.3),
    "decoupling": SpectralDecoupling(0.3),
    "targets": SpectralDecoupling(STRENGTHS, TARGETS),
}
penalties = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)


@jax.jit
def _flow(u, s, y, penalty, times, learning_rate):
    return linearized.flow(features.from_spectrum(u, s, y), penalty, times=times, learning_rate=learning_rate)


def flow(penalty, *, example=EXAMPLE, times=TIMES, learning_rate=1.0) -> linearized.Flow:
    """`linearized.flow`, compiled once for every kind of penalty."""
    return _flow(example.u, example.s, example.y, dense(penalty, 5), times, float(learning_rate))


def gradient(theta, penalty):
    """The gradient of Eq. 5 or 17 for `yhat = Phi theta`, from the formula."""
    phi, y = EXAMPLE.phi, EXAMPLE.y
    f = phi @ theta
    descent = -phi.T @ (y * expit(-y * f))
    if isinstance(penalty, Ridge):
        return descent + penalty.strength * theta
    return descent + phi.T @ (penalty.strength * (f - penalty.target))


@penalties
def test_it_ends_at_the_equilibrium(penalty):
    with jax.enable_x64(True):
        for example in (EXAMPLE, instance(0, rank=3)):
            path = flow(penalty, example=example)
            assert bool(path.converged)
            assert path.logits.shape == path.response.shape == (len(TIMES), 5)
            np.testing.assert_array_equal(path.times, TIMES)
            np.testing.assert_array_equal(path.logits[0], 0)
            end = equilibrium(example.u, example.s, example.y, penalty)
            np.testing.assert_allclose(path.response[-1], end.response, atol=1e-6)
            np.testing.assert_allclose(path.response, example.y * path.logits @ example.u, atol=1e-10)


def test_single_precision():
    path = flow(Ridge(0.3))
    assert path.logits.dtype == path.response.dtype == jnp.float32
    assert bool(path.converged)
    with jax.enable_x64(True):
        np.testing.assert_allclose(path.logits, flow(Ridge(0.3)).logits, atol=5e-3)


@penalties
def test_gradient_descent_approaches_it_linearly_in_the_step(penalty):
    steps = np.array([0.04, 0.02, 0.01, 0.005])
    with jax.enable_x64(True):
        limit = np.asarray(flow(penalty).logits[4])
    errors = []
    for step in steps:
        theta = np.zeros(8)
        for _ in range(round(TIMES[4] / step)):
            theta -= step * gradient(theta, penalty)
        errors.append(np.abs(EXAMPLE.phi @ theta - limit).max())
    assert slope(steps, errors) == pytest.approx(1, abs=0.1)
    assert errors[-1] < 0.02


@penalties
def test_the_path_matches_another_integrator(penalty):
    path = scipy.integrate.solve_ivp(
        lambda _, theta: -gradient(theta, penalty), (0, 2), np.zeros(8), t_eval=TIMES[:5], rtol=1e-11, atol=1e-12
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(flow(penalty).logits[:5], (EXAMPLE.phi @ path.y).T, atol=1e-6)


def test_under_a_very_strong_ridge_the_flow_has_a_closed_form():
    # alpha stays at 1/2 to first order in 1 / lambda: dphi/dt = S U^T 1 / 2 - lambda phi.
    strengths = np.array([50.0, 100.0, 200.0, 400.0])
    pull = EXAMPLE.s**2 * EXAMPLE.u.sum(0) / 2
    errors = []
    with jax.enable_x64(True):
        for strength in strengths:
            times = TIMES / strength
            expected = -np.expm1(-strength * times)[:, None] * pull / strength
            errors.append(np.abs(flow(Ridge(strength), times=times).response - expected).max())
    assert slope(strengths, errors) == pytest.approx(-2, abs=0.1)


def test_the_learning_rate_is_a_unit_of_time():
    with jax.enable_x64(True):
        slow = flow(Ridge(0.3), learning_rate=0.25, times=4 * TIMES)
        np.testing.assert_allclose(slow.logits, flow(Ridge(0.3)).logits, atol=1e-6)


def test_the_strongest_feature_is_learned_first():
    example = EXAMPLE._replace(u=EXAMPLE.u * np.sign(EXAMPLE.u.sum(0)))
    with jax.enable_x64(True):
        path = flow(Ridge(0.3), example=example, times=1e-4 * np.arange(7))
        rate = np.asarray(path.response[1]) / 1e-4
        np.testing.assert_allclose(rate, example.s**2 * example.u.sum(0) / 2, rtol=1e-2)


FEATS = features.from_spectrum(np.eye(2), np.ones(2))


@pytest.mark.slow
def test_recording_ten_thousand_times_changes_nothing():
    few = np.array([1e-3, 0.1, 1.0, 7.0, 10.0])
    with jax.enable_x64(True):
        sparse = flow(Ridge(0.1), times=few)
        for spread in (np.linspace(0, 10, 10_001)[1:], np.geomspace(1e-6, 10, 10_000)):
            many = np.sort(spread)
            many[np.searchsorted(many, few * (1 - 1e-9))] = few
            path = flow(Ridge(0.1), times=many)
            assert bool(path.converged)
            np.testing.assert_allclose(path.response[np.searchsorted(many, few)], sparse.response, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_steps_grow_again_after_close_times():
    pairs = np.geomspace(1e-3, 10, 500)
    with jax.enable_x64(True):
        path = flow(Ridge(0.1), times=np.sort(np.concatenate([pairs, pairs * (1 + 1e-14)])))
        assert bool(path.converged)
        np.testing.assert_allclose(path.response[-1], flow(Ridge(0.1), times=[0.0, 10.0]).response[-1], rtol=1e-6)


@pytest.mark.parametrize("times", [[1.0, 0.5], [-1.0, 1.0], [0.0, np.nan], [0.0, np.inf]], ids=str)
def test_traced_times_that_do_not_increase_are_not_integrated(times):
    path = flow(Ridge(0.1), times=np.array(times))
    assert not bool(path.converged)
    assert np.isnan(path.response).all()


@pytest.mark.slow
def test_times_that_are_equal_in_single_precision_are_named():
    with pytest.raises(ValueError, match=r"times: expected times that are distinct in float32, got [0-9]+ equal"):
        linearized.flow(FEATS, Ridge(1.0), times=np.linspace(10, 10.001, 20_000))
    with pytest.raises(ValueError, match="times: expected finite numbers"):
        linearized.flow(FEATS, Ridge(1.0), times=np.array([0.0, 1e39]))
    for times in ([0.0], [5.0], [0, 3], [0.0, 1e12]):
        path = linearized.flow(FEATS, Ridge(1.0), times=times)
        assert bool(path.converged)
        np.testing.assert_allclose(path.times, times)


@pytest.mark.parametrize("strength", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_every_response_is_relatively_accurate_in_single_precision(strength):
    example = EXAMPLE._replace(s=np.array([1, 0.3, 0.1, 1e-2, 1e-4]))
    times = np.array([1e-3, 0.1, 1, 1e2, 1e4, 1e6, 1e7])
    path = flow(Ridge(strength), example=example, times=times)
    assert bool(path.converged)
    with jax.enable_x64(True):
        expected = flow(Ridge(strength), example=example, times=times).response
    np.testing.assert_allclose(path.response, expected, rtol=2e-3)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("times", {"times": np.array([])}),
        ("times", {"times": np.array([-1.0, 1.0])}),
        ("times", {"times": np.array([1.0, 1.0])}),
        ("times", {"times": np.array([0.0, np.nan])}),
        ("times", {"times": np.ones((2, 2))}),
        ("learning_rate", {"learning_rate": 0.0}),
        ("learning_rate", {"learning_rate": np.nan}),
        ("learning_rate", {"learning_rate": np.ones(2)}),
        ("penalty", {"penalty": None}),
        ("penalty.strength", {"penalty": Ridge(np.ones(2))}),
        ("penalty.strength", {"penalty": SpectralDecoupling(np.ones(3))}),
        ("penalty.target", {"penalty": SpectralDecoupling(1.0, np.ones(3))}),
    ],
)
def test_bad_input_is_named(argument, options):
    arguments = {"penalty": Ridge(1.0), "times": np.array([0.0, 1.0]), **options}
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        linearized.flow(FEATS, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [Ridge(0.05), SpectralDecoupling(0.05)])
def test_trajectories_are_the_two_flows_over_a_grid(penalty):
    ratio, delta, times = np.array([1.0, 4.0]), np.array([-0.3, 0.0, 0.8]), np.array([0.0, 1.0, 30.0, 1e5])
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, linearized.trajectories(ratio, delta, penalty, times=times))
        feats = features.planar(0.8, np.array([4.0, 1.0]))
        primal, ascent = linearized.flow(feats, penalty, times=times), dual.integrate(feats, penalty, times=times)
    assert found.converged.all()
    np.testing.assert_allclose(found.primal[1, 2], primal.response, rtol=1e-7)
    np.testing.assert_allclose(found.dual[1, 2], ascent.response, rtol=1e-7)
    np.testing.assert_array_equal(found.primal[:, :, 0], 0)
    for trajectory in (found.primal, found.dual):
        np.testing.assert_allclose(trajectory[:, :, -1], found.equilibrium, rtol=1e-6, atol=1e-9)
    # Before the end they differ. Under spectral decoupling the dual does not depend on the strengths.
    assert np.abs(found.primal - found.dual)[:, :, 1].max() > 0.1
    assert np.allclose(found.dual[0], found.dual[1]) == isinstance(penalty, SpectralDecoupling)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("ratio", {"ratio": [0.0]}),
        ("ratio", {"ratio": []}),
        ("ratio", {"ratio": [np.nan]}),
        ("delta", {"delta": [1.0]}),
        ("delta", {"delta": [[0.5]]}),
        ("times", {"times": [1.0, 0.5]}),
        ("times", {"times": []}),
    ],
)
def test_bad_grids_of_trajectories_are_named(argument, change):
    options = {"ratio": [2.0], "delta": [0.5], "times": [0.0, 1.0], **change}
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        linearized.trajectories(options["ratio"], options["delta"], Ridge(1.0), times=options["times"])
