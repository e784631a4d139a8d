"""Scaling of pixels to network inputs, as in published recipes and as the theory requires."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

__all__ = ["Standard", "fraction", "imagenet", "mean_image", "signed", "standard"]

# Means and standard deviations of ImageNet's channels.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Standard(NamedTuple):
    """The mean and the standard deviation of every channel, `(channels,)`, in units of the range of pixels.

    >>> pixels = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    >>> standard(pixels)(pixels).ravel().tolist()
    [-1.0, 1.0]
    """

    mean: Float[np.ndarray, " channels"]
    deviation: Float[np.ndarray, " channels"]

    def __call__(self, pixels: Shaped[np.ndarray, "*n channels"]) -> Float[Array, "*n channels"]:
        """Scales pixels, 0 to 255, in float32; the images that determined the scaling get mean 0 and deviation 1."""
        scaled = np.asarray(pixels).astype(np.float32) / 255
        return jnp.asarray((scaled - self.mean) / self.deviation, jnp.float32)


def fraction(pixels: Shaped[Array | np.ndarray, "*n"]) -> Float[Array, "*n"]:
    """Pixels, 0 to 255, scaled to [0, 1], in JAX's default float type; they are not centred.

    >>> fraction(np.array([0, 255], np.uint8)).tolist()
    [0.0, 1.0]
    """
    return jnp.asarray(pixels) / jnp.asarray(255, float)


def signed(pixels: Shaped[Array | np.ndarray, "*n"]) -> Float[Array, "*n"]:
    """Pixels, 0 to 255, scaled to [-1, 1], in JAX's default float type; they are not centred.

    NumPy arrays are scaled by NumPy and JAX arrays by JAX, which can differ in the last bit.

    >>> signed(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]
    """
    return jnp.asarray(pixels.astype(jnp.result_type(float)) / 127.5 - 1)


def standard(pixels: Shaped[np.ndarray, "n height width channels"]) -> Standard:
    """The scaling to mean 0 and deviation 1 in every channel over `pixels (n, height, width, channels)`, 0 to 255.

    Compute it from the training images, and call the result on any images.
    """
    scaled = np.asarray(pixels).astype(np.float32) / 255
    return Standard(scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2)))


def imagenet(pixels: Array | np.ndarray) -> Float[Array, "*n 3"]:
    """Pixels `(..., 3)`, 0 to 255, standardised with ImageNet's channel statistics, as pretrained networks expect.

    >>> imagenet(np.zeros((1, 3))).round(2).tolist()
    [[-2.12, -2.04, -1.8]]
    """
    mean, deviation = jnp.asarray(_IMAGENET)
    return (pixels / 255 - mean) / deviation


def mean_image(
    pixels: Shaped[np.ndarray, "n height width channels"], of: Shaped[np.ndarray, "m height width channels"]
) -> Float[Array, "n height width channels"]:
    """Images minus the mean image of `of`, each scaled to unit mean square, so that |h^(0)| = 1 in Eq. 1.

    Without centring the largest eigenvalue of a kernel is twice as large, and only reflects that all images look alike.
    The scaling makes the diagonal of the kernel constant. An image that equals the mean image becomes zero. Pixels may
    have any unit; the result has JAX's default float type.

    >>> whole = np.arange(8.0).reshape(2, 2, 2, 1)
    >>> mean_image(whole, whole)[0].ravel().tolist()
    [-1.0, -1.0, -1.0, -1.0]
    """
    centred = pixels - of.mean(axis=0)
    scale = np.sqrt((centred**2).mean(axis=(1, 2, 3), keepdims=True))
    return jnp.asarray(centred / np.where(scale > 0, scale, 1), float)
