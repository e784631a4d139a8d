"""Margins of cats and dogs, and accuracy under attack: spectral decoupling against plain training (Fig. 2, Table 1).

Pezeshki et al. 2021. For Fig. 2 a convolutional network is trained on the cats and dogs of CIFAR-10, once plainly (ERM)
and once with spectral decoupling (SD); the margin of a test image is the smallest disturbance that flips it, found by
projected gradient ascent (`gsjax.probes.margins`: an upper bound), in the L-infinity and in the L2 norm. For Table 1
networks of all classes are attacked with a radius of 5/255 a pixel, in 10 steps of 0.5/255, on exactly the normalised
images that they see.

    python -m experiments cifar_margin --preset smoke      half a minute, on scikit-learn's digits
    python -m experiments cifar_margin --preset laptop     Fig. 2, 5 seeds: hours on 2 cores
    python -m experiments cifar_margin --preset gpu        Fig. 2, 10 seeds of ERM and SD: 4 minutes of an H100
    python -m experiments cifar_margin --preset table      Table 1, 8 epochs, 5 seeds: 4 minutes of an H100
    python -m experiments cifar_margin --preset paper      the published settings, CIFAR-100 too if it is there

The network of Fig. 2 sees pixels scaled to [-1, 1]; radii there are in these units. The paper gives no batch size. The
4 of the paper preset is a guess: learning rate, momentum and scaling are those of PyTorch's tutorial on CIFAR-10, which
has batches of 4. The presets laptop and gpu have batches of 32 at 8 times the learning rate.

**Fig. 2** (record gpu) does not come out: margins are narrower under SD, not wider. The median margin in the L-infinity
norm is 0.0082 [0.0078, 0.0087] (ERM) and 0.0071 [0.0066, 0.0075] (SD), a ratio of 0.86 [0.78, 0.95] where the
published curves have more than 1.75; of correctly classified images it is 0.0134 [0.0126, 0.0143] and 0.0115 [0.0109,
0.0122]. Test accuracies are 72.6% and 72.9%. Within 0.057, 99.5% of the images are flipped under ERM and 99.5% under
SD; the paper has 53% and 32%. The search resolves this: its quantum is 0.00011, 1.3% of ERM's median, and with the
spread of 10 pairs of seeds a difference of 10.1% is seen (7.6% among correctly classified images). An earlier search,
with a quantum of 0.0012 to 0.0024, could not see it. What was found out about it:

- SD makes the difference of the logits 8.3 times smaller, and its gradient 8.6 times. A margin is the one over the
  other, to first order: 0.0154 and 0.0159, the same. Why the margins that are found are narrower under SD nonetheless
  is not known.
- It is not the time at which one stops: margins of correctly classified images shrink in training, for both alike, from
  0.071 and 0.061 after the first epoch, and 0.0203 and 0.0195 after the eighth. Only after the first, at 60% accuracy,
  has ERM nearly as few images flipped as published (66%, SD 69%).
- It is not that the attack is weaker than the published one: on these networks it flips more than was published, and
  with four times the steps medians are 0.4% and 0.3% smaller. A weaker attack does not bring the published order back
  either. A single step of the sign of the gradient flips 96.3% (ERM) and 94.5% (SD) within 0.057. Steps along the
  gradient of the loss as it is, not its sign, flip 54.3% under ERM, about what was published, but 96.6% under SD: a
  sure network has a small gradient.

**Table 1** (record table) is not tested: 8 of the published 200 epochs, on 18,000 of 50,000 images, are 1.44% of the
training. After them, with 99.9% of the training images right under both, 1.6% [1.3, 1.9] (ERM) and 2.4% [1.7, 3.1] (SD)
of the test images are right under attack, of 72.5% and 72.3% without, a difference of 0.78% [-0.02, 1.58].
A network of these took 13 to 21 s on an H100 that had other work, too, compilation aside. For 200 epochs on all images
that makes 15 to 25 minutes of such a device for a network, and 2.5 to 4 hours for the 10 of a data set.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from experiments import _rows
from experiments._bounds import Bound
from gsjax import _check, data, methods, networks, plotting, records, statistics
from gsjax._progress import track
from gsjax.data import Images, scaling
from gsjax.probes import margins

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Config:
    """What is trained and attacked; the defaults are the published settings, where there are any."""

    data: Literal["cifar10", "digits"] = "cifar10"
    """Of Fig. 2: cats and dogs of CIFAR-10, or as a stand-in the threes and eights of scikit-learn's digits."""
    figure: Literal["all arms", "erm and sd", "none"] = "all arms"
    """What is trained for Fig. 2: ERM, SD and the other reading of SD's penalty, the first two, or nothing."""
    seeds: Annotated[int, Bound(least=2)] = 10
    """Networks per arm of Fig. 2."""
    epochs: int = 40
    """Of training, Fig. 2."""
    batch_size: int = 4
    """Fig. 2; the paper states none."""
    learning_rate: float = 1e-3
    """Fig. 2, with momentum 0.9."""
    channels: Annotated[tuple[int, ...], Bound(repeats=True)] = (12, 32)
    """Of the convolutions, Fig. 2."""
    kernel_size: int = 5
    """Of the convolutions, Fig. 2."""
    factor: float = 0.1
    """c of SD in Fig. 2, of c sum(logits^2)."""
    on_the_way: Annotated[tuple[int, ...], Bound(entries=0)] = (1, 8)
    """Epochs after which margins are measured, too, Fig. 2."""
    images: int = 2000
    """Test images of which margins are measured, the first ones of the file."""
    radius: Annotated[tuple[float, float], Bound(repeats=True)] = (0.11, 3.0)
    """Largest margins that are looked for, in the L-infinity and in the L2 norm."""
    steps: int = 20
    """Of every attack in the search of a margin."""
    bisections: int = 12
    """Of the radius in that search; its quantum is radius / 2^bisections."""
    checked: int = 200
    """Test images of which margins are searched a second time, with four times the steps."""
    table: Annotated[tuple[Literal["cifar10", "cifar100", "digits"], ...], Bound(entries=0)] = ("cifar10", "cifar100")
    """Data sets of Table 1, none if empty; CIFAR-100 is left out where it is absent."""
    table_seeds: Annotated[int, Bound(least=2)] = 5
    """Networks per arm of Table 1."""
    table_network: Literal["preact_resnet", "vgg"] = "preact_resnet"
    """Architecture of Table 1."""
    table_channels: Annotated[tuple[int, ...], Bound(repeats=True)] = (64, 128, 256, 512)
    """Of the stages of preact_resnet."""
    table_blocks: int = 2
    """In each of them."""
    table_epochs: int = 200
    """Of training, Table 1: the learning rate falls to zero over them, as a cosine."""
    table_batch_size: int = 128
    """Table 1."""
    table_learning_rate: float = 0.1
    """Table 1, with momentum 0.9 and a weight decay of 5e-4."""
    table_images: int = 10_000
    """Test images that are attacked, the first ones of the file."""
    table_precision: Literal["highest", "tensorfloat32"] = "highest"
    """Of products of matrices and convolutions in Table 1, where the device has a choice."""


