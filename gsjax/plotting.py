"""Every figure of the project; the only module that imports matplotlib.

Figures are objects of their own: pyplot and its global state stay untouched, and no display is needed. Every
function draws into `ax`, or into a new figure, and returns the axes. Lines use the palette of Okabe and Ito;
signs are blue and red around white. Both can be told apart by readers with any colour vision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
import scipy.special
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from gsjax import _check
from gsjax.statistics import Slope, bootstrap_mean

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Sizes for a figure 5 inches wide that is printed in a column of 2.5: nothing falls below 5.5 points.
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 13,
    "axes.prop_cycle": cycler(color=OKABE_ITO),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 160,
    "font.size": 12,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}

P = ParamSpec("P")
R = TypeVar("R")


def _styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Runs `draw` under the project's style and leaves matplotlib's settings as they were."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def panels(rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A new figure and its axes, shape (rows, columns), 5 by 3.6 inches each.

    >>> figure, axes = panels(columns=2)
    >>> axes.shape
    (1, 2)
    """
    figure = Figure(figsize=(5.0 * columns, 3.6 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


@_styled
def spectrum(
    s: Real[ArrayLike, " r"] | Sequence[float],
    response: Real[ArrayLike, " r"] | Sequence[float],
    ax: Axes | None = None,
) -> Axes:
    """Strengths s_i^2 and responses |z_i| of Pezeshki et al. 2021, Definition 1, on one logarithmic axis.

    Args:
        s: singular values of Y Phi, shape (r,), in the order to be shown; zeros are left out.
        response: responses z, shape (r,); negative ones are drawn hollow, zeros are left out.
        ax: axes to draw into; a new figure by default.

    Raises:
        ValueError: shapes that differ, NaN or infinite entries, `ax` that is no matplotlib axes.

    >>> spectrum([3.0, 1.0], [2.0, -0.1]).get_yscale()
    'log'
    """
    s, z = _vector("s", s), _vector("response", response)
    _check.require(s.shape == z.shape, "response", f"shape {s.shape}, one response a feature", f"shape {z.shape}")
    ax = _axes(ax)
    index = np.arange(1, len(s) + 1)
    size = float(np.clip(160 / len(s), 2.5, 7))
    for keep, height, marker, color, face, label in (
        (s != 0, s**2, "s", OKABE_ITO[0], OKABE_ITO[0], "strength $s_i^2$"),
        (z > 0, z, "o", OKABE_ITO[1], OKABE_ITO[1], "response $z_i > 0$"),
        (z < 0, -z, "o", OKABE_ITO[1], "white", "response $z_i < 0$, as $|z_i|$"),
    ):
        if keep.any():
            ax.plot(index[keep], height[keep], marker, color=color, mfc=face, markersize=size, label=label)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("feature $i$")
    ax.set_ylabel("strength, response")
    ax.legend()
    return ax


@_styled
def starvation(
    matrix: Real[ArrayLike, "r r"], strengths: Real[ArrayLike, " r"] | Sequence[float], ax: Axes | None = None
) -> Axes:
    """Heat map of d z_j*/d(s_i^2): by Definition 2 of Pezeshki et al. 2021, i starves j where it is red.

    Rows and columns run from the strongest feature to the weakest; the colour is logarithmic over two to
    three decades, and linear around zero.

    Args:
        matrix: [j, i] is the sensitivity of response j to strength i, shape (r, r). Its sign says what
            the colours say only if it is oriented.
        strengths: s^2, shape (r,).
        ax: axes to draw into; a new figure by default.

    Raises:
        ValueError: shapes that differ, NaN or infinite entries, `ax` that is no matplotlib axes.

    >>> starvation(np.array([[1.0, -0.1], [-0.2, 2.0]]), [4.0, 1.0]).get_xlabel()
    'feature $i$ whose strength grows'
    """
    strengths, matrix = _vector("strengths", strengths), np.asarray(matrix, dtype=float)
    r = len(strengths)
    _check.require(matrix.shape == (r, r), "matrix", f"shape {(r, r)}", f"shape {matrix.shape}")
    _check.finite("matrix", matrix)
    ax = _axes(ax)
    order = np.argsort(-strengths, kind="stable")
    edges = np.arange(r + 1) + 0.5
    _heat(ax, edges, edges, matrix[np.ix_(order, order)], r"$\partial z_j^*\,/\,\partial s_i^2$")
    ax.set_aspect("equal")
    ax.invert_yaxis()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=min(r, 9), integer=True, min_n_ticks=1))
    ax.set_xlabel("feature $i$ whose strength grows")
    ax.set_ylabel("response of feature $j$")
    return ax


