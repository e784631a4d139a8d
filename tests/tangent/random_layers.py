"""Layers, biases and activations of random networks: each of hidden values `(n, *shape)`, for one `shape`."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .random_draws import ACTIVATIONS, BIASES, LAYERS, Draw, Layer, Shape, option
from .random_weights import weight

LETTERS = "abcdefghij"


def chain(*layers: Layer) -> Layer:
    def applied(p, h):
        for layer in layers:
            dtype = h.dtype
            h = layer(p, h)
            h = h.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else h
        return h

    return applied


def finished(d: Draw, layer: Layer, shape: Shape) -> tuple[Layer, Shape]:
    """The layer with a bias and an activation after it."""
    bias = d.pick("bias", ["no bias", "bias"]).make(d, shape)
    activation = d.pick("activation", ["tanh", "gelu", "linear"]).make(d, shape)
    return chain(layer, bias, activation), shape


def layer(d: Draw, shape: Shape, kind: str, *, keeps: bool = False) -> tuple[Layer, Shape]:
    """A layer that can be applied to the shape, with what comes after it; one that `keeps` the shape."""
    made, out = d.pick("layer", kind=kind, keeps=keeps).make(d, shape, shape[-1] if keeps else d.size())
    assert not keeps or out == shape, (out, shape)
    return finished(d, made, out)


# Biases and scales


@BIASES.add("no bias")
def no_bias(d, shape):
    return lambda p, h: h


@BIASES.add("bias")
def bias(d, shape):
    b = weight(d, shape[-1])
    return lambda p, h: h + b(p)


@BIASES.add("bias of every position")
def positions(d, shape):
    b = weight(d, *shape)
    return lambda p, h: h + b(p)


@BIASES.add("bias of another axis")
def channel_bias(d, shape):
    b, axis = weight(d, shape[0]), len(shape)
    return lambda p, h: h + b(p).reshape((-1,) + (1,) * (axis - 1))


@BIASES.add("scalar bias")
def scalar_bias(d, shape):
    name, scale = d.leaf(), d.constant()
    return lambda p, h: h - scale * p[name]


@BIASES.add("bias of a part")
def partial_bias(d, shape):
    count = d.whole(1, shape[-1])
    b = weight(d, count)
    return lambda p, h: h.at[..., :count].add(b(p))


@BIASES.add("bias broadcast first")
def broadcast_bias(d, shape):
    b = weight(d, 1, shape[-1])
    return lambda p, h: jnp.broadcast_to(b(p).reshape((1,) * len(shape) + (-1,)), h.shape) + h


@BIASES.add("bias that comes twice")
def shared_bias(d, shape):
    b, first, second = weight(d, shape[-1]), d.constant(), d.constant(shape[-1])
    return lambda p, h: jnp.tanh(h + first * b(p)) + second * b(p)


@BIASES.add("bias as a dense layer of ones")
def ones_bias(d, shape):
    b = weight(d, 1, shape[-1])
    return lambda p, h: h + jnp.ones((*h.shape[:-1], 1), h.dtype) @ b(p)


@BIASES.add("scale")
def scale(d, shape):
    s = weight(d, shape[-1])
    return lambda p, h: h * (1 + s(p))


@BIASES.add("scale of every position")
def position_scale(d, shape):
    s = weight(d, *shape)
    return lambda p, h: h * s(p)


@BIASES.add("scale and bias")
def affine(d, shape):
    s, b = weight(d, shape[-1]), weight(d, shape[-1])
    return lambda p, h: s(p) * h + b(p)


@BIASES.add("scale and bias by einsum")
def affine_by_einsum(d, shape):
    s, b = weight(d, shape[-1]), weight(d, shape[-1])
    return lambda p, h: jnp.einsum("...c,c->...c", h, s(p)) + b(p)


@BIASES.add("divided by a parameter")
def divided(d, shape):
    s = weight(d, shape[-1])
    return lambda p, h: h / (1.5 + jnp.tanh(s(p)))


# Activations


@ACTIVATIONS.add("linear")
def linear(d, shape):
    return lambda p, h: h


def pointwise(name, function, needs=""):
    @ACTIVATIONS.add(name, needs=needs)
    def activation(d, shape):
        return lambda p, h: function(h)


pointwise("tanh", jnp.tanh)
pointwise("gelu", jax.nn.gelu)
pointwise("sin", jnp.sin)
pointwise("silu", jax.nn.silu)
pointwise("erf", jax.scipy.special.erf)
pointwise("softplus", jax.nn.softplus)
pointwise("softmax", lambda h: jax.nn.softmax(h, -1))
pointwise("log softmax", lambda h: jax.nn.log_softmax(h, 1))
pointwise("jitted activation", jax.jit(lambda h: jnp.tanh(h) * h))
pointwise("checkpointed activation", jax.checkpoint(lambda h: jnp.tanh(jnp.sin(h))))
pointwise("optimisation barrier", lambda h: lax.optimization_barrier(jnp.tanh(h)))
pointwise("cumulated sum", lambda h: jnp.cumsum(h, -1) / 2)
pointwise("Fourier transform, real part", lambda h: jnp.real(jnp.fft.fft(h)) / 2, "wide")
pointwise("Fourier transform, magnitude", lambda h: jnp.abs(jnp.fft.fft(h) + (0.3 + 0.7j)) / 2, "wide")
pointwise("complex exponential", lambda h: jnp.imag(jnp.exp(1j * h) * (1 + 2j)) / 2, "wide")
pointwise("stopped", lambda h: lax.stop_gradient(jnp.sin(h)) + 0.3 * h)
pointwise("straight-through rounding", lambda h: h + lax.stop_gradient(jnp.round(h + 0.123) - h))
pointwise("normalised by its norm", lambda h: h / jnp.sqrt(jnp.sum(h**2, -1, keepdims=True) + 0.2))
pointwise("clipped", lambda h: jnp.clip(h + 0.0137, -1, 1))
pointwise("two by two", lambda h: jnp.tanh(h) if h.shape[-1] % 2 else h[..., ::2].repeat(2, -1) * jnp.cos(h))


def noisy(name, function, needs=""):
    """Of values that are moved off ties and kinks first, where rounding would decide."""

    @ACTIVATIONS.add(name, needs=needs)
    def activation(d, shape):
        noise = 0.1 * d.constant(*shape)
        return lambda p, h: function(h + noise)


noisy("relu", jax.nn.relu)
noisy("leaky relu", jax.nn.leaky_relu)
noisy("maximum with zero", lambda h: jnp.maximum(h, 0) + h / 4)
noisy("absolute", jnp.abs)
noisy("sorted values", lambda h: jnp.sort(h, -1), "wide")
noisy("depending on data", lambda h: jnp.where(h.sum(-1, keepdims=True) > 0, jnp.tanh(h), h / 2))
noisy("gathered by data", lambda h: jnp.take_along_axis(h, jnp.argsort(h, -1), -1) * jnp.cos(h), "wide")
noisy("only the largest", lambda h: jnp.where(jax.nn.one_hot(h.argmax(-1), h.shape[-1]) > 0, h, h / 3))


@ACTIVATIONS.add("derivative of its own")
def custom_jvp(d, shape):
    slope = d.one_of([1.0, 0.3, -2.0])

    @jax.custom_jvp
    def activation(h):
        return jnp.sin(h)

    @activation.defjvp
    def rule(primals, tangents):
        # Another derivative than the true one, and the function itself again within its rule.
        return activation(*primals), slope * tangents[0] * (1 - activation(*primals) ** 2)

    return lambda p, h: activation(h)


@ACTIVATIONS.add("gradient of its own", needs="reverse")
def custom_vjp(d, shape):
    slope = d.one_of([1.0, 0.3, -2.0])

    @jax.custom_vjp
    def activation(h):
        return jnp.tanh(h) * h

    activation.defvjp(lambda h: (activation(h), jnp.cos(h)), lambda kept, ct: (slope * kept * ct,))
    return lambda p, h: activation(h)


@ACTIVATIONS.add("parameter in the derivative's rule", needs="reverse")
def custom_vjp_of_parameters(d, shape):
    s = weight(d, shape[-1])

    @jax.custom_vjp
    def scaled(s, h):
        return s * h

    # The gradient by the parameter is of another function than the values are.
    scaled.defvjp(
        lambda s, h: (s * h, (s, h)),
        lambda kept, ct: (jnp.sum(jnp.cos(kept[1]) * ct, tuple(range(ct.ndim - 1))).astype(kept[0].dtype), 2 * ct),
    )
    return lambda p, h: scaled(s(p).astype(h.dtype), h)


@ACTIVATIONS.add("slope of a parameter")
def prelu(d, shape):
    s = weight(d, shape[-1])
    return lambda p, h: jax.nn.softplus(h) - s(p) * jax.nn.softplus(-h)


@ACTIVATIONS.add("power of a parameter")
def power(d, shape):
    s = weight(d, shape[-1])
    return lambda p, h: (0.5 + jax.nn.softplus(h)) ** jnp.tanh(s(p))


@ACTIVATIONS.add("polynomial of parameters")
def polynomial(d, shape):
    a, b = weight(d, shape[-1]), weight(d, 1)
    return lambda p, h: a(p) * jnp.tanh(h) + b(p) * jnp.tanh(h) ** 2


def normalisation(name, statistics):
    @ACTIVATIONS.add(name)
    def normalise(d, shape):
        gain, offset = weight(d, shape[-1]), weight(d, shape[-1])
        return lambda p, h: statistics(h) * (1 + gain(p)) + offset(p)


def standardise(h, axes):
    return (h - h.mean(axes, keepdims=True)) / jnp.sqrt(h.var(axes, keepdims=True) + 0.1)


def by_groups(h):
    groups = 2 if h.shape[-1] % 2 == 0 else 1
    split = h.reshape(*h.shape[:-1], groups, -1)
    return standardise(split, (*range(1, h.ndim - 1), h.ndim)).reshape(h.shape)


normalisation("layer norm", lambda h: standardise(h, -1))
normalisation("group norm", by_groups)
normalisation("instance norm", lambda h: standardise(h, tuple(range(1, h.ndim))))
normalisation("rms norm", lambda h: h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 0.1))


@ACTIVATIONS.add("statistics closed over")
def batch_norm(d, shape):
    mean, variance = d.constant(shape[-1]), 0.5 + d.constant(shape[-1]) ** 2
    gain = weight(d, shape[-1])
    kept = jnp.asarray(variance) if d.chance() else variance  # of jax or NumPy
    return lambda p, h: (h - mean) * lax.rsqrt(kept) * gain(p)


@ACTIVATIONS.add("fixed random numbers")
def fixed_noise(d, shape):
    seed, rate = d.whole(0, 99), d.chance()

    def noise(p, h):
        key = jax.random.key(seed)
        if rate:
            return jnp.where(jax.random.bernoulli(key, 0.7, shape), h / 0.7, 0)
        return h + jax.random.normal(key, shape, h.dtype)

    return noise


# Layers of vectors


@LAYERS.add("dense", "vector", keeps=True)
@LAYERS.add("dense of a series", "series", keeps=True)
@LAYERS.add("dense of an image", "image", keeps=True)
def dense(d: Draw, shape, out):
    w, how = weight(d, shape[-1], out), d.whole(0, 2)
    if how == 0:
        return lambda p, h: h @ w(p), (*shape[:-1], out)
    if how == 1:
        return lambda p, h: jnp.dot(h, w(p), precision="highest"), (*shape[:-1], out)
    return lambda p, h: jnp.tensordot(h, w(p), 1), (*shape[:-1], out)


@LAYERS.add("dense from the left", "vector", keeps=True)
def dense_from_the_left(d, shape, out):
    w, inner = weight(d, out, *shape), d.chance()
    return lambda p, h: jnp.inner(h, w(p)) if inner else (w(p) @ h.T).T, (out,)


@LAYERS.add("einsum", "vector", keeps=True)
@LAYERS.add("einsum of a series", "series", keeps=True)
@LAYERS.add("einsum of an image", "image", keeps=True)
def einsum(d, shape, out):
    """Some axes contracted, others shared with the weight, all letters of either side in any order."""
    kinds = [d.one_of(["contracted", "shared", "free"]) for _ in shape[:-1]] + ["contracted"]
    letters = [*LETTERS[: len(shape)]]
    here = [c for c, kind in zip(letters, kinds, strict=True) if kind != "free"]
    lost = [c for c, kind in zip(letters[:-1], kinds, strict=False) if kind == "contracted"]
    # What is contracted has a new axis in its place: the shape is kept where `out` asks for it.
    new = {c: c.upper() for c in lost}
    sizes = dict(zip(letters, shape, strict=True)) | {"o": out} | {new[c]: shape[letters.index(c)] for c in lost}
    mine = d.rng.permutation([*here, *new.values(), "o"])
    w = weight(d, *(sizes[c] for c in mine))
    result = "".join(new.get(c, c) for c in letters[:-1])
    formula = [f"n{''.join(letters)}", "".join(mine)]
    turned, shuffled = d.chance(), d.chance()
    target = "".join(d.rng.permutation([*result, "o", "n"])) if shuffled else f"n{result}o"

    def contracted(p, h):
        operands = (w(p), h) if turned else (h, w(p))
        spelled = ",".join(formula[::-1] if turned else formula)
        y = jnp.einsum(f"{spelled}->{target}", *operands)
        return y.transpose([target.index(c) for c in f"n{result}o"])

    return contracted, (*shape[:-1], out)


@LAYERS.add("dot_general", "vector", keeps=True)
def dot_general(d, shape, out):
    """Contracted axes of the weight apart from one another, in another order than those of the values."""
    a = d.one_of([i for i in range(1, shape[0] + 1) if shape[0] % i == 0])
    b, first = shape[0] // a, d.chance()
    w = weight(d, b, out, a)

    def contracted(p, h):
        h = h.reshape(-1, a, b)
        if first:
            return lax.dot_general(w(p), h, (((2, 0), (1, 2)), ((), ()))).T
        return lax.dot_general(h, w(p), (((2, 1), (0, 2)), ((), ())))

    return contracted, (out,)


@LAYERS.add("dot_general with a batch of weights", "vector", keeps=True)
def heads(d, shape, out):
    groups = d.one_of([i for i in range(1, out + 1) if out % i == 0])
    how, apart = d.whole(0, 3), shape[0] % groups == 0 and d.chance()
    size = shape[0] // groups if apart else shape[0]
    each = out // groups
    order = d.rng.permutation(3)
    w = weight(d, *np.array([groups, size, each])[order])

    def batched(p, h):
        h = h.reshape(-1, groups, size) if apart else jnp.broadcast_to(h[:, None], (len(h), groups, size))
        heads = w(p).transpose(np.argsort(order))
        if how == 0:
            y = lax.dot_general(h, heads, (((2,), (1,)), ((1,), (0,)))).transpose(1, 0, 2)
        elif how == 1:
            y = lax.dot_general(heads, h, (((1,), (2,)), ((0,), (1,)))).transpose(2, 0, 1)
        elif how == 2:
            y = (h.transpose(1, 0, 2) @ heads).swapaxes(0, 1)
        else:
            y = jnp.einsum("ngi,gio->ngo", h, heads)
        return y.reshape(len(h), out)

    return batched, (out,)


@LAYERS.add("bilinear", "vector", keeps=True)
def bilinear(d, shape, out):
    w = weight(d, *shape, out, *shape)
    return lambda p, h: jnp.einsum("ni,ioj,nj->no", h, w(p), jnp.tanh(h)), (out,)


@LAYERS.add("product of weights first", "vector", keeps=True)
def two_weights(d, shape, out):
    a, b, c = weight(d, *shape, 2), weight(d, 2, 2), weight(d, 2, out)
    return lambda p, h: h @ (a(p) @ b(p) @ c(p)), (out,)


@LAYERS.add("low rank beside", "vector", keeps=True)
def low_rank(d, shape, out):
    w, a, b = weight(d, *shape, out), weight(d, *shape, 1), weight(d, 1, out)
    return lambda p, h: h @ w(p) + 0.5 * ((h @ a(p)) @ b(p)), (out,)


@LAYERS.add("weights from the example", "vector", keeps=True)
def hypernetwork(d, shape, out):
    w = weight(d, *shape, *shape, out)
    return lambda p, h: jnp.einsum("nio,ni->no", jnp.tanh(jnp.tensordot(h, w(p), 1)), h), (out,)


@LAYERS.add("experts", "vector", keeps=True)
def experts(d, shape, out):
    w, gate, soft = weight(d, 3, *shape, out), d.constant(*shape, 3), d.chance()

    def routed(p, h):
        scores = h @ gate + np.array([0.1, 0.2, 0.3])
        if soft:
            return jnp.einsum("ne,ni,eio->no", jax.nn.softmax(scores), h, w(p))
        return jnp.einsum("ni,nio->no", h, w(p)[jnp.argmax(scores, -1)])

    return routed, (out,)


@LAYERS.add("complex dense", "vector", keeps=True, needs="wide")
def complex_dense(d, shape, out):
    a, b, how = weight(d, *shape, out), weight(d, *shape, out), d.whole(0, 2)

    def transformed(p, h):
        z = jnp.fft.fft(h) if how else h + 1j * jnp.sin(h)
        y = z @ (a(p) + 1j * b(p)) if how == 1 else z @ a(p)
        return y.real + 0.5 * y.imag if how else jnp.abs(y + (0.4 - 0.3j))

    return transformed, (out,)


@LAYERS.add("solve", "vector", keeps=True, needs="wide")
def solve(d, shape, out):
    w, a = weight(d, *shape, out), weight(d, out, out)

    def solved(p, h):
        matrix = a(p)
        return jnp.linalg.solve(matrix @ matrix.T + jnp.eye(out), (h @ w(p)).T).T

    return solved, (out,)


@LAYERS.add("rule of its own for dense", "vector", keeps=True, needs="reverse")
def dense_of_custom_vjp(d, shape, out):
    w, factor, noise = weight(d, *shape, out), d.constant(), d.constant(*shape, out)

    @jax.custom_vjp
    def product(w, h):
        return h @ w

    def backward(kept, ct):
        w, h = kept  # neither of the two is the true gradient
        return (factor * jnp.sin(h).T @ ct).astype(w.dtype), (ct @ (w + noise).T).astype(h.dtype)

    product.defvjp(lambda w, h: (h @ w, (w, h)), backward)
    return lambda p, h: product(w(p), h), (out,)


@LAYERS.add("derivative of its own for dense", "vector", keeps=True)
def dense_of_custom_jvp(d, shape, out):
    w, factor = weight(d, *shape, out), d.constant()

    @jax.custom_jvp
    def product(w, h):
        return h @ w

    @product.defjvp
    def rule(primals, tangents):
        w, h = primals
        return product(w, h), factor * (jnp.cos(h) @ tangents[0]) + tangents[1] @ (w * w)

    return lambda p, h: product(w(p).astype(h.dtype), h), (out,)


@LAYERS.add("half the features empty", "vector")
def empty(d, shape, out):
    w, nothing, none = weight(d, *shape, out), d.leaf(*shape, 0), d.leaf(0, out)

    def with_nothing(p, h):
        return jnp.concatenate([h @ w(p), h @ p[nothing]], -1) + (h @ p[nothing]) @ p[none]

    return with_nothing, (out,)


@LAYERS.add("beside its input", "vector")
def beside(d, shape, out):
    w = weight(d, *shape, out)
    return lambda p, h: jnp.concatenate([h, jnp.tanh(h @ w(p))], -1)[:, -4:], (min(4, shape[0] + out),)


@LAYERS.add("unused output", "vector", keeps=True)
def unused_output(d, shape, out):
    w, v = weight(d, *shape, out), weight(d, *shape, 2)

    @jax.jit
    def both(w, v, h):
        return h @ w, h @ v

    return lambda p, h: both(w(p), v(p), h)[0], (out,)


@LAYERS.add("chosen by data", "vector", keeps=True)
def chosen_by_data(d, shape, out):
    w, v, noise = weight(d, *shape, out), weight(d, *shape, out), d.constant(out)
    return lambda p, h: jnp.where(h.sum(-1, keepdims=True) + noise > 0, h @ w(p), jnp.tanh(h) @ v(p)), (out,)


@LAYERS.add("kernel and read-out", "vector", keeps=True)
def autoencoder(d, shape, out):
    w, v = weight(d, *shape, 3), weight(d, *shape, out)

    def tied(p, h):
        back = jnp.tanh(h @ w(p)) @ w(p).T
        return back @ v(p)

    return tied, (out,)


@LAYERS.add("radial basis", "vector", keeps=True)
def radial(d, shape, out):
    centres = weight(d, out, *shape)
    return lambda p, h: jnp.exp(-((h[:, None] - centres(p)) ** 2).mean(-1)), (out,)


@LAYERS.add("dense after dense without a name", "vector", keeps=True)
def deep_linear(d, shape, out):
    w, v = weight(d, *shape, out), weight(d, out, out)
    return lambda p, h: jnp.linalg.multi_dot([h, w(p), v(p)]), (out,)


@LAYERS.add("half precision product", "vector", keeps=True)
def half_precision(d, shape, out):
    w, dtype, wide = weight(d, *shape, out), d.one_of([jnp.float16, jnp.bfloat16]), d.chance()
    d.lower(dtype)
    preferred = jnp.float32 if wide else None

    def rounded(p, h):
        return jnp.dot(h.astype(dtype), w(p).astype(dtype), preferred_element_type=preferred)

    return rounded, (out,)


@LAYERS.add("single precision product", "vector", keeps=True)
def single_precision(d, shape, out):
    w = weight(d, *shape, out)
    d.lower(jnp.float32)
    return lambda p, h: h.astype(np.float32) @ w(p).astype(np.float32), (out,)


def of_flax(d: Draw, module: nn.Module, shape: Shape, **values) -> Layer:
    """A layer of flax, its parameters out of weights drawn here."""
    like = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape), **values))["params"]
    paths, tree = jax.tree.flatten(like)
    gets = [weight(d, *leaf.shape) for leaf in paths]
    return lambda p, h: module.apply({"params": jax.tree.unflatten(tree, [get(p) for get in gets])}, h)


@LAYERS.add("flax dense", "vector", keeps=True)
def flax_dense(d, shape, out):
    return of_flax(d, nn.Dense(out), shape), (out,)


@LAYERS.add("flax dense, intercepted", "vector", keeps=True)
def flax_intercepted(d, shape, out):
    factor, gain = d.constant(), d.leaf()
    module = of_flax(d, nn.Dense(out), shape)

    def intercepted(p, h):
        def interceptor(call, args, kwargs, context):
            return p[gain] * factor * call(jnp.sin(args[0]), *args[1:], **kwargs) + args[0].sum(-1, keepdims=True)

        with nn.intercept_methods(interceptor):
            return module(p, h)

    return intercepted, (out,)


# Layers of series


@LAYERS.add("mixing over time", "series", keeps=True)
def time_mixing(d, shape, out):
    w, v = weight(d, shape[0], shape[0]), weight(d, shape[1], out)
    return lambda p, h: jnp.einsum("ntc,ts,co->nso", h, w(p), v(p)), (shape[0], out)


@LAYERS.add("both axes at once", "series", keeps=True)
def both_axes(d, shape, out):
    w, turned = weight(d, *shape, out, shape[0]), d.chance()

    def contracted(p, h):
        if turned:  # the same axes, named in the other order on either side
            return lax.dot_general(h, w(p), (((2, 1), (1, 0)), ((), ()))).transpose(0, 2, 1)
        return jnp.tensordot(h, w(p), ((1, 2), (0, 1))).swapaxes(1, 2)

    return contracted, (shape[0], out)


@LAYERS.add("shared in two orientations", "series")
def two_orientations(d, shape, out):
    """One kernel contracted with axes (1, 2) and with axes (2, 1)."""
    size = max(shape)
    w, pad = weight(d, size, size, out), [(0, 0), *((0, size - length) for length in shape)]

    def twice(p, h):
        h = jnp.pad(h, pad)
        first = lax.dot_general(h, w(p), (((1, 2), (0, 1)), ((), ())))
        return jnp.tanh(first) + lax.dot_general(h, w(p), (((2, 1), (0, 1)), ((), ())))

    return twice, (out,)


def attend(q, k, v):
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(q.shape[-1])
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, -1), v)


@LAYERS.add("attention", "series", keeps=True)
def attention(d, shape, out):
    heads, size = d.whole(1, 2), d.whole(1, 2)
    q, k, v = (weight(d, shape[1], heads, size) for _ in range(3))
    o, shared = weight(d, heads, size, out), d.chance(0.3)

    def attended(p, h):
        keys = jnp.einsum("ntc,chd->nthd", h, (q if shared else k)(p))
        y = attend(jnp.einsum("ntc,chd->nthd", h, q(p)), keys, jnp.einsum("ntc,chd->nthd", h, v(p)))
        return jnp.einsum("nthd,hdo->nto", y, o(p))

    return attended, (shape[0], out)


@LAYERS.add("attention, fused, by slices", "series", keeps=True)
def fused_attention(d, shape, out, how="slices"):
    heads, size = d.whole(1, 2), d.whole(1, 2)
    wide = heads * size
    w = weight(d, shape[1], 3, heads, size) if how == "axis" else weight(d, shape[1], 3 * wide)
    b, o = weight(d, 3 * wide), weight(d, wide, out)

    def attended(p, h):
        if how == "axis":
            q, k, v = jnp.moveaxis(jnp.einsum("ntc,cjhd->ntjhd", h, w(p)), 2, 0)
        else:
            fused = h @ w(p) + b(p)
            parts = (
                jnp.split(fused, 3, -1) if how == "split" else [fused[..., i * wide : (i + 1) * wide] for i in range(3)]
            )
            q, k, v = (part.reshape(*part.shape[:-1], heads, size) for part in parts)
        return attend(q, k, v).reshape(*h.shape[:2], wide) @ o(p)

    return attended, (shape[0], out)


LAYERS.add("attention, fused, by a split", "series", keeps=True)(functools.partial(fused_attention, how="split"))
LAYERS.add("attention, fused, by an axis", "series", keeps=True)(functools.partial(fused_attention, how="axis"))


@LAYERS.add("weights of every position", "series", keeps=True)
def per_position(d, shape, out):
    w = weight(d, *shape, out)
    return lambda p, h: jnp.einsum("ntc,tco->nto", h, w(p)), (shape[0], out)


option("recurrence, reversed", "recurrence, unrolled", "recurrence, first state a parameter", "recurrence in columns")


@LAYERS.add("recurrence by scan", "series", keeps=True)
def recurrence(d, shape, out):
    w, v = weight(d, shape[1], out), weight(d, out, out)
    start = d.leaf(out) if d.chance() else None
    reverse, unroll, inside = d.chance(), d.whole(1, 2), d.chance()
    if reverse:
        d.mark("recurrence, reversed")
    if unroll > 1:
        d.mark("recurrence, unrolled")
    if start:
        d.mark("recurrence, first state a parameter")

    def recurrent(p, h):
        read, mix = w(p).astype(h.dtype), v(p).astype(h.dtype)
        state = jnp.zeros((len(h), out), h.dtype)
        state = state + p[start].astype(h.dtype) if start else state
        driven = h.swapaxes(0, 1) if inside else (h @ read).swapaxes(0, 1)

        def step(state, x):
            state = jnp.tanh(state @ mix + (x @ read if inside else x))
            return state, state

        return lax.scan(step, state, driven, reverse=reverse, unroll=unroll)[1].swapaxes(0, 1)

    return recurrent, (shape[0], out)


@LAYERS.add("recurrence of each example", "series", keeps=True)
def recurrence_mapped(d, shape, out):
    w, v = weight(d, shape[1], out), weight(d, out, out)
    d.mark("recurrence in columns")

    def one(p, series):
        read, mix = w(p).astype(series.dtype), v(p).astype(series.dtype)

        def step(state, x):
            state = jnp.tanh(mix @ state + x @ read)
            return state, state

        return lax.scan(step, jnp.zeros(out, series.dtype), series)[1]

    return lambda p, h: jax.vmap(functools.partial(one, p))(h), (shape[0], out)


@LAYERS.add("nested scans", "series", keeps=True)
def nested(d, shape, out):
    """Over time, and within over layers with stacked weights, whose output is fed back."""
    w, v = weight(d, shape[1], out), weight(d, 2, out, out)

    def recurrent(p, h):
        read, deep = w(p).astype(h.dtype), v(p).astype(h.dtype)

        def step(state, x):
            state = lax.scan(lambda s, layer: (jnp.tanh(s @ layer + x @ read), None), state, deep)[0]
            return state, state

        return lax.scan(step, jnp.zeros((len(h), out), h.dtype), h.swapaxes(0, 1))[1].swapaxes(0, 1)

    return recurrent, (shape[0], out)


@LAYERS.add("associative scan", "series", keeps=True)
def associative(d, shape, out):
    w, a = weight(d, shape[1], out), weight(d, shape[1], out)

    def scanned(p, h):
        gates, values = jax.nn.sigmoid(h @ a(p)), h @ w(p)
        return lax.associative_scan(lambda s, t: (s[0] * t[0], t[0] * s[1] + t[1]), (gates, values), axis=1)[1]

    return scanned, (shape[0], out)


@LAYERS.add("embedding beside", "series", keeps=True)
def positional(d, shape, out):
    w, table = weight(d, shape[1], out), d.leaf(shape[0] + 2, out)
    return lambda p, h: h @ w(p) + p[table][1 : shape[0] + 1], (shape[0], out)


# Convolutions

option(
    "strides",
    "dilated kernel",
    "dilated input",
    "negative padding",
    "groups",
    "channels first",
    "kernel first",
    "uneven padding",
    "padding same",
    "batch groups",
    "kernel transposed",
)


def convolution(d: Draw, shape, out, *, plain=False, groups=None):
    """A `conv_general_dilated` of any kind over `len(shape) - 1` axes."""
    spatial, channels = shape[:-1], shape[-1]
    rank = len(spatial)
    kernel = [d.whole(1, 3) for _ in spatial]
    if groups is None:
        groups = d.one_of([g for g in range(1, channels + 1) if channels % g == 0])
    out = -(-out // groups) * groups
    if plain:
        strides, rhs, lhs = [1] * rank, [1] * rank, [1] * rank
        padding = [(k // 2, k - 1 - k // 2) for k in kernel]
    else:
        strides, rhs = [d.whole(1, 2) for _ in spatial], [d.whole(1, 2) for _ in spatial]
        lhs = [d.whole(1, 2) if d.chance(0.8) else 1 for _ in spatial]
        padding, fits = [], []
        for size, k, dilation, spread in zip(spatial, kernel, rhs, lhs, strict=True):
            pads = (d.whole(-1, 2), d.whole(-1, 2))
            fits.append((size - 1) * spread + 1 + sum(pads) >= (k - 1) * dilation + 1 and size > 2)
            padding.append(pads if fits[-1] else ((k - 1) * dilation, (k - 1) * dilation))
    if groups > 1:
        d.mark("groups")
    for name, found in (
        ("strides", max(strides) > 1),
        ("dilated kernel", max(rhs) > 1),
        ("dilated input", max(lhs) > 1),
        ("negative padding", min(min(pads) for pads in padding) < 0),
        ("uneven padding", any(low != high for low, high in padding)),
    ):
        if found:
            d.mark(name)
    axes = "XYZ"[:rank]
    first, turned = d.chance(), d.chance()
    layout = (
        f"NC{axes}" if first else f"N{axes}C",
        f"OI{axes}" if turned else f"{axes}IO",
        f"NC{axes}" if first else f"N{axes}C",
    )
    if first:
        d.mark("channels first")
    if turned:
        d.mark("kernel first")
    size = (out, channels // groups, *kernel) if turned else (*kernel, channels // groups, out)
    w = weight(d, *size)
    string = not plain and min(min(pads) for pads in padding) >= 0 and max(lhs) == 1 and d.chance(0.8)
    if string:
        d.mark("padding same")

    def convolved(p, h):
        h = jnp.moveaxis(h, -1, 1) if first else h
        y = lax.conv_general_dilated(
            h,
            w(p).astype(h.dtype),
            strides,
            "SAME" if string else padding,
            lhs,
            rhs,
            dimension_numbers=layout,
            feature_group_count=groups,
        )
        return jnp.moveaxis(y, 1, -1) if first else y

    return convolved, shape_after(d, convolved, shape)


def shape_after(d: Draw, layer: Layer, shape: Shape) -> Shape:
    """What the layer makes of one example."""
    return jax.eval_shape(layer, d.leaves, jax.ShapeDtypeStruct((2, *shape), jnp.result_type(float))).shape[1:]


@LAYERS.add("convolution", "image", needs="whole")
def conv(d, shape, out):
    return convolution(d, shape, out)


@LAYERS.add("convolution in time", "series", needs="whole")
def conv_in_time(d, shape, out):
    return convolution(d, shape, out)


@LAYERS.add("convolution that keeps the shape", "image", keeps=True, needs="whole")
def conv_same(d, shape, out):
    return convolution(d, shape, out, plain=True, groups=1)


@LAYERS.add("depthwise convolution", "image", needs="whole")
def depthwise(d, shape, out):
    return convolution(d, shape, shape[-1], groups=shape[-1])


@LAYERS.add("convolution in batch groups", "image", keeps=True, needs="whole")
def batch_groups(d, shape, out):
    """Each group of output channels reads a version of its own of every example."""
    groups = d.one_of([g for g in (2, 3, 1) if out % g == 0])
    d.mark("batch groups")
    w, factors = weight(d, 2, 2, shape[-1], out), 1 + d.constant(groups) ** 2

    def convolved(p, h):
        h = (factors[:, None, None, None, None] * h).reshape(-1, *h.shape[1:]).astype(h.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            h, w(p).astype(h.dtype), (1, 1), "SAME", dimension_numbers=numbers, batch_group_count=groups
        )

    return convolved, (*shape[:-1], out)


@LAYERS.add("transposed convolution", "image", needs="whole")
def transposed_convolution(d, shape, out):
    strides, turned = (d.whole(1, 2), d.whole(1, 2)), d.chance()
    padding = d.one_of(["SAME", "VALID", [(0, 1), (1, 0)]])
    kernel = (d.whole(1, 3), d.whole(1, 3))
    if turned:
        d.mark("kernel transposed")
    w = weight(d, *kernel, out, shape[-1]) if turned else weight(d, *kernel, shape[-1], out)

    def convolved(p, h):
        return lax.conv_transpose(
            h,
            w(p).astype(h.dtype),
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            transpose_kernel=turned,
        )

    return convolved, shape_after(d, convolved, shape)


@LAYERS.add("one kernel in convolutions of different groups", "image", needs="whole")
def regrouped(d, shape, out):
    """The same leaf in a convolution of one group and in one of two; one bias for both."""
    w, b = weight(d, 2, 2, 2, 4), weight(d, 4)

    def convolved(p, h):
        h = jnp.concatenate([h, jnp.sin(h), jnp.cos(h), h**2], -1)[..., :4].astype(h.dtype)
        h = jnp.resize(h, (*h.shape[:-1], 4)) if h.shape[-1] < 4 else h
        convolve = functools.partial(
            lax.conv_general_dilated,
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        kernel = w(p).astype(h.dtype)
        first = jnp.tanh(convolve(h, kernel, feature_group_count=2) + b(p)).astype(h.dtype)
        return convolve(first[..., :2], kernel) + b(p)

    return convolved, (*shape[:-1], 4)


@LAYERS.add("kernels from the example", "image", needs="whole")
def dynamic_convolution(d, shape, out):
    w = weight(d, shape[-1], 2, 2, shape[-1], out)

    def one(p, image):
        kernel = jnp.tanh(jnp.tensordot(image.mean((0, 1)), w(p), 1)).astype(image.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(image[None], kernel, (1, 1), "SAME", dimension_numbers=numbers)[0]

    return lambda p, h: jax.vmap(functools.partial(one, p))(h), (*shape[:-1], out)


@LAYERS.add("weight as the image", "image", needs="whole")
def correlation(d, shape, out):
    """The example is the kernel, the weight what it slides over."""
    w = weight(d, out, shape[0] + 1, shape[1] + 1, shape[2])

    def one(p, image):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            w(p).astype(image.dtype), image[..., None], (1, 1), "VALID", dimension_numbers=numbers
        )
        return jnp.moveaxis(y[..., 0], 0, -1)

    return lambda p, h: jax.vmap(functools.partial(one, p))(h), (2, 2, out)


@LAYERS.add("convolution by patches", "image", keeps=True, needs="whole")
def patches(d, shape, out):
    w = weight(d, shape[-1] * 4, out)

    def convolved(p, h):
        cut = lax.conv_general_dilated_patches(h, (2, 2), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return cut @ w(p)

    return convolved, (*shape[:-1], out)


@LAYERS.add("convolution by shifted slices", "image", keeps=True)
def shifted(d, shape, out):
    w = weight(d, 2, shape[-1], out)

    def convolved(p, h):
        kernel = w(p)
        return h @ kernel[0] + jnp.roll(h, 1, 1) @ kernel[1]

    return convolved, (*shape[:-1], out)


@LAYERS.add("pooling", "image")
def pooling(d, shape, out):
    w, noise, largest = weight(d, shape[-1], out), 0.1 * d.constant(*shape[:-1], out), d.chance()

    def pooled(p, h):
        h = h @ w(p) + noise
        return nn.max_pool(h, (2, 2), (1, 2), "SAME") if largest else nn.avg_pool(h, (2, 2), (2, 1), "SAME")

    return pooled, shape_after(d, pooled, shape)


@LAYERS.add("flax convolution", "image", needs="whole")
def flax_conv(d, shape, out):
    module = nn.Conv(
        out,
        (d.whole(1, 3), d.whole(1, 2)),
        strides=d.whole(1, 2),
        padding=d.one_of(["SAME", "CIRCULAR", "REFLECT"] if min(shape[:2]) > 2 else ["SAME"]),
        use_bias=d.chance(),
    )
    made = of_flax(d, module, shape)
    return made, shape_after(d, made, shape)


@LAYERS.add("flax transposed convolution", "image", needs="whole")
def flax_transposed(d, shape, out):
    made = of_flax(d, nn.ConvTranspose(out, (2, 2), strides=(2, 1), transpose_kernel=d.chance()), shape)
    return made, shape_after(d, made, shape)


# Layers of tokens: whole numbers, of any size and sign

VOCABULARY = 5


def within(ids):
    """Ids that are there, some counted from the end: of others JAX's derivatives forwards and backwards differ."""
    return jnp.clip(ids, -VOCABULARY, VOCABULARY - 1)


