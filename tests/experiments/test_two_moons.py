"""Two moons: the run from the command line, margins, signatures and kept arrays."""

from __future__ import annotations

import dataclasses
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _rows, two_moons
from experiments.__main__ import main
from tests.plotting.shown import points

SMOKE = ["two_moons", "--preset", "smoke"]
CONFIG = two_moons.PRESETS["smoke"]


@pytest.mark.slow
def test_smoke_run(tmp_path, figures):
    assert main([*SMOKE, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    values = {row["name"]: row["measured"] for row in summary["rows"]}
    assert values["erm: training accuracy"] > 0.9
    assert {"sd: geometric margin", "sd: share of x_2 in the gradient"} <= values.keys()
    assert len(summary["signatures"]) == 4

    arms = {arm.name: arm for arm in two_moons.arms(CONFIG)}
    boundaries = {ax.get_title(): ax for ax in figures["boundaries.png"].axes}
    for name in ("erm", "sd"):
        x, y = (np.asarray(values)[0] for values in two_moons.examples(arms[name].delta, CONFIG, 0))
        *_, negative, positive = boundaries[name.upper()].collections
        np.testing.assert_allclose(np.asarray(negative.get_offsets()), x[y < 0])
        np.testing.assert_allclose(np.asarray(positive.get_offsets()), x[y > 0])
    *shown, last = (ax for ax in figures["figure1.png"].axes if ax.get_title())
    assert [ax.get_title() for ax in shown] == ["(b) separable, ERM", "(c) separable, SD"]
    for ax, columns in ((last, [0, 1]), (figures["paths.png"].axes[0], [2, 3])):
        for line, name in zip(ax.lines[::2], ("followed erm", "followed sd"), strict=True):
            arrays = two_moons.unpacked(tmp_path / "arms" / f"{name}.npz", CONFIG, followed=True)
            np.testing.assert_allclose(points(line), arrays["responses"].mean(axis=0)[:, columns])


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, interrupt_after):
    cells = interrupt_after(1)
    assert main([*SMOKE, "--out", str(tmp_path / "stopped")]) == 130
    assert main([*SMOKE, "--out", str(tmp_path / "stopped")]) == 0
    assert [cell["arm"] for cell in cells] == ["erm", "sd", "followed: erm", "followed: sd"]
    assert main([*SMOKE, "--out", str(tmp_path / "whole")]) == 0
    for name in ("rows.jsonl", "summary.json", "arms/erm.npz", "arms/followed sd.npz"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_unknown_arms_are_named(tmp_path, capsys):
    assert main([*SMOKE, "--out", str(tmp_path), "--arms", "erm", "magic"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "arms: expected some of overlapping: erm, erm, sd," in line
    assert line.endswith("got magic")


def test_margin_and_bend_of_known_boundaries():
    """Outputs x_1 - a have the straight boundary x_1 = a; a fourth network has an inclined one."""
    first, second = np.meshgrid(two_moons.GRID, two_moons.GRID)
    x, y = np.array([[-0.5, 0.5], [0.7, -0.5]]), np.array([-1.0, 1.0])
    grid = np.stack([first + 0.1, first - 0.3, first - 0.4 * second, first])
    logits = np.stack([x[:, 0] + 0.1, x[:, 0] - 0.3, x @ [1, -0.4], x[:, 0]])
    margin, bend = two_moons.geometry(grid, logits, np.stack([x] * 4), np.stack([y, y, y, -y]))
    assert margin[[0, 1, 3]] == pytest.approx([0.4, 0.4, -0.7])  # the last one has an example on the wrong side
    assert bend[[0, 1]] == pytest.approx([0, 0], abs=1e-12)
    assert bend[2] == pytest.approx(0.4 / np.sqrt(12), rel=0.01)  # x_2 is uniform on an interval of length 1


@pytest.mark.parametrize("shared", [False, True])
def test_every_seed_has_its_own_examples_unless_they_are_shared(shared):
    config = dataclasses.replace(CONFIG, shared=shared)
    x, y = two_moons.examples(0.1, config, 0)
    assert (x.shape, y.shape) == ((config.seeds, config.n, 2), (config.seeds, config.n))
    assert np.array_equal(x[0], x[1]) == shared


def test_no_help_does_not_hold_for_what_gains_half_as_much_as_sd():
    """With margins 0.02 (ERM) and 0.06 (SD), a margin of 0.05 helps, 0.02 does not, and a noisy one is undecided."""
    noise = 1e-3 * np.random.default_rng(0).normal(size=(5, 8))
    erm, sd, helps, none, wild = np.array([[0.02], [0.06], [0.05], [0.02], [0.02]]) + noise
    wild += np.linspace(-0.05, 0.05, 8)
    names = {"erm": erm, "sd": sd, "helps": helps, "none": none, "wild": wild}
    measures = {name: two_moons.Geometry(values, values) for name, values in names.items()}
    holds = {entry["name"].split()[0]: entry["holds"] for entry in _rows.judged(two_moons.judge(measures, {}))}
    assert holds == {"geometric": True, "bend": True, "helps": False, "none": True, "wild": False}


def test_the_interval_of_a_quotient_has_its_stated_coverage():
    """Correlated normal means with the quotient 1/2: 95% of 2,000 intervals cover it, within four standard errors."""
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


def test_inputs_are_rotated_by_the_angle():
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


@pytest.mark.parametrize("arrays", [ARRAYS, FOLLOWED], ids=["arm", "followed arm"])
def test_arrays_are_read_as_they_were_written(tmp_path, arrays):
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
def test_damaged_arrays_are_named(tmp_path, content):
    path = tmp_path / "arm.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is damaged \(.*delete it"):
        two_moons.unpacked(path, CONFIG, followed=False)


def test_a_flipped_bit_of_the_arrays_is_noticed_or_harmless(tmp_path):
    path, whole = tmp_path / "arm.npz", two_moons.packed(ARRAYS)
    unseen = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(place) % 8
        path.write_bytes(changed)
        try:
            found = two_moons.unpacked(path, CONFIG, followed=False)
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged (")  # noqa: PT017  either may happen
        else:  # in metadata of the archive, such as the time
            unseen += 1
            for name, array in ARRAYS.items():
                np.testing.assert_array_equal(found[name], array, strict=True)
    assert unseen < 150
