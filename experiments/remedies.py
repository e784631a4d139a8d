"""Remedies of spurious features, under one protocol: the same networks, updates, tuning and selection for every method.

    python -m experiments remedies --preset smoke       scikit-learn's digits
    python -m experiments remedies --preset laptop      MNIST and Fashion-MNIST, 15 minutes on 2 busy cores
    python -m experiments remedies --preset paper       CelebA and Waterbirds, for an accelerator, not run

*Data.* Coloured digits (Arjovsky et al. 2019): the colour agrees with the noisy label with probability 0.8 and 0.9 in
two environments. Dominoes (Murali et al. 2023) of Fashion-MNIST, the core half, and MNIST: the halves agree with
probability 0.9 and 1. Coloured groups: two kinds of clothes in two colours, with the shares of the groups of CelebA;
one environment has three times as many of the rarest group as the other. Every network has its own images.

*Protocol.* Every method trains the same network from the same initial values, by SGD with momentum 0.9 and a cosine
schedule, for the same number of updates on the same images. Updates of other networks (the biased one of LfF, that of
the first phase of JTT, readouts) and DFR's updates of the last layer alone come on top, and are part of the seconds.
Every method gets the same budget of tuning: `--configurations`, of which the first one does nothing, i.e. is ERM with
default values, and the others are random. They consist of a learning rate and a weight decay, which are the same for
all methods, and of options from the method's own search space (`experiments/_remedies_methods.py`). So a method that
only hurts can be turned off. ERM has as many configurations, which are learning rates and weight decays alone. Each is
trained with `--tuning` seeds, and the one with the best mean on validation images is trained with `--seeds` fresh
ones, whose results are reported.

*Selection.* By groups: the best accuracy of the worst group on validation images. By average: the best average
accuracy, which needs no group labels. Both are in the table for every method. In validation and test images the groups
are equally frequent, so that the worst group is not a matter of a few images; averages weight the groups by their
shares in training, which gives the average over images as in training.

*Extra information.* Group DRO, group-balanced ERM and DFR know the groups of training images. IRM and V-REx know their
environments. Distillation and DeDiER have a teacher, of the same architecture, trained by ERM on as many images with
equally frequent groups; its row is that of ERM on balanced data. The oracle never sees the spurious feature.

*Trivial remedies.* An offset on ERM's logits, selected by either rule; a temperature, which changes only information;
weights of classes; weights of groups; and stopping ERM early, where the number of epochs is selected as well. Weights
of classes and groups have an exponent, which is tuned, too.

*Measures.* Core-only accuracy is that without the spurious feature, i.e. with gray images or a black half. Prediction
depth is the mean over test images as in training, by the published rule (29 neighbours, L1). Information is that of
the network in bits per image as in training, with and without the best temperature. Starvation of the core features in
the tangent kernel at the initialisation (`experiments/_starved_theory.py`) is a number of the data, the network and
the objective at once. ERM and all methods that only change how ERM is trained share it. Spectral decoupling and
constant weights of classes and groups change the equilibrium of the kernel, so they have their own. Objectives that
change during training, or have other terms, have no such equilibrium, and no number. Seconds are those of the
processor per network and without compilation, in `seconds/` and a figure, since the same seed gives the same summary.

| | published | here |
|---|---|---|
| networks | ResNet-50, ResNet-18 or MLPs | an MLP of three hidden layers for all |
| tuning | by method and data set, often on test images or by hand | the same budget for all |
| JTT | repeats the errors of the first network | weights them |
| DFR | last layer on held-out groups | on the groups of training images |
| sieve, DeDiER | readouts of up to 2 blocks, width 256 | linear readouts |
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments import _remedies_measures as measures
from experiments import _remedies_methods, _remedies_report, _remedies_tasks, _starved_theory
from experiments._bounds import Bound, expect
from experiments._remedies_measures import RULES
from experiments._remedies_methods import ARMS, DERIVED, Configuration, Setting, Trained, configurations
from experiments._remedies_tasks import PHOTOGRAPHS, Hide, Task
from experiments._study import Cell, Report, Study, keys
from gsjax import files, methods, networks


@dataclass(frozen=True)
class Config:
    """Data, training, tuning and probes."""

    tasks: tuple[_remedies_tasks.Name, ...] = ("coloured digits", "dominoes", "coloured groups")
    """Data sets."""
    arms: Annotated[tuple[str, ...], Bound(entries=0)] = ()
    """Methods to train, by their names in the table of `experiments/_remedies_methods.py`; all of them if empty."""
    images: Literal["digits", "real"] = "real"
    """What coloured images and dominoes are made from: scikit-learn's digits, or MNIST and Fashion-MNIST."""
    configurations: Annotated[int, Bound(least=2)] = 10
    """Configurations of each method that are tried, of which the first does nothing."""
    tuning: int = 2
    """Networks per configuration."""
    seeds: Annotated[int, Bound(least=2)] = 6
    """Networks with the selected configuration, none of which is used for tuning."""
    n: Annotated[int, Bound(least=8)] = 2000
    """Training images, an even number."""
    test: Annotated[int, Bound(least=8)] = 800
    """Test images, and as many for validation."""
    stride: int = 2
    """Every `stride`-th row and column of pixels is kept."""
    size: int = 64
    """Height and width of photographs."""
    network: Literal["mlp", "resnet18"] = "mlp"
    """Fully connected, or ResNet-18, which needs photographs."""
    widths: Annotated[tuple[int, ...], Bound(repeats=True)] = (64, 64, 64)
    """Widths of the hidden layers; the first is the width of ResNet-18."""
    positions: tuple[str, str] = ("h1", "h2")
    """Stages to choose from for the readouts of the sieve and of DeDiER."""
    epochs: Annotated[int, Bound(least=2)] = 20
    """Passes over the training images."""
    batch_size: int = 100
    """Images per update."""
    k: int = 29
    """Neighbours of the probes."""
    bank: int = 300
    """Training images among which they are searched."""
    queries: int = 200
    """Test images whose depth is measured."""
    kernel: Annotated[int, Bound(least=8)] = 400
    """Training images of the tangent kernel, and as many test images."""
    strength: float = 0.1
    """Strength of spectral decoupling in the equilibrium of the kernel."""


