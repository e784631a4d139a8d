"""The strength of a penalty for a wanted margin or confidence, and penalties that are matched to each other.

The confidence in an example is `sigma(m)`, the probability of its label, and `alpha = sigma(-m)` is what it lacks.
Under spectral decoupling at full row rank each example has an equation of its own, `lambda m = sigma(-m)` (Eq. 18 of
Pezeshki et al., 2021), so all margins are equal, and `lambda = sigma(-m) / m` gives any wanted margin m > 0. Under
ridge margins differ. Two penalties are matched here if the total confidence at their optima is the same,

    sum_i sigma(m_i) = n - sum_i alpha_i,

so that a comparison between them does not compare a strong penalty with a weak one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from scipy import optimize

from gsjax import _check
from gsjax.dual.equilibrium import equilibrium
from gsjax.features import Features, require_binary
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling

__all__ = ["Match", "decoupling_for", "match", "matched"]

# Strengths are tried up to this factor from the first guess, in steps of 4.
_STEPS, _STEP = 24, 4.0


class Match(NamedTuple):
    """A penalty of the other kind.

    - `penalty`: the penalty that was found, with a scalar strength.
    - `confidence`: the mean confidence at its optimum, in (0, 1).
    - `wanted`: the mean confidence at the optimum of the given penalty.
    - `converged`: whether both optima were found, and `1 - confidence` equals `1 - wanted` up to a relative error of
      `sqrt(eps)`. If not, `penalty` is the closest strength that was tried, and comparisons with it mean nothing.
    """

    penalty: Penalty
    confidence: float
    wanted: float
    converged: bool


def decoupling_for(
    *, margin: float | Float[Array, ""] | None = None, confidence: float | Float[Array, ""] | None = None
) -> SpectralDecoupling:
    """The spectral decoupling under which every example has this margin, or this confidence, at the optimum.

    At full row rank the optimum of Eq. 17 (Pezeshki et al., 2021) solves `lambda m = sigma(-m)` for each example
    (Eq. 18 with `alpha = sigma(-m)`). So `lambda = sigma(-m) / m`, and `m = log(c / (1 - c))` for a confidence
    `c = sigma(m)`. The penalty is that of the library, the sum over examples of `lambda / 2` times the squared
    output. If the rank is below n, margins differ, and this is a rough guide only.

    Args:
        margin: the wanted margin `y yhat`, above 0.
        confidence: the wanted probability of the label, between 1/2 and 1. One of the two has to be given.

    Raises:
        ValueError: both or neither are given, or one is out of its range.

    >>> round(decoupling_for(margin=2.0).strength, 6), round(decoupling_for(confidence=0.9).strength, 6)
    (0.059601, 0.045512)
    """
    one = (margin is None) != (confidence is None)
    _check.require(one, "margin", "either margin or confidence", "both" if margin is not None else "neither")
    if margin is not None:
        _check.number("margin", margin, "(0, inf)")
        small = _exp(-margin)
        _check.require(small > 0, "margin", "a margin whose strength is above zero", margin)
        return SpectralDecoupling(_check.python(small / (1 + small) / margin))
    _check.number("confidence", confidence, "(0.5, 1)")
    assert confidence is not None
    # log1p keeps the difference of a confidence near one half from 0.
    logit = -_log1p((1 - 2 * confidence) / confidence)
    return SpectralDecoupling(_check.python((1 - confidence) / logit))


def match(feats: Features, penalty: Penalty) -> Match:
    r"""The penalty of the other kind with the same total confidence `sum_i sigma(m_i)` at the optimum.

    For `Ridge` this is a `SpectralDecoupling` and vice versa. From ridge at full row rank, it is
    `decoupling_for(confidence=mean)`. Otherwise the strength is a root of the difference of mean confidences, found by
    Brent's method on the logarithm of the strength, with one equilibrium for each trial. From a first guess, the root
    is bracketed by steps of 4 towards less confidence if there is too much, and vice versa.

    The total confidence need not decrease with the strength of ridge. In the notation of `starvation.matrix`,

    .. math::

        \frac{d \sum_i \alpha_i}{d (1 / \lambda)} = -\mathbf{1}^\top (D^{-1} + K / \lambda)^{-1} K \alpha,

    can have either sign where examples of small confidence oppose the others. If several strengths have the wanted
    confidence, the result is the one in the first bracket. If there is none, `converged` is False: a mean confidence of
    1/2 or less cannot be matched, since only targets lead there, and at a rank below n confidence is bounded above.

    This runs on the host, not under `jit`.

    Raises:
        ValueError: features that are not binary, an unknown `penalty`, arrays of the wrong length, or traced arguments.

    >>> from gsjax.features import planar
    >>> found = match(planar(0.6, jnp.array([4.0, 1.0])), Ridge(0.1))
    >>> found.converged, round(found.penalty.strength, 4), abs(found.confidence - found.wanted) < 1e-4
    (True, 0.0259, True)
    """
    require_binary(feats)
    full = _check.is_concrete(feats.rank) and int(feats.rank) == feats.u.shape[0]
    return matched(feats, penalty, _missing(), full=full, classes=None)


def matched(
    feats: Any,
    penalty: Penalty,
    missing: Callable[[Any, Penalty], tuple[Float[Array, ""], Bool[Array, ""]]],
    *,
    full: bool,
    classes: int | None,
) -> Match:
    """`match` for any task: `missing(feats, penalty)` is one minus the mean confidence, and whether it is known.

    `full` is whether the features have full row rank, and `classes` is the number of outputs, None for a single one.
    """
    _check.require(_check.is_concrete(feats, penalty), "feats", "features that are not traced", "a tracer")
    value, known = missing(feats, penalty)
    wanted, known = float(value), bool(known)
    decoupled, strength = isinstance(penalty, Ridge), math.nan
    if not known or not 0 < wanted < 1:
        return Match(_other(decoupled, 1.0), math.nan, 1 - wanted, False)
    others = (classes or 2) - 1
    # The loss at an optimum is at most that of outputs 0, so, by Jensen's inequality, its mean confidence is above that
    # of a guess. Only targets lead below, and only equal outputs, of an infinite strength, lead there.
    reachable = wanted < others / (others + 1)
    if reachable:
        # The outputs of the other classes are equal; with one output, this gap is the margin.
        gap = math.log(others * (1 - wanted) / wanted)
        strength = wanted / gap * (1 if classes is None else (others + 1) / others)
    closed = decoupled and full and math.isfinite(strength)
    if not closed:
        if not decoupled and math.isfinite(strength):
            # One feature of mean strength would have this margin: m = s^2 alpha / lambda.
            strength *= float(jnp.mean(feats.s2))
        start = strength if math.isfinite(strength) and strength > 0 else 1.0
        strength = _root(lambda trial: float(missing(feats, _other(decoupled, trial))[0]) - wanted, start)
    found = _other(decoupled, strength)
    value, reached = missing(feats, found)
    dtype = feats.u.dtype
    close = abs(float(value) - wanted) <= float(jnp.finfo(dtype).eps) ** 0.5 * wanted
    return Match(found, 1 - float(value), 1 - wanted, bool(reached) and close and reachable)


def _root(excess: Callable[[float], float], start: float) -> float:
    """A strength at which `excess`, which is meant to increase with it, is zero; the closest one tried, if none is."""
    low = high = math.log(start)
    value = excess(start)
    tried = {low: value}
    step = -math.log(_STEP) if value > 0 else math.log(_STEP)
    for _ in range(_STEPS):
        if value == 0 or not math.isfinite(value):
            break
        low, high = high, high + step
        following = excess(math.exp(high))
        tried[high] = following
        if following * value <= 0:
            found = optimize.root_scalar(lambda log: excess(math.exp(log)), bracket=(low, high), method="brentq")
            return math.exp(found.root)
        value = following
    return math.exp(min(tried, key=lambda log: abs(tried[log]) if math.isfinite(tried[log]) else math.inf))


def _other(decoupled: bool, strength: float) -> Penalty:
    return SpectralDecoupling(strength) if decoupled else Ridge(strength)


@functools.cache
def _missing() -> Callable[[Features, Penalty], tuple[Float[Array, ""], Bool[Array, ""]]]:
    """One jitted function, so that all trials share a program."""

    def missing(feats: Features, penalty: Penalty) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        state = equilibrium(feats, penalty)
        return jnp.mean(state.alpha), state.converged

    return jax.jit(missing)


def _exp(value: Any) -> Any:
    return math.exp(float(value)) if _check.is_concrete(value) else jnp.exp(value)


def _log1p(value: Any) -> Any:
    return math.log1p(float(value)) if _check.is_concrete(value) else jnp.log1p(value)
