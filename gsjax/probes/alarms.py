"""Early warning: runs whose early checkpoints look unlike those of clean runs, and the rate of false alarms.

The warning compares a run with a *reference*: runs of the same network and training, recorded by `monitor` at the same
steps, on data that are known to be clean, e.g. because the suspected region was blanked or shuffled over the classes.
Its rate of false alarms is nominal, for normal numbers; `false_alarms` measures it. It is a diagnostic: examples with
small depths have to be looked at, e.g. with `gradcam`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from gsjax import _check
from gsjax.probes._courses import Course, course_depths, early_counts

__all__ = ["FalseAlarms", "Warnings", "false_alarms", "warn"]


class Warnings(NamedTuple):
    """Warnings of runs `(*runs, T)`.

    `warned (*runs,)` tells whether there was a warning, and `step (*runs,)` is the first recorded step with one, or -1.
    `exceeds (*runs, T)` tells at which steps a threshold was exceeded. `threshold (T,)` are those of the early mass, a
    share, and `information_threshold (T,)` those of the mean information in bits, or None. `rate` is the nominal rate
    of false alarms per run, over all steps. `measured (*runs,)` is False if a run had a step without valid examples,
    with probes that have not converged, or with information that is not finite; such a step gives no warning.
    """

    warned: Bool[np.ndarray, "*runs"]
    step: Int[np.ndarray, "*runs"]
    exceeds: Bool[np.ndarray, "*runs T"]
    threshold: Float[np.ndarray, " T"]
    information_threshold: Float[np.ndarray, " T"] | None
    rate: float
    measured: Bool[np.ndarray, "*runs"]


class FalseAlarms(NamedTuple):
    """The measured share of clean runs with a warning, its Clopper-Pearson interval, and what it was to be.

    `rate` is `alarms / runs`, in [`low`, `high`], and `nominal` the rate for which the thresholds were set.
    """

    rate: float
    low: float
    high: float
    alarms: int
    runs: int
    nominal: float


def warn(
    reference: Course,
    watched: Course,
    steps: Sequence[int] | Int[np.ndarray, " T"],
    *,
    rate: float = 0.05,
    first: int = 1,
    information: bool = False,
) -> Warnings:
    r"""Warns of runs whose early mass lies above what clean runs show, at any of the recorded steps.

    At each step the threshold is the upper end of the one-sided prediction interval of Student's t for a further run,

    .. math::

        \text{mean} + t_{n-1, \, 1 - \text{rate}/c} \; s \sqrt{1 + 1/n},

    from the mean and the standard deviation s of the n runs of the reference. There are c comparisons: T steps, or 2 T
    with `information`. By Bonferroni's inequality the rate of false alarms over all of them is at most `rate` if the
    numbers of each step are normal. Shares are compared on the scale of log-odds, log((k + 1/2) / (v - k + 1/2)) for k
    early examples among v valid ones. There s is at least the binomial error sqrt(1/(k + 1/2) + 1/(v - k + 1/2)), since
    a reference whose runs all agree would otherwise warn of every other run. Shares that are spread over orders of
    magnitude are not normal on this scale either, so measure the rate by `false_alarms`.

    The reference needs enough runs that the threshold is at most twice as far above the mean as with known mean and
    standard deviation: 5 for a rate of 0.05 and up to 11 comparisons.

    Args:
        reference: courses of clean data `(n, T, ...)`, one row per run.
        watched: courses to judge `(..., T, ...)`, e.g. one row per seed; a run alone is `(T, ...)`.
        steps: the recorded steps, `(T,)`, those of both.
        rate: the nominal rate of false alarms per run, in (0, 0.5).
        first: the largest depth that counts as early.
        information: whether to warn as well if the mean information per example is above its threshold.

    Raises:
        ValueError: arguments that are not courses of the same layers, or have other steps; steps that do not increase;
            a reference with too few runs, or with a step that is not `measured`; `rate` out of range; `first` that is
            not a whole number of at least 0.

    >>> def runs(share, seeds):
    ...     depth = np.where(np.random.default_rng(seeds).random((seeds, 3, 200)) < share, 1.0, 2.0)
    ...     return Course(depth, 0 * depth, depth > 0, None, ("h1", "h2"))
    >>> found = warn(runs(0.5, 6), runs(0.9, 2), [10, 20, 30])
    >>> found.step.tolist(), bool((found.threshold < 0.8).all())
    ([10, 10], True)
    """
    _check.number("rate", rate, "(0, 0.5)")
    first = _check.whole("first", first, least=0)
    information = _check.flag("information", information)
    steps = np.array(_check.wholes("steps", steps, least=0))
    _check.require(len(steps) > 0 and (np.diff(steps) > 0).all(), "steps", "increasing whole numbers", steps)
    known, new = (
        _statistics(name, given, steps, first, information)
        for name, given in (("reference", reference), ("watched", watched))
    )
    same = reference.positions == watched.positions
    _check.require(same, "watched", f"the layers {', '.join(reference.positions)}", ", ".join(watched.positions))
    runs = known.values.shape[:-2]
    _check.require(len(runs) == 1, "reference", "courses (n, T, ...), one row per run", f"axes {runs} before T")
    comparisons = known.values[0].size
    least = _least_runs(rate / comparisons)
    expected = f"at least {least} runs for a rate of {rate:g} over {comparisons} comparisons"
    _check.require(runs[0] >= least, "reference", expected, runs[0])
    for step, good in zip(steps, np.all(known.measured, axis=(0, 2)).tolist(), strict=True):
        expected = "valid examples, converged probes and finite information at every step"
        _check.require(good, "reference", expected, f"a run without at step {step}")

    spread = np.maximum(known.values.std(axis=0, ddof=1), np.sqrt(known.errors.mean(axis=0)))
    threshold = known.values.mean(axis=0) + _reach(runs[0], rate / comparisons) * spread
    with np.errstate(invalid="ignore"):
        exceeds = ((new.values > threshold) & new.measured).any(axis=-1)
    warned = exceeds.any(axis=-1)
    return Warnings(
        warned,
        np.where(warned, steps[exceeds.argmax(axis=-1)], -1),
        exceeds,
        special.expit(threshold[:, 0]),
        threshold[:, 1] if information else None,
        float(rate),
        np.asarray(new.measured.all(axis=(-2, -1))),
    )


def false_alarms(
    reference: Course,
    clean: Course | None = None,
    *,
    rate: float = 0.05,
    first: int = 1,
    information: bool = False,
    level: float = 0.95,
) -> FalseAlarms:
    """The measured rate of false alarms of `warn`: the share of clean runs with a warning, with its interval.

    The runs are those of `clean`, which did not set the thresholds. The Clopper-Pearson interval is then exact for the
    rate of these thresholds, which can lie above the nominal rate: that bounds its mean over references. Without
    `clean`, each run of the reference is judged by thresholds from the others. These judgements are not independent, so
    the interval is approximate.

    Args:
        reference: courses of clean data `(n, T, ...)`, one row per run.
        clean: other courses of clean data `(m, T, ...)`, or None.
        rate, first, information: as in `warn`.
        level: the confidence level of the interval, in (0, 1).

    Raises:
        ValueError: `level` out of range; `clean` not one row per run; the errors of `warn`. Without `clean` the
            reference needs one run more.

    >>> depth = np.where(np.random.default_rng(0).random((8, 3, 200)) < 0.5, 1.0, 2.0)
    >>> found = false_alarms(Course(depth, 0 * depth, depth > 0, None, ("h1", "h2")))
    >>> found.alarms, found.runs, round(found.high, 2)
    (0, 8, 0.37)
    """
    _check.number("level", level, "(0, 1)")
    options: dict[str, Any] = {"rate": rate, "first": first, "information": information}
    depth, _ = course_depths("reference", reference)
    _check.require(depth.ndim == 3, "reference", "courses (n, T, ...), one row per run", f"depths {depth.shape}")
    runs, steps = len(depth), range(depth.shape[1])
    if clean is not None:
        shape = course_depths("clean", clean)[0].shape
        _check.require(len(shape) == 3, "clean", "courses (m, T, ...), one row per run", f"depths {shape}")
        warned = warn(reference, clean, steps, **options).warned
    else:
        rows = [np.arange(runs) != run for run in range(runs)]
        warned = np.array(
            [warn(_rows(reference, row), _rows(reference, ~row), steps, **options).warned for row in rows]
        )
    alarms, runs = int(warned.sum()), warned.size
    tail = (1 - level) / 2
    low = special.betaincinv(alarms, runs - alarms + 1, tail) if alarms > 0 else 0.0
    high = special.betaincinv(alarms + 1, runs - alarms, 1 - tail) if alarms < runs else 1.0
    return FalseAlarms(alarms / runs, float(low), float(high), alarms, runs, float(rate))


class _Statistics(NamedTuple):
    """The statistics `(..., T, s)`, the squares of their least errors, and whether they were measured."""

    values: Float[np.ndarray, "*runs T s"]
    errors: Float[np.ndarray, "*runs T s"]
    measured: Bool[np.ndarray, "*runs T s"]


def _statistics(name: str, course: Any, steps: np.ndarray, first: int, information: bool) -> _Statistics:
    early, valid = early_counts(name, course, first)
    got = f"depths {np.shape(course.depth)}"
    _check.require(early.shape[-1:] == steps.shape, name, f"a course over {len(steps)} steps", got)
    odds = np.stack([early + 0.5, valid - early + 0.5])
    measured = (valid > 0) & (True if course.converged is None else np.asarray(course.converged))
    found = [(np.log(odds[0] / odds[1]), (1 / odds).sum(axis=0), measured)]
    if information:
        mean = np.mean(course.information, axis=-1, dtype=float)
        found.append((mean, np.zeros_like(mean), np.isfinite(mean)))
    return _Statistics(*(np.stack(each, axis=-1) for each in zip(*found, strict=True)))


def _reach(runs: int, tail: float) -> float:
    """How far the prediction interval reaches above the mean, in standard deviations."""
    return float(special.stdtrit(runs - 1, 1 - tail) * np.sqrt(1 + 1 / runs))


def _least_runs(tail: float) -> int:
    """The smallest number of runs with a reach of at most twice that with a known mean and standard deviation."""
    runs = 2
    while _reach(runs, tail) > 2 * -special.ndtri(tail):
        runs += 1
    return runs


def _rows(course: Course, rows: Any) -> Course:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], course)
