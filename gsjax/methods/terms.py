"""The terms of the objectives: losses per example, and means over groups of examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real

from gsjax import _check

__all__ = ["LOSSES", "Logits", "annealed", "classes", "confidence_margin", "errors", "losses", "mean_by", "members"]

Logits = Float[Array, " n"] | Float[Array, "n k"]
LOSSES = ("cross_entropy", "hinge")


def classes(logits: Logits, y: Real[Array, " n"]) -> tuple[Int[Array, " n"], int]:
    """The class index of each example (0 for -1, 1 for +1), and the number of classes.

    Raises:
        ValueError: `y` is not `(n,)`, not -1 and +1 for outputs `(n,)`, or not indices below k for outputs `(n, k)`.
    """
    if logits.ndim == 1:
        _check.labels("y", y, len(logits))
        return (jnp.asarray(y) > 0).astype(jnp.int32), 2
    return members("y", y, *logits.shape), logits.shape[1]


def errors(logits: Logits, y: Real[Array, " n"]) -> Bool[Array, " n"]:
    """Whether the likeliest class of each example is not its label; of equal ones the first is the likeliest.

    Raises:
        ValueError: as in `classes`.

    >>> errors(jnp.array([2.0, -1.0]), jnp.array([1.0, 1.0])).tolist()
    [False, True]
    """
    label, _ = classes(logits, y)
    return (logits > 0 if logits.ndim == 1 else logits.argmax(axis=1)) != label


def losses(logits: Logits, y: Real[Array, " n"], loss: str = "cross_entropy") -> Float[Array, " n"]:
    """The loss of each example, by the name of the loss, one of `LOSSES`.

    "cross_entropy", in nats: log(1 + exp(-y f)) for outputs `(n,)`, softmax cross-entropy for `(n, k)`.
    "hinge": max(0, 1 - y f) for outputs `(n,)`. Its derivative at a margin y f of exactly 1 is taken as 0.

    Raises:
        ValueError: as in `classes`; an unknown `loss`; "hinge" for outputs `(n, k)`.

    >>> (losses(jnp.zeros(2), jnp.array([-1.0, 1.0])) / jnp.log(2)).tolist()
    [1.0, 1.0]
    >>> losses(jnp.array([0.5, 0.5, 2.0]), jnp.array([-1.0, 1.0, 1.0]), "hinge").tolist()
    [1.5, 0.5, 0.0]
    """
    _check.choice("loss", loss, LOSSES)
    label, _ = classes(logits, y)
    if logits.ndim == 1:
        margins = (2 * label - 1) * logits
        return jax.nn.relu(1 - margins) if loss == "hinge" else jax.nn.softplus(-margins)
    _check.require(loss == "cross_entropy", "loss", "cross_entropy for outputs (n, k)", repr(loss))
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def confidence_margin(logits: Logits) -> Float[Array, " n"]:
    """The largest minus the second largest probability of each example, in [0, 1] (Tiwari et al. 2024).

    For outputs `(n,)`, the probabilities are those of the two classes, and the margin is tanh(|f| / 2).

    Raises:
        ValueError: logits that are neither `(n,)` nor `(n, k)` with k > 1.

    >>> confidence_margin(jnp.log(jnp.array([[0.25, 0.5, 0.25], [0.5, 0.0, 0.5]]))).tolist()
    [0.25, 0.0]
    """
    logits = _check.floating("logits", logits)
    _check.require(logits.ndim > 0, "logits", "outputs (n,) or (n, k)", f"shape {logits.shape}")
    _check.outputs("logits", logits.shape, len(logits), classes=True)
    if logits.ndim == 1:
        return jnp.tanh(jnp.abs(logits) / 2)
    first, second = lax.top_k(logits, 2)[0].T
    # p1 - p2 = p1 (1 - exp(f2 - f1)), without a difference of nearly equal numbers.
    return -jnp.exp(first - jax.nn.logsumexp(logits, axis=1)) * jnp.expm1(second - first)


def mean_by(
    values: Float[Array, " n"], member: Int[Array, " n"], count: int
) -> tuple[Float[Array, " count"], Bool[Array, " count"]]:
    """The mean of `values` over each of `count` groups, and which groups have members; the mean is 0 without members.

    >>> [array.tolist() for array in mean_by(jnp.array([1.0, 3.0, 5.0]), jnp.array([0, 0, 2]), 3)]
    [[2.0, 0.0, 5.0], [True, False, True]]
    """
    one_hot = jnp.arange(count)[:, None] == member
    sizes = one_hot.sum(axis=1)
    return jnp.where(one_hot, values, 0).sum(axis=1) / jnp.maximum(sizes, 1), sizes > 0


def annealed(loss: Array, penalty: Array, ridge: Array, step: Array, weight: float, anneal: int) -> Array:
    """(loss + w penalty + ridge) / max(w, 1), with w = 1 before step `anneal` and `weight` from that step on."""
    w = jnp.where(step < anneal, 1.0, weight)
    return (loss + w * penalty + ridge) / jnp.maximum(w, 1.0)


def members(name: str, value: Any, n: int, count: int) -> Int[Array, " n"]:
    """Checks the field `name` of a batch of n examples and returns it as whole numbers from 0 to count - 1.

    Raises:
        ValueError: the field is None, not whole numbers `(n,)`, or out of range.
    """
    expected = f"whole numbers ({n},) from 0 to {count - 1}"
    _check.real(name, value, expected)
    value = value if hasattr(value, "dtype") else np.asarray(value)
    whole = jnp.issubdtype(jnp.result_type(value), jnp.integer) and _check.array_shape(value) == (n,)
    _check.require(whole, name, expected, f"{jnp.result_type(value)} of shape {_check.array_shape(value)}")
    if _check.is_concrete(value):
        numbers = np.asarray(value)
        _check.require(((numbers >= 0) & (numbers < count)).all(), name, expected, np.unique(numbers)[[0, -1]].tolist())
    return jnp.asarray(value).astype(jnp.int32)
