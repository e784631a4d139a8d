"""The signatures of the experiment `ensembles`: whether starvation prevails where theory predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import _random_bases, _ranks, _real_bases, _rows
from experiments._ensemble_rows import Rows
from gsjax import statistics

if TYPE_CHECKING:
    from experiments.ensembles import Config

NEAR = 0.05  # tolerance on a share of pairs: a tenth of the range from one half (no effect) to one


def judge(rows: Rows, config: Config, present: Sequence[_real_bases.Task]) -> list[dict[str, Any]]:
    """Whether starvation prevails where theory predicts it, and only there."""

    def share(name: str, values: np.ndarray, limit: float) -> dict[str, Any]:
        why = f"{limit:g} in the limit, by theory, and no further from it than {NEAR:g}"
        reason = f"the mean over draws is {values.mean():.3f}, that of single draws from {values.min():.3f} to "
        reason += f"{values.max():.3f}"
        above, below = limit - NEAR, limit + NEAR if limit + NEAR < 1 else None
        return _rows.signature(name, values, above=above, below=below, why=why, reason=reason)

    size, overlap = min(config.sizes), max(config.overlaps)
    found = [share("random: half of all pairs starve", rows.synthetic(config, "random", "share"), 0.5)]
    for structure, label in _random_bases.SIGNS.items():
        prevails = structure == "positive loadings"
        name = f"near identity ({size:g}), {label}: {'nearly all' if prevails else 'half of all'} pairs starve"
        found.append(share(name, rows.synthetic(config, structure, "share", parameter=size), 1.0 if prevails else 0.5))
    for value, label, limit in (
        (overlap, "the strongest starves nearly all others", 1.0),
        (min(config.overlaps), "control: it starves half of them", 0.5),
    ):
        name = f"overlap {value:g} with the labels, {label}"
        found.append(share(name, rows.synthetic(config, "aligned", "by_strongest", parameter=value), limit))
    few = [count for count in config.counts if 8 * count <= config.n]
    for spectrum, label in (
        ("step", "all other strengths equal: the predicted share of the other pairs starves"),
        ("power law", "control, strengths by the power law: fewer than the predicted share"),
    ):
        gaps = [rows.others(config, count, spectrum) - _random_bases.competing(count) for count in few]
        worst = max(gaps, key=lambda gap: abs(gap.mean()))
        bounds = {"above": -NEAR, "below": NEAR} if spectrum == "step" else {"below": -NEAR}
        why = f"the prediction holds for n >> {few[-1]}; the largest of the differences from it for {few} exceptions"
        reason = f"the differences are {', '.join(f'{gap.mean():.3f}' for gap in gaps)}"
        found.append(_rows.signature(f"few exceptions, {label}", worst, **bounds, why=why, reason=reason))
    share_within_blocks = rows.synthetic(config, "blocks", "share") / rows.synthetic(config, "blocks", "coupled")
    found.append(share("blocks: half of the pairs within a block starve", share_within_blocks, 0.5))
    coupled = (rows.synthetic(config, "blocks", "coupled") * (config.n - 1) - (_random_bases.BLOCK - 1)).round(9)
    found.append(
        _rows.stated(
            "blocks: features coupled to one in another block",
            statistics.mean(coupled),
            float(coupled.any()),
            why="none, exactly",
            reason=f"in {np.count_nonzero(coupled)} of {len(coupled)} draws there are some",
        )
    )
    if len(present) > 3:
        found += _judge_real(rows, config, present)
    return found


def _judge_real(rows: Rows, config: Config, present: Sequence[_real_bases.Task]) -> list[dict[str, Any]]:
    """Signatures over tasks. Tasks are resampled, since networks and lambdas of one task are not independent."""

    def by_cell(task: _real_bases.Task, field: str) -> list[np.ndarray]:
        cells = [
            {"task": task, "network": name, "n": max(config.examples), "strength": strength}
            for name in config.networks
            for strength in config.real_strengths
        ]
        return [rows.draws(cell, field) for cell in cells]

    shares = [draws for task in present for draws in by_cell(task, "share")]
    means = [draws.mean() for draws in shares]
    found = [
        _rows.stated(
            "real networks: more than 45% and fewer than 65% of all pairs starve, for each task, network and lambda",
            statistics.mean(np.array([np.mean(by_cell(task, "share")) for task in present])),
            max(statistics.within(draws, above=0.45, below=0.65) for draws in shares),
            why="bounds set after a pilot of three tasks; the p-value is the largest of all, which needs no correction",
            reason=f"the means over draws go from {min(means):.3f} to {max(means):.3f}",
        )
    ]
    for field, name, cause, sign in (
        ("support", "the fewer examples carry the loss, the more pairs starve", "share", -1),
        ("overlap_aligned", "the better the best aligned agrees with the labels, the more it starves", "by_aligned", 1),
    ):
        x, y = (
            [np.mean([np.nanmean(draws) for draws in by_cell(task, key)]) for task in present] for key in (field, cause)
        )
        found.append(
            _rows.stated(
                f"real networks: {name}",
                _ranks.correlation(np.array(x), np.array(y)),
                _ranks.p_value(sign * np.array(x), np.array(y)),
                why=f"rank correlation over {len(present)} tasks, by permutation; means over networks and lambdas",
                reason=f"{len(present)} tasks are too few to tell, or there is no such relation",
            )
        )
    return found
