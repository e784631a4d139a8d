"""Prediction depth: the stage of a network from which probes of its stages agree with the last one.

Probes are classifiers of the stages (`gsjax.networks.stages`), trained on the bank, a sample of labelled examples. An
example has a small depth if its class can be told from an early stage. From Baldock, Maennel and Neyshabur 2021, "Deep
learning through the lens of example difficulty"; many examples of small depth are a sign of a spurious feature (Murali
et al. 2023, "Beyond distribution shift: spurious features through the lens of training dynamics").
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from gsjax import _check
from gsjax.networks import stages
from gsjax.probes._banks import bank_labels, examples, flat
from gsjax.probes._regression import regression
from gsjax.probes._search import NO_VOTE, Metric, votes

__all__ = ["INPUT", "PredictionDepth", "depth", "prediction_depth"]

INPUT = "input"
"""The name of layer 0, the input of the network."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("depth", "votes", "predictions", "converged"),
    meta_fields=("positions",),
)
@dataclass(frozen=True)
class PredictionDepth:
    """The depths of examples, and what they follow from.

    `depth (n,)` is NaN for an invalid example. `votes (layers, n)` are the votes of the probes, and `predictions (n,)`
    the network's own: labels -1 and +1 or class indices, and `NO_VOTE` where outputs or activations are not finite.
    `converged (layers,)` says whether the solver of each linear probe has converged; it is true for neighbours.
    `positions` are the names of the layers. This is a pytree and not a named tuple, because names are not leaves.
    """

    depth: Float[Array, " n"]
    votes: Int[Array, "layers n"]
    predictions: Int[Array, " n"]
    converged: Bool[Array, " layers"]
    positions: tuple[str, ...]

    @property
    def valid(self) -> Bool[Array, " n"]:
        """Which examples have a depth."""
        return ~jnp.isnan(self.depth)


def depth(
    votes: Int[Array, "layers n"], network_predictions: Int[Array, " n"], *, first: int = 1
) -> Float[Array, " n"]:
    """The prediction depth of examples: the first layer from which all probes agree with the last one.

    By the published rule, it is 1 + the number of the deepest layer whose vote differs from that of the last layer, and
    1 if there is none. Layers have the numbers 1, 2, ..., L; with `first=0` they have 0, 1, ..., L - 1, and 0 is the
    depth if there is none. An example is invalid if the network's own prediction differs from the vote of the last
    layer; its depth is NaN.

    Args:
        votes: the votes of the probes, `(layers, n)`, in order of depth.
        network_predictions: the network's own predictions, in the same labels, `(n,)`.
        first: the number of the first layer.

    Raises:
        ValueError: votes that are not `(layers, n)`, or predictions that are not `(n,)`; `first` below zero.

    >>> votes = jnp.array([[1, 0, 1], [1, 1, 0], [1, 1, 1]])
    >>> depth(votes, jnp.array([1, 1, 0])).tolist()
    [1.0, 2.0, nan]
    """
    for name, value in (("votes", votes), ("network_predictions", network_predictions)):
        _check.finite(name, value)
    _check.shape("votes", votes, ndim=2)
    votes, predictions = jnp.asarray(votes), jnp.asarray(network_predictions)
    layers, n = votes.shape
    _check.require(predictions.shape == (n,), "network_predictions", f"shape ({n},)", f"shape {predictions.shape}")
    first = _check.whole("first", first, least=0)
    differs = votes != votes[-1]
    after = jnp.where(differs, jnp.arange(1, layers + 1)[:, None], 0).max(axis=0)
    valid = (votes[-1] == predictions) & (predictions != NO_VOTE)
    return jnp.where(valid, (first + after).astype(float), jnp.nan)


