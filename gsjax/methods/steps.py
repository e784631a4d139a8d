"""What methods are made of: learners as they begin, and the step that lowers an objective in one of them."""

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
from gsjax.networks import stages as of_networks

__all__ = ["init_learner", "init_state", "minimise"]


def init_learner(
    network: nn.Module, optimizer: optax.GradientTransformation, key: Key[Array, ""], x: Real[Array, "n ..."]
) -> Learner:
    """A learner of a network that is newly drawn from `key` for inputs such as x `(n, ...)`.

    Raises:
        ValueError: `x` is empty or not finite; the network has no parameters.

    >>> from gsjax import networks
    >>> learner = init_learner(networks.MLP((4,)), optax.sgd(0.1), jax.random.key(0), jnp.ones((3, 2)))
    >>> jax.tree.map(jnp.shape, learner.params)
    {'W1': {'kernel': (2, 4)}, 'W2': {'kernel': (4, 1)}}
    """
    _check_inputs(x)
    of_params, of_dropout = jax.random.split(key)
    variables = dict(network.init(of_params, jnp.asarray(x)[:1]))  # shapes and dtype alone matter
    _check.require("params" in variables, "network", "a module with parameters", f"{type(network).__name__} without")
    params = variables.pop("params")
    return Learner(params, variables, optimizer.init(params), of_dropout)


def init_state(network: nn.Module, optimizer: optax.GradientTransformation, key: Key[Array, ""], batch: Batch) -> State:
    """The state whose main learner is newly drawn from `key`, without others and without memory.

    It is the same for every method that begins with it.

    Raises:
        ValueError: no `Batch`; what `init_learner` raises; labels that are not `(n,)`.
    """
    check_batch("batch", batch)
    _check_inputs(batch.x)
    n, labels = len(batch.x), _check.shape_of(batch.y) if batch.y is not None else None
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
    """One step of the optimiser on an objective, which is the step of every method.

    A partial step, with `only`, changes nothing but what it names: the parameters that are True there and what the
    optimiser keeps for each of these (momentum, second moments). All other parameters, what the optimiser keeps for
    them, and the collections, such as running statistics, stay as they are, bit for bit. What the optimiser keeps for
    no parameter, such as the number of its steps, goes on, as it does with every step: where a schedule or the bias
    correction of Adam is not to notice, a partial step has an optimiser of its own,
    `learner._replace(optimizer=own_state)`, whose state the method keeps in its memory.

    Args:
        network: of the `learner`.
        optimizer: whose state the `learner` has.
        learner: what is trained.
        x: inputs of the network, `(n, ...)`: the examples, or a stage of another network.
        objective: `objective(logits, ridge)`, or `objective(logits, ridge, stages)` if `stages` are asked for, ->
            `(info, remembered)`. It takes the outputs in training mode, (weight_decay / 2) ||params||^2, and the
            stages as a dict from names to arrays `(n, ...)`. The step lowers `info.objective`.
        step: number of the step, from which dropout draws, together with the learner's key.
        weight_decay: zero or above.
        stages: names of stages of the network (`networks.stages`).
        only: bools in the structure of the params, such as `networks.stages.upto` gives; None is all of them.

    Returns:
        The learner after the step, the info, and what the objective `remembered`, through which no gradient flows.

    Raises:
        ValueError: a `learner` without a state of an optimiser; `weight_decay` negative or not finite; `stages` that
            the network does not have; `only` of another structure, of other than bools, or for an optimiser that
            couples its parameters (L-BFGS); outputs of another shape than `(n,)` and `(n, k)`.

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
    _check.require(trained, "learner", "one with the state of an optimiser", "one without, which is not trained")
    _check.number("weight_decay", weight_decay, "[0, inf)")
    x = jnp.asarray(x)
    rngs = {} if learner.key is None else {"dropout": jax.random.fold_in(learner.key, step)}

    def value(params: PyTree) -> tuple[Array, Any]:
        variables = {"params": params, **learner.collections}
        (logits, found), collections = of_networks.apply(
            network, variables, x, stages, train=True, rngs=rngs, mutable=list(learner.collections)
        )
        check_logits(logits, len(x))
        # Flax begins running statistics in float32 and goes on in the precision of the input.
        collections = jax.tree.map(lambda new, old: new.astype(old.dtype), collections, learner.collections)
        ridge = weight_decay / 2 * optax.tree.norm(params, squared=True)
        info, remembered = objective(logits, ridge, *([found] if stages else []))
        return info.objective, (info, remembered, collections)

    grads, (info, remembered, collections) = jax.grad(value, has_aux=True)(learner.params)
    if only is not None:
        grads = _where(_mask(only, learner.params), grads, jax.tree.map(jnp.zeros_like, grads))
    updates, moments = optimizer.update(grads, learner.optimizer, learner.params)
    params = optax.apply_updates(learner.params, updates)
    if only is None:
        return learner._replace(params=params, collections=collections, optimizer=moments), info, remembered
    params = _where(only, params, learner.params)
    moments = _where(_kept(only, learner.optimizer), moments, learner.optimizer)
    return learner._replace(params=params, optimizer=moments), info, remembered


def _mask(only: PyTree[bool], params: PyTree) -> PyTree[bool]:
    """`only`, checked."""
    same = jax.tree.structure(only) == jax.tree.structure(params)
    bools = all(isinstance(take, bool | np.bool_) for take in jax.tree.leaves(only))
    _check.require(same and bools, "only", "True or False for each leaf of the params", only)
    return only


def _kept(only: PyTree[bool], optimizer: PyTree) -> PyTree[bool]:
    """Which leaves of an optimiser's state a partial step changes: those of its parameters, and those of none.

    A leaf belongs to the parameter with whose path its own ends. By `optax.tree.map_params` this would not be known of
    optimisers whose `init` looks at the params, such as `optax.partition` by a function.
    """
    takes = dict(jax.tree.leaves_with_path(only))
    lengths = sorted({len(path) for path in takes}, reverse=True)

    def take(path: tuple[Any, ...], leaf: Array) -> bool:
        found = [takes[path[-length:]] for length in lengths if path[-length:] in takes]
        by_parameter = bool(found) or jnp.size(leaf) == 1
        got = f"{jax.tree_util.keystr(path)} of shape {jnp.shape(leaf)}"
        _check.require(by_parameter, "optimizer", "one that keeps its state by parameter, for a partial step", got)
        return found[0] if found else True

    return jax.tree.map_with_path(take, optimizer)


def _where(take: PyTree[bool], new: PyTree, old: PyTree) -> PyTree:
    """The leaves of `new` where `take` says so, those of `old` elsewhere."""
    return jax.tree.map(lambda take, new, old: new if take else old, take, new, old)


def _check_inputs(x: Any) -> None:
    _check.real("x", x)
    shape = _check.shape_of(x)
    _check.require(shape and 0 not in shape, "x", "a non-empty array (n, ...)", shape)
    _check.finite("x", x)
