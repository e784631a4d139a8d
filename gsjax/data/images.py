"""Readers of image data in the official file formats: idx (MNIST and its likes) and CIFAR's binary versions."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from gsjax import _check
from gsjax.data.dataset import Dataset
from gsjax.data.sources import find, locate

__all__ = ["Images", "available", "cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist", "read_idx", "two_classes"]

_PLANES = 3 * 32 * 32  # bytes of an image of CIFAR: red, green and blue, one after another


class Images(NamedTuple):
    """Images as they are in the file: `pixels (n, height, width, channels)` and `labels (n,)`."""

    pixels: UInt8[np.ndarray, "n height width channels"]
    labels: UInt8[np.ndarray, " n"]


class _Idx(NamedTuple):
    """A data set of four idx files: its folder, and what to fetch."""

    folder: str
    what: str


class _Cifar(NamedTuple):
    """A data set of CIFAR's: an archive, the folder in it, its files by split, and the labels of a record."""

    archive: str
    folder: str
    members: dict[str, list[str]]
    labels: int  # bytes before an image; the last one is the label that is read
    classes: int
    what: str


_SETS: dict[str, _Idx | _Cifar] = {
    "mnist": _Idx("mnist", "MNIST (four files *-ubyte.gz)"),
    "fashion_mnist": _Idx("fashion-mnist", "Fashion-MNIST (Debian's package dataset-fashion-mnist)"),
    "kmnist": _Idx("kmnist", "KMNIST (four files *-ubyte.gz)"),
    "cifar10": _Cifar(
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]},
        labels=1,
        classes=10,
        what="CIFAR-10 (cifar-10-binary.tar.gz)",
    ),
    "cifar100": _Cifar(
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        {"train": ["train.bin"], "test": ["test.bin"]},
        labels=2,
        classes=100,
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

    From `cifar-10-binary.tar.gz`, or the folder `cifar-10-batches-bin` that is in it. All whole records are read: of a
    subset in the same format there are as many as it has.

    Raises:
        FileNotFoundError: neither is anywhere; what to fetch, and where to put it.
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
        ValueError: an unknown name or split.

    >>> isinstance(available("mnist", "test"), bool)
    True
    """
    _check.require(name in _SETS, "name", f"one of {', '.join(_SETS)}", repr(name))
    _check.require(split in ("train", "test"), "split", "'train' or 'test'", repr(split))
    match _SETS[name]:
        case _Idx(folder):
            return all(map(locate, _idx_files(folder, split)))
        case _Cifar() as kind:
            return all(map(locate, _cifar_files(kind, split))) or locate(kind.archive) is not None


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
        ValueError: classes that are equal or not among the labels, n below 1 or above the number of examples there are.

    >>> images = Images(np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), np.array([7, 2, 7], np.uint8))
    >>> two_classes(images, (2, 7)).y.tolist()
    [1.0, -1.0, 1.0]
    """
    known = np.unique(images.labels).tolist()
    good = len(classes) == 2 and len(set(classes)) == 2 and set(classes) <= set(known)
    _check.require(good, "classes", f"two different labels of {known}", classes)
    rows = np.flatnonzero(np.isin(images.labels, classes))
    n = len(rows) if n is None else n
    _check.require(1 <= n <= len(rows), "n", f"1 to {len(rows)}, the examples of classes {classes}", n)
    if key is not None:
        rows = rows[jax.random.permutation(key, len(rows))]
    rows = rows[:n]
    centred = images.pixels[rows] - images.pixels.mean(axis=0)
    scale = np.sqrt((centred**2).mean(axis=(1, 2, 3), keepdims=True))
    x = centred / np.where(scale > 0, scale, 1)
    return Dataset(jnp.asarray(x, float), jnp.asarray(np.where(images.labels[rows] == classes[0], -1, 1), float))


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an idx file, gzipped or not.

    Raises:
        ValueError: a file that is damaged, or is no idx file of unsigned bytes; it is named.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged ({error}), fetch it again") from error
    magic = content[:3] == b"\x00\x00\x08" and len(content) > 3
    _check.require(magic, str(path), "an idx file of unsigned bytes (0, 0, 8, axes)", f"{content[:4].hex(' ')}")
    header = 4 + 4 * content[3]
    shape = np.frombuffer(content[4 : min(header, len(content) // 4 * 4)], ">u4").tolist()
    size = header + int(np.prod(shape))
    complete = len(shape) == content[3] and len(content) == size
    _check.require(complete, str(path), f"{size} bytes", f"{len(content)}: damaged, fetch it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read(name: str, split: str) -> Images:
    _check.require(split in ("train", "test"), "split", "'train' or 'test'", repr(split))
    match _SETS[name]:
        case _Idx() as kind:
            return _idx_images(kind, split)
        case _Cifar() as kind:
            return _cifar_images(kind, split)


def _idx_files(folder: str, split: str) -> list[str]:
    prefix = {"train": "train", "test": "t10k"}[split]
    return [f"{folder}/{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]


def _idx_images(kind: _Idx, split: str) -> Images:
    paths = [find(name, what=kind.what) for name in _idx_files(kind.folder, split)]
    pixels, labels = map(read_idx, paths)
    matching = pixels.ndim == 3 and labels.shape == pixels.shape[:1]
    _check.require(matching, str(paths[1]), f"a label for each of {len(pixels)} images", f"shape {labels.shape}")
    return Images(pixels[..., None], labels)


def _cifar_files(kind: _Cifar, split: str) -> list[str]:
    return [f"{kind.folder}/{member}" for member in kind.members[split]]


def _cifar_images(kind: _Cifar, split: str) -> Images:
    names = _cifar_files(kind, split)
    unpacked = [path for path in map(locate, names) if path]
    if len(unpacked) == len(names):
        contents = [(str(path), path.read_bytes()) for path in unpacked]
    else:
        contents = _members(find(kind.archive, what=kind.what), names)
    size = kind.labels + _PLANES
    records = []
    for name, content in contents:
        whole = content and len(content) % size == 0
        _check.require(whole, name, f"records of {size} bytes", f"{len(content)} bytes: damaged, fetch it again")
        records.append(np.frombuffer(content, np.uint8).reshape(-1, size))
        last = records[-1][:, kind.labels - 1].max()
        _check.require(last < kind.classes, name, f"labels from 0 to {kind.classes - 1}", last)
    table = np.concatenate(records)
    pixels = table[:, kind.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(pixels, table[:, kind.labels - 1])


def _members(archive: Path, names: list[str]) -> list[tuple[str, bytes]]:
    try:
        with tarfile.open(archive) as tar:
            files = [(name, tar.extractfile(name)) for name in names]
            return [(f"{archive}:{name}", file.read() if file else b"") for name, file in files]
    except (tarfile.TarError, EOFError, KeyError, OSError, zlib.error) as error:
        raise ValueError(f"{archive}: damaged ({error}), fetch it again") from error
