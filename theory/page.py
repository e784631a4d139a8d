"""The report as one HTML page, and the format of its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gsjax import pages
from gsjax.pages import Html, element, number
from theory.claim import Observation, Record

EXPLANATION = (
    "A claim holds if the observed number agrees with the predicted one within the tolerance. "
    "Its control is the same check with one hypothesis broken; it has to fail."
)


def plain(value: Any) -> Any:
    """`value` in Python's own types: arrays as lists, named tuples as dicts, values of other types as text.

    Numbers that are not finite stay unchanged. Invalid Unicode, such as a lone surrogate in an error message, is
    replaced by its code.

    >>> plain({"x": (1, float("nan")), "path": Path("a")})
    {'x': [1, nan], 'path': 'a'}
    """
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float):
        return float(value)
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and jax
        return plain(value.tolist())
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value).encode(errors="backslashreplace").decode()


def observed(observation: Observation) -> str:
    """The observed number, with its interval if there is one."""
    interval = plain(observation.details.get("interval"))
    if not (isinstance(interval, list) and len(interval) == 2):
        return number(observation.observed)
    low, high = (number(float(end) if isinstance(end, int) else end) for end in interval)
    return f"{number(observation.observed)} [{low}, {high}]"


def summary(records: Sequence[Record], planned: int) -> str:
    """A summary of the run in one line.

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


def page(records: Sequence[Record], out: Path, planned: int, provenance: Mapping[str, str]) -> str:
    """The report as self-contained HTML; the figures are read from the folder `out`."""
    good = len(records) == planned and all(record.passes for record in records)
    return pages.page(
        "Gradient starvation: the theory, checked",
        element("p", element("strong", summary(records, planned), "."), class_="good" if good else "bad"),
        element("p", EXPLANATION, class_="soft"),
        overview(records),
        element("h2", "The claims", id="page-claims"),
        (article(record, out) for record in records),
        element("h2", "Made with", id="page-made-with"),
        pages.facts(provenance),
        sections={"Overview": "page-content", "The claims": "page-claims", "Made with": "page-made-with"},
    )


def overview(records: Sequence[Record]) -> Html:
    """The table of all claims; each name is a link to the article of the claim."""
    heads = ("claim", "predicted", "observed", "tolerance", "verdict", "control", "s")
    return pages.table(heads, map(_row, records), label="all claims", right=[6])


def article(record: Record, out: Path | None) -> Html:
    """A claim with its statement, numbers, figure and control; the figure is read from the folder `out`, if any."""
    header = element("header", element("h3", record.claim.name), _reference(record), _badge(record.verdict, "holds"))
    return element("article", header, _content(record, out), id=record.claim.name)


def folded(record: Record, out: Path | None) -> Html:
    """The same as `article` under a line that opens it."""
    title = element("h4", record.claim.name), " ", _reference(record), " ", _badge(record.verdict, "holds")
    return pages.fold(title, element("article", _content(record, out)), id=record.claim.name)


def _row(record: Record) -> list[str]:
    claim = record.claim
    name = element("a", claim.name, href=f"#{claim.name}")
    named = element("span", name, element("br"), _reference(record))
    verdicts = _badge(record.verdict, "holds"), _badge(record.control_verdict, "fails")
    return [named, *_numbers(record.observation), *verdicts, f"{record.seconds:.1f}"]


def _reference(record: Record) -> Html:
    return element("span", record.claim.reference, class_="soft")


def _content(record: Record, out: Path | None) -> list[Html]:
    claim = record.claim
    figure = None
    if record.figure is not None and out is not None:
        figure = pages.figure((out / record.figure).read_bytes(), f"Figure of {claim.name}: {claim.statement}")
    control = element(
        "div",
        element("p", element("strong", "Control: ", claim.control.name), " ", _badge(record.control_verdict, "fails")),
        element("p", claim.control.statement),
        _found(record.control, record.control_error, f"control of {claim.name}"),
        class_="box",
    )
    return [
        element("p", claim.statement),
        *_found(record.observation, record.error, claim.name, figure),
        control,
    ]


def _found(seen: Observation, error: str | None, label: str, figure: Html | None = None) -> list[Any]:
    """The observation: its numbers (those that are not empty), the figure, the error and the details."""
    numbers = zip(("predicted", "observed", "tolerance"), _numbers(seen), strict=True)
    return [
        pages.facts({name: shown for name, shown in numbers if shown}),
        figure,
        None if error is None else element("p", error, class_="bad"),
        pages.value(plain(seen.details), f"details of {label}") if seen.details else None,
    ]


def _numbers(seen: Observation) -> list[Html]:
    return [pages.typeset(shown) for shown in (seen.predicted, observed(seen), seen.tolerance)]


def _badge(verdict: str, wanted: str) -> Html:
    return pages.badge(verdict, verdict == wanted)
