"""What all tests share: both precisions, reproducible Hypothesis runs, and the marks that select them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, settings

from tests.marks import SELECTED, unnamed

# Examples depend only on the test, and there are no deadlines: what passes here passes everywhere.
settings.register_profile(
    "reproducible",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("reproducible")

os.environ.setdefault("MPLBACKEND", "Agg")  # read when matplotlib is first imported; subprocesses inherit it

os.environ.setdefault("GSJAX_OFFLINE", "1")  # no test fetches data

# Tracing makes many objects that live long: with the default of 700 the collector looks through them again and again.
gc.set_threshold(50_000, 20, 100)

UNNAMED = pytest.StashKey[list[tuple[Path, str]]]()

jax.devices()  # fixes their number: the command line of the experiments would use one per core


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def x64(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Runs the test with 64-bit types off and on; the value is the default float type."""
    with jax.enable_x64(request.param):
        yield jnp.float64 if request.param else jnp.float32


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_are_dropped() -> Iterator[None]:
    """Each compiled program has memory maps of its own, and XLA crashes where a process runs out of them."""
    yield
    jax.clear_caches()


@pytest.hookimpl(tryfirst=True)  # before tests are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks timings as slow, so that `make test` skips them, and notes marks that the file of a test does not name."""
    benchmarks, found = Path(__file__).parent / "benchmarks", set()
    for item in items:
        if benchmarks in item.path.parents:
            item.add_marker(pytest.mark.slow)
        else:
            found |= {(item.path, mark) for mark in SELECTED if item.get_closest_marker(mark)}
    config.stash[UNNAMED] = unnamed(found)


@pytest.fixture
def unnamed_marks(request: pytest.FixtureRequest) -> list[tuple[Path, str]]:
    """The collected files with a mark that they do not name."""
    return request.config.stash[UNNAMED]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Checks the number of devices, which is fixed when jax starts."""
    if item.get_closest_marker("devices8") and jax.device_count() < 8:
        pytest.fail("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest -m devices8")
