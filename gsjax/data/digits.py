"""Real handwritten digits that come with scikit-learn: 8 x 8 pixels, no download."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from gsjax import _check
from gsjax.data.dataset import Dataset
from gsjax.data.images import Images

__all__ = ["digit_images", "digits"]


def digits(classes: tuple[int, int] = (3, 8), *, n: int | None = None, key: Key[Array, ""] | None = None) -> Dataset:
    """Two classes of scikit-learn's 8 x 8 handwritten digits, the test part of a set of UCI's.

    From every image the mean image of the whole file (all ten digits, 1797 images) is taken away, and what
    remains is scaled to unit mean square, so that |h^(0)| = 1 in Eq. 1. Without the first a kernel's largest
    eigenvalue is twice as large, and says only that all pages look alike; the second makes its diagonal flat.
    Both are the same for an image whatever is drawn beside it.

    Args:
        classes: the digits labelled -1 and +1, in this order.
        n: how many examples; all of them if None (about 180 a class).
        key: draws the examples and their order; the first n in the order of the file if None.

    Returns:
        x `(n, 8, 8, 1)` and y `(n,)` of -1 and +1, in JAX's default float type.

    Raises:
        ValueError: classes outside 0..9 or equal, n below 1 or above the number of examples there are.

    >>> x, y = digits((3, 8), n=200)
    >>> x.shape, y.shape
    ((200, 8, 8, 1), (200,))
    """
    # Imported here because it takes as long as JAX itself, and only this function wants it.
    from sklearn.datasets import load_digits

    _check.require(
        len(classes) == 2 and len(set(classes)) == 2 and set(classes) <= set(range(10)),
        "classes",
        "two different digits from 0 to 9",
        classes,
    )
    pixels, target = load_digits(return_X_y=True)
    rows = np.flatnonzero(np.isin(target, classes))
    n = len(rows) if n is None else n
    _check.require(1 <= n <= len(rows), "n", f"1 to {len(rows)}, the examples of digits {classes}", n)
    if key is not None:
        rows = rows[jax.random.permutation(key, len(rows))]
    rows = rows[:n]
    centred = pixels[rows] - pixels.mean(axis=0)
    x = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True))
    y = np.where(target[rows] == classes[0], -1, 1)
    return Dataset(jnp.asarray(x.reshape(n, 8, 8, 1), float), jnp.asarray(y, float))


def digit_images() -> Images:
    """All 1,797 of scikit-learn's 8 x 8 handwritten digits as they would be in a file: a stand-in where there is none.

    >>> pixels, labels = digit_images()
    >>> pixels.shape, int(pixels.max()), labels[:3].tolist()
    ((1797, 8, 8, 1), 255, [0, 1, 2])
    """
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    return Images((pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8), target.astype(np.uint8))
