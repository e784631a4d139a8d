"""Random networks of many kinds of pieces, and their kernels by JAX's own derivatives.

`draw(seed)` is one network: a chain of layers, some of them wrapped (in `jit`, loops, branches, rules of their own),
whose weights come out of the parameters in many ways. A seed decides which piece of every family has to occur, so that
as many seeds in a row as the largest family has pieces contain all of them.

    python -m tests.tangent.random_networks 17          what the network of seed 17 is made of, and how it fares
    python -m tests.tangent.random_networks 0 2000      all seeds below 2000: one line for each that fails
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.tangent import ntk, ntk_operator, ntrf

from . import random_convolutions as convolutions
from . import random_series as series
from . import random_tokens as tokens
from . import random_vectors as vectors
from .random_activations import layer
from .random_draws import FAMILIES, KINDS, LAYERS, OPTIONS, OUTPUTS, TREES, Draw, Piece
from .random_tokens import VOCABULARY, chain_of_tokens, converted
from .random_weights import weight
from .random_wrappers import wrapped

__all__ = ["FAMILIES", "OPTIONS", "Network", "draw", "faults", "truth"]

N = 3  # examples


def _file(piece: Piece) -> str:
    return getattr(piece.make, "func", piece.make).__module__.rpartition("random_")[2]


# A seed draws a piece by its position in its family, which must not depend on which file was imported first.
_ORDER = [module.__name__.rpartition("random_")[2] for module in (vectors, series, convolutions, tokens)]
_layers = sorted(LAYERS.items(), key=lambda entry: _ORDER.index(_file(entry[1])))
LAYERS.clear()
LAYERS.update(_layers)


class Network(NamedTuple):
    seed: int
    apply_fn: Callable[[Any, Any], Any]
    params: Any
    x: Any
    pieces: frozenset[str]
    eps: float  # the largest one of a piece in lower precision, or 0

    @property
    def tolerance(self) -> float:
        """Relative to the natural size of an entry, the square root of the product of its diagonal ones.

        Two ways to a kernel in float64 differ by roundings: eps = 2e-16 times the number of additions in a row (below
        a thousand) times what cancels within a gradient (norms with their 0.1 keep that below a hundred). Where a
        piece is rounded to fewer digits, the two round differently at every such place.
        """
        return max(1e-11, 20 * self.eps)


def draw(seed: int) -> Network:
    """The network of a seed, in the float type in force."""
    d = Draw(np.random.default_rng(seed))
    d.due = {family: list(pieces)[seed % len(pieces)] for family, pieces in FAMILIES.items()}
    tree, output = d.pick("tree"), d.pick("output")

    kind = LAYERS[d.due["layer"]].kind if d.chance() else d.choice([*KINDS])
    shape = tuple(d.size() for _ in range(KINDS[kind]))
    x = d.rng.integers(-VOCABULARY, VOCABULARY + 3, (N, *shape)) if kind == "tokens" else d.rng.normal(size=(N, *shape))

    def identity(p, h):
        return h

    function, depth = identity, 0
    while depth < 1 or (d.due and depth < 8):
        due = d.due.get("layer")
        target = LAYERS[due].kind if due else d.choice(["vector", "series", "image", kind])
        step, shape = converted(d, shape, target, kind)
        function, kind = chain_of_tokens(function, step), target
        wrap = kind != "tokens" and not due and ("wrapper" in d.due or d.chance(0.4))
        step, shape = wrapped(d, shape, kind) if wrap else layer(d, shape, kind)
        function, kind = chain_of_tokens(function, step), {1: "vector", 2: "series", 3: "image"}[len(shape)]
        depth += 1
    assert not d.due, d.due
    step, (size,) = converted(d, shape, "vector", kind)
    read_out = output.make(d, size)
    function = chain_of_tokens(chain_of_tokens(function, step), read_out)

    params, flat = tree.make(d)
    apply_fn = (
        (lambda params, x: function(flat(params), x))
        if not d.chance(0.2)
        else jax.jit(lambda params, x: function(flat(params), x))
    )
    return Network(seed, apply_fn, params, jnp.asarray(x), frozenset(d.pieces), max(d.eps))


# Outputs


@OUTPUTS.add("(n,)")
def scalar(d, size):
    w = weight(d, size, 1)
    return lambda p, h: (h @ w(p))[:, 0]


@OUTPUTS.add("(n,) by a vector")
def by_a_vector(d, size):
    w = weight(d, size)
    return lambda p, h: h @ w(p)


@OUTPUTS.add("(n,) by a sum")
def by_a_sum(d, size):
    b = d.leaf(size)
    return lambda p, h: (jnp.tanh(h) + p[b] * h).sum(-1)


@OUTPUTS.add("(n, 1)")
def one_output(d, size):
    w = weight(d, size, 1)
    return lambda p, h: h @ w(p)


@OUTPUTS.add("(n, k)")
def several(d, size):
    w, b = weight(d, size, 2), d.leaf(2)
    return lambda p, h: h @ w(p) + p[b]


@OUTPUTS.add("(n, k) of values alone")
def values(d, size):
    b = d.leaf(size)
    return lambda p, h: h[:, :3] * (1 + p[b][:3])


@OUTPUTS.add("(n, k) in single precision")
def in_single(d, size):
    w = weight(d, size, 2)
    d.lower(np.float32)
    return lambda p, h: (h @ w(p)).astype(np.float32)


@OUTPUTS.add("(n, k) less that at other parameters")
def centred(d, size):
    w, origin = weight(d, size, 2), d.constant(size, 2)
    return lambda p, h: h @ w(p) - h @ origin


# Trees of parameters


@TREES.add("flat dict")
def flat_dict(d):
    return {name: jnp.asarray(leaf) for name, leaf in d.leaves.items()}, dict


@TREES.add("tuple")
def tuple_(d):
    return tuple(map(jnp.asarray, d.leaves.values())), lambda params: dict(zip(d.leaves, params, strict=True))


@TREES.add("nested, with None and nothing")
def nested(d):
    params = {"layers": [({"w": jnp.asarray(leaf), "none": None},) for leaf in d.leaves.values()], "nothing": ()}
    names = list(d.leaves)
    return params, lambda params: {name: part[0]["w"] for name, part in zip(names, params["layers"], strict=True)}


@TREES.add("one array")
def raveled(d):
    """All in one vector, cut up again by the network; leaves of lower precision are rounded there."""
    leaves = dict(d.leaves)
    whole = jnp.concatenate([jnp.ravel(jnp.asarray(leaf, float)) for leaf in leaves.values()])
    ends = np.cumsum([leaf.size for leaf in leaves.values()])

    def cut(params):
        return {
            name: params[end - leaf.size : end]
            .reshape(leaf.shape)
            .astype(leaf.dtype if leaf.dtype != float else whole.dtype)
            for (name, leaf), end in zip(leaves.items(), ends, strict=True)
        }

    return whole, cut


@TREES.add("of NumPy, with floats of Python")
def numpy_tree(d):
    kept = jnp.result_type(float)

    def numpy_leaf(leaf):
        return float(leaf) if leaf.shape == () else leaf.astype(kept) if leaf.dtype == np.float64 else leaf

    return {name: numpy_leaf(leaf) for name, leaf in d.leaves.items()}, dict


@TREES.add("variables of flax")
def variables(d):
    return {"params": flat_dict(d)[0], "batch_stats": {"mean": jnp.ones(3)}}, lambda v: dict(v["params"])


@TREES.add("with leaves that are not used")
def unused(d):
    params = flat_dict(d)[0]
    return {"": jnp.ones(2), "first": params, "last": [jnp.ones((0, 3)), jnp.ones(())]}, lambda tree: dict(
        tree["first"]
    )


# The true kernel and comparisons with it


def rows(network: Network) -> np.ndarray:
    """The Jacobian by all leaves, `(n, m)` or `(n, k, m)`, of one example at a time, in float64."""
    leaves, tree = jax.tree.flatten(network.params)
    if isinstance(network.params, dict) and "batch_stats" in network.params:
        leaves, tree = jax.tree.flatten(network.params["params"])
        rest = {"batch_stats": network.params["batch_stats"]}
        apply_fn = lambda params, x: network.apply_fn({"params": params, **rest}, x)  # noqa: E731
    else:
        apply_fn = network.apply_fn

    def one(leaves, example):
        return apply_fn(jax.tree.unflatten(tree, leaves), example[None])[0]

    # In a third of the time that XLA otherwise needs to compile for CPUs, which is most of what a network takes.
    jacobian = jax.jit(jax.jacrev(one), compiler_options={"xla_cpu_use_fusion_emitters": False})
    found = []
    for example in network.x:
        blocks = jacobian(leaves, example)
        outputs = jax.eval_shape(one, leaves, example).shape
        found.append(np.concatenate([np.asarray(block, float).reshape(*outputs, -1) for block in blocks], -1))
    return np.stack(found)


def gram(phi: np.ndarray, other: np.ndarray) -> np.ndarray:
    """As a matrix `(n k, m k)`."""
    return phi.reshape(-1, phi.shape[-1]) @ other.reshape(-1, phi.shape[-1]).T


def truth(network: Network) -> np.ndarray:
    phi = rows(network)
    return gram(phi, phi)


def as_matrix(kernel: Any) -> np.ndarray:
    kernel = np.asarray(kernel)
    if kernel.ndim == 2:
        return kernel
    return kernel.transpose(0, 2, 1, 3).reshape(kernel.shape[0] * kernel.shape[2], -1)


def faults(network: Network, *, further: str = "one") -> list[str]:
    """What is wrong with the kernel of a network, in float64; with no, one (by the seed), or all further ways to it."""
    apply_fn, params, x, seed = network.apply_fn, network.params, network.x, network.seed
    phi = rows(network)
    expected = gram(phi, phi)
    size = np.sqrt(np.diag(expected))
    sizes = np.outer(size, size)
    k = len(expected) // N
    found = []

    def hold(name: str, kernel: Any, expected: np.ndarray = expected, size: np.ndarray = sizes) -> None:
        kernel = np.asarray(kernel, float)
        if kernel.shape != expected.shape:
            found.append(f"{name}: shape {kernel.shape} for {expected.shape}")
            return
        wrong = np.abs(kernel - expected) - network.tolerance * size
        if not (wrong <= 0).all():
            excess = np.abs(kernel - expected) / np.maximum(size, np.finfo(float).tiny)
            found.append(f"{name}: {np.max(excess):.1e} off (allowed {network.tolerance:.1e})")

    def structured():
        kernel = as_matrix(ntk(apply_fn, params, x))
        hold("ntk", kernel)
        if not np.array_equal(kernel, kernel.T):
            found.append("ntk: not symmetric to the last bit")
        eigenvalues = np.linalg.eigvalsh(kernel.astype(float))
        eps = float(np.finfo(np.float32).eps if kernel.dtype == np.float32 else np.finfo(float).eps)
        if eigenvalues[0] < -50 * max(eps, network.eps**2) * max(eigenvalues[-1], 0):
            found.append(f"ntk: an eigenvalue of {eigenvalues[0]:.1e} beside {eigenvalues[-1]:.1e}")

    def rectangular():
        hold("ntk of x1 and x2", as_matrix(ntk(apply_fn, params, x[1:], x)), expected[k:], np.outer(size[k:], size))

    def in_blocks():
        hold("ntk in blocks", as_matrix(ntk(apply_fn, params, x, batch_size=2)))

    def compiled():
        hold("ntk under jit", as_matrix(jax.jit(lambda p, x: ntk(apply_fn, p, x, batch_size=2))(params, x)))

    def by_jacobian():
        hold("ntk by method='jacobian'", as_matrix(ntk(apply_fn, params, x, method="jacobian")))

    def by_features():
        features = np.asarray(ntrf(apply_fn, params, x), float)
        scale = np.linalg.norm(phi, axis=-1, keepdims=True)
        hold("ntrf", features, phi, np.broadcast_to(scale, phi.shape))

    def by_products():
        if network.eps > 1e-4 and size.max() < 1e-4:
            return  # what goes through a leaf of half precision underflows
        v = np.random.default_rng(seed).normal(size=(N, k) if phi.ndim == 3 else N)
        operator = ntk_operator(apply_fn, params, x)
        product = np.asarray(operator.mv(jnp.asarray(v, operator.in_structure().dtype)), float).ravel()
        hold("ntk_operator", product, expected @ v.ravel(), size * (size @ np.abs(v).ravel()))

    ways = [rectangular, in_blocks, compiled, by_jacobian, by_features, by_products]
    outputs = np.asarray(jax.jit(apply_fn)(params, x), float)
    constant = bool((outputs == outputs[:1]).all())

    chosen = {"no": [], "one": [ways[seed % len(ways)]], "all": ways}[further]
    for check in (structured, *chosen):
        try:
            check()
        except Exception as error:  # noqa: BLE001 - whatever is raised is a fault
            # Of a function with one output for all examples nothing can be said by numbers, and it may be refused.
            if constant and isinstance(error, ValueError) and "cannot be decided" in str(error):
                continue
            message = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            found.append(f"{check.__name__}: {message}")
            if further == "all":
                traceback.print_exc()
    return found


def main(first: int, last: int | None) -> int:
    """Prints what is wrong with the networks of a range of seeds, and how many there were."""
    failed = 0
    with jax.enable_x64(True):
        for seed in range(first, first + 1 if last is None else last):
            network = draw(seed)
            if last is None:
                print(*sorted(network.pieces), sep="\n")
                print(
                    jax.tree.map(jnp.shape, network.params), jax.make_jaxpr(network.apply_fn)(network.params, network.x)
                )
            found = faults(network, further="all" if last is None else "one")
            failed += bool(found)
            for line in found:
                print(f"seed {seed}: {line}; {', '.join(sorted(network.pieces))}", flush=True)
    print(f"{failed} of the networks of seeds {first} to {last} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
