"""What the other kind of penalty would do to each feature, at equal total confidence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gsjax.diagnosis.solution import Solution
from gsjax.diagnosis.task import Task

__all__ = ["Effect", "effect", "uniform", "uniform_margins"]


class Effect(NamedTuple):
    """The responses under a penalty of the other kind that leaves the same total confidence.

    - `kind`: "spectral decoupling" or "ridge"; `strength`: its lambda.
    - `response (r,)`, with the signs of the features as under the given penalty; `ratio (r,)`: to the response there,
      NaN where that is zero.
    - `confidence`: the mean probability of the right label under it; `converged`: whether both its strength and its
      optimum were found; `assumed`: whether full row rank was assumed.
    """

    kind: str
    strength: float
    response: Float[np.ndarray, " r"]
    ratio: Float[np.ndarray, " r"]
    confidence: float
    converged: bool
    assumed: bool


def uniform(task: Task, solution: Solution, *, assumed: bool) -> Effect:
    """The effect of spectral decoupling at full row rank, `assumed` or known, where each example has its own margin."""
    confidence = float(np.mean(solution.confidence, dtype=np.float64))
    strength, margins = uniform_margins(confidence, np.asarray(task.y), task.classes)
    response = np.einsum("ncr,nc->r", solution.u, margins)
    converged = solution.status.converged and bool(np.isfinite(strength))
    return effect("spectral decoupling", strength, response, solution, confidence, converged, assumed=assumed)


def effect(
    kind: str,
    strength: float,
    response: np.ndarray,
    solution: Solution,
    confidence: float,
    converged: bool,
    *,
    assumed: bool,
) -> Effect:
    """An `Effect` with the ratios of `response` to that of `solution`."""
    before = solution.response
    ratio = np.where(before != 0, response / np.where(before != 0, before, 1), np.nan)
    return Effect(kind, strength, response, ratio, confidence, converged, assumed)


def uniform_margins(confidence: float, y: np.ndarray, classes: int | None) -> tuple[float, Float[np.ndarray, "n c"]]:
    """The strength of spectral decoupling at which every example has this confidence c, and `margins (n, c)` there.

    At full row rank each example has an equation of its own. For a binary task it is `lambda m = sigma(-m)` (Eq. 18)
    with `m = log(c / (1 - c))`. For k classes it is `lambda f = e_y - p`, so that `f_y = g` and `f_j = -g / (k - 1)`
    for the others, with `g k / (k - 1) = log((k - 1) c / (1 - c))` and `lambda = (1 - c) / g`. Both strengths are NaN
    where the confidence is not above chance, which no strength leaves.
    """
    k = classes or 2
    if not 1 / k < confidence < 1:
        return float("nan"), np.full((len(y), classes or 1), np.nan)
    logit = float(np.log((k - 1) * confidence / (1 - confidence)))
    if classes is None:
        return (1 - confidence) / logit, np.full((len(y), 1), logit)
    g = logit * (k - 1) / k
    margins = np.full((len(y), k), -g / (k - 1))
    margins[np.arange(len(y)), y] = g
    return (1 - confidence) / g, margins
