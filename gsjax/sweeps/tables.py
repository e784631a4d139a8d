"""The rows of a sweep as one number per seed and width, for slopes and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gsjax import _check

__all__ = ["READINGS", "against_width"]

# The error that depends on the width; under "sd" the outputs agree with theory at every width.
READINGS = {"ridge": "error_empirical", "sd": "error_parameters"}


def against_width(
    rows: Sequence[Mapping[str, Any]], column: str | None = None, *, converged: bool = True
) -> tuple[list[int], Float[np.ndarray, "seeds w"]]:
    """A column of the rows of a sweep against the width, for `statistics.loglog_slope` or `plotting`.

    Args:
        rows: rows from `run` for one data set, depth, penalty and strength, with the same seeds at every width.
        column: the name of a numeric column; by default the error that depends on the width, `error_empirical` for
            "ridge" and `error_parameters` for "sd".
        converged: whether widths at which a seed did not converge are left out.

    Returns:
        The widths, increasing, and the values, one row per seed, `(seeds, w)`; None becomes NaN.

    Raises:
        ValueError: no rows; rows of several data sets, depths, penalties or strengths; widths with different seeds;
            a `column` that the rows do not have; `converged` that is not a flag.

    >>> row = {"data": "a", "depth": 1, "penalty": "sd", "strength": 1.0, "seed": 0, "converged": True}
    >>> widths, values = against_width([row | {"width": w, "error_parameters": 1 / w} for w in (4, 2)])
    >>> widths, values.tolist()
    ([2, 4], [[0.5, 0.25]])
    """
    converged = _check.flag("converged", converged)
    kinds = {tuple(row[name] for name in ("data", "depth", "penalty", "strength")) for row in rows}
    expected = "rows of one data set, depth, penalty and strength"
    _check.require(len(kinds) == 1, "rows", expected, f"{len(kinds)} of them")
    column = READINGS[rows[0]["penalty"]] if column is None else column
    _check.require(all(column in row for row in rows), "column", f"one of {', '.join(rows[0])}", column)
    cells: dict[int, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(row["width"], {})[row["seed"]] = row
    seeds = sorted({row["seed"] for row in rows})
    complete = len(rows) == len(seeds) * len(cells) and all(len(cell) == len(seeds) for cell in cells.values())
    _check.require(complete, "rows", "one row per seed of every width", f"{len(rows)} of {len(seeds) * len(cells)}")
    widths = [width for width in sorted(cells) if not converged or all(r["converged"] for r in cells[width].values())]
    return widths, np.array([[cells[width][seed][column] for seed in seeds] for width in widths], float).T
