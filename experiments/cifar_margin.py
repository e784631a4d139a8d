"""Margins of cats and dogs, and accuracy under attack: spectral decoupling against plain training (Fig. 2, Table 1).

Pezeshki et al. 2021. For Fig. 2 a convolutional network is trained on the cats and dogs of CIFAR-10, once plainly (ERM)
and once with spectral decoupling (SD); the margin of a test image is the smallest disturbance that flips it, found by
projected gradient ascent (`gsjax.probes.margins`: an upper bound), in the L-infinity and in the L2 norm. For Table 1
networks of all classes are attacked with a radius of 5/255 a pixel, in 10 steps of 0.5/255, on exactly the normalised
images that they see.

    python -m experiments cifar_margin --preset smoke      seconds, on scikit-learn's digits
    python -m experiments cifar_margin --preset laptop     an hour and a half on 2 cores that had other work, too
    python -m experiments cifar_margin --preset paper      the published settings, CIFAR-100 too if it is there

The network of Fig. 2 sees pixels scaled to [-1, 1]; radii there are in these units. The paper gives no batch size. The
4 of the paper preset is a guess: learning rate, momentum and scaling are those of PyTorch's tutorial on CIFAR-10, which
has batches of 4. The laptop preset has batches of 32 at 8 times the learning rate.

The laptop preset does not show what Fig. 2 does, margins that are wider under SD: median margins in the L-infinity norm
are 0.0084 [0.0073, 0.0098] (ERM) and 0.0082 [0.0073, 0.0092] (SD), and within 0.057 both have 99.5% of the images or
more flipped, where the paper has 53% and 32%. Test accuracies are 73.4% and 72.9%. What was found out about it:

- SD makes the difference of the logits 8.6 times smaller, and its gradient 8.8 times. A margin is the one over the
  other, to first order, and stays what it is.
- It is not the time at which one stops: margins shrink in training, for both alike, from 0.027 and 0.022 after the
  first epoch. Only there, at 60% accuracy, has ERM as few images flipped as published (63%, SD 68%); larger batches at
  the published learning rate, which train less, lead there as well.
- It is not the reading of the penalty: summed over a batch of 4, four times as strong, margins are 0.0076.
- It is not the strength of the attack. In a trial apart (2 seeds, 12 epochs, 300 test images), a single step of the
  sign of the gradient flipped 94% and 95% within 0.057 (ERM) against 99% and 97% (SD); steps along the gradient of the
  loss as it is, which is smaller for SD, 56% and 56% against 53% and 54%; random signs, nearly none beyond the errors.

Table 1 shows no difference either: 4.8% [3.5, 6.8] (ERM) and 4.7% [3.7, 6.6] (SD) are right under attack, of 48% and
48% without. But three epochs of a network with 8 to 32 channels say little about 200 of one with 64 to 512, and why
there is none was not looked into.
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
from gsjax import _check, data, methods, networks, plotting, records
from gsjax._progress import track
from gsjax.data import Images
from gsjax.probes import margins

Rows = Mapping[str, Sequence[Mapping[str, Any]]]

STEEP = {"height": "|f_0 - f_1|", "slope": "l1 norm of its gradient"}  # what a row has the medians of


@dataclass(frozen=True)
class Config:
    """What is trained and attacked; the defaults are the published settings, where there are any."""

    data: Literal["cifar10", "digits"] = "cifar10"
    """Of Fig. 2: cats and dogs of CIFAR-10, or as a stand-in the threes and eights of scikit-learn's digits."""
    seeds: Annotated[int, Bound(least=2)] = 10
    """Networks an arm."""
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
    radius: Annotated[tuple[float, float], Bound(repeats=True)] = (0.1, 5.0)
    """Largest margins that are looked for, in the L-infinity and in the L2 norm; the search resolves this over
    2^bisections."""
    steps: int = 20
    """Of every attack in the search of a margin."""
    bisections: int = 10
    """Of the radius in that search."""
    table: Annotated[tuple[Literal["cifar10", "cifar100", "digits"], ...], Bound(entries=0)] = ("cifar10", "cifar100")
    """Data sets of Table 1, none if empty; CIFAR-100 is left out where it is absent."""
    table_seeds: Annotated[int, Bound(least=2)] = 5
    """Networks an arm of Table 1."""
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
        table=("digits",),
        table_seeds=2,
        table_channels=(4,),
        table_blocks=1,
        table_epochs=2,
        table_images=50,
    ),
    "laptop": Config(
        seeds=5,
        batch_size=32,
        learning_rate=8e-3,
        images=300,
        steps=8,
        bisections=9,
        table=("cifar10",),
        table_seeds=5,
        table_channels=(32, 64, 128),
        table_epochs=10,
        table_images=2000,
    ),
    "paper": Config(),
}

