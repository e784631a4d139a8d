"""Remedies: the tasks, the configurations, selection, what is measured and concluded, and the run."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from experiments import _remedies_measures, _remedies_methods, _remedies_report, _remedies_tasks, _rows, remedies
from experiments.__main__ import main
from experiments._photographs import Outputs
from experiments._remedies_methods import ARMS, COMMON, LABELS, Setting
from experiments._remedies_tasks import Sizes
from experiments._study import fits, keys
from gsjax import methods, networks

SMOKE = remedies.PRESETS["smoke"]
TASKS = SMOKE.tasks
NETWORK = networks.FullyConnected((4, 4), initialization="xavier")
SETTING = Setting(NETWORK, 8, 24, ("h1", "h2"))


@pytest.fixture(scope="module", params=TASKS)
def drawn(request):
    return request.param, *_remedies_tasks.draw(request.param, keys(3, range(2)), Sizes(160, 80, 1, 8), "digits")


def test_groups_environments_and_shares(drawn):
    name, task, _ = drawn
    for batch in task[:-1]:
        np.testing.assert_array_equal(np.asarray(batch.group) >= 2, np.asarray(batch.y) > 0)
    agrees = np.isin(task.train.group, (0, 3))
    first, second = ((np.asarray(task.train.environment) == number) for number in (0, 1))
    assert (first.sum(axis=1) == 80).all()
    if name == "coloured groups":
        assert (np.bincount(np.asarray(task.train.group[0])) == [70, 66, 22, 2]).all()
        assert (np.bincount(np.asarray(task.test.group[0])) == 20).all()
    else:
        low, high = _remedies_tasks.CORRELATIONS[name]
        assert abs(agrees[first].mean() - low) < 0.1
        assert abs(agrees[second].mean() - high) < 0.1
        for balanced in (task.balanced, task.validation, task.test):
            assert 0.3 < np.isin(balanced.group, (0, 3)).mean() < 0.7
    np.testing.assert_allclose(_remedies_tasks.shares(task.train).sum(axis=1), 1)
    noisy = np.mean(np.asarray(task.core) != np.asarray(task.test.y))
    assert 0.1 < noisy < 0.4 if name == "coloured digits" else noisy == 0


def test_images_are_disjoint_and_of_one_size(drawn):
    _, task, _ = drawn
    assert task.train.x.shape == (2, 160, 128)
    assert float(jnp.mean(task.train.x**2)) == pytest.approx(1, abs=1e-5)
    parts = [set(map(bytes, np.asarray(batch.x[0]))) for batch in (task.train, task.validation, task.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_the_spurious_feature_is_removed_and_nothing_else(drawn):
    name, task, hide = drawn
    x, hidden = np.asarray(task.test.x[0]), np.asarray(hide(task.test.x[0]))
    if name == "dominoes":
        images, blank = x.reshape(-1, 16, 8), hidden.reshape(-1, 16, 8)
        changed = (np.abs(images - blank) > 1e-5).any(axis=(0, 2))
        assert changed.sum() == 8
        assert np.ptp(blank[:, changed]) == 0
    else:
        pixels = hidden.reshape(-1, 64, 2)
        np.testing.assert_array_equal(pixels[..., 0], pixels[..., 1])
        np.testing.assert_allclose(pixels.sum(axis=2), x.reshape(-1, 64, 2).sum(axis=2), rtol=1e-5)


def test_photographs_are_chosen_by_group(portraits):
    """Ten portraits of each group in each split."""
    task, hide = _remedies_tasks.draw("celeba", keys(0, range(2)), Sizes(30, 36, 1, 6), "real")
    assert hide is None
    assert task.train.x.shape == (2, 30, 6, 6, 3)
    assert not np.array_equal(task.train.x[0], task.train.x[1])
    assert task.train.environment is None
    for batch, count in ((task.balanced, 7), (task.validation, 9), (task.test, 9)):
        assert (np.bincount(np.asarray(batch.group)[0]) == count).all()
    np.testing.assert_array_equal(task.core, task.test.y)
    files = portraits.rows("train")
    known = set(map(bytes, np.asarray(_remedies_tasks._read(portraits, files, 6).x)))
    assert set(map(bytes, np.asarray(task.train.x[0]))) <= known


def test_the_paper_preset_fits_its_network():
    """Photographs have no environments, and their attribute cannot be removed."""
    paper = remedies.PRESETS["paper"]
    assert not {"irm", "vrex", "oracle"} & set(remedies.planned("celeba", paper))
    photograph = jax.ShapeDtypeStruct((1, paper.size, paper.size, 3), jnp.float32)
    assert set(paper.positions) <= set(networks.stages.names(remedies.build(paper), photograph))


@pytest.mark.slow
def test_the_paper_preset_on_a_small_folder(portraits, tmp_path):
    """An MLP in place of ResNet-18, which takes long to compile."""
    out, arms = tmp_path / "out", ["erm", "dedier", "teacher"]
    flags = (
        "--tasks celeba --n 40 --test 40 --size 6 --epochs 2 --batch-size 20 --tuning 1 --seeds 2 --configurations 2"
    )
    flags += " --bank 40 --k 5 --queries 20 --kernel 40 --network mlp --widths 4 4 --positions h1 h2"
    command = ["remedies", "--preset", "paper", "--out", str(out), *flags.split(), "--arms", *arms]
    assert main(command) == 0
    made = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [one["arm"] for one in made] == arms
    assert all(network["core"] is None for one in made for network in one["networks"]["groups"].values())
    assert all(one["finite"] for one in made)


def test_every_method_has_the_same_budget_and_can_do_nothing():
    erm = _remedies_methods.configurations("erm", 6, 0)
    for name, arm in ARMS.items():
        found = _remedies_methods.configurations(name, 6, 0)
        assert len(found) == len(set(map(str, found))) == 6 or name in ("erm", "oracle")
        assert found[0].name == ("oracle" if name == "oracle" else "erm")
        assert found[0].values == _remedies_methods.NEUTRAL
        assert [each.values[:2] for each in found] == [each.values[:2] for each in erm]
        for each in found[1:]:
            assert each.name == name
            assert each.variant in arm.variants
            for value, (kind, given) in zip(each.values, (COMMON | dict(arm.numbers)).values(), strict=True):
                assert value in given if kind == "one of" else given[0] <= value <= given[1]
        assert {each.variant for each in found[1:]} == set(arm.variants)


@pytest.fixture(scope="module")
def toy():
    """Two data sets of 24 examples in four groups, with outputs of a teacher."""
    rng = np.random.default_rng(0)
    y, attribute = (np.where(rng.random((2, 24)) < 0.5, 1.0, -1.0) for _ in range(2))
    x = np.stack([y, attribute], axis=2) + rng.normal(size=(2, 24, 2))
    number = np.broadcast_to(np.arange(24), (2, 24))
    group = 2 * (y > 0) + (attribute > 0)
    fields = {"group": group, "environment": number % 2, "index": number, "teacher_logits": np.float32(3 * y)}
    whole = {name: jnp.asarray(value) for name, value in fields.items()}
    return methods.Batch(jnp.float32(x), jnp.float32(y), **whole)


def trained(name, values, toy, variant=None):
    found = _remedies_methods.train(
        name, variant, np.array([values]), SETTING, keys(0, range(2)), toy, batch_size=12, together=2, clock=lambda: 0.0
    )
    assert found.finite.all()
    return found.learners.params


def same(ours, theirs):
    return all(
        np.allclose(*pair, rtol=1e-4, atol=1e-6)
        for pair in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    )


QUICK = ("sd",)
NOTHING = {
    "sd": (0.0,),
    "distillation": (0.0, 2.0),
    "group_balanced": (0.0,),
    "class_balanced": (0.0,),
    "sieve": (0.0,),
    "oracle": (),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NOTHING]
)
def test_at_its_neutral_value_a_method_is_erm(name, toy):
    erm = trained("erm", (0.05, 1e-3), toy)
    variant = ARMS[name].variants[0]
    assert same(trained(name, (0.05, 1e-3, *NOTHING[name]), toy, variant), erm)
    assert not same(trained("erm", (0.05, 1e-1), toy), erm)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARMS])
def test_traced_numbers_give_the_networks_of_plain_ones(name, toy):
    """The reference is `methods.train` with a method that is built from Python's numbers."""
    configuration = _remedies_methods.configurations(name, 2, 0)[1]
    rate, *values = configuration.values
    options = dict(zip(_remedies_methods.names(name)[1:], values, strict=True))
    optimizer = optax.sgd(optax.cosine_decay_schedule(rate, SETTING.steps), momentum=0.9)
    method = ARMS[name].make(SETTING, optimizer, configuration.variant, **options)
    steps = ARMS[name].updates(SETTING.steps, configuration.variant)
    run = methods.train(method, keys(0, range(2)), toy, steps=steps, batch_size=12, per_seed=True)
    found = trained(name, configuration.values, toy, configuration.variant)
    assert same(found, run.state.params)
    if name not in ("erm", "oracle"):
        assert not same(found, trained("erm", configuration.values[:2], toy))


