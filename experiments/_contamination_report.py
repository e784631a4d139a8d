"""The report of the experiment `feature_contamination`, from the rows of all networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments import _contamination_figures as figures
from experiments import _rows
from experiments._study import Report

Rows = Sequence[Mapping[str, Any]]
Found = Mapping[str, Mapping[str, Rows]]
Quantity = Callable[[Mapping[str, Any]], float]

RELU, ZERO, LINEAR = "hinge-sgd-frozen-relu", "hinge-sgd-frozen-relu-zero", "hinge-sgd-frozen-identity"
HIGH, LOW, LEARNED = 0.5, 0.05, 1.5  # bounds of the signatures

SETS = ("in distribution", "out of distribution", "out of distribution, core of training")


def last(name: str, column: int) -> Quantity:
    """An entry of the last record."""
    return lambda row: row[name][-1][column]


def grown(part: int) -> Quantity:
    """The mean norm of the projections on core (0) or background (1) at the end, relative to that before training."""
    return lambda row: row["norms"][-1][part] / row["norms"][0][part]


def kept(row: Mapping[str, Any]) -> float:
    """The mean margin out of distribution relative to that in distribution, which no temperature changes."""
    return row["margins"][1] / row["margins"][0]


def stopped(row: Mapping[str, Any]) -> float:
    """The hinge loss out of distribution at the record with the least hinge loss in distribution."""
    courses = np.array(row["hinge"])
    return float(courses[np.argmin(courses[:, 0]), 1])


def best(row: Mapping[str, Any]) -> float:
    """The least hinge loss out of distribution at any record."""
    return float(np.array(row["hinge"])[:, 1].min())


RISKS: dict[str, Quantity] = {f"hinge loss {name}": last("hinge", number) for number, name in enumerate(SETS)}
ACCURACIES: dict[str, Quantity] = {f"accuracy {name}": last("accuracy", number) for number, name in enumerate(SETS)}
LEARNING: dict[str, Quantity] = {
    "core projection, relative to initial": grown(0),
    "background projection, relative to initial": grown(1),
    "mean projection on a core feature minus initial": last("signed", 0),
    "mean projection on a background feature minus initial": last("signed", 1),
    "rate of activation, own class": last("active", 0),
    "rate of activation, other class": last("active", 1),
}
MARGIN = "mean margin out of distribution / in distribution"
TRIVIAL: dict[str, Quantity] = {
    MARGIN: kept,
    "hinge loss out of distribution, stopped at the least one in distribution": stopped,
    "hinge loss out of distribution, least over training": best,
    "hinge loss out of distribution, with an offset fitted in distribution": lambda row: row["offset"][1],
    "hinge loss out of distribution, with a temperature fitted in distribution": lambda row: row["temperature"][1],
}
LOGISTIC: dict[str, Quantity] = {
    f"logistic loss {name}": last("logistic", number) for number, name in enumerate(SETS[:2])
}
QUANTITIES = {**RISKS, **LOGISTIC, **ACCURACIES, **LEARNING, **TRIVIAL}
COMPARED = (
    "hinge loss out of distribution",
    "accuracy out of distribution",
    "background projection, relative to initial",
    MARGIN,
)


def values(rows: Rows, quantity: Quantity) -> Float[np.ndarray, " networks"]:
    """A quantity of every network."""
    return np.array([quantity(row) for row in rows], float)


def report(rows: list[dict[str, Any]]) -> Report:
    """Summary, signatures and figures from the rows of all cells."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        found.setdefault(row["part"], {}).setdefault(row["arm"], []).append(row)
    lines = []
    for part, label in (("arms", "{}"), ("remedies", "remedies, {}"), ("scales", "scale {}")):
        for name, each in found.get(part, {}).items():
            lines += measured(label.format(name), each, QUANTITIES)
    lines += compared(found.get("remedies", {}))
    lines += [line for name, each in found.get("scales", {}).items() for line in moved(name, each)]
    lines += [line for each in found.get("kernel", {}).values() for line in seen(each)]
    lines += [line for name, each in found.get("phase", {}).items() for line in grid(name, each)]
    drawn: dict[str, Callable[[Path], object]] = {}
    for part, draw in (
        ("arms", figures.draw_courses),
        ("phase", figures.draw_phase),
        ("scales", figures.draw_scales),
        ("kernel", figures.draw_kernel),
        ("remedies", figures.draw_remedies),
    ):
        if part in found:
            file = {"arms": "courses", "scales": "lazy"}.get(part, part)
            drawn[f"{file}.png"] = functools.partial(draw, found)
    return Report(lines, signatures(found), drawn)


def measured(label: str, rows: Rows, quantities: Mapping[str, Quantity]) -> list[dict[str, Any]]:
    """Quantities of networks; those that are not finite for every network are left out, with a note."""
    lines = []
    for name, quantity in quantities.items():
        each = values(rows, quantity)
        defined = each[np.isfinite(each)]
        if len(defined):
            missing = f"{len(defined)} of {len(each)} networks have a value" if len(defined) < len(each) else None
            lines.append(_rows.measured(f"{label}: {name}", defined, differs=missing))
    return lines


