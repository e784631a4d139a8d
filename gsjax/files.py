"""Atomic writing of files, and JSON as RFC 8259 defines it.

JSON has no NaN and no infinity. Every JSON file of this project is written by `json_document` or `json_lines`, which
write numbers that are not finite as null.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["UNFINISHED", "Sink", "json_document", "json_lines", "parse", "plain", "replacing", "write"]

UNFINISHED = ".unfinished-"  # prefix of temporary files; they stay behind if the process is killed while it writes


class Sink:
    """The target that `replacing` yields, with a method `write`.

    It is not a file object on purpose: NumPy and Pillow would write to the descriptor themselves, and on a full disk
    their errors name neither the cause nor the file.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, content: bytes, /) -> None:
        """Writes all of `content`."""
        self._write(content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Sink]:
    """Replaces the file `path` atomically when the block ends; until then, and on errors, `path` stays as it is.

    A symbolic link stays a link, to the new content. A path that is not a regular file, such as a pipe, is written to
    directly.

    Raises:
        OSError: the file cannot be written; the error's `filename` is `path`.
    """
    try:
        with _open(Path(path)) as file:
            yield Sink(file.write)
    except OSError as error:
        # The error names the user's path, not the temporary file.
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file atomically; text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written; its former content is unchanged.
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


def plain(value: Any, name: str = "value") -> Any:
    """`value` in the types of JSON, as they would be read from a file.

    Mappings become dicts, sequences and arrays become lists, NaN and the infinities become None.

    Args:
        value: numbers, text, paths and arrays, in mappings and sequences.
        name: name of the argument, for the error.

    Raises:
        ValueError: `value` holds anything else, text that is not Unicode, or keys that are equal as text.

    >>> plain({"widths": (32, 64), "loss": float("nan"), "bound": float("inf")})
    {'widths': [32, 64], 'loss': None, 'bound': None}
    """
    expected = f"{name}: expected numbers, text, paths and arrays, in mappings and sequences"
    if isinstance(value, Mapping):
        found = {plain(str(key), name): plain(entry, name) for key, entry in value.items()}
        if len(found) < len(value):
            raise ValueError(f"{name}: expected keys that differ as text, got {list(value)[:8]}")
        return found
    if isinstance(value, list | tuple):
        return [plain(entry, name) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{expected}, got {value!r}, which is not Unicode") from error
        return str(value)
    if value is None or isinstance(value, int):
        return value
    if hasattr(value, "tolist"):  # arrays of NumPy and jax, and their scalars
        return plain(value.tolist(), name)
    raise ValueError(f"{expected}, got {value!r}")


def json_document(value: Any, name: str = "value") -> str:
    r"""`plain(value)` as one indented JSON document that ends with a newline; keys keep their order.

    Raises:
        ValueError: as for `plain`.

    >>> json_document({"loss": float("nan")})
    '{\n "loss": null\n}\n'
    """
    return json.dumps(plain(value, name), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def json_lines(rows: Iterable[Mapping[str, Any]], name: str = "rows") -> str:
    r"""One line of JSON per row, with sorted keys, so that equal rows have equal bytes.

    Raises:
        ValueError: as for `plain`.

    >>> json_lines([{"seed": 1, "loss": 0.5}, {"loss": float("-inf"), "seed": 2}])
    '{"loss": 0.5, "seed": 1}\n{"loss": null, "seed": 2}\n'
    """
    content = (plain(row, name) for row in rows)
    return "".join(json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for row in content)


def parse(content: bytes) -> Any:
    """Parses JSON as RFC 8259 defines it: in UTF-8, without NaN, infinity or repeated names.

    Raises:
        ValueError: `content` is not such JSON.

    >>> parse(b'{"a": [1, 0.5, null]}')
    {'a': [1, 0.5, None]}
    """

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"a name occurs twice among {[name for name, _ in pairs][:8]}")
        return found

    try:
        value = json.loads(
            content.decode("utf-8-sig"), parse_constant=_number, parse_float=_number, object_pairs_hook=without_repeats
        )
        if b"\\u" in content:  # a lone surrogate is not valid text, and could not be written again
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a JSON number")
    return number
