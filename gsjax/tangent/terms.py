"""The gradient with respect to a leaf of the parameters as a sum of products, read from the program that computes it.

A weight W acts on h, so its gradient is a sum over positions of the outer products of h and g, the cotangent of the
output: a `dot_general`, a convolution or, for an embedding, a `scatter-add`. If the weight was transposed, cut, padded
or scaled before it acted, operations that move or scale entries follow this product.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core import primitives as p
from jaxtyping import Array

from gsjax.tangent.programs import Atom, bind, shaped

__all__ = ["LOOPS", "Term", "Terms", "is_zero", "producers", "rearranged", "terms"]

PRODUCTS = (p.dot_general_p.name, p.conv_general_dilated_p.name, p.scatter_add_p.name)
LOOPS = (p.scan_p.name, p.cond_p.name)
_SUMS = (p.add_jaxvals_p.name, p.add_p.name)
_MOVES = (p.transpose_p.name, p.reshape_p.name, p.squeeze_p.name, p.rev_p.name, p.broadcast_in_dim_p.name)
_MOVES = (*_MOVES, p.reduce_sum_p.name)  # as for broadcasting, only over axes of one entry, so that the size stays
_COPIES = (p.copy_p.name, p.name_p.name, p.sharding_constraint_p.name)


_MANY = 4096  # the largest number of terms, which may grow exponentially in nested sums of one variable

Moves: TypeAlias = tuple[tuple[JaxprEqn, int], ...]
Scales: TypeAlias = tuple[tuple[Atom | float, bool], ...]
_Followed: TypeAlias = tuple[Atom, Moves, Scales]


class Term(NamedTuple):
    """A product, and the operations between it and the gradient of which it is a summand."""

    product: JaxprEqn
    moves: Moves  # operations that move entries, with the index of the operand that is followed
    scales: Scales  # scalar factors, or divisors if the flag is set


class Terms(NamedTuple):
    """A variable as a sum of terms, if it has this form."""

    products: list[Term]
    loops: list[tuple[JaxprEqn, int]]  # outputs of scan and cond, which may contain further products
    kept: int  # how often the `accumulator` occurs as a summand
    reason: str | None  # why it is not such a sum; None if it is


def producers(jaxpr: Jaxpr) -> dict[Var, JaxprEqn]:
    """The operation that computes each variable."""
    return {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}


def terms(made: dict[Var, JaxprEqn], variable: Atom, accumulator: Var | None = None) -> Terms:
    """A variable as a sum of products; the summand `accumulator` is only counted."""
    found = Terms([], [], 0, None)
    todo: list[_Followed] = [(variable, (), ())]
    while todo:
        if len(todo) + len(found.products) > _MANY:
            return found._replace(reason=f"its gradient is a sum of more than {_MANY} terms")
        atom, moves, scales = todo.pop()
        if is_zero(made, atom):
            continue
        eqn = made.get(atom) if isinstance(atom, Var) else None
        if atom is accumulator and not moves and not scales:
            found = found._replace(kept=found.kept + 1)
        elif eqn is None:
            return found._replace(reason="its gradient is a constant or an input")
        elif eqn.primitive.name in PRODUCTS:
            if reason := _unfit(made, eqn):
                return found._replace(reason=reason)
            found.products.append(Term(eqn, moves, scales))
        elif eqn.primitive.name in LOOPS:
            found.loops.append((eqn, [atom is var for var in eqn.outvars].index(True)))
        else:
            step = _step(made, eqn, moves, scales)
            if isinstance(step, str):
                return found._replace(reason=step)
            todo += step
    return found


def _step(made: dict[Var, JaxprEqn], eqn: JaxprEqn, moves: Moves, scales: Scales) -> list[_Followed] | str:
    """The operands to follow instead of the result of `eqn`, or the reason why this is impossible."""
    name, operands = eqn.primitive.name, eqn.invars
    shape = shaped(eqn.outvars[0]).shape
    if name in _SUMS and all(shaped(operand).shape == shape for operand in operands):
        return [(operand, moves, scales) for operand in operands]
    if name in _MOVES and math.prod(shaped(operands[0]).shape) == math.prod(shape):
        return [(operands[0], ((eqn, 0), *moves), scales)]
    if name in _COPIES:
        return [(operands[0], moves, scales)]
    if name == p.convert_element_type_p.name and _is_real(operands[0]) and _is_real(eqn.outvars[0]):
        return [(operands[0], moves, scales)]
    if name == p.neg_p.name:
        return [(operands[0], moves, ((-1.0, False), *scales))]
    if name in (p.mul_p.name, p.div_p.name):
        followed = [0] if name == p.div_p.name else [0, 1]
        for number in followed:
            scale = _scalar(made, operands[1 - number])
            if scale is not None and shaped(operands[number]).shape == shape:
                return [(operands[number], moves, ((scale, name == p.div_p.name), *scales))]
    if name == p.pad_p.name and is_zero(made, operands[1]) and np.min(eqn.params["padding_config"], initial=0) >= 0:
        return [(operands[0], ((eqn, 0), *moves), scales)]
    if name == p.concatenate_p.name:
        return [(operand, ((eqn, number), *moves), scales) for number, operand in enumerate(operands)]
    fixed = all(isinstance(start, Literal) for start in operands[2:])
    if name == p.dynamic_update_slice_p.name and is_zero(made, operands[0]) and fixed:
        return [(operands[1], ((eqn, 1), *moves), scales)]
    return f"its gradient comes from {name}"


def is_zero(made: dict[Var, JaxprEqn], atom: Atom) -> bool:
    """Whether all entries are known to be zero."""
    if isinstance(atom, Literal):
        return not np.any(atom.val)
    eqn = made.get(atom)
    copying = (p.broadcast_in_dim_p.name, p.convert_element_type_p.name, p.reshape_p.name, p.transpose_p.name)
    return eqn is not None and eqn.primitive.name in copying and is_zero(made, eqn.invars[0])


def _scalar(made: dict[Var, JaxprEqn], atom: Atom) -> Atom | None:
    """The scalar that all entries are known to equal; None if there is none."""
    if math.prod(shaped(atom).shape) == 1:
        return atom if _is_real(atom) else None
    eqn = made.get(atom) if isinstance(atom, Var) else None
    if eqn is None or not eqn.invars or not _is_real(eqn.invars[0]):
        return None
    widens = eqn.primitive.name == p.convert_element_type_p.name and (
        jnp.promote_types(shaped(eqn.invars[0]).dtype, shaped(atom).dtype) == shaped(atom).dtype
    )
    return _scalar(made, eqn.invars[0]) if widens or eqn.primitive.name == p.broadcast_in_dim_p.name else None


def _is_real(atom: Atom) -> bool:
    return jnp.issubdtype(shaped(atom).dtype, jnp.floating)


def _unfit(made: dict[Var, JaxprEqn], eqn: JaxprEqn) -> str | None:
    """The reason why a product cannot be contracted; None if it can."""
    name, params = eqn.primitive.name, eqn.params
    if not all(isinstance(atom, Var) for atom in eqn.invars[-2:]):
        return f"its gradient is a {name} of a constant scalar"
    if not all(_is_real(atom) for atom in (*eqn.invars[:1], *eqn.invars[-1:], *eqn.outvars)):
        return f"its gradient is a {name} of numbers that are not real"
    if name == p.conv_general_dilated_p.name and params["feature_group_count"] != 1:
        return "its gradient is a convolution in groups of features"
    if name == p.scatter_add_p.name:
        numbers, (operand, indices, updates) = params["dimension_numbers"], eqn.invars
        [axis] = numbers.inserted_window_dims if len(numbers.inserted_window_dims) == 1 else [None]
        window = tuple(shaped(updates).shape[d] for d in numbers.update_window_dims)
        rows = (
            is_zero(made, operand)
            and tuple(numbers.scatter_dims_to_operand_dims) == (axis,)
            and not numbers.operand_batching_dims
            and shaped(indices).shape[-1:] == (1,)
            and window == tuple(size for d, size in enumerate(shaped(operand).shape) if d != axis)
        )
        return None if rows else "its gradient is scattered to other places than rows"
    return None


def rearranged(term: Term, value: Array, *, scaled: bool = True) -> Array:
    """The `value` of a product after the moves and, if `scaled`, the scales of a term, which must be literals then."""
    for eqn, number in term.moves:
        args = [value if i == number else _other_operand(atom, value.dtype) for i, atom in enumerate(eqn.invars)]
        [value] = bind(eqn, args)
    for scale, divides in term.scales if scaled else ():
        assert not isinstance(scale, Var)
        factor = jnp.asarray(scale.val if isinstance(scale, Literal) else scale, value.dtype).reshape(())
        value = value / factor if divides else value * factor
    return value


def _other_operand(atom: Atom, dtype: Any) -> Any:
    """An operand of an operation that moves entries, other than the one followed: a literal, or zeros."""
    other = atom.val if isinstance(atom, Literal) else jnp.zeros(shaped(atom).shape, shaped(atom).dtype)
    return jnp.asarray(other, dtype) if _is_real(atom) else other
