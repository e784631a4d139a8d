"""The scaffolding of every experiment: what is finished is kept, the rest is computed, recorded, judged and drawn.

A module `experiments/NAME.py` has, beside `Config`, `PRESETS` and perhaps `check` (see `experiments/_options.py`), a
function `study(config, *, out, seed) -> Study`. It reads the data and lists the cells; nothing is trained yet. A cell
is the unit in which results are kept: its key, the function that computes its rows, and the columns of these rows.
`report` makes of all rows what `summary.json` says, and the figures.

`run` does the rest. Cells whose rows are in `rows.jsonl` are skipped, so that a run that was killed goes on. Rows that
are read back are checked against their columns: what was changed or cut off is a `ValueError` that names the file.
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
"""What a row has, by name: `float` (a number; null if it was not finite), `int`, `bool`, `str`, `(float, 3, None)` for
three lists of numbers of any length, or the columns of a mapping."""


class Cell(NamedTuple):
    """The unit in which results are kept.

    Attributes:
        key: what tells it from other cells; all of its rows have these values.
        compute: computes its rows, of each of which `key` is a part.
        columns: what each row has beside the key.
        size: how many rows there are, e.g. one per seed.
        folder: of its `rows.jsonl`, within that of the run.
        files: what `compute` writes beside the rows; a cell without one of them is computed again.
    """

    key: Row
    compute: Callable[[], Sequence[Row]]
    columns: Columns
    size: int
    folder: str = "."
    files: Sequence[Path] = ()


class Report(NamedTuple):
    """What is said of the rows.

    Attributes:
        rows: of the summary, as `_rows.measured` makes them.
        signatures: as `_rows.signature` makes them; `run` judges them together.
        figures: by file name, functions that draw to a path.
    """

    rows: Sequence[Row]
    signatures: Sequence[Row]
    figures: Mapping[str, Callable[[Path], object]]


class Study(NamedTuple):
    """An experiment with its configuration and data.

    Attributes:
        data: what the summary says of the data: name, sizes, whether they stand in for others.
        cells: all of them, in the order in which they are computed.
        report: makes the report of the rows of all cells, which are in the order of `cells`.
        together: whether all processes of a run compute each cell together; otherwise process 0 computes alone.
    """

    data: Row | Sequence[Row]
    cells: Sequence[Cell]
    report: Callable[[list[dict[str, Any]]], Report]
    together: bool = False


def run(name: str, build: Callable[..., Study], config: Any, out: Path, *, preset: str, seed: int) -> None:
    """Computes what is not there yet, and writes `rows.jsonl`, `summary.json`, figures and clocks to `out`.

    Every process of a run calls it; process 0 writes.

    Args:
        name: of the experiment.
        build: its `study`.
        config: its `Config`.
        out: the folder of the run.
        preset: the name of the preset that `config` began from.
        seed: of all random numbers.

    Raises:
        ValueError: it cannot be run as asked; stored rows are damaged; the folder is of another configuration.
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
    """One key per number, such as those of the networks: number i has the same key however many there are.

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
    """The tables of all folders; that of the run first, so that a folder of another configuration is named."""
    folders = dict.fromkeys([".", *(cell.folder for cell in cells)])
    return {folder: records.Table(out / folder, settings) for folder in folders}


def _pending(cells: Sequence[Cell], tables: Mapping[str, records.Table]) -> Iterator[Cell]:
    """The cells that are not finished, the same ones in all processes; process 0 shows progress."""
    finished = np.array(
        [bool(tables) and tables[cell.folder].has(cell.key) and all(map(Path.exists, cell.files)) for cell in cells]
    )
    if jax.process_count() > 1:
        finished = np.asarray(multihost_utils.broadcast_one_to_all(finished))
    left = [cell for cell, done in zip(cells, finished, strict=True) if not done]
    return progress.track(left, "cells") if jax.process_index() == 0 else iter(left)


def _stored(cells: Sequence[Cell], tables: Mapping[str, records.Table]) -> list[dict[str, Any]]:
    """The rows of all cells, as they are in the files, checked."""
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
    """Whether a value of JSON is of a kind, as in `Columns`.

    >>> fits([[1, None], [2.5, 3]], (float, 2, None)), fits([1], (float, 2)), fits({"a": True}, {"a": int})
    (True, False, False)
    """
    if isinstance(kind, Mapping):
        return isinstance(value, dict) and all(fits(value.get(name, ...), of) for name, of in kind.items())
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
    """A kind in words."""
    if isinstance(kind, Mapping):
        return "{" + ", ".join(f"{name}: {_called(of)}" for name, of in kind.items()) + "}"
    if isinstance(kind, tuple):
        scalar, *shape = kind
        return f"{_called(scalar)} of shape ({', '.join('any' if n is None else str(n) for n in shape)})"
    return {float: "number", int: "whole number", bool: "truth value", str: "text"}[kind]
