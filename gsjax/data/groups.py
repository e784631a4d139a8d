"""Two classes with a colour that goes with them spuriously, in groups as unequal as CelebA's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from gsjax import _check
from gsjax.data import _arguments, scaling
from gsjax.data.coloring import paint
from gsjax.data.images import Images

__all__ = ["CELEBA_GROUPS", "Groups", "colored_groups"]

# Sagawa et al. 2020: dark-haired women, dark-haired men, blond women and blond men of CelebA's training split.
CELEBA_GROUPS = (71_629, 66_874, 22_880, 1_387)


class Groups(NamedTuple):
    """Examples in groups.

    `x (n, height, width, 2)` in [0, 1]; `y (n,)`, -1 and +1, in its dtype; `group (n,)`, 2 [y = +1] + colour.
    """

    x: Float[Array, "n height width 2"]
    y: Float[Array, " n"]
    group: Int[Array, " n"]


def colored_groups(
    key: Key[Array, ""],
    images: Images,
    *,
    classes: tuple[Sequence[int], Sequence[int]] = ((3, 4), (2,)),
    sizes: Sequence[int] | None = None,
    stride: int = 2,
) -> Groups:
    """Images of one channel, in two classes and two colours, with CelebA's structure of groups.

    As hair in CelebA (Sagawa et al. 2020): of the frequent class, y = -1, both colours are about as frequent; of the
    rare one, y = +1, nearly all have colour 0, and .85% of all examples are what is left, group 3. Whoever takes colour
    1 for y = -1 is right 98 times in 100 and always wrong on that group. Unlike hair the colour is without noise.

    Pure in its key, which draws the images of each group, without replacement, and their order; with fixed images it
    can be vmapped.

    Args:
        key: random numbers.
        images: pixels `(m, height, width, 1)`, 0 to 255, and labels `(m,)`, not traced.
        classes: the labels that become y = -1, and those that become y = +1. By default dresses and
            coats against pullovers of Fashion-MNIST, which are about as hard to tell apart as CelebA's hair: a small
            network trained on equal groups is right on 90%, Group DRO there on 92%.
        sizes: how many images of each group, `(4,)`; by default in CelebA's proportions as many as the images permit.
        stride: every `stride`-th row and column of pixels is kept, from the first on.

    Raises:
        ValueError: images that are not `(m, height, width, 1)`, classes that are empty or overlap, sizes that are not
            four positive whole numbers, or more than there are images; a `stride` that is no whole number of at least
            1.

    >>> images = Images(np.zeros((1000, 28, 28, 1), np.uint8), np.repeat([2, 3], 500))
    >>> sample = colored_groups(jax.random.key(0), images)
    >>> sample.x.shape, np.bincount(sample.group).tolist()
    ((586, 14, 14, 2), [258, 241, 82, 5])
    """
    _arguments.key("key", key)
    _check.require(_check.is_concrete(images), "images", "arrays that are not traced", "traced ones")
    pixels, labels = map(np.asarray, _arguments.pair("images", images, "Images: pixels and labels, two arrays"))
    _check.require(pixels.ndim == 4 and pixels.shape[3] == 1, "images", "pixels (m, height, width, 1)", pixels.shape)
    _arguments.images("images", images)
    expected = "two sequences of labels, none in both"
    of_each = [_arguments.wholes("classes", of, expected) for of in _arguments.sequence("classes", classes, expected)]
    apart = len(of_each) == 2 and all(of_each) and not set(of_each[0]) & set(of_each[-1])
    _check.require(apart, "classes", expected, classes)
    stride = _check.whole("stride", stride, least=1)
    rows = [np.flatnonzero(np.isin(labels, of)) for of in of_each]
    if sizes is None:
        shares = np.array(CELEBA_GROUPS) / sum(CELEBA_GROUPS)
        n = min(len(rows[0]) / shares[:2].sum(), len(rows[1]) / shares[2:].sum())
        sizes = np.floor(n * shares).astype(int).tolist()
    counts = np.array(_arguments.wholes("sizes", sizes, "four positive whole numbers"))
    _check.require(counts.shape == (4,) and (counts > 0).all(), "sizes", "four positive whole numbers", sizes)
    for of, here, wanted in zip(of_each, rows, counts.reshape(2, 2).sum(axis=1), strict=True):
        _check.require(wanted <= len(here), "sizes", f"at most {len(here)} images of classes {of}", wanted)

    *class_keys, order_key = jax.random.split(key, 3)
    drawn = [
        jax.random.permutation(class_key, here)[:wanted]
        for class_key, here, wanted in zip(class_keys, rows, counts.reshape(2, 2).sum(axis=1), strict=True)
    ]
    order = jax.random.permutation(order_key, int(counts.sum()))
    group = jnp.repeat(jnp.arange(4), counts, total_repeat_length=int(counts.sum()))[order]
    gray = scaling.fraction(jnp.asarray(pixels[:, ::stride, ::stride, 0])[jnp.concatenate(drawn)[order]])
    return Groups(paint(gray, group % 2), jnp.where(group >= 2, 1, -1).astype(gray.dtype), group)
