"""Trajectories of the dual dynamics."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float

from gsjax import _check
from gsjax.dual import problem
from gsjax.dual.links import Form, Link, link
from gsjax.features import Features, require_binary
from gsjax.objectives import Penalty, Ridge

__all__ = ["Trajectory", "integrate"]

# Steps for the flow, and additional steps per recorded time: after a step cut short there, steps grow at most tenfold.
_MAX_STEPS = 4096
_STEPS_PER_TIME = 8
_MAX_NEWTON_STEPS = 30

# The SDIRK method of order 4 of Hairer and Wanner (Solving ODEs II, Table IV.6.5). It is L-stable and stiffly accurate
# (the last stage is the result of the step), and has an embedded method of order 3.
_DIAGONAL = 1 / 4
_STAGES = (
    (),
    (1 / 2,),
    (17 / 50, -1 / 25),
    (371 / 1360, -137 / 2720, 15 / 544),
    (25 / 24, -49 / 48, 125 / 16, -85 / 12),
)
_EMBEDDED = (59 / 48, -17 / 96, 225 / 32, -85 / 12, 0.0)


class Trajectory(NamedTuple):
    """The trajectory of the dual variables.

    `alpha (T, n)` and `response (T, r)` (Eq. 11) are at `times (T,)`. `converged` tells whether the integrator reached
    the last time within its tolerances; values at times that it did not reach are NaN.
    """

    times: Float[Array, " T"]
    alpha: Float[Array, "T n"]
    response: Float[Array, "T r"]
    converged: Bool[Array, ""]


def integrate(
    feats: Features,
    penalty: Penalty,
    *,
    times: Float[Array, " T"],
    learning_rate: float | Float[Array, ""] = 1.0,
    initial: float | Float[Array, ""] | Float[Array, " n"] = 1e-8,
    form: Form = "exact",
) -> Trajectory:
    """The dual dynamics of Eq. 9, 10 or 18 from `alpha(0) = initial`, at increasing `times (T,)` >= 0.

    `form` selects Eq. 9 or 10, and `SpectralDecoupling` gives Eq. 18. This flow ascends the dual objective of Eq. 8. It
    has the same optimum as training but is not the trajectory of training; for that see `gsjax.linearized.flow`.

    The flow is stiff, with rates `1 / alpha` and `s^2 / lambda`. It is integrated by an implicit method of order 4. The
    stages are solved in logit coordinates, so that alpha never leaves (0, 1). The linearised form, whose fixed point
    may be outside (0, 1), uses log coordinates. The tolerance of local errors is `sqrt(eps)` times the sum of alpha and
    its mean. Under ridge this bounds the error of response j by the same fraction of `|alpha| s_j^2 / lambda`, even for
    weak features.

    The integrator steps to every one of the T `times`, so it takes at least T steps; 4,096 + 8 T are allowed. If they
    do not suffice, or if traced `times` do not increase, `converged` is false.

    Raises:
        ValueError: `times` empty, negative, not increasing, or too close for the dtype of the features; `initial` not
            in (0, 1); a `learning_rate` that is not positive; an unknown `form` or `penalty`.

    >>> from gsjax.features import from_spectrum
    >>> from gsjax.objectives import Ridge
    >>> path = integrate(from_spectrum(jnp.eye(2), jnp.ones(2)), Ridge(1.0), times=jnp.array([0.0, 100.0]))
    >>> [f"{alpha:.3f}" for alpha in path.alpha[-1]], bool(path.converged)
    (['0.401', '0.401'], True)
    """
    rule = link(form)
    require_binary(feats)
    dtype = feats.u.dtype
    n = feats.u.shape[0]
    times = _check.moments(times, dtype)
    _check.number("learning_rate", learning_rate, "(0, inf)")
    initial = _check.array("initial", initial).astype(dtype)
    _check.require(initial.shape in ((), (n,)), "initial", f"a scalar or shape ({n},)", f"shape {initial.shape}")
    _check.require(jnp.all((initial > 0) & (initial < 1)), "initial", "dual variables in (0, 1)", initial)

    whitened = problem.whiten(feats, penalty)
    kernel = whitened.basis @ whitened.basis.T
    flow = _Flow(whitened.basis, kernel, whitened.offset, jnp.asarray(learning_rate, dtype))
    start = jnp.broadcast_to(initial, (n,))
    rate = jnp.max(jnp.abs(problem.field(whitened, rule, start)) / start) * flow.learning_rate
    tolerance = float(jnp.finfo(dtype).eps) ** 0.5
    # Traced times cannot be checked. Diffrax would raise for times that do not increase, so they are replaced.
    ordered = jnp.all(jnp.isfinite(times)) & (times[0] >= 0) & jnp.all(jnp.diff(times) >= 0)
    moments = jnp.where(ordered, times, jnp.arange(len(times), dtype=dtype))
    controller = diffrax.PIDController(rtol=0.0, atol=tolerance, pcoeff=0.3, icoeff=0.4)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_Velocity(rule)),
        _LogitSDIRK(rule),
        t0=jnp.zeros((), dtype),
        t1=moments[-1],
        dt0=lax.stop_gradient(0.1 / rate),  # its derivative would propagate to every later step size
        y0=rule.coordinate(start),
        args=flow,
        saveat=diffrax.SaveAt(ts=moments),
        stepsize_controller=diffrax.ClipStepSizeController(controller, step_ts=moments),
        max_steps=_MAX_STEPS + _STEPS_PER_TIME * len(times),
        throw=False,
    )
    states = jnp.asarray(solution.ys)
    reached = jnp.all(jnp.isfinite(states), axis=1, keepdims=True) & ordered
    alpha = jnp.where(reached, rule.from_coordinate(states), jnp.nan)
    if isinstance(penalty, Ridge):
        # Eq. 11 for each feature. If computed from the margins, a weak response would be lost in rounding.
        response = feats.s**2 / jnp.asarray(penalty.strength, dtype) * (alpha @ feats.u)
    else:
        response = (alpha @ flow.kernel + flow.offset) @ feats.u
    return Trajectory(times, alpha, response, diffrax.is_successful(solution.result) & jnp.all(reached))


class _Flow(NamedTuple):
    """`d alpha / dt = learning_rate (margin(alpha) - kernel alpha - offset)` with `kernel = basis basis^T`."""

    basis: Float[Array, "n r"]
    kernel: Float[Array, "n n"]
    offset: Float[Array, " n"]
    learning_rate: Float[Array, ""]

    def field(self, rule: Link, v: Float[Array, " n"]) -> Float[Array, " n"]:
        # By the features, not by the kernel: rounding errors then lie along the features, where the stages absorb them.
        linear = self.basis @ (self.basis.T @ rule.from_coordinate(v))
        return self.learning_rate * (rule.margin(v) - linear - self.offset)


class _Velocity(NamedTuple):
    """`dv / dt`. It is not a closure, because that would be compiled again at every call."""

    rule: Link

    def __call__(self, t: Any, v: Float[Array, " n"], flow: _Flow) -> Float[Array, " n"]:
        return flow.field(self.rule, v) / self.rule.speed(v)


class _LogitSDIRK(diffrax.AbstractAdaptiveSolver):
    """A diagonally implicit Runge-Kutta method for alpha, with v as state and as unknown of the stages.

    A stage solves `alpha(v) - h gamma field(v) = c`. The left side increases with v and is unbounded, so there is a
    solution for every c, and alpha is accurate even at 1e-30. If the flow of v itself, with its rate `1 / alpha`, were
    discretised, the stages might have no solution.
    """

    rule: Link
    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        return 4

    def init(self, terms, t0, t1, y0, args) -> None:
        return None

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        h = t1 - t0
        alpha0 = self.rule.from_coordinate(y0)
        v, slopes, solved = y0, [], jnp.array(True)
        for row in _STAGES:
            known = alpha0 + sum((h * weight * slope for weight, slope in zip(row, slopes, strict=True)), 0 * alpha0)
            v, ok = _solve_stage(self.rule, args, _DIAGONAL * h, known, v)
            solved = solved & ok
            # The slope is not computed from the field, whose rounding errors a long step would amplify.
            slopes.append((self.rule.from_coordinate(v) - known) / (_DIAGONAL * h))
        alpha1 = self.rule.from_coordinate(v)
        embedded = alpha0 + sum(h * weight * slope for weight, slope in zip(_EMBEDDED, slopes, strict=True))
        error = (alpha1 - embedded) / (alpha1 + jnp.mean(alpha1))
        error = jnp.where(solved & jnp.isfinite(error), error, jnp.inf)
        return v, error, {"y0": y0, "y1": v}, None, diffrax.RESULTS.successful


def _solve_stage(rule: Link, flow: _Flow, h, known, guess):
    """Solves `alpha(v) - h field(v) = known` for v by Newton's method; also returns whether it converged."""
    eps = jnp.finfo(guess.dtype).eps

    def equation(v):
        return rule.from_coordinate(v) - h * flow.field(rule, v) - known

    def solve(_, v):
        def advance(state):
            v, _, iterations = state
            speed, pull = rule.speed(v), -jax.jvp(rule.margin, (v,), (jnp.ones_like(v),))[1]
            scaled = h * flow.learning_rate
            # In terms of alpha the Jacobian is symmetric and positive definite.
            jacobian = jnp.eye(v.shape[0], dtype=v.dtype) + scaled * flow.kernel + jnp.diag(scaled * pull / speed)
            change = -cho_solve(cho_factor(jacobian), equation(v)) / speed
            change = jnp.minimum(change, 3.0)
            return v + change, jnp.max(jnp.abs(change)), iterations + 1

        def unfinished(state):
            _, change, iterations = state
            return (change > eps**0.75) & (iterations < _MAX_NEWTON_STEPS)

        v, change, _ = lax.while_loop(unfinished, advance, (v, jnp.full((), jnp.inf, v.dtype), jnp.array(0)))
        return v, change

    def tangent_solve(linear, rhs):
        return jnp.linalg.solve(jax.vmap(linear)(jnp.eye(rhs.shape[0], dtype=rhs.dtype)).T, rhs)

    v, change = lax.custom_root(equation, lax.stop_gradient(guess), solve, tangent_solve, has_aux=True)
    return v, lax.stop_gradient(change) <= eps**0.5
