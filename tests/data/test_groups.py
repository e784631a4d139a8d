"""Coloured groups: sizes, colours and labels, without replacement, and many seeds in one program."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from gsjax.data import CELEBA_GROUPS, Images, colored_groups, grayscale

# The first two pixels of every image hold its position in the data set.
N = 1200
PIXELS = np.zeros((N, 2, 2, 1), np.uint8)
PIXELS[:, 0, 0, 0], PIXELS[:, 0, 1, 0], PIXELS[:, 1, 1, 0] = np.arange(N) // 256, np.arange(N) % 256, 255
IMAGES = Images(PIXELS, np.random.default_rng(0).integers(0, 4, N).astype(np.uint8))


def places(x):
    """The positions of images in the data set."""
    first, second = np.rint(np.asarray(grayscale(x))[:, 0, :2, 0].T * 255).astype(int)
    return 256 * first + second


def draw(key, **options):
    return jax.jit(lambda key: colored_groups(key, IMAGES, stride=1, **options))(key)


def test_the_default_float_type(x64):
    x, y, _ = jax.eval_shape(lambda key: colored_groups(key, IMAGES, classes=((0,), (1,))), jax.random.key(0))
    assert x.dtype == y.dtype == x64


def test_labels_colours_and_sizes():
    sizes = (40, 30, 20, 5)
    x, y, group = draw(jax.random.key(0), classes=((0, 3), (1,)), sizes=sizes)
    assert np.bincount(group).tolist() == list(sizes)
    np.testing.assert_array_equal(y > 0, group >= 2)
    labels = IMAGES.labels[places(x)]
    assert set(labels[np.asarray(y) < 0]) == {0, 3}
    assert set(labels[np.asarray(y) > 0]) == {1}
    assert len(set(places(x))) == sum(sizes)  # no image twice
    color = np.asarray(group) % 2
    np.testing.assert_array_equal(np.asarray(x)[np.arange(len(x)), 1, 1, color], 1)
    assert not np.asarray(x)[np.arange(len(x)), ..., 1 - color].any()
    assert len(set(np.asarray(group)[:20])) > 2  # mixed


def test_default_sizes_have_the_proportions_of_celeba():
    classes = ((0, 2, 3), (1,))
    group = jax.eval_shape(lambda key: colored_groups(key, IMAGES, classes=classes), jax.random.key(0)).group
    available = [np.isin(IMAGES.labels, labels).sum() for labels in classes]
    assert sum(CELEBA_GROUPS) == 162_770
    # The class that runs out first is used up, up to rounding.
    shares = np.array([CELEBA_GROUPS[:2], CELEBA_GROUPS[2:]]).sum(axis=1) / sum(CELEBA_GROUPS)
    assert group.shape[0] == pytest.approx(min(available / shares), abs=4)
    sizes = np.bincount(draw(jax.random.key(0), classes=classes).group)
    np.testing.assert_allclose(sizes, len(group) * np.array(CELEBA_GROUPS) / sum(CELEBA_GROUPS), atol=1.5)


def test_seeds_draw_different_images_in_one_program():
    options = {"classes": ((0,), (1,)), "sizes": (9, 9, 9, 3), "stride": 1}
    one = lambda key: colored_groups(key, IMAGES, **options)  # noqa: E731
    batch, single = jax.jit(lambda keys: (jax.vmap(one)(keys), one(keys[1])))(jax.random.split(jax.random.key(0), 2))
    for leaf, other in zip(batch, single, strict=True):
        np.testing.assert_allclose(leaf[1], other, rtol=1e-6)
    assert set(places(batch.x[0])) != set(places(batch.x[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ((0,), (0, 1))}, "^classes: expected two sequences of labels, none in both"),
        ({"classes": ((0,), ())}, "^classes: "),
        ({"sizes": (1, 1, 1)}, "^sizes: expected four positive whole numbers"),
        ({"sizes": (1, 1, 1, 0)}, "^sizes: "),
        ({"sizes": (1, 1, 1, 0.5)}, "^sizes: "),
        ({"sizes": (1, 1, 400, 1)}, r"^sizes: expected at most \d+ images of classes \(1,\), got 401"),
        ({"classes": ((0,), (9,))}, "^sizes: expected four positive"),
        ({"stride": 0}, "^stride: "),
        ({"images": Images(PIXELS[..., 0], IMAGES.labels)}, "^images: expected pixels"),
        ({"images": Images(PIXELS, IMAGES.labels[1:])}, "^images: expected labels"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        colored_groups(jax.random.key(0), **{"images": IMAGES, "classes": ((0,), (1,)), **options})