PRESETS = {
    "smoke": Config(
        data="digits",
        seeds=2,
        epochs=20,
        batch_size=16,
        learning_rate=0.02,
        channels=(4,),
        kernel_size=3,
        on_the_way=(1,),
        images=20,
        radius=(1.0, 20.0),
        steps=5,
        bisections=5,
        checked=10,
        table=("digits",),
        table_seeds=2,
        table_channels=(4,),
        table_blocks=1,
        table_epochs=2,
        table_images=50,
    ),
    "laptop": Config(
        seeds=5, batch_size=32, learning_rate=8e-3, images=200, steps=8, bisections=9, checked=50, table=()
    ),
    "gpu": Config(
        figure="erm and sd",
        batch_size=32,
        learning_rate=8e-3,
        images=400,
        steps=10,
        bisections=10,
        checked=100,
        table=(),
    ),
    "table": Config(
        figure="none", table=("cifar10",), table_epochs=8, table_images=1000, table_precision="tensorfloat32"
    ),
    "paper": Config(),
}

PAIRS = {"cifar10": ("cats and dogs", (3, 5)), "digits": ("threes and eights", (3, 8))}
RADII = (0.057, 0.1)  # at which Fig. 2 was read off, and the fraction flipped there
FIGURE_2 = {"erm": (0.53, 0.90), "sd": (0.32, 0.47)}
SUMMED = "sd, summed"  # the other reading of SD's penalty
ARMS = {"erm": "ERM", "sd": "SD", SUMMED: "SD, summed over 4"}  # 4: the batch size of the paper preset
TIMES = 4  # the steps of a search, in the one that checks it
FIGURE = {"all arms": tuple(ARMS), "erm and sd": ("erm", "sd"), "none": ()}
TABLE_1 = {"cifar10": {"erm": 0.30, "sd": 0.67}, "cifar100": {"erm": 0.14, "sd": 0.25}}  # accuracy under attack
FACTORS = {"cifar10": 0.01, "cifar100": 0.05, "digits": 0.01}  # c of SD there


