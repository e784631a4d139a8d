"""Representation distillation: a student that matches a robust teacher's features where the background has one sign.

Zhang et al. 2024 train students to match the features of teachers that generalise out of distribution (CLIP on
ImageNet), and find that the students do not. Here a teacher is trained where the background is random, and a student
where it has a fixed sign. Out of distribution, the sign is reversed. The background says nothing about the label.

    python -m experiments representation_distillation --preset smoke   the structured model
    python -m experiments representation_distillation --preset laptop  and Fashion-MNIST in frames, 40 minutes, busy
    python -m experiments representation_distillation --preset paper   and CIFAR-10 in frames, not run

- "features" is the structured feature model (`data.structured`), for several numbers of background features. Networks
  have two layers, the second one frozen at +-1/width, and are trained with all examples at every step.
- "frames" are images of ten classes in a frame of squares, each with a colour of its own. Channels are uniform in
  [0, 1] for the student ("bright"), in [-1, 0] out of distribution ("dark") and in [-1, 1] for the teacher; images are
  in [-1, 1] as well. Networks are fully connected. Teacher and student have different images.

| arm | trained on | matches |
|---|---|---|
| teacher | random backgrounds | labels |
| match | backgrounds of one sign | the teacher's features at the last hidden layer |
| match longer | backgrounds of one sign | the same, for `--longer` times the steps |
| match random | random backgrounds, the same core | the same: a student that must not fail |
| linear | backgrounds of one sign | the same, by a network without nonlinearity |
| logits | backgrounds of one sign | the teacher's outputs |
| erm | backgrounds of one sign | labels |
| initial | nothing | nothing |

- Accuracy is measured on the same test examples with backgrounds of each range. Students that match features predict
  with the teacher's readout ("own"); all networks also with a fresh linear readout, a logistic regression on their own
  training examples ("fresh").
- A fresh probe measures the background in the features: the share of the variance of its coordinates, such as all
  colours of a frame, that a ridge regression explains on other held-out examples, with random backgrounds. A second one
  is for the mean of the coordinates, the colour of the whole frame: the direction of the shift.
- The shift of the features is their mean square change from "id" to "ood" over their variance in "id".

What differs from the paper: the teacher is robust by its data, and the network is the same for teacher and student. So
the student could equal the teacher, and what fails is learning, not capacity. The relative square distance of their
features in distribution says how close it comes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
from jaxtyping import Array, Key

from experiments import _distilled_report, _distilled_tasks
from experiments._bounds import Bound, expect
from experiments._distilled_measures import COLUMNS, Model, grafted, measure, method, taught
from experiments._distilled_tasks import Part, Task
from experiments._study import Cell, Report, Study, keys
from gsjax import methods, networks

Arm = Literal["teacher", "match", "match longer", "match random", "linear", "logits", "erm", "initial"]


@dataclass(frozen=True)
class Config:
    """Data, networks and training."""

    arms: tuple[Arm, ...] = Arm.__args__
    """Networks."""
    seeds: Annotated[int, Bound(least=2)] = 16
    """Networks per arm; examples are drawn anew for each."""
    backgrounds: Annotated[tuple[int, ...], Bound(entries=0)] = (32, 64, 128)
    """Numbers of background features of the structured model."""
    core: int = 4
    """Its number of core features."""
    n: Annotated[int, Bound(least=4)] = 1000
    """Its training examples."""
    width: Annotated[int, Bound(least=2)] = 64
    """Hidden neurons of its networks."""
    steps: int = 1000
    """Steps on all of its training examples."""
    label_rate: float = 0.02
    """Learning rate for labels, by the hinge loss, of SGD with momentum 0.9."""
    match_rate: float = 0.5
    """Learning rate for features and outputs of the teacher, of SGD with momentum 0.9."""
    longer: Annotated[int, Bound(least=2)] = 4
    """How many times as long the arm "match longer" is trained, on structured features and on images."""
    teacher_decay: Annotated[float, Bound(least=0)] = 0.02
    """Weight decay of the teacher of the structured model; its students have none."""
    images: Literal["digits", "fashion_mnist", "cifar10"] = "fashion_mnist"
    """Image set in frames."""
    blocks: Annotated[tuple[int, ...], Bound(entries=0)] = (2, 12)
    """Sizes of the squares of a frame, in pixels."""
    stride: int = 2
    """Every `stride`-th row and column of pixels is kept."""
    frame: int = 5
    """Width of the frame, in pixels."""
    image_n: Annotated[int, Bound(least=10)] = 4000
    """Training images."""
    test: Annotated[int, Bound(least=10)] = 1000
    """Test examples, and as many to fit probes."""
    widths: Annotated[tuple[int, ...], Bound(repeats=True)] = (256, 64)
    """Hidden layers of the networks for images."""
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 100
    """Images per step."""
    learning_rate: float = 1e-3
    """Initial learning rate of Adam for images, which falls along a cosine."""


PRESETS = {
    "smoke": Config(
        seeds=2,
        backgrounds=(16,),
        n=100,
        width=16,
        steps=50,
        longer=2,
        images="digits",
        blocks=(),
        stride=1,
        frame=1,
        image_n=200,
        test=200,
        widths=(32, 16),
        epochs=2,
        batch_size=50,
    ),
    "laptop": Config(),
    "paper": Config(
        backgrounds=(32, 64, 128, 256),
        steps=20_000,
        images="cifar10",
        blocks=(4, 8, 24),
        stride=1,
        frame=8,
        image_n=4000,
        widths=(1024, 256),
        epochs=100,
    ),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: numbers that do not fit together.
    """
    expect(config.backgrounds or config.blocks, "backgrounds", "a setting, here or in blocks", "none")
    expect("teacher" in config.arms, "arms", "the teacher among them", " ".join(config.arms))
    expect(config.batch_size <= config.image_n, "batch_size", f"at most image_n = {config.image_n}", config.batch_size)


