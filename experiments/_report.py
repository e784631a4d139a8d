"""The tables of the README, made from the records in `experiments/records/NAME/PRESET/summary.json`.

In the README a table stands between `<!-- table: NAME -->` and `<!-- end -->`: of its preset laptop, or of NAME/PRESET.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from gsjax import records

ROOT = Path(__file__).parents[1]

_MARKED = re.compile(r"(<!-- table: (\S+) -->\n)((?:(?!<!-- table: ).)*?)(<!-- end -->)", re.DOTALL)
_COLUMNS = ("", "measured [95% interval]", "seeds", "published", "what differs")


@dataclass(frozen=True)
class Options:
    """Print the tables of all records as Markdown."""

    write: bool = False
    """Put them into README.md instead."""
    check: bool = False
    """Exit with 1 if README.md is not current."""


def main(arguments: Sequence[str]) -> int:
    """The command `python -m experiments report`; returns the exit status.

    Raises:
        ValueError: a record is damaged.
        OSError: a file cannot be read or written.
    """
    flags = (tyro.conf.FlagCreatePairsOff,)
    options = tyro.cli(Options, args=arguments, prog="python -m experiments report", config=flags)
    found = tables(ROOT / "experiments" / "records")
    if not (options.write or options.check):
        print("\n".join(f"## {name}\n\n{text}" for name, text in found.items()) or "no records yet")
        return 0
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    current = fill(text, found)
    if options.write and current != text:
        records.write(readme, current)
    elif current != text:
        print("experiments: README.md has other tables than the records; make readme renews them", file=sys.stderr)
        return 1
    return 0


def tables(folder: Path) -> dict[str, str]:
    """The tables of all records in `folder`, by NAME/PRESET.

    Raises:
        ValueError: a file is no summary of the experiment and preset that its folders are named after.
    """
    found = {}
    for path in sorted(folder.glob("*/*/summary.json")):
        name = path.parent.relative_to(folder).as_posix()
        try:
            record = json.loads(path.read_bytes())
            of = f"{record['experiment']}/{record['preset']}"
            found[name] = table(record["rows"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}); copy it again from the results") from error
        if of != name:
            raise ValueError(f"{path}: expected the record of {name}, got that of {of}")
    return found


def fill(text: str, tables: Mapping[str, str]) -> str:
    """`text` with the marked tables renewed; where there is no record, that is said instead."""

    def renew(match: re.Match[str]) -> str:
        begin, name, _, end = match.groups()
        return begin + tables.get(name if "/" in name else f"{name}/laptop", f"No record of {name} yet.\n") + end

    return _MARKED.sub(renew, text)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a summary as a table in Markdown, without columns that are empty."""
    cells = [*map(_cells, rows)]
    columns = [number for number in range(len(_COLUMNS)) if number < 2 or any(line[number] for line in cells)]
    lines = [[line[number] for number in columns] for line in (_COLUMNS, ("---",) * len(_COLUMNS), *cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    interval = f" [{', '.join(map(_text, row['interval']))}]" if row["interval"] else ""
    first, *last = (_text(row[key]) for key in ("name", "seeds", "published", "differs"))
    return first, _text(row["measured"]) + interval, *last


def _text(value: Any) -> str:
    """A number to three digits, all digits of a whole one; a text such that it stays in its cell."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value).replace("|", r"\|").replace("\n", " ")
