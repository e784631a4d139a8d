"""The figures of the experiment `starvation_and_depth`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from experiments import _real_bases
from experiments._starved_rows import (
    ACCURACY,
    CONTROL,
    DEPTH,
    KERNELS,
    LINEAR,
    LOSS,
    NEIGHBOURS,
    PREDICTORS,
    RELEASED,
    SALIENCY,
    SHARE,
    STARVATION,
    THEORY,
    TURN,
    USED,
    Found,
    Quantity,
)
from gsjax import plotting, statistics
from gsjax.statistics import Interval

HARMFUL = 0.75  # core-only accuracy below which a task is drawn as harmful, half way from chance to 1
_COLORS = (*plotting.OKABE_ITO, "#8A8A8A", "#7A4B1E", "#6A3D9A")


def draw_predicted(found: Found, path: Path) -> None:
    """Predicted against measured core-only accuracy, by the kernels and without a kernel; bars are 95% over seeds."""
    quantities = {name: PREDICTORS[name] for name in [*_of_kernels(ACCURACY), LINEAR, NEIGHBOURS]}
    figure, axes = plotting.panels(2, 2)
    figure.set_size_inches(10.5, 11.5)
    for (name, quantity), ax in zip(quantities.items(), axes.flat, strict=True):
        ax.plot([0.4, 1], [0.4, 1], color="0.6", linewidth=1, zorder=1)
        _scatter(found, quantity, found.outcomes[USED], ax)
        ax.set(xlabel="predicted core-only accuracy", ylabel="measured core-only accuracy", title=_title(name))
        ax.set(xlim=(0.35, 1.03), ylim=(0.35, 1.03), aspect="equal")
    _legend(found, figure)
    plotting.save(figure, path)


def draw_correlations(related: Mapping[str, Mapping[str, Interval]], path: Path) -> None:
    """Rank correlations over tasks with 95% intervals: a panel per outcome, a line per predictor."""
    shown = [name for name in (USED, SALIENCY, TURN, DEPTH) if name in related]
    figure, axes = plotting.panels(1, len(shown))
    figure.set_size_inches(4.2 * len(shown) + 3.5, 6.6)
    for number, (outcome, ax) in enumerate(zip(shown, axes.flat, strict=True)):
        ax.axvline(0, color="0.6", linewidth=1, zorder=1)
        for line, (name, interval) in enumerate(related[outcome].items()):
            kind = 0 if name in _of_kernels() and name.startswith(KERNELS["initial"]) else 1 if name in THEORY else 2
            kind = 3 if name in CONTROL else kind
            color, marker = plotting.OKABE_ITO[kind], "os^x"[kind]
            ax.plot([float(interval.low), float(interval.high)], [-line, -line], color=color, linewidth=2)
            ax.plot(float(interval.value), -line, marker, color=color, markersize=7)
        ax.set_yticks(-np.arange(len(PREDICTORS)), list(PREDICTORS) if number == 0 else [])
        ax.set(xlim=(-1.05, 1.05), xlabel="rank correlation over tasks", title=outcome)
    plotting.save(figure, path)


def draw_depth(found: Found, layers: Sequence[str], path: Path) -> None:
    """By layer, what votes say about images with independent halves; and the turn to the core by task."""
    figure, axes = plotting.panels(2, 2)
    figure.set_size_inches(13, 10)
    place = np.arange(len(layers))
    for ax, key, ylabel in (
        (axes[0, 0], "votes", "agreement of the vote of training images"),
        (axes[0, 1], "told", "accuracy of the vote"),
    ):
        for (group, chosen), color in zip(groups(found).items(), plotting.OKABE_ITO, strict=False):
            for half, style in (("core", "-"), ("spurious", "--")):
                values = [
                    np.mean([row[key][half] for row in rows], axis=0)
                    for rows, one in zip(found.rows, chosen, strict=True)
                    if one
                ]
                if values:
                    label = f"{group}: {half} label"
                    plotting.curves(place, values, ax, linestyle=style, color=color, label=label, ylabel=ylabel)
        ax.set_xticks(place, layers)
        ax.set(xlabel="layer", ylim=(0.35, 1.03))
    for ax, name in zip(axes[1], _of_kernels(SHARE), strict=True):
        _scatter(found, PREDICTORS[name], found.outcomes[TURN], ax)
        ax.set(xlabel="predicted core share", ylabel=TURN, title=_title(name), xlim=(-0.4, 1.05))
    _legend(found, figure)
    plotting.save(figure, path)


def draw_starvation(found: Found, path: Path) -> None:
    """Core-only accuracy against starvation of the core, by all measures and both kernels."""
    figure, axes = plotting.panels(3, 2)
    figure.set_size_inches(12, 14)
    for line, name in zip(axes, (STARVATION, LOSS, RELEASED), strict=True):
        for ax, predictor in zip(line, _of_kernels(name), strict=True):
            ax.axvline(0, color="0.6", linewidth=1, zorder=1)
            _scatter(found, PREDICTORS[predictor], found.outcomes[USED], ax)
            ax.set(xlabel=f"{name} by the theory", ylabel="measured core-only accuracy", title=_title(predictor))
            ax.set_ylim(0.35, 1.03)
            if name == RELEASED:
                ax.set_xlim(-1.05, 1.05)
    _legend(found, figure)
    plotting.save(figure, path)


def draw_features(found: Found, path: Path) -> None:
    """Which features carry the halves: signals of both in the predictor, summed from the strongest feature on."""
    figure, axes = plotting.panels(1, 2)
    figure.set_size_inches(12, 5)
    for ax, (kernel, label) in zip(axes.flat, KERNELS.items(), strict=True):
        for (group, chosen), color in zip(groups(found).items(), plotting.OKABE_ITO, strict=False):
            chosen_rows = [rows for rows, one in zip(found.rows, chosen, strict=True) if one]
            for half, style in (("core", "-"), ("spurious", "--")):
                values = [np.mean([_cumulative(row[kernel], half) for row in rows], axis=0) for rows in chosen_rows]
                if values:
                    place = 2 ** np.arange(1, len(values[0]) + 1) - 1
                    name = f"{group}: {half} half"
                    ylabel = "cumulative signal, share of the total"
                    plotting.curves(place, values, ax, linestyle=style, color=color, label=name, ylabel=ylabel)
        ax.axhline(0, color="0.6", linewidth=1, zorder=1)
        ax.set_xscale("log", base=2)
        ax.set(xlabel="number of strongest features", title=label, ylim=(-0.3, 1.3))
    plotting.save(figure, path)


def groups(found: Found) -> dict[str, Bool[np.ndarray, " tasks"]]:
    """Which tasks are harmful and benign, by measured core-only accuracy."""
    used = found.means(found.outcomes[USED])
    return {"harmful": used < HARMFUL, "benign": used >= HARMFUL}


def _cumulative(kernel: Mapping[str, Any], half: str) -> np.ndarray:
    total = sum(abs(sum(kernel[name])) for name in ("core", "spurious"))
    return np.cumsum(kernel[half]) / total


def _of_kernels(name: str = "") -> list[str]:
    """The predictions of both kernels that end with this name."""
    return [each for each in THEORY if each.endswith(name)]


def _title(name: str) -> str:
    return name.partition(":")[0]


def _scatter(found: Found, x: Quantity, y: Quantity, ax: Any) -> None:
    """A point per task with 95% intervals over seeds; the colour is the pair of halves, filled for its first order."""
    for number, rows in enumerate(found.rows):
        bars, ends = [], []
        for quantity in (x, y):
            values = np.array([quantity(row) for row in rows], float)
            values = values[np.isfinite(values)]
            bars.append(values.mean() if len(values) else np.nan)
            reach = statistics.mean(values) if len(values) > 1 else None
            ends.append(float(reach.high - reach.value) if reach else 0.0)
        pair, order = int(found.tasks.pair[number]), int(found.tasks.order[number])
        color, first = _color(pair), order % 2 == 0
        ax.errorbar(*bars, xerr=ends[0], yerr=ends[1], fmt="none", ecolor=color, alpha=0.35, linewidth=1)
        marker = "os^Dv<>"[_level(found, number)]
        ax.plot(*bars, marker, color=color, markersize=7, fillstyle="full" if first else "none", zorder=3)


def _level(found: Found, number: int) -> int:
    return int((found.tasks.order[:number] == found.tasks.order[number]).sum()) % 7


def _color(pair: int) -> str:
    return _COLORS[pair % len(_COLORS)]


def _legend(found: Found, figure: Any) -> None:
    """What colours, filling and markers mean, above all panels."""
    ax = figure.axes[0]
    handles = []
    for pair in range(int(found.tasks.pair.max()) + 1):
        row = found.rows[int(np.argmax(found.tasks.pair == pair))][0]
        label = f"{_real_bases.title(row['core'])} (core if filled), {_real_bases.title(row['spurious'])}"
        handles += ax.plot([], [], "o", color=_color(pair), label=label)
    first = np.flatnonzero(found.tasks.order == 0)
    for number in first:
        marker = "os^Dv<>"[_level(found, int(number))]
        label = f"correlation {found.rows[number][0]['correlation']:g}"
        handles += ax.plot([], [], marker, color="black", fillstyle="none", label=label)
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=10, frameon=False)
