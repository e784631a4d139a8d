"""Downloads without a network: what is requested, and the messages when it fails."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pooch
import pytest
import requests

from gsjax import data
from gsjax.data import sources

MNIST = data.get("mnist").origin


def original(content):
    """The origin of MNIST, with the checksum of this content for every file."""
    return MNIST._replace(checksums=dict.fromkeys(MNIST.checksums, hashlib.md5(content).hexdigest()))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GSJAX_OFFLINE", raising=False)
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    logging.getLogger("pooch").setLevel(logging.ERROR)
    return tmp_path / "gsjax"


class Response:
    """The part of a response of `requests.get` that pooch uses."""

    def __init__(self, content):
        self.content, self.headers = content, {}

    def raise_for_status(self):
        pass

    def iter_content(self, chunk_size) -> Any:
        return [self.content]


def serve(monkeypatch, content):
    """Answers every request with `content`; gives the list of requests."""
    asked = []

    def get(url, timeout, **options):
        asked.append((url, timeout))
        return Response(content)

    monkeypatch.setattr(requests, "get", get)
    return asked


@pytest.mark.parametrize(
    ("data_set", "name", "url", "md5"),
    [
        (
            "mnist",
            "mnist/t10k-labels-idx1-ubyte.gz",
            "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        (
            "fashion_mnist",
            "fashion-mnist/train-images-idx3-ubyte.gz",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        ),
        (
            "kmnist",
            "kmnist/train-labels-idx1-ubyte.gz",
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/train-labels-idx1-ubyte.gz",
            "e144d726b3acfaa3e44228e80efcd344",
        ),
        (
            "cifar100",
            "cifar-100-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
    ],
)
def test_the_original_is_requested_with_its_checksum(cache, monkeypatch, data_set, name, url, md5):
    asked = {}

    def retrieve(url, known_hash, **options):
        asked.update(options, url=url, known_hash=known_hash)
        return str(options["path"] / options["fname"])

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert sources.find(name, data.get(data_set).origin) == cache / name
    assert (asked["url"], asked["known_hash"]) == (url, f"md5:{md5}")
    assert asked["path"] / asked["fname"] == cache / name


def test_every_checksum_is_an_md5_with_an_address():
    origins = [entry.origin for entry in map(data.get, data.NAMES) if entry.files]
    for origin in origins:
        assert bool(origin.checksums) == origin.address.startswith(("http://", "https://"))
        assert all(len(bytes.fromhex(md5)) == 16 for md5 in origin.checksums.values())
    assert len({md5 for origin in origins for md5 in origin.checksums.values()}) == 14


def test_a_downloaded_file_is_kept_and_not_requested_again(cache, monkeypatch):
    content, name = b"the original", "mnist/train-images-idx3-ubyte.gz"
    origin = original(content)
    asked = serve(monkeypatch, content)
    for _ in range(2):
        assert sources.find(name, origin).read_bytes() == content
    [(url, timeout)] = asked
    assert url.endswith("/mnist/train-images-idx3-ubyte.gz")
    assert max(timeout) <= 30
    assert sources.locate(name) == cache / name


def test_a_file_with_another_checksum_is_not_kept(cache, monkeypatch):
    serve(monkeypatch, b"<html>a login page</html>")
    with pytest.raises(ValueError, match=r"mnist/train-images\S+: expected the original with MD5 f68b\w+, got another"):
        data.mnist()
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_without_a_network_the_message_says_what_to_fetch_and_where_to_put_it(cache, monkeypatch):
    def get(url, **options):
        raise requests.exceptions.ConnectionError("no route to host")

    monkeypatch.setattr(requests, "get", get)
    message = r"fetch MNIST .* from https://\S+, put it there, or set GSJAX_DATA .*failed: no route to host\)"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        data.mnist()
    assert str(cache) in str(caught.value)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_nothing_is_downloaded_without_a_checksum_or_offline(cache, monkeypatch):
    asked = serve(monkeypatch, b"")
    with pytest.raises(FileNotFoundError, match="fetch CelebA"):
        sources.find("celeba/list_attr_celeba.txt", data.get("celeba").origin)
    assert not data.available("mnist")
    monkeypatch.setenv("GSJAX_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"fetch CIFAR-10 .* to its folder$"):
        data.cifar10()
    assert asked == []


NAME = "mnist/train-images-idx3-ubyte.gz"
ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz"


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "://",
        "a proxy",
        "http://[::1",
        "http://proxy:port",
        "http://proxy:99999",
        "ftp://proxy",
        "http://a..b",
    ],
)
def test_a_malformed_proxy_address_is_not_reported_as_a_wrong_checksum(cache, monkeypatch, variable, address):
    """The message is that of the real `requests`, before any connection."""
    monkeypatch.setenv(variable, address)
    with pytest.raises(FileNotFoundError) as caught:
        sources.find(NAME, MNIST)
    message = str(caught.value)
    assert f"(downloading it to {cache / NAME} through the proxy that {variable} names failed: " in message
    assert ADDRESS in message
    assert "MD5" not in message
    assert files(cache) == []


def test_a_proxy_for_other_addresses_is_not_named(cache, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://user:password@proxy")
    monkeypatch.setattr(requests, "get", lambda url, **options: pytest.fail("asked"))
    assert sources._proxy(ADDRESS) == ""
    assert sources._proxy("http://somewhere") == " through the proxy that HTTP_PROXY names"


class Broken(Response):
    """A response that breaks off, or has an error status."""

    def __init__(self, error, *, status=None):
        super().__init__(b"the begin")
        self.error, self.status = error, status

    def raise_for_status(self):
        if self.status:
            raise self.error

    def iter_content(self, chunk_size):
        return self.pieces()

    def pieces(self) -> Any:
        yield self.content
        raise self.error


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Broken(requests.exceptions.ChunkedEncodingError("Connection broken")), "failed: Connection broken"),
        (Broken(requests.exceptions.HTTPError("404 Not Found"), status=404), "failed: 404 Not Found"),
        (Broken(requests.exceptions.ReadTimeout("timed out")), "failed: timed out"),
        (Broken(OSError(errno.ENOSPC, "No space left on device")), r"failed: \[Errno 28\] No space left on device"),
        (Broken(OverflowError("port must be 0-65535")), "failed: OverflowError: port must be 0-65535"),
        (Broken(ValueError("invalid literal")), "failed: ValueError: invalid literal"),
    ],
)
def test_an_interrupted_download_is_reported_and_not_kept(cache, monkeypatch, answer, message):
    monkeypatch.setattr(requests, "get", lambda url, **options: answer)
    with pytest.raises(FileNotFoundError, match=rf"from {ADDRESS}.*downloading it to \S+{NAME} {message}\)$"):
        sources.find(NAME, MNIST)
    assert files(cache) == []


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"the origina"])
def test_a_part_of_the_original_is_not_kept(cache, monkeypatch, content):
    serve(monkeypatch, content)
    with pytest.raises(ValueError, match=rf"^{ADDRESS}: expected the original .*got another file, or a part of it"):
        sources.find(NAME, original(b"the original"))
    assert files(cache) == []


def test_a_cache_that_cannot_be_written_is_named(cache, monkeypatch):
    serve(monkeypatch, b"")
    cache.write_text("a file in its place")
    with pytest.raises(FileNotFoundError, match=rf"downloading it to {cache / NAME} failed: .*{cache}"):
        sources.find(NAME, MNIST)
    cache.unlink()

    def forbidden(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "makedirs", forbidden)
    with pytest.raises(
        FileNotFoundError, match=rf"downloading it to {cache / NAME} failed: .*Permission denied: '{cache}"
    ):
        sources.find(NAME, MNIST)


def forbidden(path):
    raise PermissionError(errno.EACCES, "Permission denied", path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text(""), "Not a directory"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (None, "Permission denied"),
    ],
)
def test_gsjax_data_that_cannot_be_read(cache, monkeypatch, tmp_path, make, message):
    path = tmp_path / "named"
    monkeypatch.setenv("GSJAX_DATA", str(path))
    if make:
        make(path)
    else:
        monkeypatch.setattr(os, "scandir", forbidden)
    for ask in (data.mnist, lambda: data.available("mnist"), lambda: sources.find(NAME, MNIST)):
        with pytest.raises(
            ValueError, match=rf"^GSJAX_DATA: expected a folder that can be read, got {path} .*{message}"
        ):
            ask()


def test_a_missing_gsjax_data_is_reported_if_no_other_folder_has_the_file(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("GSJAX_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=rf"is in none of {tmp_path}/data \(no such folder\), {cache}"):
        data.mnist()
    assert not data.available("mnist")
    for place in (cache, Path(sources._DEBIAN)):
        (place / NAME).parent.mkdir(parents=True)
        (place / NAME).write_bytes(b"")
        assert sources.find(NAME, MNIST).exists()
        (place / NAME).unlink()


def test_a_file_missing_in_the_cache_is_downloaded(cache, monkeypatch):
    """As after a download that stopped between two files."""
    names = [NAME, "mnist/train-labels-idx1-ubyte.gz"]
    (cache / "mnist").mkdir(parents=True)
    (cache / names[0]).write_bytes(b"")
    serve(monkeypatch, b"labels")
    assert sources.find_together(names, origin=original(b"labels")) == [cache / name for name in names]
    assert (cache / names[1]).read_bytes() == b"labels"
