"""The rows of the experiment `debiased_distillation`: networks by method, selection of candidates, and the summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import _rows

ARMS = {
    "teacher": "teacher",
    "erm": "ERM",
    "balanced": "ERM, class weights",
    "distillation": "distillation",
    "dedier": "DeDiER",
    "permuted": "DeDiER, weights permuted",
    "permuted in classes": "DeDiER, weights permuted in classes",
    "sd": "SD",
    "group_dro": "Group DRO",
    "lff": "LfF",
    "jtt": "JTT",
}
TEACHERS = {"balanced": "balanced images", "group_dro": "Group DRO"}
SIDES = ("aligned", "conflicting")

Row = Mapping[str, Any]
Rows = Sequence[Row]
Plan = Sequence[tuple[str, str, Mapping[str, Any]]]
"""All networks of a setting: arm, teacher ("" for none) and options."""


class Part(NamedTuple):
    """The networks of a setting.

    Attributes:
        name: of the setting.
        conflicting: the groups in which the spurious feature conflicts with the label.
        searched: by method and candidate, in the order in which candidates are tried; "sweep" is not searched.
        weighted: the options of DeDiER that were tried, in searches and in the sweep, with their networks.
        base: the number of the options among `weighted` that were set, not searched.
        others: distillation and DeDiER of further teachers, and these teachers, by teacher and method.
    """

    name: str
    conflicting: tuple[int, ...]
    searched: dict[str, dict[str, Rows]]
    weighted: list[tuple[Mapping[str, Any], Rows]]
    base: int | None
    others: dict[str, dict[str, Rows]]


def gathered(
    name: str, conflicting: tuple[int, ...], rows: Rows, plan: Plan, label: Any, base: Mapping[str, Any]
) -> Part:
    """The networks of a setting from all `rows`; `label` names options, and `base` are DeDiER's that were set."""

    def found(arm: str, teacher: str, options: Mapping[str, Any]) -> Rows:
        key = {"setting": name, "arm": arm, "teacher": teacher, "candidate": label(options)}
        return [row for row in rows if key.items() <= row.items()]

    main = next((teacher for arm, teacher, _ in plan if arm == "teacher"), None)
    main = main or next((teacher for _, teacher, _ in plan if teacher), "")
    searched: dict[str, dict[str, Rows]] = {}
    others: dict[str, dict[str, Rows]] = {}
    weighted = []
    for arm, teacher, options in plan:
        own = found(arm, teacher, options)
        if teacher in ("", main):
            if arm != "sweep":
                searched.setdefault(arm, {})[label(options)] = own
            if arm in ("dedier", "sweep"):
                weighted.append((options, own))
        else:
            others.setdefault(teacher, {})[arm] = own
    place = next((number for number, (options, _) in enumerate(weighted) if options == base), None)
    return Part(name, conflicting, searched, weighted, place, others)


def worst(rows: Rows, kind: str = "none") -> Float[np.ndarray, " networks"]:
    """The accuracy of the worst of four groups on test images; kind "groups" is with the offset for the worst group."""
    return np.array([min(row[kind]["test"]) for row in rows])


def average(rows: Rows, kind: str = "none") -> Float[np.ndarray, " networks"]:
    """The accuracy on test images, with the groups weighted by their shares in training."""
    return np.array([np.dot(row[kind]["test"], row["shares"]) for row in rows])


def choices(tried: Mapping[str, Rows], kind: str = "none") -> list[str]:
    """The candidate of each seed: the best worst-group accuracy on its validation images; of ties the first."""
    scores = [[min(row[kind]["validation"]) for row in rows] for rows in tried.values()]
    return [list(tried)[number] for number in np.argmax(scores, axis=0)]


def selected(tried: Mapping[str, Rows], kind: str = "none") -> Rows:
    """The networks of the selected candidates, one per seed."""
    return [tried[name][seed] for seed, name in enumerate(choices(tried, kind))]


def side(
    rows: Rows, conflicting: tuple[int, ...], over: str, under: str, when: str | None = None
) -> dict[str, Float[np.ndarray, " networks"]]:
    """The ratio of two sums of a readout, by `SIDES`, for every network; NaN if the second sum is 0.

    E.g. "errors" over "count" is the error rate, "wrong" over "errors" the margin of errors, "weight" over "count" the
    mean weight. `when` is one of `refreshes`, by default the first.
    """
    groups = {"conflicting": list(conflicting), "aligned": [group for group in range(4) if group not in conflicting]}
    return {name: ratio(rows, over, under, groups[name], when) for name in SIDES}


