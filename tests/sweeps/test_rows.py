"""The rows of a sweep: right, and the same for any number of devices, processes and interruptions."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from gsjax import Ridge, SpectralDecoupling, networks, records, sweeps, tangent, training
from gsjax import _devices as devices
from gsjax.data import Dataset
from gsjax.sweeps import programs
from gsjax.sweeps import rows as implementation
from tests.instances import equilibrium
from tests.sweeps.problem import SWEEP, TEST, TRAIN, N, data, run


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return run()


class Compilations(logging.Handler):
    """Counts the programs that are compiled, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"Finished XLA compilation of jit\((.+)\)", record.getMessage()):
            self.names.append(found.group(1))

    def __enter__(self) -> list[str]:
        self.log = jax.log_compiles(True)
        self.log.__enter__()
        logging.getLogger("jax").addHandler(self)
        return self.names

    def __exit__(self, *error) -> None:
        logging.getLogger("jax").removeHandler(self)
        self.log.__exit__(*error)


def close(found: list[dict], expected: list[dict], tolerance: float) -> None:
    """Compares rows: text, whole numbers and flags exactly, other numbers up to the tolerance."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, float | list):
                np.testing.assert_allclose(value, other[key], rtol=tolerance, atol=tolerance, err_msg=key)
            else:
                assert value == other[key], key


def test_there_is_one_row_per_seed_and_cell_in_order(rows):
    keys = ("width", "depth", "penalty", "strength")
    expected = [(*cell, seed) for cell in sweeps.cells(SWEEP) for seed in range(3)]
    assert [(*(row[key] for key in keys), row["seed"]) for row in rows] == expected
    assert sweeps.cells(dataclasses.replace(SWEEP, widths=(2, 4), depths=(1, 2), penalties=("sd",))) == [
        sweeps.Cell(width, depth, "sd", strength) for depth in (1, 2) for width in (2, 4) for strength in (2.0, 10.0)
    ]
    assert {(row["data"], row["n"], row["converged"]) for row in rows} == {("digits", N, True)}
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


@jax.jit
def trained(seed, ridge, decoupling, scale):
    """The parameters of a network whose outputs are multiplied by `scale`, before and after training."""
    network, penalty = networks.MLP((6,), activation="tanh"), (Ridge(ridge), SpectralDecoupling(decoupling))
    start = network.init(jax.random.fold_in(jax.random.key(0), seed), TRAIN.x)

    def apply_fn(params, x):
        return scale * network.apply(params, x)

    return start, training.fit(apply_fn, start, TRAIN.x, TRAIN.y, penalty, tolerance=1e-6)


@pytest.fixture(scope="module")
def scaled_rows(rows) -> dict[str, list[dict]]:
    mean_field = dataclasses.replace(SWEEP, strengths=(2.0,), scaling="mean-field")
    with Compilations() as compiled:
        found = {"ntk": rows, "mean-field": run(mean_field)}
    assert compiled == []
    return found


@pytest.mark.parametrize(
    ("scaling", "penalty"),
    [
        ("ntk", "ridge"),
        ("ntk", "sd"),
        ("mean-field", "ridge"),
        pytest.param("mean-field", "sd", marks=pytest.mark.slow),
    ],
)
@jax.enable_x64(True)
def test_a_row_matches_training_and_theory(scaled_rows, scaling, penalty):
    x, y = TRAIN
    network = networks.MLP((6,), activation="tanh")
    scale = {"ntk": 1.0, "mean-field": 1 / np.sqrt(6)}[scaling]
    strength = 2.0 * scale**2 if penalty == "ridge" else 2.0
    start, fit = trained(1, *{"ridge": (strength, 0.0), "sd": (0.0, strength)}[penalty], scale)
    phi, moved = (scale * np.asarray(tangent.ntrf(network.apply, params, x)) for params in (start, fit.params))
    theta = np.asarray(ravel_pytree(fit.params)[0] - ravel_pytree(start)[0])
    limit = scale**2 * np.asarray(tangent.infinite_ntk(network, x))
    final, initial = (np.asarray(network.apply(params, TEST.x)) for params in (fit.params, start))
    logits = np.asarray(fit.logits)
    u, s, _ = np.linalg.svd(y[:, None] * phi)
    s2, v = np.linalg.eigh(y[:, None] * limit * y)
    before, after = phi @ phi.T, moved @ moved.T

    found = scaled_rows[scaling]
    [row] = [row for row in found if (row["penalty"], row["strength"], row["seed"]) == (penalty, 2.0, 1)]
    term, expected = {"ridge": Ridge, "sd": SpectralDecoupling}[penalty](strength), {}
    for kind, (basis, values) in {"empirical": (u, s), "infinite": (v[:, ::-1], np.sqrt(s2[::-1]))}.items():
        star = equilibrium(basis, values, y, term).response
        missed = (basis.T @ (y * logits) - star) / np.linalg.norm(star)
        expected[f"error_{kind}"] = np.linalg.norm(missed)
        expected[f"errors_{kind}"] = abs(missed[:4])
    star = equilibrium(u, s, y, term).response
    expected["error_parameters"] = np.linalg.norm(u.T @ (y * (phi @ theta)) - star) / np.linalg.norm(star)
    expected["drift"] = np.linalg.norm(after - before) / np.linalg.norm(before)
    expected["test_accuracy"] = np.mean(TEST.y * (final - initial) > 0)
    expected["initial_gradient_norm"] = fit.initial_gradient_norm
    for key, value in expected.items():
        np.testing.assert_allclose(row[key], value, rtol=1e-6, atol=1e-6, err_msg=key)
    assert row["gradient_norm"] <= 1e-6 * row["initial_gradient_norm"]
    assert abs(row["iterations"] - int(fit.iterations)) <= 1


def test_a_second_run_gives_the_same_bytes_and_compiles_nothing(rows):
    with Compilations() as compiled:
        assert json.dumps(run()) == json.dumps(rows)
    assert compiled == []


def test_each_width_is_compiled_once(rows):
    sweep = dataclasses.replace(SWEEP, widths=(6, 7), strengths=(1.0, 2.0, 3.0), max_steps=3, tolerance=1e-3, seed=5)
    with Compilations() as compiled:
        assert len(run(sweep)) == 36
    assert compiled.count("train") == 1  # for width 7
    assert not {"compare", "infinite"} & set(compiled)
    assert len(compiled) < 10, compiled  # the rest are single operations outside of programs


def test_training_that_has_not_converged_is_reported(rows):
    short = run(dataclasses.replace(SWEEP, max_steps=3, penalties=("ridge",), strengths=(2.0,)))
    assert [(row["iterations"], row["converged"]) for row in short] == [(3, False)] * 3


def test_numbers_that_are_not_finite_are_none(rows):
    huge = Dataset(TRAIN.x * 1e200, TRAIN.y)
    for row in run(dataclasses.replace(SWEEP, penalties=("ridge",), strengths=(2.0,)), huge):
        assert row["error_infinite"] is None
        assert not row["converged"]
        json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("scaling", ["ntk", "mean-field"])
def test_theory_is_exact_at_depth_zero(scaling):
    sweep = dataclasses.replace(SWEEP, widths=(4,), depths=(0,), strengths=(2.0,), scaling=scaling)
    for row in run(sweep):
        assert row["converged"]
        for key in ("error_empirical", "error_infinite", "error_parameters", "drift"):
            assert row[key] < 1e-5, key


def test_progress_can_be_switched_off(rows, monkeypatch):
    def tracked(*_):
        raise AssertionError("progress is shown")

    monkeypatch.setattr(implementation, "_tracked", tracked)
    with pytest.raises(AssertionError, match="progress is shown"):
        run()
    assert run(progress=False) == rows


@pytest.mark.slow
def test_a_batch_of_seeds_as_on_accelerators_gives_the_same_rows(rows, monkeypatch):
    monkeypatch.setattr(devices, "batched", lambda mesh: True)
    programs.trainer.cache_clear()
    programs.comparer.cache_clear()
    try:
        batched = run(dataclasses.replace(SWEEP, penalties=("ridge",)))
    finally:
        programs.trainer.cache_clear()
        programs.comparer.cache_clear()
    close(batched, [row for row in rows if row["penalty"] == "ridge"], 1e-6)


# --- records -------------------------------------------------------------------------------------------------------


class Death(Exception):
    pass


class Mortal:
    """A table that raises `Death` after a given number of cells."""

    def __init__(self, rows: list[dict], cells: int) -> None:
        self.rows, self.left = rows, cells

    def add(self, cell, rows, seconds) -> None:
        if not self.left:
            raise Death
        assert all(cell.items() <= row.items() for row in rows)
        assert seconds > 0
        self.rows.extend(rows)
        self.left -= 1


def test_a_sweep_resumes_after_its_finished_cells(rows):
    kept: list[dict] = []
    for cells in (0, 1, 2):
        with pytest.raises(Death):
            run(table=Mortal(kept, cells))
    assert kept == rows[:9]
    assert run(table=Mortal(kept, 1)) == rows
    assert kept == rows
    assert run(table=Mortal(kept, 0)) == rows  # nothing is left to add
    with pytest.raises(Death):  # other data has its own rows
        run(name="more digits", table=Mortal(kept, 0))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"drift": "x"}, "a number or None as 'drift' of the cell .*got x"),
        ({"drift": True}, "a number or None as 'drift' of the cell .*got True"),
        ({"converged": 1}, "True or False as 'converged' of the cell .*got 1"),
        ({"errors_infinite": 0.5}, "numbers as 'errors_infinite' of the cell .*got 0.5"),
        ({"errors_infinite": [[1.0]]}, "numbers as 'errors_infinite' of the cell"),
        ({"iterations": None}, "a whole number as 'iterations' of the cell"),
        ({"n": N + 1}, rf"n = {N} of the cell .*got {N + 1}"),
        ({"seed": 2}, r"one row per seed, 3 seeds of the cell .*got seeds \[1, 2, 2\]"),
        (None, r"one row per seed, 3 seeds of the cell .*got seeds \[1, 2\]"),
        (("error_infinite",), "a number or None as 'error_infinite' of the cell .*got nothing"),
    ],
)
def test_rows_that_do_not_belong_to_the_sweep_are_refused(rows, tmp_path, change, complaint):
    cell = {name: rows[0][name] for name in ("data", "width", "depth", "penalty", "strength")}
    first, *others = rows[:3]
    if change is None:
        changed = others
    elif isinstance(change, tuple):
        changed = [{name: value for name, value in first.items() if name not in change}, *others]
    else:
        changed = [first | change, *others]
    with records.Table(tmp_path, {}) as table:
        table.add(cell, changed, 1.0)
        with pytest.raises(ValueError, match=rf"^table: expected {complaint}") as caught:
            run(table=table)
    assert f"in {tmp_path}; delete all its lines from rows.jsonl" in str(caught.value)


# A sweep over three points, for separate processes, in which compilation takes most of the time.
SMALL = """
import os, signal, sys
import jax
from gsjax import records, sweeps
from gsjax.data import Dataset

