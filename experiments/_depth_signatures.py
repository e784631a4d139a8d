"""The signatures of the experiment `prediction_depth`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from experiments import _ranks, _rows
from experiments._depth_figures import points
from experiments._depth_networks import LABELS
from experiments._depth_rows import (
    INFORMATION,
    ORDER,
    Found,
    at_first,
    correlations,
    invalid,
    mean_depth,
    of_class,
    shared,
)
from experiments._depth_tasks import CONTROLS, PATCHED, title


def judge(found: Found) -> list[dict[str, Any]]:
    """The signatures; means over data sets are of the same seed, and differences are paired by seed."""
    config, signatures = found.config, []
    first, over = config.networks[0], found.over_data

    def sign(name: str, larger: np.ndarray, smaller: np.ndarray, *, why: str, evidence: str = "") -> None:
        """States that the mean of `larger` is above that of `smaller`; `evidence` ends the reason if it is not."""
        values, reason = larger - smaller, f"{np.mean(larger):.3g} and {np.mean(smaller):.3g}{evidence}"
        if np.isfinite(values).all():
            signatures.append(_rows.signature(name, values, above=0, why=why, reason=reason))
        else:
            signatures.append(_rows.stated(name, None, 1.0, why=why, reason="a network has no valid example"))

    for network in config.networks:
        label, same = LABELS[network], "no difference"

        def depths(name: str, variant: str = "clean", epoch: int = -1, network: str = network) -> np.ndarray:
            return found.depths(network, name, variant, epoch=epoch)

        clean, marked = (over(lambda name, v=variant: mean_depth(depths(name, v))) for variant in ("clean", "patches"))
        sign(f"{label}: mean depth, clean minus patch per class", clean, marked, why=same)
        clean, marked = (over(lambda name, v=variant: at_first(depths(name, v))) for variant in ("clean", "patches"))
        sign(f"{label}: share decided at the first stage, patch per class minus clean", marked, clean, why=same)
        both = [over(lambda name, t=time, n=network: mean_depth(shared(found, n, name)[t])) for time in (0, 1)]
        when = f"epoch {config.epochs[0]} minus epoch {config.epochs[-1]}"
        (first_early, last_early), (first_late, last_late) = np.mean(
            [found.array("votes", network, name)[:, [0, -1]][..., [1, -1]].mean(axis=0) for name in config.data], axis=0
        )
        evidence = (
            f"; votes of the first and of the last stage are right for {first_early:.0%} and {last_early:.0%} early, "
            f"and for {first_late:.0%} and {last_late:.0%} at the end"
        )
        name = f"{label}: mean depth of the images valid at both, {when}"
        sign(name, *both, why=same, evidence=evidence)
        early, late = (over(lambda name, e=epoch: invalid(depths(name, epoch=e))) for epoch in (0, -1))
        sign(f"{label}: share of invalid images, {when}", early, late, why=same)
        for lower, higher in itertools.pairwise(name for name in ORDER if name in config.data):
            means = [mean_depth(depths(name)) for name in (higher, lower)]
            right = [found.array("votes", network, name)[:, -1, 0].mean() for name in (higher, lower)]
            evidence = f"; votes of the raw input are right for {right[0]:.0%} and {right[1]:.0%}"
            name = f"{label}: mean depth, {title(higher)} minus {title(lower)}"
            sign(name, *means, why="the published order of VGG-16", evidence=evidence)

    label = LABELS[first]
    clean, marked = (
        over(lambda name, v=variant: mean_depth(of_class(found.depths(first, name, v), PATCHED)))
        for variant in ("clean", "patch")
    )
    name = f"{label}: mean depth of the class with the only patch, clean minus patch"
    sign(name, clean, marked, why="no difference")
    clean, marked, random, shuffled = (
        found.depths(first, config.control, variant) for variant in ("clean", "patches", *CONTROLS)
    )
    half = (mean_depth(clean) - mean_depth(marked)) / 2
    name = f"{label}: control, half of what patches per class lower the depth by, minus what a random patch does"
    sign(name, half, mean_depth(clean) - mean_depth(random), why="a patch that reveals nothing has no such effect")
    name = f"{label}: control, share of invalid images, shuffled labels minus clean"
    sign(name, invalid(shuffled), invalid(clean), why="no difference")
    return signatures + judge_information(found)


def judge_information(found: Found) -> list[dict[str, Any]]:
    """Whether depth and information of the first network are inversely ordered, over images and over data sets."""
    network, signatures = found.config.networks[0], []
    label = LABELS[network]

    def mean_correlation(source: str, permuted: int = 0) -> np.ndarray:
        return found.over_data(
            lambda name: correlations(found.depths(network, name), found.array("bits", source, name), permuted=permuted)
        )

    own, other = mean_correlation(network), mean_correlation(INFORMATION)
    judged = {
        "the network": (own, "no correlation"),
        "one hidden layer": (other, "no correlation"),
        "one hidden layer, minus that with other images of the class": (
            other - mean_correlation(INFORMATION, permuted=20),
            "no correlation within classes",
        ),
    }
    for family, (values, why) in judged.items():
        name = f"{label}: rank correlation over clean images of depth and information of {family}"
        if np.isfinite(values).all():
            shown = f"the mean is {values.mean():.3f}"
            signatures.append(_rows.signature(name, values, below=0, why=why, reason=shown))
        else:
            signatures.append(_rows.stated(name, None, 1.0, why=why, reason="a network has too few valid images"))
    depth, bits = points(found, network)
    if len(depth) > 3 and np.isfinite([depth, bits]).all():
        interval, p = _ranks.correlation(depth, bits), _ranks.p_value(depth, -bits)
        name = f"{label}: rank correlation over data sets and variants of mean depth and usable information"
        why, reason = "below 0 (random pairing)", f"{len(depth)} pairs of means"
        signatures.append(_rows.stated(name, interval, p, why=why, reason=reason))
    return signatures
