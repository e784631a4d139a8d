"""Debiased distillation: DeDiER against plain distillation and other remedies, with a teacher that is not biased.

Tiwari et al. 2024 train a linear readout on an early layer of the student. Where it errs, and all the more where it
errs with confidence, the teacher's term of the loss has more weight. Here the teacher is trained on balanced images, in
which the spurious feature says nothing about the label, or by Group DRO on biased images. The student is trained on
biased images. A small share of them conflicts with the bias: without it, no weight could help.

    python -m experiments debiased_distillation --preset smoke       scikit-learn's digits
    python -m experiments debiased_distillation --preset laptop      real images, 50 minutes on 2 busy cores
    python -m experiments debiased_distillation --preset waterbirds --weights resnet50.safetensors    not run
    python -m experiments debiased_distillation --preset celeba --weights resnet50.safetensors        not run

- "dominoes" have a core half of Fashion-MNIST (pullovers and coats) and a spurious half of MNIST (zeros and ones), that
  agrees with the label in 95 of 100 images. The network is the VGG of the experiment `dominoes`.
- "groups" are coloured images of Fashion-MNIST (dresses and coats against pullovers) in groups of the sizes of
  Waterbirds: the colour agrees with the class in 95 of 100, and classes are unequal. The network is fully connected.
- In validation and test images the spurious feature is independent of the label. Averages weight the groups by their
  shares in training.

*Selection.* Every method has the same number of candidates: options of its own, or of the training recipe for ERM. One
of DeDiER's is plain distillation (beta 0). For each seed, the candidate with the best worst-group accuracy on its
validation images is selected, which needs group labels there; so an interval over seeds includes what selection varies.
The network after the last step is taken. All students have the same number of updates; readouts, JTT's first network
and LfF's biased network come on top. Plain distillation pauses while DeDiER's readout is trained, so that both see the
same batches.

*Trivial remedies.* An offset on the logits is selected on validation images for the worst group, for every method. It
also is part of the selection of candidates then. ERM with class weights runs where classes are unequal. A temperature
of the logits changes no accuracy; that of the teacher's term is among the options of plain distillation.

*Controls.* In two controls DeDiER's weights are permuted over the examples of each batch, or among those of the same
class. There is as much weight, and as much for each class, but not on the examples on which the readout errs.

*Readouts.* Errors, margins and weights are measured on all training images, at the first and the last refresh of the
weights. Until the first refresh all weights are 1, so that the readouts of all stages and depths then read the same
students.

| | published | laptop |
|---|---|---|
| data | Waterbirds, CelebA, CivilComments, MultiNLI | dominoes and coloured groups, 14 x 14 pixels |
| worst group, distillation and DeDiER | 87.5 and 89.8, 89.5 and 89.6, 75.0 and 78.3, 77.9 and 78.9 | see the page |
| student | smaller than its teacher | of the same architecture |
| teacher | | trained on as many balanced images, or by Group DRO |
| weights | kept for each example | computed from a snapshot of readout and student: the same numbers |
| readout | linear, on an early layer | linear on all positions of the first stage, or deeper |

The published numbers are in percent, from a secondary source. `--mix` and `--temperature` are common settings of plain
distillation. The presets for folders have the recipe of the experiment `groups`, and readouts at the end of the stages
of a ResNet-50. A folder has no balanced photographs, so in the loss of that teacher all groups have the same weight.
Photographs are not augmented, and their readouts are measured at the last refresh only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
from jaxtyping import Array, Key

from experiments import (
    _debiased_measures,
    _debiased_methods,
    _debiased_photographs,
    _debiased_report,
    _debiased_tasks,
    _photographs,
    groups,
)
from experiments._bounds import Bound, expect
from experiments._debiased_measures import COLUMNS, SIDE, Watched
from experiments._debiased_methods import Planned, Recipe
from experiments._debiased_rows import gathered
from experiments._debiased_tasks import CONFLICTING, FOLDERS, Name, Setting, Task
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
TAUGHT = ("distillation", "dedier", "permuted", "permuted in classes", "sweep")


@dataclass(frozen=True)
class Config:
    """Data, methods and training."""

    data: tuple[Name, ...] = ("dominoes", "groups")
    """Data sets: dominoes of two image sets, coloured images in groups like those of Waterbirds, or folders."""
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
    group_n: Annotated[int, Bound(least=40)] = 4795
    """Training images in groups."""
    test: Annotated[int, Bound(least=40)] = 1000
    """Test images, and as many for validation; a multiple of 4."""
    stride: int = 2
    """Every `stride`-th row and column of pixels is kept."""
    width: int = 8
    """Channels of the first convolution of the VGG for dominoes."""
    widths: Annotated[tuple[int, ...], Bound(repeats=True)] = (256, 256)
    """Hidden layers of the network for coloured images."""
    blocks: Annotated[tuple[int, ...], Bound(repeats=True)] = (3, 4, 6, 3)
    """Blocks per stage of the residual network for photographs; the default is ResNet-50."""
    weights: Path | None = None
    """Its initial weights, a .safetensors file with torchvision's names; random if None."""
    size: int = 224
    """Height and width to which photographs are scaled."""
    epochs: Annotated[int, Bound(least=2)] = 6
    """Passes of the student over the training images."""
    batch_size: Annotated[int, Bound(least=2)] = 100
    """Images per step."""
    learning_rate: float = 0.05
    """Initial learning rate of SGD with momentum 0.9, which falls along a cosine."""
    weight_decay: Annotated[float, Bound(least=0)] = 5e-4
    """Adds (weight_decay / 2) ||theta||^2 to every objective."""
    mix: Annotated[float, Bound(above=0, most=1)] = 0.9
    """Share of the teacher's term in the loss of students."""
    temperature: float = 4.0
    """Temperature of that term."""
    beta: float = 2.0
    """Strength of DeDiER's weights."""
    alpha: Annotated[float, Bound(least=0)] = 1.0
    """Exponent of the margin in DeDiER's weights."""
    betas: tuple[float, ...] = (1.0, 4.0)
    """Other strengths, of which the last one is a candidate."""
    alphas: Annotated[tuple[float, ...], Bound(least=0, entries=0)] = (0.0, 3.0)
    """Other exponents."""
    depths: Annotated[tuple[int, ...], Bound(entries=0)] = (2,)
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
        data=("groups",),
        images="digits",
        arms=("teacher", "erm", "distillation", "dedier", "permuted", "sweep"),
        teachers=("balanced",),
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
        betas=(4.0,),
        alphas=(),
        depths=(),
        refresh=1,
        readout_width=4,
    ),
    "laptop": Config(),
    "waterbirds": Config(
        data=("waterbirds",),
        seeds=5,
        epochs=100,
        batch_size=128,
        learning_rate=1e-3,
        weight_decay=1e-4,
        refresh=10,
        reading=5,
        readout_rate=1e-2,
        readout_width=256,
        pooled=True,
    ),
    "celeba": Config(
        data=("celeba",),
        seeds=5,
        epochs=50,
        batch_size=128,
        learning_rate=1e-4,
        weight_decay=1e-4,
        refresh=5,
        reading=2,
        readout_rate=1e-2,
        readout_width=256,
        pooled=True,
    ),
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


