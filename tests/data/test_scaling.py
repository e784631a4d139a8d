"""Published scalings of pixels, by hand."""

from __future__ import annotations

import numpy as np

from gsjax import data


def test_published_scalings():
    """By hand, for three images of three channels."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    whole = pixels.astype(float)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaling = data.scaling
    np.testing.assert_allclose(scaling.fraction(pixels), whole / 255, rtol=1e-6)
    np.testing.assert_allclose(scaling.signed(pixels), 2 * whole / 255 - 1, atol=1e-6)
    np.testing.assert_allclose(scaling.imagenet(pixels), (whole / 255 - mean) / deviation, rtol=1e-4, atol=1e-6)
    standard = np.asarray(scaling.standard(pixels)(pixels))
    np.testing.assert_allclose(standard.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(axis=(0, 1, 2)), 1, rtol=1e-5)
    centred = whole - whole.mean(axis=0)
    found = np.asarray(scaling.mean_image(pixels[:2], pixels))
    np.testing.assert_allclose((found**2).mean(axis=(1, 2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(found[1] * np.sqrt((centred[1] ** 2).mean()), centred[1], rtol=1e-4, atol=1e-4)
