"""Numbers with intervals in what experiments and the README say are those of the records."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "experiments" / "records"
NUMBER = r"([+-]?\d+\.?\d*)"
QUOTED = re.compile(rf"{NUMBER}%?\s(?:points\s)?\[{NUMBER},\s{NUMBER}\]")


def recorded(folder: str) -> list[tuple[float, float, float]]:
    """Every number with an interval in the records of a folder, and as a percentage, and with the other sign."""
    found = []
    for path in RECORDS.glob(f"{folder}/*/summary.json"):
        summary = json.loads(path.read_text())
        for entry in summary["rows"] + summary["signatures"]:
            if entry["interval"]:
                found.append((entry.get("measured", entry.get("value")), *entry["interval"]))
    found += [(-value, -high, -low) for value, low, high in found]
    return found + [tuple(100 * number for number in entry) for entry in found]


def unknown(text: str, folder: str) -> list[tuple[str, ...]]:
    """What the text quotes and no record has, to the digits that are quoted."""
    known = recorded(folder)

    def is_known(quoted: tuple[str, ...]) -> bool:
        units = [0.5000001 * 10.0 ** -len(number.partition(".")[2]) for number in quoted]
        return any(
            all(abs(float(ours) - theirs) <= unit for ours, theirs, unit in zip(quoted, entry, units, strict=True))
            for entry in known
        )

    return [quoted for quoted in QUOTED.findall(text) if not is_known(quoted)]


@pytest.mark.parametrize(
    "name",
    [
        "two_moons",
        "width_sweep",
        "ensembles",
        "colored_mnist",
        "groups",
        "cifar_margin",
        "adversarial_accuracy",
        "invariance",
    ],
)
def test_a_docstring_quotes_its_records(name):
    text = importlib.import_module(f"experiments.{name}").__doc__ or ""
    assert not unknown(text, name)


def test_the_readme_quotes_the_records():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("|"))  # tables are generated, or of claims
    assert len(QUOTED.findall(text)) > 15
    assert not unknown(text, "*")


def test_a_number_that_no_record_has_is_found():
    value, low, high = recorded("two_moons")[0]
    assert not unknown(f"{value:.4f} [{low:.4f}, {high:.4f}]", "two_moons")
    assert unknown(f"{value + 0.001:.4f} [{low:.4f}, {high:.4f}]", "two_moons")
