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

    From a convolution of 3 x 3, blocks h <- shortcut + F(h) with F = conv(act(conv(act(h)))), where act is batch norm
    and ReLU and the convolutions are of 3 x 3. The first block of every stage but the first halves the image. Where a
    block changes the shape, its shortcut is a convolution of 1 x 1 of act(h), else it is h itself. At the end act, the
    mean over the image, and a linear readout. Convolutions have no bias and begin as in He et al. 2015 (normal, fan
    out).

    `init(key, x)` gives variables; `apply(variables, x)` with x `(n, height, width, c)` gives `(n,)` for one output and
    `(n, k)` for k. With `train=True` batch norm updates the collection "batch_stats". The stages, images
    `(n, height, width, channels)`, are act(h) of what the first convolution leaves, `stem`, and of what each block
    leaves, `layer1_0`, `layer1_1`, ..., with the norm of the act that follows the block; then `pool`, the mean over the
    image `(n, channels)`.

    Attributes:
        channels: of the stages.
        blocks: how many in each stage.
        outputs: k.

    Raises:
        ValueError: a size below one, not as many `blocks` as `channels`, none of either, x not of four axes or empty.

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
        _check.require(len(self.channels) > 0, "channels", "one a stage", self.channels)
        _check.require(
            len(self.blocks) == len(self.channels), "blocks", f"{len(self.channels)}, one a stage", self.blocks
        )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Real[Array, "n height width c"], train: bool = False
    ) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, height, width, c)`; `train` takes the batch's own statistics."""
        h, position = _conv(images(x), self.channels[0], 3), "stem"
        for stage, (channels, blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                active = Stage(name=position)(jax.nn.relu(batch_norm(h, train)))
                changed = stride > 1 or channels != h.shape[-1]
                shortcut = _conv(active, channels, 1, stride) if changed else h
                inner = _conv(active, channels, 3, stride)
                h = shortcut + _conv(jax.nn.relu(batch_norm(inner, train)), channels, 3)
                position = f"layer{stage + 1}_{block}"
        h = Stage(name=position)(jax.nn.relu(batch_norm(h, train)))
        h = Stage(name="pool")(h.mean(axis=(1, 2)))
        return squeezed(torch_dense(h, self.outputs))


def _conv(h: Float[Array, "n height width c"], channels: int, kernel: int, stride: int = 1) -> Array:
    return conv(channels, kernel, stride, padding=kernel // 2, kernel_init=he_normal, dtype=h.dtype)(h)
