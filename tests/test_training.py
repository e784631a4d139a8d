"""Training: a linear model reaches the optimum of the dual along the flow, and reported numbers are correct."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.special import expit

from gsjax import Ridge, SpectralDecoupling, features, linearized, networks, tangent, training
from gsjax.data import digits
from tests.instances import ROUNDING, decoupled_margins, dense, equilibrium, instance, primal_minimum, slope

FULL, DEFICIENT = instance(0), instance(0, rank=3)
PENALTIES = {
    "ridge": Ridge(0.3),
    "decoupling": SpectralDecoupling(0.3),
    "targets": SpectralDecoupling(np.array([0.1, 0.4, 2.0, 0.7, 0.2]), np.array([1.0, -0.5, 0.3, 2.5, 0.0])),
}
penalties = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)


def linear(w, x):
    """A network whose tangent features are x itself."""
    return x @ w


def network(variables, x):
    """A tanh network with a scale and a shift that are not trained, so that one program serves many tests."""
    outputs = networks.MLP((16,), activation="tanh").apply({"params": variables["params"]}, x)
    return variables["cache"]["scale"] * outputs + variables["cache"]["shift"]


def start(key, x, *, scale=1.0, shift=0.0):
    constants = {"scale": jnp.asarray(scale, x.dtype), "shift": jnp.asarray(shift, x.dtype)}
    return dict(networks.MLP((16,)).init(key, x)) | {"cache": constants}


@functools.partial(jax.jit, static_argnames="apply_fn")
def _fit(apply_fn, params, x, y, penalty, tolerance, max_steps):
    return training.fit(apply_fn, params, x, y, penalty, tolerance=tolerance, max_steps=max_steps)


def fit(apply_fn, params, x, y, penalty, *, tolerance=None, max_steps=2000) -> training.Fit:
    """`training.fit`, compiled once for every network, kind of penalty and shape."""
    if tolerance is None:
        tolerance = float(jnp.finfo(x.dtype).eps) ** 0.5
    return _fit(apply_fn, params, x, y, dense(penalty, len(y)), tolerance, max_steps)


def data(n=20, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n)


@functools.partial(jax.jit, static_argnames="apply_fn")
@functools.partial(jax.value_and_grad, argnums=1)
def loss(apply_fn, params, origin, x, y, penalty):
    """The objectives of Eqs. 5 and 17 from the formula, and their gradients."""
    logits = apply_fn(params, x) - apply_fn(origin, x)
    theta = ravel_pytree(params)[0] - ravel_pytree(origin)[0]
    value = jnp.logaddexp(0, -y * logits).sum()
    if isinstance(penalty, Ridge):
        return value + penalty.strength / 2 * (theta**2).sum()
    return value + (penalty.strength / 2 * (logits - penalty.target) ** 2).sum()


@penalties
@pytest.mark.parametrize("example", [FULL, DEFICIENT], ids=["full", "deficient"])
def test_a_linear_network_ends_at_the_equilibrium_of_the_dual(penalty, example):
    with jax.enable_x64(True):
        start = np.random.default_rng(1).standard_normal(8)
        fitted = fit(linear, start, example.phi, example.y, penalty, tolerance=1e-9)
        assert bool(fitted.converged)
        predicted = equilibrium(example.u, example.s, example.y, penalty).response
        np.testing.assert_allclose((example.y * fitted.logits) @ example.u, predicted, atol=1e-6)
        minimum = example.phi @ primal_minimum(example.phi, example.y, penalty)
        np.testing.assert_allclose(fitted.logits, minimum, atol=1e-6)
        np.testing.assert_allclose(fitted.logits, example.phi @ (fitted.params - start), atol=1e-12)


def test_the_linear_mlp_on_more_examples_than_parameters():
    with jax.enable_x64(True):
        x, y = data(n=5, d=3)
        mlp = networks.MLP(())
        u, s, _ = np.linalg.svd(y[:, None] * x / np.sqrt(3))
        for penalty in (Ridge(0.3), SpectralDecoupling(0.3)):
            fitted = fit(mlp.apply, mlp.init(jax.random.key(0), x), x, y, penalty, tolerance=1e-9)
            predicted = equilibrium(u, np.append(s, [0, 0]), y, penalty).response
            np.testing.assert_allclose((y * fitted.logits) @ u, predicted, atol=1e-6)


def test_theta_is_the_sum_of_examples_of_eq_7():
    with jax.enable_x64(True):
        fitted = fit(linear, np.zeros(8), FULL.phi, FULL.y, Ridge(0.3), tolerance=1e-9)
        alpha = jax.nn.sigmoid(-FULL.y * fitted.logits)
        np.testing.assert_allclose(fitted.params, (alpha * FULL.y) @ FULL.phi / 0.3, atol=1e-7)


def test_under_spectral_decoupling_a_network_reaches_the_same_margin_on_every_example():
    with jax.enable_x64(True):
        x, y = data()
        fitted = fit(network, start(jax.random.key(0), x), x, y, SpectralDecoupling(0.3), tolerance=1e-9)
        assert bool(fitted.converged)
        np.testing.assert_allclose(y * fitted.logits, decoupled_margins(np.full(20, 0.3), np.zeros(20), y), atol=1e-6)


@pytest.mark.parametrize("penalty", [Ridge(0.3), SpectralDecoupling(0.3)], ids=["ridge", "decoupling"])
def test_reported_numbers_are_those_of_the_result(x64, penalty):
    x, y = (a.astype(x64) for a in data())
    params = start(jax.random.key(0), x)
    eps = float(jnp.finfo(x64).eps)
    initial = norm(loss(network, params, params, x, y, penalty)[1]["params"])
    for steps in (3, 2000):
        fitted = fit(network, params, x, y, penalty, max_steps=steps)
        value, gradient = loss(network, fitted.params, params, x, y, penalty)
        reached = norm(gradient["params"])
        np.testing.assert_allclose(fitted.objective, value, rtol=20 * eps)
        np.testing.assert_allclose(fitted.gradient_norm, reached, rtol=1e-3, atol=100 * eps)
        np.testing.assert_allclose(fitted.initial_gradient_norm, initial, rtol=20 * eps)
        assert int(fitted.iterations) == 3 if steps == 3 else 3 < int(fitted.iterations) < 200
        assert bool(fitted.converged) == (steps > 3) == (reached <= eps**0.5 * initial)
        np.testing.assert_allclose(fitted.logits, network(fitted.params, x) - network(params, x), atol=20 * eps)
        assert {leaf.dtype for leaf in jax.tree.leaves((fitted.params, fitted[1:5]))} == {jnp.dtype(x64)}


CONVEX = ("separable", "mixed labels", "one example twice, labelled otherwise", "more parameters than examples")


def convex(seed, dtype):
    """A linear problem of random size, scale and condition: x, y, ridge, decoupling, target."""
    rng = np.random.default_rng(seed)
    kind = CONVEX[seed % len(CONVEX)]
    n, m = (12, 25) if kind == CONVEX[3] else (30, 10)
    spectrum = np.geomspace(1, 10 ** rng.uniform(-2, 0), m)
    x = 10 ** rng.uniform(-1, 1) * rng.standard_normal((n, m)) * spectrum
    y = np.sign(x @ (rng.standard_normal(m) / spectrum)) if kind == CONVEX[0] else rng.choice([-1.0, 1.0], n)
    if kind == CONVEX[2]:
        x[1], y[1] = x[0], -y[0]
    ridge, decoupling = 10 ** rng.uniform(-8, 4, 2)
    terms = ((ridge, 0), (0, decoupling), (ridge, decoupling))[seed // len(CONVEX) % 3]
    return x.astype(dtype), y.astype(dtype), *np.asarray((*terms, rng.choice([0, 1, -2])), dtype)


def excess(theta, x, y, ridge, decoupling, target):
    """The excess of L at `theta` over its minimum, relative to the minimum, by Newton's method in float64."""
    x, y, theta = (np.asarray(a, float) for a in (x, y, theta))
    ridge, decoupling, target = float(ridge), float(decoupling), float(target)

    def value(theta):
        f = x @ theta
        return np.logaddexp(0, -y * f).sum() + decoupling / 2 * ((f - target) ** 2).sum() + ridge / 2 * theta @ theta

    minimum = np.zeros(x.shape[1])
    for _ in range(500):
        f = x @ minimum
        gradient = x.T @ (-y * expit(-y * f) + decoupling * (f - target)) + ridge * minimum
        hessian = (x.T * (expit(f) * expit(-f) + decoupling)) @ x + ridge * np.eye(len(minimum))
        change, length = -np.linalg.lstsq(hessian, gradient, rcond=1e-14)[0], 1.0
        if -gradient @ change < 1e-15 * value(minimum):
            return value(theta) / value(minimum) - 1
        while value(minimum + length * change) > value(minimum) + 1e-4 * length * (gradient @ change):
            length /= 2
        minimum = minimum + length * change
    raise AssertionError("no minimum found")


