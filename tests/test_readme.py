"""The README: it is short, and its example prints the same numbers with and without jit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

# The example after the kernel, as a function of the kernel that returns what the example prints.
JITTED = """
def program(kernel):
    shown = []
    print = lambda *values: shown.append(values)
{body}
    return shown

print("jitted")
for values in jax.jit(program)(kernel):
    print(*values)
"""


def example() -> str:
    [block] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return block


def test_it_can_be_read_in_a_few_minutes():
    assert len(README.read_bytes()) <= 10_000
    assert len([line for line in example().splitlines() if line]) <= 15


def test_the_example_prints_what_the_text_says_and_the_same_under_jit():
    code = example()
    body = code[code.index("feats = ") :]
    source = code + JITTED.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", source], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    eager, jitted = run.stdout.split("jitted\n")
    assert eager == jitted
    shown = re.fullmatch(r"\[(.*?)\] \[(.*?)\] (\w+)\n(\S+)\n", eager, re.DOTALL)
    assert shown, eager
    strengths, responses, converged, share = shown.groups()
    strengths, responses = (np.array(row.split(), float) for row in (strengths, responses))
    assert len(strengths) == len(responses) == 5
    assert (strengths > 0).all()
    assert (np.diff(strengths) < 0).all()
    assert converged == "True"
    assert 0.5 < float(share) < 0.6
