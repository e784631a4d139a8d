"""Arguments of functions that draw data: whole numbers of any type are accepted, other values are named."""

from __future__ import annotations

import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import data

KEY = jax.random.key(0)
GENERATOR = np.random.default_rng(0)
IMAGES = data.Images(GENERATOR.integers(0, 256, (60, 4, 4, 1), np.uint8), (np.arange(60) % 4).astype(np.uint8))
DATASET = data.Dataset(jnp.arange(20.0).reshape(10, 2), jnp.arange(10.0))
GROUPS = {"classes": ((0,), (1,)), "sizes": (3, 3, 3, 3)}


def colored(key=KEY, images=IMAGES, **options):
    return data.colored(key, images, **{"positive": (0, 1), **options})


def groups(key=KEY, images=IMAGES, **options):
    return data.colored_groups(key, images, **{**GROUPS, **options})


def two_classes(images=IMAGES, classes=(0, 1), **options):
    return data.two_classes(images, classes, **options)


def moons(key=KEY, n=10, **options):
    return data.two_moons(key, n, **options)


def split(key=KEY, dataset=DATASET, n_train=4):
    return data.split(key, dataset, n_train)


def folder():
    zero = np.zeros(3, int)
    return data.ImageFolder(np.array(["a", "b", "c"], object), np.ones(3), zero, zero, zero, lambda image, size: image)


def load(rows=(0,), size=8, channels=3):
    return data.load_images(folder(), rows, size=size, channels=channels)


NOT_WHOLE = (3.0, np.float32(3), True, np.True_, "3", None, (3,), np.array([3]), jnp.array(3.0))
NOT_A_NUMBER = (True, np.True_, "0.1", None, (0.1,), np.array([0.1]), 0.1j, np.nan, np.inf)
NOT_A_KEY = (0, 0.5, None, "key", np.arange(3), jax.random.split(KEY, 2), IMAGES)
NOT_IMAGES = (
    KEY,
    None,
    3,
    IMAGES.pixels,
    list(IMAGES),
    DATASET,
    data.Images(IMAGES.pixels, IMAGES.labels.astype(float)),
    data.Images(IMAGES.pixels, IMAGES.labels[1:]),
    data.Images(IMAGES.pixels > 9, IMAGES.labels),
    data.Images(np.where(IMAGES.pixels > 9, np.nan, 0), IMAGES.labels),
    data.Images(IMAGES.pixels[..., 0], IMAGES.labels),
)
NOT_A_PAIR = (3, (3,), (0, 0), (0, 10), (0.0, 1.0), (False, True), "01", {0, 1}, {0: 1}, None, np.array([[0, 1]]))
NOT_CLASSES = (3, (0, 1), ((0,),), ((0,), (0,)), ((0,), ()), ((0.0,), (1,)), ((False,), (True,)), "01", None)
NOT_ROWS = (0, (), (0.0,), (True, False, True), (3,), (-1,), ((0,),), "0", {0}, None)


@pytest.mark.parametrize(
    ("function", "name", "values"),
    [
        (colored, "stride", (*NOT_WHOLE, 0, -1)),
        (groups, "stride", (*NOT_WHOLE, 0)),
        (moons, "n", (*NOT_WHOLE, 1)),
        (split, "n_train", (*NOT_WHOLE, 0, 10)),
        (two_classes, "n", tuple(value for value in (*NOT_WHOLE, 0, 31) if value is not None)),
        (data.digits, "n", tuple(value for value in (*NOT_WHOLE, 0, 999) if value is not None)),
        (load, "size", (*NOT_WHOLE, 0)),
        (load, "channels", (*NOT_WHOLE[1:], 0, 2)),
        (colored, "label_noise", (*NOT_A_NUMBER, -0.1, 1.1)),
        (moons, "noise", (*NOT_A_NUMBER, -0.1)),
        (moons, "delta", NOT_A_NUMBER),
        (
            colored,
            "correlations",
            (0.9, np.float64(0.9), jnp.array(0.9), "0.9", (), (True,), (0.5, False), {0.9}, None),
        ),
        (colored, "correlations", ((0.9, "a"), ((0.9,),), (0.9, 1.5), (0.9, np.nan), (0.5,) * 61, (0.9, None))),
        (colored, "positive", (3, (0.0,), (True,), "01", {0, 1}, None, (), (0, 1, 2, 3), ((0, 1),))),
        (groups, "classes", NOT_CLASSES),
        (groups, "sizes", (3, (3, 3, 3), (3, 3, 3, 0), (3.0, 3, 3, 3), (True, 3, 3, 3), "3333", (3, 3, 3, 99))),
        (two_classes, "classes", NOT_A_PAIR),
        (data.digits, "classes", NOT_A_PAIR),
        (load, "rows", NOT_ROWS),
        (colored, "key", NOT_A_KEY),
        (groups, "key", NOT_A_KEY),
        (moons, "key", NOT_A_KEY),
        (split, "key", NOT_A_KEY),
        (two_classes, "key", tuple(value for value in NOT_A_KEY if value is not None)),
        (data.digits, "key", tuple(value for value in NOT_A_KEY if value is not None)),
        (colored, "images", NOT_IMAGES),
        (groups, "images", NOT_IMAGES),
        (two_classes, "images", NOT_IMAGES),
        (split, "dataset", (KEY, None, (1, 2), data.Dataset(DATASET.x, DATASET.y[1:]), IMAGES)),
        (data.waterbirds, "folder", (None, 3)),
        (data.waterbirds, "target", (None, 3)),
        (data.available, "name", (None, 3, [], np.arange(2))),
        (folder().rows, "split", (None, 3, [], np.arange(2))),
        (data.mnist, "split", (None, 3, [], np.arange(2))),
    ],
)
def test_a_bad_argument_is_named(function, name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name}: expected "):
            function(**{name: value})


