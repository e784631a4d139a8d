"""Figures show the numbers they are given, where and in the order they promise, and touch nothing else."""

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from gsjax import plotting
from gsjax.statistics import loglog_slope

WIDTHS = np.array([64, 128, 256])
ERRORS = np.random.default_rng(0).uniform(0.5, 1.0, size=(4, 3)) / np.sqrt(WIDTHS)
SLOPE, POINTS = np.tile([-1.0, 2.0], (3, 1)), np.array([[-0.5, 0.0], [0.5, 0.2]])
DRAWINGS = {
    "spectrum": lambda ax=None: plotting.spectrum([3.0, 1.0, 0.1], [2.0, -0.5, 0.0], ax=ax),
    "starvation": lambda ax=None: plotting.starvation(-np.eye(3), [3.0, 2.0, 1.0], ax=ax),
    "no starvation at all": lambda ax=None: plotting.starvation(np.zeros((1, 1)), [1.0], ax=ax),
    "paths": lambda ax=None: plotting.paths([0.0, 0.1, 1.0], np.ones((3, 2)), ax=ax),
    "many paths": lambda ax=None: plotting.paths([0.1, 1.0], np.ones((2, 30)), ax=ax),
    "errors": lambda ax=None: plotting.error_against_width(WIDTHS, ERRORS, loglog_slope(WIDTHS, ERRORS), -0.5, ax=ax),
    "errors over decades": lambda ax=None: plotting.error_against_width(WIDTHS, ERRORS**4, ax=ax),
    "a boundary": lambda ax=None: plotting.decision_boundary([-1, 1], [-1, 0, 1], SLOPE, POINTS, [-1, 1], ax=ax),
    "no boundary": lambda ax=None: plotting.decision_boundary([0, 1], [0, 1], np.ones((2, 2)), POINTS, [1, 1], ax=ax),
    "curves": lambda ax=None: plotting.curves([0, 5], np.ones((3, 2)), ax=ax, label="ERM", ylabel="loss"),
    "categories": lambda ax=None: plotting.categories("ab", {"ERM": np.eye(2)}, ax=ax, xlabel="environment"),
    "a plane": lambda ax=None: plotting.plane(np.ones((2, 3, 2)), np.ones((2, 2)), ax=ax, labels=["a", "b"]),
    "signs": lambda ax=None: plotting.sign_map([0.1, 0.5], [1.0, 2.0], np.array([[-1.0, np.nan], [0.0, 1e-4]]), ax=ax),
}
drawings = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS.keys())


def heat(ax) -> tuple[Any, np.ma.MaskedArray]:
    """The mesh of a heat map and its values, a masked array."""
    (mesh,) = ax.collections
    return mesh, np.ma.asarray(mesh.get_array())


def points(line):
    return np.asarray(line.get_xydata())


def legend(ax):
    """The texts of the legend, if there is one."""
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else None


@drawings
def test_draws_into_the_axes_it_is_given_and_labels_them(draw):
    figure, axes = plotting.panels(rows=2, columns=2)
    ax = draw(axes[1, 0])
    assert ax is axes[1, 0]
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert not axes[0, 0].has_data()
    figure.savefig(io.BytesIO())


@drawings
def test_makes_a_figure_of_its_own(draw):
    first, second = draw(), draw()
    assert isinstance(first.figure, Figure)
    assert first.figure is not second.figure


@drawings
def test_axes_of_another_kind_are_refused(draw):
    with pytest.raises(ValueError, match=r"^ax: expected matplotlib axes or None, got ndarray"):
        draw(plotting.panels(columns=2)[1])


