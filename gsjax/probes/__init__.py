"""Probes of what a network has learned beyond its accuracy: decision boundaries, margins, saliency.

A probe is a module of this package, with pure functions of a network's outputs or stages, of examples and of labels.
"""

from types import ModuleType

from gsjax import _check
from gsjax.probes import attribution, boundary, margins
from gsjax.probes.attribution import gradcam, region_share, saliency

# The exports of this package, the tests and the documentation take the list of probes from here.
REGISTRY: dict[str, ModuleType] = {
    "attribution": attribution,
    "boundary": boundary,
    "margins": margins,
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


__all__ = ["NAMES", "REGISTRY", "get", "gradcam", "region_share", "saliency", *NAMES]  # pyright: ignore[reportUnsupportedDunderAll]
