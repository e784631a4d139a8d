"""Boundaries as curves: positions and distances known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from gsjax.probes import boundary

GRID = np.linspace(-2, 2, 100)
FIRST, SECOND = np.meshgrid(GRID, GRID)


def test_a_line_is_found_exactly():
    """Linear outputs are interpolated without error, so the distance is |w x + b| / |w|."""
    w, b = np.array([3.0, -1.5]), 0.4
    lines = boundary.zero_level(GRID, GRID, w[0] * FIRST + w[1] * SECOND + b)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    np.testing.assert_allclose(boundary.distances(x, lines), np.abs(x @ w + b) / np.linalg.norm(w), atol=1e-12)
    places = np.array([-0.9, 0.0, 0.7])
    np.testing.assert_allclose(boundary.positions(lines, places), (-b - w[1] * places) / w[0], atol=1e-12)


def test_a_circle_is_found_to_the_second_order_of_the_grid():
    """A chord of length h is h^2 / (8 r) away from its arc: a grid twice as fine makes errors four times as small."""
    errors = []
    for points in (50, 100, 200):
        grid = np.linspace(-2, 2, points)
        first, second = np.meshgrid(grid, grid)
        lines = boundary.zero_level(grid, grid, np.hypot(first, second) - 1)
        errors.append(abs(boundary.distances([[0.0, 0.0]], lines)[0] - 1))
    assert errors[2] < 1e-3
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_several_curves_and_several_crossings():
    lines = boundary.zero_level(GRID, GRID, np.abs(FIRST) - 1)
    assert len(lines) == 2
    np.testing.assert_allclose(boundary.distances([[0.25, 0.0], [-1.5, 0.0]], lines), [0.75, 0.5], atol=1e-12)
    np.testing.assert_allclose(boundary.positions(lines, [0.1]), 0, atol=1e-12)  # the mean of -1 and 1


def test_beyond_the_end_of_a_curve_its_end_is_nearest():
    line = np.array([[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(boundary.distances([[4.0, 4.0], [-3.0, 4.0], [0.5, 2.0]], [line]), [5, 5, 2])


def test_a_rotation_changes_no_distance():
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    line = np.array([[-1.0, 0.2], [0.3, 0.4], [0.9, -0.5]])
    x = np.random.default_rng(1).normal(size=(20, 2))
    original, rotated = boundary.distances(x, [line]), boundary.distances(x @ turn.T, [line @ turn.T])
    np.testing.assert_allclose(original, rotated, atol=1e-12)


def test_outputs_of_one_sign_have_no_boundary():
    assert boundary.zero_level(GRID, GRID, np.ones((100, 100))) == []
    assert boundary.distances([[0.0, 0.0]], []).tolist() == [np.inf]
    assert np.isnan(boundary.positions([], [0.0])).all()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: boundary.zero_level([0.0], GRID, np.ones((100, 1))), "first: expected two or more increasing"),
        (lambda: boundary.zero_level(GRID, GRID[::-1], FIRST), "second: expected two or more increasing"),
        (lambda: boundary.zero_level(GRID, GRID, FIRST[:-1]), "logits: expected shape"),
        (lambda: boundary.zero_level(GRID, GRID, FIRST * np.nan), "logits: expected finite"),
        (lambda: boundary.distances(np.ones(2), []), "x: expected shape"),
        (lambda: boundary.distances([[np.inf, 0.0]], []), "x: expected finite"),
        (lambda: boundary.positions([], [np.nan]), "second: expected finite"),
    ],
)
def test_bad_input(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
