"""What every kernel here asks of a network before it differentiates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from gsjax import _check

ApplyFn = Callable[[Any, Any], Any]


def trainable(params: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """What is differentiated, and how `params` is put together again around it."""
    if isinstance(params, Mapping) and "params" in params:
        return params["params"], lambda trainable: {**params, "params": trainable}
    return params, lambda trainable: trainable


def check_call(apply_fn: ApplyFn, params: PyTree, x: Array, name: str) -> tuple[int, ...]:
    """Checks the shapes and values that `apply_fn` is given; returns one example's output shape, `()` or `(k,)`."""
    _check.require(x.ndim and x.size, name, "a non-empty array (n, ...)", f"shape {x.shape}")
    _check.finite(name, x)
    leaves = jax.tree.leaves(trainable(params)[0])
    _check.require(sum(map(jnp.size, leaves)), "params", "at least one parameter to differentiate", "none")
    for leaf in leaves:
        kind = jnp.result_type(leaf)
        _check.require(jnp.issubdtype(kind, jnp.floating), "params", "floating point numbers", f"a leaf of {kind}")
        _check.finite("params", leaf)
    shape = tuple(getattr(jax.eval_shape(apply_fn, params, x), "shape", ()))
    right = len(shape) in (1, 2) and shape[:1] == (len(x),) and 0 not in shape
    _check.require(right, "apply_fn", f"an output ({len(x)},) or ({len(x)}, k)", f"shape {shape}")
    return shape[1:]


def separable(apply_fn: ApplyFn, params: PyTree, x: Array) -> Bool[Array, ""]:
    """Whether the first example has the same output alone as after up to three others (zeros, if x has no more).

    It has not if examples are mixed, as by batch normalisation in training mode, or if random numbers are drawn for
    the whole batch. Parameters are moved a little, since an output that is centred vanishes where they are.
    """
    tree, rebuild = trainable(params)
    waves = jax.tree.map(lambda leaf: 1 + jnp.cos(jnp.arange(jnp.size(leaf))).reshape(jnp.shape(leaf)) / 8, tree)
    moved = rebuild(jax.tree.map(lambda leaf, wave: (leaf * wave).astype(jnp.result_type(leaf)), tree, waves))
    others = x[1:4] if len(x) > 1 else jnp.zeros_like(x)
    alone, beside = apply_fn(moved, x[:1])[0], apply_fn(moved, jnp.concatenate([others, x[:1]]))[-1]
    scale = jnp.maximum(jnp.abs(beside), jnp.abs(alone))
    return ~jnp.any(jnp.abs(beside - alone) > jnp.sqrt(jnp.finfo(scale.dtype).eps) * scale)


def guarded(result: Array, independent: Array) -> Array:
    """The result, if every example's output is its own; otherwise an error, or NaN where values are traced."""
    expected = "an output that depends on no other example of the batch (batch norm in inference mode, no dropout)"
    _check.require(independent, "apply_fn", expected, "one that does")
    return result if _check.is_concrete(independent) else jnp.where(independent, result, jnp.nan)


def hashable(apply_fn: ApplyFn) -> ApplyFn:
    """The same function, or a new one in the place of an object without a hash."""
    try:
        hash(apply_fn)
    except TypeError:
        return lambda params, x: apply_fn(params, x)
    return apply_fn
