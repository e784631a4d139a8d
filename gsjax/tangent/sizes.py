"""Decides from the programs of a function whether it is the same for every number of examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from gsjax import _check
from gsjax.tangent.axes import array_shape, axes
from gsjax.tangent.separable import CALLS, inner_programs

__all__ = ["alike"]

_SIZES = {"shape", "new_sizes", "limit_indices", "sizes", "slice_sizes", "length"}
_ANY = {*CALLS, "reshape", "squeeze", "scan", "while", "cond", "optimization_barrier", "device_put"}


def alike(one: ClosedJaxpr | Jaxpr, other: ClosedJaxpr | Jaxpr, n: int, m: int) -> bool:
    """Whether programs for n and for m examples give each example the same output, provided the first is separate.

    This holds if operations, constants and parameters are equal, and sizes are equal or have the ratio n to m along
    axes on which an operation acts entry by entry (`axes`). Then, by induction over the operations, the arrays of the
    two programs agree at each example: such an axis holds the examples, or entries that are equal for all of them.
    Programs differ if an axis of size n is summed over, counted along or indexed, or if a number is computed from n.

    >>> def program(function, n):
    ...     return jax.make_jaxpr(function)(np.ones((n, 2)))
    >>> mean = lambda x: x.mean(1)
    >>> share = lambda x: x.mean(1) / len(x)
    >>> alike(program(mean, 5), program(mean, 1), 5, 1), alike(program(share, 5), program(share, 1), 5, 1)
    (True, False)
    """
    if isinstance(one, ClosedJaxpr) and isinstance(other, ClosedJaxpr):
        if len(one.consts) != len(other.consts) or not all(map(_equal, one.consts, other.consts)):
            return False
        one, other = one.jaxpr, other.jaxpr  # from JAX 0.11 on, the same object
    assert isinstance(one, Jaxpr)
    assert isinstance(other, Jaxpr)
    variables = [[*jaxpr.constvars, *jaxpr.invars] for jaxpr in (one, other)]
    eqns = [_needed(jaxpr) for jaxpr in (one, other)]
    if len(variables[0]) != len(variables[1]) or len(eqns[0]) != len(eqns[1]):
        return False
    pairs = dict(zip(*variables, strict=True))

    def paired(first: Any, second: Any) -> bool:
        if isinstance(first, Literal) or isinstance(second, Literal):
            literals = isinstance(first, Literal) and isinstance(second, Literal)
            return literals and first.aval == second.aval and _equal(first.val, second.val)
        return pairs[first] is second

    def scaled(first: Any, second: Any) -> bool:
        return first == second or (isinstance(first, int | np.integer) and first * m == second * n)

    def same_parameter(key: str, first: Any, second: Any) -> bool:
        if key not in _SIZES:
            return _equal(first, second)
        sizes = [jax.tree.leaves((first,)), jax.tree.leaves((second,))]
        return len(sizes[0]) == len(sizes[1]) and all(map(scaled, *sizes))

    def same_eqn(first: JaxprEqn, second: JaxprEqn) -> bool:
        programs, plain = [inner_programs(first), inner_programs(second)], _plain(first)
        if first.primitive is not second.primitive or not all(map(paired, first.invars, second.invars)):
            return False
        if (
            (first.effects and not programs[0])
            or len(programs[0]) != len(programs[1])
            or plain.keys() != _plain(second).keys()
        ):
            return False
        if plain.get("num_carry") and plain.get("length") != second.params["length"]:
            return False
        pairs.update(zip(first.outvars, second.outvars, strict=True))
        return (
            all(same_parameter(key, value, second.params[key]) for key, value in plain.items())
            and _sizes_match(first, second)
            and all(alike(a, b, n, m) for a, b in zip(*programs, strict=True))
        )

    return all(map(same_eqn, *eqns)) and all(map(paired, one.outvars, other.outvars))


def _needed(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The operations that lead to results; all others may differ."""
    needed, eqns = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
            eqns.append(eqn)
    return eqns[::-1]


def _plain(eqn: JaxprEqn) -> dict[str, Any]:
    """The parameters that are not programs; none for a call, of which only the program matters."""

    def plain(value: Any) -> bool:
        values = value if isinstance(value, tuple | list) else [value]
        return not any(isinstance(value, ClosedJaxpr | Jaxpr) for value in values)

    return {} if eqn.primitive.name in CALLS else {key: value for key, value in eqn.params.items() if plain(value)}


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, np.ndarray | jax.Array) and isinstance(other, np.ndarray | jax.Array):
        concrete = _check.is_concrete(one, other) and isinstance(one.dtype, np.dtype)
        return bool(concrete and one.dtype == other.dtype and np.array_equal(np.asarray(one), np.asarray(other)))
    return type(one) is type(other) and bool(one == other or (one != one and other != other))


def _sizes_match(one: JaxprEqn, other: JaxprEqn) -> bool:
    """Whether the sizes of two operations differ only along axes on which they act entry by entry."""
    atoms = [[*map(array_shape, eqn.invars)] for eqn in (one, other)]
    results = [[*map(array_shape, eqn.outvars)] for eqn in (one, other)]
    if one.primitive.name in _ANY or (atoms[0] == atoms[1] and results[0] == results[1]):
        return True
    acts = axes(one)
    if acts is None:
        return False
    kept = [*map(set, acts.kept)]
    made = {*acts.new, *(axis for places in acts.kept for axis in places.values())}

    def equal(first: Sequence[int], second: Sequence[int], free: set[int]) -> bool:
        return len(first) == len(second) and all(
            a == b for axis, (a, b) in enumerate(zip(first, second, strict=True)) if axis not in free
        )

    return all(map(equal, *atoms, kept)) and all(equal(a, b, made) for a, b in zip(*results, strict=True))
