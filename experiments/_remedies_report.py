"""The rows, signatures and figures of the experiment `remedies`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import ticker

from experiments import _rows
from experiments._remedies_measures import KERNELS
from experiments._remedies_methods import LABELS, USES
from experiments._study import Report
from gsjax import plotting, statistics

BY = {"groups": "selected by groups", "average": "selected by average"}
MEASURED = {
    "core": "core-only accuracy",
    "depth": "prediction depth",
    "invalid": "share of images without a depth",
    "information": "information, bits",
    "calibrated": "information at the best temperature, bits",
    "temperature": "temperature",
}
TEMPERED = "ERM + temperature"
STARVATION = "starvation at initialisation"
PREDICTED = "core accuracy of the kernel"
KERNEL_ROWS = dict(zip(KERNELS, ("ERM", "SD", "class-balanced ERM", "group-balanced ERM"), strict=True))

AWARE = ("group_dro", "group_balanced", "dfr")
UNAWARE = ("sd", "lff", "jtt", "sieve")  # methods that know neither groups nor environments, and have no teacher
WORSE = 0.03  # a loss of worst-group accuracy that still counts as none

Found = Mapping[tuple[str, str], Mapping[str, Any]]  # rows by task and arm
Values = Float[np.ndarray, " seeds"]


def values(row: Mapping[str, Any], rule: str, name: str) -> Values:
    """A quantity of the networks that a rule selects, by its name in a row or "worst"; NaN for null."""
    networks = [row["networks"][rule][str(i)] for i in range(len(row["networks"][rule]))]
    if name == "worst":
        return np.array([min(network["groups"]) for network in networks], float)
    return np.array([np.nan if network[name] is None else network[name] for network in networks], float)


def starvation(row: Mapping[str, Any], kernel: str, name: str = "starvation") -> Values:
    """A prediction of the kernels, for one objective."""
    return np.array([row["kernels"][str(i)][kernel][name] for i in range(len(row["kernels"]))], float)


def report(rows: Sequence[Mapping[str, Any]], *, seconds: Callable[[], Mapping[tuple[str, str], float]]) -> Report:
    """Summary, signatures and figures.

    Args:
        rows: one for each task and method, and one for the kernels of each task.
        seconds: reads the seconds per network, by task and method.
    """
    found: Found = {(row["task"], row["arm"]): row for row in rows}
    tasks = list(dict.fromkeys(task for task, _ in found))
    lines = [line for task in tasks for line in measured(task, found)] + differences(tasks, found)
    drawn: dict[str, Callable[[Path], object]] = {
        "accuracy.png": functools.partial(draw_accuracy, tasks, found),
        "diagnosis.png": functools.partial(draw_diagnosis, tasks, found),
        "tuning.png": functools.partial(draw_tuning, tasks, found),
        "seconds.png": lambda path: draw_seconds(tasks, seconds(), path),
    }
    return Report(lines, signatures(tasks, found), drawn)


def of_task(task: str, found: Found) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The methods of a task with their rows, in the order of the table."""
    for arm in LABELS:
        if (task, arm) in found:
            yield arm, found[task, arm]


def measured(task: str, found: Found) -> list[dict[str, Any]]:
    """The rows of the summary of a task."""
    lines: list[dict[str, Any]] = []

    def add(name: str, each: Values, differs: str | None = None) -> None:
        defined = each[np.isfinite(each)]
        if len(defined):
            missing = "" if len(defined) == len(each) else f"{len(defined)} of {len(each)} networks have a value"
            lines.append(_rows.measured(name, defined, differs="; ".join(filter(None, [differs, missing])) or None))

    erm = found.get((task, "erm"))
    for arm, row in of_task(task, found):
        label = f"{task}, {LABELS[arm]}"
        note = None if row["finite"] else "the objective was not always finite"
        for name, title in (("worst", "worst group"), ("average", "average")):
            for rule, by in BY.items():
                add(f"{label}: {title}, {by}", values(row, rule, name), note)
        for name, title in MEASURED.items():
            add(f"{label}: {title}", values(row, "groups", name), note)
        for rule, by in BY.items():
            number = row["chosen"][rule]
            told = f"of {len(row['options'])}: {row['options'][number]}"
            lines.append(_rows.measured(f"{label}: configuration, {by}", [number + 1], differs=told))
            if arm == "offset":
                add(f"{label}: offset, {by}", values(row, rule, "offset"), note)
        if USES[arm]:
            lines[-1]["differs"] += f"; extra information: {USES[arm]}"
    if erm is not None:
        add(f"{task}, {TEMPERED}: information, bits", values(erm, "groups", "calibrated"))
    kernel = found.get((task, "kernel"))
    if kernel is not None:
        for name, label in KERNEL_ROWS.items():
            add(f"{task}, {label}: {STARVATION}", starvation(kernel, name))
            add(f"{task}, {label}: {PREDICTED}", starvation(kernel, name, "accuracy"))
    return lines


