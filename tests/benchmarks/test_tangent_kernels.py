"""Tangent kernels against other implementations and against a lower bound, their matrix products alone.

    make bench                                        everything, one table per network
    .venv/bin/python -m pytest tests/benchmarks/test_tangent_kernels.py -k "linen or transformer"
                                                      other frameworks, and a transformer
    .venv/bin/pip install torch && make bench         with PyTorch's torch.func among the peers

All ways to a kernel are timed in turns in one run, compiled and synchronised, in float32. The table shows the
fastest round of each and its ratio to `gsjax.tangent.ntk`. Ratios can be compared between machines. The
NTK-vector products of neural-tangents are left out for plain CNNs, where they took 60 to 160 times as long as ours.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gsjax.tangent import neural_tangents, ntk
from tests.frameworks import OTHERS, in_linen
from tests.frameworks.networks import Conv, cnn, mlp, residual, transformer

# Of each way; after three rounds those that have taken longer sit out, after one by far longer.
ROUNDS, SECONDS = 15, 5.0
FEW = 8  # examples, where nothing is timed


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Dense(1024)(x))
        return nn.Dense(1)(x)[:, 0]


class CNN(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.relu(nn.Conv(self.channels, (3, 3))(x))
        return nn.Dense(1)(x.mean((1, 2)))[:, 0]


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        for channels, stride in ((16, 1), (32, 2), (64, 2)):
            h = nn.relu(nn.Conv(channels, (3, 3), stride)(x))
            x = nn.relu(nn.Conv(channels, (3, 3))(h) + nn.Conv(channels, (1, 1), stride)(x))
        return nn.Dense(1)(x.mean((1, 2)))[:, 0]


CASES = {
    "MLP 784-1024-1024-1, n = 256": (MLP(), (256, 784)),
    "CNN of 3 x 32 channels, 16x16x3, n = 128": (CNN(32), (128, 16, 16, 3)),
    "CNN of 3 x 128 channels, 16x16x3, n = 128": (CNN(128), (128, 16, 16, 3)),
    "residual CNN of 16, 32, 64 channels, 32x32x3, n = 64": (ResNet(), (64, 32, 32, 3)),
}


def jacobian_kernel(apply_fn, params, x):
    """`vmap(grad)` and a contraction."""

    def output(params, example):
        return apply_fn(params, example[None])[0]

    rows = jax.vmap(jax.jacrev(output), (None, 0))(params, x)
    flat = [leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(rows)]
    return sum(leaf @ leaf.T for leaf in flat)


def neural_tangents_kernel(apply_fn, implementation):
    nt = neural_tangents.load()
    function = nt.empirical_ntk_fn(
        apply_fn, trace_axes=(), vmap_axes=0, implementation=nt.NtkImplementation[implementation]
    )
    return lambda variables, x: function(x, None, variables)


def floor(network: nn.Module, variables: Any, x: jax.Array) -> Callable[[], Any]:
    """Only the matrix products and convolutions, with given operands: forward, backward, and of the kernel.

    Dense layers: a product each way, and two Gram matrices. Convolutions: one each way, the products of cotangents and
    patches, one by one, and the Gram matrix of what these give.
    """
    shapes = []

    def record(next_fun, args, kwargs, context):
        y = next_fun(*args, **kwargs)
        if isinstance(context.module, nn.Dense | nn.Conv):
            shapes.append((context.module, args[0].shape, y.shape))
        return y

    with nn.intercept_methods(record):
        jax.eval_shape(network.apply, variables, x)
    operands, keys = [], iter(jax.random.split(jax.random.key(0), 100))
    for layer, inputs, outputs in shapes:
        h, g = (jax.random.normal(next(keys), shape) for shape in (inputs, outputs))
        size = (*getattr(layer, "kernel_size", ()), inputs[-1], outputs[-1])
        w = jax.random.normal(next(keys), size)
        patches = jax.random.normal(next(keys), (len(x), math.prod(outputs[1:-1]), math.prod(size[:-1])))
        operands.append((h, g, w, patches if isinstance(layer, nn.Conv) else None))

    def forward(h, w, g):
        if h.ndim == 2:
            return h @ w
        stride = h.shape[1] // g.shape[1]
        return lax.conv_general_dilated(h, w, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    @jax.jit
    def products(operands):
        results = []
        for number, (h, g, w, patches) in enumerate(operands):
            results.append(forward(h, w, g))
            if number > 0:  # no gradient by the examples is needed
                results += jax.linear_transpose(lambda h, w=w, g=g: forward(h, w, g), h)(g)
            if patches is None:
                results += [h @ h.T, g @ g.T]
            else:
                pairs = (patches, g.reshape(*patches.shape[:2], -1))
                rows = lax.map(lambda pair: pair[1].T @ pair[0], pairs).reshape(len(h), -1)
                results.append(rows @ rows.T)
        return results

    return lambda: products(operands)


def torch_kernel(x: jax.Array, params: Any) -> Callable[[], Any] | None:
    """The recipe of PyTorch's documentation: Jacobians by vmap(jacrev), contracted leaf by leaf."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch, func = importlib.import_module("torch"), importlib.import_module("torch.func")

    layers = [params[f"Dense_{number}"] for number in range(3)]
    modules = [torch.nn.Linear(*layer["kernel"].shape) for layer in layers]
    network = torch.nn.Sequential(modules[0], torch.nn.ReLU(), modules[1], torch.nn.ReLU(), modules[2])
    with torch.no_grad():
        for module, layer in zip(modules, layers, strict=True):
            module.weight.copy_(torch.tensor(np.asarray(layer["kernel"].T)))
            module.bias.copy_(torch.tensor(np.asarray(layer["bias"])))
    values = {name: value.detach() for name, value in network.named_parameters()}
    inputs = torch.tensor(np.asarray(x))

    def output(values, example):
        return func.functional_call(network, values, (example.unsqueeze(0),)).squeeze(0)

    def kernel():
        rows = func.vmap(func.jacrev(output), (None, 0))(values, inputs)
        leaves = [leaf.flatten(2) for leaf in rows.values()]
        return np.asarray(torch.stack([torch.einsum("Naf,Maf->NM", leaf, leaf) for leaf in leaves]).sum(0))

    return kernel


