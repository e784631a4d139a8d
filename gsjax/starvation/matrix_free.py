r"""The starvation matrix among some features of a kernel that is only known through its products with vectors.

Let `K = Y K Y` be the kernel, `W = loss'' = L L^T`, and B the given features with strengths S^2. At the optimum
`m = K a / lambda`, a change of s_i^2 adds `b_i c_i / lambda` with `c = B^T a`, so `dm = (I + K W / lambda)^-1 b_i c_i /
lambda`. Let `K = B S^2 B^T + T B^T + B T^T - B B^T T B^T + R`, where `T = K B - B S^2` is what B lacks of features, and
`R = P K P` with `P = I - B B^T` contains all other features. For T = 0, eliminating these leaves the equations of
`starvation.sensitivity`, in which the curvature `U^T W U` is replaced by

    C = B^T (W^-1 + R / lambda)^-1 B = (L^T B)^T A^-1 (L^T B),    A = I + L^T R L / lambda.

Let `A X = L^T B` be solved up to residuals `r_i`, the columns of `G = L^T B - A X`. Then `X^T (L^T B + G)` has the
errors `r_i^T A^-1 r_j`, which are at most `|r_i| |r_j|`. With `V = L X`, the effect of T to first order is

    C -> C - C F - F^T C,    F = (T - B B^T T / 2)^T V / lambda,

and a factor `I - T^T V / lambda` on the left of the matrix; what is left out is of the order of its square.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float
from scipy.sparse.linalg import cg

from gsjax import _check, progress
from gsjax.dual import OperatorEquilibrium, equilibrium_from_operator
from gsjax.dual.matrix_free import (
    Curve,
    OutOfProductsError,
    Products,
    check_features,
    linear_operator,
    logistic,
)
from gsjax.features import Features
from gsjax.objectives import Penalty, Ridge
from gsjax.starvation.definition import orient, sensitivity

__all__ = ["OperatorMatrix", "decoupled", "failed", "from_products", "matrix_from_operator"]

_AIM = 1e-3  # part of the accepted error that is aimed at, since entries off the diagonal may be small
_SOLVES = 4  # of each linear system, each for the residual of the one before


class OperatorMatrix(NamedTuple):
    """Entries of the starvation matrix, and how they were computed.

    - `matrix (r, r)`: `d z_j* / d(s_i^2)` at entry `[j, i]`, for the given features; NaN if not `converged`.
    - `error`: an estimate of the largest relative error that linear systems and the given features leave in an entry of
      the diagonal, and in others relative to the geometric mean of the two entries of the diagonal, where the
      entries `[j, i]` are in units of `z_i* s_j / s_i^3`, in which the matrix is symmetric.
    - `products`: products with the kernel, without those of the equilibrium.
    - `converged`: whether the equilibrium was solved, and `error` is small enough.
    """

    matrix: Float[Array, "r r"]
    error: float
    products: int
    converged: bool


def matrix_from_operator(
    operator: lx.AbstractLinearOperator,
    y: Float[Array, " n"],
    penalty: Penalty,
    *,
    feats: Features,
    equilibrium: OperatorEquilibrium | None = None,
    oriented: bool = True,
    tolerance: float | None = None,
    max_products: int = 5000,
) -> OperatorMatrix:
    r"""The entries of `starvation.matrix` of the features `feats` of a kernel that is given by its products.

    All features of the kernel take part, also those that are not given. With the kernel `U S^2 U^T + R` of the given
    features and the rest (Y K Y, with `R U = 0`), the entries are those of

    .. math::

        \frac{1}{\lambda} \left(I + \frac{S^2 C}{\lambda}\right)^{-1} \text{diag}(U^\top \alpha^*),
        \qquad C = U^\top \left(D^{-1} + \frac{R}{\lambda}\right)^{-1} U,

    which is `starvation.matrix` for R = 0, and the block of it in general. C takes one linear system for each feature,
    which is solved by conjugate gradients. The number of products grows with the root of `s^2 / (4 lambda)`, where s is
    the strongest feature that is not given; two more for each feature determine the error, and correct the effect of
    small errors of the features themselves. Under spectral decoupling the matrix is zero, without any product.

    Args:
        operator: on vectors `(n,)`, tagged symmetric; positive semi-definite.
        y: `(n,)`, labels in {-1, +1}.
        penalty: `Ridge` or `SpectralDecoupling`.
        feats: features of `operator` and y, from `features.from_operator`.
        equilibrium: from `dual.equilibrium_from_operator` with the same arguments; computed if it is None.
        oriented: whether row j is multiplied by the sign of `z_j*`, as in `starvation.matrix`.
        tolerance: the largest `error`; `sqrt(eps)` of the operator's dtype if None.
        max_products: the largest number of products, without those of the equilibrium.

    Raises:
        ValueError: as `dual.equilibrium_from_operator`, or `equilibrium` is that of another number of examples.

    >>> from gsjax.features import from_operator
    >>> kernel = lx.MatrixLinearOperator(jnp.array([[2.0, 1.0], [1.0, 2.0]]), lx.positive_semidefinite_tag)
    >>> y = jnp.ones(2)
    >>> matrix_from_operator(kernel, y, Ridge(1.0), feats=from_operator(kernel, y, top=2)).matrix.shape
    (2, 2)
    """
    oriented = _check.flag("oriented", oriented)
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")
    max_products = _check.whole("max_products", max_products, least=1)
    if equilibrium is None:
        equilibrium = equilibrium_from_operator(operator, y, penalty, feats=feats, max_products=max_products)
    shapes = (jnp.shape(equilibrium.margins), jnp.shape(equilibrium.response))
    wanted = ((feats.u.shape[0],), feats.s.shape)
    _check.require(shapes == wanted, "equilibrium", f"margins and responses of shapes {wanted}", f"{shapes}")
    if not isinstance(penalty, Ridge):
        return decoupled(feats.s, equilibrium.converged)
    products = Products(operator, jnp.asarray(y), max_products)
    strength = float(penalty.strength)
    arrays = (feats.u, feats.s, equilibrium.margins, equilibrium.response)
    found = from_products(products, logistic(), strength, *arrays, oriented=oriented, tolerance=tolerance)
    return found if equilibrium.converged else failed(found)


def decoupled(s: Float[Array, " r"], converged: bool) -> OperatorMatrix:
    """The matrix under spectral decoupling."""
    return OperatorMatrix(jnp.full((len(s),) * 2, 0.0 if converged else jnp.nan, s.dtype), 0.0, 0, converged)


def failed(found: OperatorMatrix) -> OperatorMatrix:
    """The same without its entries."""
    return found._replace(matrix=jnp.full_like(found.matrix, jnp.nan), converged=False)


def from_products(
    products: Products,
    curve: Curve,
    strength: float,
    u: Float[Array, "n r"],
    s: Float[Array, " r"],
    outputs: Float[Array, " n"],
    response: Float[Array, " r"],
    *,
    oriented: bool,
    tolerance: float | None,
) -> OperatorMatrix:
    """The matrix at the optimum with these `outputs` and responses to the features, for any loss; see the module."""
    basis, singular, m, z = (np.asarray(array, np.float64) for array in (u, s, outputs, response))
    eps = float(np.finfo(products.dtype).eps)
    accepted = eps**0.5 if tolerance is None else float(tolerance)
    apply, transpose = curve.root(m)
    missing = OperatorMatrix(jnp.full((len(s),) * 2, jnp.nan, s.dtype), np.inf, 0, False)
    try:
        check_features(products, u, s)
        columns = progress.track(range(len(singular)), "products with the features")
        lacking = np.stack([products(basis[:, j]) for j in columns], axis=1) - basis * singular**2
        right = transpose(basis)
        solved, rest = _solve(products, basis, right, strength, curve, m, accepted)
    except OutOfProductsError:
        return missing._replace(products=products.made)

    gram = solved.T @ (right + rest)
    overlap = lacking.T @ apply(solved) / strength  # T^T V / lambda
    first = overlap - lacking.T @ basis @ gram / (2 * strength)
    gram = (gram + gram.T) / 2 - gram @ first - first.T @ gram
    positive = singular > 0
    pull = (strength * z - lacking.T @ curve.dual(m)) / np.where(positive, singular, 1) ** 2
    pull = np.where(positive, pull, basis.T @ curve.dual(m))

    b = singular / strength**0.5
    inverse = np.linalg.inv(np.eye(len(b)) + b[:, None] * gram * b)
    spread = np.abs(inverse) @ (b * np.linalg.norm(rest, axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.max(spread**2 / np.diag(inverse)) + np.max(np.abs(first)) ** 2
    error = float(error) if np.all(np.diag(inverse) > 0) else np.inf
    if not error <= accepted:
        return missing._replace(error=error, products=products.made)
    with jax.enable_x64(True):  # for the small matrices of the features alone
        slopes = sensitivity(jnp.asarray(singular**2), jnp.asarray(gram), jnp.asarray(pull), strength)
    slopes = np.asarray(slopes) - overlap @ np.asarray(slopes)
    matrix = jnp.asarray(slopes, s.dtype)
    return OperatorMatrix(orient(matrix, response) if oriented else matrix, error, products.made, True)


def _solve(
    products: Products,
    basis: Float[np.ndarray, "n r"],
    right: Float[np.ndarray, "n r"],
    strength: float,
    curve: Curve,
    m: Float[np.ndarray, " n"],
    accepted: float,
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "n r"]]:
    """Solutions of `A X = right`, and their residuals."""
    apply, transpose = curve.root(m)

    def complement(v: np.ndarray) -> np.ndarray:
        return v - basis @ (basis.T @ v)

    def product(v: np.ndarray) -> np.ndarray:
        return v + transpose(complement(products(complement(apply(v))))) / strength

    matrix = linear_operator((len(m), len(m)), product)
    eps = float(np.finfo(products.dtype).eps)
    solved, rest = np.zeros_like(right), right.copy()
    for column in progress.track(range(right.shape[1]), "features"):
        for _ in range(_SOLVES):
            size = np.linalg.norm(rest[:, column])
            if size == 0:
                break
            # C has a relative error of |rest|^2 / C.
            known = right[:, column] @ solved[:, column] if np.any(solved[:, column]) else size**2
            wanted = 0.5 * (_AIM * accepted * known) ** 0.5
            rtol = float(np.clip(min(wanted / size, accepted**0.5), 10 * eps, 0.1))
            step, _ = cg(matrix, rest[:, column], rtol=rtol, maxiter=2000)
            trial = solved[:, column] + step
            following = right[:, column] - product(trial)
            if np.linalg.norm(following) >= size:  # only rounding errors remain
                break
            solved[:, column], rest[:, column] = trial, following
            if np.linalg.norm(following) ** 2 <= _AIM * accepted * abs(right[:, column] @ trial):
                break
    return solved, rest