@_styled
def paths(
    times: Real[ArrayLike, " T"] | Sequence[float],
    responses: Real[ArrayLike, "T r"],
    ax: Axes | None = None,
    *,
    linestyle: str = "-",
    labels: Sequence[str] | None = None,
) -> Axes:
    """Responses z_j over time, on a logarithmic time axis.

    Args:
        times: shape (T,); times <= 0 have no place on the axis and are left out.
        responses: shape (T, r). Up to seven features get a legend, more get a colour bar.
        ax: axes to draw into; a new figure by default.
        linestyle: of matplotlib, to tell theory from practice on the same axes.
        labels: r entries for the legend, or an empty sequence for no legend; z_1, z_2, ... by default.

    Raises:
        ValueError: shapes that differ, entries that are not finite, no positive time, `ax` that is no axes.

    >>> len(paths([0.1, 1.0, 10.0], np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 0.6]])).lines)
    2
    """
    times, responses = _vector("times", times), np.asarray(responses, dtype=float)
    _check.require(
        responses.ndim == 2 and len(responses) == len(times) and responses.shape[1] > 0,
        "responses",
        f"shape ({len(times)}, r)",
        f"shape {responses.shape}",
    )
    _check.finite("responses", responses)
    _check.require((times > 0).any(), "times", "at least one positive time", times)
    r = responses.shape[1]
    many = r > len(OKABE_ITO)
    if labels is None:
        labels = () if many else [f"$z_{{{j + 1}}}$" for j in range(r)]
    _check.require(len(labels) in (0, r), "labels", f"{r} entries or none", f"{len(labels)}")
    ax = _axes(ax)
    norm = Normalize(1, max(r, 2))
    colors = matplotlib.colormaps["viridis_r"](norm(np.arange(1, r + 1))) if many else OKABE_ITO
    keep = times > 0
    for j in range(r):
        ax.plot(
            times[keep],
            responses[keep, j],
            linestyle,
            color=colors[j],
            linewidth=0.9 if many else None,
            label=labels[j] if labels else None,
        )
    ax.set_xscale("log")
    ax.set_xlabel("time $t$")
    ax.set_ylabel("response $z_j(t)$")
    if many:
        _colorbar(ax, ScalarMappable(norm, "viridis_r"), "feature $j$")
    if labels:
        ax.legend()
    return ax


@_styled
def plane(
    paths: Real[ArrayLike, "p T 2"] | Sequence[Any],
    ends: Real[ArrayLike, "p 2"],
    ax: Axes | None = None,
    *,
    labels: Sequence[str],
    xlabel: str = "$z_1$",
    ylabel: str = "$z_2$",
) -> Axes:
    """Paths of two coordinates through their plane, each to its end: a dot where it stops, a cross where it should.

    Args:
        paths: p paths of T points, shape (p, T, 2), of a quantity that grows from the first to the last: they go from
            light to dark, and from thick to thin, so that those that coincide are seen one inside another.
        ends: where theory says that they end, shape (p, 2).
        ax: axes to draw into; a new figure by default.
        labels: p entries for the legend, or an empty sequence for no legend.
        xlabel, ylabel: of the axes.

    Raises:
        ValueError: shapes that differ, entries that are not finite, `ax` that is no matplotlib axes.

    >>> plane(np.ones((2, 3, 2)), np.ones((2, 2)), labels=["a", "b"]).get_xlabel()
    '$z_1$'
    """
    paths, ends = np.asarray(paths, dtype=float), np.asarray(ends, dtype=float)
    good = paths.ndim == 3 and paths.shape[2] == 2 and 0 not in paths.shape
    _check.require(good, "paths", "shape (p, T, 2)", f"shape {paths.shape}")
    count = len(paths)
    _check.require(ends.shape == (count, 2), "ends", f"shape {(count, 2)}", f"shape {ends.shape}")
    _check.require(len(labels) in (0, count), "labels", f"{count} entries or none", f"{len(labels)}")
    _check.finite("paths", paths)
    _check.finite("ends", ends)
    ax = _axes(ax)
    colors = matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1, count))
    widths = np.linspace(1.6 + 0.8 * (count - 1), 1.6, count)
    for number, (path, color, width) in enumerate(zip(paths, colors, widths, strict=True)):
        label = labels[number] if labels else None
        ax.plot(*path.T, color=color, linewidth=width, solid_capstyle="round", label=label)
        ax.plot(*path[-1], "o", color=color, markersize=width + 9, zorder=3)
    ax.plot(*ends.T, "x", color="white", markersize=7.5, markeredgewidth=2.8, zorder=4)
    ax.plot(
        *ends.T, "x", color="black", markersize=8, markeredgewidth=1.4, zorder=4, label="theory" if labels else None
    )
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if labels:
        ax.legend()
    return ax


