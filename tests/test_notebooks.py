"""The notebooks: pairs of a script and an equal .ipynb, stored without outputs, that only call the library."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from notebooks import pair

IMPORTS = {"gsjax", "flax", "jax", "numpy", "optax", *sys.stdlib_module_names}

each = pytest.mark.parametrize("script", pair.SCRIPTS, ids=lambda script: script.stem)


def code(script: Path) -> ast.Module:
    """The code of a notebook without IPython magics."""
    cells = (cell.source for cell in jupytext.read(script).cells if cell.cell_type == "code")
    return ast.parse("\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith("%")))


def test_they_are_numbered_from_one_without_a_gap():
    numbers = [script.name.partition("_")[0] for script in pair.SCRIPTS]
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    assert len(numbers) >= 8
    folder = pair.SCRIPTS[0].parent
    assert sorted(folder.glob("*.ipynb")) == [script.with_suffix(".ipynb") for script in pair.SCRIPTS]


@each
def test_the_notebook_is_that_of_its_script(script):
    stored = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert stored == pair.paired(script), "make pair writes it anew"
    read = nbformat.reads(stored, as_version=4)
    nbformat.validate(read)
    text = script.read_text(encoding="utf-8")
    assert len(read.cells) == len(re.findall(r"^# %%", text, flags=re.MULTILINE))
    header = text.split("# ---\n")[1]
    assert "formats: ipynb,py:percent" in header
    assert "name: python3" in header


@each
def test_it_is_stored_without_outputs_and_without_traces_of_a_run(script):
    stored = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert set(stored["metadata"]) == {"jupytext", "kernelspec"}
    for cell in stored["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@each
def test_it_starts_with_what_to_learn_and_ends_with_what_to_try(script):
    first, *_, last = jupytext.read(script).cells
    assert first.cell_type == last.cell_type == "markdown"
    assert first.source.startswith(f"# {script.name[0]} · ")
    assert "**What you will learn**" in first.source
    assert "**What to try next**" in last.source


@each
def test_it_calls_the_library_and_defines_nothing(script):
    tree = code(script)
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert not [node.name for node in ast.walk(tree) if isinstance(node, definitions)]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= IMPORTS


@each
def test_it_names_no_path_outside_the_repository(script):
    text = script.read_text(encoding="utf-8")
    assert not re.findall(r"https?://|(?<![\w.)])~?/(?:home|root|Users|mnt|tmp|usr|opt|work|content)\b", text)


def test_outputs_of_a_run_are_removed_by_pairing(tmp_path):
    script = tmp_path / "1_a.py"
    script.write_text("# %% [markdown]\n# # 1 · A\n\n# %%\n1 + 1\n", encoding="utf-8")
    paired = pair.paired(script)
    run = nbformat.reads(paired, as_version=4)
    run.cells[1].update(execution_count=3, outputs=[nbformat.v4.new_output("stream", text="2")])
    nbformat.write(run, script.with_suffix(".ipynb"))
    assert pair.paired(script) == paired
