"""Gradients with respect to the leaves of the parameters, as sums of products of per-example factors.

The inner product of two such gradients follows from the factors alone. This is algebra on the program of the gradients
themselves, which exists for every function that JAX differentiates. A gradient that is not such a sum is left as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import JaxprEqn, Var, jaxprs_in_params
from jax.extend.core import primitives as p
from jaxtyping import Array

from gsjax.tangent.gradients import Gradients
from gsjax.tangent.programs import Atom, dependent, hashable, needed, shaped
from gsjax.tangent.terms import Scales, Term, producers, rearranged, terms

__all__ = ["Leaf", "Product", "Sum", "leaves", "multiplications", "ordinary"]


class Product(NamedTuple):
    """A sum over positions of outer products of a layer's inputs and the cotangents of its outputs, in groups."""

    h: Atom  # depends on the example only
    g: Atom  # may also depend on the cotangent
    scales: Scales
    turned: Callable[[Array], Array]  # h -> h with its axes in the order that `inputs` takes
    inputs: Callable[[Array], list[Array]]  # -> (positions, groups, fan_in) in pieces along fan_in; or row numbers
    cotangents: Callable[[Array], Array]  # g -> (positions, groups, fan_out)
    sizes: tuple[int, int, int, int]  # positions, groups, fan_in, fan_out
    kind: Literal["matrices", "windows", "rows"]  # for rows, the inputs are row numbers, or fan_in for no row
    placed: Callable[[Array], Array]  # (groups, fan_out, fan_in) -> entries of the leaf, zero for all others


class Sum(NamedTuple):
    """A sum of products."""

    products: list[Product]
    alike: bool  # an entry (group, out, in) is the same entry of the leaf in all products


class Leaf(NamedTuple):
    """How the gradient with respect to a leaf is computed."""

    gradient: Atom  # its variable in the program
    sums: list[Sum] | None  # sums of products without common entries; None if it is not of this form
    reason: str  # the operations that the gradient consists of, or why it is not a product
    work: int = 0  # multiplications per example and output that form products

    @property
    def structured(self) -> bool:
        """Whether no product is formed per example, as for weights of layers, added leaves and scales."""
        return self.sums is not None or self.work == 0


def leaves(found: Gradients) -> list[Leaf]:
    """How the gradient with respect to each leaf is computed, with its products where it has this form."""
    jaxpr = found.program.jaxpr
    made, by_cotangent = producers(jaxpr), dependent(jaxpr, [found.cotangent])
    forms = [_leaf(made, by_cotangent, gradient) for gradient in jaxpr.outvars]
    products = [product for leaf in forms for part in leaf.sums or () for product in part.products]
    shared = {id(eqn) for eqn in needed(jaxpr, [atom for product in products for atom in (product.h, product.g)])}

    by_either = dependent(jaxpr, [found.example, found.cotangent])

    def with_work(leaf: Leaf) -> Leaf:
        own = (eqn for eqn in needed(jaxpr, [leaf.gradient]) if id(eqn) not in shared)
        # The product of a cotangent with a weight is not counted: the weight is shared by all examples.
        work = sum(
            multiplications(eqn)
            for eqn in own
            if by_either.issuperset(a for a in eqn.invars[-2:] if isinstance(a, Var))
        )
        return leaf._replace(work=work, reason=leaf.reason if work else "added, or a scale")

    return [with_work(leaf) if leaf.sums is None else leaf for leaf in forms]


def ordinary(found: Gradients) -> list[Leaf]:
    """All gradients, as the program computes them."""
    return [Leaf(gradient, None, "not asked for") for gradient in found.program.jaxpr.outvars]


def multiplications(eqn: JaxprEqn) -> int:
    """The number of multiplications in the matrix products, convolutions and table updates of an operation."""
    name = eqn.primitive.name
    if name == p.dot_general_p.name:
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return shaped(eqn.outvars[0]).size * math.prod(shaped(eqn.invars[0]).shape[axis] for axis in contracted)
    if name == p.conv_general_dilated_p.name:
        feature = eqn.params["dimension_numbers"].rhs_spec[0]
        return shaped(eqn.outvars[0]).size * (
            shaped(eqn.invars[1]).size // max(1, shaped(eqn.invars[1]).shape[feature])
        )
    if name.startswith("scatter"):
        return shaped(eqn.invars[-1]).size
    inner = [sum(map(multiplications, jaxpr.eqns)) for jaxpr in jaxprs_in_params(eqn.params)]
    return eqn.params.get("length", 1) * (max(inner) if name == p.cond_p.name else sum(inner)) if inner else 0


