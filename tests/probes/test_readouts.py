"""Early readouts: against scikit-learn and NumPy, by group, and on a network whose stages are known."""

# pyright: reportArgumentType=false, reportOptionalMemberAccess=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gsjax import probes
from gsjax.networks import CNN, FullyConnected, Stage
from gsjax.probes import early_readout, readouts

KEY = jax.random.key(0)


class Images(nn.Module):
    """A network whose stage are its inputs."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, param_dtype=x.dtype)(Stage(name="same")(x).reshape(len(x), -1))[:, 0]


def drawn(classes, m=150, n=80, noise=1.5):
    """Noisy images `(., 3, 2, 2)` of classes, and their labels."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(m + n) % classes)
    x = rng.normal(size=(classes, 3, 2, 2))[y] + noise * rng.normal(size=(m + n, 3, 2, 2))
    return x[:m], y[:m], x[m:], y[m:]


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_readout_is_a_logistic_regression(x64, pooled, classes):
    train_x, train_y, x, y = drawn(classes, noise=3.0)
    group = np.arange(80) % 4
    signs = classes == 2
    labels = (2.0 * train_y - 1, 2.0 * y - 1) if signs else (train_y, y)
    variables = Images().init(KEY, train_x.astype(x64))
    options = {"pooled": pooled, "strength": 0.5, "group": group, "groups": 5, "batch_size": 64}
    if x64 == jnp.float32:
        options["tolerance"] = 1e-5
    given = (train_x.astype(x64), labels[0], x.astype(x64), labels[1])
    found = early_readout(Images(), variables, "same", *given, **options)
    assert found.converged
    assert found.finite

    bank, queries = (values.mean(axis=(1, 2)) if pooled else values.reshape(len(values), -1) for values in (train_x, x))
    mean = bank.mean(axis=0)
    scale = np.sqrt(((bank - mean) ** 2).sum(axis=1).mean())
    model = LogisticRegression(C=1 / (0.25 if signs else 0.5), tol=1e-10, max_iter=10000)
    p = model.fit((bank - mean) / scale, train_y).predict_proba((queries - mean) / scale)
    atol = 2e-3 if x64 == jnp.float32 else 1e-6
    assert found.logits.shape == ((80,) if signs else (80, 3))
    own = jax.nn.sigmoid(found.logits) if signs else jax.nn.softmax(found.logits)
    np.testing.assert_allclose(own, p[:, 1] if signs else p, atol=atol)
    top = np.sort(p, axis=1)
    np.testing.assert_allclose(found.margin, top[:, -1] - top[:, -2], atol=2 * atol)
    wrong = p.argmax(axis=1) != y
    clear = top[:, -1] - top[:, -2] > 1e-2
    np.testing.assert_array_equal(found.wrong[clear], wrong[clear])

    wrong, margin = np.array(found.wrong), np.array(found.margin, float)
    assert 0 < wrong.sum() < 80
    for errors, members in [(found.all, np.ones(80, bool))] + [
        (jax.tree.map(lambda leaf, i=i: leaf[i], found.by_group), group == i) for i in range(4)
    ]:
        assert (errors.examples, errors.errors) == (members.sum(), wrong[members].sum())
        expected = wrong[members].mean(), margin[members].mean(), margin[members & wrong].mean()
        np.testing.assert_allclose(errors[2:], expected, rtol=1e-5)
    empty = [float(leaf[4]) for leaf in found.by_group or ()]
    assert empty[:2] == [0, 0]
    assert np.isnan(empty[2:]).all()


def test_a_readout_without_errors_says_so():
    x = np.linspace(-1, 1, 20)[:, None].repeat(2, axis=1)
    y = np.sign(x[:, 0])
    network = FullyConnected((3,))
    found = early_readout(network, network.init(KEY, x), "h1", x, y, x, y, strength=1e-3)
    assert (found.all.errors, found.all.rate) == (0, 0)
    assert np.isnan(found.all.margin_on_errors)
    assert found.all.margin > 0.5
    assert found.by_group is None


def test_blocks_see_what_a_linear_readout_cannot():
    """The label is whether two coordinates have the same sign."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (200, 2)) + 0.1 * rng.normal(size=(200, 2))
    y = np.sign(x[:, 0] * x[:, 1])

    class Same(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(Stage(name="same")(x))[:, 0]

    variables = Same().init(KEY, x)
    read = functools.partial(early_readout, Same(), variables, "same", x[:100], y[:100], x[100:], y[100:])
    linear, blocks = read(), read(depth=1, width=16, key=KEY, steps=100)
    assert linear.all.rate > 0.3
    assert blocks.all.rate < 0.02
    assert (blocks.converged, blocks.steps) == (None, 100)
    own = read(readout=FullyConnected((16,), dropout=0.2), key=KEY, steps=100)
    assert own.all.rate < 0.02
    for key, same in ((KEY, True), (jax.random.key(1), False)):
        logits = read(depth=1, width=16, key=key, steps=100).logits
        assert np.array_equal(logits, blocks.logits) is same


@pytest.mark.parametrize("depth", [0, 1])
def test_images_of_classes(depth):
    """A block keeps positions apart from channels, and the network's own outputs play no role."""
    train_x, train_y, x, y = (array.astype(np.float32) if array.dtype == float else array for array in drawn(3))
    network = CNN((5,), 4)
    variables = network.init(KEY, x)
    options = {"depth": depth, "width": 6, "key": KEY, "steps": 20, "pooled": False}
    found = early_readout(network, variables, "h1", train_x, train_y, x, y, **options)
    assert found.logits.shape == (80, 3)
    assert found.all.rate < 0.5
    parts = [early_readout(network, variables, "h1", train_x, train_y, x[i : i + 40], y[i : i + 40], **options)
             for i in (0, 40)]  # fmt: skip
    np.testing.assert_allclose(np.concatenate([part.logits for part in parts]), found.logits, rtol=1e-4, atol=1e-4)


