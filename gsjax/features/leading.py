"""The strongest features of a kernel that is known by its products with vectors alone."""

from __future__ import annotations

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from matfree import decomp

from gsjax import _check
from gsjax.features.decomposition import Features

__all__ = ["from_operator"]


def from_operator(
    operator: lx.AbstractLinearOperator,
    y: Float[Array, " n"],
    *,
    top: int,
    tolerance: float | None = None,
    max_products: int = 2000,
) -> Features:
    """The `top` strongest features of a kernel given by its products, e.g. `gsjax.tangent.ntk_operator`; `vt` is None.

    For n so large that K cannot be held or decomposed: the leading eigenpairs of `Y K Y`, strongest first, by Lanczos'
    algorithm with full reorthogonalisation, in Krylov spaces of growing dimension until every feature is resolved,

        |Y K Y u_j - s_j^2 u_j| <= tolerance s_j^2,

    by a product made for the u_j returned. Each s_j^2 is then within `tolerance s_j^2` of a strength of the kernel,
    and u_j at an angle of about `tolerance s_j^2` over the distance to the next one. With `tolerance=None` it is
    `sqrt(eps)`, and the rounding of a product, up to `4 sqrt(n) eps s_1^2`, is accepted where that is larger, if within
    `eps^(1/4) s_j^2`. What is below rounding has no strength: of a kernel of rank below `top`, r is the rank.

    No residual tells that these are the *leading* features, and a Krylov space holds one vector of each eigenspace.
    So another one, orthogonal to what was found, has to show nothing stronger; both starts are random, of fixed seeds.

    The features beyond r are left out, as if they had no strength. `dual.equilibrium` is then that of the best
    approximation of rank r to the kernel: close under a `Ridge` well above the strengths left out. Under
    `SpectralDecoupling` strengths do not count, and what is left out is left out whatever the penalty: outputs stay in
    the span of u (`decoupled=False`).

    Takes a product for each dimension of the Krylov spaces, of `2 top + 60` at first and doubling, then half as many as
    the last had, and one or two for each feature; and memory for twice the last. Where n products are no more, K itself
    is decomposed. How many it takes depends on values, so this does not work under `jit`.

    Args:
        operator: on vectors `(n,)`, tagged symmetric; positive semi-definite.
        y: `(n,)`, labels in {-1, +1}.
        top: how many features.
        tolerance: the largest residual of a feature, relative to its strength.
        max_products: how many products may be made altogether.

    Raises:
        ValueError: `operator` is not a symmetric lineax operator on vectors `(n,)`, is traced, has products that are
            not finite, is not positive semi-definite (to rounding) or has rank 0; `y` is not `n` labels -1 or +1;
            `top` is not within 1 to n; `tolerance` is not positive; `max_products` do not resolve the features.

    >>> kernel = lx.MatrixLinearOperator(jnp.diag(jnp.array([1.0, 9.0, 4.0])), lx.positive_semidefinite_tag)
    >>> from_operator(kernel, jnp.array([1.0, -1.0, 1.0]), top=2).s.tolist()
    [3.0, 2.0]
    """
    symmetric = isinstance(operator, lx.AbstractLinearOperator) and lx.is_symmetric(operator)
    _check.require(symmetric, "operator", "a lineax operator that is tagged symmetric", type(operator).__name__)
    structure = operator.in_structure()
    vectors = isinstance(structure, jax.ShapeDtypeStruct) and len(structure.shape) == 1
    _check.require(vectors, "operator", "one on vectors (n,), of a network with one output", structure)
    n, dtype = structure.size, structure.dtype
    y = jnp.asarray(y)
    _check.labels("y", y, n)
    _check.require(_check.is_concrete(operator, y), "operator", "one outside of tracing, see the docstring", "a tracer")
    _check.require(top in range(1, n + 1), "top", f"a whole number from 1 to n = {n}", top)
    if tolerance is not None:
        _check.scalar("tolerance", tolerance)
        _check.positive("tolerance", tolerance)

    y, feats = y.astype(dtype), None
    kept, strongest, threshold = jnp.zeros((n, 0), dtype), 0.0, -np.inf
    dimension, products, progress = 2 * top + 60, 0, "none are yet"
    while True:
        # A Ritz value converges twice as fast as its vector: a stronger feature would show in a space of half the size.
        depth = dimension if feats is None else dimension // 2
        cost = min(n, depth + top + kept.shape[1])
        expected = f"{products + cost} or more, to resolve {top} features"
        _check.require(products + cost <= max_products, "max_products", expected, f"{max_products}; {progress}")
        if cost == n:
            basis = jnp.eye(n, dtype=dtype)
        else:
            start = jax.random.normal(jax.random.key(products), (n,), dtype)
            values, vectors = eqx.filter_jit(_lanczos)(
                operator, y, kept, jnp.asarray(strongest, dtype), start, depth, top
            )
            _check_ritz(values, strongest)
            if feats is not None and values[0] <= threshold:
                return feats
            basis = jnp.concatenate([kept, vectors], axis=1)
        s2, u, residual = eqx.filter_jit(_rayleigh_ritz)(operator, y, basis)
        _check_ritz(s2, strongest)
        products += cost

        s2, u, residual = np.asarray(s2[:top], float), u[:, :top], np.asarray(residual[:top], float)
        resolved, weightless, accuracy = _judge(s2, residual, n, dtype, tolerance)
        if not np.all(resolved | weightless):
            worst = np.max(residual[~weightless] / s2[~weightless])
            progress = f"{resolved.sum()} are after {products}, the largest residual is {worst:.1e} of its strength"
            _check.require(cost < n, "top", f"features that {dtype} resolves to the tolerance", f"{top}; {progress}")
            dimension *= 2
            continue
        rank = int(resolved.sum())
        _check.require(rank > 0, "operator", "at least one feature of positive strength", "an operator of rank 0")
        feats = Features(u[:, resolved], jnp.sqrt(jnp.asarray(s2[resolved], dtype)), None, y, rank)
        if cost == n:
            return feats
        progress = f"they are after {products}, but there may be stronger ones"
        kept, strongest, threshold = feats.u, s2[0], s2[-1] + accuracy[-1]