@jax.jit
def fit_convex(x, y, ridge, decoupling, target, tolerance) -> training.Fit:
    penalty = Ridge(ridge), SpectralDecoupling(decoupling, target)
    return training.fit(linear, jnp.zeros(x.shape[1], x.dtype), x, y, penalty, tolerance=tolerance)


@pytest.mark.parametrize("tolerance", [None, 1e-3, 1e-5], ids=str)
def test_if_converged_the_objective_is_at_its_minimum(x64, tolerance):
    eps = float(jnp.finfo(x64).eps)
    gradient_tolerance, objective_tolerance = (eps**0.5, eps) if tolerance is None else (tolerance, tolerance)
    converged = []
    for seed in range(48):
        problem = convex(seed, x64)
        fitted = fit_convex(*problem, tolerance)
        converged.append(bool(fitted.converged))
        if converged[-1]:
            assert excess(fitted.params, *problem) <= objective_tolerance + 8 * eps, seed
            assert float(fitted.gradient_norm) <= gradient_tolerance * float(fitted.initial_gradient_norm)
    assert np.mean(converged) > 0.9


@pytest.mark.parametrize("strength", [1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4])
def test_weak_and_strong_penalties_on_separable_data(x64, strength):
    x, y, *_ = convex(0, x64)
    for ridge, decoupling in ((strength, 0), (0, strength)):
        problem = x, y, *np.asarray((ridge, decoupling, 0), x64)
        fitted = fit_convex(*problem, None)
        assert bool(fitted.converged)
        assert excess(fitted.params, *problem) <= 8 * float(jnp.finfo(x64).eps)


