"""Linear probes: multinomial logistic regression on a bank, which tells what a linear readout of a stage could use."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from gsjax import _check
from gsjax.probes._banks import bank_labels, examples, flat
from gsjax.probes._regression import LinearProbe, regression

__all__ = ["LinearProbe", "linear_probe"]


def linear_probe(
    bank: Real[Array, "m ..."],
    labels: Real[Array, " m"],
    classes: int | None = None,
    *,
    strength: float = 1.0,
    tolerance: float | None = None,
    max_steps: int = 1000,
) -> LinearProbe:
    r"""Multinomial logistic regression on a bank: a linear probe of its labels (Alain and Bengio 2016).

    .. math::

        \min_{W, b} \; \sum_i \text{loss}(y_i, W^\top x_i + b) + \frac{\text{strength}}{2} \lVert W \rVert^2,

    where the loss is the softmax cross-entropy in nats. Here x is centred, and divided by the root of the mean of |x|^2
    over the bank, so that the units of x do not matter; the result has the weights for x as given. The bias has no
    penalty. Two classes have two logits as well: those of a logistic regression with one logit and half the strength.
    The solver is L-BFGS (`optax.lbfgs`).

    Inputs of the same shapes share one compiled program. The function also works under `jit` and `vmap`, where values
    are not checked; the probe of a bank that is not finite has not converged.

    Args:
        bank: examples, `(m, ...)`; all axes but the first are flattened.
        labels: their labels `(m,)`: -1 and +1, or class indices of an integer type.
        classes: the number of classes, each of which needs an example in the bank. None takes those of the labels,
            which under `jit` have to be -1 and +1 of a floating point type.
        strength: lambda, the strength of ridge.
        tolerance: on the norm of the gradient, relative to that at zero; the default is sqrt(eps).
        max_steps: the maximal number of steps; if it is reached, `converged` is false.

    Raises:
        ValueError: a bank that is empty or not finite; labels that do not fit, of one class alone, or without an
            example of one of the `classes`; strength, tolerance or `max_steps` not positive.

    >>> probe = linear_probe([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    >>> probe.votes([[-5.0], [1.4], [1.6]]).tolist(), bool(probe.converged)
    ([0, 0, 1], True)
    """
    bank = flat(examples("bank", bank))
    classes = None if classes is None else _check.whole("classes", classes, least=2)
    found = bank_labels("labels", labels, len(bank), classes)
    if _check.is_concrete(labels):
        values = jnp.asarray(np.unique(np.asarray(labels)).astype(np.int32))
    elif classes is None:
        floating = jnp.issubdtype(jnp.result_type(labels), jnp.floating)
        _check.require(floating, "classes", "the number of classes where labels are traced", classes)
        values = jnp.array([-1, 1])
    else:
        values = jnp.arange(classes)
    _check.number("strength", strength, "(0, inf)")
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")
    max_steps = _check.whole("max_steps", max_steps, least=1)
    return regression(bank, found, values, strength=strength, tolerance=tolerance, max_steps=max_steps)
