"""The recursion of infinite width in 50 digits, for the tests."""

from __future__ import annotations

import functools
from typing import Any

from mpmath import mp, mpf

DIGITS = 50


def theta(activation: str, depth: int, x: Any, y: Any) -> Any:
    """Theta^(L) of two points, which are taken as the numbers that they hold."""
    with mp.workdps(DIGITS):
        x, y = ([mpf(float(value)) for value in point] for point in (x, y))
        q1, q2, cov = (mp.fdot(a, b) / len(x) for a, b in ((x, x), (y, y), (x, y)))
        factor, total = _gamma(activation), cov
        for _ in range(depth):
            kappa, slope = _dual(activation, cov, q1, q2)
            q1, q2 = (factor * _dual(activation, q, q, q)[0] for q in (q1, q2))
            cov = factor * kappa
            total = cov + factor * slope * total
        return total


@functools.cache
def _gamma(activation: str) -> Any:
    return mpf(2) if activation == "relu" else 1 / _dual(activation, mpf(1), mpf(1), mpf(1))[0]


def _dual(activation: str, cov: Any, q1: Any, q2: Any) -> tuple[Any, Any]:
    """E[xi(u) xi(v)] and E[xi'(u) xi'(v)], of erf and relu in closed form."""
    if activation == "relu":
        sine2, scale = q1 * q2 - cov**2, mp.sqrt(q1 * q2)
        angle = mp.atan2(mp.sqrt(sine2) if sine2 > 0 else mpf(0), cov)
        slope = (mp.pi - angle) / (2 * mp.pi)
        return scale * mp.sin(angle) / (2 * mp.pi) + slope * cov, slope
    if activation == "erf":
        return _arcsine(cov, q1, q2, mpf(1) / 2, mpf(1) / 2)
    nodes = _kolmogorov()
    kappa = slope = mpf(0)
    for a, weight1 in nodes:
        for b, weight2 in nodes:
            term = _arcsine(cov, q1, q2, a, b)
            kappa, slope = kappa + weight1 * weight2 * term[0], slope + weight1 * weight2 * term[1]
    return kappa, slope


def _arcsine(cov: Any, q1: Any, q2: Any, a: Any, b: Any) -> tuple[Any, Any]:
    root = mp.sqrt((a + q1) * (b + q2) - cov**2)
    return 2 / mp.pi * mp.atan2(cov, root), 2 / mp.pi / root


@functools.cache
def _kolmogorov() -> list[tuple[Any, Any]]:
    """Tanh as a mixture of error functions: nodes and weights of twice the density and range of the library's."""
    nodes = []
    for i in range(-36, 37):
        kappa = mp.exp(mpf(i) / 14)
        density = mp.fsum((-1) ** (k - 1) * k**2 * mp.exp(-2 * (k * kappa) ** 2) for k in range(1, 80))
        nodes.append((kappa**2, 8 * kappa**2 * density / 14))
    return [(square, weight) for square, weight in nodes if weight > mpf(10) ** -22]
