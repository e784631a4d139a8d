"""Distillation: a student that matches the outputs of a teacher, its features at a stage, or both."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Learner, Method, State, check_batch, check_common, check_logits, checked
from gsjax.methods.steps import init_state, minimise
from gsjax.methods.terms import Logits, losses
from gsjax.networks import stages

__all__ = ["distillation", "divergence", "feature_distance", "with_teacher"]


def distillation(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    mix: float = 0.5,
    temperature: float = 1.0,
    position: str | None = None,
    feature_share: float | None = None,
    weight_decay: float = 0.0,
) -> Method:
    """Distillation (Hinton et al. 2015), of outputs with a temperature, of features at a stage, or of both.

    (1 - mix) mean_i loss_i + mix mean_i teacher_i + (weight_decay / 2) ||theta||^2,
    teacher_i = (1 - feature_share) T^2 KL(p_i || q_i) + feature_share mean_u (h_iu - t_iu)^2

    Means are over the examples of the batch, in nats. p and q are the probabilities of teacher and student at
    temperature T: softmax(f / T) for outputs `(n, k)`, sigmoid(f / T) for outputs `(n,)`. The factor T^2 keeps the size
    of the gradient as T grows. The features h are the student's stage `position` in training mode, t are
    `batch.teacher_features`, and mean_u is over the units of the stage (Romero et al. 2015, without a regressor).

    With `mix` 1 and `feature_share` 1 only features are matched, as in the representation distillation of Zhang et al.
    2024: without `weight_decay` no gradient reaches the layers after the stage, which keep their initial values. With
    `mix` 0 the method is `erm`, and needs no teacher.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`.
        optimizer: an optax optimiser.
        mix: the share of the teacher's term, in [0, 1].
        temperature: T, above zero.
        position: the name of a stage of the network (`networks.stages`); None matches outputs only.
        feature_share: the share of the features in the teacher's term, in [0, 1]; 1 by default if `position` is given.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range; a `feature_share` without `position`; from `init`: a `position` that is not
            a stage of the network; outputs of the teacher that are needed and missing, not finite, or not of the shape
            of the student's outputs, such as those of other classes; the same for features; the errors of `erm`.

    >>> from gsjax import networks
    >>> method = distillation(networks.MLP((8,)), optax.sgd(0.1), temperature=2.0)
    >>> batch = Batch(jnp.eye(2), jnp.array([-1.0, 1.0]), teacher_logits=jnp.array([-3.0, 3.0]))
    >>> state, info = method.update(method.init(jax.random.key(0), batch), batch)
    >>> state.step.item(), bool(info.penalty > 0)
    (1, True)
    """
    check_common(network, optimizer, weight_decay)
    _check.number("mix", mix, "[0, 1]")
    _check.number("temperature", temperature, "(0, inf)")
    named = position is None or isinstance(position, str)
    _check.require(named, "position", "the name of a stage, or None", repr(position))
    if feature_share is None:
        feature_share = 0.0 if position is None else 1.0
    else:
        _check.number("feature_share", feature_share, "[0, 1]")
        _check.require(position is not None, "feature_share", "none without a position", feature_share)
    mix, temperature, share = (_check.python(value) for value in (mix, temperature, feature_share))
    # Terms of weight zero are left out, so that they need no teacher and change no bit.
    taught = not _check.known(mix, 0)
    by_logits = taught and not _check.known(share, 1)
    by_features = taught and not _check.known(share, 0)
    wanted = (position,) if by_features and position is not None else ()

    def init(key, batch: Batch) -> State:
        state = init_state(network, optimizer, key, batch)
        if position is not None:
            known = stages.names(network, jax.ShapeDtypeStruct(jnp.shape(batch.x), jnp.asarray(batch.x).dtype))
            _check.require(position in known, "position", f"one of the stages {', '.join(known)}", repr(position))
        return state

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        def objective(logits, ridge, *found):
            loss = losses(logits, batch.y).mean()
            penalty = jnp.zeros_like(loss)
            if by_logits:
                each = divergence(logits, batch.teacher_logits, temperature)
                penalty += (1 - share) * temperature**2 * each.mean()
            for name in wanted:
                penalty += share * feature_distance(found[0][name], batch.teacher_features).mean()
            mixed = (1 - mix) * loss + mix * penalty if taught else loss
            return Info(mixed + ridge, loss, penalty), ()

        main, info, _ = minimise(
            network,
            optimizer,
            state.main,
            batch.x,
            objective,
            step=state.step,
            weight_decay=weight_decay,
            stages=wanted,
        )
        return state.stepped(main=main), info

    return checked(init, update)


def divergence(logits: Logits, teacher_logits: Logits | None, temperature: float = 1.0) -> Float[Array, " n"]:
    """KL(p || q) in nats for each example, at a temperature: p are the teacher's probabilities, q the student's.

    T^2 KL tends to the sum of squares of the differences of logits, centred over the k classes, over 2 k as the
    temperature T grows (Hinton et al. 2015, Eq. 4, whose logits are centred).

    Args:
        logits: the student's outputs, `(n,)` or `(n, k)`.
        teacher_logits: the teacher's outputs, of the same shape. No gradient flows through them.
        temperature: T, above zero.

    Raises:
        ValueError: outputs of the teacher that are missing, not finite, or of another shape than the student's.

    >>> divergence(jnp.zeros(1), jnp.zeros(1)).tolist()
    [0.0]
    """
    _check_teacher("teacher_logits", teacher_logits, logits.shape, "the student's outputs")
    aims = lax.stop_gradient(jnp.asarray(teacher_logits, logits.dtype))
    student, teacher = (_log_probabilities(f / temperature) for f in (logits, aims))
    return optax.losses.kl_divergence_with_log_targets(student, teacher)


def feature_distance(
    features: Float[Array, "n ..."], teacher_features: Float[Array, "n ..."] | None
) -> Float[Array, " n"]:
    """The mean square difference over the units of a stage for each example, between student and teacher.

    Raises:
        ValueError: features of the teacher that are missing, not finite, or of another shape than the student's.

    >>> feature_distance(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0]])).tolist()
    [2.0]
    """
    _check_teacher("teacher_features", teacher_features, features.shape, "the student's stage")
    aims = lax.stop_gradient(jnp.asarray(teacher_features, features.dtype))
    return jnp.square(features - aims).reshape(len(features), -1).mean(axis=1)


def with_teacher(
    network: nn.Module, teacher: State | Learner, batch: Batch, position: str | None = None, *, batch_size: int = 256
) -> Batch:
    """The batch with the outputs of a teacher, and with its features at a stage, for all of its examples.

    The teacher is in evaluation mode. Its outputs are `teacher_logits`, its stage `position` the `teacher_features`.
    The function also works under `jit` and, for several teachers, `vmap`.

    Args:
        network: the teacher's network.
        teacher: the teacher: a state, of which the main learner is taken, or a learner.
        batch: all examples of a data set, or some of them; existing outputs of a teacher are replaced.
        position: the name of a stage of the network; None leaves the field `teacher_features` as it is.
        batch_size: how many examples the network takes at a time.

    Raises:
        ValueError: `batch` is not a `Batch`; a `batch_size` below one; a `position` that is not a stage of the network;
            outputs that are neither `(n,)` nor `(n, k)`.

    >>> from gsjax import methods, networks
    >>> network, batch = networks.MLP((8,)), Batch(jnp.eye(2), jnp.array([-1.0, 1.0]))
    >>> teacher = methods.init_learner(network, optax.sgd(0.1), jax.random.key(0), batch.x)
    >>> taught = with_teacher(network, teacher, batch, "h1")
    >>> taught.teacher_logits.shape, taught.teacher_features.shape
    ((2,), (2, 8))
    """
    check_batch("batch", batch)
    batch_size = _check.whole("batch_size", batch_size, least=1)
    x = jnp.asarray(batch.x)
    if position is not None:
        known = stages.names(network, jax.ShapeDtypeStruct(x.shape, x.dtype))
        _check.require(position in known, "position", f"one of the stages {', '.join(known)}", repr(position))
    variables = {"params": teacher.params, **teacher.collections}
    check_logits(jax.eval_shape(network.apply, variables, x), len(x))

    def one(x: Array) -> tuple[Array, ...]:
        logits, found = stages.apply(network, variables, x[None], () if position is None else (position,))
        return logits[0], *(stage[0] for stage in found.values())

    logits, *features = lax.map(one, x, batch_size=min(batch_size, len(x)))
    batch = batch._replace(teacher_logits=logits)
    return batch._replace(teacher_features=features[0]) if features else batch


def _log_probabilities(logits: Logits) -> Float[Array, "n k"]:
    """The logarithms of the probabilities of the classes; one output is the logit of class +1 against -1."""
    return jax.nn.log_softmax(logits if logits.ndim == 2 else jnp.stack([jnp.zeros_like(logits), logits], axis=1))


def _check_teacher(name: str, value: Array | None, shape: tuple[int, ...], whose: str) -> None:
    expected = f"numbers of shape {shape}, that of {whose}"
    _check.real(name, value, expected)
    got = _check.array_shape(value)
    _check.require(got == shape, name, expected, f"shape {got}")
    _check.finite(name, value)