def differences(tasks: Sequence[str], found: Found) -> list[dict[str, Any]]:
    """The differences of every method to ERM in pairs of networks, with two-sided p-values that are corrected together.

    A note gives the p-value after Holm's correction for all differences of the same quantity and rule.
    """
    lines: list[dict[str, Any]] = []
    for rule, by in BY.items():
        for quantity, title in (("worst", "worst group"), ("average", "average")):
            pairs = [
                (f"{task}, {LABELS[arm]} minus ERM: {title}, {by}", row, found[task, "erm"])
                for task in tasks
                if (task, "erm") in found
                for arm, row in of_task(task, found)
                if arm != "erm"
            ]
            changes = [values(row, rule, quantity) - values(erm, rule, quantity) for _, row, erm in pairs]
            p = statistics.holm([two_sided(change) for change in changes]) if changes else []
            for (name, *_), change, corrected in zip(pairs, changes, p, strict=True):
                note = f"p = {corrected:.2g} after Holm's correction for {len(pairs)}"
                lines.append(_rows.measured(name, change, differs=note))
    return lines


def two_sided(change: Values) -> float:
    """The p-value of Student's t for a mean of zero.

    >>> round(two_sided(np.array([0.1, 0.2, 0.3])), 4) == round(2 * 0.0371, 4)
    True
    """
    return min(1.0, 2 * min(statistics.within(change, above=0), statistics.within(change, below=0)))


def signatures(tasks: Sequence[str], found: Found) -> list[dict[str, Any]]:
    """The signatures that the rows allow; networks are paired by seed, and means over data sets are taken by seed."""
    lines: list[dict[str, Any]] = []

    def worst(task: str, arms: Sequence[str], rule: str = "groups") -> Values:
        return np.mean([values(found[task, arm], rule, "worst") for arm in arms], axis=0)

    def shown(task: str, *arms: str, rule: str = "groups") -> str:
        each = ", ".join(f"{worst(task, [arm], rule).mean():.3f} ({LABELS[arm]})" for arm in arms)
        return f"{task}: {each}"

    def add(name: str, each: Values, why: str, reason: str, **bounds: float) -> None:
        lines.append(_rows.signature(name, each, why=why, reason=reason, **bounds))

    equal = "the same accuracy; networks are paired"
    for task in tasks:
        have = {arm for one, arm in found if one == task}
        aware, unaware = ([arm for arm in arms if arm in have] for arms in (AWARE, UNAWARE))
        if aware and "erm" in have:
            gain = worst(task, aware) - worst(task, ["erm"])
            named = "worst group, methods that know the groups minus ERM"
            add(f"{task}: {named}", gain, equal, shown(task, "erm", *aware), above=0)
        if unaware:
            loss = worst(task, unaware, "average") - worst(task, unaware)
            evidence = f"{shown(task, *unaware)}; by average {shown(task, *unaware, rule='average')}"
            named = "worst group of methods without extra information, selected by average minus by groups"
            add(f"{task}: {named}", loss, equal, evidence, below=0)
        if {"sd", "erm"} <= have:
            change = worst(task, ["sd"]) - worst(task, ["erm"])
            what = "a loss of up to this is none"
            add(f"{task}: worst group, tuned SD minus ERM", change, what, shown(task, "sd", "erm"), above=-WORSE)
        if {"group_dro", "group_balanced"} <= have:
            change = worst(task, ["group_balanced"]) - worst(task, ["group_dro"])
            evidence = shown(task, "group_balanced", "group_dro")
            named = "worst group, group-balanced ERM minus Group DRO"
            add(f"{task}: {named}", change, "a loss of up to this is none", evidence, above=-WORSE)
    for ours, theirs in (("dedier", "distillation"), ("distillation", "erm"), ("sieve", "erm")):
        both = [task for task in tasks if {(task, ours), (task, theirs)} <= found.keys()]
        if both:
            change = np.mean([worst(task, [ours]) - worst(task, [theirs]) for task in both], axis=0)
            evidence = "; ".join(shown(task, ours, theirs) for task in both)
            named = f"mean over data sets: worst group, {LABELS[ours]} minus {LABELS[theirs]}"
            add(named, change, equal, evidence, above=0)
    kernels = [found[task, "kernel"] for task in tasks if (task, "kernel") in found]
    if kernels:
        change = np.mean([starvation(row, "ridge") - starvation(row, "group_balanced") for row in kernels], axis=0)
        each = ", ".join(
            f"{starvation(row, 'ridge').mean():.3f} and {starvation(row, 'group_balanced').mean():.3f} ({row['task']})"
            for row in kernels
        )
        named = "mean over data sets: starvation at initialisation, ERM minus group-balanced ERM"
        add(named, change, "no difference; kernels are paired", each, above=0)
    return lines


