"""Measured numbers in the documentation are those of the records, and docstrings have none."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import _markdown, _options

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "experiments" / "records"
PAGES = {path.relative_to(ROOT).as_posix(): path for path in _markdown.pages(ROOT)}
NUMBER = r"([+-]?\d+\.?\d*)"
QUOTED = re.compile(rf"{NUMBER}%?\s+(?:points\s+)?\[{NUMBER},\s+{NUMBER}\]")
DECIMAL = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?%|\d+\.\d+)(?!\d|\.\d)")


def recorded(folder: str) -> list[tuple[float, float, float]]:
    """Every number with an interval in the records of a folder: as it is, as a percentage, and with either sign."""
    found = []
    for path in RECORDS.glob(f"{folder}/*/summary.json"):
        summary = json.loads(path.read_text())
        for entry in summary["rows"] + summary["signatures"]:
            if entry["interval"]:
                found.append((entry.get("measured", entry.get("value")), *entry["interval"]))
    found += [(-value, -high, -low) for value, low, high in found]
    return found + [tuple(100 * number for number in entry) for entry in found]


def unit(number: str) -> float:
    return 0.5000001 * 10.0 ** -len(number.strip("%").partition(".")[2])


def unknown(text: str, folder: str) -> list[tuple[str, ...]]:
    """Quoted numbers with intervals that no record has, to the digits that are quoted."""
    known = recorded(folder)

    def is_known(quoted: tuple[str, ...]) -> bool:
        return any(
            all(abs(float(ours) - theirs) <= unit(ours) for ours, theirs in zip(quoted, entry, strict=True))
            for entry in known
        )

    return [quoted for quoted in QUOTED.findall(text) if not is_known(quoted)]


def prose(page: str) -> str:
    """The text of a page without code and generated tables."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", PAGES[page].read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!-- \w+: .*?<!-- end -->", "", text, flags=re.DOTALL)


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a record, including those in its texts."""
    if isinstance(value, str):
        yield from map(float, re.findall(r"\d+\.\d+|\d+", value))
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from numbers(entry)
    elif isinstance(value, int | float):
        yield abs(value)


@pytest.mark.parametrize("name", _options.names())
def test_a_docstring_quotes_no_measured_number(name):
    text = importlib.import_module(f"experiments.{name}").__doc__ or ""
    assert text
    assert not QUOTED.findall(text), f"docs/results/{name}.md is the place for it"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_quotes_the_records(page):
    """The page of an experiment quotes the records of that experiment; other pages quote any record."""
    folder = Path(page).stem if page.startswith("docs/results/") else "*"
    assert not unknown(prose(page), folder)


@pytest.mark.parametrize("page", PAGES)
def test_every_number_on_a_page_is_in_a_record(page):
    """Every decimal number and percentage without an interval is in the records of the page."""
    folder = Path(page).stem if page.startswith("docs/results/") else "*"
    record = [json.loads(path.read_text()) for path in RECORDS.glob(f"{folder}/*/summary.json")]
    known = sorted(set(numbers([{**one, "versions": None} for one in record])))
    text = re.sub(r"arXiv:\S+|Python 3\.11|Section \d\.\d", "", QUOTED.sub("", prose(page)))
    for number in DECIMAL.findall(text):
        scales = (1, 100) if number.endswith("%") else (1,)  # texts in records contain percentages as well
        value, width = float(number.strip("%")), unit(number)
        assert any(abs(value - scale * other) <= width for other in known for scale in scales), number


def test_pages_quote_numbers():
    assert len(QUOTED.findall(prose("README.md"))) >= 4
    assert sum(len(QUOTED.findall(prose(page))) for page in PAGES) > 40


def test_a_number_without_a_record_is_found():
    value, low, high = recorded("two_moons")[0]
    assert not unknown(f"{value:.4f} [{low:.4f}, {high:.4f}]", "two_moons")
    assert unknown(f"{value + 0.001:.4f} [{low:.4f}, {high:.4f}]", "two_moons")


def test_decimal_numbers_are_found():
    assert DECIMAL.findall("0.25 and 8.3 times, 77%, 1.44%: n = 8192 in 2021, s_1.5, 1e-4, 3.0.") == [
        "0.25",
        "8.3",
        "77%",
        "1.44%",
        "3.0",
    ]
