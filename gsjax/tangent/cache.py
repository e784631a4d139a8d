"""A folder of the finished blocks of a kernel, from which an interrupted computation resumes."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import jax
import numpy as np

from gsjax import _check, files

__all__ = ["Blocks"]


class Blocks:
    """The blocks of one kernel, one file per block in `folder`: the array in NumPy's format, followed by a checksum.

    Several processes may share a folder, since blocks are written atomically and do not depend on the process that
    computes them. The checksum includes the kernel and the position of the block, so no other block is mistaken for it.

    Raises:
        ValueError: the folder holds blocks of another kernel, or a file that is not a block.
        OSError: a file cannot be read or written; the error names it.
    """

    def __init__(self, folder: str | os.PathLike[str], fingerprint: str) -> None:
        self.folder, self._fingerprint = Path(folder), fingerprint
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / "kernel.json"
        if not manifest.exists():
            taken = next(self.folder.glob("block-*.npy"), None)
            _check.require(taken is None, "cache", "an empty folder or one with a kernel.json", taken)
            files.write(manifest, files.json_document({"fingerprint": fingerprint}))
        try:
            found = files.parse(manifest.read_bytes())["fingerprint"]
        except (ValueError, KeyError, TypeError):
            found = None
        owner = f"another, {found[:12]}" if isinstance(found, str) else f"no fingerprint in {manifest}"
        expected = f"blocks of this kernel in {self.folder} (same network, parameters, examples, method, batch_size)"
        _check.require(found == fingerprint, "cache", expected, f"those of {owner}")

    def load(self, i: int, j: int, spec: jax.ShapeDtypeStruct) -> np.ndarray | None:
        """The block that begins in row i and column j, with the shape and dtype of `spec`; None if it is missing."""
        path = self._path(i, j)
        if not path.exists():
            return None
        try:
            content = path.read_bytes()
            digest = self._checksum(i, j)
            digest.update(memoryview(content)[: -digest.digest_size])
            if content[-digest.digest_size :] != digest.digest():
                raise ValueError("its checksum does not match")
            block = np.load(io.BytesIO(content), allow_pickle=False)
            if (block.shape, block.dtype) != (spec.shape, spec.dtype):
                raise ValueError(f"expected {spec.dtype}{list(spec.shape)}, got {block.dtype}{list(block.shape)}")
        except (ValueError, EOFError) as error:
            raise ValueError(f"cache: {path} is damaged ({error}); delete it and start again") from error
        return block

    def save(self, i: int, j: int, block: np.ndarray) -> None:
        """Writes a block atomically."""
        digest = self._checksum(i, j)
        with files.replacing(self._path(i, j)) as file:

            def checked(part: bytes) -> None:
                digest.update(part)
                file.write(part)

            np.save(files.Sink(checked), block)
            file.write(digest.digest())

    def _path(self, i: int, j: int) -> Path:
        return self.folder / f"block-{i}-{j}.npy"

    def _checksum(self, i: int, j: int) -> hashlib.blake2b:
        return hashlib.blake2b(f"{self._fingerprint} {i} {j}".encode(), digest_size=16)