class Cell(NamedTuple):
    """One way to train on one data set: all seeds in one compiled program in Fig. 2, a single seed in Table 1."""

    part: str  # "figure 2" or "table 1"
    data: str
    arm: str  # "erm" or "sd", and in Fig. 2 SUMMED
    seed: int | None = None  # None: all of them

    def key(self) -> dict[str, Any]:
        """What its rows have in common."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Recipe(NamedTuple):
    """How the networks of a cell are trained, and what is measured of them."""

    network: nn.Module
    method: methods.Method
    train: methods.Batch
    epochs: int
    batch_size: int
    seeds: Sequence[int]
    record: list[int]  # epochs
    evaluate: Callable[[methods.State, Any], dict[str, Array]]
    held_out: Any


def cells(config: Config) -> list[Cell]:
    """Everything that is trained; pairs of seeds of Table 1 follow each other, so that a part of it can be compared."""
    table = [name for name in config.table if name != "cifar100" or data.get("cifar100").available()]
    of_figure = [Cell("figure 2", config.data, arm) for arm in FIGURE[config.figure]]
    of_table = [
        Cell("table 1", name, arm, seed)
        for name in table
        for seed in range(config.table_seeds)
        for arm in ("erm", "sd")
    ]
    return [*of_figure, *of_table]


def check(config: Config) -> None:
    """Whether there is something to do.

    Raises:
        ValueError: neither Fig. 2 nor Table 1 is asked for.
    """
    _check.require(config.figure != "none" or bool(config.table), "--figure", "Fig. 2 or a --table", "neither")


def strength(factor: float, *, classes: int | None = None) -> float:
    """The strength of `methods.spectral_decoupling`, lambda in mean_i (lambda/2) sum_k f_ik^2, of a published factor c.

    Fig. 2 adds c sum(logits^2) to a mean of losses, which is read as a sum over the two logits and a mean over the
    batch: lambda = 2 c; if it sums over a batch of b, too, lambda = 2 c b. Table 1 adds c mean(logits^2), a mean over
    batch and classes: lambda = 2 c / classes.

    >>> strength(0.1), strength(0.01, classes=10)
    (0.2, 0.002)
    """
    return 2 * factor if classes is None else 2 * factor / classes


def load(name: str) -> tuple[Images, Images]:
    """Images to train on and to test on.

    Raises:
        FileNotFoundError: they are nowhere; what to fetch, and where to put it.
    """
    if name == "digits":
        images = data.get(name).read()
        cut = 3 * len(images.labels) // 4
        return Images(images.pixels[:cut], images.labels[:cut]), Images(images.pixels[cut:], images.labels[cut:])
    return data.get(name).read("train"), data.get(name).read("test")


def two_of(images: Images, classes: tuple[int, int]) -> tuple[Float[Array, "n h w c"], Int[Array, " n"]]:
    """Images of two classes, pixels scaled to [-1, 1], and 0 or 1 for the class."""
    rows = np.isin(images.labels, classes)
    return scaling.signed(jnp.asarray(images.pixels[rows])), jnp.asarray(images.labels[rows] == classes[1], jnp.int32)


def each(measure: Callable[[Array, Array], Array], x: Array, y: Array, size: int = 100) -> Array:
    """`measure(x, y)` -> `(n,)` of all examples, `size` at a time."""
    return lax.map(lambda example: measure(example[0][None], example[1][None])[0], (x, y), batch_size=size)


def figure_2(cell: Cell, config: Config) -> Recipe:
    """Cats and dogs: margins in both norms."""
    classes = PAIRS[cell.data][1]
    (x, y), (x_test, y_test) = (two_of(images, classes) for images in load(cell.data))
    network = networks.ConvNet(config.channels, kernel_size=config.kernel_size)
    optimizer = optax.sgd(config.learning_rate, momentum=0.9)
    batch = Config().batch_size if cell.arm == SUMMED else 1
    options = {} if cell.arm == "erm" else {"strength": strength(config.factor * batch)}

    return Recipe(
        network,
        methods.get("erm" if cell.arm == "erm" else "spectral_decoupling")(network, optimizer, **options),
        methods.Batch(x, y),
        config.epochs,
        config.batch_size,
        range(config.seeds),
        sorted({*(epoch for epoch in config.on_the_way if epoch < config.epochs), config.epochs}),
        _measured(network, config),  # pyright: ignore[reportArgumentType]  flax's modules do hash
        {"train": (x, y), "test": (x_test, y_test)},
    )


@functools.cache  # so that it is compiled once for both arms
def _measured(network: nn.Module, config: Config) -> Callable[[methods.State, Any], dict[str, Array]]:
    """Accuracies and margins of a network of Fig. 2, and what other attacks flip within the first of `RADII`.

    Beside them the medians of |f_0 - f_1|, of its gradient's l1 norm, and of their ratio over the images that are
    right: it would be the margin in the L-infinity norm if the network were linear.
    """

    def evaluate(state: methods.State, held_out: Any) -> dict[str, Array]:
        def logits(x: Array) -> Array:
            return methods.predict(network, state, x)

        def right(x: Array, y: Array) -> Array:
            return margins.correct(logits(x), y)

        x, y = (values[: config.images] for values in held_out["test"])

        def margin(norm: margins.Norm, reach: float, images: int = config.images, times: int = 1) -> Array:
            search = {"max_radius": reach, "steps": times * config.steps, "bisections": config.bisections, "norm": norm}
            of = x[:images], y[:images]
            return each(lambda x, y: margins.margins(logits, x, y, bounds=(-1, 1), **search).distance, *of)

        def single_step(x: Array, y: Array) -> Array:
            attack = {"radius": RADII[0], "step_size": RADII[0], "steps": 1, "bounds": (-1, 1)}
            return ~right(margins.pgd(logits, x, y, **attack), y)

        def loss_gradient(x: Array, y: Array) -> Array:
            """Ascent along the gradient of the cross-entropy as it is, with steps of 1, which few would call PGD."""

            def ascend(_: int, delta: Array) -> Array:
                def loss(delta: Array) -> Array:
                    return optax.softmax_cross_entropy_with_integer_labels(logits(x + delta), y).sum()

                delta = jnp.clip(delta + jax.grad(loss)(delta), -RADII[0], RADII[0])
                return jnp.clip(x + delta, -1, 1) - x

            return ~right(x + lax.fori_loop(0, config.steps, ascend, jnp.zeros_like(x)), y)

        def steepness(x: Array, y: Array) -> Array:
            difference, gradient = jax.vmap(jax.value_and_grad(lambda x: jnp.subtract(*logits(x[None])[0])))(x)
            height, slope = jnp.abs(difference), jnp.abs(gradient).sum(axis=(1, 2, 3))
            return jnp.stack([height, slope, jnp.where(right(x, y), height / slope, jnp.nan)], axis=1)

        found = {name: each(right, *examples).mean() for name, examples in held_out.items()}
        height, slope, ratio = jnp.nanmedian(each(steepness, *held_out["test"]), axis=0)
        found |= {"height": height, "slope": slope, "ratio": ratio}
        found |= {"single step": each(single_step, x, y).mean(), "loss gradient": each(loss_gradient, x, y).mean()}
        found["checked"] = margin("linf", config.radius[0], config.checked, TIMES)
        return {**found, "linf": margin("linf", config.radius[0]), "l2": margin("l2", config.radius[1])}

    return evaluate


class InPrecision(nn.Module):
    """A network whose products of matrices and convolutions, forwards and backwards, are of a precision of its own."""

    network: nn.Module
    precision: str

    def __call__(self, x: Array, train: bool = False) -> Array:
        """The outputs of the network."""
        with jax.default_matmul_precision(self.precision):
            return self.network(x, train=train)


@functools.lru_cache(maxsize=2)  # so that it is compiled once for all seeds of an arm
def table_1(cell: Cell, config: Config) -> Recipe:
    """All classes: accuracy on test images, and under attack.

    Images are normalised by mean and deviation of a channel over the images to train on; radius, step and range of the
    pixels go through the same map, so that the attack is of 5/255 a pixel on what the network sees.
    """
    train, test = load(cell.data)
    normalised = scaling.standard(train.pixels)
    mean, std = normalised

    classes = int(train.labels.max()) + 1
    if config.table_network == "vgg":
        network = networks.VGG(outputs=classes)
    else:
        blocks = (config.table_blocks,) * len(config.table_channels)
        network = networks.PreActResNet(config.table_channels, blocks, classes)
    network = InPrecision(network, config.table_precision)
    x, y = normalised(train.pixels), jnp.asarray(train.labels, jnp.int32)
    size = min(config.table_batch_size, len(y))
    steps = config.table_epochs * (len(y) // size)
    optimizer = optax.sgd(optax.cosine_decay_schedule(config.table_learning_rate, steps), momentum=0.9)
    options = {} if cell.arm == "erm" else {"strength": strength(FACTORS[cell.data], classes=classes)}
    attack = {"radius": 5 / 255 / std, "step_size": 0.5 / 255 / std, "steps": 10}
    attack["bounds"] = normalised(np.zeros_like(mean)), normalised(np.full_like(mean, 255))

    def evaluate(state: methods.State, held_out: Mapping[str, tuple[Array, Array]]) -> dict[str, Array]:
        def logits(x: Array) -> Array:
            return methods.predict(network, state, x)

        def attacked(x: Array, y: Array) -> Array:
            return margins.correct(logits(margins.pgd(logits, x, y, **attack)), y)

        def right(x: Array, y: Array) -> Array:
            return margins.correct(logits(x), y)

        found = {name: each(right, *examples).mean() for name, examples in held_out.items()}
        return {**found, "attacked": each(attacked, *held_out["test"]).mean()}

    shown = normalised(test.pixels[: config.table_images])
    constructor = methods.get("erm" if cell.arm == "erm" else "spectral_decoupling")
    return Recipe(
        network,
        constructor(network, optimizer, weight_decay=5e-4, **options),
        methods.Batch(x, y),
        config.table_epochs,
        size,
        range(config.table_seeds),
        [config.table_epochs],
        evaluate,
        {
            "train": (x[: config.table_images], y[: config.table_images]),
            "test": (shown, jnp.asarray(test.labels[: config.table_images], jnp.int32)),
        },
    )


def trained(cell: Cell, config: Config, seed: int) -> list[dict[str, Any]]:
    """Trains and attacks the networks of a cell; one row per seed and recorded epoch."""
    recipe = figure_2(cell, config) if cell.part == "figure 2" else table_1(cell._replace(seed=None), config)
    seeds = recipe.seeds if cell.seed is None else [cell.seed]
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(jnp.array(seeds))
    n = len(recipe.train.y)
    _check.require(recipe.batch_size <= n, "batch_size", f"at most {n}, the images there are", recipe.batch_size)
    epoch = n // recipe.batch_size
    found = methods.train(
        recipe.method,
        keys,
        recipe.train,
        steps=recipe.epochs * epoch,
        batch_size=recipe.batch_size,
        record=[epoch * number for number in recipe.record],
        evaluate=recipe.evaluate,
        held_out=recipe.held_out,
        what=", ".join(map(str, cell.key().values())),
    )
    measured = {name: values.tolist() for name, values in found.records.items()}
    return [
        {
            **cell._asdict(),
            "seed": number,
            "epoch": epoch,
            "finite": bool(finite),
            **{name: of[row][place] for name, of in measured.items()},
        }
        for row, (number, finite) in enumerate(zip(seeds, found.finite, strict=True))
        for place, epoch in enumerate(recipe.record)
    ]


def run(config: Config, out: Path, *, preset: str, seed: int) -> None:
    """Trains what is not trained yet, and writes `rows.jsonl`, `summary.json` and the figure."""
    table = records.Table(out, {**dataclasses.asdict(config), "seed": seed})
    planned = cells(config)
    for cell in track(planned, "arms"):
        if not table.has(cell.key()):
            start = time.perf_counter()
            table.add(cell.key(), trained(cell, config, seed), time.perf_counter() - start)
    rows: dict[Cell, list[Mapping[str, Any]]] = {}
    for cell in planned:
        of = [row for row in table.rows if cell.key().items() <= row.items()]
        rows.setdefault(cell._replace(seed=None), []).extend(of)
    figure = {cell.arm: of for cell, of in rows.items() if cell.part == "figure 2"}
    sizes = {name: [len(images.labels) for images in load(name)] for name in {cell.data: None for cell in planned}}
    lines, signatures = [], []
    if figure:
        ends = {arm: at(of, config.epochs) for arm, of in figure.items()}
        lines += summarise(ends, config, sizes[config.data]) + resolution(ends, config)
        lines += summarise_course(figure, config)
        signatures += judge(ends, config)
    for name in dict.fromkeys(cell.data for cell in planned if cell.part == "table 1"):
        of = {arm: rows[Cell("table 1", name, arm)] for arm in ("erm", "sd")}
        lines += summarise_table(of, config, name, sizes[name])
        signatures += judge_table(of, config, name, sizes[name])
    _rows.finish(
        out,
        experiment="cifar_margin",
        preset=preset,
        config=config,
        seed=seed,
        data=[
            {"name": called(name, train), "train": train, "test": test, "stand-in": name == "digits"}
            for name, (train, test) in sizes.items()
        ],
        rows=lines,
        signatures=signatures,
    )
    if figure:
        draw(figure, config, out / "margins.png")


def called(name: str, train: int) -> str:
    """What a data set is called, of which there are `train` images to train on."""
    entry = data.get(name)
    return f"{entry.title} subset" if train < entry.sizes.get("train", 0) else entry.title


def at(rows: Sequence[Mapping[str, Any]], epoch: int) -> list[Mapping[str, Any]]:
    """The rows of all seeds after so many epochs."""
    return [row for row in rows if row["epoch"] == epoch]


def distances(rows: Sequence[Mapping[str, Any]], norm: str) -> Float[np.ndarray, "seeds images"]:
    """Margins of all seeds, infinite where an image was not flipped (null in the file)."""
    return np.array([[np.inf if distance is None else distance for distance in row[norm]] for row in rows])


def summarise(rows: Rows, config: Config, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Fig. 2 in numbers."""
    pair, stand_in = PAIRS[config.data][0], config.data == "digits"
    published = "units and batch size of the published figure are not stated; here radii are of inputs in [-1, 1]"
    default = Config()
    changes = [
        f"batches of {config.batch_size}, learning rate {config.learning_rate:g}, {config.epochs} epochs"
        + (f" instead of {default.epochs}" if config.epochs != default.epochs else ""),
        f"margins of {config.images} test images" if config.images < default.images else "",
        f"{called(config.data, sizes[0])}, whose pixels carry compression noise" if sizes[0] < 50_000 else "",
    ]
    differs = "; ".join(filter(None, [published, *changes]))
    lines = []
    for arm, of in rows.items():
        label = f"{pair}, {ARMS[arm]}"
        for split, what in (("train", "training accuracy"), ("test", "test accuracy")):
            lines.append(_rows.measured(f"{label}: {what}", [row[split] for row in of]))
        linf, l2 = distances(of, "linf"), distances(of, "l2")
        for radius, fraction in zip(RADII, FIGURE_2["erm" if arm == "erm" else "sd"], strict=True):
            lines.append(
                _rows.measured(
                    f"{label}: flipped within {radius:g} (L-infinity)",
                    (linf <= radius).mean(axis=1),
                    published=None if stand_in else fraction,
                    differs="a stand-in" if stand_in else differs,
                )
            )
        for values, reach, norm in zip((linf, l2), config.radius, ("L-infinity", "L2"), strict=True):
            for correct in (False, True):
                lines.append(middle(f"{label}: median margin ({norm})", values, reach, correct=correct))
            beyond = np.isinf(values).mean(axis=1)
            lines.append(_rows.measured(f"{label}: margins ({norm}) censored, as they lie beyond {reach:g}", beyond))
        for name, what in (
            ("height", "|f_0 - f_1|"),
            ("slope", "l1 norm of its gradient"),
            ("ratio", "ratio of the two, of correctly classified images"),
        ):
            lines.append(_rows.measured(f"{label}: median {what}", [row[name] for row in of]))
        again, first = (np.median(values, axis=1) for values in (distances(of, "checked"), linf[:, : config.checked]))
        if np.isfinite([again, first]).all() and first.all():
            what = (
                f"median margin (L-infinity) with {TIMES} times the steps, over that without, {config.checked} images"
            )
            lines.append(_rows.measured(f"{label}: {what}", again / first))
        for name, what in (
            ("single step", "by one step along the sign of the gradient"),
            ("loss gradient", f"by {config.steps} steps along the gradient of the loss, not its sign"),
        ):
            found = [row[name] for row in of]
            lines.append(_rows.measured(f"{label}: flipped within {RADII[0]:g} (L-infinity) {what}", found))
    return lines


