"""Measures of feature contamination: sums in NumPy, finite differences, signs, invariances, one program."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from gsjax.data.structured import random_basis, sample
from gsjax.networks import FullyConnected, TwoLayer
from gsjax.probes.contamination import Parts, activation_rates, components, gradient, growth, norms, projections

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
DIMENSION, WIDTH, CORE, BACKGROUND, N = 7, 4, 3, 2, 30
FEATURES = CORE + BACKGROUND
KERNEL, INITIAL = RNG.normal(size=(2, DIMENSION, WIDTH))
OUTPUT = np.array([0.25, 0.25, -0.25, -0.25])
BASIS = np.linalg.qr(RNG.normal(size=(DIMENSION, DIMENSION)))[0][:FEATURES]
ROUNDING = {jnp.float32: 1e-5, jnp.float64: 1e-12}


def test_projections_are_signed_inner_products(x64):
    found = projections(KERNEL, CORE, basis=BASIS if x64 == jnp.float64 else jnp.asarray(BASIS), output=OUTPUT)
    change = projections(KERNEL, CORE, basis=jnp.asarray(BASIS), initial=INITIAL)
    for part, features in (("core", range(CORE)), ("background", range(CORE, FEATURES))):
        expected = np.zeros((len(features), WIDTH))
        changed = np.zeros((len(features), WIDTH))
        for row, feature in enumerate(features):
            for neuron in range(WIDTH):
                for coordinate in range(DIMENSION):
                    w, w0 = KERNEL[coordinate, neuron], INITIAL[coordinate, neuron]
                    expected[row, neuron] += np.sign(OUTPUT[neuron]) * w * BASIS[feature, coordinate]
                    changed[row, neuron] += (w - w0) * BASIS[feature, coordinate]
        assert getattr(found, part).dtype == x64
        np.testing.assert_allclose(getattr(found, part), expected, rtol=ROUNDING[x64], atol=ROUNDING[x64])
        np.testing.assert_allclose(getattr(change, part), changed, rtol=ROUNDING[x64], atol=ROUNDING[x64])


def test_without_a_basis_the_rows_are_the_features():
    kernel = KERNEL[:FEATURES]
    found = projections(kernel, CORE)
    np.testing.assert_allclose(found.core, kernel[:CORE], rtol=1e-6)
    np.testing.assert_allclose(found.background, kernel[CORE:], rtol=1e-6)
    within = projections(jnp.asarray(BASIS) @ KERNEL, CORE)
    for one, other in zip(within, projections(KERNEL, CORE, basis=BASIS), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_norms_of_each_neuron(x64):
    parts = projections(KERNEL, CORE, basis=jnp.asarray(BASIS))
    for found, part in zip(norms(parts), parts, strict=True):
        expected = [np.sqrt(sum(float(value) ** 2 for value in np.asarray(part)[:, k])) for k in range(WIDTH)]
        np.testing.assert_allclose(found, expected, rtol=ROUNDING[x64])
        assert found.dtype == x64


def test_components_add_up_to_the_array(x64):
    core, background, rest = components(jnp.asarray(KERNEL), CORE, basis=jnp.asarray(BASIS))
    tolerance = {"rtol": ROUNDING[x64], "atol": ROUNDING[x64]}
    np.testing.assert_allclose(core, BASIS[:CORE].T @ BASIS[:CORE] @ KERNEL, **tolerance)
    np.testing.assert_allclose(background, BASIS[CORE:].T @ BASIS[CORE:] @ KERNEL, **tolerance)
    np.testing.assert_allclose(core + background + rest, KERNEL, **tolerance)
    np.testing.assert_allclose(BASIS @ np.asarray(rest), 0, atol=ROUNDING[x64])
    assert float(jnp.abs(rest).max()) > 0.1
    # On coordinates the sum is exact.
    array = jnp.asarray(KERNEL[:FEATURES])
    parts = components(array, CORE)
    np.testing.assert_array_equal(sum(parts), array)
    assert not parts.rest.any()


def problem(network, shifted=False):
    basis = random_basis(jax.random.key(3), FEATURES, DIMENSION)
    options = {"core": CORE, "background": BACKGROUND, "dimension": DIMENSION, "basis": basis}
    data = sample(jax.random.key(1), N, **options, shifted=shifted)
    return data, network.init(KEY, data.x)


NETWORKS = {
    "relu": TwoLayer(WIDTH),
    "gelu": TwoLayer(WIDTH, "gelu", scale=2.0),
    "trained": TwoLayer(WIDTH, "tanh", trained=True, bias=False),
    "standard": FullyConnected((WIDTH, 3)),
}


@pytest.mark.parametrize(
    ("name", "loss"),
    [("relu", "hinge"), ("gelu", "hinge"), ("trained", "cross_entropy"), ("standard", "cross_entropy")],
)
def test_the_gradient_and_its_parts_match_finite_differences(name, loss):
    """The loss is computed in NumPy from the outputs; moving the weights along m_j gives the projection on m_j."""
    network, layer = NETWORKS[name], "Dense_0" if name == "standard" else "hidden"
    with jax.enable_x64(True):
        data, variables = problem(network)
        found = gradient(network, variables, data.x, data.y, loss=loss, layer=layer)
        parts = projections(found, CORE, basis=data.basis)
        y, basis = np.asarray(data.y), np.asarray(data.basis)

        @jax.jit
        def outputs(kernels):
            def one(kernel):
                params = {**variables["params"], layer: {**variables["params"][layer], "kernel": kernel}}
                return network.apply({**variables, "params": params}, data.x)

            return jax.vmap(one)(kernels)

        kernel, step = np.asarray(variables["params"][layer]["kernel"]), 1e-6
        directions = np.einsum("jd,kl->jkdl", basis, np.eye(WIDTH)).reshape(-1, *kernel.shape)
        values = []
        for sign in (1, -1):
            margins = y * np.asarray(outputs(kernel + sign * step * directions))
            values.append((np.maximum(0, 1 - margins) if loss == "hinge" else np.logaddexp(0, -margins)).mean(axis=1))
        slopes = ((values[0] - values[1]) / (2 * step)).reshape(FEATURES, WIDTH)
        assert np.abs(slopes).max() > 1e-3
        np.testing.assert_allclose(np.concatenate(parts), slopes, rtol=1e-6, atol=1e-9)
        core, background, rest = components(found, CORE, basis=data.basis)
        np.testing.assert_allclose(core + background, found, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(rest, 0, atol=1e-15)


def test_the_gradient_is_the_formula_of_the_docstring():
    """-a_k mean_i r_i 1{w_k x_i + b_k > 0} x_i, by loops over neurons, features and examples."""
    network = NETWORKS["relu"]
    with jax.enable_x64(True):
        data, variables = problem(network)
        for loss in ("hinge", "cross_entropy"):
            found = projections(gradient(network, variables, data.x, data.y, loss=loss), CORE, basis=data.basis)
            x, y, z = (np.asarray(array) for array in (data.x, data.y, data.z))
            w, b = (np.asarray(variables["params"]["hidden"][name]) for name in ("kernel", "bias"))
            a, c = (np.asarray(variables["frozen"]["output"][name]) for name in ("kernel", "bias"))
            before = x @ w + b
            margins = y * (np.maximum(before, 0) @ a[:, 0] + c)
            pulls = y * (margins < 1 if loss == "hinge" else expit(-margins))
            expected = np.zeros((FEATURES, WIDTH))
            for neuron in range(WIDTH):
                for feature in range(FEATURES):
                    for i in range(N):
                        share = pulls[i] * (before[i, neuron] > 0) * z[i, feature] / N
                        expected[feature, neuron] -= a[neuron, 0] * share
            np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-10, atol=1e-15)


def test_the_background_pulls_by_the_difference_of_activation_rates():
    """-a_k (P+ - P-) E[z_j] for ReLU, up to the noise of the background; zero for a linear network."""
    n = 40_000
    data = sample(jax.random.key(2), n, core=2, background=2, dimension=4)
    found = {}
    for activation in ("relu", "identity"):
        # Two neurons that see only the core, so that the background is independent of their activity.
        network = TwoLayer(2, activation, bias=False)
        variables = network.init(KEY, data.x)
        kernel = jnp.array([[0.1, -0.2], [0.3, 0.1], [0.0, 0.0], [0.0, 0.0]])
        variables = {**variables, "params": {"hidden": {"kernel": kernel}}}
        found[activation] = np.asarray(projections(gradient(network, variables, data.x, data.y, loss="hinge"), 2)[1])
    y, before = np.asarray(data.y), np.asarray(data.x @ kernel)
    asymmetry = ((before > 0) * y[:, None]).mean(axis=0)
    assert np.abs(asymmetry).min() > 0.1
    noise = 5 * 0.5 * np.sqrt(1 / 3) / np.sqrt(n)
    np.testing.assert_allclose(found["relu"], -np.array([0.5, -0.5]) * asymmetry * np.full((2, 1), 0.5), atol=noise)
    np.testing.assert_allclose(found["identity"], 0, atol=noise)


def test_activation_rates_by_class(x64):
    before = RNG.normal(size=(N, WIDTH))
    y = np.where(RNG.uniform(size=N) < 0.4, 1, -1)
    expected = {c: [np.mean([before[i, k] > 0 for i in range(N) if y[i] == c]) for k in range(WIDTH)] for c in (1, -1)}
    rates = activation_rates(jnp.asarray(before), y)
    np.testing.assert_allclose(rates, [expected[1], expected[-1]], rtol=ROUNDING[x64])
    assert rates.own.dtype == x64
    own, other = activation_rates(before, y, output=OUTPUT)
    for neuron in range(WIDTH):
        sign = np.sign(OUTPUT[neuron])
        np.testing.assert_allclose(own[neuron], expected[sign][neuron], rtol=ROUNDING[x64])
        np.testing.assert_allclose(other[neuron], expected[-sign][neuron], rtol=ROUNDING[x64])


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_a_stage_has_the_rates_of_its_pre_activations(activation):
    network = TwoLayer(WIDTH, activation)
    data, variables = problem(network)
    before = data.x @ variables["params"]["hidden"]["kernel"] + variables["params"]["hidden"]["bias"]
    _, state = network.apply(variables, data.x, capture_intermediates=True)
    after = state["intermediates"]["h1"]["__call__"][0]
    for one, other in zip(activation_rates(before, data.y), activation_rates(after, data.y), strict=True):
        np.testing.assert_array_equal(one, other)


def test_rotations_and_permutations():
    """Of space, of the basis within its parts, of neurons, and of examples."""
    with jax.enable_x64(True):
        parts = projections(KERNEL, CORE, basis=BASIS, initial=INITIAL, output=OUTPUT)
        turn = np.linalg.qr(RNG.normal(size=(DIMENSION, DIMENSION)))[0]
        turned = projections(turn @ KERNEL, CORE, basis=BASIS @ turn.T, initial=turn @ INITIAL, output=OUTPUT)
        close = {"rtol": 1e-10, "atol": 1e-12}
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, **close), turned, parts)
        core, background = (np.linalg.qr(RNG.normal(size=(m, m)))[0] for m in (CORE, BACKGROUND))
        mixed = np.concatenate([core @ BASIS[:CORE], background @ BASIS[CORE:]])
        within = projections(KERNEL, CORE, basis=mixed, initial=INITIAL, output=OUTPUT)
        np.testing.assert_allclose(norms(within), norms(parts), **close)
        for one, other in zip(
            components(KERNEL, CORE, basis=mixed), components(KERNEL, CORE, basis=BASIS), strict=True
        ):
            np.testing.assert_allclose(one, other, **close)
        order = np.array([2, 0, 3, 1])
        permuted = projections(KERNEL[:, order], CORE, basis=BASIS, initial=INITIAL[:, order], output=OUTPUT[order])
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other[:, order], **close), permuted, parts)

        network = NETWORKS["relu"]
        data, variables = problem(network)
        examples = RNG.permutation(N)
        before = np.asarray(data.x @ variables["params"]["hidden"]["kernel"])
        for one, other in (
            (
                gradient(network, variables, data.x[examples], data.y[examples], loss="hinge"),
                gradient(network, variables, data.x, data.y, loss="hinge"),
            ),
            (activation_rates(before[examples], data.y[examples]).own, activation_rates(before, data.y).own),
        ):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)


def test_signs_follow_the_output_weights():
    """The function computed by the network is unchanged if a neuron and its output weight change sign (tanh)."""
    flipped = projections(-KERNEL, CORE, basis=BASIS, output=-OUTPUT)
    for one, other in zip(flipped, projections(KERNEL, CORE, basis=BASIS, output=OUTPUT), strict=True):
        np.testing.assert_array_equal(one, other)
    # Features that pull the output up for +1 and down for -1 have positive projections on neurons of both signs.
    data = sample(KEY, 100, core=CORE, background=BACKGROUND, dimension=FEATURES)
    network = TwoLayer(WIDTH, "identity", bias=False)
    variables = network.init(KEY, data.x)
    step = -gradient(network, variables, data.x, data.y, loss="hinge")
    assert (projections(step, CORE, output=variables["frozen"]["output"]["kernel"][:, 0]).core > 0).all()


def test_seeds_are_one_program():
    network, keys = NETWORKS["relu"], jax.random.split(KEY, 3)
    data, _ = problem(network)
    chex.clear_trace_counter()

    def measures(key, basis):
        variables = network.init(key, data.x)
        kernel = variables["params"]["hidden"]["kernel"]
        slope = gradient(network, variables, data.x, data.y, loss="hinge")
        parts = projections(kernel, CORE, basis=basis, initial=0 * kernel, output=OUTPUT)
        return parts, norms(parts), components(slope, CORE, basis=basis), activation_rates(data.x @ kernel, data.y)

    every = jax.jit(jax.vmap(chex.assert_max_traces(measures, 1)))
    bases = jax.vmap(lambda key: random_basis(key, FEATURES, DIMENSION))(keys)
    found = every(keys, bases)
    every(jax.random.split(jax.random.key(1), 3), bases)
    chex.clear_trace_counter()
    one = measures(keys[1], bases[1])
    jax.tree.map(lambda stacked, single: np.testing.assert_allclose(stacked[1], single, atol=1e-6), found, one)


def grown(core: int, background: int, r: float) -> tuple[float, float, float]:
    """By simulation: dB/dt / dC/dt, the activation on the other class, and the shifted margin relative to the margin.

    One neuron with a > 0 has the weight 1/sqrt(core) on core and r/sqrt(background) on background features.
    """
    rng = np.random.default_rng(0)
    n = 200_000
    u, v = (rng.random((n, count), np.float32).sum(axis=1) / np.sqrt(count) for count in (core, background))
    own, other = u + r * v > 0, -u + r * v > 0
    ratio = (own * v - other * v).sum() / (own * u + other * u).sum()
    return float(ratio), float(other.mean()), float(np.maximum(u - r * v, 0).mean() / (u + r * v).mean())


@pytest.mark.parametrize(("core", "background"), [(32, 32), (48, 24), (24, 48)])
def test_the_ratio_of_the_growth_reproduces_itself(core, background):
    r, p, rho = growth(core, background)
    ratio, rate, margin = grown(core, background, r)
    assert abs(ratio - r) < 0.01
    assert abs(rate - p) < 0.005
    assert abs(margin - rho) < 0.005
    assert abs(grown(core, background, 0.8 * r)[0] - 0.8 * r) > 0.02  # other ratios do not


def test_limits_of_many_features():
    for core, background in ((10**9, 10**8), (3 * 10**9, 10**9)):
        r, p, rho = growth(core, background)
        assert r == pytest.approx(np.sqrt(background / core))
        assert p == pytest.approx(0)
        assert rho == pytest.approx((core - background) / (core + background))
    r, p, rho = growth(10**9, 2 * 10**9)
    assert p == pytest.approx(1 / 3, abs=1e-3)
    assert rho < 1e-3
    equal = [growth(size, size) for size in (10**4, 10**6, 10**8)]
    np.testing.assert_allclose([p for _, p, _ in equal], [(1 - r) / (1 + r) for r, _, _ in equal], rtol=1e-6)
    first, second = np.diff(np.log([p for _, p, _ in equal])) / np.log(100)
    assert -0.5 < second < first < -0.4  # approaches -1/2 slowly


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_growth_depends_on_the_ratio_of_mean_and_deviation(factor):
    """A constant factor of all z_j changes neither directions nor relative margins."""
    scaled = growth(16, 24, mean=0.5 * factor, deviation=0.4 * factor)
    np.testing.assert_allclose(scaled, growth(16, 24, mean=0.5, deviation=0.4), rtol=1e-9)
    assert scaled.other != growth(16, 24).other


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: projections(KERNEL[0], CORE), "kernel: expected 2 axes"),
        (lambda: projections(KERNEL * np.nan, CORE), "kernel: expected finite numbers"),
        (lambda: projections(KERNEL, DIMENSION), "core: expected fewer than 7, the number of features, got 7"),
        (lambda: projections(KERNEL, FEATURES, basis=BASIS), "core: expected fewer than 5"),
        (lambda: projections(KERNEL, 0), "core: expected a whole number of at least 1"),
        (lambda: projections(KERNEL, CORE, basis=2 * BASIS), "basis: expected orthonormal rows"),
        (lambda: projections(KERNEL, CORE, basis=np.eye(DIMENSION)[:5, :6]), "basis: expected (rows|orthonormal)"),
        (lambda: projections(KERNEL, CORE, basis=BASIS[0]), "basis: expected 2 axes"),
        (lambda: projections(KERNEL.T, CORE, basis=BASIS), "basis: expected rows of the length 4 of the kernel's"),
        (lambda: projections(KERNEL, CORE, basis="unit"), "basis: expected real numbers"),
        (lambda: projections(KERNEL, CORE, initial="zero"), "initial: expected finite numbers"),
        (lambda: projections(KERNEL, CORE, initial=INITIAL[1:]), r"initial: expected shape \(7, 4\)"),
        (lambda: projections(KERNEL, CORE, output=OUTPUT[1:]), r"output: expected shape \(4,\)"),
        (lambda: components(KERNEL[0], CORE), "array: expected 2 axes"),
        (lambda: norms(KERNEL), "parts: expected core and background"),
        (lambda: norms(Parts(KERNEL, KERNEL[0])), "parts: expected 2 axes"),
        (lambda: activation_rates(KERNEL[0], [1, -1]), "preactivations: expected 2 axes"),
        (lambda: activation_rates(KERNEL[:2], [1, 0]), r"y: expected labels -1 and \+1"),
        (lambda: activation_rates(KERNEL[:2], [1, 1]), r"y: expected both classes, -1 and \+1, got \[1\]"),
        (lambda: activation_rates(KERNEL[:2], [1, -1], output=OUTPUT[1:]), r"output: expected shape \(4,\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_bad_input_of_gradients_is_named():
    network = NETWORKS["relu"]
    data, variables = problem(network)
    for call, message in (
        (lambda: gradient(network.apply, variables, data.x, data.y), "network: expected a flax.linen module"),
        (lambda: gradient(network, variables, data.x, data.y, layer="output"), "layer: expected the path of a layer"),
        (lambda: gradient(network, {}, data.x, data.y), "layer: expected the path of a layer"),
        (lambda: gradient(network, variables, data.x * np.nan, data.y), "x: expected finite numbers"),
        (lambda: gradient(network, variables, data.x, data.y * 2), r"y: expected labels -1 and \+1"),
        (lambda: gradient(network, variables, data.x, data.y, loss="zero-one"), "loss: expected one of cross_entropy"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            call()
