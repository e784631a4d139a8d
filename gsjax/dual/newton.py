"""The convex problem that every equilibrium solves: `min over w of loss(B w + b) + |w|^2 / 2`.

Newton's method with a line search that is nearly exact, since a trial step costs a vector operation and a Newton
step a factorisation; started on the path of kernel ridge solutions. Its Hessian `I + B^T W B` is bounded below by
the identity, so no step needs damping; convergence is global because the problem is convex, and quadratic because
full steps are accepted near the solution. Derivatives come from the implicit function theorem.
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

__all__ = ["Info", "Loss", "minimise"]

_PATH_LENGTH = 16
_TRIALS = 40


class Loss(NamedTuple):
    """A convex loss on `m (n,)`.

    Its `value`; the dual variables `dual(m) = -loss'(m) (n,)`; the curvature `gram(m, B) = B^T loss''(m) B (r, r)`; and
    `absorbed(m) (n,)`, which the residual counts to the linear term, where the loss has taken over a part of it.
    """

    value: Callable[[Float[Array, " n"]], Float[Array, ""]]
    dual: Callable[[Float[Array, " n"]], Float[Array, " n"]]
    gram: Callable[[Float[Array, " n"], Float[Array, "n r"]], Float[Array, "r r"]]
    absorbed: Callable[[Float[Array, " n"]], Float[Array, " n"]] = jnp.zeros_like


class Info(NamedTuple):
    """`residual`: max-norm of `m - B B^T dual(m) - b` over 1 + max-norm of `B B^T dual(m) + b + absorbed(m)`."""

    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class _State(NamedTuple):
    w: Float[Array, " r"]
    margins: Float[Array, " n"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    stalled: Bool[Array, ""]


def minimise(
    loss: Loss,
    basis: Float[Array, "n r"],
    offset: Float[Array, " n"],
    *,
    tolerance: float | None = None,
    max_iterations: int = 100,
) -> tuple[Float[Array, " n"], Info]:
    """The margins `m (n,)` at the minimum over w of `loss(m) + |w|^2 / 2`, `m = basis w + offset`.

    Iterates until `Info.residual <= tolerance`, until a step is below rounding, or `max_iterations`. With
    `tolerance=None` it aims at `eps ** (2 / 3)` and accepts, as converged, the rounding of the linear term where
    that is larger, up to `eps ** (1 / 3)`. Differentiable with respect to everything that `basis`, `offset` and
    `loss` depend on.

    Raises:
        ValueError: `tolerance` is not positive.
    """
    eps = float(jnp.finfo(basis.dtype).eps)
    if tolerance is not None:
        _check.positive("tolerance", tolerance)
        if tolerance < 8 * eps:
            warnings.warn(f"tolerance {tolerance} is below what {basis.dtype} holds ({8 * eps:.1e})", stacklevel=3)
    # One program for all problems of a shape, where `loss` is the same object.
    solve = jax.jit(_minimise, static_argnums=(0, 3))
    return solve(loss, basis, offset, None if tolerance is None else float(tolerance), max_iterations)


def _minimise(loss: Loss, basis: Array, offset: Array, tolerance: float | None, max_iterations: Any):
    eps = float(jnp.finfo(basis.dtype).eps)
    target = eps ** (2 / 3) if tolerance is None else tolerance

    def gradient(w):
        return w - basis.T @ loss.dual(basis @ w + offset)

    def residual(margins):
        linear = basis @ (basis.T @ loss.dual(margins)) + offset
        return jnp.max(jnp.abs(margins - linear)) / (1 + jnp.max(jnp.abs(linear + loss.absorbed(margins))))

    def accepted(margins):
        if tolerance is not None:
            return jnp.asarray(tolerance, basis.dtype)
        size = jnp.abs(basis) @ (jnp.abs(basis).T @ jnp.abs(loss.dual(margins)))
        return jnp.clip(8 * eps * jnp.max(size) / (1 + jnp.max(jnp.abs(margins))), target, eps ** (1 / 3))

    def search(margins, dm, w, p):
        return _line_search(loss.dual, margins, dm, w, p, eps)

    def start():
        norms2 = jnp.sum(basis**2, axis=0)
        top = jnp.max(norms2)
        low = jnp.maximum(jnp.min(jnp.where(norms2 > 0, norms2, top)), eps * top) + jnp.finfo(basis.dtype).tiny
        levels = low * jnp.maximum(top / low, 1) ** jnp.linspace(0, 1, _PATH_LENGTH, dtype=basis.dtype)
        path = (basis.T @ loss.dual(offset)) / (norms2 + levels[:, None])
        steps = jax.vmap(lambda p, dm: search(offset, dm, jnp.zeros_like(p), p))(path, path @ basis.T)
        starts = steps[:, None] * path
        values = jax.vmap(lambda w: loss.value(basis @ w + offset) + w @ w / 2)(starts)
        return starts[jnp.argmin(values)]

    def advance(state):
        w, margins = state.w, state.margins
        hessian = jnp.eye(w.shape[0], dtype=w.dtype) + loss.gram(margins, basis)
        p = -cho_solve(cho_factor(hessian), gradient(w))
        dm = basis @ p
        w = w + search(margins, dm, w, p) * p
        stalled = ~(jnp.max(jnp.abs(dm)) > 4 * eps * (1 + jnp.max(jnp.abs(margins))))
        margins = basis @ w + offset
        return _State(w, margins, residual(margins), state.iterations + 1, stalled)

    def unfinished(state):
        return ~(state.residual <= target) & ~state.stalled & (state.iterations < max_iterations)

    def solve(_, w):
        margins = basis @ w + offset
        state = _State(w, margins, residual(margins), jnp.array(0), jnp.array(False))
        state = lax.while_loop(unfinished, advance, state)
        converged = state.residual <= accepted(state.margins)
        # As floats: custom_root gives every auxiliary output a tangent of its own dtype.
        return state.w, jnp.stack([state.residual, *(x.astype(w.dtype) for x in (state.iterations, converged))])

    def tangent_solve(linear, rhs):
        return jnp.linalg.solve(jax.vmap(linear)(jnp.eye(rhs.shape[0], dtype=rhs.dtype)).T, rhs)

    w, info = lax.custom_root(gradient, lax.stop_gradient(start()), solve, tangent_solve, has_aux=True)
    final, iterations, converged = lax.stop_gradient(info)
    return basis @ w + offset, Info(final, iterations.astype(jnp.int32), converged > 0)


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
        return ~state[3] & (state[4] < _TRIALS)

    one = jnp.ones((), w.dtype)
    state = (one, 0 * one, jnp.inf * one, ~(initial < 0), jnp.array(0))
    t, *_ = lax.while_loop(unfinished, search, state)
    return jnp.where(initial < 0, t, 0)
