"""Group distributionally robust optimisation: minimises the loss of the worst group through adaptive group weights."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Method, State, check_common, checked, predict
from gsjax.methods.steps import init_state, minimise
from gsjax.methods.terms import losses, mean_by, members

__all__ = ["group_dro"]


def group_dro(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    groups: int,
    step_size: float = 0.01,
    weight_decay: float = 0.0,
) -> Method:
    """Group DRO (Sagawa et al. 2020, Algorithm 1), for batches that contain several groups, as in the published code.

    L_g is the mean loss over the examples of group g in the batch, in nats; it is 0 for a group without examples. Each
    step sets

    q_g <- q_g exp(step_size L_g) / sum_h q_h exp(step_size L_h)

    and descends on sum_g q_g L_g + (weight_decay / 2) ||theta||^2 with q held fixed. The weights q start uniform. The
    state keeps q `(groups,)` in `memory`, and `Info.penalty` is sum_g q_g L_g.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`.
        optimizer: an optax optimiser.
        groups: the number of groups; `batch.group (n,)` counts from 0.
        step_size: the step size of the weights q, zero or above; at 0 they stay uniform.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range; from `init`: groups missing or out of range, and the errors of `erm`.

    >>> from gsjax import networks
    >>> method = group_dro(networks.MLP((8,)), optax.sgd(0.1), groups=2)
    >>> batch = Batch(jnp.eye(2), jnp.array([-1.0, 1.0]), group=jnp.array([0, 1]))
    >>> method.init(jax.random.key(0), batch).memory.tolist()
    [0.5, 0.5]
    """
    check_common(network, optimizer, weight_decay)
    groups = _check.whole("groups", groups, least=1)
    _check.number("step_size", step_size, "[0, inf)")

    def init(key, batch: Batch) -> State:
        state = init_state(network, optimizer, key, batch)
        dtype = jax.eval_shape(lambda state: predict(network, state, batch.x), state).dtype
        return state._replace(memory=jnp.full(groups, 1 / groups, dtype))

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        group = members("group", batch.group, len(batch.x), groups)

        def objective(logits, ridge):
            each = losses(logits, batch.y)
            risks, _ = mean_by(each, group, groups)
            weights = jax.nn.softmax(jnp.log(state.memory) + step_size * lax.stop_gradient(risks))
            robust = weights @ risks
            return Info(robust + ridge, each.mean(), robust), weights

        main, info, weights = minimise(
            network, optimizer, state.main, batch.x, objective, step=state.step, weight_decay=weight_decay
        )
        return state.stepped(main=main)._replace(memory=weights), info

    return checked(init, update)
