"""Starvation in trained networks: strengths are changed and the networks trained again."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from gsjax import sweeps
from tests.instances import slope
from tests.sweeps.problem import SWEEP, TRAIN, N


def starvation(width: int, depth: int, penalty: str = "ridge", **options) -> sweeps.Starvation:
    sweep = dataclasses.replace(SWEEP, seeds=2, tolerance=1e-10)
    with jax.enable_x64(True):
        return sweeps.starvation(sweep, sweeps.Cell(width, depth, penalty, 2.0), TRAIN, **options)


def missed(found: sweeps.Starvation) -> float:
    assert found.converged.all()
    assert found.predicted.shape == found.measured.shape == (2, 3, 3)
    return float(np.linalg.norm(found.measured - found.predicted) / np.linalg.norm(found.predicted))


def test_starvation_in_a_linear_model_is_the_matrix_to_second_order_in_the_change():
    changes = np.array([0.4, 0.2, 0.1])
    errors = [missed(starvation(1, 0, change=change)) for change in changes]
    assert errors[-1] < 1e-2
    assert slope(changes, errors) == pytest.approx(2, abs=0.1)


@pytest.mark.slow
def test_starvation_of_wider_networks_is_predicted_better():
    narrow, wide = (missed(starvation(width, 1)) for width in (8, 512))
    assert wide < 0.03 < 0.1 < narrow


@pytest.mark.slow
@jax.enable_x64(True)
def test_in_mean_field_scaling_starvation_differs_from_the_prediction():
    cell, found = sweeps.Cell(512, 1, "ridge", 2.0), {}
    for scaling in ("ntk", "mean-field"):
        sweep = dataclasses.replace(SWEEP, seeds=2, tolerance=1e-10, scaling=scaling)
        found[scaling] = sweeps.starvation(sweep, cell, TRAIN)
    np.testing.assert_array_equal(found["ntk"].predicted, found["mean-field"].predicted)
    assert missed(found["ntk"]) < 0.03 < 0.1 < missed(found["mean-field"])


@pytest.mark.slow
def test_nothing_starves_under_spectral_decoupling():
    found = starvation(6, 1, "sd")
    assert found.converged.all()
    np.testing.assert_array_equal(found.predicted, 0)
    np.testing.assert_allclose(found.measured, 0, atol=1e-7)


@pytest.mark.parametrize(
    ("argument", "cell", "options"),
    [
        ("widths", sweeps.Cell(0, 1, "ridge", 1.0), {}),
        ("penalties", sweeps.Cell(4, 1, "lasso", 1.0), {}),
        ("strengths", sweeps.Cell(4, 1, "ridge", 0.0), {}),
        ("features", sweeps.Cell(4, 1, "ridge", 1.0), {"features": 0}),
        ("features", sweeps.Cell(4, 1, "ridge", 1.0), {"features": N + 1}),
        ("change", sweeps.Cell(4, 1, "ridge", 1.0), {"change": 0.0}),
        ("change", sweeps.Cell(4, 1, "ridge", 1.0), {"change": 1.0}),
    ],
)
def test_bad_input_to_starvation_is_named(argument, cell, options):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        sweeps.starvation(SWEEP, cell, TRAIN, **options)
