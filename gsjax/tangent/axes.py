"""Rules for how the primitives of JAX act along the axes of their operands."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn

__all__ = ["Axes", "Kind", "Part", "array_shape", "axes", "holds", "merged", "same", "spread", "whole"]


class Kind(enum.IntEnum):
    """What is known about the dependence on examples, from best to worst."""

    SEPARATE = 0
    PART = 1  # some of the examples, taken out of the batch; mixed, unless they are put back
    UNKNOWN = 2
    MIXED = 3


class Part(NamedTuple):
    """The middle axis if `axis` of an array is reshaped to `(outer, size, inner)`."""

    axis: int
    outer: int
    size: int
    inner: int


class Axes(NamedTuple):
    """How a primitive acts along the axes of its operands.

    Args:
        kept: for each operand, the axes along which the primitive acts entry by entry, with their position in the
            results.
        new: axes of the results along which all entries are equal.
        lost: what happens to examples along any other axis.
    """

    kept: Sequence[Mapping[int, int]]
    new: Collection[int] = ()
    lost: Kind = Kind.MIXED


def array_shape(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal, or `()` if it has none."""
    return tuple(getattr(atom.aval, "shape", ()))


def same(kept: Iterable[int]) -> dict[int, int]:
    """A mapping for axes that stay in place."""
    return {axis: axis for axis in kept}


def whole(shape: Sequence[int], axes: Iterable[int] | None = None) -> frozenset[Part]:
    """Whole axes as parts, all axes by default."""
    axes = range(len(shape)) if axes is None else axes
    return frozenset(Part(axis, 1, shape[axis], 1) for axis in axes if shape[axis] > 1)


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of strides `(low, high)`; adjacent or overlapping ones are merged."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        first, last = merged[-1] if merged else (0, 0)
        top = max(last, high)
        if first and low % first == 0 and last % low == 0 and top % last == 0 and top % high == 0:
            merged[-1] = (first, top)
        else:
            merged.append((low, high))
    return merged


def holds(uniform: Iterable[Part], part: Part) -> bool:
    """Whether an array whose entries are equal along each of `uniform` has equal entries along `part`."""
    spans = merged((one.inner, one.inner * one.size) for one in uniform if one.axis == part.axis)
    return any(part.inner % low == 0 and high % (part.inner * part.size) == 0 for low, high in spans)


