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
    """The agreement of features and signs with those of random halves of the data.

    - `overlap (r,)`: the squared inner product of the feature, restricted to a half and normalised, with the feature of
      the half that it resembles most; the mean over the halves, from 0 to 1.
    - `agreement (r, r)`: the share of halves in which entry [j, i] of the starvation matrix of the matched features has
      the same sign; NaN on the diagonal, and where the matrix is zero. Two features that match the same feature of a
      half do not agree.
    - `halves`, `examples`: the number of halves, and of examples in each.
    """

    overlap: Float[np.ndarray, " r"]
    agreement: Float[np.ndarray, "r r"]
    halves: int
    examples: int


def halves(n: int, outputs: int, seed: int) -> list[np.ndarray]:
    """The rows of both halves of random splits of n examples, each at most `MOST // outputs` and of equal size."""
    size = min(n // 2, max(LEAST, MOST // outputs))
    if size < LEAST:
        return []
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(SPLITS)]
    return [np.sort(order[low : low + size]) for order in orders for low in (0, size)]


def stability(task: Task, solution: Solution, kernel: Callable[[np.ndarray], Array], seed: int) -> Stability | None:
    """The stability of the features of an oriented solution; None for too few examples.

    `kernel(rows)` is the kernel of some rows of x. The penalty of a half has the same weight per example.
    """
    parts = halves(task.n, task.classes or 1, seed)
    if not parts:
        return None
    r = len(solution.s)
    overlaps, agreements = [], []
    for rows in progress.track(parts, "halves of the data"):
        flat = (rows[:, None] * (task.classes or 1) + np.arange(task.classes or 1)).ravel()
        found = compiled()(kernel(rows), task.y[rows], reduced(task.penalty, flat, task.rows))
        part = jax.tree.map(np.asarray, found)
        own, other = solution.u[rows].reshape(-1, r), part.u.reshape(flat.size, -1)[:, part.s > 0]
        sizes = np.sum(own.astype(np.float64) ** 2, axis=0)
        squared = (own.T.astype(np.float64) @ other) ** 2 / np.where(sizes > 0, sizes, 1)[:, None]
        match = np.argmax(squared, axis=1)
        overlaps.append(squared.max(axis=1))
        sign = np.sign(part.starvation) * np.where(part.response < 0, -1, 1)[:, None]
        distinct = match[:, None] != match
        agreements.append((sign[np.ix_(match, match)] == np.sign(solution.starvation)) & distinct)
    agreement = np.mean(agreements, axis=0)
    unknown = np.eye(r, dtype=bool) | (np.nan_to_num(solution.starvation) == 0)
    overlap = np.minimum(np.mean(overlaps, axis=0), 1.0)
    return Stability(overlap, np.where(unknown, np.nan, agreement), len(parts), len(parts[0]))
