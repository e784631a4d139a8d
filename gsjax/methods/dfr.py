"""Deep feature reweighting: empirical risk minimisation, and then a new last layer on a loss balanced over groups."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from gsjax import _check
from gsjax.methods.heads import last_layer
from gsjax.methods.protocol import (
    Batch,
    Info,
    Method,
    State,
    check_common,
    check_optimizer,
    checked,
    predict,
)
from gsjax.methods.steps import init_state, minimise
from gsjax.methods.terms import losses, members

__all__ = ["Balance", "dfr", "updates"]


class Balance(NamedTuple):
    """The memory of `dfr`: the share of each group in the data, `(groups,)`, and the last layer's `optimizer` state."""

    shares: Float[Array, " groups"]
    optimizer: PyTree


def dfr(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    groups: int,
    feature_steps: int,
    restart: bool = True,
    last_optimizer: optax.GradientTransformation | None = None,
    weight_decay: float = 0.0,
) -> Method:
    """Deep feature reweighting (Kirichenko et al. 2023, DFR_Tr^Tr): ERM, then a new last layer on balanced groups.

    This is the variant for the training data; `refit` takes held-out data. The first `feature_steps` updates are those
    of `erm`, bit for bit. From then on only the last layer descends, on

    (1 / G) sum_g L_g + (weight_decay / 2) ||theta||^2,

    with L_g the mean loss of group g over the data, in nats, and G the number of groups that have examples. The last
    layer is what `last_layer` selects. All else stays as it is bit for bit: other parameters, the state of their
    optimiser, and collections. The network is then in evaluation mode, so that its features are fixed.

    The paper draws subsets with equally many examples of all groups, and averages the solutions of several. Here the
    loss has the mean that it has over such subsets: each example has the weight 1 / (G times the share of its group).
    Shares are means over the batches of the first `feature_steps` updates, so they are those of the data for full
    batches or after whole epochs. A group that has not occurred by then has no weight.

    The paper fits a new last layer from scratch, so by default it restarts from zero, and with an optimiser state of
    its own; with `restart=False` it goes on from its ERM value. The paper's penalty, l1 on standardised features, is
    an option of `refit`. `penalty` in the info is the balanced loss, or 0 in the first updates.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`, and parameters after its last stage.
        optimizer: an optax optimiser.
        groups: the number of groups; `batch.group (n,)` counts from 0.
        feature_steps: T, the number of updates of ERM.
        restart: whether the last layer starts from zero after them. If more than one linear layer follows the last
            stage, it does not learn from there.
        last_optimizer: the optimiser of the last layer after ERM; by default the same.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range; from `init`: groups missing or out of range; a network without parameters
            after its stages; the errors of `erm`.

    >>> from gsjax import networks
    >>> method = dfr(networks.MLP((8,)), optax.sgd(0.1), groups=2, feature_steps=1)
    >>> batch = Batch(jnp.eye(2), jnp.array([-1.0, 1.0]), group=jnp.array([0, 1]))
    >>> state, _ = method.update(method.init(jax.random.key(0), batch), batch)
    >>> state.memory.shares.tolist()
    [0.5, 0.5]
    """
    check_common(network, optimizer, weight_decay)
    groups = _check.whole("groups", groups, least=1)
    feature_steps = _check.whole("feature_steps", feature_steps, least=1)
    restart = _check.flag("restart", restart)
    last_optimizer = optimizer if last_optimizer is None else last_optimizer
    check_optimizer("last_optimizer", last_optimizer)

    def init(key, batch: Batch) -> State:
        state = init_state(network, optimizer, key, batch)
        last = last_layer(network, _variables(state), batch.x)
        dtype = jax.eval_shape(lambda state: predict(network, state, batch.x), state).dtype
        moments = optax.masked(last_optimizer, last).init(state.params)
        return state._replace(memory=Balance(jnp.zeros(groups, dtype), moments))

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        x, memory = jnp.asarray(batch.x), state.memory
        group = members("group", batch.group, len(x), groups)
        last = last_layer(network, _variables(state), x)

        def learn_features() -> tuple[State, Info]:
            def objective(logits, ridge):
                loss = losses(logits, batch.y).mean()
                return Info(loss + ridge, loss, jnp.zeros_like(loss)), ()

            main, info, _ = minimise(
                network, optimizer, state.main, x, objective, step=state.step, weight_decay=weight_decay
            )
            shares = (jnp.arange(groups)[:, None] == group).mean(axis=1, dtype=memory.shares.dtype)
            shares = memory.shares + (shares - memory.shares) / (state.step + 1).astype(shares.dtype)
            return state.stepped(main=main)._replace(memory=memory._replace(shares=shares)), info

        def reweight() -> tuple[State, Info]:
            occur = memory.shares > 0
            weight = jnp.where(occur, 1 / jnp.where(occur, memory.shares, 1), 0) / occur.sum()

            def objective(logits, ridge):
                each = losses(logits, batch.y)
                balanced = (weight[group] * each).mean()
                return Info(balanced + ridge, each.mean(), balanced), ()

            zero = restart & (state.step == feature_steps)
            params = jax.tree.map(lambda take, leaf: jnp.where(zero, 0, leaf) if take else leaf, last, state.params)
            main, info, _ = minimise(
                _Still(network),
                optax.masked(last_optimizer, last),
                state.main._replace(params=params, optimizer=memory.optimizer),
                x,
                objective,
                step=state.step,
                weight_decay=weight_decay,
                only=last,
            )
            memory_after = memory._replace(optimizer=main.optimizer)
            return state.stepped(main=main._replace(optimizer=state.optimizer))._replace(memory=memory_after), info

        return lax.cond(state.step < feature_steps, learn_features, reweight)

    return checked(init, update)


def updates(last_updates: int, feature_steps: int) -> int:
    """The number of updates of `dfr` that ends with the given number of updates of the last layer.

    Raises:
        ValueError: `last_updates` below zero or `feature_steps` below one.

    >>> updates(100, 20)
    120
    """
    last_updates = _check.whole("last_updates", last_updates, least=0)
    return last_updates + _check.whole("feature_steps", feature_steps, least=1)


class _Still(nn.Module):
    """A network that is in evaluation mode always, with the same variables."""

    network: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.network)

    def __call__(self, x: Array) -> Any:
        return self.network(x)


def _variables(state: State) -> dict[str, Any]:
    return {"params": state.params, **state.collections}
