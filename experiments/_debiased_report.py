"""The report of the experiment `debiased_distillation`: signatures, and everything from the rows of all networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments import _debiased_figures as figures
from experiments import _rows
from experiments._debiased_rows import (
    ARMS,
    RATIOS,
    Part,
    Rows,
    average,
    readouts,
    refreshes,
    selected,
    side,
    summarised,
    worst,
)
from experiments._study import Report


def report(parts: Sequence[Part]) -> Report:
    """Summary, signatures and figures of all settings."""
    lines = [line for part in parts for line in summarised(part)]
    judged = [each for part in parts for each in signatures(part)]
    drawn: dict[str, Callable[[Path], object]] = {"methods.png": functools.partial(figures.draw_methods, parts)}
    weighted = [part for part in parts if part.base is not None]
    if weighted:
        drawn["readouts.png"] = functools.partial(figures.draw_readouts, weighted)
        drawn["weights.png"] = functools.partial(figures.draw_weights, weighted)
    return Report(lines, judged, drawn)


def signatures(part: Part) -> list[dict[str, Any]]:
    """The signatures that the methods of a setting allow; networks are paired by their images."""
    found: list[dict[str, Any]] = []
    searched = part.searched

    def judge(title: str, values: Float[np.ndarray, " networks"], why: str, evidence: str) -> None:
        title, defined = f"{part.name}: {title}", values[np.isfinite(values)]
        if len(defined) > 1:
            left = "" if len(defined) == len(values) else f"; {len(defined)} of {len(values)} networks have a value"
            found.append(_rows.signature(title, defined, above=0, why=why, reason=evidence + left))
        else:
            found.append(_rows.stated(title, None, 1.0, why=why, reason=f"{evidence}; fewer than two have a value"))

    def compare(title: str, ours: Rows, theirs: Rows, *kinds: str) -> None:
        first, second = kinds or ("none", "none")
        means = [f"{worst(rows, kind).mean():.3f}" for rows, kind in ((ours, first), (theirs, second))]
        averages = [f"{average(rows, kind).mean():.3f}" for rows, kind in ((ours, first), (theirs, second))]
        evidence = f"worst group {means[0]} and {means[1]}, average {averages[0]} and {averages[1]}"
        judge(f"worst group, {title}", worst(ours, first) - worst(theirs, second), "equal accuracy", evidence)

    base = part.weighted[part.base][1] if part.base is not None else None
    if base is not None:
        for title, sums in RATIOS.items():
            by_side = side(base, part.conflicting, *sums)
            evidence = ", ".join(f"{mean(values)} ({name})" for name, values in by_side.items())
            difference = by_side["conflicting"] - by_side["aligned"]
            judge(f"readout, {title}, conflicting minus aligned", difference, "no difference", evidence)
    if {"erm", "distillation"} <= searched.keys():
        compare("distillation minus ERM", selected(searched["distillation"]), selected(searched["erm"]))
    if {"dedier", "distillation"} <= searched.keys():
        ours, theirs = searched["dedier"], searched["distillation"]
        compare("DeDiER minus distillation", selected(ours), selected(theirs))
        moved = selected(ours, "groups"), selected(theirs, "groups")
        compare("(DeDiER + offset) minus (distillation + offset)", *moved, "groups", "groups")
    if base is not None:
        if "distillation" in searched:
            compare("DeDiER minus distillation, both as set", base, next(iter(searched["distillation"].values())))
        for control in ("permuted", "permuted in classes"):
            if control in searched:
                rows = next(iter(searched[control].values()))
                compare(f"DeDiER as set minus ({ARMS[control]})", base, rows)
        for name, deeper in readouts(part).items():
            if "block" in name:
                gaps = [gap(rows, part.conflicting) for rows in (base, deeper)]
                evidence = f"gaps {mean(gaps[0])} (linear) and {mean(gaps[1])} ({name})"
                judge(f"readout, gap of error rates, linear minus {name}", gaps[0] - gaps[1], "no difference", evidence)
    same = unchanged(part)
    if same is not None:
        count = f"{same.sum()} of {len(same)} networks agree"
        why = f"equal bits of all parameters of every network: {count}"
        title = f"{part.name}: DeDiER with beta 0 is plain distillation"
        found.append(_rows.stated(title, None, 0.0 if same.all() else 1.0, why=why, reason=count))
    return found


def gap(rows: Rows, conflicting: tuple[int, ...]) -> Float[np.ndarray, " networks"]:
    """The readout's error rate on conflicting examples minus that on aligned ones, at the first refresh."""
    by_side = side(rows, conflicting, *RATIOS["error rate"])
    return by_side["conflicting"] - by_side["aligned"]


def unchanged(part: Part) -> np.ndarray | None:
    """Which networks of DeDiER with beta 0 have the parameters of plain distillation.

    None if they were not trained, and for photographs: with the statistics of batches in a residual network, the two
    programs are compiled to different roundings.
    """
    plain = next(iter(part.searched.get("distillation", {}).values()), None)
    free = next((rows for options, rows in part.weighted if options["beta"] == 0), None)
    if plain is None or free is None or "first" not in refreshes(free):
        return None
    return np.array([ours["digest"] == theirs["digest"] for ours, theirs in zip(free, plain, strict=True)])


def mean(values: Float[np.ndarray, " networks"]) -> str:
    """The mean of the values that are defined, in words."""
    defined = values[np.isfinite(values)]
    return f"{defined.mean():.3f}" if len(defined) else "no value"
