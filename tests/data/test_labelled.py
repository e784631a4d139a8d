"""A user's folder of images with a CSV: good and bad lines, good and bad images, and what is reported."""

# pyright: reportArgumentType=false, reportOptionalMemberAccess=false
# Bad input is of any type, options are in dicts of several types, and the groups of these folders are never None.

from __future__ import annotations

import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gsjax.data import labelled_folder, load_examples, load_images

# Image, label, attribute, split.
TABLE = [
    ("a.png", "healthy", "north", "train"),
    ("b.jpg", "ill", "south", "train"),
    ("more/c.bmp", "ill", "north", "val"),
    ("d.webp", "healthy", "south", "test"),
]
ALL = {"attribute": "hospital", "split": "part"}


def save(path, gray, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, gray).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))


def write(folder, rows=TABLE, header="image,label,hospital,part", end="\n", delimiter=","):
    lines = [header.replace(",", delimiter), *(delimiter.join(row) for row in rows)]
    (folder / "labels.csv").write_bytes((end.join(lines) + end).encode())


@pytest.fixture
def folder(tmp_path):
    for number, (name, *_) in enumerate(TABLE):
        save(tmp_path / name, 50 * number)
    write(tmp_path)
    return tmp_path


def test_labels_attributes_groups_and_splits(folder):
    read = labelled_folder(folder, **ALL)
    assert (read.classes, read.attributes) == (("healthy", "ill"), ("north", "south"))
    assert read.y.tolist() == [-1, 1, 1, -1]
    assert read.attribute.tolist() == [0, 1, 0, 1]
    assert read.group.tolist() == [0, 3, 2, 1]
    assert [read.rows(split).tolist() for split in ("train", "validation", "test")] == [[0, 1], [2], [3]]
    assert (read.skipped, read.unlisted, read.duplicates) == ((), (), ())
    pixels = load_images(read, [3, 1], size=4)
    np.testing.assert_array_equal(pixels, np.array([150, 50])[:, None, None, None].repeat(48, 1).reshape(2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"^split: expected one of train, validation, test, got 'val'"):
        read.rows("val")


def test_examples(folder, x64):
    read = labelled_folder(folder, **ALL)
    x, y, group, environment = load_examples(read, [2, 0], size=4, channels=1)
    assert (x.shape, x.dtype, y.dtype) == ((2, 4, 4, 1), x64, x64)
    np.testing.assert_allclose(x[:, 0, 0, 0], np.array([100, 0]) / 127.5 - 1, rtol=1e-6)
    assert (y.tolist(), group.tolist(), environment) == ([1, -1], [2, 0], None)
    assert load_examples(labelled_folder(folder), [0], size=4).group is None


def test_classes_and_attributes_in_a_given_order(folder):
    read = labelled_folder(folder, **ALL, classes=("ill", "healthy"), attributes=("south", "north"))
    assert read.y.tolist() == [1, -1, -1, 1]
    assert read.attribute.tolist() == [1, 0, 1, 0]
    # More than two classes: indices, and no groups. Whole numbers are in order of size.
    write(folder, [("a.png", "10", "x", "0"), ("b.jpg", "9", "y", "1"), ("d.webp", "-1", "x", "2")])
    read = labelled_folder(folder, **ALL)
    assert (read.classes, read.y.tolist(), read.group) == (("-1", "9", "10"), [2, 1, 0], None)
    assert np.issubdtype(load_examples(read, [0, 1, 2], size=2).y.dtype, np.integer)
    assert read.split.tolist() == [0, 1, 2]
    assert read.unlisted == ("more/c.bmp",)
    # Three attributes: no groups.
    write(folder, [("a.png", "x", "1", "0"), ("b.jpg", "y", "2", "1"), ("d.webp", "x", "3", "2")])
    read = labelled_folder(folder, attribute="hospital")
    assert (read.attributes, read.attribute.tolist(), read.group) == (("1", "2", "3"), [0, 1, 2], None)


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("quoted", [False, True])
def test_tables_as_programs_write_them(folder, delimiter, end, start, quoted):
    rows = [("1", *row) for row in TABLE]
    quote = '"{}"'.format if quoted else str
    cells = [(*map(quote, row), '"said ""yes, no; maybe"""') for row in rows]
    header = ",".join(map(quote, ("number", "image", "label", "hospital", "part", "note")))
    write(folder, cells, header, end, delimiter)
    table = folder / "labels.csv"
    table.write_bytes(start + table.read_bytes())
    read = labelled_folder(folder, **ALL)
    assert read.group.tolist() == [0, 3, 2, 1]
    assert read.paths.tolist() == [str(folder / name) for name, *_ in TABLE]


def test_other_places_and_names(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("tables") / "t.csv"
    rows = [("more\\c.bmp", "1"), ("./a.png", "0"), (str(folder / "b.jpg"), "1")]
    elsewhere.write_text("".join(f"{a};{b}\n" for a, b in [("file", "ill"), *rows]))
    read = labelled_folder(str(folder), elsewhere, image="file", label="ill")
    assert read.y.tolist() == [1, -1, 1]
    assert read.unlisted == ("d.webp",)
    assert load_images(read, [0, 1, 2], size=2)[:, 0, 0, 0].tolist() == [100, 0, 50]


BAD = [
    ("a.png", "healthy", "north", "train"),
    ("b.jpg", "", "south", "train"),
    ("gone.png", "ill", "north", "val"),
    ("broken.png", "ill", "north", "val"),
    ("text.jpg", "healthy", "north", "test"),
    ("", "ill", "north", "val"),
    ("more/c.bmp", "ill", "west", "later"),
    ("d.webp", "healthy", "south"),
    ("a.png", "healthy", "north", "train"),
    ("e.png", "ill", "north", "train"),
    ("e.png", "healthy", "north", "train"),
    ("./e.png", "ill", "north", "train"),
    ("f.png", 'i"ll', "north", "train"),
    ("f.png", "ill", "south", "train"),
    ("g.png", "unsure", "south", "train"),
    ("more", "ill", "south", ""),
]
EXPECTED = [
    r"line 3: no label",
    r"line 4: gone.png is not there",
    r"line 5: broken.png: cannot be read \(.*\), fetch it again",
    r"line 6: text.jpg: cannot be read \(.*\), fetch it again",
    r"line 7: no image",
    r"line 8: the attribute 'west' is not one of north, south; the split 'later' is not train, validation or test",
    r"line 9: expected 4 fields, got 3",
    r"line 10: a.png is on line 2, too",
    *(rf"line {number}: lines 11, 12, 13 contradict each other about e.png" for number in (11, 12, 13)),
    r"line 14: expected fields between commas, whole ones in quotes, got a stray quote: damaged",
    r"line 16: the label 'unsure' is not one of healthy, ill",
    r"line 17: the split '' is not train, validation or test; more is not there",
]


@pytest.fixture
def bad_folder(folder):
    for name in ("e.png", "f.png", "g.png", "left.png"):
        save(folder / name, 200)
    whole = (folder / "g.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[:-20])
    (folder / "text.jpg").write_text("not a photograph")
    write(folder, BAD)
    return folder


KNOWN = {**ALL, "classes": ("healthy", "ill"), "attributes": ("north", "south")}


def test_all_bad_lines_are_in_one_error(bad_folder):
    with pytest.raises(ValueError, match=r"labels.csv: expected lines with a readable image and a label") as caught:
        labelled_folder(bad_folder, **KNOWN)
    first, *lines = str(caught.value).splitlines()
    assert first.endswith(f"got {len(EXPECTED)} others (skip=True leaves them out)")
    assert len(lines) == len(EXPECTED)
    for line, expected in zip(lines, EXPECTED, strict=True):
        assert re.fullmatch("  " + expected, line), line


def test_skipped_lines_are_listed(bad_folder):
    read = labelled_folder(bad_folder, **KNOWN, skip=True)
    with pytest.raises(ValueError, match="others") as caught:
        labelled_folder(bad_folder, **KNOWN)
    assert [f"  {line}" for line in read.skipped] == str(caught.value).splitlines()[1:]
    assert [path.rpartition("/")[2] for path in read.paths] == ["a.png", "f.png"]
    assert read.y.tolist() == [-1, 1]
    # A line that was left out names its image; only one whose fields cannot be told apart names none.
    assert read.unlisted == ("d.webp", "left.png")
    summary = read.summary()
    assert summary.startswith("2 images\nclass: healthy 1, ill 1\nattribute: north 1, south 1\nsplit: train 2, vali")
    for line in (*read.skipped, *read.unlisted):
        assert f"\n  {line}" in summary


def test_without_a_check_unreadable_images_are_named_when_they_are_read(bad_folder):
    write(bad_folder, [("a.png", "x"), ("broken.png", "y"), ("text.jpg", "y"), ("gone.png", "y")], "image,label")
    with pytest.raises(ValueError, match=r"got 1 others .*\n  line 5: gone.png is not there$"):
        labelled_folder(bad_folder, check=False)
    read = labelled_folder(bad_folder, check=False, skip=True)
    assert len(read.paths) == 3
    assert len(load_images(read, [0], size=2)) == 1
    with pytest.raises(ValueError, match=r"broken.png: cannot be read .*\n.*text.jpg: cannot be read"):
        load_images(read, [0, 1, 2], size=2)


def test_files_with_the_same_bytes(folder):
    shutil.copy(folder / "a.png", folder / "more" / "copy.png")
    shutil.copy(folder / "a.png", folder / "again.png")
    write(folder, [*TABLE, ("more/copy.png", "ill", "north", "test"), ("again.png", "ill", "north", "test")])
    read = labelled_folder(folder, **ALL)
    assert read.duplicates == ((0, 4, 5),)
    assert "the same file: 1" in read.summary()
    assert labelled_folder(folder, **ALL, check=False).duplicates == ()


def test_gray_pictures_of_16_bits(folder):
    deep = np.array([[0, 100, 101, 2100], [4095, 4100, 4101, 65535]], np.uint16).repeat(4, 0).repeat(2, 1)
    Image.fromarray(deep).save(folder / "deep.png")
    write(folder, [("d.webp", "x"), ("deep.png", "y")], "image,label")
    with pytest.raises(
        ValueError, match=r"deep.png: expected at most 8 bits per channel, got 16 \(gray ones .* levels"
    ):
        labelled_folder(folder)
    read = labelled_folder(folder, levels=(100, 4100))
    pixels = load_images(read, [1, 0], size=8)
    # (v - 100) / 4000 of 255, rounded: 101 -> 0.06, 2100 -> 127.5, to even, 4095 -> 254.7.
    np.testing.assert_array_equal(pixels[0, 0, ::2, 0], [0, 0, 0, 128])
    np.testing.assert_array_equal(pixels[0, 7, ::2, 0], [255, 255, 255, 255])
    np.testing.assert_array_equal(pixels[1], 150)  # 8 bits as they are
    inverted = load_images(labelled_folder(folder, levels=(4100, 100)), [1], size=8)
    np.testing.assert_array_equal(inverted[0, 0, ::2, 0], [255, 255, 255, 128])
    assert pixels.dtype == np.uint8


def test_colours_of_16_bits_are_refused(folder):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    body = zlib.compress((b"\0" + bytes(12)) * 2)
    (folder / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    write(folder, [("a.png", "x"), ("deep.png", "y")], "image,label")
    with pytest.raises(ValueError, match=r"line 3: deep.png: expected at most 8 bits per channel, got 16: replace"):
        labelled_folder(folder, levels=(0, 65535))


def test_fits(folder):
    """A picture of 4 x 12 whose outer thirds are dark."""
    wide = np.full((4, 12), 240, np.uint8)
    wide[:, :4] = wide[:, 8:] = 60
    Image.fromarray(wide).save(folder / "a.png")
    write(folder, [("a.png", "x"), ("b.jpg", "y")], "image,label")
    crop, pad, stretch = (
        load_images(labelled_folder(folder, fit=fit), [0], size=12, channels=1)[0, ..., 0]
        for fit in ("crop", "pad", "stretch")
    )
    np.testing.assert_array_equal(crop, 240)
    np.testing.assert_array_equal(pad[4:8], wide)
    np.testing.assert_array_equal(pad[[0, 3, 8, 11]], 0)
    np.testing.assert_array_equal(stretch, np.repeat(wide, 3, 0))


def test_colours_become_gray_with_one_channel(folder):
    Image.new("RGB", (4, 4), (200, 100, 50)).save(folder / "a.png")
    write(folder, [("a.png", "x"), ("b.jpg", "y")], "image,label")
    read = labelled_folder(folder)
    assert set(np.unique(load_images(read, [0], size=2))) == {50, 100, 200}
    luma = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    np.testing.assert_array_equal(load_images(read, [0], size=2, channels=1), np.full((1, 2, 2, 1), luma))


@pytest.mark.parametrize(
    ("rows", "header", "options", "message"),
    [
        (TABLE, "image,class,hospital,part", {}, r"^label: expected a column of .*: image, class, .*, got 'label'"),
        (TABLE, "file,label,hospital,part", {}, r"^image: expected a column of "),
        (TABLE, "image,label,hospital,part", {"attribute": "age"}, r"^attribute: expected a column of .*, got 'age'"),
        (TABLE, "image,label,hospital,part", {"split": "age"}, r"^split: expected a column of "),
        (TABLE, "image,label,label,part", {}, r"labels.csv, line 1: expected different names of columns, got 'label'"),
        (TABLE, '"image,label', {}, r"labels.csv, line 1: expected names of columns"),
        ([], "image,label", {}, r"^label: expected a column with two classes or more in .*, got no image, after 0 "),
        (
            [("a.png", "x"), ("b.jpg", "x")],
            "image,label",
            {},
            r"^label: expected a column with two classes .*, got 'x'",
        ),
        ([("a.png", "x"), ("b.jpg", "y")], "image,label", {"classes": ("x", "y", "z")}, r"^classes: .*none with 'z'"),
        (TABLE, "image,label,hospital,part", {"classes": ("ill", "ill")}, r"^classes: expected different names"),
        (TABLE, "image,label,hospital,part", {"classes": "ill"}, r"^classes: "),
        (TABLE, "image,label,hospital,part", {"classes": (0, 1)}, r"^classes: "),
        (TABLE, "image,label,hospital,part", {"attributes": ("north",)}, r"^attributes: expected none without"),
        (TABLE, "image,label,hospital,part", {"fit": "squeeze"}, r"^fit: expected one of crop, pad, stretch"),
        (TABLE, "image,label,hospital,part", {"levels": (0, 65536)}, r"^levels: expected two different whole numbers"),
        (TABLE, "image,label,hospital,part", {"levels": (9, 9)}, r"^levels: "),
        (TABLE, "image,label,hospital,part", {"levels": 255}, r"^levels: "),
        (TABLE, "image,label,hospital,part", {"levels": (0.0, 1.0)}, r"^levels: "),
        (TABLE, "image,label,hospital,part", {"check": 1}, r"^check: expected True or False"),
        (TABLE, "image,label,hospital,part", {"skip": "yes"}, r"^skip: expected True or False"),
        (TABLE, "image,label,hospital,part", {"label": None}, r"^label: expected the name of a column"),
        (TABLE, "image,label,hospital,part", {"attribute": 3}, r"^attribute: expected the name of a column"),
        (TABLE, "image,label,hospital,part", {"table": 3}, r"^table: expected the path of a CSV"),
        (TABLE, "image,label,hospital,part", {"table": "gone.csv"}, r"gone.csv: expected a file, got none"),
    ],
)
def test_bad_tables_and_arguments_are_named(folder, rows, header, options, message):
    write(folder, rows, header)
    with pytest.raises(ValueError, match=message):
        labelled_folder(folder, **options)


def test_a_bad_folder_and_bad_reading_are_named(folder):
    for bad in (folder / "gone", folder / "labels.csv", 3, None):
        with pytest.raises(ValueError, match=r"^folder: expected the path of a folder"):
            labelled_folder(bad)
    read = labelled_folder(folder)
    for channels in (0, 2, 4):
        with pytest.raises(ValueError, match=r"^channels: expected 1 or 3"):
            load_images(read, [0], size=2, channels=channels)
    with pytest.raises(ValueError, match=r"^folder: expected an ImageFolder or a LabelledFolder"):
        load_examples(tuple(read), [0])
    with pytest.raises(ValueError, match=r"^rows: expected 0 to 3, got 4 to 4"):
        load_examples(read, [4])
    (folder / "labels.csv").write_text("")
    with pytest.raises(ValueError, match=r"^image: expected a column of .*labels.csv: an empty file, got 'image'"):
        labelled_folder(folder)
    (folder / "labels.csv").write_bytes("image,label\na.png,krank\nb.jpg,Müller\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels.csv, line 3: expected text in UTF-8"):
        labelled_folder(folder)


def test_rows_of_large_folders_are_read_one_batch_at_a_time(folder):
    read = labelled_folder(folder, **ALL)
    batches = [load_images(read, rows, size=2) for rows in np.array_split(read.rows("train"), 2)]
    np.testing.assert_array_equal(np.concatenate(batches), load_images(read, read.rows("train"), size=2))
