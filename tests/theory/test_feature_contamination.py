"""The closed forms behind the claims on feature contamination, against simulations that use no network."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from gsjax.probes import contamination
from gsjax.statistics import loglog_slope
from theory import feature_contamination as fc
from theory.claim import run

CLAIMS = {claim.name.removeprefix("contamination-"): claim for claim in fc.CLAIMS}


def test_the_risk_is_that_of_normal_margins_which_rise_with_the_share_below_one():
    """An Euler scheme on many normal numbers, instead of the differential equation."""
    core, step = 32, 1e-3
    quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    r = contamination.growth(core, core).ratio
    e = fc.DEVIATION / fc.MEAN * np.hypot(1, r) / (np.sqrt(core) * (1 + r))
    mean, risks = 1e-6, {}
    for i in range(1, 4001):
        mean += step * (mean * (1 + e * quantiles) < 1).mean()
        risks[round(i * step, 3)] = np.maximum(0, 1 - mean * (1 + e * quantiles)).mean()
    found = fc.risk_theory(core)
    for entry, time in enumerate((0.5, 1.0, 2.0)):
        assert found[entry] == pytest.approx(risks[time], rel=0.02)
    exponent = loglog_slope(np.array(fc.LATE[-2:]), np.stack([found[-2:]] * 2)).value
    assert -1.3 < exponent < -1


@pytest.mark.parametrize("activation", fc.VALUES)
def test_slopes_are_the_derivative_of_the_hinge_loss(activation):
    rng = np.random.default_rng(1)
    x, y, kernel = rng.normal(size=(40, 3)), np.tile([1.0, -1.0], 20), 2 * rng.normal(size=(3, 8))
    found = fc.slopes(activation, kernel, x, y)

    def loss(kernel):
        return np.maximum(0, 1 - y * (fc.VALUES[activation](x @ kernel) @ found.a)).mean()

    for change in np.eye(24).reshape(-1, 3, 8)[::5]:
        predicted = -np.sum(change * (x.T @ (found.phi * y[:, None]) * found.a / 40))
        assert (loss(kernel + 1e-7 * change) - loss(kernel - 1e-7 * change)) / 2e-7 == pytest.approx(
            predicted, abs=1e-6
        )


def test_expectations_are_over_independent_features_and_labels():
    x, y = fc._all()
    z = np.concatenate([y[:, None] * x[:, : fc.CORE], x[:, fc.CORE :]], axis=1)
    np.testing.assert_allclose(np.cov(np.column_stack([z, (y + 1) / 2]).T, bias=True), np.eye(9) / 4, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradient", "linear", "linear-opposes", "relu", "bound"])
def test_claims_on_the_gradient_hold_and_their_controls_fail(name):
    with jax.enable_x64(True):
        assert run(CLAIMS[name]).passes
