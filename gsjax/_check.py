"""Validation at the public boundary: a bad argument raises a `ValueError` that names it.

Values can only be looked at outside of tracing; shapes always. Under `jit`, `vmap` or `grad` the value checks
pass silently, and solvers report through their status instead.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def is_concrete(*values: Any) -> bool:
    """Whether every leaf of `values` can be looked at, i.e. none is being traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def require(condition: Any, name: str, expected: str, got: Any) -> None:
    """Raises `ValueError` naming the argument unless `condition` holds; a traced condition passes."""
    if is_concrete(condition) and not bool(condition):
        raise ValueError(f"{name}: expected {expected}, got {got}")


def whole(name: str, value: Any, *, least: int | None = None) -> int:
    """`value` as an int: a whole number of Python, NumPy or jax counts as one, a bool or a float does not.

    >>> whole("top", np.int64(3), least=1)
    3
    """
    expected = "a whole number" if least is None else f"a whole number of at least {least}"
    try:
        if isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_:
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected {expected}, got {value!r}") from None
    require(least is None or number >= least, name, expected, number)
    return number


def finite(name: str, value: Any) -> None:
    """Every entry of `value` is a finite number."""
    if is_concrete(value):
        array = np.asarray(value)
        if not jnp.issubdtype(array.dtype, jnp.number):
            raise ValueError(f"{name}: expected finite numbers, got {value!r}")
        bad = int(np.sum(~np.isfinite(array)))
        require(bad == 0, name, "finite numbers", f"{bad} NaN or infinite entries")


def shape(name: str, value: Any, *, ndim: int) -> None:
    """`value` has `ndim` axes, none of them empty."""
    got = jnp.shape(value)
    require(len(got) == ndim, name, f"{ndim} axes", f"shape {got}")
    require(0 not in got, name, "a non-empty array", f"shape {got}")


def labels(name: str, y: Any, n: int) -> None:
    """`y` holds `n` labels, each -1 or +1."""
    require(jnp.shape(y) == (n,), name, f"shape ({n},), one label an example", f"shape {jnp.shape(y)}")
    if is_concrete(y):
        values = np.unique(np.asarray(y))
        require(np.isin(values, (-1, 1)).all(), name, "labels -1 and +1", f"{values[:5].tolist()}")


def positive(name: str, value: Any) -> None:
    """Every entry of `value` is a finite number above zero."""
    if is_concrete(value):
        array = np.asarray(value)
        numbers = jnp.issubdtype(array.dtype, jnp.number)
        if not (numbers and np.all(np.isfinite(array) & (array > 0))):
            raise ValueError(f"{name}: expected finite positive numbers, got {np.array2string(array, threshold=5)}")


def scalar(name: str, value: Any) -> None:
    """`value` has no axes."""
    require(jnp.shape(value) == (), name, "a scalar", f"shape {jnp.shape(value)}")


def as_float(value: Any) -> Array:
    """`value` as an array of floating point numbers: of its own dtype, or the default one if it has whole numbers."""
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def moments(value: Any, dtype: Any) -> Array:
    """`times` as an array of `dtype`, once it is an increasing sequence of them both as given and in `dtype`."""
    if not is_concrete(value):
        value = jnp.asarray(value, dtype)
        shape("times", value, ndim=1)
        return value
    given = np.asarray(value)
    shape("times", given, ndim=1)
    finite("times", given)
    # By NumPy: jnp would cast first, where 64-bit types are off.
    increasing = given[0] >= 0 and bool(np.all(np.diff(given) > 0))
    require(increasing, "times", "an increasing sequence from 0 upwards", given)
    with np.errstate(over="ignore"):  # named by the check that follows
        cast = given.astype(dtype)
    finite("times", cast)
    equal = int(np.sum(np.diff(cast) <= 0))
    require(equal == 0, "times", f"times that {cast.dtype} tells apart", f"{equal} equal to the one before")
    return jnp.asarray(cast)


def times(value: Any) -> None:
    """`times` is a non-empty, increasing sequence of finite numbers from zero upwards."""
    shape("times", value, ndim=1)
    finite("times", value)
    increasing = (value[0] >= 0) & jnp.all(jnp.diff(value) > 0)
    require(increasing, "times", "an increasing sequence from 0 upwards", value)