def prediction_depth(
    network: nn.Module,
    variables: Mapping[str, Any],
    bank: tuple[Real[Array, "m ..."], Real[Array, " m"]],
    x: Real[Array, "n ..."],
    *,
    positions: Sequence[str] | None = None,
    probe: Literal["knn", "linear"] = "knn",
    k: int = 29,
    metric: Metric = "l1",
    strength: float = 1.0,
    pool: int | None = 8,
    batch_size: int = 256,
    count_input: bool = False,
) -> PredictionDepth:
    """The prediction depth of examples x in a network, from probes of its stages.

    The defaults are those of Murali et al. 2023: votes of 29 neighbours by L1 distance, at every stage of the network
    in evaluation mode, flattened. Images larger than 8 x 8 are first averaged to 8 x 8, over regions as in PyTorch's
    `AdaptiveAvgPool2d`. The depth counts the stages from 1, by the rule of `depth`. Layer 0 is the network's input, not
    averaged. Its votes are the first row of the result and do not enter the depth; with `count_input` they do, and 0 is
    the depth of examples that even the probe of the input tells apart. An example of the bank is its own nearest
    neighbour, so x should be other examples.

    Only the activations of the bank are kept, m times the sizes of all layers; x passes in batches. Batches, and calls
    with other variables and data of the same shapes, share compiled programs. The function also works under `jit`
    and `vmap`, where values are not checked.

    Args:
        network: a flax.linen module with outputs `(n,)` for labels -1 and +1, or `(n, k)` for class indices.
        variables: its variables: "params" and its other collections.
        bank: labelled examples, a pair (x, y) such as a `Dataset`: x `(m, ...)` and y `(m,)`.
        x: the examples, `(n, ...)`.
        positions: the names of the layers in order of depth: stages, before them "input" or not. None is the input and
            all stages.
        probe: "knn", or "linear" for the logistic regression of `linear_probe` at the same layers.
        k: the number of neighbours.
        metric: "l1" or "l2", see `knn`.
        strength: the ridge of linear probes, see `linear_probe`.
        pool: the height and width to which larger images are averaged; None keeps them.
        batch_size: the number of examples in a batch.
        count_input: whether the input is a layer of the depth.

    Raises:
        ValueError: a network without stages or with other outputs; bank or x empty or not finite; labels of the bank
            that do not fit the outputs, of one class alone, or without an example of a class; `positions` that are not
            layers, or of the input alone; k below one or larger than the bank; a strength that is not positive; an
            unknown probe or metric; `pool` or `batch_size` below one; `count_input` without the input.

    >>> from gsjax import networks
    >>> x, y = jax.random.normal(jax.random.key(0), (40, 3)), jnp.where(jnp.arange(40) % 2, 1.0, -1.0)
    >>> network = networks.MLP((8, 4))
    >>> found = prediction_depth(network, network.init(jax.random.key(1), x), (x, y), x[:5], k=3)
    >>> found.positions, found.votes.shape, found.depth.shape
    (('input', 'h1', 'h2'), (3, 5), (5,))
    """
    pair = isinstance(bank, tuple | list) and len(bank) == 2
    _check.require(pair, "bank", "a pair (x, y) of examples and labels", type(bank).__name__)
    bank_x, bank_y = examples("bank", bank[0]), bank[1]
    x = examples("x", x)
    same = x.shape[1:] == bank_x.shape[1:]
    _check.require(same, "x", f"examples of shape {bank_x.shape[1:]}, as in the bank", f"shape {x.shape}")
    layers = _layers(network, x, positions)
    m = len(bank_x)
    _check.choice("probe", probe, ("knn", "linear"))
    k = _check.whole("k", k, least=1, most=m if probe == "knn" else None)
    _check.choice("metric", metric, ("l1", "l2"))
    _check.number("strength", strength, "(0, inf)")
    pool = None if pool is None else _check.whole("pool", pool, least=1)
    batch_size = _check.whole("batch_size", batch_size, least=1)
    count_input = _check.flag("count_input", count_input)
    _check.require(not count_input or layers[0] == INPUT, "count_input", f"False without {INPUT!r}", count_input)

    outputs = jax.eval_shape(lambda variables, x: stages.apply(network, variables, x, ())[0], variables, x)
    shape = _check.output("network", outputs)
    _check.outputs("network", shape, len(x), classes=True)
    classes = None if len(shape) == 1 else shape[1]
    labels = bank_labels("bank", bank_y, m, classes, signs=classes is None)

    program = _compiled(_Activations(network, layers, pool))
    size = min(batch_size, max(m, len(x)))  # the same for both, so that they share a compiled program
    known, _ = _in_batches(program, variables, bank_x, size, lambda activations: activations)
    converged = jnp.ones(len(layers), bool)
    if probe == "knn":
        voters = [functools.partial(votes, layer, labels, k=k, metric=metric) for layer in known]
    else:
        values = jnp.array([-1, 1]) if classes is None else jnp.arange(classes)
        fitted = [regression(layer, labels, values, strength=strength) for layer in known]
        voters, converged = [one.votes for one in fitted], jnp.stack([one.converged for one in fitted])

    def vote(activations: Sequence[Array]) -> Int[Array, "n layers"]:
        return jnp.stack([voter(layer) for voter, layer in zip(voters, activations, strict=True)], axis=1)

    found, predictions = _in_batches(program, variables, x, size, vote)
    found = found.T
    counted = found if count_input or layers[0] != INPUT else found[1:]
    depths = depth(counted, predictions, first=0 if count_input else 1)
    lost = (counted == NO_VOTE).any(axis=0)
    return PredictionDepth(jnp.where(lost, jnp.nan, depths), found, predictions, converged, layers)


