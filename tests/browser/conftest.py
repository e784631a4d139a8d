"""A browser for the tests of pages, and the folder that is served to it."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser import checks

NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test in this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The Chromium of the system; without one the tests fail."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail(
            f"expected a browser, one of {', '.join(NAMES)}; on Debian: apt-get install chromium", pytrace=False
        )
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path) as opened:
        yield opened


@pytest.fixture(params=[(w, s) for w in checks.WIDTHS for s in checks.SCHEMES], ids=lambda each: f"{each[0]}-{each[1]}")
def window(request: pytest.FixtureRequest) -> tuple[int, str]:
    """A width in pixels and a colour scheme."""
    return request.param


@pytest.fixture
def look(browser: Browser, window: tuple[int, str]) -> Callable[[str, str], None]:
    """`look(url, name)` makes all checks of a page; pictures go to the folder SCREENSHOTS, if it is set."""

    def look(url: str, name: str) -> None:
        width, scheme = window
        with checks.visit(browser, url, width, scheme) as (page, heard):
            if folder := os.environ.get("SCREENSHOTS"):
                checks.photograph(page, Path(folder), f"{name}-{width}-{scheme}")
            found = {
                "axe-core": checks.violations(page),
                "keyboard": checks.unreachable(page),
                "figures": checks.undrawn(page),
                "sideways": checks.overflowing(page),
                "console and requests": heard,
            }
        if lines := [f"{what}: {line}" for what, complaints in found.items() for line in complaints]:
            pytest.fail("\n".join([f"{len(lines)} complaints about {url}", *lines]), pytrace=False)

    return look


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """`serve(folder)` is the address of a server of the files in `folder`."""
    servers = []

    def start(folder: Path) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
