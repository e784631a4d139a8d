"""Tangent features of networks with several outputs."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from gsjax import _check
from gsjax import features as binary
from gsjax.features.leading import check_symmetric, leading

__all__ = [
    "Features",
    "check_labels",
    "check_operator",
    "from_ntk",
    "from_ntrf",
    "from_operator",
    "require_several",
]


class _Fields(NamedTuple):
    u: Float[Array, "nk r"]
    s: Float[Array, " r"]
    vt: Float[Array, "r m"] | None
    labels: Integer[Array, " n"]
    rank: int | Int[Array, ""]


class Features(_Fields):
    """Tangent features of a network with k outputs, a named tuple.

    They are the decomposition `Phi = U S V^T` of all `n k` outputs: `u (n k, r)`, with rows ordered by example, then
    class; `s (r,)`; and `vt (r, m)` or None. `labels (n,)` are class indices, and `rank` is the number of features of
    nonzero strength. `origin` is as in `gsjax.features.Features`.
    """

    origin: binary.Origin | None = None

    @property
    def s2(self) -> Float[Array, " r"]:
        """Strengths `s_j^2`."""
        return self.s**2

    @property
    def classes(self) -> int:
        """The number k of outputs."""
        return self.u.shape[0] // self.labels.shape[0]

    def unlabelled(self) -> binary.Features:
        """The same decomposition as features of one output, with n k examples, all of label +1."""
        return binary.Features(self.u, self.s, self.vt, jnp.ones_like(self.u[:, 0]), self.rank)

    def response(self, logits: Float[Array, "n k"]) -> Float[Array, " r"]:
        """Responses `z = U^T f (r,)` of centred outputs `logits (n, k)`; `ValueError` for another shape."""
        shape = (len(self.labels), self.classes)
        _check.require(jnp.shape(logits) == shape, "logits", f"shape {shape}", f"shape {jnp.shape(logits)}")
        return self.u.T @ jnp.ravel(logits)


def from_ntrf(phi: Float[Array, "n k m"], labels: Integer[Array, " n"], *, rtol: float | None = None) -> Features:
    """Features of a tangent feature array `phi (n, k, m)` and labels `(n,)` in 0..k-1, strongest first.

    `rtol` as in `features.from_ntrf`.

    Raises:
        ValueError: `phi` is not finite or not `(n, k, m)`, or `labels` are not `n` integers in 0..k-1.

    >>> from_ntrf(jnp.eye(4).reshape(2, 2, 4), jnp.array([0, 1])).u.shape
    (4, 4)
    """
    given, phi, labels = phi, _check.single("phi", phi), jnp.asarray(labels)
    _check.shape("phi", phi, ndim=3)
    n, k, m = phi.shape
    _check.require(k >= 2, "phi", "two outputs or more (for one, see gsjax.features)", f"shape {phi.shape}")
    check_labels(labels, n, k)
    stacked = (given if isinstance(given, np.ndarray) else phi).reshape(n * k, m)
    return _labelled(binary.from_ntrf(stacked, jnp.ones(n * k), rtol=rtol), labels)


def from_ntk(ntk: Float[Array, "n n k k"], labels: Integer[Array, " n"], *, rtol: float | None = None) -> Features:
    """Features of a tangent kernel `ntk (n, n, k, k)` and labels `(n,)` in 0..k-1, strongest first; `vt` is None.

    `rtol` as in `features.from_ntk`.

    Raises:
        ValueError: `ntk` is not a finite, symmetric, positive semi-definite `(n, n, k, k)` array, or `labels` are not
            `n` integers in 0..k-1.

    >>> from_ntk(jnp.eye(4).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3), jnp.array([0, 1])).s.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    given, ntk, labels = ntk, _check.single("ntk", ntk), jnp.asarray(labels)
    _check.shape("ntk", ntk, ndim=4)
    n, k = ntk.shape[0], ntk.shape[-1]
    _check.require(ntk.shape == (n, n, k, k), "ntk", "shape (n, n, k, k)", f"shape {ntk.shape}")
    check_labels(labels, n, k)
    # A NumPy array is passed on as it is, so that what its conversion loses is noticed.
    stacked = (given if isinstance(given, np.ndarray) else ntk).transpose(0, 2, 1, 3).reshape(n * k, n * k)
    return _labelled(binary.from_ntk(stacked, jnp.ones(n * k), rtol=rtol), labels)


