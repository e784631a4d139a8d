"""Gradient starvation from theory to practice: tangent features, dual dynamics and trained networks.

The rooms, in the order in which data flows through them: `networks`, `tangent`, `features`, `objectives`, `dual`,
`starvation`, `multiclass`, `linearized`, `training`, `methods`, `probes`, `data`, `records`, `sweeps`, `plotting`; and
`files`, `pages` and `statistics`, which all of them can use. `import gsjax` makes all of them attributes, and imports
each when it is first used: `gsjax.tangent.ntk` works at once, and matplotlib is imported with `gsjax.plotting` alone.

What every function takes, or refuses with a `ValueError` that names the argument:

- `apply_fn(params, x)`: a pure function, such as the `apply` of a flax.linen module. Its outputs are `(n,)` where there
  is one. `nn.Dense(1)` gives `(n, 1)`: write `apply_fn=lambda params, x: network.apply(params, x)[:, 0]`, or end the
  module's `__call__` with `return f[:, 0]`. Only `tangent.ntk`, `ntrf` and `ntk_operator` take `(n, 1)` as it is, and
  keep k = 1 in their shapes. The logits of k > 1 classes, `(n, k)`, are for `multiclass`, `methods` and `probes`.
- `params`: a tree of floating point arrays, all of which is differentiated or trained. Of flax variables that is the
  collection "params", and a dict with that key beside others that are no collections of flax is refused. An Equinox
  model is split by `eqx.partition(model, eqx.is_inexact_array)`, a module of nnx by `nnx.split(model, nnx.Param, ...)`,
  as the README shows: what is closed over by `apply_fn` stays as it is. Leaves that cannot be differentiated (whole
  numbers, bools, typed PRNG keys) are no parameters: `apply_fn` takes them as they are, they have no column in
  `tangent.ntrf`, and training returns them unchanged. Complex numbers and what holds no numbers are refused.
- Whole numbers are those of Python, NumPy and jax; 3.0 and True are none. Real numbers are whole or floating point ones
  of the same three; True, None, strings and complex numbers are none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gsjax import (
        data,
        dual,
        features,
        files,
        linearized,
        methods,
        multiclass,
        networks,
        objectives,
        pages,
        plotting,
        probes,
        records,
        starvation,
        statistics,
        sweeps,
        tangent,
        training,
    )
    from gsjax.objectives import Ridge, SpectralDecoupling

    __version__: str

__all__ = [
    "Ridge",
    "SpectralDecoupling",
    "data",
    "dual",
    "features",
    "files",
    "linearized",
    "methods",
    "multiclass",
    "networks",
    "objectives",
    "pages",
    "plotting",
    "probes",
    "records",
    "starvation",
    "statistics",
    "sweeps",
    "tangent",
    "training",
]

# What is found in a room under its own name; all other names are rooms.
_HOMES = {"Ridge": "objectives", "SpectralDecoupling": "objectives"}


def __getattr__(name: str) -> Any:
    """A room, or a name from one, imported on first use (PEP 562)."""
    if name == "__version__":
        value = _version()
    elif name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        value = importlib.import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    """That of the installed package, which pyproject.toml alone states; a checkout need not be installed."""
    from importlib import metadata  # which takes longer to import than all of this module

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "0+unknown"
