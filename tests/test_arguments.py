"""Numbers, networks and parameters: every public function accepts and refuses the same values.

Every numeric argument has a line in `ARGUMENTS`; a missing one fails `test_every_argument_is_in_the_table`. Every
function that takes a network has a line in `NETWORKS`.
"""

# pyright: reportArgumentType=false, reportCallIssue=false
# Bad input is of any type, and NumPy's arrays stand for JAX's.

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import gsjax
from gsjax import (
    Ridge,
    SpectralDecoupling,
    data,
    diagnosis,
    dual,
    features,
    linearized,
    methods,
    multiclass,
    networks,
    objectives,
    plotting,
    probes,
    starvation,
    statistics,
    sweeps,
    tangent,
    training,
)
from gsjax.diagnosis.task import check_task
from gsjax.methods import Batch
from gsjax.starvation import structures
from gsjax.starvation.diagram import PhaseDiagram
from gsjax.tangent.calls import check_problem

N = 5
X, Y = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32), np.array([1.0, -1.0, 1.0, 1.0, -1.0])
W = jnp.arange(1.0, 4.0)
KEYS = jax.random.split(jax.random.key(0), 1)


def linear(w, x):
    return x @ w


class OneUnit(nn.Module):
    """A network with outputs (n, 1), the most common kind, or (n, k)."""

    outputs: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(x)


class Squeezed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)[:, 0]


class Identity(nn.Module):
    def __call__(self, x):
        return x[:, 0]


def drawn(network: nn.Module) -> Any:
    return jax.jit(network.init)(jax.random.key(1), X)  # one program, in place of one for each operation


# ---- numbers

WHOLE = "whole number"
NUMBER = "real number"
NUMBERS = "array of real numbers"
WHOLES = "sequence of whole numbers"
FLAG = "True or False"
CHOICE = "string of a list"

BAD: dict[str, list[Any]] = {
    WHOLE: [True, np.True_, 2.0, np.float32(2), jnp.float32(2), "2", 2j, [2], np.array([2, 2]), -3, np.nan],
    NUMBER: [True, np.True_, "0.5", 0.5j, np.complex64(0.5), [0.5, 0.5], np.nan, -np.inf, jnp.array([0.5]), object()],
    NUMBERS: [True, np.True_, "0.5", 0.5j, [0.5, "0.5"], [True], [[0.5], [0.5, 0.5]], np.nan, np.array([None]), {0.5}],
    WHOLES: [2, "22", [2.0], (True,), {2}, np.array([2.0]), [[2]], ["2"], [-3], iter([2])],
    FLAG: [1, 0, "no", None, jnp.array([True]), [True]],
    CHOICE: [1, "nonsense", ["relu"], True, None],
}
# Conversions of a Python value that must be accepted like the value itself.
SAME: dict[str, list[Callable[[Any], Any]]] = {
    WHOLE: [np.int64, np.uint8, jnp.asarray, np.asarray],
    NUMBER: [np.float32, np.float64, jnp.asarray, np.asarray],
    NUMBERS: [np.float32, jnp.asarray, np.asarray],
    WHOLES: [list, tuple, np.asarray, jnp.asarray, lambda values: [np.int64(value) for value in values]],
    FLAG: [np.bool_],
    CHOICE: [],
}


class Argument(NamedTuple):
    """An argument of a public function: its kind, a call with a value, a good value, and whether None is good."""

    kind: str
    call: Callable[[Any], Any]
    good: Any
    none: bool = False


def call_with(function: Callable[..., Any], *args: Any, **fixed: Any) -> Callable[[str], Callable[[Any], Any]]:
    return lambda name: lambda value: function(*args, **{**fixed, name: value})


def rows(prefix: str, make: Callable[[str], Callable[[Any], Any]], **kinds: tuple[Any, ...]) -> dict[str, Argument]:
    return {f"{prefix}.{name}": Argument(kind[0], make(name), *kind[1:]) for name, kind in kinds.items()}


def method(name: str, **options: Any) -> Callable[[str], Callable[[Any], Any]]:
    return call_with(methods.get(name), Squeezed(), optax.sgd(0.1), **options)


dedier = method("dedier", position="Dense_0", beta=1.0, refresh_every=1, readout_steps=1)
jtt = method("jtt", identification_steps=1, upweight=2.0)
dfr = method("dfr", groups=1, feature_steps=1)


def refitted(name: str) -> Callable[[Any], Any]:
    network, batch = networks.FullyConnected((2,)), Batch(X, Y, np.zeros(N, int))
    state = methods.get("erm")(network, optax.sgd(0.1)).init(KEYS[0], batch)
    return lambda value: methods.refit(network, state, batch, **{"groups": 1, "l2": 0.1, name: value})


def trained(name: str) -> Callable[[Any], Any]:
    given = {"steps": 2, "batch_size": 2, "record": (2,), "per_seed": False}
    train = functools.partial(methods.train, methods.get("erm")(Squeezed(), optax.sgd(0.1)), KEYS, Batch(X, Y))
    return lambda value: train(**{**given, name: value})


def streamed(name: str) -> Callable[[Any], Any]:
    erm, batch = methods.get("erm")(Squeezed(), optax.sgd(0.1)), Batch(X, Y)
    given = {"epochs": 1, "steps": 1}
    return lambda value: methods.stream(erm, erm.init(KEYS[0], batch), lambda _: [batch] * 2, **{**given, name: value})


def minimised(name: str) -> Callable[[Any], Any]:
    learner = methods.init_learner(Squeezed(), optax.sgd(0.1), KEYS[0], X)

    def objective(logits, ridge):
        return methods.Info((logits**2).mean() + ridge, ridge, ridge), ()

    step = functools.partial(methods.minimise, Squeezed(), optax.sgd(0.1), learner, X, objective, step=0)
    return lambda value: step(**{name: value})


def taught(name: str) -> Callable[[Any], Any]:
    learner = methods.init_learner(Squeezed(), optax.sgd(0.1), KEYS[0], X)
    return lambda value: methods.with_teacher(Squeezed(), learner, Batch(X, Y), **{name: value})


def estimated(function: str) -> Callable[[str], Callable[[Any], Any]]:
    given = {"network": Squeezed(), "steps": 2, "seeds": 2, "null": "balance"}
    call = functools.partial(getattr(probes, function), KEY, X, Y)
    return lambda name: lambda value: call(**{**given, name: value})


def score(x):
    return x @ W


RUNS = probes.monitoring.Course(np.ones((8, 2, 9)), np.zeros((8, 2, 9)), np.ones((8, 2, 9)), None, ("h1",))


def sweep(**options: Any) -> sweeps.Sweep:
    return sweeps.Sweep(**{"widths": (4,), "seeds": 1, "tolerance": 1e-2, **options})


DATASET = data.Dataset(X, Y.astype(np.float32))
IMAGES = data.Images(np.full((4, 4, 4, 1), 9, np.uint8), np.arange(4, dtype=np.uint8) % 2)
CELL = sweeps.Cell(4, 1, "sd", 0.1)
ROW = {**CELL._asdict(), "data": "a", "seed": 0, "converged": True, "error_parameters": 0.1}
DIAGRAM = PhaseDiagram(*(np.array([0.5, 0.7]),) * 3, np.ones((2,) * 4), np.ones((2,) * 5), np.ones((2,) * 3, bool))
TRAJECTORY = starvation.Trajectory(np.array([0.1, 1.0]), np.ones((2, 2)), np.ones((2, 2, 2)), np.True_)
ERRORS = np.array([[2.0, 1.0], [2.2, 0.9]])
DECAY = (NUMBER, 0.5)

