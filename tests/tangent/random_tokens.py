"""Layers of tokens in random networks, and conversions from one kind of shape to another."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from .random_activations import layer
from .random_draws import LAYERS, Draw, Layer, Shape
from .random_weights import weight

# Layers of tokens: whole numbers, of any size and sign

VOCABULARY = 5


def valid(ids):
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


embedding("embedding by indexing")(lambda table, ids: table[valid(ids)])
embedding("embedding by indexing, half the ids")(
    lambda table, ids: jnp.where((ids > 0)[..., None], table[valid(ids)], 0.3)
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
embedding("embedding twice")(lambda table, ids: table[valid(ids)] * jnp.tanh(table[(ids + 1) % VOCABULARY]))
embedding("embedding of pairs")(lambda table, ids: table[valid(ids)] - table[jnp.roll(valid(ids), 1, 1)] / 2)
embedding("embedding mapped")(lambda table, ids: jax.vmap(jax.vmap(lambda i: table[i]))(valid(ids)))
embedding("embedding by a scan")(
    lambda table, ids: lax.scan(lambda _, i: (None, table[i]), None, valid(ids).T)[1].swapaxes(0, 1)
)


@LAYERS.add("embedding of cells", "tokens")
def embedding_of_cells(d, shape, out):
    """Both axes of the table are looked up."""
    table, column = weight(d, VOCABULARY, 3, out), d.rng.integers(0, 3, shape)
    return lambda p, ids: table(p)[valid(ids), column], (*shape, out)


@LAYERS.add("embedding that reads out", "tokens")
def embedding_tied(d, shape, out):
    table = weight(d, VOCABULARY, out)
    return lambda p, ids: jnp.tanh(table(p)[valid(ids)]) @ table(p).T, (*shape, VOCABULARY)


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


def entry_count(shape) -> int:
    return math.prod(shape)


def converted(d: Draw, shape: Shape, kind: str, before: str) -> tuple[Layer, Shape]:
    """What makes the shape one of the kind."""
    if kind == before:
        return lambda p, h: h, shape
    if before == "tokens":
        made, shape = layer(d, shape, "tokens")
        following, shape = converted(d, shape, kind, "series")
        return chain_of_tokens(made, following), shape
    if kind == "tokens":
        noise, (flat, (size,)) = d.constant(), converted(d, shape, "vector", before)
        return lambda p, h: jnp.floor(5 * flat(p, h)[:, :4] + noise).astype(int), (min(size, 4),)
    if kind == "vector":
        if entry_count(shape) <= 12 and d.chance():
            return lambda p, h: h.reshape(len(h), -1), (entry_count(shape),)
        how = d.choice(["mean", "sum", "largest", "last", "by a parameter"])
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


def chain_of_tokens(embed: Layer, following: Layer) -> Layer:
    return lambda p, ids: following(p, embed(p, ids))
