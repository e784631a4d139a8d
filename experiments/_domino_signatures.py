"""The signatures of the experiment `dominoes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments import _rows
from experiments._domino_measures import spearman
from experiments._domino_rows import DATA, Quantity, Rows, Warned, accuracy, bits, field, first_mass, mean_depth, values

NEAR_CHANCE, HIGH = 0.6, 0.8  # core-only accuracies of harmful and of benign dominoes


def signatures(paired: Mapping[str, Rows], warned: Mapping[str, Warned], *, epoch: int) -> list[dict[str, Any]]:
    """The signatures that the arms in `paired` allow."""
    found: list[dict[str, Any]] = []

    def judge(name: str, each: Float[np.ndarray, " networks"], why: str, evidence: str, **bounds: float) -> None:
        defined = each[np.isfinite(each)]
        if len(defined) > 1:
            left = "" if len(defined) == len(each) else f"; {len(defined)} of {len(each)} networks have a value"
            found.append(_rows.signature(name, defined, why=why, reason=evidence + left, **bounds))
        else:
            found.append(_rows.stated(name, None, 1.0, why=why, reason=f"{evidence}; fewer than two have a value"))

    def shown(quantity: Quantity, *arms: str) -> str:
        return ", ".join(f"{_mean(values(paired[arm], quantity))} ({arm})" for arm in arms if arm in paired)

    for variant, how in (("random", "randomised"), ("core only", "blanked")):
        for pair, bound, what in (
            ("harmful", {"below": NEAR_CHANCE}, "near chance"),
            ("benign", {"above": HIGH}, "high"),
        ):
            if pair in paired:
                judge(
                    f"{pair}: core-only accuracy, spurious half {how}, is {what}",
                    values(paired[pair], accuracy(variant)),
                    "0.5 is chance",
                    shown(accuracy(variant), pair, f"{pair} clean", f"{pair} alone"),
                    **bound,
                )
    if {"harmful", "harmful clean"} <= paired.keys():
        for name, quantity, bound in (
            ("mean depth", mean_depth, {"below": 0.0}),
            ("share of depth 1", first_mass, {"above": 0.0}),
            ("information, linear", bits("linear"), {"above": 0.0}),
            ("information, mean over stages", bits("stages"), {"above": 0.0}),
        ):
            difference = values(paired["harmful"], quantity) - values(paired["harmful clean"], quantity)
            why, evidence = "no difference; networks are paired", shown(quantity, "harmful", "harmful clean")
            judge(f"{name}, harmful minus clean", difference, why, evidence, **bound)
    if "harmful clean" in paired:
        clean = paired["harmful clean"]
        evidence = shown(field("ranks", "network"), *DATA)
        for name, key, why, bound in (
            ("depth and information of an image, rank correlation", "network", "no order", {"below": 0.0}),
            (
                "the same with permuted information, a control",
                "permuted",
                "no order, up to 0.1",
                {"above": -0.1, "below": 0.1},
            ),
        ):
            judge(f"harmful, clean: {name}", values(clean, field("ranks", key)), why, evidence, **bound)
    if DATA.keys() <= paired.keys():
        evidence = f"mean depths {shown(mean_depth, *DATA)}; bits {shown(bits('linear'), *DATA)}"
        judge("depth and linear information over the six data sets", over_data(paired), "no order", evidence, below=0)
    for pair, bound in (("harmful", {"above": 0.0}), ("benign", {"below": 0.0})):
        if pair in paired:
            excess = values(paired[pair], field("saliency")) - values(paired[pair], field("area"))
            evidence = shown(field("saliency"), pair, f"{pair} clean")
            judge(f"{pair}: saliency on the spurious half minus its area", excess, "even saliency", evidence, **bound)
    if "harmful" in warned:
        each = warned["harmful"]
        last = paired["harmful"][0]["course"]["steps"][-1] / epoch
        never = [np.minimum(epochs, last + 1) for epochs in (each.random, each.monitor)]
        late = f"epochs {_listed(each.monitor)} (monitor) and {_listed(each.random)} (accuracy)"
        judge(
            "harmful: epochs from the warning to accuracy with a random spurious half",
            never[0] - never[1],
            "the same epoch; never counts as one epoch after the end",
            late,
            above=0,
        )
    return found


def over_data(paired: Mapping[str, Rows]) -> Float[np.ndarray, " networks"]:
    """For every seed, the rank correlation of mean depth with linear information over the data sets."""
    depth, information = (
        np.array([values(paired[name], quantity) for name in DATA]) for quantity in (mean_depth, bits("linear"))
    )
    return np.array([spearman(*pair) for pair in zip(depth.T, information.T, strict=True)])


def _mean(each: Float[np.ndarray, " networks"]) -> str:
    defined = each[np.isfinite(each)]
    return f"{defined.mean():.3f}" if len(defined) else "no value"


def _listed(epochs: Float[np.ndarray, " networks"]) -> str:
    return " ".join("never" if np.isinf(value) else f"{value:.2g}" for value in epochs)
