"""Methods of training, by name, under one protocol.

A method has `init(key, batch) -> state` and `update(state, batch) -> (state, info)`. A constructor takes a network, an
optimiser of optax, and options; `train` is the loop, over seeds and devices, and `stream` the one over batches that do
not fit into memory. The objectives are means over the examples of a batch, as published recipes have them, not the sums
of `objectives`.

A method of your own is made of the same parts: `init_state` and `init_learner`, `minimise`, and the losses in `terms`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from gsjax import _check
from gsjax.methods import erm, group_dro, irm, lff, spectral_decoupling, terms, vrex
from gsjax.methods.loop import Run, stream, train
from gsjax.methods.protocol import Batch, Info, Learner, Method, State, check_common, checked, map_learners, predict
from gsjax.methods.steps import init_learner, init_state, minimise


class Entry(NamedTuple):
    """A method: its `constructor`, options for an `example` of it, and the fields of a batch that it `needs`.

    The needed fields are those beside x and y, for the options of the example. These are for any data in two
    environments and three groups.
    """

    constructor: Callable[..., Method]
    example: dict[str, Any]
    needs: tuple[str, ...] = ()


# All that names a method comes from here: what this package exports, the command line, the tests and the documentation.
REGISTRY: dict[str, Entry] = {
    "erm": Entry(erm.erm, {"weight_decay": 1e-3}),
    "spectral_decoupling": Entry(spectral_decoupling.spectral_decoupling, {"strength": 0.1}),
    "irm": Entry(irm.irm, {"penalty_weight": 5.0, "anneal": 10}, needs=("environment",)),
    "vrex": Entry(vrex.vrex, {"penalty_weight": 5.0, "anneal": 10}, needs=("environment",)),
    "group_dro": Entry(group_dro.group_dro, {"groups": 3, "step_size": 0.1}, needs=("group",)),
    "lff": Entry(lff.lff, {"q": 0.7}),
}

NAMES = tuple(REGISTRY)


def get(name: str) -> Callable[..., Method]:
    """The constructor of a method: `get(name)(network, optimizer, **options)`; its docstring lists the options.

    Raises:
        ValueError: no method of this name.

    >>> get("erm") is erm.erm
    True
    """
    _check.choice("name", name, NAMES)
    return REGISTRY[name].constructor


__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "NAMES",
    "REGISTRY",
    "Batch",
    "Entry",
    "Info",
    "Learner",
    "Method",
    "Run",
    "State",
    "check_common",
    "checked",
    "get",
    "init_learner",
    "init_state",
    "map_learners",
    "minimise",
    "predict",
    "stream",
    "terms",
    "train",
    *NAMES,
]
