"""Training on photographs that do not fit into memory: batches are read while the step before is computed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from gsjax import _check, data, methods, networks
from gsjax.data import ImageFolder, scaling


class Outputs(NamedTuple):
    """Logits of a network on a split, and the labels and groups of its images."""

    logits: Float[Array, " n"]
    y: Float[Array, " n"]
    group: Int[Array, " n"]


Measure = Callable[[Outputs, Outputs], Any]  # of the validation and the test split; its leaves are arrays


class Course(NamedTuple):
    """What was `found` after every epoch, an axis of epochs first, and whether the objective was always `finite`."""

    found: Any
    finite: bool


def train(
    method: methods.Method,
    network: nn.Module,
    key: Key[Array, ""],
    folder: ImageFolder,
    measure: Measure,
    *,
    epochs: int,
    batch_size: int,
    size: int,
    weights: str | os.PathLike[str] | None = None,
    what: str = "training",
) -> Course:
    """Trains one network on the training split of `folder`, and measures it on the two others after every epoch.

    Epochs are fresh permutations, drawn from `key` like the network; the last photographs of an epoch, where they do
    not fill a batch, are left out. Photographs are not augmented.

    Args:
        method: built for `network`.
        network: with outputs `(n,)`; a `networks.ResNet` where there are `weights`.
        key: of all random numbers.
        folder: photographs of all four groups in every split.
        measure: what to find out of the outputs; it is compiled.
        epochs: one or more.
        batch_size: photographs of a step.
        size: height and width at which they are shown.
        weights: a .safetensors file with torchvision's names, to begin from.
        what: is trained, for the sign of progress.

    Raises:
        ValueError: `batch_size` out of range; a damaged photograph or file of weights, which is named.
    """
    rows = folder.rows("train")
    _check.require(1 <= batch_size <= len(rows), "batch_size", f"1 to {len(rows)}", batch_size)
    state_key, order_key = jax.random.split(key)
    steps = len(rows) // batch_size

    def update(state: methods.State, batch: methods.Batch) -> tuple[methods.State, methods.Info]:
        return method.update(state, batch._replace(x=scaling.imagenet(batch.x)))

    @jax.jit
    def predict(state: methods.State, pixels: Array) -> Array:
        return methods.predict(network, state, scaling.imagenet(pixels))

    measure = jax.jit(measure)

    def outputs(state: methods.State, split: str) -> Outputs:
        of = folder.rows(split)
        # Whole batches, so that one program does: what fills the last one does not count.
        filled = np.resize(of, -(-len(of) // batch_size) * batch_size)
        logits = [np.asarray(predict(state, pixels)) for pixels in read(folder, filled.reshape(-1, batch_size), size)]
        return Outputs(*map(jnp.asarray, (np.concatenate(logits)[: len(of)], folder.y[of], folder.group[of])))

    def batch(pixels: np.ndarray, index: np.ndarray) -> methods.Batch:
        of = rows[index]
        x, y, group, number = map(jnp.asarray, (pixels, folder.y[of], folder.group[of], index))
        return methods.Batch(x, y, group, index=number)

    def batches(epoch: int) -> Iterator[methods.Batch]:
        order = np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), len(rows)))
        order = order[: steps * batch_size].reshape(steps, batch_size)
        return map(batch, read(folder, rows[order], size), order)

    blank = batch(np.zeros((1, size, size, 3)), np.zeros(1, int))
    state = jax.jit(method.init)(state_key, blank)
    if weights is not None:
        state = pretrained(state, functools.partial(networks.resnet.load, weights))
    run = methods.stream(
        methods.Method(method.init, update),
        state,
        batches,
        epochs=epochs,
        steps=steps,
        evaluate=lambda state: measure(outputs(state, "validation"), outputs(state, "test")),
        what=what,
    )
    return Course(run.records, bool(run.finite))


def read(
    folder: ImageFolder, batches: Int[np.ndarray, "batches n"], size: int
) -> Iterator[UInt8[np.ndarray, "n size size 3"]]:
    """The photographs of one batch of rows after another; the next ones are read while these are used."""
    with ThreadPoolExecutor(1) as reader:
        following = [reader.submit(data.load_images, folder, rows, size=size) for rows in batches[:1]]
        for rows in [*batches[1:], None]:
            ready = following.pop().result()
            if rows is not None:
                following.append(reader.submit(data.load_images, folder, rows, size=size))
            yield ready


def pretrained(state: methods.State, load: Callable[[dict], dict]) -> methods.State:
    """A state at its beginning, in which `load` has changed every network that is trained and has the main one's shape.

    Those of another shape are no networks that the weights are for, and one that is not trained stays what it is.
    """
    shape = jax.tree.map(jnp.shape, state.params)

    def loaded(learner: methods.Learner) -> methods.Learner:
        if learner.optimizer is None or jax.tree.map(jnp.shape, learner.params) != shape:
            return learner
        variables = load({"params": learner.params, **learner.collections})
        return learner._replace(params=variables.pop("params"), collections=variables)

    return methods.map_learners(loaded, state)
