"""The starvation matrix among some features of a kernel that is only known through its products with vectors."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from gsjax import _check
from gsjax.dual import OperatorEquilibrium, equilibrium_from_operator
from gsjax.dual.matrix_free import Products, effective_gram, logistic
from gsjax.features import Features
from gsjax.objectives import Penalty, Ridge
from gsjax.starvation.definition import orient, pulls, sensitivity

__all__ = ["OperatorMatrix", "matrix_from_operator"]


class OperatorMatrix(NamedTuple):
    """Entries of the starvation matrix, and how they were computed.

    - `matrix (r, r)`: `d z_j* / d(s_i^2)` at entry `[j, i]`, for the given features; NaN if not `converged`.
    - `products`: products with the kernel, without those of the equilibrium.
    - `converged`: whether the equilibrium and the linear systems were solved.
    """

    matrix: Float[Array, "r r"]
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
    """The entries of `starvation.matrix` of the features `feats` of a kernel that is given by its products.

    All features of the kernel take part, also those that are not given. With the kernel `U S^2 U^T + R` of the given
    features and the rest (Y K Y, with `R U = 0`), the entries are those of

        (1 / lambda) (I + S^2 C / lambda)^-1 diag(U^T alpha*),    C = U^T (D^-1 + R / lambda)^-1 U,

    which is `starvation.matrix` for R = 0, and the block of it in general. C takes one linear system for each feature,
    which is solved by conjugate gradients; the number of products grows with the root of `s^2 / (4 lambda)`, where s is
    the strongest feature that is not given. Under spectral decoupling the matrix is zero, without any product.

    Args:
        operator: on vectors `(n,)`, tagged symmetric; positive semi-definite.
        y: `(n,)`, labels in {-1, +1}.
        penalty: `Ridge` or `SpectralDecoupling`.
        feats: features of `operator` and y, from `features.from_operator`.
        equilibrium: from `dual.equilibrium_from_operator` with the same arguments; computed if it is None.
        oriented: whether row j is multiplied by the sign of `z_j*`, as in `starvation.matrix`.
        tolerance: the relative residual of the linear systems; `sqrt(eps) / 10` if None.
        max_products: the largest number of products.

    Raises:
        ValueError: as `dual.equilibrium_from_operator`.

    >>> from gsjax.features import from_operator
    >>> kernel = lx.MatrixLinearOperator(jnp.array([[2.0, 1.0], [1.0, 2.0]]), lx.positive_semidefinite_tag)
    >>> y = jnp.ones(2)
    >>> matrix_from_operator(kernel, y, Ridge(1.0), feats=from_operator(kernel, y, top=2)).matrix.shape
    (2, 2)
    """
    oriented = _check.flag("oriented", oriented)
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, 1)")
    max_products = _check.whole("max_products", max_products, least=1)
    if equilibrium is None:
        equilibrium = equilibrium_from_operator(operator, y, penalty, feats=feats)
    r = feats.s.shape[0]
    if not isinstance(penalty, Ridge):
        return OperatorMatrix(jnp.zeros((r, r), feats.s.dtype), 0, equilibrium.converged)
    products = Products(operator, jnp.asarray(y), max_products)
    margins = np.asarray(equilibrium.margins, np.float64)
    gram, solved = effective_gram(products, logistic(), float(penalty.strength), feats.u, margins, tolerance=tolerance)
    pull = pulls(feats.u, feats.s2, equilibrium.alpha, equilibrium.response, penalty.strength)
    slopes = sensitivity(feats.s2, jnp.asarray(gram, feats.s.dtype), pull, penalty.strength)
    slopes = orient(slopes, pull) if oriented else slopes
    converged = solved and equilibrium.converged
    return OperatorMatrix(jnp.where(converged, slopes, jnp.nan), products.made, converged)
