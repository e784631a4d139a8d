"""The same networks, with the same parameters, in every framework.

A network (`networks`) is its layers and what it does with them. A framework is a file here: `build(network, variables)`
gives `apply_fn` and `params` of the network, made of that framework's own layers, with the parameters that `variables`
of the one in flax.linen hold, in the framework's own layout: transposed, flattened or fused, but never changed.
"""

from collections.abc import Callable
from typing import Any

from tests.frameworks import in_equinox, in_haiku, in_jax, in_linen, in_nnx

Build = Callable[..., tuple[Callable[[Any, Any], Any], Any]]

# All but flax.linen, with which they are compared.
OTHERS: dict[str, Build] = {
    "nnx": in_nnx.build,
    "Equinox": in_equinox.build,
    "Haiku": in_haiku.build,
    "plain JAX": in_jax.build,
}

__all__ = ["OTHERS", "Build", "in_linen"]
