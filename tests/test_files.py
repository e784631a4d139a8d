"""Files that are complete or absent, and JSON that is read as it was written."""

from __future__ import annotations

import ast
import contextlib
import errno
import math
import os
import re
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import experiments
import gsjax
import theory
from gsjax import files, plotting, records
from gsjax.tangent.cache import Blocks
from theory import report
from theory.claim import Claim, Control, Observation, run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_links_and_pipes_are_not_replaced(tmp_path):
    target, link, pipe = tmp_path / "folder" / "target", tmp_path / "link", tmp_path / "pipe"
    target.parent.mkdir()
    link.symlink_to(target)
    for content in (b"first", b"second"):
        files.write(link, content)
        assert target.read_bytes() == content
    assert link.is_symlink()
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    files.write(pipe, "through")
    reader.join(30)
    assert read == [b"through"]
    assert pipe.is_fifo()
    assert names(tmp_path) == ["folder", "link", "pipe"]
    assert names(target.parent) == ["target"]


@contextlib.contextmanager
def no_file_longer_than(size):
    """Lets the system refuse to write beyond byte `size` of a file, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def figure(path):
    plotting.save(plotting.panels()[0], path, dpi=20)


def block(path):
    Blocks(path.parent, "kernel").save(3, 4, np.zeros((40, 40)))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("page.html", lambda path: files.write(path, "x" * 1000)),
        ("large.bin", lambda path: files.write(path, bytes(10**6))),  # more than a buffer
        ("figure.png", figure),
        ("block-3-4.npy", block),
    ],
)
def test_on_a_full_disk_the_file_is_named_and_the_old_one_stays(tmp_path, name, make):
    path = tmp_path / name
    make(path)
    whole, present = path.read_bytes(), names(tmp_path)
    for room in (0, 150, 700):
        with no_file_longer_than(room), pytest.raises(OSError, match=re.escape(str(path))) as caught:
            make(path)
        assert str(caught.value) == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{path}'"
        assert path.read_bytes() == whole
        assert names(tmp_path) == present
    path.unlink()
    with no_file_longer_than(150), pytest.raises(OSError, match=re.escape(str(path))):
        make(path)
    assert not path.exists()
    make(path)
    assert path.read_bytes() == whole


def test_an_error_without_a_number_keeps_its_text(tmp_path):
    def fail():
        with files.replacing(tmp_path / "a") as file:
            file.write(b"x")
            raise OSError("encoder error -2")

    with pytest.raises(OSError, match=r"encoder error -2.*/a'") as caught:
        fail()
    assert (caught.value.strerror, caught.value.filename) == ("encoder error -2", str(tmp_path / "a"))
    assert names(tmp_path) == []


def test_json_with_a_byte_order_mark_is_read():
    assert files.parse(b'\xef\xbb\xbf{"a": [1, -0.5e2, null, true, "\\u00e9"]}') == {"a": [1, -50.0, None, True, "é"]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": 1} {}',
        b"NaN",
        b'{"a": [Infinity]}',
        b'{"a": -Infinity}',
        b"1e999",
        b'{"a": 1, "a": 2}',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b"[" * 10**5,
        b"1" * 10**4,
        "{}".encode("utf-16"),
    ],
)
def test_bad_json_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"."):
        files.parse(content)


# --- JSON -------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def with_null(value):
    if isinstance(value, dict):
        return {key: with_null(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(VALUES)
def test_values_are_read_as_written_with_null_for_numbers_that_are_not_finite(value):
    expected = with_null(value)
    assert files.parse(files.json_document(value).encode()) == files.plain(value) == expected
    lines = files.json_lines([{"of": value}, {"of": 1}]).split("\n")
    assert [files.parse(line.encode()) for line in lines[:-1]] == [{"of": expected}, {"of": 1}]
    assert lines[-1] == ""


NOT_FINITE = {"nan": np.nan, "inf": np.float32(np.inf), "list": [-np.inf, 1.0], "array": np.array([[np.nan], [0.5]])}
NULLED = {"nan": None, "inf": None, "list": [None, 1.0], "array": [[None], [0.5]]}


def claims(folder):
    observation = Observation(1.0, np.nan, np.inf, False, NOT_FINITE)
    claim = Claim("a", "", "", lambda **_: observation, Control("c", "", {}))
    report.write([run(claim)], out=folder, planned=1, provenance={})
    [content] = files.parse((folder / "claims.json").read_bytes())
    assert (content["observed"], content["tolerance"], content["control"]["observed"]) == (None, None, None)
    assert content["control"]["details"] == NULLED
    return content["details"]


def rows(folder):
    with records.Table(folder, {}) as table:
        table.add({"a": 1}, [{"a": 1, "found": NOT_FINITE}], seconds=np.inf)
    assert files.parse((folder / "timing.jsonl").read_bytes()) == {"a": 1, "seconds": None}
    return files.parse((folder / "rows.jsonl").read_bytes())["found"]


def config(folder):
    records.Table(folder, {"found": NOT_FINITE}).close()
    return files.parse((folder / "config.json").read_bytes())["found"]


def summary(folder):
    row = {"name": "a", "measured": np.nan, "interval": None, "seeds": 1, "published": np.inf, "differs": None}
    signature = {"name": "a", "value": -np.inf, "interval": None, "holds": False, "why": ""}
    found = {"rows": [row], "signatures": [signature], "config": {"found": NOT_FINITE}, "data": []}
    records.summary(folder, experiment="e", preset="p", **found)
    content = files.parse((folder / "summary.json").read_bytes())
    assert (content["rows"][0]["measured"], content["rows"][0]["published"]) == (None, None)
    assert content["signatures"][0]["value"] is None
    return content["config"]["found"]


@pytest.mark.parametrize("write", [claims, rows, config, summary])
def test_numbers_that_are_not_finite_are_null_in_every_file(tmp_path, write):
    assert write(tmp_path) == NULLED


def test_only_this_module_writes_json():
    found = []
    for package in (gsjax, theory, experiments):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.dumps", "json.dump"):
                    found.append(path.relative_to(Path(str(package.__file__)).parents[1]).as_posix())
    # Messages between the processes of one run are not files.
    messages = {"gsjax/_devices.py", "experiments/cost.py", "experiments/_cost_worker.py"}
    assert set(found) == {"gsjax/files.py"} | messages
