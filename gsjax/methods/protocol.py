"""The protocol of the methods: what they take and give, how they call a network, and the step they all end with.

A network is a flax.linen module with outputs `(n,)`, one logit for the class +1 against -1, or `(n, k)`, logits of k
classes. Where its `__call__` takes `train`, updates call it with True: dropout draws from the rng collection
"dropout", and collections beside "params", such as "batch_stats", are carried from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, Real

from gsjax import _check
from gsjax.networks import stages

__all__ = [
    "Batch",
    "Info",
    "Method",
    "State",
    "check_batch",
    "check_common",
    "checked",
    "initial",
    "minimise",
    "predict",
]


class Batch(NamedTuple):
    """Examples, and what is known of them; None where a method does not ask for it.

    `x (n, ...)`; `y (n,)`, -1 and +1 for a network with outputs `(n,)`, class indices for one with outputs `(n, k)`;
    `group`, `environment` and `index` (the example's number in the data set), whole numbers `(n,)`; `teacher_logits`,
    of the shape of the outputs.
    """

    x: Real[Array, "n ..."]
    y: Real[Array, " n"]
    group: Int[Array, " n"] | None = None
    environment: Int[Array, " n"] | None = None
    index: Int[Array, " n"] | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
    teacher_logits: Float[Array, "n ..."] | None = None


class State(NamedTuple):
    """What training carries from step to step.

    `params` of the network that predicts, its other `collections`, the `optimizer`'s own state, the number of the
    `step`, the `key` from which dropout draws, and the method's own `memory` (`()` where it keeps none).
    """

    params: PyTree
    collections: dict[str, Any]
    optimizer: PyTree
    step: Int[Array, ""]
    key: Key[Array, ""]
    memory: PyTree


class Info(NamedTuple):
    """How the params before the step stood on its batch.

    The `objective`, which the step was to lower, weight decay included; the `loss`, the mean over examples (in `irm`
    and `vrex`: over environments) of the classification loss in nats; the method's own `penalty`, 0 where it has none.
    """

    objective: Float[Array, ""]
    loss: Float[Array, ""]
    penalty: Float[Array, ""]


class Method(NamedTuple):
    """A way of training: `init(key, batch) -> state` and `update(state, batch) -> (state, info)`, pure functions.

    `init` takes one batch, or all data, for their shapes. It also checks their values, which a compiled `update` can
    not: a `ValueError` names what is wrong.
    """

    init: Callable[[Key[Array, ""], Batch], State]
    update: Callable[[State, Batch], tuple[State, Info]]


def predict(network: nn.Module, state: State, x: Real[Array, "n ..."]) -> Float[Array, " n"] | Float[Array, "n k"]:
    """The outputs, `(n,)` or `(n, k)`, of the network of a `state` for x `(n, ...)`, not in training mode.

    >>> from gsjax import methods, networks
    >>> network, x = networks.MLP((4,)), jnp.ones((3, 2))
    >>> state = methods.erm.erm(network, optax.sgd(0.1)).init(jax.random.key(0), Batch(x, jnp.ones(3)))
    >>> predict(network, state, x).shape
    (3,)
    """
    return _outputs(network.apply({"params": state.params, **state.collections}, x), x)


def check_common(network: Any, optimizer: Any, weight_decay: Any) -> None:
    """Checks what every constructor takes.

    Raises:
        ValueError: `network` is no flax.linen module, `optimizer` none of optax, or `weight_decay` no number, 0 or
            above.
    """
    is_module = isinstance(network, nn.Module)
    _check.require(is_module, "network", "a flax.linen module", _class(network))
    is_optimizer = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    _check.require(is_optimizer, "optimizer", "an optimiser of optax, such as optax.adam(1e-3)", _class(optimizer))
    _check.number("weight_decay", weight_decay, "[0, inf)")


def check_batch(name: str, batch: Any) -> None:
    """`batch` is a `Batch`."""
    _check.require(isinstance(batch, Batch), name, "a gsjax.methods.Batch(x, y)", _class(batch))


def _class(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def initial(network: nn.Module, optimizer: optax.GradientTransformation, key: Key[Array, ""], batch: Batch) -> State:
    """The state of a network newly drawn from `key`, the same for every method, without memory."""
    check_batch("batch", batch)
    _check.real("x", batch.x)
    _check.require(
        _check.shape_of(batch.x) and 0 not in _check.shape_of(batch.x),
        "x",
        "a non-empty array (n, ...)",
        _check.shape_of(batch.x),
    )
    _check.finite("x", batch.x)
    n, of_labels = len(batch.x), _check.shape_of(batch.y) if batch.y is not None else None
    _check.require(of_labels == (n,), "y", f"shape ({n},), one label an example", f"shape {of_labels}")
    of_params, of_dropout = jax.random.split(key)
    variables = dict(network.init(of_params, jnp.asarray(batch.x)[:1]))  # shapes and dtype alone matter
    _check.require("params" in variables, "network", "a module with parameters", f"{type(network).__name__} without")
    params = variables.pop("params")
    return State(params, variables, optimizer.init(params), jnp.zeros((), jnp.int32), of_dropout, ())


def minimise(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    objective: Callable[[Array, Array], tuple[Info, Any]],
    *,
    weight_decay: float,
) -> tuple[State, Info, Any]:
    """One step of the optimiser on the objective of a method: the state after it, its info, what the method remembers.

    `objective(logits, ridge)` takes the outputs in training mode and (weight_decay / 2) ||params||^2.
    """
    training = stages.mode(network, True)
    x, rngs = jnp.asarray(batch.x), {"dropout": jax.random.fold_in(state.key, state.step)}

    def value(params: PyTree) -> tuple[Array, Any]:
        variables = {"params": params, **state.collections}
        logits, collections = network.apply(variables, x, rngs=rngs, mutable=list(state.collections), **training)
        # Flax begins running statistics in float32 and goes on in the precision of the input.
        collections = jax.tree.map(lambda new, old: new.astype(old.dtype), collections, state.collections)
        ridge = weight_decay / 2 * optax.tree.norm(params, squared=True)
        info, remembered = objective(_outputs(logits, x), ridge)
        return info.objective, (info, remembered, collections)

    grads, (info, remembered, collections) = jax.grad(value, has_aux=True)(state.params)
    updates, moments = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state._replace(params=params, collections=collections, optimizer=moments, step=state.step + 1)
    return state, info, remembered


def checked(
    init: Callable[[Key[Array, ""], Batch], State], update: Callable[[State, Batch], tuple[State, Info]]
) -> Method:
    """The method of `init` and `update`, whose `init` raises whatever `update` would on the same batch."""

    def init_checked(key: Key[Array, ""], batch: Batch) -> State:
        state = init(key, batch)
        if _check.is_concrete(batch):
            jax.eval_shape(lambda state: update(state, batch), state)  # the values of the batch stay in sight
        return state

    return Method(init_checked, update)


def _outputs(logits: Any, x: Any) -> Array:
    """The outputs of a network, of one of the two shapes."""
    _check.outputs("network", _check.output("network", logits), len(x), classes=True)
    return logits
