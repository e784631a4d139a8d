r"""Features, equilibrium and starvation for softmax cross-entropy with k classes.

The loss of one example with label c is `log sum_j exp(f_j) - f_c = max over p in the simplex of H(p) + (p - e_c).f`,
with equality at `p = softmax(f)`; this is the analogue of Eq. 6. Let `a = e_c - p` take the place of `alpha`, stack all
n k outputs, and let `Phi = U S V^T` be `(n k, m)`. With ridge strength lambda, the dual of Eq. 8 and the responses of
Eq. 11 become

.. math::

    \max_p \; \mathbf{1} \cdot H(p) - \frac{\lVert \Phi^\top a \rVert^2}{2 \lambda},
    \qquad z^* = S V^\top \theta^* = \frac{1}{\lambda} S^2 U^\top a^*.

Labels enter through `a`, not through the features. Two classes with logits `(-f/2, f/2)` give the binary case.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from gsjax import _check, starvation
from gsjax import features as binary
from gsjax.dual import newton, problem
from gsjax.dual.smooth import smooth
from gsjax.objectives import Penalty, Ridge

__all__ = ["Equilibrium", "Features", "equilibrium", "from_ntk", "from_ntrf", "starvation_matrix"]


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

    def response(self, logits: Float[Array, "n k"]) -> Float[Array, " r"]:
        """Responses `z = U^T f (r,)` of centred outputs `logits (n, k)`; `ValueError` for another shape."""
        shape = (len(self.labels), _classes(self))
        _check.require(jnp.shape(logits) == shape, "logits", f"shape {shape}", f"shape {jnp.shape(logits)}")
        return self.u.T @ jnp.ravel(logits)


class Equilibrium(NamedTuple):
    """The optimum of training, with diagnostics of the solver.

    `logits (n, k)` are the centred outputs, and `response (r,)` is `U^T logits`. `residual` is the max-norm of
    `f - Phi Phi^T a / lambda`, divided by 1 + the max-norm of its second term. `iterations` counts Newton iterations,
    and `converged` is as in `dual.Equilibrium`.
    """

    logits: Float[Array, "n k"]
    response: Float[Array, " r"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


def from_ntrf(phi: Float[Array, "n k m"], labels: Integer[Array, " n"], *, rtol: float | None = None) -> Features:
    """Features of a tangent feature array `phi (n, k, m)` and labels `(n,)` in 0..k-1, strongest first.

    `rtol` as in `features.from_ntrf`.

    Raises:
        ValueError: `phi` is not finite or not `(n, k, m)`, or `labels` are not `n` integers in 0..k-1.

    >>> from_ntrf(jnp.eye(4).reshape(2, 2, 4), jnp.array([0, 1])).u.shape
    (4, 4)
    """
    phi, labels = _check.single("phi", phi), jnp.asarray(labels)
    _check.shape("phi", phi, ndim=3)
    n, k, m = phi.shape
    _check.require(k >= 2, "phi", "two outputs or more (for one, see gsjax.features)", f"shape {phi.shape}")
    _check_labels(labels, n, k)
    return _labelled(binary.from_ntrf(phi.reshape(n * k, m), jnp.ones(n * k), rtol=rtol), labels)


def from_ntk(ntk: Float[Array, "n n k k"], labels: Integer[Array, " n"], *, rtol: float | None = None) -> Features:
    """Features of a tangent kernel `ntk (n, n, k, k)` and labels `(n,)` in 0..k-1, strongest first; `vt` is None.

    `rtol` as in `features.from_ntk`.

    Raises:
        ValueError: `ntk` is not a finite, symmetric, positive semi-definite `(n, n, k, k)` array, or `labels` are not
            `n` integers in 0..k-1.

    >>> from_ntk(jnp.eye(4).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3), jnp.array([0, 1])).s.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    ntk, labels = _check.single("ntk", ntk), jnp.asarray(labels)
    _check.shape("ntk", ntk, ndim=4)
    n, k = ntk.shape[0], ntk.shape[-1]
    _check.require(ntk.shape == (n, n, k, k), "ntk", "shape (n, n, k, k)", f"shape {ntk.shape}")
    _check_labels(labels, n, k)
    stacked = ntk.transpose(0, 2, 1, 3).reshape(n * k, n * k)
    return _labelled(binary.from_ntk(stacked, jnp.ones(n * k), rtol=rtol), labels)


