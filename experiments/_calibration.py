"""Trivial explanations of a difference between two networks: another threshold on the logits, or a temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Entropies are recorded with the logits divided by each of these temperatures.
TEMPERATURES = tuple(float(t) for t in np.geomspace(1, 1000, 31))


def accuracy(logits: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """The share of logits with the right sign; a logit of zero is wrong.

    >>> float(accuracy(jnp.array([2.0, -1.0]), jnp.array([1.0, 1.0])))
    0.5
    """
    return (y * logits > 0).mean()


def best_threshold(logits: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """The threshold with the best accuracy of `logits - threshold`: halfway between two logits, or beyond all of them.

    >>> float(best_threshold(jnp.array([3.0, 1.0, 2.0]), jnp.array([1.0, -1.0, -1.0])))
    2.5
    """
    order = jnp.argsort(logits)
    ranked, right = logits[order], jnp.where(y[order] > 0, 1, 0)
    # A threshold above the first k logits gets right the negatives among those k and the positives among the rest.
    negatives = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(1 - right)])
    positives = right.sum() - jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(right)])
    ends = jnp.concatenate([ranked[:1] - 1, ranked, ranked[-1:] + 1])
    distinct = ends[1:] > ends[:-1]  # no threshold lies between equal logits
    best = jnp.argmax(jnp.where(distinct, negatives + positives, -1))
    return (ends[best] + ends[best + 1]) / 2


def entropy(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Entropy in nats of the predicted distribution, with P(y = +1) = 1 / (1 + exp(-logit)).

    >>> round(float(entropy(jnp.zeros(()))), 4), float(entropy(jnp.asarray(200.0)))
    (0.6931, 0.0)
    """
    return jax.nn.softplus(-jnp.abs(logits)) + jnp.abs(logits) * jax.nn.sigmoid(-jnp.abs(logits))


def calmed(rows: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "seeds 4"]:
    """Entropies in the four environments, with the logits of each restart divided by a temperature.

    At this temperature the mean entropy on validation images equals that of the same restart of `references`. A
    difference in entropy that remains is then not due to the scale of the logits alone.
    """
    found = []
    for row, other in zip(rows, references, strict=True):
        ours, theirs = np.array(row["cooled"]), other["cooled"][0][0]
        # Entropy increases with the temperature, so it can be inverted by interpolation.
        log_temperature = np.interp(theirs, ours[:, 0], np.log(TEMPERATURES))
        found.append([np.interp(log_temperature, np.log(TEMPERATURES), values) for values in ours[:, 1:].T])
    return np.array(found)
