"""The tangent features of a network at its parameters, and their Gram matrix."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, Real

from gsjax import _check
from gsjax.tangent import blocks
from gsjax.tangent.blocks import Grid
from gsjax.tangent.cache import Blocks
from gsjax.tangent.calls import ApplyFn, check_call, check_examples, trainable
from gsjax.tangent.explanation import warn_if_slow
from gsjax.tangent.factors import Given, Plan, factors, plan
from gsjax.tangent.gradients import Gradients, gradients
from gsjax.tangent.products import leaves, ordinary
from gsjax.tangent.programs import digest, shaped

__all__ = ["METHODS", "kernel", "ntk", "ntrf", "planned", "program_inputs"]

METHODS = ("auto", "structured", "jacobian")

# The most numbers in the factors of a block, 512 MiB in float32, and in the block itself, 256 MiB.
_FACTORS, _BLOCK = 2**27, 2**26


def ntrf(apply_fn: ApplyFn, params: PyTree, x: Real[Array, "n ..."]) -> Float[Array, "n m"] | Float[Array, "n k m"]:
    """The matrix of neural tangent random features, Phi = d yhat / d theta (Pezeshki et al. 2021, Eq. 2).

    Args:
        apply_fn: `apply_fn(params, x)` -> `(n,)` or `(n, k)`; each output depends on its own example only.
        params: the first argument of `apply_fn`. Of flax variables only the collection "params" is differentiated; for
            modules of nnx and Equinox see the docstring of `gsjax`. Leaves that cannot be differentiated (whole
            numbers, bools, typed PRNG keys) are passed to `apply_fn` unchanged.
        x: examples, `(n, ...)`.

    Returns:
        `(n, m)`, or `(n, k, m)` if the network returns `(n, k)`. The columns are in the order of
        `jax.flatten_util.ravel_pytree` for the differentiated leaves.

    Raises:
        ValueError: x is empty; x or the parameters have NaN or infinite entries; there are no parameters, or some are
            not floating point numbers or may not be meant as parameters; an output has the wrong shape, or depends on
            other examples of the batch.

    >>> def linear(w, x):
    ...     return x @ w
    >>> ntrf(linear, jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    x = check_examples("x", x)
    output, n = check_call(apply_fn, params, x, "x"), len(x)
    found = gradients(apply_fn, params, x, output)
    given = program_inputs(found, params)
    run = _compiled if _check.is_concrete(given, x) else _inline
    everything = plan(found, ordinary(found), n, n)
    return jnp.concatenate(run(factors, everything)(given, x).gradients, axis=1).reshape(n, *output.shape, -1)


def ntk(
    apply_fn: ApplyFn,
    params: PyTree,
    x1: Real[Array, "n1 ..."],
    x2: Real[Array, "n2 ..."] | None = None,
    *,
    method: str = "auto",
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """The empirical neural tangent kernel Phi(x1) Phi(x2)^T, with Phi of Eq. 2 (Pezeshki et al. 2021).

    The kernel is a sum over parameters, without a factor. It is exact for any JAX function of any framework. Phi is
    never formed. Instead, the program that computes the gradients is read: the contribution of a weight of a matrix
    product, a convolution or an embedding is contracted from the layer's inputs and the cotangents of its outputs. All
    other parameters contribute through their gradients for each example; `explain` says which. Sums are accumulated in
    the precision of the parameters, at least in float32. With `x2=None` the result is symmetric to the last bit.

    Peak memory is that of the kernel and a few blocks (twice the kernel for outputs `(n, k)`). Several blocks are
    computed in steps that show their progress; under a transformation such as `jax.jit`, and with `mesh`, in one
    program. `apply_fn` is traced at every call, which takes milliseconds, so the current values of variables that it
    closes over are used. Compiled programs are shared by functions that compute the same, up to the values of arrays
    that they close over.

    Args:
        apply_fn: `apply_fn(params, x)` -> `(n,)` or `(n, k)`; each output depends on its own example only.
        params: the first argument of `apply_fn`. Of flax variables only the collection "params" is differentiated; for
            modules of nnx and Equinox see the docstring of `gsjax`. Leaves that cannot be differentiated (whole
            numbers, bools, typed PRNG keys) are passed to `apply_fn` unchanged.
        x1: examples, `(n1, ...)`.
        x2: examples, `(n2, ...)`; x1 if None.
        method: "structured" as above; "jacobian" forms the gradients with respect to all parameters; "auto" is
            "structured".
        batch_size: the largest number of examples in a block; if None, as many as keep the factors of a block within
            2^27 numbers (512 MiB in float32), but at least one.
        mesh: devices; the rows of the kernel are sharded over its first axis. Each device computes its full rows,
            without use of the symmetry.
        cache: a folder for finished blocks. After an interruption, a call with the same arguments computes only the
            missing blocks. The folder holds half of a symmetric kernel.

    Returns:
        `(n1, n2)`, or `(n1, n2, k, k)` if the network returns `(n, k)`, including k = 1.

    Raises:
        ValueError: x1 or x2 is empty, or they differ in shape beyond the first axis; they or the parameters have NaN or
            infinite entries; there are no parameters, or some are not floating point numbers or may not be meant as
            parameters; an output has the wrong shape, or depends on other examples of the batch; the function has no
            derivative in reverse mode; the method is unknown; `batch_size` is not a whole number of at least one;
            `mesh` is not a mesh; the cache holds another kernel or is damaged, or one is requested under a
            transformation, with a mesh, or for a network that calls back Python functions.

    >>> def linear(w, x):
    ...     return x @ w
    >>> ntk(linear, jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    """
    x1 = check_examples("x1", x1)
    output = check_call(apply_fn, params, x1, "x1")
    if x2 is not None:
        x2 = check_examples("x2", x2)
        same = x2.shape[1:] == x1.shape[1:]
        _check.require(same, "x2", f"examples of the shape of x1's, {x1.shape[1:]}", f"shape {x2.shape}")
        if (x2.shape, x2.dtype) != (x1.shape, x1.dtype):
            check_call(apply_fn, params, x2, "x2")
        kind = jnp.promote_types(x1.dtype, x2.dtype)
        x1, x2 = x1.astype(kind), x2.astype(kind)
    known = isinstance(method, str) and method in METHODS
    _check.require(known, "method", f"one of {METHODS}", repr(method))
    batch_size = None if batch_size is None else _check.whole("batch_size", batch_size, least=1)
    is_mesh = mesh is None or isinstance(mesh, Mesh)
    _check.require(is_mesh, "mesh", "a jax.sharding.Mesh or None", type(mesh).__name__)
    is_folder = cache is None or isinstance(cache, str | os.PathLike)
    _check.require(is_folder, "cache", "a folder or None", type(cache).__name__)
    _check.require(cache is None or mesh is None, "cache", "None with a mesh", cache)
    found = gradients(apply_fn, params, x1, output)
    given = program_inputs(found, params)
    traced = not _check.is_concrete(given, x1, x2)
    _check.require(cache is None or not traced, "cache", "None under a transformation", cache)
    return kernel(found, given, x1, x2, method=method, batch_size=batch_size, mesh=mesh, cache=cache, params=params)


def kernel(
    found: Gradients,
    given: Given,
    x1: Array,
    x2: Array | None = None,
    *,
    method: str = "auto",
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    cache: str | os.PathLike[str] | None = None,
    params: PyTree = None,
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """The kernel from the program of gradients and its inputs `given`; `params` only names the leaves in a warning.

    All other arguments are those of `ntk`, already checked.
    """
    outputs = shaped(found.cotangent).shape
    k, n, m = math.prod(outputs), len(x1), None if x2 is None else len(x2)
    if mesh is not None:
        n, m = -(-n // mesh.shape[mesh.axis_names[0]]), m or n  # per device
    best, grid = planned(found, n, m, method=method, batch_size=batch_size)
    if method != "jacobian" and params is not None:
        warn_if_slow(best, params, n, m or n)

    traced = not _check.is_concrete(given, x1, x2)
    run = _inline if traced else _compiled
    if mesh is not None:
        matrix = run(blocks.over_devices, best, grid, mesh)(given, x1, x2)
    elif traced:
        matrix = blocks.in_one_program(best, grid, given, x1, x2)
    elif len(grid.pairs()) == 1 and cache is None:
        matrix = blocks.in_two_programs(best, given, x1, x2)
    else:
        kept = None
        if cache is not None:
            kept = Blocks(cache, digest("cache", found.program, *given, x1, x2, method, grid))
        matrix = blocks.in_steps(best, grid, given, x1, x2, kept)
    return matrix.reshape(len(x1), k, -1, k).transpose(0, 2, 1, 3) if outputs else matrix


def planned(
    found: Gradients, n: int, m: int | None = None, *, method: str = "auto", batch_size: int | None = None
) -> tuple[Plan, Grid]:
    """How the kernel of n by m examples, or a symmetric one (m None), is computed: the plan of a block, and the blocks.

    All arguments are those of `kernel`, already checked.
    """
    forms = ordinary(found) if method == "jacobian" else leaves(found)
    block_plan = functools.partial(plan, found, forms)
    if batch_size is None:
        k = math.prod(shaped(found.cotangent).shape)
        batch_size = max(1, min(_FACTORS // max(1, block_plan(n, m or n).numbers), math.isqrt(_BLOCK) // k))
    grid = blocks.grid(n, m, batch_size)
    return block_plan(grid.size, grid.width), grid


def program_inputs(found: Gradients, params: PyTree) -> Given:
    """The inputs of the program of gradients other than an example and a cotangent."""
    return found.consts, [jnp.asarray(leaf) for leaf in jax.tree.leaves(trainable(params)[0])]


def _inline(function: Callable[..., Any], *static: Any) -> Callable[..., Any]:
    return functools.partial(function, *static)


def _compiled(function: Callable[..., Any], *static: Any) -> Callable[..., Any]:
    """The compiled function; it is compiled once for equal `static` arguments."""
    return functools.partial(jax.jit(function, static_argnums=range(len(static))), *static)
