"""The network with two layers: the published initialisation, forward passes in NumPy, and the frozen output layer."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# Bad input is of any type.

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit

from gsjax.networks import TwoLayer
from tests.methods.toys import compiled

KEY = jax.random.key(0)
FORMULAS = {
    "relu": lambda f: np.maximum(f, 0),
    "gelu": lambda f: f * (1 + erf(f / np.sqrt(2))) / 2,
    "tanh": np.tanh,
    "sigmoid": expit,
    "identity": lambda f: f,
}


def uniform(values, end: float) -> None:
    """Checks that the values are drawn uniformly from +-end: the range, the mean and the variance end^2 / 3."""
    values = np.asarray(values, float).ravel()
    assert np.abs(values).max() <= end
    assert abs(values.mean()) < 5 * end / np.sqrt(3 * values.size)
    assert abs(values.var() / end**2 - 1 / 3) < 5 * np.sqrt(4 / 45 / values.size)
    if values.size > 100:
        assert np.abs(values).max() > 0.95 * end


@pytest.mark.parametrize("trained", [False, True])
def test_the_initialisation_is_the_published_one(x64, trained):
    """PyTorch's default, with the dimension of x as the fan-in of the first layer; a frozen output is +-1/width."""
    width, dimension = 256, 100
    network = TwoLayer(width, trained=trained)
    draw = compiled(jax.vmap(lambda key: network.init(key, jnp.ones((1, dimension)))))
    variables = draw(jax.random.split(KEY, 150))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(x64)}
    hidden = variables["params"]["hidden"]
    assert hidden["kernel"].shape == (150, dimension, width)
    uniform(hidden["kernel"], 1 / np.sqrt(dimension))
    uniform(hidden["bias"], 1 / np.sqrt(dimension))
    output = variables["params" if trained else "frozen"]["output"]
    uniform(output["bias"], 1 / np.sqrt(width))
    if trained:
        assert "frozen" not in variables
        uniform(output["kernel"], 1 / np.sqrt(width))
    else:
        assert set(variables["params"]) == {"hidden"}
        signs = np.concatenate([np.ones(128), -np.ones(128)])
        np.testing.assert_array_equal(output["kernel"][:, :, 0], np.tile(signs / width, (150, 1)))


@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize(("trained", "outputs", "bias"), [(False, 1, True), (True, 1, False), (True, 3, True)])
def test_outputs_by_hand(activation, trained, outputs, bias):
    network, x = (
        TwoLayer(5, activation, trained, bias, outputs, scale=3.0),
        np.random.default_rng(0).normal(size=(6, 2, 2)),
    )
    with jax.enable_x64(True):
        variables = network.init(KEY, jnp.asarray(x))
        found = np.asarray(network.apply(variables, jnp.asarray(x)))
    hidden, output = variables["params"]["hidden"], {**variables["params"], **variables.get("frozen", {})}["output"]
    assert ("bias" in hidden) == ("bias" in output) == bias
    f = FORMULAS[activation](x.reshape(6, 4) @ np.asarray(hidden["kernel"]) + np.asarray(hidden.get("bias", 0)))
    f = 3 * (f @ np.asarray(output["kernel"]) + np.asarray(output.get("bias", 0)))
    np.testing.assert_allclose(found, f[:, 0] if outputs == 1 else f, rtol=1e-12, atol=1e-12)


def test_an_odd_width_has_one_more_negative_weight():
    variables = TwoLayer(3, bias=False).init(KEY, jnp.ones((1, 2)))
    np.testing.assert_allclose(variables["frozen"]["output"]["kernel"][:, 0], np.array([1, -1, -1]) / 3, rtol=1e-6)


def test_a_traced_scale_multiplies_the_outputs_in_one_program():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    variables = TwoLayer(4).init(KEY, x)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def outputs(scales):
        return jax.vmap(lambda scale: TwoLayer(4, scale=scale).apply(variables, x))(scales)

    plain = np.asarray(TwoLayer(4).apply(variables, x))
    for scales in (jnp.array([1.0, 0.1]), jnp.array([50.0, 3.0])):
        np.testing.assert_allclose(outputs(scales), scales[:, None] * plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TwoLayer(0), "width: expected a whole number of at least 1"),
        (lambda: TwoLayer(activation="linear"), "activation: expected one of relu, gelu, tanh, sigmoid, identity"),
        (lambda: TwoLayer(outputs=2), "outputs: expected 1 for a frozen output layer, got 2"),
        (lambda: TwoLayer(trained=True, outputs=0), "outputs: expected a whole number"),
        (lambda: TwoLayer(trained=1), "trained: expected True or False"),
        (lambda: TwoLayer(bias=None), "bias: expected True or False"),
        (lambda: TwoLayer(scale=0.0), "scale: expected a finite positive number"),
        (lambda: TwoLayer().init(KEY, jnp.ones(3)), "x: expected a non-empty array"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build()
