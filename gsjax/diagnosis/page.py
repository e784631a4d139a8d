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


def _sections(report: Diagnosis, heading: str) -> list[pages.Child]:
    drawn = figures.draw(report)

    def section(title: str, *children: pages.Child) -> list[pages.Child]:
        return [element(heading, title), *children]

    def figure(name: str) -> Html | None:
        return _figure(drawn[name]) if name in drawn else None

    parts: list[pages.Child] = [element("p", text.headline(report))]
    if report.verdict is not None:
        title = "Does the starving feature align with the attribute?"
        parts += section(title, element("p", text.answer(report)))
    cautions = element("ul", (element("li", caution.text) for caution in report.cautions))
    parts += section("What not to conclude", cautions if report.cautions else element("p", "No cautions."))
    parts += section("Features", *_table(text.feature_columns(report), "features"), figure("responses"))
    parts += section("Who starves whom", element("p", text.pairs_in_words(report)), figure("starvation"))
    if report.pairs:
        parts += _table(text.pair_columns(report), "starving pairs")
    if "examples" in drawn:
        parts += section("Examples", figure("examples"), figure("pairs"))
    if "alignment" in drawn:
        parts += section("Alignment with the attribute", figure("alignment"))
    if report.trained is not None:
        facts = pages.facts(dict(text.comparison(report)))
        parts += section("The trained network", facts, figure("trained"))
    notes = element("ul", (element("li", note) for note in report.notes))
    return [*parts, *section("What was done", notes)]


def _table(columns: Sequence[Column], label: str) -> list[Html]:
    rows = list(zip(*([pages.typeset(cell) for cell in column.cells] for column in columns), strict=True))
    right = [index for index, column in enumerate(columns) if column.head != "examples"]
    meanings = pages.facts({column.head: column.meaning for column in columns})
    return [
        pages.table([column.head for column in columns], rows, label=label, right=right),
        pages.fold(f"What the columns of the table of {label} mean", meanings),
    ]


def _figure(drawn: Drawn) -> Html:
    image = io.BytesIO()
    drawn.figure.savefig(image, format="png")
    return pages.figure(image.getvalue(), drawn.alt, drawn.caption)
