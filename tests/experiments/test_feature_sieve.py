"""The feature sieve: its images, setups and measures, what is concluded, and the run from the command line."""

# pyright: reportArgumentType=false, reportOptionalOperand=false
# Groups are optional in batches, and numbers stand for arrays.

from __future__ import annotations

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from experiments import _photographs, _rows, _sieve_measures, _sieve_photographs, _sieve_report, _sieve_tasks
from experiments import feature_sieve as experiment
from experiments.__main__ import main
from experiments._photographs import Outputs
from experiments._sieve_measures import COLUMNS, Probed
from experiments._sieve_setups import Recipe, Setup, build, chosen, searched
from experiments._study import fits, keys
from gsjax import methods, networks
from gsjax.networks.stages import Stage

SMOKE = experiment.PRESETS["smoke"]


@pytest.fixture(scope="module")
def coloured():
    return _sieve_tasks.colours(keys(3, range(2)), "digits", correlation=0.9, n=400, test=300, stride=1)


def shapes(batch):
    """The images of the first network without their colours, one row per image."""
    return np.asarray(batch.x[0]).sum(axis=-1).reshape(len(batch.y[0]), -1)


def agreement(batch):
    """The share of images whose colour agrees with the label, by the channel that has light."""
    lit = np.asarray(batch.x).sum(axis=(2, 3)).argmax(axis=-1)
    return float((lit == (np.asarray(batch.y) > 0)).mean())


def test_colours_agree_with_the_label_as_often_as_they_should(coloured):
    variants = coloured.test
    assert set(variants) == set(_sieve_tasks.VARIANTS)
    expected = {"test": 0.9, "random": 0.5, "reversed": 0.0, "core random": 0.9, "spurious only": 0.9}
    for name, share in expected.items():
        assert agreement(variants[name]) == pytest.approx(share, abs=0.06), name
    assert agreement(coloured.train) == pytest.approx(0.9, abs=0.06)
    for name in ("random", "reversed", "core only"):
        np.testing.assert_allclose(shapes(variants[name]), shapes(variants["test"]), atol=1e-6)
        np.testing.assert_array_equal(variants[name].y, variants["test"].y)
    gray = np.asarray(variants["core only"].x)
    np.testing.assert_array_equal(gray[..., 0], gray[..., 1])
    assert np.ptp(shapes(variants["spurious only"])) == pytest.approx(0, abs=1e-6)
    mixed = np.mean(np.asarray(variants["core random"].y) == np.asarray(variants["test"].y))
    assert mixed == pytest.approx(0.5, abs=0.1)


def test_groups_and_features_are_those_of_the_images(coloured):
    for batch in (coloured.train, *coloured.test.values()):
        found = _sieve_tasks.features(batch.group)
        np.testing.assert_array_equal(found["complex"] == 1, np.asarray(batch.y) > 0)
    lit = np.asarray(coloured.train.x).sum(axis=(2, 3)).argmax(axis=-1)
    np.testing.assert_array_equal(_sieve_tasks.features(coloured.train.group)["simple"], lit)


def test_no_held_out_digit_is_used_in_training(coloured):
    trained, validated, tested = (
        {image.tobytes() for image in shapes(batch)}
        for batch in (coloured.train, coloured.validation["test"], coloured.test["test"])
    )
    assert not trained & validated
    assert not trained & tested
    assert not validated & tested
    assert not np.array_equal(coloured.train.x[0], coloured.train.x[1])


def test_too_many_digits():
    with pytest.raises(ValueError, match="n: expected at most 900 images of digits, got 901"):
        _sieve_tasks.colours(keys(0, [0]), "digits", correlation=0.9, n=901, test=80, stride=1)
    with pytest.raises(ValueError, match="test: expected at most 447 images of digits, got 449"):
        _sieve_tasks.colours(keys(0, [0]), "digits", correlation=0.9, n=80, test=449, stride=1)


def test_the_core_of_dominoes_is_the_half_that_is_the_same_in_all_variants():
    task = _sieve_tasks.dominoes(keys(0, [0]), "digits", "digits", correlation=0.9, n=40, test=40, stride=1)
    same, random = (np.asarray(task.test[name].x[0]) for name in ("test", "random"))
    np.testing.assert_array_equal(same[:, task.core], random[:, task.core])
    assert not np.array_equal(same[:, ~task.core], random[:, ~task.core])


