"""Sign maps and phase diagrams: cells, lines between signs, and labels of regions."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

import numpy as np
import pytest
from matplotlib.axes._secondary_axes import SecondaryAxis
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet

from gsjax import plotting
from gsjax.starvation.diagram import PhaseDiagram
from tests.plotting.shown import colorbar, heat, points

RATIO, STRENGTH = np.geomspace(0.1, 10, 21), np.array([0.1, 1e-5])
DELTA = np.sort([*np.linspace(-0.9, 0.9, 19).round(1), -np.sqrt(0.5), np.sqrt(0.5)])  # uneven
SHAPE = (len(RATIO), len(DELTA), 2, 2, 2)
TRUE = np.ones(SHAPE[:3], bool)


def checkerboard() -> PhaseDiagram:
    """The oriented signs of Theorem 2: they change at delta = 0 and s_1 = s_2, and are zero at delta^2 = 1/2."""
    slopes = np.multiply.outer(-np.log(RATIO), DELTA * (DELTA**2 - 0.5) ** 2)
    slopes = slopes[:, :, None, None, None] * np.ones(SHAPE)
    return PhaseDiagram(RATIO, DELTA, STRENGTH, slopes[..., 0], slopes, TRUE)


def sign_lines(ax) -> list[np.ndarray]:
    """The lines between the signs, as points of delta and log ratio."""
    (signs,) = (found for found in ax.collections if isinstance(found, ContourSet) and list(found.levels) == [0])
    return [np.stack([line[:, 0], np.log(line[:, 1])], axis=1) for line in signs.allsegs[0]]


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


def test_sign_map_on_a_logarithmic_axis_with_written_values():
    x, y, values = [0.0, 0.1, 0.5], [16, 32, 128], np.array([[0.0, 0.012, 0.1], [0.2, np.nan, 0.3], [0.4, 0.5, 1.0]])
    ax = plotting.sign_map(x, y, values, logy=True, written=True)
    assert ax.get_yscale() == "log"
    mesh, shown = heat(ax)
    np.testing.assert_array_equal(np.asarray(shown), values)
    edges = np.asarray(mesh.get_coordinates())
    np.testing.assert_allclose(edges[1:3, 0, 1], [np.sqrt(16 * 32), np.sqrt(32 * 128)])
    np.testing.assert_allclose(edges[0, :, 0], [-0.05, 0.05, 0.3, 0.7])
    texts = {tuple(text.get_position()): text.get_text() for text in ax.texts}
    assert (texts[0.1, 16], texts[0.5, 128], len(texts)) == ("0.012", "1", 9)


def test_a_phase_diagram_shows_one_entry_of_one_slice():
    diagram = PhaseDiagram(RATIO, DELTA, STRENGTH, np.zeros(()), np.random.default_rng(0).normal(size=SHAPE), TRUE)
    ax = plotting.phase_diagram(diagram, strength=1, entry=(0, 1))
    mesh, shown = heat(ax)
    np.testing.assert_array_equal(shown, diagram.starvation[:, :, 1, 0, 1])
    edges = np.asarray(mesh.get_coordinates())
    for centres, found in ((DELTA, edges[0, :, 0]), (np.log(RATIO), np.log(edges[:, 0, 1]))):
        np.testing.assert_allclose(found[1:-1], (centres[1:] + centres[:-1]) / 2)  # halfway in the scale of the axis
    np.testing.assert_allclose((*ax.get_xlim(), *ax.get_ylim()), (*DELTA[[0, -1]], *RATIO[[0, -1]]))
    assert ax.get_title() == r"$\lambda\,/\,s_2^2 = 10^{-5}$"
    assert r"\partial z_1^*\,/\,\partial s_2^2" in colorbar(ax).get_ylabel()


def test_points_that_have_not_converged_are_grey():
    converged = TRUE.copy()
    converged[0, 2, 0] = False
    ax = plotting.phase_diagram(checkerboard()._replace(converged=converged))
    np.testing.assert_array_equal(np.ma.getmaskarray(heat(ax)[1]), ~converged[:, :, 0])
    assert "grey: not converged" in ax.get_title()
    assert "grey" not in plotting.phase_diagram(checkerboard()).get_title()


@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_lines_between_signs_follow_zeros_on_the_grid(noise):
    """They follow lines of exact or rounded zeros, also where these cross, but not zeros without a change of sign."""
    diagram = checkerboard()
    rounding = noise * np.random.default_rng(0).normal(size=SHAPE)
    ax = plotting.phase_diagram(diagram._replace(starvation=diagram.starvation + rounding))
    ways = sign_lines(ax)
    np.testing.assert_allclose(np.abs(np.concatenate(ways)).min(axis=1), 0, atol=1e-5)  # delta = 0 or log ratio = 0
    steps = np.abs(np.concatenate([np.diff(way, axis=0) for way in ways]))
    np.testing.assert_allclose(steps.min(axis=1), 0, atol=1e-5)  # no corner is cut
    np.testing.assert_allclose(steps.sum(axis=0), (np.ptp(DELTA), np.log(RATIO[-1] / RATIO[0])), rtol=1e-4)


def test_lines_between_signs_run_between_grid_points_without_zeros():
    keep = DELTA != 0
    diagram = checkerboard()
    diagram = diagram._replace(delta=DELTA[keep], starvation=diagram.starvation[:, keep], converged=TRUE[:, keep])
    points = np.concatenate(sign_lines(plotting.phase_diagram(diagram)))
    before, after = DELTA[DELTA < 0].max(), DELTA[DELTA > 0].min()
    is_between = (before <= points[:, 0]) & (points[:, 0] <= after)
    np.testing.assert_allclose(points[~is_between, 1], 0, atol=1e-5)
    assert np.ptp(points[is_between, 1]) > 0.99 * np.log(RATIO[-1] / RATIO[0])


def test_regions_are_named_by_their_sign():
    diagram = checkerboard()
    ax = plotting.phase_diagram(diagram)
    shares = (ax.transScale + ax.transLimits).inverted()
    for name, sign in (("starved", -1), ("fed", 1)):
        places = [shares.transform(text.get_position()) for text in ax.texts if text.get_text() == name]
        assert len(places) == 2
        assert [np.sign(-delta * np.log(ratio)) for delta, ratio in places] == [sign, sign]


def test_contours_are_powers_of_ten():
    ax = plotting.phase_diagram(checkerboard())
    (equal,) = (found for found in ax.collections if isinstance(found, ContourSet) and len(found.levels) > 1)
    powers = np.log10(np.abs(np.asarray(equal.levels)))
    np.testing.assert_allclose(powers, np.round(powers))
    assert {text.get_text() for text in ax.texts} >= {"$10^{-1}$", "$-10^{-1}$"}


def test_lines_of_the_theory_are_drawn_if_they_are_in_the_grid():
    ax = plotting.phase_diagram(checkerboard())
    upright, level = ([line for line in ax.lines if np.ptp(points(line)[:, axis]) == 0] for axis in (0, 1))
    np.testing.assert_allclose([points(line)[0, 0] for line in upright], [-np.sqrt(0.5), 0, np.sqrt(0.5)])
    np.testing.assert_allclose([points(line)[0, 1] for line in level], [1])
    (top,) = (child for child in ax.child_axes if isinstance(child, SecondaryAxis))
    np.testing.assert_allclose(top.get_xticks(), [-np.sqrt(0.5), 0, np.sqrt(0.5)])
    kept = (DELTA > 0) & (DELTA < 0.6), RATIO > 1
    diagram = checkerboard()
    diagram = diagram._replace(
        ratio=RATIO[kept[1]],
        delta=DELTA[kept[0]],
        starvation=diagram.starvation[kept[1]][:, kept[0]],
        converged=TRUE[kept[1]][:, kept[0]],
    )
    assert not plotting.phase_diagram(diagram).lines


def test_where_nothing_starves_a_phase_diagram_says_so():
    diagram = checkerboard()
    ax = plotting.phase_diagram(diagram._replace(starvation=0 * diagram.starvation))
    mesh, shown = heat(ax)
    assert min(mesh.cmap(mesh.norm(shown))[..., :3].ravel()) > 0.95  # white
    assert [text.get_text() for text in ax.texts] == [r"$s_2^2\,\partial z_2^*\,/\,\partial s_1^2 = 0$ everywhere"]
    assert ax.collections[:] == [mesh]
    assert colorbar(ax).get_yticks().tolist() == [0]


def test_the_colour_bar_begins_at_zero_if_nothing_is_negative():
    x, y, values = [1.0, 2.0], [1.0, 2.0], np.array([[0.0, 0.5], [np.nan, 0.1]])
    for sign, ends in ((1, (0.0, 0.5)), (-1, (-0.5, 0.5))):
        bar = colorbar(plotting.sign_map(x, y, sign * values))
        np.testing.assert_allclose(bar.get_ylim(), ends)


def test_slices_can_share_their_colours():
    _, [axes] = plotting.panels(columns=2)
    for ax, scale in zip(axes, (1.0, 0.1), strict=True):
        diagram = checkerboard()
        diagram = diagram._replace(starvation=scale * diagram.starvation)
        plotting.phase_diagram(diagram, ax, limit=0.7, colorbar=False)
    first, second = (heat(ax)[0] for ax in axes)
    np.testing.assert_array_equal(first.norm([-0.7, 0.1, 0.7]), second.norm([-0.7, 0.1, 0.7]))
    assert first.norm(0.7) == 1
    assert colorbar(axes[0]) is None
