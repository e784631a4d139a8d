"""Results of experiments: the rows and signatures of a summary, and the files at the end of a run.

A signature states that a mean over seeds lies above a bound, below one, or between two. It is judged by Student's t.
The p-values of all signatures of one record are corrected together by Holm's method. So the probability that at least
one signature is wrongly said to hold is at most 2.5%, which for a single signature is the level of its 95% interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments import _page
from experiments._bounds import expect
from gsjax import records, statistics
from gsjax.statistics import Interval

LEVEL = 0.025  # one-sided level of significance


def measured(
    name: str,
    values: Float[np.ndarray, " seeds"] | Sequence[float],
    *,
    published: str | float | None = None,
    differs: str | None = None,
) -> dict[str, Any]:
    """A row of the summary: the mean over seeds with its 95% interval, beside the published number.

    >>> measured("accuracy", [0.5, 0.7], published=0.65, differs="two seeds")["measured"]
    0.6
    """
    values = list(values)
    mean = statistics.mean(values) if len(values) > 1 else None
    return {
        "name": name,
        "measured": float(mean.value) if mean else float(values[0]),
        "interval": [float(mean.low), float(mean.high)] if mean else None,
        "seeds": len(values),
        "published": published,
        "differs": differs,
    }


def signature(
    name: str,
    values: Float[np.ndarray, " seeds"] | Sequence[float],
    *,
    above: float | None = None,
    below: float | None = None,
    why: str,
    reason: str,
) -> dict[str, Any]:
    """A signature of the summary: whether the mean over seeds lies above a bound, below one, or between two.

    Args:
        name: of the quantity whose mean is judged.
        values: one per seed; for a comparison, the differences paired by seed.
        above: lower bound.
        below: upper bound.
        why: where the bounds come from.
        reason: used if the signature fails: the cause with its evidence, or that it is unknown and what was ruled out.

    >>> found = judged([signature("gain", [0.1, 0.2, 0.15], above=0, why="a gain is above zero", reason="noise")])
    >>> found[0]["holds"], found[0]["why"]
    (True, 'above 0 (a gain is above zero): p = 0.018')
    """
    return stated(
        name,
        statistics.mean(values),
        statistics.within(values, above=above, below=below),
        why=f"{bounds(above, below)} ({why})",
        reason=reason,
    )


def stated(name: str, interval: Interval | None, p: float, *, why: str, reason: str) -> dict[str, Any]:
    """A signature that is not a mean over seeds, from its interval (None if there is no value) and one-sided p-value.

    Raises:
        ValueError: `reason` is empty.
    """
    expect(bool(reason), "reason", "why the signature fails if it does", repr(reason))
    value, *ends = map(float, interval) if interval else (None, None)
    return {
        "name": name,
        "value": value,
        "interval": ends if interval else None,
        "p": float(p),
        "why": why,
        "reason": reason,
    }


def judged(signatures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The signatures of a summary, with `holds` and `why` from p-values that are corrected for multiple comparisons."""
    corrected = statistics.holm([entry["p"] for entry in signatures]) if signatures else []
    found = []
    for entry, p in zip(signatures, corrected, strict=True):
        holds = bool(p <= LEVEL)
        count = f" after Holm's correction for {len(signatures)}" if len(signatures) > 1 else ""
        why = f"{entry['why']}: p = {p:.2g}{count}"
        reason = entry["reason"]
        if entry["p"] <= LEVEL:  # it fails only because of the correction
            reason = f"p is {entry['p']:.2g} for itself, too much for one of {len(signatures)}: more seeds would tell"
        kept = {key: entry[key] for key in ("name", "value", "interval")}
        found.append({**kept, "holds": holds, "why": why if holds else f"{reason}. Criterion: {why}"})
    return found


def bounds(above: float | None, below: float | None) -> str:
    """The criterion of a signature in words.

    >>> bounds(0.0, None), bounds(None, 0.4), bounds(-0.05, 0.05)
    ('above 0', 'below 0.4', 'between -0.05 and 0.05')
    """
    if below is None:
        return f"above {above:g}"
    return f"below {below:g}" if above is None else f"between {above:g} and {below:g}"


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
    """Writes `summary.json`, with `signatures` as `judged`, and `timing.json` with the total seconds of all cells."""
    settings = {**dataclasses.asdict(config), "seed": seed}
    records.summary(
        out, experiment=experiment, preset=preset, config=settings, data=data, rows=rows, signatures=judged(signatures)
    )
    records.write(out / "timing.json", f'{{"seconds": {records.seconds(out):.1f}}}\n')


def conclusion(out: Path) -> str:
    """The last lines that a run prints: which signatures hold, unless it is too short to judge, and its files."""
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
            reason = "" if entry["holds"] or not summary.judged else f" ({entry['why']})"
            lines.append(f"  {verdict}{entry['name']}: {_page.valued(entry)}{reason}")
    files = [
        path.name for path in (out / "summary.json", out / "rows.jsonl", *sorted(out.glob("*.png"))) if path.exists()
    ]
    return "\n".join([*lines, f"results in {out}: {', '.join(files)}"])
