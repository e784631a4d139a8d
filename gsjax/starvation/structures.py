"""Bases and spectra of features for the study of starvation in higher dimensions.

Column j of `u` has the weights of the examples in feature j, `Y Phi = U S V^T` (Pezeshki et al. 2021, Eq. 4). It
includes the labels, so a feature that agrees with all labels is proportional to the vector of ones. All bases are
square, orthogonal up to rounding, and of JAX's default float type. Where the order of strengths matters, the strongest
feature is in the first column. All functions work under `jit` and `vmap` over the key.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from gsjax import _check

__all__ = ["aligned", "blocks", "exceptions", "near_identity", "power_law", "random_orthogonal"]


def random_orthogonal(key: Key[Array, ""], n: int) -> Float[Array, "n n"]:
    """A random orthogonal matrix `(n, n)` without structure, from the Haar measure.

    Raises:
        ValueError: `n` is below 1.

    >>> random_orthogonal(jax.random.key(0), 8).shape
    (8, 8)
    """
    _size(n)
    return jax.random.orthogonal(key, n)


def near_identity(
    key: Key[Array, ""], n: int, size: float | Float[Array, ""], *, signs: Literal["random", "positive"] = "random"
) -> Float[Array, "n n"]:
    """A perturbed identity `exp(size A) (n, n)`: every feature has its own example, and others with weight `size`.

    A is antisymmetric with normal entries below the diagonal. With `signs="positive"` these are their absolute values,
    and every feature has positive loadings on the examples of all later, weaker features, like the stronger feature in
    Eq. 15 (Pezeshki et al. 2021). For n = 2 this is the rotation of Eq. 15 with `delta = sin(size |A_21|)`.

    Raises:
        ValueError: `n` is below 1, `size` is negative or not finite, or `signs` are unknown.

    >>> bool(near_identity(jax.random.key(0), 2, 0.1, signs="positive")[1, 0] > 0)
    True
    """
    _size(n)
    _check.number("size", size, "[0, inf)")
    _check.choice("signs", signs, ("random", "positive"))
    loadings = jnp.tril(jax.random.normal(key, (n, n)), -1)
    loadings = jnp.abs(loadings) if signs == "positive" else loadings
    return jax.scipy.linalg.expm(size * (loadings - loadings.T))


def aligned(key: Key[Array, ""], n: int, overlap: float | Float[Array, ""]) -> Float[Array, "n n"]:
    """A basis `(n, n)` whose first column has the inner product `overlap` with the labels, the vector `1 / sqrt(n)`.

    The rest of that column is random and uniform, and so are the other columns in its complement. An overlap of 1 is
    excluded: the other features would have no response, and starvation no sign.

    Raises:
        ValueError: `n` is below 2, or `overlap` is not in [0, 1).

    >>> round(float(aligned(jax.random.key(0), 4, 0.9)[:, 0].sum() / 2), 6)
    0.9
    """
    _size(n, least=2)
    _check.number("overlap", overlap, "[0, 1)")
    overlap = _check.as_float(overlap)
    key, rest = jax.random.split(key)
    ones = jnp.ones(n) / jnp.sqrt(n)
    v = jax.random.normal(key, (n,))
    v = v - ones * (ones @ v)
    return _completed(rest, overlap * ones + jnp.sqrt((1 - overlap) * (1 + overlap)) * v / jnp.linalg.norm(v))


def exceptions(key: Key[Array, ""], n: int, count: int | Int[Array, ""]) -> Float[Array, "n n"]:
    """A basis `(n, n)` whose first column is `-1 / sqrt(n)` on the first `count` examples and `1 / sqrt(n)` elsewhere.

    This models a spurious feature that agrees with the label except in a small group. Its overlap with the labels is
    `1 - 2 count / n`. The other columns are uniform in its complement.

    Raises:
        ValueError: `n` is below 2, or `count` is not from 1 to `n - 1`.

    >>> (2 * exceptions(jax.random.key(0), 4, 1)[:, 0]).round(6).tolist()
    [-1.0, 1.0, 1.0, 1.0]
    """
    _size(n, least=2)
    if _check.is_concrete(count):
        _check.whole("count", count, least=1, most=n - 1)
    return _completed(key, jnp.where(jnp.arange(n) < count, -1, 1) / jnp.sqrt(n))


def blocks(key: Key[Array, ""], n: int, block: int) -> Float[Array, "n n"]:
    """A block-diagonal basis `(n, n)` with Haar blocks: groups of `block` neighbouring features share `block` examples.

    Raises:
        ValueError: `n` is below 1, or `block` does not divide it.

    >>> float(jnp.abs(blocks(jax.random.key(0), 4, 2)[2:, :2]).max())
    0.0
    """
    _size(n)
    block = _check.whole("block", block, least=1)
    _check.require(n % block == 0, "block", f"a divisor of {n}", block)
    return jax.scipy.linalg.block_diag(*jax.random.orthogonal(key, block, (n // block,)))


def power_law(n: int, decay: float | Float[Array, ""]) -> Float[Array, " n"]:
    """Strengths `s_i^2 (n,)` proportional to `i ** -decay`, with mean one, like a kernel whose diagonal is one.

    Raises:
        ValueError: `n` is below 1, or `decay` is negative or not finite.

    >>> power_law(2, 1.0).round(4).tolist()
    [1.3333, 0.6667]
    """
    _size(n)
    _check.number("decay", decay, "[0, inf)")
    s2 = jnp.arange(1.0, n + 1) ** -jnp.asarray(decay, float)
    return s2 / jnp.mean(s2)


def _completed(key: Key[Array, ""], first: Float[Array, " n"]) -> Float[Array, "n n"]:
    """A random orthogonal matrix with this first column."""
    n = len(first)
    q, r = jnp.linalg.qr(jax.random.normal(key, (n, n)).at[:, 0].set(first))
    # QR does not fix the signs of its columns. A positive diagonal of R makes it Gram-Schmidt, hence uniform.
    return q * jnp.where(jnp.diagonal(r) < 0, -1, 1)


def _size(n: int, least: int = 1) -> None:
    _check.whole("n", n, least=least)
