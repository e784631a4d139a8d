"""Kernels of parameters that several operations use, and of layers whose calls are intercepted."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gsjax.tangent import ntk
from tests.tangent.derivatives import N, applied, check, conv, initial, normal

# Interceptors of the calls of layers


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
    """The parameters of the layer are also used outside the call."""
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


# One parameter in operations of different forms


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
    by_head = jnp.einsum("nhi,hio->nho", h, p["cube"])
    return jnp.tanh(by_head).sum(1) + jnp.tanh(jnp.einsum("nhi,hio->no", h, p["cube"]))


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
