"""The terms of the objectives that have no method of their own."""

# pyright: reportArgumentType=false
# Bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.methods.terms import confidence_margin


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_margin_of_confidence_is_a_difference_of_probabilities(x64, k):
    logits = 3 * np.random.default_rng(k).standard_normal((50, k))
    logits = np.concatenate([logits, np.zeros_like(logits[:1])])  # no class is likelier than another
    pair = np.hstack([np.zeros_like(logits), logits]) if k == 1 else logits
    p = np.sort(np.exp(pair) / np.exp(pair).sum(axis=1, keepdims=True), axis=1)
    given = jnp.asarray(logits[:, 0] if k == 1 else logits, x64)
    margin = confidence_margin(given)
    assert margin.dtype == x64
    np.testing.assert_allclose(margin, p[:, -1] - p[:, -2], rtol=1e-5, atol=1e-7)
    assert margin[-1] == 0
    np.testing.assert_allclose(jax.jit(jax.vmap(confidence_margin))(given[None])[0], margin, rtol=1e-6)


def test_margins_of_confidence_at_the_ends():
    assert confidence_margin(jnp.array([-1e4, 1e4])).tolist() == [1.0, 1.0]
    assert confidence_margin(jnp.array([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4]])).tolist() == [1.0, 0.0]
    tiny = confidence_margin(jnp.array([[0.0, 1e-6]]))  # where the difference of the rounded probabilities is wrong
    np.testing.assert_allclose(tiny, 5e-7, rtol=1e-6)


@pytest.mark.parametrize("logits", [1.0, np.ones((3, 1)), np.ones((3, 2, 2)), "ab", [True, False]], ids=str)
def test_bad_logits(logits):
    with pytest.raises(ValueError, match=r"^logits: expected "):
        confidence_margin(logits)
