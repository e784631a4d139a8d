"""Figures of a diagnosis: responses by feature, alignment with an attribute, and the examples behind features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes

from gsjax import _check
from gsjax.plotting._style import MARKERS, OKABE_ITO, axes, feature_ticks, legend_above, styled, vector

__all__ = ["alignments", "pictures", "responses"]

_PICTURE, _CAPTION = 0.9, 0.26  # the width of a picture and the height of a line below it in a new figure, in inches
_SPREAD = 0.44  # the part of the distance between features over which their markers are spread


@styled
def responses(
    series: Mapping[str, Real[ArrayLike, " r"] | Sequence[float]], ax: Axes | None = None, *, ylabel: str = "response"
) -> Axes:
    """The sizes of responses, or of other numbers, to the same features, on a logarithmic axis.

    Negative numbers have hollow markers; zeros and NaN are left out.

    Args:
        series: numbers by name, each `(r,)`, in the order of the features.
        ax: axes to draw into; a new figure by default.
        ylabel: label of the axis.

    Raises:
        ValueError: no series, shapes that differ, infinite numbers, or `ax` that is not matplotlib axes.

    >>> ax = responses({"ridge": [2.0, 0.5], "spectral decoupling": [1.0, -0.7]})
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['ridge', 'spectral decoupling', 'hollow: negative']
    """
    rows = _rows("series", series)
    r = len(next(iter(rows.values())))
    ax = axes(ax)
    index, any_negative = np.arange(1, r + 1), False
    for number, (name, values) in enumerate(rows.items()):
        offset = _SPREAD * ((number + 0.5) / len(rows) - 0.5)
        color, marker = OKABE_ITO[number % len(OKABE_ITO)], MARKERS[number % len(MARKERS)]
        for keep, face, label in ((values > 0, color, name), (values < 0, "white", None)):
            if keep.any() or label:
                # An empty series still has its entry in the legend.
                ax.plot(index[keep] + offset, np.abs(values[keep]), marker, color=color, mfc=face, ms=6, label=label)
        any_negative |= bool(np.any(values < 0))
    if any_negative:
        ax.plot([], [], "o", color="0.35", mfc="white", ms=6, label="hollow: negative")
    ax.set_yscale("log")
    ax.set_xlim(0.4, r + 0.6)
    feature_ticks(ax.xaxis, r)
    ax.set_xlabel("feature, the strongest first")
    ax.set_ylabel(ylabel)
    legend_above(ax, columns=2)
    return ax


@styled
def alignments(
    group: Real[ArrayLike, " r"] | Sequence[float],
    label: Real[ArrayLike, " r"] | Sequence[float],
    ax: Axes | None = None,
    *,
    chance: float | None = None,
) -> Axes:
    """The share of each feature that an attribute explains within labels, and the share that the label explains.

    Args:
        group: shares explained by the attribute, `(r,)`, 0 to 1; NaN where it is not defined.
        label: shares explained by the label, `(r,)`.
        ax: axes to draw into; a new figure by default.
        chance: the share that chance alone exceeds rarely, drawn as a dashed line.

    Raises:
        ValueError: shapes that differ, infinite numbers, a `chance` outside [0, 1], or `ax` that is not matplotlib
            axes.

    >>> alignments([0.9, 0.0], [0.1, 0.8], chance=0.05).get_ylabel()
    'share explained'
    """
    rows = _rows("series", {"the attribute, within labels": group, "the label": label})
    if chance is not None:
        _check.number("chance", chance, "[0, 1]")
    ax = axes(ax)
    index = np.arange(1, len(rows["the label"]) + 1)
    for number, ((name, values), hatch) in enumerate(zip(rows.items(), (None, "///"), strict=True)):
        color = OKABE_ITO[number]
        face = color if hatch is None else "white"
        place = index + 0.38 * (number - 0.5)
        ax.bar(place, np.nan_to_num(values), 0.36, color=face, edgecolor=color, hatch=hatch, label=name)
    if chance is not None:
        ax.axhline(chance, color="black", linestyle="--", linewidth=1.2, label="the attribute, by chance")
    ax.set_ylim(0, 1)
    ax.set_xlim(0.4, len(index) + 0.6)
    feature_ticks(ax.xaxis, len(index))
    ax.set_xlabel("feature, the strongest first")
    ax.set_ylabel("share explained")
    legend_above(ax, columns=2)
    return ax


@styled
def pictures(
    rows: Mapping[str, Real[ArrayLike, "n h w c"]],
    captions: Mapping[str, Sequence[str]],
    ax: Axes | None = None,
    *,
    xlabel: str = "",
    ylabel: str = "",
) -> Axes:
    """Rows of pictures with a line below each.

    Pictures are scaled from the smallest to the largest number of all of them.

    Args:
        rows: pictures by the name of their row, each `(n, h, w, c)` with c = 1 or 3 and the same n, h, w and c.
        captions: the n lines below the pictures of each row, by the same names.
        ax: axes to draw into; by default a new figure that is as large as the pictures need.
        xlabel, ylabel: labels of the axes, if needed.

    Raises:
        ValueError: no rows; shapes that differ or are not `(n, h, w, 1 or 3)`, entries that are not finite, other names
            or numbers of captions, or `ax` that is not matplotlib axes.

    >>> ax = pictures({"feature 1": np.ones((2, 4, 4, 1))}, {"feature 1": ["+0.5", "-0.2"]})
    >>> [text.get_text() for text in ax.texts]
    ['+0.5', '-0.2']
    """
    _check.require(len(rows) > 0, "rows", "one or more", "none")
    given = {name: _check.floats("rows", values) for name, values in rows.items()}
    shape = next(iter(given.values())).shape
    for name, values in given.items():
        good = values.ndim == 4 and values.shape == shape and values.size and values.shape[3] in (1, 3)
        _check.require(
            good, "rows", "pictures (n, h, w, 1 or 3), all of one shape", f"shape {values.shape} of {name!r}"
        )
        _check.finite("rows", values)
    n, height, width, _ = shape
    same = set(captions) == set(given) and all(len(lines) == n for lines in captions.values())
    _check.require(same, "captions", f"{n} lines for each row", {name: len(lines) for name, lines in captions.items()})
    new, ax = ax is None, axes(ax)

    inch = width / _PICTURE  # pixels
    gap, below = max(1, round(0.08 * width)), max(1, round(_CAPTION * inch))
    stack = np.stack(list(given.values()))
    scaled = np.broadcast_to((stack - stack.min()) / (np.ptp(stack) or 1), (*stack.shape[:4], 3))
    canvas = np.ones((len(given) * (height + below), n * (width + gap) - gap, 3))
    for row, name in enumerate(given):
        for column in range(n):
            top, left = row * (height + below), column * (width + gap)
            canvas[top : top + height, left : left + width] = scaled[row, column]
            place = left + (width - 1) / 2, top + height + below * 0.42
            ax.text(*place, captions[name][column], ha="center", va="center", fontsize=9)
    ax.imshow(canvas, interpolation="nearest")
    figure = ax.get_figure(root=True)
    if new and figure is not None:
        figure.set_size_inches(canvas.shape[1] / inch + 0.5 + 0.09 * max(map(len, given)), canvas.shape[0] / inch + 0.3)
    ax.grid(visible=False)
    ax.tick_params(length=0, labelsize=10)
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    ax.set_yticks(np.arange(len(given)) * (height + below) + (height - 1) / 2, list(given))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return ax


def _rows(name: str, series: Mapping[str, Real[ArrayLike, " r"] | Sequence[float]]) -> dict[str, np.ndarray]:
    """The series as arrays of one length; NaN is allowed."""
    _check.require(len(series) > 0, name, "one or more", "none")
    rows = {key: _check.floats(name, values) for key, values in series.items()}
    size = next(iter(rows.values())).shape
    for key, values in rows.items():
        vector(name, np.nan_to_num(values, posinf=np.inf, neginf=-np.inf))
        _check.require(values.shape == size, name, f"shape {size}", f"shape {values.shape} of {key!r}")
    return rows
