"""Representation distillation: examples, what is measured and concluded, and the run from the command line."""

# pyright: reportArgumentType=false, reportCallIssue=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import _distilled_report, _distilled_tasks, _rows
from experiments import representation_distillation as experiment
from experiments.__main__ import main
from experiments._distilled_measures import COLUMNS, explained, grafted, probed
from experiments._study import fits, keys
from gsjax import methods, networks

SMOKE = experiment.PRESETS["smoke"]
KEYS = keys(3, range(2))


def test_structured_examples_differ_in_their_background_only():
    task = _distilled_tasks.features(KEYS, 5, core=3, n=40, test=20)
    ranges = {"id": (0, 1), "ood": (-1, 0), "random": (-1, 1)}
    parts = {name: task.test[name] for name in ranges}
    for name, part in parts.items():
        x, background = np.asarray(part.batch.x), np.asarray(part.background)[..., 0]
        np.testing.assert_array_equal(x[..., 3:], background)
        np.testing.assert_array_equal(x[..., :3], np.asarray(parts["id"].batch.x)[..., :3])
        low, high = ranges[name]
        assert ((background >= low) & (background <= high)).all()
        assert np.ptp(background) > 0.8 * (high - low)
    np.testing.assert_array_equal(task.student["id"].batch.x[..., :3], task.student["random"].batch.x[..., :3])
    for part in (task.teacher, task.bank):
        assert np.asarray(part.background).min() < -0.5
        assert not np.array_equal(part.batch.x[..., :3][:, :20], task.test["id"].batch.x[..., :3])
    assert task.teacher.batch.x.shape == (2, 40, 8)


@pytest.fixture(scope="module")
def framed():
    return _distilled_tasks.frames(KEYS, 4, "digits", n=60, test=30, stride=1, width=2)


def test_frames_have_colours_of_their_range_and_images_do_not_change(framed):
    images = {name: np.asarray(part.batch.x)[:, :, 2:-2, 2:-2] for name, part in framed.test.items()}
    layout = _distilled_tasks.blocks(8, 2, 4)
    assert layout.max() + 1 == 8  # all of nine squares but the one in the middle
    for name, part in framed.test.items():
        np.testing.assert_array_equal(images[name], images["id"])
        x, colors = np.asarray(part.batch.x), np.asarray(part.background)
        for square in range(8):
            shown = x[:, :, layout == square]
            np.testing.assert_array_equal(shown, np.broadcast_to(colors[:, :, square, None], shown.shape))
    assert np.asarray(framed.test["ood"].background).max() <= 0 <= np.asarray(framed.test["id"].background).min()
    gray = images["id"]
    assert (gray == gray[..., :1]).all()
    assert (gray.min(), gray.max()) == (-1, 1)


def test_no_image_is_in_two_parts_of_the_held_out_ones_and_labels_stay_with_images(framed):
    def pictures(part):
        return {image.tobytes(): label for image, label in
                zip(np.asarray(part.batch.x[0])[:, 2:-2, 2:-2], np.asarray(part.batch.y[0]), strict=True)}  # fmt: skip

    found = {"teacher": framed.teacher, "student": framed.student["id"], "bank": framed.bank, "test": framed.test["id"]}
    seen = {name: pictures(part) for name, part in found.items()}
    names = list(seen)
    for first, name in enumerate(names):
        for other in names[first + 1 :]:
            assert not seen[name].keys() & seen[other].keys(), (name, other)
    assert seen["student"] == pictures(framed.student["random"])
    assert len(set(seen["test"].values())) > 5


def test_too_many_images():
    with pytest.raises(ValueError, match="n: expected at most 450 images of digits, got 451"):
        _distilled_tasks.frames(KEYS, 4, "digits", n=451, test=30, stride=1, width=2)
    with pytest.raises(ValueError, match="test: expected at most 447 images of digits, got 450"):
        _distilled_tasks.frames(KEYS, 4, "digits", n=60, test=450, stride=1, width=2)


