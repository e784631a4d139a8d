"""The adapter: what it lends to neural-tangents and takes back, and the limits it computes, each in a second way."""

from __future__ import annotations

import importlib
import itertools
import math
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.networks import CNN, MLP, gamma
from gsjax.tangent import infinite_ntk, neural_tangents, ntk

nt = neural_tangents.load()
stax = nt.stax
linear = importlib.import_module("neural_tangents._src.stax.linear")
compiled = jax.jit(infinite_ntk, static_argnums=0)

NONLINEARITIES = {"relu": stax.Relu, "erf": stax.Erf, "linear": stax.Identity}
GEOMETRIES = [
    CNN((4, 4), kernel_size=3, strides=(2, 1), padding="SAME"),
    CNN((4, 4), kernel_size=2, strides=(1, 2), padding="SAME"),
    CNN((4, 4), kernel_size=3, strides=(2, 2), padding="CIRCULAR"),
    CNN((4, 4), kernel_size=4, strides=(1, 3), padding="CIRCULAR"),
    CNN(()),
]


def images(n, seed=0, shape=(6, 5, 2)):
    return jax.random.normal(jax.random.key(seed), (n, *shape), float)


def geometry(network):
    return f"{network.padding}-q{network.kernel_size}-s{network.strides}"


IMPORT = """
import sys, threading, types
import jax, jax.core, jax.extend.core, jax.interpreters.ad
from gsjax.tangent import neural_tangents

spaces = {name: vars(sys.modules[name]) for name in ("jax", "jax.core", "jax.extend.core", "jax.interpreters.ad")}
before = {name: dict(space) for name, space in spaces.items()}

def untouched():
    for name, space in spaces.items():
        # A part of jax that is imported for the first time becomes an attribute of jax.
        own = {key for key in space if not isinstance(space[key], types.ModuleType) or key in before[name]}
        assert own == set(before[name]), own ^ set(before[name])
        assert all(space[key] is value for key, value in before[name].items()), name
    assert "jax.util" not in sys.modules and "neural_tangents.experimental" not in sys.modules

real = sys.modules.pop("frozendict", None)
sys.modules["frozendict"] = None  # fails in the middle of the import
try:
    neural_tangents.load()
except ModuleNotFoundError as error:
    assert "gsjax[infinite-width]" in str(error) and error.name == "frozendict"
else:
    raise AssertionError("no error")
assert not [name for name in sys.modules if name.startswith("neural_tangents")]
untouched()
del sys.modules["frozendict"]

loaded = []
threads = [threading.Thread(target=lambda: loaded.append(neural_tangents.load())) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
import neural_tangents as plain
assert len(loaded) == 4 and all(module is plain for module in loaded)
assert not hasattr(plain, "experimental")
untouched()
assert not {"tensorflow", "tf2jax", "tests", "examples"} & set(sys.modules)
"""


