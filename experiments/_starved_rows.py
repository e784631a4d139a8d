"""The rows of the experiment `starvation_and_depth`: predictions, diagnoses, and the summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import _ranks, _real_bases, _rows
from experiments import _starved_statistics as statistics
from experiments._starved_measures import first_told
from gsjax.statistics import Interval

Row = Mapping[str, Any]
Quantity = Callable[[Row], float]


def field(*path: str | int) -> Quantity:
    """A field of the row; NaN for null."""

    def read(row: Row) -> float:
        found: Any = row
        for name in path:
            found = found[name]
        return np.nan if found is None else found

    return read


ACCURACY, SHARE, STARVATION = "predicted accuracy", "core share", "starvation"
LOSS, RELEASED = "loss of core signal", "released core signal"
FIELDS = {ACCURACY: "accuracy", SHARE: "share", STARVATION: "starvation", LOSS: "loss", RELEASED: "released"}
KERNELS = {"initial": "kernel at initialisation", "trained": "kernel after training"}

THEORY: dict[str, Quantity] = {
    f"{label}: {name}": field(kernel, key) for kernel, label in KERNELS.items() for name, key in FIELDS.items()
}
LINEAR, DIFFERENCE, NEIGHBOURS = "linear classifier", "halves alone: core minus spurious", "neighbours in the input"
SIMPLE: dict[str, Quantity] = {
    LINEAR: field("simple", "dominoes"),
    DIFFERENCE: lambda row: row["simple"]["core"] - row["simple"]["spurious"],
    NEIGHBOURS: field("votes", "core", 0),
    "correlation in training": field("correlation"),
}
SHUFFLED = "shuffled labels, kernel at initialisation: predicted accuracy"
CONTROL: dict[str, Quantity] = {SHUFFLED: field("shuffled", "accuracy")}
PREDICTORS = THEORY | SIMPLE | CONTROL

USED, BLANK, OUTPUTS = "core-only accuracy", "core-only accuracy, blanked", "core share of outputs"
SALIENCY, DEPTH = "saliency on the spurious half", "mean depth"
TURN, LEAD = "layer of the turn to the core", "lead of the spurious half, layers"


def lead(told: float) -> Quantity:
    """By how many layers earlier the votes tell the spurious than the core label."""

    def read(row: Row) -> float:
        core, spurious = (float(first_told(np.array(row["told"][name]), told)) for name in ("core", "spurious"))
        return core - spurious

    return read


def turn(row: Row) -> float:
    """The first layer from which on votes of training images agree more with the core than with the spurious label.

    It is the number of layers if the votes of the last layer do not.

    >>> turn({"votes": {"core": [0.6, 0.5, 0.7, 0.9], "spurious": [0.5, 0.8, 0.6, 0.5]}})
    2.0
    """
    core, spurious = (np.array(row["votes"][name]) for name in ("core", "spurious"))
    return float(np.max(np.flatnonzero(core <= spurious) + 1, initial=0))


def outcomes(told: float) -> dict[str, Quantity]:
    """The diagnoses of a trained network."""
    return {
        USED: field("accuracy", "random"),
        BLANK: field("accuracy", "core only"),
        OUTPUTS: field("share"),
        SALIENCY: field("saliency"),
        DEPTH: field("depth"),
        TURN: turn,
        LEAD: lead(told),
    }


class Found(NamedTuple):
    """The rows by task: `rows[task][seed]`, names of the tasks, and which of them belong together."""

    rows: list[list[Row]]
    names: list[str]
    tasks: statistics.Tasks
    outcomes: dict[str, Quantity]

    def table(self, quantity: Quantity) -> Float[np.ndarray, "tasks seeds"]:
        """A quantity of all networks."""
        return np.array([[quantity(row) for row in rows] for rows in self.rows], float)

    def means(self, quantity: Quantity) -> Float[np.ndarray, " tasks"]:
        """The mean over the networks of each task that have the quantity; NaN where none has it."""
        table = self.table(quantity)
        known = np.isfinite(table)
        with np.errstate(invalid="ignore"):
            return np.where(known, table, 0).sum(axis=1) / known.sum(axis=1)

    def by_pair(self, values: Float[np.ndarray, " tasks"]) -> Float[np.ndarray, " pairs"]:
        """Means over the tasks of each pair of halves."""
        return np.array([values[self.tasks.pair == pair].mean() for pair in range(self.tasks.pair.max() + 1)])


def gather(rows: Sequence[Row], told: float) -> Found:
    """The rows by task, in their order."""
    by_task: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        by_task.setdefault((row["core"], row["spurious"], row["correlation"]), []).append(row)
    pairs = list(dict.fromkeys(frozenset(task[:2]) for task in by_task))
    orders = list(dict.fromkeys(task[:2] for task in by_task))
    names = [
        f"core {_real_bases.title(core)}, spurious {_real_bases.title(spurious)}, {correlation:g}"
        for core, spurious, correlation in by_task
    ]
    tasks = statistics.Tasks(
        np.array([pairs.index(frozenset(task[:2])) for task in by_task]),
        np.array([orders.index(task[:2]) for task in by_task]),
    )
    return Found(list(by_task.values()), names, tasks, outcomes(told))


def known(found: Found) -> dict[str, Float[np.ndarray, " tasks"]]:
    """The outcomes that every task has, as means over seeds."""
    means = {name: found.means(quantity) for name, quantity in found.outcomes.items()}
    return {name: values for name, values in means.items() if np.isfinite(values).all()}


def correlations(found: Found) -> dict[str, dict[str, Interval]]:
    """Spearman's correlations over tasks, by outcome and predictor."""
    return {
        outcome: {
            name: statistics.over_tasks(found.tasks, found.means(quantity), values)
            for name, quantity in PREDICTORS.items()
        }
        for outcome, values in known(found).items()
    }


