"""Angles between examples without cancellation, even for nearly parallel examples, at any scale."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Pairs", "cosine_from_moments", "pairs", "representable", "root", "sine_from_moments"]

_CLOSE = 0.97  # above this |cosine| the sine is not computed from the cosine
_NUMBERS = 2**20  # the number of coordinates of close pairs that are processed together
_MASK = 2**26  # the number of pairs that are searched for close ones together


class Pairs(NamedTuple):
    """The start of a kernel's recursion: x.x'/d, |x|^2/d, |x'|^2/d, and the sine of the angle, at least 0."""

    cov: Float[Array, "n1 n2"]
    q1: Float[Array, "n1 1"]
    q2: Float[Array, "1 n2"]
    sine: Float[Array, "n1 n2"]


def pairs(x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"]) -> Pairs:
    """The `Pairs` of all examples of x1 with all examples of x2.

    The sine is accurate to a few tens of eps relative to itself. It is zero where two examples are exactly parallel as
    given, and one where an example is zero. Its derivative is accurate to about eps / sine, and zero where the sine is
    zero. No square over- or underflows in its computation.

    >>> x = jnp.array([[3e9, 4e9], [-6e9, -8e9]])
    >>> pairs(x, x).sine.tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    d = x1.shape[1]
    (x1, unit1), (x2, unit2) = _scaled(x1), _scaled(x2)
    q1, q2 = (((x**2).sum(axis=1) / d * unit) * unit for x, unit in ((x1, unit1), (x2, unit2)))
    cov = (jnp.matmul(x1, x2.T, precision="highest") / d * unit1[:, None]) * unit2
    return Pairs(cov, q1[:, None], q2[None, :], _sine(x1, x2))


def representable(x: Float[Array, "n ..."]) -> Bool[Array, " n"]:
    """Whether |x|^2 / d of an example, and terms down to its rounding error, are normal numbers; true for zero."""
    info = jnp.finfo(x.dtype)
    scaled, unit = _scaled(x.reshape(len(x), -1))
    size = unit * jnp.sqrt((scaled**2).mean(axis=1))
    return (size == 0) | ((size >= math.sqrt(info.tiny / info.eps)) & (size <= math.sqrt(info.max) / 16))


def sine_from_moments(
    cov: Float[Array, "..."], q1: Float[Array, "..."], q2: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The sine of an angle from its cosine; the square of the sine is accurate to about eps."""
    cosine = cosine_from_moments(cov, q1, q2)
    return root((1 - cosine) * (1 + cosine))


def cosine_from_moments(
    cov: Float[Array, "..."], q1: Float[Array, "..."], q2: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The cosine cov / sqrt(q1 q2), zero where that is 0 / 0."""
    scale = root(q1) * root(q2)
    return jnp.clip(cov / jnp.where(scale > 0, scale, 1), -1, 1)


def root(q: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root; zero for negative rounding errors, with gradient zero at zero."""
    return jnp.where(q > 0, jnp.sqrt(jnp.where(q > 0, q, 1)), 0 * q)


def _scaled(x: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Examples with entries of at most about 1, and the powers of two that they were divided by."""
    size = lax.stop_gradient(jnp.abs(x).max(axis=1))
    unit = lax.reduce_precision(size, jnp.finfo(x.dtype).nexp, 0)  # keeps the leading binary digit
    unit = jnp.where(unit > 0, unit, 1)
    return x / unit[:, None], unit


@jax.custom_jvp
def _sine(x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
    step = max(1, _MASK // len(x2))
    rows = [_sines(x1[i : i + step], x2) for i in range(0, len(x1), step)]
    return jnp.concatenate(rows) if len(rows) > 1 else rows[0]


@_sine.defjvp
def _sine_jvp(primals, tangents):
    sine = _sine(*primals)
    cosine, change = jax.jvp(_cosine, primals, tangents)
    return sine, jnp.where(sine > 0, -cosine * change / jnp.where(sine > 0, sine, 1), 0)


def _cosine(x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
    q1, q2 = (x1**2).sum(axis=1)[:, None], (x2**2).sum(axis=1)[None, :]
    return cosine_from_moments(jnp.matmul(x1, x2.T, precision="highest"), q1, q2)


def _sines(x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
    """Sines from cosines; those of the few close pairs are then recomputed."""
    cosine = _cosine(x1, x2)
    close = jnp.abs(cosine) > _CLOSE
    i, j = jnp.nonzero(close, size=close.size, fill_value=0)
    batch = max(1, min(close.size, _NUMBERS // x1.shape[1]))

    def refine(carry: tuple[Int[Array, ""], Float[Array, "n1 n2"]]) -> tuple[Array, Array]:
        start, sine = carry
        # The last batch may repeat pairs, or contain pairs that are not close, which does no harm.
        a, b = (lax.dynamic_slice_in_dim(index, start, batch) for index in (i, j))
        return start + batch, sine.at[a, b].set(_close_sines(x1[a], x2[b]))

    sine = jnp.sqrt((1 - cosine) * (1 + cosine))
    return lax.while_loop(lambda carry: carry[0] < close.sum(), refine, (jnp.array(0), sine))[1]


def _close_sines(a: Float[Array, "p d"], b: Float[Array, "p d"]) -> Float[Array, " p"]:
    """|b - t a| / |b| for the t that minimises it, row by row.

    t a is subtracted in pieces. Each piece of t has half the digits of a number, so that its products with the halves
    of a are exact, and so are the differences of close numbers that remain.
    """
    info = jnp.finfo(a.dtype)

    def half(value: Array) -> Array:
        return lax.reduce_precision(value, info.nexp, (info.nmant - 1) // 2)

    square = (a**2).sum(axis=1)
    upper = half(a)
    lower, rest = a - upper, b
    for _ in range(2):
        t = half((a * rest).sum(axis=1) / square)[:, None]
        rest = (rest - t * upper) - t * lower
    rest = rest - ((a * rest).sum(axis=1) / square)[:, None] * a
    size = jnp.abs(rest).max(axis=1)
    rest = rest / jnp.where(size > 0, size, 1)[:, None]
    return size * jnp.sqrt((rest**2).sum(axis=1) / (b**2).sum(axis=1))
