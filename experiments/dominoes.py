"""Dominoes: harmful and benign spurious features through prediction depth, and what remedies do to it.

Murali et al. 2023 stack two images, of which both carry the label. The network is meant to use the core half; the
other half is spurious. It is harmful if it is easier to learn than the core half, and benign if it is harder. So the
same pair of image sets is trained on twice, with the halves swapped. Controls have a spurious half that is independent
of the label ("clean"), or none at all ("alone", black).

    python -m experiments dominoes --preset smoke       scikit-learn's digits
    python -m experiments dominoes --preset laptop      Fashion-MNIST and MNIST, 6 minutes on 2 cores
    python -m experiments dominoes --preset paper       CIFAR-10 and MNIST by the published recipe, not run

- Accuracy is measured on images as in training ("iid"), with the spurious half blanked (black) or randomised, both
  called core-only; with the core half blanked or randomised; and with the spurious half reversed.
- Depth is that of iid test images, by the published rule: 29 neighbours in L1 at every stage. Invalid examples have
  none. Layer 0, the raw input, does not count; the accuracy of its vote is in the summary.
- Information is in bits and on the same images, for three families. "Linear" is a linear network on pixels, and
  "stages" the votes of the first l stages with one confidence, averaged over l < L. These are restricted, as the
  proposition of `theory/usable_information.py` demands. "Network" is the whole network at its best temperature, with
  the class balance in place of a network that is trained on empty input.
- The monitor warns if the share of valid examples of depth 1 lies above what clean networks show, at any checkpoint.
  The nominal rate of false alarms is `--rate`; the measured one is that of clean networks, each judged by the others.
  The epoch of the warning is compared with the first checkpoint at which accuracy shows the feature: that with a
  randomised spurious half is below the prediction interval of the clean networks, at the same rate. Both comparisons
  need clean images, and the second one the spurious half. A control needs no probes: accuracy on iid images that is
  above the prediction interval of the clean networks.

*Remedies.* Spectral decoupling (SD), Group DRO, Learning from Failure (LfF) and IRM are trained on harmful dominoes of
two environments, whose mean correlation is 0.95, with the same images, steps and optimiser as ERM. Only Group DRO knows
the groups, and only IRM the environments. Hyperparameters are published ones or round numbers; none is tuned here.
Classes are balanced by construction, so class weights would change nothing. The trivial remedies are an offset on the
logits, selected on validation images for the worst group, and a temperature, which changes only information in bits. A
network that is trained without the spurious half shows what knowing it is worth.

| | published | laptop |
|---|---|---|
| images | 32 x 32 per half, labels 0 and 1 | 14 x 14 per half; pullovers and coats, zeros and ones |
| network | ResNet-18 | a VGG of 4 convolutions, 8 to 32 channels |
| training | 50 epochs of all images, batch 256, rate 0.1 | 8 epochs of 2,000 images, batch 100, rate 0.05 |
| both | SGD with momentum 0.9, cosine schedule, weight decay 5e-4, correlation 1 | |
| bank | all training images | 300 of them |

The published labels of Fashion-MNIST, T-shirts and trousers, are as easy as digits. The preset `paper` takes the
published recipe to one pair of the published sets, and needs all of CIFAR-10.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from experiments import _domino_measures, _domino_report
from experiments._bounds import Bound, expect
from experiments._domino_measures import Sizes, Watched
from experiments._domino_tasks import EASY, HARD, Half, draw
from experiments._study import Cell, Report, Study, keys
from gsjax import methods, networks
from gsjax.probes import alarms, monitoring

Data = Literal["harmful", "benign", "harmful clean", "benign clean", "harmful alone", "benign alone"]
Remedy = Literal["erm", "sd", "group_dro", "lff", "irm"]


@dataclass(frozen=True)
class Config:
    """Data, training and probes."""

    hard: Literal["digits", "fashion_mnist", "kmnist", "cifar10"] = "fashion_mnist"
    """Image set that is harder to learn."""
    easy: Literal["digits", "mnist"] = "mnist"
    """Image set that is easier to learn."""
    arms: tuple[Data | Remedy, ...] = (*Data.__args__, *Remedy.__args__)
    """Data sets, trained by ERM, and remedies."""
    correlation: Annotated[float, Bound(above=0.5, most=1)] = 1.0
    """Probability that the spurious half agrees with the label, in the data sets "harmful" and "benign"."""
    environments: Annotated[tuple[float, float], Bound(above=0.5, most=1)] = (0.9, 1.0)
    """The same in the two environments of the remedies."""
    seeds: Annotated[int, Bound(least=2)] = 8
    """Networks per arm; images are drawn anew for each."""
    clean: Annotated[int, Bound(least=2)] = 12
    """Networks on clean data, which set the thresholds of the monitor."""
    n: Annotated[int, Bound(least=4)] = 2000
    """Training images, an even number."""
    test: Annotated[int, Bound(least=4)] = 500
    """Test images, and as many for validation."""
    stride: int = 2
    """Every `stride`-th row and column of pixels is kept."""
    network: Literal["vgg", "resnet18"] = "vgg"
    """VGG with four convolutions, or ResNet-18."""
    width: int = 8
    """Channels of its first convolution."""
    epochs: int = 8
    """Passes over the training images."""
    batch_size: Annotated[int, Bound(least=2)] = 100
    """Images per step."""
    learning_rate: float = 0.05
    """Initial learning rate of SGD with momentum 0.9, which falls along a cosine."""
    weight_decay: Annotated[float, Bound(least=0)] = 5e-4
    """Adds (weight_decay / 2) ||theta||^2 to every objective."""
    sd: float = 0.2
    """Strength of spectral decoupling: adds (sd / 2) mean yhat^2."""
    irm: float = 10.0
    """Weight of IRM's penalty after a quarter of the steps, before which it is 1."""
    k: int = 29
    """Neighbours of the probes."""
    bank: int = 300
    """Training images among which they are searched."""
    queries: int = 300
    """Test images whose depth, information and saliency are measured."""
    checkpoints: Annotated[int, Bound(least=2)] = 10
    """Evaluations of the monitor: before training, after a step, and so on to the end, evenly on a logarithmic axis."""
    rate: Annotated[float, Bound(above=0, below=0.5)] = 0.05
    """Nominal rate of false alarms per network."""
    linear_steps: int = 300
    """Steps of Adam for the linear family."""


