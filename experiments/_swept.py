"""A sweep over widths as its rows describe it: the error by width, its slope, and the figure of both."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments._study import fits
from gsjax import files, plotting, records, statistics, sweeps
from gsjax.statistics import Slope

_KIND = ("data", "depth", "penalty", "strength")
_ERRORS = ("error_empirical", "error_infinite", "error_parameters", "drift", "test_accuracy")
_COLUMNS = {
    **dict.fromkeys(("data", "penalty"), str),
    **dict.fromkeys(("width", "depth", "seed", "n", "iterations"), int),
    **dict.fromkeys(("strength", *_ERRORS, "gradient_norm"), float),
    "converged": bool,
}


class Group(NamedTuple):
    """The networks of one data set, depth, penalty and strength.

    Attributes:
        name: these four in words.
        seeds: networks per width.
        widths: at which every network has converged, increasing.
        left_out: the other widths.
        errors: the error against theory that depends on the width, (seeds, widths).
        slope: of its logarithm against that of the width; None for fewer than two widths.
    """

    name: str
    seeds: int
    widths: list[int]
    left_out: list[int]
    errors: np.ndarray
    slope: Slope | None


class Swept(NamedTuple):
    """The rows of a sweep in a folder.

    Attributes:
        path: the folder.
        groups: in the order of the rows.
        rows: their number.
        seconds: computing time.
        when: when the rows were written.
        config: the configuration of the folder; empty if there is none.
        provenance: of the last process; empty if it was not recorded.
        figure: the PNG of the errors; None if no group has an error to draw.
    """

    path: Path
    groups: list[Group]
    rows: int
    seconds: float
    when: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    figure: bytes | None


def is_sweep(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first row has the columns that `sweeps.run` writes."""
    return rows[0].keys() >= _COLUMNS.keys()


def read(folder: Path, rows: Sequence[Mapping[str, Any]], when: str) -> Swept:
    """The sweep with these rows in `folder`.

    Raises:
        ValueError: a file in the folder is damaged; the message names it.
        OSError: it cannot be read.
    """
    file = folder / "rows.jsonl"
    try:
        for row in rows:
            for name, kind in _COLUMNS.items():
                if not fits(row.get(name, ...), kind) or (name == "strength" and row[name] is None):
                    raise ValueError(f"expected a value of the type {kind.__name__} as {name!r}, got {dict(row)}")
        kinds = dict.fromkeys(tuple(row[name] for name in _KIND) for row in rows)
        groups = [_group([row for row in rows if tuple(row[name] for name in _KIND) == kind]) for kind in kinds]
    except ValueError as error:
        advice = "delete all lines of that cell, or the file, and start again"
        raise ValueError(f"{file} is damaged ({error}); {advice}") from error
    path = folder / "config.json"
    try:
        config = files.parse(path.read_bytes()) if path.exists() else {}
        if not isinstance(config, dict):
            raise ValueError(f"expected an object, got {str(config)[:60]}")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete the folder, or name another one") from error
    origin = (records.provenance(folder) or [{}])[-1]
    return Swept(folder, groups, len(rows), records.seconds(folder), when, config, origin, _draw(groups))


def _group(rows: list[Mapping[str, Any]]) -> Group:
    first = rows[0]
    if first["penalty"] not in sweeps.READINGS:
        raise ValueError(f"penalty: expected one of {', '.join(sweeps.READINGS)}, got {first['penalty']!r}")
    name = f"{first['data']}, {first['penalty']}, lambda = {first['strength']:g}, depth {first['depth']}"
    widths, errors = sweeps.against_width(rows)
    if not widths:
        errors = np.empty((len({row["seed"] for row in rows}), 0))
    positive = np.all(np.nan_to_num(errors, nan=0.0) > 0, axis=0).tolist()  # NaN where a number was not finite
    kept = [width for width, good in zip(widths, positive, strict=True) if good]
    errors = errors[:, positive]
    every = sorted({row["width"] for row in rows})
    slope = statistics.loglog_slope(kept, errors) if len(kept) > 1 and len(errors) > 1 and min(kept) > 0 else None
    seeds = len({row["seed"] for row in rows})
    return Group(name, seeds, kept, [width for width in every if width not in kept], errors, slope)


def _draw(groups: Sequence[Group]) -> bytes | None:
    """The error of each group against the width, one panel per group."""
    drawn = [group for group in groups if group.widths and len(group.errors) > 1 and min(group.widths) > 0]
    if not drawn:
        return None
    columns = min(len(drawn), 2)
    figure, axes = plotting.panels(-(-len(drawn) // columns), columns)
    for ax, group in zip(axes.flat, drawn, strict=False):
        plotting.error_against_width(group.widths, group.errors, group.slope, ax=ax)
        ax.set_title(group.name, fontsize="medium")
    for ax in list(axes.flat)[len(drawn) :]:
        ax.set_axis_off()
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
