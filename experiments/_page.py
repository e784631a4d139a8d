"""Summaries of experiments as one page of HTML that needs no other file."""

from __future__ import annotations

import base64
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from gsjax import _files, records

_COLUMNS = ("", "measured [95% interval]", "seeds", "published", "what differs")

# A sibling of the style of theory/page.py; neither package needs the other.
_STYLE = """
:root { --ink: #1b1f24; --soft: #5b6470; --rule: #d9dee4; --good: #00664b; --bad: #a63c00; --tint: #f5f7f9; }
* { box-sizing: border-box; }
body { color: var(--ink); background: #fff; max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem;
  font: 17px/1.55 Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "Liberation Serif", serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 0; }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .15em; }
p { margin: .4rem 0; max-width: 48rem; }
table { border-collapse: collapse; width: 100%; font: .82rem/1.4 system-ui, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); text-align: left; white-space: nowrap; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td { overflow-wrap: anywhere; }
td:first-child { min-width: 9rem; }
sup { line-height: 0; }
.number, .verdict { white-space: nowrap; }
.soft { color: var(--soft); }
.verdict { font-weight: 600; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.scroll { overflow-x: auto; margin: .5rem 0; }
article { border-top: 2px solid var(--rule); padding: 1.3rem 0 .6rem; margin-top: 2.4rem; }
header { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; }
details { margin: 1.2rem 0 0; }
summary { color: var(--soft); cursor: pointer; }
@media print {
  @page { margin: 16mm 14mm; }
  body { font-size: 10.5pt; padding: 0; max-width: none; }
  figure, tr { break-inside: avoid; }
  header { break-after: avoid; }
}
"""


class Summary(NamedTuple):
    """A summary as it is in its file, checked, with what lies beside it.

    `path` of the file; `content` as `records.summary` wrote it; the `seconds` that it took, if that is known; the
    `figures`, which are PNG files.
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
        """Whether its signatures mean anything: the preset smoke is too short to judge by."""
        return self.content["preset"] != "smoke"


def read(path: Path) -> Summary:
    """The summary in the file `path`.

    Raises:
        ValueError: the file, or one beside it, is damaged; it is named.
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
            seconds = _seconds(_files.parse(timing.read_bytes()))
        for file in figures:
            _pixels(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); run the experiment again, or copy its results again") from error
    return Summary(path, content, seconds, figures)


def _seconds(content: Any) -> float:
    """Of `timing.json`, checked."""
    seconds = content.get("seconds") if isinstance(content, dict) else None
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise ValueError(f"expected an object whose seconds are a number, 0 or more, got {str(content)[:60]}")
    return float(seconds)


def number(value: Any) -> str:
    """A number to three digits, all digits of a whole one; text as it is; nothing for None.

    >>> number(0.98765), number(12345.6), number(8), number(True), number(None)
    ('0.988', '12346', '8', 'yes', '')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def measured(row: Mapping[str, Any]) -> str:
    """The number of a row and its interval."""
    return _interval(row["measured"], row["interval"])


def valued(signature: Mapping[str, Any]) -> str:
    """The number of a signature and its interval."""
    return _interval(signature["value"], signature["interval"])


def page(summaries: Sequence[Summary], titles: Mapping[str, str]) -> str:
    """All summaries, each with its figures; `titles` says in a line what an experiment is about."""
    judged = [summary for summary in summaries if summary.judged]
    signatures = [entry for summary in judged for entry in summary.content["signatures"]]
    hold = sum(bool(entry["holds"]) for entry in signatures)
    good = "soft" if not judged else "good" if hold == len(signatures) else "bad"
    count = [f"{hold} of {len(signatures)} signatures hold, in {_runs(len(judged))}."] if judged else []
    if len(judged) < len(summaries):
        count.append(f"{_runs(len(summaries) - len(judged))} of the preset smoke: too short to judge by.")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Gradient starvation in practice</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Gradient starvation in practice</h1>
<p class="{good}"><strong>{" ".join(count)}</strong></p>
<p class="soft">A signature is a number that shows an effect, or does not, by the criterion stated beside it. Intervals
are 95% intervals of Student's t over seeds, unless said otherwise. Signatures of one run are judged together, by Holm's
method. Published numbers are the paper's; what differs from its setting stands beside
them.</p>
{"".join(_overview(index, summary) for index, summary in enumerate(summaries))}
{"".join(_article(index, summary, titles) for index, summary in enumerate(summaries))}
</body>
</html>
"""


