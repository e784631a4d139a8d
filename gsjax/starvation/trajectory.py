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
    """Responses and their starvation along the path of training.

    `times (T,)`, `response (T, r)`, `starvation (T, r, r)` with `[t, j, i] = d z_j(t) / d(s_i^2)`, and `converged`: the
    integrator reached the last time within its tolerances. Times that it missed hold NaN.
    """

    times: Float[Array, " T"]
    response: Float[Array, "T r"]
    starvation: Float[Array, "T r r"]
    converged: Bool[Array, ""]


def trajectory(feats: Features, penalty: Penalty, times: Float[Array, " T"], *, oriented: bool = True) -> Trajectory:
    """The starvation matrix at `times (T,)` of training: `d z_j(t) / d(s_i^2)` along `linearized.flow`, from theta = 0.

    U is held. With `m = U z`, `f_k = sigma(-m_k)` (less `L (m - Y t)_k` under spectral decoupling, where lambda = 0),
    the flow is `dz/dt = S^2 U^T f - lambda z`, and its sensitivities obey

        dW/dt = diag(U^T f) - S^2 U^T diag(sigma(m) sigma(-m) + L) U W - lambda W,  W(0) = 0,

    integrated by forward-mode differentiation of each step of the flow (Kvaerno's method; its error control is that of
    the responses). As t grows W tends to `starvation.matrix` under ridge, and to zero under spectral decoupling
    wherever all strengths are positive.

    Early on, with `c = U^T f(0)` and `G = U^T diag(1/4 + L) U`, `W_jj = t c_j` and `W_ji = -t^2 s_j^2 G_ji c_i / 2` to
    leading order. Under ridge, or where L is one number, G is diagonal, at any rank, and starvation waits for the
    fourth power, `W_ji = t^4 s_j^2 c_i (U^T diag(U S^2 c)^2 U)_ji / 64`.

    `oriented=True` multiplies row j by the sign of `z_j` at the equilibrium, one sign for all times and the one of
    `starvation.matrix` (where `s_j` is positive), so that no row flips where `z_j(t)` crosses zero. NaN then where the
    equilibrium did not converge, and `converged` is false.

    Raises:
        ValueError: features that are not binary, `times` empty, negative, not increasing or too close for the dtype
            of the features, an unknown `penalty`, or per-example arrays of the wrong length.

    >>> from gsjax.features import planar
    >>> from gsjax.objectives import Ridge
    >>> found = trajectory(planar(0.5, jnp.array([9.0, 4.0])), Ridge(0.1), jnp.array([0.0, 1.0, 100.0]))
    >>> (found.starvation[:, 1, 0] < 0).tolist()
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
