"""Derivatives by the kernel or the feature matrix: correct where they exist, and NaN elsewhere."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, SpectralDecoupling, dual, features, multiclass, starvation
from tests.instances import orthogonal

N = 5
SPECTRA = {
    "distinct": (4.0, 2.0, 1.0, 0.5, 0.1),
    "ties": (4.0, 1.0, 1.0, 1.0, 0.1),
    "all equal": (1.0,) * 5,
    "close": (4.0, 1.0 + 1e-9, 1.0, 0.5, 0.1),
    "rank lost": (4.0, 2.0, 1.0, 0.0, 0.0),
    "rank lost and ties": (4.0, 1.0, 1.0, 0.0, 0.0),
}
spectra = pytest.mark.parametrize("name", SPECTRA)
V = np.array([0.3, -1.0, 0.7, 0.2, 1.3])
SMOOTH = {
    "alpha": lambda feats, state: V @ state.alpha,
    "squares of alpha": lambda feats, state: jnp.sum(state.alpha**2),
    "margins": lambda feats, state: V @ state.margins,
    "responses summed with their features": lambda feats, state: V @ (feats.u @ state.response),
    "size of the response": lambda feats, state: jnp.sum(state.response**2),
}
PENALTY = Ridge(0.3)


def problem(name, seed=0):
    rng = np.random.default_rng(seed)
    s2 = np.array(SPECTRA[name])
    u, v = orthogonal(rng, N), orthogonal(rng, 7)[:N]
    y = rng.choice([-1.0, 1.0], N)
    return (u * np.sqrt(s2)) @ v, (u * s2) @ u.T, y, rng


def kernel_function(function, penalty):
    def value(kernel, y):
        feats = features.from_ntk(kernel, y)
        return function(feats, dual.equilibrium(feats, penalty))

    return value


def matrix_function(function, penalty):
    def value(phi, y):
        feats = features.from_ntrf(phi, y)
        return function(feats, dual.equilibrium(feats, penalty))

    return value


def all_smooth(feats, state):
    return jnp.stack([function(feats, state) for function in SMOOTH.values()])


@pytest.fixture(scope="module")
def jacobians():
    """The Jacobians of all smooth functions at once; one program serves all spectra."""
    return {
        "kernel": jax.jit(jax.jacrev(kernel_function(all_smooth, PENALTY))),
        "matrix": jax.jit(jax.jacrev(matrix_function(all_smooth, PENALTY))),
    }


def slope(value, x, direction, step):
    """The derivative along `direction`, by central differences of fourth order."""
    inner, outer = ((value(x + h * direction) - value(x - h * direction)) / (2 * h) for h in (step, 2 * step))
    return (4 * inner - outer) / 3


def direct_function(function, y):
    """The same function of a symmetric kernel without eigenvectors; the margins come from Newton's method."""

    def value(kernel):
        signed = y[:, None] * kernel * y / PENALTY.strength
        m = np.zeros(N)
        for _ in range(100):
            alpha = 1 / (1 + np.exp(m))
            m = m - np.linalg.solve(np.eye(N) + signed * (alpha * (1 - alpha)), m - signed @ alpha)
        return function(1 / (1 + np.exp(m)), m)

    return value


# The same functions of alpha and margins. U U^T m = m at full rank, and on the span below it.
PLAIN = {
    "alpha": lambda alpha, m: V @ alpha,
    "squares of alpha": lambda alpha, m: alpha @ alpha,
    "margins": lambda alpha, m: V @ m,
    "responses summed with their features": lambda alpha, m: V @ m,
    "size of the response": lambda alpha, m: m @ m,
}


def all_plain(alpha, m):
    return np.array([function(alpha, m) for function in PLAIN.values()])


def test_the_plain_functions_are_the_same():
    _, kernel, y, _ = problem("distinct")
    with jax.enable_x64(True):
        found = jax.jit(kernel_function(all_smooth, PENALTY))(kernel, y)
    np.testing.assert_allclose(found, direct_function(all_plain, y)(kernel), rtol=1e-9)


@spectra
def test_smooth_functions_of_the_kernel_are_differentiated(name, jacobians):
    phi, kernel, y, rng = problem(name)
    plain = direct_function(all_plain, y)
    with jax.enable_x64(True):
        kernel_jacobians, phi_jacobians = (
            np.asarray(jacobians[k](x, y)) for k, x in (("kernel", kernel), ("matrix", phi))
        )
    np.testing.assert_allclose(kernel_jacobians, kernel_jacobians.swapaxes(1, 2), atol=1e-12)
    for _ in range(3):
        turn = rng.standard_normal((N, N))
        direction = turn @ kernel + kernel @ turn.T  # keeps the rank, and breaks ties
        found = np.einsum("fij,ij->f", kernel_jacobians, direction)
        phi_slopes = np.einsum("fij,ij->f", phi_jacobians, turn @ phi)
        expected_phi_slopes = slope(lambda phi: plain(phi @ phi.T), phi, turn @ phi, 1e-3)
        for one, other in ((found, slope(plain, kernel, direction, 1e-3)), (phi_slopes, expected_phi_slopes)):
            np.testing.assert_allclose(one[:3], other[:3], atol=1e-8)  # of alpha and margins
            # Sums over features and responses: their error is eps over the gap of two strengths, 1e-9.
            np.testing.assert_allclose(one[3:], other[3:], atol=5e-6 if name == "close" else 1e-8)
    assert (np.abs(kernel_jacobians).max(axis=(1, 2)) > 1e-3).all()


