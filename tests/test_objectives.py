"""Losses and penalties: Eqs. 5, 6 and 17 in the conventions of the library, and bad input."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, xlogy

from gsjax import Ridge, SpectralDecoupling
from gsjax.objectives import hinge_loss, logistic_loss, objective, penalty_value, per_example
from tests.instances import ROUNDING


def test_the_loss_is_a_sum_over_examples_in_nats(x64):
    margins = jnp.array([-3.0, 0.0, 2.0])
    np.testing.assert_allclose(logistic_loss(margins), np.log1p(np.exp([3.0, 0.0, -2.0])).sum(), rtol=ROUNDING[x64])
    np.testing.assert_allclose(logistic_loss(jnp.zeros(7)), 7 * np.log(2), rtol=ROUNDING[x64])
    np.testing.assert_allclose(jax.grad(logistic_loss)(margins), -expit(-np.asarray(margins)), rtol=ROUNDING[x64])


def test_the_loss_neither_overflows_nor_loses_its_tail(x64):
    np.testing.assert_allclose(logistic_loss(jnp.array([-1e4])), 1e4)
    np.testing.assert_allclose(logistic_loss(jnp.array([60.0])), np.exp(-60.0), rtol=ROUNDING[x64])


def test_the_hinge_loss_is_a_sum_whose_margins_pull_below_one(x64):
    margins = np.array([-3.0, 0.5, 1.0, 1.5, 1e30])
    np.testing.assert_allclose(hinge_loss(jnp.asarray(margins)), 4.5, rtol=ROUNDING[x64])
    value, gradient = jax.value_and_grad(hinge_loss)(jnp.asarray(margins))
    assert value.dtype == gradient.dtype == x64
    np.testing.assert_array_equal(gradient, [-1, -1, 0, 0, 0])  # 0 at the kink, as 1{m < 1}
    below = np.nextafter(x64(1), x64(0))
    assert float(jax.grad(hinge_loss)(jnp.array([below]))[0]) == -1


@given(st.floats(-30, 30), st.floats(0, 1))
def test_every_dual_variable_bounds_the_loss_from_below(margin, alpha):
    entropy = -xlogy(alpha, alpha) - xlogy(1 - alpha, 1 - alpha)
    with jax.enable_x64(True):
        loss = float(logistic_loss(jnp.array([margin])))
    assert loss >= entropy - alpha * margin - 1e-12  # Eq. 6
    tight = expit(-margin)
    entropy = -xlogy(tight, tight) - xlogy(1 - tight, expit(margin))
    np.testing.assert_allclose(loss, entropy - tight * margin, rtol=1e-9, atol=1e-12)


def test_ridge_is_half_the_strength_times_the_squared_norm_of_any_tree(x64):
    theta = {"a": jnp.array([1.0, 2.0]), "b": [jnp.array([[3.0], [4.0]])]}
    np.testing.assert_allclose(penalty_value(Ridge(0.2), theta, jnp.ones(3)), 0.1 * 30, rtol=ROUNDING[x64])


def test_spectral_decoupling_is_half_the_strength_times_a_sum_of_squared_outputs(x64):
    logits = jnp.array([1.0, -2.0, 3.0])
    value = penalty_value(SpectralDecoupling(0.2), None, logits)
    np.testing.assert_allclose(value, 0.1 * 14, rtol=ROUNDING[x64])
    strength, target = jnp.array([0.2, 0.4, 0.6]), jnp.array([1.0, 1.0, -1.0])
    value = penalty_value(SpectralDecoupling(strength, target), None, logits)
    np.testing.assert_allclose(value, 0.2 * 9 + 0.3 * 16, rtol=ROUNDING[x64])


def test_the_target_applies_to_outputs_and_not_to_margins():
    logits = jnp.array([1.0, -1.0])
    assert float(penalty_value(SpectralDecoupling(1.0, 1.0), None, logits)) == 2.0
    shifted, y = SpectralDecoupling(1.0, jnp.array([2.5, 0.44])), jnp.array([1.0, -1.0])
    difference = objective(shifted, None, logits, y) - logistic_loss(y * logits)
    np.testing.assert_allclose(difference, (1.5**2 + 1.44**2) / 2, rtol=1e-6)


def test_the_objective_is_the_loss_of_the_margins_and_the_penalty():
    theta, logits, y = jnp.array([2.0]), jnp.array([1.0, 3.0]), jnp.array([1.0, -1.0])
    np.testing.assert_allclose(
        objective(Ridge(0.5), theta, logits, y), np.log1p(np.exp([-1.0, 3.0])).sum() + 1, rtol=1e-6
    )


def test_a_tuple_of_penalties_is_their_sum(x64):
    theta, logits, y = jnp.array([2.0, -1.0]), jnp.array([1.0, -3.0]), jnp.array([1.0, -1.0])
    terms = Ridge(0.5), SpectralDecoupling(0.2, 1.0)
    parts = [penalty_value(term, theta, logits) for term in terms]
    assert float(min(parts)) > 0
    np.testing.assert_allclose(penalty_value(terms, theta, logits), sum(parts), rtol=ROUNDING[x64])
    value = objective(terms, theta, logits, y)
    np.testing.assert_allclose(value, logistic_loss(y * logits) + sum(parts), rtol=ROUNDING[x64])
    np.testing.assert_allclose(objective((), theta, logits, y), logistic_loss(y * logits), rtol=ROUNDING[x64])
    assert value.dtype == x64


def test_scalars_apply_to_every_example(x64):
    strength, target = per_example(SpectralDecoupling(0.5, jnp.arange(3.0)), 3, x64)
    np.testing.assert_array_equal(strength, [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(target, [0, 1, 2])
    assert strength.dtype == target.dtype == x64


def test_penalties_are_trees_whose_leaves_may_be_batched_and_differentiated():
    penalties = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(Ridge(jnp.float32(x)) for x in (1, 2, 3)))
    values = jax.vmap(lambda penalty: penalty_value(penalty, jnp.array([2.0]), jnp.ones(1)))(penalties)
    np.testing.assert_array_equal(values, [2, 4, 6])
    gradient = jax.jit(jax.grad(lambda penalty: penalty_value(penalty, None, jnp.array([1.0, 2.0]))))(
        SpectralDecoupling(2.0, 0.5)
    )
    np.testing.assert_allclose(gradient.strength, (0.25 + 2.25) / 2)
    np.testing.assert_allclose(gradient.target, -2 * (0.5 + 1.5))
    emptied = jax.tree.map(lambda leaf: None, SpectralDecoupling(2.0))
    assert (emptied.strength, emptied.target) == (None, None)


def test_penalties_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Ridge(1.0), "strength", 2.0)  # noqa: B010


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("strength", lambda: Ridge(0.0)),
        ("strength", lambda: Ridge(-1.0)),
        ("strength", lambda: Ridge(float("nan"))),
        ("strength", lambda: Ridge(jnp.inf)),
        ("strength", lambda: Ridge(np.float32(-1))),
        ("strength", lambda: Ridge("0.1")),
        ("strength", lambda: SpectralDecoupling(0)),
        ("strength", lambda: SpectralDecoupling(jnp.array([1.0, -1.0]))),
        ("strength", lambda: SpectralDecoupling(np.array([1.0, np.nan]))),
        ("strength", lambda: SpectralDecoupling([1.0, -1.0])),
        ("target", lambda: SpectralDecoupling(1.0, float("inf"))),
        ("target", lambda: SpectralDecoupling(1.0, "a")),
        ("target", lambda: SpectralDecoupling(1.0, np.array([0.0, np.nan]))),
        ("penalty", lambda: penalty_value(None, None, jnp.ones(2))),
        ("penalty", lambda: penalty_value(0.1, None, jnp.ones(2))),
        ("penalty", lambda: penalty_value((Ridge(1.0), 0.1), jnp.ones(2), jnp.ones(2))),
        ("penalty.strength", lambda: penalty_value(SpectralDecoupling(jnp.ones(3)), None, jnp.ones(2))),
        ("penalty.strength", lambda: penalty_value(SpectralDecoupling(jnp.ones((2, 1))), None, jnp.ones(2))),
        ("penalty.target", lambda: penalty_value(SpectralDecoupling(1.0, jnp.ones(3)), None, jnp.ones(2))),
        ("penalty.strength", lambda: penalty_value(Ridge(jnp.ones(2)), jnp.ones(2), jnp.ones(2))),
    ],
)
def test_bad_input_is_named(argument, call):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        call()
