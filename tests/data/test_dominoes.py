"""Dominoes and patches: pixels, probabilities, test variants, and many seeds in one program."""

# pyright: reportArgumentType=false
# Bad input is of any type, and NumPy's arrays stand for JAX's.

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import data
from gsjax.data import Images, domino_variants, dominoes, hide, patch_region, patched
from gsjax.data.dominoes import most_dominoes

N = 2000
RNG = np.random.default_rng(0)


def images(n, height, width, channels=1, classes=2):
    """Random images without black pixels, with all labels in turn."""
    return Images(
        RNG.integers(1, 256, (n, height, width, channels), np.uint8), (np.arange(n) % classes).astype(np.uint8)
    )


SMALL, LARGE, COLOR = images(N, 2, 3), images(N, 5, 7), images(60, 7, 6, 3)
TEN = tuple(range(10))
DIGITS, ARTICLES = images(4000, 2, 2, classes=10), images(4000, 2, 2, classes=10)


def draw(key, core, spurious, **options):
    return dominoes(jax.random.key(key), core, spurious, **options)


def agrees(events, probability):
    """Whether the frequency of events agrees with a probability, within four standard errors."""
    events = np.asarray(events)
    return abs(events.mean() - probability) <= 4 * np.sqrt(probability * (1 - probability) / len(events))


def signed(pixels):
    return pixels.astype(float) / 127.5 - 1


def test_halves_are_the_original_pixels():
    """Images of 2 x 3 are enlarged twice to 4 x 6, and surrounded by black to 5 x 7."""
    sample = draw(0, SMALL, LARGE, n=20)
    assert sample.x.shape == (20, 10, 7, 1)
    np.testing.assert_allclose(sample.x[:, :5], signed(LARGE.pixels[sample.spurious_rows]), atol=1e-6)
    small = SMALL.pixels[sample.core_rows]
    np.testing.assert_allclose(sample.x[:, 5:9, :6], signed(np.kron(small, np.ones((1, 2, 2, 1)))), atol=1e-6)
    np.testing.assert_array_equal(sample.x[:, 9], -1)
    np.testing.assert_array_equal(sample.x[:, 5:, 6], -1)


def test_images_of_different_channels_become_coloured():
    sample = draw(0, COLOR, SMALL, n=20)
    assert sample.x.shape == (20, 14, 6, 3)
    np.testing.assert_allclose(sample.x[:, 7:], signed(COLOR.pixels[sample.core_rows]), atol=1e-6)
    enlarged = signed(np.kron(SMALL.pixels[sample.spurious_rows], np.ones((1, 2, 2, 3))))
    np.testing.assert_allclose(sample.x[:, 1:5], enlarged, atol=1e-6)  # 4 of 7 rows: one above and two below are black
    np.testing.assert_array_equal(np.asarray(sample.x)[:, [0, 5, 6]], -1)


@pytest.mark.parametrize("core_first", [False, True])
@pytest.mark.parametrize("arrangement", ["vertical", "horizontal"])
def test_arrangement_and_regions(arrangement, core_first):
    """Halves of 3 x 4 pixels: every other row and column of 5 x 7, from the first."""
    sample = draw(0, LARGE, LARGE, n=10, arrangement=arrangement, core_first=core_first, stride=2)
    vertical = arrangement == "vertical"
    assert sample.x.shape == ((10, 6, 4, 1) if vertical else (10, 3, 8, 1))
    first, second = np.split(np.asarray(sample.x), 2, axis=1 if vertical else 2)
    core, spurious = (first, second) if core_first else (second, first)
    for half, rows, region in (
        (core, sample.core_rows, sample.core),
        (spurious, sample.spurious_rows, sample.spurious),
    ):
        pixels = signed(LARGE.pixels[rows])[:, ::2, ::2]
        np.testing.assert_allclose(half, pixels, atol=1e-6)
        np.testing.assert_allclose(np.asarray(sample.x)[:, region, 0], pixels.reshape(10, -1), atol=1e-6)
    np.testing.assert_array_equal(sample.core ^ sample.spurious, True)


