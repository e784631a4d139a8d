"""What Sphinx does not do by itself: pages from docstrings, notebooks and records, links out of docs/, formulas."""

from __future__ import annotations

import importlib
import inspect
import re
import types
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"

# Files outside of docs/, and the pages of the site that take their place.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "generated/contributing.md",
    "CHANGELOG.md": "generated/changelog.md",
    "notebooks": "generated/notebooks/index.md",
    "notebooks/README.md": "generated/notebooks/index.md",
}


def version() -> str:
    """The version of the library."""
    import gsjax

    return gsjax.__version__


def generate() -> None:
    """Writes the pages under docs/generated/ that have changed, and removes those that are not made any more."""
    texts = {**_copies(), **_notebooks(), **_api(), **_gallery()}
    for name, text in texts.items():
        path = GENERATED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Sphinx and the cache of notebooks go by times and contents: what is the same stays untouched.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in [path for path in GENERATED.rglob("*") if path.is_file()]:
        if path.relative_to(GENERATED).as_posix() not in texts:
            path.unlink()


def _copies() -> dict[str, str]:
    """Pages of the repository outside of docs/, with links that lead from docs/generated/."""
    return {
        f"{name.lower()}.md": _moved((ROOT / f"{name}.md").read_text(encoding="utf-8"), ROOT, GENERATED)
        for name in ("CONTRIBUTING", "CHANGELOG")
    }


def _notebooks() -> dict[str, str]:
    files = sorted((ROOT / "notebooks").glob("[1-9]_*.ipynb"))
    listing = "\n".join(path.stem for path in files)
    index = (
        f"# Notebooks\n\nThey are executed when this site is built.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listing}\n```\n"
    )
    found = {f"notebooks/{path.name}": path.read_text(encoding="utf-8") for path in files}
    return {**found, "notebooks/index.md": index}


def rooms() -> list[str]:
    """The public modules of the library with an `__all__`, rooms first, then the modules that rooms export."""
    import gsjax

    found = []
    for name in gsjax.__all__:
        module = getattr(gsjax, name)
        if isinstance(module, types.ModuleType):
            found.append(module.__name__)
            found += [
                inner.__name__
                for inner in map(module.__dict__.get, module.__all__)
                if isinstance(inner, types.ModuleType)
            ]
    return list(dict.fromkeys(found))


def _api() -> dict[str, str]:
    pages = {}
    names = rooms()
    for name in names:
        module = importlib.import_module(name)
        title = f"``{name}``"
        lines = [title, "=" * len(title), "", f".. automodule:: {name}", "   :no-members:", ""]
        for entry in module.__all__:
            lines += _entry(name, entry, getattr(module, entry))
        pages[f"api/{name}.rst"] = "\n".join(lines) + "\n"
    listing = "\n".join(f"   {name}" for name in names)
    pages["api/index.rst"] = f"""API
===

.. automodule:: gsjax
   :no-members:

.. toctree::
   :maxdepth: 1

{listing}
"""
    return pages


