"""The dual flow: end points, the path against SciPy's integrator, the objective along it, and bad input."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from scipy.special import xlogy

from gsjax import Ridge, SpectralDecoupling, dual, features
from gsjax.dual import problem
from gsjax.dual.integrate import _Flow, _LogitSDIRK
from gsjax.dual.links import link
from tests.instances import dense, equilibrium, instance, orthogonal, ridge_field, slope

N = 5
TIMES = np.array([0, 1e-3, 1e-2, 0.1, 1, 5, 20, 100])
TOLERANCE = {jnp.float32: 3e-3, jnp.float64: 1e-6}
EXAMPLE = instance(0)
STRENGTHS, TARGETS = np.array([0.1, 0.4, 2.0, 0.7, 0.2]), np.array([1.0, -0.5, 0.3, 2.5, 0.0])


@functools.partial(jax.jit, static_argnames="form")
def _integrate(u, s, y, penalty, times, learning_rate, initial, *, form) -> dual.Trajectory:
    feats = features.from_spectrum(u, s, y)
    return dual.integrate(feats, penalty, times=times, learning_rate=learning_rate, initial=initial, form=form)


def integrate(penalty, *, example=EXAMPLE, times=TIMES, learning_rate=1.0, initial=1e-8, form="exact"):
    """`dual.integrate`, compiled once for every form and kind of penalty."""
    arguments = (dense(penalty, N), times, float(learning_rate), np.broadcast_to(float(initial), N))
    return _integrate(example.u, example.s, example.y, *arguments, form=form)


CASES = {
    **{f"exact, {strength:g}": ("exact", Ridge(strength)) for strength in (1e-6, 1e-3, 1.0, 1e3)},
    **{f"linearized, {strength:g}": ("linearized", Ridge(strength)) for strength in (1e-6, 1e-3, 1.0, 1e3)},
    **{f"decoupling, {strength:g}": ("exact", SpectralDecoupling(strength)) for strength in (1e-6, 1.0, 1e3)},
    "decoupling, targets": ("exact", SpectralDecoupling(STRENGTHS, TARGETS)),
}
cases = pytest.mark.parametrize(("form", "penalty"), CASES.values(), ids=CASES)


def check_ends(dtype, form, penalty):
    path = integrate(penalty, form=form)
    assert bool(path.converged)
    assert path.alpha.shape == (len(TIMES), N)
    assert path.response.shape == (len(TIMES), N)
    assert path.alpha.dtype == path.response.dtype == dtype
    np.testing.assert_allclose(path.times, TIMES, rtol=1e-6)
    np.testing.assert_allclose(path.alpha[0], 1e-8, rtol=1e-5)
    end = equilibrium(EXAMPLE.u, EXAMPLE.s, EXAMPLE.y, penalty, form=form)
    np.testing.assert_allclose(path.alpha[-1], end.alpha, rtol=10 * TOLERANCE[dtype])
    np.testing.assert_allclose(path.response[-1], end.response, atol=10 * TOLERANCE[dtype])
    assert np.all(path.alpha > 0)
    assert np.all(path.alpha < 1)


@cases
def test_it_ends_at_the_equilibrium(form, penalty):
    with jax.enable_x64(True):
        check_ends(jnp.float64, form, penalty)


@pytest.mark.parametrize("strength", [1e-2, 1.0, 1e3], ids=str)
def test_it_ends_at_the_equilibrium_in_single_precision(strength):
    check_ends(jnp.float32, "exact", Ridge(strength))


@pytest.mark.parametrize("form", ["exact", "linearized"])
@pytest.mark.parametrize(("initial", "strength"), [(1e-8, 0.1), (0.3, 0.1), (1e-8, 1e-4)])
def test_the_path_matches_another_integrator(form, initial, strength):
    with jax.enable_x64(True):
        path = integrate(Ridge(strength), form=form, initial=initial)
        other = scipy.integrate.solve_ivp(
            lambda _, alpha: ridge_field(EXAMPLE.kernel, strength, np.maximum(alpha, 1e-300), form),
            (0, TIMES[-1]),
            np.full(N, initial),
            method="Radau",
            t_eval=TIMES,
            rtol=1e-10,
            atol=1e-14,
        )
        np.testing.assert_allclose(path.alpha, other.y.T, rtol=1e-5)
        # Eq. 11 holds along the path.
        response = path.alpha @ EXAMPLE.u * EXAMPLE.s**2 / strength
        np.testing.assert_allclose(path.response, response, atol=1e-10)


def test_decoupled_examples_follow_one_scalar_equation_for_any_u_and_s():
    strength = 0.05
    other = EXAMPLE._replace(u=orthogonal(np.random.default_rng(9), N), s=np.array([9.0, 1e-2, 3.0, 1.0, 0.3]))
    scalar = scipy.integrate.solve_ivp(
        lambda _, alpha: np.log((1 - alpha) / alpha) - alpha / strength,  # Eq. 18
        (0, TIMES[-1]),
        [1e-8],
        method="Radau",
        t_eval=TIMES,
        rtol=1e-10,
        atol=1e-14,
    )
    with jax.enable_x64(True):
        for example in (EXAMPLE, other):
            path = integrate(SpectralDecoupling(strength), example=example)
            np.testing.assert_allclose(path.alpha, np.tile(scalar.y.T, (1, N)), rtol=1e-5)
        # The negative control: below full rank they do not.
        path = integrate(SpectralDecoupling(strength), example=EXAMPLE._replace(s=np.array([1.0, 1, 0, 0, 0])))
        assert np.ptp(path.alpha[-1]) > 0.1


def test_it_ascends_the_dual_objective():
    times = np.geomspace(1e-8, 10, 8)
    for strength in (1e-2, 1.0):
        with jax.enable_x64(True):
            alpha = np.asarray(integrate(Ridge(strength), times=times).alpha)
        entropy = -xlogy(alpha, alpha) - xlogy(1 - alpha, 1 - alpha)
        value = entropy.sum(1) - ((alpha @ EXAMPLE.kernel) * alpha).sum(1) / (2 * strength)  # Eq. 8
        assert np.all(np.diff(value) > -1e-12)
        assert value[-1] - value[0] > 0.1


def test_the_method_is_of_fourth_order():
    rule = link("exact")
    whitened = problem.whiten(features.from_spectrum(EXAMPLE.u, EXAMPLE.s, EXAMPLE.y), Ridge(10.0))

    @jax.jit
    def end(step):  # away from alpha = 0, where the flow is stiff and the order is reduced
        flow = _Flow(whitened.basis, whitened.basis @ whitened.basis.T, whitened.offset, jnp.ones(()))
        field = diffrax.ODETerm(lambda t, v, flow: flow.field(rule, v) / rule.speed(v))
        start = rule.coordinate(jnp.full(N, 0.4))
        return diffrax.diffeqsolve(field, _LogitSDIRK(rule), 0.0, 0.5, step, start, args=flow).ys

    with jax.enable_x64(True):
        whitened = jax.tree.map(jnp.float64, whitened)
        steps = 0.5 / np.array([4, 8, 16, 32])
        ends = [np.asarray(end(step)) for step in [*steps, 0.5 / 512]]
        errors = [np.abs(v - ends[-1]).max() for v in ends[:-1]]
        assert slope(steps, errors) == pytest.approx(4, abs=0.1)


def test_the_learning_rate_is_a_unit_of_time():
    with jax.enable_x64(True):
        slow = integrate(Ridge(0.1), learning_rate=0.25, times=4 * TIMES)
        fast = integrate(Ridge(0.1))
        np.testing.assert_allclose(slow.alpha, fast.alpha, rtol=1e-6)


def test_the_linearised_flow_may_leave_the_domain():
    # Four equal examples and one opposed to them, on a strong feature.
    u, _ = np.linalg.qr(np.eye(N) + np.outer([1.25, 1.25, 1.25, 1.25, -1], [1e6, 0, 0, 0, 0]))
    example = EXAMPLE._replace(u=u, s=np.array([100.0, 0, 0, 0, 0]))
    with jax.enable_x64(True):
        path = integrate(Ridge(1.0), example=example, form="linearized")
        assert bool(path.converged)
        assert path.alpha[-1].max() > 1
        end = equilibrium(u, example.s, example.y, Ridge(1.0), form="linearized")
        np.testing.assert_allclose(path.alpha[-1], end.alpha, rtol=1e-5)


FEATS = features.from_spectrum(np.eye(2), np.ones(2))


@pytest.mark.slow
def test_recording_ten_thousand_times_changes_nothing():
    few = np.array([1e-3, 0.1, 1.0, 7.0, 10.0])
    with jax.enable_x64(True):
        sparse = integrate(Ridge(0.1), times=few)
        for spread in (np.linspace(0, 10, 10_001)[1:], np.geomspace(1e-6, 10, 10_000)):
            many = np.sort(spread)
            many[np.searchsorted(many, few * (1 - 1e-9))] = few
            path = integrate(Ridge(0.1), times=many)
            assert bool(path.converged)
            np.testing.assert_allclose(path.response[np.searchsorted(many, few)], sparse.response, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_steps_grow_again_after_close_times():
    pairs = np.geomspace(1e-3, 10, 500)
    with jax.enable_x64(True):
        path = integrate(Ridge(0.1), times=np.sort(np.concatenate([pairs, pairs * (1 + 1e-14)])))
        assert bool(path.converged)
        np.testing.assert_allclose(path.response[-1], integrate(Ridge(0.1), times=[0.0, 10.0]).response[-1], rtol=1e-6)


@pytest.mark.parametrize("times", [[1.0, 0.5], [-1.0, 1.0], [0.0, np.nan], [0.0, np.inf]], ids=str)
def test_traced_times_that_do_not_increase_are_not_integrated(times):
    path = integrate(Ridge(0.1), times=np.array(times))
    assert not bool(path.converged)
    assert np.isnan(path.response).all()


@pytest.mark.slow
def test_times_that_are_equal_in_single_precision_are_named():
    with pytest.raises(ValueError, match=r"times: expected times that are distinct in float32, got [0-9]+ equal"):
        dual.integrate(FEATS, Ridge(1.0), times=np.linspace(10, 10.001, 20_000))
    with pytest.raises(ValueError, match="times: expected finite numbers"):
        dual.integrate(FEATS, Ridge(1.0), times=np.array([0.0, 1e39]))
    for times in ([0.0], [5.0], [0, 3], [0.0, 1e12]):
        path = dual.integrate(FEATS, Ridge(1.0), times=times)
        assert bool(path.converged)
        np.testing.assert_allclose(path.times, times)


@pytest.mark.parametrize("strength", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_every_response_is_relatively_accurate_in_single_precision(strength):
    example = EXAMPLE._replace(s=np.array([1, 0.3, 0.1, 1e-2, 1e-4]))
    times = np.array([1e-3, 0.1, 1, 1e2, 1e4, 1e6, 1e7])
    path = integrate(Ridge(strength), example=example, times=times)
    assert bool(path.converged)
    with jax.enable_x64(True):
        expected = integrate(Ridge(strength), example=example, times=times).response
    np.testing.assert_allclose(path.response, expected, rtol=2e-3)


@pytest.mark.slow
def test_the_gradient_does_not_depend_on_the_times_recorded():
    feats = features.from_spectrum(EXAMPLE.u, EXAMPLE.s)

    @jax.jit
    def end(strength, times):
        return dual.integrate(feats, Ridge(strength), times=times).response[-1].sum()

    with jax.enable_x64(True):
        feats = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), feats)
        slope = (end(0.1001, np.linspace(0.1, 10, 400)) - end(0.0999, np.linspace(0.1, 10, 400))) / 0.0002
        found = jax.jit(jax.grad(end))(0.1, np.linspace(0.1, 10, 400))
        np.testing.assert_allclose(found, slope, rtol=1e-4)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("times", {"times": np.array([])}),
        ("times", {"times": 1.0}),
        ("times", {"times": np.array([-1.0, 1.0])}),
        ("times", {"times": np.array([0.0, 1.0, 1.0])}),
        ("times", {"times": np.array([1.0, 0.5])}),
        ("times", {"times": np.array([0.0, np.nan])}),
        ("times", {"times": np.array([0.0, np.inf])}),
        ("initial", {"initial": 0.0}),
        ("initial", {"initial": 1.0}),
        ("initial", {"initial": -0.1}),
        ("initial", {"initial": np.nan}),
        ("initial", {"initial": np.array([0.5, 1.5])}),
        ("initial", {"initial": np.full(3, 0.5)}),
        ("learning_rate", {"learning_rate": 0.0}),
        ("learning_rate", {"learning_rate": -1.0}),
        ("learning_rate", {"learning_rate": np.nan}),
        ("learning_rate", {"learning_rate": np.ones(2)}),
        ("form", {"form": "implicit"}),
        ("penalty", {"penalty": "ridge"}),
        ("penalty.strength", {"penalty": SpectralDecoupling(np.ones(3))}),
    ],
)
def test_bad_input_is_named(argument, options):
    arguments = {"penalty": Ridge(1.0), "times": np.array([0.0, 1.0]), **options}
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        dual.integrate(FEATS, **arguments)
