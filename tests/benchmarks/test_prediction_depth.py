"""Nearest neighbours and prediction depth at 10 stages of 512 features, against the distances of SciPy alone.

10,000 queries and a bank of 2,000, in float32. SciPy's `cdist` computes the L1 distances in double precision, on one
core, and neither sorts nor votes. All programs are compiled beforehand and timed in one run. The memory is that which
XLA plans for a program, beside its arguments; all distances of a stage would take 80 MB.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

from gsjax.networks import FullyConnected, stages
from gsjax.probes import _search, knn, prediction_depth

N, M, D, STAGES, CLASSES = 10_000, 2_000, 512, 10, 10
KINDS = ("wall", "processor")


def seconds(function):
    """Wall and processor time of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    return np.array([time.perf_counter() - wall, time.process_time() - processor])


def planned(n):
    """The bytes that XLA plans for the search, beside arguments and results."""
    bank, queries = (jax.ShapeDtypeStruct((rows, D), jnp.float32) for rows in (M, n))
    program: Any = _search._program()
    lowered = program.lower(bank, jax.ShapeDtypeStruct((M,), jnp.int32), queries, k=29, metric="l1")
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_neighbours_of_ten_stages_against_scipy(capsys, once):
    queries = N // 200 if once else N
    network = FullyConnected((D,) * STAGES, outputs=CLASSES)
    rng = np.random.default_rng(0)
    labels = np.arange(M) % CLASSES
    bank = (rng.normal(size=(M, D)) + rng.normal(size=(CLASSES, D))[labels]).astype(np.float32)
    x = (rng.normal(size=(queries, D)) + rng.normal(size=(CLASSES, D))[rng.integers(0, CLASSES, queries)]).astype(
        np.float32
    )
    variables = jax.jit(network.init)(jax.random.key(0), x[:2])
    apply = jax.jit(lambda x: list(stages.apply(network, variables, x)[1].values()))
    known, layers = apply(bank), apply(x)
    names = stages.names(network, x)

    def votes(metric):
        pairs = zip(known, layers, strict=True)
        return [knn(one, labels, other, 29, CLASSES, metric=metric) for one, other in pairs]

    def depths():
        return prediction_depth(network, variables, (bank, labels), x, positions=names)

    def distances():
        for one, other in zip(known, layers, strict=True):
            cdist(other, one, "cityblock")

    programs = {"knn, l1": lambda: votes("l1"), "knn, l2": lambda: votes("l2"), "prediction_depth": depths}
    for program in programs.values():
        jax.block_until_ready(program())
    taken = {name: seconds(program) for name, program in programs.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    scipy = seconds(distances)
    memory = {n: planned(n) for n in (N, 2 * N)}
    with capsys.disabled():
        print(f"\n{STAGES} stages, {queries} x {M} distances of {D} features; in brackets the share of SciPy's time")
        print(f"  {'cdist, cityblock':20} {scipy[0]:7.2f} s wall          {scipy[1]:7.2f} s processor")
        for name, both in taken.items():
            wall, processor = (
                f"{a:7.2f} s {kind} [{a / b:.2f}]" for a, b, kind in zip(both, scipy, KINDS, strict=True)
            )
            print(f"  {name:20} {wall} {processor}")
        print(
            f"  planned for {N} queries {memory[N] / 2**20:.1f} MB, for {2 * N} {memory[2 * N] / 2**20:.1f} MB;", end=""
        )
        print(f" largest process before SciPy's distances {peak:.0f} MB")
    if not once:
        assert taken["knn, l1"][0] < scipy[0] / 2
        assert taken["prediction_depth"][0] < scipy[0] / 2
    size = 4 * N * D
    assert memory[N] < 2 * size + 2**24  # a padded copy and its blocks, and 16 MB
    assert memory[2 * N] - memory[N] < 2.1 * size