@functools.lru_cache(maxsize=4)
def setting(name: Name, config: Config) -> Setting:
    """A data set with its network, the same object for all cells."""
    return _debiased_tasks.setting(name, config.images, width=config.width, widths=config.widths, blocks=config.blocks)


@functools.lru_cache(maxsize=1)
def task(name: Name, config: Config, seed: int) -> Task:
    """The images of all networks of a setting.

    The programs of the setting before are dropped: those of all cells would need more memory maps than Linux allows.
    """
    jax.clear_caches()
    return _debiased_tasks.draw(
        name,
        config.images,
        keys(seed, range(config.seeds)),
        n=size(name, config),
        test=config.test,
        stride=config.stride,
        correlation=config.correlation,
    )


def size(name: Name, config: Config) -> int:
    """The training images of a setting."""
    if name in FOLDERS:
        return int(_photographs.counts(_photographs.folder(name))["train"].sum())
    return config.n if name == "dominoes" else config.group_n


def recipe(name: Name, config: Config, seed: int) -> Recipe:
    """How the networks of a setting are trained."""
    epoch = size(name, config) // config.batch_size
    if name in FOLDERS:
        groups = _photographs.counts(_photographs.folder(name))["train"]
        sizes = int(groups[:2].sum()), int(groups[2:].sum())
    else:
        sizes = task(name, config, seed).sizes
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


