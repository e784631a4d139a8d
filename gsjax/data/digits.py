"""Real handwritten digits that come with scikit-learn: 8 x 8 pixels, no download."""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Key

from gsjax.data.dataset import Dataset
from gsjax.data.images import Images, two_classes

__all__ = ["digit_images", "digits"]


def digits(classes: tuple[int, int] = (3, 8), *, n: int | None = None, key: Key[Array, ""] | None = None) -> Dataset:
    """Two classes of scikit-learn's 8 x 8 handwritten digits, the test part of a set of UCI's.

    Centred by the mean image of all ten digits and scaled to unit mean square (`scaling.mean_image`); an image is the
    same whatever is drawn beside it.

    Args:
        classes: the digits labelled -1 and +1, in this order.
        n: how many examples; all of them if None (about 180 a class).
        key: draws the examples and their order; the first n in the order of the file if None.

    Returns:
        x `(n, 8, 8, 1)` and y `(n,)` of -1 and +1, in JAX's default float type.

    Raises:
        ValueError: classes outside 0..9 or equal, n that is no whole number, is below 1 or above the number of examples
            there are.

    >>> x, y = digits((3, 8), n=200)
    >>> x.shape, y.shape
    ((200, 8, 8, 1), (200,))
    """
    pixels, target = _file()
    return two_classes(Images(pixels, target), classes, n=n, key=key)


def digit_images() -> Images:
    """All 1,797 of scikit-learn's 8 x 8 handwritten digits as they would be in a file: a stand-in where there is none.

    >>> pixels, labels = digit_images()
    >>> pixels.shape, int(pixels.max()), labels[:3].tolist()
    ((1797, 8, 8, 1), 255, [0, 1, 2])
    """
    pixels, target = _file()
    return Images((pixels * (255 / 16)).astype(np.uint8), target.astype(np.uint8))


def _file() -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(1797, 8, 8, 1)`, 0 to 16, and digits, as in scikit-learn's file."""
    # Imported here because it takes as long as JAX itself, and only this wants it.
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    return pixels.reshape(-1, 8, 8, 1), target
