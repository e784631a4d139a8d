"""Accuracy under attack: the run from the command line, what is attacked, and when results are judged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import _cifar, adversarial_accuracy
from experiments.__main__ import main
from gsjax import networks, records

SMOKE = adversarial_accuracy.PRESETS["smoke"]
RECORD = Path(adversarial_accuracy.__file__).with_name("records") / "adversarial_accuracy" / "gpu" / "summary.json"


@pytest.mark.slow
def test_smoke_run_gives_the_same_bytes(tmp_path):
    for folder in ("first", "second"):
        assert main(["adversarial_accuracy", "--preset", "smoke", "--out", str(tmp_path / folder)]) == 0
    for name in ("rows.jsonl", "summary.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    found = {row["name"]: row["measured"] for row in summary["rows"]}
    attacked = []
    for arm in ("ERM, c = 0", "SD, c = 0.01"):
        name = f"8x8 digits of scikit-learn, {arm}"
        attacked.append(found[f"{name}: under attack (5/255)"])
        assert 0 <= attacked[-1] <= found[f"{name}: test accuracy"] <= 1
    assert found["8x8 digits of scikit-learn: under attack (5/255), SD minus ERM"] == pytest.approx(
        attacked[1] - attacked[0], abs=1e-6
    )
    assert summary["signatures"] == []  # too short to be judged
    assert any("not tested: 2 of 200 epochs" in (row["differs"] or "") for row in summary["rows"])


def test_published_factors_are_converted():
    """mean_i (lambda/2) sum_k f_ik^2 is the published penalty: c sum f^2, or c mean f^2 over batch and classes."""
    f = np.random.default_rng(0).normal(size=(6, 10))
    for strength, published in (
        (_cifar.strength(0.1), 0.1 * (f**2).sum(axis=1).mean()),
        (_cifar.strength(0.05, classes=10), 0.05 * (f**2).mean()),
        (_cifar.strength(6 * 0.1), 0.1 * (f**2).sum()),
    ):
        assert np.mean(strength / 2 * (f**2).sum(axis=1)) == pytest.approx(published)


def test_what_is_trained_on_and_attacked(monkeypatch):
    """Images of all classes are normalised, and the radius of the attack is in the same units."""
    seen = {}

    def pgd(logits_fn, x, y, **attack):
        seen.update(attack)
        return x

    monkeypatch.setattr(adversarial_accuracy.margins, "pgd", pgd)
    adversarial_accuracy.recipe.cache_clear()
    recipe = adversarial_accuracy.recipe("digits", "sd", SMOKE)
    x = np.asarray(recipe.train.x)
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-4)
    state = jax.eval_shape(recipe.method.init, jax.random.key(0), recipe.train)
    jax.eval_shape(recipe.evaluate, state, recipe.held_out)
    pixels = _cifar.load("digits")[0].pixels / 255
    np.testing.assert_allclose(seen["radius"] * pixels.std(), 5 / 255, rtol=1e-5)
    np.testing.assert_allclose(seen["step_size"] / seen["radius"], 0.1, rtol=1e-5)
    low, high = (np.asarray(bound) * pixels.std() + pixels.mean() for bound in seen["bounds"])
    np.testing.assert_allclose([low, high], [[0], [1]], atol=1e-6)
    adversarial_accuracy.recipe.cache_clear()


def test_results_are_judged_only_after_the_published_training():
    pairs = {"erm": [0.3, 0.31, 0.29, 0.3, 0.3], "sd": [0.6, 0.62, 0.61, 0.6, 0.63]}
    rows = {arm: [{"attacked": value, "test": 0.9, "train": 1.0} for value in values] for arm, values in pairs.items()}
    short = adversarial_accuracy.PRESETS["gpu"]
    assert adversarial_accuracy.judge(rows, short, "cifar10", [18_000, 3600]) == []
    assert adversarial_accuracy.judge(rows, adversarial_accuracy.PRESETS["paper"], "cifar10", [18_000, 3600]) == []
    [entry] = adversarial_accuracy.judge(rows, adversarial_accuracy.PRESETS["paper"], "cifar10", [50_000, 10_000])
    assert entry["value"] == pytest.approx(0.312)
    *_, row = adversarial_accuracy.summarise(rows, short, "cifar10", [18_000, 3600])
    share = f"{short.epochs * 18 / (200 * 50):.2%}"
    assert row["differs"].startswith(f"not tested: {short.epochs} of 200 epochs on 18000 of 50000 images, {share}")
    assert row["published"] == pytest.approx(0.37)


@pytest.mark.parametrize("precision", ["highest", "tensorfloat32"])
def test_the_precision_reaches_every_product(precision):
    """In the forward and in the backward pass, inside the setting of the training; read off the program."""
    network = adversarial_accuracy.InPrecision(networks.PreActResNet((2,), (1,), 3), precision)
    x = np.ones((2, 8, 8, 1), np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)

    def loss(params, rest):
        return network.apply({"params": params, **rest}, x, train=True, mutable=list(rest))[0].sum()

    rest = {name: leaf for name, leaf in variables.items() if name != "params"}
    with jax.default_matmul_precision("highest"):
        program = str(jax.make_jaxpr(jax.grad(loss))(variables["params"], rest))
    wanted = {"highest": "HIGHEST", "tensorfloat32": "HIGH"}[precision]
    assert set(re.findall(r"Precision\.(\w+)", program)) == {wanted}


def test_a_missing_data_set_is_left_out_or_named(tmp_path, nowhere, one_line):
    config = adversarial_accuracy.Config(data=("cifar100", "digits"), seeds=2)
    cells = adversarial_accuracy.study(config, out=tmp_path, seed=0).cells
    assert [cell.key["data"] for cell in cells] == ["digits"] * 4
    assert main(["adversarial_accuracy", "--preset", "gpu", "--out", str(tmp_path / "out")]) == 2
    assert "CIFAR-10" in one_line()


def quoted(name, form, place=0):
    """A row of the record as the text quotes it: its number at place 0, the number with its interval at place 1."""
    [row] = [row for row in records.read(RECORD)["rows"] if row["name"] == name]
    number, ends = form.format(row["measured"]), row["interval"]
    return (number, f"{number} [{form.format(ends[0])}, {form.format(ends[1])}]")[place]


def test_the_text_says_what_the_record_says():
    page = Path(adversarial_accuracy.__file__).parents[1] / "docs" / "results" / "adversarial_accuracy.md"
    text = " ".join(page.read_text().split())

    def both_arms(name, place=0):
        return [quoted(f"CIFAR-10, {arm}: {name}", "{:.1%}", place) for arm in ("ERM, c = 0", "SD, c = 0.01")]

    attacked = [number.replace("%,", ",").replace("%]", "]") for number in both_arms("under attack (5/255)", 1)]
    gained = quoted("CIFAR-10: under attack (5/255), SD minus ERM", "{:.2%}", 1)
    erm, sd = both_arms("training accuracy")
    assert erm == sd
    for part in (
        f"8 of the published 200 epochs, on 18,000 of 50,000 images: {8 * 18 / (200 * 50):.2%} of the published",
        f"training accuracy is {erm} with both methods",
        "test accuracy is {} (ERM) and {} (SD)".format(*both_arms("test accuracy")),
        f"the accuracy is {attacked[0]} (ERM) and {attacked[1]} (SD)",
        f"The difference is {gained.replace('%,', ',').replace('%]', ']')}",
    ):
        assert part in text, part


def test_nothing_is_judged_in_the_record():
    summary = records.read(RECORD)
    assert summary["signatures"] == []
    published = [row for row in summary["rows"] if row["published"] is not None]
    assert len(published) == 3
    assert all(row["differs"].startswith("not tested: 8 of 200 epochs") for row in published)
