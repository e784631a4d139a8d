"""Random bases U with and without structure for the experiment `ensembles`, and the theory of one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key
from scipy import integrate

from gsjax.starvation import structures

if TYPE_CHECKING:
    from experiments.ensembles import Config

Structure = Literal["random", "near identity", "positive loadings", "aligned", "exceptions", "blocks"]

# The parameter of each structure while something else is varied; see `bases`.
PARAMETERS: dict[Structure, float] = {
    "random": 0.0,
    "near identity": 1e-3,
    "positive loadings": 1e-3,
    "aligned": 0.9,
    "exceptions": 1.0,
    "blocks": 0.0,
}
BLOCK = 8
LABELS: dict[Structure, str] = {
    "random": "random",
    "near identity": "near identity (0.001), random signs",
    "positive loadings": "near identity (0.001), positive",
    "aligned": "aligned with the labels (0.9)",
    "exceptions": "aligned but for one exception",
    "blocks": f"blocks of {BLOCK}",
}
SIGNS: dict[Structure, str] = {"positive loadings": "positive", "near identity": "random signs"}


class Ensemble(NamedTuple):
    """An ensemble of random bases. `spectrum` is "power law" or "step" (one strong feature, all others equal)."""

    structure: Structure
    parameter: float
    spectrum: Literal["power law", "step"]
    n: int
    decay: float
    strength: float


def grid(config: Config) -> list[Ensemble]:
    """All ensembles of random bases: those that vary n, decay and lambda, and those that vary the structure."""
    base = Ensemble("random", 0.0, "power law", config.n, config.decay, config.strength)
    found = []
    for structure, parameter in PARAMETERS.items():
        plain = base._replace(structure=structure, parameter=parameter)
        found += [plain, *(plain._replace(n=n) for n in config.ns)]
        found += [plain._replace(decay=decay) for decay in config.decays]
        found += [plain._replace(strength=strength) for strength in config.strengths]
    varied: dict[Structure, Sequence[float]] = {
        "near identity": config.sizes,
        "positive loadings": config.sizes,
        "aligned": config.overlaps,
        "exceptions": config.counts,
    }
    for structure, parameters in varied.items():
        found += [base._replace(structure=structure, parameter=float(parameter)) for parameter in parameters]
    found += [base._replace(structure="exceptions", parameter=float(q), spectrum="step") for q in config.counts]
    return list(dict.fromkeys(found))


def bases(
    keys: Key[Array, " draws"], parameter: float | Float[Array, ""], *, structure: Structure, n: int
) -> Float[Array, "draws n n"]:
    """Random bases with a structure; `parameter` is its size, overlap or count."""
    build: dict[Structure, Callable[[Array], Array]] = {
        "random": lambda key: structures.random_orthogonal(key, n),
        "near identity": lambda key: structures.near_identity(key, n, parameter),
        "positive loadings": lambda key: structures.near_identity(key, n, parameter, signs="positive"),
        "aligned": lambda key: structures.aligned(key, n, parameter),
        "exceptions": lambda key: structures.exceptions(key, n, jnp.asarray(parameter, int)),
        "blocks": lambda key: structures.blocks(key, n, BLOCK),
    }
    return lax.map(build[structure], keys)


def spectrum(cell: Ensemble) -> Float[Array, " n"]:
    """The strengths of a cell; in a step the strongest feature has about half of the total."""
    if cell.spectrum == "power law":
        return structures.power_law(cell.n, cell.decay)
    s2 = jnp.ones(cell.n).at[0].set(cell.n - 1)
    return s2 / jnp.mean(s2)


def competing(count: int) -> float:
    """The share of starving pairs among the features that compete for `count` exceptions.

    It is `1 - E[t] / pi`, where t is the angle between a random line in `count` dimensions and the line along the
    vector of ones. Its density is proportional to `sin(t)^(count - 2)`; see `gsjax.starvation.ensemble`.

    >>> [round(competing(count), 3) for count in (1, 2, 3)]
    [1.0, 0.75, 0.682]
    """
    if count == 1:
        return 1.0
    moment, total = (
        integrate.quad(lambda t, power=power: t**power * np.sin(t) ** (count - 2), 0, np.pi / 2)[0] for power in (1, 0)
    )
    return 1 - moment / total / np.pi
