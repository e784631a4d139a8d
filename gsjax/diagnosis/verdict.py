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
    """An answer in words, and its `code`:

    - "aligned": the feature that starves the others most aligns with the attribute;
    - "other": it does not, but another feature does;
    - "none": no shown feature aligns more than expected by chance;
    - "no starvation": no shown feature starves another;
    - "unknown": the group is a function of the label, or the optimum was not found.

    `starver` is the feature that starves the others most, and `aligned` the one that aligns best if any does beyond
    chance. Both count from 0; None where there is none.
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


def judge(toll: Float[np.ndarray, " r"], alignment: Alignment) -> Verdict:
    """The verdict for the tolls and alignments of the shown features."""
    starver = int(np.argmax(toll)) if np.all(np.isfinite(toll)) and np.any(toll > 0) else None
    if not alignment.known:
        return Verdict("unknown", "Nothing can be told: the group is a function of the label.", starver, None)
    best = int(np.argmax(alignment.group))
    aligned = best if alignment.group[best] > alignment.chance else None
    beyond = f"a larger share than {alignment.chance:.1%} is expected by chance in one of 20 cases"
    if aligned is None:
        text = (
            "No shown feature aligns with the attribute more than by chance: the largest share of variance within "
            f"labels that it explains is {alignment.group[best]:.1%}, and {beyond}."
        )
        return Verdict("none", text, starver, None)
    told = f"the attribute explains {alignment.group[aligned]:.0%} of feature {aligned + 1} within labels ({beyond})"
    if not np.all(np.isfinite(toll)):
        return Verdict("unknown", f"{_capital(told)}, but the optimum was not found.", None, aligned)
    if starver is None:
        return Verdict("no starvation", f"{_capital(told)}, but no shown feature starves another.", None, aligned)
    own = alignment.group[starver]
    if own > alignment.chance and own >= _COMPARABLE * alignment.group[aligned]:
        text = (
            f"Yes: feature {starver + 1}, which takes most from the others, is one of the attribute, which explains "
            f"{own:.0%} of it within labels ({beyond})."
        )
        return Verdict("aligned", text, starver, aligned)
    text = (
        f"No: {told}, but feature {starver + 1} takes most from the others, and the attribute explains {own:.0%} of it."
    )
    return Verdict("other", text, starver, aligned)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
