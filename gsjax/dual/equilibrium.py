"""The equilibrium of the dual dynamics: the optimum of training, in dual variables and in responses."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gsjax.dual import newton, problem
from gsjax.dual.links import Form, Link, link
from gsjax.features import Features
from gsjax.objectives import Penalty, SpectralDecoupling

__all__ = ["Equilibrium", "equilibrium"]


class Equilibrium(NamedTuple):
    """A fixed point of Eq. 9, 10 or 18, with the solver's own account of it.

    `alpha (n,)`; `response (r,)`, the `z*` of Eq. 11, with the signs of the features' `u`; `residual`, the max-norm
    of the field over 1 + the max-norm of its linear term; Newton `iterations`; `converged`; `in_domain`, whether
    alpha stays within [0, 1] (the linearised form may leave it); `decoupled`, whether every alpha_i solves an
    equation of its own, as Eq. 18 says (spectral decoupling at full row rank).
    """

    alpha: Float[Array, " n"]
    response: Float[Array, " r"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    in_domain: Bool[Array, ""]
    decoupled: Bool[Array, ""]


def equilibrium(
    feats: Features, penalty: Penalty, *, form: Form = "exact", tolerance: float | None = None
) -> Equilibrium:
    """The equilibrium of the dual dynamics of `feats` under `penalty`, by Newton's method with implicit derivatives.

    `form="exact"` solves Eq. 9 (Eq. 18 for `SpectralDecoupling`), `form="linearized"` Eq. 10 with the matrix `K /
    lambda + I` (Pezeshki et al., 2021; equal to the paper's where r = n). Works under `jit` and `vmap`;
    differentiable with respect to `feats.u`, `feats.s` and the penalty. Solved for `m = B w` in the whitened
    features of `problem`, so strengths over many orders of magnitude do no harm.

    `converged` says that `residual <= tolerance`. With `tolerance=None` the solver aims at `eps ** (2 / 3)`, and
    accepts the rounding error of the linear term where that is larger, up to `eps ** (1 / 3)`: with `s^2 / lambda`
    near `1 / eps` and data that the strong features do not separate, no floating-point alpha has a smaller
    residual.

    Raises:
        ValueError: an unknown `form` or `penalty`, per-example arrays of the wrong length, or a `tolerance` that is
            not positive.

    >>> from gsjax.features import from_spectrum
    >>> from gsjax.objectives import Ridge
    >>> solved = equilibrium(from_spectrum(jnp.eye(2), jnp.array([1.0, 2.0])), Ridge(1.0))
    >>> [f"{alpha:.4f}" for alpha in solved.alpha]
    ['0.4011', '0.2607']
    """
    rule = link(form)
    basis, offset = problem.whiten(feats, penalty)
    margins, info = newton.minimise(_loss(rule), basis, offset, tolerance=tolerance)
    alpha = rule.alpha(margins)
    decoupled = isinstance(penalty, SpectralDecoupling) & (jnp.asarray(feats.rank) == feats.u.shape[0])
    return Equilibrium(
        alpha, feats.u.T @ margins, info.residual, info.iterations, info.converged, jnp.all(alpha <= 1), decoupled
    )


@functools.cache
def _loss(rule: Link) -> newton.Loss:
    return newton.Loss(
        value=lambda m: jnp.sum(rule.loss(m)),
        dual=rule.alpha,
        gram=lambda m, basis: basis.T @ (rule.curvature(m)[:, None] * basis),
        absorbed=lambda m: rule.absorbed(rule.alpha(m)),
    )
