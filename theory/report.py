"""The files of a run: `claims.json`, `provenance.json`, `report.html` and a PNG file for each figure.

Files are written atomically and updated after each claim, so an interrupted run leaves all finished results. JSON has
no NaN or infinity: such numbers are null in `claims.json`, and `report.html` shows which one it was.
"""

from __future__ import annotations

import errno
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.table import Table
from rich.text import Text

from gsjax import files
from gsjax.pages import number
from theory.claim import Claim, Record, describe
from theory.page import observed, page, plain

PACKAGES = (
    "gsjax", "jax", "jaxlib", "flax", "diffrax", "optax", "neural-tangents",
    "numpy", "scipy", "scikit-learn", "matplotlib",
)  # fmt: skip


def prepare(out: Path, json_path: Path | None) -> None:
    """Makes the folders, and checks before the first claim that they can be written.

    Raises:
        OSError: they cannot be written, or `json_path` is a folder.
    """
    targets = [out / "claims.json", *([json_path] if json_path else [])]
    for path in targets:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def draw(record: Record, out: Path) -> Record:
    """Saves the figure of a record as `NAME.png`; an exception in drawing becomes the error of the record."""
    if record.observation.figure is None:
        return record
    image = io.BytesIO()
    try:
        record.observation.figure().savefig(image, format="png", metadata={"Software": None})
    except Exception as exception:  # noqa: BLE001  like a check, drawing is foreign code
        return record._replace(error=f"figure: {describe(exception)}")
    figure = f"{record.claim.name}.png"
    files.write(out / figure, image.getvalue())
    return record._replace(figure=figure)


def write(
    records: Sequence[Record],
    *,
    out: Path,
    json_path: Path | None = None,
    planned: int,
    provenance: Mapping[str, str],
) -> None:
    """Writes `claims.json`, `provenance.json` and `report.html` of the records so far.

    Args:
        records: of the claims that were run, in order.
        out: the folder; figures of the records are read from it.
        json_path: another path for `claims.json`.
        planned: number of claims in the run.
        provenance: from `environment`.

    Raises:
        OSError: a file cannot be written.
    """
    files.write(out / "provenance.json", files.json_document(provenance))
    content = files.json_document([to_json(record) for record in records])
    for path in (out / "claims.json", *([json_path] if json_path else [])):
        files.write(path, content)
    files.write(out / "report.html", page(records, out, planned, provenance))


def to_json(record: Record) -> dict[str, Any]:
    """The record in JSON types; the keys that tools rely on come first."""
    claim, seen, control = record.claim, record.observation, record.control
    found = {
        "name": claim.name,
        "reference": claim.reference,
        "statement": claim.statement,
        "predicted": seen.predicted,
        "observed": seen.observed,
        "tolerance": seen.tolerance,
        "holds": seen.holds,
        "seconds": round(record.seconds, 3),
        "control": {
            "name": claim.control.name,
            "statement": claim.control.statement,
            "observed": control.observed,
            "holds": control.holds,
            "error": record.control_error,
            "details": control.details,
        },
        "details": seen.details,
        "error": record.error,
        "figure": record.figure,
    }
    return files.plain(plain(found))


def environment() -> dict[str, str]:
    """The environment of a run: versions, platform, devices, commit, date."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    found["platform"] = platform.platform()
    found["devices"] = f"{len(devices)} × {devices[0].device_kind}"
    found["precision"] = "float64" if jax.numpy.ones(()).dtype == "float64" else "float32"
    if commit := _commit():
        found["commit"] = commit
    found["started"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return found


def _commit() -> str | None:
    """The commit of the checkout that contains this file, if there is one."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + (" with uncommitted changes" if changes.stdout else "")


def plan(selected: Sequence[Claim], jobs: int) -> str:
    """The number of claims in a run, and an estimate of its time from the CPU seconds per claim in `seconds.json`."""
    summary = f"{len(selected)} {'claim' if len(selected) == 1 else 'claims'}, {jobs} at a time"
    took: dict[str, float] = json.loads(Path(__file__).with_name("seconds.json").read_bytes())
    known = [took[claim.name] for claim in selected if claim.name in took]
    if not known:
        return summary
    # An unknown claim counts like the mean of the others; each claim keeps one core busy.
    at_once = min(jobs, os.cpu_count() or 1)
    seconds = max(sum(known) / len(known) * len(selected) / at_once, *known, 0.0)
    minutes = round(seconds / 60)
    time = "less than a minute" if seconds < 45 else f"about {minutes} {'minute' if minutes == 1 else 'minutes'}"
    return f"{summary}: {time} on 2 cores"


def line(record: Record, position: str) -> Text:
    """One line for a claim that has just been run."""
    style = "green" if record.passes else "bold red"
    text = Text(f"{position} {'✓' if record.passes else '✗'} {record.claim.name}", style=style)
    text.append(f"  {record.verdict}, control {record.control_verdict}, {record.seconds:.1f} s", style="dim")
    for prefix, error in (("", record.error), ("control: ", record.control_error)):
        if error is not None:
            text.append(f"  {prefix}{error.splitlines()[0]}", style="red")
    return text


def table(records: Sequence[Record], width: int) -> Table:
    """The table at the end of a run; it has a column of references only if `width` leaves room for it."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    result.add_column("claim", no_wrap=True)
    if width >= 110:
        result.add_column("reference")
    for heading in ("predicted", "observed", "tolerance"):
        result.add_column(heading, overflow="fold")
    for heading in ("verdict", "control"):
        result.add_column(heading, no_wrap=True)
    result.add_column("s", justify="right", no_wrap=True)
    for record in records:
        claim, seen = record.claim, record.observation
        names = [claim.name, claim.reference] if width >= 110 else [claim.name]
        cells = [Text(cell) for cell in (*names, number(seen.predicted), observed(seen), number(seen.tolerance))]
        verdict = Text(record.verdict, style="green" if record.verdict == "holds" else "bold red")
        control = Text(record.control_verdict, "green" if record.control_verdict == "fails" else "bold red")
        result.add_row(*cells, verdict, control, f"{record.seconds:.1f}")
    return result
