"""Records of runs: files are complete, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import files, records
from gsjax.records import Table

CONFIG = {"widths": (32, 64), "seeds": 2, "data": {"name": "moons", "n": 100}}
ROW = {"name": "slope", "measured": -0.9, "interval": (-1.0, -0.8), "seeds": 8, "published": None, "differs": None}
SIGNATURE = {"name": "starves", "value": 1.0, "interval": None, "holds": True, "why": "it does"}

SUMMARY: dict[str, Any] = {"experiment": "fake", "preset": "smoke", "config": {}, "data": {}}
SUMMARY |= {"rows": [ROW], "signatures": [SIGNATURE]}


def rows(width, count=2):
    return [{"width": width, "seed": seed, "error": 1 / (3 * width + seed + 1)} for seed in range(count)]


def fill(table, *widths):
    for width in widths:
        table.add({"width": width}, rows(width), 0.5)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def full_disk(monkeypatch):
    """After `full_disk(n)`, n more files fit on the disk."""

    def fill_up(room=0):
        left = iter(range(room))

        def fsync(_):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)

    return fill_up


def test_a_written_file_has_the_default_permissions(tmp_path):
    records.write(tmp_path / "a.txt", "ζ\n")
    records.write(tmp_path / "a.txt", b"\x00\xff")
    (tmp_path / "b.txt").touch()
    assert contents(tmp_path) == {"a.txt": b"\x00\xff", "b.txt": b""}
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "b.txt").stat().st_mode)


def test_a_file_that_cannot_be_written_is_named_and_left_as_it_was(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    path.write_text("before")
    full_disk()
    with pytest.raises(OSError, match="No space left on device") as caught:
        records.write(path, "after")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert contents(tmp_path) == {"a.txt": b"before"}
    (tmp_path / "folder").mkdir()
    for wrong in (tmp_path / "absent" / "a.txt", path / "a.txt", tmp_path / "folder"):
        with pytest.raises(OSError, match=str(wrong)):
            records.write(wrong, "after")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "folder"}


def test_an_interrupted_write_leaves_no_file(tmp_path):
    def half():
        with files.replacing(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert contents(tmp_path) == {}


def test_a_reopened_table_continues_and_ends_with_the_same_bytes(tmp_path):
    fill(Table(tmp_path / "once", CONFIG), 32, 64, 128)
    for width in (32, 64, 128):
        fill(Table(tmp_path / "often", CONFIG), width)
    whole, resumed = contents(tmp_path / "once"), contents(tmp_path / "often")
    assert whole == resumed
    assert set(whole) == {"config.json", "rows.jsonl", "timing.jsonl", "provenance.json"}
    assert b"seconds" not in whole["config.json"] + whole["rows.jsonl"] + whole["provenance.json"]

    table = Table(tmp_path / "often", CONFIG)
    assert table.rows == [json.loads(line) for line in whole["rows.jsonl"].splitlines()]
    assert table.rows == [row for width in (32, 64, 128) for row in rows(width)]
    assert table.has({"width": 64})
    assert table.has({"width": np.int64(64), "seed": 1})
    assert not table.has({"width": 64, "depth": 1})
    assert not table.has({"width": 256})


def test_rows_are_the_same_before_and_after_they_are_read(tmp_path, x64):
    values = {"width": np.int32(2), "nan": jnp.nan, "inf": -np.inf, "bad": np.array([1.0, np.nan]), "pair": (1, 2)}
    values |= {"tenth": jnp.asarray(0.1), "yes": np.bool_(True), "scalar": np.float32(0.1), "where": Path("a/b")}
    table = Table(tmp_path, {"tolerance": x64(1e-3)})
    table.add({"width": 2}, [values], seconds=float("nan"))
    expected = {"width": 2, "nan": None, "inf": None, "bad": [1.0, None], "pair": [1, 2], "yes": True, "where": "a/b"}
    expected |= {"tenth": float(x64(0.1)), "scalar": float(np.float32(0.1))}
    assert table.rows == Table(tmp_path, {"tolerance": x64(1e-3)}).rows == [expected]
    text = (tmp_path / "rows.jsonl").read_text()
    assert repr(float(x64(0.1))) in text
    table.rows[0]["width"] = 3
    assert table.rows == [expected]

    in_reverse = Table(tmp_path / "backwards", {})
    in_reverse.add({"width": 2}, [dict(reversed(values.items()))], seconds=1.0)
    assert (tmp_path / "backwards" / "rows.jsonl").read_text() == text


def test_other_values_than_numbers_and_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected numbers, text, paths and arrays.*got <object"):
        Table(tmp_path, {"penalty": object()})
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("bad", [object(), {1, 2}, b"x", 1j, "\udc80", {1: 0, "1": 0}, Path("a\udc80"), [{"a": {3}}]])
def test_an_argument_that_cannot_be_written_is_named(tmp_path, bad):
    with pytest.raises(ValueError, match=r"^config: expected "):
        Table(tmp_path, {"a": bad})
    table = Table(tmp_path, {})
    before = contents(tmp_path)
    for name, arguments in {
        "cell": ({"a": bad}, [{"a": 1}], 1.0),
        "rows": ({"a": 1}, [{"a": 1, "b": bad}], 1.0),
        "seconds": ({"a": 1}, [{"a": 1}], bad),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name}: expected "):
            table.add(*arguments)
    with pytest.raises(ValueError, match=r"^cell: expected "):
        table.has({"a": bad})
    assert contents(tmp_path) == before
    for change in (
        *({name: {"a": bad}} for name in ("config", "data")),
        *({name: [{"name": bad}]} for name in ("rows", "signatures")),
        *({name: bad} for name in ("experiment", "preset") if not isinstance(bad, Path)),
    ):
        with pytest.raises(ValueError, match=rf"^{next(iter(change))}: expected "):
            records.summary(tmp_path, **(SUMMARY | change))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("arguments", [(3, [], 1.0), ({}, [3], 1.0), ({"a": 1}, [{"a": 1}], -1.0), ({}, [], 1.0)])
def test_bad_cells_rows_and_times_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=r"^(cell|rows|seconds): expected "):
        Table(tmp_path, {}).add(*arguments)
    for config in (None, [], 3):
        with pytest.raises(ValueError, match=r"^config: expected a mapping"):
            Table(tmp_path / "new", config)  # pyright: ignore[reportArgumentType]
    assert "rows.jsonl" not in contents(tmp_path)
    with pytest.raises(ValueError, match=r"^folder: expected the name of a folder, got ''"):
        Table("", {})


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        (CONFIG | {"seeds": 3}, r"in which seeds is 3, got .*, in which it is 2"),
        (CONFIG | {"widths": (32, 64, 128)}, r"widths is \[32, 64, 128\], got .* it is \[32, 64\]"),
        (CONFIG | {"data": {"name": "moons", "n": 99}}, r"data.n is 99, got .* it is 100"),
        (CONFIG | {"depth": 1}, r"depth is 1, got .* it is nothing"),
        ({"seeds": 2, "data": CONFIG["data"]}, r"widths is nothing, got .* it is \[32, 64\]"),
        (CONFIG | {"depth": "nothing"}, r"depth is nothing, got .* it is nothing"),
        (CONFIG | {"depth": {}}, r"depth is {}, got .* it is nothing"),
        (CONFIG | {"seeds": None}, r"seeds is None, got .* it is 2"),
    ],
)
def test_another_configuration_is_refused_by_its_first_difference(tmp_path, config, difference):
    fill(Table(tmp_path, CONFIG), 32)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"^folder: expected .*{difference}"):
        Table(tmp_path, config)
    assert contents(tmp_path) == before


def test_rows_of_an_unknown_configuration_are_refused(tmp_path):
    fill(Table(tmp_path, CONFIG), 32)
    (tmp_path / "config.json").unlink()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"^folder: expected .*config.json, got .*rows.jsonl without it"):
        Table(tmp_path, CONFIG)
    assert contents(tmp_path) == before


FILES = ("config.json", "provenance.json", "rows.jsonl", "timing.jsonl")
DAMAGE = {
    "cut off": lambda text: text[:-9],
    "no text": lambda text: b"\xff" + text,
    "a list": lambda _: b"[3]\n",
    "null": lambda _: b"null\n",
    "a number that is none": lambda _: b'{"runs": [], "seconds": NaN}\n',
    "a number too large": lambda _: b'{"runs": [], "seconds": 1e999}\n',
    "half a character": lambda _: b'{"runs": [], "seconds": 1, "a": "\\udc00"}\n',
    "too deep": lambda _: b"[" * 10**5,
}
OTHER_TYPES = [
    *(
        ("provenance.json", text)
        for text in ("{}", '{"runs": null}', '{"runs": {}}', '{"runs": [null]}', '{"runs": 3}')
    ),
    *(("timing.jsonl", text) for text in ("{}", '{"seconds": "3"}', '{"seconds": -1}', '{"seconds": true}')),
]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in FILES for damage in DAMAGE.values()),
        *((name, lambda _, text=text: f"{text}\n".encode()) for name, text in OTHER_TYPES),
    ],
    ids=[*(f"{name}, {kind}" for name in FILES for kind in DAMAGE), *(f"{name}, {text}" for name, text in OTHER_TYPES)],
)
def test_a_damaged_file_is_named_with_advice(tmp_path, name, damage):
    fill(Table(tmp_path, CONFIG), 32, 64)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"^folder: .*{path}.*delete"):
        Table(tmp_path, CONFIG)
    assert contents(tmp_path) == before


def test_leftovers_of_a_killed_write_are_harmless(tmp_path):
    fill(Table(tmp_path, CONFIG), 32)
    before = contents(tmp_path)
    (tmp_path / f"{files.UNFINISHED}rows.jsonl-123").write_bytes(before["rows.jsonl"][:20])
    (tmp_path / "figure.png").touch()
    assert Table(tmp_path, CONFIG).rows == rows(32)
    assert contents(tmp_path) == before | {"figure.png": b""}


def test_a_damaged_line_is_named_by_its_number(tmp_path):
    fill(Table(tmp_path, CONFIG), 32, 64)
    path = tmp_path / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'["width", 64]\n', lines[3]]))
    with pytest.raises(
        ValueError, match=rf"^folder: {path}, line 3, is damaged \(expected an object, got .*delete all"
    ):
        Table(tmp_path, CONFIG)


def test_a_row_without_a_key_is_named_when_the_key_is_read(tmp_path):
    fill(Table(tmp_path, CONFIG), 32)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"error"', b'"terror"', 1))
    first, second = Table(tmp_path, CONFIG).rows
    assert second["error"] == rows(32)[1]["error"]
    with pytest.raises(ValueError, match=rf"^{path} is damaged \(no 'error' in .*'terror'.*delete all lines of that"):
        first["error"]


def test_a_file_saved_by_an_editor_is_read(tmp_path):
    fill(Table(tmp_path, CONFIG), 32, 64)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    table = Table(tmp_path, CONFIG)
    assert table.rows == rows(32) + rows(64)
    fill(table, 128)
    fill(Table(tmp_path / "once", CONFIG), 32, 64, 128)
    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "once" / "rows.jsonl").read_bytes()


def test_tables_of_one_folder_in_one_process_lose_nothing(tmp_path):
    one = Table(tmp_path, CONFIG)
    fill(one, 0)
    other = Table(tmp_path / ".", CONFIG)
    fill(one, 1)
    fill(other, 2)
    assert one.rows == other.rows == rows(0) + rows(1) + rows(2)
    with pytest.raises(ValueError, match=r"cell: expected a cell that is not in .* yet"):
        fill(one, 2)
    one.close()
    fill(other, 3)
    other.close()
    assert [row["width"] for row in Table(tmp_path, CONFIG).rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert set(contents(tmp_path)) == set(FILES)


def test_threads_lose_nothing(tmp_path):
    def work(first):
        table = Table(tmp_path, CONFIG)
        fill(table, *range(first, 40, 4))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["width"] for row in Table(tmp_path, CONFIG).rows) == sorted([*range(40), *range(40)])


def test_a_closed_table_accepts_no_rows(tmp_path):
    with Table(tmp_path, CONFIG) as table:
        fill(table, 32)
        assert (tmp_path / ".lock").exists()
    before = contents(tmp_path)
    assert set(before) == set(FILES)
    assert table.rows == rows(32)
    assert table.has({"width": 32})
    with pytest.raises(ValueError, match=rf"^folder: expected an open table, got {tmp_path}, whose table was cl"):
        fill(table, 64)
    assert contents(tmp_path) == before


def test_a_table_whose_folder_was_replaced_accepts_no_rows(tmp_path):
    folder = tmp_path / "out"
    old = Table(folder, CONFIG)
    fill(old, 32)
    shutil.rmtree(folder)
    new = Table(folder, CONFIG)
    with pytest.raises(
        ValueError, match=rf"^folder: expected the folder that was opened; .*{folder}, which was deleted or repl"
    ):
        fill(old, 64)
    fill(new, 128)
    assert new.rows == Table(folder, CONFIG).rows == rows(128)


def test_a_cell_written_before_an_interruption_is_kept(tmp_path, monkeypatch):
    table, replace, left = Table(tmp_path, CONFIG), os.replace, iter([False, True])
    fill(table, 32)

    def interrupted(*names):
        replace(*names)
        if next(left, False):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(table, 64)
    assert table.has({"width": 64})
    fill(table, 128)
    assert table.rows == Table(tmp_path, CONFIG).rows == rows(32) + rows(64) + rows(128)


# A process that has a table and is writing to it.
OWNER = """
    import os, sys, time
    from gsjax.records import Table
    table = Table(sys.argv[1], {"widths": (32, 64), "seeds": 2, "data": {"name": "moons", "n": 100}})
    def fsync(_):
        print("writing", flush=True)
        sys.stdin.read()
    os.fsync = fsync
    table.add({"width": 1}, [{"width": 1, "seed": 0}], 1.0)
