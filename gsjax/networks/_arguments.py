"""What the networks' constructors ask of their arguments."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gsjax import _check


def size(name: str, value: Any) -> int:
    """`value` as a whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    _check.require(number >= 1, name, "whole numbers of at least 1", repr(value))
    return number


def sizes(name: str, values: Any) -> tuple[int, ...]:
    """`values` as a tuple of whole numbers of at least 1."""
    _check.require(isinstance(values, Sequence), name, "a sequence of whole numbers", repr(values))
    return tuple(size(name, value) for value in values)


def images(x: Any) -> Float[Array, "n height width c"]:
    """`x` as a batch of images in floating point."""
    x = jnp.asarray(x)
    _check.shape("x", x, ndim=4)
    return _check.as_float(x)
