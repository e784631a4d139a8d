"""A layer of infinite width: the covariances of activations of Gaussian variables."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gsjax.networks import gamma
from gsjax.tangent.geometry import cosine_from_moments, root, sine_from_moments

__all__ = ["Layer", "layer", "variance"]


class Layer(NamedTuple):
    """Moments of h = sqrt(gamma) xi(u) and h' = sqrt(gamma) xi(v).

    `cov` is their covariance, `slope` is gamma E[xi'(u) xi'(v)], `q1` and `q2` are their variances, and `sine >= 0` is
    the sine of the angle whose cosine is the correlation of h and h'.
    """

    cov: Float[Array, "..."]
    slope: Float[Array, "..."]
    q1: Float[Array, "..."]
    q2: Float[Array, "..."]
    sine: Float[Array, "..."]


def layer(
    activation: str,
    cov: Float[Array, "..."],
    q1: Float[Array, "..."],
    q2: Float[Array, "..."],
    sine: Float[Array, "..."],
) -> Layer:
    """The `Layer` of Gaussian u and v of mean zero, from their covariance, variances and the sine of their angle.

    If the sine is accurate relative to itself, no result suffers from cancellation, however large the variances. The
    arguments may have different shapes that broadcast.

    >>> layer("relu", *map(jnp.asarray, (-2.0, 2.0, 2.0, 0.0))).cov.item()
    0.0
    """
    factor = gamma(activation)
    kappa, slope, next_sine = _DUALS[activation](cov, q1, q2, sine)
    cov, (q1, q2) = factor * kappa, (variance(activation, q) for q in (q1, q2))
    return Layer(cov, factor * slope, q1, q2, sine_from_moments(cov, q1, q2) if next_sine is None else next_sine)


def variance(activation: str, q: Float[Array, "..."]) -> Float[Array, "..."]:
    """The variance gamma E[xi(u)^2] of h, for a Gaussian u of variance q.

    >>> variance("relu", jnp.asarray(3.0)).item()
    3.0
    """
    if activation in ("relu", "linear"):
        return q
    return gamma(activation) * _DUALS[activation](q, q, q, jnp.zeros_like(q))[0]


def _linear(cov: Array, q1: Array, q2: Array, sine: Array) -> tuple[Array, Array, Array]:
    return cov, jnp.ones_like(cov), sine


def _relu(cov: Array, q1: Array, q2: Array, sine: Array) -> tuple[Array, Array, Array]:
    """Half the arc-cosine kernels of degrees 1 and 0 (Cho and Saul 2009).

    For an angle t, J_1 = sin t + (pi - t) cos t, and J_1 / pi is the cosine of the next angle. J_1 is small between
    nearly opposite points, and 1 - J_1 / pi between nearly equal ones. In these cases neither is computed as a
    difference.
    """
    scale, cosine = root(q1) * root(q2), cosine_from_moments(cov, q1, q2)
    angle, supplement = jnp.arctan2(sine, cosine), jnp.arctan2(sine, -cosine)
    first = jnp.where(cosine < 0, _sin_less(supplement), sine + supplement * cosine)
    defect = jnp.where(cosine > 0, sine**2 / (1 + jnp.abs(cosine)), 1 - cosine) - _sin_less(angle) / jnp.pi
    return scale * first / (2 * jnp.pi), supplement / (2 * jnp.pi), root(defect * (2 - defect))


def _sin_less(t: Array) -> Array:
    """The function sin t - t cos t, without cancellation for small t >= 0."""
    small = jnp.where(t < 1, t, 0)
    series = [(-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1) for k in range(9, 0, -1)]
    return jnp.where(t < 1, jnp.polyval(jnp.asarray(series, t.dtype), small**2) * small**3, jnp.sin(t) - t * jnp.cos(t))


def _erf(cov: Array, q1: Array, q2: Array, sine: Array) -> tuple[Array, Array, None]:
    """The arcsine kernel (Williams 1997): (2/pi) asin(2 cov / sqrt((1 + 2 q1)(1 + 2 q2)))."""
    return *_arcsine(cov, q1, q2, root(q1) * root(q2) * sine, 0.5, 0.5), None


def _tanh(cov: Array, q1: Array, q2: Array, sine: Array) -> tuple[Array, Array, None]:
    """A mixture of arcsine kernels.

    A logistic variable is Gaussian given its standard deviation 2 kappa, where kappa has Kolmogorov's distribution
    (Andrews and Mallows 1974), hence tanh(f) = E[erf(f / (sqrt(2) kappa))]. The integrand of the remaining numerical
    integral is equally smooth for all points, including equal or large ones.
    """
    squares, weights = _kolmogorov()
    pairs = np.stack(
        [np.repeat(squares, len(squares)), np.tile(squares, len(squares)), np.outer(weights, weights).ravel()]
    )
    area = root(q1) * root(q2) * sine

    def add(total: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], None]:
        kappa, kappa_dot = _arcsine(cov, q1, q2, area, pair[0], pair[1])
        return (total[0] + pair[2] * kappa, total[1] + pair[2] * kappa_dot), None

    # One pair of nodes at a time, so that only a few arrays of the kernel's size are held.
    zero = jnp.zeros(jnp.broadcast_shapes(*map(jnp.shape, (cov, q1, q2))), cov.dtype)
    return *lax.scan(add, (zero, zero), jnp.asarray(pairs.T, cov.dtype))[0], None


def _arcsine(cov: Array, q1: Array, q2: Array, area: Array, a: Any, b: Any) -> tuple[Array, Array]:
    """The expectations of erf(u / sqrt(2 a)) and erf(v / sqrt(2 b)): (2/pi) asin(cov / sqrt((a + q1)(b + q2))).

    It is written as an arc tangent with a separate `area`, the root of the determinant q1 q2 - cov^2. So nothing
    cancels where the two points are nearly equal, and nothing large is squared.
    """
    other = jnp.hypot(jnp.sqrt(a * b + a * q2 + b * q1), area)
    return 2 / jnp.pi * jnp.arctan2(cov, other), 2 / jnp.pi / other


@functools.cache
def _kolmogorov() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for an expectation over the square of a variable with Kolmogorov's distribution.

    This is the trapezoid rule in the logarithm, where the density decays doubly exponentially at both ends. The 27
    nodes give tanh to a relative error of 1e-14.
    """
    kappa = np.exp(np.arange(-14, 13) / 8)
    k = np.arange(1, 51)[:, None]
    density = (8 * kappa * (-1.0) ** (k - 1) * k**2 * np.exp(-2 * (k * kappa) ** 2)).sum(axis=0)
    weights = kappa * density  # d kappa = kappa d log kappa
    return kappa**2, weights / weights.sum()


_DUALS: dict[str, Callable[[Array, Array, Array, Array], tuple[Array, Array, Array | None]]] = {
    "relu": _relu,
    "erf": _erf,
    "tanh": _tanh,
    "linear": _linear,
}
