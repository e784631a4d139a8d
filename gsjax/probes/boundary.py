"""The decision boundary of a network with two inputs: its curves, and their distances from examples."""

from __future__ import annotations

from collections.abc import Sequence

import contourpy
import numpy as np
from jaxtyping import ArrayLike, Float, Real

from gsjax import _check

__all__ = ["Line", "distances", "positions", "zero_level"]

Line = Float[np.ndarray, "points 2"]


def zero_level(
    first: Real[ArrayLike, " nx"] | Sequence[float],
    second: Real[ArrayLike, " ny"] | Sequence[float],
    logits: Real[ArrayLike, "ny nx"] | Sequence[Sequence[float]],
) -> list[Line]:
    """The curves on which outputs on a grid are zero, as polylines from linear interpolation between grid points.

    Args:
        first, second: increasing coordinates x_1 and x_2 of the grid, shapes (nx,) and (ny,).
        logits: outputs, shape (ny, nx), one row per x_2.

    Returns:
        The points (x_1, x_2) along each curve; an empty list if all outputs have the same sign.

    Raises:
        ValueError: a grid that does not increase, shapes that differ, or entries that are not finite.

    >>> [line] = zero_level([0.0, 1.0], [0.0, 1.0], [[-1.0, 1.0], [-1.0, 1.0]])
    >>> sorted(line.tolist())
    [[0.5, 0.0], [0.5, 1.0]]
    """
    grids = [_check.floats("first", first), _check.floats("second", second)]
    for name, grid in zip(("first", "second"), grids, strict=True):
        increasing = grid.ndim == 1 and len(grid) > 1 and bool((np.diff(grid) > 0).all())
        _check.require(increasing, name, "two or more increasing numbers", grid)
    values = _check.floats("logits", logits)
    shape = (len(grids[1]), len(grids[0]))
    _check.require(
        values.shape == shape, "logits", f"shape {shape}, one row per entry of second", f"shape {values.shape}"
    )
    _check.finite("logits", values)
    return [np.asarray(line) for line in contourpy.contour_generator(grids[0], grids[1], values).lines(0.0)]


def distances(x: Real[ArrayLike, "n 2"] | Sequence[Sequence[float]], lines: Sequence[Line]) -> Float[np.ndarray, " n"]:
    """The Euclidean distance of every example from the nearest curve; infinite if there are no curves.

    If all examples are classified correctly, the smallest distance is the geometric margin of the boundary.

    Args:
        x: examples, shape (n, 2).
        lines: curves from `zero_level`.

    Raises:
        ValueError: examples that are not finite or do not have two coordinates.

    >>> distances([[0.0, 3.0], [2.0, 0.5]], [np.array([[0.5, 0.0], [0.5, 1.0]])]).round(2).tolist()
    [2.06, 1.5]
    """
    x = _check.floats("x", x)
    _check.require(x.ndim == 2 and x.shape[1] == 2, "x", "shape (n, 2)", f"shape {x.shape}")
    _check.finite("x", x)
    if not lines:
        return np.full(len(x), np.inf)
    start = np.concatenate([line[:-1] for line in lines])
    step = np.concatenate([np.diff(line, axis=0) for line in lines])
    squared = (step**2).sum(axis=1)
    offset = x[:, None] - start
    fraction = np.clip((offset * step).sum(axis=2) / np.where(squared > 0, squared, 1), 0, 1)
    return np.sqrt(((offset - fraction[..., None] * step) ** 2).sum(axis=2).min(axis=1))


def positions(lines: Sequence[Line], second: Real[ArrayLike, " k"] | Sequence[float]) -> Float[np.ndarray, " k"]:
    """The mean x_1 at which the boundary crosses each given x_2; NaN where it does not.

    The standard deviation of these numbers measures how much a boundary bends. It is zero for a vertical line, which
    does not depend on x_2.

    Args:
        lines: curves from `zero_level`.
        second: the values of x_2, shape (k,).

    Raises:
        ValueError: entries that are not finite.

    >>> positions([np.array([[0.5, 0.0], [0.7, 1.0]])], [0.5, 2.0]).tolist()
    [0.6, nan]
    """
    second = _check.floats("second", second)
    _check.shape("second", second, ndim=1)
    _check.finite("second", second)
    found = np.zeros((2, len(second)))
    for line in lines:
        (x1, x2), (y1, y2) = line[:-1].T, line[1:].T
        crossed = (np.minimum(x2, y2) <= second[:, None]) & (second[:, None] < np.maximum(x2, y2))
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = x1 + (second[:, None] - x2) / (y2 - x2) * (y1 - x1)
        found += np.where(crossed, crossing, 0).sum(axis=1), crossed.sum(axis=1)
    total, count = found
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
