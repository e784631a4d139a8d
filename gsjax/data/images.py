"""Readers of image data in the official file formats: idx (MNIST and its likes) and CIFAR's binary versions."""

from __future__ import annotations

import io
import itertools
import math
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from gsjax import _check
from gsjax.data import _arguments, sources
from gsjax.data._reading import MOST, content
from gsjax.data.dataset import Dataset

__all__ = ["Images", "available", "cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist", "read_idx", "two_classes"]

_SPLITS = ("train", "test")
_MEMBERS = 1000  # there are eight in CIFAR's archives
_PLANES = 3 * 32 * 32  # bytes of an image of CIFAR: red, green and blue, one after another


class Images(NamedTuple):
    """Images as they are in the file: `pixels (n, height, width, channels)` and `labels (n,)`."""

    pixels: UInt8[np.ndarray, "n height width channels"]
    labels: UInt8[np.ndarray, " n"]


class _Idx(NamedTuple):
    """A data set of four idx files, in ten classes: its folder, and what to fetch."""

    folder: str
    what: str


class _Cifar(NamedTuple):
    """A data set of CIFAR's: an archive, the folder in it, its files by split, and the labels of a record."""

    archive: str
    folder: str
    members: dict[str, list[str]]
    classes: tuple[int, ...]  # of each of the labels, the bytes before an image; the last one is read
    what: str


_SETS: dict[str, _Idx | _Cifar] = {
    "mnist": _Idx("mnist", "MNIST (four files *-ubyte.gz)"),
    "fashion_mnist": _Idx("fashion-mnist", "Fashion-MNIST (Debian's package dataset-fashion-mnist)"),
    "kmnist": _Idx("kmnist", "KMNIST (four files *-ubyte.gz)"),
    "cifar10": _Cifar(
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]},
        classes=(10,),
        what="CIFAR-10 (cifar-10-binary.tar.gz)",
    ),
    "cifar100": _Cifar(
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        {"train": ["train.bin"], "test": ["test.bin"]},
        classes=(20, 100),
        what="CIFAR-100 (cifar-100-binary.tar.gz)",
    ),
}


def mnist(split: str = "train") -> Images:
    """MNIST's handwritten digits (LeCun et al. 1998), 28 x 28: 60,000 to train on and 10,000 to test on.

    Raises:
        FileNotFoundError: the files of this split are nowhere; what to fetch, and where to put it.
        ValueError: an unknown split; a damaged file, which is named.
    """
    return _read("mnist", split)


def fashion_mnist(split: str = "train") -> Images:
    """Fashion-MNIST's articles of clothing (Xiao et al. 2017), in the numbers and format of MNIST.

    Raises:
        FileNotFoundError: the files of this split are nowhere; what to fetch, and where to put it.
        ValueError: an unknown split; a damaged file, which is named.
    """
    return _read("fashion_mnist", split)


def kmnist(split: str = "train") -> Images:
    """KMNIST's handwritten Japanese characters (Clanuwat et al. 2018), in the numbers and format of MNIST.

    Raises:
        FileNotFoundError: the files of this split are nowhere; what to fetch, and where to put it.
        ValueError: an unknown split; a damaged file, which is named.
    """
    return _read("kmnist", split)


def cifar10(split: str = "train") -> Images:
    """CIFAR-10's coloured photographs (Krizhevsky 2009), 32 x 32: 50,000 to train on and 10,000 to test on.

    From `cifar-10-binary.tar.gz`, or the folder `cifar-10-batches-bin` that is in it; all five batches are to be there.
    Of a subset in the same format there are as many records as it has. The archive has a checksum, which is compared;
    the files in the folder have none.

    Raises:
        FileNotFoundError: neither is anywhere, or a batch is missing; what to fetch, and where to put it.
        ValueError: an unknown split; a damaged file, which is named.
    """
    return _read("cifar10", split)


def cifar100(split: str = "train") -> Images:
    """CIFAR-100's coloured photographs (Krizhevsky 2009), in the numbers of CIFAR-10, with their 100 fine labels.

    From `cifar-100-binary.tar.gz`, or the folder `cifar-100-binary` that is in it.

    Raises:
        FileNotFoundError: neither is anywhere; what to fetch, and where to put it.
        ValueError: an unknown split; a damaged file, which is named.
    """
    return _read("cifar100", split)


def available(name: str, split: str = "train") -> bool:
    """Whether the files of a set (mnist, fashion_mnist, kmnist, cifar10, cifar100) are there; nothing is downloaded.

    Raises:
        ValueError: an unknown name or split; GSJAX_DATA names no folder that can be read.

    >>> isinstance(available("mnist", "test"), bool)
    True
    """
    _arguments.choice("name", name, tuple(_SETS))
    _split(split)
    match _SETS[name]:
        case _Idx(folder):
            return sources.available(_idx_files(folder, split))
        case _Cifar() as kind:
            return sources.available(_cifar_files(kind, split), [kind.archive])