def embedding(name):
    """Registers a way to look up rows `ids (n, t)` of a table `(VOCABULARY, out)`."""

    def register(look_up):
        @LAYERS.add(name, "tokens")
        def embed(d, shape, out):
            table = weight(d, VOCABULARY, out)
            return lambda p, ids: look_up(table(p), ids), (*shape, out)

        return look_up

    return register


embedding("embedding by indexing")(lambda table, ids: table[within(ids)])
embedding("embedding by indexing, half the ids")(
    lambda table, ids: jnp.where((ids > 0)[..., None], table[within(ids)], 0.3)
)
embedding("embedding by take")(lambda table, ids: jnp.take(table, ids % VOCABULARY, 0))
embedding("embedding by take, clip")(lambda table, ids: jnp.take(table, ids, 0, mode="clip"))
embedding("embedding by take, wrap")(lambda table, ids: jnp.take(table, ids, 0, mode="wrap"))
embedding("embedding by take, fill")(lambda table, ids: jnp.take(table, ids, 0, mode="fill", fill_value=0.25))
embedding("embedding by at, promised")(
    lambda table, ids: table.at[ids % VOCABULARY].get(mode="promise_in_bounds", unique_indices=False)
)
embedding("embedding by at, filled")(lambda table, ids: table.at[ids].get(mode="fill", fill_value=0))
embedding("embedding by one-hot vectors")(lambda table, ids: jax.nn.one_hot(ids, VOCABULARY, dtype=table.dtype) @ table)
embedding("embedding of columns")(lambda table, ids: jnp.take(table.T, ids % VOCABULARY, 1).transpose(1, 2, 0))
embedding("embedding twice")(lambda table, ids: table[within(ids)] * jnp.tanh(table[(ids + 1) % VOCABULARY]))
embedding("embedding of pairs")(lambda table, ids: table[within(ids)] - table[jnp.roll(within(ids), 1, 1)] / 2)
embedding("embedding mapped")(lambda table, ids: jax.vmap(jax.vmap(lambda i: table[i]))(within(ids)))
embedding("embedding by a scan")(
    lambda table, ids: lax.scan(lambda _, i: (None, table[i]), None, within(ids).T)[1].swapaxes(0, 1)
)