def test_weights_of_groups(toy):
    data = jax.tree.map(lambda leaf: leaf[0], toy)
    method = _remedies_methods.reweighted(NETWORK, optax.sgd(0.1), groups=True, power=1.0, weight_decay=0.0)
    state = method.init(jax.random.key(0), data)
    weights = np.asarray(state.memory.weights)
    counts = np.bincount(np.asarray(data.group), minlength=4)
    np.testing.assert_allclose(weights, 24 / (4 * counts), rtol=1e-5)
    _, info = method.update(state, data)
    each = np.logaddexp(0, -np.asarray(data.y) * np.asarray(methods.predict(NETWORK, state, data.x)))
    by_group = [each[np.asarray(data.group) == group].mean() for group in range(4)]
    assert float(info.penalty) == pytest.approx(np.mean(by_group), rel=1e-5)
    assert float(info.loss) == pytest.approx(each.mean(), rel=1e-5)


def test_information_is_that_of_images_as_in_training():
    """Images of two groups with different surprisal; the balance of the classes comes from the shares."""
    shares = np.array([0.6, 0.2, 0.1, 0.1])
    group = np.repeat(np.arange(4), [5, 10, 20, 40])
    y = np.where(group >= 2, 1.0, -1.0)
    right = np.log([9.0, 3.0, 1.0, 1 / 3])[group]  # probabilities of the label: 0.9, 0.75, 0.5 and 0.25
    outputs = Outputs(*map(jnp.asarray, (y * right, y, group)))
    found = _remedies_measures.information(outputs, outputs, shares)
    entropy = -(0.8 * np.log2(0.8) + 0.2 * np.log2(0.2))
    surprisal = -shares @ np.log2([0.9, 0.75, 0.5, 0.25])
    assert found["information"] == pytest.approx(entropy - surprisal, abs=1e-5)
    heats = np.exp(np.linspace(-2, 3, 501))
    best = min(shares @ np.log2(1 + np.exp(-np.log([9.0, 3.0, 1.0, 1 / 3]) / heat)) for heat in heats)
    assert found["calibrated"] == pytest.approx(entropy - best, abs=1e-4)
    shifted = _remedies_measures.information(outputs, outputs, shares, offset=1.0)
    assert shifted["information"] != pytest.approx(found["information"], abs=1e-3)


