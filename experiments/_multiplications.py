"""The number of multiplications in a program, counted from the program itself.

Counted are those of matrix products and convolutions, which are nearly all of the work of a network. Multiplications by
the zeros of a padding count, since they are carried out; those by the zeros between the entries of a dilated array,
as in the backward pass of a convolution with stride, do not. Of a branch, the most expensive side counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

__all__ = ["multiplications"]


def multiplications(function: Callable[..., Any], *args: Any) -> int:
    """The multiplications of `function(*args)`, whose arguments may be `jax.ShapeDtypeStruct`.

    >>> import jax.numpy as jnp
    >>> multiplications(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 5)))
    30

    Raises:
        ValueError: the program has a loop whose number of steps is not known before it runs, with products in it.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(map(_of, jaxpr.eqns))


def _of(eqn: JaxprEqn) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), (batch, _) = eqn.params["dimension_numbers"]
        left, right = (_shape(var) for var in eqn.invars)
        shared = math.prod(left[axis] for axis in (*contracted, *batch))
        return math.prod(left) * math.prod(right) // shared
    if name == "conv_general_dilated":
        numbers, kernel = eqn.params["dimension_numbers"], _shape(eqn.invars[1])
        window = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
        return math.prod(_shape(eqn.outvars[0])) * window // math.prod(eqn.params["lhs_dilation"])
    inner = [_count(program) for program in _programs(eqn)]
    if name == "cond":
        return max(inner)
    if name == "while" and sum(inner):
        raise ValueError("function: expected loops with a known number of steps, got a while loop with products in it")
    return sum(inner) * (eqn.params["length"] if name == "scan" else 1)


def _programs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs inside an operation."""
    for value in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda value: isinstance(value, ClosedJaxpr | Jaxpr)
    ):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _shape(var: Any) -> tuple[int, ...]:
    return tuple(var.aval.shape)
