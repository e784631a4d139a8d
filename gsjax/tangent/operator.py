"""The tangent kernel as a linear operator: products with vectors, without the n x n matrix."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.extend.core import Var
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree, Real

from gsjax import _check
from gsjax.tangent.calls import ApplyFn, check_call, check_examples, trainable
from gsjax.tangent.empirical import kernel, program_inputs
from gsjax.tangent.factors import Given
from gsjax.tangent.gradients import Gradients, gradients
from gsjax.tangent.programs import Program, dependent, evaluate, inline, spec

__all__ = ["TangentKernel", "ntk_operator"]


class TangentKernel(lx.FunctionLinearOperator):
    """The operator that `ntk_operator` returns; it knows its network, and computes its matrix through `ntk`."""

    program: Program = eqx.field(static=True)
    given: Given
    x: Array

    def __init__(
        self, product: Callable[[Array], Array], structure: PyTree, program: Program, given: Given, x: Array
    ) -> None:
        # The product closes over leaves of a Partial only. Closure conversion would make a new function, hence a new
        # program, for every operator.
        super().__init__(product, structure, (lx.symmetric_tag, lx.positive_semidefinite_tag), closure_convert=False)
        self.program, self.given, self.x = program, given, x

    def as_matrix(self) -> Float[Array, "m m"]:
        """The kernel by `ntk`, at the cost of a few products instead of n; `(n k, n k)` for outputs `(n, k)`."""
        found = kernel(Gradients(self.program, tuple(self.given[0])), self.given, self.x)
        size = found.shape[0] * (found.shape[2] if found.ndim == 4 else 1)
        return found.swapaxes(1, 2).reshape(size, size) if found.ndim == 4 else found


def ntk_operator(apply_fn: ApplyFn, params: PyTree, x: Real[Array, "n ..."]) -> TangentKernel:
    """The kernel K = Phi Phi^T of `ntk` as an operator: `.mv(v)` is K v, with Phi of Eq. 2 (Pezeshki et al. 2021).

    The kernel is a sum over parameters, without a factor. The network is linearised once, by this call. A product is a
    backward pass, `Phi^T v`, and a forward pass, `Phi (Phi^T v)`. The operator holds the activations of every layer,
    which a backward pass over all of x needs, and nothing of size n^2. `.as_matrix()` is `ntk`, much faster than n
    products. The operator is a pytree of arrays: it can be passed to functions under `jax.jit`, and operators with the
    same `apply_fn` and shape share their compiled programs.

    Args:
        apply_fn: `apply_fn(params, x)` -> `(n,)` or `(n, k)`.
        params: the first argument of `apply_fn`. Of flax variables only the collection "params" is differentiated; for
            modules of nnx and Equinox see the docstring of `gsjax`. Leaves that cannot be differentiated (whole
            numbers, bools, typed PRNG keys) are passed to `apply_fn` unchanged.
        x: examples, `(n, ...)`.

    Returns:
        a lineax `FunctionLinearOperator` on vectors of the shape of the network's output, `(n,)` or `(n, k)`, tagged
        symmetric and positive semi-definite.

    Raises:
        ValueError: x is empty; x or the parameters have NaN or infinite entries; there are no parameters, or some are
            not floating point numbers or may not be meant as parameters; an output has the wrong shape, or depends on
            other examples of the batch; from `.mv`, the vector has the wrong shape.

    >>> import jax.numpy as jnp
    >>> def linear(w, x):
    ...     return x @ w
    >>> ntk_operator(linear, jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).mv(jnp.array([1.0, 0.0])).tolist()
    [5.0, 11.0]
    """
    x = check_examples("x", x)
    output = check_call(apply_fn, params, x, "x")
    found = gradients(apply_fn, params, x, output)
    outputs = jax.ShapeDtypeStruct((len(x), *output.shape), output.dtype)
    product = Partial(_Product(outputs), _pullback(apply_fn, params, x, outputs))
    return TangentKernel(product, outputs, found.program, program_inputs(found, params), x)


@dataclasses.dataclass(frozen=True)
class _Pull:
    """`Phi^T` times a vector, from the residuals of one forward pass; the last input of the program is the vector."""

    program: Program

    def residual_vars(self) -> list[Var]:
        """The residuals: the variables of the forward pass that the backward pass needs."""
        jaxpr = self.program.jaxpr
        linear = dependent(jaxpr, jaxpr.invars[-1:])
        used = [eqn.invars for eqn in jaxpr.eqns if not linear.isdisjoint(eqn.outvars)]
        atoms = itertools.chain(*used, jaxpr.outvars)
        return list(dict.fromkeys(atom for atom in atoms if isinstance(atom, Var) and atom not in linear))

    def residuals(self, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        """The values of the residuals."""
        jaxpr = self.program.jaxpr
        return evaluate(
            jaxpr,
            dict(zip((*jaxpr.constvars, *jaxpr.invars[:-1]), (*consts, *given), strict=True)),
            self.residual_vars(),
        )

    def __call__(self, residuals: list[Any], vector: Array) -> list[Array]:
        jaxpr = self.program.jaxpr
        values = dict(zip((*self.residual_vars(), jaxpr.invars[-1]), (*residuals, vector), strict=True))
        return evaluate(jaxpr, values, jaxpr.outvars)


def _pullback(
    apply_fn: ApplyFn, params: PyTree, x: Array, outputs: jax.ShapeDtypeStruct
) -> Callable[[Array], list[Array]]:
    """`Phi^T` as a function of vectors that holds the activations of every layer."""
    tree, rebuild = trainable(params)
    leaves, treedef = jax.tree.flatten(tree)

    def pulled_back(leaves: list[Array], x: Array, vector: Array) -> list[Array]:
        def function(leaves: list[Array]) -> Array:
            return apply_fn(rebuild(jax.tree.unflatten(treedef, leaves)), x)

        # Accelerators default to reduced precision.
        with jax.default_matmul_precision("highest"):
            return jax.vjp(function, leaves)[1](vector)[0]

    traced = jax.make_jaxpr(pulled_back)([spec(leaf) for leaf in leaves], spec(x), outputs)
    rules = not _check.is_concrete(leaves, x, traced.consts)
    traced = inline(traced, rules=rules)
    pull = _Pull(Program.from_jaxpr(traced.jaxpr, rules=rules))
    residuals = _Pull.residuals if rules else jax.jit(_Pull.residuals, static_argnums=0)
    return Partial(pull, residuals(pull, traced.consts, [*map(jnp.asarray, leaves), x]))


@dataclasses.dataclass(frozen=True)
class _Product:
    """`Phi Phi^T` times a vector of the shape of `output`."""

    output: jax.ShapeDtypeStruct

    def __call__(self, pullback: Callable[[Array], list[Array]], vector: Array) -> Array:
        expected = f"shape {self.output.shape}, that of the network's output"
        _check.require(vector.shape == self.output.shape, "vector", expected, f"shape {vector.shape}")
        return _product()(pullback, vector.astype(self.output.dtype))


@functools.cache
def _product() -> Callable[..., Array]:
    """One jitted function for all operators, so that they share its compiled programs."""

    def product(pullback: Callable[[Array], list[Array]], vector: Array) -> Array:
        return jax.linear_transpose(pullback, vector)(pullback(vector))[0]

    return jax.jit(product)
