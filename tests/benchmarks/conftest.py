"""Whether a benchmark times anything: `make bench` does, `make slow` only runs each once."""

from __future__ import annotations

import pytest


@pytest.fixture
def once(request: pytest.FixtureRequest) -> bool:
    """Run every way once, on less, and time nothing that is judged (`--benchmark-disable`)."""
    return bool(request.config.getoption("benchmark_disable"))
