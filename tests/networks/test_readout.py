"""Readouts of a stage, against forward passes in NumPy."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.networks import Readout, stages

KEY = jax.random.key(0)
SHAPES = {"images": (4, 5, 6, 3), "vectors": (4, 3), "sequences": (4, 5, 3)}


def drawn(shape, depth, outputs, pooled, dtype):
    """A readout with variables that are not the initial ones, and a stage."""
    rng = np.random.default_rng(0)
    readout = Readout(outputs, depth, 4, pooled)
    like = jax.eval_shape(readout.init, KEY, jax.ShapeDtypeStruct(shape, dtype))
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape) - 0.7, dtype), like)
    if depth:
        positive = {"var": np.abs, "mean": lambda leaf: leaf}
        variables["batch_stats"] = {
            name: {key: positive[key](leaf) for key, leaf in norm.items()}
            for name, norm in variables["batch_stats"].items()
        }
    return readout, variables, rng.standard_normal(shape).astype(dtype)


def forward(variables, h, pooled, train):
    """The outputs, the input of the linear layer, the ReLUs, and the means and variances of the batch norms."""
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, float), variables)
    params, relus, moments = variables["params"], [], []
    for number in range(len(params) // 2):
        if h.ndim == 4:
            kernel, padded = params[f"Conv_{number}"]["kernel"], np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
            rows, columns = h.shape[1:3]
            shifts = [(i, j) for i in range(3) for j in range(3)]
            h = np.sum([padded[:, i : i + rows, j : j + columns] @ kernel[i, j] for i, j in shifts], axis=0)
        else:
            h = h @ params[f"Dense_{number}"]["kernel"]
        name = f"BatchNorm_{number}"
        axes = tuple(range(h.ndim - 1))
        moments.append((h.mean(axis=axes), h.var(axis=axes)))
        running = variables["batch_stats"][name]
        mean, variance = moments[-1] if train else (running["mean"], running["var"])
        h = (h - mean) / np.sqrt(variance + 1e-5) * params[name]["scale"] + params[name]["bias"]
        h = np.maximum(h, 0)
        relus.append(h)
    h = h.mean(axis=tuple(range(1, h.ndim - 1))) if pooled else h.reshape(len(h), -1)
    last = max((name for name in params if name.startswith("Dense")), key=lambda name: int(name.split("_")[1]))
    f = h @ params[last]["kernel"] + params[last]["bias"]
    return f[:, 0] if f.shape[1] == 1 else f, h, relus, moments


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("depth", "outputs", "pooled"), [(0, 3, True), (0, 1, False), (2, 1, True), (1, 3, False)])
def test_outputs_and_stages(x64, kind, depth, outputs, pooled):
    readout, variables, h = drawn(SHAPES[kind], depth, outputs, pooled, x64)
    rtol, atol = (1e-9, 1e-11) if x64 == jnp.float64 else (1e-3, 1e-4)
    for train in (False, True):
        expected, pool, relus, moments = forward(variables, h, pooled, train)
        (found, staged), changed = stages.apply(readout, variables, h, train=train, mutable=["batch_stats"])
        assert found.dtype == x64
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
        assert list(staged) == [*(f"block{number}" for number in range(1, depth + 1)), "pool"]
        for stage, value in zip(staged.values(), [*relus, pool], strict=True):
            np.testing.assert_allclose(stage, value, rtol=rtol, atol=atol)
        for number, averages in enumerate(moments):
            for key, value in zip(("mean", "var"), averages, strict=True):
                name = f"BatchNorm_{number}"
                old = np.asarray(variables["batch_stats"][name][key], float)
                value = 0.9 * old + 0.1 * value if train else old
                np.testing.assert_allclose(changed["batch_stats"][name][key], value, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", SHAPES)
def test_parameters(kind):
    """Pooled readouts have no parameters that depend on the number of positions."""
    shape = SHAPES[kind]
    like = jax.ShapeDtypeStruct(shape, jnp.float32)

    def sizes(*arguments):
        params = jax.eval_shape(Readout(*arguments).init, KEY, like)["params"]
        return sorted(leaf.shape for leaf in jax.tree.leaves(params))

    weight = (3, 3, 3, 7) if kind == "images" else (3, 7)
    assert sizes(5, 0) == [(3, 5), (5,)]
    assert sizes(5, 0, 7, False) == sorted([(5,), (int(np.prod(shape[1:])), 5)])
    assert sizes(5, 1, 7) == sorted([weight, (7,), (7,), (7, 5), (5,)])


def test_the_first_weights_have_the_published_scale():
    """He et al. 2015 with the fan-out for blocks, as in residual networks."""
    params = Readout(1, 1, 64).init(KEY, jnp.ones((2, 6, 6, 32)))["params"]
    np.testing.assert_allclose(params["Conv_0"]["kernel"].std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    params = Readout(1, 1, 256).init(KEY, jnp.ones((2, 128)))["params"]
    np.testing.assert_allclose(params["Dense_0"]["kernel"].std(), np.sqrt(2 / 256), rtol=0.02)


def test_whole_numbers_are_a_stage():
    readout, h = Readout(2, 1, 4), np.arange(12).reshape(4, 3)
    variables = readout.init(KEY, h)
    np.testing.assert_array_equal(readout.apply(variables, h), readout.apply(variables, h.astype(np.float32)))


@pytest.mark.parametrize(
    ("options", "h", "message"),
    [
        ({"outputs": 0}, None, "outputs: expected a whole number of at least 1, got 0"),
        ({"depth": -1}, None, "depth: expected a whole number of at least 0, got -1"),
        ({"width": 0}, None, "width: expected a whole number of at least 1, got 0"),
        ({"pooled": None}, None, "pooled: expected True or False, got None"),
        ({}, np.ones(3), r"x: expected a non-empty array \(n, ...\), got shape \(3,\)"),
        ({}, np.ones((0, 3)), r"x: expected a non-empty array"),
    ],
)
def test_bad_input(options, h, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Readout(**options).init(KEY, h)
