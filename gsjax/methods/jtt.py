"""Just Train Twice: a second network, trained with more weight on the examples that a first one got wrong."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Method, State, check_common, check_optimizer, checked, predict
from gsjax.methods.steps import init_learner, init_state, minimise
from gsjax.methods.terms import errors, losses

__all__ = ["jtt", "updates"]


def jtt(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    identification_steps: int,
    upweight: float,
    identification_optimizer: optax.GradientTransformation | None = None,
    weight_decay: float = 0.0,
) -> Method:
    """Just Train Twice (Liu et al. 2021), with weights of the examples in place of repetitions.

    For `identification_steps` updates the learner "identification" descends on mean_i CE_i. From then on it is frozen,
    and the main learner, a network of the same architecture with an initialisation of its own, descends on

    mean_i w_i CE_i / W,    w_i = upweight if the identification network gets example i wrong, 1 if not,

    where means are over the examples of the batch, in nats; each network has its own (weight_decay / 2) ||theta||^2.

    The paper repeats the examples of the error set `upweight` times and takes the mean over the larger set. For n
    examples, m of them errors, that is sum_i w_i CE_i / (n + (upweight - 1) m), so W is the mean of w_i over the data,
    and the size of the gradient does not grow with `upweight`. The `memory` of the state is W, the running mean over
    the batches of the main learner: that of the data for full batches or after whole epochs. It is 1 before, and
    (W - 1) / (upweight - 1) is the share of errors. Weights and repetitions have the same mean gradient; in
    mini-batches, weights have the larger variance.

    The frozen network in evaluation mode gives the same error set for every batch, so no list of examples is kept.
    Before its first update the main learner stays as it is bit for bit. Its updates count from 0 for dropout, so with
    `upweight` 1 it is that of `erm`. `updates` converts a number of its updates to a number of updates. The info is
    that of the network that is trained: `loss` is mean_i CE_i, and `penalty` is mean_i w_i CE_i / W, or 0 in the
    updates of the identification network.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`.
        optimizer: an optax optimiser.
        identification_steps: T, the number of updates of the identification network.
        upweight: the weight of its errors, at least 1.
        identification_optimizer: the optimiser of the identification network; by default the same.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range; from `init`: the errors of `erm`.

    >>> from gsjax import networks
    >>> method = jtt(networks.MLP((8,)), optax.sgd(0.1), identification_steps=3, upweight=20.0)
    >>> state = method.init(jax.random.key(0), Batch(jnp.eye(2), jnp.array([-1.0, 1.0])))
    >>> list(state.learners), state.memory.item(), updates(100, 3)
    (['main', 'identification'], 1.0, 103)
    """
    check_common(network, optimizer, weight_decay)
    identification_steps = _check.whole("identification_steps", identification_steps, least=1)
    _check.number("upweight", upweight, "[1, inf)")
    identification_optimizer = optimizer if identification_optimizer is None else identification_optimizer
    check_optimizer("identification_optimizer", identification_optimizer)
    upweight = float(upweight)  # Python's change no dtype

    def init(key, batch: Batch) -> State:
        state = init_state(network, optimizer, key, batch)
        first = init_learner(network, identification_optimizer, jax.random.fold_in(key, 1), batch.x)
        dtype = jax.eval_shape(lambda state: predict(network, state, batch.x), state).dtype
        return state.with_learners(identification=first)._replace(memory=jnp.ones((), dtype))

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        x = jnp.asarray(batch.x)
        first = state.others["identification"]

        def identify() -> tuple[State, Info]:
            def objective(logits, ridge):
                loss = losses(logits, batch.y).mean()
                return Info(loss + ridge, loss, jnp.zeros_like(loss)), ()

            learner, info, _ = minimise(
                network,
                identification_optimizer,
                first,
                x,
                objective,
                step=state.step,
                weight_decay=weight_decay,
            )
            return state.stepped(identification=learner), info

        def train() -> tuple[State, Info]:
            step = state.step - identification_steps
            wrong = errors(predict(network, first, x), batch.y)
            weight = jnp.where(wrong, upweight, 1).astype(state.memory.dtype)
            mean = state.memory + (weight.mean() - state.memory) / (step + 1).astype(weight.dtype)
            weight = weight / mean

            def objective(logits, ridge):
                each = losses(logits, batch.y)
                penalty = (weight * each).mean()
                return Info(penalty + ridge, each.mean(), penalty), ()

            main, info, _ = minimise(network, optimizer, state.main, x, objective, step=step, weight_decay=weight_decay)
            return state.stepped(main=main)._replace(memory=mean), info

        return lax.cond(state.step < identification_steps, identify, train)

    return checked(init, update)


def updates(main_updates: int, identification_steps: int) -> int:
    """The number of updates of `jtt` that ends with the given number of updates of the main learner.

    Raises:
        ValueError: `main_updates` below zero or `identification_steps` below one.

    >>> updates(100, 20)
    120
    """
    main_updates = _check.whole("main_updates", main_updates, least=0)
    return main_updates + _check.whole("identification_steps", identification_steps, least=1)
