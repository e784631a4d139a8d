"""Figures of single examples and of what a network does with each: saliency maps and prediction depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from gsjax import _check
from gsjax.plotting._style import OKABE_ITO, axes, styled

__all__ = ["depths", "saliency_maps"]

_PICTURE, _GAP = 0.9, 0.08  # the width of a picture in a new figure, in inches, and the gap in parts of it


@styled
def saliency_maps(
    images: Real[ArrayLike, "n h w"] | Real[ArrayLike, "n h w c"],
    maps: Mapping[str, Real[ArrayLike, "n h w"]],
    ax: Axes | None = None,
    *,
    labels: Sequence[str] = (),
    xlabel: str = "",
    ylabel: str = "",
) -> Axes:
    """Images in the first row, and in every further row the same images in grey with maps in colour on top.

    The darker the colour, the larger the map. Each map is divided by its maximum; a map that is zero everywhere has no
    colour. Images are scaled from their smallest to their largest number, all alike.

    Args:
        images: n images, shape (n, h, w), (n, h, w, 1), or (n, h, w, 3) in colour.
        maps: the maps by the name of the row, such as "saliency" and "Grad-CAM", each (n, h, w), 0 or above.
        ax: axes to draw into; by default a new figure that is as large as the pictures need.
        labels: the names of the n columns, short or in several lines; by default 1, 2, ...
        xlabel, ylabel: labels of the axes, if needed.

    Raises:
        ValueError: shapes that differ, entries that are not finite, maps that are negative, another number of labels,
            or `ax` that is not matplotlib axes.

    >>> ax = saliency_maps(np.eye(4).reshape(2, 2, 4), {"Grad-CAM": np.ones((2, 2, 4))}, labels=["cat", "dog"])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['input', 'Grad-CAM']
    """
    images = _check.floats("images", images)
    good = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    _check.require(
        good and images.size, "images", "shape (n, h, w), (n, h, w, 1) or (n, h, w, 3)", f"shape {images.shape}"
    )
    _check.finite("images", images)
    shape = n, height, width = images.shape[:3]
    shown = {name: _check.floats("maps", values) for name, values in maps.items()}
    for name, values in shown.items():
        _check.require(values.shape == shape, "maps", f"shape {shape}", f"shape {values.shape} of {name!r}")
        _check.not_negative("maps", values)
    labels = labels or [str(number + 1) for number in range(n)]
    _check.require(len(labels) == n, "labels", f"{n} entries or none", f"{len(labels)}")
    new, ax = ax is None, axes(ax)

    scaled = (images - images.min()) / (np.ptp(images) or 1)
    colours = np.broadcast_to(scaled.reshape(*shape, -1), (*shape, 3))
    rows = [colours, *(_overlaid(colours.mean(axis=3), values) for values in shown.values())]
    gap = max(1, round(_GAP * width))
    canvas = np.ones((len(rows) * (height + gap) - gap, n * (width + gap) - gap, 3))
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = picture
    ax.imshow(canvas, interpolation="nearest")
    figure = ax.get_figure(root=True)
    if new and figure is not None:
        inch = width / _PICTURE
        figure.set_size_inches(canvas.shape[1] / inch + 1.5, canvas.shape[0] / inch + 0.8)  # names need the rest
    ax.grid(visible=False)
    ax.tick_params(length=0, labelsize=11)
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(n) * (width + gap) + (width - 1) / 2, labels)
    ax.set_yticks(np.arange(len(rows)) * (height + gap) + (height - 1) / 2, ["input", *shown])
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return ax


@styled
def depths(
    series: Mapping[str, Real[ArrayLike, " n"] | Sequence[float]],
    ax: Axes | None = None,
    *,
    most: int | None = None,
    xlabel: str = "prediction depth (▲ mean)",
    ylabel: str = "share of examples",
) -> Axes:
    """Histograms of prediction depths, one above the other, with the invalid examples apart.

    A row has one bar per depth, whose height is the share of all examples of the row. The hatched bar at the right is
    the share of the invalid ones. A triangle marks the mean of the others. All rows have the same scale.

    Args:
        series: the depths by data set, shape (n,), whole numbers from 0; NaN is an invalid example. The first is on
            top.
        ax: axes to draw into; a new figure by default.
        most: the largest depth that is possible; by default the largest of all rows.
        xlabel, ylabel: labels of the axes.

    Raises:
        ValueError: no series; depths that are empty, not whole numbers from 0, or above `most`; or `ax` that is not
            matplotlib axes.

    >>> ax = depths({"MNIST": [1, 1, 2, float("nan")], "with a patch": [1, 1, 1, 1]})
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['1', '2', 'invalid']
    """
    _check.require(len(series) > 0, "series", "one or more", "none")
    rows = {name: _depths(name, values) for name, values in series.items()}
    valid = {name: values[~np.isnan(values)].astype(int) for name, values in rows.items()}
    every = np.concatenate(list(valid.values()))
    largest = int(every.max(initial=0))
    last = largest if most is None else _check.whole("most", most, least=largest)
    first = min(int(every.min(initial=1)), 1)
    ax = axes(ax)

    shares = {
        name: np.append(np.bincount(valid[name], minlength=last + 1)[first:], np.isnan(values).sum()) / len(values)
        for name, values in rows.items()
    }
    top = max(share.max() for share in shares.values())
    places = np.append(np.arange(first, last + 1), last + 2)
    for number, (name, share) in enumerate(shares.items()):
        base, color = len(rows) - 1 - number, OKABE_ITO[number % len(OKABE_ITO)]
        heights = 0.75 * share / top
        ax.bar(places[:-1], heights[:-1], bottom=base, color=color, width=0.8, label=name)
        if share[-1]:
            ax.bar(places[-1:], heights[-1:], bottom=base, color="white", edgecolor=color, hatch="///", width=0.8)
        ax.axhline(base, color="0.35", linewidth=0.8)
        if len(valid[name]):
            ax.plot(valid[name].mean(), base, "^", color="black", markersize=7, clip_on=False, zorder=3)
        highest = int(np.argmax(share))
        ax.text(places[highest], base + heights[highest] + 0.02, f"{share[highest]:.0%}", ha="center", fontsize=10)
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(first - 0.6, last + 2.6)
    ax.set_ylim(0, len(rows))
    step = 1 + (last - first) // 10
    ticks = range(first, last + 1, step)
    ax.set_xticks([*ticks, last + 2], [*map(str, ticks), "invalid"])
    ax.set_yticks(len(rows) - 0.7 - np.arange(len(rows)), list(rows))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return ax


def _overlaid(gray: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Pictures `(n, h, w, 3)` of gray images `(n, h, w)`, from 0 to 1, under maps `(n, h, w)`."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    opacity = 0.9 * (maps / np.where(largest > 0, largest, 1))[..., None]
    pale = (0.5 + 0.5 * gray)[..., None]
    return (1 - opacity) * pale + opacity * np.array(to_rgb(OKABE_ITO[1]))


def _depths(name: str, values: Real[ArrayLike, " n"] | Sequence[float]) -> np.ndarray:
    """Checks a row of depths and returns it as an array, NaN where an example is invalid."""
    found = _check.floats("series", values)
    _check.require(found.ndim == 1 and found.size, "series", "depths (n,)", f"shape {found.shape} of {name!r}")
    known = found[~np.isnan(found)]
    good = bool(np.all((known >= 0) & (known == np.round(known)) & np.isfinite(known)))
    _check.require(good, "series", "depths that are whole numbers from 0, or NaN", f"others in {name!r}")
    return found
