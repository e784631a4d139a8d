"""Pictures with maps on top, and histograms of depths: what the axes show."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from gsjax import plotting
from tests.plotting.shown import points

ORANGE = np.array(to_rgb(plotting.OKABE_ITO[1]))


def pictures(ax, rows, columns, height, width):
    """The pictures by row and column, shape (rows, columns, height, width, 3), from the only image of the axes."""
    (image,) = ax.images
    canvas = np.asarray(image.get_array())
    gaps = (canvas.shape[0] - rows * height) // (rows - 1), (canvas.shape[1] - columns * width) // (columns - 1)
    return np.array(
        [
            [
                canvas[row * (height + gaps[0]) :, column * (width + gaps[1]) :][:height, :width]
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_images_are_on_top_and_maps_are_colour(channels):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 4, 5, *channels))
    maps = np.zeros((2, 4, 5))
    maps[0, 1, 2], maps[0, 3, 0] = 4.0, 1.0
    ax = plotting.saliency_maps(images, {"Grad-CAM": maps, "saliency": 7 * maps[::-1]}, labels=["a", "b"])
    (top, *rest) = pictures(ax, 3, 2, 4, 5)
    scaled = (images - images.min()) / np.ptp(images)
    np.testing.assert_allclose(top, np.broadcast_to(scaled.reshape(2, 4, 5, -1), (2, 4, 5, 3)))
    for row, shown in zip(rest, (maps, maps[::-1]), strict=True):
        away = np.abs(row - ORANGE).sum(axis=-1)
        grey = np.ptp(row, axis=-1) < 1e-12
        np.testing.assert_array_equal(grey, shown == 0)  # a map of zeros has no colour
        one = int(shown[1].any())
        assert away[one].argmin() == shown[one].argmax()  # the largest value has the fullest colour
        assert away[one, 3, 0] > away[one, 1, 2]
    # A map is divided by its maximum, so that a multiple looks alike.
    double = pictures(plotting.saliency_maps(images, {"a": maps, "b": 2 * maps}), 3, 2, 4, 5)
    np.testing.assert_allclose(double[1], double[2])
    labels = [[text.get_text() for text in axis.get_ticklabels()] for axis in (ax.xaxis, ax.yaxis)]
    assert labels == [["a", "b"], ["input", "Grad-CAM", "saliency"]]


def test_labels_are_at_the_middle_of_their_pictures():
    ax = plotting.saliency_maps(np.arange(60.0).reshape(3, 4, 5), {"a": np.ones((3, 4, 5))})
    height, width, _ = np.asarray(ax.images[0].get_array()).shape
    np.testing.assert_allclose(ax.get_xticks(), [2, (width - 1) / 2, width - 3])
    np.testing.assert_allclose(ax.get_yticks(), [1.5, height - 2.5])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "3"]


def test_a_new_figure_has_the_shape_of_its_pictures():
    def size(n, height, width):
        figure = plotting.saliency_maps(np.ones((n, height, width)), {"a": np.ones((n, height, width))}).figure
        assert isinstance(figure, Figure)
        return figure.get_size_inches()

    small, wide, high = size(2, 8, 8), size(6, 8, 8), size(2, 16, 8)
    assert wide[0] > small[0] + 3
    assert wide[1] == small[1]
    assert high[0] == small[0]
    assert high[1] > small[1] + 1
    figure, axes = plotting.panels()
    before = tuple(figure.get_size_inches())
    plotting.saliency_maps(np.ones((6, 8, 8)), {}, axes[0, 0])
    assert tuple(figure.get_size_inches()) == before


def bars(ax):
    """The height of every bar that is not zero, by the height of its base and its place."""
    return {
        (bar.get_y(), round(bar.get_x() + bar.get_width() / 2)): bar.get_height()
        for bar in ax.patches
        if bar.get_height()
    }


def test_depths_are_shares_of_all_examples_with_the_invalid_apart():
    series = {"first": [1, 1, 1, 4], "second": [2, 3, np.nan, np.nan], "third": [np.nan]}
    ax = plotting.depths(series, most=6)
    found = bars(ax)
    unit = found[0, 8]  # all examples of the third are invalid; this bar is at the largest depth plus two
    shares = {place: height / unit for place, height in found.items()}
    expected = {(2, 1): 0.75, (2, 4): 0.25, (1, 2): 0.25, (1, 3): 0.25, (1, 8): 0.5, (0, 8): 1.0}
    assert shares == pytest.approx(expected)
    assert [bar.get_hatch() for bar in ax.patches if bar.get_hatch()] == ["///"] * 2
    means = [points(line).tolist() for line in ax.lines if line.get_marker() == "^"]
    assert means == [[[1.75, 2]], [[2.5, 1]]]
    assert [text.get_text() for text in ax.texts] == ["75%", "50%", "100%"]
    assert [text.get_text() for text in ax.get_xticklabels()] == [*"123456", "invalid"]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(series)
    assert np.all(np.diff(ax.get_yticks()) < 0)  # the first is on top


def test_the_raw_input_is_a_depth_only_where_it_occurs():
    assert plotting.depths({"a": [0, 2]}).get_xticklabels()[0].get_text() == "0"
    assert plotting.depths({"a": [2, 2]}).get_xticklabels()[0].get_text() == "1"
    many = [text.get_text() for text in plotting.depths({"a": [1, 2]}, most=53).get_xticklabels()]
    assert many[:3] == ["1", "7", "13"]
    assert many[-1] == "invalid"