def test_selection():
    groups, shares = np.array([[0.9, 0.1, 0.8, 0.9], [0.7, 0.7, 0.6, 0.7]]), np.array([0.45, 0.05, 0.05, 0.45])
    found = _remedies_measures.scores(groups, shares)
    assert [_remedies_measures.chosen(found[score][:, None]) for score in ("worst", "average")] == [1, 0]
    logits = jnp.array([-1.0, -0.5, -0.2, -2.0, 1.0, 2.0])
    outputs = Outputs(logits, jnp.array([-1.0, -1.0, 1.0, -1.0, 1.0, 1.0]), jnp.array([0, 1, 2, 0, 3, 3]))
    shift = _remedies_measures.best_offset(outputs, "groups", np.full(4, 0.25))
    assert 0.2 < shift < 0.5
    assert _remedies_measures.by_group(outputs, shift).min() == 1
    blind = _remedies_measures.best_offset(outputs, "average", np.array([0.5, 0.0, 0.0, 0.5]))
    assert blind == 0


def test_starvation_of_the_kernel():
    """Spectral decoupling does not starve; equal groups starve less than a spurious feature that is nearly perfect."""
    rng = np.random.default_rng(0)
    y = np.where(np.arange(60) % 2 == 0, 1.0, -1.0)
    spurious = np.where(np.arange(60) < 8, -y, y)
    core, other = (np.where(rng.random(40) < 0.5, 1.0, -1.0) for _ in range(2))

    def images(core, spurious):
        return np.stack([core, 2 * spurious], axis=1) + 0.5 * rng.normal(size=(len(core), 2))

    batch = methods.Batch(jnp.asarray(images(y, spurious)), jnp.asarray(y), jnp.asarray(2 * (y > 0) + (spurious > 0)))
    random = images(core, other)
    held = _remedies_measures._starved_theory.Held(*map(jnp.asarray, (random, random * [1, 0], core, other)))
    sizes = _remedies_measures.Sizes(3, 3, 3, 60)
    variables = NETWORK.init(jax.random.key(0), batch.x[:1])
    found = _remedies_measures.starved(
        NETWORK, variables, batch, held, sizes=sizes, weight_decay=1e-3, strength=0.1, seed=0
    )
    assert set(found) == set(_remedies_measures.KERNELS)
    assert abs(found["sd"]["starvation"]) < 1e-8
    assert found["ridge"]["starvation"] > found["group_balanced"]["starvation"]