def test_a_probe_explains_what_is_in_the_features():
    rng = np.random.default_rng(0)
    background, noise = rng.normal(size=(2, 600, 4))
    mixed = background @ rng.normal(size=(4, 10)) + 3
    half = np.concatenate([background[:, :2], noise], axis=1)
    found = [explained(x[:300], background[:300], x[300:], background[300:]) for x in (mixed, half, noise)]
    assert found[0] > 0.999
    assert found[1] == pytest.approx(0.5, abs=0.05)
    assert abs(found[2]) < 0.05
    both = probed(half[:300], half[300:], background[:300, :, None], background[300:, :, None])
    assert both["probe"] == pytest.approx(found[1])
    assert both["mean"] == pytest.approx(0.5, abs=0.1)  # two of four coordinates are in the features
    first = background[:, :2, None]
    assert probed(half[:300], half[300:], first[:300], first[300:])["mean"] > 0.999
    assert explained(np.ones((300, 2)), background[:300], np.ones((300, 2)), background[300:]) == 0


@pytest.mark.parametrize("setting", ["features", "frames"])
def test_a_grafted_student_has_the_readout_of_its_teacher(setting):
    model = experiment.model(setting, SMOKE)
    x = jax.random.normal(jax.random.key(0), (6, 5))
    student, teacher = (dict(model.network.init(key, x)) for key in KEYS)
    found = grafted(model, model.network, student, teacher, x)
    last = "output" if setting == "features" else f"Dense_{len(SMOKE.widths)}"
    for layer in student["params"]:
        owner = teacher if layer == last else student
        assert jax.tree.map(np.array_equal, found["params"][layer], owner["params"][layer]) == jax.tree.map(
            lambda _: True, found["params"][layer]
        )
    if setting == "features":
        assert found["frozen"] is teacher["frozen"]
    logits, stage = networks.stages.apply(model.network, found, x, (model.position,))
    own = networks.stages.apply(model.network, student, x, (model.position,))[1]
    np.testing.assert_array_equal(stage[model.position], own[model.position])
    assert not np.allclose(logits, methods.predict(model.network, methods.Learner(student["params"], {
        name: each for name, each in student.items() if name != "params"}), x))  # fmt: skip


STORY = {  # accuracy in and out of distribution, distance, shift, probe of the mean
    "teacher": (0.95, 0.94, 0.0, 0.02, 0.3),
    "match": (0.94, 0.70, 0.1, 1.0, 0.5),
    "match longer": (0.95, 0.85, 0.05, 0.8, 0.5),
    "match random": (0.95, 0.94, 0.01, 0.02, 0.3),
    "linear": (0.93, 0.92, 0.1, 0.5, 0.5),
    "logits": (0.94, 0.6, 2.0, 2.0, 0.3),
    "erm": (0.95, 0.5, 9.0, 2.0, 0.3),
    "initial": (0.5, 0.5, 2.0, 5.0, 0.4),
}


def rows(**changed):
    """Rows as a run writes them; `changed` replaces the numbers of an arm, whose name has _ in place of a space."""
    made = []
    for setting, sizes in {"features": (8, 32), "frames": (12, 48)}.items():
        for count in sizes:
            for arm, numbers in STORY.items():
                near, far, *others = changed.get(arm.replace(" ", "_"), numbers)
                far = near if arm == "match" and count == min(sizes) else far
                for seed in range(5):
                    noise = 0.005 * np.sin(7.0 * seed + len(arm))
                    accuracy = {"id": near + noise, "ood": far - noise, "random": (near + far) / 2}
                    row = {"setting": setting, "size": count, "arm": arm, "seed": seed, "finite": True}
                    row |= {"coordinates": count, "own": accuracy, "fresh": accuracy}
                    made.append(row | dict(zip(("distance", "shift", "mean"), others, strict=True)))
                    made[-1]["mean"] += noise
                    made[-1]["probe"] = 0.2 + noise
                    made[-1]["shift"] *= 1 + noise
    return made


def verdicts(made):
    found = _rows.judged(_distilled_report.report(made, images="digits").signatures)
    return {entry["name"]: entry for entry in found}


