"""The trained network against the prediction, and how far its kernel has moved."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gsjax import progress, tangent
from gsjax.diagnosis.solution import Solution
from gsjax.diagnosis.task import BATCH, Task, penalised
from gsjax.objectives import Ridge
from gsjax.tangent.calls import trainable

__all__ = ["Movement", "Trained", "accuracy", "compare", "gradient_norm", "movement"]


class Movement(NamedTuple):
    """The change of the kernel on some examples, from K at `params` to K' at the trained parameters.

    `relative` is `|K' - K| / |K|` in Frobenius' norm, `cosine` is `<K, K'> / (|K| |K'|)`, and `turned` is what remains
    of the change after the best rescaling of K, `min over c of |K' - c K| / |K'| = sqrt(1 - cosine^2)`. `examples` is
    the number of examples.
    """

    relative: float
    cosine: float
    turned: float
    examples: int


class Trained(NamedTuple):
    """A trained network against the prediction.

    - `error`: `|f - f*| / |f*|` of centred outputs on x: those of the trained network, f, and of the prediction, f*.
    - `response (r,)`: the responses of the trained network to the features at `params`.
    - `accuracy_start`, `accuracy_predicted`, `accuracy`: the accuracies on x of the outputs at `params`, of those plus
      the predicted change, and of the trained network.
    - `gradient`: the norm of the gradient of the objective at the trained parameters, relative to that at `params`.
    - `kernel`: see `Movement`.
    """

    error: float
    response: Float[np.ndarray, " r"]
    accuracy_start: float
    accuracy_predicted: float
    accuracy: float
    gradient: float
    kernel: Movement


def compare(task: Task, solution: Solution, trained: PyTree, outputs: np.ndarray, kernel: Movement) -> Trained:
    """The comparison of a trained network, given its `outputs` on x and the movement of its kernel."""
    y = np.asarray(task.y)
    shape = (task.n, -1)
    predicted = solution.margins if task.classes else y[:, None] * solution.margins
    change = (outputs - task.start).reshape(shape)
    margins = change if task.classes else y[:, None] * change
    start = gradient_norm(task, task.params, task.start)
    size = np.linalg.norm(predicted)
    return Trained(
        error=float(np.linalg.norm(change - predicted) / size) if size > 0 else float("inf"),
        response=np.einsum("ncr,nc->r", solution.u, margins),
        accuracy_start=accuracy(task.start, y),
        accuracy_predicted=accuracy(task.start + predicted.reshape(task.start.shape), y),
        accuracy=accuracy(outputs, y),
        gradient=float(gradient_norm(task, trained, outputs) / start) if start > 0 else float("inf"),
        kernel=kernel,
    )


def accuracy(outputs: Float[np.ndarray, "n ..."], y: np.ndarray) -> float:
    """The share of examples whose largest logit is that of their class, or whose output has the sign of y."""
    if outputs.ndim == 1:
        return float(np.mean(y * outputs > 0))
    return float(np.mean(np.argmax(outputs, axis=1) == y))


def movement(task: Task, trained: PyTree, kernel: Array, rows: np.ndarray, batch_size: int | None) -> Movement:
    """The movement of the kernel from `kernel`, that of the `rows` of x at `params`."""
    after = tangent.ntk(task.apply_fn, trained, task.x[rows], batch_size=batch_size)
    first, second = (np.asarray(matrix, np.float64).ravel() for matrix in (kernel, after))
    sizes = np.linalg.norm(first), np.linalg.norm(second)
    cosine = float(np.clip(first @ second / (sizes[0] * sizes[1]), -1, 1)) if min(sizes) > 0 else 0.0
    # The sine from the difference of the directions, which is accurate for small angles.
    apart = np.linalg.norm(first / sizes[0] - second / sizes[1]) if min(sizes) > 0 else np.sqrt(2)
    turned = apart * np.sqrt(max(0.0, 1 - (apart / 2) ** 2))
    return Movement(float(np.linalg.norm(second - first) / sizes[0]), cosine, float(turned), len(rows))


def gradient_norm(task: Task, params: PyTree, outputs: np.ndarray) -> float:
    """The norm of the gradient of the objective at `params`, whose `outputs` on x are given.

    The objective is the sum of the losses on centred outputs, plus the penalty on centred outputs or parameters.
    """
    force = jax.grad(lambda logits: penalised(task, logits))(jnp.asarray(outputs - task.start))
    tree, rebuild = trainable(params)

    @jax.jit
    def pulled(tree: PyTree, x: Array, force: Array) -> PyTree:
        with jax.default_matmul_precision("highest"):
            logits, pullback = jax.vjp(lambda tree: task.apply_fn(rebuild(tree), x), tree)
            return pullback(force.astype(logits.dtype))[0]

    total = jax.tree.map(jnp.zeros_like, tree)
    for low in progress.track(range(0, task.n, BATCH), "gradient of the objective"):
        part = pulled(tree, task.x[low : low + BATCH], force[low : low + BATCH])
        total = jax.tree.map(jnp.add, total, part)
    if isinstance(task.penalty, Ridge):
        origin, strength = trainable(task.params)[0], task.penalty.strength
        total = jax.tree.map(lambda slope, leaf, start: slope + strength * (leaf - start), total, tree, origin)
    return float(np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(total))))