def test_derivatives_in_directions_that_raise_the_rank(jacobians):
    """Ridge's optimum is smooth in the kernel, whatever its rank."""
    _, kernel, y, rng = problem("rank lost and ties")
    a = rng.standard_normal((N, N))
    with jax.enable_x64(True):
        jacobian = np.asarray(jacobians["kernel"](kernel, y))
    expected = slope(direct_function(all_plain, y), kernel, a + a.T, 1e-3)
    found = np.einsum("fij,ij->f", jacobian, a + a.T)
    np.testing.assert_allclose(found[:3], expected[:3], atol=1e-8)  # alpha and margins


@pytest.mark.slow
def test_eager_derivatives_equal_those_under_jit():
    """Outside jit, features beyond the rank are cut off."""
    _, kernel, y, _ = problem("rank lost and ties")
    value = kernel_function(SMOOTH["responses summed with their features"], PENALTY)
    with jax.enable_x64(True):
        eager = jax.grad(value)(jnp.asarray(kernel), y)
        np.testing.assert_allclose(eager, jax.jit(jax.grad(value))(kernel, y), atol=1e-10)


def test_forward_and_second_derivatives_of_the_equilibrium():
    value = kernel_function(SMOOTH["alpha"], PENALTY)

    def shifted(t, kernel, a, y):
        return value(kernel + t * a, y)

    first, second = jax.jit(jax.jacfwd(shifted)), jax.jit(jax.hessian(shifted))
    for name in SPECTRA:
        _, kernel, y, rng = problem(name)
        a = rng.standard_normal((N, N))
        a, plain = a + a.T, direct_function(PLAIN["alpha"], y)
        with jax.enable_x64(True):
            expected = slope(lambda t, plain=plain, k=kernel, a=a: plain(k + t * a), 0.0, 1.0, 1e-3)
            assert float(first(0.0, kernel, a, y)) == pytest.approx(expected, abs=1e-8)
            expected = (plain(kernel + 1e-3 * a) - 2 * plain(kernel) + plain(kernel - 1e-3 * a)) / 1e-6
            assert float(second(0.0, kernel, a, y)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


SINGLE = {
    "weighted entries": lambda feats, state: V @ feats.u[:, 1],
    "s": lambda feats, state: feats.s[1],
    "s2": lambda feats, state: feats.s2[1],
    "response": lambda feats, state: state.response[2],
    "sum of responses": lambda feats, state: jnp.sum(state.response),
    "cubes": lambda feats, state: jnp.sum(feats.u[:, 1] ** 3),
    "kernel, rebuilt": lambda feats, state: ((feats.u * feats.s2) @ feats.u.T)[0, 1],
}


@pytest.mark.parametrize("construct", ["kernel", "matrix"])
def test_one_of_several_features_of_equal_strength_has_no_derivative(construct):
    phi, kernel, y, _ = problem("ties")
    make, x = (kernel_function, kernel) if construct == "kernel" else (matrix_function, phi)
    value = make(lambda feats, state: jnp.stack([single(feats, state) for single in SINGLE.values()]), PENALTY)
    forward = jax.jit(lambda x: jax.jvp(lambda x: value(x, y), (x,), (jnp.ones_like(x),))[1])
    with jax.enable_x64(True):
        for name, gradient in zip(SINGLE, jax.jit(jax.jacrev(value))(x, y), strict=True):
            assert np.all(np.isnan(gradient)), name
        assert np.all(np.isnan(forward(x)))


@pytest.mark.parametrize("construct", ["kernel", "matrix"])
def test_single_entries_of_a_basis_with_zeros_have_no_derivative(construct):
    """Here the basis among the tied features consists of unit vectors, and most entries do not turn at first order."""
    x = np.diag(np.array([4.0, 1.0, 1.0, 1.0, 0.1]) ** (1.0 if construct == "kernel" else 0.5))
    make = features.from_ntk if construct == "kernel" else features.from_ntrf
    y, v = np.ones(N), np.random.default_rng(0).standard_normal((N, N))

    def tied(x):
        return make(x, y).u[:, 1:4]

    entries = jax.jit(jax.jacrev(tied))
    projection = jax.jit(jax.grad(lambda x: jnp.sum(v * (lambda u: u @ u.T)(tied(x)))))
    with jax.enable_x64(True):
        assert np.all(np.isnan(entries(x)))
        assert np.all(np.isfinite(projection(x)))


@pytest.mark.parametrize("construct", ["kernel", "matrix"])
def test_features_outside_a_tie_have_derivatives(construct):
    """The first and the last feature of `ties`, and the sum of the strengths that are equal."""
    phi, kernel, y, rng = problem("ties")
    value, x = (kernel_function, kernel) if construct == "kernel" else (matrix_function, phi)
    turn = rng.standard_normal((N, N))
    direction = (turn @ kernel + kernel @ turn.T) if construct == "kernel" else turn @ phi

    def function(feats, state):
        first = feats.u[:, 0] @ V * jnp.sign(feats.u[0, 0])
        return jnp.stack([first, jnp.abs(state.response[4]), jnp.sum(feats.s2[1:4]), jnp.sum(feats.s2)])

    value = value(function, PENALTY)
    jacobian, value = jax.jit(jax.jacrev(value)), jax.jit(value)
    with jax.enable_x64(True):
        found = np.einsum("fij,ij->f", np.asarray(jacobian(x, y)), direction)
        expected = slope(lambda x: np.asarray(value(x, y)), x, direction, 1e-4)
        np.testing.assert_allclose(found, expected, atol=1e-7)


def test_sensitivities_where_rank_is_lost():
    _, kernel, y, rng = problem("rank lost")
    turn = rng.standard_normal((N, N))
    direction = turn @ kernel + kernel @ turn.T

    def value(kernel):
        return jnp.sum(starvation.matrix(features.from_ntk(kernel, y), PENALTY)[:3, :3] ** 2)

    both = jax.jit(jax.value_and_grad(value))
    with jax.enable_x64(True):
        expected = float(slope(lambda kernel: both(kernel)[0], kernel, direction, 1e-4))
        assert np.sum(np.asarray(both(kernel)[1]) * direction) == pytest.approx(expected, rel=1e-6)


def test_spectral_decoupling_in_the_kernel():
    """At full rank the optimum does not depend on the kernel; below, on the span of its features."""
    penalty = SpectralDecoupling(np.array([0.1, 0.4, 2.0, 0.7, 0.2]), 0.5)
    both = jax.jit(jax.value_and_grad(kernel_function(SMOOTH["alpha"], penalty)))
    for name in SPECTRA:
        _, kernel, y, rng = problem(name)
        turn = rng.standard_normal((N, N))
        direction = turn @ kernel + kernel @ turn.T
        with jax.enable_x64(True):
            gradient = np.asarray(both(kernel, y)[1])
            expected = float(slope(lambda kernel, y=y: both(kernel, y)[0], kernel, direction, 1e-4))
        assert np.sum(gradient * direction) == pytest.approx(expected, abs=1e-7)
        assert (np.abs(gradient).max() > 1e-3) == ("rank" in name)


def test_several_classes():
    labels, v = np.array([0, 1]), np.random.default_rng(4).standard_normal(6)

    def value(stacked):
        kernel = stacked.reshape(2, 3, 2, 3).transpose(0, 2, 1, 3)
        return multiclass.equilibrium(multiclass.from_ntk(kernel, labels), PENALTY).logits.ravel() @ v

    both = jax.jit(jax.value_and_grad(value))
    for s2 in ([4.0, 1.0, 1.0, 1.0, 0.5, 0.2], [4.0, 1.0, 1.0, 0.0, 0.0, 0.0]):
        rng = np.random.default_rng(3)
        u, turn = orthogonal(rng, 6), rng.standard_normal((6, 6))
        stacked = (u * np.array(s2)) @ u.T
        direction = turn @ stacked + stacked @ turn.T
        with jax.enable_x64(True):
            expected = float(slope(lambda x: both(x)[0], stacked, direction, 1e-4))
            assert np.sum(np.asarray(both(stacked)[1]) * direction) == pytest.approx(expected, abs=1e-7)


def test_changed_features_lose_their_origin():
    """The derivative by strengths that the user sets is not that of the kernel, which is zero here."""
    _, kernel, y, _ = problem("distinct")
    feats = features.from_ntk(kernel, y)
    assert feats.origin is not None
    assert feats._replace(s=2 * feats.s).origin is None
    assert jax.tree.map(lambda leaf: leaf, feats).origin is None

    @jax.jit
    @jax.grad
    def gradient(scale):
        feats = features.from_ntk(kernel * scale**0, y)
        return jnp.sum(dual.equilibrium(feats._replace(s=scale * feats.s), PENALTY).alpha)

    assert abs(float(gradient(1.0))) > 1e-3


def test_gradients_of_many_kernels_at_once():
    kernels, y = np.stack([problem(name)[1] for name in SPECTRA]), problem("ties")[2]
    gradient = jax.grad(kernel_function(SMOOTH["alpha"], PENALTY))
    with jax.enable_x64(True):
        batched, single = jax.jit(jax.vmap(gradient, (0, None)))(kernels, y), jax.jit(gradient)
        for found, kernel in zip(batched, kernels, strict=True):
            np.testing.assert_allclose(found, single(kernel, y), atol=1e-10)
