"""The 8 x 8 digits: what is read, how it is normalised, and how it is drawn."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from gsjax.data import digits


def test_every_example_of_both_classes_with_its_label(x64):
    x, y = digits((3, 8))
    pixels, target = load_digits(return_X_y=True)
    assert x.dtype == y.dtype == x64
    assert x.shape == (357, 8, 8, 1)
    assert int((y == -1).sum()) == (target == 3).sum()
    assert int((y == 1).sum()) == (target == 8).sum()
    # Every example is its image up to the mean image and a factor.
    chosen = pixels[np.isin(target, (3, 8))] - pixels.mean(axis=0)
    flat = np.asarray(x.reshape(357, 64), float)
    factor = (flat * chosen).sum(axis=1) / (flat**2).sum(axis=1)
    np.testing.assert_allclose(chosen, factor[:, None] * flat, atol=1e-4)
    assert (factor > 0).all()


def test_unit_mean_square():
    x, _ = digits((0, 1))
    np.testing.assert_allclose((x**2).mean(axis=(1, 2, 3)), 1, rtol=1e-5)


def test_the_order_of_the_classes_sets_the_sign():
    first, second = digits((4, 9)), digits((9, 4))
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.y, -second.y)


def test_an_example_does_not_depend_on_the_others():
    whole, some = digits(), digits(n=200)
    np.testing.assert_array_equal(some.x, whole.x[:200])
    drawn = digits(n=50, key=jax.random.key(0))
    assert set(map(bytes, np.asarray(drawn.x))) <= set(map(bytes, np.asarray(whole.x)))
    assert len(set(map(bytes, np.asarray(drawn.x)))) == 50
    repeated, other = digits(n=50, key=jax.random.key(0)), digits(n=50, key=jax.random.key(1))
    np.testing.assert_array_equal(drawn.x, repeated.x)
    assert not np.array_equal(drawn.x, other.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": (3, 3)}, "^classes: "),
        ({"classes": (3, 10)}, "^classes: "),
        ({"classes": (3,)}, "^classes: "),
        ({"n": 0}, "^n: "),
        ({"n": 358}, r"^n: expected 1 to 357, .*got 358"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        digits(**options)
