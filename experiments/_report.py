"""Everything that has been run on one HTML page, and the tables of the documentation.

The page is made from the tracked records, `experiments/records/NAME/PRESET/summary.json` and
`theory/records/claims.json`, and from a folder of results; see `experiments/_gathered.py`. The tables are made from the
tracked records alone; see `experiments/_markdown.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments import _bounds, _everything, _gathered, _markdown, _options, _page
from gsjax import records

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """Gather everything that has been run into one page, with figures: claims, sweeps and experiments.

    The exit status is 0, or 2 if a file is damaged; the page then has everything else.
    """

    results: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: results)")] = None
    """Folder that is searched for results, with all its subfolders."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: report.html in DIR)")] = (
        None
    )
    """The HTML page."""
    own: bool = False
    """Leave out the tracked records of the repository."""
    tables: bool = False
    """Print the tables of all records as Markdown instead."""
    write: bool = False
    """Update the tables in README.md and docs/ instead."""
    check: bool = False
    """Exit with status 1 if tables in README.md or docs/ differ from the records."""


def main(arguments: Sequence[str]) -> int:
    """The command `python -m experiments report`; returns the exit status.

    Raises:
        ValueError: there are no results, or one is damaged.
        OSError: a file cannot be read or written.
    """
    flags = (tyro.conf.FlagCreatePairsOff,)
    options = tyro.cli(Options, args=arguments, prog="python -m experiments report", config=flags)
    if not (options.tables or options.write or options.check):
        results = Path("results") if options.results is None else options.results
        if options.own or options.results is not None:  # the tracked records would hide a wrong name
            there = any(next(results.rglob(name), None) for name in ("summary.json", "rows.jsonl", "claims.json"))
            expected = f"a summary.json, rows.jsonl or claims.json somewhere under {results}"
            _bounds.expect(there, "--results", expected, "none; run an experiment")
        return gather(results, options.out or results / "report.html", None if options.own else ROOT)
    found = _markdown.tracked(ROOT / "experiments" / "records")
    if options.tables:
        tables = (f"## {name}\n\n{_markdown.table([one])}" for name, one in found.items())
        print("\n".join(tables) or "no records yet")
        return 0
    claims, stale = _markdown.claims(ROOT), []
    for page in _markdown.pages(ROOT):
        text = page.read_text(encoding="utf-8")
        current = _markdown.fill(text, found, claims)
        if current == text:
            continue
        if options.write:
            records.write(page, current)
        else:
            stale.append(page.relative_to(ROOT).as_posix())
    if stale:
        message = f"{', '.join(stale)}: other tables than those of the records; make readme renews them"
        print(f"experiments: {message}", file=sys.stderr)
    return 1 if stale else 0


def gather(results: Path, out: Path, root: Path | None) -> int:
    """Writes the page of everything to `out`, and prints what holds, its path and its size; returns the exit status.

    Raises:
        OSError: a file cannot be read or written.
    """
    found = _gathered.gather(results, root)
    for line in found.damaged:
        print(f"experiments: {_page.shown(line)}", file=sys.stderr)
    out.parent.mkdir(parents=True, exist_ok=True)
    content = _everything.page(found, _options.found())
    records.write(out, content)
    lines = Table("run", "signature", "value [95% interval]", "holds", box=None, pad_edge=False)
    for run in found.runs:
        if run.tracked:
            continue  # in the tables of docs/
        for entry in run.summary.content["signatures"]:
            verdict = Text("yes", "green") if entry["holds"] else Text("no", "bold red")
            verdict = verdict if run.summary.judged else Text("too short to judge", "dim")
            lines.add_row(*map(Text, (run.summary.name, str(entry["name"]), _page.valued(entry))), verdict)
    console = Console(highlight=False)
    if lines.row_count:
        console.print(lines)
    for count in _everything.counts(found):
        console.print(Text(count.sentence), soft_wrap=True)
    size = f"{len(content.encode()) / 1e6:.1f} MB"
    console.print(Text(f"{out}: {size}, {content.count('<img ')} figures"), soft_wrap=True)
    return 2 if found.damaged else 0
