"""Equilibrium and starvation for softmax cross-entropy, of a kernel that is only known through its products."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Int, Integer
from scipy import special
from scipy.optimize import elementwise

from gsjax import _check, starvation
from gsjax.dual.matrix_free import Curve, Products, Solved, check_features, minimise, tolerances
from gsjax.multiclass.features import Features, check_operator, require_several
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling, per_example
from gsjax.starvation.matrix_free import decoupled, failed, from_products

__all__ = ["OperatorEquilibrium", "cross_entropy", "equilibrium_from_operator", "starvation_from_operator"]


class OperatorEquilibrium(NamedTuple):
    """The equilibrium of a kernel that is given by its products, with diagnostics of the solver.

    `logits (n, k)` are the centred outputs, and `response (r,)` is `U^T logits` for the given features. The other
    fields are those of `dual.OperatorEquilibrium`, with outputs in place of margins.
    """

    logits: Float[Array, "n k"]
    response: Float[Array, " r"]
    residual: float
    error: float
    iterations: int
    products: int
    converged: bool
    decoupled: bool


def equilibrium_from_operator(
    operator: lx.AbstractLinearOperator,
    labels: Integer[Array, " n"],
    penalty: Penalty,
    *,
    feats: Features,
    tolerance: float | None = None,
    max_products: int = 2000,
) -> OperatorEquilibrium:
    """The equilibrium of `multiclass.equilibrium` for a kernel that is given by its products.

    The method, its cost and its tolerances are those of `dual.equilibrium_from_operator`. Under `SpectralDecoupling`
    full row rank of all n k outputs is assumed. Each example then has k equations of its own,
    `strength_j (f_j - target_j) = [j is the label] - p_j` with `p = softmax(f)`. Given `l = log sum_j exp(f_j)` they
    are solved by Wright's omega function, and `sum_j p_j = 1` determines l.

    Args:
        operator: on outputs `(n, k)` or vectors `(n k,)`, see `multiclass.from_operator`.
        labels: `(n,)`, class indices in 0..k-1.
        penalty: `Ridge` or `SpectralDecoupling`, see `multiclass.equilibrium`.
        feats: features of `operator`, from `multiclass.from_operator`.
        tolerance: the largest residual and error.
        max_products: the largest number of products.

    Raises:
        ValueError: `operator` or `labels` are as `multiclass.from_operator` refuses them, has products that are not
            finite; `feats` are not features of this kernel with these labels; an unknown `penalty`, or arrays of the
            wrong length; `tolerance` is not positive.

    >>> from gsjax.multiclass import from_operator
    >>> kernel = lx.MatrixLinearOperator(jnp.eye(4), lx.positive_semidefinite_tag)
    >>> labels = jnp.array([0, 1])
    >>> feats = from_operator(kernel, labels, top=1)
    >>> found = equilibrium_from_operator(kernel, labels, Ridge(1.0), feats=feats)
    >>> [f"{logit:+.3f}" for logit in found.logits.ravel()]
    ['+0.337', '-0.337', '-0.337', '+0.337']
    """
    classes, n, k = _check_arguments(operator, labels, feats)
    aims = tolerances(tolerance, operator)
    max_products = _check.whole("max_products", max_products, least=1)
    dtype = operator.in_structure().dtype
    if isinstance(penalty, Ridge):
        _check.scalar("penalty.strength", penalty.strength)
        products = Products(operator, jnp.ones(n * k), max_products)
        check_features(products, feats.u, feats.s)
        solved = minimise(products, cross_entropy(classes, k), float(penalty.strength), feats.u, feats.s, aims)
        made = products.made
    else:
        per_example(penalty, n * k, float)
        outputs = _decoupled(penalty, classes, k)
        solved, made = Solved(outputs, outputs, 0.0, 0.0, 0, bool(np.all(np.isfinite(outputs)))), 0
    return OperatorEquilibrium(
        jnp.asarray(solved.outputs.reshape(n, k), dtype),
        jnp.asarray(np.asarray(feats.u, np.float64).T @ solved.outputs, dtype),
        solved.residual,
        solved.error,
        solved.iterations,
        made,
        solved.converged,
        not isinstance(penalty, Ridge),
    )


def starvation_from_operator(
    operator: lx.AbstractLinearOperator,
    labels: Integer[Array, " n"],
    penalty: Penalty,
    *,
    feats: Features,
    equilibrium: OperatorEquilibrium | None = None,
    oriented: bool = True,
    tolerance: float | None = None,
    max_products: int = 5000,
) -> starvation.OperatorMatrix:
    """The entries of `multiclass.starvation_matrix` of the features `feats` of a kernel that is given by its products.

    See `starvation.matrix_from_operator`; D has one block `diag(p) - p p^T` for each example.

    Args:
        operator: on outputs `(n, k)` or vectors `(n k,)`, see `multiclass.from_operator`.
        labels: `(n,)`, class indices in 0..k-1.
        penalty: `Ridge` or `SpectralDecoupling`.
        feats: features of `operator`, from `multiclass.from_operator`.
        equilibrium: from `multiclass.equilibrium_from_operator` with the same arguments; computed if it is None.
        oriented: whether row j is multiplied by the sign of `z_j*`.
        tolerance: the largest `error`; `sqrt(eps)` of the operator's dtype if None.
        max_products: the largest number of products, without those of the equilibrium.

    Raises:
        ValueError: as `multiclass.equilibrium_from_operator`, or `equilibrium` is that of another number of outputs.

    >>> from gsjax.multiclass import from_operator
    >>> kernel = lx.MatrixLinearOperator(jnp.eye(4), lx.positive_semidefinite_tag)
    >>> labels = jnp.array([0, 1])
    >>> feats = from_operator(kernel, labels, top=4)
    >>> bool((jnp.diag(starvation_from_operator(kernel, labels, Ridge(1.0), feats=feats).matrix) > 0).all())
    True
    """
    classes, n, k = _check_arguments(operator, labels, feats)
    oriented = _check.flag("oriented", oriented)
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")
    max_products = _check.whole("max_products", max_products, least=1)
    if equilibrium is None:
        equilibrium = equilibrium_from_operator(operator, labels, penalty, feats=feats, max_products=max_products)
    shapes = (jnp.shape(equilibrium.logits), jnp.shape(equilibrium.response))
    wanted = ((n, k), feats.s.shape)
    _check.require(shapes == wanted, "equilibrium", f"logits and responses of shapes {wanted}", f"{shapes}")
    if not isinstance(penalty, Ridge):
        return decoupled(feats.s, equilibrium.converged)
    products = Products(operator, jnp.ones(n * k), max_products)
    arrays = (feats.u, feats.s, equilibrium.logits.ravel(), equilibrium.response)
    curve, strength = cross_entropy(classes, k), float(penalty.strength)
    found = from_products(products, curve, strength, *arrays, oriented=oriented, tolerance=tolerance)
    return found if equilibrium.converged else failed(found)


def cross_entropy(labels: Int[np.ndarray, " n"], k: int) -> Curve:
    """Softmax cross-entropy of stacked outputs, a sum in nats.

    For `q = sqrt(p)`, the curvature of an example is `diag(p) - p p^T = L L^T` with `L = diag(q) (I - q q^T)`.
    """
    n = len(labels)
    right = np.arange(k) == labels[:, None]

    def value(m: Float[np.ndarray, " nk"]) -> float:
        outputs = m.reshape(n, k)
        return float(np.sum(special.logsumexp(outputs - outputs[right][:, None], axis=1)))

    def dual(m: Float[np.ndarray, " nk"]) -> Float[np.ndarray, " nk"]:
        rest = np.where(right, 0, special.softmax(m.reshape(n, k), axis=1))
        # 1 - p of the label as the sum of the others, which is accurate for p near one.
        return np.where(right, rest.sum(axis=1, keepdims=True), -rest).ravel()

    def root(m: Float[np.ndarray, " nk"]) -> tuple[Callable, Callable]:
        p = special.softmax(m.reshape(n, k), axis=1)[..., None]
        q, label = np.sqrt(p), right[..., None]

        def apply(v: np.ndarray) -> np.ndarray:
            rows = v.reshape(n, k, -1)
            return (q * (rows - q * (q * rows).sum(axis=1, keepdims=True))).reshape(v.shape)

        def transpose(v: np.ndarray) -> np.ndarray:
            rows = v.reshape(n, k, -1)
            # A shift of all outputs has no effect; this one keeps the label's entry accurate for p near one.
            rows = rows - np.where(label, rows, 0).sum(axis=1, keepdims=True)
            return (q * (rows - (p * rows).sum(axis=1, keepdims=True))).reshape(v.shape)

        return apply, transpose

    return Curve(value, dual, root)


def _decoupled(penalty: SpectralDecoupling, labels: Int[np.ndarray, " n"], k: int) -> Float[np.ndarray, " nk"]:
    """The outputs of `strength (f - target) = e - p`, example by example.

    With `g = target + e / strength`, `p_j = strength_j omega(g_j - l - log strength_j)`, where `omega + log omega` is
    the identity. Their sum falls in l; it is 1 between the largest `g_j - 1 / strength_j`, where one of them is 1, and
    `log sum exp(g)`, since `omega(x) <= exp(x)`.
    """
    n = len(labels)
    right = np.arange(k) == labels[:, None]
    strength, target = (
        np.broadcast_to(np.asarray(v, np.float64), (n * k,)).reshape(n, k) for v in (penalty.strength, penalty.target)
    )
    pull = target + right / strength

    def probabilities(level: np.ndarray) -> np.ndarray:
        return strength * special.wrightomega(pull - level[..., None] - np.log(strength))

    def excess(level: np.ndarray, example: np.ndarray) -> np.ndarray:
        rows = example.astype(int)
        return (
            np.sum(
                strength[rows] * special.wrightomega(pull[rows] - level[..., None] - np.log(strength[rows])), axis=-1
            )
            - 1
        )

    bracket = (np.max(pull - 1 / strength, axis=1), special.logsumexp(pull, axis=1))
    found = elementwise.find_root(excess, bracket, args=(np.arange(n, dtype=float),))
    rest = np.where(right, 0, probabilities(found.x))
    outputs = target + np.where(right, rest.sum(axis=1, keepdims=True), -rest) / strength
    return np.where(found.success[:, None], outputs, np.nan).ravel()


def _check_arguments(
    operator: lx.AbstractLinearOperator, labels: Integer[Array, " n"], feats: Features
) -> tuple[Int[np.ndarray, " n"], int, int]:
    require_several(feats)
    labels = jnp.asarray(labels)
    n, k = check_operator(operator, labels)
    same = feats.u.shape[0] == n * k and feats.labels.shape == (n,) and bool(jnp.all(feats.labels == labels))
    got = f"those of {feats.u.shape[0]} outputs and {len(feats.labels)} labels"
    _check.require(same, "feats", f"features of these {n} examples of {k} classes, and their labels", got)
    return np.asarray(labels), n, k