def _points(ax: Any, rows: Sequence[tuple[str, Values]], shift: float, color: str, label: str, marker: str) -> None:
    """Means with intervals over seeds, one per row from above."""
    for place, (_, each) in enumerate(rows):
        defined = each[np.isfinite(each)]
        if len(defined) > 1:
            mean = statistics.mean(defined)
            reach = [[float(mean.value - mean.low)], [float(mean.high - mean.value)]]
            ax.errorbar(
                [float(mean.value)],
                [place + shift],
                xerr=reach,
                fmt=marker,
                color=color,
                markersize=5,
                capsize=2,
                label=label if place == 0 else None,
            )


def _named(ax: Any, arms: Sequence[str], *, first: bool) -> None:
    """Names the rows of an axis, with the extra information that a method uses in training."""
    rows = [
        LABELS[arm] + (f" ({USES[arm]})" if USES[arm] in ("groups", "environments", "a teacher") else "")
        for arm in arms
    ]
    ax.set_yticks(range(len(rows)), rows if first else [])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", alpha=0.3)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(5))


def draw_accuracy(tasks: Sequence[str], found: Found, path: Path) -> None:
    """Worst-group and average accuracy of every method on every data set, for both rules of selection."""
    figure, axes = plotting.panels(2, len(tasks))
    figure.set_size_inches(1.5 + 4.2 * len(tasks), 12)
    for line, (name, title) in zip(
        axes, (("worst", "worst-group accuracy"), ("average", "average accuracy")), strict=True
    ):
        for column, (task, ax) in enumerate(zip(tasks, line, strict=True)):
            every = list(of_task(task, found))
            for rule, shift, color, marker in (
                ("groups", -0.15, plotting.OKABE_ITO[0], "o"),
                ("average", 0.15, plotting.OKABE_ITO[1], "s"),
            ):
                rows = [(LABELS[arm], values(row, rule, name)) for arm, row in every]
                _points(ax, rows, shift, color, BY[rule], marker)
            if name == "worst":
                ax.axvline(0.5, color="0.6", linestyle="--")  # a guess
            _named(ax, [arm for arm, _ in every], first=column == 0)
            ax.set_xlabel(title)
            ax.set_title(task)
    axes[0, 0].legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1.08), ncols=2)
    plotting.save(figure, path)


def draw_diagnosis(tasks: Sequence[str], found: Found, path: Path) -> None:
    """Core-only accuracy, prediction depth and information of every method, selected by groups."""
    shown = ("core", "depth", "calibrated")
    figure, axes = plotting.panels(len(shown), len(tasks))
    figure.set_size_inches(1.5 + 4.2 * len(tasks), 16)
    for line, name in zip(axes, shown, strict=True):
        for column, (task, ax) in enumerate(zip(tasks, line, strict=True)):
            every = list(of_task(task, found))
            rows = [(LABELS[arm], values(row, "groups", name)) for arm, row in every]
            _points(ax, rows, 0, plotting.OKABE_ITO[0], "", "o")
            _named(ax, [arm for arm, _ in every], first=column == 0)
            ax.set_xlabel(MEASURED[name])
            ax.set_title(task)
    plotting.save(figure, path)


def draw_tuning(tasks: Sequence[str], found: Found, path: Path) -> None:
    """Average and worst-group accuracy on validation images of all configurations, without the epochs of one."""
    figure, axes = plotting.panels(1, len(tasks))
    figure.set_size_inches(4 + 4.5 * len(tasks), 5.4)
    for task, ax in zip(tasks, axes.flat, strict=True):
        for number, (arm, row) in enumerate(each for each in of_task(task, found) if each[0] != "stopped"):
            average, worst = (np.mean(row["validation"][score], axis=1) for score in ("average", "worst"))
            color = plotting.OKABE_ITO[number % len(plotting.OKABE_ITO)]
            marker = "osD^v<>"[number // len(plotting.OKABE_ITO)]
            ax.plot(average, worst, marker, color=color, markersize=5, alpha=0.8, label=LABELS[arm])
        ax.axhline(0.5, color="0.6", linestyle="--")
        ax.set(xlabel="average accuracy, validation", ylabel="worst-group accuracy, validation", title=task)
    axes.flat[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.02, 0.5))
    plotting.save(figure, path)


def draw_seconds(tasks: Sequence[str], seconds: Mapping[tuple[str, str], float], path: Path) -> None:
    """Seconds of the processor per network of every method, without compilation."""
    figure, axes = plotting.panels(1, len(tasks))
    figure.set_size_inches(1.5 + 4.2 * len(tasks), 5.6)
    for column, (task, ax) in enumerate(zip(tasks, axes.flat, strict=True)):
        rows = [(arm, seconds[task, arm]) for arm in LABELS if (task, arm) in seconds]
        ax.barh(range(len(rows)), [value for _, value in rows], color=plotting.OKABE_ITO[0])
        _named(ax, [arm for arm, _ in rows], first=column == 0)
        ax.set_xlabel("seconds of a processor per network")
        ax.set_title(task)
    plotting.save(figure, path)
