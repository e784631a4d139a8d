"""Rank correlations: with an interval, and with a p-value by permutation."""

from __future__ import annotations

import numpy as np
from scipy import stats

from gsjax import statistics


def correlation(x: np.ndarray, y: np.ndarray) -> statistics.Interval:
    """Spearman's correlation with its 95% interval (Bonett and Wright 2000), by Fisher's transformation."""
    ranks = [stats.rankdata(values) for values in (x, y)]
    r = float(np.clip(np.corrcoef(*ranks)[0, 1], -1, 1)) if np.ptp(x) and np.ptp(y) else 0.0
    reach = stats.norm.ppf(0.975) * np.sqrt((1 + r**2 / 2) / (len(x) - 3))
    with np.errstate(divide="ignore"):
        ends = np.tanh(np.arctanh(r) + np.array([-reach, reach]))
    return statistics.Interval(np.asarray(r), *map(np.asarray, ends))


def p_value(x: np.ndarray, y: np.ndarray) -> float:
    """The one-sided p-value of a positive rank correlation: the share of permutations of `y` with at least as much."""
    ranks = [stats.rankdata(values) - (len(values) + 1) / 2 for values in (x, y)]
    orders = np.random.default_rng(0).permuted(np.tile(ranks[1], (20_000, 1)), axis=1)
    return float((1 + np.sum(orders @ ranks[0] >= ranks[1] @ ranks[0] - 1e-9)) / (1 + len(orders)))