def test_the_search_changes_one_thing_at_a_time_or_has_all_combinations():
    options = ("a", "b", "c"), (0.1, 1.0, 3.0), (5, 15), (0.01,)
    found = searched(*options, grid=False)
    centre, ends = ("a", 1.0, 5), {("c", 3.0, 5)}
    forgetting = {each[1:] for each in found if each.method == "sieve"}
    grid = searched(*options, grid=True)
    every = {each[1:] for each in grid if each.method == "sieve"}
    assert len(grid) == len(set(grid)) == 1 + 3 * 3 * 2 + 1
    assert len(every) == 3 * 3 * 2
    changes = {each: sum(ours != theirs for ours, theirs in zip(each, centre, strict=True)) for each in every}
    assert forgetting - ends == {each for each, count in changes.items() if count <= 1}
    assert ends < forgetting
    assert set(found) < set(grid)
    assert found[0] == grid[0] == Setup()


def test_the_best_mean_score_is_chosen():
    setups = [Setup(), Setup("sieve", "a", 0.1, 5), Setup("sieve", "b", 0.1, 5)]
    scores = {setups[0]: [(0.2, 0.9), (0.2, 0.9)], setups[1]: [(0.9, 0.7), (0.0, 0.9)], setups[2]: [(0.4, 0.5)] * 2}
    rows = [
        {"setup": str(setup), "scores": {"worst": worst, "average": average}}
        for setup, each in scores.items()
        for worst, average in each
    ]
    assert chosen(rows, setups, "worst") == setups[1]
    assert chosen(rows, setups, "average") == setups[0]
    assert chosen(rows, setups[::2], "worst") == setups[2]


RECIPE = Recipe(
    networks.VGG(((4,), (4,)), 1),
    (8, 8, 1),
    optax.sgd(0.1, momentum=0.9),
    0.0,
    networks.Readout(1, depth=1, width=3),
    optax.sgd(0.1),
)


@pytest.fixture(scope="module")
def batch():
    x_key, y_key = jax.random.split(jax.random.key(0))
    return methods.Batch(jax.random.normal(x_key, (12, 8, 8, 1)), jax.random.rademacher(y_key, (12,)).astype(float))


def after(setup, batch):
    method = build(setup, RECIPE)
    first = method.init(jax.random.key(1), batch)
    return first, jax.jit(method.update)(first, batch)[0]


def test_weight_decay_of_lower_layers_adds_the_parameters_times_its_strength(batch):
    first, plain = after(Setup(), batch)
    _, decayed = after(Setup("decay", "pool1", 0.5), batch)
    for name, layer in plain.params.items():
        for leaf, value in layer.items():
            # The first step of SGD with the rate 0.1 subtracts 0.1 times the decay.
            lower = name.endswith("_0") and not name.startswith("Dense")
            expected = value - 0.1 * 0.5 * first.params[name][leaf] if lower else value
            np.testing.assert_allclose(decayed.params[name][leaf], expected, atol=1e-6, err_msg=f"{name}/{leaf}")


def test_a_random_readout_stays_as_it_is_and_is_forgotten(batch):
    first, once = after(Setup("random", "pool1", 0.5, 1), batch)
    jax.tree.map(np.testing.assert_array_equal, once.others["readout"].params, first.others["readout"].params)
    _, plain = after(Setup(), batch)
    assert not np.allclose(once.params["Conv_0"]["kernel"], plain.params["Conv_0"]["kernel"], atol=1e-6)
    first, once = after(Setup("sieve", "pool1", 0.5, 1), batch)
    pairs = zip(*(jax.tree.leaves(each.others["readout"].params) for each in (first, once)), strict=True)
    assert any(not np.array_equal(left, right) for left, right in pairs)


def test_initial_networks_are_those_before_the_first_step():
    numbers = range(2)
    found = experiment.trained("colours", Setup(), SMOKE, 5, numbers, initial=True)
    images = experiment.task("colours", SMOKE, 5, numbers, False)
    run = methods.train(
        build(Setup(), experiment.recipe(SMOKE, images.train.x.shape[2:], experiment.total(SMOKE))),
        keys(5, numbers),
        images.train,
        steps=1,
        batch_size=SMOKE.batch_size,
        record=[0],
        evaluate=lambda state, _: state.params,
        per_seed=True,
    )
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_array_equal(ours, theirs[:, 0]), found.state.params, run.records
    )
    assert found.records["iid"].shape == (2, 1)


