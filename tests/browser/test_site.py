"""Pages of the documentation, as `make docs` builds them, in a browser."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from sphinx.util.inventory import InventoryFile

import gsjax
from tests.browser import checks

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"

PAGES = {
    "start": "index.html",
    "api": "generated/api/gsjax.features.html",
    "notebook": "generated/notebooks/2_from_network_to_features.html",
    "results": "results/two_moons.html",
    "gallery": "generated/gallery.html",
    "module": "generated/api/gsjax.methods.spectral_decoupling.html",
}


@pytest.fixture(scope="session")
def site(serve) -> str:
    """The address of the documentation."""
    missing = [page for page in PAGES.values() if not (SITE / page).is_file()]
    if missing:
        pytest.fail(f"expected the pages of the documentation, got none of {', '.join(missing)}: make docs", False)
    return serve(SITE)


@pytest.mark.parametrize("name", PAGES)
def test_page(site, look, name):
    look(f"{site}/{PAGES[name]}", f"site-{name}")


def test_the_start_page_also_opens_as_a_file(site, browser):
    with checks.visit(browser, (SITE / "index.html").as_uri(), 1280, "light") as (page, heard):
        assert page.locator("article h1").first.is_visible()
        assert heard == []


def test_the_chosen_scheme_is_the_one_that_is_shown(site, browser):
    """Without a choice of the reader, pages follow the scheme of the system."""
    colours = []
    for scheme in checks.SCHEMES:
        with checks.visit(browser, f"{site}/index.html", 1280, scheme) as (page, _):
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(set(colours)) == 2


def exported(module: ModuleType) -> dict[str, object]:
    """The public names of a module, and of its public modules in turn."""
    found: dict[str, object] = {}
    for name in module.__all__:
        value = getattr(module, name)
        found[f"{module.__name__}.{name}"] = value
        if isinstance(value, ModuleType):
            found |= exported(value)
    return found


def test_every_public_name_leads_to_one_place_that_exists(site):
    """In the inventory that the search and other sites use, under the name that a user types."""
    inventory = InventoryFile.loads((SITE / "objects.inv").read_bytes(), uri="").data
    python = {kind: items for kind, items in inventory.items() if kind.startswith("py:")}
    counts = Counter(name for items in python.values() for name in items)
    assert {name: counts[name] for name in exported(gsjax) if counts[name] != 1} == {}
    assert [name for name in counts if name.count("gsjax") > 1] == []
    anchors: dict[str, set[str]] = {}
    for items in python.values():
        for name, item in items.items():
            page, _, anchor = item.uri.partition("#")
            found = anchors.setdefault(
                page, set(re.findall(r'id="([^"]+)"', (SITE / page).read_text(encoding="utf-8")))
            )
            assert anchor in found, name
