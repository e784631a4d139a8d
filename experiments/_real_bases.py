"""Bases U of networks at initialisation on pairs of classes of real images."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from gsjax import data, features, networks, tangent
from gsjax.data import Dataset, Images

if TYPE_CHECKING:
    from experiments.ensembles import Config

Task = str  # a data set and the labels of two classes, as in "fashion_mnist_2_4"
Network = Literal["mlp", "cnn"]

# Tasks named in the text and figures. Statistics over tasks also include a ring of classes, each with the next one.
TASKS = ("digits_3_8", "digits_0_1", "mnist_3_8", "mnist_0_1", "fashion_mnist_2_4", "fashion_mnist_1_9", "cifar10_3_5")
RING = tuple(
    f"{name}_{label}_{(label + 1) % 10}"
    for name, labels in (("mnist", range(1, 10)), ("fashion_mnist", range(10)))  # mnist_0_1 is in TASKS
    for label in labels
)
OFFICIAL = 10_000  # images in each of the test splits
# Names of data sets in the titles of tasks, where they are not those of the catalogue.
SHORT: dict[str, str] = {"fashion_mnist": "Fashion", "cifar10": "CIFAR-2", "digits": "digits"}


def network(name: Network) -> nn.Module:
    """The network with this name."""
    return networks.MLP((256, 256)) if name == "mlp" else networks.CNN((16, 16), strides=(2, 2))


@functools.cache
def images(source: str) -> Images:
    """The test split of a data set: it is large enough, and often present where the training split is not."""
    return data.get(source).read("test")


def source(task: Task) -> tuple[str, tuple[int, int]]:
    """The data set of a task, and its two classes.

    >>> source("fashion_mnist_2_4")
    ('fashion_mnist', (2, 4))
    """
    name, first, second = task.rsplit("_", 2)
    return name, (int(first), int(second))


def available(task: Task) -> bool:
    """Whether the files of a task are present."""
    name, _ = source(task)
    return name == "digits" or data.available(name, "test")


def load(key: Key[Array, ""], task: Task, n: int) -> Dataset:
    """`n` examples of a task, in random order."""
    name, classes = source(task)
    return (
        data.digits(classes, n=n, key=key)
        if name == "digits"
        else data.two_classes(images(name), classes, n=n, key=key)
    )


def bases(
    key: Key[Array, ""], task: Task, name: Network, config: Config
) -> list[tuple[int, Float[Array, "draws n r"], Float[Array, "draws r"]]]:
    """(n, bases, strengths) for every n, of networks at initialisation, each on its own examples.

    Strengths have mean one. Features beyond the lowest numerical rank of all draws are left out.
    """
    module = network(name)

    @jax.jit
    def kernel(key: Key[Array, ""], x: Array) -> Array:
        return tangent.ntk(module.apply, module.init(key, x[:1]), x)

    found = []
    for data_key, weights_key in jax.random.split(key, (config.draws, 2)):
        x, y = load(data_key, task, max(config.examples))
        gram = kernel(weights_key, x)
        found.append([features.from_ntk(gram[:n, :n], y[:n]) for n in config.examples])
    stacks = []
    for n, feats in zip(config.examples, zip(*found, strict=True), strict=True):
        r = min(len(feat.s) for feat in feats)
        u, s2 = jnp.stack([feat.u[:, :r] for feat in feats]), jnp.stack([feat.s2[:r] for feat in feats])
        stacks.append((n, u, s2 / jnp.mean(s2, axis=1, keepdims=True)))
    return stacks


def overlaps(u: Float[Array, "draws n r"]) -> dict[str, np.ndarray]:
    """`|1.u_j| / sqrt(n)` of the first feature, which is the strongest, and the largest of all; one number per draw."""
    every = np.abs(np.asarray(u).sum(axis=1)) / u.shape[1] ** 0.5
    return {"overlap_strongest": every[:, 0], "overlap_aligned": every.max(axis=1)}


def about(config: Config) -> list[dict[str, Any]]:
    """The description of the data in the summary; the entry of an absent set says so."""
    found = []
    for task in config.tasks:
        name, classes = source(task)
        kind = "scikit-learn's 8 x 8 digits" if name == "digits" else f"{name}, test split"
        if name != "digits" and available(task) and len(images(name).labels) < OFFICIAL:
            kind += f" ({len(images(name).labels):,} of its {OFFICIAL:,} images: a subset)"
        sizes = f"{max(config.examples)} a draw" if available(task) else "its files are not there: left out"
        found.append({"name": f"{kind}, classes {classes[0]} and {classes[1]}", "train": sizes, "stand-in": False})
    return found


def title(task: Task) -> str:
    """The title of a task.

    >>> title("fashion_mnist_2_4")
    'Fashion 2/4'
    """
    name, classes = source(task)
    return f"{SHORT.get(name, data.get(name).title)} {classes[0]}/{classes[1]}"


def reported(task: Task, name: Network, config: Config) -> dict[str, Any]:
    """The real ensemble that the summary is about: all examples, and the lambda closest to `strength`."""
    strength = min(config.real_strengths, key=lambda strength: abs(np.log(strength / config.strength)))
    return {"task": task, "network": name, "n": max(config.examples), "strength": strength}