def test_the_state_of_matplotlib_is_left_alone():
    """In a process of its own: what an earlier test has changed would not show."""
    code = """
import sys, matplotlib
before = dict(matplotlib.rcParams)
from gsjax import plotting
plotting.spectrum([1.0], [1.0])
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


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
    ticks = mesh.norm(ax.figure.axes[1].get_yticks())
    assert np.diff(ticks).min() > 0.05  # far enough apart to be read


def test_sign_map_leaves_unknown_cells_grey():
    ax = plotting.sign_map([0.1, 0.5], [1.0, 2.0], np.array([[-1.0, np.nan], [0.5, 1.0]]))
    assert np.ma.getmaskarray(heat(ax)[1]).tolist() == [[False, True], [False, False]]
    red, green, blue = to_rgb(ax.get_facecolor())
    assert red == green == blue < 0.9


def test_sign_map_has_a_row_for_each_y():
    x, y = np.linspace(0.1, 0.9, 5), np.geomspace(0.1, 10, 3)
    ax = plotting.sign_map(x, y, np.outer(y, x))
    np.testing.assert_array_equal(heat(ax)[1], np.outer(y, x))
    assert ax.get_xlim()[1] < 1.1
    assert ax.get_ylim()[1] > 10


def test_paths_keep_the_positive_times():
    responses = np.arange(8.0).reshape(4, 2)
    ax = plotting.paths([-1.0, 0.0, 1.0, 10.0], responses)
    assert ax.get_xscale() == "log"
    for j, path in enumerate(ax.lines):
        np.testing.assert_array_equal(points(path), np.stack([[1.0, 10.0], responses[2:, j]], axis=1))


def test_paths_are_told_apart_by_a_legend_or_else_a_colour_bar():
    few, many = (plotting.paths([1.0, 2.0], np.ones((2, r))) for r in (7, 8))
    assert len({line.get_color() for line in few.lines}) == 7
    assert legend(few) == [f"$z_{{{j}}}$" for j in range(1, 8)]
    assert legend(many) is None
    assert len(many.figure.axes) == 2  # with that of the colour bar


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


def test_a_second_series_gets_a_colour_of_its_own():
    ax = plotting.error_against_width(WIDTHS, ERRORS, label="ridge")
    plotting.error_against_width(WIDTHS, 2 * ERRORS, ax=ax, label="decoupled")
    colors = {line.get_color() for line in ax.lines if line.get_marker() == "o"}
    assert colors == set(plotting.OKABE_ITO[:2])


def test_decision_boundary_shows_the_zero_level_and_the_classes():
    ax = plotting.decision_boundary([-1, 1], [-1, 0, 1], SLOPE, POINTS, [-1, 1])
    (line,) = [path for collection in ax.collections for path in collection.get_paths() if len(path) == 3]
    np.testing.assert_allclose(np.asarray(line.vertices)[:, 0], -1 / 3)  # where the outputs -1 and 2 meet
    offsets = [np.asarray(collection.get_offsets()).tolist() for collection in ax.collections[-2:]]
    assert offsets == [[POINTS[0].tolist()], [POINTS[1].tolist()]]


def test_a_plane_shows_where_paths_end_and_where_they_should():
    paths, ends = np.arange(12.0).reshape(2, 3, 2), np.array([[4.0, 5.0], [0.0, 0.0]])
    ax = plotting.plane(paths, ends, labels=["a", "b"])
    first, dot, second, _, _, crosses = ax.lines
    for line, path in ((first, paths[0]), (dot, paths[0, -1:]), (second, paths[1]), (crosses, ends)):
        np.testing.assert_array_equal(points(line), path)
    assert first.get_linewidth() > second.get_linewidth()  # one that coincides with it is seen inside of it
    assert legend(ax) == ["a", "b", "theory"]
    assert legend(plotting.plane(paths, ends, labels=())) is None


def test_curves_and_categories_show_means_over_seeds():
    values = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 9.0]])
    (line,) = plotting.curves([3, 4], values).lines
    np.testing.assert_allclose(points(line), [[3, 1], [4, 4]])
    means, *_ = plotting.categories("ab", {"ERM": values}).lines
    np.testing.assert_allclose(points(means), [[0, 1], [1, 4]])
    assert not plotting.curves([3, 4], values[:1]).collections  # of one seed there is no interval


@pytest.mark.parametrize(
    ("argument", "draw"),
    [
        ("s", lambda: plotting.spectrum(np.ones((1, 1)), [1.0])),
        ("s", lambda: plotting.spectrum([], [])),
        ("response", lambda: plotting.spectrum([1.0, 2.0], [1.0])),
        ("response", lambda: plotting.spectrum([1.0], [np.nan])),
        ("matrix", lambda: plotting.starvation(np.eye(2), [1.0])),
        ("matrix", lambda: plotting.starvation(np.array([[np.inf]]), [1.0])),
        ("strengths", lambda: plotting.starvation(np.ones((1, 1)), [np.nan])),
        ("times", lambda: plotting.paths([0.0, -1.0], np.ones((2, 1)))),
        ("responses", lambda: plotting.paths([1.0, 2.0], np.ones((3, 1)))),
        ("responses", lambda: plotting.paths([1.0], np.array([[np.nan]]))),
        ("labels", lambda: plotting.paths([1.0, 2.0], np.ones((2, 3)), labels=["a"])),
        ("widths", lambda: plotting.error_against_width([0, 1], np.ones((2, 2)))),
        ("errors", lambda: plotting.error_against_width([1, 2], np.ones((2, 3)))),
        ("errors", lambda: plotting.error_against_width([1, 2], np.zeros((2, 2)))),
        ("first", lambda: plotting.decision_boundary([1, 0], [0, 1], np.ones((2, 2)), POINTS, [1, 1])),
        ("logits", lambda: plotting.decision_boundary([0, 1], [0, 1], np.ones((3, 2)), POINTS, [1, 1])),
        ("x", lambda: plotting.decision_boundary([0, 1], [0, 1], np.ones((2, 2)), np.ones((2, 3)), [1, 1])),
        ("y", lambda: plotting.decision_boundary([0, 1], [0, 1], np.ones((2, 2)), POINTS, [0, 1])),
        ("steps", lambda: plotting.curves([np.nan], np.ones((1, 1)))),
        ("values", lambda: plotting.curves([0, 1], np.ones(2))),
        ("series", lambda: plotting.categories(["a"], {})),
        ("series", lambda: plotting.categories(["a"], {"ERM": np.ones((2, 2))})),
        ("series", lambda: plotting.categories(["a"], {"ERM": [[np.nan]]})),
        ("paths", lambda: plotting.plane(np.ones((2, 3)), np.ones((2, 2)), labels=())),
        ("paths", lambda: plotting.plane(np.full((1, 1, 2), np.nan), np.ones((1, 2)), labels=())),
        ("ends", lambda: plotting.plane(np.ones((2, 3, 2)), np.ones((3, 2)), labels=())),
        ("labels", lambda: plotting.plane(np.ones((2, 3, 2)), np.ones((2, 2)), labels=["a"])),
        ("x", lambda: plotting.sign_map([1.0, 0.0], [0.0, 1.0], np.ones((2, 2)))),
        ("y", lambda: plotting.sign_map([0.0, 1.0], [1.0], np.ones((1, 2)))),
        ("values", lambda: plotting.sign_map([0.0, 1.0, 2.0], [0.0, 1.0], np.ones((3, 2)))),
    ],
)
def test_bad_input_is_named(argument, draw):
    with pytest.raises(ValueError, match=f"^{argument}: expected "):
        draw()
