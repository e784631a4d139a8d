"""The feature sieve: whether a network that forgets what a small readout can use learns the complex feature instead.

Tiwari and Shenoy 2023 (SiFer) train a readout of an early stage, and make the layers up to the stage forget what it
reads. The label depends on a complex feature, and a simple one agrees with it most of the time. Here these are

- "dominoes": a complex half (pullovers and coats) and a simple half (zeros and ones), as in the experiment `dominoes`;
- "colours": digits below five against the others, in two colours;
- "celeba" and "waterbirds": photographs in folders, with sex and background as simple features.

    python -m experiments feature_sieve --preset smoke        scikit-learn's digits
    python -m experiments feature_sieve --preset laptop       Fashion-MNIST and MNIST, half an hour on 2 busy cores
    python -m experiments feature_sieve --preset paper        CIFAR-10 and MNIST by the published recipe, not run
    python -m experiments feature_sieve --preset celeba --weights resnet18.safetensors        not run
    python -m experiments feature_sieve --preset waterbirds --weights resnet18.safetensors    not run

*Search and sweep.* Stage, rate and frequency of forgetting are changed one at a time from the first stage, the middle
rate and the first frequency, or all combinations are tried (`--grid`). Every configuration has `--search` networks with
images of their own. The search includes "no forgetting". A configuration is selected by its mean score over these
networks, on validation images, at the end of training:

- with group labels, by the accuracy of the worst of four groups, which are equally frequent there;
- without, by the accuracy on validation images as in training.

The arm "sieve" is the best configuration by groups among those that forget, so that there is something to measure; the
summary says where "no forgetting" would have been selected. "sieve, no group labels" is the best of all by average
accuracy. The `--seeds` networks that are judged took no part in the search.

| arm | trained |
|---|---|
| initial | not at all |
| erm | without forgetting |
| sieve | with the configuration selected by groups |
| sieve average | with the one selected by average accuracy, which may be "no forgetting" |
| published | with the published stage, rate and frequency |
| random readout | like the sieve, but the readout stays as it is initialised |
| decay | by ERM with additional weight decay up to the first stage, of a strength selected by groups |
| erm clean, sieve clean | like erm and sieve, on images with an independent simple feature |

- *Fresh probes* are trained on the frozen stage of a network, for the class of either feature, on images where both are
  independent. A linear probe takes the whole stage, or its mean over positions. An early readout is of the kind that
  the sieve has.
- *Early stopping* takes the checkpoint with the best worst group on validation images, and the *offset* on the logits
  is selected on them as well. Both cost no training, and are measured for every arm.
- *Grad-CAM* is of the predicted class on images as in training. The halves of dominoes are apart, so its share on the
  core half is a number; a colour is where its digit is.
- Each run also checks, from trained networks, that a rate of 0 gives the updates of ERM bit for bit, and that a step of
  forgetting changes all parameter arrays up to its stage and no others.

| | published | laptop |
|---|---|---|
| images | 32 x 32 per half, or photographs | 14 x 14 |
| network | ResNet-18, with 4 groups of blocks | a VGG of 3 blocks, 8 to 32 channels |
| training | SGD, rate 1e-3, momentum 0.9, decay 1e-4 | rate 0.02, decay 5e-4, 8 epochs of 2,000 images |
| stage | the first of 4, or searched | the ends of 3 blocks, searched |
| readout | 2 blocks of width 256, rate 1e-2 | 1 block of width 16, rate 0.05, momentum 0.9 |
| forgetting | rate 1e-2, every 5 steps, or searched | searched, see the flags |
| correlation | that of the data sets | 0.95 |

The published rate of forgetting is ten times that of training. The laptop preset has few steps, so both are higher. Its
search contains the published rate and frequency at the first stage. The rate of training is constant, since no schedule
is named: where it falls to zero, the last steps of forgetting are not followed by ordinary ones of their size.
Convolutions are followed by batch norm, so weight decay acts on their effective learning rate alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from experiments import _photographs, _sieve_photographs, _sieve_report, _sieve_tasks
from experiments._bounds import Bound, expect
from experiments._sieve_measures import COLUMNS, Held, Probed, accuracies, evaluation, looks, probed
from experiments._sieve_setups import Recipe, Setup, build, chosen, lower, searched
from experiments._sieve_tasks import CLEAN, Task
from experiments._study import Cell, Report, Study, keys, select
from gsjax import methods, networks, records

Setting = Literal["dominoes", "colours", "celeba", "waterbirds"]
Arm = Literal[
    "initial",
    "erm",
    "sieve",
    "sieve average",
    "published",
    "random readout",
    "decay",
    "erm clean",
    "sieve clean",
]
PHOTOGRAPHS = ("celeba", "waterbirds")
PUBLISHED = 0.01, 5  # rate and frequency of forgetting
SHOWN = 6  # pictures of the first network

Rows = Callable[[], list[dict[str, Any]]]


@dataclass(frozen=True)
class Config:
    """Data, training and probes."""

    settings: tuple[Setting, ...] = ("dominoes", "colours")
    """Data sets: dominoes, coloured digits, or folders of photographs."""
    arms: tuple[Arm, ...] = tuple(name for name in Arm.__args__ if name != "published")
    """What is trained and judged after the search."""
    hard: Literal["digits", "fashion_mnist", "kmnist", "cifar10"] = "fashion_mnist"
    """Image set of the complex half of dominoes."""
    easy: Literal["digits", "mnist"] = "mnist"
    """Image set of their simple half."""
    digits: Literal["digits", "mnist"] = "mnist"
    """Digits that are coloured."""
    correlation: Annotated[float, Bound(above=0.5, most=1)] = 0.95
    """Probability that the simple feature agrees with the label."""
    seeds: Annotated[int, Bound(least=2)] = 6
    """Networks per arm; images are drawn anew for each."""
    search: Annotated[int, Bound(least=2)] = 6
    """Networks per configuration of the search, other ones; with as many as `seeds`, programs are compiled once."""
    n: Annotated[int, Bound(least=4)] = 2000
    """Training images."""
    test: Annotated[int, Bound(least=8)] = 500
    """Test images, and as many for validation and to fit probes."""
    stride: int = 2
    """Every `stride`-th row and column of pixels is kept."""
    network: Literal["vgg", "resnet18"] = "vgg"
    """VGG of three blocks, or ResNet-18."""
    width: int = 8
    """Channels of its first convolution."""
    epochs: Annotated[int, Bound(least=2)] = 8
    """Passes over the training images."""
    batch_size: Annotated[int, Bound(least=2)] = 100
    """Images per step."""
    learning_rate: float = 0.02
    """Learning rate of SGD with momentum 0.9."""
    schedule: Literal["cosine", "constant"] = "constant"
    """Course of the learning rate; that of forgetting is constant."""
    weight_decay: Annotated[float, Bound(least=0)] = 5e-4
    """Adds (weight_decay / 2) ||theta||^2 to the objective of the network."""
    stages: tuple[str, ...] = ("pool1", "pool2", "pool3")
    """Stages of the search and of the probes, in order of depth."""
    rates: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Learning rates of forgetting in the search."""
    every: tuple[int, ...] = (5, 1)
    """Updates per step of forgetting in the search."""
    grid: bool = False
    """Whether the search has all combinations of stage, rate and frequency, or changes one of them at a time."""
    decays: tuple[float, ...] = (0.01, 0.1)
    """Strengths of additional weight decay up to the first stage, in the search."""
    depth: Annotated[int, Bound(least=0)] = 1
    """Blocks of the readout, of the sieve and of the probes."""
    readout_width: int = 16
    """Their channels."""
    readout_rate: float = 0.05
    """Learning rate of the readout of the sieve, of SGD with momentum 0.9."""
    probe_steps: int = 200
    """Steps of the early readouts."""
    look: str = "conv3_2"
    """Stage of Grad-CAM."""
    queries: Annotated[int, Bound(least=8)] = 200
    """Test images of which saliency is measured; of photographs, those that fit and those that judge the probes."""
    size: int = 224
    """Height and width to which photographs are scaled."""
    weights: Path | None = None
    """Initial weights of the network for photographs, a .safetensors file with torchvision's names; random if None."""