PAIRS = {"cifar10": ("cats and dogs", (3, 5)), "digits": ("threes and eights", (3, 8))}
NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "8x8 digits of scikit-learn"}
FULL = {"cifar10": 50_000, "cifar100": 50_000}
RADII = (0.057, 0.1)  # at which Fig. 2 was read off, and the fraction flipped there
FIGURE_2 = {"erm": (0.53, 0.90), "sd": (0.32, 0.47)}
SUMMED = "sd, summed"  # the other reading of SD's penalty
ARMS = {"erm": "ERM", "sd": "SD", SUMMED: "SD, summed over 4"}  # 4: the batch size of the paper preset
TABLE_1 = {"cifar10": {"erm": 0.30, "sd": 0.67}, "cifar100": {"erm": 0.14, "sd": 0.25}}  # accuracy under attack
FACTORS = {"cifar10": 0.01, "cifar100": 0.05, "digits": 0.01}  # c of SD there


class Cell(NamedTuple):
    """One way to train on one data set; its seeds are one compiled program."""

    part: str  # "figure 2" or "table 1"
    data: str
    arm: str  # "erm" or "sd", and in Fig. 2 SUMMED


class Recipe(NamedTuple):
    """How the networks of a cell are trained, and what is measured of them."""

    network: nn.Module
    method: methods.Method
    train: methods.Batch
    epochs: int
    batch_size: int
    seeds: int
    record: list[int]  # epochs
    evaluate: Callable[[methods.State, Any], dict[str, Array]]
    held_out: Any


def cells(config: Config) -> list[Cell]:
    """Everything that is trained."""
    table = [name for name in config.table if name != "cifar100" or data.available("cifar100")]
    of_figure = [Cell("figure 2", config.data, arm) for arm in ARMS]
    return [*of_figure, *(Cell("table 1", name, arm) for name in table for arm in ("erm", "sd"))]


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
        images = data.digit_images()
        cut = 3 * len(images.labels) // 4
        return Images(images.pixels[:cut], images.labels[:cut]), Images(images.pixels[cut:], images.labels[cut:])
    read = {"cifar10": data.cifar10, "cifar100": data.cifar100}[name]
    return read("train"), read("test")


def two_of(images: Images, classes: tuple[int, int]) -> tuple[Float[Array, "n h w c"], Int[Array, " n"]]:
    """Images of two classes, pixels scaled to [-1, 1], and 0 or 1 for the class."""
    rows = np.isin(images.labels, classes)
    x = jnp.asarray(images.pixels[rows], jnp.float32) / 127.5 - 1
    return x, jnp.asarray(images.labels[rows] == classes[1], jnp.int32)


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
        config.seeds,
        sorted({*(epoch for epoch in config.on_the_way if epoch < config.epochs), config.epochs}),
        _measured(network, config),  # pyright: ignore[reportArgumentType]  flax's modules do hash
        {"train": (x, y), "test": (x_test, y_test)},
    )