def _overview(index: int, summary: Summary) -> str:
    link = f'<a href="#run{index}">{escape(summary.name)}</a>'
    signatures = summary.content["signatures"]
    if not signatures:
        return f"<p>{link}: no signatures</p>\n"
    rows = [
        [
            _text(entry["name"]),
            f'<span class="number">{_text(valued(entry))}</span>',
            _verdict(entry["holds"], summary.judged),
        ]
        for entry in signatures
    ]
    return _table([link, "value [95% interval]", "verdict"], rows)


def _article(index: int, summary: Summary, titles: Mapping[str, str]) -> str:
    content = summary.content
    title = titles.get(content["experiment"], "")
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
    return f"""<article id="run{index}">
<header><h2>{escape(content["experiment"])}</h2>
<span class="soft">preset {escape(content["preset"])}{took} · {escape(_shown(summary.path.parent))}</span></header>
<p>{escape(title)}</p>
<h3>Paper against measured</h3>
{_table(["", *(_COLUMNS[1 + column] for column in keep)], rows)}
{f"<h3>Signatures</h3>{_table(['', 'value [95% interval]', 'verdict', 'criterion'], signatures)}" if signatures else ""}
<h3>Data</h3>
{_data(content["data"])}
{"".join(map(_figure, summary.figures))}
<details><summary>configuration and versions</summary>
{_table(["", ""], [[escape(key), _text(_flat(entry))] for key, entry in content["config"].items()])}
{_table(["", ""], [[escape(key), _text(entry)] for key, entry in content["versions"].items()])}</details>
</article>
"""


def _data(data: Any) -> str:
    sets = [data] if isinstance(data, Mapping) else data
    columns = list(dict.fromkeys(key for one in sets for key in one))
    rows = []
    for one in sets:
        cells = {key: _text(_flat(entry)) for key, entry in one.items()}
        if one.get("stand-in"):
            cells["stand-in"] = f'<span class="bad">{cells["stand-in"]}</span>'
        rows.append([cells.get(column, "") for column in columns])
    return _table(map(escape, columns), rows)


def _figure(path: Path) -> str:
    image = path.read_bytes()
    width = _pixels(image) * 100 // 160  # at 100 of its 160 dots an inch
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return f'<figure><img alt="{escape(_shown(path.stem))}" width="{width}" src="{source}"></figure>\n'


def _pixels(image: bytes) -> int:
    """The width in the header of a PNG file that is whole, by the checksums of all its chunks."""
    if image[:8] != b"\x89PNG\r\n\x1a\n" or image[12:16] != b"IHDR":
        raise ValueError("no PNG file")
    at, kind = 8, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(image[at : at + 4]), image[at + 4 : at + 8]
        end = at + 8 + size
        if len(image) < end + 4 or zlib.crc32(image[at + 4 : end]) != int.from_bytes(image[end : end + 4]):
            raise ValueError(f"no whole PNG file: it is cut off or changed from byte {at} on")
        at = end + 4
    return int.from_bytes(image[16:20])


def _table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already, as are the heads of `columns`."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


def _runs(count: int) -> str:
    return f"{count} {'run' if count == 1 else 'runs'}"


def _verdict(holds: bool, judged: bool) -> str:
    if not judged:
        return '<span class="verdict soft">too short to judge</span>'
    mark, kind, word = ("✓", "good", "holds") if holds else ("✗", "bad", "does not hold")
    return f'<span class="verdict {kind}">{mark} {word}</span>'


def _cells(entry: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    return tuple(number(entry[key]) for key in keys)


def _interval(value: Any, interval: Any) -> str:
    if interval is None:
        return number(value)
    low, high = map(number, interval)
    return f"{number(value)} [{low}, {high}]"


def _shown(name: str | Path) -> str:
    """The name of a file as text: bytes in it that are no UTF-8 are shown by their codes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _flat(value: Any) -> str:
    """A value of JSON in one line."""
    if isinstance(value, list):
        return ", ".join(map(_flat, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_flat(entry)}" for key, entry in value.items())
    return number(value)


def _text(value: Any) -> str:
    """Text as HTML, with its numbers typeset."""
    text = re.sub(r"(?<![\w-])-(?=\d)|(?<=\de)-", "−", escape(number(value)))
    power = r'<span class="number">\1 × 10<sup>\2\3</sup></span>'
    return re.sub(r"(−?\d[\d.]*)e(?:[+]|(−))0*(\d+)", power, text)
