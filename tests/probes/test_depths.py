"""Prediction depth: the rule by hand and in a loop, probes of every network, batches, and what is invalid."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from gsjax import networks, probes
from gsjax.networks import MLP, ConvNet, FullyConnected, Stage, stages
from gsjax.probes import _search, depths
from gsjax.probes.depths import depth, prediction_depth
from gsjax.probes.neighbours import NO_VOTE
from tests.networks.test_stages import ROWS

KEY = jax.random.key(0)


def test_the_rule_by_hand():
    rows = [
        ([1, 1, 1, 1], 1, 1),  # all agree
        ([0, 1, 1, 1], 1, 2),
        ([1, 0, 1, 1], 1, 3),  # layer 1 agrees, but the deepest that differs counts
        ([0, 1, 0, 1], 1, 4),
        ([2, 2, 2, 1], 1, 4),
        ([1, 1, 1, 1], 0, np.nan),
        ([0, 0, 0, 1], 0, np.nan),
        ([1, 1, 1, NO_VOTE], NO_VOTE, np.nan),
    ]
    votes, predictions, expected = zip(*rows, strict=True)
    found = depth(jnp.array(votes).T, jnp.array(predictions))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(depth(jnp.array(votes).T, jnp.array(predictions), first=0), np.array(expected) - 1)
    assert depth(jnp.array([[1, -1]]), jnp.array([1, 1])).tolist()[0] == 1  # a single layer


def test_the_rule_in_a_loop_over_random_votes(x64):
    """The first layer from which all probes agree with the last, searched from the front."""
    rng = np.random.default_rng(0)
    for layers, classes in ((1, 2), (9, 3)):
        votes, predictions = rng.integers(0, classes, (layers, 200)), rng.integers(0, classes, 200)
        expected = []
        for column, prediction in zip(votes.T, predictions, strict=True):
            agree = [layer for layer in range(layers) if (column[layer:] == column[-1]).all()]
            expected.append(agree[0] + 1 if column[-1] == prediction else np.nan)
        found = depth(2.0 * votes - 1, 2.0 * predictions - 1)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == x64
    np.testing.assert_array_equal(jax.jit(depth)(votes, predictions), expected)
    mapped = jax.jit(jax.vmap(depth, in_axes=(1, 0)))(votes[:, :, None], predictions[:, None])
    np.testing.assert_array_equal(mapped[:, 0], expected)


# ---- networks


class Steps(nn.Module):
    """Two inputs; the second stage sees their product, and the network predicts its sign."""

    @nn.compact
    def __call__(self, x):
        h = Stage(name="first")(jnp.tanh(x))
        h = Stage(name="second")(h[:, :1] * h[:, 1:])
        return (1 + self.param("zero", nn.initializers.zeros, ())) * h[:, 0]


def test_exclusive_or_is_told_apart_from_the_second_stage_on():
    """Without a corner of the square in the bank, its examples are among those of the other class until the product."""
    rng = np.random.default_rng(0)
    corners = np.repeat([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], 60, axis=0)
    x = corners + 0.1 * rng.normal(size=(240, 2))
    found = prediction_depth(Steps(), {"params": {"zero": 0.0}}, (x[60:], corners[60:].prod(axis=1)), x)
    assert found.positions == ("input", "first", "second")
    np.testing.assert_array_equal(found.predictions, corners.prod(axis=1))
    absent = np.arange(240) < 60
    np.testing.assert_array_equal(found.votes[:, absent], np.repeat([[-1], [-1], [1]], 60, axis=1))
    np.testing.assert_array_equal(found.depth, np.where(absent, 2, 1))

    large = np.where(np.arange(240)[:, None] == 70, 3e38 * corners, x)  # finite, but its distances from others are not
    find = functools.partial(prediction_depth, Steps(), {"params": {"zero": 0.0}}, (x[60:], corners[60:].prod(axis=1)))
    np.testing.assert_array_equal(find(large).depth, found.depth)
    np.testing.assert_array_equal(np.isnan(find(large, count_input=True).depth), np.arange(240) == 70)


@functools.cache
def example(name: str) -> tuple[nn.Module, Any, Any, Any, Any]:
    """A network of the table of stages with random variables, a bank, and examples."""
    network, rng = ROWS[name].network, np.random.default_rng(1)
    bank, x = (rng.normal(size=(n, *ROWS[name].shape)).astype(np.float32) for n in (40, 7))
    variables = jax.jit(network.init)({"params": KEY, "dropout": KEY}, x)
    outputs = jax.eval_shape(network.apply, variables, x)
    y = np.arange(40) % 2 * 2.0 - 1 if outputs.ndim == 1 else np.arange(40) % outputs.shape[1]
    return network, variables, bank, y, x


QUICK = ("mlp", "convnet", "plain", "nnx")  # dense, images, stages that are not declared, and flax.nnx
slow = [pytest.param(name, marks=pytest.mark.slow) for name in networks.NAMES if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *slow])
def test_every_network_has_the_depths_of_probes_of_its_stages(name):
    """Layer by layer with scikit-learn; k = 1, so that no votes tie."""
    network, variables, bank, y, x = example(name)
    found = prediction_depth(network, variables, (bank, y), x, k=1, pool=None, batch_size=40)
    names = tuple(ROWS[name].names.split())
    assert found.positions == ("input", *names)
    both = np.concatenate([bank, x])
    outputs, layers = jax.jit(lambda x: stages.apply(network, variables, x, names))(both)
    layers["input"] = both
    for position, votes in zip(found.positions, found.votes, strict=True):
        rows = np.asarray(layers[position]).reshape(47, -1)
        model = KNeighborsClassifier(1, metric="manhattan", algorithm="brute").fit(rows[:40], y)
        np.testing.assert_array_equal(votes, model.predict(rows[40:]), position)
    outputs = outputs[40:]
    predictions = np.sign(outputs) if outputs.ndim == 1 else outputs.argmax(axis=1)
    np.testing.assert_array_equal(found.predictions, predictions)
    np.testing.assert_array_equal(found.depth, depth(found.votes[1:], predictions))
    np.testing.assert_array_equal(found.valid, found.votes[-1] == predictions)


# In training mode dropout would need a key, and batch norm would depend on the batches.
SMALL = FullyConnected((6, 5), outputs=3, dropout=0.5, batch_norm=True)


def small(seed=0, network=SMALL):
    """A bank of 60 and 50 examples with three classes, and variables of a network."""
    rng = np.random.default_rng(seed)
    y = np.arange(60) % 3
    bank = (rng.normal(size=(60, 4)) + y[:, None]).astype(np.float32)
    x = (rng.normal(size=(50, 4)) + 1).astype(np.float32)
    return (bank, y), x, network.init(jax.random.key(seed), x)


def test_batches_compilation_and_mapping_do_not_matter():
    bank, x, variables = small()
    options = {"k": 7}
    expected = prediction_depth(SMALL, variables, bank, x, **options)
    second = small(1)[2]
    chex.assert_trees_all_equal(prediction_depth(SMALL, variables, bank, x, batch_size=16, **options), expected)
    find = jax.vmap(lambda variables: prediction_depth(SMALL, variables, bank, x, batch_size=16, **options))
    mapped = jax.jit(find)(jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, second))
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[0], mapped), expected)
    other = prediction_depth(SMALL, second, bank, x, **options)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[1], mapped), other)
    assert mapped.positions == ("input", "h1", "h2")


def test_one_program_for_all_checkpoints_and_data(monkeypatch):
    for module, name, function, most in (
        (depths, "_shared", (depths._Activations, "__call__"), 1),
        (_search, "_program", (_search, "_votes"), 2),  # for two sizes of layers
    ):
        monkeypatch.setattr(module, name, functools.cache(getattr(module, name).__wrapped__))
        monkeypatch.setattr(*function, chex.assert_max_traces(getattr(*function), most))
    for seed in range(3):
        bank, x, variables = small(seed)
        prediction_depth(SMALL, variables, bank, x, positions=["h1", "h2"], k=7, batch_size=20)


class Scaled(nn.Module):
    """A network without a hash."""

    scale: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="out")(jnp.tanh(x * self.scale))


def test_attributes_of_the_network_may_be_arrays():
    network = Scaled(np.arange(4.0))
    bank, x, variables = small(network=network)
    found = prediction_depth(network, variables, bank, x, k=7)
    assert found.positions == ("input", "out")
    np.testing.assert_array_equal(found.predictions, jnp.argmax(network.apply(variables, x), axis=1))


def test_layers_can_be_chosen_and_the_input_counted():
    bank, x, variables = small()
    find = functools.partial(prediction_depth, SMALL, variables, bank, x, k=7)
    every = find()
    assert every.positions == ("input", "h1", "h2")
    chosen = find(positions=["h2"])
    np.testing.assert_array_equal(chosen.votes, every.votes[2:])
    np.testing.assert_array_equal(chosen.depth, np.where(every.valid, 1, np.nan))
    np.testing.assert_array_equal(find(positions=("input", "h2")).votes, every.votes[::2])
    counted = find(count_input=True)
    np.testing.assert_array_equal(counted.votes, every.votes)
    np.testing.assert_array_equal(counted.depth, depth(every.votes, every.predictions, first=0))
    from_input = (every.votes == every.votes[-1]).all(axis=0)
    assert set(np.asarray(counted.depth)[from_input & every.valid]) == {0}
    # The input matters for examples of depth 1 alone.
    np.testing.assert_array_equal(counted.depth, np.where(from_input, every.depth - 1, every.depth))


def test_scale_of_activations_does_not_matter():
    """With ReLU and without biases a positive factor of the input scales all layers."""
    network = MLP((8, 8), 3)
    bank, x, variables = small(network=network)
    one = prediction_depth(network, variables, bank, x, k=7)
    other = prediction_depth(network, variables, (4 * bank[0], bank[1]), 4 * x, k=7)
    chex.assert_trees_all_equal(one, other)


def test_images_are_averaged_like_in_pytorch():
    """By the definition of adaptive pooling, region by region; and equal regions where the size divides."""
    rng = np.random.default_rng(0)
    for height, width in ((28, 9), (16, 32), (8, 5), (11, 8)):
        h = rng.normal(size=(2, height, width, 3))
        rows, columns = min(height, 8), min(width, 8)
        expected = np.empty((2, rows, columns, 3))
        for i in range(rows):
            for j in range(columns):
                top, bottom = int(np.floor(i * height / rows)), int(np.ceil((i + 1) * height / rows))
                left, right = int(np.floor(j * width / columns)), int(np.ceil((j + 1) * width / columns))
                expected[:, i, j] = h[:, top:bottom, left:right].mean(axis=(1, 2))
        np.testing.assert_allclose(depths._averaged(jnp.asarray(h), 8), expected, atol=1e-6)
    blocks = h[:, :8, :8].reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(depths._averaged(jnp.asarray(h[:, :8, :8]), 4), blocks, atol=1e-6)
    assert depths._averaged(jnp.ones((3, 30)), 8).shape == (3, 30)


@pytest.mark.slow
def test_stages_are_averaged_and_the_input_is_not():
    """Inputs are images of bytes, whose differences must not overflow."""
    network = ConvNet((2,), (4,), 3, kernel_size=2)
    rng = np.random.default_rng(0)
    bank, x, y = *(rng.integers(0, 256, (n, 6, 6, 1)).astype(np.uint8) for n in (30, 30)), np.arange(30) % 3
    variables = jax.jit(network.init)(KEY, x)
    names = ("input", "conv1")
    found = prediction_depth(network, variables, (bank, y), x, k=3, pool=1, positions=names).votes
    apply = jax.jit(lambda x: stages.apply(network, variables, x, ("conv1",))[1]["conv1"].mean(axis=(1, 2)))
    for votes, known, layer in ((found[0], bank.astype(float), x.astype(float)), (found[1], apply(bank), apply(x))):
        np.testing.assert_array_equal(votes, probes.knn(known, y, layer, 3))
    whole = prediction_depth(network, variables, (bank, y), x, k=3, pool=None, positions=names).votes
    assert (whole[1] != found[1]).any()


def test_examples_without_finite_activations_or_outputs_are_invalid():
    bank, x, variables = small()
    x[3] = 3e38
    large = jax.tree.map(lambda leaf: 1e3 * leaf, variables)  # finite, but the first layer overflows
    found = prediction_depth(SMALL, large, bank, x, k=7)
    assert found.valid.any()
    assert np.isnan(found.depth[3])
    assert found.predictions[3] == NO_VOTE
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    assert np.isnan(prediction_depth(SMALL, broken, bank, x, k=7).depth).all()


def test_outputs_of_zero_predict_no_class():
    network = MLP((4,))
    (bank, y), x, variables = small(network=network)
    zero = jax.tree.map(jnp.zeros_like, variables)
    found = prediction_depth(network, zero, (bank, np.where(y, 1.0, -1.0)), x, k=7)
    assert not found.predictions.any()
    assert not found.valid.any()


class Bare(nn.Module):
    def __call__(self, x):
        return x[:, 0]


class Column(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)


(BANK, CLASSES), X, VARIABLES = small()
SIGNS = np.where(CLASSES, 1.0, -1.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"network": Bare(), "variables": {}}, "network: expected a network with stages, got Bare without"),
        ({"network": SMALL.apply}, "network: expected a flax.linen module"),
        ({"network": Column(), "variables": Column().init(KEY, X)}, r"network: expected outputs .* \(50, 1\): squeeze"),
        ({"bank": BANK}, r"bank: expected a pair \(x, y\) of examples and labels"),
        ({"bank": (BANK[:0], CLASSES[:0])}, "bank: expected a non-empty array"),
        ({"bank": (BANK * np.nan, CLASSES)}, "bank: expected finite numbers"),
        ({"bank": (BANK, CLASSES[:9])}, r"bank: expected shape \(60,\), one label per example, got shape \(9,\)"),
        ({"bank": (BANK, SIGNS)}, "bank: expected class indices of an integer type, from 0 to 2, got"),
        ({"bank": (BANK, CLASSES + 1)}, r"bank: expected class indices of an integer type, from 0 to 2, got \[1, 3\]"),
        ({"bank": (BANK, 0 * CLASSES)}, "bank: expected examples of at least two classes, got class 0 alone"),
        ({"bank": (BANK, CLASSES % 2)}, "bank: expected examples of each of the 3 classes, got none of class 2"),
        (
            {"bank": (BANK[:, :3], CLASSES)},
            r"x: expected examples of shape \(3,\), as in the bank, got shape \(50, 4\)",
        ),
        ({"x": X[:0]}, "x: expected a non-empty array"),
        ({"x": X * np.inf}, "x: expected finite numbers"),
        ({"k": 61}, "k: expected a whole number from 1 to 60, got 61"),
        ({"k": 0}, "k: expected a whole number from 1 to 60, got 0"),
        ({"metric": "cosine"}, "metric: expected one of l1, l2"),
        ({"pool": 0}, "pool: expected a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"positions": ("h3",)}, "positions: expected 'input' or not, then stages h1, h2, got 'h3'"),
        ({"positions": ("h1", "input")}, "positions: expected 'input' or not, then stages h1, h2, got 'input'"),
        ({"positions": ("input",)}, "positions: expected at least one stage"),
        ({"positions": ()}, "positions: expected at least one stage"),
        ({"positions": "h1"}, "positions: expected a sequence of names of layers"),
        ({"positions": ("h1",), "count_input": True}, "count_input: expected False without 'input', got True"),
    ],
)
def test_bad_input(change, complaint):
    given = {"network": SMALL, "variables": VARIABLES, "bank": (BANK, CLASSES), "x": X, "k": 5, **change}
    with pytest.raises(ValueError, match=f"^{complaint}"):
        prediction_depth(**given)


def test_labels_of_a_network_with_one_output():
    network = MLP((4,))
    variables = network.init(KEY, X)
    for bad, complaint in ((CLASSES % 2, "labels -1 and"), (SIGNS**2, "examples of both classes, got 1.0 alone")):
        with pytest.raises(ValueError, match=f"^bank: expected {complaint}"):
            prediction_depth(network, variables, (BANK, bad), X, k=5)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: depth([1, 0], [1, 0]), "votes: expected 2 axes"),
        (lambda: depth(np.ones((0, 3)), np.ones(3)), "votes: expected a non-empty array"),
        (lambda: depth([[1, 0]], [1]), r"network_predictions: expected shape \(2,\), got shape \(1,\)"),
        (lambda: depth([["a"]], [1]), "votes: expected finite numbers"),
        (lambda: depth([[1, 0]], [np.nan, 1]), "network_predictions: expected finite numbers"),
        (lambda: depth([[1, 0]], [1, 1], first=-1), "first: expected a whole number of at least 0"),
    ],
)
def test_bad_votes(call, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        call()
