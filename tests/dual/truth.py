"""The optimum of Eq. 5 and its starvation matrix in extended precision, feature by feature.

Newton's method on the weights w of the whitened features, `z_j = s_j w_j / sqrt(lambda)`. Gradients are in extended
precision and steps in double precision: every step gains digits, so the result does not depend on the precision of the
steps. The size of the last step, relative to each w_j, checks it. The problem is convex, so a zero of the gradient is
the optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.special import expit, wrightomega

LONG = np.longdouble
FLOOR = 32  # roundings of u and alpha below which a response is not accurate, as `dual.equilibrium` documents


def logistic(margins):
    """`alpha` and its slope `-d alpha / d m`."""
    return expit(-margins), expit(-margins) * expit(margins)


def linearised(margins):
    """The same for `-log alpha - alpha = m`, polished to extended precision."""
    x = -np.asarray(margins)
    w = np.maximum(wrightomega(x.astype(float)), np.finfo(float).tiny).astype(LONG)
    for _ in range(2):
        w = w * (1 + x - np.log(w)) / (1 + w)
    return w, w / (1 + w)


FORMS: dict[str, Callable] = {"exact": logistic, "linearized": linearised}


class Truth(NamedTuple):
    """The exact solution of a problem with features `u (n, r)`, `s (r,)` and a ridge.

    `alpha (n,)`; `response (r,)`; `rounding (r,)`, the error of the response by rounding of u and alpha in the given
    precision; `slopes (r, r)`, the starvation matrix with the signs of u; `scale (r, r)`, the size that each entry
    would have if the features were fully coupled, with a pull of at least its rounding; `last_step`, the largest last
    step of a w_j relative to w_j, where the response is larger than its rounding.
    """

    alpha: np.ndarray
    response: np.ndarray
    rounding: np.ndarray
    slopes: np.ndarray
    scale: np.ndarray
    last_step: float


def definite_solver(matrix):
    scale = 1 / np.sqrt(np.diag(matrix))
    factor = scipy.linalg.cho_factor(scale[:, None] * matrix * scale)
    return lambda b: (scale * scipy.linalg.cho_solve(factor, (scale * b.T).T).T).T


def solve(u, s, strength, *, form: str, eps: float, guess=None, slopes: bool = True) -> Truth:
    """The truth, from an initial response `guess (r,)` that does not change it. Without `slopes` these are NaN."""
    dual = FORMS[form]
    u, b = u.astype(LONG), s.astype(LONG) / np.sqrt(LONG(strength))
    basis, carrying = u * b, b > 0
    w = np.zeros(len(b), LONG)
    if guess is not None and np.all(np.isfinite(guess)):
        w[carrying] = guess[carrying].astype(LONG) / b[carrying]
    step, w = _newton(basis, dual, w)

    margins = basis @ w
    alpha, curvature = dual(margins)
    doubt = np.abs(alpha) + curvature * (np.abs(basis) @ np.abs(w))
    rounding = eps * (np.abs(u).T @ doubt)  # the rounding of u.T @ alpha
    response = b * w
    # The rounding of c = u.alpha changes a component of w by b times it, over 1 + b^2 C with the curvature C.
    moved = b * rounding / (1 + b**2 * ((u**2).T @ curvature))
    known = carrying & (np.abs(w) > FLOOR * moved)
    last_step = float(np.max(np.abs(step[known] / w[known]), initial=0))

    if not slopes:
        nothing = np.full((len(b),) * 2, np.nan)
        return Truth(alpha, response, b * moved, nothing, nothing, last_step)
    pull = np.where(carrying, w / np.where(carrying, b, 1), u.T @ alpha)
    moved_pull = np.where(carrying, moved / np.where(carrying, b, 1), rounding)
    gram = (u.T * curvature) @ u
    hessian = np.eye(len(b), dtype=LONG) + b[:, None] * gram * b
    strong = b > 1
    columns = np.where(strong, np.eye(len(b)) / np.where(strong, b, 1), -b[:, None] * gram)
    solver = definite_solver(hessian.astype(float))
    solved = np.zeros_like(columns)
    for _ in range(6):  # iterative refinement with residuals in extended precision
        solved = solved + solver((columns - hessian @ solved).astype(float))
    matrix = (b[:, None] * solved + np.where(strong, 0, np.eye(len(b)))) * pull / LONG(strength)
    diagonal = np.sqrt(np.diag(solver(np.eye(len(b)))))
    ratio = b[:, None] / np.where(carrying, b, 1)
    scale = np.outer(diagonal, diagonal) * ratio * np.maximum(np.abs(pull), FLOOR * moved_pull) / LONG(strength)
    return Truth(alpha, response, b * moved, matrix, scale, last_step)


def _newton(basis, dual, w):
    double = basis.astype(float)
    before, settled, step = np.inf, 0, np.full(len(w), np.inf)
    for _ in range(80):
        alpha, curvature = dual(basis @ w)
        gradient = w - basis.T @ alpha
        hessian = np.eye(len(w)) + (double.T * curvature.astype(float)) @ double
        step = -definite_solver(hessian)(gradient.astype(float))
        change = basis @ step
        initial, t = float(gradient @ step), 1.0
        for _ in range(60):
            slope = float((w + t * step) @ step - dual(basis @ (w + t * step))[0] @ change)
            if initial >= 0 or abs(slope) <= 0.9 * abs(initial) + 1e-25:
                break
            t /= 2
        w = w + t * step
        size = np.max(np.abs(change)) / min(1, np.max(np.abs(basis @ w)) + np.finfo(float).tiny)
        # Some more steps at the end, for features that are much weaker than those that dominate the margins.
        settled += t == 1 and (size < 1e-17 or (size < 1e-12 and size > before / 2))
        if settled == 3:
            break
        before = size
    return step, w
