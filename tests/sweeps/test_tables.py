"""Columns of rows against the width."""

from __future__ import annotations

import numpy as np
import pytest

from gsjax import sweeps


def made(width: int, seed: int, **others) -> dict:
    error = seed + 1 / width
    row = {"data": "a", "depth": 1, "penalty": "ridge", "strength": 1.0, "width": width, "seed": seed}
    return row | {"error_empirical": error, "error_parameters": 2 * error, "drift": None, "converged": True} | others


def test_a_column_by_width():
    rows = [made(width, seed, converged=(width, seed) != (8, 1)) for width in (8, 2, 4) for seed in (1, 0)]
    widths, values = sweeps.against_width(rows)
    assert widths == [2, 4]  # not every seed of width 8 has converged
    np.testing.assert_array_equal(values, [[0.5, 0.25], [1.5, 1.25]])
    widths, values = sweeps.against_width(rows, "error_parameters", converged=False)
    assert widths == [2, 4, 8]
    np.testing.assert_array_equal(values, [[1.0, 0.5, 0.25], [3.0, 2.5, 2.25]])
    assert np.isnan(sweeps.against_width(rows, "drift")[1]).all()
    _, values = sweeps.against_width([row | {"penalty": "sd"} for row in rows])
    np.testing.assert_array_equal(values, [[1.0, 0.5], [3.0, 2.5]])


@pytest.mark.parametrize(
    ("rows_", "column", "complaint"),
    [
        ([], None, "rows: expected rows of one data set"),
        ([made(2, 0), made(4, 0, strength=2.0)], None, "rows: expected rows of one data set"),
        ([made(2, 0), made(2, 1), made(4, 0)], None, "rows: expected one row per seed of every width, got 3 of 4"),
        ([made(2, 0), made(2, 0)], None, "rows: expected one row per seed of every width, got 2 of 1"),
        ([made(2, 0)], "error", "column: expected one of data, .*got error"),
    ],
)
def test_incomplete_or_mixed_rows_are_refused(rows_, column, complaint):
    with pytest.raises(ValueError, match=rf"^{complaint}"):
        sweeps.against_width(rows_, column)
