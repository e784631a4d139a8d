"""Checks of the arguments of data generators and readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gsjax import _check

__all__ = ["choice", "images", "key", "pair", "probabilities", "reals", "sequence", "shown", "two_labels", "wholes"]


def key(name: str, value: Any) -> None:
    """Checks that `value` is a single JAX key, typed or raw."""
    dtype, axes = getattr(value, "dtype", np.dtype(object)), np.ndim(value) if hasattr(value, "dtype") else 0
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    single = axes == 0 if typed else dtype == np.uint32 and axes == 1
    _check.require(single, name, "a single key, as jax.random.key gives it", shown(value))


def choice(name: str, value: Any, options: Sequence[str]) -> None:
    """Checks that `value` is one of the strings `options`."""
    _check.require(isinstance(value, str) and value in options, name, f"one of {', '.join(options)}", shown(value))


def reals(name: str, value: Any, expected: str, *, axes: int = 0) -> Array:
    """`value` as an array of finite real numbers, without bools, with `axes` axes."""
    entries = value if isinstance(value, (list, tuple)) else ()
    other = any(isinstance(entry, (bool, np.bool_, str, bytes)) for entry in (value, *entries))
    try:
        array = jnp.asarray(() if other else value)
    except (TypeError, ValueError, OverflowError):
        other, array = True, jnp.zeros(0)
    real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    _check.require(not other and real and array.ndim == axes, name, expected, shown(value))
    _check.require(jnp.isfinite(array).all(), name, expected, shown(value))
    return array


def probabilities(name: str, value: Any, *, axes: int = 0) -> Array:
    """`value` as an array of probabilities with `axes` axes, zero or one."""
    expected = "a probability in [0, 1]" if axes == 0 else "probabilities in [0, 1], a sequence of them"
    array = reals(name, value, expected, axes=axes)
    _check.require(((array >= 0) & (array <= 1)).all(), name, expected, shown(value))
    return array


def sequence(name: str, values: Any, expected: str) -> tuple[Any, ...]:
    """`values`, a list, tuple, range or array, as a tuple."""
    good = isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping, Set))
    _check.require(good and getattr(values, "ndim", 1) > 0, name, expected, shown(values))
    return tuple(values)


def wholes(name: str, values: Any, expected: str = "a sequence of whole numbers") -> tuple[int, ...]:
    """`values` as a tuple of whole numbers."""
    return tuple(_check.whole(name, value) for value in sequence(name, values, expected))


def two_labels(name: str, values: Any, known: Sequence[int], expected: str) -> tuple[int, int]:
    """`values` as two different labels from `known`."""
    pair = wholes(name, values, expected)
    _check.require(len(pair) == 2 and len(set(pair)) == 2 and set(pair) <= set(known), name, expected, values)
    return pair[0], pair[1]


def pair(name: str, value: Any, expected: str) -> tuple[Any, Any]:
    """`value` as two arrays."""
    good = isinstance(value, tuple) and len(value) == 2 and all(hasattr(part, "dtype") for part in value)
    _check.require(good, name, expected, shown(value))
    return value[0], value[1]


def images(name: str, value: Any) -> tuple[Any, Any]:
    """`value` as pixels `(n, height, width, channels)` and their whole-number labels `(n,)`."""
    pixels, labels = pair(name, value, "Images: pixels and labels, two arrays")
    _check.shape(name, pixels, ndim=4)
    n = len(pixels)
    _check.require(labels.shape == (n,), name, f"labels of shape ({n},)", f"shape {labels.shape}")
    _check.require(jnp.issubdtype(labels.dtype, jnp.integer), name, "labels that are whole numbers", labels.dtype)
    whole, real = (jnp.issubdtype(pixels.dtype, kind) for kind in (jnp.integer, jnp.floating))
    _check.require(whole or real, name, "pixels that are numbers", pixels.dtype)
    if real:
        _check.finite(name, pixels)
    return pixels, labels


def shown(value: Any) -> str:
    """A value as shown in errors; an array is shown by its shape and dtype."""
    if hasattr(value, "dtype") and np.ndim(value) > 0:
        return f"an array of shape {np.shape(value)}, {value.dtype}"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
