"""Readers: small files in the official formats, damaged ones, where they are looked for, and the real ones."""

from __future__ import annotations

import gzip
import io
import os
import tarfile

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
    monkeypatch.setenv("GSJAX_OFFLINE", "1")
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
    with pytest.raises(
        FileNotFoundError, match=r"fetch KMNIST .* from https://codh\S+/train-images-idx3-ubyte.gz, put"
    ):
        images.kmnist()
    with pytest.raises(FileNotFoundError, match=r"fetch CIFAR-10 .*set GSJAX_DATA"):
        images.cifar10()
    with pytest.raises(FileNotFoundError, match=r"fetch CIFAR-100 .*cifar-100-binary.tar.gz, put"):
        images.cifar100()
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


def test_kmnist_is_read_like_mnist(folder):
    write(folder, name="kmnist", prefix="t10k")
    np.testing.assert_array_equal(images.kmnist("test").pixels[..., 0], PIXELS)


def record(label, seed):
    return bytes([label]) + np.random.default_rng(seed).integers(0, 256, 3072, dtype=np.uint8).tobytes()


def pack(archive, contents):
    with tarfile.open(archive, "w:gz") as tar:
        for name, value in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))


@pytest.mark.parametrize("packed", [True, False])
def test_cifar(folder, packed):
    content = {f"data_batch_{i}.bin": record(3, 2 * i) + record(5, 2 * i + 1) for i in range(1, 6)}
    if packed:
        pack(folder / "cifar-10-binary.tar.gz", {f"cifar-10-batches-bin/{name}": of for name, of in content.items()})
    else:
        (folder / "cifar-10-batches-bin").mkdir()
        for name, value in content.items():
            (folder / "cifar-10-batches-bin" / name).write_bytes(value)
    read = images.cifar10()
    assert read.pixels.shape == (10, 32, 32, 3)
    assert read.labels.tolist() == [3, 5] * 5
    # Planes of colour after one another in the file, rows within them.
    assert read.pixels[0, 4, 7, 2] == record(3, 2)[1 + 2 * 1024 + 4 * 32 + 7]


@pytest.mark.parametrize("packed", [True, False])
def test_cifar100_has_a_coarse_label_before_the_fine_one(folder, packed):
    content = bytes([4]) + record(99, 0) + bytes([19]) + record(0, 1)
    if packed:
        pack(folder / "cifar-100-binary.tar.gz", {"cifar-100-binary/train.bin": content})
    else:
        (folder / "cifar-100-binary").mkdir()
        (folder / "cifar-100-binary" / "train.bin").write_bytes(content)
    read = images.cifar100()
    assert read.labels.tolist() == [99, 0]
    assert read.pixels[1, 31, 0, 1] == record(0, 1)[1 + 1024 + 31 * 32]
    if not packed:
        (folder / "cifar-100-binary" / "test.bin").write_bytes(content + b"0")
        with pytest.raises(ValueError, match=r"test.bin: expected records of 3074 bytes, got 6149 bytes"):
            images.cifar100("test")
        (folder / "cifar-100-binary" / "test.bin").write_bytes(bytes([4]) + record(100, 0))
        with pytest.raises(ValueError, match=r"test.bin: expected labels from 0 to 99, got 100"):
            images.cifar100("test")


def test_what_is_available(folder):
    names = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")
    assert not any(images.available(name, split) for name in names for split in ("train", "test"))
    write(folder)
    assert (images.available("mnist"), images.available("mnist", "test")) == (True, False)
    (folder / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    assert not images.available("mnist")
    (folder / "cifar-10-batches-bin").mkdir()
    (folder / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(record(3, 0))
    assert (images.available("cifar10"), images.available("cifar10", "test")) == (False, True)
    pack(folder / "cifar-10-binary.tar.gz", {})
    assert images.available("cifar10")
    for arguments, name in ((("svhn",), "name"), (("mnist", "dev"), "split")):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            images.available(*arguments)


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


@pytest.mark.skipif(
    "GSJAX_DATA" not in os.environ and not data.available("fashion_mnist"),
    reason="needs GSJAX_DATA or Debian's package",
)
def test_the_real_fashion_mnist():
    assert data.fashion_mnist("train").pixels.shape == (60_000, 28, 28, 1)
    assert np.bincount(data.fashion_mnist("test").labels).tolist() == [1000] * 10
