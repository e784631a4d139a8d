"""The strongest features of a convolutional network by `from_operator`, against the full kernel and its features.

All ways are compiled beforehand and timed in one run, in float32; ratios can be compared between machines. Where the
kernel fits into memory, `from_operator` computes it. From products alone it needs a few tens of products. On CPUs, XLA
runs convolutions in a compiled loop without its fast kernels, so products are made one by one; the table also shows the
same products in a `fori_loop`.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import time
import warnings

import jax
import jax.numpy as jnp
import lineax as lx
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


def seconds(function, times=1):
    """The least of `times` calls after one that compiles."""
    jax.block_until_ready(function())
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - start)
    return min(taken)


def test_leading_features_against_the_full_kernel(capsys, once):
    n, top = 100 if once else 500, 5
    x = jax.random.normal(jax.random.key(0), (n, 16, 16, 3))
    y = np.where(np.asarray(x).mean((1, 2, 3)) > 0, 1.0, -1.0)
    network = Network()
    variables = jax.jit(network.init)(jax.random.key(1), x)
    operator = ntk_operator(network.apply, variables, x)
    compiled = jax.jit(lambda variables, x: ntk(network.apply, variables, x))

    @jax.jit
    def loop(operator, v):
        return lax.fori_loop(0, 3, lambda _, v: operator.mv(v) / n, v)

    # The same products, of an operator that is not known for the network's.
    products_only = lx.FunctionLinearOperator(
        operator.fn, operator.in_structure(), operator.tags, closure_convert=False
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ntk: float32 resolves", UserWarning)
        expected = features.from_ntk(compiled(variables, x), y)
    for known in (operator, products_only):
        np.testing.assert_allclose(features.from_operator(known, y, top=top).s, expected.s[:top], rtol=1e-3)

    def full():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "ntk: float32 resolves", UserWarning)
            return features.from_ntk(compiled(variables, x), y).s

    taken = {
        "from_ntk of the full kernel": seconds(full, 3),
        "the full kernel": seconds(lambda: compiled(variables, x), 5),
        "from_operator": seconds(lambda: features.from_operator(operator, y, top=top).s, 5),
        "from_operator, products alone": seconds(lambda: features.from_operator(products_only, y, top=top).s),
        "one product": seconds(lambda: operator.mv(jnp.ones(n)), 5),
        "three products in a compiled loop": seconds(lambda: loop(operator, jnp.ones(n))),
    }
    with capsys.disabled():
        print(f"\nCNN of 2 x 32 channels, 16x16x3, n = {n}, the {top} strongest features")
        for name, value in taken.items():
            print(f"  {name:36} {value:9.3f} s   {value / taken['the full kernel']:7.2f}")
    if once:
        return
    assert taken["from_operator"] < 3 * taken["the full kernel"]
    # About 40: not the 115 of a space of a fixed dimension.
    assert taken["from_operator, products alone"] < 80 * taken["one product"]
