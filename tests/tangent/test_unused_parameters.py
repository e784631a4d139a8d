"""Kernels of parameters that nothing depends on, and outputs that have no kernel."""

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
from gsjax.tangent.cache import Blocks
from tests.tangent.derivatives import N, w, x

UNUSED = {
    "not used": lambda p, x: jnp.sin(x).sum(1),
    "two outputs": lambda p, x: jnp.sin(x),
    "stopped": lambda p, x: x @ lax.stop_gradient(p["w"]),
    "rounded": lambda p, x: x @ jnp.round(p["w"]),
    "whole": lambda p, x: x @ p["w"].astype(int).astype(float),
    "in a comparison": lambda p, x: jnp.where(p["w"] > 0, x, 2 * x).sum(1),
    "times zero": lambda p, x: x.sum(1) + jnp.zeros(3) @ p["w"],
    "in an index": lambda p, x: x[:, jnp.argmax(p["w"])],
    "in an output that is thrown away": lambda p, x: jax.jit(lambda w, x: (x.sum(1), x @ w))(p["w"], x)[0],
    "in a branch": lambda p, x: lax.cond(p["w"][0] > 1e3, lambda: x @ p["w"], lambda: x.sum(1)),
    "jitted": jax.jit(lambda p, x: jnp.sin(x).sum(1)),
    "in a scan": lambda p, x: lax.scan(lambda h, w: (h, w), x.sum(1), p["w"])[0],
    "in a layer of flax": lambda p, x: nn.Dense(1).apply(
        {"params": {"kernel": lax.stop_gradient(p["w"])[:, None], "bias": jnp.zeros(1)}}, x
    ),
}


@pytest.mark.parametrize("name", UNUSED)
def test_the_kernel_of_unused_parameters_is_zero(name):
    apply_fn, params = UNUSED[name], {"w": w, "more": [jnp.ones((0, 2)), jnp.ones(())]}
    k = jax.eval_shape(apply_fn, params, x).shape[1:]
    ways: list[dict[str, Any]] = [{}, {"method": "jacobian"}, {"batch_size": 3}]
    for options in ways:
        np.testing.assert_array_equal(ntk(apply_fn, params, x, **options), np.zeros((N, N, *k, *k)))
    np.testing.assert_array_equal(ntk(apply_fn, params, x[:2], x), np.zeros((2, N, *k, *k)))
    np.testing.assert_array_equal(jax.jit(lambda p, x: ntk(apply_fn, p, x))(params, x), np.zeros((N, N, *k, *k)))
    np.testing.assert_array_equal(ntrf(apply_fn, params, x), np.zeros((N, *k, 4)))
    operator = ntk_operator(apply_fn, params, x)
    np.testing.assert_array_equal(operator.mv(jnp.ones((N, *k))), np.zeros((N, *k)))
    assert not np.asarray(operator.as_matrix()).any()


def test_unused_parameters_beside_used_ones():
    params = {"w": w, "not": jnp.ones(2)}
    for apply_fn in (lambda p, x: x @ p["w"], lambda p, x: x @ p["w"] + lax.stop_gradient(p["not"]).sum()):
        np.testing.assert_allclose(ntk(apply_fn, params, x), x @ x.T, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(ntrf(apply_fn, params, x)[:, :2], np.zeros((N, 2)))  # "not" comes first


@pytest.mark.parametrize("function", [ntk, ntrf, ntk_operator, functools.partial(ntk, method="jacobian")])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int8, jnp.uint8, jnp.bool_])
@pytest.mark.parametrize("several", [False, True])
def test_outputs_of_other_types_are_refused(function, dtype, several):
    with pytest.raises(ValueError, match=rf"^apply_fn: .*{jnp.dtype(dtype).name}"):
        function(lambda w, x: ((x * w) if several else x @ w).astype(dtype), w, x)


@pytest.mark.parametrize("spoiled", [lambda b: b[:1], lambda b: b[None], lambda b: b.astype(np.float16), np.ravel])
def test_blocks_of_another_shape_or_type_are_refused(spoiled, tmp_path, monkeypatch):
    def apply_fn(w, x):
        return x @ w

    save = Blocks.save
    monkeypatch.setattr(Blocks, "save", lambda self, i, j, block: save(self, i, j, spoiled(block)))
    ntk(apply_fn, w, x, batch_size=2, cache=tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^cache: .*block-0-0\.npy"):
        ntk(apply_fn, w, x, batch_size=2, cache=tmp_path)
