"""The files of a run in its folder: configuration, rows, summary, provenance and timing.

`config.json`, `rows.jsonl` and `summary.json` depend only on configuration and seed: the same run gives the same bytes,
whether or not it was interrupted. `provenance.json` says where and how it ran, and `timing.jsonl` holds the wall-clock
times. JSON has no NaN and no infinity: such numbers become null.

All files are checked when they are read back. The error for a damaged or altered file names the file.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gsjax import _check, _locks, files
from gsjax.files import write

__all__ = ["Table", "provenance", "read", "rows", "seconds", "summary", "versions", "write"]

_PACKAGES = ("gsjax", "jax", "jaxlib", "flax", "optax", "numpy")
_DELETE = "delete the folder, or name another one"
_START_AGAIN = "delete all lines of that cell, or the file, and start again"


class Table:
    """Rows of the finished cells of a sweep in a folder, from which an interrupted sweep resumes.

    `rows.jsonl` is replaced atomically when a cell is added: at any time it holds all rows of a cell or none. In a run
    of several processes only process 0 opens a table; the others do not touch files.

    One process at a time has tables of a folder. A lock of the operating system, which ends with the process, holds
    the folder until its tables are closed or no longer referenced. Tables of one folder in the same process share their
    rows. Reading the files needs no table.

    Args:
        folder: created if it does not exist; an existing one must have the same configuration, and its rows are kept.
        config: everything that the rows depend on: numbers, text, paths and arrays, in mappings and sequences.

    Raises:
        ValueError: the folder has another configuration, or rows without a configuration; one of its files is damaged;
            another process has a table of it; this is not process 0.
        OSError: a file cannot be read or written; its former content is unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Table(folder, {"widths": (32, 64)}) as table:
    ...         table.add({"width": 32}, [{"width": 32, "error": 0.1}], seconds=2.0)
    ...     Table(folder, {"widths": (32, 64)}).rows
    [{'error': 0.1, 'width': 32}]
    """

    def __init__(self, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
        _check.require(jax.process_index() == 0, "folder", "process 0 to write it", f"process {jax.process_index()}")
        _check.require(isinstance(config, Mapping), "config", "a mapping", type(config).__name__)
        _check.require(os.fspath(folder) != "", "folder", "the name of a folder", repr(folder))
        settings = files.plain(config, "config")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock: _locks.Lock | None = _locks.lock(self.folder, "folder")
        try:
            with self._lock.turn:
                self._settle(settings)
                if "rows" not in self._lock.shared:
                    self._lock.shared["rows"] = _Kept(self.folder, self._lock.turn)
                self._kept: _Kept = self._lock.shared["rows"]
                self._kept.read()
                self._sign()
        except BaseException:
            self.close()  # the traceback refers to this table for a while
            raise

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the folder to other processes; the rows can still be read, but none added."""
        self._lock = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows so far, as read from the file, in the order in which they were added.

        Looking up a missing key of a row raises a `ValueError` that names the file.
        """
        return [_Row(row, self.folder / "rows.jsonl") for row in self._kept.rows()]

    def has(self, cell: Mapping[str, Any]) -> bool:
        """Whether a finished cell agrees with `cell` on every key of `cell`."""
        key = files.plain(cell, "cell")
        return any(_agrees(row, key) for row in self._kept.rows())

    def add(self, cell: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Writes all rows of a finished cell at once.

        Args:
            cell: the values that identify the cell, e.g. width, depth, penalty and strength.
            rows: one or more, e.g. one per seed; each repeats the keys and values of `cell`.
            seconds: the computing time, written to `timing.jsonl`.

        Raises:
            ValueError: there are no rows, a row does not belong to this cell, or the cell is already in the table; the
                table is closed, or its folder was replaced or belongs to another process.
            OSError: the rows cannot be written; those of other cells are unchanged.
        """
        _check.require(isinstance(cell, Mapping), "cell", "a mapping", type(cell).__name__)
        for row in (rows := list(rows)):
            _check.require(isinstance(row, Mapping), "rows", "mappings", type(row).__name__)
        key, added = files.plain(cell, "cell"), [files.plain(row, "rows") for row in rows]
        foreign = [row for row in added if not _agrees(row, key)]
        duration = files.plain(seconds, "seconds")
        good = duration is None or (_is_number(duration) and duration >= 0)
        _check.require(good, "seconds", "a number, 0 or more", duration)
        _check.require(len(added) > 0, "rows", f"one row or more of {key}", "none")
        _check.require(not foreign, "rows", f"rows with the keys and values of {key}", foreign[:1])
        self._own()
        with self._kept.turn:
            _check.require(not self.has(key), "cell", f"a cell that is not in {self.folder} yet", key)
            self._kept.add(added, {**key, "seconds": duration})

    def _own(self) -> None:
        """Checks that the folder is still locked for this table."""
        lock = self._lock
        _check.require(lock is not None, "folder", "an open table", f"{self.folder}, whose table was closed")
        assert lock is not None
        same = lock.pid == os.getpid()
        expected = f"to be written by process {lock.pid}, which opened it"
        _check.require(same, "folder", expected, f"process {os.getpid()}")
        expected = "the folder that was opened; open a table again"
        _check.require(lock.valid(), "folder", expected, f"{self.folder}, which was deleted or replaced meanwhile")

    def _settle(self, config: dict[str, Any]) -> None:
        """Writes `config` to the folder, or checks that the folder has this configuration."""
        path, rows = self.folder / "config.json", self.folder / "rows.jsonl"
        if not path.exists():
            expected = "a new folder or one with a config.json"
            _check.require(not rows.exists(), "folder", expected, f"{rows} without it")
            files.write(path, files.json_document(config))
        stored, given = (dict(_leaves(settings)) for settings in (_read(path, _is_object), config))
        absent = _Absent()
        for name in {**given, **stored}:
            old, new = stored.get(name, absent), given.get(name, absent)
            expected = f"a new folder or one of the same configuration, in which {name} is {new}"
            _check.require(old == new, "folder", expected, f"{self.folder}, in which it is {old}")

    def _sign(self) -> None:
        """Adds this run to `provenance.json`, unless it equals the last entry."""
        path, devices = self.folder / "provenance.json", jax.devices()
        run = {
            "command": shlex.join(sys.orig_argv),
            "versions": versions(),
            "platform": platform.platform(),
            "devices": {"kind": devices[0].device_kind, "count": len(devices), "processes": jax.process_count()},
        }
        runs = provenance(self.folder)
        if runs[-1:] != [run]:
            files.write(path, files.json_document({"runs": [*runs, run]}))


