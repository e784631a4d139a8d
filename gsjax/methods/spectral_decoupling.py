"""Spectral decoupling: a penalty on the outputs, one for all classes or one per class, constant or scheduled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Method, State, check_common, checked
from gsjax.methods.steps import init_state, minimise
from gsjax.methods.terms import LOSSES, classes, losses, mean_by

__all__ = ["Schedule", "published_schedule", "spectral_decoupling"]

Schedule = Callable[[Array], Any]


def spectral_decoupling(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    strength: float | Sequence[float] | Schedule,
    target: float | Sequence[float] = 0.0,
    class_means: bool = False,
    loss_scale: float | Schedule = 1.0,
    switch: int | None = None,
    loss: str = "cross_entropy",
    weight_decay: float = 0.0,
) -> Method:
    """Spectral decoupling (Pezeshki et al. 2021, Eq. 17, divided by n) and the variants of that paper.

    loss_scale [mean_i loss_i + mean_i (strength_i / 2) (f_i - target_i)^2] + (weight_decay / 2) ||theta||^2

    Means are over the examples of the batch; the loss is cross-entropy in nats, or the hinge loss. For outputs `(n, k)`
    the square is summed over the k outputs. The outputs f are not centred at initialisation. A published factor c of
    mean f^2 corresponds to `strength = 2 c`.

    Args:
        network: a network with outputs `(n,)` or `(n, k)`.
        optimizer: an optax optimiser.
        strength: zero or above: one number, or one per class in the order -1, +1 or 0, ..., k - 1, or a function of
            the step that returns either.
        target: one number, or one per class.
        class_means: whether the penalty is a sum over classes of the means over their members in the batch (the
            variant for CelebA): sum_c mean_{i in c} (strength_c / 2) (f_i - target_c)^2. Classes without members in
            the batch add nothing.
        loss_scale: a number above zero, or a function of the step.
        switch: the step at which the schedule for Colored MNIST enters its second phase (`published_schedule`, with
            c = strength / 2). `strength` must then be one number above zero, and `loss_scale` must not be given.
        loss: "cross_entropy", or "hinge" for outputs `(n,)`, as in `terms.losses`.
        weight_decay: zero or above.

    Raises:
        ValueError: an option out of range; from `init`: a strength or target that is neither a scalar nor one number
            per class, and the errors of `erm`.

    >>> import jax
    >>> from gsjax import networks
    >>> options = {"strength": [0.2, 0.2], "target": [0.44, 2.5], "class_means": True}
    >>> method = spectral_decoupling(networks.MLP((8,)), optax.sgd(0.1), **options)
    >>> method.init(jax.random.key(0), Batch(jnp.eye(2), jnp.array([-1.0, 1.0]))).step.item()
    0
    """
    check_common(network, optimizer, weight_decay)
    _check.choice("loss", loss, LOSSES)
    if not callable(strength):
        _check.not_negative("strength", strength)
    if switch is not None:
        _check.number("strength", strength, "(0, inf)")
        _check.require(loss_scale == 1.0, "loss_scale", "none if switch is given, which sets it", loss_scale)
        schedule = published_schedule(strength / 2, switch)  # pyright: ignore[reportOperatorIssue]
        strength, loss_scale = schedule["strength"], schedule["loss_scale"]
    _check.finite("target", target)
    class_means = _check.flag("class_means", class_means)
    if not callable(loss_scale):
        _check.number("loss_scale", loss_scale, "(0, inf)")

    def init(key, batch: Batch) -> State:
        return init_state(network, optimizer, key, batch)

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        def objective(logits, ridge):
            label, count = classes(logits, batch.y)
            strengths = _per_class("strength", _evaluated(strength, state.step), count, logits.dtype)[label]
            targets = _per_class("target", target, count, logits.dtype)[label]
            distances = (logits.reshape(len(label), -1) - targets[:, None]) ** 2
            terms = strengths / 2 * distances.sum(axis=1)
            penalty = mean_by(terms, label, count)[0].sum() if class_means else terms.mean()
            value = losses(logits, batch.y, loss).mean()
            scale = jnp.asarray(_evaluated(loss_scale, state.step), logits.dtype)
            return Info(scale * (value + penalty) + ridge, value, penalty), ()

        main, info, _ = minimise(
            network, optimizer, state.main, batch.x, objective, step=state.step, weight_decay=weight_decay
        )
        return state.stepped(main=main), info

    return checked(init, update)


def published_schedule(c: float = 2e-5, switch: int = 450) -> dict[str, Schedule]:
    """The published options `strength` and `loss_scale` for Colored MNIST (code of Pezeshki et al. 2021).

    The loss is NLL + c mean f^2 before step `switch`, and c (NLL + mean f^2) from that step on. Adam's state is kept at
    the switch, so the factor c makes the steps small until Adam has forgotten the earlier, larger gradients.

    Raises:
        ValueError: `c` is not positive, or `switch` is not a whole number.

    >>> options = published_schedule(c=0.01, switch=10)
    >>> [float(options[name](step)) for step in (9, 10) for name in ("strength", "loss_scale")]
    [0.02, 1.0, 2.0, 0.01]
    """
    _check.number("c", c, "(0, inf)")
    switch = _check.whole("switch", switch, least=0)
    return {
        "strength": lambda step: jnp.where(step < switch, 2 * c, 2.0),
        "loss_scale": lambda step: jnp.where(step < switch, 1.0, c),
    }


def _evaluated(value: Any, step: Array) -> Any:
    return value(step) if callable(value) else value


def _per_class(name: str, value: Any, count: int, dtype: Any) -> Float[Array, " count"]:
    value = jnp.asarray(value, dtype)
    shape = np.shape(value)
    _check.require(shape in ((), (count,)), name, f"one number or {count}, one per class", f"shape {shape}")
    return jnp.broadcast_to(value, (count,))
