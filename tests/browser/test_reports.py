"""The page of everything that has been run, and that of the theory, in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import _everything, _gathered, _options
from gsjax import plotting
from tests.browser import checks
from tests.theory.invented import claim, two_plus
from theory import recorded, report
from theory.claim import run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def everything(tmp_path_factory) -> str:
    """The page of the tracked records."""
    folder = tmp_path_factory.mktemp("everything")
    path = folder / "report.html"
    path.write_text(_everything.page(_gathered.gather(folder, ROOT), _options.found()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="session")
def theory(tmp_path_factory) -> str:
    """The page of the tracked claims, a claim with a figure, and one that fails."""

    def drawn(shift=0.0):
        return two_plus(shift, figure=lambda: plotting.spectrum([2.0, 1.0], [1.0, -0.5]).figure)

    def failing(shift=0.0):
        raise RuntimeError("no convergence")

    folder = tmp_path_factory.mktemp("theory")
    records = [record._replace(figure=None) for record in recorded.read(ROOT / "theory" / "records" / "claims.json")]
    records += [report.draw(run(claim("drawn", drawn)), folder), run(claim("failing", failing))]
    report.write(records, out=folder, planned=len(records), provenance=report.environment())
    return (folder / "report.html").as_uri()


def test_everything(everything, look):
    look(everything, "everything")


def test_theory(theory, look):
    look(theory, "theory")


def test_the_skip_link_leads_to_the_content(everything, browser):
    with checks.visit(browser, everything, 1280, "light") as (page, _):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.localName") == "main"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")


def test_a_printed_page_has_no_links_to_its_sections(everything, browser):
    with checks.visit(browser, everything, 1280, "light") as (page, _):
        assert page.locator("body > nav").is_visible()
        page.emulate_media(media="print")
        assert not page.locator("body > nav").is_visible()
        assert not page.locator(".skip").is_visible()
        assert page.locator("h1").is_visible()