@functools.cache  # so that it is compiled once for both arms
def _measured(network: nn.Module, config: Config) -> Callable[[methods.State, Any], dict[str, Array]]:
    """Accuracies and margins of a network of Fig. 2; the medians of |f_0 - f_1|, and of its gradient's l1 norm.

    Their ratio would be the margin in the L-infinity norm if the network were linear.
    """

    def evaluate(state: methods.State, held_out: Any) -> dict[str, Array]:
        def logits(x: Array) -> Array:
            return methods.predict(network, state, x)

        def right(x: Array, y: Array) -> Array:
            return margins.correct(logits(x), y)

        def margin(norm: margins.Norm, reach: float) -> Array:
            search = {"max_radius": reach, "steps": config.steps, "bisections": config.bisections, "norm": norm}
            x, y = (values[: config.images] for values in held_out["test"])
            return each(lambda x, y: margins.margins(logits, x, y, bounds=(-1, 1), **search).distance, x, y)

        def steepness(x: Array, y: Array) -> Array:
            del y
            difference, gradient = jax.vmap(jax.value_and_grad(lambda x: jnp.subtract(*logits(x[None])[0])))(x)
            return jnp.stack([jnp.abs(difference), jnp.abs(gradient).sum(axis=(1, 2, 3))], axis=1)

        found = {name: each(right, *examples).mean() for name, examples in held_out.items()}
        height, slope = jnp.median(each(steepness, *held_out["test"]), axis=0)
        found |= {"height": height, "slope": slope}
        return {**found, "linf": margin("linf", config.radius[0]), "l2": margin("l2", config.radius[1])}

    return evaluate


def table_1(cell: Cell, config: Config) -> Recipe:
    """All classes: accuracy on test images, and under attack.

    Images are normalised by mean and deviation of a channel over the images to train on; radius, step and range of the
    pixels go through the same map, so that the attack is of 5/255 a pixel on what the network sees.
    """
    train, test = load(cell.data)
    scaled = train.pixels.astype(np.float32) / 255
    mean, std = scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2))

    def normalised(pixels: np.ndarray | Float[np.ndarray, " c"]) -> Array:
        return jnp.asarray((pixels - mean) / std, jnp.float32)

    classes = int(train.labels.max()) + 1
    if config.table_network == "vgg":
        network = networks.VGG(outputs=classes)
    else:
        blocks = (config.table_blocks,) * len(config.table_channels)
        network = networks.PreActResNet(config.table_channels, blocks, classes)
    x, y = normalised(scaled), jnp.asarray(train.labels, jnp.int32)
    size = min(config.table_batch_size, len(y))
    steps = config.table_epochs * (len(y) // size)
    optimizer = optax.sgd(optax.cosine_decay_schedule(config.table_learning_rate, steps), momentum=0.9)
    options = {} if cell.arm == "erm" else {"strength": strength(FACTORS[cell.data], classes=classes)}
    attack = {"radius": 5 / 255 / std, "step_size": 0.5 / 255 / std, "steps": 10}
    attack["bounds"] = normalised(np.zeros_like(mean)), normalised(np.ones_like(mean))

    def evaluate(state: methods.State, held_out: tuple[Array, Array]) -> dict[str, Array]:
        def logits(x: Array) -> Array:
            return methods.predict(network, state, x)

        def attacked(x: Array, y: Array) -> Array:
            return margins.correct(logits(margins.pgd(logits, x, y, **attack)), y)

        x, y = held_out
        clean = each(lambda x, y: margins.correct(logits(x), y), x, y).mean()
        return {"test": clean, "attacked": each(attacked, x, y).mean()}

    shown = normalised(test.pixels[: config.table_images].astype(np.float32) / 255)
    constructor = methods.get("erm" if cell.arm == "erm" else "spectral_decoupling")
    return Recipe(
        network,
        constructor(network, optimizer, weight_decay=5e-4, **options),
        methods.Batch(x, y),
        config.table_epochs,
        size,
        config.table_seeds,
        [config.table_epochs],
        evaluate,
        (shown, jnp.asarray(test.labels[: config.table_images], jnp.int32)),
    )


def trained(cell: Cell, config: Config, seed: int) -> list[dict[str, Any]]:
    """Trains and attacks the networks of a cell; a row a seed."""
    recipe = (figure_2 if cell.part == "figure 2" else table_1)(cell, config)
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(jnp.arange(recipe.seeds))
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
        what=f"{cell.part}, {cell.data}, {cell.arm}",
    )
    measured = {name: values.tolist() for name, values in found.records.items()}
    return [
        {
            **cell._asdict(),
            "seed": number,
            "epoch": epoch,
            "finite": bool(finite),
            **{name: of[number][place] for name, of in measured.items()},
        }
        for number, finite in enumerate(found.finite)
        for place, epoch in enumerate(recipe.record)
    ]


