"""Errors, training curves and comparisons of methods: means, intervals and styles of series."""

import numpy as np

from gsjax import plotting, statistics
from gsjax.statistics import loglog_slope
from tests.plotting.shown import legend, points

WIDTHS = np.array([64, 128, 256])
ERRORS = np.random.default_rng(0).uniform(0.5, 1.0, size=(4, 3)) / np.sqrt(WIDTHS)
SLOPE, POINTS = np.tile([-1.0, 2.0], (3, 1)), np.array([[-0.5, 0.0], [0.5, 0.2]])


def test_error_against_width_draws_the_means_the_fit_and_the_reference():
    errors = np.array([[1.0], [2.0], [4.0]]) / np.sqrt(WIDTHS)
    ax = plotting.error_against_width(WIDTHS, errors, loglog_slope(WIDTHS, errors), reference=-1.0)
    means, fit, reference = (
        next(line for line in ax.lines if test(line))
        for test in (
            lambda line: line.get_marker() == "o",
            lambda line: line.get_marker() == "None" and line.get_linestyle() == "-",
            lambda line: line.get_linestyle() == "--",
        )
    )
    np.testing.assert_allclose(points(means), np.stack([WIDTHS, 2 / np.sqrt(WIDTHS)], axis=1))
    np.testing.assert_allclose(points(fit), points(means)[[0, -1]])
    (x0, y0), (x1, y1) = points(reference)
    np.testing.assert_allclose(y1 / y0, x0 / x1)
    assert legend(ax) == ["error: slope −0.50 [−0.50, −0.50]", "slope −1"]


def test_a_second_series_gets_another_colour_and_marker():
    ax = plotting.error_against_width(WIDTHS, ERRORS, label="ridge")
    plotting.error_against_width(WIDTHS, 2 * ERRORS, ax=ax, label="decoupled")
    means = [line for line in ax.lines if line.get_marker() in ("o", "s")]
    assert [line.get_marker() for line in means] == ["o", "s"]
    assert [line.get_color() for line in means] == [*plotting.OKABE_ITO[:2]]


def test_series_decades_apart_have_ticks_at_decades():
    ax = plotting.error_against_width(WIDTHS, ERRORS)
    assert len(ax.get_yticks()) > 3
    ax = plotting.error_against_width(WIDTHS, 1e-5 * ERRORS, ax=ax)
    np.testing.assert_array_equal(np.log10(ax.get_yticks()) % 1, 0)


def test_decision_boundary_shows_the_zero_level_and_the_classes():
    ax = plotting.decision_boundary([-1, 1], [-1, 0, 1], SLOPE, POINTS, [-1, 1])
    (line,) = [path for collection in ax.collections for path in collection.get_paths() if len(path) == 3]
    np.testing.assert_allclose(np.asarray(line.vertices)[:, 0], -1 / 3)  # the zero between the outputs -1 and 2
    offsets = [np.asarray(collection.get_offsets()).tolist() for collection in ax.collections[-2:]]
    assert offsets == [[POINTS[0].tolist()], [POINTS[1].tolist()]]
    handles, labels = ax.get_legend_handles_labels()
    assert (handles, labels) == (ax.collections[-2:], ["$y = -1$", "$y = +1$"])


def test_curves_and_categories_show_means_over_seeds():
    values = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 9.0]])
    (line,) = plotting.curves([3, 4], values).lines
    np.testing.assert_allclose(points(line), [[3, 1], [4, 4]])
    means, *_ = plotting.categories("ab", {"ERM": values}).lines
    np.testing.assert_allclose(points(means), [[0, 1], [1, 4]])
    assert not plotting.curves([3, 4], values[:1]).collections  # one seed has no interval


def test_curves_of_one_panel_differ_in_colour_and_dashes():
    ax = plotting.curves([0, 1], np.ones((2, 2)))
    plotting.curves([0, 1], np.ones((2, 2)), ax)
    first, second = ax.lines
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert first.get_color() != second.get_color()


def test_against_shows_means_and_intervals_over_draws():
    draws = np.array([[0.0, 1.0, 4.0], [1.0, 3.0, 5.0], [2.0, 8.0, 6.0]])
    series = {"random": draws, "one draw": draws[:1]}
    ax = plotting.against([4, 16, 64], series, xlabel="$n$", ylabel="share", logx=True, baseline=0.5)
    first, second, base = ax.lines
    np.testing.assert_allclose(points(first), [[4, 1], [16, 4], [64, 5]])
    np.testing.assert_allclose(points(second), [[4, 0], [16, 1], [64, 4]])
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()
    (band,) = ax.collections  # one draw has no interval
    _, low, high = statistics.mean(draws)
    (outline,) = band.get_paths()
    heights = np.asarray(outline.vertices)[:, 1]
    np.testing.assert_allclose((heights.min(), heights.max()), (low.min(), high.max()))
    assert set(points(base)[:, 1]) == {0.5}
    assert legend(ax) == ["random", "one draw"]
    assert ax.get_xticks().tolist() == [4, 16, 64]
    assert plotting.against([4, 16, 64], series, xlabel="$n$", ylabel="share").get_xscale() == "linear"
