"""What tests read from matplotlib axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D


def heat(ax: Axes) -> tuple[Any, np.ma.MaskedArray]:
    """The mesh of a heat map and its values, a masked array."""
    (mesh,) = (collection for collection in ax.collections if isinstance(collection, QuadMesh))
    return mesh, np.ma.asarray(mesh.get_array())


def colorbar(ax: Axes) -> Any:
    """The axes of the colour bar; None if there is none."""
    found = [child for child in ax.child_axes if isinstance(child, Axes)]
    return found[0] if found else None


def points(line: Line2D) -> np.ndarray:
    """The points of a line, shape (T, 2)."""
    return np.asarray(line.get_xydata())


def legend(owner: Any) -> list[str] | None:
    """The texts of a legend of axes, if there is one."""
    found = owner.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else None