@_styled
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
    """Errors that should vanish with the width, or with another size: seeds, means with intervals, the fitted line.

    Args:
        widths: sizes, shape (w,), positive. Whole numbers are written out along the axis.
        errors: one row a seed, shape (seeds, w), positive. Dots are seeds; bars are 95% intervals of the
            geometric mean (`statistics.bootstrap_mean` of the logarithm).
        slope: of `statistics.loglog_slope`; its line is drawn and its interval written in the legend.
        reference: an exponent; drawn as a dashed guide below the data.
        ax: axes to draw into, e.g. those of another series; a new figure by default.
        label: of the series in the legend.
        xlabel: what the sizes are.

    Raises:
        ValueError: shapes that differ, entries that are not positive, `ax` that is no matplotlib axes.

    >>> error_against_width([64, 256], np.array([[0.4, 0.2], [0.5, 0.2]]), reference=-0.5).get_xscale()
    'log'
    """
    widths, errors = _vector("widths", widths), np.asarray(errors, dtype=float)
    _check.positive("widths", widths)
    expected = f"shape (seeds, {len(widths)})"
    _check.require(errors.ndim == 2 and errors.shape[1:] == widths.shape, "errors", expected, f"shape {errors.shape}")
    _check.positive("errors", errors)
    ax = _axes(ax)
    mean, low, high = np.exp(np.stack(bootstrap_mean(np.log(errors))))
    if slope is not None:
        label = f"{label}: slope {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]".replace("-", "−")
    (means,) = ax.plot(widths, mean, "o", markersize=6, zorder=3, label=label)
    color = means.get_color()
    ax.errorbar(widths, mean, [mean - low, high - mean], fmt="none", ecolor=color, capsize=3)
    ax.plot(widths, errors.T, ".", color=color, alpha=0.4, markersize=4)
    ends = np.array([widths.min(), widths.max()])
    if slope is not None:
        center = np.exp(np.log(widths).mean()), np.exp(np.log(mean).mean())
        ax.plot(ends, center[1] * (ends / center[0]) ** slope.value, color=color)
    if reference is not None:
        below = 0.8 * errors[:, np.argmin(widths)].min()  # a guide beside the data, not hidden behind the fit
        power = f"slope {reference:g}".replace("-", "−")
        ax.plot(ends, below * (ends / ends[0]) ** reference, "--", color="0.35", linewidth=1.3, label=power)
    ax.set_xscale("log")
    ax.set_yscale("log")
    if np.all(widths == np.round(widths)):
        ticks = np.unique(widths).tolist()
        ax.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 7)]))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
    if np.ptp(np.log10(ax.get_ylim())) < 2:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(xlabel)
    ax.set_ylabel("error")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return ax


@_styled
def sign_map(
    x: Real[ArrayLike, " nx"] | Sequence[float],
    y: Real[ArrayLike, " ny"] | Sequence[float],
    values: Real[ArrayLike, "ny nx"],
    ax: Axes | None = None,
    *,
    xlabel: str = r"$\delta$",
    ylabel: str = r"$s_1^2 / s_2^2$",
    label: str = r"$\partial z_2^*\,/\,\partial s_1^2$",
) -> Axes:
    """Sign and size of a quantity over a grid, red below zero and blue above.

    The default labels are those of Theorem 2 (Pezeshki et al. 2021).

    Args:
        x, y: increasing grid points, shapes (nx,) and (ny,).
        values: shape (ny, nx), a row for each y; NaN is left grey.
        ax: axes to draw into; a new figure by default.
        xlabel, ylabel, label: of the axes and of the colour bar.

    Raises:
        ValueError: shapes that differ, a grid that does not increase, `ax` that is no matplotlib axes.

    >>> sign_map([0.1, 0.2], [1.0, 2.0], np.array([[0.0, 0.1], [-0.1, 0.0]])).get_ylabel()
    '$s_1^2 / s_2^2$'
    """
    x, y, values = _increasing("x", x), _increasing("y", y), np.asarray(values, dtype=float)
    shape = (len(y), len(x))
    _check.require(values.shape == shape, "values", f"shape {shape}, a row for each y", f"shape {values.shape}")
    ax = _axes(ax)
    _heat(ax, x, y, values, label)
    ax.set_facecolor("0.75")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return ax