def test_the_course_of_a_state():
    logits = np.array([-2.0, 0.5, 1.0, -1.0, -0.2, 2.0, 3.0, 1.0])
    y = np.array([-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0])
    part = Outputs(jnp.asarray(logits), jnp.asarray(y), jnp.array([0, 0, 1, 1, 2, 2, 3, 3]))
    found = {name: np.asarray(each) for name, each in _sieve_measures.course(part, part, 0.25, 0.75).items()}
    assert found["test"].tolist() == found["validation"].tolist() == [0.5, 0.5, 0.5, 1.0]
    assert (found["average"], found["iid"]) == (0.25, 0.75)
    moved = (logits + found["offset"]) * y > 0
    assert found["moved"].tolist() == [moved[i : i + 2].mean() for i in (0, 2, 4, 6)]
    assert found["moved"].min() >= found["test"].min()


class Pixels(nn.Module):
    """A linear classifier whose only stage is the image."""

    @nn.compact
    def __call__(self, x):
        h = Stage(name="pixels")(x)
        return nn.Dense(1)(h.reshape(len(h), -1))[:, 0]


def striped(key, n):
    """Images whose simple feature is their brightness, and whose complex one is the half that is brighter."""
    keys_ = jax.random.split(key, 3)
    simple, complex_ = (jax.random.bernoulli(each, shape=(n,)).astype(int) for each in keys_[:2])
    x = 0.3 * jax.random.normal(keys_[2], (n, 4, 4, 1)) + 2.0 * simple[:, None, None, None]
    sign = (2.0 * complex_ - 1)[:, None, None, None]
    x = x + sign * jnp.array([1.0, 1.0, -1.0, -1.0])[:, None, None]
    return methods.Batch(x, 2.0 * complex_ - 1, 2 * complex_ + simple)


def test_a_pooled_probe_sees_the_brightness_and_a_linear_one_the_position_too():
    images = Probed(striped(jax.random.key(0), 200), striped(jax.random.key(1), 100))
    network = Pixels()
    learner = methods.Learner(network.init(jax.random.key(2), images.bank.x)["params"])
    found = _sieve_measures.probed(network, learner, images, ("pixels",))
    assert found["stages"] == ["pixels"]
    assert found["pooled"]["simple"][0] > 0.97
    assert found["pooled"]["complex"][0] < 0.7
    assert min(found["linear"]["simple"][0], found["linear"]["complex"][0]) > 0.97
    assert found["readout"] == {"simple": [], "complex": []}
    readout = networks.Readout(1, pooled=False)
    found = _sieve_measures.probed(network, learner, images, ("pixels",), readout, steps=200)
    assert min(found["readout"]["simple"][0], found["readout"]["complex"][0]) > 0.9
    broken = images._replace(bank=images.bank._replace(x=images.bank.x.at[0].set(jnp.nan)))
    found = _sieve_measures.probed(network, learner, broken, ("pixels",))
    assert found["linear"] == {"simple": [None], "complex": [None]}


def test_where_a_network_looks():
    """Grad-CAM of a linear network is the positive part of its weights times the image, up to a factor."""
    network, core = networks.CNN((3,), 1), np.repeat([False, True], [3, 3])[:, None] & np.ones((6, 4), bool)
    x = jax.random.normal(jax.random.key(0), (5, 6, 4, 1))
    learner = methods.Learner(network.init(jax.random.key(1), x)["params"])
    found = _sieve_measures.looks(network, learner, x, core, "h1", 2)
    assert np.shape(found["pictures"]["input"]) == (2, 6, 4, 3)
    assert np.shape(found["pictures"]["cam"]) == (2, 6, 4)
    gradient = np.abs(jax.vmap(jax.grad(lambda one: methods.predict(network, learner, one[None])[0]))(x))[..., 0]
    share = gradient[:, core].sum(axis=1) / gradient.sum(axis=(1, 2))
    assert found["looks"]["saliency"] == pytest.approx(share.mean(), rel=1e-5)
    assert found["looks"]["area"] == 0.5
    assert 0 <= found["looks"]["cam"] <= 1
    assert _sieve_measures.looks(network, learner, x, None, "h1", 0)["looks"] == dict.fromkeys(
        ("cam", "saliency", "area")
    )


