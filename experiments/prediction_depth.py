"""Prediction depth: at which stage networks decide, by data set, and with a patch that reveals the class.

Murali et al. 2023 probe the stages of a trained network with nearest neighbours (`gsjax.probes.prediction_depth`). Easy
data sets are decided in early stages, and data with an easy spurious feature in the first ones. Images of several data
sets are classified into their ten classes, by a VGG and by a residual network, each with the same number of images.

    python -m experiments prediction_depth --preset smoke      a minute, on scikit-learn's digits
    python -m experiments prediction_depth --preset laptop     small networks and images, 45 minutes on 2 busy cores
    python -m experiments prediction_depth --preset laptop --data digits mnist kmnist fashion_mnist cifar10
    python -m experiments prediction_depth --preset paper      VGG-16 and ResNet-18, for an accelerator

Each data set has variants, in training as in testing:

- clean: as it is;
- patch: a white patch in the corner of the images of label 1, and of no others; of 5 x 5 pixels if images have 32 x 32,
  else in proportion;
- patches: the same patch in all images, at a place that tells the class;
- controls, for one data set: the patch in a random half of all images; and shuffled labels.

The first network is trained on all of them, further networks on the clean ones and those with a patch per class. Depths
are those of test images, and the bank is a part of the training images. Every seed draws its own images, with equally
frequent classes. Votes of the raw input are layer 0: their accuracy is reported, and the depth does not count it. The
stages of the VGG are its convolutions, as published, and those of the residual network its stem and its blocks. Depths
are also recorded after earlier epochs; and for clean data by other numbers of neighbours, and by linear probes
(`gsjax.probes.linear_probe`).

*Information* is that of Ethayarajh et al. 2022, in bits: of the network itself, and of a family that knows nothing of
it, one hidden layer on the pixels (`gsjax.probes.pointwise_information`). Examples with less information are expected
to be deeper. The control pairs the depth of an image with the information of another image of its class.

Deviations from the published code, in all presets: its mean depths are of 50 test images and of convolutions before
batch norm, after three epochs on batches of 128 grayscale images. Its patch, of 4 x 4 pixels, is at a place that tells
the class for nine of ten classes, so its published mean depth is to be compared with that of the variant patches. The
recipe of the preset paper is that of the larger published experiments: batches of 256 and 50 epochs.
`docs/results/prediction_depth.md` has the results.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments import _cifar
from experiments._bounds import Bound, expect
from experiments._depth_figures import draw_depths, draw_effects, draw_information
from experiments._depth_networks import built, inform, train_networks
from experiments._depth_rows import INFORMATION, Found, planned, summarise
from experiments._depth_signatures import judge
from experiments._depth_tasks import CLASSES, per_class, read
from experiments._study import Cell, Columns, Report, Study


@dataclass(frozen=True)
class Config:
    """Data, networks and training."""

    data: tuple[Literal["digits", "mnist", "fashion_mnist", "kmnist", "cifar10"], ...] = (
        "digits",
        "mnist",
        "fashion_mnist",
        "cifar10",
    )
    """Data sets."""
    control: Literal["digits", "mnist", "fashion_mnist", "kmnist", "cifar10"] = "mnist"
    """The data set of the controls."""
    networks: tuple[Literal["vgg", "resnet"], ...] = ("vgg", "resnet")
    """Networks; only the first is trained on all variants."""
    seeds: Annotated[int, Bound(least=2)] = 5
    """Networks per data set and variant, each with its own images."""
    n: Annotated[int, Bound(least=CLASSES)] = 1300
    """Training images."""
    bank: Annotated[int, Bound(least=CLASSES)] = 1000
    """Images of the bank, a part of the training images."""
    queries: Annotated[int, Bound(least=CLASSES)] = 500
    """Test images, or as many as there are of the rarest class."""
    size: Annotated[int, Bound(least=8)] = 16
    """Height and width of the images, a multiple of 8."""
    width: int = 8
    """Channels of the first stage."""
    vgg: Annotated[tuple[int, ...], Bound(repeats=True)] = (2, 2, 3, 3)
    """Convolutions per block of the VGG."""
    resnet: Annotated[tuple[int, ...], Bound(repeats=True)] = (1, 1, 1, 1)
    """Blocks per group of the residual network."""
    epochs: tuple[int, ...] = (1, 3, 10)
    """Epochs after which depths are measured; the last one ends the training."""
    batch_size: int = 64
    """Images per step."""
    learning_rate: float = 0.1
    """Initial learning rate of SGD with momentum 0.9; it falls to zero along a cosine."""
    weight_decay: Annotated[float, Bound(least=0)] = 5e-4
    """Adds (weight_decay / 2) ||theta||^2 to the loss."""
    k: int = 29
    """Neighbours."""
    other_k: tuple[int, ...] = (5, 99)
    """Other numbers of neighbours, for clean data after the last epoch."""
    hidden: int = 64
    """Hidden units of the family that knows nothing of the networks."""
    steps: int = 200
    """Steps of its training."""
    decay: Annotated[float, Bound(least=0)] = 0.03
    """Its weight decay, without which it overfits: then information on test images is far below the family's."""


