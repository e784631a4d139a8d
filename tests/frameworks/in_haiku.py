"""Networks in Haiku."""

from __future__ import annotations

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from tests.frameworks import networks
from tests.frameworks.in_linen import mean
from tests.frameworks.networks import Network

# Names of parameters in Haiku and in flax.linen.
LEAVES = {"w": "kernel", "b": "bias", "offset": "bias", "scale": "scale", "embeddings": "embedding"}
STATISTICS = {"mean_ema": "mean", "var_ema": "var"}


def layer(spec: Any, name: str) -> Any:
    match spec:
        case networks.Dense(features):
            return hk.Linear(features, name=name)
        case networks.Conv(features, size, stride, groups):
            return hk.Conv2D(features, size, stride, feature_group_count=groups, name=name)
        case networks.GroupNorm(groups):
            return hk.GroupNorm(groups, eps=1e-6, name=name)
        case networks.LayerNorm():
            return hk.LayerNorm(-1, create_scale=True, create_offset=True, eps=1e-6, name=name)
        case networks.BatchNorm():
            norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9, name=name)
            # Haiku creates the statistics when it initialises in training mode.
            return lambda h: norm(h, is_training=hk.running_init())
        case networks.Embed(tokens, features):
            return hk.Embed(tokens, features, name=name)
        case networks.Attention(heads, features):
            initial = hk.initializers.VarianceScaling()
            attention = hk.MultiHeadAttention(heads, features // heads, model_size=features, w_init=initial, name=name)
            return lambda h: attention(h, h, h)


def build(network: Network, variables: Any) -> tuple[Any, Any]:
    def function(x):
        layers = {name: layer(spec, name) for name, spec in network.layers.items()}
        return network.forward(layers, mean, x)

    model = hk.without_apply_rng(hk.transform_with_state(function))
    like, state_like = jax.eval_shape(model.init, jax.random.key(0), network.examples(1))
    statistics = variables.get("batch_stats", {})

    def parameter(module: str, name: str) -> Any:
        layer_name, *inner = module.split("/")
        values = variables["params"][layer_name]
        for part in inner:
            values = values["out" if part == "linear" else part]
        return values[LEAVES[name]]

    def statistic(module: str, name: str, like: jax.ShapeDtypeStruct) -> Any:
        norm, _, kind = module.split("/")
        return statistics[norm][STATISTICS[kind]].reshape(like.shape) if name == "average" else jnp.zeros_like(like)

    params = {
        module: {name: parameter(module, name).reshape(leaf.shape) for name, leaf in leaves.items()}
        for module, leaves in like.items()
    }
    state = {
        module: {name: statistic(module, name, leaf) for name, leaf in leaves.items()}
        for module, leaves in state_like.items()
    }
    return lambda params, x: model.apply(params, state, x)[0], params
