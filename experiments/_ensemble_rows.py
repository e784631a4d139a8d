"""The rows of the experiment `ensembles` as arrays over draws, and the rows of its summary."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from experiments import _random_bases, _real_bases, _rows

if TYPE_CHECKING:
    from experiments.ensembles import Config


class Rows:
    """The rows of a table, as arrays over draws."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """From rows that have a `draw`, the fields of their ensemble, and the measured numbers."""
        self._rows = rows

    def draws(self, cell: Mapping[str, Any], field: str) -> Float[np.ndarray, " draws"]:
        """The values of `field` in all draws of an ensemble; NaN for null."""
        found = [row[field] for row in self._rows if all(row.get(key) == value for key, value in cell.items())]
        return np.array(found, float)

    def synthetic(
        self, config: Config, structure: _random_bases.Structure, field: str, **changed: Any
    ) -> Float[np.ndarray, " draws"]:
        """The values of `field` for a structure with its default parameters, except for those `changed`."""
        base = _random_bases.Ensemble(
            structure, _random_bases.PARAMETERS[structure], "power law", config.n, config.decay, config.strength
        )
        return self.draws(base._replace(**changed)._asdict(), field)

    def others(self, config: Config, count: int, spectrum: str = "step") -> Float[np.ndarray, " draws"]:
        """The share of starving pairs among all features but the strongest, which is wrong on `count` examples."""
        changed = {"parameter": float(count), "spectrum": spectrum}
        share, first = (self.synthetic(config, "exceptions", field, **changed) for field in ("share", "by_strongest"))
        return (config.n * share - 2 * first) / (config.n - 2)


def summarise(rows: Rows, config: Config, present: Sequence[_real_bases.Task]) -> list[dict[str, Any]]:
    """Shares, sizes and inequalities by structure, how they depend on its parameter, and the same for real networks."""
    found = []
    shown = {
        "share": "share of pairs that starve",
        "strongest": "strongest",
        "inequality": "inequality, decades",
        "downhill": "starving pairs in which the stronger takes more",
    }
    for structure, label in _random_bases.LABELS.items():
        for field, name in shown.items():
            found += _measured(f"{label}: {name}", rows.synthetic(config, structure, field))
    for size in config.sizes:
        for structure, label in _random_bases.SIGNS.items():
            name = f"near identity ({size:g}), {label}: share of pairs that starve"
            found += _measured(name, rows.synthetic(config, structure, "share", parameter=size))
    for overlap in config.overlaps:
        for field, name in (("by_strongest", "starved by the strongest"), ("share", "share of pairs that starve")):
            values = rows.synthetic(config, "aligned", field, parameter=overlap)
            found += _measured(f"strongest aligned with the labels ({overlap:g}): {name}", values)
    for count in config.counts:
        predicted = f"{_random_bases.competing(count):.3f} predicted for n >> {count}"
        name = f"strongest wrong on {count} of {config.n}, others equally strong: share of their pairs that starve"
        found += _measured(name, rows.others(config, count), predicted)
        name = f"strongest wrong on {count} of {config.n}, power law: share of pairs that starve"
        found += _measured(name, rows.synthetic(config, "exceptions", "share", parameter=float(count)))
    names = shown | {
        "support": "share of examples that carry the loss",
        "overlap_strongest": "overlap of the strongest with the labels",
        "by_strongest": "starved by the strongest",
        "overlap_aligned": "overlap of the best aligned",
        "by_aligned": "weaker ones starved by the best aligned",
    }
    for task, name in itertools.product(present, config.networks):
        cell = _real_bases.reported(task, name, config)
        for field, quantity in names.items():
            found += _measured(f"{_real_bases.title(task)}, {name}: {quantity}", rows.draws(cell, field))
        for changed in [{"n": n} for n in config.examples] + [{"strength": s} for s in config.real_strengths]:
            if changed.items() <= cell.items():
                continue
            [(key, value)] = changed.items()
            quantity = f"{'lambda' if key == 'strength' else key} = {value:g}: {shown['share']}"
            found += _measured(f"{_real_bases.title(task)}, {name}, {quantity}", rows.draws(cell | changed, "share"))
    return found


def _measured(name: str, values: np.ndarray, differs: str | None = None) -> list[dict[str, Any]]:
    """A row over the draws with a finite value, if there are at least two of them."""
    good = values[np.isfinite(values)]
    missing = len(values) - len(good)
    remarks = [differs] if differs else []
    remarks += [f"{missing} of {len(values)} draws without"] if missing else []
    return [_rows.measured(name, good, differs="; ".join(remarks) or None)] if len(good) > 1 else []
