"""The rows of the experiment `feature_sieve`: quantities of its networks, and the summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments import _rows

ARMS = {
    "initial": "initialisation",
    "erm": "ERM",
    "sieve": "sieve",
    "sieve average": "sieve, no group labels",
    "published": "sieve as published",
    "random readout": "random readout",
    "decay": "weight decay of lower layers",
    "erm clean": "ERM, clean data",
    "sieve clean": "sieve, clean data",
}
FEATURES = ("simple", "complex")
KINDS = {"pooled": "linear probe of the mean", "linear": "linear probe", "readout": "early readout"}

Rows = Sequence[Mapping[str, Any]]
Arms = Mapping[str, Rows]
Quantity = Callable[[Mapping[str, Any]], float]


def field(*path: str) -> Quantity:
    """A field of the row; NaN for null."""

    def read(row: Mapping[str, Any]) -> float:
        found: Any = row
        for name in path:
            found = found[name]
        return np.nan if found is None else found

    return read


def probe(kind: str, feature: str, stage: int) -> Quantity:
    """The accuracy of a fresh probe for a feature at a stage, by its number."""

    def read(row: Mapping[str, Any]) -> float:
        found = row["probes"][kind][feature]
        return np.nan if not found or found[stage] is None else found[stage]

    return read


def at(kind: str, feature: str, stage: str | None = None) -> Quantity:
    """The accuracy of a fresh probe for a feature at a stage, by default at the stage of the row itself."""

    def read(row: Mapping[str, Any]) -> float:
        return probe(kind, feature, row["probes"]["stages"].index(stage or row["stage"]))(row)

    return read


def iid(row: Mapping[str, Any]) -> float:
    """The accuracy on test images as in training."""
    return row["course"]["iid"][-1]


def randomised(row: Mapping[str, Any]) -> float:
    """The accuracy with an independent simple feature: all four groups are equally frequent."""
    found = row["accuracy"]["random"]
    return float(np.mean(row["course"]["test"][-1])) if found is None else found


def reversed_(row: Mapping[str, Any]) -> float:
    """The accuracy where the simple feature disagrees with the label; of photographs the mean over both groups."""
    found = row["accuracy"]["reversed"]
    return float(np.mean(row["course"]["test"][-1][1:3])) if found is None else found


def worst_group(row: Mapping[str, Any]) -> float:
    """The accuracy of the worst of four groups at the end of training."""
    return min(row["course"]["test"][-1])


def worst_group_with_offset(row: Mapping[str, Any]) -> float:
    """The same, with an offset on the logits that was selected on validation images."""
    return min(row["course"]["moved"][-1])


def stopped(row: Mapping[str, Any]) -> int:
    """The checkpoint with the best accuracy of the worst group on validation images; of ties the last.

    >>> stopped({"course": {"validation": [[0.9, 0.1], [0.5, 0.4], [0.6, 0.4], [1.0, 0.3]]}})
    2
    """
    scores = np.min(row["course"]["validation"], axis=1)
    return int(np.flatnonzero(scores == scores.max())[-1])


def early(row: Mapping[str, Any]) -> float:
    """The accuracy of the worst group at the checkpoint of early stopping."""
    return min(row["course"]["test"][stopped(row)])


CORE = "Grad-CAM on the core half"
QUANTITIES: dict[str, Quantity] = {
    "iid accuracy": iid,
    "accuracy, simple feature randomised": randomised,
    "accuracy, simple feature reversed": reversed_,
    "accuracy, simple feature removed": field("accuracy", "core only"),
    "accuracy, complex feature randomised": field("accuracy", "core random"),
    "worst-group accuracy": worst_group,
    "worst-group accuracy with an offset": worst_group_with_offset,
    "worst-group accuracy with early stopping": early,
    "accuracy of the sieve's own readout": field("own"),
    CORE: field("looks", "cam"),
    "saliency on the core half": field("looks", "saliency"),
}


def values(rows: Rows, quantity: Quantity) -> Float[np.ndarray, " networks"]:
    """A quantity of every network."""
    return np.array([quantity(row) for row in rows], float)


def named(row: Mapping[str, Any]) -> str:
    """What a row was trained with, in words.

    >>> named({"setup": "decay", "stage": "pool1", "rate": 0.1, "every": 1})
    'strength 0.1 up to pool1'
    """
    if not row["stage"]:
        return "no forgetting"
    if row["setup"] == "decay":
        return f"strength {row['rate']:g} up to {row['stage']}"
    return f"{row['stage']}, rate {row['rate']:g}, every {row['every']}"


def measured(label: str, rows: Rows, *, accuracies: bool = True) -> list[dict[str, Any]]:
    """All quantities of an arm that are defined for every network; of the initial networks only the probes."""
    notes = [named(rows[0])] if rows[0]["stage"] or rows[0]["setup"] == "sieve average" else []
    notes += [] if all(row["finite"] for row in rows) else ["the objective was not always finite"]
    quantities = dict(QUANTITIES) if accuracies else {}
    for kind, text in KINDS.items():
        for number, stage in enumerate(rows[0]["probes"]["stages"]):
            for feature in FEATURES:
                quantities[f"{feature} feature, {text}, {stage}"] = probe(kind, feature, number)
    found = []
    for name, quantity in quantities.items():
        each = values(rows, quantity)
        if np.isfinite(each).all():
            area = [f"its share of the area is {rows[0]['looks']['area']:g}"] if name.endswith("core half") else []
            found.append(_rows.measured(f"{label}: {name}", each, differs="; ".join([*notes, *area]) or None))
    return found


def compared(setting: str, arms: Arms) -> list[dict[str, Any]]:
    """Differences in pairs of networks: of the sieve and its controls from ERM, and of the sieve from remedies."""
    found = []

    def line(text: str, each: Float[np.ndarray, " networks"]) -> None:
        if np.isfinite(each).all():
            found.append(_rows.measured(f"{setting}: {text}", each))

    for name in ("sieve", "sieve average", "published", "random readout", "decay"):
        if {name, "erm"} <= arms.keys():
            for text, quantity in QUANTITIES.items():
                line(f"{ARMS[name]} minus ERM: {text}", values(arms[name], quantity) - values(arms["erm"], quantity))
    if {"sieve clean", "erm clean"} <= arms.keys():
        each = values(arms["sieve clean"], iid) - values(arms["erm clean"], iid)
        line("sieve minus ERM, clean data: iid accuracy", each)
    if {"sieve", "erm"} <= arms.keys():
        stage = arms["sieve"][0]["stage"]
        for kind, text in KINDS.items():
            for feature in FEATURES:
                quantity = at(kind, feature, stage)
                each = values(arms["sieve"], quantity) - values(arms["erm"], quantity)
                line(f"sieve minus ERM: {feature} feature, {text}, at the stage", each)
    return found


def best(found: Arms, by: str, *, forgetting: bool = False) -> str:
    """The configuration of the search with the best mean score, without weight decays; of ties the first.

    With `forgetting` it is the best of those that forget.
    """
    names = [name for name in found if not name.startswith("decay")]
    names = [name for name in names if found[name][0]["stage"]] if forgetting else names
    scores = [np.mean([row["scores"][by] for row in found[name]]) for name in names]
    return names[int(np.argmax(scores))]


def of_search(setting: str, found: Arms) -> list[dict[str, Any]]:
    """Scores on validation images and what they select, test accuracies, and probes of every configuration."""
    chosen = {"with group labels": best(found, "worst"), "without group labels": best(found, "average")}
    sieve = best(found, "worst", forgetting=True)
    lines = []
    for name, rows in found.items():
        notes = [f"selected {how}" for how, which in chosen.items() if which == name]
        notes += ["the best that forgets, with group labels"] if name == sieve else []
        notes += [] if all(row["finite"] for row in rows) else ["the objective was not always finite"]
        quantities: dict[str, Quantity] = {
            "worst group, validation": field("scores", "worst"),
            "average, validation": field("scores", "average"),
            "iid": iid,
            "randomised": randomised,
            "reversed": reversed_,
        }
        if rows[0]["stage"]:
            quantities |= {
                f"{feature} feature at the stage, {KINDS[kind]}": at(kind, feature)
                for kind in ("pooled", "linear")
                for feature in FEATURES
            }
        quantities["complex feature at the last stage, linear probe"] = probe("linear", "complex", -1)
        for text, quantity in quantities.items():
            each = values(rows, quantity)
            if np.isfinite(each).all():
                lines.append(_rows.measured(f"{setting}, {name}: {text}", each, differs="; ".join(notes) or None))
    return lines
