"""Networks in Equinox: written for one example with channels first, and mapped with `jax.vmap`."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from tests.frameworks import networks
from tests.frameworks.networks import Network


class Model(eqx.Module):
    layers: dict[str, Any]
    network: Network = eqx.field(static=True)

    def __call__(self, x, state):
        def applied(name):
            layer = self.layers[name]
            match layer:
                case eqx.nn.BatchNorm():
                    return lambda h: layer(h, state)[0]
                case eqx.nn.MultiheadAttention():
                    return lambda h: layer(h, h, h)
                case eqx.nn.Linear() | eqx.nn.LayerNorm() | eqx.nn.Embedding():
                    return lambda h: each(layer, h)
            return layer

        h = jnp.moveaxis(x, -1, 0) if x.ndim == 3 else x
        return self.network.forward({name: applied(name) for name in self.layers}, mean, h)


def each(layer: Any, h: Any) -> Any:
    """Applies a layer at every position."""
    single = 0 if isinstance(layer, eqx.nn.Embedding) else 1
    return layer(h) if h.ndim == single else jax.vmap(layer)(h)


def mean(h: Any) -> Any:
    """The mean over the pixels of an image `(c, h, w)`, or over the steps of a series `(t, c)`."""
    return h.mean((1, 2)) if h.ndim == 3 else h.mean(0)


def layer(spec: Any, params: Any) -> Any:
    make = functools.partial(eqx.filter_eval_shape, key=jax.random.key(0))  # no values are drawn
    match spec:
        case networks.Dense(features):
            return filled(make(eqx.nn.Linear, len(params["kernel"]), features), params)
        case networks.Conv(features, size, stride, groups):
            inputs = params["kernel"].shape[2] * groups
            conv = make(eqx.nn.Conv2d, inputs, features, size, stride, padding="SAME", groups=groups)
            return filled(conv, params)
        case networks.GroupNorm(groups):
            return filled(eqx.nn.GroupNorm(groups, len(params["scale"]), eps=1e-6), params)
        case networks.LayerNorm():
            return filled(eqx.nn.LayerNorm(len(params["scale"]), eps=1e-6), params)
        case networks.BatchNorm():
            norm = eqx.nn.BatchNorm(len(params["scale"]), "batch", inference=True, mode="batch")
            return filled(norm, params)
        case networks.Embed():
            return eqx.nn.Embedding(weight=params["embedding"])
        case networks.Attention(heads, features):
            options = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
            attention = make(eqx.nn.MultiheadAttention, heads, features, **options)
            ours = ("query_proj", "key_proj", "value_proj", "output_proj")
            projections = [
                filled(getattr(attention, name), params[theirs])
                for name, theirs in zip(ours, ("query", "key", "value", "out"), strict=True)
            ]
            return eqx.tree_at(lambda layer: [getattr(layer, name) for name in ours], attention, projections)


def filled(layer: Any, params: Any) -> Any:
    """The layer with these values for its weight and bias."""
    weight, bias = params["kernel" if "kernel" in params else "scale"], params["bias"].reshape(layer.bias.shape)
    if isinstance(layer, eqx.nn.Conv):
        weight = weight.transpose(3, 2, 0, 1)
    elif isinstance(layer, eqx.nn.Linear):  # several axes of inputs or outputs are heads
        weight = weight.reshape(layer.in_features, layer.out_features).T
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (weight, bias))


def build(network: Network, variables: Any) -> tuple[Any, Any]:
    layers = {name: layer(spec, variables["params"][name]) for name, spec in network.layers.items()}
    state = eqx.nn.State(layers)
    for name, statistics in variables.get("batch_stats", {}).items():
        state = running(state, layers[name], statistics)
    model = Model(eqx.nn.delete_init_state(layers), network)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda params, x: jax.vmap(eqx.combine(params, static), (0, None), axis_name="batch")(x, state), params


def running(state: eqx.nn.State, norm: Any, statistics: Any) -> eqx.nn.State:
    """The state with the running `statistics` for that norm."""
    return state.set(norm.batch_state_index, (statistics["mean"], statistics["var"]))
