"""The tangent kernel in the limit of infinite width, in closed form where there is one.

As the widths of Eq. 1 (Pezeshki et al. 2021) grow, every f^(l) becomes Gaussian, with covariance Sigma^(l-1),
and the tangent kernel of a network of L hidden layers tends to Theta^(L) (Jacot, Gabriel and Hongler 2018,
Theorem 1), where

    Sigma^(0)(x, x') = x.x' / d_0,        Sigma^(l) = gamma E[xi(u) xi(v)],
    Theta^(0) = Sigma^(0),                Theta^(l) = Sigma^(l) + gamma E[xi'(u) xi'(v)] Theta^(l-1),

with (u, v) Gaussian, of mean zero and the covariance that Sigma^(l-1) gives x and x'.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsjax import _check
from gsjax.networks import MLP, gamma

# E[xi(u) xi(v)] and E[xi'(u) xi'(v)] of a Gaussian (u, v), from its covariance and its two variances.
DualActivation = Callable[[Array, Array, Array], tuple[Array, Array]]


def infinite_ntk(
    network: MLP, x1: Real[Array, "n1 ..."], x2: Real[Array, "n2 ..."] | None = None
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """The tangent kernel of `network` in the limit of infinite width, Theta^(L) of the recursion above.

    Exact to rounding also where x1 and x2 hold equal or opposite points, or zero. There a ReLU network's
    kernel has a cusp, and the gradient across it is taken to be zero.

    Args:
        network: its depth, activation and number of outputs count, its widths do not.
        x1: examples, `(n1, ...)`, flattened as `network` does.
        x2: examples, `(n2, ...)`; x1 if None, with a result symmetric to the last bit.

    Returns:
        `(n1, n2)` for one output; `(n1, n2, k, k)` for k, the kernel times the identity.

    Raises:
        ValueError: `network` not an MLP, or of an activation without a closed form; x1 or x2 without a batch
            axis, empty, not finite or of different shapes beyond the first axis.

    >>> x = jnp.array([[2.0, 0.0, 0.0, 0.0]])
    >>> infinite_ntk(MLP((64, 64)), x).tolist()  # (L + 1) |x|^2 / d_0
    [[3.0]]
    """
    _check.require(isinstance(network, MLP), "network", "a gsjax.networks.MLP", type(network).__name__)
    closed = f"an activation with a closed form, {sorted(_DUALS)} (for others, average `ntk` over seeds)"
    _check.require(network.activation in _DUALS, "network", closed, repr(network.activation))
    h1 = _first("x1", x1)
    h2 = h1 if x2 is None else _first("x2", x2)
    if x2 is not None:
        same = jnp.shape(x1)[1:] == jnp.shape(x2)[1:]
        expected = f"examples of the shape of x1's, {jnp.shape(x1)[1:]}"
        _check.require(same, "x2", expected, f"shape {jnp.shape(x2)}")

    dual, factor = _DUALS[network.activation], gamma(network.activation)
    q1, q2 = (h1**2).sum(axis=1)[:, None], (h2**2).sum(axis=1)[None, :]
    sigma = theta = jnp.matmul(h1, h2.T, precision="highest")
    for _ in network.widths:
        kappa, kappa_dot = dual(sigma, q1, q2)
        q1, q2 = factor * dual(q1, q1, q1)[0], factor * dual(q2, q2, q2)[0]
        sigma = factor * kappa
        theta = sigma + factor * kappa_dot * theta
    if x2 is None:
        theta = jnp.triu(theta) + jnp.triu(theta, 1).T
    if network.outputs == 1:
        return theta
    return theta[..., None, None] * jnp.eye(network.outputs, dtype=theta.dtype)


def _relu(cov: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    """Half the arc-cosine kernels of degrees 1 and 0 (Cho and Saul 2009)."""
    scale = _sqrt(q1) * _sqrt(q2)
    cosine = cov / jnp.where(scale > 0, scale, 1)
    # Between equal or opposite points the angle would be the root of a rounding error, its gradient infinite.
    # Sums of thousands of products are wrong by up to 6 eps, so angles below sqrt(32 eps) count as zero.
    apart = jnp.abs(cosine) < 1 - 16 * jnp.finfo(cosine.dtype).eps
    inner = jnp.where(apart, cosine, 0)
    cosine = jnp.where(apart, cosine, jnp.sign(cosine))
    sine = jnp.where(apart, jnp.sqrt((1 - inner) * (1 + inner)), 0)
    supplement = jnp.where(apart, jnp.pi - jnp.arccos(inner), jnp.where(cosine > 0, jnp.pi, 0))
    return scale * (sine + supplement * cosine) / (2 * jnp.pi), supplement / (2 * jnp.pi)


def _erf(cov: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    """The arcsine kernel (Williams 1997): (2/pi) asin(2 cov / sqrt((1 + 2 q1)(1 + 2 q2))).

    Written as an arc tangent, and with the determinant apart: no cancellation where the two points are one.
    """
    root = jnp.sqrt(1 + 2 * (q1 + q2) + 4 * jnp.maximum(q1 * q2 - cov**2, 0))
    return 2 / jnp.pi * jnp.arctan2(2 * cov, root), 4 / jnp.pi / root


def _linear(cov: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    return cov, jnp.ones_like(cov)


_DUALS: dict[str, DualActivation] = {"relu": _relu, "erf": _erf, "linear": _linear}


def _sqrt(q: Array) -> Array:
    """The square root, with gradient zero at zero."""
    return jnp.where(q > 0, jnp.sqrt(jnp.where(q > 0, q, 1)), 0)


def _first(name: str, x: Any) -> Float[Array, "n d"]:
    """h^(0) of Eq. 1, of checked examples."""
    x = jnp.asarray(x)
    _check.require(x.ndim >= 2 and x.size, name, "a non-empty array (n, ...)", f"shape {x.shape}")
    _check.finite(name, x)
    d = math.prod(x.shape[1:])
    return x.reshape(-1, d) / math.sqrt(d)
