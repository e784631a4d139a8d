"""Starvation and depth: does the kernel's starvation predict which half of dominoes a network uses, and at which depth?

Gradient starvation (Pezeshki et al. 2021) is a theory of tangent kernels. Prediction depth, saliency and core-only
accuracy (Murali et al. 2023) diagnose trained networks. Here both look at the same networks: the theory at the kernel
of the initialisation, and then at that of the trained parameters, the diagnosis after training.

    python -m experiments starvation_and_depth --preset smoke       scikit-learn's digits
    python -m experiments starvation_and_depth --preset laptop      MNIST, Fashion-MNIST, CIFAR-10 (not run yet)
    python -m experiments starvation_and_depth --preset paper       more and larger tasks (not run yet)

*Tasks.* Dominoes of two halves, each a pair of classes, for several pairs of halves of different difficulty. Each pair
gives tasks in both orders, since either half can be the core one, and for several correlations. They go from harmful
to benign. Every network has its own images and initialisation.

*Networks.* Convolutions without batch norm, so that the tangent kernel at the initialisation is that of the function
that is trained. They are trained by SGD with momentum 0.9 and a cosine schedule on all n images of the kernel.

*Theory.* `experiments/_starved_theory.py` has the formulas. Features, responses and the starvation matrix are those of
the equilibrium under ridge, with lambda = n times the weight decay, so that the linearised network has the objective
of the trained one, except that its ridge is on the distance from where it is linearised. Images with independent halves
tell which features carry which half. Predictions are

- core-only accuracy: that of the equilibrium predictor, with the spurious half randomised or black;
- the share of the core half in its outputs;
- starvation: the loss of responses to core-carrying features, or of the core signal, if the features that carry the
  spurious half become stronger (weighted sums of the starvation matrix), and what the core signal gains if these are
  weakened until they carry nothing.

*Diagnosis.* Core-only accuracy; the share of the core half in the outputs; the share of saliency on the spurious half;
and mean prediction depth of images as in training. At which depth, images with independent halves tell. The turn to
the core is the first layer from which on 29 neighbours among the training images agree more with the core than with the
spurious label. The lead of the spurious half is by how many layers earlier neighbours among other such images, labelled
by one half, tell the spurious than the core label. Layer 0 is the input, and what no layer does counts as done one
layer after the last.

*Statistics.* Correlations are Spearman's, of means over seeds, over tasks. Tasks that share a pair of halves are not
independent, so the interval is that of a bootstrap over pairs, and the p-value permutes ordered pairs of halves, with
the tasks of all their correlations together. Beside it are the interval as if tasks were independent, and correlations
over networks of the same task. Explanations without a kernel are a linear classifier of the pixels, the accuracies of
linear classifiers of each half alone, the vote of neighbours in the input, and the correlation in training. The control
is the same kernel with shuffled labels.
"""

from __future__ import annotations

import functools
import itertools
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import numpy as np
import optax

from experiments import _real_bases, _starved_report, _starved_theory
from experiments._bounds import Bound, expect
from experiments._domino_tasks import Half, draw
from experiments._starved_measures import COLUMNS, Sizes, held_out, measure, simple
from experiments._study import Cell, Report, Study
from gsjax import data, methods, networks


@dataclass(frozen=True)
class Config:
    """Tasks, training and probes."""

    pairs: Annotated[tuple[str, ...], Bound(entries=2)] = (
        "mnist_0_1+fashion_mnist_2_4",
        "mnist_0_1+mnist_4_9",
        "mnist_3_8+fashion_mnist_2_4",
        "mnist_4_9+fashion_mnist_0_6",
        "mnist_3_5+fashion_mnist_1_3",
        "fashion_mnist_5_7+fashion_mnist_0_6",
        "mnist_0_1+cifar10_0_1",
        "mnist_2_7+fashion_mnist_7_9",
    )
    """Pairs of halves, each a data set with the labels of its classes -1 and +1."""
    correlations: Annotated[tuple[float, ...], Bound(above=0.5, most=1)] = (0.9, 1.0)
    """Probabilities that the spurious half agrees with the label in training."""
    seeds: Annotated[int, Bound(least=2)] = 6
    """Networks per task, each with its own images."""
    n: Annotated[int, Bound(least=4)] = 300
    """Training images."""
    test: Annotated[int, Bound(least=4)] = 400
    """Test images of each kind, and as many for the bank with independent halves."""
    stride: int = 2
    """Every `stride`-th row and column of pixels is kept."""
    channels: Annotated[tuple[int, ...], Bound(repeats=True)] = (8, 16)
    """Channels of the convolutions, 3 x 3 and followed by a pool."""
    width: int = 32
    """Width of the hidden layer after them."""
    epochs: int = 50
    """Passes over the training images."""
    batch_size: int = 50
    """Images per step."""
    learning_rate: float = 0.05
    """Initial learning rate of SGD with momentum 0.9, which falls along a cosine."""
    weight_decay: float = 5e-4
    """Adds (weight_decay / 2) ||theta||^2 to the mean loss; ridge in the theory is n times as strong, with the sum."""
    k: int = 29
    """Neighbours of the probes."""
    queries: int = 400
    """Test images of each kind whose depth, votes and saliency are measured."""
    told: Annotated[float, Bound(above=0.5, most=1)] = 0.75
    """Accuracy of the vote from which on a layer tells a label."""


