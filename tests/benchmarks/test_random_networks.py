"""Thousands of random networks, whose kernels have to be those that JAX's own derivatives give; none may be off.

    .venv/bin/python -m tests.tangent.random_networks 1234    the network of a seed, and every way to its kernel

What a network is made of is in `tests/tangent/random_networks.py`. Each way to a kernel is held against the Gram matrix
of derivatives of one example at a time, in double precision: the kernel itself for every network, and one of
rectangular, in blocks, compiled, by Jacobians, features and operator. The seeds are shared out over processes that end
after some hundreds, as every network leaves compiled programs behind.
"""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import time

COUNT, AT_ONCE = 2000, 125
FIRST = 1000  # others than in tests/tangent


def run(first: int) -> str:
    # Nearly all the time goes into compilation, which these make three times as fast.
    faster = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {faster}".strip()
    environment = {**os.environ, "XLA_FLAGS": flags, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "tests.tangent.random_networks", str(first), str(first + AT_ONCE)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def test_thousands_of_networks(capsys, request):
    """`make bench` draws them all; `make slow`, which has no time for that, the first of them."""
    count = AT_ONCE if request.config.getoption("benchmark_disable") else COUNT
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        outputs = list(pool.map(run, range(FIRST, FIRST + count, AT_ONCE)))
    lines = [line for output in outputs for line in output.splitlines()]
    finished = [line for line in lines if line.endswith("failed")]
    failed = [line for line in lines if line not in finished]
    with capsys.disabled():
        print(
            f"\nrandom networks: {count} in {time.perf_counter() - start:.0f} s, {len(failed)} faults",
            *failed,
            sep="\n",
        )
    assert len(finished) == count // AT_ONCE, "a process ended early"
    assert not failed