def test_all_signatures_hold_for_a_faithful_story():
    found = verdicts(rows())
    assert len(found) == 2 * 10
    assert all(entry["holds"] for entry in found.values())
    assert all("32" in name or "48" in name for name in found)
    gap = found["structured features, 32 of background: teacher minus student, own readout, out of distribution"]
    assert gap["value"] == pytest.approx(0.24, abs=0.01)


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({"match": (0.90, 0.70, 0.1, 1.0, 0.5)}, "teacher minus student, own readout, in distribution"),
        ({"match": (0.94, 0.88, 0.1, 1.0, 0.5)}, "teacher minus student, own readout, out of distribution"),
        ({"match": (0.94, 0.95, 0.1, 1.0, 0.5)}, "teacher minus student, fresh readout, out of distribution"),
        ({"match": (0.94, 0.70, 0.1, 0.01, 0.5)}, "log shift of features, student minus student of random"),
        ({"match": (0.94, 0.70, 0.1, 1.0, -0.1)}, "variance of the mean background that a probe explains, student"),
        ({"match": (0.94, 0.70, 0.1, 1.0, 0.2)}, "variance of the mean background, student minus student of random"),
        ({"match_random": (0.95, 0.85, 0.1, 0.02, 0.3)}, "teacher minus student of random backgrounds, out of"),
        ({"match_longer": (0.95, 0.69, 0.1, 1.0, 0.5)}, "student trained for longer minus student"),
        ({"linear": (0.93, 0.80, 0.1, 0.5, 0.5)}, "linear student, in minus out of distribution"),
        ({"match": (0.94, 0.94, 0.1, 1.0, 0.5)}, "teacher minus student out of distribution, 32 minus 8 of background"),
    ],
)
def test_a_signature_fails_with_its_evidence(changed, failing):
    found = verdicts(rows(**changed))
    [entry] = [one for name, one in found.items() if name.startswith("structured") and failing in name]
    assert not entry["holds"]
    assert "in and out of distribution" in entry["why"]


def test_rows_of_the_summary_and_a_network_that_diverged():
    made = rows()
    for one in made:
        if one["arm"] == "erm":
            one["finite"], one["shift"] = False, None
    lines = {line["name"]: line for line in _distilled_report.report(made, images="digits").rows}
    own = "digits in frames, 48 of background: labels (ERM): accuracy out of distribution, own readout"
    assert lines[own]["differs"] == "the objective was not always finite"
    assert lines[own]["measured"] == pytest.approx(0.5, abs=0.01)
    assert not any("initialisation: accuracy" in name and "own" in name for name in lines)
    assert not any("labels (ERM): shift" in name for name in lines)


def test_figures_show_the_rows(figures, tmp_path):
    report = _distilled_report.report(rows(), images="digits")
    for name, draw in report.figures.items():
        draw(tmp_path / name)
    assert set(figures) == {"accuracy.png", "features.png", "backgrounds.png"}
    assert [len(figures[name].axes) for name in ("accuracy.png", "features.png", "backgrounds.png")] == [4, 8, 2]
    lines = {line.get_label(): line for line in figures["backgrounds.png"].axes[0].lines}
    np.testing.assert_allclose(lines["features matched"].get_xdata(), [8, 32])
    np.testing.assert_allclose(lines["features matched"].get_ydata(), [0.94, 0.70], atol=0.01)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"arms": ("match", "erm")}, "arms: expected the teacher among them, got match erm"),
        ({"backgrounds": (), "blocks": ()}, "backgrounds: expected a setting, here or in blocks, got none"),
        ({"batch_size": 201}, "batch_size: expected at most image_n = 200, got 201"),
    ],
)
def test_numbers_that_do_not_fit_together(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        experiment.check(dataclasses.replace(SMOKE, **change))


def test_smoke_run_interrupted_and_finished(tmp_path, interrupt_after, figures):
    """The run is stopped after the teacher and finished: the student has the same teacher as in a run of its own."""
    cells = interrupt_after(1)
    command = ["representation_distillation", "--preset", "smoke", "--out", str(tmp_path), "--arms", "teacher", "match"]
    command += ["--steps", "5", "--test", "40"]
    assert main(command) == 130
    experiment.teachers.cache_clear()
    assert main(command) == 0
    assert [cell["arm"] for cell in cells] == ["teacher", "match"]
    made = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(one["arm"], one["seed"]) for one in made] == [("teacher", 0), ("teacher", 1), ("match", 0), ("match", 1)]
    for one in made:
        assert all(fits(one[name], kind) for name, kind in COLUMNS.items())
        assert (one["distance"] == 0) == (one["arm"] == "teacher")
    assert set(figures) == {"accuracy.png", "features.png"}


@pytest.mark.slow
def test_every_arm_of_the_smoke_run(tmp_path):
    assert main(["representation_distillation", "--preset", "smoke", "--out", str(tmp_path), "--blocks", "2"]) == 0
    made = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {(one["setting"], one["arm"]) for one in made} == {
        (setting, arm) for setting in ("features", "frames") for arm in experiment.Arm.__args__
    }
    assert all(one["finite"] for one in made)
