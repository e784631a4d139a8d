"""The report of the experiment `starvation_and_depth`: summary, signatures and figures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments import _rows
from experiments import _starved_figures as figures
from experiments import _starved_statistics as statistics
from experiments._starved_rows import (
    ACCURACY,
    DEPTH,
    KERNELS,
    LEAD,
    LINEAR,
    PREDICTORS,
    SALIENCY,
    SHARE,
    SHUFFLED,
    SIMPLE,
    STARVATION,
    TURN,
    USED,
    Found,
    correlations,
    gather,
    known,
    simple_means,
    summary,
)
from experiments._study import Report

CHANCE = 0.05  # tolerance on the accuracy of the control, whose chance level is one half


def report(rows: Sequence[dict[str, Any]], *, told: float, layers: Sequence[str]) -> Report:
    """Summary, signatures and figures from the rows of all tasks.

    Args:
        rows: those of all networks.
        told: the accuracy of the vote from which on a layer tells a label.
        layers: the names of the layers.
    """
    found = gather(rows, told)
    related = correlations(found)
    drawn = {
        "predicted.png": functools.partial(figures.draw_predicted, found),
        "correlations.png": functools.partial(figures.draw_correlations, related),
        "depth.png": functools.partial(figures.draw_depth, found, layers),
        "starvation.png": functools.partial(figures.draw_starvation, found),
        "features.png": functools.partial(figures.draw_features, found),
    }
    return Report(summary(found, related), signatures(found), drawn)


def signatures(found: Found) -> list[dict[str, Any]]:
    """The signatures: whether predictions and diagnoses have the order that the theory says, over tasks."""
    measured, made = known(found), []
    initial, trained = KERNELS.values()

    def judge(
        predictor: str, outcome: str, sign: int, *given: Float[np.ndarray, " tasks"], beside: str = "", why: str
    ) -> None:
        name = f"{predictor} and {outcome}{beside}: {'positive' if sign > 0 else 'negative'} rank correlation"
        if outcome not in measured:
            made.append(_rows.stated(name, None, 1.0, why=why, reason="some task has no value"))
            return
        x, y = found.means(PREDICTORS[predictor]), measured[outcome]
        interval = statistics.over_tasks(found.tasks, x, y, *given)
        reason = f"over {len(x)} tasks the predictions go from {x.min():.3f} to {x.max():.3f}, what was measured from "
        reason += f"{y.min():.3f} to {y.max():.3f}; without a kernel, {LINEAR}, the rank correlation is "
        reason += f"{statistics.spearman(found.means(SIMPLE[LINEAR]), y):.2f}"
        p = statistics.p_value(found.tasks, sign * x, y, *given)
        made.append(
            _rows.stated(name, interval, p, why=f"{why}; permutation of ordered pairs of halves", reason=reason)
        )

    for label in KERNELS.values():
        judge(f"{label}: {ACCURACY}", USED, 1, why="the predictor is to be that of the network")
        judge(f"{label}: {STARVATION}", USED, -1, why="the more the core is starved, the less it is used")
    judge(f"{initial}: {SHARE}", SALIENCY, -1, why="a smaller core share, more saliency on the spurious half")
    judge(f"{initial}: {SHARE}", TURN, -1, why="a smaller core share, a later turn to the core")
    judge(f"{initial}: {SHARE}", LEAD, -1, why="a smaller core share, an earlier spurious label")
    judge(f"{initial}: {ACCURACY}", DEPTH, 1, why="harmful features lower the depth (Murali et al. 2023)")
    for label in (initial, trained):
        judge(
            f"{label}: {ACCURACY}",
            USED,
            1,
            *simple_means(found),
            beside=", given all predictions without a kernel",
            why="the kernel says more than difficulty",
        )
    parts = statistics.within_tasks(
        found.table(PREDICTORS[f"{initial}: {ACCURACY}"]), found.table(found.outcomes[USED])
    )
    if parts is not None:
        made.append(
            _rows.signature(
                f"{initial}: {ACCURACY} and {USED}, within tasks: positive correlation",
                parts,
                above=0,
                why="deviations from the means of tasks; interval over tasks",
                reason=f"the standard deviation within tasks is {_spread(found, PREDICTORS[f'{initial}: {ACCURACY}'])} "
                f"of predictions and {_spread(found, found.outcomes[USED])} of what was measured",
            )
        )
    control = found.by_pair(found.means(PREDICTORS[SHUFFLED]))
    made.append(
        _rows.signature(
            f"{SHUFFLED}, a control",
            control,
            above=0.5 - CHANCE,
            below=0.5 + CHANCE,
            why="chance; means over the tasks of each pair of halves",
            reason=f"the means are {' '.join(f'{value:.2f}' for value in control)}: labels shuffled by chance agree "
            "a little with the images",
        )
    )
    return made


def _spread(found: Found, quantity: Any) -> str:
    table = found.table(quantity)
    return f"{(table - table.mean(axis=1, keepdims=True)).std():.3f}"
