"""The front function: from a network and data to a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, PyTree, Real, Shaped

from gsjax import _check
from gsjax.diagnosis import cautions, examples, figures, paths, stability, trained, verdict
from gsjax.diagnosis.alignment import align
from gsjax.diagnosis.report import Diagnosis
from gsjax.diagnosis.solution import Solution
from gsjax.diagnosis.task import check_group, check_task, check_trained, find_pictures
from gsjax.objectives import Penalty
from gsjax.tangent.calls import ApplyFn

__all__ = ["EXACT", "PATHS", "diagnose"]

PATHS = ("auto", "exact", "operator")

EXACT = 2000  # outputs; up to here the kernel is decomposed, which takes up to a minute on two cores
_DRIFT = 1000  # the most examples of which the movement of the kernel is computed where the kernel is not decomposed


def diagnose(
    apply_fn: ApplyFn,
    params: PyTree,
    x: Real[ArrayLike, "n ..."],
    y: Shaped[ArrayLike, " n"],
    *,
    penalty: Penalty,
    top: int = 10,
    trained_params: PyTree | None = None,
    group: Shaped[ArrayLike, " n"] | None = None,
    inputs: Real[ArrayLike, "n h w"] | Real[ArrayLike, "n h w c"] | None = None,
    shown: int = 6,
    path: str = "auto",
    batch_size: int | None = None,
    max_products: int = 5000,
    seed: int = 0,
) -> Diagnosis:
    """Which features a network learns on data, which starve which, and what not to conclude.

    The network is linearised at `params` (Eqs. 2 and 3 of Pezeshki et al. 2021). Its features are those of the tangent
    kernel and the labels (Eq. 4), and its responses z* and starvation matrix are those of the optimum of the sum over
    examples of the losses of the centred outputs f(theta) - f(params), plus `penalty` (Eqs. 5, 9 and 11, or 17 and 18;
    Definition 2). `docs/diagnosis.md` explains every number, and what it cannot say.

    Up to 2000 outputs (examples times classes) the kernel is decomposed. Above, only its products with vectors are
    used, or the kernel itself as long as it has at most 2^26 entries. Only the `top` features are then computed, but
    the optimum, and starvation among them, are still those of all features. Memory grows with the activations of all
    examples, not with their square. Long steps show their progress, and `notes` tell what was done.

    Args:
        apply_fn: `apply_fn(params, x)` -> `(n,)` for a binary task, or logits `(n, k)` of k > 1 classes; of any
            framework, see docs/frameworks.md.
        params: the parameters to linearise at, mostly those at initialisation.
        x: examples, `(n, ...)`.
        y: labels `(n,)`: -1 and +1 for outputs `(n,)`, class indices from 0 for logits.
        penalty: `Ridge` or `SpectralDecoupling`, in the convention of the library: sums over examples, strength / 2.
        top: the number of strongest features to show; if the kernel has fewer, all of them.
        trained_params: parameters after training from `params`, to compare with the prediction.
        group: whole numbers `(n,)`, an attribute of each example, or a code of label and attribute. Only differences
            between examples of the same label count.
        inputs: pictures `(n, h, w)`, or with 1 or 3 channels, to draw in place of x; x itself if it has such a shape.
        shown: the number of examples shown of each feature and each starving pair.
        path: "exact" decomposes the kernel, "operator" uses products, "auto" chooses by the number of outputs.
        batch_size: as in `tangent.ntk`.
        max_products: the most products with the kernel in each of the three steps of the operator path.
        seed: of the random halves, permutations and subsets.

    Raises:
        ValueError: an argument is invalid; the message names it and says what to write. On the operator path also where
            `max_products` do not suffice for the features.

    >>> import jax.numpy as jnp
    >>> from gsjax import Ridge
    >>> x, y = jnp.diag(jnp.array([3.0, 2.0, 1.0, 0.5])), jnp.array([1, -1, 1, -1])
    >>> report = diagnose(lambda w, x: x @ w, jnp.zeros(4), x, y, penalty=Ridge(0.1), top=3)
    >>> report.strengths.tolist()
    [9.0, 4.0, 1.0]
    """
    task = check_task(apply_fn, params, x, y, penalty)
    top, shown = _check.whole("top", top, least=1), _check.whole("shown", shown, least=1)
    batch_size = None if batch_size is None else _check.whole("batch_size", batch_size, least=1)
    max_products, seed = _check.whole("max_products", max_products, least=1), _check.whole("seed", seed, least=0)
    _check.choice("path", path, PATHS)
    groups = None if group is None else check_group(group, task.n)
    pictures = find_pictures(inputs, task.x)
    outputs = None if trained_params is None else check_trained(task, trained_params)

    if path == "auto":
        path = "exact" if task.rows <= EXACT else "operator"
    if path == "exact":
        found = paths.exact(task, top, batch_size)
    else:
        found = paths.from_products(task, top, batch_size, max_products)
    solution, notes = found.solution, list(found.notes)
    pairs = examples.starving(solution, shown)
    heaviest = examples.heaviest(solution, shown)
    toll = verdict.tolls(solution)

    alignment = judged = None
    if groups is not None:
        y_sign = np.ones(task.n) if task.classes else np.asarray(task.y)
        alignment = align(solution.u * y_sign[:, None, None], np.asarray(task.y), groups, seed)
        judged = verdict.judge(toll, solution.response, alignment)

    compared = None
    if trained_params is not None and outputs is not None:
        rows = np.arange(task.n)
        if path == "operator":
            most = max(1, min(_DRIFT, EXACT // (task.classes or 1)))
            rows = np.sort(np.random.default_rng(seed).permutation(task.n)[:most])
            notes.append(f"the movement of the kernel is that of {len(rows)} random examples")
        moved = trained.movement(task, trained_params, found.kernel(rows), rows, batch_size)
        compared = trained.compare(task, solution, trained_params, outputs, moved)

    steady = stability.stability(task, solution, found.kernel, seed)
    if steady is not None:
        notes.append(f"stability: {steady.halves} random halves of {steady.examples} examples")
    values, counts = np.unique(np.asarray(task.y).astype(int), return_counts=True)
    size = float(np.linalg.norm(solution.margins))
    report = Diagnosis(
        n=task.n,
        classes=task.classes,
        labels=dict(zip(values.tolist(), counts.tolist(), strict=True)),
        rows=task.rows,
        penalty=penalty,
        path=path,
        dtype=str(solution.s.dtype),
        s=solution.s,
        share=found.share,
        rank=solution.rank,
        weakest=found.weakest,
        response=solution.response,
        starvation=solution.starvation,
        starving=_share(solution),
        toll=toll,
        pairs=pairs,
        examples=heaviest,
        decoupling=found.effect,
        alignment=alignment,
        verdict=judged,
        trained=compared,
        stability=steady,
        confidence=float(np.mean(solution.confidence, dtype=np.float64)),
        size=size,
        start=float(np.linalg.norm(task.start)) / size if size > 0 else float("inf"),
        accuracy_start=trained.accuracy(task.start, np.asarray(task.y)),
        status=solution.status,
        notes=tuple(notes),
        weights=solution.u,
        pictures=_kept(pictures, [heaviest.rows, *(pair.rows for pair in figures.illustrated(pairs))]),
    )
    return dataclasses.replace(report, cautions=cautions.find(report))


def _share(solution: Solution) -> float:
    """The share of starving pairs among the ordered pairs of distinct features; NaN if the optimum was not found."""
    r = len(solution.s)
    if np.any(np.isnan(solution.starvation)):
        return float("nan")
    others = ~np.eye(r, dtype=bool)
    return float(np.mean(solution.starvation[others] < 0)) if r > 1 else 0.0


def _kept(pictures: np.ndarray | None, index: Iterable[np.ndarray]) -> dict[int, Any]:
    if pictures is None:
        return {}
    rows = np.unique(np.concatenate([rows.ravel() for rows in index]))
    return {int(row): np.array(pictures[row]) for row in rows}
