"""Solver of the convex problem behind every equilibrium, `min over w of loss(B w) + |w - c|^2 / 2`.

It is Newton's method, started on the path of kernel ridge solutions. The line search is nearly exact, because a trial
step costs only a vector operation while a Newton step costs a factorisation. The Hessian `I + B^T W B` is bounded
below by the identity, so steps need no damping. Convergence is global because the problem is convex, and quadratic
because full steps are accepted near the solution. Derivatives come from the implicit function theorem.

The unknown is w, not the margins `m = B w`. The weight of a feature that is 1e8 times weaker than another is an
accurate entry of w, while its contribution to the margins is below their rounding. Convergence is also tested for each
feature, with the next Newton step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from gsjax import _check

__all__ = ["Info", "Loss", "definite_solve", "minimise"]

_PATH_LENGTH = 16
_TRIALS = 40
_PATIENCE = 2  # after this many full steps without progress, only rounding errors remain
_FLOOR = 32  # a component within this many rounding errors of the inputs counts as zero


class Loss(NamedTuple):
    """A convex loss on `m (n,)`: a pytree of `Partial`, so that losses that differ only in arrays share a program.

    It consists of its `value`; the dual variables `dual(m) = -loss'(m) (n,)`; the curvature
    `gram(m, B) = B^T loss''(m) B (r, r)`; an elementwise bound `bound(m, a) >= |loss''(m)| a (n,)` for `a >= 0`; and
    `absorbed(m) (n,)`, the part of the linear term that the loss includes, which the residual adds to the linear term.
    """

    value: Partial
    dual: Partial
    gram: Partial
    bound: Partial
    absorbed: Partial = Partial(jnp.zeros_like)


class Info(NamedTuple):
    """Diagnostics of the solver.

    - `residual`: the max-norm of `m - B B^T dual(m) - B c`, divided by 1 + the max-norm of
      `B B^T dual(m) + B c + absorbed(m)`.
    - `error`: the larger of two estimates from the next Newton step, the largest relative error of a component of the
      readout and the largest error of a margin.
    - `iterations`: the number of Newton iterations.
    - `converged`: whether residual and error are small enough.
    """

    residual: Float[Array, ""]
    error: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class _State(NamedTuple):
    w: Float[Array, " r"]
    residual: Float[Array, ""]
    error: Float[Array, ""]
    iterations: Int[Array, ""]
    idle: Int[Array, ""]
    known: Bool[Array, ""]
    ended: Bool[Array, ""]


def minimise(
    loss: Loss,
    basis: Float[Array, "n r"],
    centre: Float[Array, " r"],
    readout: Float[Array, "r r"] | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int = 100,
) -> tuple[Float[Array, " r"], Info]:
    """The w `(r,)` at the minimum of `loss(basis w) + |w - centre|^2 / 2`.

    The solver takes at least one Newton step. It stops when the relative error of every component of `readout @ w` (of
    w, if `readout` is None), the error of every margin, and `Info.residual` are at most `tolerance`; when rounding
    prevents further progress; or after `max_iterations`. A component that is zero up to rounding of the inputs counts
    as accurate.

    With `tolerance=None` the solver aims at `eps ** (2 / 3)`. It accepts as converged errors up to `eps ** (1 / 2)` in
    components and margins, and a residual at the rounding of its linear term. The result is differentiable with respect
    to everything that `basis`, `centre` and `loss` depend on.

    Raises:
        ValueError: `tolerance` is not positive.
    """
    eps = float(jnp.finfo(basis.dtype).eps)
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")
        if tolerance < 8 * eps:
            warnings.warn(
                f"tolerance {tolerance} is below the precision of {basis.dtype} ({8 * eps:.1e})", stacklevel=3
            )
    # One program for all problems of the same shape, if the functions of `loss` are the same objects.
    solve = jax.jit(_minimise, static_argnums=4)
    return solve(loss, basis, centre, readout, None if tolerance is None else float(tolerance), max_iterations)


def definite_solve(matrix: Float[Array, "r r"], *, jitter: float = 0.0) -> Callable[[Array], Array]:
    """The function `b -> matrix^-1 b` for a symmetric positive definite `matrix`, by a Cholesky factorisation.

    The matrix is first scaled to unit diagonal, which keeps rows of very different sizes accurate. `jitter` is added to
    the unit diagonal; a small value allows the solution of matrices that rounding has made indefinite. The result is
    NaN if the factorisation fails.
    """
    scale = 1 / jnp.sqrt(jnp.diagonal(matrix))
    unit = scale[:, None] * matrix * scale
    factor = cho_factor(unit + jitter * jnp.eye(len(scale), dtype=matrix.dtype))
    return lambda b: (scale * cho_solve(factor, (scale * b.T).T).T).T


def _minimise(
    loss: Loss, basis: Array, centre: Array, readout: Array | None, tolerance: float | None, max_iterations: Any
):
    r = centre.shape[0]
    eps = float(jnp.finfo(basis.dtype).eps)
    target = eps ** (2 / 3) if tolerance is None else tolerance
    accepted = eps**0.5 if tolerance is None else tolerance
    identity = jnp.eye(r, dtype=basis.dtype)

    def gradient(w):
        return w - centre - basis.T @ loss.dual(basis @ w)

    def assess(w, following, diagonal):
        """The residual, its rounding error, and the error estimated by the next step `following`.

        `diagonal (r,)` is that of the Hessian. It gives a lower bound on the effect of rounding in the gradient.
        """
        margins, size = basis @ w, jnp.abs(basis)
        alpha, spread = loss.dual(margins), size @ jnp.abs(w)
        linear = basis @ (basis.T @ alpha + centre)
        residual = jnp.max(jnp.abs(margins - linear)) / (1 + jnp.max(jnp.abs(linear + loss.absorbed(margins))))
        pulls = size.T @ jnp.abs(alpha) + jnp.abs(centre)
        rounding = 8 * eps * jnp.max(size @ pulls) / (1 + jnp.max(jnp.abs(margins)))

        floor = _FLOOR * eps * (pulls + size.T @ loss.bound(margins, spread)) / diagonal
        if readout is None:
            value, change = w, following
        else:
            value, change, floor = readout @ w, readout @ following, jnp.abs(readout) @ floor
        excess = jnp.maximum(jnp.abs(change) - floor, 0)
        relative = jnp.where(excess > 0, excess / jnp.abs(value), 0 * change)  # NaN stays NaN
        shift = jnp.maximum(jnp.abs(basis @ following) - _FLOOR * eps * spread, 0)
        return residual, rounding, jnp.maximum(jnp.max(relative), jnp.max(shift))

    def start():
        margins = basis @ centre
        pull = basis.T @ loss.dual(margins)
        norms2 = jnp.sum(basis**2, axis=0)
        top = jnp.max(norms2)
        low = jnp.maximum(jnp.min(jnp.where(norms2 > 0, norms2, top)), eps * top) + jnp.finfo(basis.dtype).tiny
        levels = low * jnp.maximum(top / low, 1) ** jnp.linspace(0, 1, _PATH_LENGTH, dtype=basis.dtype)
        path = pull / (norms2 + levels[:, None])
        steps = jax.vmap(lambda p, dm: _line_search(loss.dual, margins, dm, 0 * p, p, eps))(path, path @ basis.T)
        starts = steps[:, None] * path
        values = jax.vmap(lambda v: loss.value(margins + basis @ v) + v @ v / 2)(starts)
        return centre + starts[jnp.argmin(values)]

    def advance(state):
        w = state.w
        hessian = identity + loss.gram(basis @ w, basis)
        solve = definite_solve(hessian, jitter=r * eps)
        p = -solve(gradient(w))
        dm = basis @ p
        t = _line_search(loss.dual, basis @ w, dm, w - centre, p, eps)
        w = w + t * p
        # The next step, except for the change of curvature.
        residual, rounding, error = assess(w, -solve(gradient(w)), jnp.diagonal(hessian))
        local = (t == 1) & (jnp.max(jnp.abs(dm)) < 0.1)
        idle = jnp.where(local & ~(error < state.error / 2), state.idle + 1, 0)
        met = residual <= (target if tolerance is not None else jnp.maximum(target, rounding))
        ended = met & (error <= target) | (idle >= _PATIENCE)
        return _State(w, residual, error, state.iterations + 1, idle, met & (error <= accepted), ended)

    def unfinished(state):
        return ~state.ended & (state.iterations < max_iterations)

    def solve(_, w):
        infinite = jnp.full((), jnp.inf, w.dtype)
        state = _State(w, infinite, infinite, jnp.array(0), jnp.array(0), jnp.array(False), jnp.array(False))
        state = lax.while_loop(unfinished, advance, state)
        # Converted to floats, because custom_root gives every auxiliary output a tangent of its own dtype.
        numbers = (x.astype(w.dtype) for x in (state.iterations, state.known))
        return state.w, jnp.stack([state.residual, state.error, *numbers])

    def tangent_solve(linear, rhs):
        return definite_solve(jax.vmap(linear)(identity))(rhs)

    w, info = lax.custom_root(gradient, lax.stop_gradient(start()), solve, tangent_solve, has_aux=True)
    residual, error, iterations, converged = lax.stop_gradient(info)
    return w, Info(residual, error, iterations.astype(jnp.int32), converged > 0)


def _line_search(dual, margins, dm, w, p, eps):
    """A step t that reduces the slope along (dm, p) to a tenth, by doubling and bisection from t = 1."""

    def slope(t):
        alpha = dual(margins + t * dm)
        return (w + t * p) @ p - alpha @ dm, eps * (jnp.abs(alpha) @ jnp.abs(dm))

    initial, _ = slope(jnp.zeros((), w.dtype))

    def search(state):
        t, low, high, _, trials = state
        value, rounding = slope(t)
        done = jnp.abs(value) <= jnp.abs(initial) / 10 + rounding
        low, high = jnp.where(value > 0, low, t), jnp.where(value > 0, t, high)
        following = jnp.where(jnp.isinf(high), 2 * t, (low + high) / 2)
        return jnp.where(done, t, following), low, high, done, trials + 1

    def unfinished(state):
        _, _, _, done, trials = state
        return ~done & (trials < _TRIALS)

    # Newton's direction descends, so a slope that is not negative is a rounding error, and the full step is taken.
    one = jnp.ones((), w.dtype)
    state = (one, 0 * one, jnp.inf * one, ~(initial < 0), jnp.array(0))
    return lax.while_loop(unfinished, search, state)[0]
