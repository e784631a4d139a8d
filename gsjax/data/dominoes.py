"""Dominoes: two images in one, of which each predicts the label; and a patch that reveals a class.

The half by which one wants the label to be predicted is called core, the other one spurious. A spurious half is harmful
if it is easier to learn than the core half, and benign if it is harder: exchanging the image sets exchanges the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from gsjax import _check
from gsjax.data import _arguments, scaling
from gsjax.data.images import Images

__all__ = ["Dominoes", "domino_variants", "dominoes", "hide", "most_dominoes", "patch_region", "patched"]

_PAIRS = "two sequences of equally many classes, two or more, each a label or several, no label twice in a half"
# The classes of a half: each a label, or several.
_Classes = Sequence[int | Sequence[int]]


class Dominoes(NamedTuple):
    """Dominoes; with a batch of keys, every leaf has the axes of the batch first.

    Attributes:
        x: `(n, height, width, channels)` in [-1, 1]; black is -1.
        y: labels, `(n,)`: -1.0 and +1.0 for two classes, else class indices from 0.
        attribute: the class of the spurious half, `(n,)`, an index from 0: the index of the label that it suggests.
        core_rows: the image in the core half, as a row of its image set, `(n,)`.
        spurious_rows: the image in the spurious half, as a row of its image set, `(n,)`.
        core: the pixels of the core half, `(height, width)`.
        spurious: the pixels of the spurious half, `(height, width)`.
    """

    x: Float[Array, "n height width channels"]
    y: Shaped[Array, " n"]
    attribute: Int[Array, " n"]
    core_rows: Int[Array, " n"]
    spurious_rows: Int[Array, " n"]
    core: Bool[Array, "height width"]
    spurious: Bool[Array, "height width"]


def dominoes(
    key: Key[Array, ""],
    core: Images,
    spurious: Images,
    *,
    n: int | None = None,
    classes: tuple[_Classes, _Classes] = ((0, 1), (0, 1)),
    correlation: float | Float[Array, ""] = 0.95,
    label_noise: float | Float[Array, ""] = 0.0,
    arrangement: str = "vertical",
    core_first: bool = False,
    stride: int = 1,
) -> Dominoes:
    """Pairs of images, one from each of two sets, stacked one above the other or side by side.

    Labels are equally frequent (up to one example) and in random order. Given its label, the class of the spurious half
    is the label's with probability `correlation`, and the class of the core half with probability 1 - `label_noise`,
    independently of each other; a half that disagrees is of any of the other classes with equal probability. With k
    classes, a correlation of 1/k thus makes the spurious half independent of the label, and with a correlation of 0 it
    always disagrees. For two classes, Pearson's correlation of label and attribute is 2 `correlation` - 1.

    Within a class, images are drawn without replacement; if a class runs out of images, which chance can cause in a
    half that does not always agree, they are used again in the same order.

    Murali et al. 2023 use the labels 0 and 1 of each set, one above the other with the core half below, a correlation
    of 1 and no label noise. With a correlation of 1, nothing in the training set says which half is core, and two of
    the four groups are empty; the default leaves 5 in 100 examples that tell the halves apart.

    Both halves get the larger height, the larger width and the larger number of channels of the two sets. A smaller
    image is first enlarged by the largest whole number for which it fits, by repeating pixels, and then surrounded by
    black; gray becomes equal red, green and blue. All pixels are therefore original pixels (the published code
    interpolates to 32 x 32 instead).

    The function is pure in its key. Under `jit` and `vmap`, pixels and probabilities can be traced, labels cannot.

    Args:
        key: determines labels, images and their order.
        core: pixels `(m, height, width, channels)`, 0 to 255, and labels `(m,)` of the core half.
        spurious: the same for the spurious half; it can be the same set.
        n: the number of examples; by default and at most the number of classes times the number of images in the
            smallest of the classes of both halves.
        classes: the classes of the core half and those of the spurious half that stand for the same labels, in order:
            the first of two for -1, the second for +1. Each is a label of the images, or a sequence of labels.
        correlation: the probability that the spurious half agrees with the label, in [0, 1].
        label_noise: the probability that the core half disagrees with the label, in [0, 1].
        arrangement: "vertical", one above the other, or "horizontal", side by side.
        core_first: whether the core half is above, or on the left.
        stride: every `stride`-th row and column of pixels is kept, starting with the first.

    Raises:
        ValueError: images that are not `(m, height, width, channels)` with a whole label each, or labels that are
            traced; numbers of channels that differ, neither of them 1; classes that are not two sequences of equally
            many classes, repeat a label or have no images; a probability outside [0, 1]; an `n` below the number of
            classes or too large; an unknown `arrangement`; a `stride` that is not a whole number of at least 1.

    >>> images = Images(np.zeros((20, 28, 28, 1), np.uint8), np.arange(20) % 2)
    >>> sample = dominoes(jax.random.key(0), images, images, n=8, correlation=1.0)
    >>> sample.x.shape, sorted(sample.y.tolist())[3:5], bool((sample.attribute == (sample.y > 0)).all())
    ((8, 56, 28, 1), [-1.0, 1.0], True)
    >>> int(sample.spurious[:28].sum()), int(sample.core[28:].sum())
    (784, 784)
    """
    _arguments.key("key", key)
    tables, counts, most = _checked(core, spurious, classes)
    agreement = _arguments.probabilities("correlation", correlation).astype(float)
    noise = _arguments.probabilities("label_noise", label_noise).astype(float)
    _check.choice("arrangement", arrangement, ("vertical", "horizontal"))
    core_first, stride = _check.flag("core_first", core_first), _check.whole("stride", stride, least=1)
    k = len(counts[0])
    n = most if n is None else _check.whole("n", n, least=k)
    _check.require(n <= most, "n", f"at most {most}, the number of examples", n)

    # One call draws all numbers, since compiling it takes longer than all the rest.
    sizes = np.cumsum([0, *[n] * 5, *(table.size for table in tables)])
    drawn = jax.random.uniform(key, (int(sizes[-1]),))
    order, *chances, core_order, spurious_order = (drawn[a:b] for a, b in itertools.pairwise(sizes.tolist()))
    label = jnp.argsort(order) % k
    core_class = _agreeing(chances[0], chances[1], label, 1 - noise, k)
    spurious_class = _agreeing(chances[2], chances[3], label, agreement, k)
    core_rows = _taken(core_order, tables[0], counts[0], core_class)
    spurious_rows = _taken(spurious_order, tables[1], counts[1], spurious_class)

    shape = tuple(max(extents) for extents in zip(core.pixels.shape[1:], spurious.pixels.shape[1:], strict=True))
    halves = [
        scaling.signed(_fitted(jnp.asarray(images.pixels)[rows], shape)[:, ::stride, ::stride])
        for images, rows in ((core, core_rows), (spurious, spurious_rows))
    ]
    # The regions are stacked like the images.
    regions = [jnp.full(halves[0].shape[1:3], is_core) for is_core in (True, False)]
    order = (0, 1) if core_first else (1, 0)
    axis = 0 if arrangement == "vertical" else 1
    x = jnp.concatenate([halves[half] for half in order], axis=1 + axis)
    region = jnp.concatenate([regions[half] for half in order], axis=axis)
    y = jnp.where(label == 1, 1, -1).astype(x.dtype) if k == 2 else label
    return Dominoes(x, y, spurious_class, core_rows, spurious_rows, region, ~region)


def domino_variants(
    key: Key[Array, ""],
    core: Images,
    spurious: Images,
    *,
    correlation: float | Float[Array, ""] = 0.95,
    label_noise: float | Float[Array, ""] = 0.0,
    **options: Any,
) -> dict[str, Dominoes]:
    """Dominoes by name, for testing: as in training, and with either half blank, random or reversed.

    All have the same labels. Except for "core random", all have the same images in the core half, unless it is blank.

    - "test": as in training.
    - "core only": the spurious half is black; accuracy on it is the published core-only accuracy.
    - "spurious only": the core half is black.
    - "random": the spurious half is independent of the label.
    - "core random": the core half is independent of the label.
    - "reversed": the spurious half always disagrees with the label.

    Args:
        key: determines labels, images and their order.
        core: as for `dominoes`.
        spurious: as for `dominoes`.
        correlation: that of "test", "core only", "spurious only" and "core random".
        label_noise: that of all but "core random". Core-only accuracy cannot exceed 1 - `label_noise`.
        **options: the other arguments of `dominoes`.

    Raises:
        ValueError: what `dominoes` raises.

    >>> images = Images(np.full((20, 8, 8, 1), 255, np.uint8), np.arange(20) % 2)
    >>> found = domino_variants(jax.random.key(0), images, images, n=4)
    >>> {name: float(sample.x.mean()) for name, sample in found.items() if "only" in name}
    {'core only': 0.0, 'spurious only': 0.0}
    """

    def draw(correlation: Any, label_noise: Any) -> Dominoes:
        return dominoes(key, core, spurious, correlation=correlation, label_noise=label_noise, **options)

    same = draw(correlation, label_noise)
    chance = 1 / len(options.get("classes", ((0, 1),))[0])
    return {
        "test": same,
        "core only": same._replace(x=hide(same.x, same.spurious)),
        "spurious only": same._replace(x=hide(same.x, same.core)),
        "random": draw(chance, label_noise),
        "core random": draw(correlation, 1 - chance),
        "reversed": draw(0.0, label_noise),
    }


def most_dominoes(core: Images, spurious: Images, classes: tuple[_Classes, _Classes]) -> int:
    """The largest n of `dominoes`: the number of classes times the number of images in the smallest class.

    Raises:
        ValueError: images or classes that `dominoes` does not accept.

    >>> images = Images(np.zeros((5, 8, 8, 1), np.uint8), np.array([0, 0, 1, 1, 1]))
    >>> most_dominoes(images, images, ((0, 1), (0, 1)))
    4
    """
    return _checked(core, spurious, classes)[2]


def hide(
    x: Float[Array, "*n height width channels"], region: Bool[Array, "height width"], *, value: float = -1.0
) -> Float[Array, "*n height width channels"]:
    """Images `(..., height, width, channels)` with `value` in all pixels of a region `(height, width)`.

    The default is black in images in [-1, 1]; 0 is their mid-gray.

    Raises:
        ValueError: a region that is not of True and False, or not of the images' height and width; a value that is not
            a finite number.

    >>> hide(jnp.ones((1, 1, 2, 1)), jnp.array([[True, False]])).ravel().tolist()
    [-1.0, 1.0]
    """
    region = jnp.asarray(region)
    fits = jnp.ndim(x) >= 3 and region.shape == jnp.shape(x)[-3:-1] and region.dtype == bool
    got = f"{_arguments.shown(region)} for images of shape {jnp.shape(x)}"
    _check.require(fits, "region", "True and False for each pixel (height, width) of the images", got)
    _check.number("value", value)
    return jnp.where(region[..., None], jnp.asarray(value, x.dtype), x)


def patched(
    images: Images, label: int, *, size: int = 5, position: tuple[int, int] = (0, 0), others: bool = False
) -> Images:
    """Images with a white patch in one class only, which it reveals.

    Murali et al. 2023 give the class with label 1 a patch of 5 x 5 pixels in the upper left corner of images of 32 x 32
    pixels. The patch can be in images of a half of dominoes, too.

    Args:
        images: pixels `(n, height, width, channels)`, 0 to 255, and labels `(n,)`.
        label: the label of the class with the patch.
        size: height and width of the patch in pixels.
        position: the row and the column of its upper left pixel.
        others: whether all other classes have the patch instead; this reverses what it says.

    Raises:
        ValueError: images that are not `(n, height, width, channels)` with a whole label each; a `label` that no image
            has; a patch that is not within the image.

    >>> images = Images(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]))
    >>> patched(images, 1, size=2).pixels.sum(axis=(1, 2, 3)).tolist()
    [0, 1020]
    """
    pixels, labels = _arguments.images("images", images)
    label = _check.whole("label", label)
    _check.require((labels == label).any(), "label", "the label of an image", label)
    region = patch_region(pixels.shape[1:3], size=size, position=position)
    chosen = ((labels != label) if _check.flag("others", others) else (labels == label))[:, None, None, None]
    # NumPy arrays stay NumPy arrays: a complete image set is several times larger in the device's float type.
    array: Any = np if _check.is_concrete(images) and isinstance(pixels, np.ndarray) else jnp
    return Images(
        array.where(chosen & array.asarray(region)[..., None], array.asarray(255, pixels.dtype), pixels), labels
    )


def patch_region(
    shape: tuple[int, int], *, size: int = 5, position: tuple[int, int] = (0, 0)
) -> Bool[Array, "height width"]:
    """The pixels of the patch of `patched`, in images with height and width `shape`.

    Raises:
        ValueError: a patch that is not within the image; arguments that are not whole numbers.

    >>> patch_region((2, 3), size=1, position=(0, 1)).tolist()
    [[False, True, False], [False, False, False]]
    """
    extents = _arguments.wholes("shape", shape, "two whole numbers, height and width")
    _check.require(len(extents) == 2 and min(extents) > 0, "shape", "two whole numbers, height and width", shape)
    size = _check.whole("size", size, least=1)
    starts = _arguments.wholes("position", position, "two whole numbers, row and column")
    _check.require(len(starts) == 2, "position", "two whole numbers, row and column", position)
    inside = all(start >= 0 and start + size <= extent for start, extent in zip(starts, extents, strict=True))
    where = f"a patch within {extents[0]} x {extents[1]} pixels"
    _check.require(inside, "position", where, f"{size} x {size} pixels at {starts}")
    rows, columns = (
        (jnp.arange(extent) >= start) & (jnp.arange(extent) < start + size)
        for start, extent in zip(starts, extents, strict=True)
    )
    return rows[:, None] & columns


def _checked(core: Images, spurious: Images, classes: Any) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """For both halves, the rows of the images of each class; and the largest number of examples.

    The rows, `(k, most)`, of a class are repeated to equal numbers. The second array, `(k,)`, has the true numbers.
    """
    halves = [_arguments.sequence("classes", half, _PAIRS) for half in _arguments.sequence("classes", classes, _PAIRS)]
    _check.require(len(halves) == 2 and len(halves[0]) == len(halves[1]) >= 2, "classes", _PAIRS, classes)
    tables, counts = [], []
    for name, images, half in zip(("core", "spurious"), (core, spurious), halves, strict=True):
        pixels, labels = _arguments.images(name, images)
        _check.require(_check.is_concrete(labels), name, "labels that are not traced", "traced ones")
        _check.require(0 not in pixels.shape, name, "images with pixels", f"shape {pixels.shape}")
        groups = [_arguments.wholes("classes", one if np.ndim(one) else (one,), _PAIRS) for one in half]
        flat = [label for group in groups for label in group]
        _check.require(all(groups) and len(set(flat)) == len(flat), "classes", _PAIRS, classes)
        rows = [np.flatnonzero(np.isin(np.asarray(labels), group)) for group in groups]
        counts.append(np.array([len(part) for part in rows]))
        _check.require(counts[-1].all(), "classes", f"labels of images of the {name} half", half)
        tables.append(np.stack([np.resize(part, counts[-1].max()) for part in rows]))
    channels = {images.pixels.shape[3] for images in (core, spurious)}
    _check.require(len(channels - {1}) < 2, "spurious", "as many channels as core, or 1", sorted(channels))
    return tables, counts, len(halves[0]) * int(np.concatenate(counts).min())


def _agreeing(
    chance: Float[Array, " n"], other: Float[Array, " n"], label: Int[Array, " n"], probability: Array, k: int
) -> Int[Array, " n"]:
    """Classes that agree with the label with a probability, and are otherwise any of the others.

    Both random numbers are uniform in [0, 1).
    """
    shift = 1 + jnp.minimum((other * (k - 1)).astype(int), k - 2)  # the product can be rounded up
    return jnp.where(chance < probability, label, (label + shift) % k)


def _taken(
    chance: Float[Array, " size"], table: Int[np.ndarray, "k most"], counts: np.ndarray, wanted: Int[Array, " n"]
) -> Int[Array, " n"]:
    """Rows of images of the wanted classes, which are rows of the table, each class in random order, again and again.

    `chance`, one number for each entry of the table, is uniform in [0, 1) and determines the order.
    """
    repeated = np.arange(table.shape[1]) >= counts[:, None]
    order = jnp.argsort(jnp.where(repeated, 1, chance.reshape(table.shape)), axis=1)
    # How many examples of the same class come before each one.
    rank = jnp.cumsum(jax.nn.one_hot(wanted, len(table), dtype=int), axis=0)[jnp.arange(len(wanted)), wanted] - 1
    return jnp.asarray(table)[wanted, order[wanted, rank % jnp.asarray(counts)[wanted]]]


def _fitted(pixels: Array, shape: tuple[int, ...]) -> Array:
    """Images enlarged by a whole number and surrounded by black, with the height, width and channels of `shape`."""
    factor = min(shape[0] // pixels.shape[1], shape[1] // pixels.shape[2])
    large = jnp.repeat(jnp.repeat(pixels, factor, axis=1), factor, axis=2)
    missing = [extent - got for extent, got in zip(shape[:2], large.shape[1:3], strict=True)]
    around = jnp.pad(large, ((0, 0), *((gap // 2, gap - gap // 2) for gap in missing), (0, 0)))
    return jnp.broadcast_to(around, (*around.shape[:3], shape[2]))