"""


def test_a_folder_of_another_process_is_refused(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(OWNER), tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            assert owner.stdout.readline() == "writing\n"
            before = contents(tmp_path)
            assert [name for name in before if name.startswith(files.UNFINISHED)]
            with pytest.raises(
                ValueError, match=rf"^folder: expected a folder that no other .* {tmp_path}, .*{owner.pid}"
            ):
                Table(tmp_path, CONFIG)
            assert contents(tmp_path) == before
        finally:
            owner.kill()
    fill(Table(tmp_path, CONFIG), 32)
    assert set(contents(tmp_path)) == set(FILES)
    assert Table(tmp_path, CONFIG).rows == rows(32)


def test_a_forked_process_cannot_add(tmp_path, monkeypatch):
    table = Table(tmp_path, CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)  # as in a fork, without the warning of jax
        with pytest.raises(
            ValueError, match=r"^folder: expected to be written by process \d+, which opened it, got process 1"
        ):
            fill(table, 32)
    fill(table, 32)
    assert table.rows == rows(32)


def test_a_cell_is_added_once_and_completely(tmp_path):
    table = Table(tmp_path, CONFIG)
    fill(table, 32)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"cell: expected a cell that is not in .* yet"):
        fill(table, 32)
    with pytest.raises(ValueError, match="rows: expected one row or more"):
        table.add({"width": 64}, [], 1.0)
    with pytest.raises(ValueError, match="rows: expected rows with the keys and values of"):
        table.add({"width": 64}, [*rows(64), *rows(128)], 1.0)
    assert contents(tmp_path) == before


def test_on_a_full_disk_nothing_is_lost(tmp_path, full_disk):
    table = Table(tmp_path / "out", CONFIG)
    fill(table, 32)
    before = contents(tmp_path / "out")
    for room, name in enumerate(("timing.jsonl", "rows.jsonl")):
        full_disk(room)
        with pytest.raises(OSError, match=f"No space left on device.*{name}"):
            fill(table, 64)
        assert contents(tmp_path / "out")["rows.jsonl"] == before["rows.jsonl"]
        assert table.rows == rows(32)
    with pytest.raises(OSError, match="No space left on device"):
        Table(tmp_path / "new", CONFIG)
    full_disk(2)
    fill(Table(tmp_path / "out", CONFIG), 64)
    assert Table(tmp_path / "out", CONFIG).rows == rows(32) + rows(64)


def test_after_a_write_refused_by_the_system_a_rerun_resumes(tmp_path):
    fill(Table(tmp_path / "whole", CONFIG), *range(20))
    folder, limits = tmp_path / "full", resource.getrlimit(resource.RLIMIT_FSIZE)
    table = Table(folder, CONFIG)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
        with pytest.raises(OSError, match=rf"{folder}/(rows|timing)\.jsonl") as caught:
            fill(table, *range(20))
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    done = len({row["width"] for row in table.rows})
    assert 0 < done < 20
    table.close()
    assert set(contents(folder)) == set(FILES)
    fill(Table(folder, CONFIG), *range(done, 20))
    for name in ("config.json", "rows.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_only_process_0_has_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(ValueError, match="expected process 0 to write it, got process 1"):
        Table(tmp_path / "out", CONFIG)
    assert contents(tmp_path) == {}


def test_provenance_lists_each_command_once(tmp_path, monkeypatch):
    def runs():
        return json.loads((tmp_path / "provenance.json").read_text())["runs"]

    Table(tmp_path, CONFIG)
    Table(tmp_path, CONFIG)
    [run] = runs()
    assert set(run) == {"command", "versions", "platform", "devices"}
    assert run["versions"] == records.versions()
    assert run["devices"] == {"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "processes": 1}
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments", "a b"])
    Table(tmp_path, CONFIG)
    assert [run, run | {"command": "python -m experiments 'a b'"}] == runs()


# A process that writes like a sweep, slowly enough for a signal to arrive during a write.
SWEEP = """
    import os, sys, time
    from gsjax.records import Table
    fsync, replace = os.fsync, os.replace
    os.fsync = lambda file: (time.sleep(0.004), fsync(file))
    os.replace = lambda *names: (time.sleep(0.004), replace(*names), time.sleep(0.004))
    table = Table(sys.argv[1], {"widths": 30})
    for width in range(30):
        if not table.has({"width": width}):
            rows = [{"width": width, "seed": seed, "error": 1 / (3 * width + seed + 1)} for seed in range(50)]
            table.add({"width": width}, rows, 1.0)
