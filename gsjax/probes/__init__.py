"""What a network has learnt, beyond its accuracy: decision boundaries, adversarial margins.

A probe is a module of this package: pure functions of a network's outputs or stages, of examples and labels.
"""

from types import ModuleType

from gsjax import _check
from gsjax.probes import boundary, margins

# All that names a probe comes from here: what this package exports, the tests and the documentation.
REGISTRY: dict[str, ModuleType] = {
    "boundary": boundary,
    "margins": margins,
}

NAMES = tuple(REGISTRY)


def get(name: str) -> ModuleType:
    """The module of a probe; its `__all__` lists the functions.

    Raises:
        ValueError: no probe of this name.

    >>> get("margins") is margins
    True
    """
    _check.choice("name", name, NAMES)
    return REGISTRY[name]


__all__ = ["NAMES", "REGISTRY", "get", *NAMES]  # pyright: ignore[reportUnsupportedDunderAll]
