"""Where files of data are looked for, and where they are downloaded from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["find", "locate"]

_DEBIAN = Path("/usr/share/datasets")

# Connecting fails fast where there is no network; a server that is slow may take longer between two pieces.
_TIMEOUT = (3.0, 30.0)

_MIRRORS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "kmnist": "https://codh.rois.ac.jp/kmnist/dataset/kmnist",
    "cifar-10-binary.tar.gz": "https://www.cs.toronto.edu/~kriz",
    "cifar-100-binary.tar.gz": "https://www.cs.toronto.edu/~kriz",
}
# MD5 of the originals. CelebA and Waterbirds are to be fetched by hand: no checksum of theirs is published.
_CHECKSUMS = {
    "mnist/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "mnist/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "mnist/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "mnist/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "fashion-mnist/train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "fashion-mnist/train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "fashion-mnist/t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    "kmnist/train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
    "kmnist/train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
    "kmnist/t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
    "kmnist/t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}


def find(name: str, *, what: str) -> Path:
    """The file or folder `name`, e.g. "mnist/train-images-idx3-ubyte.gz", in the first place that has it.

    The places are the folder that the environment variable GSJAX_DATA names, the user's cache (`$XDG_CACHE_HOME/gsjax`,
    `~/.cache/gsjax`), and where Debian's packages put data sets. A file may also lie there without its `.gz`. What is
    in none of them is downloaded into the cache if its address and checksum are known; with GSJAX_OFFLINE set to
    anything but 0, nothing is.

    Raises:
        FileNotFoundError: no place has it and it cannot be downloaded; it says `what` to fetch, and where to put it.
        ValueError: what was downloaded is not the original; nothing is kept of it.
    """
    if path := locate(name):
        return path
    source = failure = ""
    if md5 := _CHECKSUMS.get(name):
        url = f"{_MIRRORS[name.split('/')[0]]}/{Path(name).name}"
        source = f" from {url}"
        if os.environ.get("GSJAX_OFFLINE", "0") in ("", "0"):
            try:
                return _download(url, md5, _cache() / name)
            except OSError as error:  # among them all that requests raises
                failure = f" (downloading it failed: {error})"
    looked = ", ".join(map(str, _places()))
    raise FileNotFoundError(
        f"{name} is in none of {looked}: fetch {what}{source}, put it there, or set GSJAX_DATA to its folder{failure}"
    )


def locate(name: str) -> Path | None:
    """As `find`, but None if no place has it; nothing is downloaded."""
    for place in _places():
        for candidate in (place / name, place / name.removesuffix(".gz")):
            if candidate.exists():
                return candidate
    return None


def _places() -> list[Path]:
    return [*map(Path, filter(None, [os.environ.get("GSJAX_DATA")])), _cache(), _DEBIAN]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsjax"


def _download(url: str, md5: str, target: Path) -> Path:
    # Imported here because only a download wants it.
    import pooch

    # Its class does not fit pooch's own type of a downloader.
    downloader: Any = pooch.HTTPDownloader(timeout=_TIMEOUT, chunk_size=1 << 16)
    try:
        return Path(pooch.retrieve(url, f"md5:{md5}", fname=target.name, path=target.parent, downloader=downloader))
    except ValueError as error:
        raise ValueError(f"{url}: expected the original with MD5 {md5}, got another file ({error})") from error