def test_labels_and_attributes_agree_with_the_images():
    classes = ((3, 8), (7, 2))
    sample = draw(0, DIGITS, ARTICLES, classes=classes, correlation=0.8)
    np.testing.assert_array_equal(DIGITS.labels[sample.core_rows], np.where(sample.y > 0, 8, 3))
    np.testing.assert_array_equal(ARTICLES.labels[sample.spurious_rows], np.where(sample.attribute, 2, 7))
    assert len(sample.y) == 800
    assert len(set(sample.core_rows.tolist())) == 800  # every image of the two classes once
    groups = draw(0, DIGITS, ARTICLES, classes=((3, 8), ((7, 1), [2, 5, 6])))
    suggested = np.where(groups.attribute, 2, 1)
    np.testing.assert_array_equal(np.isin(ARTICLES.labels[groups.spurious_rows], (2, 5, 6)) + 1, suggested)
    assert set(ARTICLES.labels[groups.spurious_rows].tolist()) == {7, 1, 2, 5, 6}
    many = draw(0, DIGITS, ARTICLES, classes=(TEN, TEN[::-1]), correlation=0.5)
    assert jnp.issubdtype(many.y.dtype, jnp.integer)
    np.testing.assert_array_equal(DIGITS.labels[many.core_rows], many.y)
    np.testing.assert_array_equal(ARTICLES.labels[many.spurious_rows], 9 - np.asarray(many.attribute))


@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.95, 1.0])
def test_correlation_and_label_noise(k, correlation):
    noise, classes = 0.25, (TEN[:k], TEN[:k])
    sample = draw(1, DIGITS, ARTICLES, classes=classes, correlation=correlation, label_noise=noise)
    label = np.asarray(sample.y > 0).astype(int) if k == 2 else np.asarray(sample.y)
    core, attribute = DIGITS.labels[sample.core_rows], np.asarray(sample.attribute)
    assert np.bincount(label).tolist() == [400] * k
    assert agrees(attribute == label, correlation)
    assert agrees(core == label, 1 - noise)
    # Given the label, the halves are independent, and a half that disagrees is of any other class.
    assert agrees(attribute[core != label] == label[core != label], correlation)
    for other in range(k):
        assert agrees(core == other, 1 / k)
        assert agrees(attribute == other, 1 / k)
        assert agrees(core[label == 0] == other, noise / (k - 1) if other else 1 - noise)
        assert agrees(attribute[label == 1] == other, correlation if other == 1 else (1 - correlation) / (k - 1))


def test_images_are_drawn_without_replacement():
    sample = draw(0, SMALL, LARGE, correlation=1.0)
    for rows in (sample.core_rows, sample.spurious_rows):
        assert np.bincount(rows, minlength=N).tolist() == [1] * N
    # A class that runs out begins again: no image is drawn twice more often than another one of its class.
    again = draw(0, SMALL, LARGE, correlation=0.5)
    uses = np.bincount(again.spurious_rows, minlength=N)
    for label in (0, 1):
        assert np.ptp(uses[LARGE.labels == label]) <= 1
    assert uses.max() == 2


def test_the_order_of_images_and_examples_says_nothing():
    sample = draw(0, SMALL, LARGE, correlation=0.8)
    order = RNG.permutation(N)
    mixed = draw(0, Images(SMALL.pixels[order], SMALL.labels[order]), LARGE, correlation=0.8)
    np.testing.assert_array_equal(sample.y, mixed.y)
    np.testing.assert_array_equal(sample.attribute, mixed.attribute)
    agree = np.asarray((sample.y > 0) == sample.attribute)
    for part in np.split(np.arange(N), 4):
        assert agrees(agree[part], 0.8)
        assert agrees(np.asarray(sample.y)[part] > 0, 0.5)
        assert abs(np.corrcoef(part, np.asarray(sample.core_rows)[part])[0, 1]) < 4 / np.sqrt(len(part))


