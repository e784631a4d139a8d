"""Softmax cross-entropy: direct minimisation, the binary case, relabelling, starvation, and bad input."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from gsjax import Ridge, SpectralDecoupling, features, multiclass, starvation
from gsjax.multiclass import softmax as cross_entropy
from tests.instances import ROUNDING, central_differences, dense, equilibrium, instance, softmax_minimum

N, K, M = 5, 3, 18
PULLS = np.random.default_rng(1).uniform(0.1, 1, N * K)
TARGETS = np.random.default_rng(2).standard_normal(N * K)


def problem(seed: int, k: int = K) -> tuple[np.ndarray, np.ndarray]:
    """Features `(n, k, m)` and labels with every class among them."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((N, k, M)) * 0.8 ** np.arange(M), rng.permutation(np.arange(N) % k)


def _compiled(function, **options):
    compiled = jax.jit(
        lambda u, s, labels, penalty: function(
            multiclass.Features(u, s, None, labels, jnp.sum(s > 0)), penalty, **options
        )
    )
    return lambda feats, penalty: compiled(feats.u, feats.s, feats.labels, dense(penalty, feats.u.shape[0]))


# Compiled once for all problems of one shape.
solve = _compiled(multiclass.equilibrium)
starve = _compiled(multiclass.starvation_matrix, oriented=False)


@pytest.mark.parametrize(
    "penalty",
    [Ridge(0.1), Ridge(3.0), SpectralDecoupling(0.2), SpectralDecoupling(PULLS, TARGETS)],
    ids=["ridge .1", "ridge 3", "decoupling", "targets"],
)
def test_it_is_the_minimum_of_the_training_objective(penalty):
    phi, labels = problem(0)
    phi[4] = phi[3]  # a repeated input, of another class: below full rank
    with jax.enable_x64(True):
        assert multiclass.from_ntrf(phi, labels).u.shape == (15, 12)
        feats = jax.jit(multiclass.from_ntrf)(phi, labels)  # padded to the common shape
        assert int(feats.rank) == 12
        state = solve(feats, penalty)
        assert bool(state.converged)
        logits = phi @ softmax_minimum(phi, labels, penalty)
        np.testing.assert_allclose(state.logits, logits, atol=1e-7)
        np.testing.assert_allclose(state.response, feats.response(state.logits), atol=1e-9)
        np.testing.assert_allclose(feats.response(state.logits), feats.u.T @ logits.ravel(), atol=1e-7)


def test_the_residual_matches_its_definition():
    phi, labels = problem(1)
    with jax.enable_x64(True):
        feats = multiclass.from_ntrf(phi, labels)
        compiled = jax.jit(lambda feats: multiclass.equilibrium(feats, Ridge(0.01), tolerance=0.1))
        state = compiled(feats._replace(rank=jnp.asarray(feats.rank)))
        flat = phi.reshape(N * K, M)
        pull = (np.eye(K)[labels] - softmax(state.logits, axis=1)).ravel()
        linear = flat @ flat.T @ pull / 0.01
        residual = np.abs(state.logits.ravel() - linear).max() / (1 + np.abs(linear).max())
        np.testing.assert_allclose(state.residual, residual, rtol=1e-6, atol=1e-14)
        assert bool(state.converged)
        assert float(state.residual) <= 0.1


def test_the_feature_array_and_its_kernel_have_the_same_features(x64):
    phi, labels = problem(2)
    kernel = np.einsum("ikm,jlm->ijkl", phi, phi)
    from_phi, from_kernel = multiclass.from_ntrf(phi, labels), multiclass.from_ntk(kernel, labels)
    tolerance = 1000 * ROUNDING[x64]
    np.testing.assert_allclose(from_kernel.s, from_phi.s, rtol=tolerance)
    for feats in (from_phi, from_kernel):
        stacked = (feats.u * feats.s2) @ feats.u.T
        np.testing.assert_allclose(stacked, phi.reshape(N * K, M) @ phi.reshape(N * K, M).T, atol=tolerance)
        np.testing.assert_array_equal(feats.labels, labels)
    assert from_phi.vt is not None
    np.testing.assert_allclose((from_phi.u * from_phi.s) @ from_phi.vt, phi.reshape(N * K, M), atol=tolerance)
    assert from_kernel.vt is None
    one, other = solve(from_phi, Ridge(0.3)), solve(from_kernel, Ridge(0.3))
    np.testing.assert_allclose(one.logits, other.logits, atol=tolerance)
    assert one.logits.dtype == x64
    assert one.logits.shape == (N, K)


