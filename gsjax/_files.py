"""Files that are there as a whole or not at all, folders that one process writes to, and JSON that is what it says."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import threading
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["LOCK", "UNFINISHED", "Lock", "Sink", "lock", "parse", "replacing", "write"]

UNFINISHED = ".unfinished-"  # how the names of files begin that are being written, or were when a process was killed
LOCK = ".lock"  # the name of the file that is locked in the place of its folder

# What a file system says that has no locks: NFS without its lock service, Lustre without -o flock, some of FUSE.
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class Sink:
    """What `replacing` gives to write to.

    No file object: NumPy and Pillow would write to its descriptor themselves, and on a full disk their errors say
    neither what is wrong nor where.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, content: bytes, /) -> None:
        """All of it."""
        self._write(content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Sink]:
    """What is written takes the place of the file `path` in the end; `path` stays as it is until then, and on errors.

    A link stays a link, to the new content. What is no regular file, such as a pipe, is written to directly.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`.
    """
    try:
        with _open(Path(path)) as file:
            yield Sink(file.write)
    except OSError as error:
        # The name that the user knows, in the place of the temporary one or of none.
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file, atomically; text as UTF-8.

    Raises:
        OSError: it cannot be written, and what was there before is left as it was.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f"{UNFINISHED}{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class Lock:
    """The right to write to a folder: it belongs to this process as long as anything refers to this object.

    An advisory lock of the system (`flock`) on the file `.lock` in the folder, which says who holds it. The lock ends
    with the process, however that ends; a `.lock` that stays behind a killed process holds nothing.

    `shared` is for what all who write to the folder in this process have in common; `turn` keeps their threads apart.
    """

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path, self.pid = path, os.getpid()
        self.shared: dict[str, Any] = {}
        self.turn = threading.RLock()
        self._descriptor = descriptor
        self._release = weakref.finalize(self, _release, path, descriptor)

    def valid(self) -> bool:
        """Whether the folder is still the one that was locked; False in a process that was forked from ours."""
        if self.pid != os.getpid():
            return False
        return self._descriptor is None or _same(self.path, self._descriptor)

    def abandon(self) -> None:
        """In a forked process: it stays our parent's, and ends with that."""
        self._release.detach()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_HELD: weakref.WeakValueDictionary[tuple[int, int], Lock] = weakref.WeakValueDictionary()
_TURN = threading.Lock()


def lock(folder: str | os.PathLike[str], name: str) -> Lock:
    """The lock of a folder: a new one, or the one that this process has already.

    Where the file system has no locks, a warning says so, and nothing keeps other processes out.

    Args:
        folder: it exists.
        name: of the argument that the error names.

    Raises:
        ValueError: another process has it; the error says which, if it can.
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
            # The one who had it deletes its file: what was opened before and locked after that is no longer there.
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
            what = f"{folder} cannot be locked ({error.strerror}): see to it that one process alone writes to it"
            warnings.warn(what, stacklevel=4)
            return Lock(path, None)


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    content = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since})
    with contextlib.suppress(OSError):  # on a full disk: others will not know who it is
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content.encode(), 0)


def _holder(descriptor: int) -> str:
    """Who has the lock, and since when, as far as its file says that."""
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
        pid, host, since = (content[key] for key in ("pid", "host", "since"))
    except (OSError, ValueError, KeyError, TypeError):
        return "another process has"
    return f"process {pid} on {host} has had since {since}"


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


def parse(content: bytes) -> Any:
    """The value of JSON, as RFC 8259 has it: in UTF-8, without NaN, infinity and names that come twice.

    Raises:
        ValueError: it is none.

    >>> parse(b'{"a": [1, 0.5, null]}')
    {'a': [1, 0.5, None]}
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"a name comes twice among {[name for name, _ in pairs][:8]}")
        return found

    try:
        value = json.loads(
            content.decode("utf-8-sig"), parse_constant=_number, parse_float=_number, object_pairs_hook=once
        )
        if b"\\u" in content:  # half of a pair of surrogates is no text, and could not be written again
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number of JSON")
    return number
