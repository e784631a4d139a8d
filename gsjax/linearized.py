"""The primal gradient flow of the linearised network, on the time axis of training, and its dual flow."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from gsjax import _check
from gsjax.dual import equilibrium, integrate, primal
from gsjax.features import Features, planar, require_binary
from gsjax.objectives import Penalty

__all__ = ["Courses", "Flow", "Trajectories", "courses", "flow", "trajectories"]


class Flow(NamedTuple):
    """The trajectory of training in the linearised network.

    The centred outputs `logits (T, n)` and `response (T, r)` are at `times (T,)`. `converged` tells whether the
    integrator reached the last time within its tolerances; values at times that it did not reach are NaN.
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

    With `phi = V^T theta (r,)`, `m = U S phi` and `alpha = sigma(-m)`, the flow depends only on the features. Ridge
    gives `dphi/dt = S U^T alpha - lambda phi`. Spectral decoupling with strengths L and targets t gives
    `dphi/dt = S U^T (alpha - L (m - Y t))`. The objective is a sum over the examples (module `objectives`), so k steps
    of gradient descent with step size h on that sum approximate time `k h`.

    The flow is integrated by Kvaerno's implicit 5/4 method, in the responses `z = S phi`. The tolerance of local errors
    is `sqrt(eps)` times the sum of |z_j| and its possible size, which is `s_j^2 / (lambda + s_j^2)` under ridge and
    `(1 + max L |t|) / (1 + max L)` under spectral decoupling. Weak features and strong penalties therefore stay
    accurate. If rounding exceeds this tolerance, as in float32 under spectral decoupling of strength 1e6, the steps run
    out and `converged` is false.

    The integrator steps to every one of the T `times`, so it takes at least T steps; 4,096 + 8 T are allowed. If they
    do not suffice, or if traced `times` do not increase, `converged` is false.

    Raises:
        ValueError: `times` empty, negative, not increasing, or too close for the dtype of the features; a
            `learning_rate` that is not positive; an unknown `penalty`, or per-example arrays of the wrong length.

    >>> from gsjax.features import from_spectrum
    >>> from gsjax.objectives import Ridge
    >>> path = flow(from_spectrum(jnp.eye(2), jnp.array([1.0, 2.0])), Ridge(1.0), times=jnp.array([0.0, 99.0]))
    >>> [f"{z:.3f}" for z in path.response[-1]], bool(path.converged)
    (['0.401', '1.043'], True)
    """
    require_binary(feats)
    dtype = feats.u.dtype
    times = _check.moments(times, dtype)
    _check.number("learning_rate", learning_rate, "(0, inf)")
    response, converged = primal.integrate(
        feats.u, feats.s2, feats.y, penalty, times, jnp.asarray(learning_rate, dtype)
    )
    return Flow(times, feats.y * (response @ feats.u.T), response, converged)


class Trajectories(NamedTuple):
    """Responses of two coupled features (Eq. 15) over time, on a grid with `s_2^2 = 1`.

    The axes are `ratio (R,)` = s_1^2 / s_2^2, `delta (D,)` and `times (T,)`. `primal (R, D, T, 2)` is the trajectory of
    training, `dual (R, D, T, 2)` the ascent of the dual from `alpha = 1e-8`, and `equilibrium (R, D, 2)` the common
    optimum. `converged (R, D)` tells whether all three converged. Responses have the signs of Eq. 15.
    """

    ratio: Float[Array, " R"]
    delta: Float[Array, " D"]
    times: Float[Array, " T"]
    primal: Float[Array, "R D T 2"]
    dual: Float[Array, "R D T 2"]
    equilibrium: Float[Array, "R D 2"]
    converged: Bool[Array, "R D"]


def trajectories(
    ratio: Float[Array, " R"], delta: Float[Array, " D"], penalty: Penalty, *, times: Float[Array, " T"]
) -> Trajectories:
    """The primal `flow` and `dual.integrate` for two features, on the grid `ratio (R,)` x `delta (D,)`.

    Features are those of `starvation.phase_diagram`, and learning rates are one. Only the primal flow is on the time
    axis of training. The dual flow has the same optimum but its own time axis.

    Raises:
        ValueError: an axis that is not one-dimensional and finite, `ratio <= 0`, `|delta| >= 1`, and the errors of
            `flow`.

    >>> from gsjax.objectives import Ridge
    >>> found = trajectories([1.0, 4.0], [0.5], Ridge(0.1), times=jnp.array([0.0, 1e3]))
    >>> (abs(found.primal[:, :, 1] - found.equilibrium) < 1e-2).all().item()
    True
    """
    given, (ratio, delta, times) = (
        times,
        (_check.single(name, axis) for name, axis in (("ratio", ratio), ("delta", delta), ("times", times))),
    )
    for name, axis in (("ratio", ratio), ("delta", delta)):
        _check.shape(name, axis, ndim=1)
        _check.finite(name, axis)
    _check.positive("ratio", ratio)
    _check.require(jnp.all(jnp.abs(delta) < 1), "delta", "numbers in (-1, 1)", delta)
    dtype = jnp.result_type(ratio, delta, times)
    ratio, delta, times = ratio.astype(dtype), delta.astype(dtype), _check.moments(given, dtype)
    found = jax.jit(_trajectories)(ratio, delta, penalty, times)
    return Trajectories(ratio, delta, times, *found)


def _trajectories(ratio: Array, delta: Array, penalty: Penalty, times: Array) -> tuple[Array, Array, Array, Array]:
    def one(point: tuple[Array, Array]) -> tuple[Array, Array, Array, Array]:
        ratio, delta = point
        feats = planar(delta, jnp.stack([ratio, jnp.ones_like(ratio)]))
        primal, ascent = flow(feats, penalty, times=times), integrate(feats, penalty, times=times)
        end = equilibrium(feats, penalty)
        return primal.response, ascent.response, end.response, primal.converged & ascent.converged & end.converged

    grid = tuple(axis.ravel() for axis in jnp.meshgrid(ratio, delta, indexing="ij"))
    shape = (len(ratio), len(delta))
    primal, ascent, end, converged = (value.reshape(shape + value.shape[1:]) for value in lax.map(one, grid))
    return primal, ascent, end, converged


Courses, courses = Trajectories, trajectories  # former names
