"""The integrator of the primal flow, which `linearized.flow` and `starvation.trajectory` share."""

from __future__ import annotations

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Bool, Float

from gsjax import _check
from gsjax.objectives import Penalty, Ridge, per_example

__all__ = ["integrate"]

# Steps for the flow, and additional steps per recorded time: after a step cut short there, steps grow at most tenfold.
_MAX_STEPS = 4096
_STEPS_PER_TIME = 8


def integrate(
    u: Float[Array, "n r"],
    s2: Float[Array, " r"],
    y: Float[Array, " n"],
    penalty: Penalty,
    times: Float[Array, " T"],
    learning_rate: Float[Array, ""],
    *,
    forward: bool = False,
) -> tuple[Float[Array, "T r"], Bool[Array, ""]]:
    """Responses `(T, r)` of `linearized.flow` at `times`, and whether they converged; `s2 (r,)` are the strengths.

    `forward=True` supports forward-mode derivatives (`jax.jvp`, `jax.jacfwd`) instead of reverse-mode derivatives.

    Raises:
        ValueError: an unknown `penalty`, or per-example arrays of the wrong length.
    """
    n, dtype = u.shape[0], u.dtype
    if isinstance(penalty, Ridge):
        _check.scalar("penalty.strength", penalty.strength)
        decay, pull, target = jnp.asarray(penalty.strength, dtype), jnp.zeros(n, dtype), jnp.zeros(n, dtype)
        scale = s2 / (decay + s2)
        gain = decay + s2
    else:
        pull, target = per_example(penalty, n, dtype)
        decay = jnp.zeros((), dtype)
        scale = (1 + jnp.max(pull * jnp.abs(target))) / (1 + jnp.max(pull)) * jnp.ones_like(s2)
        gain = s2 / scale

    # Traced times cannot be checked. Diffrax would raise for times that do not increase, so they are replaced.
    ordered = jnp.all(jnp.isfinite(times)) & (times[0] >= 0) & jnp.all(jnp.diff(times) >= 0)
    moments = jnp.where(ordered, times, jnp.arange(len(times), dtype=dtype))
    tolerance = float(jnp.finfo(dtype).eps) ** 0.5
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocity),
        diffrax.Kvaerno5(root_finder=optimistix.Newton(rtol=tolerance, atol=tolerance)),
        t0=jnp.zeros((), dtype),
        t1=moments[-1],
        dt0=None,
        y0=jnp.zeros(s2.shape, dtype),
        args=(u, y, scale, gain, decay, pull, target, learning_rate),
        saveat=diffrax.SaveAt(ts=moments),
        stepsize_controller=diffrax.ClipStepSizeController(controller, step_ts=moments),
        adjoint=diffrax.ForwardMode() if forward else diffrax.RecursiveCheckpointAdjoint(),
        max_steps=_MAX_STEPS + _STEPS_PER_TIME * len(times),
        throw=False,
    )
    states = jnp.asarray(solution.ys)
    reached = jnp.all(jnp.isfinite(states), axis=1, keepdims=True) & ordered
    response = jnp.where(reached, states, jnp.nan) * scale
    return response, diffrax.is_successful(solution.result) & jnp.all(reached)


def _velocity(_, scaled: Float[Array, " r"], args: Any) -> Float[Array, " r"]:
    """The velocity of the responses divided by `scale`; `gain` is `s^2 / scale`.

    It is not a closure, because that would be compiled again at every call.
    """
    u, y, scale, gain, decay, pull, target, rate = args
    margins = u @ (scale * scaled)
    force = jax.nn.sigmoid(-margins) - pull * (margins - y * target)
    return rate * (gain * (u.T @ force) - decay * scaled)
