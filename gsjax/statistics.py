"""Intervals over seeds, tests of what they show, and the slope of an error in the size that should make it vanish.

Means over seeds have the interval of *Student's t*. It is exact for normal numbers at any count; for the few seeds that
training can afford nothing weaker is honest: a percentile bootstrap cannot reach beyond the seeds, so that 3 of them
cover 75% and 4 of them 88% where 95% is promised. Paired differences are given as such, one number per seed.

`within` is the p-value of a mean that should lie between two bounds, and `holm` corrects several p-values for having
been looked at together. What is no mean of numbers per seed, such as the margin of an averaged network, has the
*expanded* percentile bootstrap of Hesterberg, "What Teachers Should Know About the Bootstrap" (The American
Statistician 69(4), 2015): whole seeds are resampled, and the percentiles are moved outwards from alpha/2 to
Phi(t_{alpha/2, n-1} sqrt(n/(n-1))). On normal data such 95% intervals of 5, 8 and 10 seeds cover 92, 94 and 95%.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Real
from scipy import special

from gsjax import _check

__all__ = ["Interval", "Slope", "bootstrap", "holm", "loglog_slope", "mean", "within"]


class Interval(NamedTuple):
    """An estimate and its confidence interval, three arrays of one shape."""

    value: Real[np.ndarray, "..."]
    low: Real[np.ndarray, "..."]
    high: Real[np.ndarray, "..."]


class Slope(NamedTuple):
    """An exponent fitted on logarithmic axes and its confidence interval."""

    value: float
    low: float
    high: float


def mean(values: Real[ArrayLike, "seeds ..."] | Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean over seeds with the interval of Student's t, +- t_{n-1} s / sqrt(n), s with n - 1 in the denominator.

    Args:
        values: one row per seed, shape (seeds, ...).
        level: confidence level, in (0, 1).

    Returns:
        `value`, `low` and `high` of the trailing shape; scalars for `values` of shape (seeds,).

    Raises:
        ValueError: fewer than two seeds, a value that is not finite, `level` outside (0, 1).

    >>> [round(float(end), 2) for end in mean([1.0, 2.0, 3.0])]  # 2 +- 4.303 / sqrt(3)
    [2.0, -0.48, 4.48]
    """
    values = _seeds(values)
    _check.number("level", level, "(0, 1)")
    middle, error = values.mean(axis=0), _standard_error(values)
    reach = special.stdtrit(len(values) - 1, (1 + level) / 2) * error
    return Interval(middle, middle - reach, middle + reach)


def within(
    values: Real[ArrayLike, " seeds"] | Sequence[float], *, above: float | None = None, below: float | None = None
) -> float:
    """The p-value of the mean over seeds lying in (above, below), by Student's t; one-sided at either end.

    It is the larger of the two p-values of "the mean is at most `above`" and "the mean is at least `below`": with two
    finite bounds, the test of equivalence by two one-sided tests (Schuirmann 1987). A 95% interval lies in (above,
    below) where it is below 0.025. Seeds that all agree have 0 or 1.

    Args:
        values: one number per seed, shape (seeds,); of a comparison in pairs, the differences.
        above: lower bound, or None.
        below: upper bound, or None.

    Raises:
        ValueError: fewer than two seeds, a value that is not finite, no bound, or bounds that leave nothing.

    >>> [round(within([0.1, 0.2, 0.3], above=bound), 3) for bound in (0.0, 0.2)]
    [0.037, 0.5]
    """
    values = _seeds(values)
    _check.shape("values", values, ndim=1)
    for name, bound in (("above", above), ("below", below)):
        if bound is not None:
            _check.number(name, bound)
    _check.require((above, below) != (None, None), "above", "a bound on one side at least", above)
    low, high = (float(end if bound is None else bound) for bound, end in ((above, -np.inf), (below, np.inf)))
    _check.require(low < high, "above", f"a number below {high:g}", low)
    error = _standard_error(values)
    gaps = np.array([values.mean() - low, high - values.mean()])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(gaps == 0, 0.0, gaps / error)
    p = np.where(np.isinf(t), t < 0, special.stdtr(len(values) - 1, -t))
    return float(p.max())


