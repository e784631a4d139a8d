"""Features: the decomposition of Eq. 4 from either side, ranks, and bad input."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, dual, features
from tests.instances import ROUNDING, instance, rotation


def square_root(feats: features.Features) -> np.ndarray:
    """`U S U^T`, which no choice of signs and no rotation among equal strengths changes."""
    return np.asarray((feats.u * feats.s) @ feats.u.T)


@pytest.mark.parametrize(("n", "m"), [(5, 8), (8, 5)])
def test_the_factors_multiply_to_the_labelled_feature_matrix(x64, n, m):
    rng = np.random.default_rng(0)
    phi, y = rng.standard_normal((n, m)), rng.choice([-1, 1], n)
    feats = features.from_ntrf(phi, y)
    assert feats.vt is not None
    tolerance = ROUNDING[x64]
    np.testing.assert_allclose((feats.u * feats.s) @ feats.vt, y[:, None] * phi, atol=tolerance)
    np.testing.assert_allclose(feats.u.T @ feats.u, np.eye(min(n, m)), atol=tolerance)
    np.testing.assert_allclose(feats.vt @ feats.vt.T, np.eye(min(n, m)), atol=tolerance)
    assert np.all(np.diff(feats.s) <= 0)
    assert feats.rank == min(n, m) == feats.u.shape[1]
    assert {leaf.dtype for leaf in (feats.u, feats.s, feats.vt, feats.y)} == {jnp.dtype(x64)}


def test_the_feature_matrix_and_its_kernel_have_the_same_features(x64):
    problem = instance(0)
    from_phi = features.from_ntrf(problem.phi, problem.y)
    from_kernel = features.from_ntk(problem.phi @ problem.phi.T, problem.y)
    # A kernel squares the condition of its factor.
    tolerance = 100 * ROUNDING[x64]
    np.testing.assert_allclose(from_kernel.s, from_phi.s, rtol=tolerance)
    np.testing.assert_allclose(from_phi.s, problem.s, rtol=tolerance)
    np.testing.assert_allclose(square_root(from_kernel), square_root(from_phi), atol=tolerance)
    np.testing.assert_allclose(np.abs(from_kernel.u.T @ from_phi.u), np.eye(5), atol=100 * tolerance)
    assert from_kernel.vt is None


def test_responses_are_the_same_from_outputs_and_from_parameters(x64):
    problem = instance(1)
    theta = np.random.default_rng(0).standard_normal((3, 8))  # three points in time, or three networks
    logits = theta @ problem.phi.T
    feats = features.from_ntrf(problem.phi, problem.y)
    assert feats.vt is not None
    tolerance = 10 * ROUNDING[x64]
    np.testing.assert_allclose(feats.response(logits), theta @ (feats.vt.T * feats.s), atol=tolerance)
    np.testing.assert_allclose(features.response(feats, logits[0]), feats.response(logits)[0], atol=tolerance)
    analytic = features.from_spectrum(problem.u, problem.s, problem.y)
    np.testing.assert_allclose(analytic.response(logits), logits * problem.y @ problem.u, atol=tolerance)


@pytest.mark.parametrize("label", [1, -1], ids=["same label", "contradicting label"])
def test_a_repeated_input_lowers_the_rank_by_one(x64, label):
    problem = instance(2)
    phi = np.concatenate([problem.phi, problem.phi[:1]])
    y = np.append(problem.y, label * problem.y[0])
    for feats in (features.from_ntrf(phi, y), features.from_ntk(phi @ phi.T, y)):
        assert feats.rank == 5
        assert feats.u.shape == (6, 5)
        assert feats.s.shape == (5,)
        # Both copies have the same weight in every feature, up to the label.
        np.testing.assert_allclose(feats.u[5], label * feats.u[0], atol=1e4 * ROUNDING[x64])


def test_the_tolerance_of_the_rank_can_be_stated():
    phi = np.diag([1.0, 1e-2, 1e-3])
    y = np.ones(3)
    assert [features.from_ntrf(phi, y, rtol=rtol).rank for rtol in (None, 5e-3, 1e-1)] == [3, 2, 1]
    # For a kernel the tolerance applies to the strengths s^2.
    assert [features.from_ntk(phi**2, y, rtol=rtol).rank for rtol in (1e-7, 5e-5, 1e-2)] == [3, 2, 1]


def test_a_kernel_resolves_strengths_down_to_rounding(x64):
    eps = float(jnp.finfo(x64).eps)
    assert features.from_ntk(jnp.diag(jnp.array([1.0, 10 * eps])), jnp.ones(2)).rank == 2
    assert features.from_ntk(jnp.diag(jnp.array([1.0, eps])), jnp.ones(2)).rank == 1
    assert features.from_ntrf(jnp.diag(jnp.array([1.0, 10 * eps])), jnp.ones(2)).rank == 2
    assert features.from_ntrf(jnp.diag(jnp.array([1.0, eps])), jnp.ones(2)).rank == 1


def test_the_order_of_examples_only_permutes_the_rows_of_u():
    problem = instance(3)
    order = np.random.default_rng(0).permutation(5)
    with jax.enable_x64(True):
        feats = features.from_ntrf(problem.phi, problem.y)
        permuted = features.from_ntrf(problem.phi[order], problem.y[order])
        np.testing.assert_allclose(permuted.s, feats.s, rtol=1e-12)
        signs = np.sign(np.sum(permuted.u * feats.u[order], axis=0))
        np.testing.assert_allclose(permuted.u * signs, feats.u[order], atol=1e-11)


def test_a_spectrum_is_not_changed(x64):
    u = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    feats = features.from_spectrum(u, [1, 3, 0])
    np.testing.assert_array_equal(feats.u, u)
    np.testing.assert_array_equal(feats.s, [1, 3, 0])
    np.testing.assert_array_equal(feats.s2, [1, 9, 0])
    np.testing.assert_array_equal(feats.y, np.ones(3))
    assert feats.rank == 2
    assert feats.vt is None
    assert feats.s.dtype == feats.u.dtype == feats.y.dtype == x64
    narrow = features.from_spectrum(u[:, :2], np.array([2.0, 3.0]), np.array([1, -1, 1]))
    assert narrow.rank == 2
    assert narrow.u.shape == (3, 2)


def test_tracing_hides_the_rank_from_the_shapes_and_changes_nothing_else(x64):
    problem = instance(4, rank=3)
    for construct, argument in (
        (features.from_ntrf, problem.phi),
        (features.from_ntk, problem.phi @ problem.phi.T),
    ):
        eager = construct(jnp.asarray(argument), problem.y)
        traced = jax.jit(construct)(argument, problem.y)
        assert int(traced.rank) == eager.rank == 3
        assert traced.u.shape == (5, 5)
        np.testing.assert_array_equal(traced.s[3:], 0)
        np.testing.assert_allclose(traced.s[:3], eager.s, rtol=ROUNDING[x64])
        np.testing.assert_allclose(square_root(traced), square_root(eager), atol=100 * ROUNDING[x64])


def test_features_without_strength_do_not_change_the_equilibrium():
    problem = instance(4, rank=3)

    def solve(feats):
        state = dual.equilibrium(feats, Ridge(0.3))
        return state.alpha, feats.u @ state.response

    with jax.enable_x64(True):
        narrow = jax.jit(solve)(features.from_ntrf(problem.phi, problem.y))
        wide = jax.jit(lambda phi: solve(features.from_ntrf(phi, problem.y)))(problem.phi)
        for expected, found in zip(narrow, wide, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_total_strength_is_the_squared_norm_and_differentiates_as_such():
    problem = instance(5)
    with jax.enable_x64(True):
        phi = jnp.asarray(problem.phi)
        total = jax.value_and_grad(lambda phi: jnp.sum(features.from_ntrf(phi, problem.y).s2))
        value, gradient = total(phi)
        np.testing.assert_allclose(value, np.sum(problem.phi**2), rtol=1e-12)
        np.testing.assert_allclose(gradient, 2 * problem.phi, atol=1e-11)


def test_batched_over_labellings():
    problem = instance(6)
    labellings = np.random.default_rng(0).choice([-1.0, 1.0], (4, 5))
    with jax.enable_x64(True):
        batched = jax.vmap(lambda y: features.from_ntrf(problem.phi, y))(labellings)
        for i, y in enumerate(labellings):
            assert batched.vt is not None
            product = (batched.u[i] * batched.s[i]) @ batched.vt[i]
            np.testing.assert_allclose(product, y[:, None] * problem.phi, atol=1e-12)


ONES = np.ones(2)
EYE = np.eye(2)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("phi", lambda: features.from_ntrf(np.ones(2), ONES)),
        ("phi", lambda: features.from_ntrf(np.ones((2, 0)), ONES)),
        ("phi", lambda: features.from_ntrf(np.ones((0, 2)), np.ones(0))),
        ("phi", lambda: features.from_ntrf(np.array([[1.0, np.nan], [0, 1]]), ONES)),
        ("phi", lambda: features.from_ntrf(np.array([[1.0, np.inf], [0, 1]]), ONES)),
        ("phi", lambda: features.from_ntrf(np.zeros((2, 2)), ONES)),
        ("y", lambda: features.from_ntrf(EYE, np.ones(3))),
        ("y", lambda: features.from_ntrf(EYE, np.ones((2, 1)))),
        ("y", lambda: features.from_ntrf(EYE, np.array([0, 1]))),
        ("y", lambda: features.from_ntrf(EYE, np.array([1.0, np.nan]))),
        ("ntk", lambda: features.from_ntk(np.ones((2, 3)), ONES)),
        ("ntk", lambda: features.from_ntk(np.ones((2, 2, 2, 2)), ONES)),
        ("phi", lambda: features.from_ntrf(np.ones((2, 2, 3)), ONES)),
        ("phi", lambda: features.from_ntrf(1j * EYE, ONES)),
        ("ntk", lambda: features.from_ntk(EYE + 0j, ONES)),
        ("ntk", lambda: features.from_ntk(EYE > 0, ONES)),
        ("ntk", lambda: features.from_ntk(np.ones((0, 0)), np.ones(0))),
        ("ntk", lambda: features.from_ntk(np.array([[1.0, np.nan], [np.nan, 1]]), ONES)),
        ("ntk", lambda: features.from_ntk(np.array([[1.0, 0.5], [0.4, 1]]), ONES)),
        ("ntk", lambda: features.from_ntk(np.diag([1.0, -0.1]), ONES)),
        ("ntk", lambda: features.from_ntk(-EYE, ONES)),
        ("ntk", lambda: features.from_ntk(np.zeros((2, 2)), ONES)),
        ("y", lambda: features.from_ntk(EYE, np.array([2, 1]))),
        ("y", lambda: features.from_ntk(EYE, np.ones(1))),
        ("u", lambda: features.from_spectrum(np.ones((2, 2)), ONES)),
        ("u", lambda: features.from_spectrum(1.001 * EYE, ONES)),
        ("u", lambda: features.from_spectrum(np.ones(2), ONES)),
        ("u", lambda: features.from_spectrum(np.eye(3)[:2], np.ones(3))),
        ("u", lambda: features.from_spectrum(EYE * np.nan, ONES)),
        ("s", lambda: features.from_spectrum(EYE, np.ones(3))),
        ("s", lambda: features.from_spectrum(EYE, np.array([1.0, -1.0]))),
        ("s", lambda: features.from_spectrum(EYE, np.array([1.0, np.nan]))),
        ("y", lambda: features.from_spectrum(EYE, ONES, np.array([1.0, 0.5]))),
        ("y", lambda: features.from_spectrum(EYE, ONES, np.ones(3))),
        ("logits", lambda: features.from_spectrum(EYE, ONES).response(jnp.ones(3))),
        ("logits", lambda: features.from_spectrum(EYE, ONES).response(jnp.ones((2, 3)))),
    ],
)
def test_bad_input_is_named(x64, argument, call):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        call()


@pytest.mark.parametrize("construct", [features.from_ntrf, features.from_ntk])
def test_whole_numbers_are_numbers(construct):
    np.testing.assert_allclose(construct(np.array([[4, 0], [0, 1]]), np.array([1, -1])).s[1], 1)


def test_planar_features_are_those_of_eq_15():
    for delta in (-0.9, 0.0, 0.5):
        feats = features.planar(delta, np.array([9.0, 4.0]))
        np.testing.assert_allclose(feats.u, rotation(delta), rtol=1e-6)
        np.testing.assert_allclose(feats.s, [3, 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("argument", "delta", "s2"),
    [
        ("delta", 1.0, [1.0, 1.0]),
        ("delta", np.nan, [1.0, 1.0]),
        ("delta", [0.1], [1.0, 1.0]),
        ("s2", 0.1, [1.0]),
        ("s2", 0.1, [1.0, -1.0]),
        ("s2", 0.1, [1.0, np.nan]),
    ],
)
def test_bad_planar_features_are_named(argument, delta, s2):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        features.planar(delta, np.array(s2))


def test_features_that_the_conversion_to_float32_loses_are_noticed():
    """JAX turns float64 into float32 without a word where 64-bit types are off; here this changes the rank."""
    kernel, phi, y = np.diag([1.0, 1e-4, 1e-9]), np.diag([1.0, 1e-3, 1e-8]), np.ones(3)
    with jax.enable_x64(False):
        for name, construct, matrix in (("ntk", features.from_ntk, kernel), ("phi", features.from_ntrf, phi)):
            with pytest.warns(UserWarning, match=rf"^{name}: 64-bit types are off.* resolves 2 of its 3 features"):
                assert construct(matrix, y).rank == 2
            # No features are lost by these, or none that float64 has.
            assert construct(matrix.astype(np.float32), y).rank == 2
            assert construct(np.diag([1.0, 0.0]), y[:2]).rank == 1
            assert construct(np.diag([1.0, 1e-2]), y[:2]).rank == 2
            # Nothing can be said while values are traced.
            assert jax.jit(lambda construct=construct, matrix=matrix: construct(matrix, y).rank)() == 2
            assert construct(matrix, y, rtol=1e-2 if name == "phi" else 1e-4).rank < 3
    with jax.enable_x64(True):
        assert features.from_ntk(kernel, y).rank == features.from_ntrf(phi, y).rank == 3


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_given_features_in_half_precision_become_single(dtype):
    with jax.enable_x64(False):
        feats = features.from_spectrum(jnp.eye(2, dtype=dtype), jnp.array([1.0, 2.0], dtype))
        assert feats.u.dtype == feats.s.dtype == features.planar(0.5, jnp.ones(2, dtype)).u.dtype == jnp.float32
        alpha = dual.equilibrium(feats, Ridge(1.0), form="linearized").alpha
        np.testing.assert_allclose(alpha, dual.closed_form.permutation(feats.s2.astype(dtype), 1.0)[0], rtol=1e-6)
