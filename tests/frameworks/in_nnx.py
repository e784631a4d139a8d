"""Networks in flax.nnx, whose parameters have the names and the layout of flax.linen."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from tests.frameworks import networks
from tests.frameworks.in_linen import mean
from tests.frameworks.networks import Network


class Model(nnx.Module):
    def __init__(self, network: Network, params: Any):
        self.network = network
        for name, spec in network.layers.items():
            setattr(self, name, layer(spec, params[name]))

    def __call__(self, x):
        return self.network.forward({name: getattr(self, name) for name in self.network.layers}, mean, x)


def layer(spec: Any, params: Any) -> Any:
    # Attention and embeddings compute in the type of their initial parameters.
    options: dict[str, Any] = {"rngs": nnx.Rngs(0), "param_dtype": jax.tree.leaves(params)[0].dtype}
    match spec:
        case networks.Dense(features):
            return nnx.Linear(len(params["kernel"]), features, **options)
        case networks.Conv(features, size, stride, groups):
            inputs = params["kernel"].shape[2] * groups
            return nnx.Conv(inputs, features, (size, size), stride, feature_group_count=groups, **options)
        case networks.GroupNorm(groups):
            return nnx.GroupNorm(len(params["scale"]), groups, **options)
        case networks.LayerNorm():
            return nnx.LayerNorm(len(params["scale"]), **options)
        case networks.BatchNorm():
            return nnx.BatchNorm(len(params["scale"]), use_running_average=True, **options)
        case networks.Embed(tokens, features):
            return nnx.Embed(tokens, features, **options)
        case networks.Attention(heads, features):
            inputs = len(params["query"]["kernel"])
            options |= {"decode": False, "deterministic": True, "attention_fn": attend}
            return nnx.MultiHeadAttention(heads, inputs, features, **options)


def attend(query: Any, key: Any, value: Any, **_: Any) -> Any:
    """Attention in the type of its arguments; by default nnx computes the softmax in float32."""
    return nn.dot_product_attention(query, key, value)


def build(network: Network, variables: Any) -> tuple[Any, Any]:
    model = nnx.eval_shape(lambda: Model(network, variables["params"]))  # no values are drawn
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    nnx.replace_by_pure_dict(params, variables["params"])
    nnx.replace_by_pure_dict(rest, variables.get("batch_stats", {}))
    return lambda params, x: nnx.merge(graph, params, rest)(x), params
