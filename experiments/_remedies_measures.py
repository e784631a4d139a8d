"""What the experiment `remedies` measures on trained networks, and how a configuration is selected."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy import optimize

from experiments import _offsets, _starved_theory
from experiments._photographs import Outputs
from gsjax import methods, probes, tangent
from gsjax.objectives import Ridge, SpectralDecoupling

RULES = {"groups": "worst", "average": "average"}  # what the selection by each rule maximises on validation images
KERNELS = ("ridge", "sd", "class_balanced", "group_balanced")
KERNEL: dict[str, Any] = {kernel: dict.fromkeys(("starvation", "accuracy"), float) for kernel in KERNELS}


class Sizes(NamedTuple):
    """Neighbours of the probes, training images in their bank, test images whose depth is measured, kernel images."""

    k: int
    bank: int
    queries: int
    kernel: int


def outputs(network: nn.Module, learner: methods.Learner, batch: methods.Batch) -> Outputs:
    """The logits of a network, with the labels and groups of the images."""
    group: Any = batch.group
    return Outputs(_predict()(network, learner, batch.x), jnp.asarray(batch.y), jnp.asarray(group))


@functools.cache
def _predict() -> Callable[..., Any]:
    return jax.jit(methods.predict, static_argnums=0)


def by_group(found: Outputs, offset: float = 0.0) -> Float[np.ndarray, " 4"]:
    """The accuracies of the groups, with an offset on the logits."""
    return np.asarray(_offsets.by_group((found.logits + offset) * found.y > 0, found.group))


def scores(groups: Float[np.ndarray, "... 4"], shares: Float[np.ndarray, "... 4"]) -> dict[str, Any]:
    """The worst-group accuracy, and the average accuracy with the groups weighted by their shares in training.

    >>> found = scores(np.array([1.0, 0.5, 0.5, 1.0]), np.array([0.4, 0.1, 0.1, 0.4]))
    >>> float(found["worst"]), round(float(found["average"]), 3)
    (0.5, 0.9)
    """
    return {"worst": groups.min(axis=-1), "average": (groups * shares).sum(axis=-1)}


def best_offset(found: Outputs, rule: str, shares: Float[np.ndarray, " 4"]) -> float:
    """The offset on the logits that a rule selects on validation images."""
    if rule == "groups":
        return float(_offsets.best_offset(found, lambda accuracies: accuracies.min(axis=0)))
    return float(_offsets.best_offset(found, lambda accuracies: jnp.tensordot(jnp.asarray(shares), accuracies, 1)))


def chosen(validation: Float[np.ndarray, "candidates seeds"]) -> int:
    """The candidate with the best mean over the seeds; of ties the first.

    >>> chosen(np.array([[0.5, 0.5], [0.4, 0.8], [0.6, 0.6]]))
    1
    """
    means = np.asarray(validation).mean(axis=1)
    return int(np.flatnonzero(means >= means.max() - 1e-9)[0])


def weights(found: Outputs, shares: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " n"]:
    """Weights of sum one with which images, of which each group has any number, have the shares of training."""
    group = np.asarray(found.group)
    counts = np.bincount(group, minlength=4)
    each = np.where(counts > 0, shares, 0)
    return (each / each.sum() / np.maximum(counts, 1))[group]


def information(
    validation: Outputs, test: Outputs, shares: Float[np.ndarray, " 4"], offset: float = 0.0
) -> dict[str, float]:
    """The information of the network about the label in bits per image as in training, and the temperature.

    It is the entropy of the classes minus the mean surprisal, "raw" with the logits as they are, and "calibrated" with
    logits divided by the temperature with the least log-loss on validation images. Images are weighted by `weights`.
    """
    entropy = sum(-p * np.log2(p) for p in (shares[:2].sum(), shares[2:].sum()) if p > 0)
    (margins, mass), (tested, own) = (
        ((np.asarray(part.logits, float) + offset) * np.asarray(part.y), weights(part, shares))
        for part in (validation, test)
    )

    def loss(log_temperature: float) -> float:
        return float(mass @ np.logaddexp(0, -margins * np.exp(-log_temperature)))

    heat = float(np.exp(optimize.minimize_scalar(loss, bounds=(-7, 7), method="bounded").x))  # pyright: ignore[reportAttributeAccessIssue]
    raw, calibrated = (entropy - float(own @ np.logaddexp(0, -tested / t)) / np.log(2) for t in (1.0, heat))
    return {"information": raw, "calibrated": calibrated, "temperature": heat}


def measure(
    network: nn.Module,
    learner: methods.Learner,
    validation: methods.Batch,
    test: methods.Batch,
    hidden: methods.Batch | None,
    bank: methods.Batch,
    iid: methods.Batch,
    shares: Float[np.ndarray, " 4"],
    sizes: Sizes,
    rule: str,
    *,
    offset: bool = False,
) -> dict[str, Any]:
    """All measurements of a network.

    Args:
        network: with one output.
        learner: its parameters.
        validation: images with equally frequent groups, on which offset and temperature are selected.
        test: such images for accuracies and information.
        hidden: these without the spurious feature; None if it cannot be removed.
        bank: training images, the neighbours of the probes.
        iid: test images as in training, whose depth is measured.
        shares: of the groups in training.
        sizes: of the probes.
        rule: by which the offset is selected.
        offset: whether there is one.
    """
    held, final = (outputs(network, learner, batch) for batch in (validation, test))
    shift = best_offset(held, rule, shares) if offset else 0.0
    place = np.linspace(0, len(bank.y) - 1, sizes.bank).astype(int)
    variables = {"params": learner.params, **learner.collections}
    found = probes.prediction_depth(
        network, variables, (bank.x[place], bank.y[place]), iid.x[: sizes.queries], k=sizes.k
    )
    depth = np.asarray(found.depth)
    groups = by_group(final, shift)
    core = None if hidden is None else by_group(outputs(network, learner, hidden), shift)
    return {
        "groups": groups.tolist(),
        "average": float((groups * shares).sum()),
        "core": None if core is None else float(core.mean()),
        "depth": float(np.nanmean(depth)) if np.isfinite(depth).any() else None,
        "invalid": float(np.isnan(depth).mean()),
        "offset": shift,
        **information(held, final, shares, shift),
    }


NETWORK: dict[str, Any] = {
    "groups": (float, 4),
    **dict.fromkeys(
        ("average", "core", "depth", "invalid", "offset", "information", "calibrated", "temperature"), float
    ),
}


def starved(
    network: nn.Module,
    variables: Mapping[str, PyTree],
    train: methods.Batch,
    held: _starved_theory.Held,
    *,
    sizes: Sizes,
    weight_decay: float,
    strength: float,
    seed: int,
) -> dict[str, dict[str, float]]:
    """The starvation of the core features in the tangent kernel of a network, for the objectives that change it.

    `_starved_theory.predict` has the formulas. Equal weights of classes or groups are represented by as many images,
    drawn with replacement such that classes or groups are equally frequent. Under spectral decoupling the responses
    do not depend on the strengths of other features, so its starvation is zero up to rounding.

    Args:
        network: with one output.
        variables: its initial params, and other collections.
        train: training images, of which `sizes.kernel` are taken.
        held: test images.
        sizes: the number of images.
        weight_decay: that of the mean loss; the ridge of the sum is `sizes.kernel` times as strong.
        strength: of spectral decoupling, the same for means and sums.
        seed: of the images that are drawn.
    """
    rng = np.random.default_rng(seed)
    place = np.linspace(0, len(train.y) - 1, sizes.kernel).astype(int)
    y, group = np.asarray(train.y, float)[place], np.asarray(train.group)[place]
    rows = {
        "ridge": np.arange(len(place)),
        "sd": np.arange(len(place)),
        "class_balanced": _even(y > 0, rng),
        "group_balanced": _even(group, rng),
    }
    others = {name: value for name, value in variables.items() if name != "params"}

    def apply(params: PyTree, x: Array) -> Array:
        return network.apply({**params, **others}, x)  # pyright: ignore[reportReturnType]

    with jax.enable_x64(True):
        given: Any = ({"params": variables["params"]}, train.x[place], held)
        params, images, held = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), given)
        every = jnp.concatenate([images, held.random, held.blank])
        gram = np.asarray(tangent.ntk(apply, params, every, images))
        found = {}
        for name, chosen in rows.items():
            kernel, random, blank = np.split(gram[:, chosen], [len(place), len(place) + len(held.core)])
            objective = (strength, SpectralDecoupling) if name == "sd" else (sizes.kernel * weight_decay, Ridge)
            own = _theory()(kernel[chosen], random, blank, y[chosen], held.core, held.spurious, *objective)
            found[name] = {"starvation": float(own.starvation), "accuracy": float(own.accuracy)}
    return found


@functools.cache
def _theory() -> Callable[..., _starved_theory.Predicted]:
    return jax.jit(_starved_theory.predict, static_argnames="penalty")


def _even(member: Any, rng: np.random.Generator) -> np.ndarray:
    """As many rows as there are, drawn with replacement such that all members that occur are equally frequent."""
    member = np.asarray(member)
    kinds = np.unique(member)
    counts = np.bincount(np.arange(len(member)) % len(kinds))
    return np.concatenate(
        [rng.choice(np.flatnonzero(member == kind), count) for kind, count in zip(kinds, counts, strict=True)]
    )