class _Absent:
    """Stands for a missing value of a configuration; unequal to every value, even to the text that it prints."""

    def __str__(self) -> str:
        return "nothing"


class _Kept:
    """The rows of a folder, shared by the tables of this process, in step with the files.

    `turn` is the mutex of the threads that read or add.
    """

    def __init__(self, folder: Path, turn: threading.RLock) -> None:
        self.folder, self.turn = folder, turn
        self._rows: list[dict[str, Any]] = []
        self._text = ""  # kept, since formatting all rows anew would take longer than adding a cell
        self._timing: list[dict[str, Any]] = []
        self._current = False
        for leftover in folder.glob(f"{files.UNFINISHED}*"):  # left by a process that was killed while writing
            leftover.unlink(missing_ok=True)

    def read(self) -> None:
        rows, timing = _read_lines(self.folder / "rows.jsonl"), _read_clocks(self.folder / "timing.jsonl")
        self._rows, self._text, self._timing, self._current = rows, files.json_lines(rows), timing, True

    def rows(self) -> list[dict[str, Any]]:
        """The rows; they are read again if a write was interrupted."""
        if not self._current:
            with self.turn:
                self.read()
        return self._rows

    def add(self, rows: list[dict[str, Any]], clock: dict[str, Any]) -> None:
        self.rows()
        # The time is written first: a cell that is computed again after an interruption in between has two, both true.
        timing = [*self._timing, clock]
        text = self._text + files.json_lines(rows)
        self._current = False
        files.write(self.folder / "timing.jsonl", files.json_lines(timing))
        files.write(self.folder / "rows.jsonl", text)
        self._timing, self._text, self._rows, self._current = timing, text, [*self._rows, *rows], True


class _Row(dict[str, Any]):
    """A row of a file; the error for a missing key names the file."""

    def __init__(self, row: Mapping[str, Any], path: Path) -> None:
        super().__init__(row)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self._path} is damaged (no {key!r} in {dict(self)}); {_START_AGAIN}")


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
    """Writes `summary.json`: the results of an experiment, in numbers that can be quoted.

    Args:
        folder: an existing folder, in which the file is written.
        experiment: name of the experiment.
        preset: name of the preset that was run.
        config: everything that the numbers depend on.
        data: name and sizes of the data, and whether they stand in for others; a sequence if there are several.
        rows: each with `name, measured, interval, seeds, published, differs`: a number, its interval [low, high] or
            None, the number of seeds, the published number, and how its setting differs (or None).
        signatures: each with `name, value, interval, holds, why`: a number, and whether it shows the effect.

    Raises:
        ValueError: a row or a signature has missing or unknown keys, values of the wrong type, or an invalid interval;
            another argument has the wrong type.
        OSError: the file cannot be written.
    """
    given = {
        "experiment": experiment,
        "preset": preset,
        "config": config,
        "data": data,
        "versions": versions(),
        "rows": rows,
        "signatures": signatures,
    }
    content = {name: files.plain(value, name) for name, value in given.items()}
    _check_summary(content)
    files.write(Path(folder) / "summary.json", files.json_document(content))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a `summary.json`, checked in the way of `summary`; further keys are allowed.

    Raises:
        ValueError: the file is damaged or not a summary.
        OSError: the file cannot be read.
    """

    def check(content: Any) -> None:
        _is_object(content)
        _check_summary(content)

    return _read(Path(path), check, "path", "run the experiment again, or copy its results again")


def seconds(folder: str | os.PathLike[str]) -> float:
    """The total seconds of all cells in every `timing.jsonl` in `folder` and its subfolders.

    Raises:
        ValueError: a `timing.jsonl` is damaged.
        OSError: a `timing.jsonl` cannot be read.
    """
    clocks = [clock for path in sorted(Path(folder).rglob("timing.jsonl")) for clock in _read_clocks(path)]
    return math.fsum(clock["seconds"] or 0 for clock in clocks)


def rows(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows in the `rows.jsonl` of `folder`, in the order in which they were added; none if there is no such file.

    Unlike `Table`, this only reads: the folder may be in use by another process.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.

    >>> import tempfile
    >>> rows(tempfile.gettempdir() + "/no such folder")
    []
    """
    return _read_lines(Path(folder) / "rows.jsonl")