PRESETS = {
    "smoke": Config(
        pairs=("digits_0_1+digits_8_9", "digits_0_6+digits_3_9", "digits_2_7+digits_3_5"),
        correlations=(0.9,),
        seeds=2,
        n=100,
        test=50,
        stride=1,
        channels=(8,),
        width=16,
        epochs=15,
        batch_size=25,
        k=9,
        queries=50,
    ),
    "laptop": Config(),
    "paper": Config(
        correlations=(0.8, 0.9, 0.95, 1.0),
        seeds=10,
        n=800,
        stride=1,
        channels=(16, 32),
        width=128,
        epochs=100,
    ),
}


def halves(pair: str) -> tuple[str, str]:
    """The halves of a pair.

    >>> halves("mnist_0_1+fashion_mnist_2_4")
    ('mnist_0_1', 'fashion_mnist_2_4')
    """
    first, second = pair.split("+")
    return first, second


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: numbers that do not fit together, or an unknown half.
    """
    half = rf"(?:{'|'.join(data.IMAGES)})_(\d)_(?!{{}})\d"
    for pair in config.pairs:
        known = re.fullmatch(half.format(r"\1") + r"\+" + half.format(r"\2"), pair)
        expect(known, "pairs", f"two halves, each one of {', '.join(data.IMAGES)} with two labels", pair)
        expect(len(set(halves(pair))) == 2, "pairs", "two different halves", pair)
    unordered = [frozenset(halves(pair)) for pair in config.pairs]
    expect(len(set(unordered)) == len(unordered), "pairs", "each pair once, in either order", " ".join(config.pairs))
    expect(config.batch_size <= config.n, "batch_size", f"at most n = {config.n}", config.batch_size)
    expect(config.queries <= config.test, "queries", f"at most test = {config.test}", config.queries)
    fewest = min(config.n, config.test)
    expect(config.k <= fewest, "k", f"at most the smaller of n and test, {fewest}", config.k)


@functools.lru_cache(maxsize=4)
def build(config: Config) -> nn.Module:
    """The network, with one output."""
    return networks.ConvNet(config.channels, (config.width,), 1, kernel_size=3, activation="relu")


@functools.lru_cache(maxsize=4)
def method(config: Config) -> methods.Method:
    """ERM, the same object for all tasks, so that its programs are compiled once."""
    steps = config.epochs * (config.n // config.batch_size)
    optimizer = optax.sgd(optax.cosine_decay_schedule(config.learning_rate, steps), momentum=0.9)
    return methods.get("erm")(build(config), optimizer, weight_decay=config.weight_decay)


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per task, with all of its networks."""
    ordered = [order for pair in config.pairs for order in (halves(pair), halves(pair)[::-1])]
    cells = []
    for (core, spurious), correlation in itertools.product(ordered, config.correlations):
        key = {"core": core, "spurious": spurious, "correlation": correlation}
        compute = functools.partial(train, core, spurious, correlation, config, seed)
        cells.append(Cell(key, compute, COLUMNS, config.seeds))

    def report(rows: list[dict[str, Any]]) -> Report:
        return _starved_report.report(rows, told=config.told, layers=layers(config))

    sets = sorted({_real_bases.source(half)[0] for order in ordered for half in order})
    described = {
        "name": f"{len(cells)} tasks of dominoes of {', '.join(sets)}",
        "train": config.n,
        "validation": config.test,
        "test": config.test,
        "stand-in": False,
    }
    return Study(described, cells, report)


def layers(config: Config) -> list[str]:
    """The names of the layers: the input, and the stages of the network."""
    stages = [f"{kind}{number}" for number in range(1, len(config.channels) + 1) for kind in ("conv", "pool")]
    return ["input", *stages, "dense1"]


def half(name: str) -> Half:
    """The images and classes of a half."""
    source, (first, second) = _real_bases.source(name)
    return Half(source, ((first,), (second,)))


def initial(state: methods.State, _: Any) -> Any:
    """The parameters, which are recorded before the first step."""
    return state.params


def train(core: str, spurious: str, correlation: float, config: Config, seed: int) -> list[dict[str, Any]]:
    """Trains the networks of a task in one compiled program and compares each with its kernels; one row per network."""
    name = f"{core} {spurious} {correlation:g}"
    number = zlib.crc32(name.encode())
    numbers = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), config.seeds)
    options = {"correlations": (correlation,), "n": config.n, "test": config.test, "stride": config.stride}
    task = draw(numbers, half(core), half(spurious), **options)
    network, sizes = build(config), Sizes(config.k, config.queries)
    run = methods.train(
        method(config),
        numbers,
        task.train,
        steps=config.epochs * (config.n // config.batch_size),
        batch_size=config.batch_size,
        record=[0],
        evaluate=initial,
        held_out=task.train.y,
        per_seed=True,
        what=name,
    )
    rows = []
    for index in range(config.seeds):
        before, after, images, validation, test = jax.tree.map(
            lambda leaf, index=index: leaf[index],
            (
                jax.tree.map(lambda leaf: leaf[:, 0], run.records),
                run.state.params,
                task.train,
                task.validation["random"],
                task.test,
            ),
        )
        held, strength = held_out(test), config.n * config.weight_decay
        y = np.asarray(images.y)
        shuffled = np.random.default_rng([seed, number, index]).permutation(y)
        theory = functools.partial(_starved_theory.of_kernel, network, x=images.x, held=held, strength=strength)
        found = theory(params=before, labels={"initial": y, "shuffled": shuffled}) | theory(
            params=after, labels={"trained": y}
        )
        rows.append(
            {
                "core": core,
                "spurious": spurious,
                "correlation": correlation,
                "seed": index,
                "finite": bool(run.finite[index]),
                **measure(network, after, images, validation, test, task.spurious, sizes),
                "simple": simple(images, test, task.spurious),
                **found,
            }
        )
    return rows
