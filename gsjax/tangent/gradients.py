"""The program that computes the gradient of an example's output with respect to every leaf of the parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var
from jaxtyping import Array, PyTree

from gsjax import _check
from gsjax.tangent.calls import ApplyFn, trainable
from gsjax.tangent.loops import out_of_loops
from gsjax.tangent.programs import Program, inline, spec

__all__ = ["Gradients", "gradients"]


class Gradients(NamedTuple):
    """The gradient of an example's output with respect to every leaf, pulled back from a cotangent.

    The inputs of the program are the leaves, the example and the cotangent; its outputs have the shapes of the leaves.
    """

    program: Program
    consts: tuple[Any, ...]

    @property
    def example(self) -> Var:
        """The input variable of the example."""
        return self.program.jaxpr.invars[-2]

    @property
    def cotangent(self) -> Var:
        """The input variable of the output's cotangent."""
        return self.program.jaxpr.invars[-1]


def gradients(apply_fn: ApplyFn, params: PyTree, x: Array, output: jax.ShapeDtypeStruct) -> Gradients:
    """Traces the gradient of the `output` of one example, in a batch of one.

    The values of params and x do not matter. Derivative rules are those of JAX, including custom ones. Calls are
    inlined, and products are moved out of loops.

    Raises:
        ValueError: the function cannot be differentiated in reverse mode.
    """
    tree, rebuild = trainable(params)
    leaves, treedef = jax.tree.flatten(tree)

    def pulled_back(leaves: list[Array], example: Array, cotangent: Array) -> list[Array]:
        def function(leaves: list[Array]) -> Array:
            return apply_fn(rebuild(jax.tree.unflatten(treedef, leaves)), example[None])[0]

        return jax.vjp(function, leaves)[1](cotangent)[0]

    specs, example = [spec(leaf) for leaf in leaves], jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x))
    try:
        traced = jax.make_jaxpr(pulled_back)(specs, example, output)
    except Exception as error:
        expected = "a function that can be differentiated in reverse mode"
        raise ValueError(f"apply_fn: expected {expected}, got {type(error).__name__}: {error}") from error
    # Within a transformation the program may be differentiated once more.
    known = _check.is_concrete(leaves, x, traced.consts)
    traced = out_of_loops(inline(traced, rules=not known))
    return Gradients(Program.from_jaxpr(traced.jaxpr, rules=not known), tuple(traced.consts))