def test_two_classes_reproduce_the_binary_case():
    # Logits (-f / 2, f / 2): the same parameters, the same loss; their squares sum to half of f's.
    example = instance(3, n=N)
    phi = np.stack([-example.phi, example.phi], axis=1) / 2
    penalty = Ridge(0.2)
    with jax.enable_x64(True):
        feats = multiclass.from_ntrf(phi, (example.y > 0).astype(int))
        binary = features.from_ntrf(example.phi, example.y)
        assert feats.rank == binary.rank == N
        state = solve(feats, penalty)
        response = equilibrium(binary.u, binary.s, binary.y, penalty).response
        logits = binary.y * (binary.u @ response)
        np.testing.assert_allclose(state.logits[:, 1] - state.logits[:, 0], logits, atol=1e-9)
        np.testing.assert_allclose(state.logits.sum(1), 0, atol=1e-9)
        # A feature has u / sqrt(2) in either class, hence half its strength and its response over sqrt(2).
        np.testing.assert_allclose(2 * feats.s2, binary.s2, rtol=1e-10)
        signs = np.sign(np.sum(feats.u[1::2] * (binary.y[:, None] * binary.u), axis=0))
        np.testing.assert_allclose(np.sqrt(2) * state.response * signs, response, atol=1e-9)
        slopes = jax.jit(lambda: starvation.matrix(binary, penalty, oriented=False))()
        np.testing.assert_allclose(starve(feats, penalty) * signs[:, None] / np.sqrt(2), slopes, atol=1e-8)


@pytest.mark.parametrize("penalty", [Ridge(0.1), SpectralDecoupling(0.2)], ids=["ridge", "decoupling"])
def test_the_names_of_classes_do_not_matter(penalty):
    phi, labels = problem(4)
    order = np.array([2, 0, 1])  # class c is renamed to its position here
    with jax.enable_x64(True):
        state = solve(multiclass.from_ntrf(phi, labels), penalty)
        renamed = solve(multiclass.from_ntrf(phi[:, order], np.argsort(order)[labels]), penalty)
        np.testing.assert_allclose(renamed.logits, state.logits[:, order], atol=1e-8)


def test_decoupling_at_full_rank_gives_every_example_its_own_equation():
    phi, labels = problem(5)
    other = np.random.default_rng(6).standard_normal((N, K, M))
    with jax.enable_x64(True):
        state = solve(multiclass.from_ntrf(phi, labels), SpectralDecoupling(0.2))
        np.testing.assert_allclose(0.2 * state.logits, np.eye(K)[labels] - softmax(state.logits, axis=1), atol=1e-9)
        np.testing.assert_allclose(
            solve(multiclass.from_ntrf(other, labels), SpectralDecoupling(0.2)).logits, state.logits, atol=1e-8
        )


def test_the_starvation_matrix_is_the_derivative_of_the_responses():
    phi, labels = problem(7)
    with jax.enable_x64(True):
        feats = multiclass.from_ntrf(phi, labels)
        state, bare = solve(feats, Ridge(0.1)), starve(feats, Ridge(0.1))

        def response(x, s, u, labels):
            scaled = multiclass.Features(u, s * jnp.exp(x / 2), None, labels, len(s))
            return multiclass.equilibrium(scaled, Ridge(0.1), tolerance=1e-13).response

        arguments = (np.zeros(N * K), np.asarray(feats.s), np.asarray(feats.u), labels)
        differences = central_differences(jax.jit(response), *arguments[:1], 1e-2, *arguments[1:]) / feats.s2
        scale = np.abs(bare).max()
        np.testing.assert_allclose(bare, differences, rtol=1e-4, atol=1e-6 * scale)
        oriented = jax.jit(multiclass.starvation_matrix)(feats, Ridge(0.1))
        np.testing.assert_allclose(oriented, np.sign(state.response)[:, None] * bare, atol=1e-9 * scale)


