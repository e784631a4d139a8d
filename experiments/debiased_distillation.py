"""Debiased distillation: DeDiER against plain distillation and other remedies, with a teacher that is not biased.

Tiwari et al. 2024 train a linear readout on an early layer of the student. Where it errs, and all the more where it errs
with confidence, the teacher's term of the loss has more weight. Here the teacher is trained on balanced images, in which
the spurious feature says nothing about the label, or by Group DRO. The student is trained on biased images.

    python -m experiments debiased_distillation --preset smoke       scikit-learn's digits
    python -m experiments debiased_distillation --preset laptop      two data sets of real images, TIME on 2 cores
    python -m experiments debiased_distillation --preset waterbirds  a folder of photographs, ResNet-50, not run
    python -m experiments debiased_distillation --preset celeba      likewise, not run

"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Key

from experiments import _debiased_measures, _debiased_methods, _debiased_report, _debiased_tasks
from experiments._bounds import Bound, expect
from experiments._debiased_measures import COLUMNS, SIGNALS, Watched
from experiments._debiased_methods import Recipe
from experiments._debiased_tasks import Setting, Task
from experiments._study import Cell, Report, Study, keys
from gsjax import methods

Arm = Literal[
    "teacher",
    "erm",
    "balanced",
    "distillation",
    "dedier",
    "permuted",
    "permuted in classes",
    "sd",
    "group_dro",
    "lff",
    "jtt",
    "sweep",
]
Teacher = Literal["balanced", "group_dro"]


@dataclass(frozen=True)
class Config:
    """Data, methods and training."""

    data: tuple[_debiased_tasks.Name, ...] = ("dominoes", "groups")
    """Data sets: dominoes of two image sets, and coloured images in groups like those of Waterbirds."""
    images: _debiased_tasks.Images = "fashion_mnist"
    """Image set that is to be classified; the spurious half of dominoes has MNIST's digits, or easier digits."""
    arms: tuple[Arm, ...] = Arm.__args__
    """Methods; "sweep" are further options of DeDiER."""
    teachers: tuple[Teacher, ...] = Teacher.__args__
    """How teachers are trained; all methods use the first, and distillation and DeDiER the others as well."""
    candidates: Annotated[int, Bound(least=2, most=4)] = 4
    """Candidates that every method tries."""
    seeds: Annotated[int, Bound(least=2)] = 6
    """Networks per candidate; images are drawn anew for each."""
    correlation: Annotated[float, Bound(above=0.5, below=1)] = 0.95
    """Probability that the spurious half of a training domino agrees with the label."""
    n: Annotated[int, Bound(least=40)] = 2000
    """Training dominoes, an even number."""
    group_n: Annotated[int, Bound(least=40)] = 4000
    """Training images in groups."""
    test: Annotated[int, Bound(least=40)] = 1000
    """Test images, and as many for validation; a multiple of 4."""
    stride: int = 2
    """Every `stride`-th row and column of pixels is kept."""
    width: int = 8
    """Channels of the first convolution of the VGG for dominoes."""
    widths: Annotated[tuple[int, ...], Bound(repeats=True)] = (256, 256)
    """Hidden layers of the network for coloured images."""
    epochs: Annotated[int, Bound(least=2)] = 8
    """Passes of the student over the training images."""
    batch_size: Annotated[int, Bound(least=2)] = 100
    """Images per step."""
    learning_rate: float = 0.05
    """Initial learning rate of SGD with momentum 0.9, which falls along a cosine."""
    weight_decay: Annotated[float, Bound(least=0)] = 5e-4
    """Adds (weight_decay / 2) ||theta||^2 to every objective."""
    mix: Annotated[float, Bound(above=0, most=1)] = 0.5
    """Share of the teacher's term in the loss of students."""
    temperature: float = 1.0
    """Temperature of that term."""
    beta: float = 2.0
    """Strength of DeDiER's weights."""
    alpha: Annotated[float, Bound(least=0)] = 1.0
    """Exponent of the margin in DeDiER's weights."""
    betas: tuple[float, ...] = (1.0, 4.0)
    """Other strengths, of which the last one is a candidate."""
    alphas: Annotated[tuple[float, ...], Bound(least=0)] = (0.0, 3.0)
    """Other exponents."""
    depths: tuple[int, ...] = (2,)
    """Blocks of deeper readouts."""
    refresh: int = 2
    """Epochs of the student between two refreshes of DeDiER's weights."""
    reading: int = 1
    """Epochs of readout training before a refresh."""
    readout_rate: float = 0.05
    """Learning rate of readouts, by SGD with momentum 0.9."""
    readout_width: int = 16
    """Width of the blocks of deeper readouts."""
    pooled: bool = False
    """Whether the linear layer of a readout takes the mean over positions of an image, instead of all of them."""


