"""Summaries of experiments as one page of HTML that needs no other file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gsjax import files, pages, records
from gsjax.pages import Html, element

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

    >>> number(0.98765), number(12345.6), number(8), number(True), number(None)
    ('0.988', '12346', '8', 'yes', '')
    """
    if isinstance(value, float) and abs(value) >= 1000:
        return f"{value:.0f}"
    return pages.number(value, 3)


def measured(row: Mapping[str, Any]) -> str:
    """The number of a row and its interval."""
    return _interval(row["measured"], row["interval"])


def valued(signature: Mapping[str, Any]) -> str:
    """The number of a signature and its interval."""
    return _interval(signature["value"], signature["interval"])


def page(summaries: Sequence[Summary], titles: Mapping[str, str]) -> str:
    """One page of all summaries with their figures; `titles` has one line on each experiment."""
    judged = [summary for summary in summaries if summary.judged]
    signatures = [entry for summary in judged for entry in summary.content["signatures"]]
    hold = sum(bool(entry["holds"]) for entry in signatures)
    good = "soft" if not judged else "good" if hold == len(signatures) else "bad"
    count = [f"{hold} of {len(signatures)} signatures hold, in {_runs(len(judged))}."] if judged else []
    if len(judged) < len(summaries):
        count.append(f"{_runs(len(summaries) - len(judged))} of the preset smoke: too short to judge by.")
    return pages.page(
        "Gradient starvation in practice",
        element("p", element("strong", " ".join(count)), class_=good),
        element(
            "p",
            "A signature is a number that shows an effect, or does not, by the criterion stated beside it. "
            "Intervals are 95% intervals of Student's t over seeds, unless said otherwise. Signatures of one run are "
            "judged together, by Holm's method. Published numbers are the paper's; what differs from its setting "
            "stands beside them.",
            class_="soft",
        ),
        (_overview(index, summary) for index, summary in enumerate(summaries)),
        (_article(index, summary, titles) for index, summary in enumerate(summaries)),
    )


def _overview(index: int, summary: Summary) -> Html:
    link = element("a", summary.name, href=f"#run{index}")
    signatures = summary.content["signatures"]
    if not signatures:
        return element("p", link, ": no signatures")
    rows = [
        [_text(entry["name"]), _text(valued(entry)), _verdict(entry["holds"], summary.judged)] for entry in signatures
    ]
    return pages.table([link, "value [95% interval]", "verdict"], rows, label=f"signatures of {summary.name}")


def _article(index: int, summary: Summary, titles: Mapping[str, str]) -> Html:
    content = summary.content
    took = "" if summary.seconds is None else f" · {number(float(round(summary.seconds, 1)))} s of computation"
    filled = [
        [_text(measured(row)), *map(_text, _cells(row, "seeds", "published", "differs"))] for row in content["rows"]
    ]
    keep = [0, *(column for column in range(1, 4) if any(cells[column] for cells in filled))]
    rows = [
        [_text(row["name"]), *(cells[column] for column in keep)]
        for row, cells in zip(content["rows"], filled, strict=True)
    ]
    signatures = [
        [_text(entry["name"]), _text(valued(entry)), _verdict(entry["holds"], summary.judged), _text(entry["why"])]
        for entry in content["signatures"]
    ]
    criteria = ("signature", "value [95% interval]", "verdict", "criterion")
    return element(
        "article",
        element(
            "header",
            element("h2", content["experiment"]),
            element("span", f"preset {content['preset']}{took} · {_shown(summary.path.parent)}", class_="soft"),
        ),
        element("p", titles.get(content["experiment"], "")),
        element("h3", "Paper against measured"),
        pages.table(["number", *(_COLUMNS[column] for column in keep)], rows, label=f"numbers of {summary.name}"),
        [
            element("h3", "Signatures"),
            pages.table(criteria, signatures, label=f"signatures of {summary.name} with their criteria"),
        ]
        if signatures
        else None,
        element("h3", "Data"),
        _data(content["data"], f"data of {summary.name}"),
        (_figure(path, summary.name) for path in summary.figures),
        pages.fold(
            "configuration and versions",
            pages.facts({key: _text(_flat(entry)) for key, entry in content["config"].items()}),
            pages.facts({key: _text(entry) for key, entry in content["versions"].items()}),
        ),
        id=f"run{index}",
    )


def _data(data: Any, label: str) -> Html:
    sets = [data] if isinstance(data, Mapping) else data
    columns = list(dict.fromkeys(key for one in sets for key in one))
    rows = []
    for one in sets:
        cells = {key: _text(_flat(entry)) for key, entry in one.items()}
        if one.get("stand-in"):
            cells["stand-in"] = element("span", cells["stand-in"], class_="bad")
        rows.append([cells.get(column, "") for column in columns])
    return pages.table(columns, rows, label=label)


def _figure(path: Path, name: str) -> Html:
    return pages.figure(path.read_bytes(), f"Figure {_shown(path.stem)} of {name}")


def _runs(count: int) -> str:
    return f"{count} {'run' if count == 1 else 'runs'}"


def _verdict(holds: bool, judged: bool) -> Html:
    if not judged:
        return pages.badge("too short to judge")
    return pages.badge("holds" if holds else "does not hold", holds)


def _cells(entry: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    return tuple(number(entry[key]) for key in keys)


def _interval(value: Any, interval: Any) -> str:
    if interval is None:
        return number(value)
    low, high = map(number, interval)
    return f"{number(value)} [{low}, {high}]"


def _shown(name: str | Path) -> str:
    """The name of a file as text; bytes that are not UTF-8 are shown by their codes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _flat(value: Any) -> str:
    """A JSON value in one line."""
    if isinstance(value, list):
        return ", ".join(map(_flat, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_flat(entry)}" for key, entry in value.items())
    return number(value)


def _text(value: Any) -> Html:
    """Text as HTML, with its numbers typeset."""
    return pages.typeset(number(value))
