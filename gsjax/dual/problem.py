"""The dual problem in whitened features, in one form for both penalties.

Both penalties are quadratic in the responses, so the dual of Eqs. 5 and 17 is, for margins `m = y yhat`,

    max over alpha of  1.H(alpha) - b.alpha - |B^T alpha|^2 / 2,    with optimal margins  m = B B^T alpha + b.

For ridge (Eq. 8), `B = U S / sqrt(lambda)` and `b = 0`. For spectral decoupling with strengths `L = diag(lambda_i)` and
targets t, `B B^T = U (U^T L U)^-1 U^T` and `b = B c` with `c = B^T L Y t`. At full row rank and a common strength
lambda, `B B^T` is `1 / lambda` times the identity (Eq. 18). The primal, in whitened coordinates `w = B^T alpha + c`, is

    min over w of  sum_i loss(m_i) + |w - c|^2 / 2,    m = B w.

The responses are `z = R w` with `R = U^T B`. For ridge `z_j = s_j w_j / sqrt(lambda)`, so even the response to a weak
feature is not computed as a difference of larger numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from gsjax import _check
from gsjax.dual.links import Link
from gsjax.features import Features
from gsjax.objectives import Penalty, Ridge, per_example

__all__ = ["Problem", "field", "objective", "whiten"]


class Problem(NamedTuple):
    """Whitened features: `basis (n, r)` is the `B` above, `offset (n,)` the `b`, and `centre (r,)` the `c`.

    `readout` is the `R` above: its diagonal `(r,)` for ridge, and the full `(r, r)` for spectral decoupling.
    """

    basis: Float[Array, "n r"]
    offset: Float[Array, " n"]
    centre: Float[Array, " r"]
    readout: Float[Array, " r"] | Float[Array, "r r"]

    def response(self, w: Float[Array, " r"]) -> Float[Array, " r"]:
        """Responses `z = R w (r,)`."""
        return self.readout * w if self.readout.ndim == 1 else self.readout @ w

    def linear_term(self, alpha: Float[Array, " n"]) -> Float[Array, " n"]:
        """`B B^T alpha + b (n,)`, which Eqs. 9, 10 and 18 subtract from the gradient of the entropy."""
        return self.basis @ (self.basis.T @ alpha) + self.offset


def whiten(feats: Features, penalty: Penalty) -> Problem:
    """The dual problem of `feats` under `penalty`.

    Raises:
        ValueError: `penalty` is not known, a ridge strength is not a scalar, or per-example strengths or targets are
            not `(n,)`.

    >>> from gsjax.features import from_spectrum
    >>> from gsjax.objectives import Ridge
    >>> whiten(from_spectrum(jnp.eye(2), jnp.array([1.0, 3.0])), Ridge(1.0)).basis.tolist()
    [[1.0, 0.0], [0.0, 3.0]]
    """
    u, s = feats.u, feats.s
    n, dtype = u.shape[0], u.dtype
    if isinstance(penalty, Ridge):
        _check.scalar("penalty.strength", penalty.strength)
        scale = s / jnp.sqrt(jnp.asarray(penalty.strength, dtype))
        return Problem(u * scale, jnp.zeros(n, dtype), jnp.zeros_like(s), scale)
    strength, target = per_example(penalty, n, dtype)
    # No theta changes the response of a feature of strength zero, so it is left out.
    reached = s > 0
    root = jnp.sqrt(strength)
    q = root[:, None] * jnp.where(reached, u, 0)
    if u.shape == (n, n):
        # At full row rank any orthogonal q is valid; the identity gives each example its own equation.
        q = jnp.where(jnp.all(reached), jnp.eye(n, dtype=dtype), q)
    # Orthonormal columns by Cholesky, repeated because one pass squares the condition number.
    for _ in range(2):
        factor = jnp.linalg.cholesky(q.T @ q + jnp.diag(jnp.where(reached, 0, 1).astype(dtype)))
        q = solve_triangular(factor, q.T, lower=True).T
    basis = q / root[:, None]
    centre = q.T @ (root * feats.y * target)
    return Problem(basis, basis @ centre, centre, jnp.where(reached[:, None], u.T @ basis, 0))


def field(problem: Problem, link: Link, alpha: Float[Array, " n"]) -> Float[Array, " n"]:
    """The gradient of the dual at `alpha (n,)`: the right-hand side of Eq. 9, 10 or 18 for a learning rate of one.

    >>> from gsjax.dual.links import link
    >>> from gsjax.features import from_spectrum
    >>> from gsjax.objectives import Ridge
    >>> field(whiten(from_spectrum(jnp.eye(1), jnp.ones(1)), Ridge(1.0)), link("exact"), jnp.array([0.5])).tolist()
    [-0.5]
    """
    return link.margin(link.coordinate(alpha)) - problem.linear_term(alpha)


def objective(problem: Problem, alpha: Float[Array, " n"]) -> Float[Array, ""]:
    """The dual objective of Eq. 8 (or its analogue for spectral decoupling) at `alpha (n,)` in (0, 1), in nats.

    Its maximum is at the equilibrium and equals the minimum of the primal, up to the constant
    `sum_i lambda_i t_i^2 / 2 - |c|^2 / 2` from the targets of a spectral decoupling penalty.
    """
    entropy = -jnp.sum(alpha * jnp.log(alpha) + (1 - alpha) * jnp.log1p(-alpha))
    return entropy - problem.offset @ alpha - jnp.sum((problem.basis.T @ alpha) ** 2) / 2
