"""The equilibrium of a kernel that is only known through its products with vectors.

Let `K = Y K Y` be the kernel of the margins, m the margins, and `a = -loss'(m)` the dual variables. With a ridge of
strength lambda the optimum minimises `loss(m) + a.m / 2` over `m = K a / lambda`. A Newton step is, with
`W = loss''(m) = L L^T` and `r = -loss'(m) - a`,

    (I + W K / lambda) da = r,    da = r - L q,    (I + L^T K L / lambda) q = L^T K r / lambda.

The last system is symmetric and positive definite, and is solved by conjugate gradients. Leading features `U S^2 U^T`
of the kernel are known, and precondition it: without the others, the matrix is `I + G G^T` with
`G = L^T U S / sqrt(lambda)`, whose inverse takes a matrix of the size of the number of features. What remains has the
condition number `1 + max(W) s^2 / lambda`, where s is the strongest feature that is not known.

The system is solved up to a defect `d = L^T dm - q`, which is known without a further product. Since
`b^T (I + L^T K L / lambda)^-1 b <= lambda / s_j^2` for `b = L^T u_j`, the step of a response is then wrong by at most
`s_j |d| / sqrt(lambda)`, and that of a margin by at most `s_1 |d| / sqrt(lambda)`. The estimate of the error includes
these bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float
from scipy import linalg, special
from scipy.optimize import elementwise
from scipy.sparse import linalg as sparse

from gsjax import _check, progress
from gsjax.features import Features, require_binary
from gsjax.features.leading import check_operator
from gsjax.features.products import Kernel, held
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling, per_example

__all__ = [
    "Curve",
    "OperatorEquilibrium",
    "OutOfProductsError",
    "Products",
    "Solved",
    "check_features",
    "equilibrium_from_operator",
    "linear_operator",
    "logistic",
    "minimise",
    "tolerances",
]

_NEWTON = 40  # iterations at each strength
_HALVINGS = 30
_FACTOR, _ROUGH = 8.0, 0.3  # between strengths on the path, and the error at which the next one is begun
_ALIEN = 0.05  # relative residual from which on given features are refused
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
    - `error`: the larger of the next Newton step in a margin and its relative size in a response, with a bound on what
      the solver of its linear system leaves.
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
        """The product; products beyond `most` raise `OutOfProductsError`."""
        size = float(np.linalg.norm(vector))
        if size == 0:
            return np.zeros_like(vector)
        self.made += 1
        if self.made > self._most:
            raise OutOfProductsError
        image = self._kernel.product((vector / size).astype(self.dtype))
        _check.require(np.all(np.isfinite(image)), "operator", "finite products", "NaN or infinite entries")
        return np.ldexp(image * size, self._kernel.exponent)


class OutOfProductsError(Exception):
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
    kernel. The more of them are known, the fewer products are needed. One product checks that they are features of this
    kernel. A Newton iteration takes two products and one for each step of conjugate gradients. Like those of
    `features.from_operator`, products are made by a compiled program, with a matrix up to n = 8192 for the kernel of a
    network, and everything else is computed on the host in float64.

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
            products that are not finite; y is not `n` labels -1 or +1; `feats` are not features of this kernel with
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
    aims = tolerances(tolerance, operator)
    max_products = _check.whole("max_products", max_products, least=1)
    dtype = operator.in_structure().dtype
    if not isinstance(penalty, Ridge):
        per_example(penalty, n, float)
        margins = _decoupled(penalty, np.asarray(y, np.float64))
        solved, made = Solved(special.expit(-margins), margins, 0.0, 0.0, 0, True), 0
    else:
        _check.scalar("penalty.strength", penalty.strength)
        products = Products(operator, y, max_products)
        check_features(products, feats.u, feats.s)
        solved = minimise(products, logistic(), float(penalty.strength), feats.u, feats.s, aims)
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


def minimise(
    products: Products,
    curve: Curve,
    strength: float,
    u: Float[Array, "n r"],
    s: Float[Array, " r"],
    aims: tuple[float, float],
) -> Solved:
    """The minimum of `loss(m) + a.m / 2` over `m = K a / strength`; see the module.

    The solver follows the minima of decreasing strengths, since Newton's method from afar takes many damped steps where
    labels are separable and the strength is small. The first of the `aims` is the tolerance that the solver tries
    to reach, and what is below the second counts as converged.
    """
    aim, accepted = aims
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
                defect = float(np.linalg.norm(transpose(dm) - q)) / current**0.5
                error = _error(basis, m, dm, singular * defect)
                worst = max(residual, error)
                idle = idle + 1 if worst >= max(best.residual, best.error) else 0
                if not idle:
                    best = Solved(curve.dual(m), m, residual, error, iterations, last and worst <= accepted)
                if worst <= (aim if last else _ROUGH) or (idle >= _PATIENCE and best.converged):
                    break
                step = _step(curve, a, m, da, dm)
                a, m = a + step * da, m + step * dm
        # The outputs are a sum of products, whose rounding errors only a product with the result shows.
        image = products(best.dual) / strength
    except OutOfProductsError:
        return best._replace(converged=False)
    residual = float(np.max(np.abs(best.outputs - image)) / (1 + np.max(np.abs(image))))
    return best._replace(residual=residual, converged=best.converged and residual <= accepted)


def _error(basis: np.ndarray, m: Vector, dm: Vector, defects: Float[np.ndarray, " r"]) -> float:
    """The error of m from a Newton step dm; `defects` bound the errors of the responses of dm."""
    response, change = basis.T @ m, np.abs(basis.T @ dm) + defects
    # A response that is zero up to rounding of the margins counts as accurate.
    size = np.maximum(np.abs(response), np.finfo(np.float32).eps * np.linalg.norm(m))
    return float(max(np.max(np.abs(dm)) + np.max(defects), np.max(change / np.where(size > 0, size, 1))))


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
    matrix, preconditioner = linear_operator(size, product), linear_operator(size, inverse)
    return sparse.cg(matrix, transpose(lacking), rtol=rtol, maxiter=500, M=preconditioner)[0]


def linear_operator(size: tuple[int, int], product: Callable[[Vector], Vector]) -> Any:
    """For SciPy."""
    return sparse.LinearOperator(size, matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]


def check_features(products: Products, u: Float[Array, "n r"], s: Float[Array, " r"]) -> None:
    """One product refuses what are no features of a kernel: that with `sum_j +-u_j / s_j^2` should be `sum_j +-u_j`.

    Raises:
        ValueError: it is not, with a relative error above 0.05; features of `features.from_operator` are at most
            `eps^(1/4)` from it.
    """
    basis, s2 = np.asarray(u, np.float64), np.asarray(s, np.float64) ** 2
    kept = s2 > 0
    signs = np.random.default_rng(0).choice([-1.0, 1.0], kept.sum())
    wanted = basis[:, kept] @ signs
    size = np.linalg.norm(wanted)
    found = products(basis[:, kept] @ (signs / s2[kept]))
    error = float(np.linalg.norm(found - wanted) / size) if size > 0 else np.inf
    _check.require(error <= _ALIEN, "feats", "features of this operator", f"a relative residual of {error:.1e}")


def tolerances(tolerance: float | None, operator: lx.AbstractLinearOperator) -> tuple[float, float]:
    """The error that a solver aims at, and the largest that it accepts."""
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
