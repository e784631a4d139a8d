"""Lambert's W on its principal real branch, and Wright's omega, which is W where its argument would overflow."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gsjax import _check

__all__ = ["lambertw", "wright_omega"]


@jax.custom_jvp
def wright_omega(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Wright's omega of real `x (...)`: the solution of `w + log w = x`, i.e. `W(exp(x))` without the overflow.

    Accurate to rounding after three steps, each of fourth order, of Fritsch, Shafer and Crowley (CACM 1973).

    >>> float(wright_omega(jnp.array(1.0)))
    1.0
    """
    small = jnp.exp(jnp.minimum(x, 1))
    start = jnp.where(x < 1, small / (1 + small), x - jnp.log(jnp.maximum(x, 1)))
    w = jnp.maximum(start, jnp.finfo(x.dtype).tiny)
    for _ in range(3):
        residual = x - w - jnp.log(w)
        bound = 2 * (1 + w) * (1 + w + 2 * residual / 3)
        w = w * (1 + residual / (1 + w) * (bound - residual) / (bound - 2 * residual))
    return jnp.where(x < jnp.log(jnp.finfo(x.dtype).eps) - 1, small, w)


@wright_omega.defjvp
def _wright_omega_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    w = wright_omega(x)
    return w, w / (1 + w) * dx


def lambertw(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Lambert's W, principal real branch, `W exp(W) = x` for `x (...)` in [-1/e, inf); NaN below -1/e.

    Relative accuracy is a few rounding errors, except close to -1/e, where W itself is ill-conditioned (`dW/dx` grows
    like `1 / sqrt(x + 1/e)`). Differentiable to any order for x > -1/e.

    Raises:
        ValueError: an entry of `x` is NaN or below -1/e (outside of tracing).

    >>> round(float(lambertw(jnp.array(1.0))), 6)
    0.567143
    """
    x = jnp.asarray(x)
    x = x.astype(jnp.result_type(x, float)) if not jnp.issubdtype(x.dtype, jnp.floating) else x
    _check.require(jnp.all(x >= -(1 + _rounding(x)) / math.e), "x", "numbers from -1/e upwards", x)
    return _lambertw(x)


@jax.custom_jvp
def _lambertw(x):
    # Above zero W(x) = omega(log x); below, Halley's iteration from the series in sqrt(2 (e x + 1)).
    positive = wright_omega(jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny)))
    p = jnp.sqrt(2 * jnp.maximum(math.e * jnp.minimum(x, 0) + 1, 0))
    w = -1 + p - p**2 / 3 + 11 / 72 * p**3
    for _ in range(4):
        residual = w - jnp.minimum(x, 0) * jnp.exp(-w)
        slope = jnp.maximum(1 + w, _rounding(x))
        w = w - residual / (slope - (w + 2) * residual / (2 * slope))
    w = jnp.where(x < 0, w, positive)
    return jnp.where(x == 0, 0, jnp.where(x >= -(1 + _rounding(x)) / math.e, w, jnp.nan))


def _rounding(x):
    return 4 * jnp.finfo(x.dtype).eps


@_lambertw.defjvp
def _lambertw_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    w = _lambertw(x)
    return w, jnp.exp(-w) / (1 + w) * dx