def middle(
    name: str, values: Float[np.ndarray, "seeds images"], reach: float, *, correct: bool = False
) -> dict[str, Any]:
    """The row of median margins over all images, or over those that are classified correctly."""
    found = median(values, correct=correct)
    censored = int(np.isinf(found).sum())
    return _rows.measured(
        f"{name}, correctly classified images" if correct else name,
        np.minimum(found, reach),
        differs=f"{censored} of {len(found)} seeds have it beyond {reach:g}, and count as {reach:g}"
        if censored
        else None,
    )


def median(values: Float[np.ndarray, "seeds images"], *, correct: bool = False) -> Float[np.ndarray, " seeds"]:
    """Median margins, infinite where they were not found; images that are wrong have a margin of zero.

    >>> values = np.array([[0.0, 0.1, 0.2, 0.3, 0.4]])
    >>> median(values).tolist(), median(values, correct=True).tolist()
    ([0.2], [0.25])
    """
    return np.array([np.median(row[row > 0] if correct and (row > 0).any() else row) for row in values])


def constant(name: str, value: float) -> dict[str, Any]:
    """A row for a number that no seed has a part in."""
    return {"name": name, "measured": value, "interval": None, "seeds": None, "published": None, "differs": None}


def quantum(config: Config) -> float:
    """How far the bisection may stop above the margin that its attacks can find, L-infinity."""
    return config.radius[0] / 2**config.bisections


