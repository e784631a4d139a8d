"""Tangent features and their Gram matrix: two ways to the same numbers, symmetry, blocks, bad input."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gsjax.networks import CNN, MLP
from gsjax.tangent import ntk, ntrf

ntrf_jit = jax.jit(ntrf, static_argnums=0)
ntk_jit = jax.jit(ntk, static_argnums=0, static_argnames="batch_size")
TOLERANCE = {jnp.float32: 2e-5, jnp.float64: 1e-13}


def problem(network, *, n=7, shape=(3,), seed=0):
    x = jax.random.normal(jax.random.key(seed), (n, *shape), float)
    return jax.jit(network.init)(jax.random.key(seed + 1), x), x


networks = pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP((5, 4), activation="tanh"), (3,)),
        (MLP((5, 4), 3, "erf"), (3,)),
        (CNN((3,), 2, strides=(2,)), (4, 4, 2)),
    ],
    ids=["mlp", "mlp-3-outputs", "cnn-2-outputs"],
)


class CentredByRunningMean(nn.Module):
    """A network with a collection that is not trained."""

    @nn.compact
    def __call__(self, x):
        mean = self.variable("statistics", "mean", lambda: jnp.full(x.shape[1:], 0.5, x.dtype))
        return nn.Dense(1, param_dtype=x.dtype)(x - mean.value)[:, 0]


@networks
def test_features_are_the_derivative_by_the_raveled_parameters(x64, network, shape):
    variables, x = problem(network, shape=shape)
    theta, unravel = ravel_pytree(variables["params"])
    expected = jax.jit(jax.jacfwd(lambda theta: network.apply({"params": unravel(theta)}, x)))(theta)
    phi = ntrf_jit(network.apply, variables, x)
    assert phi.dtype == x64
    assert phi.shape == (*network.apply(variables, x).shape, theta.size)
    np.testing.assert_allclose(phi, expected, rtol=TOLERANCE[x64], atol=TOLERANCE[x64])


@networks
def test_kernel_is_the_gram_matrix_of_the_features(x64, network, shape):
    variables, x = problem(network, shape=shape)
    phi = ntrf_jit(network.apply, variables, x)
    gram = phi @ phi.T if phi.ndim == 2 else jnp.einsum("akm,blm->abkl", phi, phi)
    kernel = ntk_jit(network.apply, variables, x, batch_size=3)
    assert kernel.dtype == x64
    np.testing.assert_allclose(kernel, gram, rtol=TOLERANCE[x64], atol=TOLERANCE[x64])
    mixed = ntk_jit(network.apply, variables, x, x[2:6], batch_size=3)
    np.testing.assert_allclose(mixed, gram[:, 2:6], rtol=TOLERANCE[x64], atol=TOLERANCE[x64])


@pytest.mark.parametrize("batch_size", [None, 1, 4, 6, 7, 100])
def test_blocks_of_any_size_give_the_same_kernel(batch_size):
    def quadratic(w, x):
        return (x @ w) ** 2

    x = jax.random.normal(jax.random.key(0), (7, 3))
    w = jnp.array([1.0, -2.0, 0.5])
    phi = 2 * (x @ w)[:, None] * x
    kernel = ntk(quadratic, w, x, batch_size=batch_size)
    np.testing.assert_allclose(kernel, phi @ phi.T, rtol=1e-5, atol=1e-5)
    mixed = ntk(quadratic, w, x[:5], x[1:], batch_size=batch_size)
    np.testing.assert_allclose(mixed, phi[:5] @ phi[1:].T, rtol=1e-5, atol=1e-5)


def test_symmetric_to_the_last_bit_and_positive():
    network = MLP((40, 40), 3)
    variables, x = problem(network, n=11)
    kernel = np.asarray(ntk_jit(network.apply, variables, x, batch_size=4))
    matrix = kernel.transpose(0, 2, 1, 3).reshape(33, 33)
    np.testing.assert_array_equal(matrix, matrix.T)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] > -1e-5 * eigenvalues[-1]


def test_one_output_with_an_axis_of_its_own_keeps_it():
    def linear(w, x):
        return x @ w

    x = jnp.arange(6.0).reshape(3, 2)
    w = jnp.ones((2, 1))
    assert ntrf(linear, w, x).shape == (3, 1, 2)
    kernel = ntk(linear, w, x)
    assert kernel.shape == (3, 3, 1, 1)
    np.testing.assert_allclose(kernel[..., 0, 0], x @ x.T)


def test_only_the_parameters_are_differentiated():
    network = CentredByRunningMean()
    variables, x = problem(network)
    phi = ntrf(network.apply, variables, x)
    np.testing.assert_allclose(phi, np.column_stack([np.ones(7), x - 0.5]), rtol=1e-6)
    np.testing.assert_allclose(ntk(network.apply, variables, x), phi @ phi.T, rtol=1e-5)


def test_parameters_of_any_tree():
    def apply_fn(params, x):
        slope, (offset,) = params
        return x @ slope + offset

    x = jnp.arange(6.0).reshape(3, 2)
    expected = np.column_stack([x, np.ones(3)])
    params = (jnp.ones(2), (1.0,))
    np.testing.assert_array_equal(ntrf(apply_fn, params, x), expected)
    np.testing.assert_array_equal(ntk(apply_fn, params, x), expected @ expected.T)


def test_kernel_of_the_linear_network_by_hand():
    """Without a hidden layer Phi = x / sqrt(d_0), whatever the weights."""
    variables, x = problem(MLP(()), shape=(4,))
    np.testing.assert_allclose(ntk(MLP(()).apply, variables, x), x @ x.T / 4, rtol=1e-5, atol=1e-6)


def test_under_jit_vmap_and_grad(x64):
    network = MLP((6,), activation="tanh")
    variables, x = problem(network)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=10 * TOLERANCE[x64], atol=TOLERANCE[x64])

    def kernel(variables, x):
        return ntk(network.apply, variables, x, batch_size=3)

    compiled = jax.jit(kernel)
    close(compiled(variables, x), kernel(variables, x))

    keys = jax.random.split(jax.random.key(2), 3)
    batched = jax.jit(jax.vmap(lambda key: kernel(network.init(key, x), x)))(keys)
    close(batched, jnp.stack([compiled(jax.jit(network.init)(key, x), x) for key in keys]))

    def by_blocks(variables):
        return (kernel(variables, x) ** 2).sum()

    def whole(variables):
        phi = ntrf(network.apply, variables, x)
        return ((phi @ phi.T) ** 2).sum()

    jax.tree.map(close, jax.jit(jax.grad(by_blocks))(variables), jax.jit(jax.grad(whole))(variables))


def test_the_default_block_keeps_to_its_bound(monkeypatch):
    """Temporary memory of the compiled program: at most two blocks of Jacobians and a few kernels."""
    bound, n = 2**18, 64
    monkeypatch.setattr("gsjax.tangent.empirical._FACTORS", bound)
    network = MLP((128, 128))
    variables, x = problem(network, n=n)
    program = jax.jit(lambda variables, x: ntk(network.apply, variables, x)).lower(variables, x).compile()
    phi = n * ravel_pytree(variables)[0].size * 4
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 2.5 * bound * 4 + 4 * n**2 * 4 < phi


x = jnp.ones((4, 3))
w = jnp.ones(3)


def dot(w, x):
    return x @ w


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(dot, w, x[:0]), r"^x1?: .*non-empty"),
        (lambda f: f(dot, w, 1.0), r"^x1?: .*shape \(\)"),
        (lambda f: f(dot, w, x.at[2, 1].set(jnp.nan)), r"^x1?: .*1 NaN"),
        (lambda f: f(dot, w.at[0].set(jnp.inf), x), "^params: .*1 NaN or inf"),
        (lambda f: f(lambda params, x: x[:, 0], {}, x), "^params: .*at least one parameter"),
        (lambda f: f(lambda params, x: x[:, 0], {"params": {}, "other": w}, x), "^params: "),
        (lambda f: f(lambda w, x: (x @ w).sum(), w, x), r"^apply_fn: .*shape \(\)"),
        (lambda f: f(lambda w, x: (x * w)[:, None], w, x), r"^apply_fn: .*shape \(4, 1, 3\)"),
        (lambda f: f(lambda w, x: (x @ w)[None], w, x), r"^apply_fn: .*shape \(1, 4\)"),
        (lambda f: f(lambda w, x: (x @ w, x), w, x), "^apply_fn: "),
    ],
)
@pytest.mark.parametrize("function", [ntrf, ntk])
def test_bad_input_is_named(function, call, message):
    with pytest.raises(ValueError, match=message):
        call(function)


def test_bad_pairs_are_named():
    with pytest.raises(ValueError, match=r"^x2: .*\(3,\), got shape \(4, 2\)"):
        ntk(dot, w, x, jnp.ones((4, 2)))
    with pytest.raises(ValueError, match=r"^x2: .*non-empty"):
        ntk(dot, w, x, x[:0])
    with pytest.raises(ValueError, match=r"^x2: .*NaN"):
        ntk(dot, w, x, x.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"^batch_size: "):
        ntk(dot, w, x, batch_size=0)
