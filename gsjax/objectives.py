"""Margin losses and penalties in the convention of the library: sums over examples, and `strength / 2`.

The training objective is `sum_i log(1 + exp(-y_i yhat_i)) + penalty`. Outputs `yhat` and parameters `theta` are both
centred at their values at initialisation (Eqs. 3, 5 and 17 of Pezeshki et al., 2021). Some published recipes take means
or omit the 1/2; the experiments that follow them convert the strengths.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gsjax import _check

__all__ = [
    "Penalties",
    "Penalty",
    "Ridge",
    "SpectralDecoupling",
    "hinge_loss",
    "logistic_loss",
    "objective",
    "penalty_value",
    "per_example",
]


@dataclass(frozen=True)
class Ridge:
    """The penalty `(strength / 2) ||theta||^2` of Eq. 5 on the distance from initialisation.

    Raises:
        ValueError: `strength` is not one finite positive number.

    >>> float(penalty_value(Ridge(0.5), jnp.array([2.0]), jnp.array([7.0])))
    1.0
    """

    strength: float | Float[Array, ""]

    def __post_init__(self):
        _check.positive("strength", self.strength)


@dataclass(frozen=True)
class SpectralDecoupling:
    """The penalty `sum_i (strength_i / 2) (yhat_i - target_i)^2` of Eq. 17, on outputs, not on margins.

    `strength` and `target` are scalars or `(n,)`. A target that depends on the class gives the variant for CelebA. With
    target 0 the penalty does not depend on the labels.

    Raises:
        ValueError: a `strength` that is not finite and positive, or a `target` that is not finite.

    >>> float(penalty_value(SpectralDecoupling(0.5), jnp.array([7.0]), jnp.array([2.0, -2.0])))
    2.0
    """

    strength: float | Float[Array, ""] | Float[Array, " n"]
    target: float | Float[Array, ""] | Float[Array, " n"] = 0.0

    def __post_init__(self):
        _check.positive("strength", self.strength)
        _check.finite("target", self.target)


Penalty = Ridge | SpectralDecoupling
Penalties = Penalty | tuple[Penalty, ...]  # a tuple stands for the sum; the theory (`dual` and below) takes one


def _register(cls: type) -> None:
    """Registers a penalty as a pytree of its fields.

    JAX transformations rebuild penalties with leaves that are not numbers (None, sharding specs, ...). Unlike
    `jax.tree_util.register_dataclass`, this registration does not pass such leaves to the constructor and its checks.
    """
    names = tuple(field.name for field in fields(cls))

    def unflatten(_, leaves):
        penalty = object.__new__(cls)
        for name, leaf in zip(names, leaves, strict=True):
            object.__setattr__(penalty, name, leaf)
        return penalty

    def flatten(penalty):
        return tuple(getattr(penalty, name) for name in names), None

    def flatten_with_keys(penalty):
        return tuple((jax.tree_util.GetAttrKey(name), getattr(penalty, name)) for name in names), None

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


_register(Ridge)
_register(SpectralDecoupling)


def penalty_value(penalty: Penalties, theta: PyTree, logits: Float[Array, " n"]) -> Float[Array, ""]:
    """The value of a penalty at centred parameters `theta` (any pytree) and centred outputs `logits (n,)`.

    The value of a tuple of penalties is the sum of their values.

    Raises:
        ValueError: `penalty` is neither `Ridge` nor `SpectralDecoupling` nor a tuple of them, or has arrays that do not
            have `n` entries.

    >>> float(penalty_value((Ridge(0.5), SpectralDecoupling(1.0)), jnp.array([2.0]), jnp.array([2.0, -2.0])))
    5.0
    """
    if isinstance(penalty, tuple):
        return sum((penalty_value(term, theta, logits) for term in penalty), jnp.zeros((), logits.dtype))
    if isinstance(penalty, Ridge):
        _check.scalar("penalty.strength", penalty.strength)
        return penalty.strength / 2 * jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(theta)]))
    strength, target = per_example(penalty, logits.shape[0], logits.dtype)
    return jnp.sum(strength / 2 * (logits - target) ** 2)


def per_example(penalty: Penalty, n: int, dtype) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Strengths and targets `(n,)` of a spectral decoupling penalty.

    Raises:
        ValueError: `penalty` is not a `SpectralDecoupling`, or one of its arrays is neither a scalar nor `(n,)`.
    """
    n = _check.whole("n", n, least=1)
    if not isinstance(penalty, SpectralDecoupling):
        raise ValueError(f"penalty: expected Ridge or SpectralDecoupling, got {penalty!r}")
    for name, value in (("strength", penalty.strength), ("target", penalty.target)):
        _check.require(
            jnp.shape(value) in ((), (n,)), f"penalty.{name}", f"a scalar or shape ({n},)", f"shape {jnp.shape(value)}"
        )
    return (
        jnp.broadcast_to(jnp.asarray(penalty.strength, dtype), (n,)),
        jnp.broadcast_to(jnp.asarray(penalty.target, dtype), (n,)),
    )


def logistic_loss(margins: Float[Array, " n"]) -> Float[Array, ""]:
    """The sum `sum_i log(1 + exp(-m_i))` over margins `m = y yhat (n,)`, in nats (Eq. 5).

    >>> round(float(logistic_loss(jnp.zeros(2)) / jnp.log(2.0)), 6)
    2.0
    """
    return jnp.sum(jax.nn.softplus(-margins))


def hinge_loss(margins: Float[Array, " n"]) -> Float[Array, ""]:
    """The sum `sum_i max(0, 1 - m_i)` over margins `m = y yhat (n,)`.

    The derivative at a margin of exactly 1 is taken as 0, so that only margins below 1 pull.

    >>> float(hinge_loss(jnp.array([-1.0, 0.5, 3.0])))
    2.5
    >>> jax.grad(hinge_loss)(jnp.array([0.0, 1.0, 3.0])).tolist()
    [-1.0, 0.0, 0.0]
    """
    return jnp.sum(jax.nn.relu(1 - margins))


def objective(penalty: Penalties, theta: PyTree, logits: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """The training objective of Eq. 5 or 17 at centred parameters and outputs: a sum over examples, in nats.

    A tuple of penalties adds all of them to the loss.

    >>> round(float(objective(Ridge(1.0), jnp.zeros(3), jnp.zeros(2), jnp.ones(2))), 4)
    1.3863
    """
    return logistic_loss(y * logits) + penalty_value(penalty, theta, logits)
