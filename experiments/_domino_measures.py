"""What the experiment `dominoes` measures on a network: accuracies, depth, information in bits, and saliency."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import optimize, stats

from experiments import _offsets
from experiments._photographs import Outputs
from gsjax import methods, networks, probes
from gsjax.probes import information, monitoring
from gsjax.probes.margins import correct
from theory import usable_information as proposition

SHOWN = 4  # images with saliency maps, of the first network


class Sizes(NamedTuple):
    """Neighbours of the probes, training images in their bank, and test images whose depth is measured."""

    k: int
    bank: int
    queries: int


class Watched(NamedTuple):
    """What is evaluated during training: the bank, test images as in training, and with a random spurious half."""

    bank: methods.Batch
    test: methods.Batch
    random: methods.Batch


@functools.lru_cache(maxsize=4)
def evaluation(network: nn.Module, sizes: Sizes) -> Callable[[methods.State, Watched], dict[str, Any]]:
    """The function of a state for `methods.train`: the monitor's `Course` and both accuracies."""
    watch = probes.monitor(network, k=sizes.k)

    def evaluate(state: methods.State, data: Watched) -> dict[str, Any]:
        x, y = (leaf[: sizes.queries] for leaf in data.test[:2])
        return {
            "course": watch(state, (x, y, data.bank[:2])),
            "test": correct(methods.predict(network, state, data.test.x), data.test.y).mean(),
            "random": correct(methods.predict(network, state, data.random.x), data.random.y).mean(),
        }

    return evaluate


def course(records: Mapping[str, Any], steps: np.ndarray, number: int) -> dict[str, Any]:
    """The records of a network as a row: counts of depths, invalid examples, mean information, and accuracies."""
    own: monitoring.Course = jax.tree.map(lambda leaf: leaf[number], records["course"])
    histogram = monitoring.histogram(own)
    return {
        "steps": steps.tolist(),
        "counts": histogram.counts.tolist(),
        "invalid": histogram.invalid.tolist(),
        "information": np.asarray(own.information).mean(axis=1).tolist(),
        **{name: records[name][number].tolist() for name in ("test", "random")},
    }


