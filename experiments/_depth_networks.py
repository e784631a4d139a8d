"""What the experiment `prediction_depth` trains and measures: networks by seed, and information of a small family."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments._depth_tasks import CLASSES, Task, drawn, title
from experiments._study import keys
from gsjax import methods, networks, probes
from gsjax.networks import stages
from gsjax.probes.depths import INPUT, PredictionDepth
from gsjax.probes.information import surprisal

if TYPE_CHECKING:
    from experiments.prediction_depth import Config

LABELS = {"vgg": "VGG", "resnet": "ResNet"}


def inform(config: Config, seed: int, key: Mapping[str, str]) -> list[dict[str, Any]]:
    """Information of the small family, per test image; one row per seed."""
    tasks = [drawn(key["data"], key["variant"], each, config) for each in keys(seed, range(config.seeds))]
    x, y, queries, labels = map(np.stack, zip(*tasks, strict=True))
    network, method = family(config)
    found = probes.pointwise_information(
        jax.random.key(seed),
        x,
        y,
        network=network,
        method=method,
        held_out=(queries, labels),
        seeds=config.seeds,
        steps=config.steps,
        null="balance",
        per_seed=True,
    )
    return [
        {**key, "seed": number, "finite": bool(found.finite[number]), "bits": found.value[number].tolist()}
        for number in range(config.seeds)
    ]


@functools.cache
def family(config: Config) -> tuple[nn.Module, methods.Method]:
    """The family that knows nothing of the networks: one hidden layer, trained by Adam."""
    network = networks.FullyConnected((config.hidden,), outputs=CLASSES)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, config.steps))
    return network, methods.get("erm")(network, optimizer, weight_decay=config.decay)


class Built(NamedTuple):
    """A network with its programs; the same objects for all cells, so that each program is compiled once.

    `positions` are the layers with probes: the input, and the convolutions of a VGG or the stages of a residual
    network up to the last block. `init(key, batch)` is the initial state. `look(variables, x)` is the outputs, and the
    stages by name.
    """

    network: nn.Module
    method: methods.Method
    positions: tuple[str, ...]
    init: Callable[..., methods.State]
    look: Callable[..., tuple[Array, dict[str, Array]]]


@functools.cache
def built(name: str, config: Config) -> Built:
    """A network by its name in `LABELS`."""
    channels = [config.width * min(2**number, 8) for number in range(len(config.vgg))]
    network: nn.Module = (
        networks.VGG([(count,) * layers for count, layers in zip(channels, config.vgg, strict=True)], CLASSES)
        if name == "vgg"
        else networks.ResNet(config.resnet, CLASSES, block="basic", stem="small", width=config.width)
    )
    steps = config.epochs[-1] * (config.n // config.batch_size)
    optimizer = optax.sgd(optax.cosine_decay_schedule(config.learning_rate, steps), momentum=0.9)
    method = methods.get("erm")(network, optimizer, weight_decay=config.weight_decay)
    every = stages.names(network, jax.ShapeDtypeStruct((1, config.size, config.size, 3), jnp.float32))
    probed = [stage for stage in every if not stage.startswith("pool")]

    def look(variables: Mapping[str, Any], x: Array) -> tuple[Array, dict[str, Array]]:
        outputs, found = stages.apply(network, variables, x, probed)
        return outputs, found

    return Built(network, method, (INPUT, *probed), jax.jit(method.init), jax.jit(look))


def train_networks(config: Config, seed: int, key: Mapping[str, str]) -> list[dict[str, Any]]:
    """Trains the networks of all seeds, one after another; one row per seed.

    Each step is a call of one program, since XLA compiles convolutions in a loop to slower code on CPUs.
    """
    net, rows = built(key["network"], config), []
    for number, images_key in enumerate(keys(seed, range(config.seeds))):
        task = drawn(key["data"], key["variant"], images_key, config)
        init_key, order_key = jax.random.split(jax.random.fold_in(images_key, 1))
        generator = np.random.default_rng(np.asarray(jax.random.key_data(order_key)))
        state, finite, measured = net.init(init_key, methods.Batch(jnp.asarray(task.x), jnp.asarray(task.y))), True, []
        for first, last in itertools.pairwise((0, *config.epochs)):
            run = methods.stream(
                net.method,
                state,
                functools.partial(batches, task, config.batch_size, generator),
                epochs=last - first,
                steps=len(task.y) // config.batch_size,
                what=f"{LABELS[key['network']]}, {title(key['data'], key['variant'])}, {number + 1} of {config.seeds}",
            )
            state, finite = run.state, finite and bool(run.finite)
            measured.append(measure(net, variables(state), task, config))
        found = {name: [each[name] for each in measured] for name in measured[0]}
        outputs = net.look(variables(state), task.queries)[0]
        shares = np.bincount(task.y, minlength=CLASSES) / len(task.y)
        bits = -np.log2(shares)[task.labels] - np.asarray(surprisal(outputs, jnp.asarray(task.labels)))
        found |= {"bits": bits.tolist()}
        if key["variant"] == "clean":
            found |= measure_probes(net, variables(state), task, config)
        rows.append({**key, "seed": number, "finite": finite, **found})
    return rows


def batches(task: Task, size: int, generator: np.random.Generator, epoch: int) -> Iterator[methods.Batch]:
    """The batches of an epoch, in a new random order."""
    del epoch
    order = generator.permutation(len(task.y))
    for first in range(0, len(order) - size + 1, size):
        rows = order[first : first + size]
        yield methods.Batch(jnp.asarray(task.x[rows]), jnp.asarray(task.y[rows]))


def variables(state: methods.State) -> dict[str, Any]:
    """The variables of the network of a state."""
    return {"params": state.params, **state.collections}


def measure(net: Built, variables: Mapping[str, Any], task: Task, config: Config) -> dict[str, Any]:
    """Depths of the test images, the accuracy of the votes of each layer, and that of the network on bank and test."""
    found = depths_of(net, variables, task, config, config.k)
    bank = task.x[: config.bank], task.y[: config.bank]
    return {
        "train": float((np.asarray(net.look(variables, bank[0])[0]).argmax(axis=1) == bank[1]).mean()),
        "test": float((np.asarray(found.predictions) == task.labels).mean()),
        "depth": np.asarray(found.depth).tolist(),
        "votes": (np.asarray(found.votes) == task.labels).mean(axis=1).tolist(),
    }


def depths_of(net: Built, variables: Mapping[str, Any], task: Task, config: Config, k: int) -> PredictionDepth:
    """The depths of the test images, from votes of k neighbours in the bank; with k = 0, of linear probes."""
    bank = jnp.asarray(task.x[: config.bank]), jnp.asarray(task.y[: config.bank])
    how: dict[str, Any] = {"probe": "knn", "k": k} if k else {"probe": "linear"}
    return probes.prediction_depth(
        net.network, variables, bank, jnp.asarray(task.queries), positions=net.positions, **how
    )


def measure_probes(net: Built, variables: Mapping[str, Any], task: Task, config: Config) -> dict[str, Any]:
    """Depths by other probes of the trained network: other k and linear ones, with the accuracy of the linear votes."""
    linear = depths_of(net, variables, task, config, 0)
    return {
        "other": [np.asarray(depths_of(net, variables, task, config, k).depth).tolist() for k in config.other_k],
        "linear": np.asarray(linear.depth).tolist(),
        "linear votes": (np.asarray(linear.votes) == task.labels).mean(axis=1).tolist(),
        "linear converged": bool(np.asarray(linear.converged).all()),
    }