@functools.lru_cache(maxsize=8)
def model(setting: str, config: Config) -> Model:
    """The networks of a setting and how they are trained; the same objects for all sizes."""
    if setting == "features":
        network, linear = (networks.get("two_layer")(config.width, each) for each in ("relu", "identity"))
        rates = [optax.sgd(optax.cosine_decay_schedule(rate, config.steps), momentum=0.9)
                 for rate in (config.label_rate, config.match_rate)]  # fmt: skip
        return Model(network, linear, "h1", "hinge", rates[0], rates[1], (config.teacher_decay, 0.0))
    network, linear = (
        networks.FullyConnected(config.widths, outputs=10, activation=each) for each in ("relu", "linear")
    )
    adam = optax.adam(optax.cosine_decay_schedule(config.learning_rate, image_steps(config)))
    return Model(network, linear, f"h{len(config.widths)}", "cross_entropy", adam, adam, (0.0, 0.0))


def lengthened(arm: str, config: Config) -> Config:
    """The config by which an arm is trained."""
    times = config.longer if arm == "match longer" else 1
    return replace(config, steps=times * config.steps, epochs=times * config.epochs)


def image_steps(config: Config) -> int:
    """The steps on images."""
    return config.epochs * (config.image_n // config.batch_size)


@functools.lru_cache(maxsize=1)
def task(setting: str, size: int, config: Config, seed: int) -> Task:
    """The examples of all networks of a setting."""
    numbers = keys(seed, range(config.seeds))
    if setting == "features":
        return _distilled_tasks.features(numbers, size, core=config.core, n=config.n, test=config.test)
    return _distilled_tasks.frames(
        numbers,
        size,
        config.images,
        n=config.image_n,
        test=config.test,
        stride=config.stride,
        width=config.frame,
    )


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per setting, size and arm, with all of its networks."""
    settings = [("features", size) for size in config.backgrounds] + [("frames", size) for size in config.blocks]
    cells = [
        Cell(
            {"setting": setting, "size": size, "arm": arm},
            functools.partial(measured, setting, size, arm, config, seed),
            COLUMNS,
            config.seeds,
        )
        for setting, size in settings
        for arm in config.arms
    ]

    def report(rows: list[dict[str, Any]]) -> Report:
        return _distilled_report.report(rows, images=config.images)

    described = [
        {"name": "structured features", "train": config.n, "test": config.test, "stand-in": False},
        {
            "name": f"{config.images} in coloured frames",
            "train": config.image_n,
            "test": config.test,
            "stand-in": False,
        },
    ]
    used = [bool(config.backgrounds), bool(config.blocks)]
    return Study([each for each, is_used in zip(described, used, strict=True) if is_used], cells, report)


def seeds(arm: str, config: Config, seed: int) -> Key[Array, " networks"]:
    """The keys of the networks; all students start from the same values, and the teacher from others."""
    return jax.vmap(lambda key: jax.random.fold_in(key, int(arm == "teacher")))(keys(seed, range(config.seeds)))


def trained(setting: str, arm: str, config: Config, seed: int, examples: methods.Batch) -> tuple[methods.Learner, Any]:
    """All networks of an arm, trained in one compiled program, and whether their objectives stayed finite."""
    config = lengthened(arm, config)
    images, own = setting == "frames", method(arm, model(setting, config))
    if arm == "initial":
        first = jax.vmap(lambda key: jax.random.split(key)[0])(seeds(arm, config, seed))  # as in `methods.train`
        state: Any = jax.jit(jax.vmap(own.init))(first, examples)
        return methods.Learner(state.params, state.collections), np.ones(config.seeds, bool)
    run = methods.train(
        own,
        seeds(arm, config, seed),
        examples,
        steps=image_steps(config) if images else config.steps,
        batch_size=config.batch_size if images else None,
        per_seed=True,
        what=f"{setting}, {arm}",
    )
    return methods.Learner(run.state.params, run.state.collections), run.finite


@functools.lru_cache(maxsize=1)
def teachers(setting: str, size: int, config: Config, seed: int) -> tuple[methods.Learner, Any]:
    """The teachers of a setting; a continued run trains them again."""
    return trained(setting, "teacher", config, seed, task(setting, size, config, seed).teacher.batch)


def measured(setting: str, size: int, arm: str, config: Config, seed: int) -> list[dict[str, Any]]:
    """Trains all networks of an arm and measures them; one row per network."""
    examples, parts = task(setting, size, config, seed), model(setting, config)
    known, finite = teachers(setting, size, config, seed)
    fitted: Part = examples.teacher if arm == "teacher" else examples.student["random" if "random" in arm else "id"]
    network = parts.linear if arm == "linear" else parts.network
    own = known
    if arm != "teacher":
        own, finite = trained(setting, arm, config, seed, taught(parts, known, fitted.batch))
    rows = []
    for number in range(config.seeds):
        its, part, student, aim = jax.tree.map(
            lambda leaf, number=number: leaf[number],
            (examples, fitted, *({"params": each.params, **each.collections} for each in (own, known))),
        )
        if arm in ("match", "match longer", "match random", "linear"):
            student = grafted(parts, network, student, aim, its.test["id"].batch.x)
        found = measure(parts, network, student, aim, part, its)
        key = {"setting": setting, "size": size, "arm": arm}
        rows.append({**key, "seed": number, "finite": bool(finite[number]), **found})
    return rows
