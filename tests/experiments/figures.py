"""Figures as they are saved, for tests of what they show."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from gsjax import plotting


def record_figures(monkeypatch: pytest.MonkeyPatch, *, write: bool = True) -> dict[str, Figure]:
    """The figures that are saved from now on, by the names of their files; without `write` no file is made."""
    found, save = {}, plotting.save

    def recorded(figure, path, **options):
        found[Path(path).name] = figure
        if write:
            save(figure, path, **options)

    monkeypatch.setattr(plotting, "save", recorded)
    return found
