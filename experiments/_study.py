"""The harness of all experiments: it computes unfinished cells, stores their rows, judges signatures and draws figures.

A module `experiments/NAME.py` has `Config`, `PRESETS` and optionally `check` (see `experiments/_options.py`), and a
function `study(config, *, out, seed) -> Study`. It reads the data and lists the cells; nothing is trained yet. A cell
is the unit in which results are stored: its key, the function that computes its rows, and the columns of these rows.
`report` turns all rows into the summary and the figures.

`run` does the rest. It skips cells whose rows are in `rows.jsonl`, so a run that was killed can continue. Stored rows
are checked against their columns: a changed or truncated row is a `ValueError` that names the file.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Key

from experiments import _rows
from gsjax import progress, records

Row = Mapping[str, Any]
Columns = Mapping[str, Any]
"""Types of the fields of a row, by name: `float` (a number; null if it was not finite), `int`, `bool`, `str`,
`(float, 3, None)` for three lists of numbers of any length, or columns for a nested mapping."""


class Cell(NamedTuple):
    """The unit in which results are stored.

    Attributes:
        key: identifies the cell; all of its rows have these values.
        compute: returns the rows, each of which includes `key`.
        columns: the other fields of each row.
        size: number of rows, e.g. one per seed.
        folder: of its `rows.jsonl`, relative to that of the run.
        files: files that `compute` also writes; if one of them is missing, the cell is computed again.
    """

    key: Row
    compute: Callable[[], Sequence[Row]]
    columns: Columns
    size: int
    folder: str = "."
    files: Sequence[Path] = ()


class Report(NamedTuple):
    """The results that follow from the rows.

    Attributes:
        rows: rows of the summary, from `_rows.measured`.
        signatures: from `_rows.signature`; `run` judges them together.
        figures: functions that draw to a path, by file name.
    """

    rows: Sequence[Row]
    signatures: Sequence[Row]
    figures: Mapping[str, Callable[[Path], object]]


class Study(NamedTuple):
    """An experiment with its configuration and data.

    Attributes:
        data: description of the data in the summary: name, sizes, whether they are a stand-in for others.
        cells: in the order in which they are computed.
        report: makes the report from the rows of all cells, in the order of `cells`.
        together: whether all processes of a run compute each cell together; otherwise process 0 computes alone.
    """

    data: Row | Sequence[Row]
    cells: Sequence[Cell]
    report: Callable[[list[dict[str, Any]]], Report]
    together: bool = False


def run(name: str, build: Callable[..., Study], config: Any, out: Path, *, preset: str, seed: int) -> None:
    """Computes all unfinished cells, and writes `rows.jsonl`, `summary.json`, figures and timings to `out`.

    Every process of a run calls this function; only process 0 writes.

    Args:
        name: of the experiment.
        build: its `study`.
        config: its `Config`.
        out: the folder of the run.
        preset: the name of the preset that `config` is based on.
        seed: of all random numbers.

    Raises:
        ValueError: invalid arguments; damaged rows; a folder with the results of another configuration.
        OSError: a file cannot be read or written.
    """
    study: Study = build(config, out=out, seed=seed)
    if jax.process_index() != 0 and not study.together:
        return
    settings = {**dataclasses.asdict(config), "seed": seed}
    tables = _tables(out, settings, study.cells) if jax.process_index() == 0 else {}
    for cell in _pending(study.cells, tables):
        start = time.perf_counter()
        rows = cell.compute()
        if tables and not tables[cell.folder].has(cell.key):
            tables[cell.folder].add(cell.key, rows, time.perf_counter() - start)
    if not tables:
        return
    report = study.report(_stored(study.cells, tables))
    _rows.finish(
        out,
        experiment=name,
        preset=preset,
        config=config,
        seed=seed,
        data=study.data,
        rows=report.rows,
        signatures=report.signatures,
    )
    for file, draw in report.figures.items():
        draw(out / file)


def keys(seed: int, numbers: Iterable[int]) -> Key[Array, " k"]:
    """One key per number, e.g. per network. The key of a number does not depend on the other numbers.

    >>> bool((keys(0, range(3))[2] == keys(0, [2])[0]).all())
    True
    """
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(jnp.asarray(list(numbers)))


def select(rows: Iterable[Row], **key: Any) -> list[dict[str, Any]]:
    """The rows that have these values.

    >>> select([{"arm": "erm", "seed": 0}, {"arm": "sd", "seed": 0}], arm="sd")
    [{'arm': 'sd', 'seed': 0}]
    """
    return [dict(row) for row in rows if key.items() <= row.items()]


def _tables(out: Path, settings: dict[str, Any], cells: Sequence[Cell]) -> dict[str, records.Table]:
    """The tables of all folders, that of the run first, so that an error about another configuration names this one."""
    folders = dict.fromkeys([".", *(cell.folder for cell in cells)])
    return {folder: records.Table(out / folder, settings) for folder in folders}


def _pending(cells: Sequence[Cell], tables: Mapping[str, records.Table]) -> Iterator[Cell]:
    """The unfinished cells, the same in all processes; process 0 shows a progress bar."""
    finished = np.array(
        [bool(tables) and tables[cell.folder].has(cell.key) and all(map(Path.exists, cell.files)) for cell in cells]
    )
    if jax.process_count() > 1:
        finished = np.asarray(multihost_utils.broadcast_one_to_all(finished))
    left = [cell for cell, done in zip(cells, finished, strict=True) if not done]
    return progress.track(left, "cells") if jax.process_index() == 0 else iter(left)


def _stored(cells: Sequence[Cell], tables: Mapping[str, records.Table]) -> list[dict[str, Any]]:
    """The rows of all cells, read from the files and checked."""
    found, stored = [], {folder: table.rows for folder, table in tables.items()}
    for cell in cells:
        rows = [row for row in stored[cell.folder] if cell.key.items() <= row.items()]
        file = tables[cell.folder].folder / "rows.jsonl"
        _sound(len(rows) == cell.size, file, f"{cell.size} rows, got {len(rows)}", cell)
        for row in rows:
            for name, kind in cell.columns.items():
                _sound(fits(row.get(name, ...), kind), file, f"{_called(kind)} as {name!r}", cell)
        found += rows
    return found


def _sound(good: bool, file: Path, expected: str, cell: Cell) -> None:
    if not good:
        advice = "delete all lines of that cell, and it is computed again"
        raise ValueError(f"{file} is damaged (expected {expected} in {dict(cell.key)}); {advice}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value has a type, as in `Columns`.

    >>> fits([[1, None], [2.5, 3]], (float, 2, None)), fits([1], (float, 2)), fits({"a": True}, {"a": int})
    (True, False, False)
    """
    if isinstance(kind, Mapping):
        return isinstance(value, dict) and all(fits(value.get(name, ...), each) for name, each in kind.items())
    if isinstance(kind, tuple):
        scalar, *shape = kind
        if not shape:
            return fits(value, scalar)
        length, *rest = shape
        right = isinstance(value, list) and length in (None, len(value))
        return right and all(fits(entry, (scalar, *rest)) for entry in value)
    if kind is float and value is None:
        return True
    number = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
    return number if kind in (int, float) else isinstance(value, kind)


def _called(kind: Any) -> str:
    """A type of `Columns` in words."""
    if isinstance(kind, Mapping):
        return "{" + ", ".join(f"{name}: {_called(each)}" for name, each in kind.items()) + "}"
    if isinstance(kind, tuple):
        scalar, *shape = kind
        return f"{_called(scalar)} of shape ({', '.join('any' if n is None else str(n) for n in shape)})"
    return {float: "number", int: "whole number", bool: "truth value", str: "text"}[kind]
