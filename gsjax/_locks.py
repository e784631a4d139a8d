"""Locks that let one process at a time write to a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import threading
import warnings
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gsjax import files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["LOCK", "Lock", "lock"]

LOCK = ".lock"  # the file that is locked on behalf of its folder

# Errors of file systems without locks: NFS without its lock service, Lustre without -o flock, some of FUSE.
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class Lock:
    """The right to write to a folder, held by this process as long as anything refers to this object.

    It is an advisory lock of the operating system (`flock`) on the file `.lock` in the folder. The file names the
    holder. The lock ends with the process, however that ends; a `.lock` left behind by a killed process locks nothing.

    `shared` holds the state that all writers to the folder in this process have in common. `turn` is the mutex of their
    threads.
    """

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path, self.pid = path, os.getpid()
        self.shared: dict[str, Any] = {}
        self.turn = threading.RLock()
        self._descriptor = descriptor
        self._release = weakref.finalize(self, _release, path, descriptor)

    def valid(self) -> bool:
        """Whether the folder is still the one that was locked; False in a process forked from the holder."""
        if self.pid != os.getpid():
            return False
        return self._descriptor is None or _same(self.path, self._descriptor)

    def abandon(self) -> None:
        """Gives up this object in a forked process; the lock stays with the parent."""
        self._release.detach()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_HELD: weakref.WeakValueDictionary[tuple[int, int], Lock] = weakref.WeakValueDictionary()
_TURN = threading.Lock()


def lock(folder: str | os.PathLike[str], name: str) -> Lock:
    """The lock of a folder: a new one, or the one that this process already holds.

    On a file system without locks, a warning says so, and other processes are not kept out.

    Args:
        folder: an existing folder.
        name: name of the argument, for the error.

    Raises:
        ValueError: another process holds the lock; the message says which, if known.
        OSError: the folder cannot be written to.
    """
    with _TURN:
        status = os.stat(folder)
        key = status.st_dev, status.st_ino
        held = _HELD.get(key)
        if held is None or not held.valid():
            _HELD[key] = held = _acquire(Path(folder), name)
        return held


def _acquire(folder: Path, name: str) -> Lock:
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder deletes its file on release, so a file that was opened before that may be gone by now.
            if _same(path, descriptor):
                _write_holder(descriptor)
                return Lock(path, descriptor)
            os.close(descriptor)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            expected = "a folder that no other process writes to"
            raise ValueError(f"{name}: expected {expected}, got {folder}, which {holder}") from None
        except BaseException as error:
            os.close(descriptor)
            if not isinstance(error, OSError):
                raise
            if error.errno not in _WITHOUT_LOCKS:
                raise OSError(error.errno, error.strerror, str(path)) from error
            with contextlib.suppress(OSError):
                path.unlink()
            message = f"{folder} cannot be locked ({error.strerror}): make sure that only one process writes to it"
            warnings.warn(message, stacklevel=4)
            return Lock(path, None)


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    content = files.json_document({"pid": os.getpid(), "host": platform.node(), "since": time})
    with contextlib.suppress(OSError):  # on a full disk, others cannot see who holds the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content.encode(), 0)


def _holder(descriptor: int) -> str:
    """Who has the lock, and since when, if its file says so."""
    try:
        content = files.parse(os.pread(descriptor, 4096, 0))
        pid, host, time = (content[key] for key in ("pid", "host", "since"))
    except (OSError, ValueError, KeyError, TypeError):
        return "another process has"
    return f"process {pid} on {host} has had since {time}"


def _release(path: Path, descriptor: int | None) -> None:
    if descriptor is None:
        return
    with contextlib.suppress(OSError):
        if _same(path, descriptor):
            path.unlink()
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _after_fork() -> None:
    global _TURN
    _TURN = threading.Lock()  # another thread may have had it
    for held in list(_HELD.values()):
        held.abandon()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
