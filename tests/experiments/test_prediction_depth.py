"""Prediction depth: images and patches, the run from the command line, its rows, figures and signatures."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

from experiments import _depth_networks, _depth_rows, _depth_signatures, _depth_tasks, _rows, prediction_depth
from experiments.__main__ import main
from experiments._depth_rows import Found
from experiments._depth_tasks import CONTROLS, VARIANTS
from experiments._study import keys
from gsjax import data
from tests.plotting.shown import points

CONFIG = dataclasses.replace(prediction_depth.PRESETS["smoke"], networks=("vgg",))
SMOKE = ["prediction_depth", "--preset", "smoke", "--networks", "vgg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, module_figures):
    """The results of the smoke run of the VGG."""
    out = tmp_path_factory.mktemp("smoke")
    assert main([*SMOKE, "--out", str(out)]) == 0
    return out


def read(folder):
    lines = (folder / "rows.jsonl").read_text().splitlines()
    return json.loads((folder / "summary.json").read_text()), [json.loads(line) for line in lines]


def depths(rows, network, variant):
    """Depths of two networks at two times; NaN where the file has null."""
    kept = [row for row in rows if (row["network"], row["variant"]) == (network, variant)]
    return np.array([row["depth"] for row in kept], dtype=float)


def test_the_summary_says_what_the_rows_say(folder):
    summary, rows = read(folder)
    found = {row["name"]: row for row in summary["rows"]}
    variants = [*VARIANTS, *CONTROLS]
    assert [(row["network"], row["variant"]) for row in rows[::2]] == [
        (network, variant) for network in ("information", "vgg") for variant in variants
    ]
    every = depths(rows, "vgg", "clean")
    assert every.shape == (2, 2, 60)
    assert np.isin(every[~np.isnan(every)], (1, 2)).all()
    assert found["VGG, digits: mean depth"]["measured"] == pytest.approx(
        np.mean([np.mean(each[-1][~np.isnan(each[-1])]) for each in every])
    )
    assert found["VGG, digits: decided at the first stage"]["measured"] == pytest.approx(np.mean(every[:, -1] == 1))
    assert found["VGG, digits: invalid after epoch 1 of 6"]["measured"] == pytest.approx(np.isnan(every[:, 0]).mean())
    patch = depths(rows, "vgg", "patch")[:, -1]
    assert found["VGG, digits, patch in one class: mean depth of the class with the patch"]["measured"] == (
        pytest.approx(np.mean([np.nanmean(each[1::10]) for each in patch]))
    )
    correlations: list[Any] = [
        stats.spearmanr(each[~np.isnan(each)], np.array(row["bits"])[~np.isnan(each)])
        for each, row in zip(every[:, -1], rows[:2], strict=True)
    ]
    correlation = np.mean([each.statistic for each in correlations])
    name = "VGG, digits: rank correlation of depth and information of one hidden layer"
    assert found[name]["measured"] == pytest.approx(correlation)
    assert not any(row["published"] for row in summary["rows"])  # nothing is published for digits
    assert all(entry["interval"] for entry in summary["signatures"])


def test_the_votes_of_the_raw_input_are_those_of_another_library(folder):
    _, rows = read(folder)
    key = keys(0, [1])[0]
    for variant in ("clean", "patches"):
        task = _depth_tasks.drawn("digits", variant, key, CONFIG)
        x, queries = (images.reshape(len(images), -1) for images in (task.x, task.queries))
        other = KNeighborsClassifier(CONFIG.k, metric="manhattan", algorithm="brute")
        right = other.fit(x[: CONFIG.bank], task.y[: CONFIG.bank]).score(queries, task.labels)
        [row] = [row for row in rows if (row["network"], row["variant"], row["seed"]) == ("vgg", variant, 1)]
        assert row["votes"][0][0] == row["votes"][1][0] == pytest.approx(right, abs=0.04)  # they differ in ties
        assert right > 0.7


def test_figures(folder, module_figures):
    _, rows = read(folder)
    every = depths(rows, "vgg", "clean")
    [histograms] = module_figures["depths.png"].axes
    assert [text.get_text() for text in histograms.get_xticklabels()] == ["1", "2", "invalid"]
    first, second = (bar.get_height() for bar in histograms.patches[:2])
    assert first / second == pytest.approx((every[:, -1] == 1).sum() / (every[:, -1] == 2).sum())
    by_k, accuracy, mean, share = module_figures["effects.png"].axes
    np.testing.assert_array_equal(points(by_k.lines[0])[:, 0], [5, 9])
    np.testing.assert_allclose(points(share.lines[0]), np.stack([[1, 6], np.isnan(every).mean(axis=(0, 2))], axis=1))
    assert points(mean.lines[0])[1, 1] == pytest.approx(points(by_k.lines[0])[1, 1])  # 9 neighbours, last epoch
    clean = [row for row in rows if (row["network"], row["variant"]) == ("vgg", "clean")]
    for line, name in zip(accuracy.lines, ("votes", "linear votes"), strict=True):
        votes = np.array([row[name] for row in clean])
        np.testing.assert_allclose(points(line)[:, 1], (votes if votes.ndim == 2 else votes[:, -1]).mean(axis=0))
    left, _ = module_figures["information.png"].axes
    shown = [points(line)[0] for line in left.lines[1:]]
    for variant, (bits, depth) in zip(VARIANTS, shown, strict=True):
        information = [row["bits"] for row in rows if (row["network"], row["variant"]) == ("information", variant)]
        assert bits == pytest.approx(np.mean(information))
        assert depth == pytest.approx(np.mean([np.nanmean(each[-1]) for each in depths(rows, "vgg", variant)]))


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, interrupt_after, folder):
    interrupt_after(6)
    assert main([*SMOKE, "--out", str(tmp_path)]) == 130
    assert main([*SMOKE, "--out", str(tmp_path)]) == 0
    for name in ("rows.jsonl", "summary.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_images_of_all_sizes_get_one_size_without_new_pixels():
    generator = np.random.default_rng(0)
    digits, mnist, cifar = (
        generator.integers(256, size=(2, *shape)) for shape in ((8, 8, 1), (28, 28, 1), (32, 32, 3))
    )
    signed = {id(images): images / 127.5 - 1 for images in (digits, mnist, cifar)}
    small = _depth_tasks.framed(mnist, 16)
    np.testing.assert_allclose(small[:, 1:15, 1:15], signed[id(mnist)][:, ::2, ::2].repeat(3, axis=3), atol=1e-6)
    assert (small[:, [0, 15]] == -1).all()
    assert (small[:, :, [0, 15]] == -1).all()
    doubled = _depth_tasks.framed(digits, 16)
    assert doubled.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(doubled[:, ::2, ::2], doubled[:, 1::2, 1::2])
    np.testing.assert_allclose(doubled[:, ::2, ::2, :1], signed[id(digits)], atol=1e-6)
    np.testing.assert_allclose(_depth_tasks.framed(cifar, 32), signed[id(cifar)], atol=1e-6)


def test_variants_have_the_same_images_but_for_the_patch():
    key = keys(5, [0])[0]
    config = dataclasses.replace(CONFIG, n=500, size=16)
    clean, patch, patches, random, shuffled = (
        _depth_tasks.drawn("digits", variant, key, config) for variant in (*VARIANTS, *CONTROLS)
    )
    whole = data.get("digits").read()
    assert clean.x.shape == (500, 16, 16, 3)
    assert clean.y[:10].tolist() == list(range(10))
    np.testing.assert_array_equal(np.bincount(clean.y), 50)
    assert not {image.tobytes() for image in clean.x} & {image.tobytes() for image in clean.queries}
    rows = [
        np.flatnonzero((whole.pixels[..., 0] == (image[::2, ::2, 0] + 1) * 127.5).all((1, 2))) for image in clean.x[:20]
    ]
    assert all(label in whole.labels[found] for label, found in zip(clean.y[:20], rows, strict=True) if len(found))

    corner = np.zeros((16, 16), bool)
    corner[:3, :3] = True
    for task in (patch, random):
        changed = (task.x != clean.x).any(axis=(1, 2, 3))
        assert (task.x[changed][:, corner] == 1).all()
        np.testing.assert_array_equal(task.x[:, ~corner], clean.x[:, ~corner])
    np.testing.assert_array_equal((patch.x != clean.x).any(axis=(1, 2, 3)), clean.y == 1)
    np.testing.assert_array_equal((patch.queries != clean.queries).any(axis=(1, 2, 3)), clean.labels == 1)
    has_patch = (random.x[:, corner] == 1).all(axis=(1, 2))
    assert has_patch.mean() == pytest.approx(0.5, abs=0.1)
    independence: Any = stats.chi2_contingency([np.bincount(clean.y[has_patch]), np.bincount(clean.y[~has_patch])])
    assert independence.pvalue > 0.01

    white = np.array([(patches.x[patches.y == label] == 1).all(axis=(0, 3)) for label in range(10)])
    assert (white.sum(axis=(1, 2)) == 9).all()  # 3 x 3 pixels, the same in all images of a class
    assert white.sum(axis=0).max() == 1  # at places that do not overlap
    np.testing.assert_array_equal(shuffled.x, clean.x)
    assert sorted(shuffled.y) == sorted(clean.y)
    assert (shuffled.y == clean.y).mean() < 0.25


def test_depths_of_invalid_examples_count_nowhere():
    found = np.array([[1.0, np.nan, 3.0, 1.0], [np.nan] * 4])
    np.testing.assert_allclose(_depth_rows.mean_depth(found), [5 / 3, np.nan])
    np.testing.assert_allclose(_depth_rows.at_first(found), [0.5, 0])
    np.testing.assert_allclose(_depth_rows.invalid(found), [0.25, 1])
    numbers = np.arange(20.0)
    assert _depth_rows.of_class(numbers, 1).tolist() == [1, 11]
    assert len(_depth_rows.of_class(numbers, 1, others=True)) == 18


def test_the_permutation_control_keeps_what_classes_explain():
    """Depths that follow from the class alone correlate as well with other images of the class; others do not."""
    generator = np.random.default_rng(0)
    by_class = np.arange(400) % 10.0
    own = generator.permutation(400) / 100
    for depth, remains in ((by_class, True), (own, False)):
        sample = np.where(generator.random(400) < 0.2, np.nan, depth)[None]
        whole = _depth_rows.correlations(sample, -depth[None])
        control = _depth_rows.correlations(sample, -depth[None], permuted=20)
        assert whole == pytest.approx(-1)
        assert control == pytest.approx(-1 if remains else 0, abs=0.05)
    assert np.isnan(_depth_rows.correlations(np.full((1, 400), np.nan), by_class[None]))


def made_up(config, *, expected):
    """Rows of two data sets, in which everything is as published, or everything the other way round."""
    means = {"clean": 3.0, "patch": 3.0, "patches": 1.5, "random patch": 3.0, "shuffled": 3.0}
    early_share, late_share, shuffled_share = (0.5, 0.1, 0.5) if expected else (0.1, 0.5, 0.1)
    rows, n = [], 100
    for network, name, variant in _depth_rows.planned(config):
        for seed in range(config.seeds):
            place = [config.data.index(name), list(means).index(variant), seed]
            generator = np.random.default_rng(place)  # so that depths are the same in the cells of both kinds
            mean = means[variant] + (name == "fashion_mnist")
            early, late = (1.0 + generator.binomial(4, (mean + more - 1) / 4, size=n) for more in (0.8, 0.0))
            if variant == "patch":
                late[1::10] = 1.0
            bits = generator.normal(0, 0.3, size=n) - late
            if not expected:
                early, late, bits = 6 - early, 6 - late, -6 - bits
                bits = 6 + 2 * late + bits
            early[generator.random(n) < early_share] = np.nan
            late[generator.random(n) < (shuffled_share if variant == "shuffled" else late_share)] = np.nan
            key = {"network": network, "data": name, "variant": variant, "seed": seed}
            votes = [[0.5, 0.6, 0.7], [0.5, 0.6, 0.9]]
            row = {**key, "finite": True, "depth": [early.tolist(), late.tolist()], "bits": bits.tolist()}
            rows.append({**row, "votes": votes})
    return rows


@pytest.mark.parametrize("expected", [True, False])
def test_signatures_hold_or_fail_together(expected):
    config = dataclasses.replace(prediction_depth.Config(), data=("mnist", "fashion_mnist"), epochs=(1, 10))
    rows = made_up(config, expected=expected)
    judged = _rows.judged(_depth_signatures.judge(Found(rows, config)))
    assert len(judged) == 17
    assert [entry["name"] for entry in judged if entry["holds"] != expected] == []
    reasons = "\n".join(entry["why"] for entry in judged)
    assert ("right for 60% and 70% early, and for 60% and 90% at the end" in reasons) != expected
    assert ("votes of the raw input are right for 50% and 50%" in reasons) != expected


def test_a_network_without_valid_examples_fails_its_signatures():
    config = dataclasses.replace(prediction_depth.Config(), data=("mnist", "fashion_mnist"), epochs=(1, 10))
    rows = made_up(config, expected=True)
    lost = next(row for row in rows if row["network"] == "resnet" and row["variant"] == "clean")
    lost["depth"] = [[np.nan] * 100] * 2
    judged = _rows.judged(_depth_signatures.judge(Found(rows, config)))
    failed = [entry for entry in judged if not entry["holds"]]
    assert {entry["name"].partition(":")[0] for entry in failed} == {"ResNet"}
    assert all("no valid example" in entry["why"] for entry in failed)
    assert len(failed) == 3


def test_published_means_are_beside_the_measured_ones_with_what_differs():
    config = dataclasses.replace(prediction_depth.Config(), data=("mnist", "kmnist"), networks=("vgg",), other_k=(5,))
    numbers = {"train": 0.9, "test": 0.9, "votes": [[0.5] * 7] * 3, "linear votes": [0.5] * 7, "linear converged": True}
    rows = []
    for network, name, variant in _depth_rows.planned(config):
        depth = [1.0, 2.0, 3.0, 4.0] * 5
        one = {"network": network, "data": name, "variant": variant, "finite": True, "bits": [0.5] * 20}
        one |= {**numbers, "test": [0.9] * 3, "depth": [depth] * 3, "other": [depth], "linear": depth}
        rows += [{**one, "seed": seed} for seed in range(config.seeds)]
    summary = _depth_rows.summarise(Found(rows, config))
    found = {row["name"]: row["published"] for row in summary if row["published"]}
    assert found == {
        "VGG, MNIST: mean depth": 2.3,
        "VGG, KMNIST: mean depth": 5.3,
        "VGG, KMNIST, patch per class: mean depth": 1.1,
    }
    for row in summary:
        assert (row["published"] is None) == (row["differs"] is None)
        assert row["differs"] is None or "1,300 colour images of 16 x 16, 10 epochs; published: 13" in row["differs"]


@pytest.mark.parametrize(
    ("name", "layers", "count"),
    [("vgg", 13, 14_728_266 - 4_224), ("resnet", 1 + 8, 11_173_962)],  # usual counts; the VGG's without biases
)
def test_the_networks_of_the_preset_paper_are_vgg_16_and_resnet_18(name, layers, count):
    net = _depth_networks.built(name, prediction_depth.PRESETS["paper"])
    assert net.positions[0] == "input"
    assert len(net.positions) == 1 + layers
    shapes = jax.eval_shape(net.network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_missing_files_are_one_line(tmp_path, nowhere, monkeypatch, one_line):
    monkeypatch.setenv("GSJAX_OFFLINE", "1")
    _depth_tasks.read.cache_clear()
    command = ["prediction_depth", "--preset", "smoke", "--out", str(tmp_path / "out"), "--data", "digits", "kmnist"]
    assert main(command) == 2
    assert "KMNIST" in one_line()


def test_more_images_than_there_are(tmp_path, one_line):
    command = [*SMOKE, "--out", str(tmp_path / "out"), "--n", "1490"]
    assert main(command) == 2
    assert "n: expected at most 1350, with equally many of each class, got 1490" in one_line()


def test_all_classes_are_in_the_bank_of_every_seed():
    for key in keys(3, range(4)):
        task = _depth_tasks.drawn("digits", "clean", key, CONFIG)
        assert len(np.unique(task.y[: CONFIG.bank])) == 10
    first, second = (_depth_tasks.drawn("digits", "clean", key, CONFIG) for key in keys(4, range(2)))
    assert not np.array_equal(first.x, second.x)
