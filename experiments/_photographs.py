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
from gsjax.progress import track


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

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(state: methods.State, finite: Array, batch: methods.Batch) -> tuple[methods.State, Array]:
        state, info = method.update(state, batch._replace(x=scaling.imagenet(batch.x)))
        return state, finite & jnp.isfinite(info.objective)

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

    blank = batch(np.zeros((1, size, size, 3)), np.zeros(1, int))
    state, finite = jax.jit(method.init)(state_key, blank), jnp.array(True)
    if weights is not None:
        state = pretrained(state, functools.partial(networks.resnet.load, weights))
    steps, measured = len(rows) // batch_size, []
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), len(rows)))
        order = order[: steps * batch_size].reshape(steps, batch_size)
        batches = read(folder, rows[order], size)
        for index in track(list(order), f"{what}, epoch {epoch + 1} of {epochs}"):
            state, finite = update(state, finite, batch(next(batches), index))
        measured.append(measure(outputs(state, "validation"), outputs(state, "test")))
    return Course(jax.tree.map(lambda *epochs: np.stack(epochs), *measured), bool(finite))


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
    """A state at its beginning whose networks, also the biased one of Learning from Failure, `load` has changed."""
    variables = load({"params": state.params, **state.collections})
    state = state._replace(params=variables.pop("params"), collections=variables)
    if isinstance(state.memory, methods.lff.Memory):
        state = state._replace(memory=state.memory._replace(biased=pretrained(state.memory.biased, load)))
    return state
