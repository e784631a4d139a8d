"""The `Dataset` of examples and labels that generators and readers return, and its random split."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Key

from gsjax import _check
from gsjax.data import _arguments

__all__ = ["Dataset", "split"]

__all__ = ["Dataset", "split"]


class Dataset(NamedTuple):
    """Examples and labels; it unpacks as `x, y`.

    Attributes:
        x: examples, `(n, ...)`; images as `(n, height, width, channels)`.
        y: labels, `(n,)`, -1 and +1 for two classes.
    """

    x: Float[Array, "n ..."]
    y: Float[Array, " n"]


def split(key: Key[Array, ""], dataset: Dataset, n_train: int) -> tuple[Dataset, Dataset]:
    """A random split, without replacement, into `n_train` training examples and the remaining test examples.

    Raises:
        ValueError: `n_train` is not a whole number, or leaves one of the two parts empty; x and y of the dataset have
            different lengths.

    >>> whole = Dataset(jax.numpy.ones((10, 2)), jax.numpy.ones(10))
    >>> train, test = split(jax.random.key(0), whole, 7)
    >>> train.x.shape, test.y.shape
    ((7, 2), (3,))
    """
    _arguments.key("key", key)
    x, y = _arguments.pair("dataset", tuple(getattr(dataset, part, None) for part in "xy"), "a Dataset, arrays x and y")
    _check.require(y.ndim == 1 and x.shape[:1] == y.shape, "dataset", "a label y for each x", f"{x.shape}, {y.shape}")
    n, n_train = len(y), _check.whole("n_train", n_train)
    _check.require(0 < n_train < n, "n_train", f"1 to {n - 1} of {n} examples", n_train)
    order = jax.random.permutation(key, n)
    x, y = x[order], y[order]
    return Dataset(x[:n_train], y[:n_train]), Dataset(x[n_train:], y[n_train:])
