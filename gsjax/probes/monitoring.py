"""Monitoring of training: prediction depth, information and accuracy at every checkpoint, and an early warning.

A spurious feature that is easy to learn shows in early checkpoints, before held-out accuracy does: many examples are
told apart in the first stages (Murali et al. 2023, "Beyond distribution shift: spurious features through the lens of
training dynamics"). `monitor` makes the function of a state that `methods.train` or `methods.stream` records. What is
recorded is a `Course`, and the other functions of this module read it.

The warning compares a run with a *reference*: runs of the same network and training, recorded at the same steps, on
data that are known to be clean, e.g. because the suspected region was blanked or shuffled over the classes. Its rate of
false alarms is nominal, for normal numbers; `false_alarms` measures it. It is a diagnostic: examples with small depths
have to be looked at, e.g. with `gradcam`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real
from scipy import special

from gsjax import _check, methods
from gsjax.features import Features
from gsjax.methods import Learner, State
from gsjax.networks import stages
from gsjax.probes._banks import examples
from gsjax.probes.depths import INPUT, prediction_depth
from gsjax.probes.information import surprisal
from gsjax.probes.margins import correct

__all__ = [
    "Course",
    "FalseAlarms",
    "Histogram",
    "Warnings",
    "course",
    "early_mass",
    "false_alarms",
    "histogram",
    "monitor",
    "warn",
]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("depth", "information", "correct", "response", "converged"),
    meta_fields=("positions",),
)
@dataclass(frozen=True)
class Course:
    """What a monitor measures at a state, on n examples; recorded, with leading axes such as `(seeds, T, ...)`.

    - `depth (..., n)`: the prediction depth, NaN for invalid examples;
    - `information (..., n)`: log2 p(y | x) of the network at this state minus log2 of the share of the class y in the
      bank, in bits. It is the pointwise V-information of Ethayarajh et al. 2022, with the current network in place of
      the best predictor of the family, and the class balance in place of the one trained on empty input. Early in
      training, and where the network is confident and wrong, it can be negative;
    - `correct (..., n)`: whether the network is right;
    - `response (..., r)`: responses z of given features, or None;
    - `positions`: the layers that the depth counts, from 0 if the first is the input, otherwise from 1. Not a leaf;
    - `converged (...)`: whether the solvers of all these probes have converged; true for neighbours, and for None.
    """

    depth: Float[Array, "*axes n"]
    information: Float[Array, "*axes n"]
    correct: Bool[Array, "*axes n"]
    response: Float[Array, "*axes r"] | None
    positions: tuple[str, ...]
    converged: Bool[Array, "*axes"] | None = None


class Histogram(NamedTuple):
    """The numbers of examples: `counts (..., layers)` of the depths `depths (layers,)`, and `invalid (...)` without."""

    depths: Int[np.ndarray, " layers"]
    counts: Int[np.ndarray, "*axes layers"]
    invalid: Int[np.ndarray, "*axes"]


class Warnings(NamedTuple):
    """Warnings of runs `(*runs, T)`.

    `warned (*runs,)` tells whether there was a warning, and `step (*runs,)` is the first recorded step with one, or -1.
    `exceeds (*runs, T)` tells at which steps a threshold was exceeded. `threshold (T,)` are those of the early mass, a
    share, and `information_threshold (T,)` those of the mean information in bits, or None. `rate` is the nominal rate
    of false alarms per run, over all steps. `measured (*runs,)` is False if a run had a step without valid examples,
    with probes that have not converged, or with information that is not finite; such a step gives no warning.
    """

    warned: Bool[np.ndarray, "*runs"]
    step: Int[np.ndarray, "*runs"]
    exceeds: Bool[np.ndarray, "*runs T"]
    threshold: Float[np.ndarray, " T"]
    information_threshold: Float[np.ndarray, " T"] | None
    rate: float
    measured: Bool[np.ndarray, "*runs"]


class FalseAlarms(NamedTuple):
    """The measured share of clean runs with a warning, its Clopper-Pearson interval, and what it was to be.

    `rate` is `alarms / runs`, in [`low`, `high`], and `nominal` the rate for which the thresholds were set.
    """

    rate: float
    low: float
    high: float
    alarms: int
    runs: int
    nominal: float


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
    depth, first = _depths("course", course)
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
    early, valid = _early("course", course, first)
    with np.errstate(invalid="ignore"):
        return np.where(valid > 0, early, np.nan) / valid


def warn(
    reference: Course,
    watched: Course,
    steps: Sequence[int] | Int[np.ndarray, " T"],
    *,
    rate: float = 0.05,
    first: int = 1,
    information: bool = False,
) -> Warnings:
    """Warns of runs whose early mass lies above what clean runs show, at any of the recorded steps.

    At each step the threshold is the upper end of the one-sided prediction interval of Student's t for a further run,

        mean + t_{n-1, 1 - rate/c} s sqrt(1 + 1/n),

    from the mean and the standard deviation s of the n runs of the reference. There are c comparisons: T steps, or 2 T
    with `information`. By Bonferroni's inequality the rate of false alarms over all of them is at most `rate` if the
    numbers of each step are normal. Shares are compared on the scale of log-odds, log((k + 1/2) / (v - k + 1/2)) for k
    early examples among v valid ones. There s is at least the binomial error sqrt(1/(k + 1/2) + 1/(v - k + 1/2)), since
    a reference whose runs all agree would otherwise warn of every other run. Shares that are spread over orders of
    magnitude are not normal on this scale either, so measure the rate by `false_alarms`.

    The reference needs enough runs that the threshold is at most twice as far above the mean as with known mean and
    standard deviation: 5 for a rate of 0.05 and up to 11 comparisons.

    Args:
        reference: courses of clean data `(n, T, ...)`, one row per run.
        watched: courses to judge `(..., T, ...)`, e.g. one row per seed; a run alone is `(T, ...)`.
        steps: the recorded steps, `(T,)`, those of both.
        rate: the nominal rate of false alarms per run, in (0, 0.5).
        first: the largest depth that counts as early.
        information: whether to warn as well if the mean information per example is above its threshold.

    Raises:
        ValueError: arguments that are not courses of the same layers, or have other steps; steps that do not increase;
            a reference with too few runs, or with a step that is not `measured`; `rate` out of range; `first` that is
            not a whole number of at least 0.

    >>> def runs(share, seeds):
    ...     depth = np.where(np.random.default_rng(seeds).random((seeds, 3, 200)) < share, 1.0, 2.0)
    ...     return Course(depth, 0 * depth, depth > 0, None, ("h1", "h2"))
    >>> found = warn(runs(0.5, 6), runs(0.9, 2), [10, 20, 30])
    >>> found.step.tolist(), bool((found.threshold < 0.8).all())
    ([10, 10], True)
    """
    _check.number("rate", rate, "(0, 0.5)")
    first = _check.whole("first", first, least=0)
    information = _check.flag("information", information)
    steps = np.array(_check.wholes("steps", steps, least=0))
    _check.require(len(steps) > 0 and (np.diff(steps) > 0).all(), "steps", "increasing whole numbers", steps)
    known, new = (
        _statistics(name, given, steps, first, information)
        for name, given in (("reference", reference), ("watched", watched))
    )
    same = reference.positions == watched.positions
    _check.require(same, "watched", f"the layers {', '.join(reference.positions)}", ", ".join(watched.positions))
    runs = known.values.shape[:-2]
    _check.require(len(runs) == 1, "reference", "courses (n, T, ...), one row per run", f"axes {runs} before T")
    comparisons = known.values[0].size
    least = _least_runs(rate / comparisons)
    expected = f"at least {least} runs for a rate of {rate:g} over {comparisons} comparisons"
    _check.require(runs[0] >= least, "reference", expected, runs[0])
    for step, good in zip(steps, np.all(known.measured, axis=(0, 2)).tolist(), strict=True):
        expected = "valid examples, converged probes and finite information at every step"
        _check.require(good, "reference", expected, f"a run without at step {step}")

    spread = np.maximum(known.values.std(axis=0, ddof=1), np.sqrt(known.errors.mean(axis=0)))
    threshold = known.values.mean(axis=0) + _reach(runs[0], rate / comparisons) * spread
    with np.errstate(invalid="ignore"):
        exceeds = ((new.values > threshold) & new.measured).any(axis=-1)
    warned = exceeds.any(axis=-1)
    return Warnings(
        warned,
        np.where(warned, steps[exceeds.argmax(axis=-1)], -1),
        exceeds,
        special.expit(threshold[:, 0]),
        threshold[:, 1] if information else None,
        float(rate),
        np.asarray(new.measured.all(axis=(-2, -1))),
    )


def false_alarms(
    reference: Course,
    clean: Course | None = None,
    *,
    rate: float = 0.05,
    first: int = 1,
    information: bool = False,
    level: float = 0.95,
) -> FalseAlarms:
    """The measured rate of false alarms of `warn`: the share of clean runs with a warning, with its interval.

    The runs are those of `clean`, which did not set the thresholds. The Clopper-Pearson interval is then exact for the
    rate of these thresholds, which can lie above the nominal rate: that bounds its mean over references. Without
    `clean`, each run of the reference is judged by thresholds from the others. These judgements are not independent, so
    the interval is approximate.

    Args:
        reference: courses of clean data `(n, T, ...)`, one row per run.
        clean: other courses of clean data `(m, T, ...)`, or None.
        rate, first, information: as in `warn`.
        level: the confidence level of the interval, in (0, 1).

    Raises:
        ValueError: `level` out of range; `clean` not one row per run; the errors of `warn`. Without `clean` the
            reference needs one run more.

    >>> depth = np.where(np.random.default_rng(0).random((8, 3, 200)) < 0.5, 1.0, 2.0)
    >>> found = false_alarms(Course(depth, 0 * depth, depth > 0, None, ("h1", "h2")))
    >>> found.alarms, found.runs, round(found.high, 2)
    (0, 8, 0.37)
    """
    _check.number("level", level, "(0, 1)")
    options: dict[str, Any] = {"rate": rate, "first": first, "information": information}
    depth, _ = _depths("reference", reference)
    _check.require(depth.ndim == 3, "reference", "courses (n, T, ...), one row per run", f"depths {depth.shape}")
    runs, steps = len(depth), range(depth.shape[1])
    if clean is not None:
        shape = _depths("clean", clean)[0].shape
        _check.require(len(shape) == 3, "clean", "courses (m, T, ...), one row per run", f"depths {shape}")
        warned = warn(reference, clean, steps, **options).warned
    else:
        rows = [np.arange(runs) != run for run in range(runs)]
        warned = np.array(
            [warn(_rows(reference, row), _rows(reference, ~row), steps, **options).warned for row in rows]
        )
    alarms, runs = int(warned.sum()), warned.size
    tail = (1 - level) / 2
    low = special.betaincinv(alarms, runs - alarms + 1, tail) if alarms > 0 else 0.0
    high = special.betaincinv(alarms + 1, runs - alarms, 1 - tail) if alarms < runs else 1.0
    return FalseAlarms(alarms / runs, float(low), float(high), alarms, runs, float(rate))


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


def _depths(name: str, course: Any) -> tuple[Float[np.ndarray, "..."], int]:
    """The depths of a course, and the smallest possible one."""
    _check.require(isinstance(course, Course), name, "a Course", type(course).__name__)
    depth = np.asarray(course.depth)
    _check.require(depth.ndim and depth.shape[-1], name, "depths (..., n) of examples", f"shape {depth.shape}")
    return depth, 0 if course.positions[0] == INPUT else 1


def _early(name: str, course: Any, first: int) -> tuple[Int[np.ndarray, "..."], Int[np.ndarray, "..."]]:
    """The numbers of early examples and of valid examples."""
    depth, _ = _depths(name, course)
    first = _check.whole("first", first, least=0)
    return (depth <= first).sum(axis=-1), (~np.isnan(depth)).sum(axis=-1)


class _Statistics(NamedTuple):
    """The statistics `(..., T, s)`, the squares of their least errors, and whether they were measured."""

    values: Float[np.ndarray, "*runs T s"]
    errors: Float[np.ndarray, "*runs T s"]
    measured: Bool[np.ndarray, "*runs T s"]


def _statistics(name: str, course: Any, steps: np.ndarray, first: int, information: bool) -> _Statistics:
    early, valid = _early(name, course, first)
    got = f"depths {np.shape(course.depth)}"
    _check.require(early.shape[-1:] == steps.shape, name, f"a course over {len(steps)} steps", got)
    odds = np.stack([early + 0.5, valid - early + 0.5])
    measured = (valid > 0) & (True if course.converged is None else np.asarray(course.converged))
    found = [(np.log(odds[0] / odds[1]), (1 / odds).sum(axis=0), measured)]
    if information:
        mean = np.mean(course.information, axis=-1, dtype=float)
        found.append((mean, np.zeros_like(mean), np.isfinite(mean)))
    return _Statistics(*(np.stack(each, axis=-1) for each in zip(*found, strict=True)))


def _reach(runs: int, tail: float) -> float:
    """How far the prediction interval reaches above the mean, in standard deviations."""
    return float(special.stdtrit(runs - 1, 1 - tail) * np.sqrt(1 + 1 / runs))


def _least_runs(tail: float) -> int:
    """The smallest number of runs with a reach of at most twice that with a known mean and standard deviation."""
    runs = 2
    while _reach(runs, tail) > 2 * -special.ndtri(tail):
        runs += 1
    return runs


def _rows(course: Course, rows: Any) -> Course:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], course)
