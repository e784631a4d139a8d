"""Colouring: adds an easier feature that agrees with the label with a given probability (Colored MNIST)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from gsjax import _check
from gsjax.data import _arguments, scaling
from gsjax.data.images import Images

__all__ = ["Colored", "blank", "colored", "gray", "grayscale", "paint"]


class Colored(NamedTuple):
    """Coloured images; with a batch of keys, every leaf has the axes of the batch before n.

    Attributes:
        x: `(n, height, width, 2)` in [0, 1]; one channel has the image and the other is zero.
        y: labels -1 and +1 after noise, `(n,)`, in the dtype of x.
        color: the channel with the image, 0 or 1, `(n,)`; colour 1 agrees with y = +1.
        environment: the index of the correlation of each image, `(n,)`.
    """

    x: Float[Array, "n height width 2"]
    y: Float[Array, " n"]
    color: Int[Array, " n"]
    environment: Int[Array, " n"]


def colored(
    key: Key[Array, ""],
    images: Images,
    *,
    correlations: Sequence[float] = (0.8, 0.9),
    label_noise: float = 0.25,
    positive: Sequence[int] = (0, 1, 2, 3, 4),
    stride: int = 2,
) -> Colored:
    """Colored MNIST (Arjovsky et al. 2019, Section 5.1), for any images with one channel.

    y is +1 for the classes `positive` and -1 for all others, and is then flipped with probability `label_noise`. Images
    are assigned at random to environments of equal size (up to one image). In environment e the colour agrees with the
    noisy label with probability `correlations[e]`. The digit thus predicts y with accuracy 1 - label_noise in every
    environment, and the colour with accuracy `correlations[e]`. The defaults give the published training set, and
    `correlations=(0.1,)` gives the published test set.

    The function is pure in its key: `jax.vmap(lambda key: colored(key, images))(keys)` colours the same images for
    every seed. This takes `8 n height width / stride^2` bytes per seed in single precision. To save memory, keep one
    copy of the pixels and `paint` them with the colours of each seed.

    Args:
        key: determines environments, noise and colours.
        images: pixels `(n, height, width, 1)`, 0 to 255, and labels `(n,)`; the order is kept.
        correlations: the probability of agreement in each environment, in [0, 1].
        label_noise: the probability of a flipped label, in [0, 1].
        positive: the classes with y = +1; at least one image, and not all, must belong to them.
        stride: every `stride`-th row and column of pixels is kept, starting with the first.

    Raises:
        ValueError: images that are not `(n, height, width, 1)`, a probability outside [0, 1], a single number instead
            of a sequence, no environment or more environments than images, classes that make all labels equal, or a
            `stride` that is not a whole number of at least 1.

    >>> import numpy as np
    >>> images = Images(np.full((4, 28, 28, 1), 255, np.uint8), np.array([3, 8, 1, 9]))
    >>> sample = colored(jax.random.key(0), images, label_noise=0.0, correlations=(1.0,))
    >>> sample.x.shape, sample.y.tolist(), sample.color.tolist()
    ((4, 14, 14, 2), [1.0, -1.0, 1.0, -1.0], [1, 0, 1, 0])
    """
    _arguments.key("key", key)
    pixels, labels = _arguments.images("images", images)
    n = len(pixels)
    _check.require(pixels.shape[3] == 1, "images", "pixels of one channel (n, height, width, 1)", pixels.shape)
    agreement = _arguments.probabilities("correlations", correlations, axes=1).astype(float)
    noise = _arguments.probabilities("label_noise", label_noise).astype(float)
    _check.require(1 <= len(agreement) <= n, "correlations", f"1 to {n} numbers for {n} images", len(agreement))
    stride = _check.whole("stride", stride, least=1)
    positive = _arguments.wholes("positive", positive) if _check.is_concrete(positive) else positive
    clean = jnp.isin(labels, jnp.asarray(positive, int))
    _check.require(clean.any() & ~clean.all(), "positive", "some of the labels, not all or none", positive)

    environment_key, label_key, color_key = jax.random.split(key, 3)
    environment = jax.random.permutation(environment_key, jnp.arange(n) % len(agreement))
    label = clean ^ jax.random.bernoulli(label_key, noise, (n,))
    agree = jax.random.bernoulli(color_key, agreement[environment])
    color = (label == agree).astype(int)
    x = paint(scaling.fraction(pixels[:, ::stride, ::stride, 0]), color)
    return Colored(x, jnp.where(label, 1, -1).astype(x.dtype), color, environment)


def paint(image: Float[Array, "*n height width"], color: Int[Array, "*n"]) -> Float[Array, "*n height width 2"]:
    """Puts images `(n, height, width)` into channel `color (n,)`, 0 or 1, of two channels; the other is zero.

    Raises:
        ValueError: colours that are not whole numbers, not one per image, or not 0 or 1.

    >>> paint(jnp.ones((1, 1, 3)), jnp.array([1]))[0, 0].tolist()
    [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    """
    image, color = jnp.asarray(image), jnp.asarray(color)
    each = image.ndim >= 2 and color.shape == image.shape[:-2] and jnp.issubdtype(color.dtype, jnp.integer)
    expected = "whole numbers, one for each image (..., height, width)"
    _check.require(each, "color", expected, f"{_arguments.shown(color)} for images of shape {image.shape}")
    _check.require(((color == 0) | (color == 1)).all(), "color", "0 or 1 for each image", "others")
    return image[..., None] * jax.nn.one_hot(color, 2, dtype=image.dtype)[..., None, None, :]


def grayscale(x: Float[Array, "*n height width 2"]) -> Float[Array, "*n height width 1"]:
    """The sum of the two channels, `(n, height, width, 1)`: the input of the oracle, which cannot use the colour.

    Raises:
        ValueError: a number of channels other than two.

    >>> grayscale(paint(jnp.ones((1, 1, 3)), jnp.array([1]))).shape
    (1, 1, 3, 1)
    """
    _check.require(jnp.ndim(x) >= 3 and jnp.shape(x)[-1] == 2, "x", "(..., height, width, 2)", f"shape {jnp.shape(x)}")
    return jnp.asarray(x).sum(axis=-1, keepdims=True)


def gray(x: Float[Array, "*n height width 2"]) -> Float[Array, "*n height width 2"]:
    """Images without colour: half of the image in each of both channels, `(n, height, width, 2)`.

    These are the gray images of Pezeshki et al. 2021, Fig. 3.

    Raises:
        ValueError: a number of channels other than two.

    >>> gray(paint(jnp.ones((1, 1, 2)), jnp.array([1])))[0, 0].tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    return jnp.broadcast_to(grayscale(x) / 2, x.shape)


def blank(x: Float[Array, "*n height width 2"]) -> Float[Array, "*n height width 2"]:
    """Colours without images, `(n, height, width, 2)`: every pixel is the mean of all images, in the image's colour.

    `blank(x)` are the coloured and `blank(gray(x))` the gray blanks of Pezeshki et al. 2021, Fig. 3. The pixel value is
    one constant, the mean over all pixels of all images. The colour of an image is the share of each channel in its
    light; a black image counts as gray.

    >>> x = paint(jnp.array([[[0.2, 0.4]], [[0.4, 0.8]]]), jnp.array([1, 0]))
    >>> blank(x)[:, 0].tolist()
    [[[0.0, 0.45], [0.0, 0.45]], [[0.45, 0.0], [0.45, 0.0]]]
    """
    light = x.sum(axis=(-3, -2), keepdims=True)
    total = light.sum(axis=-1, keepdims=True)
    shares = jnp.where(total > 0, light / jnp.where(total > 0, total, 1), 0.5)
    return jnp.broadcast_to(grayscale(x).mean(axis=(-4, -3, -2), keepdims=True) * shares, x.shape)
