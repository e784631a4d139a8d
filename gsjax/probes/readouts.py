"""Early readouts: what a decoder of a stage gets wrong, and how confidently, over groups of examples.

A readout of an early stage sees the features that are easily available. Examples on which it errs with confidence are
those for which these features are misleading (Tiwari et al. 2024, "Using Early Readouts to Mediate Featural Bias in
Distillation").
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree, Real

from gsjax import _check
from gsjax.methods import Batch, Method, State, erm, predict
from gsjax.methods.readouts import check_readout, readout_of
from gsjax.methods.terms import classes as class_indices
from gsjax.methods.terms import confidence_margin, mean_by, members
from gsjax.networks import Readout, stages
from gsjax.probes._banks import bank_labels, examples, flat
from gsjax.probes._regression import regression

__all__ = ["EarlyReadout", "Errors", "early_readout"]


class Errors(NamedTuple):
    """The errors of a readout on a set of examples, or on each of several groups, `(groups,)`.

    `examples` is the number of examples, and `errors` that of the wrong ones. `rate` is their share. `margin` is the
    mean margin of confidence over all examples of the set, and `margin_on_errors` that over the wrong ones. A mean over
    no examples is NaN, which `examples` or `errors` of 0 announce.
    """

    examples: Int[Array, "*groups"]
    errors: Int[Array, "*groups"]
    rate: Float[Array, "*groups"]
    margin: Float[Array, "*groups"]
    margin_on_errors: Float[Array, "*groups"]


class EarlyReadout(NamedTuple):
    """A readout of a stage on n examples, and how its training ended.

    `logits` are `(n,)` for labels -1 and +1, `(n, k)` for class indices. `wrong (n,)` tells which predictions are not
    the label. `margin (n,)` is the largest minus the second largest probability, the `confidence_margin` of
    `methods.terms`. `all` are the errors on all examples, and `by_group` those on every group, None without groups.
    `steps` are those of the solver or of the optimiser. `converged` tells whether the solver has reached its tolerance;
    it is None for a readout that is trained for a given number of steps. `finite` tells whether all logits are finite.
    """

    logits: Float[Array, " n"] | Float[Array, "n k"]
    wrong: Bool[Array, " n"]
    margin: Float[Array, " n"]
    all: Errors
    by_group: Errors | None
    converged: Bool[Array, ""] | None
    steps: Int[Array, ""]
    finite: Bool[Array, ""]


def early_readout(
    network: nn.Module,
    variables: Mapping[str, Any],
    position: str,
    train_x: Real[ArrayLike, "m ..."],
    train_y: Real[ArrayLike, " m"],
    x: Real[ArrayLike, "n ..."],
    y: Real[ArrayLike, " n"],
    *,
    classes: int | None = None,
    group: Int[ArrayLike, " n"] | None = None,
    groups: int | None = None,
    depth: int = 0,
    width: int = 256,
    pooled: bool = True,
    readout: nn.Module | None = None,
    strength: float = 1.0,
    tolerance: float | None = None,
    max_steps: int = 1000,
    key: Key[Array, ""] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 500,
    batch_size: int = 128,
) -> EarlyReadout:
    """An early readout: a fresh decoder of a stage, its errors, and its confidence (Tiwari et al. 2024).

    The network is in evaluation mode and is not changed. The labels may be any, not only those that the network was
    trained for.

    A linear readout (`depth` 0) is the minimum of the convex objective of `linear_probe`. With `pooled`, its input is
    the mean of the stage over positions. Blocks, and an own `readout`, minimise the mean cross-entropy by `steps` steps
    of `optimizer`, each on `batch_size` examples drawn with replacement; they predict in evaluation mode.

    The function also works under `jit` and `vmap`, where values are not checked.

    Args:
        network: a flax.linen module.
        variables: its variables: "params" and its other collections.
        position: the name of a stage (`networks.stages`).
        train_x: the examples `(m, ...)` that the readout learns from.
        train_y: their labels `(m,)`: -1 and +1, or class indices of an integer type.
        x: the examples `(n, ...)` that the readout is evaluated on.
        y: their labels `(n,)`.
        classes: the number of classes, each with an example in `train_y`; None takes those of the labels, which under
            `jit` have to be -1 and +1 of a floating point type.
        group: the groups `(n,)` of x, whole numbers from 0.
        groups: the number of groups; None takes those of `group`, which under `jit` is not possible.
        depth: the number of blocks.
        width: the width of the blocks.
        pooled: whether the readout takes the mean over positions, or all positions.
        readout: a flax.linen module from the stage to outputs `(n,)` for labels -1 and +1, or `(n, classes)`; it
            replaces `networks.Readout` of this `depth`, `width` and `pooled`.
        strength: the ridge of the linear readout, see `linear_probe`.
        tolerance: the tolerance of its solver, see `linear_probe`.
        max_steps: the maximal number of its steps.
        key: determines the initial parameters and the batches; only for a readout that is not linear.
        optimizer: an optax optimiser; by default Adam with a learning rate that falls from 0.01 to 0 along a cosine.
        steps: the number of steps of the optimiser.
        batch_size: the number of examples of such a step, and of one pass through the network.

    Raises:
        ValueError: a `position` that is not a stage of the network; examples that are empty, not finite, or of two
            shapes; labels that do not fit, of one class alone, or without an example of a class; groups that are not
            whole numbers `(n,)`, or out of range; a `readout` without parameters, or with outputs of another shape; no
            `key` where one is needed; numbers out of range.

    >>> from gsjax import networks
    >>> x, y = jax.random.normal(jax.random.key(0), (40, 3)), jnp.where(jnp.arange(40) % 2, 1.0, -1.0)
    >>> network = networks.MLP((8, 4))
    >>> found = early_readout(network, network.init(jax.random.key(1), x), "h1", x, y, x, y, group=jnp.arange(40) % 2)
    >>> found.wrong.shape, found.by_group.examples.tolist(), bool(found.converged)
    ((40,), [20, 20], True)
    """
    train_x, x = examples("train_x", train_x), examples("x", x)
    same = train_x.shape[1:] == x.shape[1:]
    _check.require(same, "x", f"examples of shape {train_x.shape[1:]}, as in train_x", f"shape {x.shape}")
    check_readout(position, readout)
    known = stages.names(network, jax.ShapeDtypeStruct(x.shape, x.dtype))
    _check.require(position in known, "position", f"one of the stages {', '.join(known)}", repr(position))
    Readout(depth=depth, width=width, pooled=pooled)  # checks its options
    _check.number("strength", strength, "(0, inf)")
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")
    max_steps, steps = _check.whole("max_steps", max_steps, least=1), _check.whole("steps", steps, least=1)
    batch_size = _check.whole("batch_size", batch_size, least=1)
    labels, count = _labels(train_y, len(train_x), classes)
    if group is None:
        _check.require(groups is None, "groups", "none without group", groups)
    else:
        groups, group = _groups(group, groups, len(x))

    linear = readout is None and depth == 0
    size = min(batch_size, max(len(train_x), len(x)))  # the same for both, so that they share a compiled program
    take = functools.partial(_compiled(_Take(network, position, linear, pooled)), variables)
    known_h, h = _in_batches(take, train_x, size), _in_batches(take, x, size)
    if linear:
        values = jnp.array([-1, 1]) if count is None else jnp.arange(count)
        probe = regression(flat(known_h), labels, values, strength=strength, tolerance=tolerance, max_steps=max_steps)
        logits, converged, done = probe.logits(h), probe.converged, probe.steps
        logits = logits[:, 1] - logits[:, 0] if count is None else logits
    else:
        _check.key("key", key)
        shape = (len(x),) if count is None else (len(x), count)
        like = jax.ShapeDtypeStruct(h.shape, h.dtype)
        module = readout_of(like, shape, "that of the labels'", readout, depth=depth, width=width, pooled=pooled)
        training = _Training(
            _erm(module, steps) if optimizer is None else erm.erm(module, optimizer), steps, batch_size
        )
        state = _compiled(training)(key, known_h, labels.astype(known_h.dtype) if count is None else labels)
        logits = _in_batches(functools.partial(_compiled(_Decode(module)), state), h, size)
        converged, done = None, state.step

    margin, finite = confidence_margin(logits), jnp.isfinite(logits).all()
    label, _ = class_indices(logits, _check.array("y", y))
    wrong = ((logits > 0) if logits.ndim == 1 else logits.argmax(axis=1)) != label
    total = jax.tree.map(lambda value: value[0], _errors(wrong, margin, jnp.zeros(len(x), jnp.int32), 1))
    by_group = None if group is None or groups is None else _errors(wrong, margin, group, groups)
    return EarlyReadout(logits, wrong, margin, total, by_group, converged, done, finite)


def _errors(wrong: Bool[Array, " n"], margin: Float[Array, " n"], group: Int[Array, " n"], groups: int) -> Errors:
    inside = jnp.arange(groups)[:, None] == group
    share, some = mean_by(wrong.astype(margin.dtype), group, groups)
    every, _ = mean_by(margin, group, groups)
    on_errors, any_error = mean_by(margin, jnp.where(wrong, group, -1), groups)
    means = (jnp.where(known, mean, jnp.nan) for known, mean in ((some, share), (some, every), (any_error, on_errors)))
    return Errors(inside.sum(axis=1), (inside & wrong).sum(axis=1), *means)


def _labels(y: Any, m: int, classes: int | None) -> tuple[Int[Array, " m"], int | None]:
    """The labels for training, and the number of classes, None for labels -1 and +1."""
    _check.real("train_y", y, "labels")
    if classes is not None:
        classes = _check.whole("classes", classes, least=2)
        return bank_labels("train_y", y, m, classes, signs=False), classes
    signs = jnp.issubdtype(jnp.result_type(np.asarray(y) if not hasattr(y, "dtype") else y), jnp.floating)
    if _check.is_concrete(y):
        signs = signs or bool((np.asarray(y) < 0).any())
    else:
        _check.require(signs, "classes", "the number of classes where labels are traced", classes)
    if signs:
        return bank_labels("train_y", y, m, signs=True), None
    classes = max(2, int(np.asarray(y).max(initial=0)) + 1)
    return bank_labels("train_y", y, m, classes, signs=False), classes


def _groups(group: Any, groups: int | None, n: int) -> tuple[int, Int[Array, " n"]]:
    _check.real("group", group, "whole numbers")
    if groups is None:
        _check.require(_check.is_concrete(group), "groups", "the number of groups where they are traced", groups)
        groups = max(1, int(np.asarray(group).max(initial=0)) + 1)
    groups = _check.whole("groups", groups, least=1)
    return groups, members("group", group, n, groups)


class _Take(NamedTuple):
    """The function (variables, x) -> the stage, which for a linear readout is pooled or flattened."""

    network: nn.Module
    position: str
    linear: bool
    pooled: bool

    def __call__(self, variables: PyTree, x: Array) -> Array:
        h = stages.apply(self.network, variables, x, (self.position,))[1][self.position]
        if not self.linear:
            return h
        h = _check.as_float(h)
        return h.mean(axis=tuple(range(1, h.ndim - 1))) if self.pooled else h.reshape(len(h), -1)


class _Training(NamedTuple):
    """The function (key, h, y) -> the state of a readout after training on a stage."""

    method: Method
    steps: int
    batch_size: int

    def __call__(self, key: Array, h: Array, y: Array) -> State:
        state_key, rows_key = jax.random.split(key)

        def step(number: Array, state: State) -> State:
            rows = jax.random.randint(jax.random.fold_in(rows_key, number), (self.batch_size,), 0, len(h))
            return self.method.update(state, Batch(h[rows], y[rows]))[0]

        return lax.fori_loop(0, self.steps, step, self.method.init(state_key, Batch(h, y)))


class _Decode(NamedTuple):
    """The function (state, h) -> the outputs of a trained readout for a stage."""

    readout: nn.Module

    def __call__(self, state: State, h: Array) -> Array:
        return predict(self.readout, state, h)


def _compiled(function: _Take | _Training | _Decode) -> Any:
    """The compiled function, the same one for equal functions."""
    try:
        hash(function)
    except TypeError:  # an attribute of the network, such as an array, has no hash
        return jax.jit(function.__call__)
    return functools.partial(_shared(), function)


@functools.cache
def _shared() -> Any:
    return jax.jit(lambda function, *args: function(*args), static_argnums=0)


@functools.lru_cache(maxsize=32)
def _erm(readout: Any, steps: int) -> Method:
    return erm.erm(readout, optax.adam(optax.cosine_decay_schedule(1e-2, steps)))


def _in_batches(function: Any, x: Array, size: int) -> Array:
    """`function(x)`, which treats examples alike, from batches of x of one size."""
    n = len(x)
    x = jnp.pad(x, ((0, -n % size), *((0, 0),) * (x.ndim - 1)))
    return jnp.concatenate([function(x[first : first + size]) for first in range(0, n, size)])[:n]
