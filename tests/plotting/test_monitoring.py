"""The figure of a monitored training: areas, early mass, threshold and warning."""

# pyright: reportArgumentType=false
# Bad input is of any type.

import numpy as np
import pytest

from gsjax import plotting
from tests.plotting.shown import colorbar, legend, points

STEPS = [0, 10, 40]
COUNTS = np.array([[1, 1, 2], [6, 2, 2], [0, 0, 0]])


def labelled(ax):
    return {line.get_label(): points(line) for line in ax.lines if not line.get_label().startswith("_")}


def test_areas_are_shares_of_the_valid_examples():
    ax = plotting.monitor(STEPS, COUNTS)
    tops = []
    for area in ax.collections:
        (outline,) = area.get_paths()
        tops.append([max(y for x, y in np.asarray(outline.vertices) if x == step) for step in STEPS])
    np.testing.assert_allclose(tops, [[0.25, 0.6, 0], [0.5, 0.8, 0], [1, 1, 0]])
    colors = [tuple(area.get_facecolor()[0]) for area in ax.collections]
    assert len(set(colors)) == 3
    assert [text.get_text() for text in colorbar(ax).get_yticklabels()] == ["1", "2", "3"]


def test_lines_are_the_early_mass_the_threshold_and_the_invalid_share():
    ax = plotting.monitor(
        STEPS, COUNTS, depths=[0, 1, 2], first=1, invalid=[4, 0, 5], threshold=[0.3, 0.7, 0.9], warning=10
    )
    lines = labelled(ax)
    assert legend(ax) == ["depth ≤ 1", "threshold", "invalid, of all examples", "first warning"]
    np.testing.assert_allclose(lines["depth ≤ 1"], np.stack([STEPS, [0.5, 0.8, 0]], axis=1))
    np.testing.assert_allclose(lines["threshold"][:, 1], [0.3, 0.7, 0.9])
    np.testing.assert_allclose(lines["invalid, of all examples"][:, 1], [0.5, 0, 1])
    assert set(lines["first warning"][:, 0]) == {10}
    assert legend(plotting.monitor(STEPS, COUNTS, first=2)) == ["depth ≤ 2"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"steps": [0, 10]}, r"counts: expected shape \(2, layers\), got shape \(3, 3\)"),
        ({"steps": [0, 0, 10]}, "steps: expected two or more increasing"),
        ({"counts": -COUNTS}, "counts: expected finite numbers, 0 or above"),
        ({"counts": COUNTS[:, 0]}, "counts: expected shape"),
        ({"depths": [1, 2]}, "depths: expected 3 increasing whole numbers"),
        ({"depths": [3, 2, 1]}, "depths: expected 3 increasing whole numbers"),
        ({"invalid": [1, 2]}, r"invalid: expected shape \(3,\), one per step"),
        ({"invalid": [1, 2, -3]}, "invalid: expected finite numbers, 0 or above"),
        ({"threshold": [0.1, 0.2]}, r"threshold: expected shape \(3,\), one per step"),
        ({"threshold": [0.1, 0.2, 1.2]}, r"threshold: expected numbers in \[0, 1\]"),
        ({"warning": np.inf}, "warning: expected a finite number"),
    ],
)
def test_bad_input(change, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        plotting.monitor(**{"steps": STEPS, "counts": COUNTS, **change})
