"""How `make` sets up its environment: by content, not by time, and never through a link. Nothing is installed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Logs its arguments. With `-m venv` it makes an environment whose Python is this script again.
PYTHON = """\
#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
  "-m venv --clear .venv")
    mkdir -p .venv/bin && find -H .venv -mindepth 1 ! -path .venv/bin -exec rm -rf {} + && cp "$0" .venv/bin/python ;;
  *--requirement*) [ ! -e offline ] ;;
  *--editable*) [ ! -e broken ] ;;
esac
"""
VENV, LOCKED, EDITABLE, RUN = "-m venv", "--requirement requirements.lock", "--editable .", "-m theory"


@pytest.fixture
def root(tmp_path):
    """A checkout without an environment."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def make(root, tmp_path):
    """Runs make there; gives its status, its stderr, and which of the steps above it ran."""
    python, calls = tmp_path / "python3", tmp_path / "calls"
    python.write_text(PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)

    def run(target="verify"):
        calls.write_text("")
        environment = {"PATH": os.environ["PATH"], "CALLS": str(calls)}
        command = ["make", f"PYTHON={python}", target]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        said = calls.read_text()
        return done.returncode, done.stderr, [part for part in (VENV, LOCKED, EDITABLE, RUN) if part in said]

    return run


def edit(path, old="", new="# changed\n"):
    text = path.read_text()
    path.write_text(text.replace(old, new) if old else text + new)


def test_an_environment_is_made_once(make):
    assert make() == (0, "", [VENV, LOCKED, EDITABLE, RUN])
    assert make() == (0, "", [RUN])
    assert make("help") == (0, "", [])
    assert make(".venv/.ready") == (0, "", [])


def test_the_time_of_a_file_does_not_count(make, root):
    make()
    for name in ("requirements.lock", "pyproject.toml"):
        for seconds in (0, 2**32):
            os.utime(root / name, (seconds, seconds))
            assert make() == (0, "", [RUN])
    for stamp in (root / ".venv").glob(".*"):
        os.utime(stamp, (0, 0))
    assert make() == (0, "", [RUN])


def test_changed_content_counts_even_with_an_older_time(make, root):
    make()
    edit(root / "pyproject.toml")
    os.utime(root / "pyproject.toml", (0, 0))
    assert make() == (0, "", [EDITABLE, RUN])
    edit(root / "requirements.lock")
    os.utime(root / "requirements.lock", (0, 0))
    assert make() == (0, "", [VENV, LOCKED, EDITABLE, RUN])
    edit(root / "requirements.lock", old="# changed\n", new="")
    assert make() == (0, "", [VENV, LOCKED, EDITABLE, RUN])
    assert make() == (0, "", [RUN])


def test_a_failed_installation_is_repeated(make, root):
    make()
    for trouble, name, redone in [
        ("offline", "requirements.lock", [VENV, LOCKED, EDITABLE, RUN]),
        ("broken", "pyproject.toml", [EDITABLE, RUN]),
    ]:
        (root / trouble).touch()
        edit(root / name)
        status, _, called = make()
        assert status == 2
        assert RUN not in called
        (root / trouble).unlink()
        edit(root / name, old="# changed\n", new="")  # the old content again; the environment is still incomplete
        assert make() == (0, "", redone)


def listing(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_linked_environment_is_used_or_refused_but_never_changed(make, root, tmp_path):
    make()
    other = tmp_path / "other"
    (root / ".venv").rename(other)
    (other / "package.py").touch()
    (root / ".venv").symlink_to(other)
    before = listing(other)
    assert make() == (0, "", [RUN])
    for name in ("requirements.lock", "pyproject.toml"):
        edit(root / name)
        status, said, called = make()
        assert (status, called) == (2, [])
        assert "gsjax: .venv is a symbolic link" in said.splitlines()[0]
        edit(root / name, old="# changed\n", new="")
    assert listing(other) == before
    assert make() == (0, "", [RUN])


@pytest.mark.parametrize("present", [True, False], ids=["an environment of another kind", "nothing"])
def test_a_link_to_another_environment_or_to_nothing_is_refused(make, root, tmp_path, present):
    if present:
        (tmp_path / "other" / "bin").mkdir(parents=True)
        (tmp_path / "other" / "bin" / "python").touch()
    (root / ".venv").symlink_to(tmp_path / "other")
    status, said, called = make()
    assert (status, called) == (2, [])
    assert "gsjax: .venv is a symbolic link" in said
    assert (tmp_path / "other" / "bin" / "python").exists() == present


def test_an_old_python_is_named(make, tmp_path):
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\necho "$*" >> "$CALLS"\ncase "$*" in -c*) exit 1;; esac\n')
    status, said, called = make()
    assert (status, called) == (2, [])
    assert f"gsjax needs Python 3.11 or newer as '{python}'" in said


def test_a_mark_is_looked_for_in_the_files_that_name_it(make, root, tmp_path):
    for name, text in {
        "test_slow.py": "@pytest.mark.slow\ndef test(): ...",
        "test_param.py": "pytest.param(1, marks=pytest.mark.slow)",
        "test_quick.py": "def test(): ...",
        "test_devices.py": "pytestmark = pytest.mark.devices8",
        "benchmarks/test_timing.py": "pytest.mark.slow",
        "conftest.py": "pytest.mark.slow",
    }.items():
        (root / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "tests" / name).write_text(text)
    for target, files in (("slow", {"benchmarks", "test_slow.py", "test_param.py"}), ("test", {"test_devices.py"})):
        assert make(target)[0] == 0
        last = (tmp_path / "calls").read_text().splitlines()[-1].split()
        assert {word for word in last if word.startswith("tests/")} == {f"tests/{name}" for name in files}
