"""Shared by the experiments on CIFAR: images, published penalties, training and measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
from jax import lax
from jaxtyping import Array

from experiments._bounds import expect
from experiments._study import keys
from gsjax import data, methods
from gsjax.data import Images

ARMS = {"erm": "ERM", "sd": "SD"}


class Recipe(NamedTuple):
    """How networks are trained, and what is measured after which epochs (`record`)."""

    network: nn.Module
    method: methods.Method
    train: methods.Batch
    epochs: int
    batch_size: int
    record: list[int]
    evaluate: Callable[[methods.State, Any], dict[str, Array]]
    held_out: Any


def strength(factor: float, *, classes: int | None = None) -> float:
    """The strength lambda of `methods.spectral_decoupling` for a published factor c.

    The penalty of `methods.spectral_decoupling` is mean_i (lambda/2) sum_k f_ik^2. Fig. 2 adds c sum(logits^2) to a
    mean of losses. This is read as a sum over the two logits and a mean over the batch, so lambda = 2 c; if it is also
    a sum over a batch of b examples, lambda = 2 c b. Table 1 adds c mean(logits^2), a mean over batch and classes, so
    lambda = 2 c / classes.

    >>> strength(0.1), strength(0.01, classes=10)
    (0.2, 0.002)
    """
    return 2 * factor if classes is None else 2 * factor / classes


def load(name: str) -> tuple[Images, Images]:
    """Images to train on and to test on.

    Raises:
        FileNotFoundError: the files are missing; the message says what to fetch and where to put it.
    """
    if name == "digits":
        images = data.get(name).read()
        cut = 3 * len(images.labels) // 4
        return Images(images.pixels[:cut], images.labels[:cut]), Images(images.pixels[cut:], images.labels[cut:])
    return data.get(name).read("train"), data.get(name).read("test")


def called(name: str, train: int) -> str:
    """The title of a data set that has `train` training images here: "subset" is added if that is not all of them."""
    entry = data.get(name)
    return f"{entry.title} subset" if train < entry.sizes.get("train", 0) else entry.title


def each(measure: Callable[[Array, Array], Array], x: Array, y: Array, size: int = 100) -> Array:
    """Applies `measure(x, y)` -> `(n,)` to all examples, `size` at a time."""
    return lax.map(lambda example: measure(example[0][None], example[1][None])[0], (x, y), batch_size=size)


def about(name: str) -> dict[str, Any]:
    """The entry of a data set in the summary."""
    train, test = (len(images.labels) for images in load(name))
    return {"name": called(name, train), "train": train, "test": test, "stand-in": name == "digits"}


def train(recipe: Recipe, seed: int, numbers: Sequence[int], label: str) -> list[dict[str, Any]]:
    """Trains and measures the networks with these numbers; one row per network and recorded epoch.

    Raises:
        ValueError: the batch size is larger than the number of images.
    """
    n = len(recipe.train.y)
    expect(recipe.batch_size <= n, "batch_size", f"at most {n}, the images there are", recipe.batch_size)
    epoch = n // recipe.batch_size
    found = methods.train(
        recipe.method,
        keys(seed, numbers),
        recipe.train,
        steps=recipe.epochs * epoch,
        batch_size=recipe.batch_size,
        record=[epoch * number for number in recipe.record],
        evaluate=recipe.evaluate,
        held_out=recipe.held_out,
        what=label,
    )
    measured = {name: values.tolist() for name, values in found.records.items()}
    return [
        {
            "seed": number,
            "epoch": epoch,
            "finite": bool(finite),
            **{name: values[row][place] for name, values in measured.items()},
        }
        for row, (number, finite) in enumerate(zip(numbers, found.finite, strict=True))
        for place, epoch in enumerate(recipe.record)
    ]
