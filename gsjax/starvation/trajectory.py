"""Starvation over training time: forward sensitivities of the primal gradient flow."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gsjax import _check
from gsjax.dual import equilibrium, primal
from gsjax.features import Features, require_binary
from gsjax.objectives import Penalty
from gsjax.starvation.definition import orient

__all__ = ["Trajectory", "trajectory"]


class Trajectory(NamedTuple):
    """Responses and their sensitivities to the strengths during training.

    `response (T, r)` at `times (T,)` has the signs of the features' `u`. `sensitivity (T, r, r)` is d z_j(t) / d(s_i^2)
    at `[t, j, i]`, oriented or not. `converged` tells whether the integrator reached the last time within its
    tolerances; values at times that it did not reach are NaN.
    """

    times: Float[Array, " T"]
    response: Float[Array, "T r"]
    sensitivity: Float[Array, "T r r"]
    converged: Bool[Array, ""]


def trajectory(feats: Features, penalty: Penalty, *, times: Float[Array, " T"], oriented: bool = True) -> Trajectory:
    r"""The starvation matrix at `times (T,)` of training: `d z_j(t) / d(s_i^2)` by `linearized.flow` from theta = 0.

    Time is that of gradient flow with learning rate 1 on the objective of Eq. 5 or 17 of Pezeshki et al. (2021), a sum
    over the examples (module `objectives`). The singular vectors U and the labels Y are fixed while a strength changes.
    With margins `m = U z`, the flow is `dz/dt = S^2 U^T f - lambda z`. The force is `f = sigma(-m)` under ridge. Under
    spectral decoupling with strengths L and targets t it is `f = sigma(-m) - L (m - Y t)`, and lambda is 0. (Under
    ridge, L below is 0.) The derivative `W = dz / d(s^2)` obeys

    .. math::

        \frac{dW}{dt} = \text{diag}(U^\top f) - S^2 U^\top \text{diag}(\sigma(m) \sigma(-m) + L) U W - \lambda W,
        \qquad W(0) = 0.

    It is integrated by forward-mode differentiation of each step of Kvaerno's method, with step sizes chosen for the
    responses. As t grows, W tends to `starvation.matrix` if all strengths are positive: to the derivative of the
    optimum under ridge, and to zero under spectral decoupling.

    To leading order in small t, with `c = U^T f(0)` and `G = U^T diag(1/4 + L) U`,

    .. math::

        W_{jj} = t c_j, \qquad W_{ji} = -\frac{t^2 s_j^2 G_{ji} c_i}{2}.

    Under ridge, or if L is the same for all examples, G is diagonal at any rank. Starvation then starts only when the
    curvature of the loss changes: `W_ji = t^4 s_j^2 c_i (U^T diag(U S^2 c)^2 U)_ji / 64`. The cancelling lower orders
    leave rounding errors of order `eps t^2 s_j^2 c_i`, which hide the beginning of this growth in float32.

    `oriented=True` multiplies row j by the sign of `z_j` at the equilibrium, as in `starvation.matrix` (where `s_j` is
    positive). The sign is the same at all times, so no row flips where `z_j(t)` crosses zero. If the equilibrium did
    not converge, the sensitivities are then NaN and `converged` is false.

    Raises:
        ValueError: features that are not binary; `times` empty, negative, not increasing or too close for the dtype
            of the features; an unknown `penalty`, or per-example arrays of the wrong length.

    >>> from gsjax.features import planar
    >>> from gsjax.objectives import Ridge
    >>> path = trajectory(planar(0.5, jnp.array([9.0, 4.0])), Ridge(0.1), times=jnp.array([0.0, 1.0, 100.0]))
    >>> (path.sensitivity[:, 1, 0] < 0).tolist()
    [False, True, True]
    """
    oriented = _check.flag("oriented", oriented)
    require_binary(feats)
    dtype = feats.u.dtype
    times = _check.moments(times, dtype)

    def responses(s2: Array) -> tuple[Array, tuple[Array, Array]]:
        found = primal.integrate(feats.u, s2, feats.y, penalty, times, jnp.ones((), dtype), forward=True)
        return found[0], found

    slopes, (response, converged) = jax.jacfwd(responses, has_aux=True)(feats.s2)
    # Steps that were not taken have tangents too.
    reached = jnp.all(jnp.isfinite(response), axis=1)[:, None, None]
    slopes = jnp.where(reached, slopes, jnp.nan)
    converged &= jnp.all(jnp.isfinite(slopes))
    if oriented:
        end = equilibrium(feats, penalty)
        slopes = jnp.where(end.converged, jax.vmap(orient, (0, None))(slopes, end.response), jnp.nan)
        converged &= end.converged
    return Trajectory(times, response, slopes, converged)
