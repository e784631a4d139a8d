"""Margins of cats and dogs: the run from the command line, conversions, and the resolution of the search."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import _cifar, _rows, cifar_margin
from experiments.__main__ import main
from gsjax import records
from tests.plotting.shown import points

SMOKE = cifar_margin.PRESETS["smoke"]


def values(rows):
    return {row["name"]: row["measured"] for row in rows}


@pytest.mark.slow
def test_figure_2_interrupted_and_finished(tmp_path, interrupt_after, figures):
    """The run is stopped after ERM and finished: rows, summary and figure. A finished run computes nothing again."""
    cells = interrupt_after(1)
    command = ["cifar_margin", "--preset", "smoke", "--out", str(tmp_path)]
    assert main(command) == 130
    assert main(command) == 0
    first = {name: (tmp_path / name).read_bytes() for name in ("rows.jsonl", "summary.json")}
    assert main(command) == 0
    assert [cell["arm"] for cell in cells] == ["erm", "sd", cifar_margin.SUMMED]
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
    assert all(row["published"] is None for row in summary["rows"])  # a stand-in is not compared with published numbers
    flipped = np.mean(
        [np.mean(np.array(row["linf"]) <= 0.1) for row in rows if (row["arm"], row["epoch"]) == ("erm", 20)]
    )
    assert values(summary["rows"])["threes and eights, ERM: flipped within 0.1 (L-infinity)"] == pytest.approx(flipped)
    assert len(summary["signatures"]) == 5

    erm, *_ = figures["margins.png"].axes[0].lines
    radii, drawn = points(erm).T
    margins = np.array([row["linf"] for row in rows if (row["arm"], row["epoch"]) == ("erm", 20)], float)
    np.testing.assert_allclose(drawn, [np.mean(margins <= radius) for radius in radii])
    assert np.ptp(drawn) > 0.5


def test_the_training_data_has_two_classes():
    recipe = cifar_margin.recipe("erm", SMOKE)
    x = np.asarray(recipe.train.x)
    assert (x.min(), x.max()) == (-1, 1)
    assert set(np.asarray(recipe.train.y).tolist()) == {0, 1}


def test_the_paper_preset_has_the_published_settings():
    paper = cifar_margin.PRESETS["paper"]
    assert (paper.epochs, paper.learning_rate, paper.factor) == (40, 1e-3, 0.1)
    assert _cifar.strength(paper.factor) == 0.2
    assert all(config.seeds >= 5 for name, config in cifar_margin.PRESETS.items() if name != "smoke")


@pytest.mark.parametrize("name", ["laptop", "gpu", "paper"])
def test_the_search_is_fine_enough(name):
    """The radius covers the values read off Fig. 2; a bisection stops within 3% of its median, 0.008."""
    config = cifar_margin.PRESETS[name]
    assert config.radius[0] > max(cifar_margin.RADII)
    assert cifar_margin.quantum(config) == config.radius[0] / 2**config.bisections < 0.03 * 0.008


def seed_rows(linf, **numbers):
    """The rows of an arm whose images have these margins, one row per seed."""
    same = {"height": 1.0, "slope": 100.0, "ratio": 0.01, "single step": 0.9, "loss gradient": 0.5, "train": 1.0}
    return [
        {**same, "test": 0.7, "linf": row, "l2": row, "checked": row[: SMOKE.checked], **numbers}
        for row in linf.tolist()
    ]


def test_medians_beyond_the_radius_are_flagged_and_not_judged():
    """More than half of the images of one arm are never flipped; their margins are null in the file."""
    config = dataclasses.replace(SMOKE, radius=(0.11, 3.0))
    finite = np.random.default_rng(0).uniform(0.01, 0.1, (5, 20))
    censored = np.where(np.arange(20) < 12, np.array(None), finite)
    ends = {"erm": seed_rows(finite), "sd": seed_rows(censored), cifar_margin.SUMMED: seed_rows(finite)}
    lines = {row["name"]: row for row in cifar_margin.summarise(ends, config, [100, 20])}
    row = lines["threes and eights, SD: median margin (L-infinity)"]
    assert row["measured"] == pytest.approx(0.11)
    assert "5 of 5 seeds" in row["differs"]
    assert lines["threes and eights, ERM: median margin (L-infinity)"]["differs"] is None
    assert lines["threes and eights, SD: margins (L-infinity) censored, as they lie beyond 0.11"]["measured"] == 0.6
    judged = {entry["name"] for entry in cifar_margin.judge(ends, config)}
    assert not any("median" in name for name in judged)
    ends["sd"] = seed_rows(2 * finite)
    assert sum("median" in entry["name"] for entry in cifar_margin.judge(ends, config)) == 2


@pytest.mark.parametrize(("times", "holds"), [(1.0, False), (1.3, True)])
def test_signatures_of_margins(times, holds):
    """Margins that are a third wider are found to be wider, equal margins are not; a failure says why, with numbers."""
    config = dataclasses.replace(SMOKE, data="cifar10", radius=(0.11, 3.0), bisections=10)
    generator = np.random.default_rng(0)
    margins = np.linspace(0.0, 0.08, 50) * generator.uniform(0.9, 1.1, (8, 1))
    noise = generator.uniform(0.98, 1.02, (8, 1))
    ends = {"erm": seed_rows(margins), "sd": seed_rows(times * noise * margins, height=0.1, slope=10.0)}
    found = {entry["name"]: entry for entry in _rows.judged(cifar_margin.judge(ends, config))}
    for name in ("median margin (L-infinity)", "median margin (L-infinity), correctly classified images"):
        entry = found[f"cats and dogs: {name}, SD minus ERM"]
        assert entry["holds"] is holds
        if not holds:
            assert "10.0 times smaller" in entry["why"]
    assert found["cats and dogs: test accuracy, SD minus ERM"]["holds"]

    lines = {row["name"]: row for row in cifar_margin.resolution(ends, config)}
    step = lines["cats and dogs: quantum of the margins (L-infinity), 10 bisections"]["measured"]
    assert step == pytest.approx(0.11 / 1024)
    scale = np.median(margins, axis=1).mean()
    relative = lines["cats and dogs: over the median margin of ERM (L-infinity): the quantum"]["measured"]
    assert relative == pytest.approx(step / scale)
    ratio = lines["cats and dogs: median margin (L-infinity), SD over ERM"]
    assert ratio["measured"] == pytest.approx(times, rel=0.03)
    assert ratio["published"] == "> 1.75"


def test_medians_of_correctly_classified_images():
    values = np.array([[0, 0, 1, 2, 3], [0, 0, 0, 0, np.inf]])
    assert cifar_margin.median(values).tolist() == [1, 0]
    assert cifar_margin.median(values, correct=True).tolist() == [2, np.inf]


def test_missing_data_is_one_line(tmp_path, nowhere, one_line):
    assert main(["cifar_margin", "--preset", "laptop", "--out", str(tmp_path / "out")]) == 2
    assert "CIFAR-10" in one_line()


RECORDS = Path(cifar_margin.__file__).with_name("records") / "cifar_margin"
ABOUT = "cats and dogs"


def quoted(preset, name, form="{:.4f}"):
    """A row of a record as the text quotes it: its number, and its interval if it has one."""
    [row] = [row for row in records.read(RECORDS / preset / "summary.json")["rows"] if row["name"] == name]
    number, ends = form.format(row["measured"]), row["interval"]
    return number, f"{number} [{form.format(ends[0])}, {form.format(ends[1])}]" if ends else number


def test_the_text_says_what_the_records_say():
    """Every number that the page quotes from the record, in the words around it."""
    page = Path(cifar_margin.__file__).parents[1] / "docs" / "results" / "cifar_margin.md"
    text = " ".join(page.read_text().split())
    linf, correct = "median margin (L-infinity)", "median margin (L-infinity), correctly classified images"

    def figure(name, form="{:.4f}", place=1):
        return [quoted("gpu", f"{ABOUT}, {arm}{name}", form)[place] for arm in ("ERM", "SD")]

    def single(name, form):
        return quoted("gpu", f"{ABOUT}: {name}", form)[0]

    def shrunk(epoch, form):
        return " and ".join(figure(f", epoch {epoch}: {correct}", form, 0))

    def logits(name):
        erm, sd = (float(number) for number in figure(f": median {name}", "{:.6f}", 0))
        return f"{erm / sd:.1f} times"

    def stronger():
        what = "median margin (L-infinity) with 4 times the steps, over that without, 100 images"
        return [f"{1 - float(number):.1%}" for number in figure(f": {what}", "{:.6f}", 0)]

    relative, flipped = "over the median margin of ERM (L-infinity)", "flipped within 0.057 (L-infinity)"
    seen = "the least difference that is seen, quantum and half interval"
    accuracy, ratio = (
        figure(": test accuracy", "{:.1%}", 0),
        quoted("gpu", f"{ABOUT}: {linf}, SD over ERM", "{:.2f}")[1],
    )
    early, late = figure(f", epoch 1: {flipped}", "{:.0%}", 0), figure(f": {flipped}", "{:.1%}", 0)
    step = figure(f": {flipped} by one step along the sign of the gradient", "{:.1%}", 0)
    loss = figure(f": {flipped} by 10 steps along the gradient of the loss, not its sign", "{:.1%}", 0)
    first = figure(": median ratio of the two, of correctly classified images", "{:.4f}", 0)
    for part in (
        "is {} (ERM) and {} (SD), a ratio of {}".format(*figure(f": {linf}"), ratio),
        "correctly classified images it is {} and {}.".format(*figure(f": {correct}")),
        f"Test accuracies are {accuracy[0]} and {accuracy[1]}.",
        f"Within 0.057, {late[0]} of the images are flipped under ERM and {late[1]} under SD",
        f"quantum is {single('quantum of the margins (L-infinity), 10 bisections', '{:.5f}')}, "
        f"{single(f'{relative}: the quantum', '{:.1%}')} of ERM's median",
        f"smallest detectable difference is {single(f'{relative}: {seen}', '{:.1%}')} "
        f"({single(f'{relative}, correctly classified images: {seen}', '{:.1%}')} among",
        f"logits {logits('|f_0 - f_1|')} smaller, and its gradient {logits('l1 norm of its gradient')}.",
        f"nearly the same: {first[0]} (ERM) and {first[1]} (SD).",
        f"from {shrunk(1, '{:.3f}')} after the first epoch to {shrunk(8, '{:.4f}')} after the eighth",
        f"({early[0]}, SD {early[1]})",
        "medians are only {} and {} smaller".format(*stronger()),
        f"flips {step[0]} (ERM) and {step[1]} (SD) within 0.057",
        f"flip {loss[0]} under ERM, about what was published, but {loss[1]} under SD",
    ):
        assert part in text, part
