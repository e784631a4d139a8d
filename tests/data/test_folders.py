"""Folders of photographs: small ones in the official formats, and damaged ones."""

from __future__ import annotations

import csv
import gzip
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gsjax import data
from gsjax.data import sources

# File, Blond_Hair, Male, partition.
PORTRAITS = [("000001.jpg", -1, 1, 0), ("000002.jpg", 1, -1, 1), ("000003.jpg", 1, 1, 2), ("000004.jpg", -1, -1, 0)]
# File, y, split, place.
BIRDS = [("001.Albatross/A_1.jpg", 0, 0, 0), ("001.Albatross/A_2.jpg", 1, 1, 0), ("002.Wren/W_1.jpg", 1, 2, 1)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")
    return tmp_path


def photograph(path, width, height):
    """Saves a picture whose red grows to the right and whose green grows downwards, slowly enough for JPEG."""
    row, column = np.mgrid[:height, :width]
    pixels = np.stack([column * 255 // (width - 1), row * 255 // (height - 1), np.zeros_like(column)], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)


def write_celeba(folder):
    lines = [str(len(PORTRAITS)), "Bald Blond_Hair Male "]
    lines += [f"{name} -1 {blond:2d} {male:2d}" for name, blond, male, _ in PORTRAITS]
    celeba = folder / "celeba"
    for name, *_ in PORTRAITS:
        photograph(celeba / "img_align_celeba" / name, 178, 218)
    (celeba / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (celeba / "list_eval_partition.txt").write_text("".join(f"{row[0]} {row[3]}\n" for row in PORTRAITS))
    return celeba


def write_birds(folder, name="waterbird_complete95_forest2water2"):
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    lines += [f"{i},{file},{y},{split},{place},/f/forest.jpg" for i, (file, y, split, place) in enumerate(BIRDS, 1)]
    for file, *_ in BIRDS:
        photograph(folder / name / file, 300, 200)
    (folder / name / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder / name


def test_celeba(folder):
    write_celeba(folder)
    read = data.celeba()
    assert read.y.tolist() == [-1, 1, 1, -1]
    assert read.attribute.tolist() == [1, 0, 1, 0]
    assert read.group.tolist() == [1, 2, 3, 0]
    assert [read.rows(split).tolist() for split in ("train", "validation", "test")] == [[0, 3], [1], [2]]
    swapped = data.celeba("Male", "Blond_Hair")
    np.testing.assert_array_equal(swapped.attribute, read.y > 0)
    np.testing.assert_array_equal(swapped.y > 0, read.attribute)
    with pytest.raises(ValueError, match=r"^split: expected one of train, validation, test, got 'dev'"):
        read.rows("dev")


def test_portraits_are_cropped_to_the_central_square(folder):
    write_celeba(folder)
    pixels = data.load_images(data.celeba(), [2, 0], size=89)
    assert pixels.shape == (2, 89, 89, 3)
    assert pixels.dtype == np.uint8
    # All 178 columns and the rows 20 to 198 of 218, averaged in pairs.
    expected = (np.arange(89) * 2 + 0.5) / 177 * 255, (np.arange(89) * 2 + 20.5) / 217 * 255
    np.testing.assert_allclose(pixels[0, 40, 3:-3, 0], expected[0][3:-3], atol=5)
    np.testing.assert_allclose(pixels[0, 3:-3, 40, 1], expected[1][3:-3], atol=5)


@pytest.mark.parametrize("name", ["waterbird_complete95_forest2water2", "waterbirds_v1.0"])
def test_waterbirds_and_similar_folders(folder, name):
    write_birds(folder, name)
    read = data.waterbirds(name)
    assert read.y.tolist() == [-1, 1, 1]
    assert read.group.tolist() == [0, 2, 3]
    assert read.split.tolist() == [0, 1, 2]
    assert data.waterbirds(name, target="place", attribute="y").group.tolist() == [0, 1, 3]
    # Resized to 64 x 64, of which the central 56 x 56 remain, from 4 to 60.
    [pixels] = data.load_images(read, [1], size=56)
    expected = (np.arange(4, 60) + 0.5) / 64 * 255
    np.testing.assert_allclose(pixels[20, :, 0], expected, atol=6)
    np.testing.assert_allclose(pixels[:, 20, 1], expected, atol=6)


def test_missing_files_are_named(folder):
    with pytest.raises(FileNotFoundError, match=r"fetch CelebA \(list_attr_celeba.txt.*set GSJAX_DATA"):
        data.celeba()
    (write_celeba(folder) / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"list_eval_partition.txt is in none of"):
        data.celeba()
    with pytest.raises(FileNotFoundError, match=r"fetch Waterbirds \(waterbird_complete95_forest2water2.tar.gz"):
        data.waterbirds()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", "4\nBald", "5\nBald", "list_attr_celeba.txt: expected .* 4, on its first line, got 5"),
        ("list_attr_celeba.txt", "4\nBald", "Bald", "list_attr_celeba.txt: expected "),
        ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg", "txt, line 5: expected 4 fields, got 3: damaged"),
        ("list_attr_celeba.txt", "000002.jpg -1  1", "000002.jpg -1  0", "txt, line 4: expected one of -1, 1, got '0'"),
        ("list_attr_celeba.txt", "000004.jpg", "000005.jpg", "partition.txt: expected a line for 000005.jpg .*line 6"),
        ("list_attr_celeba.txt", "Blond_Hair", "Blonde", "target: expected an attribute of .*, got 'Blond_Hair'"),
        ("list_eval_partition.txt", "000002.jpg 1", "000002.jpg", "partition.txt, line 2: expected 2 fields, got 1"),
        ("list_eval_partition.txt", "000002.jpg 1", "000002.jpg 7", "partition.txt, line 2: expected one of 0, 1, 2"),
        (
            "list_attr_celeba.txt",
            "000002",
            "000001",
            "celeba.txt, line 4: expected one row for 000001.jpg, .* on line 3",
        ),
        ("list_attr_celeba.txt", "Bald", "Male", "celeba.txt, line 2: expected different names .* got 'Male' twice"),
        ("list_attr_celeba.txt", "Bald", '"Bald', "celeba.txt, line 2: expected words .*, got a stray quote"),
        ("list_attr_celeba.txt", "000003.jpg", "\n000003.jpg", "celeba.txt: expected the number of its rows, 5"),
        ("list_attr_celeba.txt", "000003.jpg", "000003.jpg\0", "celeba.txt, line 5: expected text .*, got a zero byte"),
        ("list_eval_partition.txt", "000002", "000001", "partition.txt, line 2: expected one row for 000001.jpg"),
        (
            "list_eval_partition.txt",
            "4.jpg 0",
            "4.jpg 0\n9.jpg 0",
            "partition.txt, line 5: expected a photograph of .*",
        ),
        ("list_eval_partition.txt", "000003", "\n000003", "partition.txt, line 3: expected 2 fields, got 0"),
    ],
)
def test_damaged_tables_of_celeba_are_named(folder, file, old, new, message):
    table = write_celeba(folder) / file
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        data.celeba()


def test_an_empty_table_is_named(folder):
    (write_celeba(folder) / "list_attr_celeba.txt").write_text("")
    with pytest.raises(ValueError, match=r"list_attr_celeba.txt: expected"):
        data.celeba()
    (write_birds(folder) / "metadata.csv").write_text("")
    with pytest.raises(ValueError, match=r"metadata.csv: expected a column img_filename, got an empty file"):
        data.waterbirds()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("split,place,", "split,ground,", "metadata.csv: expected a column place, got img_id, img_filename, y, split"),
        (",0,0,0,/f/forest.jpg", ",0,0", "metadata.csv, line 2: expected 6 fields, got 4: damaged"),
        (",1,1,0,", ",1,3,0,", "metadata.csv, line 3: expected one of 0, 1, 2, got '3'"),
        (",1,1,0,", ",-1,1,0,", "metadata.csv, line 3: expected one of 0, 1, got '-1'"),
        ("W_1.jpg", "W_9.jpg", r"metadata.csv, line 4: expected a photograph that is there, got .*W_9.jpg"),
        ("A_2.jpg", "A_1.jpg", r"metadata.csv, line 3: expected one row for 001.Albatross/A_1.jpg, got .* on line 2"),
        ("A_2.jpg", "../001.Albatross/A_1.jpg", r"metadata.csv, line 3: expected one row for 001.Albatross/A_1.jpg"),
        ("2,001", '"2,001', "metadata.csv, line 3: expected fields .*, got a stray quote: damaged"),
        ("2,001", '"2"x,001', "metadata.csv, line 3: expected fields .*, got a stray quote: damaged"),
        (",1,1,0,", ',1,1,0",', "metadata.csv, line 3: expected fields .*, got a stray quote: damaged"),
        ("2,001", "\n2,001", "metadata.csv, line 3: expected 6 fields, got 0: damaged"),
        ("y,split", "y,y", "metadata.csv, line 1: expected different names of columns, got 'y' twice"),
        ("2,001", "x" * 200_000 + "2,001", "metadata.csv, line 3: damaged"),
        ("2,001", "\0,001", "metadata.csv, line 3: expected text in UTF-8, got a zero byte"),
        (
            "3,002.Wren/W_1.jpg,1,2,1,/f/forest.jpg\n",
            "",
            "metadata.csv: expected a row for each .*none for 1 .*W_1.jpg",
        ),
    ],
)
def test_damaged_metadata_are_named(folder, old, new, message):
    table = write_birds(folder) / "metadata.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        data.waterbirds()


def same(text):
    """Encodings of the same text."""
    return {
        "a byte-order mark": b"\xef\xbb\xbf" + text,
        "CRLF": text.replace(b"\n", b"\r\n"),
        "CR": text.replace(b"\n", b"\r"),
        "both": b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
        "no last end of line": text.rstrip(b"\n"),
        "blank last lines": text + b"\n\r\n  \n",
        "spaces at the end of lines": text.replace(b"\n", b" \t\n"),
        "gzip": gzip.compress(text),
    }


def others(text):
    """Encodings that are not UTF-8, each with the line on which it is noticed."""
    lines = text.split(b"\n")
    return {
        "UTF-16": (text.decode().encode("utf-16"), 1),
        "UTF-16 without a mark": (text.decode().encode("utf-16-le"), 1),
        "Latin-1": (b"\n".join([*lines[:2], lines[2] + b"\xe9", *lines[3:]]), 3),
        "Latin-1 after CRLF": (b"\r\n".join([*lines[:2], lines[2] + b"\xe9", *lines[3:]]), 3),
    }


TABLES = ["list_attr_celeba.txt", "list_eval_partition.txt", "metadata.csv"]


def write_table(folder, file):
    """Writes a table; gives its path and its reader."""
    if file == "metadata.csv":
        return write_birds(folder) / file, data.waterbirds
    return write_celeba(folder) / file, data.celeba


@pytest.mark.parametrize("file", TABLES)
@pytest.mark.parametrize("encoding", same(b""))
def test_other_encodings_of_the_same_text(folder, file, encoding):
    table, read = write_table(folder, file)
    expected = read()
    table.write_bytes(same(table.read_bytes())[encoding])
    for leaf, other in zip(read()[:-1], expected[:-1], strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.parametrize("file", TABLES)
@pytest.mark.parametrize("encoding", others(b"\n\n\n"))
def test_text_in_another_encoding_is_named(folder, file, encoding):
    table, read = write_table(folder, file)
    content, line = others(table.read_bytes())[encoding]
    table.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file}, line {line}: expected text in UTF-8, got ") as caught:
        read()
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("file", TABLES)
def test_a_table_with_missing_or_repeated_lines_is_noticed(folder, file):
    """A line is removed, a line is doubled, or the table is cut off, at every line."""
    table, read = write_table(folder, file)
    expected, lines = read(), table.read_text().splitlines(keepends=True)
    for index in range(len(lines)):
        for changed in (lines[:index] + lines[index + 1 :], lines[: index + 1] + lines[index:], lines[:index]):
            table.write_text("".join(changed))
            with pytest.raises(ValueError, match=rf"{file}|^target: expected an attribute"):
                read()
    table.write_text("".join(lines))
    assert read().paths.tolist() == expected.paths.tolist()


def test_quoted_fields(folder):
    table = write_birds(folder) / "metadata.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    for row in rows[1:]:
        row[-1] = 'a place, "so called"'
    with table.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    assert data.waterbirds().y.tolist() == [-1, 1, 1]


def test_photographs_without_a_row(folder):
    birds, celeba = write_birds(folder), write_celeba(folder)
    for hidden in (birds / "001.Albatross" / "._A_1.jpg", birds / "RELEASE.txt", celeba / "img_align_celeba" / "x.txt"):
        hidden.write_text("")
    assert (len(data.waterbirds().y), len(data.celeba().y)) == (3, 4)
    photograph(birds / "003.Gull" / "G_1.JPG", 30, 20)
    with pytest.raises(ValueError, match=r"metadata.csv: expected a row for each photograph in .*003.Gull/G_1.JPG"):
        data.waterbirds()
    photograph(celeba / "img_align_celeba" / "000009.jpg", 30, 20)
    with pytest.raises(
        ValueError, match=r"celeba.txt: expected a row for each photograph in .*none for 1 .* 000009.jpg"
    ):
        data.celeba()


def test_a_file_in_place_of_the_folder(folder):
    celeba = write_celeba(folder)
    (celeba / "img_align_celeba").rename(celeba / "moved")
    (celeba / "img_align_celeba").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"img_align_celeba: expected a folder of photographs, got a file"):
        data.celeba()


