"""The figure of a monitored training: prediction depths over the recorded steps, and the warning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import ArrayLike, Int, Real
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap

from gsjax import _check
from gsjax.plotting._style import OKABE_ITO, axes, colorbar, increasing, legend_above, styled

__all__ = ["monitor"]


@styled
def monitor(
    steps: Real[ArrayLike, " T"] | Sequence[float],
    counts: Real[ArrayLike, "T layers"],
    ax: Axes | None = None,
    *,
    depths: Int[ArrayLike, " layers"] | Sequence[int] | None = None,
    first: int = 1,
    invalid: Real[ArrayLike, " T"] | Sequence[float] | None = None,
    threshold: Real[ArrayLike, " T"] | Sequence[float] | None = None,
    warning: float | None = None,
) -> Axes:
    """The histogram of prediction depths over training, as stacked areas, with the early mass and its threshold.

    Areas are shares of the valid examples, the smallest depths at the bottom. The solid line, the upper edge of the
    depths up to `first`, is the early mass. It is above the dashed threshold at the steps with a warning.

    Args:
        steps: the recorded steps, increasing, shape (T,).
        counts: numbers of valid examples per depth, shape (T, layers), such as those of `probes.monitoring.histogram`
            for one run or summed over runs.
        ax: axes to draw into; a new figure by default.
        depths: the depths, increasing, shape (layers,); 1, 2, ... by default.
        first: the largest depth that counts as early.
        invalid: numbers of invalid examples, shape (T,); their share of all examples is a dotted line.
        threshold: thresholds of the early mass, shape (T,), from `probes.alarms.warn`.
        warning: the first step with a warning, marked by a vertical line; None if there is none.

    Raises:
        ValueError: fewer than two steps or steps that do not increase; shapes that differ; counts that are negative or
            not finite; thresholds that are not shares; `ax` that is not matplotlib axes.

    >>> ax = monitor([0, 10], [[2, 8], [5, 5]], threshold=[0.4, 0.4], warning=10)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['depth ≤ 1', 'threshold', 'first warning']
    """
    steps, counts = increasing("steps", steps), _check.floats("counts", counts)
    good = counts.ndim == 2 and len(counts) == len(steps) and counts.shape[1] > 0
    _check.require(good, "counts", f"shape ({len(steps)}, layers)", f"shape {counts.shape}")
    _check.not_negative("counts", counts)
    layers = counts.shape[1]
    given = np.array(_check.wholes("depths", range(1, layers + 1) if depths is None else depths, least=0))
    ordered = len(given) == layers and bool((np.diff(given) > 0).all())
    _check.require(ordered, "depths", f"{layers} increasing whole numbers", given)
    first = _check.whole("first", first, least=0)
    lost = None if invalid is None else _row("invalid", invalid, steps)
    if threshold is not None:
        threshold = _row("threshold", threshold, steps)
        _check.numbers("threshold", threshold, "[0, 1]")
    if warning is not None:
        _check.number("warning", warning)
    ax = axes(ax)

    total = counts.sum(axis=1)
    shares = counts / np.where(total > 0, total, 1)[:, None]
    colors = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.75, 0.08, layers)))
    ax.stackplot(steps, shares.T, colors=[colors(layer) for layer in range(layers)], linewidth=0)
    edges = np.append(given - 0.5, given[-1] + 0.5)
    bar = colorbar(ax, ScalarMappable(BoundaryNorm(edges, layers), colors), "prediction depth")
    shown = given[:: 1 + (layers - 1) // 10].tolist()
    bar.set_ticks(shown, labels=[str(depth) for depth in shown])
    bar.ax.tick_params(length=0)

    early = shares[:, given <= first].sum(axis=1)
    _line(ax, steps, early, marker="o", color="black", label=f"depth ≤ {first}")
    if threshold is not None:
        _line(ax, steps, threshold, marker="s", color=OKABE_ITO[1], linestyle="--", label="threshold")
    if lost is not None:
        every = total + lost
        _line(
            ax,
            steps,
            lost / np.where(every > 0, every, 1),
            marker="^",
            color="0.25",
            linestyle=":",
            label="invalid, of all examples",
        )
    if warning is not None:
        ax.axvline(warning, color=OKABE_ITO[1], linewidth=2.8, alpha=0.7, label="first warning")
    ax.grid(visible=False)
    ax.set(xlim=(steps[0], steps[-1]), ylim=(0, 1), xlabel="step of training", ylabel="share of valid examples")
    legend_above(ax, 2)
    return ax


def _line(ax: Axes, steps: np.ndarray, values: np.ndarray, *, linestyle: str = "-", **style: Any) -> None:
    """A line that is legible on every colour."""
    under = {"color": "white", "linewidth": 4.0, "solid_capstyle": "round"}
    ax.plot(steps, values, **under)
    ax.plot(steps, values, linestyle, markersize=5, clip_on=False, zorder=3, **style)


def _row(name: str, value: Real[ArrayLike, " T"] | Sequence[float], steps: np.ndarray) -> np.ndarray:
    """`value` as finite numbers, 0 or above, one per step."""
    found = _check.floats(name, value)
    _check.require(found.shape == steps.shape, name, f"shape {steps.shape}, one per step", f"shape {found.shape}")
    _check.not_negative(name, found)
    return found
