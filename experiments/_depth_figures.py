"""The figures of the experiment `prediction_depth`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments._depth_networks import LABELS, built
from experiments._depth_rows import INFORMATION, Found, invalid, mean_depth, planned
from experiments._depth_tasks import CONTROLS, VARIANTS, title
from gsjax import plotting


def points(found: Found, network: str) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Mean depth and usable information (one hidden layer) of each data set and variant, without controls."""
    pairs = [(name, variant) for name in found.config.data for variant in VARIANTS]
    depth = [np.nanmean(mean_depth(found.depths(network, *pair))) for pair in pairs]
    bits = [found.array("bits", INFORMATION, *pair).mean() for pair in pairs]
    return np.array(depth), np.array(bits)


def draw_depths(found: Found, path: Path) -> None:
    """Histograms of all seeds together, a panel per network."""
    config = found.config
    figure, axes = plotting.panels(1, len(config.networks))
    for network, ax in zip(config.networks, axes.flat, strict=True):
        cells = [(name, variant) for source, name, variant in planned(config) if source == network]
        series = {title(*cell): found.depths(network, *cell).ravel() for cell in cells}
        plotting.depths(series, ax=ax, most=len(built(network, config).positions) - 1)
        ax.set_title(LABELS[network])
    most = len(VARIANTS) * len(config.data) + len(CONTROLS)
    figure.set_size_inches(6.5 * len(config.networks), 1 + 0.75 * max(most, 6))
    plotting.save(figure, path)


def draw_effects(found: Found, path: Path) -> None:
    """Effects of k, of training and of the kind of probe, on clean data and for the first network."""
    config, network = found.config, found.config.networks[0]
    figure, ((by_k, accuracy), (mean, share)) = plotting.panels(2, 2)
    last = {name: found.depths(network, name) for name in config.data}
    other = {name: found.array("other", network, name) for name in config.data}
    ks, layers = [config.k, *config.other_k], np.arange(len(built(network, config).positions))
    order = np.argsort(ks)
    every = {name: found.array("depth", network, name) for name in config.data}

    def draw(ax: Any, x: Any, values: Callable[[str], np.ndarray], *labels: str, logx: bool = False) -> None:
        finite = {title(name): values(name)[np.isfinite(values(name)).all(axis=1)] for name in config.data}
        series = {name: rows for name, rows in finite.items() if len(rows)}
        plotting.against(x, series, ax=ax, xlabel=labels[0], ylabel=labels[1], logx=logx)

    def with_k(name: str) -> np.ndarray:
        return mean_depth(np.concatenate([last[name][:, None], other[name]], axis=1)[:, order])

    draw(by_k, np.sort(ks), with_k, "number of neighbours", "mean depth", logx=True)
    draw(mean, config.epochs, lambda name: mean_depth(every[name]), "epoch", "mean depth of valid images")
    draw(share, config.epochs, lambda name: invalid(every[name]), "epoch", "share of invalid images")
    neighbours = {name: found.array("votes", network, name)[:, -1] for name in config.data}
    draw(accuracy, layers, neighbours.__getitem__, "layer (0: input)", "accuracy of votes (dashed: linear)")
    for number, name in enumerate(config.data):
        linear = found.array("linear votes", network, name).mean(axis=0)
        accuracy.plot(layers, linear, "--", color=plotting.OKABE_ITO[number % len(plotting.OKABE_ITO)])
    accuracy.set_xticks(layers)
    plotting.save(figure, path)


def draw_information(found: Found, path: Path) -> None:
    """Mean depth against usable information, and the information of images by their depth."""
    config, network = found.config, found.config.networks[0]
    figure, ((left, right),) = plotting.panels(1, 2)
    depth, bits = (values.reshape(len(config.data), len(VARIANTS)) for values in points(found, network))
    for number, name in enumerate(config.data):
        color, marker = plotting.OKABE_ITO[number % len(plotting.OKABE_ITO)], "os^Dv"[number]
        left.plot(bits[number], depth[number], color=color, linewidth=1)
        for variant, place in enumerate(VARIANTS):
            hollow = {"clean": color, "patch": "0.75", "patches": "white"}[place]
            left.plot(
                bits[number, variant],
                depth[number, variant],
                marker,
                color=color,
                markerfacecolor=hollow,
                label=title(name) if variant == 0 else None,
            )
        depths = found.depths(network, name)
        known = [level for level in np.unique(depths[~np.isnan(depths)]) if (depths == level).any(axis=1).all()]
        information = found.array("bits", INFORMATION, name)
        by_depth = [[information[seed][depths[seed] == level].mean() for level in known] for seed in range(len(depths))]
        if known:
            plotting.curves(known, by_depth, ax=right, label=title(name), color=color)
    left.legend(title="filled: clean; gray: patch in one class;\nhollow: patch per class")
    left.set(xlabel="usable information (bits)", ylabel="mean depth")
    right.set(xlabel="depth", ylabel="information of the images (bits)")
    right.set_xticks(np.arange(1, len(built(network, config).positions)))
    plotting.save(figure, path)
