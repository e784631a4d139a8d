"""Colouring: probabilities, what the four test environments keep, and many seeds in one program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.data import Images, blank, colored, gray, grayscale

N = 4000
GENERATOR = np.random.default_rng(0)
IMAGES = Images(GENERATOR.integers(1, 256, (N, 4, 6, 1), dtype=np.uint8), GENERATOR.integers(0, 10, N).astype(np.uint8))
CLEAN = np.where(IMAGES.labels < 5, 1, -1)


def draw(key, images, **options):
    return jax.jit(lambda key: colored(key, images, **options))(key)


def agrees(frequency, probability, n):
    """Whether a frequency among n agrees with a probability, within four standard errors."""
    return abs(frequency - probability) <= 4 * np.sqrt(probability * (1 - probability) / n)


def test_the_published_probabilities():
    x, y, color, environment = draw(jax.random.key(0), IMAGES)
    assert np.bincount(environment).tolist() == [N // 2, N // 2]
    assert agrees(np.mean(y != CLEAN), 0.25, N)
    for e, correlation in enumerate((0.8, 0.9)):
        members = environment == e
        agree = np.asarray((2 * color - 1) == y)
        assert agrees(np.mean(agree[members]), correlation, N / 2)
        # The colour depends on the digit through the noisy label alone.
        flipped = np.asarray(y != CLEAN)
        assert agrees(np.mean(agree[members & flipped]), correlation, N / 8)
    assert agrees(np.mean(np.asarray(y) == 1), 0.5, N)
    assert x.min() == 0


def test_the_image_is_in_one_channel(x64):
    x, y, color, _ = draw(jax.random.key(1), IMAGES)
    assert x.dtype == y.dtype == x64
    kept = IMAGES.pixels[:, ::2, ::2, 0] / 255
    rows = np.arange(N)
    np.testing.assert_allclose(np.asarray(x)[rows, ..., np.asarray(color)], kept, rtol=1e-6)
    assert not np.asarray(x)[rows, ..., 1 - np.asarray(color)].any()
    np.testing.assert_allclose(grayscale(x)[..., 0], kept, rtol=1e-6)


def test_with_probabilities_0_and_1_colours_and_labels_are_determined():
    sure = draw(jax.random.key(0), IMAGES, correlations=(1.0, 0.0, 1.0), label_noise=0.0, positive=(7,), stride=1)
    expected = np.where(IMAGES.labels == 7, 1, -1)
    np.testing.assert_array_equal(sure.y, expected)
    np.testing.assert_array_equal((2 * sure.color - 1) * sure.y, np.where(sure.environment == 1, -1, 1))
    assert np.ptp(np.bincount(sure.environment)) <= 1
    np.testing.assert_allclose(grayscale(sure.x), IMAGES.pixels / 255, rtol=1e-6)


def test_seeds_colour_the_same_images_in_one_program():
    few = Images(IMAGES.pixels[:50], IMAGES.labels[:50])

    @jax.jit
    def both(keys):
        batch, single = jax.vmap(lambda key: colored(key, few))(keys), colored(keys[1], few)
        changed = [(change(batch.x), change(single.x)) for change in (grayscale, gray, blank)]
        return batch, single, changed

    batch, single, changed = both(jax.random.split(jax.random.key(0), 3))
    for leaf, other in zip(batch, single, strict=True):
        np.testing.assert_allclose(leaf[1], other, rtol=1e-6)
    # The test environments keep the axis of the seeds.
    for leaf, other in changed:
        np.testing.assert_allclose(leaf[1], other, rtol=1e-6)
    np.testing.assert_array_equal(changed[0][0][0], changed[0][0][1])
    assert not np.array_equal(batch.color[0], batch.color[1])


def test_probabilities_and_classes_may_be_traced():
    few = Images(IMAGES.pixels[:50], IMAGES.labels[:50])
    options = {"correlations": jnp.array([0.8, 0.9]), "label_noise": 0.25, "positive": (0, 1)}
    traced = jax.eval_shape(lambda options: colored(jax.random.key(0), few, **options), options)
    assert traced.x.shape == (50, 2, 3, 2)


def test_what_the_four_test_environments_keep():
    """All keep the mean brightness; gray keeps only the shape, blank keeps only the colour."""

    @jax.jit
    def environments(key):
        x, _, color, _ = colored(key, IMAGES)
        other = x[..., ::-1]  # the same images, each in the other colour
        return x, color, gray(x), gray(other), blank(x), blank(gray(x)), gray(blank(x)), blank(jnp.zeros_like(x[:3]))

    x, color, digits, others, colors, nothing, also_nothing, black = map(np.asarray, environments(jax.random.key(0)))
    np.testing.assert_array_equal(digits, others)
    np.testing.assert_allclose(digits.sum(axis=-1), x.sum(axis=-1), rtol=1e-6)
    mean = np.broadcast_to(x.sum(axis=-1).mean(), (N, 2, 3))  # one constant: the mean image would still have a shape
    for flat in (colors, nothing):
        np.testing.assert_allclose(flat.sum(axis=-1), mean, rtol=1e-5)
    assert not colors[np.arange(N), ..., 1 - color].any()
    np.testing.assert_allclose(nothing, also_nothing, rtol=1e-5)
    np.testing.assert_array_equal(nothing[..., 0], nothing[..., 1])
    assert not black.any()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (IMAGES, {"correlations": (0.8, 1.1)}, r"^correlations: expected probabilities in \[0, 1\]"),
        (IMAGES, {"correlations": ()}, "^correlations: expected 1 to 4000"),
        (IMAGES, {"label_noise": -0.1}, "^label_noise: "),
        (IMAGES, {"label_noise": np.nan}, "^label_noise: "),
        (IMAGES, {"positive": range(10)}, "^positive: expected some of the labels, not all or none"),
        (IMAGES, {"positive": (11,)}, "^positive: "),
        (IMAGES, {"stride": 0}, "^stride: "),
        (Images(IMAGES.pixels[..., 0], IMAGES.labels), {}, "^images: expected 4 axes"),
        (Images(np.repeat(IMAGES.pixels, 3, axis=3), IMAGES.labels), {}, "^images: expected pixels of one channel"),
        (Images(IMAGES.pixels, IMAGES.labels[1:]), {}, r"^images: expected labels of shape \(4000,\)"),
        (Images(IMAGES.pixels[:1], IMAGES.labels[:1]), {"correlations": (1, 1)}, "^correlations: expected 1 to 1"),
    ],
)
def test_bad_input_is_named(images, options, message):
    with pytest.raises(ValueError, match=message):
        colored(jax.random.key(0), images, **options)