def test_jax_is_left_as_it_was():
    subprocess.run([sys.executable, "-W", "error", "-c", IMPORT], check=True)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "neural_tangents", None)
    with pytest.raises(ModuleNotFoundError, match=r"install the extra gsjax\[infinite-width\]$"):
        neural_tangents.load()
    assert infinite_ntk(CNN((4,)), images(2)).shape == (2, 2)  # ours needs it not


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("activation", NONLINEARITIES)
def test_mlp_recursion_versus_neural_tangents(activation, depth):
    layers, scale = [], 1.0
    for _ in range(depth):
        layers += [stax.Dense(1, scale), NONLINEARITIES[activation]()]
        scale = math.sqrt(gamma(activation))
    with jax.enable_x64(True):
        x, y = images(5, shape=(7,)), images(4, 1, shape=(7,))
        kernel_fn = stax.serial(*layers, stax.Dense(1, scale))[2]
        expected = jax.jit(lambda x, y: kernel_fn(x, y, "ntk"))(x, y)
        kernel = compiled(MLP((8,) * depth, 1, activation), x, y)
        np.testing.assert_allclose(kernel, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("network", GEOMETRIES, ids=geometry)
def test_linear_cnn_is_a_sum_over_paths(network):
    """yhat is the sum, over the paths of one offset a layer, of the mean of the pixels that they lead to, times the
    product of their weights: L + 1 independent factors, each a parameter, hence Theta = (L + 1) Sigma.
    """
    q, circular = network.kernel_size, network.padding == "CIRCULAR"

    def step(h, offset, stride):
        for axis, (o, length) in enumerate(zip(offset, h.shape[1:3], strict=True), 1):
            out = -(-length // stride)
            left = (q - 1) // 2 if circular else max((out - 1) * stride + q - length, 0) // 2
            positions = np.arange(out) * stride + o - left
            is_inside = circular | ((positions >= 0) & (positions < length))
            shape = [-1 if a == axis else 1 for a in range(4)]
            h = np.take(h, positions % length, axis) * is_inside.reshape(shape)
        return h

    def features(x):
        paths = []
        offsets = list(itertools.product(range(q), repeat=2))
        for path in itertools.product(offsets, repeat=len(network.strides)):
            h = np.asarray(x) / math.sqrt(x.shape[-1])
            for offset, stride in zip(path, network.strides, strict=True):
                h = step(h, offset, stride) / q
            paths.append(h.mean(axis=(1, 2)))
        return np.concatenate(paths, axis=1)

    with jax.enable_x64(True):
        x, y = images(3), images(2, 1)
        kernel = compiled(network.clone(activation="linear"), x, y)
        expected = (len(network.strides) + 1) * features(x) @ features(y).T
        np.testing.assert_allclose(kernel, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("activation", "padding"), [("relu", "SAME"), ("erf", "CIRCULAR")])
def test_cnn_versus_the_layers_of_neural_tangents(activation, padding):
    """Their nonlinearities in the place of ours; strides such that both place circular patches alike."""
    strides = (2, 1) if padding == "SAME" else (1,)
    layers, scale = [], 1.0
    for stride in strides:
        layers += [stax.Conv(1, (3, 3), (stride,) * 2, padding, scale), NONLINEARITIES[activation]()]
        scale = math.sqrt(gamma(activation))
    kernel_fn = stax.serial(*layers, stax.GlobalAvgPool(), stax.Dense(1, scale))[2]
    with jax.enable_x64(True):
        x, y = images(3), images(2, 1)
        kernel = compiled(CNN((4,) * len(strides), 1, activation, 3, strides, padding), x, y)
        expected = jax.jit(lambda x, y: kernel_fn(x, y, "ntk"))(x, y)
        np.testing.assert_allclose(kernel, expected, rtol=1e-12)


@pytest.mark.parametrize("activation", ["erf", "linear", "relu", "tanh"])
def test_cnn_on_single_pixels_is_the_mlp(x64, activation):
    x = images(5, shape=(1, 1, 3))
    cnn, mlp = (compiled(network, x) for network in (CNN((4, 4), 1, activation, 1), MLP((4, 4), 1, activation)))
    np.testing.assert_allclose(cnn, mlp, rtol=1e-4 if x64 == jnp.float32 else 1e-12)


@pytest.mark.slow
def test_wide_networks_tend_to_it():
    """The mean over 80 seeds of the empirical kernel with 64 channels: each entry within 4.5 standard errors."""
    network = CNN((64, 64), 1, "relu", 3, (2, 1), "CIRCULAR")
    x = images(3, shape=(4, 4, 2))

    @jax.jit
    def kernels(keys):
        return jax.lax.map(lambda key: ntk(network.apply, network.init(key, x), x), keys)

    samples = np.asarray(kernels(jax.random.split(jax.random.key(1), 80)), float)
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    theory = np.asarray(compiled(network, x))
    assert (np.abs(samples.mean(axis=0) - theory) < 4.5 * error).all()
    # The gate is a gate: with the other padding it would not pass.
    other = np.asarray(compiled(network.clone(padding="SAME"), x))
    assert (np.abs(samples.mean(axis=0) - other) > 4.5 * error).any()


def test_cnn_is_symmetric_to_the_last_bit_and_follows_the_dtype(x64):
    x = images(6)
    several = compiled(CNN((4,), 2, "relu", strides=(2,)), x)
    assert several.dtype == x64
    kernel = np.asarray(several[..., 0, 0])
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_array_equal(several, kernel[..., None, None] * np.eye(2))
    assert np.linalg.eigvalsh(kernel)[0] > 0


@pytest.mark.parametrize("padding", list(linear.Padding))
def test_covariance_of_patches_versus_that_of_each_position(padding):
    """The variances on the diagonal, which neural-tangents can also follow alone; the axes leave in reverse order."""
    covariance = jax.random.normal(jax.random.key(0), (2, 3, 5, 5, 6, 6))
    geometry = ((2, 3), (2, 1), padding, 2)

    @jax.jit
    def both(covariance):
        full = linear._conv_kernel_full_spatial_shared(covariance, *geometry)
        variance = linear._conv_kernel_diagonal_spatial(jnp.einsum("nmhhww->nmhw", covariance), *geometry)
        return jnp.einsum("nmwwhh->nmhw", full), variance

    np.testing.assert_allclose(*both(covariance), rtol=1e-5, atol=1e-6)


def test_kernel_fn_of_neural_tangents_is_passed_through():
    kernel_fn = jax.jit(stax.serial(stax.Dense(8, 1.5, 0.1), stax.Erf(), stax.Dense(3))[2], static_argnames="get")
    x, y = images(5, shape=(7,)), images(4, 1, shape=(7,))
    np.testing.assert_array_equal(infinite_ntk(kernel_fn, x, y), kernel_fn(x, y, get="ntk"))
    kernel = infinite_ntk(kernel_fn, x)
    np.testing.assert_allclose(kernel, kernel_fn(x, None, get="ntk"), rtol=1e-6)
    np.testing.assert_array_equal(kernel, kernel.T)


def test_what_another_kernel_fn_returns_is_returned():
    x, answer = images(2), jnp.arange(16.0).reshape(2, 2, 2, 2)

    def kernel_fn(x1, x2, get):
        assert x1 is x
        assert x2 is None
        assert get == "ntk"
        return answer

    assert infinite_ntk(kernel_fn, x) is answer


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), (2, 2))(x))
        return nn.Dense(2)(x.mean(axis=(1, 2)))


@pytest.mark.parametrize("implementation", ["JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS"])
def test_empirical_kernels_of_neural_tangents_run(implementation):
    """As peers of `ntk`; here they check each other."""
    x, y = images(3), images(2, 1)
    variables = jax.jit(Convolutional().init)(jax.random.key(0), x)
    peer = nt.empirical_ntk_fn(
        Convolutional().apply,
        trace_axes=(),
        vmap_axes=0,
        implementation=getattr(nt.NtkImplementation, implementation),
    )
    kernel = jax.jit(peer)(x, y, variables)
    np.testing.assert_allclose(kernel, ntk(Convolutional().apply, variables, x, y), rtol=1e-4, atol=1e-5)
