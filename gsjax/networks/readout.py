"""Readouts: small networks that predict labels from a stage of another network."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Real

from gsjax import _check
from gsjax.networks._arguments import examples
from gsjax.networks.convolution import conv
from gsjax.networks.stages import Stage
from gsjax.networks.standard import batch_norm, he_normal, squeezed, torch_dense

__all__ = ["Readout"]


class Readout(nn.Module):
    """A readout of a stage: a linear layer, or blocks and then a linear layer (Tiwari et al. 2023, 2024).

    A block of a stage of images `(n, height, width, channels)` is a 3 x 3 convolution, batch norm and ReLU, and keeps
    the size of the image. For all other stages `(n, ..., d)`, the layer of a block is dense along the last axis, at
    each position alike. The linear layer follows the mean over positions, or all of them flattened.

    The papers leave this layer open. The mean is the default because it is what residual networks put before their own
    linear layer, and because the number of parameters then does not depend on the size of the image.

    `init(key, h)` returns variables. `apply(variables, h)` with a stage h `(n, ..., d)` returns `(n,)` for one output
    and `(n, k)` for k. With `train=True` the batch norm of the blocks updates the collection "batch_stats". The stages
    are `block1`, `block2`, ..., after each ReLU, and `pool`, the input of the linear layer, `(n, features)`.

    Attributes:
        outputs: k.
        depth: the number of blocks; 0 is a linear readout.
        width: the number of channels of the blocks.
        pooled: whether the linear layer takes the mean over positions; if not, it takes all of them.

    Raises:
        ValueError: `outputs` or a width below one, a `depth` below zero, `pooled` that is not a flag, or a stage that
            is empty or has no batch axis.

    >>> import jax.numpy as jnp
    >>> readout, h = Readout(10, depth=2, width=16), jnp.ones((5, 8, 8, 3))
    >>> readout.apply(readout.init(jax.random.key(0), h), h).shape
    (5, 10)
    """

    outputs: int = 1
    depth: int = 0
    width: int = 256
    pooled: bool = True

    def __post_init__(self) -> None:
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        self.depth = _check.whole("depth", self.depth, least=0)
        self.width = _check.whole("width", self.width, least=1)
        self.pooled = _check.flag("pooled", self.pooled)
        super().__post_init__()

    @nn.compact
    def __call__(self, h: Real[Array, "n ... d"], train: bool = False) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of a stage h `(n, ..., d)`; `train` uses the statistics of the batch."""
        h = _check.as_float(examples(h))
        for number in range(1, self.depth + 1):
            if h.ndim == 4:
                h = conv(self.width, 3, padding=1, kernel_init=he_normal, dtype=h.dtype)(h)
            else:
                h = nn.Dense(self.width, use_bias=False, kernel_init=he_normal, param_dtype=h.dtype)(h)
            h = Stage(name=f"block{number}")(jax.nn.relu(batch_norm(h, train)))
        h = h.mean(axis=tuple(range(1, h.ndim - 1))) if self.pooled else h.reshape(len(h), -1)
        return squeezed(torch_dense(Stage(name="pool")(h), self.outputs))