def resolution(rows: Rows, config: Config) -> list[dict[str, Any]]:
    """Which differences of the median margins (L-infinity) the search and the seeds can tell from none."""
    pair, step = PAIRS[config.data][0], quantum(config)
    linf = {arm: distances(of, "linf") for arm, of in rows.items()}
    lines = [constant(f"{pair}: quantum of the margins (L-infinity), {config.bisections} bisections", step)]
    for correct in (False, True):
        of = {arm: np.minimum(median(values, correct=correct), config.radius[0]) for arm, values in linf.items()}
        images = ", correctly classified images" if correct else ""
        scale = float(of["erm"].mean())
        if scale > 0:
            found = statistics.mean(of["sd"] - of["erm"])
            label = f"{pair}: over the median margin of ERM (L-infinity){images}"
            lines.append(constant(f"{label}: the quantum", step / scale))
            seen = step + float(found.high - found.value)
            lines.append(
                constant(f"{label}: the least difference that is seen, quantum and half interval", seen / scale)
            )
        if (of["erm"] > 0).all():
            # Read off Fig. 2: ERM's curve passes 1/2 before the first radius, and SD's after the last one.
            published = f"> {RADII[1] / RADII[0]:.2f}" if config.data == "cifar10" and not correct else None
            name = f"{pair}: median margin (L-infinity){images}, SD over ERM"
            differs = "of the medians of the published curves, read off" if published else None
            lines.append(_rows.measured(name, of["sd"] / of["erm"], published=published, differs=differs))
    return lines