PRESETS = {
    "smoke": Config(
        images="digits",
        configurations=2,
        tuning=1,
        seeds=2,
        n=160,
        test=80,
        stride=1,
        widths=(8, 8),
        epochs=2,
        batch_size=40,
        k=9,
        bank=60,
        queries=40,
        kernel=40,
        arms=("erm", "sd", "group_balanced", "offset", "stopped"),
    ),
    "laptop": Config(),
    "paper": Config(
        tasks=("celeba", "waterbirds"),
        configurations=12,
        tuning=3,
        n=4794,
        test=1000,
        network="resnet18",
        widths=(64,),
        positions=("layer1_1", "layer2_1"),
        epochs=60,
        batch_size=64,
        bank=2000,
        queries=1000,
    ),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: numbers that do not fit together, or an unknown method.
    """
    known = (*ARMS, *DERIVED)
    for name in config.arms:
        expect(name in known, "arms", f"some of {', '.join(known)}", name)
    expect(config.n % 2 == 0, "n", "an even number", config.n)
    expect(config.batch_size <= config.n, "batch_size", f"at most n = {config.n}", config.batch_size)
    expect(config.bank <= config.n, "bank", f"at most n = {config.n}", config.bank)
    expect(config.k <= config.bank, "k", f"at most bank = {config.bank}", config.k)
    expect(config.queries <= config.test, "queries", f"at most test = {config.test}", config.queries)
    if config.network == "resnet18":
        large = set(config.tasks) <= set(PHOTOGRAPHS)
        expect(large, "network", f"mlp for tasks other than {' and '.join(PHOTOGRAPHS)}", config.network)
    else:
        stages = [f"h{layer}" for layer in range(1, len(config.widths) + 1)]
        for position in config.positions:
            expect(position in stages, "positions", f"stages of the network, {', '.join(stages)}", position)
    fewest = min(config.n, config.test)
    expect(config.kernel <= fewest, "kernel", f"at most the smaller of n and test, {fewest}", config.kernel)


@functools.lru_cache(maxsize=4)
def build(config: Config) -> nn.Module:
    """The network, with one output."""
    if config.network == "resnet18":
        return networks.ResNet((2, 2, 2, 2), 1, block="basic", stem="small", width=config.widths[0])
    return networks.FullyConnected(config.widths, initialization="xavier")


def planned(task: str, config: Config) -> list[str]:
    """The methods of a task: photographs have no environments, and a spurious feature that cannot be removed."""
    without = (*_remedies_methods.ENVIRONMENTS, "oracle") if task in PHOTOGRAPHS else ()
    return [name for name in (*ARMS, *DERIVED) if name not in without and name in (config.arms or (name,))]


COLUMNS: dict[str, Any] = {
    "options": (str, None),
    "validation": dict.fromkeys(RULES.values(), (float, None, None)),
    "chosen": dict.fromkeys(RULES, int),
    "finite": bool,
}


def study(config: Config, *, out: Path, seed: int) -> Study:
    """For each task, a cell with the networks of each method, and one with the tangent kernels."""
    cells = []
    for task in config.tasks:
        bench = Bench(task, config, seed)
        columns = {
            **COLUMNS,
            "networks": dict.fromkeys(RULES, dict.fromkeys(map(str, range(config.seeds)), measures.NETWORK)),
        }
        for name in planned(task, config):
            file = out / "seconds" / f"{task} {name}.json".replace(" ", "_")
            compute = functools.partial(bench.row, name, file)
            cells.append(Cell({"task": task, "arm": name}, compute, columns, 1, files=(file,)))
        if task not in PHOTOGRAPHS and not config.arms:
            kernels = dict.fromkeys(map(str, range(config.seeds)), measures.KERNEL)
            cells.append(Cell({"task": task, "arm": "kernel"}, bench.kernels, {"kernels": kernels}, 1))

    def report(rows: list[dict[str, Any]]) -> Report:
        return _remedies_report.report(rows, seconds=functools.partial(read_seconds, out))

    described = [
        {
            "name": task,
            "train": config.n,
            "validation": config.test,
            "test": config.test,
            "stand-in": "for CelebA" if task == "coloured groups" else False,
        }
        for task in config.tasks
    ]
    return Study(described, cells, report)


def read_seconds(out: Path) -> dict[tuple[str, str], float]:
    """The seconds per network, by task and method."""
    found = [files.parse(path.read_bytes()) for path in sorted((out / "seconds").glob("*.json"))]
    return {(entry["task"], entry["arm"]): entry["seconds"] for entry in found}


class Candidates(NamedTuple):
    """The networks among which one is selected, or the selected one.

    `named` describes each candidate. `learners[i][s]` is the network of candidate i and seed s. `seconds` are those of
    the processor per network.
    """

    named: list[str]
    learners: list[list[methods.Learner]]
    finite: bool
    seconds: float


class Bench:
    """The networks of a task. What several methods need is computed once: images, teachers, and plain ERM."""

    def __init__(self, task: str, config: Config, seed: int) -> None:
        self.task, self.config, self.seed = task, config, seed
        self.network = build(config)
        epoch = config.n // config.batch_size
        self.setting = Setting(self.network, config.epochs * epoch, config.n, config.positions)
        self.records = tuple(range(epoch, self.setting.steps + 1, epoch))  # once per epoch
        self.drawn = functools.cache(self._drawn)
        self.taught = functools.cache(self._taught)
        self.plain = functools.cache(self._plain)

    def keys(self, final: bool) -> Key[Array, " seeds"]:
        """The keys of the networks: those for tuning first, then fresh ones."""
        tuning, seeds = self.config.tuning, self.config.seeds
        return keys(self.seed, range(tuning, tuning + seeds) if final else range(tuning))

    def _drawn(self, final: bool) -> tuple[Task, Hide | None]:
        config = self.config
        sizes = _remedies_tasks.Sizes(config.n, config.test, config.stride, config.size)
        return _remedies_tasks.draw(self.task, self.keys(final), sizes, config.images)

    def examples(self, name: str, final: bool) -> methods.Batch:
        """The training images of a method for each seed."""
        (task, hide), data = self.drawn(final), self.drawn(final)[0].train
        if name == "teacher":
            return task.balanced
        if name == "oracle" and hide is not None:
            return data._replace(x=hide(data.x))
        if ARMS[name].uses == "a teacher":
            return data._replace(teacher_logits=self.taught(final))
        return data

    def _taught(self, final: bool) -> Array:
        """The teachers' outputs on the training images."""
        task, _ = self.drawn(final)
        teachers = self.erm("teacher", final, 0).learners[-1]
        batches = [jax.tree.map(lambda leaf, i=i: leaf[i], task.train) for i in range(len(teachers))]
        pairs = zip(teachers, batches, strict=True)
        return jnp.stack([measures.outputs(self.network, learner, batch).logits for learner, batch in pairs])

    def _plain(self, name: str, final: bool, number: int | None = None) -> list[Candidates]:
        """ERM with all configurations, or with one; the networks after every epoch are candidates.

        The teacher has the first configuration, and one candidate.
        """
        every = configurations("erm", self.config.configurations, self.seed)
        wanted = every if number is None else [every[number]]
        done = self.trained(name, wanted, final, self.records)
        seeds, found = len(self.keys(final)), []
        for place, configuration in enumerate(wanted):
            own = jax.tree.map(lambda leaf, place=place: leaf[place * seeds : (place + 1) * seeds], done.learners)
            epochs = [unstacked(jax.tree.map(lambda leaf, e=e: leaf[:, e], own)) for e in range(len(self.records))]
            named = [f"{configuration}, epoch {epoch}" for epoch in range(1, len(epochs) + 1)]
            found.append(Candidates(named, epochs, bool(done.finite.all()), done.seconds))
        return found

    def erm(self, name: str, final: bool, number: int) -> Candidates:
        """ERM with one configuration, or the teacher; for tuning, all configurations are trained at once."""
        if final or name == "teacher":
            return self.plain(name, final, number)[0]
        return self.plain(name, False)[number]

    def trained(self, name: str, found: Sequence[Configuration], final: bool, record: tuple[int, ...] = ()) -> Trained:
        """The networks of configurations that share a program."""
        method = "erm" if name == "teacher" else found[0].name
        return _remedies_methods.train(
            method,
            found[0].variant,
            np.array([each.values for each in found]),
            self.setting,
            self.keys(final),
            self.examples(name, final),
            batch_size=self.config.batch_size,
            together=self.config.seeds,
            record=record,
            clock=time.process_time,
        )

    def candidates(self, name: str, final: bool, only: int | None = None) -> Candidates:
        """The networks of all configurations of a method, or of one of its candidates."""
        if name in ("erm", *DERIVED):
            return self._of_erm(name, final, only)
        every = configurations(name, self.config.configurations, self.seed)
        wanted = range(len(every)) if only is None else [only]
        learners: dict[int, list[methods.Learner]] = {}
        finite, seconds, count = True, 0.0, 0
        programs: dict[tuple[str, Any], list[int]] = {}
        for number in wanted:
            if every[number].name == "erm":
                done = self.erm("erm", final, 0)
                learners[number], finite = done.learners[-1], finite and done.finite
            else:
                programs.setdefault((every[number].name, every[number].variant), []).append(number)
        for numbers in programs.values():
            trained = self.trained(name, [every[number] for number in numbers], final)
            flat = unstacked(trained.learners)
            seeds = len(flat) // len(numbers)
            learners |= {number: flat[i * seeds : (i + 1) * seeds] for i, number in enumerate(numbers)}
            finite, count = finite and bool(trained.finite.all()), count + len(numbers)
            seconds += len(numbers) * trained.seconds
        return Candidates(
            [str(every[number]) for number in wanted],
            [learners[number] for number in wanted],
            finite,
            seconds / max(count, 1),
        )

    def _of_erm(self, name: str, final: bool, only: int | None) -> Candidates:
        """ERM with all configurations, after the last epoch, or for "stopped" after each epoch; the teacher has one."""
        epochs = len(self.records) if name == "stopped" else 1
        count = 1 if name == "teacher" else self.config.configurations
        numbers = range(count) if only is None else [only // epochs]
        parts = [self.erm("teacher" if name == "teacher" else "erm", final, number) for number in numbers]
        named = [text for part in parts for text in part.named[-epochs:]]
        learners = [each for part in parts for each in part.learners[-epochs:]]
        if only is not None:
            named, learners = [named[only % epochs]], [learners[only % epochs]]
        seconds = float(np.mean([part.seconds for part in parts]))
        return Candidates(named, learners, all(part.finite for part in parts), seconds)

    def batches(self, name: str, final: bool) -> list[dict[str, Any]]:
        """For every seed, the images by which networks are selected and measured, as the method sees them."""
        task, hide = self.drawn(final)
        parts = {field: getattr(task, field) for field in ("train", "validation", "test", "iid")}
        parts["hidden"] = task.test if hide is None else task.test._replace(x=hide(task.test.x))
        if name == "oracle" and hide is not None:
            parts = {field: batch._replace(x=hide(batch.x)) for field, batch in parts.items() if field != "hidden"} | {
                "hidden": parts["hidden"]
            }
        count = len(task.train.y)
        return [
            {
                field: None if field == "hidden" and hide is None else jax.tree.map(lambda leaf, i=i: leaf[i], batch)
                for field, batch in parts.items()
            }
            for i in range(count)
        ]

    def row(self, name: str, file: Path) -> list[dict[str, Any]]:
        """Tunes a method, trains it with fresh seeds, and measures it; writes its seconds to a file."""
        tuned = self.candidates(name, False)
        shares, parts = _remedies_tasks.shares(self.drawn(False)[0].train), self.batches(name, False)
        found: dict[str, list[list[float]]] = {score: [] for score in RULES.values()}
        for learners in tuned.learners:
            held = [
                measures.outputs(self.network, learner, part["validation"])
                for learner, part in zip(learners, parts, strict=True)
            ]
            for rule, score in RULES.items():
                shifts = [
                    measures.best_offset(one, rule, own) if name == "offset" else 0.0
                    for one, own in zip(held, shares, strict=True)
                ]
                groups = np.array([measures.by_group(one, shift) for one, shift in zip(held, shifts, strict=True)])
                found[score].append(measures.scores(groups, shares)[score].tolist())
        chosen = {rule: measures.chosen(np.array(found[score])) for rule, score in RULES.items()}
        done = {number: self.candidates(name, True, number) for number in sorted(set(chosen.values()))}
        finite = all(each.finite for each in done.values())
        results: dict[str, dict[str, Any]] = {}
        own, parts = _remedies_tasks.shares(self.drawn(True)[0].train), self.batches(name, True)
        for rule, number in chosen.items():
            first = next((other for other in results if chosen[other] == number and name != "offset"), None)
            if first is not None:
                results[rule] = results[first]
                continue
            [learners] = done[number].learners
            results[rule] = {
                str(i): measures.measure(
                    self.network,
                    learner,
                    part["validation"],
                    part["test"],
                    part["hidden"],
                    part["train"],
                    part["iid"],
                    own[i],
                    self.sizes(),
                    rule,
                    offset=name == "offset",
                )
                for i, (learner, part) in enumerate(zip(learners, parts, strict=True))
            }
        key = {"task": self.task, "arm": name}
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, files.json_document({**key, "seconds": tuned.seconds}))
        validation = {score: [list(map(float, each)) for each in values] for score, values in found.items()}
        return [
            {
                **key,
                "options": tuned.named,
                "validation": validation,
                "chosen": chosen,
                "finite": finite,
                "networks": results,
            }
        ]

    def sizes(self) -> measures.Sizes:
        """Of the probes."""
        config = self.config
        return measures.Sizes(config.k, config.bank, config.queries, config.kernel)

    def kernels(self) -> list[dict[str, Any]]:
        """The starvation of the core features in the tangent kernels of the final networks, before they are trained."""
        task, hide = self.drawn(True)
        assert hide is not None
        erm = methods.get("erm")(self.network, _remedies_methods.decaying(0.1, 2))
        found = {}
        for i, key in enumerate(self.keys(True)):
            train, test, core = jax.tree.map(lambda leaf, i=i: leaf[i], (task.train, task.test, task.core))
            # `methods.train` initialises from the first half of a key.
            state = erm.init(jax.random.split(key)[0], train)
            count = slice(self.config.kernel)
            spurious = jnp.where(jnp.asarray(test.group)[count] % 2 == 1, 1.0, -1.0)
            held = _starved_theory.Held(test.x[count], hide(test.x[count]), core[count], spurious)
            found[str(i)] = measures.starved(
                self.network,
                {"params": state.params, **state.collections},
                train,
                held,
                sizes=self.sizes(),
                weight_decay=_remedies_methods.NEUTRAL[1],
                strength=self.config.strength,
                seed=self.seed + i,
            )
        return [{"task": self.task, "arm": "kernel", "kernels": found}]


def unstacked(learners: methods.Learner) -> list[methods.Learner]:
    """The networks of an axis of networks."""
    count = len(jax.tree.leaves(learners)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], learners) for i in range(count)]
