"""Saving figures atomically to files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gsjax import _check, files

__all__ = ["save"]


def save(figure: Figure, path: str | os.PathLike[str], **options: Any) -> None:
    """Writes a figure to a file atomically: an existing file stays as it is until the new one is complete.

    Args:
        figure: any matplotlib figure.
        path: a file in an existing folder; its suffix gives the format, PNG without one.
        options: options of matplotlib's `Figure.savefig`, such as `dpi`.

    Raises:
        ValueError: a format that matplotlib does not know.
        OSError: the file cannot be written; the error names it.

    >>> import tempfile
    >>> from gsjax import plotting
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plotting.save(plotting.panels()[0], Path(folder, "empty.png"), dpi=20)
    ...     Path(folder, "empty.png").read_bytes()[1:4]
    b'PNG'
    """
    kind = options.pop("format", None) or Path(path).suffix[1:].lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    _check.require(kind in known, "path", f"a name that ends with one of {', '.join(sorted(known))}", path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind, **options)
    files.write(path, drawn.getvalue())
