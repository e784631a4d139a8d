"""Empirical risk minimisation, with optional weight decay."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import optax

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Method, State, check_common, checked
from gsjax.methods.steps import init_state, minimise
from gsjax.methods.terms import LOSSES, losses

__all__ = ["erm"]


def erm(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    loss: str = "cross_entropy",
    weight_decay: float = 0.0,
) -> Method:
    """Empirical risk minimisation: mean_i loss_i + (weight_decay / 2) ||theta||^2.

    The loss is a mean over the examples of the batch, cross-entropy in nats or the hinge loss. The square is summed
    over all parameters and its gradient enters before the optimiser, like torch's `weight_decay`. Dropout and batch
    normalisation are options of the network.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`.
        optimizer: an optax optimiser.
        loss: "cross_entropy", or "hinge" for outputs `(n,)`, as in `terms.losses`.
        weight_decay: zero or above.

    Raises:
        ValueError: an unknown `loss`; `weight_decay` negative or not finite; by `init`: `x` empty or not finite, labels
            that are not -1 and +1 for outputs `(n,)`, or not class indices for outputs `(n, k)`, or the hinge loss of
            outputs `(n, k)`.

    >>> import jax
    >>> from gsjax import networks
    >>> method = erm(networks.MLP((8,)), optax.sgd(0.1), weight_decay=1e-3)
    >>> method.init(jax.random.key(0), Batch(jnp.eye(2), jnp.array([-1.0, 1.0]))).step.item()
    0
    """
    check_common(network, optimizer, weight_decay)
    _check.choice("loss", loss, LOSSES)

    def init(key, batch: Batch) -> State:
        return init_state(network, optimizer, key, batch)

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        def objective(logits, ridge):
            value = losses(logits, batch.y, loss).mean()
            return Info(value + ridge, value, jnp.zeros_like(value)), ()

        main, info, _ = minimise(
            network, optimizer, state.main, batch.x, objective, step=state.step, weight_decay=weight_decay
        )
        return state.stepped(main=main), info

    return checked(init, update)
