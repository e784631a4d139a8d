"""Images for the experiment `prediction_depth`: data sets of one size, with patches that reveal the class."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gsjax import data
from gsjax.data import Images, scaling, sets

if TYPE_CHECKING:
    from experiments.prediction_depth import Config

CLASSES = 10  # of all data sets
PATCHED = 1  # the label of the class with the patch
GRID = 4  # the patches of ten classes are at the places of a grid of 4 x 4
VARIANTS = {"clean": "", "patch": ", patch in one class", "patches": ", patch per class"}
CONTROLS = {"random patch": ", patch in a random half", "shuffled": ", labels shuffled"}


class Task(NamedTuple):
    """Training and test images in [-1, 1] with their labels; any consecutive ten from the start are of all classes."""

    x: Float[np.ndarray, "n size size 3"]
    y: Int[np.ndarray, " n"]
    queries: Float[np.ndarray, "q size size 3"]
    labels: Int[np.ndarray, " q"]


@functools.cache
def read(name: str) -> tuple[Images, Images]:
    """The training and test images of a data set.

    Raises:
        FileNotFoundError: the files are missing; the message says what to fetch and where to put it.
    """
    train, test = sets.parts(data.get(name), jax.random.key(0))[0]
    return train, test


def per_class(labels: Int[np.ndarray, " n"], n: int) -> int:
    """How many images of each class n images can have: n / 10, or as many as there are of the rarest class."""
    return min(n // CLASSES, int(np.bincount(labels, minlength=CLASSES).min()))


def balanced(generator: np.random.Generator, labels: Int[np.ndarray, " m"], n: int) -> Int[np.ndarray, " n"]:
    """Rows of n images in random order, except that any consecutive ten from the start are of all classes."""
    count = per_class(labels, n)
    rows = [generator.permutation(np.flatnonzero(labels == label))[:count] for label in range(CLASSES)]
    return np.stack(rows, axis=1).ravel()


def framed(pixels: np.ndarray, size: int) -> Float[np.ndarray, "n size size 3"]:
    """Images of 0 to 255 as colour images in [-1, 1] of one size.

    Of larger images every second, third, ... row and column is kept; smaller ones are enlarged by repeating pixels. The
    rest is a black frame. All pixels are original ones.

    >>> framed(np.full((1, 3, 3, 1), 255), 8)[0, :, :, 0].sum()  # 6 x 6 pixels of 1, and 28 of -1
    np.float32(8.0)
    """
    stride = -(-pixels.shape[1] // size)
    kept = np.asarray(scaling.signed(jnp.asarray(pixels[:, ::stride, ::stride])), np.float32)
    times = size // kept.shape[1]
    large = kept.repeat(times, axis=1).repeat(times, axis=2)
    before = (size - large.shape[1]) // 2
    after = size - large.shape[1] - before
    around = np.pad(large, ((0, 0), (before, after), (before, after), (0, 0)), constant_values=-1)
    return np.broadcast_to(around, (*around.shape[:3], 3)) if around.shape[3] == 1 else around


def regions(variant: str, size: int) -> Bool[np.ndarray, "classes size size"]:
    """The pixels of the patch in an image of each class, if it has one."""
    side, step = -(-5 * size // 32), size // GRID
    places = [divmod(label, GRID) if variant == "patches" else (0, 0) for label in range(CLASSES)]
    found = [data.patch_region((size, size), size=side, position=(step * row, step * column)) for row, column in places]
    return np.stack([np.asarray(region) for region in found])


def drawn(name: str, variant: str, key: Key[Array, ""], config: Config) -> Task:
    """The images of one seed. All variants have the same images in the same order."""
    parts = []
    for images, n, part_key in zip(read(name), (config.n, config.queries), jax.random.split(key), strict=True):
        generator = np.random.default_rng(np.asarray(jax.random.key_data(part_key)))
        rows = balanced(generator, images.labels, n)
        x, y = framed(images.pixels[rows], config.size), images.labels[rows].astype(np.int32)
        chosen = {
            "patch": y == PATCHED,
            "patches": np.full(len(y), True),
            "random patch": generator.random(len(y)) < 0.5,
        }.get(variant, np.full(len(y), False))
        white = regions(variant, config.size)[y] & chosen[:, None, None]
        parts += [
            np.where(white[..., None], np.float32(1), x),
            generator.permutation(y) if variant == "shuffled" else y,
        ]
    return Task(*parts)


def title(name: str, variant: str = "clean") -> str:
    """A data set and its variant in words."""
    short = {"digits": "digits", "cifar10": "CIFAR-10"}.get(name, data.get(name).title)
    return short + {**VARIANTS, **CONTROLS}[variant]
