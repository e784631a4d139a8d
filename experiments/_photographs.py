"""Training on photographs that do not fit into memory: each batch is read while the previous step is computed."""

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

from experiments._bounds import expect
from gsjax import data, methods, networks
from gsjax.data import ImageFolder, scaling


class Outputs(NamedTuple):
    """Logits of a network on a split, and the labels and groups of its images."""

    logits: Float[Array, " n"]
    y: Float[Array, " n"]
    group: Int[Array, " n"]


SPLITS = ("train", "validation", "test")

Measure = Callable[[Outputs, Outputs], Any]  # arguments: validation split, test split; returns a tree of arrays


class Course(NamedTuple):
    """The measurements after every epoch, `found`, with an axis of epochs first; `finite`: the objective always was.

    `state` is the final state, or None where it is not kept.
    """

    found: Any
    finite: bool
    state: Any = None


@functools.lru_cache(maxsize=2)
def folder(name: str) -> ImageFolder:
    """The photographs "celeba" or "waterbirds", with all four groups in every split.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: its files are damaged, or one of its splits lacks a group.
    """
    found = data.celeba() if name == "celeba" else data.waterbirds()
    for split, count in counts(found).items():
        expect(count.all(), name, f"photographs of all four groups to {split}", count.tolist())
    return found


def counts(photographs: ImageFolder) -> dict[str, Int[np.ndarray, " 4"]]:
    """The numbers of photographs of the four groups in every split."""
    return {split: np.bincount(photographs.group[photographs.rows(split)], minlength=4) for split in SPLITS}


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
    """Trains one network on the training split of `folder`, and measures it on the other two after every epoch.

    Every epoch is a fresh permutation, drawn from `key` like the network. Photographs that do not fill the last batch
    of an epoch are left out. Photographs are not augmented.

    Args:
        method: built for `network`.
        network: with outputs `(n,)`; a `networks.ResNet` if there are `weights`.
        key: for all random numbers.
        folder: photographs of all four groups in every split.
        measure: computes what is recorded from the outputs; it is compiled.
        epochs: one or more.
        batch_size: photographs per step.
        size: height and width to which photographs are scaled.
        weights: a .safetensors file with torchvision's names, used as initialisation.
        what: label of the progress bar.

    Raises:
        ValueError: `batch_size` out of range; a damaged photograph or file of weights, which the message names.
    """
    rows = folder.rows("train")
    expect(1 <= batch_size <= len(rows), "batch_size", f"1 to {len(rows)}", batch_size)
    state_key, order_key = jax.random.split(key)
    steps = len(rows) // batch_size

    def update(state: methods.State, batch: methods.Batch) -> tuple[methods.State, methods.Info]:
        return method.update(state, batch._replace(x=scaling.imagenet(batch.x)))

    @jax.jit
    def predict(state: methods.State, pixels: Array) -> Array:
        return methods.predict(network, state, scaling.imagenet(pixels))

    measure = jax.jit(measure)

    def outputs(state: methods.State, split: str) -> Outputs:
        chosen = folder.rows(split)
        # Whole batches need only one compiled program; the rows that fill the last batch are discarded.
        filled = np.resize(chosen, -(-len(chosen) // batch_size) * batch_size)
        logits = [np.asarray(predict(state, pixels)) for pixels in read(folder, filled.reshape(-1, batch_size), size)]
        kept = np.concatenate(logits)[: len(chosen)]
        return Outputs(*map(jnp.asarray, (kept, folder.y[chosen], folder.group[chosen])))

    def batch(pixels: np.ndarray, index: np.ndarray) -> methods.Batch:
        chosen = rows[index]
        x, y, group, number = map(jnp.asarray, (pixels, folder.y[chosen], folder.group[chosen], index))
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
    return Course(run.records, bool(run.finite), run.state)


def read(
    folder: ImageFolder, batches: Int[np.ndarray, "batches n"], size: int
) -> Iterator[UInt8[np.ndarray, "n size size 3"]]:
    """Yields the photographs of one batch of rows after another; reads the next batch while the current one is used."""
    with ThreadPoolExecutor(1) as reader:
        following = [reader.submit(data.load_images, folder, rows, size=size) for rows in batches[:1]]
        for rows in [*batches[1:], None]:
            ready = following.pop().result()
            if rows is not None:
                following.append(reader.submit(data.load_images, folder, rows, size=size))
            yield ready


def pretrained(state: methods.State, load: Callable[[dict], dict]) -> methods.State:
    """An initial state in which `load` has replaced the variables of each trained network of the main network's shape.

    Networks of another shape do not match the weights. Networks without an optimiser are not trained and stay
    unchanged.
    """
    shape = jax.tree.map(jnp.shape, state.params)

    def loaded(learner: methods.Learner) -> methods.Learner:
        if learner.optimizer is None or jax.tree.map(jnp.shape, learner.params) != shape:
            return learner
        variables = load({"params": learner.params, **learner.collections})
        return learner._replace(params=variables.pop("params"), collections=variables)

    return methods.map_learners(loaded, state)
