"""`python -m experiments gallery`: the figures of the README can be drawn anew, and the README shows those tracked."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import _gallery
from experiments.__main__ import main

NAMES = {"phase_diagram.png", "two_moons.png", "digits.png", "courses.png"}
SIZE = (812, 616)


def fit_for_a_page(content: bytes) -> bool:
    """Whether this is an image of the one size, small, and with something on it."""
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("PNG", SIZE)
        shades = np.asarray(image.convert("L"))
    return len(content) < 80_000 and np.ptp(shades) > 200 and 0.02 < (shades < 250).mean() < 0.98


@pytest.mark.slow
def test_the_command_draws_all_of_them(tmp_path, capsys):
    folder = tmp_path / "new" / "gallery"
    assert main(["gallery", "--out", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == NAMES
    assert all(fit_for_a_page(path.read_bytes()) for path in folder.iterdir())
    assert str(folder) in capsys.readouterr().out


def test_the_same_figure_has_the_same_bytes_and_names_no_maker():
    first, second = (_gallery.png(_gallery.phase_diagram()) for _ in range(2))
    assert first == second
    assert fit_for_a_page(first)
    with Image.open(io.BytesIO(first)) as image:
        assert not {"Software", "date:create"} & set(image.info)


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["gallery", "--out", str(tmp_path / "file")]) == 2
    assert "file: File exists" in capsys.readouterr().err


def test_the_readme_shows_the_tracked_figures():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"experiments/records/gallery/([\w.]+)", readme)) == NAMES
    assert {path.name for path in _gallery.FOLDER.iterdir()} == NAMES
    assert all(fit_for_a_page(path.read_bytes()) for path in _gallery.FOLDER.iterdir())
