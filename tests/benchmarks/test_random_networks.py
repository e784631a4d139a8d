"""Kernels of thousands of random networks against JAX's own derivatives.

    .venv/bin/python -m tests.tangent.random_networks 1234    the network of a seed, and every way to its kernel

The networks are defined in `tests/tangent/random_networks.py`. Kernels are compared with the Gram matrix of derivatives
of one example at a time, in double precision: the kernel itself for every network, and one of rectangular, in blocks,
compiled, by Jacobians, features and operator. Processes end after some hundred seeds, since every network leaves
compiled programs behind.
"""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import time

COUNT, AT_ONCE, FEW = 2000, 125, 3
FIRST = 1000  # others than in tests/tangent


def run(first: int, count: int) -> str:
    # Most of the time is compilation, which these flags make three times faster.
    faster = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {faster}".strip()
    environment = {**os.environ, "XLA_FLAGS": flags, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "tests.tangent.random_networks", str(first), str(first + count)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def test_thousands_of_networks(capsys, once):
    """`make bench` draws all of them, `make slow` only the first ones."""
    size, count = (FEW, FEW * (os.cpu_count() or 1)) if once else (AT_ONCE, COUNT)
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        outputs = list(pool.map(lambda first: run(first, size), range(FIRST, FIRST + count, size)))
    lines = [line for output in outputs for line in output.splitlines()]
    finished = [line for line in lines if line.endswith("failed")]
    failed = [line for line in lines if line not in finished]
    with capsys.disabled():
        print(
            f"\nrandom networks: {count} in {time.perf_counter() - start:.0f} s, {len(failed)} faults",
            *failed,
            sep="\n",
        )
    assert len(finished) == count // size, "a process ended early"
    assert not failed
