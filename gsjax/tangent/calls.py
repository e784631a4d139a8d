"""Checks of a network, its parameters and its examples that every kernel makes before it differentiates."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, PyTree

from gsjax import _check
from gsjax.tangent import probing

__all__ = [
    "ApplyFn",
    "check_call",
    "check_examples",
    "check_params",
    "check_problem",
    "traced",
    "trainable",
]

ApplyFn = Callable[[Any, Any], Any]


# Collections of flax other than "params"; none of them holds parameters.
_COLLECTIONS = ("batch_stats", "cache", "intermediates", "perturbations", "params_axes")


def trainable(params: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """The part of `params` that is differentiated, and a function that puts it back into `params`.

    For flax variables this is the collection "params", for any other tree the whole tree; `check_params` refuses
    ambiguous cases. Leaves that cannot be differentiated are None in the returned tree.

    >>> tree, rebuild = trainable({"w": jnp.ones(2), "steps": 3})
    >>> tree, rebuild(jax.tree.map(jnp.negative, tree))
    ({'steps': None, 'w': Array([1., 1.], ...)}, {'steps': 3, 'w': Array([-1., -1.], ...)})
    """
    tree = params["params"] if _has_params(params) else params
    trained, rest = eqx.partition(tree, lambda leaf: not _is_constant(leaf))

    def rebuild(trained: PyTree) -> PyTree:
        tree = eqx.combine(trained, rest)
        return {**params, "params": tree} if _has_params(params) else tree

    return trained, rebuild


def check_params(apply_fn: ApplyFn, params: PyTree) -> None:
    """Checks that every leaf that is differentiated is meant as a parameter and holds finite floating point numbers.

    - Of flax variables, the collection "params" is differentiated. A dict with that key counts as flax variables if it
      is passed to a flax module's own `apply`, or if all its other keys are collections of flax. Any other such dict is
      refused, since its other keys would silently be left out.
    - A state of nnx may hold numbers in variables of the type `nnx.Param` only, and an Equinox module inexact arrays
      only, as returned by `nnx.split(model, nnx.Param, ...)` and `eqx.partition(model, eqx.is_inexact_array)`.
    - Whole numbers, bools and typed keys are left out: see `trainable`. Complex numbers and leaves without numbers are
      refused.
    - In other trees, a Python float counts as a parameter. None is ignored.

    Raises:
        ValueError: a leaf or the tree is refused; the message names `params` and says what to write.
    """
    if _has_params(params) and not _is_flax_apply(apply_fn):
        remaining = [key for key in params if key != "params" and not _is_without_parameters(params[key])]
        mappings = all(isinstance(params[key], Mapping) for key in ("params", *remaining))
        others = [key for key in remaining if not (mappings and key in _COLLECTIONS)]
        expected = "flax variables, of which only the collection 'params' is differentiated, or a tree without this key"
        advice = (
            "rename 'params' if the whole tree is to be differentiated; otherwise close over the rest, "
            "apply_fn=lambda params, x: network.apply({**rest, 'params': params}, x), params=variables['params']"
        )
        _check.require(not others, "params", expected, f"'params' beside {', '.join(map(repr, others))}: {advice}")
    tree = params["params"] if _has_params(params) else params
    _check_modules(tree)
    if tree is params:
        _check_collections([path for path, _ in jax.tree.leaves_with_path(tree)])
    parameters = jax.tree.leaves_with_path(trainable(params)[0])
    for path, leaf in parameters:
        kind = _kind(leaf)
        if kind is None or not jnp.issubdtype(kind, jnp.floating):
            kind = type(leaf).__name__ if kind is None else kind
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            got = f"a leaf of {kind} at {name}" if name else f"a leaf of {kind}"
            raise ValueError(f"params: expected floating point numbers, got {got}: {_CLOSE_OVER}")
    size = sum(math.prod(jnp.shape(leaf)) for _, leaf in parameters)
    constants = [leaf for leaf in jax.tree.leaves(tree) if _is_constant(leaf)]
    found = f"only {_named(constants)}" if constants else "none"
    _check.require(size, "params", "at least one parameter to differentiate", found)
    for _, leaf in parameters:
        if _check.is_concrete(leaf):
            _check.finite("params", leaf)


_CLOSE_OVER = "values that are not differentiated do not belong in params; let apply_fn close over them"


def _has_params(params: PyTree) -> bool:
    # A state of nnx is a mapping too; its keys are names of attributes.
    return isinstance(params, Mapping) and "params" in params and not isinstance(params, _nnx_classes("State"))


def _is_flax_apply(apply_fn: Any) -> bool:
    """Whether `apply_fn` is the method `apply` of a flax module, possibly compiled or with bound arguments."""
    while apply_fn is not None:
        if isinstance(getattr(apply_fn, "__self__", None), nn.Module):
            return apply_fn.__name__ == "apply"
        inner = apply_fn.func if isinstance(apply_fn, functools.partial) else None
        apply_fn = inner or getattr(apply_fn, "__wrapped__", None)
    return False


def _nnx_classes(*names: str) -> tuple[type, ...]:
    """Classes of nnx; none while nnx is not imported, since no objects of them exist then."""
    nnx = sys.modules.get("flax.nnx")
    return tuple(getattr(nnx, name) for name in names) if nnx else ()


def _check_modules(tree: PyTree) -> None:
    """Checks that modules of nnx or Equinox within `tree` hold parameters only."""
    variable, parameter = _nnx_classes("Variable"), _nnx_classes("Param")
    nodes = (*_nnx_classes("Variable", "Module"), eqx.Module, eqx.nn.State)

    def visit(path: tuple[Any, ...], node: Any) -> None:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        location = f" at {name}" if name else ""
        split = "graphdef, params, rest = nnx.split(model, nnx.Param, ...)"
        applied = "apply_fn=lambda params, x: nnx.merge(graphdef, params, rest)(x)"
        if isinstance(node, variable):
            good = isinstance(node, parameter) or _is_without_parameters(node)
            expected = "floating point numbers in variables of type nnx.Param only"
            got = f"one of {type(node).__name__}{location}: {split}, {applied}"
            _check.require(good, "params", expected, got)
        elif isinstance(node, _nnx_classes("Module")):
            got = f"the module {type(node).__name__}{location}: {split}, {applied}"
            raise ValueError(f"params: expected the parameters of a module of nnx, got {got}")
        elif isinstance(node, eqx.nn.State):
            raise ValueError(f"params: expected parameters, got a State of Equinox{location}: {_CLOSE_OVER}")
        elif isinstance(node, eqx.Module):
            others = [leaf for leaf in jax.tree.leaves(node) if not _is_array(leaf)]
            partition = "params, static = eqx.partition(model, eqx.is_inexact_array)"
            combined = "apply_fn=lambda params, x: jax.vmap(eqx.combine(params, static))(x)"
            got = f"{type(node).__name__} with {_named(others)}{location}: {partition}, {combined}"
            _check.require(not others, "params", "an Equinox module of inexact arrays only", got)
            kept = jax.tree.leaves(node, is_leaf=lambda inner: isinstance(inner, eqx.nn.StateIndex))
            states = any(isinstance(inner, eqx.nn.StateIndex) and jax.tree.leaves(inner) for inner in kept)
            made = "model, state = eqx.nn.make_with_state(Model)(...)"
            got = f"{type(node).__name__} with initial values of a state{location}: {made}, {partition}"
            _check.require(not states, "params", "an Equinox module of parameters only", got)

    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda node: isinstance(node, nodes))
    for path, node in leaves:
        visit(path, node)


def _check_collections(paths: Sequence[tuple[Any, ...]]) -> None:
    """Checks that the `paths` of a tree do not lead into a collection of flax other than "params"."""
    keys = [tuple(getattr(key, "key", None) for key in path) for path in paths]
    variables = {path[:depth] for path in keys for depth, key in enumerate(path) if key == "params"}
    for path in keys:
        for depth, key in enumerate(path):
            statistics = key == "batch_stats" or (key in _COLLECTIONS and path[:depth] in variables)
            got = f"the collection {key!r} of flax: {_CLOSE_OVER}"
            _check.require(not statistics, "params", "parameters", got)


def _is_array(leaf: Any) -> bool:
    """Whether `leaf` is an inexact array in the sense of Equinox, which includes NumPy arrays and tracers."""
    return isinstance(leaf, np.ndarray | jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _named(leaves: Sequence[Any]) -> str:
    kinds = (str(leaf.dtype) if isinstance(leaf, np.ndarray | jax.Array) else type(leaf).__name__ for leaf in leaves)
    return ", ".join(f"a leaf of {kind}" for kind in dict.fromkeys(kinds))


def _kind(leaf: Any) -> Any:
    """The dtype of `leaf`, None if it does not hold numbers."""
    if isinstance(leaf, np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct):
        return leaf.dtype
    return jnp.result_type(leaf) if isinstance(leaf, bool | int | float | complex) else None


def _is_constant(leaf: Any) -> bool:
    """Whether `leaf` cannot be differentiated but is allowed: whole numbers, bools, typed keys."""
    kind = _kind(leaf)
    kinds = (jnp.integer, jnp.bool_, jax.dtypes.prng_key)
    return kind is not None and any(jnp.issubdtype(kind, parent) for parent in kinds)


def _is_without_parameters(tree: PyTree) -> bool:
    """Whether no leaf of `tree` would be differentiated in any case."""
    return all(map(_is_constant, jax.tree.leaves(tree)))


def check_examples(name: str, x: Any) -> Array:
    """`x` as a non-empty array `(n, ...)` of finite numbers.

    Raises:
        ValueError: it is not; if it looks like parameters, the message gives the order of the arguments.
    """
    is_array = hasattr(x, "dtype") or isinstance(x, list | tuple | int | float)
    order = f"{type(x).__name__}: the arguments go in the order apply_fn, params, {name}"
    _check.require(is_array, name, "an array of examples (n, ...)", order)
    _check.real(name, x, "an array of real numbers")
    _check.require(
        _check.array_shape(x) and 0 not in _check.array_shape(x),
        name,
        "a non-empty array (n, ...)",
        f"shape {_check.array_shape(x)}",
    )
    _check.finite(name, x)
    return jnp.asarray(x)


def traced(apply_fn: ApplyFn, params: PyTree, x: Array, name: str) -> tuple[ClosedJaxpr, jax.ShapeDtypeStruct]:
    """The program of `apply_fn(params, x)`, with products in the precision of the kernel, and its output's shape.

    Raises:
        ValueError: `apply_fn` cannot be called with these arguments, or does not return floating point numbers.
    """
    no_module = callable(apply_fn) and not isinstance(apply_fn, nn.Module)
    got = f"{type(apply_fn).__name__}"
    _check.require(no_module, "apply_fn", "a function of params and x, such as network.apply", got)
    try:
        program, output = probing.traced(apply_fn, params, x, len(x))
    except Exception as error:
        expected = f"a function of the given params and of {name}, {x.dtype} of shape {x.shape}"
        raise ValueError(f"apply_fn: expected {expected}, got {type(error).__name__}: {error}") from error
    _check.output("apply_fn", output)
    return program, output


def check_problem(apply_fn: ApplyFn, params: PyTree, x: Any, y: Any) -> tuple[Array, Array]:
    """Checks the arguments of a problem with outputs `(n,)`; returns examples `x (n, ...)` and labels `y (n,)`.

    Raises:
        ValueError: an argument is invalid; for outputs `(n, k)`, the message says what to do.
    """
    x = check_examples("x", x)
    _check.labels("y", y, len(x))
    check_params(apply_fn, params)
    _check.outputs("apply_fn", traced(apply_fn, params, x, "x")[1].shape, len(x))
    return x, jnp.asarray(y)


def check_call(apply_fn: ApplyFn, params: PyTree, x: Array, name: str) -> jax.ShapeDtypeStruct:
    """Checks the arguments of a kernel; returns the output of one example, of shape `()` or `(k,)`."""
    check_params(apply_fn, params)
    program, output = traced(apply_fn, params, x, name)
    shape = output.shape
    right = len(shape) in (1, 2) and shape[:1] == (len(x),) and 0 not in shape
    _check.require(right, "apply_fn", f"an output ({len(x)},) or ({len(x)}, k)", f"shape {shape}")
    probing.check_separable(apply_fn, params, x, program)
    return jax.ShapeDtypeStruct(shape[1:], output.dtype)