class _Activations(NamedTuple):
    """The function (variables, x) -> activations at layers, flattened, and the predictions of the network."""

    network: nn.Module
    layers: tuple[str, ...]
    pool: int | None

    def __call__(self, variables: PyTree, x: Array) -> tuple[tuple[Float[Array, "n d"], ...], Int[Array, " n"]]:
        names = tuple(name for name in self.layers if name != INPUT)
        outputs, found = stages.apply(self.network, variables, x, names)
        given = [x] if self.layers[0] == INPUT else []
        activations = tuple(map(flat, given + [_averaged(stage, self.pool) for stage in found.values()]))
        if outputs.ndim == 1:
            predictions, finite = jnp.sign(outputs), jnp.isfinite(outputs)
        else:
            predictions, finite = outputs.argmax(axis=1), jnp.isfinite(outputs).all(axis=1)
        return activations, jnp.where(finite, predictions, NO_VOTE).astype(jnp.int32)


_Program = Callable[[PyTree, Array], tuple[tuple[Float[Array, "n d"], ...], Int[Array, " n"]]]


def _compiled(activations: _Activations) -> _Program:
    """The compiled function, the same one for equal networks."""
    try:
        hash(activations)
    except TypeError:  # an attribute of the network, such as an array, has no hash
        return jax.jit(activations.__call__)
    return functools.partial(_shared(), activations)


@functools.cache
def _shared() -> Callable[..., Any]:
    return jax.jit(_Activations.__call__, static_argnums=0)


def _in_batches(
    program: _Program, variables: PyTree, x: Array, size: int, use: Callable[[tuple[Array, ...]], PyTree]
) -> tuple[PyTree, Int[Array, " n"]]:
    """`use(activations)`, arrays `(n, ...)`, and the predictions, from batches of x of one size.

    Without tracing, every batch is a call of the program: XLA compiles convolutions in a loop to slower code.
    """
    n = len(x)
    count = -(-n // size)
    batches = jnp.pad(x, ((0, count * size - n), *((0, 0),) * (x.ndim - 1))).reshape(count, size, *x.shape[1:])

    def one(batch: Array) -> tuple[PyTree, Array]:
        activations, predictions = program(variables, batch)
        return use(activations), predictions

    if _check.is_concrete(variables, x):
        return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:n], *map(one, batches))
    found = lax.map(one, batches)
    return jax.tree.map(lambda parts: parts.reshape(count * size, *parts.shape[2:])[:n], found)


def _averaged(h: Float[Array, "n ..."], size: int | None) -> Float[Array, "n ..."]:
    """Images `(n, height, width, c)` larger than `size`, averaged to that height and width; other arrays unchanged.

    As in PyTorch's `AdaptiveAvgPool2d`, the region i of an axis with p pixels reaches from floor(i p / size) to
    ceil((i + 1) p / size).

    >>> _averaged(jnp.arange(3.0).reshape(1, 3, 1, 1), 2).ravel().tolist()
    [0.5, 1.5]
    """
    if size is None or h.ndim != 4:
        return h
    for axis in (1, 2):
        pixels = h.shape[axis]
        if pixels > size:
            edges = np.arange(size + 1) * pixels
            first, last = edges[:-1] // size, -(-edges[1:] // size)
            place = np.arange(pixels)
            inside = (place >= first[:, None]) & (place < last[:, None])
            mean = jnp.asarray(inside / inside.sum(axis=1, keepdims=True), h.dtype)
            h = jnp.moveaxis(jnp.tensordot(h, mean, (axis, 1), precision=lax.Precision.HIGHEST), -1, axis)
    return h


def _layers(network: Any, x: Array, positions: Any) -> tuple[str, ...]:
    """The names of the layers: the input, unless `positions` leave it out, and stages."""
    known = stages.names(network, x)
    if positions is None:
        return (INPUT, *known)
    names = tuple(_check.sequence("positions", positions, "names of layers"))
    chosen = names[1:] if names[:1] == (INPUT,) else names
    for name in chosen:
        _check.require(name in known, "positions", f"{INPUT!r} or not, then stages {', '.join(known)}", repr(name))
    _check.require(chosen, "positions", "at least one stage", names)
    return names
