"""Kernels that are known by their products, and their optimum by dense linear algebra in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from scipy.special import expit, softmax


class Optimum(NamedTuple):
    """Outputs, dual variables and curvature at the optimum."""

    outputs: np.ndarray
    dual: np.ndarray
    curvature: np.ndarray


def kernel(n: int, decades: float, seed: int = 0) -> np.ndarray:
    """A random kernel with strengths from 10 down over some decades."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    matrix = (q * (10 * np.logspace(0, -decades, n))) @ q.T
    return (matrix + matrix.T) / 2


def hidden(
    matrix: np.ndarray, dtype: Any, shape: tuple[int, ...] | None = None, calls: list[None] | None = None
) -> lx.FunctionLinearOperator:
    """An operator that shows its products only, on arrays of a `shape`; `calls` grows by one entry per product."""
    held = jnp.asarray(matrix, dtype)

    def count() -> None:
        if calls is not None:
            calls.append(None)

    def product(v):
        if calls is not None:
            jax.debug.callback(count)
        return (held @ v.ravel()).reshape(v.shape)

    structure = jax.ShapeDtypeStruct(shape or (len(matrix),), held.dtype)
    return lx.FunctionLinearOperator(product, structure, lx.positive_semidefinite_tag, closure_convert=False)


def logistic(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`-loss'` and `loss''` of `sum log(1 + exp(-m))`."""
    return expit(-m), np.diag(expit(m) * expit(-m))


def cross_entropy(labels: np.ndarray, k: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """`-loss'` and `loss''` of softmax cross-entropy in stacked outputs."""

    def derivatives(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = softmax(m.reshape(-1, k), axis=1)
        curvature = np.zeros((len(m), len(m)))
        for i, row in enumerate(p):
            curvature[i * k : (i + 1) * k, i * k : (i + 1) * k] = np.diag(row) - np.outer(row, row)
        return (np.eye(k)[labels] - p).ravel(), curvature

    return derivatives


def optimum(
    matrix: np.ndarray, strength: float, derivatives: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> Optimum:
    """The solution of `m = K a / strength`, `a = -loss'(m)`, on a path of decreasing strengths by Newton's method."""
    m = np.zeros(len(matrix))
    for current in np.geomspace(max(1e3, strength), strength, 60):
        for _ in range(50):
            a, w = derivatives(m)
            step = np.linalg.solve(np.eye(len(m)) + matrix @ w / current, matrix @ a / current - m)
            m = m + step
            if np.max(np.abs(step)) < 1e-13 * (1 + np.max(np.abs(m))):
                break
    return Optimum(m, *derivatives(m))


def slopes(matrix: np.ndarray, strength: float, at: Optimum, u: np.ndarray) -> np.ndarray:
    """`d z_j / d s_i^2` by its definition: z = U^T m, and a change of s_i^2 adds u_i u_i^T to the kernel; oriented."""
    response = np.linalg.solve(np.eye(len(matrix)) + matrix @ at.curvature / strength, u)
    found = u.T @ response * (u.T @ at.dual) / strength
    return np.where(u.T @ at.outputs < 0, -1, 1)[:, None] * found
