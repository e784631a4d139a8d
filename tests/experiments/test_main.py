"""`python -m experiments` on an invented experiment: the list, flags, failures, and several processes."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

import experiments
from experiments.__main__ import main
from gsjax import records

ROOT = Path(__file__).parents[2]

FAKE = '''
"""Adds numbers up.

More of it.
"""
import functools
from dataclasses import dataclass
from typing import Annotated
from experiments._bounds import Bound, expect
from experiments._study import Cell, Report, Study
import jax.numpy as jnp
from jax.experimental import multihost_utils

@dataclass(frozen=True)
class Config:
    """What is added."""
    numbers: Annotated[tuple[float, ...], Bound(least=-9)] = (1.0, 2.0)
    """Summands."""
    x64: bool = True
    """Double precision."""

PRESETS = {"smoke": Config(), "laptop": Config(numbers=(1.0, 2.0, 3.0), x64=False)}

def study(config, *, out, seed):
    columns = {"dtype": str, "everywhere": float}
    cells = [Cell({"number": number}, functools.partial(one, number), columns, 1) for number in config.numbers]
    return Study({"name": "none"}, cells, report, together=True)

def one(number):
    expect(number >= 0, "numbers", "none below zero", number)
    if number == 1e9:
        raise RuntimeError("RESOURCE_EXHAUSTED")
    total = multihost_utils.process_allgather(jnp.array(number))
    return [{"number": number, "dtype": str(total.dtype), "everywhere": float(total.sum() / total.size)}]

def report(rows):
    total = sum(row["everywhere"] for row in rows)
    row = {"name": "sum | total", "measured": total, "interval": [0.12345, 9999.5], "seeds": 2,
           "published": None, "differs": None}
    return Report([row], [], {})
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of experiments that holds only `fake`; the current folder is another one."""
    place = tmp_path / "modules"
    place.mkdir()
    (place / "fake.py").write_text(FAKE.lstrip())
    (place / "_private.py").write_text("raise RuntimeError")
    monkeypatch.setattr(experiments, "__path__", [str(place)])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield place
    sys.modules.pop("experiments.fake", None)


def test_the_list_has_one_line_per_experiment(folder, capsys):
    (folder / "much_longer.py").write_text('"""Does more."""\nraise RuntimeError("not imported for this")')
    assert main([]) == 0
    assert capsys.readouterr().out == "fake         Adds numbers up.\nmuch_longer  Does more.\n"
    for file in folder.glob("[!_]*.py"):
        file.unlink()
    assert main([]) == 0
    assert capsys.readouterr().out == "no experiments yet\n"


def test_help(folder, capsys):
    assert main(["--help"]) == 0
    assert "python -m experiments NAME" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["fake", "--preset", "laptop", "--help"])
    text = capsys.readouterr().out
    for part in ("Adds numbers up.", "More of it.", "Presets: smoke, laptop.", "Summands. (default: 1.0 2.0 3.0)"):
        assert part in text
    assert os.path.join("results", "fake", "laptop") in " ".join(text.split()).replace("│ │ ", "")


@pytest.mark.parametrize(
    ("arguments", "out", "numbers", "dtype", "seed"),
    [
        ([], "results/fake/smoke", [1, 2], "float64", 0),
        (["--preset", "laptop"], "results/fake/laptop", [1, 2, 3], "float32", 0),
        (["--preset=laptop", "--x64", "--seed", "3"], "results/fake/laptop", [1, 2, 3], "float64", 3),
        (["--numbers", "4", "--preset", "laptop", "--out", "a/b"], "a/b", [4], "float32", 0),
    ],
)
def test_flags_change_a_preset(folder, arguments, out, numbers, dtype, seed):
    before = jax.config.read("jax_enable_x64")
    assert main(["fake", *arguments]) == 0
    assert jax.config.read("jax_enable_x64") == before
    rows = [json.loads(line) for line in Path(out, "rows.jsonl").read_text().splitlines()]
    assert rows == [{"number": number, "dtype": dtype, "everywhere": number} for number in numbers]
    summary = json.loads(Path(out, "summary.json").read_text())
    assert summary["config"] == {"numbers": numbers, "x64": dtype == "float64", "seed": seed}
    assert summary["preset"] == ("laptop" if "laptop" in " ".join(arguments) else "smoke")


