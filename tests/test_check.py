"""The checks of public arguments: what they accept, their messages, and that tracing skips checks of values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import _check


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("x: expected this, got that", lambda: _check.require(False, "x", "this", "that")),
        ("x: expected this, got 3", lambda: _check.require(jnp.array(False), "x", "this", 3)),
        ("x: expected finite numbers, got 2 NaN", lambda: _check.finite("x", np.array([1, np.nan, -np.inf]))),
        ("x: expected finite numbers, got 1 NaN", lambda: _check.finite("x", jnp.nan)),
        ("x: expected 2 axes, got shape (3,)", lambda: _check.shape("x", np.ones(3), ndim=2)),
        ("x: expected a non-empty array, got shape (3, 0)", lambda: _check.shape("x", np.ones((3, 0)), ndim=2)),
        ("x: expected orthonormal rows, got inner prod", lambda: _check.orthonormal("x", [[1.0, 1.0]])),
        ("x: expected shape (1, 3), got shape (1, 2)", lambda: _check.orthonormal("x", [[1.0, 0.0]], (1, 3))),
        ("x: expected 2 axes, got shape (2,)", lambda: _check.orthonormal("x", [1.0, 0.0])),
        ("y: expected shape (2,)", lambda: _check.labels("y", np.ones(3), 2)),
        ("y: expected labels -1 and +1, got [0, 1]", lambda: _check.labels("y", np.array([1, 0]), 2)),
        ("y: expected labels -1 and +1, got [nan]", lambda: _check.labels("y", np.full(2, np.nan), 2)),
        ("x: expected finite positive numbers, got 0.", lambda: _check.positive("x", 0.0)),
        ("x: expected finite positive numbers, got [", lambda: _check.positive("x", np.array([1, np.nan]))),
        ("x: expected finite positive numbers, got inf", lambda: _check.positive("x", jnp.inf)),
    ],
)
def test_bad_values_are_named(message, call):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value).startswith(message)


def test_a_long_array_gives_a_short_message():
    with pytest.raises(ValueError, match=r"^x: expected finite positive numbers") as error:
        _check.positive("x", -np.ones(10_000))
    assert len(str(error.value)) < 200


def test_good_values_pass():
    _check.require(True, "x", "this", "that")
    _check.finite("x", np.array([1, 2]))
    _check.shape("x", np.ones((2, 3)), ndim=2)
    _check.labels("y", np.array([1, -1, 1]), 3)
    _check.labels("y", jnp.array([-1.0, -1.0]), 2)
    _check.positive("x", 1)
    _check.positive("x", np.array([1e-300, 1.0]))


def test_under_tracing_shapes_are_checked_and_values_are_not():
    def values(x):
        _check.require(x[0] > 0, "x", "this", "that")
        _check.finite("x", x)
        _check.positive("x", x)
        _check.labels("x", x, 2)
        return x

    jax.jit(values)(jnp.full(2, -0.5))
    jax.vmap(values)(jnp.full((1, 2), -0.5))
    jax.jit(jax.grad(lambda x: jnp.sum(values(x))))(jnp.full(2, -0.5))
    with pytest.raises(ValueError, match=r"^x: expected 2 axes, got shape \(2,\)"):
        jax.jit(lambda x: _check.shape("x", x, ndim=2))(jnp.ones(2))


def test_one_traced_leaf_makes_a_tree_traced():
    seen = []
    jax.jit(lambda x: seen.append((_check.is_concrete({"a": x, "b": 1.0}), _check.is_concrete(1.0, np.ones(2)))))(1.0)
    assert seen == [(False, True)]
