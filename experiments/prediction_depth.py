"""Prediction depth: at which stage networks decide, by data set, and with a patch that reveals the class.

Murali et al. 2023 probe the stages of a trained network with nearest neighbours (`gsjax.probes.prediction_depth`). Easy
data sets are decided in early stages, and data with an easy spurious feature in the first ones. Images of several data
sets are classified into their ten classes, by a VGG and by a residual network, each with the same number of images.

    python -m experiments prediction_depth --preset smoke      a minute, on scikit-learn's digits
    python -m experiments prediction_depth --preset laptop     small networks and images, 15 minutes on 2 cores
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
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from experiments import _cifar, _ranks, _rows
from experiments._bounds import Bound, expect
from experiments._study import Cell, Columns, Report, Study, keys, select
from gsjax import data, methods, networks, plotting, probes
from gsjax.data import Images, scaling, sets
from gsjax.networks import stages
from gsjax.probes.depths import INPUT, PredictionDepth
from gsjax.probes.information import surprisal

CLASSES = 10  # of all data sets
PATCHED = 1  # the label of the class with the patch
GRID = 4  # the patches of ten classes are at the places of a grid of 4 x 4
VARIANTS = {"clean": "", "patch": ", patch in one class", "patches": ", patch per class"}
CONTROLS = {"random patch": ", patch in a random half", "shuffled": ", labels shuffled"}
LABELS = {"vgg": "VGG", "resnet": "ResNet"}
INFORMATION = "information"  # in place of a network: the cells of the family that knows nothing of the networks

# Mean depths of VGG-16, as read off the published figure.
PUBLISHED = {
    ("kmnist", "patches"): 1.1,
    ("mnist", "clean"): 2.3,
    ("fashion_mnist", "clean"): 4.0,
    ("kmnist", "clean"): 5.3,
    ("cifar10", "clean"): 6.5,
}
ORDER = ("mnist", "fashion_mnist", "kmnist", "cifar10")  # by published mean depth

Rows = Sequence[Mapping[str, Any]]


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


class Task(NamedTuple):
    """Training and test images in [-1, 1] with their labels; any consecutive ten from the start are of all classes."""

    x: Float[np.ndarray, "n size size 3"]
    y: Int[np.ndarray, " n"]
    queries: Float[np.ndarray, "q size size 3"]
    labels: Int[np.ndarray, " q"]


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


def planned(config: Config) -> Iterator[tuple[str, str, str]]:
    """The networks, data sets and variants of all cells; those of the small family come first."""
    all_variants = [(name, variant) for name in config.data for variant in VARIANTS]
    all_variants += [(config.control, variant) for variant in CONTROLS]
    for network in (INFORMATION, *config.networks):
        for name, variant in all_variants:
            if network in (INFORMATION, config.networks[0]) or variant in ("clean", "patches"):
                yield network, name, variant


@functools.cache
def read(name: str) -> tuple[Images, Images]:
    """The training and test images of a data set.

    Raises:
        FileNotFoundError: the files are missing; the message says what to fetch and where to put it.
    """
    train, test = sets.parts(data.get(name), jax.random.key(0))[0]
    return train, test


def per_class(labels: Int[np.ndarray, " n"], n: int) -> int:
    """How many images of each class n images can have: n / 10, or as many as there are of the rarest class."""
    return min(n // CLASSES, int(np.bincount(labels, minlength=CLASSES).min()))


def balanced(generator: np.random.Generator, labels: Int[np.ndarray, " m"], n: int) -> Int[np.ndarray, " n"]:
    """Rows of n images in random order, except that any consecutive ten from the start are of all classes."""
    count = per_class(labels, n)
    rows = [generator.permutation(np.flatnonzero(labels == label))[:count] for label in range(CLASSES)]
    return np.stack(rows, axis=1).ravel()


def framed(pixels: np.ndarray, size: int) -> Float[np.ndarray, "n size size 3"]:
    """Images of 0 to 255 as colour images in [-1, 1] of one size.

    Of larger images every second, third, ... row and column is kept; smaller ones are enlarged by repeating pixels. The
    rest is a black frame. All pixels are original ones.

    >>> framed(np.full((1, 3, 3, 1), 255), 8)[0, :, :, 0].sum()  # 6 x 6 pixels of 1, and 28 of -1
    np.float32(8.0)
    """
    stride = -(-pixels.shape[1] // size)
    kept = np.asarray(scaling.signed(jnp.asarray(pixels[:, ::stride, ::stride])), np.float32)
    times = size // kept.shape[1]
    large = kept.repeat(times, axis=1).repeat(times, axis=2)
    before = (size - large.shape[1]) // 2
    after = size - large.shape[1] - before
    around = np.pad(large, ((0, 0), (before, after), (before, after), (0, 0)), constant_values=-1)
    return np.broadcast_to(around, (*around.shape[:3], 3)) if around.shape[3] == 1 else around


def regions(variant: str, size: int) -> Bool[np.ndarray, "classes size size"]:
    """The pixels of the patch in an image of each class, if it has one."""
    side, step = -(-5 * size // 32), size // GRID
    places = [divmod(label, GRID) if variant == "patches" else (0, 0) for label in range(CLASSES)]
    found = [data.patch_region((size, size), size=side, position=(step * row, step * column)) for row, column in places]
    return np.stack([np.asarray(region) for region in found])


def drawn(name: str, variant: str, key: Key[Array, ""], config: Config) -> Task:
    """The images of one seed. All variants have the same images in the same order."""
    parts = []
    for images, n, part_key in zip(read(name), (config.n, config.queries), jax.random.split(key), strict=True):
        generator = np.random.default_rng(np.asarray(jax.random.key_data(part_key)))
        rows = balanced(generator, images.labels, n)
        x, y = framed(images.pixels[rows], config.size), images.labels[rows].astype(np.int32)
        chosen = {
            "patch": y == PATCHED,
            "patches": np.full(len(y), True),
            "random patch": generator.random(len(y)) < 0.5,
        }.get(variant, np.full(len(y), False))
        white = regions(variant, config.size)[y] & chosen[:, None, None]
        parts += [
            np.where(white[..., None], np.float32(1), x),
            generator.permutation(y) if variant == "shuffled" else y,
        ]
    return Task(*parts)


def inform(config: Config, seed: int, key: Mapping[str, str]) -> list[dict[str, Any]]:
    """Information of the small family, per test image; one row per seed."""
    tasks = [drawn(key["data"], key["variant"], each, config) for each in keys(seed, range(config.seeds))]
    x, y, queries, labels = map(np.stack, zip(*tasks, strict=True))
    network, method = family(config)
    found = probes.pointwise_information(
        jax.random.key(seed),
        x,
        y,
        network=network,
        method=method,
        held_out=(queries, labels),
        seeds=config.seeds,
        steps=config.steps,
        null="balance",
        per_seed=True,
    )
    return [
        {**key, "seed": number, "finite": bool(found.finite[number]), "bits": found.value[number].tolist()}
        for number in range(config.seeds)
    ]


@functools.cache
def family(config: Config) -> tuple[nn.Module, methods.Method]:
    """The family that knows nothing of the networks: one hidden layer, trained by Adam."""
    network = networks.FullyConnected((config.hidden,), outputs=CLASSES)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, config.steps))
    return network, methods.get("erm")(network, optimizer, weight_decay=config.decay)


class Built(NamedTuple):
    """A network with its programs; the same objects for all cells, so that each program is compiled once.

    `positions` are the layers with probes: the input, and the convolutions of a VGG or the stages of a residual
    network up to the last block. `init(key, batch)` is the initial state. `look(variables, x)` is the outputs, and the
    stages by name.
    """

    network: nn.Module
    method: methods.Method
    positions: tuple[str, ...]
    init: Callable[..., methods.State]
    look: Callable[..., tuple[Array, dict[str, Array]]]


@functools.cache
def built(name: str, config: Config) -> Built:
    """A network by its name in `LABELS`."""
    channels = [config.width * min(2**number, 8) for number in range(len(config.vgg))]
    network: nn.Module = (
        networks.VGG([(count,) * layers for count, layers in zip(channels, config.vgg, strict=True)], CLASSES)
        if name == "vgg"
        else networks.ResNet(config.resnet, CLASSES, block="basic", stem="small", width=config.width)
    )
    steps = config.epochs[-1] * (config.n // config.batch_size)
    optimizer = optax.sgd(optax.cosine_decay_schedule(config.learning_rate, steps), momentum=0.9)
    method = methods.get("erm")(network, optimizer, weight_decay=config.weight_decay)
    every = stages.names(network, jax.ShapeDtypeStruct((1, config.size, config.size, 3), jnp.float32))
    probed = [stage for stage in every if not stage.startswith("pool")]

    def look(variables: Mapping[str, Any], x: Array) -> tuple[Array, dict[str, Array]]:
        outputs, found = stages.apply(network, variables, x, probed)
        return outputs, found

    return Built(network, method, (INPUT, *probed), jax.jit(method.init), jax.jit(look))


def train_networks(config: Config, seed: int, key: Mapping[str, str]) -> list[dict[str, Any]]:
    """Trains the networks of all seeds, one after another; one row per seed.

    Each step is a call of one program, since XLA compiles convolutions in a loop to slower code on CPUs.
    """
    net, rows = built(key["network"], config), []
    for number, images_key in enumerate(keys(seed, range(config.seeds))):
        task = drawn(key["data"], key["variant"], images_key, config)
        init_key, order_key = jax.random.split(jax.random.fold_in(images_key, 1))
        generator = np.random.default_rng(np.asarray(jax.random.key_data(order_key)))
        state, finite, measured = net.init(init_key, methods.Batch(jnp.asarray(task.x), jnp.asarray(task.y))), True, []
        for first, last in itertools.pairwise((0, *config.epochs)):
            run = methods.stream(
                net.method,
                state,
                functools.partial(batches, task, config.batch_size, generator),
                epochs=last - first,
                steps=len(task.y) // config.batch_size,
                what=f"{LABELS[key['network']]}, {title(key['data'], key['variant'])}, {number + 1} of {config.seeds}",
            )
            state, finite = run.state, finite and bool(run.finite)
            measured.append(measure(net, variables(state), task, config))
        found = {name: [each[name] for each in measured] for name in measured[0]}
        outputs = net.look(variables(state), task.queries)[0]
        shares = np.bincount(task.y, minlength=CLASSES) / len(task.y)
        bits = -np.log2(shares)[task.labels] - np.asarray(surprisal(outputs, jnp.asarray(task.labels)))
        found |= {"bits": bits.tolist()}
        if key["variant"] == "clean":
            found |= measure_probes(net, variables(state), task, config)
        rows.append({**key, "seed": number, "finite": finite, **found})
    return rows


def batches(task: Task, size: int, generator: np.random.Generator, epoch: int) -> Iterator[methods.Batch]:
    """The batches of an epoch, in a new random order."""
    del epoch
    order = generator.permutation(len(task.y))
    for first in range(0, len(order) - size + 1, size):
        rows = order[first : first + size]
        yield methods.Batch(jnp.asarray(task.x[rows]), jnp.asarray(task.y[rows]))


def variables(state: methods.State) -> dict[str, Any]:
    """The variables of the network of a state."""
    return {"params": state.params, **state.collections}


def measure(net: Built, variables: Mapping[str, Any], task: Task, config: Config) -> dict[str, Any]:
    """Depths of the test images, the accuracy of the votes of each layer, and that of the network on bank and test."""
    found = depths_of(net, variables, task, config, config.k)
    bank = task.x[: config.bank], task.y[: config.bank]
    return {
        "train": float((np.asarray(net.look(variables, bank[0])[0]).argmax(axis=1) == bank[1]).mean()),
        "test": float((np.asarray(found.predictions) == task.labels).mean()),
        "depth": np.asarray(found.depth).tolist(),
        "votes": (np.asarray(found.votes) == task.labels).mean(axis=1).tolist(),
    }


def depths_of(net: Built, variables: Mapping[str, Any], task: Task, config: Config, k: int) -> PredictionDepth:
    """The depths of the test images, from votes of k neighbours in the bank; with k = 0, of linear probes."""
    bank = jnp.asarray(task.x[: config.bank]), jnp.asarray(task.y[: config.bank])
    how = {"probe": "knn", "k": k} if k else {"probe": "linear"}
    return probes.prediction_depth(
        net.network, variables, bank, jnp.asarray(task.queries), positions=net.positions, **how
    )


def measure_probes(net: Built, variables: Mapping[str, Any], task: Task, config: Config) -> dict[str, Any]:
    """Depths by other probes of the trained network: other k and linear ones, with the accuracy of the linear votes."""
    linear = depths_of(net, variables, task, config, 0)
    return {
        "other": [np.asarray(depths_of(net, variables, task, config, k).depth).tolist() for k in config.other_k],
        "linear": np.asarray(linear.depth).tolist(),
        "linear votes": (np.asarray(linear.votes) == task.labels).mean(axis=1).tolist(),
        "linear converged": bool(np.asarray(linear.converged).all()),
    }


def title(name: str, variant: str = "clean") -> str:
    """A data set and its variant in words."""
    short = {"digits": "digits", "cifar10": "CIFAR-10"}.get(name, data.get(name).title)
    return short + {**VARIANTS, **CONTROLS}[variant]


class Found(NamedTuple):
    """The rows of all cells, with the quantities of each as arrays over seeds."""

    rows: Rows
    config: Config

    def array(self, quantity: str, network: str, name: str, variant: str = "clean") -> Float[np.ndarray, "seeds ..."]:
        """A column of the rows of a cell; what is null in the file is NaN."""
        rows = select(self.rows, network=network, data=name, variant=variant)
        return np.array([row[quantity] for row in rows], dtype=float)

    def depths(
        self, network: str, name: str, variant: str = "clean", *, epoch: int = -1
    ) -> Float[np.ndarray, "seeds q"]:
        """The depths after the epoch with this number in `config.epochs`; NaN where invalid."""
        return self.array("depth", network, name, variant)[:, epoch]

    def over_data(self, measure: Callable[[str], np.ndarray]) -> Float[np.ndarray, " seeds"]:
        """The mean of `measure(name)` -> `(seeds,)` over the data sets."""
        return np.mean([measure(name) for name in self.config.data], axis=0)


def mean_depth(depths: Float[np.ndarray, "... q"]) -> Float[np.ndarray, "..."]:
    """The mean depth of the valid examples; NaN if there is none.

    >>> mean_depth(np.array([[1.0, 3.0, np.nan], [np.nan] * 3])).tolist()
    [2.0, nan]
    """
    count = (~np.isnan(depths)).sum(axis=-1)
    return np.where(count > 0, np.nansum(depths, axis=-1) / np.maximum(count, 1), np.nan)


def invalid(depths: Float[np.ndarray, "... q"]) -> Float[np.ndarray, "..."]:
    """The share of invalid examples."""
    return np.isnan(depths).mean(axis=-1)


def at_first(depths: Float[np.ndarray, "... q"]) -> Float[np.ndarray, "..."]:
    """The share of all examples that are decided at the first stage."""
    return (depths == 1).mean(axis=-1)


def of_class(depths: Float[np.ndarray, "... q"], label: int, *, others: bool = False) -> Float[np.ndarray, "... some"]:
    """The depths of the examples of one class, or of all others; test images have the labels 0, 1, ..., 9, 0, ..."""
    return depths[..., (np.arange(depths.shape[-1]) % CLASSES == label) != others]


def shared(
    found: Found, network: str, name: str, *, epoch: int = 0
) -> tuple[Float[np.ndarray, "seeds q"], Float[np.ndarray, "seeds q"]]:
    """The depths on clean data after an epoch and at the end, of the images that are valid at both; NaN for others.

    The valid images of an early epoch are the easy ones, so means over all valid ones would compare different images.
    """
    early, last = found.depths(network, name, epoch=epoch), found.depths(network, name)
    invalid_once = np.isnan(early) | np.isnan(last)
    return np.where(invalid_once, np.nan, early), np.where(invalid_once, np.nan, last)


def correlations(
    depths: Float[np.ndarray, "seeds q"], bits: Float[np.ndarray, "seeds q"], *, permuted: int = 0
) -> Float[np.ndarray, " seeds"]:
    """The rank correlation of depth and information over the valid examples of each seed; NaN if they are fewer than 4.

    With `permuted`, the mean over this number of random pairings, of the depth of an example with the information of an
    example of the same class.
    """
    found, generator = [], np.random.default_rng(0)
    for depth, information in zip(depths, bits, strict=True):
        valid = np.flatnonzero(~np.isnan(depth))
        values = []
        for _ in range(max(1, permuted)):
            partners = valid.copy()
            for label in range(CLASSES if permuted else 0):
                members = valid % CLASSES == label
                partners[members] = generator.permutation(valid[members])
            enough = len(valid) > 3
            values.append(float(_ranks.correlation(depth[valid], information[partners]).value) if enough else np.nan)
        found.append(np.mean(values))
    return np.array(found)


def summarise(found: Found) -> list[dict[str, Any]]:
    """The rows of the summary."""
    config, lines = found.config, []

    def row(name: str, values: np.ndarray, **options: Any) -> None:
        known = values[np.isfinite(values)]
        if len(known) < len(values):
            options["differs"] = f"{len(values) - len(known)} of {len(values)} seeds have no valid example"
        if len(known):
            lines.append(_rows.measured(name, known, **options))

    for network, name, variant in planned(config):
        if network == INFORMATION:
            bits = found.array("bits", network, name, variant)
            row(f"one hidden layer, {title(name, variant)}: usable information in bits", bits.mean(axis=1))
            continue
        label, depths = f"{LABELS[network]}, {title(name, variant)}", found.depths(network, name, variant)
        published = PUBLISHED.get((name, variant)) if network == "vgg" else None
        row(f"{label}: mean depth", mean_depth(depths), published=published, differs=published and differs(config))
        row(f"{label}: decided at the first stage", at_first(depths))
        row(f"{label}: invalid", invalid(depths))
        votes = found.array("votes", network, name, variant)[:, -1]
        diverged = [not each["finite"] for each in select(found.rows, network=network, data=name, variant=variant)]
        if any(diverged):
            row(f"{label}: share of networks whose objective was not finite", np.array(diverged, float))
        row(f"{label}: accuracy of the network", found.array("test", network, name, variant)[:, -1])
        row(f"{label}: accuracy of the votes of the raw input (layer 0)", votes[:, 0])
        row(f"{label}: accuracy of the votes of the last stage", votes[:, -1])
        row(f"{label}: information of the network in bits", found.array("bits", network, name, variant).mean(axis=1))
        if variant == "patch":
            for others in (False, True):
                group = "the other classes" if others else "the class with the patch"
                row(f"{label}: mean depth of {group}", mean_depth(of_class(depths, PATCHED, others=others)))
        if variant == "clean":
            summarise_clean(found, network, name, row)
    return lines


def differs(config: Config) -> str:
    """What differs from the published networks."""
    return (
        f"{len(built('vgg', config).positions) - 1} convolutions after ReLU, {config.n:,} colour images of "
        f"{config.size} x {config.size}, {config.epochs[-1]} epochs; published: 13 before batch norm, 60,000 grayscale "
        "images of 32 x 32 (50,000 of CIFAR-10), 3 epochs, 50 test images"
    )


def summarise_clean(found: Found, network: str, name: str, row: Callable[..., None]) -> None:
    """Effects of k, of the kind of probe and of undertraining, and the correlation with information, on clean data."""
    config, label = found.config, f"{LABELS[network]}, {title(name)}"
    last = found.depths(network, name)
    other = found.array("other", network, name)
    for number, k in enumerate(config.other_k):
        row(f"{label}: mean depth with k = {k}", mean_depth(other[:, number]))
        row(f"{label}: invalid with k = {k}", invalid(other[:, number]))
    linear = found.array("linear", network, name)
    row(f"{label}: mean depth by linear probes", mean_depth(linear))
    row(f"{label}: invalid by linear probes", invalid(linear))
    row(f"{label}: networks whose linear probes all converged", found.array("linear converged", network, name))
    row(f"{label}: accuracy of the linear probe of the raw input", found.array("linear votes", network, name)[:, 0])
    for number, epoch in enumerate(config.epochs[:-1]):
        early, when = found.depths(network, name, epoch=number), f"after epoch {epoch} of {config.epochs[-1]}"
        row(f"{label}: mean depth {when}", mean_depth(early))
        row(f"{label}: invalid {when}", invalid(early))
        before, after = shared(found, network, name, epoch=number)
        row(
            f"{label}: mean depth {when}, minus that at the end, of the images valid at both",
            mean_depth(before - after),
        )
    families = {"the network": network, "one hidden layer": INFORMATION}
    for family, source in families.items():
        bits = found.array("bits", source, name)
        row(f"{label}: rank correlation of depth and information of {family}", correlations(last, bits))
    control = correlations(last, found.array("bits", INFORMATION, name), permuted=20)
    row(f"{label}: the same with the information of other images of the class", control)


def judge(found: Found) -> list[dict[str, Any]]:
    """The signatures; means over data sets are of the same seed, and differences are paired by seed."""
    config, signatures = found.config, []
    first, over = config.networks[0], found.over_data

    def sign(name: str, larger: np.ndarray, smaller: np.ndarray, *, why: str, evidence: str = "") -> None:
        """States that the mean of `larger` is above that of `smaller`; `evidence` ends the reason if it is not."""
        values, reason = larger - smaller, f"{np.mean(larger):.3g} and {np.mean(smaller):.3g}{evidence}"
        if np.isfinite(values).all():
            signatures.append(_rows.signature(name, values, above=0, why=why, reason=reason))
        else:
            signatures.append(_rows.stated(name, None, 1.0, why=why, reason="a network has no valid example"))

    for network in config.networks:
        label, same = LABELS[network], "no difference"

        def depths(name: str, variant: str = "clean", epoch: int = -1, network: str = network) -> np.ndarray:
            return found.depths(network, name, variant, epoch=epoch)

        clean, marked = (over(lambda name, v=variant: mean_depth(depths(name, v))) for variant in ("clean", "patches"))
        sign(f"{label}: mean depth, clean minus patch per class", clean, marked, why=same)
        clean, marked = (over(lambda name, v=variant: at_first(depths(name, v))) for variant in ("clean", "patches"))
        sign(f"{label}: share decided at the first stage, patch per class minus clean", marked, clean, why=same)
        both = [over(lambda name, t=time, n=network: mean_depth(shared(found, n, name)[t])) for time in (0, 1)]
        when = f"epoch {config.epochs[0]} minus epoch {config.epochs[-1]}"
        (first_early, last_early), (first_late, last_late) = np.mean(
            [found.array("votes", network, name)[:, [0, -1]][..., [1, -1]].mean(axis=0) for name in config.data], axis=0
        )
        evidence = (
            f"; votes of the first and of the last stage are right for {first_early:.0%} and {last_early:.0%} early, "
            f"and for {first_late:.0%} and {last_late:.0%} at the end"
        )
        name = f"{label}: mean depth of the images valid at both, {when}"
        sign(name, *both, why=same, evidence=evidence)
        early, late = (over(lambda name, e=epoch: invalid(depths(name, epoch=e))) for epoch in (0, -1))
        sign(f"{label}: share of invalid images, {when}", early, late, why=same)
        for lower, higher in itertools.pairwise(name for name in ORDER if name in config.data):
            means = [mean_depth(depths(name)) for name in (higher, lower)]
            right = [found.array("votes", network, name)[:, -1, 0].mean() for name in (higher, lower)]
            evidence = f"; votes of the raw input are right for {right[0]:.0%} and {right[1]:.0%}"
            name = f"{label}: mean depth, {title(higher)} minus {title(lower)}"
            sign(name, *means, why="the published order of VGG-16", evidence=evidence)

    label = LABELS[first]
    clean, marked = (
        over(lambda name, v=variant: mean_depth(of_class(found.depths(first, name, v), PATCHED)))
        for variant in ("clean", "patch")
    )
    name = f"{label}: mean depth of the class with the only patch, clean minus patch"
    sign(name, clean, marked, why="no difference")
    clean, marked, random, shuffled = (
        found.depths(first, config.control, variant) for variant in ("clean", "patches", *CONTROLS)
    )
    half = (mean_depth(clean) - mean_depth(marked)) / 2
    name = f"{label}: control, half of what patches per class lower the depth by, minus what a random patch does"
    sign(name, half, mean_depth(clean) - mean_depth(random), why="a patch that reveals nothing has no such effect")
    name = f"{label}: control, share of invalid images, shuffled labels minus clean"
    sign(name, invalid(shuffled), invalid(clean), why="no difference")
    return signatures + judge_information(found)


def judge_information(found: Found) -> list[dict[str, Any]]:
    """Whether depth and information of the first network are inversely ordered, over images and over data sets."""
    network, signatures = found.config.networks[0], []
    label = LABELS[network]

    def mean_correlation(source: str, permuted: int = 0) -> np.ndarray:
        return found.over_data(
            lambda name: correlations(found.depths(network, name), found.array("bits", source, name), permuted=permuted)
        )

    own, other = mean_correlation(network), mean_correlation(INFORMATION)
    judged = {
        "the network": (own, "no correlation"),
        "one hidden layer": (other, "no correlation"),
        "one hidden layer, minus that with other images of the class": (
            other - mean_correlation(INFORMATION, permuted=20),
            "no correlation within classes",
        ),
    }
    for family, (values, why) in judged.items():
        name = f"{label}: rank correlation over clean images of depth and information of {family}"
        if np.isfinite(values).all():
            shown = f"the mean is {values.mean():.3f}"
            signatures.append(_rows.signature(name, values, below=0, why=why, reason=shown))
        else:
            signatures.append(_rows.stated(name, None, 1.0, why=why, reason="a network has too few valid images"))
    depth, bits = points(found, network)
    if len(depth) > 3 and np.isfinite([depth, bits]).all():
        interval, p = _ranks.correlation(depth, bits), _ranks.p_value(depth, -bits)
        name = f"{label}: rank correlation over data sets and variants of mean depth and usable information"
        why, reason = "below 0 (random pairing)", f"{len(depth)} pairs of means"
        signatures.append(_rows.stated(name, interval, p, why=why, reason=reason))
    return signatures


def points(found: Found, network: str) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Mean depth and usable information (one hidden layer) of each data set and variant, without controls."""
    pairs = [(name, variant) for name in found.config.data for variant in VARIANTS]
    depth = [np.nanmean(mean_depth(found.depths(network, *pair))) for pair in pairs]
    bits = [found.array("bits", INFORMATION, *pair).mean() for pair in pairs]
    return np.array(depth), np.array(bits)