def equilibrium(feats: Features, penalty: Penalty, *, tolerance: float | None = None) -> Equilibrium:
    """The optimum of `sum_i cross-entropy_i + penalty` for the linearised network; see `dual.equilibrium`.

    `Ridge` acts on the parameters' distance from initialisation. `SpectralDecoupling` acts on all `n k` centred
    outputs; its arrays, if any, have `n k` entries in the order of the rows of `feats.u`. The function works under
    `jit`, `vmap` and `grad`.

    Raises:
        ValueError: features that are not `gsjax.multiclass.Features`, an unknown `penalty`, arrays of the wrong
            length, or a `tolerance` that is not positive.

    >>> feats = from_ntrf(jnp.eye(4).reshape(2, 2, 4), jnp.array([0, 1]))
    >>> [f"{logit:+.3f}" for logit in equilibrium(feats, Ridge(1.0)).logits.ravel()]
    ['+0.337', '-0.337', '-0.337', '+0.337']
    """
    _require_several(feats)
    classes = _classes(feats)
    one_hot = jax.nn.one_hot(feats.labels, classes, dtype=feats.u.dtype)
    whitened = problem.whiten(_unlabelled(feats), penalty)

    def value(outputs):
        logits = outputs.reshape(-1, classes)
        return jnp.sum(jax.nn.logsumexp(logits, axis=-1) - jnp.sum(one_hot * logits, axis=-1))

    loss = newton.Loss(
        value=value,
        dual=lambda outputs: _residuals(_probabilities(outputs, classes), one_hot).ravel(),
        gram=lambda outputs, b: _gram(_probabilities(outputs, classes), b),
        bound=lambda outputs, a: _bound(_probabilities(outputs, classes), a),
    )
    readout = whitened.readout if whitened.readout.ndim == 2 else None
    w, info = newton.minimise(loss, whitened.basis, whitened.centre, readout, tolerance=tolerance)
    outputs, response = whitened.basis @ w, whitened.response(w)
    if isinstance(penalty, Ridge):
        outputs, response = smooth(loss, feats.origin, feats.u, feats.s, penalty.strength, outputs, response)
    return Equilibrium(outputs.reshape(-1, classes), response, info.residual, info.iterations, info.converged)


def starvation_matrix(feats: Features, penalty: Penalty, *, oriented: bool = True) -> Float[Array, "r r"]:
    """The starvation matrix `(r, r)`, `d z_j* / d(s_i^2)` at entry `[j, i]`.

    It has the closed form of `starvation.matrix`, with `diag(p) - p p^T` for D and `a*` for `alpha*`.

    Raises:
        ValueError: an unknown `penalty`, or arrays of the wrong length.

    >>> feats = from_ntrf(jnp.eye(4).reshape(2, 2, 4), jnp.array([0, 1]))
    >>> bool((jnp.diag(starvation_matrix(feats, Ridge(1.0))) >= 0).all())
    True
    """
    oriented = _check.flag("oriented", oriented)
    state = equilibrium(feats, penalty)
    if isinstance(penalty, Ridge):
        probabilities = jax.nn.softmax(state.logits)
        residuals = _residuals(probabilities, jax.nn.one_hot(feats.labels, _classes(feats), dtype=feats.u.dtype))
        pull = starvation.pulls(feats.u, feats.s2, residuals.ravel(), state.response, penalty.strength)
        slopes = starvation.sensitivity(feats.s2, _gram(probabilities, feats.u), pull, penalty.strength)
    else:
        pull, slopes = state.response, jnp.zeros((feats.s.shape[0],) * 2, feats.s.dtype)
    slopes = starvation.orient(slopes, pull) if oriented else slopes
    return jnp.where(state.converged, slopes, jnp.nan)


def _probabilities(outputs, classes):
    return jax.nn.softmax(outputs.reshape(-1, classes))


def _residuals(probabilities: Float[Array, "n k"], one_hot: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """`e_c - p`, with `1 - p_c` computed as the sum of the other probabilities, which is accurate for p_c near one."""
    rest = probabilities * (1 - one_hot)
    return one_hot * rest.sum(axis=1, keepdims=True) - rest


def _gram(probabilities: Float[Array, "n k"], basis: Float[Array, "nk r"]) -> Float[Array, "r r"]:
    """`B^T W B`, where W has one block `diag(p) - p p^T` per example, the covariance of the rows of B under p."""
    rows = basis.reshape(*probabilities.shape, -1)
    means = jnp.einsum("nk,nkr->nr", probabilities, rows)
    # Rows are centred first, because the difference of the two moments cancels if one class has nearly all of p.
    centred = (rows - means[:, None]).reshape(basis.shape)
    return centred.T @ (probabilities.reshape(-1, 1) * centred)


def _bound(probabilities: Float[Array, "n k"], a: Float[Array, " nk"]) -> Float[Array, " nk"]:
    """An upper bound on `|W| a` for `a >= 0`, with the W of `_gram`."""
    weighted = probabilities * a.reshape(probabilities.shape)
    return (weighted + probabilities * weighted.sum(axis=1, keepdims=True)).ravel()


def _require_several(feats: object) -> None:
    expected = "gsjax.multiclass.Features; for binary labels see gsjax.dual and gsjax.starvation"
    _check.require(isinstance(feats, Features), "feats", expected, f"{type(feats).__module__}.{type(feats).__name__}")


def _classes(feats: Features) -> int:
    return feats.u.shape[0] // feats.labels.shape[0]


def _labelled(feats: binary.Features, labels) -> Features:
    labelled = Features(feats.u, feats.s, feats.vt, labels, feats.rank)
    labelled.origin = feats.origin
    return labelled


def _unlabelled(feats: Features) -> binary.Features:
    return binary.Features(feats.u, feats.s, feats.vt, jnp.ones_like(feats.u[:, 0]), feats.rank)


def _check_labels(labels, n: int, k: int) -> None:
    _check.require(
        jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == (n,),
        "labels",
        f"integers of shape ({n},), one per example",
        f"{labels.dtype} of shape {labels.shape}",
    )
    in_range = jnp.all((labels >= 0) & (labels < k))
    _check.require(in_range, "labels", f"class indices in 0..{k - 1}", f"{jnp.min(labels)}..{jnp.max(labels)}")
