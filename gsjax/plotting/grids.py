"""Figures of quantities on a grid: sign maps, and phase diagrams of two coupled features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy import ndimage
from scipy.spatial import KDTree

from gsjax import _check
from gsjax.plotting._style import axes, decimal_ticks, heat, increasing, number, size_ticks, styled, vector, write

if TYPE_CHECKING:
    from gsjax.starvation.diagram import PhaseDiagram

__all__ = ["phase_diagram", "sign_map"]

_TEXT = np.array([0.14, 0.065])  # approximate size of a word, in axes coordinates of `panels`

# The couplings at which entries of the starvation matrix vanish for all strengths.
_VANISHING = {-math.sqrt(0.5): r"$-1/\sqrt{2}$", 0.0: "$0$", math.sqrt(0.5): r"$1/\sqrt{2}$"}


@styled
def sign_map(
    x: Real[ArrayLike, " nx"] | Sequence[float],
    y: Real[ArrayLike, " ny"] | Sequence[float],
    values: Real[ArrayLike, "ny nx"],
    ax: Axes | None = None,
    *,
    xlabel: str = r"$\delta$",
    ylabel: str = r"$s_1^2 / s_2^2$",
    label: str = r"$\partial z_2^*\,/\,\partial s_1^2$",
    logy: bool = False,
    written: bool = False,
) -> Axes:
    """Sign and size of a quantity on a grid, red below zero and blue above.

    The default labels are those of Theorem 2 (Pezeshki et al. 2021).

    Args:
        x, y: increasing grid points, shapes (nx,) and (ny,).
        values: shape (ny, nx), one row per y; NaN is grey.
        ax: axes to draw into; a new figure by default.
        xlabel, ylabel, label: labels of the axes and of the colour bar.
        logy: whether the axis of y, which is then positive, is logarithmic, with ticks at its grid points.
        written: whether each cell also shows its value, for small grids.

    Raises:
        ValueError: shapes that differ, a grid that does not increase, a `y` that is not positive on a logarithmic axis,
            or `ax` that is not matplotlib axes.

    >>> sign_map([0.1, 0.2], [1.0, 2.0], np.array([[0.0, 0.1], [-0.1, 0.0]])).get_ylabel()
    '$s_1^2 / s_2^2$'
    """
    x, y, values = increasing("x", x), increasing("y", y), _check.floats("values", values)
    shape = (len(y), len(x))
    _check.require(values.shape == shape, "values", f"shape {shape}, one row per y", f"shape {values.shape}")
    if _check.flag("logy", logy):
        _check.positive("y", y)
    written = _check.flag("written", written)
    ax = axes(ax)
    if logy:
        ax.set_yscale("log")
        heat(ax, _edges(x), np.exp(_edges(np.log(y))), values, label)
        size_ticks(ax.yaxis, y)
    else:
        heat(ax, x, y, values, label)
    if written:
        halo = [withStroke(linewidth=3, foreground="white")]
        for row, place in zip(values, y, strict=True):
            for value, across in zip(row, x, strict=True):
                ax.text(across, place, f"{value:.2g}", ha="center", va="center", path_effects=halo, fontsize=11)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return ax


@styled
def phase_diagram(
    diagram: PhaseDiagram,
    ax: Axes | None = None,
    *,
    strength: int = 0,
    entry: tuple[int, int] = (1, 0),
    limit: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Where and how strongly one of two coupled features starves the other (Pezeshki et al. 2021, Theorem 2).

    Colours, and contours at powers of ten, show an entry of the starvation matrix in units of 1 / s_2^2. Solid lines
    separate negative values ("starved") from positive ones ("fed"), as found on the grid. On dashed lines the entry
    vanishes by symmetry: delta = 0; s_1 = s_2; delta = 1 / sqrt(2), where z_2* = 0; and delta = -1 / sqrt(2), where
    z_1* = 0. The words, like Definition 2, apply to an oriented diagram.

    Args:
        diagram: a diagram from `starvation.phase_diagram`. Points that have not converged are grey.
        ax: axes to draw into; a new figure by default.
        strength: the index of the slice in `diagram.strength`.
        entry: (j, i), the sensitivity of response j to strength i.
        limit: the end of the colour scale, which several slices can share; by default the largest size.
        colorbar: whether to draw a colour bar.

    Raises:
        ValueError: shapes that differ, fewer than two ratios or deltas, grids that do not increase, a ratio or a
            `limit` that is not positive, an index out of range, or `ax` that is not matplotlib axes.

    >>> from gsjax.starvation.diagram import PhaseDiagram
    >>> slopes, converged = np.zeros((2, 2, 1, 2, 2)), np.ones((2, 2, 1), bool)
    >>> phase_diagram(PhaseDiagram([0.5, 2], [-0.5, 0.5], [0.1], slopes[..., 0], slopes, converged)).get_yscale()
    'log'
    """
    ratio, delta = increasing("diagram.ratio", diagram.ratio), increasing("diagram.delta", diagram.delta)
    _check.positive("diagram.ratio", ratio)
    strengths = vector("diagram.strength", diagram.strength)
    slopes = _check.floats("diagram.starvation", diagram.starvation)
    converged = np.asarray(diagram.converged, dtype=bool)
    shape = (len(ratio), len(delta), len(strengths))
    _check.require(slopes.shape == (*shape, 2, 2), "diagram.starvation", f"shape {(*shape, 2, 2)}", slopes.shape)
    _check.require(converged.shape == shape, "diagram.converged", f"shape {shape}", converged.shape)
    strength = _check.whole("strength", strength, least=0, most=len(strengths) - 1)
    j, i = _check.wholes("entry", entry) if np.shape(entry) == (2,) else (-1, -1)
    _check.require({j, i} <= {0, 1}, "entry", "a pair (j, i) of 0 and 1", repr(entry))
    if limit is not None:
        _check.number("limit", limit, "(0, inf)")
    colorbar = _check.flag("colorbar", colorbar)
    ax = axes(ax)

    values = np.where(converged[:, :, strength], slopes[:, :, strength, j, i], np.nan)
    name = rf"s_2^2\,\partial z_{j + 1}^*\,/\,\partial s_{i + 1}^2"
    ax.set_yscale("log")
    edges = _edges(delta), np.exp(_edges(np.log(ratio)))
    sizes = heat(ax, *edges, values, f"${name}$" if colorbar else None, limit=limit, decades=4)
    ax.set(xlim=delta[[0, -1]], ylim=ratio[[0, -1]])
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    decimal_ticks(ax.yaxis)
    ax.set(xlabel=r"coupling $\delta$", ylabel="$s_1^2\\,/\\,s_2^2$")
    unknown = np.isnan(values)
    title = rf"$\lambda\,/\,s_2^2 = {number(strengths[strength])}$"
    ax.set_title(f"{title}, grey: not converged" if unknown.any() else title)
    if np.nan_to_num(values).any():
        _contours(ax, delta, ratio, values, sizes)
    elif not unknown.all():
        write(ax, (0.5, 0.5), f"${name} = 0$ everywhere")
    return ax


