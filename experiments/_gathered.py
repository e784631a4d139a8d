"""Everything that has been run: the tracked records of a checkout, and what is in a folder of results.

- Claims: the `claims.json` that was written last under the folder. Claims that it does not have, e.g. after
  `python -m theory --only NAME`, are those of `theory/records/claims.json`.
- Runs of experiments: every `summary.json`, tracked or in the folder.
- Sweeps and unfinished runs: every `rows.jsonl` in the folder without a summary beside it or above it.

A damaged file does not hide the others: it is listed by name.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from experiments import _page, _swept
from experiments._page import Summary
from experiments._swept import Swept
from gsjax import pages, records
from theory import recorded
from theory.claim import Record

T = TypeVar("T")


class Claims(NamedTuple):
    """Records of claims from one file.

    Attributes:
        path: of the file.
        records: in their order there.
        tracked: whether the file belongs to the checkout.
        where: its folder, in the checkout if it is tracked.
        when: when it was written, if that is known.
        provenance: versions, platform and devices; empty if they were not recorded.
        figures: the folder of the figures, if it has them.
    """

    path: Path
    records: list[Record]
    tracked: bool
    where: str
    when: str | None
    provenance: Mapping[str, str]
    figures: Path | None


class Run(NamedTuple):
    """A finished run of an experiment.

    Attributes:
        summary: with its figures and time.
        tracked: whether it belongs to the checkout.
        where: its folder, in the checkout if it is tracked.
        when: when it was written, if that is known.
        provenance: command, platform and devices of its last process; empty if they were not recorded.
    """

    summary: Summary
    tracked: bool
    where: str
    when: str | None
    provenance: Mapping[str, Any]


class Unfinished(NamedTuple):
    """A folder with rows of an experiment that has not been finished: its path, and the number of rows."""

    path: Path
    rows: int


class Gathered(NamedTuple):
    """Everything that was found.

    Attributes:
        claims: the last run, then the tracked record as far as it has other claims.
        older: further files with claims in the folder, which are not shown.
        runs: finished runs, those of this machine first.
        sweeps: rows of sweeps without a summary.
        unfinished: other rows without a summary.
        damaged: what is wrong with each damaged file, by name.
    """

    claims: list[Claims]
    older: list[Path]
    runs: list[Run]
    sweeps: list[Swept]
    unfinished: list[Unfinished]
    damaged: list[str]

    @property
    def own(self) -> bool:
        """Whether anything was found in the folder of results, damaged files included."""
        everything = (*self.claims, *self.runs)
        return bool(self.sweeps or self.unfinished or self.damaged) or any(not one.tracked for one in everything)


def gather(results: Path, root: Path | None) -> Gathered:
    """Everything in the folder `results`, and the tracked records of the checkout `root`, if any.

    Raises:
        OSError: a file cannot be read.
    """
    damaged: list[str] = []

    def intact(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ValueError as error:
            damaged.append(str(error).removeprefix("path: ").removeprefix("folder: "))
            return None

    def run(path: Path, when: str | None, tracked: Path | None) -> Run:
        summary = _page.read(path)
        return Run(
            summary, tracked is not None, place(path, tracked), when, (records.provenance(path.parent) or [{}])[-1]
        )

    dates = committed(root) if root is not None else {}
    paths = sorted(path for path in results.rglob("summary.json") if path.is_file())
    found = [intact(lambda path=path: run(path, written(path), None)) for path in paths]
    recorded_ = sorted((root / "experiments" / "records").glob("*/*/summary.json")) if root is not None else []
    found += [intact(lambda path=path: run(path, dates.get(path), root)) for path in recorded_]

    older = sorted(results.rglob("claims.json"), key=lambda path: path.stat().st_mtime)
    checked = []
    if older:
        last = older.pop()
        checked.append(intact(lambda: claims(last, written(last), None)))
    if root is not None and (path := root / "theory" / "records" / "claims.json").exists():
        checked.append(intact(lambda: claims(path, dates.get(path), root)))

    finished = {path.parent for path in paths}
    sweeps, unfinished = [], []
    for path in sorted(results.rglob("rows.jsonl")):
        if finished & {path.parent, *path.parent.parents}:
            continue
        rows = intact(lambda path=path: records.rows(path.parent))
        if rows is None:
            continue
        if rows and _swept.is_sweep(rows):
            sweeps.append(intact(lambda path=path, rows=rows: _swept.read(path.parent, rows, written(path))))
        else:
            unfinished.append(Unfinished(path.parent, len(rows)))
    return Gathered(
        _without_repeats([one for one in checked if one is not None]),
        [one for one in older if one is not None],
        [one for one in found if one is not None],
        [one for one in sweeps if one is not None],
        unfinished,
        damaged,
    )


def claims(path: Path, when: str | None, tracked: Path | None) -> Claims:
    """The claims in a file, whose figures are in its folder, unless it is a tracked record of the checkout `tracked`.

    Raises:
        ValueError: the file, or one beside it, is damaged or missing; the message names it.
        OSError: it cannot be read.
    """
    found = recorded.read(path)
    provenance = recorded.provenance(path.with_name("provenance.json"))
    if tracked is not None:
        return Claims(path, found, True, place(path, tracked), when, provenance, None)
    for record in found:
        if record.figure is None:
            continue
        file = path.with_name(record.figure)
        try:
            pages.check_png(file.read_bytes())
        except (FileNotFoundError, ValueError) as error:
            reason = "it is missing" if isinstance(error, FileNotFoundError) else error
            raise ValueError(f"{file} is damaged ({reason}); run python -m theory again") from error
    return Claims(path, found, False, place(path, None), when, provenance, path.parent)


def _without_repeats(checked: list[Claims]) -> list[Claims]:
    """Each claim once, from the first file that has it."""
    seen: set[str] = set()
    kept = []
    for one in checked:
        rest = [record for record in one.records if record.claim.name not in seen]
        seen |= {record.claim.name for record in rest}
        kept += [one._replace(records=rest)] if rest else []
    return kept


def place(path: Path, root: Path | None) -> str:
    """The folder of a file as text, relative to the checkout `root`, if any."""
    return _page.shown(path.parent if root is None else path.parent.relative_to(root))


def written(path: Path) -> str:
    """When a file was written, e.g. "2026-11-20 09:30 UTC"."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def committed(root: Path) -> dict[Path, str]:
    """When each tracked record was committed: "2026-11-20, commit 1a2b3c4", or "not committed".

    Empty without git or its history, since the files of a checkout have the time of the checkout.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), "-c", "core.quotePath=false", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    folders = ("--", "experiments/records", "theory/records")
    try:
        top = Path(git("rev-parse", "--show-toplevel").rstrip("\n"))
        if top.resolve() != root.resolve() or git("rev-parse", "--is-shallow-repository").strip() == "true":
            return {}
        log = git("log", "--first-parent", "-m", "--format=%x00%cs, commit %h", "--name-only", *folders)
        changed = [line[3:] for line in git("status", "--porcelain", "--untracked-files=all", *folders).splitlines()]
    except (OSError, subprocess.CalledProcessError):
        return {}
    dates: dict[Path, str] = {}
    for entry in log.split("\0"):  # the newest first
        when, *names = entry.strip().splitlines() or [""]
        for name in filter(None, names):
            dates.setdefault(root / name, when)
    return dates | {root / name: "not committed" for name in changed}
