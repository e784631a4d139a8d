"""Distillation: its limits, what a step may touch, the outputs of a teacher for a data set, and bad input."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalSubscript=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, log_softmax, softmax

from gsjax import methods, networks
from gsjax.methods.distillation import distillation, divergence, feature_distance
from gsjax.networks import stages
from tests.methods.test_learners import by_path, changed
from tests.methods.test_objectives import LOGITS, Y, batch, gradient_is, losses, stepper
from tests.methods.toys import Noisy, close, compiled
from tests.methods.toys import batch as toy_batch

RNG = np.random.default_rng(1)
TEACHER = RNG.normal(0, 2, 6)
SEVERAL, SEVERAL_TAUGHT = RNG.normal(0, 1, (2, 4, 3))
DATA, KEY = toy_batch(), jax.random.key(0)
MOMENTUM = optax.sgd(0.3, momentum=0.5)


def binary_kl(f: np.ndarray, t: np.ndarray, temperature: float) -> np.ndarray:
    p, q = expit(t / temperature), expit(f / temperature)
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_objective_of_one_output(temperature):
    step = stepper("distillation", mix=0.3, temperature=temperature, weight_decay=0.2)
    _, info, gradient = step(batch(teacher_logits=TEACHER))

    def penalty(f):
        return temperature**2 * binary_kl(f, TEACHER, temperature).mean()

    def objective(f):
        return 0.7 * losses(f).mean() + 0.3 * penalty(f) + 0.1 * (f**2).sum()

    np.testing.assert_allclose(info, (objective(LOGITS), losses().mean(), penalty(LOGITS)), rtol=1e-10)
    gradient_is(gradient, objective)


def test_the_objective_of_several_outputs():
    y, temperature = np.array([0, 2, 1, 2]), 2.5
    step = stepper("distillation", (4, 3), mix=0.6, temperature=temperature)
    _, info, gradient = step(batch(y, teacher_logits=SEVERAL_TAUGHT), SEVERAL)

    def objective(f):
        p, q = (softmax(values / temperature, axis=1) for values in (SEVERAL_TAUGHT, f))
        kl = (p * np.log(p / q)).sum(axis=1).mean()
        return 0.4 * -log_softmax(f, axis=1)[range(4), y].mean() + 0.6 * temperature**2 * kl

    np.testing.assert_allclose(info.objective, objective(SEVERAL), rtol=1e-10)
    gradient_is(gradient, objective, SEVERAL)


def test_one_output_and_two_logits_agree(x64):
    f, t = LOGITS.astype(x64), TEACHER.astype(x64)
    for temperature in (0.5, 1.0, 4.0):
        one = divergence(jnp.asarray(f), t, temperature)
        two = divergence(*(jnp.stack([-v / 2, v / 2], axis=1) for v in (f, t)), temperature)
        tolerance = 1e-12 if x64 == np.float64 else 1e-5
        np.testing.assert_allclose(two, one, rtol=tolerance, atol=tolerance)
        assert two.dtype == x64


def test_a_hot_teacher_is_matched_in_centred_logits():
    """The deviation from the limit falls as 1 / T (Hinton et al. 2015, Eq. 4, whose logits are centred)."""
    centred = [values - values.mean(axis=1, keepdims=True) for values in (SEVERAL, SEVERAL_TAUGHT)]
    limit = ((centred[0] - centred[1]) ** 2).sum(axis=1) / (2 * 3)
    with jax.enable_x64(True):
        errors = [
            np.abs(T**2 * divergence(jnp.asarray(SEVERAL), SEVERAL_TAUGHT, T) / limit - 1).max() for T in (1e2, 1e3)
        ]
        binary = 1e8 * divergence(jnp.asarray(LOGITS), TEACHER, 1e4)
    assert errors[1] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    np.testing.assert_allclose(binary, (LOGITS - TEACHER) ** 2 / 8, rtol=1e-3)


@pytest.mark.parametrize("teacher", [TEACHER, SEVERAL_TAUGHT])
def test_a_student_that_equals_its_teacher_has_no_gradient(teacher):
    y = Y if teacher.ndim == 1 else np.array([0, 2, 1, 2])
    step = stepper("distillation", teacher.shape, mix=1.0, temperature=2.0)
    _, info, gradient = step(batch(y, teacher_logits=teacher), teacher)
    assert info.objective == pytest.approx(0, abs=1e-15)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)


def test_no_gradient_flows_into_the_teacher():
    for value in (divergence, feature_distance):
        by_both = jax.grad(lambda f, t, value=value: value(f, t).sum(), argnums=(0, 1))
        student, teacher = by_both(jnp.asarray(SEVERAL), jnp.asarray(SEVERAL_TAUGHT))
        assert student.all()
        assert not teacher.any()


def taught(*, position=None, **options):
    return distillation(Noisy(), MOMENTUM, position=position, **options)


def features(position="Dense_0"):
    """The batch with features of another network at a stage."""
    teacher = methods.init_learner(Noisy(), MOMENTUM, jax.random.key(9), DATA.x)
    return methods.with_teacher(Noisy(), teacher, DATA, position)


@pytest.mark.parametrize("options", [{}, {"position": "Dense_0", "feature_share": 0.5}], ids=["outputs", "features"])
def test_without_the_teacher_s_share_it_is_erm(options):
    """Dropout, batch normalisation, momentum and weight decay included; there is no teacher in the data."""
    data = DATA._replace(teacher_logits=None)
    states = []
    for method in (erm(), taught(mix=0.0, weight_decay=0.01, **options)):
        state, update = method.init(KEY, data), compiled(method.update)
        for _ in range(3):
            state, _ = update(state, data)
        states.append(state)
    close(*states)


@functools.cache
def erm():
    return methods.get("erm")(Noisy(), MOMENTUM, weight_decay=0.01)


def test_the_mean_square_of_a_stage():
    data, mix = features(), 0.6
    parts = []
    for share in (1.0, 0.25, 0.0):
        method = taught(mix=mix, position="Dense_0", feature_share=share, temperature=2.0)
        state = method.init(KEY, data)
        parts.append(compiled(method.update)(state, data)[1])
    stage = DATA.x @ state.params["Dense_0"]["kernel"] + state.params["Dense_0"]["bias"]
    distance = ((stage - data.teacher_features) ** 2).mean()
    matched, both, outputs = parts
    np.testing.assert_allclose(matched.penalty, distance, rtol=1e-5)
    np.testing.assert_allclose(matched.objective, (1 - mix) * matched.loss + mix * distance, rtol=1e-5)
    np.testing.assert_allclose(both.penalty, 0.25 * distance + 0.75 * outputs.penalty, rtol=1e-5)


def test_matched_features_change_only_layers_up_to_their_stage():
    data, method = features("BatchNorm_0"), taught(mix=1.0, position="BatchNorm_0")
    state, update = method.init(KEY, data), compiled(method.update)
    after, _ = update(state, data)
    variables = {"params": state.params, **state.collections}
    mask = stages.upto(Noisy(), variables, data.x, "BatchNorm_0", train=True, rngs={"dropout": KEY})
    below = {jax.tree_util.keystr(path) for path, take in jax.tree.leaves_with_path(mask) if take}
    # A bias before batch normalisation has no gradient but rounding.
    flat = {path for path in below if path.startswith("['Dense_0']['bias']")}
    layers = {"Dense_0": ("kernel", "bias"), "BatchNorm_0": ("scale", "bias")}
    assert below == {f"['{layer}']['{name}']" for layer, names in layers.items() for name in names}
    assert below - flat <= changed(state.params, after.params) <= below
    trace = {f"[0].trace{path}" for path in below}
    assert trace - {f"[0].trace{path}" for path in flat} <= changed(state.optimizer, after.optimizer) <= trace
    assert changed(state.collections, after.collections) == set(by_path(state.collections))
    for field in ("key", "memory", "others"):
        assert not changed(getattr(state, field), getattr(after, field))
    assert int(after.step) == 1
    # With weight decay, or a share of the labels, the layers after the stage move.
    for options in ({"mix": 1.0, "weight_decay": 0.1}, {"mix": 0.9}):
        moving = taught(position="BatchNorm_0", **options)
        moved, _ = compiled(moving.update)(state, data)
        assert changed(state.params, moved.params) > below - flat
        assert any("Dense_1" in path for path in changed(state.params, moved.params))


def test_a_student_reaches_the_features_of_its_teacher():
    network = networks.FullyConnected((16,), activation="tanh")
    teacher = methods.init_learner(network, MOMENTUM, jax.random.key(9), DATA.x)
    data = methods.with_teacher(network, teacher, DATA, "h1")
    method = distillation(network, optax.adam(0.03), mix=1.0, position="h1")

    def distance(state, data):
        found = stages.apply(network, {"params": state.params}, data.x, ("h1",))[1]["h1"]
        return feature_distance(found, data.teacher_features).mean()

    keys = jax.random.split(KEY, 3)
    run = methods.train(method, keys, data, steps=300, record=[0, 300], evaluate=distance, held_out=data)
    assert (run.records[:, 1] < run.records[:, 0] / 20).all()


def test_teachers_of_several_seeds_in_batches():
    network, keys = Noisy(), jax.random.split(KEY, 3)
    run = methods.train(methods.get("erm")(network, MOMENTUM), keys, DATA, steps=3)

    def one(state):
        return methods.with_teacher(network, state, DATA, "BatchNorm_0", batch_size=5)

    found = jax.jit(jax.vmap(one))(run.state._replace(others={}))
    for number in range(3):
        state = jax.tree.map(lambda leaf, number=number: leaf[number], run.state)
        variables = {"params": state.params, **state.collections}
        logits, stage = stages.apply(network, variables, DATA.x, ("BatchNorm_0",))
        np.testing.assert_allclose(found.teacher_logits[number], logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.teacher_features[number], stage["BatchNorm_0"], rtol=1e-5, atol=1e-6)
    kept = methods.with_teacher(network, jax.tree.map(lambda leaf: leaf[0], run.state), features())
    np.testing.assert_array_equal(kept.teacher_features, features().teacher_features)
    for field in ("x", "y", "group", "environment", "index"):
        np.testing.assert_array_equal(getattr(kept, field), getattr(DATA, field))


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({}, {"teacher_logits": None}, r"teacher_logits: expected numbers of shape \(12,\), that of the student's out"),
        ({}, {"teacher_logits": np.zeros((12, 3), np.float32)}, r"teacher_logits: .* got shape \(12, 3\)"),
        ({}, {"teacher_logits": np.zeros(11, np.float32)}, r"teacher_logits: .* got shape \(11,\)"),
        ({}, {"teacher_logits": np.full(12, np.nan, np.float32)}, r"teacher_logits: expected finite numbers"),
        ({"position": "Dense_0"}, {}, r"teacher_features: expected numbers of shape \(12, 8\), that of the student's"),
        ({"position": "Dense_0"}, {"teacher_features": np.zeros((12, 7))}, r"teacher_features: .* shape \(12, 7\)"),
        ({"position": "Dense_0", "feature_share": 0.5}, {"teacher_logits": None}, r"teacher_logits: expected numbers"),
        ({"position": "Dense_7"}, {}, r"position: expected one of the stages Dense_0, .* got 'Dense_7'"),
        ({"position": "Dense_7", "mix": 0.0}, {}, r"position: expected one of the stages"),
    ],
)
def test_bad_teachers_are_refused_by_init_and_by_the_loop(options, fields, message):
    method, data = distillation(Noisy(), MOMENTUM, **options), DATA._replace(**fields)
    with pytest.raises(ValueError, match=f"^{message}"):
        method.init(KEY, data)
    with pytest.raises(ValueError, match=f"^{message.partition(':')[0]}: expected"):
        methods.train(method, jax.random.split(KEY, 2), data, steps=1)


def test_classes_that_differ():
    class Three(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    method = distillation(Three(), MOMENTUM)
    data = DATA._replace(y=np.arange(12) % 3, teacher_logits=np.zeros((12, 2), np.float32))
    with pytest.raises(ValueError, match=r"^teacher_logits: expected numbers of shape \(12, 3\).* got shape \(12, 2\)"):
        method.init(KEY, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": 1.5}, r"mix: expected a number in \[0, 1\]"),
        ({"temperature": 0.0}, r"temperature: expected a finite positive number"),
        ({"position": 3}, r"position: expected the name of a stage, or None, got 3"),
        ({"position": "h1", "feature_share": -0.1}, r"feature_share: expected a number in \[0, 1\]"),
        ({"feature_share": 0.5}, r"feature_share: expected none without a position, got 0.5"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a finite number, 0 or above"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        distillation(Noisy(), MOMENTUM, **options)


def test_bad_arguments_of_with_teacher():
    teacher = methods.init_learner(Noisy(), MOMENTUM, KEY, DATA.x)
    with pytest.raises(ValueError, match=r"^batch: expected a gsjax\.methods\.Batch"):
        methods.with_teacher(Noisy(), teacher, DATA.x)
    with pytest.raises(ValueError, match=r"^position: expected one of the stages Dense_0, .* got 'h1'"):
        methods.with_teacher(Noisy(), teacher, DATA, "h1")
    with pytest.raises(ValueError, match=r"^batch_size: expected a whole number of at least 1"):
        methods.with_teacher(Noisy(), teacher, DATA, batch_size=0)


def test_precision_follows_the_student(x64):
    data = jax.tree.map(jnp.asarray, toy_batch(x64))._replace(teacher_features=jnp.ones((12, 8), jnp.float32))
    method = taught(position="Dense_0", feature_share=0.5)
    state, info = jax.eval_shape(method.update, jax.eval_shape(method.init, KEY, data), data)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, info))} == {np.dtype(x64)}