def test_variants():
    found = domino_variants(jax.random.key(0), DIGITS, ARTICLES, correlation=0.9, classes=((0, 1), (5, 4)))
    assert list(found) == ["test", "core only", "spurious only", "random", "core random", "reversed"]
    test = found["test"]
    core, spurious = (np.broadcast_to(region[..., None], test.x.shape) for region in (test.core, test.spurious))
    for name, variant in found.items():
        np.testing.assert_array_equal(variant.y, test.y)
        x = np.asarray(variant.x)
        if name not in ("spurious only", "core random"):
            np.testing.assert_array_equal(x[core], np.asarray(test.x)[core])
            np.testing.assert_array_equal(DIGITS.labels[variant.core_rows], variant.y > 0)
        assert (x[core] == -1).all() == (name == "spurious only")
        assert (x[spurious] == -1).all() == (name == "core only")
    for name in ("spurious only", "core random"):
        np.testing.assert_array_equal(np.asarray(found[name].x)[spurious], np.asarray(test.x)[spurious])

    def agreement(name, half):
        sample = found[name]
        classes = sample.attribute if half == "spurious" else DIGITS.labels[sample.core_rows]
        return np.asarray(classes) == np.asarray(sample.y > 0)

    assert agrees(agreement("test", "spurious"), 0.9)
    assert agrees(agreement("core random", "spurious"), 0.9)
    assert agrees(agreement("core random", "core"), 0.5)
    assert agrees(agreement("random", "spurious"), 0.5)
    assert not agreement("reversed", "spurious").any()
    ten = domino_variants(jax.random.key(0), DIGITS, ARTICLES, classes=(TEN, TEN), label_noise=0.2)
    assert agrees(ten["random"].attribute == ten["random"].y, 0.1)
    assert agrees(DIGITS.labels[ten["core random"].core_rows] == np.asarray(ten["core random"].y), 0.1)
    assert agrees(DIGITS.labels[ten["reversed"].core_rows] == np.asarray(ten["reversed"].y), 0.8)
    assert not (ten["reversed"].attribute == ten["reversed"].y).any()


def test_the_float_type_is_the_default_one(x64):
    key = jax.random.key(0)
    for classes, y in ((((0, 1), (0, 1)), x64), (((0, 1, 2), (0, 1, 2)), int)):
        sample = jax.eval_shape(functools.partial(dominoes, core=DIGITS, spurious=ARTICLES, n=9, classes=classes), key)
        assert sample.x.dtype == x64
        assert sample.y.dtype == jnp.result_type(y)


def test_seeds_and_correlations_in_one_program():
    def one(key, correlation, pixels):
        return dominoes(key, Images(pixels, COLOR.labels), SMALL, n=30, correlation=correlation, label_noise=0.1)

    keys, correlations = jax.random.split(jax.random.key(0), 3), jnp.array([0.0, 0.5, 1.0])
    batch = jax.jit(jax.vmap(one, in_axes=(0, 0, None)))(keys, correlations, COLOR.pixels)
    for leaf, other in zip(batch, one(keys[1], 0.5, COLOR.pixels), strict=True):
        np.testing.assert_allclose(leaf[1], other, rtol=1e-6, atol=1e-6)
    agree = np.asarray((batch.y > 0) == batch.attribute)
    assert agree.sum(axis=1)[[0, 2]].tolist() == [0, 30]
    assert set(batch.core_rows[0].tolist()) != set(batch.core_rows[1].tolist())


