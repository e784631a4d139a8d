"""The search of nearest neighbours, in compiled blocks of queries with bounded memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

__all__ = ["NO_VOTE", "Metric", "votes"]

Metric = Literal["l1", "l2"]

NO_VOTE = -2
"""The vote where distances are not finite numbers; neither a class index nor a label -1 or +1."""

_DISTANCES = 2**18  # of one block of queries; faster than larger blocks, which leave the cache
_FEATURES = 16  # in one step of a sum over features; XLA compiles shorter steps to slower code


def votes(
    bank: Float[Array, "m d"], labels: Int[Array, " m"], queries: Float[Array, "n d"], *, k: int, metric: Metric
) -> Int[Array, " n"]:
    """The votes of `knn`, or `NO_VOTE` where a distance is not finite; nothing is checked."""
    return _program()(bank, labels, queries, k=k, metric=metric)


@functools.cache
def _program() -> Callable[..., Int[Array, " n"]]:
    return jax.jit(_votes, static_argnames=("k", "metric"))


def _votes(
    bank: Float[Array, "m d"], labels: Int[Array, " m"], queries: Float[Array, "n d"], *, k: int, metric: Metric
) -> Int[Array, " n"]:
    dtype = jnp.promote_types(bank.dtype, queries.dtype)
    bank, queries, (m, n) = bank.astype(dtype), queries.astype(dtype), (len(bank), len(queries))
    nearest = _nearest if metric == "l1" else _nearest_by_products
    find = nearest(bank, k)
    count = -(-n // max(8, min(256, _DISTANCES // m)))
    size = -(-n // count)
    blocks = jnp.pad(queries, ((0, count * size - n), (0, 0))).reshape(count, size, -1)

    def vote(block: Float[Array, "q d"]) -> Int[Array, " q"]:
        found, finite = find(block)
        return jnp.where(finite, _majority(labels[found]), NO_VOTE)

    return (vote(blocks[0]) if count == 1 else lax.map(vote, blocks).reshape(-1))[:n]


def _majority(labels: Int[Array, "q k"]) -> Int[Array, " q"]:
    """The most frequent label of neighbours, which are in order of distance; of several, that of the nearest."""
    counts = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)
    return jnp.take_along_axis(labels, counts.argmax(axis=1, keepdims=True), axis=1)[:, 0]  # the first of the largest


class _Found(NamedTuple):
    """The k nearest of a bank in order of distance, and whether all their distances are finite numbers."""

    indices: Int[Array, "q k"]
    finite: Bool[Array, " q"]


def _nearest(bank: Float[Array, "m d"], k: int) -> Callable[[Float[Array, "q d"]], _Found]:
    """A search by sums of absolute differences."""
    distances = _sums(bank, jnp.abs)

    def find(queries: Array) -> _Found:
        found = distances(queries)
        return _Found(lax.top_k(-found, k)[1], jnp.isfinite(found).all(axis=1))

    return find


def _sums(bank: Float[Array, "m d"], size: Callable[[Array], Array]) -> Callable[[Array], Float[Array, "q m"]]:
    """The distances sum_i size(a_i - b_i) of queries a `(q, d)` to all b of the bank.

    A loop over features adds to distances `(q, m)`, along whose last axis the compiler vectorises. A reduction over the
    last axis of the differences would not be, since that changes the order of its sum.
    """
    m, d = bank.shape
    step = min(d, _FEATURES)

    def split(rows: Array) -> Float[Array, "steps step rows"]:
        """Features first, in steps; those that fill the last step are zero."""
        return jnp.pad(rows.T, ((0, -d % step), (0, 0))).reshape(-1, step, len(rows))

    columns = split(bank)

    def distances(queries: Array) -> Array:
        def add(total: Array, features: tuple[Array, Array]) -> tuple[Array, None]:
            for a, b in zip(*features, strict=True):
                total = total + size(a[:, None] - b[None])
            return total, None

        return lax.scan(add, jnp.zeros((len(queries), m), bank.dtype), (split(queries), columns))[0]

    return distances


def _nearest_by_products(bank: Float[Array, "m d"], k: int) -> Callable[[Float[Array, "q d"]], _Found]:
    """A search by squared distances |a|^2 - 2 a.b + |b|^2, whose rounding changes no neighbour.

    With u the unit roundoff, the error of a product of d terms is at most d u |a| |b| to first order, in any order of
    summation (Higham 2002, Eq. 3.5), and that of the squared distance (d + 8) u (|a| + |b|)^2. The terms are centred,
    since the error grows with their size. The code uses 2 u.

    Candidates are the examples with the smallest lower bounds of the distance. They are ordered by sums of squared
    differences. Every other example is at least as far as the largest lower bound of a candidate.
    """
    m, d = bank.shape
    count = min(m, 2 * k + 8)
    rounding = (d + 8) * float(jnp.finfo(bank.dtype).eps)
    mean = bank.mean(axis=0)
    centred = bank - mean
    squares = jnp.square(centred).sum(axis=1)
    distances = _sums(bank, jnp.square)

    def find(queries: Array) -> _Found:
        a = queries - mean
        lengths = jnp.square(a).sum(axis=1, keepdims=True)
        products = jnp.matmul(a, centred.T, precision=lax.Precision.HIGHEST)
        lower = lengths - 2 * products + squares - rounding * (jnp.sqrt(lengths) + jnp.sqrt(squares)) ** 2
        bounds, candidates = lax.top_k(-lower, count)
        candidates = jnp.sort(candidates, axis=1)  # so that of equal distances the lower index comes first
        sums = lax.map(lambda column: jnp.square(queries - bank[column]).sum(axis=1), candidates.T).T
        ordered, places = lax.top_k(-sums, k)
        found = jnp.take_along_axis(candidates, places, axis=1)
        finite = jnp.isfinite(lower).all(axis=1)
        # The last of each, by a minimum: XLA turns a slice of `top_k` into a slow sort of all entries.
        farthest, bound = -ordered.min(axis=1), -bounds.min(axis=1)
        certain = farthest * (1 + 2 * rounding) < bound
        if count < m:
            found = lax.cond(jnp.all(certain | ~finite), lambda: found, lambda: lax.top_k(-distances(queries), k)[1])
        return _Found(found, finite)

    return find
