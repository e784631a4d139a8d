"""Readers of images in the official file formats, idx (MNIST and similar) and CIFAR's binary format."""

from __future__ import annotations

import io
import itertools
import math
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from gsjax import _check
from gsjax.data import _arguments, scaling, sources
from gsjax.data._reading import MOST, content
from gsjax.data.dataset import Dataset
from gsjax.data.sources import Origin

__all__ = ["Cifar", "Files", "Idx", "Images", "read_idx", "two_classes"]

_MEMBERS = 1000  # there are eight in CIFAR's archives
_PLANES = 3 * 32 * 32  # bytes of an image of CIFAR: red, green and blue, one after another


class Images(NamedTuple):
    """Images as stored in the file: `pixels (n, height, width, channels)` and `labels (n,)`."""

    pixels: UInt8[np.ndarray, "n height width channels"]
    labels: UInt8[np.ndarray, " n"]


class Files(Protocol):
    """The reader of the files of a data set, which returns `Images` or an `ImageFolder`."""

    @property
    def origin(self) -> Origin:
        """The origin of the files."""
        ...

    def read(self, split: str) -> Any:
        """The contents of a split."""
        ...

    def available(self, split: str) -> bool:
        """Whether the files of a split are present; nothing is downloaded."""
        ...


@dataclass(frozen=True)
class Idx:
    """Four gzipped idx files in `folder`, named like those of MNIST, with labels from 0 to `classes` - 1."""

    folder: str
    origin: Origin
    classes: int = 10

    def read(self, split: str) -> Images:
        """The images of a split.

        Raises:
            FileNotFoundError: its files are missing; the error says what to fetch and where to put it.
            ValueError: a damaged file, which the error names.
        """
        pixel_file, label_file = sources.find_together(self._names(split), origin=self.origin)
        pixels, labels = read_idx(pixel_file, axes=3), read_idx(label_file, axes=1)
        matching = labels.shape == pixels.shape[:1]
        _check.require(matching, str(label_file), f"a label for each of {len(pixels)} images", f"shape {labels.shape}")
        known = labels.max() < self.classes
        _check.require(known, str(label_file), f"labels from 0 to {self.classes - 1}", labels.max())
        return Images(pixels[..., None], labels)

    def available(self, split: str) -> bool:
        """Whether both files of a split are in one place; nothing is downloaded."""
        return sources.available(self._names(split))

    def _names(self, split: str) -> list[str]:
        prefix = {"train": "train", "test": "t10k"}[split]
        return [f"{self.folder}/{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]


@dataclass(frozen=True)
class Cifar:
    """CIFAR's binary format: an archive, the folder in it, and the names of its files (`members`) by split.

    A record has one byte per label and the colour planes of an image. `classes` is the number of classes of each label;
    the last label is the one returned. The unpacked folder can replace the archive. The checksum of the archive is
    compared; the files in the folder have none. The number of records is not checked, so subsets in this format can be
    read.
    """

    archive: str
    folder: str
    members: Mapping[str, Sequence[str]]
    origin: Origin
    classes: tuple[int, ...] = (10,)

    def read(self, split: str) -> Images:
        """The images of a split.

        Raises:
            FileNotFoundError: archive and folder are both missing, or a file is; the error says what to fetch and
                where to put it.
            ValueError: a damaged file, which the error names.
        """
        names = self._names(split)
        files = sources.find_together(names, [self.archive], origin=self.origin)
        unpacked = len(files) == len(names) and files[0].name == Path(names[0]).name
        contents = [(str(file), content(file)) for file in files] if unpacked else _members(files[0], names)
        labels = len(self.classes)
        size = labels + _PLANES
        records = []
        for name, bytes_ in contents:
            whole = len(bytes_) > 0 and len(bytes_) % size == 0
            _check.require(whole, name, f"records of {size} bytes", f"{len(bytes_)} bytes: damaged, fetch it again")
            records.append(np.frombuffer(bytes_, np.uint8).reshape(-1, size))
            for label, classes in enumerate(self.classes):
                last = records[-1][:, label].max()
                damaged = f"{last}: damaged, fetch it again"
                _check.require(last < classes, name, f"labels from 0 to {classes - 1}", damaged)
        table = np.concatenate(records)
        pixels = table[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Images(pixels, table[:, labels - 1])

    def available(self, split: str) -> bool:
        """Whether the archive, or all files of a split, are in one place; nothing is downloaded."""
        return sources.available(self._names(split), [self.archive])

    def _names(self, split: str) -> list[str]:
        return [f"{self.folder}/{member}" for member in self.members[split]]


def two_classes(
    images: Images, classes: tuple[int, int], *, n: int | None = None, key: Key[Array, ""] | None = None
) -> Dataset:
    """Two classes of `images`, centred by the mean image of all classes and scaled by `scaling.mean_image`.

    An image does not depend on the other selected examples.

    Args:
        images: images of all classes.
        classes: the labels that become -1 and +1, in this order.
        n: the number of examples; None takes all of the two classes.
        key: determines the examples and their order; None takes the first n in the order of the file.

    Returns:
        x `(n, height, width, channels)` and y `(n,)` of -1 and +1, in JAX's default float type.

    Raises:
        ValueError: images that are not `(n, height, width, channels)` with one label per image; classes that are equal
            or not among the labels; an n that is not a whole number from 1 to the number of examples.

    >>> images = Images(np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), np.array([7, 2, 7], np.uint8))
    >>> two_classes(images, (2, 7)).y.tolist()
    [1.0, -1.0, 1.0]
    """
    pixels, labels = map(np.asarray, _arguments.images("images", images))
    known = np.unique(labels).tolist()
    classes = _arguments.two_labels("classes", classes, known, f"two different labels of {known}")
    if key is not None:
        _arguments.key("key", key)
    rows = np.flatnonzero(np.isin(labels, classes))
    n = len(rows) if n is None else _check.whole("n", n)
    _check.require(1 <= n <= len(rows), "n", f"1 to {len(rows)}, the examples of classes {classes}", n)
    if key is not None:
        rows = rows[jax.random.permutation(key, len(rows))]
    rows = rows[:n]
    y = np.where(labels[rows] == classes[0], -1, 1)
    return Dataset(scaling.mean_image(pixels[rows], pixels), jnp.asarray(y, float))


def read_idx(path: Path, *, axes: int | None = None) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an idx file, gzipped or not; if `axes` is given, the file must have as many.

    Raises:
        ValueError: the file is damaged, is not an idx file of unsigned bytes with these axes, or has no entries or more
            than 2^30. The error names it.
        OSError: it cannot be opened.
    """
    path = Path(path)

    def require(condition: bool, expected: str, got: object) -> None:
        _check.require(condition, str(path), expected, f"{got}: damaged, fetch it again")

    def shape(start: bytes) -> tuple[int, ...]:
        magic = start[:3] == b"\x00\x00\x08" and len(start) > 3
        require(magic, "an idx file of unsigned bytes (0, 0, 8, axes)", f"'{start[:4].hex(' ')}'")
        count = start[3]
        known = 1 <= count <= 32 if axes is None else count == axes
        require(known, f"an array of {'1 to 32' if axes is None else axes} axes", count)
        header = 4 + 4 * count
        require(len(start) >= header, f"a header of {header} bytes", len(start))
        sizes = tuple(np.frombuffer(start[4:header], ">u4").tolist())
        require(1 <= math.prod(sizes) <= MOST, f"1 to {MOST} entries", f"an array of shape {sizes}")
        return sizes

    def size(start: bytes) -> int:
        sizes = shape(start)
        return 4 + 4 * len(sizes) + math.prod(sizes)

    whole = content(path, size)
    sizes, expected = shape(whole), size(whole)
    require(len(whole) == expected, f"{expected} bytes", len(whole))
    return np.frombuffer(whole, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def _members(archive: Path, names: Sequence[str]) -> list[tuple[str, memoryview]]:
    """Files of an archive with their names."""
    whole, found = content(archive), {}
    try:
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as tar:
            members = list(itertools.islice(tar, _MEMBERS))
            end = tar.offset
    except Exception as error:  # tarfile raises much more than its own errors
        raise ValueError(f"{archive}: damaged ({type(error).__name__}: {error}), fetch it again") from error
    _check.require(len(members) < _MEMBERS, str(archive), f"fewer than {_MEMBERS} members", "more: fetch it again")
    # tarfile stops at an invalid header as it does at the end of the archive, after which only zeros may follow.
    rest = whole[end:].strip(b"\0")
    _check.require(not rest, str(archive), "nothing after the last member", "more: damaged, fetch it again")
    for member in members:
        name = member.name.removeprefix("./")
        if name in names:
            label = f"{archive}:{name}"
            _check.require(name not in found, label, "one file of this name", "two")
            _check.require(member.isreg() and not member.issparse(), label, "a file", "a link, a folder or the like")
            start = member.offset_data
            found[name] = memoryview(whole)[start : start + member.size]
            _check.require(
                len(found[name]) == member.size, label, f"{member.size} bytes", f"{len(found[name])}: damaged"
            )
    missing = [name for name in names if name not in found]
    _check.require(not missing, str(archive), f"{len(names)} files in it", f"none called {', '.join(missing)}")
    return [(f"{archive}:{name}", found[name]) for name in names]
