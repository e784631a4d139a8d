"""What every kernel here asks of a network before it differentiates it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from gsjax import _check

ApplyFn = Callable[[Any, Any], Any]


def trainable(params: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """What is differentiated, and how `params` is put together again around it."""
    if isinstance(params, Mapping) and "params" in params:
        return params["params"], lambda trainable: {**params, "params": trainable}
    return params, lambda trainable: trainable


def check_call(apply_fn: ApplyFn, params: PyTree, x: Array, name: str) -> tuple[int, ...]:
    """Checks what `apply_fn`, which has a hash, is given; returns one example's output shape, `()` or `(k,)`."""
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
    own = "an output that depends on no other example of the batch (batch norm in inference mode, no dropout)"
    _check.require(_separable(apply_fn, *abstract(params, x)), "apply_fn", own, "one that does")
    return shape[1:]


def hashable(apply_fn: ApplyFn) -> ApplyFn:
    """The same function, or a new one in the place of an object without a hash."""
    try:
        hash(apply_fn)
    except TypeError:
        return lambda params, x: apply_fn(params, x)
    return apply_fn


def abstract(params: PyTree, x: Array) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """The tree of the parameters and one example, and its leaves without their values; both can be hashed."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda: (params, x[:1])))
    return tree, tuple(leaves)


@functools.lru_cache(maxsize=64)
def _separable(apply_fn: ApplyFn, tree: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> bool:
    """Whether an example has the same output alone as after three others.

    It has not if examples are mixed, as by batch normalisation in training mode, or if random numbers are drawn for
    the whole batch. That is a property of the network, hence looked at for random parameters: also while the true
    ones are traced, and where an output that is centred would vanish. Passed if it closes over values being traced.
    """
    random = np.random.default_rng(0)

    def values(like: jax.ShapeDtypeStruct, shape: tuple[int, ...]) -> Array:
        if not jnp.issubdtype(like.dtype, jnp.floating):
            return jnp.asarray(random.integers(0, 2, shape), like.dtype)
        spread = math.sqrt(math.prod(shape[:-1]) if len(shape) > 1 else 1)
        return jnp.asarray(np.abs(random.standard_normal(shape) + (len(shape) < 2)) / spread, like.dtype)

    with jax.ensure_compile_time_eval():
        drawn = [values(leaf, leaf.shape) for leaf in leaves[:-1]]
        x = values(leaves[-1], (4, *leaves[-1].shape[1:]))
        params, _ = jax.tree.unflatten(tree, [*drawn, x])

        @jax.jit
        def separable(params: PyTree, x: Array) -> Array:
            beside, alone = apply_fn(params, x)[-1], apply_fn(params, x[-1:])[0]
            scale = jnp.maximum(jnp.abs(beside), jnp.abs(alone))
            return ~jnp.any(jnp.abs(beside - alone) > jnp.sqrt(jnp.finfo(scale.dtype).eps) * scale)

        found = separable(params, x)
    return bool(found) if _check.is_concrete(found) else True
