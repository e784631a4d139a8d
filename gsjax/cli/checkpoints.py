"""Parameters from a file or folder, put into a tree of the right structure: safetensors, flax msgpack, orbax.

Nothing that is read here can run code. A pickle is recognised and refused, and so is every file that may contain one,
such as PyTorch's.

Arrays have names: the path of a leaf, as in `jax.tree_util.keystr(path, simple=True, separator=".")`. The parts of a
name are separated by "." or "/", so "params.Dense_0.kernel", "params/Dense_0/kernel" and the nested dicts of msgpack
and orbax are the same name.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import PyTree

from gsjax import _check

__all__ = ["Loaded", "load", "names", "read"]


class Loaded(NamedTuple):
    """What `load` returns."""

    params: PyTree
    """The tree of the template, with the arrays that were read."""
    notes: tuple[str, ...]
    """What was read and how it was changed, one sentence each."""


_ADVICE = (
    "save the arrays by name with safetensors.flax.save_file, the tree with flax.serialization.to_bytes, or with "
    "orbax.checkpoint.StandardCheckpointer"
)
_PICKLE = "a pickle can run any code, and is never opened"

# What begins with these bytes is none of the three formats. (A map of msgpack with entries never begins with 0x80.)
_FOREIGN = (
    (b"\x80", _PICKLE),
    (b"PK\x03\x04", "a zip archive, as torch.save and numpy.savez write it, may hold pickles, and is never opened"),
    (b"\x93NUMPY", "what numpy.save and equinox.tree_serialise_leaves write has no names, and may hold pickles"),
    (b"\x89HDF\r\n\x1a\n", "a file of HDF5 is not read"),
    (b"\x1f\x8b", "a file of gzip is not read"),
)
_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill")

# Entries of a training state beside its parameters, which nothing here needs: flax.training.train_state.TrainState.
_BESIDE = ("opt_state", "step")

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def load(path: str | os.PathLike[str], template: PyTree, *, name: str = "params") -> Loaded:
    """The arrays of a checkpoint in the structure of `template`, matched by name.

    Every leaf of the template has to be in the file with its shape, and nothing else. Exceptions: the collection
    "params" may be the whole file or the whole template; of a training state, `opt_state` and `step` are left out;
    typed PRNG keys are taken from the template. Floating point arrays are converted to the dtype of the template.
    Arrays are put on the default device, however they were distributed when they were saved.

    Args:
        path: a file of safetensors or flax msgpack, or a folder of orbax: a checkpoint, a step of a
            `CheckpointManager`, or the folder of its steps, of which the last is taken.
        template: a tree of arrays, such as freshly initialised parameters.
        name: what the messages call the checkpoint.

    Raises:
        ValueError: the file is damaged, of another format, or holds other names, shapes or kinds of numbers.
        OSError: it cannot be read.
    """
    found, origin = _read(Path(path), name)
    notes = [f"{name}: {origin}"]
    expected = names(template)
    matched, left_out = _match(found, expected, f"{name}: {path}")
    if left_out:
        notes.append(f"{name}: left out {', '.join(left_out)}, the rest of a training state")
    leaves, casts = [], collections.Counter()
    wrong = []
    for label, leaf in expected.items():
        if _is_key(leaf):
            leaves.append(leaf)
            continue
        value = matched[label]
        shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
        if value.shape != shape:
            wrong.append(f"{label} has shape {value.shape} instead of {shape}")
        elif not _fits(value, dtype):
            wrong.append(f"{label} holds {value.dtype} instead of {dtype}")
        else:
            if value.dtype != dtype:
                casts[f"{value.dtype} to {dtype}"] += 1
            leaves.append(jnp.asarray(value.astype(dtype)))
    if wrong:
        raise ValueError(f"{name}: {path}: {_few(wrong, '; ')}")
    notes += [f"{name}: {count} of {len(expected)} arrays converted from {cast}" for cast, count in casts.items()]
    return Loaded(jax.tree.unflatten(jax.tree.structure(template), leaves), tuple(notes))


def read(path: str | os.PathLike[str], *, name: str = "params") -> dict[str, np.ndarray]:
    """All arrays of a checkpoint, by name, with "." between the parts of a name.

    Args:
        path: as for `load`.
        name: what the messages call the checkpoint.

    Raises:
        ValueError: the file is damaged or of another format; two of its names are the same.
        OSError: it cannot be read.
    """
    return _read(Path(path), name)[0]


def names(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by name, in their order.

    Raises:
        ValueError: two leaves have the same name.

    >>> list(names({"layers": [(1.0, 2.0)], "scale": 3.0}))
    ['layers.0.0', 'layers.0.1', 'scale']
    """
    found: dict[str, Any] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        label = _name(jax.tree_util.keystr(path, simple=True, separator="/"))
        _check.require(label not in found, "tree", "leaves of different names", f"two that are called {label!r}")
        found[label] = leaf
    return found


