"""Figures of dynamics: responses and dual variables on the way to the optimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from gsjax import _check
from gsjax.plotting._style import (
    OKABE_ITO,
    axes,
    colorbar,
    feature_ticks,
    increasing,
    legend_above,
    legend_beside,
    number,
    styled,
    vector,
    write,
)

if TYPE_CHECKING:
    from gsjax.linearized import Trajectories
    from gsjax.starvation import Trajectory

__all__ = ["courses", "paths", "plane", "starvation_over_time", "trajectories"]

# Styles of z_1 and z_2 for each penalty. Later lines are lighter and thinner, so that coinciding lines stay visible.
_BLUE, _RED, _, _, _ORANGE, _SKY, _ = OKABE_ITO
_PAIRS = (
    ({"color": _BLUE, "linewidth": 2.8}, {"color": _RED, "linewidth": 2.0}),
    ({"color": _SKY, "linewidth": 1.6}, {"color": _ORANGE, "linewidth": 1.2}),
)
_DASHES = ("-", "--", "-.")
_END = {"marker": "<", "markersize": 5}
_DARK_TO_LIGHT = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, 256)))


@styled
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
        times: shape (T,); times <= 0 are not on the logarithmic axis and are left out.
        responses: shape (T, r). Up to seven features get a legend, more get a colour bar.
        ax: axes to draw into; a new figure by default.
        linestyle: a matplotlib line style, e.g. to distinguish theory from practice in the same axes.
        labels: r entries for the legend, or an empty sequence for no legend; by default z_1, z_2, ...

    Raises:
        ValueError: shapes that differ, entries that are not finite, no positive time, or `ax` that is not axes.

    >>> len(paths([0.1, 1.0, 10.0], np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 0.6]])).lines)
    2
    """
    times, responses = vector("times", times), _check.floats("responses", responses)
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
    ax = axes(ax)
    colors = _DARK_TO_LIGHT(np.linspace(0, 1, r)) if many else OKABE_ITO
    keep = times > 0
    for j in range(r):
        ax.plot(
            times[keep],
            responses[keep, j],
            linestyle,
            color=colors[j],
            linewidth=0.9 if many else 2.2 - 0.2 * j,
            label=labels[j] if labels else None,
            zorder=2 + (r - j) / r,  # the strongest on top
        )
    ax.set_xscale("log")
    ax.set_xlabel("time $t$")
    ax.set_ylabel("response $z_j(t)$")
    if many:
        bar = colorbar(ax, ScalarMappable(Normalize(1, r), _DARK_TO_LIGHT), "feature $j$").ax
        feature_ticks(bar.yaxis, r)
        bar.invert_yaxis()
    if labels:
        legend_beside(ax)
    return ax


@styled
def plane(
    paths: Real[ArrayLike, "p T 2"] | Sequence[Any],
    ends: Real[ArrayLike, "p 2"],
    ax: Axes | None = None,
    *,
    labels: Sequence[str],
    xlabel: str = "$z_1$",
    ylabel: str = "$z_2$",
) -> Axes:
    """Paths in the plane of two coordinates, with a dot at the end of each and a cross at the end that theory predicts.

    Args:
        paths: p paths of T points, shape (p, T, 2), in the order of a parameter. They are drawn from light to dark and
            from thick to thin, so that coinciding paths stay visible.
        ends: the predicted ends, shape (p, 2).
        ax: axes to draw into; a new figure by default.
        labels: p entries for the legend, or an empty sequence for no legend.
        xlabel, ylabel: labels of the axes.

    Raises:
        ValueError: shapes that differ, entries that are not finite, or `ax` that is not matplotlib axes.

    >>> plane(np.ones((2, 3, 2)), np.ones((2, 2)), labels=["a", "b"]).get_xlabel()
    '$z_1$'
    """
    paths, ends = _check.floats("paths", paths), _check.floats("ends", ends)
    good = paths.ndim == 3 and paths.shape[-1] == 2 and 0 not in paths.shape
    _check.require(good, "paths", "shape (p, T, 2)", f"shape {paths.shape}")
    count = len(paths)
    _check.require(ends.shape == (count, 2), "ends", f"shape {(count, 2)}", f"shape {ends.shape}")
    _check.require(len(labels) in (0, count), "labels", f"{count} entries or none", f"{len(labels)}")
    _check.finite("paths", paths)
    _check.finite("ends", ends)
    ax = axes(ax)
    colors = _DARK_TO_LIGHT(np.linspace(1, 0, count))
    widths = np.linspace(1.6 + 0.8 * (count - 1), 1.6, count)
    for path, color, width, label in zip(paths, colors, widths, labels or [None] * count, strict=True):
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


