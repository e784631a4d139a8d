"""The kernels of random networks against JAX's own derivatives, in double precision and a few in single precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.tangent import ntk

from .random_networks import FAMILIES, OPTIONS, as_matrix, draw, faults, gram, rows, truth

SEEDS = range(100)  # thousands of others in tests/benchmarks
DIFFERENTIATED = (5, 8, 18, 23, 37)  # of smooth functions in double precision, without rules of their own
SINGLE = range(200, 206)


@pytest.mark.parametrize("seed", [seed if seed < 15 else pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS])
def test_every_way_to_the_kernel_is_the_gram_matrix_of_the_derivatives(seed):
    with jax.enable_x64(True):
        assert faults(draw(seed), further="one" if seed % 3 == seed // 3 % 3 else "no") == []


def test_all_pieces_occur():
    with jax.enable_x64(True):
        occurring = frozenset().union(*(draw(seed).pieces for seed in SEEDS))
    assert {name for family in FAMILIES.values() for name in family} | OPTIONS == occurring


@pytest.mark.parametrize("seed", DIFFERENTIATED)
def test_the_derivative_of_a_kernel_by_parameters(seed):
    """Of a weighted sum of its entries: along a direction, against central differences of the true kernel."""
    with jax.enable_x64(True):
        network = draw(seed)
        leaves, tree = jax.tree.flatten(network.params)
        random = np.random.default_rng(seed)
        direction = [jnp.asarray(random.normal(size=np.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves]
        factor = random.normal(size=truth(network).shape)

        def weighted(params):
            kernel = ntk(network.apply_fn, params, network.x)
            kernel = kernel if kernel.ndim == 2 else kernel.swapaxes(1, 2).reshape(factor.shape)
            return (factor * kernel).sum()

        slope = jax.jit(jax.grad(weighted))(network.params)
        found = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(slope), direction, strict=True))

        def moved(step):
            moved = [leaf + step * towards for leaf, towards in zip(leaves, direction, strict=True)]
            return np.sum(factor * truth(network._replace(params=jax.tree.unflatten(tree, moved))))

        step = 1e-4
        slopes = [(moved(h) - moved(-h)) / (2 * h) for h in (step, 2 * step)]
        expected = (4 * slopes[0] - slopes[1]) / 3  # of fourth order: an error of 1e-12 or so, and roundings of 1e-11
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7 * np.abs(factor * truth(network)).sum())


@pytest.mark.parametrize("seed", SINGLE)
def test_single_precision_is_as_good_as_that_of_the_derivatives(seed):
    """Nothing is lost but what rounding the derivatives themselves costs, at most ten times that."""
    with jax.enable_x64(True):
        network = draw(seed)
        expected = truth(network)
    with jax.enable_x64(False):
        network = draw(seed)
        phi = rows(network)
        kernel = as_matrix(ntk(network.apply_fn, network.params, network.x))
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    eps = max(network.eps, float(np.finfo(np.float32).eps))
    own = np.abs(gram(phi, phi) - expected)
    np.testing.assert_array_equal(kernel, kernel.T)
    assert (np.abs(kernel - expected) <= 10 * own.max(initial=0) + 20 * eps * size).all()
    assert kernel.dtype == np.float32