def chosen(positions: tuple[str, ...], config: Config) -> dict[str, Any]:
    """The options of DeDiER that are set, not searched: a linear readout of the first stage."""
    return {"position": positions[0], "beta": config.beta, "alpha": config.alpha}


def planned(positions: tuple[str, ...], name: Name, config: Config) -> list[tuple[str, str, dict[str, Any]]]:
    """All networks of a setting: arm, teacher ("" for none) and options."""
    tried = _debiased_methods.candidates(
        positions,
        beta=config.beta,
        alpha=config.alpha,
        betas=config.betas,
        mix=config.mix,
        temperature=config.temperature,
    )
    base, main = chosen(positions, config), config.teachers[0]
    searched = {arm: each[: config.candidates] for arm, each in tried.items()}
    searched |= {"permuted": [base], "permuted in classes": [base], "teacher": [{}]}
    sweep = [base]
    sweep += [base | {"beta": beta} for beta in (0.0, *config.betas)]
    sweep += [base | {"alpha": alpha} for alpha in config.alphas]
    sweep += [base | {"position": position} for position in positions[1:]]
    sweep += [base | {"depth": depth} for depth in config.depths]
    searched["sweep"] = [each for each in sweep if "dedier" not in config.arms or each not in searched["dedier"]]
    found: list[tuple[str, str, dict[str, Any]]] = [
        (arm, main if arm in TAUGHT or arm == "teacher" else "", options)
        for arm in config.arms
        for options in searched[arm]
        if not (arm == "balanced" and name == "dominoes")
    ]
    further: dict[str, dict[str, Any]] = {"teacher": {}, "distillation": tried["distillation"][0], "dedier": base}
    for other in config.teachers[1:]:
        found += [(arm, other, options) for arm, options in further.items() if arm in config.arms]
    return found


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per setting, arm, teacher and candidate, with all of its networks; for photographs, per network."""
    cells, described, plans = [], [], {}
    for name in config.data:
        each = setting(name, config)
        plans[name] = planned(each.positions, name, config)
        described.append(
            {"name": each.about, "train": size(name, config), "test": config.test, "stand-in": False}
            if name not in FOLDERS
            else groups.about(name, _photographs.counts(_photographs.folder(name)), stand_in=False)
        )
        for arm, teacher, options in plans[name]:
            key = {"setting": name, "arm": arm, "teacher": teacher, "candidate": labelled(options)}
            whens = ("last",) if name in FOLDERS else ("first", "last")
            columns = {**COLUMNS, **(dict.fromkeys(whens, SIDE) if "position" in options else {})}
            known = arm, teacher, options, config, seed
            if name in FOLDERS:
                cells += [
                    Cell({**key, "seed": number}, functools.partial(photographed, name, *known, number), columns, 1)
                    for number in range(config.seeds)
                ]
            else:
                cells.append(Cell(key, functools.partial(measured, name, *known), columns, config.seeds))

    def report(rows: list[dict[str, Any]]) -> Report:
        parts = [
            gathered(name, CONFLICTING[name], rows, plan, labelled, chosen(setting(name, config).positions, config))
            for name, plan in plans.items()
        ]
        return _debiased_report.report(parts)

    return Study(described, cells, report)


def labelled(options: Mapping[str, Any]) -> str:
    """The options of a candidate in words.

    >>> labelled({"position": "pool1", "beta": 2.0}), labelled({})
    ('position pool1, beta 2', 'as set')
    """
    shown = {name: each if isinstance(each, str) else f"{each:g}" for name, each in options.items()}
    return ", ".join(f"{name} {each}" for name, each in shown.items()) or "as set"


def students(config: Config, seed: int, *, teacher: bool = False) -> Key[Array, " networks"]:
    """The keys of the networks; all students start from the same values, and the teachers from others."""
    return jax.vmap(lambda key: jax.random.fold_in(key, int(teacher)))(keys(seed, range(config.seeds)))


def build(arm: str, options: Mapping[str, Any], network: Any, how: Recipe) -> Planned:
    """The method of an arm; "teacher" has a teacher's."""
    return _debiased_methods.build("dedier" if arm == "sweep" else arm, tuple(options.items()), network, how)


