"""Accuracy under attack: spectral decoupling against plain training, on all classes of CIFAR (Table 1).

Pezeshki et al. 2021. Networks for all classes are trained plainly (ERM) and with spectral decoupling (SD). They are
attacked with a radius of 5/255 per pixel, in 10 steps of 0.5/255, on the normalised images that they see.

    python -m experiments adversarial_accuracy --preset smoke      seconds, on scikit-learn's digits
    python -m experiments adversarial_accuracy --preset laptop     the same digits for 20 epochs: minutes on 2 cores
    python -m experiments adversarial_accuracy --preset gpu        8 epochs, 5 seeds: 4 minutes of an H100
    python -m experiments adversarial_accuracy --preset paper      the published settings, CIFAR-100 too if it is there

The preset gpu has too few epochs and images to test Table 1; see `docs/results/adversarial_accuracy.md`. One network of
it took 13 to 21 s on a shared H100, without compilation. For the preset paper this extrapolates to 15 to 25 minutes per
network, and to 2.5 to 4 hours for the 10 networks of a data set.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments import _cifar, _rows
from experiments._bounds import Bound
from experiments._cifar import ARMS
from experiments._study import Cell, Report, Study, select
from gsjax import data, methods, networks, plotting
from gsjax.data import scaling
from gsjax.probes import margins

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Config:
    """Training and attack; the defaults are the published settings, where there are any."""

    data: tuple[Literal["cifar10", "cifar100", "digits"], ...] = ("cifar10", "cifar100")
    """Data sets; CIFAR-100 is skipped if its files are absent, and digits (8x8, in scikit-learn) are a stand-in."""
    seeds: Annotated[int, Bound(least=2)] = 5
    """Networks per method."""
    network: Literal["preact_resnet", "vgg"] = "preact_resnet"
    """Architecture."""
    channels: Annotated[tuple[int, ...], Bound(repeats=True)] = (64, 128, 256, 512)
    """Channels of the stages of preact_resnet."""
    blocks: int = 2
    """Blocks per stage."""
    epochs: int = 200
    """Epochs of training, over which the learning rate decays to zero as a cosine."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 0.1
    """Initial learning rate, with momentum 0.9 and a weight decay of 5e-4."""
    images: int = 10_000
    """Number of attacked test images, the first ones of the file."""
    precision: Literal["highest", "tensorfloat32"] = "highest"
    """Precision of matrix products and convolutions, where the device has a choice."""


PRESETS = {
    "smoke": Config(data=("digits",), seeds=2, channels=(4,), blocks=1, epochs=2, images=50),
    "laptop": Config(data=("digits",), channels=(8, 16), blocks=1, epochs=20, images=450),
    "gpu": Config(data=("cifar10",), epochs=8, images=1000, precision="tensorfloat32"),
    "paper": Config(),
}

