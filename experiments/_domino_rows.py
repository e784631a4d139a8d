"""The rows of the experiment `dominoes`: quantities of its networks, warnings of the monitor, and the summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from experiments import _rows
from gsjax.probes import monitoring
from gsjax.probes.alarms import false_alarms, warn

DATA = {
    "harmful": "harmful",
    "harmful clean": "harmful, clean",
    "harmful alone": "harmful, core alone",
    "benign": "benign",
    "benign clean": "benign, clean",
    "benign alone": "benign, core alone",
}
REMEDIES = {"erm": "ERM", "sd": "SD", "group_dro": "Group DRO", "lff": "LfF", "irm": "IRM"}
PAIRS = ("harmful", "benign")

ACCURACIES = {
    "test": "iid accuracy",
    "core only": "core-only accuracy, spurious half blanked",
    "random": "core-only accuracy, spurious half randomised",
    "spurious only": "spurious-only accuracy, core half blanked",
    "core random": "spurious-only accuracy, core half randomised",
    "reversed": "accuracy, spurious half reversed",
}
BITS = {"linear": "linear", "first": "first stage", "stages": "mean over stages", "network": "network"}

Rows = Sequence[Mapping[str, Any]]
Quantity = Callable[[Mapping[str, Any]], float]


def accuracy(variant: str) -> Quantity:
    """The accuracy on a variant of the test images."""
    return lambda row: row["accuracy"][variant]


def bits(family: str) -> Quantity:
    """The information of iid test images in a family, in bits per image."""
    return lambda row: row["information"][family]


def worst_group(row: Mapping[str, Any]) -> float:
    """The accuracy of the worst of four groups."""
    return min(row["groups"])


def worst_group_with_offset(row: Mapping[str, Any]) -> float:
    """The accuracy of the worst of four groups, with an offset on the logits that was selected on validation images."""
    return min(row["groups_offset"])


def mean_depth(row: Mapping[str, Any]) -> float:
    """The mean depth of valid examples; NaN if there are none.

    >>> mean_depth({"depth": [3, 0, 1], "invalid": 2})
    1.5
    """
    counts = np.array(row["depth"])
    return float(counts @ np.arange(1, len(counts) + 1) / counts.sum()) if counts.any() else np.nan


def first_mass(row: Mapping[str, Any]) -> float:
    """The share of valid examples with depth 1; NaN if there are none."""
    return row["depth"][0] / sum(row["depth"]) if any(row["depth"]) else np.nan


def invalid(row: Mapping[str, Any]) -> float:
    """The share of invalid examples."""
    return row["invalid"] / (row["invalid"] + sum(row["depth"]))


def field(*path: str) -> Quantity:
    """A field of the row; NaN for null."""

    def read(row: Mapping[str, Any]) -> float:
        found: Any = row
        for name in path:
            found = found[name]
        return np.nan if found is None else found

    return read


SALIENCY = "saliency on the spurious half"
QUANTITIES: dict[str, Quantity] = {
    **{label: accuracy(variant) for variant, label in ACCURACIES.items()},
    "worst-group accuracy": worst_group,
    "worst-group accuracy with an offset": worst_group_with_offset,
    "mean depth": mean_depth,
    "share of depth 1": first_mass,
    "share of invalid examples": invalid,
    "accuracy of the vote of the raw input": lambda row: row["votes"][0],
    **{f"information, {label}, bits": bits(family) for family, label in BITS.items()},
    "information, network without a temperature, bits": bits("uncalibrated"),
    "temperature": field("temperature"),
    SALIENCY: field("saliency"),
    "rank correlation of depth and information, network": field("ranks", "network"),
    "rank correlation of depth and information, linear": field("ranks", "linear"),
    "rank correlation of depth and permuted information": field("ranks", "permuted"),
}
NULL_GAP = "largest divergence of the linear null from the balance, bits"
OF_IMAGES = ("accuracy of the vote of the raw input", "information, linear, bits", NULL_GAP)
"""Quantities that do not depend on the trained network."""


def values(rows: Rows, quantity: Quantity) -> Float[np.ndarray, " networks"]:
    """A quantity of every network."""
    return np.array([quantity(row) for row in rows], float)


class Warned(NamedTuple):
    """When the monitor warned of networks, and when accuracies told them from clean ones; infinity stands for never.

    `monitor`, `random`, `test` and `higher (networks,)` are in epochs. `random` and `test` are for a lower accuracy
    with a random spurious half and on images as in training; `higher` is for a higher accuracy on the latter, a
    control. `threshold (T,)` is that of the monitor.
    """

    monitor: Float[np.ndarray, " networks"]
    random: Float[np.ndarray, " networks"]
    test: Float[np.ndarray, " networks"]
    higher: Float[np.ndarray, " networks"]
    threshold: Float[np.ndarray, " T"]


def course(rows: Rows) -> monitoring.Course:
    """The courses of networks, without the order of the examples, `(networks, T, n)`."""
    counts, lost = (np.array([row["course"][name] for row in rows]) for name in ("counts", "invalid"))
    depths = np.append(np.arange(1.0, counts.shape[-1] + 1), np.nan)
    every = np.concatenate([counts, lost[..., None]], axis=-1)
    depth: Any = np.array([[np.repeat(depths, one) for one in network] for network in every])
    names = tuple(f"stage {number}" for number in range(1, counts.shape[-1] + 1))
    return monitoring.Course(depth, np.zeros_like(depth), np.isfinite(depth), None, names)


def first_outside(
    clean: Float[np.ndarray, "m T"], watched: Float[np.ndarray, "n T"], rate: float, images: int, *, above: bool = False
) -> Int[np.ndarray, " n"]:
    """The first checkpoint at which an accuracy is below what clean networks show, or above; T if there is none.

    The bound is the end of the one-sided prediction interval for a further network at the rate / T, like that of
    `alarms.warn` for the monitor. The standard deviation is at least that of `images` independent answers.
    """
    m, steps = clean.shape
    mean = clean.mean(axis=0)
    spread = np.maximum(clean.std(axis=0, ddof=1), np.sqrt(mean * (1 - mean) / images))
    reach = special.stdtrit(m - 1, 1 - rate / steps) * np.sqrt(1 + 1 / m) * spread
    outside = watched > mean + reach if above else watched < mean - reach
    return np.where(outside.any(axis=1), outside.argmax(axis=1), steps)


def warnings(watched: Rows, clean: Rows, *, epoch: int, rate: float, images: int) -> Warned:
    """When the monitor warns of networks, and when accuracies show the feature, against clean networks."""
    steps = np.array(clean[0]["course"]["steps"])
    found = warn(course(clean), course(watched), steps, rate=rate)
    epochs = np.append(steps / epoch, np.inf)

    def first(variant: str, *, above: bool = False) -> Float[np.ndarray, " networks"]:
        known, new = (np.array([row["course"][variant] for row in rows]) for rows in (clean, watched))
        return epochs[first_outside(known, new, rate, images, above=above)]

    return Warned(
        monitor=np.where(found.warned, found.step / epoch, np.inf),
        random=first("random"),
        test=first("test"),
        higher=first("test", above=True),
        threshold=found.threshold,
    )


def measured(label: str, rows: Rows) -> list[dict[str, Any]]:
    """All quantities of an arm; those that are not defined for every network are left out, with a note."""
    note = None if all(row["finite"] for row in rows) else "the objective was not always finite"
    found = []
    for name, quantity in QUANTITIES.items():
        each = values(rows, quantity)
        defined = each[np.isfinite(each)]
        missing = f"{len(defined)} of {len(each)} networks have a value"
        if len(defined):
            notes = [note, missing if len(defined) < len(each) else None]
            notes.append(f"its share of the area is {rows[0]['area']:g}" if name == SALIENCY else None)
            differs = "; ".join(filter(None, notes)) or None
            found.append(_rows.measured(f"{label}: {name}", defined, differs=differs))
    return [*found, whole(f"{label}: {NULL_GAP}", max(row["null_gap"] for row in rows), len(rows))]


def whole(name: str, value: float, networks: int) -> dict[str, Any]:
    """A row of the summary with one number for all networks, and no interval."""
    return {**_rows.measured(name, [value]), "seeds": networks}


def told(pair: str, warned: Warned) -> list[dict[str, Any]]:
    """How many networks were warned of or shown, and when."""
    found = []
    for name, label in (
        ("monitor", "monitor"),
        ("random", "accuracy with a random spurious half"),
        ("test", "iid accuracy, by being lower,"),
        ("higher", "iid accuracy, by being higher,"),
    ):
        epochs = getattr(warned, name)
        known = epochs[np.isfinite(epochs)]
        title = f"{pair}: share of networks that the {label} tells"
        found.append(whole(title, len(known) / len(epochs), len(epochs)))
        if len(known):
            found.append(_rows.measured(f"{pair}: epoch at which the {label} tells first", known))
        delay = epochs - warned.monitor if len(known) == len(epochs) else np.array([np.inf])
        if name != "monitor" and np.isfinite(delay).all():
            found.append(_rows.measured(f"{pair}: epochs from the warning until the {label} tells", delay))
    return found


def alarms(found: Mapping[str, Rows], rate: float) -> list[dict[str, Any]]:
    """The measured rate of false alarms on clean data, with its Clopper-Pearson interval."""
    lines = []
    for pair in PAIRS:
        if f"{pair} clean" in found:
            each = false_alarms(course(found[f"{pair} clean"]), rate=rate)
            name = f"{pair}, clean: share of networks with a false alarm"
            differs = f"the nominal rate is {rate:g}; each network is judged by the others; interval by Clopper-Pearson"
            line = _rows.measured(name, [each.rate], differs=differs)
            lines.append({**line, "interval": [each.low, each.high], "seeds": each.runs})
    return lines


def remedied(paired: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """What each remedy changes against ERM, and against ERM with an offset, in pairs of networks."""
    shown = ("worst-group accuracy", "mean depth", "share of depth 1", "information, mean over stages, bits")
    found = []
    for name in [name for name in REMEDIES if name in paired and name != "erm" and "erm" in paired]:
        for label in shown:
            change = values(paired[name], QUANTITIES[label]) - values(paired["erm"], QUANTITIES[label])
            if np.isfinite(change).all():
                found.append(_rows.measured(f"{REMEDIES[name]} minus ERM: {label}", change))
        change = values(paired[name], worst_group) - values(paired["erm"], worst_group_with_offset)
        found.append(_rows.measured(f"{REMEDIES[name]} minus (ERM + offset): worst-group accuracy", change))
    return found