STAGES = ["pool1", "pool3"]
STORY = {  # iid, randomised, reversed, worst group, simple and complex feature at the first stage, Grad-CAM
    "initial": (0.5, 0.5, 0.5, 0.4, 0.99, 0.75, None),
    "erm": (0.97, 0.7, 0.4, 0.35, 0.98, 0.8, 0.4),
    "sieve": (0.92, 0.8, 0.7, 0.65, 0.9, 0.8, 0.6),
    "sieve average": (0.97, 0.7, 0.4, 0.35, 0.98, 0.8, 0.4),
    "random readout": (0.95, 0.7, 0.45, 0.36, 0.97, 0.79, 0.42),
    "decay": (0.96, 0.7, 0.4, 0.37, 0.97, 0.79, 0.42),
    "erm clean": (0.85, 0.85, 0.85, 0.8, 0.9, 0.82, 0.7),
    "sieve clean": (0.84, 0.84, 0.84, 0.8, 0.9, 0.82, 0.7),
}
SEARCH = {  # worst group and average on validation images, complex feature at the last stage
    ("", 0.0): (0.3, 0.97, 0.85),
    ("pool1", 0.1): (0.6, 0.92, 0.84),
    ("pool1", 1.0): (0.2, 0.6, 0.6),
    ("pool3", 0.1): (0.3, 0.7, 0.7),
    ("pool3", 1.0): (0.1, 0.5, 0.55),
}
SETUPS = [str(Setup("sieve", *key, 5) if key[0] else Setup()) for key in SEARCH]


def row(part, setup, seed, numbers, *, stage="", rate=0.0, scores=(0.3, 0.9), last=0.85):
    iid, random, reversed_, worst, simple, complex_, cam = numbers
    noise = 0.004 * np.sin(7.0 * seed + len(setup))
    probes = {"simple": [simple + noise, simple], "complex": [complex_ + noise, last + noise]}
    area = None if cam is None else 0.5
    return {
        "setting": "dominoes",
        "part": part,
        "setup": setup,
        "seed": seed,
        "finite": True,
        "stage": stage,
        "rate": rate,
        "every": 5,
        "scores": {"worst": scores[0], "average": scores[1]},
        "course": {
            "steps": [10, 20],
            "validation": [[0.9, 0.2, 0.9, 0.9], [0.9, worst, 0.9, 0.9]],
            "average": [0.8, iid],
            "test": [[0.9, 0.1, 0.9, 0.9], [0.9, worst + noise, 0.9, 0.9]],
            "iid": [0.8, iid + noise],
            "offset": [0.0, 0.1],
            "moved": [[0.9, 0.1, 0.9, 0.9], [0.9, worst + 0.05, 0.9, 0.9]],
        },
        "accuracy": dict.fromkeys(_sieve_tasks.VARIANTS, 0.6)
        | {"test": iid + noise, "random": random + noise, "reversed": reversed_ + noise},
        "own": None,
        "probes": {"stages": STAGES, "pooled": probes, "linear": probes, "readout": probes},
        "looks": {"cam": None if cam is None else cam + noise, "saliency": None if cam is None else 0.5, "area": area},
        "pictures": {"input": np.full((2, 6, 3, 3), 0.5).tolist(), "cam": np.full((2, 6, 3), 0.5).tolist()},
    }


def rows(story=STORY, search=SEARCH, touched=(1.0, 0.0), identical=True):
    made = []
    for seed in range(5, 10):
        for setup, ((stage, rate), (worst, average, last)) in zip(SETUPS, search.items(), strict=True):
            numbers = (average, 0.6, 0.5, worst, 0.9, 0.8, 0.5)
            options = {"stage": stage, "rate": rate, "scores": (worst, average), "last": last}
            made.append(row("search", setup, seed, numbers, **options))
    for arm, numbers in story.items():
        own = {"stage": "pool1", "rate": 0.1} if "sieve" in arm or arm == "random readout" else {}
        made += [row("judged", arm, seed, numbers, **own) for seed in range(5)]
    checks = {"identical": identical, "upto": touched[0], "after": touched[1]}
    for seed in range(5):
        made.append({"setting": "dominoes", "part": "checks", "setup": "sieve", "seed": seed, **checks})
    return made


