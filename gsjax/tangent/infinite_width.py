"""The tangent kernel in the limit of infinite width: of MLPs by a recursion, of the rest through neural-tangents.

As the widths of Eq. 1 (Pezeshki et al. 2021) grow, every f^(l) becomes Gaussian, with covariance Sigma^(l-1),
and the tangent kernel of a network of L hidden layers tends to Theta^(L) (Jacot, Gabriel and Hongler 2018,
Theorem 1), where

    Sigma^(0)(x, x') = x.x' / d_0,        Sigma^(l) = gamma E[xi(u) xi(v)],
    Theta^(0) = Sigma^(0),                Theta^(l) = Sigma^(l) + gamma E[xi'(u) xi'(v)] Theta^(l-1),

with (u, v) Gaussian, of mean zero and the covariance that Sigma^(l-1) gives x and x'.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Real

from gsjax import _check
from gsjax.networks import CNN, MLP, gamma
from gsjax.tangent import neural_tangents
from gsjax.tangent.blocks import symmetrise
from gsjax.tangent.neural_tangents import DualActivation

__all__ = ["KernelFn", "infinite_ntk"]

KernelFn = Callable[..., Array]


def infinite_ntk(
    network: MLP | CNN | KernelFn, x1: Real[Array, "n1 ..."], x2: Real[Array, "n2 ..."] | None = None
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """The tangent kernel of `network` in the limit of infinite width.

    An MLP's is Theta^(L) of the recursion above, exact to rounding also where x1 and x2 hold equal or opposite
    points, or zero. (There a ReLU network's kernel has a cusp, and the gradient across it is taken to be zero.)
    For tanh the expectations are sums over 27^2 nodes: to a relative 1e-13 for whatever variances, but several hundred
    times slower than for erf.

    A CNN's follows the same recursion between every two positions of two images (Arora et al. 2019, Sec. 4), with
    the same expectations; it goes through neural-tangents and holds several arrays of n1 n2 (h w)^2 numbers, so
    give it a few examples at a time.

    Args:
        network: an `MLP` or a `CNN`, of which depth, activation, outputs and geometry count, the widths do not; or
            a `kernel_fn` of neural-tangents, called as `kernel_fn(x1, x2, "ntk")`. On a current jax
            `gsjax.tangent.neural_tangents.load()` imports neural-tangents to make one.
        x1: examples, `(n1, ...)`: for an MLP flattened as `network` does, for a CNN `(n1, h, w, c)`.
        x2: examples, `(n2, ...)`; x1 if None, with a result `(n1, n1)` symmetric to the last bit.

    Returns:
        `(n1, n2)` for one output; `(n1, n2, k, k)` for k, the kernel times the identity. For a `kernel_fn`, what it
        returns: `(n1, n2)` for a network that ends in a `Dense`, however many its outputs.

    Raises:
        ValueError: `network` none of these; x1 or x2 without a batch axis, for a CNN not of four axes, empty, not
            finite or of different shapes beyond the first axis.
        ModuleNotFoundError: `network` is a CNN, and the extra `gsjax[infinite-width]` is not installed.

    >>> x = jnp.array([[2.0, 0.0, 0.0, 0.0]])
    >>> infinite_ntk(MLP((64, 64)), x).tolist()  # (L + 1) |x|^2 / d_0
    [[3.0]]
    """
    ours = isinstance(network, MLP | CNN)
    expected = "a gsjax.networks.MLP or CNN, or a kernel_fn of neural-tangents"
    # Any flax module can be called; its limit is not known for that.
    known = ours or (callable(network) and not isinstance(network, nn.Module))
    _check.require(known, "network", expected, type(network).__name__)
    x1 = _examples("x1", x1, network)
    if x2 is not None:
        x2 = _examples("x2", x2, network)
        same = x1.shape[1:] == x2.shape[1:]
        _check.require(same, "x2", f"examples of the shape of x1's, {x1.shape[1:]}", f"shape {x2.shape}")

    if isinstance(network, MLP):
        theta = _mlp_ntk(network, x1, x2)
    elif isinstance(network, CNN):
        theta = neural_tangents.cnn_ntk(network, _DUALS[network.activation], x1, x2)
    else:
        theta = network(x1, x2, "ntk")
    if x2 is None and theta.ndim == 2:
        theta = symmetrise(theta)
    if not ours or network.outputs == 1:
        return theta
    return theta[..., None, None] * jnp.eye(network.outputs, dtype=theta.dtype)


def _mlp_ntk(network: MLP, x1: Float[Array, "n1 ..."], x2: Float[Array, "n2 ..."] | None) -> Float[Array, "n1 n2"]:
    """Theta^(L) of the recursion above."""
    h1 = _first(x1)
    h2 = h1 if x2 is None else _first(x2)
    dual, factor = _DUALS[network.activation], gamma(network.activation)
    q1, q2 = (h1**2).sum(axis=1)[:, None], (h2**2).sum(axis=1)[None, :]
    sigma = theta = jnp.matmul(h1, h2.T, precision="highest")
    for _ in network.widths:
        kappa, kappa_dot = dual(sigma, q1, q2)
        q1, q2 = factor * dual(q1, q1, q1)[0], factor * dual(q2, q2, q2)[0]
        sigma = factor * kappa
        theta = sigma + factor * kappa_dot * theta
    return theta


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
    """The arcsine kernel (Williams 1997): (2/pi) asin(2 cov / sqrt((1 + 2 q1)(1 + 2 q2)))."""
    return _arcsine(cov, q1, q2, 0.5, 0.5)


def _tanh(cov: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    """A mixture of arcsine kernels.

    A logistic variable is Gaussian given its standard deviation 2 kappa, with kappa of Kolmogorov's distribution
    (Andrews and Mallows 1974), hence tanh(f) = E[erf(f / (sqrt(2) kappa))]. What is left to integrate numerically
    is as smooth for points that are equal, or far out, as for any others.
    """
    squares, weights = _kolmogorov()
    pairs = np.stack(
        [np.repeat(squares, len(squares)), np.tile(squares, len(squares)), np.outer(weights, weights).ravel()]
    )

    def add(total: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], None]:
        kappa, kappa_dot = _arcsine(cov, q1, q2, pair[0], pair[1])
        return (total[0] + pair[2] * kappa, total[1] + pair[2] * kappa_dot), None

    # One pair of nodes after another, so that no more is held than a few arrays of the kernel's size.
    zero = jnp.zeros(jnp.broadcast_shapes(*map(jnp.shape, (cov, q1, q2))), cov.dtype)
    return lax.scan(add, (zero, zero), jnp.asarray(pairs.T, cov.dtype))[0]


def _arcsine(cov: Array, q1: Array, q2: Array, a: Any, b: Any) -> tuple[Array, Array]:
    """The expectations of erf(u / sqrt(2 a)) and erf(v / sqrt(2 b)): (2/pi) asin(cov / sqrt((a + q1)(b + q2))).

    Written as an arc tangent, and with the determinant apart: no cancellation where the two points are one.
    """
    root = jnp.sqrt(a * b + a * q2 + b * q1 + jnp.maximum(q1 * q2 - cov**2, 0))
    return 2 / jnp.pi * jnp.arctan2(cov, root), 2 / jnp.pi / root


def _linear(cov: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    return cov, jnp.ones_like(cov)


_DUALS: dict[str, DualActivation] = {"relu": _relu, "erf": _erf, "tanh": _tanh, "linear": _linear}


@functools.cache
def _kolmogorov() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for an expectation over the square of a variable of Kolmogorov's distribution.

    The trapezoid rule in the logarithm, where the density falls off at both ends like the exponential of an
    exponential. These 27 nodes give tanh to a relative 1e-14.
    """
    kappa = np.exp(np.arange(-14, 13) / 8)
    k = np.arange(1, 51)[:, None]
    density = (8 * kappa * (-1.0) ** (k - 1) * k**2 * np.exp(-2 * (k * kappa) ** 2)).sum(axis=0)
    weights = kappa * density  # d kappa = kappa d log kappa
    return kappa**2, weights / weights.sum()


def _sqrt(q: Array) -> Array:
    """The square root, with gradient zero at zero."""
    return jnp.where(q > 0, jnp.sqrt(jnp.where(q > 0, q, 1)), 0)


def _examples(name: str, x: Any, network: Any) -> Float[Array, "n ..."]:
    """Checked examples, as numbers that can be differentiated."""
    x = _check.as_float(x)
    if isinstance(network, CNN):
        _check.shape(name, x, ndim=4)
    _check.require(x.ndim >= 2 and x.size, name, "a non-empty array (n, ...)", f"shape {x.shape}")
    _check.finite(name, x)
    return x


def _first(x: Float[Array, "n ..."]) -> Float[Array, "n d"]:
    """h^(0) of Eq. 1."""
    d = math.prod(x.shape[1:])
    return x.reshape(-1, d) / math.sqrt(d)