def test_an_optimum_out_of_reach_in_single_precision_is_not_reported_as_converged():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((25, 25)) * np.geomspace(1, 1e-3, 25), rng.choice([-1.0, 1.0], 25)
    problem = x.astype(np.float32), y.astype(np.float32), *(np.float32(a) for a in (0, 60, -2))
    fitted = fit_convex(*problem, None)
    assert excess(fitted.params, *problem) > 1e-3
    assert not bool(fitted.converged)


def test_a_network_under_a_weak_penalty_is_at_the_minimum_of_its_linearisation():
    with jax.enable_x64(True):
        x, y = data()
        params, strength = start(jax.random.key(0), x), 1e-5
        fitted = jax.jit(lambda w: training.fit(network, w, x, y, Ridge(strength)))(params)
        assert bool(fitted.converged)
        theta, unravel = ravel_pytree(fitted.params["params"])
        outputs = jax.jit(lambda theta: network(params | {"params": unravel(theta)}, x))
        phi, moved = np.asarray(jax.jacrev(outputs)(theta)), np.asarray(theta - ravel_pytree(params["params"])[0])
        # The decrease of L by a step of Newton's method from here, to first order.
        alpha = expit(-y * np.asarray(fitted.logits))
        gradient = strength * moved - phi.T @ (y * alpha)
        hessian = strength * np.eye(len(theta)) + (phi.T * (alpha * (1 - alpha))) @ phi
        left = gradient @ np.linalg.solve(hessian, gradient) / 2
        assert left <= 2.0**-52 * float(fitted.objective)
        # The control: with a gradient smaller by sqrt(eps) it would have stopped at a much larger decrease.
        early = float(jnp.finfo(x.dtype).eps) ** 0.5 * float(fitted.initial_gradient_norm) / np.linalg.norm(gradient)
        assert early**2 * left > 1e-9 * float(fitted.objective)