FEATS = features.planar(0.6, jnp.array([4.0, 1.0]))
# Either the margin or the confidence is None.
DECOUPLING = {
    "margin": lambda value: dual.decoupling_for(margin=value, confidence=0.75 if value is None else None),
    "confidence": lambda value: dual.decoupling_for(confidence=value, margin=1.0 if value is None else None),
}
CLASSES = multiclass.from_ntrf(jnp.eye(4).reshape(2, 2, 4), jnp.array([0, 1]))
_Z = np.ones((1, 1, 2, 2))
PLANE = linearized.Trajectories(
    np.array([4.0]), np.array([0.1]), np.array([0.1, 1.0]), _Z, _Z, _Z[:, :, -1], np.ones((1, 1), bool)
)
TIMES = jnp.array([0.0, 1.0])
KERNEL = lx.MatrixLinearOperator(jnp.diag(jnp.array([4.0, 2.0, 1.0])), lx.positive_semidefinite_tag)
KEY = jax.random.key(0)
LEADING_THREE = features.from_operator(KERNEL, Y[:3], top=1)
SOLVED = call_with(dual.equilibrium_from_operator, KERNEL, Y[:3], Ridge(1.0), feats=LEADING_THREE)
ENTRIES = call_with(starvation.matrix_from_operator, KERNEL, Y[:3], Ridge(1.0), feats=LEADING_THREE)
FOUR = lx.MatrixLinearOperator(jnp.diag(jnp.array([4.0, 2.0, 1.0, 3.0])), lx.positive_semidefinite_tag)
LEADING = call_with(multiclass.from_operator, FOUR, [0, 1], top=1)
LEADING_FOUR = multiclass.from_operator(FOUR, jnp.array([0, 1]), top=1)
SOLVED_CLASSES = call_with(multiclass.equilibrium_from_operator, FOUR, [0, 1], Ridge(1.0), feats=LEADING_FOUR)
ENTRIES_CLASSES = call_with(multiclass.starvation_from_operator, FOUR, [0, 1], Ridge(1.0), feats=LEADING_FOUR)
FIT = functools.partial(training.fit, linear, W, X, Y, Ridge(1.0))
DESCEND = functools.partial(training.descend, linear, W, X, Y, Ridge(1.0))
FORM = (CHOICE, "exact")
KNN = call_with(probes.knn, X, Y, X, k=1)
DEPTHS = call_with(probes.prediction_depth, networks.MLP((2,)), drawn(networks.MLP((2,))), (X, Y), X, k=1)

EARLY = (networks.MLP((2,)), drawn(networks.MLP((2,))), "h1", X, Y, X, Y)
READOUT = call_with(probes.early_readout, *EARLY)
TRAINED = call_with(probes.early_readout, *EARLY, depth=1, width=2, steps=1, key=KEY)
OF_CLASSES = call_with(probes.early_readout, *EARLY[:4], np.arange(N) % 2, X, np.arange(N) % 2)

DIAGNOSE = call_with(diagnosis.diagnose, linear, W, X, Y, penalty=Ridge(1.0))