def verdicts(made):
    found = _rows.judged(_sieve_report.report(made, SETUPS).signatures)
    return {entry["name"].removeprefix("dominoes: "): entry for entry in found}


def test_all_signatures_hold_for_a_faithful_story():
    found = verdicts(rows())
    assert len(found) == 18
    assert [name for name, entry in found.items() if not entry["holds"]] == []


LAST = "complex feature at the last stage"
BIT, TOUCHED = "share of networks whose updates a forgetting rate of 0", "share of networks in which forgetting"


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({"story": {"sieve": (0.92, 0.8, 0.7, 0.65, 0.98, 0.8, 0.6)}}, "simple feature, fresh linear probe"),
        ({"story": {"sieve": (0.92, 0.8, 0.7, 0.65, 0.98, 0.8, 0.6)}}, "simple feature, fresh early readout"),
        ({"story": {"sieve": (0.92, 0.8, 0.7, 0.65, 0.9, 0.7, 0.6)}}, "complex feature, fresh linear probe"),
        ({"story": {"sieve": (0.92, 0.7, 0.7, 0.65, 0.9, 0.8, 0.6)}}, "simple feature randomised, sieve minus ERM"),
        ({"story": {"sieve": (0.92, 0.8, 0.4, 0.65, 0.9, 0.8, 0.6)}}, "simple feature reversed, sieve minus ERM"),
        ({"story": {"sieve": (0.97, 0.8, 0.7, 0.65, 0.9, 0.8, 0.6)}}, "iid, sieve minus ERM"),
        ({"story": {"sieve": (0.92, 0.8, 0.7, 0.4, 0.9, 0.8, 0.6)}}, "worst group, sieve minus (ERM + offset)"),
        ({"story": {"sieve": (0.92, 0.8, 0.7, 0.35, 0.9, 0.8, 0.6)}}, "worst group, sieve minus (ERM + early"),
        ({"story": {"sieve": (0.92, 0.8, 0.7, 0.65, 0.9, 0.8, 0.4)}}, "Grad-CAM on the core half"),
        ({"story": {"decay": (0.92, 0.8, 0.7, 0.65, 0.9, 0.8, 0.4)}}, "worst group, sieve minus weight decay"),
        ({"story": {"random readout": STORY["sieve"]}}, "simple feature reversed, sieve minus random readout"),
        ({"story": {"sieve clean": (0.95,) * 4 + (0.9, 0.8, 0.6)}}, "simple feature randomised, gain of the sieve"),
        ({"search": {("pool1", 1.0): (0.2, 0.6, 0.85)}}, f"{LAST}, the strongest at the first"),
        ({"search": {("pool3", 1.0): (0.2, 0.6, 0.85)}}, f"{LAST}, the strongest at the last"),
        ({"search": {("pool3", 0.1): (0.2, 0.6, 0.85)}}, f"{LAST}, the selected rate"),
        ({"touched": (1.0, 0.1)}, TOUCHED),
        ({"touched": (0.9, 0.0)}, TOUCHED),
        ({"identical": False}, BIT),
    ],
)  # fmt: skip
def test_a_signature_fails_with_its_evidence(changed, failing):
    options = {"story": STORY | changed.get("story", {}), "search": SEARCH | changed.get("search", {})}
    found = verdicts(rows(**(changed | options)))
    [entry] = [each for name, each in found.items() if name.startswith(failing)]
    assert not entry["holds"]
    assert ("ERM" in entry["why"]) or ("forgetting" in entry["why"]) or ("change" in entry["why"]) or failing == BIT


def test_exact_signatures_hold_for_every_network():
    made = rows()
    next(one for one in made if one["part"] == "checks")["identical"] = False
    [entry] = [each for name, each in verdicts(made).items() if name.startswith(BIT)]
    assert (entry["value"], entry["holds"]) == (0.8, False)


