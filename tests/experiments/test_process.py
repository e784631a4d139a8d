"""How commands end: by a signal at any moment, by a closed pipe, or on a terminal without Unicode."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# A command that prints, then waits where Python does not run its signal handlers, such as the join of a thread.
WAITING = """
import sys, threading, time
from experiments import _process
def main():
    print("begun", flush=True)
    print("kept in the buffer")
    with _process.stopping("all is kept", lambda: print("closed")):
        {work}
    return 0
_process.run("waiting", main)
"""


def start(*command: str, **environment: str) -> Any:
    """Starts a command in its own process, with pipes for its output."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background shell; the child would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
        start_new_session=True,
    )


def finished(process, timeout=60):
    """Exit status, stdout and stderr; a process that does not end is killed, and the test fails."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(60)",
        "sum(i for i in range(10**10))",
        "t = threading.Thread(target=time.sleep, args=(60,)); t.start(); t.join()",
    ],
    ids=["asleep", "busy", "in a thread"],
)
def test_a_signal_stops_a_command_at_once_with_one_line(number, status, word, work):
    process = start("-c", WAITING.format(work=work))
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    begin = time.monotonic()
    process.send_signal(number)
    code, out, err = finished(process)
    assert (code, err) == (status, f"waiting: {word}; all is kept\n")
    assert out == "kept in the buffer\nclosed\n"
    assert time.monotonic() - begin < 10


def test_a_clean_up_that_does_not_end_is_cut_off():
    code = WAITING.format(work="time.sleep(60)").replace('print("closed")', "time.sleep(60)")
    process = start("-c", code.replace('_process.run("', '_process._PATIENCE = 0.5; _process.run("'))
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process, timeout=20)
    assert (code, err) == (130, "waiting: interrupted; all is kept\n")


def test_a_signal_that_was_ignored_from_the_start_stays_ignored():
    code = WAITING.format(work="time.sleep(1)")
    process = start("-c", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + code)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert finished(process)[0] == 0


@pytest.mark.parametrize("moment", [0.3, 0.8])
def test_a_signal_during_imports(moment):
    process = start("-m", "theory", "--list")
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code in (0, 130)
    assert err in ("", "theory: interrupted\n")


@pytest.mark.parametrize("command", [["experiments"], ["theory", "--list"], ["experiments", "--help"]])
def test_a_closed_pipe_ends_a_command_silently(command):
    process = start("-m", *command)
    process.stdout.close()
    process.stdout = None
    code, _, err = finished(process)
    assert (code, err) == (141, "")


def test_a_terminal_without_unicode(tmp_path):
    code = """
from experiments import _process
def main():
    print("\\u2713 holds \\u03bb \\udcff")
    return 0
_process.run("fake", main)
"""
    for encoding in ("ascii", "latin-1", "utf-8"):
        status, out, err = finished(start("-c", code, PYTHONIOENCODING=encoding))
        assert (status, err) == (0, "")
        assert out.endswith(" holds \u03bb ?\n" if encoding == "utf-8" else " holds ? ?\n")


def test_a_full_disk_behind_standard_output_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    command = [sys.executable, "-m", "experiments"]
    for unbuffered in ("", "1"):
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment
            )
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert line.startswith("experiments: ")
        assert line.endswith("No space left on device")


@pytest.mark.parametrize("name", ["experiments", "theory"])
@pytest.mark.parametrize("missing", ["jax", "tyro"])
def test_outside_the_environment_a_command_says_how_to_run_it(name, missing, tmp_path):
    (tmp_path / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{missing}'\", name='{missing}')"
    )
    status, out, err = finished(start("-m", name, PYTHONPATH=str(tmp_path)))
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith(
        f"{name}: No module named '{missing}' ({sys.executable}); run it as .venv/bin/python -m {name}"
    )


def test_an_import_error_of_our_own_keeps_its_traceback():
    code = """
from experiments import _process
def main():
    from gsjax import no_such_room
_process.run("fake", main)
"""
    status, _, err = finished(start("-c", code))
    assert status == 1
    assert "Traceback" in err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "command", [["experiments", "width_sweep", "--preset", "smoke"], ["theory"]], ids=lambda c: c[0]
)
def test_commands_are_stopped_at_random_moments(command, number, status, tmp_path):
    """Also during compilation, where an ordinary exit often was a segmentation fault."""
    draw = random.Random(f"{command} {status}")
    for trial in range(6):
        process = start("-m", *command, "--out", str(tmp_path / str(trial)))
        time.sleep(draw.uniform(0.5, 20))
        ended = process.poll()  # a fast machine may be done by then
        begin = time.monotonic()
        if ended is None:
            os.killpg(process.pid, number)
        code, _, err = finished(process)
        assert code == (status if ended is None else 0)
        assert time.monotonic() - begin < 10
        assert "Traceback" not in err
        assert "Exception ignored" not in err
