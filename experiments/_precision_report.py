"""Rows, signatures and figures of the comparison of float32 with float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from experiments import _rows
from experiments._precision_measures import GAPS, PLACES
from experiments._study import Report, select
from gsjax import plotting

if TYPE_CHECKING:
    from experiments.precision import Config

__all__ = ["report"]

Rows = Sequence[Mapping[str, Any]]
Read = Callable[[Mapping[str, Any]], float | None]

LABELS = {"mlp": "MLP", "cnn": "CNN", "resnet": "ResNet", "transformer": "transformer"}
AT = {
    "alpha": "alpha",
    "margins": "margins",
    "response": "responses",
    "strongest": "each of the 10 strongest",
    "weakest": "each of the 10 weakest",
    "entries": "starvation, 10 strongest",
}
"""Digits at a condition number."""
SHARES = {
    "flipped_top": "signs flipped, 10 strongest",
    "flipped": "signs flipped, all that are kept",
    "share": "share that starves, float32",
    "share_exact": "share that starves, float64",
    "weighted": "weighted share, float32",
    "weighted_exact": "weighted share, float64",
    "converged": "solver converged, float32",
    "converged_exact": "solver converged, float64",
}
WORST = 5.0
"""Digits that a kernel in float32 has at least."""


def report(rows: Rows, config: Config) -> Report:
    """What a run concludes."""
    figures = {
        "spectrum.png": functools.partial(draw_spectrum, rows, config),
        "conditions.png": functools.partial(draw_conditions, rows, config),
    }
    return Report(summarise(rows, config), signatures(rows, config), figures)


def condition(value: float) -> str:
    """A condition number in the names of rows.

    >>> condition(1e8)
    's_1^2 / lambda = 1e8'
    """
    return f"s_1^2 / lambda = 1e{np.log10(value):g}"


def kernels(rows: Rows, n: int, arm: str = "float32", **key: Any) -> Rows:
    """The rows of kernels of n examples."""
    return select(rows, measure="kernel", n=n, arm=arm, **key)


def summarise(rows: Rows, config: Config) -> list[dict[str, Any]]:
    """A row for each quantity: a mean over seeds, by kind, number of examples, condition and arithmetic."""
    lines, n = [], max(config.ns)

    def add(name: str, found: Rows, read: Read) -> None:
        values = [read(row) for row in found]
        known = [float(value) for value in values if value is not None and np.isfinite(value)]
        few = f"{len(known)} of {len(values)} seeds have one" if len(known) < len(values) else None
        if known:
            lines.append(_rows.measured(name, known, differs=few))

    for kind in config.kinds:
        label, own = LABELS[kind], kernels(rows, n, kind=kind)
        add(f"{label}: kernel", own, lambda row: row["kernel"])
        for place, name in enumerate(PLACES):
            add(f"{label}: strength, {name}", own, lambda row, place=place: row["strengths"][place])
        add(f"{label}: decades of strengths", own, lambda row: row["condition"])
        add(f"{label}: features kept", own, lambda row: row["kept"])
        add(f"{label}: features right to 1%", own, lambda row: row["resolved"])
        matrix = select(rows, measure="features", n=n, kind=kind)
        add(f"{label}: kept from the feature matrix", matrix, lambda row: row["kept"])
        add(f"{label}: right from the feature matrix", matrix, lambda row: row["resolved"])
        mixed = kernels(rows, n, "kernel in float32", kind=kind)
        add(f"{label}: kept, only the kernel in float32", mixed, lambda row: row["kept"])
        add(f"{label}: right, only the kernel in float32", mixed, lambda row: row["resolved"])
        add(f"{label}: largest error of a strength / (n eps s_1^2)", own, lambda row: row["weyl"])
        bounded = f"{label}: largest error of a strength / (n eps s_1^2), only the kernel in float32"
        add(bounded, mixed, lambda row: row["weyl"])
        add(f"{label}: largest sine x gap / (n eps s_1^2)", own, lambda row: row["davis_kahan"])
        add(f"{label}: error of a strength per decade of it", own, lambda row: row["loss_by_strength"])
        add(f"{label}: angle per decade of the gap", own, lambda row: row["turn_by_gap"])
        for place, gap in enumerate(GAPS):
            add(f"{label}: sine at gaps to {gap:.0e}", own, lambda row, place=place: row["sine"][place])
        add(f"{label}: margins under SD", own, lambda row: row["held"])
        add(f"{label}: decoupled under SD", own, lambda row: row["decoupled"])
        add(f"{label}: margins under SD, only the kernel in float32", mixed, lambda row: row["held"])
        for size in config.ns:
            sized = kernels(rows, size, kind=kind)
            add(f"{label}, n = {size}: kernel", sized, lambda row: row["kernel"])
            add(f"{label}, n = {size}: features kept", sized, lambda row: row["kept"])
            add(f"{label}, n = {size}: features right to 1%", sized, lambda row: row["resolved"])
        paths = select(rows, measure="paths", kind=kind)
        add(f"{label}: gradient flow, outputs", paths, lambda row: row["logits"])
        add(f"{label}: dual flow, alpha", paths, lambda row: row["dual"])
        add(f"{label}: flows converged, float32", paths, lambda row: row["converged"])
        for penalty in ("ridge", "SD"):
            each = select(rows, measure="trained", kind=kind, penalty=penalty)
            add(f"{label}: trained with {penalty}, outputs", each, lambda row: row["logits"])
            add(f"{label}: trained with {penalty}, objective", each, lambda row: row["objective"])
            add(f"{label}: trained with {penalty}, converged, float32", each, lambda row: row["converged"])
            add(f"{label}: trained with {penalty}, converged, float64", each, lambda row: row["converged_exact"])
        for arm in ("float32", "kernel in float32", "bfloat16"):
            suffix = "" if arm == "float32" else f", {arm}"
            each = kernels(rows, n, arm, kind=kind)
            if arm == "bfloat16":
                add(f"{label}{suffix}: kernel", each, lambda row: row["kernel"])
                add(f"{label}{suffix}: features right to 1%", each, lambda row: row["resolved"])
                add(f"{label}{suffix}: features kept", each, lambda row: row["kept"])
            for number, value in enumerate(config.conditions):
                for key, name in {**AT, **SHARES}.items():
                    if arm != "float32" and (key.endswith("_exact") or key in ("strongest", "weakest")):
                        continue
                    words = name.replace("float32", arm) if arm != "float32" else name
                    title = f"{label}{suffix}, {condition(value)}: {words}"
                    add(title, each, lambda row, number=str(number), key=key: row["at"][number][key])
    return lines


def by_seed(rows: Rows, config: Config, read: Callable[[Mapping[str, Any]], float], worst: Any = np.mean) -> Any:
    """A number per seed: the mean over kinds, or what `worst` makes of them."""
    return [float(worst([read(row) for row in select(rows, seed=seed)])) for seed in range(config.seeds)]


def signatures(rows: Rows, config: Config) -> list[dict[str, Any]]:
    """What perturbation theory predicts, and what follows for starvation."""
    n, last = max(config.ns), str(len(config.conditions) - 1)
    own, mixed, half = (kernels(rows, n, arm) for arm in ("float32", "kernel in float32", "bfloat16"))
    matrix = select(rows, measure="features", n=n)

    def paired(first: Rows, second: Rows, read: Callable[[Mapping[str, Any]], float]) -> Float[np.ndarray, " seeds"]:
        return np.subtract(by_seed(first, config, read), by_seed(second, config, read))

    def gap(row: Mapping[str, Any]) -> float:
        return row["at"]["0"]["share"] - row["at"]["0"]["share_exact"]

    unknown = "unknown: the rows by kind show which of them differ"
    least = by_seed(own, config, lambda row: row["kernel"], min)
    lines = [
        _rows.signature(
            "kernel: digits in float32, the worst kind of network",
            least,
            above=WORST,
            why="float32 has 7.2, and the layers and sums may take two",
            reason=unknown,
        ),
        _rows.signature(
            "strengths: largest error / (n eps s_1^2), the worst kind of network",
            by_seed(own, config, lambda row: row["weyl"], max),
            below=1,
            why="the bound up to which a strength counts as zero; by Weyl's inequality that of the kernel's error",
            reason=unknown,
        ),
        _rows.signature(
            "singular vectors: largest sine x gap / (n eps s_1^2), the worst kind of network",
            by_seed(own, config, lambda row: row["davis_kahan"], max),
            below=2,
            why="the theorem of Davis and Kahan (Yu et al. 2015) for a kernel with an error of n eps s_1^2",
            reason=unknown,
        ),
        _rows.signature(
            "features right to 1%: from the feature matrix minus from the kernel",
            paired(matrix, own, lambda row: row["resolved"]),
            above=0,
            why="singular values have errors of eps s_1, their squares of eps s_1^2",
            reason=unknown,
        ),
        _rows.signature(
            "features right to 1%: only the kernel in float32, minus all in float32",
            paired(mixed, own, lambda row: row["resolved"]),
            above=0,
            why="no difference if the kernel lost as much as its decomposition; set after a pilot of two networks",
            reason=unknown,
        ),
        _rows.signature(
            "margins under SD: digits with only the kernel in float32, minus all in float32",
            paired(mixed, own, lambda row: row["held"]),
            above=1,
            why="at full rank they do not depend on the kernel; set after a pilot of two networks",
            reason=unknown,
        ),
        _rows.signature(
            f"alpha: digits at {condition(config.conditions[0])} minus at {condition(config.conditions[-1])}",
            [
                mild - harsh
                for mild, harsh in zip(
                    by_seed(own, config, at("0", "alpha")), by_seed(own, config, at(last, "alpha")), strict=True
                )
            ],
            above=0,
            why="weak features matter under a weak ridge",
            reason=unknown,
        ),
        _rows.signature(
            f"starvation: share of flipped signs among the 10 strongest, {condition(config.conditions[0])}",
            by_seed(own, config, at("0", "flipped_top")),
            below=0.01,
            why="their strengths and vectors have several digits",
            reason=unknown,
        ),
        _rows.signature(
            "starvation: flipped signs among all that are kept minus among the 10 strongest, "
            f"{condition(config.conditions[0])}",
            [
                every - top
                for every, top in zip(
                    by_seed(own, config, at("0", "flipped")), by_seed(own, config, at("0", "flipped_top")), strict=True
                )
            ],
            above=0,
            why="no difference if weak features were as accurate",
            reason=unknown,
        ),
        _rows.signature(
            f"share that starves, {condition(config.conditions[0])}: float32 minus float64",
            by_seed(own, config, gap),
            above=-0.01,
            below=0.01,
            why="pairs that are missing starve like others; set after a pilot of two networks",
            reason=unknown,
        ),
        _rows.signature(
            "kernel: digits in bfloat16",
            by_seed(half, config, lambda row: row["kernel"]),
            above=1,
            below=3.5,
            why="bfloat16 has 2.4, the kernel is accumulated in float32",
            reason=unknown,
        ),
    ]
    return lines


def at(number: str, key: str) -> Callable[[Mapping[str, Any]], float]:
    """Reads a measure at the condition with this number."""
    return lambda row: row["at"][number][key]


def _mean(rows: Rows, read: Read) -> float:
    values = [value for row in rows if (value := read(row)) is not None and np.isfinite(value)]
    return float(np.mean(values)) if values else float("nan")


def draw_spectrum(rows: Rows, config: Config, path: Path) -> None:
    """Digits of strengths by rank, angles by gap, and how many features are kept and right, by number of examples."""
    figure, ((left, middle, right),) = plotting.panels(1, 3)
    figure.set_size_inches(15, 4.6)
    n = max(config.ns)
    for number, kind in enumerate(config.kinds):
        color, own = plotting.OKABE_ITO[number], kernels(rows, n, kind=kind)
        found = [_mean(own, lambda row, place=place: row["strengths"][place]) for place in range(len(PLACES))]
        left.plot(range(len(PLACES)), found, "o-", color=color, label=LABELS[kind])
        sines = [_mean(own, lambda row, place=place: row["sine"][place]) for place in range(len(GAPS))]
        middle.loglog(GAPS, sines, "o-", color=color)
        for key, style in (("kept", "s--"), ("resolved", "o-")):
            shares = [_mean(kernels(rows, size, kind=kind), lambda row, key=key: row[key]) for size in config.ns]
            right.plot(config.ns, np.divide(shares, config.ns), style, color=color)
    middle.loglog(GAPS, 1e-7 / np.asarray(GAPS), ":", color="0.5", label="1e-7 / gap")
    middle.legend(fontsize=9)
    left.set_xticks(range(len(PLACES)), PLACES)
    left.legend(fontsize=9)
    left.set(xlabel="rank of the feature", ylabel="digits of its strength", title=f"n = {n}")
    middle.set(xlabel="distance to the next strength / s_1^2", ylabel="sine of the angle", title=f"n = {n}")
    right.set(xlabel="n", ylabel="share of the features", title="kept (dashed) and right to 1%", ylim=(-0.03, 1.03))
    right.set_xticks(config.ns)
    plotting.save(figure, path)


def draw_conditions(rows: Rows, config: Config, path: Path) -> None:
    """Digits of the equilibrium, and signs and shares of starvation, by condition number; lines are arithmetics."""
    figure, axes = plotting.panels(2, 3)
    figure.set_size_inches(15, 9)
    n = max(config.ns)
    panels = (
        ("alpha", "digits of alpha"),
        ("strongest", "digits of the 10 strongest responses"),
        ("weakest", "digits of the 10 weakest responses kept"),
        ("flipped_top", "signs flipped, 10 strongest"),
        ("flipped", "signs flipped, all that are kept"),
        ("share", "share that starves"),
    )
    for ax, (key, title) in zip(axes.flat, panels, strict=True):
        for number, kind in enumerate(config.kinds):
            for arm, style in (("float32", "o-"), ("kernel in float32", "s--")):
                own = kernels(rows, n, arm, kind=kind)
                values = [_mean(own, at(str(c), key)) for c in range(len(config.conditions))]
                label = f"{LABELS[kind]}{'' if arm == 'float32' else ', only the kernel in float32'}"
                ax.semilogx(config.conditions, values, style, color=plotting.OKABE_ITO[number], label=label)
            if key == "share":
                own = kernels(rows, n, kind=kind)
                exact = [_mean(own, at(str(c), "share_exact")) for c in range(len(config.conditions))]
                ax.semilogx(config.conditions, exact, "x:", color=plotting.OKABE_ITO[number])
        ax.set(xlabel="s_1^2 / lambda", ylabel=title)
    axes.flat[4].legend(fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.55))
    axes.flat[-1].set_title("dotted: float64")
    plotting.save(figure, path)
