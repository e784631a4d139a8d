"""Seconds and peak memory of one kernel and of what follows from it, in a process of its own.

    python -m experiments._cost_worker '{"kind": "mlp", "width": 1024, "n": 100, "seed": 0, ...}'

prints one JSON object. The process has only this kernel, so its peak memory is that of the kernel. Every time is the
least of several, after a first call that compiles.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from experiments._cost_counts import Kind, network, shape, variables, work
from gsjax import dual, features, starvation, tangent
from gsjax.objectives import Ridge

__all__ = ["CONDITION", "TOP", "least", "main", "measure"]

CONDITION = 1e4
"""s_1^2 / lambda of the equilibrium."""
TOP = 10
"""Features that are found from products."""


def least(function: Callable[[], Any], patience: float) -> tuple[float, float]:
    """Seconds of the first call, and the least of those after it, of which there are three, or fewer if they are slow.

    Calls are repeated until they have taken `patience` seconds.
    """
    rounds: list[float] = []
    while len(rounds) < 2 or (len(rounds) < 4 and sum(rounds[1:]) < patience):
        start = time.perf_counter()
        jax.block_until_ready(function())
        rounds.append(time.perf_counter() - start)
    return rounds[0], min(rounds[1:])


def peak() -> float:
    """The most memory that this process has held so far, in MiB; zero where Linux does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


def measure(
    kind: Kind, *, width: int, n: int, seed: int, side: int, patience: float, decomposed: int
) -> dict[str, Any]:
    """All measurements for n examples.

    Args:
        kind: of the network.
        width: of `_cost_counts.network`.
        n: examples.
        seed: of examples and parameters.
        side: of the two square matrices whose product is the unit of speed.
        patience: seconds for the repetitions of each measurement.
        decomposed: the largest n whose kernel is decomposed.

    Returns:
        seconds, MiB, numbers of iterations and products, and the machine.
    """
    with jax.enable_x64(False):
        apply_fn, given = network(kind, width).apply, variables(kind, width, seed)
        x = jax.random.normal(jax.random.key(seed + 1), shape(n))
        jax.block_until_ready((given, x))
        before, start = peak(), time.perf_counter()
        jax.block_until_ready(tangent.ntk(apply_fn, given, x))
        first, held = time.perf_counter() - start, peak() - before
        run = _repeated(kind, width, n)
        _, single = least(lambda: run(given, x), patience)
        square = jax.random.normal(jax.random.key(0), (side, side))
        product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
        _, unit = least(lambda: product(square, square), patience)
        operator = tangent.ntk_operator(apply_fn, given, x)
        vector = jax.random.normal(jax.random.key(1), (n,))
        _, mv = least(lambda: operator.mv(vector), patience)
    found: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "peak": held,
        "first": first,
        "kernel": single,
        "unit": unit,
        "product": mv,
    }
    with jax.enable_x64(True):
        double, wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), (given, x))
        _, found["kernel64"] = least(lambda: run(double, wide), patience)
        if n <= decomposed:
            found |= _decomposed(np.asarray(run(double, wide)), seed, patience)
    return found


def _repeated(kind: Kind, width: int, n: int) -> Callable[[Any, Any], Any]:
    """The kernel as it is best repeated: one compiled program if it is one block, which saves the tracing."""

    def kernel(given: Any, x: Any) -> Any:
        return tangent.ntk(network(kind, width).apply, given, x)

    return jax.jit(kernel) if work(kind, width, n).blocks == 1 else kernel


def _decomposed(kernel: np.ndarray, seed: int, patience: float) -> dict[str, Any]:
    """Seconds of the decomposition and of what follows from it in float64, and how many products find the top."""
    n = len(kernel)
    y = jnp.asarray(np.where(np.random.default_rng(seed).random(n) < 0.5, -1.0, 1.0))
    matrix = jnp.asarray(kernel)
    eigh = jax.jit(jnp.linalg.eigh)
    _, decomposition = least(lambda: eigh(matrix), patience)
    feats = features.from_ntk(matrix, y)
    penalty = Ridge(float(feats.s2[0]) / CONDITION)
    state = dual.equilibrium(feats, penalty)
    _, equilibrium = least(lambda: dual.equilibrium(feats, penalty), patience)
    _, slopes = least(lambda: starvation.matrix(feats, penalty), patience)
    made = []

    def multiply(vector: Any) -> Any:
        jax.debug.callback(lambda: made.append(1))
        return matrix @ vector

    structure = jax.ShapeDtypeStruct((n,), matrix.dtype)
    counted = lx.FunctionLinearOperator(multiply, structure, (lx.symmetric_tag, lx.positive_semidefinite_tag))
    features.from_operator(counted, y, top=min(TOP, n))
    jax.effects_barrier()
    return {
        "eigh": decomposition,
        "equilibrium": equilibrium,
        "starvation": slopes,
        "rank": int(feats.rank),
        "iterations": int(state.iterations),
        "converged": int(state.converged),
        "products": len(made),
    }


def main(arguments: str) -> None:
    """Prints the measurements for arguments in JSON."""
    print(json.dumps(measure(**json.loads(arguments))))


if __name__ == "__main__":
    main(sys.argv[1])
