"""Residual networks (He et al. 2016a) for photographs and small images, and a reader for their pretrained weights."""

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
from gsjax.networks.stages import Stage
from gsjax.networks.standard import batch_norm, he_normal, squeezed, torch_dense

__all__ = ["ResNet", "load"]

_AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # the output axis is first in torch and last in flax


class ResNet(nn.Module):
    """Residual network of bottlenecks, version 1.5 as in torchvision, or of basic blocks; ResNet-50 by default.

    The network consists of

    - the stem: a 7 x 7 convolution with stride 2, batch norm, ReLU, and a 3 x 3 max pool with stride 2; for small
      images, a 3 x 3 convolution with stride 1, batch norm and ReLU (He et al. 2016a, Section 4.2);
    - groups s = 0, 1, ... of blocks; with w = width 2^s, a bottleneck is
      relu(shortcut + conv(relu(conv(relu(conv(h)))))), whose convolutions are 1 x 1, 3 x 3 and 1 x 1 with w, w and 4 w
      channels, and a basic block is relu(shortcut + conv(relu(conv(h)))), whose convolutions are 3 x 3 with w channels;
      batch norm follows each convolution;
    - the mean over the image and a linear readout.

    In the first block of each group except the first, the first 3 x 3 convolution has stride 2 (this is version 1.5).
    Where a block changes the shape, its shortcut is a 1 x 1 convolution with batch norm. Convolutions have no bias and
    are initialised as in He et al. 2015 (normal, fan out).

    `init(key, x)` returns variables. `apply(variables, x)` with x `(n, height, width, c)` returns `(n,)` for one output
    and `(n, k)` for k. With `train=True` batch norm updates the collection "batch_stats". Module names are those of
    torchvision, with `layer1_0` for `layer1.0`; `load` reads torchvision's weights. The stages are `stem`, after the
    max pool or the ReLU; `layer1_0`, `layer1_1`, ..., after the last ReLU of each block; and `pool`, the mean over the
    image, `(n, channels)`. All but `pool` are images `(n, height, width, channels)`.

    Attributes:
        blocks: the number of blocks of each group: (3, 4, 6, 3) is ResNet-50, and ResNet-34 with basic blocks;
            (3, 4, 23, 3) is ResNet-101; (2, 2, 2, 2) with basic blocks is ResNet-18.
        outputs: k.
        block: "bottleneck" or "basic".
        stem: "photographs", or "small" for images such as those of MNIST and CIFAR.
        width: the number of channels of the stem and of the 3 x 3 convolutions in the first group.

    Raises:
        ValueError: a size below one, no blocks, an unknown kind of block or stem, or an x that is empty or does not
            have four axes.

    >>> x = jax.ShapeDtypeStruct((2, 64, 64, 3), float)
    >>> jax.eval_shape(ResNet(outputs=1000).init_with_output, jax.random.key(0), x)[0].shape
    (2, 1000)
    >>> resnet18 = ResNet((2, 2, 2, 2), 10, block="basic", stem="small")  # with width=16 on a laptop
    """

    blocks: Sequence[int] = (3, 4, 6, 3)
    outputs: int = 1
    block: str = "bottleneck"
    stem: str = "photographs"
    width: int = 64

    def __post_init__(self) -> None:
        self.blocks = _check.wholes("blocks", self.blocks, least=1)
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        self.width = _check.whole("width", self.width, least=1)
        _check.require(len(self.blocks) > 0, "blocks", "at least one number", self.blocks)
        _check.choice("block", self.block, ("bottleneck", "basic"))
        _check.choice("stem", self.stem, ("photographs", "small"))
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Real[Array, "n height width c"], train: bool = False
    ) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, height, width, c)`; `train` uses the statistics of the batch."""
        large = self.stem == "photographs"
        h = _conv(images(x), self.width, *((7, 2) if large else (3, 1)), name="conv1")
        h = jax.nn.relu(batch_norm(h, train, name="bn1"))
        if large:
            # Zero padding suffices for the max pool, because ReLU outputs are not negative.
            h = nn.max_pool(jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))
        h = Stage(name="stem")(h)
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers = _layers(self.block, self.width * 2**stage, stride)
                h = _Block(layers, name=f"layer{stage + 1}_{block}")(h, train)
        h = Stage(name="pool")(h.mean(axis=(1, 2)))
        return squeezed(torch_dense(h, self.outputs, name="fc"))


def _layers(block: str, width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
    """The convolutions of a block: channels, kernel and stride of each."""
    if block == "basic":
        return (width, 3, stride), (width, 3, 1)
    return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)


class _Block(Stage):
    """A residual block of the convolutions (channels, kernel, stride) in `layers`."""

    layers: tuple[tuple[int, int, int], ...]

    @nn.compact
    def __call__(self, x: Float[Array, "n height width c"], train: bool) -> Array:
        h = x
        for number, (channels, kernel, stride) in enumerate(self.layers, 1):
            h = _conv(h, channels, kernel, stride, name=f"conv{number}")
            h = batch_norm(h, train, name=f"bn{number}")
            if number < len(self.layers):
                h = jax.nn.relu(h)
        if x.shape != h.shape:
            stride = max(stride for _, _, stride in self.layers)
            x = _conv(x, h.shape[-1], 1, stride, name="downsample_0")
            x = batch_norm(x, train, name="downsample_1")
        return jax.nn.relu(x + h)


def _conv(h: Float[Array, "n height width c"], channels: int, kernel: int, stride: int = 1, *, name: str) -> Array:
    return conv(channels, kernel, stride, padding=kernel // 2, kernel_init=he_normal, dtype=h.dtype, name=name)(h)


def load(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Pretrained weights of a `ResNet`, from a .safetensors file with torchvision's names.

    The names are conv1.weight, bn1.{weight,bias,running_mean,running_var}, layer1.0.conv1.weight, ...,
    layer1.0.downsample.0.weight, ..., fc.{weight,bias}; num_batches_tracked is ignored. If the heads of the file and of
    the network have different numbers of outputs, the head of the network keeps its initialisation.

    Args:
        path: the file. Pickles (.pth, .pt) are not read, since they can run code.
        variables: "params" and "batch_stats" of the network, from `init`.

    Returns:
        Variables of the same structure, shapes and dtypes.

    Raises:
        ValueError: the file is not a safetensors file, or is damaged. An entry is missing, unknown to the network, or
            has another shape; or its numbers are not floating point (16, 32 or 64 bits), not finite in the network's
            dtype, or are negative variances. The error names file and entry. Or `variables` are not those of a ResNet.
        OSError: the file cannot be opened.
    """
    _check.require(isinstance(path, (str, os.PathLike)), "path", "the name of a file", type(path).__name__)
    source = os.fspath(path)
    _check.require(not os.path.isdir(source), source, "a file", "a folder")
    leaves, structure = _leaves(variables)
    try:
        with safe_open(source, framework="np") as file:
            entries = list(file.keys())
            missing = [name for name in leaves if name not in entries]
            unknown = [name for name in entries if name not in leaves and not name.endswith(".num_batches_tracked")]
            expected = f"the {len(leaves)} entries of the network"
            _check.require(not missing, source, expected, f"none called {_some(missing)}")
            _check.require(not unknown, source, expected, f"also {_some(unknown)}")

            # If the number of outputs differs, it does so in both entries of the head.
            bias, weight = (tuple(file.get_slice(name).get_shape()) for name in ("fc.bias", "fc.weight"))
            replaced = bias != leaves["fc.bias"].shape and weight == (*bias, leaves["fc.weight"].shape[0])
            loaded = [
                leaf if replaced and name.startswith("fc.") else _entry(f"{source}: {name}", file, name, leaf)
                for name, leaf in leaves.items()
            ]
    except SafetensorError as error:
        raise ValueError(f"{source}: expected a whole .safetensors file, got {error}") from error
    return jax.tree.unflatten(structure, loaded)


def _leaves(variables: Any) -> tuple[dict[str, Any], Any]:
    """The leaves of a ResNet's variables by torchvision name, and their tree structure."""
    mapping = isinstance(variables, Mapping)
    leaves, structure = jax.tree.flatten_with_path(dict(variables) if mapping else ())
    named = {_torch_name(keys): leaf for keys, leaf in leaves}
    ours = {"fc.weight", "fc.bias", "bn1.running_var"} <= set(named) and len(named) == len(leaves)
    shaped = all(len(getattr(leaf, "shape", ())) in _AXES for leaf in named.values())
    got = f"a mapping of {', '.join(map(str, variables)) or 'nothing'}" if mapping else type(variables).__name__
    _check.require(ours and shaped, "variables", "those of a ResNet, with params and batch_stats", got)
    return named, structure


def _entry(label: str, file: Any, name: str, leaf: Any) -> Array:
    """An entry of the file in the shape and dtype of `leaf`; errors name it by `label`."""
    axes, entry = _AXES[leaf.ndim], file.get_slice(name)
    expected, shape = tuple(leaf.shape[axis] for axis in np.argsort(axes)), tuple(entry.get_shape())
    _check.require(shape == expected, label, f"shape {expected}", f"shape {shape}")
    _check.require(entry.get_dtype() in ("F16", "F32", "F64"), label, "entries of F16, F32 or F64", entry.get_dtype())
    tensor = file.get_tensor(name)
    _check.finite(label, tensor)
    with np.errstate(over="ignore"):
        tensor = tensor.astype(leaf.dtype)
    overflows = int((~np.isfinite(tensor)).sum())
    _check.require(overflows == 0, label, f"numbers within {leaf.dtype}", f"{overflows} beyond it")
    _check.require(
        not name.endswith("running_var") or tensor.min() >= 0, label, "variances of at least 0", tensor.min()
    )
    return jnp.asarray(tensor.transpose(axes))


def _torch_name(keys: Sequence[Any]) -> str:
    """A leaf's torchvision name: layer1.0.downsample.0.weight for params/layer1_0/downsample_0/kernel."""
    *modules, last = ("", *(str(getattr(key, "key", key)) for key in keys[1:]))
    entry = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(last, last)
    return ".".join([*(module.replace("_", ".") for module in modules[1:]), entry])


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
