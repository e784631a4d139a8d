"""The harness of experiments on an invented one: what is written, computed, checked and drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass

import jax
import numpy as np
import pytest

from experiments import _study
from experiments._study import Cell, Report, Study


@dataclass(frozen=True)
class Config:
    """Which numbers are squared."""

    numbers: tuple[float, ...] = (1.0, 2.0, 3.0)


class Squares:
    """An experiment that squares numbers and notes which it has computed and what it has drawn."""

    def __init__(self, out, *, failing=None):
        """Writes to a folder; is interrupted at the number `failing`."""
        self.out, self.failing, self.computed, self.drawn = out, failing, [], []

    def study(self, config, *, out, seed):
        """One cell per number, each with a file, and one cell in a subfolder."""
        square = {"square": float, "pair": (float, 2), "named": {"sign": int, "even": bool}}
        cells = [
            Cell({"n": n}, lambda n=n: self.square(n, seed), square, 1, files=[out / f"{n:g}"]) for n in config.numbers
        ]
        cells += [Cell({"n": n}, lambda n=n: [{"n": n, "cube": n**3}], {"cube": float}, 1, "cubes") for n in (2.0,)]
        return Study({"name": "numbers"}, cells, self.report)

    def square(self, n, seed):
        """One row."""
        if n == self.failing:
            raise KeyboardInterrupt
        self.computed.append(n)
        (self.out / f"{n:g}").write_text("kept")
        return [{"n": n, "square": n**2, "pair": [n, np.inf], "named": {"sign": 1, "even": n % 2 == 0}, "seed": seed}]

    def report(self, rows):
        """The sum of all squares and cubes."""
        total = sum(row.get("square", 0) + row.get("cube", 0) for row in rows)
        line = {"name": "sum", "measured": total, "interval": None, "seeds": None, "published": None, "differs": None}
        return Report([line], [], {"sum.png": self.drawn.append})

    def run(self, **changes):
        """Runs as the command line does; gives the summary."""
        _study.run("squares", self.study, Config(**changes), self.out, preset="smoke", seed=5)
        return json.loads((self.out / "summary.json").read_text())


def test_a_run_leaves_rows_a_summary_and_figures(tmp_path):
    squares = Squares(tmp_path)
    summary = squares.run()
    assert summary["rows"][0]["measured"] == 1 + 4 + 9 + 8
    assert (summary["experiment"], summary["preset"], summary["config"]) == (
        "squares", "smoke", {"numbers": [1, 2, 3], "seed": 5},
    )  # fmt: skip
    assert squares.drawn == [tmp_path / "sum.png"]
    assert len((tmp_path / "cubes" / "rows.jsonl").read_text().splitlines()) == 1


def test_a_rerun_computes_only_what_is_missing_and_ends_with_the_same_bytes(tmp_path):
    (tmp_path / "stopped").mkdir()
    (tmp_path / "whole").mkdir()
    first = Squares(tmp_path / "stopped", failing=3.0)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    rerun = Squares(tmp_path / "stopped")
    rerun.run()
    Squares(tmp_path / "whole").run()
    assert (first.computed, rerun.computed) == ([1, 2], [3])
    for name in ("rows.jsonl", "summary.json", "config.json", "cubes/rows.jsonl"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_cell_whose_file_is_missing_is_computed_again_and_keeps_its_rows(tmp_path):
    Squares(tmp_path).run()
    before = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "2").unlink()
    rerun = Squares(tmp_path)
    rerun.run()
    assert rerun.computed == [2]
    assert (tmp_path / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.pop("square"), "number as 'square'"),
        (lambda row: row.update(square="4"), "number as 'square'"),
        (lambda row: row.update(pair=[2.0]), r"number of shape \(2\) as 'pair'"),
        (lambda row: row.update(pair=None), r"number of shape \(2\) as 'pair'"),
        (lambda row: row.update(named=[1, True]), "{sign: whole number, even: truth value} as 'named'"),
        (lambda row: row["named"].update(sign=True), "{sign: whole number, even: truth value} as 'named'"),
        (lambda row: row.update(n=7.0), "1 rows, got 0"),
    ],
)
def test_changed_rows_are_refused_with_the_name_of_their_file(tmp_path, change, said):
    Squares(tmp_path).run()
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    change(rows[1])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rerun = Squares(tmp_path)
    if said.endswith("got 0"):  # the row now belongs to another cell, and the missing cell is computed again
        rerun.run()
        assert rerun.computed == [2]
    else:
        with pytest.raises(ValueError, match=rf"rows.jsonl is damaged \(expected {said} in {{'n': 2.0}}\); delete all"):
            rerun.run()


def test_a_cell_with_too_many_rows_is_refused(tmp_path):
    Squares(tmp_path).run()
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"n": 2.0, "square": 4.0}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl is damaged \(expected 1 rows, got 2 in {'n': 2.0}\)"):
        Squares(tmp_path).run()


def test_another_configuration_is_refused(tmp_path):
    Squares(tmp_path).run()
    with pytest.raises(ValueError, match="same configuration, in which numbers is"):
        Squares(tmp_path).run(numbers=(1.0,))


def test_only_process_0_runs_cells_that_are_not_distributed(tmp_path, monkeypatch):
    monkeypatch.setattr(_study.jax, "process_index", lambda: 1)
    squares = Squares(tmp_path)
    _study.run("squares", squares.study, Config(), tmp_path, preset="smoke", seed=0)
    assert squares.computed == []
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_a_network_does_not_depend_on_the_number_of_networks():
    four, two = (np.asarray(jax.random.key_data(_study.keys(3, n))) for n in (range(4), (1, 3)))
    np.testing.assert_array_equal(four[[1, 3]], two)
    assert len(np.unique(four, axis=0)) == 4