RESNET18: dict[str, Any] = {
    "network": "resnet18",
    "width": 64,
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "stages": ("layer1_1", "layer2_1", "layer3_1", "layer4_1"),
    "rates": (0.001, 0.01, 0.1),
    "decays": (1e-3, 1e-2),
    "depth": 2,
    "readout_width": 256,
    "readout_rate": 0.01,
    "look": "layer4_1",
    "every": (5, 15),
    "grid": True,
    "seeds": 5,
    "search": 3,
}
PRESETS = {
    "smoke": Config(
        arms=("initial", "erm", "sieve", "random readout", "decay"),
        hard="digits",
        easy="digits",
        digits="digits",
        seeds=2,
        search=2,
        n=200,
        test=80,
        stride=1,
        width=4,
        epochs=2,
        batch_size=50,
        stages=("pool1", "pool3"),
        rates=(0.1,),
        every=(2,),
        decays=(0.1,),
        readout_width=4,
        probe_steps=10,
        queries=20,
    ),
    "laptop": Config(),
    "paper": Config(
        hard="cifar10",
        arms=Arm.__args__,
        n=7600,
        test=1000,
        stride=1,
        epochs=50,
        batch_size=128,
        probe_steps=2000,
        **RESNET18,
    ),
    **{
        name: Config(
            settings=(name,),
            arms=("erm", "sieve", "sieve average", "published", "random readout", "decay"),
            epochs=50,
            batch_size=128,
            probe_steps=2000,
            queries=400,
            **RESNET18,
        )
        for name in ("celeba", "waterbirds")
    },
}


