"""Kernels that would be wrong without a word: every kind in several forms, against JAX's own derivatives."""

from __future__ import annotations

import functools
import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gsjax.tangent import ntk, ntk_operator, ntrf
from gsjax.tangent.cache import Blocks

N = 4
METHODS = ("auto", "structured", "jacobian")
HALF = {jnp.float16: 2.0**-10, jnp.bfloat16: 2.0**-7}


def normal(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).normal(size=shape)


def drawn(tree, seed=0):
    """A tree of these shapes, of random numbers in the float type in force."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 + random.normal(size=leaf.shape), float), tree)


def initial(module, x, **kwargs):
    return drawn(jax.eval_shape(functools.partial(module.init, **kwargs), jax.random.key(0), x))["params"]


def applied(module: Any, params, x, **kwargs):
    return module.apply({"params": params}, x, **kwargs)


def features(apply_fn, params, x):
    """Rows of derivatives in double precision, `(n k, m)`, of one example at a time."""
    rows = []
    # Compiled for CPUs in a third of the usual time.
    faster = {"xla_cpu_use_fusion_emitters": False}
    derivative = jax.jit(
        jax.jacrev(lambda params, example: apply_fn(params, example[None])[0]), compiler_options=faster
    )
    for example in x:
        k = jax.eval_shape(apply_fn, params, example[None]).size
        leaves = jax.tree.leaves(derivative(params, example))
        rows.append(np.concatenate([np.asarray(leaf, float).reshape(k, -1) for leaf in leaves], 1))
    return np.concatenate(rows)


def matrix(kernel):
    kernel = np.asarray(kernel)
    return kernel if kernel.ndim == 2 else kernel.swapaxes(1, 2).reshape(len(kernel) * kernel.shape[2], -1)


def check(apply_fn, params, x, methods=("auto",)):
    """The kernel of a network in double precision."""
    phi = features(apply_fn, params, x)
    expected = phi @ phi.T
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert scale.min() > 0
    for method in methods:
        kernel = matrix(ntk(apply_fn, params, x, method=method))
        assert (abs(kernel - expected) <= 1e-12 * scale).all()
        np.testing.assert_array_equal(kernel, kernel.T)


# 1. What stands between a layer and its call


def times_three(p, call, args, kwargs, context):
    return 3 * call(*args, **kwargs)


def squared_inputs(p, call, args, kwargs, context):
    return call(args[0] ** 2, *args[1:], **kwargs)


def equalised(p, call, args, kwargs, context):
    return call(*args, **kwargs) * p["gain"]


def low_rank(p, call, args, kwargs, context):
    flat = args[0].reshape(len(args[0]), -1)
    y = call(*args, **kwargs)
    return y + (flat @ jnp.ones((flat.shape[1], 2)) @ p["b"]).sum(-1).reshape(-1, *(1 for _ in y.shape[1:]))


def kernel_as_penalty(p, call, args, kwargs, context):
    """The parameters of the layer are used beside the call, too."""
    kernel = context.module.variables["params"]["kernel"]
    return call(*args, **kwargs) * (1 + jnp.sum(kernel**2))


def replaced(p, call, args, kwargs, context):
    """Weight normalisation: the layer itself is not called at all."""
    variables = context.module.variables["params"]
    v = variables["kernel"].reshape(-1, variables["kernel"].shape[-1])
    h = args[0].reshape(len(args[0]), -1)[:, : len(v)]
    return jnp.tanh(h) @ (v / jnp.sqrt((v**2).sum(0, keepdims=True))) + variables["bias"]


def stopped(p, call, args, kwargs, context):
    y = call(*args, **kwargs)
    return y + lax.stop_gradient(jnp.sin(y))


INTERCEPTORS = [times_three, squared_inputs, equalised, low_rank, kernel_as_penalty, replaced, stopped]
LAYERS = {
    "dense": (nn.Dense(3), (5,)),
    "convolution": (nn.Conv(3, (2, 2)), (3, 3, 2)),
    "transposed convolution": (nn.ConvTranspose(2, (2, 2), strides=(2, 2)), (2, 2, 3)),
    "dense over two axes": (nn.DenseGeneral(3, axis=(-2, -1)), (2, 3)),
}


@pytest.mark.parametrize(
    ("layer", "interceptor"),
    [
        *(("dense", interceptor) for interceptor in INTERCEPTORS),
        ("convolution", times_three),
        ("convolution", kernel_as_penalty),
        ("transposed convolution", equalised),
        ("dense over two axes", low_rank),
        ("dense over two axes", stopped),
    ],
)
def test_interceptors_inside_the_network(layer, interceptor):
    module, shape = LAYERS[layer]
    with jax.enable_x64(True):
        x = jnp.asarray(normal(N, *shape))
        params = {
            "layer": initial(module, x),
            "gain": jnp.asarray(1.7),
            "b": jnp.asarray(normal(2, 3)),
            "out": jnp.asarray(normal(4)),
        }

        def apply_fn(params, x):
            with nn.intercept_methods(functools.partial(interceptor, params)):
                h = applied(module, params["layer"], x)
            h = jnp.tanh(h.reshape(len(h), -1) / 4)
            return h @ jnp.resize(params["out"], (h.shape[1],))

        check(apply_fn, params, x)


def test_interceptors_within_one_another_and_around_the_call():
    with jax.enable_x64(True):
        module, x = nn.Dense(3), jnp.asarray(normal(N, 5))
        params = {"layer": initial(module, x), "gain": jnp.asarray(1.7)}

        def apply_fn(params, x):
            with (
                nn.intercept_methods(functools.partial(equalised, params)),
                nn.intercept_methods(functools.partial(times_three, params)),
                nn.intercept_methods(functools.partial(squared_inputs, params)),
            ):
                return jnp.tanh(applied(module, params["layer"], x) / 50)

        check(apply_fn, params, x)
        with nn.intercept_methods(functools.partial(times_three, None)):
            check(apply_fn, params, x)


def test_a_dense_layer_of_thrice_its_output():
    x = jnp.asarray(normal(N, 5), jnp.float32)
    module = nn.Dense(1)
    params = module.init(jax.random.key(0), x)

    def tripled(params, x):
        with nn.intercept_methods(functools.partial(times_three, None)):
            return applied(module, params["params"], x)[:, 0]

    np.testing.assert_allclose(ntk(tripled, params, x), 9 * (x @ x.T + 1), rtol=1e-5)


# 2. One parameter in uses of different forms


def conv(kernel, h, *, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options):
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return lax.conv_general_dilated(h, kernel, dimension_numbers=dimension_numbers, **options)


def grouped_bias(p, x):
    """One bias after convolutions of one group, of three, and after a dense layer."""
    h = conv(p["k1"], x) + p["b"]
    h = conv(p["k3"], jnp.tanh(h), feature_group_count=3) + p["b"]
    return (jnp.tanh(h).mean((1, 2)) @ p["w"] + p["b"]) ** 2


def flax_grouped_bias(p, x):
    one, three = nn.Conv(3, (1, 1)), nn.Conv(3, (2, 2), feature_group_count=3)
    h = jnp.tanh(applied(one, {"kernel": p["k1"], "bias": p["b"]}, x))
    return jnp.tanh(applied(three, {"kernel": p["k3"], "bias": p["b"]}, h)).sum((1, 2))


def both_orders_of_axes(p, x):
    h = jnp.tanh(x[:, 0] @ p["w"])
    first = applied(nn.DenseGeneral(3, axis=(-2, -1), use_bias=False), {"kernel": p["cube"]}, h)
    second = applied(nn.DenseGeneral(3, axis=(-1, -2), use_bias=False), {"kernel": p["cube"]}, h)
    return jnp.tanh(first) * second


def einsums_of_two_formulas(p, x):
    h = x.mean(1)
    return jnp.tanh(jnp.einsum("nij,ijk->nk", h, p["cube"])) + jnp.einsum("ijk,nji->nk", p["cube"], h**2)


def transposed_read_out(p, x):
    h = x.mean((1, 2))
    return jnp.tanh(jnp.tanh(h @ p["w"]) @ p["w"].T) @ p["w"][:, :2]


def different_groups(p, x):
    """A kernel (2, 2, 1, 3) on one channel, on three channels apart, and on one position."""
    h = jnp.tanh(conv(p["k3"], x[..., :1]))
    h = jnp.tanh(conv(p["k3"], h, feature_group_count=3))
    return h.mean((1, 2)) * (x[:, 0, 0, :1] @ p["k3"][0, 0])


def different_strides(p, x):
    h = jnp.tanh(conv(p["k"], x))
    spread = {"lhs_dilation": (2, 1), "padding": [(0, 1), (1, 1)]}
    for options in ({"window_strides": (2, 1)}, {"rhs_dilation": (1, 2)}, spread, {"padding": "VALID"}):
        h = jnp.tanh(conv(p["k"], h, **options))
    return h.mean((1, 2))


def convolution_and_dense(p, x):
    return jnp.tanh(conv(p["w"][None, None], x)).mean((1, 2)) @ p["w"] + x.sum((1, 2)) @ p["w"].T


def convolution_and_its_transpose(p, x):
    h = jnp.tanh(conv(p["k"], x, window_strides=(2, 2)))
    return jnp.tanh(lax.conv_transpose(h, p["k"], (2, 2), "SAME", transpose_kernel=True)).mean((1, 2))


def flipped_kernel(p, x):
    h = jnp.tanh(conv(p["k"], x))
    return conv(p["k"][::-1, ::-1].swapaxes(2, 3), h).mean((1, 2))


def layouts(p, x):
    h = jnp.tanh(conv(p["k"], x))
    h = conv(p["k"], h.transpose(0, 3, 1, 2), dimension_numbers=("NCHW", "HWIO", "NHWC"))
    return jnp.tanh(h).mean((1, 2)) + jnp.tanh(conv(p["k"], x, dimension_numbers=("NHWC", "HWOI", "NHWC"))).mean((1, 2))


def embedding_and_read_out(p, x):
    ids = jnp.floor(3 * x[:, 0, :, 0]).astype(int) % 3
    embed = nn.Embed(3, 3)
    table = {"embedding": p["w"]}
    return applied(embed, table, jnp.tanh(applied(embed, table, ids).mean(1)), method="attend")


def bias_and_kernel(p, x):
    h = jnp.tanh(x.mean((1, 2)) @ p["w"] + p["b"])
    return (h @ p["b"]) * (1 + h @ p["w"][0]) * p["b"][1]


def bias_over_other_axes(p, x):
    return (jnp.tanh(x + p["b"]) + jnp.sin(x + p["b"][:, None]) * (x + p["b"][:, None, None])).mean((1, 2))


def heads_and_whole(p, x):
    """Once with a batch of heads, once with all of it contracted."""
    h = x.mean(1)  # (n, 3, 3)
    apart = jnp.einsum("nhi,hio->nho", h, p["cube"])
    return jnp.tanh(apart).sum(1) + jnp.tanh(jnp.einsum("nhi,hio->no", h, p["cube"]))


def parts_that_overlap(p, x):
    h = jnp.tanh(x.mean((1, 2)) @ p["w"][:, :2])
    return jnp.tanh(h @ p["w"][1:, 1:]) + h @ p["w"][:2, :2] + p["w"][0, :2]


SHARED = [
    grouped_bias,
    flax_grouped_bias,
    both_orders_of_axes,
    einsums_of_two_formulas,
    transposed_read_out,
    different_groups,
    different_strides,
    convolution_and_dense,
    convolution_and_its_transpose,
    flipped_kernel,
    layouts,
    embedding_and_read_out,
    bias_and_kernel,
    bias_over_other_axes,
    heads_and_whole,
    parts_that_overlap,
]


@pytest.mark.parametrize("apply_fn", SHARED)
def test_one_parameter_in_different_forms(apply_fn):
    shapes = {"k1": (1, 1, 3, 3), "k3": (2, 2, 1, 3), "k": (2, 3, 3, 3), "cube": (3, 3, 3), "w": (3, 3), "b": (3,)}
    with jax.enable_x64(True):
        x = jnp.asarray(normal(N, 3, 3, 3))
        check(apply_fn, {name: jnp.asarray(normal(*shape)) for name, shape in shapes.items()}, x)


LOOKED_UP = {
    "fill": lambda table, ids: jnp.take(table, ids, 0, mode="fill", fill_value=0.25),
    "clip": lambda table, ids: jnp.take(table, ids, 0, mode="clip"),
    "wrap": lambda table, ids: jnp.take(table, ids, 0, mode="wrap"),
    "filled by at": lambda table, ids: table.at[ids].get(mode="fill", fill_value=0),
    "index": lambda table, ids: table[ids],
    "of columns": lambda table, ids: jnp.take(table.T, ids, 1, mode="clip").transpose(1, 2, 0),
}


@pytest.mark.parametrize("mode", LOOKED_UP)
def test_ids_out_of_bounds(mode):
    """Rows that are not there take no part in the gradient, or the ones at the border do, as the mode has it."""
    with jax.enable_x64(True):
        ids = jnp.asarray([[-7, 5, 1], [4, 8, -1], [0, -5, 2], [6, 6, 4]])
        check(lambda table, ids: jnp.tanh(LOOKED_UP[mode](table, ids)).sum((1, 2)), jnp.asarray(normal(5, 2)), ids)


# 3. Complex numbers


def dense_after_fft(p, x):
    return jnp.abs(applied(nn.Dense(3), {"kernel": p["w"], "bias": p["b"]}, jnp.fft.fft(x)))


def real_part(p, x):
    return jnp.real(jnp.fft.fft(jnp.tanh(x @ p["w"])) @ p["w"] + p["b"])


def imaginary_part(p, x):
    return jnp.imag((jnp.fft.fft(x) * p["b"]) @ p["w"])


def complex_weights(p, x):
    return jnp.abs(x @ (p["w"] + 1j * p["v"]) + 1j * p["b"])


def convolution_after_fft(p, x):
    h = jnp.fft.fft2(x.reshape(N if len(x) == N else len(x), 3, 1, 1), axes=(1, 2))
    y = conv(p["w"].reshape(3, 1, 1, 3).astype(complex), h)
    return (jnp.abs(y) ** 2).mean((1, 2))


def spectral_convolution(p, x):
    return jnp.fft.irfft(jnp.fft.rfft(x) * (p["w"][0, :2] + 1j * p["v"][0, :2]), 3)


def complex_scan(p, x):
    def step(z, _):
        return z * jnp.exp(1j * p["b"]) @ p["w"] / 2, None

    return jnp.real(lax.scan(step, x.astype(complex), None, length=2)[0])


def phases(p, x):
    return jnp.angle(jnp.exp(1j * jnp.tanh(x @ p["w"])) * (1 + 0.2j))


def conjugated(p, x):
    z = (x + 1j * jnp.sin(x)) @ p["w"]
    return jnp.real(z * jnp.conj(z @ p["v"]))


COMPLEX = [
    dense_after_fft,
    real_part,
    imaginary_part,
    complex_weights,
    convolution_after_fft,
    spectral_convolution,
    complex_scan,
    phases,
    conjugated,
]


@pytest.mark.parametrize("apply_fn", COMPLEX)
def test_complex_values_inside(apply_fn):
    with jax.enable_x64(True):
        params = {name: jnp.asarray(normal(3, 3, seed=i)) for i, name in enumerate("wv")} | {
            "b": jnp.asarray(normal(3))
        }
        check(apply_fn, params, jnp.asarray(normal(N, 3)), METHODS)


@pytest.mark.parametrize("function", [ntk, ntrf, ntk_operator, *(functools.partial(ntk, method=m) for m in METHODS)])
@pytest.mark.parametrize(
    "apply_fn",
    [
        lambda w, x: jnp.fft.fft(x @ w),
        lambda w, x: (x @ w).astype(complex)[:, 0],
        lambda w, x: nn.Dense(2).apply({"params": {"kernel": w[:, :2], "bias": w[0, :2]}}, jnp.fft.fft(x)),
    ],
)
def test_complex_outputs_are_refused(apply_fn, function):
    with pytest.raises(ValueError, match=r"^apply_fn: .*complex"):
        function(apply_fn, jnp.asarray(normal(3, 3)), jnp.asarray(normal(N, 3)))


# 4. Layers in half precision, parameters in single precision


class Narrow(nn.Module):
    """Layers of all kinds between the first and the last one, computed in `dtype`."""

    layer: str
    dtype: object

    @nn.compact
    def __call__(self, x):
        options: Any = {"dtype": self.dtype}
        if self.layer == "dense":
            h = nn.Dense(16, **options)(x.reshape(len(x), -1))
        elif self.layer == "deep":
            h = nn.Dense(16, **options)(jnp.tanh(nn.Dense(16, **options)(x.reshape(len(x), -1))))
        elif self.layer == "convolution":
            h = nn.Conv(8, (3, 3), **options)(x)
        elif self.layer == "depthwise":
            h = nn.Conv(4, (2, 2), feature_group_count=4, **options)(x)
        elif self.layer == "transposed":
            h = nn.ConvTranspose(4, (2, 2), strides=(2, 2), **options)(x)
        elif self.layer == "attention":
            h = nn.MultiHeadDotProductAttention(num_heads=2, **options)(x.reshape(len(x), -1, 4) / 4)
        elif self.layer == "normalised":
            h = nn.LayerNorm(**options)(nn.Dense(8, **options)(x.reshape(len(x), -1)))
        elif self.layer == "embedding":
            ids = (x[..., 0] > 0).astype(int) + (x[..., 1] > 0)
            h = nn.Embed(3, 8, **options)(ids)
        else:
            h = nn.DenseGeneral((2, 4), axis=(-2, -1), **options)(x)
        h = jnp.tanh(h.reshape(len(x), -1) / 8)
        return nn.Dense(1, **options)(h)[:, 0]


NARROW = (
    "dense",
    "deep",
    "convolution",
    "depthwise",
    "transposed",
    "attention",
    "normalised",
    "embedding",
    "two axes",
)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("layer", "size"), [*((layer, 1.0) for layer in NARROW), ("dense", 60.0), ("convolution", 60.0)]
)
def test_half_precision_within_layers(layer, dtype, size):
    """In the precision of the parameters, positive, and where the derivatives, which are rounded themselves, are."""
    module = Narrow(layer, dtype)
    x = jnp.asarray(size * normal(6, 4, 4, 4), jnp.float32)
    params = jax.tree.map(lambda leaf: leaf / 2, {"params": initial(module, x)})
    phi = features(lambda params, x: module.apply(params, x), params, x)
    expected = phi @ phi.T
    kernel = np.asarray(ntk(module.apply, params, x))
    assert kernel.dtype == np.float32
    assert np.isfinite(kernel).all()
    np.testing.assert_array_equal(kernel, kernel.T)
    eigenvalues = np.linalg.eigvalsh(kernel.astype(float))
    assert eigenvalues[0] > -20 * np.finfo(np.float32).eps * eigenvalues[-1]
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (abs(kernel - expected) <= 4 * HALF[dtype] * scale).all()


@pytest.mark.parametrize("dtype", HALF)
def test_sums_beyond_half_precision(dtype):
    """A Gram matrix of activations that half precision cannot hold, or not to three digits."""
    x = jnp.asarray(np.round(8 * normal(5, 2048)) / 4 + 8, jnp.float32)  # exact in both

    def linear(w, x):
        return (x.astype(dtype) @ w.astype(dtype)).astype(jnp.float32)

    exact = np.asarray(x, float) @ np.asarray(x, float).T
    assert exact.max() > np.finfo(np.float16).max
    np.testing.assert_allclose(ntk(linear, jnp.ones(2048, jnp.float32), x), exact, rtol=1e-5)
    np.testing.assert_allclose(ntk(linear, jnp.ones((2048, 1), jnp.float32), x)[..., 0, 0], exact, rtol=1e-5)


# 6. A function as it is now


class Scaled:
    """A network that is an object, with a hash."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, w, x):
        return self.scale * (x @ w)

    def method(self, w, x):
        return self.scale * (x @ w)


