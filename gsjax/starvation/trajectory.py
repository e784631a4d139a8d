"""Starvation in the time of training: forward sensitivities of the primal gradient flow."""

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
    """Responses and their sensitivities to the strengths along the path of training.

    `times (T,)`, `response (T, r)` with the signs of the features' `u`, `sensitivity (T, r, r)` with `[t, j, i] =
    d z_j(t) / d(s_i^2)`, oriented or not, and `converged`: the integrator reached the last time within its tolerances.
    Where it did not, the times that it missed hold NaN.
    """

    times: Float[Array, " T"]
    response: Float[Array, "T r"]
    sensitivity: Float[Array, "T r r"]
    converged: Bool[Array, ""]


def trajectory(feats: Features, penalty: Penalty, *, times: Float[Array, " T"], oriented: bool = True) -> Trajectory:
    """The starvation matrix at `times (T,)` of training: `d z_j(t) / d(s_i^2)` along `linearized.flow`, from theta = 0.

    Time is that of gradient flow with learning rate 1 on the objective of Eq. 5 or 17 of Pezeshki et al. (2021), a sum
    over the examples (module `objectives`). The singular vectors U and the labels Y are held while a strength changes.
    With margins `m = U z` and the force on them, `f = sigma(-m)` under ridge and `f = sigma(-m) - L (m - Y t)` under
    spectral decoupling with strengths L and targets t (where lambda below is 0), the flow is `dz/dt = S^2 U^T f -
    lambda z`. Its derivative `W = dz / d(s^2)` obeys

        dW/dt = diag(U^T f) - S^2 U^T diag(sigma(m) sigma(-m) + L) U W - lambda W,  W(0) = 0,

    which forward-mode differentiation of each step of Kvaerno's method integrates; the steps are chosen for the
    responses. As t grows W tends to `starvation.matrix`: under ridge to the derivative of the optimum, under spectral
    decoupling to zero, wherever all strengths are positive.

    Early on, with `c = U^T f(0)` and `G = U^T diag(1/4 + L) U`, to leading order in t

        W_jj = t c_j,  W_ji = -t^2 s_j^2 G_ji c_i / 2.

    Under ridge, or where all of L is one number, G is diagonal, at any rank. Then starvation waits for the curvature of
    the loss to change, `W_ji = t^4 s_j^2 c_i (U^T diag(U S^2 c)^2 U)_ji / 64`. What cancels there leaves rounding
    errors of order `eps t^2 s_j^2 c_i`, in which float32 loses the first of it.

    `oriented=True` multiplies row j by the sign of `z_j` at the equilibrium, one sign for all times and the one of
    `starvation.matrix` (where `s_j` is positive), so that no row flips where `z_j(t)` crosses zero. NaN then where the
    equilibrium did not converge, and `converged` is false.

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
    # A step that was not taken has a tangent all the same.
    reached = jnp.all(jnp.isfinite(response), axis=1)[:, None, None]
    slopes = jnp.where(reached, slopes, jnp.nan)
    converged &= jnp.all(jnp.isfinite(slopes))
    if oriented:
        end = equilibrium(feats, penalty)
        slopes = jnp.where(end.converged, jax.vmap(orient, (0, None))(slopes, end.response), jnp.nan)
        converged &= end.converged
    return Trajectory(times, response, slopes, converged)
