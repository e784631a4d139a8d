"""A folder that keeps the finished blocks of a kernel, so that an interrupted computation goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gsjax import _check, _files

__all__ = ["Blocks", "fingerprint"]


def fingerprint(apply_fn: Any, params: Any, *rest: Any) -> str:
    """Of everything that a kernel depends on: the traced network, its parameters, and what else is given."""
    digest = hashlib.sha256()
    examples = jax.tree.map(lambda x: x[:1], rest[0])
    jaxpr, consts = (closed := jax.make_jaxpr(apply_fn)(params, examples)).jaxpr, closed.consts
    digest.update(re.sub(r" at 0x[0-9a-f]+", "", str(jaxpr)).encode())
    for value in jax.tree.leaves((consts, params, rest)):
        array = np.asarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(str(jax.tree.structure((params, rest))).encode())
    return digest.hexdigest()


class Blocks:
    """Blocks of one kernel, each a file of `folder`.

    Raises:
        ValueError: the folder holds blocks of another kernel, or something that is no block.
    """

    def __init__(self, folder: str | os.PathLike[str], fingerprint: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / "kernel.json"
        if not manifest.exists():
            taken = next(self.folder.glob("block-*.npy"), None)
            _check.require(taken is None, "cache", "an empty folder or one with a kernel.json", taken)
            _files.write(manifest, json.dumps({"fingerprint": fingerprint}))
        try:
            found = json.loads(manifest.read_text())["fingerprint"]
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
            found = "no fingerprint"
        expected = f"blocks of this kernel in {self.folder} (same network, parameters, examples, method, batch_size)"
        _check.require(found == fingerprint, "cache", expected, f"those of another, {found[:12]}")

    def load(self, i: int, j: int) -> np.ndarray | None:
        """The block that begins in row i and column j, or None."""
        path = self._path(i, j)
        if not path.exists():
            return None
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"cache: {path} is damaged ({error}); delete it and start again") from error

    def save(self, i: int, j: int, block: np.ndarray) -> None:
        """Writes a block; it is there as a whole or not at all."""
        with _files.replacing(self._path(i, j)) as file:
            np.save(file, block)

    def _path(self, i: int, j: int) -> Path:
        return self.folder / f"block-{i}-{j}.npy"
