"""The parts that methods with a readout share: which readout fits a stage, and what is refused."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsjax import methods
from gsjax.methods.readouts import check_readout, fitting, init_readout
from gsjax.networks import CNN, FullyConnected, Readout

KEY = jax.random.key(0)
IMAGES, VECTORS = np.ones((5, 6, 6, 2), np.float32), np.ones((5, 3), np.float32)
DEFAULT = {"depth": 1, "width": 4, "pooled": True}


def fit(network, x, position, readout=None):
    learner = methods.init_learner(network, optax.sgd(0.1), KEY, x)
    return fitting(network, learner, x, position, readout, **DEFAULT)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(
    ("make", "x", "position", "shape"),
    [
        (lambda k: CNN((4, 8), k), IMAGES, "h1", (5, 6, 6, 4)),
        (lambda k: CNN((4, 8), k), IMAGES, "pool", (5, 8)),
        (lambda k: FullyConnected((7,), k, batch_norm=True), VECTORS, "h1", (5, 7)),
    ],
)
def test_the_default_readout_has_the_outputs_of_the_network(outputs, make, x, position, shape):
    readout, stage = fit(make(outputs), x, position)
    assert readout == Readout(outputs, **DEFAULT)
    assert (stage.shape, stage.dtype) == (shape, jnp.float32)
    learner = init_readout(readout, optax.adam(0.1), KEY, stage)
    logits = methods.predict(readout, learner, jnp.ones(shape))
    assert logits.shape == ((5,) if outputs == 1 else (5, 3))
    assert learner.optimizer is not None
    # The first readout depends on the key alone, not on the stage.
    other = methods.init_learner(readout, optax.adam(0.1), KEY, 3 * np.ones(shape, np.float32))
    jax.tree.map(np.testing.assert_array_equal, learner.params, other.params)


def test_nothing_is_computed_and_a_trace_suffices():
    learner = methods.init_learner(FullyConnected((7,)), optax.sgd(0.1), KEY, VECTORS)
    empty = jax.eval_shape(lambda: learner)
    readout, stage = fitting(FullyConnected((7,)), empty, VECTORS, "h1", None, **DEFAULT)
    assert readout == Readout(1, **DEFAULT)
    assert stage.shape == (5, 7)


def test_an_own_readout_is_kept():
    own = FullyConnected((3,), 2)
    assert fit(FullyConnected((7,), 2), VECTORS, "h1", own)[0] is own


class NoParameters(nn.Module):
    @nn.compact
    def __call__(self, h):
        return h.sum(axis=1)


class Pair(nn.Module):
    @nn.compact
    def __call__(self, h):
        return nn.Dense(2)(h), h


@pytest.mark.parametrize(
    ("position", "readout", "message"),
    [
        ("h2", None, "position: expected one of the stages h1, got 'h2'"),
        ("h1", NoParameters(), "readout: expected a module with parameters, got NoParameters without"),
        ("h1", Readout(3), r"readout: expected outputs of shape \(5, 2\), that of the network's, got shape \(5, 3\)"),
        ("h1", Readout(1), r"readout: expected outputs of shape \(5, 2\), that of the network's, got shape \(5,\)"),
        ("h1", nn.Dense(1), r"readout: expected outputs \(5,\) or \(5, k\).* squeeze the output to \(n,\)"),
        ("h1", Pair(), "readout: expected outputs in one array, got tuple"),
    ],
)
def test_a_readout_that_does_not_fit(position, readout, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        fit(FullyConnected((7,), 2), VECTORS, position, readout)


@pytest.mark.parametrize(
    ("position", "readout", "message"),
    [
        (None, None, "position: expected the name of a stage, got None"),
        ("h1", Readout, "readout: expected a flax.linen module, or None, got the class Readout"),
        ("h1", "linear", "readout: expected a flax.linen module, or None, got str"),
    ],
)
def test_what_needs_no_data(position, readout, message):
    check_readout("h1", Readout())
    with pytest.raises(ValueError, match=f"^{message}"):
        check_readout(position, readout)