PRESETS = {
    "smoke": Config(
        data=("digits",),
        control="digits",
        seeds=2,
        n=200,
        bank=100,
        queries=60,
        size=8,
        width=4,
        vgg=(1, 1),
        resnet=(1, 1),
        epochs=(1, 6),
        batch_size=20,
        learning_rate=0.05,
        k=9,
        other_k=(5,),
        hidden=16,
        steps=60,
    ),
    "laptop": Config(),
    "paper": Config(
        data=("mnist", "fashion_mnist", "kmnist", "cifar10"),
        n=50_000,
        queries=1000,
        size=32,
        width=64,
        vgg=(2, 2, 3, 3, 3),
        resnet=(2, 2, 2, 2),
        epochs=(1, 3, 50),
        batch_size=256,
        steps=4000,
    ),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: sizes that contradict each other; a control that is not one of the data sets; epochs that do not
            increase.
    """
    expect(config.control in config.data, "control", f"one of {' '.join(config.data)}", config.control)
    for name, count in (("n", config.n), ("bank", config.bank)):
        expect(count % CLASSES == 0, name, f"a multiple of {CLASSES}, the number of classes", count)
    expect(config.bank <= config.n, "bank", f"at most n = {config.n}", config.bank)
    expect(config.batch_size <= config.n, "batch_size", f"at most n = {config.n}", config.batch_size)
    for name, largest in (("k", config.k), ("other_k", max(config.other_k))):
        expect(largest <= config.bank, name, f"at most bank = {config.bank}", largest)
    expect(config.k not in config.other_k, "other_k", f"other numbers than k = {config.k}", config.k)
    expect(config.size % 8 == 0, "size", "a multiple of 8", config.size)
    pools = 2 ** len(config.vgg)
    expect(
        "vgg" not in config.networks or pools <= config.size,
        "vgg",
        "as many blocks as images can be halved",
        config.vgg,
    )
    expect(sorted(config.epochs) == list(config.epochs), "epochs", "increasing numbers", config.epochs)


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per network, data set and variant, with all seeds; the same for the information of the small family."""
    about, sizes = [], {}
    for name in config.data:
        train, test = read(name)
        sizes[name] = per_class(test.labels, config.queries) * CLASSES
        most = CLASSES * per_class(train.labels, len(train.labels))
        expect(config.n <= most, "n", f"at most {most}, with equally many of each class", config.n)
        called = _cifar.called(name, len(train.labels))
        about.append({"name": called, "train": config.n, "test": sizes[name], "stand-in": False})

    def cell(network: str, name: str, variant: str) -> Cell:
        key = {"network": network, "data": name, "variant": variant}
        if network == INFORMATION:
            columns: Columns = {"seed": int, "finite": bool, "bits": (float, sizes[name])}
            return Cell(key, functools.partial(inform, config, seed, key), columns, config.seeds)
        layers, times = len(built(network, config).positions), len(config.epochs)
        columns = {
            "seed": int,
            "finite": bool,
            "train": (float, times),
            "test": (float, times),
            "depth": (float, times, sizes[name]),
            "votes": (float, times, layers),
            "bits": (float, sizes[name]),
        }
        if variant == "clean":
            other = (float, len(config.other_k), sizes[name])
            columns |= {"other": other, "linear": (float, sizes[name]), "linear votes": (float, layers)}
            columns |= {"linear converged": bool}
        return Cell(key, functools.partial(train_networks, config, seed, key), columns, config.seeds)

    def report(rows: list[dict[str, Any]]) -> Report:
        found = Found(rows, config)
        figures = {
            "depths.png": functools.partial(draw_depths, found),
            "effects.png": functools.partial(draw_effects, found),
            "information.png": functools.partial(draw_information, found),
        }
        return Report(summarise(found), judge(found), figures)

    return Study(about, [cell(*key) for key in planned(config)], report)
