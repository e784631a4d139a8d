"""Two moons, as they are run from the command line."""

from __future__ import annotations

import dataclasses
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _rows, two_moons
from experiments.__main__ import main
from gsjax import records

SMOKE = ["two_moons", "--preset", "smoke"]
CONFIG = two_moons.PRESETS["smoke"]


def test_smoke_run(tmp_path):
    assert main([*SMOKE, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    values = {row["name"]: row["measured"] for row in summary["rows"]}
    assert values["erm: training accuracy"] > 0.9
    assert {"sd: geometric margin", "sd: share of x_2 in the gradient"} <= values.keys()
    assert len(summary["signatures"]) == 4
    assert {"figure1.png", "paths.png", "boundaries.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path, monkeypatch):
    add, cells = records.Table.add, []

    def stop(self, cell, rows, seconds):
        add(self, cell, rows, seconds)
        cells.append(cell["arm"])
        if len(cells) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(records.Table, "add", stop)
    assert main([*SMOKE, "--out", str(tmp_path / "stopped")]) == 130
    assert main([*SMOKE, "--out", str(tmp_path / "stopped")]) == 0
    assert cells == ["erm", "sd", "followed: erm", "followed: sd"]
    assert main([*SMOKE, "--out", str(tmp_path / "whole")]) == 0
    for name in ("rows.jsonl", "summary.json", "arms/erm.npz", "arms/followed sd.npz"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_unknown_arms_are_named(tmp_path, capsys):
    assert main([*SMOKE, "--out", str(tmp_path), "--arms", "erm", "magic"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "arms: expected some of overlapping: erm, erm, sd," in line
    assert line.endswith("got magic")


def test_margin_and_bend_of_known_boundaries():
    """Networks whose outputs are x_1 - a: the line x_1 = a, which does not bend, and one that is inclined."""
    first, second = np.meshgrid(two_moons.GRID, two_moons.GRID)
    x, y = np.array([[-0.5, 0.5], [0.7, -0.5]]), np.array([-1.0, 1.0])
    grid = np.stack([first + 0.1, first - 0.3, first - 0.4 * second, first])
    logits = np.stack([x[:, 0] + 0.1, x[:, 0] - 0.3, x @ [1, -0.4], x[:, 0]])
    margin, bend = two_moons.geometry(grid, logits, np.stack([x] * 4), np.stack([y, y, y, -y]))
    assert margin[[0, 1, 3]] == pytest.approx([0.4, 0.4, -0.7])  # the last has an example on the wrong side
    assert bend[[0, 1]] == pytest.approx([0, 0], abs=1e-12)
    assert bend[2] == pytest.approx(0.4 / np.sqrt(12), rel=0.01)  # x_2 is uniform on an interval of length 1


@pytest.mark.parametrize("shared", [False, True])
def test_every_seed_has_examples_of_its_own_unless_they_are_shared(shared):
    config = dataclasses.replace(CONFIG, shared=shared)
    x, y = two_moons.examples(0.1, config, 0)
    assert (x.shape, y.shape) == ((config.seeds, config.n, 2), (config.seeds, config.n))
    assert np.array_equal(x[0], x[1]) == shared


def test_what_helps_half_as_much_as_sd_does_not_hold_as_no_help():
    """Margins of ERM .02 and SD .06: one of .05 is a help, one of .02 is none, one that is all over is undecided."""
    noise = 1e-3 * np.random.default_rng(0).normal(size=(5, 8))
    erm, sd, helps, none, wild = np.array([[0.02], [0.06], [0.05], [0.02], [0.02]]) + noise
    wild += np.linspace(-0.05, 0.05, 8)
    names = {"erm": erm, "sd": sd, "helps": helps, "none": none, "wild": wild}
    measures = {name: two_moons.Geometry(values, values) for name, values in names.items()}
    holds = {entry["name"].split()[0]: entry["holds"] for entry in _rows.judged(two_moons.judge(measures, {}))}
    assert holds == {"geometric": True, "bend": True, "helps": False, "none": True, "wild": False}


def test_the_interval_of_a_quotient_covers_it_as_often_as_it_says():
    """Correlated normal means with the quotient 1/2; the share of 2,000 intervals is 95% within four deviations."""
    rng = np.random.default_rng(0)
    covers = []
    for _ in range(2000):
        denominators = 1 + 0.3 * rng.normal(size=6)
        numerators = denominators / 2 + 0.2 * rng.normal(size=6)
        found = two_moons.quotient(numerators, denominators)
        assert found is not None
        covers.append(found.low < 0.5 < found.high)
    assert np.mean(covers) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 2000))
    assert two_moons.quotient(np.ones(4), np.array([-1.0, 1.0, 2.0, -2.0])) is None


def test_inputs_are_turned_by_the_angle():
    turned = np.asarray(two_moons.turned(jnp.array([[1.0, 0.0], [0.0, 1.0]]), np.pi / 4))
    np.testing.assert_allclose(turned, np.array([[1, 1], [-1, 1]]) / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(turned @ turned.T, np.eye(2), atol=1e-6)


def test_published_penalty_is_c_times_the_mean_square():
    logits, c = np.array([0.5, -2.0, 1.0]), 0.003
    ours = np.sum(two_moons.published(c) / 2 * logits**2) / len(logits)
    assert ours == pytest.approx(c * np.mean(logits**2))


ARRAYS = {"grid": np.ones((CONFIG.seeds, 100, 100), np.float32), "logits": np.ones((CONFIG.seeds, CONFIG.n))}
FOLLOWED = {
    "logits": np.ones((CONFIG.seeds, CONFIG.n)),
    "times": np.arange(4),
    "responses": np.ones((CONFIG.seeds, 4, 4)),
}


@pytest.mark.parametrize("arrays", [ARRAYS, FOLLOWED], ids=["an arm", "one that is followed"])
def test_the_arrays_of_an_arm_are_read_as_they_were_written(tmp_path, arrays):
    path = tmp_path / "arm.npz"
    path.write_bytes(two_moons.packed(arrays))
    found = two_moons.unpacked(path, CONFIG, followed="times" in arrays)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def numpy_file(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        two_moons.packed(ARRAYS)[:-10],
        two_moons.packed(ARRAYS)[:300],
        two_moons.packed(FOLLOWED),
        two_moons.packed({**ARRAYS, "grid": np.ones((CONFIG.seeds, 100, 99))}),
        two_moons.packed({**ARRAYS, "logits": np.array([["a"] * CONFIG.n] * CONFIG.seeds)}),
        numpy_file(np.ones(3)),
        numpy_file(np.ones(3))[:40],
    ],
)
def test_arrays_that_are_damaged_are_named(tmp_path, content):
    path = tmp_path / "arm.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is damaged \(.*delete it"):
        two_moons.unpacked(path, CONFIG, followed=False)


def test_no_bit_of_the_arrays_changes_unseen(tmp_path):
    path, whole = tmp_path / "arm.npz", two_moons.packed(ARRAYS)
    unseen = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(place) % 8
        path.write_bytes(changed)
        try:
            found = two_moons.unpacked(path, CONFIG, followed=False)
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged (")  # noqa: PT017  either of the two may be
        else:  # in what an archive says of itself, such as the time
            unseen += 1
            for name, array in ARRAYS.items():
                np.testing.assert_array_equal(found[name], array, strict=True)
    assert unseen < 150
