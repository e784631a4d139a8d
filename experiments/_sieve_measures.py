"""What the experiment `feature_sieve` measures on a network: accuracies, fresh probes, and where the network looks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from experiments import _offsets
from experiments._photographs import Outputs
from experiments._sieve_tasks import VARIANTS, features
from gsjax import methods, networks, probes
from gsjax.networks import stages
from gsjax.probes.margins import correct

SHOWN = 6  # images with Grad-CAM maps, of the first network


class Held(NamedTuple):
    """The held-out images that are evaluated during training: as in training, and with both features independent."""

    validation: dict[str, methods.Batch]
    test: dict[str, methods.Batch]


class Probed(NamedTuple):
    """Images on which both features are independent: those on which probes are fitted, and those that judge them."""

    bank: methods.Batch
    queries: methods.Batch


def course(validation: Outputs, test: Outputs, average: Array, iid: Array) -> dict[str, Array]:
    """What is recorded of a state: accuracies by group, also with the best offset, and on images as in training.

    Args:
        validation: images of all groups, on which the offset has the best accuracy of the worst group.
        test: other images of all groups.
        average: the accuracy on validation images as in training.
        iid: that on test images as in training.
    """
    offset = _offsets.best_offset(validation, lambda accuracies: accuracies.min(axis=0))

    def groups(part: Outputs, offset: Any) -> Array:
        return _offsets.by_group((part.logits + offset) * part.y > 0, part.group)

    return {
        "validation": groups(validation, 0.0),
        "average": average,
        "test": groups(test, 0.0),
        "iid": iid,
        "offset": offset,
        "moved": groups(test, offset),
    }


@functools.lru_cache(maxsize=4)
def evaluation(network: nn.Module) -> Callable[[methods.State, Held], dict[str, Array]]:
    """The function of a state for `methods.train`: its `course`; groups are those of the variant "random"."""

    def evaluate(state: methods.State, held: Held) -> dict[str, Array]:
        def outputs(batch: methods.Batch) -> Outputs:
            return Outputs(jnp.asarray(methods.predict(network, state, batch.x)), batch.y, jnp.asarray(batch.group))

        def score(batch: methods.Batch) -> Array:
            return correct(outputs(batch).logits, batch.y).mean()

        return course(
            outputs(held.validation["random"]),
            outputs(held.test["random"]),
            score(held.validation["test"]),
            score(held.test["test"]),
        )

    return evaluate


COURSE: dict[str, Any] = {
    "steps": (int, None),
    **dict.fromkeys(("average", "iid", "offset"), (float, None)),
    **dict.fromkeys(("validation", "test", "moved"), (float, None, 4)),
}
PROBES: dict[str, Any] = {
    "stages": (str, None),
    **{kind: dict.fromkeys(("simple", "complex"), (float, None)) for kind in ("pooled", "linear", "readout")},
}
COLUMNS: dict[str, Any] = {
    "seed": int,
    "finite": bool,
    "stage": str,
    "rate": float,
    "every": int,
    "scores": dict.fromkeys(("worst", "average"), float),
    "course": COURSE,
    "accuracy": dict.fromkeys(VARIANTS, float),
    "own": float,
    "probes": PROBES,
    "looks": dict.fromkeys(("cam", "saliency", "area"), float),
    "pictures": {"input": (float, None, None, None, 3), "cam": (float, None, None, None)},
}


def accuracies(network: nn.Module, learner: methods.Learner, test: Mapping[str, methods.Batch]) -> dict[str, float]:
    """The accuracy on every variant of the test images."""
    found = {}
    for name, batch in test.items():
        logits = np.asarray(_compiled("predict")(network, learner, batch.x))
        found[name] = float((logits * np.asarray(batch.y) > 0).mean())
    return found


def probed(
    network: nn.Module,
    learner: methods.Learner,
    images: Probed,
    positions: Sequence[str],
    readout: networks.Readout | None = None,
    steps: int = 300,
) -> dict[str, Any]:
    """The accuracies of fresh probes for both features at every stage, with the network frozen; None if it diverged.

    "linear" probes take the whole stage, and "pooled" ones its mean over positions. "readout" are early readouts.

    Args:
        network: with the stages `positions`.
        learner: its parameters.
        images: on which probes are fitted and judged.
        positions: the stages.
        readout: of the early readouts, which are fitted beside linear probes; none if None.
        steps: of the early readouts.
    """
    variables = {"params": learner.params, **learner.collections}
    kinds: dict[str, dict[str, list[float | None]]]
    kinds = {kind: {"simple": [], "complex": []} for kind in ("pooled", "linear", "readout")}
    labels = [features(jnp.asarray(part.group)) for part in images]
    for position in positions:
        bank, queries = (np.asarray(_compiled("stage")(network, variables, part.x, position)) for part in images)
        usable = bool(np.isfinite(bank).all() and np.isfinite(queries).all())  # a network may have diverged
        for name in ("simple", "complex"):
            ours, theirs = (each[name] for each in labels)

            def linear(bank: Any, queries: Any, ours: Any = ours, theirs: Any = theirs) -> float:
                return float((np.asarray(probes.linear_probe(bank, ours).votes(queries)) == theirs).mean())

            pooled = [each.mean(axis=tuple(range(1, each.ndim - 1))) for each in (bank, queries)]
            kinds["pooled"][name].append(linear(*pooled) if usable else None)
            kinds["linear"][name].append(linear(bank, queries) if usable else None)
            if readout is not None:
                read = probes.early_readout(
                    network,
                    variables,
                    position,
                    images.bank.x,
                    2.0 * ours - 1,
                    images.queries.x,
                    2.0 * theirs - 1,
                    readout=readout,
                    key=jax.random.key(0),
                    steps=steps,
                )
                kinds["readout"][name].append(1 - float(read.all.rate) if read.finite else None)
    return {"stages": list(positions), **kinds}


def looks(
    network: nn.Module,
    learner: methods.Learner,
    x: Float[Array, "n height width c"],
    core: Bool[np.ndarray, "height width"] | None,
    position: str,
    shown: int,
) -> dict[str, Any]:
    """Grad-CAM at a stage and input gradients for the predicted class: their shares on the core half, and pictures.

    Args:
        network: with the stage `position`.
        learner: its parameters.
        x: images, in [-1, 1] or [0, 1].
        core: the region of the complex feature; without one there are no shares.
        position: the stage of Grad-CAM.
        shown: the number of images of which input and map are kept.
    """
    variables = {"params": learner.params, **learner.collections}
    cam = np.asarray(_compiled("gradcam")(network, variables, x, position))
    shares: dict[str, float | None] = dict.fromkeys(("cam", "saliency", "area"))
    if core is not None:
        gradients = _compiled("saliency")(network, variables, x)
        for name, maps in (("cam", cam), ("saliency", gradients)):
            share = np.asarray(probes.region_share(maps, core).share) if np.isfinite(maps).all() else np.array([np.nan])
            shares[name] = float(np.nanmean(share)) if np.isfinite(share).any() else None
        shares["area"] = float(core.mean())
    pictures = {"input": in_colour(np.asarray(x[:shown])), "cam": cam[:shown]}
    return {"looks": shares, "pictures": {name: np.round(each, 3).tolist() for name, each in pictures.items()}}


def in_colour(x: Float[np.ndarray, "n height width c"]) -> Float[np.ndarray, "n height width 3"]:
    """Images in red, green and blue: gray ones in gray, and those of two channels in red and green.

    >>> in_colour(np.ones((1, 1, 1, 2))).tolist(), in_colour(np.ones((1, 1, 1, 1))).tolist()
    ([[[[1.0, 1.0, 0.0]]]], [[[[1.0, 1.0, 1.0]]]])
    """
    if x.shape[-1] == 2:
        return np.concatenate([x, np.zeros_like(x[..., :1])], axis=-1)
    return np.broadcast_to(x, (*x.shape[:-1], 3))


@functools.cache
def _compiled(name: str) -> Callable[..., Array]:
    """A compiled function (network, variables, x, ...) -> array."""

    def stage(network: nn.Module, variables: Any, x: Array, position: str) -> Array:
        return stages.apply(network, variables, x, (position,))[1][position]

    functions: dict[str, Callable[..., Any]] = {
        "predict": methods.predict,
        "saliency": probes.saliency,
        "stage": stage,
        "gradcam": lambda network, variables, x, position: probes.gradcam(network, variables, x, position=position),
    }
    return jax.jit(functions[name], static_argnums=(0, 3) if name in ("stage", "gradcam") else 0)
