"""Networks with random parameters, and their kernels by JAX's own derivatives."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gsjax.tangent import ntk

N = 4
METHODS = ("auto", "structured", "jacobian")
HALF = {jnp.float16: 2.0**-10, jnp.bfloat16: 2.0**-7}


def normal(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).normal(size=shape)


def drawn(tree, seed=0):
    """A tree of these shapes, of random numbers in the float type in force."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 + random.normal(size=leaf.shape), float), tree)


def initial(module, x, **kwargs):
    return drawn(jax.eval_shape(functools.partial(module.init, **kwargs), jax.random.key(0), x))["params"]


def applied(module: Any, params, x, **kwargs):
    return module.apply({"params": params}, x, **kwargs)


def features(apply_fn, params, x):
    """Rows of derivatives in double precision, `(n k, m)`, of one example at a time."""
    rows = []
    # Compiled for CPUs in a third of the usual time.
    faster = {"xla_cpu_use_fusion_emitters": False}
    derivative = jax.jit(
        jax.jacrev(lambda params, example: apply_fn(params, example[None])[0]), compiler_options=faster
    )
    for example in x:
        k = jax.eval_shape(apply_fn, params, example[None]).size
        leaves = jax.tree.leaves(derivative(params, example))
        rows.append(np.concatenate([np.asarray(leaf, float).reshape(k, -1) for leaf in leaves], 1))
    return np.concatenate(rows)


def matrix(kernel):
    kernel = np.asarray(kernel)
    return kernel if kernel.ndim == 2 else kernel.swapaxes(1, 2).reshape(len(kernel) * kernel.shape[2], -1)


def check(apply_fn, params, x, methods=("auto",)):
    """The kernel of a network in double precision."""
    phi = features(apply_fn, params, x)
    expected = phi @ phi.T
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert scale.min() > 0
    for method in methods:
        kernel = matrix(ntk(apply_fn, params, x, method=method))
        assert (abs(kernel - expected) <= 1e-12 * scale).all()
        np.testing.assert_array_equal(kernel, kernel.T)


def conv(kernel, h, *, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options):
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return lax.conv_general_dilated(h, kernel, dimension_numbers=dimension_numbers, **options)


w, x = jnp.asarray(normal(3), jnp.float32), jnp.asarray(normal(N, 3), jnp.float32)
