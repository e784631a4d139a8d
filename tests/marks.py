"""The marks that select tests all over the repository. The Makefile looks for the files that name them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

SELECTED = ("slow", "devices8")


def unnamed(found: Iterable[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """The files with a test that has a mark, such that the text of the file does not have the mark."""
    return sorted(
        (path, mark)
        for path, mark in found
        if not path.name.startswith("test_") or not re.search(rf"mark\.{mark}\b", path.read_text(encoding="utf-8"))
    )
