"""DeDiER: distillation that gives more weight to the examples on which an early readout of the student errs."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, Real

from gsjax import _check
from gsjax.methods.distillation import divergence
from gsjax.methods.protocol import Batch, Info, Learner, Method, State, check_common, check_optimizer, checked, predict
from gsjax.methods.readouts import check_readout, fitting, init_readout
from gsjax.methods.steps import init_state, minimise
from gsjax.methods.terms import Logits, confidence_margin, errors, losses
from gsjax.networks import stages

__all__ = ["Snapshot", "dedier", "snapshot_logits", "updates", "weights"]


class Snapshot(NamedTuple):
    """What the weights are computed from: the student up to the stage and its readout, as of the last refresh.

    `params` has the structure of the student's, with None for the parameters that the stage does not depend on;
    `collections` are the student's. `readout` is a learner without optimiser state. `refreshes` counts the refreshes;
    while it is 0, all weights are 1. `errors` is the number of examples that this readout gets wrong in the batch of
    the student's last update, and `mean_weight` the mean weight there. Without errors all weights are 1 and the method
    is plain distillation.
    """

    params: PyTree
    collections: dict[str, Any]
    readout: Learner
    refreshes: Int[Array, ""]
    errors: Int[Array, ""]
    mean_weight: Float[Array, ""]


def dedier(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    position: str,
    beta: float,
    alpha: float = 1.0,
    refresh_every: int,
    readout_steps: int,
    mix: float = 0.5,
    temperature: float = 1.0,
    reweight_ce: bool = False,
    depth: int = 0,
    width: int = 256,
    pooled: bool = True,
    readout: nn.Module | None = None,
    readout_optimizer: optax.GradientTransformation | None = None,
    weight_decay: float = 0.0,
) -> Method:
    """DeDiER (Tiwari et al. 2024): distillation weighted by the confidence of the errors of an early readout.

    The student descends on

    (1 - mix) mean_i CE_i + mix mean_i w_i T^2 KL(p_i || q_i) + (weight_decay / 2) ||theta||^2,

    where the means are over the examples of the batch, in nats, and p and q are the probabilities of teacher and
    student at temperature T (`methods.distillation`). The readout is a small network that predicts the labels from the
    student's stage `position`. Where it errs, w = exp(beta cm^alpha), with cm its largest probability minus the second
    largest; elsewhere w = 1 (`weights`). Weights are not normalised, so that 1 <= w <= e^beta. In the info, `loss` is
    mean_i CE_i and `penalty` is mean_i w_i T^2 KL_i.

    Updates come in periods: `refresh_every` updates of the student, then `readout_steps` updates of the readout, after
    which the weights are refreshed. In an update of the readout, the student stays as it is bit for bit: its
    parameters, optimiser state and collections. The readout descends on its own mean CE, which is then `objective` and
    `loss` of the info. `updates` converts a number of updates of the student to a number of updates.

    The paper keeps the weights of a refresh per example. Here the `memory` of the state is a `Snapshot` of the readout
    and of the student up to the stage, and each update computes the weights of its batch from it. These are the same
    numbers, without an index of examples or a pass over all data, for a forward pass up to the stage.

    With `beta` 0 all weights are 1, and the updates of the student are those of `methods.distillation` bit for bit:
    they count separately for dropout and for schedules, and their arithmetic is the same. (A compiler that fuses the
    two programs differently may round differently; XLA with its defaults on a CPU does not.) Under `methods.train` this
    holds for full batches. With mini-batches the updates of the readout take batches too, so that the student sees
    other batches than it would in plain distillation. With `mix` 0 there is no teacher.

    The paper leaves some choices open. Weights are 1 until the first refresh, since the stage of an untrained student
    says little about the features that the student prefers. The stage is in evaluation mode in the snapshot and for the
    training of the readout: without dropout, and with running statistics, so that weights do not depend on the batch.
    The readout starts from its former parameters in every period. It has no weight decay but that of its optimiser.

    Args:
        network: the student, with outputs `(n,)` or `(n, k)`.
        optimizer: the student's optax optimiser.
        position: the name of a stage of the student (`networks.stages`).
        beta: the strength of the weights, zero or above.
        alpha: the exponent of the margin, zero or above; with 0 all errors have the weight e^beta.
        refresh_every: the number of updates of the student in a period.
        readout_steps: the number of updates of the readout in a period.
        mix: the share of the teacher's term, in [0, 1].
        temperature: T, above zero.
        reweight_ce: whether w multiplies the CE of the student as well, as in a follow-up paper.
        depth: the number of blocks of the default readout, `networks.Readout`.
        width: their width.
        pooled: whether its linear layer takes the mean over positions.
        readout: another module for the readout, from the stage to outputs like those of the student.
        readout_optimizer: the readout's optimiser; by default the student's.
        weight_decay: of the student, zero or above.

    Raises:
        ValueError: an option out of range; from `init`: a `position` that is not a stage of the network; a `readout`
            without parameters, or with outputs of another shape than the student's; outputs of the teacher that are
            needed and missing, not finite, or not of the shape of the student's; the errors of `erm`.

    >>> from gsjax import networks
    >>> method = dedier(networks.MLP((8,)), optax.sgd(0.1), position="h1", beta=1.0, refresh_every=4, readout_steps=2)
    >>> batch = Batch(jnp.eye(2), jnp.array([-1.0, 1.0]), teacher_logits=jnp.array([-3.0, 3.0]))
    >>> state = method.init(jax.random.key(0), batch)
    >>> for _ in range(updates(5, 4, 2)):
    ...     state, info = method.update(state, batch)
    >>> list(state.learners), state.step.item(), state.memory.refreshes.item()
    (['main', 'readout'], 7, 1)
    """
    check_common(network, optimizer, weight_decay)
    check_readout(position, readout)
    readout_optimizer = optimizer if readout_optimizer is None else readout_optimizer
    check_optimizer("readout_optimizer", readout_optimizer)
    _check_weights(beta, alpha)
    refresh_every = _check.whole("refresh_every", refresh_every, least=1)
    readout_steps = _check.whole("readout_steps", readout_steps, least=1)
    _check.number("mix", mix, "[0, 1]")
    _check.number("temperature", temperature, "(0, inf)")
    reweight_ce = _check.flag("reweight_ce", reweight_ce)
    sizes = {
        "depth": _check.whole("depth", depth, least=0),
        "width": _check.whole("width", width, least=1),
        "pooled": _check.flag("pooled", pooled),
    }
    beta, mix, temperature = float(beta), float(mix), float(temperature)  # Python's change no dtype
    period = refresh_every + readout_steps

    def snapshot(main: Learner, reader: Learner, x: Array, before: Snapshot | None = None) -> Snapshot:
        takes = stages.upto(network, _variables(main), x, position)
        params = jax.tree.map(lambda take, leaf: leaf if take else None, takes, main.params)
        frozen = Learner(reader.params, reader.collections)
        if before is not None:
            return before._replace(
                params=params, collections=main.collections, readout=frozen, refreshes=before.refreshes + 1
            )
        dtype = jax.eval_shape(lambda: predict(network, main, x)).dtype
        count = jnp.zeros((), jnp.int32)
        return Snapshot(params, main.collections, frozen, count, count, jnp.ones((), dtype))

    def init(key, batch: Batch) -> State:
        state = init_state(network, optimizer, key, batch)
        reader, stage = fitting(network, state.main, batch.x, position, readout, **sizes)
        learner = init_readout(reader, readout_optimizer, jax.random.fold_in(key, 1), stage)
        state = state.with_learners(readout=learner)
        return state._replace(memory=snapshot(state.main, learner, jnp.asarray(batch.x)))

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        x = jnp.asarray(batch.x)
        reader, _ = fitting(network, state.main, x, position, readout, **sizes)
        number, phase = jnp.divmod(state.step, period)

        def student() -> tuple[State, Info]:
            memory = state.memory
            readings = snapshot_logits(network, state, x, position=position, readout=readout, **sizes)
            drawn = weights(readings, batch.y, beta, alpha)
            weight = jnp.where(memory.refreshes > 0, drawn, 1).astype(memory.mean_weight.dtype)

            def weighted(values: Float[Array, " n"]) -> Float[Array, ""]:
                # With beta 0 the program is that of plain distillation, so that no bit depends on the compiler.
                return (values if beta == 0 else weight * values).mean()

            def objective(logits, ridge):
                each = losses(logits, batch.y)
                loss = each.mean()
                classified = weighted(each) if reweight_ce else loss
                if mix == 0:
                    return Info(classified + ridge, loss, jnp.zeros_like(loss)), ()
                penalty = temperature**2 * weighted(divergence(logits, batch.teacher_logits, temperature))
                return Info((1 - mix) * classified + mix * penalty + ridge, loss, penalty), ()

            # The number of the update of the student, which determines the dropout masks.
            step = number * refresh_every + phase
            main, info, _ = minimise(network, optimizer, state.main, x, objective, step=step, weight_decay=weight_decay)
            wrong = errors(readings, batch.y).sum(dtype=jnp.int32)
            memory = memory._replace(errors=wrong, mean_weight=weight.mean())
            return state.stepped(main=main)._replace(memory=memory), info

        def reading() -> tuple[State, Info]:
            stage = stages.apply(network, _variables(state.main), x, (position,))[1][position]

            def objective(logits, ridge):
                loss = losses(logits, batch.y).mean()
                return Info(loss + ridge, loss, jnp.zeros_like(loss)), ()

            step = number * readout_steps + phase - refresh_every
            learner, info, _ = minimise(
                reader, readout_optimizer, state.others["readout"], lax.stop_gradient(stage), objective, step=step
            )
            refreshed = snapshot(state.main, learner, x, state.memory)
            memory = jax.tree.map(lambda new, old: jnp.where(phase == period - 1, new, old), refreshed, state.memory)
            return state.stepped(readout=learner)._replace(memory=memory), info

        return lax.cond(phase < refresh_every, student, reading)

    return checked(init, update)


def weights(logits: Logits, labels: Real[Array, " n"], beta: float, alpha: float = 1.0) -> Float[Array, " n"]:
    """The weights of examples, from the outputs of a readout: exp(beta cm^alpha) where it errs, and 1 elsewhere.

    cm is `terms.confidence_margin`, in [0, 1], and weights are in [1, e^beta]. With `alpha` 0 they are e^beta on all
    errors, and with `beta` 0 they are 1. No gradient flows through them (Tiwari et al. 2024).

    Args:
        logits: outputs of the readout, `(n,)` or `(n, k)`.
        labels: -1 and +1 for outputs `(n,)`, class indices for outputs `(n, k)`.
        beta: zero or above.
        alpha: zero or above.

    Raises:
        ValueError: `beta` or `alpha` negative or not finite; labels that do not fit.

    >>> weights(jnp.array([3.0, -3.0]), jnp.array([1.0, 1.0]), 1.0, 0.0).round(3).tolist()
    [1.0, 2.718]
    """
    _check_weights(beta, alpha)
    margin = lax.stop_gradient(confidence_margin(logits))
    return jnp.where(errors(logits, labels), jnp.exp(beta * margin**alpha), 1).astype(margin.dtype)


def snapshot_logits(
    network: nn.Module,
    state: State,
    x: Real[Array, "n ..."],
    *,
    position: str,
    depth: int = 0,
    width: int = 256,
    pooled: bool = True,
    readout: nn.Module | None = None,
) -> Float[Array, " n"] | Float[Array, "n k"]:
    """The outputs, `(n,)` or `(n, k)`, of the readout of the last refresh for x `(n, ...)`, in evaluation mode.

    `weights` turns them into the weights of the examples, `terms.errors` into the errors of the readout, and
    `terms.confidence_margin` into its margins. Before the first refresh, when `state.memory.refreshes` is 0, they are
    outputs of the untrained readout and the weights are 1.

    Args:
        network: the student.
        state: a state of `dedier`.
        x: examples.
        position: the option of `dedier` of this name.
        depth: likewise.
        width: likewise.
        pooled: likewise.
        readout: likewise.
    """
    x, memory = jnp.asarray(x), state.memory
    reader, _ = fitting(network, state.main, x, position, readout, depth=depth, width=width, pooled=pooled)
    # The stage does not depend on the parameters that the snapshot lacks.
    params = jax.tree.map(
        lambda kept, now: now if kept is None else kept, memory.params, state.params, is_leaf=lambda leaf: leaf is None
    )
    stage = stages.apply(network, {"params": params, **memory.collections}, x, (position,))[1][position]
    return predict(reader, memory.readout, stage)


def updates(student_updates: int, refresh_every: int, readout_steps: int) -> int:
    """The number of updates of `dedier` that ends with the given number of updates of the student.

    Args:
        student_updates: the number of updates of the student, zero or above.
        refresh_every: the option of `dedier` of this name.
        readout_steps: the option of `dedier` of this name.

    Raises:
        ValueError: a number out of range.

    >>> updates(10, 5, 3), updates(11, 5, 3)
    (13, 17)
    """
    student_updates = _check.whole("student_updates", student_updates, least=0)
    refresh_every = _check.whole("refresh_every", refresh_every, least=1)
    readout_steps = _check.whole("readout_steps", readout_steps, least=1)
    return student_updates + max(0, student_updates - 1) // refresh_every * readout_steps


def _check_weights(beta: Any, alpha: Any) -> None:
    _check.number("beta", beta, "[0, inf)")
    _check.number("alpha", alpha, "[0, inf)")


def _variables(learner: Learner) -> dict[str, Any]:
    return {"params": learner.params, **learner.collections}
