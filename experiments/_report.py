"""What the experiments have found: all results on one page of HTML, and the tables of the README.

The page is made from every `summary.json` under a folder of results, the tables from the records in
`experiments/records/NAME/PRESET/summary.json`. In the README a table stands between `<!-- table: NAME -->` and
`<!-- end -->`: of its preset laptop, or of NAME/PRESET. With several names it is one table of those of them that have
a record. `<!-- published: NAME ... -->` begins a table of the rows beside which a published number stands,
`<!-- signatures: NAME ... -->` one of signatures.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments import _options, _page
from experiments._page import Summary
from gsjax import records

ROOT = Path(__file__).parents[1]

_MARKED = re.compile(
    r"(<!-- (table|published|signatures): (\S+(?: \S+)*?) -->\n)((?:(?!<!-- \w+: ).)*?)(<!-- end -->)", re.DOTALL
)


@dataclass(frozen=True)
class Options:
    """Gather all results into one page, paper against measured, with figures."""

    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Where results are looked for, in whatever folders below."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: report.html in DIR)")] = (
        None
    )
    """The page."""
    tables: bool = False
    """Print the tables of all records as Markdown instead."""
    write: bool = False
    """Put them into README.md instead."""
    check: bool = False
    """Exit with 1 if README.md is not current."""


def main(arguments: Sequence[str]) -> int:
    """The command `python -m experiments report`; returns the exit status.

    Raises:
        ValueError: there are no results, or one is damaged.
        OSError: a file cannot be read or written.
    """
    flags = (tyro.conf.FlagCreatePairsOff,)
    options = tyro.cli(Options, args=arguments, prog="python -m experiments report", config=flags)
    if not (options.tables or options.write or options.check):
        gather(options.results, options.out or options.results / "report.html")
        return 0
    found = tracked(ROOT / "experiments" / "records")
    if options.tables:
        print("\n".join(f"## {_cell(name)}\n\n{table([one])}" for name, one in found.items()) or "no records yet")
        return 0
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    current = fill(text, found)
    if options.write and current != text:
        records.write(readme, current)
    elif current != text:
        print("experiments: README.md has other tables than the records; make readme renews them", file=sys.stderr)
        return 1
    return 0


def gather(results: Path, out: Path) -> None:
    """Writes the page of all summaries under `results` to `out`, and prints where it is and what holds.

    Raises:
        ValueError: there is none, or one is damaged.
        OSError: a file cannot be read or written.
    """
    summaries = [_page.read(path) for path in sorted(results.rglob("summary.json"))]
    if not summaries:
        raise ValueError(f"--results: expected a summary.json somewhere under {results}, got none; run an experiment")
    out.parent.mkdir(parents=True, exist_ok=True)
    records.write(out, _page.page(summaries, _options.found()))
    lines = Table("experiment", "signature", "value [95% interval]", "holds", box=None, pad_edge=False)
    for summary in summaries:
        for entry in summary.content["signatures"]:
            verdict = Text("yes", "green") if entry["holds"] else Text("no", "bold red")
            verdict = verdict if summary.judged else Text("too short to judge", "dim")
            lines.add_row(*map(Text, (summary.name, str(entry["name"]), _page.valued(entry))), verdict)
    console = Console()
    if lines.row_count:
        console.print(lines)
    console.print(Text(f"{out}: {len(summaries)} {'run' if len(summaries) == 1 else 'runs'}"), soft_wrap=True)


def tracked(folder: Path) -> dict[str, Summary]:
    """The records in `folder`, by NAME/PRESET.

    Raises:
        ValueError: a file is no summary of the experiment and preset that its folders are named after.
    """
    found = {}
    for path in sorted(folder.glob("*/*/summary.json")):
        name = path.parent.relative_to(folder).as_posix()
        found[name] = _page.read(path)
        if found[name].name != name:
            raise ValueError(f"{path}: expected the record of {name}, got that of {found[name].name}")
    return found


def fill(text: str, found: Mapping[str, Summary]) -> str:
    """`text` with the marked tables renewed; where there is no record, that is said instead."""

    def renew(match: re.Match[str]) -> str:
        begin, kind, names, _, end = match.groups()
        wanted = [name if "/" in name else f"{name}/laptop" for name in names.split()]
        there = [found[name] for name in wanted if name in found]
        make = {"table": table, "published": published, "signatures": signatures}[kind]
        none = f"No record of {' or '.join(names.split())} yet.\n"
        return begin + (make(there, named=len(wanted) > 1) if there else none) + end

    return _MARKED.sub(renew, text)


def table(summaries: Sequence[Summary], *, named: bool = False) -> str:
    """The rows of summaries as one table in Markdown, without columns that are empty; `named` says whose each is."""
    head = ("experiment", "", "measured [95% interval]", "seeds", "published", "what differs")
    lines = [
        (_called(one), row["name"], _page.measured(row), row["seeds"], row["published"], row["differs"])
        for one in summaries
        for row in one.content["rows"]
    ]
    return _markdown(head, lines, named)


def published(summaries: Sequence[Summary], *, named: bool = False) -> str:
    """Like `table`, of the rows beside which a published number stands."""
    beside = [[row for row in one.content["rows"] if row["published"] is not None] for one in summaries]
    kept = [one._replace(content={**one.content, "rows": rows}) for one, rows in zip(summaries, beside, strict=True)]
    return table(kept, named=named)


def signatures(summaries: Sequence[Summary], *, named: bool = False) -> str:
    """The signatures of summaries as one table in Markdown."""
    head = ("experiment", "signature", "value [95% interval]", "holds")
    lines = [
        (_called(one), entry["name"], _page.valued(entry), entry["holds"])
        for one in summaries
        for entry in one.content["signatures"]
    ]
    return _markdown(head, lines, named)


def _called(summary: Summary) -> str:
    """What the README calls a record: by its experiment, and by its preset if that is not laptop."""
    return summary.name.removesuffix("/laptop")


def _markdown(head: Sequence[str], lines: Sequence[Sequence[object]], named: bool) -> str:
    cells = [[_cell(value) for value in line] for line in lines]
    keep = [i for i in range(len(head)) if (named if i == 0 else i < 3 or any(line[i] for line in cells))]
    rows = [[line[i] for i in keep] for line in (head, ["---"] * len(head), *cells)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(value: object) -> str:
    """A text such that it stays in its cell and is shown as it is."""
    text = re.sub(r"[\\|*`~$]|(?<=\])\(", r"\\\g<0>", _page.number(value))
    return re.sub(r"\s", " ", text.replace("&", "&amp;").replace("<", "&lt;"))
