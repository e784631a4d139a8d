"""What the tests of experiments share: a machine without data, interrupted runs, messages and saved figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from matplotlib.figure import Figure

from gsjax import records
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
