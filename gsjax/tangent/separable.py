"""Decides from the jaxpr whether every output of a program depends on its own example only.

The axis of the examples is followed from operation to operation. Along most axes, most primitives act like `jax.vmap`:
entry i of the result is the same function, for all i, of entries i of the operands. `axes` gives these axes for each
primitive. If the examples lie along another axis, they are mixed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from gsjax import _check
from gsjax.tangent.axes import Axes, Kind, Part, array_shape, axes, holds, merged, same, spread, whole

__all__ = ["CALLS", "Fixed", "Own", "Verdict", "calls_back", "dependence", "inner_programs"]


class Verdict(NamedTuple):
    """The result, and the operation that decided it."""

    kind: Kind
    reason: str = ""


class Own(NamedTuple):
    """An array in which each entry depends on one example only, whose index is the entry's index along `part`."""

    part: Part


class Fixed(NamedTuple):
    """An array that depends on no example and has equal entries along each of `uniform`."""

    uniform: frozenset[Part] = frozenset()
    origin: str = "a constant"


State = Own | Fixed | Verdict


def dependence(program: ClosedJaxpr, examples: int, n: int) -> Verdict:
    """Whether output i of a program is the same function of example i alone, for all i.

    Args:
        program: the program of `apply_fn`, traced for n examples.
        examples: index of the array of examples `(n, ...)` among the arguments of the jaxpr.
        n: the number of examples, at least 2, since a batch of one cannot mix examples.

    Returns:
        `SEPARATE` is a proof. `MIXED` means that an output depends on another example, or on the position of its
        example in the batch. `UNKNOWN` means that there is no rule for an operation. The reason names the operation.

    >>> import jax
    >>> x = np.ones((4, 3))
    >>> dependence(jax.make_jaxpr(lambda x: x - x.mean(1, keepdims=True))(x), 0, 4).kind.name
    'SEPARATE'
    >>> dependence(jax.make_jaxpr(lambda x: x - x.mean(0))(x), 0, 4)
    Verdict(kind=<Kind.MIXED: 3>, reason='reduce_sum over the examples')
    """
    _check.whole("n", n, least=2)
    states: list[State] = [Fixed(origin="a parameter")] * len(program.jaxpr.invars)
    states[examples] = Own(Part(0, 1, n, 1))
    return max((_verdict(state, n) for state in _Reader(n).closed(program, states)), key=lambda verdict: verdict.kind)


def _verdict(state: State, n: int) -> Verdict:
    """The verdict that follows from the state of the output."""
    batch = Part(0, 1, n, 1)
    if isinstance(state, Verdict):
        return state._replace(kind=Kind.MIXED) if state.kind is Kind.PART else state
    if isinstance(state, Own):
        reason = "outputs along another axis than the first"
        return Verdict(Kind.SEPARATE) if state.part == batch else Verdict(Kind.MIXED, reason)
    return Verdict(Kind.SEPARATE) if holds(state.uniform, batch) else _placed("the output", state)


