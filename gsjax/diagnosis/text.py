"""A report as text: tables of at most 100 columns, and the cautions in words."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gsjax.diagnosis.examples import Pair
from gsjax.objectives import Penalty

if TYPE_CHECKING:
    from gsjax.diagnosis.report import Diagnosis

__all__ = [
    "PAIRS",
    "WIDTH",
    "Column",
    "answer",
    "comparison",
    "feature_columns",
    "headline",
    "number",
    "pair_columns",
    "pairs_in_words",
    "penalty_in_words",
    "percent",
    "table",
]

WIDTH = 100
PAIRS = 10  # starving pairs that are listed


class Column(NamedTuple):
    """A column of a table: its heading, its cells, and what it means, in a few words."""

    head: str
    cells: list[str]
    meaning: str


def table(report: Diagnosis) -> str:
    """The report as text."""
    features, pairs = feature_columns(report), pair_columns(report)
    parts = [*_wrapped(headline(report)), "", *_rows(features), ""]
    parts += [line for column in features for line in _wrapped(f"{column.head}: {column.meaning}", first="  ")]
    parts += ["", *_wrapped(pairs_in_words(report))]
    if report.pairs:
        parts += ["", *_rows(pairs), ""]
        parts += [line for column in pairs for line in _wrapped(f"{column.head}: {column.meaning}", first="  ")]
    if report.verdict is not None:
        parts += ["", "Does the starving feature align with the attribute?", *_wrapped(answer(report))]
    if report.trained is not None:
        parts += ["", "The trained network"]
        parts += [line for name, value in comparison(report) for line in _wrapped(f"{name}: {value}", first="  ")]
    parts += ["", "What not to conclude" if report.cautions else "No cautions."]
    for caution in report.cautions:
        parts += _wrapped(caution.text, first="- ")
    parts += ["", "What was done", *(line for note in report.notes for line in _wrapped(note, first="- "))]
    return "\n".join(line.rstrip() for line in parts)


def answer(report: Diagnosis) -> str:
    """The verdict in words, which begins with its doubt where it may be due to chance; "" without a verdict."""
    if report.verdict is None:
        return ""
    unsure = any(caution.code == "unsure_verdict" for caution in report.cautions)
    doubt = (
        "This may be due to chance, since halves of the data do not agree about who starves whom. " if unsure else ""
    )
    return doubt + report.verdict.text


def headline(report: Diagnosis) -> str:
    """One sentence: the data, the penalty and the optimum."""
    kind = "a binary task" if report.classes is None else f"{report.classes} classes"
    rank = "rank not computed" if report.rank is None else f"rank {report.rank}"
    return (
        f"Diagnosis of {kind}: {report.n} examples, {penalty_in_words(report.penalty)}, {report.dtype}, {rank}; mean "
        f"confidence at the optimum {report.confidence:.3f}; the {len(report.s)} strongest features."
    )


def penalty_in_words(penalty: Penalty) -> str:
    """A penalty with its numbers, or their range: "Ridge(0.1)".

    >>> import jax.numpy as jnp
    >>> from gsjax.objectives import SpectralDecoupling
    >>> penalty_in_words(SpectralDecoupling(jnp.array([0.1, 0.5]), target=1.0))
    'SpectralDecoupling(0.1 to 0.5, target 1)'
    """
    shown = []
    for field in dataclasses.fields(penalty):
        value = np.asarray(getattr(penalty, field.name), float)
        text = number(value.min()) if value.min() == value.max() else f"{number(value.min())} to {number(value.max())}"
        if field.name == "strength" or np.any(value != 0):
            shown.append(text if field.name == "strength" else f"{field.name} {text}")
    return f"{type(penalty).__name__}({', '.join(shown)})"


def feature_columns(report: Diagnosis) -> list[Column]:
    """The table of features, one row for each."""
    others = ~np.eye(len(report.s), dtype=bool)
    starves = (report.starvation < 0) & others
    found = [
        Column("feature", [str(j + 1) for j in range(len(report.s))], "its number, the strongest first"),
        Column("s^2", [*map(number, report.strengths)], "its strength, an eigenvalue of Y K Y"),
    ]
    if report.share is not None:
        found.append(Column("of all", [*map(percent, report.share)], "its share of the sum of all strengths"))
    found.append(Column("z*", [*map(number, report.response)], "the response to it at the optimum"))
    if report.decoupling is not None:
        name = "SD" if report.decoupling.kind == "spectral decoupling" else "ridge"
        told = f"{report.decoupling.kind} of strength {number(report.decoupling.strength)}"
        found.append(Column(f"z* {name}", [*map(number, report.decoupling.response)], f"the response under {told}"))
        found.append(Column("ratio", [*map(number, report.decoupling.ratio)], f"z* {name} / z*"))
    if report.trained is not None:
        found.append(Column("trained", [*map(number, report.trained.response)], "the response of the trained network"))
    found += [
        Column("starves", [*map(str, starves.sum(axis=0))], "the number of shown features that it starves"),
        Column("starved", [*map(str, starves.sum(axis=1))], "the number of shown features that starve it"),
        Column("takes", [*map(number, report.toll)], "what it takes from the other responses, per change of log s^2"),
    ]
    if report.alignment is not None:
        found += [
            Column(
                "group", [*map(percent, report.alignment.group)], "the share of it, within labels, that group explains"
            ),
            Column("label", [*map(percent, report.alignment.label)], "the share of it that the label explains"),
        ]
    if report.stability is not None:
        found.append(
            Column(
                "stable",
                [f"{value:.2f}" for value in report.stability.overlap],
                "its overlap between halves of the data",
            )
        )
    return found


def pair_columns(report: Diagnosis) -> list[Column]:
    """The table of the first starving pairs."""
    pairs = report.pairs[:PAIRS]
    found = [
        Column("i", [str(pair.starver + 1) for pair in pairs], "the feature that starves"),
        Column("j", [str(pair.starved + 1) for pair in pairs], "the feature that is starved"),
        Column(
            "elasticity",
            [number(pair.elasticity) for pair in pairs],
            "the relative change of z_j* per relative change of s_i^2",
        ),
        Column("cost", [number(pair.cost) for pair in pairs], "the change of z_j* per relative change of s_i^2"),
    ]
    if report.stability is not None:
        found.append(
            Column(
                "agree",
                [_agreement(report, pair) for pair in pairs],
                "the share of halves with the same sign; ? is unsure",
            )
        )
    found.append(
        Column(
            "examples",
            [
                " ".join(f"{'-' if term < 0 else '+'}{k}" for k, term in zip(pair.rows, pair.term, strict=True))
                for pair in pairs
            ],
            "rows of x, from 0, with the largest terms of C_ij, with sign: + for i starves j",
        )
    )
    return found


def pairs_in_words(report: Diagnosis) -> str:
    """How many of the shown pairs starve, and which are listed."""
    r = len(report.s)
    if not np.isfinite(report.starving):
        return "Who starves whom is not known: the optimum was not found."
    if not report.pairs:
        return f"None of the {r * (r - 1)} ordered pairs of shown features starves."
    listed = min(PAIRS, len(report.pairs))
    which = "listed" if listed == len(report.pairs) else f"of which the {listed} of largest elasticity are listed"
    pairs = f"{len(report.pairs)} of the {r * (r - 1)} ordered pairs of shown features"
    return f"{pairs} starve ({report.starving:.0%}), {which}."


def comparison(report: Diagnosis) -> list[tuple[str, str]]:
    """Names and values of the comparison with the trained network."""
    found = report.trained
    if found is None:
        return []
    moved = found.kernel
    return [
        ("distance of its outputs from the prediction, relative to the prediction", percent(found.error)),
        (
            "accuracy on x",
            f"{percent(found.accuracy_start)} at params, {percent(found.accuracy_predicted)} predicted, "
            f"{percent(found.accuracy)} trained",
        ),
        ("gradient of the objective, relative to that at params", number(found.gradient)),
        (
            f"movement of the kernel on {moved.examples} examples",
            f"{percent(moved.relative)} of its size; cosine {moved.cosine:.4f}; after the best rescaling "
            f"{percent(moved.turned)}",
        ),
    ]


def number(value: float) -> str:
    """A number to three digits; "-" if it is not finite.

    >>> number(1234.5), number(0.00012345), number(float("nan"))
    ('1.23e+03', '0.000123', '-')
    """
    return f"{value:.3g}" if np.isfinite(value) else "-"


def percent(value: float) -> str:
    """A share in percent; "-" if it is not finite.

    >>> percent(0.1234), percent(0.00012), percent(0.0), percent(12.0)
    ('12.3%', '<0.1%', '0%', '1200%')
    """
    if not np.isfinite(value):
        return "-"
    if 0 < value < 0.001:
        return "<0.1%"
    return f"{100 * value:.0f}%" if value >= 1 or value == 0 else f"{100 * value:.1f}%"


def _agreement(report: Diagnosis, pair: Pair) -> str:
    assert report.stability is not None
    share = report.stability.agreement[pair.starved, pair.starver]
    unsure = any(
        [pair.starver, pair.starved] in caution.numbers["pairs"]
        for caution in report.cautions
        if caution.code == "unstable_signs"
    )
    return f"{share:.1f}{' ?' if unsure else ''}"


def _rows(columns: Sequence[Column]) -> list[str]:
    """The lines of a table, aligned to the right.

    A table that is too wide is divided into the smallest number of tables that fit, which all begin with its first
    column. A last column of examples is aligned to the left and loses what is beyond the width.
    """
    listed = columns[-1].head == "examples"
    padded = []
    for column in columns[:-1] if listed else columns:
        cells = [column.head, *column.cells]
        padded.append([cell.rjust(max(map(len, cells))) for cell in cells])
    first, rest, blocks = padded[0], padded[1:], [padded]
    for count in range(1, len(rest) + 1):
        ends = [round(part * len(rest) / count) for part in range(count + 1)]
        blocks = [[first, *rest[low:high]] for low, high in itertools.pairwise(ends)]
        if all(sum(2 + len(cells[0]) for cells in block) - 2 <= WIDTH for block in blocks):
            break
    if listed:
        blocks[-1].append([columns[-1].head, *columns[-1].cells])
    lines = ["  ".join(row) for block in blocks for row in [*zip(*block, strict=True), ("",)]]
    return [line if len(line) <= WIDTH else line[: line[: WIDTH + 1].rindex(" ")] for line in lines[:-1]]


def _wrapped(text: str, first: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