@pytest.mark.parametrize("damage", [lambda content: content[:900], lambda content: b"<html>", lambda content: b""])
def test_a_damaged_photograph_is_named(folder, damage):
    path = write_birds(folder) / BIRDS[2][0]
    read = data.waterbirds()
    path.write_bytes(damage(path.read_bytes()))
    assert len(data.load_images(read, [0, 1], size=8)) == 2
    with pytest.raises(ValueError, match=r"W_1.jpg: cannot be read \(.*\), fetch it again"):
        data.load_images(read, [0, 1, 2], size=8)
    for rows, size in (([], 8), ([0], 0)):
        with pytest.raises(ValueError, match=r"^(rows|size): "):
            data.load_images(read, rows, size=size)


PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def shown(path):
    """The pixels of a picture as they are read, without resizing."""
    zero = np.zeros(1, int)
    folder = data.ImageFolder(
        np.array([path], object), -np.ones(1), zero, zero, zero, lambda photograph, size: photograph
    )
    return data.load_images(folder, [0], size=1)[0]


GRAY = np.asarray(PICTURE.convert("L"))[..., None].repeat(3, axis=-1)


@pytest.mark.parametrize(
    ("name", "picture", "options", "expected"),
    [
        ("rgb.png", PICTURE, {}, PIXELS),
        ("rgb.bmp", PICTURE, {}, PIXELS),
        ("rgb.webp", PICTURE, {"lossless": True}, PIXELS),
        ("opaque.png", PICTURE.convert("RGBA"), {}, PIXELS),
        ("gray.png", PICTURE.convert("L"), {}, GRAY),
        ("gray-alpha.png", PICTURE.convert("LA"), {}, GRAY),
        ("gray.bmp", PICTURE.convert("L"), {}, GRAY),
        ("black.png", PICTURE.convert("1"), {}, np.asarray(PICTURE.convert("1").convert("RGB"))),
        ("palette.png", PICTURE.quantize(60), {}, np.asarray(PICTURE.quantize(60).convert("RGB"))),
        ("gray.jpg", Image.new("L", (7, 9), 90), {}, np.full((9, 7, 3), 90)),
        ("inks.jpg", Image.new("CMYK", (7, 9), (255, 0, 255, 0)), {}, np.full((9, 7, 3), (0, 255, 0))),
    ],
)
def test_pictures_of_all_modes_are_read_as_rgb(tmp_path, name, picture, options, expected):
    picture.save(tmp_path / name, **options)
    np.testing.assert_allclose(shown(tmp_path / name).astype(int), expected, atol=1 if name.endswith("jpg") else 0)