ARGUMENTS: dict[str, Argument] = {
    **rows("objectives.Ridge", call_with(Ridge), strength=(NUMBERS, 0.5)),
    **rows("objectives.SpectralDecoupling", call_with(SpectralDecoupling), strength=(NUMBERS, 0.5)),
    **rows("objectives.SpectralDecoupling", call_with(SpectralDecoupling, 0.1), target=(NUMBERS, 0.5)),
    **rows("features.from_ntrf", call_with(features.from_ntrf, X, Y), rtol=(*DECAY, True)),
    **rows("features.from_ntk", call_with(features.from_ntk, np.eye(N, dtype=np.float32), Y), rtol=(*DECAY, True)),
    **rows("features.from_operator", call_with(features.from_operator, KERNEL, Y[:3]), top=(WHOLE, 2)),
    **rows("features.from_operator", call_with(features.from_operator, KERNEL, Y[:3], top=1), tolerance=(*DECAY, True)),
    **rows("features.from_operator", call_with(features.from_operator, KERNEL, Y[:3], top=1), max_products=(WHOLE, 9)),
    "features.planar.delta": Argument(NUMBER, lambda value: features.planar(value, jnp.ones(2)), 0.5),
    **rows("dual.equilibrium", call_with(dual.equilibrium, FEATS, Ridge(1.0)), tolerance=(*DECAY, True), form=FORM),
    **rows("dual.integrate", call_with(dual.integrate, FEATS, Ridge(1.0), times=TIMES), learning_rate=DECAY, form=FORM),
    **rows("dual.integrate", call_with(dual.integrate, FEATS, Ridge(1.0), times=TIMES), initial=(NUMBERS, 0.5)),
    **rows("starvation.matrix", call_with(starvation.matrix, FEATS, Ridge(1.0)), form=FORM, oriented=(FLAG, True)),
    **rows("dual.decoupling_for", DECOUPLING.__getitem__, margin=(*DECAY, True), confidence=(NUMBER, 0.75, True)),
    **rows("dual.equilibrium_from_operator", SOLVED, tolerance=(*DECAY, True), max_products=(WHOLE, 99)),
    **rows("starvation.matrix_from_operator", ENTRIES, tolerance=(*DECAY, True), max_products=(WHOLE, 99)),
    **rows("starvation.matrix_from_operator", ENTRIES, oriented=(FLAG, True)),
    **rows("multiclass.from_operator", call_with(multiclass.from_operator, FOUR, [0, 1]), top=(WHOLE, 2)),
    **rows("multiclass.from_operator", LEADING, tolerance=(*DECAY, True), max_products=(WHOLE, 99)),
    **rows("multiclass.equilibrium_from_operator", SOLVED_CLASSES, tolerance=(*DECAY, True), max_products=(WHOLE, 99)),
    **rows("multiclass.starvation_from_operator", ENTRIES_CLASSES, tolerance=(*DECAY, True), max_products=(WHOLE, 99)),
    **rows("multiclass.starvation_from_operator", ENTRIES_CLASSES, oriented=(FLAG, True)),
    **rows("starvation.share", call_with(starvation.share, FEATS, Ridge(1.0)), form=FORM, weighted=(FLAG, True)),
    **rows("starvation.phase_diagram", call_with(starvation.phase_diagram, [1.0], [0.1], [1.0]), oriented=(FLAG, True)),
    **rows(
        "starvation.trajectory", call_with(starvation.trajectory, FEATS, Ridge(1.0), times=TIMES), oriented=(FLAG, True)
    ),
    **rows("starvation.elasticity", call_with(starvation.elasticity, FEATS, Ridge(1.0)), form=FORM),
    **rows("starvation.ensemble", call_with(starvation.ensemble, FEATS.u[None], FEATS.s2, Ridge(1.0)), form=FORM),
    **rows("structures.random_orthogonal", call_with(structures.random_orthogonal, KEY), n=(WHOLE, 2)),
    **rows("structures.near_identity", call_with(structures.near_identity, KEY, size=0.1), n=(WHOLE, 2)),
    **rows("structures.near_identity", call_with(structures.near_identity, KEY, 2), size=DECAY),
    **rows("structures.near_identity", call_with(structures.near_identity, KEY, 2, 0.1), signs=(CHOICE, "positive")),
    **rows("structures.aligned", call_with(structures.aligned, KEY, overlap=0.5), n=(WHOLE, 2)),
    **rows("structures.aligned", call_with(structures.aligned, KEY, 3), overlap=DECAY),
    **rows("structures.exceptions", call_with(structures.exceptions, KEY, count=1), n=(WHOLE, 2)),
    **rows("structures.exceptions", call_with(structures.exceptions, KEY, 4), count=(WHOLE, 2)),
    **rows("structures.blocks", call_with(structures.blocks, KEY, block=1), n=(WHOLE, 2)),
    **rows("structures.blocks", call_with(structures.blocks, KEY, 4), block=(WHOLE, 2)),
    **rows("structures.power_law", call_with(structures.power_law, decay=0.5), n=(WHOLE, 2)),
    **rows("structures.power_law", call_with(structures.power_law, 3), decay=DECAY),
    **rows("multiclass.from_ntk", call_with(multiclass.from_ntk, np.ones((1, 1, 2, 2)), [0]), rtol=(*DECAY, True)),
    **rows("starvation.pulls", call_with(starvation.pulls, jnp.eye(1), *[jnp.ones(1)] * 3), strength=DECAY),
    **rows(
        "starvation.sensitivity",
        call_with(starvation.sensitivity, jnp.ones(1), *[jnp.eye(1)], jnp.ones(1)),
        strength=DECAY,
    ),
    **rows(
        "objectives.per_example", call_with(objectives.per_example, SpectralDecoupling(0.1), dtype=float), n=(WHOLE, 2)
    ),
    **rows("multiclass.from_ntrf", call_with(multiclass.from_ntrf, np.ones((2, 2, 3)), [0, 1]), rtol=(*DECAY, True)),
    **rows("multiclass.equilibrium", call_with(multiclass.equilibrium, CLASSES, Ridge(1.0)), tolerance=(*DECAY, True)),
    **rows(
        "multiclass.starvation_matrix",
        call_with(multiclass.starvation_matrix, CLASSES, Ridge(1.0)),
        oriented=(FLAG, True),
    ),
    **rows("linearized.flow", call_with(linearized.flow, FEATS, Ridge(1.0), times=TIMES), learning_rate=DECAY),
    **rows("training.fit", call_with(FIT), tolerance=(*DECAY, True), max_steps=(WHOLE, 2)),
    **rows("training.descend", call_with(DESCEND, steps=[1]), step_size=DECAY),
    **rows(
        "training.descend", call_with(DESCEND, step_size=0.1, steps=[1]), tolerance=(*DECAY, True), max_steps=(WHOLE, 2)
    ),
    **rows("training.descend", call_with(DESCEND, step_size=0.1), steps=(WHOLES, (2,))),
    "dual.closed_form.lambertw.x": Argument(NUMBERS, dual.closed_form.lambertw, 0.5),
    "dual.closed_form.equal_strengths.s2": Argument(
        NUMBER, lambda v: dual.closed_form.equal_strengths(v, jnp.eye(2), 1.0), 0.5
    ),
    "dual.closed_form.equal_strengths.strength": Argument(
        NUMBER, lambda v: dual.closed_form.equal_strengths(1.0, jnp.eye(2), v), 0.5
    ),
    "dual.closed_form.permutation.strength": Argument(
        NUMBER, lambda v: dual.closed_form.permutation(jnp.ones(2), v), 0.5
    ),
    "dual.closed_form.lemma1.strength": Argument(
        NUMBER, lambda v: dual.closed_form.lemma1(jnp.eye(2), jnp.ones(2), v), 0.5
    ),
    "dual.closed_form.theorem2_slope.delta": Argument(
        NUMBER, lambda v: dual.closed_form.theorem2_slope(v, jnp.ones(2), 1.0), 0.5
    ),
    "dual.closed_form.theorem2_slope.strength": Argument(
        NUMBER, lambda v: dual.closed_form.theorem2_slope(0.5, jnp.ones(2), v), 0.5
    ),
    "data.two_moons.n": Argument(WHOLE, lambda v: data.two_moons(KEY, v), 2),
    "data.two_moons.noise": Argument(NUMBER, lambda v: data.two_moons(KEY, 4, noise=v), 0.5),
    "data.load.size": Argument(WHOLE, lambda v: data.load(KEY, "digits", n=2, size=v), 2),
    **rows("data.dominoes", call_with(data.dominoes, KEY, IMAGES, IMAGES), n=(WHOLE, 2, True), stride=(WHOLE, 2)),
    **rows("data.dominoes", call_with(data.dominoes, KEY, IMAGES, IMAGES), correlation=DECAY, label_noise=DECAY),
    **rows("data.dominoes", call_with(data.dominoes, KEY, IMAGES, IMAGES), core_first=(FLAG, True)),
    **rows("data.dominoes", call_with(data.dominoes, KEY, IMAGES, IMAGES), arrangement=(CHOICE, "horizontal")),
    **rows("data.hide", call_with(data.hide, jnp.ones((2, 3, 1)), np.ones((2, 3), bool)), value=DECAY),
    **rows("data.patched", call_with(data.patched, IMAGES, 1, size=1), size=(WHOLE, 2), others=(FLAG, True)),
    "data.patched.label": Argument(WHOLE, lambda v: data.patched(IMAGES, v, size=1), 1),
    "data.patched.position": Argument(WHOLES, lambda v: data.patched(IMAGES, 1, size=1, position=v), (0, 1)),
    **rows("data.patch_region", call_with(data.patch_region, (4, 4)), size=(WHOLE, 2)),
    "data.patch_region.shape": Argument(WHOLES, lambda v: data.patch_region(v, size=1), (4, 5)),
    **rows("data.structured.random_basis", call_with(data.structured.random_basis, KEY, dimension=2), count=(WHOLE, 2)),
    **rows("data.structured.random_basis", call_with(data.structured.random_basis, KEY, 2), dimension=(WHOLE, 2)),
    **rows(
        "data.structured.reduced",
        call_with(data.structured.reduced, {"hidden": {"kernel": jnp.ones((2, 1))}}, np.eye(1, 2), optax.sgd(0.1)),
        weight_decay=DECAY,
    ),
    "data.structured.sample.n": Argument(WHOLE, lambda v: data.structured.sample(KEY, v), 2),
    **rows("data.structured.sample", call_with(data.structured.sample, KEY, 2), core=(WHOLE, 2), shifted=(FLAG, True)),
    **rows("data.structured.sample", call_with(data.structured.sample, KEY, 2), background=(WHOLE, 2)),
    **rows(
        "data.structured.sample",
        call_with(data.structured.sample, KEY, 2, core=1, background=1),
        dimension=(WHOLE, 2),
    ),
    "data.split.n_train": Argument(WHOLE, lambda v: data.split(KEY, DATASET, v), 2),
    **rows("networks.MLP", call_with(networks.MLP, (8,)), outputs=(WHOLE, 2), activation=(CHOICE, "erf")),
    **rows("networks.MLP", call_with(networks.MLP), widths=(WHOLES, (2,))),
    **rows(
        "networks.CNN",
        call_with(networks.CNN, (8,)),
        outputs=(WHOLE, 2),
        kernel_size=(WHOLE, 3),
        strides=(WHOLES, (2,)),
    ),
    **rows("networks.CNN", call_with(networks.CNN, (8,)), activation=(CHOICE, "tanh"), padding=(CHOICE, "SAME")),
    **rows("networks.CNN", call_with(networks.CNN), channels=(WHOLES, (2,))),
    **rows("networks.FullyConnected", call_with(networks.FullyConnected, (8,)), outputs=(WHOLE, 2), dropout=DECAY),
    **rows("networks.FullyConnected", call_with(networks.FullyConnected, (8,)), batch_norm=(FLAG, True)),
    **rows("networks.FullyConnected", call_with(networks.FullyConnected, (8,)), activation=(CHOICE, "leaky_relu")),
    **rows("networks.FullyConnected", call_with(networks.FullyConnected, (8,)), initialization=(CHOICE, "xavier")),
    **rows("networks.FullyConnected", call_with(networks.FullyConnected), widths=(WHOLES, (2,))),
    **rows("networks.ConvNet", call_with(networks.ConvNet), channels=(WHOLES, (2,)), widths=(WHOLES, (2,))),
    **rows("networks.ConvNet", call_with(networks.ConvNet), outputs=(WHOLE, 2), kernel_size=(WHOLE, 3)),
    **rows("networks.ConvNet", call_with(networks.ConvNet), activation=(CHOICE, "relu")),
    **rows("networks.VGG", call_with(networks.VGG), outputs=(WHOLE, 2)),
    "networks.VGG.channels": Argument(WHOLES, lambda value: networks.VGG([value]), (2,)),
    **rows("networks.PreActResNet", call_with(networks.PreActResNet, blocks=(1,)), channels=(WHOLES, (2,))),
    **rows("networks.PreActResNet", call_with(networks.PreActResNet, channels=(4,)), blocks=(WHOLES, (2,))),
    **rows("networks.PreActResNet", call_with(networks.PreActResNet), outputs=(WHOLE, 2)),
    **rows("networks.ResNet", call_with(networks.ResNet), blocks=(WHOLES, (2,)), outputs=(WHOLE, 2), width=(WHOLE, 2)),
    **rows("networks.ResNet", call_with(networks.ResNet), block=(CHOICE, "basic"), stem=(CHOICE, "small")),
    **rows(
        "networks.TwoLayer", call_with(networks.TwoLayer), width=(WHOLE, 2), trained=(FLAG, True), bias=(FLAG, True)
    ),
    **rows("networks.TwoLayer", call_with(networks.TwoLayer, trained=True), outputs=(WHOLE, 2), scale=DECAY),
    **rows("networks.Readout", call_with(networks.Readout), outputs=(WHOLE, 2), depth=(WHOLE, 2), width=(WHOLE, 2)),
    **rows("networks.Readout", call_with(networks.Readout), pooled=(FLAG, True)),
    **rows("networks.TwoLayer", call_with(networks.TwoLayer), activation=(CHOICE, "gelu")),
    "networks.gamma.activation": Argument(CHOICE, networks.gamma, "relu"),
    "networks.get.name": Argument(CHOICE, networks.get, "mlp"),
    **rows("networks.stages.mode", call_with(networks.stages.mode, networks.FullyConnected((8,))), train=(FLAG, True)),
    **rows(
        "networks.stages.apply", call_with(networks.stages.apply, OneUnit(), drawn(OneUnit()), X), train=(FLAG, True)
    ),
    **rows(
        "networks.stages.upto",
        call_with(networks.stages.upto, OneUnit(), drawn(OneUnit()), X, "Dense_0"),
        train=(FLAG, True),
    ),
    **rows(
        "tangent.ntk", call_with(tangent.ntk, linear, W, X), batch_size=(WHOLE, 5, True), method=(CHOICE, "jacobian")
    ),
    "methods.get.name": Argument(CHOICE, methods.get, "erm"),
    **rows("methods.erm", method("erm"), weight_decay=DECAY, loss=(CHOICE, "hinge")),
    **rows("methods.spectral_decoupling", method("spectral_decoupling"), strength=(NUMBERS, 0.5)),
    **rows("methods.spectral_decoupling", method("spectral_decoupling", strength=0.1), weight_decay=DECAY),
    **rows("methods.spectral_decoupling", method("spectral_decoupling", strength=0.1), target=(NUMBERS, 0.5)),
    **rows("methods.spectral_decoupling", method("spectral_decoupling", strength=0.1), class_means=(FLAG, True)),
    **rows("methods.spectral_decoupling", method("spectral_decoupling", strength=0.1), loss_scale=DECAY),
    **rows("methods.spectral_decoupling", method("spectral_decoupling", strength=0.1), loss=(CHOICE, "hinge")),
    **rows("methods.spectral_decoupling", method("spectral_decoupling", strength=0.1), switch=(WHOLE, 2, True)),
    **rows("methods.irm", method("irm"), penalty_weight=DECAY),
    **rows("methods.irm", method("irm", penalty_weight=1.0), anneal=(WHOLE, 2), environments=(WHOLE, 2)),
    **rows("methods.irm", method("irm", penalty_weight=1.0), weight_decay=DECAY),
    **rows("methods.vrex", method("vrex"), penalty_weight=DECAY),
    **rows("methods.vrex", method("vrex", penalty_weight=1.0), anneal=(WHOLE, 2), environments=(WHOLE, 2)),
    **rows("methods.vrex", method("vrex", penalty_weight=1.0), weight_decay=DECAY),
    **rows("methods.group_dro", method("group_dro"), groups=(WHOLE, 2)),
    **rows("methods.group_dro", method("group_dro", groups=2), step_size=DECAY, weight_decay=DECAY),
    **rows("methods.lff", method("lff"), q=DECAY, examples=(WHOLE, 2, True), decay=DECAY, weight_decay=DECAY),
    **rows("methods.sieve", method("sieve", position="Dense_0"), forget_rate=DECAY, weight_decay=DECAY),
    **rows("methods.sieve", method("sieve", position="Dense_0"), every=(WHOLE, 2), start=(WHOLE, 2), depth=(WHOLE, 2)),
    **rows("methods.sieve", method("sieve", position="Dense_0"), width=(WHOLE, 2), pooled=(FLAG, True)),
    **rows("methods.distillation", method("distillation"), mix=DECAY, temperature=DECAY, weight_decay=DECAY),
    **rows("methods.distillation", method("distillation", position="h1"), feature_share=(*DECAY, True)),
    **rows("methods.dedier", dedier, beta=DECAY, alpha=DECAY, refresh_every=(WHOLE, 2), readout_steps=(WHOLE, 2)),
    **rows("methods.dedier", dedier, mix=DECAY, temperature=DECAY, reweight_ce=(FLAG, True), weight_decay=DECAY),
    **rows("methods.dedier", dedier, depth=(WHOLE, 1), width=(WHOLE, 2), pooled=(FLAG, False)),
    **rows("methods.jtt", jtt, identification_steps=(WHOLE, 2), upweight=(NUMBER, 2.0), weight_decay=DECAY),
    **rows("methods.dfr", dfr, groups=(WHOLE, 2), feature_steps=(WHOLE, 2), restart=(FLAG, False), weight_decay=DECAY),
    **rows("methods.refit", refitted, groups=(WHOLE, 2), l1=DECAY, l2=DECAY, tolerance=DECAY),
    **rows("methods.refit", refitted, max_steps=(WHOLE, 2), batch_size=(WHOLE, 2)),
    **rows("methods.with_teacher", taught, batch_size=(WHOLE, 2)),
    **rows("methods.train", trained, steps=(WHOLE, 2), batch_size=(WHOLE, 2, True), record=(WHOLES, (2,), True)),
    **rows("methods.train", trained, per_seed=(FLAG, False)),
    **rows("methods.stream", streamed, epochs=(WHOLE, 2), steps=(WHOLE, 2)),
    **rows("methods.minimise", minimised, weight_decay=DECAY),
    **rows(
        "probes.attribution.saliency",
        call_with(probes.saliency, Squeezed(), drawn(Squeezed()), X),
        channels=(CHOICE, "sum"),
        times_input=(FLAG, True),
    ),
    **rows("probes.contamination.projections", call_with(probes.contamination.projections, np.eye(3)), core=(WHOLE, 2)),
    **rows("probes.contamination.components", call_with(probes.contamination.components, np.eye(3)), core=(WHOLE, 2)),
    **rows(
        "probes.contamination.growth",
        call_with(probes.contamination.growth, core=2, background=2),
        core=(WHOLE, 2),
        background=(WHOLE, 2),
        mean=DECAY,
        deviation=DECAY,
    ),
    **rows("probes.margins.pgd", call_with(probes.margins.pgd, score, X, Y, step_size=0.1), radius=(NUMBERS, 0.5)),
    **rows("probes.margins.pgd", call_with(probes.margins.pgd, score, X, Y, radius=0.1), step_size=(NUMBERS, 0.5)),
    **rows(
        "probes.margins.pgd", call_with(probes.margins.pgd, score, X, Y, radius=0.1, step_size=0.1), steps=(WHOLE, 2)
    ),
    **rows(
        "probes.margins.pgd", call_with(probes.margins.pgd, score, X, Y, radius=0.1, step_size=0.1), norm=(CHOICE, "l2")
    ),
    **rows("probes.margins.margins", call_with(probes.margins.margins, score, X, Y), max_radius=DECAY),
    **rows("probes.margins.margins", call_with(probes.margins.margins, score, X, Y, max_radius=1.0), steps=(WHOLE, 2)),
    **rows(
        "probes.margins.margins", call_with(probes.margins.margins, score, X, Y, max_radius=1.0), bisections=(WHOLE, 2)
    ),
    **rows(
        "probes.margins.margins", call_with(probes.margins.margins, score, X, Y, max_radius=1.0), norm=(CHOICE, "l2")
    ),
    **rows("probes.neighbours.knn", KNN, k=(WHOLE, 2), metric=(CHOICE, "l2"), classes=(WHOLE, 2, True)),
    **rows("probes.depths.depth", call_with(probes.depth, [[1, 1]], [1, 1]), first=(WHOLE, 0)),
    **rows("probes.depths.prediction_depth", DEPTHS, k=(WHOLE, 2), metric=(CHOICE, "l2"), pool=(WHOLE, 2, True)),
    **rows("probes.depths.prediction_depth", DEPTHS, batch_size=(WHOLE, 5), count_input=(FLAG, True)),
    **rows("probes.information.usable_information", estimated("usable_information"), level=DECAY),
    **rows(
        "probes.information.pointwise_information",
        estimated("pointwise_information"),
        seeds=(WHOLE, 2),
        steps=(WHOLE, 2),
        batch_size=(WHOLE, 2, True),
        null=(CHOICE, "balance"),
        tolerance=DECAY,
        per_seed=(FLAG, False),
    ),
    **rows("probes.monitoring.early_mass", call_with(probes.monitoring.early_mass, RUNS), first=(WHOLE, 1)),
    **rows(
        "probes.alarms.warn",
        call_with(probes.alarms.warn, RUNS, RUNS, [1, 2]),
        rate=(NUMBER, 0.05),
        first=(WHOLE, 1),
        information=(FLAG, True),
    ),
    **rows("probes.alarms.warn", call_with(probes.alarms.warn, RUNS, RUNS), steps=(WHOLES, (1, 2))),
    **rows(
        "probes.alarms.false_alarms",
        call_with(probes.alarms.false_alarms, RUNS),
        rate=(NUMBER, 0.05),
        first=(WHOLE, 1),
        information=(FLAG, True),
        level=DECAY,
    ),
    **rows("probes.depths.prediction_depth", DEPTHS, strength=DECAY, probe=(CHOICE, "linear")),
    **rows("probes.readouts.early_readout", READOUT, strength=DECAY, tolerance=(*DECAY, True), max_steps=(WHOLE, 2)),
    **rows(
        "probes.readouts.early_readout",
        TRAINED,
        depth=(WHOLE, 2),
        width=(WHOLE, 2),
        steps=(WHOLE, 2),
        pooled=(FLAG, True),
    ),
    **rows("probes.readouts.early_readout", READOUT, batch_size=(WHOLE, 2)),
    **rows("probes.readouts.early_readout", OF_CLASSES, classes=(WHOLE, 2, True)),
    "probes.readouts.early_readout.groups": Argument(
        WHOLE, lambda value: probes.early_readout(*EARLY, group=np.arange(N) % 2, groups=value), 2, True
    ),
    **rows("probes.linear.linear_probe", call_with(probes.linear_probe, X, Y), strength=DECAY, max_steps=(WHOLE, 2)),
    **rows("probes.linear.linear_probe", call_with(probes.linear_probe, X, Y), classes=(WHOLE, 2, True)),
    **rows("probes.linear.linear_probe", call_with(probes.linear_probe, X, Y), tolerance=(*DECAY, True)),
    **rows("statistics.mean", call_with(statistics.mean, [1.0, 2.0]), level=DECAY),
    **rows("statistics.within", call_with(statistics.within, [1.0, 2.0], above=0.1), below=(NUMBER, 0.5, True)),
    **rows("statistics.within", call_with(statistics.within, [1.0, 2.0], below=0.9), above=(NUMBER, 0.5, True)),
    **rows("statistics.bootstrap", call_with(statistics.bootstrap, np.sum), seeds=(WHOLE, 2)),
    **rows("statistics.bootstrap", call_with(statistics.bootstrap, np.sum, 3), resamples=(WHOLE, 9), level=DECAY),
    **rows("statistics.bootstrap", call_with(statistics.bootstrap, np.sum, 3), seed=(WHOLE, 2)),
    **rows("statistics.loglog_slope", call_with(statistics.loglog_slope, [1, 2], ERRORS), level=DECAY),
    **rows(
        "sweeps.Sweep",
        call_with(sweep),
        widths=(WHOLES, (2,)),
        depths=(WHOLES, (2,)),
        seeds=(WHOLE, 2),
        seed=(WHOLE, 2),
    ),
    **rows("sweeps.Sweep", call_with(sweep), max_steps=(WHOLE, 2), features=(WHOLE, 2), tolerance=DECAY),
    **rows("sweeps.Sweep", call_with(sweep), activation=(CHOICE, "erf"), scaling=(CHOICE, "mean-field")),
    "sweeps.Sweep.strengths": Argument(NUMBERS, lambda value: sweep(strengths=[value]), 0.5),
    "sweeps.Sweep.penalties": Argument(CHOICE, lambda value: sweep(penalties=[value]), "sd"),
    **rows("sweeps.run", call_with(sweeps.run, sweep(), DATASET, DATASET, name="a"), progress=(FLAG, False)),
    **rows("sweeps.against_width", call_with(sweeps.against_width, [ROW]), converged=(FLAG, False)),
    **rows(
        "sweeps.starvation", call_with(sweeps.starvation, sweep(), CELL, DATASET), features=(WHOLE, 1), change=DECAY
    ),
    **rows(
        "sweeps.program", call_with(sweeps.program, sweep(), depth=1, train=DATASET, test=DATASET), width=(WHOLE, 4)
    ),
    **rows(
        "sweeps.program", call_with(sweeps.program, sweep(), width=4, train=DATASET, test=DATASET), depth=(WHOLE, 1)
    ),
    **rows("diagnosis.diagnose", DIAGNOSE, top=(WHOLE, 2), shown=(WHOLE, 2), batch_size=(WHOLE, 2, True)),
    **rows("diagnosis.diagnose", DIAGNOSE, max_products=(WHOLE, 2), seed=(WHOLE, 2), path=(CHOICE, "exact")),
    **rows("plotting.alignments", call_with(plotting.alignments, [0.5], [0.5]), chance=(*DECAY, True)),
    **rows("plotting.panels", call_with(plotting.panels), rows=(WHOLE, 2), columns=(WHOLE, 2)),
    **rows(
        "plotting.phase_diagram", call_with(plotting.phase_diagram, DIAGRAM), strength=(WHOLE, 1), colorbar=(FLAG, True)
    ),
    **rows(
        "plotting.sign_map",
        call_with(plotting.sign_map, [1.0, 2.0], [1.0, 2.0], ERRORS),
        logy=(FLAG, True),
        written=(FLAG, True),
    ),
    **rows("plotting.phase_diagram", call_with(plotting.phase_diagram, DIAGRAM), limit=(NUMBER, 0.5, True)),
    "plotting.phase_diagram.entry": Argument(
        WHOLES, lambda value: plotting.phase_diagram(DIAGRAM, entry=value), (1, 0)
    ),
    "plotting.starvation_over_time.entry": Argument(
        WHOLES, lambda value: plotting.starvation_over_time({"a": TRAJECTORY}, entry=value), (1, 0)
    ),
    **rows(
        "plotting.starvation_over_time", call_with(plotting.starvation_over_time, {"a": TRAJECTORY}), logy=(FLAG, True)
    ),
    **rows("plotting.depths", call_with(plotting.depths, {"a": [1.0]}), most=(WHOLE, 2, True)),
    **rows("plotting.trajectories", call_with(plotting.trajectories, {"a": PLANE}), dual=(FLAG, False)),
    **rows(
        "plotting.error_against_width",
        call_with(plotting.error_against_width, [1, 2], ERRORS),
        reference=(*DECAY, True),
    ),
    **rows("plotting.monitor", call_with(plotting.monitor, [1, 2], ERRORS), first=(WHOLE, 1)),
    **rows("plotting.monitor", call_with(plotting.monitor, [1, 2], ERRORS), warning=(NUMBER, 2.0, True)),
    **rows("plotting.monitor", call_with(plotting.monitor, [1, 2], ERRORS), depths=(WHOLES, (1, 2), True)),
    **rows(
        "plotting.against", call_with(plotting.against, [1, 2], {"a": ERRORS}, xlabel="", ylabel=""), logx=(FLAG, True)
    ),
    **rows(
        "plotting.against",
        call_with(plotting.against, [1, 2], {"a": ERRORS}, xlabel="", ylabel=""),
        baseline=(*DECAY, True),
    ),
}
# Compiled for every call: a separate test makes one call with all of their numbers.
COMPILED = ("methods.train", "probes.information", "sweeps.run", "sweeps.starvation", "sweeps.program")
# Expensive calls: one value of another type is enough.
SLOW = ("probes", "plotting", "tangent", "training", "dual", "linearized", "starvation", "multiclass", "features")
# The tests of these rooms check their arguments.
ELSEWHERE = ("data", "files", "pages", "records")
PLAIN = (sweeps.Sweep, Ridge, SpectralDecoupling)  # dataclasses, whose arguments are their fields


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_value_of_another_kind_is_refused_by_the_name_of_its_argument(name):
    argument = ARGUMENTS[name]
    bad = [*BAD[argument.kind], *([] if argument.none or argument.kind in (FLAG, CHOICE) else [None])]
    for value in bad:
        with pytest.raises(ValueError, match=rf"^{name.rpartition('.')[2]}: expected "):
            pytest.fail(f"{value!r} is taken for {argument.call(value)}")


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if not name.startswith(COMPILED)])
def test_numbers_of_numpy_and_jax_are_accepted(name):
    argument = ARGUMENTS[name]
    same = SAME[argument.kind][: 1 if name.startswith(SLOW) else None]
    for value in [*(convert(argument.good) for convert in same), *([None] if argument.none and not same else [])]:
        argument.call(value)


