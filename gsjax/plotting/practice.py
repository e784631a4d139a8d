"""Figures of trained networks: errors against width, training curves, comparisons of methods, decision boundaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes

from gsjax import _check, statistics
from gsjax.plotting._style import (
    MARKERS,
    OKABE_ITO,
    axes,
    decimal_ticks,
    increasing,
    legend_above,
    size_ticks,
    styled,
    vector,
)
from gsjax.statistics import Slope

__all__ = ["against", "categories", "curves", "decision_boundary", "error_against_width"]


@styled
def error_against_width(
    widths: Real[ArrayLike, " w"] | Sequence[float],
    errors: Real[ArrayLike, "seeds w"],
    slope: Slope | None = None,
    reference: float | None = None,
    ax: Axes | None = None,
    *,
    label: str = "error",
    xlabel: str = "width",
) -> Axes:
    """Errors that should vanish with growing width or another size: seeds, means with intervals, and a fitted line.

    Args:
        widths: sizes, shape (w,), positive. Whole numbers are ticks in plain notation.
        errors: one row per seed, shape (seeds, w), positive. Dots are seeds; bars are 95% intervals of the geometric
            mean (`statistics.mean` of the logarithm).
        slope: a slope from `statistics.loglog_slope`; its line is drawn, and its interval is in the legend.
        reference: an exponent, drawn as a dashed guide below the data.
        ax: axes to draw into, e.g. those of another series; a new figure by default.
        label: the label of the series in the legend.
        xlabel: the name of the sizes.

    Raises:
        ValueError: shapes that differ, entries that are not positive, or `ax` that is not matplotlib axes.

    >>> error_against_width([64, 256], np.array([[0.4, 0.2], [0.5, 0.2]]), reference=-0.5).get_xscale()
    'log'
    """
    widths, errors = vector("widths", widths), _check.floats("errors", errors)
    _check.positive("widths", widths)
    expected = f"shape (seeds, {len(widths)})"
    _check.require(errors.ndim == 2 and errors.shape[1:] == widths.shape, "errors", expected, f"shape {errors.shape}")
    _check.positive("errors", errors)
    if reference is not None:
        _check.number("reference", reference)
    ax = axes(ax)
    mean, low, high = np.exp(np.stack(statistics.mean(np.log(errors))))
    if slope is not None:
        label = f"{label}: slope {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]".replace("-", "−")
    marker = MARKERS[len(ax.containers) % len(MARKERS)]  # there is one container with error bars per earlier series
    (means,) = ax.plot(widths, mean, marker, markersize=6, zorder=3, label=label)
    color = means.get_color()
    ax.errorbar(widths, mean, [mean - low, high - mean], fmt="none", ecolor=color, capsize=3)
    ax.plot(widths, errors.T, ".", color=color, alpha=0.4, markersize=4)
    ends = np.array([widths.min(), widths.max()])
    if slope is not None:
        width, height = np.exp(np.log(widths).mean()), np.exp(np.log(mean).mean())
        ax.plot(ends, height * (ends / width) ** slope.value, color=color)
    if reference is not None:
        start = 0.8 * errors[:, np.argmin(widths)].min()  # below the data, so that the fit does not hide the guide
        power = f"slope {reference:g}".replace("-", "−")
        ax.plot(ends, start * (ends / ends[0]) ** reference, "--", color="0.35", linewidth=1.3, label=power)
    ax.set_xscale("log")
    ax.set_yscale("log")
    size_ticks(ax.xaxis, widths)
    decimal_ticks(ax.yaxis)
    ax.set_xlabel(xlabel)
    ax.set_ylabel("error")
    legend_above(ax)
    return ax


@styled
def curves(
    steps: Real[ArrayLike, " T"] | Sequence[float],
    values: Real[ArrayLike, "seeds T"] | Sequence[Sequence[float]],
    ax: Axes | None = None,
    *,
    label: str = "",
    ylabel: str = "accuracy",
    linestyle: str | None = None,
    color: str | None = None,
) -> Axes:
    """Training curves: the mean over seeds of recorded values, with its 95% interval as a band.

    Args:
        steps: the recorded steps, shape (T,).
        values: one row per seed, shape (seeds, T); a single seed has no band.
        ax: axes to draw into, e.g. those of another curve; a new figure by default.
        label: the label in the legend.
        ylabel: the name of the values.
        linestyle: a matplotlib line style; by default the next of solid, dashed, dash-dotted and dotted.
        color: a matplotlib colour; by default the next of the palette.

    Raises:
        ValueError: shapes that differ, entries that are not finite, or `ax` that is not matplotlib axes.

    >>> len(curves([0, 10], np.array([[0.5, 0.9], [0.5, 0.8]]), label="ERM").lines)
    1
    """
    steps, values = vector("steps", steps), _check.floats("values", values)
    good = values.ndim == 2 and len(values) > 0 and values.shape[1:] == steps.shape
    _check.require(good, "values", f"shape (seeds, {len(steps)})", f"shape {values.shape}")
    _check.finite("values", values)
    ax = axes(ax)
    linestyle = linestyle or ("-", "--", "-.", ":")[len(ax.lines) % 4]
    _mean(ax, steps, values, linestyle=linestyle, color=color, label=label or None)
    ax.set_xlabel("step of training")
    ax.set_ylabel(ylabel)
    if label:
        ax.legend()
    return ax


@styled
def categories(
    names: Sequence[str],
    series: Mapping[str, Real[ArrayLike, "seeds k"] | Sequence[Sequence[float]]],
    ax: Axes | None = None,
    *,
    xlabel: str = "",
    ylabel: str = "accuracy",
) -> Axes:
    """Results of several methods side by side: dots are seeds, markers are means with 95% intervals.

    Args:
        names: the names of the k categories on the axis.
        series: the results by method, one row per seed, shape (seeds, k).
        ax: axes to draw into; a new figure by default.
        xlabel: the name of the categories, if needed.
        ylabel: the name of the results.

    Raises:
        ValueError: no series, shapes that differ, entries that are not finite, or `ax` that is not matplotlib axes.

    >>> ax = categories(["gray", "coloured"], {"ERM": [[0.6, 0.2], [0.7, 0.3]], "SD": [[0.7, 0.6], [0.7, 0.7]]})
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['gray', 'coloured']
    """
    _check.require(len(series) > 0, "series", "one or more", "none")
    ax = axes(ax)
    place = np.arange(len(names))
    gap = 0.75 / len(series)
    colors = [OKABE_ITO[number % len(OKABE_ITO)] for number in range(len(series))]
    for number, ((label, rows), color) in enumerate(zip(series.items(), colors, strict=True)):
        values = _rows(label, rows, len(names))
        position = place + (number - (len(series) - 1) / 2) * gap
        marker = MARKERS[number % len(MARKERS)]
        ax.plot(position, values.mean(axis=0), marker, color=color, markersize=6, label=label, zorder=3)
        if len(values) > 1:
            mean, low, high = statistics.mean(values)
            ax.errorbar(position, mean, [mean - low, high - mean], fmt="none", ecolor=color, capsize=3)
            ax.plot(position, values.T, ".", color=color, alpha=0.3, markersize=4)
    ax.set_xticks(place, names)
    ax.grid(visible=False, axis="x")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    legend_above(ax, min(4, len(series)))
    return ax


@styled
def decision_boundary(
    first: Real[ArrayLike, " nx"] | Sequence[float],
    second: Real[ArrayLike, " ny"] | Sequence[float],
    logits: Real[ArrayLike, "ny nx"],
    x: Real[ArrayLike, "n 2"],
    y: Real[ArrayLike, " n"] | Sequence[float],
    ax: Axes | None = None,
) -> Axes:
    """Examples of two classes, the decision boundary, and the predicted probability around it.

    The classes have labels for a legend, which the caller draws, because several panels can share one.

    Args:
        first, second: increasing coordinates x_1 and x_2 of a grid, shapes (nx,) and (ny,).
        logits: outputs on the grid, shape (ny, nx), one row per x_2. They are zero on the boundary. Colours show the
            probability of class +1, 1 / (1 + exp(-logit)).
        x: examples, shape (n, 2).
        y: labels, shape (n,), -1 and +1.
        ax: axes to draw into; a new figure by default.

    Raises:
        ValueError: shapes that differ, a grid that does not increase, entries that are not finite, labels other than
            -1 and +1, or `ax` that is not matplotlib axes.

    >>> ax = decision_boundary([-1, 0, 1], [0, 1], [[-1, 0, 1], [-1, 0, 1]], [[-0.5, 0.5], [0.5, 0.5]], [-1, 1])
    >>> ax.get_xlabel()
    '$x_1$'
    """
    first, second = increasing("first", first), increasing("second", second)
    values, x, y = _check.floats("logits", logits), _check.floats("x", x), _check.floats("y", y)
    shape = (len(second), len(first))
    _check.require(
        values.shape == shape, "logits", f"shape {shape}, one row per entry of second", f"shape {values.shape}"
    )
    _check.finite("logits", values)
    _check.require(x.ndim == 2 and x.shape[1] == 2, "x", "shape (n, 2)", f"shape {x.shape}")
    _check.labels("y", y, len(x))
    ax = axes(ax)
    probability = scipy.special.expit(values)
    ax.pcolormesh(
        first, second, probability, cmap="RdBu", vmin=-0.25, vmax=1.25, shading="nearest", alpha=0.55, rasterized=True
    )
    if values.min() < 0 < values.max():
        ax.contour(first, second, values, levels=[0.0], colors="black", linewidths=1.8)
    for label, color, marker in ((-1, OKABE_ITO[1], "o"), (1, OKABE_ITO[0], "^")):
        style = {"color": color, "marker": marker, "edgecolors": "white", "linewidths": 0.4}
        ax.scatter(*x[y == label].T, s=14, zorder=3, label=f"$y = {label:+d}$", **style)
    ax.grid(visible=False)
    ax.set_aspect("equal")
    ax.set_xlim(first[0], first[-1])
    ax.set_ylim(second[0], second[-1])
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    return ax


@styled
def against(
    x: Real[ArrayLike, " X"] | Sequence[float],
    series: Mapping[str, Real[ArrayLike, "draws X"] | Sequence[Sequence[float]]],
    ax: Axes | None = None,
    *,
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    baseline: float | None = None,
) -> Axes:
    """A quantity against a parameter: means over random draws, with their 95% intervals as bands.

    Args:
        x: the parameter, shape (X,), shared by all series; positive if its axis is logarithmic. On a logarithmic axis,
            whole numbers are ticks in plain notation.
        series: the quantity by name of the series, one row per draw, shape (draws, X); a single draw has no band.
        ax: axes to draw into; a new figure by default.
        xlabel, ylabel: labels of the axes.
        logx: whether the axis of the parameter is logarithmic.
        baseline: a value for comparison, drawn as a dashed line.

    Raises:
        ValueError: no series, shapes that differ, entries that are not finite, an `x` that is not positive on a
            logarithmic axis, or `ax` that is not matplotlib axes.

    >>> shares = {"random": [[0.5, 0.4], [0.4, 0.5]], "aligned": [[0.9, 0.8], [0.8, 0.9]]}
    >>> against([8, 16], shares, xlabel="$n$", ylabel="share", logx=True, baseline=0.5).get_xscale()
    'log'
    """
    x = vector("x", x)
    if _check.flag("logx", logx):
        _check.positive("x", x)
    _check.require(len(series) > 0, "series", "one or more", "none")
    if baseline is not None:
        _check.number("baseline", baseline)
    ax = axes(ax)
    for number, (label, rows) in enumerate(series.items()):
        marker, color = MARKERS[number % len(MARKERS)], OKABE_ITO[number % len(OKABE_ITO)]
        _mean(ax, x, _rows(label, rows, len(x)), marker=marker, color=color, label=label)
    if baseline is not None:
        ax.axhline(baseline, color="0.35", linestyle="--", linewidth=1.3, zorder=1)
    if logx:
        ax.set_xscale("log")
        size_ticks(ax.xaxis, x)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    legend_above(ax, min(2, len(series)))
    return ax


def _rows(label: str, rows: Real[ArrayLike, "seeds k"] | Sequence[Sequence[float]], k: int) -> np.ndarray:
    """Checks a series and returns it as finite numbers, shape (seeds, k)."""
    values = _check.floats("series", rows)
    good = values.ndim == 2 and len(values) > 0 and values.shape[1] == k
    _check.require(good, "series", f"shape (seeds, {k})", f"shape {values.shape} of {label!r}")
    _check.finite("series", values)
    return values


def _mean(ax: Axes, x: np.ndarray, values: np.ndarray, **line: Any) -> None:
    """Draws the mean over rows against `x`, with its 95% interval as a band."""
    (drawn,) = ax.plot(x, values.mean(axis=0), **line)
    if len(values) > 1:
        _, low, high = statistics.mean(values)
        ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
