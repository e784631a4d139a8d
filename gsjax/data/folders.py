"""Folders of photographs in groups: CelebA with its text files, and Waterbirds and WILDS with their `metadata.csv`.

Such data sets do not fit into memory. `celeba` and `waterbirds` read only the table of the photographs, and
`load_images` reads selected photographs.
"""

from __future__ import annotations

import collections
import csv
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image

from gsjax import _check
from gsjax.data import _arguments
from gsjax.data._reading import lines
from gsjax.data.sources import Origin, available, find

__all__ = ["ImageFolder", "Photographs", "celeba", "celeba_files", "load_images", "waterbirds", "waterbirds_files"]

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_PIXELS = 1 << 26  # 8192 x 8192; a larger file is probably a decompression bomb
_RECORD = re.compile(r'(?:"(?:[^"]|"")*"|[^",]*)(?:,(?:"(?:[^"]|"")*"|[^",]*))*')
_SPLITS = ("train", "validation", "test")
_CELEBA = ("celeba/list_attr_celeba.txt", "celeba/list_eval_partition.txt", "celeba/img_align_celeba")
_WATERBIRDS = "waterbird_complete95_forest2water2"
# These must be fetched by hand, because no checksums are published.
_CELEBA_ORIGIN = Origin(
    "CelebA (list_attr_celeba.txt, list_eval_partition.txt and img_align_celeba, unpacked, in a folder celeba)"
)
_WATERBIRDS_ORIGIN = Origin(f"Waterbirds ({_WATERBIRDS}.tar.gz, unpacked)")


class ImageFolder(NamedTuple):
    """A table of photographs on disk, with n rows in the order of the file.

    Attributes:
        paths: the files, `(n,)`.
        y: the target, -1 and +1, `(n,)`.
        attribute: the spuriously correlated attribute, 0 and 1, `(n,)`.
        group: 2 [y = +1] + attribute, `(n,)`.
        split: 0 train, 1 validation, 2 test, `(n,)`.
        prepare: `prepare(photograph, size)` -> the cropped and resized image for a network, `size` x `size`.
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
            ValueError: an unknown split.
        """
        _arguments.choice("split", split, _SPLITS)
        return np.flatnonzero(self.split == _SPLITS.index(split))


def celeba(target: str = "Blond_Hair", attribute: str = "Male") -> ImageFolder:
    """CelebA's 202,599 aligned portraits (Liu et al. 2015), 178 x 218, with two of their 40 attributes.

    The folder `celeba` has `list_attr_celeba.txt`, `list_eval_partition.txt` and `img_align_celeba/*.jpg`. Photographs
    are prepared as by Sagawa et al. 2020, without augmentation: the central 178 x 178 square is resized bilinearly.

    Raises:
        FileNotFoundError: one of the three is missing; the error says what to fetch and where to put it.
        ValueError: an unknown attribute; a damaged file, e.g. with two lines for one photograph (the error names file
            and line); a photograph that is missing or is not listed in all three.
    """
    table, partition, folder = (find(name, _CELEBA_ORIGIN) for name in _CELEBA)
    found = _words(table)
    count, names, rows = found[0] if found else [], found[1] if len(found) > 1 else [], found[2:]
    counted = bool(rows) and count == [str(len(rows))]
    _check.require(counted, str(table), f"the number of its rows, {len(rows)}, on its first line", " ".join(count))
    _check_unique(f"{table}, line 2", names)
    for argument, name in (("target", target), ("attribute", attribute)):
        _check.require(name in names, argument, f"an attribute of {table}, {', '.join(names)}", repr(name))
    _widths(table, rows, 1 + len(names), first=3)
    files = [row[0] for row in rows]
    y, spurious = (_column(table, rows, 1 + names.index(name), {"-1": 0, "1": 1}, 3) for name in (target, attribute))

    parts = _words(partition)
    _widths(partition, parts, 2, first=1)
    divided = [row[0] for row in parts]
    _rows_once(partition, divided, first=1)
    splits = dict(zip(divided, _column(partition, parts, 1, _PARTS, 1), strict=True))
    for number, file in enumerate(files, 3):
        if file not in splits:
            raise ValueError(f"{partition}: expected a line for {file} of {table}, line {number}, got none")
    split = np.array([splits[file] for file in files])
    read = _assemble(table, folder, files, y, spurious, split, _portrait, first=3)
    known = set(files)
    _every(partition, 1, (file in known for file in divided), f"a photograph of {table}", divided.__getitem__)
    return read