def test_training_accepts_numbers_of_numpy_and_jax():
    erm = methods.get("erm")(Squeezed(), optax.sgd(0.1), weight_decay=np.float32(0.1))
    given = {"steps": np.int64(2), "batch_size": jnp.int32(2), "record": np.array([0, 2]), "per_seed": np.False_}
    run = methods.train(erm, KEYS, Batch(X, Y), **given)
    assert run.steps.tolist() == [0, 2]
    assert run.state.step.tolist() == [2]
    found = probes.usable_information(
        KEY,
        X.tolist(),
        Y.astype(int).tolist(),
        network=Squeezed(),
        steps=np.int64(2),
        seeds=jnp.int32(2),
        batch_size=np.uint8(2),
        tolerance=np.float32(0.1),
        per_seed=np.False_,
        level=jnp.asarray(0.9),
    )
    assert found.value.shape == (2,)


def parameters(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments of `function` that take numbers or flags."""
    numeric = re.compile(r"\b(int|float|bool)\b")
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.name != "parent" and numeric.search(str(p.annotation))]


def public() -> dict[str, Callable[..., Any]]:
    """All functions, networks and configurations in the `__all__` of the rooms."""
    found = {}
    for room in set(gsjax.__all__) - {*ELSEWHERE, "Ridge", "SpectralDecoupling", "diagnose"}:
        modules = {room: getattr(gsjax, room)}
        if room == "probes":
            modules = {f"probes.{name}": probes.get(name) for name in probes.NAMES}
        if room == "starvation":
            modules["structures"] = structures
        if room == "networks":
            modules["networks.stages"] = networks.stages
        if room == "dual":
            modules["dual.closed_form"] = dual.closed_form
        for prefix, module in modules.items():
            for name in module.__all__:
                value = getattr(module, name)
                if getattr(value, "__name__", name) != name:
                    continue  # a former name
                network = isinstance(value, type) and issubclass(value, nn.Module)
                if inspect.isfunction(value) or network or value in PLAIN:
                    found[f"{prefix}.{name}"] = value
    return found | {f"methods.{name}": methods.get(name) for name in methods.NAMES}


def test_every_argument_is_in_the_table():
    arrays = {  # arrays of real numbers, which the tests of these functions check
        *(f"probes.boundary.{name}" for name in ("zero_level.first", "zero_level.second", "zero_level.logits")),
        *(f"probes.boundary.{name}" for name in ("distances.x", "positions.second")),
        *(f"statistics.{name}" for name in ("mean.values", "within.values", "holm.p", "loglog_slope.x")),
    }
    wanted = {f"{name}.{argument}" for name, function in public().items() for argument in parameters(function)}
    missing = {name for name in wanted - arrays if not name.startswith("plotting.")} - set(ARGUMENTS)
    assert not missing
    assert {name.rpartition(".")[0] for name in ARGUMENTS if not name.startswith(ELSEWHERE)} <= set(public())
    drawn = {name for name in wanted if name.startswith("plotting.")} - set(ARGUMENTS)
    for name in drawn:  # the other arguments of plotting functions are arrays
        annotation = str(inspect.signature(public()[name.rpartition(".")[0]]).parameters[name.rpartition(".")[2]])
        assert "Real[" in annotation or "Sequence[" in annotation, annotation


@pytest.mark.parametrize(
    "call",
    [
        lambda values: statistics.mean(values),
        lambda values: statistics.loglog_slope(values, np.ones((2, 2))),
        lambda values: statistics.loglog_slope([1, 2], values),
        lambda values: probes.boundary.zero_level(values, [0, 1], np.ones((2, 2))),
        lambda values: probes.boundary.zero_level([0, 1], [0, 1], values),
        lambda values: probes.boundary.distances(values, []),
        lambda values: probes.boundary.positions([], values),
        lambda values: probes.margins.pgd(score, values, Y, radius=0.1, step_size=0.1),
        lambda values: probes.margins.margins(score, values, Y, max_radius=0.1),
        lambda values: probes.margins.correct(values, Y),
        lambda values: probes.contamination.projections(values, 1),
        lambda values: probes.contamination.components(values, 1),
        lambda values: probes.contamination.activation_rates(values, Y),
        lambda values: probes.contamination.norms((values, X)),
        lambda values: probes.contamination.gradient(networks.TwoLayer(2), drawn(networks.TwoLayer(2)), values, Y),
        lambda values: probes.knn(values, Y, X, 1),
        lambda values: probes.knn(X, Y, values, 1),
        lambda values: probes.depth(values, Y),
        lambda values: probes.usable_information(KEY, values, Y),
        lambda values: probes.information.surprisal(values, Y),
        lambda values: probes.saliency(OneUnit(2), drawn(OneUnit(2)), values),
        lambda values: probes.region_share(values, np.ones(2, bool)),
        lambda values: probes.linear_probe(values, Y),
        lambda values: plotting.spectrum(values, [1.0, 2.0]),
        lambda values: plotting.curves([1, 2], values),
        lambda values: plotting.paths([1.0, 2.0], values),
        lambda values: tangent.ntk(linear, W, values),
        lambda values: tangent.ntrf(linear, W, values),
        lambda values: tangent.ntk_operator(linear, W, values),
        lambda values: networks.MLP((2,)).init(jax.random.key(0), values),
        lambda values: networks.CNN((2,)).init(jax.random.key(0), values),
        lambda values: networks.FullyConnected((2,)).init(jax.random.key(0), values),
        lambda values: networks.ConvNet().init(jax.random.key(0), values),
        lambda values: networks.stages.names(networks.MLP((2,)), values),
        lambda values: networks.stages.apply(OneUnit(), drawn(OneUnit()), values),
        lambda values: methods.get("erm")(Squeezed(), optax.sgd(0.1)).init(jax.random.key(0), Batch(values, Y)),
        lambda values: sweeps.run(sweep(), data.Dataset(values, Y), DATASET, name="a"),
        lambda values: sweeps.run(sweep(), DATASET, data.Dataset(values, Y), name="a"),
    ],
)
@pytest.mark.parametrize(
    "values",
    [np.array([["1", "2"]]), [["1.0", "2.0"]], np.ones((5, 3), bool), np.ones((5, 3)) + 1j, None, [[1.0], [1.0, 2.0]],
     {"a": 1.0}, np.array([[None, 1.0]]), "1.0"],
    ids=["strings", "listed strings", "bools", "complex", "None", "ragged", "dict", "objects", "string"],
)  # fmt: skip
def test_arrays_hold_real_numbers(call, values):
    with pytest.raises(ValueError, match=r"^[\w.]+: expected "):
        call(values)


@pytest.mark.parametrize("y", [Y > 0, Y.astype(str), Y + 0j, None, Y[:, None], Y * 2, [True] * N], ids=str)
def test_labels_are_numbers(y):
    erm = methods.get("erm")(Squeezed(), optax.sgd(0.1))
    for call in (
        lambda: probes.margins.pgd(score, X, y, radius=0.1, step_size=0.1),
        lambda: probes.margins.correct(X @ np.asarray(W), y),
        lambda: erm.init(jax.random.key(0), Batch(X, y)),
        lambda: check_problem(linear, W, X, y),
    ):
        with pytest.raises(ValueError, match=r"^y: expected "):
            call()


# ---- networks with outputs (n, 1) and (n, k)


def with_method(name: str, **options: Any) -> Callable[[nn.Module], Any]:
    def call(network: nn.Module) -> Any:
        batch = Batch(X, Y, np.arange(N) % 2, np.arange(N) % 2, np.arange(N), teacher_logits=np.zeros(N))
        return methods.get(name)(network, optax.sgd(0.1), **options).init(jax.random.key(0), batch)

    return call


def logits_function(network: nn.Module) -> Callable[[Any], Any]:
    variables = drawn(network)
    return lambda x: network.apply(variables, x)


NETWORKS: dict[str, Callable[[nn.Module], Any]] = {
    "fit": lambda network: training.fit(network.apply, drawn(network), X, Y, Ridge(1.0), max_steps=1),
    "init": lambda network: training.init(network.apply, drawn(network), X, Y, Ridge(1.0)),
    "descend": lambda network: training.descend(
        network.apply, drawn(network), X, Y, Ridge(1.0), step_size=0.1, steps=[1]
    ),
    "from_ntk": lambda network: features.from_ntk(tangent.ntk(network.apply, drawn(network), X), Y),
    "from_ntrf": lambda network: features.from_ntrf(tangent.ntrf(network.apply, drawn(network), X), Y),
    "from_operator": lambda network: features.from_operator(
        tangent.ntk_operator(network.apply, drawn(network), X), Y, top=1
    ),
    "response": lambda network: features.response(features.from_ntrf(X, Y), network.apply(drawn(network), X)),
    "check_problem": lambda network: check_problem(network.apply, drawn(network), X, Y),
    "erm": with_method("erm"),
    "spectral_decoupling": with_method("spectral_decoupling", strength=0.1),
    "irm": with_method("irm", penalty_weight=1.0),
    "vrex": with_method("vrex", penalty_weight=1.0),
    "group_dro": with_method("group_dro", groups=2),
    "lff": with_method("lff"),
    "gradient": lambda network: probes.contamination.gradient(network, drawn(network), X, Y, layer="Dense_0"),
    "distillation": with_method("distillation"),
    "dedier": with_method("dedier", position="Dense_0", beta=1.0, refresh_every=1, readout_steps=1),
    "jtt": with_method("jtt", identification_steps=1, upweight=2.0),
    "sieve": with_method("sieve", position="Dense_0"),
    "with_teacher": lambda network: methods.with_teacher(
        network, methods.Learner(drawn(network)["params"]), Batch(X, Y)
    ),
    "predict": lambda network: methods.predict(
        network, methods.erm.erm(Squeezed(), optax.sgd(0.1)).init(jax.random.key(0), Batch(X, Y)), X
    ),
    "usable_information": lambda network: probes.usable_information(
        KEY, X, Y, network=network, steps=1, seeds=2, null="balance"
    ),
    "surprisal": lambda network: probes.information.surprisal(logits_function(network)(X), Y),
    "pgd": lambda network: probes.margins.pgd(logits_function(network), X, Y, radius=0.1, step_size=0.1),
    "accuracy": lambda network: probes.margins.accuracy(logits_function(network), X, Y, radius=0.1, step_size=0.1),
    "margins": lambda network: probes.margins.margins(
        logits_function(network), X, Y, max_radius=0.1, steps=1, bisections=0
    ),
    "prediction_depth": lambda network: probes.prediction_depth(network, drawn(network), (X, Y), X, k=1),
    "check_task": lambda network: check_task(network.apply, drawn(network), X, Y, Ridge(1.0)),
    "saliency": lambda network: probes.saliency(network, drawn(network), X),
    "correct": lambda network: probes.margins.correct(logits_function(network)(X), Y),
}


@pytest.mark.parametrize("call", NETWORKS.values(), ids=list(NETWORKS))
def test_a_network_with_outputs_n_1_is_refused_with_advice(call):
    with pytest.raises(
        ValueError, match=rf"^\w+: expected .*got shape \({N}, ({N}, )?1(, \d)?\): squeeze the output to \(n,\)"
    ):
        call(OneUnit())
    call(Squeezed())


def test_the_advised_line_works():
    network = OneUnit()
    variables = drawn(network)
    with pytest.raises(ValueError, match="squeeze") as error:
        check_problem(network.apply, variables, X, Y)
    [line] = re.findall(r"apply_fn=(lambda .*)$", str(error.value))
    apply_fn = eval(line, {"network": network})
    check_problem(apply_fn, variables, X, Y)
    kernel, squeezed = tangent.ntk(network.apply, variables, X), tangent.ntk(apply_fn, variables, X)
    assert kernel.shape == (N, N, 1, 1)
    np.testing.assert_allclose(kernel[:, :, 0, 0], squeezed, rtol=1e-6)
    assert tangent.ntrf(network.apply, variables, X).shape == (N, 1, 4)
    assert tangent.ntk_operator(network.apply, variables, X).in_structure().shape == (N, 1)


@pytest.mark.parametrize("k", [2, 3])
def test_logits_of_several_classes_are_referred_to_multiclass(k):
    network = OneUnit(outputs=k)
    with pytest.raises(ValueError, match=rf"^apply_fn: expected outputs .*\({N}, {k}\).*gsjax.multiclass") as error:
        check_problem(network.apply, drawn(network), X, Y)
    assert ("difference" in str(error.value)) == (k == 2)
    with pytest.raises(ValueError, match=r"^y: expected (class indices|whole numbers) "):  # labels -1 and +1
        NETWORKS["margins"](network)
    with pytest.raises(ValueError, match=r"^y: expected (class indices|whole numbers) "):
        NETWORKS["erm"](network)


@pytest.mark.parametrize(
    "name", sorted(set(NETWORKS) - {"correct", "response", "surprisal"})
)  # these take logits, which may be whole numbers
def test_outputs_are_one_array_of_floating_point_numbers(name):
    class Wrong(Squeezed):
        change: Any = None

        @nn.compact
        def __call__(self, x):
            return self.change(nn.Dense(1)(x)[:, 0])

    for change in (lambda f: f > 0, lambda f: f.astype(int), lambda f: f + 1j, lambda f: (f, f), lambda f: {"f": f}):
        with pytest.raises(ValueError, match=r"^(apply_fn|logits_fn|network): expected outputs in "):
            NETWORKS[name](Wrong(change))


# ---- arguments that were exchanged


@pytest.mark.parametrize("bad", [0, jnp.zeros(2), KEYS, [0, 1], "key", np.uint32([0, 1, 2])], ids=str)
def test_bad_keys_are_named(bad):
    with pytest.raises(ValueError, match=r"^key: expected a key, such as jax\.random\.key\(0\), got "):
        probes.margins.pgd(score, X, Y, radius=0.1, step_size=0.1, key=bad)
    if bad is not KEYS:
        with pytest.raises(ValueError, match=r"^keys: expected typed keys \(seeds,\), got "):
            methods.train(methods.erm.erm(Squeezed(), optax.sgd(0.1)), bad, Batch(X, Y), steps=1)


def test_both_kinds_of_keys_are_accepted():
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        assert probes.margins.pgd(score, X, Y, radius=0.1, step_size=0.1, key=key).shape == X.shape


def test_x_and_y_exchanged():
    with pytest.raises(ValueError, match=r"^y: expected shape \(5,\), one label per example, got shape \(5, 3\)"):
        check_problem(linear, W, Y, X)
    with pytest.raises(ValueError, match=r"^y: expected "):
        check_problem(linear, X, W, Y)
    for call in (
        lambda: probes.margins.pgd(score, Y, X, radius=0.1, step_size=0.1),
        lambda: probes.margins.margins(score, Y, X, max_radius=0.1),
        lambda: methods.get("erm")(Squeezed(), optax.sgd(0.1)).init(jax.random.key(0), Batch(Y, X)),
        lambda: sweeps.run(sweep(), data.Dataset(Y, X), DATASET, name="a"),
    ):
        with pytest.raises(ValueError, match=r"^(train\.)?[xy]: expected "):
            call()


def test_network_optimizer_method_and_data_exchanged():
    network, optimizer = Squeezed(), optax.sgd(0.1)
    erm = methods.get("erm")(network, optimizer)
    model = eqx.nn.MLP(3, "scalar", 4, 1, key=jax.random.key(0))
    for name in methods.NAMES:
        given = methods.REGISTRY[name].example
        for bad in (optimizer, Squeezed, model, None, network.apply):
            with pytest.raises(ValueError, match=r"^network: expected a flax\.linen module, got "):
                methods.get(name)(bad, optimizer, **given)
        for bad in (network, 0.1, None, optax.sgd):
            with pytest.raises(ValueError, match=r"^optimizer: expected an optax optimiser"):
                methods.get(name)(network, bad, **given)
    with pytest.raises(ValueError, match=r"^data: expected a gsjax\.methods\.Batch\(x, y\), got tuple"):
        methods.train(erm, KEYS, (X, Y), steps=1)
    with pytest.raises(ValueError, match=r"^batch: expected a gsjax\.methods\.Batch"):
        erm.init(KEYS[0], DATASET)
    for bad in (network, optimizer, methods.get("erm"), "erm"):
        with pytest.raises(ValueError, match=r"^method: expected a method, such as "):
            methods.train(bad, KEYS, Batch(X, Y), steps=1)
    with pytest.raises(ValueError, match=r"^network: expected a module with parameters, got Identity"):
        methods.get("erm")(Identity(), optimizer).init(KEYS[0], Batch(X, Y))


def test_sweeps_and_meshes_of_another_kind():
    for call in (
        lambda: methods.train(methods.erm.erm(Squeezed(), optax.sgd(0.1)), KEYS, Batch(X, Y), steps=1, mesh="cpu"),
        lambda: tangent.ntk(linear, W, X, mesh=jax.devices()),
        lambda: sweeps.starvation(sweep(), CELL, DATASET, mesh=4),
    ):
        with pytest.raises(ValueError, match=r"^mesh: expected a jax\.sharding\.Mesh or None, got "):
            call()
    with pytest.raises(ValueError, match=r"^cache: expected a folder or None, got bool"):
        tangent.ntk(linear, W, X, cache=True)
    with pytest.raises(ValueError, match=r"^sweep: expected a gsjax\.sweeps\.Sweep, got Dataset"):
        sweeps.run(DATASET, sweep(), DATASET, name="a")
    with pytest.raises(ValueError, match=r"^test: expected a gsjax\.data\.Dataset\(x, y\), got tuple"):
        sweeps.run(sweep(), DATASET, (X, Y), name="a")
    with pytest.raises(ValueError, match=r"^cell: expected a gsjax\.sweeps\.Cell"):
        sweeps.starvation(sweep(), 4, DATASET)
    assert tangent.ntk(linear, W, X, mesh=Mesh(np.array(jax.devices()[:1]), ("rows",))).shape == (N, N)
