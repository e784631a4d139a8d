"""Arrays of examples: what is read, what is converted and said, and what is refused."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import pytest

from gsjax.cli import examples

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([-1, 1, 1, -1])


@pytest.fixture
def file(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return write


def test_arrays_are_read(file):
    pictures = np.zeros((4, 2, 2), np.uint8)
    found = examples.load(file(x=X, y=Y, group=np.array([0.0, 1.0, 0.0, 1.0]), inputs=pictures, index=Y))
    np.testing.assert_array_equal(found.x, X)
    np.testing.assert_array_equal(found.y, Y)
    np.testing.assert_array_equal(found.group, [0, 1, 0, 1])
    assert found.group is not None
    assert found.group.dtype == np.int32
    np.testing.assert_array_equal(found.inputs, pictures)
    assert "x float32 (4, 3), y int64 (4,), group float64 (4,), inputs uint8 (4, 2, 2) from" in found.notes[0]
    assert found.notes[1:] == ("data: not used: index",)
    alone = examples.load(file(x=X, y=Y))
    assert alone.group is alone.inputs is None
    assert len(alone.notes) == 1


def test_bytes_are_pictures_and_other_whole_numbers_stay(file):
    pixels = np.array([[0, 51], [255, 1]], np.uint8)
    scaled = examples.load(file(x=pixels, y=Y[:2]))
    np.testing.assert_allclose(scaled.x, [[0.0, 0.2], [1.0, 1 / 255]], rtol=1e-7)
    assert scaled.x.dtype == np.float32
    assert scaled.notes[1] == "data: x in uint8 is divided by 255; --uint8 keep passes it on unchanged"
    kept = examples.load(file(x=pixels, y=Y[:2]), scale=False)
    np.testing.assert_array_equal(kept.x, pixels)
    assert kept.x.dtype == np.uint8
    tokens = examples.load(file(x=pixels.astype(np.int64), y=Y[:2]))
    assert tokens.x.dtype == np.int64
    assert tokens.notes[1] == "data: x in int64 is passed on unchanged"


@pytest.mark.parametrize(
    ("y", "outputs", "expected", "said"),
    [
        ([-1, 1, 1], None, [-1, 1, 1], 0),
        ([0, 1, 1], None, [-1, 1, 1], 1),
        ([0.0, 1.0, 1.0], None, [-1, 1, 1], 1),
        ([1, 1, 1], None, [1, 1, 1], 0),
        ([0, 2, 1], 3, [0, 2, 1], 0),
        ([0.0, 1.0, 1.0], 2, [0, 1, 1], 0),
    ],
)
def test_labels(y, outputs, expected, said):
    found, notes = examples.labels(np.array(y), outputs)
    assert found.tolist() == expected
    assert len(notes) == said
    assert np.issubdtype(found.dtype, np.floating if outputs is None else np.integer)


@pytest.mark.parametrize(
    ("y", "outputs", "complaint"),
    [
        ([0, 1, 2], None, r"expected labels -1 and \+1, or 0 and 1, for a network with one output, got 0, 1, 2$"),
        ([0.5, 1.0], None, "got 0.5, 1.0$"),
        ([0, 3], 3, r"expected classes 0 to 2 for a network with outputs \(n, 3\), got 0, 3$"),
        ([0.5, 1.0], 2, "got 0.5, 1.0$"),
        ([2**40, 0], 2, "got 0, 1099511627776$"),
        ([-1, 1], 2, r"let the network return one output, f\[:, 1\] - f\[:, 0\]$"),
        (list(range(9)), None, r"got 0, 1, 2, 3, 4, \.\.\.$"),
    ],
)
def test_other_labels_are_refused(y, outputs, complaint):
    with pytest.raises(ValueError, match=f"^data: y: .*{complaint}"):
        examples.labels(np.array(y), outputs)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": X}, "expected an array y, got x$"),
        ({"images": X, "labels": Y}, "expected an array x, got images, labels$"),
        ({"x": X, "y": Y[:3]}, r"y: expected shape \(4,\), as x has 4 examples, got \(3,\)$"),
        ({"x": X, "y": Y[:, None]}, r"y: expected shape \(4,\), as x has 4 examples, got \(4, 1\)$"),
        ({"x": X, "y": Y, "group": Y[:2]}, r"group: expected shape \(4,\)"),
        ({"x": X, "y": Y, "inputs": X[:2]}, r"inputs: expected shape \(4, \.\.\.\)"),
        ({"x": X, "y": Y, "group": Y / 2}, "group: expected whole numbers, got float64$"),
        ({"x": X * np.nan, "y": Y}, "x: expected finite numbers, got 12 NaN or infinite entries$"),
        ({"x": X[:0], "y": Y[:0]}, r"x: expected examples \(n, \.\.\.\), got shape \(0, 3\)$"),
        ({"x": np.float32(1), "y": Y}, r"x: expected examples \(n, \.\.\.\), got shape \(\)$"),
        ({"x": X + 1j, "y": Y}, "x: expected an array of numbers, got complex64"),
        ({"x": X, "y": np.array(["cat", "dog"] * 2)}, "y: expected an array of numbers, got <U3"),
        ({"x": X, "y": np.array([None] * 4)}, "y: .*got Python objects, which are pickled and never read"),
    ],
)
def test_other_arrays_are_refused(arrays, complaint, file):
    with pytest.raises(ValueError, match=r"^data: .*data\.npz: ") as error:
        examples.load(file(**arrays))
    assert re.search(complaint, str(error.value))


def test_damaged_and_other_files_are_refused(file, tmp_path):
    path = file(x=X, y=Y)
    content = path.read_bytes()
    for size in (0, 3, 4, 30, 100, len(content) // 2, len(content) - 30, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"^data: .*(damaged or incomplete|expected a file of numpy\.savez)"):
            examples.load(path)
    at = content.index(X.tobytes())
    path.write_bytes(content[: at + 5] + b"\xff" + content[at + 6 :])
    with pytest.raises(ValueError, match=r"damaged or incomplete .*CRC"):
        examples.load(path)
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match=r"expected a file of numpy\.savez, got another format; write it with"):
        examples.load(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("y", "text")
    with pytest.raises(ValueError, match=r"x: expected an array of numpy\.save, got other content"):
        examples.load(tmp_path / "other.zip")
