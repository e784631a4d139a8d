"""The report of the experiment `representation_distillation`: summary, signatures and figures from the rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments import _rows
from experiments._study import Report
from gsjax import plotting

ARMS = {
    "teacher": "teacher",
    "match": "features matched",
    "match longer": "features matched, for longer",
    "match random": "features matched, random backgrounds",
    "linear": "features matched, linear student",
    "logits": "outputs matched",
    "erm": "labels (ERM)",
    "initial": "initialisation",
}
SETTINGS = {"features": "structured features", "frames": "images in frames"}
RANGES = {"id": "in distribution", "ood": "out of distribution", "random": "random background"}
READOUTS = {"own": "own readout", "fresh": "fresh readout"}
OTHERS = {
    "distance": "square distance to the teacher's features, relative",
    "shift": "shift of features out of distribution, relative",
    "probe": "variance of the background that a fresh probe explains",
    "mean": "variance of its mean that a fresh probe explains",
}
NEAR, FAR = 0.03, 0.10  # points of accuracy, from the study

Rows = Sequence[Mapping[str, Any]]
Arms = Mapping[str, Rows]


def values(rows: Rows, *path: str) -> Float[np.ndarray, " networks"]:
    """A field of every network; NaN for null."""

    def read(row: Mapping[str, Any]) -> float:
        found: Any = functools.reduce(lambda node, name: node[name], path, row)
        return np.nan if found is None else found

    return np.array([read(row) for row in rows])


def sized(rows: Rows) -> dict[str, dict[int, dict[str, Rows]]]:
    """The rows by setting, number of background coordinates (in increasing order), and arm."""
    found: dict[str, dict[int, dict[str, Rows]]] = {}
    for setting in SETTINGS:
        own = [row for row in rows if row["setting"] == setting]
        for count in sorted({row["coordinates"] for row in own}):
            by_arm = {arm: [row for row in own if (row["coordinates"], row["arm"]) == (count, arm)] for arm in ARMS}
            found.setdefault(setting, {})[count] = {arm: each for arm, each in by_arm.items() if each}
    return found


def report(rows: list[dict[str, Any]], *, images: str) -> Report:
    """Summary, signatures and figures; `images` is the name of the image set."""
    found = sized(rows)
    lines = [
        line
        for setting, sizes in found.items()
        for count, arms in sizes.items()
        for arm, each in arms.items()
        for line in summarised(f"{named(setting, count, images)}: {ARMS[arm]}", each, readouts(arm))
    ]
    judged = []
    for setting, sizes in found.items():
        judged += signatures(named(setting, max(sizes), images), sizes[max(sizes)])
        judged += growth(named(setting, None, images), sizes)
    largest = {named(setting, max(sizes), images): sizes[max(sizes)] for setting, sizes in found.items()}
    drawn: dict[str, Callable[[Path], object]] = {
        "accuracy.png": functools.partial(draw_accuracy, largest),
        "features.png": functools.partial(draw_features, largest),
    }
    several = {named(setting, None, images): sizes for setting, sizes in found.items() if len(sizes) > 1}
    if several:
        drawn["backgrounds.png"] = functools.partial(draw_backgrounds, several)
    return Report(lines, judged, drawn)


def named(setting: str, count: int | None, images: str) -> str:
    """A setting in words, with its number of background coordinates."""
    name = SETTINGS[setting] if setting == "features" else f"{images} in frames"
    return name if count is None else f"{name}, {count} of background"


def readouts(arm: str) -> Sequence[str]:
    """The readouts by which an arm is judged: the initial network has none of its own."""
    return ("fresh",) if arm == "initial" else tuple(READOUTS)


def summarised(label: str, rows: Rows, by: Sequence[str]) -> list[dict[str, Any]]:
    """Everything that was measured on an arm."""
    note = None if all(row["finite"] for row in rows) else "the objective was not always finite"
    found = {f"accuracy {RANGES[name]}, {READOUTS[kind]}": values(rows, kind, name) for kind in by for name in RANGES}
    found |= {text: values(rows, name) for name, text in OTHERS.items()}
    return [
        _rows.measured(f"{label}: {text}", each, differs=note)
        for text, each in found.items()
        if np.isfinite(each).all()
    ]


def signatures(name: str, arms: Arms) -> list[dict[str, Any]]:
    """The signatures that the arms of a setting allow; networks are paired by their examples."""
    found: list[dict[str, Any]] = []

    def accuracy(arm: str, where: str, kind: str = "own") -> Float[np.ndarray, " networks"]:
        return values(arms[arm], kind, where)

    def judge(title: str, each: Float[np.ndarray, " networks"], why: str, *shown: str, **bounds: float) -> None:
        evidence = "; ".join(told(arm, arms[arm]) for arm in shown)
        found.append(_rows.signature(f"{name}: {title}", each, why=why, reason=evidence, **bounds))

    near, study = {"above": -NEAR, "below": NEAR}, "the bound of the study"
    if "match" in arms:
        for kind, text in READOUTS.items():
            gap = {where: accuracy("teacher", where, kind) - accuracy("match", where, kind) for where in ("id", "ood")}
            title = f"teacher minus student, {text}"
            if kind == "own":
                judge(f"{title}, in distribution", gap["id"], study, "teacher", "match", **near)
                judge(f"{title}, out of distribution", gap["ood"], study, "teacher", "match", above=FAR)
            else:
                judge(f"{title}, out of distribution", gap["ood"], "no difference", "teacher", "match", above=0)
        if "match longer" in arms:
            gain = accuracy("match longer", "ood") - accuracy("match", "ood")
            title = "out of distribution, student trained for longer minus student"
            judge(title, gain, "no difference", "match longer", above=0)
        title = "variance of the mean background that a probe explains, student"
        judge(title, values(arms["match"], "mean"), "nothing", "teacher", "match", above=0)
    if "match random" in arms:
        gap = accuracy("teacher", "ood") - accuracy("match random", "ood")
        judge("teacher minus student of random backgrounds, out of distribution", gap, study, "match random", **near)
    if {"match", "match random"} <= arms.keys():
        pair = "student minus student of random backgrounds"
        seen = values(arms["match"], "mean") - values(arms["match random"], "mean")
        judge(f"variance of the mean background, {pair}", seen, "no difference", "match", "match random", above=0)
        moved = [np.log(values(arms[arm], "shift")) for arm in ("match", "match random")]
        if np.isfinite(moved).all():
            title = f"log shift of features, {pair}"
            judge(title, moved[0] - moved[1], "no difference", "match", "match random", above=0)
    if "linear" in arms:
        lost = accuracy("linear", "id") - accuracy("linear", "ood")
        judge("linear student, in minus out of distribution", lost, study, "linear", "match", **near)
    return found


def growth(name: str, sizes: Mapping[int, Arms]) -> list[dict[str, Any]]:
    """Whether the student fails more with the largest number of background coordinates than with the smallest."""
    ends = [sizes[min(sizes)], sizes[max(sizes)]]
    if len(sizes) == 1 or any("match" not in arms for arms in ends):
        return []
    gaps = [values(arms["teacher"], "own", "ood") - values(arms["match"], "own", "ood") for arms in ends]
    title = f"teacher minus student out of distribution, {max(sizes)} minus {min(sizes)} of background"
    evidence = "; ".join(told(arm, arms[arm]) for arms in ends for arm in ("teacher", "match"))
    return [_rows.signature(f"{name}: {title}", gaps[1] - gaps[0], above=0, why="no difference", reason=evidence)]


def told(arm: str, rows: Rows) -> str:
    """The means of an arm in words, as evidence."""
    own, fresh = (
        f"{values(rows, kind, 'id').mean():.3f} and {values(rows, kind, 'ood').mean():.3f}" for kind in READOUTS
    )
    others = ", ".join(f"{name} {values(rows, name).mean():.3g}" for name in OTHERS)
    return f"{ARMS[arm]}: {own} in and out of distribution, {fresh} with a fresh readout, {others}"


def draw_accuracy(largest: Mapping[str, Arms], path: Path) -> None:
    """Accuracy of all arms in and out of distribution, with both readouts; one row of panels per setting."""
    figure, axes = plotting.panels(len(largest), 2)
    figure.set_size_inches(15, 5.5 * len(largest))
    for (name, arms), line in zip(largest.items(), axes, strict=True):
        for (kind, text), ax in zip(READOUTS.items(), line, strict=True):
            series = {
                ARMS[arm]: np.stack([values(each, kind, where) for where in RANGES], axis=1)
                for arm, each in arms.items()
                if kind in readouts(arm)
            }
            plotting.categories(list(RANGES.values()), series, ax, ylabel=f"accuracy, {text}", xlabel=name)
            ax.get_legend().set(visible=False)
            ax.set_ylim(-0.05, 1.05)
    handles, labels = axes[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    plotting.save(figure, path)


def draw_features(largest: Mapping[str, Arms], path: Path) -> None:
    """What is in the features of all arms: distance to the teacher, shift, and what probes explain."""
    figure, axes = plotting.panels(len(largest), len(OTHERS))
    figure.set_size_inches(20, 5 * len(largest))
    for (name, arms), line in zip(largest.items(), axes, strict=True):
        for (field, text), ax in zip(OTHERS.items(), line, strict=True):
            known = {arm: values(each, field)[:, None] for arm, each in arms.items()}
            known = {ARMS[arm]: each for arm, each in known.items() if np.isfinite(each).all()}
            plotting.categories(
                [text.replace(" that", "\nthat").replace(", relative", "")],
                known,
                ax,
                ylabel="share" if field in ("probe", "mean") else "ratio",
                xlabel=name,
            )
            ax.get_legend().set(visible=False)
            ax.tick_params("x", labelsize=10)
            if field not in ("probe", "mean"):
                ax.set_yscale("symlog", linthresh=0.01)
                ax.set_ylim(bottom=0)
    handles, labels = axes[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    plotting.save(figure, path)


def draw_backgrounds(several: Mapping[str, Mapping[int, Arms]], path: Path) -> None:
    """Accuracy out of distribution over the number of background coordinates, with the own readout."""
    figure, (axes,) = plotting.panels(1, len(several))
    figure.set_size_inches(7 * len(several), 5.5)
    for (name, sizes), ax in zip(several.items(), axes, strict=True):
        series = {
            text: np.stack([values(arms[arm], "own", "ood") for arms in sizes.values()], axis=1)
            for arm, text in ARMS.items()
            if arm != "initial" and all(arm in arms for arms in sizes.values())
        }
        plotting.against(
            list(sizes), series, ax, xlabel=f"background, {name}", ylabel="accuracy out of distribution", logx=True
        )
        ax.get_legend().set(visible=False)
        ax.set_ylim(-0.05, 1.05)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    plotting.save(figure, path)
