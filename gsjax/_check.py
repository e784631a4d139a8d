"""Validation at the public boundary: a bad argument raises a `ValueError` that names it.

Shapes and types can always be checked; values only outside of tracing. Under `jit`, `vmap` or `grad` the value checks
pass silently, and solvers report through their status instead.

The same conventions hold everywhere:

- a whole number is an integer of Python, NumPy or JAX; a bool or 3.0 does not count;
- a real number is an integer or floating point number of Python, NumPy or JAX; a bool, a string, None or a complex
  number does not count. It has to be finite, unless an interval says otherwise;
- a sequence is a list, a tuple, a range or an array with one axis; a string does not count;
- the outputs of a network with one output have shape `(n,)`. Shape `(n, 1)` is refused with the line of code that makes
  it `(n,)`, and two or more logits are refused with a pointer to `gsjax.multiclass`. Only the kernels and features of
  `tangent` accept outputs `(n, k)`, and keep k = 1 in their shapes.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

__all__ = [
    "array",
    "array_shape",
    "as_float",
    "choice",
    "finite",
    "flag",
    "floating",
    "floats",
    "is_concrete",
    "key",
    "known",
    "labels",
    "moments",
    "not_negative",
    "number",
    "numbers",
    "one_output",
    "orthonormal",
    "output",
    "outputs",
    "positive",
    "python",
    "real",
    "require",
    "scalar",
    "sequence",
    "shape",
    "single",
    "times",
    "whole",
    "wholes",
]


def is_concrete(*values: Any) -> bool:
    """Whether every leaf of `values` has a known value, i.e. none is being traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def python(value: Any) -> Any:
    """A number as Python's float, whose arithmetic changes no dtype; a traced one stays as it is."""
    return float(value) if is_concrete(value) else value


def known(value: Any, number: float) -> bool:
    """Whether a value is this number; a traced one may be any other."""
    return is_concrete(value) and bool(value == number)


def require(condition: Any, name: str, expected: str, got: Any) -> None:
    """Raises a `ValueError` that names the argument unless `condition` holds; a traced condition passes."""
    if is_concrete(condition) and not bool(condition):
        raise ValueError(f"{name}: expected {expected}, got {got}")


