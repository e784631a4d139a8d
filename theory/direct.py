"""Direct minimisation of training objectives over parameters, in NumPy and SciPy only: ground truth for the library.

No code is shared with the library: losses, penalties, minimiser and derivatives are written out. Objectives are
`loss(Phi theta) + (ridge / 2) |theta|^2 + sum_i (hold_i / 2) ((Phi theta)_i - target_i)^2`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special

Loss = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]
"""A function of the outputs that returns value, gradient and Hessian."""


def logistic(y: Float[np.ndarray, " n"]) -> Loss:
    """The sum of log(1 + exp(-y f)), in nats."""

    def loss(f):
        alpha = special.expit(-y * f)
        return float(np.logaddexp(0, -y * f).sum()), -y * alpha, np.diag(alpha * (1 - alpha))

    return loss


def squared(y: Float[np.ndarray, " n"]) -> Loss:
    """The sum of (y - f)^2 / 2."""
    return lambda f: (float(((y - f) ** 2).sum() / 2), f - y, np.eye(len(y)))


def cross_entropy(labels: Int[np.ndarray, " n"], classes: int) -> Loss:
    """The sum of softmax cross-entropies, in nats; outputs are `(n k,)`, ordered by example."""
    one_hot = np.eye(classes)[labels]

    def loss(f):
        logits = f.reshape(-1, classes)
        p = special.softmax(logits, axis=1)
        value = float((special.logsumexp(logits, axis=1) - (one_hot * logits).sum(axis=1)).sum())
        hessian = np.zeros((len(f), len(f)))
        for i, row in enumerate(p):
            block = slice(i * classes, (i + 1) * classes)
            hessian[block, block] = np.diag(row) - np.outer(row, row)
        return value, (p - one_hot).ravel(), hessian

    return loss


def minimum(
    phi: Float[np.ndarray, "n m"], loss: Loss, *, ridge: float = 0.0, hold: Any = 0.0, target: Any = 0.0
) -> tuple[Float[np.ndarray, " m"], float]:
    """The minimising theta `(m,)`, and the minimum of the objective.

    Uses a trust region with exact Hessians, followed by Powell's method on the gradient. `phi` has full column rank.

    Raises:
        RuntimeError: the gradient does not vanish.
    """
    hold = np.broadcast_to(hold, len(phi))

    def value(theta):
        f = phi @ theta
        return loss(f)[0] + ridge / 2 * theta @ theta + (hold / 2 * (f - target) ** 2).sum()

    def gradient(theta):
        f = phi @ theta
        return phi.T @ (loss(f)[1] + hold * (f - target)) + ridge * theta

    def hessian(theta):
        return phi.T @ (loss(phi @ theta)[2] + np.diag(hold)) @ phi + ridge * np.eye(len(theta))

    start = np.zeros(phi.shape[1])
    found = optimize.minimize(
        value, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-8, "maxiter": 500}
    ).x
    theta = optimize.root(gradient, found, jac=hessian, tol=1e-14).x
    left, first = (float(np.abs(gradient(point)).max()) for point in (theta, start))
    if not left <= 1e-9 * first:
        raise RuntimeError(f"the gradient is {left:.1e}, at the start {first:.1e}")
    return theta, float(value(theta))


def responses(u: Float[np.ndarray, "n r"], s2: Float[np.ndarray, " r"], y, loss: Loss, **penalty) -> np.ndarray:
    """The responses `z* = U^T Y f (r,)` at the minimum, for Phi = Y U S V^T with a random V."""
    r = len(s2)
    v = np.linalg.qr(np.random.default_rng(0).normal(size=(r, r)))[0]
    phi = y[:, None] * (u * np.sqrt(s2)) @ v.T
    return u.T @ (y * (phi @ minimum(phi, loss, **penalty)[0]))


def elasticities(
    u: Float[np.ndarray, "n r"], s2: Float[np.ndarray, " r"], y, loss: Loss, *, step: float = 1e-3, **penalty
) -> Float[np.ndarray, "r r"]:
    """`d z_j* / d log s_i^2` at `[j, i]`, oriented and in units of |z*|, by central differences of `responses`."""
    s2 = np.asarray(s2, float)
    z = responses(u, s2, y, loss, **penalty)
    columns = []
    for i in range(len(s2)):
        raised, lowered = (s2 * np.exp(sign * step * (np.arange(len(s2)) == i)) for sign in (1, -1))
        columns.append(
            (responses(u, raised, y, loss, **penalty) - responses(u, lowered, y, loss, **penalty)) / (2 * step)
        )
    return np.where(z < 0, -1, 1)[:, None] * np.stack(columns, axis=1) / np.linalg.norm(z)


def off_diagonal(matrix: Float[np.ndarray, "r r"]) -> float:
    """The largest absolute value off the diagonal."""
    return float(np.abs(matrix - np.diag(np.diag(matrix))).max())
