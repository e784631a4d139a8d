"""Whether a benchmark is timed (`make bench`) or only has to work (`make slow`)."""

from __future__ import annotations

import pytest


@pytest.fixture
def once(request: pytest.FixtureRequest) -> bool:
    """Whether each benchmark runs once, on fewer examples, without judging times (`--benchmark-disable`)."""
    return bool(request.config.getoption("benchmark_disable"))
