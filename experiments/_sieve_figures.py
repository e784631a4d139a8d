"""The figures of the experiment `feature_sieve`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._sieve_rows import (
    ARMS,
    FEATURES,
    KINDS,
    Arms,
    Quantity,
    at,
    early,
    iid,
    probe,
    randomised,
    reversed_,
    values,
    worst_group,
    worst_group_with_offset,
)
from gsjax import plotting

ACCURACIES: dict[str, Quantity] = {
    "iid": iid,
    "randomised": randomised,
    "reversed": reversed_,
    "worst\ngroup": worst_group,
    "worst group\n+ offset": worst_group_with_offset,
    "worst group,\nearly stopping": early,
}


def draw_accuracy(judged: Mapping[str, Arms], path: Path) -> None:
    """Accuracies of all trained arms, a panel per setting."""
    figure, axes = plotting.panels(len(judged), 1)
    figure.set_size_inches(14, 5 * len(judged))
    for (setting, arms), ax in zip(judged.items(), axes[:, 0], strict=True):
        series = {
            ARMS[name]: np.stack([values(rows, quantity) for quantity in ACCURACIES.values()], axis=1)
            for name, rows in arms.items()
            if name != "initial"
        }
        plotting.categories(list(ACCURACIES), series, ax, ylabel="accuracy", xlabel=setting)
        ax.set_ylim(-0.05, 1.05)
    _one_legend(figure, axes)
    plotting.save(figure, path)


def draw_probes(judged: Mapping[str, Arms], path: Path) -> None:
    """Accuracies of fresh probes at every stage; a line of panels per setting and feature, a panel per kind."""
    lines = [(setting, arms, feature) for setting, arms in judged.items() for feature in FEATURES]
    figure, axes = plotting.panels(len(lines), len(KINDS))
    figure.set_size_inches(18, 3.6 * len(lines))
    for (setting, arms, feature), line in zip(lines, axes, strict=True):
        positions = next(iter(arms.values()))[0]["probes"]["stages"]
        for kind, ax in zip(KINDS, line, strict=True):
            series = {}
            for name, rows in arms.items():
                table = np.stack([values(rows, probe(kind, feature, number)) for number in range(len(positions))], 1)
                if np.isfinite(table).all() and name != "sieve average":  # one colour per arm
                    series[ARMS[name]] = table
            if series:
                plotting.categories(
                    positions, series, ax, ylabel=f"{feature} feature", xlabel=f"{setting}, {KINDS[kind]}"
                )
            ax.set_ylim(0.45, 1.02)
    _one_legend(figure, axes)
    plotting.save(figure, path)


def draw_sweep(searched: Mapping[str, Arms], path: Path) -> None:
    """Accuracies and probes of every configuration of the search without weight decays, a panel per setting.

    The simple feature is probed at the stage that forgets, and without forgetting at the first one.
    """

    def simple(row: Mapping[str, Any]) -> float:
        return at("pooled", "simple", row["stage"] or row["probes"]["stages"][0])(row)

    quantities: dict[str, Quantity] = {
        "accuracy, iid": iid,
        "accuracy, randomised": randomised,
        "accuracy, reversed": reversed_,
        "simple feature, mean of the stage": simple,
        "complex feature, last stage": probe("linear", "complex", -1),
    }
    figure, axes = plotting.panels(len(searched), 1)
    figure.set_size_inches(14, 5 * len(searched))
    for (setting, every), ax in zip(searched.items(), axes[:, 0], strict=True):
        found = [rows for name, rows in every.items() if not name.startswith("decay")]
        names = [rows[0]["setup"].replace(", ", "\n") if rows[0]["stage"] else "none" for rows in found]
        series = {}
        for text, quantity in quantities.items():
            table = np.stack([values(rows, quantity) for rows in found], axis=1)
            if np.isfinite(table).all():
                series[text] = table
        plotting.categories(names, series, ax, ylabel="accuracy", xlabel=setting)
        ax.tick_params("x", labelsize=10)
        ax.set_ylim(-0.05, 1.05)
    _one_legend(figure, axes)
    plotting.save(figure, path)


def draw_gradcam(judged: Mapping[str, Arms], path: Path) -> None:
    """Test images as in training, with the Grad-CAM of ERM and of the sieve trained on the same images."""
    figure, axes = plotting.panels(1, len(judged))
    figure.set_size_inches(6.5 * len(judged), 6)
    for (setting, arms), ax in zip(judged.items(), axes[0], strict=True):
        maps = {ARMS[name]: np.array(arms[name][0]["pictures"]["cam"]) for name in ("erm", "sieve")}
        plotting.saliency_maps(np.array(arms["erm"][0]["pictures"]["input"]), maps, ax)
        ax.set_title(setting)
    plotting.save(figure, path)


def _one_legend(figure: plotting.Figure, axes: Any) -> None:
    """One legend for all panels, above them."""
    handles: dict[str, Any] = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        legend: Any = ax.get_legend()
        if legend is not None:
            legend.set(visible=False)
    found: Sequence[Any] = list(handles.values())
    figure.legend(found, list(handles), loc="outside upper center", ncols=5, frameon=False)
