"""What the tests of experiments share: a machine without data, interrupted runs, messages and saved figures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments import _photographs
from gsjax import data, records
from gsjax.data import sources
from tests.experiments.figures import record_figures


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine whose only data is scikit-learn's; the value is the folder that `GSJAX_DATA` names."""
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def other_folders():
    """Folders of photographs are read anew by every test."""
    yield
    _photographs.folder.cache_clear()


@pytest.fixture
def interrupt_after(monkeypatch) -> Callable[[int], list]:
    """`interrupt_after(n)` interrupts a run once n cells are written, and gives the list of all cells written."""

    def install(count: int) -> list:
        add, cells = records.Table.add, []

        def interrupted(self, cell, rows, seconds):
            add(self, cell, rows, seconds)
            cells.append(dict(cell))
            if len(cells) == count:
                raise KeyboardInterrupt

        monkeypatch.setattr(records.Table, "add", interrupted)
        return cells

    return install


@pytest.fixture
def one_line(capsys) -> Callable[[], str]:
    """`one_line()` is what was printed, which has to be a single line on standard error."""

    def read() -> str:
        captured = capsys.readouterr()
        assert captured.out == ""
        [line] = captured.err.splitlines()
        return line

    return read


@pytest.fixture
def figures(monkeypatch) -> dict[str, Figure]:
    """The figures that the test saves, by the names of their files."""
    return record_figures(monkeypatch)


@pytest.fixture(scope="module")
def module_figures():
    """The figures that the fixtures of a module save, by the names of their files."""
    with pytest.MonkeyPatch.context() as patch:
        yield record_figures(patch)


@pytest.fixture
def portraits(tmp_path, monkeypatch):
    """CelebA in miniature: 10 portraits per group and split, whose hair colour shows the class."""
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    generator, lines, parts = np.random.default_rng(0), [], []
    for number in range(120):
        blond, male, split = number % 2, number // 2 % 2, number // 4 % 3
        name = f"{number:06d}.jpg"
        shade = np.array([100, 90, 90]) + 60 * blond + 40 * np.array([0, 0, male]) + generator.integers(-90, 91, 3)
        Image.new("RGB", (18, 22), tuple(shade.clip(0, 255).tolist())).save(folder / name)
        lines.append(f"{name} {2 * blond - 1:2d} {2 * male - 1:2d}\n")
        parts.append(f"{name} {split}\n")
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text(f"120\nBlond_Hair Male\n{''.join(lines)}")
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("".join(parts))
    return data.celeba()
