"""Folders of photographs in groups: CelebA's text files, and `metadata.csv` as Waterbirds and WILDS have it.

Such sets do not fit into memory: `celeba` and `waterbirds` read what is known of each photograph, and `load_images` the
photographs of a selection.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image

from gsjax import _check
from gsjax.data.sources import find

__all__ = ["ImageFolder", "celeba", "load_images", "waterbirds"]

_SPLITS = ("train", "validation", "test")
_CELEBA = "CelebA (list_attr_celeba.txt, list_eval_partition.txt and img_align_celeba, unpacked, in a folder celeba)"


class ImageFolder(NamedTuple):
    """Photographs on a disk and what is known of them, n rows as in the file.

    Attributes:
        paths: the files, `(n,)`.
        y: the target, -1 and +1, `(n,)`.
        attribute: the attribute that goes with it spuriously, 0 and 1, `(n,)`.
        group: 2 [y = +1] + attribute, `(n,)`.
        split: 0 train, 1 validation, 2 test, `(n,)`.
        prepare: `prepare(photograph, size)` -> what a network is shown of it, `size` x `size`.
    """

    paths: Shaped[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    attribute: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " n"]
    split: Int[np.ndarray, " n"]
    prepare: Callable[[Image.Image, int], Image.Image]

    def rows(self, split: str) -> Int[np.ndarray, " rows"]:
        """The rows of a split: train, validation or test.

        Raises:
            ValueError: there is no such split.
        """
        _check.require(split in _SPLITS, "split", f"one of {', '.join(_SPLITS)}", repr(split))
        return np.flatnonzero(self.split == _SPLITS.index(split))


def celeba(target: str = "Blond_Hair", attribute: str = "Male") -> ImageFolder:
    """CelebA's 202,599 aligned portraits (Liu et al. 2015), 178 x 218, with two of their 40 attributes.

    In a folder `celeba`: `list_attr_celeba.txt`, `list_eval_partition.txt` and `img_align_celeba/*.jpg`. Prepared as by
    Sagawa et al. 2020, without augmentation: the square in the middle, 178 x 178, resized bilinearly.

    Raises:
        FileNotFoundError: one of the three is nowhere; what to fetch, and where to put it.
        ValueError: no such attribute; a damaged file, named with its line; a photograph that is not there.
    """
    table = find("celeba/list_attr_celeba.txt", what=_CELEBA)
    partition = find("celeba/list_eval_partition.txt", what=_CELEBA)
    folder = find("celeba/img_align_celeba", what=_CELEBA)
    lines = [line.split() for line in _text(table).splitlines()]
    count, names, rows = lines[0] if lines else [], lines[1] if len(lines) > 1 else [], lines[2:]
    counted = bool(rows) and count == [str(len(rows))]
    _check.require(counted, str(table), f"the number of its rows, {len(rows)}, on its first line", " ".join(count))
    for argument, name in (("target", target), ("attribute", attribute)):
        _check.require(name in names, argument, f"an attribute of {table}, {', '.join(names)}", repr(name))
    _widths(table, rows, 1 + len(names), first=3)
    y, spurious = (_column(table, rows, 1 + names.index(name), {"-1": 0, "1": 1}, 3) for name in (target, attribute))

    parts = [line.split() for line in _text(partition).splitlines()]
    _widths(partition, parts, 2, first=1)
    split_of = dict(zip([row[0] for row in parts], _column(partition, parts, 1, _PARTS, 1), strict=True))
    for number, row in enumerate(rows, 3):
        _check.require(row[0] in split_of, str(partition), f"a line for {row[0]} of {table}, line {number}", "none")
    split = np.array([split_of[row[0]] for row in rows])
    return _assemble(table, folder, [row[0] for row in rows], y, spurious, split, _portrait, first=3)


def waterbirds(
    folder: str = "waterbird_complete95_forest2water2", *, target: str = "y", attribute: str = "place"
) -> ImageFolder:
    """Waterbirds (Sagawa et al. 2020), or another folder with a `metadata.csv` like its own, as those of WILDS.

    The columns `img_filename`, `split` (0 train, 1 validation, 2 test), `target` and `attribute` (0 and 1) are read:
    y = +1 are waterbirds, attribute 1 is water. Prepared as by Sagawa et al. 2020, without augmentation: resized
    bilinearly to a square (256 x 256 for a size of 224), whose middle is cut out.

    Args:
        folder: its name where data are looked for.
        target: the column that becomes y.
        attribute: the column of the spurious attribute.

    Raises:
        FileNotFoundError: the folder is nowhere; what to fetch, and where to put it.
        ValueError: a missing column, a damaged row, named with its line; a photograph that is not there.
    """
    what = "Waterbirds (waterbird_complete95_forest2water2.tar.gz, unpacked)"
    table = find(f"{folder}/metadata.csv", what=what)
    names, *rows = list(csv.reader(_text(table).splitlines())) or [[]]
    for name in ("img_filename", "split", target, attribute):
        _check.require(name in names, str(table), f"a column {name}", ", ".join(names) or "an empty file")
    _check.require(rows, str(table), "a row for each photograph", "none")
    _widths(table, rows, len(names), first=2)
    files = [row[names.index("img_filename")] for row in rows]
    y, spurious = (_column(table, rows, names.index(name), {"0": 0, "1": 1}, 2) for name in (target, attribute))
    split = _column(table, rows, names.index("split"), _PARTS, 2)
    return _assemble(table, table.parent, files, y, spurious, split, _bird, first=2)


def load_images(
    folder: ImageFolder, rows: Sequence[int] | Int[np.ndarray, " n"], *, size: int = 224
) -> UInt8[np.ndarray, "n size size 3"]:
    """The photographs of some `rows` `(n,)` of `folder`, as `folder.prepare` has it, in red, green and blue.

    Raises:
        ValueError: no rows, a `size` below 1; a damaged photograph, which is named.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     path = os.path.join(place, "1.jpg")
    ...     Image.new("RGB", (178, 218), "white").save(path)
    ...     zero = np.zeros(1, int)
    ...     load_images(ImageFolder(np.array([path]), -np.ones(1), zero, zero, zero, _portrait), [0], size=8).shape
    (1, 8, 8, 3)
    """
    _check.require(len(rows) > 0, "rows", "one row or more", "none")
    _check.require(size >= 1, "size", "at least 1", size)

    def read(path: str) -> np.ndarray:
        try:
            with Image.open(path) as file:
                return np.asarray(folder.prepare(file.convert("RGB"), size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all of them are Pillow's
            raise ValueError(f"{path}: cannot be read ({error}), fetch it again") from error

    with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock to others
        return np.stack(list(pool.map(read, folder.paths[np.asarray(rows)])))


_PARTS = {"0": 0, "1": 1, "2": 2}


def _portrait(photograph: Image.Image, size: int) -> Image.Image:
    return _middle(photograph, min(photograph.size)).resize((size, size), Image.Resampling.BILINEAR)


def _bird(photograph: Image.Image, size: int) -> Image.Image:
    larger = size * 256 // 224
    return _middle(photograph.resize((larger, larger), Image.Resampling.BILINEAR), size)


def _middle(photograph: Image.Image, size: int) -> Image.Image:
    left, top = (round((extent - size) / 2) for extent in photograph.size)
    return photograph.crop((left, top, left + size, top + size))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _widths(table: Path, rows: Sequence[Sequence[str]], width: int, *, first: int) -> None:
    """All rows have `width` fields; the first of them is on line `first`."""
    for number, row in enumerate(rows, first):
        _check.require(len(row) == width, f"{table}, line {number}", f"{width} fields", f"{len(row)}: damaged")


def _column(
    table: Path, rows: Sequence[Sequence[str]], column: int, meaning: Mapping[str, int], first: int
) -> Int[np.ndarray, " n"]:
    """What the entries of a column mean."""
    for number, row in enumerate(rows, first):
        entry = row[column].strip()
        _check.require(entry in meaning, f"{table}, line {number}", f"one of {', '.join(meaning)}", repr(entry))
    return np.array([meaning[row[column].strip()] for row in rows])


def _assemble(
    table: Path,
    folder: Path,
    files: Sequence[str],
    y: Int[np.ndarray, " n"],
    attribute: Int[np.ndarray, " n"],
    split: Int[np.ndarray, " n"],
    prepare: Callable[[Image.Image, int], Image.Image],
    *,
    first: int,
) -> ImageFolder:
    paths = [os.path.join(folder, file) for file in files]
    for number, path in enumerate(paths, first):
        _check.require(os.path.isfile(path), f"{table}, line {number}", "a photograph that is there", path)
    return ImageFolder(np.array(paths, object), 2.0 * y - 1, attribute, 2 * y + attribute, split, prepare)