def test_rows_of_the_summary():
    lines = {line["name"]: line for line in _sieve_report.report(rows(), SETUPS).rows}
    gain = lines["dominoes: sieve minus ERM: accuracy, simple feature reversed"]
    assert gain["measured"] == pytest.approx(0.3, abs=0.01)
    assert lines["dominoes: sieve: iid accuracy"]["differs"] == "pool1, rate 0.1, every 5"
    assert "dominoes: initialisation: iid accuracy" not in lines
    assert lines["dominoes: initialisation: simple feature, early readout, pool1"]["measured"] == pytest.approx(
        0.99, abs=0.01
    )
    assert lines["dominoes: ERM: Grad-CAM on the core half"]["differs"] == "its share of the area is 0.5"
    none = lines["dominoes, no forgetting: average, validation"]
    assert (none["differs"], none["seeds"]) == ("selected without group labels", 5)
    best = lines["dominoes, pool1, rate 0.1, every 5: worst group, validation"]
    assert best["differs"] == "selected with group labels; the best that forgets, with group labels"
    assert lines["dominoes: ERM: worst-group accuracy with early stopping"]["measured"] == pytest.approx(0.35, abs=0.01)


def test_a_network_that_diverged_is_noted_and_left_out():
    made = rows()
    for one in made:
        if one["setup"] == "sieve" and one["part"] == "judged":
            one["finite"], one["looks"] = False, dict.fromkeys(("cam", "saliency", "area"))
            one["probes"] = one["probes"] | {"linear": {"simple": [None, None], "complex": [None, None]}}
    report = _sieve_report.report(made, SETUPS)
    lines = {line["name"]: line for line in report.rows}
    assert lines["dominoes: sieve: iid accuracy"]["differs"].endswith("the objective was not always finite")
    assert "dominoes: sieve: simple feature, linear probe, pool1" not in lines
    assert not any("linear probe at the stage" in entry["name"] for entry in report.signatures)


