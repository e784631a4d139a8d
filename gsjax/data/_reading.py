"""Complete file contents for the readers, with an upper bound on their size."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from gsjax import _check

__all__ = ["MOST", "content", "lines"]

# CIFAR's archives are the largest of the files read here, with 184 MB unpacked.
MOST = 1 << 30


def content(path: Path, most: Callable[[bytes], int] = lambda start: MOST) -> bytes:
    """The bytes of a file, decompressed if it is gzipped.

    A gzip stream is read to its end, where its checksum is, unless it exceeds the upper bound.

    Args:
        path: the file.
        most: `most(start)` -> the largest possible number of bytes, given the first 1 MiB (or all) of them.

    Raises:
        ValueError: it is not a file, is damaged, or has more bytes than possible. The error names the file.
        OSError: it cannot be read; the `filename` of the error is the file.
    """
    pieces, size, limit = [], 0, MOST
    try:
        _check.require(path.is_file(), str(path), "a file", "a folder" if path.is_dir() else "none")
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            stream = gzip.GzipFile(fileobj=file) if packed else file
            while piece := stream.read(1 << 20):
                limit = limit if pieces else most(piece)
                pieces.append(piece)
                size += len(piece)
                _check.require(size <= limit, str(path), f"at most {limit} bytes", "more: damaged, fetch it again")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged ({error}), fetch it again") from error
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    return b"".join(pieces)


def lines(path: Path) -> list[str]:
    r"""The lines of a UTF-8 text with any line ending (\n, \r\n or \r), without blank lines at the end.

    A byte-order mark and spaces at the ends of lines are removed. Errors count lines from 1.

    Raises:
        ValueError: the file is not such a text, or is damaged. The error names the file and the line.
        OSError: it cannot be read.
    """
    whole = content(path)
    try:
        text = whole.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(_split(whole[: error.start].decode("utf-8", "replace")))
        got = f"the byte 0x{error.object[error.start]:02x}: damaged, or in another encoding"
        raise ValueError(f"{path}, line {line}: expected text in UTF-8, got {got}") from error
    found = _split(text.rstrip())
    for number, line in enumerate(found if "\0" in text else (), 1):
        _check.require("\0" not in line, f"{path}, line {number}", "text in UTF-8", "a zero byte: damaged")
    return [line.rstrip(" \t") for line in found] if found != [""] else []


def _split(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