def whole(name: str, value: Any, *, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int; integers of Python, NumPy and JAX are accepted, bools and floats are not.

    >>> whole("top", np.int64(3), least=1)
    3
    """
    expected = "a whole number" + _range(least, most)
    try:
        if isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_:
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected {expected}, got {_told(value)}") from None
    in_range = (least is None or number >= least) and (most is None or number <= most)
    require(in_range, name, expected, number)
    return number


def wholes(name: str, values: Any, *, least: int | None = None) -> tuple[int, ...]:
    """`values` as a tuple of ints: a sequence, or an array with one axis, of numbers that `whole` accepts.

    >>> wholes("widths", np.array([8, 8]), least=1)
    (8, 8)
    """
    given = sequence(name, values, "whole numbers")
    try:
        return tuple(whole(name, value, least=least) for value in given)
    except ValueError:
        raise ValueError(f"{name}: expected whole numbers{_range(least, None)}, got {_told(values)}") from None


def sequence(name: str, values: Any, entries: str) -> Any:
    """`values` is a list, a tuple, a range or an array with one axis; the message calls its entries `entries`."""
    is_array = isinstance(values, np.ndarray | jax.Array) and values.ndim == 1 and is_concrete(values)
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    require(is_array or is_sequence, name, f"a sequence of {entries}", _told(values))
    return values


def flag(name: str, value: Any) -> bool:
    """`value` as a Python bool; NumPy bools are accepted, numbers are not."""
    require(isinstance(value, bool | np.bool_), name, "True or False", _told(value))
    return bool(value)


def choice(name: str, value: Any, options: Iterable[str]) -> None:
    """`value` is one of the `options`, which are strings."""
    options = tuple(options)
    require(isinstance(value, str) and value in options, name, f"one of {', '.join(options)}", _told(value))


def real(name: str, value: Any, expected: str = "real numbers") -> None:
    """`value`, traced or not, is a real number, an array of real numbers, or nested sequences of them."""
    if not _is_real(value):
        raise ValueError(f"{name}: expected {expected}, got {_told(value)}")


def array(name: str, value: Any) -> Array:
    """`value`, an array or nested sequences of real numbers, as a JAX array.

    Within a trace, the values of a NumPy array can be read, but not those of the array that this returns: check values
    before.
    """
    real(name, value, "an array of real numbers")
    return jnp.asarray(value)


def floating(name: str, value: Any) -> Array:
    """`value`, an array or nested sequences of real numbers, converted by `as_float`."""
    return as_float(array(name, value))


def floats(name: str, value: Any) -> np.ndarray:
    """`value`, an array or nested sequences of real numbers, as a NumPy array in float64."""
    real(name, value, "an array of real numbers")
    return np.asarray(value, dtype=float)


def finite(name: str, value: Any) -> None:
    """Every entry of `value` is a finite number."""
    real(name, value, "finite numbers")
    if is_concrete(value):
        bad = int(np.sum(~np.isfinite(_host(value))))
        require(bad == 0, name, "finite numbers", f"{bad} NaN or infinite entries")


def number(name: str, value: Any, interval: str = "(-inf, inf)") -> None:
    """`value` is a single real number in an interval such as "(0, 1]"."""
    expected = _IN_WORDS.get(interval, f"a number in {interval}")
    real(name, value, expected)
    scalar(name, value)
    numbers(name, value, interval, expected)


_IN_WORDS = {
    "(-inf, inf)": "a finite number",
    "(0, inf)": "a finite positive number",
    "[0, inf)": "a finite number, 0 or above",
}


def numbers(name: str, value: Any, interval: str, expected: str | None = None) -> None:
    """Every entry of `value` is a real number in an interval such as "(0, 1]".

    `expected` replaces the interval in the message.
    """
    expected = expected or f"numbers in {interval}"
    real(name, value, expected)
    if is_concrete(value):
        given = _host(value)
        low, high = (float(end) for end in interval[1:-1].split(","))
        above_low = given >= low if interval[0] == "[" else given > low
        below_high = given <= high if interval[-1] == "]" else given < high
        if not np.all(above_low & below_high):
            raise ValueError(f"{name}: expected {expected}, got {np.array2string(given, threshold=5)}")


def positive(name: str, value: Any) -> None:
    """Every entry of `value` is a finite number above zero."""
    numbers(name, value, "(0, inf)", "finite positive numbers")


def not_negative(name: str, value: Any) -> None:
    """Every entry of `value` is a finite number, zero or above."""
    numbers(name, value, "[0, inf)", "finite numbers, 0 or above")


def array_shape(value: Any) -> tuple[int, ...]:
    """The shape of an array, of a number, or of nested sequences, which `jnp.shape` does not accept."""
    return np.shape(value) if isinstance(value, list | tuple | range) else jnp.shape(value)


def scalar(name: str, value: Any) -> None:
    """`value` has no axes."""
    require(array_shape(value) == (), name, "a scalar", f"shape {array_shape(value)}")


def shape(name: str, value: Any, *, ndim: int) -> None:
    """`value` has `ndim` axes, none of them empty."""
    got = array_shape(value)
    require(len(got) == ndim, name, f"{ndim} axes", f"shape {got}")
    require(0 not in got, name, "a non-empty array", f"shape {got}")


def orthonormal(name: str, value: Any, expected: tuple[int, int] | None = None) -> Array:
    """`value`, orthonormal rows, as an array `(count, dimension)` of the default float type, of an `expected` shape."""
    real(name, value)
    shape(name, value, ndim=2)
    got = array_shape(value)
    require(expected in (None, got), name, f"shape {expected}", f"shape {got}")
    finite(name, value)
    rows = jnp.asarray(value, float)
    if is_concrete(value):
        given = np.asarray(value, float)
        error = float(np.abs(given @ given.T - np.eye(len(given))).max())
        tolerance = 100 * float(jnp.finfo(rows.dtype).eps)
        require(error <= tolerance, name, "orthonormal rows", f"inner products that differ by {error:.2g}")
    return rows


def labels(name: str, y: Any, n: int) -> None:
    """`y` holds `n` labels, each -1 or +1."""
    real(name, y, "labels -1 and +1")
    require(array_shape(y) == (n,), name, f"shape ({n},), one label per example", f"shape {array_shape(y)}")
    if is_concrete(y):
        values = np.unique(np.asarray(y))
        require(np.isin(values, (-1, 1)).all(), name, "labels -1 and +1", f"{values[:5].tolist()}")


def one_output(name: str, expected: str, got: tuple[int, ...], k: int) -> NoReturn:
    """Refuses the result of a network with outputs `(n, k)` where outputs `(n,)` are needed, and says what to do.

    Args:
        name: name of the argument: "apply_fn", "logits_fn", "network", or an array such as "ntk" (n, n, k, k).
        expected: the expected shape, in words.
        got: the actual shape.
        k: the number of outputs.

    Raises:
        ValueError: always.
    """
    if k == 1:
        advice = f"squeeze the output to (n,), {_SQUEEZED.get(name, f'{name}[:, 0]')}"
    else:
        advice = "for the logits of classes see gsjax.multiclass, whose features accept outputs (n, k)"
        if k == 2:
            advice += (
                "; two logits become one output by their difference, f[:, 1] - f[:, 0], with the classes as -1 and +1"
            )
    raise ValueError(f"{name}: expected {expected}, got shape {got}: {advice}")


# For each argument, the line of code that gives a single output the shape `(n,)`.
_SQUEEZED = {
    "apply_fn": "apply_fn=lambda params, x: network.apply(params, x)[:, 0]",
    "logits_fn": "logits_fn=lambda x: network.apply(params, x)[:, 0]",
    "network": "by a `return f[:, 0]` at the end of its __call__",
    "ntk": "or the kernel to (n, n), ntk[:, :, 0, 0]",
    "operator": "apply_fn=lambda params, x: network.apply(params, x)[:, 0]",
    "phi": "or the features to (n, m), phi[:, 0]",
}


def output(name: str, value: Any) -> tuple[int, ...]:
    """The shape of a network's output, actual or abstract, which has to be one array of floating point numbers."""
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    require(is_array, name, "outputs in one array", type(value).__name__)
    require(jnp.issubdtype(value.dtype, jnp.floating), name, "outputs in floating point", value.dtype)
    return tuple(value.shape)


def outputs(name: str, got: tuple[int, ...], n: int, *, classes: bool = False) -> None:
    """`got` is the shape `(n,)` of the outputs for n examples; with `classes`, `(n, k)` with k > 1 is accepted as well.

    >>> outputs("apply_fn", (3, 1), 3)
    Traceback (most recent call last):
    ValueError: apply_fn: expected outputs of shape (3,), got shape (3, 1): squeeze the output to (n,), apply_fn=...
    """
    expected = f"outputs ({n},) or ({n}, k) with k > 1" if classes else f"outputs of shape ({n},)"
    several = len(got) == 2 and got[0] == n and got[1] > 0
    if several and (got[1] == 1 or not classes):
        one_output(name, expected, got, got[1])
    require(got == (n,) or several, name, expected, f"shape {got}")


def key(name: str, value: Any) -> None:
    """`value` is a single JAX PRNG key, traced or not, either typed or of the older kind, two numbers in uint32."""
    is_array = isinstance(value, np.ndarray | jax.Array)
    typed = is_array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ()
    older = is_array and value.dtype == np.uint32 and value.shape == (2,)
    require(typed or older, name, "a key, such as jax.random.key(0)", _told(value))


def as_float(value: Any) -> Array:
    """`value` as an array of floating point numbers: of its own dtype, or of the default dtype if it holds integers."""
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def single(name: str, value: Any) -> Array:
    """`value` converted by `floating`; half precision becomes float32, since its sums lose digits."""
    array = floating(name, value)
    return array if jnp.finfo(array.dtype).bits >= 32 else array.astype(jnp.float32)


def moments(value: Any, dtype: Any) -> Array:
    """`times` as an array of `dtype`; the times have to increase from zero upwards both as given and in `dtype`."""
    if not is_concrete(value):
        value = jnp.asarray(value, dtype)
        shape("times", value, ndim=1)
        return value
    given = np.asarray(value)
    shape("times", given, ndim=1)
    finite("times", given)
    # In NumPy, since jnp would cast first where 64-bit types are off.
    increasing = given[0] >= 0 and bool(np.all(np.diff(given) > 0))
    require(increasing, "times", "an increasing sequence from 0 upwards", given)
    with np.errstate(over="ignore"):  # the next check reports it
        cast = given.astype(dtype)
    finite("times", cast)
    equal = int(np.sum(np.diff(cast) <= 0))
    require(equal == 0, "times", f"times that are distinct in {cast.dtype}", f"{equal} equal to the one before")
    return jnp.asarray(cast)


def times(value: Any) -> None:
    """`times` is a non-empty, increasing sequence of finite numbers from zero upwards."""
    real("times", value, "an array of real numbers")
    shape("times", value, ndim=1)
    finite("times", value)
    value = jnp.asarray(value)
    increasing = (value[0] >= 0) & jnp.all(jnp.diff(value) > 0)
    require(increasing, "times", "an increasing sequence from 0 upwards", value)


def _is_real(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, list | tuple):
        # Rows of unequal lengths give an array of objects.
        return all(map(_is_real, value)) and not (is_concrete(value) and _host(value).dtype == object)
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, int | float | range)
    if isinstance(value, jax.ShapeDtypeStruct) or not isinstance(dtype, np.dtype):
        return False
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def _host(value: Any) -> np.ndarray:
    """`value` as a NumPy array on the host."""
    try:
        found = np.asarray(value)
        # A Python int that is too large for any NumPy type is a number nevertheless.
        return np.asarray(value, float) if isinstance(value, int) and found.dtype == object else found
    except OverflowError:
        return np.asarray(np.inf)
    except ValueError:
        return np.asarray(None)


def _range(least: int | None, most: int | None) -> str:
    if least is None:
        return "" if most is None else f" of at most {most}"
    return f" of at least {least}" if most is None else f" from {least} to {most}"


def _told(value: Any) -> str:
    """A short text of `value` for a message: arrays appear as dtype and shape."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", ())
    if dtype is not None and (shape != () or not isinstance(dtype, np.dtype)):
        return f"{dtype} of shape {shape}"
    return reprlib.repr(value)
