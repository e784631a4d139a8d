"""Readers: small files in the official formats, damaged ones, where they are looked for, and the real ones."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gsjax import data
from gsjax.data import images, sources


def idx(array):
    sizes = b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 8, 3, 1, 8], np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")
    return tmp_path


def write(folder, *, name="mnist", prefix="train", compress=True):
    (folder / name).mkdir(parents=True)
    for kind, array in (("images-idx3", PIXELS), ("labels-idx1", LABELS)):
        content = gzip.compress(idx(array)) if compress else idx(array)
        (folder / name / f"{prefix}-{kind}-ubyte{'.gz' if compress else ''}").write_bytes(content)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("place", [".", "cache/gsjax", "debian"])
def test_idx_files_wherever_they_are(folder, place, compress):
    write(folder / place, compress=compress)
    read = images.mnist()
    np.testing.assert_array_equal(read.pixels[..., 0], PIXELS)
    np.testing.assert_array_equal(read.labels, LABELS)


def test_what_is_missing_is_said(folder):
    write(folder)
    with pytest.raises(FileNotFoundError, match=r"mnist/t10k-images-idx3-ubyte.gz is in none of .*: fetch MNIST"):
        images.mnist("test")
    with pytest.raises(FileNotFoundError, match=r"fetch Fashion-MNIST .*dataset-fashion-mnist"):
        images.fashion_mnist()
    with pytest.raises(FileNotFoundError, match=r"fetch CIFAR-10 .*set GSJAX_DATA"):
        images.cifar10()
    with pytest.raises(ValueError, match=r"^split: expected 'train' or 'test', got 'dev'"):
        images.mnist("dev")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-7], "damaged"),
        (lambda content: content[:20], "damaged"),
        (lambda content: gzip.compress(idx(PIXELS)[:-1]), r"expected 3936 bytes, got 3935"),
        (lambda content: gzip.compress(idx(PIXELS)[:9]), r"bytes, got 9"),
        (lambda content: gzip.compress(b"\x00\x00\x0d" + idx(PIXELS)[3:]), "an idx file of unsigned bytes"),
        (lambda content: b"<html>not found</html>", "an idx file of unsigned bytes"),
        (lambda content: b"", "an idx file of unsigned bytes"),
    ],
)
def test_damaged_idx_files_are_named(folder, damage, message):
    write(folder)
    path = folder / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte.gz: .*{message}"):
        images.mnist()


def test_labels_of_other_images(folder):
    write(folder)
    (folder / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:4])))
    with pytest.raises(ValueError, match=r"train-labels.*a label for each of 5 images"):
        images.mnist()


def record(label, seed):
    return bytes([label]) + np.random.default_rng(seed).integers(0, 256, 3072, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("packed", [True, False])
def test_cifar(folder, packed):
    content = {f"data_batch_{i}.bin": record(3, 2 * i) + record(5, 2 * i + 1) for i in range(1, 6)}
    if packed:
        with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
            for name, value in content.items():
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(value)
                tar.addfile(member, io.BytesIO(value))
    else:
        (folder / "cifar-10-batches-bin").mkdir()
        for name, value in content.items():
            (folder / "cifar-10-batches-bin" / name).write_bytes(value)
    read = images.cifar10()
    assert read.pixels.shape == (10, 32, 32, 3)
    assert read.labels.tolist() == [3, 5] * 5
    # Planes of colour after one another in the file, rows within them.
    assert read.pixels[0, 4, 7, 2] == record(3, 2)[1 + 2 * 1024 + 4 * 32 + 7]


def test_damaged_cifar_files_are_named(folder):
    batches = folder / "cifar-10-batches-bin"
    batches.mkdir()
    (batches / "test_batch.bin").write_bytes(record(3, 0)[:-1])
    with pytest.raises(ValueError, match=r"test_batch.bin: expected records of 3073 bytes, got 3072 bytes"):
        images.cifar10("test")
    (batches / "test_batch.bin").write_bytes(record(10, 0))
    with pytest.raises(ValueError, match=r"test_batch.bin: expected labels from 0 to 9, got 10"):
        images.cifar10("test")
    batches.joinpath("test_batch.bin").unlink()
    batches.rmdir()
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8bnot an archive")
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz: damaged"):
        images.cifar10("test")


def test_two_classes_are_centred_and_scaled(x64):
    x, y = images.two_classes(images.Images(PIXELS[..., None], LABELS), (3, 8))
    assert y.tolist() == [-1, 1, -1, 1]
    assert x.shape == (4, 28, 28, 1)
    assert x.dtype == x64
    np.testing.assert_allclose((x**2).mean(axis=(1, 2, 3)), 1, rtol=1e-5)
    raw = PIXELS[[0, 1, 2, 4]] - PIXELS.mean(axis=0)
    np.testing.assert_allclose(x[0, ..., 0] * np.sqrt((raw[0] ** 2).mean()), raw[0], rtol=1e-5, atol=1e-4)
    for bad in ((3, 3), (3, 4)):
        with pytest.raises(ValueError, match=r"^classes: expected two different labels of \[1, 3, 8\]"):
            images.two_classes(images.Images(PIXELS[..., None], LABELS), bad)
    with pytest.raises(ValueError, match=r"^n: expected 1 to 4"):
        images.two_classes(images.Images(PIXELS[..., None], LABELS), (3, 8), n=5)


real = pytest.mark.skipif("GSJAX_DATA" not in os.environ, reason="needs GSJAX_DATA")


@real
def test_the_real_mnist():
    read = data.mnist("test")
    assert read.pixels.shape == (10_000, 28, 28, 1)
    assert np.bincount(read.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@real
def test_the_real_cifar():
    read = data.cifar10("test")
    assert read.pixels.shape[1:] == (32, 32, 3)
    assert (np.bincount(read.labels) >= 200).all()


@pytest.mark.skipif(not Path("/usr/share/datasets/fashion-mnist").exists(), reason="Debian's package is not installed")
def test_the_real_fashion_mnist():
    assert data.fashion_mnist("train").pixels.shape == (60_000, 28, 28, 1)
    assert np.bincount(data.fashion_mnist("test").labels).tolist() == [1000] * 10