def summarise_course(rows: Rows, config: Config) -> list[dict[str, Any]]:
    """Accuracy and margins on the way."""
    lines = []
    for arm, of in rows.items():
        for epoch in sorted({row["epoch"] for row in of} - {config.epochs}):
            label = f"{PAIRS[config.data][0]}, {ARMS[arm]}, epoch {epoch}"
            flipped = (distances(at(of, epoch), "linf") <= RADII[0]).mean(axis=1)
            lines.append(_rows.measured(f"{label}: test accuracy", [row["test"] for row in at(of, epoch)]))
            lines.append(_rows.measured(f"{label}: flipped within {RADII[0]:g} (L-infinity)", flipped))
            for correct in (False, True):
                values = distances(at(of, epoch), "linf")
                lines.append(middle(f"{label}: median margin (L-infinity)", values, config.radius[0], correct=correct))
    return lines


def judge(rows: Rows, config: Config) -> list[dict[str, Any]]:
    """Whether margins are wider under SD than under ERM, at about the same accuracy; in pairs of seeds."""
    pair = PAIRS[config.data][0]
    linf = {arm: distances(of, "linf") for arm, of in rows.items()}
    reason = unchanged(rows, config)
    found = []
    for place, radius in enumerate(RADII):
        left = {arm: (values > radius).mean(axis=1) for arm, values in linf.items()}
        published = FIGURE_2["erm"][place] - FIGURE_2["sd"][place]
        found.append(
            _rows.signature(
                f"{pair}: accuracy under attack within {radius:g}, SD minus ERM",
                left["sd"] - left["erm"],
                above=0.0,
                why=f"the sign of the published difference, {published:.2f}",
                reason=reason,
            )
        )
    for correct in (False, True):
        of = {arm: median(values, correct=correct) for arm, values in linf.items()}
        if all(np.isfinite(values).all() for values in of.values()):  # one that is censored cannot be judged
            images = ", correctly classified images" if correct else ""
            found.append(
                _rows.signature(
                    f"{pair}: median margin (L-infinity){images}, SD minus ERM",
                    of["sd"] - of["erm"],
                    above=0.0,
                    why="the sign of the published difference",
                    reason=reason,
                )
            )
    clean = {arm: np.array([row["test"] for row in of]) for arm, of in rows.items()}
    close = (FIGURE_2["erm"][0] - FIGURE_2["sd"][0]) / 10
    cost = statistics.mean(clean["sd"] - clean["erm"])
    found.append(
        _rows.signature(
            f"{pair}: test accuracy, SD minus ERM",
            clean["sd"] - clean["erm"],
            above=-close,
            below=close,
            why=f"a tenth of the published gain under attack within {RADII[0]:g}",
            reason=f"test accuracies differ by {cost.value:.3f} [{cost.low:.3f}, {cost.high:.3f}] over "
            f"{len(clean['sd'])} pairs of seeds, and why was not looked into",
        )
    )
    return found