SEEDS = 5


def row(task, arm, worst, average):
    """A row whose networks have these worst-group accuracies, selected by groups and by average."""
    results = {}
    for rule, value in zip(("groups", "average"), worst, strict=True):
        results[rule] = {
            str(i): {
                "groups": [0.9, value + 0.002 * np.sin(i + len(arm)), 0.9, 0.95],
                "average": average + 0.001 * i,
                "core": 0.7,
                "depth": 1.5,
                "invalid": 0.1,
                "offset": 0.2,
                "information": 0.2,
                "calibrated": 0.4 + 0.01 * i,
                "temperature": 2.0,
            }
            for i in range(SEEDS)
        }
    validation = {"worst": [[0.1, 0.2], [0.3, 0.4]], "average": [[0.9, 0.8], [0.7, 0.8]]}
    chosen = {"groups": 1, "average": 0}
    options = ["ERM, learning_rate 0.02", "something else"]
    return {
        "task": task,
        "arm": arm,
        "options": options,
        "validation": validation,
        "chosen": chosen,
        "finite": True,
        "networks": results,
    }


STORY = {
    "erm": (0.2, 0.2),
    "sd": (0.3, 0.2),
    "lff": (0.5, 0.21),
    "jtt": (0.5, 0.22),
    "sieve": (0.4, 0.2),
    "distillation": (0.4, 0.3),
    "dedier": (0.5, 0.3),
    "group_dro": (0.7, 0.3),
    "group_balanced": (0.75, 0.3),
    "dfr": (0.7, 0.3),
    "offset": (0.3, 0.2),
}


def rows(**changed):
    made = []
    for task in TASKS:
        made += [row(task, arm, changed.get(arm, worst), 0.8) for arm, worst in STORY.items()]
        kernels = {
            str(i): {
                kernel: {"starvation": value + 0.001 * i * (kernel == "ridge"), "accuracy": 0.6}
                for kernel, value in zip(
                    _remedies_measures.KERNELS, changed.get("kernel", (0.3, 0, 0.3, 0.1)), strict=True
                )
            }
            for i in range(SEEDS)
        }
        made.append({"task": task, "arm": "kernel", "kernels": kernels})
    return made


def reported(made):
    return _remedies_report.report(made, seconds=lambda: {(task, arm): 0.5 for task in TASKS for arm in STORY})


def holding(made):
    return {entry["name"]: entry["holds"] for entry in _rows.judged(reported(made).signatures)}


def test_all_signatures_hold_for_a_faithful_story():
    found = holding(rows())
    assert len(found) == 4 * len(TASKS) + 4
    assert all(found.values())


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        (
            {"group_dro": (0.1, 0.1), "group_balanced": (0.1, 0.1), "dfr": (0.1, 0.1)},
            "methods that know the groups minus ERM",
        ),
        ({"group_balanced": (0.5, 0.3)}, "group-balanced ERM minus Group DRO"),
        (dict.fromkeys(("sd", "lff", "jtt", "sieve"), (0.3, 0.4)), "selected by average minus by groups"),
        ({"sd": (0.1, 0.1)}, "tuned SD minus ERM"),
        ({"dedier": (0.3, 0.3)}, "DeDiER minus distillation"),
        ({"distillation": (0.1, 0.1)}, "distillation minus ERM"),
        ({"sieve": (0.1, 0.1)}, "sieve minus ERM"),
        ({"kernel": (0.1, 0, 0.1, 0.3)}, "starvation at initialisation"),
    ],
)
def test_a_signature_fails_with_its_evidence(changed, failing):
    found = holding(rows(**changed))
    missed = {name for name, holds in found.items() if not holds}
    assert missed
    assert all(failing in name for name in missed if "DeDiER minus distillation" not in name or failing in name)
    assert any(failing in name for name in missed)


