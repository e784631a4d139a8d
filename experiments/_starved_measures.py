"""What the experiment `starvation_and_depth` measures on a trained network, beside what simple classifiers say."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from experiments import _starved_theory as theory
from experiments._domino_tasks import VARIANTS
from gsjax import data, methods, probes

KERNELS = ("initial", "trained", "shuffled")
COLUMNS: dict[str, Any] = {
    "seed": int,
    "finite": bool,
    "train": float,
    "accuracy": dict.fromkeys(VARIANTS, float),
    "share": float,
    "saliency": float,
    "depth": float,
    "invalid": float,
    "votes": dict.fromkeys(("core", "spurious"), (float, None)),
    "told": dict.fromkeys(("core", "spurious"), (float, None)),
    "simple": dict.fromkeys(("dominoes", "core", "spurious"), float),
    **dict.fromkeys(KERNELS, theory.COLUMNS),
}


class Sizes(NamedTuple):
    """Neighbours of the probes, and test images of each kind on which depth, votes and saliency are measured."""

    k: int
    queries: int


def spurious_label(batch: methods.Batch) -> Float[Array, " n"]:
    """The label -1 or +1 that the spurious half suggests."""
    group: Any = batch.group
    return jnp.where(group % 2 == 1, 1.0, -1.0)


def held_out(test: Mapping[str, methods.Batch]) -> theory.Held:
    """The images on which the kernel is compared with the network."""
    random = test["random"]
    return theory.Held(random.x, test["core only"].x, random.y, spurious_label(random))


def measure(
    network: nn.Module,
    params: PyTree,
    train: methods.Batch,
    validation: methods.Batch,
    test: Mapping[str, methods.Batch],
    region: Bool[np.ndarray, "height width"],
    sizes: Sizes,
) -> dict[str, Any]:
    """What a trained network uses, and at which depth.

    Args:
        network: with one output.
        params: its parameters.
        train: the training images, which are the bank of the published prediction depth.
        validation: images with independent halves, the bank of the probes that tell either half.
        test: all variants.
        region: the spurious half.
        sizes: of the probes.
    """
    outputs = {name: np.asarray(_compiled("apply")(network, params, batch.x)) for name, batch in test.items()}
    right = {name: float((values * np.asarray(test[name].y) > 0).mean()) for name, values in outputs.items()}
    trained = np.asarray(_compiled("apply")(network, params, train.x)) * np.asarray(train.y) > 0
    held = held_out(test)
    variables = {"params": params}
    q = sizes.queries
    saliency = probes.region_share(_compiled("saliency")(network, variables, test["test"].x[:q]), region).share
    depth = functools.partial(probes.prediction_depth, network, variables, k=sizes.k)
    found = depth(train[:2], jnp.concatenate([test["test"].x[:q], held.random[:q]]))
    own = np.asarray(found.depth)[:q]
    labels = {"core": np.asarray(held.core)[:q], "spurious": np.asarray(held.spurious)[:q]}
    banks = {"core": validation.y, "spurious": spurious_label(validation)}
    told = {name: depth((validation.x, bank), held.random[:q]).votes for name, bank in banks.items()}
    return {
        "train": float(trained.mean()),
        "accuracy": right,
        "share": _number(theory.share(*map(float, _compiled("signals")(outputs["random"], held.core, held.spurious)))),
        "saliency": _number(np.nanmean(saliency)) if np.isfinite(saliency).any() else None,
        "depth": _number(np.nanmean(own)) if np.isfinite(own).any() else None,
        "invalid": float(np.isnan(own).mean()),
        "votes": {name: (np.asarray(found.votes)[:, q:] == y).mean(axis=1).tolist() for name, y in labels.items()},
        "told": {name: (np.asarray(told[name]) == y).mean(axis=1).tolist() for name, y in labels.items()},
    }


def simple(
    train: methods.Batch, test: Mapping[str, methods.Batch], region: Bool[np.ndarray, "height width"]
) -> dict[str, float]:
    """Accuracies of linear classifiers of pixels (`probes.linear_probe`), fitted to the training images.

    "dominoes" is fitted to whole images; its accuracy is core-only, with a randomised spurious half. "core" and
    "spurious" are fitted to one half with the other one black, and tell the label of that half.
    """
    pixels, random = jnp.asarray(region), test["random"]
    found = {}
    for name, x, y, held, answer in (
        ("dominoes", train.x, train.y, random.x, random.y),
        ("core", data.hide(train.x, pixels), train.y, test["core only"].x, random.y),
        (
            "spurious",
            data.hide(train.x, ~pixels),
            spurious_label(train),
            data.hide(random.x, ~pixels),
            spurious_label(random),
        ),
    ):
        votes = probes.linear_probe(x, y).votes(held.reshape(len(held), -1))
        found[name] = float((np.asarray(votes) == np.asarray(answer)).mean())
    return found


def first_told(accuracies: Float[np.ndarray, "... layers"], least: float) -> Float[np.ndarray, "..."]:
    """The first layer, from 0, at which an accuracy is at least this; the number of layers if there is none.

    >>> first_told(np.array([[0.5, 0.9, 0.7], [0.5, 0.5, 0.6]]), 0.8).tolist()
    [1.0, 3.0]
    """
    reached = np.asarray(accuracies) >= least
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1), reached.shape[-1]).astype(float)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


@functools.cache
def _compiled(name: str) -> Callable[..., Any]:
    """A compiled function; that of a network has it as its first argument."""
    if name == "signals":
        return jax.jit(theory.signals)
    functions: dict[str, Callable[..., Any]] = {
        "apply": lambda network, params, x: network.apply({"params": params}, x),
        "saliency": probes.saliency,
    }
    return jax.jit(functions[name], static_argnums=0)
