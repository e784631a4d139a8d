"""Training methods by name, with one protocol for all.

A method has `init(key, batch) -> state` and `update(state, batch) -> (state, info)`. A constructor takes a network, an
optax optimiser, and options. `train` runs all seeds on the available devices; `stream` trains on data that do not fit
into memory. As in published recipes, objectives are means over the examples of a batch, not the sums of `objectives`.

Your own method can use the same parts: `init_state` and `init_learner`, `minimise`, and the losses in `terms`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from gsjax import _check
from gsjax.methods import dedier, dfr, distillation, erm, group_dro, irm, jtt, lff, spectral_decoupling, terms, vrex
from gsjax.methods.distillation import with_teacher
from gsjax.methods.heads import Refit, refit
from gsjax.methods.loop import Run, stream, train
from gsjax.methods.protocol import Batch, Info, Learner, Method, State, check_common, checked, map_learners, predict
from gsjax.methods.steps import init_learner, init_state, minimise


class Entry(NamedTuple):
    """A method: its `constructor`, the options of an `example`, and the batch fields that it `needs`.

    `needs` lists the fields other than x and y that the example uses. The example works on any data with two
    environments and three groups.
    """

    constructor: Callable[..., Method]
    example: dict[str, Any]
    needs: tuple[str, ...] = ()


# The exports of this package, the command line, the tests and the documentation take the list of methods from here.
REGISTRY: dict[str, Entry] = {
    "erm": Entry(erm.erm, {"weight_decay": 1e-3}),
    "spectral_decoupling": Entry(spectral_decoupling.spectral_decoupling, {"strength": 0.1}),
    "irm": Entry(irm.irm, {"penalty_weight": 5.0, "anneal": 10}, needs=("environment",)),
    "vrex": Entry(vrex.vrex, {"penalty_weight": 5.0, "anneal": 10}, needs=("environment",)),
    "group_dro": Entry(group_dro.group_dro, {"groups": 3, "step_size": 0.1}, needs=("group",)),
    "lff": Entry(lff.lff, {"q": 0.7}),
    "distillation": Entry(distillation.distillation, {"temperature": 2.0}, needs=("teacher_logits",)),
    "dedier": Entry(
        dedier.dedier,
        {"position": "h1", "beta": 1.0, "refresh_every": 6, "readout_steps": 2},
        needs=("teacher_logits",),
    ),
    "jtt": Entry(jtt.jtt, {"identification_steps": 2, "upweight": 3.0}),
    "dfr": Entry(dfr.dfr, {"groups": 3, "feature_steps": 3}, needs=("group",)),
}

NAMES = tuple(REGISTRY)


def get(name: str) -> Callable[..., Method]:
    """The constructor of a method, called as `get(name)(network, optimizer, **options)`.

    Its docstring lists the options.

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
    "Refit",
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
    "refit",
    "stream",
    "terms",
    "train",
    "with_teacher",
    *NAMES,
]