@LAYERS.add("embedding of cells", "tokens")
def embedding_of_cells(d, shape, out):
    """Both axes of the table are looked up."""
    table, column = weight(d, VOCABULARY, 3, out), d.rng.integers(0, 3, shape)
    return lambda p, ids: table(p)[within(ids), column], (*shape, out)


@LAYERS.add("embedding that reads out", "tokens")
def embedding_tied(d, shape, out):
    table = weight(d, VOCABULARY, out)
    return lambda p, ids: jnp.tanh(table(p)[within(ids)]) @ table(p).T, (*shape, VOCABULARY)


@LAYERS.add("counts of tokens", "tokens")
def counts(d, shape, out):
    table = weight(d, VOCABULARY, out)

    def counted(p, ids):
        counts = jax.vmap(lambda i: jnp.zeros(VOCABULARY).at[i % VOCABULARY].add(1.0))(ids)
        return (counts @ table(p))[:, None]

    return counted, (1, out)


@LAYERS.add("flax embedding", "tokens")
def flax_embedding(d, shape, out):
    table = weight(d, VOCABULARY, out)
    module = nn.Embed(VOCABULARY, out)
    return lambda p, ids: module.apply({"params": {"embedding": table(p)}}, ids % VOCABULARY), (*shape, out)


# From one kind of shape to another


