"""The figures of a report, each with its description in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gsjax.diagnosis import text

if TYPE_CHECKING:
    from gsjax.diagnosis.examples import Pair
    from gsjax.diagnosis.report import Diagnosis
    from gsjax.plotting import Figure

__all__ = ["Drawn", "draw", "illustrated"]

_FEATURES = 6  # features whose examples are drawn
ILLUSTRATED = 3  # starving pairs whose examples are drawn


class Drawn(NamedTuple):
    """A figure, what it shows for readers who cannot see it (`alt`), and its caption."""

    figure: Figure
    alt: str
    caption: str


def illustrated(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """The starving pairs whose examples are drawn."""
    return pairs[:ILLUSTRATED]


def draw(report: Diagnosis) -> dict[str, Drawn]:
    """All figures of a report by name; those without data are left out."""
    drawn = {name: function(report) for name, function in _FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _responses(report: Diagnosis) -> Drawn | None:
    from gsjax import plotting

    if not np.all(np.isfinite(report.response)):
        return None
    own = "ridge" if type(report.penalty).__name__ == "Ridge" else "spectral decoupling"
    series = {"strength $s_i^2$": report.strengths, f"$z_i^*$, {own}": report.response}
    told = "."
    if report.decoupling is not None and np.all(np.isfinite(report.decoupling.response)):
        series[f"$z_i^*$, {report.decoupling.kind}"] = report.decoupling.response
        told = f", and under {report.decoupling.kind} with the same total confidence."
    ax = plotting.responses(series, ylabel="strength, response")
    alt = (
        f"Strengths and responses of the {len(report.s)} strongest features, on a logarithmic axis. Strengths from "
        f"{text.number(report.strengths[0])} to {text.number(report.strengths[-1])}; the largest response, "
        f"{text.number(report.response.max())}, is to feature {int(np.argmax(report.response)) + 1}."
    )
    return _drawn(ax, alt, f"Strengths of the features and responses to them under {own}{told}")


def _starvation(report: Diagnosis) -> Drawn | None:
    from gsjax import plotting

    if not np.all(np.isfinite(report.starvation)) or not np.any(report.starvation):
        return None
    ax = plotting.starvation(report.starvation, report.strengths)
    first = ""
    if report.pairs:
        pair = report.pairs[0]
        first = f" The largest elasticity is that of feature {pair.starver + 1}, which starves {pair.starved + 1}."
    alt = f"Matrix of the change of each response with each strength. {text.pairs_in_words(report)}{first}"
    caption = "Who starves whom: red where feature i starves feature j, blue where it supports it."
    return _drawn(ax, alt, caption)


def _examples(report: Diagnosis) -> Drawn | None:
    from gsjax import plotting

    if not report.pictures:
        return None
    count = min(_FEATURES, len(report.s))
    rows, captions = {}, {}
    for j in range(count):
        name = f"feature {j + 1}"
        rows[name] = np.stack([report.pictures[int(k)] for k in report.examples.rows[j]])
        captions[name] = [
            f"{int(k)}: {weight:+.2g}"
            for k, weight in zip(report.examples.rows[j], report.examples.weight[j], strict=True)
        ]
    ax = plotting.pictures(rows, captions)
    alt = f"Pictures of the examples that weigh most in each of the {count} strongest features. " + "; ".join(
        f"{name}: rows {', '.join(captions[name])}" for name in rows
    )
    caption = (
        "The examples that weigh most in each feature: row of x and weight. Learning the feature raises the margin of "
        "an example of positive weight, and lowers that of an example of negative weight."
    )
    return _drawn(ax, alt, caption)


def _pairs(report: Diagnosis) -> Drawn | None:
    from gsjax import plotting

    pairs = illustrated(report.pairs)
    if not report.pictures or not pairs:
        return None
    rows, captions = {}, {}
    for pair in pairs:
        name = f"{pair.starver + 1} starves {pair.starved + 1}"
        rows[name] = np.stack([report.pictures[int(k)] for k in pair.rows])
        signs = ["+" if term >= 0 else "-" for term in pair.term]
        captions[name] = [
            f"{int(k)}: {sign}{share:.1%}" for k, sign, share in zip(pair.rows, signs, pair.share, strict=True)
        ]
    ax = plotting.pictures(rows, captions)
    alt = "Pictures of the examples through which one feature starves another. " + "; ".join(
        f"{name}: rows {', '.join(captions[name])}" for name in rows
    )
    caption = (
        "The examples through which the first feature starves the second: row of x, and share of all terms of C_ij. "
        "Both features agree about an example with a plus. They disagree about one with a minus, which weakens it."
    )
    return _drawn(ax, alt, caption)


def _alignment(report: Diagnosis) -> Drawn | None:
    from gsjax import plotting

    found = report.alignment
    if found is None or not found.known:
        return None
    ax = plotting.alignments(found.group, found.label, chance=found.chance)
    shares = ", ".join(f"{j + 1}: {text.percent(share)}" for j, share in enumerate(found.group))
    alt = f"Share of each feature that the attribute explains within labels: {shares}; by chance {found.chance:.1%}."
    caption = "What the features are about: the share that the attribute explains within labels, and that of the label."
    return _drawn(ax, alt, caption)


def _trained(report: Diagnosis) -> Drawn | None:
    from gsjax import plotting

    if report.trained is None or not np.all(np.isfinite(report.response)):
        return None
    series = {"predicted": report.response, "trained": report.trained.response}
    ax = plotting.responses(series, ylabel="response $z_i$")
    pairs = zip(report.response, report.trained.response, strict=True)
    listed = ", ".join(f"{j + 1}: {text.number(a)} and {text.number(b)}" for j, (a, b) in enumerate(pairs))
    return _drawn(
        ax,
        f"Predicted and trained responses by feature, {listed}.",
        "Responses that were predicted and those after training.",
    )


_FIGURES: Mapping[str, Callable[[Diagnosis], Drawn | None]] = {
    "responses": _responses,
    "starvation": _starvation,
    "examples": _examples,
    "pairs": _pairs,
    "alignment": _alignment,
    "trained": _trained,
}


def _drawn(ax, alt: str, caption: str) -> Drawn:
    return Drawn(ax.get_figure(root=True), alt, caption)
