"""What experiments have in common when they say what they found: rows, signatures and the files at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments import _page
from gsjax import records
from gsjax.statistics import Interval, bootstrap_mean


def measured(
    name: str,
    values: Float[np.ndarray, " seeds"] | Sequence[float],
    *,
    published: str | float | None = None,
    differs: str | None = None,
) -> dict[str, Any]:
    """A row of the summary: the mean over seeds with its 95% interval, beside what was published.

    >>> measured("accuracy", [0.5, 0.7], published=0.65, differs="two seeds")["measured"]
    0.6
    """
    values = list(values)
    mean = bootstrap_mean(values) if len(values) > 1 else None
    return {
        "name": name,
        "measured": float(mean.value) if mean else float(values[0]),
        "interval": [float(mean.low), float(mean.high)] if mean else None,
        "seeds": len(values),
        "published": published,
        "differs": differs,
    }


def signature(name: str, interval: Interval, holds: Any, why: str) -> dict[str, Any]:
    """A signature of the summary: a number with its interval, and whether it shows the effect, by which criterion."""
    value, low, high = map(float, interval)
    return {"name": name, "value": value, "interval": [low, high], "holds": bool(holds), "why": why}


def finish(
    out: Path,
    *,
    experiment: str,
    preset: str,
    config: Any,
    seed: int,
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    signatures: Sequence[Mapping[str, Any]],
) -> None:
    """Writes `summary.json`, and the seconds of all cells together to `timing.json`."""
    settings = {**dataclasses.asdict(config), "seed": seed}
    records.summary(
        out, experiment=experiment, preset=preset, config=settings, data=data, rows=rows, signatures=signatures
    )
    records.write(out / "timing.json", f'{{"seconds": {records.seconds(out):.1f}}}\n')


def conclusion(out: Path) -> str:
    """What a run says at its end: which signatures hold, if it is one to judge by, and where its results are."""
    lines = []
    if (out / "summary.json").is_file():
        summary = _page.read(out / "summary.json")
        signatures = summary.content["signatures"]
        held = sum(bool(entry["holds"]) for entry in signatures)
        if not summary.judged:
            lines.append(f"preset {summary.content['preset']}: everything works, but it is too short to judge by")
        elif signatures:
            lines.append(f"{held} of {len(signatures)} signatures hold")
        else:
            lines.append("no signatures: there is nothing to judge")
        for entry in signatures:
            verdict = "holds" if entry["holds"] else "does not hold"
            verdict = f"{verdict:15}" if summary.judged else ""
            criterion = "" if entry["holds"] or not summary.judged else f" ({entry['why']})"
            lines.append(f"  {verdict}{entry['name']}: {_page.valued(entry)}{criterion}")
    files = [
        path.name for path in (out / "summary.json", out / "rows.jsonl", *sorted(out.glob("*.png"))) if path.exists()
    ]
    return "\n".join([*lines, f"results in {out}: {', '.join(files)}"])
