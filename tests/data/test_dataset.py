"""Splits of a data set: every example in one part, no part empty."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.data import Dataset, split


def test_a_split_keeps_every_example_once():
    whole = Dataset(jnp.arange(20.0).reshape(10, 2), jnp.arange(10.0))
    train, test = split(jax.random.key(0), whole, 7)
    assert train.x.shape == (7, 2)
    assert test.x.shape == (3, 2)
    joined = np.concatenate([train.y, test.y])
    np.testing.assert_array_equal(np.sort(joined), whole.y)
    np.testing.assert_array_equal(np.concatenate([train.x, test.x])[:, 0], 2 * joined)
    assert not np.array_equal(joined, whole.y)


@pytest.mark.parametrize("n_train", [0, 10, 11])
def test_no_part_of_a_split_is_empty(n_train):
    with pytest.raises(ValueError, match=r"^n_train: expected 1 to 9"):
        split(jax.random.key(0), Dataset(jnp.ones((10, 2)), jnp.ones(10)), n_train)
