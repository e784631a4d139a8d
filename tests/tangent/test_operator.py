"""The kernel as an operator: the same numbers as the kernel, symmetry, traces and programs, bad input."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from gsjax.networks import CNN, MLP
from gsjax.tangent import ntk, ntk_operator
from gsjax.tangent.operator import _product


class Normalised(nn.Module):
    """A network with batch statistics, which are not differentiated."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(4, param_dtype=x.dtype)(x))
        x = nn.BatchNorm(use_running_average=True, param_dtype=x.dtype)(x)
        return nn.Dense(1, param_dtype=x.dtype)(x)[:, 0]


def problem(network, shape=(3,), n=7):
    x = jax.random.normal(jax.random.key(0), (n, *shape), float)
    variables = jax.jit(network.init)(jax.random.key(1), x)
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])
    return variables, x


def matrix(kernel):
    """A kernel `(n, n, k, k)` as the matrix `(n k, n k)`; one `(n, n)` as it is."""
    size = kernel.shape[0] * (kernel.shape[2] if kernel.ndim == 4 else 1)
    return kernel.transpose(0, 2, 1, 3).reshape(size, size) if kernel.ndim == 4 else kernel


@pytest.mark.parametrize(
    ("network", "shape"),
    [(MLP((5,), 3), (3,)), (CNN((3,), 2, strides=(2,)), (4, 4, 2)), (Normalised(), (3,))],
    ids=["mlp-3-outputs", "cnn-2-outputs", "batch-statistics"],
)
def test_products_with_the_identity_are_the_kernel(network, shape):
    with jax.enable_x64(True):
        variables, x = problem(network, shape)
        operator = ntk_operator(network.apply, variables, x)
        structure = operator.in_structure()
        assert structure == jax.eval_shape(network.apply, variables, x)
        identity = np.eye(structure.size).reshape(-1, *structure.shape)
        rows = np.stack([operator.mv(column).ravel() for column in identity])
        held = operator.as_matrix()
        expected = matrix(jax.jit(ntk, static_argnums=0)(network.apply, variables, x))
    np.testing.assert_allclose(rows, expected, atol=1e-13 * np.max(np.abs(expected)))
    np.testing.assert_allclose(held, rows, atol=1e-13 * np.max(np.abs(expected)))


def test_symmetric_and_positive_semidefinite(x64):
    network = MLP((20,), 2)
    variables, x = problem(network)
    operator = ntk_operator(network.apply, variables, x)
    assert lx.is_symmetric(operator)
    assert lx.is_positive_semidefinite(operator)
    v, w = jax.random.normal(jax.random.key(2), (2, 7, 2), x64)
    left, right = jnp.vdot(v, operator.mv(w)), jnp.vdot(w, operator.mv(v))
    np.testing.assert_allclose(left, right, rtol=1e-4 if x64 == jnp.float32 else 1e-12)
    assert jnp.vdot(v, operator.mv(v)) > 0


def test_an_operator_as_lineax_knows_them():
    network = MLP((20,))
    variables, x = problem(network)
    with jax.enable_x64(True):
        variables, x = jax.tree.map(lambda leaf: leaf.astype(float), (variables, x))
        operator = ntk_operator(network.apply, variables, x)
        kernel = operator.as_matrix()
        regularised = operator + lx.IdentityLinearOperator(operator.in_structure())
        v = jnp.arange(7.0)
        solution = lx.linear_solve(regularised, v, lx.CG(1e-12, 1e-12)).value
        np.testing.assert_allclose((kernel + np.eye(7)) @ solution, v, atol=1e-9)


def test_one_trace_and_one_program_for_all_products_and_parameters():
    network, traces = MLP((5,)), []
    variables, x = problem(network)

    def apply_fn(variables, x):
        traces.append(None)
        return network.apply(variables, x)

    chex.clear_trace_counter()
    product = jax.jit(chex.assert_max_traces(lambda operator, v: operator.mv(v), 1))
    found = []
    for scale in (1.0, 2.0, -1.0):
        scaled = jax.tree.map(lambda leaf: scale * leaf, variables)  # noqa: B023
        traces.clear()
        operator = ntk_operator(apply_fn, scaled, x)
        first_count = len(traces)
        for v in (jnp.ones(7), jnp.arange(7.0), np.arange(7.0)):
            np.testing.assert_allclose(operator.mv(v), product(operator, jnp.asarray(v, x.dtype)), rtol=1e-6)
        assert len(traces) == first_count
        found.append(_product()._cache_size())  # pyright: ignore[reportFunctionMemberAccess]
    # The network is read for every operator, as it is then; the second and third compile nothing.
    assert found[0] == found[1] == found[2]


def test_under_jit_vmap_and_grad():
    network = MLP((6,), activation="tanh")

    def by_products(variables):
        return v @ ntk_operator(network.apply, variables, x).mv(v)

    def by_gradient(variables):
        """v.K v = |grad of v.f|^2."""
        gradient = jax.grad(lambda variables: jnp.vdot(v, network.apply(variables, x)))(variables)  # pyright: ignore
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))

    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    with jax.enable_x64(True):
        variables, x = problem(network)
        v = jnp.linspace(-1, 1, 7)
        found, expected = (jax.jit(jax.value_and_grad(f))(variables) for f in (by_products, by_gradient))
        jax.tree.map(close, found, expected)
        close(by_products(variables), expected[0])
        several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), variables)
        close(jax.jit(jax.vmap(by_products))(several)[0], expected[0])


def test_no_program_holds_a_matrix_of_examples_by_examples():
    network, n = MLP((8,)), 3000
    variables, x = problem(network, n=n)
    operator = ntk_operator(network.apply, variables, x)
    program = jax.jit(lambda operator, v: operator.mv(v)).lower(operator, jnp.ones(n)).compile()
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes + memory.argument_size_in_bytes < 100 * 4 * n < 4 * n**2


def dot(w, x):
    return x @ w


x = jnp.ones((4, 3))
w = jnp.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ntk_operator(dot, w, x[:0]), "^x: .*non-empty"),
        (lambda: ntk_operator(dot, w, x.at[2, 1].set(jnp.nan)), "^x: .*1 NaN"),
        (lambda: ntk_operator(dot, w.at[0].set(jnp.inf), x), "^params: .*1 NaN or inf"),
        (lambda: ntk_operator(lambda params, x: x[:, 0], {}, x), "^params: .*at least one parameter"),
        (lambda: ntk_operator(lambda w, x: (x @ w).sum(), w, x), r"^apply_fn: .*shape \(\)"),
        (lambda: ntk_operator(dot, w, x).mv(jnp.ones(3)), r"^vector: .*shape \(4,\).*, got shape \(3,\)"),
        (lambda: ntk_operator(dot, w, x).mv(jnp.ones((4, 1))), r"^vector: .*got shape \(4, 1\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
