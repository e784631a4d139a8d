"""Margins of cats and dogs, as they are run from the command line; conversions and the exactness of the attack."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import _rows, cifar_margin
from experiments.__main__ import main
from gsjax import networks, records
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
    assert len(summary["signatures"]) == 5
    assert (tmp_path / "margins.png").stat().st_size > 10_000


@pytest.mark.slow
def test_smoke_run_gives_the_same_bytes(tmp_path):
    for folder in ("first", "second"):
        assert main(["cifar_margin", "--preset", "smoke", "--out", str(tmp_path / folder)]) == 0
    for name in ("rows.jsonl", "summary.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    found = values(summary["rows"])
    attacked = []
    for arm in ("ERM, c = 0", "SD, c = 0.01"):
        name = f"8x8 digits of scikit-learn, {arm}"
        attacked.append(found[f"{name}: under attack (5/255)"])
        assert 0 <= attacked[-1] <= found[f"{name}: test accuracy"] <= 1
    assert found["8x8 digits of scikit-learn: under attack (5/255), SD minus ERM"] == pytest.approx(
        attacked[1] - attacked[0], abs=1e-6
    )
    assert not any("5/255" in entry["name"] for entry in summary["signatures"])  # too short to be judged
    assert any("not tested: 2 of 200 epochs" in (row["differs"] or "") for row in summary["rows"])


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
    cifar_margin.table_1.cache_clear()
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
    judged = [config for name, config in cifar_margin.PRESETS.items() if name != "smoke"]
    assert all(config.seeds >= 5 and config.table_seeds >= 5 for config in judged)
    assert [
        name for name, config in cifar_margin.PRESETS.items() if cifar_margin.tested(config, "cifar10", 50_000)
    ] == [
        "laptop",
        "gpu",
        "paper",
    ]
    assert cifar_margin.PRESETS["laptop"].table == cifar_margin.PRESETS["gpu"].table == ()


@pytest.mark.parametrize("name", ["laptop", "gpu", "paper"])
def test_the_search_is_fine_enough(name):
    """What was read off Fig. 2 lies within the radius; a bisection stops within 3% of the median there, .008."""
    config = cifar_margin.PRESETS[name]
    assert config.radius[0] > max(cifar_margin.RADII)
    assert cifar_margin.quantum(config) == config.radius[0] / 2**config.bisections < 0.03 * 0.008


def rows_of(linf, **numbers):
    """Seeds of an arm whose images have these margins."""
    same = {"height": 1.0, "slope": 100.0, "ratio": 0.01, "single step": 0.9, "loss gradient": 0.5, "train": 1.0}
    return [
        {**same, "test": 0.7, "linf": row, "l2": row, "checked": row[: SMOKE.checked], **numbers}
        for row in linf.tolist()
    ]


def test_medians_beyond_the_radius_are_flagged_and_not_judged():
    """Half of the images of one arm are not flipped at all, and their margins null in the file."""
    config = dataclasses.replace(SMOKE, radius=(0.11, 3.0))
    near = np.random.default_rng(0).uniform(0.01, 0.1, (5, 20))
    far = np.where(np.arange(20) < 12, np.array(None), near)
    ends = {"erm": rows_of(near), "sd": rows_of(far), cifar_margin.SUMMED: rows_of(near)}
    lines = {row["name"]: row for row in cifar_margin.summarise(ends, config, [100, 20])}
    row = lines["threes and eights, SD: median margin (L-infinity)"]
    assert row["measured"] == pytest.approx(0.11)
    assert "5 of 5 seeds" in row["differs"]
    assert lines["threes and eights, ERM: median margin (L-infinity)"]["differs"] is None
    assert lines["threes and eights, SD: margins (L-infinity) censored, as they lie beyond 0.11"]["measured"] == 0.6
    judged = {entry["name"] for entry in cifar_margin.judge(ends, config)}
    assert not any("median" in name for name in judged)
    ends["sd"] = rows_of(2 * near)
    assert sum("median" in entry["name"] for entry in cifar_margin.judge(ends, config)) == 2


@pytest.mark.parametrize(("times", "holds"), [(1.0, False), (1.3, True)])
def test_what_is_judged_of_margins(times, holds):
    """Margins that are a third wider are seen as that, the same ones are not; a failure says why, with its numbers."""
    config = dataclasses.replace(SMOKE, data="cifar10", radius=(0.11, 3.0), bisections=10)
    generator = np.random.default_rng(0)
    near = np.linspace(0.0, 0.08, 50) * generator.uniform(0.9, 1.1, (8, 1))
    noise = generator.uniform(0.98, 1.02, (8, 1))
    ends = {"erm": rows_of(near), "sd": rows_of(times * noise * near, height=0.1, slope=10.0)}
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
    scale = np.median(near, axis=1).mean()
    relative = lines["cats and dogs: over the median margin of ERM (L-infinity): the quantum"]["measured"]
    assert relative == pytest.approx(step / scale)
    ratio = lines["cats and dogs: median margin (L-infinity), SD over ERM"]
    assert ratio["measured"] == pytest.approx(times, rel=0.03)
    assert ratio["published"] == "> 1.75"


def test_medians_of_correctly_classified_images():
    values = np.array([[0, 0, 1, 2, 3], [0, 0, 0, 0, np.inf]])
    assert cifar_margin.median(values).tolist() == [1, 0]
    assert cifar_margin.median(values, correct=True).tolist() == [2, np.inf]


def test_table_1_is_judged_after_the_published_training_alone():
    pairs = {"erm": [0.3, 0.31, 0.29, 0.3, 0.3], "sd": [0.6, 0.62, 0.61, 0.6, 0.63]}
    rows = {arm: [{"attacked": of, "test": 0.9, "train": 1.0} for of in values] for arm, values in pairs.items()}
    short = cifar_margin.PRESETS["table"]
    assert cifar_margin.judge_table(rows, short, "cifar10", [18_000, 3600]) == []
    assert cifar_margin.judge_table(rows, cifar_margin.PRESETS["paper"], "cifar10", [18_000, 3600]) == []
    [entry] = cifar_margin.judge_table(rows, cifar_margin.PRESETS["paper"], "cifar10", [50_000, 10_000])
    assert entry["value"] == pytest.approx(0.312)
    *_, row = cifar_margin.summarise_table(rows, short, "cifar10", [18_000, 3600])
    share = f"{short.table_epochs * 18 / (200 * 50):.2%}"
    assert row["differs"].startswith(
        f"not tested: {short.table_epochs} of 200 epochs on 18000 of 50000 images, {share}"
    )
    assert row["published"] == pytest.approx(0.37)


@pytest.mark.parametrize("precision", ["highest", "tensorfloat32"])
def test_the_precision_of_table_1_reaches_every_product(precision):
    """Forwards and backwards, within the training's own setting: read off the program."""
    network = cifar_margin.InPrecision(networks.PreActResNet((2,), (1,), 3), precision)
    x = np.ones((2, 8, 8, 1), np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)

    def loss(params, rest):
        return network.apply({"params": params, **rest}, x, train=True, mutable=list(rest))[0].sum()

    rest = {name: of for name, of in variables.items() if name != "params"}
    with jax.default_matmul_precision("highest"):
        program = str(jax.make_jaxpr(jax.grad(loss))(variables["params"], rest))
    wanted = {"highest": "HIGHEST", "tensorfloat32": "HIGH"}[precision]
    assert set(re.findall(r"Precision\.(\w+)", program)) == {wanted}


