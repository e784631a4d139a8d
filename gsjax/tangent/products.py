"""The gradients by the leaves of the parameters as sums of products of what is known apart for each example.

The inner product of two such gradients can be had from the factors alone. All this is algebra on the program of the
gradients themselves: whatever JAX differentiates has one, and a gradient that is no such sum is left as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Literal, Var
from jax.extend.core import primitives as p
from jaxtyping import Array

from gsjax.tangent.gradients import Gradients
from gsjax.tangent.programs import Atom, dependent, value_of
from gsjax.tangent.terms import Scales, Term, made_by, rearranged, terms

__all__ = ["Leaf", "Product", "leaves"]


class Product(NamedTuple):
    """A sum over positions of outer products, in groups: what a layer is applied to, times cotangents of its output."""

    h: Atom  # depends on the example alone
    g: Atom  # depends on the cotangent as well, if anything does
    scales: Scales
    inputs: Callable[[Array], list[Array]]  # h -> (positions, groups, fan_in), in pieces along fan_in; or rows' numbers
    cotangents: Callable[[Array], Array]  # g -> (positions, groups, fan_out)
    sizes: tuple[int, int, int, int]  # positions, groups, fan_in, fan_out
    embeds: bool  # the inputs are numbers of rows, of which there are fan_in; this number stands for none of them


class Leaf(NamedTuple):
    """How the gradient by a leaf comes about."""

    gradient: Atom  # in the program
    groups: list[list[Product]] | None  # sums of products; the groups have no entries in common; None: otherwise
    reason: str  # in words


def leaves(found: Gradients) -> list[Leaf]:
    """How the gradient of each leaf of the parameters comes about, as far as it is by products."""
    jaxpr = found.program.jaxpr
    made, by_cotangent = made_by(jaxpr), dependent(jaxpr, [found.cotangent])
    return [_leaf(made, by_cotangent, gradient) for gradient in jaxpr.outvars]


def _leaf(made: dict[Var, JaxprEqn], by_cotangent: set[Var], gradient: Atom) -> Leaf:
    found = terms(made, gradient)
    if not any(found):
        return Leaf(gradient, [], "not used")
    if found.reason is not None or found.loops:
        return Leaf(gradient, None, found.reason or "its gradient is summed in a loop")
    both = [term for term in found.products if sum(a in by_cotangent for a in _operands(term)) > 1]
    if both:
        return Leaf(gradient, None, "its gradient is not linear in the cotangent, product by product")
    kinds: dict[Hashable, list[Term]] = {}
    for term in found.products:
        kinds.setdefault(_form(term, by_cotangent), []).append(term)
    groups = list(kinds.values())
    if len(groups) > 1 and not _disjoint([group[0] for group in groups]):
        return Leaf(gradient, None, "it is used in products of different forms")
    counts = Counter(term.product.primitive.name for term in found.products)
    reason = ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())
    return Leaf(gradient, [[_product(term, by_cotangent) for term in group] for group in groups], reason)


def _operands(term: Term) -> tuple[Atom, Atom]:
    """The two factors of a product; of a scatter-add, the indices and what is added."""
    return term.product.invars[-2], term.product.invars[-1]


def _form(term: Term, by_cotangent: set[Var]) -> Hashable:
    """Equal for terms whose sum is one product of stacked factors."""
    eqn = term.product
    swapped = eqn.invars[-2] in by_cotangent
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == p.dot_general_p.name:
        (contracted, _), (batch, _) = numbers
        params = len(batch), eqn.invars[0].aval.ndim - len(contracted)
    elif eqn.primitive.name == p.conv_general_dilated_p.name:
        params = numbers.out_spec, eqn.params["batch_group_count"]
    else:
        params = numbers.inserted_window_dims
    moves = tuple(
        (eqn.primitive.name, number, value_of(tuple(sorted(eqn.params.items()))), *map(_beside_form, eqn.invars))
        for eqn, number in term.moves
    )
    return eqn.primitive.name, swapped, params, eqn.outvars[0].aval.shape, moves


def _beside_form(atom: Atom) -> Hashable:
    return (value_of(atom.val) if isinstance(atom, Literal) else None), atom.aval.shape


def _disjoint(terms: Sequence[Term]) -> bool:
    """Whether no two terms have an entry of the gradient in common."""
    with jax.ensure_compile_time_eval():
        reached = []
        for term in terms:
            aval = term.product.outvars[0].aval
            reached.append(np.asarray(rearranged(term, jnp.ones(aval.shape, aval.dtype), scaled=False)) != 0)
    return bool(np.all(np.sum(reached, axis=0) <= 1))


def _product(term: Term, by_cotangent: set[Var]) -> Product:
    eqn = term.product
    sides = {
        p.dot_general_p.name: _matrices,
        p.conv_general_dilated_p.name: _patches,
        p.scatter_add_p.name: _rows,
    }[eqn.primitive.name](eqn)
    order = (1, 0) if _operands(term)[0] in by_cotangent else (0, 1)
    (h, inputs), (g, cotangents) = (sides[i] for i in order)
    pieces = jax.eval_shape(inputs, jax.ShapeDtypeStruct(h.aval.shape, h.aval.dtype))
    right = jax.eval_shape(cotangents, jax.ShapeDtypeStruct(g.aval.shape, g.aval.dtype))
    positions, groups, fan_out = right[0].shape[0], right[0].shape[1], sum(piece.shape[2] for piece in right)
    embeds = eqn.primitive.name == p.scatter_add_p.name
    fan_in = _table(eqn) if embeds else sum(piece.shape[2] for piece in pieces)

    def joined(g: Array) -> Array:
        return jnp.concatenate(cotangents(g), axis=-1)

    return Product(h, g, term.scales, inputs, joined, (positions, groups, fan_in, fan_out), embeds)


_Side: TypeAlias = tuple[Atom, Callable[[Array], list[Array]]]


def _matrices(eqn: JaxprEqn) -> tuple[_Side, _Side]:
    (contracted, batch), (lhs, rhs) = eqn.params["dimension_numbers"], eqn.invars

    def side(number: int) -> Callable[[Array], list[Array]]:
        def factor(h: Array) -> list[Array]:
            first = (*contracted[number], *batch[number])
            rest = [axis for axis in range(h.ndim) if axis not in first]
            positions, groups = (math.prod(h.shape[a] for a in axes[number]) for axes in (contracted, batch))
            return [h.transpose(*first, *rest).reshape(positions, groups, -1)]

        return factor

    return (lhs, side(0)), (rhs, side(1))


def _patches(eqn: JaxprEqn) -> tuple[_Side, _Side]:
    """What a convolution sums over are the features and the places of its kernel, which here is the cotangent.

    Its results are the offsets at which the weight of the layer met its input: a patch for each place of the kernel.
    """
    numbers, (lhs, rhs) = eqn.params["dimension_numbers"], eqn.invars
    groups = eqn.params["batch_group_count"]
    strides, dilation = eqn.params["window_strides"], eqn.params["rhs_dilation"]
    borders = [
        (*pair, spread - 1) for pair, spread in zip(eqn.params["padding"], eqn.params["lhs_dilation"], strict=True)
    ]
    offsets = [eqn.outvars[0].aval.shape[axis] for axis in numbers.out_spec[2:]]
    places = [rhs.aval.shape[axis] for axis in numbers.rhs_spec[2:]]

    def patches(h: Array) -> list[Array]:
        batch, feature, *space = numbers.lhs_spec
        h = h.transpose(feature, *space, batch)
        h = lax.pad(h, jnp.zeros((), h.dtype), [(0, 0, 0), *borders, (0, 0, 0)])
        h = h.reshape(*h.shape[:-1], groups, -1)

        def windows(h: Array, axis: int) -> list[Array]:
            """What every place meets along an axis of space, counted from 0, offset after offset."""
            step, extent = dilation[axis], (places[axis] - 1) * dilation[axis] + 1
            starts = (offset * strides[axis] for offset in range(offsets[axis]))
            return [lax.slice_in_dim(h, start, start + extent, step, axis + 1) for start in starts]

        if not space:
            return [h.reshape(-1, *h.shape[-2:])]
        for axis in reversed(range(1, len(space))):
            h = jnp.concatenate(windows(h, axis), axis=-1)
        # Copying all offsets along the first axis too would cost more than the products it saves.
        pieces = windows(h, 0) if len(space) > 1 else [jnp.concatenate(windows(h, 0), axis=-1)]
        return [piece.reshape(-1, *piece.shape[-2:]) for piece in pieces]

    def kernel(g: Array) -> list[Array]:
        out, feature, *space = numbers.rhs_spec
        return [g.transpose(feature, *space, out).reshape(math.prod(places) * g.shape[feature], groups, -1)]

    return (lhs, patches), (rhs, kernel)


def _table(eqn: JaxprEqn) -> int:
    """How many rows the table has to which is added."""
    [axis] = eqn.params["dimension_numbers"].inserted_window_dims
    return eqn.invars[0].aval.shape[axis]


def _rows(eqn: JaxprEqn) -> tuple[_Side, _Side]:
    numbers, (_, indices, updates) = eqn.params["dimension_numbers"], eqn.invars
    size = _table(eqn)
    clips = eqn.params["mode"] == lax.GatherScatterMode.CLIP

    def places(indices: Array) -> list[Array]:
        rows = indices.reshape(-1, 1, 1)
        # What is out of bounds is added nowhere.
        return [jnp.clip(rows, 0, size - 1) if clips else jnp.where((rows >= 0) & (rows < size), rows, size)]

    def added(g: Array) -> list[Array]:
        window = numbers.update_window_dims
        rest = [axis for axis in range(g.ndim) if axis not in window]
        return [g.transpose(*rest, *window).reshape(math.prod(indices.aval.shape[:-1]), 1, -1)]

    return (indices, places), (updates, added)
