"""The closed forms behind the claims on feature contamination, against simulations that use no network."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from gsjax.statistics import loglog_slope
from theory import feature_contamination as fc
from theory.claim import run

CLAIMS = {claim.name.removeprefix("contamination-"): claim for claim in fc.CLAIMS}


def direction(core: int, background: int, r: float) -> tuple[float, float, float]:
    """By simulation: dB/dt / dC/dt, the activation on the other class, and the shifted margin relative to the margin.

    One neuron with a > 0 has the weight 1/sqrt(core) on core and r/sqrt(background) on background features.
    """
    rng = np.random.default_rng(0)
    n = 200_000
    u, v = (rng.random((n, count), np.float32).sum(axis=1) / np.sqrt(count) for count in (core, background))
    own, other = u + r * v > 0, -u + r * v > 0
    ratio = (own * v - other * v).sum() / (own * u + other * u).sum()
    return float(ratio), float(other.mean()), float(np.maximum(u - r * v, 0).mean() / (u + r * v).mean())


@pytest.mark.parametrize(("core", "background"), [(32, 32), (48, 24), (24, 48)])
def test_the_ratio_of_the_growth_reproduces_itself(core, background):
    r, p, rho = fc.fixed_point(core, background)
    ratio, rate, margin = direction(core, background, r)
    assert abs(ratio - r) < 0.01
    assert abs(rate - p) < 0.005
    assert abs(margin - rho) < 0.005
    assert abs(direction(core, background, 0.8 * r)[0] - 0.8 * r) > 0.02  # other ratios do not


def test_limits_of_many_features():
    for core, background in ((1e9, 1e8), (3e9, 1e9)):
        r, p, rho = fc.fixed_point(core, background)
        assert r == pytest.approx(np.sqrt(background / core))
        assert p == pytest.approx(0)
        assert rho == pytest.approx((core - background) / (core + background))
    r, p, rho = fc.fixed_point(1e9, 2e9)
    assert p == pytest.approx(1 / 3, abs=1e-3)
    assert rho < 1e-3
    equal = [fc.fixed_point(size, size) for size in (1e4, 1e6, 1e8)]
    np.testing.assert_allclose([p for _, p, _ in equal], [(1 - r) / (1 + r) for r, _, _ in equal], rtol=1e-6)
    first, second = np.diff(np.log([p for _, p, _ in equal])) / np.log(100)
    assert -0.5 < second < first < -0.4  # approaches -1/2 slowly


def test_the_risk_is_that_of_normal_margins_which_rise_with_the_share_below_one():
    """An Euler scheme on many normal numbers, instead of the differential equation."""
    core, step = 32, 1e-3
    quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    r = fc.fixed_point(core, core)[0]
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