def test_nothing_to_do_is_one_line(tmp_path, capsys):
    assert main(["cifar_margin", "--figure", "none", "--table", "--out", str(tmp_path / "out")]) == 2
    assert "--figure: expected Fig. 2 or a --table, got neither" in capsys.readouterr().err


def test_absent_data_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")
    absent = dataclasses.replace(SMOKE, table=("cifar100",))
    assert [cell.part for cell in cifar_margin.cells(absent)] == ["figure 2"] * 3
    assert main(["cifar_margin", "--preset", "laptop", "--out", str(tmp_path / "out")]) == 2
    assert "CIFAR-10" in capsys.readouterr().err.splitlines()[-1]


RECORDS = Path(cifar_margin.__file__).with_name("records") / "cifar_margin"
ABOUT = "cats and dogs"


def quoted(preset, name, form="{:.4f}"):
    """A row of a record as the text quotes it: its number, and its interval if it has one."""
    [row] = [row for row in records.read(RECORDS / preset / "summary.json")["rows"] if row["name"] == name]
    number, ends = form.format(row["measured"]), row["interval"]
    return number, f"{number} [{form.format(ends[0])}, {form.format(ends[1])}]" if ends else number


def test_the_text_says_what_the_records_say():
    """Every number that the module quotes from its records, in the words around it."""
    text = " ".join((cifar_margin.__doc__ or "").split())
    linf, correct = "median margin (L-infinity)", "median margin (L-infinity), correctly classified images"

    def figure(name, form="{:.4f}", place=1):
        return [quoted("gpu", f"{ABOUT}, {arm}{name}", form)[place] for arm in ("ERM", "SD")]

    def of(name, form):
        return quoted("gpu", f"{ABOUT}: {name}", form)[0]

    def shrunk(epoch, form):
        return " and ".join(figure(f", epoch {epoch}: {correct}", form, 0))

    def logits(name):
        erm, sd = (float(number) for number in figure(f": median {name}", "{:.6f}", 0))
        return f"{erm / sd:.1f} times"

    def stronger():
        what = "median margin (L-infinity) with 4 times the steps, over that without, 100 images"
        return [f"{1 - float(number):.1%}" for number in figure(f": {what}", "{:.6f}", 0)]

    over, flipped = "over the median margin of ERM (L-infinity)", "flipped within 0.057 (L-infinity)"
    seen = "the least difference that is seen, quantum and half interval"
    accuracy, ratio = (
        figure(": test accuracy", "{:.1%}", 0),
        quoted("gpu", f"{ABOUT}: {linf}, SD over ERM", "{:.2f}")[1],
    )
    early, within = figure(f", epoch 1: {flipped}", "{:.0%}", 0), figure(f": {flipped}", "{:.1%}", 0)
    step = figure(f": {flipped} by one step along the sign of the gradient", "{:.1%}", 0)
    loss = figure(f": {flipped} by 10 steps along the gradient of the loss, not its sign", "{:.1%}", 0)
    first = figure(": median ratio of the two, of correctly classified images", "{:.4f}", 0)
    for part in (
        "is {} (ERM) and {} (SD), a ratio of {}".format(*figure(f": {linf}"), ratio),
        "correctly classified images it is {} and {}.".format(*figure(f": {correct}")),
        f"Test accuracies are {accuracy[0]} and {accuracy[1]}.",
        f"Within 0.057, {within[0]} of the images are flipped under ERM and {within[1]} under SD",
        f"quantum is {of('quantum of the margins (L-infinity), 10 bisections', '{:.5f}')}, "
        f"{of(f'{over}: the quantum', '{:.1%}')} of ERM's median",
        f"a difference of {of(f'{over}: {seen}', '{:.1%}')} is seen "
        f"({of(f'{over}, correctly classified images: {seen}', '{:.1%}')} among",
        f"logits {logits('|f_0 - f_1|')} smaller, and its gradient {logits('l1 norm of its gradient')}.",
        f"to first order: {first[0]} and {first[1]}, the same.",
        f"from {shrunk(1, '{:.3f}')} after the first epoch, and {shrunk(8, '{:.4f}')} after the eighth",
        f"({early[0]}, SD {early[1]})",
        "medians are {} and {} smaller".format(*stronger()),
        f"flips {step[0]} (ERM) and {step[1]} (SD) within 0.057",
        f"flip {loss[0]} under ERM, about what was published, but {loss[1]} under SD",
    ):
        assert part in text, part

    def table(name, place=1):
        arms = [f"CIFAR-10, {arm}: {name}" for arm in ("ERM, c = 0", "SD, c = 0.01")]
        return [quoted("table", arm, "{:.1%}")[place] for arm in arms]

    attacked = [number.replace("%,", ",").replace("%]", "]") for number in table("under attack (5/255)")]
    gained = quoted("table", "CIFAR-10: under attack (5/255), SD minus ERM", "{:.2%}")[1]
    erm, sd = table("training accuracy", 0)
    assert erm == sd
    for part in (
        f"8 of the published 200 epochs, on 18,000 of 50,000 images, are {8 * 18 / (200 * 50):.2%} of the training",
        f"{erm} of the training images right under both, {attacked[0]} (ERM) and {attacked[1]} (SD)",
        "of {} and {} without".format(*table("test accuracy", 0)),
        f"a difference of {gained.replace('%,', ',').replace('%]', ']')}",
    ):
        assert part in text, part


def test_nothing_of_table_1_is_judged_in_the_records():
    summary = records.read(RECORDS / "table" / "summary.json")
    assert summary["signatures"] == []
    published = [row for row in summary["rows"] if row["published"] is not None]
    assert len(published) == 3
    assert all(row["differs"].startswith("not tested: 8 of 200 epochs") for row in published)
