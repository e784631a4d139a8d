"""Moves the products of which gradients consist out of loops and branches.

In the program of a gradient, `scan` forms an outer product at every step, either stacked for a stack of weights or
summed for a weight that all steps share. Here the loop returns the factors instead, and the product is formed after it,
as a product like any other. The branches of `cond` are treated likewise; the factors of branches not taken are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.extend.core import primitives as p
from jaxtyping import Array

from gsjax.tangent.programs import Atom, evaluate, inline, retraced, shaped
from gsjax.tangent.terms import Term, Terms, is_zero, producers, rearranged, terms

__all__ = ["out_of_loops"]


class _Opened(NamedTuple):
    """A loop or a choice of branches, and the outputs that can be computed from factors."""

    bodies: list[ClosedJaxpr]
    outputs: dict[int, list[list[Term]]]  # output -> for each body, its terms


def out_of_loops(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same program, in which products within loops that form its outputs are moved after the loops."""
    return _rewritten(closed, closed.jaxpr.outvars)


def _rewritten(closed: ClosedJaxpr, outputs: Iterable[Atom], accumulators: Sequence[Var | None] = ()) -> ClosedJaxpr:
    made = producers(closed.jaxpr)
    candidates: dict[int, tuple[JaxprEqn, set[int]]] = {}
    for output, accumulator in zip(outputs, [*accumulators, *[None] * len(closed.jaxpr.outvars)], strict=False):
        found = terms(made, output, accumulator)
        for eqn, number in found.loops if found.reason is None else ():
            candidates.setdefault(id(eqn), (eqn, set()))[1].add(number)
    opened = {key: found for key, (eqn, numbers) in candidates.items() if (found := _open(eqn, numbers)).outputs}
    if not opened:
        return closed

    def replacement(eqn: JaxprEqn, args: list[Any]) -> list[Any] | None:
        if id(eqn) not in opened:
            return None
        if eqn.primitive.name == p.cond_p.name:
            return _cond(eqn, opened[id(eqn)], args)
        return _scan(eqn, opened[id(eqn)], args, [is_zero(made, atom) for atom in eqn.invars])

    return retraced(closed, replacement)


def _open(eqn: JaxprEqn, numbers: set[int]) -> _Opened:
    """Which of the outputs `numbers` of a loop can be computed from factors."""
    if eqn.primitive.name == p.scan_p.name:
        inner, carries = [eqn.params["jaxpr"]], eqn.params["num_carry"]
    else:
        inner, carries = list(eqn.params["branches"]), 0
    bodies, found = [], {number: [] for number in numbers}
    for body in map(inline, inner):
        first = eqn.params.get("num_consts", 0)

        def kept(body: ClosedJaxpr, number: int, first: int = first) -> Var | None:
            """The input that an output becomes in the next step, if it is carried."""
            return body.jaxpr.invars[first + number] if number < carries else None

        order = sorted(numbers)
        body = _rewritten(body, [body.jaxpr.outvars[n] for n in order], [kept(body, n) for n in order])
        bodies.append(body)
        for number in order:
            accumulator = kept(body, number)
            summands = terms(producers(body.jaxpr), body.jaxpr.outvars[number], accumulator)
            if not _fit(body.jaxpr, summands, accumulator, scan=eqn.primitive.name == p.scan_p.name):
                found.pop(number, None)
            elif number in found:
                found[number].append(summands.products)
    return _Opened(bodies, found)


def _fit(body: Jaxpr, found: Terms, accumulator: Var | None, *, scan: bool) -> bool:
    if found.reason is not None or found.loops:
        return False
    if accumulator is None:
        return scan or not any(_varying(term) for term in found.products)
    uses = [atom for eqn in body.eqns for atom in eqn.invars] + list(body.outvars)
    single = found.kept == sum(atom is accumulator for atom in uses) == 1
    matrices = all(term.product.primitive.name == p.dot_general_p.name for term in found.products)
    return single and matrices and not any(_varying(term) for term in found.products)


def _varying(term: Term) -> list[Var]:
    """The scales of a term that are variables."""
    return [scale for scale, _ in term.scales if isinstance(scale, Var)]


def _factors(found: Iterable[Term]) -> list[Var]:
    """All variables of which the terms consist."""
    atoms = [atom for term in found for atom in (*term.product.invars[-2:], *_varying(term))]
    return list(dict.fromkeys(atom for atom in atoms if isinstance(atom, Var)))