def test_hiding_a_region():
    x, region = jnp.ones((2, 3, 2, 4, 1)), jnp.array([[True, False, False, True], [False] * 4])
    for value in (-1.0, 0.0):
        hidden = np.asarray(hide(x, region, value=value))
        assert (hidden[:, :, region] == value).all()
        assert (hidden[:, :, ~region] == 1).all()


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_a_patch_is_in_one_class_only(kind):
    plain = images(30, 8, 9, 3, classes=3)
    region = np.zeros((8, 9), bool)
    region[2:5, 4:7] = True
    np.testing.assert_array_equal(patch_region((8, 9), size=3, position=(2, 4)), region)
    given = Images(kind(plain.pixels), kind(plain.labels))
    for others in (False, True):
        pixels, labels = patched(given, 1, size=3, position=(2, 4), others=others)
        assert (type(pixels), pixels.dtype) == (type(given.pixels), np.uint8)
        np.testing.assert_array_equal(labels, plain.labels)
        has_patch = (plain.labels == 1) ^ others
        assert (np.asarray(pixels)[has_patch][:, region] == 255).all()
        np.testing.assert_array_equal(np.asarray(pixels)[:, ~region], plain.pixels[:, ~region])
        np.testing.assert_array_equal(np.asarray(pixels)[~has_patch], plain.pixels[~has_patch])
    traced = jax.jit(functools.partial(patched, label=1, size=3, position=(2, 4)))(plain)
    np.testing.assert_array_equal(traced.pixels, patched(plain, 1, size=3, position=(2, 4)).pixels)


def test_a_patch_in_the_spurious_half():
    sample = draw(0, LARGE, patched(LARGE, 1, size=2), n=40, correlation=0.5)
    corner = np.asarray(sample.x)[:, :2, :2, 0]
    np.testing.assert_array_equal((corner > 0.999).all(axis=(1, 2)), sample.attribute)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dominoes_digits", "dominoes_digits_swapped"])
def test_dominoes_of_digits(name):
    found = data.load(jax.random.key(0), name)
    easy, hard = ((0, 6), (1, 7)), ((3, 5), (8, 9))
    core, spurious = (hard, easy) if name == "dominoes_digits" else (easy, hard)
    pixels, labels = data.digit_images()
    label_of = {one.tobytes(): label for one, label in zip(pixels, labels, strict=True)}

    def halves(part):
        upper, lower = np.split(np.rint((np.asarray(part.x) + 1) * 127.5).astype(np.uint8), 2, axis=1)
        return [one.tobytes() for one in upper], [one.tobytes() for one in lower]

    upper, lower = halves(found.train)
    attribute = np.asarray(found.train.group) % 2
    for half, pair, classes in ((lower, core, found.train.y > 0), (upper, spurious, attribute)):
        assert {label_of[one] for one in half} == {*pair[0], *pair[1]}
        assert all(label_of[one] in pair[int(number)] for one, number in zip(half, classes, strict=True))
    assert agrees(attribute == (found.train.y > 0), 0.95)
    assert agrees(np.asarray(found.held_out["test"].group) % 2 == (found.held_out["test"].y > 0), 0.95)
    assert not np.any(np.asarray(found.held_out["reversed"].group) % 2 == (found.held_out["reversed"].y > 0))
    for part in found.held_out.values():
        for seen, new in zip((upper, lower), halves(part), strict=True):
            assert not set(seen) & set(new)


def test_sets_with_a_patch():
    found = data.load(jax.random.key(0), "digits_patch")
    has_patch = {
        name: np.asarray((part.x[:, :2, :2] == 1).all(axis=(1, 2, 3))) for name, part in found.held_out.items()
    }
    y = np.asarray(found.held_out["test"].y)
    np.testing.assert_array_equal(has_patch["test"], y == 1)
    np.testing.assert_array_equal(has_patch["reversed"], y != 1)
    assert not has_patch["no patch"].any()
    np.testing.assert_array_equal((found.train.x[:, :2, :2] == 1).all(axis=(1, 2, 3)), found.train.y == 1)
    for part in found.held_out.values():
        np.testing.assert_array_equal(part.y, y)
        np.testing.assert_array_equal(part.x[:, 2:], found.held_out["test"].x[:, 2:])
    two = data.load(jax.random.key(0), "digits_patch", classes=(7, 3))
    np.testing.assert_array_equal(two.train.group, np.where(two.train.y < 0, 1, 2))  # the patch is in sevens
    np.testing.assert_array_equal(two.held_out["reversed"].group, np.where(two.held_out["reversed"].y < 0, 0, 3))


MORE = Images(np.zeros((4, 2, 2, 4), np.uint8), np.arange(4))