def _leaf(made: dict[Var, JaxprEqn], by_cotangent: set[Var], gradient: Atom) -> Leaf:
    found = terms(made, gradient)
    if not any(found) or not shaped(gradient).size:
        return Leaf(gradient, [], "not used")
    if found.reason is not None or found.loops:
        return Leaf(gradient, None, found.reason or "its gradient is summed in a loop")
    if any(by_cotangent.issuperset(_operands(term)) for term in found.products):
        return Leaf(gradient, None, "its gradient is not linear in the cotangent, product by product")
    kinds: dict[Hashable, list[Term]] = {}
    for term in found.products:
        kinds.setdefault(_form(term, by_cotangent), []).append(term)
    counts = Counter(term.product.primitive.name for term in found.products)
    reason = ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())
    parts = list(kinds.values())
    alike = len(parts) == 1 or _disjoint([part[0] for part in parts])
    parts = parts if alike else [found.products]
    return Leaf(gradient, [Sum([_product(term, by_cotangent) for term in part], alike) for part in parts], reason)


def _operands(term: Term) -> tuple[Var, Var]:
    """The two factors of a product, which are arrays; for a scatter-add, the indices and the updates."""
    left, right = term.product.invars[-2:]
    assert isinstance(left, Var)
    assert isinstance(right, Var)
    return left, right


def _form(term: Term, by_cotangent: set[Var]) -> Hashable:
    """A key that is equal for terms whose sum is one product of stacked factors."""
    eqn = term.product
    swapped = _operands(term)[0] in by_cotangent
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == p.dot_general_p.name:
        (contracted, _), (batch, _) = numbers
        params = len(batch), shaped(eqn.invars[0]).ndim - len(contracted)
    elif eqn.primitive.name == p.conv_general_dilated_p.name:
        params = numbers.out_spec, eqn.params["batch_group_count"]
    else:
        params = numbers.inserted_window_dims
    moves = tuple(
        (eqn.primitive.name, number, hashable(tuple(sorted(eqn.params.items()))), *map(_operand_form, eqn.invars))
        for eqn, number in term.moves
    )
    return eqn.primitive.name, swapped, params, shaped(eqn.outvars[0]).shape, moves


def _operand_form(atom: Atom) -> Hashable:
    return (hashable(atom.val) if isinstance(atom, core.Literal) else None), shaped(atom).shape


def _disjoint(terms: Sequence[Term]) -> bool:
    """Whether no two terms share an entry of the gradient."""
    with jax.ensure_compile_time_eval():
        reached = []
        for term in terms:
            aval = shaped(term.product.outvars[0])
            reached.append(np.asarray(rearranged(term, jnp.ones(aval.shape, aval.dtype), scaled=False)) != 0)
    return bool(np.all(np.sum(reached, axis=0) <= 1))


def _product(term: Term, by_cotangent: set[Var]) -> Product:
    eqn = term.product
    kind, split = _KINDS[eqn.primitive.name]
    sides = split(eqn)
    swapped = _operands(term)[0] in by_cotangent
    inputs, cotangents = sides[::-1] if swapped else sides

    def joined(g: Array) -> Array:
        return jnp.concatenate(cotangents.pieces(g.transpose(cotangents.order)), axis=-1)

    def turned(h: Array) -> Array:
        return h.transpose(inputs.order)

    def placed(gradient: Array) -> Array:
        value = gradient if swapped else gradient.swapaxes(1, 2)
        return rearranged(term, _entries(eqn, value), scaled=False)

    positions, groups = cotangents.positions, cotangents.groups
    sizes = positions, groups, inputs.fan, cotangents.fan
    return Product(inputs.atom, cotangents.atom, term.scales, turned, inputs.pieces, joined, sizes, kind, placed)


def _entries(eqn: JaxprEqn, value: Array) -> Array:
    """The result of a product from its entries `(groups, fan of the left factor, fan of the right factor)`."""
    out = shaped(eqn.outvars[0])
    if eqn.primitive.name == p.conv_general_dilated_p.name:
        batch, feature, *space = eqn.params["dimension_numbers"].out_spec
        offsets = [out.shape[axis] for axis in space]
        value = value.reshape(len(value), *offsets, out.shape[batch], value.shape[2])
        value = jnp.moveaxis(value, 0, -2).reshape(*offsets, out.shape[batch], out.shape[feature])
        return jnp.moveaxis(value, range(value.ndim), (*space, batch, feature))
    if eqn.primitive.name == p.scatter_add_p.name:
        [axis] = eqn.params["dimension_numbers"].inserted_window_dims
        window = [size for number, size in enumerate(out.shape) if number != axis]
        return jnp.moveaxis(value.reshape(out.shape[axis], *window), 0, axis)
    return value.reshape(out.shape)


class _Side(NamedTuple):
    """One factor of a product."""

    atom: Atom
    order: Sequence[int]  # order of its axes
    pieces: Callable[[Array], list[Array]]  # transposed factor -> (positions, groups, fan), in pieces along fan
    positions: int
    groups: int
    fan: int


