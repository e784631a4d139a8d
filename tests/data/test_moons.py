"""Two moons: scikit-learn's geometry, the paper's recipe, and what the sign of delta decides."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import make_moons

from gsjax.data import two_moons


@pytest.mark.parametrize("n", [3, 300])
@pytest.mark.parametrize("delta", [0.1, -0.1])
def test_the_published_recipe_on_the_noise_free_moons(x64, n, delta):
    x, label = map(np.asarray, make_moons(n, shuffle=False, noise=None))
    y = 2.0 * label - 1
    x[:, 0] -= 0.5
    x[:, 1] -= 0.3 * y
    x[:, 1] -= x[:, 1].mean()
    x[:, 1] *= np.sign(-x[:, 1] * y)
    x[:, 1] -= y * delta
    expected = np.column_stack([x[:, 1], x[:, 0], y])

    got = two_moons(jax.random.key(0), n, noise=0, delta=delta)
    assert got.x.dtype == got.y.dtype == x64

    def ordered(rows):
        return rows[np.lexsort(np.round(rows, 4).T)]

    np.testing.assert_allclose(ordered(np.column_stack(got)), ordered(expected), atol=2e-6)


@pytest.mark.parametrize("seed", range(10))
def test_delta_decides_whether_one_coordinate_separates(seed):
    x, y = two_moons(jax.random.key(seed), delta=0.1)
    assert (y * x[:, 0] <= -0.1).all()
    margin = x[y < 0, 0].min() - x[y > 0, 0].max()
    assert 0.2 <= margin < 0.3

    x, y = two_moons(jax.random.key(seed), delta=-0.1)
    overlap = x[y > 0, 0].max() - x[y < 0, 0].min()
    assert 0.1 < overlap <= 0.2
    assert abs(float(y.sum())) == 0


def test_noise_has_the_given_standard_deviation():
    """Seen in the second coordinate, which the recipe only shifts."""
    noisy, clean = (two_moons(jax.random.key(0), 4000, noise=noise) for noise in (0.1, 0.0))
    np.testing.assert_array_equal(noisy.y, clean.y)
    difference = np.asarray(noisy.x[:, 1] - clean.x[:, 1])
    assert difference.std() == pytest.approx(0.1, rel=4 / np.sqrt(2 * 4000))
    assert abs(difference.mean()) < 4 * 0.1 / np.sqrt(4000)


def test_pure_in_its_key_and_vectorised():
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.jit(jax.vmap(lambda key: two_moons(key, 20)))(keys)
    for seed in range(3):
        single = two_moons(keys[seed], 20)
        np.testing.assert_allclose(batch.x[seed], single.x, atol=1e-6)
        np.testing.assert_array_equal(batch.y[seed], single.y)
    assert not np.allclose(batch.x[0], batch.x[1])


def test_classes_are_shuffled():
    y = two_moons(jax.random.key(0), 300).y
    assert abs(float(y[:100].sum())) < 40


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"n": 1}, "n"),
        ({"noise": -0.1}, "noise"),
        ({"noise": jnp.nan}, "noise"),
        ({"delta": jnp.inf}, "delta"),
    ],
)
def test_bad_options_are_named(options, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        two_moons(jax.random.key(0), **options)
