"""The figures of the experiment `dominoes`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments._domino_rows import (
    DATA,
    REMEDIES,
    Quantity,
    Rows,
    Warned,
    accuracy,
    bits,
    course,
    first_mass,
    invalid,
    mean_depth,
    values,
    worst_group,
    worst_group_with_offset,
)
from gsjax import plotting
from gsjax.probes import monitoring


def depths(rows: Rows) -> Float[np.ndarray, " n"]:
    """The depths of all networks of an arm in one list, NaN for invalid examples."""
    counts = np.sum([[*row["depth"], row["invalid"]] for row in rows], axis=0)
    return np.repeat(np.append(np.arange(1.0, len(counts)), np.nan), counts)


def draw_depths(paired: Mapping[str, Rows], path: Path) -> None:
    """Histograms of the depth, one per arm, over all networks."""
    groups = [{label: paired[name] for name, label in part.items() if name in paired} for part in (DATA, REMEDIES)]
    groups = [group for group in groups if group]
    figure, axes = plotting.panels(1, len(groups))
    figure.set_size_inches(6.5 * len(groups), 5.2)
    for group, ax in zip(groups, axes.flat, strict=True):
        most = len(next(iter(group.values()))[0]["depth"])
        plotting.depths({label: depths(rows) for label, rows in group.items()}, ax, most=most)
    plotting.save(figure, path)


def draw_courses(found: Mapping[str, Rows], warned: Mapping[str, Warned], epoch: int, path: Path) -> None:
    """Early mass at the checkpoints with the threshold of the monitor, and accuracies, for both pairs of halves."""
    figure, axes = plotting.panels(2, len(warned))
    figure.set_size_inches(6.5 * len(warned), 9)
    for (pair, each), (top, bottom) in zip(warned.items(), axes.T, strict=True):
        arms = {name: found[name] for name in (pair, f"{pair} clean")}
        epochs = np.array(found[pair][0]["course"]["steps"]) / epoch
        place = np.arange(len(epochs))  # checkpoints are evenly spaced, as on a logarithmic axis
        for (name, rows), color in zip(arms.items(), plotting.OKABE_ITO, strict=False):
            options: dict[str, Any] = {"color": color, "label": DATA[name], "ylabel": "share of depth 1"}
            mass = monitoring.early_mass(course(rows))
            known = np.isfinite(mass).all(axis=0)
            if known.any():
                plotting.curves(place[known], mass[:, known], top, linestyle="-", **options)
            for variant, style, what in (("test", "--", "iid"), ("random", "-", "spurious half random")):
                options |= {"label": f"{DATA[name]}: {what}", "ylabel": "accuracy"}
                accuracies = [row["course"][variant] for row in rows]
                plotting.curves(place, accuracies, bottom, linestyle=style, **options)
        top.plot(place, each.threshold, ":", color="black", label="threshold")
        for ax, told_at, label in ((top, each.monitor, "warning"), (bottom, each.random, "shown by accuracy")):
            first = np.searchsorted(epochs, told_at[np.isfinite(told_at)])
            ax.plot(first, np.full(len(first), -0.02), "^", color="black", label=label)
            ax.set_ylim(-0.05, 1.05)
            ax.set_xticks(place, [f"{value:.2g}" for value in epochs])
            ax.set_xlabel("epoch")
            ax.set_title(pair)
            ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    plotting.save(figure, path)


def draw_saliency(paired: Mapping[str, Rows], path: Path) -> None:
    """Test images of the first network of each data set, with its saliency and Grad-CAM."""
    shown = [name for name in ("harmful", "harmful clean", "benign", "benign clean") if name in paired]
    figure, axes = plotting.panels(1, len(shown))
    figure.set_size_inches(4.2 * len(shown), 5.0)
    for name, ax in zip(shown, axes.flat, strict=True):
        pictures = {key: np.array(each) for key, each in paired[name][0]["pictures"].items()}
        maps = {"saliency": pictures["saliency"], "Grad-CAM": pictures["cam"]}
        plotting.saliency_maps(pictures["input"], maps, ax)
        ax.set_title(DATA[name])
    plotting.save(figure, path)


def draw_remedies(paired: Mapping[str, Rows], path: Path) -> None:
    """Accuracies, depth and information of ERM and the remedies, beside a network without the spurious half."""
    rows = {label: paired[name] for name, label in REMEDIES.items() if name in paired}
    if "harmful alone" in paired:
        rows["core alone"] = paired["harmful alone"]
    panels: list[tuple[str, dict[str, Quantity]]] = [
        (
            "accuracy",
            {
                "iid": accuracy("test"),
                "randomised": accuracy("random"),
                "reversed": accuracy("reversed"),
                "worst\ngroup": worst_group,
                "worst group\n+ offset": worst_group_with_offset,
            },
        ),
        ("share of test images", {"depth 1": first_mass, "invalid": invalid}),
        ("mean depth", {"mean depth": mean_depth}),
        ("information in bits", {"first\nstage": bits("first"), "stages": bits("stages"), "network": bits("network")}),
    ]
    figure, axes = plotting.panels(2, 2)
    figure.set_size_inches(15, 9)
    for (ylabel, quantities), ax in zip(panels, axes.flat, strict=True):
        series = {}
        for label, each in rows.items():
            table = np.stack([values(each, quantity) for quantity in quantities.values()], axis=1)
            if np.isfinite(table).all():
                series[label] = table
        if series:
            plotting.categories(list(quantities), series, ax, ylabel=ylabel)
        ax.tick_params("x", labelsize=11)
        if ylabel != "mean depth":
            ax.set_ylim(-0.05, 1.05)
    plotting.save(figure, path)
