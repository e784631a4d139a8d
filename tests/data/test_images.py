"""Readers of images: small files in the official formats, damaged ones, search paths, and the real files."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gsjax import data
from gsjax.data import _reading, images, sources


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
def test_idx_files_are_found_in_every_folder_of_the_search_path(folder, place, compress):
    write(folder / place, compress=compress)
    read = data.mnist()
    np.testing.assert_array_equal(read.pixels[..., 0], PIXELS)
    np.testing.assert_array_equal(read.labels, LABELS)


def test_missing_files_are_named(folder):
    write(folder)
    with pytest.raises(FileNotFoundError, match=r"mnist/t10k-images-idx3-ubyte.gz is in none of .*: fetch MNIST"):
        data.mnist("test")
    with pytest.raises(FileNotFoundError, match=r"fetch Fashion-MNIST .*dataset-fashion-mnist"):
        data.fashion_mnist()
    with pytest.raises(
        FileNotFoundError, match=r"fetch KMNIST .* from https://codh\S+/train-images-idx3-ubyte.gz, put"
    ):
        data.kmnist()
    with pytest.raises(FileNotFoundError, match=r"fetch CIFAR-10 .*set GSJAX_DATA"):
        data.cifar10()
    with pytest.raises(FileNotFoundError, match=r"fetch CIFAR-100 .*cifar-100-binary.tar.gz, put"):
        data.cifar100()
    with pytest.raises(ValueError, match=r"^split: expected 'train' or 'test', got 'dev'"):
        data.mnist("dev")


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
        data.mnist()


def header(*sizes, axes=None):
    return bytes([0, 0, 8, len(sizes) if axes is None else axes]) + b"".join(size.to_bytes(4, "big") for size in sizes)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an idx file of unsigned bytes"),
        (header(1 << 31, 1 << 31), "an array of 3 axes, got 2"),
        (header(1 << 31, 1 << 31, 1 << 31), r"entries, got an array of shape \(2147483648, 2147483648, 2147483648\)"),
        (header(*[1] * 70) + b"x", "an array of 3 axes, got 70"),
        (header(1, axes=255), "an array of 3 axes, got 255"),
        (header() + b"x", "an array of 3 axes, got 0"),
        (header(5), "an array of 3 axes, got 1"),
        (header(0, 28, 28), r"1 to \d+ entries, got an array of shape \(0, 28, 28\)"),
        (header(5, 0, 1 << 31), r"1 to \d+ entries, got an array of shape \(5, 0, 2147483648\)"),
        (header(5, 28, axes=3), "a header of 16 bytes, got 12: damaged"),
        (header(5, 28, 28), "expected 3936 bytes, got 16: damaged"),
        (idx(PIXELS) + b"x", "expected at most 3936 bytes, got more: damaged"),
        (bytes([0, 0, 11]) + idx(PIXELS)[3:], "an idx file of unsigned bytes"),
        (b"PK\x03\x04", "an idx file of unsigned bytes"),
    ],
)
def test_bad_headers_are_named(folder, content, message, compress):
    write(folder)
    (folder / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte.gz: .*{message}"):
        data.mnist()


def test_arrays_with_any_number_of_axes_are_read(tmp_path):
    path = tmp_path / "array"
    for shape in ((3920,), (5, 784), (5, 28, 28), (5, 7, 4, 28)):
        path.write_bytes(idx(PIXELS.reshape(shape)))
        np.testing.assert_array_equal(images.read_idx(path), PIXELS.reshape(shape))
    for content in (header(), header(*[1] * 33) + b"x"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"array: expected an array of 1 to 32 axes"):
            images.read_idx(path)


def test_no_more_is_unpacked_than_the_header_promises(folder):
    write(folder)
    (folder / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PIXELS) + bytes(1 << 26)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="expected at most 3936 bytes, got more"):
            data.mnist()
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


def test_labels_out_of_range_are_named(folder):
    write(folder)
    (folder / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.array([3, 8, 10, 1, 8])))
    with pytest.raises(ValueError, match=r"train-labels\S+: expected labels from 0 to 9, got 10"):
        data.mnist()


def test_images_and_labels_come_from_one_folder(folder):
    write(folder)
    write(folder / "debian")
    for place, name in ((folder, "train-labels-idx1-ubyte"), (folder / "debian", "train-images-idx3-ubyte")):
        (place / "mnist" / f"{name}.gz").unlink()
    assert not data.available("mnist")
    with pytest.raises(FileNotFoundError, match=r"mnist/train-labels\S+ is not there, though \S+/train-images"):
        data.mnist()


@settings(max_examples=400)
@given(place=st.integers(0, 10**6 - 1), labels=st.booleans())
def test_a_flipped_bit_of_an_idx_file_is_noticed_or_harmless(tmp_path_factory, place, labels):
    folder = tmp_path_factory.getbasetemp()
    array = LABELS if labels else PIXELS[:2, :6, :6]
    path = folder / "flipped-idx"
    path.write_bytes(flipped(gzip.compress(idx(array), mtime=0), place))
    try:
        read = images.read_idx(path)
    except ValueError as error:
        assert type(error) is ValueError  # noqa: PT017  not a subclass such as UnicodeDecodeError
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
    else:
        np.testing.assert_array_equal(read, array)


def test_labels_for_another_number_of_images(folder):
    write(folder)
    (folder / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:4])))
    with pytest.raises(ValueError, match=r"train-labels.*a label for each of 5 images"):
        data.mnist()


def test_kmnist_is_read_like_mnist(folder):
    write(folder, name="kmnist", prefix="t10k")
    np.testing.assert_array_equal(data.kmnist("test").pixels[..., 0], PIXELS)


def record(label, seed):
    return bytes([label]) + np.random.default_rng(seed).integers(0, 256, 3072, dtype=np.uint8).tobytes()


def pack(archive, contents):
    with tarfile.open(archive, "w:gz") as tar:
        for name, value in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))


BATCHES = {f"cifar-10-batches-bin/data_batch_{i}.bin": record(3, 2 * i) + record(5, 2 * i + 1) for i in range(1, 6)}
SECOND = "cifar-10-batches-bin/data_batch_2.bin"


def flipped(content, place):
    """The content with one bit flipped; `place` is its position in millionths."""
    position = place * 8 * len(content) // 10**6
    changed = bytearray(content)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


@pytest.mark.parametrize("packed", [True, False])
def test_cifar(folder, packed):
    content = {f"data_batch_{i}.bin": record(3, 2 * i) + record(5, 2 * i + 1) for i in range(1, 6)}
    if packed:
        pack(
            folder / "cifar-10-binary.tar.gz",
            {f"cifar-10-batches-bin/{name}": batch for name, batch in content.items()},
        )
    else:
        (folder / "cifar-10-batches-bin").mkdir()
        for name, value in content.items():
            (folder / "cifar-10-batches-bin" / name).write_bytes(value)
    read = data.cifar10()
    assert read.pixels.shape == (10, 32, 32, 3)
    assert read.labels.tolist() == [3, 5] * 5
    # In the file, one plane per colour; rows within a plane.
    assert read.pixels[0, 4, 7, 2] == record(3, 2)[1 + 2 * 1024 + 4 * 32 + 7]


@pytest.mark.parametrize("packed", [True, False])
def test_cifar100_has_a_coarse_label_before_the_fine_one(folder, packed):
    content = bytes([4]) + record(99, 0) + bytes([19]) + record(0, 1)
    if packed:
        pack(folder / "cifar-100-binary.tar.gz", {"cifar-100-binary/train.bin": content})
    else:
        (folder / "cifar-100-binary").mkdir()
        (folder / "cifar-100-binary" / "train.bin").write_bytes(content)
    read = data.cifar100()
    assert read.labels.tolist() == [99, 0]
    assert read.pixels[1, 31, 0, 1] == record(0, 1)[1 + 1024 + 31 * 32]
    if not packed:
        (folder / "cifar-100-binary" / "test.bin").write_bytes(content + b"0")
        with pytest.raises(ValueError, match=r"test.bin: expected records of 3074 bytes, got 6149 bytes"):
            data.cifar100("test")
        for coarse, fine, message in ((4, 100, "0 to 99, got 100"), (20, 4, "0 to 19, got 20")):
            (folder / "cifar-100-binary" / "test.bin").write_bytes(bytes([coarse]) + record(fine, 0))
            with pytest.raises(ValueError, match=rf"test.bin: expected labels from {message}"):
                data.cifar100("test")


def test_available_splits(folder):
    names = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")
    assert not any(data.available(name, split) for name in names for split in ("train", "test"))
    write(folder)
    assert (data.available("mnist"), data.available("mnist", "test")) == (True, False)
    (folder / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    assert not data.available("mnist")
    (folder / "cifar-10-batches-bin").mkdir()
    (folder / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(record(3, 0))
    assert (data.available("cifar10"), data.available("cifar10", "test")) == (False, True)
    pack(folder / "cifar-10-binary.tar.gz", {})
    assert data.available("cifar10")
    for arguments, name in ((("svhn",), "name"), (("mnist", "dev"), "split")):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            data.available(*arguments)


def test_damaged_cifar_files_are_named(folder):
    batches = folder / "cifar-10-batches-bin"
    batches.mkdir()
    (batches / "test_batch.bin").write_bytes(record(3, 0)[:-1])
    with pytest.raises(ValueError, match=r"test_batch.bin: expected records of 3073 bytes, got 3072 bytes"):
        data.cifar10("test")
    (batches / "test_batch.bin").write_bytes(record(10, 0))
    with pytest.raises(ValueError, match=r"test_batch.bin: expected labels from 0 to 9, got 10"):
        data.cifar10("test")
    batches.joinpath("test_batch.bin").unlink()
    batches.rmdir()
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8bnot an archive")
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz: damaged"):
        data.cifar10("test")


def check_cifar(read):
    assert read.labels.tolist() == [3, 5] * 5
    pixels = b"".join(content[start : start + 3072] for content in BATCHES.values() for start in (1, 3074))
    np.testing.assert_array_equal(read.pixels.transpose(0, 3, 1, 2).ravel(), np.frombuffer(pixels, np.uint8))


@settings(max_examples=300)
@given(place=st.integers(0, 10**6 - 1))
@example(place=10**6 - 1)
def test_a_flipped_bit_of_an_archive_is_noticed_or_harmless(tmp_path_factory, place):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    folder.mkdir(exist_ok=True)
    pack(folder / "whole", BATCHES)
    archive = folder / "cifar-10-binary.tar.gz"
    archive.write_bytes(flipped((folder / "whole").read_bytes(), place))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GSJAX_DATA", str(folder))
        try:
            read = data.cifar10()
        except ValueError as error:
            assert type(error) is ValueError  # noqa: PT017
            assert str(archive) in str(error)  # noqa: PT017
        else:
            check_cifar(read)


def test_a_flipped_bit_of_each_member(folder):
    """The checksum is at the end of the stream, after everything that is read."""
    archive = folder / "cifar-10-binary.tar.gz"
    archive.write_bytes(gzip.compress(packed_tar(folder), compresslevel=0))
    whole = archive.read_bytes()
    check_cifar(data.cifar10())
    for content in BATCHES.values():
        position = whole.index(content[3000:3020])
        archive.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz: damaged \(CRC check failed"):
            data.cifar10()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(("prefix", "suffix"), [("", ".gz"), ("./", ".gz"), ("", "")])
def test_archives_of_any_format(folder, form, prefix, suffix):
    mode = "w:gz" if suffix else "w"
    with tarfile.open(folder / f"cifar-10-binary.tar{suffix}", mode, format=form) as tar:
        for name, value in [("loop", None), *reversed(BATCHES.items()), ("readme.html", b"x")]:
            member = tarfile.TarInfo(f"{prefix}{name}")
            member.mtime = 1.5
            member.size = len(value or b"")
            if value is None:
                member.type, member.linkname = tarfile.SYMTYPE, "loop"
            tar.addfile(member, io.BytesIO(value or b""))
    check_cifar(data.cifar10())


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, SECOND),
        (tarfile.SYMTYPE, "data_batch_2.bin"),
        (tarfile.SYMTYPE, "data_batch_1.bin"),
        (tarfile.LNKTYPE, "cifar-10-batches-bin/data_batch_1.bin"),
        (tarfile.DIRTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_members_that_are_not_files_are_named(folder, kind, link):
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name, value in BATCHES.items():
            member = tarfile.TarInfo(name)
            if name == SECOND:
                member.type, member.linkname = kind, link
            else:
                member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    with pytest.raises(ValueError, match=rf"tar.gz:{SECOND}: expected a file, got a link, a folder"):
        data.cifar10()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected records of 3073 bytes, got 0 bytes"),
        (record(3, 0)[:-1], "expected records of 3073 bytes, got 3072 bytes"),
        (record(3, 0) + b"x", "expected records of 3073 bytes, got 3074 bytes"),
        (record(3, 0) + record(10, 1), "expected labels from 0 to 9, got 10"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_batches_are_named(folder, packed, content, message):
    if packed:
        pack(folder / "cifar-10-binary.tar.gz", {**BATCHES, SECOND: content})
    else:
        unpack(folder, {**BATCHES, SECOND: content})
    with pytest.raises(ValueError, match=rf"{SECOND}: {message}"):
        data.cifar10()


def unpack(folder, contents):
    for name, value in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(value)


@pytest.mark.parametrize("missing", BATCHES)
def test_a_missing_batch_is_named(folder, missing):
    some = {name: value for name, value in BATCHES.items() if name != missing}
    unpack(folder, some)
    assert not data.available("cifar10")
    with pytest.raises(
        FileNotFoundError, match=rf"{missing} is not there, though \S+data_batch_\d.bin is: fetch CIFAR"
    ):
        data.cifar10()
    # It is not taken from another folder.
    unpack(folder / "debian", {missing: BATCHES[missing]})
    with pytest.raises(FileNotFoundError, match=f"{missing} is not there"):
        data.cifar10()
    # A complete archive beside the folder is read instead.
    pack(folder / "cifar-10-binary.tar.gz", BATCHES)
    check_cifar(data.cifar10())
    (folder / some.popitem()[0]).parent.rename(folder / "elsewhere")
    pack(folder / "cifar-10-binary.tar.gz", {name: BATCHES[name] for name in BATCHES if name != missing})
    with pytest.raises(ValueError, match=rf"tar.gz: expected 5 files in it, got none called {missing}"):
        data.cifar10()


def test_two_members_of_the_same_name(folder):
    archive = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, value in [*BATCHES.items(), (f"./{SECOND}", record(1, 1))]:
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    with pytest.raises(ValueError, match=rf"tar.gz:{SECOND}: expected one file of this name, got two"):
        data.cifar10()


def packed_tar(folder):
    pack(folder / "whole", BATCHES)
    return gzip.decompress((folder / "whole").read_bytes())


def member(size=0, kind=tarfile.REGTYPE):
    entry = tarfile.TarInfo("another")
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda tar: b"", id="nothing"),
        pytest.param(lambda tar: b"<html>", id="html"),
        pytest.param(lambda tar: bytes(10240), id="no member"),
        pytest.param(lambda tar: tar[:9000], id="cut in a member"),
        pytest.param(lambda tar: tar.replace(b"_batch_2", b"_batch_7"), id="checksum of a header"),
        pytest.param(lambda tar: tar + b"more", id="more behind the end"),
        pytest.param(lambda tar: member(-1024) + tar, id="a size below zero"),
        pytest.param(lambda tar: member(1 << 60) + tar, id="a size beyond the file"),
        pytest.param(lambda tar: member(0, tarfile.XHDTYPE) * 3000 + tar, id="headers of headers"),
        pytest.param(lambda tar: member() * 5000 + tar, id="thousands of members"),
    ],
)
def test_damaged_archives_are_named(folder, damage):
    (folder / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(damage(packed_tar(folder)), compresslevel=1))
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz"):
        data.cifar10()


def test_no_more_of_an_archive_is_unpacked_than_its_limit(folder, monkeypatch):
    monkeypatch.setattr(_reading, "MOST", 1 << 20)
    archive = folder / "cifar-10-binary.tar.gz"
    archive.write_bytes(gzip.compress(packed_tar(folder) + bytes(1 << 26)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"tar.gz: expected at most 1048576 bytes, got more"):
            data.cifar10()
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


def test_a_folder_in_place_of_a_file_is_named(folder):
    unpack(folder, BATCHES)
    (folder / SECOND).unlink()
    (folder / SECOND).mkdir()
    with pytest.raises(ValueError, match=rf"{SECOND}: expected a file, got a folder"):
        data.cifar10()


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
