"""Whether the feature that starves the others is the one that aligns with the attribute."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gsjax.diagnosis.alignment import Alignment
from gsjax.diagnosis.solution import Solution

__all__ = ["Verdict", "judge", "tolls"]

# The starving feature need not be the best aligned one, since an attribute can be spread over a few features. But the
# best aligned one must not be more than twice as much about the attribute.
_COMPARABLE = 0.5


class Verdict(NamedTuple):
    """An answer in words, and its `code`.

    - "aligned": the feature that starves the others most aligns with the attribute;
    - "other": it does not, but another feature does;
    - "none": no shown feature aligns more than expected by chance;
    - "no starvation": no shown feature starves another;
    - "unknown": the group is a function of the label, or the optimum was not found.

    `starver` is the feature that takes most from the others (the largest of `Diagnosis.toll`), and `aligned` the one
    that aligns best, if it does beyond chance. Both count from 0; None where there is none.
    """

    code: str
    text: str
    starver: int | None
    aligned: int | None


def tolls(solution: Solution) -> Float[np.ndarray, " r"]:
    """What each feature takes from the responses to the others, `sum over j of max(0, -d|z_j*| / d log(s_i^2))`."""
    cost = solution.starvation * solution.s**2
    np.fill_diagonal(cost, 0)
    return np.sum(np.maximum(-cost, 0), axis=0)


def judge(toll: Float[np.ndarray, " r"], response: Float[np.ndarray, " r"], alignment: Alignment) -> Verdict:
    """The verdict for the tolls, responses and alignments of the shown features."""
    found = bool(np.all(np.isfinite(toll)))
    starver = int(np.argmax(toll)) if found and np.any(toll > 0) else None
    if not alignment.known:
        return Verdict("unknown", "Nothing can be told: the group is a function of the label.", starver, None)
    share = alignment.group
    best = int(np.argmax(share))
    chance = f"by chance, more than {alignment.chance:.1%} in one of 20 cases"
    if share[best] <= alignment.chance:
        text = (
            "No shown feature aligns with the attribute more than by chance: the largest share that it explains of a "
            f"feature within labels is {share[best]:.1%} ({chance})."
        )
        return Verdict("none", text, starver, None)
    told = f"The attribute explains {share[best]:.0%} of feature {best + 1} within labels ({chance})"
    if not found:
        return Verdict("unknown", f"{told}, but the optimum was not found.", None, best)
    place = 1 + int(np.sum(response > response[best]))
    reliance = f"The response to feature {best + 1} is number {place} of {len(response)} by size."
    if starver is None:
        return Verdict("no starvation", f"{told}. No shown feature starves another. {reliance}", None, best)
    if share[starver] > alignment.chance and share[starver] >= _COMPARABLE * share[best]:
        own = "" if starver == best else f", and {share[starver]:.0%} of feature {starver + 1}"
        text = f"Yes: feature {starver + 1} takes most from the others. {told}{own}. {reliance}"
        return Verdict("aligned", text, starver, best)
    text = (
        f"No: feature {starver + 1} takes most from the others, and the attribute explains {share[starver]:.0%} of it. "
        f"{told}. {reliance}"
    )
    return Verdict("other", text, starver, best)