def draw_depths(found: Found, path: Path) -> None:
    """Histograms of all seeds together, a panel per network."""
    config = found.config
    figure, axes = plotting.panels(1, len(config.networks))
    for network, ax in zip(config.networks, axes.flat, strict=True):
        cells = [(name, variant) for source, name, variant in planned(config) if source == network]
        series = {title(*cell): found.depths(network, *cell).ravel() for cell in cells}
        plotting.depths(series, ax=ax, most=len(built(network, config).positions) - 1)
        ax.set_title(LABELS[network])
    figure.set_size_inches(6.5 * len(config.networks), 1 + 0.55 * max(len(VARIANTS) * len(config.data), 6))
    plotting.save(figure, path)


def draw_effects(found: Found, path: Path) -> None:
    """Effects of k, of training and of the kind of probe, on clean data and for the first network."""
    config, network = found.config, found.config.networks[0]
    figure, ((by_k, accuracy), (mean, share)) = plotting.panels(2, 2)
    last = {name: found.depths(network, name) for name in config.data}
    other = {name: found.array("other", network, name) for name in config.data}
    ks, layers = [config.k, *config.other_k], np.arange(len(built(network, config).positions))
    order = np.argsort(ks)
    every = {name: found.array("depth", network, name) for name in config.data}

    def draw(ax: Any, x: Any, values: Callable[[str], np.ndarray], *labels: str, logx: bool = False) -> None:
        finite = {title(name): values(name)[np.isfinite(values(name)).all(axis=1)] for name in config.data}
        series = {name: rows for name, rows in finite.items() if len(rows)}
        plotting.against(x, series, ax=ax, xlabel=labels[0], ylabel=labels[1], logx=logx)

    def with_k(name: str) -> np.ndarray:
        return mean_depth(np.concatenate([last[name][:, None], other[name]], axis=1)[:, order])

    draw(by_k, np.sort(ks), with_k, "number of neighbours", "mean depth", logx=True)
    draw(mean, config.epochs, lambda name: mean_depth(every[name]), "epoch", "mean depth of valid images")
    draw(share, config.epochs, lambda name: invalid(every[name]), "epoch", "share of invalid images")
    neighbours = {name: found.array("votes", network, name)[:, -1] for name in config.data}
    draw(accuracy, layers, neighbours.__getitem__, "layer (0: input)", "accuracy of votes (dashed: linear)")
    for number, name in enumerate(config.data):
        linear = found.array("linear votes", network, name).mean(axis=0)
        accuracy.plot(layers, linear, "--", color=plotting.OKABE_ITO[number % len(plotting.OKABE_ITO)])
    accuracy.set_xticks(layers)
    plotting.save(figure, path)