def in_a_dict():
    box = {"scale": 1.0}
    return lambda w, x: box["scale"] * (x @ w), lambda scale: box.update(scale=scale)


def in_a_dict_of_arrays():
    box = {"scale": jnp.ones(3)}
    return lambda w, x: x @ (box["scale"] * w), lambda scale: box.update(scale=scale * jnp.ones(3))


def in_an_attribute():
    network = Scaled(1.0)
    return network, lambda scale: setattr(network, "scale", scale)


def in_an_attribute_of_a_method():
    network = Scaled(1.0)
    return network.method, lambda scale: setattr(network, "scale", scale)


def in_a_closed_over_object():
    box = types.SimpleNamespace(scale=jnp.asarray(1.0))
    return lambda w, x: box.scale * (x @ w), lambda scale: setattr(box, "scale", jnp.asarray(scale))


def in_a_rebound_variable():
    scale = jnp.asarray(1.0)

    def rebind(value):
        nonlocal scale
        scale = jnp.asarray(value)

    return lambda w, x: scale * (x @ w), rebind


def in_an_array_of_numpy():
    scale = np.ones(3)

    def fill(value):
        scale[:] = value

    return lambda w, x: x @ (scale * w), fill


def in_a_partial():
    box = {"scale": 1.0}
    return functools.partial(lambda box, w, x: box["scale"] * (x @ w), box), lambda scale: box.update(scale=scale)


