"""The API pages: which names they have, where each is documented, and how docstrings and signatures are read."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.ext.napoleon import GoogleDocstring


@functools.cache
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


@functools.cache
def names() -> dict[str, str]:
    """Every public name of the library, and the one under which its object is documented.

    That is the name in the first of the `rooms` that export the object: `gsjax.probes.depth` before
    `gsjax.probes.depths.depth`. Names of `gsjax` itself come last, so `gsjax.diagnose` leads to
    `gsjax.diagnosis.diagnose`.
    """
    found: dict[str, str] = {}
    first: dict[tuple[str, int], str] = {}
    for room in [*rooms(), "gsjax"]:
        module = importlib.import_module(room)
        for name in module.__all__:
            found[f"{room}.{name}"] = first.setdefault((name, id(getattr(module, name))), f"{room}.{name}")
    return found


def pages() -> dict[str, str]:
    """A page for every room, and the index, which has the names of `gsjax` itself and a list of the rooms."""
    found = {f"api/{room}.rst": "\n".join([*_head(f"``{room}``", room), *_entries(room), ""]) for room in rooms()}
    modules = ["Modules", "-------", "", *(line for room in rooms() for line in _listed(room))]
    pages = [".. toctree::", "   :hidden:", "", *(f"   {room}" for room in rooms()), ""]
    found["api/index.rst"] = "\n".join([*_head("API", "gsjax"), *_entries("gsjax"), *modules, *pages])
    return found


def _head(title: str, room: str) -> list[str]:
    return [title, "=" * len(title), "", f".. automodule:: {room}", "   :no-members:", ""]


def _listed(room: str) -> list[str]:
    """An entry of the list of modules; modules inside of a room are a list within it."""
    summary = escaped((importlib.import_module(room).__doc__ or "").partition("\n")[0])
    return [f"{'  ' * (room.count('.') - 1)}- :py:mod:`{room}`: {summary}", ""]


def _entries(room: str) -> list[str]:
    module = importlib.import_module(room)
    return [line for name in module.__all__ for line in _entry(room, name, getattr(module, name))]


def _entry(room: str, name: str, value: Any) -> list[str]:
    """The directive for one public name.

    Directives of the domain take names relative to the module of the page, which `automodule` has set. Those of autodoc
    take whole names.
    """
    full = f"{room}.{name}"
    if isinstance(value, types.ModuleType):
        return []
    if (home := names()[full]) != full:
        kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
        summary = escaped((inspect.getdoc(value) or "").partition("\n")[0]) if kind != "data" else ""
        return [f".. py:{kind}:: {name}", "", f"   The same as :py:obj:`{home}`. {summary}".rstrip(), ""]
    if inspect.isclass(value) and not value.__module__.startswith("gsjax"):
        return [f".. py:data:: {name}", "", f"   ``{value.__module__}.{value.__qualname__}``, for use in types.", ""]
    if inspect.isclass(value) and not isinstance(value, types.GenericAlias):
        return [f".. autoclass:: {full}", "   :members:", ""]
    if isinstance(value, types.MethodType):  # of an entry of a catalogue, which autodoc takes for a method of a class
        text = str(GoogleDocstring(inspect.getdoc(value) or "", what="function")).split("\n")
        docstring(None, "function", full, value, None, text)
        return [f".. py:function:: {name}{inspect.signature(value)}", "", *(f"   {line}".rstrip() for line in text), ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {full}", ""]
    return [f".. py:data:: {name}", "", f"   {_constant(value)}", ""]


def _constant(value: Any) -> str:
    text = re.sub(r"\b(jaxlib\._jax|jaxtyping|typing)\.", "", repr(value))  # in a type
    return (
        f"``{text}``"
        if len(text) <= 400 and "\n" not in text and " at 0x" not in text
        else f"A ``{type(value).__name__}``."
    )


def docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Indented blocks of docstrings that are not lists, directives or doctests are code: they keep their lines.

    Bars in prose, as in |x|, are escaped, since they have a meaning in reStructuredText. Those in formulas, code and
    doctests are left alone. Neither is a letter that is all of a field's text, as in "core: c.", the number of an item.
    """
    lines[:] = [re.sub(r"^(\s*:\w+ [^:]+: )(?=\w\.(\s|$))", r"\1\\", line) for line in _with_code(lines)]
    number = 0
    while number < len(lines):
        end = number
        while end < len(lines) and lines[end].strip() and not _literal(lines, end):
            end += 1
        # A paragraph at a time, because code and roles may go on in the next line.
        if end > number and not lines[number].lstrip().startswith(">>>"):
            lines[number:end] = escaped("\n".join(lines[number:end])).split("\n")
        number = max(end, number + 1)


def escaped(text: str) -> str:
    """Text with its bars escaped, except for those between backquotes and those that are escaped already."""
    return re.sub(r"(?s)(`+)[^`].*?(?<!`)\1(?!`)|\\.|(\|)", lambda found: r"\|" if found[2] else found[0], text)


