"""Rows, signatures and figures of what kernels cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import _rows
from experiments._cost_counts import LABELS
from experiments._study import Report, select
from gsjax import plotting

if TYPE_CHECKING:
    from experiments.cost import Config

__all__ = ["report"]

Rows = Sequence[Mapping[str, Any]]

COUNTS: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "multiplications": lambda row: row["total"],
    "of which contraction": lambda row: row["contraction"] / row["total"],
    "multiplications / floor": lambda row: row["total"] / row["floor"],
    "multiplications / forward passes": lambda row: row["total"] / row["forward"],
    "blocks": lambda row: row["blocks"],
    "examples in a block": lambda row: row["size"],
    "kernel, MiB": lambda row: row["kernel_bytes"] / 2**20,
    "factors, MiB": lambda row: row["factor_bytes"] / 2**20,
    "matrix-free product / kernel": lambda row: row["product"] / row["total"],
    "products for 10 features": lambda row: row["products"],
    "matrix-free / kernel": lambda row: row["products"] and row["products"] * row["product"] / row["total"],
    "eigendecomposition / kernel": lambda row: 2 * row["n"] ** 3 / 3 / row["total"],
    "Newton steps": lambda row: row["iterations"],
}
"""Numbers of the summary, by what they are called there. The reduction of a symmetric matrix to tridiagonal form takes
4 n^3 / 3 floating point operations (Golub and Van Loan 2013, Section 8.3). Half of them are multiplications."""


def report(rows: Rows, config: Config, seconds: Callable[[], list[dict[str, Any]]]) -> Report:
    """Counts as rows; what bounds them as signatures; counts and seconds as figures."""
    lines = []
    for row in rows:
        label = f"{LABELS[row['kind']]}, n = {row['n']}"
        note = None if row["computed"] else "by count only"
        for name, read in COUNTS.items():
            value = read(row)
            if value is not None:
                noted = note if name == "multiplications" else None
                lines.append(_rows.measured(f"{label}: {name}", [float(value)], differs=noted))
    for kind in config.kinds:
        parameters = select(rows, kind=kind)[0]["parameters"]
        lines.append(_rows.measured(f"{LABELS[kind]}: parameters", [float(parameters)]))
    figures = {
        "counts.png": functools.partial(draw_counts, rows, config),
        "seconds.png": lambda path: draw_seconds(seconds(), config, path),
    }
    return Report(lines, [], figures)


def draw_counts(rows: Rows, config: Config, path: Path) -> None:
    """Multiplications and floor, their ratio, and memory, against n."""
    figure, ((left, middle, right),) = plotting.panels(1, 3)
    figure.set_size_inches(15, 4.6)
    for number, kind in enumerate(config.kinds):
        color, own = plotting.OKABE_ITO[number], select(rows, kind=kind)
        ns, total, floor = ([row[name] for row in own] for name in ("n", "total", "floor"))
        left.loglog(ns, total, "o-", color=color, label=LABELS[kind])
        left.loglog(ns, floor, "x:", color=color)
        middle.semilogx(ns, np.divide(total, floor), "o-", color=color)
        right.loglog(ns, [row["factor_bytes"] / 2**20 for row in own], "o-", color=color)
    right.loglog(config.ns, [4 * n**2 / 2**20 for n in config.ns], "k--", label="the kernel itself")
    left.legend(fontsize=9)
    right.legend(fontsize=9)
    left.set(xlabel="n", ylabel="multiplications", title="kernel (dotted: the floor)")
    middle.set(xlabel="n", ylabel="multiplications / floor")
    right.set(xlabel="n", ylabel="MiB in float32", title="factors held at a time")
    plotting.save(figure, path)


def draw_seconds(lines: Sequence[Mapping[str, Any]], config: Config, path: Path) -> None:
    """Seconds of a kernel and of what follows from it, its speed, and the price of float64, against n."""
    figure, ((left, middle, right),) = plotting.panels(1, 3)
    figure.set_size_inches(15, 4.6)
    for number, kind in enumerate(config.kinds):
        color = plotting.OKABE_ITO[number]
        own = sorted(
            (line for line in lines if line["network"] == LABELS[kind] and len(line) > 3), key=lambda line: line["n"]
        )
        ns = [line["n"] for line in own]
        left.loglog(ns, [line["kernel, seconds"] for line in own], "o-", color=color, label=LABELS[kind])
        middle.semilogx(ns, [line["speed, of a matrix product's"] for line in own], "o-", color=color)
        right.semilogx(ns, [line["float64 / float32"] for line in own], "o-", color=color)
    solved = sorted((line for line in lines if line.get("eigendecomposition, seconds")), key=lambda line: line["n"])
    for name, style in (("eigendecomposition", "k^"), ("equilibrium", "ks"), ("starvation matrix", "kv")):
        left.loglog([line["n"] for line in solved], [line[f"{name}, seconds"] for line in solved], style, label=name)
    left.legend(fontsize=8)
    left.set(xlabel="n", ylabel="seconds", title="kernel in float32, the rest in float64")
    middle.set(xlabel="n", ylabel="speed / speed of a matrix product")
    right.set(xlabel="n", ylabel="seconds in float64 / in float32")
    plotting.save(figure, path)