class _Reader:
    """Follows n examples through jaxprs."""

    def __init__(self, n: int) -> None:
        self.n = n

    def closed(self, program: ClosedJaxpr, states: Sequence[State]) -> list[State]:
        return self.open(program.jaxpr, [self.constant(value) for value in program.consts], states)

    def open(self, jaxpr: Jaxpr, constants: Sequence[State], states: Sequence[State]) -> list[State]:
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *states], strict=True))
        known |= {variable: _unknown("a reference") for variable in known if not _is_array(variable)}

        def read(atom: Any) -> State:
            return self.constant(atom.val) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            results = self.equation(eqn, [read(atom) for atom in eqn.invars])
            for variable, state in zip(eqn.outvars, results, strict=True):
                # An array without entries depends on nothing.
                known[variable] = Fixed(whole(array_shape(variable))) if 0 in array_shape(variable) else state
        return [read(atom) for atom in jaxpr.outvars]

    def constant(self, value: Any) -> State:
        """The state of a constant, along axes that may hold examples; a traced constant may differ everywhere."""
        candidates = [axis for axis, size in enumerate(np.shape(value)) if size and size % self.n == 0]
        if not candidates or not _check.is_concrete(value) or not isinstance(value.dtype, np.dtype):
            return Fixed()
        values = np.asarray(value)
        return Fixed(whole(values.shape, [axis for axis in candidates if (values == values.take([0], axis)).all()]))

    def equation(self, eqn: JaxprEqn, states: Sequence[State]) -> Sequence[State]:
        name, count = eqn.primitive.name, len(eqn.outvars)
        if name in CALLS:
            program = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "call") if key in eqn.params)
            return self.closed(program, states) if isinstance(program, ClosedJaxpr) else self.open(program, [], states)
        if name in _STRUCTURED:
            return _STRUCTURED[name](self, eqn, states)
        if "callback" in name or eqn.effects or not all(map(_is_array, eqn.outvars)):
            return [_unknown(name)] * count
        acts = axes(eqn)
        if acts is None:
            fixed = all(isinstance(state, Fixed) for state in states)
            return [Fixed(origin=_origin(states, name)) if fixed else _worst(states) or _unknown(name)] * count
        return [self.combined(eqn, acts, states, array_shape(variable)) for variable in eqn.outvars]

    def combined(self, eqn: JaxprEqn, acts: Axes, states: Sequence[State], shape: tuple[int, ...]) -> State:
        """The state of a result of the given shape, for a primitive that acts along the axes according to `acts`."""
        name = eqn.primitive.name
        worst = _worst(states)
        if worst:
            gathers = worst.kind is Kind.PART and acts.lost is Kind.UNKNOWN
            return worst._replace(kind=Kind.UNKNOWN) if gathers else worst
        target = None
        for state, kept in zip(states, acts.kept, strict=True):
            if isinstance(state, Own):
                if state.part.axis not in kept:
                    return Verdict(acts.lost, f"{name} over the examples")
                part = state.part._replace(axis=kept[state.part.axis])
                if target not in (None, part):
                    return Verdict(Kind.MIXED, f"{name} of every example with every other")
                target = part
        fixed = [(s, kept) for s, kept in zip(states, acts.kept, strict=True) if isinstance(s, Fixed)]
        if target is None:
            return Fixed(_uniform_parts(fixed, acts.new, shape), _origin(states, name))
        for state, kept in fixed:
            places = [target._replace(axis=axis) for axis, place in kept.items() if place == target.axis]
            if not all(holds(state.uniform, place) for place in places):
                return _placed(name, state, acts.lost)
        return Own(target)


def _uniform_parts(
    operands: Sequence[tuple[Fixed, Mapping[int, int]]], new: Collection[int], shape: Sequence[int]
) -> frozenset[Part]:
    found = set(whole(shape, new))
    for axis in set(range(len(shape))).difference(new):
        sources = [(s.uniform, old) for s, kept in operands for old, place in kept.items() if place == axis]
        for part in {part for uniform, old in sources for part in uniform if part.axis == old}:
            if all(holds(uniform, part._replace(axis=old)) for uniform, old in sources):
                found.add(part._replace(axis=axis))
    return frozenset(found)


def _worst(states: Iterable[State]) -> Verdict | None:
    """The worst verdict among the operands, if there is one."""
    states = list(states)
    wrong = [state for state in states if isinstance(state, Verdict)]
    worst = max(wrong, key=lambda verdict: verdict.kind, default=None)
    if worst and worst.kind is Kind.PART and any(isinstance(state, Own) for state in states):
        return worst._replace(kind=Kind.MIXED)
    return worst


def _join(one: State, other: State, name: str) -> State:
    """What holds for a value that is in one state or the other."""
    if isinstance(one, Verdict) or isinstance(other, Verdict):
        return _worst([one, other]) or one
    if isinstance(one, Fixed) and isinstance(other, Fixed):
        both = {part for part in one.uniform | other.uniform if holds(one.uniform, part)}
        return Fixed(frozenset(part for part in both if holds(other.uniform, part)), _origin([one, other]))
    if isinstance(one, Own) and isinstance(other, Own):
        return one if one == other else _unknown(name)
    own, fixed = (one, other) if isinstance(one, Own) else (other, one)
    assert isinstance(own, Own)
    assert isinstance(fixed, Fixed)
    return own if holds(fixed.uniform, own.part) else _placed(name, fixed)


def _unknown(name: str) -> Verdict:
    return Verdict(Kind.UNKNOWN, f"{name}, for which there is no rule")


