"""Networks as flax.linen modules: NTK parametrisation for the theory, standard parametrisation for practice.

`MLP` and `CNN` are the networks of Eq. 1 (Pezeshki et al. 2021). `FullyConnected`, `ConvNet`, `VGG`, `PreActResNet`
and `ResNet` are networks that practitioners train. They have the standard parametrisation and biases, and take `train`
in `__call__`. `TwoLayer` is the network of Zhang et al. (2024), whose second layer may be frozen. All return `(n,)` for
one output and `(n, k)` for k outputs. `stages` gives the named intermediate outputs of these and of all other flax
networks, and `Readout` predicts labels from one of them.
"""

from __future__ import annotations

import difflib

import flax.linen as nn

from gsjax import _check
from gsjax.networks import resnet, stages
from gsjax.networks.ntk import ACTIVATIONS, CNN, MLP, gamma
from gsjax.networks.preact import PreActResNet
from gsjax.networks.readout import Readout
from gsjax.networks.resnet import ResNet
from gsjax.networks.stages import Stage
from gsjax.networks.standard import ConvNet, FullyConnected
from gsjax.networks.two_layer import TwoLayer
from gsjax.networks.vgg import VGG

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "MLP",
    "NAMES",
    "VGG",
    "ConvNet",
    "FullyConnected",
    "PreActResNet",
    "Readout",
    "ResNet",
    "Stage",
    "TwoLayer",
    "gamma",
    "get",
    "resnet",
    "stages",
]

_NETWORKS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "fully_connected": FullyConnected,
    "convnet": ConvNet,
    "vgg": VGG,
    "preact_resnet": PreActResNet,
    "resnet": ResNet,
    "two_layer": TwoLayer,
}

NAMES: tuple[str, ...] = tuple(_NETWORKS)


def get(name: str) -> type[nn.Module]:
    """The constructor of the network `name`, one of `NAMES`.

    Raises:
        ValueError: no network has this name.

    >>> get("mlp")((64, 64), outputs=3).outputs
    3
    """
    close = difflib.get_close_matches(str(name), NAMES)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    known = isinstance(name, str) and name in NAMES
    _check.require(known, "name", f"one of {', '.join(NAMES)}", f"{name!r}{hint}")
    return _NETWORKS[name]
