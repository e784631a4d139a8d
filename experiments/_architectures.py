"""Kinds of networks for experiments on what kernels cost and how precise they are."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

__all__ = ["Transformer"]


class Transformer(nn.Module):
    """A transformer encoder with pre-normalisation, of `depth` blocks, for images cut into strips of `rows` rows.

    A block is self-attention and a hidden layer of four times the width, each after layer norm and on a residual path.
    The tokens are projected to `width` and get learned positions; the readout is linear in their mean. `apply` returns
    `(n,)` for x `(n, height, width, channels)`, whose height is a multiple of `rows`.
    """

    width: int = 32
    heads: int = 2
    depth: int = 1
    rows: int = 4

    @nn.compact
    def __call__(self, x: Real[Array, "n height w c"]) -> Float[Array, " n"]:
        """The outputs `(n,)` of images."""
        tokens = x.reshape(len(x), x.shape[1] // self.rows, -1)
        count = tokens.shape[1]
        h = nn.Dense(self.width)(tokens)
        h = h + self.param("positions", nn.initializers.normal(0.02), (count, self.width))
        for _ in range(self.depth):
            q, k, v = jnp.split(nn.Dense(3 * self.width)(nn.LayerNorm()(h)), 3, axis=-1)
            q, k, v = (part.reshape(len(x), count, self.heads, -1) for part in (q, k, v))
            scores = jnp.einsum("nqhc,nkhc->nhqk", q, k) / jnp.sqrt(jnp.asarray(q.shape[-1], q.dtype))
            mixed = jnp.einsum("nhqk,nkhc->nqhc", nn.softmax(scores), v)
            h = h + nn.Dense(self.width)(mixed.reshape(len(x), count, self.width))
            h = h + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(h))))
        return nn.Dense(1)(nn.LayerNorm()(h).mean(axis=1))[:, 0]
