"""Learning from failure: a second network, made to be biased, tells which examples are hard for bias alone."""

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

_FLOOR = 1e-8  # of the published code: where both losses vanish, so does the weight


class Averages(NamedTuple):
    """Moving averages of the losses of every example, of the biased network and of the other, and its class once seen.

    `losses (2, examples)`, 0 before an example is `seen (examples,)`; `label (examples,)`.
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
    """Learning from Failure (Nam et al. 2020, Algorithm 1), with the moving averages of its code where wanted.

    Two networks, of the same architecture and each with an optimiser of its own, descend on

    biased:    mean_i GCE_i + (weight_decay / 2) ||theta_b||^2,         GCE = (1 - p^q) / q,
    debiased:  mean_i W_i CE_d,i + (weight_decay / 2) ||theta_d||^2,    W = CE_b / (CE_b + CE_d),

    means over the examples of the batch, in nats, p the probability of an example's label under the biased network, W
    held fixed. The debiased network is the main learner, the other one is the learner "biased"; the objective of the
    info is the sum of the two lines, the loss mean_i CE_d,i, the penalty mean_i GCE_i. The published code multiplies
    GCE by q.

    With `examples`, CE in W is replaced by its moving average, a <- decay a + (1 - decay) CE with a = CE at first
    sight, divided by the maximum of a over the examples of the same class, for each of the two networks. These
    `Averages` are the memory of the state.

    Args:
        network: with outputs `(n,)` or `(n, k)`.
        optimizer: of optax.
        q: above 0, at most 1. Towards 0, GCE becomes the cross-entropy.
        examples: how many there are in the data set; `batch.index (n,)` then counts from 0 and repeats none.
        decay: from 0 to below 1.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range; by `init`: where `examples` is given, an index that is missing or out of
            range, and what `erm` raises.

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
        nothing = jnp.zeros(examples, jnp.int32)
        return state._replace(memory=Averages(jnp.zeros((2, examples), dtype), nothing.astype(bool), nothing))

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        step = functools.partial(minimise, network, optimizer, step=state.step, weight_decay=weight_decay)

        def failing(logits, ridge):
            each = losses(logits, batch.y)
            penalty = generalised(each, q).mean()
            return Info(penalty + ridge, each.mean(), penalty), each

        biased, failure, biased_losses = step(state.others["biased"], batch.x, failing)

        def learning(logits, ridge):
            each = losses(logits, batch.y)
            hardness, averages = lax.stop_gradient(jnp.stack([biased_losses, each])), ()
            if examples is not None:
                index = members("index", batch.index, len(batch.x), examples)
                label, count = classes(logits, batch.y)
                averages = _followed(state.memory, hardness, index, label, decay)
                hardness = _normalised(averages, index, count)
            weighted = (relative_difficulty(*hardness) * each).mean()
            return Info(failure.objective + weighted + ridge, each.mean(), failure.penalty), averages

        debiased, info, averages = step(state.main, batch.x, learning)
        return state.stepped(main=debiased, biased=biased)._replace(memory=averages), info

    return checked(init, update)


def generalised(cross_entropy: Float[Array, " n"], q: float) -> Float[Array, " n"]:
    """The generalised cross-entropy (1 - p^q) / q (L_q of Zhang and Sabuncu 2018) of p = exp(-cross_entropy).

    >>> generalised(-jnp.log(jnp.array([1.0, 0.25])), 0.5).tolist()
    [0.0, 1.0]
    """
    return -jnp.expm1(-q * cross_entropy) / q


def relative_difficulty(biased: Float[Array, " n"], debiased: Float[Array, " n"]) -> Float[Array, " n"]:
    """W = CE_b / (CE_b + CE_d) (Nam et al. 2020), of the losses of the two networks; 0 where both vanish.

    >>> relative_difficulty(jnp.array([3.0, 0.0]), jnp.array([1.0, 0.0])).tolist()
    [0.75, 0.0]
    """
    return biased / (biased + debiased + _FLOOR)


def _followed(
    averages: Averages, now: Float[Array, "2 n"], index: Int[Array, " n"], label: Int[Array, " n"], decay: float
) -> Averages:
    """The averages once the losses `now` of the examples of this `index` have entered."""
    before = averages.losses[:, index]
    after = jnp.where(averages.seen[index], decay * before + (1 - decay) * now, now)
    return Averages(
        averages.losses.at[:, index].set(after),
        averages.seen.at[index].set(True),
        averages.label.at[index].set(label),
    )


def _normalised(averages: Averages, index: Int[Array, " n"], count: int) -> Float[Array, "2 n"]:
    """The averages of the examples of this `index`, over the largest one of their class."""
    # Those not seen yet count as of class 0, where their zeros change no maximum.
    largest = jax.ops.segment_max(averages.losses.T, averages.label, num_segments=count)[averages.label[index]].T
    return averages.losses[:, index] / jnp.maximum(largest, jnp.finfo(largest.dtype).tiny)
