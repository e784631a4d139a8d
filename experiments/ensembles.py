"""Many features at once: which structure of U makes starvation prevail, and how much of it real networks have.

Theorem 2 of Pezeshki et al. 2021 is about two features, of which the stronger starves the weaker. Here there are n
features. The starvation matrix of Definition 2 is computed at the equilibrium of Eq. 9, for random bases U with and
without structure (`gsjax.starvation.structures`), and for the U of networks at initialisation on pairs of classes of
real images. Strengths have mean one, and lambda is relative to that. Kernels are not centred; images have the mean
image of their data set subtracted.

    python -m experiments ensembles --preset smoke     20 seconds on 2 cores, nearly all of it compilation
    python -m experiments ensembles --preset laptop    six minutes on 2 cores
    python -m experiments ensembles --preset paper     larger n and more draws; it has not been run

The smoke preset needs no data but scikit-learn's digits. A data set whose files are absent is skipped, and the summary
says so. `docs/results/ensembles.md` has the results.
"""

from __future__ import annotations

import functools
import itertools
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Array, Key

from experiments import _ensemble_figures, _ensemble_rows, _ensemble_signatures, _random_bases, _real_bases
from experiments._bounds import Bound, expect
from experiments._ensemble_rows import Rows
from experiments._random_bases import BLOCK
from experiments._real_bases import RING, TASKS, Network
from experiments._study import Cell, Report, Study
from gsjax import data
from gsjax.objectives import Ridge
from gsjax.starvation.ensemble import Ensemble, ensemble


@dataclass(frozen=True)
class Config:
    """The ensembles: one parameter at a time is varied around `n`, `decay` and `strength`."""

    n: int = 64
    """Number of examples and of features of the random bases."""
    decay: float = 1.0
    """Decay of their strengths, s_i^2 proportional to i^-decay."""
    strength: float = 0.1
    """lambda, relative to the mean of s_i^2."""
    ns: tuple[int, ...] = (16, 32, 64, 128)
    """Other values of n, multiples of 8."""
    decays: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
    """Other decays; at 0, with equal strengths, nothing starves."""
    strengths: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Other values of lambda."""
    sizes: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Sizes of the perturbation of an identity."""
    overlaps: Annotated[tuple[float, ...], Bound(least=0, below=1)] = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
    """Overlaps of the strongest feature with the labels."""
    counts: tuple[int, ...] = (1, 2, 3, 4, 8, 16)
    """Numbers of exceptions: examples on which a feature disagrees with the labels, while it agrees with all others."""
    draws: Annotated[int, Bound(least=2)] = 40
    """Number of random bases, and of networks, each with its own examples."""
    tasks: tuple[str, ...] = (*TASKS, *RING)
    """Data sets of images with the labels of the classes -1 and +1, as in mnist_3_8."""
    networks: tuple[Network, ...] = ("mlp", "cnn")
    """mlp: two hidden layers of 256; cnn: two of 16 channels and stride 2, averaged over positions. Eq. 1, relu."""
    examples: Annotated[tuple[int, ...], Bound(least=2)] = (32, 64, 128)
    """Numbers of real examples; the smaller sets are subsets of the largest."""
    real_strengths: tuple[float, ...] = (1e-3, 1e-1, 10.0)
    """Values of lambda on real data."""
    x64: bool = True
    """Double precision."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        n=16,
        ns=(16,),
        decays=(1.0,),
        strengths=(0.1,),
        sizes=(1e-5, 1e-3),
        overlaps=(0.0, 0.99),
        counts=(1, 2),
        draws=8,
        tasks=("digits_3_8",),
        networks=("mlp",),
        examples=(16,),
        real_strengths=(1e-3, 1e-1),
    ),
    "laptop": Config(),
    "paper": Config(n=256, ns=(32, 64, 128, 256, 512), draws=200, examples=(64, 128, 256, 512)),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: `n` or one of `ns` is not a multiple of the block size; a count of exceptions is too large; an
            unknown task.
    """
    for name, sizes in (("n", (config.n,)), ("ns", config.ns)):
        for n in sizes:
            expect(n > BLOCK and n % BLOCK == 0, name, f"multiples of {BLOCK} above it", n)
    good = all(count < config.n / 2 for count in config.counts) and min(config.counts) * 8 <= config.n
    expected = f"numbers from 1 to less than {config.n / 2:g}, one up to n / 8"
    expect(good, "counts", expected, config.counts)
    for task in config.tasks:
        known = re.fullmatch(rf"({'|'.join(data.IMAGES)})_(\d)_(?!\2)\d", task)
        expect(known, "tasks", f"one of {', '.join(data.IMAGES)} with two labels, as in mnist_3_8", task)


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per ensemble of random bases, and one per network and task with all numbers of examples and lambdas."""
    draw = jax.jit(_random_bases.bases, static_argnames=("structure", "n"))
    tasks = [task for task in config.tasks if _real_bases.available(task)]

    def of_random_bases(cell: _random_bases.Ensemble) -> list[dict[str, Any]]:
        # All cells of a structure have the same draws, so that differences between cells are not due to the draws.
        keys = jax.random.split(_key(seed, cell.structure), config.draws)
        u = draw(keys, cell.parameter, structure=cell.structure, n=cell.n)
        return _by_draw(cell._asdict(), ensemble(u, _random_bases.spectrum(cell), Ridge(cell.strength)), {})

    def of_networks(task: _real_bases.Task, network: _real_bases.Network) -> list[dict[str, Any]]:
        rows = []
        for n, u, s2 in _real_bases.bases(_key(seed, f"{task} {network}"), task, network, config):
            for strength in config.real_strengths:
                cell = {"task": task, "network": network, "n": n, "strength": strength}
                rows += _by_draw(cell, ensemble(u, s2, Ridge(strength)), _real_bases.overlaps(u))
        return rows

    measured = {"draw": int, **dict.fromkeys(set(Ensemble._fields) - {"converged"}, float), "converged": bool}
    task_columns = {**measured, "n": int, "strength": float, "overlap_strongest": float, "overlap_aligned": float}
    count = config.draws * len(config.examples) * len(config.real_strengths)
    cells = [
        Cell(cell._asdict(), functools.partial(of_random_bases, cell), measured, config.draws)
        for cell in _random_bases.grid(config)
    ]
    cells += [
        Cell({"task": task, "network": network}, functools.partial(of_networks, task, network), task_columns, count)
        for task, network in itertools.product(tasks, config.networks)
    ]
    return Study(_real_bases.about(config), cells, functools.partial(report, config, tasks))


def report(config: Config, tasks: Sequence[_real_bases.Task], rows: list[dict[str, Any]]) -> Report:
    """Shares of starving pairs, by structure and for networks on the available `tasks`."""
    found = Rows(rows)
    figures: dict[str, Callable[[Path], None]] = {
        "structures.png": functools.partial(_ensemble_figures.draw_structures, found, config),
        "scaling.png": functools.partial(_ensemble_figures.draw_scaling, found, config),
    }
    if tasks:
        figures["real.png"] = functools.partial(_ensemble_figures.draw_real, found, config, tasks)
    lines = _ensemble_rows.summarise(found, config, tasks)
    return Report(lines, _ensemble_signatures.judge(found, config, tasks), figures)


def _by_draw(cell: Mapping[str, Any], found: Ensemble, further: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    columns = {key: np.asarray(value) for key, value in {**found._asdict(), **further}.items()}
    return [
        {**cell, "draw": draw, **{key: column[draw] for key, column in columns.items()}}
        for draw in range(len(columns["share"]))
    ]


def _key(seed: int, name: str) -> Key[Array, ""]:
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