@pytest.mark.slow
def test_a_network_without_forward_derivatives_is_trained():
    @jax.custom_vjp
    def double(v):
        return 2 * v

    double.defvjp(lambda v: (2 * v, None), lambda _, cotangent: (2 * cotangent,))
    x, y, *_ = convex(0, np.float32)
    fitted = training.fit(lambda w, x: double(x @ w), jnp.zeros(10), x, y, Ridge(4.0))
    assert bool(fitted.converged)
    np.testing.assert_allclose(fitted.logits, fit_convex(x, y, 1.0, 0.0, 0.0, 1e-4).logits, atol=1e-3)


def norm(tree):
    return float(jnp.linalg.norm(ravel_pytree(tree)[0]))


def test_single_precision_with_64_bit_types_on():
    with jax.enable_x64(True):
        x, y = (a.astype(np.float32) for a in data())
        fitted = fit(network, start(jax.random.key(0), x), x, y, Ridge(0.3))  # the strength is a float64 here
        assert bool(fitted.converged)
        assert fitted.logits.dtype == fitted.gradient_norm.dtype == jnp.float32


def test_the_criterion_does_not_depend_on_units():
    """Dividing outputs by c and lambda by c^2 gives the same run in other units, c times further from the origin."""
    with jax.enable_x64(True):
        x, y = data()
        params = start(jax.random.key(0), x, scale=2.0**-10)
        fitted = fit(network, params, x, y, Ridge(0.3 * 2.0**-20), max_steps=20000)
        assert bool(fitted.converged)
        assert float(fitted.gradient_norm) <= 2**-26 * float(fitted.initial_gradient_norm)
        alpha = jax.nn.sigmoid(-y * fitted.logits)
        assert norm(jax.tree.map(jnp.subtract, fitted.params, params)) > 100
        assert float(alpha.mean()) < 0.25  # trained: in these units a fixed threshold would stop early


def test_outputs_are_centred():
    with jax.enable_x64(True):
        x, y = data()
        given = fit(network, start(jax.random.key(0), x), x, y, Ridge(0.3))
        shifted = fit(network, start(jax.random.key(0), x, shift=7.0), x, y, Ridge(0.3))
        mirrored = fit(network, start(jax.random.key(0), x, scale=-1.0), x, -y, Ridge(0.3))
        np.testing.assert_allclose(shifted.logits, given.logits, atol=1e-7)
        np.testing.assert_allclose(mirrored.logits, -given.logits, atol=1e-7)


@pytest.mark.slow
def test_seeds_under_vmap_are_seeds_in_a_loop():
    with jax.enable_x64(True):
        x, y = data()
        keys = jax.random.split(jax.random.key(0), 3)
        batched = jax.jit(jax.vmap(lambda key: training.fit(network, start(key, x), x, y, Ridge(0.3))))(keys)
        assert len({int(i) for i in batched.iterations}) > 1  # seeds stop at different iterations
        for i in range(3):
            single = fit(network, start(keys[i], x), x, y, Ridge(0.3))
            np.testing.assert_allclose(batched.logits[i], single.logits, atol=1e-8)
            assert int(batched.iterations[i]) == int(single.iterations)
            assert bool(batched.converged[i])


@pytest.mark.slow
def test_steps_by_hand_are_the_steps_of_fit():
    with jax.enable_x64(True):
        x, y = data()
        params = start(jax.random.key(0), x)
        state = training.init(network, params, x, y, Ridge(0.3))
        step = jax.jit(functools.partial(training.step, network))
        infos = []
        for _ in range(3):
            state, info = step(state, x, y, Ridge(0.3))
            infos.append(info)
        assert 20 * np.log(2) > infos[0].objective > infos[1].objective > infos[2].objective
        assert min(int(info.evaluations) for info in infos) >= 1
        fitted = fit(network, params, x, y, Ridge(0.3), max_steps=3)
        np.testing.assert_allclose(infos[-1].gradient_norm, fitted.gradient_norm, rtol=1e-9)
        chex.assert_trees_all_close(state.params, fitted.params, rtol=1e-9)