PHI, LABELS = np.eye(6).reshape(2, 3, 6), np.array([0, 2])
NTK = np.einsum("ikm,jlm->ijkl", PHI, PHI)
FEATS = multiclass.from_ntrf(PHI, LABELS)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("phi", lambda: multiclass.from_ntrf(np.eye(6), LABELS)),
        ("phi", lambda: multiclass.from_ntrf(np.zeros((2, 3, 0)), LABELS)),
        ("phi", lambda: multiclass.from_ntrf(PHI * np.nan, LABELS)),
        ("phi", lambda: multiclass.from_ntrf(PHI * 0, LABELS)),
        ("phi", lambda: multiclass.from_ntrf(PHI[:, :1], np.array([0, 0]))),
        ("labels", lambda: multiclass.from_ntrf(PHI, np.array([0, 1, 2]))),
        ("labels", lambda: multiclass.from_ntrf(PHI, np.array([0, 3]))),
        ("labels", lambda: multiclass.from_ntrf(PHI, np.array([-1, 1]))),
        ("labels", lambda: multiclass.from_ntrf(PHI, np.array([0.0, 1.0]))),
        ("labels", lambda: multiclass.from_ntrf(PHI, np.eye(3, dtype=int)[LABELS])),
        ("ntk", lambda: multiclass.from_ntk(np.eye(6), LABELS)),
        ("ntk", lambda: multiclass.from_ntk(np.ones((2, 2, 3, 2)), LABELS)),
        ("ntk", lambda: multiclass.from_ntk(NTK[:, :1], LABELS)),
        ("ntk", lambda: multiclass.from_ntk(NTK * np.nan, LABELS)),
        ("ntk", lambda: multiclass.from_ntk(-NTK, LABELS)),
        ("ntk", lambda: multiclass.from_ntk(NTK + np.triu(np.ones((3, 3)), 1), LABELS)),
        ("labels", lambda: multiclass.from_ntk(NTK, np.array([0, 3]))),
        ("penalty", lambda: multiclass.equilibrium(FEATS, None)),
        ("penalty.strength", lambda: multiclass.equilibrium(FEATS, Ridge(np.ones(6)))),
        ("penalty.target", lambda: multiclass.equilibrium(FEATS, SpectralDecoupling(1.0, np.ones(2)))),
        ("tolerance", lambda: multiclass.equilibrium(FEATS, Ridge(1.0), tolerance=0.0)),
        ("penalty", lambda: multiclass.starvation_matrix(FEATS, 1.0)),
        ("logits", lambda: FEATS.response(jnp.ones((2, 2)))),
    ],
)
def test_bad_input_is_named(argument, call):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        call()


def test_problems_of_the_same_shape_share_a_program(monkeypatch):
    """Labels are data of the program, so neither a second call nor other labels trace it again."""
    original, traced = cross_entropy.gram, []

    def counted(*args):
        traced.append(None)
        return original(*args)

    monkeypatch.setattr(cross_entropy, "gram", counted)
    labels = np.arange(7) % K
    counts, classes = [], []
    for shift in (0, 0, 1):
        feats = multiclass.from_ntrf(np.eye(7 * K).reshape(7, K, -1), (labels + shift) % K)
        classes.append(np.asarray(multiclass.equilibrium(feats, Ridge(1.0 + shift)).logits).argmax(1))
        counts.append(len(traced))
    assert 0 < counts[0] == counts[1] == counts[2]
    np.testing.assert_array_equal(classes, [labels, labels, (labels + 1) % K])
