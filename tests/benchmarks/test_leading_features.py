"""The strongest features of a convolutional network from products alone, against the full kernel and its features.

Both in one run, compiled before, in float32; what can be compared between machines is the ratio. On CPUs XLA runs
convolutions in a compiled loop without its fast kernels, so products are made one by one; the same products in a
`fori_loop` are shown beside.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from gsjax import features
from gsjax.tangent import ntk, ntk_operator


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        for stride in (1, 2):
            x = nn.relu(nn.Conv(32, (3, 3), stride)(x))
        return nn.Dense(1)(x.mean((1, 2)))[:, 0]


def seconds(function):
    """The second of two calls: the first one compiles."""
    jax.block_until_ready(function())
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def test_products_one_by_one_against_the_full_kernel(capsys):
    n, top = 500, 5
    x = jax.random.normal(jax.random.key(0), (n, 16, 16, 3))
    y = np.where(np.asarray(x).mean((1, 2, 3)) > 0, 1.0, -1.0)
    network = Network()
    variables = jax.jit(network.init)(jax.random.key(1), x)
    operator = ntk_operator(network.apply, variables, x)
    compiled = jax.jit(lambda variables, x: ntk(network.apply, variables, x))

    @jax.jit
    def loop(operator, v):
        return lax.fori_loop(0, 3, lambda _, v: operator.mv(v) / n, v)

    found = features.from_operator(operator, y, top=top)
    expected = features.from_ntk(compiled(variables, x), y)
    np.testing.assert_allclose(found.s, expected.s[:top], rtol=1e-3)
    taken = {
        "from_ntk of the full kernel": seconds(lambda: features.from_ntk(compiled(variables, x), y).s),
        "from_operator": seconds(lambda: features.from_operator(operator, y, top=top).s),
        "one product": seconds(lambda: operator.mv(jnp.ones(n))),
        "three products in a compiled loop": seconds(lambda: loop(operator, jnp.ones(n))),
    }
    with capsys.disabled():
        print(f"\nCNN of 2 x 32 channels, 16x16x3, n = {n}, the {top} strongest features")
        for name, value in taken.items():
            print(f"  {name:36} {value:9.3f} s   {value / taken['from_ntk of the full kernel']:7.2f}")
    # 2 top + 60 of them, top more for the vectors, and half as many again to see that nothing was missed.
    assert taken["from_operator"] < 3 * 115 * taken["one product"]
