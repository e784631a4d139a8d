"""Probes of what a network has learned beyond its accuracy.

A probe is a module of this package, with pure functions of a network's outputs or stages, of examples and of labels.
The functions that measure a network as a whole are exported here as well.
"""

from types import ModuleType

from gsjax import _check
from gsjax.probes import (
    alarms,
    attribution,
    boundary,
    contamination,
    depths,
    information,
    linear,
    margins,
    monitoring,
    neighbours,
    readouts,
)
from gsjax.probes.attribution import gradcam, region_share, saliency
from gsjax.probes.depths import depth, prediction_depth
from gsjax.probes.information import pointwise_information, usable_information
from gsjax.probes.linear import linear_probe
from gsjax.probes.monitoring import monitor
from gsjax.probes.neighbours import knn
from gsjax.probes.readouts import early_readout

# The exports of this package, the tests and the documentation take the list of probes from here.
REGISTRY: dict[str, ModuleType] = {
    "alarms": alarms,
    "attribution": attribution,
    "boundary": boundary,
    "contamination": contamination,
    "depths": depths,
    "information": information,
    "linear": linear,
    "margins": margins,
    "monitoring": monitoring,
    "neighbours": neighbours,
    "readouts": readouts,
}

NAMES = tuple(REGISTRY)


def get(name: str) -> ModuleType:
    """The module of the probe `name`; its `__all__` lists the functions.

    Raises:
        ValueError: no probe has this name.

    >>> get("margins") is margins
    True
    """
    _check.choice("name", name, NAMES)
    return REGISTRY[name]


__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "NAMES",
    "REGISTRY",
    "depth",
    "early_readout",
    "gradcam",
    "get",
    "knn",
    "linear_probe",
    "monitor",
    "pointwise_information",
    "prediction_depth",
    "region_share",
    "saliency",
    "usable_information",
    *NAMES,
]
