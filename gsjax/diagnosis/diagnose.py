"""The front function: from a network and data to a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Array, PyTree, Real, Shaped

from gsjax import _check
from gsjax.diagnosis import cautions, examples, paths, stability, trained, verdict
from gsjax.diagnosis.alignment import align
from gsjax.diagnosis.report import Diagnosis
from gsjax.diagnosis.solution import Solution
from gsjax.diagnosis.task import check_group, check_task, check_trained, find_pictures
from gsjax.objectives import Penalty
from gsjax.tangent.calls import ApplyFn

__all__ = ["EXACT", "PATHS", "diagnose"]

PATHS = ("auto", "exact", "operator")

EXACT = 2000  # outputs; up to here the kernel is decomposed, which takes up to a minute on two cores
_ILLUSTRATED = 3  # the number of starving pairs whose examples are drawn
_DRIFT = 1000  # the most examples of which the movement of the kernel is computed where the kernel is not decomposed


def diagnose(
    apply_fn: ApplyFn,
    params: PyTree,
    x: Real[Array, "n ..."],
    y: Shaped[Array, " n"],
    *,
    penalty: Penalty,
    top: int = 10,
    trained_params: PyTree | None = None,
    group: Shaped[Array, " n"] | None = None,
    inputs: Real[Array, "n h w"] | Real[Array, "n h w c"] | None = None,
    shown: int = 6,
    path: str = "auto",
    batch_size: int | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Which features a network learns on data, and which starve which."""
    task = check_task(apply_fn, params, x, y, penalty)
    top, shown = _check.whole("top", top, least=1), _check.whole("shown", shown, least=1)
    batch_size = None if batch_size is None else _check.whole("batch_size", batch_size, least=1)
    seed = _check.whole("seed", seed, least=0)
    _check.choice("path", path, PATHS)
    group = None if group is None else check_group(group, task.n)
    pictures = find_pictures(inputs, task.x)
    outputs = None if trained_params is None else check_trained(task, trained_params)

    found = paths.exact(task, top, batch_size)
    solution, notes = found.solution, list(found.notes)
    pairs = examples.starving(solution, shown)
    heaviest = examples.heaviest(solution, shown)
    toll = verdict.tolls(solution)

    alignment = judged = None
    if group is not None:
        y_sign = np.ones(task.n) if task.classes else np.asarray(task.y)
        alignment = align(solution.u * y_sign[:, None, None], np.asarray(task.y), group, seed)
        judged = verdict.judge(toll, alignment)

    compared = None
    if trained_params is not None and outputs is not None:
        rows = np.arange(task.n)
        if task.rows > EXACT:
            most = max(1, min(_DRIFT, EXACT // (task.classes or 1)))
            rows = np.sort(np.random.default_rng(seed).permutation(task.n)[:most])
            notes.append(f"the movement of the kernel is that of {len(rows)} random examples")
        moved = trained.movement(task, trained_params, found.kernel(rows), rows, batch_size)
        compared = trained.compare(task, solution, trained_params, outputs, moved)

    steady = stability.stability(task, solution, found.kernel, seed)
    if steady is not None:
        notes.append(f"stability: {steady.halves} random halves of {steady.examples} examples")
    values, counts = np.unique(np.asarray(task.y).astype(int), return_counts=True)
    change = np.linalg.norm(solution.margins)
    report = Diagnosis(
        n=task.n,
        classes=task.classes,
        labels=dict(zip(values.tolist(), counts.tolist(), strict=True)),
        rows=task.rows,
        penalty=penalty,
        path="exact",
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
        accuracy_start=trained.accuracy(task.start, np.asarray(task.y)),
        start=float(np.linalg.norm(task.start) / change) if change > 0 else float("inf"),
        status=solution.status,
        notes=tuple(notes),
        weights=solution.u,
        pictures=_kept(pictures, [heaviest.index, *(pair.index for pair in pairs[:_ILLUSTRATED])]),
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
