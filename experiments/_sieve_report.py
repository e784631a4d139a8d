"""The report of the experiment `feature_sieve`, from the rows of all networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import _sieve_figures as figures
from experiments._sieve_rows import ARMS, compared, measured, of_search
from experiments._sieve_signatures import checks, signatures, sweep
from experiments._study import Report, select


def report(rows: list[dict[str, Any]], setups: Sequence[str]) -> Report:
    """Summary, signatures and figures from the rows of all cells; `setups` are the names of those of the search."""
    lines, stated, judged, searched = [], [], {}, {}
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = select(rows, setting=setting)
        arms = {name: select(own, part="judged", setup=name) for name in ARMS}
        judged[setting] = arms = {name: each for name, each in arms.items() if each}
        searched[setting] = found = {name: select(own, part="search", setup=name) for name in setups}
        for name, each in arms.items():
            lines += measured(f"{setting}: {ARMS[name]}", each, accuracies=name != "initial")
        lines += compared(setting, arms) + of_search(setting, found)
        stated += checks(setting, select(own, part="checks")) + signatures(setting, arms) + sweep(setting, found)
    drawn: dict[str, Callable[[Path], object]] = {
        "accuracy.png": functools.partial(figures.draw_accuracy, judged),
        "probes.png": functools.partial(figures.draw_probes, judged),
        "sweep.png": functools.partial(figures.draw_sweep, searched),
    }
    if all({"erm", "sieve"} <= arms.keys() for arms in judged.values()):
        drawn["gradcam.png"] = functools.partial(figures.draw_gradcam, judged)
    return Report(lines, stated, drawn)
