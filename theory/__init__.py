"""Every numbered claim of the theory, checked: `python -m theory`.

A file of this package holds one group of claims as a tuple `CLAIMS`; a new file is one more line in
`MODULES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # jax is imported with the claims, not before
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
    "practice",
)
"""The files of claims, in the order in which they are checked."""


def claims() -> dict[str, tuple[str, Claim]]:
    """Every claim by its name, with the file that it comes from; the files are imported here, not before.

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
