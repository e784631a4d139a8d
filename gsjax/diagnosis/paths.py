"""The optimum from the whole kernel of a task, or from products with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from gsjax import _check, dual, features, multiclass, starvation, tangent
from gsjax.diagnosis.decoupling import Effect, effect, uniform
from gsjax.diagnosis.solution import Solution, compiled, match_shape, oriented
from gsjax.diagnosis.task import Task
from gsjax.objectives import Ridge

__all__ = ["Found", "exact", "from_products"]


class Found(NamedTuple):
    """What a path has found.

    `solution` is that of the shown features, oriented. `share` are their parts of the sum of all strengths, `weakest`
    is the smallest singular value of the kernel that is not zero; None where they are not known. `effect` is that of
    the other penalty, None where it was not computed. `kernel(rows)` is the kernel of some rows of x. `notes` say what
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
    _check.require(jnp.all(jnp.isfinite(kernel)), "apply_fn", "finite derivatives", "a kernel with NaN or infinity")
    raw = compiled()(kernel, task.y, task.penalty)
    _check.require(raw.rank > 0, "apply_fn", "outputs that depend on params", "a kernel of zeros")
    solution = oriented(raw, top)
    s2 = np.asarray(raw.s, np.float64) ** 2
    r, rank = len(solution.s), int(raw.rank)
    note = (
        f"exact path: the kernel of {task.rows} outputs was computed and decomposed; all of its {rank} features enter "
        f"the optimum, of which {r} are shown"
    )
    return Found(
        solution,
        s2[:r] / s2.sum(),
        float(raw.s[rank - 1]),
        _effect(task, raw, solution),
        lambda rows: kernel[jnp.ix_(jnp.asarray(rows), jnp.asarray(rows))],
        (note,),
    )


def from_products(task: Task, top: int, batch_size: int | None, max_products: int) -> Found:
    """The optimum of the full kernel from products with vectors; only the `top` strongest features are computed."""
    kernel = features.held(tangent.ntk_operator(task.apply_fn, task.params, task.x))
    held = isinstance(kernel, lx.MatrixLinearOperator)
    top = min(top, task.rows)
    if task.classes:
        feats = multiclass.from_operator(kernel, task.y, top=top, max_products=max_products)
        found = multiclass.equilibrium_from_operator(
            kernel, task.y, task.penalty, feats=feats, max_products=max_products
        )
        slopes = multiclass.starvation_from_operator(
            kernel, task.y, task.penalty, feats=feats, equilibrium=found, oriented=False, max_products=max_products
        )
        labels, margins = task.y, found.logits
    else:
        feats = features.from_operator(kernel, task.y, top=top, max_products=max_products)
        found = dual.equilibrium_from_operator(kernel, task.y, task.penalty, feats=feats, max_products=max_products)
        slopes = starvation.matrix_from_operator(
            kernel, task.y, task.penalty, feats=feats, equilibrium=found, oriented=False, max_products=max_products
        )
        labels, margins = None, found.margins[:, None]
    u = feats.u.reshape(task.n, task.classes or 1, -1)
    pull, curved, confidence = match_shape(u, margins, labels)
    status = (found.converged & slopes.converged, found.residual, found.iterations)
    # The rank is known only if the kernel has fewer features than were asked for.
    rank = feats.rank if feats.rank < top else None
    solution = oriented(
        Solution(u, feats.s, found.response, slopes.matrix, margins, pull, curved, confidence, rank, status), top
    )
    way = "a matrix that was held" if held else "products with vectors, without the kernel"
    ridge = isinstance(task.penalty, Ridge)
    notes = [
        f"operator path: {task.rows} outputs, by {way}; {len(solution.s)} features by Lanczos' algorithm",
        f"the optimum is that of the full kernel ({found.products} products), as are the entries of the starvation "
        f"matrix of the shown features ({slopes.products} products)"
        if ridge
        else "the optimum assumes full row rank, where each example has its own equation (Eq. 18)",
    ]
    if not ridge:
        notes.append("the ridge of equal confidence was not computed; path='exact' does")

    def part(rows: np.ndarray) -> Array:
        if not held:
            return tangent.ntk(task.apply_fn, task.params, task.x[rows], batch_size=batch_size)
        assert isinstance(kernel, lx.MatrixLinearOperator)
        k = task.classes or 1
        flat = (rows[:, None] * k + np.arange(k)).ravel()
        matrix = kernel.matrix[jnp.ix_(flat, flat)]
        return matrix.reshape(len(rows), k, len(rows), k).transpose(0, 2, 1, 3) if task.classes else matrix

    return Found(solution, None, None, uniform(task, solution, assumed=True) if ridge else None, part, tuple(notes))


def _effect(task: Task, raw: Solution, solution: Solution) -> Effect:
    """The effect of the other penalty; `raw` has all features, with signs as computed."""
    rank, r = int(raw.rank), len(solution.s)
    if isinstance(task.penalty, Ridge) and rank == task.rows:
        return uniform(task, solution, assumed=False)
    u, s = raw.u.reshape(task.rows, -1)[:, :rank], raw.s[:rank]  # in the precision of the parameters
    if task.classes:
        feats = multiclass.Features(u, s, None, task.y, rank)
        matched = multiclass.match(feats, task.penalty)
        response = multiclass.equilibrium(feats, matched.penalty).response
    else:
        feats = features.Features(u, s, None, task.y.astype(u.dtype), rank)
        matched = dual.match(feats, task.penalty)
        response = dual.equilibrium(feats, matched.penalty).response
    sign = np.where(np.asarray(raw.response[:r]) < 0, -1, 1)
    kind = "spectral decoupling" if isinstance(task.penalty, Ridge) else "ridge"
    return effect(
        kind,
        float(matched.penalty.strength),
        np.asarray(response[:r]) * sign,
        solution,
        float(matched.confidence),
        bool(matched.converged) and solution.status.converged,
        assumed=False,
    )
