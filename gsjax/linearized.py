"""The primal gradient flow of the linearised network, on the time axis of training."""

from __future__ import annotations

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Bool, Float

from gsjax import _check
from gsjax.features import Features
from gsjax.objectives import Penalty, Ridge, per_example

_MAX_STEPS = 4096


class Flow(NamedTuple):
    """The path of training in the linearised network.

    `times (T,)`, centred outputs `logits (T, n)`, `response (T, r)`, and `converged`: the integrator reached the
    last time within its tolerances. Where it did not, the times that it missed hold NaN.
    """

    times: Float[Array, " T"]
    logits: Float[Array, "T n"]
    response: Float[Array, "T r"]
    converged: Bool[Array, ""]


def flow(
    feats: Features,
    penalty: Penalty,
    *,
    times: Float[Array, " T"],
    learning_rate: float | Float[Array, ""] = 1.0,
) -> Flow:
    """Gradient flow `dtheta/dt = -learning_rate dL/dtheta` of Eq. 5 or 17 for `yhat = Phi_0 theta`, from theta = 0.

    With `phi = V^T theta (r,)` and `alpha = sigma(-m)`, `m = U S phi`, the flow stays among the features: ridge
    gives `dphi/dt = S U^T alpha - lambda phi`, spectral decoupling `dphi/dt = S U^T (alpha - L (m - Y t))`. L sums
    over the examples (module `objectives`), so k steps of gradient descent with step size h on that sum approximate
    time `k h`. Integrated by Kvaerno's implicit 5/4 method to `sqrt(eps)` in phi.

    Raises:
        ValueError: `times` empty, negative or not increasing; a `learning_rate` that is not positive; an unknown
            `penalty`, or per-example arrays of the wrong length.

    >>> from gsjax.features import from_spectrum
    >>> path = flow(from_spectrum(jnp.eye(2), jnp.array([1.0, 2.0])), Ridge(1.0), times=jnp.array([0.0, 99.0]))
    >>> [f"{z:.3f}" for z in path.response[-1]], bool(path.converged)
    (['0.401', '1.043'], True)
    """
    n, dtype = feats.u.shape[0], feats.u.dtype
    times = jnp.asarray(times, dtype)
    _check.times(times)
    _check.scalar("learning_rate", learning_rate)
    _check.positive("learning_rate", learning_rate)
    if isinstance(penalty, Ridge):
        _check.scalar("penalty.strength", penalty.strength)
        decay, pull, target = jnp.asarray(penalty.strength, dtype), jnp.zeros(n, dtype), jnp.zeros(n, dtype)
    else:
        pull, target = per_example(penalty, n, dtype)
        decay = jnp.zeros((), dtype)

    tolerance = float(jnp.finfo(dtype).eps) ** 0.5
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocity),
        diffrax.Kvaerno5(root_finder=optimistix.Newton(rtol=tolerance, atol=tolerance)),
        t0=jnp.zeros((), dtype),
        t1=times[-1],
        dt0=None,
        y0=jnp.zeros(feats.s.shape, dtype),
        args=(feats, decay, pull, target, jnp.asarray(learning_rate, dtype)),
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.ClipStepSizeController(controller, step_ts=times),
        max_steps=_MAX_STEPS,
        throw=False,
    )
    states = jnp.asarray(solution.ys)
    reached = jnp.all(jnp.isfinite(states), axis=1, keepdims=True)
    response = jnp.where(reached, states, jnp.nan) * feats.s
    converged = diffrax.is_successful(solution.result) & jnp.all(reached)
    return Flow(times, feats.y * (response @ feats.u.T), response, converged)


def _velocity(_, phi: Float[Array, " r"], args: Any) -> Float[Array, " r"]:
    """`dphi / dt`. Not a closure, which would be a new program for every call."""
    feats, decay, pull, target, rate = args
    margins = feats.u @ (feats.s * phi)
    force = jax.nn.sigmoid(-margins) - pull * (margins - feats.y * target)
    return rate * (feats.s * (feats.u.T @ force) - decay * phi)
