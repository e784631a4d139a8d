"""Writes the .ipynb of every script next to it, without outputs and with the same bytes for the same script.

python notebooks/pair.py
"""

from __future__ import annotations

from pathlib import Path

import jupytext

SCRIPTS = sorted(Path(__file__).parent.glob("[1-9]_*.py"))


def paired(script: Path) -> str:
    """The notebook of a script in jupytext's percent format, as the text of its .ipynb."""
    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # jupytext draws them at random
    return jupytext.writes(notebook, fmt="ipynb") + "\n"


if __name__ == "__main__":
    for script in SCRIPTS:
        script.with_suffix(".ipynb").write_text(paired(script), encoding="utf-8")
