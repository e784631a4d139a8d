"""The search path for data files, and their download."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["Origin", "available", "find", "find_together", "locate"]

_DEBIAN = Path("/usr/share/datasets")

# Timeouts in seconds: connecting fails fast without a network; a slow server may take longer between two chunks.
_TIMEOUT = (3.0, 30.0)


class Origin(NamedTuple):
    """The origin of a data set.

    Attributes:
        what: what to fetch, in the words of an error message.
        address: the web address of the folder with its files; empty if they must be fetched by hand.
        checksums: the MD5 sums of the original files by name; files without a checksum are not downloaded.
    """

    what: str
    address: str = ""
    checksums: Mapping[str, str] = MappingProxyType({})


def find(name: str, origin: Origin) -> Path:
    """The file or folder `name`, e.g. "mnist/train-images-idx3-ubyte.gz", from the first place that has it.

    The places are, in order: the folder in the environment variable GSJAX_DATA, the user's cache
    (`$XDG_CACHE_HOME/gsjax` or `~/.cache/gsjax`), and the folder of Debian's data packages. A file may also be present
    without its `.gz`. A file that no place has is downloaded into the cache if `origin` has its checksum. Setting
    GSJAX_OFFLINE to anything but 0 prevents downloads.

    Raises:
        FileNotFoundError: no place has it and it cannot be downloaded; the error says what to fetch and where to put
            it.
        ValueError: the downloaded file is not the original (it is not kept); GSJAX_DATA does not name a readable
            folder.
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
    """All files of one of several `alternatives`, from the first place that has any, so that two sets never mix.

    In one place, the first complete alternative is taken. If no place has one, `find` looks for each file of the last
    alternative.

    Raises:
        FileNotFoundError: no place has them, or a place has some of the files but not all; the error names a missing
            file.
        ValueError: the errors of `find`.
    """
    for place in _places():
        found = [[locate(name, [place]) for name in names] for names in alternatives]
        for paths in found:
            if None not in paths:
                return [path for path in paths if path]
        for names, paths in zip(alternatives, found, strict=True):
            present = [path for path in paths if path]
            if present and place != _cache():  # files missing in the cache may still be downloaded
                missing = place / names[paths.index(None)]
                raise FileNotFoundError(f"{missing} is not there, though {present[0]} is: fetch {origin.what} again")
    return [find(name, origin) for name in alternatives[-1]]


def available(*alternatives: Sequence[str]) -> bool:
    """Whether one place has all files of one of the `alternatives`; nothing is downloaded.

    Raises:
        ValueError: GSJAX_DATA does not name a readable folder.
    """
    return any(all(locate(name, [place]) for name in names) for place in _places() for names in alternatives)


def locate(name: str, places: Sequence[Path] | None = None) -> Path | None:
    """Like `find`, but returns None if no place has it; nothing is downloaded.

    Raises:
        ValueError: GSJAX_DATA does not name a readable folder.
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
        except (
            FileNotFoundError
        ):  # it may be on a disk that is not mounted; `find` reports it if no other place has the file
            pass
        except OSError as error:
            raise ValueError(f"GSJAX_DATA: expected a folder that can be read, got {named} ({error})") from error
    return [*([Path(named)] if named else []), _cache(), _DEBIAN]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsjax"


def _download(url: str, md5: str, target: Path) -> Path:
    # Imported here because only downloads need it.
    import pooch

    # Neither the class nor the function fits pooch's type annotation of a downloader.
    http: Any = pooch.HTTPDownloader(timeout=_TIMEOUT, chunk_size=1 << 16)

    def download(*arguments: Any) -> None:
        try:
            http(*arguments)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, ValueError):
                raise
            # For a malformed proxy address, requests and urllib3 raise errors that can be ValueErrors too.
            raise OSError(f"{type(error).__name__}: {error}") from error

    downloader: Any = download
    try:
        return Path(pooch.retrieve(url, f"md5:{md5}", fname=target.name, path=target.parent, downloader=downloader))
    except ValueError as error:  # raised only if the checksums differ
        got = "another file, or a part of it"
        raise ValueError(f"{url}: expected the original with MD5 {md5}, got {got} ({error}); try again") from error


def _proxy(url: str) -> str:
    """Which variable sets a proxy for `url`, for error messages; the address is left out, as it may have a password."""
    import requests

    scheme = url.split(":")[0]
    if not requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url, no_proxy=None)):
        return ""
    names = [name for name in os.environ if name.lower() in (f"{scheme}_proxy", "all_proxy") and os.environ[name]]
    return f" through the proxy that {' or '.join(names) or 'the system'} names"
