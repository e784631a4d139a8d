"""DeDiER: its weights and schedule, what an update may touch, its limit, and bad input."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalSubscript=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, softmax

from gsjax import methods, networks
from gsjax.methods.dedier import dedier, snapshot_logits, updates, weights
from gsjax.networks import Readout, stages
from tests.methods.test_distillation import binary_kl
from tests.methods.test_learners import by_path, changed
from tests.methods.toys import N, Noisy, close, compiled
from tests.methods.toys import batch as toy_batch

DATA, KEY = toy_batch(), jax.random.key(0)
RNG = np.random.default_rng(2)
HARD = DATA._replace(y=np.where(RNG.random(N) < 0.3, -DATA.y, DATA.y))  # some labels that no readout gets right
MOMENTUM = optax.sgd(0.3, momentum=0.5)
POSITION = "BatchNorm_0"
SCHEDULE = {"refresh_every": 3, "readout_steps": 2}


def made(*, network=None, optimizer=MOMENTUM, **options):
    return dedier(network or Noisy(), optimizer, **{"position": POSITION, "beta": 2.0, **SCHEDULE, **options})


def states(method, data=HARD, steps=8, batches=None):
    """The states before and after each update."""
    found, update = [method.init(KEY, data)], compiled(method.update)
    for number in range(steps):
        batch = data if batches is None else batches[number]
        found.append(update(found[-1], batch)[0])
    return found


def by_operations(method, data=HARD, steps=8, batches=None):
    """The last of these states, operation by operation, so that equal arithmetic gives equal bits."""
    with jax.disable_jit():
        state = method.init(KEY, data)
        for number in range(steps):
            state, _ = method.update(state, data if batches is None else batches[number])
    return state


# ---- weights


def test_weights_of_several_classes_by_hand():
    logits = RNG.normal(0, 2, (50, 4))
    labels = RNG.integers(0, 4, 50)
    order = np.sort(softmax(logits, axis=1), axis=1)
    wrong = logits.argmax(axis=1) != labels
    expected = np.where(wrong, np.exp(1.5 * (order[:, -1] - order[:, -2]) ** 0.7), 1)
    assert 0 < wrong.sum() < 50
    with jax.enable_x64(True):
        found = weights(jnp.asarray(logits), labels, 1.5, 0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_weights_of_one_output_are_those_of_two(x64):
    f, y = jnp.asarray(RNG.normal(0, 3, 40), x64), np.where(RNG.random(40) < 0.5, 1.0, -1.0)
    wrong, margin = np.sign(f) != y, np.abs(2 * expit(np.asarray(f, float)) - 1)
    tolerance = 1e-12 if x64 == np.float64 else 1e-5
    one, two = weights(f, y, 2.0), weights(jnp.stack([-f / 2, f / 2], axis=1), (y > 0).astype(int), 2.0)
    np.testing.assert_allclose(one, np.where(wrong, np.exp(2 * margin), 1), rtol=tolerance)
    np.testing.assert_allclose(two, one, rtol=tolerance)
    assert one.dtype == x64


def test_bounds_and_limits_of_the_weights():
    logits = jnp.concatenate([jnp.asarray(RNG.normal(0, 5, 100)), jnp.array([0.0, 80.0, -80.0])])
    y = np.tile([1.0, -1.0], 52)[:103]
    for beta, alpha in ((0.5, 0.3), (3.0, 1.0), (3.0, 4.0)):
        found = np.asarray(weights(logits, y, beta, alpha))
        assert ((found >= 1) & (found <= np.exp(beta) * (1 + 1e-6))).all()
        assert found.max() > np.exp(0.9 * beta)
    wrong = (np.asarray(logits) > 0) != (y > 0)
    np.testing.assert_allclose(weights(logits, y, 3.0, 0.0), np.where(wrong, np.exp(3), 1), rtol=1e-6)
    np.testing.assert_array_equal(weights(logits, y, 0.0, 1.0), 1)
    assert not jax.grad(lambda f: weights(f, y, 3.0, 1.0).sum())(logits).any()
    for beta, alpha, name in ((-1.0, 1.0, "beta"), (1.0, -1.0, "alpha"), (np.inf, 1.0, "beta")):
        with pytest.raises(ValueError, match=f"^{name}: expected a finite number, 0 or above"):
            weights(logits, y, beta, alpha)


# ---- the objective


def dense(layer, h):
    return h @ layer["kernel"] + layer["bias"]


@pytest.mark.parametrize("reweight_ce", [False, True])
def test_the_objective_in_numpy(reweight_ce):
    """Student and readout as products of matrices; the student has moved on since the refresh."""
    network, rate, temperature, mix = networks.FullyConnected((8,)), 0.5, 2.0, 0.3
    with jax.enable_x64(True):
        data = jax.tree.map(lambda leaf: np.asarray(leaf, float), HARD._replace(index=None))
        method = dedier(
            network,
            optax.sgd(rate),
            position="h1",
            beta=2.0,
            alpha=0.5,
            **SCHEDULE,
            mix=mix,
            temperature=temperature,
            reweight_ce=reweight_ce,
            weight_decay=0.1,
        )
        course, update = states(method, data, 6), compiled(method.update)
        before = course[-1]
        after, info = update(before, data)
    assert int(before.memory.refreshes) == 1
    refreshed, old, new = (jax.tree.map(np.asarray, state.params) for state in (course[5], before, after))
    readout = jax.tree.map(np.asarray, before.memory.readout.params["Dense_0"])
    assert changed(refreshed["Dense_0"], old["Dense_0"])
    readings = dense(readout, np.maximum(dense(refreshed["Dense_0"], data.x), 0))[:, 0]
    wrong = np.sign(readings) != data.y
    w = np.where(wrong, np.exp(2.0 * np.abs(2 * expit(readings) - 1) ** 0.5), 1)
    assert 0 < wrong.sum() < N
    assert int(after.memory.errors) == wrong.sum()
    np.testing.assert_allclose(after.memory.mean_weight, w.mean(), rtol=1e-10)

    hidden = np.maximum(dense(old["Dense_0"], data.x), 0)
    square = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(old))

    def parts(bias):
        f = dense({**old["Dense_1"], "bias": bias}, hidden)[:, 0]
        ce = np.logaddexp(0, -data.y * f)
        penalty = (w * temperature**2 * binary_kl(f, data.teacher_logits, temperature)).mean()
        return (1 - mix) * ((w if reweight_ce else 1) * ce).mean() + mix * penalty, ce.mean(), penalty

    bias = old["Dense_1"]["bias"]
    objective, loss, penalty = parts(bias)
    np.testing.assert_allclose(info, (objective + 0.05 * square, loss, penalty), rtol=1e-10)
    slope = (parts(bias + 1e-6)[0] - parts(bias - 1e-6)[0]) / 2e-6 + 0.1 * bias
    np.testing.assert_allclose((bias - new["Dense_1"]["bias"]) / rate, slope, rtol=1e-6)


def test_the_weights_are_those_of_a_cache_per_example():
    """A cache with the weights of all examples, filled at each refresh from the networks of that moment."""
    data = HARD._replace(teacher_logits=DATA.teacher_logits)
    rows = [RNG.permutation(N)[:5] for _ in range(24)]
    batches = [jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], data) for chosen in rows]
    method = made()
    course = states(method, data, len(rows), batches)
    cache, fills = np.ones(N), 0
    for before, after, chosen in zip(course, course[1:], rows, strict=False):
        if int(before.step) % 5 < 3:  # an update of the student
            np.testing.assert_allclose(after.memory.mean_weight, cache[chosen].mean(), rtol=1e-5)
            if fills:
                readings = snapshot_logits(Noisy(), before, data.x[chosen], position=POSITION)
                np.testing.assert_allclose(weights(readings, data.y[chosen], 2.0), cache[chosen], rtol=1e-5)
        elif int(before.step) % 5 == 4:
            variables = {"params": after.params, **after.collections}
            stage = stages.apply(Noisy(), variables, data.x, (POSITION,))[1][POSITION]
            reader = after.others["readout"]
            f = np.asarray(Readout().apply({"params": reader.params}, stage), float)
            cache = np.where(np.sign(f) != data.y, np.exp(2.0 * np.abs(2 * expit(f) - 1)), 1)
            fills += 1
            assert cache.max() > 1.1
    assert fills == 4


def test_a_readout_without_errors_gives_plain_distillation():
    method = made(beta=5.0, readout_steps=40)
    state = states(method, DATA, 3 + 40)[-1]
    readings = snapshot_logits(Noisy(), state, DATA.x, position=POSITION)
    assert ((np.asarray(readings) > 0) == (DATA.y > 0)).all()
    after, info = compiled(method.update)(state, DATA)
    assert int(after.memory.errors) == 0
    assert float(after.memory.mean_weight) == 1
    plain = methods.get("distillation")(Noisy(), MOMENTUM)
    _, expected = compiled(plain.update)(state._replace(step=jnp.array(3), memory=(), others={}), DATA)
    np.testing.assert_allclose(info, expected, rtol=1e-6)


# ---- what an update may touch


@pytest.mark.parametrize("depth", [0, 1])
def test_an_update_touches_the_student_or_the_readout(depth):
    """Leaf by leaf. In the first period, the snapshot stays that of the initialisation."""
    course = states(made(depth=depth, width=4), steps=8)
    snapshot = ("params", "collections", "readout", "refreshes")
    for before, after in itertools.pairwise(course):
        phase = int(before.step) % 5
        main = changed(before.main._asdict(), after.main._asdict())
        readout = changed(before.others["readout"]._asdict(), after.others["readout"]._asdict())
        memory = {
            field for field in before.memory._fields if changed(*(getattr(s.memory, field) for s in (before, after)))
        }
        assert int(after.step) == int(before.step) + 1
        if phase < 3:
            # A bias before batch normalisation has no gradient but rounding; the key of dropout never changes.
            flat = {
                path for path in by_path(before.main._asdict()) if "['Dense_0']['bias']" in path or "['key']" in path
            }
            assert set(by_path(before.main._asdict())) - flat <= main
            assert not readout
            assert memory <= {"errors", "mean_weight"}
        else:
            assert not main
            same = {path for path in by_path(before.others["readout"]._asdict()) if "['key']" in path}
            assert readout == set(by_path(before.others["readout"]._asdict())) - same
            assert memory == (set(snapshot) if phase == 4 else set())
    refreshed = course[5]
    assert not changed(refreshed.memory.collections, refreshed.collections)
    assert not changed(
        refreshed.memory.readout._asdict(), refreshed.others["readout"]._replace(optimizer=None, key=None)._asdict()
    )
    kept = by_path(refreshed.memory.params)
    assert set(kept) == {path for path in by_path(refreshed.params) if "Dense_1" not in path}
    assert all((kept[path] == by_path(refreshed.params)[path]).all() for path in kept)


def test_schedules_and_moments_count_only_updates_of_their_network():
    optimizer = optax.adam(optax.linear_schedule(0.1, 0.0, 4))
    state = states(made(optimizer=optimizer, readout_optimizer=optax.adam(0.01)), steps=updates(4, **SCHEDULE))[-1]
    counts = [int(leaf) for leaf in jax.tree.leaves(state.optimizer) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert counts == [4, 4]
    assert int(state.others["readout"].optimizer[0].count) == 2


@pytest.mark.parametrize(("every", "steps"), [(1, 1), (3, 2), (5, 7)])
def test_updates_counts_those_of_the_student(every, steps):
    phases = np.arange(100) % (every + steps) < every
    for wanted in range(1, 20):
        total = updates(wanted, every, steps)
        assert phases[:total].sum() == wanted
        assert phases[total - 1]
    assert updates(0, every, steps) == 0
    for bad, name in (((-1, 1, 1), "student_updates"), ((1, 0, 1), "refresh_every"), ((1, 1, 0), "readout_steps")):
        with pytest.raises(ValueError, match=f"^{name}: expected a whole number"):
            updates(*bad)


# ---- beta = 0

PLAIN = {"mix": 0.4, "temperature": 2.0, "weight_decay": 0.01}
ADAM = optax.adamw(optax.cosine_decay_schedule(0.1, 10))


@pytest.mark.parametrize("exact", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_without_beta_it_is_plain_distillation(exact):
    """Dropout, batch normalisation, schedule and weight decay included, for the batches that the student sees."""
    run = by_operations if exact else lambda *arguments: states(*arguments)[-1]
    rows = [RNG.permutation(N)[:5] for _ in range(updates(4, **SCHEDULE))]
    batches = [jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], HARD) for chosen in rows]
    plain = methods.get("distillation")(Noisy(), ADAM, **PLAIN)
    plain = run(plain, HARD, 4, [batch for number, batch in enumerate(batches) if number % 5 < 3])
    same = run(made(optimizer=ADAM, beta=0.0, **PLAIN), HARD, 6, batches)
    assert int(same.memory.refreshes) == 1
    if exact:
        assert not changed(plain.main._asdict(), same.main._asdict())
    close(same.main._asdict(), plain.main._asdict(), atol=1e-5)
    other = states(made(optimizer=ADAM, beta=5.0, **PLAIN), HARD, 6, batches)[-1]
    assert int(other.memory.errors) > 0
    assert np.abs(other.params["Dense_1"]["kernel"] - plain.params["Dense_1"]["kernel"]).max() > 1e-3


@pytest.mark.slow
def test_without_beta_it_is_plain_distillation_in_the_loop():
    """With full batches, to the bit, without the compiler flags of the tests, which change how a program rounds."""
    program = """