def _placed(name: str, state: Fixed, lost: Kind = Kind.MIXED) -> Verdict:
    # If what is lost is unknown, values may be indices, each into its own example.
    kind = Kind.UNKNOWN if lost is Kind.UNKNOWN else Kind.MIXED
    return Verdict(kind, f"{name} depends on the place in the batch, by {state.origin}")


def _origin(states: Iterable[State], name: str = "") -> str:
    """The origin of a result, for messages; random numbers come first."""
    origins = [state.origin for state in states if isinstance(state, Fixed)]
    random = (origin for origin in (name, *origins) if origin.startswith(("random_", "threefry", "rng_")))
    return next(random, "") or next(iter(origins), name or "a constant")


# Parts of axes.


def _is_array(variable: Any) -> bool:
    """Whether a variable holds numbers or keys, not a reference to a mutable array."""
    return isinstance(variable.aval, ShapedArray)


def _reshaped(state: State, shape: Sequence[int], new: Sequence[int]) -> State:
    if isinstance(state, Verdict) or 0 in new:
        return state
    parts = [state.part] if isinstance(state, Own) else state.uniform
    strides = [part.inner * math.prod(shape[part.axis + 1 :]) for part in parts]
    found = spread(merged((low, low * part.size) for low, part in zip(strides, parts, strict=True)), new)
    if isinstance(state, Fixed):
        return state._replace(uniform=found)
    batch = [part for part in found if part.size == state.part.size]
    return Own(batch[0]) if batch else Verdict(Kind.UNKNOWN, "reshape spreads the examples over several axes")


def _transposed(state: State, order: Sequence[int]) -> State:
    if isinstance(state, Verdict):
        return state
    if isinstance(state, Own):
        return Own(state.part._replace(axis=list(order).index(state.part.axis)))
    moved = frozenset(part._replace(axis=list(order).index(part.axis)) for part in state.uniform)
    return state._replace(uniform=moved)


# Primitives whose results are not described by their axes alone.


def _reshape(_reader: _Reader, eqn: JaxprEqn, states: Sequence[State]) -> list[State]:
    state, shape, order = states[0], array_shape(eqn.invars[0]), eqn.params.get("dimensions")
    if eqn.primitive.name == "reshape" and order is not None:
        state, shape = _transposed(state, order), [shape[axis] for axis in order]
    return [_reshaped(state, shape, array_shape(eqn.outvars[0]))]


