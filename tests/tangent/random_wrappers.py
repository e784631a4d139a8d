"""Wrappers of layers in random networks: transformations of JAX, loops, branches, custom rules, sharing."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .random_activations import chain, layer
from .random_draws import WRAPPERS, Draw, Layer, Shape, chosen


def inner_layer(d: Draw, shape: Shape, kind: str, *, keeps: bool = False, own: bool = False, avoid: str = ""):
    """A layer for the inside of a wrapper, perhaps wrapped itself, with the names of its leaves."""
    inner = d.sub(own=own, avoid=avoid)
    if d.depth < 1 and d.chance(0.25):
        made, out = wrapped(inner, shape, kind) if not keeps else kept(inner, shape, kind)
    else:
        made, out = layer(inner, shape, kind, keeps=keeps)
    if not own:
        d.used |= inner.used
    return made, out, inner


def wrapped(d: Draw, shape: Shape, kind: str) -> tuple[Layer, Shape]:
    return d.pick("wrapper").make(d, shape, kind)


def kept(d: Draw, shape: Shape, kind: str) -> tuple[Layer, Shape]:
    """Two layers, the second of which brings the shape back."""
    first, _ = layer(d, shape, kind, keeps=True)
    second, out = layer(d, shape, kind, keeps=True)
    return chain(first, second), out


def stacked(d: Draw, inner: Draw, count: int, axis: int = 0) -> dict[str, str]:
    """Leaves of `count` copies of an inner layer, stacked; their names here by those inside."""
    names = {}
    for name, leaf in inner.leaves.items():
        values = np.stack(
            [leaf, *(d.rng.normal(size=leaf.shape) * 0.5 for _ in range(count - 1))], min(axis, leaf.ndim)
        )
        names[name] = d.leaf(*values.shape)
        d.leaves[names[name]] = values.astype(leaf.dtype)
    return names


@WRAPPERS.add("residual")
def residual(d, shape, kind):
    inner, out, _ = inner_layer(d, shape, kind, keeps=True)
    return lambda p, h: h + inner(p, h), out


@WRAPPERS.add("dense connection")
def highway(d, shape, kind):
    (f, _, _), (g, out, _) = inner_layer(d, shape, kind, keeps=True), inner_layer(d, shape, kind, keeps=True)

    def gated(p, h):
        gate = jax.nn.sigmoid(f(p, h))
        return gate * h + (1 - gate) * g(p, h)

    return gated, out


def transformed(name, transform, needs="", avoid="", keeps=False):
    """Registers a wrapper `transform(inner)` of a function `inner(p, h)`."""

    @WRAPPERS.add(name, needs=needs)
    def wrap(d, shape, kind):
        inner, out, _ = inner_layer(d, shape, kind, avoid=avoid, keeps=keeps)
        return transform(inner), out


def one(inner):
    return lambda p, example: inner(p, example[None])[0]


transformed("jit", jax.jit)
transformed("jit in jit", lambda inner: jax.jit(lambda p, h: jax.jit(inner)(p, 1.0 * h)))
transformed("checkpoint", jax.checkpoint)
transformed(
    "checkpoint with a policy",
    lambda inner: jax.checkpoint(inner, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
)
transformed("vmap over examples", lambda inner: jax.vmap(one(inner), (None, 0)))
transformed(
    "vmap over examples on the last axis",
    lambda inner: (
        lambda p, h: (
            jax.vmap(one(inner), (None, -1), -1)(p, jnp.moveaxis(h, 0, -1)).swapaxes(0, -1)
            if h.ndim == 2
            else jax.vmap(one(inner), (None, 0))(p, h)
        )
    ),
    keeps=True,
)
transformed("map over examples", lambda inner: lambda p, h: lax.map(functools.partial(one(inner), p), h))
transformed("jitted vmap", lambda inner: jax.jit(jax.vmap(jax.checkpoint(one(inner)), (None, 0))))
transformed("stopped beside", lambda inner: lambda p, h: inner(p, h) + lax.stop_gradient(jnp.sin(inner(p, h))))
transformed("on stopped values", lambda inner: lambda p, h: inner(p, lax.stop_gradient(h)))
transformed(
    "on stopped parameters", lambda inner: lambda p, h: inner(jax.tree.map(lax.stop_gradient, p), h) + inner(p, h / 2)
)
transformed("shared", lambda inner: lambda p, h: inner(p, h) * jnp.tanh(inner(p, -h / 2)))
transformed("applied twice", lambda inner: lambda p, h: inner(p, inner(p, h)), keeps=True)
transformed(
    "loop of Python",
    lambda inner: lambda p, h: functools.reduce(lambda h, i: h / i + inner(p, h), (1, 2, 3), h),
    keeps=True,
)
transformed("fori_loop", lambda inner: lambda p, h: lax.fori_loop(0, 2, lambda i, h: inner(p, h), h), keeps=True)
transformed(
    "scan without inputs",
    lambda inner: lambda p, h: lax.scan(lambda h, _: (inner(p, h), None), h, None, length=3)[0],
    keeps=True,
)
transformed(
    "scan with checkpoints",
    lambda inner: (
        lambda p, h: lax.scan(jax.checkpoint(lambda h, c: (c * inner(p, h), None)), h, jnp.array([1.0, 0.5], h.dtype))[
            0
        ]
    ),
    keeps=True,
)
transformed(
    "derivative inside",
    lambda inner: lambda p, h: jax.jvp(functools.partial(inner, p), (h,), (jnp.cos(h),))[1],
    avoid="reverse",
)
transformed("gradient inside", lambda inner: lambda p, h: jax.grad(lambda h: jnp.sin(inner(p, h)).sum())(h), keeps=True)
transformed("unused result", lambda inner: lambda p, h: (inner(p, h), inner(p, 2 * h).sum())[0])


@WRAPPERS.add("cond on a constant")
def cond_on_a_constant(d, shape, kind):
    (f, _, _), (g, out, _) = inner_layer(d, shape, kind, keeps=True), inner_layer(d, shape, kind, keeps=True)
    choice, closed = d.chance(), d.chance()

    def branched(p, h):
        predicate = jnp.asarray(choice) if closed else jnp.sum(jnp.ones(3)) > (1 if choice else 9)
        return lax.cond(predicate, lambda: f(p, h), lambda: g(p, h))

    return branched, out


@WRAPPERS.add("cond on a parameter")
def cond_on_a_parameter(d, shape, kind):
    (f, _, _), (g, out, _) = inner_layer(d, shape, kind, keeps=True), inner_layer(d, shape, kind, keeps=True)
    name = d.leaf()
    return lambda p, h: lax.cond(p[name] > 0, lambda h: f(p, h), lambda h: p[name] * g(p, h), h), out


@WRAPPERS.add("cond on the example")
def cond_on_the_example(d, shape, kind):
    (f, _, _), (g, out, _) = (
        inner_layer(d, shape, kind, keeps=True, avoid="whole"),
        inner_layer(d, shape, kind, keeps=True, avoid="whole"),
    )
    noise = d.constant()

    def branch(p, example):
        return lax.cond(jnp.sum(example) > 0.1 * noise, one(f), one(g), p, example)

    mapped = d.chance()
    return lambda p, h: jax.vmap(branch, (None, 0))(p, h) if mapped else lax.map(functools.partial(branch, p), h), out


@WRAPPERS.add("switch on the example")
def switch_on_the_example(d, shape, kind):
    parts = [inner_layer(d, shape, kind, keeps=True, avoid="whole") for _ in range(3)]
    noise = d.constant()

    def branched(p, example):
        index = jnp.floor(2 * jnp.sum(jnp.sin(3 * example)) + noise).astype(int) % 3
        return lax.switch(index, [one(part[0]) for part in parts], p, example)

    return lambda p, h: lax.map(functools.partial(branched, p), h), parts[0][1]


@WRAPPERS.add("switch on a constant")
def switch_on_a_constant(d, shape, kind):
    parts = [inner_layer(d, shape, kind, keeps=True) for _ in range(3)]
    which = d.whole(0, 2)
    return lambda p, h: lax.switch(jnp.asarray(which), [part[0] for part in parts], p, h), parts[0][1]


@WRAPPERS.add("branches in a scan")
def branches_in_a_scan(d, shape, kind):
    (f, _, _), (g, out, _) = inner_layer(d, shape, kind, keeps=True), inner_layer(d, shape, kind, keeps=True)

    def looped(p, h):
        def step(h, i):
            return lax.cond(i % 2 == 0, f, g, p, h), None

        return lax.scan(step, h, jnp.arange(3))[0]

    return looped, out


def over_layers(name, run, axis=0):
    """Registers a loop over layers whose weights are stacked: `run(step, h, weights, count)`."""

    @WRAPPERS.add(name)
    def looped(d, shape, kind):
        f, out, inner = inner_layer(d, shape, kind, keeps=True, own=True)
        count = d.whole(1, 3)
        names = stacked(d, inner, count, axis)

        def applied(p, h):
            return run(f, h, {inner_name: p[outer_name] for inner_name, outer_name in names.items()}, count)

        return applied, out


def carried(f):
    return lambda h, weights: (f(weights, h), None)


over_layers("scan over layers", lambda f, h, weights, count: lax.scan(carried(f), h, weights)[0])
over_layers(
    "scan over layers, reversed", lambda f, h, weights, count: lax.scan(carried(f), h, weights, reverse=True)[0]
)
over_layers("scan over layers, unrolled", lambda f, h, weights, count: lax.scan(carried(f), h, weights, unroll=2)[0])
over_layers(
    "scan over layers, checkpointed", lambda f, h, weights, count: lax.scan(jax.checkpoint(carried(f)), h, weights)[0]
)
over_layers(
    "scan over layers, all outputs",
    lambda f, h, weights, count: lax.scan(lambda h, w: (f(w, h), jnp.sin(f(w, h))), h, weights)[1].sum(0),
)
over_layers(
    "scan over layers, residual", lambda f, h, weights, count: lax.scan(lambda h, w: (h + f(w, h), None), h, weights)[0]
)
over_layers(
    "loop over indices of layers",
    lambda f, h, weights, count: lax.fori_loop(0, count, lambda i, h: f(jax.tree.map(lambda w: w[i], weights), h), h),
)
over_layers(
    "loop of Python over layers",
    lambda f, h, weights, count: functools.reduce(
        lambda h, i: f(jax.tree.map(lambda w: w[i], weights), h), range(count), h
    ),
)
over_layers(
    "weights in the carry",
    lambda f, h, weights, count: lax.scan(
        lambda carry, c: ((f(carry[1], carry[0]), jax.tree.map(lambda w: (0.9 * w).astype(w.dtype), carry[1])), None),
        (h, jax.tree.map(lambda w: w[0], weights)),
        jnp.arange(2),
    )[0][0],
)
over_layers(
    "scan within a scan",
    lambda f, h, weights, count: lax.scan(
        lambda h, c: (lax.scan(carried(f), c * h, weights)[0], None), h, jnp.array([1.0, 0.5], h.dtype)
    )[0],
)
over_layers("vmap over heads", lambda f, h, weights, count: jax.vmap(f, (0, None))(weights, h).mean(0))
over_layers(
    "vmap over heads, a part for each",
    lambda f, h, weights, count: jnp.sum(jax.vmap(f)(weights, jnp.stack([h / (i + 1) for i in range(count)])), 0),
)
over_layers(
    "vmap over heads with a scan inside",
    lambda f, h, weights, count: jax.vmap(
        lambda w: lax.scan(lambda h, _: (f(w, h), None), h, None, length=2)[0], out_axes=1
    )(weights).mean(1),
)
over_layers(
    "scan over steps of heads",
    lambda f, h, weights, count: lax.scan(
        lambda h, c: (jax.vmap(f, (0, None))(weights, h).mean(0) * c, None), h, jnp.array([1.0, -1.0], h.dtype)
    )[0],
)
over_layers(
    "vmap over heads on the last axis",
    lambda f, h, weights, count: jax.vmap(f, ({name: w.ndim - 1 for name, w in weights.items()}, None))(
        weights, h
    ).mean(0),
    axis=9,
)


@WRAPPERS.add("gradient of its own for a layer", needs="reverse")
def lying_gradient(d, shape, kind):
    f, out, inner = inner_layer(d, shape, kind)
    names, factor = inner.used, d.choice([1.0, -0.5, 2.0])

    @jax.custom_vjp
    def function(p, h):
        return f(p, h)

    def backward(pull, ct):
        p_cotangent, h_cotangent = pull(ct)
        return jax.tree.map(lambda g: (factor * g).astype(g.dtype), p_cotangent), h_cotangent

    function.defvjp(lambda p, h: jax.vjp(f, p, h), backward)
    return lambda p, h: function(chosen(p, names), h), out


@WRAPPERS.add("derivative of its own for a layer")
def lying_derivative(d, shape, kind):
    f, out, inner = inner_layer(d, shape, kind, avoid="reverse")
    names, factor = inner.used, d.choice([1.0, -0.5, 2.0])

    @jax.custom_jvp
    def function(p, h):
        return f(p, h)

    @function.defjvp
    def rule(primals, tangents):
        y, tangent = jax.jvp(f, primals, tangents)
        return y, factor * tangent

    return lambda p, h: function(chosen(p, names), h), out


@WRAPPERS.add("layer in single precision")
def in_single_precision(d, shape, kind):
    return narrow(d, shape, kind, jnp.float32)


@WRAPPERS.add("layer in half precision")
def in_half_precision(d, shape, kind):
    return narrow(d, shape, kind, d.choice([jnp.float16, jnp.bfloat16]))


def narrow(d, shape, kind, dtype):
    f, out, inner = inner_layer(d, shape, kind, avoid="wide")
    names = inner.used
    d.lower(dtype)

    def rounded(p, h):
        p = {name: leaf.astype(dtype) for name, leaf in chosen(p, names).items()}
        return f(p, h.astype(dtype)).astype(h.dtype)

    return rounded, out