"""


@pytest.mark.slow
def test_a_process_killed_at_any_time_can_be_restarted(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(SWEEP)]
    subprocess.run([*command, tmp_path / "whole"], check=True)
    folder = tmp_path / "killed"

    def finished():
        path = folder / "rows.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    seen = [0]
    for delay in (
        0.0,
        0.003,
        0.007,
        0.013,
        0.02,
    ):  # after the next cell is seen
        with subprocess.Popen([*command, folder]) as process:
            deadline = time.monotonic() + 60
            while finished() == seen[-1] and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert finished() % 50 == 0
        seen.append(finished())
    assert seen == sorted(set(seen))
    subprocess.run([*command, folder], check=True)
    ended, expected = contents(folder), contents(tmp_path / "whole")
    assert set(ended) == set(expected)
    for name in ("config.json", "rows.jsonl"):
        assert ended[name] == expected[name]


def test_a_summary_has_its_keys_and_the_same_bytes_every_time(tmp_path):
    def write(name, **changes):
        (tmp_path / name).mkdir(exist_ok=True)
        given = {"experiment": "fake", "preset": "smoke", "config": CONFIG, "data": [{"name": "moons", "n": 9}]}
        records.summary(tmp_path / name, **{**given, "rows": [ROW], "signatures": [SIGNATURE], **changes})
        return (tmp_path / name / "summary.json").read_bytes()

    assert write("one") == write("two")
    content = json.loads(write("one"))
    assert list(content) == ["experiment", "preset", "config", "data", "versions", "rows", "signatures"]
    assert content["rows"] == [ROW | {"interval": [-1.0, -0.8]}]
    assert content["signatures"] == [SIGNATURE]
    assert content["config"]["widths"] == [32, 64]
    with pytest.raises(ValueError, match=r"^rows: expected an interval"):
        write("one", rows=[ROW | {"interval": (np.nan, 1.0)}])
    nothing = json.loads(write("one", rows=[ROW | {"measured": np.nan, "interval": None}]))
    assert nothing["rows"][0]["measured"] is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rows": [ROW | {"paper": 1}]}, "rows: expected the keys .*'published'.*got .*'paper'"),
        ({"rows": [{"name": "slope"}]}, r"rows: expected the keys .*got \['name'\]"),
        ({"signatures": [ROW]}, "signatures: expected the keys .*'why'"),
        ({"rows": [ROW | {"interval": (1.0, -1.0)}]}, r"rows: expected an interval .*got \[1.0, -1.0\] in 'slope'"),
        ({"rows": [ROW | {"interval": (None, 1.0)}]}, "rows: expected an interval"),
        ({"rows": [ROW | {"interval": 3.0}]}, "rows: expected an interval .*got 3.0 in 'slope'"),
        ({"rows": [ROW | {"interval": ("a", "b")}]}, "rows: expected an interval"),
        ({"signatures": [SIGNATURE | {"interval": (1.0,)}]}, "signatures: expected an interval"),
        ({"signatures": [SIGNATURE | {"interval": (1.0, 2.0, 3.0)}]}, "signatures: expected an interval"),
        ({"rows": [ROW | {"name": 3}]}, "rows: expected text as 'name', got 3"),
        ({"rows": [ROW | {"measured": "3"}]}, "rows: expected a number or None as 'measured', got '3' in 'slope'"),
        ({"rows": [ROW | {"seeds": 1.5}]}, "rows: expected a whole number or None as 'seeds', got 1.5 in 'slope'"),
        ({"rows": [ROW | {"published": [1]}]}, "rows: expected a number, text or None as 'published'"),
        ({"rows": [ROW | {"differs": 3}]}, "rows: expected text or None as 'differs'"),
        ({"signatures": [SIGNATURE | {"holds": "no"}]}, "signatures: expected True or False as 'holds', got 'no'"),
        ({"signatures": [SIGNATURE | {"why": None}]}, "signatures: expected text as 'why'"),
        ({"rows": [3]}, "rows: expected mappings, got"),
        ({"rows": ROW}, "rows: expected mappings, got"),
        ({"signatures": "none"}, "signatures: expected mappings, got"),
        ({"experiment": 3}, "experiment: expected text, got 3"),
        ({"preset": None}, "preset: expected text, got None"),
        ({"config": []}, r"config: expected a mapping, got \[\]"),
        ({"data": [[]]}, r"data: expected a mapping or several, got"),
        ({"data": None}, r"data: expected a mapping or several, got None"),
    ],
)
def test_a_summary_of_another_shape_is_refused(tmp_path, change, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        records.summary(tmp_path, **(SUMMARY | change))
    assert contents(tmp_path) == {}

    # The same content in a file is refused with the name of the file.
    records.summary(tmp_path, **SUMMARY)
    path = tmp_path / "summary.json"
    assert records.read(path) == json.loads(path.read_bytes())
    path.write_text(json.dumps(records.read(path) | change))
    with pytest.raises(ValueError, match=rf"^path: {path} is damaged \({complaint}"):
        records.read(path)


def test_a_summary_that_lacks_something_is_refused(tmp_path):
    records.summary(tmp_path, experiment="fake", preset="smoke", config={}, data={}, rows=[ROW], signatures=[SIGNATURE])
    path = tmp_path / "summary.json"
    whole = records.read(path)
    for key in whole:
        path.write_text(json.dumps({name: value for name, value in whole.items() if name != key}))
        with pytest.raises(ValueError, match=rf"^path: {path} is damaged \({key}: expected .*got nothing"):
            records.read(path)
    for kind, entry in (("rows", ROW), ("signatures", SIGNATURE)):
        for key in entry:
            incomplete = {name: value for name, value in whole[kind][0].items() if name != key}
            path.write_text(json.dumps(whole | {kind: [incomplete]}))
            with pytest.raises(ValueError, match=rf"^path: {path} is damaged \({kind}: expected the keys"):
                records.read(path)
    for damage in DAMAGE.values():
        path.write_bytes(damage(json.dumps(whole).encode()))
        with pytest.raises(ValueError, match=rf"^path: {path} is damaged"):
            records.read(path)
    path.write_text(json.dumps(whole | {"more": 1, "versions": {"jax": 3}}))
    with pytest.raises(ValueError, match=r"versions: expected names and versions"):
        records.read(path)
    path.write_text(json.dumps(whole | {"more": 1}))
    assert records.read(path) == whole | {"more": 1}


def test_seconds_are_summed_over_cells_and_folders(tmp_path):
    fill(Table(tmp_path, CONFIG), 32, 64)
    Table(tmp_path / "below", CONFIG).add({"width": 1}, [{"width": 1}], seconds=float("nan"))
    fill(Table(tmp_path / "below", CONFIG), 2)
    assert records.seconds(tmp_path) == 1.5
    assert records.seconds(tmp_path / "below") == 0.5
    path = tmp_path / "below" / "timing.jsonl"
    path.write_text('{"width": 1}\n')
    with pytest.raises(ValueError, match=rf"^folder: {path}, line 1, is damaged \(seconds: expected a number"):
        records.seconds(tmp_path)