def _name(text: str) -> str:
    return ".".join(re.split(r"[./]", text))


def _read(path: Path, name: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a checkpoint by name, and a sentence on where they come from."""
    if path.is_dir():
        found, origin = _orbax(path, name)
    else:
        content = path.read_bytes()
        refusal = next((what for magic, what in _FOREIGN if content.startswith(magic)), None)
        if refusal is None and path.suffix.lower() in _SUFFIXES:
            refusal = _PICKLE
        if refusal:
            raise ValueError(f"{name}: {path}: {refusal}; {_ADVICE}")
        # A header of safetensors is JSON of this length; in msgpack the ninth byte may be "{" as well, but then the
        # first is that of a map, and as the lowest byte of a length it would have to fit the rest of the file.
        if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < 2**27:
            found, origin = _safetensors(content, path, name), "safetensors"
        elif content[:1] and (0x81 <= content[0] <= 0x8F or content[0] in (0xDE, 0xDF)):
            found, origin = _msgpack(content, path, name), "flax msgpack"
        else:
            kinds = "expected safetensors, flax msgpack, or a folder of orbax"
            got = f"{len(content)} bytes of another kind" if content else "an empty file"
            raise ValueError(f"{name}: {path}: {kinds}, got {got}")
        origin = f"{len(found)} array{'s' if len(found) > 1 else ''} from {path} ({origin})"
    if not found:
        raise ValueError(f"{name}: {path}: expected arrays, got none")
    return found, origin


def _safetensors(content: bytes, path: Path, name: str) -> dict[str, np.ndarray]:
    import safetensors

    found = {}
    try:
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name}: {path}: damaged or incomplete safetensors ({_first_line(error)})") from error
    for label, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{name}: {path}: {label} is of the type {entry['dtype']}, which parameters are not")
        value = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        _add(found, label, value, path, name)
    return found


def _msgpack(content: bytes, path: Path, name: str) -> dict[str, np.ndarray]:
    from flax import serialization

    try:
        tree = serialization.msgpack_restore(content)
    except Exception as error:  # damaged bytes raise anything, also from NumPy
        raise ValueError(f"{name}: {path}: damaged or incomplete flax msgpack ({_first_line(error)})") from error
    return _flat(tree, path, name)


def _orbax(path: Path, name: str) -> tuple[dict[str, np.ndarray], str]:
    folder = _item(path, name)
    import orbax.checkpoint as ocp

    try:
        handler: Any = ocp.PyTreeCheckpointHandler()
        with _quiet(), contextlib.closing(ocp.Checkpointer(handler)) as checkpointer:
            described = handler.metadata(folder.absolute())
            structure = getattr(described, "tree", described)
            # As NumPy arrays, or orbax would ask for the devices that the arrays were on when they were saved.
            wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure)
            arguments = ocp.args.PyTreeRestore(restore_args=wanted)
            tree = checkpointer.restore(folder.absolute(), args=arguments)
    except Exception as error:  # damaged files raise anything, also from tensorstore
        raise ValueError(f"{name}: {folder}: damaged or incomplete orbax checkpoint ({_first_line(error)})") from error
    found = _flat(tree, folder, name)
    return found, f"{len(found)} array{'s' if len(found) > 1 else ''} from {folder} (orbax)"


_TREE = "_METADATA"  # the file in which orbax describes a tree of arrays


def _item(path: Path, name: str) -> Path:
    """The folder below `path` that holds a tree of arrays: itself, an entry, or an entry of its last step."""
    if (path / _TREE).is_file():
        return path
    steps = [entry for entry in path.iterdir() if entry.is_dir() and re.fullmatch(r"([^.]*_)?\d+", entry.name)]
    if steps and not any((step / _TREE).is_file() for step in steps):
        path = max(steps, key=lambda step: int(step.name.rpartition("_")[2]))
    items = sorted(entry for entry in path.iterdir() if (entry / _TREE).is_file())
    if len(items) == 1:
        return items[0]
    if not items:
        raise ValueError(f"{name}: {path}: expected a checkpoint of orbax, got a folder without {_TREE}; {_ADVICE}")
    told = ", ".join(str(item) for item in items)
    raise ValueError(f"{name}: {path}: holds several trees of arrays; name one of {told}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps from standard error what orbax logs, and what is left over when one of several reads has failed.

    The reads that are still under way then find their event loop closed. The error that matters is raised.
    """
    hook, levels = sys.unraisablehook, {name: logging.getLogger(name).level for name in ("absl", "asyncio")}
    sys.unraisablehook = lambda _: None
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    except BaseException:
        time.sleep(_LEFT_OVER)
        gc.collect()
        raise
    finally:
        sys.unraisablehook = hook
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


_LEFT_OVER = 0.3  # seconds


def _flat(tree: Any, path: Path, name: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for keys, leaf in jax.tree.leaves_with_path(tree):
        label = jax.tree_util.keystr(keys, simple=True, separator="/")
        if not isinstance(leaf, np.ndarray | np.generic | jax.Array | float | int):
            raise ValueError(f"{name}: {path}: expected arrays of numbers, got {type(leaf).__name__} at {label}")
        _add(found, label, np.asarray(leaf), path, name)
    return found


def _add(found: dict[str, np.ndarray], label: str, value: np.ndarray, path: Path, name: str) -> None:
    label = _name(label)
    if label in found:
        raise ValueError(f"{name}: {path}: two arrays are called {label!r}")
    found[label] = value


def _match(
    found: Mapping[str, np.ndarray], expected: Mapping[str, Any], where: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays under the names that are expected, and the entries that are left out."""
    wanted = {label: leaf for label, leaf in expected.items() if not _is_key(leaf)}
    tops = {label.partition(".")[0] for label in wanted}
    left_out = sorted({label.partition(".")[0] for label in found} & set(_BESIDE) - tops)
    found = {label: value for label, value in found.items() if label.partition(".")[0] not in left_out}
    # Names as they are; without the field in which a Variable of nnx has its array; and each of them without "params".
    for shorten in (_same, _without_value):
        for ours, theirs in ((_same, _same), (_without_params, _same), (_same, _without_params)):
            aliases = {ours(shorten(label)): label for label in wanted}
            values = {theirs(shorten(label)): value for label, value in found.items()}
            if aliases.keys() == values.keys() and len(aliases) == len(wanted) and len(values) == len(found):
                return {aliases[label]: value for label, value in values.items()}, left_out
    here, there = ({_without_value(label) for label in group} for group in (wanted, found))
    parts = [("missing", sorted(here - there)), ("unexpected", sorted(there - here))]
    told = "; ".join(f"{word} {_few(labels, ', ')}" for word, labels in parts if labels)
    raise ValueError(f"{where}: not the parameters of this network: {told}")


def _same(label: str) -> str:
    return label


def _without_params(label: str) -> str:
    return label.removeprefix("params.")


def _without_value(label: str) -> str:
    head, _, last = label.rpartition(".")
    return head if head and last in ("value", "raw_value") else label


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def _fits(value: np.ndarray, dtype: Any) -> bool:
    """Whether an array may become one of `dtype`: floating point numbers of any width, others without loss."""
    if jnp.issubdtype(dtype, jnp.floating):
        return bool(jnp.issubdtype(value.dtype, jnp.floating))
    return np.can_cast(value.dtype, dtype, "same_kind") and bool(np.all(value.astype(dtype) == value))


def _few(words: list[str], between: str) -> str:
    return between.join(words[:5]) + (f"{between}and {len(words) - 5} more" if len(words) > 5 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
