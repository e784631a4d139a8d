"""The figures of the experiment `debiased_distillation`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._debiased_rows import ARMS, RATIOS, Part, average, ratio, readouts, selected, worst
from gsjax import plotting, statistics

SHORT = {
    "balanced": "ERM, class\nweights",
    "permuted": "weights\npermuted",
    "permuted in classes": "permuted\nin classes",
}


def draw_methods(parts: Sequence[Part], path: Path) -> None:
    """Accuracy by method: average, worst group, and worst group with an offset; one panel per setting."""
    figure, axes = plotting.panels(len(parts), 1)
    figure.set_size_inches(15, 5.5 * len(parts))
    for part, (ax,) in zip(parts, axes, strict=True):
        series = {
            "average": [average(selected(tried)) for tried in part.searched.values()],
            "worst group": [worst(selected(tried)) for tried in part.searched.values()],
            "worst group + offset": [worst(selected(tried, "groups"), "groups") for tried in part.searched.values()],
        }
        names = [SHORT.get(arm, ARMS[arm]) for arm in part.searched]
        columns = {name: np.stack(each, axis=1) for name, each in series.items()}
        plotting.categories(names, columns, ax, ylabel="test accuracy", xlabel=part.name)
        ax.tick_params("x", labelsize=11)
        ax.set_ylim(-0.05, 1.05)
    plotting.save(figure, path)


def draw_readouts(parts: Sequence[Part], path: Path) -> None:
    """What readouts show by group and stage, at the first refresh, when the students of all readouts are the same."""
    figure, axes = plotting.panels(len(parts), len(RATIOS))
    figure.set_size_inches(17, 5 * len(parts))
    for part, line in zip(parts, axes, strict=True):
        found = readouts(part)
        for (title, sums), ax in zip(RATIOS.items(), line, strict=True):
            for group in range(4):
                agrees = "conflicting" if group in part.conflicting else "aligned"
                label = f"y = {'+' if group > 1 else '-'}1, spurious class {group % 2} ({agrees})"
                color, marker = plotting.OKABE_ITO[group], "os^D"[group]
                for place, rows in enumerate(found.values()):
                    values = ratio(rows, *sums, [group])
                    values = values[np.isfinite(values)]
                    if not len(values):
                        continue
                    x = place + (group - 1.5) * 0.17
                    ax.plot(np.full(len(values), x), values, ".", color=color, alpha=0.3, markersize=4)
                    ax.plot(x, values.mean(), marker, color=color, markersize=6, label=label if place == 0 else None)
                    if len(values) > 1:
                        middle, low, high = statistics.mean(values)
                        reach: Any = [[middle - low], [high - middle]]
                        ax.errorbar(x, middle, reach, fmt="none", ecolor=color, capsize=3)
            ax.set_xticks(range(len(found)), [name.replace(", ", ",\n") for name in found])
            ax.set_xlim(-0.5, len(found) - 0.5)
            ax.grid(visible=False, axis="x")
            ax.set(ylabel=title, xlabel=f"readout, {part.name}")
            if title != "mean weight":
                ax.set_ylim(-0.05, 1.05)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    plotting.save(figure, path)


def draw_weights(parts: Sequence[Part], path: Path) -> None:
    """Accuracy of DeDiER against beta, alpha, and the stage and depth of the readout; all else as set."""
    figure, axes = plotting.panels(len(parts), 3)
    figure.set_size_inches(17, 5 * len(parts))
    for part, line in zip(parts, axes, strict=True):
        base = part.weighted[part.base or 0][0]
        for name, ax in zip(("beta", "alpha"), line, strict=False):
            tried = sorted(
                ((options[name], rows) for options, rows in part.weighted if {**base, name: options[name]} == options),
                key=lambda pair: pair[0],
            )
            measures = {"average": average, "worst group": worst}
            series = {label: np.stack([each(rows) for _, rows in tried], axis=1) for label, each in measures.items()}
            values = [value for value, _ in tried]
            plotting.against(values, series, ax, xlabel=f"{name}, {part.name}", ylabel="test accuracy")
            ax.set_ylim(-0.05, 1.05)
        stages = readouts(part)
        columns = {
            label: np.stack([each(rows) for rows in stages.values()], axis=1)
            for label, each in (("average", average), ("worst group", worst))
        }
        names = [name.replace(", ", ",\n") for name in stages]
        plotting.categories(names, columns, line[2], ylabel="test accuracy", xlabel=f"readout, {part.name}")
        line[2].set_ylim(-0.05, 1.05)
    plotting.save(figure, path)