def waterbirds(folder: str = _WATERBIRDS, *, target: str = "y", attribute: str = "place") -> ImageFolder:
    """Waterbirds (Sagawa et al. 2020), or another folder with the same kind of `metadata.csv`, such as those of WILDS.

    The columns `img_filename`, `split` (0 train, 1 validation, 2 test), `target` and `attribute` (0 and 1) are read.
    y = +1 is a waterbird, and attribute 1 is water. Photographs are prepared as by Sagawa et al. 2020, without
    augmentation: they are resized bilinearly to a square (256 x 256 for a size of 224), and its centre is cropped.

    Args:
        folder: the name of the folder in the places that are searched for data.
        target: the column that becomes y.
        attribute: the column of the spurious attribute.

    Raises:
        FileNotFoundError: the folder is missing; the error says what to fetch and where to put it.
        ValueError: a missing column; a damaged row, e.g. a second row for one photograph (the error names the line); a
            photograph that is missing or has no row.
    """
    _check.require(isinstance(folder, str), "folder", "the name of a folder", _arguments.shown(folder))
    for argument, name in (("target", target), ("attribute", attribute)):
        _check.require(isinstance(name, str), argument, "the name of a column", _arguments.shown(name))
    table = find(f"{folder}/metadata.csv", _WATERBIRDS_ORIGIN)
    names, *rows = [_fields(table, line, number) for number, line in enumerate(lines(table), 1)] or [[]]
    _check_unique(f"{table}, line 1", names)
    for name in ("img_filename", "split", target, attribute):
        _check.require(name in names, str(table), f"a column {name}", ", ".join(names) or "an empty file")
    _check.require(rows, str(table), "a row for each photograph", "none")
    _widths(table, rows, len(names), first=2)
    files = [row[names.index("img_filename")] for row in rows]
    y, spurious = (_column(table, rows, names.index(name), {"0": 0, "1": 1}, 2) for name in (target, attribute))
    split = _column(table, rows, names.index("split"), _PARTS, 2)
    return _assemble(table, table.parent, files, y, spurious, split, _bird, first=2)


@dataclass(frozen=True)
class Photographs:
    """A folder of photographs; `reader()` reads the table of all photographs, for any split, from `paths`."""

    reader: Callable[[], ImageFolder]
    paths: tuple[str, ...]
    origin: Origin

    def read(self, split: str) -> ImageFolder:
        """The table of the photographs of all splits.

        Raises:
            FileNotFoundError: one of the paths is missing; the error says what to fetch and where to put it.
            ValueError: a damaged file, which the error names.
        """
        return self.reader()

    def available(self, split: str) -> bool:
        """Whether one place has all paths."""
        return available(self.paths)


celeba_files = Photographs(celeba, _CELEBA, _CELEBA_ORIGIN)
waterbirds_files = Photographs(waterbirds, (f"{_WATERBIRDS}/metadata.csv",), _WATERBIRDS_ORIGIN)