def ratio(
    rows: Rows, over: str, under: str, groups: Sequence[int], when: str | None = None
) -> Float[np.ndarray, " networks"]:
    """The ratio of two sums of a readout over some groups, for every network; NaN if the second sum is 0."""
    when = when or refreshes(rows)[0]
    sums = np.array([[np.array(row[when][name])[list(groups)].sum() for name in (over, under)] for row in rows])
    with np.errstate(invalid="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / np.maximum(sums[:, 1], 1e-30), np.nan)


def refreshes(rows: Rows) -> tuple[str, ...]:
    """The refreshes at which readouts were measured: "first" and "last", or only the last one (photographs)."""
    return tuple(when for when in ("first", "last") if when in rows[0])


RATIOS = {
    "error rate": ("errors", "count"),
    "margin of errors": ("wrong", "errors"),
    "mean weight": ("weight", "count"),
}


def readouts(part: Part) -> dict[str, Rows]:
    """The networks with the strength and exponent that were set, by stage and depth of the readout."""
    if part.base is None:
        return {}
    base = part.weighted[part.base][0]
    found = {}
    for options, rows in part.weighted:
        if all(options[name] == base[name] for name in ("beta", "alpha")):
            depth = options.get("depth", 0)
            found[options["position"] + blocks(depth)] = rows
    return found


def summarised(part: Part) -> list[dict[str, Any]]:
    """Accuracies of all methods, of their candidates and of other teachers, and what readouts show."""
    found: list[dict[str, Any]] = []

    def add(title: str, rows: Rows, values: Float[np.ndarray, " networks"], note: str | None = None) -> None:
        defined = values[np.isfinite(values)]
        missing = None if len(defined) == len(values) else f"{len(defined)} of {len(values)} networks have a value"
        finite = None if all(row["finite"] for row in rows) else "the objective was not always finite"
        notes = "; ".join(filter(None, (note, missing, finite))) or None
        if len(defined):
            found.append(_rows.measured(f"{part.name}: {title}", defined, differs=notes))

    for arm, tried in part.searched.items():
        note = None
        if len(tried) > 1:
            counts = Counter(choices(tried))
            note = "selected: " + "; ".join(f"{name} ({count})" for name, count in counts.most_common())
        own, moved = selected(tried), selected(tried, "groups")
        add(f"{ARMS[arm]}: average accuracy", own, average(own), note)
        add(f"{ARMS[arm]}: worst-group accuracy", own, worst(own), note)
        add(f"{ARMS[arm]}: worst-group accuracy with an offset", moved, worst(moved, "groups"))
    for teacher, arms in part.others.items():
        for arm, rows in arms.items():
            title = f"{ARMS[arm]}, {'' if arm == 'teacher' else 'teacher '}by {TEACHERS[teacher]}"
            add(f"{title}: average accuracy", rows, average(rows))
            add(f"{title}: worst-group accuracy", rows, worst(rows))
    for arm, tried in part.searched.items():
        for name, rows in tried.items() if len(tried) > 1 else ():
            if arm != "dedier":
                add(f"{ARMS[arm]}, {name}: worst-group accuracy", rows, worst(rows))
    for options, rows in part.weighted:
        add(f"DeDiER, {described(options)}: average accuracy", rows, average(rows))
        add(f"DeDiER, {described(options)}: worst-group accuracy", rows, worst(rows))
    for name, rows in readouts(part).items():
        for when in refreshes(rows):
            for title, sums in RATIOS.items():
                for which, values in side(rows, part.conflicting, *sums, when).items():
                    add(f"readout of {name}, {when} refresh: {title}, {which}", rows, values)
    return found


def described(options: Mapping[str, Any]) -> str:
    """DeDiER's options in words.

    >>> described({"position": "h1", "beta": 2.0, "alpha": 1.0})
    'readout of h1, beta 2, alpha 1'
    """
    depth = blocks(options.get("depth", 0))
    return f"readout of {options['position']}{depth}, beta {options['beta']:g}, alpha {options['alpha']:g}"


def blocks(depth: int) -> str:
    """The depth of a readout in words, to be appended to the name of its stage; nothing for a linear one.

    >>> blocks(0), blocks(2)
    ('', ', 2 blocks')
    """
    return f", {depth} block{'s' if depth > 1 else ''}" if depth else ""
