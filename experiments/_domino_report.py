"""The report of the experiment `dominoes`, from the rows of all networks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import _domino_figures as figures
from experiments._domino_rows import DATA, OF_IMAGES, PAIRS, REMEDIES, alarms, measured, remedied, told, warnings
from experiments._domino_signatures import signatures
from experiments._study import Report


def report(rows: list[dict[str, Any]], *, epoch: int, rate: float, judged: int, images: int) -> Report:
    """Summary, signatures and figures from the rows of all arms.

    Args:
        rows: those of all networks.
        epoch: the steps of an epoch.
        rate: the nominal rate of false alarms.
        judged: the networks per arm, which are paired; clean data have more.
        images: the test images of each network.
    """
    names = {**DATA, **REMEDIES}
    found = {name: [row for row in rows if row["arm"] == name] for name in names}
    found = {name: each for name, each in found.items() if each}
    paired = {name: each[:judged] for name, each in found.items()}
    warned = {
        pair: warnings(found[pair], found[f"{pair} clean"], epoch=epoch, rate=rate, images=images)
        for pair in PAIRS
        if {pair, f"{pair} clean"} <= found.keys()
    }
    lines = []
    for name, each in paired.items():
        # The remedies are trained on the images of ERM.
        repeated = OF_IMAGES if name in REMEDIES and "erm" in paired and name != "erm" else ()
        lines += [line for line in measured(names[name], each) if not line["name"].endswith(repeated)]
    lines += [line for pair, each in warned.items() for line in told(pair, each)]
    lines += alarms(found, rate)
    lines += remedied(paired)
    drawn: dict[str, Callable[[Path], object]] = {"depths.png": functools.partial(figures.draw_depths, paired)}
    if warned:
        drawn["courses.png"] = functools.partial(figures.draw_courses, found, warned, epoch)
    if "harmful" in found:
        drawn["saliency.png"] = functools.partial(figures.draw_saliency, paired)
    if "erm" in found:
        drawn["remedies.png"] = functools.partial(figures.draw_remedies, paired)
    return Report(lines, signatures(paired, warned, epoch=epoch), drawn)
