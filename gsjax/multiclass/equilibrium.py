"""The optimum of training with softmax cross-entropy, from all features."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from gsjax.dual import newton, problem
from gsjax.dual.smooth import smooth
from gsjax.multiclass import softmax
from gsjax.multiclass.features import Features, require_several
from gsjax.objectives import Penalty, Ridge

__all__ = ["Equilibrium", "equilibrium"]


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


def equilibrium(feats: Features, penalty: Penalty, *, tolerance: float | None = None) -> Equilibrium:
    """The optimum of `sum_i cross-entropy_i + penalty` for the linearised network; see `dual.equilibrium`.

    `Ridge` acts on the parameters' distance from initialisation. `SpectralDecoupling` acts on all `n k` centred
    outputs; its arrays, if any, have `n k` entries in the order of the rows of `feats.u`. The function works under
    `jit`, `vmap` and `grad`.

    Raises:
        ValueError: features that are not `gsjax.multiclass.Features`, an unknown `penalty`, arrays of the wrong
            length, or a `tolerance` that is not positive.

    >>> from gsjax.multiclass import from_ntrf
    >>> feats = from_ntrf(jnp.eye(4).reshape(2, 2, 4), jnp.array([0, 1]))
    >>> [f"{logit:+.3f}" for logit in equilibrium(feats, Ridge(1.0)).logits.ravel()]
    ['+0.337', '-0.337', '-0.337', '+0.337']
    """
    require_several(feats)
    one_hot = jax.nn.one_hot(feats.labels, feats.classes, dtype=feats.u.dtype)
    whitened = problem.whiten(feats.unlabelled(), penalty)
    loss = newton.Loss(*(Partial(function, one_hot) for function in (_value, _dual, _gram, _bound)))
    readout = whitened.readout if whitened.readout.ndim == 2 else None
    w, info = newton.minimise(loss, whitened.basis, whitened.centre, readout, tolerance=tolerance)
    outputs, response = whitened.basis @ w, whitened.response(w)
    if isinstance(penalty, Ridge):
        outputs, response = smooth(loss, feats.origin, feats.u, feats.s, penalty.strength, outputs, response)
    return Equilibrium(outputs.reshape(one_hot.shape), response, info.residual, info.iterations, info.converged)


def _value(one_hot: Float[Array, "n k"], outputs: Float[Array, " nk"]) -> Float[Array, ""]:
    logits = outputs.reshape(one_hot.shape)
    return jnp.sum(jax.nn.logsumexp(logits, axis=-1) - jnp.sum(one_hot * logits, axis=-1))


def _dual(one_hot: Float[Array, "n k"], outputs: Float[Array, " nk"]) -> Float[Array, " nk"]:
    return softmax.residuals(softmax.probabilities(outputs, one_hot.shape[1]), one_hot).ravel()


def _gram(one_hot: Float[Array, "n k"], outputs: Float[Array, " nk"], b: Float[Array, "nk r"]) -> Float[Array, "r r"]:
    return softmax.gram(softmax.probabilities(outputs, one_hot.shape[1]), b)


def _bound(one_hot: Float[Array, "n k"], outputs: Float[Array, " nk"], a: Float[Array, " nk"]) -> Float[Array, " nk"]:
    return softmax.bound(softmax.probabilities(outputs, one_hot.shape[1]), a)
