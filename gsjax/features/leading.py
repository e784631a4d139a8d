"""The strongest features of a kernel that is only known through its products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from gsjax import _check, progress
from gsjax.features.decomposition import Features
from gsjax.features.products import Kernel, held

__all__ = ["check_operator", "check_symmetric", "from_operator", "leading"]

# A second start misses a feature this much stronger than the weakest one found with at most this probability.
_EXCESS, _MISS = 0.1, 1e-3


def from_operator(
    operator: lx.AbstractLinearOperator,
    y: Float[Array, " n"],
    *,
    top: int,
    tolerance: float | None = None,
    max_products: int = 2000,
) -> Features:
    r"""The `top` strongest features of a kernel given by its products, e.g. `gsjax.tangent.ntk_operator`; `vt` is None.

    This is for n so large that K cannot be decomposed. The leading eigenpairs of `Y K Y`, strongest first, are computed
    by Lanczos' algorithm with full reorthogonalisation, in Krylov spaces of growing dimension, until every feature is
    resolved,

    .. math::

        \lVert Y K Y u_j - s_j^2 u_j \rVert \le \text{tolerance} \cdot s_j^2,

    where the residual is computed by a product with the returned u_j. Each s_j^2 is then within `tolerance s_j^2` of a
    strength of the kernel, and the angle of u_j is about `tolerance s_j^2` over the distance to the next strength. With
    `tolerance=None`, the tolerance is `sqrt(eps)`; a larger residual is accepted up to the rounding error of a product,
    `4 sqrt(n) eps s_1^2`, but not above `eps^(1/4) s_j^2`. Strengths below the rounding error count as zero: if the
    rank of the kernel is below `top`, r is the rank.

    Residuals do not show that these are the *leading* features, and a Krylov space holds only one vector of each
    eigenspace. So a second space, orthogonal to the features found, has to show nothing stronger; both starts are
    random with fixed seeds. A feature whose s^2 is 10% above that of the weakest one found is missed with a probability
    below 1e-3, for any spectrum. Closer ones are missed only if neither space resolves them from their neighbours.

    The features beyond r are left out, as if their strengths were zero. `dual.equilibrium` is then that of the best
    approximation of rank r to the kernel, which is close under a `Ridge` well above the strengths left out. Under
    `SpectralDecoupling` strengths do not matter: for any penalty, outputs stay in the span of u (`decoupled=False`).

    Cost: one product for each dimension of the Krylov spaces, and one or two for each feature; memory for twice the
    last space. The first space ends once the Ritz pairs are resolved by their own estimates, at dimension `2 top + 60`
    at the latest, which is doubled as long as they are not resolved. The second space ends once nothing in it reaches
    the weakest feature, at half that dimension at the latest. If n products are not more, K itself is decomposed. The
    number of products depends on values, so this does not work under `jit`. Each product is a call of one compiled
    program, since XLA runs convolutions several times slower in a compiled loop on CPUs. Vectors are scaled such that
    no product over- or underflows; all other computations on them are in NumPy.

    A product with the kernel of a network costs as much as many rows of `tangent.ntk`. So up to n = 8192 (2^26 numbers,
    256 MiB in float32) the matrix of a `tangent.ntk_operator` is computed, and the products are made with it, unless
    its entries are not normal numbers where the products still are.

    Args:
        operator: on vectors `(n,)`, tagged symmetric; positive semi-definite.
        y: `(n,)`, labels in {-1, +1}.
        top: number of features.
        tolerance: the largest residual of a feature, relative to its strength.
        max_products: the largest total number of products; a space is only begun if its largest number of products
            remains.

    Raises:
        ValueError: `operator` is not a symmetric lineax operator on vectors `(n,)`, is traced, has products that are
            not finite, is not positive semi-definite (to rounding), has rank 0, is not in float32 or float64, or is so
            small that some of the wanted features are below the normal numbers; `y` is not `n` labels -1 or +1;
            `top` is not within 1 to n; `tolerance` is not positive; `max_products` do not resolve the features.

    >>> kernel = lx.MatrixLinearOperator(jnp.diag(jnp.array([1.0, 9.0, 4.0])), lx.positive_semidefinite_tag)
    >>> from_operator(kernel, jnp.array([1.0, -1.0, 1.0]), top=2).s.tolist()
    [3.0, 2.0]
    """
    n = check_operator(operator)
    y = jnp.asarray(y)
    _check.labels("y", y, n)
    _check.require(_check.is_concrete(y), "y", "labels that are not traced, see the docstring", "a tracer")
    return leading(operator, y, top=top, tolerance=tolerance, max_products=max_products)


def check_operator(operator: lx.AbstractLinearOperator) -> int:
    """The number n of entries of the vectors `(n,)` that a symmetric operator takes.

    Raises:
        ValueError: it is something else, see `from_operator`.
    """
    shape = check_symmetric(operator)
    if len(shape) == 2:
        _check.one_output("operator", "one on vectors (n,)", shape, shape[1])
    _check.require(len(shape) == 1, "operator", "one on vectors (n,)", f"one on shape {shape}")
    return shape[0]


def check_symmetric(operator: lx.AbstractLinearOperator) -> tuple[int, ...]:
    """The shape of the arrays that a symmetric operator takes; a `ValueError` as in `from_operator` otherwise."""
    symmetric = isinstance(operator, lx.AbstractLinearOperator) and lx.is_symmetric(operator)
    _check.require(symmetric, "operator", "a lineax operator that is tagged symmetric", type(operator).__name__)
    structure = operator.in_structure()
    single = isinstance(structure, jax.ShapeDtypeStruct)
    _check.require(single, "operator", "one on a single array", structure)
    kinds = (jnp.float32, jnp.float64)
    _check.require(structure.dtype in kinds, "operator", "one in float32 or float64", structure.dtype)
    _check.require(_check.is_concrete(operator), "operator", "one that is not traced, see the docstring", "a tracer")
    return structure.shape


def leading(
    operator: lx.AbstractLinearOperator,
    y: Float[Array, " n"],
    *,
    top: int,
    tolerance: float | None,
    max_products: int,
) -> Features:
    """`from_operator` for an operator on arrays of any shape with n entries, as vectors in C order."""
    n, dtype = operator.in_size(), operator.in_structure().dtype
    top = _check.whole("top", top, least=1)
    _check.require(top <= n, "top", f"a whole number from 1 to n = {n}", top)
    max_products = _check.whole("max_products", max_products, least=1)
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")

    y, feats = y.astype(dtype), None
    kernel = Kernel(held(operator), np.asarray(y))
    kept, strongest, threshold = np.zeros((n, 0), dtype), 0.0, -np.inf
    dimension, products, status = 2 * top + 60, 0, "none are resolved yet"
    may_stop = True
    while True:
        # A Ritz value converges twice as fast as its vector, so half the dimension suffices to show a stronger feature.
        depth = dimension if feats is None else dimension // 2
        cost = min(n, depth + top + kept.shape[1])
        expected = f"{products + cost} or more, to resolve {top} features"
        _check.require(products + cost <= max_products, "max_products", expected, f"{max_products}; {status}")
        if cost == n:
            basis = np.eye(n, dtype=dtype)
        else:
            start = np.asarray(jax.random.normal(jax.random.key(products), (n,), dtype))

            def enough(
                values: np.ndarray, residual: np.ndarray, first: bool = feats is None, threshold: float = threshold
            ) -> bool:
                """Whether every Ritz pair is resolved, or certainly not among those to be returned."""
                largest = max(values[0], strongest)  # noqa: B023
                # Doubled, since the residual from a product is this estimate plus rounding.
                resolved, weightless, _ = _judge(values, 2 * residual, n, dtype, tolerance, largest)
                return bool(np.all(resolved | weightless | (not first and values + residual <= threshold)))

            least = top + 1 if feats is None else min(_least(n), depth)
            # After an estimate that did not hold, a space is not ended early on an estimate again.
            stop = enough if may_stop else None
            values, vectors, made = _lanczos(kernel, kept, strongest, start, depth, least, top, stop)
            products += made
            _check_ritz(values, strongest, dtype)
            if feats is not None and values[0] <= threshold:
                return feats
            basis = np.concatenate([kept, vectors], axis=1)
        s2, u, residual = _rayleigh_ritz(kernel, basis)
        _check_ritz(s2, strongest, dtype)
        products += basis.shape[1]

        s2, u, residual = s2[:top], u[:, :top], residual[:top]
        resolved, weightless, accuracy = _judge(s2, residual, n, dtype, tolerance, s2[0])
        if not np.all(resolved | weightless):
            worst = np.max(residual[~weightless] / s2[~weightless])
            status = f"{resolved.sum()} are resolved after {products}, the largest relative residual is {worst:.1e}"
            _check.require(cost < n, "top", f"features that {dtype} resolves to the tolerance", f"{top}; {status}")
            dimension, may_stop = 2 * dimension, False
            continue
        rank = int(resolved.sum())
        _check.require(rank > 0, "operator", "at least one feature of positive strength", "an operator of rank 0")
        # Strengths below the normal numbers may have been flushed to zero.
        tiny = np.ldexp(float(jnp.finfo(dtype).tiny), -kernel.exponent)
        lost = s2[rank - 1] < n * tiny or (rank < top and s2[0] * float(jnp.finfo(dtype).eps) < n * tiny)
        expected = f"{top} features whose strengths are normal numbers of {dtype} (scale the kernel, or use float64)"
        _check.require(not lost, "operator", expected, f"a largest strength of {np.ldexp(s2[0], kernel.exponent):.1e}")
        u, s = u[:, resolved], np.ldexp(np.sqrt(s2[resolved]), kernel.exponent // 2)
        feats = Features(jnp.asarray(u), jnp.asarray(s, dtype), None, y, rank)
        if cost == n:
            return feats
        status = f"they are resolved after {products}, but there may be stronger ones"
        kept, strongest, threshold, may_stop = u, s2[0], s2[-1] + accuracy[-1], True


def _least(n: int) -> int:
    """The dimension d at which a Krylov space from a random start shows an eigenvalue `_EXCESS` above a known one.

    Its largest Ritz value is then within the factor 1 + _EXCESS of the largest eigenvalue, except with probability
    _MISS. The probability of a relative error above e is at most 1.648 sqrt(n) exp(-sqrt(e) (2 d - 1)) (Kuczynski and
    Wozniakowski 1992).
    """
    excess = _EXCESS / (1 + _EXCESS)
    return math.ceil((math.log(1.648 * math.sqrt(n) / _MISS) / math.sqrt(excess) + 1) / 2)


def _lanczos(
    kernel: Kernel,
    kept: Float[np.ndarray, "n k"],
    strongest: float,
    start: Float[np.ndarray, " n"],
    depth: int,
    least: int,
    top: int,
    enough: Callable[[np.ndarray, np.ndarray], bool] | None,
) -> tuple[Float[np.ndarray, " depth"], Float[np.ndarray, "n top"], int]:
    """Ritz values of Y K Y, largest first, and `top` vectors in the Krylov space of `start`, orthogonal to `kept`.

    The third value returned is the number of products made. `strongest` is the largest eigenvalue of the vectors
    `kept`, or zero. The space has dimension `depth`, or ends at a dimension from `least` on at which `enough` holds for
    the `top` largest Ritz values and their residuals.
    """
    n, dtype = len(start), start.dtype
    krylov = np.zeros((depth, n), dtype)
    diagonal, off_diagonal = np.zeros(depth), np.zeros(depth)

    def orthogonal(v: np.ndarray, dimension: int) -> np.ndarray:
        for _ in range(2):  # the second pass removes what rounding left in the first
            for basis in (kept, krylov[:dimension].T):
                v = v - basis @ (basis.T @ v.astype(dtype)).astype(np.float64)
        return v

    v = orthogonal(start.astype(np.float64), 0)
    krylov[0] = v / np.linalg.norm(v)
    k = 0
    for k in progress.track(range(depth), "products with the kernel"):
        image = kernel.product(krylov[k])
        diagonal[k] = krylov[k].astype(np.float64) @ image
        image = orthogonal(image, k + 1)
        off_diagonal[k] = np.linalg.norm(image)
        if not np.isfinite(diagonal[k] + off_diagonal[k]):
            return np.array([np.nan]), krylov.T[:, :top], k + 1
        # An exhausted Krylov space ends here; the remaining zeros only add zeros to the Ritz values.
        scale = max(strongest, diagonal[: k + 1].max())
        if k + 1 == depth or off_diagonal[k] <= np.sqrt(n) * np.finfo(dtype).eps * scale:
            break
        if enough is not None and k + 1 >= least and (k + 1 - least) % 4 == 0:
            values, vectors = _tridiagonal(diagonal[: k + 1], off_diagonal[:k])
            if enough(values[:top], off_diagonal[k] * np.abs(vectors[-1, :top])):
                break
        krylov[k + 1] = image / off_diagonal[k]
    values, vectors = _tridiagonal(diagonal, np.where(np.arange(depth) < k, off_diagonal, 0)[:-1])
    return values, krylov.T @ vectors[:, :top].astype(dtype), k + 1


def _tridiagonal(
    diagonal: Float[np.ndarray, " d"], off_diagonal: Float[np.ndarray, " e"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Eigenvalues, largest first, and eigenvectors of a symmetric tridiagonal matrix."""
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1))
    return values[::-1], vectors[:, ::-1]


