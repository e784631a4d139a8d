"""Equilibria: published numbers, independent solutions, invariances, derivatives, convergence, status."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import itertools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial
from scipy.special import expit, lambertw

from gsjax import Ridge, SpectralDecoupling, dual, features
from gsjax.dual import newton, problem
from gsjax.dual.links import link
from tests.instances import (
    SOLVED,
    Instance,
    central_differences,
    decoupled_margins,
    equilibrium,
    instance,
    orthogonal,
    primal_minimum,
    ridge_field,
    rotation,
    slope,
    solve,
)

forms = pytest.mark.parametrize("form", ["exact", "linearized"])
STRENGTHS = np.array([0.1, 0.4, 2.0, 0.7, 0.2])
TARGETS = np.array([1.0, -0.5, 0.3, 2.5, 0.0])
ONES = np.ones(5)
LOOSE = 0.3


@pytest.mark.parametrize(
    ("s", "penalty", "response"),
    [
        ((2.0, 2.0), Ridge(0.01), (6.1204, 1.6400)),
        ((3.0, 2.0), Ridge(0.01), (7.0681, 1.5831)),
        ((2.0, 2.0), SpectralDecoupling(0.002), (6.3727, 1.7076)),
        ((6.0, 2.0), SpectralDecoupling(0.002), (6.3727, 1.7076)),
    ],
)
def test_the_equilibria_of_the_two_dimensional_example(s, penalty, response):
    with jax.enable_x64(True):
        state = equilibrium(rotation(0.5), np.array(s), np.ones(2), penalty)
        assert bool(state.converged)
        np.testing.assert_allclose(state.response, response, atol=6e-5)
        assert bool(state.decoupled) == isinstance(penalty, SpectralDecoupling)


# Independent solutions ------------------------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("strength", [1e-6, 1e-2, 1.0, 1e3], ids=str)
def test_the_field_vanishes_up_to_the_residual(x64, form, strength):
    example = instance(0)
    state = solve(example, Ridge(strength), form=form)
    assert bool(state.converged)
    assert state.alpha.dtype == state.response.dtype == state.residual.dtype == x64
    alpha = np.asarray(state.alpha, float)
    field = ridge_field(example.kernel, strength, alpha, form)
    linear = example.kernel @ alpha / strength + (alpha if form == "linearized" else 0)
    # The kernel magnifies the rounding of alpha.
    eps = float(jnp.finfo(x64).eps)
    rounding = 10 * eps * (1 + np.abs(example.kernel).sum(1).max() / strength * alpha.max())
    contract = np.abs(field).max() / (1 + np.abs(linear).max())
    assert contract <= 2 * float(state.residual) + rounding
    assert float(state.residual) <= max(eps ** (2 / 3), rounding)


@forms
def test_a_large_residual_matches_its_definition(form):
    # One example is opposed to the others: alpha is about its margin, so every term of the definition matters.
    u, _ = np.linalg.qr(np.eye(5) + np.outer([1, 1, 1, 1, -1], [10, 0, 0, 0, 0]))
    kernel = 16 * np.outer(u[:, 0], u[:, 0])
    with jax.enable_x64(True):
        state = equilibrium(u, np.array([4.0, 0, 0, 0, 0]), ONES, Ridge(1.0), form=form, tolerance=LOOSE)
        alpha = np.asarray(state.alpha)
        linear = kernel @ alpha + (alpha if form == "linearized" else 0)
        contract = np.abs(ridge_field(kernel, 1.0, alpha, form)).max() / (1 + np.abs(linear).max())
        np.testing.assert_allclose(state.residual, contract, rtol=1e-6)


PENALTIES = {
    "ridge": lambda strength: Ridge(strength),
    "decoupling": lambda strength: SpectralDecoupling(strength),
    "targets": lambda strength: SpectralDecoupling(strength * STRENGTHS, TARGETS),
}


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**16),
    exponent=st.floats(-2, 1.5),
    condition=st.sampled_from([1.0, 10.0, 100.0]),
    rank=st.integers(1, 5),
    name=st.sampled_from(sorted(PENALTIES)),
)
def test_it_is_the_minimum_of_the_training_objective(seed, exponent, condition, rank, name):
    example = instance(seed, rank=rank, condition=condition)
    penalty = PENALTIES[name](10**exponent)
    theta = primal_minimum(example.phi, example.y, penalty)
    logits = example.phi @ theta
    with jax.enable_x64(True):
        state = solve(example, penalty)
        assert bool(state.converged)
        np.testing.assert_allclose(state.alpha, expit(-example.y * logits), rtol=1e-7)
        np.testing.assert_allclose(state.response, example.u.T @ (example.y * logits), atol=1e-7)
        np.testing.assert_allclose(state.response, example.s * (example.vt @ theta), atol=1e-7)
        if name == "ridge":
            # Eqs. 7 and 11.
            pull = example.u.T @ np.asarray(state.alpha)
            np.testing.assert_allclose(theta, example.vt.T @ (example.s * pull) / penalty.strength, atol=1e-7)
            np.testing.assert_allclose(state.response, example.s**2 * pull / penalty.strength, atol=1e-9)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**16), exponent=st.floats(-6, 3), rank=st.integers(1, 5))
def test_the_linearised_fixed_point(seed, exponent, rank):
    example, strength = instance(seed, rank=rank), 10**exponent
    with jax.enable_x64(True):
        state = solve(example, Ridge(strength), form="linearized")
        assert bool(state.converged)
        alpha = np.asarray(state.alpha)
        np.testing.assert_array_equal(state.in_domain, np.all(alpha <= 1))
        field = ridge_field(example.kernel, strength, alpha, "linearized")
        assert np.abs(field).max() <= 1e-9 + 1e-14 * np.abs(example.kernel).max() / strength * alpha.max()


def test_equal_strengths_have_the_equilibrium_of_equation_12(x64):
    u = instance(1).u
    for strength in (0.01, 1.0):
        w = lambertw(4 / strength + 1).real
        state = equilibrium(u, 2 * ONES, ONES, Ridge(strength), form="linearized")
        np.testing.assert_allclose(state.alpha, strength * w / (4 + strength), rtol=SOLVED[x64])
        np.testing.assert_allclose(state.response, 4 * w / (4 + strength) * u.sum(0), atol=10 * SOLVED[x64])


def test_a_permutation_has_the_equilibrium_of_equation_13(x64):
    order = np.array([2, 0, 4, 1, 3])
    u, s = np.eye(5)[:, order], np.array([3.0, 0.1, 1.0, 0.0, 5.0])
    w = lambertw(s**2 / 0.1 + 1).real
    state = equilibrium(u, s, ONES, Ridge(0.1), form="linearized")
    np.testing.assert_allclose(state.alpha[order], 0.1 * w / (s**2 + 0.1), rtol=SOLVED[x64])
    np.testing.assert_allclose(state.response, s**2 * w / (s**2 + 0.1), atol=10 * SOLVED[x64])


def test_under_decoupling_every_example_has_its_own_equation(x64):
    example = instance(2)
    for strength, target in ((0.3, 0.0), (STRENGTHS, 0.0), (STRENGTHS, TARGETS), (1e-4, TARGETS), (1e2, 1.0)):
        state = solve(example, SpectralDecoupling(strength, target))
        margins = decoupled_margins(strength, target, example.y)
        assert bool(state.converged & state.decoupled & state.in_domain)
        np.testing.assert_allclose(state.alpha, expit(-margins), rtol=20 * SOLVED[x64])
        np.testing.assert_allclose(state.response, example.u.T @ margins, atol=20 * SOLVED[x64])
        residual = strength * (margins - example.y * target) - state.alpha
        np.testing.assert_allclose(residual, 0, atol=20 * SOLVED[x64])


def test_decoupling_does_not_depend_on_the_strengths_of_features(x64):
    example = instance(2)
    penalty = SpectralDecoupling(STRENGTHS, TARGETS)
    one, other = (solve(example._replace(s=s), penalty) for s in (example.s, np.array([1e-3, 7, 2, 1e2, 1])))
    np.testing.assert_array_equal(one.alpha, other.alpha)


def test_decoupling_below_full_rank_is_reported_as_coupled():
    penalty = SpectralDecoupling(STRENGTHS, TARGETS)
    example = instance(3, rank=3)
    with jax.enable_x64(True):
        state = solve(example, penalty)
        narrow = equilibrium(example.u[:, :3], example.s[:3], example.y, penalty)
        assert bool(state.converged & narrow.converged)
        assert not bool(state.decoupled | narrow.decoupled)
        logits = example.phi @ primal_minimum(example.phi, example.y, penalty)
        np.testing.assert_allclose(narrow.alpha, expit(-example.y * logits), rtol=1e-8)
        np.testing.assert_allclose(state.alpha, narrow.alpha, rtol=1e-9)
        np.testing.assert_allclose(state.response[:3], narrow.response, atol=1e-9)
        np.testing.assert_allclose(state.response[3:], 0, atol=1e-14)
        # The negative control: the decoupled equations do not hold.
        assert np.abs(example.y * logits - decoupled_margins(STRENGTHS, TARGETS, example.y)).max() > 0.1


def test_decoupling_with_strengths_of_very_different_size():
    strengths = 10.0 ** np.array([-8, -5, -2, 1, 4])
    with jax.enable_x64(True):
        state = solve(instance(2), SpectralDecoupling(strengths))
        margins = decoupled_margins(strengths, 0.0, ONES)
        assert bool(state.converged)
        np.testing.assert_allclose(state.alpha, expit(-margins), rtol=1e-8)


def test_the_linearised_form_may_leave_the_domain():
    # 20 equal examples and one opposed.
    u = np.append(np.ones(20), -1.0)[:, None] / np.sqrt(21)
    with jax.enable_x64(True):
        state = equilibrium(u, np.sqrt([21.0]), np.ones(21), Ridge(1.0), form="linearized")
        assert bool(state.converged)
        assert not bool(state.in_domain)
        alpha = np.asarray(state.alpha)
        assert alpha[-1] > 1.01
        np.testing.assert_allclose(ridge_field(21 * u @ u.T, 1.0, alpha, "linearized"), 0, atol=1e-9)


def test_without_features_the_outputs_do_not_change(x64):
    state = equilibrium(np.eye(5), 0 * ONES, ONES, Ridge(0.1))
    assert bool(state.converged)
    np.testing.assert_allclose(state.alpha, 0.5)
    np.testing.assert_array_equal(state.response, 0)


# Invariances ----------------------------------------------------------------------------------------------------------


@forms
def test_signs_of_features_only_change_the_signs_of_responses(x64, form):
    example, signs = instance(4), np.array([1, -1, -1, 1, -1])
    state = solve(example, Ridge(0.1), form=form)
    flipped = solve(example._replace(u=example.u * signs), Ridge(0.1), form=form)
    np.testing.assert_allclose(flipped.alpha, state.alpha, rtol=SOLVED[x64])
    np.testing.assert_allclose(flipped.response, state.response * signs, atol=SOLVED[x64])


@forms
def test_rotating_features_of_equal_strength_rotates_their_responses(x64, form):
    example = instance(5)._replace(s=np.array([3.0, 1.0, 1.0, 1.0, 0.5]))
    turn = np.eye(5)
    turn[1:4, 1:4] = orthogonal(np.random.default_rng(0), 3)
    state = solve(example, Ridge(0.1), form=form)
    turned = solve(example._replace(u=example.u @ turn), Ridge(0.1), form=form)
    np.testing.assert_allclose(turned.alpha, state.alpha, rtol=SOLVED[x64])
    np.testing.assert_allclose(turned.response, turn.T @ state.response, atol=SOLVED[x64])


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_the_order_of_examples_and_of_features_does_not_matter(x64, name):
    example = instance(6)
    rows, columns = np.array([3, 0, 4, 2, 1]), np.array([1, 4, 0, 3, 2])
    penalty = PENALTIES[name](0.5)
    permuted = penalty if name != "targets" else SpectralDecoupling(0.5 * STRENGTHS[rows], TARGETS[rows])
    state = solve(example, penalty)
    other = Instance(example.u[rows][:, columns], example.s[columns], example.vt, example.y[rows])
    found = solve(other, permuted)
    np.testing.assert_allclose(found.alpha, state.alpha[rows], rtol=SOLVED[x64])
    np.testing.assert_allclose(found.response, state.response[columns], atol=5 * SOLVED[x64])


@forms
def test_only_the_ratio_of_strengths_to_the_penalty_matters(x64, form):
    example = instance(7)
    state = solve(example, Ridge(0.1), form=form)
    scaled = solve(example._replace(s=10 * example.s), Ridge(10.0), form=form)
    np.testing.assert_allclose(scaled.alpha, state.alpha, rtol=SOLVED[x64])
    np.testing.assert_allclose(scaled.response, state.response, atol=SOLVED[x64])


# Transformations ------------------------------------------------------------------------------------------------------


def test_a_batch_equals_a_loop():
    examples = [instance(seed) for seed in range(4)]
    u, s, _, y = (np.stack(leaves) for leaves in zip(*examples, strict=True))
    strengths = np.array([1e-6, 1e-2, 1.0, 1e3])

    def one_problem(u, s, y, penalty):
        return dual.equilibrium(features.from_spectrum(u, s, y), penalty)

    with jax.enable_x64(True):
        batched = jax.jit(jax.vmap(one_problem))(u, s, y, Ridge(strengths))
        assert bool(jnp.all(batched.converged))
        for i, example in enumerate(examples):
            single = solve(example, Ridge(strengths[i]))
            for name in ("alpha", "response", "residual"):
                np.testing.assert_allclose(getattr(batched, name)[i], getattr(single, name), atol=1e-9)
            assert abs(int(batched.iterations[i]) - int(single.iterations)) <= 1


def test_it_is_traced_once_for_all_problems_of_a_shape():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def response(phi, y, penalty):
        return dual.equilibrium(features.from_ntrf(phi, y), penalty).response

    for seed, strength in enumerate((0.1, 0.2, 3.0)):
        example = instance(seed, rank=5 - seed)
        assert bool(jnp.all(jnp.isfinite(response(example.phi, example.y, Ridge(strength)))))


def turned(u, tangent):
    """U rotated along the antisymmetric direction with entries `tangent (10,)` above the diagonal (Cayley)."""
    upper = jnp.zeros((5, 5)).at[np.triu_indices(5, 1)].set(tangent)
    half = (upper - upper.T) / 2
    return u @ jnp.linalg.solve(jnp.eye(5) - half, jnp.eye(5) + half)


DIFFERENTIATED = {
    "ridge, exact": ("exact", Ridge),
    "ridge, linearised": ("linearized", Ridge),
    "decoupling": ("exact", lambda strength: SpectralDecoupling(strength * STRENGTHS, TARGETS)),
}


@pytest.mark.parametrize(("form", "penalty"), DIFFERENTIATED.values(), ids=DIFFERENTIATED)
def test_derivatives_are_those_of_the_solution(form, penalty):
    @jax.jit
    def optimum(x, u, s, y):
        feats = features.from_spectrum(turned(u, x[:10]), s * jnp.exp(x[10:15]), y)
        state = dual.equilibrium(feats, penalty(0.2 * jnp.exp(x[15])), form=form)
        return jnp.concatenate([state.alpha, state.response])

    both = (jax.jacfwd, jax.jacrev) if penalty is Ridge and form == "exact" else (jax.jacrev,)
    jacobians = jax.jit(lambda *args: [jacobian(optimum)(*args) for jacobian in both])
    with jax.enable_x64(True):
        x = np.zeros(16)
        for rank in (5, 3):
            u, s, _, y = instance(8, rank=rank)
            expected = central_differences(optimum, x, 1e-3, u, s, y)
            for found in jacobians(x, u, s, y):
                np.testing.assert_allclose(found, expected, atol=1e-8)
            assert np.abs(expected).max() > 0.01


@pytest.mark.slow
def test_second_derivatives():
    example = instance(8)

    def response(x):
        penalty = Ridge(jnp.exp(x[0]))
        feats = features.from_spectrum(example.u, example.s * jnp.exp(x[1] * np.arange(5)), example.y)
        return dual.equilibrium(feats, penalty).response @ np.arange(1.0, 6)

    with jax.enable_x64(True):
        x = np.array([-1.0, 0.1])
        gradient = jax.jit(jax.grad(response))
        expected = central_differences(gradient, x, 1e-3)
        np.testing.assert_allclose(jax.jit(jax.hessian(response))(x), expected, atol=1e-7)


def test_per_example_strengths_and_targets_have_derivatives():
    example = instance(9)

    def alpha(strength, target):
        feats = features.from_spectrum(example.u, example.s, example.y)
        return dual.equilibrium(feats, SpectralDecoupling(strength, target)).alpha

    with jax.enable_x64(True):
        strength_jacobian, target_jacobian = jax.jit(jax.jacrev(alpha, argnums=(0, 1)))(STRENGTHS, TARGETS)
        # lambda (m - y t) = sigma(-m) for each example.
        margins = decoupled_margins(STRENGTHS, TARGETS, example.y)
        curvature = expit(margins) * expit(-margins)
        slope_of_margin = (example.y * TARGETS - margins) / (STRENGTHS + curvature)
        np.testing.assert_allclose(strength_jacobian, np.diag(-curvature * slope_of_margin), atol=1e-8)
        slope_of_margin = STRENGTHS * example.y / (STRENGTHS + curvature)
        np.testing.assert_allclose(target_jacobian, np.diag(-curvature * slope_of_margin), atol=1e-8)


# Convergence ----------------------------------------------------------------------------------------------------------


@forms
def test_convergence_is_quadratic(form):
    rule = link(form)
    loss = newton.Loss(
        value=Partial(lambda m: jnp.sum(rule.loss(m))),
        dual=Partial(rule.alpha),
        gram=Partial(lambda m, basis: basis.T @ (rule.curvature(m)[:, None] * basis)),
        bound=Partial(lambda m, a: rule.curvature(m) * a),
    )

    @jax.jit
    def margins(u, s, strength, iterations):
        whitened = problem.whiten(features.from_spectrum(u, s), Ridge(strength))
        w, info = newton.minimise(loss, whitened.basis, whitened.centre, max_iterations=iterations, tolerance=1e-13)
        return whitened.basis @ w, info

    before, after = [], []
    with jax.enable_x64(True):
        for seed in range(12):
            rng = np.random.default_rng(seed)
            u, s, strength = orthogonal(rng, 20), 10 ** rng.uniform(-2, 1, 20), 10 ** rng.uniform(-4, -1)
            path, infos = zip(*(margins(u, s, strength, k) for k in range(12)), strict=True)
            assert not bool(infos[0].converged)
            errors = [float(np.abs(m - path[-1]).max()) for m in path]
            for error, following in itertools.pairwise(errors):
                if error < 0.3 and following > 1e-12:
                    before.append(error)
                    after.append(following)
    assert len(before) >= 12
    assert slope(before, after) == pytest.approx(2, abs=0.2)


def wishart(rng, n):
    a = rng.standard_normal((n, n))
    return a @ a.T / n, rng.choice([-1.0, 1.0], n)


def arc_cosine(rng, n):
    """The tangent kernel of an infinitely wide ReLU network with one hidden layer, labels from a random teacher."""
    x = rng.standard_normal((n, 20))
    norms = np.linalg.norm(x, axis=1)
    cosine = np.clip(x @ x.T / np.outer(norms, norms), -1, 1)
    angle = np.arccos(cosine)
    k0 = (np.pi - angle) / np.pi
    k1 = (np.sin(angle) + (np.pi - angle) * cosine) / np.pi
    kernel = np.outer(norms, norms) / 20 * (k1 + cosine * k0)
    teacher = np.maximum(x @ rng.standard_normal((20, 8)), 0) @ rng.standard_normal(8)
    return (kernel + kernel.T) / 2, np.where(teacher > 0, 1.0, -1.0)


def log_spaced(rng, n):
    u = orthogonal(rng, n)
    kernel = (u * np.geomspace(1e2, 1e-6, n)) @ u.T
    return (kernel + kernel.T) / 2, rng.choice([-1.0, 1.0], n)


@pytest.mark.parametrize(
    "kernel",
    [arc_cosine, pytest.param(wishart, marks=pytest.mark.slow), pytest.param(log_spaced, marks=pytest.mark.slow)],
)
def test_at_most_twelve_iterations_from_a_cold_start_with_a_thousand_examples(kernel):
    matrix, y = kernel(np.random.default_rng(0), 1000)
    with jax.enable_x64(True):
        feats = features.from_ntk(matrix, y)
        for form in ("exact", "linearized"):
            state = equilibrium(feats.u, feats.s, y, Ridge(1e-2), form=form)
            assert bool(state.converged)
            assert int(state.iterations) <= 12
            alpha = np.asarray(state.alpha)
            signed = y[:, None] * matrix * y
            field = ridge_field(signed, 1e-2, alpha, form)
            assert np.abs(field).max() / (1 + np.abs(signed @ alpha).max() / 1e-2) < 1e-9


# Status and bad input -------------------------------------------------------------------------------------------------


def test_the_solver_stops_at_the_given_tolerance():
    example = instance(10, condition=300)
    with jax.enable_x64(True):
        fine = solve(example, Ridge(1e-4))
        coarse = solve(example, Ridge(1e-4), tolerance=LOOSE)
    assert bool(coarse.converged)
    assert 1e-3 < float(coarse.residual) <= LOOSE
    assert int(coarse.iterations) < int(fine.iterations)
    assert float(fine.residual) < 1e-10


def test_a_tolerance_out_of_reach_is_not_reported_as_reached():
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = solve(instance(10, condition=1e3), Ridge(1e-8), tolerance=1e-18)
        np.testing.assert_array_equal(state.converged, state.residual <= 1e-18)
        assert int(state.iterations) < 100  # it stops when rounding ends progress
        assert float(state.residual) < 1e-9


def test_a_tolerance_below_single_precision_warns():
    feats = features.from_spectrum(np.eye(2), np.ones(2))
    with pytest.warns(UserWarning, match="tolerance 1e-10 is below the precision of float32"):
        jax.eval_shape(lambda: dual.equilibrium(feats, Ridge(1.0), tolerance=1e-10))
    with jax.enable_x64(True):
        feats = features.from_spectrum(np.eye(2), np.ones(2))
        jax.eval_shape(lambda: dual.equilibrium(feats, Ridge(1.0), tolerance=1e-10))


def test_nan_in_a_traced_problem_is_not_reported_as_converged():
    bad = np.array([1, 1, np.nan, 1, 1])
    for u, s in ((np.full((5, 5), np.nan), ONES), (np.eye(5), bad)):
        assert not bool(equilibrium(u, s, ONES, Ridge(0.1)).converged)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("form", {"form": "primal"}),
        ("form", {"form": None}),
        ("penalty", {"penalty": None}),
        ("penalty", {"penalty": 0.1}),
        ("penalty", {"penalty": Ridge}),
        ("penalty.strength", {"penalty": Ridge(np.ones(2))}),
        ("penalty.strength", {"penalty": SpectralDecoupling(np.ones(3))}),
        ("penalty.target", {"penalty": SpectralDecoupling(1.0, np.ones(3))}),
        ("tolerance", {"tolerance": 0.0}),
        ("tolerance", {"tolerance": -1e-6}),
        ("tolerance", {"tolerance": float("nan")}),
    ],
)
def test_bad_input_is_named(argument, options):
    feats = features.from_spectrum(np.eye(2), np.ones(2))
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        dual.equilibrium(feats, **{"penalty": Ridge(1.0), **options})
