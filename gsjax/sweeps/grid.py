"""The grid of a sweep and the training of its networks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from gsjax import _check
from gsjax.networks import ACTIVATIONS, MLP
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling

__all__ = ["PENALTIES", "SCALINGS", "Cell", "Sweep", "cells"]

PENALTIES: dict[str, Callable[[Any], Penalty]] = {"ridge": Ridge, "sd": SpectralDecoupling}
SCALINGS = ("ntk", "mean-field")


@dataclass(frozen=True)
class Sweep:
    """A grid of MLPs (Eq. 1) and the options of their training.

    Attributes:
        widths: the widths of the hidden layers; all hidden layers of a network have the same width.
        depths: the numbers of hidden layers. Depth 0 is the linear model, which the theory describes exactly.
        seeds: the number of networks per cell; network i is the same in every sweep with the same `seed`.
        penalties: "ridge" (Eq. 5) and "sd", spectral decoupling (Eq. 17).
        strengths: the values of lambda; every penalty is run with each of them.
        activation: as in `networks.MLP`. Ridge converges reliably only with a smooth activation, because with ReLU the
            minimum is often on a kink.
        tolerance: the tolerance on the gradient norm relative to the initial one, see `training.fit`. The default is
            for float64; in float32, 1e-3 can be reached reliably.
        max_steps: the maximal number of optimiser steps.
        seed: the seed of the key for the initial networks.
        features: the number of features whose errors a row lists.
        scaling: "ntk", the outputs of Eq. 1, or "mean-field", these outputs divided by sqrt(width). The division
            divides the kernel by the width. A ridge strength lambda is divided too, so K / lambda and z* are the same
            in both scalings. In "mean-field", networks learn features at every width and do not approach z* (Chizat et
            al. 2019), which makes it a control for "ntk". Depth 0 has no width and is the same in both.

    Raises:
        ValueError: no widths, depths, penalties or strengths, or repeated ones; a width, `seeds`, `max_steps` or
            `features` below one; a strength or a tolerance that is not positive; an unknown penalty, activation or
            scaling; a negative depth or seed.

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
    scaling: str = "ntk"

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "penalties", "strengths"):
            values = tuple(_check.sequence(name, getattr(self, name), f"{name}, at least one"))
            _check.require(len(values) > 0, name, "at least one", "none")
            if name in ("widths", "depths"):
                values = _check.wholes(name, values, least=1 if name == "widths" else 0)
            elif name == "strengths":
                _check.positive(name, values)
                values = tuple(value if isinstance(value, int) else float(value) for value in values)
            else:
                for penalty in values:
                    _check.choice(name, penalty, PENALTIES)
            _check.require(len(set(values)) == len(values), name, "no repetitions", repr(values))
            object.__setattr__(self, name, values)
        for name, least in (("seeds", 1), ("max_steps", 1), ("features", 1), ("seed", 0)):
            object.__setattr__(self, name, _check.whole(name, getattr(self, name), least=least))
        _check.number("tolerance", self.tolerance, "(0, inf)")
        _check.choice("activation", self.activation, sorted(ACTIVATIONS))
        _check.choice("scaling", self.scaling, SCALINGS)

    def network(self, width: int, depth: int) -> MLP:
        """The network of a cell."""
        width, depth = _check.whole("width", width, least=1), _check.whole("depth", depth, least=0)
        return MLP((width,) * depth, activation=self.activation)

    def scale(self, width: int, depth: int) -> float:
        """The factor that multiplies the outputs of the network of a cell.

        >>> Sweep(widths=(4,), scaling="mean-field").scale(4, 1)
        0.5
        """
        width, depth = _check.whole("width", width, least=1), _check.whole("depth", depth, least=0)
        return width**-0.5 if self.scaling == "mean-field" and depth else 1.0


class Cell(NamedTuple):
    """A cell of the grid: the network and the penalty that its seeds share."""

    width: int
    depth: int
    penalty: str
    strength: float


def cells(sweep: Sweep) -> list[Cell]:
    """The cells of a sweep in the order in which they run; cells that share a program are consecutive.

    >>> cells(Sweep(widths=(32,)))[0]
    Cell(width=32, depth=1, penalty='ridge', strength=0.1)
    """
    grid = itertools.product(sweep.depths, sweep.widths, sweep.penalties, sweep.strengths)
    return [Cell(width, depth, penalty, strength) for depth, width, penalty, strength in grid]