def check_same(function, given, options):
    """Both arguments give the same program; it is traced, not run."""
    one, other = (jax.make_jaxpr(functools.partial(function, **keywords))() for keywords in (given, options))
    assert str(one) == str(other)
    for constant, another in zip(one.consts, other.consts, strict=True):
        if constant is not KEY:
            np.testing.assert_array_equal(constant, another)


@pytest.mark.parametrize("whole", [np.int64, np.uint8, jnp.int32])
@pytest.mark.parametrize(
    ("function", "options"),
    [
        (colored, {"stride": 2, "positive": (0, 3)}),
        (groups, {"stride": 2, "sizes": (3, 4, 2, 1), "classes": ((0, 2), (3,))}),
        (moons, {"n": 7}),
        (split, {"n_train": 7}),
        (two_classes, {"classes": (3, 0), "n": 5}),
        (data.digits, {"classes": (3, 8), "n": 5}),
    ],
)
def test_whole_numbers_of_any_type(whole, function, options):
    check_same(function, jax.tree.map(whole, options), options)


def test_keys_of_both_kinds():
    for key in (KEY, jax.random.PRNGKey(0)):
        assert jax.eval_shape(moons, key).x.shape == jax.eval_shape(lambda key=key: moons(key=key)).x.shape == (10, 2)


def test_sequences_of_any_type():
    for correlations in ([0.1, 0.9], np.array([0.1, 0.9], np.float32)):
        given = {"correlations": correlations, "positive": [0, 1]}
        check_same(colored, given, {"correlations": (0.1, 0.9), "positive": (0, 1)})
    given = {"sizes": np.full(4, 3), "classes": np.array([[0], [1]])}
    check_same(groups, given, {"sizes": (3, 3, 3, 3), "classes": ((0,), (1,))})


@pytest.mark.parametrize(
    ("image", "color"),
    [
        (np.ones((3, 2, 2)), np.array([0, 1, 2])),
        (np.ones((3, 2, 2)), np.array([0.0, 1.0, 1.0])),
        (np.ones((3, 2, 2)), np.array([True, False, True])),
        (np.ones((3, 2, 2)), np.array([0, 1])),
        (np.array([0, 1]), np.ones((3, 2, 2))),
        (np.ones((3, 2, 2)), 1),
    ],
)
def test_colours_are_0_or_1_with_one_per_image(image, color):
    with pytest.raises(ValueError, match=r"^color: expected "):
        data.paint(image, color)


@pytest.mark.parametrize("change", [data.gray, data.grayscale])
def test_coloured_images_have_two_channels(change):
    for x in (np.ones((3, 2, 2, 1)), np.ones((3, 2, 2, 3)), np.ones((2, 2)), np.ones(())):
        with pytest.raises(ValueError, match=r"^x: expected "):
            change(x)


def test_every_module_lists_its_public_names():
    for module in pkgutil.iter_modules(data.__path__):
        if not module.name.startswith("_"):
            loaded = importlib.import_module(f"gsjax.data.{module.name}")
            defined = {
                name
                for name, value in vars(loaded).items()
                if not name.startswith("_") and getattr(value, "__module__", None) == loaded.__name__
            }
            assert defined <= set(loaded.__all__) <= set(vars(loaded)), module.name
            assert loaded.__all__ == sorted(loaded.__all__)
