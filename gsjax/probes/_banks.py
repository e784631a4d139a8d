"""Checks of a bank: examples, with labels that are -1 and +1 for two classes, or class indices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from gsjax import _check

__all__ = ["bank_labels", "examples", "flat"]


def examples(name: str, x: Any) -> Real[Array, "n ..."]:
    """Examples `(n, ...)` as an array; a `ValueError` if they are empty, not finite, or without an axis of examples."""
    _check.finite(name, x)
    shape = _check.array_shape(x)
    _check.require(len(shape) >= 2 and 0 not in shape, name, "a non-empty array (n, ...)", f"shape {shape}")
    return jnp.asarray(x)


def flat(x: Real[Array, "n ..."]) -> Float[Array, "n d"]:
    """Examples `(n, ...)` as rows in floating point, at least float32.

    >>> flat(jnp.array([[[1, 2], [3, 4]]])).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    return _check.single("x", x).reshape(len(x), -1)


def bank_labels(
    name: str, labels: Any, n: int, classes: int | None = None, *, signs: bool | None = None
) -> Int[Array, " n"]:
    """The labels `(n,)` of a bank as whole numbers: -1 and +1, or class indices of an integer type.

    Args:
        name: the name of the argument in errors.
        labels: the labels.
        n: the number of examples.
        classes: the number of classes, each of which needs an example; None asks for at least two classes.
        signs: True accepts only -1 and +1, False only class indices.

    Raises:
        ValueError: other labels, another number of them, fewer than two classes, or a class without examples.

    >>> bank_labels("labels", [1.0, -1.0, 1.0], 3).tolist()
    [1, -1, 1]
    """
    signs = False if classes not in (None, 2) else signs
    indices = "class indices of an integer type" + ("" if classes is None else f", from 0 to {classes - 1}")
    expected = {True: "labels -1 and +1", False: indices, None: f"labels -1 and +1, or {indices}"}[signs]
    _check.real(name, labels, expected)
    shape = _check.array_shape(labels)
    _check.require(shape == (n,), name, f"shape ({n},), one label per example", f"shape {shape}")
    if _check.is_concrete(labels):
        values = np.unique(np.asarray(labels))
        whole = np.issubdtype(values.dtype, np.integer)
        if signs or (signs is None and not (whole and values[0] >= 0)):
            _check.require(np.isin(values, (-1, 1)).all(), name, expected, f"{values[:5].tolist()}")
            _check.require(len(values) == 2, name, "examples of both classes", f"{values[0]} alone")
        else:
            fit = whole and values[0] >= 0 and (classes is None or values[-1] < classes)
            _check.require(fit, name, expected, f"{values[[0, -1]].tolist()}")
            _check.require(len(values) > 1, name, "examples of at least two classes", f"class {values[0]} alone")
            missing = np.setdiff1d(np.arange(classes or 0), values)
            got = f"none of class {', '.join(map(str, missing[:5]))}"
            _check.require(len(missing) == 0, name, f"examples of each of the {classes} classes", got)
    return jnp.asarray(labels).astype(jnp.int32)