def measure(
    network: nn.Module,
    learner: methods.Learner,
    bank: methods.Batch,
    validation: Mapping[str, methods.Batch],
    test: Mapping[str, methods.Batch],
    spurious: Bool[np.ndarray, "height width"],
    linear: Float[np.ndarray, " m"],
    *,
    sizes: Sizes,
    number: int,
) -> dict[str, Any]:
    """All measurements of a trained network, as a row of `rows.jsonl`.

    Args:
        network: with one output.
        learner: its parameters.
        bank: training images, the neighbours.
        validation: the variants "test" and "random"; temperature and offset are selected on them.
        test: all variants; depth, information and saliency are measured on the first images of "test".
        spurious: the region of the spurious half.
        linear: pointwise information of these images in the linear family.
        sizes: of the probes.
        number: of the network.
    """

    def outputs(batch: methods.Batch) -> Float[np.ndarray, " n"]:
        return np.asarray(_compiled("predict")(network, learner, batch.x))

    logits = {name: outputs(batch) for name, batch in test.items()}
    labels = {name: np.asarray(batch.y) for name, batch in test.items()}
    x, y = test["test"].x[: sizes.queries], labels["test"][: sizes.queries]
    variables = {"params": learner.params, **learner.collections}
    found = probes.prediction_depth(network, variables, bank[:2], x, k=sizes.k)
    depth, votes = np.asarray(found.depth), np.asarray(found.votes)
    heat = temperature(outputs(validation["test"]), np.asarray(validation["test"].y))
    raw = logits["test"][: sizes.queries]
    own = 1 - np.asarray(information.surprisal(jnp.asarray(raw / heat), jnp.asarray(y)))
    lost = [proposition.lost(float(wrong), 2) for wrong in (votes[1:] != y).mean(axis=1)]
    stages = np.maximum.accumulate([0.0, *(1 - np.array(lost))])[1:]  # a family of more stages has at least as much
    saliency = np.asarray(_compiled("saliency")(network, variables, x))
    share = probes.region_share(saliency, spurious)
    held_out, final = (grouped(part["random"], outputs(part["random"])) for part in (validation, test))
    offset = float(_offsets.best_offset(held_out, lambda accuracies: accuracies.min(axis=0)))
    shown = slice(SHOWN if number == 0 else 0)
    position = found.positions[1:][(len(found.positions) - 1) // 3]
    pictures = {"input": np.asarray(x[shown]).mean(axis=3), "saliency": saliency[shown]}
    maps = np.asarray(_compiled("gradcam")(network, variables, x[:SHOWN], position))
    return {
        "accuracy": {name: float((values * labels[name] > 0).mean()) for name, values in logits.items()},
        "groups": _groups(final, 0.0),
        "offset": offset,
        "groups_offset": _groups(final, offset),
        "depth": [int((depth == layer).sum()) for layer in range(1, len(votes))],
        "invalid": int(np.isnan(depth).sum()),
        "votes": (votes == y).mean(axis=1).tolist(),
        "information": {
            "linear": float(linear.mean()),
            "first": float(stages[0]),
            "stages": float(stages[:-1].mean()),
            "network": float(own.mean()),
            "uncalibrated": float(1 - np.asarray(information.surprisal(jnp.asarray(raw), jnp.asarray(y))).mean()),
        },
        "temperature": heat,
        "ranks": ranks(depth, own, linear, number),
        "saliency": float(np.nanmean(share.share)) if np.isfinite(share.share).any() else None,
        "area": float(share.area[0]),
        "pictures": {name: np.round(values, 4).tolist() for name, values in {**pictures, "cam": maps[shown]}.items()},
    }


COLUMNS: dict[str, Any] = {
    "seed": int,
    "finite": bool,
    "null_gap": float,
    "accuracy": dict.fromkeys(("test", "core only", "spurious only", "random", "core random", "reversed"), float),
    "groups": (float, 4),
    "offset": float,
    "groups_offset": (float, 4),
    "depth": (int, None),
    "invalid": int,
    "votes": (float, None),
    "information": dict.fromkeys(("linear", "first", "stages", "network", "uncalibrated"), float),
    "temperature": float,
    "ranks": dict.fromkeys(("network", "linear", "permuted"), float),
    "saliency": float,
    "area": float,
    "pictures": dict.fromkeys(("input", "saliency", "cam"), (float, None, None, None)),
    "course": {
        "steps": (int, None),
        "counts": (int, None, None),
        "invalid": (int, None),
        **dict.fromkeys(("information", "test", "random"), (float, None)),
    },
}


def linear_information(key: Array, train: methods.Batch, test: methods.Batch, queries: int, steps: int) -> Any:
    """`probes.pointwise_information` of the linear family on pixels; every network has its own images."""
    seeds = len(train.y)
    x, held_out = (batch.x.reshape(*batch.y.shape, -1) for batch in (train, test))
    return probes.pointwise_information(
        key,
        x,
        train.y,
        network=networks.FullyConnected(()),
        held_out=(held_out[:, :queries], test.y[:, :queries]),
        seeds=seeds,
        steps=steps,
        per_seed=True,
    )


def temperature(logits: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """The temperature by which logits have to be divided for the least log-loss, from e^-7 to e^7.

    >>> round(temperature(np.array([8.0, 8.0, 8.0, -8.0]), np.array([1.0, 1.0, -1.0, -1.0])), 1)
    7.3
    """

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -y * logits * np.exp(-log_temperature)).mean())

    found: Any = optimize.minimize_scalar(loss, bounds=(-7, 7), method="bounded")
    return float(np.exp(found.x))


def ranks(
    depth: Float[np.ndarray, " n"], own: Float[np.ndarray, " n"], linear: Float[np.ndarray, " n"], number: int
) -> dict[str, float]:
    """Spearman's correlations of depth, over valid examples, with pointwise information; NaN if one is constant.

    "permuted" is that of the network's information in random order, a control.
    """
    valid = np.flatnonzero(~np.isnan(depth))
    shuffled = own[np.random.default_rng(number).permutation(valid)]

    each = {"network": own[valid], "linear": linear[valid], "permuted": shuffled}
    return {name: spearman(depth[valid], values) for name, values in each.items()}


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation; NaN if one of both is constant, or there are fewer than three pairs."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def grouped(batch: methods.Batch, logits: Any) -> Outputs:
    """Logits with the labels and the groups of their images."""
    group: Any = batch.group
    return Outputs(jnp.asarray(logits), jnp.asarray(batch.y), jnp.asarray(group))


def _groups(outputs: Outputs, offset: float) -> list[float]:
    return np.asarray(_offsets.by_group((outputs.logits + offset) * outputs.y > 0, outputs.group)).tolist()


@functools.cache
def _compiled(name: str) -> Callable[..., Array]:
    """A compiled function (network, variables, x, ...) -> array."""
    functions: dict[str, Callable[..., Any]] = {
        "predict": methods.predict,
        "saliency": probes.saliency,
        "gradcam": lambda network, variables, x, position: probes.gradcam(network, variables, x, position=position),
    }
    return jax.jit(functions[name], static_argnums=(0, 3) if name == "gradcam" else 0)