class Trained(NamedTuple):
    """Networks of a setup, with an axis of networks first: state, whether the objective was finite, and `course`."""

    state: methods.State
    finite: np.ndarray
    steps: np.ndarray
    records: dict[str, Any]


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: numbers that do not fit together, or stages that the network does not have.
    """
    drawn = [setting for setting in config.settings if setting not in PHOTOGRAPHS]
    mixed = f"either folders of photographs or images that are drawn, and not {' '.join(config.settings)}"
    expect(len(drawn) in (0, len(config.settings)), "settings", mixed, "both")
    expect(config.network == "resnet18" or drawn, "network", "resnet18, for photographs", config.network)
    clean = [name for name in config.arms if name == "initial" or name.endswith("clean")]
    expect(drawn or not clean, "arms", "none that need images to be drawn", " ".join(clean))
    expect(config.batch_size <= config.n, "batch_size", f"at most n = {config.n}", config.batch_size)
    expect(config.queries <= config.test or not drawn, "queries", f"at most test = {config.test}", config.queries)
    known = networks.stages.shapes(build_network(config), jax.ShapeDtypeStruct((2, 32, 32, 3), float))
    for stage in config.stages:
        expect(stage in known, "stages", f"some of {', '.join(known)}", stage)
    expect(len(known.get(config.look, ())) == 4, "look", "a stage of images of the network", config.look)


@functools.lru_cache(maxsize=4)
def build_network(config: Config) -> nn.Module:
    """The network, with one output."""
    width = config.width
    if config.network == "resnet18":
        stem = "photographs" if config.settings[0] in PHOTOGRAPHS else "small"
        return networks.ResNet((2, 2, 2, 2), 1, block="basic", stem=stem, width=width)
    return networks.VGG(((width,), (2 * width,), (4 * width, 4 * width)), 1)


def total(config: Config) -> int:
    """The steps of training on images that are drawn."""
    return config.epochs * (config.n // config.batch_size)


@functools.lru_cache(maxsize=8)
def recipe(config: Config, shape: tuple[int, int, int], steps: int) -> Recipe:
    """How all setups are trained, on images of this shape."""
    rate = config.learning_rate
    scheduled = optax.cosine_decay_schedule(rate, steps) if config.schedule == "cosine" else rate
    return Recipe(
        build_network(config),
        shape,
        optax.sgd(scheduled, momentum=0.9),
        config.weight_decay,
        networks.Readout(1, depth=config.depth, width=config.readout_width),
        optax.sgd(config.readout_rate, momentum=0.9),
    )


def setups(config: Config) -> list[Setup]:
    """The configurations of the search; the first one does not forget."""
    return searched(config.stages, config.rates, config.every, config.decays, grid=config.grid)


def arm(name: str, config: Config, rows: Sequence[dict[str, Any]]) -> Setup:
    """The setup of an arm, from the rows of the search."""
    every = setups(config)
    sieves, decays = ([setup for setup in every if setup.method == method] for method in ("sieve", "decay"))
    if name in ("initial", "erm", "erm clean"):
        return Setup()
    if name == "published":
        return Setup("sieve", config.stages[0], *PUBLISHED)
    if name == "decay":
        return chosen(rows, decays, "worst")
    if name == "sieve average":
        return chosen(rows, [Setup(), *sieves], "average")
    found = chosen(rows, sieves, "worst")
    return found._replace(method="random") if name == "random readout" else found


def study(config: Config, *, out: Path, seed: int) -> Study:
    """Per setting, a cell per configuration of the search, then one per arm, and one for the checks."""
    cells: list[Cell] = []
    for setting in config.settings:
        rows = functools.partial(stored, setting, config, out, seed)
        for setup in setups(config):
            key = {"setting": setting, "part": "search", "setup": str(setup)}
            compute = functools.partial(searching, key, setup, config, seed)
            cells.append(Cell(key, compute, COLUMNS, config.search))
        for name in config.arms:
            key = {"setting": setting, "part": "judged", "setup": name}
            compute = functools.partial(judging, key, config, seed, rows)
            cells.append(Cell(key, compute, COLUMNS, config.seeds))
        if setting not in PHOTOGRAPHS:
            key = {"setting": setting, "part": "checks", "setup": "sieve"}
            cells.append(Cell(key, functools.partial(checking, key, config, seed, rows), CHECKS, config.seeds))

    def report(rows: list[dict[str, Any]]) -> Report:
        return _sieve_report.report(rows, [str(setup) for setup in setups(config)])

    return Study([described(setting, config) for setting in config.settings], cells, report)


CHECKS = {"seed": int, "identical": bool, "upto": float, "after": float}


def stored(setting: str, config: Config, out: Path, seed: int) -> list[dict[str, Any]]:
    """The rows of the search, from the file of the run."""
    with records.Table(out, {**asdict(config), "seed": seed}) as table:
        return select(table.rows, setting=setting, part="search")


def described(setting: str, config: Config) -> dict[str, Any]:
    """The description of a setting in the summary."""
    if setting in PHOTOGRAPHS:
        groups = _photographs.counts(_photographs.folder(setting))
        return {"name": setting, **{split: each.tolist() for split, each in groups.items()}, "stand-in": False}
    images = f"{config.hard} (complex) and {config.easy} (simple)" if setting == "dominoes" else config.digits
    sizes = {"train": config.n, "validation": config.test, "test": config.test}
    return {"name": f"{setting} of {images}", **sizes, "stand-in": False}


def searching(key: dict[str, str], setup: Setup, config: Config, seed: int) -> list[dict[str, Any]]:
    """The networks of a configuration of the search."""
    numbers = range(config.seeds, config.seeds + config.search)
    return measured(key, setup, config, seed, numbers, full=False)


def judging(key: dict[str, str], config: Config, seed: int, searched: Rows) -> list[dict[str, Any]]:
    """The networks of an arm."""
    setup = arm(key["setup"], config, searched())
    return measured(key, setup, config, seed, range(config.seeds), full=True)


def measured(
    key: dict[str, str], setup: Setup, config: Config, seed: int, numbers: range, *, full: bool
) -> list[dict[str, Any]]:
    """Trains and measures all networks of a cell; with `full`, by early readouts and pictures as well."""
    compute = photographs if key["setting"] in PHOTOGRAPHS else pictures
    own = {"stage": setup.stage, "rate": setup.rate, "every": setup.every}
    made = []
    for number, found in zip(numbers, compute(key, setup, config, seed, numbers, full), strict=True):
        scores = {
            "worst": min(found["course"]["validation"][-1]),
            "average": found["course"]["average"][-1],
        }
        made.append({**key, "seed": number, **own, **found, "scores": scores})
    return made


def photographs(
    key: dict[str, str], setup: Setup, config: Config, seed: int, numbers: range, full: bool
) -> Iterator[dict[str, Any]]:
    """The measurements of networks for photographs, which are trained one after another."""
    for number in numbers:
        yield _sieve_photographs.train(
            key["setting"],
            setup,
            recipe(config, (config.size, config.size, 3), 1),
            keys(seed, [number])[0],
            epochs=config.epochs,
            batch_size=config.batch_size,
            queries=config.queries,
            look=config.look,
            positions=config.stages,
            full=full,
            shown=SHOWN if full and number == 0 else 0,
            weights=config.weights,
            probe_steps=config.probe_steps,
        )


def pictures(
    key: dict[str, str], setup: Setup, config: Config, seed: int, numbers: range, full: bool
) -> Iterator[dict[str, Any]]:
    """The measurements of networks for images that are drawn, which are trained in one compiled program."""
    name = key["setup"]
    clean, network = name.endswith("clean"), build_network(config)
    images = task(key["setting"], config, seed, numbers, clean)
    run = trained(key["setting"], setup, config, seed, numbers, clean, name == "initial")
    readout = networks.Readout(1, depth=config.depth, width=config.readout_width) if full else None
    for place, number in enumerate(numbers):
        params, collections, validation, test, records = jax.tree.map(
            lambda leaf, place=place: leaf[place],
            (run.state.params, run.state.collections, images.validation, images.test, run.records),
        )
        learner = methods.Learner(params, collections)
        probe_on = Probed(validation["random"], test["random"])
        yield {
            "finite": bool(run.finite[place]),
            "course": {"steps": run.steps.tolist(), **{name: each.tolist() for name, each in records.items()}},
            "accuracy": accuracies(network, learner, test),
            "own": own_readout(setup, config, run.state, place, test["test"]),
            "probes": probed(network, learner, probe_on, config.stages, readout, steps=config.probe_steps),
            **looks(
                network,
                learner,
                test["test"].x[: config.queries],
                images.core,
                config.look,
                SHOWN if full and number == 0 else 0,
            ),
        }


def own_readout(setup: Setup, config: Config, state: methods.State, place: int, batch: methods.Batch) -> float | None:
    """The accuracy of the readout that the sieve itself has trained, for the label; None without a readout."""
    if "readout" not in state.others:
        return None
    learner, reader = jax.tree.map(lambda leaf: leaf[place], (state.main, state.others["readout"]))
    network = build_network(config)
    variables = {"params": learner.params, **learner.collections}
    stage = networks.stages.apply(network, variables, batch.x, (setup.stage,))[1][setup.stage]
    module = networks.Readout(1, depth=config.depth, width=config.readout_width)
    return float((np.asarray(methods.predict(module, reader, stage)) * np.asarray(batch.y) > 0).mean())


@functools.lru_cache(maxsize=2)
def task(setting: str, config: Config, seed: int, numbers: range, clean: bool) -> Task:
    """The images of all networks of a cell."""
    correlation = CLEAN if clean else config.correlation
    options: dict[str, Any] = {"correlation": correlation, "n": config.n, "test": config.test, "stride": config.stride}
    drawn = keys(seed, numbers)
    if setting == "dominoes":
        return _sieve_tasks.dominoes(drawn, config.hard, config.easy, **options)
    return _sieve_tasks.colours(drawn, config.digits, **options)


@functools.lru_cache(maxsize=16)  # some are the setups of several cells
def trained(
    setting: str, setup: Setup, config: Config, seed: int, numbers: range, clean: bool = False, initial: bool = False
) -> Trained:
    """All networks of a setup, trained in one compiled program, or only initialised."""
    images = task(setting, config, seed, numbers, clean)
    height, width, channels = images.train.x.shape[2:]
    method = build(setup, recipe(config, (height, width, channels), total(config)))
    held = Held(images.validation, {name: images.test[name] for name in ("test", "random")})
    drawn, evaluate = keys(seed, numbers), evaluation(build_network(config))
    if initial:
        first = jax.vmap(lambda key: jax.random.split(key)[0])(drawn)  # as in `methods.train`
        state: Any = jax.jit(jax.vmap(method.init))(first, images.train)
        measured = jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], jax.jit(jax.vmap(evaluate))(state, held))
        return Trained(state, np.ones(len(numbers), bool), np.zeros(1, int), measured)
    run = methods.train(
        method,
        drawn,
        images.train,
        steps=total(config),
        batch_size=config.batch_size,
        record=checkpoints(config),
        evaluate=evaluate,
        held_out=held,
        per_seed=True,
        what=f"{setting}, {setup}",
    )
    return Trained(run.state, run.finite, run.steps, run.records)


def checkpoints(config: Config) -> list[int]:
    """The steps after which accuracies are recorded: those of early stopping, evenly spaced, and the end."""
    return sorted({round(step) for step in np.linspace(0, total(config), config.epochs + 1)[1:]})


def checking(key: dict[str, str], config: Config, seed: int, searched: Rows) -> list[dict[str, Any]]:
    """Whether a rate of 0 gives the updates of ERM, and which parameter arrays a step of forgetting changes."""
    setting, setup = key["setting"], arm("sieve", config, searched())
    numbers = range(config.seeds)
    runs = [trained(setting, each, config, seed, numbers) for each in (Setup(), setup)]
    train = task(setting, config, seed, numbers, False).train
    made = []
    for number in numbers:
        plain, sieved, batch = jax.tree.map(
            lambda leaf, number=number: leaf[number], (*(run.state for run in runs), train)
        )
        batches = [jax.tree.map(lambda leaf, rows=rows: leaf[rows], batch) for rows in updates(config)]
        changed = forgotten(setup, config, sieved, batches[0])
        made.append({**key, "seed": number, "identical": identical(setup, config, plain, batches), **changed})
    return made


def updates(config: Config) -> list[slice]:
    """The rows of two batches."""
    size = config.batch_size
    return [slice(size), slice(config.n - size, config.n)]


def identical(setup: Setup, config: Config, state: methods.State, batches: Sequence[methods.Batch]) -> bool:
    """Whether a sieve of rate 0 takes the updates of ERM from a state of ERM, bit for bit, running statistics included.

    Every operation is a program of its own here. Two whole updates are two programs, in which the compiler may round
    differently.
    """
    height, width, channels = batches[0].x.shape[1:]
    own = recipe(config, (height, width, channels), total(config))
    plain, zero = (build(each, own) for each in (Setup(), setup._replace(rate=0.0)))
    ours, theirs = state, zero.init(state.key, batches[0]).with_learners(main=state.main)._replace(step=state.step)
    for batch in batches:
        ours, theirs = plain.update(ours, batch)[0], zero.update(theirs, batch)[0]
    pairs = ([each.params, each.collections, each.optimizer] for each in (ours, theirs))
    return all(np.array_equal(left, right) for left, right in zip(*map(jax.tree.leaves, pairs), strict=True))


@functools.lru_cache(maxsize=2)
def forgetting(setup: Setup, own: Recipe) -> methods.Method:
    """A method whose compiled update is a step of forgetting alone."""
    fixed = optax.set_to_zero()  # the ordinary step and that of the readout change nothing
    changed = own._replace(optimizer=fixed, readout_optimizer=fixed, weight_decay=0.0)
    method = build(setup._replace(every=1), changed)
    return method._replace(update=jax.jit(method.update))


def forgotten(setup: Setup, config: Config, state: methods.State, batch: methods.Batch) -> dict[str, float]:
    """The shares of the parameter arrays up to the stage, and after it, that a step of forgetting changes."""
    height, width, channels = batch.x.shape[1:]
    own = recipe(config, (height, width, channels), total(config))
    method = forgetting(setup, own)
    fresh = method.init(state.key, batch)
    learners = {name: each._replace(optimizer=fresh.learners[name].optimizer) for name, each in state.learners.items()}
    before = fresh.with_learners(**learners)
    after, _ = method.update(before, batch)
    moved = jax.tree.leaves(jax.tree.map(lambda new, old: bool((new != old).any()), after.params, before.params))
    below = jax.tree.leaves(lower(own.network, own.shape, setup.stage))
    found = {side: [move for move, here in zip(moved, below, strict=True) if here == side] for side in (True, False)}
    return {"upto": float(np.mean(found[True])), "after": float(np.mean(found[False]))}
