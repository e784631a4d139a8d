"""The logistic regression of linear probes, as a compiled program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from gsjax.probes._banks import flat
from gsjax.probes._search import NO_VOTE

__all__ = ["LinearProbe", "regression"]


class LinearProbe(NamedTuple):
    """A linear probe, and how its solver ended.

    The logits of x `(n, d)` are `(x - mean) @ weight + bias`, one for each of `classes (c,)`, the labels in increasing
    order. `gradient` is the norm of the gradient of the objective relative to that at weights of zero, after `steps`
    steps, and `converged` says whether it is within the tolerance.
    """

    weight: Float[Array, "d c"]
    bias: Float[Array, " c"]
    mean: Float[Array, " d"]
    classes: Int[Array, " c"]
    gradient: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]

    def logits(self, x: Real[Array, "n ..."]) -> Float[Array, "n c"]:
        """The logits of the classes for x `(n, ...)`, flattened."""
        centred = flat(jnp.asarray(x)) - self.mean
        return jnp.matmul(centred, self.weight, precision=lax.Precision.HIGHEST) + self.bias

    def votes(self, x: Real[Array, "n ..."]) -> Int[Array, " n"]:
        """The labels `(n,)` of the largest logits for x `(n, ...)`, of equal ones the smallest label.

        The vote is `NO_VOTE` where a logit is not finite.
        """
        return _compiled(LinearProbe._votes)(self, x)

    def _votes(self, x: Array) -> Int[Array, " n"]:
        logits = self.logits(x)
        return jnp.where(jnp.isfinite(logits).all(axis=1), self.classes[logits.argmax(axis=1)], NO_VOTE)


def regression(
    bank: Float[Array, "m d"],
    labels: Int[Array, " m"],
    classes: Int[Array, " c"],
    *,
    strength: ArrayLike,
    tolerance: ArrayLike | None = None,
    max_steps: ArrayLike = 1000,
) -> LinearProbe:
    """The probe of `linear_probe`, for labels among `classes`; nothing is checked."""
    if tolerance is None:
        tolerance = float(jnp.finfo(bank.dtype).eps) ** 0.5
    return _compiled(_regression)(bank, labels, classes, strength, tolerance, max_steps)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


class _Search(NamedTuple):
    """The params of a step, the state of the optimiser and the number of steps."""

    params: tuple[Float[Array, "d c"], Float[Array, " c"]]
    state: Any
    steps: Int[Array, ""]


def _regression(
    bank: Array, labels: Array, classes: Array, strength: Array, tolerance: Array, max_steps: Array
) -> LinearProbe:
    mean = bank.mean(axis=0)
    size = jnp.sqrt(jnp.square(bank - mean).sum(axis=1).mean())
    scale = jnp.where(size > 0, size, 1)
    x, y = (bank - mean) / scale, jnp.searchsorted(classes, labels)

    def objective(params: tuple[Array, Array]) -> Array:
        weight, bias = params
        logits = jnp.matmul(x, weight, precision=lax.Precision.HIGHEST) + bias
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).sum()
        return loss + strength / 2 * jnp.square(weight).sum()

    solver = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def gradient(search: _Search) -> Array:
        return optax.tree.norm(optax.tree.get(search.state, "grad"))

    def advance(search: _Search) -> _Search:
        value, grad = value_and_grad(search.params, state=search.state)
        updates, state = solver.update(grad, search.state, search.params, value=value, grad=grad, value_fn=objective)
        params = jax.tree.map(jnp.add, search.params, updates)
        return _Search(params, state, search.steps + 1)

    params = jnp.zeros((x.shape[1], len(classes)), x.dtype), jnp.zeros(len(classes), x.dtype)
    # The first evaluation, which is otherwise a branch of every step.
    value, grad = jax.value_and_grad(objective)(params)
    search = _Search(params, optax.tree.set(solver.init(params), value=value, grad=grad), jnp.array(0))
    first = gradient(search)
    goal = jnp.asarray(tolerance, x.dtype) * first
    search = lax.while_loop(lambda search: (gradient(search) > goal) & (search.steps < max_steps), advance, search)
    weight, bias = search.params
    relative = gradient(search) / jnp.where(first > 0, first, 1)
    return LinearProbe(weight / scale, bias, mean, classes, relative, search.steps, gradient(search) <= goal)
