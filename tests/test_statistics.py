"""Intervals over seeds cover what they promise, and slopes are those of the power laws put in."""

import numpy as np
import pytest

from gsjax.statistics import bootstrap, bootstrap_mean, loglog_slope

WIDTHS = np.array([64, 128, 256, 512])


def power_law(rng, exponent, seeds, noise=0.3, spread=1.0):
    """Errors of `seeds` seeds, each with a level and a noise of its own."""
    level = np.exp(spread * rng.normal(size=(seeds, 1)))
    return level * WIDTHS**exponent * np.exp(noise * rng.normal(size=(seeds, len(WIDTHS))))


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 2.0])
def test_slope_is_exact_without_noise(exponent):
    errors = power_law(np.random.default_rng(0), exponent, seeds=5, noise=0.0)
    np.testing.assert_allclose(loglog_slope(WIDTHS, errors), exponent, atol=1e-12)


def test_slope_is_the_fit_to_the_geometric_mean():
    errors = power_law(np.random.default_rng(1), -0.5, seeds=7)
    fit = np.polyfit(np.log(WIDTHS), np.log(errors).mean(axis=0), deg=1)[0]
    np.testing.assert_allclose(loglog_slope(WIDTHS, errors).value, fit, rtol=1e-12)


def test_slope_does_not_depend_on_units_or_on_the_level_of_a_seed():
    rng = np.random.default_rng(2)
    errors = power_law(rng, -0.5, seeds=6)
    rescaled = errors * np.exp(rng.normal(size=(6, 1)))
    np.testing.assert_allclose(loglog_slope(WIDTHS / 64, 1e-9 * rescaled), loglog_slope(WIDTHS, errors), rtol=1e-9)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_slope_interval_covers_as_often_as_it_says(level):
    sets = 400
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(sets):
        slope = loglog_slope(WIDTHS, power_law(rng, -0.5, seeds=10), resamples=1000, level=level)
        inside += slope.low <= -0.5 <= slope.high
    standard_error = np.sqrt(level * (1 - level) / sets)
    assert abs(inside / sets - level) < 3 * standard_error


def test_mean_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(4).normal(loc=2.0, size=(12, 1000))  # a thousand data sets of 12 seeds
    mean = bootstrap_mean(draws)
    coverage = np.mean((mean.low <= 2.0) & (mean.high >= 2.0))
    assert abs(coverage - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 1000)


def test_whole_seeds_are_resampled():
    """Columns of one seed move together, so the interval of their difference is a point."""
    base = np.random.default_rng(5).normal(size=8)
    both = bootstrap_mean(np.stack([base, base + 3.0], axis=1))
    np.testing.assert_allclose(np.subtract(both.low[1], both.low[0]), 3.0)
    np.testing.assert_allclose(bootstrap_mean(np.stack([base, base + 3.0], axis=1)[:, 1] - base), 3.0)


def test_intervals_are_deterministic_and_follow_the_seed():
    values = np.random.default_rng(6).normal(size=9)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values).value == bootstrap_mean(values, seed=1).value


def test_more_confidence_is_wider_and_more_seeds_narrower():
    values = np.random.default_rng(7).normal(size=(4, 16)).ravel()
    width = [np.subtract(*bootstrap_mean(values, level=level)[:0:-1]) for level in (0.5, 0.9, 0.99)]
    assert width[0] < width[1] < width[2]
    assert np.subtract(*bootstrap_mean(np.tile(values, 4))[:0:-1]) < 0.6 * np.subtract(*bootstrap_mean(values)[:0:-1])


def test_any_statistic_against_the_mean():
    values = np.random.default_rng(8).normal(size=10)
    ours = bootstrap(lambda weights: weights @ values, 10, resamples=2000)
    np.testing.assert_allclose(ours, bootstrap_mean(values), atol=2e-3)  # the nearest percentile, not the one between


def test_a_statistic_may_be_infinite():
    """The margin of a boundary that some resamples do not have is infinite there, not an error."""
    ours = bootstrap(lambda weights: np.inf if weights[0] > 0.3 else 1.0, 5)
    assert (ours.value, ours.low, ours.high) == (1.0, 1.0, np.inf)


@pytest.mark.parametrize(
    ("argument", "statistic", "seeds", "options"),
    [
        ("seeds", np.max, 1, {}),
        ("statistic", lambda weights: np.nan, 3, {}),
        ("level", np.max, 3, {"level": 0.0}),
        ("resamples", np.max, 3, {"resamples": 0}),
    ],
)
def test_bad_statistic_input_is_named(argument, statistic, seeds, options):
    with pytest.raises(ValueError, match=f"^{argument}: expected "):
        bootstrap(statistic, seeds, **options)


@pytest.mark.parametrize(
    ("argument", "x", "errors"),
    [
        ("errors", WIDTHS, np.ones((1, 4))),
        ("errors", WIDTHS, np.ones(4)),
        ("errors", WIDTHS, np.ones((3, 5))),
        ("errors", WIDTHS, np.zeros((3, 4))),
        ("errors", WIDTHS, -np.ones((3, 4))),
        ("errors", WIDTHS, np.full((3, 4), np.nan)),
        ("errors", WIDTHS, np.full((3, 4), np.inf)),
        ("x", np.array([64, 64]), np.ones((3, 2))),
        ("x", np.array([64]), np.ones((3, 1))),
        ("x", np.array([0, 64]), np.ones((3, 2))),
        ("x", np.array([]), np.ones((3, 0))),
    ],
)
def test_bad_slope_input_is_named(argument, x, errors):
    with pytest.raises(ValueError, match=f"^{argument}: expected "):
        loglog_slope(x, errors)


@pytest.mark.parametrize(
    ("argument", "values", "options"),
    [
        ("values", np.array(1.0), {}),
        ("values", np.array([1.0]), {}),
        ("values", np.array([1.0, np.nan]), {}),
        ("level", np.array([1.0, 2.0]), {"level": 1.0}),
        ("level", np.array([1.0, 2.0]), {"level": float("nan")}),
        ("resamples", np.array([1.0, 2.0]), {"resamples": 0}),
    ],
)
def test_bad_mean_input_is_named(argument, values, options):
    with pytest.raises(ValueError, match=f"^{argument}: expected "):
        bootstrap_mean(values, **options)