def in_a_list_of_layers():
    layers = [lambda h: h]

    def apply_fn(w, x):
        h = x @ w
        for layer in layers:
            h = layer(h)
        return h

    return apply_fn, lambda scale: layers.append(lambda h: scale * h)


def in_a_custom_rule():
    box = {"scale": 1.0}

    def apply_fn(w, x):
        product = jax.custom_vjp(lambda w: x @ w)
        scale = box["scale"]
        product.defvjp(lambda w: (x @ w, None), lambda _, ct: (scale * (x.T @ ct),))
        return product(w)

    return apply_fn, lambda scale: box.update(scale=scale)


def in_statistics():
    """A normalisation closed over, then trained."""
    layer: Any = nn.BatchNorm(use_running_average=True, use_bias=False, use_scale=False, epsilon=0.0)
    kept = {"batch_stats": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}

    def train(scale):
        kept["batch_stats"] = {"mean": jnp.ones(1), "var": jnp.full(1, scale**-2.0)}

    return lambda w, x: layer.apply(kept, (x @ w)[:, None])[:, 0], train


CHANGING = [
    in_a_dict,
    in_a_dict_of_arrays,
    in_an_attribute,
    in_an_attribute_of_a_method,
    in_a_closed_over_object,
    in_a_rebound_variable,
    in_an_array_of_numpy,
    in_a_partial,
    in_a_list_of_layers,
    in_a_custom_rule,
    in_statistics,
]