def two_classes(
    images: Images, classes: tuple[int, int], *, n: int | None = None, key: Key[Array, ""] | None = None
) -> Dataset:
    """Two classes of `images`, centred and scaled as `digits` are.

    From every image the mean image of all classes is taken away, and what remains is scaled to unit mean square, so
    that |h^(0)| = 1 in Eq. 1 (of an image that is the mean image, nothing remains).

    Args:
        images: of all classes.
        classes: the labels that become -1 and +1, in this order.
        n: how many examples; all of the two classes if None.
        key: draws the examples and their order; the first n in the order of the file if None.

    Returns:
        x `(n, height, width, channels)` and y `(n,)` of -1 and +1, in JAX's default float type.

    Raises:
        ValueError: images that are not `(n, height, width, channels)` with a label each, classes that are equal or not
            among the labels, n that is no whole number, is below 1 or above the number of examples there are.

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
    centred = pixels[rows] - pixels.mean(axis=0)
    scale = np.sqrt((centred**2).mean(axis=(1, 2, 3), keepdims=True))
    x = centred / np.where(scale > 0, scale, 1)
    return Dataset(jnp.asarray(x, float), jnp.asarray(np.where(labels[rows] == classes[0], -1, 1), float))


def read_idx(path: Path, *, axes: int | None = None) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an idx file, gzipped or not, with so many `axes` if given.

    Raises:
        ValueError: a file that is damaged, or is no idx file of unsigned bytes with these axes, has no entries or more
            than 2^30; it is named.
        OSError: it cannot be opened.
    """
    path = Path(path)

    def require(condition: bool, expected: str, got: object) -> None:
        _check.require(condition, str(path), expected, f"{got}: damaged, fetch it again")

    def shape(start: bytes) -> tuple[int, ...]:
        magic = start[:3] == b"\x00\x00\x08" and len(start) > 3
        require(magic, "an idx file of unsigned bytes (0, 0, 8, axes)", f"'{start[:4].hex(' ')}'")
        known = 1 <= start[3] <= 32 if axes is None else start[3] == axes
        require(known, f"an array of {'1 to 32' if axes is None else axes} axes", start[3])
        header = 4 + 4 * start[3]
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


def _split(split: str) -> None:
    _check.require(isinstance(split, str) and split in _SPLITS, "split", "'train' or 'test'", _arguments.shown(split))


def _read(name: str, split: str) -> Images:
    _split(split)
    match _SETS[name]:
        case _Idx() as kind:
            return _idx_images(kind, split)
        case _Cifar() as kind:
            return _cifar_images(kind, split)


def _idx_files(folder: str, split: str) -> list[str]:
    prefix = {"train": "train", "test": "t10k"}[split]
    return [f"{folder}/{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]


def _idx_images(kind: _Idx, split: str) -> Images:
    pixel_file, label_file = sources.find_together(_idx_files(kind.folder, split), what=kind.what)
    pixels, labels = read_idx(pixel_file, axes=3), read_idx(label_file, axes=1)
    matching = labels.shape == pixels.shape[:1]
    _check.require(matching, str(label_file), f"a label for each of {len(pixels)} images", f"shape {labels.shape}")
    _check.require(labels.max() < 10, str(label_file), "labels from 0 to 9", labels.max())
    return Images(pixels[..., None], labels)


def _cifar_files(kind: _Cifar, split: str) -> list[str]:
    return [f"{kind.folder}/{member}" for member in kind.members[split]]


def _cifar_images(kind: _Cifar, split: str) -> Images:
    names = _cifar_files(kind, split)
    files = sources.find_together(names, [kind.archive], what=kind.what)
    unpacked = len(files) == len(names) and files[0].name == Path(names[0]).name
    contents = [(str(file), content(file)) for file in files] if unpacked else _members(files[0], names)
    labels = len(kind.classes)
    size = labels + _PLANES
    records = []
    for name, of in contents:
        whole = len(of) > 0 and len(of) % size == 0
        _check.require(whole, name, f"records of {size} bytes", f"{len(of)} bytes: damaged, fetch it again")
        records.append(np.frombuffer(of, np.uint8).reshape(-1, size))
        for label, classes in enumerate(kind.classes):
            last = records[-1][:, label].max()
            _check.require(last < classes, name, f"labels from 0 to {classes - 1}", f"{last}: damaged, fetch it again")
    table = np.concatenate(records)
    pixels = table[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(pixels, table[:, labels - 1])


def _members(archive: Path, names: Sequence[str]) -> list[tuple[str, memoryview]]:
    """Files of an archive, each of them with its name."""
    whole, found = content(archive), {}
    try:
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as tar:
            members = list(itertools.islice(tar, _MEMBERS))
            end = tar.offset
    except Exception as error:  # tarfile raises much more than its own errors
        raise ValueError(f"{archive}: damaged ({type(error).__name__}: {error}), fetch it again") from error
    _check.require(len(members) < _MEMBERS, str(archive), f"fewer than {_MEMBERS} members", "more: fetch it again")
    # A header that is none ends the list as the end of the archive does, which is zeros.
    rest = whole[end:].strip(b"\0")
    _check.require(not rest, str(archive), "nothing after the last member", "more: damaged, fetch it again")
    for member in members:
        name = member.name.removeprefix("./")
        if name in names:
            where = f"{archive}:{name}"
            _check.require(name not in found, where, "one file of this name", "two")
            _check.require(member.isreg() and not member.issparse(), where, "a file", "a link, a folder or the like")
            start = member.offset_data
            found[name] = memoryview(whole)[start : start + member.size]
            _check.require(
                len(found[name]) == member.size, where, f"{member.size} bytes", f"{len(found[name])}: damaged"
            )
    missing = [name for name in names if name not in found]
    _check.require(not missing, str(archive), f"{len(names)} files in it", f"none called {', '.join(missing)}")
    return [(f"{archive}:{name}", found[name]) for name in names]
