"""Examples from a file of `numpy.savez`: inputs, labels, and what else is known of each example."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gsjax import _check

__all__ = ["Examples", "labels", "load"]

_KINDS = ("x", "y", "group", "inputs")
_ADVICE = "write it with numpy.savez(path, x=x, y=y), x and y arrays of numbers"


class Examples(NamedTuple):
    """What `load` returns."""

    x: np.ndarray
    """`(n, ...)`, as the network takes it."""
    y: np.ndarray
    """`(n,)`, as in the file."""
    group: np.ndarray | None
    """`(n,)` whole numbers."""
    inputs: np.ndarray | None
    """`(n, ...)`, pictures to draw instead of x."""
    notes: tuple[str, ...]
    """What was read and how it was changed, one sentence each."""


def load(path: str | os.PathLike[str], *, scale: bool = True) -> Examples:
    """The arrays `x`, `y`, and where they exist `group` and `inputs`, of an `.npz` file.

    Inputs in uint8 are taken for pictures and divided by 255, unless `scale` is False. Other whole numbers, such as
    tokens, stay as they are.

    Raises:
        ValueError: the file is damaged or of another format; an array is missing, empty, not numeric or not finite;
            numbers of examples differ.
        OSError: the file cannot be read.
    """
    path = Path(path)
    arrays, others = _arrays(path)
    notes = [f"data: {', '.join(f'{name} {_told(value)}' for name, value in arrays.items())} from {path}"]
    if others:
        notes.append(f"data: not used: {', '.join(others)}")
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(f"data: {path}: expected an array {name}, got {', '.join([*arrays, *others]) or 'none'}")
    x, y = arrays["x"], arrays["y"]
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"data: {path}: x: expected examples (n, ...), got shape {x.shape}")
    for name, value in arrays.items():
        if value.shape[:1] != x.shape[:1] or (name in ("y", "group") and value.ndim != 1):
            wanted = f"({len(x)},)" if name in ("y", "group") else f"({len(x)}, ...)"
            raise ValueError(
                f"data: {path}: {name}: expected shape {wanted}, as x has {len(x)} examples, got {value.shape}"
            )
    if x.dtype == np.uint8 and scale:
        x = (x / np.float32(255)).astype(np.float32)
        notes.append("data: x in uint8 is divided by 255; --uint8 keep passes it on unchanged")
    elif not np.issubdtype(x.dtype, np.floating):
        notes.append(f"data: x in {x.dtype} is passed on unchanged")
    group = arrays.get("group")
    if group is not None:
        group = _whole(group)
        if group is None:
            raise ValueError(f"data: {path}: group: expected whole numbers, got {arrays['group'].dtype}")
    return Examples(x, y, group, arrays.get("inputs"), tuple(notes))


def labels(y: np.ndarray, outputs: int | None) -> tuple[np.ndarray, list[str]]:
    """Labels as `gsjax.diagnose` takes them, and what was changed.

    Args:
        y: `(n,)`; for one output -1 and +1, or 0 and 1, which become -1 and +1; for k outputs the classes 0 to k - 1.
        outputs: k, or None for outputs `(n,)`.

    Raises:
        ValueError: other labels.

    >>> labels(np.array([0, 1]), None)
    (array([-1.,  1.]), ['data: the labels 0 and 1 become -1 and +1'])
    """
    whole = _whole(y)
    values = np.unique(y)
    told = f"{', '.join(map(str, values[:5].tolist()))}{', ...' if len(values) > 5 else ''}"
    if outputs is None:
        if whole is not None and set(values.tolist()) <= {-1, 1}:
            return whole.astype(float), []
        if whole is not None and set(values.tolist()) <= {0, 1}:
            return 2.0 * whole - 1.0, ["data: the labels 0 and 1 become -1 and +1"]
        raise ValueError(f"data: y: expected labels -1 and +1, or 0 and 1, for a network with one output, got {told}")
    if whole is None or values[0] < 0 or values[-1] >= outputs:
        expected = f"classes 0 to {outputs - 1} for a network with outputs (n, {outputs})"
        advice = (
            "; for labels -1 and +1 let the network return one output, f[:, 1] - f[:, 0]"
            if outputs == 2 and set(values.tolist()) == {-1, 1}
            else ""
        )
        raise ValueError(f"data: y: expected {expected}, got {told}{advice}")
    return whole, []


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The known arrays of a file, and the names of the others."""
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04":
        got = "an empty file" if not start else "another format"
        raise ValueError(f"data: {path}: expected a file of numpy.savez, got {got}; {_ADVICE}")
    try:
        # Opened here, since NumPy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            others = [name for name in archive.files if name not in _KINDS]
            arrays = {name: _numeric(name, archive, path) for name in _KINDS if name in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
        told = str(error).partition("\n")[0]
        raise ValueError(f"data: {path}: damaged or incomplete ({told}); {_ADVICE}") from error
    return arrays, others


def _numeric(name: str, archive: np.lib.npyio.NpzFile, path: Path) -> np.ndarray:
    try:
        value = archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            got = "Python objects, which are pickled and never read"
        else:
            got = f"damaged bytes ({str(error).partition(chr(10))[0]})"
        raise ValueError(f"data: {path}: {name}: expected an array of numbers, got {got}; {_ADVICE}") from error
    if not isinstance(value, np.ndarray):
        raise ValueError(f"data: {path}: {name}: expected an array of numpy.save, got other content; {_ADVICE}")
    if value.dtype == np.bool_:
        value = value.astype(np.uint8) if name != "x" else value.astype(np.float32)
    if not (np.issubdtype(value.dtype, np.floating) or np.issubdtype(value.dtype, np.integer)):
        raise ValueError(f"data: {path}: {name}: expected an array of numbers, got {value.dtype}; {_ADVICE}")
    _check.finite(f"data: {path}: {name}", value)
    return value


def _whole(value: np.ndarray) -> np.ndarray | None:
    """An array of whole numbers as int32, or None if it holds others."""
    limits = np.iinfo(np.int32)
    if value.size and (value.min() < limits.min or value.max() > limits.max):
        return None
    whole = value.astype(np.int32)
    return whole if np.array_equal(whole, value) else None


def _told(value: np.ndarray) -> str:
    return f"{value.dtype} {value.shape}"
