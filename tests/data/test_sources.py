"""Downloads, without a network: what is asked for, and what is said when it does not come."""

from __future__ import annotations

import hashlib
import logging

import pooch
import pytest
import requests

from gsjax.data import images, sources


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GSJAX_OFFLINE", raising=False)
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")
    logging.getLogger("pooch").setLevel(logging.ERROR)
    return tmp_path / "gsjax"


class Response:
    """What `requests.get` gives, as far as pooch asks for it."""

    def __init__(self, content):
        self.content, self.headers = content, {}

    def raise_for_status(self):
        pass

    def iter_content(self, chunk_size):
        return [self.content]


def serve(monkeypatch, content):
    """All that is asked of the network from now on, and `content` as its answer."""
    asked = []

    def get(url, timeout, **options):
        asked.append((url, timeout))
        return Response(content)

    monkeypatch.setattr(requests, "get", get)
    return asked


@pytest.mark.parametrize(
    ("name", "url", "md5"),
    [
        (
            "mnist/t10k-labels-idx1-ubyte.gz",
            "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        (
            "fashion-mnist/train-images-idx3-ubyte.gz",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        ),
        (
            "kmnist/train-labels-idx1-ubyte.gz",
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/train-labels-idx1-ubyte.gz",
            "e144d726b3acfaa3e44228e80efcd344",
        ),
        (
            "cifar-100-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
    ],
)
def test_the_original_is_asked_for_with_its_checksum(cache, monkeypatch, name, url, md5):
    asked = {}

    def retrieve(url, known_hash, **options):
        asked.update(options, url=url, known_hash=known_hash)
        return str(options["path"] / options["fname"])

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert sources.find(name, what="it") == cache / name
    assert (asked["url"], asked["known_hash"]) == (url, f"md5:{md5}")
    assert asked["path"] / asked["fname"] == cache / name


def test_every_checksum_has_an_address_and_the_form_of_an_md5():
    for name, md5 in sources._CHECKSUMS.items():
        assert name.split("/")[0] in sources._MIRRORS
        assert len(bytes.fromhex(md5)) == 16
    assert len(set(sources._CHECKSUMS.values())) == 14


def test_what_was_downloaded_is_kept_and_not_asked_for_again(cache, monkeypatch):
    content, name = b"the original", "mnist/train-images-idx3-ubyte.gz"
    monkeypatch.setitem(sources._CHECKSUMS, name, hashlib.md5(content).hexdigest())
    asked = serve(monkeypatch, content)
    for _ in range(2):
        assert sources.find(name, what="MNIST").read_bytes() == content
    [(url, timeout)] = asked
    assert url.endswith("/mnist/train-images-idx3-ubyte.gz")
    assert max(timeout) <= 30
    assert sources.locate(name) == cache / name


def test_another_file_than_the_original_is_not_kept(cache, monkeypatch):
    serve(monkeypatch, b"<html>a login page</html>")
    with pytest.raises(ValueError, match=r"mnist/train-images\S+: expected the original with MD5 f68b\w+, got another"):
        images.mnist()
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_without_a_network_it_is_said_what_to_fetch_and_where_to_put_it(cache, monkeypatch):
    def get(url, **options):
        raise requests.exceptions.ConnectionError("no route to host")

    monkeypatch.setattr(requests, "get", get)
    message = r"fetch MNIST .* from https://\S+, put it there, or set GSJAX_DATA .*failed: no route to host\)"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        images.mnist()
    assert str(cache) in str(caught.value)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_nothing_is_downloaded_that_has_no_checksum_or_where_it_is_forbidden(cache, monkeypatch):
    asked = serve(monkeypatch, b"")
    with pytest.raises(FileNotFoundError, match="fetch CelebA"):
        sources.find("celeba/list_attr_celeba.txt", what="CelebA")
    assert not images.available("mnist")
    monkeypatch.setenv("GSJAX_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"fetch CIFAR-10 .* to its folder$"):
        images.cifar10()
    assert asked == []
