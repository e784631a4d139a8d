"""Every function draws into the given axes, labels them, refuses bad input and changes nothing else."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from gsjax import plotting
from gsjax.linearized import Trajectories
from gsjax.starvation import Trajectory
from gsjax.starvation.diagram import PhaseDiagram
from gsjax.statistics import loglog_slope

WIDTHS = np.array([64, 128, 256])
ERRORS = np.random.default_rng(0).uniform(0.5, 1.0, size=(4, 3)) / np.sqrt(WIDTHS)
SLOPE, POINTS = np.tile([-1.0, 2.0], (3, 1)), np.array([[-0.5, 0.0], [0.5, 0.2]])
SLOPES = np.multiply.outer(np.multiply.outer([1.0, -1.0], [-1.0, 0.2, 1.0]), np.ones((1, 2, 2)))
DIAGRAM = PhaseDiagram(
    np.array([0.5, 2.0]), np.array([-0.8, 0.1, 0.8]), np.array([0.1]), SLOPES[..., 0], SLOPES, np.ones((2, 3, 1), bool)
)
Z = np.cumsum(np.ones((1, 2, 3, 2)), axis=2)
TRAJECTORIES = Trajectories(
    np.array([4.0]), np.array([0.0, 0.5]), np.array([0.1, 1.0, 9.0]), Z, Z, Z[:, :, -1], np.ones((1, 2), bool)
)
STARVING = Trajectory(np.array([0.1, 1.0]), np.ones((2, 2)), -np.ones((2, 2, 2)), np.True_)
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
    "against": lambda ax=None: plotting.against([4, 8], {"U": np.eye(2)}, ax=ax, xlabel="$n$", ylabel="share"),
    "a plane": lambda ax=None: plotting.plane(np.ones((2, 3, 2)), np.ones((2, 2)), ax=ax, labels=["a", "b"]),
    "starvation over time": lambda ax=None: plotting.starvation_over_time({"ridge": STARVING}, ax),
    "sizes over time": lambda ax=None: plotting.starvation_over_time({"ridge": STARVING}, ax, logy=True),
    "signs": lambda ax=None: plotting.sign_map([0.1, 0.5], [1.0, 2.0], np.array([[-1.0, np.nan], [0.0, 1e-4]]), ax=ax),
    "a monitored training": lambda ax=None: plotting.monitor(
        [0, 5], [[1, 2], [0, 0]], ax, invalid=[1, 4], threshold=[0.5, 0.6], warning=5
    ),
    "a monitored training without more": lambda ax=None: plotting.monitor([0, 5], np.eye(2), ax),
    "a phase diagram": lambda ax=None: plotting.phase_diagram(DIAGRAM, ax),
    "depths": lambda ax=None: plotting.depths({"MNIST": [1, 2, np.nan], "none valid": [np.nan]}, ax=ax),
    "saliency maps": lambda ax=None: plotting.saliency_maps(
        np.ones((2, 3, 4, 3)), {"a": np.zeros((2, 3, 4))}, ax=ax, xlabel="label", ylabel="method"
    ),
    "responses": lambda ax=None: plotting.responses({"a": [2.0, -0.5, 0.0], "b": [1.0, np.nan, 3.0]}, ax),
    "alignments": lambda ax=None: plotting.alignments([0.9, np.nan], [0.1, 0.2], ax, chance=0.05),
    "pictures": lambda ax=None: plotting.pictures(
        {"feature 1": np.ones((2, 3, 4, 3))}, {"feature 1": ["+0.5", "-0.2"]}, ax, xlabel="row", ylabel="feature"
    ),
    "a phase diagram of nothing": lambda ax=None: plotting.phase_diagram(
        DIAGRAM._replace(converged=np.zeros((2, 3, 1), bool)), ax
    ),
}
drawings = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS.keys())


@drawings
def test_draws_into_the_given_axes_and_labels_them(draw):
    figure, axes = plotting.panels(columns=2)
    ax = draw(axes[0, 1])
    assert ax is axes[0, 1]
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert not axes[0, 0].has_data()
    figure.savefig(io.BytesIO(), dpi=40)


def test_makes_a_new_figure_by_default():
    first, second = DRAWINGS["spectrum"](), DRAWINGS["spectrum"]()
    assert isinstance(first.figure, Figure)
    assert first.figure is not second.figure


@drawings
def test_axes_of_another_kind_are_refused(draw):
    with pytest.raises(ValueError, match=r"^ax: expected matplotlib axes or None, got ndarray"):
        draw(plotting.panels(columns=2)[1])


def test_a_figure_is_saved_as_matplotlib_would(tmp_path):
    figure, _ = plotting.panels()
    for name, options in [("a.png", {}), ("b.PNG", {"dpi": 30, "metadata": {"Software": None}}), ("c", {"dpi": 20})]:
        expected = io.BytesIO()
        figure.savefig(expected, format="png", **options)
        plotting.save(figure, tmp_path / name, **options)
        assert (tmp_path / name).read_bytes() == expected.getvalue()
    plotting.save(figure, tmp_path / "d.pdf")
    assert (tmp_path / "d.pdf").read_bytes().startswith(b"%PDF")


def test_a_figure_that_cannot_be_saved_leaves_what_was_there(tmp_path, monkeypatch):
    figure, axes = plotting.panels()
    plotting.save(figure, tmp_path / "a.png", dpi=20)
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ValueError, match=r"^path: expected a name that ends with one of .*png.*, got .*a\.doc"):
        plotting.save(figure, tmp_path / "a.doc")
    with pytest.raises(OSError, match=r"absent/a\.png"):
        plotting.save(figure, tmp_path / "absent" / "a.png")
    axes[0, 0].set_title("$x_$")  # matplotlib raises when it draws
    with pytest.raises(ValueError, match="Expected"):
        plotting.save(figure, tmp_path / "a.png", dpi=20)
    axes[0, 0].set_title("")

    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device.*a\.png"):
        plotting.save(figure, tmp_path / "a.png", dpi=30)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.png": before}


def test_no_figure_is_written_any_other_way():
    """`savefig` with the name of a file would leave half a figure on a full disk."""
    root = Path(__file__).parents[2]
    found = {
        f"{file.relative_to(root)}: {line.strip()}"
        for folder in ("gsjax", "experiments", "theory")
        for file in (root / folder).rglob("*.py")
        for line in file.read_text().splitlines()
        if re.search(r"\.savefig\((?!(drawn|image), format=)", line)
    }
    assert found == set()


def test_the_state_of_matplotlib_is_unchanged():
    """In a new process, so that changes by earlier tests do not hide a change."""
    code = """
