"""Files as the readers want them: whole, to the end of the stream, and no more of them than there can be."""

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
    """The bytes of a file, unpacked if it is gzipped.

    A gzip stream is read to its end, where its checksum is, but not beyond what the file can have.

    Args:
        path: the file.
        most: `most(start)` -> how many bytes there are at most, judging by the first of them (1 MiB or all).

    Raises:
        ValueError: it is no file, is damaged, or has more bytes than that; it is named.
        OSError: it cannot be read; the file is its `filename`.
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
                _check.require(size <= limit, str(path), f"{limit} bytes at most", "more: damaged, fetch it again")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged ({error}), fetch it again") from error
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    return b"".join(pieces)


def lines(path: Path) -> list[str]:
    r"""The lines of a text in UTF-8, whatever ends them (\n, \r\n or \r), without blank ones at the end.

    A byte-order mark is passed over, and so are spaces at the end of a line. Errors count lines from 1.

    Raises:
        ValueError: it is no such text, or is damaged; the file and the line are named.
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
