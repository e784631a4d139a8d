"""Feature contamination: networks learn features that predict nothing, and fail when those change.

Zhang et al. 2024. An example is a sum of core features, whose signs are the label, and of background features, which
are independent of it and have a nonzero mean. Out of distribution the mean of the background is reversed. A network
with two layers and ReLU learns the background as well as the core; a linear network does not, nor does any network if
the mean of the background is zero.

    python -m experiments feature_contamination --preset smoke     a minute on 2 cores, most of it compilation
    python -m experiments feature_contamination --preset laptop    each factor alone, half an hour on 2 busy cores
    python -m experiments feature_contamination --preset paper     all combinations of the factors, not run

Numbers of the published experiment: 1,000 examples, 32 core and 32 background features in a random basis of 256
dimensions, 256 hidden neurons, PyTorch's initialisation, output layer fixed at +-1/256, 20,000 full-batch steps of SGD
with rate 1e-3, momentum 0.9 and weight decay 1e-3. AdamW has the same rate and decay.

- An arm is LOSS-OPTIMISER-OUTPUT-ACTIVATION, such as `hinge-sgd-frozen-relu`; `-zero` at its end means a background of
  mean zero. Arms of one seed have the same core and, for the same kind of output layer, the same initial network.
- Risks and accuracies are on fresh examples. The published test keeps the core of the training examples and changes
  their background only; it is in the summary as well.
- Projections are those of `probes.contamination`; those at initialisation are subtracted where the summary says so.
- The other parts have the same data and networks, but a tenth of the steps at ten times the rate, which is the same
  time of the gradient flow. The arm `hinge-sgd-frozen-relu` is repeated there, as a check.

*Phase diagram*: error and hinge loss out of distribution over the number of background features and their mean. The
background is uniform in an interval of length 1 around its mean, so means below 1/2 leave both signs possible.

*Kernel*: features of the tangent kernel at initialisation, their responses at the equilibrium of the logistic loss with
a ridge (`--ridge`), and the predictor at that equilibrium, in float64 and with all training examples.

*Scale*: outputs are scale (f - f_0), with f_0 at initialisation and the learning rate divided by scale^2 (Chizat et al.
2019), without weight decay. A large scale is lazy training. The distances of the tangent kernel are measured on
`--kernel` training examples.

*Remedies*: weight decay; spectral decoupling (SD), which adds (strength / 2) mean f^2; Learning from Failure (LfF)
without moving averages. SD and LfF have the logistic loss, and are compared with it. The trivial explanations are
stopping at the least hinge loss in distribution, and an offset or a temperature on the outputs fitted in distribution.

Deviations: the bias of the frozen output layer is drawn and never trained, as published. In SGD the weights are kept
in the basis of the features, which is exact.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optax

from experiments import _contamination_kernel as tangents
from experiments import _contamination_program as program
from experiments import _contamination_remedies, _contamination_report
from experiments._bounds import Bound, expect
from experiments._contamination_program import Arm, Sizes, Trained, Weights
from experiments._study import Cell, Report, Study, keys
from gsjax import methods

LOSSES, OUTPUTS = ("hinge", "logistic"), ("frozen", "trained")
DEFAULT = "hinge-sgd-frozen-relu"
ALONE = (
    DEFAULT,
    "hinge-sgd-frozen-relu-zero",
    "hinge-sgd-frozen-identity",
    "logistic-sgd-frozen-relu",
    "hinge-adamw-frozen-relu",
    "hinge-sgd-trained-relu",
    "hinge-sgd-frozen-gelu",
    "hinge-sgd-frozen-tanh",
    "hinge-sgd-frozen-sigmoid",
)
FACTORIAL = (
    "hinge-sgd-frozen-relu-zero",
    *(
        f"{loss}-{optimizer}-{output}-{activation}"
        for loss in LOSSES
        for optimizer in program.OPTIMIZERS
        for output in OUTPUTS
        for activation in program.NAMES
    ),
)


@dataclass(frozen=True)
class Config:
    """Data, networks and parts of the experiment."""

    arms: Annotated[tuple[str, ...], Bound(entries=0)] = ALONE
    """Arms of the published experiment."""
    main: Annotated[int, Bound(least=2)] = 10
    """Networks of the three arms with hinge loss, SGD, frozen output layer, and ReLU or no activation."""
    seeds: Annotated[int, Bound(least=2)] = 6
    """Networks of every other arm and part."""
    n: Annotated[int, Bound(least=2)] = 1000
    """Training examples, an even number."""
    test: Annotated[int, Bound(least=2)] = 1000
    """Fresh examples, an even number."""
    core: int = 32
    """Core features."""
    background: int = 32
    """Background features."""
    dimension: int = 256
    """Dimension of the examples."""
    width: Annotated[int, Bound(least=2)] = 256
    """Hidden neurons, an even number."""
    steps: int = 20_000
    """Steps of the published experiment; the other parts have a tenth."""
    learning_rate: float = 1e-3
    """Learning rate; that of the other parts is ten times larger."""
    weight_decay: Annotated[float, Bound(least=0)] = 1e-3
    """Weight decay: coupled in SGD, decoupled in AdamW."""
    records: Annotated[int, Bound(least=2)] = 21
    """Evaluations during training, evenly spaced, the first before it."""
    counts: Annotated[tuple[int, ...], Bound(entries=0)] = (16, 32, 64, 128)
    """Numbers of background features in the phase diagram, increasing; none leaves it out."""
    means: Annotated[tuple[float, ...], Bound(least=0, entries=2)] = (0.0, 0.125, 0.25, 0.5)
    """Means of the background in the phase diagram, increasing."""
    scales: Annotated[tuple[float, ...], Bound(entries=0)] = (0.25, 1.0, 4.0, 16.0, 64.0)
    """Scales of the outputs, increasing; none leaves this part and that of the kernel out."""
    ridge: float = 1.0
    """Strength of the ridge at the equilibrium of the kernel, for a sum over examples."""
    kernel: Annotated[int, Bound(least=2)] = 200
    """Training examples on which the distance of kernels is measured."""
    decays: Annotated[tuple[float, ...], Bound(least=0, entries=0)] = (0.0, 1e-3, 1e-2, 1e-1)
    """Weight decays among the remedies."""
    sd: Annotated[tuple[float, ...], Bound(entries=0)] = (0.1, 1.0)
    """Strengths of spectral decoupling among the remedies."""
    lff: bool = True
    """Whether Learning from Failure is among the remedies."""


PRESETS = {
    "smoke": Config(
        arms=(
            "hinge-sgd-frozen-relu",
            "hinge-sgd-frozen-relu-zero",
            "hinge-sgd-frozen-identity",
            "hinge-adamw-frozen-relu",
        ),
        main=2,
        seeds=2,
        n=100,
        test=100,
        core=4,
        background=4,
        dimension=16,
        width=16,
        steps=200,
        learning_rate=0.01,
        records=3,
        counts=(2, 4),
        means=(0.0, 0.5),
        scales=(1.0, 16.0),
        kernel=20,
        decays=(0.0, 1e-2),
        sd=(1.0,),
    ),
    "laptop": Config(),
    "paper": Config(arms=FACTORIAL, seeds=10),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: an arm that does not exist, or numbers that do not fit together.
    """
    for name in config.arms:
        expect(name in FACTORIAL, "arms", f"names such as {DEFAULT}", name)
    for name in ("n", "test", "width"):
        expect(getattr(config, name) % 2 == 0, name, "an even number", getattr(config, name))
    most = config.dimension - config.core
    expect(config.background <= most, "background", f"at most dimension - core = {most}", config.background)
    expect(max(config.counts, default=0) <= most, "counts", f"at most dimension - core = {most}", config.counts)
    for name in ("counts", "means", "scales"):
        values = getattr(config, name)
        expect(list(values) == sorted(values), name, "increasing numbers", values)
    expect(len(config.counts) != 1, "counts", "none or at least two numbers", config.counts)
    expect(config.steps % 10 == 0, "steps", "a multiple of 10", config.steps)
    least = config.steps // 10
    expect(config.records <= least + 1, "records", f"at most steps / 10 + 1 = {least + 1}", config.records)
    expect(config.kernel <= config.n, "kernel", f"at most n = {config.n}", config.kernel)