def unchanged(rows: Rows, config: Config) -> str:
    """Why margins are no wider under SD, as far as it is known, with the evidence."""
    erm, sd = (
        {name: np.mean([row[name] for row in rows[arm]]) for name in ("height", "slope", "ratio", "single step")}
        for arm in ("erm", "sd")
    )
    linf = {arm: distances(rows[arm], "linf") for arm in ("erm", "sd")}
    found = {arm: np.minimum(median(values, correct=True), config.radius[0]).mean() for arm, values in linf.items()}
    flipped = {arm: (values <= RADII[0]).mean() for arm, values in linf.items()}
    return (
        f"SD makes |f_0 - f_1| {erm['height'] / sd['height']:.1f} times smaller, but the l1 norm of its gradient "
        f"{erm['slope'] / sd['slope']:.1f} times as well (medians), and a margin is the one over the other to first "
        f"order: {erm['ratio']:.2g} (ERM) and {sd['ratio']:.2g} (SD), where {found['erm']:.2g} and {found['sd']:.2g} "
        "are found (medians of correctly classified images); what is left between the latter is not explained. No weak "
        f"attack hides a gain: within {RADII[0]:g} this one flips {flipped['erm']:.1%} (ERM) and {flipped['sd']:.1%} "
        f"(SD), a single step {erm['single step']:.1%} and {sd['single step']:.1%}, where {FIGURE_2['erm'][0]:.0%} and "
        f"{FIGURE_2['sd'][0]:.0%} were published"
    )


