"""An offset added to the logits of a trained network, and how it and the epoch are selected on validation images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments._photographs import Outputs


class Choice(NamedTuple):
    """How the offset on the logits and the epoch are chosen after training."""

    label: str
    offset: Literal["none", "groups", "classes", "odds"]
    groups: bool
    """Whether the epoch has the best worst-group accuracy on validation images; otherwise the best class balance."""


CHOICES = {
    "published": Choice("{}", "none", True),
    "offset": Choice("{} + offset", "groups", True),
    "balance": Choice("{} + offset by class balance", "classes", True),
    "blind": Choice("{}, no group labels", "none", False),
    "blind offset": Choice("{} + offset, no group labels", "classes", False),
    "log odds": Choice("{} + log odds, no group labels", "odds", False),
}


def by_group(right: Bool[Array, " n"], group: Int[Array, " n"]) -> Float[Array, " 4"]:
    """The accuracy in each group, where `right` says which examples are classified correctly.

    >>> by_group(jnp.array([True, False, True, True, False]), jnp.array([0, 0, 1, 2, 3])).tolist()
    [0.5, 1.0, 1.0, 0.0]
    """
    correct, count = (jax.ops.segment_sum(each.astype(float), group, 4) for each in (right, jnp.ones_like(right)))
    return correct / count


def measure(
    validation: Outputs, test: Outputs, *, shares: Float[np.ndarray, " 4"], sizes: tuple[int, int]
) -> dict[str, dict[str, Array]]:
    """Accuracies by group, `validation (4,)` and `test (4,)`, with each kind of `offset ()` added to the logits.

    - "groups": the offset with the best worst-group accuracy on validation images.
    - "classes": the offset with the best mean of both class accuracies there (`class_balance`). It needs no group
      labels.
    - "odds": log(n_- / n_+) with the class counts in training, which corrects the logits for unequal class frequencies
      (logit adjustment, Menon et al. 2021). It needs no validation images.
    - "none": 0.
    """
    offsets = {
        "none": jnp.zeros(()),
        "groups": best_offset(validation, lambda accuracies: accuracies.min(axis=0)),
        "classes": best_offset(validation, functools.partial(class_balance, shares=shares)),
        "odds": jnp.log(sizes[0] / sizes[1]),
    }

    def moved(part: Outputs, offset: Array) -> Array:
        return by_group((part.logits + offset) * part.y > 0, part.group)

    return {
        name: {"offset": offset, "validation": moved(validation, offset), "test": moved(test, offset)}
        for name, offset in offsets.items()
    }


def best_offset(
    outputs: Outputs, score: Callable[[Float[Array, "4 candidates"]], Float[Array, " candidates"]]
) -> Float[Array, ""]:
    """The offset on the logits that maximises the score of the group accuracies, exactly; of ties the smallest in size.

    Accuracies are step functions of the offset that change where a logit changes its sign. So one candidate per
    interval
    suffices: the point halfway between two logits, a point beyond all of them, and 0 for the interval that contains it.

    >>> outputs = Outputs(jnp.array([1.0, 2.0, 3.0, 7.0]), jnp.array([-1.0, -1.0, 1.0, 1.0]), jnp.arange(4))
    >>> float(best_offset(outputs, lambda accuracies: accuracies.min(axis=0)))
    -2.5
    """
    order = jnp.argsort(outputs.logits)
    ranked, member = outputs.logits[order], jnp.arange(4)[:, None] == outputs.group[order]
    counts = jnp.pad(jnp.cumsum(member, axis=1), ((0, 0), (1, 0)))  # per group, among the k smallest logits
    count = counts[:, -1:]
    right = jnp.where(jnp.arange(4)[:, None] < 2, counts, count - counts)  # groups 0 and 1 are the class -1
    ends = jnp.concatenate([ranked[:1] - 1, ranked, ranked[-1:] + 1])
    low, high = ends[:-1], ends[1:]
    middle = jnp.where((low < 0) & (high > 0), 0.0, (low + high) / 2)
    scores = jnp.where(low < high, score(right / count), -jnp.inf)  # no threshold lies between equal logits
    return -middle[jnp.argmin(jnp.where(scores == scores.max(), jnp.abs(middle), jnp.inf))]


def class_balance(accuracies: Float[Array, "4 ..."], shares: Float[np.ndarray, " 4"]) -> Float[Array, "..."]:
    """The mean of both class accuracies, with the groups of a class weighted by their `shares`.

    The shares are those of the training distribution. A validation set with equally frequent groups would already use
    group labels; with these weights the result is that of images drawn as in training.

    >>> float(class_balance(jnp.array([1.0, 0.5, 1.0, 0.0]), np.array([0.4, 0.4, 0.15, 0.05])))
    0.75
    """
    shares = np.asarray(shares)
    weights = shares / np.repeat([shares[:2].sum(), shares[2:].sum()], 2) / 2
    return jnp.tensordot(weights, accuracies, 1)


def best_epoch(row: Mapping[str, Any], choice: Choice = CHOICES["published"]) -> int:
    """The epoch, from 0, with the best worst-group accuracy or class balance on validation images; of ties the last.

    >>> best_epoch({"none": {"validation": [[0.9, 0.2], [0.8, 0.7], [1.0, 0.7], [1.0, 0.6]]}})
    2
    """
    validation = np.array(row[choice.offset]["validation"])
    score = (
        validation.min(axis=1) if choice.groups else np.asarray(class_balance(jnp.asarray(validation.T), row["shares"]))
    )
    return int(np.flatnonzero(score == score.max())[-1])


def selected(
    rows: Sequence[Mapping[str, Any]], choice: Choice = CHOICES["published"], name: str = "test"
) -> Float[np.ndarray, "seeds ..."]:
    """Test accuracies by group, or another field `name`, of each network at its best epoch with its best offset."""
    return np.array([row[choice.offset][name][best_epoch(row, choice)] for row in rows])