def sizes(config: Config, steps: int, *, background: int | None = None) -> Sizes:
    """The shape of a program with this many steps."""
    record = tuple(int(step) for step in np.linspace(0, steps, config.records))
    shape = (config.core, background or config.background, config.dimension, config.width, config.n, config.test)
    return Sizes(*shape, record)


def arm(name: str, config: Config) -> Arm:
    """The arm of this name."""
    loss, optimizer, output, activation, *zero = name.split("-")
    return Arm(
        activation=program.NAMES.index(activation),
        optimizer=program.OPTIMIZERS.index(optimizer),
        hinge=loss == "hinge",
        trained=output == "trained",
        centred=False,
        scale=1.0,
        mean=0.0 if zero else 0.5,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )


def repeated(arms: Sequence[Arm], seeds: int, seed: int) -> tuple[Any, Arm]:
    """Keys and arms of runs: every arm with every seed, seeds varying fastest."""
    numbers = keys(seed, [*range(seeds)] * len(arms))
    return numbers, Arm(*(np.repeat(np.asarray(leaf), seeds) for leaf in zip(*arms, strict=True)))


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per arm, per number of background features, per scale, per remedy, and for the kernel."""
    long, short = sizes(config, config.steps), sizes(config, config.steps // 10)
    quick = arm(DEFAULT, config)._replace(learning_rate=10 * config.learning_rate)

    def cell(part: str, name: str, compute: Any, columns: Mapping[str, Any], size: int) -> Cell:
        key = {"part": part, "arm": name}
        return Cell(key, lambda: [{**key, **row} for row in compute()], columns, size)

    def runs(shape: Sizes, each: Sequence[Arm], seeds: int) -> Trained:
        return program.train(*repeated(each, seeds, seed), shape)

    def courses(shape: Sizes, one: Arm, seeds: int) -> list[dict[str, Any]]:
        return course_rows(runs(shape, [one], seeds), shape, seeds)

    def grid(count: int) -> list[dict[str, Any]]:
        shape = sizes(config, config.steps // 10, background=count)
        found = runs(shape, [quick._replace(mean=mean) for mean in config.means], config.seeds)
        rows = course_rows(found, shape, config.seeds)
        return [row | {"mean": config.means[number // config.seeds]} for number, row in enumerate(rows)]

    def scaled(scale: float) -> list[dict[str, Any]]:
        rate = quick.learning_rate / scale**2
        one = quick._replace(scale=scale, centred=True, learning_rate=rate, weight_decay=0.0)
        found = runs(short, [one], config.seeds)
        rows = course_rows(found, short, config.seeds)
        for number, row in enumerate(rows):
            z = np.asarray(program.task(keys(seed, [number])[0], short, 0.5).train)[: config.kernel]
            ends = (Weights(*(leaf[number] for leaf in each)) for each in (found.before, found.after))
            before, after = (tangents.kernel(each, "relu", z) for each in ends)
            row["distance"] = list(tangents.distance(before, after))
        return rows

    def seen() -> list[dict[str, Any]]:
        rows = []
        for number, key in enumerate(keys(seed, range(config.seeds))):
            start = program.initial(key, short, False)
            start = start._replace(hidden=start.hidden @ program.basis(program.state_key(key), short).T)
            data = program.task(key, short, 0.5)
            rows.append({"seed": number, **tangents.glasses(start, "relu", data, core=config.core, ridge=config.ridge)})
        return rows

    def remedy(name: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = _contamination_remedies.train(
            keys(seed, range(config.seeds)),
            methods.get(name),
            sgd(10 * config.learning_rate),
            short,
            weight_decay=config.weight_decay,
            **options,
        )
        return course_rows(found, short, config.seeds)

    count = {name: config.main if name in ALONE[:3] else config.seeds for name in config.arms}
    cells = [
        cell("arms", name, functools.partial(courses, long, arm(name, config), count[name]), COURSE, count[name])
        for name in config.arms
    ]
    cells += [
        cell(
            "remedies",
            f"decay {decay:g}",
            functools.partial(courses, short, quick._replace(weight_decay=decay), config.seeds),
            COURSE,
            config.seeds,
        )
        for decay in config.decays
    ]
    others = {"logistic": ("erm", {})} if config.sd or config.lff else {}
    others |= {f"sd {strength:g}": ("spectral_decoupling", {"strength": strength}) for strength in config.sd}
    others |= {"lff": ("lff", {})} if config.lff else {}
    cells += [
        cell("remedies", name, functools.partial(remedy, *each), COURSE, config.seeds) for name, each in others.items()
    ]
    if config.scales:
        cells.append(cell("kernel", DEFAULT, seen, {"seed": int, **tangents.COLUMNS}, config.seeds))
    cells += [
        cell("scales", f"{scale:g}", functools.partial(scaled, scale), {**COURSE, "distance": (float, 3)}, config.seeds)
        for scale in config.scales
    ]
    cells += [
        cell(
            "phase",
            str(number),
            functools.partial(grid, number),
            {**COURSE, "mean": float},
            config.seeds * len(config.means),
        )
        for number in config.counts
    ]

    def report(rows: list[dict[str, Any]]) -> Report:
        return _contamination_report.report(rows)

    described = {"name": "structured features", "train": config.n, "test": config.test, "stand-in": False}
    return Study(described, cells, report)


@functools.lru_cache(maxsize=4)
def sgd(rate: float) -> optax.GradientTransformation:
    """The published optimiser, the same object for all methods."""
    return optax.sgd(rate, momentum=0.9)


def course_rows(found: Trained, shape: Sizes, seeds: int) -> list[dict[str, Any]]:
    """The rows of runs, in which seeds vary fastest."""
    return [
        {
            "seed": number % seeds,
            "steps": list(shape.record),
            **{name: values[number].tolist() for name, values in found.course._asdict().items()},
            **_contamination_remedies.adjusted(np.asarray(found.outputs[number]), np.asarray(found.y[number])),
        }
        for number in range(len(found.y))
    ]


COURSE: dict[str, Any] = {
    "seed": int,
    "steps": (int, None),
    **dict.fromkeys(("hinge", "logistic", "accuracy"), (float, None, 3)),
    **dict.fromkeys(("norms", "learned", "signed", "active"), (float, None, 2)),
    "margins": (float, 2),
    **dict.fromkeys(("offset", "temperature"), (float, 3)),
}
