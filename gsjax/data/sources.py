"""Where files of data are looked for."""

from __future__ import annotations

import os
from pathlib import Path

_DEBIAN = Path("/usr/share/datasets")


def find(name: str, *, what: str) -> Path:
    """The file or folder `name`, e.g. "mnist/train-images-idx3-ubyte.gz", in the first place that has it.

    The places are the folder that the environment variable GSJAX_DATA names, the user's cache (`$XDG_CACHE_HOME/gsjax`,
    `~/.cache/gsjax`), and where Debian's packages put data sets. A file may also lie there without its `.gz`.

    Raises:
        FileNotFoundError: none of them has it; it says `what` to fetch, and where to put it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsjax"
    places = [*map(Path, filter(None, [os.environ.get("GSJAX_DATA")])), cache, _DEBIAN]
    for place in places:
        for candidate in (place / name, place / name.removesuffix(".gz")):
            if candidate.exists():
                return candidate
    looked = ", ".join(map(str, places))
    raise FileNotFoundError(
        f"{name} is in none of {looked}: fetch {what}, put it there, or set GSJAX_DATA to its folder"
    )
