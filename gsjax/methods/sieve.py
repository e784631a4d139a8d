"""The feature sieve: a network that is made to forget, up to a stage, what a small readout of the stage can use."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Learner, Method, State, check_common, check_optimizer, checked
from gsjax.methods.readouts import check_readout, fitting, init_readout
from gsjax.methods.steps import init_state, minimise
from gsjax.methods.terms import Logits, losses
from gsjax.networks import Readout, stages

__all__ = ["sieve", "uniform_loss"]


def sieve(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    position: str,
    forget_rate: float = 0.01,
    every: int = 5,
    start: int = 0,
    depth: int = 2,
    width: int = 256,
    pooled: bool = True,
    readout: nn.Module | None = None,
    readout_optimizer: optax.GradientTransformation | None = None,
    weight_decay: float = 0.0,
) -> Method:
    """The feature sieve (SiFer, Tiwari and Shenoy 2023): ERM, and steps that forget what a readout of a stage can use.

    An update has up to three steps on the same batch, whose losses are means over its examples, in nats:

    1. The readout lowers its cross-entropy by a step of `readout_optimizer`. No gradient flows into the network.
    2. In every `every`-th update, the parameters that the stage depends on (`networks.stages.upto`) take a step of
       plain gradient descent with the rate `forget_rate` on mean_i `uniform_loss`_i of the readout after its step. The
       readout, the layers after the stage, and the state of `optimizer` stay as they are.
    3. The network lowers mean_i CE_i + (weight_decay / 2) ||theta||^2 by a step of `optimizer`, the step of `erm`.

    Forgetting is added to the ordinary steps and replaces none. With a `forget_rate` of 0, step 3 is the update of
    `erm`, bit for bit as long as the compiler rounds the same operations alike in both programs. The readout is the
    learner "readout". In the info, `objective` and `loss` are those of step 3. `penalty` is the cross-entropy of the
    readout before step 1: it is known in every update, and says how much of the label can still be read from the stage.

    The published description leaves open:

    - The stage is taken in training mode, with the dropout masks of step 3, since this is what the rest of the network
      receives. In updates without forgetting, steps 1 and 3 share one forward pass. Otherwise the part up to the stage
      is computed twice, because step 2 changes it.
    - Step 2 sees the readout in training mode too. The running averages of its batch norm lag behind a stage that
      changes, and with the statistics of the batch it is the function that step 1 has just trained.
    - Running averages of the network change in step 3 alone, and those of the readout in step 1 alone. Otherwise
      predictions would depend on the readout even where nothing is forgotten.
    - A stage after a norm depends on the scale and bias of the norm, which step 2 therefore changes. In `PreActResNet`
      this norm belongs to the next block.
    - The first forgetting step is in update `every`, so that the readout has been trained before. `start` delays it.
    - Weight decay applies to step 3 only. An optimiser that decays weights itself decays those of its own parameters.
    - The readout is trained by the optimiser of the network, unless another is given. The published rate is 0.01, that
      of forgetting, where the network has 0.001 with momentum 0.9.
    - Blocks of the readout: see `networks.Readout`.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`.
        optimizer: an optax optimiser.
        position: the name of the stage (`networks.stages`).
        forget_rate: the learning rate of forgetting, zero or above; 0 leaves the forgetting steps out.
        every: a forgetting step is taken once in so many updates.
        start: the number of updates at the beginning without forgetting.
        depth: the number of blocks of the readout; 0 is a linear readout.
        width: the width of the blocks.
        pooled: whether the readout takes the mean over positions, or all positions.
        readout: a flax.linen module from the stage to outputs of the network's shape; it replaces the one of this
            `depth`, `width` and `pooled`.
        readout_optimizer: an optax optimiser; None takes `optimizer`.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range, or of the wrong type; from `init`: a `position` that is not a stage of the
            network; a `readout` without parameters, or with outputs of another shape than the network's; the errors of
            `erm`.

    >>> from gsjax import networks
    >>> method = sieve(networks.MLP((8, 8)), optax.sgd(0.1), position="h1", every=1)
    >>> batch = Batch(jnp.eye(2), jnp.array([-1.0, 1.0]))
    >>> state, info = method.update(method.init(jax.random.key(0), batch), batch)
    >>> list(state.learners), bool(info.penalty > 0)
    (['main', 'readout'], True)
    """
    check_common(network, optimizer, weight_decay)
    check_readout(position, readout)
    _check.number("forget_rate", forget_rate, "[0, inf)")
    forget_rate = _check.python(forget_rate)
    every = _check.whole("every", every, least=1)
    start = _check.whole("start", start, least=0)
    Readout(depth=depth, width=width, pooled=pooled)  # checks its options
    readout_optimizer = optimizer if readout_optimizer is None else readout_optimizer
    check_optimizer("readout_optimizer", readout_optimizer)
    reading, forgetting = readout_optimizer, optax.sgd(forget_rate)

    def fitted(learner: Learner, x: Array) -> tuple[nn.Module, jax.ShapeDtypeStruct]:
        return fitting(network, learner, x, position, readout, depth=depth, width=width, pooled=pooled)

    def init(key, batch: Batch) -> State:
        state = init_state(network, optimizer, key, batch)
        module, stage = fitted(state.main, batch.x)
        return state.with_learners(readout=init_readout(module, reading, jax.random.fold_in(key, 1), stage))

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        main, reader = state.main, state.others["readout"]
        module, stage = fitted(main, batch.x)

        def classified(logits, ridge, found=None):
            loss = losses(logits, batch.y).mean()
            return Info(loss + ridge, loss, jnp.zeros_like(loss)), found

        def read(h: Array) -> tuple[Learner, Float[Array, ""]]:
            """The readout after its step, and its loss before."""
            fixed = lax.stop_gradient(h)
            after, info, _ = minimise(module, reading, reader, fixed, classified, step=state.step)
            return after, info.loss.astype(stage.dtype)  # both branches below have one type

        def forget() -> tuple[PyTree, Learner, Float[Array, ""]]:
            """The params after a step of forgetting, the readout after its step, and its loss before."""

            def objective(logits, ridge, found):
                h = found[position]
                after, loss = read(h)
                value = uniform_loss(_in_training(module, after, h, state.step)).mean()
                return Info(value, value, jnp.zeros_like(value)), (after, loss)

            # Parameters after the stage have no gradient, so that plain descent keeps them, bit for bit.
            forgot, _, (after, loss) = minimise(
                network,
                forgetting,
                main._replace(optimizer=forgetting.init(main.params)),
                batch.x,
                objective,
                step=state.step,
                stages=(position,),
            )
            return forgot.params, after, loss

        def ordinary(main: Learner) -> tuple[Learner, Info, dict[str, Array]]:
            return minimise(
                network,
                optimizer,
                main,
                batch.x,
                classified,
                step=state.step,
                weight_decay=weight_decay,
                stages=(position,),
            )

        if _check.known(forget_rate, 0):
            main, info, found = ordinary(main)
            reader, loss = read(found[position])
        else:
            due = ((state.step + 1) % every == 0) & (state.step >= start)
            unchanged = main.params, reader, jnp.zeros((), stage.dtype)
            params, forgetter, loss = lax.cond(due, forget, lambda: unchanged)
            main, info, found = ordinary(main._replace(params=params))
            # If nothing was forgotten, the ordinary step has computed the stage that the readout learns from.
            reader, loss = lax.cond(due, lambda: (forgetter, loss), lambda: read(found[position]))
        return state.stepped(main=main, readout=reader), info._replace(penalty=loss)

    return checked(init, update)


def uniform_loss(logits: Logits) -> Float[Array, " n"]:
    """The cross-entropy -(1/K) sum_k log p_k of each example with all K classes alike, in nats; its floor is log K.

    Outputs `(n,)` have two classes.

    Raises:
        ValueError: logits that are neither `(n,)` nor `(n, k)` with k > 1.

    >>> (uniform_loss(jnp.zeros((2, 4))) / jnp.log(4)).tolist()
    [1.0, 1.0]
    """
    logits = _check.floating("logits", logits)
    _check.require(logits.ndim > 0, "logits", "outputs (n,) or (n, k)", f"shape {logits.shape}")
    _check.outputs("logits", logits.shape, len(logits), classes=True)
    if logits.ndim == 1:
        return (jax.nn.softplus(logits) + jax.nn.softplus(-logits)) / 2
    return -jax.nn.log_softmax(logits).mean(axis=1)


def _in_training(module: nn.Module, learner: Learner, x: Array, step: Int[Array, ""]) -> Logits:
    """The outputs of a learner in training mode, as in `minimise`; its collections stay as they are."""
    variables = {"params": learner.params, **learner.collections}
    rngs = {} if learner.key is None else {"dropout": jax.random.fold_in(learner.key, step)}
    (logits, _), _ = stages.apply(module, variables, x, (), train=True, rngs=rngs, mutable=list(learner.collections))
    return logits
