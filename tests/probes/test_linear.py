"""Linear probes: against scikit-learn, its stationarity in NumPy, and invariances."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gsjax import probes
from gsjax.networks import FullyConnected, stages
from gsjax.probes import _regression
from gsjax.probes._search import NO_VOTE
from gsjax.probes.linear import linear_probe


def drawn(seed=0, m=150, d=5, classes=3):
    """A bank whose classes overlap, and queries."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(m) % classes)
    centres = rng.normal(size=(classes, d))
    return centres[y] + rng.normal(size=(m, d)) + 7, y, rng.normal(size=(80, d)) + 7


def theirs(bank, y, queries, strength):
    """The probabilities of scikit-learn, for features in the units of the probe."""
    mean = bank.mean(axis=0)
    scale = np.sqrt(((bank - mean) ** 2).sum(axis=1).mean())
    model = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10000).fit((bank - mean) / scale, y)
    return model.predict_proba((queries - mean) / scale)


@pytest.mark.parametrize(("strength", "classes"), [(0.03, 2), (1.0, 2), (0.03, 3), (1.0, 3)])
def test_probabilities_are_those_of_scikit_learn(x64, strength, classes):
    """With two classes, scikit-learn has one logit w = w1 - w0, and |w|^2 / 2 is the least |w0|^2 + |w1|^2."""
    bank, y, queries = drawn(classes=classes)
    expected = theirs(bank, y, queries, strength / 2 if classes == 2 else strength)
    tolerance, atol = (1e-5, 1e-3) if x64 == jnp.float32 else (None, 1e-6)
    probe = linear_probe(bank.astype(x64), y, strength=strength, tolerance=tolerance)
    assert probe.converged
    np.testing.assert_allclose(jax.nn.softmax(probe.logits(queries.astype(x64))), expected, atol=atol)
    if x64 == jnp.float64:
        np.testing.assert_array_equal(probe.votes(queries), expected.argmax(axis=1))


def test_the_gradient_vanishes_at_the_minimum():
    bank, y, _ = drawn()
    with jax.enable_x64(True):
        probe = jax.tree.map(np.asarray, linear_probe(bank, y, strength=0.3, tolerance=1e-10))
    mean = bank.mean(axis=0)
    scale = np.sqrt(((bank - mean) ** 2).sum(axis=1).mean())
    logits = (bank - mean) @ probe.weight + probe.bias
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(3)[y]
    np.testing.assert_allclose((bank - mean).T @ p / scale + 0.3 * scale * probe.weight, 0, atol=1e-7)
    np.testing.assert_allclose(p.sum(axis=0), 0, atol=1e-7)
    assert probe.converged
    assert probe.gradient <= 1e-10


def test_convergence_is_reported():
    bank, y, _ = drawn()
    probe = linear_probe(bank, y, max_steps=3)
    assert (probe.steps, probe.converged) == (3, False)
    assert probe.gradient > 3e-4
    assert linear_probe(bank, y, tolerance=0.5).steps < linear_probe(bank, y).steps < 100
    bank[0, 0] = np.nan
    lost = jax.jit(linear_probe, static_argnums=2)(bank, y, 3)
    assert not lost.converged
    assert lost.votes(bank[1:3]).tolist() == [NO_VOTE] * 2


def test_units_order_axes_and_labels_do_not_matter():
    bank, y, queries = drawn(classes=2)
    with jax.enable_x64(True):
        logits = linear_probe(bank, y).logits(queries)
        for scale in (1e-6, 1e6):
            np.testing.assert_allclose(linear_probe(scale * bank, y).logits(scale * queries), logits, atol=1e-6)
        np.testing.assert_allclose(linear_probe(bank - 7, y).logits(queries - 7), logits, atol=1e-6)
        np.testing.assert_allclose(linear_probe(bank[::-1], y[::-1]).logits(queries), logits, atol=1e-6)
        turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
        np.testing.assert_allclose(linear_probe(bank @ turn, y).logits(queries @ turn), logits, atol=1e-6)
        signs = linear_probe(bank.reshape(150, 1, 5), 2.0 * y - 1)
        assert signs.classes.tolist() == [-1, 1]
        np.testing.assert_array_equal(signs.votes(queries), 2 * logits.argmax(axis=1) - 1)


