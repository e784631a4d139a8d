"""The strength of a penalty for a wanted margin, and penalties with equal total confidence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, SpectralDecoupling, dual, features, multiclass
from gsjax.dual.choosing import matched
from tests.instances import primal_minimum

N = 12
Y = np.where(np.arange(N) % 3, 1.0, -1.0)


def problem(seed, rank=N):
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.normal(size=(N, N)))[0][:, :rank]
    y = np.where(rng.random(N) < 0.5, 1.0, -1.0)
    return features.from_spectrum(
        jnp.asarray(u, float), jnp.asarray(np.logspace(0.7, -0.7, rank), float), jnp.asarray(y)
    )


def mean_confidence(feats, penalty):
    """From margins by direct minimisation would be slow: the equilibrium's margins, in NumPy."""
    margins = np.asarray(dual.equilibrium(feats, penalty).margins, np.float64)
    return float(np.mean(1 / (1 + np.exp(-margins))))


@pytest.mark.parametrize("margin", [1e-3, 0.5, 2.0, 9.0])
def test_every_margin_at_the_optimum_is_the_wanted_one(margin, x64):
    penalty = dual.decoupling_for(margin=margin)
    confidence = float(1 / (1 + np.exp(-margin)))
    assert penalty.strength * margin == pytest.approx(1 - confidence, rel=1e-12)
    found = dual.equilibrium(problem(0), penalty)
    assert found.converged
    np.testing.assert_allclose(found.margins, margin, rtol=1e3 * float(jnp.finfo(x64).eps))
    if margin > 0.1:
        again = dual.decoupling_for(confidence=confidence)
        assert again.strength == pytest.approx(penalty.strength, rel=1e-9)


def test_strengths_near_the_ends_keep_their_digits():
    """Near 1/2 the margin is 4 (c - 1/2), so that lambda is 1 / (8 (c - 1/2)) to first order."""
    assert dual.decoupling_for(confidence=0.5 + 2.0**-40).strength == pytest.approx(2.0**37, rel=1e-9)
    assert dual.decoupling_for(margin=700.0).strength == pytest.approx(np.exp(-700) / 700, rel=1e-12)


def test_the_strength_may_be_traced():
    inside = jax.jit(lambda margin: dual.decoupling_for(margin=margin).strength)(2.0)
    assert float(inside) == pytest.approx(float(dual.decoupling_for(margin=2.0).strength), rel=1e-6)
    inside = jax.jit(lambda c: dual.decoupling_for(confidence=c).strength)(0.9)
    assert float(inside) == pytest.approx(float(dual.decoupling_for(confidence=0.9).strength), rel=1e-6)


