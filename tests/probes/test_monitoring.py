"""Courses of training against their parts."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from gsjax import features, methods, probes
from gsjax.methods import Batch, Learner
from gsjax.networks import CNN, FullyConnected, Stage
from gsjax.probes import depths
from gsjax.probes.monitoring import Course, course, early_mass, histogram, monitor

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


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: histogram(np.ones(3)), "course: expected a Course, got ndarray"),
        (lambda: early_mass({}), "course: expected a Course, got dict"),
        (lambda: early_mass(made(np.ones(3)), first=-1), "first: expected a whole number of at least 0"),
    ],
)
def test_bad_courses(call, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        call()