def _matrices(eqn: JaxprEqn) -> tuple[_Side, _Side]:
    def side(atom: Atom, contracted: tuple[int, ...], batch: tuple[int, ...]) -> _Side:
        shape = shaped(atom).shape
        first = (*contracted, *batch)
        rest = [axis for axis in range(len(shape)) if axis not in first]
        positions, groups, fan = (math.prod(shape[axis] for axis in axes) for axes in (contracted, batch, rest))

        def factor(h: Array) -> list[Array]:
            return [h.reshape(positions, groups, fan)]

        return _Side(atom, (*first, *rest), factor, positions, groups, fan)

    contracted, batch = eqn.params["dimension_numbers"]
    lhs, rhs = map(side, eqn.invars, contracted, batch)
    return lhs, rhs


def _patches(eqn: JaxprEqn) -> tuple[_Side, _Side]:
    """The factors of a convolution whose kernel is the cotangent: it sums over the kernel's features and places.

    Its results are at the offsets of the layer's weight: each place of the kernel meets one patch of the input.
    """
    numbers, (lhs, rhs) = eqn.params["dimension_numbers"], eqn.invars
    groups = eqn.params["batch_group_count"]
    strides, dilation = eqn.params["window_strides"], eqn.params["rhs_dilation"]
    spread = zip(eqn.params["padding"], eqn.params["lhs_dilation"], strict=True)
    borders = [(0, 0, 0), *((*pair, spacing - 1) for pair, spacing in spread), (0, 0, 0)]
    offsets = [shaped(eqn.outvars[0]).shape[axis] for axis in numbers.out_spec[2:]]
    places = [shaped(rhs).shape[axis] for axis in numbers.rhs_spec[2:]]
    out, feature, *kernel_space = numbers.rhs_spec
    batch, channel, *space = numbers.lhs_spec
    positions, rhs_fan = math.prod(places) * shaped(rhs).shape[feature], shaped(rhs).shape[out] // groups

    def patches(h: Array) -> list[Array]:
        h = lax.pad(h, jnp.zeros((), h.dtype), borders)
        h = h.reshape(*h.shape[:-1], groups, h.shape[-1] // groups)

        def windows(h: Array, axis: int) -> list[Array]:
            """For each offset, the entries that all places meet along a spatial axis, counted from 0."""
            step, extent = dilation[axis], (places[axis] - 1) * dilation[axis] + 1
            starts = (offset * strides[axis] for offset in range(offsets[axis]))
            return [lax.slice_in_dim(h, start, start + extent, step, axis + 1) for start in starts]

        if not space:
            return [h.reshape(positions, groups, h.shape[-1])]
        for axis in reversed(range(1, len(space))):
            h = jnp.concatenate(windows(h, axis), axis=-1)
        # Copying all offsets along the first axis too would cost more than the saved products.
        pieces = windows(h, 0) if len(space) > 1 else [jnp.concatenate(windows(h, 0), axis=-1)]
        return [piece.reshape(positions, groups, piece.shape[-1]) for piece in pieces]

    def kernel(g: Array) -> list[Array]:
        return [g.reshape(positions, groups, rhs_fan)]

    fan_in = math.prod(offsets) * (shaped(lhs).shape[batch] // groups)
    return (
        _Side(lhs, (channel, *space, batch), patches, positions, groups, fan_in),
        _Side(rhs, (feature, *kernel_space, out), kernel, positions, groups, rhs_fan),
    )


def _rows(eqn: JaxprEqn) -> tuple[_Side, _Side]:
    numbers, (operand, indices, updates) = eqn.params["dimension_numbers"], eqn.invars
    [axis] = numbers.inserted_window_dims
    size, positions = shaped(operand).shape[axis], math.prod(shaped(indices).shape)
    clips = eqn.params["mode"] == lax.GatherScatterMode.CLIP
    window = numbers.update_window_dims
    rest = [axis for axis in range(shaped(updates).ndim) if axis not in window]
    fan = math.prod(shaped(updates).shape[axis] for axis in window)

    def places(indices: Array) -> list[Array]:
        rows = indices.reshape(positions, 1, 1)
        # Updates out of bounds are dropped.
        return [jnp.clip(rows, 0, size - 1) if clips else jnp.where((rows >= 0) & (rows < size), rows, size)]

    def added(g: Array) -> list[Array]:
        return [g.reshape(positions, 1, fan)]

    order = range(shaped(indices).ndim)
    return _Side(indices, order, places, positions, 1, size), _Side(updates, (*rest, *window), added, positions, 1, fan)


_KINDS: dict[str, tuple[Literal["matrices", "windows", "rows"], Callable[[JaxprEqn], tuple[_Side, _Side]]]] = {
    p.dot_general_p.name: ("matrices", _matrices),
    p.conv_general_dilated_p.name: ("windows", _patches),
    p.scatter_add_p.name: ("rows", _rows),
}