@pytest.mark.parametrize(
    ("core", "options", "message"),
    [
        (SMALL, {"n": 1}, "^n: expected a whole number of at least 2, got 1"),
        (SMALL, {"n": N + 1}, f"^n: expected at most {N}, the number of examples, got {N + 1}"),
        (SMALL, {"correlation": 1.1}, r"^correlation: expected a probability in \[0, 1\]"),
        (SMALL, {"label_noise": -0.1}, "^label_noise: "),
        (SMALL, {"arrangement": "above"}, "^arrangement: expected one of vertical, horizontal, got 'above'"),
        (SMALL, {"core_first": 1}, "^core_first: expected True or False"),
        (SMALL, {"stride": 0}, "^stride: "),
        (SMALL, {"classes": ((0, 1), (0,))}, "^classes: expected two sequences of equally many classes"),
        (SMALL, {"classes": ((0,), (1,))}, "^classes: "),
        (SMALL, {"classes": ((0, 0), (0, 1))}, "^classes: "),
        (SMALL, {"classes": (0, 1)}, "^classes: "),
        (SMALL, {"classes": (((0, 1), 1), (0, 1))}, "^classes: "),
        (SMALL, {"classes": (((), 1), (0, 1))}, "^classes: "),
        (SMALL, {"classes": ((0, "1"), (0, 1))}, "^classes: "),
        (SMALL, {"classes": ((0, 7), (0, 1))}, r"^classes: expected labels of images of the core half, got \(0, 7\)"),
        (
            SMALL,
            {"classes": ((0, 1), (0, 7))},
            r"^classes: expected labels of images of the spurious half, got \(0, 7\)",
        ),
        (MORE, {"spurious": COLOR}, r"^spurious: expected as many channels as core, or 1, got \[3, 4\]"),
        (Images(SMALL.pixels[..., 0], SMALL.labels), {}, "^core: expected 4 axes"),
        (SMALL, {"spurious": Images(SMALL.pixels, SMALL.labels[1:])}, "^spurious: expected labels of shape"),
        (SMALL, {"spurious": Images(SMALL.pixels, jnp.asarray(SMALL.labels, float))}, "^spurious: expected labels"),
    ],
)
def test_bad_input_is_named(core, options, message):
    with pytest.raises(ValueError, match=message):
        dominoes(jax.random.key(0), **{"core": core, "spurious": SMALL, **options})


def test_traced_labels_are_refused():
    with pytest.raises(ValueError, match=r"^core: expected labels that are not traced"):
        jax.jit(lambda core: dominoes(jax.random.key(0), core, SMALL, n=4))(SMALL)
    with pytest.raises(ValueError, match=r"^classes: "):
        most_dominoes(SMALL, SMALL, ((0, 1), (0, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patched(SMALL, 2), "^label: expected the label of an image, got 2"),
        (lambda: patched(SMALL, 1.0), "^label: "),
        (lambda: patched(SMALL, 1), r"^position: expected a patch within 2 x 3 pixels, got 5 x 5 pixels at \(0, 0\)"),
        (lambda: patched(SMALL, 1, size=0), "^size: "),
        (lambda: patched(SMALL, 1, size=1, position=(0, 3)), "^position: "),
        (lambda: patched(SMALL, 1, size=1, position=(-1, 0)), "^position: "),
        (lambda: patched(SMALL, 1, size=1, position=(0,)), "^position: expected two whole numbers"),
        (lambda: patched(SMALL, 1, size=1, others=2), "^others: "),
        (lambda: patch_region((0, 3)), "^shape: "),
        (lambda: hide(jnp.ones((2, 3, 1)), np.ones((3, 2), bool)), "^region: expected True and False for each pixel"),
        (lambda: hide(jnp.ones((2, 3, 1)), np.ones((2, 3))), "^region: "),
        (lambda: hide(jnp.ones((2, 3, 1)), np.ones((2, 3), bool), value=np.nan), "^value: "),
    ],
)
def test_bad_patches_and_regions_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
