r"""Any method on any data set and network of the project, by name.

    python -m experiments train --method irm --method-options penalty_weight=1e3 anneal=100 --data colored_mnist \
        --network fully_connected --network-options widths=300,300 dropout=0.1 --optimizer adam --learning-rate 1e-3

Accuracy and loss on every held-out set are recorded during training for all seeds. If examples have groups, so is the
accuracy of the worst group. Seeds share the data; each has its own network and order of examples. Options are
NAME=VALUE, with commas within a sequence. Names are those of the arguments of `gsjax.methods.X` and `gsjax.networks.X`.
Arguments without a default that do not follow from the data, e.g. IRM's `penalty_weight`, have to be given. A method
that needs a teacher, such as distillation, gets one for all seeds: the same network, trained by ERM with the same
optimiser, steps and batch size.

    python -m experiments train --preset laptop     the default: 15 seconds on 2 cores
    python -m experiments train --preset smoke      8 seconds, nearly all of it compilation
    python -m experiments train --preset paper      minutes

This reproduces no figure, so there are no published numbers. The presets laptop and smoke train on images that come
with scikit-learn, the preset paper with the published settings of ERM on Colored MNIST.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import lax
from jaxtyping import Array, Float

from experiments import _rows, _tasks
from experiments._bounds import Bound, expect
from experiments._study import Cell, Report, Study
from experiments._tasks import Task
from gsjax import methods, networks, plotting
from gsjax.methods import Batch, Method, State, terms

_TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": int | float, "str": str}
_OPTIONS = Bound(entries=0, repeats=True)  # `options` checks them
GROUPS = 4  # in all tasks with groups: two classes times two values of an attribute


@dataclass(frozen=True)
class Config:
    """Method, data, network and training."""

    method: Annotated[str, tyro.conf.arg(metavar="NAME", help=f"{', '.join(methods.NAMES)}.")] = "erm"
    method_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ..."), _OPTIONS] = ()
    """Options of the method, e.g. penalty_weight=1e3; group_dro takes the number of groups from the data."""
    data: Annotated[str, tyro.conf.arg(metavar="NAME", help=_tasks.HELP)] = "colored_digits"
    classes: Annotated[tuple[int, ...], Bound(least=0, entries=0)] = ()
    """Labels of two classes of image files to train on; all classes by default."""
    n: int | None = None
    """Training examples; all by default."""
    test: int | None = None
    """Test examples; all by default."""
    image_size: int = 64
    """Height and width of photographs (celeba, waterbirds), in pixels."""
    network: Annotated[str, tyro.conf.arg(metavar="NAME")] = "fully_connected"
    """mlp, cnn (in NTK parametrisation), fully_connected, convnet, vgg, preact_resnet, resnet, two_layer."""
    network_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ..."), _OPTIONS] = ()
    """Options of the network, e.g. widths=300,300, which is the default where widths are required."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Optimiser of optax."""
    learning_rate: float = 1e-3
    """Learning rate, for the mean over a batch."""
    momentum: Annotated[float, Bound(least=0, below=1)] = 0.0
    """Momentum of sgd."""
    steps: int = 1000
    """Number of updates; in dedier, jtt and dfr those of the readout, the first network or the last layer count too."""
    batch_size: int | None = None
    """Examples per update; all of them by default."""
    seeds: int = 4
    """Number of networks."""
    records: int = 25
    """How many times accuracy is measured after the start."""
    x64: bool = False
    """Double precision."""