def test_figures_show_the_rows(figures, tmp_path):
    report = _sieve_report.report(rows(), SETUPS)
    for name, draw in report.figures.items():
        draw(tmp_path / name)
    assert set(figures) == {"accuracy.png", "probes.png", "sweep.png", "gradcam.png"}
    assert [len(figures[name].axes) for name in ("accuracy.png", "probes.png", "sweep.png")] == [1, 6, 1]
    [ax] = figures["sweep.png"].axes
    assert [text.get_text() for text in ax.get_xticklabels()][:2] == ["none", "pool1\nrate 0.1\nevery 5"]
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(
        lines["complex feature, last stage"].get_ydata(), [0.85, 0.84, 0.6, 0.7, 0.55], atol=0.01
    )
    pictures = figures["gradcam.png"].axes[0]
    assert [text.get_text() for text in pictures.get_yticklabels()] == ["input", "ERM", "sieve"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"settings": ("dominoes", "celeba")}, "settings: expected either folders of photographs or images"),
        ({"settings": ("celeba",)}, "network: expected resnet18, for photographs, got vgg"),
        ({"batch_size": 201}, "batch_size: expected at most n = 200, got 201"),
        ({"queries": 81}, "queries: expected at most test = 80, got 81"),
        ({"stages": ("pool1", "layer1_0")}, "stages: expected some of conv1_1, pool1, .*, got layer1_0"),
        ({"look": "pool9"}, "look: expected a stage of images of the network, got pool9"),
        (
            {"settings": ("celeba",), "network": "resnet18", "arms": ("erm", "erm clean")},
            "arms: expected none that need images to be drawn, got erm clean",
        ),
    ],
)
def test_numbers_that_do_not_fit_together(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        experiment.check(dataclasses.replace(SMOKE, **change))


@pytest.mark.slow
def test_smoke_run_interrupted_and_finished(tmp_path, interrupt_after, figures):
    """The run is stopped after the search; the arms that depend on it read its rows from the file."""
    cells = interrupt_after(2)
    command = ["feature_sieve", "--preset", "smoke", "--out", str(tmp_path), "--settings", "colours"]
    command += ["--arms", "erm", "sieve", "--stages", "pool1", "--epochs", "2", "--decays", "0.1"]
    assert main(command) == 130
    experiment.trained.cache_clear()
    assert main(command) == 0
    kinds = [(cell["part"], cell["setup"]) for cell in cells]
    assert kinds == [
        ("search", "no forgetting"),
        ("search", "pool1, rate 0.1, every 2"),
        ("search", "decay 0.1 up to pool1"),
        ("judged", "erm"),
        ("judged", "sieve"),
        ("checks", "sieve"),
    ]
    made = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for one in made:
        columns = experiment.CHECKS if one["part"] == "checks" else COLUMNS
        assert all(fits(one[name], kind) for name, kind in columns.items())
        assert one["part"] == "checks" or (one["own"] is None) == (one["stage"] == "" or "decay" in one["setup"])
    checks = [one for one in made if one["part"] == "checks"]
    assert [(one["identical"], one["upto"], one["after"]) for one in checks] == [(True, 1.0, 0.0)] * 2
    assert {one["seed"] for one in made if one["part"] == "search"} == {2, 3}
    assert {one["seed"] for one in made if one["part"] == "judged"} == {0, 1}
    assert set(figures) == {"accuracy.png", "probes.png", "sweep.png", "gradcam.png"}


@pytest.fixture
def portraits(nowhere):
    """CelebA in miniature: 10 portraits per group and split, whose red shows the hair and whose blue the sex."""
    folder = nowhere / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    generator, lines, parts = np.random.default_rng(0), [], []
    for number in range(120):
        blond, male, split = number % 2, number // 2 % 2, number // 4 % 3
        shade = np.array([60 + 120 * blond, 90, 60 + 120 * male]) + generator.integers(-20, 21, 3)
        name = f"{number:06d}.jpg"
        Image.new("RGB", (20, 20), tuple(shade.tolist())).save(folder / name)
        lines.append(f"{name} {2 * blond - 1:2d} {2 * male - 1:2d}\n")
        parts.append(f"{name} {split}\n")
    (nowhere / "celeba" / "list_attr_celeba.txt").write_text(f"120\nBlond_Hair Male\n{''.join(lines)}")
    (nowhere / "celeba" / "list_eval_partition.txt").write_text("".join(parts))
    return _photographs.folder("celeba")


def test_photographs_of_all_groups_are_probed(portraits):
    found = _sieve_photographs.balanced(portraits, "test", 22, 8)
    assert np.bincount(found.group).tolist() == [5] * 4
    np.testing.assert_array_equal(np.asarray(found.group) >= 2, np.asarray(found.y) > 0)
    red, blue = (np.asarray(found.x)[..., channel].mean(axis=(1, 2)) for channel in (0, 2))
    features = _sieve_tasks.features(found.group)
    assert red[features["complex"] == 1].min() > red[features["complex"] == 0].max()
    assert blue[features["simple"] == 1].min() > blue[features["simple"] == 0].max()


def test_images_as_in_training_weight_the_groups_of_photographs():
    part = Outputs(jnp.array([-1.0, 1.0, 1.0, -1.0]), jnp.array([-1.0, -1.0, 1.0, 1.0]), jnp.arange(4))
    found = _sieve_photographs.measure(part, part, np.array([0.5, 0.3, 0.15, 0.05]))
    assert float(found["average"]) == float(found["iid"]) == pytest.approx(0.65)


@pytest.mark.slow
def test_photographs_are_searched_judged_and_probed(portraits, tmp_path, figures):
    command = "feature_sieve --preset celeba --arms erm sieve --seeds 2 --search 2 --epochs 2 --batch-size 20 --width 4"
    command += " --size 32 --stages layer1_1 layer4_1 --rates 0.01 --every 5 --decays 0.01 --depth 0 --queries 40"
    assert main([*command.split(), "--probe-steps", "20", "--out", str(tmp_path / "out")]) == 0
    made = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [one["part"] for one in made] == ["search"] * 8 + ["judged"] * 4
    for one in made:
        assert all(fits(one[name], kind) for name, kind in COLUMNS.items())
        assert one["course"]["steps"] == [2, 4]
        assert one["course"]["iid"][-1] == pytest.approx(np.mean(one["course"]["test"][-1]))  # groups of equal size
    assert np.shape(made[8]["pictures"]["cam"]) == (6, 8, 8)
    assert made[9]["pictures"]["cam"] == []
    assert set(figures) == {"accuracy.png", "probes.png", "sweep.png", "gradcam.png"}