def test_the_same_run_gives_the_same_bytes(folder):
    for out in ("one", "two"):
        assert main(["fake", "--out", out]) == 0
    for name in ("config.json", "rows.jsonl", "summary.json"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fak"], "no experiment is called 'fak'; did you mean fake?"),
        (["xyz"], "no experiment is called 'xyz'; python -m experiments lists them"),
        (["_private"], "no experiment is called '_private'"),
        (["--preset", "smoke", "fake"], "expected the name of an experiment first, got --preset"),
        (["fake", "--preset", "large"], "--preset: expected one of smoke, laptop, got large"),
        (["fake", "--numbers", "1", "-1"], "numbers: expected none below zero, got -1.0"),
        (["fake", "--out", "file"], "--out: expected a folder, got file: "),
        (["fake", "--out", "file/x"], "--out: expected a folder, got file/x: "),
        (["fake", "--coordinator", "localhost:1"], "--num-processes: expected a value, as --coordinator,"),
        (["fake", "--process-id", "0", "--num-processes", "1"], "--coordinator: expected a value"),
        (
            ["fake", "--coordinator", "localhost", "--num-processes", "1", "--process-id", "0"],
            "--coordinator: expected HOST:PORT, got localhost",
        ),
        (
            ["fake", "--coordinator", "localhost:1", "--num-processes", "0", "--process-id", "0"],
            "--num-processes: expected 1 or more, got 0",
        ),
        (
            ["fake", "--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"],
            "--process-id: expected 0 to 1, got 2",
        ),
    ],
)
def test_bad_arguments_are_named_in_one_line(folder, one_line, arguments, complaint):
    Path("file").touch()
    assert main(arguments) == 2
    line = one_line()
    assert line.startswith("experiments: ")
    assert complaint in line


def test_an_unknown_flag_or_a_wrong_value_is_refused(folder, capsys):
    for arguments in (["--number", "3"], ["--numbers", "three"], ["--preset"]):
        with pytest.raises(SystemExit, match="2"):
            main(["fake", *arguments])
        assert arguments[0] in capsys.readouterr().err


def test_another_configuration_in_the_same_folder_is_refused(folder, capsys, one_line):
    assert main(["fake", "--numbers", "1"]) == 0
    capsys.readouterr()
    assert main(["fake", "--numbers", "2"]) == 2
    assert "--out: expected a new folder or one of the same configuration, in which numbers is [2.0]" in one_line()


def test_a_full_disk_loses_nothing_and_the_same_command_resumes(folder, one_line, monkeypatch):
    with monkeypatch.context() as disk:
        fsync, room = os.fsync, iter(range(4))

        def full(file):
            if next(room, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(file)

        disk.setattr(os, "fsync", full)
        assert main(["fake"]) == 2
    out = Path("results/fake/smoke")
    assert one_line() == f"experiments: {out / 'timing.jsonl'}: No space left on device"
    assert len((out / "rows.jsonl").read_text().splitlines()) == 1
    assert main(["fake"]) == 0
    assert main(["fake", "--out", "whole"]) == 0
    for name in ("config.json", "rows.jsonl", "summary.json"):
        assert (out / name).read_bytes() == Path("whole", name).read_bytes()


def test_a_folder_that_another_process_writes_is_one_line(folder, one_line):
    code = (
        "import sys; from gsjax import _locks; kept = _locks.lock(sys.argv[1], ''); print(flush=True); sys.stdin.read()"
    )
    out = Path("results/fake/smoke")
    out.mkdir(parents=True)
    command = [sys.executable, "-c", code, str(out.absolute())]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline()
            assert main(["fake"]) == 2
            said = one_line()
            assert said.startswith("experiments: --out: expected a folder that no other process writes to, got ")
            assert f"{out}, which process {other.pid} on " in said
            assert [path.name for path in out.iterdir()] == [".lock"]
        finally:
            other.kill()
    assert main(["fake"]) == 0


def test_an_interruption_is_one_line(folder, one_line, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(records.Table, "add", interrupt)
    assert main(["fake"]) == 130
    assert one_line().startswith("experiments: interrupted")


def run_two_processes(folder, *arguments):
    """Runs `python -m experiments fake ARGUMENTS` in two processes; gives their exit statuses and their stderr."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = f"import experiments, runpy; experiments.__path__.insert(0, {str(folder)!r}); "
    command = [sys.executable, "-c", code + "runpy.run_module('experiments', run_name='__main__')", "fake", *arguments]
    command += ["--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    processes = [
        subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE, text=True, env=environment) for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def test_two_processes_compute_together_and_one_writes(folder):
    statuses, said = run_two_processes(folder, "--out", "both")
    assert statuses == [0, 0], said
    assert json.loads(Path("both/summary.json").read_text())["rows"][0]["measured"] == 3
    [provenance] = json.loads(Path("both/provenance.json").read_text())["runs"]
    assert provenance["devices"]["processes"] == 2
    assert main(["fake", "--out", "alone"]) == 0
    assert Path("both/rows.jsonl").read_bytes() == Path("alone/rows.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("number", "status", "complaint"),
    [
        ("-1", 2, "experiments: --numbers: expected none below zero, got -1.0"),
        ("1e9", 1, "RuntimeError: RESOURCE_EXHAUSTED"),
    ],
)
def test_a_failure_of_process_0_ends_both_at_once(folder, number, status, complaint):
    """With an ordinary exit, both processes would wait for each other for minutes."""
    begin = time.monotonic()
    statuses, said = run_two_processes(folder, "--numbers", number)
    assert time.monotonic() - begin < 45
    assert statuses[0] == status
    assert statuses[1] != 0
    assert complaint in said[0].splitlines()
    assert ("Traceback" in said[0]) == (status == 1)


def test_a_missing_cluster_is_one_line(folder, one_line, monkeypatch):
    def initialize(*_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    assert main(["fake", "--distributed"]) == 2
    line = one_line()
    assert "could not connect (coordinator_address should be defined.); give --coordinator, --num-proc" in line