def test_it_is_traced_once_for_all_problems_of_a_shape():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def train(w, x, y, penalty, tolerance, max_steps):
        return training.fit(linear, w, x, y, penalty, tolerance=tolerance, max_steps=max_steps).converged

    for seed, strength in enumerate((0.1, 1.0, 10.0)):
        x, y = data(seed=seed)
        assert bool(train(jnp.zeros(6), x, y, Ridge(strength), 1e-3 / strength, 100 + seed))


def test_one_program_trains_under_either_of_two_penalties():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def train(x, y, ridge, decoupling):
        penalty = Ridge(ridge), SpectralDecoupling(decoupling)
        return training.fit(linear, jnp.zeros(6), x, y, penalty, tolerance=1e-9)

    with jax.enable_x64(True):
        x, y = data()
        for strengths, penalty in (((0.3, 0.0), Ridge(0.3)), ((0.0, 0.3), SpectralDecoupling(0.3))):
            fitted = train(x, y, *strengths)
            assert bool(fitted.converged)
            np.testing.assert_allclose(fitted.params, primal_minimum(x, y, penalty), atol=1e-6)


def test_only_the_parameters_of_variables_are_trained():
    def apply_fn(variables, x):
        return x @ variables["params"]["w"] + x @ variables["cache"]["v"]

    x, y = data()
    variables = {"params": {"w": jnp.zeros(6)}, "cache": {"v": jnp.ones(6)}}
    fitted = training.fit(apply_fn, variables, x, y, Ridge(1.0))
    course = training.descend(apply_fn, variables, x, y, Ridge(1.0), step_size=0.1, steps=[3])
    for trained in (fitted.params, course.params):
        np.testing.assert_array_equal(trained["cache"]["v"], 1)
        assert float(jnp.linalg.norm(trained["params"]["w"])) > 0.1


def test_a_minimum_on_a_kink_is_not_reported_as_converged():
    def apply_fn(w, x):
        return -jnp.abs(w - 1)[0] * x[:, 0]

    fitted = training.fit(apply_fn, jnp.zeros(1), np.ones((1, 1)), np.ones(1), Ridge(0.01), max_steps=50)
    np.testing.assert_allclose(fitted.params, 1, atol=0.01)
    assert not bool(fitted.converged)


def test_a_run_stops_at_nan():
    fitted = training.fit(lambda w, x: jnp.sqrt(x @ w - 1), jnp.ones(1), np.ones((1, 1)), np.ones(1), Ridge(1.0))
    assert not bool(fitted.converged)
    assert int(fitted.iterations) <= 1


def test_a_start_at_the_optimum_is_converged():
    x, y = np.ones((2, 3)), np.array([1.0, -1.0])
    fitted = training.fit(linear, jnp.zeros(3), x, y, Ridge(1.0))
    assert bool(fitted.converged)
    assert int(fitted.iterations) == 0
    assert float(fitted.gradient_norm) == 0


@jax.jit
def descend(x, y, penalty, step_size, steps) -> training.Descent:
    return training.descend(linear, jnp.ones(8), x, y, penalty, step_size=step_size, steps=steps)


@pytest.mark.slow
@penalties
def test_the_trajectory_of_a_linear_network_is_the_flow_to_first_order_in_the_step(penalty):
    with jax.enable_x64(True):
        feats = features.from_spectrum(FULL.u, FULL.s, FULL.y)
        flow = linearized.flow(feats, penalty, times=np.array([0, 0.5, 1, 4]))
        sizes, errors = np.array([0.02, 0.01, 0.005, 0.0025]), []
        for size in sizes:
            course = descend(FULL.phi, FULL.y, dense(penalty, 5), size, np.round(flow.times / size).astype(int))
            np.testing.assert_allclose(course.times, flow.times, rtol=1e-12)
            errors.append(float(jnp.max(jnp.abs(course.logits - flow.logits))))
        assert slope(sizes, errors) == pytest.approx(1, abs=0.05)
        assert errors[-1] < 5e-3


