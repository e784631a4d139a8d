"""What the same computation gives in float32 and in float64, from the same float32 parameters and examples.

Errors are decimal digits, `-log10` of a relative error, at most 16: 7 digits are a relative error of 1e-7. A number
that is NaN or infinite, or has no right digit, has 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gsjax import dual, features, linearized, starvation, tangent, training
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling

__all__ = [
    "GAPS",
    "PLACES",
    "STRENGTH",
    "TOP",
    "Solved",
    "against",
    "at_condition",
    "cast",
    "digits",
    "directions",
    "kernel",
    "paths",
    "resolved",
    "solve",
    "strengths_of_features",
    "trained",
]

Matrix = Float[np.ndarray, "n n"]
Values = Float[np.ndarray, "..."]

PLACES = ("first", "n / 4", "n / 2", "3 n / 4", "last")
"""Ranks of features whose strengths are compared."""
GAPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Bounds of the bins of gaps: distances to the next strength, relative to the largest strength."""
TOP = 10
"""Strongest features, among which signs of starvation are compared."""
STRENGTH = 0.1
"""Strength of spectral decoupling."""


class Solved(NamedTuple):
    """Everything that follows from a kernel, in float64 on the host; the first axis of the last six is the condition.

    `rank` features are kept. `slopes (c, n, n)` is the oriented starvation matrix. `held` are the margins under
    spectral decoupling.
    """

    s2: Float[np.ndarray, " n"]
    u: Matrix
    rank: int
    held: Float[np.ndarray, " n"]
    margins: Float[np.ndarray, "c n"]
    alpha: Float[np.ndarray, "c n"]
    response: Float[np.ndarray, "c n"]
    slopes: Float[np.ndarray, "c n n"]
    weighted: Float[np.ndarray, " c"]
    converged: np.ndarray


def digits(found: Any, expected: Any) -> float:
    """The digits of an array: of its largest error relative to the largest entry that is expected.

    >>> digits([1.0, 2.002], [1.0, 2.0]), digits([np.nan], [1.0]), digits([1.0], [1.0])
    (3.0, 0.0, 16.0)
    """
    expected = np.asarray(expected, float)
    return float(_digits(np.max(np.abs(np.asarray(found, float) - expected)), np.max(np.abs(expected))))


def entries(found: Any, expected: Any) -> Values:
    """The digits of every entry, relative to this entry."""
    expected = np.asarray(expected, float)
    return _digits(np.abs(np.asarray(found, float) - expected), np.abs(expected))


def _digits(error: Any, size: Any) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = -np.log10(np.asarray(error) / size)
    return np.round(np.clip(np.where(np.isnan(found), 0.0, found), 0.0, 16.0), 6) + 0.0  # no negative zero


