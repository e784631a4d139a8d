"""Folders of photographs in groups: CelebA with its text files, and Waterbirds and WILDS with their `metadata.csv`.

Such data sets do not fit into memory. `celeba` and `waterbirds` read only the table of the photographs, and
`load_images` reads selected photographs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image

from gsjax import _check
from gsjax.data import _arguments, scaling
from gsjax.data._pictures import bird, listed, photograph, portrait
from gsjax.data._reading import lines
from gsjax.data._tables import check_unique, check_widths, column, every, fields, rows_once, words
from gsjax.data.entry import Examples
from gsjax.data.sources import Origin, available, find

__all__ = [
    "ImageFolder",
    "LabelledFolder",
    "Photographs",
    "celeba",
    "celeba_files",
    "load_examples",
    "load_images",
    "waterbirds",
    "waterbirds_files",
]

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
        return _rows(self.split, split)


class LabelledFolder(NamedTuple):
    """A table of images in a user's folder, with n rows in the order of the CSV; see `labelled_folder`.

    Attributes:
        paths: the files, `(n,)`.
        y: the labels, `(n,)`: -1.0 and +1.0 for two classes, else indices of `classes`.
        attribute: the attribute, an index of `attributes`, `(n,)`; None if no column was named.
        group: 2 [y = +1] + attribute, `(n,)`, if there are two classes and two attributes.
        split: 0 train, 1 validation, 2 test, `(n,)`; all 0 if no column was named.
        prepare: `prepare(image, size)` -> the image, `size` x `size`.
        levels: the values of gray PNGs with 16 bits that become black and white, or None.
        classes: the names of the classes.
        attributes: the names of the attributes; empty without a column.
        skipped: the lines that were left out, each with its number and the reason.
        unlisted: the images in the folder that no line names.
        duplicates: the rows of files with the same bytes, in groups of two or more; empty if files were not checked.
    """

    paths: Shaped[np.ndarray, " n"]
    y: Shaped[np.ndarray, " n"]
    attribute: Int[np.ndarray, " n"] | None
    group: Int[np.ndarray, " n"] | None
    split: Int[np.ndarray, " n"]
    prepare: Callable[[Image.Image, int], Image.Image]
    levels: tuple[int, int] | None
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    skipped: tuple[str, ...]
    unlisted: tuple[str, ...]
    duplicates: tuple[tuple[int, ...], ...]

    def rows(self, split: str) -> Int[np.ndarray, " rows"]:
        """The rows of a split: train, validation or test.

        Raises:
            ValueError: an unknown split.
        """
        return _rows(self.split, split)

    def summary(self) -> str:
        """How many images there are of each class, attribute and split, and all that was left out or is suspicious."""
        label = (self.y > 0).astype(int) if len(self.classes) == 2 else self.y
        counted = [("class", label, self.classes), ("split", self.split, _SPLITS)]
        if self.attribute is not None:
            counted.insert(1, ("attribute", self.attribute, self.attributes))
        lines = [f"{len(self.paths)} images"]
        for what, numbers, names in counted:
            counts = np.bincount(numbers, minlength=len(names))
            lines.append(f"{what}: {', '.join(f'{name} {count}' for name, count in zip(names, counts, strict=True))}")
        same = [" = ".join(str(self.paths[row]) for row in rows) for rows in self.duplicates]
        for what, found in (("skipped", self.skipped), ("not in the table", self.unlisted), ("the same file", same)):
            lines += [f"{what}: {len(found)}", *(f"  {text}" for text in found)] if found else []
        return "\n".join(lines)


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
    found = words(table)
    count, names, rows = found[0] if found else [], found[1] if len(found) > 1 else [], found[2:]
    counted = bool(rows) and count == [str(len(rows))]
    _check.require(counted, str(table), f"the number of its rows, {len(rows)}, on its first line", " ".join(count))
    check_unique(f"{table}, line 2", names)
    for argument, name in (("target", target), ("attribute", attribute)):
        _check.require(name in names, argument, f"an attribute of {table}, {', '.join(names)}", repr(name))
    check_widths(table, rows, 1 + len(names), first=3)
    files = [row[0] for row in rows]
    y, spurious = (column(table, rows, 1 + names.index(name), {"-1": 0, "1": 1}, 3) for name in (target, attribute))

    parts = words(partition)
    check_widths(partition, parts, 2, first=1)
    divided = [row[0] for row in parts]
    rows_once(partition, divided, first=1)
    splits = dict(zip(divided, column(partition, parts, 1, _PARTS, 1), strict=True))
    for number, file in enumerate(files, 3):
        if file not in splits:
            raise ValueError(f"{partition}: expected a line for {file} of {table}, line {number}, got none")
    split = np.array([splits[file] for file in files])
    read = _assemble(table, folder, files, y, spurious, split, portrait, first=3)
    known = set(files)
    every(partition, 1, (file in known for file in divided), f"a photograph of {table}", divided.__getitem__)
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
    names, *rows = [fields(table, line, number) for number, line in enumerate(lines(table), 1)] or [[]]
    check_unique(f"{table}, line 1", names)
    for name in ("img_filename", "split", target, attribute):
        _check.require(name in names, str(table), f"a column {name}", ", ".join(names) or "an empty file")
    _check.require(rows, str(table), "a row for each photograph", "none")
    check_widths(table, rows, len(names), first=2)
    files = [row[names.index("img_filename")] for row in rows]
    y, spurious = (column(table, rows, names.index(name), {"0": 0, "1": 1}, 2) for name in (target, attribute))
    split = column(table, rows, names.index("split"), _PARTS, 2)
    return _assemble(table, table.parent, files, y, spurious, split, bird, first=2)


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
    folder: ImageFolder | LabelledFolder,
    rows: Sequence[int] | Int[np.ndarray, " n"],
    *,
    size: int = 224,
    channels: int = 3,
) -> UInt8[np.ndarray, "n size size channels"]:
    """The photographs of the `rows (n,)` of `folder`, prepared by `folder.prepare`, in RGB or gray.

    The formats are JPEG, PNG, BMP and WebP with 8 bits per channel, and gray PNG with 16 bits if the folder has
    `levels`. Gray photographs get three equal channels. With one channel, colours become gray by Pillow (luma of
    ITU-R 601). CMYK is converted by Pillow without a colour profile. As in the published recipes, the EXIF orientation
    is ignored, and the pixels are used as stored. The checksums of PNG files are compared. For a JPEG, only a missing
    end is detected.

    Raises:
        ValueError: no rows, or rows that are not whole numbers from 0 to the number of rows minus 1; a `size` below 1;
            `channels` other than 1 and 3; photographs that are damaged, in another format, animations, partly
            transparent, have 16 bits per channel (but see above), or have more than 2^26 pixels. The error names them
            all.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     path = os.path.join(place, "1.jpg")
    ...     Image.new("RGB", (178, 218), "white").save(path)
    ...     zero = np.zeros(1, int)
    ...     load_images(ImageFolder(np.array([path]), -np.ones(1), zero, zero, zero, portrait), [0], size=8).shape
    (1, 8, 8, 3)
    """
    known = isinstance(folder, (ImageFolder, LabelledFolder))
    _check.require(known, "folder", "an ImageFolder or a LabelledFolder", _arguments.shown(folder))
    chosen = np.asarray(_arguments.sequence("rows", rows, "whole numbers, one row or more"))
    _check.require(len(chosen) > 0, "rows", "one row or more", "none")
    whole = chosen.ndim == 1 and np.issubdtype(chosen.dtype, np.integer)
    _check.require(whole, "rows", "whole numbers, one row or more", _arguments.shown(rows))
    valid = chosen.min() >= 0 and chosen.max() < len(folder.paths)
    _check.require(valid, "rows", f"0 to {len(folder.paths) - 1}", f"{chosen.min()} to {chosen.max()}")
    size, channels = _check.whole("size", size, least=1), _check.whole("channels", channels)
    _check.require(channels in (1, 3), "channels", "1 or 3", channels)
    levels = folder.levels if isinstance(folder, LabelledFolder) else None

    def read(path: str) -> np.ndarray | ValueError:
        try:
            picture = folder.prepare(photograph(path, levels), size)
        except ValueError as error:
            return error
        return np.asarray(picture) if channels == 3 else np.asarray(picture.convert("L"))[..., None]

    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        found = list(pool.map(read, folder.paths[chosen]))
    if bad := [error for error in found if isinstance(error, ValueError)]:
        raise ValueError("\n".join(map(str, bad))) from bad[0]
    return np.stack([pixels for pixels in found if isinstance(pixels, np.ndarray)])


def load_examples(
    folder: ImageFolder | LabelledFolder,
    rows: Sequence[int] | Int[np.ndarray, " n"],
    *,
    size: int = 224,
    channels: int = 3,
) -> Examples:
    """The photographs of the `rows (n,)` of `folder` as examples in memory: x in [-1, 1], labels, and groups if any.

    A photograph takes `4 size^2 channels` bytes in single precision.

    Raises:
        ValueError: what `load_images` raises.
    """
    x = scaling.signed(load_images(folder, rows, size=size, channels=channels))
    rows = np.asarray(rows)
    group = None if folder.group is None else jnp.asarray(folder.group[rows])
    kind = float if np.issubdtype(folder.y.dtype, np.floating) else int
    return Examples(x, jnp.asarray(folder.y[rows], kind), group)


def _rows(splits: Int[np.ndarray, " n"], split: str) -> Int[np.ndarray, " rows"]:
    _arguments.choice("split", split, _SPLITS)
    return np.flatnonzero(splits == _SPLITS.index(split))


_PARTS = {"0": 0, "1": 1, "2": 2}


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
    names, photographs = [os.path.normpath(file) for file in files], listed(folder)
    rows_once(table, names, first=first)
    paths = [os.path.join(folder, name) for name in names]
    present = (name in photographs or os.path.isfile(path) for name, path in zip(names, paths, strict=True))
    every(table, first, present, "a photograph that is there", paths.__getitem__)
    unlisted = photographs.difference(names)
    got = f"none for {len(unlisted)} of them, such as {min(unlisted, default='')}: damaged, or put them elsewhere"
    _check.require(not unlisted, str(table), f"a row for each photograph in {folder}", got)
    return ImageFolder(np.array(paths, object), 2.0 * y - 1, attribute, 2 * y + attribute, split, prepare)