def test_a_step_is_the_gradient_times_its_size_and_recording_changes_nothing():
    with jax.enable_x64(True):
        x, y = data()
        params = start(jax.random.key(0), x)
        recorded = training.descend(network, params, x, y, Ridge(0.3), step_size=0.1, steps=[0, 1, 2, 5])
        final = training.descend(network, params, x, y, Ridge(0.3), step_size=0.1, steps=[5])
        by_hand, logits, objectives = params, [], []
        for _ in range(6):
            logits.append(network(by_hand, x) - network(params, x))
            value, gradient = loss(network, by_hand, params, x, y, Ridge(0.3))
            objectives.append(float(value))
            moved = jax.tree.map(lambda w, g: w - 0.1 * g, by_hand, gradient)
            by_hand = moved | {"cache": params["cache"]}
        np.testing.assert_allclose(recorded.logits, np.stack(logits)[[0, 1, 2, 5]], atol=1e-12)
        np.testing.assert_allclose(recorded.objective, np.array(objectives)[[0, 1, 2, 5]], atol=1e-12)
        np.testing.assert_array_equal(recorded.times, 0.1 * np.array([0, 1, 2, 5]))
        np.testing.assert_allclose(final.logits[-1], recorded.logits[-1], atol=1e-14)
        chex.assert_trees_all_close(final.params, recorded.params, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [Ridge(0.5), SpectralDecoupling(0.5)], ids=["ridge", "sd"])
def test_a_descent_with_a_tolerance_stops_at_the_first_small_gradient(penalty):
    """The steps are counted in NumPy for a linear network."""
    phi, y = np.asarray(FULL.phi, float), np.asarray(FULL.y, float)

    def gradient(theta):
        f = phi @ theta
        outputs = -y / (1 + np.exp(y * f))
        if isinstance(penalty, Ridge):
            return phi.T @ outputs + 0.5 * theta
        return phi.T @ (outputs + 0.5 * f)

    theta, taken = np.zeros(phi.shape[1]), 0
    while taken < 3 or np.linalg.norm(gradient(theta)) > 1e-6 * np.linalg.norm(gradient(np.zeros_like(theta))):
        theta, taken = theta - 0.02 * gradient(theta), taken + 1
    with jax.enable_x64(True):
        run = functools.partial(training.descend, linear, jnp.zeros(phi.shape[1]), phi, y, penalty, step_size=0.02)
        rested, cut = (run(steps=[0, 3], tolerance=1e-6, max_steps=most) for most in (1_000_000, 5))
        assert (int(rested.steps), bool(rested.converged)) == (taken, True)
        np.testing.assert_allclose(rested.params, theta, atol=1e-10)
        assert rested.logits.shape == (2, len(y))
        assert (int(cut.steps), bool(cut.converged)) == (5, False)
        plain = run(steps=[3])
        assert (int(plain.steps), bool(plain.converged)) == (3, False)
        np.testing.assert_array_equal(plain.logits[-1], rested.logits[-1])


def test_descent_over_seeds(x64):
    x, y = (a.astype(x64) for a in data())

    def course(key):
        params = start(key, x)
        return training.descend(network, params, x, y, SpectralDecoupling(0.3), step_size=0.1, steps=[0, 10])

    keys = jax.random.split(jax.random.key(0), 3)
    batched = jax.jit(jax.vmap(course))(keys)
    assert batched.logits.shape == (3, 2, 20)
    assert batched.logits.dtype == batched.times.dtype == x64
    np.testing.assert_allclose(batched.logits[1], jax.jit(course)(keys[1]).logits, atol=ROUNDING[x64])


