"""The README's example: it runs, and prints the same under jit and not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# All of the example after the kernel, as a function of it; what it prints is what it returns.
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
    [block] = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        if "starvation.share(" in block
    ]
    return block


def test_the_example_prints_the_same_under_jit_and_not():
    code = example()
    body = code[code.index("feats = ") :]
    source = code + JITTED.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", source], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    eager, jitted = run.stdout.split("jitted\n")
    assert eager == jitted
    *_, share = eager.split()
    assert 0.5 < float(share) < 0.6
    assert "True" in eager
