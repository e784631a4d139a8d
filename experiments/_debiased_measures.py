"""What the experiment `debiased_distillation` measures: accuracies by group, and readouts and weights by group."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments import _offsets
from experiments._debiased_methods import Options, Planned
from experiments._photographs import Outputs
from gsjax import methods
from gsjax.methods import dedier, terms

KINDS = {name: {"offset": float, "validation": (float, 4), "test": (float, 4)} for name in ("none", "groups")}
SIDE = {"count": (float, 4), "errors": (float, 4), "margin": (float, 4), "wrong": (float, 4), "weight": (float, 4)}
COLUMNS: dict[str, Any] = {"seed": int, "finite": bool, "digest": str, "shares": (float, 4), **KINDS}


class Watched(NamedTuple):
    """Training images, whose weights are measured, and both held-out sets."""

    train: methods.Batch
    validation: methods.Batch
    test: methods.Batch


@functools.lru_cache(maxsize=8)
def evaluation(
    network: nn.Module, readout: Options, shares: tuple[float, ...], sizes: tuple[int, int]
) -> Callable[[methods.State, Watched], dict[str, Any]]:
    """The function of a state for `methods.train`; with a readout, the signals of `signals` as well."""

    def evaluate(state: methods.State, held_out: Watched) -> dict[str, Any]:
        def outputs(batch: methods.Batch) -> Outputs:
            logits: Any = methods.predict(network, state, batch.x)
            return Outputs(logits, batch.y, jnp.asarray(batch.group))

        found = _offsets.measure(
            outputs(held_out.validation), outputs(held_out.test), shares=np.array(shares), sizes=sizes
        )
        kept: dict[str, Any] = {name: found[name] for name in KINDS}
        if readout:
            where = dict(readout)
            beta, alpha = where.pop("beta"), where.pop("alpha")
            logits = dedier.snapshot_logits(network, state, held_out.train.x, **where)
            kept["signals"] = signals(logits, held_out.train, beta, alpha)
        return kept

    return evaluate


def signals(logits: Array, batch: methods.Batch, beta: float, alpha: float) -> dict[str, Float[Array, " 4"]]:
    """The readout's errors, margins and weights in each group, as counts and sums over its examples.

    "margin" sums the margins of all examples, and "wrong" those of the errors.

    >>> batch = methods.Batch(jnp.zeros((3, 1)), jnp.array([-1.0, 1.0, 1.0]), jnp.array([0, 2, 2]))
    >>> found = signals(jnp.array([-2.0, -2.0, 2.0]), batch, 1.0, 0.0)
    >>> found["count"].tolist(), found["errors"].tolist(), found["weight"].round(3).tolist()
    ([1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 3.718, 0.0])
    """
    wrong, margin = terms.errors(logits, batch.y).astype(logits.dtype), terms.confidence_margin(logits)
    each = {
        "count": jnp.ones_like(margin),
        "errors": wrong,
        "margin": margin,
        "wrong": wrong * margin,
        "weight": dedier.weights(logits, batch.y, beta, alpha),
    }
    member: Any = jnp.arange(4)[:, None] == batch.group
    return {name: jnp.where(member, values, 0).sum(axis=1) for name, values in each.items()}


def digest(params: Any) -> str:
    """A short hash of all parameters: two networks have the same one only if they agree bit for bit.

    >>> digest({"w": np.zeros(2)}) == digest({"w": np.zeros(2)}), digest({"w": np.zeros(2)}) == digest(np.ones(2))
    (True, False)
    """
    leaves = [np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()[:16]


def rows(
    planned: Planned,
    network: nn.Module,
    keys: Array,
    train: methods.Batch,
    watched: Watched,
    *,
    batch_size: int,
    shares: Float[np.ndarray, " 4"],
    sizes: tuple[int, int],
    what: str,
) -> tuple[list[dict[str, Any]], methods.Learner]:
    """Trains and measures one network per key, in one compiled program; one row per network, and all networks.

    Args:
        planned: the method and its updates.
        network: with one output.
        keys: one per network.
        train: training images, for a student with the outputs of its teacher.
        watched: what is measured.
        batch_size: images per step.
        shares: of the groups in training.
        sizes: of the classes in training.
        what: label of the progress bar.
    """
    run = methods.train(
        planned.method,
        keys,
        train,
        steps=planned.updates,
        batch_size=batch_size,
        record=sorted({planned.first or planned.updates, planned.updates}),
        evaluate=evaluation(network, planned.readout, tuple(map(float, shares)), sizes),
        held_out=watched,
        per_seed=True,
        what=what,
    )
    found = []
    for number in range(len(keys)):
        params, records = jax.tree.map(lambda leaf, number=number: leaf[number], (run.state.params, run.records))
        first, last = (
            jax.tree.map(lambda leaf, place=place: np.asarray(leaf[place]).tolist(), records) for place in (0, -1)
        )
        own = {"first": first.pop("signals"), "last": last.pop("signals")} if planned.readout else {}
        own |= {"digest": digest(params), "shares": np.asarray(shares).tolist()}
        found.append({"seed": number, "finite": bool(run.finite[number]), **last, **own})
    return found, methods.Learner(run.state.params, run.state.collections)
