"""The figures of the experiment `ensembles`: by structure, by size and strength, and for real networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments import _random_bases, _real_bases
from experiments._ensemble_rows import Rows
from gsjax import plotting

if TYPE_CHECKING:
    from experiments.ensembles import Config


def draw_structures(rows: Rows, config: Config, path: Path) -> None:
    """Share of starving pairs against the parameter of each structure: size, overlap, number of exceptions."""
    figure, ((left, middle, right),) = plotting.panels(1, 3)

    def draws(structure: _random_bases.Structure, field: str, parameters: Sequence[float]) -> np.ndarray:
        columns = [rows.synthetic(config, structure, field, parameter=float(p)) for p in parameters]
        return np.array(columns).T

    ylabel = "share that starves"
    series = {
        "positive loadings": draws("positive loadings", "share", config.sizes),
        "random signs": draws("near identity", "share", config.sizes),
    }
    plotting.against(
        config.sizes, series, left, xlabel="size of the perturbation of $U = 1$", ylabel=ylabel, logx=True, baseline=0.5
    )
    series = {
        "others starved by feature 1": draws("aligned", "by_strongest", config.overlaps),
        "all pairs": draws("aligned", "share", config.overlaps),
    }
    xlabel = r"overlap of feature 1, $1^\top u_1 / \sqrt{n}$"
    plotting.against(config.overlaps, series, middle, xlabel=xlabel, ylabel=ylabel, baseline=0.5)
    series = {
        "pairs of others, equally strong": np.array([rows.others(config, q) for q in config.counts]).T,
        "power law, all pairs": draws("exceptions", "share", config.counts),
    }
    xlabel = "examples that feature 1 gets wrong"
    plotting.against(config.counts, series, right, xlabel=xlabel, ylabel=ylabel, logx=True, baseline=0.5)
    theory = [_random_bases.competing(count) for count in config.counts]
    right.plot(config.counts, theory, "kx", markersize=8, zorder=4, label="theory, equally strong, $n \\to \\infty$")
    right.legend(loc="upper right", frameon=False)
    for ax in (left, middle, right):
        ax.set_ylim(-0.02, 1.05)
    plotting.save(figure, path)


def draw_scaling(rows: Rows, config: Config, path: Path) -> None:
    """Share, size and inequality against n, decay and lambda; one line per structure."""
    figure, axes = plotting.panels(3, 3)
    ylabels = {
        "share": "share of pairs that starve",
        "strongest": r"strongest, $\sqrt{E_{ji} E_{ij}}$",
        "inequality": r"inequality, $|\log_{10} E_{ji} / E_{ij}|$",
    }
    columns = (
        ("n", config.ns, "$n$", True),
        ("decay", config.decays, "decay of the spectrum", False),
        ("strength", config.strengths, r"$\lambda$ / mean of $s_i^2$", True),
    )
    for line, (field, ylabel) in zip(axes, ylabels.items(), strict=True):
        for ax, (name, values, xlabel, logx) in zip(line, columns, strict=True):
            series = {
                label: np.array([rows.synthetic(config, structure, field, **{name: value}) for value in values]).T
                for structure, label in _random_bases.LABELS.items()
            }
            plotting.against(
                values,
                series,
                ax,
                xlabel=xlabel,
                ylabel=ylabel,
                logx=logx,
                baseline=0.5 if field == "share" else None,
            )
            ax.get_legend().remove()
            if field == "strongest":
                ax.set_yscale("log")
            else:
                ax.set_ylim(0, 1.05 if field == "share" else None)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=12)
    plotting.save(figure, path, dpi=110)


def draw_real(rows: Rows, config: Config, present: Sequence[_real_bases.Task], path: Path) -> None:
    """Real networks: share of pairs by task, starved features against overlap, share of pairs against support."""
    figure, ((left, middle, right),) = plotting.panels(1, 3)
    n = max(config.examples)
    named = [task for task in present if task in _real_bases.TASKS]
    series = {
        name: np.array([rows.draws(_real_bases.reported(task, name, config), "share") for task in named]).T
        for name in config.networks
    }
    plotting.categories(
        [_real_bases.title(task).replace(" ", "\n") for task in named],
        series,
        left,
        ylabel="share of pairs that starve",
    )
    left.tick_params(axis="x", labelsize=10)
    left.axhline(0.5, color="0.35", linestyle="--", linewidth=1.3, zorder=1)
    overlap = [rows.synthetic(config, "aligned", "by_strongest", parameter=o) for o in config.overlaps]
    plotting.against(
        config.overlaps,
        {"random bases": np.array(overlap).T},
        middle,
        xlabel="overlap with the labels",
        ylabel="weaker features it starves",
        baseline=0.5,
    )
    for task in present:
        color = plotting.OKABE_ITO[named.index(task)] if task in named else "0.75"
        for name in config.networks:
            kind = {
                "color": color,
                "zorder": 3 if task in named else 2,
                "marker": {"mlp": "o", "cnn": "s"}[name],
                "linestyle": "",
            }
            for strength in config.real_strengths:
                cell = {"task": task, "network": name, "n": n, "strength": strength}
                mean = {
                    field: np.nanmean(rows.draws(cell, field))
                    for field in ("overlap_aligned", "by_aligned", "support", "share")
                }
                middle.plot(mean["overlap_aligned"], mean["by_aligned"], markersize=5, **kind)
                first = (name, strength) == (config.networks[0], config.real_strengths[0])
                label = _real_bases.title(task) if first and task in named else None
                right.plot(mean["support"], mean["share"], markersize=5, label=label, **kind)
    right.axhline(0.5, color="0.35", linestyle="--", linewidth=1.3, zorder=1)
    right.set_xlabel("share of examples that carry the loss")
    right.set_ylabel("share of pairs that starve")
    right.legend(fontsize=10, frameon=False)
    plotting.save(figure, path)
