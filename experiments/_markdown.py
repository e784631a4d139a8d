"""Markdown tables, generated from tracked records and inserted at the markers of a page.

A table stands between a marker and `<!-- end -->`. The markers are:

- `<!-- table: NAME ... -->`: everything that was measured.
- `<!-- signatures: NAME ... -->`: the signatures, and whether they hold.
- `<!-- crossed: NAME | A; B; ... | p; q; ... -->`: the rows "A: p", "A: q", "B: p", ... of a record, with a line for
  each of A, B, ... and a column for each of p, q, ...
- `<!-- seconds: NAME -->`: what was timed, from the files in `seconds/` of a record, one object a file.
- `<!-- claims: theory -->`: the claims of `theory/records/claims.json`.
- `<!-- registry: NAME -->`: what is registered as methods, networks, probes, data or experiments.

In the first four, NAME is EXPERIMENT/PRESET, or EXPERIMENT for its preset laptop. In the first two, several names give
one table of those that have a record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import _options, _page
from experiments._page import Summary
from gsjax import files

_MARKED = re.compile(
    r"(<!-- (table|signatures|crossed|seconds|claims|registry): (\S+(?: \S+)*?) -->\n)"
    r"((?:(?!<!-- \w+: ).)*?)(<!-- end -->)",
    re.DOTALL,
)


def pages(root: Path) -> list[Path]:
    """The pages of a checkout that may have tables: README.md and all pages in docs/ that are not made from others."""
    found = sorted((root / "docs").rglob("*.md"))
    return [root / "README.md", *(path for path in found if not {"_build", "generated"} & set(path.parts))]


def tracked(folder: Path) -> dict[str, Summary]:
    """The records in `folder`, by NAME/PRESET.

    Raises:
        ValueError: a file is not a summary of the experiment and preset that its folders name.
    """
    found = {}
    for path in sorted(folder.glob("*/*/summary.json")):
        name = path.parent.relative_to(folder).as_posix()
        found[name] = _page.read(path)
        if found[name].name != name:
            raise ValueError(f"{path}: expected the record of {name}, got that of {found[name].name}")
    return found


def claims(root: Path) -> list[dict[str, Any]]:
    """The tracked record of `python -m theory`, one entry per claim; empty if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    path = root / "theory" / "records" / "claims.json"
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_bytes())
        table_of_claims(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); run python -m theory --json {path}") from error
    return content


def fill(text: str, found: Mapping[str, Summary], checked: Sequence[Mapping[str, Any]] = ()) -> str:
    """`text` with the marked tables regenerated; a table without a record becomes a sentence that says so."""

    def renew(match: re.Match[str]) -> str:
        begin, kind, names, _, end = match.groups()
        if kind == "registry":
            return begin + registered(names) + end
        if kind == "claims":
            return begin + (table_of_claims(checked) if checked else "No record of the claims yet.\n") + end
        names, *crossing = names.split(" | ")
        wanted = [name if "/" in name else f"{name}/laptop" for name in names.split()]
        recorded = [found[name] for name in wanted if name in found]
        none = f"No record of {' or '.join(names.split())} yet.\n"
        if kind == "crossed":
            return begin + (crossed(recorded[0], *crossing) if recorded else none) + end
        if kind == "seconds":
            return begin + (timed(recorded[0]) if recorded else none) + end
        make = {"table": table, "signatures": signatures}[kind]
        return begin + (make(recorded, named=len(wanted) > 1) if recorded else none) + end

    return _MARKED.sub(renew, text)


def table(summaries: Sequence[Summary], *, named: bool = False) -> str:
    """The rows of summaries as one table without empty columns; with `named`, a first column names the experiment."""
    head = ("experiment", "", "measured [95% interval]", "seeds", "published", "what differs")
    lines = [
        (_called(one), row["name"], _page.measured(row), row["seeds"], row["published"], row["differs"])
        for one in summaries
        for row in one.content["rows"]
    ]
    return _markdown(head, lines, named)


def signatures(summaries: Sequence[Summary], *, named: bool = False) -> str:
    """The signatures of summaries as one table."""
    head = ("experiment", "signature", "value [95% interval]", "holds", "criterion")
    lines = [
        (_called(one), entry["name"], _page.valued(entry), entry["holds"], entry["why"])
        for one in summaries
        for entry in one.content["signatures"]
    ]
    return _markdown(head, lines, named)


