"""What every kernel here asks of a network before it differentiates it."""

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


# Collections of flax beside "params", none of which holds parameters.
_COLLECTIONS = ("batch_stats", "cache", "intermediates", "perturbations", "params_axes")


def trainable(params: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """What is differentiated, and how `params` is put together again around it.

    Of flax variables that is the collection "params", of everything else all of it; `check_params` refuses what could
    be meant as either. Leaves that cannot be differentiated are None in the tree that is returned.

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
    """Every leaf that is differentiated is a parameter: floating point numbers, finite, and meant to be one.

    - Of flax variables the collection "params" is differentiated. A dict with that key is one of variables if it goes
      to a flax module's `apply` itself, or if all its other keys are collections that flax knows; else it is refused,
      as keys of the user's own would be left out in silence.
    - A state of nnx holds numbers in variables of the type `nnx.Param` alone, and an Equinox module inexact arrays
      alone, as `nnx.split(model, nnx.Param, ...)` and `eqx.partition(model, eqx.is_inexact_array)` leave them.
    - Whole numbers, bools and typed keys are left out: see `trainable`. Complex numbers and what holds no numbers are
      refused.
    - A float of Python counts as a parameter in other trees. None counts as nothing.

    Raises:
        ValueError: named `params`, with the line to write.
    """
    if _has_params(params) and not _is_flax_apply(apply_fn):
        beside = [key for key in params if key != "params" and not _is_without_parameters(params[key])]
        mappings = all(isinstance(params[key], Mapping) for key in ("params", *beside))
        others = [key for key in beside if not (mappings and key in _COLLECTIONS)]
        expected = (
            "flax variables, of which the collection 'params' alone is differentiated, or a tree without this key"
        )
        advice = (
            "rename 'params' if all of it is to be differentiated, or else close over the rest, "
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
            at = jax.tree_util.keystr(path, simple=True, separator="/")
            where = f"a leaf of {kind} at {at}" if at else f"a leaf of {kind}"
            raise ValueError(f"params: expected floating point numbers, got {where}: {_CLOSE_OVER}")
    size = sum(math.prod(jnp.shape(leaf)) for _, leaf in parameters)
    constants = [leaf for leaf in jax.tree.leaves(tree) if _is_constant(leaf)]
    found = f"{_named(constants)} alone" if constants else "none"
    _check.require(size, "params", "at least one parameter to differentiate", found)
    for _, leaf in parameters:
        if _check.is_concrete(leaf):
            _check.finite("params", leaf)


_CLOSE_OVER = "what is not to be differentiated is no part of params, but closed over by apply_fn"


def _has_params(params: PyTree) -> bool:
    # A state of nnx is a mapping, too; its keys are names of attributes.
    return isinstance(params, Mapping) and "params" in params and not isinstance(params, _of_nnx("State"))


def _is_flax_apply(apply_fn: Any) -> bool:
    """Whether `apply_fn` is the method `apply` of a flax module, also compiled or with arguments bound."""
    while apply_fn is not None:
        if isinstance(getattr(apply_fn, "__self__", None), nn.Module):
            return apply_fn.__name__ == "apply"
        inner = apply_fn.func if isinstance(apply_fn, functools.partial) else None
        apply_fn = inner or getattr(apply_fn, "__wrapped__", None)
    return False


def _of_nnx(*names: str) -> tuple[type, ...]:
    """Classes of nnx, none while it has not been imported: then there are no objects of them."""
    nnx = sys.modules.get("flax.nnx")
    return tuple(getattr(nnx, name) for name in names) if nnx else ()


def _check_modules(tree: PyTree) -> None:
    """No module of nnx or Equinox within `tree` holds what is no parameter."""
    variable, parameter = _of_nnx("Variable"), _of_nnx("Param")
    nodes = (*_of_nnx("Variable", "Module"), eqx.Module, eqx.nn.State)

    def visit(path: tuple[Any, ...], node: Any) -> None:
        at = jax.tree_util.keystr(path, simple=True, separator="/")
        where = f" at {at}" if at else ""
        split = "graphdef, params, rest = nnx.split(model, nnx.Param, ...)"
        applied = "apply_fn=lambda params, x: nnx.merge(graphdef, params, rest)(x)"
        if isinstance(node, variable):
            good = isinstance(node, parameter) or _is_without_parameters(node)
            expected = "floating point numbers in variables of the type nnx.Param alone"
            got = f"one of {type(node).__name__}{where}: {split}, {applied}"
            _check.require(good, "params", expected, got)
        elif isinstance(node, _of_nnx("Module")):
            got = f"the module {type(node).__name__}{where}: {split}, {applied}"
            raise ValueError(f"params: expected the parameters of a module of nnx, got {got}")
        elif isinstance(node, eqx.nn.State):
            raise ValueError(f"params: expected parameters, got a State of Equinox{where}: {_CLOSE_OVER}")
        elif isinstance(node, eqx.Module):
            others = [leaf for leaf in jax.tree.leaves(node) if not _is_array(leaf)]
            partition = "params, static = eqx.partition(model, eqx.is_inexact_array)"
            combined = "apply_fn=lambda params, x: jax.vmap(eqx.combine(params, static))(x)"
            got = f"{type(node).__name__} with {_named(others)}{where}: {partition}, {combined}"
            _check.require(not others, "params", "an Equinox module of inexact arrays alone", got)
            kept = jax.tree.leaves(node, is_leaf=lambda inner: isinstance(inner, eqx.nn.StateIndex))
            states = any(isinstance(inner, eqx.nn.StateIndex) and jax.tree.leaves(inner) for inner in kept)
            made = "model, state = eqx.nn.make_with_state(Model)(...)"
            got = f"{type(node).__name__} with initial values of a state{where}: {made}, {partition}"
            _check.require(not states, "params", "an Equinox module of parameters alone", got)

    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda node: isinstance(node, nodes))
    for path, node in leaves:
        visit(path, node)


def _check_collections(paths: Sequence[tuple[Any, ...]]) -> None:
    """No collection of flax other than "params" is among what the `paths` of a tree lead to."""
    keys = [tuple(getattr(key, "key", None) for key in path) for path in paths]
    variables = {path[:depth] for path in keys for depth, key in enumerate(path) if key == "params"}
    for path in keys:
        for depth, key in enumerate(path):
            statistics = key == "batch_stats" or (key in _COLLECTIONS and path[:depth] in variables)
            got = f"the collection {key!r} of flax: {_CLOSE_OVER}"
            _check.require(not statistics, "params", "parameters", got)


def _is_array(leaf: Any) -> bool:
    """Whether Equinox takes `leaf` for one of its inexact arrays, which those of NumPy and traced ones are, too."""
    return isinstance(leaf, np.ndarray | jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _named(leaves: Sequence[Any]) -> str:
    kinds = (str(leaf.dtype) if isinstance(leaf, np.ndarray | jax.Array) else type(leaf).__name__ for leaf in leaves)
    return ", ".join(f"a leaf of {kind}" for kind in dict.fromkeys(kinds))


def _kind(leaf: Any) -> Any:
    """The type of the numbers of `leaf`, None if it holds none."""
    if isinstance(leaf, np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct):
        return leaf.dtype
    return jnp.result_type(leaf) if isinstance(leaf, bool | int | float | complex) else None


def _is_constant(leaf: Any) -> bool:
    """Whether `leaf` holds what cannot be differentiated and is no mistake: whole numbers, bools, typed keys."""
    kind = _kind(leaf)
    kinds = (jnp.integer, jnp.bool_, jax.dtypes.prng_key)
    return kind is not None and any(jnp.issubdtype(kind, of) for of in kinds)


def _is_without_parameters(tree: PyTree) -> bool:
    """Whether all that `tree` holds would be left out in any case."""
    return all(map(_is_constant, jax.tree.leaves(tree)))


def check_examples(name: str, x: Any) -> Array:
    """`x` as a non-empty array `(n, ...)` of finite numbers.

    Raises:
        ValueError: it is none, with a word on the order of the arguments where it looks like parameters.
    """
    is_array = hasattr(x, "dtype") or isinstance(x, list | tuple | int | float)
    order = f"{type(x).__name__}: the arguments go in the order apply_fn, params, {name}"
    _check.require(is_array, name, "an array of examples (n, ...)", order)
    _check.real(name, x, "an array of real numbers")
    _check.require(
        _check.shape_of(x) and 0 not in _check.shape_of(x),
        name,
        "a non-empty array (n, ...)",
        f"shape {_check.shape_of(x)}",
    )
    _check.finite(name, x)
    return jnp.asarray(x)


def traced(apply_fn: ApplyFn, params: PyTree, x: Array, name: str) -> tuple[ClosedJaxpr, jax.ShapeDtypeStruct]:
    """The program of `apply_fn(params, x)`, with products as exact as they are in the kernel, and its output's shape.

    Raises:
        ValueError: `apply_fn` is no function of these arguments, or does not give floating point numbers.
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
    """Examples `x (n, ...)` and labels `y (n,)` of a network with outputs `(n,)`, as arrays, once all is checked.

    Raises:
        ValueError: one of the arguments is not what it should be; where outputs are `(n, k)`, it says what to do.
    """
    x = check_examples("x", x)
    _check.labels("y", y, len(x))
    check_params(apply_fn, params)
    _check.outputs("apply_fn", traced(apply_fn, params, x, "x")[1].shape, len(x))
    return x, jnp.asarray(y)


def check_call(apply_fn: ApplyFn, params: PyTree, x: Array, name: str) -> jax.ShapeDtypeStruct:
    """Checks what a kernel is asked of; returns one example's output, of shape `()` or `(k,)`."""
    check_params(apply_fn, params)
    program, output = traced(apply_fn, params, x, name)
    shape = output.shape
    right = len(shape) in (1, 2) and shape[:1] == (len(x),) and 0 not in shape
    _check.require(right, "apply_fn", f"an output ({len(x)},) or ({len(x)}, k)", f"shape {shape}")
    probing.check_separable(apply_fn, params, x, program)
    return jax.ShapeDtypeStruct(shape[1:], output.dtype)