def _entry(module: str, name: str, value: Any) -> list[str]:
    """The directive for one public name."""
    full = f"{module}.{name}"
    if isinstance(value, types.ModuleType):
        return []
    if inspect.isclass(value) and not value.__module__.startswith("gsjax"):
        return [f".. py:data:: {full}", "", f"   ``{value.__module__}.{value.__qualname__}``, for use in types.", ""]
    if inspect.isclass(value) and not isinstance(value, types.GenericAlias):
        return [f".. autoclass:: {full}", "   :members:", ""]
    if isinstance(value, types.MethodType):  # of an entry of a catalogue: its signature is that of the function
        text = inspect.getdoc(value) or ""
        body = [f"   {line}" for line in text.splitlines()]
        return [f".. py:function:: {full}{inspect.signature(value)}", "", *body, ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {full}", ""]
    return [f".. py:data:: {full}", "", f"   {_constant(value)}", ""]


def _constant(value: Any) -> str:
    text = repr(value)
    return (
        f"``{text}``"
        if len(text) <= 400 and "\n" not in text and " at 0x" not in text
        else f"A ``{type(value).__name__}``."
    )


def _gallery() -> dict[str, str]:
    """Every figure on a results page, with its caption and a link to the page."""
    lines = [
        "# Gallery",
        "",
        "Every figure of a tracked run. A title leads to the page with all that was measured.",
        "",
    ]
    for page in sorted((DOCS / "results").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        figures = re.findall(r"!\[([^\]]*)\]\(([^)\s]+\.png)\)", text)
        if figures:
            title = re.findall(r"^# (.*)", text, re.MULTILINE)[0]
            lines += [f"## [{title}](../results/{page.name})", ""]
            for alt, source in figures:
                target = Path(*("..", source)) if not source.startswith("../../") else Path("../..", source[6:])
                lines += [f"![{alt}]({target.as_posix()})", ""]
    return {"gallery.md": "\n".join(lines)}


def relink(app: Any, docname: str, source: list[str]) -> None:
    """Links from a page of docs/ to files of the repository outside of it lead to their pages on the site."""
    folder = (DOCS / docname).parent
    if not docname.startswith("generated/") and (DOCS / f"{docname}.md").exists():
        source[0] = _moved(source[0], folder, folder)


def _moved(text: str, origin: Path, folder: Path) -> str:
    """The text of a page in `origin`, whose relative links then lead from a page in `folder` of the site."""

    def target(link: str) -> str | None:
        """The new link; None for a file that the site does not have."""
        file, mark, heading = link.partition("#")
        if not file or re.match(r"[a-z]+:", link):
            return link
        path = (origin / file).resolve()
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
        if name in PAGES:
            path = DOCS / PAGES[name]
        elif not path.is_relative_to(DOCS) and path.suffix != ".png":
            return None
        return _relative(path, folder) + mark + heading

    def linked(found: re.Match[str]) -> str:
        new = target(found["target"])
        return found["text"] if new is None else f"{found['bang']}[{found['text']}]({new})"

    parts = re.split(r"(^```.*?^```|`[^`\n]*`)", text, flags=re.DOTALL | re.MULTILINE)
    pattern = r"(?P<bang>!?)(?<!\\)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)"
    return "".join(part if part.startswith("`") else re.sub(pattern, linked, part) for part in parts)


def _relative(path: Path, folder: Path) -> str:
    import os

    return Path(os.path.relpath(path, folder)).as_posix()


def docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Indented blocks of docstrings that are not lists, directives or doctests are code: they keep their lines.

    Bars in prose, as in |x|, are escaped, since they have a meaning in reStructuredText.
    """
    found: list[str] = []
    inside = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ") and not inside_directive(lines, number)
        before = next((other for other in reversed(lines[:number]) if other.strip()), "")
        begins = indented and not lines[number - 1].strip() and not before.startswith((" ", "-", "*", ".. ", ":"))
        if begins and not inside and not re.match(r"\s+(>>>|- |\* )", line):
            found += ["::", ""]
            inside = True
        elif line.strip() and not line.startswith(" "):
            inside = False
        literal = inside or line.lstrip().startswith((">>>", "..."))
        found.append(line if literal else re.sub(r"(`[^`]*`)|\|", lambda bar: bar[1] or r"\|", line))
    lines[:] = found


def inside_directive(lines: list[str], number: int) -> bool:
    """Whether a line belongs to a directive or a field, whose content is indented."""
    for other in reversed(lines[:number]):
        if other.strip() and not other.startswith(" "):
            return other.startswith((".. ", ":", "- ", "* "))
    return False


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Fields of named tuples are in the docstrings of their classes."""
    text = getattr(obj, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None


def inline_math(translator: Any, node: nodes.math) -> None:
    """A formula within a line, as MathML."""
    translator.body.append(_mathml(node.astext(), displayed=False))
    raise nodes.SkipNode


def displayed_math(translator: Any, node: nodes.math_block) -> None:
    """A formula of its own, as MathML, in a box that scrolls if it is too wide."""
    label = "formula"
    translator.body.append(f'<div class="formula" role="group" aria-label="{label}" tabindex="0">')
    translator.body.append(_mathml(node.astext(), displayed=True))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def _mathml(text: str, *, displayed: bool) -> str:
    text = re.sub(r"^(?=[\^_])", "{}", text.strip())  # as in $^p$, an exponent of the word before it
    tree = latex2mathml.tex2mathml(text, as_block=displayed)
    return tree if isinstance(tree, str) else tree.toxml()


_LINES = re.compile(r"<dl>\n((?:<dd>(?:(?!</?d[dlt]>).)*</dd>\n)+)</dl>", re.DOTALL)


def accessible(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Repairs what axe-core complains about in a page.

    The theme's box in which a wide table scrolls can be reached with the keyboard. Sphinx writes a signature of several
    lines as definitions without a term, which screen readers announce as broken lists; they become plain boxes. The
    empty corner of a table is no heading.
    """
    if "body" not in context:
        return
    body = _LINES.sub(
        lambda found: f'<div class="lines">{found[1].replace("<dd>", "<div>").replace("</dd>", "</div>")}</div>',
        context["body"],
    )
    body = body.replace('<th class="head"><p></p></th>', "<td></td>")
    box = '<div class="pst-scrollable-table-container"'
    context["body"] = body.replace(f"{box}>", f'{box} role="group" aria-label="table" tabindex="0">')
