"""The parts that methods share: initial learners, and the optimiser step on an objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key, PyTree, Real

from gsjax import _check
from gsjax.methods.protocol import Batch, Info, Learner, State, check_batch, check_logits
from gsjax.networks import stages as network_stages

__all__ = ["init_learner", "init_state", "minimise"]


def init_learner(
    network: nn.Module, optimizer: optax.GradientTransformation, key: Key[Array, ""], x: Real[Array, "n ..."]
) -> Learner:
    """A learner with a network initialised from `key`, for inputs shaped like x `(n, ...)`.

    Raises:
        ValueError: `x` is empty or not finite; the network has no parameters.

    >>> from gsjax import networks
    >>> learner = init_learner(networks.MLP((4,)), optax.sgd(0.1), jax.random.key(0), jnp.ones((3, 2)))
    >>> jax.tree.map(jnp.shape, learner.params)
    {'W1': {'kernel': (2, 4)}, 'W2': {'kernel': (4, 1)}}
    """
    _check_inputs(x)
    params_key, dropout_key = jax.random.split(key)
    variables = dict(network.init(params_key, jnp.asarray(x)[:1]))  # only shapes and dtype matter
    _check.require("params" in variables, "network", "a module with parameters", f"{type(network).__name__} without")
    params = variables.pop("params")
    return Learner(params, variables, optimizer.init(params), dropout_key)


def init_state(network: nn.Module, optimizer: optax.GradientTransformation, key: Key[Array, ""], batch: Batch) -> State:
    """The initial state with a main learner initialised from `key`, without other learners and without memory.

    All methods that use it start from the same network for the same key.

    Raises:
        ValueError: `batch` is not a `Batch`; labels that are not `(n,)`; the errors of `init_learner`.
    """
    check_batch("batch", batch)
    _check_inputs(batch.x)
    n, labels = len(batch.x), _check.array_shape(batch.y) if batch.y is not None else None
    _check.require(labels == (n,), "y", f"shape ({n},), one label per example", f"shape {labels}")
    main = init_learner(network, optimizer, key, batch.x)
    return State(**main._asdict(), step=jnp.zeros((), jnp.int32), memory=())


def minimise(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    learner: Learner,
    x: Real[Array, "n ..."],
    objective: Callable[..., tuple[Info, Any]],
    *,
    step: Int[Array, ""],
    weight_decay: float = 0.0,
    stages: Sequence[str] = (),
    only: PyTree | None = None,
) -> tuple[Learner, Info, Any]:
    """One optimiser step on an objective; all methods take their steps with it.

    A partial step, with `only`, changes only the selected parameters and their optimiser state (momentum, second
    moments). All other parameters, their optimiser state, and the collections, such as running statistics, stay as
    they are, bit for bit. Optimiser state that belongs to no parameter, such as the step count, still advances. If the
    partial step must not affect a schedule or Adam's bias correction, give it its own optimiser state,
    `learner._replace(optimizer=own_state)`, which the method keeps in its memory.

    Args:
        network: the network of the `learner`.
        optimizer: the optimiser whose state is in the `learner`.
        learner: the learner to train.
        x: inputs of the network, `(n, ...)`: the examples, or a stage of another network.
        objective: a function `objective(logits, ridge)`, or `objective(logits, ridge, stages)` if `stages` are given,
            that returns `(info, remembered)`. Its arguments are the outputs in training mode,
            (weight_decay / 2) ||params||^2, and the stages as a dict from names to arrays `(n, ...)`. The step lowers
            `info.objective`.
        step: the number of the step; together with the learner's key it determines the dropout masks.
        weight_decay: zero or above.
        stages: the names of the stages of the network that the objective uses (`networks.stages`).
        only: bools in the structure of the params, such as those from `networks.stages.upto`; None selects all.

    Returns:
        The learner after the step, the info, and the objective's `remembered`, through which no gradient flows.

    Raises:
        ValueError: a `learner` without optimiser state; `weight_decay` negative or not finite; `stages` that the
            network does not have; `only` with another structure, with entries that are not bools, or for an optimiser
            that couples its parameters (L-BFGS); outputs that are neither `(n,)` nor `(n, k)`.

    >>> from gsjax import networks
    >>> network, x = networks.MLP((4,)), jnp.ones((3, 2))
    >>> learner = init_learner(network, optax.sgd(0.1), jax.random.key(0), x)
    >>> def objective(logits, ridge):
    ...     return Info((logits**2).mean(), jnp.zeros(()), jnp.zeros(())), logits
    >>> after, _, before = minimise(network, optax.sgd(0.1), learner, x, objective, step=0)
    >>> bool((network.apply({"params": after.params}, x) ** 2).mean() < (before**2).mean())
    True
    """
    trained = learner.optimizer is not None
    _check.require(trained, "learner", "a learner with optimiser state", "one without")
    _check.number("weight_decay", weight_decay, "[0, inf)")
    x = jnp.asarray(x)
    rngs = {} if learner.key is None else {"dropout": jax.random.fold_in(learner.key, step)}

    def value(params: PyTree) -> tuple[Array, Any]:
        variables = {"params": params, **learner.collections}
        (logits, found), collections = network_stages.apply(
            network, variables, x, stages, train=True, rngs=rngs, mutable=list(learner.collections)
        )
        check_logits(logits, len(x))
        # Flax initialises running statistics in float32 and updates them in the precision of the input.
        collections = jax.tree.map(lambda new, old: new.astype(old.dtype), collections, learner.collections)
        ridge = weight_decay / 2 * optax.tree.norm(params, squared=True)
        info, remembered = objective(logits, ridge, *([found] if stages else []))
        return info.objective, (info, remembered, collections)

    grads, (info, remembered, collections) = jax.grad(value, has_aux=True)(learner.params)
    if only is not None:
        grads = _select(_mask(only, learner.params), grads, jax.tree.map(jnp.zeros_like, grads))
    updates, moments = optimizer.update(grads, learner.optimizer, learner.params)
    params = optax.apply_updates(learner.params, updates)
    if only is None:
        return learner._replace(params=params, collections=collections, optimizer=moments), info, remembered
    params = _select(only, params, learner.params)
    moments = _select(_changed(only, learner.optimizer), moments, learner.optimizer)
    return learner._replace(params=params, optimizer=moments), info, remembered


def _mask(only: PyTree[bool], params: PyTree) -> PyTree[bool]:
    """Checks `only` and returns it."""
    same = jax.tree.structure(only) == jax.tree.structure(params)
    bools = all(isinstance(take, bool | np.bool_) for take in jax.tree.leaves(only))
    _check.require(same and bools, "only", "True or False for each leaf of the params", only)
    return only


def _changed(only: PyTree[bool], optimizer: PyTree) -> PyTree[bool]:
    """Which leaves of an optimiser's state a partial step changes: those of selected parameters or of no parameter.

    A leaf belongs to a parameter if its path ends with the path of the parameter. `optax.tree.map_params` does not
    work for optimisers whose `init` looks at the params, such as `optax.partition` with a function.
    """
    takes = dict(jax.tree.leaves_with_path(only))
    lengths = sorted({len(path) for path in takes}, reverse=True)

    def take(path: tuple[Any, ...], leaf: Array) -> bool:
        found = [takes[path[-length:]] for length in lengths if path[-length:] in takes]
        by_parameter = bool(found) or jnp.size(leaf) == 1
        got = f"{jax.tree_util.keystr(path)} of shape {jnp.shape(leaf)}"
        _check.require(by_parameter, "optimizer", "one whose state is per parameter, for a partial step", got)
        return found[0] if found else True

    return jax.tree.map_with_path(take, optimizer)


def _select(take: PyTree[bool], new: PyTree, old: PyTree) -> PyTree:
    """The leaves of `new` where `take` is True, and those of `old` elsewhere."""
    return jax.tree.map(lambda take, new, old: new if take else old, take, new, old)


def _check_inputs(x: Any) -> None:
    _check.real("x", x)
    shape = _check.array_shape(x)
    _check.require(shape and 0 not in shape, "x", "a non-empty array (n, ...)", shape)
    _check.finite("x", x)
