"""What a run leaves behind in its folder: configuration, rows, summary, and where all that was computed.

`config.json`, `rows.jsonl` and `summary.json` depend on configuration and seed alone: the same run gives the same
bytes, killed or not. Where and how it ran is in `provenance.json`, and clocks are in `timing.jsonl`. JSON has no NaN
and no infinity: such numbers become null.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gsjax import _check, _files
from gsjax._files import write

__all__ = ["Table", "summary", "versions", "write"]

_PACKAGES = ("gsjax", "jax", "jaxlib", "flax", "optax", "numpy")
_ROW = {"name", "measured", "interval", "seeds", "published", "differs"}
_SIGNATURE = {"name", "value", "interval", "holds", "why"}


class Table:
    """Rows of the finished cells of a sweep, in a folder, so that a sweep that was killed goes on from there.

    `rows.jsonl` is replaced as a whole when a cell is added: it holds all rows of a cell or none, at any instant. Only
    process 0 of a run of several makes a table; the others have nothing to do with files.

    Args:
        folder: made if it is not there; else it is one of the same configuration, and its rows are kept.
        config: all that the rows depend on: numbers, text, paths and arrays, in mappings and sequences.

    Raises:
        ValueError: the folder is of another configuration, or has rows of an unknown one; a file in it is damaged; this
            is not process 0.
        OSError: a file cannot be read or written; what was there before is left as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Table(folder, {"widths": (32, 64)}).add({"width": 32}, [{"width": 32, "error": 0.1}], seconds=2.0)
    ...     Table(folder, {"widths": (32, 64)}).rows
    [{'error': 0.1, 'width': 32}]
    """

    def __init__(self, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
        _check.require(jax.process_index() == 0, "folder", "process 0 to write it", f"process {jax.process_index()}")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._settle(_plain(config))
        self._rows = _read_lines(self.folder / "rows.jsonl")
        self._text = _lines(self._rows)  # kept, as a cell is added in less time than all rows are put into JSON again
        self._timing = _read_lines(self.folder / "timing.jsonl")
        for leftover in self.folder.glob(f"{_files.UNFINISHED}*"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)
        self._sign()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows so far, as they are read from the file, in the order in which they were added."""
        return [dict(row) for row in self._rows]

    def has(self, cell: Mapping[str, Any]) -> bool:
        """Whether a finished cell agrees with `cell` in all its keys."""
        key = _plain(cell)
        return any(_agrees(row, key) for row in self._rows)

    def add(self, cell: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Writes all rows of a finished cell at once.

        Args:
            cell: what tells it from other cells, e.g. width, depth, penalty and strength.
            rows: one or more, e.g. one a seed; each repeats the keys and values of `cell`.
            seconds: the time that it took; it goes to `timing.jsonl`.

        Raises:
            ValueError: there are no rows, one of them is not of this cell, or the cell is there already.
            OSError: the rows cannot be written; those of other cells are left as they were.
        """
        key, added = _plain(cell), [_plain(row) for row in rows]
        strangers = [row for row in added if not _agrees(row, key)]
        _check.require(len(added) > 0, "rows", f"one row or more of {key}", "none")
        _check.require(not strangers, "rows", f"rows with the keys and values of {key}", strangers[:1])
        _check.require(not self.has(key), "cell", f"one that is not in {self.folder} yet", key)
        # The clock comes first: a cell that is computed again after a kill in between has two, and both are true.
        timing = [*self._timing, {**key, "seconds": _plain(seconds)}]
        _files.write(self.folder / "timing.jsonl", _lines(timing))
        self._timing = timing
        text = self._text + _lines(added)
        _files.write(self.folder / "rows.jsonl", text)
        self._text = text
        self._rows += added

    def _settle(self, config: dict[str, Any]) -> None:
        """Makes the folder one of `config`, unless it is one of another."""
        path, rows = self.folder / "config.json", self.folder / "rows.jsonl"
        if not path.exists():
            _check.require(not rows.exists(), "out", "a new folder or one with its config.json", f"{rows} without it")
            _files.write(path, _document(config))
        there, here = (dict(_leaves(one)) for one in (_read(path), config))
        absent = "nothing"
        for name in {**here, **there}:
            old, new = there.get(name, absent), here.get(name, absent)
            expected = f"a new folder or one of the same configuration, in which {name} is {new}"
            _check.require(old == new, "out", expected, f"{self.folder}, in which it is {old}")

    def _sign(self) -> None:
        """Adds this run to `provenance.json`, unless the one before was the same."""
        path, devices = self.folder / "provenance.json", jax.devices()
        this = {
            "command": shlex.join(sys.orig_argv),
            "versions": versions(),
            "platform": platform.platform(),
            "devices": {"kind": devices[0].device_kind, "count": len(devices), "processes": jax.process_count()},
        }
        runs = _read(path).get("runs", []) if path.exists() else []
        if runs[-1:] != [this]:
            _files.write(path, _document({"runs": [*runs, this]}))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on.

    >>> list(versions())
    ['python', 'gsjax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy']
    """
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def summary(
    folder: str | os.PathLike[str],
    *,
    experiment: str,
    preset: str,
    config: Mapping[str, Any],
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    signatures: Sequence[Mapping[str, Any]],
) -> None:
    """Writes `summary.json`: what an experiment found, in numbers that can be quoted.

    Args:
        folder: where to; it exists.
        experiment: its name.
        preset: the name of the preset that was run.
        config: all that the numbers depend on.
        data: name and sizes of the data, and whether they stand in for others; several as a sequence.
        rows: each with `name, measured, interval, seeds, published, differs`: a number, its interval [low, high] or
            None, over how many seeds, and beside a published number what differs from its setting (or None).
        signatures: each with `name, value, interval, holds, why`: a number that shows an effect or does not.

    Raises:
        ValueError: a row or a signature lacks one of these keys or has another one; an interval that is not one.
        OSError: the file cannot be written.
    """
    for name, expected, found in (("rows", _ROW, rows), ("signatures", _SIGNATURE, signatures)):
        for entry in found:
            _check.require(set(entry) == expected, name, f"the keys {sorted(expected)}", sorted(entry))
            ends = _plain(entry["interval"])
            good = ends is None or (len(ends) == 2 and None not in ends and ends[0] <= ends[1])
            _check.require(good, name, "an interval [low, high] or None", f"{ends} in {entry['name']!r}")
    content = {
        "experiment": experiment,
        "preset": preset,
        "config": config,
        "data": data,
        "versions": versions(),
        "rows": rows,
        "signatures": signatures,
    }
    _files.write(Path(folder) / "summary.json", _document(_plain(content)))


def _plain(value: Any) -> Any:
    """`value` in the types of JSON, as it would be read from a file."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # arrays of NumPy and jax, and their scalars
        return _plain(value.tolist())
    raise ValueError(f"expected numbers, text, paths and arrays, in mappings and sequences, got {value!r}")


def _agrees(row: Mapping[str, Any], cell: Mapping[str, Any]) -> bool:
    return all(key in row and row[key] == value for key, value in cell.items())


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of what is in nested mappings."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _leaves(entry, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _document(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    # Sorted: the bytes are those of the row, in whatever order it was put together.
    return "".join(json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _read(path: Path) -> dict[str, Any]:
    return _parse(path.read_bytes(), str(path), "delete the folder, or name another one")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    advice = "delete all lines of that cell, or the file, and start again"
    lines = path.read_bytes().splitlines()
    return [_parse(line, f"{path}, line {number},", advice) for number, line in enumerate(lines, 1)]


def _parse(text: bytes, where: str, advice: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"out: {where} is damaged ({error}); {advice}") from error
    _check.require(isinstance(content, dict), "out", f"an object of JSON in {where}; {advice}", content)
    return content
