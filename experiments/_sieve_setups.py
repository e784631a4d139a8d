"""What the experiment `feature_sieve` trains: the sieve, its controls, and the configurations of the search."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from gsjax import methods, networks
from gsjax.networks import stages


class Setup(NamedTuple):
    """A configuration: a method with its hyperparameters.

    `method` is "erm", "sieve", "random" (the sieve with a readout that stays as it is initialised) or "decay" (ERM with
    additional weight decay of the layers up to the stage). `rate` is that of forgetting, or the additional decay.
    """

    method: Literal["erm", "sieve", "random", "decay"] = "erm"
    stage: str = ""
    rate: float = 0.0
    every: int = 1

    def __str__(self) -> str:
        if self.method == "erm":
            return "no forgetting"
        if self.method == "decay":
            return f"decay {self.rate:g} up to {self.stage}"
        return f"{self.stage}, rate {self.rate:g}, every {self.every}"


class Recipe(NamedTuple):
    """How all setups are trained: the network, its optimiser, weight decay, and the readout of the sieve.

    `shape` is that of an image, (height, width, channels).
    """

    network: nn.Module
    shape: tuple[int, int, int]
    optimizer: optax.GradientTransformation
    weight_decay: float
    readout: networks.Readout
    readout_optimizer: optax.GradientTransformation


def searched(
    positions: Sequence[str], rates: Sequence[float], everys: Sequence[int], decays: Sequence[float], *, grid: bool
) -> list[Setup]:
    """The configurations of the search: no forgetting, those that forget, and weight decays up to the first stage.

    A grid has all combinations of stage, rate and frequency. Otherwise one of them at a time is changed from the first
    stage, the middle rate and the first frequency; the largest rate is also tried at the last stage.

    >>> [str(setup) for setup in searched(("a", "b"), (0.1,), (5, 1), (0.01,), grid=False)]
    ['no forgetting', 'a, rate 0.1, every 5', 'b, rate 0.1, every 5', 'a, rate 0.1, every 1', 'decay 0.01 up to a']
    """
    middle = rates[len(rates) // 2]
    if grid:
        found = [Setup("sieve", *each) for each in itertools.product(positions, rates, everys)]
    else:
        found = [Setup("sieve", positions[0], rate, everys[0]) for rate in rates]
        found += [Setup("sieve", stage, middle, everys[0]) for stage in positions[1:]]
        found += [Setup("sieve", positions[-1], max(rates), everys[0])]
        found += [Setup("sieve", positions[0], middle, every) for every in everys[1:]]
    return [Setup(), *dict.fromkeys(found), *(Setup("decay", positions[0], decay) for decay in decays)]


def chosen(rows: Sequence[Mapping[str, Any]], setups: Sequence[Setup], by: str) -> Setup:
    """The setup with the best mean score on validation images over the networks of the search; of ties the first.

    Args:
        rows: those of the search, with "setup" and the scores on validation images.
        setups: the candidates.
        by: "worst" is the accuracy of the worst group, "average" that on images as in training.
    """
    scores = [np.mean([row["scores"][by] for row in rows if row["setup"] == str(setup)]) for setup in setups]
    return setups[int(np.argmax(scores))]


@functools.lru_cache(maxsize=64)
def build(setup: Setup, recipe: Recipe) -> methods.Method:
    """The method of a setup, the same object for all arms, so that its programs are compiled once."""
    network, optimizer, decay = recipe.network, recipe.optimizer, recipe.weight_decay
    if setup.method == "erm":
        return methods.get("erm")(network, optimizer, weight_decay=decay)
    if setup.method == "decay":
        added = optax.masked(optax.add_decayed_weights(setup.rate), lower(network, recipe.shape, setup.stage))
        return methods.get("erm")(network, optax.chain(added, optimizer), weight_decay=decay)
    reading = optax.set_to_zero() if setup.method == "random" else recipe.readout_optimizer
    return methods.get("sieve")(
        network,
        optimizer,
        position=setup.stage,
        forget_rate=setup.rate,
        every=setup.every,
        readout=recipe.readout,
        readout_optimizer=reading,
        weight_decay=decay,
    )


def lower(network: nn.Module, shape: tuple[int, int, int], position: str) -> Any:
    """Which parameters a stage depends on in training, for images of this shape, as `stages.upto`."""
    x = jax.ShapeDtypeStruct((2, *shape), float)
    return stages.upto(network, jax.eval_shape(network.init, jax.random.key(0), x), x, position, train=True)