def provenance(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The runs in the `provenance.json` of `folder`, the last one last; none if there is no such file.

    Each has `command`, `versions`, `platform` and `devices`.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.

    >>> import tempfile
    >>> provenance(tempfile.gettempdir() + "/no such folder")
    []
    """
    path = Path(folder) / "provenance.json"
    return _read(path, _is_provenance, advice="delete that file")["runs"] if path.exists() else []


def _check_summary(content: Mapping[str, Any]) -> None:
    """Checks that every entry is present and has its type."""
    for name, (expected, good) in _SUMMARY.items():
        _check.require(name in content, name, expected, "nothing")
        _check.require(good(content[name]), name, expected, _short(content[name]))
    for name, columns in (("rows", _ROW), ("signatures", _SIGNATURE)):
        for entry in content[name]:
            _check.require(set(entry) == set(columns), name, f"the keys {sorted(columns)}", sorted(entry))
            for key, (expected, good) in columns.items():
                location = "" if key == "name" else f" in {_short(entry['name'])}"
                _check.require(good(entry[key]), name, f"{expected} as {key!r}", f"{_short(entry[key])}{location}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]


def _is_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _or_none(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or good(value)


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types)


_TEXT = ("text", _is(str))
_NUMBER = ("a number or None", _or_none(_is(int, float)))  # accepts bools too
_INTERVAL = ("an interval [low, high] or None", _or_none(_is_interval))
_SUMMARY = {
    "experiment": _TEXT,
    "preset": _TEXT,
    "config": ("a mapping", _is(dict)),
    "data": ("a mapping or several", lambda value: isinstance(value, dict) or _is_mappings(value)),
    "versions": ("names and versions", lambda value: isinstance(value, dict) and all(map(_TEXT[1], value.values()))),
    "rows": ("mappings", _is_mappings),
    "signatures": ("mappings", _is_mappings),
}
_ROW = {
    "name": _TEXT,
    "measured": _NUMBER,
    "interval": _INTERVAL,
    "seeds": ("a whole number or None", lambda value: value is None or (_is_number(value) and isinstance(value, int))),
    "published": ("a number, text or None", _or_none(_is(int, float, str))),
    "differs": ("text or None", _or_none(_is(str))),
}
_SIGNATURE = {
    "name": _TEXT,
    "value": _NUMBER,
    "interval": _INTERVAL,
    "holds": ("True or False", _is(bool)),
    "why": _TEXT,
}


def _agrees(row: Mapping[str, Any], cell: Mapping[str, Any]) -> bool:
    return all(key in row and row[key] == value for key, value in cell.items())


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the entries of nested mappings."""
    if isinstance(value, dict) and (value or not name):
        for key, entry in value.items():
            yield from _leaves(entry, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _is_object(content: Any) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {_short(content)}")


def _is_provenance(content: Any) -> None:
    _is_object(content)
    _check.require(_is_mappings(content.get("runs")), "runs", "a list of objects", _short(content.get("runs", "none")))


def _is_clock(content: Any) -> None:
    _is_object(content)
    duration = content.get("seconds", "nothing")
    _check.require(
        duration is None or (_is_number(duration) and duration >= 0), "seconds", "a number, 0 or more", _short(duration)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read(path: Path, check: Callable[[Any], None], name: str = "folder", advice: str = _DELETE) -> dict[str, Any]:
    return _parse(path.read_bytes(), check, name, str(path), advice)


def _read_lines(path: Path, check: Callable[[Any], None] = _is_object) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_bytes().rstrip().splitlines()
    return [_parse(line, check, "folder", f"{path}, line {i},", _START_AGAIN) for i, line in enumerate(lines, 1)]


def _read_clocks(path: Path) -> list[dict[str, Any]]:
    return _read_lines(path, _is_clock)


def _parse(text: bytes, check: Callable[[Any], None], name: str, location: str, advice: str) -> dict[str, Any]:
    try:
        content = files.parse(text)
        check(content)
    except ValueError as error:
        raise ValueError(f"{name}: {location} is damaged ({error}); {advice}") from error
    return content