PRESETS = {
    "smoke": Config(
        hard="digits",
        easy="digits",
        seeds=4,
        clean=4,
        n=200,
        test=80,
        stride=1,
        width=4,
        epochs=2,
        batch_size=50,
        k=9,
        bank=60,
        queries=60,
        checkpoints=3,
        rate=0.2,
        linear_steps=20,
    ),
    "laptop": Config(),
    "paper": Config(
        hard="cifar10",
        seeds=5,
        clean=10,
        n=7600,
        test=1000,
        stride=1,
        network="resnet18",
        width=64,
        epochs=50,
        batch_size=256,
        learning_rate=0.1,
        bank=2000,
        queries=1000,
    ),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: numbers that do not fit together.
    """
    expect(config.n % 2 == 0, "n", "an even number", config.n)
    expect(config.batch_size <= config.n, "batch_size", f"at most n = {config.n}", config.batch_size)
    expect(config.bank <= config.n, "bank", f"at most n = {config.n}", config.bank)
    expect(config.queries <= config.test, "queries", f"at most test = {config.test}", config.queries)
    expect(config.k <= config.bank, "k", f"at most bank = {config.bank}", config.k)
    expect(config.seeds <= config.clean, "clean", f"at least seeds = {config.seeds}", config.clean)
    steps = checkpoints(config)
    several = f"a smaller number, with each at another one of {steps[-1]} steps"
    expect(len(steps) == config.checkpoints, "checkpoints", several, config.checkpoints)
    same: Any = np.ones((config.clean, len(steps), 2))
    try:
        alarms.false_alarms(monitoring.Course(same, same, same, None, ("first", "second")), rate=config.rate)
    except ValueError as error:
        raise ValueError(f"clean: expected more networks, one of which is judged by the others ({error})") from error


class Arm(NamedTuple):
    """What a cell trains: the images, the method, the number of networks, and whether they are followed in time."""

    swapped: bool
    correlations: tuple[float, ...]
    alone: bool
    method: str
    networks: int
    followed: bool


def arm(name: str, config: Config) -> Arm:
    """The arm of this name."""
    pair, _, control = name.partition(" ")
    if pair not in ("harmful", "benign"):
        return Arm(False, config.environments, False, name, config.seeds, False)
    correlation = 0.5 if control == "clean" else config.correlation
    count = config.clean if control == "clean" else config.seeds
    return Arm(pair == "benign", (correlation,), control == "alone", "erm", count, control != "alone")


def epoch(config: Config) -> int:
    """The steps of an epoch."""
    return config.n // config.batch_size


def checkpoints(config: Config) -> list[int]:
    """The steps at which the monitor is evaluated; the last one is the end of training."""
    last = config.epochs * epoch(config)
    return sorted({0, last, *(round(step) for step in np.geomspace(1, last, config.checkpoints - 1))})


@functools.lru_cache(maxsize=4)
def build(config: Config) -> nn.Module:
    """The network, with one output."""
    width = config.width
    if config.network == "resnet18":
        return networks.ResNet((2, 2, 2, 2), 1, block="basic", stem="small", width=width)
    return networks.VGG(((width,), (2 * width,), (4 * width, 4 * width)), 1)


@functools.lru_cache(maxsize=8)
def method(name: str, config: Config) -> methods.Method:
    """ERM or a remedy, the same object for all arms, so that its programs are compiled once.

    LfF has q = 0.7 and, as in its published code, moving averages of the losses; Group DRO has step size 0.01.
    """
    steps = config.epochs * epoch(config)
    optimizer = optax.sgd(optax.cosine_decay_schedule(config.learning_rate, steps), momentum=0.9)
    options: dict[str, dict[str, Any]] = {
        "erm": {},
        "sd": {"strength": config.sd},
        "group_dro": {"groups": 4, "step_size": 0.01},
        "lff": {"q": 0.7, "examples": config.n, "decay": 0.7},
        "irm": {"penalty_weight": config.irm, "anneal": steps // 4},
    }
    registered = {"sd": "spectral_decoupling"}.get(name, name)
    return methods.get(registered)(build(config), optimizer, weight_decay=config.weight_decay, **options[name])


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per arm, with all of its networks."""
    planned = {name: arm(name, config) for name in config.arms}
    cells = [
        Cell(
            {"arm": name},
            functools.partial(train, name, each, config, seed),
            _domino_measures.COLUMNS,
            each.networks,
        )
        for name, each in planned.items()
    ]

    def report(rows: list[dict[str, Any]]) -> Report:
        return _domino_report.report(
            rows, epoch=epoch(config), rate=config.rate, judged=config.seeds, images=config.test
        )

    described = {
        "name": f"dominoes of {config.hard} (hard) and {config.easy} (easy)",
        "train": config.n,
        "validation": config.test,
        "test": config.test,
        "stand-in": False,
    }
    return Study(described, cells, report)


def halves(config: Config) -> tuple[Half, Half]:
    """The hard half and the easy half."""
    return Half(config.hard, HARD[config.hard]), Half(config.easy, EASY[config.easy])


def train(name: str, arm: Arm, config: Config, seed: int) -> list[dict[str, Any]]:
    """Trains all networks of an arm in one compiled program and measures them; one row per network."""
    core, spurious = halves(config)[:: -1 if arm.swapped else 1]
    numbers = keys(seed, range(arm.networks))
    task = draw(
        numbers,
        core,
        spurious,
        correlations=arm.correlations,
        n=config.n,
        test=config.test,
        stride=config.stride,
        alone=arm.alone,
    )
    network, sizes = build(config), Sizes(config.k, config.bank, config.queries)
    bank = jax.tree.map(lambda leaf: leaf[:, : config.bank], task.train)
    steps = checkpoints(config)
    run = methods.train(
        method(arm.method, config),
        numbers,
        task.train,
        steps=steps[-1],
        batch_size=config.batch_size,
        record=steps if arm.followed else steps[-1:],
        evaluate=_domino_measures.evaluation(network, sizes),
        held_out=Watched(bank, task.test["test"], task.test["random"]),
        per_seed=True,
        what=name,
    )
    linear = _domino_measures.linear_information(
        jax.random.key(seed), task.train, task.test["test"], config.queries, config.linear_steps
    )
    rows = []
    for number in range(arm.networks):
        state, own_bank, validation, test = jax.tree.map(
            lambda leaf, number=number: leaf[number],
            ((run.state.params, run.state.collections), bank, task.validation, task.test),
        )
        measured = _domino_measures.measure(
            network,
            methods.Learner(*state),
            own_bank,
            validation,
            test,
            task.spurious,
            linear.value[number],
            sizes=sizes,
            number=number,
        )
        rows.append(
            {
                "arm": name,
                "seed": number,
                "finite": bool(run.finite[number]),
                "null_gap": float(linear.null_gap[number]),
                **measured,
                "course": _domino_measures.course(run.records, run.steps, number),
            }
        )
    return rows
