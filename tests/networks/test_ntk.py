"""Networks in NTK parametrisation: Eq. 1 against NumPy, the norm of activations, dtypes, and bad sizes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from gsjax import networks
from gsjax.networks import CNN, MLP

XI = {
    "relu": lambda f: np.maximum(f, 0),
    "erf": scipy.special.erf,
    "tanh": np.tanh,
    "linear": lambda f: f,
}
activations = pytest.mark.parametrize("activation", sorted(XI))


@activations
def test_gamma_is_one_over_the_second_moment(activation):
    def integrand(g):
        return XI[activation](g) ** 2 * math.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)

    moment = sum(scipy.integrate.quad(integrand, *side, epsabs=1e-14)[0] for side in [(-15, 0), (0, 15)])
    assert networks.gamma(activation) == pytest.approx(1 / moment, rel=1e-12)


def test_gamma_of_erf_in_closed_form():
    assert networks.gamma("erf") == pytest.approx(math.pi / 2 / math.asin(2 / 3), rel=1e-15)


@activations
@pytest.mark.parametrize("outputs", [1, 3])
def test_mlp_is_equation_1(x64, activation, outputs):
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    network = MLP((7, 4), outputs, activation)
    variables = jax.jit(network.init)(jax.random.key(1), jnp.asarray(x))
    weights = [np.asarray(variables["params"][f"W{layer}"]["kernel"], float) for layer in (1, 2, 3)]

    h = x.reshape(5, 6) / np.sqrt(6)
    for weight, width in zip(weights, (7, 4), strict=False):
        h = np.sqrt(networks.gamma(activation) / width) * XI[activation](h @ weight)
    expected = h @ weights[-1]

    got = jax.jit(network.apply)(variables, jnp.asarray(x))
    assert got.dtype == x64
    assert all(leaf.dtype == x64 for leaf in jax.tree.leaves(variables))
    np.testing.assert_allclose(got, expected[:, 0] if outputs == 1 else expected, rtol=2e-5, atol=1e-6)


def test_the_dtype_follows_the_input():
    with jax.enable_x64(True):
        x = jnp.ones((2, 4), jnp.float32)
        output, variables = MLP((3,)).init_with_output(jax.random.key(0), x)
    assert output.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_integer_pixels_are_converted():
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    for network in (MLP((3,)), CNN((3,))):
        variables = network.init(jax.random.key(0), pixels)
        np.testing.assert_array_equal(
            network.apply(variables, pixels), network.apply(variables, pixels.astype(np.float32))
        )


def test_without_hidden_layers_the_network_is_linear():
    x = jax.random.normal(jax.random.key(0), (6, 4))
    variables = MLP(()).init(jax.random.key(1), x)
    weight = variables["params"]["W1"]["kernel"]
    got = jax.jit(MLP(()).apply)(variables, x)
    np.testing.assert_allclose(got, np.asarray(x) @ np.asarray(weight)[:, 0] / 2, rtol=1e-6)


@activations
def test_the_norm_is_the_same_in_every_layer(activation):
    """E yhat^2 = |x|^2 / d_0 over weights; exact for homogeneous xi, else up to 1/width, below the error here."""
    x = jnp.ones((1, 5))
    network = MLP((64, 64), 1, activation)
    keys = jax.random.split(jax.random.key(3), 1000)
    outputs = jax.jit(jax.vmap(lambda key: network.init_with_output(key, x)[0][0]))(keys)
    squares = np.asarray(outputs) ** 2
    assert abs(squares.mean() - 1) < 4 * squares.std() / math.sqrt(len(squares))


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
def test_cnn_is_the_convolution_of_its_docstring(x64, padding):
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 2))
    network = CNN((3, 4), 2, "tanh", strides=(1, 2), padding=padding)
    variables = jax.jit(network.init)(jax.random.key(1), jnp.asarray(x))
    weights = [np.asarray(variables["params"][f"W{layer}"]["kernel"], float) for layer in (1, 2, 3)]

    h = x / np.sqrt(2)
    for weight, channels, stride in zip(weights, (3, 4), (1, 2), strict=False):
        _, height, width, _ = h.shape
        # TensorFlow's "SAME": the padding that the stride needs, with an odd one at the end.
        before = [max((-(-size // stride) - 1) * stride + 3 - size, 0) // 2 for size in (height, width)]
        if padding == "CIRCULAR":
            before = [1, 1]
        windows = [[position - pad for position in range(0, size, stride)]
                   for size, pad in zip((height, width), before, strict=True)]  # fmt: skip
        f = np.zeros((len(x), len(windows[0]), len(windows[1]), channels))
        for a, top in enumerate(windows[0]):
            for b, left in enumerate(windows[1]):
                for i in range(3):
                    for j in range(3):
                        row, column = top + i, left + j
                        is_inside = 0 <= row < height and 0 <= column < width
                        if is_inside or padding == "CIRCULAR":
                            f[:, a, b] += h[:, row % height, column % width] @ weight[i, j] / 3
        h = np.sqrt(networks.gamma("tanh") / channels) * np.tanh(f)
    expected = h.mean(axis=(1, 2)) @ weights[-1]

    got = jax.jit(network.apply)(variables, jnp.asarray(x))
    assert got.dtype == x64
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_cnn_of_one_pixel_is_the_mlp():
    x = jax.random.normal(jax.random.key(0), (6, 1, 1, 4))
    cnn, mlp = CNN((5, 3), kernel_size=1), MLP((5, 3))
    variables = cnn.init(jax.random.key(1), x)
    flat = jax.tree.map(lambda kernel: kernel.reshape(kernel.shape[-2:]), variables)
    np.testing.assert_allclose(jax.jit(cnn.apply)(variables, x), jax.jit(mlp.apply)(flat, x), rtol=1e-5)


def test_circular_convolution_keeps_the_norm_averaged_over_positions(x64):
    """f^(1) is linear in W^(1) ~ N(0, 1), so its variance is the squared norm of its gradient."""
    x = jax.random.normal(jax.random.key(0), (1, 5, 4, 2), float)

    def variance(padding):
        network = CNN((1,), 1, "linear", padding=padding)
        variables = network.init(jax.random.key(1), x)

        def convolution(kernel):
            changed = {"params": {**variables["params"], "W1": {"kernel": kernel}}}
            _, state = network.apply(changed, x, capture_intermediates=True)
            return jnp.asarray(state["intermediates"]["W1"]["__call__"][0])[0, :, :, 0] / 3

        gradient = jax.jit(jax.jacfwd(convolution))(variables["params"]["W1"]["kernel"])
        return (gradient**2).sum(axis=(2, 3, 4, 5)).mean()

    norm = (x**2).sum(axis=-1).mean() / 2
    np.testing.assert_allclose(variance("CIRCULAR"), norm, rtol=10 * float(jnp.finfo(x64).eps))
    assert variance("SAME") < 0.9 * norm


def test_networks_are_hashable_and_compare_by_value():
    assert MLP([4, 2]) == MLP((4, 2))
    assert hash(MLP([4, 2])) == hash(MLP((4, 2)))
    assert CNN((4, 2)) == CNN((4, 2), strides=(1, 1))
    assert MLP((4, 2)) != MLP((4, 3))


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: MLP((8, 0)), "widths"),
        (lambda: MLP((-1,)), "widths"),
        (lambda: MLP((2.5,)), "widths"),  # pyright: ignore[reportArgumentType]
        (lambda: MLP(8), "widths"),  # pyright: ignore[reportArgumentType]
        (lambda: MLP((8,), outputs=0), "outputs"),
        (lambda: MLP((8,), activation="gelu"), "activation.*gelu"),
        (lambda: CNN((0,)), "channels"),
        (lambda: CNN((4,), activation="gelu"), "activation.*gelu"),
        (lambda: CNN((4,), kernel_size=0), "kernel_size"),
        (lambda: CNN((4, 4), strides=(1,)), "strides"),
        (lambda: CNN((4,), strides=(0,)), "strides"),
        (lambda: CNN((4,), padding="VALID"), "padding"),
        (lambda: networks.gamma("gelu"), "activation.*gelu"),
        (lambda: MLP((4,)).init(jax.random.key(0), jnp.ones(3)), "x: "),
        (lambda: MLP((4,)).init(jax.random.key(0), jnp.ones((0, 3))), "x: "),
        (lambda: MLP((4,)).init(jax.random.key(0), jnp.ones((3, 0))), "x: "),
        (lambda: CNN((4,)).init(jax.random.key(0), jnp.ones((2, 8, 8))), "x: "),
    ],
)
def test_bad_sizes_are_named(build, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        build()
