"""Two classes with a spuriously correlated colour, in groups as unequal as those of CelebA."""

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

    `x (n, height, width, 2)` is in [0, 1]; `y (n,)` is -1 and +1, in the dtype of x; `group (n,)` is
    2 [y = +1] + colour.
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
    """Images of one channel, in two classes and two colours, with the group structure of CelebA.

    The groups are like those of hair colour and sex in CelebA (Sagawa et al. 2020). In the frequent class, y = -1, both
    colours are about equally frequent. In the rare class, y = +1, nearly all examples have colour 0; those with colour
    1, group 3, are .85% of all examples. Colour 1 means y = -1 for 98 in 100 examples, and never in group 3. Unlike in
    CelebA, the colour has no noise.

    The function is pure in its key, which determines the images of each group (without replacement) and their order.
    With fixed images it can be vmapped.

    Args:
        key: a key of JAX.
        images: pixels `(m, height, width, 1)`, 0 to 255, and labels `(m,)`, not traced.
        classes: the labels that become y = -1, and those that become y = +1. The default is dresses and coats against
            pullovers of Fashion-MNIST, which are about as hard to tell apart as hair colours in CelebA.
        sizes: the number of images of each group, `(4,)`; by default CelebA's proportions, as many as possible.
        stride: every `stride`-th row and column of pixels is kept, starting with the first.

    Raises:
        ValueError: images that are not `(m, height, width, 1)`; classes that are empty or overlap; sizes that are not
            four positive whole numbers, or exceed the number of images; a `stride` that is not a whole number of at
            least 1.

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
    sides = [_arguments.wholes("classes", side, expected) for side in _arguments.sequence("classes", classes, expected)]
    disjoint = len(sides) == 2 and all(sides) and not set(sides[0]) & set(sides[-1])
    _check.require(disjoint, "classes", expected, classes)
    stride = _check.whole("stride", stride, least=1)
    rows = [np.flatnonzero(np.isin(labels, side)) for side in sides]
    if sizes is None:
        shares = np.array(CELEBA_GROUPS) / sum(CELEBA_GROUPS)
        n = min(len(rows[0]) / shares[:2].sum(), len(rows[1]) / shares[2:].sum())
        sizes = np.floor(n * shares).astype(int).tolist()
    counts = np.array(_arguments.wholes("sizes", sizes, "four positive whole numbers"))
    _check.require(counts.shape == (4,) and (counts > 0).all(), "sizes", "four positive whole numbers", sizes)
    for side, members, wanted in zip(sides, rows, counts.reshape(2, 2).sum(axis=1), strict=True):
        _check.require(wanted <= len(members), "sizes", f"at most {len(members)} images of classes {side}", wanted)

    *class_keys, order_key = jax.random.split(key, 3)
    drawn = [
        jax.random.permutation(class_key, members)[:wanted]
        for class_key, members, wanted in zip(class_keys, rows, counts.reshape(2, 2).sum(axis=1), strict=True)
    ]
    order = jax.random.permutation(order_key, int(counts.sum()))
    group = jnp.repeat(jnp.arange(4), counts, total_repeat_length=int(counts.sum()))[order]
    gray = scaling.fraction(jnp.asarray(pixels[:, ::stride, ::stride, 0])[jnp.concatenate(drawn)[order]])
    return Groups(paint(gray, group % 2), jnp.where(group >= 2, 1, -1).astype(gray.dtype), group)
