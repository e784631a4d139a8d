"""Derivatives of an equilibrium with respect to the kernel, without eigenvectors.

The margins at the optimum solve `m = K alpha(m) / lambda` with the kernel `K = Y Phi Phi^T Y` (Eqs. 9 and 11). They are
smooth functions of K for any eigenvalues. Differentiation through the eigenvectors gives a sum of terms
`1 / (s_i^2 - s_j^2)`. The sum cancels, which leaves rounding errors if strengths are close and NaN if they coincide.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gsjax import _check
from gsjax.dual.newton import Loss, definite_solve
from gsjax.features import Origin

__all__ = ["smooth"]

# Up to this s^2 / lambda a response is differentiated as s^2 u.alpha / lambda, above it as u.m. Each form is inaccurate
# in the other range.
_WEAK = 1e-3


def smooth(
    loss: Loss,
    origin: Origin | None,
    u: Float[Array, "n r"],
    s: Float[Array, " r"],
    strength: float | Float[Array, ""],
    margins: Float[Array, " n"],
    response: Float[Array, " r"],
) -> tuple[Float[Array, " n"], Float[Array, " r"]]:
    """`margins (n,)` and `response (r,)` of a ridge equilibrium, with derivatives with respect to the kernel.

    The values do not change. The derivatives do not change either if the features `u (n, r)`, `s (r,)` have no
    `origin`, or if the origin is not traced.
    """
    if origin is None or _check.is_concrete(origin.matrix):
        return margins, response
    found, u0, s0 = map(lax.stop_gradient, (margins, u, s))
    basis = u0 * (s0 / jnp.sqrt(lax.stop_gradient(jnp.asarray(strength, s.dtype))))

    def equation(m):
        return m - origin.product(loss.dual(m)) / strength

    def curve(v):
        return -jax.jvp(loss.dual, (found,), (v,))[1]

    def tangent_solve(linear, rhs):
        # By Woodbury's identity (I + B B^T W)^-1 = I - B (I + B^T W B)^-1 B^T W.
        inner = definite_solve(jnp.eye(len(s0), dtype=s0.dtype) + loss.gram(found, basis))

        def solve(_, b):
            return b - basis @ inner(basis.T @ curve(b))

        def solve_transposed(_, b):
            return b - curve(basis @ inner(basis.T @ b))

        return lax.custom_linear_solve(linear, rhs, solve, solve_transposed)

    margins = lax.custom_root(equation, found, lambda _, m: m, tangent_solve)
    strengths = s**2 / strength
    derived = jnp.where(strengths > _WEAK, u.T @ margins, strengths * (u.T @ loss.dual(margins)))
    return margins, lax.stop_gradient(response) + (derived - lax.stop_gradient(derived))
