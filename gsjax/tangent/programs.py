"""The computation of a network as a program that can be read, compared with another, and evaluated in part.

A function is traced anew at every use, so the current values of variables that it closes over are used. Arrays among
them become arguments of the program, and everything else is part of its structure. Two programs with the same structure
are equal and share compiled code.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core import primitives as p

from gsjax import _check

__all__ = [
    "Atom",
    "Program",
    "bind",
    "dependent",
    "digest",
    "evaluate",
    "hashable",
    "inline",
    "needed",
    "retraced",
    "run",
    "shaped",
    "spec",
    "structure",
]

Atom: TypeAlias = Var | Literal

# Calls that can be inlined, and the parameter that holds their program.
_CALLS = {
    p.jit_p.name: "jaxpr",
    p.remat_p.name: "jaxpr",
    p.closed_call_p.name: "call_jaxpr",
    p.call_p.name: "call_jaxpr",
}
# Calls with custom derivative rules, which matter only if the program is differentiated.
_RULES = {p.custom_jvp_call_p.name: "call_jaxpr", p.custom_vjp_call_p.name: "call_jaxpr"}


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A program, equal to any other with the same structure; its constants are arguments of the evaluation."""

    jaxpr: Jaxpr
    structure: Hashable
    _hash: int

    @classmethod
    def from_jaxpr(cls, jaxpr: Jaxpr, *, rules: bool) -> Program:
        """The program of a jaxpr; `rules` includes custom derivative rules, for programs that are differentiated."""
        found = structure(jaxpr, rules=rules)
        return cls(jaxpr, found, hash(found))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._hash == other._hash and self.structure == other.structure

    def __hash__(self) -> int:
        return self._hash


def inline(closed: ClosedJaxpr, *, rules: bool = True) -> ClosedJaxpr:
    """The same program without calls; those with custom derivative rules stay if `rules` is set."""
    calls = _CALLS if rules else _CALLS | _RULES

    def replacement(eqn: JaxprEqn, args: list[Any]) -> list[Any] | None:
        if eqn.primitive.name not in calls:
            return None
        inner = eqn.params[calls[eqn.primitive.name]]
        jaxpr, consts = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
        return run(jaxpr, consts, args, replacement)

    if not any(eqn.primitive.name in calls for eqn in closed.jaxpr.eqns):
        return closed
    return retraced(closed, replacement)


Replacement: TypeAlias = Callable[[JaxprEqn, list[Any]], list[Any] | None]


def spec(value: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a value, traced or not."""
    kind = jax.typeof(value)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=kind.weak_type)


def retraced(closed: ClosedJaxpr, replacement: Replacement) -> ClosedJaxpr:
    """The program in which each operation is replaced by the results of `replacement`, unless these are None."""
    specs = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in closed.in_avals]
    return jax.make_jaxpr(lambda *args: run(closed.jaxpr, closed.consts, args, replacement))(*specs)


def run(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    replacement: Replacement | None = None,
) -> list[Any]:
    """The outputs of a program; each operation is replaced by the results of `replacement`, unless these are None."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    return evaluate(jaxpr, values, jaxpr.outvars, replacement)


def evaluate(
    jaxpr: Jaxpr,
    values: Mapping[Var, Any],
    wanted: Iterable[Atom],
    replacement: Replacement | None = None,
) -> list[Any]:
    """The `wanted` variables of a program from the `values` of others; only the operations needed are evaluated."""
    wanted = list(wanted)
    values = dict(values)

    def read(atom: Atom) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in needed(jaxpr, wanted, values):
        args = [read(atom) for atom in eqn.invars]
        results = None if replacement is None else replacement(eqn, args)
        if results is None:
            results = bind(eqn, args)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in wanted]


def needed(jaxpr: Jaxpr, wanted: Iterable[Atom], known: Collection[Var] = ()) -> list[JaxprEqn]:
    """The operations that lead from the inputs and the `known` variables to the `wanted` ones, in order."""
    missing = {atom for atom in wanted if isinstance(atom, Var) and atom not in known}
    found = []
    for eqn in reversed(jaxpr.eqns):
        if not missing.isdisjoint(eqn.outvars):
            found.append(eqn)
            missing.difference_update(eqn.outvars)
            missing.update(atom for atom in eqn.invars if isinstance(atom, Var) and atom not in known)
    return found[::-1]


def bind(eqn: JaxprEqn, args: Sequence[Any]) -> Sequence[Any]:
    """The results of an operation applied to `args`."""
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*args, **eqn.primitive.get_bind_params(eqn.params))
    return results if eqn.primitive.multiple_results else [results]


def shaped(atom: Atom) -> ShapedArray:
    """Shape and dtype of a variable that is an array."""
    return cast(ShapedArray, atom.aval)


def dependent(jaxpr: Jaxpr, inputs: Iterable[Atom]) -> set[Var]:
    """All variables of a program that depend on one of `inputs`; outputs of loops and branches are distinguished."""
    found = {atom for atom in inputs if isinstance(atom, Var)}
    for eqn in jaxpr.eqns:
        given = [isinstance(atom, Var) and atom in found for atom in eqn.invars]
        if any(given):
            found.update(itertools.compress(eqn.outvars, _dependent_outputs(eqn, given)))
    return found


