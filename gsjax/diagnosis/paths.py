"""The optimum from the whole kernel of a task, or from products with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gsjax import tangent
from gsjax.diagnosis.decoupling import Effect, uniform
from gsjax.diagnosis.solution import Solution, decompose, from_features, oriented
from gsjax.diagnosis.task import Task
from gsjax.objectives import Ridge

__all__ = ["Found", "exact"]


class Found(NamedTuple):
    """What a path has found.

    `solution` is that of the shown features, oriented. `share` are their parts of the sum of all strengths, `weakest`
    is the smallest singular value of the kernel that is not zero; None where they are not known. `effect` is that of
    the other penalty, None where it is not defined. `kernel(rows)` is the kernel of some rows of x. `notes` say what
    was done.
    """

    solution: Solution
    share: Float[np.ndarray, " r"] | None
    weakest: float | None
    effect: Effect | None
    kernel: Callable[[np.ndarray], Array]
    notes: tuple[str, ...]


def exact(task: Task, top: int, batch_size: int | None) -> Found:
    """The optimum from the whole kernel, with all of its features."""
    kernel = tangent.ntk(task.apply_fn, task.params, task.x, batch_size=batch_size)
    feats = decompose(kernel, task.y)
    raw = from_features(feats, task.penalty)
    solution = oriented(raw, top)
    s2 = np.asarray(feats.s, np.float64) ** 2
    r = len(solution.s)
    note = (
        f"exact path: the kernel of {task.rows} outputs was computed and decomposed; all of its {int(feats.rank)} "
        f"features enter the optimum, of which {r} are shown"
    )
    return Found(
        solution,
        s2[:r] / s2.sum(),
        float(feats.s[int(feats.rank) - 1]),
        _effect(task, solution),
        lambda rows: kernel[jnp.ix_(jnp.asarray(rows), jnp.asarray(rows))],
        (note,),
    )


def _effect(task: Task, solution: Solution) -> Effect | None:
    if isinstance(task.penalty, Ridge) and solution.rank == task.rows:
        return uniform(task, solution, assumed=False)
    return None