@_styled
def decision_boundary(
    first: Real[ArrayLike, " nx"] | Sequence[float],
    second: Real[ArrayLike, " ny"] | Sequence[float],
    logits: Real[ArrayLike, "ny nx"],
    x: Real[ArrayLike, "n 2"],
    y: Real[ArrayLike, " n"] | Sequence[float],
    ax: Axes | None = None,
) -> Axes:
    """Examples of two classes, the boundary between them, and how sure of itself the network is around it.

    Args:
        first, second: increasing coordinates x_1 and x_2 of a grid, shapes (nx,) and (ny,).
        logits: outputs over the grid, shape (ny, nx), a row for each x_2. The boundary is where they are zero; colours
            are the probability of the class +1, 1 / (1 + exp(-logit)).
        x: examples, shape (n, 2).
        y: labels, shape (n,), -1 and +1.
        ax: axes to draw into; a new figure by default.

    Raises:
        ValueError: shapes that differ, a grid that does not increase, entries that are not finite, labels other than
            -1 and +1, `ax` that is no matplotlib axes.

    >>> ax = decision_boundary([-1, 0, 1], [0, 1], [[-1, 0, 1], [-1, 0, 1]], [[-0.5, 0.5], [0.5, 0.5]], [-1, 1])
    >>> ax.get_xlabel()
    '$x_1$'
    """
    first, second = _increasing("first", first), _increasing("second", second)
    values, x, y = (np.asarray(value, dtype=float) for value in (logits, x, y))
    shape = (len(second), len(first))
    _check.require(values.shape == shape, "logits", f"shape {shape}, a row for each of second", f"shape {values.shape}")
    _check.finite("logits", values)
    _check.require(x.ndim == 2 and x.shape[1] == 2, "x", "shape (n, 2)", f"shape {x.shape}")
    _check.labels("y", y, len(x))
    ax = _axes(ax)
    probability = scipy.special.expit(values)
    ax.pcolormesh(
        first, second, probability, cmap="RdBu", vmin=-0.25, vmax=1.25, shading="nearest", alpha=0.55, rasterized=True
    )
    if values.min() < 0 < values.max():
        ax.contour(first, second, values, levels=[0.0], colors="black", linewidths=1.8)
    for label, color, marker in ((-1, OKABE_ITO[1], "o"), (1, OKABE_ITO[0], "^")):
        ax.scatter(*x[y == label].T, s=14, color=color, marker=marker, edgecolors="white", linewidths=0.4, zorder=3)
    ax.grid(visible=False)
    ax.set_aspect("equal")
    ax.set_xlim(first[0], first[-1])
    ax.set_ylim(second[0], second[-1])
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    return ax


@_styled
def curves(
    steps: Real[ArrayLike, " T"] | Sequence[float],
    values: Real[ArrayLike, "seeds T"] | Sequence[Sequence[float]],
    ax: Axes | None = None,
    *,
    label: str = "",
    ylabel: str = "accuracy",
    linestyle: str = "-",
    color: str | None = None,
) -> Axes:
    """What was recorded in the course of training: the mean over seeds, with its 95% interval as a band.

    Args:
        steps: shape (T,).
        values: one row a seed, shape (seeds, T); a single seed has no band.
        ax: axes to draw into, e.g. those of another curve; a new figure by default.
        label: in the legend.
        ylabel: what the values are.
        linestyle: of matplotlib.
        color: of matplotlib; the next of the palette by default.

    Raises:
        ValueError: shapes that differ, entries that are not finite, `ax` that is no matplotlib axes.

    >>> len(curves([0, 10], np.array([[0.5, 0.9], [0.5, 0.8]]), label="ERM").lines)
    1
    """
    steps, values = _vector("steps", steps), np.asarray(values, dtype=float)
    good = values.ndim == 2 and len(values) > 0 and values.shape[1:] == steps.shape
    _check.require(good, "values", f"shape (seeds, {len(steps)})", f"shape {values.shape}")
    _check.finite("values", values)
    ax = _axes(ax)
    (line,) = ax.plot(steps, values.mean(axis=0), linestyle, color=color, label=label or None)
    if len(values) > 1:
        _, low, high = bootstrap_mean(values)
        ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set_xlabel("step of training")
    ax.set_ylabel(ylabel)
    if label:
        ax.legend()
    return ax


