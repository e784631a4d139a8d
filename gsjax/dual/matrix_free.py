"""The equilibrium of a kernel that is only known through its products with vectors.

Let `K = Y K Y` be the kernel of the margins, m the margins, and `a = -loss'(m)` the dual variables. With a ridge of
strength lambda the optimum minimises `loss(m) + a.m / 2` over `m = K a / lambda`. A Newton step is, with
`W = loss''(m) = L L^T` and `r = -loss'(m) - a`,

    (I + W K / lambda) da = r,    da = r - L q,    (I + L^T K L / lambda) q = L^T K r / lambda.

The last system is symmetric and positive definite, and is solved by conjugate gradients. Leading features `U S^2 U^T`
of the kernel are known, and precondition it: without the others, the matrix is `I + G G^T` with
`G = L^T U S / sqrt(lambda)`, whose inverse takes a matrix of the size of the number of features. What remains has the
condition number `1 + max(W) s^2 / lambda`, where s is the strongest feature that is not known.

For the starvation matrix among the known features, let `K = U S^2 U^T + R` with `R U = 0`. Eliminating the other
features leaves the equations of `starvation.sensitivity`, in which the curvature `U^T W U` is replaced by

    C = U^T (W^-1 + R / lambda)^-1 U = (L^T U)^T (I + L^T R L / lambda)^-1 (L^T U).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float
from scipy import linalg, special
from scipy.optimize import elementwise
from scipy.sparse import linalg as sparse

from gsjax import _check, progress
from gsjax.features import Features, require_binary
from gsjax.features.products import Kernel, held
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling, per_example

__all__ = [
    "Curve",
    "OperatorEquilibrium",
    "Products",
    "Solved",
    "check_operator",
    "effective_gram",
    "equilibrium_from_operator",
    "logistic",
    "minimise",
]

_NEWTON = 40  # iterations at each strength
_HALVINGS = 30
_FACTOR, _ROUGH = 8.0, 0.3  # between strengths on the path, and the error at which the next one is begun
_PATIENCE = 2  # iterations without progress, after which only rounding errors remain

Vector = Float[np.ndarray, " n"]


class Curve(NamedTuple):
    """A convex loss on outputs m: its `value`, `dual(m) = -loss'(m)`, and the products with L and L^T, `root(m)`.

    `loss''(m) = L L^T`. Products take vectors, or matrices by their columns.
    """

    value: Callable[[Vector], float]
    dual: Callable[[Vector], Vector]
    root: Callable[[Vector], tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]]


class Solved(NamedTuple):
    """A minimum: dual variables, outputs, and what `OperatorEquilibrium` says of the solver."""

    dual: Vector
    outputs: Vector
    residual: float
    error: float
    iterations: int
    converged: bool


class OperatorEquilibrium(NamedTuple):
    """The equilibrium of a kernel that is given by its products, with diagnostics of the solver.

    - `alpha (n,)`: the dual variables; `margins (n,)`: `y yhat`.
    - `response (r,)`: the responses `z* = U^T margins` to the given features, with the signs of `feats.u`.
    - `residual`: the max-norm of `margins - Y K Y alpha / lambda`, divided by 1 + the max-norm of its second term.
    - `error`: the larger of the next Newton step in a margin and its relative size in a response.
    - `iterations`: Newton iterations; `products`: products with the kernel.
    - `converged`: whether residual and error are small enough.
    - `decoupled`: whether full row rank was assumed (spectral decoupling), so that every alpha solves its own equation.
    """

    alpha: Float[Array, " n"]
    margins: Float[Array, " n"]
    response: Float[Array, " r"]
    residual: float
    error: float
    iterations: int
    products: int
    converged: bool
    decoupled: bool


class Products:
    """Products of unscaled vectors with Y K Y, in float64, and their number."""

    def __init__(self, operator: lx.AbstractLinearOperator, y: Float[Array, " n"], most: int) -> None:
        dtype = operator.in_structure().dtype
        self.dtype, self.made, self._most = np.dtype(dtype), 0, most
        self._kernel = Kernel(held(operator), np.asarray(y, dtype))

    def __call__(self, vector: Vector) -> Vector:
        """The product; products beyond `most` raise `OutOfProducts`."""
        size = float(np.linalg.norm(vector))
        if size == 0:
            return np.zeros_like(vector)
        self.made += 1
        if self.made > self._most:
            raise _OutOfProducts
        image = self._kernel.product((vector / size).astype(self.dtype))
        _check.require(np.all(np.isfinite(image)), "operator", "finite products", "NaN or infinite entries")
        return np.ldexp(image * size, self._kernel.exponent)


class _OutOfProducts(Exception):
    """The largest number of products has been made."""


def logistic() -> Curve:
    """The loss `sum_i log(1 + exp(-m_i))`, in nats; `L = diag(sqrt(sigma(m) sigma(-m)))`."""

    def root(m: Vector) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
        diagonal = np.sqrt(special.expit(m) * special.expit(-m))

        def apply(v: np.ndarray) -> np.ndarray:
            return (diagonal * v.T).T

        return apply, apply

    return Curve(lambda m: float(np.sum(np.logaddexp(0, -m))), lambda m: special.expit(-m), root)


def equilibrium_from_operator(
    operator: lx.AbstractLinearOperator,
    y: Float[Array, " n"],
    penalty: Penalty,
    *,
    feats: Features,
    tolerance: float | None = None,
    max_products: int = 2000,
) -> OperatorEquilibrium:
    """The equilibrium of `dual.equilibrium` for a kernel that is given by its products; also that of weak features.

    `feats` are leading features of the same kernel, from `features.from_operator`. They only speed up the solver, by
    the preconditioner of this module, and name the responses that are returned: the equilibrium is that of the full
    kernel. The more of them are known, the fewer products are needed. A Newton iteration takes two products and one for
    each step of conjugate gradients. Like those of `features.from_operator`, products are made by a compiled program,
    with a matrix up to n = 8192 for the kernel of a network, and everything else is computed on the host in float64.

    `converged` means that residual and error (see `OperatorEquilibrium`) are at most `tolerance`. With `tolerance=None`
    the solver aims at `eps ** (2 / 3)` of the operator's dtype, and accepts up to `eps ** (1 / 2)`. If `max_products`
    are not enough, the best that was found is returned with `converged=False`.

    Under `SpectralDecoupling` no product is made. Each example then has an equation of its own, if the kernel has full
    row rank (Eq. 18). Products do not show the rank, so this is assumed.

    Args:
        operator: on vectors `(n,)`, tagged symmetric; positive semi-definite.
        y: `(n,)`, labels in {-1, +1}.
        penalty: `Ridge` or `SpectralDecoupling`.
        feats: features of `operator` and y, r of them.
        tolerance: see above.
        max_products: the largest number of products.

    Raises:
        ValueError: `operator` is not a symmetric operator on vectors `(n,)` in float32 or float64, is traced, or has
            products that are not finite; y is not `n` labels -1 or +1; `feats` are not features of `n` examples with
            these labels; an unknown `penalty`, or arrays of the wrong length; `tolerance` is not positive.

    >>> from gsjax.features import from_operator
    >>> kernel = lx.MatrixLinearOperator(jnp.diag(jnp.array([1.0, 9.0, 4.0])), lx.positive_semidefinite_tag)
    >>> y = jnp.array([1.0, -1.0, 1.0])
    >>> feats = from_operator(kernel, y, top=1)
    >>> [f"{margin:.3f}" for margin in equilibrium_from_operator(kernel, y, Ridge(1.0), feats=feats).margins]
    ['0.401', '1.561', '1.043']
    """
    require_binary(feats)
    n = check_operator(operator)
    y = jnp.asarray(y)
    _check.labels("y", y, n)
    same = feats.u.shape[0] == n and bool(jnp.all(feats.y == y))
    _check.require(same, "feats", f"features of these {n} examples and labels", f"those of {feats.u.shape[0]}")
    tolerances = _tolerances(tolerance, operator)
    max_products = _check.whole("max_products", max_products, least=1)
    dtype = operator.in_structure().dtype
    if not isinstance(penalty, Ridge):
        per_example(penalty, n, float)
        margins = _decoupled(penalty, np.asarray(y, np.float64))
        solved, made = Solved(special.expit(-margins), margins, 0.0, 0.0, 0, True), 0
    else:
        _check.scalar("penalty.strength", penalty.strength)
        products = Products(operator, y, max_products)
        solved = minimise(products, logistic(), float(penalty.strength), feats.u, feats.s, tolerances)
        made = products.made
    response = np.asarray(feats.u, np.float64).T @ solved.outputs
    return OperatorEquilibrium(
        jnp.asarray(solved.dual, dtype),
        jnp.asarray(solved.outputs, dtype),
        jnp.asarray(response, dtype),
        solved.residual,
        solved.error,
        solved.iterations,
        made,
        solved.converged,
        not isinstance(penalty, Ridge),
    )


def check_operator(operator: lx.AbstractLinearOperator) -> int:
    """The number n of entries of the vectors `(n,)` that a symmetric operator takes.

    Raises:
        ValueError: it is something else, see `equilibrium_from_operator`.
    """
    symmetric = isinstance(operator, lx.AbstractLinearOperator) and lx.is_symmetric(operator)
    _check.require(symmetric, "operator", "a lineax operator that is tagged symmetric", type(operator).__name__)
    structure = operator.in_structure()
    vectors = isinstance(structure, jax.ShapeDtypeStruct) and len(structure.shape) == 1
    _check.require(vectors, "operator", "one on vectors (n,)", structure)
    kinds = (jnp.float32, jnp.float64)
    _check.require(structure.dtype in kinds, "operator", "one in float32 or float64", structure.dtype)
    _check.require(_check.is_concrete(operator), "operator", "one that is not traced", "a tracer")
    return structure.size


def minimise(
    products: Products,
    curve: Curve,
    strength: float,
    u: Float[Array, "n r"],
    s: Float[Array, " r"],
    tolerances: tuple[float, float],
) -> Solved:
    """The minimum of `loss(m) + a.m / 2` over `m = K a / strength`; see the module.

    The solver follows the minima of decreasing strengths, since Newton's method from afar takes many damped steps where
    labels are separable and the strength is small. The first of the `tolerances` is the aim, and what is below the
    second counts as converged.
    """
    aim, accepted = tolerances
    basis, singular = np.asarray(u, np.float64), np.asarray(s, np.float64)
    first = max(strength, float(singular[0]) ** 2 / 4)
    steps = math.ceil(math.log(first / strength) / math.log(_FACTOR))
    path = np.geomspace(first, strength, 1 + steps).tolist()
    m = np.zeros(len(basis))
    best = Solved(curve.dual(m), m, np.inf, np.inf, 0, False)
    a, before, iterations = np.zeros(len(basis)), first, 0
    try:
        for current in progress.track(path, "strengths of the penalty"):
            # The outputs stay, so the variables a = strength K^-1 m change by the ratio of the strengths.
            a, before = a * (current / before), current
            last, best, idle = current == path[-1], best._replace(residual=np.inf, error=np.inf), 0
            for _ in range(_NEWTON):
                iterations += 1
                rest = curve.dual(m) - a
                lacking = products(rest) / current
                residual = float(np.max(np.abs(lacking)) / (1 + np.max(np.abs(m + lacking))))
                apply, transpose = curve.root(m)
                q = _preconditioned(
                    products, current, apply, transpose, basis * (singular / current**0.5), lacking, residual
                )
                da, dm = rest - apply(q), lacking - products(apply(q)) / current
                error = _error(basis, m, dm)
                worst = max(residual, error)
                idle = idle + 1 if worst >= max(best.residual, best.error) else 0
                if not idle:
                    best = Solved(curve.dual(m), m, residual, error, iterations, last and worst <= accepted)
                if worst <= (aim if last else _ROUGH) or (idle >= _PATIENCE and best.converged):
                    break
                step = _step(curve, a, m, da, dm)
                a, m = a + step * da, m + step * dm
    except _OutOfProducts:
        return best._replace(converged=False) if before != path[-1] else best
    return best


def _error(basis: np.ndarray, m: Vector, dm: Vector) -> float:
    response, change = basis.T @ m, basis.T @ dm
    # A response that is zero up to rounding of the margins counts as accurate.
    size = np.maximum(np.abs(response), np.finfo(np.float32).eps * np.linalg.norm(m))
    return float(max(np.max(np.abs(dm)), np.max(np.abs(change) / np.where(size > 0, size, 1), initial=0.0)))


def _step(curve: Curve, a: Vector, m: Vector, da: Vector, dm: Vector) -> float:
    """The length of a step that lowers the objective, halved until it does."""

    def objective(step: float) -> float:
        outputs = m + step * dm
        return curve.value(outputs) + float((a + step * da) @ outputs) / 2

    before, step = objective(0.0), 1.0
    slack = 1e-12 * abs(before)
    for _ in range(_HALVINGS):
        if objective(step) <= before + slack:
            break
        step /= 2
    return step


def _preconditioned(
    products: Products,
    strength: float,
    apply: Callable[[np.ndarray], np.ndarray],
    transpose: Callable[[np.ndarray], np.ndarray],
    weighted: Float[np.ndarray, "n r"],
    lacking: Vector,
    residual: float,
) -> Vector:
    """The q of a Newton step by conjugate gradients; `weighted`, U S / sqrt(strength), makes the preconditioner."""
    factor = transpose(weighted)
    cholesky = linalg.cho_factor(np.eye(factor.shape[1]) + factor.T @ factor)
    size = (len(lacking), len(lacking))

    def product(v: Vector) -> Vector:
        return v + transpose(products(apply(v))) / strength

    def inverse(v: Vector) -> Vector:
        return v - factor @ linalg.cho_solve(cholesky, factor.T @ v)

    rtol = max(min(1e-3, residual), 10 * float(np.finfo(products.dtype).eps))
    matrix, preconditioner = _operator(size, product), _operator(size, inverse)
    return sparse.cg(matrix, transpose(lacking), rtol=rtol, maxiter=500, M=preconditioner)[0]


def _operator(size: tuple[int, int], product: Callable[[Vector], Vector]) -> Any:
    return sparse.LinearOperator(size, matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]


def effective_gram(
    products: Products,
    curve: Curve,
    strength: float,
    u: Float[Array, "n r"],
    outputs: Vector,
    *,
    tolerance: float | None = None,
) -> tuple[Float[np.ndarray, "r r"], bool]:
    """The C of the module, which contains the effect of all other features, and whether its systems were solved."""
    basis = np.asarray(u, np.float64)
    apply, transpose = curve.root(outputs)
    right = transpose(basis)

    def complement(v: Vector) -> Vector:
        return v - basis @ (basis.T @ v)

    def product(v: Vector) -> Vector:
        return v + transpose(complement(products(complement(apply(v))))) / strength

    size = (len(outputs), len(outputs))
    matrix = _operator(size, product)
    eps = float(np.finfo(products.dtype).eps)
    rtol = tolerance if tolerance is not None else eps**0.5 / 10
    solved, converged = np.zeros_like(right), True
    try:
        for column in progress.track(range(right.shape[1]), "features"):
            solved[:, column], status = sparse.cg(matrix, right[:, column], rtol=rtol, maxiter=2000)
            converged &= status == 0
    except _OutOfProducts:
        converged = False
    gram = right.T @ solved
    return (gram + gram.T) / 2, bool(converged)


def _tolerances(tolerance: float | None, operator: lx.AbstractLinearOperator) -> tuple[float, float]:
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")
        return float(tolerance), float(tolerance)
    eps = float(jnp.finfo(operator.in_structure().dtype).eps)
    return eps ** (2 / 3), eps**0.5


def _decoupled(penalty: SpectralDecoupling, y: Vector) -> Vector:
    """The margins of `lambda_i (m_i - y_i t_i) = sigma(-m_i)`."""
    strength, target = (np.broadcast_to(np.asarray(v, np.float64), y.shape) for v in (penalty.strength, penalty.target))
    low = y * target

    def excess(m: Vector, strength: Vector, low: Vector) -> Vector:
        return strength * (m - low) - special.expit(-m)

    found = elementwise.find_root(excess, (low, low + 1 / strength), args=(strength, low))
    return found.x
