"""The command `python -m theory`: checks the claims, prints a table and writes a report."""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Annotated

import jax
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from experiments import _bounds, _process
from theory import claims, report
from theory.claim import Claim, Record, run
from theory.page import summary


@dataclass(frozen=True)
class Options:
    """Check every numbered claim of the theory, each with a control that has to fail.

    The exit status is 0 if every claim holds and every control fails, 1 if not, and 2 for invalid input or files.
    """

    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Claims to check, by name or by the name of their file in theory/; all by default."""
    out: Path = Path("results/theory")
    """Folder for claims.json, report.html and the figures."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Another file for the contents of claims.json."""
    jobs: int = 2
    """Number of claims checked in parallel; most of a check is compilation, which uses one core."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Only print the file, name and reference of each claim."""
    mutate: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Check the claims on copies of the sources with planted errors; exits with 1 if no claim notices one of them."""


def select(found: dict[str, tuple[str, Claim]], only: Sequence[str]) -> list[Claim]:
    """The claims whose name, or whose file's name, is in `only`; all claims if `only` is empty.

    Raises:
        ValueError: an unknown name.
    """
    names = {*found, *(module for module, _ in found.values())}
    for name in only:
        if name not in names:
            close = difflib.get_close_matches(name, sorted(names))
            hint = f"did you mean {', '.join(close)}?" if close else "see --list"
            raise ValueError(f"no claim or file of claims is called {name!r}; {hint}")
    return [claim for name, (module, claim) in found.items() if not only or {name, module} & set(only)]


def check(selected: Sequence[Claim], options: Options, console: Console, records: list[Record]) -> None:
    """Runs `options.jobs` claims at a time; after each, updates `records`, in the claims' order, and the files."""
    report.prepare(options.out, options.json)
    provenance = report.environment()
    order = {claim.name: place for place, claim in enumerate(selected)}
    recording, closed = Lock(), Event()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("", total=len(selected))
    jobs = min(options.jobs, len(selected))
    console.print(report.plan(selected, jobs))

    def check_one(claim: Claim) -> None:
        # A new thread has the global setting, not that of its parent's context.
        with jax.enable_x64(True):
            try:
                record = None if closed.is_set() else run(claim)
                # Recorded before this thread starts another claim, so that no result can be lost.
                with recording:
                    if record is not None and not closed.is_set():
                        record_one(record)
            except BaseException:
                closed.set()
                raise

    def record_one(record: Record) -> None:
        record = report.draw(record, options.out)
        records.append(record)
        records.sort(key=lambda each: order[each.claim.name])
        report.write(records, out=options.out, json_path=options.json, planned=len(selected), provenance=provenance)
        console.print(report.line(record, f"{len(records)}/{len(selected)}"))
        progress.update(task, advance=1, description=record.claim.name)

    def close() -> None:
        with recording:  # waits until the current record is written; later ones are dropped
            closed.set()

    def conclude_early() -> None:
        progress.stop()
        close()
        conclude(records, len(selected), options, console, 130)

    pool = ThreadPoolExecutor(jobs)
    with progress, _process.stopping(f"what was checked is in {options.out}", conclude_early):
        try:
            for pending in as_completed([pool.submit(check_one, claim) for claim in selected]):
                pending.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            close()


def conclude(records: Sequence[Record], planned: int, options: Options, console: Console, status: int) -> None:
    """Prints the table of the claims that were checked, if any."""
    if records:
        console.print(report.table(records, console.width))
        console.print(summary(records, planned), style="green" if status == 0 else "bold red")
        console.print(f"report: {options.out / 'report.html'}")


def mutate(selected: Sequence[Claim], options: Options) -> int:
    """Runs the claims with each error of `theory/mutations.py`, and prints which of them notice it."""
    from theory import mutations

    names = [claim.name for claim in selected]
    survivors = []
    if untouched := mutations.noticing_claims(None, names):
        print(f"theory: without any error these do not hold: {', '.join(untouched)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(
            lambda mutation: mutations.noticing_claims(mutation, names, cache=Path(cache)), mutations.MUTATIONS
        )
        for mutation, claims_ in zip(mutations.MUTATIONS, found, strict=True):
            survivors += [] if claims_ else [mutation.name]
            print(f"{mutation.name:24}{mutation.file:40}{', '.join(claims_) or 'SURVIVES'}", flush=True)
    planted = len(mutations.MUTATIONS)
    print(f"{planted - len(survivors)} of {planted} errors are noticed by a claim")
    return 1 if survivors else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status.

    Raises:
        BrokenPipeError: the reader of its output has closed the pipe.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    records: list[Record] = []
    # On small matrices two BLAS threads mostly wait for each other, even more so on a busy machine.
    with jax.enable_x64(True), threadpool_limits(1, "blas"):
        try:
            _process.legible(given)
            options = tyro.cli(Options, args=given, prog="python -m theory")
            _bounds.require("jobs", options.jobs, int)
            found = claims()
            selected = select(found, options.only)
        except ValueError as error:
            print(f"theory: {error}", file=sys.stderr)
            return 2
        if options.list:
            for claim in selected:
                print(f"{found[claim.name][0]:24}{claim.name:32}{claim.reference}")
            return 0
        if options.mutate:
            try:
                return mutate(selected, options)
            except RuntimeError as error:
                print(f"theory: {error}", file=sys.stderr)
                return 2
        # Without a terminal there is no width to fit: a log has one line per claim.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 180
        console = Console(width=width, highlight=False)
        try:
            check(selected, options, console, records)
            status = 0 if all(record.passes for record in records) else 1
        except BrokenPipeError:
            raise
        except OSError as error:
            print(f"theory: cannot write {error.filename or options.out}: {error.strerror}", file=sys.stderr)
            status = 2
        except KeyboardInterrupt:
            print(f"theory: interrupted; what was checked is in {options.out}", file=sys.stderr)
            status = 130
    conclude(records, len(selected), options, console, status)
    return status