def load_images(
    folder: ImageFolder, rows: Sequence[int] | Int[np.ndarray, " n"], *, size: int = 224
) -> UInt8[np.ndarray, "n size size 3"]:
    """The photographs of the `rows (n,)` of `folder`, prepared by `folder.prepare`, in RGB.

    The formats are JPEG, PNG, BMP and WebP with 8 bits per channel. Gray photographs get three equal channels. CMYK is
    converted by Pillow without a colour profile. As in the published recipes, the EXIF orientation is ignored, and the
    pixels are used as stored. The checksums of PNG files are compared. For a JPEG, only a missing end is detected.

    Raises:
        ValueError: no rows, or rows that are not whole numbers from 0 to the number of rows minus 1; a `size` below 1;
            a photograph, which the error names, that is damaged, in another format, an animation, has 16 bits per
            channel, is partly transparent, or has more than 2^26 pixels.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     path = os.path.join(place, "1.jpg")
    ...     Image.new("RGB", (178, 218), "white").save(path)
    ...     zero = np.zeros(1, int)
    ...     load_images(ImageFolder(np.array([path]), -np.ones(1), zero, zero, zero, _portrait), [0], size=8).shape
    (1, 8, 8, 3)
    """
    _check.require(isinstance(folder, ImageFolder), "folder", "an ImageFolder", _arguments.shown(folder))
    chosen = np.asarray(_arguments.sequence("rows", rows, "whole numbers, one row or more"))
    _check.require(len(chosen) > 0, "rows", "one row or more", "none")
    whole = chosen.ndim == 1 and np.issubdtype(chosen.dtype, np.integer)
    _check.require(whole, "rows", "whole numbers, one row or more", _arguments.shown(rows))
    valid = chosen.min() >= 0 and chosen.max() < len(folder.paths)
    _check.require(valid, "rows", f"0 to {len(folder.paths) - 1}", f"{chosen.min()} to {chosen.max()}")
    size = _check.whole("size", size, least=1)

    def read(path: str) -> np.ndarray:
        return np.asarray(folder.prepare(_photograph(path), size))

    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        return np.stack(list(pool.map(read, folder.paths[chosen])))


class _Refused(ValueError):
    """Raised for a photograph that can be read but does not meet the requirements."""


def _photograph(path: str) -> Image.Image:
    """A photograph in RGB, with 8 bits per channel."""

    def require(condition: Any, expected: str, got: str) -> None:
        if not condition:
            raise _Refused(f"{path}: expected {expected}, got {got}: replace it, or take it out with its row")

    try:
        with open(path, "rb") as file:
            start = file.read(26)
            if start.startswith(b"\x89PNG\r\n\x1a\n"):
                file.seek(0)
                with Image.open(file, formats=["PNG"]) as picture:
                    picture.verify()  # compares the checksums, which loading the pixels does not
                depth = start[24]  # this byte of the header is the bit depth
                require(depth <= 8, "at most 8 bits per channel", f"{depth}")  # Pillow would truncate to 8 bits
            file.seek(0)
            with Image.open(file, formats=_FORMATS) as picture:
                pixels = picture.width * picture.height
                require(pixels <= _PIXELS, f"at most {_PIXELS} pixels", f"{pixels}")
                # An MPO is a JPEG followed by smaller copies of the photograph.
                frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
                require(frames == 1, "one picture", f"an animation of {frames}")
                if picture.has_transparency_data:
                    clear = picture.convert("RGBA")
                    least = np.asarray(clear)[..., 3].min()
                    require(least == 255, "an opaque picture", f"an opacity of {least} in 255")
                    return clear.convert("RGB")
                return picture.convert("RGB")
    except _Refused:
        raise
    except Exception as error:  # Pillow raises many kinds of errors
        raise ValueError(f"{path}: cannot be read ({error}), fetch it again") from error


_PARTS = {"0": 0, "1": 1, "2": 2}


def _portrait(photograph: Image.Image, size: int) -> Image.Image:
    return _middle(photograph, min(photograph.size)).resize((size, size), Image.Resampling.BILINEAR)


def _bird(photograph: Image.Image, size: int) -> Image.Image:
    larger = size * 256 // 224
    return _middle(photograph.resize((larger, larger), Image.Resampling.BILINEAR), size)


