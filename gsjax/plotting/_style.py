"""Common parts of figures: style, size, heat maps, legends, ticks, and checks of arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FixedLocator, LogFormatterMathtext, LogLocator, NullLocator

from gsjax import _check

__all__ = [
    "MARKERS",
    "OKABE_ITO",
    "axes",
    "colorbar",
    "decimal_ticks",
    "feature_ticks",
    "heat",
    "increasing",
    "legend_above",
    "legend_beside",
    "number",
    "panels",
    "size_ticks",
    "styled",
    "vector",
    "write",
]

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>p"  # one more than there are colours, so that more series than colours differ

# Font sizes for a figure 5 inches wide, printed in a 2.5 inch column, where no text is smaller than 5.5 points.
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 13,
    "axes.prop_cycle": cycler(color=OKABE_ITO),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 13,
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


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Runs `draw` with the project's style, without changing matplotlib's settings."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@styled
def panels(rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A new figure and its axes, shape (rows, columns), each 5 by 3.6 inches.

    >>> figure, axes = panels(columns=2)
    >>> axes.shape
    (1, 2)
    """
    rows, columns = _check.whole("rows", rows, least=1), _check.whole("columns", columns, least=1)
    figure = Figure(figsize=(5.0 * columns, 3.6 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def axes(ax: Axes | None) -> Axes:
    """`ax`, or the axes of a new figure."""
    if ax is None:
        return panels()[1][0, 0]
    _check.require(isinstance(ax, Axes), "ax", "matplotlib axes or None", type(ax).__name__)
    return ax


def vector(name: str, value: Real[ArrayLike, " n"] | Sequence[float]) -> np.ndarray:
    """`value` as a non-empty array of finite numbers, shape (n,)."""
    value = _check.floats(name, value)
    _check.shape(name, value, ndim=1)
    _check.finite(name, value)
    return value


def increasing(name: str, value: Real[ArrayLike, " n"] | Sequence[float]) -> np.ndarray:
    """`value` as two or more increasing numbers, shape (n,)."""
    value = vector(name, value)
    _check.require(len(value) > 1 and (np.diff(value) > 0).all(), name, "two or more increasing grid points", value)
    return value


def heat(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    label: str | None,
    *,
    limit: float | None = None,
    decades: int = 3,
) -> np.ndarray:
    """A heat map with a colour scale centred at zero, logarithmic for large sizes and linear near zero; NaN is grey.

    `x` and `y` are the centres or edges of the cells. `limit` is the end of the scale, by default the largest size.
    Without a `label` there is no colour bar; it begins at zero if no value is negative. Returns the powers of ten on
    the scale, shape (decades,); below the smallest the scale is linear.
    """
    largest = float(limit or np.nanmax(np.abs(values), initial=0.0))
    sizes = 10.0 ** (np.floor(np.log10(largest or 1.0)) - np.arange(decades)[::-1])
    norm = SymLogNorm(linthresh=sizes[0], vmin=-(largest or 1.0), vmax=largest or 1.0)
    image = ax.pcolormesh(x, y, values, cmap="RdBu", norm=norm, shading="auto", rasterized=True)
    ax.grid(visible=False)
    ax.set_facecolor("0.75")
    if label is not None:
        bar = colorbar(ax, image, label)
        bar.set_ticks([*-sizes[::-1], 0.0, *sizes] if largest else [0.0])
        if largest and limit is None and np.nanmin(values, initial=0.0) == 0:  # none is negative
            bar.ax.set_ylim(0, largest)
    return sizes


def colorbar(ax: Axes, image: ScalarMappable, label: str) -> Colorbar:
    """A colour bar beside `ax`, of the same height even if the aspect of `ax` is fixed."""
    figure = ax.get_figure()
    assert figure is not None  # None only for axes that were removed from their figure
    bar = figure.colorbar(image, cax=ax.inset_axes((1.04, 0, 0.05, 1)), label=label)
    bar.minorticks_off()
    return bar


def write(ax: Axes, place: tuple[float, float] | np.ndarray, text: str, **font: Any) -> None:
    """Text at `place` in axes coordinates, legible on every colour."""
    halo = [withStroke(linewidth=3, foreground="white")]
    ax.text(place[0], place[1], text, transform=ax.transAxes, ha="center", va="center", path_effects=halo, **font)


def legend_above(ax: Axes, columns: int = 1) -> None:
    """A legend above the axes, in place of a title, where it hides no data."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0, columnspacing=1.2)


def legend_beside(ax: Axes) -> None:
    """A legend to the right of the axes, where it hides no data; for short names."""
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, handlelength=1.5)


def feature_ticks(axis: Axis, r: int) -> None:
    """Ticks for features 1 to r: at 1, and at multiples of a round number."""
    step = next(step for power in (1, 10, 100, 1000, 10**4) for step in (power, 5 * power) if r <= 8 * step)
    axis.set_major_locator(FixedLocator([1, *range(max(step, 2), r + 1, step)]))


def size_ticks(axis: Axis, sizes: np.ndarray) -> None:
    """Ticks of a logarithmic axis at the sizes, in plain notation, if these are whole numbers."""
    if np.all(sizes == np.round(sizes)):
        ticks = np.unique(sizes).tolist()
        axis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 7)]))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def decimal_ticks(axis: Axis) -> None:
    """Powers of ten as ticks of a logarithmic axis, or plain numbers if it spans less than two decades."""
    if np.ptp(np.log10(axis.get_view_interval())) >= 2:
        axis.set_major_locator(LogLocator())
        axis.set_major_formatter(LogFormatterMathtext())
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def number(value: float) -> str:
    r"""`value` in math notation, to three digits, such as 0.05 or 10^{-5}.

    >>> number(0.05), number(1e-5), number(2e-5)
    ('0.05', '10^{-5}', '2 \\times 10^{-5}')
    """
    digits, _, power = f"{value:.3g}".partition("e")
    if not power:
        return digits
    return ("" if digits == "1" else rf"{digits} \times ") + f"10^{{{int(power)}}}"