def test_features_that_do_not_vary_tell_the_frequencies():
    probe = linear_probe(np.ones((150, 5)), np.arange(150) // 60)
    np.testing.assert_allclose(jax.nn.softmax(probe.logits(np.ones((1, 5)))), [[0.4, 0.4, 0.2]], atol=1e-3)
    assert probe.converged


@pytest.mark.slow
def test_compiled_and_mapped(monkeypatch):
    bank, y, queries = drawn()
    signs = np.where(y, 1.0, -1.0)
    banks = np.stack([bank, bank + np.arange(5)])
    mapped = jax.jit(jax.vmap(lambda bank, labels: linear_probe(bank, labels).logits(queries), in_axes=(0, None)))
    np.testing.assert_allclose(mapped(banks, signs), [linear_probe(b, signs).logits(queries) for b in banks], atol=1e-2)
    with pytest.raises(ValueError, match=r"^classes: expected the number of classes where labels are traced, got None"):
        jax.jit(lambda labels: linear_probe(bank, labels))(y)
    monkeypatch.setattr(_regression, "_compiled", functools.cache(_regression._compiled.__wrapped__))
    monkeypatch.setattr(_regression, "_regression", chex.assert_max_traces(_regression._regression, 1))
    for seed in range(3):
        linear_probe(*drawn(seed)[:2], strength=seed + 1)


@pytest.mark.slow
def test_depths_from_linear_probes(monkeypatch):
    """The probes of all layers are those of their activations."""
    network = FullyConnected((5, 5), outputs=3, activation="tanh")
    bank, y, x = (array.astype(np.float32) if array.dtype == float else array for array in drawn())
    variables = jax.jit(network.init)(jax.random.key(0), x)
    found = probes.prediction_depth(network, variables, (bank, y), x, probe="linear", strength=0.5, batch_size=64)
    _, known = stages.apply(network, variables, bank)
    _, layers = stages.apply(network, variables, x)
    known, layers = {"input": bank, **known}, {"input": x, **layers}
    for position, votes in zip(found.positions, found.votes, strict=True):
        expected = theirs(np.asarray(known[position], float), y, np.asarray(layers[position], float), 0.5)
        clear = np.sort(expected, axis=1)[:, -1] > np.sort(expected, axis=1)[:, -2] + 1e-2
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(votes[clear], expected.argmax(axis=1)[clear], position)
    np.testing.assert_array_equal(found.depth, probes.depth(found.votes[1:], found.predictions))
    assert found.converged.tolist() == [True] * 3
    stopped = functools.partial(_regression.regression, max_steps=1)
    monkeypatch.setattr("gsjax.probes.depths.regression", stopped)
    short = probes.prediction_depth(network, variables, (bank, y), x, probe="linear", strength=0.5, batch_size=64)
    assert short.converged.tolist() == [False] * 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bank": np.ones((0, 2)), "labels": []}, "bank: expected a non-empty array"),
        ({"bank": np.full((6, 2), np.inf)}, "bank: expected finite numbers"),
        ({"labels": np.ones(6, int)}, "labels: expected examples of at least two classes, got class 1 alone"),
        ({"classes": 4}, "labels: expected examples of each of the 4 classes, got none of class 3"),
        ({"labels": np.arange(5)}, r"labels: expected shape \(6,\)"),
        ({"classes": 1}, "classes: expected a whole number of at least 2, got 1"),
        ({"strength": 0.0}, "strength: expected a finite positive number, got 0"),
        ({"tolerance": -1.0}, "tolerance: expected a finite positive number, got -1"),
        ({"max_steps": 0}, "max_steps: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_input(change, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        linear_probe(**{"bank": np.ones((6, 2)), "labels": np.arange(6) % 3, **change})
