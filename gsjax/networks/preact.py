"""Residual networks with identity mappings (He et al. 2016b, "Identity Mappings in Deep Residual Networks")."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Real

from gsjax import _check
from gsjax.networks._arguments import images
from gsjax.networks.convolution import conv
from gsjax.networks.stages import Stage
from gsjax.networks.standard import batch_norm, he_normal, squeezed, torch_dense

__all__ = ["PreActResNet"]


class PreActResNet(nn.Module):
    """Pre-activation residual network for small images; PreActResNet-18 by default.

    A 3 x 3 convolution is followed by groups of residual blocks h <- shortcut + F(h), with F = conv(act(conv(act(h)))),
    where act is batch norm and ReLU and the convolutions are 3 x 3. The first block of every group except the first
    halves the image. Where a block changes the shape, its shortcut is a 1 x 1 convolution of act(h); otherwise it is
    h. The network ends with act, the mean over the image, and a linear readout. Convolutions have no bias and are
    initialised as in He et al. 2015 (normal, fan out).

    `init(key, x)` returns variables. `apply(variables, x)` with x `(n, height, width, c)` returns `(n,)` for one output
    and `(n, k)` for k. With `train=True` batch norm updates the collection "batch_stats". The stages are `stem`, act(h)
    after the first convolution; `layer1_0`, `layer1_1`, ..., act(h) after each block, where act is the one that follows
    the block; and `pool`, the mean over the image, `(n, channels)`. All but `pool` are images
    `(n, height, width, channels)`.

    Attributes:
        channels: the number of channels of each group.
        blocks: the number of blocks of each group.
        outputs: k.

    Raises:
        ValueError: a size below one, `blocks` and `channels` that are empty or of different lengths, or an x that is
            empty or does not have four axes.

    >>> x = jax.ShapeDtypeStruct((2, 32, 32, 3), float)
    >>> jax.eval_shape(PreActResNet().init_with_output, jax.random.key(0), x)[0].shape
    (2, 10)
    """

    channels: Sequence[int] = (64, 128, 256, 512)
    blocks: Sequence[int] = (2, 2, 2, 2)
    outputs: int = 10

    def __post_init__(self) -> None:
        self.channels = _check.wholes("channels", self.channels, least=1)
        self.blocks = _check.wholes("blocks", self.blocks, least=1)
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        _check.require(len(self.channels) > 0, "channels", "at least one number", self.channels)
        _check.require(
            len(self.blocks) == len(self.channels),
            "blocks",
            f"{len(self.channels)} numbers, one per entry of channels",
            self.blocks,
        )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Real[Array, "n height width c"], train: bool = False
    ) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, height, width, c)`; `train` uses the statistics of the batch."""
        h, name = _conv(images(x), self.channels[0], 3), "stem"
        for stage, (channels, blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                active = Stage(name=name)(jax.nn.relu(batch_norm(h, train)))
                changed = stride > 1 or channels != h.shape[-1]
                shortcut = _conv(active, channels, 1, stride) if changed else h
                inner = _conv(active, channels, 3, stride)
                h = shortcut + _conv(jax.nn.relu(batch_norm(inner, train)), channels, 3)
                name = f"layer{stage + 1}_{block}"
        h = Stage(name=name)(jax.nn.relu(batch_norm(h, train)))
        h = Stage(name="pool")(h.mean(axis=(1, 2)))
        return squeezed(torch_dense(h, self.outputs))


def _conv(h: Float[Array, "n height width c"], channels: int, kernel: int, stride: int = 1) -> Array:
    return conv(channels, kernel, stride, padding=kernel // 2, kernel_init=he_normal, dtype=h.dtype)(h)