def _cut(reader: _Reader, eqn: JaxprEqn, states: Sequence[State]) -> Sequence[State]:
    """`slice` and `split` keep examples separate if they cut between whole batches that are concatenated on an axis."""
    acts, state = axes(eqn), states[0]
    assert acts is not None
    if not isinstance(state, Own) or state.part.axis in acts.kept[0]:
        return [reader.combined(eqn, acts, states, array_shape(variable)) for variable in eqn.outvars]
    axis, block = state.part.axis, state.part.size * state.part.inner
    sizes = [array_shape(variable)[axis] for variable in eqn.outvars]
    start, stride = 0, 1
    if eqn.primitive.name == "slice":
        start, stride = eqn.params["start_indices"][axis], (eqn.params["strides"] or [1] * (axis + 1))[axis]
    if stride != 1 or any(length % block for length in (start, *sizes)):
        return [Verdict(Kind.PART, f"{eqn.primitive.name} of the examples")] * len(sizes)
    return [Own(state.part._replace(outer=size // block)) for size in sizes]


def _concatenate(reader: _Reader, eqn: JaxprEqn, states: Sequence[State]) -> list[State]:
    """Concatenated batches lie along one axis, as several batches."""
    axis, shape = eqn.params["dimension"], array_shape(eqn.outvars[0])
    given = [
        (state, array_shape(atom)) for state, atom in zip(states, eqn.invars, strict=True) if 0 not in array_shape(atom)
    ]
    parts = {state.part for state, _ in given if isinstance(state, Own)}
    inner = {part.inner for part in parts if part.axis == axis}
    if len(inner) != 1 or any(part.axis != axis for part in parts) or _worst(states):
        acts = Axes([same(set(range(len(shape))) - {axis})] * len(given), lost=Kind.UNKNOWN)
        return [reader.combined(eqn, acts, [state for state, _ in given], shape)]
    block = reader.n * min(inner)
    for state, size in ((state, shape[axis]) for state, shape in given):
        batches = Part(axis, size // block, reader.n, min(inner))
        if size % block or (isinstance(state, Fixed) and not holds(state.uniform, batches)):
            return [Verdict(Kind.UNKNOWN, "concatenate along the examples")]
    return [Own(Part(axis, shape[axis] // block, reader.n, min(inner)))]


def _tile(reader: _Reader, eqn: JaxprEqn, states: Sequence[State]) -> list[State]:
    """Repetitions lie along a new axis, which is then merged with the repeated axis."""
    operand, shape = array_shape(eqn.invars[0]), array_shape(eqn.outvars[0])
    split = [size for pair in zip(eqn.params["reps"], operand, strict=True) for size in pair]
    kept = {axis: 2 * axis + 1 for axis in range(len(operand))}
    state = reader.combined(eqn, Axes([kept], {2 * axis for axis in kept}), states, tuple(split))
    return [_reshaped(state, split, shape)]


def _convolution(reader: _Reader, eqn: JaxprEqn, states: Sequence[State]) -> list[State]:
    """Groups of features are split off as an axis, along which a convolution acts entry by entry."""
    spec, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    (batch, feature), (made,), (out_batch, out_feature) = spec.lhs_spec[:2], spec.rhs_spec[:1], spec.out_spec[:2]

    def grouped(shape: Sequence[int], axis: int) -> list[int]:
        return [*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]]

    def moved(axis: int, split: int) -> int:
        return axis + (axis > split)

    shapes, shape = [array_shape(atom) for atom in eqn.invars], array_shape(eqn.outvars[0])
    given = [
        _reshaped(s, shape, grouped(shape, axis))
        for s, shape, axis in zip(states, shapes, (feature, made), strict=True)
    ]
    kept: list[dict[int, int]] = [{feature: out_feature}, {made: out_feature, made + 1: out_feature + 1}]
    if eqn.params["batch_group_count"] == 1:
        kept[0][moved(batch, feature)] = moved(out_batch, out_feature)
    else:
        kept, lost = [{}, {}], Kind.UNKNOWN
        return [reader.combined(eqn, Axes(kept, lost=lost), states, shape)]
    new = grouped(shape, out_feature)
    return [_reshaped(reader.combined(eqn, Axes(kept), given, new), new, shape)]  # pyright: ignore


def _each(_reader: _Reader, _eqn: JaxprEqn, states: Sequence[State]) -> Sequence[State]:
    return states


def _cond(reader: _Reader, eqn: JaxprEqn, states: Sequence[State]) -> Sequence[State]:
    branches = [reader.closed(branch, states[1:]) for branch in eqn.params["branches"]]
    index = _worst(states[:1])
    results = branches[0]
    for branch in branches[1:]:
        results = [_join(one, other, "cond") for one, other in zip(results, branch, strict=True)]
    return [_worst([index, state]) or state for state in results] if index else results


def _fixpoint(step: Callable[[list[State]], Sequence[State]], carry: Sequence[State], name: str) -> list[State]:
    """What holds for the carry of a loop before and after every step."""
    carry = list(carry)
    for _ in range(100):
        joined = [_join(one, other, name) for one, other in zip(carry, step(carry), strict=True)]
        if all(_equal(one, other) for one, other in zip(joined, carry, strict=True)):
            return joined
        carry = joined
    return [_unknown(name)] * len(carry)


def _equal(one: State, other: State) -> bool:
    if isinstance(one, Fixed) and isinstance(other, Fixed):
        return one.uniform == other.uniform
    return one == other if type(one) is type(other) else False


def _while(reader: _Reader, eqn: JaxprEqn, states: Sequence[State]) -> Sequence[State]:
    """A condition with axes stands for one loop per entry, along the leading axes of the carry."""
    tests, bodies = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    condition, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    shape, constants = array_shape(condition.jaxpr.outvars[0]), states[tests : tests + bodies]
    carried = [array_shape(variable) for variable in eqn.outvars]

    def step(carry: list[State]) -> list[State]:
        [going] = reader.closed(condition, [*states[:tests], *carry])
        results = reader.closed(body, [*constants, *carry])
        leading = same(range(len(shape)))
        if isinstance(going, Verdict):
            return [Verdict(Kind.UNKNOWN, f"while on a condition that is unclear: {going.reason}")] * len(results)
        return [
            reader.combined(eqn, Axes([leading, same(range(len(shape)))]), [going, state], shape)
            for state, shape in zip(results, carried, strict=True)
        ]

    return _fixpoint(step, states[tests + bodies :], "while")


def _scan(reader: _Reader, eqn: JaxprEqn, states: Sequence[State]) -> Sequence[State]:
    body, n, carries = eqn.params["jaxpr"], eqn.params["num_consts"], eqn.params["num_carry"]
    constants, carry, given = list(states[:n]), states[n : n + carries], list(states[n + carries :])
    if any(isinstance(state, Own) and state.part.axis == 0 for state in given):
        return _over_examples(reader, eqn, carry, constants, given)
    entries = [_shifted(state, -1) for state in given]
    carry = _fixpoint(lambda carry: reader.closed(body, [*constants, *carry, *entries])[:carries], carry, "scan")
    stacked = reader.closed(body, [*constants, *carry, *entries])[carries:]
    return [*carry, *(_shifted(state, 1) for state in stacked)]


def _over_examples(
    reader: _Reader, eqn: JaxprEqn, carry: Sequence[State], constants: Sequence[State], given: Sequence[State]
) -> Sequence[State]:
    """A loop over the examples themselves, as made by `jax.lax.map`; it is separate if nothing is carried."""
    batch, count = Part(0, 1, reader.n, 1), len(eqn.outvars)
    clear = not carry and not calls_back(eqn.params["jaxpr"]) and not eqn.effects
    others = [*constants, *(state for state in given if not isinstance(state, Own))]
    worst = _worst(others)
    if any(isinstance(state, Own) for state in constants):
        return [Verdict(Kind.MIXED, "scan over the examples that sees all of them")] * count
    if worst or not clear or any(isinstance(state, Own) and state.part != batch for state in given):
        return [worst or Verdict(Kind.UNKNOWN, "scan over the examples")] * count
    for state in given:
        if isinstance(state, Fixed) and not holds(state.uniform, batch):
            return [_placed("scan", state)] * count
    return [Own(batch)] * count


def _shifted(state: State, offset: int) -> State:
    """The state with all axes moved by `offset`; for -1 the leading axis is dropped."""
    if isinstance(state, Own):
        return Own(state.part._replace(axis=state.part.axis + offset))
    if isinstance(state, Fixed):
        moved = (part._replace(axis=part.axis + offset) for part in state.uniform)
        return state._replace(uniform=frozenset(part for part in moved if part.axis >= 0))
    return state


def _linear_solve(reader: _Reader, eqn: JaxprEqn, states: Sequence[State]) -> Sequence[State]:
    lengths = eqn.params["const_lengths"]
    start, end = lengths.matvec + lengths.vecmat, sum(lengths)
    solve = states[start : start + lengths.solve]
    return reader.closed(eqn.params["jaxprs"].solve, [*solve, *states[end:]])


CALLS = {
    *("jit", "closed_call", "core_call", "call", "remat2", "composite"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vmap_call"),
}
_STRUCTURED: dict[str, Callable[[_Reader, JaxprEqn, Sequence[State]], Sequence[State]]] = {
    "reshape": _reshape,
    "squeeze": _reshape,
    "slice": _cut,
    "split": _cut,
    "concatenate": _concatenate,
    "tile": _tile,
    "conv_general_dilated": _convolution,
    "optimization_barrier": _each,
    "device_put": _each,
    "cond": _cond,
    "while": _while,
    "scan": _scan,
    "custom_linear_solve": _linear_solve,
}


def inner_programs(eqn: JaxprEqn) -> list[ClosedJaxpr | Jaxpr]:
    """The programs among the parameters of an equation, including those in tuples and lists."""
    values = (value if isinstance(value, tuple | list) else [value] for value in eqn.params.values())
    return [value for value in itertools.chain.from_iterable(values) if isinstance(value, ClosedJaxpr | Jaxpr)]


def calls_back(program: ClosedJaxpr | Jaxpr) -> bool:
    """Whether a result comes from a Python function that is called back while the program runs."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    return any("callback" in eqn.primitive.name or any(map(calls_back, inner_programs(eqn))) for eqn in _used(jaxpr))


def _used(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The equations that have results; the others only have side effects, such as printing."""
    return [eqn for eqn in jaxpr.eqns if eqn.outvars]
