"""Folders of photographs: small ones in the official formats, what is read of them, and damaged ones."""

from __future__ import annotations

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
    """Red grows to the right and green downwards, two levels a pixel apart enough to survive JPEG."""
    down, right = np.mgrid[:height, :width]
    pixels = np.stack([right * 255 // (width - 1), down * 255 // (height - 1), np.zeros_like(right)], axis=-1)
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


def test_portraits_are_the_square_in_the_middle(folder):
    write_celeba(folder)
    pixels = data.load_images(data.celeba(), [2, 0], size=89)
    assert pixels.shape == (2, 89, 89, 3)
    assert pixels.dtype == np.uint8
    # All 178 columns, and of 218 rows those from 20 to 198; two of each make one.
    expected = (np.arange(89) * 2 + 0.5) / 177 * 255, (np.arange(89) * 2 + 20.5) / 217 * 255
    np.testing.assert_allclose(pixels[0, 40, 3:-3, 0], expected[0][3:-3], atol=5)
    np.testing.assert_allclose(pixels[0, 3:-3, 40, 1], expected[1][3:-3], atol=5)


@pytest.mark.parametrize("name", ["waterbird_complete95_forest2water2", "waterbirds_v1.0"])
def test_waterbirds_and_their_like(folder, name):
    write_birds(folder, name)
    read = data.waterbirds(name)
    assert read.y.tolist() == [-1, 1, 1]
    assert read.group.tolist() == [0, 2, 3]
    assert read.split.tolist() == [0, 1, 2]
    assert data.waterbirds(name, target="place", attribute="y").group.tolist() == [0, 1, 3]
    # Squeezed to 64 x 64, of which the middle 56 x 56 are cut out, from 4 to 60.
    [pixels] = data.load_images(read, [1], size=56)
    expected = (np.arange(4, 60) + 0.5) / 64 * 255
    np.testing.assert_allclose(pixels[20, :, 0], expected, atol=6)
    np.testing.assert_allclose(pixels[:, 20, 1], expected, atol=6)


def test_what_is_missing_is_said(folder):
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
    ],
)
def test_damaged_metadata_are_named(folder, old, new, message):
    table = write_birds(folder) / "metadata.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        data.waterbirds()


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
