"""Courses of training against their parts, the warning rule by formula and by simulation, and digits with a patch."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from gsjax import data, features, methods, probes
from gsjax.methods import Batch, Learner
from gsjax.networks import CNN, FullyConnected, Stage
from gsjax.probes import depths
from gsjax.probes.monitoring import Course, course, early_mass, false_alarms, histogram, monitor, warn

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype(np.float32)
SIGNS = np.where(X[:, 0] + 0.5 * RNG.normal(size=90) > 0, 1.0, -1.0)
CLASSES = (X[:, :3] + 0.5 * RNG.normal(size=(90, 3))).argmax(axis=1)
TRAIN, HELD = slice(0, 60), slice(60, 90)
BANK, HELD_OUT = (X[TRAIN], CLASSES[TRAIN]), (X[HELD], CLASSES[HELD])
NETWORK = FullyConnected((6, 5), outputs=3)
LEARNER = Learner(jax.jit(NETWORK.init)(KEY, X)["params"])
BINARY = FullyConnected((6, 5))
FEATURES = features.from_ntk(np.eye(60, dtype=np.float32), SIGNS[TRAIN])


def at(tree, *index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_course_consists_of_depths_information_accuracy_and_responses(outputs):
    network, y = FullyConnected((6, 5), outputs=outputs, batch_norm=True), SIGNS if outputs == 1 else CLASSES
    variables = jax.jit(network.init)(KEY, X)
    statistics = jax.tree.map(lambda leaf: leaf + 0.1 * (1 + jnp.arange(len(leaf))), variables["batch_stats"])
    variables = {"params": variables["params"], "batch_stats": statistics}
    learner = Learner(variables["params"], {"batch_stats": statistics})
    bank, held_out = (X[TRAIN], y[TRAIN]), (X[HELD], y[HELD])
    u = np.linalg.qr(RNG.normal(size=(60, 4)))[0].astype(np.float32)
    feats = features.from_spectrum(u, jnp.ones(4), SIGNS[TRAIN]) if outputs == 1 else None
    readings = (feats, (feats, X[TRAIN])) if outputs == 1 else (None,)
    evaluate, *others = (monitor(network, bank, k=7, features=reading, batch_size=8) for reading in readings)

    @jax.jit
    def everything(learner):
        depth = probes.prediction_depth(network, variables, bank, X[HELD], k=7, batch_size=30)
        given = [other(learner, held_out).response for other in others]
        return evaluate(learner, held_out), given, depth.depth, network.apply(variables, X)

    found, given, depth, logits = everything(learner)
    np.testing.assert_array_equal(found.depth, depth)
    assert found.positions == ("h1", "h2")

    logits = np.asarray(logits, float)  # batch norm with running statistics
    if outputs == 1:
        p, classes = scipy.special.expit(y * logits), (-1, 1)
        np.testing.assert_array_equal(found.correct, (np.sign(logits) == y)[HELD])
        for response in (found.response, *given):
            np.testing.assert_allclose(response, u.T @ (y * logits)[TRAIN], atol=1e-5)
    else:
        p, classes = scipy.special.softmax(logits, axis=1)[np.arange(90), y], range(3)
        np.testing.assert_array_equal(found.correct, (logits.argmax(axis=1) == y)[HELD])
        assert found.response is None
    share = {label: np.mean(y[TRAIN] == label) for label in classes}
    expected = np.log2(p[HELD]) - np.log2([share[label] for label in y[HELD]])
    np.testing.assert_allclose(found.information, expected, atol=1e-5)
    assert 0 < np.mean(found.correct) < 1


def test_a_network_that_knows_only_the_class_balance_has_no_information():
    params = jax.tree.map(jnp.zeros_like, LEARNER.params)
    *_, last = params
    params[last]["bias"] = jnp.log(np.bincount(CLASSES[TRAIN]) / 60)
    found = jax.jit(monitor(NETWORK, BANK, k=7))(Learner(params), HELD_OUT)
    np.testing.assert_allclose(found.information, 0, atol=1e-6)


@pytest.mark.slow
def test_training_streams_and_files_have_the_same_course():
    """With one trace for all seeds and checkpoints of `train`."""
    network = FullyConnected((6, 5), outputs=3, batch_norm=True)
    method, batch = methods.get("erm")(network, optax.adam(0.02)), Batch(X[TRAIN], CLASSES[TRAIN])
    evaluate = monitor(network, BANK, held_out=HELD_OUT, k=7)
    compiled = jax.jit(evaluate)

    def without_optimizer(state):
        return compiled(Learner(state.params, state.collections))

    @chex.assert_max_traces(n=1)
    def once(state, held_out):
        return evaluate(state, held_out), Learner(state.params, state.collections)

    keys, record = jax.random.split(KEY, 2), (0, 7, 20)
    run = methods.train(method, keys, batch, steps=20, record=record, evaluate=once, held_out=HELD_OUT)
    found, learners = run.records
    assert found.depth.shape == (2, 3, 30)
    for seed in range(2):
        saved = (at(learners, seed, moment) for moment in range(3))
        chex.assert_trees_all_close(course(compiled, saved), at(found, seed), atol=1e-5)
    streamed = methods.stream(
        method, at(run.state, 0), lambda _: [batch] * 2, epochs=2, steps=2, evaluate=without_optimizer
    )
    assert streamed.records.depth.shape == (2, 30)
    chex.assert_trees_all_close(at(streamed.records, 1), without_optimizer(streamed.state), atol=1e-5)


@pytest.fixture
def _uncompiled():
    """Neither before nor after the test there are compiled programs."""
    depths._shared.cache_clear()
    yield
    depths._shared.cache_clear()


@pytest.mark.usefixtures("_uncompiled")
def test_saved_states_share_one_program(monkeypatch):
    evaluate = monitor(NETWORK, BANK, k=7, batch_size=60)
    monkeypatch.setattr(depths._Activations, "__call__", chex.assert_max_traces(depths._Activations.__call__, 1))
    saved = [Learner(jax.tree.map(lambda leaf, scale=scale: scale * leaf, LEARNER.params)) for scale in (1, 2, 3)]
    found = course(evaluate, saved, BANK)
    assert found.depth.shape == (3, 60)
    with_bank = monitor(NETWORK, k=7, batch_size=60)
    chex.assert_trees_all_equal(with_bank(saved[1], (*BANK, BANK)), at(found, 1))


def test_networks_without_a_hash():
    scale = jnp.array([2.0])

    class Scaled(nn.Module):
        scale: jax.Array

        @nn.compact
        def __call__(self, x):
            return Stage(name="h")(self.scale * x)[:, 0] + 0 * self.param("zero", nn.initializers.zeros, ())

    evaluate = monitor(Scaled(scale), (X, np.sign(X[:, 0])), held_out=(X, np.sign(X[:, 0])), k=1)
    assert evaluate(Learner({"zero": jnp.zeros(())})).correct.all()


def test_any_learner_of_a_state_can_be_monitored():
    other = Learner(jax.tree.map(lambda leaf: -leaf, LEARNER.params))
    state = methods.State(LEARNER.params, {}, (), jnp.array(3), KEY, (), {"biased": other})
    evaluate = jax.jit(monitor(NETWORK, BANK, held_out=HELD_OUT, k=7))
    chex.assert_trees_all_equal(evaluate(state), evaluate(LEARNER))
    chex.assert_trees_all_equal(evaluate(state.learners["biased"]), evaluate(other))
    assert (evaluate(state).information != evaluate(other).information).all()


# ---- what is read from a course


def made(depth, layers=3, information=None, first="h1"):
    """A course of these depths, with the rest made up."""
    depth = np.asarray(depth, float)
    names = (first, *(f"h{i}" for i in range(2, layers + 1)))
    return Course(depth, 0.0 * depth if information is None else information, depth > 0, None, names)


def test_histogram_and_early_mass_by_hand():
    depth = [[[1, 1, 2, np.nan], [3, 3, 3, 3]], [[np.nan] * 4, [1, 2, 3, np.nan]]]
    found = histogram(made(depth))
    assert found.depths.tolist() == [1, 2, 3]
    assert found.counts.tolist() == [[[2, 1, 0], [0, 0, 4]], [[0, 0, 0], [1, 1, 1]]]
    assert found.invalid.tolist() == [[1, 0], [4, 1]]
    np.testing.assert_allclose(early_mass(made(depth)), [[2 / 3, 0], [np.nan, 1 / 3]])
    np.testing.assert_allclose(early_mass(made(depth), first=2), [[1, 0], [np.nan, 2 / 3]])
    counted = histogram(made([0, 0, 2], first="input"))
    assert (counted.depths.tolist(), counted.counts.tolist()) == ([0, 1, 2], [2, 0, 1])
    assert early_mass(made([0, 1, 2, 2], first="input"), first=0) == 0.25


def test_the_input_can_be_counted():
    found = jax.jit(monitor(NETWORK, BANK, k=7, count_input=True))(LEARNER, HELD_OUT)
    assert found.positions == ("input", "h1", "h2")
    assert histogram(found).depths.tolist() == [0, 1, 2]
    chosen = jax.eval_shape(monitor(NETWORK, BANK, k=7, positions=("h2",)), LEARNER, HELD_OUT)
    assert chosen.positions == ("h2",)


@pytest.mark.slow
def test_linear_probes_tell_whether_they_have_converged():
    options = {"probe": "linear", "positions": ("h2",)}
    evaluate = monitor(NETWORK, BANK, **options)

    @jax.jit
    def both(learner):
        variables = {"params": learner.params}
        return evaluate(learner, HELD_OUT), probes.prediction_depth(NETWORK, variables, BANK, X[HELD], **options)

    found, expected = both(LEARNER)
    np.testing.assert_array_equal(found.depth, expected.depth)
    assert found.converged == expected.converged.all()


# ---- the warning


def shares(early, valid, total=50):
    """A course with these numbers of examples of depth 1, and valid ones, of which the others have depth 2."""
    place = np.arange(total)
    early, valid = np.asarray(early)[..., None], np.asarray(valid)[..., None]
    return made(np.where(place < early, 1.0, np.where(place < valid, 2.0, np.nan)), layers=2)


def test_the_threshold_is_a_prediction_bound_of_the_log_odds():
    early, valid = np.array([[20, 5], [25, 5], [35, 5], [22, 5], [18, 5]]), np.full((5, 2), [50, 40])
    reference = shares(early, valid)
    bits = np.array([[0.1, 0.5], [0.3, 0.7], [0.2, 0.4], [0.2, 0.9], [0.25, 0.8]])
    reference = dataclasses.replace(reference, information=np.repeat(bits[..., None], 50, 2))
    found = warn(reference, at(reference, slice(2)), [3, 9], rate=0.08, information=True)
    t = scipy.stats.t.ppf(1 - 0.08 / 4, df=4) * np.sqrt(6 / 5)
    odds = np.log((early + 0.5) / (valid - early + 0.5))
    second = np.sqrt(1 / 5.5 + 1 / 35.5)  # all runs have the same number: the error of a share
    spread = np.array([odds[:, 0].std(ddof=1), second])
    np.testing.assert_allclose(scipy.special.logit(found.threshold), odds.mean(axis=0) + t * spread)
    informed = np.asarray(found.information_threshold)
    np.testing.assert_allclose(informed, bits.mean(axis=0) + t * bits.std(axis=0, ddof=1))
    assert found.rate == 0.08


def test_the_first_step_with_a_warning():
    reference = shares(np.full((6, 4), 10) + np.arange(6)[:, None], np.full((6, 4), 50))
    watched = shares([[10, 10, 49, 49], [10, 10, 10, 10], [49, 10, 10, 10], [0, 0, 0, 0]], np.full((4, 4), 50))
    found = warn(reference, watched, [1, 5, 9, 20])
    assert found.step.tolist() == [9, -1, 1, -1]
    assert found.warned.tolist() == [True, False, True, False]
    assert found.exceeds.tolist() == [[False, False, True, True], [False] * 4, [True, False, False, False], [False] * 4]
    assert found.measured.all()
    assert found.information_threshold is None
    alone = warn(reference, at(watched, 0), np.array([1, 5, 9, 20]))
    assert (alone.step.item(), alone.warned.item()) == (9, True)
    informed = dataclasses.replace(watched, information=watched.information.copy())
    informed.information[1, 3] = 1.0
    assert warn(reference, informed, [1, 5, 9, 20], information=True).step.tolist() == [9, 20, 1, -1]


def test_a_step_that_was_not_measured_gives_no_warning():
    reference = shares(np.full((6, 2), 1), np.full((6, 2), 50))
    watched = shares([[0, 40], [0, 1]], [[0, 50], [50, 50]])
    found = warn(reference, watched, [1, 2])
    assert found.step.tolist() == [2, -1]
    assert found.measured.tolist() == [False, True]
    converged = dataclasses.replace(watched, converged=np.array([[True, False], [True, True]]))
    assert warn(reference, converged, [1, 2]).step.tolist() == [-1, -1]
    watched.information[1, 0, 3] = np.inf
    assert warn(reference, watched, [1, 2], information=True).measured.tolist() == [False, False]


def test_the_least_number_of_runs():
    """By a search over the ratio of the bounds with an estimated and with a known distribution."""
    for rate, steps, least in ((0.05, 11, 5), (0.05, 12, 6), (0.01, 10, 7), (0.1, 1, 3)):
        tail = rate / steps
        n = np.arange(2, 30)
        ratio = scipy.stats.t.ppf(1 - tail, n - 1) * np.sqrt(1 + 1 / n) / scipy.stats.norm.ppf(1 - tail)
        assert n[ratio <= 2][0] == least
        runs = shares(np.full((least, steps), 10), np.full((least, steps), 50))
        warn(runs, runs, range(steps), rate=rate)
        with pytest.raises(ValueError, match=f"^reference: expected at least {least} runs for a rate of {rate:g} over"):
            warn(at(runs, slice(least - 1)), runs, range(steps), rate=rate)


def simulated(rng, runs, odds, spread, steps=8, examples=150, correlation=0.8):
    """Courses of runs whose early mass has normal log-odds, correlated over the steps, on a sample of examples."""
    noise = rng.normal(size=(steps, *runs))
    for step in range(1, steps):
        noise[step] = correlation * noise[step - 1] + np.sqrt(1 - correlation**2) * noise[step]
    p = scipy.special.expit(odds + spread * np.moveaxis(noise, 0, -1))
    return shares(rng.binomial(examples, p), np.full(p.shape, examples), examples)


@pytest.mark.parametrize("n", [5, 8])
@pytest.mark.parametrize("odds", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
def test_false_alarms_are_at_most_as_frequent_as_stated(n, odds, spread):
    """Over independent references, one further run for each; the bound has a p-value of 0.001."""
    rng = np.random.default_rng([n, int(10 * odds) + 20, int(10 * spread)])
    trials, rate = 200, 0.1
    runs = simulated(rng, (trials, n + 1), odds, spread)
    alarms = 0
    for trial in range(trials):
        drawn = at(runs, trial)
        alarms += int(warn(at(drawn, slice(n)), at(drawn, n), range(8), rate=rate).warned)
    assert alarms <= scipy.stats.binom.ppf(0.999, trials, rate)


def test_a_shifted_course_is_found():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(50):
        reference, watched = simulated(rng, (8,), 0.0, 0.3), simulated(rng, (1,), 3.0, 0.3)
        found.append(warn(reference, watched, range(8)).warned.item())
    assert np.mean(found) > 0.9


def test_measured_rates_have_their_interval():
    reference = shares(np.array([[10], [11], [12], [10], [11], [48]]), np.full((6, 1), 50))
    clean = shares(np.array([[11]] * 7 + [[50]] * 3), np.full((10, 1), 50))
    found = false_alarms(at(reference, slice(5)), clean, level=0.9)
    exact = scipy.stats.binomtest(3, 10).proportion_ci(0.9, method="exact")
    np.testing.assert_allclose(found[:3], [0.3, exact.low, exact.high])
    assert found[3:] == (3, 10, 0.05)
    out = false_alarms(reference)  # of the six only the last one differs from the others
    assert (out.alarms, out.runs) == (1, 6)
    none = false_alarms(at(reference, slice(5)), at(clean, slice(7)))
    assert (none.rate, none.low) == (0, 0)
    np.testing.assert_allclose(none.high, scipy.stats.binomtest(0, 7).proportion_ci(method="exact").high)
    assert false_alarms(at(reference, slice(5)), at(clean, slice(7, 10))).high == 1


# ---- real training


@pytest.fixture(scope="module")
def digits():
    """Runs on noisy digits, 24 clean ones, and 5 with a bright pixel whose place tells the class; one program."""
    images = data.digit_images()
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(images[0]))[:1000]
    pixels, labels = (part[chosen] for part in images)
    x = pixels.astype(np.float32) / 255 + 0.3 * rng.normal(size=pixels.shape).astype(np.float32)
    y = labels.astype(np.int32)
    patched = x.copy()
    patched[np.arange(1000), y // 5 * 7, y % 5] = 3
    network = FullyConnected((48, 48), outputs=10)
    x, y = np.stack([x] * 24 + [patched] * 5), np.stack([y] * 29)
    first = slice(100), slice(800), slice(800, None)
    bank, train, held_out = ((x[:, part], y[:, part]) for part in first)
    run = methods.train(
        methods.get("erm")(network, optax.adam(2e-3)),
        jax.random.split(KEY, 29),
        Batch(*train),
        steps=80,
        batch_size=50,
        record=[10, 20, 40, 80],
        evaluate=monitor(network, k=15),
        held_out=(*held_out, bank),
        per_seed=True,
    )
    return at(run.records, slice(8)), at(run.records, slice(8, 24)), at(run.records, slice(24, None)), run.steps


def test_a_patch_that_reveals_the_class_raises_the_early_mass(digits):
    reference, clean, patched, _ = digits
    difference = early_mass(patched)[:, None] - early_mass(clean)[None]
    assert (difference.mean(axis=(0, 1)) > 0.02).all()
    assert difference[..., 0].mean() > 0.2  # at the first record
    assert patched.information.mean() > reference.information.mean()


def test_the_monitor_warns_of_the_patch_and_seldom_of_clean_digits(digits):
    reference, clean, patched, steps = digits
    found = warn(reference, patched, steps)
    assert (found.step == steps[0]).all()
    first, last = patched.correct[:, 0].mean(), patched.correct[:, -1].mean()
    assert first < 0.6 < 0.95 < last  # when the warnings come, the networks are far from trained
    measured = false_alarms(reference, clean)
    assert measured.runs == 16
    assert measured.low <= measured.nominal


# ---- bad input


class Bare(nn.Module):
    def __call__(self, x):
        return x[:, 0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"network": Bare()}, "network: expected a network with stages, got Bare without"),
        ({"network": NETWORK.apply}, "network: expected a flax.linen module"),
        ({"network": NETWORK.apply, "bank": None}, "network: expected a flax.linen module"),
        ({"bank": X}, r"bank: expected a pair \(x, y\) of examples and labels"),
        ({"bank": (X[:0], CLASSES[:0])}, "bank: expected a non-empty array"),
        ({"bank": (X * np.nan, CLASSES)}, "bank: expected finite numbers"),
        ({"bank": (X, CLASSES[:9])}, r"bank: expected 90 labels, one per example, got shape \(9,\)"),
        ({"bank": (X, 0 * CLASSES)}, "bank: expected examples of at least two classes, got class 0 alone"),
        ({"bank": (X, CLASSES % 2)}, "bank: expected examples of each of the 3 classes, got none of class 2"),
        ({"bank": (X, SIGNS)}, r"bank: expected whole numbers \(90,\) from 0 to 2, got float"),
        ({"bank": (X, SIGNS), "held_out": HELD_OUT}, "bank: expected class indices of an integer type"),
        ({"k": 61}, "k: expected a whole number from 1 to 60, got 61"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"held_out": X}, r"held_out: expected \(x, y\) or \(x, y, bank\)"),
        ({"held_out": (X[:, :3], CLASSES)}, r"held_out: expected examples of shape \(4,\), as in the bank, got shape"),
        ({"held_out": (X, CLASSES[:9])}, "held_out: expected 90 labels, one per example"),
        ({"held_out": (X * np.inf, CLASSES)}, "held_out: expected finite numbers"),
        ({"held_out": (X, CLASSES + 1)}, r"held_out: expected whole numbers \(90,\) from 0 to 2, got"),
        ({"held_out": HELD_OUT, "bank": None}, r"held_out: expected \(x, y, bank\), as monitor has no bank"),
        ({"held_out": (*HELD_OUT, X)}, r"held_out: expected a pair \(x, y\)"),
        ({"features": X}, "features: expected gsjax.features.Features of the bank"),
        ({"features": FEATURES, "bank": None}, "features: expected gsjax.features.Features of the bank"),
        ({"features": (FEATURES, X)}, "features: expected features of 90 examples, got 60"),
        ({"features": FEATURES}, "features: expected features with the labels of the bank, in its order"),
        ({"features": (FEATURES, X[TRAIN])}, r"features: expected None for outputs \(n, k\)"),
    ],
)
def test_bad_input(change, complaint):
    given = {"network": NETWORK, "bank": BANK, "k": 7, **change}
    with pytest.raises(ValueError, match=f"^{complaint}"):
        monitor(**given)


def test_without_data_the_shape_of_the_examples_is_not_known():
    """Networks of images are accepted, and networks without stages are refused where they are evaluated."""
    monitor(CNN((4, 4)), k=7)
    with pytest.raises(ValueError, match=r"^network: expected a network with stages, got Bare without"):
        monitor(Bare(), k=7)(Learner({}), (X[HELD], SIGNS[HELD], (X[TRAIN], SIGNS[TRAIN])))


def test_bad_input_of_an_evaluation():
    evaluate = monitor(NETWORK, BANK, k=7)
    with pytest.raises(
        ValueError, match=r"^held_out: expected labelled examples \(x, y\), here or in monitor, got None"
    ):
        evaluate(LEARNER)
    with pytest.raises(ValueError, match=r"^held_out: expected whole numbers"):
        evaluate(LEARNER, (X, SIGNS))
    with pytest.raises(ValueError, match=r"^state: expected a state or a learner, got dict"):
        evaluate({"params": LEARNER.params}, HELD_OUT)
    with pytest.raises(ValueError, match=r"^k: expected a whole number from 1 to 60, got 61"):
        monitor(NETWORK, k=61)(LEARNER, (*HELD_OUT, BANK))
    with pytest.raises(ValueError, match=r"^states: expected one or more states, got none"):
        course(evaluate, [], HELD_OUT)
    with pytest.raises(ValueError, match=r"^held_out: expected labels -1 and"):
        monitor(BINARY, (X, SIGNS), held_out=(X, CLASSES), k=7)


RUNS = shares(np.full((6, 2), 10), np.full((6, 2), 50))
EMPTY = shares(np.zeros((6, 2)), np.where(np.arange(2) == 1, 0, np.full((6, 2), 50)))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: histogram(np.ones(3)), "course: expected a Course, got ndarray"),
        (lambda: early_mass({}), "course: expected a Course, got dict"),
        (lambda: early_mass(RUNS, first=-1), "first: expected a whole number of at least 0"),
        (lambda: warn(RUNS.depth, RUNS, [1, 2]), "reference: expected a Course"),
        (lambda: warn(RUNS, None, [1, 2]), "watched: expected a Course"),
        (lambda: warn(RUNS, RUNS, [1, 2, 3]), "reference: expected a course over 3 steps"),
        (lambda: warn(RUNS, at(RUNS, slice(None), slice(1)), [1, 2]), "watched: expected a course over 2 steps"),
        (lambda: warn(RUNS, RUNS, [2, 1]), "steps: expected increasing whole numbers"),
        (lambda: warn(RUNS, RUNS, []), "steps: expected increasing whole numbers"),
        (lambda: warn(at(RUNS, 0), RUNS, [1, 2]), r"reference: expected courses \(n, T, ...\), one row per run"),
        (lambda: warn(RUNS, made(RUNS.depth), [1, 2]), "watched: expected the layers h1, h2, got h1, h2, h3"),
        (lambda: warn(EMPTY, RUNS, [1, 2]), "reference: expected valid examples, converged probes and .* at step 2"),
        (lambda: warn(RUNS, RUNS, [1, 2], rate=0.5), r"rate: expected a number in \(0, 0.5\)"),
        (lambda: warn(RUNS, RUNS, [1, 2], information=1), "information: expected True or False"),
        (lambda: false_alarms(RUNS, level=1.0), r"level: expected a number in \(0, 1\)"),
        (lambda: false_alarms(at(RUNS, 0)), r"reference: expected courses \(n, T, ...\)"),
        (lambda: false_alarms(RUNS, at(RUNS, 0)), r"clean: expected courses \(m, T, ...\)"),
        (lambda: false_alarms(at(RUNS, slice(4))), "reference: expected at least 4 runs .*, got 3"),
    ],
)
def test_bad_courses(call, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        call()
