"""Where files of data are looked for, and where they are downloaded from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["Origin", "available", "find", "find_together", "locate"]

_DEBIAN = Path("/usr/share/datasets")

# Connecting fails fast where there is no network; a server that is slow may take longer between two pieces.
_TIMEOUT = (3.0, 30.0)


class Origin(NamedTuple):
    """Where a data set comes from.

    Attributes:
        what: what to fetch, as an error says it.
        address: of the folder on the web that has its files; empty if they are to be fetched by hand.
        checksums: MD5 of the originals, by name of the file; what has none is not downloaded.
    """

    what: str
    address: str = ""
    checksums: Mapping[str, str] = MappingProxyType({})


def find(name: str, origin: Origin) -> Path:
    """The file or folder `name`, e.g. "mnist/train-images-idx3-ubyte.gz", in the first place that has it.

    The places are the folder that the environment variable GSJAX_DATA names, the user's cache (`$XDG_CACHE_HOME/gsjax`,
    `~/.cache/gsjax`), and where Debian's packages put data sets. A file may also lie there without its `.gz`. What is
    in none of them is downloaded into the cache if `origin` has its checksum; with GSJAX_OFFLINE set to
    anything but 0, nothing is.

    Raises:
        FileNotFoundError: no place has it and it cannot be downloaded; it says what to fetch, and where to put it.
        ValueError: what was downloaded is not the original, and nothing is kept of it; GSJAX_DATA names no folder that
            can be read.
    """
    if path := locate(name):
        return path
    source = failure = ""
    if md5 := origin.checksums.get(Path(name).name):
        url = f"{origin.address}/{Path(name).name}"
        source = f" from {url}"
        if os.environ.get("GSJAX_OFFLINE", "0") in ("", "0"):
            target = _cache() / name
            try:
                return _download(url, md5, target)
            except OSError as error:
                failure = f" (downloading it to {target}{_proxy(url)} failed: {error})"
    looked = ", ".join(f"{place}{'' if place.is_dir() else ' (no such folder)'}" for place in _places())
    wanted = f"fetch {origin.what}{source}, put it there, or set GSJAX_DATA to its folder{failure}"
    raise FileNotFoundError(f"{name} is in none of {looked}: {wanted}")


def find_together(*alternatives: Sequence[str], origin: Origin) -> list[Path]:
    """All files of one of several `alternatives`, from the first place that has any, so that no two sets are mixed.

    Of alternatives in the same place the first that is complete is taken. Where there is none, the files of the last
    one are looked for one by one, as by `find`.

    Raises:
        FileNotFoundError: there is none, or a file is missing beside others, which is named.
        ValueError: as by `find`.
    """
    for place in _places():
        found = [[locate(name, [place]) for name in names] for names in alternatives]
        for paths in found:
            if None not in paths:
                return [path for path in paths if path]
        for names, paths in zip(alternatives, found, strict=True):
            there = [path for path in paths if path]
            if there and place != _cache():  # what is missing there, a download may bring
                missing = place / names[paths.index(None)]
                raise FileNotFoundError(f"{missing} is not there, though {there[0]} is: fetch {origin.what} again")
    return [find(name, origin) for name in alternatives[-1]]


def available(*alternatives: Sequence[str]) -> bool:
    """Whether a place has all files of one of the `alternatives`; nothing is downloaded.

    Raises:
        ValueError: GSJAX_DATA names no folder that can be read.
    """
    return any(all(locate(name, [place]) for name in names) for place in _places() for names in alternatives)


def locate(name: str, places: Sequence[Path] | None = None) -> Path | None:
    """As `find`, but None if no place has it; nothing is downloaded.

    Raises:
        ValueError: GSJAX_DATA names no folder that can be read.
    """
    for place in _places() if places is None else places:
        for candidate in (place / name, place / name.removesuffix(".gz")):
            if candidate.exists():
                return candidate
    return None


def _places() -> list[Path]:
    named = os.environ.get("GSJAX_DATA")
    if named:
        try:
            os.scandir(named).close()
        except FileNotFoundError:  # it may be on a disk that is not there now; `find` says so if nothing else has it
            pass
        except OSError as error:
            raise ValueError(f"GSJAX_DATA: expected a folder that can be read, got {named} ({error})") from error
    return [*([Path(named)] if named else []), _cache(), _DEBIAN]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsjax"


def _download(url: str, md5: str, target: Path) -> Path:
    # Imported here because only a download wants it.
    import pooch

    # Neither the class nor the function fits pooch's own type of a downloader.
    http: Any = pooch.HTTPDownloader(timeout=_TIMEOUT, chunk_size=1 << 16)

    def download(*arguments: Any) -> None:
        try:
            http(*arguments)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, ValueError):
                raise
            # What requests and urllib3 raise at a malformed address of a proxy is a ValueError, at times also.
            raise OSError(f"{type(error).__name__}: {error}") from error

    downloader: Any = download
    try:
        return Path(pooch.retrieve(url, f"md5:{md5}", fname=target.name, path=target.parent, downloader=downloader))
    except ValueError as error:  # only by the comparison of checksums
        got = "another file, or a part of it"
        raise ValueError(f"{url}: expected the original with MD5 {md5}, got {got} ({error}); try again") from error


def _proxy(url: str) -> str:
    """Where the environment has the address of a proxy for `url`; the address itself may have a password."""
    import requests

    scheme = url.split(":")[0]
    if not requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url, no_proxy=None)):
        return ""
    names = [name for name in os.environ if name.lower() in (f"{scheme}_proxy", "all_proxy") and os.environ[name]]
    return f" through the proxy that {' or '.join(names) or 'the system'} names"