X, Y, W = np.ones((4, 2)), np.array([1.0, -1.0, 1.0, 1.0]), np.zeros(2)
GOOD = {"apply_fn": linear, "params": W, "x": X, "y": Y, "penalty": Ridge(1.0)}
BAD = {
    "labels of 0 and 1": ({"y": np.array([0.0, 1.0, 1.0, 0.0])}, "y: expected labels -1 and \\+1"),
    "too few labels": ({"y": Y[:3]}, r"y: expected shape \(4,\)"),
    "labels in a column": ({"y": Y[:, None]}, r"y: expected shape \(4,\)"),
    "NaN in x": ({"x": np.where(X > 0, np.nan, X)}, "x: expected finite numbers"),
    "no examples": ({"x": X[:0], "y": Y[:0]}, "x: expected a non-empty array"),
    "x without a batch": ({"x": np.float64(1.0)}, "x: expected a non-empty array"),
    "infinite parameters": ({"params": W + np.inf}, "params: expected finite numbers"),
    "no parameters": ({"params": {}, "apply_fn": lambda p, x: x[:, 0]}, "params: expected at least one"),
    "two outputs": (
        {"apply_fn": lambda w, x: x * w},
        r"apply_fn: expected outputs of shape \(4,\), got shape \(4, 2\)",
    ),
    "a tuple of outputs": ({"apply_fn": lambda w, x: (x @ w, x)}, "apply_fn: expected outputs"),
    "an unknown penalty": ({"penalty": "ridge"}, "penalty: expected Ridge or SpectralDecoupling"),
    "targets of another length": ({"penalty": SpectralDecoupling(1.0, np.zeros(3))}, "penalty.target: expected"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(change, message):
    arguments = GOOD | change
    with pytest.raises(ValueError, match=message):
        training.fit(**arguments)
    with pytest.raises(ValueError, match=message):
        training.descend(**arguments, step_size=0.1, steps=[1])


@pytest.mark.parametrize("tolerance", [0.0, -1e-3, np.nan, np.inf])
def test_a_tolerance_is_positive(tolerance):
    with pytest.raises(ValueError, match="tolerance: expected a finite positive number"):
        training.fit(**GOOD, tolerance=tolerance)


@pytest.mark.parametrize("max_steps", [True, 3.0, "3"], ids=repr)
def test_max_steps_is_a_whole_number(max_steps):
    with pytest.raises(ValueError, match="max_steps: expected a whole number of at least 1, got"):
        training.fit(**GOOD, max_steps=max_steps)
    assert int(training.fit(**GOOD, max_steps=np.int64(1)).iterations) == 1


def test_max_steps_is_at_least_one():
    with pytest.raises(ValueError, match="max_steps: expected a whole number of at least 1, got 0"):
        training.fit(**GOOD, max_steps=0)


def test_a_tolerance_below_rounding_warns():
    with pytest.warns(UserWarning, match="tolerance 1e-08 is below the precision of float32"):
        training.fit(**GOOD, tolerance=1e-8, max_steps=1)


@pytest.mark.parametrize("step_size", [0.0, -0.1, np.nan])
def test_a_step_size_is_positive(step_size):
    with pytest.raises(ValueError, match="step_size: expected a finite positive number"):
        training.descend(**GOOD, step_size=step_size, steps=[1])


@pytest.mark.parametrize("steps", [[-1, 2], [2, 2], [3, 1], [0.5, 1.5]], ids=str)
def test_steps_increase_from_zero(steps):
    with pytest.raises(ValueError, match="steps: expected increasing whole numbers"):
        training.descend(**GOOD, step_size=0.1, steps=steps)


def test_steps_are_not_empty():
    with pytest.raises(ValueError, match="steps: expected a non-empty array"):
        training.descend(**GOOD, step_size=0.1, steps=[])


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [Ridge(0.5), SpectralDecoupling(0.2)], ids=["ridge", "sd"])
def test_the_trajectory_of_a_wide_network_is_the_flow_of_its_tangent_features(penalty):
    """Gradient descent in small steps, on the time axis of the flow; the difference decreases with the width."""
    with jax.enable_x64(True):
        x, y = digits((3, 8), n=20)
        errors, size = [], 2.0**-9
        for width in (32, 512):
            wide = networks.MLP((width,), activation="tanh")
            params = jax.jit(wide.init)(jax.random.key(0), x)
            times = jnp.array([0.5, 1.0, 2.0])
            flow = linearized.flow(features.from_ntk(tangent.ntk(wide.apply, params, x), y), penalty, times=times)
            run = functools.partial(training.descend, wide.apply, x=x, y=y, penalty=penalty, step_size=size)
            course = jax.jit(functools.partial(run, steps=np.round(times / size).astype(int)))(params)
            np.testing.assert_allclose(course.times, times)
            errors.append(np.linalg.norm(course.logits - flow.logits, axis=1) / np.linalg.norm(flow.logits, axis=1))
        assert (errors[1] < 0.02).all()
        assert (errors[1] < errors[0] / 4).all()