def _dependent_outputs(eqn: JaxprEqn, given: list[bool]) -> list[bool]:
    """Which outputs of an operation depend on the inputs marked by `given`."""

    def outputs(jaxpr: Jaxpr, given: list[bool]) -> list[bool]:
        found = dependent(jaxpr, itertools.compress(jaxpr.invars, given))
        return [isinstance(atom, Var) and atom in found for atom in jaxpr.outvars]

    if eqn.primitive.name == p.scan_p.name:
        first, carries = eqn.params["num_consts"], eqn.params["num_carry"]
        while True:
            marks = outputs(eqn.params["jaxpr"].jaxpr, given)
            more = [a or b for a, b in zip(given[first:], marks[:carries], strict=False)]
            if given[first : first + carries] == more:
                return marks
            given = [*given[:first], *more, *given[first + carries :]]
    if eqn.primitive.name == p.cond_p.name and not given[0]:
        marks = (outputs(branch.jaxpr, given[1:]) for branch in eqn.params["branches"])
        return list(map(any, zip(*marks, strict=True)))
    return [True] * len(eqn.outvars)


def structure(jaxpr: Jaxpr, *, rules: bool) -> Hashable:
    """Everything of a program except the values of its constants; the constants of inner programs are included.

    Objects unknown to JAX, such as callback functions, are compared by identity or their own equality; so are custom
    derivative rules if `rules` is set.
    """
    numbers: dict[Var, int] = {}

    def named(var: Var) -> Hashable:
        return numbers.setdefault(var, len(numbers)), _kind(var.aval)

    def read(atom: Atom) -> Hashable:
        return ("literal", hashable(atom.val), _kind(atom.aval)) if isinstance(atom, Literal) else numbers[atom]

    inputs = tuple(map(named, (*jaxpr.constvars, *jaxpr.invars)))
    eqns = []
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        held = {_RULES[name]: eqn.params[_RULES[name]]} if name in _RULES and not rules else eqn.params
        params = tuple((name, hashable(value, rules=rules)) for name, value in sorted(held.items()))
        eqns.append((name, tuple(map(read, eqn.invars)), params, tuple(map(named, eqn.outvars))))
    return len(jaxpr.constvars), inputs, tuple(eqns), tuple(map(read, jaxpr.outvars))


def _kind(aval: Any) -> Hashable:
    if hasattr(aval, "dtype"):
        return aval.shape, str(aval.dtype), getattr(aval, "weak_type", False)
    return str(aval)


def hashable(value: Any, *, rules: bool = True) -> Hashable:
    """A hashable form of a parameter of an operation, equal for equal values."""
    inner = functools.partial(hashable, rules=rules)
    if isinstance(value, ClosedJaxpr):
        return "program", structure(value.jaxpr, rules=rules), tuple(map(inner, value.consts))
    if isinstance(value, Jaxpr):
        return "program", structure(value, rules=rules)
    if isinstance(value, jax.Array) and not _check.is_concrete(value):
        return _Same(value)
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return "key", str(value.dtype), inner(jax.random.key_data(value))
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return "array", array.shape, str(array.dtype), array.tobytes()
    if isinstance(value, float | complex):
        return type(value).__name__, repr(value)  # 0.0 is not -0.0, nan is nan
    if isinstance(value, tuple | list):
        return type(value).__name__, *map(inner, value)
    if isinstance(value, Mapping):
        return type(value).__name__, *((inner(key), inner(item)) for key, item in value.items())
    if isinstance(value, bool | int):
        return type(value).__name__, value
    return value if _has_hash(value) else _Same(value)


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


class _Same:
    """An object without a hash, compared by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _is_of_jax(function: Any) -> bool:
    """Whether `function` is a module-level function of JAX, such as one that generates random numbers."""
    name = getattr(function, "__qualname__", "<locals>")
    return getattr(function, "__module__", "").split(".")[0] == "jax" and "<locals>" not in name


def digest(name: str, program: Program, *values: Any) -> str:
    """A checksum of a program and of arrays, the same in every process.

    Raises:
        ValueError: the program calls back Python functions, which cannot be inspected; the message names `name`.
    """
    checksum = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, tuple):
            checksum.update(f"({len(value)}".encode())
            for item in value:
                add(item)
            return
        if isinstance(value, bytes):
            checksum.update(f"{len(value)}:".encode() + value)
            return
        if callable(value) and _is_of_jax(value):
            value = f"{value.__module__}.{value.__qualname__} of {jax.__version__}"
        text = repr(value)
        opaque = isinstance(value, _Same) or " at 0x" in text or callable(value)
        got = f"{type(value).__name__}"
        _check.require(not opaque, name, "None for a program that calls back Python functions", got)
        checksum.update(f"{type(value).__name__}={text};".encode())

    add(program.structure)
    for value in jax.tree.leaves(values):
        add(hashable(value if isinstance(value, jax.Array) else np.asarray(value)))
    add(str(jax.tree.structure(values)))
    return checksum.hexdigest()
