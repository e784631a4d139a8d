"""What all tests share: both precisions, reproducible Hypothesis runs, and the marks that select them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, settings

# Examples are derived from the test itself and no clock judges them: what passes here passes everywhere.
settings.register_profile(
    "reproducible",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("reproducible")

os.environ.setdefault("MPLBACKEND", "Agg")  # read when matplotlib is first imported; subprocesses inherit it

os.environ.setdefault("GSJAX_OFFLINE", "1")  # no test fetches data

jax.devices()  # from here on their number is settled: the command line of the experiments would make it one a core


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def x64(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Runs the test with 64-bit types off and on; the value is the float type in force."""
    with jax.enable_x64(request.param):
        yield jnp.float64 if request.param else jnp.float32


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Timings are slow by their nature, so `make test` passes them over."""
    benchmarks = Path(__file__).parent / "benchmarks"
    for item in items:
        if benchmarks in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The number of devices is settled when jax starts, hence once for a process."""
    if item.get_closest_marker("devices8") and jax.device_count() < 8:
        pytest.fail("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest -m devices8")