def simple_means(found: Found) -> list[Float[np.ndarray, " tasks"]]:
    """The means of the predictions without a kernel that vary over tasks."""
    means = [found.means(quantity) for quantity in SIMPLE.values()]
    return [values for values in means if np.ptp(values) > 0]


def summary(found: Found, related: Mapping[str, Mapping[str, Interval]]) -> list[dict[str, Any]]:
    """All rows of the summary; numbers of tasks are in place of numbers of seeds where tasks are compared."""
    lines = []
    count = len(found.rows)
    finite = all(
        row["finite"] and row[kernel]["converged"] for rows in found.rows for row in rows for kernel in KERNELS
    )
    note = None if finite else "an objective was not finite, or an equilibrium was not found"
    for name, rows in zip(found.names, found.rows, strict=True):
        for label, quantity in (
            (USED, found.outcomes[USED]),
            *((f"{label}, {ACCURACY}", field(kernel, "accuracy")) for kernel, label in KERNELS.items()),
        ):
            lines.append(_rows.measured(f"{name}: {label}", [quantity(row) for row in rows], differs=note))
    for label, quantity in {"training accuracy": field("train"), **found.outcomes}.items():
        values = found.means(quantity)
        if np.isfinite(values).all():
            lines.append(_rows.measured(f"all tasks: {label}", found.by_pair(values), differs=OF_PAIRS))
    used = found.means(found.outcomes[USED])
    for label, quantity in {name: each for name, each in PREDICTORS.items() if name in ACCURACIES}.items():
        gap = found.means(quantity) - used
        for what, values in (("minus measured", gap), ("absolute error", np.abs(gap))):
            lines.append(_rows.measured(f"{label}, {what}", found.by_pair(values), differs=OF_PAIRS))
    for outcome, each in related.items():
        lines += [between(f"{name} and {outcome}", interval, count) for name, interval in each.items()]
    for label in KERNELS.values():
        x = found.means(THEORY[f"{label}: {ACCURACY}"])
        name = f"{label}: {ACCURACY} and {USED}"
        if count > 3:
            lines.append(between(f"{name}, tasks as if independent", _ranks.correlation(x, used), count, None))
        for other in (LINEAR, DIFFERENCE, NEIGHBOURS):
            partial = statistics.over_tasks(found.tasks, x, used, found.means(SIMPLE[other]))
            lines.append(between(f"{name}, given {other}", partial, count))
    for name in FIELDS:
        first, second = (found.means(THEORY[f"{label}: {name}"]) for label in KERNELS.values())
        change = statistics.difference(found.tasks, first, second, used)
        lines.append(between(f"{name} and {USED}, after training minus at initialisation", change, count))
    for name, quantity in PREDICTORS.items():
        parts = statistics.within_tasks(found.table(quantity), found.table(found.outcomes[USED]))
        if parts is not None and np.isfinite(parts).all():
            differs = "Pearson's, of deviations from the means of tasks; their number is in place of seeds"
            lines.append(_rows.measured(f"within tasks: {name} and {USED}", parts, differs=differs))
    return lines


OF_PAIRS = "mean over pairs of halves, whose number is in place of seeds"
ACCURACIES = {*(f"{label}: {ACCURACY}" for label in KERNELS.values()), LINEAR, NEIGHBOURS, SHUFFLED}


def between(
    name: str, interval: Interval, tasks: int, differs: str | None = "bootstrap over pairs of halves"
) -> dict[str, Any]:
    """A row of the summary for a rank correlation over tasks."""
    line = _rows.measured(f"rank correlation: {name}", [float(interval.value)], differs=differs)
    return {**line, "interval": [float(interval.low), float(interval.high)], "seeds": tasks}
