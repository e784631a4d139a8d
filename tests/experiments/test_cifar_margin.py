"""Margins of cats and dogs, as they are run from the command line; conversions and the exactness of the attack."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import cifar_margin
from experiments.__main__ import main
from gsjax import records
from gsjax.data import sources

SMOKE = cifar_margin.PRESETS["smoke"]


def values(rows):
    return {row["name"]: row["measured"] for row in rows}


@pytest.mark.slow
def test_figure_2_interrupted_and_finished(tmp_path, monkeypatch):
    """Stopped after ERM, then run to its end: rows, summary, figure; a finished run computes nothing again."""
    add, cells = records.Table.add, []

    def stop(self, cell, rows, seconds):
        add(self, cell, rows, seconds)
        cells.append(cell["arm"])
        if len(cells) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(records.Table, "add", stop)
    command = ["cifar_margin", "--preset", "smoke", "--table", "--out", str(tmp_path)]
    assert main(command) == 130
    assert main(command) == 0
    first = {name: (tmp_path / name).read_bytes() for name in ("rows.jsonl", "summary.json")}
    assert main(command) == 0
    assert cells == ["erm", "sd", cifar_margin.SUMMED]
    assert first == {name: (tmp_path / name).read_bytes() for name in first}

    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    order = [(row["arm"], row["seed"], row["epoch"]) for row in rows]
    assert order == [(arm, seed, epoch) for arm in cifar_margin.ARMS for seed in (0, 1) for epoch in (1, 20)]
    assert all(row["finite"] and len(row["linf"]) == len(row["l2"]) == 20 for row in rows)
    assert all(row["train"] > 0.95 for row in rows if row["epoch"] == 20)
    for row in rows:  # |delta|_inf <= |delta|_2 <= 8 |delta|_inf of images of 64 pixels, up to the search's resolution
        linf, l2 = np.array(row["linf"]), np.array(row["l2"])
        assert np.all(linf <= l2 + 1 / 2**5)
        assert np.all(l2 <= 8 * linf + 20 / 2**5)

    summary = json.loads(first["summary.json"])
    assert [entry["stand-in"] for entry in summary["data"]] == [True]
    assert all(row["published"] is None for row in summary["rows"])  # a stand-in is not held against published numbers
    flipped = np.mean(
        [np.mean(np.array(row["linf"]) <= 0.1) for row in rows if (row["arm"], row["epoch"]) == ("erm", 20)]
    )
    assert values(summary["rows"])["threes and eights, ERM: flipped within 0.1 (L-infinity)"] == pytest.approx(flipped)
    assert len(summary["signatures"]) == 4
    assert (tmp_path / "margins.png").stat().st_size > 10_000


@pytest.mark.slow
def test_smoke_run_gives_the_same_bytes(tmp_path):
    for folder in ("first", "second"):
        assert main(["cifar_margin", "--preset", "smoke", "--out", str(tmp_path / folder)]) == 0
    for name in ("rows.jsonl", "summary.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    found = values(summary["rows"])
    for arm in ("ERM, c = 0", "SD, c = 0.01"):
        name = f"8x8 digits of scikit-learn, {arm}"
        assert 0 <= found[f"{name}: under attack (5/255)"] <= found[f"{name}: test accuracy"] <= 1
    assert len(summary["signatures"]) == 4


def test_published_factors_are_converted():
    """mean_i (lambda/2) sum_k f_ik^2 is the published penalty: c sum f^2, or c mean f^2 over batch and classes."""
    f = np.random.default_rng(0).normal(size=(6, 10))
    for strength, published in (
        (cifar_margin.strength(0.1), 0.1 * (f**2).sum(axis=1).mean()),
        (cifar_margin.strength(0.05, classes=10), 0.05 * (f**2).mean()),
        (cifar_margin.strength(6 * 0.1), 0.1 * (f**2).sum()),
    ):
        assert np.mean(strength / 2 * (f**2).sum(axis=1)) == pytest.approx(published)


def test_what_is_trained_on_and_attacked(monkeypatch):
    """Two classes in [-1, 1]; all of them normalised, with the radius of the attack in the same units."""
    recipe = cifar_margin.figure_2(cifar_margin.Cell("figure 2", "digits", "erm"), SMOKE)
    x = np.asarray(recipe.train.x)
    assert (x.min(), x.max()) == (-1, 1)
    assert set(np.asarray(recipe.train.y).tolist()) == {0, 1}

    seen = {}

    def pgd(logits_fn, x, y, **attack):
        seen.update(attack)
        return x

    monkeypatch.setattr(cifar_margin.margins, "pgd", pgd)
    recipe = cifar_margin.table_1(cifar_margin.Cell("table 1", "digits", "sd"), SMOKE)
    x = np.asarray(recipe.train.x)
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-4)
    state = jax.eval_shape(recipe.method.init, jax.random.key(0), recipe.train)
    jax.eval_shape(recipe.evaluate, state, recipe.held_out)
    pixels = cifar_margin.load("digits")[0].pixels / 255
    np.testing.assert_allclose(seen["radius"] * pixels.std(), 5 / 255, rtol=1e-5)
    np.testing.assert_allclose(seen["step_size"] / seen["radius"], 0.1, rtol=1e-5)
    low, high = (np.asarray(bound) * pixels.std() + pixels.mean() for bound in seen["bounds"])
    np.testing.assert_allclose([low, high], [[0], [1]], atol=1e-6)
    assert (low.item(), high.item()) == pytest.approx((0, 1), abs=1e-6)


def test_the_paper_preset_has_the_published_settings():
    paper = cifar_margin.PRESETS["paper"]
    assert (paper.epochs, paper.learning_rate, paper.factor) == (40, 1e-3, 0.1)
    assert cifar_margin.strength(paper.factor) == 0.2
    assert all(config.seeds >= 3 for name, config in cifar_margin.PRESETS.items() if name != "smoke")


def test_absent_data_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")
    absent = dataclasses.replace(SMOKE, table=("cifar100",))
    assert [cell.part for cell in cifar_margin.cells(absent)] == ["figure 2"] * 3
    assert main(["cifar_margin", "--preset", "laptop", "--out", str(tmp_path / "out")]) == 2
    assert "CIFAR-10" in capsys.readouterr().err.splitlines()[-1]