def run(table):
    with jax.enable_x64(True):
        x, y = jax.numpy.array([[1.0], [-2.0], [0.5]]), jax.numpy.array([1.0, -1.0, 1.0])
        sweep = sweeps.Sweep(widths=(2,), seeds=3, penalties=("ridge",), strengths=(1.0, 2.0, 3.0), activation="erf")
        return sweeps.run(sweep, Dataset(x, y), Dataset(x, y), name="three points", table=table)

def table(folder):
    return records.Table(folder, {"of": "a test"})
"""

# Children, forked before jax starts threads; each is killed at the write with its number.
KILLED = """
replace, (folder, *deadlines) = os.replace, sys.argv[1:]

def sweep(deadline):
    writes = iter(range(100))
    def mortal(source, target):
        if next(writes) == deadline:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    os.replace = mortal
    run(table(folder))

for deadline in map(int, deadlines):
    child = os.fork()
    if not child:
        sweep(deadline)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

WHOLE = "run(table(sys.argv[1]))"

PROCESSES = """
import json
port, process, folder = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
assert len(jax.devices()) == 2
kept = table(folder) if process == "0" else None
first = run(kept)
assert run(kept) == first  # process 1 gets the rows as well, although it has no table
if process == "1":
    print(json.dumps(first))
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", SMALL + code, *map(str, arguments)]
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, env=os.environ | flags, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    """The rows of an uninterrupted sweep in another process."""
    folder = tmp_path_factory.mktemp("whole")
    python(WHOLE, folder).communicate()
    return (folder / "rows.jsonl").read_text()


@pytest.mark.slow
def test_a_sweep_that_is_killed_repeatedly_ends_with_the_same_bytes(whole, tmp_path):
    # Writes are config and provenance, then times and rows of every cell: it is killed after one cell, then after two.
    killed = python(KILLED, tmp_path, 5, 1, 99)
    assert killed.communicate()[0].split() == [str(-signal.SIGKILL)] * 2 + ["0"]
    assert (tmp_path / "rows.jsonl").read_text() == whole


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [python(PROCESSES, port, process, tmp_path) for process in (0, 1)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    kept = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert json.loads(outputs[1].splitlines()[-1]) == kept
    close(kept, [json.loads(line) for line in whole.splitlines()], 1e-6)


# --- devices -------------------------------------------------------------------------------------------------------


@pytest.mark.devices8
def test_eight_devices_give_the_rows_of_one():
    sweep = dataclasses.replace(SWEEP, seeds=10, penalties=("ridge",))  # padded to 16
    close(run(sweep), run(sweep, mesh=Mesh(jax.devices()[:1], ("seeds",))), 1e-6)


@pytest.mark.devices8
def test_devices_do_not_communicate():
    with jax.enable_x64(True):
        lowered = sweeps.program(dataclasses.replace(SWEEP, seeds=10), 6, 1, TRAIN, TEST)
        text = str(lowered.compile(compiler_options={"xla_backend_optimization_level": 0}).as_text())
    assert "num_partitions=8" in text
    assert re.findall(r"all-reduce|all-gather|all-to-all|collective-\w+|reduce-scatter|send|recv", text) == []


X, Y = TRAIN


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("train.x", {"train": Dataset(X[:0], Y[:0])}),
        ("train.x", {"train": Dataset(np.where(X > 0, np.nan, X), Y)}),
        ("train.y", {"train": Dataset(X, Y[:3])}),
        ("test.y", {"test": Dataset(X, Y + 1)}),
        ("test.x", {"test": Dataset(X[:, :1], Y)}),
        ("mesh", {"mesh": Mesh(jax.devices()[:1], ("devices",))}),
    ],
)
def test_a_bad_argument_is_named(argument, arguments):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        run(**arguments)


def test_a_tolerance_below_rounding_warns():
    train, test = data(np.float32)
    with pytest.warns(UserWarning, match="tolerance 1e-07 is below the precision of float32"):
        sweeps.program(dataclasses.replace(SWEEP, tolerance=1e-7), 6, 1, train, test)