import jax
from gsjax import methods
from gsjax.methods.dedier import updates
from tests.methods.test_dedier import ADAM, HARD, KEY, MOMENTUM, PLAIN, SCHEDULE, changed, made
from tests.methods.toys import Noisy
keys = jax.random.split(KEY, 2)
for given in (ADAM, MOMENTUM):
    plain = methods.train(methods.get("distillation")(Noisy(), given, **PLAIN), keys, HARD, steps=7).state
    same = methods.train(made(optimizer=given, beta=0.0, **PLAIN), keys, HARD, steps=updates(7, **SCHEDULE)).state
    print(len(changed(plain.main._asdict(), same.main._asdict())), plain.step.tolist(), same.step.tolist())
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0 [7, 7] [11, 11]"] * 2


def test_without_a_teacher_s_share_there_is_no_teacher():
    data = HARD._replace(teacher_logits=None)
    course = states(made(mix=0.0, reweight_ce=True), data)
    erm = states(methods.get("erm")(Noisy(), MOMENTUM), data, 4)
    kernels = [[state.params["Dense_1"]["kernel"] for state in found] for found in (course, erm)]
    np.testing.assert_allclose(kernels[0][3], kernels[1][3], rtol=1e-5)  # up to the first refresh
    assert np.abs(kernels[0][6] - kernels[1][4]).max() > 1e-3


