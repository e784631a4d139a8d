"""What the tests of kernels share: they compile more programs than a process should hold to its end."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    jax.clear_caches()
