"""The README: it is short, and its example prints a diagnosis and writes a page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def example() -> str:
    [block] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return block


def test_it_can_be_read_in_a_few_minutes():
    assert len(README.read_bytes()) <= 10_000
    assert len([line for line in example().splitlines() if line]) <= 15


def test_the_example_prints_a_diagnosis_and_writes_a_page(tmp_path):
    """In a process of its own, with warnings as errors, as a user would run it."""
    code = f"{example()}\nprint('checked', *report.strengths[:5], *report.response[:5])"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    table, _, numbers = run.stdout.partition("checked")
    assert max(map(len, table.splitlines())) <= 100
    strengths, responses = np.array(numbers.split(), float).reshape(2, 5)
    assert (strengths > 0).all()
    assert (np.diff(strengths) < 0).all()
    assert (responses > 0).all()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "<img" in page


def test_the_lines_for_other_frameworks_are_those_that_are_tested():
    """`tests/test_docs_frameworks.py` runs docs/frameworks.md with a model of each framework."""
    [lines] = re.findall(r"```py\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    tested = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
    statements = [line.partition("  #")[0].strip() for line in lines.splitlines() if line.strip()]
    assert len(statements) == 4
    assert [line for line in statements if line not in tested] == []
