"""Networks in standard parametrisation: forward passes in NumPy, initialisations, sizes, and bad input."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import networks
from gsjax.networks import VGG, ConvNet, FullyConnected, PreActResNet, ResNet, TwoLayer
from gsjax.networks.convolution import convolve

KEY = jax.random.key(0)


def applied(network: nn.Module, *args: Any, **options: Any) -> Any:
    return network.apply(*args, **options)


def parameters(network, *shape):
    variables = jax.eval_shape(network.init, KEY, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_sizes_are_those_of_the_published_networks():
    assert parameters(FullyConnected((500,)), 2) == 2 * 500 + 500 + 500 + 1
    convolutions = 12 * (5 * 5 * 3 + 1) + 32 * (5 * 5 * 12 + 1)
    assert parameters(ConvNet(), 32, 32, 3) == convolutions + 801 * 240 + 241 * 192 + 193 * 2
    # The common implementations, without the biases of VGG's convolutions and with a final norm in PreActResNet.
    assert parameters(VGG(), 32, 32, 3) == 9_231_114 - (64 + 128 + 2 * 256 + 4 * 512)
    assert parameters(PreActResNet(), 32, 32, 3) == 11_171_146 + 2 * 512
    vgg16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    assert parameters(VGG(vgg16), 32, 32, 3) == 14_728_266 - (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)
    assert parameters(ResNet(outputs=1000), 64, 64, 3) == 25_557_032
    assert parameters(ResNet((2, 2, 2, 2), 1000, "basic"), 64, 64, 3) == 11_689_512
    assert parameters(ResNet((3, 4, 6, 3), 1000, "basic"), 64, 64, 3) == 21_797_672
    assert parameters(ResNet((2, 2, 2, 2), 10, "basic", "small"), 32, 32, 3) == 11_173_962


@pytest.mark.parametrize("name", networks.NAMES)
@pytest.mark.parametrize(("outputs", "dtype"), [(1, jnp.float32), (3, jnp.float64)])
def test_outputs_and_dtypes(name, outputs, dtype):
    hidden = {"mlp": 1, "fully_connected": 1, "resnet": 1, "preact_resnet": 4, "vgg": 5}.get(name, 2)
    first = {"vgg": ((4,),) * hidden, "two_layer": 4}.get(name, (4,) * hidden)
    options: dict[str, Any] = {"trained": outputs > 1} if name == "two_layer" else {}
    network = networks.get(name)(first, outputs=outputs, **options)
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct((2, 32, 32, 3), dtype)
        got, variables = jax.eval_shape(network.init_with_output, KEY, x)
        assert got.shape == ((2,) if outputs == 1 else (2, outputs))
        assert {leaf.dtype for leaf in jax.tree.leaves((got, variables["params"]))} == {jnp.dtype(dtype)}
        if "batch_stats" in variables:  # they keep their types, so that a loop can carry them

            def statistics(variables, x):
                return applied(network, variables, x, train=True, mutable=["batch_stats"])[1]

            assert jax.eval_shape(statistics, variables, x) == {"batch_stats": variables["batch_stats"]}


def test_fully_connected_is_the_equation_of_its_docstring(x64):
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    network = FullyConnected((7, 4), 2, "leaky_relu")
    variables = drawn(network, jnp.asarray(x))
    first, second, last = variables["params"].values()
    h = x.reshape(5, 6)
    for weights in (first, second):
        f = h @ weights["kernel"] + weights["bias"]
        h = np.where(f > 0, f, 0.01 * f)
    expected = h @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(jax.jit(network.apply)(variables, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("initialization", "end"), [("torch", 1 / math.sqrt(50)), ("xavier", math.sqrt(6 / 450))])
def test_initialisations_are_uniform_on_their_interval(initialization, end):
    network = FullyConnected((400,), initialization=initialization)
    weights = network.init(KEY, jnp.ones((1, 50)))["params"]["Dense_0"]
    kernel = np.asarray(weights["kernel"]).ravel()
    assert 0.999 * end < np.abs(kernel).max() <= end
    assert np.std(kernel) == pytest.approx(end / math.sqrt(3), rel=0.02)
    bias = np.asarray(weights["bias"])
    if initialization == "xavier":
        assert not bias.any()
    else:
        assert 0.95 * end < np.abs(bias).max() <= end


def test_convolutions_are_initialised_as_in_torch():
    weights = ConvNet((400,), ()).init(KEY, jnp.ones((1, 6, 6, 2)))["params"]["Conv_0"]
    end = 1 / math.sqrt(5 * 5 * 2)
    for leaf in jax.tree.leaves(weights):
        assert 0.95 * end < np.abs(leaf).max() <= end


def test_dropout_and_batch_norm_in_training_and_evaluation():
    x = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    network = FullyConnected((128,), dropout=0.7, batch_norm=True)
    variables = drawn(network, x)
    dense, norm, last = (variables["params"][name] for name in ("Dense_0", "BatchNorm_0", "Dense_1"))
    before = x @ dense["kernel"] + dense["bias"]
    evaluated = relu(normalised(before, norm, variables["batch_stats"]["BatchNorm_0"]))
    np.testing.assert_allclose(
        applied(network, variables, x), evaluated @ last["kernel"][:, 0] + last["bias"], rtol=1e-4
    )

    options = {"train": True, "mutable": ["batch_stats"], "capture_intermediates": True}
    outputs, state = applied(network, variables, x, rngs={"dropout": KEY}, **options)
    hidden = np.asarray(state["intermediates"]["Dropout_0"]["__call__"][0])
    batch = {"mean": before.mean(axis=0), "var": before.var(axis=0)}
    active = relu(normalised(before, norm, batch))
    assert np.mean(hidden[active > 1e-3] == 0) == pytest.approx(0.7, abs=0.03)
    np.testing.assert_allclose(hidden[hidden > 0], active[hidden > 0] / 0.3, rtol=1e-3, atol=1e-4)
    for name, averaged in state["batch_stats"]["BatchNorm_0"].items():
        old = variables["batch_stats"]["BatchNorm_0"][name]
        np.testing.assert_allclose(averaged, 0.9 * old + 0.1 * batch[name], rtol=1e-5)
    assert not np.array_equal(
        outputs, applied(network, variables, x, rngs={"dropout": jax.random.key(1)}, **options)[0]
    )


def convolved(h, kernel, stride=1, pad=0):
    """The convolution of images `(n, height, width, c)` with `pad` zeros on all sides, by loops over positions."""
    h = np.pad(h, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    q = kernel.shape[0]
    rows, columns = ((size - q) // stride + 1 for size in h.shape[1:3])
    windows = [
        [h[:, i * stride : i * stride + q, j * stride : j * stride + q] for j in range(columns)] for i in range(rows)
    ]
    return np.einsum("ijnabc,abcd->nijd", np.asarray(windows), kernel)


def normalised(h, weights, averages):
    mean, var = averages["mean"], averages["var"]
    return (h - mean) / np.sqrt(var + 1e-5) * weights["scale"] + weights["bias"]


def relu(h):
    return np.maximum(h, 0)


def drawn(network, x):
    """Random variables, made without compiling: no scale is one, no mean is zero, variances are positive."""
    shapes, rng = jax.eval_shape(network.init, KEY, x), np.random.default_rng(0)

    def draw(keys, leaf):
        centre = {"kernel": 0, "bias": 0}.get(keys[-1].key, 1)
        return (centre + rng.uniform(-0.4, 0.6, leaf.shape)).astype(leaf.dtype)

    return jax.tree.map_with_path(draw, shapes)


def test_convolution_and_its_gradients_match_jax():
    """For a batch of kernels, with stride and padding: the value and both derivatives."""
    rng = np.random.default_rng(0)
    x, kernels = rng.normal(size=(2, 7, 6, 3)).astype(np.float32), rng.normal(size=(3, 3, 3, 3, 4)).astype(np.float32)

    def ours(x, kernel):
        return (convolve(x, kernel, (2, 1), ((1, 1), (0, 2))) ** 2).sum()

    def theirs(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return (jax.lax.conv_general_dilated(x, kernel, (2, 1), ((1, 1), (0, 2)), dimension_numbers=layout) ** 2).sum()

    def both(kernel):
        return jax.value_and_grad(ours, (0, 1))(x, kernel), jax.value_and_grad(theirs, (0, 1))(x, kernel)

    found, expected = jax.jit(jax.vmap(both))(kernels)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_convnet_by_hand():
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 2)).astype(np.float32)
    network = ConvNet((3,), (4,), kernel_size=3, activation="tanh")
    variables = drawn(network, x)
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, float), variables["params"])
    h = np.tanh(convolved(x, weights["Conv_0"]["kernel"]) + weights["Conv_0"]["bias"])
    h = h[:, :6].reshape(2, 3, 2, 3, 2, 3).max(axis=(2, 4)).reshape(2, -1)  # the last row is dropped
    h = np.tanh(h @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"])
    expected = h @ weights["Dense_1"]["kernel"] + weights["Dense_1"]["bias"]
    np.testing.assert_allclose(jax.jit(network.apply)(variables, x), expected, rtol=1e-5, atol=1e-6)


def test_vgg_by_hand():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    network = VGG(((3,), (4,)), 2)
    variables = drawn(network, x)
    weights, averages = (
        jax.tree.map(lambda leaf: np.asarray(leaf, float), variables[c]) for c in ("params", "batch_stats")
    )
    h = x
    for layer, half in ((0, 2), (1, 1)):
        norm = f"BatchNorm_{layer}"
        h = relu(normalised(convolved(h, weights[f"Conv_{layer}"]["kernel"], pad=1), weights[norm], averages[norm]))
        h = h.reshape(2, half, 2, half, 2, -1).max(axis=(2, 4))
    expected = h.reshape(2, -1) @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"]
    np.testing.assert_allclose(jax.jit(network.apply)(variables, x), expected, rtol=1e-5, atol=1e-5)


def test_preact_resnet_by_hand():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 2)).astype(np.float32)
    network = PreActResNet((3, 4), (1, 1), 2)
    variables = drawn(network, x)
    weights, averages = (
        jax.tree.map(lambda leaf: np.asarray(leaf, float), variables[c]) for c in ("params", "batch_stats")
    )

    def act(h, number):
        return relu(normalised(h, weights[f"BatchNorm_{number}"], averages[f"BatchNorm_{number}"]))

    def conv(h, number, stride=1):
        kernel = weights[f"Conv_{number}"]["kernel"]
        return convolved(h, kernel, stride, pad=len(kernel) // 2)

    h = conv(x, 0)
    h = h + conv(act(conv(act(h, 0), 1), 1), 2)
    active = act(h, 2)
    h = conv(active, 3, 2) + conv(act(conv(active, 4, 2), 3), 5)
    h = act(h, 4).mean(axis=(1, 2))
    expected = h @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"]
    np.testing.assert_allclose(jax.jit(network.apply)(variables, x), expected, rtol=1e-5, atol=1e-5)


def test_get_has_all_networks_and_suggests():
    assert networks.get("mlp") is networks.MLP
    assert {networks.get(name) for name in networks.NAMES} == {
        networks.MLP, networks.CNN, FullyConnected, ConvNet, VGG, PreActResNet, ResNet, TwoLayer
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"name: expected one of mlp.*did you mean convnet"):
        networks.get("conv_net")


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: FullyConnected((0,)), "widths"),
        (lambda: FullyConnected((4,), 0), "outputs"),
        (lambda: FullyConnected((4,), activation="swish"), "activation"),
        (lambda: FullyConnected((4,), initialization="he"), "initialization"),
        (lambda: FullyConnected((4,), dropout=1.0), "dropout"),
        (lambda: FullyConnected((4,)).init(KEY, jnp.ones(3)), "x"),
        (lambda: ConvNet((-1,)), "channels"),
        (lambda: ConvNet(kernel_size=0), "kernel_size"),
        (lambda: jax.eval_shape(ConvNet().init, KEY, jnp.ones((2, 8, 8, 1))), "x"),
        (lambda: ConvNet().init(KEY, jnp.ones((2, 32, 32))), "x"),
        (lambda: VGG(3), "channels"),  # pyright: ignore[reportArgumentType]
        (lambda: VGG((3,)), "channels"),  # pyright: ignore[reportArgumentType]
        (lambda: VGG().init(KEY, jnp.ones((1, 16, 16, 3))), "x"),
        (lambda: PreActResNet((4, 8), (1,)), "blocks"),
        (lambda: PreActResNet((), ()), "channels"),
        (lambda: PreActResNet().init(KEY, jnp.ones((0, 8, 8, 3))), "x"),
        (lambda: ResNet(()), "blocks"),
        (lambda: ResNet(block="plain"), "block"),
        (lambda: ResNet(stem="cifar"), "stem"),
        (lambda: ResNet(width=0), "width"),
    ],
)
def test_bad_arguments(build, name):
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        build()
