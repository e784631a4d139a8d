"""Paths in time and in the plane: lines, end points and legends."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

import numpy as np
from matplotlib.colors import to_rgb

from gsjax import plotting
from gsjax.linearized import Trajectories
from gsjax.starvation import Trajectory
from tests.plotting.shown import colorbar, legend, points


def grid() -> Trajectories:
    """Made-up trajectories of different numbers over two ratios, three deltas and four times from zero."""
    primal, dual = np.random.default_rng(0).uniform(size=(2, 2, 3, 4, 2))
    times = np.array([0.0, 0.1, 1.0, 10.0])
    return Trajectories(
        np.array([1.0, 1e-6]), np.array([-0.5, 0.0, 0.5]), times, primal, dual, primal[:, :, -1], np.ones((2, 3), bool)
    )


def panel_lines(ax):
    """The lines of a panel of trajectories, by kind."""
    return {
        "primal": [line for line in ax.lines if line.get_linestyle() == "-" and line.get_marker() == "None"],
        "dual": [line for line in ax.lines if line.get_linestyle() == "--"],
        "optimum": [line for line in ax.lines if line.get_marker() == "<"],
    }


def test_paths_keep_the_positive_times():
    responses = np.arange(8.0).reshape(4, 2)
    ax = plotting.paths([-1.0, 0.0, 1.0, 10.0], responses)
    assert ax.get_xscale() == "log"
    for j, path in enumerate(ax.lines):
        np.testing.assert_array_equal(points(path), np.stack([[1.0, 10.0], responses[2:, j]], axis=1))


def test_paths_have_a_legend_or_a_colour_bar():
    few, many = (plotting.paths([1.0, 2.0], np.ones((2, r))) for r in (7, 8))
    assert len({line.get_color() for line in few.lines}) == 7
    assert legend(few) == [f"$z_{{{j}}}$" for j in range(1, 8)]
    assert legend(many) is None
    assert (colorbar(few) is None, colorbar(many) is None) == (True, False)


def test_a_plane_shows_measured_and_predicted_ends():
    paths, ends = np.arange(12.0).reshape(2, 3, 2), np.array([[4.0, 5.0], [0.0, 0.0]])
    ax = plotting.plane(paths, ends, labels=["a", "b"])
    first, dot, second, _, _, crosses = ax.lines
    for line, path in ((first, paths[0]), (dot, paths[0, -1:]), (second, paths[1]), (crosses, ends)):
        np.testing.assert_array_equal(points(line), path)
    assert first.get_linewidth() > second.get_linewidth()  # a coinciding path is visible inside the wider one
    assert legend(ax) == ["a", "b", "theory"]
    assert legend(plotting.plane(paths, ends, labels=())) is None


def test_the_strongest_feature_is_the_darkest_and_on_top():
    lines = plotting.paths([1.0, 2.0], np.ones((2, 9))).lines
    brightness = [sum(to_rgb(line.get_color())) for line in lines]
    assert np.all(np.diff(brightness) > 0)
    assert np.all(np.diff([line.get_zorder() for line in lines]) < 0)


def test_trajectories_have_a_panel_for_each_ratio_and_delta():
    ridge = grid()
    axes = plotting.trajectories({"ridge": ridge})
    assert axes.shape == (2, 3)
    for (row, column), ax in np.ndenumerate(axes):
        *lines, end = (panel_lines(ax)[name] for name in ("primal", "dual", "optimum"))
        for line, values in zip(lines, (ridge.primal, ridge.dual), strict=True):
            np.testing.assert_array_equal(
                [points(path) for path in line],
                [np.stack([ridge.times[1:], z], axis=1) for z in values[row, column, 1:].T],
            )
        np.testing.assert_array_equal([points(mark)[0, 1] for mark in end], ridge.equilibrium[row, column])
        assert min(points(mark)[0, 0] for mark in end) > 1  # beyond the right edge, in shares of the axes
    assert [ax.get_title() for ax in axes[0]] == [r"$\delta = -0.5$", r"$\delta = 0$", r"$\delta = 0.5$"]
    assert [ax.get_ylabel().split("\n")[0] for ax in axes[:, 0]] == [
        r"$s_1^2\,/\,s_2^2 = 1$",
        r"$s_1^2\,/\,s_2^2 = 10^{-6}$",
    ]


def test_trajectories_without_the_dual_flow_have_one_clock():
    ridge = grid()
    axes = plotting.trajectories({"ridge": ridge}, dual=False)
    for (row, column), ax in np.ndenumerate(axes):
        lines = panel_lines(ax)
        assert lines["dual"] == []
        np.testing.assert_array_equal([points(line)[:, 1] for line in lines["primal"]], ridge.primal[row, column, 1:].T)
    (key,) = axes[0, 0].figure.legends
    assert [text.get_text() for text in key.get_texts()] == ["$z_1$, ridge", "$z_2$, ridge", "optimum"]


def test_panels_of_trajectories_share_limits_and_only_outer_ones_have_labels():
    figure, given = plotting.panels(3, 3)
    for axes in (plotting.trajectories({"ridge": grid()}, given[1:]), plotting.trajectories({"ridge": grid()})):
        assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in axes.flat}) == 1
        assert [bool(ax.get_xlabel()) for ax in axes.flat] == [False] * 3 + [True] * 3
        assert [bool(ax.get_ylabel()) for ax in axes.flat] == [True, False, False] * 2
    assert [ax.has_data() for ax in figure.axes] == [False] * 3 + [True] * 6


def test_two_penalties_differ_even_where_they_coincide():
    axes = plotting.trajectories({"ridge": grid(), "SD": grid()})
    lines = panel_lines(axes[0, 0])["primal"]
    widths, colors = ([getattr(line, f"get_{what}")() for line in lines] for what in ("linewidth", "color"))
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == len(set(colors)) == 4
    (key,) = axes[0, 0].figure.legends
    assert [text.get_text() for text in key.get_texts()[:4]] == [
        "$z_1$, ridge",
        "$z_2$, ridge",
        "$z_1$, SD",
        "$z_2$, SD",
    ]


def test_trajectories_that_have_not_converged_say_so():
    ridge = grid()
    lost = np.zeros((2, 3), bool)
    lost[0, 1] = True
    primal = np.where(lost[:, :, None, None], np.nan, ridge.primal)
    axes = plotting.trajectories({"ridge": ridge._replace(primal=primal, converged=~lost)})
    for index, ax in np.ndenumerate(axes):
        assert bool(ax.lines) != lost[index]
        assert [text.get_text() for text in ax.texts] == ["ridge: not converged"] * int(lost[index])


def starving() -> Trajectory:
    """A made-up trajectory of three features at four times from zero, with different negative entries."""
    sensitivity = -np.arange(36.0).reshape(4, 3, 3)
    return Trajectory(np.array([0.0, 0.1, 1.0, 10.0]), np.ones((4, 3)), sensitivity, np.True_)


def test_starvation_over_time_is_a_line_for_each_penalty():
    path = starving()
    other = path._replace(sensitivity=2 * path.sensitivity, times=path.times / 2)
    ax = plotting.starvation_over_time({"ridge": path, "SD": other}, entry=(2, 0))
    ridge, sd, zero = ax.lines
    np.testing.assert_array_equal(points(ridge), np.stack([path.times, path.sensitivity[:, 2, 0]], axis=1)[1:])
    np.testing.assert_array_equal(points(sd), np.stack([other.times, other.sensitivity[:, 2, 0]], axis=1)[1:])
    assert set(zero.get_ydata()) == {0}
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert ax.get_ylabel() == r"$\partial z_{3}(t)\,/\,\partial s_{1}^2$"
    assert legend(ax) == ["ridge", "SD"]
    assert len({(line.get_color(), line.get_linestyle(), line.get_linewidth()) for line in (ridge, sd)}) == 2


def test_starvation_on_a_logarithmic_axis_shows_its_sign():
    path = starving()
    signed = path._replace(sensitivity=path.sensitivity * np.array([1, 1, -1, 1])[:, None, None])
    ax = plotting.starvation_over_time({"ridge": signed}, logy=True)
    starved, fed = ax.lines
    np.testing.assert_array_equal(starved.get_ydata(), [12, np.nan, 30])
    np.testing.assert_array_equal(fed.get_ydata(), [np.nan, 21, np.nan])
    assert fed.get_linestyle() != starved.get_linestyle()
    assert ax.get_yscale() == "log"
    vanishing = path._replace(sensitivity=path.sensitivity * 10.0 ** -np.array([0, 0, 20, 40])[:, None, None])
    assert plotting.starvation_over_time({"SD": vanishing}, logy=True).get_ylim()[0] == 12e-10


def test_starvation_over_time_that_has_not_converged_says_so():
    path = starving()
    lost = path._replace(sensitivity=np.nan * path.sensitivity, converged=np.False_)
    for logy in (False, True):
        ax = plotting.starvation_over_time({"ridge": path, "SD": lost}, logy=logy)
        assert legend(ax) == ["ridge"]
        assert [text.get_text() for text in ax.texts] == ["SD: not converged"]
        assert legend(plotting.starvation_over_time({"SD": lost}, logy=logy)) is None
