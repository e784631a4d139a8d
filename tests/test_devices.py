"""Eight simulated devices: a sharded program gives the numbers of one device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

pytestmark = pytest.mark.devices8


def fixed_point(strength: jax.Array) -> jax.Array:
    """The alpha in (0, 1) with log((1 - alpha) / alpha) = strength alpha, by Newton's method on its logit."""

    def newton(_: int, logit: jax.Array) -> jax.Array:
        alpha = jax.nn.sigmoid(logit)
        return logit - (logit + strength * alpha) / (1 + strength * alpha * (1 - alpha))

    return jax.nn.sigmoid(jax.lax.fori_loop(0, 20, newton, jnp.zeros_like(strength)))


def test_there_are_eight_devices():
    assert jax.device_count() == 8


def test_a_sharded_vmap_gives_the_numbers_of_one_device(x64):
    strengths = jnp.geomspace(1e-2, 1e2, 16, dtype=x64)
    mesh = jax.make_mesh((8,), ("seeds",))
    split = NamedSharding(mesh, PartitionSpec("seeds"))

    single_device = jax.jit(jax.vmap(fixed_point))(strengths)
    sharded = jax.jit(jax.vmap(fixed_point), in_shardings=split, out_shardings=split)(strengths)

    assert len(single_device.sharding.device_set) == 1
    assert len(sharded.sharding.device_set) == 8
    assert {shard.data.shape for shard in sharded.addressable_shards} == {(2,)}
    assert sharded.dtype == x64
    eps = float(jnp.finfo(x64).eps)
    np.testing.assert_allclose(sharded, single_device, rtol=8 * eps)
    np.testing.assert_allclose(
        jax.scipy.special.logit(single_device), -strengths * single_device, rtol=8 * eps, atol=8 * eps
    )
