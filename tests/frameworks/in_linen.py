"""Networks in flax.linen, and values for their parameters."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.frameworks import networks
from tests.frameworks.networks import Network


class Model(nn.Module):
    network: Network

    @nn.compact
    def __call__(self, x):
        layers = {name: layer(spec, name) for name, spec in self.network.layers.items()}
        return self.network.forward(layers, mean, x)


def layer(spec: Any, name: str) -> Any:
    match spec:
        case networks.Dense(features):
            return nn.Dense(features, name=name)
        case networks.Conv(features, size, stride, groups):
            return nn.Conv(features, (size, size), stride, feature_group_count=groups, name=name)
        case networks.GroupNorm(groups):
            return nn.GroupNorm(groups, name=name)
        case networks.LayerNorm():
            return nn.LayerNorm(name=name)
        case networks.BatchNorm():
            return nn.BatchNorm(use_running_average=True, name=name)
        case networks.Embed(tokens, features):
            return nn.Embed(tokens, features, name=name)
        case networks.Attention(heads, features):
            return nn.MultiHeadDotProductAttention(heads, qkv_features=features, out_features=features, name=name)


def mean(h: Any) -> Any:
    """The mean over all positions of a batch whose features come last."""
    return h.mean(tuple(range(1, h.ndim - 1)))


def build(network: Network, variables: Any) -> tuple[Any, Any]:
    return Model(network).apply, variables


def draw_variables(network: Network, seed: int = 0) -> Any:
    """Random variables of about the initial size, with positive running variances."""
    random = np.random.default_rng(seed)

    def value(like: jax.ShapeDtypeStruct) -> Any:
        fan_in = int(np.prod(like.shape[:-1]))
        drawn = random.normal(size=like.shape)
        return jnp.asarray(drawn / np.sqrt(fan_in) if len(like.shape) > 1 else np.abs(1 + drawn / 4))

    return jax.tree.map(value, jax.eval_shape(Model(network).init, jax.random.key(0), network.examples(1)))
