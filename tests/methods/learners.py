"""Methods with several networks, written with public names only, as a user would."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from gsjax import methods, networks
from gsjax.methods import Info
from gsjax.networks import stages


def variables(learner):
    return {"params": learner.params, **learner.collections}


def stage_value(network, learner, x, position):
    """A stage of the network of a learner, in evaluation mode."""
    return stages.apply(network, variables(learner), x, (position,))[1][position]


def classified(batch):
    """The objective of ERM, which also returns the stages."""

    def objective(logits, ridge, found):
        loss = methods.terms.losses(logits, batch.y).mean()
        return Info(loss + ridge, loss, jnp.zeros_like(loss)), found

    return objective


def sieve(network, optimizer, *, position, rate=0.0, every=1):
    """ERM, a readout of a stage trained with a stopped gradient, and steps that make the stage forget the readout.

    Every `every` steps, the layers up to the stage take a step of plain SGD that lowers the squared output of the
    readout. With rate 0 the readout has no effect on the network.
    """
    methods.check_common(network, optimizer, 0.0)
    readout, forgetting = networks.FullyConnected(()), optax.sgd(rate)

    def init(key, batch):
        state = methods.init_state(network, optimizer, key, batch)
        stage = stage_value(network, state.main, batch.x, position)
        return state.with_learners(readout=methods.init_learner(readout, optimizer, jax.random.fold_in(key, 1), stage))

    def update(state, batch):
        main, info, found = methods.minimise(
            network, optimizer, state.main, batch.x, classified(batch), step=state.step, stages=(position,)
        )

        def reading(logits, ridge):
            loss = methods.terms.losses(logits, batch.y).mean()
            return Info(loss, loss, loss), ()

        reader, read, _ = methods.minimise(
            readout, optimizer, state.others["readout"], found[position], reading, step=state.step
        )

        def forgotten(logits, ridge, found):
            size = (methods.predict(readout, reader, found[position]) ** 2).mean()
            return Info(size, size, size), ()

        dropout = {"dropout": state.key}
        mask = stages.upto(network, variables(main), batch.x, position, train=True, rngs=dropout)
        plain = main._replace(optimizer=forgetting.init(main.params))
        forgot, _, _ = methods.minimise(
            network, forgetting, plain, batch.x, forgotten, step=state.step, stages=(position,), only=mask
        )
        due = (state.step + 1) % every == 0
        params = jax.tree.map(lambda new, old: jnp.where(due, new, old), forgot.params, main.params)
        return state.stepped(main=main._replace(params=params), readout=reader), info._replace(penalty=read.loss)

    return methods.checked(init, update)


def taught(network, optimizer, *, weight, position=None):
    """ERM, and the mean square distance from a frozen teacher, in the outputs or at a stage."""
    methods.check_common(network, optimizer, 0.0)
    names = () if position is None else (position,)

    def init(key, batch):
        state = methods.init_state(network, optimizer, key, batch)
        drawn = methods.init_learner(network, optimizer, jax.random.fold_in(key, 1), batch.x)
        return state.with_learners(teacher=methods.Learner(drawn.params, drawn.collections))

    def update(state, batch):
        teacher = state.others["teacher"]
        if position is None:
            aim = methods.predict(network, teacher, batch.x)
        else:
            aim = stage_value(network, teacher, batch.x, position)

        def objective(logits, ridge, *found):
            loss = methods.terms.losses(logits, batch.y).mean()
            distance = ((found[0][position] if found else logits) - aim) ** 2
            penalty = weight * distance.mean()
            return Info(loss + penalty, loss, penalty), ()

        main, info, _ = methods.minimise(
            network, optimizer, state.main, batch.x, objective, step=state.step, stages=names
        )
        return state.stepped(main=main), info

    return methods.checked(init, update)


# Constructors and options by name, as the registry has them for the library's own methods.
TOYS = {
    "readout": (sieve, {"position": "Dense_0"}),
    "forgetting": (sieve, {"position": "Dense_0", "rate": 0.003, "every": 2}),
    "teacher": (taught, {"weight": 0.01}),
    "matching": (taught, {"weight": 0.01, "position": "Dense_0"}),
}
