"""How far features align with an attribute of the examples, beyond the label."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gsjax import progress

__all__ = ["Alignment", "align", "explained"]

PERMUTATIONS = 499  # the 95% quantile of the maximum is then the 475th value: the level is exactly 25 / 500
LEVEL = 0.05


class Alignment(NamedTuple):
    """The alignment of each feature with a group, and with the label.

    - `group (r,)`: the share of the variance of the feature within labels that the group explains (eta squared), from
      0 to 1; NaN where the group is a function of the label.
    - `label (r,)`: the share of the variance of the feature that the label explains.
    - `chance`: the level that the largest of `group` exceeds in 5% of the permutations of the group within labels.
    - `smallest`: the number of examples in the smallest combination of label and group that occurs.
    - `known`: whether the group differs within at least one label, without which nothing can be told.
    """

    group: Float[np.ndarray, " r"]
    label: Float[np.ndarray, " r"]
    chance: float
    smallest: int
    known: bool


def align(
    directions: Float[np.ndarray, "n c r"], label: np.ndarray, group: Int[np.ndarray, " n"], seed: int
) -> Alignment:
    """The `Alignment` of features, given as directions of the outputs.

    Permutations of the group within labels are random, from `seed`. They keep the sizes of all cells, so the level is
    exact for groups that are independent of the features given the label.
    """
    _, label = np.unique(label, return_inverse=True)
    _, group = np.unique(group, return_inverse=True)
    cell = label * (group.max() + 1) + group
    sizes = np.bincount(cell)
    by_label = explained(directions, np.zeros_like(label), label)
    if len(np.unique(cell)) == len(np.unique(label)):
        nothing = np.full(directions.shape[2], np.nan)
        return Alignment(nothing, by_label, float("nan"), int(sizes[sizes > 0].min()), known=False)

    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(label == value) for value in range(label.max() + 1)]
    centred, total = _within(directions, label)
    largest = []
    for _ in progress.track(range(PERMUTATIONS), "permutations of the group"):
        permuted = group.copy()
        for rows in members:
            permuted[rows] = group[rng.permutation(rows)]
        largest.append(np.max(_share(centred, total, label * (group.max() + 1) + permuted)))
    rank = round((1 - LEVEL) * (PERMUTATIONS + 1))
    chance = float(np.sort(largest)[rank - 1])
    by_group = _share(centred, total, cell)
    return Alignment(by_group, by_label, chance, int(sizes[sizes > 0].min()), known=True)


def explained(
    directions: Float[np.ndarray, "n c r"], within: Int[np.ndarray, " n"], by: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " r"]:
    """The share of the variance of each feature within the classes `within` that the classes `by` explain.

    With the sums of squares SS around the means of the classes, this is `1 - SS(within and by) / SS(within)`; for
    several outputs, the sums are over the outputs as well. It is 0 for a feature without variance within the classes.
    """
    return _share(*_within(directions, within), within * (by.max() + 1) + by)


def _within(directions: Float[np.ndarray, "n c r"], cell: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """The features `(n, c, r)` around their means in each cell, and their sums of squares `(r,)`."""
    values = directions.astype(np.float64)
    sums, sizes = _sums(values, cell)
    centred = values - (sums / sizes)[np.unique(cell, return_inverse=True)[1]]
    total = np.sum(centred**2, axis=(0, 1))
    # What rounding leaves of a feature that is constant in each cell is no variance.
    rounding = np.finfo(directions.dtype).eps * np.sum(values**2, axis=(0, 1))
    return centred, np.where(total > rounding, total, 0)


def _share(centred: np.ndarray, total: np.ndarray, cell: np.ndarray) -> Float[np.ndarray, " r"]:
    """The share of the sums of squares `total` that the means of the cells explain."""
    sums, sizes = _sums(centred, cell)
    between = np.sum(sums**2 / sizes, axis=(0, 1))
    return np.where(total > 0, np.clip(between / np.where(total > 0, total, 1), 0, 1), 0)


def _sums(values: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums `(cells, c, r)` over the examples of each cell that occurs, in order, and their numbers `(cells, 1, 1)`."""
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(cell[order]) > 0])
    sizes = np.diff(np.r_[starts, len(cell)])
    return np.add.reduceat(values[order], starts, axis=0), sizes[:, None, None]