def cast(tree: Any, dtype: Any) -> Any:
    """A tree of arrays with its floating point leaves in `dtype`; float64 needs 64-bit types."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)).astype(dtype), tree)


def kernel(network: nn.Module, variables: Any, x: Any, dtype: Any) -> Matrix:
    """The tangent kernel, computed in `dtype` and returned as it is, as float64."""
    with jax.enable_x64(dtype == jnp.float64):
        found = tangent.ntk(network.apply, cast(variables, dtype), cast(x, dtype))
        return np.asarray(found, np.float64)


def strengths_of_features(network: nn.Module, variables: Any, x: Any) -> tuple[Float[np.ndarray, " n"], int]:
    """The strengths from the feature matrix in float32, all of them, and how many of them `from_ntrf` keeps."""
    with jax.enable_x64(False):
        phi, y = tangent.ntrf(network.apply, variables, x), jnp.ones(len(x))
        everything = features.from_ntrf(phi, y, rtol=0.0)
        rounding = max(phi.shape) * float(jnp.finfo(phi.dtype).eps)
        s = np.asarray(everything.s, np.float64)
        return s**2, int(np.sum(s > rounding * s[0]))


@functools.cache
def _solve() -> Callable[..., Any]:
    def solve(matrix: Array, y: Array, strengths: Array) -> Any:
        feats = features.from_ntk(matrix, y)

        def one(strength: Array) -> Any:
            penalty = Ridge(strength)
            state = dual.equilibrium(feats, penalty)
            slopes = starvation.matrix(feats, penalty)
            weighted = starvation.share(feats, penalty, weighted=True)
            return state.margins, state.alpha, state.response, slopes, weighted, state.converged

        held = dual.equilibrium(feats, SpectralDecoupling(STRENGTH)).margins
        return feats.s2, feats.u, feats.rank, held, *jax.lax.map(one, strengths)

    return jax.jit(solve)


def solve(matrix: Matrix, y: Values, strengths: Sequence[float], dtype: Any) -> Solved:
    """Features, equilibria and starvation of a kernel with labels y, in `dtype`, for ridges of these strengths."""
    with jax.enable_x64(dtype == jnp.float64):
        given = (jnp.asarray(value, dtype) for value in (matrix, y, np.asarray(strengths)))
        found = [np.asarray(value) for value in _solve()(*given)]
    s2, u, rank, *rest, converged = found
    return Solved(_host(s2), _host(u), int(rank), *map(_host, rest), converged=converged)


def _host(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64)


def resolved(found: Values, expected: Values, tolerance: float = 0.01) -> int:
    """The number of positive strengths, from the first on, whose relative error is at most `tolerance`.

    >>> resolved(np.array([4.0, 2.001, 0.5, 0.0]), np.array([4.0, 2.0, 1.0, 0.0]))
    2
    """
    count = min(len(found), int(np.sum(expected > 0)))
    good = np.abs(found[:count] - expected[:count]) <= tolerance * expected[:count]
    return int(count if good.all() else np.argmin(good))


def slope(x: Values, y: Values) -> float:
    """The slope of a line through points, by least squares; NaN for fewer than three.

    >>> round(slope(np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.0, -1.0])), 6)
    -1.0
    """
    known = np.isfinite(x) & np.isfinite(y)
    return float(np.polyfit(x[known], y[known], 1)[0]) if known.sum() > 2 else float("nan")


class Directions(NamedTuple):
    """How far singular vectors turn, for features with a gap: sines of their angles, and gaps relative to s_1^2."""

    sine: Float[np.ndarray, " r"]
    gap: Float[np.ndarray, " r"]


def directions(found: Solved, exact: Solved) -> Directions:
    """The angle between each singular vector and the exact one, and the distance of its strength to the next one."""
    kept = min(found.rank, exact.rank)
    u, v = exact.u[:, :kept], found.u[:, :kept]
    sine = np.linalg.norm(v - u * np.sum(u * v, axis=0), axis=0)
    spaces = -np.diff(exact.s2[: exact.rank])
    sides = np.minimum(np.concatenate([[np.inf], spaces]), np.concatenate([spaces, [exact.s2[exact.rank - 1]]]))
    return Directions(np.clip(sine, 0, 1), (sides / exact.s2[0])[:kept])


def at_condition(found: Solved, exact: Solved, number: int) -> dict[str, Any]:
    """What becomes of the equilibrium and of starvation under the ridge with this number."""
    kept, n = found.rank, len(exact.s2)
    top = min(TOP, kept)
    turned = np.sign(np.sum(exact.u * found.u, axis=0))[:kept]
    response = found.response[number, :kept] * turned
    right = entries(response, exact.response[number, :kept])
    slopes, truth = found.slopes[number], exact.slopes[number]
    return {
        "alpha": digits(found.alpha[number], exact.alpha[number]),
        "margins": digits(found.margins[number], exact.margins[number]),
        "response": digits(response, exact.response[number, :kept]),
        "strongest": float(np.median(right[:top])),
        "weakest": float(np.median(right[-top:])),
        "entries": float(np.median(entries(_pairs(slopes, top), _pairs(truth, top)))),
        "flipped_top": _flipped(slopes, truth, top),
        "flipped": _flipped(slopes, truth, kept),
        "share": _share(slopes, kept),
        "share_exact": _share(truth, min(n, exact.rank)),
        "weighted": float(found.weighted[number]),
        "weighted_exact": float(exact.weighted[number]),
        "converged": bool(found.converged[number]),
        "converged_exact": bool(exact.converged[number]),
    }


def _pairs(slopes: Matrix, count: int) -> Float[np.ndarray, " pairs"]:
    """The entries of distinct features among the first ones."""
    return slopes[:count, :count][~np.eye(count, dtype=bool)]


def _flipped(slopes: Matrix, truth: Matrix, count: int) -> float:
    return float(np.mean(np.sign(_pairs(slopes, count)) != np.sign(_pairs(truth, count))))


def _share(slopes: Matrix, count: int) -> float:
    return float(np.mean(_pairs(slopes, count) < 0))


def against(found: Solved, exact: Solved, matrix: Matrix, truth: Matrix) -> dict[str, Any]:
    """The errors of a kernel and of all that follows from it, as a row without its key."""
    n = len(truth)
    ranks = [0, n // 4 - 1, n // 2 - 1, 3 * n // 4 - 1, n - 1]
    strengths = entries(found.s2, exact.s2)
    turned = directions(found, exact)
    low = np.log10(np.maximum(turned.sine, np.finfo(float).tiny))
    bins = [(turned.gap <= high) & (turned.gap > high / 10) for high in GAPS]
    kept = slice(0, min(found.rank, exact.rank))
    error = np.abs(found.s2 - exact.s2)[kept]
    with np.errstate(divide="ignore"):
        falls = slope(np.log10(exact.s2[0] / exact.s2[kept]), np.log10(error / exact.s2[kept]))
    rounding = n * float(np.finfo(np.float32).eps)
    return {
        "kernel": digits(matrix, truth),
        "norm": float(_digits(np.linalg.norm(matrix - truth), np.linalg.norm(truth))),
        "condition": float(np.log10(exact.s2[0] / exact.s2[exact.rank - 1])),
        "strengths": [float(strengths[rank]) for rank in ranks],
        "kept": found.rank,
        "kept_exact": exact.rank,
        "resolved": resolved(found.s2, exact.s2),
        "weyl": float(np.max(error) / (rounding * exact.s2[0])),
        "davis_kahan": float(np.max(turned.sine * turned.gap) / rounding),
        "loss_by_strength": falls,
        "turn_by_gap": slope(np.log10(turned.gap[turned.gap > 0]), low[turned.gap > 0]),
        "sine": [float(10 ** np.median(low[inside])) if inside.any() else None for inside in bins],
        "held": digits(found.held, exact.held),
        "decoupled": found.rank == n,
    }


def paths(matrix: Matrix, y: Values, strength: float, times: Values) -> dict[str, Any]:
    """The digits of the primal and the dual trajectory of the same kernel in float32, under a ridge."""
    runs = []
    for dtype in (jnp.float64, jnp.float32):
        with jax.enable_x64(dtype == jnp.float64):
            given = (jnp.asarray(value, dtype) for value in (matrix, y, strength, times))
            runs.append([np.asarray(value) for value in _paths()(*given)])
    exact, found = runs
    return {
        "logits": digits(found[0], exact[0]),
        "dual": digits(found[1], exact[1]),
        "converged": bool(found[2]),
        "converged_exact": bool(exact[2]),
    }


@functools.cache
def _paths() -> Callable[..., Any]:
    def both(matrix: Array, y: Array, strength: Array, times: Array) -> Any:
        feats = features.from_ntk(matrix, y)
        primal = linearized.flow(feats, Ridge(strength), times=times)
        ascent = dual.integrate(feats, Ridge(strength), times=times)
        return primal.logits, ascent.alpha, primal.converged & ascent.converged

    return jax.jit(both)


def trained(network: nn.Module, variables: Mapping[str, Any], x: Any, y: Any, penalty: Penalty) -> dict[str, Any]:
    """The digits of the outputs and of the objective of a network that is trained in float32."""
    runs = []
    for dtype in (jnp.float64, jnp.float32):
        with jax.enable_x64(dtype == jnp.float64):
            given = (cast(variables, dtype), cast(x, dtype), jnp.asarray(np.asarray(y), dtype))
            fit = _trained(network, type(penalty))(*given, jnp.asarray(penalty.strength, dtype))
            runs.append([np.asarray(value) for value in (fit.logits, fit.objective, fit.converged)])
    exact, found = runs
    return {
        "logits": digits(found[0], exact[0]),
        "objective": digits(found[1], exact[1]),
        "converged": bool(found[2]),
        "converged_exact": bool(exact[2]),
    }


@functools.cache
def _trained(network: nn.Module, kind: type[Penalty]) -> Callable[..., Any]:
    def train(variables: Any, x: Array, y: Array, strength: Array) -> Any:
        return training.fit(network.apply, variables, x, y, kind(strength))._replace(params=())

    return jax.jit(train)
