"""What a monitor records, and how the modules that read it check it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gsjax import _check
from gsjax.probes.depths import INPUT

__all__ = ["Course", "course_depths", "early_counts"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("depth", "information", "correct", "response", "converged"),
    meta_fields=("positions",),
)
@dataclass(frozen=True)
class Course:
    """What a monitor measures at a state, on n examples; recorded, with leading axes such as `(seeds, T, ...)`.

    - `depth (..., n)`: the prediction depth, NaN for invalid examples;
    - `information (..., n)`: log2 p(y | x) of the network at this state minus log2 of the share of the class y in the
      bank, in bits. It is the pointwise V-information of Ethayarajh et al. 2022, with the current network in place of
      the best predictor of the family, and the class balance in place of the one trained on empty input. Early in
      training, and where the network is confident and wrong, it can be negative;
    - `correct (..., n)`: whether the network is right;
    - `response (..., r)`: responses z of given features, or None;
    - `positions`: the layers that the depth counts, from 0 if the first is the input, otherwise from 1. Not a leaf;
    - `converged (...)`: whether the solvers of all these probes have converged; true for neighbours, and for None.
    """

    depth: Float[Array, "*axes n"]
    information: Float[Array, "*axes n"]
    correct: Bool[Array, "*axes n"]
    response: Float[Array, "*axes r"] | None
    positions: tuple[str, ...]
    converged: Bool[Array, "*axes"] | None = None


def course_depths(name: str, course: Any) -> tuple[Float[np.ndarray, "..."], int]:
    """The depths of a course, and the smallest possible one."""
    _check.require(isinstance(course, Course), name, "a Course", type(course).__name__)
    depth = np.asarray(course.depth)
    _check.require(depth.ndim and depth.shape[-1], name, "depths (..., n) of examples", f"shape {depth.shape}")
    return depth, 0 if course.positions[0] == INPUT else 1


def early_counts(name: str, course: Any, first: int) -> tuple[Int[np.ndarray, "..."], Int[np.ndarray, "..."]]:
    """The numbers of early examples and of valid examples."""
    depth, _ = course_depths(name, course)
    first = _check.whole("first", first, least=0)
    return (depth <= first).sum(axis=-1), (~np.isnan(depth)).sum(axis=-1)
