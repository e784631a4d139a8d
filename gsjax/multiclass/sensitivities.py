"""The starvation matrix for softmax cross-entropy, from all features."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gsjax import _check, starvation
from gsjax.multiclass import softmax
from gsjax.multiclass.equilibrium import equilibrium
from gsjax.multiclass.features import Features
from gsjax.objectives import Penalty, Ridge

__all__ = ["starvation_matrix"]


def starvation_matrix(feats: Features, penalty: Penalty, *, oriented: bool = True) -> Float[Array, "r r"]:
    """The starvation matrix `(r, r)`, `d z_j* / d(s_i^2)` at entry `[j, i]`.

    It has the closed form of `starvation.matrix`, with `diag(p) - p p^T` for D and `a*` for `alpha*`.

    Raises:
        ValueError: an unknown `penalty`, or arrays of the wrong length.

    >>> from gsjax.multiclass import from_ntrf
    >>> feats = from_ntrf(jnp.eye(4).reshape(2, 2, 4), jnp.array([0, 1]))
    >>> bool((jnp.diag(starvation_matrix(feats, Ridge(1.0))) >= 0).all())
    True
    """
    oriented = _check.flag("oriented", oriented)
    state = equilibrium(feats, penalty)
    if isinstance(penalty, Ridge):
        probabilities = jax.nn.softmax(state.logits)
        one_hot = jax.nn.one_hot(feats.labels, feats.classes, dtype=feats.u.dtype)
        residuals = softmax.residuals(probabilities, one_hot)
        pull = starvation.pulls(feats.u, feats.s2, residuals.ravel(), state.response, penalty.strength)
        slopes = starvation.sensitivity(feats.s2, softmax.gram(probabilities, feats.u), pull, penalty.strength)
    else:
        pull, slopes = state.response, jnp.zeros((feats.s.shape[0],) * 2, feats.s.dtype)
    slopes = starvation.orient(slopes, pull) if oriented else slopes
    return jnp.where(state.converged, slopes, jnp.nan)
