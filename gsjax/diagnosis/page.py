"""A report as HTML: a page of its own, and a fragment for notebooks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gsjax import pages
from gsjax.diagnosis import figures, text
from gsjax.pages import Html, element

if TYPE_CHECKING:
    from gsjax.diagnosis.figures import Drawn
    from gsjax.diagnosis.report import Diagnosis
    from gsjax.diagnosis.text import Column

__all__ = ["complete", "fragment"]


def complete(report: Diagnosis) -> str:
    """The report as a self-contained page."""
    return pages.page("Diagnosis", *_sections(report, "h2"))


def fragment(report: Diagnosis) -> str:
    """The report for a notebook: no style, no script, nothing outside of one `div`."""
    return str(element("div", *_sections(report, "h4"), class_="gsjax-diagnosis"))


def _sections(report: Diagnosis, heading: str) -> list[Html | None]:
    drawn = figures.draw(report)
    parts: list[Html | None] = [element("p", text.headline(report))]
    if report.verdict is not None:
        parts += [
            _title(heading, "Does the starving feature align with the attribute?"),
            element("p", report.verdict.text),
        ]
    parts.append(_title(heading, "What not to conclude"))
    if report.cautions:
        parts.append(element("ul", (element("li", caution.text) for caution in report.cautions)))
    else:
        parts.append(element("p", "No cautions."))
    parts += [
        _title(heading, "Features"),
        *_table(text.feature_columns(report), "features"),
        _figure(drawn, "responses"),
    ]
    parts += [
        _title(heading, "Who starves whom"),
        element("p", text.pairs_in_words(report)),
        _figure(drawn, "starvation"),
    ]
    if report.pairs:
        parts += _table(text.pair_columns(report), "starving pairs")
    if "examples" in drawn:
        parts += [_title(heading, "Examples"), _figure(drawn, "examples"), _figure(drawn, "pairs")]
    if "alignment" in drawn:
        parts += [_title(heading, "Alignment with the attribute"), _figure(drawn, "alignment")]
    if report.trained is not None:
        parts += [_title(heading, "The trained network"), pages.facts(dict(text.comparison(report)))]
        parts.append(_figure(drawn, "trained"))
    parts += [_title(heading, "What was done"), element("ul", (element("li", note) for note in report.notes))]
    return parts


def _title(heading: str, words: str) -> Html:
    return element(heading, words)


def _table(columns: Sequence[Column], label: str) -> list[Html]:
    rows = list(zip(*([pages.typeset(cell) for cell in column.cells] for column in columns), strict=True))
    right = [index for index, column in enumerate(columns) if column.head != "examples"]
    meanings = pages.facts({column.head: column.meaning for column in columns})
    return [
        pages.table([column.head for column in columns], rows, label=label, right=right),
        pages.fold(f"What the columns of the table of {label} mean", meanings),
    ]


def _figure(drawn: dict[str, Drawn], name: str) -> Html | None:
    if name not in drawn:
        return None
    image = io.BytesIO()
    drawn[name].figure.savefig(image, format="png")
    return pages.figure(image.getvalue(), drawn[name].alt, drawn[name].caption)
