"""What the experiment `representation_distillation` trains and measures: accuracies, features, and a fresh probe."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from jaxtyping import Float
from sklearn.linear_model import RidgeCV

from experiments._distilled_tasks import Part, Task
from gsjax import methods, probes
from gsjax.networks import stages

ALPHAS = tuple(10.0**power for power in range(-2, 5))  # of the ridge probe; the best by leave-one-out is taken


class Model(NamedTuple):
    """The network of teacher and student, a linear one of the same shape, and how they are trained.

    `position` is the stage that is matched, `loss` that of labels, and `decay` the weight decay of teacher and student.
    `optimizer` is for labels, and `matcher` for outputs and features of the teacher.
    """

    network: nn.Module
    linear: nn.Module
    position: str
    loss: str
    optimizer: optax.GradientTransformation
    matcher: optax.GradientTransformation
    decay: tuple[float, float]


def method(arm: str, model: Model) -> methods.Method:
    """The method of an arm; "linear" is for the linear network."""
    if arm in ("teacher", "erm", "initial"):
        decay = model.decay[0 if arm == "teacher" else 1]
        return methods.get("erm")(model.network, model.optimizer, loss=model.loss, weight_decay=decay)
    network = model.linear if arm == "linear" else model.network
    if arm == "logits":
        return methods.get("distillation")(network, model.matcher, mix=1.0, weight_decay=model.decay[1])
    return methods.get("distillation")(
        network, model.matcher, mix=1.0, position=model.position, weight_decay=model.decay[1]
    )


def grafted(model: Model, network: nn.Module, student: dict[str, Any], teacher: dict[str, Any], x: Any) -> Any:
    """The student up to the stage, and the teacher after it; the networks have no statistics of batches."""
    below = stages.upto(network, student, x, model.position)
    params = jax.tree.map(lambda take, own, other: own if take else other, below, student["params"], teacher["params"])
    return {**teacher, "params": params}


def taught(model: Model, teacher: methods.Learner, batch: methods.Batch) -> methods.Batch:
    """The examples of every network with the outputs and features of its teacher."""
    return _teaching(model.network, model.position)(teacher, batch)


@functools.cache
def _teaching(network: nn.Module, position: str) -> Callable[..., methods.Batch]:
    return jax.jit(jax.vmap(lambda learner, batch: methods.with_teacher(network, learner, batch, position)))


@functools.cache
def _evaluated(network: nn.Module, position: str) -> Callable[..., tuple[Any, Any]]:
    """The compiled function (variables, x) -> outputs, flat stage."""

    def evaluate(variables: Any, x: Any) -> tuple[Any, Any]:
        logits, found = stages.apply(network, variables, x, (position,))
        return logits, found[position].reshape(len(x), -1)

    return jax.jit(evaluate)


def measure(
    model: Model,
    network: nn.Module,
    own: dict[str, Any],
    teacher: dict[str, Any],
    fitted: Part,
    task: Task,
) -> dict[str, Any]:
    """The measurements of a network, as a row of `rows.jsonl`.

    Args:
        model: of the setting.
        network: that of the variables.
        own: its variables, with the readout that predicts.
        teacher: those of the teacher.
        fitted: the training examples of the network, on which the fresh readout is fitted.
        task: the examples of this network.
    """

    def evaluate(part: Part) -> tuple[Any, Any]:
        logits, stage = _evaluated(network, model.position)(own, part.batch.x)
        return np.asarray(logits), np.asarray(stage)

    labels: Any = np.asarray(fitted.batch.y).astype(int)
    readout = probes.linear_probe(evaluate(fitted)[1], labels)
    found = {name: evaluate(part) for name, part in task.test.items()}
    truth = np.asarray(task.test["id"].batch.y).astype(int)
    aim = np.asarray(_evaluated(model.network, model.position)(teacher, task.test["id"].batch.x)[1])
    stage = found["id"][1]
    spread = float(((stage - stage.mean(axis=0)) ** 2).sum())
    shift = float(((found["ood"][1] - stage) ** 2).sum())
    return {
        "coordinates": int(task.bank.background[0].size),
        "own": {name: float((voted(logits) == truth).mean()) for name, (logits, _) in found.items()},
        "fresh": {name: float((np.asarray(readout.votes(each)) == truth).mean()) for name, (_, each) in found.items()},
        "distance": float(((stage - aim) ** 2).sum() / ((aim - aim.mean(axis=0)) ** 2).sum()),
        "shift": shift / spread if spread else None,
        **probed(evaluate(task.bank)[1], found["random"][1], task.bank.background, task.test["random"].background),
    }


COLUMNS: dict[str, Any] = {
    "seed": int,
    "finite": bool,
    "coordinates": int,
    **dict.fromkeys(("own", "fresh"), dict.fromkeys(("id", "ood", "random"), float)),
    **dict.fromkeys(("distance", "shift", "probe", "mean"), float),
}


def voted(logits: Float[np.ndarray, " n"] | Float[np.ndarray, "n k"]) -> np.ndarray:
    """The predicted labels: -1 and +1 for outputs `(n,)`, else class indices.

    >>> voted(np.array([-0.1, 2.0])).tolist(), voted(np.array([[0.0, 1.0]])).tolist()
    ([-1, 1], [1])
    """
    return np.where(logits > 0, 1, -1) if logits.ndim == 1 else logits.argmax(axis=1)


def probed(bank: Any, features: Any, targets: Any, truth: Any) -> dict[str, float]:
    """What fresh probes explain of all coordinates of the background ("probe"), and of their mean ("mean").

    The mean of each channel is over the features, or over the squares of a frame: it is what a shift of sign changes.
    """
    targets, truth = np.asarray(targets, float), np.asarray(truth, float)
    return {
        "probe": explained(bank, targets.reshape(len(targets), -1), features, truth.reshape(len(truth), -1)),
        "mean": explained(bank, targets.mean(axis=1), features, truth.mean(axis=1)),
    }


def explained(bank: Any, targets: Any, features: Any, truth: Any) -> float:
    """The share of the variance of a background that a ridge regression on features explains, on other examples.

    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> round(explained(x[:100], x[:100, :1], x[100:], x[100:, :1]), 3)
    1.0
    """
    bank, targets, features, truth = (np.asarray(each, float) for each in (bank, targets, features, truth))
    middle, size = bank.mean(axis=0), np.sqrt(bank.var(axis=0).sum())
    if size == 0:
        return 0.0
    scaled = [(each - middle) / size * np.sqrt(bank.shape[1]) for each in (bank, features)]
    predicted = RidgeCV(ALPHAS).fit(scaled[0], targets).predict(scaled[1]).reshape(truth.shape)
    return float(1 - ((predicted - truth) ** 2).sum() / ((truth - targets.mean(axis=0)) ** 2).sum())
