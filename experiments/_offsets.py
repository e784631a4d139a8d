"""A number added to the logits of a trained network, and how it and the epoch are selected on validation images."""

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
    """How the network and the offset on its logits are chosen after training: by what `offset`, at which epoch."""

    label: str
    offset: Literal["none", "groups", "classes", "odds"]
    groups: bool
    """Whether the epoch is the one with the best worst group of the validation images; or with the best balance."""


CHOICES = {
    "published": Choice("{}", "none", True),
    "offset": Choice("{} + offset", "groups", True),
    "balance": Choice("{} + offset by class balance", "classes", True),
    "blind": Choice("{}, no group labels", "none", False),
    "blind offset": Choice("{} + offset, no group labels", "classes", False),
    "log odds": Choice("{} + log odds, no group labels", "odds", False),
}


def by_group(right: Bool[Array, " n"], group: Int[Array, " n"]) -> Float[Array, " 4"]:
    """The share of what is `right` in each group.

    >>> by_group(jnp.array([True, False, True, True, False]), jnp.array([0, 0, 1, 2, 3])).tolist()
    [0.5, 1.0, 1.0, 0.0]
    """
    right, all_ = (jax.ops.segment_sum(of.astype(float), group, 4) for of in (right, jnp.ones_like(right)))
    return right / all_


def measure(
    validation: Outputs, test: Outputs, *, shares: Float[np.ndarray, " 4"], sizes: tuple[int, int]
) -> dict[str, dict[str, Array]]:
    """Accuracies in the groups, `validation` and `test (4,)`, with every kind of `offset ()` added to the logits.

    The offset of "groups" is the best one for the worst group of the validation images. That of "classes" is the best
    one for the mean of both classes' accuracies there (`class_balance`), which asks for no group of an image. "odds" is
    log(n_- / n_+), n_c examples of a class in training: what makes logits those of classes that are as frequent (logit
    adjustment, Menon et al. 2021), and needs no validation images. "none" is 0.
    """
    offsets = {
        "none": jnp.zeros(()),
        "groups": best_offset(validation, lambda of: of.min(axis=0)),
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
    """What to add to the logits so that the accuracies of the groups score highest, exactly; of equals the smallest.

    Accuracies are step functions of the offset, and change where the sign of a logit does: halfway between two of them,
    or beyond all, stands for all others there, and 0 for those around it.

    >>> of = Outputs(jnp.array([1.0, 2.0, 3.0, 7.0]), jnp.array([-1.0, -1.0, 1.0, 1.0]), jnp.arange(4))
    >>> float(best_offset(of, lambda accuracies: accuracies.min(axis=0)))
    -2.5
    """
    order = jnp.argsort(outputs.logits)
    ranked, member = outputs.logits[order], jnp.arange(4)[:, None] == outputs.group[order]
    below = jnp.pad(jnp.cumsum(member, axis=1), ((0, 0), (1, 0)))  # of each group, with k logits below the threshold
    count = below[:, -1:]
    right = jnp.where(jnp.arange(4)[:, None] < 2, below, count - below)  # groups 0 and 1 are of the class -1
    ends = jnp.concatenate([ranked[:1] - 1, ranked, ranked[-1:] + 1])
    low, high = ends[:-1], ends[1:]
    middle = jnp.where((low < 0) & (high > 0), 0.0, (low + high) / 2)
    scores = jnp.where(low < high, score(right / count), -jnp.inf)  # no threshold lies between equal logits
    return -middle[jnp.argmin(jnp.where(scores == scores.max(), jnp.abs(middle), jnp.inf))]


def class_balance(accuracies: Float[Array, "4 ..."], shares: Float[np.ndarray, " 4"]) -> Float[Array, "..."]:
    """The mean of both classes' accuracies, groups having their `shares` within a class.

    The shares stand for images drawn as in training, where none is asked for its group: a validation set in which
    groups are as frequent has told of them already.

    >>> float(class_balance(jnp.array([1.0, 0.5, 1.0, 0.0]), np.array([0.4, 0.4, 0.15, 0.05])))
    0.75
    """
    shares = np.asarray(shares)
    weights = shares / np.repeat([shares[:2].sum(), shares[2:].sum()], 2) / 2
    return jnp.tensordot(weights, accuracies, 1)


def best_epoch(row: Mapping[str, Any], choice: Choice = CHOICES["published"]) -> int:
    """The epoch, from 0, with the best worst group of the validation images, or class balance; of equals the last one.

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
    """Test accuracies of the groups, of every network at its best epoch with its best offset; or another field."""
    return np.array([row[choice.offset][name][best_epoch(row, choice)] for row in rows])
