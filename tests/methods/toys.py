"""Networks, data and comparisons that the tests of methods share."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.methods import Batch

N = 12

# A test runs its programs only a few times, so that expensive optimisations of the compiler do not pay.
compiled = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


class Noisy(nn.Module):
    """A network with batch normalisation and dropout."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        h = nn.BatchNorm(use_running_average=not train, momentum=0.9, param_dtype=x.dtype)(
            nn.Dense(8, param_dtype=x.dtype)(x)
        )
        h = nn.Dropout(0.2, deterministic=not train)(nn.relu(h))
        return nn.Dense(1, param_dtype=x.dtype)(h)[:, 0]


class Linear(nn.Module):
    """Outputs f = w x + b, or the pair (-f / 2, f / 2), whose cross-entropy is log(1 + exp(-y f))."""

    pair: bool = False

    @nn.compact
    def __call__(self, x):
        f = nn.Dense(1, param_dtype=x.dtype)(x)
        return jnp.concatenate([-f / 2, f / 2], axis=1) if self.pair else f[:, 0]


def batch(dtype=np.float32) -> Batch:
    rng = np.random.default_rng(0)
    y = np.tile([-1, 1], N // 2).astype(dtype)
    x = rng.standard_normal((N, 4)) + 2 * y[:, None] * np.eye(4)[0]
    return Batch(
        x.astype(dtype),
        y,
        group=np.arange(N) % 3,
        environment=np.arange(N) // 6,
        index=np.arange(N),
        teacher_logits=(3 * x[:, 0]).astype(dtype),
    )


def leaves(tree) -> list[np.ndarray]:
    keys = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf  # noqa: E731
    return [np.asarray(keys(leaf)) for leaf in jax.tree.leaves(tree)]


def close(found, expected, rtol=1e-5, atol=1e-6) -> None:
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