PRESETS = {
    "smoke": Config(
        images="digits",
        candidates=2,
        seeds=2,
        n=200,
        group_n=200,
        test=80,
        stride=1,
        width=4,
        widths=(16, 16),
        epochs=3,
        batch_size=50,
        refresh=1,
        betas=(1.0, 4.0),
        alphas=(0.0,),
        depths=(1,),
        readout_width=4,
    ),
    "laptop": Config(),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: numbers that do not fit together.
    """
    expect(config.n % 2 == 0, "n", "an even number", config.n)
    expect(config.test % 4 == 0, "test", "a multiple of 4", config.test)
    least = min(config.n, config.group_n)
    expect(config.batch_size <= least, "batch_size", f"at most {least}, the training images", config.batch_size)
    expect(config.refresh < config.epochs, "refresh", f"fewer than epochs = {config.epochs}", config.refresh)
    expect(config.beta not in config.betas, "betas", f"other numbers than beta = {config.beta}", config.betas)
    expect(config.alpha not in config.alphas, "alphas", f"other numbers than alpha = {config.alpha}", config.alphas)


def settings(config: Config) -> list[Setting]:
    """The data sets with their networks."""
    return [setting(name, config) for name in config.data]


@functools.lru_cache(maxsize=4)
def setting(name: _debiased_tasks.Name, config: Config) -> Setting:
    """A data set with its network, the same object for all cells."""
    return _debiased_tasks.setting(name, config.images, width=config.width, widths=config.widths)


@functools.lru_cache(maxsize=1)
def task(name: _debiased_tasks.Name, config: Config, seed: int) -> Task:
    """The images of all networks of a setting."""
    return _debiased_tasks.draw(
        name,
        config.images,
        keys(seed, range(config.seeds)),
        n=size(name, config),
        test=config.test,
        stride=config.stride,
        correlation=config.correlation,
    )


def size(name: str, config: Config) -> int:
    """The training images of a setting."""
    return config.n if name == "dominoes" else config.group_n


def recipe(name: _debiased_tasks.Name, config: Config, sizes: tuple[int, int]) -> Recipe:
    """How the networks of a setting are trained."""
    epoch = size(name, config) // config.batch_size
    return Recipe(
        steps=config.epochs * epoch,
        epoch=epoch,
        rate=config.learning_rate,
        decay=config.weight_decay,
        sizes=sizes,
        mix=config.mix,
        temperature=config.temperature,
        refresh=config.refresh * epoch,
        reading=config.reading * epoch,
        readout_rate=config.readout_rate,
        readout_width=config.readout_width,
        pooled=config.pooled,
    )


def planned(positions: tuple[str, ...], name: str, config: Config) -> list[tuple[str, str, dict[str, Any]]]:
    """All networks of a setting: arm, teacher ("" for none) and options."""
    tried = _debiased_methods.candidates(
        positions,
        beta=config.beta,
        alpha=config.alpha,
        betas=config.betas,
        mix=config.mix,
        temperature=config.temperature,
    )
    base, main = {"position": positions[0], "beta": config.beta, "alpha": config.alpha}, config.teachers[0]
    searched = {arm: each[: config.candidates] for arm, each in tried.items()}
    searched |= {"permuted": [base], "permuted in classes": [base], "teacher": [{}]}
    known = searched["dedier"]
    sweep = [base]
    sweep += [base | {"beta": beta} for beta in (0.0, *config.betas)]
    sweep += [base | {"alpha": alpha} for alpha in config.alphas]
    sweep += [base | {"position": position} for position in positions[1:]]
    sweep += [base | {"depth": depth} for depth in config.depths]
    searched["sweep"] = [each for each in sweep if each not in known]
    taught = ("distillation", "dedier", "permuted", "permuted in classes", "sweep")
    found = [
        (arm, main if arm in (*taught, "teacher") else "", options)
        for arm in config.arms
        for options in searched[arm]
        if not (arm == "balanced" and name == "dominoes")
    ]
    for other in config.teachers[1:]:
        found += [("teacher", other, {})] if "teacher" in config.arms else []
        found += [("distillation", other, tried["distillation"][0])] if "distillation" in config.arms else []
        found += [("dedier", other, base)] if "dedier" in config.arms else []
    return found


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per setting, arm, teacher and candidate, with all of its networks."""
    cells = []
    for each in settings(config):
        for arm, teacher, options in planned(each.positions, each.name, config):
            key = {"setting": each.name, "arm": arm, "teacher": teacher, "candidate": labelled(options)}
            compute = functools.partial(measured, each.name, arm, teacher, options, config, seed)
            signals = SIGNALS if "position" in options else {}
            cells.append(Cell(key, compute, {**COLUMNS, **signals}, config.seeds))

    def report(rows: list[dict[str, Any]]) -> Report:
        return _debiased_report.report(rows)

    described = [
        {"name": each.about, "train": size(each.name, config), "test": config.test, "stand-in": False}
        for each in settings(config)
    ]
    return Study(described, cells, report)


def labelled(options: dict[str, Any]) -> str:
    """The options of a candidate in words.

    >>> labelled({"position": "pool1", "beta": 2.0}), labelled({})
    ('position pool1, beta 2', 'as given')
    """
    shown = {name: each if isinstance(each, str) else f"{each:g}" for name, each in options.items()}
    return ", ".join(f"{name} {each}" for name, each in shown.items()) or "as given"


def students(config: Config, seed: int, teacher: bool = False) -> Key[Array, " networks"]:
    """The keys of the networks; all students start from the same values, and the teachers from others."""
    return jax.vmap(lambda key: jax.random.fold_in(key, int(teacher)))(keys(seed, range(config.seeds)))


@functools.lru_cache(maxsize=2)
def taught(name: _debiased_tasks.Name, kind: Teacher, config: Config, seed: int) -> tuple[list[dict[str, Any]], Any]:
    """The rows of teachers, and the training images of their students with their outputs.

    A continued run trains teachers again.
    """
    data, network = task(name, config, seed), setting(name, config).network
    how = recipe(name, config, data.sizes)
    arm, options, train = ("group_dro", {"step_size": 0.01}, data.train) if kind == "group_dro" else (
        "erm", {}, data.balanced)  # fmt: skip
    rows, learners = _debiased_measures.rows(
        _debiased_methods.build(arm, tuple(options.items()), network, how),
        network,
        students(config, seed, teacher=True),
        train,
        Watched(data.train, data.validation, data.test),
        batch_size=config.batch_size,
        shares=data.shares,
        sizes=data.sizes,
        what=f"{name}, teacher",
    )
    return rows, _teaching(network)(learners, data.train)


@functools.cache
def _teaching(network: Any) -> Any:
    return jax.jit(jax.vmap(lambda learner, batch: methods.with_teacher(network, learner, batch)))


def measured(
    name: _debiased_tasks.Name, arm: str, teacher: str, options: dict[str, Any], config: Config, seed: int
) -> list[dict[str, Any]]:
    """Trains all networks of a candidate and measures them; one row per network."""
    key = {"setting": name, "arm": arm, "teacher": teacher, "candidate": labelled(options)}
    data, network = task(name, config, seed), setting(name, config).network
    if arm == "teacher":
        return [{**row, **key} for row in taught(name, teacher, config, seed)[0]]
    train = taught(name, teacher, config, seed)[1] if teacher else data.train
    how = recipe(name, config, data.sizes)
    rows, _ = _debiased_measures.rows(
        _debiased_methods.build("dedier" if arm == "sweep" else arm, tuple(options.items()), network, how),
        network,
        students(config, seed),
        train,
        Watched(data.train, data.validation, data.test),
        batch_size=config.batch_size,
        shares=data.shares,
        sizes=data.sizes,
        what=f"{name}, {arm}",
    )
    return [{**row, **key} for row in rows]
