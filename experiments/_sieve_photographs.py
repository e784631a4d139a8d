"""The sieve on folders of photographs, CelebA and Waterbirds, for the experiment `feature_sieve`."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments import _photographs
from experiments._photographs import Outputs, counts, folder
from experiments._sieve_measures import Probed, course, looks, probed
from experiments._sieve_setups import Recipe, Setup, build
from experiments._sieve_tasks import VARIANTS
from gsjax import data, methods
from gsjax.data import ImageFolder, scaling

_STRIDE = 4  # of the pixels of pictures in a row


def measure(validation: Outputs, test: Outputs, shares: Float[np.ndarray, " 4"]) -> dict[str, Array]:
    """The `course` of a state; images as in training weight the groups by their `shares` in training."""
    found = course(validation, test, jnp.zeros(()), jnp.zeros(()))
    weights = jnp.asarray(shares)
    return found | {"average": weights @ found["validation"], "iid": weights @ found["test"]}


def balanced(found: ImageFolder, split: str, n: int, size: int) -> methods.Batch:
    """The first n / 4 photographs of every group in a split, so that group and label are independent."""
    rows = found.rows(split)
    each = min(n // 4, int(counts(found)[split].min()))
    chosen = np.concatenate([rows[found.group[rows] == group][:each] for group in range(4)])
    x = scaling.imagenet(jnp.asarray(data.load_images(found, chosen, size=size)))
    return methods.Batch(x, jnp.asarray(found.y[chosen]), jnp.asarray(found.group[chosen]))


def train(
    name: str,
    setup: Setup,
    recipe: Recipe,
    key: Key[Array, ""],
    *,
    epochs: int,
    batch_size: int,
    queries: int,
    look: str,
    positions: tuple[str, ...],
    full: bool,
    shown: int,
    weights: str | os.PathLike[str] | None,
    probe_steps: int,
) -> dict[str, Any]:
    """Trains one network and measures it; a row without the fields that identify it.

    Args:
        name: "celeba" or "waterbirds".
        setup: what is trained.
        recipe: how it is trained.
        key: for all random numbers.
        epochs: passes over the photographs.
        batch_size: photographs per step.
        queries: photographs on which probes are fitted, and as many to judge them.
        look: the stage of Grad-CAM.
        positions: the stages of the probes.
        full: whether early readouts and pictures are made.
        shown: the number of pictures.
        weights: a .safetensors file of initial weights, or None.
        probe_steps: steps of the early readouts.
    """
    photographs = folder(name)
    size = recipe.shape[0]
    train_counts = counts(photographs)["train"]
    run = _photographs.train(
        build(setup, recipe),
        recipe.network,
        key,
        photographs,
        functools.partial(measure, shares=train_counts / train_counts.sum()),
        epochs=epochs,
        batch_size=batch_size,
        size=size,
        weights=weights,
        what=f"{name}, {setup}",
    )
    learner = methods.Learner(run.state.params, run.state.collections)
    images = Probed(*(balanced(photographs, split, queries, size) for split in ("validation", "test")))
    seen = looks(recipe.network, learner, images.queries.x[:: max(1, len(images.queries.y) // 6)], None, look, shown)
    steps = len(photographs.rows("train")) // batch_size
    return {
        "finite": run.finite,
        "course": {
            "steps": (steps * np.arange(1, epochs + 1)).tolist(),
            **{name: np.asarray(each).tolist() for name, each in run.found.items()},
        },
        "accuracy": dict.fromkeys(VARIANTS),
        "own": None,
        "probes": probed(
            recipe.network, learner, images, positions, recipe.readout if full else None, steps=probe_steps
        ),
        "looks": seen["looks"],
        "pictures": {
            part: [np.asarray(each)[::_STRIDE, ::_STRIDE].tolist() for each in made]
            for part, made in seen["pictures"].items()
        },
    }