@pytest.mark.parametrize("rank", [N, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_matched_penalties_have_the_same_confidence_and_lead_back(seed, rank, x64):
    feats, ridge = problem(seed, rank), Ridge(0.3)
    tolerance = float(jnp.finfo(x64).eps) ** 0.5
    found = dual.match(feats, ridge)
    assert found.converged
    assert isinstance(found.penalty, SpectralDecoupling)
    assert found.wanted == pytest.approx(mean_confidence(feats, ridge), abs=tolerance)
    assert mean_confidence(feats, found.penalty) == pytest.approx(mean_confidence(feats, ridge), abs=tolerance)
    back = dual.match(feats, found.penalty)
    assert back.converged
    assert isinstance(back.penalty, Ridge)
    assert mean_confidence(feats, back.penalty) == pytest.approx(mean_confidence(feats, ridge), abs=tolerance)


def test_at_full_rank_the_match_is_that_of_the_mean_confidence():
    feats = problem(2)
    found = dual.match(feats, Ridge(0.3))
    expected = dual.decoupling_for(confidence=mean_confidence(feats, Ridge(0.3))).strength
    assert found.penalty.strength == pytest.approx(expected, rel=1e-5)


def test_a_confidence_out_of_reach_is_not_converged():
    """Margins are (a, a, -a): ridge does not exceed a = log 2, a mean confidence of 5 / 9; targets lead beyond."""
    feats = features.from_spectrum(jnp.asarray([[1.0], [1.0], [-1.0]]) / np.sqrt(3), jnp.ones(1))
    found = dual.match(feats, SpectralDecoupling(10.0, jnp.array([5.0, 5.0, -5.0])))
    assert found.wanted > 0.6
    assert not found.converged
    assert found.confidence < 5 / 9 + 1e-3


@pytest.mark.parametrize(
    "penalty", [SpectralDecoupling(1.0, jnp.asarray(-2.0 * Y)), Ridge(0.3)], ids=["targets", "guess"]
)
def test_a_confidence_of_a_guess_or_less_is_not_converged(penalty):
    """Targets of the wrong sign lead below 1/2; features on which every label cancels leave all outputs at zero."""
    u = jnp.eye(N) if isinstance(penalty, SpectralDecoupling) else jnp.tile(jnp.array([[0.5], [-0.5]]), (N // 2, 1))
    feats = features.from_spectrum(u / jnp.linalg.norm(u, axis=0), jnp.ones(u.shape[1]), jnp.asarray(Y))
    found = dual.match(feats, penalty)
    assert found.wanted <= 0.5
    assert not found.converged


def test_the_optimum_in_the_parameters_has_the_wanted_margin():
    """By minimisation over the parameters of a linear model, without this library's features and solver."""
    phi, penalty = np.random.default_rng(4).normal(size=(N, 20)), dual.decoupling_for(margin=1.5)
    theta = primal_minimum(phi, Y, SpectralDecoupling(float(penalty.strength)))
    np.testing.assert_allclose(Y * (phi @ theta), 1.5, rtol=1e-6)


def test_the_total_confidence_under_ridge_need_not_fall_with_its_strength(x64):
    """Two features of opposed examples: it rises with the strength, then falls, so a match is one of two."""
    phi = np.array([[-1, 0.4], [0.9, -0.6], [1.7, 0.4], [2.7, 0], [0.5, -0.4]]) @ [[3.1, -2.91], [0, 1.35]]
    feats = features.from_ntrf(jnp.asarray(phi, x64), jnp.ones(5, x64))
    weak, middle, strong = (mean_confidence(feats, Ridge(strength)) for strength in (1e-3, 0.1, 10.0))
    assert middle > max(weak, strong) + 5e-4
    # Spectral decoupling, on the same two features, comes no further than weak ridge.
    assert not dual.match(feats, Ridge(0.01)).converged


@pytest.mark.parametrize(("wanted", "converged"), [(0.3, True), (0.15, True), (0.05, False), (0.45, False)])
def test_a_root_is_found_where_there_are_two_or_none(wanted, converged):
    """What is missing falls from 0.4 to 0.1 and rises again to 0.4, as the strength of ridge grows."""

    def missing(_, penalty):
        log = np.log(penalty.strength)
        value = wanted if isinstance(penalty, SpectralDecoupling) else 0.4 - 0.3 * np.exp(-(log**2) / 8)
        return jnp.asarray(value), jnp.asarray(True)

    found = matched(problem(0), SpectralDecoupling(0.1), missing, full=True, classes=None)
    assert found.converged == converged
    assert found.wanted == pytest.approx(1 - wanted, rel=1e-6)
    if converged:
        assert found.confidence == pytest.approx(1 - wanted, rel=1e-4)


def test_the_match_of_classes_has_the_same_confidence():
    rng = np.random.default_rng(3)
    labels = jnp.asarray([0, 1, 2, 0])
    feats = multiclass.from_ntrf(jnp.asarray(rng.normal(size=(4, 3, 20)), float), labels)

    def confidence(penalty):
        logits = np.asarray(multiclass.equilibrium(feats, penalty).logits, np.float64)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return p[np.arange(4), np.asarray(labels)].mean()

    found = multiclass.match(feats, Ridge(2.0))
    assert found.converged
    assert confidence(found.penalty) == pytest.approx(confidence(Ridge(2.0)), abs=1e-4)
    back = multiclass.match(feats, found.penalty)
    assert back.penalty.strength == pytest.approx(2.0, rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "margin: expected either margin or confidence, got neither"),
        ({"margin": 1.0, "confidence": 0.9}, "margin: expected either margin or confidence, got both"),
        ({"margin": 0.0}, "margin: expected a finite positive number"),
        ({"margin": 1e4}, "margin: expected a margin whose strength is above zero"),
        ({"confidence": 0.5}, r"confidence: expected a number in \(0.5, 1\)"),
        ({"confidence": True}, "confidence: expected"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dual.decoupling_for(**arguments)


def test_match_refuses_what_it_cannot_compute():
    with pytest.raises(ValueError, match="feats: expected"):
        dual.match(1, Ridge(1.0))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="feats: expected features that are not traced"):
        jax.jit(lambda s: dual.match(features.from_spectrum(jnp.eye(2), s), Ridge(1.0)).confidence)(jnp.ones(2))
    with pytest.raises(ValueError, match="penalty: expected"):
        dual.match(problem(0), 0.1)  # pyright: ignore[reportArgumentType]