@styled
def trajectories(
    trajectories: Mapping[str, Trajectories], axes: np.ndarray | None = None, *, dual: bool = True
) -> np.ndarray:
    """Responses z_1 and z_2 of two coupled features over time, one panel per ratio (rows) and coupling (columns).

    Solid lines are the primal flow, on the time axis of training. Dashed lines are the dual flow (Pezeshki et al. 2021,
    Eq. 9 or 18), which has its own time axis. Both end at the equilibrium, marked beyond the right edge. All panels
    have the same limits. A trajectory that has not converged is not drawn, and its panel says so.

    Args:
        trajectories: one or two results of `linearized.trajectories`, by name of the penalty, with the same ratios and
            deltas.
        axes: an array of axes, shape (R, D); by default those of a new figure, whose size depends on the grid.
        dual: whether to draw the dual flow with the primal flow.

    Raises:
        ValueError: no trajectories or more than two; shapes or grids that differ; entries that are not finite although
            converged; fewer than two positive times; `axes` that are not an array of matplotlib axes of that shape.

    >>> from gsjax.linearized import Trajectories
    >>> z, grid = np.ones((1, 2, 3, 2)), np.ones((1, 2), bool)
    >>> trajectories({"ridge": Trajectories([4.0], [0.1, 0.5], [0.1, 1.0, 10.0], z, z, z[:, :, -1], grid)}).shape
    (1, 2)
    """
    _check.require(0 < len(trajectories) <= len(_PAIRS), "trajectories", "one or two", len(trajectories))
    drawn = {name: _arrays(f"trajectories[{name!r}]", trajectory) for name, trajectory in trajectories.items()}
    ratio, delta, *_ = next(iter(drawn.values()))
    for name, trajectory in drawn.items():
        same = np.array_equal(trajectory.ratio, ratio) and np.array_equal(trajectory.delta, delta)
        _check.require(same, f"trajectories[{name!r}]", "the same ratios and deltas as the first", "different ones")
    dual = _check.flag("dual", dual)
    shape = (len(ratio), len(delta))
    if axes is None:
        figure = Figure(figsize=(max(5.7, 1.3 + 2.2 * shape[1]), 1.4 + 1.7 * shape[0]), layout="constrained")
        axes = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True)
    given = np.asarray(axes)
    good = given.shape == shape and all(isinstance(ax, Axes) for ax in given.flat)
    _check.require(good, "axes", f"matplotlib axes, shape {shape}", f"{type(axes).__name__} of shape {given.shape}")

    for index, ax in np.ndenumerate(given):
        for height, (name, trajectory), lines in zip((0.6, 0.4), drawn.items(), _PAIRS, strict=False):
            if trajectory.converged[index]:
                _panel(ax, lines, trajectory, index, dual)
            else:
                write(ax, (0.5, height), f"{name}: not converged")
    times = np.concatenate([trajectory.times for trajectory in drawn.values()])
    heights = [ax.get_ylim() for ax in given.flat if ax.lines] or [(0, 1)]
    for ax in given.flat:
        ax.set(xscale="log", xlim=(times.min(), times.max()), ylim=(np.min(heights), np.max(heights)))
        ax.xaxis.set_major_locator(FixedLocator(_powers(times.min(), times.max())))
        ax.xaxis.set_minor_locator(NullLocator())
    for ax, value in zip(given[0], delta, strict=True):
        ax.set_title(rf"$\delta = {number(value)}$")
    for ax, value in zip(given[:, 0], ratio, strict=True):
        ax.set_ylabel(rf"$s_1^2\,/\,s_2^2 = {number(value)}$" + "\nresponse $z_j(t)$")
    for ax in given[-1]:
        ax.set_xlabel("time $t$")
    _legend(given.flat[0].get_figure(), tuple(drawn), dual)
    return given


courses = trajectories  # the former name


