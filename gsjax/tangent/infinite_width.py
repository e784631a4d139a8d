"""The tangent kernel in the limit of infinite width, by the recursion below or by neural-tangents.

As the widths of Eq. 1 (Pezeshki et al. 2021) grow, every f^(l) becomes Gaussian, with covariance Sigma^(l-1),
and the tangent kernel of a network of L hidden layers tends to Theta^(L) (Jacot, Gabriel and Hongler 2018,
Theorem 1), where

    Sigma^(0)(x, x') = x.x' / d_0,        Sigma^(l) = gamma E[xi(u) xi(v)],
    Theta^(0) = Sigma^(0),                Theta^(l) = Sigma^(l) + gamma E[xi'(u) xi'(v)] Theta^(l-1),

with (u, v) Gaussian with mean zero and the covariance of x and x' under Sigma^(l-1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsjax import _check
from gsjax.networks import CNN, MLP
from gsjax.tangent import geometry
from gsjax.tangent.blocks import symmetrise
from gsjax.tangent.duals import layer
from gsjax.tangent.positions import cnn_ntk

__all__ = ["KernelFn", "infinite_ntk"]

KernelFn = Callable[..., Array]


def infinite_ntk(
    network: MLP | CNN | KernelFn, x1: Real[Array, "n1 ..."], x2: Real[Array, "n2 ..."] | None = None
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """The tangent kernel of `network` in the limit of infinite width.

    The kernel of an MLP is Theta^(L) of the recursion above. Angles are not computed from cosines where that cancels,
    so entries are accurate relative to themselves at any scale of x, even for equal, nearly equal and opposite points:
    within 10 eps for relu, erf and linear; for tanh, within 20 eps in float32 and 3e-14 in float64 (its expectations
    are sums over 27^2 nodes, which makes it much slower than erf). The remaining error is the rounding of x.x', about
    eps |x| |x'|, where x and x' are nearly orthogonal. (At equal and opposite points the kernel of a ReLU network has a
    cusp, and the gradient across it is set to zero.) Half precision is computed in float32.

    The kernel of a CNN follows the same recursion between every two positions of two images (Arora et al. 2019,
    Sec. 4), with the same expectations. It holds several arrays of n1 n2 (h w)^2 numbers, so pass a few examples at a
    time. For relu, angles from the second layer on below sqrt(8 eps |r - r'| / r) count as zero, where r and r' are the
    lengths of the two positions.

    Args:
        network: an `MLP` or a `CNN`, of which depth, activation, outputs and geometry matter, but not the widths; or
            a `kernel_fn` of neural-tangents, called as `kernel_fn(x1, x2, "ntk")`. On a current JAX,
            `gsjax.tangent.neural_tangents.load()` imports neural-tangents.
        x1: examples, `(n1, ...)`; for an MLP flattened as `network` does, for a CNN `(n1, h, w, c)`.
        x2: examples, `(n2, ...)`; if None, x1, and the result `(n1, n1)` is symmetric to the last bit.

    Returns:
        `(n1, n2)` for one output; `(n1, n2, k, k)` for k outputs, the kernel times the identity. For a `kernel_fn`, its
        result: `(n1, n2)` for a network that ends in a `Dense`, for any number of outputs.

    Raises:
        ValueError: `network` is none of these; x1 or x2 has no batch axis, is empty, complex or not finite, or does not
            have four axes for a CNN; their shapes differ beyond the first axis; for an MLP or a CNN, the mean square of
            an example over- or underflows (in float32, entries of about 1e18 or 1e-16). Under `jit`, its entries of the
            kernel are NaN instead.

    >>> x = jnp.array([[2.0, 0.0, 0.0, 0.0]])
    >>> infinite_ntk(MLP((64, 64)), x).tolist()  # (L + 1) |x|^2 / d_0
    [[3.0]]
    """
    ours = isinstance(network, MLP | CNN)
    expected = "a gsjax.networks.MLP or CNN, or a kernel_fn of neural-tangents"
    # Every flax module is callable, but its limit is not known.
    known = ours or (callable(network) and not isinstance(network, nn.Module))
    _check.require(known, "network", expected, type(network).__name__)
    x1 = _examples("x1", x1, network)
    if x2 is not None:
        x2 = _examples("x2", x2, network)
        same = x1.shape[1:] == x2.shape[1:]
        _check.require(same, "x2", f"examples of the shape of x1's, {x1.shape[1:]}", f"shape {x2.shape}")

    theta = _recursion()(network, x1, x2) if isinstance(network, MLP | CNN) else network(x1, x2, "ntk")
    if x2 is None and theta.ndim == 2:
        theta = symmetrise(theta)
    if not ours or network.outputs == 1:
        return theta
    return theta[..., None, None] * jnp.eye(network.outputs, dtype=theta.dtype)


@functools.cache
def _recursion() -> Callable[..., Array]:
    """One jitted function for all calls; otherwise its loops would be compiled anew at each call."""

    def theta(network: MLP | CNN, x1: Array, x2: Array | None) -> Array:
        return _mlp_ntk(network, x1, x2) if isinstance(network, MLP) else cnn_ntk(network, x1, x2)

    return jax.jit(theta, static_argnums=0)


def _mlp_ntk(network: MLP, x1: Float[Array, "n1 ..."], x2: Float[Array, "n2 ..."] | None) -> Float[Array, "n1 n2"]:
    """Theta^(L) of the recursion above."""
    x1 = x1.reshape(len(x1), -1)
    cov, q1, q2, sine = geometry.pairs(x1, x1 if x2 is None else x2.reshape(len(x2), -1))
    theta = cov
    for _ in network.widths:
        cov, slope, q1, q2, sine = layer(network.activation, cov, q1, q2, sine)
        theta = cov + slope * theta
    return theta


def _examples(name: str, x: Any, network: Any) -> Float[Array, "n ..."]:
    """Checked examples, as floating point numbers whose squares are representable."""
    _check.require(not jnp.iscomplexobj(x), name, "real numbers", "complex ones")
    x = _check.as_float(x)
    if isinstance(network, CNN):
        _check.shape(name, x, ndim=4)
    _check.require(x.ndim >= 2 and x.size, name, "a non-empty array (n, ...)", f"shape {x.shape}")
    _check.finite(name, x)
    if not isinstance(network, MLP | CNN):
        return x
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    held = geometry.representable(x)
    if _check.is_concrete(held) and not held.all():
        bad = x[jnp.argmin(held)]
        info = jnp.finfo(x.dtype)
        low, high = math.sqrt(info.tiny / info.eps), math.sqrt(info.max) / 16
        expected = f"examples of a root mean square from {low:.0e} to {high:.0e}, or zero, whose kernel {x.dtype} holds"
        raise ValueError(f"{name}: expected {expected}, got one with entries up to {jnp.abs(bad).max():.1e}")
    return jnp.where(held.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan)
