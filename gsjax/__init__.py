"""Gradient starvation from theory to practice: tangent features, dual dynamics and trained networks.

The modules, in the order in which data flows through them, are `networks`, `tangent`, `features`, `objectives`, `dual`,
`starvation`, `multiclass`, `linearized`, `training`, `methods`, `probes`, `data`, `records`, `sweeps`, `plotting`,
`diagnosis`, whose function `diagnose` answers the usual questions about a network at once, and `cli`, the command
`gsjax`. All of them can use `files`, `pages`, `progress` and `statistics`. After `import gsjax` all are attributes, and
each is imported when it is first used. `gsjax.tangent.ntk` works at once, and only `gsjax.plotting` imports matplotlib.

All functions share these conventions, and raise a `ValueError` that names the argument if they are violated:

- `apply_fn(params, x)` is a pure function, such as the `apply` of a flax.linen module. The outputs of a network with
  one output are `(n,)`. `nn.Dense(1)` returns `(n, 1)`; write
  `apply_fn=lambda params, x: network.apply(params, x)[:, 0]`, or end the module's `__call__` with `return f[:, 0]`.
  Only `tangent.ntk`, `ntrf` and `ntk_operator` accept `(n, 1)`, and keep k = 1 in their shapes. The logits of k > 1
  classes, `(n, k)`, are for `multiclass`, `methods` and `probes`.
- `params` is a tree of floating point arrays, all of which are differentiated or trained. For flax variables this is
  the collection "params". A dict with the key "params" and other keys that are not flax collections is rejected. Split
  an Equinox model by `eqx.partition(model, eqx.is_inexact_array)` and an nnx module by
  `nnx.split(model, nnx.Param, ...)`, as shown in docs/frameworks.md. Whatever `apply_fn` closes over stays constant.
  Leaves that cannot be differentiated (whole numbers, bools, typed PRNG keys) are not parameters: they are passed to
  `apply_fn` unchanged, have no column in `tangent.ntrf`, and are returned unchanged by training. Complex numbers and
  leaves that are not numeric are rejected.
- Whole numbers are those of Python, NumPy and JAX, but not 3.0 or True. Real numbers are whole or floating point
  numbers of the same three libraries, but not True, None, strings or complex numbers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gsjax import (
        cli,
        data,
        diagnosis,
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
        progress,
        records,
        starvation,
        statistics,
        sweeps,
        tangent,
        training,
    )
    from gsjax.diagnosis import diagnose
    from gsjax.objectives import Ridge, SpectralDecoupling

    __version__: str

__all__ = [
    "Ridge",
    "SpectralDecoupling",
    "cli",
    "data",
    "diagnose",
    "diagnosis",
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
    "progress",
    "records",
    "starvation",
    "statistics",
    "sweeps",
    "tangent",
    "training",
]

# The modules of the names that are not modules themselves.
_HOMES = {"diagnose": "diagnosis", "Ridge": "objectives", "SpectralDecoupling": "objectives"}


def __getattr__(name: str) -> Any:
    """A module, or a name from one, imported on first use (PEP 562)."""
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
    """The version of the installed package, stated only in pyproject.toml; a checkout need not be installed."""
    from importlib import metadata  # imported here because it takes longer than the rest of this module

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "0+unknown"