import sys, matplotlib
before = dict(matplotlib.rcParams)
from gsjax import plotting
plotting.spectrum([1.0], [1.0])
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


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
        ("x", lambda: plotting.against([0.0, 1.0], {"U": np.eye(2)}, xlabel="", ylabel="", logx=True)),
        ("x", lambda: plotting.against([], {"U": np.eye(2)}, xlabel="", ylabel="")),
        ("series", lambda: plotting.against([1.0], {}, xlabel="", ylabel="")),
        ("series", lambda: plotting.against([1.0], {"U": np.ones((2, 2))}, xlabel="", ylabel="")),
        ("series", lambda: plotting.against([1.0], {"U": [[np.inf]]}, xlabel="", ylabel="")),
        ("baseline", lambda: plotting.against([1.0], {"U": [[1.0]]}, xlabel="", ylabel="", baseline=np.nan)),
        ("paths", lambda: plotting.plane(np.ones((2, 3)), np.ones((2, 2)), labels=())),
        ("paths", lambda: plotting.plane(np.full((1, 1, 2), np.nan), np.ones((1, 2)), labels=())),
        ("ends", lambda: plotting.plane(np.ones((2, 3, 2)), np.ones((3, 2)), labels=())),
        ("labels", lambda: plotting.plane(np.ones((2, 3, 2)), np.ones((2, 2)), labels=["a"])),
        ("series", lambda: plotting.depths({})),
        ("series", lambda: plotting.depths({"a": []})),
        ("series", lambda: plotting.depths({"a": [1.5]})),
        ("series", lambda: plotting.depths({"a": [-1.0]})),
        ("series", lambda: plotting.depths({"a": [np.inf]})),
        ("series", lambda: plotting.depths({"a": np.ones((2, 2))})),
        ("most", lambda: plotting.depths({"a": [3.0]}, most=2)),
        ("images", lambda: plotting.saliency_maps(np.ones((2, 3)), {})),
        ("images", lambda: plotting.saliency_maps(np.ones((1, 2, 3, 2)), {})),
        ("images", lambda: plotting.saliency_maps(np.full((1, 2, 3), np.nan), {})),
        ("maps", lambda: plotting.saliency_maps(np.ones((1, 2, 3)), {"a": np.ones((1, 3, 2))})),
        ("maps", lambda: plotting.saliency_maps(np.ones((1, 2, 3)), {"a": -np.ones((1, 2, 3))})),
        ("labels", lambda: plotting.saliency_maps(np.ones((1, 2, 3)), {}, labels=["a", "b"])),
        ("series", lambda: plotting.responses({})),
        ("series", lambda: plotting.responses({"a": [1.0], "b": [1.0, 2.0]})),
        ("series", lambda: plotting.responses({"a": [np.inf]})),
        ("series", lambda: plotting.responses({"a": "b"})),
        ("series", lambda: plotting.alignments([0.5], [0.5, 0.5])),
        ("chance", lambda: plotting.alignments([0.5], [0.5], chance=2.0)),
        ("rows", lambda: plotting.pictures({}, {})),
        ("rows", lambda: plotting.pictures({"a": np.ones((1, 2, 2))}, {"a": ["1"]})),
        ("rows", lambda: plotting.pictures({"a": np.ones((1, 2, 2, 2))}, {"a": ["1"]})),
        ("rows", lambda: plotting.pictures({"a": np.full((1, 2, 2, 1), np.nan)}, {"a": ["1"]})),
        ("rows", lambda: plotting.pictures({"a": np.ones((1, 2, 2, 1)), "b": np.ones((2, 2, 2, 1))}, {"a": ["1"]})),
        ("captions", lambda: plotting.pictures({"a": np.ones((1, 2, 2, 1))}, {"a": ["1", "2"]})),
        ("captions", lambda: plotting.pictures({"a": np.ones((1, 2, 2, 1))}, {"b": ["1"]})),
        ("x", lambda: plotting.sign_map([1.0, 0.0], [0.0, 1.0], np.ones((2, 2)))),
        ("y", lambda: plotting.sign_map([0.0, 1.0], [1.0], np.ones((1, 2)))),
        ("y", lambda: plotting.sign_map([0.0, 1.0], [0.0, 1.0], np.ones((2, 2)), logy=True)),
        ("values", lambda: plotting.sign_map([0.0, 1.0, 2.0], [0.0, 1.0], np.ones((3, 2)))),
        ("diagram.ratio", lambda: plotting.phase_diagram(DIAGRAM._replace(ratio=np.array([-1.0, 1.0])))),
        ("diagram.ratio", lambda: plotting.phase_diagram(DIAGRAM._replace(ratio=np.array([1.0])))),
        ("diagram.delta", lambda: plotting.phase_diagram(DIAGRAM._replace(delta=np.array([0.5, 0.1, 0.7])))),
        ("diagram.strength", lambda: plotting.phase_diagram(DIAGRAM._replace(strength=np.array([])))),
        ("diagram.starvation", lambda: plotting.phase_diagram(DIAGRAM._replace(starvation=SLOPES[..., 0]))),
        ("diagram.converged", lambda: plotting.phase_diagram(DIAGRAM._replace(converged=np.ones((2, 3), bool)))),
        ("strength", lambda: plotting.phase_diagram(DIAGRAM, strength=1)),
        ("entry", lambda: plotting.phase_diagram(DIAGRAM, entry=(2, 1))),
        ("limit", lambda: plotting.phase_diagram(DIAGRAM, limit=0.0)),
        ("trajectories", lambda: plotting.starvation_over_time({})),
        ("entry", lambda: plotting.starvation_over_time({"a": STARVING}, entry=(0, 2))),
        ("entry", lambda: plotting.starvation_over_time({"a": STARVING}, entry=(1, 0, 0))),
        (r"trajectories\['a'\].times", lambda: plotting.starvation_over_time({"a": STARVING._replace(times=[0, 1])})),
        (
            r"trajectories\['a'\].sensitivity",
            lambda: plotting.starvation_over_time({"a": STARVING._replace(sensitivity=np.ones((2, 2, 3)))}),
        ),
        (
            r"trajectories\['a'\].sensitivity",
            lambda: plotting.starvation_over_time({"a": STARVING._replace(sensitivity=np.full((2, 2, 2), np.nan))}),
        ),
        ("trajectories", lambda: plotting.trajectories({})),
        ("trajectories", lambda: plotting.trajectories(dict.fromkeys("abc", TRAJECTORIES))),
        (
            r"trajectories\['b'\]",
            lambda: plotting.trajectories({"a": TRAJECTORIES, "b": TRAJECTORIES._replace(ratio=np.array([5.0]))}),
        ),
        (
            r"trajectories\['a'\].times",
            lambda: plotting.trajectories({"a": TRAJECTORIES._replace(times=-TRAJECTORIES.times)}),
        ),
        (r"trajectories\['a'\].dual", lambda: plotting.trajectories({"a": TRAJECTORIES._replace(dual=Z[:, :, 1:])})),
        (r"trajectories\['a'\].primal", lambda: plotting.trajectories({"a": TRAJECTORIES._replace(primal=np.nan * Z)})),
        (
            r"trajectories\['a'\].converged",
            lambda: plotting.trajectories({"a": TRAJECTORIES._replace(converged=np.array([True]))}),
        ),
        ("axes", lambda: plotting.trajectories({"a": TRAJECTORIES}, plotting.panels(2, 1)[1])),
        ("axes", lambda: plotting.trajectories({"a": TRAJECTORIES}, np.zeros((1, 2)))),
        ("dual", lambda: plotting.trajectories({"a": TRAJECTORIES}, dual=1)),
    ],
)
def test_bad_input_is_named(argument, draw):
    with pytest.raises(ValueError, match=f"^{argument}: expected "):
        draw()
