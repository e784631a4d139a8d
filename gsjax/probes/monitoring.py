"""Monitoring of training: prediction depth, information and accuracy at every checkpoint.

A spurious feature that is easy to learn shows in early checkpoints, before held-out accuracy does: many examples are
told apart in the first stages (Murali et al. 2023, "Beyond distribution shift: spurious features through the lens of
training dynamics"). `monitor` makes the function of a state that `methods.train` or `methods.stream` records. What is
recorded is a `Course`, and the other functions of this module read it; `alarms.warn` judges it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Real

from gsjax import _check, methods
from gsjax.features import Features
from gsjax.methods import Learner, State
from gsjax.networks import stages
from gsjax.probes._banks import examples
from gsjax.probes._courses import Course, course_depths, early_counts
from gsjax.probes.depths import INPUT, prediction_depth
from gsjax.probes.information import surprisal
from gsjax.probes.margins import correct

__all__ = [
    "Course",
    "Histogram",
    "course",
    "early_mass",
    "histogram",
    "monitor",
]


class Histogram(NamedTuple):
    """The numbers of examples: `counts (..., layers)` of the depths `depths (layers,)`, and `invalid (...)` without."""

    depths: Int[np.ndarray, " layers"]
    counts: Int[np.ndarray, "*axes layers"]
    invalid: Int[np.ndarray, "*axes"]


def monitor(
    network: nn.Module,
    bank: tuple[Real[Array, "m ..."], Real[Array, " m"]] | None = None,
    *,
    held_out: Any = None,
    features: Features | tuple[Features, Real[Array, "p ..."]] | None = None,
    **options: Any,
) -> Callable[..., Course]:
    """A function `evaluate(state, held_out)` -> `Course`, which `methods.train` and `methods.stream` can record.

    It is pure, and evaluates the main learner of the state in evaluation mode. For another, pass a function such as
    `lambda state, held_out: evaluate(state.learners["biased"], held_out)`. Make it once per study: `train` compiles
    once per function.

    Under `train` the values of `held_out` are traced, and cannot be checked; its shapes are.

    Args:
        network: a flax.linen module with stages and outputs `(n,)` for labels -1 and +1, or `(n, k)` for class indices.
        bank: labelled examples for the probes, a pair (x, y). None expects a bank in `held_out`, for instance because
            every seed has its own.
        held_out: labelled examples to measure, which are not in the bank: (x, y), or (x, y, bank) with a pair `bank`.
            The default of the second argument of `evaluate`, checked here, e.g. for `stream`, which passes none.
        features: for outputs `(n,)`, tangent features whose responses z = U^T (y * outputs) are measured: features of
            the bank, or a pair (features, x) with their p examples. The outputs are taken as they are: at
            initialisation z is not zero.
        options: those of `prediction_depth`.

    Raises:
        ValueError: neither a bank nor one in `held_out`; `held_out` of another form, or labels that do not fit;
            features of other examples, or for outputs `(n, k)`; the errors of `prediction_depth`. With a bank these
            errors are raised here, and else by `evaluate`.

    >>> import optax
    >>> from gsjax import networks
    >>> x, y = jax.random.normal(jax.random.key(0), (60, 3)), jnp.where(jnp.arange(60) % 2, 1.0, -1.0)
    >>> network = networks.FullyConnected((8, 8))
    >>> run = methods.train(methods.get("erm")(network, optax.adam(0.01)), jax.random.split(jax.random.key(1), 2),
    ...                     methods.Batch(x[:40], y[:40]), steps=20, record=[0, 10, 20],
    ...                     evaluate=monitor(network, (x[:40], y[:40]), k=5), held_out=(x[40:], y[40:]))
    >>> run.records.depth.shape, run.records.positions, early_mass(run.records).shape
    ((2, 3, 20), ('h1', 'h2'), (2, 3))
    """
    own_bank = None if bank is None else _pair("bank", bank)
    default = None if held_out is None else _held_out(held_out, own_bank)
    size = _check.whole("batch_size", options.get("batch_size", 256), least=1)
    count_input = options.get("count_input", False)
    reading = None if features is None else _reading(features, own_bank)

    def measured(
        learner: Learner, data: _HeldOut, reading: tuple[Features, Array] | None, name: str = "held_out"
    ) -> Course:
        logits = _outputs(network, learner, data.x, size)
        y = _labels(name, data.y, logits)
        variables = {"params": learner.params, **learner.collections}
        found = prediction_depth(network, variables, data.bank, data.x, **options)
        response = None
        if reading is not None:
            _check.require(logits.ndim == 1, "features", "None for outputs (n, k)", "features")
            response = reading[0].response(_outputs(network, learner, reading[1], size))
        skipped = 1 if found.positions[0] == INPUT and not count_input else 0
        information = _balance(data.bank[1], y) - surprisal(logits, y)
        converged = found.converged[skipped:].all()
        return Course(found.depth, information, correct(logits, y), response, found.positions[skipped:], converged)

    trial, name = default, "held_out"
    if trial is None and own_bank is not None:
        trial, name = _HeldOut(*own_bank, own_bank), "bank"
    _check.require(isinstance(network, nn.Module), "network", "a flax.linen module", type(network).__name__)
    if trial is not None:
        stages.names(network, trial.x)
        # Only parameters are traced, so that values of the data are checked.
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        shapes: Any = jax.eval_shape(network.init, keys, trial.x)
        jax.eval_shape(
            lambda variables: measured(Learner(variables.pop("params"), variables), trial, reading, name), dict(shapes)
        )

    def evaluate(state: State | Learner, held_out: Any = None) -> Course:
        known = hasattr(state, "params") and hasattr(state, "collections")
        _check.require(known, "state", "a state or a learner", type(state).__name__)
        data = default if held_out is None else _held_out(held_out, own_bank)
        if data is None:
            raise ValueError("held_out: expected labelled examples (x, y), here or in monitor, got None")
        # XLA would compute what depends on constants alone while it compiles, e.g. distances of inputs.
        data, given = lax.optimization_barrier((data, reading))
        return measured(Learner(state.params, state.collections), data, given)

    return evaluate


def course(evaluate: Callable[..., Course], states: Iterable[State | Learner], held_out: Any = None) -> Course:
    """The course `(T, ...)` over states that are read one after another, e.g. from files.

    Checkpoints share the compiled programs of `prediction_depth`. Only one state at a time is kept.

    Args:
        evaluate: a function from `monitor`.
        states: T states of one network.
        held_out: the second argument of `evaluate`.

    Raises:
        ValueError: no states; the errors of `evaluate`.

    >>> from gsjax import networks
    >>> x, y = jax.random.normal(jax.random.key(0), (60, 3)), jnp.where(jnp.arange(60) % 2, 1.0, -1.0)
    >>> network = networks.MLP((8,))
    >>> states = (Learner(network.init(jax.random.key(seed), x)["params"]) for seed in range(3))
    >>> course(monitor(network, (x[:40], y[:40]), k=5), states, (x[40:], y[40:])).depth.shape
    (3, 20)
    """
    found = [jax.device_get(evaluate(state, held_out)) for state in states]
    _check.require(found, "states", "one or more states", "none")
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def histogram(course: Course) -> Histogram:
    """The numbers of examples per depth, and of invalid examples, for a course `(..., n)`.

    For the histogram over all seeds, sum the counts over the axis of seeds.

    Raises:
        ValueError: not a `Course`.

    >>> found = histogram(Course(np.array([1.0, 2.0, 2.0, np.nan]), np.zeros(4), np.ones(4), None, ("h1", "h2")))
    >>> found.counts.tolist(), found.invalid.item()
    ([1, 2], 1)
    """
    depth, first = course_depths("course", course)
    depths = np.arange(first, first + len(course.positions))
    counts = (depth[..., None] == depths).sum(axis=-2)
    return Histogram(depths, counts, np.isnan(depth).sum(axis=-1))


def early_mass(course: Course, *, first: int = 1) -> Float[np.ndarray, "..."]:
    """The share of the valid examples whose depth is at most `first`, for a course `(..., n)`; NaN if none is valid.

    Raises:
        ValueError: not a `Course`, or `first` that is not a whole number of at least 0.

    >>> early_mass(Course(np.array([1.0, 2.0, 2.0, np.nan]), np.zeros(4), np.ones(4), None, ("h1", "h2"))).round(2)
    np.float64(0.33)
    """
    early, valid = early_counts("course", course, first)
    with np.errstate(invalid="ignore"):
        return np.where(valid > 0, early, np.nan) / valid


class _HeldOut(NamedTuple):
    """Examples with labels, and the bank, a pair."""

    x: Array
    y: Array
    bank: tuple[Array, Array]


def _pair(name: str, pair: Any) -> tuple[Array, Array]:
    """Examples and as many labels."""
    good = isinstance(pair, tuple | list) and len(pair) == 2
    _check.require(good, name, "a pair (x, y) of examples and labels", type(pair).__name__)
    x = examples(name, pair[0])
    _check.finite(name, pair[1])
    y = jnp.asarray(pair[1])
    _check.require(y.shape == x.shape[:1], name, f"{len(x)} labels, one per example", f"shape {y.shape}")
    return x, y


def _held_out(given: Any, bank: tuple[Array, Array] | None) -> _HeldOut:
    several = isinstance(given, tuple | list) and len(given) in (2, 3)
    _check.require(several, "held_out", "(x, y) or (x, y, bank)", type(given).__name__)
    x, y = _pair("held_out", given[:2])
    bank = _pair("held_out", given[2]) if len(given) == 3 else bank
    if bank is None:
        raise ValueError("held_out: expected (x, y, bank), as monitor has no bank, got (x, y)")
    size = bank[0].shape[1:]
    _check.require(x.shape[1:] == size, "held_out", f"examples of shape {size}, as in the bank", f"shape {x.shape}")
    return _HeldOut(x, y, bank)


def _reading(given: Any, bank: tuple[Array, Array] | None) -> tuple[Features, Array]:
    """Features and their examples."""
    pair = type(given) in (tuple, list) and len(given) == 2
    feats, x = given if pair else (given, None if bank is None else bank[0])
    expected = "gsjax.features.Features of the bank, or a pair (features, x)"
    _check.require(isinstance(feats, Features) and x is not None, "features", expected, type(given).__name__)
    x = examples("features", x)
    _check.require(len(x) == len(feats.u), "features", f"features of {len(x)} examples", len(feats.u))
    if not pair and bank is not None:
        same = np.array_equal(np.asarray(feats.y), np.asarray(bank[1]))
        _check.require(same, "features", "features with the labels of the bank, in its order", "others")
    return feats, x


def _labels(name: str, y: Array, logits: Array) -> Array:
    if logits.ndim == 1:
        _check.labels(name, y, len(logits))
        return y
    return methods.terms.members(name, y, len(logits), logits.shape[1])


def _balance(labels: Array, y: Array) -> Float[Array, " n"]:
    """-log2 of the share of the class of each y in the labels of the bank."""
    shares = (labels[None] == y[:, None]).mean(axis=1)
    return -jnp.log2(shares)


def _outputs(network: nn.Module, learner: Learner, x: Array, size: int) -> Float[Array, "n ..."]:
    """The outputs for x, in batches."""
    size = min(size, len(x))
    try:
        hash(network)
    except TypeError:  # an attribute of the network, such as an array, has no hash
        return jax.jit(functools.partial(_in_batches, network, size=size))(learner, x)
    return _compiled()(network, learner, x, size=size)


@functools.cache
def _compiled() -> Callable[..., Array]:
    return jax.jit(_in_batches, static_argnames=("network", "size"))


def _in_batches(network: nn.Module, learner: Learner, x: Array, *, size: int) -> Array:
    count = -(-len(x) // size)
    batches = jnp.pad(x, ((0, count * size - len(x)), *((0, 0),) * (x.ndim - 1))).reshape(count, size, *x.shape[1:])
    logits = lax.map(lambda batch: methods.predict(network, learner, batch), batches)
    return logits.reshape(count * size, *logits.shape[2:])[: len(x)]