PRESETS: dict[str, Config] = {
    "laptop": Config(batch_size=128),
    "smoke": Config(n=100, test=50, steps=40, seeds=2, records=4),
    "paper": Config(
        data="colored_mnist",
        network_options=("widths=300,300", "initialization=xavier"),
        learning_rate=1e-4,
        steps=1001,
        seeds=10,
    ),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not, as far as possible without data.

    Raises:
        ValueError: an unknown name of data, a method, a network or an option; an option with a wrong value or without
            one; classes for data whose classes are fixed; momentum with Adam.
    """
    _tasks.check(config.data, config.classes)
    _constructors(config, {"groups": GROUPS})
    _optimizer(config)


def build(config: Config, task: Task) -> tuple[Method, nn.Module]:
    """The method and the network of a configuration.

    Raises:
        ValueError: an unknown method, network or option, or an option with a wrong value or without one.
    """
    make_network, make_method = _constructors(config, {} if task.train.group is None else {"groups": GROUPS})
    network = make_network(outputs=task.outputs)
    return make_method(network, _optimizer(config)), network


def _constructors(config: Config, groups: Mapping[str, int]) -> tuple[Callable[..., nn.Module], Callable[..., Method]]:
    """Constructors of network and method with their options; `groups` are options that follow from the data."""
    expect(config.method in methods.NAMES, "method", f"one of {', '.join(methods.NAMES)}", repr(config.method))
    expect(config.network in networks.NAMES, "network", f"one of {', '.join(networks.NAMES)}", repr(config.network))
    make_network, make_method = networks.get(config.network), methods.get(config.method)
    network_options = options(config.network, make_network, config.network_options, {"widths": (300, 300)})
    method_options = options(config.method, make_method, config.method_options, groups)
    return functools.partial(make_network, **network_options), functools.partial(make_method, **method_options)


def options(
    name: str, constructor: Callable[..., Any], given: Sequence[str], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a constructor, parsed from NAME=VALUE; `defaults` replace required options that are not given.

    Raises:
        ValueError: text without `=`; an unknown or repeated name; a missing required option; a value of the wrong type.

    >>> options("mlp", networks.MLP, ["widths=8", "activation=tanh"], {})
    {'widths': (8,), 'activation': 'tanh'}
    """
    reserved = ("network", "optimizer", "outputs", "parent", "name")
    known = {key: entry for key, entry in inspect.signature(constructor).parameters.items() if key not in reserved}
    needed = [key for key, entry in known.items() if entry.default is entry.empty]
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        good = equals and key in known and key not in found
        expect(good, f"options of {name}", f"NAME=VALUE, each once, with names from {', '.join(known)}", text)
        found[key] = _value(key, value, str(known[key].annotation))
    found |= {key: defaults[key] for key in needed if key in defaults and key not in found}
    missing = [key for key in needed if key not in found]
    expect(not missing, f"options of {name}", f"{', '.join(f'{key}=VALUE' for key in missing)}", list(given))
    return found


def study(config: Config, *, out: Path, seed: int) -> Study:
    """One cell with all seeds; every process trains some of them."""
    data_key, key = jax.random.split(jax.random.key(seed))
    sizes = {"classes": config.classes, "n": config.n, "test": config.test, "image_size": config.image_size}
    task = _tasks.load(data_key, config.data, **sizes)
    method, network = build(config, task)
    cell = {"method": config.method, "data": config.data, "network": config.network}
    measured = ("accuracy", "loss") if task.train.group is None else ("accuracy", "loss", "worst group")
    curves = dict.fromkeys(measured, (float, len(recorded(config))))
    columns = {"seed": int, "steps": (int, len(recorded(config))), **dict.fromkeys(("train", *task.held_out), curves)}

    def curves_of_all() -> list[dict[str, Any]]:
        return [{**cell, **row} for row in train(config, taught(config, task, network, key), method, network, key)]

    def report(rows: list[dict[str, Any]]) -> Report:
        return Report(summarise(rows), [], {"curves.png": functools.partial(draw, rows)})

    return Study(task.about, [Cell(cell, curves_of_all, columns, config.seeds)], report, together=True)


def recorded(config: Config) -> list[int]:
    """The steps after which accuracy and loss are recorded."""
    return np.unique(np.linspace(0, config.steps, config.records + 1).round()).astype(int).tolist()


def taught(config: Config, task: Task, network: nn.Module, key: jax.Array) -> Task:
    """The task with the outputs of a teacher in its training set, and with its features if the method matches them.

    If the method does not need a teacher, the task is unchanged.
    """
    if "teacher_logits" not in methods.REGISTRY[config.method].needs:
        return task
    run = methods.train(
        methods.get("erm")(network, _optimizer(config)),
        jax.random.split(jax.random.fold_in(key, 1), 1),
        task.train,
        steps=config.steps,
        batch_size=config.batch_size,
        what="teacher",
    )
    teacher = jax.tree.map(lambda leaf: leaf[0], run.state)
    found = options(config.method, methods.get(config.method), config.method_options, {})
    position = found.get("position") if config.method == "distillation" else None
    return task._replace(train=methods.with_teacher(network, teacher, task.train, position))


def train(config: Config, task: Task, method: Method, network: nn.Module, key: jax.Array) -> list[dict[str, Any]]:
    """Trains all seeds. One row per seed: the recorded `steps` and, by set, the curves of all measurements.

    Raises:
        ValueError: the method cannot train on this task, the network cannot take its examples, or the objective of a
            seed has overflowed.
    """
    sets = {"train": task.train, **task.held_out}
    run = methods.train(
        method,
        jax.random.split(key, config.seeds),
        task.train,
        steps=config.steps,
        batch_size=config.batch_size,
        record=recorded(config),
        evaluate=lambda state, sets: {name: measure(network, state, batch) for name, batch in sets.items()},
        held_out=sets,
        what=f"{config.method} on {config.data}",
    )
    lost = int(np.sum(~run.finite))
    expected = "one at which the objective stays finite"
    expect(lost == 0, "learning_rate", expected, f"{config.learning_rate}: {lost} of {len(run.finite)} lost it")
    return [
        {"seed": number, "steps": run.steps.tolist()}
        | {name: {key: curve[number].tolist() for key, curve in curves.items()} for name, curves in run.records.items()}
        for number in range(config.seeds)
    ]


def measure(network: nn.Module, state: State, batch: Batch) -> dict[str, Float[Array, ""]]:
    """Accuracy, mean loss in nats, and the accuracy of the worst group if there are groups.

    Groups without examples are ignored.
    """

    def example_logits(x: Array) -> Array:
        return methods.predict(network, state, x[None])[0]

    # All at once would not fit for photographs.
    logits = lax.map(example_logits, batch.x, batch_size=min(500, len(batch.y)))
    label, _ = terms.classes(logits, batch.y)
    right = (logits > 0).astype(int) == label if logits.ndim == 1 else logits.argmax(axis=1) == label
    found = {"accuracy": right.mean(), "loss": terms.losses(logits, batch.y).mean()}
    if batch.group is not None:
        accuracy, present = terms.mean_by(right.astype(logits.dtype), batch.group, GROUPS)
        found["worst group"] = jnp.where(present, accuracy, jnp.inf).min()
    return found


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The measurements at the end of training, by set."""
    names = {"accuracy": "accuracy", "worst group": "accuracy of the worst group", "loss": "loss in nats"}
    return [
        _rows.measured(f"{name}: {text}", [row[name][key][-1] for row in rows])
        for name in _sets(rows)
        for key, text in names.items()
        if key in rows[0][name]
    ]


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One panel each for accuracy, accuracy of the worst group (if there are groups) and loss."""
    names = {"accuracy": "accuracy", "worst group": "accuracy of the worst group", "loss": "loss in nats"}
    shown = {key: text for key, text in names.items() if key in rows[0]["train"]}
    figure, (axes,) = plotting.panels(1, len(shown))
    for name, color in zip(_sets(rows), plotting.OKABE_ITO, strict=False):
        for (key, text), ax in zip(shown.items(), axes, strict=True):
            values = np.array([row[name][key] for row in rows])
            label = name if key == "loss" else ""  # one legend suffices, in the panel where it hides no curve
            plotting.curves(rows[0]["steps"], values, ax, label=label, ylabel=text, color=color)
    plotting.save(figure, path)


def _sets(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [name for name, entry in rows[0].items() if isinstance(entry, dict)]
    return sorted(names, key=lambda name: (name != "train", name))


def _optimizer(config: Config) -> optax.GradientTransformation:
    expect(0 <= config.momentum < 1, "momentum", "a number from 0 to below 1", config.momentum)
    if config.optimizer == "sgd":
        return optax.sgd(config.learning_rate, config.momentum or None)
    expect(config.momentum == 0, "momentum", f"0, as {config.optimizer} has its own", config.momentum)
    return optax.adam(config.learning_rate)


def _value(option: str, text: str, annotation: str) -> Any:
    """`text` as a value of the type that the constructor annotates."""
    try:
        value = text if annotation == "str" else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if annotation.startswith("Sequence") and not isinstance(value, str | tuple | list):
        value = (value,)
    kind = _TYPES.get(annotation, object)
    good = isinstance(value, kind) and (annotation == "bool" or not isinstance(value, bool))
    expect(good, option, f"a value of type {annotation}", repr(text))
    return value
