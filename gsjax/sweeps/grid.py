"""The grid of a sweep, and how each of its networks is trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gsjax import _check
from gsjax.networks import ACTIVATIONS, MLP
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling

PENALTIES: dict[str, Callable[[Any], Penalty]] = {"ridge": Ridge, "sd": SpectralDecoupling}


@dataclass(frozen=True)
class Sweep:
    """A grid of MLPs (Eq. 1), and how each of them is trained.

    Attributes:
        widths: of the hidden layers, all of one width.
        depths: numbers of hidden layers. Zero is the linear model, of no width, which the theory describes exactly.
        seeds: networks a cell; number i is the same network in every sweep of the same `seed`.
        penalties: "ridge" (Eq. 5) and "sd", spectral decoupling (Eq. 17).
        strengths: lambda; every penalty takes every one of them.
        activation: as of `networks.MLP`. A smooth one, if a ridge is to converge: ReLU ends on kinks.
        tolerance: on the norm of the gradient, relative to the initial one, see `training.fit`. For float64; in
            float32, 1e-3 is what can be reached reliably.
        max_steps: of the optimiser.
        seed: of the key from which the networks are drawn.
        features: how many features a row lists the errors of.

    Raises:
        ValueError: no widths, depths, penalties or strengths, or repeated ones; a width, `seeds`, `max_steps` or
            `features` below one; a strength or a tolerance that is not positive; an unknown penalty or activation; a
            negative depth or seed.

    >>> len(cells(Sweep(widths=(32, 64), strengths=(0.1, 1.0))))
    8
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...] = (1,)
    seeds: int = 8
    penalties: tuple[str, ...] = ("ridge", "sd")
    strengths: tuple[float, ...] = (0.1,)
    activation: str = "tanh"
    tolerance: float = 1e-6
    max_steps: int = 2000
    seed: int = 0
    features: int = 10

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "penalties", "strengths"):
            values = getattr(self, name)
            several = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
            _check.require(several, name, "a sequence of at least one", repr(values))
            _check.require(len(set(values)) == len(values), name, "no repetitions", repr(values))
        for name, least in (("widths", 1), ("depths", 0)):
            for value in getattr(self, name):
                at_least(name, value, least)
        for name in ("seeds", "max_steps", "features"):
            at_least(name, getattr(self, name), 1)
        at_least("seed", self.seed, 0)
        for penalty in self.penalties:
            _check.require(penalty in PENALTIES, "penalties", f"some of {sorted(PENALTIES)}", repr(penalty))
        _check.positive("strengths", self.strengths)
        _check.scalar("tolerance", self.tolerance)
        _check.positive("tolerance", self.tolerance)
        known = self.activation in ACTIVATIONS
        _check.require(known, "activation", f"one of {sorted(ACTIVATIONS)}", repr(self.activation))

    def network(self, width: int, depth: int) -> MLP:
        """The network of a cell."""
        return MLP((width,) * depth, activation=self.activation)


class Cell(NamedTuple):
    """What the seeds of a cell have in common: the network and the penalty."""

    width: int
    depth: int
    penalty: str
    strength: float


def cells(sweep: Sweep) -> list[Cell]:
    """The cells of a sweep, in the order in which they are run: those that share a program after one another.

    >>> cells(Sweep(widths=(32,)))[0]
    Cell(width=32, depth=1, penalty='ridge', strength=0.1)
    """
    grid = itertools.product(sweep.depths, sweep.widths, sweep.penalties, sweep.strengths)
    return [Cell(width, depth, penalty, strength) for depth, width, penalty, strength in grid]


def at_least(name: str, value: Any, least: int) -> None:
    """Checks that `value` is a whole number of at least `least`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least
    _check.require(whole, name, f"whole numbers of at least {least}", repr(value))
