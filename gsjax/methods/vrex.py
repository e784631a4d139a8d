"""Risk extrapolation (V-REx): penalises the variance of the risk across environments."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import optax

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Method, State, check_common, checked
from gsjax.methods.steps import init_state, minimise
from gsjax.methods.terms import annealed, losses, mean_by, members

__all__ = ["vrex"]


def vrex(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    penalty_weight: float,
    anneal: int = 0,
    environments: int = 2,
    weight_decay: float = 0.0,
) -> Method:
    """V-REx (Krueger et al. 2021), annealed and scaled as in the published code for Colored MNIST.

    L_e is the mean loss over the examples of environment e, in nats. The objective is

    [mean_e L_e + w sum_e (L_e - mean_e L_e)^2 / (E - 1) + (weight_decay / 2) ||theta||^2] / max(w, 1),

    where w is 1 before step `anneal` and `penalty_weight` from that step on. The sums and means run over the E
    environments that have examples in the batch. For two environments the unbiased variance is (L_0 - L_1)^2 / 2, and
    the bracket is half of the published L_0 + L_1 + w (L_0 - L_1)^2 + weight_decay ||theta||^2 at every step.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`.
        optimizer: an optax optimiser.
        penalty_weight: zero or above.
        anneal: the number of steps with weight 1.
        environments: the number of environments; `batch.environment (n,)` counts from 0.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range; from `init`: environments missing or out of range, and the errors of `erm`.

    >>> import jax, numpy as np
    >>> from gsjax import networks
    >>> method = vrex(networks.MLP((8,)), optax.adam(1e-3), penalty_weight=1e4, anneal=100)
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
            risks, present = mean_by(losses(logits, batch.y), environment, environments)
            loss = risks.sum() / present.sum()
            deviations = jnp.where(present, risks - loss, 0)
            penalty = (deviations**2).sum() / jnp.maximum(present.sum() - 1, 1)
            return Info(annealed(loss, penalty, ridge, state.step, penalty_weight, anneal), loss, penalty), ()

        main, info, _ = minimise(
            network, optimizer, state.main, batch.x, objective, step=state.step, weight_decay=weight_decay
        )
        return state.stepped(main=main), info

    return checked(init, update)