@functools.lru_cache(maxsize=2)
def taught(name: Name, kind: str, config: Config, seed: int) -> tuple[list[dict[str, Any]], methods.Batch]:
    """The rows of teachers, and the training images of their students with their outputs.

    A continued run trains teachers again.
    """
    drawn, network = task(name, config, seed), setting(name, config).network
    robust = kind == "group_dro"
    how = recipe(name, config, seed)
    method = build("group_dro", {"step_size": 0.01}, network, how) if robust else build("erm", {}, network, how)
    rows, learners = _debiased_measures.rows(
        method,
        network,
        students(config, seed, teacher=True),
        drawn.train if robust else drawn.balanced,
        Watched(drawn.train, drawn.validation, drawn.test),
        batch_size=config.batch_size,
        shares=drawn.shares,
        sizes=drawn.sizes,
        what=f"{name}, teacher",
    )
    return rows, _teaching(network)(learners, drawn.train)


@functools.cache
def _teaching(network: Any) -> Callable[..., methods.Batch]:
    return jax.jit(jax.vmap(lambda learner, batch: methods.with_teacher(network, learner, batch)))


def measured(
    name: Name, arm: str, teacher: str, options: dict[str, Any], config: Config, seed: int
) -> list[dict[str, Any]]:
    """Trains all networks of a candidate and measures them; one row per network."""
    key = {"setting": name, "arm": arm, "teacher": teacher, "candidate": labelled(options)}
    drawn, network = task(name, config, seed), setting(name, config).network
    if arm == "teacher":
        return [{**row, **key} for row in taught(name, teacher, config, seed)[0]]
    rows, _ = _debiased_measures.rows(
        build(arm, options, network, recipe(name, config, seed)),
        network,
        students(config, seed),
        taught(name, teacher, config, seed)[1] if teacher else drawn.train,
        Watched(drawn.train, drawn.validation, drawn.test),
        batch_size=config.batch_size,
        shares=drawn.shares,
        sizes=drawn.sizes,
        what=f"{name}, {arm}",
    )
    return [{**row, **key} for row in rows]


@functools.lru_cache(maxsize=1)
def photographed_teacher(
    name: Name, kind: str, config: Config, seed: int, number: int
) -> tuple[dict[str, Any], methods.Learner]:
    """The row of a teacher of photographs, and its network; a continued run trains it again.

    A folder has no balanced photographs, so the teacher "balanced" gives all groups the same weight in its loss.
    """
    network, how = setting(name, config).network, recipe(name, config, seed)
    method = build("group_dro", {"step_size": 0.01 if kind == "group_dro" else 0.0}, network, how)
    return _photograph(method, name, config, seed, number, None, "teacher")


def photographed(
    name: Name, arm: str, teacher: str, options: dict[str, Any], config: Config, seed: int, number: int
) -> list[dict[str, Any]]:
    """Trains one network on photographs and measures it; one row."""
    key = {"setting": name, "arm": arm, "teacher": teacher, "candidate": labelled(options), "seed": number}
    if arm == "teacher":
        return [{**photographed_teacher(name, teacher, config, seed, number)[0], **key}]
    aim = photographed_teacher(name, teacher, config, seed, number)[1] if teacher else None
    method = build(arm, options, setting(name, config).network, recipe(name, config, seed))
    return [{**_photograph(method, name, config, seed, number, aim, arm)[0], **key}]


def _photograph(
    method: Planned, name: Name, config: Config, seed: int, number: int, aim: methods.Learner | None, arm: str
) -> tuple[dict[str, Any], methods.Learner]:
    return _debiased_photographs.trained(
        method,
        setting(name, config).network,
        students(config, seed, teacher=arm == "teacher")[number],
        name,
        recipe(name, config, seed),
        batch_size=config.batch_size,
        size=config.size,
        weights=config.weights,
        teacher=aim,
        what=f"{name}, {arm}, network {number + 1} of {config.seeds}",
    )
