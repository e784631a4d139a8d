"""VGG networks with batch norm (Simonyan and Zisserman 2015), for small images."""

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

__all__ = ["VGG"]


class VGG(nn.Module):
    """VGG-11 with batch norm and one fully connected layer, in the usual version for 32 x 32 images.

    A block consists of 3 x 3 convolutions, each followed by batch norm and ReLU, and a 2 x 2 max pool. The image after
    the last block is flattened for the linear readout; a 32 x 32 input leaves one pixel. Convolutions have no bias,
    which batch norm would cancel, and are initialised as in He et al. 2015 (normal, fan out).

    `init(key, x)` returns variables. `apply(variables, x)` with x `(n, height, width, c)` returns `(n,)` for one output
    and `(n, k)` for k. With `train=True` batch norm updates the collection "batch_stats". The stages are images
    `(n, height, width, channels)`. Block b has `conv{b}_1`, `conv{b}_2`, ..., after each ReLU, and `pool{b}`. In VGG-11
    these are `conv1_1`, `pool1`, `conv2_1`, `pool2`, `conv3_1`, `conv3_2`, `pool3`, ...

    Attributes:
        channels: the numbers of channels of the convolutions, one sequence per block. The default is VGG-11's; VGG-16's
            are ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)).
        outputs: k.

    Raises:
        ValueError: a size below one, or an x that is empty, does not have four axes, or has images too small for the
            pools.

    >>> x = jax.ShapeDtypeStruct((2, 32, 32, 3), float)
    >>> jax.eval_shape(VGG().init_with_output, jax.random.key(0), x)[0].shape
    (2, 10)
    """

    channels: Sequence[Sequence[int]] = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    outputs: int = 10

    def __post_init__(self) -> None:
        blocks = _check.sequence("channels", self.channels, "sequences of whole numbers, one per block")
        self.channels = tuple(_check.wholes("channels", block, least=1) for block in blocks)
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Real[Array, "n height width c"], train: bool = False
    ) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, height, width, c)`; `train` uses the statistics of the batch."""
        h = images(x)
        least = 2 ** len(self.channels)
        _check.require(min(h.shape[1:3]) >= least, "x", f"images of {least} x {least} or more", f"shape {x.shape}")
        for number, block in enumerate(self.channels, 1):
            for layer, channels in enumerate(block, 1):
                h = conv(channels, 3, padding=1, kernel_init=he_normal, dtype=h.dtype)(h)
                h = Stage(name=f"conv{number}_{layer}")(jax.nn.relu(batch_norm(h, train)))
            h = Stage(name=f"pool{number}")(nn.max_pool(h, (2, 2), (2, 2)))
        return squeezed(torch_dense(h.reshape(len(h), -1), self.outputs))
