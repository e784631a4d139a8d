"""Penalties that are matched to each other, for softmax cross-entropy."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gsjax import _check
from gsjax.dual import choosing
from gsjax.multiclass.equilibrium import equilibrium
from gsjax.multiclass.features import Features, require_several
from gsjax.objectives import Penalty

__all__ = ["match"]


def match(feats: Features, penalty: Penalty) -> choosing.Match:
    """The penalty of the other kind with the same total confidence `sum_i p_i` in the true classes at the optimum.

    This is `dual.match` for softmax cross-entropy. From `Ridge` at full row rank the strength has a closed form. Under
    spectral decoupling each example then has the outputs g of its class and `-g / (k - 1)` of the others, with
    `lambda g = 1 - c` and `g k / (k - 1) = log((k - 1) c / (1 - c))` for the confidence c.

    Raises:
        ValueError: as `dual.match`, for features that are not `gsjax.multiclass.Features`.

    >>> from gsjax import Ridge
    >>> from gsjax.multiclass import from_ntrf
    >>> feats = from_ntrf(jnp.eye(4).reshape(2, 2, 4), jnp.array([0, 1]))
    >>> found = match(feats, Ridge(1.0))
    >>> found.converged, abs(found.confidence - found.wanted) < 1e-4
    (True, True)
    """
    require_several(feats)
    full = _check.is_concrete(feats.rank) and int(feats.rank) == feats.u.shape[0]
    return choosing.matched(feats, penalty, _missing(), full=full, classes=feats.classes)


@functools.cache
def _missing() -> Callable[[Features, Penalty], tuple[Float[Array, ""], Bool[Array, ""]]]:
    """One jitted function, so that all trials share a program."""

    def missing(feats: Features, penalty: Penalty) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        state = equilibrium(feats, penalty)
        probabilities = jax.nn.softmax(state.logits)
        one_hot = jax.nn.one_hot(feats.labels, probabilities.shape[1], dtype=probabilities.dtype)
        return jnp.mean(jnp.sum(probabilities * (1 - one_hot), axis=1)), state.converged

    return jax.jit(missing)
