"""Spectra and starvation matrices: which numbers are shown, and where."""

import numpy as np
import pytest

from gsjax import plotting
from tests.plotting.shown import colorbar, heat, points


def test_spectrum_shows_squares_and_marks_negative_responses():
    strengths, positive, negative = plotting.spectrum([3.0, 2.0, 0.0], [5.0, -4.0, 0.0]).lines
    np.testing.assert_array_equal(points(strengths), [[1, 9.0], [2, 4.0]])
    np.testing.assert_array_equal(points(positive), [[1, 5.0]])
    np.testing.assert_array_equal(points(negative), [[2, 4.0]])
    assert negative.get_markerfacecolor() == "white" != positive.get_markerfacecolor()


def test_starvation_is_ordered_by_strength_and_starts_at_the_top():
    matrix = np.arange(9.0).reshape(3, 3) - 4
    ax = plotting.starvation(matrix, [1.0, 3.0, 2.0])
    order = [1, 2, 0]
    np.testing.assert_array_equal(heat(ax)[1], matrix[order][:, order])
    assert ax.yaxis_inverted()
    assert not ax.xaxis_inverted()


@pytest.mark.parametrize("scale", [1e-12, 0.03, 1.0, 9.99, 1e6])
def test_colours_are_centred_at_zero(scale):
    values = scale * np.array([[-0.3, 0.0], [1e-5, 1.0]])
    ax = plotting.starvation(values, [2.0, 1.0])
    mesh, shown = heat(ax)
    np.testing.assert_allclose(mesh.norm(shown) + mesh.norm(-shown), 1.0)
    assert mesh.norm(0.0) == 0.5
    red, _, blue, _ = mesh.cmap(mesh.norm(values[0, 0]))
    assert red > blue  # starving
    ticks = mesh.norm(colorbar(ax).get_yticks())
    assert np.diff(ticks).min() > 0.05  # far enough apart to read


def test_features_are_counted_from_one():
    for r, expected in ((1, [1]), (8, [1, 2, 3, 4, 5, 6, 7, 8]), (12, [1, 5, 10]), (60, [1, 10, 20, 30, 40, 50, 60])):
        ax = plotting.spectrum(np.ones(r), np.ones(r))
        assert ax.get_xticks().tolist() == expected


def test_the_legend_is_outside_the_axes():
    figure, axes = plotting.panels()
    ax = plotting.spectrum([3.0, 2.0, 1.0], [1.0, -1.0, 1.0], axes[0, 0])
    figure.draw_without_rendering()
    key = ax.get_legend()
    assert key is not None
    assert key.get_window_extent().x0 >= ax.get_window_extent().x1


def test_where_nothing_starves_the_scale_has_no_numbers():
    ax = plotting.starvation(np.zeros((2, 2)), [2.0, 1.0])
    assert colorbar(ax).get_yticks().tolist() == [0.0]
