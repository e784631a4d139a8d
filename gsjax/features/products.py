"""Products of vectors with a kernel that is given as an operator."""

from __future__ import annotations

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from gsjax.tangent.operator import TangentKernel

__all__ = ["Kernel", "held"]

# The most entries of a network's kernel for which the full matrix is held: 256 MiB in float32, n = 8192.
_HELD = 2**26


def held(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """The kernel of a network as a matrix if that is small enough, since it takes as long as a few products.

    A kernel `ntk_operator` of up to 8192 outputs (2^26 entries, 256 MiB in float32) becomes a `MatrixLinearOperator`
    on vectors, also where outputs are `(n, k)`, unless its entries are not normal numbers. Any other operator is
    returned as it is. Functions that take operators do this by themselves; to call several of them, do it once.
    """
    if not isinstance(operator, TangentKernel) or operator.in_size() ** 2 > _HELD:
        return operator
    matrix, dtype = operator.as_matrix(), operator.in_structure().dtype
    info = jnp.finfo(dtype)
    # Products can be scaled such that they do not over- or underflow; the entries of the matrix cannot.
    size = float(jnp.max(jnp.abs(matrix)))
    normal = float(info.tiny) / float(info.eps) ** 2 < size < np.inf
    return lx.MatrixLinearOperator(matrix.astype(dtype), operator.tags) if normal else operator


class Kernel:
    """Products with Y K Y, made on the device one by one; the vectors are scaled and combined on the host.

    Vectors are those of the entries, in C order, of the arrays that the operator takes.
    In a compiled loop, XLA would run convolutions without its fast kernels on CPUs.
    """

    def __init__(self, operator: lx.AbstractLinearOperator, y: Float[np.ndarray, " n"]) -> None:
        self._operator, self._y = operator, y
        self._power = 0  # vectors are multiplied by 2^_power
        self.exponent = 0  # even; products are divided by 2^exponent, about the norm of the kernel
        self._balanced = False

    def product(self, vector: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The product with a vector of about unit length, divided by `2^exponent`, in float64."""
        if self._balanced:
            return self._image(vector, self._power)
        # The scale puts vectors and products at equal distances from 1, on either side. Where the first product
        # underflows or overflows, much longer or shorter vectors may still have one.
        info = np.finfo(vector.dtype)
        image = self._image(vector, 0)
        for power in (0, info.maxexp * 2 // 3, -info.maxexp * 2 // 3):
            trial = self._image(vector, power) if power else image
            size = np.max(np.abs(trial))
            if 0 < size < np.inf:
                self._balanced = True
                binary = int(np.frexp(size)[1]) - power
                limit = info.maxexp * 3 // 4
                self.exponent, self._power = 2 * (binary // 2), int(np.clip(-binary // 2, -limit, limit))
                # In a small product, the smallest entries may have underflowed.
                inaccurate = power or size < info.tiny / info.eps**2
                return self._image(vector, self._power) if inaccurate else np.ldexp(trial, -self.exponent)
        return image

    def _image(self, vector: Float[np.ndarray, " n"], power: int) -> Float[np.ndarray, " n"]:
        scaled = np.ldexp(self._y * vector, power).astype(vector.dtype)
        image = np.asarray(_product()(self._operator, jnp.asarray(scaled)), np.float64)
        return np.ldexp(self._y * image, -self.exponent - power)


@functools.cache
def _product() -> Callable[..., Float[Array, " n"]]:
    """One jitted function for all operators, so that they share its compiled programs."""

    def product(operator: lx.AbstractLinearOperator, vector: Float[Array, " n"]) -> Float[Array, " n"]:
        with jax.default_matmul_precision("highest"):
            return operator.mv(vector.reshape(operator.in_structure().shape)).ravel()

    return eqx.filter_jit(product)
