"""Networks as layers and a forward pass, for a batch or for one example under `jax.vmap`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.nn import gelu, relu

Layers = Mapping[str, Callable[[Any], Any]]


@dataclasses.dataclass(frozen=True)
class Dense:
    features: int


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution of size x size pixels with "SAME" padding."""

    features: int
    size: int = 3
    stride: int = 1
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class GroupNorm:
    groups: int


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    pass


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """In inference mode."""


@dataclasses.dataclass(frozen=True)
class Embed:
    tokens: int
    features: int


@dataclasses.dataclass(frozen=True)
class Attention:
    """Self-attention with biases."""

    heads: int
    features: int


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """`forward(layers, mean, h)` applies the layers by name; `mean(h)` averages over all positions."""

    layers: Mapping[str, Any]
    forward: Callable[[Layers, Callable[[Any], Any], Any], Any]
    shape: tuple[int, ...]  # of one example
    tokens: int | None = None  # examples are whole numbers below it

    def examples(self, n: int, seed: int = 0):
        random, shape = np.random.default_rng(seed), (n, *self.shape)
        return jnp.asarray(random.integers(0, self.tokens, shape) if self.tokens else random.normal(size=shape))


def mlp(*widths: int, inputs: int) -> Network:
    names = [f"Dense_{number}" for number in range(len(widths) + 1)]

    def forward(layers, mean, h):
        for name in names[:-1]:
            h = relu(layers[name](h))
        return layers[names[-1]](h)[..., 0]

    return Network(dict(zip(names, map(Dense, (*widths, 1)), strict=True)), forward, (inputs,))


def cnn(*convolutions: Conv, shape: tuple[int, ...], outputs: int = 1) -> Network:
    names = [f"Conv_{number}" for number in range(len(convolutions))]

    def forward(layers, mean, h):
        for name in names:
            h = relu(layers[name](h))
        f = layers["Dense_0"](mean(h))
        return f[..., 0] if outputs == 1 else f

    return Network(dict(zip(names, convolutions, strict=True)) | {"Dense_0": Dense(outputs)}, forward, shape)


def residual(*blocks: tuple[int, int], shape: tuple[int, ...], norm: Any = None) -> Network:
    """Residual blocks, each given by (channels, stride), with `norm` before the first nonlinearity."""
    layers: dict[str, Any] = {"Conv_0": Conv(blocks[0][0])}
    for number, (channels, stride) in enumerate(blocks):
        first, second, skip = (f"Conv_{3 * number + place}" for place in (1, 2, 3))
        layers |= {first: Conv(channels, stride=stride), second: Conv(channels), skip: Conv(channels, 1, stride)}
        layers |= {f"norm_{number}": norm} if norm else {}
    layers["Dense_0"] = Dense(1)

    def forward(layers, mean, h):
        h = relu(layers["Conv_0"](h))
        for number in range(len(blocks)):
            first, second, skip = (layers[f"Conv_{3 * number + place}"] for place in (1, 2, 3))
            f = relu(layers[f"norm_{number}"](h)) if norm else h
            h = relu(second(relu(first(f))) + skip(h))
        return layers["Dense_0"](mean(h))[..., 0]

    return Network(layers, forward, shape)


def recurrent(features: int, shape: tuple[int, int]) -> Network:
    """The same layers at every step, in an unrolled loop."""

    def forward(layers, mean, x):
        h = jnp.tanh(layers["read"](x[..., 0, :]))
        for step in range(1, shape[0]):
            h = jnp.tanh(layers["cell"](h) + layers["read"](x[..., step, :]))
        return layers["out"](h)[..., 0]

    return Network({"read": Dense(features), "cell": Dense(features), "out": Dense(1)}, forward, shape)


def block(layers: Layers, h: Any) -> Any:
    """A block of a transformer with pre-normalisation."""
    h = h + layers["attention"](layers["norm_0"](h))
    return h + layers["down"](gelu(layers["up"](layers["norm_1"](h))))


def attention(width: int, heads: int, shape: tuple[int, int]) -> Network:
    def forward(layers, mean, h):
        return layers["out"](mean(block(layers, h)))

    return Network(_block_layers(width, heads) | {"out": Dense(2)}, forward, shape)


def transformer(width: int, heads: int, tokens: int, length: int) -> Network:
    def forward(layers, mean, x):
        return layers["out"](mean(block(layers, layers["embed"](x))))[..., 0]

    layers = {"embed": Embed(tokens, width), **_block_layers(width, heads), "out": Dense(1)}
    return Network(layers, forward, (length,), tokens)


def _block_layers(width: int, heads: int) -> dict[str, Any]:
    return {
        "norm_0": LayerNorm(),
        "attention": Attention(heads, width),
        "norm_1": LayerNorm(),
        "up": Dense(4 * width),
        "down": Dense(width),
    }


def tokens(count: int, features: int, length: int) -> Network:
    def forward(layers, mean, x):
        return layers["Dense_0"](jnp.tanh(mean(layers["embed"](x))))

    return Network({"embed": Embed(count, features), "Dense_0": Dense(3)}, forward, (length,), count)


def normalised(norm: Any, *, shape: tuple[int, ...]) -> Network:
    """A norm between two layers."""
    first = Conv(3) if len(shape) == 3 else Dense(5)

    def forward(layers, mean, h):
        h = relu(layers["norm"](layers["first"](h)))
        return layers["Dense_0"](mean(h) if len(shape) == 3 else h)[..., 0]

    return Network({"first": first, "norm": norm, "Dense_0": Dense(1)}, forward, shape)


image = (8, 8, 3)
NETWORKS = {
    "mlp": mlp(6, 5, inputs=5),
    "cnn": cnn(Conv(4), Conv(5), shape=image),
    "strided": cnn(Conv(4, 3, 2), Conv(5, 2), Conv(4, 1, 2), shape=image, outputs=2),
    "depthwise": cnn(Conv(3, groups=3), Conv(6, stride=2, groups=3), Conv(4, 1), shape=image),
    "residual": residual((4, 1), (6, 2), shape=image, norm=GroupNorm(2)),
    "layer norm": normalised(LayerNorm(), shape=(5,)),
    "batch norm": normalised(BatchNorm(), shape=image),
    "recurrent": recurrent(4, (6, 4)),
    "attention": attention(4, 2, (6, 4)),
    "tokens": tokens(7, 4, 5),
    "transformer": transformer(4, 2, 7, 5),
}

__all__ = ["NETWORKS", "Network"]
