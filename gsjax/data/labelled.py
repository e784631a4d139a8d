"""A user's folder of images, with a CSV of labels: for example radiographs with diagnoses and hospitals."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from gsjax import _check, progress
from gsjax.data import _arguments
from gsjax.data._pictures import ENDINGS, listed, padded, photograph, portrait, stretched
from gsjax.data._reading import lines
from gsjax.data._tables import check_unique, fields
from gsjax.data.folders import LabelledFolder

__all__ = ["labelled_folder"]

_FITS = {"crop": portrait, "pad": padded, "stretch": stretched}
_SPLITS = {"train": 0, "training": 0, "0": 0, "validation": 1, "valid": 1, "val": 1, "1": 1, "test": 2, "2": 2}
_DELIMITERS = (",", ";")


class _Row(NamedTuple):
    """A line of the table: its number, the image, and the texts of its other columns."""

    number: int
    image: str
    label: str
    attribute: str
    split: str


def labelled_folder(
    folder: str | os.PathLike[str],
    table: str | os.PathLike[str] = "labels.csv",
    *,
    image: str = "image",
    label: str = "label",
    attribute: str | None = None,
    split: str | None = None,
    classes: Sequence[str] = (),
    attributes: Sequence[str] = (),
    fit: str = "crop",
    levels: tuple[int, int] | None = None,
    check: bool = True,
    skip: bool = False,
) -> LabelledFolder:
    r"""A folder of images with a CSV of labels, and if wanted of an attribute and a split.

    The first line of the CSV has the names of the columns, and each other line is about one image. Fields are between
    commas or semicolons, and may be in quotes. The text is UTF-8, with or without a byte-order mark, with any line
    ending. Other columns are ignored.

    `load_examples` reads images that fit into memory, and `load_images` those of single batches. The formats are JPEG,
    PNG, BMP and WebP, gray or coloured. A gray PNG with 16 bits, as in radiology, is refused unless `levels` says which
    values become black and white: values between are scaled linearly and rounded to 8 bits, so finer differences are
    lost, and all others become black or white. The levels are the same for all images, because a range of each image's
    own would change what brightness means from image to image. Other pictures with 16 bits are refused.

    Nothing is left out silently. All lines that cannot be used are in one error, with their numbers and reasons: no
    image or no label; an unknown class, attribute or split; an image that is missing or unreadable; an image that
    another line names, too. With `skip`, they are left out, and are in the field `skipped` of the result. Of lines
    that say the same about an image, the first is kept; of lines that contradict each other, none. Images that no line
    names are in the field `unlisted`, and different files with the same bytes in `duplicates`. All this is in the text
    that `summary()` returns.

    Args:
        folder: the folder; subfolders belong to it.
        table: the CSV, in the folder or an absolute path.
        image: the column with the files, as paths from the folder.
        label: the column with the names of the classes.
        attribute: the column with a feature that may be spuriously correlated with the label.
        split: the column with train, validation or test (training, valid and val are understood, and 0, 1 and 2).
        classes: the names of the classes in order; the first of two becomes y = -1, the second y = +1. By default all
            names of the column, in alphabetical order, or by size if they are whole numbers.
        attributes: the same for the attribute.
        fit: how an image that is not square becomes so: "crop" keeps the central square, "pad" adds black bars,
            "stretch" changes the proportions.
        levels: the values of gray PNGs with 16 bits that become black and white, e.g. (0, 4095) for images of 12 bits;
            a first value above the second inverts brightness.
        check: whether all images are decoded to find unreadable ones, and compared. Without, only missing ones are
            found, and `load_images` names unreadable ones.
        skip: whether lines that cannot be used are left out, instead of an error.

    Raises:
        ValueError: no such folder; a table that is not such a text, or has no such column; lines that cannot be used;
            fewer than two classes, or a name in `classes` or `attributes` without images; an unknown `fit`; `levels`
            that are not two different whole numbers from 0 to 65535. The error names the argument or the file.
        OSError: the table cannot be read.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as place:
    ...     for name in ("a.png", "b.png", "c.png"):
    ...         Image.new("L", (9, 9), len(os.listdir(place))).save(os.path.join(place, name))
    ...     with open(os.path.join(place, "labels.csv"), "w") as file:
    ...         _ = file.write("image,label\na.png,healthy\nb.png,ill\n")
    ...     found = labelled_folder(place)
    >>> found.classes, found.y.tolist(), found.unlisted
    (('healthy', 'ill'), [-1.0, 1.0], ('c.png',))
    """
    _check.require(_is_path(folder) and os.path.isdir(folder), "folder", "the path of a folder", repr(folder))
    _check.require(_is_path(table), "table", "the path of a CSV", _arguments.shown(table))
    named = {"image": image, "label": label, "attribute": attribute, "split": split}
    for name, column in named.items():
        good = isinstance(column, str) or (column is None and name in ("attribute", "split"))
        _check.require(good, name, "the name of a column", _arguments.shown(column))
    known = [_names("classes", classes), _names("attributes", attributes)]
    _check.require(not known[1] or attribute, "attributes", "none without the column of an attribute", known[1])
    _check.choice("fit", fit, _FITS)
    if levels is not None:
        expected = "two different whole numbers from 0 to 65535"
        pair = _arguments.wholes("levels", levels, expected)
        good = len(pair) == 2 and pair[0] != pair[1] and min(pair) >= 0 and max(pair) <= 65535
        _check.require(good, "levels", expected, levels)
        levels = (pair[0], pair[1])
    check, skip = _check.flag("check", check), _check.flag("skip", skip)

    path = Path(folder) / table
    every, problems = _parsed(path, {name: column for name, column in named.items() if column is not None})
    problems |= {row.number: problem for row in every if (problem := _problem(row, Path(folder), named, known))}
    problems |= _repeated([row for row in every if row.number not in problems])
    digests = {}
    if check:
        digests, unreadable = _decoded([row for row in every if row.number not in problems], Path(folder), levels)
        problems |= unreadable
    told = tuple(f"line {number}: {problems[number]}" for number in sorted(problems))
    got = f"{len(told)} others (skip=True leaves them out)\n  " + "\n  ".join(told)
    _check.require(not told or skip, str(path), "lines with a readable image and a label", got)
    rows = [row for row in every if row.number not in problems]

    y, labels = _indices("classes", [row.label for row in rows], known[0])
    got = ", ".join(map(repr, labels)) or f"no image, after {len(told)} skipped lines"
    _check.require(len(labels) > 1, "label", f"a column with two classes or more in {path}", got)
    spurious, values = _indices("attributes", [row.attribute for row in rows], known[1]) if attribute else (None, ())
    same: dict[bytes | None, list[int]] = {}
    for index, row in enumerate(rows):
        same.setdefault(digests.get(row.number), []).append(index)
    named_images = {os.path.relpath(os.path.join(folder, row.image), folder) for row in every}
    return LabelledFolder(
        paths=np.array([os.path.join(folder, row.image) for row in rows], object),
        y=2.0 * y - 1 if len(labels) == 2 else y,
        attribute=spurious,
        group=2 * y + spurious if spurious is not None and len(labels) == len(values) == 2 else None,
        split=np.array([_SPLITS[row.split.lower()] if split else 0 for row in rows]),
        prepare=_FITS[fit],
        levels=levels,
        classes=labels,
        attributes=values,
        skipped=told,
        unlisted=tuple(sorted(listed(folder, endings=(*ENDINGS, ".bmp", ".webp")) - named_images)),
        duplicates=tuple(tuple(group) for digest, group in same.items() if digest and len(group) > 1),
    )


def _parsed(path: Path, columns: Mapping[str, str]) -> tuple[list[_Row], dict[int, str]]:
    """The rows of a table, and what is wrong with all other lines, by number; `columns` are by argument."""
    first, *others = lines(path) or [""]
    headers = {}
    for delimiter in _DELIMITERS:
        try:
            headers[delimiter] = fields(path, first, 1, delimiter)
        except ValueError:  # a quoted name is followed by another delimiter
            continue
    _check.require(headers, f"{path}, line 1", "names of columns, whole ones in quotes", first)
    delimiter = max(headers, key=lambda one: len(headers[one]))
    names = headers[delimiter]
    check_unique(f"{path}, line 1", names)
    for name, column in columns.items():
        _check.require(
            column in names, name, f"a column of {path}: {', '.join(names) or 'an empty file'}", repr(column)
        )
    rows, problems = [], {}
    for number, line in enumerate(others, 2):
        try:
            entries = fields(path, line, number, delimiter)
        except ValueError as error:
            problems[number] = str(error).removeprefix(f"{path}, line {number}: ")
            continue
        if len(entries) != len(names):
            problems[number] = f"expected {len(names)} fields, got {len(entries)}"
            continue
        texts = {name: entries[names.index(column)] for name, column in columns.items()}
        image = texts["image"].replace("\\", "/")
        rows.append(
            _Row(
                number,
                os.path.normpath(image) if image else "",
                texts["label"],
                texts.get("attribute", ""),
                texts.get("split", ""),
            )
        )
    return rows, problems


def _problem(row: _Row, folder: Path, named: Mapping[str, str | None], known: Sequence[Sequence[str]]) -> str:
    """Why a row cannot be used, apart from what is in the image; empty if it can."""
    reasons = []
    for name, text, names in (("label", row.label, known[0]), ("attribute", row.attribute, known[1])):
        if named[name] is not None and not text:
            reasons.append(f"no {name}")
        elif names and text not in names:
            reasons.append(f"the {name} {text!r} is not one of {', '.join(names)}")
    if named["split"] is not None and row.split.lower() not in _SPLITS:
        reasons.append(f"the split {row.split!r} is not train, validation or test")
    if not row.image:
        reasons.append("no image")
    elif not (folder / row.image).is_file():
        reasons.append(f"{row.image} is not there")
    return "; ".join(reasons)


def _repeated(rows: Sequence[_Row]) -> dict[int, str]:
    """What is wrong with rows about the same image, by number."""
    by_image: dict[str, list[_Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    found = {}
    for image, same in by_image.items():
        if len({row[2:] for row in same}) > 1:
            numbers = ", ".join(str(row.number) for row in same)
            found |= {row.number: f"lines {numbers} contradict each other about {image}" for row in same}
        else:
            found |= {row.number: f"{image} is on line {same[0].number}, too" for row in same[1:]}
    return found


def _decoded(
    rows: Sequence[_Row], folder: Path, levels: tuple[int, int] | None
) -> tuple[dict[int, bytes], dict[int, str]]:
    """A digest of the bytes of each image that can be read, and what is wrong with the others, by number."""

    def read(row: _Row) -> bytes | str:
        path = os.path.join(folder, row.image)
        try:
            photograph(path, levels)
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except (ValueError, OSError) as error:
            return str(error).replace(path, row.image, 1)

    digests, problems = {}, {}
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        for row, found in zip(progress.track(rows, "checking images"), pool.map(read, rows), strict=True):
            if isinstance(found, bytes):
                digests[row.number] = found
            else:
                problems[row.number] = found
    return digests, problems


def _indices(name: str, texts: Sequence[str], known: Sequence[str]) -> tuple[Int[np.ndarray, " n"], tuple[str, ...]]:
    """The index of each text in the names `known`, or else in all that occur; and these names."""
    names = tuple(known) or tuple(sorted(set(texts), key=_order))
    missing = sorted(set(names) - set(texts))
    _check.require(not missing, name, "names that images have", f"none with {', '.join(map(repr, missing))}")
    return np.array([names.index(text) for text in texts], int), names


def _order(name: str) -> tuple[bool, int, str]:
    """Whole numbers by size, before all other names in alphabetical order."""
    whole = re.fullmatch(r"-?[0-9]+", name)
    return whole is None, int(name) if whole else 0, name


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _names(name: str, values: Any) -> tuple[str, ...]:
    """`values` as a tuple of different texts."""
    found = _arguments.sequence(name, values, "different names")
    good = all(isinstance(value, str) for value in found) and len(set(found)) == len(found)
    _check.require(good, name, "different names", _arguments.shown(values))
    return found
