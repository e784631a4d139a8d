"""What the documentation site is made of: API pages, docstrings, formulas, the gallery, and the cache of notebooks.

`tests/browser/test_site.py` looks at the site that `make docs` has built.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from docutils.utils import new_document
from sphinx import addnodes

import gsjax

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
RECORDS = ROOT / "experiments" / "records"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "docs")
    _api, _site = map(importlib.import_module, ("_api", "_site"))


def entries(page: str) -> list[str]:
    """The whole names of the entries of an API page."""
    [room] = re.findall(r"^\.\. automodule:: (\S+)", page, re.MULTILINE)
    found = re.findall(r"^\.\. (py|auto)[:\w]*:: ([\w.]+)", page.replace(f".. automodule:: {room}", ""), re.MULTILINE)
    return [f"{room}.{name}" if kind == "py" else name for kind, name in found]


def test_every_public_name_has_one_entry():
    found = Counter(name for page in _api.pages().values() for name in entries(page))
    modules = [gsjax, *map(importlib.import_module, _api.rooms())]
    public = {
        f"{module.__name__}.{name}"
        for module in modules
        for name in module.__all__
        if not isinstance(getattr(module, name), ModuleType)
    }
    assert public >= {"gsjax.diagnose", "gsjax.data.mnist", "gsjax.probes.depth", "gsjax.probes.depths.depth"}
    assert found == dict.fromkeys(public, 1)


def test_an_object_is_documented_under_one_name_and_others_lead_to_it():
    names = _api.names()
    assert names["gsjax.Ridge"] == names["gsjax.objectives.Ridge"] == "gsjax.objectives.Ridge"
    assert names["gsjax.diagnose"] == "gsjax.diagnosis.diagnose"
    assert names["gsjax.probes.depths.depth"] == "gsjax.probes.depth"
    assert names["gsjax.dual.Trajectory"] != names["gsjax.starvation.Trajectory"]
    index = _api.pages()["api/index.rst"]
    assert "\n.. py:class:: Ridge\n\n   The same as :py:obj:`gsjax.objectives.Ridge`. " in index
    assert "\n.. py:function:: diagnose\n\n   The same as :py:obj:`gsjax.diagnosis.diagnose`. " in index


def hooked(text: str) -> str:
    lines = text.split("\n")
    _api.docstring(None, "function", "f", None, None, lines)
    return "\n".join(lines)


@pytest.mark.parametrize(
    "kept",
    [
        ".. math::\n\n    \\sum |W|\n\n    + |b|",
        ".. math:: |a|\n    + |b|",
        ":param x: a size.\n\n    .. math::\n\n        |x| \\quad\n          |y|",
        "As in :math:`|x|`, `|y|` and ``|z|``.",
        "A role that goes on: :math:`|x|\n+ |y|`.",
        "Code::\n\n    a | b",
        ".. code-block:: python\n\n    a | b",
        ">>> a | b\n'a|b'",
        "Escaped: \\|x\\|.",
    ],
)
def test_the_hook_leaves_formulas_and_code_alone(kept):
    assert hooked(kept) == kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The size |x| of x.", r"The size \|x\| of x."),
        ("`|a|` and |b|\nand ``|c|`` |d|.", "`|a|` and \\|b\\|\nand ``|c|`` \\|d\\|."),
        (".. math::\n\n    |a|\n\nwith |b|.", ".. math::\n\n    |a|\n\nwith \\|b\\|."),
        (":raises ValueError: |x| is not\n    |y|.", ":raises ValueError: \\|x\\| is not\n    \\|y\\|."),
        ("- |x|\n- `|y|`", "- \\|x\\|\n- `|y|`"),
        ("A lone ` and |x|.", "A lone ` and \\|x\\|."),
        (":param core: c.\n:param n: n, of |x|.", ":param core: \\c.\n:param n: n, of \\|x\\|."),
        ("As in\n\n    a | b\n    c\n\nwith |b|.", "As in\n\n::\n\n    a | b\n    c\n\nwith \\|b\\|."),
    ],
)
def test_the_hook_escapes_bars_in_prose_and_marks_code(text, expected):
    assert hooked(text) == expected


def test_a_signature_is_python_without_what_flax_adds():
    flax = "(width: int = 2, parent: ~flax.Module | None = <flax.module._Sentinel object>, name: str | None = None)"
    shown = {
        flax: "(width: int = 2)",
        flax.replace("width: int = 2, ", ""): "()",
        "(parent: int, name: str)": "(parent: int, name: str)",
        "(sizes: dict = <factory>)": "(sizes: dict = ...)",
        '(x: str = "▲",, y: int)': '(x: str = "▲", y: int)',
    }
    for text, expected in shown.items():
        assert _api.signature(None, "class", "C", None, None, text, "int") == (expected, "int")
    assert _api.signature(None, "module", "m", None, None, None, None) == (None, None)


def target(module: str, name: str, written: str) -> str:
    """Where a type in the signature of a public object leads, if it is written in this way."""
    document = new_document("page")
    signature = addnodes.desc_signature(module=module, fullname=name)
    signature += addnodes.pending_xref(reftarget=written)
    document += signature
    _api.annotations(None, document)
    return next(document.findall(addnodes.pending_xref))["reftarget"]


def test_a_type_means_what_it_means_in_its_module():
    assert target("gsjax.dual", "integrate", "Trajectory") == "gsjax.dual.Trajectory"
    assert target("gsjax.starvation", "trajectory", "Trajectory") == "gsjax.starvation.Trajectory"
    assert target("gsjax.dual", "integrate", "gsjax.starvation.trajectory.Trajectory") == "gsjax.starvation.Trajectory"
    assert target("gsjax.dual", "match", "Ridge") == "gsjax.objectives.Ridge"
    # Imported for types alone.
    assert target("gsjax.plotting", "starvation_over_time", "Trajectory") == "gsjax.starvation.Trajectory"
    # A class of no page does not lead to one of the same name, and an unknown name is left to Sphinx.
    assert target("gsjax.data", "load_images", "Path") == "pathlib.Path"
    assert target("gsjax.dual", "integrate", "Unknown") == "Unknown"


CONF = """
import _formulas

