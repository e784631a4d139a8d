"""Ways to make a weight of a given shape from parameters."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .random_draws import WEIGHTS, Draw, Get, Params


def weight(d: Draw, *shape: int) -> Get:
    """A weight of the shape, out of one or several leaves."""
    return d.pick("weight", ["plain"]).make(d, shape)


def base(d: Draw, *shape: int) -> Get:
    """The argument of a form: usually a leaf, sometimes another form."""
    if shape and d.depth < 3 and d.chance(0.15):
        inner = d.sub()
        get = weight(inner, *shape)
        d.used |= inner.used
        return get
    return plain(d, shape)


def random_axis(d: Draw, shape) -> int:
    return d.whole(0, len(shape) - 1)


def other(shape, axis, size):
    return tuple(size if i == axis else length for i, length in enumerate(shape))


@WEIGHTS.add("plain")
def plain(d: Draw, shape) -> Get:
    name = d.leaf(*shape)
    return lambda p: p[name]


@WEIGHTS.add("transposed")
def transposed(d, shape):
    order = d.rng.permutation(len(shape)).tolist() if d.chance() else [*range(len(shape))][::-1]
    get = base(d, *(shape[i] for i in order))
    inverse = np.argsort(order).tolist()
    return lambda p: jnp.transpose(get(p), inverse)


@WEIGHTS.add("reshaped")
def reshaped(d, shape):
    size = math.prod(shape)
    get = base(d, *d.choice([(size,), (size, 1), (1, size), shape[::-1]]))
    return lambda p: get(p).reshape(shape)


@WEIGHTS.add("slice of a fused weight")
def sliced(d, shape):
    axis, step = random_axis(d, shape), d.whole(1, 2)
    before, after = d.whole(0, 2), d.whole(0, 2)
    get = base(d, *other(shape, axis, before + step * shape[axis] + after))
    index = (slice(None),) * axis + (slice(before, before + step * shape[axis], step),)
    return lambda p: get(p)[index]


@WEIGHTS.add("dynamic slice")
def dynamically_sliced(d, shape):
    axis, before = random_axis(d, shape), d.whole(0, 2)
    get = base(d, *other(shape, axis, shape[axis] + 2))
    return lambda p: lax.dynamic_slice_in_dim(get(p), jnp.asarray(before), shape[axis], axis)


@WEIGHTS.add("split of a fused weight")
def split(d, shape):
    axis, parts = random_axis(d, shape), d.whole(2, 3)
    which = d.whole(0, parts - 1)
    get = base(d, *other(shape, axis, parts * shape[axis]))
    return lambda p: jnp.split(get(p), parts, axis)[which]


@WEIGHTS.add("rolled")
def rolled(d, shape):
    get, axis, shift = base(d, *shape), random_axis(d, shape), d.whole(-3, 3)
    return lambda p: jnp.roll(get(p), shift, axis)


@WEIGHTS.add("flipped")
def flipped(d, shape):
    get, axis = base(d, *shape), random_axis(d, shape)
    return lambda p: jnp.flip(get(p), axis)


@WEIGHTS.add("broadcast")
def broadcast(d, shape):
    axis = random_axis(d, shape)
    get = base(d, *(other(shape, axis, 1) if d.chance() else shape[1:]))
    return lambda p: jnp.broadcast_to(get(p), shape)


@WEIGHTS.add("repeated")
def repeated(d, shape):
    axis = random_axis(d, shape)
    get, tile = base(d, *other(shape, axis, 1)), d.chance()
    reps = other((1,) * len(shape), axis, shape[axis])
    return lambda p: jnp.tile(get(p), reps) if tile else jnp.repeat(get(p), shape[axis], axis)


@WEIGHTS.add("squeezed")
def squeezed(d, shape):
    axis = random_axis(d, shape)
    get = base(d, *shape[:axis], 1, *shape[axis:])
    return lambda p: get(p).squeeze(axis)


@WEIGHTS.add("concatenated")
def concatenated(d, shape):
    axis = random_axis(d, shape)
    cut = d.whole(0, shape[axis])  # one of the two may be empty
    a, b = base(d, *other(shape, axis, cut)), base(d, *other(shape, axis, shape[axis] - cut))
    return lambda p: jnp.concatenate([a(p), b(p)], axis)


@WEIGHTS.add("stacked")
def stacked(d, shape):
    axis = random_axis(d, shape)
    parts = [base(d, *shape[:axis], *shape[axis + 1 :]) for _ in range(shape[axis])]
    return lambda p: jnp.stack([part(p) for part in parts], axis)


@WEIGHTS.add("padded")
def padded(d, shape):
    axis = random_axis(d, shape)
    low, high = d.whole(-1, 1), d.whole(-1, 1)
    size = shape[axis] - low - high
    interior = 0
    if size < 1:
        size, low, high = 1, 0, shape[axis] - 1
    elif size % 2 and size > 2:
        size, interior = (size + 1) // 2, 1
    get = base(d, *other(shape, axis, size))
    config = [(low, high, interior) if i == axis else (0, 0, 0) for i in range(len(shape))]

    def pad(p):
        w = get(p)
        return lax.pad(w, jnp.zeros((), w.dtype), config)

    return pad


@WEIGHTS.add("symmetrised")
def symmetrised(d, shape):
    get = base(d, *shape)
    if len(shape) > 1 and shape[-1] == shape[-2]:
        return lambda p: get(p) + get(p).swapaxes(-1, -2)
    return lambda p: get(p) - jnp.flip(get(p), 0) / 3


@WEIGHTS.add("squared")
def squared(d, shape):
    get, how = base(d, *shape), d.choice([jnp.square, jnp.exp, jnp.tanh, lambda w: w * w * w])
    return lambda p: how(get(p))


@WEIGHTS.add("masked")
def masked(d, shape):
    get, mask = base(d, *shape), d.rng.random(shape) < 0.6
    filling, how = d.constant(*shape), d.whole(0, 2)
    if how == 2 and len(shape) > 1:
        return lambda p: jnp.tril(get(p))
    return lambda p: jnp.where(mask, get(p), filling) if how else get(p) * mask


@WEIGHTS.add("times a constant array")
def times_constants(d, shape):
    get, factor = base(d, *shape), d.constant(*d.choice([shape, shape[-1:], (*shape[:-1], 1)]))
    return lambda p: get(p) * factor


@WEIGHTS.add("NTK scaling")
def ntk_scaled(d, shape):
    get, scale, divided = base(d, *shape), math.sqrt(2 / max(1, shape[0])), d.chance()
    return lambda p: get(p) / jnp.sqrt(3.0) if divided else scale * get(p)


@WEIGHTS.add("times a scalar parameter")
def equalised(d, shape):
    get, scalar = base(d, *shape), d.leaf()
    return lambda p: p[scalar] * get(p)


@WEIGHTS.add("weight normalisation")
def weight_normalised(d, shape):
    get, gain = base(d, *shape), d.leaf(shape[-1])

    def normalised(p):
        v = get(p)
        return p[gain] * v / jnp.sqrt(jnp.sum(v**2, tuple(range(v.ndim - 1)), keepdims=True) + 0.1)

    return normalised


@WEIGHTS.add("spectral normalisation")
def spectrally_normalised(d, shape):
    get, start, stopped = base(d, *shape), d.constant(math.prod(shape[1:])), d.chance()

    def normalised(p):
        v = get(p)
        flat = v.reshape(shape[0], -1)
        u = flat @ start
        u = u / jnp.sqrt(u @ u + 0.1)
        u = lax.stop_gradient(u) if stopped else u
        return v / (1 + jnp.sqrt(jnp.sum((u @ flat) ** 2) + 0.1))

    return normalised


@WEIGHTS.add("standardised")
def standardised(d, shape):
    get = base(d, *shape)
    return lambda p: (w := get(p)) - w.mean(0, keepdims=True) / 2


@WEIGHTS.add("low rank added")
def lora(d, shape):
    get, rank = base(d, *shape), d.whole(1, 2)
    a, b = base(d, shape[0], rank), base(d, rank, math.prod(shape[1:]))
    frozen, fixed, how = d.constant(*shape), d.whole(0, 2), 0.5

    def adapted(p):
        w = (get(p), lax.stop_gradient(get(p)), frozen)[fixed]
        return w + how * (a(p) @ b(p)).reshape(shape)

    return adapted


@WEIGHTS.add("product of two")
def product(d, shape):
    a, b = base(d, shape[0], 2), base(d, 2, math.prod(shape[1:]))
    return lambda p: (a(p) @ b(p)).reshape(shape)


@WEIGHTS.add("outer product")
def outer(d, shape):
    parts = [base(d, length) for length in shape]

    def multiplied(p):
        w = parts[0](p)
        for part in parts[1:]:
            w = w[..., None] * part(p)
        return w

    return multiplied


@WEIGHTS.add("indexed by a whole number")
def indexed(d, shape):
    axis, count = random_axis(d, shape), d.whole(1, 3)
    get, which = base(d, *shape[:axis], count, *shape[axis:]), d.whole(-count, count - 1)
    index = (slice(None),) * axis + (which,)
    return lambda p: get(p)[index]


@WEIGHTS.add("indexed by an array")
def gathered(d, shape):
    axis, count = random_axis(d, shape), d.whole(1, 4)
    get, which = base(d, *other(shape, axis, count)), d.rng.integers(-count, count, shape[axis])
    index, taken = (slice(None),) * axis + (which,), d.chance()
    return lambda p: jnp.take(get(p), which % count, axis) if taken else get(p)[index]


@WEIGHTS.add("indexed by booleans")
def selected(d, shape):
    mask = np.zeros(shape[0] + d.whole(0, 2), bool)
    mask[d.rng.permutation(len(mask))[: shape[0]]] = True
    get = base(d, len(mask), *shape[1:])
    return lambda p: get(p)[mask]


@WEIGHTS.add("scattered")
def scattered(d, shape):
    get, slots = base(d, *shape), d.rng.permutation(shape[0] + 1)[: shape[0]]
    repeats, how = d.rng.integers(0, shape[0], shape[0]), d.whole(0, 2)

    def placed(p):
        w = get(p)
        if how == 0:
            return jnp.zeros((shape[0] + 1, *shape[1:]), w.dtype).at[slots].set(w)[: shape[0]]
        return w.at[repeats].add(0.5 * w) if how == 1 else w.at[0].multiply(2.0)

    return placed


@WEIGHTS.add("straight through")
def straight_through(d, shape):
    get = base(d, *shape)
    return lambda p: (w := get(p)) + lax.stop_gradient(jnp.round(4 * w) / 4 - w)


@WEIGHTS.add("partly stopped")
def partly_stopped(d, shape):
    get, mask, first = base(d, *shape), d.rng.random(shape) < 0.5, d.chance()

    def stopped(p):
        w = get(p)
        return w.at[0].set(lax.stop_gradient(w[0])) if first else jnp.where(mask, w, lax.stop_gradient(w))

    return stopped


@WEIGHTS.add("tied")
def tied(d, shape):
    """A leaf that is in use already: as it is or transposed if there is one of the shape, else cut or repeated."""
    same = [name for name, leaf in d.leaves.items() if leaf.shape == shape]
    turned = [name for name, leaf in d.leaves.items() if leaf.shape == shape[::-1]]
    any_one = [name for name, leaf in d.leaves.items() if leaf.size]
    if not any_one:
        name = d.leaf(*shape)
        return lambda p: p[name] + jnp.flip(p[name], 0)
    name = d.choice(same or turned or any_one)
    d.used.add(name)
    if same:
        return lambda p: p[name]
    if turned:
        return lambda p: p[name].T
    return lambda p: jnp.resize(p[name], shape)


@WEIGHTS.add("single precision leaf")
def single(d, shape):
    name = d.leaf(*shape)
    d.leaves[name] = d.leaves[name].astype(np.float32)
    d.lower(np.float32)
    return lambda p: p[name].astype(float)


@WEIGHTS.add("half precision leaf")
def half(d, shape):
    name, dtype = d.leaf(*shape), d.choice([jnp.float16, jnp.bfloat16])
    d.leaves[name] = d.leaves[name].astype(dtype)
    d.lower(dtype)
    return lambda p: p[name].astype(float)


@WEIGHTS.add("rule of its own for the weight", needs="reverse")
def reversed_gradient(d, shape):
    get, factor = base(d, *shape), d.choice([-1.0, 0.5, 3.0])

    @jax.custom_vjp
    def reverse(w):
        return jnp.sin(w)

    reverse.defvjp(lambda w: (jnp.sin(w), None), lambda _, ct: (factor * ct,))
    return lambda p: reverse(get(p))


@WEIGHTS.add("diagonal")
def diagonal(d, shape):
    if len(shape) < 2:
        get = base(d, *shape, *shape)
        return lambda p: jnp.diagonal(get(p))
    get = base(d, min(shape[-2:]))
    pad = [(0, length - min(shape[-2:])) for length in shape[-2:]]
    return lambda p: jnp.broadcast_to(jnp.pad(jnp.diag(get(p)), pad), shape)


@WEIGHTS.add("cumulated")
def cumulated(d, shape):
    get, axis = base(d, *shape), random_axis(d, shape)
    return lambda p: jnp.cumsum(get(p), axis)


@WEIGHTS.add("sorted", needs="wide")
def sorted_(d, shape):
    get, axis = base(d, *shape), random_axis(d, shape)
    return lambda p: jnp.sort(get(p), axis)


@WEIGHTS.add("checkpointed weight")
def checkpointed(d, shape):
    get = base(d, *shape)
    return jax.checkpoint(lambda p: jnp.tanh(get(p)))


@WEIGHTS.add("jitted weight")
def jitted(d, shape):
    get = base(d, *shape)
    return jax.jit(lambda p: 2 * get(p))


@WEIGHTS.add("mapped weight")
def mapped(d, shape):
    get, factor = base(d, *shape), d.constant(*shape[1:])
    return lambda p: jax.vmap(lambda row: row * factor)(get(p))


@WEIGHTS.add("written by a scan")
def scanned(d, shape):
    get = base(d, *shape)

    def written(p):
        w = get(p)
        return lax.scan(lambda total, row: (0.5 * total + row, total + row), jnp.zeros_like(w[0]), w)[1]

    return written


@WEIGHTS.add("through a Fourier transform", needs="wide")
def transformed(d, shape):
    get, real = base(d, *shape), d.chance()
    return lambda p: (jnp.real if real else jnp.imag)(jnp.fft.fft(get(p) * np.arange(1.0, shape[-1] + 1)))


@WEIGHTS.add("cube of tensors")
def tensor_train(d, shape):
    size = math.prod(shape[1:])
    a, b, c = base(d, shape[0], 2), base(d, 2, 2, 2), base(d, 2, size)
    return lambda p: jnp.einsum("ai,ijk,kb->ajb", a(p), b(p), c(p)).sum(1).reshape(shape)


@WEIGHTS.add("solved for", needs="wide")
def solved(d, shape):
    get, matrix = base(d, *shape), base(d, shape[0], shape[0])

    def inverse(p: Params):
        right = get(p).reshape(shape[0], -1)
        a = matrix(p)
        return jnp.linalg.solve(a @ a.T + 2 * jnp.eye(shape[0]), right).reshape(shape)

    return inverse
