"""Residual networks with bottlenecks for photographs (He et al. 2016a), and the reader of their pretrained weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real
from safetensors import SafetensorError, safe_open

from gsjax import _check
from gsjax.networks._arguments import images
from gsjax.networks.convolution import conv
from gsjax.networks.standard import batch_norm, he_normal, squeezed, torch_dense

__all__ = ["ResNet", "load"]


class ResNet(nn.Module):
    """Residual network with bottlenecks, version 1.5 as in torchvision; ResNet-50 by default.

    A convolution of 7 x 7 with stride 2, batch norm, ReLU and a 3 x 3 max pool with stride 2; four stages of blocks
    relu(shortcut + conv(relu(conv(relu(conv(h)))))), batch norm after every convolution, of 1 x 1, 3 x 3 and 1 x 1 with
    64 2^s, 64 2^s and 256 2^s channels in stage s = 0, ..., 3; the mean over the image; a linear readout. The 3 x 3
    convolution of a stage's first block has stride 2 (that is version 1.5), and its shortcut is a convolution of 1 x 1
    with batch norm. Convolutions have no bias and begin as in He et al. 2015 (normal, fan out).

    `init(key, x)` gives variables; `apply(variables, x)` with x `(n, height, width, c)` gives `(n,)` for one output and
    `(n, k)` for k. With `train=True` batch norm updates the collection "batch_stats". The modules have torchvision's
    names, with `layer1_0` for `layer1.0`; `load` reads its weights.

    Attributes:
        blocks: how many in each of the stages: (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101.
        outputs: k.

    Raises:
        ValueError: a size below one, no blocks, x not of four axes or empty.

    >>> x = jax.ShapeDtypeStruct((2, 64, 64, 3), float)
    >>> jax.eval_shape(ResNet(outputs=1000).init_with_output, jax.random.key(0), x)[0].shape
    (2, 1000)
    """

    blocks: Sequence[int] = (3, 4, 6, 3)
    outputs: int = 1

    def __post_init__(self) -> None:
        self.blocks = _check.wholes("blocks", self.blocks, least=1)
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        _check.require(len(self.blocks) > 0, "blocks", "one a stage", self.blocks)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Real[Array, "n height width c"], train: bool = False
    ) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, height, width, c)`; `train` takes the batch's own statistics."""
        h = _conv(images(x), 64, 7, 2, name="conv1")
        h = jax.nn.relu(batch_norm(h, train, name="bn1"))
        h = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))  # with zeros, which lie below all that relu leaves
        h = nn.max_pool(h, (3, 3), (2, 2))
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                h = _Bottleneck(64 * 2**stage, stride, name=f"layer{stage + 1}_{block}")(h, train)
        return squeezed(torch_dense(h.mean(axis=(1, 2)), self.outputs, name="fc"))


class _Bottleneck(nn.Module):
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "n height width c"], train: bool) -> Array:
        h = _conv(x, self.channels, 1, name="conv1")
        h = jax.nn.relu(batch_norm(h, train, name="bn1"))
        h = _conv(h, self.channels, 3, self.stride, name="conv2")
        h = jax.nn.relu(batch_norm(h, train, name="bn2"))
        h = _conv(h, 4 * self.channels, 1, name="conv3")
        h = batch_norm(h, train, name="bn3")
        if x.shape != h.shape:
            x = _conv(x, 4 * self.channels, 1, self.stride, name="downsample_0")
            x = batch_norm(x, train, name="downsample_1")
        return jax.nn.relu(x + h)


def _conv(h: Float[Array, "n height width c"], channels: int, kernel: int, stride: int = 1, *, name: str) -> Array:
    return conv(channels, kernel, stride, padding=kernel // 2, kernel_init=he_normal, dtype=h.dtype, name=name)(h)


def load(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Pretrained weights of a `ResNet`, from a .safetensors file with torchvision's names.

    The names are conv1.weight, bn1.{weight,bias,running_mean,running_var}, layer1.0.conv1.weight, ...,
    layer1.0.downsample.0.weight, ..., fc.{weight,bias}; num_batches_tracked is passed over. If the head in the file has
    another number of outputs than the network's, the network's keeps its own initialisation.

    Args:
        path: the file. Pickles (.pth, .pt) are not read, since they can run code.
        variables: "params" and "batch_stats" of the network, from `init`.

    Returns:
        Variables of the same structure, shapes and dtypes.

    Raises:
        ValueError: the file is not one of safetensors, or is damaged; an entry is missing, has another shape or no
            finite numbers, or is none of this network's. It names file and entry.
        OSError: it cannot be opened.
    """
    where = os.fspath(path)
    entries = _read(where)
    leaves, structure = jax.tree.flatten_with_path(dict(variables))
    names = [_torch_name(keys) for keys, _ in leaves]
    missing = [name for name in names if name not in entries]
    unknown = [name for name in entries if name not in names and not name.endswith(".num_batches_tracked")]
    _check.require(not missing, where, f"the {len(names)} entries of the network", f"none called {_some(missing)}")
    _check.require(not unknown, where, f"the {len(names)} entries of the network", f"also {_some(unknown)}")

    sizes = dict(zip(names, [leaf.shape for _, leaf in leaves], strict=True))
    replaced = entries["fc.bias"].shape != sizes["fc.bias"]
    loaded = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if replaced and name.startswith("fc."):
            loaded.append(leaf)
            continue
        tensor = entries[name]
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[leaf.ndim]  # torch has outputs first, flax has them last
        there = tuple(leaf.shape[axis] for axis in np.argsort(axes))
        _check.require(tensor.shape == there, f"{where}: {name}", f"shape {there}", f"shape {tensor.shape}")
        _check.finite(f"{where}: {name}", tensor)
        loaded.append(jnp.asarray(tensor.transpose(axes), leaf.dtype))
    return jax.tree.unflatten(structure, loaded)


def _read(path: str) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a whole .safetensors file, got {error}") from error


def _torch_name(keys: Sequence[Any]) -> str:
    """The name in torchvision of the leaf at params/layer1_0/downsample_0/kernel: layer1.0.downsample.0.weight."""
    *modules, last = (str(key.key) for key in keys[1:])
    entry = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(last, last)
    return ".".join([*(module.replace("_", ".") for module in modules), entry])


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