def summarise_table(rows: Rows, config: Config, name: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Table 1 of one data set."""
    train, test = sizes
    network = config.table_network
    if network == "preact_resnet":
        network += f" of {config.table_blocks} blocks of {', '.join(map(str, config.table_channels))} channels"
    complete = tested(config, name, train)
    changes = [
        "" if complete else untested(config, name, train),
        f"{network}, SGD at {config.table_learning_rate:g} (cosine, momentum 0.9, weight decay 5e-4), batches of "
        f"{config.table_batch_size}, no augmentation; none of that is stated for the published numbers",
        "TF32 on a GPU" if config.table_precision == "tensorfloat32" else "",
        "published within 0.05 in the paper, 5/255 in its code",
        f"{config.table_images} test images" if config.table_images < test else "",
    ]
    differs = "; ".join(filter(None, changes))
    lines = []
    for arm, of in rows.items():
        label = f"{data.get(name).title}, {ARMS[arm]}, c = {FACTORS[name] if arm == 'sd' else 0:g}"
        for split, what in (("train", "training accuracy"), ("test", "test accuracy")):
            lines.append(_rows.measured(f"{label}: {what}", [row[split] for row in of]))
        published = TABLE_1.get(name, {}).get(arm)
        values = [row["attacked"] for row in of]
        lines.append(_rows.measured(f"{label}: under attack (5/255)", values, published=published, differs=differs))
    published = TABLE_1[name]["sd"] - TABLE_1[name]["erm"] if name in TABLE_1 else None
    title = f"{data.get(name).title}: under attack (5/255), SD minus ERM"
    return [*lines, _rows.measured(title, gain(rows), published=published, differs=differs)]


def gain(rows: Rows) -> Float[np.ndarray, " seeds"]:
    """How much more accuracy under attack SD has than ERM, in pairs of seeds."""
    return np.array([row["attacked"] for row in rows["sd"]]) - np.array([row["attacked"] for row in rows["erm"]])


def tested(config: Config, name: str, train: int) -> bool:
    """Whether networks of Table 1 are trained as long and on as much as the published ones were."""
    return train >= data.get(name).sizes.get("train", np.inf) and config.table_epochs >= Config().table_epochs


def untested(config: Config, name: str, train: int) -> str:
    """What the training lacks that Table 1 could be judged by."""
    of = data.get(name).sizes.get("train", train)
    share = config.table_epochs * train / (Config().table_epochs * of)
    return (
        f"not tested: {config.table_epochs} of {Config().table_epochs} epochs on {train} of {of} images, {share:.2%} "
        "of the published training"
    )


def judge_table(rows: Rows, config: Config, name: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Whether SD has more accuracy under attack than ERM, in pairs of seeds; nothing after too short a training."""
    if not tested(config, name, sizes[0]):
        return []
    accuracy = {arm: np.mean([[row["test"], row["attacked"]] for row in of], axis=0) for arm, of in rows.items()}
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


def draw(rows: Rows, config: Config, path: Path) -> None:
    """Margins in both norms with what was read off Fig. 2, and how they change in training; intervals over seeds."""
    figure, (axes,) = plotting.panels(1, 3)
    ends = {arm: at(of, config.epochs) for arm, of in rows.items()}
    for ax, norm, label in zip(axes, ("linf", "l2"), (r"$\ell_\infty$", r"$\ell_2$"), strict=False):
        margin = {arm: distances(of, norm) for arm, of in ends.items()}
        found = np.concatenate([values[np.isfinite(values)] for values in margin.values()])
        shown = norm == "linf" and config.data == "cifar10"  # beside what was published
        radii = np.linspace(0, 1.1 * max(RADII) if shown else np.quantile(found, 0.98), 200)
        for (arm, values), color, style in zip(margin.items(), plotting.OKABE_ITO, ("-", "--", "-."), strict=False):
            flipped = (values[..., None] <= radii).mean(axis=1)
            drawn = {"label": ARMS[arm], "color": color, "linestyle": style}
            plotting.curves(radii, flipped, ax=ax, ylabel="fraction flipped", **drawn)
            if shown and arm in FIGURE_2:
                label_read = f"{ARMS[arm]}, as published"
                ax.plot(RADII, FIGURE_2[arm], "o", color=color, mfc="white", label=label_read)
        ax.set_xlabel(f"radius of the attack, {label}, inputs in [−1, 1]")
        ax.set_ylim(0, 1)
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "borderaxespad": 0}
        ax.legend(frameon=False, **(above if shown else {"loc": "lower right"}))
    epochs = sorted({row["epoch"] for of in rows.values() for row in of})

    def medians(of: Sequence[Mapping[str, Any]], epoch: int) -> Float[np.ndarray, " seeds"]:
        return np.minimum(median(distances(at(of, epoch), "linf"), correct=True), config.radius[0])

    courses = {ARMS[arm]: np.stack([medians(of, epoch) for epoch in epochs], axis=1) for arm, of in rows.items()}
    ylabel = r"median margin (correct), $\ell_\infty$"
    plotting.against(epochs, courses, axes[2], xlabel="epochs of training", ylabel=ylabel, logx=True)
    axes[2].set_yscale("log")
    plotting.save(figure, path)
