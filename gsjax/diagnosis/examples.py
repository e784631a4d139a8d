"""The examples behind a feature, and those through which one feature starves another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gsjax.diagnosis.solution import Solution, terms

__all__ = ["Examples", "Pair", "heaviest", "starving"]


class Examples(NamedTuple):
    """The examples that weigh most in each feature, heaviest first.

    `rows (r, e)` are rows of x, and `weight (r, e)` the weights u_ki. A feature with a positive response raises the
    margins of examples of positive weight, and lowers those of examples of negative weight. For several classes the
    size of a weight is the norm over the classes, and its sign that of `(e_y - p) u_ki`.
    """

    rows: Int[np.ndarray, "r e"]
    weight: Float[np.ndarray, "r e"]


class Pair(NamedTuple):
    """Feature `starver` (i) starves feature `starved` (j); both count from 0.

    - `sensitivity`: the entry [j, i] of the oriented starvation matrix, `d|z_j*| / d(s_i^2)`.
    - `elasticity`: `d log|z_j*| / d log(s_i^2)`: the relative change of the response per relative change of strength.
    - `cost`: `d|z_j*| / d log(s_i^2)`, the same in units of the response.
    - `rows (e,)`: the examples k with the largest terms `u_ki u_kj D_k` of C_ij, `term (e,)` the terms, and `share
      (e,)` their parts of the sum of all `|term|`. To first order i starves j where the sum of the terms is positive.
    """

    starver: int
    starved: int
    sensitivity: float
    elasticity: float
    cost: float
    rows: Int[np.ndarray, " e"]
    term: Float[np.ndarray, " e"]
    share: Float[np.ndarray, " e"]


def heaviest(solution: Solution, count: int) -> Examples:
    """The `count` examples that weigh most in each feature."""
    size = np.linalg.norm(solution.u, axis=1)
    sign = np.where(np.einsum("nc,ncr->nr", solution.pull, solution.u) < 0, -1, 1)
    index = np.argsort(-size, axis=0, kind="stable")[:count]
    weight = np.take_along_axis(sign * size, index, axis=0)
    return Examples(index.T, weight.T)


def starving(solution: Solution, count: int) -> tuple[Pair, ...]:
    """All pairs of distinct features of which the first starves the second, the largest elasticity first."""
    found = []
    slopes, strengths = solution.starvation, solution.s**2
    for j, i in np.argwhere(slopes < 0):
        if i == j:
            continue
        cost = float(slopes[j, i] * strengths[i])
        response = float(solution.response[j])
        elasticity = cost / response if response > 0 else -np.inf
        term = terms(solution, int(i), int(j))
        index = np.argsort(-np.abs(term), kind="stable")[:count]
        total = np.sum(np.abs(term))
        share = np.abs(term[index]) / total if total > 0 else np.zeros(len(index))
        found.append(Pair(int(i), int(j), float(slopes[j, i]), elasticity, cost, index, term[index], share))
    return tuple(sorted(found, key=lambda pair: pair.elasticity))
