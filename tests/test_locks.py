"""Locks: a folder belongs to one process."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from gsjax import _locks

# A process that locks a folder, without importing jax.
HOLDER = """
import os, sys, time
from gsjax import _locks
assert "jax" not in sys.modules
folder = sys.argv[1]
"""
HELD = """
lock = _locks.lock(folder, "folder")
print("held", flush=True)
sys.stdin.read()
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def process(code, *arguments):
    """Starts a process and gives it with its first line of output; the process ends with the block."""
    command = [sys.executable, "-c", HOLDER + textwrap.dedent(code), *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        try:
            yield started, started.stdout.readline().strip()
            started.stdin.close()
            assert started.wait(30) in (0, -signal.SIGKILL)
        finally:
            started.kill()


def test_another_process_is_refused_and_the_owner_is_named(tmp_path):
    with process(HELD, tmp_path) as (holder, line):
        assert line == "held"
        said = rf"process {holder.pid} on {re.escape(platform.node())} has had since \d+-\d+-\d+ \d+:\d+:\d+ UTC$"
        with pytest.raises(ValueError, match=rf"^folder: expected a folder that no other .*, got {tmp_path}, .*{said}"):
            _locks.lock(tmp_path, "folder")
        (tmp_path / ".lock").write_text("[]")
        with pytest.raises(ValueError, match=r"which another process has$"):
            _locks.lock(tmp_path, "folder")
        assert names(tmp_path) == [".lock"]
    assert names(tmp_path) == []
    assert _locks.lock(tmp_path, "folder").valid()
    assert names(tmp_path) == []


def test_a_lock_ends_with_its_process_even_if_killed(tmp_path):
    with process(HELD, tmp_path) as (holder, _):
        holder.kill()
        holder.wait()
        assert names(tmp_path) == [".lock"]
        ours = _locks.lock(tmp_path, "folder")
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    del ours
    assert names(tmp_path) == []


def test_a_fork_does_not_inherit_the_lock(tmp_path):
    code = HELD.replace(
        "sys.stdin.read()",
        """
if child := os.fork():
    os.waitpid(child, 0)
    if os.fork():
        sys.stdin.read()
    print(os.getpid(), flush=True)
    time.sleep(60)
try:
    _locks.lock(folder, "folder")
except ValueError as error:
    print(lock.valid(), f"process {os.getppid()} " in str(error), flush=True)
""",
    )
    with process(code, tmp_path) as (holder, _):
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "False True"
        grandchild = int(holder.stdout.readline())  # once it runs, the fork is complete
        try:
            # One fork has ended normally, the other still runs: neither has changed the lock.
            with pytest.raises(ValueError, match=rf"process {holder.pid} on"):
                _locks.lock(tmp_path, "folder")
            holder.kill()
            holder.wait()
            os.kill(grandchild, 0)
            assert _locks.lock(tmp_path, "folder").valid()
        finally:
            os.kill(grandchild, signal.SIGKILL)


def test_one_process_shares_a_lock_until_the_last_reference_is_gone(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    one, other = _locks.lock(tmp_path, "folder"), _locks.lock(tmp_path / "link", "folder")
    assert one is other
    del one
    gc.collect()
    assert (tmp_path / ".lock").exists()
    del other
    gc.collect()
    assert not (tmp_path / ".lock").exists()


def test_never_do_two_processes_hold_the_lock(tmp_path):
    code = """
count, found = os.path.join(folder, "count"), 0
print("begun", flush=True)
while found < 50:
    try:
        lock = _locks.lock(folder, "folder")
    except ValueError:
        continue
    with open(count) as file:
        before = int(file.read())
    with open(count, "w") as file:
        file.write(str(before + 1))
    found += 1
    del lock
"""
    (tmp_path / "count").write_text("0")
    with process(code, tmp_path), process(code, tmp_path), process(code, tmp_path):
        pass
    assert (tmp_path / "count").read_text() == "150"
    assert names(tmp_path) == ["count"]


def test_the_lock_of_a_replaced_folder_is_not_valid(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    old = _locks.lock(folder, "folder")
    shutil.rmtree(folder)
    assert not old.valid()
    folder.mkdir()
    new = _locks.lock(folder, "folder")
    assert (old.valid(), new.valid()) == (False, True)
    del old
    gc.collect()
    assert names(folder) == [".lock"]
    assert new.valid()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_warns(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_locks, "fcntl", type("fcntl", (), {"flock": flock, "LOCK_EX": 2, "LOCK_NB": 4}))
    with pytest.warns(UserWarning, match=rf"{tmp_path} cannot be locked .*only one process"):
        lock = _locks.lock(tmp_path, "folder")
    assert lock.valid()
    assert names(tmp_path) == []


def test_a_platform_without_locks_warns(tmp_path, monkeypatch):
    monkeypatch.setattr(_locks, "fcntl", None)
    with pytest.warns(UserWarning, match=rf"{tmp_path} cannot be locked .*only one process"):
        assert _locks.lock(tmp_path, "folder").valid()


def test_a_folder_that_cannot_be_locked_is_named(tmp_path, monkeypatch):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(OSError, match=rf"{tmp_path}/\.lock") as caught:
        _locks.lock(tmp_path, "folder")
    assert caught.value.errno == errno.EISDIR
    (tmp_path / ".lock").rmdir()

    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_locks.fcntl, "flock", flock)
    with pytest.raises(OSError, match=rf"{tmp_path}/\.lock") as caught:
        _locks.lock(tmp_path, "folder")
    assert caught.value.errno == errno.EIO