def _scan(eqn: JaxprEqn, opened: _Opened, args: list[Any], zero: list[bool]) -> list[Any]:
    consts, carries = eqn.params["num_consts"], eqn.params["num_carry"]
    [body], jaxpr = opened.bodies, opened.bodies[0].jaxpr
    outputs = {number: found for number, [found] in opened.outputs.items()}
    factors = _factors(term for found in outputs.values() for term in found)
    kept = [number for number in range(carries) if number not in outputs]
    stacked = [number for number in range(carries, len(jaxpr.outvars)) if number not in outputs]
    invars, first = jaxpr.invars, consts + carries

    def step(carry: list[Array], xs: list[Array]) -> tuple[list[Array], list[Array]]:
        names = (*jaxpr.constvars, *invars[:consts], *(invars[consts + n] for n in kept), *invars[first:])
        values = dict(zip(names, (*body.consts, *args[:consts], *carry, *xs), strict=True))
        wanted = [*(jaxpr.outvars[number] for number in (*kept, *stacked)), *factors]
        results = evaluate(jaxpr, values, wanted)
        return results[: len(kept)], results[len(kept) :]

    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(step, [args[consts + number] for number in kept], args[first:], **options)
    results: dict[int, Any] = dict(zip((*kept, *stacked), (*carry, *ys), strict=False))
    stacks = dict(zip(factors, ys[len(stacked) :], strict=True))
    for number, found in outputs.items():
        if number < carries:
            begin = args[consts + number]
            parts = [rearranged(term, _summed(term.product, stacks)).astype(begin.dtype) for term in found]
            parts += [] if zero[consts + number] and parts else [begin]
            results[number] = sum(parts[1:], parts[0])
        else:
            names = _factors(found)

            def made(values: list[Array], names: list[Var] = names, number: int = number) -> Array:
                return evaluate(jaxpr, dict(zip(names, values, strict=True)), [jaxpr.outvars[number]])[0]

            results[number] = jax.vmap(made, axis_size=eqn.params["length"])([stacks[name] for name in names])
    return [results[number] for number in range(len(jaxpr.outvars))]


def _summed(eqn: JaxprEqn, stacks: dict[Var, Array]) -> Array:
    """The sum over steps of the products of stacked factors."""
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    lhs, rhs = (stacks[atom] for atom in eqn.invars if isinstance(atom, Var))

    def shifted(axes: Sequence[int]) -> list[int]:
        return [axis + 1 for axis in axes]

    numbers = ([0, *shifted(left)], [0, *shifted(right)]), (shifted(left_batch), shifted(right_batch))
    options = {name: eqn.params[name] for name in ("precision", "preferred_element_type")}
    return lax.dot_general(lhs, rhs, numbers, **options)


def _cond(eqn: JaxprEqn, opened: _Opened, args: list[Any]) -> list[Any]:
    factors = [
        _factors(term for found in opened.outputs.values() for term in found[number])
        for number in range(len(opened.bodies))
    ]
    kept = [number for number in range(len(eqn.outvars)) if number not in opened.outputs]

    def branch(number: int):
        body = opened.bodies[number]

        def taken(*operands: Array) -> tuple[list[Array], list[list[Array]]]:
            names = (*body.jaxpr.constvars, *body.jaxpr.invars)
            values = dict(zip(names, (*body.consts, *operands), strict=True))
            wanted = [*(body.jaxpr.outvars[n] for n in kept), *factors[number]]
            results = evaluate(body.jaxpr, values, wanted)
            others = [[jnp.zeros(shaped(var).shape, shaped(var).dtype) for var in names] for names in factors]
            others[number] = results[len(kept) :]
            return results[: len(kept)], others

        return taken

    outputs, taken = lax.switch(args[0], [branch(number) for number in range(len(opened.bodies))], *args[1:])
    results = dict(zip(kept, outputs, strict=True))
    for number, found in opened.outputs.items():
        parts = []
        for body, names, values, products in zip(opened.bodies, factors, taken, found, strict=True):
            if products:
                values = dict(zip(names, values, strict=True))
                parts += evaluate(body.jaxpr, values, [body.jaxpr.outvars[number]])
        spec = shaped(eqn.outvars[number])
        results[number] = sum(parts[1:], parts[0]) if parts else jnp.zeros(spec.shape, spec.dtype)
    return [results[number] for number in range(len(eqn.outvars))]