def from_operator(
    operator: lx.AbstractLinearOperator,
    labels: Integer[Array, " n"],
    *,
    top: int,
    tolerance: float | None = None,
    max_products: int = 2000,
) -> Features:
    """The `top` strongest features of a kernel that is given by its products; `vt` is None.

    See `gsjax.features.from_operator`, whose guarantees, cost and arguments are the same, with `n k` outputs in place
    of n examples.

    Args:
        operator: on outputs `(n, k)`, as that of `tangent.ntk_operator` for k outputs, or on vectors `(n k,)` of the
            same entries, ordered by example, then class; tagged symmetric, positive semi-definite.
        labels: `(n,)`, class indices in 0..k-1.
        top: number of features.
        tolerance: the largest residual of a feature, relative to its strength.
        max_products: the largest total number of products.

    Raises:
        ValueError: `operator` is on other arrays, `labels` are not `n` integers in 0..k-1, or as
            `gsjax.features.from_operator`.

    >>> kernel = lx.MatrixLinearOperator(jnp.diag(jnp.array([1.0, 9.0, 4.0, 2.0])), lx.positive_semidefinite_tag)
    >>> from_operator(kernel, jnp.array([0, 1]), top=2).s.tolist()
    [3.0, 2.0]
    """
    labels = jnp.asarray(labels)
    n, k = check_operator(operator, labels)
    found = leading(operator, jnp.ones(n * k), top=top, tolerance=tolerance, max_products=max_products)
    return _labelled(found, labels)


def check_operator(operator: lx.AbstractLinearOperator, labels: Array) -> tuple[int, int]:
    """The numbers n of examples and k of classes of an operator, see `from_operator`; a `ValueError` otherwise."""
    shape = check_symmetric(operator)
    _check.require(_check.is_concrete(labels), "labels", "labels that are not traced", "a tracer")
    if len(shape) == 1 and labels.ndim == 1 and len(labels) and shape[0] % len(labels) == 0:
        shape = (len(labels), shape[0] // len(labels))
    expected = "one on outputs (n, k) of k >= 2 classes, or on vectors (n k,) (for one output, see gsjax.features)"
    _check.require(len(shape) == 2 and shape[1] >= 2, "operator", expected, f"one on shape {shape}")
    n, k = shape[0], shape[-1]
    check_labels(labels, n, k)
    return n, k


def require_several(feats: object) -> None:
    """A `ValueError` unless `feats` are `Features` of this module."""
    expected = "gsjax.multiclass.Features; for binary labels see gsjax.dual and gsjax.starvation"
    _check.require(isinstance(feats, Features), "feats", expected, f"{type(feats).__module__}.{type(feats).__name__}")


def check_labels(labels: Array, n: int, k: int) -> None:
    """A `ValueError` unless `labels` are class indices of n examples."""
    _check.require(
        jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == (n,),
        "labels",
        f"integers of shape ({n},), one per example",
        f"{labels.dtype} of shape {labels.shape}",
    )
    in_range = jnp.all((labels >= 0) & (labels < k))
    _check.require(in_range, "labels", f"class indices in 0..{k - 1}", f"{jnp.min(labels)}..{jnp.max(labels)}")


def _labelled(feats: binary.Features, labels: Array) -> Features:
    labelled = Features(feats.u, feats.s, feats.vt, labels, feats.rank)
    labelled.origin = feats.origin
    return labelled
