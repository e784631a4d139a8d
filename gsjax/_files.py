"""Files that are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["UNFINISHED", "replacing", "write"]

UNFINISHED = ".unfinished-"  # how the names of files begin that are being written, or were when a process was killed


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` in the end; `path` stays as it is until then, and on errors.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`.
    """
    path = Path(path)
    temporary = path.with_name(f"{UNFINISHED}{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename, error.filename2 = os.fspath(path), None
        raise


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file, atomically; text as UTF-8.

    Raises:
        OSError: it cannot be written, and what was there before is left as it was.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
