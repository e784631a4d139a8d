"""Tables of text, one row on each line: words, or fields between commas; errors name the file and the line."""

from __future__ import annotations

import collections
import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from gsjax import _check
from gsjax.data._reading import lines

__all__ = ["check_unique", "check_widths", "column", "every", "fields", "rows_once", "words"]


def words(table: Path) -> list[list[str]]:
    """The words of each line."""
    found = lines(table)
    quote = "a stray quote: damaged"
    every(table, 1, ('"' not in line for line in found), "words between spaces", lambda row: quote)
    return [line.split() for line in found]


def fields(table: Path, line: str, number: int, delimiter: str = ",") -> list[str]:
    """The fields of a line of values between delimiters; a record is one line."""
    label, plain = f"{table}, line {number}", f'(?:"(?:[^"]|"")*"|[^"{delimiter}]*)'
    whole = re.fullmatch(f"{plain}(?:{delimiter}{plain})*", line)
    expected = f"fields between {'commas' if delimiter == ',' else repr(delimiter)}, whole ones in quotes"
    _check.require(whole, label, expected, "a stray quote: damaged")
    try:
        [found] = csv.reader([line], delimiter=delimiter) if line else [[]]
    except csv.Error as error:
        raise ValueError(f"{label}: damaged ({error})") from error
    return [field.strip() for field in found]


def check_unique(label: str, names: Sequence[str]) -> None:
    """Checks that all column names are different."""
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    _check.require(
        not repeated, label, "different names of columns", f"{', '.join(map(repr, repeated))} twice: damaged"
    )


def every(table: Path, first: int, good: Iterable[bool], expected: str, got: Callable[[int], str]) -> None:
    """Checks that all rows are good; row 0 is on line `first`, and `got(row)` describes the content of a row."""
    for row, fine in enumerate(good):
        if not fine:
            raise ValueError(f"{table}, line {first + row}: expected {expected}, got {got(row)}")


def rows_once(table: Path, files: Sequence[str], *, first: int) -> None:
    """Checks that all rows are about different photographs; row 0 is on line `first`."""
    seen: dict[str, int] = {}
    for number, file in enumerate(files, first):
        if (other := seen.setdefault(file, number)) != number:
            raise ValueError(f"{table}, line {number}: expected one row for {file}, got another on line {other}")


def check_widths(table: Path, rows: Sequence[Sequence[str]], width: int, *, first: int) -> None:
    """Checks that all rows have `width` fields; row 0 is on line `first`."""
    fit = (len(row) == width for row in rows)
    every(table, first, fit, f"{width} fields", lambda row: f"{len(rows[row])}: damaged")


def column(
    table: Path, rows: Sequence[Sequence[str]], index: int, meaning: Mapping[str, int], first: int
) -> Int[np.ndarray, " n"]:
    """The entries of a column, translated by `meaning`."""
    known = (row[index] in meaning for row in rows)
    every(table, first, known, f"one of {', '.join(meaning)}", lambda row: repr(rows[row][index]))
    return np.array([meaning[row[index]] for row in rows])