def holm(p: Real[ArrayLike, " m"] | Sequence[float]) -> Float[np.ndarray, " m"]:
    """p-values of m tests corrected for being m, by Holm's step-down method.

    Those at most a are, all together, wrong with probability a at most, however they depend on each other (Holm 1979).

    Raises:
        ValueError: a number that is no probability.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = _check.floats("p", p)
    _check.shape("p", p, ndim=1)
    _check.require(bool(np.all((p >= 0) & (p <= 1))), "p", "numbers from 0 to 1", p)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(1.0, steps)[np.argsort(order, kind="stable")]


def bootstrap(
    statistic: Callable[[Float[np.ndarray, " seeds"]], Any],
    seeds: int,
    *,
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Any statistic of seeds with its bootstrap interval, such as the margin of an average over them.

    Args:
        statistic: of the weights of the seeds, shape (seeds,), which sum to one.
        seeds: how many there are.
        resamples: number of bootstrap samples.
        level: confidence level, in (0, 1).
        seed: of numpy's generator; the same seed gives the same interval.

    Returns:
        Scalars: `value` at equal weights, `low` and `high`; an infinite statistic makes infinite ends.

    Raises:
        ValueError: fewer than two seeds, a statistic that is NaN, `level` outside (0, 1), no resamples.

    >>> values = np.arange(9.0)
    >>> [round(float(end), 1) for end in bootstrap(lambda weights: weights @ values, 9, resamples=2000)]
    [4.0, 2.0, 6.1]
    """
    _check.require(callable(statistic), "statistic", "a function of the weights of the seeds", repr(statistic))
    seeds = _check.whole("seeds", seeds, least=2)
    resamples, seed = _options(resamples, level, seed)
    found = np.array([statistic(weights) for weights in _resampled(seeds, resamples, seed)], dtype=float)
    value = np.asarray(statistic(np.full(seeds, 1 / seeds)), dtype=float)
    _check.require(not np.isnan([value, *found]).any(), "statistic", "numbers", "NaN")
    return Interval(value, *_ends(found, seeds, level))


def loglog_slope(
    x: Real[ArrayLike, " w"] | Sequence[float],
    errors: Real[ArrayLike, "seeds w"],
    *,
    level: float = 0.95,
) -> Slope:
    """Exponent p of errors ~ x^p: the least-squares slope of the log of the geometric mean over seeds.

    The geometric mean makes the fit an average of one slope per seed, so a seed whose errors are ten times
    larger throughout changes nothing, and the interval is that of a mean of independent numbers (`mean`). It estimates
    the same exponent as the arithmetic mean wherever the relative spread of the errors does not depend on x.

    Args:
        x: sizes, shape (w,), positive, at least two of them different.
        errors: one row per seed, shape (seeds, w), positive.
        level: confidence level, in (0, 1).

    Raises:
        ValueError: fewer than two seeds, one size only, or an entry that is not finite and positive.

    >>> width = np.array([64, 128, 256])
    >>> round(loglog_slope(width, np.stack([3 / width**0.5, 5 / width**0.5])).value, 6)
    -0.5
    """
    x, errors = _check.floats("x", x), _check.floats("errors", errors)
    _check.shape("x", x, ndim=1)
    _check.positive("x", x)
    _check.require(np.ptp(x) > 0, "x", "two different sizes or more", x)
    _check.require(
        errors.ndim == 2 and errors.shape[1] == len(x),
        "errors",
        f"shape (seeds, {len(x)})",
        f"shape {errors.shape}",
    )
    _check.require(len(errors) > 1, "errors", "two seeds or more", f"shape {errors.shape}")
    _check.positive("errors", errors)
    centred = np.log(x) - np.log(x).mean()
    slopes = np.log(errors) @ centred / (centred @ centred)
    value, low, high = mean(slopes, level=level)
    return Slope(float(value), float(low), float(high))


def _seeds(values: Any) -> Float[np.ndarray, "seeds ..."]:
    """One row per seed, checked."""
    values = _check.floats("values", values)
    _check.require(values.ndim > 0 and len(values) > 1, "values", "two seeds or more", f"shape {values.shape}")
    _check.finite("values", values)
    return values


def _standard_error(values: Float[np.ndarray, "seeds ..."]) -> Float[np.ndarray, "..."]:
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def _options(resamples: Any, level: Any, seed: Any) -> tuple[int, int]:
    """What the bootstrap takes, checked: `resamples` and `seed`."""
    _check.number("level", level, "(0, 1)")
    return _check.whole("resamples", resamples, least=1), _check.whole("seed", seed, least=0)


def _resampled(n: int, resamples: int, seed: int) -> Float[np.ndarray, "resamples n"]:
    """The weights that n seeds have in each bootstrap sample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n


def _ends(found: np.ndarray, n: int, level: float) -> np.ndarray:
    """The expanded percentiles of what was found in the samples, the nearest ones, as some may be infinite."""
    tail = special.ndtr(special.stdtrit(n - 1, (1 - level) / 2) * np.sqrt(n / (n - 1)))
    return np.quantile(found, [tail, 1 - tail], axis=0, method="nearest")