def test_the_orientation_in_exif_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a rotation by 90 degrees
    PICTURE.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(shown(tmp_path / "turned.png"), PIXELS)


def png(width, height, bits, color, content):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("deep.png", Image.fromarray(np.full((4, 4), 10_000, np.uint16)), "at most 8 bits per channel, got 16"),
        ("deep.png", png(2, 2, 16, 2, (b"\0" + bytes(12)) * 2), "at most 8 bits per channel, got 16"),
        (
            "clear.png",
            Image.merge("RGBA", [*PICTURE.split(), PICTURE.convert("L")]),
            "an opaque picture, got an opacity",
        ),
        ("clear.png", (PICTURE.quantize(9), {"transparency": 0}), "an opaque picture, got an opacity of 0 in 255"),
        ("clear.png", (PICTURE.quantize(9), {"transparency": bytes([255] * 8 + [3])}), "an opaque picture"),
        ("clear.png", (PICTURE, {"transparency": tuple(PIXELS[0, 0].tolist())}), "an opaque picture"),
        (
            "moving.png",
            (PICTURE, {"save_all": True, "append_images": [PICTURE.rotate(90)]}),
            "one picture, got an anim",
        ),
        (
            "moving.webp",
            (PICTURE, {"save_all": True, "append_images": [PICTURE.rotate(180)]}),
            "one picture, got an anim",
        ),
        ("moving.gif", PICTURE, None),
        ("deep.tiff", PICTURE, None),
        ("large.png", png(9000, 9000, 8, 0, b""), r"at most 67108864 pixels, got 81000000"),
        ("larger.png", png(11_000, 11_000, 8, 0, b""), None),
        ("largest.png", png(2**31 - 1, 2**31 - 1, 8, 0, b""), None),
        ("empty.png", png(0, 0, 8, 0, b""), None),
        ("short.png", png(7, 9, 8, 2, bytes(30)), None),
    ],
)
def test_pictures_that_are_not_photographs_are_named(tmp_path, name, make, message):
    path = tmp_path / name
    if isinstance(make, bytes):
        path.write_bytes(make)
    else:
        picture, options = make if isinstance(make, tuple) else (make, {})
        picture.save(path, **options)
    with pytest.raises(ValueError, match=rf"{name}: {'expected ' + message if message else 'cannot be read'}"):
        shown(path)


def test_a_flipped_bit_of_a_png_is_noticed(tmp_path):
    path = tmp_path / "picture.png"
    PICTURE.save(path)
    whole = path.read_bytes()
    for bit in range(0, 8 * (len(whole) - 12), 3):  # the last twelve bytes mark the end
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"picture.png: "):
            shown(path)


@pytest.mark.parametrize(("name", "options"), [("p.jpg", {}), ("p.jpg", {"progressive": True}), ("p.png", {})])
def test_a_truncated_photograph_is_noticed(tmp_path, name, options):
    path = tmp_path / name
    PICTURE.save(path, **options)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 4, 5):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"{name}: cannot be read"):
            shown(path)
