"""The tangent kernel of a CNN in the limit of many channels, between every two positions of two images."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gsjax.networks import CNN
from gsjax.tangent import geometry
from gsjax.tangent.duals import layer

__all__ = ["cnn_ntk"]


class _Fields(NamedTuple):
    """The quantities that a convolution averages over its patches.

    These are the covariance, the tangent kernel `theta`, the variances, and `gap`, E (h - h')^2 = q1 + q2 - 2 cov. The
    gap is small between nearly equal positions, where it could not be computed as this difference.
    """

    cov: Float[Array, "n1 h w n2 h w"]
    theta: Float[Array, "n1 h w n2 h w"]
    gap: Float[Array, "n1 h w n2 h w"]
    q1: Float[Array, "n1 h w 1 1 1"]
    q2: Float[Array, "1 1 1 n2 h w"]


def cnn_ntk(network: CNN, x1: Float[Array, "n1 h w c"], x2: Float[Array, "n2 h w c"] | None) -> Float[Array, "n1 n2"]:
    """The tangent kernel of one output of `network` in the limit of many channels (Arora et al. 2019).

    Args:
        network: its activation, kernel size, strides and padding matter, but not its numbers of channels.
        x1: examples, `(n1, h, w, c)`.
        x2: examples, `(n2, h, w, c)`; x1 if None.

    Returns:
        `(n1, n2)`.

    >>> network = CNN((64,), activation="linear", padding="CIRCULAR")
    >>> cnn_ntk(network, jnp.full((1, 4, 4, 1), 2.0), None).tolist()
    [[8.0]]
    """
    x2 = x1 if x2 is None else x2
    if not network.strides:
        return geometry.pairs(x1.mean(axis=(1, 2)), x2.mean(axis=(1, 2))).cov
    first, *rest = network.strides
    patches1, patches2 = _patches(network, x1, first), _patches(network, x2, first)
    pairs = geometry.pairs(*(patches.reshape(-1, patches.shape[-1]) for patches in (patches1, patches2)))
    shape1, shape2 = patches1.shape[:3], patches2.shape[:3]
    cov, sine = pairs.cov.reshape(*shape1, *shape2), pairs.sine.reshape(*shape1, *shape2)
    fields = _activated(network, cov, cov, pairs.q1.reshape(*shape1, 1, 1, 1), pairs.q2.reshape(1, 1, 1, *shape2), sine)
    for stride in rest:
        cov, theta, gap, q1, q2 = _averaged(network, fields, stride)
        sine = _sine(gap, q1, q2) if network.activation == "relu" else geometry.sine_from_moments(cov, q1, q2)
        fields = _activated(network, cov, cov + theta, q1, q2, sine)
    return (fields.cov + fields.theta).mean(axis=(1, 2, 4, 5))


def _activated(network: CNN, cov: Array, theta: Array, q1: Array, q2: Array, sine: Array) -> _Fields:
    """The fields of h from the moments of f, whose tangent kernel is `theta`."""
    cov, slope, q1, q2, sine = layer(network.activation, cov, q1, q2, sine)
    root1, root2, cosine = geometry.root(q1), geometry.root(q2), geometry.cosine_from_moments(cov, q1, q2)
    defect = jnp.where(cosine > 0, sine**2 / (1 + jnp.abs(cosine)), 1 - cosine)
    return _Fields(cov, slope * theta, (root1 - root2) ** 2 + 2 * root1 * root2 * defect, q1, q2)


def _sine(gap: Array, q1: Array, q2: Array) -> Array:
    """The sine of an angle of at most 90 degrees; zero where it is within the rounding error of the distance."""
    root1, root2 = geometry.root(q1), geometry.root(q2)
    difference, scale = jnp.abs(root1 - root2), 2 * root1 * root2
    excess = gap - difference**2
    rounding = 8 * jnp.finfo(gap.dtype).eps * (gap + difference * (root1 + root2))
    distinct = (excess > rounding) & (scale > 0)
    defect = jnp.where(distinct, excess / jnp.where(scale > 0, scale, 1), 0)
    return geometry.root(defect * (2 - defect))


def _patches(network: CNN, x: Array, stride: int) -> Float[Array, "n h w d"]:
    """The input patches of the first convolution."""
    padded, offsets = _padded(network, x, (1, 2), stride), range(network.kernel_size)
    rows = [_shifted(network, padded, (1,), offset, stride) for offset in offsets]
    return jnp.concatenate([_shifted(network, row, (2,), offset, stride) for row in rows for offset in offsets], -1)


def _averaged(network: CNN, fields: _Fields, stride: int) -> _Fields:
    """The means over patches: at (p, p'), over offsets o, of the entries at (p + o, p' + o)."""
    for axis1, axis2 in ((1, 4), (2, 5)):
        axes = [(axis1, axis2)] * 3 + [(axis1,), (axis2,)]
        padded = _Fields(
            *(_padded(network, field, field_axes, stride) for field, field_axes in zip(fields, axes, strict=True))
        )
        if network.padding == "SAME":
            # Beyond the border h or h' is zero, and the gap is the variance of the other.
            ones = jnp.ones([size if axis in (axis1, axis2) else 1 for axis, size in enumerate(fields.cov.shape)])
            interior = _padded(network, ones, (axis1, axis2), stride) > 0
            padded = padded._replace(gap=jnp.where(interior, padded.gap, padded.q1 + padded.q2))
        fields = _Fields(
            *(_mean(network, field, field_axes, stride) for field, field_axes in zip(padded, axes, strict=True))
        )
    return fields


def _mean(network: CNN, padded: Array, axes: tuple[int, ...], stride: int) -> Array:
    shifted = (_shifted(network, padded, axes, offset, stride) for offset in range(network.kernel_size))
    return functools.reduce(jnp.add, shifted) / network.kernel_size


def _padded(network: CNN, array: Array, axes: tuple[int, ...], stride: int) -> Array:
    """Padding as in flax, where circular padding does not depend on the stride."""
    circular, size, widths = network.padding == "CIRCULAR", network.kernel_size, [(0, 0)] * array.ndim
    for axis in axes:
        [pads] = lax.padtype_to_pads((array.shape[axis],), (size,), (stride,), "SAME")
        widths[axis] = ((size - 1) // 2, size // 2) if circular else pads
    return jnp.pad(array, widths, "wrap" if circular else "constant")


def _shifted(network: CNN, padded: Array, axes: tuple[int, ...], offset: int, stride: int) -> Array:
    """The entries at one offset of every patch, the same along all `axes`."""
    for axis in axes:
        limit = padded.shape[axis] - network.kernel_size + offset + 1
        padded = lax.slice_in_dim(padded, offset, limit, stride, axis)
    return padded
