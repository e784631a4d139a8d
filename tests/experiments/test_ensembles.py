"""Ensembles of bases: the run from the command line, statistics, and what is concluded from the rows."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from experiments import (
    _ensemble_figures,
    _ensemble_rows,
    _ensemble_signatures,
    _random_bases,
    _ranks,
    _real_bases,
    _rows,
    ensembles,
)
from experiments.__main__ import main
from experiments._ensemble_rows import Rows
from gsjax.starvation.ensemble import Ensemble
from tests.experiments.figures import record_figures
from tests.plotting.shown import points

SMOKE = ensembles.PRESETS["smoke"]
SEVEN = dataclasses.replace(SMOKE, tasks=tuple(f"digits_3_{label}" for label in (8, 0, 1, 2, 4, 5, 6)))


def share(cell: dict) -> float:
    """The share of starving pairs that theory predicts for a cell."""
    match cell.get("structure"):
        case "positive loadings":
            return 0.99
        case "aligned":
            return 0.5 + 0.499 * cell["parameter"] ** 8
        case "exceptions" if cell["spectrum"] == "step":
            n = cell["n"]
            return (_random_bases.competing(int(cell["parameter"])) * (n - 2) + 2 * 0.25) / n
        case "blocks":
            return 0.5 * 7 / (cell["n"] - 1)
        case None:
            return 0.5 + 0.05 * (1 - cell["strength"])
    return 0.5


@pytest.fixture
def rows():
    """Rows as a run writes them, with the predictions of theory plus some noise in place of measurements."""
    rng, made = np.random.default_rng(0), []
    cells = [cell._asdict() for cell in _random_bases.grid(SMOKE)]
    for number, task in enumerate(SEVEN.tasks):
        base = {"task": task, "network": "mlp", "n": 16, "number": number}
        cells += [{**base, "strength": strength} for strength in SMOKE.real_strengths]
    for cell in cells:
        for draw in range(SMOKE.draws):
            noise = 0.001 * rng.normal()
            found = dict.fromkeys(Ensemble._fields, 0.3) | {"share": share(cell) + noise, "coupled": 1.0}
            found["by_strongest"] = found["share"] if cell.get("spectrum") == "power law" else 0.25
            found["support"] = cell.get("number", 0) / 7
            if "number" in cell:
                found["share"] = 0.55 - 0.005 * cell["number"] + 0.1 * noise
            if cell.get("structure") == "blocks":
                found["coupled"] = 7 / (cell["n"] - 1)
            found |= {"overlap_strongest": 0.1, "overlap_aligned": 0.9, "by_aligned": None if draw == 0 else 0.7}
            made.append({**cell, "draw": draw, **found})
    return made


def test_cells_differ_from_the_base_in_one_parameter():
    config = ensembles.PRESETS["laptop"]
    cells = _random_bases.grid(config)
    assert len(set(cells)) == len(cells)
    for cell in cells:
        base = _random_bases.Ensemble(
            cell.structure,
            _random_bases.PARAMETERS[cell.structure],
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
    assert _random_bases.competing(count) == pytest.approx(starving, abs=0.005)


def test_the_predicted_share_falls_to_a_half_like_an_inverse_root():
    assert (_random_bases.competing(400) - 0.5) * 20 == pytest.approx((2 / np.pi) ** 1.5 / 2, rel=0.01)


def test_signatures_hold_for_rows_that_follow_theory_and_not_for_others(rows):
    def holds():
        judged = _rows.judged(_ensemble_signatures.judge(Rows(rows), SEVEN, SEVEN.tasks))
        return {signature["name"]: signature["holds"] for signature in judged}

    first = holds()
    assert sum("control" in name for name in first) == 2
    fails = "real networks: the better the best aligned agrees with the labels, the more it starves"
    assert [name for name in first if not first[name]] == [fails]  # the overlap is the same for all
    for row in rows:
        row["share"] = row["by_strongest"] = 0.7
    second = holds()
    assert [name for name in second if second[name]] == [
        "few exceptions, control, strengths by the power law: fewer than the predicted share",
        "blocks: features coupled to one in another block",
    ]


def test_networks_and_lambdas_of_a_task_do_not_count_as_tasks(rows):
    """Twice the rows of the same tasks do not narrow the interval of a correlation."""
    before = _ensemble_signatures.judge(Rows(rows), SEVEN, SEVEN.tasks)
    more = [{**row, "network": "cnn"} for row in rows if "task" in row]
    both = dataclasses.replace(SEVEN, networks=("mlp", "cnn"))
    after = _ensemble_signatures.judge(Rows([*rows, *more]), both, SEVEN.tasks)
    compared = [
        [entry for entry in found if "support" in entry["name"] or "carry" in entry["name"]]
        for found in (before, after)
    ]
    assert compared[0][0]["interval"] == compared[1][0]["interval"]
    assert compared[0][0]["p"] == compared[1][0]["p"]


@pytest.mark.parametrize("tasks", [7, 27])
def test_the_interval_of_a_rank_correlation_covers_as_often_as_it_says(tasks):
    rho, sets = 0.6, 2000
    rng = np.random.default_rng(tasks)
    x, noise = rng.normal(size=(2, sets, tasks))
    y = rho * x + np.sqrt(1 - rho**2) * noise
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's rho of a bivariate normal distribution
    found = [_ranks.correlation(*pair) for pair in zip(x, y, strict=True)]
    coverage = np.mean([low <= truth <= high for _, low, high in found])
    assert 0.93 < coverage < 0.98


def test_a_permutation_test_is_wrong_as_often_as_it_says():
    rng = np.random.default_rng(0)
    p = np.array([_ranks.p_value(*rng.normal(size=(2, 7))) for _ in range(300)])
    assert abs(np.mean(p <= 0.1) - 0.1) < 3 * np.sqrt(0.1 * 0.9 / 300)
    assert _ranks.p_value(np.arange(7.0), np.arange(7.0)) < 0.001


def test_rows_say_how_many_draws_they_average(rows):
    found = {row["name"]: row for row in _ensemble_rows.summarise(Rows(rows), SMOKE, ["digits_3_8"])}
    row = found["digits 3/8, mlp: weaker ones starved by the best aligned"]
    assert (row["seeds"], row["differs"]) == (7, "1 of 8 draws without")
    assert row["measured"] == pytest.approx(0.7)
    row = found["strongest wrong on 2 of 16, others equally strong: share of their pairs that starve"]
    assert row["differs"] == "0.750 predicted for n >> 2"
    assert row["measured"] == pytest.approx(0.75, abs=0.002)


def test_a_missing_data_set_is_left_out(nowhere):
    config = dataclasses.replace(SMOKE, tasks=("digits_3_8", "fashion_mnist_2_4"))
    assert [_real_bases.available(task) for task in config.tasks] == [True, False]
    digits, fashion = _real_bases.about(config)
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
        (
            ["--tasks", "mnist_3_3"],
            "tasks: expected one of digits, mnist, fashion_mnist, kmnist, cifar10, cifar100 with",
        ),
        (["--draws", "1"], "draws: expected a whole number of at least 2"),
        (["--examples", "1"], "examples: expected whole numbers of at least 2"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, tmp_path, one_line):
    assert main(["ensembles", "--preset", "smoke", "--out", str(tmp_path / "out"), *flags]) == 2
    assert complaint in one_line()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_smoke_run_interrupted_and_finished(tmp_path, interrupt_after, nowhere, figures):
    """The run is stopped after some cells and finished, without one of the data sets."""
    cells = interrupt_after(3)
    command = ["ensembles", "--preset", "smoke", "--tasks", "digits_3_8", "mnist_3_8", "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert main(command) == 0
    assert len(cells) == len(_random_bases.grid(SMOKE)) + 1

    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert all(row["converged"] and 0 <= row["share"] <= row["coupled"] <= 1 for row in rows)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "left out" in summary["data"][1]["train"]
    values = {row["name"]: row["measured"] for row in summary["rows"]}
    shares = [row["share"] for row in rows if row.get("task") and row["strength"] == 0.1]
    assert values["digits 3/8, mlp: share of pairs that starve"] == pytest.approx(np.mean(shares))
    found = {signature["name"]: signature for signature in summary["signatures"]}
    assert found["near identity (1e-05), positive: nearly all pairs starve"]["holds"]
    # Eight draws are too few for an interval of half width 0.05. Their mean is within 0.05, and outside in the control.
    few = "few exceptions, all other strengths equal: the predicted share of the other pairs starves"
    assert abs(found[few]["value"]) <= _ensemble_signatures.NEAR
    assert found["few exceptions, control, strengths by the power law: fewer than the predicted share"]["holds"]
    assert figures.keys() == {"structures.png", "scaling.png", "real.png"}


def test_figures_show_the_means_of_the_rows(rows, monkeypatch, tmp_path):
    found, config, figures = Rows(rows), SEVEN, record_figures(monkeypatch, write=False)
    _ensemble_figures.draw_structures(found, config, tmp_path / "structures.png")
    left, middle, right = figures["structures.png"].axes
    for ax, label, expected in (
        (left, "positive loadings", [0.99] * 2),
        (middle, "all pairs", [0.5 + 0.499 * overlap**8 for overlap in config.overlaps]),
        (right, "pairs of others, equally strong", [_random_bases.competing(count) for count in config.counts]),
    ):
        [line] = [line for line in ax.lines if line.get_label() == label]
        np.testing.assert_allclose(points(line)[:, 1], expected, atol=0.002)

    _ensemble_figures.draw_scaling(found, config, tmp_path / "scaling.png")
    panels = figures["scaling.png"].axes
    assert len(panels) == 9
    assert all(len(ax.lines) >= len(_random_bases.LABELS) for ax in panels)
    [label] = [label for structure, label in _random_bases.LABELS.items() if structure == "random"]
    [line] = [line for line in panels[0].lines if line.get_label() == label]
    np.testing.assert_allclose(points(line), [[config.n, 0.5]], atol=0.002)

    _ensemble_figures.draw_real(found, config, config.tasks, tmp_path / "real.png")
    left, middle, right = figures["real.png"].axes
    [means] = [line for line in left.lines if line.get_label() == "mlp"]
    np.testing.assert_allclose(points(means)[:, 1], [0.55], atol=0.001)
    marks = [points(line)[0] for line in right.lines if len(points(line)) == 1]
    assert len(marks) == len(config.tasks) * len(config.real_strengths)
    np.testing.assert_allclose(marks[0], [0.0, 0.55], atol=0.001)