def test_weights_are_one_before_the_first_refresh():
    course = states(made(beta=20.0), steps=6)
    assert [float(state.memory.mean_weight) for state in course[:6]] == [1] * 6
    assert float(course[6].memory.mean_weight) > 1


def test_all_seeds_are_one_program():
    method = made()
    counted = methods.Method(method.init, chex.assert_max_traces(method.update, 1))
    run = methods.train(counted, jax.random.split(KEY, 3), HARD, steps=20, record=[0, 7, 20])
    one = methods.train(method, jax.random.split(KEY, 3)[1:2], HARD, steps=20).state
    close(jax.tree.map(lambda leaf: leaf[1:2], run.state), one)


def test_images_with_an_own_readout_and_several_classes():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, h, train: bool = False):
            return nn.Dense(3)(nn.Dropout(0.2, deterministic=not train)(h.reshape(len(h), -1)))

    class Images(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = stages.Stage(name="h")(nn.relu(nn.Conv(4, (3, 3))(x)))
            return nn.Dense(3)(h.mean(axis=(1, 2)))

    x = RNG.normal(size=(6, 4, 4, 1)).astype(np.float32)
    data = methods.Batch(x, np.arange(6) % 3, teacher_logits=RNG.normal(size=(6, 3)).astype(np.float32))
    shared = {"position": "h", "beta": 1.0, "refresh_every": 1, "readout_steps": 1}
    for options in ({"depth": 1, "width": 4}, {"pooled": False}, {"readout": Own()}):
        method = dedier(Images(), MOMENTUM, **shared, **options)
        start = jax.eval_shape(lambda method=method: method.init(KEY, data))
        state, info = jax.eval_shape(lambda state, method=method: method.update(state, data), start)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, start)
        assert info.objective.shape == ()


