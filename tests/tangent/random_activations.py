"""Biases, scales and activations of random networks: each of hidden values `(n, *shape)`, for one `shape`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from .random_draws import ACTIVATIONS, BIASES, Draw, Layer, Shape
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
    slope = d.choice([1.0, 0.3, -2.0])

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
    slope = d.choice([1.0, 0.3, -2.0])

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
