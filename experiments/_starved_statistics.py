"""Rank correlations over tasks that are not independent, for the experiment `starvation_and_depth`.

Tasks with the same pair of halves share their images. Resampling takes whole pairs, and permutations move the outcomes
of ordered pairs, which keep the order of their correlations in training. What permutations still take for granted is
that the two orders of a pair can be exchanged with those of other pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gsjax import statistics
from gsjax.statistics import Interval

PERMUTATIONS = 20_000


class Tasks(NamedTuple):
    """Which tasks belong together: `pair (tasks,)` is the pair of halves, `order (tasks,)` the ordered pair.

    Both count from 0. All ordered pairs have the same number of tasks, and in the same order.
    """

    pair: Int[np.ndarray, " tasks"]
    order: Int[np.ndarray, " tasks"]


def ranks(x: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, " n"]:
    """Midranks among examples that count `weights` times, up to a constant.

    >>> ranks(np.array([3.0, 1.0, 3.0])).tolist()
    [2.0, 0.5, 2.0]
    """
    weights = np.ones(len(x)) if weights is None else weights
    below, equal = x[:, None] > x, x[:, None] == x
    return below @ weights + equal @ weights / 2


def spearman(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    *given: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"] | None = None,
) -> float:
    """Spearman's rank correlation, partial with respect to what is `given`; 0 if one side does not vary.

    The partial one is the correlation of the residuals of ranks after linear regression on the given ranks.

    >>> spearman(np.arange(4.0), np.array([0.0, 1.0, 3.0, 2.0]))
    0.8
    """
    weights = np.ones(len(x)) if weights is None else weights
    one, two = residuals(x, *given, weights=weights), residuals(y, *given, weights=weights)
    size = np.sqrt((weights @ one**2) * (weights @ two**2)) / weights.sum()
    return float(np.clip(round(weights @ (one * two) / weights.sum() / size, 12), -1, 1)) if size > 1e-9 else 0.0


def residuals(
    x: Float[np.ndarray, " n"], *given: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The ranks of x, minus their least squares fit by a constant and the ranks of what is given."""
    own = ranks(x, weights)
    if not given:
        return own - weights @ own / weights.sum()
    root = np.sqrt(weights)
    design = np.stack([np.ones(len(x)), *(ranks(each, weights) for each in given)], axis=1)
    fit = np.linalg.lstsq(root[:, None] * design, root * own, rcond=None)[0]
    left = own - design @ fit
    return np.where(np.abs(left) < 1e-9 * max(1.0, np.abs(own).max()), 0.0, left)


def over_tasks(
    tasks: Tasks, x: Float[np.ndarray, " tasks"], y: Float[np.ndarray, " tasks"], *given: Float[np.ndarray, " tasks"]
) -> Interval:
    """Spearman's correlation over tasks with the 95% interval of a bootstrap over pairs of halves."""

    def statistic(weights: Float[np.ndarray, " pairs"]) -> float:
        return spearman(x, y, *given, weights=weights[tasks.pair])

    return statistics.bootstrap(statistic, int(tasks.pair.max()) + 1)


def difference(
    tasks: Tasks,
    x: Float[np.ndarray, " tasks"],
    other: Float[np.ndarray, " tasks"],
    y: Float[np.ndarray, " tasks"],
) -> Interval:
    """The correlation of `other` with y minus that of x with y, with the interval of the same bootstrap."""

    def statistic(weights: Float[np.ndarray, " pairs"]) -> float:
        each = weights[tasks.pair]
        return spearman(other, y, weights=each) - spearman(x, y, weights=each)

    return statistics.bootstrap(statistic, int(tasks.pair.max()) + 1)


def p_value(
    tasks: Tasks, x: Float[np.ndarray, " tasks"], y: Float[np.ndarray, " tasks"], *given: Float[np.ndarray, " tasks"]
) -> float:
    """The one-sided p-value of a positive correlation, by permutations of ordered pairs.

    Residuals of y are permuted if something is given (Freedman and Lane 1983).
    """
    weights = np.ones(len(x))
    one, two = residuals(x, *given, weights=weights), residuals(y, *given, weights=weights)
    count = int(tasks.order.max()) + 1
    table = np.argsort(tasks.order, kind="stable").reshape(count, -1)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(count), (PERMUTATIONS, 1)), axis=1)
    found = np.einsum("koc,oc->k", two[table][orders], one[table])
    return float((1 + np.sum(found >= one @ two - 1e-9)) / (1 + PERMUTATIONS))


def within_tasks(
    x: Float[np.ndarray, "tasks seeds"], y: Float[np.ndarray, "tasks seeds"]
) -> Float[np.ndarray, " tasks"] | None:
    """The parts of tasks, whose mean is the correlation over networks of deviations from the means of their tasks.

    It is Pearson's. The networks of different tasks are independent, so the parts have the interval of a mean. None if
    one side does not vary within any task.

    >>> within_tasks(np.array([[1.0, 2.0], [5.0, 7.0]]), np.array([[3.0, 4.0], [0.0, 2.0]])).tolist()
    [0.4, 1.6]
    """
    one, two = (each - each.mean(axis=1, keepdims=True) for each in (x, y))
    size = np.sqrt((one**2).sum() * (two**2).sum())
    return (one * two).sum(axis=1) * len(x) / size if size > 0 else None