@_styled
def categories(
    names: Sequence[str],
    series: Mapping[str, Real[ArrayLike, "seeds k"] | Sequence[Sequence[float]]],
    ax: Axes | None = None,
    *,
    xlabel: str = "",
    ylabel: str = "accuracy",
) -> Axes:
    """Numbers of several methods side by side: dots are seeds, marks are means with their 95% intervals.

    Args:
        names: of the k categories, along the axis.
        series: by method, one row a seed, shape (seeds, k).
        ax: axes to draw into; a new figure by default.
        xlabel: what the categories are, if their names do not say it.
        ylabel: what the numbers are.

    Raises:
        ValueError: no series, shapes that differ, entries that are not finite, `ax` that is no matplotlib axes.

    >>> ax = categories(["gray", "coloured"], {"ERM": [[0.6, 0.2], [0.7, 0.3]], "SD": [[0.7, 0.6], [0.7, 0.7]]})
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['gray', 'coloured']
    """
    _check.require(len(series) > 0, "series", "one or more", "none")
    ax = _axes(ax)
    place = np.arange(len(names))
    gap = 0.75 / len(series)
    colors = [OKABE_ITO[number % len(OKABE_ITO)] for number in range(len(series))]
    for number, ((label, rows), color) in enumerate(zip(series.items(), colors, strict=True)):
        values = np.asarray(rows, dtype=float)
        good = values.ndim == 2 and len(values) > 0 and values.shape[1] == len(names)
        _check.require(good, "series", f"shape (seeds, {len(names)})", f"shape {values.shape} of {label!r}")
        _check.finite("series", values)
        at = place + (number - (len(series) - 1) / 2) * gap
        marker = "os^Dv<>"[number % 7]
        ax.plot(at, values.mean(axis=0), marker, color=color, markersize=6, label=label, zorder=3)
        if len(values) > 1:
            mean, low, high = bootstrap_mean(values)
            ax.errorbar(at, mean, [mean - low, high - mean], fmt="none", ecolor=color, capsize=3)
            ax.plot(at, values.T, ".", color=color, alpha=0.3, markersize=4)
    ax.set_xticks(place, names)
    ax.grid(visible=False, axis="x")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(4, len(series)), borderaxespad=0)
    return ax


def _increasing(name: str, value: Real[ArrayLike, " n"] | Sequence[float]) -> np.ndarray:
    value = _vector(name, value)
    _check.require(len(value) > 1 and (np.diff(value) > 0).all(), name, "two or more increasing grid points", value)
    return value


def _vector(name: str, value: Real[ArrayLike, " n"] | Sequence[float]) -> np.ndarray:
    value = np.asarray(value, dtype=float)
    _check.shape(name, value, ndim=1)
    _check.finite(name, value)
    return value


def _axes(ax: Axes | None) -> Axes:
    """`ax`, or the axes of a new figure."""
    if ax is None:
        return panels()[1][0, 0]
    _check.require(isinstance(ax, Axes), "ax", "matplotlib axes or None", type(ax).__name__)
    return ax


def _heat(ax: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, label: str) -> None:
    """Colours centred at zero: logarithmic over two to three decades, linear closer to zero."""
    largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    decade = 10.0 ** np.floor(np.log10(largest))
    norm = SymLogNorm(linthresh=decade / 100, vmin=-largest, vmax=largest)
    image = ax.pcolormesh(x, y, values, cmap="RdBu", norm=norm, shading="auto", rasterized=True)
    ax.grid(visible=False)
    powers = decade / np.array([1.0, 10.0, 100.0])
    _colorbar(ax, image, label).set_ticks([*-powers, 0.0, *powers[::-1]])


def _colorbar(ax: Axes, image: ScalarMappable, label: str) -> Colorbar:
    figure = ax.get_figure()
    assert figure is not None  # axes that have been removed from theirs
    bar = figure.colorbar(image, ax=ax, label=label)
    bar.minorticks_off()
    return bar
