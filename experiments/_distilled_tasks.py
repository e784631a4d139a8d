"""Data of the experiment `representation_distillation`: a core that tells the class, and a background that does not.

The coordinates of the background are uniform in a range: positive for the student ("id"), negative out of distribution
("ood"), and of both signs for the teacher ("random"). The same key gives the same core with every range.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments._bounds import expect
from experiments._domino_tasks import Half, pieces
from gsjax import data, methods
from gsjax.data import Images, structured
from gsjax.data.structured import Uniform

RANGES = {"id": Uniform(0.0, 1.0), "ood": Uniform(-1.0, 0.0), "random": Uniform(-1.0, 1.0)}


class Part(NamedTuple):
    """Examples with the coordinates of their backgrounds: one per feature, or three channels per square of a frame."""

    batch: methods.Batch
    background: Float[Array, "n background channels"]


class Task(NamedTuple):
    """Examples of several networks; all leaves have an axis of networks first.

    Attributes:
        teacher: training examples of the teacher, with random backgrounds.
        student: training examples of the student, by range: "id" and "random".
        bank: held-out examples with random backgrounds, on which probes of the background are fitted.
        test: other held-out examples, the same in all ranges.
    """

    teacher: Part
    student: dict[str, Part]
    bank: Part
    test: dict[str, Part]


Draw = Callable[[str, Key[Array, ""], int, Uniform], Part]
"""A part ("teacher", "student", "bank" or "test") from a key, a number of examples and the range of the background."""


def parts(draw: Draw, key: Key[Array, ""], n: int, test: int) -> Task:
    """The task of one network."""
    keys = jax.random.split(key, 4)
    return Task(
        draw("teacher", keys[0], n, RANGES["random"]),
        {name: draw("student", keys[1], n, RANGES[name]) for name in ("id", "random")},
        draw("bank", keys[2], test, RANGES["random"]),
        {name: draw("test", keys[3], test, each) for name, each in RANGES.items()},
    )


def features(keys: Key[Array, " networks"], background: int, *, core: int, n: int, test: int) -> Task:
    """The structured model in the basis of its features, with this number of background features."""

    def draw(part: str, key: Key[Array, ""], count: int, distribution: Uniform) -> Part:
        del part
        found = structured.sample(
            key,
            count,
            core=core,
            background=background,
            dimension=core + background,
            background_distribution=distribution,
        )
        return Part(methods.Batch(found.x, found.y), found.z[:, core:, None])

    return jax.jit(jax.vmap(lambda key: parts(draw, key, n, test)))(keys)


def frames(keys: Key[Array, " networks"], block: int, name: str, *, n: int, test: int, stride: int, width: int) -> Task:
    """Images of ten classes in a coloured frame; teacher and student have different images.

    Args:
        keys: one per network.
        block: the frame consists of squares of this size, each with its own colour.
        name: of the image set.
        n: training images.
        test: test images, and as many to fit probes.
        stride: every `stride`-th row and column of pixels is kept.
        width: of the frame, in pixels.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: `n` or `test` is larger than the images allow.
    """
    whole, bank, held_out = pieces(Half(name, (tuple(range(10)), ())))
    halves = (Images(*(leaf[start::2] for leaf in whole)) for start in (0, 1))
    images: dict[str, Images] = dict(
        zip(("teacher", "student", "bank", "test"), (*halves, bank, held_out), strict=True)
    )
    for part, piece in images.items():
        label, count = ("n", n) if part in ("teacher", "student") else ("test", test)
        expect(count <= len(piece.labels), label, f"at most {len(piece.labels)} images of {name}", count)
    side = images["test"].pixels[0, ::stride, ::stride].shape[0]
    layout = blocks(side, width, block)

    def draw(part: str, key: Key[Array, ""], count: int, distribution: Uniform) -> Part:
        pixels, labels = images[part]
        order_key, color_key = jax.random.split(key)
        rows = jax.random.permutation(order_key, len(labels))
        low, high = distribution
        shape = (count, int(layout.max()) + 1, 3)
        colors = jax.random.uniform(color_key, shape, minval=low, maxval=high)
        chosen = jnp.asarray(pixels[:, ::stride, ::stride])[rows[:count]]
        batch = methods.Batch(framed(data.scaling.signed(chosen), colors, layout), jnp.asarray(labels)[rows[:count]])
        return Part(batch._replace(y=batch.y.astype(jnp.int32)), colors)

    return jax.jit(jax.vmap(lambda key: parts(draw, key, n, test)))(keys)


@functools.cache
def blocks(side: int, width: int, block: int) -> Int[np.ndarray, "height width"]:
    """The number of the square that covers each pixel of the frame, counted from 0, and -1 in the image.

    >>> blocks(2, 1, 2)
    array([[ 0,  0,  1,  1],
           [ 0, -1, -1,  1],
           [ 2, -1, -1,  3],
           [ 2,  2,  3,  3]])
    """
    number = np.arange(side + 2 * width) // block
    square = number[:, None] * (number.max() + 1) + number
    inside = np.zeros(square.shape, bool)
    inside[width : width + side, width : width + side] = True
    layout = np.full(square.shape, -1)
    layout[~inside] = np.unique(square[~inside], return_inverse=True)[1]
    return layout


def framed(
    image: Float[Array, "n side side c"], colors: Float[Array, "n squares 3"], layout: Int[np.ndarray, "height width"]
) -> Float[Array, "n height width 3"]:
    """Images with one or three channels, in [-1, 1], in a frame whose squares have these colours, in [-1, 1]."""
    rows = np.flatnonzero((layout < 0).any(axis=1))
    inside = slice(rows[0], rows[-1] + 1)
    canvas = colors[:, np.maximum(layout, 0)]
    return canvas.at[:, inside, inside].set(jnp.broadcast_to(image, (*image.shape[:-1], 3)))
