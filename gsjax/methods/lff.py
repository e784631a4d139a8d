"""Learning from Failure: a second, deliberately biased network finds the examples that bias alone does not explain."""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Method, State, check_common, checked, predict
from gsjax.methods.steps import init_learner, init_state, minimise
from gsjax.methods.terms import classes, losses, members

__all__ = ["Averages", "generalised", "lff", "relative_difficulty"]

_FLOOR = 1e-8  # from the published code: the weight vanishes where both losses do


class Averages(NamedTuple):
    """Moving averages of the loss of every example under both networks, and the classes of the examples seen so far.

    `losses (2, examples)` has the biased network first and is 0 until an example has been `seen (examples,)`. `label
    (examples,)` is the class of an example, 0 until it has been seen.
    """

    losses: Float[Array, "2 examples"]
    seen: Bool[Array, " examples"]
    label: Int[Array, " examples"]


def lff(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    q: float = 0.7,
    examples: int | None = None,
    decay: float = 0.7,
    weight_decay: float = 0.0,
) -> Method:
    """Learning from Failure (Nam et al. 2020, Algorithm 1), optionally with the moving averages of the published code.

    Two networks of the same architecture, each with its own optimiser state, descend on

    biased:    mean_i GCE_i + (weight_decay / 2) ||theta_b||^2,         GCE = (1 - p^q) / q,
    debiased:  mean_i W_i CE_d,i + (weight_decay / 2) ||theta_d||^2,    W = CE_b / (CE_b + CE_d),

    where the means are over the examples of the batch, in nats. p is the probability that the biased network gives to
    an example's label, and W is held fixed. The debiased network is the main learner; the other one is the learner
    "biased". In the info, `objective` is the sum of the two lines, `loss` is mean_i CE_d,i and `penalty` is
    mean_i GCE_i. The published code multiplies GCE by q.

    If `examples` is given, each CE in W is replaced by a moving average a, divided by the maximum of a over the
    examples of the same class. Both networks have such an average: a <- decay a + (1 - decay) CE, starting with a = CE
    when the example is first seen. These `Averages` are the `memory` of the state.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`.
        optimizer: an optax optimiser.
        q: above 0, at most 1. As q goes to 0, GCE becomes the cross-entropy.
        examples: the size of the data set; `batch.index (n,)` then counts from 0, without repetitions in a batch.
        decay: at least 0 and below 1.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range; from `init`: an index that is missing or out of range if `examples` is
            given, and the errors of `erm`.

    >>> from gsjax import networks
    >>> method = lff(networks.MLP((8,)), optax.sgd(0.1))
    >>> state = method.init(jax.random.key(0), Batch(jnp.eye(2), jnp.array([-1.0, 1.0])))
    >>> list(state.learners), state.memory
    (['main', 'biased'], ())
    """
    check_common(network, optimizer, weight_decay)
    _check.number("q", q, "(0, 1]")
    if examples is not None:
        examples = _check.whole("examples", examples, least=1)
    _check.number("decay", decay, "[0, 1)")

    def init(key, batch: Batch) -> State:
        state = init_state(network, optimizer, key, batch)
        state = state.with_learners(biased=init_learner(network, optimizer, jax.random.fold_in(key, 1), batch.x))
        if examples is None:
            return state
        dtype = jax.eval_shape(lambda state: predict(network, state, batch.x), state).dtype
        zeros = jnp.zeros(examples, jnp.int32)
        return state._replace(memory=Averages(jnp.zeros((2, examples), dtype), zeros.astype(bool), zeros))

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        step = functools.partial(minimise, network, optimizer, step=state.step, weight_decay=weight_decay)

        def biased_objective(logits, ridge):
            each = losses(logits, batch.y)
            penalty = generalised(each, q).mean()
            return Info(penalty + ridge, each.mean(), penalty), each

        biased, failure, biased_losses = step(state.others["biased"], batch.x, biased_objective)

        def debiased_objective(logits, ridge):
            each = losses(logits, batch.y)
            hardness, averages = lax.stop_gradient(jnp.stack([biased_losses, each])), ()
            if examples is not None:
                index = members("index", batch.index, len(batch.x), examples)
                label, count = classes(logits, batch.y)
                averages = _updated(state.memory, hardness, index, label, decay)
                hardness = _normalised(averages, index, count)
            weighted = (relative_difficulty(*hardness) * each).mean()
            return Info(failure.objective + weighted + ridge, each.mean(), failure.penalty), averages

        debiased, info, averages = step(state.main, batch.x, debiased_objective)
        return state.stepped(main=debiased, biased=biased)._replace(memory=averages), info

    return checked(init, update)


def generalised(cross_entropy: Float[Array, " n"], q: float) -> Float[Array, " n"]:
    """The generalised cross-entropy (1 - p^q) / q, L_q of Zhang and Sabuncu 2018, with p = exp(-cross_entropy).

    >>> generalised(-jnp.log(jnp.array([1.0, 0.25])), 0.5).tolist()
    [0.0, 1.0]
    """
    return -jnp.expm1(-q * cross_entropy) / q


def relative_difficulty(biased: Float[Array, " n"], debiased: Float[Array, " n"]) -> Float[Array, " n"]:
    """The weight W = CE_b / (CE_b + CE_d) of Nam et al. 2020, from the losses of the two networks; 0 if both vanish.

    >>> relative_difficulty(jnp.array([3.0, 0.0]), jnp.array([1.0, 0.0])).tolist()
    [0.75, 0.0]
    """
    return biased / (biased + debiased + _FLOOR)


def _updated(
    averages: Averages, current: Float[Array, "2 n"], index: Int[Array, " n"], label: Int[Array, " n"], decay: float
) -> Averages:
    """The averages after an update with the `current` losses of the examples `index`."""
    average = averages.losses[:, index]
    average = jnp.where(averages.seen[index], decay * average + (1 - decay) * current, current)
    return Averages(
        averages.losses.at[:, index].set(average),
        averages.seen.at[index].set(True),
        averages.label.at[index].set(label),
    )


def _normalised(averages: Averages, index: Int[Array, " n"], count: int) -> Float[Array, "2 n"]:
    """The averages of the examples `index`, divided by the largest average of their class."""
    # Unseen examples count towards class 0. Their averages are zero, which changes no maximum.
    largest = jax.ops.segment_max(averages.losses.T, averages.label, num_segments=count)[averages.label[index]].T
    return averages.losses[:, index] / jnp.maximum(largest, jnp.finfo(largest.dtype).tiny)
