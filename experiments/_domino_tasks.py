"""Dominoes for the experiment `dominoes`: training images and held-out variants, for several networks at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from gsjax import data, methods
from gsjax.data import Dominoes, Images

Classes = tuple[tuple[int, ...], tuple[int, ...]]

# The labels of both classes of a half. Digits have two labels per class, since there are few images.
HARD: dict[str, Classes] = {
    "digits": ((3, 5), (8, 9)),
    "fashion_mnist": ((2,), (4,)),  # pullovers and coats: the published labels 0 and 1 are as easy as digits
    "kmnist": ((0,), (1,)),
    "cifar10": ((0,), (1,)),
}
EASY: dict[str, Classes] = {"digits": ((0, 6), (1, 7)), "mnist": ((0,), (1,))}
VARIANTS = ("test", "core only", "spurious only", "random", "core random", "reversed")


class Half(NamedTuple):
    """What is in a half: the name of an image set, and the labels of both classes."""

    name: str
    classes: Classes


class Task(NamedTuple):
    """Dominoes of several networks; all leaves but the region have an axis of networks first.

    `group` of the batches is 2 (y > 0) + the class of the spurious half. `validation` has the variants "test" and
    "random", and `test` all of `data.domino_variants`. `spurious (height, width)` is the region of the spurious half.
    """

    train: methods.Batch
    validation: dict[str, methods.Batch]
    test: dict[str, methods.Batch]
    spurious: Bool[np.ndarray, "height width"]


@functools.lru_cache(maxsize=4)
def pieces(half: Half) -> tuple[Images, Images, Images]:
    """The images of both classes to train, to validate and to test.

    Raises:
        FileNotFoundError: files are missing.
    """
    entry = data.get(half.name)
    if half.name == "digits":
        whole = entry.read()
        found = [Images(*(leaf[cut] for leaf in whole)) for cut in (slice(900), slice(900, 1350), slice(1350, None))]
    else:
        whole = entry.read("train")
        found = [Images(*(leaf[cut] for leaf in whole)) for cut in (slice(-10_000), slice(-10_000, None))]
        found.append(entry.read("test"))
    labels = [label for group in half.classes for label in group]
    rows = [np.isin(piece.labels, labels) for piece in found]
    train, validation, test = (Images(*(leaf[row] for leaf in piece)) for piece, row in zip(found, rows, strict=True))
    return train, validation, test


def draw(
    keys: Key[Array, " networks"],
    core: Half,
    spurious: Half,
    *,
    correlations: Sequence[float],
    n: int,
    test: int,
    stride: int = 1,
    alone: bool = False,
) -> Task:
    """Dominoes for every network, drawn from its key; training, validation and test images are disjoint.

    Args:
        keys: one per network.
        core: the core half.
        spurious: the spurious half.
        correlations: those of the environments in training, of which each has the same number of examples and images
            of its own. Held-out examples have their mean.
        n: training examples, a multiple of the number of environments.
        test: held-out examples, for validation and for testing.
        stride: every `stride`-th row and column of pixels is kept.
        alone: whether the spurious half is black in all images.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: `n` or `test` is larger than the images allow.
    """
    program = _program(core, spurious, len(correlations), n, test, stride)
    task, region = program(keys, jnp.asarray(correlations))
    region = np.asarray(region[0])
    if alone:

        def blank(batch: methods.Batch) -> methods.Batch:
            return batch._replace(x=data.hide(batch.x, jnp.asarray(region)))

        task = jax.tree.map(blank, task, is_leaf=lambda leaf: isinstance(leaf, methods.Batch))
    train, validation, tested = task
    return Task(train, validation, tested, region)


@functools.lru_cache(maxsize=4)
def _program(core: Half, spurious: Half, environments: int, n: int, test: int, stride: int) -> Callable[..., Any]:
    """The compiled function (keys, correlations) -> (train, validation, test), region; images are its constants."""
    pairs = list(zip(pieces(core), pieces(spurious), strict=True))
    options: dict[str, Any] = {"classes": (core.classes, spurious.classes), "stride": stride}

    def one(key: Key[Array, ""], correlations: Array):
        keys = jax.random.split(key, 3)
        drawn = [
            data.dominoes(
                jax.random.fold_in(keys[0], number),
                *(_share(images, number, environments) for images in pairs[0]),
                n=n // environments,
                correlation=correlations[number],
                **options,
            )
            for number in range(environments)
        ]
        parts: Any = [_batch(sample) for sample in drawn]
        x, y, group = (jnp.concatenate([part[field] for part in parts]) for field in range(3))
        environment = jnp.repeat(jnp.arange(environments), n // environments)
        train = methods.Batch(x, y, group, environment, jnp.arange(n))
        validation, tested = (
            {
                name: _batch(sample)
                for name, sample in data.domino_variants(
                    key, *pair, n=test, correlation=correlations.mean(), **options
                ).items()
            }
            for key, pair in zip(keys[1:], pairs[1:], strict=True)
        )
        return (train, {name: validation[name] for name in ("test", "random")}, tested), drawn[0].spurious

    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def _batch(sample: Dominoes) -> methods.Batch:
    return methods.Batch(sample.x, sample.y, 2 * (sample.y > 0) + sample.attribute)


def _share(images: Images, number: int, count: int) -> Images:
    """One of `count` equal parts of the images, in their order."""
    rows = np.array_split(np.arange(len(images.labels)), count)[number]
    return Images(*(leaf[rows] for leaf in images))
