"""Intervals over seeds have their stated coverage, and slopes recover power laws."""

import numpy as np
import pytest
from scipy import stats

from gsjax.statistics import bootstrap, holm, loglog_slope, mean, within

WIDTHS = np.array([64, 128, 256, 512])


def power_law(rng, exponent, seeds, noise=0.3, spread=1.0):
    """Errors of `seeds` seeds, each with its own level and noise."""
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


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_slope_intervals_have_their_stated_coverage(level, seeds):
    sets = 2000
    rng = np.random.default_rng(3)
    slopes = [loglog_slope(WIDTHS, power_law(rng, -0.5, seeds=seeds), level=level) for _ in range(sets)]
    coverage = np.mean([slope.low <= -0.5 <= slope.high for slope in slopes])
    assert abs(coverage - level) < 3 * np.sqrt(level * (1 - level) / sets)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 12])
def test_mean_intervals_have_their_stated_coverage(seeds):
    """The percentile bootstrap would cover 75% for 3 seeds and 88% for 4."""
    sets = 20_000
    draws = np.random.default_rng(4).normal(loc=2.0, size=(seeds, sets))
    found = mean(draws)
    coverage = np.mean((found.low <= 2.0) & (found.high >= 2.0))
    assert abs(coverage - 0.95) < 3 * np.sqrt(0.95 * 0.05 / sets)


def test_mean_interval_against_scipy():
    values = np.random.default_rng(5).normal(size=(6, 3))
    low, high = stats.t.interval(0.9, 5, loc=values.mean(axis=0), scale=stats.sem(values))
    np.testing.assert_allclose(mean(values, level=0.9), [values.mean(axis=0), low, high], rtol=1e-12)


@pytest.mark.parametrize("bound", [-0.3, 0.0, 0.2])
def test_p_value_against_scipy(bound):
    values = np.random.default_rng(6).normal(size=7)
    for alternative, option in (("greater", "above"), ("less", "below")):
        expected = np.asarray(stats.ttest_1samp(values, bound, alternative=alternative))[1]
        np.testing.assert_allclose(within(values, **{option: bound}), expected, rtol=1e-12)


@pytest.mark.parametrize("bounds", [(-1.0, None), (None, 0.7), (-0.5, 0.6)])
def test_a_p_value_is_small_where_the_interval_lies_within_the_bounds(bounds):
    for seed in range(200):
        values = 0.5 * np.random.default_rng(seed).normal(size=4)
        _, low, high = mean(values)
        p = within(values, above=bounds[0], below=bounds[1])
        within_bounds = (bounds[0] is None or bounds[0] < low) and (bounds[1] is None or high < bounds[1])
        assert (p < 0.025) == within_bounds


def test_equal_seeds_give_p_values_of_0_or_1():
    assert within([0.5, 0.5], above=0.4) == 0
    assert within([0.5, 0.5], above=0.6) == 1
    assert within([0.5, 0.5], above=0.4, below=0.6) == 0
    assert within([0.5, 0.5], above=0.5) > 0.025


def test_holm_by_its_definition():
    """A corrected p-value is the smallest level at which the step-down procedure rejects the hypothesis."""
    p = np.array([0.02, 0.001, 0.3, 0.012, 0.012])

    def rejected(level):
        found = np.zeros(len(p), bool)
        for step, i in enumerate(np.argsort(p, kind="stable")):
            if p[i] > level / (len(p) - step):
                break
            found[i] = True
        return found

    for i, corrected in enumerate(holm(p)):
        assert rejected(corrected * 1.0001)[i]
        assert not rejected(corrected * 0.9999)[i]


def test_holm_keeps_the_family_wise_error():
    """Twenty true null hypotheses: without the correction, 64% of the families reject one at 5%."""
    p = np.random.default_rng(7).uniform(size=(2000, 20))
    wrong = np.mean([holm(family).min() <= 0.05 for family in p])
    assert abs(wrong - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_intervals_widen_with_confidence_and_narrow_with_seeds():
    values = np.random.default_rng(7).normal(size=(4, 16)).ravel()
    width = [np.subtract(*mean(values, level=level)[:0:-1]) for level in (0.5, 0.9, 0.99)]
    assert width[0] < width[1] < width[2]
    assert np.subtract(*mean(np.tile(values, 4))[:0:-1]) < 0.6 * np.subtract(*mean(values)[:0:-1])


def test_bootstrap_is_deterministic_and_follows_the_seed():
    values = np.random.default_rng(6).normal(size=9)
    ours = [bootstrap(lambda weights: weights @ values, 9, seed=seed) for seed in (0, 0, 1)]
    assert ours[0] == ours[1] != ours[2]
    np.testing.assert_allclose([one.value for one in ours], values.mean())


def test_any_statistic_against_the_mean():
    values = np.random.default_rng(8).normal(size=10)
    ours = bootstrap(lambda weights: weights @ values, 10, resamples=2000)
    np.testing.assert_allclose(ours, mean(values), atol=0.1 * float(np.subtract(*mean(values)[:0:-1])))


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
    ],
)
def test_bad_mean_input_is_named(argument, values, options):
    with pytest.raises(ValueError, match=f"^{argument}: expected "):
        mean(values, **options)


@pytest.mark.parametrize(
    ("argument", "values", "bounds"),
    [
        ("values", [1.0], {"above": 0.0}),
        ("values", [[1.0], [2.0]], {"above": 0.0}),
        ("above", [1.0, 2.0], {}),
        ("above", [1.0, 2.0], {"above": 1.0, "below": 1.0}),
    ],
)
def test_bad_bounds_are_named(argument, values, bounds):
    with pytest.raises(ValueError, match=f"^{argument}: expected "):
        within(values, **bounds)


@pytest.mark.parametrize("values", [[], [1.1], [-0.1], [np.nan], [[0.1]]])
def test_bad_p_values_are_named(values):
    with pytest.raises(ValueError, match=r"^p: expected "):
        holm(values)
