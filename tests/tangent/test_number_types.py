"""Kernels of networks with complex numbers and with layers in half precision."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gsjax.tangent import ntk, ntk_operator, ntrf
from tests.tangent.derivatives import HALF, METHODS, N, applied, check, conv, features, initial, normal

# Complex numbers


def dense_after_fft(p, x):
    return jnp.abs(applied(nn.Dense(3), {"kernel": p["w"], "bias": p["b"]}, jnp.fft.fft(x)))


def real_part(p, x):
    return jnp.real(jnp.fft.fft(jnp.tanh(x @ p["w"])) @ p["w"] + p["b"])


def imaginary_part(p, x):
    return jnp.imag((jnp.fft.fft(x) * p["b"]) @ p["w"])


def complex_weights(p, x):
    return jnp.abs(x @ (p["w"] + 1j * p["v"]) + 1j * p["b"])


def convolution_after_fft(p, x):
    h = jnp.fft.fft2(x.reshape(N if len(x) == N else len(x), 3, 1, 1), axes=(1, 2))
    y = conv(p["w"].reshape(3, 1, 1, 3).astype(complex), h)
    return (jnp.abs(y) ** 2).mean((1, 2))


def spectral_convolution(p, x):
    return jnp.fft.irfft(jnp.fft.rfft(x) * (p["w"][0, :2] + 1j * p["v"][0, :2]), 3)


def complex_scan(p, x):
    def step(z, _):
        return z * jnp.exp(1j * p["b"]) @ p["w"] / 2, None

    return jnp.real(lax.scan(step, x.astype(complex), None, length=2)[0])


def phases(p, x):
    return jnp.angle(jnp.exp(1j * jnp.tanh(x @ p["w"])) * (1 + 0.2j))


def conjugated(p, x):
    z = (x + 1j * jnp.sin(x)) @ p["w"]
    return jnp.real(z * jnp.conj(z @ p["v"]))


COMPLEX = [
    dense_after_fft,
    real_part,
    imaginary_part,
    complex_weights,
    convolution_after_fft,
    spectral_convolution,
    complex_scan,
    phases,
    conjugated,
]


@pytest.mark.parametrize("apply_fn", COMPLEX)
def test_complex_values_inside(apply_fn):
    with jax.enable_x64(True):
        params = {name: jnp.asarray(normal(3, 3, seed=i)) for i, name in enumerate("wv")} | {
            "b": jnp.asarray(normal(3))
        }
        check(apply_fn, params, jnp.asarray(normal(N, 3)), METHODS)


@pytest.mark.parametrize("function", [ntk, ntrf, ntk_operator, *(functools.partial(ntk, method=m) for m in METHODS)])
@pytest.mark.parametrize(
    "apply_fn",
    [
        lambda w, x: jnp.fft.fft(x @ w),
        lambda w, x: (x @ w).astype(complex)[:, 0],
        lambda w, x: nn.Dense(2).apply({"params": {"kernel": w[:, :2], "bias": w[0, :2]}}, jnp.fft.fft(x)),
    ],
)
def test_complex_outputs_are_refused(apply_fn, function):
    with pytest.raises(ValueError, match=r"^apply_fn: .*complex"):
        function(apply_fn, jnp.asarray(normal(3, 3)), jnp.asarray(normal(N, 3)))


# Layers in half precision with parameters in single precision


class Narrow(nn.Module):
    """Layers of all kinds between the first and the last one, computed in `dtype`."""

    layer: str
    dtype: object

    @nn.compact
    def __call__(self, x):
        options: Any = {"dtype": self.dtype}
        if self.layer == "dense":
            h = nn.Dense(16, **options)(x.reshape(len(x), -1))
        elif self.layer == "deep":
            h = nn.Dense(16, **options)(jnp.tanh(nn.Dense(16, **options)(x.reshape(len(x), -1))))
        elif self.layer == "convolution":
            h = nn.Conv(8, (3, 3), **options)(x)
        elif self.layer == "depthwise":
            h = nn.Conv(4, (2, 2), feature_group_count=4, **options)(x)
        elif self.layer == "transposed":
            h = nn.ConvTranspose(4, (2, 2), strides=(2, 2), **options)(x)
        elif self.layer == "attention":
            h = nn.MultiHeadDotProductAttention(num_heads=2, **options)(x.reshape(len(x), -1, 4) / 4)
        elif self.layer == "normalised":
            h = nn.LayerNorm(**options)(nn.Dense(8, **options)(x.reshape(len(x), -1)))
        elif self.layer == "embedding":
            ids = (x[..., 0] > 0).astype(int) + (x[..., 1] > 0)
            h = nn.Embed(3, 8, **options)(ids)
        else:
            h = nn.DenseGeneral((2, 4), axis=(-2, -1), **options)(x)
        h = jnp.tanh(h.reshape(len(x), -1) / 8)
        return nn.Dense(1, **options)(h)[:, 0]


NARROW = (
    "dense",
    "deep",
    "convolution",
    "depthwise",
    "transposed",
    "attention",
    "normalised",
    "embedding",
    "two axes",
)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("layer", "size"), [*((layer, 1.0) for layer in NARROW), ("dense", 60.0), ("convolution", 60.0)]
)
def test_half_precision_within_layers(layer, dtype, size):
    """The kernel has the precision of the parameters, is positive, and agrees with the rounded derivatives."""
    module = Narrow(layer, dtype)
    x = jnp.asarray(size * normal(6, 4, 4, 4), jnp.float32)
    params = jax.tree.map(lambda leaf: leaf / 2, {"params": initial(module, x)})
    phi = features(lambda params, x: module.apply(params, x), params, x)
    expected = phi @ phi.T
    kernel = np.asarray(ntk(module.apply, params, x))
    assert kernel.dtype == np.float32
    assert np.isfinite(kernel).all()
    np.testing.assert_array_equal(kernel, kernel.T)
    eigenvalues = np.linalg.eigvalsh(kernel.astype(float))
    assert eigenvalues[0] > -20 * np.finfo(np.float32).eps * eigenvalues[-1]
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (abs(kernel - expected) <= 4 * HALF[dtype] * scale).all()


@pytest.mark.parametrize("dtype", HALF)
def test_sums_beyond_half_precision(dtype):
    """A Gram matrix of activations that half precision cannot hold, or not to three digits."""
    x = jnp.asarray(np.round(8 * normal(5, 2048)) / 4 + 8, jnp.float32)  # exact in both

    def linear(w, x):
        return (x.astype(dtype) @ w.astype(dtype)).astype(jnp.float32)

    exact = np.asarray(x, float) @ np.asarray(x, float).T
    assert exact.max() > np.finfo(np.float16).max
    np.testing.assert_allclose(ntk(linear, jnp.ones(2048, jnp.float32), x), exact, rtol=1e-5)
    np.testing.assert_allclose(ntk(linear, jnp.ones((2048, 1), jnp.float32), x)[..., 0, 0], exact, rtol=1e-5)