def crossed(summary: Summary, lines: str, columns: str) -> str:
    """The rows "line: column" of a summary as a table; `lines` and `columns` are separated by semicolons.

    A cell is empty if there is no such row. It has a star if the row has a note, which stands in the complete table.

    Raises:
        ValueError: a line or a column is empty.
    """
    heads, names = columns.split("; "), lines.split("; ")
    found = {row["name"]: _page.measured(row) + " *" * bool(row["differs"]) for row in summary.content["rows"]}
    cells = [[found.get(f"{name}: {head}", "") for head in heads] for name in names]
    for label, entries in (*zip(names, cells, strict=True), *zip(heads, zip(*cells, strict=True), strict=True)):
        if not any(entries):
            raise ValueError(f"crossed: {summary.name} has no row of {label!r}")
    # The first column is a name, and all columns after it are kept.
    rows = [["", *heads], ["---"] * (len(heads) + 1), *([name, *line] for name, line in zip(names, cells, strict=True))]
    note = "\n\\* with a note in the complete table\n" if any("*" in cell for line in cells for cell in line) else ""
    return "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in rows) + note


def timed(summary: Summary) -> str:
    """The files in `seconds/` beside a summary as a table: a line per file, a column per field.

    Raises:
        ValueError: there are none, or one is damaged.
    """
    lines = []
    for path in sorted((summary.path.parent / "seconds").glob("*.json")):
        try:
            content = files.parse(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); copy the results of the run again") from error
        lines.append(content)
    if not lines:
        raise ValueError(f"seconds: {summary.name} has no files in seconds/ beside its summary")
    head = list(dict.fromkeys(name for line in lines for name in line))
    return _markdown(("", *head), [("", *(line.get(name) for name in head)) for line in lines], named=False)


def table_of_claims(checked: Sequence[Mapping[str, Any]]) -> str:
    """One table of all claims: the prediction, the observation, and the same for the control."""
    head = ("claim", "statement", "predicted", "observed [95% interval]", "tolerance", "control, which has to fail")
    lines = []
    for claim in checked:
        control = claim["control"]
        verdict = "" if claim["holds"] else ", does not hold"
        broken = "" if not control["holds"] else ", holds"
        lines.append(
            (
                claim["name"],
                f"{claim['statement']} ({claim['reference']})",
                claim["predicted"],
                _observed(claim) + verdict,
                claim["tolerance"],
                f"{control['statement']}: {_observed(control)}{broken}",
            )
        )
    return _markdown(("", *head), [("", *line) for line in lines], named=False)


def registered(name: str) -> str:
    """The registry `name` as one table: names, and the first line of each docstring.

    Raises:
        ValueError: there is no such registry.
    """
    from gsjax import data, methods, networks, probes  # no other table needs them

    if name == "data":
        return data.catalogue.markdown().rstrip() + "\n"
    if name == "methods":
        lines = [(key, _sentence(entry.constructor), ", ".join(entry.needs)) for key, entry in methods.REGISTRY.items()]
        return _markdown(("", "name", "method", "needs"), [("", *line) for line in lines], named=False)
    if name == "experiments":
        entries = list(_options.found().items())
    elif name in ("networks", "probes"):
        room = {"networks": networks, "probes": probes}[name]
        entries = [(key, _sentence(room.get(key))) for key in room.NAMES]
    else:
        raise ValueError(f"registry: expected methods, networks, probes, data or experiments, got {name!r}")
    return _markdown(("", "name", "what it is"), [("", *entry) for entry in entries], named=False)


def _sentence(described: Any) -> str:
    """The first line of a docstring."""
    return (described.__doc__ or "").strip().splitlines()[0].rstrip(".")


def _observed(entry: Mapping[str, Any]) -> str:
    return _page.measured({"measured": entry["observed"], "interval": (entry["details"] or {}).get("interval")})


def _called(summary: Summary) -> str:
    """The name of a record in a table: its experiment, followed by its preset if that is not laptop."""
    return summary.name.removesuffix("/laptop")


def _markdown(head: Sequence[str], lines: Sequence[Sequence[object]], named: bool) -> str:
    """One table; the first column is kept if `named`, and columns after the third if they have an entry."""
    cells = [[_cell(value) for value in line] for line in lines]
    keep = [i for i in range(len(head)) if (named if i == 0 else i < 3 or any(line[i] for line in cells))]
    rows = [[line[i] for i in keep] for line in (head, ["---"] * len(head), *cells)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(value: object) -> str:
    """Text escaped so that it stays in its cell and is shown literally."""
    text = re.sub(r"[\\|*`~$]|(?<=\])\(", r"\\\g<0>", _page.number(value))
    return re.sub(r"\s", " ", text.replace("&", "&amp;").replace("<", "&lt;"))