w, x = jnp.asarray(normal(3), jnp.float32), jnp.asarray(normal(N, 3), jnp.float32)
WAYS = {
    "kernel": ntk,
    "blocks": functools.partial(ntk, batch_size=2),
    "jacobian": functools.partial(ntk, method="jacobian"),
    "rectangular": lambda f, w, x: ntk(f, w, x, x),
    "features": lambda f, w, x: (phi := ntrf(f, w, x)) @ phi.T,
    "operator": lambda f, w, x: jnp.stack([ntk_operator(f, w, x).mv(column) for column in jnp.eye(N)]),
    "matrix of the operator": lambda f, w, x: ntk_operator(f, w, x).as_matrix(),
    "under jit": lambda f, w, x: jax.jit(lambda w, x: ntk(f, w, x))(w, x),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("changing", CHANGING)
def test_what_the_function_depends_on_changes(changing, way):
    apply_fn, change = changing()
    np.testing.assert_allclose(way(apply_fn, w, x), x @ x.T, rtol=1e-4, atol=1e-5)
    change(3.0)
    np.testing.assert_allclose(way(apply_fn, w, x), 9 * (x @ x.T), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changing", CHANGING)
def test_an_operator_stays_one_operator(changing):
    """Its products and its matrix are of the same network, whatever became of the function since."""
    apply_fn, change = changing()
    operator = ntk_operator(apply_fn, w, x)
    change(3.0)
    products = jnp.stack([operator.mv(column) for column in jnp.eye(N)])
    np.testing.assert_allclose(operator.as_matrix(), products, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changing", CHANGING)
def test_blocks_of_a_function_that_has_changed_are_refused(changing, tmp_path):
    apply_fn, change = changing()
    first = ntk(apply_fn, w, x, batch_size=2, cache=tmp_path)
    np.testing.assert_array_equal(ntk(apply_fn, w, x, batch_size=2, cache=tmp_path), first)
    change(3.0)
    with pytest.raises(ValueError, match=r"^cache: expected blocks of this kernel"):
        ntk(apply_fn, w, x, batch_size=2, cache=tmp_path)


# Networks that differ in a number that is out of sight: each of these takes it and gives a network.


def constant_in_jit(c):
    return jax.jit(lambda w, x: c * (x @ w))


def constant_in_jit_in_jit(c):
    return jax.jit(lambda w, x: jax.jit(lambda h: h * jnp.full(1, c))(x @ w))


def array_in_jit(c):
    factors = np.ones((3, 400))
    factors[1, 200] = c
    array = jnp.asarray(factors)
    inner = jax.jit(lambda w: w * array.sum(1))
    return lambda w, x: x @ inner(w)


def array_outside(c):
    factors = np.ones((3, 2000))
    factors[1, 1000] = c
    return lambda w, x: x @ (w * jnp.asarray(factors).sum(1))


def constant_in_a_scan(c):
    factors = jnp.array([1.0, c])
    return lambda w, x: lax.scan(lambda h, i: (h * factors[i], None), x @ w, jnp.arange(2))[0]


def array_in_a_scan_body(c):
    array = np.full(3, c)
    return lambda w, x: lax.scan(lambda h, _: (h + x @ (array * w), None), x @ w, None, length=2)[0]


def constant_in_a_branch(c):
    array = jnp.full(3, c)
    return lambda w, x: lax.cond(w[0] < 100, lambda w: x @ (array * w), lambda w: x @ w, w)


def constant_in_a_checkpoint(c):
    array = jnp.full(3, c)
    return lambda w, x: jax.checkpoint(lambda w: jnp.sin(x @ (array * w)))(w)


def constant_in_a_loop(c):
    array = jnp.full(3, c)
    return lambda w, x: lax.fori_loop(0, 2, lambda i, h: h + x @ (array * w), x @ w)


def constant_in_a_derivative(c):
    product = jax.custom_jvp(lambda w, x: x @ w)
    product.defjvp(lambda primals, tangents: (product(*primals), c * (primals[1] @ tangents[0])))
    return lambda w, x: product(w, x)


def array_in_a_gradient(c):
    array = jnp.full(3, c)
    product = jax.custom_vjp(lambda w, x: x @ w)
    product.defvjp(lambda w, x: (x @ w, x), lambda x, ct: (array * (x.T @ ct), jnp.zeros_like(x)))
    return lambda w, x: product(w, x)


def residual_in_a_gradient(c):
    product = jax.custom_vjp(lambda w, x: x @ w)
    product.defvjp(lambda w, x: (x @ w, c * x), lambda x, ct: (x.T @ ct, jnp.zeros_like(x)))
    return lambda w, x: product(w, x)


def custom_values(c):
    """Only the values that the rule gives differ, which the later layer sees."""
    product = jax.custom_jvp(lambda w, x: c * (x @ w))
    product.defjvp(lambda primals, tangents: (product(*primals), primals[1] @ tangents[0]))
    return lambda w, x: product(w, x) ** 2


def key_of_random_numbers(c):
    return lambda w, x: x @ (w * jax.random.normal(jax.random.key(round(10 * c)), (3,)))


def vmapped(c):
    array = jnp.full(3, c)
    return lambda w, x: jax.vmap(lambda example: example @ (array * w))(x)


HIDDEN = [
    constant_in_jit,
    constant_in_jit_in_jit,
    array_in_jit,
    array_outside,
    constant_in_a_scan,
    array_in_a_scan_body,
    constant_in_a_branch,
    constant_in_a_checkpoint,
    constant_in_a_loop,
    constant_in_a_derivative,
    array_in_a_gradient,
    residual_in_a_gradient,
    custom_values,
    key_of_random_numbers,
    vmapped,
]


def of_one_example_at_a_time(apply_fn):
    phi = features(apply_fn, w, x)
    return phi @ phi.T


@pytest.mark.parametrize("network", HIDDEN)
def test_networks_that_differ_in_a_constant_are_told_apart(network, tmp_path):
    """Also where programs are shared, and where the folder has the blocks of one; the same network finds its own."""
    one, two, again = network(2.0), network(3.0), network(2.0)
    np.testing.assert_allclose(ntk(one, w, x), of_one_example_at_a_time(one), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ntk(two, w, x), of_one_example_at_a_time(two), rtol=1e-4, atol=1e-4)
    first = ntk(one, w, x, batch_size=2, cache=tmp_path)
    with pytest.raises(ValueError, match=r"^cache: expected blocks of this kernel"):
        ntk(two, w, x, batch_size=2, cache=tmp_path)
    np.testing.assert_array_equal(ntk(again, w, x, batch_size=2, cache=tmp_path), first)


def called_back(c):
    def scale(x):
        return np.asarray(c * x, x.dtype)

    def apply_fn(w, x):
        return jax.pure_callback(scale, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential") @ w

    return apply_fn


def called_back_in_a_rule(c):
    def scale(x):
        return np.asarray(c * x, x.dtype)

    product = jax.custom_vjp(lambda w, x: x @ w)

    def backward(x, ct):
        read = jax.pure_callback(scale, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")
        return read.T @ ct, jnp.zeros_like(x)

    product.defvjp(lambda w, x: (x @ w, x), backward)
    return lambda w, x: product(w, x)


@pytest.mark.parametrize("network", [called_back, called_back_in_a_rule])
def test_callbacks_are_right_or_refused(network, tmp_path):
    """What Python does within a callback cannot be read, so no block of it can be known again."""
    for c in (2.0, 3.0):
        np.testing.assert_allclose(ntk(network(c), w, x), c**2 * (x @ x.T), rtol=1e-4, atol=1e-5)
        try:
            kernel = ntk(network(c), w, x, batch_size=2, cache=tmp_path)
        except ValueError as error:
            assert str(error).startswith("cache: ")  # noqa: PT017 - either is right
        else:
            np.testing.assert_allclose(kernel, c**2 * (x @ x.T), rtol=1e-4, atol=1e-5)


def widened(w, x):
    """A float type inside that is the one in force, whatever that of the arguments."""
    return jnp.sin(x.astype(float) @ w.astype(float))


def widened_by_a_constant(w, x):
    return jnp.tanh(x * np.full(3, 0.1)) @ (w * np.arange(1.0, 4.0))


def of_a_linear_layer(w, x):
    return jnp.tanh(applied(nn.Dense(2), {"kernel": jnp.outer(w, w[:2]), "bias": w[:2]}, x)).sum(1)


NARROWER = [widened, widened_by_a_constant, of_a_linear_layer]


@pytest.mark.parametrize("wide_first", [False, True])
@pytest.mark.parametrize("way", [name for name in WAYS if name != "under jit"])
@pytest.mark.parametrize("apply_fn", NARROWER)
def test_the_types_in_force_at_an_earlier_call_do_not_matter(apply_fn, way, wide_first):
    def fresh(w, x):
        return apply_fn(w, x)

    def seen(w, x):
        return apply_fn(w, x)

    for wide in (wide_first, not wide_first):
        with jax.enable_x64(wide):
            kernel = np.asarray(WAYS[way](seen, w, x))
            double = [jnp.asarray(value, float) for value in (w, x)]
            exact = np.asarray(WAYS[way](seen, *double))
            phi = features(apply_fn, *double)
        assert exact.dtype == (np.float64 if wide else np.float32)
        np.testing.assert_allclose(kernel, phi @ phi.T, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(exact, phi @ phi.T, rtol=1e-12 if wide else 1e-5, atol=1e-12 if wide else 1e-5)
    with jax.enable_x64(not wide_first):
        alone = np.asarray(WAYS[way](fresh, w, x))
    assert alone.dtype == kernel.dtype
    np.testing.assert_array_equal(alone, kernel)


def test_parameters_of_other_types_one_after_the_other():
    def apply_fn(w, x):
        return jnp.tanh(x @ w)

    with jax.enable_x64(True):
        for dtype, tolerance in (
            (jnp.float32, 1e-5),
            (jnp.bfloat16, 0.1),
            (jnp.float64, 1e-13),
            (jnp.float16, 0.01),
        ) * 2:
            cast = [value.astype(dtype) for value in (w, x)]
            phi = features(apply_fn, *(value.astype(float) for value in cast))
            np.testing.assert_allclose(
                np.asarray(ntk(apply_fn, *cast), float), phi @ phi.T, rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("precision", ["bfloat16", "float32", "highest", "tensorfloat32"])
def test_a_precision_in_force_at_one_call_is_not_kept_for_the_next(precision):
    def apply_fn(w, x):
        return jnp.tanh(x @ w)

    def other(w, x):
        return jnp.tanh(x @ w)

    with jax.default_matmul_precision(precision):
        ntk(apply_fn, w, x)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_array_equal(ntk(apply_fn, w, x), ntk(other, w, x))
    phi = features(apply_fn, w, x)
    np.testing.assert_allclose(ntk(apply_fn, w, x), phi @ phi.T, rtol=1e-5, atol=1e-5)


# 7. Parameters that nothing depends on, and what is no output


UNUSED = {
    "not used": lambda p, x: jnp.sin(x).sum(1),
    "two outputs": lambda p, x: jnp.sin(x),
    "stopped": lambda p, x: x @ lax.stop_gradient(p["w"]),
    "rounded": lambda p, x: x @ jnp.round(p["w"]),
    "whole": lambda p, x: x @ p["w"].astype(int).astype(float),
    "in a comparison": lambda p, x: jnp.where(p["w"] > 0, x, 2 * x).sum(1),
    "times zero": lambda p, x: x.sum(1) + jnp.zeros(3) @ p["w"],
    "in an index": lambda p, x: x[:, jnp.argmax(p["w"])],
    "in an output that is thrown away": lambda p, x: jax.jit(lambda w, x: (x.sum(1), x @ w))(p["w"], x)[0],
    "in a branch": lambda p, x: lax.cond(p["w"][0] > 1e3, lambda: x @ p["w"], lambda: x.sum(1)),
    "jitted": jax.jit(lambda p, x: jnp.sin(x).sum(1)),
    "in a scan": lambda p, x: lax.scan(lambda h, w: (h, w), x.sum(1), p["w"])[0],
    "in a layer of flax": lambda p, x: nn.Dense(1).apply(
        {"params": {"kernel": lax.stop_gradient(p["w"])[:, None], "bias": jnp.zeros(1)}}, x
    ),
}


@pytest.mark.parametrize("name", UNUSED)
def test_a_kernel_of_nothing_is_zero(name):
    apply_fn, params = UNUSED[name], {"w": w, "more": [jnp.ones((0, 2)), jnp.ones(())]}
    k = jax.eval_shape(apply_fn, params, x).shape[1:]
    ways: list[dict[str, Any]] = [{}, {"method": "jacobian"}, {"batch_size": 3}]
    for options in ways:
        np.testing.assert_array_equal(ntk(apply_fn, params, x, **options), np.zeros((N, N, *k, *k)))
    np.testing.assert_array_equal(ntk(apply_fn, params, x[:2], x), np.zeros((2, N, *k, *k)))
    np.testing.assert_array_equal(jax.jit(lambda p, x: ntk(apply_fn, p, x))(params, x), np.zeros((N, N, *k, *k)))
    np.testing.assert_array_equal(ntrf(apply_fn, params, x), np.zeros((N, *k, 4)))
    operator = ntk_operator(apply_fn, params, x)
    np.testing.assert_array_equal(operator.mv(jnp.ones((N, *k))), np.zeros((N, *k)))
    assert not np.asarray(operator.as_matrix()).any()


def test_what_is_not_used_beside_what_is():
    params = {"w": w, "not": jnp.ones(2)}
    for apply_fn in (lambda p, x: x @ p["w"], lambda p, x: x @ p["w"] + lax.stop_gradient(p["not"]).sum()):
        np.testing.assert_allclose(ntk(apply_fn, params, x), x @ x.T, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(ntrf(apply_fn, params, x)[:, :2], np.zeros((N, 2)))  # "not" comes first


@pytest.mark.parametrize("function", [ntk, ntrf, ntk_operator, functools.partial(ntk, method="jacobian")])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int8, jnp.uint8, jnp.bool_])
@pytest.mark.parametrize("several", [False, True])
def test_outputs_that_are_no_floating_point_numbers_are_refused(function, dtype, several):
    with pytest.raises(ValueError, match=rf"^apply_fn: .*{jnp.dtype(dtype).name}"):
        function(lambda w, x: ((x * w) if several else x @ w).astype(dtype), w, x)


@pytest.mark.parametrize("spoiled", [lambda b: b[:1], lambda b: b[None], lambda b: b.astype(np.float16), np.ravel])
def test_blocks_of_another_shape_or_type_are_refused(spoiled, tmp_path, monkeypatch):
    def apply_fn(w, x):
        return x @ w

    save = Blocks.save
    monkeypatch.setattr(Blocks, "save", lambda self, i, j, block: save(self, i, j, spoiled(block)))
    ntk(apply_fn, w, x, batch_size=2, cache=tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^cache: .*block-0-0\.npy"):
        ntk(apply_fn, w, x, batch_size=2, cache=tmp_path)


# Derivatives of a kernel: the rules within are for its derivatives, too


def rule_that_calls_its_function(p, x):
    activation = jax.custom_jvp(jnp.sin)
    activation.defjvp(lambda primals, tangents: (activation(*primals), activation(*primals) * tangents[0]))
    return activation(activation(x @ p["w"]) @ p["v"])


def rule_of_a_gradient(p, x):
    activation = jax.custom_vjp(jnp.sin)
    activation.defvjp(lambda h: (activation(h), activation(h)), lambda kept, ct: (jnp.tanh(kept) * ct,))
    return activation(x @ p["w"]) @ p["v"]


def safe_root(p, x):
    """Where JAX's rule for a function keeps infinities out of second derivatives."""
    return jax.nn.relu(x @ p["w"]) @ p["v"] + jax.nn.logsumexp(x @ p["w"], -1) + jax.nn.silu(x @ p["w"]).sum(-1)


def fixed_point(p, x):
    """A root, with its derivative by the implicit function theorem."""
    drive = jnp.tanh(x @ p["w"])

    def newton(function, start):
        return lax.fori_loop(0, 30, lambda _, z: z - function(z) / (1 + 0.5 * jnp.cos(z)), start)

    return (
        lax.custom_root(lambda z: z + 0.5 * jnp.sin(z) - drive, drive, newton, lambda g, y: y / g(jnp.ones_like(y)))
        @ p["v"]
    )


RULES = [rule_that_calls_its_function, rule_of_a_gradient, safe_root, fixed_point]


@pytest.mark.parametrize("apply_fn", RULES)
def test_derivatives_of_kernels_of_networks_with_rules(apply_fn):
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(normal(3, 3)), "v": jnp.asarray(normal(3))}
        x, factor = jnp.asarray(normal(N, 3)), normal(N, N)
        check(apply_fn, params, x)

        def by_rows(params):
            rows = [jax.jacrev(lambda p, e: apply_fn(p, e[None])[0])(params, example) for example in x]
            phi = jnp.stack([jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(row)]) for row in rows])
            return (factor * (phi @ phi.T)).sum()

        expected = jax.jit(jax.grad(by_rows))(params)
        found = jax.jit(jax.grad(lambda params: (factor * ntk(apply_fn, params, x)).sum()))(params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected)
