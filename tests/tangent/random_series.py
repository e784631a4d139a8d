"""Layers of series in random networks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .random_draws import LAYERS, option
from .random_weights import weight


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
    reverse, unroll, inner = d.chance(), d.whole(1, 2), d.chance()
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
        driven = h.swapaxes(0, 1) if inner else (h @ read).swapaxes(0, 1)

        def step(state, x):
            state = jnp.tanh(state @ mix + (x @ read if inner else x))
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
