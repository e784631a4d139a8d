"""What could explain a difference of two networks trivially: another threshold on the logits, or a temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# At which the entropies of an arm are recorded beside 1: its logits divided by each.
TEMPERATURES = tuple(float(t) for t in np.geomspace(1, 1000, 31))


def accuracy(logits: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """The share of signs that are right; a logit of zero is wrong.

    >>> float(accuracy(jnp.array([2.0, -1.0]), jnp.array([1.0, 1.0])))
    0.5
    """
    return (y * logits > 0).mean()


def best_threshold(logits: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """What makes logits most accurate when it is subtracted from them: halfway between two of them, or beyond all.

    >>> float(best_threshold(jnp.array([3.0, 1.0, 2.0]), jnp.array([1.0, -1.0, -1.0])))
    2.5
    """
    order = jnp.argsort(logits)
    ranked, right = logits[order], jnp.where(y[order] > 0, 1, 0)
    # With k of them below the threshold: the negative ones among the first k, and the positive ones among the rest.
    below = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(1 - right)])
    above = right.sum() - jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(right)])
    ends = jnp.concatenate([ranked[:1] - 1, ranked, ranked[-1:] + 1])
    apart = ends[1:] > ends[:-1]  # no threshold lies between equal logits
    best = jnp.argmax(jnp.where(apart, below + above, -1))
    return (ends[best] + ends[best + 1]) / 2


def entropy(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Entropy in nats of the predicted distribution, which has the probability 1 / (1 + exp(-logit)) for y = +1.

    >>> round(float(entropy(jnp.zeros(()))), 4), float(entropy(jnp.asarray(200.0)))
    (0.6931, 0.0)
    """
    return jax.nn.softplus(-jnp.abs(logits)) + jnp.abs(logits) * jax.nn.sigmoid(-jnp.abs(logits))


def calmed(rows: Sequence[Mapping[str, Any]], like: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "seeds 4"]:
    """Entropies in the four environments with all logits divided by one temperature per restart.

    It is the temperature at which the mean entropy on validation images is that of the same restart of `like`. What
    is left of a difference in entropy is then not a matter of the size of the logits alone.
    """
    found = []
    for row, other in zip(rows, like, strict=True):
        ours, theirs = np.array(row["cooled"]), other["cooled"][0][0]
        # Entropy grows with the temperature, so that this is where it passes theirs.
        at = np.interp(theirs, ours[:, 0], np.log(TEMPERATURES))
        found.append([np.interp(at, np.log(TEMPERATURES), values) for values in ours[:, 1:].T])
    return np.array(found)
