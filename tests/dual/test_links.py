"""The two links between margins and dual variables: losses, derivatives and coordinates are consistent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import xlogy

from gsjax.dual.links import LINKS, link

TOLERANCE = {jnp.float32: 1e-5, jnp.float64: 1e-13}
forms = pytest.mark.parametrize("form", ["exact", "linearized"])


@forms
def test_dual_variable_and_curvature_are_derivatives_of_the_loss(x64, form):
    rule = link(form)
    margins = jnp.linspace(-30, 30, 121)
    slope = jax.jit(jax.vmap(jax.grad(rule.loss)))(margins)
    np.testing.assert_allclose(rule.alpha(margins), -slope, rtol=TOLERANCE[x64])
    curvature = -jax.jit(jax.vmap(jax.grad(rule.alpha)))(margins)
    # JAX differentiates the sigmoid to alpha (1 - alpha), which cancels as alpha nears one; `curvature` does not.
    np.testing.assert_allclose(rule.curvature(margins), curvature, rtol=TOLERANCE[x64], atol=TOLERANCE[x64] / 100)
    assert bool(jnp.all(rule.curvature(margins) > 0))


@forms
def test_coordinates_and_dual_variables_are_inverse(x64, form):
    rule = link(form)
    alpha = jnp.geomspace(1e-12, 0.9, 50)
    np.testing.assert_allclose(rule.from_coordinate(rule.coordinate(alpha)), alpha, rtol=10 * TOLERANCE[x64])
    v = rule.coordinate(alpha)
    np.testing.assert_allclose(rule.speed(v), jax.vmap(jax.grad(rule.from_coordinate))(v), rtol=TOLERANCE[x64])
    # The margin of alpha maps back to alpha.
    np.testing.assert_allclose(rule.alpha(rule.margin(v)), alpha, rtol=20 * TOLERANCE[x64])


@forms
def test_extreme_margins_stay_finite(x64, form):
    rule = link(form)
    margins = jnp.array([-1e4, -500.0, 500.0, 1e4])
    for function in (rule.loss, rule.alpha, rule.curvature):
        assert bool(jnp.all(jnp.isfinite(function(margins))))
    np.testing.assert_allclose(rule.alpha(margins)[2:], rule.loss(margins)[2:], rtol=TOLERANCE[x64])


def test_the_exact_link_makes_equation_6_an_equality():
    with jax.enable_x64(True):
        rule, margins = link("exact"), jnp.linspace(-20, 20, 41)
        alpha = rule.alpha(margins)
        entropy = -xlogy(alpha, alpha) - xlogy(1 - alpha, 1 - alpha)
        np.testing.assert_allclose(rule.loss(margins), entropy - alpha * margins, atol=1e-13)


def test_the_linearised_link_replaces_log_of_one_minus_alpha_by_minus_alpha():
    with jax.enable_x64(True):
        alpha_function = jax.jit(link("linearized").alpha)
        margins = jnp.linspace(-50, 50, 101)
        alpha = alpha_function(margins)
        np.testing.assert_allclose(-jnp.log(alpha) - alpha, margins, atol=1e-13)
        small = jnp.linspace(7, 30, 20)  # alpha = exp(-m): for small alpha the links agree to first order
        np.testing.assert_allclose(alpha_function(small), link("exact").alpha(small), rtol=1e-6)


def test_an_unknown_form_is_named():
    assert set(LINKS) == {"exact", "linearized"}
    with pytest.raises(ValueError, match=r"^form: expected one of exact, linearized, got 'linear'"):
        link("linear")
