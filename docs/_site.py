"""What Sphinx does not do by itself: pages from docstrings, notebooks and records, and links out of docs/."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import _api
from docutils import nodes
from PIL import Image

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

_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.png)\)")


def version() -> str:
    """The version of the library."""
    import gsjax

    return gsjax.__version__


def generate() -> None:
    """Writes the pages under docs/generated/ that have changed, and removes those that are not made any more."""
    texts = {**_copies(), **_notebooks(), **_api.pages(), **_gallery()}
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
    # They are executed where they lie, so the records that they read have to lie in the same place beside them.
    records = {name for text in found.values() for name in re.findall(r"\.\./(experiments/[\w/]+\.json)", text)}
    copies = {name: (ROOT / name).read_text(encoding="utf-8") for name in sorted(records)}
    found = {name: text.replace("](../docs/", "](../../") for name, text in found.items()}
    return {**found, **copies, "notebooks/index.md": index}


def _gallery() -> dict[str, str]:
    """Every figure of the tracked records, with its description as its caption, below a link to the page of results."""
    lines = ["# Gallery", "", "A title leads to the page with everything that was measured.", ""]
    for page in sorted((DOCS / "results").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        figures = [(alt, (page.parent / source).resolve()) for alt, source in _IMAGE.findall(text)]
        if figures:
            title = re.findall(r"^# (.*)", text, re.MULTILINE)[0]
            lines += [f"## [{title}]({_relative(page, GENERATED)})", ""]
            lines += [line for alt, path in figures for line in _figure(alt, path)]
    readme = re.findall(r'<img src="([^"]+)"[^>]*alt="([^"]*)"', (ROOT / "README.md").read_text(encoding="utf-8"))
    lines += ["## Pictures of the idea", "", "They begin the README; `make figures` draws them with the library.", ""]
    lines += [line for source, alt in readme for line in _figure(alt, ROOT / source)]
    return {"gallery.md": "\n".join(lines)}


def _figure(caption: str, path: Path) -> list[str]:
    """A figure with its caption. As the caption describes it, its alternative text only names it."""
    name = "/".join(path.with_suffix("").parts[-3:]).removeprefix("records/")
    return [f":::{{figure}} {_relative(path, GENERATED)}", f":alt: {name}", ":loading: lazy", "", caption, ":::", ""]


def enlargeable(app: Any, doctree: nodes.document) -> None:
    """Figures of records, which are larger than a column, lead to the images: Sphinx links those that have a size.

    With their sizes, pages do not move while figures are loaded.
    """
    for image in doctree.findall(nodes.image):
        _, folder, name = image["uri"].partition("experiments/records/")
        if folder:
            with Image.open(ROOT / folder / name) as drawn:
                image["width"], image["height"] = (f"{size}px" for size in drawn.size)


def digest(paths: Iterable[Path]) -> str:
    """A hash of the names and the contents of files of the repository."""
    hashes = ((path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(paths))
    lines = [f"{path.relative_to(ROOT).as_posix()} {content}\n" for path, content in hashes]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def notebook_cache() -> str:
    """The folder of executed notebooks, made anew if the library, a record or a dependency has changed.

    The cache itself goes by the code of the notebooks alone. So the name of its folder stands for all else that their
    outputs depend on, and the folders of other states are removed.
    """
    records = [ROOT / name for name in _notebooks() if name.startswith("experiments/")]
    library = [path for path in (ROOT / "gsjax").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    state = f"{platform.python_version()} {digest([*library, *records, ROOT / 'requirements.lock'])}"
    folder = DOCS / "_build" / "notebooks" / hashlib.sha256(state.encode()).hexdigest()[:16]
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return str(folder)


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
    return Path(os.path.relpath(path, folder)).as_posix()


_LINES = re.compile(r"<dl>\n((?:<dd>(?:(?!</?d[dlt]>).)*</dd>\n)+)</dl>", re.DOTALL)


def accessible(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Repairs what axe-core complains about in a page.

    The theme's box in which a wide table scrolls can be reached with the keyboard. Sphinx writes a signature of several
    lines as definitions without a term, which screen readers announce as broken lists; they become plain boxes. The
    empty corner of a table is no heading.

    The size of an image is an attribute, which browsers know as a ratio, where docutils writes it as a style.
    """
    if "body" not in context:
        return
    body = _LINES.sub(
        lambda found: f'<div class="lines">{found[1].replace("<dd>", "<div>").replace("</dd>", "</div>")}</div>',
        context["body"],
    )
    body = body.replace('<th class="head"><p></p></th>', "<td></td>")
    body = re.sub(r'style="width: (\d+)px; height: (\d+)px;"', r'width="\1" height="\2"', body)
    box = '<div class="pst-scrollable-table-container"'
    context["body"] = body.replace(f"{box}>", f'{box} role="group" aria-label="table" tabindex="0">')
