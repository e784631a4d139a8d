"""How much of a diagnosis remains on random halves of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from gsjax import progress
from gsjax.diagnosis.solution import Solution, compiled
from gsjax.diagnosis.task import Task, reduced

__all__ = ["SPLITS", "Stability", "halves", "stability"]

SPLITS = 5  # ten halves: enough to tell a sign that always agrees from one that is arbitrary (chance 2^-10 per pair)
LEAST = 8  # examples in a half; below, nothing is computed
MOST = 1000  # outputs in a half, so that its kernel is decomposed within seconds


class Stability(NamedTuple):
    """The agreement of features and signs between random halves of the data.

    In each half, the feature that resembles the shown one most is its match.

    - `overlap (r,)`: the match in one half, continued to the examples of the other half, against the match there: the
      squared cosine, a mean over both directions and all splits, from 0 to 1. The two matches share no example, so a
      feature of noise has a small overlap. (Feature u of the kernel K of half A continues to half B as `K_BA u`.)
    - `agreement (r, r)`: the share of halves in which entry [j, i] of the starvation matrix of the matches has the same
      sign; NaN on the diagonal, and where the matrix is zero. Two features with the same match do not agree.
    - `halves`, `examples`: the number of halves, and of examples in each.
    """

    overlap: Float[np.ndarray, " r"]
    agreement: Float[np.ndarray, "r r"]
    halves: int
    examples: int


def halves(n: int, outputs: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows of the two halves of random splits of n examples, of equal size, each at most `MOST // outputs`."""
    size = min(n // 2, max(LEAST, MOST // outputs))
    if size < LEAST:
        return []
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(SPLITS)]
    return [(np.sort(order[:size]), np.sort(order[size : 2 * size])) for order in orders]


def stability(task: Task, solution: Solution, kernel: Callable[[np.ndarray], Array], seed: int) -> Stability | None:
    """The stability of the features of an oriented solution; None for too few examples.

    `kernel(rows)` is the kernel of some rows of x. The penalty of a half has the same weight per example.
    """
    k = task.classes or 1
    parts = halves(task.n, k, seed)
    if not parts:
        return None
    sign = np.ones(task.rows) if task.classes else np.asarray(task.y, np.float64)
    size = len(parts[0][0])
    overlaps, agreements = [], []
    for first, second in progress.track(parts, "random splits of the data into halves"):
        both = kernel(np.concatenate([first, second]))
        found = [
            _half(task, solution, rows, both[low : low + size, low : low + size])
            for rows, low in ((first, 0), (second, size))
        ]
        agreements += [agreement for _, _, agreement in found]
        cross = np.asarray(both[size:, :size])  # of the second half with the first
        if task.classes:
            cross = cross.transpose(0, 2, 1, 3).reshape(size * k, size * k)
        (flat, one, _), (other_flat, other, _) = found
        cross = sign[other_flat][:, None] * cross * sign[flat]
        overlaps += [_cosine(cross @ one, other), _cosine(cross.T @ other, one)]
    unknown = np.eye(len(solution.s), dtype=bool) | (np.nan_to_num(solution.starvation) == 0)
    agreement = np.where(unknown, np.nan, np.mean(agreements, axis=0))
    return Stability(np.mean(overlaps, axis=0), agreement, 2 * len(parts), size)


def _half(
    task: Task, solution: Solution, rows: np.ndarray, kernel: Array
) -> tuple[np.ndarray, Float[np.ndarray, "h r"], np.ndarray]:
    """The outputs of a half, the matches of the features in it, and where their signs of starvation agree."""
    k, r = task.classes or 1, len(solution.s)
    flat = (rows[:, None] * k + np.arange(k)).ravel()
    part = jax.tree.map(np.asarray, compiled()(kernel, task.y[rows], reduced(task.penalty, flat, task.rows)))
    own, others = solution.u[rows].reshape(-1, r), part.u.reshape(len(flat), -1)[:, part.s > 0]
    match = np.argmax(np.abs(own.T @ others), axis=1)
    sign = np.sign(part.starvation) * np.where(part.response < 0, -1, 1)[:, None]
    agreement = (sign[np.ix_(match, match)] == np.sign(solution.starvation)) & (match[:, None] != match)
    return flat, others[:, match], agreement


def _cosine(one: Float[np.ndarray, "h r"], other: Float[np.ndarray, "h r"]) -> Float[np.ndarray, " r"]:
    """The squared cosines of the columns."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    sizes = np.sum(one**2, axis=0) * np.sum(other**2, axis=0)
    return np.sum(one * other, axis=0) ** 2 / np.where(sizes > 0, sizes, 1)
