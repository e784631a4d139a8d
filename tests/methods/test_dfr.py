"""Deep feature reweighting: ERM, then the last layer alone on a balanced loss; its fit to held-out groups."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalSubscript=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import itertools

import chex
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from gsjax import methods, networks
from gsjax.methods import Batch, refit
from gsjax.methods.dfr import dfr, updates
from gsjax.methods.heads import last_layer
from gsjax.networks import Stage, stages
from tests.methods.test_dedier import HARD, KEY, MOMENTUM, by_operations, states
from tests.methods.test_learners import by_path, changed
from tests.methods.toys import N, Noisy, close, compiled

T = 3
DATA = HARD._replace(group=np.array([0] * 7 + [1] * 3 + [3] * 2))  # group 2 has no examples


def made(**options):
    return dfr(Noisy(), MOMENTUM, **{"groups": 4, "feature_steps": T, **options})


def features(state, data=DATA) -> np.ndarray:
    """The input of the last layer of `Noisy`, in evaluation mode."""
    variables = {"params": state.params, **state.collections}
    return np.asarray(stages.apply(Noisy(), variables, data.x, ("Dropout_0",))[1]["Dropout_0"], float)


def test_an_update_touches_the_network_or_its_last_layer():
    """Leaf by leaf: parameters, both optimiser states, running statistics and shares."""
    course = states(made(), DATA, 6)
    for before, after in itertools.pairwise(course):
        main, memory = changed(before.main._asdict(), after.main._asdict()), changed(before.memory, after.memory)
        if int(before.step) < T:
            flat = {
                path for path in by_path(before.main._asdict()) if "['Dense_0']['bias']" in path or "['key']" in path
            }
            assert set(by_path(before.main._asdict())) - flat <= main
            assert memory == ({".shares"} if int(before.step) == 0 else set())
        else:
            assert main == {f"['params']['Dense_1']['{name}']" for name in ("kernel", "bias")}
            assert memory == {path for path in by_path(before.memory) if path != ".shares"}
            assert len(memory) == 2


@pytest.mark.slow
def test_the_first_updates_are_erm_to_the_bit():
    found = by_operations(made(weight_decay=0.01), DATA, T)
    expected = by_operations(methods.get("erm")(Noisy(), MOMENTUM, weight_decay=0.01), DATA, T)
    assert not changed(found.main._asdict(), expected.main._asdict())
    np.testing.assert_allclose(found.memory.shares, np.array([7, 3, 0, 2]) / 12, rtol=1e-6)


def balanced(f: np.ndarray, data=DATA) -> tuple[float, np.ndarray]:
    """The mean over groups of the means of their losses, and its gradient by the outputs."""
    groups = np.unique(data.group)
    losses, slopes = np.logaddexp(0, -data.y * f), -data.y * expit(-data.y * f)
    value = np.mean([losses[data.group == g].mean() for g in groups])
    slope = np.mean([np.where(data.group == g, slopes, 0) / (data.group == g).sum() for g in groups], axis=0)
    return float(value), slope


@pytest.mark.parametrize("restart", [True, False])
def test_the_step_of_the_last_layer_in_numpy(restart):
    """From zero or from ERM, on features without dropout, with an optimiser of its own."""
    decay, rate = 0.1, 0.2
    method = made(restart=restart, last_optimizer=optax.sgd(rate), weight_decay=decay)
    before, after = states(method, DATA, T + 1)[-2:]
    _, info = compiled(method.update)(before, DATA)
    h = features(before)
    old, new = (jax.tree.map(lambda leaf: np.asarray(leaf, float), s.params["Dense_1"]) for s in (before, after))
    if restart:
        old = jax.tree.map(np.zeros_like, old)
    f = (h @ old["kernel"] + old["bias"])[:, 0]
    value, slope = balanced(f)
    np.testing.assert_allclose((info.loss, info.penalty), (np.logaddexp(0, -DATA.y * f).mean(), value), rtol=1e-5)
    np.testing.assert_allclose(
        (old["kernel"] - new["kernel"])[:, 0] / rate, h.T @ slope + decay * old["kernel"][:, 0], rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        (old["bias"] - new["bias"]) / rate, slope.sum() + decay * old["bias"], rtol=1e-3, atol=1e-5
    )


def test_the_last_layer_reaches_the_optimum_of_the_balanced_loss():
    method = made(last_optimizer=optax.sgd(0.5, momentum=0.9), weight_decay=0.1)
    state = methods.train(method, KEY[None], DATA, steps=updates(600, T)).state
    state = jax.tree.map(lambda leaf: leaf[0], state)
    h, layer = features(state), state.params["Dense_1"]
    _, slope = balanced((h @ layer["kernel"] + layer["bias"])[:, 0])
    np.testing.assert_allclose(h.T @ slope, -0.1 * layer["kernel"][:, 0], atol=1e-5)
    np.testing.assert_allclose(slope.sum(), -0.1 * layer["bias"], atol=1e-5)


def test_shares_of_an_epoch_of_mini_batches():
    chosen = np.split(np.random.default_rng(0).permutation(N), 3)
    batches = [jax.tree.map(lambda leaf, rows=rows: leaf[rows], DATA) for rows in chosen]
    state = states(made(), DATA, 3, batches)[-1]
    np.testing.assert_allclose(state.memory.shares, np.array([7, 3, 0, 2]) / 12, rtol=1e-6)


def test_a_group_that_has_not_occurred_has_no_weight():
    seen = jax.tree.map(lambda leaf: leaf[:10], DATA)  # without group 3
    method = made(last_optimizer=optax.sgd(0.1))
    before = states(method, seen, T)[-1]
    _, info = compiled(method.update)(before, DATA)
    share = np.where(DATA.group == 0, 7 / 10, np.where(DATA.group == 1, 3 / 10, np.inf))
    np.testing.assert_allclose(info.penalty, (np.log(2) / share / 2).mean(), rtol=1e-5)


def test_all_seeds_are_one_program():
    method, keys = made(), jax.random.split(KEY, 3)
    counted = methods.Method(method.init, chex.assert_max_traces(method.update, 1))
    run = methods.train(counted, keys, DATA, steps=10, record=[0, 7, 10])
    one = methods.train(method, keys[1:2], DATA, steps=10).state
    close(jax.tree.map(lambda leaf: leaf[1:2], run.state), one)


class Deep(nn.Module):
    """Two layers after the only stage."""

    @nn.compact
    def __call__(self, x):
        h = Stage(name="h")(nn.relu(nn.Dense(4)(x)))
        return nn.Dense(1)(nn.relu(nn.Dense(4)(h)))[:, 0]


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (networks.MLP((8, 4)), {"W3"}),
        (networks.FullyConnected((4,), batch_norm=True), {"Dense_1"}),
        (networks.TwoLayer(4, trained=True), {"output"}),
        (Noisy(), {"Dense_1"}),
        (Deep(), {"Dense_1", "Dense_2"}),
    ],
    ids=["mlp", "fully connected", "two layer", "noisy", "deep"],
)
def test_the_last_layer(network, layers):
    variables = network.init(KEY, DATA.x)
    found = last_layer(network, variables, DATA.x)
    assert {name for name, takes in found.items() if any(takes.values())} == layers
    assert all(all(found[name].values()) for name in layers)


def test_a_network_without_a_last_layer():
    for network in (networks.TwoLayer(4), nn.Dense(1)):
        with pytest.raises(ValueError, match=r"^network: expected (parameters after one of its|a network with) stages"):
            last_layer(network, network.init(KEY, DATA.x), DATA.x)


# ---- the fit to held-out groups

RNG = np.random.default_rng(3)
LABEL = RNG.integers(0, 3, 200)
GROUP = RNG.integers(0, 2, 200) * (RNG.random(200) < 0.3)
X = (RNG.normal(size=(200, 4)) + LABEL[:, None] + 1.5 * GROUP[:, None] * np.eye(4)[0]).astype(np.float32)
BALANCE = 1 / np.bincount(GROUP)[GROUP] / 2


def held_out(outputs: int) -> Batch:
    y = LABEL if outputs > 1 else np.where(LABEL > 0, 1.0, -1.0).astype(np.float32)
    return Batch(X, y, group=GROUP)


def trained(network, data):
    return methods.get("erm")(network, MOMENTUM).init(KEY, data)


def inputs(network, state, data) -> np.ndarray:
    variables = {"params": state.params, **state.collections}
    return np.asarray(stages.apply(network, variables, data.x, ("h1",))[1]["h1"], float)


@pytest.mark.parametrize(
    ("outputs", "penalty", "solver"), [(1, "l1", "saga"), (1, "l2", "lbfgs"), (3, "l2", "lbfgs"), (3, "l1", "saga")]
)
def test_a_fit_is_the_balanced_logistic_regression_of_scikit_learn(outputs, penalty, solver):
    network, data = networks.FullyConnected((6,), outputs=outputs), held_out(outputs)
    state, strength = trained(network, data), 0.02
    found = refit(network, state, data, groups=2, **{penalty: strength}, tolerance=1e-8)
    h = inputs(network, state, data)
    z = (h - h.mean(axis=0)) / np.where(h.std(axis=0) > 0, h.std(axis=0), 1)
    ratio = {"l1": 1.0, "l2": 0.0}[penalty]
    model = LogisticRegression(C=1 / strength, l1_ratio=ratio, solver=solver, tol=1e-10, max_iter=100_000)
    model.fit(z, data.y, sample_weight=BALANCE)
    expected = model.decision_function(z)
    np.testing.assert_allclose(methods.predict(network, found.state, data.x), expected, rtol=1e-3, atol=1e-3)
    assert found.converged
    assert found.gradient <= 1e-8
    kernel = np.asarray(found.state.params["Dense_1"]["kernel"])
    np.testing.assert_array_equal(kernel == 0, np.abs(model.coef_.T) < 1e-6)
    assert (kernel == 0).any() == (penalty == "l1")
    others = {path for path in by_path(state._asdict()) if "['params']['Dense_1']" not in path}
    assert not changed(state._asdict(), found.state._asdict()) & others


@pytest.mark.parametrize(
    "network",
    [networks.MLP((6,)), networks.TwoLayer(6, trained=True, scale=3.0), Noisy()],
    ids=["mlp", "two layer", "noisy"],
)
def test_a_fit_minimises_its_objective_in_any_parametrisation(network):
    """The objective in NumPy from the outputs; around the fit it only rises."""
    data = held_out(1)
    found = refit(network, trained(network, data), data, groups=2, l2=0.05)
    assert found.converged

    def loss(f):
        return BALANCE @ np.logaddexp(0, -data.y * f)

    f = np.asarray(methods.predict(network, found.state, data.x), float)
    assert loss(f) <= found.objective
    assert loss(f) < np.log(2)
    last = last_layer(network, {"params": found.state.params, **found.state.collections}, data.x)
    start = loss(f)
    # The derivative along the fit itself is that of the penalty: -l2 times the square of the kernel in its units.
    scaled = jax.tree.map(lambda take, leaf: (1 + 1e-2) * leaf if take else leaf, last, found.state.params)
    larger = np.asarray(methods.predict(network, found.state._replace(params=scaled), data.x), float)
    assert loss(larger) < start


def test_a_separable_batch_without_penalty_does_not_converge():
    network, x = networks.FullyConnected((8,)), np.array([[-1.0], [1.0]], np.float32)
    data = Batch(x, np.array([-1.0, 1.0]), group=np.zeros(2, int))
    state = trained(network, data)
    assert not refit(network, state, data, groups=1, max_steps=3).converged
    assert refit(network, state, data, groups=1, l2=0.1).converged
    zero = refit(network, state, data, groups=1, l1=10.0)
    assert zero.converged
    assert zero.objective == pytest.approx(np.log(2))


def test_the_fit_does_not_depend_on_the_former_last_layer_nor_on_the_size_of_batches():
    network, data = networks.FullyConnected((6,)), held_out(1)
    state = trained(network, data)
    other = state._replace(
        params={**state.params, "Dense_1": jax.tree.map(lambda leaf: leaf - 5, state.params["Dense_1"])}
    )
    one, two = (refit(network, s, data, groups=2, l2=0.1, batch_size=size) for s, size in ((state, 7), (other, 256)))
    np.testing.assert_allclose(*(found.state.params["Dense_1"]["kernel"] for found in (one, two)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "options", "fields", "message"),
    [
        (Deep(), {}, {}, r"network: expected a linear layer after its last stage, got Deep"),
        (networks.TwoLayer(4), {}, {}, r"network: expected parameters after one of its stages, got TwoLayer"),
        (networks.MLP((4,)), {}, {"group": None}, r"group: expected whole numbers \(200,\) from 0 to 1, got None"),
        (networks.MLP((4,)), {"groups": 1}, {}, r"group: expected whole numbers \(200,\) from 0 to 0, got \[0, 1\]"),
        (networks.MLP((4,)), {}, {"y": LABEL}, r"y: expected labels -1 and \+1"),
        (networks.MLP((4,)), {"groups": 0}, {}, r"groups: expected a whole number of at least 1"),
        (networks.MLP((4,)), {"l1": -1.0}, {}, r"l1: expected a finite number, 0 or above"),
        (networks.MLP((4,)), {"l2": np.nan}, {}, r"l2: expected a finite number, 0 or above"),
        (networks.MLP((4,)), {"tolerance": 1.0}, {}, r"tolerance: expected a number in \(0, 1\)"),
        (networks.MLP((4,)), {"max_steps": 0}, {}, r"max_steps: expected a whole number of at least 1"),
        (networks.MLP((4,)), {"batch_size": 0}, {}, r"batch_size: expected a whole number of at least 1"),
    ],
)
def test_bad_arguments_of_a_fit(network, options, fields, message):
    data = held_out(1)
    state = trained(network, data)
    with pytest.raises(ValueError, match=f"^{message}"):
        refit(network, state, data._replace(**fields), **{"groups": 2, **options})


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({}, {"group": None}, r"group: expected whole numbers \(12,\) from 0 to 3, got None"),
        ({"groups": 3}, {}, r"group: expected whole numbers \(12,\) from 0 to 2, got \[0, 3\]"),
        ({}, {"y": np.arange(12)}, r"y: expected labels -1 and \+1"),
    ],
)
def test_bad_batches(options, fields, message):
    data = DATA._replace(**fields)
    with pytest.raises(ValueError, match=f"^{message}"):
        made(**options).init(KEY, data)
    with pytest.raises(ValueError, match=f"^{message.partition(':')[0]}: expected"):
        methods.train(made(**options), jax.random.split(KEY, 2), data, steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 0}, r"groups: expected a whole number of at least 1"),
        ({"feature_steps": 0}, r"feature_steps: expected a whole number of at least 1, got 0"),
        ({"restart": 1}, r"restart: expected True or False"),
        ({"last_optimizer": 0.1}, r"last_optimizer: expected an optax optimiser"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a finite number, 0 or above"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        made(**options)


def test_bad_numbers_of_updates():
    for bad, name in (((-1, 1), "last_updates"), ((1, 0), "feature_steps")):
        with pytest.raises(ValueError, match=f"^{name}: expected a whole number"):
            updates(*bad)
