"""The same networks, with the same parameters, in every framework.

A network (`networks`) consists of layers and a forward pass. Every framework has a file with a function
`build(network, variables)` that gives `apply_fn` and `params`, made of the framework's own layers. The parameters are
those in the `variables` of flax.linen, in the framework's own layout: transposed, flattened or fused, but with the same
values.
"""

from collections.abc import Callable
from typing import Any

from tests.frameworks import in_equinox, in_haiku, in_jax, in_linen, in_nnx

Build = Callable[..., tuple[Callable[[Any, Any], Any], Any]]

# All frameworks except flax.linen, the reference.
OTHERS: dict[str, Build] = {
    "nnx": in_nnx.build,
    "Equinox": in_equinox.build,
    "Haiku": in_haiku.build,
    "plain JAX": in_jax.build,
}

__all__ = ["OTHERS", "Build", "in_linen"]
