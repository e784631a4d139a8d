"""Checks of every numbered claim of the theory: `python -m theory`.

Each file of claims holds one group as a tuple `CLAIMS` and is listed in `MODULES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # jax is imported only with the claims
    from theory.claim import Claim

MODULES: tuple[str, ...] = (
    "tangent_features",
    "duality",
    "dual_dynamics",
    "closed_forms",
    "starvation",
    "theorem2",
    "spectral_decoupling",
    "paths",
    "trajectories",
    "contrasts",
    "multiclass",
    "usable_information",
    "feature_contamination",
    "practice",
)
"""The files of claims, in the order in which they are checked."""


def claims() -> dict[str, tuple[str, Claim]]:
    """Every claim with its file, by name. The files are imported only here.

    Raises:
        ValueError: two claims share a name.

    >>> all(name == claim.name for name, (_, claim) in claims().items())
    True
    """
    found: dict[str, tuple[str, Claim]] = {}
    for module in MODULES:
        for claim in importlib.import_module(f"theory.{module}").CLAIMS:
            if claim.name in found:
                raise ValueError(f"claim {claim.name!r} is in theory/{found[claim.name][0]}.py and theory/{module}.py")
            found[claim.name] = (module, claim)
    return found
