"""The tangent kernel as a linear operator: products with vectors, without the n x n matrix."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import lineax as lx
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree, Real

from gsjax import _check
from gsjax.tangent.calls import ApplyFn, check_call, check_examples, trainable
from gsjax.tangent.empirical import given_by, kernel
from gsjax.tangent.factors import Given
from gsjax.tangent.gradients import Gradients, gradients
from gsjax.tangent.programs import Program, inline, like, run

__all__ = ["TangentKernel", "ntk_operator"]


class TangentKernel(lx.FunctionLinearOperator):
    """What `ntk_operator` returns: an operator that knows its network, and so a cheaper way to its matrix."""

    program: Program = eqx.field(static=True)
    given: Given
    x: Array

    def __init__(
        self, product: Callable[[Array], Array], structure: PyTree, program: Program, given: Given, x: Array
    ) -> None:
        # What the product closes over are leaves of a Partial already. Converted, it would be a new function, hence
        # a new program, for every operator.
        super().__init__(product, structure, (lx.symmetric_tag, lx.positive_semidefinite_tag), closure_convert=False)
        self.program, self.given, self.x = program, given, x

    def as_matrix(self) -> Float[Array, "m m"]:
        """The kernel by `ntk`, at a few products' cost instead of n; of outputs `(n, k)` as the matrix `(n k, n k)`."""
        found = kernel(Gradients(self.program, tuple(self.given[0])), self.given, self.x)
        size = found.shape[0] * (found.shape[2] if found.ndim == 4 else 1)
        return found.swapaxes(1, 2).reshape(size, size) if found.ndim == 4 else found


def ntk_operator(apply_fn: ApplyFn, params: PyTree, x: Real[Array, "n ..."]) -> TangentKernel:
    """The kernel K = Phi Phi^T of `ntk` as an operator: `.mv(v)` is K v, with Phi of Eq. 2 (Pezeshki et al. 2021).

    A sum over parameters, without a factor. The network is linearised here, once, and a product is a pass backwards,
    `Phi^T v`, and one forwards, `Phi (Phi^T v)`. The operator holds what one backward pass over all of x needs, the
    activations of every layer, and nothing of size n^2; `.as_matrix()` is `ntk`, much faster than n products. It is a
    pytree of arrays: it goes through `jax.jit`, and operators of one `apply_fn` and shape share their compiled
    programs. If `apply_fn` mixes the examples of a batch, as batch normalisation does in training mode, Phi is the
    Jacobian of the batch as a whole.

    Args:
        apply_fn: `apply_fn(params, x)` -> `(n,)` or `(n, k)`.
        params: what `apply_fn` takes. Of flax variables only the collection "params" is differentiated; for modules of
            nnx and Equinox see the docstring of `gsjax`.
        x: examples, `(n, ...)`.

    Returns:
        a lineax `FunctionLinearOperator` on vectors of the shape of the network's output, `(n,)` or `(n, k)`, tagged
        symmetric and positive semi-definite.

    Raises:
        ValueError: x empty; NaN or infinity in x or the parameters; no parameters, or some that are not floating
            point numbers or not meant to be any; an output of another shape, or one that depends on other examples of
            the batch; from `.mv`, a vector of another shape.

    >>> import jax.numpy as jnp
    >>> def linear(w, x):
    ...     return x @ w
    >>> ntk_operator(linear, jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).mv(jnp.array([1.0, 0.0])).tolist()
    [5.0, 11.0]
    """
    x = check_examples("x", x)
    check_call(apply_fn, params, x, "x")
    output, pushforward = _linearised(apply_fn, params, x)
    product = Partial(_product(), pushforward, trainable(params)[0])
    found = gradients(apply_fn, params, x)
    return TangentKernel(product, output, found.program, given_by(found, params), x)


@dataclasses.dataclass(frozen=True)
class _Push:
    """`Phi` times a direction in parameter space, from what one pass forwards has left."""

    program: Program

    def __call__(self, consts: list[Array], residuals: list[Array], direction: PyTree) -> Array:
        [output] = run(self.program.jaxpr, consts, [*residuals, *jax.tree.leaves(direction)])
        return output


def _linearised(apply_fn: ApplyFn, params: PyTree, x: Array) -> tuple[jax.ShapeDtypeStruct, Callable[[PyTree], Array]]:
    """The output's shape, and `Phi` as a function of directions, which holds the activations of every layer."""
    variables, rebuild = trainable(params)
    held: list[PyTree] = []

    def linearise(variables: PyTree, x: Array) -> tuple[Array, list[Array]]:
        # Not in the reduced precision that accelerators default to.
        with jax.default_matmul_precision("highest"):
            output, pushforward = jax.linearize(lambda variables: apply_fn(rebuild(variables), x), variables)
        residuals, tree = jax.tree.flatten(pushforward)
        held[:] = [tree]
        return output, residuals

    forward, (output, residuals) = jax.make_jaxpr(linearise, return_shape=True)(jax.tree.map(like, variables), like(x))

    def push(residuals: list[Array], direction: PyTree) -> Array:
        return jax.tree.unflatten(held[0], residuals)(direction)

    pushed = jax.make_jaxpr(push)(residuals, jax.tree.map(like, variables))
    rules = not _check.is_concrete(variables, x, forward.consts, pushed.consts)
    forward, pushed = inline(forward, rules=rules), inline(pushed, rules=rules)
    evaluated = _run if rules else jax.jit(_run, static_argnums=0)
    given = jax.tree.leaves((variables, x))
    _, *residuals = evaluated(Program.of(forward.jaxpr, rules=rules), forward.consts, given)
    return output, Partial(_Push(Program.of(pushed.jaxpr, rules=rules)), pushed.consts, residuals)


def _run(program: Program, consts: list[Array], given: list[Array]) -> list[Array]:
    return run(program.jaxpr, consts, given)


@functools.cache
def _product() -> Callable[..., Array]:
    """One jitted function for all operators, so that they share its programs."""

    def product(pushforward: Callable[[PyTree], Array], variables: PyTree, vector: Array) -> Array:
        output = jax.eval_shape(pushforward, variables)
        expected = f"shape {output.shape}, that of the network's output"
        _check.require(vector.shape == output.shape, "vector", expected, f"shape {vector.shape}")
        (direction,) = jax.linear_transpose(pushforward, variables)(vector.astype(output.dtype))
        return pushforward(direction)

    return jax.jit(product)