def test_compiled_mapped_and_compiled_once(monkeypatch):
    train_x, train_y, x, y = (array.astype(np.float32) for array in drawn(2))
    train_y, y, network = 2 * train_y - 1, 2 * y - 1, FullyConnected((4,))
    seeds = jax.vmap(lambda key: network.init(key, x))(jax.random.split(KEY, 2))

    def errors(variables, depth, group):
        options = {"group": group, "groups": 2, "depth": depth, "width": 3, "steps": 5, "key": KEY}
        found = early_readout(network, variables, "h1", train_x, train_y, x, y, **options)
        return found.logits, found.by_group.rate

    group = np.arange(80) % 2
    for depth in (0, 1):
        mapped = jax.jit(jax.vmap(errors, in_axes=(0, None, None)), static_argnums=1)(seeds, depth, group)
        for seed in range(2):
            single = errors(jax.tree.map(lambda leaf, seed=seed: leaf[seed], seeds), depth, group)
            for batched, one in zip(mapped, single, strict=True):
                np.testing.assert_allclose(batched[seed], one, atol=2e-2)
    monkeypatch.setattr(readouts, "_shared", functools.cache(readouts._shared.__wrapped__))
    monkeypatch.setattr(readouts._Take, "__call__", chex.assert_max_traces(readouts._Take.__call__, 1))
    monkeypatch.setattr(readouts._Training, "__call__", chex.assert_max_traces(readouts._Training.__call__, 1))
    for seed in range(2):
        errors(jax.tree.map(lambda leaf, seed=seed: leaf[seed], seeds), 1, group)


def test_traced_labels_need_their_number():
    train_x, train_y, x, y = (array.astype(np.float32) if array.dtype == float else array for array in drawn(2))
    variables = Images().init(KEY, x)

    def rate(train_y, **options):
        return early_readout(Images(), variables, "same", train_x, train_y, x, y, **options).all.rate

    with pytest.raises(ValueError, match=r"^classes: expected the number of classes where labels are traced, got None"):
        jax.jit(rate)(train_y)
    np.testing.assert_allclose(jax.jit(functools.partial(rate, classes=2))(train_y), rate(train_y), atol=0.02)
    with pytest.raises(ValueError, match=r"^groups: expected the number of groups where they are traced, got None"):
        jax.jit(lambda group: rate(train_y, group=group))(np.arange(80) % 2)


class NoParameters(nn.Module):
    @nn.compact
    def __call__(self, h):
        return h.sum(axis=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": "h3"}, "position: expected one of the stages h1, h2, got 'h3'"),
        ({"position": 1}, "position: expected the name of a stage, got 1"),
        ({"train_x": np.ones((0, 3))}, "train_x: expected a non-empty array"),
        ({"train_x": np.full((6, 3), np.nan)}, "train_x: expected finite numbers"),
        ({"x": np.ones((6, 2))}, r"x: expected examples of shape \(3,\), as in train_x, got shape \(6, 2\)"),
        ({"train_y": np.arange(5)}, r"train_y: expected shape \(6,\)"),
        ({"train_y": np.ones(6, int)}, "train_y: expected examples of at least two classes, got class 1 alone"),
        ({"train_y": np.arange(6) % 2 * 2}, "train_y: expected examples of each of the 3 classes, got none of class 1"),
        ({"train_y": np.arange(6) % 2 / 1.0}, r"train_y: expected labels -1 and \+1"),
        ({"classes": 4}, "train_y: expected examples of each of the 4 classes, got none of class 3"),
        ({"y": np.full(6, 3)}, r"y: expected whole numbers \(6,\) from 0 to 2"),
        ({"y": np.arange(5)}, r"y: expected whole numbers \(6,\)"),
        ({"group": np.arange(5)}, r"group: expected whole numbers \(6,\) from 0 to 4"),
        ({"group": np.arange(6), "groups": 3}, r"group: expected whole numbers \(6,\) from 0 to 2, got \[0, 5\]"),
        ({"group": np.arange(6) - 1}, "group: expected whole numbers"),
        ({"groups": 3}, "groups: expected none without group, got 3"),
        ({"depth": 1}, r"key: expected a key, such as jax.random.key\(0\), got None"),
        ({"readout": NoParameters(), "key": KEY}, "readout: expected a module with parameters, got NoParameters "),
        ({"readout": FullyConnected((), 2), "key": KEY}, r"readout: expected outputs of shape \(6, 3\), that of the l"),
        ({"readout": FullyConnected}, "readout: expected a flax.linen module, or None, got the class FullyConnected"),
    ],
)  # fmt: skip
def test_bad_input(change, message):
    x, y, network = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) % 3, FullyConnected((2, 2))
    given = {"network": network, "variables": network.init(KEY, x), "position": "h1", "train_x": x, "train_y": y}
    with pytest.raises(ValueError, match=f"^{message}"):
        probes.early_readout(**{**given, "x": x, "y": y, **change})