def size_of(shape) -> int:
    return math.prod(shape)


def converted(d: Draw, shape: Shape, kind: str, before: str) -> tuple[Layer, Shape]:
    """What makes the shape one of the kind."""
    if kind == before:
        return lambda p, h: h, shape
    if before == "tokens":
        made, shape = layer(d, shape, "tokens")
        then, shape = converted(d, shape, kind, "series")
        return chain_of_tokens(made, then), shape
    if kind == "tokens":
        noise, (flat, (size,)) = d.constant(), converted(d, shape, "vector", before)
        return lambda p, h: jnp.floor(5 * flat(p, h)[:, :4] + noise).astype(int), (min(size, 4),)
    if kind == "vector":
        if size_of(shape) <= 12 and d.chance():
            return lambda p, h: h.reshape(len(h), -1), (size_of(shape),)
        how = d.one_of(["mean", "sum", "largest", "last", "by a parameter"])
        noise, name = 0.1 * d.constant(*shape), d.leaf(*shape[:-1]) if how == "by a parameter" else ""

        def pooled(p, h):
            axes = tuple(range(1, h.ndim - 1))
            if how == "by a parameter":
                return (h * p[name][..., None]).sum(axes)
            if how == "last":
                return h[(slice(None), *(-1 for _ in axes))]
            if how == "largest":
                # Not by `max`: its derivative looks for the value again, which XLA may have rounded otherwise.
                h = (h + noise).reshape(len(h), -1, h.shape[-1])
                return jnp.take_along_axis(h, h.argmax(1, keepdims=True), 1)[:, 0]
            return h.mean(axes) if how == "mean" else h.sum(axes)

        return pooled, shape[-1:]
    if before == "vector":
        extra = (d.whole(1, 3),) if kind == "series" else (d.whole(2, 4), d.whole(1, 4))
        factor = d.constant(*extra, 1)
        return lambda p, h: h.reshape(-1, *(1 for _ in extra), *shape) * factor, (*extra, *shape)
    if kind == "image":
        wide = d.whole(1, 2)
        factor = d.constant(1, wide, 1)
        return lambda p, h: h[:, :, None] * factor, (shape[0], wide, shape[1])
    return lambda p, h: h.reshape(len(h), -1, h.shape[-1]), (shape[0] * shape[1], shape[2])


def chain_of_tokens(embed: Layer, then: Layer) -> Layer:
    return lambda p, ids: then(p, embed(p, ids))
