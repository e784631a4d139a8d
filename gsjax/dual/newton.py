"""The convex problem that every equilibrium solves: `min over w of loss(B w) + |w - c|^2 / 2`.

Newton's method with a line search that is nearly exact, since a trial step costs a vector operation and a Newton
step a factorisation; started on the path of kernel ridge solutions. Its Hessian `I + B^T W B` is bounded below by
the identity, so no step needs damping; convergence is global because the problem is convex, and quadratic because
full steps are accepted near the solution. Derivatives come from the implicit function theorem.

The unknown is w, not the margins `m = B w`: a feature that is 1e8 times weaker than another has a w of its own, with
all its digits, while its part of the margins is below their rounding. What counts as solved is judged in the same way,
feature by feature, by the Newton step that would come next.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float, Int

from gsjax import _check

__all__ = ["Info", "Loss", "definite_solve", "minimise"]

_PATH_LENGTH = 16
_TRIALS = 40
_PATIENCE = 2  # full steps without progress after which only rounding errors are left
_FLOOR = 32  # a component of at most this many rounding errors of the inputs counts as zero


class Loss(NamedTuple):
    """A convex loss on `m (n,)`.

    Its `value`; the dual variables `dual(m) = -loss'(m) (n,)`; the curvature `gram(m, B) = B^T loss''(m) B (r, r)`;
    `bound(m, a) >= |loss''(m)| a (n,)` for `a >= 0`, entry by entry; and `absorbed(m) (n,)`, which the residual counts
    to the linear term, where the loss has taken over a part of it.
    """

    value: Callable[[Float[Array, " n"]], Float[Array, ""]]
    dual: Callable[[Float[Array, " n"]], Float[Array, " n"]]
    gram: Callable[[Float[Array, " n"], Float[Array, "n r"]], Float[Array, "r r"]]
    bound: Callable[[Float[Array, " n"], Float[Array, " n"]], Float[Array, " n"]]
    absorbed: Callable[[Float[Array, " n"]], Float[Array, " n"]] = jnp.zeros_like


class Info(NamedTuple):
    """How the solver ended.

    `residual`: max-norm of `m - B B^T dual(m) - B c` over 1 + max-norm of `B B^T dual(m) + B c + absorbed(m)`. `error`:
    an estimate of the largest relative error of a component of the readout, and of the largest error of a margin, by
    the next Newton step. `iterations`, and whether both are small enough, `converged`.
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

    Takes at least one Newton step, and stops when every component of `readout @ w` (of w, if None) is known to
    `tolerance` relative to itself and every margin to `tolerance`, and `Info.residual <= tolerance`; when rounding ends
    all progress; or after `max_iterations`. A component that is zero to the rounding of the inputs counts as known.

    With `tolerance=None` it aims at `eps ** (2 / 3)`, and accepts, as converged, components and margins known to
    `eps ** (1 / 2)`, and a residual that is the rounding of its linear term. Differentiable with respect to everything
    that `basis`, `centre` and `loss` depend on.

    Raises:
        ValueError: `tolerance` is not positive.
    """
    eps = float(jnp.finfo(basis.dtype).eps)
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")
        if tolerance < 8 * eps:
            warnings.warn(f"tolerance {tolerance} is below what {basis.dtype} holds ({8 * eps:.1e})", stacklevel=3)
    # One program for all problems of a shape, where `loss` is the same object.
    solve = jax.jit(_minimise, static_argnums=(0, 4))
    return solve(loss, basis, centre, readout, None if tolerance is None else float(tolerance), max_iterations)


def definite_solve(matrix: Float[Array, "r r"], *, jitter: float = 0.0) -> Callable[[Array], Array]:
    """`b -> matrix^-1 b` for a symmetric positive definite `matrix`, by Cholesky's method on its unit diagonal form.

    Scaled so, rows of very different size keep their digits. `jitter` is added to the unit diagonal: a little makes a
    solution out of what rounding has left indefinite. NaN where the factorisation fails.
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
        """The residual, what of it is rounding, and the error that the step `following` shows.

        `diagonal (r,)` is that of the Hessian: what rounding of the gradient does to a component at the least.
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
        beyond = jnp.maximum(jnp.abs(change) - floor, 0)
        relative = jnp.where(beyond > 0, beyond / jnp.abs(value), 0 * change)  # NaN stays NaN
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
        # The next step, up to the change of curvature.
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
        # As floats: custom_root gives every auxiliary output a tangent of its own dtype.
        numbers = (x.astype(w.dtype) for x in (state.iterations, state.known))
        return state.w, jnp.stack([state.residual, state.error, *numbers])

    def tangent_solve(linear, rhs):
        return definite_solve(jax.vmap(linear)(identity))(rhs)

    w, info = lax.custom_root(gradient, lax.stop_gradient(start()), solve, tangent_solve, has_aux=True)
    residual, error, iterations, converged = lax.stop_gradient(info)
    return w, Info(residual, error, iterations.astype(jnp.int32), converged > 0)


def _line_search(dual, margins, dm, w, p, eps):
    """The step t at which the slope along (dm, p) has fallen to a tenth, by doubling and bisection from t = 1."""

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

    # Newton's direction descends. A slope that is not negative is a rounding error; then the full step is taken.
    one = jnp.ones((), w.dtype)
    state = (one, 0 * one, jnp.inf * one, ~(initial < 0), jnp.array(0))
    return lax.while_loop(unfinished, search, state)[0]