def run(config: Config, out: Path, *, preset: str, seed: int) -> None:
    """Trains what is not trained yet, and writes `rows.jsonl`, `summary.json` and the figure."""
    table = records.Table(out, {**dataclasses.asdict(config), "seed": seed})
    planned = cells(config)
    for cell in track(planned, "arms"):
        if not table.has(cell._asdict()):
            start = time.perf_counter()
            table.add(cell._asdict(), trained(cell, config, seed), time.perf_counter() - start)
    rows = {cell: [row for row in table.rows if cell._asdict().items() <= row.items()] for cell in planned}
    figure = {cell.arm: of for cell, of in rows.items() if cell.part == "figure 2"}
    sizes = {name: [len(images.labels) for images in load(name)] for name in {cell.data: None for cell in planned}}
    ends = {arm: at(of, config.epochs) for arm, of in figure.items()}
    lines = summarise(ends, config, sizes[config.data]) + summarise_course(figure, config)
    signatures = judge(ends, config)
    for name in dict.fromkeys(cell.data for cell in planned if cell.part == "table 1"):
        of = {arm: rows[Cell("table 1", name, arm)] for arm in ("erm", "sd")}
        lines += summarise_table(of, config, name, sizes[name])
        signatures += judge_table(of, name, config)
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
    draw(figure, config, out / "margins.png")


def called(name: str, train: int) -> str:
    """What a data set is called, of which there are `train` images to train on."""
    return f"{NAMES[name]} subset" if train < FULL.get(name, 0) else NAMES[name]


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
            middle = np.minimum(np.median(values, axis=1), reach)
            lines.append(_rows.measured(f"{label}: median margin ({norm}), at most {reach:g}", middle))
        name = f"{label}: median margin (L-infinity) of images classified correctly"
        lines.append(_rows.measured(name, medians_of_right(of, config)))
        for name, what in STEEP.items():
            lines.append(_rows.measured(f"{label}: median {what}", [row[name] for row in of]))
    lines.append(_rows.measured(f"{pair}: resolution of margins (L-infinity)", [resolution(config)]))
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
            lines.append(_rows.measured(f"{label}: median margin (L-infinity)", medians(at(of, epoch), config)))
    return lines


def medians(rows: Sequence[Mapping[str, Any]], config: Config) -> Float[np.ndarray, " seeds"]:
    """Median margins in the L-infinity norm, as far as they were looked for."""
    return np.minimum(np.median(distances(rows, "linf"), axis=1), config.radius[0])


def medians_of_right(rows: Sequence[Mapping[str, Any]], config: Config) -> Float[np.ndarray, " seeds"]:
    """The same over the images that a network classifies correctly, whose margin is not 0."""
    found = [of[of > 0] for of in distances(rows, "linf")]
    return np.array([min(np.median(of), config.radius[0]) if len(of) else 0.0 for of in found])


