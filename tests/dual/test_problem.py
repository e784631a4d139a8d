"""The dual problem: its whitened form against Eqs. 8, 9 and 18 as printed, and duality with training."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, xlogy

from gsjax import Ridge, SpectralDecoupling, features, objectives
from gsjax.dual import problem
from gsjax.dual.links import link
from tests.instances import ROUNDING, instance, primal_minimum, ridge_field, solve

STRENGTHS = np.array([0.1, 0.4, 2.0, 0.7, 0.2])
TARGETS = np.array([1.0, -0.5, 0.3, 2.5, 0.0])
PENALTIES = {
    "ridge": Ridge(0.3),
    "decoupling": SpectralDecoupling(0.3),
    "targets": SpectralDecoupling(STRENGTHS, TARGETS),
}
penalties = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)


def whiten(instance, penalty):
    return problem.whiten(features.from_spectrum(instance.u, instance.s, instance.y), penalty)


def entropy(alpha):
    return np.sum(-xlogy(alpha, alpha) - xlogy(1 - alpha, 1 - alpha))


def constant(whitened, penalty, y):
    """The constant that targets add to the primal: `sum_i lambda_i t_i^2 / 2 - |B^T L Y t|^2 / 2`."""
    if isinstance(penalty, Ridge):
        return 0.0
    pull = penalty.strength * y * penalty.target
    return (
        np.sum(penalty.strength * np.broadcast_to(penalty.target, y.shape) ** 2) / 2
        - np.sum((whitened.basis.T @ pull) ** 2) / 2
    )


def test_ridge_gives_the_kernel_over_its_strength(x64):
    example = instance(0)
    whitened = whiten(example, Ridge(0.3))
    kernel = example.y[:, None] * (example.phi @ example.phi.T) * example.y
    np.testing.assert_allclose(whitened.basis @ whitened.basis.T, kernel / 0.3, atol=100 * ROUNDING[x64])
    np.testing.assert_array_equal(whitened.offset, 0)
    alpha = np.linspace(0.1, 0.9, 5)
    np.testing.assert_allclose(whitened.linear_term(alpha), kernel @ alpha / 0.3, rtol=100 * ROUNDING[x64])


def test_decoupling_at_full_rank_gives_every_example_its_own_equation(x64):
    example = instance(1)
    whitened = whiten(example, PENALTIES["targets"])
    tolerance = 100 * ROUNDING[x64]
    np.testing.assert_allclose(whitened.basis @ whitened.basis.T, np.diag(1 / STRENGTHS), atol=tolerance)
    np.testing.assert_allclose(whitened.offset, example.y * TARGETS, atol=tolerance)


def test_decoupling_at_lower_rank_projects(x64):
    example = instance(2, rank=3)
    whitened = whiten(example, PENALTIES["targets"])
    u = example.u[:, :3]
    projection = u @ np.linalg.solve(u.T @ np.diag(STRENGTHS) @ u, u.T)
    tolerance = 100 * ROUNDING[x64]
    np.testing.assert_allclose(whitened.basis @ whitened.basis.T, projection, atol=tolerance)
    np.testing.assert_allclose(whitened.offset, projection @ (STRENGTHS * example.y * TARGETS), atol=tolerance)
    narrow = problem.whiten(features.from_spectrum(u, example.s[:3], example.y), PENALTIES["targets"])
    np.testing.assert_allclose(narrow.basis @ narrow.basis.T, projection, atol=tolerance)


def test_scalars_apply_to_every_example():
    one = whiten(instance(2), SpectralDecoupling(0.3, 1.0))
    other = whiten(instance(2), SpectralDecoupling(np.full(5, 0.3), np.ones(5)))
    np.testing.assert_array_equal(one.basis, other.basis)
    np.testing.assert_array_equal(one.offset, other.offset)


def test_decoupling_resolves_strengths_of_very_different_size():
    strengths = 10.0 ** np.array([-8, -5, -2, 1, 4])
    with jax.enable_x64(True):
        whitened = whiten(instance(1), SpectralDecoupling(strengths))
        scaled = whitened.basis * np.sqrt(strengths)[:, None]
        np.testing.assert_allclose(scaled @ scaled.T, np.eye(5), atol=1e-12)


@pytest.mark.parametrize("form", ["exact", "linearized"])
def test_the_field_is_that_of_the_paper(x64, form):
    example = instance(3)
    alpha = np.array([1e-6, 0.1, 0.3, 0.5, 0.9])
    field = problem.field(whiten(example, Ridge(0.3)), link(form), jnp.asarray(alpha))
    np.testing.assert_allclose(field, ridge_field(example.kernel, 0.3, alpha, form), atol=100 * ROUNDING[x64])


def test_the_field_of_decoupling_is_equation_18():
    alpha = np.array([1e-6, 0.1, 0.3, 0.5, 0.9])
    with jax.enable_x64(True):
        field = problem.field(whiten(instance(3), SpectralDecoupling(0.3)), link("exact"), jnp.asarray(alpha))
        np.testing.assert_allclose(field, np.log((1 - alpha) / alpha) - alpha / 0.3, atol=1e-12)


@penalties
def test_the_field_is_the_gradient_of_the_dual_objective(penalty):
    with jax.enable_x64(True):
        whitened = whiten(instance(4), penalty)
        alpha = jnp.array([1e-6, 0.1, 0.3, 0.5, 0.9])
        gradient = jax.grad(lambda alpha: problem.objective(whitened, alpha))(alpha)
        np.testing.assert_allclose(gradient, problem.field(whitened, link("exact"), alpha), atol=1e-12)


def test_the_dual_objective_is_that_of_the_paper(x64):
    example = instance(4)
    alpha = np.array([1e-6, 0.1, 0.3, 0.5, 0.9])
    value = problem.objective(whiten(example, Ridge(0.3)), jnp.asarray(alpha))
    np.testing.assert_allclose(value, entropy(alpha) - alpha @ example.kernel @ alpha / 0.6, rtol=10 * ROUNDING[x64])


@penalties
@pytest.mark.parametrize("rank", [5, 3])
def test_strong_duality(penalty, rank):
    example = instance(5, rank=rank)
    theta = primal_minimum(example.phi, example.y, penalty)
    logits = example.phi @ theta
    with jax.enable_x64(True):
        primal = objectives.objective(penalty, theta, logits, example.y)
        whitened = whiten(example, penalty)
        dual = problem.objective(whitened, solve(example, penalty).alpha)
        np.testing.assert_allclose(primal, dual + constant(whitened, penalty, example.y), rtol=1e-10)


@settings(max_examples=20)
@given(
    st.lists(st.floats(1e-6, 1 - 1e-6), min_size=5, max_size=5),
    st.lists(st.floats(-3, 3), min_size=8, max_size=8),
    st.sampled_from(sorted(PENALTIES)),
)
def test_weak_duality(alpha, theta, name):
    penalty, example = PENALTIES[name], instance(5)
    logits = example.phi @ np.asarray(theta)
    with jax.enable_x64(True):
        primal = objectives.objective(penalty, jnp.asarray(theta), jnp.asarray(logits), jnp.asarray(example.y))
        whitened = whiten(example, penalty)
        dual = problem.objective(whitened, jnp.asarray(alpha))
        assert primal >= dual + constant(whitened, penalty, example.y) - 1e-9


def test_the_whitened_primal_is_training_in_other_coordinates():
    # min over w of loss(B w + b) + |w|^2 / 2, at w = B^T alpha.
    example, penalty = instance(6), PENALTIES["targets"]
    theta = primal_minimum(example.phi, example.y, penalty)
    margins = example.y * (example.phi @ theta)
    with jax.enable_x64(True):
        whitened = whiten(example, penalty)
        w = whitened.basis.T @ expit(-margins)
        np.testing.assert_allclose(whitened.basis @ w + whitened.offset, margins, atol=1e-9)


@pytest.mark.parametrize(
    ("argument", "penalty"),
    [
        ("penalty", None),
        ("penalty", 0.1),
        ("penalty.strength", Ridge(np.ones(5))),
        ("penalty.strength", SpectralDecoupling(np.ones(4))),
        ("penalty.target", SpectralDecoupling(1.0, np.ones(4))),
    ],
)
def test_bad_penalties_are_named(argument, penalty):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        whiten(instance(0), penalty)
