"""The equilibrium of the dual dynamics: the optimum of training, in dual variables and in responses."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gsjax.dual import newton, problem
from gsjax.dual.links import Form, Link, link
from gsjax.dual.smooth import smooth
from gsjax.features import Features, require_binary
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling

__all__ = ["Equilibrium", "equilibrium"]


class Equilibrium(NamedTuple):
    """A fixed point of Eq. 9, 10 or 18, with the solver's own account of it.

    `alpha (n,)`; `response (r,)`, the `z*` of Eq. 11, with the signs of the features' `u`; `residual`, the max-norm
    of the field over 1 + the max-norm of its linear term; Newton `iterations`; `converged`; `in_domain`, whether
    alpha stays within [0, 1] (the linearised form may leave it); `decoupled`, whether every alpha_i solves an
    equation of its own, as Eq. 18 says (spectral decoupling at full row rank); and the `margins (n,)`, `y yhat`, the
    sum `U z*` of the responses with their features.
    """

    alpha: Float[Array, " n"]
    response: Float[Array, " r"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    in_domain: Bool[Array, ""]
    decoupled: Bool[Array, ""]
    margins: Float[Array, " n"]


def equilibrium(
    feats: Features, penalty: Penalty, *, form: Form = "exact", tolerance: float | None = None
) -> Equilibrium:
    """The equilibrium of the dual dynamics of `feats` under `penalty`, by Newton's method with implicit derivatives.

    `form="exact"` solves Eq. 9 (Eq. 18 for `SpectralDecoupling`), `form="linearized"` Eq. 10 with the matrix `K /
    lambda + I` (Pezeshki et al., 2021; equal to the paper's where r = n). Works under `jit` and `vmap`. Solved for the
    weights of the whitened features (module `problem`), so that strengths over many orders of magnitude do no harm:
    the response to a feature is right relative to itself, however weak it is.

    `converged` says that `residual <= tolerance`, and that every response is known to `tolerance` relative to itself
    and every margin to `tolerance`, as the next Newton step tells. With `tolerance=None` the solver aims at
    `eps ** (2 / 3)`, and accepts responses and margins known to `eps ** (1 / 2)`, and a residual that is the rounding
    error of its linear term: with `s^2 / lambda` near `1 / eps` and data that the strong features do not separate, no
    floating-point alpha has a smaller one. A response that is zero to the rounding of `u` and alpha, `32 eps` times
    the sum of the magnitudes that make it up, counts as known: its leading digits need not be right.

    Derivatives are those of the solution, with respect to `feats.u`, `feats.s` and the penalty. Where the features
    come from a kernel or a feature matrix under differentiation, alpha and the margins are smooth functions of it,
    and under `Ridge` are differentiated as such, also where strengths coincide or vanish; the response to a single
    feature is not smooth where its strength is that of another, and its derivative there is NaN.

    Raises:
        ValueError: features that are not binary, an unknown `form` or `penalty`, per-example arrays of the wrong
            length, or a `tolerance` that is not positive.

    >>> from gsjax.features import from_spectrum
    >>> from gsjax.objectives import Ridge
    >>> solved = equilibrium(from_spectrum(jnp.eye(2), jnp.array([1.0, 2.0])), Ridge(1.0))
    >>> [f"{alpha:.4f}" for alpha in solved.alpha]
    ['0.4011', '0.2607']
    """
    rule = link(form)
    require_binary(feats)
    whitened = problem.whiten(feats, penalty)
    loss = _loss(rule)
    readout = whitened.readout if whitened.readout.ndim == 2 else None
    w, info = newton.minimise(loss, whitened.basis, whitened.centre, readout, tolerance=tolerance)
    margins, response = whitened.basis @ w, whitened.response(w)
    if isinstance(penalty, Ridge):
        margins, response = smooth(loss, feats.origin, feats.u, feats.s, penalty.strength, margins, response)
    alpha = rule.alpha(margins)
    decoupled = isinstance(penalty, SpectralDecoupling) & (jnp.asarray(feats.rank) == feats.u.shape[0])
    return Equilibrium(
        alpha, response, info.residual, info.iterations, info.converged, jnp.all(alpha <= 1), decoupled, margins
    )


@functools.cache
def _loss(rule: Link) -> newton.Loss:
    return newton.Loss(
        value=lambda m: jnp.sum(rule.loss(m)),
        dual=rule.alpha,
        gram=lambda m, basis: basis.T @ (rule.curvature(m)[:, None] * basis),
        bound=lambda m, a: rule.curvature(m) * a,
        absorbed=lambda m: rule.absorbed(rule.alpha(m)),
    )
