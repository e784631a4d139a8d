"""Running the cells of a sweep and recording one row per seed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from gsjax import _check, progress
from gsjax._devices import from_process_0, gathered, over_devices, padded
from gsjax.data import Dataset
from gsjax.features import Features
from gsjax.records import Table
from gsjax.sweeps.grid import PENALTIES, Cell, Sweep, cells
from gsjax.sweeps.programs import Comparison, Outcome, Task, comparer, limit, prepare, trainer

__all__ = ["program", "run"]


def run(
    sweep: Sweep,
    train: Dataset,
    test: Dataset,
    *,
    name: str,
    table: Table | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Trains the networks of a sweep and compares each with theory; returns one row per seed, in the order of `cells`.

    The seeds of a cell are trained together. On a CPU each device trains its seeds one after another, which is faster
    there. Accelerators train them as a batch, which takes as many steps as the slowest seed.

    A row has `width`, `depth`, `seed`, `penalty`, `strength`, `data` (the `name`), `n`, and

    - `error_empirical`, `error_infinite`: |z - z*| / |z*|, where z = U^T Y yhat are the network's responses and z*
      those at the equilibrium. The features U and the equilibrium are those of the network's tangent kernel at
      initialisation, or those of the infinite-width kernel;
    - `errors_empirical`, `errors_infinite`: the list of |z_j - z_j*| / |z*| for the strongest features;
    - `error_parameters`: |z - z*| / |z*| for the other reading of Definition 1, z = S V^T theta, against the empirical
      equilibrium. Under "sd" the outputs agree with theory at every width, and only this error depends on the width;
    - `drift`: |K_T - K_0|_F / |K_0|_F of the tangent kernel on the training examples;
    - `test_accuracy`: the accuracy of the sign of the centred outputs;
    - `gradient_norm` at the end, `initial_gradient_norm`, `iterations`;
    - `converged`: whether training, to `sweep.tolerance`, and both equilibria converged.

    Numbers that are not finite become None, as in JSON. The computation has the precision of `train.x`.

    Args:
        sweep: the grid.
        train: the training examples.
        test: the examples for `test_accuracy`.
        name: the name of the data in the rows.
        table: the table that records finished cells and their seconds, including compilation. Cells that it already
            has are not run again. With several processes, only process 0 uses its table.
        mesh: devices, with an axis "seeds"; by default all devices of all processes. If the number of seeds is not a
            multiple of the number of devices, idle devices train extra seeds, which are dropped.
        progress: whether a progress bar on standard error counts the finished cells; it appears after a few seconds.

    Raises:
        ValueError: `train` or `test` empty, with examples of different shapes, with labels other than -1 and +1, or
            with NaN or infinity; a mesh without the axis; a cell of `table` with other seeds, another number of
            examples, or rows that are not rows of a sweep.

    >>> from gsjax import data
    >>> train, test = (data.two_moons(jax.random.key(i), 10) for i in range(2))
    >>> [row] = run(Sweep(widths=(8,), seeds=1, penalties=("sd",), tolerance=1e-3), train, test, name="moons")
    >>> row["width"], row["penalty"], row["converged"]
    (8, 'sd', True)
    """
    task, mesh, progress = prepare(sweep, train, test), over_devices(mesh), _check.flag("progress", progress)
    kept = table if jax.process_index() == 0 else None
    known = from_process_0([] if kept is None else kept.rows)
    found = {cell: [row for row in known if _key(cell, name).items() <= row.items()] for cell in cells(sweep)}
    pending = [cell for cell in found if not found[cell]]
    folder = getattr(kept, "folder", "the table of process 0")
    for cell, rows in found.items():
        _check_kept(rows, sweep, task, f"{_key(cell, name)} in {folder}")

    @functools.cache
    def infinite(depth: int) -> Features:
        """The features of the infinite-width kernel, on the host, so that all devices of all processes can use them."""
        return jax.tree.map(np.asarray, limit()(sweep.network(1, depth), task.x, task.y))

    for cell in _tracked(pending) if progress else pending:
        start = time.perf_counter()
        rows = _rows(sweep, cell, name, task, mesh, infinite(cell.depth))
        if kept is not None:
            kept.add(_key(cell, name), rows, time.perf_counter() - start)
        found[cell] = rows
    return [row for rows in found.values() for row in rows]


def program(
    sweep: Sweep, width: int, depth: int, train: Dataset, test: Dataset, *, mesh: Mesh | None = None
) -> jax.stages.Lowered:
    """The lowered program that trains the seeds of a width and depth; compile it for its cost, memory and text.

    Arguments and errors are those of `run`.
    """
    task, mesh = prepare(sweep, train, test), over_devices(mesh)
    count = padded(sweep.seeds, mesh)
    return trainer().lower(sweep.network(width, depth), mesh, count, task, *_settings(sweep, width, depth, task))


