"""Lambert's W on its principal real branch, and Wright's omega, `W(exp(x))` without overflow."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gsjax import _check

__all__ = ["lambertw", "wright_omega"]


@jax.custom_jvp
def wright_omega(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Wright's omega of real `x (...)`: the solution of `w + log w = x`, i.e. `W(exp(x))` without overflow.

    The relative error is a few rounding errors. For x >= 1 the value comes from three fourth-order steps of Fritsch,
    Shafer and Crowley (CACM 1973), and for x < 1 from `W(exp(x))`. It is zero if exp(x) is below the normal numbers.

    >>> float(wright_omega(jnp.array(1.0)))
    1.0
    """
    return jnp.where(x < 1, _halley(jnp.exp(jnp.minimum(x, 1))), _omega(jnp.maximum(x, 1)))


def _omega(x):
    """Wright's omega of x >= 1."""
    w = jnp.maximum(x - jnp.log(x), 1)
    for _ in range(3):
        residual = x - w - jnp.log(w)
        bound = 2 * (1 + w) * (1 + w + 2 * residual / 3)
        w = w * (1 + residual / (1 + w) * (bound - residual) / (bound - 2 * residual))
    return w


@wright_omega.defjvp
def _wright_omega_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    w = wright_omega(x)
    return w, w / (1 + w) * dx


def lambertw(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Lambert's W, principal real branch, `W exp(W) = x` for `x (...)` in [-1/e, inf); NaN below -1/e.

    The relative error is a few rounding errors if x and W(x) are normal numbers (XLA may treat subnormal numbers as
    zero). The function is differentiable to any order for x > -1/e.

    Raises:
        ValueError: an entry of `x` is NaN or below -1/e (outside of tracing).

    >>> round(float(lambertw(jnp.array(1.0))), 6)
    0.567143
    """
    x = _check.array("x", x)
    x = x.astype(jnp.result_type(x, float)) if not jnp.issubdtype(x.dtype, jnp.floating) else x
    _check.require(jnp.all(x >= -(1 + _rounding(x)) / math.e), "x", "numbers from -1/e upwards", x)
    return _lambertw(x)


@jax.custom_jvp
def _lambertw(x):
    # For small x, taking the logarithm would lose as many digits as the logarithm has before the decimal point.
    w = jnp.where(x < math.e, _halley(jnp.minimum(x, math.e)), _omega(jnp.log(jnp.maximum(x, math.e))))
    return jnp.where(x >= -(1 + _rounding(x)) / math.e, w, jnp.nan)


def _halley(x):
    """W of x from -1/e to e by Halley's iteration, or by a series near -1/e, where the iteration cancels."""
    inverse = float(np.asarray(1 / math.e, x.dtype))
    # e x + 1 with 1/e to twice the working precision, because x may cancel its leading digits. The form of the
    # expression keeps XLA from adding the two parts of 1/e first.
    distance = (x + inverse) * math.e + math.e * (_INVERSE_E[0] - inverse + _INVERSE_E[1])
    p = jnp.sqrt(2 * jnp.maximum(distance, 0))
    close = p < 0.3
    series = jnp.polyval(jnp.asarray(_branch_series(), x.dtype), jnp.where(close, p, 0))
    x = jnp.where(close, 0, x)
    w = jnp.where(x < 0, -1 + p - p**2 / 3 + 11 / 72 * p**3, x / (1 + x))
    for _ in range(4):
        residual = w - x * jnp.exp(-w)
        w = w - residual / (1 + w - (w + 2) * residual / (2 * (1 + w)))
    return jnp.where(close, series, w)


_INVERSE_E = (0.36787944117144233, -1.2428753672788363e-17)  # 1/e rounded, and the remainder


@functools.cache
def _branch_series() -> tuple[float, ...]:
    """W as a series in p = sqrt(2 (e x + 1)) about -1/e, highest power first (Corless et al. 1996, Eqs. 4.22-4.24)."""
    mu, alpha = [-1.0, 1.0], [2.0, -1.0]
    for k in range(2, 28):
        alpha.append(sum(mu[j] * mu[k + 1 - j] for j in range(2, k)))
        mu.append((k - 1) / (k + 1) * (mu[k - 2] / 2 + alpha[k - 2] / 4) - alpha[k] / 2 - mu[k - 1] / (k + 1))
    return tuple(reversed(mu))


def _rounding(x):
    return 4 * jnp.finfo(x.dtype).eps


@_lambertw.defjvp
def _lambertw_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    w = _lambertw(x)
    return w, jnp.exp(-w) / (1 + w) * dx