def seconds(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The fastest of several rounds over all ways, which are compiled."""
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            if sum(rounds[name]) > (SECONDS if len(rounds[name]) > 2 else 2 * SECONDS):
                continue
            start = time.perf_counter()
            jax.block_until_ready(way())
            rounds[name].append(time.perf_counter() - start)
    return {name: min(taken) for name, taken in rounds.items()}


@pytest.mark.parametrize("case", CASES)
def test_against_peers_and_floor(case, capsys, once):
    network, (n, *shape) = CASES[case]
    x = jax.random.normal(jax.random.key(1), (FEW if once else n, *shape))
    variables = jax.jit(network.init)(jax.random.key(2), x)
    apply_fn = network.apply

    def compiled(function):
        function = jax.jit(function)
        return lambda: function(variables, x)

    ways = {
        "gsjax": compiled(lambda variables, x: ntk(apply_fn, variables, x)),
        "floor": floor(network, variables, x),
        "vmap(grad) and contraction": compiled(
            lambda variables, x: jacobian_kernel(
                lambda params, x: apply_fn({"params": params}, x), variables["params"], x
            )
        ),
        "neural-tangents, Jacobian contraction": compiled(neural_tangents_kernel(apply_fn, "JACOBIAN_CONTRACTION")),
    }
    if not isinstance(network, CNN):
        ways["neural-tangents, NTK-vector products"] = compiled(neural_tangents_kernel(apply_fn, "NTK_VECTOR_PRODUCTS"))
    if isinstance(network, MLP) and (torch := torch_kernel(x, variables["params"])):
        ways["torch.func, Jacobian contraction"] = torch
    table(case, ways, "gsjax", capsys, once)


# The same networks and sizes as above, in every framework.
PLACES = {
    "MLP 784-1024-1024-1, n = 256": (mlp(1024, 1024, inputs=784), 256),
    "CNN of 3 x 32 channels, 16x16x3, n = 128": (cnn(*[Conv(32)] * 3, shape=(16, 16, 3)), 128),
    "residual CNN of 16, 32, 64 channels, 32x32x3, n = 64": (
        residual((16, 1), (32, 2), (64, 2), shape=(32, 32, 3)),
        64,
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_other_frameworks_beside_linen(case, capsys, once):
    network, n = PLACES[case]
    variables, x = single_precision(network, FEW if once else n)
    ways = {}
    for name, build in {"flax.linen": in_linen.build, **OTHERS}.items():
        apply_fn, params = build(network, variables)
        ways[name] = functools.partial(jax.jit(ntk, static_argnums=0), apply_fn, params, x)
    table(case, ways, "flax.linen", capsys, once)


def test_a_transformer(capsys, once):
    """With one product for queries, keys and values, in plain JAX."""
    network, n = transformer(256, 4, tokens=1000, length=64), 64
    variables, x = single_precision(network, n)
    apply_fn, params = OTHERS["plain JAX"](network, variables)
    ways = {
        "gsjax": functools.partial(jax.jit(ntk, static_argnums=0), apply_fn, params, x),
        "floor": floor_of_a_transformer(n, 64, 256, 4, 1000),
        "vmap(grad) and contraction": functools.partial(
            jax.jit(jacobian_kernel, static_argnums=0), apply_fn, params, x
        ),
    }
    table("transformer block, 1000 tokens, 64 positions, width 256, 4 heads, n = 64", ways, "gsjax", capsys, once)


def single_precision(network, n):
    """Variables and examples in float32, the same for every framework."""
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), in_linen.draw_variables(network)), network.examples(n)


def floor_of_a_transformer(n: int, length: int, width: int, heads: int, tokens: int) -> Callable[[], Any]:
    """As `floor`: of each weight both products and its share, attention's own products, the embedding.

    A weight's share costs `n^2 p^2 (fan_in + fan_out)` multiplications by Gram matrices of all pairs of p positions,
    and `(n p + n^2) fan_in fan_out` by gradients. Of the embedding, the products of inputs are comparisons and the
    gradients sums by words. Gradients are cheaper for all but the readout, which has one position and is left out.
    """
    weights = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    for fan_in, fan_out in (*weights, (tokens, width)):
        gram_cost = n**2 * length**2 * ((0 if fan_in == tokens else fan_in) + fan_out)
        spread = n * length * width if fan_in == tokens else n * length * fan_in * fan_out
        assert spread + n**2 * fan_in * fan_out < gram_cost
    keys = iter(jax.random.split(jax.random.key(0), 100))

    def draw(*shape):
        return jax.random.normal(next(keys), shape)

    layers = [(draw(n, length, fan_in), draw(n, length, fan_out), draw(fan_in, fan_out)) for fan_in, fan_out in weights]
    q, k, v, g = (draw(n, length, heads, width // heads) for _ in range(4))
    scores, words, cotangents = (
        draw(n, heads, length, length),
        jax.random.randint(next(keys), (n, length), 0, tokens),
        draw(n, length, width),
    )

    @jax.jit
    def products(layers, attention, embedding):
        results = []
        for h, g, w in layers:
            results += [h @ w, g @ w.T]
            rows = lax.map(lambda pair: pair[1].T @ pair[0], (h, g)).reshape(n, -1)
            results.append(rows @ rows.T)
        q, k, v, g, scores = attention
        results += [jnp.einsum("nqhc,nkhc->nhqk", *pair) for pair in ((q, k), (g, v))]
        results += [jnp.einsum("nhqk,nkhc->nqhc", scores, other) for other in (v, k)]
        results += [jnp.einsum("nhqk,nqhc->nkhc", scores, other) for other in (g, q)]
        words, cotangents = embedding
        rows = jax.vmap(lambda word, g: jnp.zeros((tokens, width)).at[word].add(g))(words, cotangents).reshape(n, -1)
        return [*results, rows @ rows.T]

    return lambda: products(layers, (q, k, v, g, scores), (words, cotangents))


def table(case: str, ways: dict[str, Callable[[], Any]], unit: str, capsys: Any, once: bool) -> None:
    """Checks that all ways give the same kernel; prints their times and ratios to the way `unit`, unless run `once`."""
    expected = np.asarray(ways[unit]())
    jax.block_until_ready(ways["floor"]() if "floor" in ways else None)
    for name in ways.keys() - {unit, "floor"}:
        np.testing.assert_allclose(ways[name](), expected, rtol=0, atol=2e-5 * np.abs(expected).max(), err_msg=name)
    if once:
        return
    taken = seconds(ways)
    with capsys.disabled():
        print(f"\n{case}")
        for name, value in taken.items():
            print(f"  {name:40} {1e3 * value:9.1f} ms   {value / taken[unit]:7.2f}")


def test_many_examples_in_bounded_memory(capsys):
    """The peak memory of a separate process, for 20,000 examples."""
    n, width = 20_000, 128
    script = textwrap.dedent(f"""
        import pathlib, re, time, jax
        from gsjax.networks import MLP
        from gsjax.tangent import ntk

        def peak():
            return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

        network = MLP(({width},))
        x = jax.random.normal(jax.random.key(0), ({n}, 784))
        variables = jax.jit(network.init)(jax.random.key(1), x)
        before, start = peak(), time.perf_counter()
        kernel = jax.block_until_ready(ntk(network.apply, variables, x))
        print(time.perf_counter() - start, (peak() - before) / kernel.nbytes)
    """)
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    taken, ratio = map(float, out.split())
    with capsys.disabled():
        size = 4 * n**2 / 1e9
        print(f"\nMLP 784-{width}-1, n = {n:,}: {taken:.1f} s, peak {ratio:.2f} times the kernel of {size:.1f} GB")
    assert 1 <= ratio < 2