def _rows(sweep: Sweep, cell: Cell, name: str, task: Task, mesh: Mesh, infinite: Features) -> list[dict[str, Any]]:
    """Runs a cell."""
    network, count = sweep.network(cell.width, cell.depth), padded(sweep.seeds, mesh)
    settings = _settings(sweep, cell.width, cell.depth, task, **{cell.penalty: cell.strength})
    networks, trained = trainer()(network, mesh, count, task, *settings)
    penalty = PENALTIES[cell.penalty](np.asarray(cell.strength, task.x.dtype))
    compared = comparer()(mesh, networks, infinite, penalty)
    trained, compared = gathered((trained, compared), sweep.seeds)
    one_by_one = (zip(*fields, strict=True) for fields in (trained, compared))
    return [
        _row(sweep, {**_key(cell, name), "seed": seed, "n": len(task.y)}, Outcome(*t), Comparison(*c))
        for seed, (t, c) in enumerate(zip(*one_by_one, strict=True))
    ]


def _row(sweep: Sweep, labels: dict[str, Any], trained: Outcome, compared: Comparison) -> dict[str, Any]:
    """The row of one seed, identified by `labels`."""

    def strongest(errors: Array, rank: Array) -> list[float | None]:
        return [_number(error) for error in errors[: min(sweep.features, int(rank))]]

    return {
        **labels,
        "error_empirical": _number(compared.error_empirical),
        "error_infinite": _number(compared.error_infinite),
        "errors_empirical": strongest(compared.errors_empirical, compared.rank_empirical),
        "errors_infinite": strongest(compared.errors_infinite, compared.rank_infinite),
        "error_parameters": _number(compared.error_parameters),
        "drift": _number(trained.drift),
        "test_accuracy": _number(trained.test_accuracy),
        "gradient_norm": _number(trained.gradient_norm),
        "initial_gradient_norm": _number(trained.initial_gradient_norm),
        "iterations": int(trained.iterations),
        "converged": bool(trained.converged & compared.converged),
    }


def _check_kept(rows: Sequence[dict[str, Any]], sweep: Sweep, task: Task, cell: str) -> None:
    """Checks that the recorded rows of a cell are rows that the sweep could have written."""

    def check(good: bool, expected: str, got: Any) -> None:
        advice = "delete all its lines from rows.jsonl to compute it again"
        _check.require(good, "table", f"{expected} of the cell {cell}; {advice}", got)

    for row in rows:
        for column, (expected, good) in _COLUMNS.items():
            got = row.get(column, "nothing")
            check(column in row and good(got), f"{expected} as {column!r}", got)
        check(row["n"] == len(task.y), f"n = {len(task.y)}", row["n"])
    seeds = sorted(row["seed"] for row in rows)
    check(not rows or seeds == list(range(sweep.seeds)), f"one row per seed, {sweep.seeds} seeds", f"seeds {seeds}")


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


_WHOLE = ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_NUMBER = ("a number or None", _is_number_or_none)
_NUMBERS = ("numbers", lambda value: isinstance(value, list) and all(map(_is_number_or_none, value)))
_COLUMNS = {
    **dict.fromkeys(("seed", "n", "iterations"), _WHOLE),
    **dict.fromkeys(("error_empirical", "error_infinite", "error_parameters", "drift", "test_accuracy"), _NUMBER),
    **dict.fromkeys(("gradient_norm", "initial_gradient_norm"), _NUMBER),
    **dict.fromkeys(("errors_empirical", "errors_infinite"), _NUMBERS),
    "converged": ("True or False", lambda value: isinstance(value, bool)),
}


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _key(cell: Cell, name: str) -> dict[str, Any]:
    """The columns that all rows of a cell share."""
    return {"data": name, **cell._asdict()}


def _settings(sweep: Sweep, width: int, depth: int, task: Task, **strengths: float) -> list[np.ndarray]:
    """The arguments of a program that depend on the cell: the strengths of both penalties (default 0) and the scale."""
    numbers = (*(strengths.get(penalty, 0) for penalty in PENALTIES), sweep.scale(width, depth))
    return [np.asarray(number, task.x.dtype) for number in numbers]


def _tracked(pending: Sequence[Cell]) -> Iterator[Cell]:
    """The cells in order; with several processes, process 0 shows a progress bar."""
    return progress.track(pending, "cells of the sweep") if jax.process_index() == 0 else iter(pending)
