"""Figures of features: their strengths, responses and starvation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes

from gsjax import _check
from gsjax.plotting._style import OKABE_ITO, axes, feature_ticks, heat, legend_beside, styled, vector

__all__ = ["spectrum", "starvation"]


@styled
def spectrum(
    s: Real[ArrayLike, " r"] | Sequence[float],
    response: Real[ArrayLike, " r"] | Sequence[float],
    ax: Axes | None = None,
) -> Axes:
    """Strengths s_i^2 and responses |z_i| (Pezeshki et al. 2021, Definition 1) on one logarithmic axis.

    Args:
        s: singular values of Y Phi, shape (r,), in the order of the plot; zeros are left out.
        response: responses z, shape (r,); negative ones have hollow markers, zeros are left out.
        ax: axes to draw into; a new figure by default.

    Raises:
        ValueError: shapes that differ, NaN or infinite entries, or `ax` that is not matplotlib axes.

    >>> spectrum([3.0, 1.0], [2.0, -0.1]).get_yscale()
    'log'
    """
    s, z = vector("s", s), vector("response", response)
    _check.require(s.shape == z.shape, "response", f"shape {s.shape}, one response per feature", f"shape {z.shape}")
    ax = axes(ax)
    index = np.arange(1, len(s) + 1)
    size = float(np.clip(160 / len(s), 2.5, 7))
    for keep, height, marker, color, face, label in (
        (s != 0, s**2, "s", OKABE_ITO[0], OKABE_ITO[0], "$s_i^2$"),
        (z > 0, z, "o", OKABE_ITO[1], OKABE_ITO[1], "$z_i > 0$"),
        (z < 0, -z, "o", OKABE_ITO[1], "white", "$z_i < 0$"),
    ):
        if keep.any():
            ax.plot(index[keep], height[keep], marker, color=color, mfc=face, markersize=size, label=label)
    ax.set_yscale("log")
    feature_ticks(ax.xaxis, len(s))
    ax.set_xlabel("feature $i$")
    ax.set_ylabel("strength $s_i^2$, response $|z_i|$")
    legend_beside(ax)
    return ax


@styled
def starvation(
    matrix: Real[ArrayLike, "r r"], strengths: Real[ArrayLike, " r"] | Sequence[float], ax: Axes | None = None
) -> Axes:
    """Heat map of d z_j*/d(s_i^2); red means that i starves j (Pezeshki et al. 2021, Definition 2).

    Rows and columns run from the strongest feature to the weakest. The colour scale is logarithmic over two to three
    decades, and linear around zero.

    Args:
        matrix: the starvation matrix, shape (r, r); [j, i] is the sensitivity of response j to strength i. Only the
            signs of an oriented matrix mean starvation.
        strengths: s^2, shape (r,).
        ax: axes to draw into; a new figure by default.

    Raises:
        ValueError: shapes that differ, NaN or infinite entries, or `ax` that is not matplotlib axes.

    >>> starvation(np.array([[1.0, -0.1], [-0.2, 2.0]]), [4.0, 1.0]).get_xlabel()
    'feature $i$ whose strength grows'
    """
    strengths, matrix = vector("strengths", strengths), _check.floats("matrix", matrix)
    r = len(strengths)
    _check.require(matrix.shape == (r, r), "matrix", f"shape {(r, r)}", f"shape {matrix.shape}")
    _check.finite("matrix", matrix)
    ax = axes(ax)
    order = np.argsort(-strengths, kind="stable")
    edges = np.arange(r + 1) + 0.5
    label = r"$\partial z_j^*\,/\,\partial s_i^2$, negative: $i$ starves $j$"
    heat(ax, edges, edges, matrix[np.ix_(order, order)], label)
    ax.set_aspect("equal")
    ax.invert_yaxis()
    for axis in (ax.xaxis, ax.yaxis):
        feature_ticks(axis, r)
    ax.set_xlabel("feature $i$ whose strength grows")
    ax.set_ylabel("response of feature $j$")
    return ax
