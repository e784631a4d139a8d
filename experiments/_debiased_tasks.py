"""Data of the experiment `debiased_distillation`: biased images of the student, and balanced ones of the teacher.

`group` is 2 [y = +1] + the class that the spurious feature suggests, so that groups 1 and 2 are those in which it
conflicts with the label. In validation and test images the spurious feature is independent of the label.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments import _domino_tasks
from experiments._domino_tasks import EASY, HARD, Half, pieces
from gsjax import data, methods, networks

Name = Literal["dominoes", "groups", "waterbirds", "celeba"]
Images = Literal["digits", "fashion_mnist"]

FOLDERS = ("waterbirds", "celeba")
# The groups in which the spurious feature conflicts with the label; in CelebA blond men.
CONFLICTING = {"dominoes": (1, 2), "groups": (1, 2), "waterbirds": (1, 2), "celeba": (3,)}
WATERBIRDS = (3498, 184, 56, 1057)  # Sagawa et al. 2020: the groups of the training photographs
# The frequent class (y = -1) and the rare one of coloured images, as in the experiment `groups`.
COLORED = {"digits": ((1, 3, 5, 9), (8,)), "fashion_mnist": ((3, 4), (2,))}


class Task(NamedTuple):
    """Images of several networks; all leaves of batches have an axis of networks first.

    Attributes:
        train: biased training images of the student.
        balanced: as many training images of the teacher, in which the spurious feature says nothing.
        validation: held-out images.
        test: other held-out images.
        shares: those of the groups in `train`, up to chance.
        sizes: those of the classes -1 and +1 in `train`.
    """

    train: methods.Batch
    balanced: methods.Batch
    validation: methods.Batch
    test: methods.Batch
    shares: Float[np.ndarray, " 4"]
    sizes: tuple[int, int]


class Setting(NamedTuple):
    """A data set, its network with one output, and the stages of the network whose readouts are compared."""

    name: str
    about: str
    network: nn.Module
    positions: tuple[str, ...]


def setting(name: Name, images: Images, *, width: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> Setting:
    """The setting of this name.

    `width` is that of the VGG for dominoes, `widths` are the layers of the network for coloured images, and `blocks`
    those of the residual network for photographs, whose first stages but the last one are compared.
    """
    if name in FOLDERS:
        last = tuple(f"layer{number}_{count - 1}" for number, count in enumerate(blocks[:-1] or blocks, 1))
        return Setting(name, name, networks.ResNet(blocks), last)
    if name == "dominoes":
        easy = "digits" if images == "digits" else "mnist"
        network = networks.VGG(((width,), (2 * width,), (4 * width, 4 * width)), 1)
        return Setting(name, f"dominoes of {images} (core) and {easy}", network, ("pool1", "pool2", "pool3"))
    hidden = tuple(f"h{number}" for number in range(1, len(widths) + 1))
    return Setting(name, f"coloured groups of {images}", networks.FullyConnected(widths), hidden)


def draw(
    name: Name, images: Images, keys: Key[Array, " networks"], *, n: int, test: int, stride: int, correlation: float
) -> Task:
    """The images of every network, drawn from its key; training, validation and test images are disjoint.

    Teacher and student draw from the same training images, so that they may share some.

    Args:
        name: "dominoes", or "groups", which have the proportions of Waterbirds.
        images: the image set; dominoes have easier digits in the spurious half.
        keys: one per network.
        n: training images of the student, and of the teacher.
        test: held-out images, for validation and for testing.
        stride: every `stride`-th row and column of pixels is kept.
        correlation: the probability that the spurious half agrees with the label, in training dominoes.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: `n` or `test` is larger than the images allow.
    """
    if name == "dominoes":
        easy = "digits" if images == "digits" else "mnist"
        halves = Half(images, HARD[images]), Half(easy, EASY[easy])
        options: dict[str, Any] = {"n": n, "test": test, "stride": stride}
        biased = _domino_tasks.draw(keys, *halves, correlations=(correlation,), **options)
        other = jax.vmap(lambda key: jax.random.fold_in(key, 2))(keys)
        balanced = _domino_tasks.draw(other, *halves, correlations=(0.5,), **options)
        agreeing = np.array([correlation, 1 - correlation, 1 - correlation, correlation]) / 2
        held_out = biased.validation["random"], biased.test["random"]
        return Task(biased.train, balanced.train, *held_out, agreeing, (n - n // 2, n // 2))
    sizes = group_sizes(n)
    wanted = sizes, halved(sizes), np.full(4, test // 4), np.full(4, test // 4)
    train, balanced, validation, tested = (
        _colored(images, part, tuple(count.tolist()), stride, number)(keys)
        for number, (part, count) in enumerate(zip((0, 0, 1, 2), wanted, strict=True))
    )
    return Task(train, balanced, validation, tested, sizes / n, (int(sizes[:2].sum()), int(sizes[2:].sum())))


def group_sizes(n: int) -> Int[np.ndarray, " 4"]:
    """The sizes of the groups of n images with the proportions of Waterbirds.

    >>> group_sizes(4795).tolist(), group_sizes(200).tolist()
    ([3498, 184, 56, 1057], [146, 8, 2, 44])
    """
    counts = np.maximum(1, np.round(n * np.array(WATERBIRDS) / sum(WATERBIRDS)).astype(int))
    counts[0] += n - counts.sum()
    return counts


def halved(sizes: Int[np.ndarray, " 4"]) -> Int[np.ndarray, " 4"]:
    """Sizes of groups with the same classes in which both classes of the spurious feature are equally frequent.

    >>> halved(np.array([5, 2, 0, 4])).tolist()
    [4, 3, 2, 2]
    """
    ours, theirs = sizes.reshape(2, 2).sum(axis=1).tolist()
    return np.array([ours - ours // 2, ours // 2, theirs - theirs // 2, theirs // 2])


@functools.lru_cache(maxsize=8)
def _colored(images: str, part: int, sizes: tuple[int, ...], stride: int, number: int) -> Any:
    """The compiled function from keys to coloured images of a part: 0 to train, 1 to validate, 2 to test."""
    classes = COLORED[images]
    whole = pieces(Half(images, classes))[part]

    def one(key: Key[Array, ""]) -> methods.Batch:
        key = jax.random.fold_in(key, number)
        x, y, group = data.colored_groups(key, whole, classes=classes, sizes=sizes, stride=stride)
        return methods.Batch(x, y, group, index=jnp.arange(len(y)))

    return jax.jit(jax.vmap(one))
