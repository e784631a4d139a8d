"""The tangent features of a network at its parameters, and their Gram matrix."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree, Real

from gsjax import _check

ApplyFn = Callable[[Any, Any], Any]
Jacobian = Callable[[Array], PyTree]

# How many numbers one block of the Jacobian may hold: 256 MiB in float32, 512 MiB in float64.
_BLOCK = 2**26


def ntrf(apply_fn: ApplyFn, params: PyTree, x: Real[Array, "n ..."]) -> Float[Array, "n m"] | Float[Array, "n k m"]:
    """The matrix of neural tangent random features, Phi = d yhat / d theta (Pezeshki et al. 2021, Eq. 2).

    Args:
        apply_fn: `apply_fn(params, x)` -> `(n,)` or `(n, k)`, each example's output from that example alone.
        params: what `apply_fn` takes. Of flax variables only the collection "params" is differentiated.
        x: examples, `(n, ...)`.

    Returns:
        `(n, m)`, or `(n, k, m)` when the network returns `(n, k)`; columns in the order of
        `jax.flatten_util.ravel_pytree`.

    Raises:
        ValueError: x empty; NaN or infinity in x or the parameters; no parameters; an output of another
            shape.

    >>> def linear(w, x):
    ...     return x @ w
    >>> ntrf(linear, jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    x = jnp.asarray(x)
    outputs = _check_call(apply_fn, params, x, "x")
    columns = jax.tree.leaves(_jacobian(apply_fn, params, x))
    return jnp.concatenate(columns, axis=1).reshape(len(x), *outputs, -1)


def ntk(
    apply_fn: ApplyFn,
    params: PyTree,
    x1: Real[Array, "n1 ..."],
    x2: Real[Array, "n2 ..."] | None = None,
    *,
    batch_size: int | None = None,
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """The empirical neural tangent kernel Phi(x1) Phi(x2)^T, with Phi of Eq. 2 (Pezeshki et al. 2021).

    A sum over parameters, without a factor. Computed block by block, so that Phi is never held: the peak is
    the kernel, a copy of it, and the Jacobians of two blocks. With `x2=None` each pair of blocks is computed
    once, and the result is symmetric to the last bit. Outside of `jax.jit` every call compiles anew.

    Args:
        apply_fn: `apply_fn(params, x)` -> `(n,)` or `(n, k)`, each example's output from that example alone.
        params: what `apply_fn` takes. Of flax variables only the collection "params" is differentiated.
        x1: examples, `(n1, ...)`.
        x2: examples, `(n2, ...)`; x1 if None.
        batch_size: at most so many examples in a block; if None, as many as keep a block's Jacobian, of k m
            numbers an example, within 2^26 numbers (256 MiB in float32), but at least one.

    Returns:
        `(n1, n2)`, or `(n1, n2, k, k)` when the network returns `(n, k)`, k = 1 included.

    Raises:
        ValueError: x1 or x2 empty, or of different shapes beyond the first axis; NaN or infinity in them or
            the parameters; no parameters; an output of another shape; `batch_size` below one.

    >>> def linear(w, x):
    ...     return x @ w
    >>> ntk(linear, jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    """
    x1 = jnp.asarray(x1)
    outputs = _check_call(apply_fn, params, x1, "x1")
    if x2 is not None:
        x2 = jnp.asarray(x2)
        same = x2.ndim > 0 and x2.shape[1:] == x1.shape[1:]
        _check.require(same, "x2", f"examples of the shape of x1's, {x1.shape[1:]}", f"shape {x2.shape}")
        _check_call(apply_fn, params, x2, "x2")
    _check.require(batch_size is None or batch_size >= 1, "batch_size", "at least 1", batch_size)

    k = math.prod(outputs)
    if batch_size is None:
        m = sum(jnp.size(leaf) for leaf in jax.tree.leaves(_trainable(params)[0]))
        batch_size = max(1, _BLOCK // (k * m))
    jacobian = functools.partial(_jacobian, apply_fn, params)
    if x2 is None:
        padded = _symmetric(jacobian, _blocks(x1, batch_size))
        upper = padded[: len(x1) * k, : len(x1) * k]
        kernel = jnp.triu(upper) + jnp.triu(upper, 1).T
    else:
        padded = _rectangular(jacobian, _blocks(x1, batch_size), _blocks(x2, batch_size))
        kernel = padded[: len(x1) * k, : len(x2) * k]
    return kernel.reshape(len(x1), k, -1, k).transpose(0, 2, 1, 3) if outputs else kernel


def _symmetric(jacobian: Jacobian, blocks: Array) -> Float[Array, "nk nk"]:
    """The kernel on and above the diagonal, a row of blocks after another; below stand zeros."""
    rows = jax.tree.map(jnp.zeros_like, jax.eval_shape(jacobian, blocks[0]))
    leaves = jax.tree.leaves(rows)
    size, dtype = len(leaves[0]), jnp.result_type(*leaves)

    def step(carry: tuple[Array, PyTree], pair: tuple[Array, Array]) -> tuple[tuple[Array, PyTree], None]:
        kernel, rows = carry
        i, j = pair
        columns = jacobian(blocks[j])
        # Every row of blocks starts on the diagonal, so no Jacobian is computed for the rows alone.
        rows = lax.cond(i == j, lambda: columns, lambda: rows)
        return (lax.dynamic_update_slice(kernel, _contract(rows, columns), (i * size, j * size)), rows), None

    i, j = np.triu_indices(len(blocks))
    carry = jnp.zeros((len(blocks) * size,) * 2, dtype), rows
    return lax.scan(step, carry, (jnp.asarray(i), jnp.asarray(j)))[0][0]


def _rectangular(jacobian: Jacobian, blocks1: Array, blocks2: Array) -> Float[Array, "nk mk"]:
    def row(block: Array) -> Array:
        rows = jacobian(block)
        return jnp.concatenate(lax.map(lambda other: _contract(rows, jacobian(other)), blocks2), axis=1)

    return jnp.concatenate(lax.map(row, blocks1))


def _jacobian(apply_fn: ApplyFn, params: PyTree, x: Array) -> PyTree[Float[Array, "nk _"]]:
    """The Jacobian of `apply_fn`, every leaf flattened to a matrix, its rows the outputs of the examples."""
    trainable, rebuild = _trainable(params)

    def output(trainable: PyTree, example: Array) -> Array:
        return apply_fn(rebuild(trainable), example[None])[0]

    jacobian = jax.vmap(jax.jacrev(output), in_axes=(None, 0))(trainable, x)
    return jax.tree.map(lambda leaf, of: leaf.reshape(-1, jnp.size(of)), jacobian, trainable)


def _contract(rows: PyTree, columns: PyTree) -> Float[Array, "nk mk"]:
    """Inner products over all parameters; not in the reduced precision that accelerators default to."""
    products = jax.tree.map(lambda a, b: jnp.matmul(a, b.T, precision="highest"), rows, columns)
    return jax.tree.reduce(jnp.add, products)


def _blocks(x: Array, batch_size: int) -> Array:
    """Splits into blocks of one size, as even as can be, filled up with copies of the last example."""
    count = -(-len(x) // batch_size)
    size = -(-len(x) // count)
    filled = jnp.pad(x, [(0, count * size - len(x))] + [(0, 0)] * (x.ndim - 1), mode="edge")
    return filled.reshape(count, size, *x.shape[1:])


def _trainable(params: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """What is differentiated, and how `params` is put together again around it."""
    if isinstance(params, Mapping) and "params" in params:
        return params["params"], lambda trainable: {**params, "params": trainable}
    return params, lambda trainable: trainable


def _check_call(apply_fn: ApplyFn, params: PyTree, x: Array, name: str) -> tuple[int, ...]:
    """Checks what both functions are given; returns the shape of one example's output, `()` or `(k,)`."""
    _check.require(x.ndim and x.size, name, "a non-empty array (n, ...)", f"shape {x.shape}")
    _check.finite(name, x)
    leaves = jax.tree.leaves(_trainable(params)[0])
    _check.require(sum(map(jnp.size, leaves)), "params", "at least one parameter to differentiate", "none")
    for leaf in leaves:
        _check.finite("params", leaf)
    shape = tuple(getattr(jax.eval_shape(apply_fn, params, x), "shape", ()))
    right = len(shape) in (1, 2) and shape[:1] == (len(x),) and 0 not in shape
    _check.require(right, "apply_fn", f"an output ({len(x)},) or ({len(x)}, k)", f"shape {shape}")
    return shape[1:]