def _with_code(lines: list[str]) -> list[str]:
    found: list[str] = []
    inside = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ") and not _inside_directive(lines, number)
        before = next((other for other in reversed(lines[:number]) if other.strip()), "")
        begins = indented and not lines[number - 1].strip() and not before.startswith((" ", "-", "*", ".. ", ":"))
        if begins and not inside and not before.endswith("::") and not re.match(r"\s+(>>>|- |\* )", line):
            found += ["::", ""]
            inside = True
        elif line.strip() and not line.startswith(" "):
            inside = False
        found.append(line)
    return found


def _inside_directive(lines: list[str], number: int) -> bool:
    """Whether a line belongs to a directive or a field, whose content is indented."""
    for other in reversed(lines[:number]):
        if other.strip() and not other.startswith(" "):
            return other.startswith((".. ", ":", "- ", "* "))
    return False


def _literal(lines: list[str], number: int) -> bool:
    """Whether a line is shown as it is: in a formula or in code, or at the head of one."""
    owners = [line.strip() for line in _owners(lines, number)]
    return any(
        re.match(r"\.\. (math|code|code-block|parsed-literal)::", line) for line in (lines[number].strip(), *owners)
    ) or any(line.endswith("::") and not line.startswith(".. ") for line in owners)


def _owners(lines: list[str], number: int) -> Iterator[str]:
    """The line that a line is indented under, the one that this is indented under, and so on."""
    depth = _indent(lines[number])
    for other in reversed(lines[:number]):
        if other.strip() and _indent(other) < depth:
            depth = _indent(other)
            yield other


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Fields of named tuples are in the docstrings of their classes."""
    text = getattr(obj, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None


def signature(
    app: Any, what: str, name: str, obj: Any, options: Any, text: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Signatures as a user writes them, without what flax adds to the fields of all modules.

    Sphinx parses a signature, and shows one that it cannot parse with all its marks: it has to be Python.
    """
    if text is not None:
        text = re.sub(r"(, )?parent: .*_Sentinel object>, name: str \| None = None\)$", ")", text)
        text = text.replace("<factory>", "...")
        # A default with letters beyond ASCII: its end is a number of bytes, which is taken for one of letters.
        text = re.sub(r"([\"']),,", r"\1,", text)
    return text, returned


def annotations(app: Any, doctree: nodes.document) -> None:
    """Types in signatures lead to what their own module means by them, not to whatever has the same name.

    Sphinx looks for a name on the page, then for any that ends like it. But `Trajectory` is one class in `gsjax.dual`
    and another one in `gsjax.starvation`, and functions of other rooms return either.
    """
    homes = {id(_public(full)): home for full, home in names().items()}
    for signature in doctree.findall(addnodes.desc_signature):
        scope = _scope(signature.get("module"), signature.get("fullname"))
        for reference in signature.findall(addnodes.pending_xref):
            value = _meant(reference["reftarget"], scope)
            if value is not None and id(value) in homes:
                reference["reftarget"] = homes[id(value)]
            elif hasattr(value, "__qualname__"):  # of no page: its whole name does not match by chance
                reference["reftarget"] = f"{value.__module__}.{value.__qualname__}"
        for text in list(signature.findall(nodes.Text)):
            if "jaxlib._jax." in text:  # where jax.Array is made, a name that nobody writes
                text.parent.replace(text, nodes.Text(text.replace("jaxlib._jax.", "")))


def _public(full: str) -> Any:
    """The object of a public name, which may also be that of a module inside of a room."""
    room, _, name = full.rpartition(".")
    return getattr(importlib.import_module(room), name)


def _scope(module: str | None, name: str | None) -> dict[str, Any]:
    """The names that a documented object sees where it is defined."""
    value: Any = sys.modules.get(module or "")
    for part in (name or "").split("."):
        value = getattr(value, part, None)
    home = sys.modules.get(getattr(value, "__module__", None) or module or "")
    return {} if home is None else {**_imported_for_types(home), **vars(home)}


@functools.cache
def _imported_for_types(module: types.ModuleType) -> dict[str, Any]:
    """What a module of the library imports from others of the library only `if TYPE_CHECKING`."""
    if not module.__name__.startswith("gsjax"):
        return {}
    tests = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.If)]
    imports = [node for test in tests for node in test.body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in imports
        for alias in node.names
        if node.module and node.module.startswith("gsjax.")
    }


def _meant(name: str, scope: dict[str, Any]) -> Any:
    """What a name with dots means in a module; None for what is not there."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        head = ".".join(parts[:length])
        if head in scope or head in sys.modules:
            value = scope[head] if head in scope else sys.modules[head]
            for part in parts[length:]:
                value = getattr(value, part, None)
            return value
    return None
