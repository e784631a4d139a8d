"""A small network and data, whose first input is a strong attribute and whose second is a weak core feature."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

N, INPUTS, WIDTH = 40, 4, 64


class Problem(NamedTuple):
    """Parameters, examples, labels and the attribute of each example."""

    params: Any
    x: np.ndarray
    y: np.ndarray
    group: np.ndarray


def network(params: Any, x: Any) -> Any:
    """One hidden layer of tanh units, outputs `(n,)`, or `(n, k)` if the last weights are `(width, k)`."""
    return jnp.tanh(x @ params["first"]) @ params["last"] / np.sqrt(WIDTH)


def centred(start: Any) -> Any:
    """The network minus its outputs at `start`."""
    return lambda params, x: network(params, x) - network(start, x)


def problem(n: int = N, classes: int | None = None, dtype: Any = np.float64, seed: int = 0) -> Problem:
    """n examples; the attribute agrees with the label in 80 of 100."""
    random = np.random.default_rng(seed)
    y = np.where(np.arange(n) % 2, 1, -1)
    group = np.where(np.arange(n) % 5 == 0, y < 0, y > 0).astype(int)
    x = random.normal(size=(n, INPUTS))
    x[:, 0] = 3 * (2 * group - 1) + 0.3 * x[:, 0]
    x[:, 1] += 1.0 * y
    shape = (WIDTH,) if classes is None else (WIDTH, classes)
    params = {"first": random.normal(size=(INPUTS, WIDTH)) / 2, "last": random.normal(size=shape)}
    params = {name: value.astype(dtype) for name, value in params.items()}
    labels = y if classes is None else np.arange(n) % classes
    return Problem(params, x.astype(dtype), labels, group)
