"""`python -m experiments gallery`: it draws the figures of the README, and the README shows the tracked ones."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import _gallery
from experiments.__main__ import main

NAMES = {"phase_diagram.png", "two_moons.png", "digits.png", "trajectories.png"}
SIZE = (1624, 1232)


def fit_for_a_page(content: bytes) -> bool:
    """Whether an image has the size of the gallery, few bytes, content, and no white bands at its edges."""
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("PNG", SIZE)
        shades = np.asarray(image.convert("L"))
    for axis in (0, 1):
        drawn = np.flatnonzero((shades < 250).any(axis=axis))
        assert np.ptp(drawn) > 0.9 * SIZE[axis]
    return len(content) < 160_000 and np.ptp(shades) > 200 and 0.02 < (shades < 250).mean() < 0.98


@pytest.mark.slow
def test_the_command_draws_all_of_them(tmp_path, capsys):
    folder = tmp_path / "new" / "gallery"
    assert main(["gallery", "--out", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == NAMES
    assert all(fit_for_a_page(path.read_bytes()) for path in folder.iterdir())
    assert str(folder) in capsys.readouterr().out


def test_a_figure_has_the_same_bytes_every_time_and_names_no_software():
    first, second = (_gallery.png(_gallery.phase_diagram()) for _ in range(2))
    assert first == second
    assert fit_for_a_page(first)
    with Image.open(io.BytesIO(first)) as image:
        assert not {"Software", "date:create"} & set(image.info)


@pytest.mark.slow
def test_trajectories_have_one_clock_and_no_dual_flow():
    figure = _gallery.trajectories()
    lines = [line for ax in figure.axes for line in ax.lines if np.size(line.get_xdata()) > 1]
    assert len(lines) == 2 * 2 * 2  # ratios, penalties, features
    assert {line.get_linestyle() for line in lines} == {"-"}
    [legend] = figure.legends
    assert not any("dual" in text.get_text() for text in legend.get_texts())


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["gallery", "--out", str(tmp_path / "file")]) == 2
    assert "file: File exists" in capsys.readouterr().err


def test_the_readme_shows_the_tracked_figures():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"experiments/records/gallery/([\w.]+)", readme)) == NAMES
    assert {path.name for path in _gallery.FOLDER.iterdir()} == NAMES
    assert all(fit_for_a_page(path.read_bytes()) for path in _gallery.FOLDER.iterdir())