TABLE_1 = {"cifar10": {"erm": 0.30, "sd": 0.67}, "cifar100": {"erm": 0.14, "sd": 0.25}}  # accuracy under attack
FACTORS = {"cifar10": 0.01, "cifar100": 0.05, "digits": 0.01}  # c of SD


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per network; both methods of a seed follow each other, so that an unfinished run can be compared."""
    names = [name for name in config.data if name != "cifar100" or data.get("cifar100").available()]
    about = {name: _cifar.about(name) for name in names}

    def one(name: str, arm: str, number: int) -> list[dict[str, Any]]:
        rows = _cifar.train(recipe(name, arm, config), seed, [number], f"{name}, {arm}, {number}")
        return [{"data": name, "arm": arm, **row} for row in rows]

    def report(rows: list[dict[str, Any]]) -> Report:
        lines, signatures, found = [], [], {}
        for name in names:
            found[name] = {arm: select(rows, data=name, arm=arm) for arm in ARMS}
            sizes = about[name]["train"], about[name]["test"]
            lines += summarise(found[name], config, name, sizes)
            signatures += judge(found[name], config, name, sizes)
        return Report(lines, signatures, {"accuracies.png": functools.partial(draw, found)})

    columns = {"epoch": int, "finite": bool, "train": float, "test": float, "attacked": float}
    return Study(
        list(about.values()),
        [
            Cell({"data": name, "arm": arm, "seed": number}, functools.partial(one, name, arm, number), columns, 1)
            for name in names
            for number in range(config.seeds)
            for arm in ARMS
        ],
        report,
    )


class InPrecision(nn.Module):
    """A network with its own precision of matrix products and convolutions, forwards and backwards."""

    network: nn.Module
    precision: str

    def __call__(self, x: Array, train: bool = False) -> Array:
        """The outputs of the network."""
        with jax.default_matmul_precision(self.precision):
            return self.network(x, train=train)


@functools.lru_cache(maxsize=2)  # compiles once for all seeds of an arm
def recipe(name: str, arm: str, config: Config) -> _cifar.Recipe:
    """Training on all classes, with the accuracy on test images and under attack.

    Images are normalised by the mean and standard deviation of each channel over the training images. Radius, step size
    and pixel range are mapped accordingly, so that the attack has 5/255 per pixel before normalisation.
    """
    train, test = _cifar.load(name)
    normalised = scaling.standard(train.pixels)
    mean, std = normalised

    classes = int(train.labels.max()) + 1
    if config.network == "vgg":
        network = networks.VGG(outputs=classes)
    else:
        blocks = (config.blocks,) * len(config.channels)
        network = networks.PreActResNet(config.channels, blocks, classes)
    network = InPrecision(network, config.precision)
    x, y = normalised(train.pixels), jnp.asarray(train.labels, jnp.int32)
    size = min(config.batch_size, len(y))
    steps = config.epochs * (len(y) // size)
    optimizer = optax.sgd(optax.cosine_decay_schedule(config.learning_rate, steps), momentum=0.9)
    options = {} if arm == "erm" else {"strength": _cifar.strength(FACTORS[name], classes=classes)}
    attack = {"radius": 5 / 255 / std, "step_size": 0.5 / 255 / std, "steps": 10}
    attack["bounds"] = normalised(np.zeros_like(mean)), normalised(np.full_like(mean, 255))

    def evaluate(state: methods.State, held_out: Mapping[str, tuple[Array, Array]]) -> dict[str, Array]:
        def logits(x: Array) -> Array:
            return methods.predict(network, state, x)

        def attacked(x: Array, y: Array) -> Array:
            return margins.correct(logits(margins.pgd(logits, x, y, **attack)), y)

        def right(x: Array, y: Array) -> Array:
            return margins.correct(logits(x), y)

        found = {name: _cifar.each(right, *examples).mean() for name, examples in held_out.items()}
        return {**found, "attacked": _cifar.each(attacked, *held_out["test"]).mean()}

    shown = normalised(test.pixels[: config.images])
    constructor = methods.get("erm" if arm == "erm" else "spectral_decoupling")
    return _cifar.Recipe(
        network,
        constructor(network, optimizer, weight_decay=5e-4, **options),
        methods.Batch(x, y),
        config.epochs,
        size,
        [config.epochs],
        evaluate,
        {
            "train": (x[: config.images], y[: config.images]),
            "test": (shown, jnp.asarray(test.labels[: config.images], jnp.int32)),
        },
    )


def summarise(rows: Rows, config: Config, name: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of Table 1 for one data set."""
    train, test = sizes
    network = config.network
    if network == "preact_resnet":
        network += f" of {config.blocks} blocks of {', '.join(map(str, config.channels))} channels"
    complete = tested(config, name, train)
    changes = [
        "" if complete else untested(config, name, train),
        f"{network}, SGD at {config.learning_rate:g} (cosine, momentum 0.9, weight decay 5e-4), batches of "
        f"{config.batch_size}, no augmentation; none of that is stated for the published numbers",
        "TF32 on a GPU" if config.precision == "tensorfloat32" else "",
        "published within 0.05 in the paper, 5/255 in its code",
        f"{config.images} test images" if config.images < test else "",
    ]
    differs = "; ".join(filter(None, changes))
    lines = []
    for arm, trained in rows.items():
        label = f"{data.get(name).title}, {ARMS[arm]}, c = {FACTORS[name] if arm == 'sd' else 0:g}"
        for split, quantity in (("train", "training accuracy"), ("test", "test accuracy")):
            lines.append(_rows.measured(f"{label}: {quantity}", [row[split] for row in trained]))
        published = TABLE_1.get(name, {}).get(arm)
        values = [row["attacked"] for row in trained]
        lines.append(_rows.measured(f"{label}: under attack (5/255)", values, published=published, differs=differs))
    published = TABLE_1[name]["sd"] - TABLE_1[name]["erm"] if name in TABLE_1 else None
    title = f"{data.get(name).title}: under attack (5/255), SD minus ERM"
    return [*lines, _rows.measured(title, gain(rows), published=published, differs=differs)]


def gain(rows: Rows) -> Float[np.ndarray, " seeds"]:
    """Accuracy under attack, SD minus ERM, paired by seed."""
    return np.array([row["attacked"] for row in rows["sd"]]) - np.array([row["attacked"] for row in rows["erm"]])


def tested(config: Config, name: str, train: int) -> bool:
    """Whether the networks have at least the published epochs and training images."""
    return train >= data.get(name).sizes.get("train", np.inf) and config.epochs >= Config().epochs


def untested(config: Config, name: str, train: int) -> str:
    """How far the training falls short of the published one."""
    available = data.get(name).sizes.get("train", train)
    share = config.epochs * train / (Config().epochs * available)
    return (
        f"not tested: {config.epochs} of {Config().epochs} epochs on {train} of {available} images, {share:.2%} "
        "of the published training"
    )


def judge(rows: Rows, config: Config, name: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Whether SD has a higher accuracy under attack than ERM, paired by seed; none after too short a training."""
    if not tested(config, name, sizes[0]):
        return []
    accuracy = {arm: np.mean([[row["test"], row["attacked"]] for row in each], axis=0) for arm, each in rows.items()}
    return [
        _rows.signature(
            f"{data.get(name).title}: accuracy under attack (5/255), SD minus ERM",
            gain(rows),
            above=0.0,
            why=f"the sign of the published difference, {TABLE_1[name]['sd'] - TABLE_1[name]['erm']:.2f}",
            reason="not known; {:.1%} and {:.1%} of the images are right under ERM without and with attack, {:.1%} and "
            "{:.1%} under SD".format(*accuracy["erm"], *accuracy["sd"]),
        )
    ]


def draw(found: Mapping[str, Rows], path: Path) -> None:
    """Accuracies of both methods on clean and on attacked test images, one panel per data set."""
    figure, (axes,) = plotting.panels(1, len(found))
    for ax, (name, rows) in zip(axes, found.items(), strict=True):
        series = {ARMS[arm]: [[row["test"], row["attacked"]] for row in each] for arm, each in rows.items()}
        plotting.categories(
            ["as they are", "under attack"], series, ax=ax, ylabel=f"test accuracy, {data.get(name).title}"
        )
    plotting.save(figure, path)