def _lanczos(
    operator: lx.AbstractLinearOperator,
    y: Float[Array, " n"],
    kept: Float[Array, "n k"],
    strongest: Float[Array, ""],
    start: Float[Array, " n"],
    depth: int,
    top: int,
) -> tuple[Float[Array, " depth"], Float[Array, "n top"]]:
    """Ritz values of Y K Y, largest first, and `top` vectors in the Krylov space of `start`, orthogonal to `kept`.

    `strongest` is the largest eigenvalue among those of `kept`, or zero.
    """

    def project(v: Array) -> Array:
        return v - kept @ (kept.T @ v)

    with jax.default_matmul_precision("highest"):
        lanczos = decomp.tridiag_sym(depth, reortho="full", custom_vjp=False)
        krylov, matrix, *_ = cast(Any, lanczos(lambda v: project(y * operator.mv(y * project(v))), project(start)))
        # Once the Krylov space is exhausted, rounding errors scaled up follow, or 0 / 0. Zeros in their place add only
        # zeros to the Ritz values.
        scale = jnp.maximum(strongest, jnp.nanmax(jnp.diagonal(matrix)))
        further = jnp.diagonal(matrix, 1) > jnp.sqrt(len(y)) * jnp.finfo(y.dtype).eps * scale
        valid = jnp.cumprod(jnp.append(True, further)).astype(bool)
        values, vectors = jnp.linalg.eigh(jnp.where(valid[:, None] & valid, matrix, 0))
        leading = jnp.where(valid[:, None], krylov, 0).T @ vectors[:, : -top - 1 : -1]
    return values[::-1], leading


def _rayleigh_ritz(
    operator: lx.AbstractLinearOperator, y: Float[Array, " n"], basis: Float[Array, "n d"]
) -> tuple[Float[Array, " d"], Float[Array, "n d"], Float[Array, " d"]]:
    """Ritz values of Y K Y, largest first, vectors and residuals in a space that holds the span of `basis`."""
    with jax.default_matmul_precision("highest"):
        basis, _ = jnp.linalg.qr(basis)
        image = lax.map(lambda v: y * operator.mv(y * v), basis.T).T
        matrix = basis.T @ image
        values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
        u = basis @ vectors
        residual = jnp.linalg.norm(image @ vectors - u * values, axis=0)
    return values[::-1], u[:, ::-1], residual[::-1]


def _check_ritz(values: Float[Array, " d"], strongest: float) -> None:
    finite = jnp.all(jnp.isfinite(values))
    _check.require(finite, "operator", "finite products", "NaN or infinite entries")
    tolerance = jnp.sqrt(jnp.finfo(values.dtype).eps) * jnp.maximum(values[0], strongest)
    _check.require(values[-1] >= -tolerance, "operator", "a positive semi-definite one", f"the Ritz value {values[-1]}")


def _judge(
    s2: np.ndarray, residual: np.ndarray, n: int, dtype: Any, tolerance: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which Ritz pairs are resolved, which are rounding errors, and how well the Ritz values are known."""
    eps = float(jnp.finfo(dtype).eps)
    rounding = 4 * np.sqrt(n) * eps * s2[0]
    attainable = np.maximum(np.sqrt(eps) * s2, np.minimum(rounding, eps**0.25 * s2))
    allowed = attainable if tolerance is None else tolerance * s2
    resolved = residual < allowed
    weightless = ~resolved & (s2 <= rounding) & (residual <= rounding)
    return resolved, weightless, np.maximum(allowed, rounding)
