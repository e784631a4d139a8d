"""Invariant risk minimisation, in its differentiable version (IRMv1)."""

from __future__ import annotations

import flax.linen as nn
import jax
import optax

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Method, State, check_common, checked
from gsjax.methods.steps import init_state, minimise
from gsjax.methods.terms import annealed, losses, mean_by, members

__all__ = ["irm"]


def irm(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    penalty_weight: float,
    anneal: int = 0,
    environments: int = 2,
    weight_decay: float = 0.0,
) -> Method:
    """IRMv1 (Arjovsky et al. 2019, Eq. IRMv1), annealed and scaled as in the published code for Colored MNIST.

    L_e(v) is the loss of the scaled outputs v f_i, averaged over the examples of environment e, in nats. The objective
    is

    [mean_e L_e(1) + w mean_e (dL_e/dv at v = 1)^2 + (weight_decay / 2) ||theta||^2] / max(w, 1),

    where w is 1 before step `anneal` and `penalty_weight` from that step on. The means over e leave out environments
    without examples in the batch. The published term l2_regularizer_weight ||theta||^2 corresponds to
    `weight_decay = 2 l2_regularizer_weight`.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`.
        optimizer: an optax optimiser.
        penalty_weight: zero or above.
        anneal: the number of steps with weight 1.
        environments: the number of environments; `batch.environment (n,)` counts from 0.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range; from `init`: environments missing or out of range, and the errors of `erm`.

    >>> import numpy as np
    >>> from gsjax import networks
    >>> method = irm(networks.MLP((8,)), optax.adam(1e-3), penalty_weight=1e4, anneal=100)
    >>> batch = Batch(np.eye(2), np.array([-1, 1]), environment=np.array([0, 1]))
    >>> method.init(jax.random.key(0), batch).step.item()
    0
    """
    check_common(network, optimizer, weight_decay)
    _check.number("penalty_weight", penalty_weight, "[0, inf)")
    anneal = _check.whole("anneal", anneal, least=0)
    environments = _check.whole("environments", environments, least=1)

    def init(key, batch: Batch) -> State:
        return init_state(network, optimizer, key, batch)

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        environment = members("environment", batch.environment, len(batch.x), environments)

        def objective(logits, ridge):
            # dl(v f)/dv at v = 1 is the directional derivative of l at f along f.
            each, slopes = jax.jvp(lambda logits: losses(logits, batch.y), (logits,), (logits,))
            risks, present = mean_by(each, environment, environments)
            slopes, _ = mean_by(slopes, environment, environments)
            loss, penalty = (values.sum() / present.sum() for values in (risks, slopes**2))
            return Info(annealed(loss, penalty, ridge, state.step, penalty_weight, anneal), loss, penalty), ()

        main, info, _ = minimise(
            network, optimizer, state.main, batch.x, objective, step=state.step, weight_decay=weight_decay
        )
        return state.stepped(main=main), info

    return checked(init, update)
