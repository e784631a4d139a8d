"""All results on one HTML page, and the tables of the documentation.

The page is made from every `summary.json` under a folder of results. The tables are made from the tracked records
`experiments/records/NAME/PRESET/summary.json` and `theory/records/claims.json`; see `experiments/_markdown.py`.
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

from experiments import _markdown, _options, _page
from gsjax import records

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """Gather all results into one page, paper against measured, with figures."""

    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Folder that is searched for results, with all its subfolders."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: report.html in DIR)")] = (
        None
    )
    """The HTML page."""
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
        gather(options.results, options.out or options.results / "report.html")
        return 0
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


def gather(results: Path, out: Path) -> None:
    """Writes the page of all summaries under `results` to `out`, and prints its path and which signatures hold.

    Raises:
        ValueError: there is no summary, or one is damaged.
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
