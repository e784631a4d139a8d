"""Summaries of experiments: read from files, their numbers as text, and a run as an article of a page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gsjax import files, pages, records
from gsjax.pages import Html, element

_LONG = 12  # rows; a longer table is folded
_COLUMNS = ("measured [95% interval]", "seeds", "published", "what differs")


class Summary(NamedTuple):
    """A checked summary with the files beside it.

    Attributes:
        path: of the file.
        content: as `records.summary` wrote it.
        seconds: computing time, if it is known.
        figures: PNG files.
    """

    path: Path
    content: dict[str, Any]
    seconds: float | None
    figures: list[Path]

    @property
    def name(self) -> str:
        """EXPERIMENT/PRESET."""
        return f"{self.content['experiment']}/{self.content['preset']}"

    @property
    def judged(self) -> bool:
        """Whether its signatures are meaningful: those of the preset smoke are not, since its runs are too short."""
        return self.content["preset"] != "smoke"


def read(path: Path) -> Summary:
    """The summary in the file `path`.

    Raises:
        ValueError: the file, or one beside it, is damaged; the message names it.
        OSError: it cannot be read.
    """
    try:
        content = records.read(path)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("path: ")) from error
    timing = path.with_name("timing.json")
    file, seconds, figures = timing, None, sorted(path.parent.glob("*.png"))
    try:
        if timing.exists():
            seconds = _seconds(files.parse(timing.read_bytes()))
        for file in figures:
            pages.check_png(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); run the experiment again, or copy its results again") from error
    return Summary(path, content, seconds, figures)


def _seconds(content: Any) -> float:
    """The seconds in `timing.json`, checked."""
    seconds = content.get("seconds") if isinstance(content, dict) else None
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise ValueError(f"expected an object whose seconds are a number, 0 or more, got {str(content)[:60]}")
    return float(seconds)


def number(value: Any) -> str:
    """A number with three significant digits, or all digits of its integer part; text unchanged; "" for None.

    From a hundred million on, three significant digits and a power of ten.

    >>> number(0.98765), number(12345.6), number(4.3e9), number(8), number(True), number(None)
    ('0.988', '12346', '4.3e+09', '8', 'yes', '')
    """
    if isinstance(value, float) and 1000 <= abs(value) < 1e8:
        return f"{value:.0f}"
    return pages.number(value, 3)


def measured(row: Mapping[str, Any]) -> str:
    """The number of a row and its interval."""
    return interval(row["measured"], row["interval"])


def valued(signature: Mapping[str, Any]) -> str:
    """The number of a signature and its interval."""
    return interval(signature["value"], signature["interval"])


def article(summary: Summary, place: str, title: str, notes: Sequence[str], made: Mapping[str, Any]) -> Html:
    """A run with its signatures, figures, numbers, data and configuration; long tables are folded.

    Args:
        summary: of the run.
        place: the id of the article on the page.
        title: one line on the experiment.
        notes: in a few words each, where the run comes from, when it was made, and how long it took.
        made: what else is known about the making of the run, by name.
    """
    content = summary.content
    return element(
        "article",
        element(
            "header",
            element("h3", summary.name),
            element("span", " · ".join(notes), class_="soft"),
        ),
        element("p", title),
        _signatures(summary),
        (_figure(path, summary.name) for path in summary.figures),
        _numbers(summary),
        element("h4", "Data"),
        _data(content["data"], f"data of {summary.name}"),
        pages.fold(
            f"Configuration and versions of {summary.name}",
            pages.facts({key: text(flat(entry)) for key, entry in content["config"].items()}),
            pages.facts({key: text(entry) for key, entry in content["versions"].items()}),
            pages.facts({key: text(flat(entry)) for key, entry in made.items()}) if made else None,
        ),
        id=place,
    )


def clock(seconds: float | None) -> str:
    """The computing time in words."""
    return "no clock" if seconds is None else f"{number(float(round(seconds, 1)))} s of computation"


def verdict(holds: bool, judged: bool) -> Html:
    """Whether a signature holds, or that the run is too short for a verdict."""
    if not judged:
        return pages.badge("too short to judge")
    return pages.badge("holds" if holds else "does not hold", holds)


def shown(name: str | Path) -> str:
    """The name of a file as text; bytes that are not UTF-8 are shown by their codes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def text(value: Any) -> Html:
    """Text as HTML, with its numbers typeset."""
    return pages.typeset(number(value))


def _signatures(summary: Summary) -> list[Html] | None:
    if not (signatures := summary.content["signatures"]):
        return None
    rows = [
        [text(entry["name"]), text(valued(entry)), verdict(entry["holds"], summary.judged), text(entry["why"])]
        for entry in signatures
    ]
    heads = ("signature", "value [95% interval]", "verdict", "criterion")
    label = f"signatures of {summary.name} with their criteria"
    return [
        element("h4", "Signatures"),
        _perhaps_folded(f"all {len(rows)} signatures", pages.table(heads, rows, label=label), rows),
    ]


def _numbers(summary: Summary) -> list[Html]:
    content = summary.content
    filled = [
        [text(measured(row)), *map(text, _cells(row, "seeds", "published", "differs"))] for row in content["rows"]
    ]
    keep = [0, *(column for column in range(1, 4) if any(cells[column] for cells in filled))]
    rows = [
        [text(row["name"]), *(cells[column] for column in keep)]
        for row, cells in zip(content["rows"], filled, strict=True)
    ]
    heads = ("number", *(_COLUMNS[column] for column in keep))
    table = pages.table(heads, rows, label=f"numbers of {summary.name}")
    return [element("h4", "Paper against measured"), _perhaps_folded(f"all {len(rows)} numbers", table, rows)]


def _perhaps_folded(title: str, table: Html, rows: Sequence[Any]) -> Html:
    return pages.fold(title, table) if len(rows) > _LONG else table


def _data(data: Any, label: str) -> Html:
    sets = [data] if isinstance(data, Mapping) else data
    columns = list(dict.fromkeys(key for one in sets for key in one))
    rows = []
    for one in sets:
        cells = {key: text(flat(entry)) for key, entry in one.items()}
        if one.get("stand-in"):
            cells["stand-in"] = element("span", cells["stand-in"], class_="bad")
        rows.append([cells.get(column, "") for column in columns])
    return pages.table(columns, rows, label=label)


def _figure(path: Path, name: str) -> Html:
    return pages.figure(path.read_bytes(), f"Figure {shown(path.stem)} of {name}")


def _cells(entry: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    return tuple(number(entry[key]) for key in keys)


def interval(value: Any, interval: Any) -> str:
    """A number and its interval; the number alone if there is none."""
    if interval is None:
        return number(value)
    low, high = map(number, interval)
    return f"{number(value)} [{low}, {high}]"


def flat(value: Any) -> str:
    """A JSON value in one line."""
    if isinstance(value, list):
        return ", ".join(map(flat, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {flat(entry)}" for key, entry in value.items())
    return number(value)
