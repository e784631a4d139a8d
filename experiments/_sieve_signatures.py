"""The signatures of the experiment `feature_sieve`."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from experiments import _rows
from experiments._sieve_rows import (
    ARMS,
    KINDS,
    Arms,
    Quantity,
    Rows,
    at,
    best,
    early,
    field,
    iid,
    probe,
    randomised,
    reversed_,
    values,
    worst_group,
    worst_group_with_offset,
)
from gsjax.statistics import Interval

NEAR = 0.03  # what a probe for the complex feature may lose


def checks(setting: str, rows: Rows) -> list[dict[str, Any]]:
    """The two exact statements, which hold if they hold for every network."""
    if not rows:
        return []

    def exact(name: str, right: list[bool], reason: str) -> dict[str, Any]:
        share = np.asarray(np.mean(right))
        p = 0.0 if all(right) else 1.0
        return _rows.stated(f"{setting}: {name}", Interval(share, share, share), p, why="exact", reason=reason)

    touched = [(row["upto"], row["after"]) for row in rows]
    return [
        exact(
            "share of networks whose updates a forgetting rate of 0 leaves those of ERM, bit for bit",
            [row["identical"] for row in rows],
            "the updates differ",
        ),
        exact(
            "share of networks in which forgetting changes all parameters up to its stage and no others",
            [each == (1, 0) for each in touched],
            f"shares of arrays that change, up to the stage and after it: {sorted(set(touched))}",
        ),
    ]


def signatures(setting: str, arms: Arms) -> list[dict[str, Any]]:
    """The signatures that the arms of a setting allow; networks are paired by their images."""
    found: list[dict[str, Any]] = []

    def judge(title: str, each: Float[np.ndarray, " networks"], why: str, evidence: str, **bounds: float) -> None:
        if np.isfinite(each).all():
            found.append(_rows.signature(f"{setting}: {title}", each, why=why, reason=evidence, **bounds))

    def gap(one: str, other: str, quantity: Quantity) -> Float[np.ndarray, " networks"]:
        return values(arms[one], quantity) - values(arms[other], quantity)

    def told(quantity: Quantity, *names: str) -> str:
        return ", ".join(f"{values(arms[name], quantity).mean():.3f} ({ARMS[name]})" for name in names if name in arms)

    same = "no difference, in pairs of networks"
    if {"sieve", "erm"} <= arms.keys():
        stage = arms["sieve"][0]["stage"]
        for kind in ("linear", "readout"):
            text = KINDS[kind]
            for feature, bounds, why in (
                ("simple", {"below": 0.0}, same),
                ("complex", {"above": -NEAR}, "three points, a tolerance"),
            ):
                quantity = at(kind, feature, stage)
                evidence = told(quantity, "initial", "erm", "sieve", "random readout")
                title = f"{feature} feature, fresh {text} at the stage, sieve minus ERM"
                judge(title, gap("sieve", "erm", quantity), why, evidence, **bounds)
        for quantity, text in ((randomised, "randomised"), (reversed_, "reversed")):
            evidence = told(quantity, "erm", "sieve", "random readout", "decay")
            judge(f"simple feature {text}, sieve minus ERM", gap("sieve", "erm", quantity), same, evidence, above=0)
        judge("iid, sieve minus ERM", gap("sieve", "erm", iid), same, told(iid, "erm", "sieve"), below=0)
        for quantity, text in ((worst_group_with_offset, "offset"), (early, "early stopping")):
            each = values(arms["sieve"], worst_group) - values(arms["erm"], quantity)
            evidence = f"{told(worst_group, 'erm', 'sieve')}; {told(quantity, 'erm', 'sieve')} with {text}"
            judge(f"worst group, sieve minus (ERM + {text})", each, same, evidence, above=0)
        core = field("looks", "cam")
        judge("Grad-CAM on the core half, sieve minus ERM", gap("sieve", "erm", core), same, told(core, *arms), above=0)
    if {"sieve", "decay"} <= arms.keys():
        evidence = told(worst_group, "erm", "sieve", "decay")
        title = "worst group, sieve minus weight decay of lower layers"
        judge(title, gap("sieve", "decay", worst_group), same, evidence, above=0)
    if {"sieve", "random readout", "erm"} <= arms.keys():
        evidence = told(reversed_, "erm", "sieve", "random readout")
        title = "simple feature reversed, sieve minus random readout, a control"
        judge(title, gap("sieve", "random readout", reversed_), same, evidence, above=0)
    if {"sieve", "erm", "sieve clean", "erm clean"} <= arms.keys():
        each = gap("sieve", "erm", randomised) - gap("sieve clean", "erm clean", randomised)
        evidence = told(randomised, "erm", "sieve", "erm clean", "sieve clean")
        title = "simple feature randomised, gain of the sieve minus that on clean data, a control"
        judge(title, each, "the same gain, in pairs of networks", evidence, above=0)
    return found


def sweep(setting: str, found: Arms) -> list[dict[str, Any]]:
    """Whether forgetting that is too strong, or too deep, hurts the complex feature at the last stage."""
    forgetting = [rows for name, rows in found.items() if rows[0]["stage"] and not name.startswith("decay")]
    plain = next((rows for rows in found.values() if not rows[0]["stage"]), None)
    if not forgetting or plain is None:
        return []
    quantity, own = probe("linear", "complex", -1), found[best(found, "worst", forgetting=True)][0]
    stages = own_stages(forgetting)
    judged: list[dict[str, Any]] = []

    def compare(title: str, rows: Rows) -> None:
        each, before = values(rows, quantity), values(plain, quantity)
        if np.isfinite(each - before).all():
            reason = f"{before.mean():.3f} (no forgetting), {each.mean():.3f} ({rows[0]['setup']})"
            name = f"{setting}: complex feature at the last stage, {title}, minus no forgetting"
            judged.append(_rows.signature(name, each - before, below=0, why="no difference", reason=reason))

    def strongest(stage: str) -> Rows:
        here = [
            rows for rows in forgetting if rows[0]["stage"] == stage and rows[0]["every"] == forgetting[0][0]["every"]
        ]
        return max(here, key=lambda rows: rows[0]["rate"])

    compare("the strongest at the first stage", strongest(stages[0]))
    if len(stages) > 1:
        compare("the strongest at the last stage", strongest(stages[-1]))
        deep = [
            rows
            for rows in forgetting
            if rows[0]["stage"] == stages[-1] and (rows[0]["rate"], rows[0]["every"]) == (own["rate"], own["every"])
        ]
        if deep and deep[0] is not strongest(stages[-1]) and own["stage"] != stages[-1]:
            compare("the selected rate at the last stage", deep[0])
    return judged


def own_stages(forgetting: list[Rows]) -> list[str]:
    """The stages of the search, in order of depth."""
    order: list[str] = forgetting[0][0]["probes"]["stages"]
    return [stage for stage in order if any(rows[0]["stage"] == stage for rows in forgetting)]