def _edges(centres: np.ndarray) -> np.ndarray:
    """The edges of the cells around grid points, halfway between neighbours."""
    inner = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]])


def _contours(ax: Axes, delta: np.ndarray, ratio: np.ndarray, values: np.ndarray, sizes: np.ndarray) -> None:
    """Lines of equal size, lines between the signs, and lines of the theory, with labels where there is room."""
    signed = _through_zeros(values)
    low, high = np.nanmin(signed), np.nanmax(signed)
    levels = [level for level in (*-sizes[::-1], *sizes) if low < level < high]
    equal, parting = [], []
    if levels:
        drawn = ax.contour(delta, ratio, values, levels, colors="black", linestyles="-", linewidths=0.7)
        equal = [(level, line) for level, lines in zip(levels, drawn.allsegs, strict=True) for line in lines]
    if low < 0 < high:
        (parting,) = ax.contour(delta, ratio, signed, [0.0], colors="0.35", linewidths=3).allsegs
    visible = {zero: text for zero, text in _VANISHING.items() if delta[0] < zero < delta[-1]}
    theory = [np.stack([np.full_like(ratio, zero), ratio], axis=1) for zero in visible]
    if ratio[0] < 1 < ratio[-1]:
        theory.append(np.stack([delta, np.ones_like(delta)], axis=1))
    for line in theory:
        ax.plot(*line.T, color="black", linestyle=(0, (4, 3)), linewidth=1.1)
    ax.secondary_xaxis("top").set_xticks(list(visible), list(visible.values()))
    _names(ax, np.stack(np.meshgrid(delta, ratio), axis=-1), signed, equal, [*parting, *theory])