def compared(remedies: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """What each remedy changes against the network without it, in pairs: the published decay, or the logistic loss."""
    lines = []
    for name, rows in remedies.items():
        decay = name.startswith("decay")
        baseline = "decay 0.001" if decay else "logistic"
        if name != baseline and baseline in remedies:
            for label in COMPARED:
                change = values(rows, QUANTITIES[label]) - values(remedies[baseline], QUANTITIES[label])
                lines.append(_rows.measured(f"remedies, {name} minus {baseline}: {label}", change))
    return lines


def moved(name: str, rows: Rows) -> list[dict[str, Any]]:
    """The distances of kernels at a scale."""
    labels = ("relative change of the kernel", "1 - alignment of kernels", "1 - alignment of centred kernels")
    pairs = enumerate(labels)
    return [_rows.measured(f"scale {name}: {label}", [row["distance"][n] for row in rows]) for n, label in pairs]


def seen(rows: Rows) -> list[dict[str, Any]]:
    """What the kernel at initialisation sees: its predictor, and its strongest features."""
    lost = sum(not row["converged"] for row in rows)
    note = f"{lost} of {len(rows)} equilibria have not converged" if lost else None

    def line(label: str, each: Sequence[float]) -> dict[str, Any]:
        return _rows.measured(f"kernel at initialisation{label}", each, differs=note)

    lines = []
    for key, label in (("hinge", "hinge loss"), ("logistic", "logistic loss"), ("accuracy", "accuracy")):
        for number, name in enumerate(SETS[:2]):
            lines.append(line(f": {label} {name}", [row[key][number] for row in rows]))
    lines.append(line(f": {MARGIN}", [row["kept"][1] / row["kept"][0] for row in rows]))
    for feature in range(min(3, *(len(row["strengths"]) for row in rows))):
        for label, read in (
            ("strength", lambda row, j: row["strengths"][j]),
            ("size of the response", lambda row, j: abs(row["responses"][j])),
            ("mean margin in distribution", lambda row, j: row["margins"][0][j]),
            ("mean margin out of distribution", lambda row, j: row["margins"][1][j]),
            ("correlation with the label", lambda row, j: row["correlations"][0][j]),
            ("correlation with the background", lambda row, j: row["correlations"][1][j]),
        ):
            lines.append(line(f", feature {feature + 1}: {label}", [read(row, feature) for row in rows]))
    return lines


def grid(name: str, rows: Rows) -> list[dict[str, Any]]:
    """Errors and risks of the phase diagram for one number of background features."""
    lines = []
    for mean in sorted({row["mean"] for row in rows}):
        each = [row for row in rows if row["mean"] == mean]
        label = f"{name} background features of mean {mean:g}"
        lines.append(_rows.measured(f"{label}: error out of distribution", [wrong(row) for row in each]))
        lines.append(_rows.measured(f"{label}: hinge loss out of distribution", values(each, last("hinge", 1))))
    return lines


def wrong(row: Mapping[str, Any]) -> float:
    """The error out of distribution."""
    return 1 - row["accuracy"][-1][1]


def signatures(found: Found) -> list[dict[str, Any]]:
    """The signatures that the arms in `found` allow."""
    arms, signed = found.get("arms", {}), []

    def judge(name: str, arm: str, quantity: Quantity, why: str, **bounds: float) -> None:
        if arm in arms:
            each = values(arms[arm], quantity)
            reason = f"values from {each.min():.3g} to {each.max():.3g} over {len(each)} networks"
            signed.append(_rows.signature(name, each, why=why, reason=reason, **bounds))

    inside, outside = last("hinge", 0), last("hinge", 1)
    judge("ReLU: hinge loss out of distribution", RELU, outside, "0 is right, 1 says nothing", above=HIGH)
    judge("ReLU: hinge loss in distribution", RELU, inside, "0 is right", below=LOW)
    judge("linear: hinge loss out of distribution", LINEAR, outside, "0 is right", below=LOW)
    judge("ReLU, background of mean zero: hinge loss out of distribution", ZERO, outside, "0 is right", below=LOW)
    for part, name in enumerate(("core", "background")):
        judge(f"ReLU: {name} projection, relative to initial", RELU, grown(part), "1 is no change", above=LEARNED)
    judge("linear: background projection, relative to initial", LINEAR, grown(1), "1 is no change", below=LEARNED)
    phase = found.get("phase", {})
    if len(phase) > 1:
        few, *_, many = phase.values()
        mean = max(row["mean"] for row in few)
        errors = [[wrong(row) for row in rows if row["mean"] == mean] for rows in (few, many)]
        counts = list(phase)
        name = f"error out of distribution, {counts[-1]} minus {counts[0]} background features"
        evidence = f"mean errors {np.mean(errors[0]):.3g} and {np.mean(errors[1]):.3g}, in pairs of networks"
        signed.append(
            _rows.signature(
                name, np.array(errors[1]) - np.array(errors[0]), above=0, why="no difference", reason=evidence
            )
        )
    return signed
