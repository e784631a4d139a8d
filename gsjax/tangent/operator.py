"""The tangent kernel as a linear operator: products with vectors, without the n x n matrix."""

from __future__ import annotations

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import lineax as lx
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree, Real

from gsjax import _check
from gsjax.tangent.calls import ApplyFn, check_call, check_examples, hashable, trainable
from gsjax.tangent.empirical import ntk

__all__ = ["TangentKernel", "ntk_operator"]


class TangentKernel(lx.FunctionLinearOperator):
    """What `ntk_operator` returns: an operator that knows its network, and so a cheaper way to its matrix."""

    apply_fn: ApplyFn = eqx.field(static=True)
    params: PyTree
    x: Array

    def __init__(
        self, product: Callable[[Array], Array], structure: PyTree, apply_fn: ApplyFn, params: PyTree, x: Array
    ) -> None:
        # What the product closes over are leaves of a Partial already. Converted, it would be a new function, hence
        # a new program, for every operator.
        super().__init__(product, structure, (lx.symmetric_tag, lx.positive_semidefinite_tag), closure_convert=False)
        self.apply_fn, self.params, self.x = apply_fn, params, x

    def as_matrix(self) -> Float[Array, "m m"]:
        """The kernel by `ntk`, at a few products' cost instead of n; of outputs `(n, k)` as the matrix `(n k, n k)`."""
        kernel = ntk(self.apply_fn, self.params, self.x)
        size = kernel.shape[0] * (kernel.shape[2] if kernel.ndim == 4 else 1)
        return kernel.swapaxes(1, 2).reshape(size, size) if kernel.ndim == 4 else kernel


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
            nnx and Equinox see the docstring of `gsjax`. Leaves that cannot be
            differentiated (whole numbers, bools, typed PRNG keys) are no parameters: `apply_fn` takes them as they are.
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
    apply_fn, x = hashable(apply_fn), check_examples("x", x)
    check_call(apply_fn, params, x, "x")
    structure = jax.eval_shape(apply_fn, params, x)
    pushforward = jax.jit(_linearise, static_argnums=0)(apply_fn, params, x)
    return TangentKernel(Partial(_product(), pushforward, trainable(params)[0]), structure, apply_fn, params, x)


def _linearise(apply_fn: ApplyFn, params: PyTree, x: Array) -> Callable[[PyTree], Array]:
    """`Phi`, as a function of directions in parameter space."""
    variables, rebuild = trainable(params)
    # Not in the reduced precision that accelerators default to.
    with jax.default_matmul_precision("highest"):
        return jax.linearize(lambda variables: apply_fn(rebuild(variables), x), variables)[1]


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
