"""Singular vectors and values whose derivatives are either right or NaN.

A single eigenvector is differentiable if its eigenvalue is distinct from all others. At equal eigenvalues (a tie),
functions that do not depend on the choice of a basis among the tied eigenvectors are still differentiable, e.g. the sum
of their eigenvalues or the projection on their span. Textbook rules divide by the difference of eigenvalues in both
cases.

Here the rule is `du = U Z` with `Z_ij = M_ij / (s_j^2 - s_i^2)` and `M = U^T dK U`. At a tie, zero replaces the
quotient, which amounts to a choice of the basis. A function that depends on this choice must not get a number:

- In reverse mode, all uses of u and s have reached the rule as cotangents, X of Z and sigma of s. A function is
  invariant under rotations among tied features only if X is symmetric there and the entries of sigma are equal;
  otherwise the derivative is NaN. Where the basis has zeros, X can be symmetric by chance, as for the entry u[0, 1]
  with u[0, 2] = 0. So the derivative is NaN as well if only some of the tied vectors are used. This refuses an
  invariant function whose cotangent of a tied vector is exactly zero.
- In forward mode, where the use is not known, the tangents of tied features are NaN.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

__all__ = ["eigh", "svd"]


@jax.custom_jvp
def eigh(kernel: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues of a symmetric matrix, largest first, and eigenvectors; for derivatives see the module."""
    values, vectors = jnp.linalg.eigh(kernel)
    return values[::-1], vectors[:, ::-1]


@eigh.defjvp
def _eigh_jvp(primals, tangents):
    values, u = eigh(*primals)
    (change,) = tangents
    moved = u.T @ ((change + change.T) / 2) @ u
    rounding = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    gaps = values[:, None] - values
    close = jnp.abs(gaps) <= _close(values) * jnp.max(jnp.abs(values))
    turn, shift = _turn(gaps, close, values > rounding, moved, jnp.diagonal(moved))
    return (values, u), (shift, u @ turn)


@jax.custom_jvp
def svd(a: Float[Array, "n m"]) -> tuple[Float[Array, "n k"], Float[Array, " k"], Float[Array, "k m"]]:
    """The thin singular value decomposition, largest first; for derivatives see the module."""
    u, s, vt = jnp.linalg.svd(a, full_matrices=False)
    return u, s, vt


@svd.defjvp
def _svd_jvp(primals, tangents):
    (a,), (change,) = primals, tangents
    u, s, vt = svd(a)
    rounding = max(a.shape) * jnp.finfo(s.dtype).eps * s[0]
    known = s > rounding
    inverse = jnp.where(known, 1 / jnp.where(known, s, 1), 0)
    projected = change @ vt.T  # dA V
    moved = u.T @ projected
    moved_squares = moved * s + (moved * s).T  # U^T d(A A^T) U
    gaps = s[:, None] - s
    close = jnp.abs(gaps) <= _close(s) * s[0]
    turn, shift = _turn(gaps * (s[:, None] + s), close, known, moved_squares, jnp.diagonal(moved))
    du = u @ turn + (projected - u @ moved) * inverse
    dvt = inverse[:, None] * (du.T @ a + u.T @ change - shift[:, None] * vt)  # of vt = U^T A / s
    return (u, s, vt), (du, shift, dvt)


def _close(values: Float[Array, " k"]) -> float:
    """The relative gap up to which values count as tied; dividing by a smaller gap would be wrong by 0.1% or more."""
    return max(len(values), 1000) * float(jnp.finfo(values.dtype).eps)


def _turn(
    gaps: Float[Array, "k k"],
    close: Bool[Array, "k k"],
    known: Bool[Array, " k"],
    moved: Float[Array, "k k"],
    shift: Float[Array, " k"],
) -> tuple[Float[Array, "k k"], Float[Array, " k"]]:
    """The matrix `Z (k, k)` of the rule in the module docstring, and the derivatives of the values.

    `gaps (k, k)` has `s_i^2 - s_j^2` at `[i, j]`, `close` marks ties, `moved` is M, and `shift (k,)` holds the
    derivatives of the values. Values that cannot be told from zero (not `known`) are not features: their vectors only
    complete the basis, and rotations among them count as zero.
    """
    distinct = ~close & (known[:, None] | known)
    tied = close & known[:, None] & known & ~jnp.eye(len(known), dtype=bool)
    turn = jnp.where(distinct, moved / jnp.where(distinct, -gaps, 1), 0)
    poison, poison_shift = _poison((moved, shift), tied)
    return turn + poison, shift + poison_shift


def _poison(
    change: tuple[Float[Array, "k k"], Float[Array, " k"]], tied: Bool[Array, "k k"]
) -> tuple[Float[Array, "k k"], Float[Array, " k"]]:
    """Zeros, as a linear function of M and `shift`; NaN, in both modes, in the cases of the module docstring."""

    def forward(_, change):
        changes = jnp.any(change[0] != 0) | jnp.any(change[1] != 0)
        return jnp.where(tied & changes, jnp.nan, 0), jnp.where(tied.any(axis=1) & changes, jnp.nan, 0)

    def reverse(_, cotangents):
        x, sigma = cotangents
        eps = 100 * len(sigma) * jnp.finfo(sigma.dtype).eps
        rounding = eps * jnp.max(jnp.abs(x))
        unused = (sigma == 0)[:, None] & (sigma == 0)
        projects = (jnp.abs(jnp.diagonal(x)) > rounding)[:, None] | (jnp.abs(jnp.diagonal(x)) > rounding)
        turned = jnp.abs(x - x.T) > rounding
        uneven = jnp.abs(sigma[:, None] - sigma) > eps * jnp.max(jnp.abs(sigma))
        # A projection on tied features does not use s, gives a symmetric x, and does not depend on the kernel's entries
        # among them. The kernel recomputed from u and s gives a symmetric x as well, but depends on these entries.
        unclear = (jnp.abs(x + x.T) > rounding) & ~(unused & projects)
        used = jnp.any(x != 0, axis=0)
        bad = tied & (turned | uneven | unclear | (used[:, None] != used))
        return jnp.where(bad, jnp.nan, 0), jnp.zeros_like(sigma)

    # The only public operation with a custom transpose that also works under vmap, jvp and jit.
    return lax.custom_linear_solve(lambda x: x, change, forward, reverse)
