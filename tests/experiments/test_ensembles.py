"""Ensembles of bases, as they are run from the command line, and what is concluded from them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from experiments import ensembles
from experiments.__main__ import main
from gsjax.data import sources
from gsjax.starvation.ensemble import Ensemble

SMOKE = ensembles.PRESETS["smoke"]
TWO = dataclasses.replace(SMOKE, tasks=("digits_3_8", "digits_0_1"))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data but scikit-learn's."""
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")


def share(cell: dict) -> float:
    """What theory says of a cell."""
    match cell.get("structure"):
        case "positive loadings":
            return 0.99
        case "aligned":
            return 0.5 + 0.48 * cell["parameter"] ** 8
        case "exceptions" if cell["spectrum"] == "step":
            n = cell["n"]
            return (ensembles.competing(int(cell["parameter"])) * (n - 2) + 2 * 0.25) / n
        case "blocks":
            return 0.5 * 7 / (cell["n"] - 1)
        case None:
            return 0.5 + 0.05 * (1 - cell["strength"])
    return 0.5


@pytest.fixture
def rows():
    """Rows as `run` makes them, with what theory says in the place of what is found, and some noise."""
    rng, made = np.random.default_rng(0), []
    cells = [cell._asdict() for cell in ensembles.cells(SMOKE)]
    for task in TWO.tasks:
        of = {"task": task, "network": "mlp", "n": 16}
        cells += [{**of, "strength": strength} for strength in SMOKE.real_strengths]
    for cell in cells:
        for draw in range(SMOKE.draws):
            noise = 0.001 * rng.normal()
            found = dict.fromkeys(Ensemble._fields, 0.3) | {"share": share(cell) + noise, "coupled": 1.0}
            found["by_strongest"] = found["share"] if cell.get("spectrum") == "power law" else 0.25
            found["support"] = cell["strength"]
            if cell.get("structure") == "blocks":
                found["coupled"] = 7 / (cell["n"] - 1)
            found |= {"overlap_strongest": 0.1, "overlap_aligned": 0.9, "by_aligned": None if draw == 0 else 0.7}
            made.append({**cell, "draw": draw, **found})
    return made


def test_one_thing_is_varied_at_a_time():
    config = ensembles.PRESETS["laptop"]
    cells = ensembles.cells(config)
    assert len(set(cells)) == len(cells)
    for cell in cells:
        base = ensembles.Cell(
            cell.structure,
            ensembles.PARAMETERS[cell.structure],
            "power law",
            config.n,
            config.decay,
            config.strength,
        )
        different = [a for a, b in zip(cell, base, strict=True) if a != b and a != "step"]
        assert len(different) <= 1
    assert {cell.n for cell in cells if cell.structure == "random"} == {16, 32, 64, 128}


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_predicted_share_is_that_of_random_directions(count):
    x = np.random.default_rng(0).normal(size=(2, 200_000, count))
    starving = np.mean(x.prod(axis=0).sum(axis=1) * x.sum(axis=2).prod(axis=0) > 0)
    assert ensembles.competing(count) == pytest.approx(starving, abs=0.005)


def test_the_predicted_share_falls_to_a_half_like_an_inverse_root():
    assert (ensembles.competing(400) - 0.5) * 20 == pytest.approx((2 / np.pi) ** 1.5 / 2, rel=0.01)


def test_conclusions_hold_where_theory_does_and_not_where_it_does_not(rows):
    judged = ensembles.judge(ensembles.Rows(rows), TWO, ["digits_3_8", "digits_0_1"])
    holds = {signature["name"]: signature["holds"] for signature in judged}
    assert sum("control" in name for name in holds) == 2
    fails = "real networks: the better the best aligned agrees with the labels, the more it starves"
    assert [name for name in holds if not holds[name]] == [fails]  # it is the same for both
    for row in rows:
        row["share"] = row["by_strongest"] = 0.7
    judged = ensembles.judge(ensembles.Rows(rows), TWO, ["digits_3_8", "digits_0_1"])
    holds = {signature["name"]: signature["holds"] for signature in judged}
    assert [name for name in holds if holds[name]] == [
        "few exceptions, control, strengths by the power law: not the predicted share",
        "blocks: features coupled to one in another block",
    ]


def test_rows_say_over_how_many_draws_they_are(rows):
    found = {row["name"]: row for row in ensembles.summarise(ensembles.Rows(rows), SMOKE, ["digits_3_8"])}
    row = found["digits 3/8, mlp: weaker ones starved by the best aligned"]
    assert (row["seeds"], row["differs"]) == (7, "1 of 8 draws without")
    assert row["measured"] == pytest.approx(0.7)
    row = found["strongest wrong on 2 of 16, others equally strong: share of their pairs that starve"]
    assert row["differs"] == "0.750 predicted for n >> 2"
    assert row["measured"] == pytest.approx(0.75, abs=0.002)


def test_a_data_set_that_is_absent_is_left_out(nowhere):
    config = dataclasses.replace(SMOKE, tasks=("digits_3_8", "fashion_mnist_2_4"))
    assert [ensembles.there(task) for task in config.tasks] == [True, False]
    digits, fashion = ensembles.about(config)
    assert digits["train"] == "16 a draw"
    assert fashion["name"] == "fashion_mnist, test split, classes 2 and 4"
    assert "left out" in fashion["train"]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--n", "12"], "n: expected multiples of 8 above it, got 12"),
        (["--ns", "8"], "ns: expected multiples of 8 above it, got 8"),
        (["--overlaps", "1"], "overlaps: expected finite numbers of at least 0 and below 1"),
        (["--counts", "8"], "counts: expected numbers from 1 to less than 8"),
        (["--strengths", "0"], "strengths: expected finite numbers above 0"),
        (["--decay", "0"], "decay: expected a finite number above 0"),
        (["--draws", "1"], "draws: expected a whole number of at least 2"),
        (["--examples", "1"], "examples: expected whole numbers of at least 2"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, capsys):
    assert main(["ensembles", "--preset", "smoke", "--out", str(tmp_path / "out"), *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_smoke_run_interrupted_and_finished(tmp_path, monkeypatch, nowhere):
    """Stopped after some cells, then run to its end, with a data set that is not there."""
    add, cells = ensembles.records.Table.add, []

    def stop(self, cell, rows, seconds):
        add(self, cell, rows, seconds)
        cells.append(cell)
        if len(cells) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ensembles.records.Table, "add", stop)
    command = ["ensembles", "--preset", "smoke", "--tasks", "digits_3_8", "mnist_3_8", "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert main(command) == 0
    assert len(cells) == len(ensembles.cells(SMOKE)) + 1

    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert all(row["converged"] and 0 <= row["share"] <= row["coupled"] <= 1 for row in rows)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "left out" in summary["data"][1]["train"]
    values = {row["name"]: row["measured"] for row in summary["rows"]}
    shares = [row["share"] for row in rows if row.get("task") and row["strength"] == 0.1]
    assert values["digits 3/8, mlp: share of pairs that starve"] == pytest.approx(np.mean(shares))
    holds = {signature["name"]: signature["holds"] for signature in summary["signatures"]}
    assert holds["near identity (1e-05), positive: nearly all pairs starve"]
    assert holds["few exceptions, all other strengths equal: the predicted share of the other pairs starves"]
    for figure in ("structures.png", "scaling.png", "real.png"):
        assert (tmp_path / "out" / figure).stat().st_size > 10_000