def _rayleigh_ritz(
    kernel: Kernel, basis: Float[np.ndarray, "n d"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "n d"], Float[np.ndarray, " d"]]:
    """Ritz values of Y K Y, largest first, Ritz vectors and residuals in a space that contains the span of `basis`."""
    basis, _ = np.linalg.qr(basis)
    columns = progress.track(range(basis.shape[1]), "products with the kernel")
    image = np.stack([kernel.product(basis[:, column]) for column in columns], axis=1)
    if not np.all(np.isfinite(image)):
        return np.full(1, np.nan), basis, np.zeros(1)
    matrix = basis.T.astype(np.float64) @ image
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    u = (basis @ vectors).astype(basis.dtype)
    # The residuals are those of the rounded vectors: rounding can add eps times the largest strength.
    residual = np.linalg.norm(image @ vectors - u * values, axis=0) + np.finfo(u.dtype).eps * values[-1]
    return values[::-1], u[:, ::-1], residual[::-1]


def _check_ritz(values: Float[np.ndarray, " d"], strongest: float, dtype: Any) -> None:
    _check.require(np.all(np.isfinite(values)), "operator", "finite products", "NaN or infinite entries")
    tolerance = np.sqrt(float(jnp.finfo(dtype).eps)) * max(values[0], strongest)
    _check.require(values[-1] >= -tolerance, "operator", "a positive semi-definite one", f"the Ritz value {values[-1]}")


def _judge(
    s2: np.ndarray, residual: np.ndarray, n: int, dtype: Any, tolerance: float | None, largest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which Ritz pairs are resolved, which are only rounding errors, and the accuracy of the Ritz values."""
    eps = float(jnp.finfo(dtype).eps)
    rounding = 4 * np.sqrt(n) * eps * largest
    attainable = np.maximum(np.sqrt(eps) * s2, np.minimum(rounding, eps**0.25 * s2))
    allowed = attainable if tolerance is None else tolerance * s2
    resolved = residual < allowed
    weightless = ~resolved & (s2 <= rounding) & (residual <= rounding)
    return resolved, weightless, np.maximum(allowed, rounding)
