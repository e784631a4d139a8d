"""Files that are whole or absent, folders that belong to one process, and JSON that is what it says."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from gsjax import _files, plotting
from gsjax.tangent.cache import Blocks

# A process that has the lock of a folder, and does not need jax for that.
HOLDER = f"""
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("files", {_files.__file__!r})
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
folder = sys.argv[1]
"""
HELD = """
lock = files.lock(folder, "folder")
print("held", flush=True)
sys.stdin.read()
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def process(code, *arguments):
    """A process that has said its first line, which is `started.line`; it ends with the block, if not before."""
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


def test_another_process_is_refused_and_told_who_has_the_folder(tmp_path):
    with process(HELD, tmp_path) as (holder, line):
        assert line == "held"
        said = rf"process {holder.pid} on {re.escape(platform.node())} has had since \d+-\d+-\d+ \d+:\d+:\d+ UTC$"
        with pytest.raises(ValueError, match=rf"^folder: expected a folder that no other .*, got {tmp_path}, .*{said}"):
            _files.lock(tmp_path, "folder")
        (tmp_path / ".lock").write_text("[]")
        with pytest.raises(ValueError, match=r"which another process has$"):
            _files.lock(tmp_path, "folder")
        assert names(tmp_path) == [".lock"]
    assert names(tmp_path) == []
    assert _files.lock(tmp_path, "folder").valid()
    assert names(tmp_path) == []


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    with process(HELD, tmp_path) as (holder, _):
        holder.kill()
        holder.wait()
        assert names(tmp_path) == [".lock"]
        ours = _files.lock(tmp_path, "folder")
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    del ours
    assert names(tmp_path) == []


def test_a_fork_has_no_part_in_the_lock(tmp_path):
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
    files.lock(folder, "folder")
except ValueError as error:
    print(lock.valid(), f"process {os.getppid()} " in str(error), flush=True)
""",
    )
    with process(code, tmp_path) as (holder, _):
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "False True"
        grandchild = int(holder.stdout.readline())  # one that runs is one whose fork is complete
        try:
            # One fork has ended as any process does, the other goes on: neither has changed anything.
            with pytest.raises(ValueError, match=rf"process {holder.pid} on"):
                _files.lock(tmp_path, "folder")
            holder.kill()
            holder.wait()
            os.kill(grandchild, 0)
            assert _files.lock(tmp_path, "folder").valid()
        finally:
            os.kill(grandchild, signal.SIGKILL)


def test_in_one_process_all_have_the_same_lock_until_the_last_is_gone(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    one, other = _files.lock(tmp_path, "folder"), _files.lock(tmp_path / "link", "folder")
    assert one is other
    del one
    gc.collect()
    assert (tmp_path / ".lock").exists()
    del other
    gc.collect()
    assert not (tmp_path / ".lock").exists()


def test_processes_that_come_and_go_are_never_two_at_a_time(tmp_path):
    code = """
count, found = os.path.join(folder, "count"), 0
print("begun", flush=True)
while found < 50:
    try:
        lock = files.lock(folder, "folder")
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


def test_a_folder_that_was_replaced_is_another_one(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    old = _files.lock(folder, "folder")
    shutil.rmtree(folder)
    assert not old.valid()
    folder.mkdir()
    new = _files.lock(folder, "folder")
    assert (old.valid(), new.valid()) == (False, True)
    del old
    gc.collect()
    assert names(folder) == [".lock"]
    assert new.valid()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_files, "fcntl", type("fcntl", (), {"flock": flock, "LOCK_EX": 2, "LOCK_NB": 4}))
    with pytest.warns(UserWarning, match=rf"{tmp_path} cannot be locked .*one process alone"):
        lock = _files.lock(tmp_path, "folder")
    assert lock.valid()
    assert names(tmp_path) == []


def test_without_the_module_for_locks_there_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "fcntl", None)
    with pytest.warns(UserWarning, match=rf"{tmp_path} cannot be locked .*one process alone"):
        assert _files.lock(tmp_path, "folder").valid()


def test_a_folder_that_cannot_be_locked_is_named(tmp_path, monkeypatch):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(OSError, match=rf"{tmp_path}/\.lock") as caught:
        _files.lock(tmp_path, "folder")
    assert caught.value.errno == errno.EISDIR
    (tmp_path / ".lock").rmdir()

    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_files.fcntl, "flock", flock)
    with pytest.raises(OSError, match=rf"{tmp_path}/\.lock") as caught:
        _files.lock(tmp_path, "folder")
    assert caught.value.errno == errno.EIO


def test_links_and_pipes_stay_what_they_are(tmp_path):
    target, link, pipe = tmp_path / "folder" / "target", tmp_path / "link", tmp_path / "pipe"
    target.parent.mkdir()
    link.symlink_to(target)
    for content in (b"first", b"second"):
        _files.write(link, content)
        assert target.read_bytes() == content
    assert link.is_symlink()
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    _files.write(pipe, "through")
    reader.join(30)
    assert read == [b"through"]
    assert pipe.is_fifo()
    assert names(tmp_path) == ["folder", "link", "pipe"]
    assert names(target.parent) == ["target"]


@contextlib.contextmanager
def no_file_longer_than(size):
    """A disk that is full, as the system itself would have it, from byte `size` of a file on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def figure(path):
    plotting.save(plotting.panels()[0], path, dpi=20)


def block(path):
    Blocks(path.parent, "kernel").save(3, 4, np.zeros((40, 40)))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("page.html", lambda path: _files.write(path, "x" * 1000)),
        ("large.bin", lambda path: _files.write(path, bytes(10**6))),  # more than a buffer
        ("figure.png", figure),
        ("block-3-4.npy", block),
    ],
)
def test_on_a_full_disk_the_file_is_named_and_what_was_there_stays(tmp_path, name, make):
    path = tmp_path / name
    make(path)
    whole, there = path.read_bytes(), names(tmp_path)
    for room in (0, 150, 700):
        with no_file_longer_than(room), pytest.raises(OSError, match=re.escape(str(path))) as caught:
            make(path)
        assert str(caught.value) == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{path}'"
        assert path.read_bytes() == whole
        assert names(tmp_path) == there
    path.unlink()
    with no_file_longer_than(150), pytest.raises(OSError, match=re.escape(str(path))):
        make(path)
    assert not path.exists()
    make(path)
    assert path.read_bytes() == whole


def test_an_error_without_a_number_keeps_its_text(tmp_path):
    def fail():
        with _files.replacing(tmp_path / "a") as file:
            file.write(b"x")
            raise OSError("encoder error -2")

    with pytest.raises(OSError, match=r"encoder error -2.*/a'") as caught:
        fail()
    assert (caught.value.strerror, caught.value.filename) == ("encoder error -2", str(tmp_path / "a"))
    assert names(tmp_path) == []


def test_json_with_a_byte_order_mark_is_read():
    assert _files.parse(b'\xef\xbb\xbf{"a": [1, -0.5e2, null, true, "\\u00e9"]}') == {"a": [1, -50.0, None, True, "é"]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": 1} {}',
        b"NaN",
        b'{"a": [Infinity]}',
        b'{"a": -Infinity}',
        b"1e999",
        b'{"a": 1, "a": 2}',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b"[" * 10**5,
        b"1" * 10**4,
        "{}".encode("utf-16"),
    ],
)
def test_what_is_no_json_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"."):
        _files.parse(content)