def _middle(photograph: Image.Image, size: int) -> Image.Image:
    left, top = (round((extent - size) / 2) for extent in photograph.size)
    return photograph.crop((left, top, left + size, top + size))


def _words(table: Path) -> list[list[str]]:
    """The words of each line."""
    found = lines(table)
    quote = "a stray quote: damaged"
    _every(table, 1, ('"' not in line for line in found), "words between spaces", lambda row: quote)
    return [line.split() for line in found]


def _fields(table: Path, line: str, number: int) -> list[str]:
    """The fields of a line of comma-separated values; a record is one line."""
    label = f"{table}, line {number}"
    _check.require(
        _RECORD.fullmatch(line), label, "fields between commas, whole ones in quotes", "a stray quote: damaged"
    )
    try:
        [fields] = csv.reader([line]) if line else [[]]
    except csv.Error as error:
        raise ValueError(f"{label}: damaged ({error})") from error
    return [field.strip() for field in fields]


def _check_unique(label: str, names: Sequence[str]) -> None:
    """Checks that all column names are different."""
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    _check.require(
        not repeated, label, "different names of columns", f"{', '.join(map(repr, repeated))} twice: damaged"
    )


def _every(table: Path, first: int, good: Iterable[bool], expected: str, got: Callable[[int], str]) -> None:
    """Checks that all rows are good; row 0 is on line `first`, and `got(row)` describes the content of a row."""
    for row, fine in enumerate(good):
        if not fine:
            raise ValueError(f"{table}, line {first + row}: expected {expected}, got {got(row)}")


def _rows_once(table: Path, files: Sequence[str], *, first: int) -> None:
    """Checks that all rows are about different photographs; row 0 is on line `first`."""
    seen: dict[str, int] = {}
    for number, file in enumerate(files, first):
        if (other := seen.setdefault(file, number)) != number:
            raise ValueError(f"{table}, line {number}: expected one row for {file}, got another on line {other}")


def _widths(table: Path, rows: Sequence[Sequence[str]], width: int, *, first: int) -> None:
    """Checks that all rows have `width` fields; row 0 is on line `first`."""
    fit = (len(row) == width for row in rows)
    _every(table, first, fit, f"{width} fields", lambda row: f"{len(rows[row])}: damaged")


def _column(
    table: Path, rows: Sequence[Sequence[str]], column: int, meaning: Mapping[str, int], first: int
) -> Int[np.ndarray, " n"]:
    """The entries of a column, translated by `meaning`."""
    known = (row[column] in meaning for row in rows)
    _every(table, first, known, f"one of {', '.join(meaning)}", lambda row: repr(rows[row][column]))
    return np.array([meaning[row[column]] for row in rows])


def _photographs(folder: str | os.PathLike[str], prefix: str = "") -> set[str]:
    """The photographs in a folder and its subfolders, by file name extension, without hidden files."""
    found: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found |= _photographs(entry.path, os.path.join(prefix, entry.name))
            elif entry.name.lower().endswith((".jpg", ".jpeg", ".png")) and entry.name[0] != "." and entry.is_file():
                found.add(os.path.join(prefix, entry.name))
    return found


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
    _check.require(folder.is_dir(), str(folder), "a folder of photographs", "a file")
    names, photographs = [os.path.normpath(file) for file in files], _photographs(folder)
    _rows_once(table, names, first=first)
    paths = [os.path.join(folder, name) for name in names]
    present = (name in photographs or os.path.isfile(path) for name, path in zip(names, paths, strict=True))
    _every(table, first, present, "a photograph that is there", paths.__getitem__)
    unlisted = photographs.difference(names)
    got = f"none for {len(unlisted)} of them, such as {min(unlisted, default='')}: damaged, or put them elsewhere"
    _check.require(not unlisted, str(table), f"a row for each photograph in {folder}", got)
    return ImageFolder(np.array(paths, object), 2.0 * y - 1, attribute, 2 * y + attribute, split, prepare)
