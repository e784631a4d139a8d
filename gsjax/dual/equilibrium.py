"""The equilibrium of the dual dynamics: the optimum of training, in dual variables and in responses."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from gsjax.dual import newton, problem
from gsjax.dual.links import Form, Link, link
from gsjax.dual.smooth import smooth
from gsjax.features import Features, require_binary
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling

__all__ = ["Equilibrium", "equilibrium"]


class Equilibrium(NamedTuple):
    """A fixed point of Eq. 9, 10 or 18, with diagnostics of the solver.

    - `alpha (n,)`: the dual variables.
    - `response (r,)`: the responses `z*` of Eq. 11, with the signs of the features' `u`.
    - `residual`: the max-norm of the field, divided by 1 + the max-norm of its linear term.
    - `iterations`: the number of Newton iterations.
    - `converged`: defined in `equilibrium`.
    - `in_domain`: whether alpha is within [0, 1], which the linearised form may leave.
    - `decoupled`: whether every alpha_i solves its own equation, as in Eq. 18 (spectral decoupling at full row rank).
    - `margins (n,)`: `y yhat = U z*`.
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

    `form="exact"` solves Eq. 9 (Eq. 18 for `SpectralDecoupling`). `form="linearized"` solves Eq. 10 with the matrix
    `K / lambda + I` (Pezeshki et al., 2021), which equals the paper's matrix if r = n. The function works under `jit`
    and `vmap`. The unknowns are the weights of the whitened features (module `problem`). Each response is therefore
    accurate relative to its own size, even if strengths differ by many orders of magnitude.

    `converged` means that `residual <= tolerance`, that the relative error of every response is at most `tolerance`,
    and that the error of every margin is at most `tolerance`. The errors are estimated by the next Newton step. With
    `tolerance=None` the solver aims at `eps ** (2 / 3)`. It accepts errors up to `eps ** (1 / 2)` in responses and
    margins, and a residual at the rounding error of its linear term. (If `s^2 / lambda` is near `1 / eps` and the
    strong features do not separate the data, no floating-point alpha has a smaller residual.) A response below the
    rounding of `u` and alpha, `32 eps` times the sum of the magnitudes of its terms, counts as accurate, even if its
    leading digits are wrong.

    Derivatives are those of the solution with respect to `feats.u`, `feats.s` and the penalty. If the features come
    from a kernel or feature matrix that is differentiated, alpha and the margins are smooth functions of it. Under
    `Ridge` their derivatives are exact even where strengths coincide or vanish. The response to a single feature is not
    smooth where its strength equals that of another, and its derivative there is NaN.

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
        value=Partial(lambda m: jnp.sum(rule.loss(m))),
        dual=Partial(rule.alpha),
        gram=Partial(lambda m, basis: basis.T @ (rule.curvature(m)[:, None] * basis)),
        bound=Partial(lambda m, a: rule.curvature(m) * a),
        absorbed=Partial(lambda m: rule.absorbed(rule.alpha(m))),
    )
