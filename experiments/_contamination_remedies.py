"""Remedies in the experiment `feature_contamination`, by `methods.train`, and trivial explanations of their effects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from scipy import optimize

from experiments import _contamination_program as program
from experiments._contamination_program import Course, Sizes, Task, Trained, Weights
from gsjax import methods
from gsjax.data import structured
from gsjax.networks import TwoLayer


def train(
    keys: Key[Array, " runs"],
    method: Callable[..., methods.Method],
    optimizer: optax.GradientTransformation,
    sizes: Sizes,
    *,
    activation: str = "relu",
    weight_decay: float,
    **options: Any,
) -> Trained:
    """Trains a method on the examples and from the networks of `program.train` for the same keys.

    Training is that on all dimensions, in the basis of the features, for optimisers that allow it. The background is
    the published one, and the output layer is frozen.

    Args:
        keys: one per run.
        method: a constructor of `methods`.
        optimizer: of optax; one that does not commute with rotations is refused (`structured.reduced`).
        sizes: those of all runs.
        activation: of the network.
        weight_decay: an option that all methods have.
        options: the others.
    """
    network: Any = TwoLayer(sizes.width, activation)
    # `methods.train` wants a method that is the same object in every call.
    built = _reduced(network, method, optimizer, sizes, tuple({"weight_decay": weight_decay, **options}.items()))
    data = _tasks(keys, sizes)
    y = jnp.broadcast_to(program.labels(sizes.n), (len(keys), sizes.n))
    run = methods.train(
        built,
        keys,
        methods.Batch(data.train, y),
        steps=sizes.record[-1],
        record=sorted({0, *sizes.record}),
        evaluate=_evaluation(network),
        held_out=data,
        per_seed=True,
    )
    found, logits = run.records
    first = 0 if sizes.record[0] == 0 else 1
    before = jax.tree.map(lambda leaf: leaf[:, 0], found)
    courses = _courses(sizes.core)(found, before, data.fresh, logits)
    course = jax.tree.map(lambda leaf: np.asarray(leaf)[:, first:], courses)
    after = jax.tree.map(lambda leaf: leaf[:, -1], found)
    outputs: Any = np.stack([each[:, -1] for each in logits[:2]], axis=1)
    labels: Any = np.tile(program.labels(sizes.test), (len(keys), 1))
    return Trained(course, before, after, outputs, labels)


@functools.lru_cache(maxsize=16)
def _reduced(
    network: nn.Module,
    method: Callable[..., methods.Method],
    optimizer: optax.GradientTransformation,
    sizes: Sizes,
    options: tuple[tuple[str, Any], ...],
) -> methods.Method:
    """The method, started from the networks that it would start from in all dimensions."""
    inner = method(network, optimizer, **dict(options))
    decay = dict(options)["weight_decay"]

    def init(key: Key[Array, ""], batch: methods.Batch) -> methods.State:
        rows = program.basis(key, sizes)
        state = inner.init(key, batch._replace(x=batch.x @ rows))

        def inside(learner: methods.Learner) -> methods.Learner:
            params = structured.reduced(learner.params, rows, optimizer, weight_decay=decay)
            return learner._replace(params=params, optimizer=optimizer.init(params))

        return methods.map_learners(inside, state)

    return methods.Method(init, inner.update)


@functools.lru_cache(maxsize=16)
def _evaluation(network: nn.Module) -> Callable[[methods.State, Task], tuple[Weights, tuple[Array, Array, Array]]]:
    """The function for `methods.train`: the weights, and the outputs on fresh, shifted and published examples."""

    def evaluate(state: methods.State, data: Task) -> tuple[Weights, tuple[Array, Array, Array]]:
        fresh, shifted, published = (methods.predict(network, state, z) for z in data[1:])
        return program.weights({"params": state.params, **state.collections}), (fresh, shifted, published)

    return evaluate


@functools.lru_cache(maxsize=4)
def _courses(core: int) -> Callable[..., Course]:
    """The compiled records of runs `(runs, T, ...)`, from their weights and outputs."""

    def one(found: Weights, before: Weights, fresh: Array, logits: tuple[Array, Array, Array]) -> Course:
        return jax.vmap(lambda w, f: program.measured(w, before, fresh, core, f))(found, logits)

    return jax.jit(jax.vmap(one))


def _tasks(keys: Key[Array, " runs"], sizes: Sizes) -> Task:
    return _drawn(sizes)(keys)


@functools.lru_cache(maxsize=4)
def _drawn(sizes: Sizes) -> Callable[[Key[Array, " runs"]], Task]:
    return jax.jit(jax.vmap(lambda key: program.task(key, sizes, 0.5)))


def adjusted(outputs: Float[np.ndarray, "2 n"], y: Float[np.ndarray, " n"]) -> dict[str, list[float]]:
    """Mean margins in and out of distribution, and hinge losses after the best change that can be seen in distribution.

    "offset" is added to the outputs, and "temperature" divides them; either has the least mean hinge loss on the
    outputs in distribution, `outputs[0]`. The third number of each is its value.

    >>> found = adjusted(np.array([[3.0, -1.0], [2.0, -1.0]]), np.array([1.0, -1.0]))
    >>> [round(value, 3) for value in found["temperature"]]
    [0.0, 0.0, 1.0]
    """
    inside, outside = outputs

    def hinge(f: Float[np.ndarray, " n"]) -> float:
        return float(np.maximum(1 - y * f, 0).mean())

    def least(change: Callable[[np.ndarray, float], np.ndarray], start: float, end: float) -> float:
        # Convex in both cases. Where a whole interval is best, the value nearest to no change is taken.
        def objective(v: float) -> float:
            return hinge(change(inside, v)) + 1e-9 * v**2

        found: Any = optimize.minimize_scalar(objective, bounds=(start, end), method="bounded")
        return float(found.x)

    reach = float(np.abs(inside).max()) + 1
    offset = least(lambda f, v: f + v, -reach, reach)
    factor = least(lambda f, v: f * np.exp(v), -7, 7)
    return {
        "margins": [float((y * f).mean()) for f in outputs],
        "offset": [hinge(inside + offset), hinge(outside + offset), offset],
        "temperature": [hinge(inside * np.exp(factor)), hinge(outside * np.exp(factor)), float(np.exp(-factor))],
    }
