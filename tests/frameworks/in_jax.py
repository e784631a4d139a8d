"""Networks in plain JAX: transposed weights, one weight for queries, keys and values, and norms by formula."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.frameworks import networks
from tests.frameworks.in_linen import mean
from tests.frameworks.networks import Network


def dense(params, h):
    weight, bias = params
    return jnp.einsum("...i,oi->...o", h, weight) + bias


def conv(spec, params, h):
    weight, bias = params
    dimensions = ("NHWC", "OIHW", "NHWC")
    strides, groups = (spec.stride,) * 2, spec.groups
    return bias + lax.conv_general_dilated(
        h, weight, strides, "SAME", dimension_numbers=dimensions, feature_group_count=groups
    )


def normalise(params, h, axes, eps):
    centred = h - h.mean(axes, keepdims=True)
    return params["scale"] * centred * lax.rsqrt((centred**2).mean(axes, keepdims=True) + eps) + params["bias"]


def group_norm(spec, params, h):
    grouped = h.reshape(*h.shape[:-1], spec.groups, -1)
    axes = (*range(1, h.ndim - 1), h.ndim)
    shaped = {name: value.reshape(spec.groups, -1) for name, value in params.items()}
    return normalise(shaped, grouped, axes, 1e-6).reshape(h.shape)


def batch_norm(params, statistics, h):
    gain = params["scale"] / jnp.sqrt(statistics["var"] + 1e-5)
    return (h - statistics["mean"]) * gain + params["bias"]


def attention(spec, params, h):
    """One product gives queries, keys and values."""
    fused = dense(params["qkv"], h).reshape(*h.shape[:-1], 3, spec.heads, -1)
    q, k, v = (fused[..., number, :, :] for number in range(3))
    weights = jax.nn.softmax(jnp.einsum("nqhc,nkhc->nhqk", q, k) / q.shape[-1] ** 0.5)
    return dense(params["out"], jnp.einsum("nhqk,nkhc->nqhc", weights, v).reshape(h.shape))


def parameters(spec: Any, params: Any) -> Any:
    """Parameters in the layout of the functions above."""
    match spec:
        case networks.Dense():
            return params["kernel"].T, params["bias"]
        case networks.Conv():
            return params["kernel"].transpose(3, 2, 0, 1), params["bias"]
        case networks.Embed():
            return params["embedding"]
        case networks.Attention(_, features):
            parts = [params[name] for name in ("query", "key", "value")]
            weights = [part["kernel"].reshape(-1, features).T for part in parts]
            biases = [part["bias"].ravel() for part in parts]
            out = params["out"]["kernel"].reshape(features, -1).T, params["out"]["bias"]
            return {"qkv": (jnp.concatenate(weights), jnp.concatenate(biases)), "out": out}
    return dict(params)


def layer(spec: Any, params: Any, statistics: Any) -> Any:
    match spec:
        case networks.Dense():
            return functools.partial(dense, params)
        case networks.Conv():
            return functools.partial(conv, spec, params)
        case networks.GroupNorm():
            return functools.partial(group_norm, spec, params)
        case networks.LayerNorm():
            return lambda h: normalise(params, h, -1, 1e-6)
        case networks.BatchNorm():
            return functools.partial(batch_norm, params, statistics)
        case networks.Embed():
            return lambda tokens: params[tokens]
        case networks.Attention():
            return functools.partial(attention, spec, params)


def build(network: Network, variables: Any) -> tuple[Any, Any]:
    statistics = variables.get("batch_stats", {})

    def apply_fn(params, x):
        layers = {name: layer(spec, params[name], statistics.get(name)) for name, spec in network.layers.items()}
        return network.forward(layers, mean, x)

    return apply_fn, {name: parameters(spec, variables["params"][name]) for name, spec in network.layers.items()}