# ---- bad input


class Empty(nn.Module):
    def __call__(self, h, train: bool = False):
        return h.mean(axis=1)


class Pair(nn.Module):
    @nn.compact
    def __call__(self, h):
        return nn.Dense(2)(h)


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"position": "Dense_7"}, {}, r"position: expected one of the stages Dense_0, .* got 'Dense_7'"),
        ({"readout": Empty()}, {}, r"readout: expected a module with parameters, got Empty without"),
        ({"readout": Pair()}, {}, r"readout: expected outputs of shape \(12,\), that of the network's, got shape"),
        ({}, {"teacher_logits": None}, r"teacher_logits: expected numbers of shape \(12,\)"),
        ({}, {"teacher_logits": np.zeros((12, 3), np.float32)}, r"teacher_logits: .* got shape \(12, 3\)"),
        ({}, {"teacher_logits": np.full(12, np.inf, np.float32)}, r"teacher_logits: expected finite numbers"),
        ({"mix": 0.0}, {"y": np.arange(12)}, r"y: expected labels -1 and \+1"),
    ],
)
def test_bad_batches(options, fields, message):
    method, data = made(**options), DATA._replace(**fields)
    with pytest.raises(ValueError, match=f"^{message}"):
        method.init(KEY, data)
    with pytest.raises(ValueError, match=f"^{message.partition(':')[0]}: expected"):
        methods.train(method, jax.random.split(KEY, 2), data, steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": 3}, r"position: expected the name of a stage, got 3"),
        ({"beta": -1.0}, r"beta: expected a finite number, 0 or above"),
        ({"alpha": -1.0}, r"alpha: expected a finite number, 0 or above"),
        ({"refresh_every": 0}, r"refresh_every: expected a whole number of at least 1, got 0"),
        ({"readout_steps": 0}, r"readout_steps: expected a whole number of at least 1, got 0"),
        ({"mix": 1.5}, r"mix: expected a number in \[0, 1\]"),
        ({"temperature": 0.0}, r"temperature: expected a finite positive number"),
        ({"reweight_ce": 1}, r"reweight_ce: expected True or False"),
        ({"depth": -1}, r"depth: expected a whole number of at least 0"),
        ({"width": 0}, r"width: expected a whole number of at least 1"),
        ({"pooled": None}, r"pooled: expected True or False"),
        ({"readout": "linear"}, r"readout: expected a flax.linen module, or None, got str"),
        ({"readout": Pair}, r"readout: expected a flax.linen module, or None, got the class Pair"),
        ({"readout_optimizer": 0.1}, r"readout_optimizer: expected an optax optimiser"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a finite number, 0 or above"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        made(**options)