def draw_information(found: Found, path: Path) -> None:
    """Mean depth against usable information, and the information of images by their depth."""
    config, network = found.config, found.config.networks[0]
    figure, ((left, right),) = plotting.panels(1, 2)
    depth, bits = (values.reshape(len(config.data), len(VARIANTS)) for values in points(found, network))
    for number, name in enumerate(config.data):
        color, marker = plotting.OKABE_ITO[number % len(plotting.OKABE_ITO)], "os^Dv"[number]
        left.plot(bits[number], depth[number], color=color, linewidth=1)
        for variant, place in enumerate(VARIANTS):
            hollow = {"clean": color, "patch": "0.75", "patches": "white"}[place]
            left.plot(
                bits[number, variant],
                depth[number, variant],
                marker,
                color=color,
                markerfacecolor=hollow,
                label=title(name) if variant == 0 else None,
            )
        depths = found.depths(network, name)
        known = [level for level in np.unique(depths[~np.isnan(depths)]) if (depths == level).any(axis=1).all()]
        information = found.array("bits", INFORMATION, name)
        by_depth = [[information[seed][depths[seed] == level].mean() for level in known] for seed in range(len(depths))]
        if known:
            plotting.curves(known, by_depth, ax=right, label=title(name), color=color)
    left.legend(title="filled: clean; gray: patch in one class;\nhollow: patch per class")
    left.set(xlabel="usable information (bits)", ylabel="mean depth")
    right.set(xlabel="depth", ylabel="information of the images (bits)")
    right.set_xticks(np.arange(1, len(built(network, config).positions)))
    plotting.save(figure, path)
