"""The report as one page of HTML, and how values are written in it."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from theory.claim import Observation, Record

_STYLE = """
:root { --ink: #1b1f24; --soft: #5b6470; --rule: #d9dee4; --good: #00664b; --bad: #a63c00; --tint: #f5f7f9; }
* { box-sizing: border-box; }
body { color: var(--ink); background: #fff; max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem;
  font: 17px/1.55 Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "Liberation Serif", serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .8rem; }
h3 { font-size: 1.1rem; margin: 0; }
h4 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .15em; }
p { margin: .4rem 0; max-width: 48rem; }
table { border-collapse: collapse; font: .82rem/1.4 system-ui, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); text-align: left; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td:last-child, th:last-child { padding-right: 0; }
.wide { width: 100%; }
.wide td { overflow-wrap: anywhere; }
.wide td:first-child { min-width: 11rem; }
td.right, th.right { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.number { white-space: nowrap; overflow-wrap: normal; }
sup { line-height: 0; }
.reference, .soft { color: var(--soft); }
.verdict { white-space: nowrap; font-weight: 600; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.scroll { overflow-x: auto; margin: .5rem 0; }
article { border-top: 2px solid var(--rule); padding: 1.3rem 0 .6rem; margin-top: 1.6rem; }
header.claim { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; }
header.claim .verdict { margin-left: auto; }
.control { background: var(--tint); border-left: 3px solid var(--rule); padding: .5rem 1rem .7rem;
  margin: 1rem 0; }
.control h4 { margin-top: 0; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; }
pre { font-size: .75rem; line-height: 1.4; overflow-x: auto; background: var(--tint); padding: .7rem 1rem; }
@media print {
  @page { margin: 16mm 14mm; }
  body { font-size: 10.5pt; padding: 0; max-width: none; }
  figure, .control, tr { break-inside: avoid; }
  h2, header.claim { break-after: avoid; }
  pre { white-space: pre-wrap; }
}
"""


def plain(value: Any) -> Any:
    """`value` in the types of JSON: arrays as lists, non-finite numbers and whatever else as strings.

    >>> plain({"x": (1, float("nan")), "path": Path("a")})
    {'x': [1, 'nan'], 'path': 'a'}
    """
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and jax
        return plain(value.tolist())
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value)


def number(value: Any) -> str:
    """A float with four significant digits, a truth value in words, anything else as it is.

    >>> number(1 / 3), number(2e-16), number(True), number("below 1")
    ('0.3333', '2e-16', 'yes', 'below 1')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def observed(observation: Observation) -> str:
    """The observed number, with its interval if there is one."""
    interval = plain(observation.details.get("interval"))
    if not (isinstance(interval, list) and len(interval) == 2):
        return number(observation.observed)
    low, high = (number(float(end) if isinstance(end, int) else end) for end in interval)
    return f"{number(observation.observed)} [{low}, {high}]"


def summary(records: Sequence[Record], planned: int) -> str:
    """The run in one line.

    >>> summary([], planned=3)
    '0 of 3 claims hold, 0 of 3 controls fail as they should; 3 not reached; 0 s'
    """
    hold = sum(record.verdict == "holds" for record in records)
    fail = sum(record.control_verdict == "fails" for record in records)
    missing = planned - len(records)
    parts = [
        f"{hold} of {planned} claims hold, {fail} of {planned} controls fail as they should",
        *([f"{missing} not reached"] if missing else []),
        f"{sum(record.seconds for record in records):.0f} s",
    ]
    return "; ".join(parts)


def page(records: Sequence[Record], out: Path, planned: int, made_with: Mapping[str, str]) -> str:
    """The report as HTML that needs no other file; the figures are read from the folder `out`."""
    good = len(records) == planned and all(record.passes for record in records)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Gradient starvation: the theory, checked</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Gradient starvation: the theory, checked</h1>
<p class="{"good" if good else "bad"}"><strong>{escape(summary(records, planned))}.</strong></p>
<p class="soft">A claim holds if the observed number agrees with the predicted one within the tolerance.
Its control is the same check with one hypothesis broken; it has to fail.</p>
<div class="scroll"><table class="wide">
<thead><tr><th>claim</th><th>predicted</th><th>observed</th><th>tolerance</th><th>verdict</th><th>control</th>
<th class="right">s</th></tr></thead>
<tbody>
{"".join(_row(record) for record in records)}</tbody></table></div>
<h2>The claims</h2>
{"".join(_article(record, out) for record in records)}
<h2>Made with</h2>
{_details(made_with)}
</body>
</html>
"""


def _row(record: Record) -> str:
    claim, seen = record.claim, record.observation
    cells = "".join(f"<td>{_html(cell)}</td>" for cell in (seen.predicted, observed(seen), seen.tolerance))
    return (
        f'<tr><td><a href="#{escape(claim.name)}">{escape(claim.name)}</a>'
        f'<br><span class="reference">{escape(claim.reference)}</span></td>{cells}'
        f"<td>{_badge(record.verdict, 'holds')}</td><td>{_badge(record.control_verdict, 'fails')}</td>"
        f'<td class="right">{record.seconds:.1f}</td></tr>\n'
    )


def _article(record: Record, out: Path) -> str:
    claim, seen, control = record.claim, record.observation, record.control
    figure = ""
    if record.figure is not None:
        image = (out / record.figure).read_bytes()
        width = int.from_bytes(image[16:20]) * 100 // 160  # of the PNG's header, at 100 of its 160 dots an inch
        source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        figure = f'<figure><img alt="Figure of {escape(claim.name)}" width="{width}" src="{source}"></figure>\n'
    return f"""<article id="{escape(claim.name)}">
<header class="claim"><h3>{escape(claim.name)}</h3><span class="reference">{escape(claim.reference)}</span>
{_badge(record.verdict, "holds")}</header>
<p>{escape(claim.statement)}</p>
{_numbers(seen)}
{figure}{_error(record.error)}{_details(seen.details)}
<div class="control">
<header class="claim"><h4>Control: {escape(claim.control.name)}</h4>
{_badge(record.control_verdict, "fails")}</header>
<p>{escape(claim.control.statement)}</p>
{_numbers(control)}
{_error(record.control_error)}{_details(control.details)}
</div>
</article>
"""


def _badge(verdict: str, wanted: str) -> str:
    mark, kind = ("✓", "good") if verdict == wanted else ("✗", "bad")
    return f'<span class="verdict {kind}">{mark} {verdict}</span>'


def _error(error: str | None) -> str:
    return "" if error is None else f'<p class="bad">{escape(error)}</p>\n'


def _numbers(seen: Observation) -> str:
    cells = "".join(f"<td>{_html(cell)}</td>" for cell in (seen.predicted, observed(seen), seen.tolerance))
    return _table(["<th>predicted</th><th>observed</th><th>tolerance</th>", cells])


def _details(details: Mapping[str, Any]) -> str:
    return _html(plain(details)) if details else ""


def _html(value: Any) -> str:
    """A value of JSON as HTML: numbers typeset, mappings and lists of mappings as tables, text as it is."""
    if isinstance(value, dict):
        return _table([f"<th>{escape(key)}</th><td>{_html(entry)}</td>" for key, entry in value.items()])
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = list(dict.fromkeys(key for row in value for key in row))
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        return _table([head, *("".join(f"<td>{_html(row.get(c, ''))}</td>" for c in columns) for row in value)])
    if isinstance(value, list):  # a matrix has its rows on lines of their own
        return ("<br>" if any(isinstance(entry, list) for entry in value) else ", ").join(map(_html, value))
    if isinstance(value, str) and "\n" in value:
        return f"<pre>{escape(value)}</pre>"
    text = re.sub(r"(?<![\w-])-(?=\d)|(?<=\de)-", "−", escape(number(value)))
    power = r'<span class="number">\1 × 10<sup>\2\3</sup></span>'
    return re.sub(r"(−?[\d.]+)e(?:[+]|(−))0*(\d+)", power, text)


def _table(rows: Sequence[str]) -> str:
    return f'<div class="scroll"><table>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'
