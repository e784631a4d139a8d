"""The figures of the experiment `feature_contamination`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from gsjax import plotting

Rows = Sequence[Mapping[str, Any]]
Found = Mapping[str, Mapping[str, Rows]]

SHOWN = {
    "hinge-sgd-frozen-relu": "ReLU",
    "hinge-sgd-frozen-relu-zero": "ReLU, mean zero",
    "hinge-sgd-frozen-identity": "linear",
    "hinge-adamw-frozen-relu": "ReLU, AdamW",
}


def draw_courses(found: Found, path: Path) -> None:
    """Risks, accuracies, projections and activation rates during training, and the risks of all arms at its end."""
    arms = found["arms"]
    shown = {label: arms[name] for name, label in SHOWN.items() if name in arms} or dict(list(arms.items())[:4])
    panels = (
        ("hinge loss", "hinge", ("in distribution", "out of distribution")),
        ("accuracy", "accuracy", ("in distribution", "out of distribution")),
        ("mean projection minus initial", "signed", ("core", "background")),
        ("rate of activation", "active", ("other class", "own class")),
    )
    figure, axes = plotting.panels(3, 2)
    figure.set_size_inches(14, 14)
    for (ylabel, key, parts), ax in zip(panels, axes.flat, strict=False):
        for (label, rows), color in zip(shown.items(), plotting.OKABE_ITO, strict=False):
            for number, (part, style) in enumerate(zip(parts, ("--", "-"), strict=True)):
                column = 1 - number if key == "active" else number
                curves = np.array([row[key] for row in rows])[:, :, column]
                options: dict[str, Any] = {"label": f"{label}: {part}", "ylabel": ylabel, "linestyle": style}
                plotting.curves(rows[0]["steps"], curves, ax, color=color, **options)
        ax.get_legend().remove()
    axes[0, 1].legend(fontsize=10, loc="lower right")
    axes[1, 0].legend(*_parts("core", "background"), fontsize=10, loc="upper right")
    axes[1, 1].legend(*_parts("other class", "own class"), fontsize=10)
    names = ["\n".join(name.split("-")) for name in arms]
    for ax, key, what in ((axes[2, 0], "hinge", "hinge loss"), (axes[2, 1], "accuracy", "accuracy")):
        least = min(map(len, arms.values()))
        series = {
            label: np.array([[row[key][-1][number] for row in rows[:least]] for rows in arms.values()]).T
            for number, label in enumerate(("in distribution", "out of distribution"))
        }
        plotting.categories(names, series, ax, ylabel=what)
        ax.tick_params("x", labelsize=8)
    plotting.save(figure, path)


def _parts(*names: str) -> tuple[list[Any], list[str]]:
    """Handles and labels of the two line styles."""
    return [Line2D([], [], color="0.35", linestyle=style) for style in ("--", "-")], list(names)


def draw_phase(found: Found, path: Path) -> None:
    """Error and hinge loss out of distribution over the number of background features and their mean."""
    phase = found["phase"]
    means = sorted({row["mean"] for rows in phase.values() for row in rows})
    figure, axes = plotting.panels(1, 2)
    figure.set_size_inches(13, 4.6)
    for ax, label, read in (
        (axes[0, 0], "error out of distribution", lambda row: 1 - row["accuracy"][-1][1]),
        (axes[0, 1], "hinge loss out of distribution", lambda row: row["hinge"][-1][1]),
    ):
        table = [
            [np.mean([read(row) for row in rows if row["mean"] == mean]) for mean in means] for rows in phase.values()
        ]
        plotting.sign_map(
            means,
            [int(count) for count in phase],
            np.array(table),
            ax,
            xlabel="mean of the background",
            ylabel="background features",
            label=label,
            logy=True,
            written=True,
        )
    plotting.save(figure, path)


def draw_scales(found: Found, path: Path) -> None:
    """Risks and the distance of the kernel against the scale of the outputs."""
    scales = found["scales"]
    x = [float(name) for name in scales]

    def series(read: Any) -> np.ndarray:
        return np.array([[read(row) for row in rows] for rows in scales.values()]).T

    figure, axes = plotting.panels(1, 2)
    figure.set_size_inches(13, 4.6)
    lines = {
        "hinge loss in distribution": series(lambda row: row["hinge"][-1][0]),
        "hinge loss out of distribution": series(lambda row: row["hinge"][-1][1]),
        "margin out of / in distribution": series(lambda row: row["margins"][1] / row["margins"][0]),
    }
    baseline = None
    if "kernel" in found:
        kept = [row["kept"][1] / row["kept"][0] for rows in found["kernel"].values() for row in rows]
        baseline = float(np.mean(kept))
    label = {"xlabel": "scale of the outputs", "logx": True}
    plotting.against(x, lines, axes[0, 0], ylabel="at the end", baseline=baseline, **label)
    moved = {
        "relative change": series(lambda row: row["distance"][0]),
        "1 - alignment": series(lambda row: row["distance"][1]),
        "1 - alignment, centred": series(lambda row: row["distance"][2]),
    }
    plotting.against(x, moved, axes[0, 1], ylabel="distance of the tangent kernel", **label)
    axes[0, 1].set_yscale("log")
    plotting.save(figure, path)


def draw_kernel(found: Found, path: Path) -> None:
    """The strongest features of the kernel at initialisation: strengths, responses, margins and correlations."""
    rows = [row for each in found["kernel"].values() for row in each]
    names = [str(number + 1) for number in range(len(rows[0]["strengths"]))]
    figure, axes = plotting.panels(2, 2)
    figure.set_size_inches(13, 8.4)

    def pair(key: str, labels: tuple[str, str]) -> dict[str, Any]:
        return {label: [row[key][number] for row in rows] for number, label in enumerate(labels)}

    strengths = {"networks": [row["strengths"] for row in rows]}
    responses = {"networks": np.abs([row["responses"] for row in rows])}
    for ax, series, ylabel in (
        (axes[0, 0], strengths, "strength $s_j^2$"),
        (axes[0, 1], responses, "size of the response $|z_j^*|$"),
        (axes[1, 0], pair("margins", ("in distribution", "out of distribution")), "mean part of the margin"),
        (axes[1, 1], pair("correlations", ("with the label", "with the background")), "correlation"),
    ):
        plotting.categories(names, series, ax, xlabel="feature", ylabel=ylabel)
        if len(series) == 1:
            ax.get_legend().remove()
            ax.set_yscale("log")
    plotting.save(figure, path)


def draw_remedies(found: Found, path: Path) -> None:
    """Risks, accuracies, projections and margins of the remedies, with the trivial explanations beside them."""
    remedies = found["remedies"]

    def series(reads: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {
            label: np.array([[read(row) for row in rows] for rows in remedies.values()]).T
            for label, read in reads.items()
        }

    panels: tuple[tuple[str, dict[str, Any]], ...] = (
        (
            "hinge loss",
            {
                "in distribution": lambda row: row["hinge"][-1][0],
                "out of distribution": lambda row: row["hinge"][-1][1],
                "out, least over training": lambda row: np.array(row["hinge"])[:, 1].min(),
                "out, with an offset": lambda row: row["offset"][1],
                "out, with a temperature": lambda row: row["temperature"][1],
            },
        ),
        (
            "accuracy",
            {
                "in distribution": lambda row: row["accuracy"][-1][0],
                "out of distribution": lambda row: row["accuracy"][-1][1],
            },
        ),
        (
            "projection / initial",
            {
                "core": lambda row: row["norms"][-1][0] / row["norms"][0][0],
                "background": lambda row: row["norms"][-1][1] / row["norms"][0][1],
            },
        ),
        ("mean margin", {"out of / in distribution": lambda row: row["margins"][1] / row["margins"][0]}),
    )
    figure, axes = plotting.panels(2, 2)
    figure.set_size_inches(15, 9)
    names = [name.replace(" ", "\n") for name in remedies]
    for (ylabel, reads), ax in zip(panels, axes.flat, strict=True):
        plotting.categories(names, series(reads), ax, ylabel=ylabel)
        ax.legend(fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
        ax.tick_params("x", labelsize=10)
    plotting.save(figure, path)
