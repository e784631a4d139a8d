"""The experiment `debiased_distillation` on folders of photographs: one network after another, on one device."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments import _offsets, _photographs
from experiments._debiased_measures import KINDS, digest, signals
from experiments._debiased_methods import Options, Planned, Recipe
from experiments._photographs import counts, folder
from gsjax import methods
from gsjax.data import ImageFolder, scaling
from gsjax.methods import dedier


def shares(name: str) -> Float[np.ndarray, " 4"]:
    """The weights of the groups in averages: as in the test photographs of CelebA, or in training (Waterbirds)."""
    weights = counts(folder(name))["test" if name == "celeba" else "train"]
    return weights / weights.sum()


def taught_by(method: methods.Method, network: nn.Module, teacher: methods.Learner) -> methods.Method:
    """The method on batches to which the outputs of a teacher are added; the learner "teacher" is never trained."""

    def full(batch: methods.Batch, learner: methods.Learner) -> methods.Batch:
        return batch._replace(teacher_logits=methods.predict(network, learner, batch.x))

    def init(key: Key[Array, ""], batch: methods.Batch) -> methods.State:
        return method.init(key, full(batch, teacher)).with_learners(teacher=teacher)

    def update(state: methods.State, batch: methods.Batch) -> tuple[methods.State, methods.Info]:
        return method.update(state, full(batch, state.others["teacher"]))

    return methods.Method(init, update)


def trained(
    planned: Planned,
    network: nn.Module,
    key: Key[Array, ""],
    name: str,
    how: Recipe,
    *,
    batch_size: int,
    size: int,
    weights: Any,
    teacher: methods.Learner | None,
    what: str,
) -> tuple[dict[str, Any], methods.Learner]:
    """Trains and measures one network: its row, and the network.

    Args:
        planned: the method and its updates, whole epochs.
        network: with one output.
        key: of all random numbers.
        name: of the folder.
        how: the recipe.
        batch_size: photographs per step.
        size: height and width to which photographs are scaled.
        weights: a file of initial weights, or None.
        teacher: that of a student, or None.
        what: label of the progress bar.
    """
    photographs = folder(name)
    method = planned.method if teacher is None else taught_by(planned.method, network, teacher)
    course = _photographs.train(
        method,
        network,
        key,
        photographs,
        functools.partial(_offsets.measure, shares=shares(name), sizes=how.sizes),
        epochs=planned.updates // how.epoch,
        batch_size=batch_size,
        size=size,
        weights=weights,
        what=what,
    )
    state = course.state
    last = jax.tree.map(lambda leaf: np.asarray(leaf[-1]).tolist(), {kind: course.found[kind] for kind in KINDS})
    row = {"finite": course.finite, "digest": digest(state.params), "shares": shares(name).tolist(), **last}
    if planned.readout:
        row["last"] = read(network, state, photographs, planned.readout, batch_size=batch_size, size=size)
    return row, methods.Learner(state.params, state.collections)


def read(
    network: nn.Module, state: methods.State, photographs: ImageFolder, readout: Options, *, batch_size: int, size: int
) -> dict[str, list[float]]:
    """The signals of the last refresh on all training photographs."""
    where = dict(readout)
    beta, alpha = where.pop("beta"), where.pop("alpha")

    @jax.jit
    def logits(state: methods.State, pixels: Array) -> Array:
        return dedier.snapshot_logits(network, state, scaling.imagenet(pixels), **where)

    rows = photographs.rows("train")
    filled = np.resize(rows, -(-len(rows) // batch_size) * batch_size).reshape(-1, batch_size)
    found = [np.asarray(logits(state, pixels)) for pixels in _photographs.read(photographs, filled, size)]
    drawn = jnp.asarray(np.concatenate(found)[: len(rows)])
    batch = methods.Batch(drawn, *map(jnp.asarray, (photographs.y[rows], photographs.group[rows])))
    return jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), signals(drawn, batch, beta, alpha))
