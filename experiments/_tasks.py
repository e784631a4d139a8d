"""Every data set of the catalogue as a task: a training set, and held-out sets by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Key

from gsjax import data
from gsjax.data import NAMES, catalogue
from gsjax.methods import Batch

HELP = f"The data set: {', '.join(NAMES)}."


class Task(NamedTuple):
    """A training set `train`, held-out sets by name, and the number of `outputs` that a network needs.

    Labels are -1 and +1 if `outputs` is 1, and class indices otherwise. `about` describes the data in the summary.
    """

    train: Batch
    held_out: dict[str, Batch]
    outputs: int
    about: dict[str, Any]


def load(
    key: Key[Array, ""],
    name: str,
    *,
    classes: Sequence[int] = (),
    n: int | None = None,
    test: int | None = None,
    image_size: int = 64,
) -> Task:
    """The task with this name, from `gsjax.data.load`; `image_size` is the height and width of photographs.

    Raises:
        ValueError: no such task; classes that it does not have; more examples than it has; a damaged file.
        FileNotFoundError: its files are missing; the message says what to fetch and where to put it.
    """
    found = data.load(key, name, classes=classes, n=n, test=test, size=image_size)
    train, *others = (
        Batch(part.x, part.y, group=part.group, environment=part.environment)
        for part in (found.train, *found.held_out.values())
    )
    held_out = dict(zip(found.held_out, others, strict=True))
    sizes = {"train": len(train.y), **{key: len(batch.y) for key, batch in held_out.items()}}
    about = {"name": found.about, **sizes, "stand-in": found.stand_in or False}
    return Task(train._replace(index=jnp.arange(len(train.y))), held_out, found.outputs, about)


def check(name: str, classes: Sequence[int] = ()) -> None:
    """Checks everything that can be checked without data.

    Raises:
        ValueError: no such task; classes for a task whose classes are fixed.
    """
    if name not in NAMES:
        raise ValueError(f"data: expected one of {', '.join(NAMES)}, got {name!r}")
    catalogue.check(name, classes)
