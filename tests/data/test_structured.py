"""Structured features: distributions, the shift, one program for a grid, bad input; the reduction to the features."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from gsjax import methods, networks
from gsjax.data.structured import Normal, Spheres, Uniform, random_basis, reduced, sample
from tests.methods.toys import compiled

KEY = jax.random.key(0)
SMALL = {"core": 3, "background": 2, "dimension": 8}


def test_the_published_experiment_is_the_default(x64):
    x, y, z, basis = map(np.asarray, sample(KEY, 1000))
    assert x.shape == (1000, 256)
    assert basis.shape == (64, 256)
    assert {array.dtype for array in (x, y, z, basis)} == {np.dtype(x64)}
    assert (y == 1).sum() == (y == -1).sum() == 500
    core, background = y[:, None] * z[:, :32], z[:, 32:]
    shifted = np.asarray(sample(KEY, 1000, shifted=True).z[:, 32:])
    for found in (core, background, -shifted):
        assert 0 <= found.min() < 1e-3
        assert 1 - 1e-3 < found.max() <= 1
        # Uniform: mean 1/2, variance 1/12; five standard errors of 32,000 numbers.
        assert abs(found.mean() - 1 / 2) < 5 / np.sqrt(12 * 32_000)
        assert abs(found.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / 32_000)


def test_the_shift_changes_only_the_background():
    wide = Uniform(-1.0, 3.0)
    plain, shifted, other = (
        sample(KEY, 20, **SMALL, **options)
        for options in ({}, {"shifted": True}, {"shifted": True, "shifted_distribution": wide})
    )
    for changed in (shifted, other):
        np.testing.assert_array_equal(changed.y, plain.y)
        np.testing.assert_array_equal(changed.z[:, :3], plain.z[:, :3])
    np.testing.assert_array_equal(shifted.z[:, 3:], -plain.z[:, 3:])
    np.testing.assert_array_equal(sample(KEY, 20, **SMALL, shifted_distribution=wide).z, plain.z)
    as_training = sample(KEY, 20, **SMALL, background_distribution=wide)
    np.testing.assert_array_equal(other.z, as_training.z)


def test_the_background_is_independent_of_the_label_and_the_features_of_each_other():
    n = 20_000
    found = sample(KEY, n, core=2, background=2, dimension=4)
    z, y = np.asarray(found.z), np.asarray(found.y)
    signed = np.concatenate([y[:, None] * z[:, :2], z[:, 2:]], axis=1)
    correlations = np.corrcoef(np.column_stack([signed, y]).T)
    assert np.abs(correlations - np.eye(5)).max() < 5 / np.sqrt(n)


def test_means_and_deviations_of_normal_features():
    mean, deviation, n = np.array([0.0, 1.0]), np.array([1.0, 0.1]), 10_000
    found = sample(KEY, n, **SMALL, background_distribution=Normal(mean, deviation)).z[:, 3:]
    assert (np.abs(found.mean(axis=0) - mean) < 5 * deviation / np.sqrt(n)).all()
    assert (np.abs(found.std(axis=0) / deviation - 1) < 5 / np.sqrt(2 * n)).all()


def test_a_core_on_spheres():
    found = sample(KEY, 2000, **SMALL, core_distribution=Spheres())
    z, y = np.asarray(found.z), np.asarray(found.y)
    np.testing.assert_allclose(np.linalg.norm(z[:, :3], axis=1), np.where(y > 0, 1, 2), rtol=1e-6)
    # In three dimensions each coordinate of a uniform direction has the variance 1/3 and its square 4/45.
    directions = z[:, :3] / np.where(y > 0, 1, 2)[:, None]
    for c in (1, -1):
        assert np.abs(directions[y == c].mean(axis=0)).max() < 5 / np.sqrt(3 * 1000)
        assert np.abs((directions[y == c] ** 2).mean(axis=0) - 1 / 3).max() < 5 * np.sqrt(4 / 45 / 1000)


@pytest.mark.parametrize("count", [5, 8])
def test_coordinates_in_any_basis(x64, count):
    basis = random_basis(jax.random.key(1), count, 8)
    np.testing.assert_allclose(basis @ basis.T, np.eye(count), atol=20 * jnp.finfo(x64).eps)
    options = {"core": 3, "background": count - 3, "dimension": 8}
    plain, turned = sample(KEY, 6, **options), sample(KEY, 6, **options, basis=basis)
    np.testing.assert_array_equal(plain.x, np.pad(plain.z, ((0, 0), (0, 8 - count))))
    np.testing.assert_array_equal(plain.basis, np.eye(count, 8))
    np.testing.assert_array_equal(turned.z, plain.z)
    np.testing.assert_allclose(turned.x, np.asarray(turned.z) @ np.asarray(basis), atol=20 * jnp.finfo(x64).eps)
    np.testing.assert_allclose(turned.x @ basis.T, turned.z, atol=20 * jnp.finfo(x64).eps)


def test_random_bases_have_no_preferred_direction():
    """A uniform unit vector in d dimensions has entries of mean 0 and variance 1/d; QR alone prefers one sign."""
    bases = np.asarray(jax.vmap(lambda key: random_basis(key, 2, 4))(jax.random.split(KEY, 4000)))
    assert np.abs(bases.mean(axis=0)).max() < 5 / np.sqrt(4 * 4000)
    assert np.abs((bases**2).mean(axis=0) - 1 / 4).max() < 5 / 4 / np.sqrt(4000)


def test_a_grid_of_means_and_numbers_of_features_is_one_program():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def examples(key, mean, count):
        present = jnp.arange(2) < count
        distribution = Uniform(present * (mean - 0.5), present * (mean + 0.5))
        options = {"background_distribution": distribution, "core_distribution": Normal(mean, 0.0)}
        return sample(key, 4, **SMALL, **options, shifted=True)

    for mean, count in ((0.0, 2), (0.75, 1), (-1.0, 0)):
        found = examples(KEY, mean, count)
        assert np.abs(-found.z[:, 3 : 3 + count] - mean).max(initial=0) <= 0.5
        assert not found.z[:, 3 + count :].any()
        np.testing.assert_array_equal(found.z[:, :3], mean * np.ones(3) * found.y[:, None])
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def grid(keys, low):
        along = jax.vmap(lambda key, low: sample(key, 4, **SMALL, background_distribution=Uniform(low, low + 1)))
        return jax.vmap(lambda low: along(keys, jnp.full(len(keys), low)))(low)

    keys, low = jax.random.split(KEY, 2), jnp.array([-0.5, 0.0])
    found = grid(keys, low)
    assert found.x.shape == (2, 2, 4, 8)
    one = sample(keys[1], 4, **SMALL, background_distribution=Uniform(-0.5, 0.5))
    jax.tree.map(lambda stacked, single: np.testing.assert_allclose(stacked[0, 1], single, atol=1e-6), found, one)
    assert grid(keys, low + 1).z.shape == (2, 2, 4, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: expected a whole number of at least 1"),
        ({"core": 0}, "core: expected a whole number of at least 1"),
        ({"background": 1.5}, "background: expected a whole number"),
        ({"dimension": 4}, "dimension: expected at least 5, the number of features, got 4"),
        ({"shifted": 1}, "shifted: expected True or False"),
        ({"key": 0}, "key: expected a single key"),
        ({"core_distribution": "uniform"}, "core_distribution: expected a distribution: Uniform, Normal, Spheres"),
        ({"core_distribution": (0.0, 1.0)}, "core_distribution: expected a distribution"),
        ({"core_distribution": Spheres(1.0, 0.0)}, "core_distribution.negative: expected finite positive numbers"),
        (
            {"background_distribution": Spheres()},
            "background_distribution: expected a distribution: Uniform, Normal, g",
        ),
        ({"background_distribution": Uniform(1.0, 0.0)}, "background_distribution.low: expected at most high"),
        ({"background_distribution": Uniform(0.0, np.inf)}, "background_distribution.high: expected finite numbers"),
        (
            {"background_distribution": Uniform(0.0, np.ones(3))},
            r"background_distribution.high: expected shape \(\) or",
        ),
        ({"shifted_distribution": Normal(0.0, -1.0)}, "shifted_distribution.deviation: expected finite numbers, 0 or"),
        ({"shifted_distribution": Normal("0", 1.0)}, "shifted_distribution.mean: expected finite numbers"),
        ({"basis": np.ones((5, 8))}, "basis: expected orthonormal rows"),
        ({"basis": np.eye(5, 8) * 1.001}, "basis: expected orthonormal rows"),
        ({"basis": np.eye(5)}, r"basis: expected shape \(5, 8\), got shape \(5, 5\)"),
        ({"basis": np.full((5, 8), np.nan)}, "basis: expected finite numbers"),
    ],
)
def test_bad_arguments_of_samples_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        sample(**{"key": KEY, "n": 4, **SMALL, **options})


def test_bad_arguments_of_bases_are_named():
    with pytest.raises(ValueError, match=r"^dimension: expected a whole number of at least 3, got 2"):
        random_basis(KEY, 3, 2)
    with pytest.raises(ValueError, match=r"^count: expected a whole number of at least 1"):
        random_basis(KEY, 0, 2)


# ---- the reduction

RATE, DECAY, STEPS, DIMENSION, FEATURES = 0.5, 1e-3, 300, 12, 5
NETWORK = networks.TwoLayer(6)


def example(network=NETWORK):
    basis = random_basis(jax.random.key(1), FEATURES, DIMENSION)
    found = sample(KEY, 40, core=3, background=2, dimension=DIMENSION, basis=basis)
    return found, network.init(jax.random.key(2), found.x)


def course(network, optimizer, variables, x, y, weight_decay=0.0):
    """The params after each of `STEPS` steps of ERM with the hinge loss."""
    method = methods.erm.erm(network, optimizer, loss="hinge", weight_decay=weight_decay)
    batch = methods.Batch(x, y)
    state = method.init(KEY, batch)._replace(
        params=variables["params"],
        collections={"frozen": variables["frozen"]},
        optimizer=optimizer.init(variables["params"]),
    )

    def step(state, _):
        state, info = method.update(state, batch)
        return state, (state.params["hidden"], info.loss)

    return compiled(lambda state: lax.scan(step, state, length=STEPS)[1])(state)


clip = optax.clip_by_global_norm(0.05)
decays = optax.add_decayed_weights(DECAY)
COMMUTING = {
    "sgd": optax.sgd(RATE),
    "momentum": optax.sgd(RATE, momentum=0.9),
    "nesterov": optax.sgd(RATE, momentum=0.9, nesterov=True),
    "coupled decay": optax.chain(decays, optax.sgd(RATE, momentum=0.9)),
    "decoupled decay": optax.chain(optax.sgd(RATE, momentum=0.9), optax.add_decayed_weights(-RATE * DECAY)),
    "clipping, then decay": optax.chain(clip, decays, optax.sgd(RATE)),
    "warm-up": optax.sgd(optax.linear_schedule(0.0, RATE, 20)),
}


def some(names, quick):
    """Parameters of a test, of which all but the `quick` ones are slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    "name", some(COMMUTING, {"sgd", "momentum", "nesterov", "coupled decay", "clipping, then decay"})
)
def test_training_on_coordinates_is_training_in_all_dimensions(name):
    """After each of 300 steps, per entry, with the rounding of float64."""
    with jax.enable_x64(True):
        (x, y, z, basis), variables = example()
        optimizer = COMMUTING[name]
        small = {**variables, "params": reduced(variables["params"], basis, optimizer)}
        full, loss = course(NETWORK, optimizer, variables, x, y)
        features, same = course(NETWORK, optimizer, small, z, y)
        assert loss[-1] < loss[0] / 2
        np.testing.assert_allclose(features["kernel"], np.asarray(basis) @ full["kernel"], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(features["bias"], full["bias"], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(same, loss, rtol=1e-12, atol=1e-14)


def test_the_reduced_course_is_that_of_a_loop_in_numpy_and_the_rest_of_the_weights_only_decays():
    """Full dimension, momentum, and the weight decay of the method; relative to each entry."""
    with jax.enable_x64(True):
        (x, y, z, basis), variables = example()
        optimizer = optax.sgd(RATE, momentum=0.9)
        small = {**variables, "params": reduced(variables["params"], basis, optimizer, weight_decay=DECAY)}
        found, _ = course(NETWORK, optimizer, small, z, y, weight_decay=DECAY)
    x, y, basis = map(np.asarray, (x, y, basis))
    w, b = (np.array(variables["params"]["hidden"][name]) for name in ("kernel", "bias"))
    a, c = (np.asarray(variables["frozen"]["output"][name]) for name in ("kernel", "bias"))
    outside = np.eye(DIMENSION) - basis.T @ basis
    first, factor = outside @ w, np.ones(STEPS + 1)
    velocity, speed = [np.zeros_like(w), np.zeros_like(b)], 0.0
    for step in range(STEPS):
        h = x @ w + b
        f = np.maximum(h, 0) @ a[:, 0] + c
        pull = -(y * (y * f < 1))[:, None] * (h > 0) * a[:, 0] / len(y)
        for k, gradient in enumerate((x.T @ pull + DECAY * w, pull.sum(axis=0) + DECAY * b)):
            velocity[k] = 0.9 * velocity[k] + gradient
        w, b = w - RATE * velocity[0], b - RATE * velocity[1]
        speed = 0.9 * speed + DECAY * factor[step]
        factor[step + 1] = factor[step] - RATE * speed
        np.testing.assert_allclose(found["kernel"][step], basis @ w, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found["bias"][step], b, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(outside @ w, factor[-1] * first, rtol=1e-10, atol=1e-14)
    assert 0.1 < factor[-1] < 0.5


delayed = optax.join_schedules([optax.constant_schedule(0.0), optax.constant_schedule(RATE)], [30])
REFUSED = {
    "adam": optax.adam(RATE),
    "adamw": optax.adamw(RATE),
    "sign": optax.sign_sgd(RATE),
    "adagrad": optax.adagrad(RATE),
    "rmsprop": optax.rmsprop(RATE),
    "clipping of entries": optax.chain(optax.clip(10.0), optax.sgd(RATE)),
    "delayed adam": optax.adam(delayed),
    "decay, then clipping": optax.chain(decays, clip, optax.sgd(RATE)),
    "adam for the kernel": optax.partition(
        {"a": optax.adam(1e-9), "b": optax.sgd(RATE)}, {"hidden": {"kernel": "a", "bias": "b"}}
    ),
}
LONG = {
    "lion": optax.lion(RATE),
    "adafactor": optax.adafactor(RATE),
    "lamb": optax.lamb(RATE),
    "lars": optax.lars(RATE),
    "muon": optax.contrib.muon(RATE),
    "injected adam": optax.inject_hyperparams(optax.adam)(optax.linear_schedule(0.0, RATE, 20)),
    "adam on sums of gradients": optax.MultiSteps(optax.adam(RATE), 4),
    "weak decay, then clipping": optax.chain(optax.add_decayed_weights(1e-6), clip, optax.sgd(RATE)),
    "clipping of blocks": optax.chain(optax.clip_by_block_rms(1.0), optax.sgd(RATE)),
    "adaptive clipping": optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(RATE)),
}


@pytest.mark.parametrize("name", some([*REFUSED, *LONG], REFUSED))
@pytest.mark.parametrize("double", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_optimisers_that_do_not_commute_are_refused(name, double):
    with jax.enable_x64(double):
        (_, _, _, basis), variables = example()
        with pytest.raises(ValueError, match=r"^optimizer: expected one that commutes with rotations"):
            reduced(variables["params"], basis, {**REFUSED, **LONG}[name])


def test_clipping_with_the_weight_decay_of_a_method_is_refused():
    (_, _, _, basis), variables = example()
    optimizer = optax.chain(clip, optax.sgd(RATE))
    reduced(variables["params"], basis, optimizer)
    with pytest.raises(ValueError, match=r"^optimizer: expected one that commutes"):
        reduced(variables["params"], basis, optimizer, weight_decay=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_training_with_a_refused_optimiser_differs(name):
    """What is refused does give other weights."""
    with jax.enable_x64(True):
        (x, y, z, basis), variables = example()
        kernel = jnp.asarray(basis) @ variables["params"]["hidden"]["kernel"]
        small = {**variables, "params": {"hidden": {**variables["params"]["hidden"], "kernel": kernel}}}
        optimizer = optax.chain(optax.clip(1e-2), optax.sgd(RATE)) if "entries" in name else REFUSED[name]
        full, features = (course(NETWORK, optimizer, *of, y)[0]["kernel"] for of in ((variables, x), (small, z)))
        difference = np.abs(features - np.asarray(basis) @ full).max(axis=(1, 2))
        assert difference[-1] > 1e-8


def test_the_reduction_of_seeds_and_traced_bases_is_one_program():
    optimizer = optax.sgd(RATE, momentum=0.9)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def draw(keys, weight_decay):
        def one(key):
            basis = random_basis(key, FEATURES, DIMENSION)
            params = NETWORK.init(key, jnp.ones((1, DIMENSION)))["params"]
            small = reduced(params, basis, optimizer, weight_decay=weight_decay)
            return small["hidden"]["kernel"], basis @ params["hidden"]["kernel"]

        return jax.vmap(one)(keys)

    for seed in range(2):
        found, expected = draw(jax.random.split(jax.random.key(seed), 3), 0.1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def traced(rate):
        return reduced({"hidden": {"kernel": jnp.ones((3, 2))}}, jnp.eye(2, 3), optax.sgd(rate))

    with pytest.raises(ValueError, match=r"^optimizer: expected one without traced numbers"):
        jax.jit(traced)(0.1)


def test_a_layer_of_another_name_and_other_bad_arguments():
    params = {"outer": {"first": {"kernel": jnp.arange(6.0).reshape(3, 2)}, "last": jnp.ones(2)}}
    basis, optimizer = jnp.array([[0.0, 0.6, 0.8]]), optax.sgd(RATE)
    found = reduced(params, basis, optimizer, layer="outer/first")
    np.testing.assert_allclose(found["outer"]["first"]["kernel"], [[0.6 * 2 + 0.8 * 4, 0.6 * 3 + 0.8 * 5]], rtol=1e-6)
    assert found["outer"]["last"] is params["outer"]["last"]
    bad = functools.partial(reduced, params, layer="outer/first")
    for call, message in (
        (lambda: reduced(params, basis, optimizer), "layer: expected the path of a layer"),
        (lambda: reduced(params, basis, optimizer, layer="outer/last"), "layer: expected the path of a layer"),
        (lambda: reduced(params, basis[:, 1:], optimizer, layer="outer/first"), r"layer: expected .* \(2, width\)"),
        (lambda: bad(2 * basis, optimizer), "basis: expected orthonormal rows"),
        (lambda: bad(basis[0], optimizer), "basis: expected 2 axes"),
        (lambda: bad(basis, "sgd"), "optimizer: expected an optax optimiser"),
        (lambda: bad(basis, optax.set_to_zero()), "optimizer: expected one that changes params within 256 steps"),
        (lambda: bad(basis, optimizer, weight_decay=-1.0), "weight_decay: expected a finite number, 0 or above"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            call()
