"""Refuses functions that mix the examples of a batch, by their program or, if that is undecided, by trial runs."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jaxtyping import Array, PyTree

from gsjax import _check
from gsjax.tangent.axes import Kind
from gsjax.tangent.separable import Verdict, calls_back, dependence, inner_programs
from gsjax.tangent.sizes import alike

__all__ = ["check_separable", "traced"]

_FEW = 4  # the largest number of examples in trial runs


def check_separable(
    apply_fn: Callable[[Any, Any], Any], params: PyTree, x: Array, program: ClosedJaxpr | None = None
) -> None:
    """Checks that output i of `apply_fn` is the same function of example i alone, for all i and all batch sizes.

    The function is traced for as many examples as x has and for one example. The programs show whether examples are
    mixed, and whether the function is the same for both numbers of examples (it is not for `net(x) / len(x)`). For most
    networks this is a proof, and nothing is run.

    If the programs do not decide, the function is run on a few examples, together and one by one. It is tried at the
    user's own values, at values close to them, and at random values, of both signs and of one sign. Outputs must agree,
    and the gradient of an output with respect to another example must vanish to the last bit. Functions whose outputs
    are NaN, infinite or all equal at all values tried are refused as well, since no kernel is better than a wrong one.
    Results are cached for programs that are equal with all their constants, unless these call back Python functions.
    While params or x are traced, only random values are tried; they also replace traced values that `apply_fn` closes
    over.

    Raises:
        ValueError: the function mixes examples, or this is undecided; the message names `apply_fn` and the operation.
    """
    n, leaves = len(x), jax.tree.leaves(params)
    few = n if 1 < n <= _FEW else 3
    several = n if n > 1 else few
    known = {n: program} if program else {}  # the program for x, if it has been traced
    programs = {several: known.get(several) or _program(apply_fn, params, x, several)}
    verdict = _read(programs, len(leaves))
    programs[1] = known.get(1) or _program(apply_fn, params, x, 1)
    if verdict.kind is Kind.SEPARATE and alike(programs[several], programs[1], several, 1):
        return
    if few not in programs:
        programs[few] = _program(apply_fn, params, x, few)
        verdict = _read(programs, len(leaves))
    found = [] if any(map(calls_back, programs.values())) else _remembered(_key(verdict, programs))
    if found:
        outcome = found[0]
    else:
        with jax.ensure_compile_time_eval(), jax.debug_nans(False), jax.debug_infs(False):
            outcome = _tried(verdict, programs, few, leaves, x)
        found += [outcome] if outcome != _UNDECIDED else []  # other values may decide
    context = f"; the program has {verdict.reason}" if verdict.reason else ""
    if outcome == _UNDECIDED and (verdict.kind is Kind.UNKNOWN or _check.is_concrete(leaves, x, programs[1].consts)):
        tried = "outputs are NaN, infinite or all equal at all values tried"
        _refuse(f"one for which that cannot be decided: {tried}{context}")
    if outcome and outcome != _UNDECIDED:
        _refuse(f"one that does: {outcome}{context}")


def _read(programs: Mapping[int, ClosedJaxpr], examples: int) -> Verdict:
    """The verdict of the programs; raises if they mix examples."""
    verdicts = [dependence(program, examples, size) for size, program in programs.items() if size > 1]
    worst = max(verdicts, key=lambda verdict: verdict.kind, default=Verdict(Kind.UNKNOWN))
    if worst.kind is Kind.MIXED:
        _refuse(f"one that does: {worst.reason}")
    return worst


_UNDECIDED = "undecided"


def _refuse(got: str) -> None:
    own = "an output that depends on no other example of the batch (batch norm in inference mode, no dropout)"
    raise ValueError(f"apply_fn: expected {own}, got {got}")


def traced(
    apply_fn: Callable[[Any, Any], Any], params: PyTree, x: Array, size: int
) -> tuple[ClosedJaxpr, jax.ShapeDtypeStruct]:
    """The program of `apply_fn` for `size` examples, with products in the precision of the kernel, and its output."""
    specs = jax.eval_shape(lambda: params), jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
    with jax.default_matmul_precision("highest"):
        # A new function each time: JAX would return the cached program even if values that it closes over have changed.
        return jax.make_jaxpr(lambda params, x: apply_fn(params, x), return_shape=True)(*specs)


def _program(apply_fn: Callable[[Any, Any], Any], params: PyTree, x: Array, size: int) -> ClosedJaxpr:
    try:
        program, output = traced(apply_fn, params, x, size)
    except Exception as error:
        got = f"{type(error).__name__} for {size}: {error}"
        raise ValueError(f"apply_fn: expected a function of any number of examples, got {got}") from error
    shape = _check.output("apply_fn", output)
    _check.require(shape[:1] == (size,), "apply_fn", f"{size} outputs for {size} examples", f"shape {shape}")
    return program


# The cache of results.


@functools.lru_cache(maxsize=256)
def _remembered(_key: bytes) -> list[str]:
    """A list for the result, the same list for equal keys."""
    return []


def _key(verdict: Verdict, programs: Mapping[int, ClosedJaxpr]) -> bytes:
    """A key that is equal for equal programs: operations and all constants, including those of inner programs."""
    digest = hashlib.blake2b(repr(verdict).encode())
    for program in programs.values():
        # The text shows functions by their addresses; what they compute is in the program itself.
        digest.update(re.sub(r" at 0x[0-9a-f]+", "", str(program.jaxpr)).encode())
        for value in _constants(program):
            if not _check.is_concrete(value):
                digest.update(b"traced")
            elif jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
                digest.update(np.asarray(jax.random.key_data(value)).tobytes())
            else:
                digest.update(np.asarray(value).tobytes())
    return digest.digest()


def _constants(program: ClosedJaxpr | Jaxpr) -> Iterator[Any]:
    jaxpr = program
    if isinstance(program, ClosedJaxpr):
        yield from program.consts
        jaxpr = program.jaxpr
    for eqn in jaxpr.eqns:
        yield from (value for value in eqn.params.values() if isinstance(value, np.ndarray | jax.Array))
        for part in inner_programs(eqn):
            yield from _constants(part)


# Trial runs.


class _Values(NamedTuple):
    leaves: list[Any]  # leaves of the parameters
    x: np.ndarray


_Run = Callable[[_Values], Array]


def _tried(verdict: Verdict, programs: Mapping[int, ClosedJaxpr], few: int, leaves: list[Any], x: Array) -> str:
    """How outputs differ, "" if they do not, or `_UNDECIDED` if no values tried can show it."""
    n = len(x)
    drawn: dict[int, Any] = {}
    run = {size: _runner(program, drawn) for size, program in programs.items()}
    tolerance = math.sqrt(max(map(_epsilon, programs.values())))
    decided = set()
    sizes = {few} if n <= few or alike(programs[n], programs[few], n, few) else {few, n}
    for size in sizes:
        rows = np.unique(np.linspace(0, size - 1, _FEW).astype(int))
        gradients = _gradients(run[size], rows)
        for family in _families(leaves, x, size):
            outputs = [_outputs(run, values, rows) for values in family]
            scale = max(np.abs(one[np.isfinite(one)]).max(initial=0) for triple in outputs for one in triple)
            for values, (together, alone, turned) in zip(family, outputs, strict=True):
                if _differ(together, alone, tolerance * scale):
                    return f"the output of an example alone differs from that in a batch of {size}"
                if _differ(together, turned, tolerance * scale):
                    return "outputs depend on the order of the examples"
                if verdict.kind is Kind.UNKNOWN and _leaks(gradients, values, rows):
                    return "the gradient of an output with respect to another example is not zero"
                # Outputs that are zero or all equal prove nothing: they may hide a function of the batch size.
                if np.isfinite(together).any() and (together != together[:1]).any():
                    decided.add(size)
    return "" if decided == sizes else _UNDECIDED


def _differ(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    finite = np.isfinite(one)
    return bool((finite != np.isfinite(other)).any() or (np.abs(one[finite] - other[finite]) > tolerance).any())


def _runner(program: ClosedJaxpr, drawn: dict[int, Any]) -> _Run:
    """The program as a compiled function, in which each traced constant is replaced by the same drawn value."""
    random = np.random.default_rng(0)
    constants = [
        value if _check.is_concrete(value) else drawn.setdefault(id(value), _drawn(random, value, positive=True))
        for value in program.consts
    ]

    def run(constants: list[Any], values: _Values) -> Array:
        return jaxpr_as_fun(ClosedJaxpr(program.jaxpr, constants))(*values.leaves, values.x)[0]

    return functools.partial(jax.jit(run), constants)


def _outputs(run: Mapping[int, _Run], values: _Values, rows: np.ndarray) -> list[np.ndarray]:
    """The outputs of some examples: in the batch, alone, and in the batch in another order."""
    order = np.roll(np.arange(len(values.x)), 1)

    def outputs(x: np.ndarray) -> np.ndarray:
        return np.asarray(run[len(x)](values._replace(x=x)), np.float64)

    alone = np.concatenate([outputs(values.x[i : i + 1]) for i in rows])
    return [outputs(values.x)[rows], alone, outputs(values.x[order])[np.argsort(order)[rows]]]


def _gradients(run: _Run, rows: np.ndarray) -> Callable[[_Values], Array]:
    """The gradients of the outputs of some examples with respect to all examples."""

    def gradients(values: _Values) -> Array:
        outputs, pull = jax.vjp(lambda x: run(values._replace(x=x)), jnp.asarray(values.x))
        weights = jnp.asarray(np.random.default_rng(0).normal(size=outputs.shape), outputs.dtype)
        return jnp.stack([pull(jnp.zeros_like(outputs).at[i].set(weights[i]))[0] for i in rows])

    return jax.jit(gradients)


def _leaks(gradients: Callable[[_Values], Array], values: _Values, rows: np.ndarray) -> bool:
    """Whether the gradient of an output with respect to another example is not zero."""
    if not _is_float(values.x):
        return False
    try:
        found = np.array(gradients(values), np.float64)
    except (NotImplementedError, TypeError, ValueError):  # no derivative, e.g. of a while loop
        return False
    found[np.arange(len(rows)), rows] = 0
    return bool(np.nan_to_num(found).any())


def _families(leaves: Sequence[Any], x: Array, size: int) -> Iterator[list[_Values]]:
    """Families of values to try; the outputs of a family have a common scale, even if some of them vanish."""
    random, concrete = np.random.default_rng(0), _check.is_concrete(list(leaves), x)
    if concrete:
        rows = np.asarray(x)[np.arange(size) * max(len(x), size) // size % len(x)]
        given = _Values(list(leaves), rows)
        yield [given, _Values([_perturbed(random, leaf) for leaf in leaves], _perturbed(random, rows, shuffled=True))]
    members = _check.is_concrete(x) and not _is_float(x)
    for positive in (False, True, False):
        drawn = [
            leaf if _check.is_concrete(leaf) and not _is_float(leaf) else _drawn(random, leaf, positive)
            for leaf in leaves
        ]
        spec = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        rows = np.asarray(x)[random.integers(0, len(x), size)] if members else _drawn(random, spec, positive, spread=1)
        yield [_Values(drawn, rows)]


def _is_float(value: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(value), jnp.floating))


def _drawn(random: np.random.Generator, spec: Any, positive: bool, spread: float | None = None) -> Any:
    """Random numbers on the scale of initialised layers.

    If `positive`, no number is negative, and arrays with at most one axis have numbers around 1, like variances.
    """
    shape, dtype = jnp.shape(spec), jnp.result_type(spec)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return random.integers(0, 2, shape).astype(dtype)
    spread = spread or math.sqrt(math.prod(shape[:-1]) if len(shape) > 1 else 1)
    values = random.standard_normal(shape) / spread
    return np.asarray(np.abs(values + (len(shape) < 2)) if positive else values).astype(dtype)


def _perturbed(random: np.random.Generator, value: Any, shuffled: bool = False) -> Any:
    """Numbers near those given, with the same signs, and positive for zeros; integers are kept, or `shuffled`."""
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
        return value
    given = np.asarray(value)
    if not _is_float(value):
        return random.permuted(given.reshape(len(given), -1), axis=1).reshape(given.shape) if shuffled else given
    noise = 0.1 * random.standard_normal(given.shape)
    perturbed = given.astype(np.float64) * np.exp(noise) + np.where(given == 0, np.abs(noise), 0)
    return perturbed.astype(given.dtype)


def _epsilon(program: ClosedJaxpr | Jaxpr) -> float:
    """The machine epsilon of the coarsest dtype in a program."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    found = [0.0, *(_epsilon(part) for eqn in jaxpr.eqns for part in inner_programs(eqn))]
    for dtype in {getattr(variable.aval, "dtype", None) for eqn in jaxpr.eqns for variable in eqn.outvars}:
        if dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
            found.append(float(jnp.finfo(dtype).eps))
    return max(found)