def _names(
    ax: Axes,
    points: np.ndarray,
    signed: np.ndarray,
    equal: Sequence[tuple[float, np.ndarray]],
    unnamed: Sequence[np.ndarray],
) -> None:
    """Labels for the connected regions of one sign, then for the lines of equal size, where there is room.

    `points` (R, D, 2) are the grid points and `signed` (R, D) the values there; lines are arrays of points (p, 2).
    """
    axes_coordinates = (ax.transScale + ax.transLimits).transform
    frame = np.concatenate([[(end, side), (side, end)] for end in (0, 1) for side in np.linspace(0, 1, 50)])
    named = [(level, axes_coordinates(line)) for level, line in equal]
    lines = [frame, *(axes_coordinates(line) for line in unnamed), *(line for _, line in named)]
    for name, region in (("starved", signed < 0), ("fed", signed > 0)):
        parts = np.empty(region.shape, int)
        ndimage.label(region, output=parts)
        for part in range(1, parts.max() + 1):
            lines += _write_apart(ax, name, axes_coordinates(points[parts == part]), lines, fontweight="bold")
    for level, line in named:
        power = f"${'-' if level < 0 else ''}10^{{{round(math.log10(abs(level)))}}}$"
        lines += _write_apart(ax, power, line, [other for other in lines if other is not line], fontsize=11)


def _through_zeros(values: np.ndarray) -> np.ndarray:
    """`values` with zeros replaced by a small fraction of a neighbour, so that contours follow only changes of sign.

    Where a quantity touches zero along a line of the grid, or is rounded to zero, its sign does not change. Where it
    changes sign on such a line, the crossing stays there. Neighbours are used in turn, since lines of zeros meet.
    """
    filled = np.where(np.abs(values) <= 1e-12 * np.nanmax(np.abs(values)), 0, values)
    for step, axis in ((-1, 1), (-1, 0), (1, 1), (1, 0)):
        neighbour = np.nan_to_num(np.roll(filled, step, axis))
        np.moveaxis(neighbour, axis, 0)[min(step, 0)] = 0  # np.roll wraps around
        filled = np.where(filled == 0, 1e-6 * neighbour, filled)
    return filled


def _write_apart(
    ax: Axes, text: str, places: np.ndarray, lines: Sequence[np.ndarray], **font: Any
) -> tuple[np.ndarray, ...]:
    """Writes text at the point of `places` farthest from `lines`, if there is room; returns the area it covers."""
    distances, _ = KDTree(np.concatenate(lines) / _TEXT).query(places / _TEXT)
    if distances.max() < 0.6:
        return ()
    offset = np.linalg.norm((places - places.mean(axis=0)) / _TEXT, axis=1)
    place = places[np.argmax(np.minimum(distances, 1.2) - 0.05 * offset)]
    write(ax, place, text, **font)
    return (place + _TEXT * [(x, y) for x in (-0.5, 0, 0.5) for y in (-0.5, 0, 0.5)],)