def test_rows_of_the_summary():
    lines = {line["name"]: line for line in reported(rows()).rows}
    worst = {arm: np.array([0.002 * np.sin(i + len(arm)) for i in range(SEEDS)]) for arm in ("erm", "sd")}
    change = (0.3 + worst["sd"]) - (0.2 + worst["erm"])
    name = "dominoes, SD minus ERM: worst group, selected by groups"
    assert lines[name]["measured"] == pytest.approx(change.mean())
    # Thirty differences; the smallest p-value of all is multiplied by their number.
    told = [line["differs"] for key, line in lines.items() if "minus ERM: worst group, selected by groups" in key]
    assert len(told) == 30
    assert all("after Holm's correction for 30" in each for each in told)
    p = 2 * stats.t.sf(change.mean() / (change.std(ddof=1) / np.sqrt(SEEDS)), SEEDS - 1)
    assert p <= float(lines[name]["differs"].split()[2]) <= 30 * p * 1.05
    assert lines["dominoes, SD: worst group, selected by average"]["measured"] == pytest.approx(
        0.2 + worst["sd"].mean()
    )
    assert lines["dominoes, ERM + temperature: information, bits"]["measured"] == pytest.approx(0.42)
    assert lines["dominoes, ERM: information, bits"]["measured"] == pytest.approx(0.2)
    assert lines["dominoes, SD: starvation at initialisation"]["measured"] == 0
    assert lines["dominoes, SD: configuration, selected by groups"]["measured"] == 2
    assert lines["dominoes, SD: configuration, selected by groups"]["differs"] == "of 2: something else"
    assert "groups" in lines["dominoes, DFR: configuration, selected by average"]["differs"]


def test_figures_show_the_rows(figures, tmp_path):
    for name, draw in reported(rows()).figures.items():
        draw(tmp_path / name)
    assert set(figures) == {"accuracy.png", "diagnosis.png", "tuning.png", "seconds.png"}
    ax = figures["accuracy.png"].axes[0]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert [label.partition(" (")[0] for label in labels] == [LABELS[arm] for arm in LABELS if arm in STORY]
    assert "DFR (groups)" in labels
    points = {round(float(line.get_xdata()[0]), 1) for line in ax.lines if len(line.get_xdata()) == 1}
    assert {0.7, 0.8} & points


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"arms": ("magic",)}, "arms: expected some of erm, sd"),
        ({"n": 161}, "n: expected an even number"),
        ({"batch_size": 161}, "batch_size: expected at most n = 160"),
        ({"bank": 161}, "bank: expected at most n = 160"),
        ({"k": 61}, "k: expected at most bank = 60"),
        ({"queries": 81}, "queries: expected at most test = 80"),
        ({"positions": ("h1", "h3")}, "positions: expected stages of the network, h1, h2, got h3"),
        ({"network": "resnet18"}, "network: expected mlp for tasks other than celeba and waterbirds"),
        ({"kernel": 81}, "kernel: expected at most the smaller of n and test, 80"),
    ],
)
def test_numbers_that_do_not_fit_together(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        remedies.check(dataclasses.replace(SMOKE, **change))


def test_smoke_run_interrupted_and_finished(tmp_path, interrupt_after, figures):
    """The run is stopped after two methods and finished; the rows, and what derives from ERM."""
    interrupt_after(2)
    arms = ["erm", "group_balanced", "offset", "stopped"]
    command = ["remedies", "--preset", "smoke", "--out", str(tmp_path), "--tasks", "dominoes", "--arms", *arms]
    assert main(command) == 130
    first = (tmp_path / "rows.jsonl").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "rows.jsonl").read_bytes().startswith(first)
    made = {one["arm"]: one for one in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())}
    assert set(made) == set(arms)
    seeds = list(map(str, range(SMOKE.seeds)))
    for one in made.values():
        for results in one["networks"].values():
            assert sorted(results) == seeds
            assert all(fits(results[seed], _remedies_measures.NETWORK) for seed in seeds)
        for rule, score in _remedies_measures.RULES.items():
            means = np.mean(one["validation"][score], axis=1)
            assert means[one["chosen"][rule]] == pytest.approx(means.max())
    # The first configuration of a method is ERM's, and the last epoch is a candidate of the early stopping.
    for score in _remedies_measures.RULES.values():
        erm = made["erm"]["validation"][score]
        assert made["group_balanced"]["validation"][score][0] == erm[0]
        assert made["stopped"]["validation"][score][SMOKE.epochs - 1 :: SMOKE.epochs] == erm
        assert np.mean(made["offset"]["validation"][score]) >= np.mean(erm)
    assert (tmp_path / "seconds" / "dominoes_erm.json").exists()
    assert set(figures) == {"accuracy.png", "diagnosis.png", "tuning.png", "seconds.png"}