def spread(spans: Iterable[tuple[int, int]], shape: Sequence[int]) -> frozenset[Part]:
    """The parts of the axes of an array of this shape that lie within the given ranges of strides."""
    parts, base = set(), 1
    for axis in reversed(range(len(shape))):
        top = base * shape[axis]
        for first, last in spans:
            low, high = max(first, base), min(last, top)
            if low < high and not any((low % base, low % first, high % low, top % high, last % high)):
                parts.add(Part(axis, top // high, high // low, low // base))
        base = top
    return frozenset(parts)


def _elementwise(eqn: JaxprEqn) -> Axes:
    """Operands are scalars or have the shape of the result, except for axes of size one."""
    shape = array_shape(eqn.outvars[0])

    def kept(operand: tuple[int, ...]) -> dict[int, int]:
        return same(axis for axis, size in enumerate(operand) if size == shape[axis])

    return Axes([kept(array_shape(atom)) for atom in eqn.invars])


def _other_axes(*names: str) -> Callable[[JaxprEqn], Axes]:
    """All axes except those that a parameter in `names` lists; results have the axes of the operands."""

    def rule(eqn: JaxprEqn) -> Axes:
        gone = next(eqn.params[name] for name in names if name in eqn.params)
        count = len(array_shape(eqn.invars[0]))
        gone = {axis % count for axis in ([gone] if isinstance(gone, int | np.integer) else gone)}  # some are negative
        return Axes([same(set(range(count)) - gone)] * len(eqn.invars))

    return rule


def _reduced(eqn: JaxprEqn) -> Axes:
    """All axes except the reduced ones; scalar operands are initial values."""
    gone = next(eqn.params[name] for name in ("axes", "dimensions") if name in eqn.params)
    count = len(array_shape(eqn.invars[0]))
    if any(isinstance(axis, str) for axis in gone):  # a named axis, which may be any axis
        return Axes([{}] * len(eqn.invars), lost=Kind.UNKNOWN)
    stay = sorted(set(range(count)) - {axis % count for axis in gone})
    kept = {axis: place for place, axis in enumerate(stay)}
    return Axes([kept if array_shape(atom) else {} for atom in eqn.invars])


def _leading(eqn: JaxprEqn) -> Axes:
    """The leading axes that operands and results have in common."""
    count = min(len(array_shape(variable)) for variable in eqn.outvars)
    return Axes([same(range(min(count, len(array_shape(atom))))) for atom in eqn.invars])


def _matrices(eqn: JaxprEqn) -> Axes:
    """All axes except the last two, those of a matrix."""
    count = max(len(array_shape(atom)) for atom in eqn.invars) - 2
    return Axes([same(range(count))] * len(eqn.invars))


def _solved(eqn: JaxprEqn) -> Axes:
    """As for matrices; of the last operand, also the axis along which the right-hand sides lie."""
    batch = _matrices(eqn).kept[0]
    own = len(batch) + (1 if eqn.params.get("left_side", True) else 0)
    return Axes([*[batch] * (len(eqn.invars) - 1), {**batch, own: own}])


def _vectors(eqn: JaxprEqn) -> Axes:
    """All axes except the last ones, one for each length of the transform."""
    count = len(array_shape(eqn.invars[0])) - len(eqn.params.get("fft_lengths", "1"))
    return Axes([same(range(count))])


def _windows(eqn: JaxprEqn) -> Axes:
    """All axes along which the window has one entry."""
    p, count = eqn.params, len(eqn.params["window_dimensions"])
    plain = [p["window_dimensions"], p["window_strides"], p.get("base_dilation", (1,) * count)]
    kept = same(
        axis for axis in range(count) if {a[axis] for a in plain} == {1} and tuple(p["padding"][axis]) == (0, 0)
    )
    return Axes([kept if array_shape(atom) else {} for atom in eqn.invars])


def _broadcast(eqn: JaxprEqn) -> Axes:
    operand, shape, places = array_shape(eqn.invars[0]), array_shape(eqn.outvars[0]), eqn.params["broadcast_dimensions"]
    kept = {axis: int(place) for axis, place in enumerate(places) if operand[axis] == shape[place]}
    return Axes([kept], set(range(len(shape))) - set(kept.values()))


def _transpose(eqn: JaxprEqn) -> Axes:
    return Axes([{int(axis): place for place, axis in enumerate(eqn.params["permutation"])}])


def _stack(eqn: JaxprEqn) -> Axes:
    count = len(array_shape(eqn.outvars[0])) - 1
    axis = eqn.params["axis"] % (count + 1)
    return Axes([{old: old + (old >= axis) for old in range(count)}] * len(eqn.invars), lost=Kind.UNKNOWN)


def _unstack(eqn: JaxprEqn) -> Axes:
    count = len(array_shape(eqn.invars[0]))
    axis = eqn.params["axis"] % count
    return Axes([{old: old - (old > axis) for old in range(count) if old != axis}], lost=Kind.PART)


def _tile(eqn: JaxprEqn) -> Axes:
    """The axes that are not repeated."""
    reps, shape = eqn.params["reps"], array_shape(eqn.invars[0])
    kept = same(axis for axis, count in enumerate(reps) if count == 1)
    return Axes([kept], {axis for axis, size in enumerate(shape) if size == 1} - set(kept))


def _sliced(eqn: JaxprEqn) -> Axes:
    """The axes that stay whole in `slice`, `split` and, for any indices, `dynamic_slice`."""
    shape, results = array_shape(eqn.invars[0]), [array_shape(variable) for variable in eqn.outvars]
    strides = eqn.params.get("strides") or [1] * len(shape)
    whole = same(axis for axis, size in enumerate(shape) if {r[axis] for r in results} == {size} and strides[axis] == 1)
    return Axes([whole, *({} for _ in eqn.invars[1:])], lost=Kind.PART)


def _updated(eqn: JaxprEqn) -> Axes:
    shape, update = array_shape(eqn.invars[0]), array_shape(eqn.invars[1])
    whole = same(axis for axis, size in enumerate(shape) if update[axis] == size)
    return Axes([whole, whole, *({} for _ in eqn.invars[2:])], lost=Kind.UNKNOWN)


def _concatenate(eqn: JaxprEqn) -> Axes:
    kept = same(set(range(len(array_shape(eqn.outvars[0])))) - {eqn.params["dimension"]})
    return Axes([kept] * len(eqn.invars), lost=Kind.UNKNOWN)


def _convolution(eqn: JaxprEqn) -> Axes:
    """The axes of the batch and, unless there are groups, of the output features."""
    numbers = eqn.params["dimension_numbers"]
    features = {numbers.rhs_spec[0]: numbers.out_spec[1]} if eqn.params["feature_group_count"] == 1 else {}
    if eqn.params["batch_group_count"] > 1:
        return Axes([{}, {}], lost=Kind.UNKNOWN)
    return Axes([{numbers.lhs_spec[0]: numbers.out_spec[0]}, features])


def _pad(eqn: JaxprEqn) -> Axes:
    kept = same(axis for axis, config in enumerate(eqn.params["padding_config"]) if not any(config))
    return Axes([kept, {}], lost=Kind.UNKNOWN)


def _iota(eqn: JaxprEqn) -> Axes:
    return Axes([], set(range(len(array_shape(eqn.outvars[0])))) - {eqn.params["dimension"]})


def _dot(eqn: JaxprEqn) -> Axes:
    contracted, batch = eqn.params["dimension_numbers"]
    free = [
        [axis for axis in range(len(array_shape(atom))) if axis not in (*sums, *both)]
        for atom, sums, both in zip(eqn.invars, contracted, batch, strict=True)
    ]
    starts = itertools.accumulate([len(batch[0]), len(free[0])])
    return Axes(
        [
            {int(axis): place for place, axis in enumerate(both)}
            | {axis: start + place for place, axis in enumerate(others)}
            for both, others, start in zip(batch, free, starts, strict=True)
        ]
    )


def _gather(eqn: JaxprEqn) -> Axes:
    """Axes of the operand that are taken whole or paired with an axis of the indices, and the axes of the indices."""
    numbers, sizes, shape = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], array_shape(eqn.invars[0])
    count = len(array_shape(eqn.outvars[0]))
    places = [axis for axis in range(count) if axis not in numbers.offset_dims]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    offsets = zip((axis for axis in range(len(shape)) if axis not in gone), numbers.offset_dims, strict=True)
    kept = {axis: int(place) for axis, place in offsets if sizes[axis] == shape[axis]}
    pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    kept |= {axis: places[index] for axis, index in pairs}
    return Axes([kept, dict(enumerate(places))], lost=Kind.UNKNOWN)


def _scatter(eqn: JaxprEqn) -> Axes:
    """Axes of the operand that are covered whole or paired with an axis of the indices."""
    numbers, shape, updates = eqn.params["dimension_numbers"], array_shape(eqn.invars[0]), array_shape(eqn.invars[2])
    places = [axis for axis in range(len(updates)) if axis not in numbers.update_window_dims]
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = zip((axis for axis in range(len(shape)) if axis not in gone), numbers.update_window_dims, strict=True)
    update = {int(place): axis for axis, place in windows if updates[place] == shape[axis]}
    pairs = list(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    update |= {places[index]: axis for axis, index in pairs}
    return Axes([same(update.values()), {index: axis for axis, index in pairs}, update], lost=Kind.UNKNOWN)


_AXES: dict[str, Callable[[JaxprEqn], Axes]] = {
    name: rule
    for names, rule in (
        (
            "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz "
            "complex conj convert_element_type copy cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 "
            "expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p "
            "logistic lt lt_to max min mul mulhi name ne neg nextafter not or polygamma population_count pow pvary "
            "real reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left "
            "shift_right_arithmetic shift_right_logical sharding_constraint sign sin sinh sqrt square stop_gradient "
            "sub tan tanh threefry2x32 xor zeta",
            _elementwise,
        ),
        (
            "argmax argmin pmax pmin psum reduce reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum "
            "reduce_xor",
            _reduced,
        ),
        ("cumlogsumexp cummax cummin cumprod cumsum top_k", _other_axes("axis")),
        ("rev sort approx_top_k", _other_axes("dimensions", "dimension", "reduction_dimension")),
        (
            "reduce_window reduce_window_max reduce_window_min reduce_window_sum select_and_gather_add "
            "select_and_scatter_add",
            _windows,
        ),
        (
            "bitcast_convert_type random_bits random_clone random_fold_in random_seed random_split random_unwrap "
            "random_wrap",
            _leading,
        ),
        (
            "cholesky eig eigh geqp3 geqrf hessenberg householder_product lu qr schur svd symmetric_product "
            "tridiagonal",
            _matrices,
        ),
        ("triangular_solve tridiagonal_solve", _solved),
        ("fft lu_pivots_to_permutation", _vectors),
        ("slice split dynamic_slice", _sliced),
        ("scatter scatter-add scatter-max scatter-min scatter-mul scatter-sub", _scatter),
        ("broadcast_in_dim", _broadcast),
        ("concatenate", _concatenate),
        ("conv_general_dilated", _convolution),
        ("dot_general", _dot),
        ("dynamic_update_slice", _updated),
        ("gather", _gather),
        ("iota", _iota),
        ("pad", _pad),
        ("stack", _stack),
        ("tile", _tile),
        ("transpose", _transpose),
        ("unstack", _unstack),
    )
    for name in names.split()
}


def axes(eqn: JaxprEqn) -> Axes | None:
    """How a primitive acts along its axes; None if there is no rule for it."""
    rule = _AXES.get(eqn.primitive.name)
    return rule(eqn) if rule else None