html_theme, html_math_renderer = "basic", "mathml"

def setup(app):
    app.add_html_math_renderer("mathml", (_formulas.inline, None), (_formulas.displayed, None))
"""


def test_a_formula_that_cannot_be_converted_is_a_warning_with_its_place(tmp_path):
    (tmp_path / "conf.py").write_text(CONF, encoding="utf-8")
    text = "Index\n=====\n\nGood: :math:`x_1`.\n\n.. math::\n\n    \\nothing{x < y}\n\nBad: :math:`a & b`.\n"
    (tmp_path / "index.rst").write_text(text, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(tmp_path), str(tmp_path / "html")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "docs")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    places = re.findall(
        r"(index\.rst:\d+): WARNING: a formula cannot be converted to MathML \(.+\): (.*) \[formula\]", run.stderr
    )
    assert places == [("index.rst:6", r"\nothing{x < y}"), ("index.rst:10", "a & b")]
    page = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    assert page.count("<math") == 1
    assert r"<code>\nothing{x &lt; y}</code>" in page  # the page is made all the same


def figures(text: str) -> list[tuple[str, str]]:
    return re.findall(r"!\[([^\]]*)\]\(([^)\s]+\.png)\)", text)


@pytest.mark.parametrize("page", sorted(RESULTS.glob("*.md")), ids=lambda page: page.stem)
def test_every_figure_of_a_record_is_on_its_page_once_and_described(page):
    found = figures(page.read_text(encoding="utf-8"))
    drawn = [(page.parent / source).resolve() for _, source in found]
    assert sorted(drawn) == sorted((RECORDS / page.stem).glob("*/*.png"))
    for alt, source in found:
        # A sentence, not a name: what the axes are, or what is compared.
        assert re.fullmatch(r"[A-Z0-9].{40,}\.", alt), source
    assert len({alt for alt, _ in found}) == len(found)


def test_the_gallery_has_every_figure():
    gallery = _site._gallery()["gallery.md"]
    shown = re.findall(r"^:::\{figure\} (\S+)$", gallery, re.MULTILINE)
    assert sorted((_site.GENERATED / source).resolve() for source in shown) == sorted(RECORDS.rglob("*.png"))
    text = (RESULTS / "two_moons.md").read_text(encoding="utf-8")
    assert all(f"\n\n{alt}\n:::\n" in gallery for alt, _ in figures(text))


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A small checkout whose site is made."""
    files = {
        "requirements.lock": "jax==1",
        "gsjax/__init__.py": "",
        "experiments/records/a/laptop/summary.json": "{}",
        "experiments/records/b/laptop/summary.json": "{}",
        "notebooks/1_a.ipynb": '"../experiments/records/a/laptop/summary.json"',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(_site, "ROOT", tmp_path)
    monkeypatch.setattr(_site, "DOCS", tmp_path / "docs")
    return tmp_path


@pytest.mark.parametrize(
    "changed", ["requirements.lock", "gsjax/__init__.py", "experiments/records/a/laptop/summary.json"]
)
def test_notebooks_are_executed_again_after_a_change_of_what_they_use(checkout, changed):
    before = Path(_site.notebook_cache())
    before.mkdir(parents=True)
    (before / "global.db").touch()
    (before.parent / "stray").touch()
    assert _site.notebook_cache() == str(before)
    assert [path.name for path in before.parent.iterdir()] == [before.name]
    (checkout / changed).write_text("changed", encoding="utf-8")
    after = Path(_site.notebook_cache())
    assert after != before
    assert after.parent == before.parent
    assert list(before.parent.iterdir()) == []


def test_other_changes_do_not_execute_notebooks_again(checkout):
    before = _site.notebook_cache()
    (checkout / "experiments/records/b/laptop/summary.json").write_text("changed", encoding="utf-8")
    (checkout / "gsjax/__pycache__").mkdir()
    (checkout / "gsjax/__pycache__/a.pyc").write_text("changed", encoding="utf-8")
    assert _site.notebook_cache() == before
