"""The 8 x 8 handwritten digits included in scikit-learn, which need no download."""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Key

from gsjax.data.dataset import Dataset
from gsjax.data.images import Images, two_classes

__all__ = ["digit_images", "digits"]


def digits(classes: tuple[int, int] = (3, 8), *, n: int | None = None, key: Key[Array, ""] | None = None) -> Dataset:
    """Two classes of scikit-learn's 8 x 8 handwritten digits, the test part of a UCI data set.

    The mean image of all ten digits is subtracted, and each image is scaled to unit mean square (`scaling.mean_image`).
    An image therefore does not depend on the other selected examples.

    Args:
        classes: the digits labelled -1 and +1, in this order.
        n: the number of examples; None takes all (about 180 per class).
        key: determines the examples and their order; None takes the first n in the order of the file.

    Returns:
        x `(n, 8, 8, 1)` and y `(n,)` of -1 and +1, in JAX's default float type.

    Raises:
        ValueError: classes that are equal or outside 0..9; an n that is not a whole number from 1 to the number of
            examples.

    >>> x, y = digits((3, 8), n=200)
    >>> x.shape, y.shape
    ((200, 8, 8, 1), (200,))
    """
    pixels, target = _file()
    return two_classes(Images(pixels, target), classes, n=n, key=key)


def digit_images() -> Images:
    """All 1,797 of scikit-learn's 8 x 8 handwritten digits as `Images`, a stand-in for data sets that need files.

    >>> pixels, labels = digit_images()
    >>> pixels.shape, int(pixels.max()), labels[:3].tolist()
    ((1797, 8, 8, 1), 255, [0, 1, 2])
    """
    pixels, target = _file()
    return Images((pixels * (255 / 16)).astype(np.uint8), target.astype(np.uint8))


def _file() -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(1797, 8, 8, 1)`, 0 to 16, and digits, as in scikit-learn's file."""
    # Imported here because the import takes as long as that of JAX, and only this function needs it.
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    return pixels.reshape(-1, 8, 8, 1), target