@styled
def starvation_over_time(
    trajectories: Mapping[str, Trajectory],
    ax: Axes | None = None,
    *,
    entry: tuple[int, int] = (1, 0),
    logy: bool = False,
) -> Axes:
    """An entry of the starvation matrix over training time, one line per penalty.

    Negative values mean that i starves j (Pezeshki et al. 2021, Definition 2), if the trajectories are oriented. A
    trajectory that has not converged is not drawn, and the axes say so.

    Args:
        trajectories: results of `starvation.trajectory`, by name of the penalty; times <= 0 are not on the logarithmic
            axis and are left out.
        ax: axes to draw into; a new figure by default.
        entry: (j, i), the sensitivity of response j to strength i, counted from 0.
        logy: whether to draw absolute values on a logarithmic axis that ends ten decades below the largest. Powers of
            time are straight lines there. Positive values are thin and dotted.

    Raises:
        ValueError: no trajectories; shapes that differ; entries that are not finite although converged; fewer than two
            positive times; an `entry` out of range; `ax` that is not matplotlib axes.

    >>> from gsjax.starvation import Trajectory
    >>> path = Trajectory(np.array([0.1, 1.0]), np.ones((2, 2)), -np.ones((2, 2, 2)), np.True_)
    >>> starvation_over_time({"ridge": path}).get_xscale()
    'log'
    """
    _check.require(len(trajectories) > 0, "trajectories", "one or more", "none")
    _check.require(np.shape(entry) == (2,), "entry", "a pair (j, i)", repr(entry))
    j, i = _check.wholes("entry", entry, least=0)
    logy = _check.flag("logy", logy)
    drawn = {}
    for name, path in trajectories.items():
        label = f"trajectories[{name!r}]"
        times = vector(f"{label}.times", path.times)
        values = _check.floats(f"{label}.sensitivity", path.sensitivity)
        square = values.ndim == 3 and values.shape[0] == len(times) and values.shape[1] == values.shape[2] > 0
        _check.require(square, f"{label}.sensitivity", f"shape ({len(times)}, r, r)", f"shape {values.shape}")
        _check.require(max(j, i) < values.shape[1], "entry", f"numbers below {values.shape[1]}", repr(entry))
        positive = increasing(f"{label}.times", times[times > 0])
        converged = bool(np.asarray(path.converged))
        if converged:
            _check.finite(f"{label}.sensitivity", values)
        drawn[name] = positive, values[times > 0, j, i], converged
    ax = axes(ax)
    for place, (name, (times, values, converged)) in enumerate(drawn.items()):
        line = {"color": OKABE_ITO[place % len(OKABE_ITO)], "linewidth": max(2.6 - 0.5 * place, 1.1)}
        if not converged:
            write(ax, (0.5, 0.6 - 0.15 * place), f"{name}: not converged")
        elif logy:
            ax.plot(times, np.where(values < 0, -values, np.nan), _DASHES[place % len(_DASHES)], label=name, **line)
            ax.plot(times, np.where(values > 0, values, np.nan), ":", color=line["color"], linewidth=1.0)
        else:
            ax.plot(times, values, _DASHES[place % len(_DASHES)], label=name, **line)
    derivative = rf"\partial z_{{{j + 1}}}(t)\,/\,\partial s_{{{i + 1}}}^2"
    ax.set(xscale="log", xlabel="time $t$", ylabel=rf"$|{derivative}|$" if logy else f"${derivative}$")
    if logy:
        largest = max((np.abs(values).max() for _, values, converged in drawn.values() if converged), default=0.0)
        ax.set_yscale("log")
        ax.set_ylim(bottom=1e-10 * largest or None)
    else:
        ax.axhline(0, color="0.35", linewidth=1.0, zorder=1)
    if ax.get_legend_handles_labels()[0]:
        legend_above(ax, 3)
    return ax


def _legend(figure: FigureBase, names: Sequence[str], dual: bool) -> None:
    """A legend above all panels, for their colours and dashes."""
    handles = [
        Line2D([], [], label=f"$z_{j + 1}$, {name}", **line)
        for name, lines in zip(names, _PAIRS, strict=False)
        for j, line in enumerate(lines)
    ]
    if dual:
        handles.append(Line2D([], [], color="black", label="primal (training)"))
        handles.append(Line2D([], [], color="black", linestyle="--", label="dual (own time)"))
    handles.append(Line2D([], [], color="black", linestyle="", label="optimum", **_END))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(names) + 1 + dual, handlelength=1.7, columnspacing=1.5
    )


def _arrays(name: str, trajectory: Trajectories) -> Trajectories:
    """`trajectory` as checked NumPy arrays, without times <= 0, which a logarithmic axis cannot show."""
    ratio, delta, times = (
        vector(f"{name}.{field}", getattr(trajectory, field)) for field in ("ratio", "delta", "times")
    )
    positive = increasing(f"{name}.times", times[times > 0])
    converged = np.asarray(trajectory.converged, dtype=bool)
    shape = (len(ratio), len(delta))
    _check.require(converged.shape == shape, f"{name}.converged", f"shape {shape}", f"shape {converged.shape}")

    arrays = {"ratio": ratio, "delta": delta, "times": positive, "converged": converged}
    for field, trailing in (("primal", (len(times), 2)), ("dual", (len(times), 2)), ("equilibrium", (2,))):
        values, expected = _check.floats(f"{name}.{field}", getattr(trajectory, field)), (*shape, *trailing)
        _check.require(values.shape == expected, f"{name}.{field}", f"shape {expected}", f"shape {values.shape}")
        _check.finite(f"{name}.{field}", values[converged])
        arrays[field] = values if field == "equilibrium" else values[:, :, times > 0]
    return trajectory._replace(**arrays)


def _panel(
    ax: Axes, lines: Sequence[Mapping[str, Any]], trajectory: Trajectories, index: tuple[int, ...], dual: bool
) -> None:
    """Draws the trajectories at the ratio and delta of `index`."""
    for j, line in enumerate(lines):
        ax.plot(trajectory.times, trajectory.primal[index][:, j], **line)
        if dual:
            ax.plot(trajectory.times, trajectory.dual[index][:, j], "--", **line)
        end = trajectory.equilibrium[index][j]
        ax.plot(1.04, end, color=line["color"], transform=ax.get_yaxis_transform(), clip_on=False, **_END)


def _powers(low: float, high: float) -> list[float]:
    """At most four powers of ten, away from the ends, so that labels of neighbouring panels do not overlap."""
    ends = np.log10([low, high])
    margin = 0.08 * np.ptp(ends)
    exponents = np.arange(np.ceil(ends[0] + margin), ends[1] - margin)
    step = max(1, -(-len(exponents) // 4))
    return (10.0 ** exponents[exponents % step == 0]).tolist()
