"""Methods of training, by name, under one protocol.

A method has `init(key, batch) -> state` and `update(state, batch) -> (state, info)`. A constructor takes a network, an
optimiser of optax, and options; `train` is the loop, over seeds and devices. The objectives are means over the examples
of a batch, as published recipes have them, not the sums of `objectives`.
"""

from collections.abc import Callable

from gsjax import _check
from gsjax.methods import erm, group_dro, irm, lff, spectral_decoupling, terms, vrex
from gsjax.methods.loop import Run, train
from gsjax.methods.protocol import Batch, Info, Learner, Method, State, check_common, checked, map_learners, predict
from gsjax.methods.steps import init_learner, init_state, minimise

_CONSTRUCTORS: dict[str, Callable[..., Method]] = {
    "erm": erm.erm,
    "spectral_decoupling": spectral_decoupling.spectral_decoupling,
    "irm": irm.irm,
    "vrex": vrex.vrex,
    "group_dro": group_dro.group_dro,
    "lff": lff.lff,
}

NAMES = tuple(_CONSTRUCTORS)


def get(name: str) -> Callable[..., Method]:
    """The constructor of a method: `get(name)(network, optimizer, **options)`; its docstring lists the options.

    Raises:
        ValueError: no method of this name.

    >>> get("erm") is erm.erm
    True
    """
    _check.choice("name", name, NAMES)
    return _CONSTRUCTORS[name]


__all__ = [
    "NAMES",
    "Batch",
    "Info",
    "Learner",
    "Method",
    "Run",
    "State",
    "check_common",
    "checked",
    "erm",
    "get",
    "group_dro",
    "init_learner",
    "init_state",
    "irm",
    "lff",
    "map_learners",
    "minimise",
    "predict",
    "spectral_decoupling",
    "terms",
    "train",
    "vrex",
]