def judge(rows: Rows, config: Config) -> list[dict[str, Any]]:
    """Whether SD has wider margins than ERM, and more accuracy under attack, at the same accuracy without; in pairs.

    A bound of half of what was published separates the published effect from none; where no number was published, a
    ratio of medians of 1 is none.
    """
    pair, radius = PAIRS[config.data][0], RADII[0]
    of = {arm: rows[arm] for arm in ("erm", "sd")}
    erm, sd = ((distances(of[arm], "linf") > radius).mean(axis=1) for arm in of)
    published = (FIGURE_2["erm"][0] - FIGURE_2["sd"][0]) / 2
    height, slope = (
        np.mean([row[name] for row in of["erm"]]) / np.mean([row[name] for row in of["sd"]]) for name in STEEP
    )
    scale = (
        f"SD makes the difference of the logits {height:.1f} times smaller and its gradient {slope:.1f} times, and a "
    )
    scale += "margin is the one over the other, to first order"
    found = [
        _rows.signature(
            f"{pair}: accuracy under attack within {radius:g}, SD minus ERM",
            sd - erm,
            above=published,
            why="half of the difference published",
            reason=f"{sd.mean():.3f} (SD) and {erm.mean():.3f} (ERM) are right within {radius:g}; {scale}",
        )
    ]
    for name, median in (("all images", medians), ("images classified correctly", medians_of_right)):
        ours, theirs = (median(of[arm], config) for arm in ("sd", "erm"))
        found.append(
            _rows.signature(
                f"{pair}: median margin (L-infinity) of {name}, SD minus ERM",
                ours - theirs,
                above=0,
                why="equal medians; Fig. 2 has wider margins under SD",
                reason=f"medians are {ours.mean():.4f} (SD) and {theirs.mean():.4f} (ERM), resolved to "
                f"{resolution(config):.1g}; {scale}",
            )
        )
    clean = {arm: np.array([row["test"] for row in of[arm]]) for arm in of}
    plain = clean["sd"] - clean["erm"]
    why = (
        "what tells one arm from the other in Fig. 2 is no difference in accuracy; 0.03 is what ten images in 300 make"
    )
    reason = f"the difference is {plain.mean():.3f}"
    name = f"{pair}: test accuracy, SD minus ERM"
    return [*found, _rows.signature(name, plain, above=-0.03, below=0.03, why=why, reason=reason)]


def resolution(config: Config) -> float:
    """What the search of a margin resolves in the L-infinity norm."""
    return config.radius[0] / 2**config.bisections


def summarise_table(rows: Rows, config: Config, name: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Table 1 of one data set."""
    train, test = sizes
    network = config.table_network
    if network == "preact_resnet":
        network += f" of {config.table_blocks} blocks of {', '.join(map(str, config.table_channels))} channels"
    changes = [
        f"{network}, {config.table_epochs} epochs of SGD at {config.table_learning_rate:g} (cosine, momentum 0.9, "
        "weight decay 5e-4), no augmentation; none of that is stated for the published numbers",
        "published within 0.05 in the paper, 5/255 in its code",
        f"{called(name, train)}: {train} images to train on" if train < FULL.get(name, 0) else "",
        f"{config.table_images} test images" if config.table_images < test else "",
    ]
    if not tested(config):
        changes.insert(0, f"not tested: {config.table_epochs} of {Config().table_epochs} epochs")
    differs = "; ".join(filter(None, changes))
    lines = []
    for arm, of in rows.items():
        label = f"{NAMES[name]}, {ARMS[arm]}, c = {FACTORS[name] if arm == 'sd' else 0:g}"
        lines.append(_rows.measured(f"{label}: test accuracy", [row["test"] for row in of]))
        published = TABLE_1.get(name, {}).get(arm)
        values = [row["attacked"] for row in of]
        lines.append(_rows.measured(f"{label}: under attack (5/255)", values, published=published, differs=differs))
    return lines


def tested(config: Config) -> bool:
    """Whether networks of Table 1 are trained long enough to be judged: for a quarter of the published epochs."""
    return 4 * config.table_epochs >= Config().table_epochs


def judge_table(rows: Rows, name: str, config: Config) -> list[dict[str, Any]]:
    """Whether SD has more accuracy under attack than ERM, in pairs of seeds; nothing where that is not tested."""
    if not tested(config) or name not in TABLE_1:
        return []
    erm, sd = (np.array([row["attacked"] for row in rows[arm]]) for arm in ("erm", "sd"))
    return [
        _rows.signature(
            f"{NAMES[name]}: accuracy under attack (5/255), SD minus ERM",
            sd - erm,
            above=(TABLE_1[name]["sd"] - TABLE_1[name]["erm"]) / 2,
            why="half of the difference published",
            reason=f"{sd.mean():.3f} (SD) and {erm.mean():.3f} (ERM) are right under attack",
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
    courses = {
        ARMS[arm]: np.stack([medians(at(of, epoch), config) for epoch in epochs], axis=1) for arm, of in rows.items()
    }
    ylabel = r"median margin, $\ell_\infty$"
    plotting.against(epochs, courses, axes[2], xlabel="epochs of training", ylabel=ylabel, logx=True)
    axes[2].set_yscale("log")
    plotting.save(figure, path)
