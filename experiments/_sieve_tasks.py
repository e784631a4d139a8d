"""Images for the experiment `feature_sieve`: a simple spurious feature beside a complex one, for several networks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int, Key

from experiments import _domino_tasks
from experiments._bounds import expect
from experiments._domino_tasks import EASY, HARD, Half
from gsjax import data, methods
from gsjax.data import Images

VARIANTS = _domino_tasks.VARIANTS
CLEAN = 0.5
"""The correlation of clean data: the simple feature is independent of the label."""


class Task(NamedTuple):
    """The images of several networks; all leaves but the region have an axis of networks first.

    `group` of the batches is 2 (y > 0) + the class of the simple feature. `validation` has the variants "test" and
    "random", and `test` all variants of `data.domino_variants`. `core (height, width)` is the region of the complex
    feature, or None where both features are in the same pixels.
    """

    train: methods.Batch
    validation: dict[str, methods.Batch]
    test: dict[str, methods.Batch]
    core: Bool[np.ndarray, "height width"] | None


def dominoes(
    keys: Key[Array, " networks"], hard: str, easy: str, *, correlation: float, n: int, test: int, stride: int
) -> Task:
    """Dominoes of the image sets `hard`, the core half, and `easy`, as in the experiment `dominoes`.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: `n` or `test` is larger than the images allow.
    """
    halves = Half(hard, HARD[hard]), Half(easy, EASY[easy])
    drawn = _domino_tasks.draw(keys, *halves, correlations=(correlation,), n=n, test=test, stride=stride)
    return Task(drawn.train, drawn.validation, drawn.test, ~drawn.spurious)


def colours(keys: Key[Array, " networks"], images: str, *, correlation: float, n: int, test: int, stride: int) -> Task:
    """Digits below five against the others, in two colours; labels have no noise.

    The variants are those of dominoes. The colour takes the place of the spurious half: it is removed ("core only",
    gray images), or only the colour is left ("spurious only").

    Raises:
        FileNotFoundError: files are missing.
        ValueError: `n` or `test` is larger than the number of images.
    """
    below, above = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
    pieces = _domino_tasks.pieces(Half(images, (below, above)))
    for name, wanted, piece in (("n", n, pieces[0]), ("test", test, pieces[1]), ("test", test, pieces[2])):
        expect(wanted <= len(piece.labels), name, f"at most {len(piece.labels)} images of {images}", wanted)
    train, validation, tested = _program(images, n, test, stride)(keys, jnp.asarray(correlation))
    return Task(train, validation, tested, None)


@functools.lru_cache(maxsize=4)
def _program(name: str, n: int, test: int, stride: int) -> Callable[..., Any]:
    """The compiled function (keys, correlation) -> train, validation, test; images are its constants."""
    below, above = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
    pieces = _domino_tasks.pieces(Half(name, (below, above)))

    def one(key: Key[Array, ""], correlation: Array) -> Any:
        keys = jax.random.split(key, 3)
        train = _coloured(keys[0], pieces[0], n, stride, correlation)
        validation, tested = (
            _variants(key, piece, test, stride, correlation) for key, piece in zip(keys[1:], pieces[1:], strict=True)
        )
        train = train._replace(index=jnp.arange(n))
        return train, {name: validation[name] for name in ("test", "random")}, tested

    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def _variants(key: Key[Array, ""], images: Images, n: int, stride: int, correlation: Array) -> dict[str, methods.Batch]:
    same = _coloured(key, images, n, stride, correlation)
    return {
        "test": same,
        "core only": same._replace(x=data.gray(same.x)),
        "spurious only": same._replace(x=data.blank(same.x)),
        "random": _coloured(key, images, n, stride, CLEAN),
        "core random": _coloured(key, images, n, stride, correlation, label_noise=0.5),
        "reversed": _coloured(key, images, n, stride, 0.0),
    }


def _coloured(
    key: Key[Array, ""], images: Images, n: int, stride: int, correlation: Any, label_noise: float = 0.0
) -> methods.Batch:
    """As many as n images in random order, coloured; the same key gives the same images."""
    chosen: Int[Array, " n"] = jax.random.permutation(jax.random.fold_in(key, 1), len(images.labels))[:n]
    part = Images(*(jnp.asarray(leaf)[chosen] for leaf in images))  # pyright: ignore[reportArgumentType]  traced
    agreement: Any = jnp.asarray(correlation)[None]
    x, y, color, _ = data.colored(key, part, correlations=agreement, label_noise=label_noise, stride=stride)
    return methods.Batch(x, y, 2 * (y > 0) + color)


def features(group: Int[ArrayLike, " n"]) -> dict[str, Int[np.ndarray, " n"]]:
    """The classes, 0 or 1, of both features of images whose complex feature is the label, from their groups.

    >>> {name: labels.tolist() for name, labels in features(jnp.array([0, 1, 2, 3])).items()}
    {'simple': [0, 1, 0, 1], 'complex': [0, 0, 1, 1]}
    """
    return {"simple": np.asarray(group) % 2, "complex": np.asarray(group) // 2}
