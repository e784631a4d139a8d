"""The feature sieve: an update by hand in NumPy, what each of its steps changes, and what it does to features."""

# pyright: reportArgumentType=false, reportOptionalSubscript=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsjax import methods, probes, statistics
from gsjax.methods import Batch, Method
from gsjax.methods.sieve import uniform_loss
from gsjax.methods.terms import losses
from gsjax.networks import FullyConnected, PreActResNet, Readout, stages
from tests.methods.test_learners import changed, paths
from tests.methods.toys import Noisy, batch, close, compiled, leaves

KEY, DATA = jax.random.key(0), batch()
ORDINARY, READING = optax.sgd(0.3, momentum=0.5), optax.adam(0.05)
BELOW = {"Dense_0", "BatchNorm_0"}  # the layers that the stage BatchNorm_0 depends on


def sieve(network: nn.Module, optimizer: Any = ORDINARY, **options: Any) -> Method:
    given = {"position": "BatchNorm_0", "depth": 1, "width": 4, "every": 2, "readout_optimizer": READING}
    return methods.get("sieve")(network, optimizer, **{**given, **options})


@functools.cache
def updater(**options: Any) -> Any:
    return compiled(sieve(Noisy(), **options).update)


def started() -> methods.State:
    """A state whose next update has a forgetting step."""
    return updater()(sieve(Noisy()).init(KEY, DATA), DATA)[0]


# ---- numbers


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("due", [True, False])
def test_an_update_by_hand(due):
    """A network with one hidden layer and a linear readout of it, all steps by plain gradient descent."""
    rate, forget_rate, reading_rate, decay, n, k = 0.3, 0.5, 0.2, 0.1, 12, 3
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, 4)), np.arange(n) % k
    network = FullyConnected((5,), k, "tanh")
    with jax.enable_x64(True):
        method = methods.get("sieve")(
            network,
            optax.sgd(rate),
            position="h1",
            forget_rate=forget_rate,
            every=1 if due else 2,
            depth=0,
            readout_optimizer=optax.sgd(reading_rate),
            weight_decay=decay,
        )
        state = method.init(KEY, Batch(x, y))
        after, info = compiled(method.update)(state, Batch(x, y))
    (w, b), (v, c) = (
        (np.array(state.params[name]["kernel"]), np.array(state.params[name]["bias"]))
        for name in ("Dense_0", "Dense_1")
    )
    a, d = (np.array(state.others["readout"].params["Dense_0"][name]) for name in ("kernel", "bias"))
    target = np.eye(k)[y]

    h = np.tanh(x @ w + b)
    p = softmax(h @ a + d)
    read = -np.log(p[np.arange(n), y]).mean()
    a, d = a - reading_rate * h.T @ (p - target) / n, d - reading_rate * (p - target).mean(axis=0)
    if due:
        back = (softmax(h @ a + d) - 1 / k) / n @ a.T * (1 - h**2)
        w, b = w - forget_rate * x.T @ back, b - forget_rate * back.sum(axis=0)
        h = np.tanh(x @ w + b)
    p = softmax(h @ v + c)
    loss = -np.log(p[np.arange(n), y]).mean()
    objective = loss + decay / 2 * sum((array**2).sum() for array in (w, b, v, c))
    back = (p - target) / n @ v.T * (1 - h**2)
    expected = {
        "Dense_0": {"bias": b - rate * (back.sum(axis=0) + decay * b), "kernel": w - rate * (x.T @ back + decay * w)},
        "Dense_1": {
            "bias": c - rate * ((p - target).mean(axis=0) + decay * c),
            "kernel": v - rate * (h.T @ (p - target) / n + decay * v),
        },
    }
    close(after.params, expected, rtol=1e-10, atol=1e-12)
    close(after.others["readout"].params, {"Dense_0": {"bias": d, "kernel": a}}, rtol=1e-10, atol=1e-12)
    close(info, (objective, loss, read), rtol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_loss_of_forgetting(x64, k):
    logits = 3 * np.random.default_rng(k).standard_normal((20, k))
    pair = np.hstack([np.zeros_like(logits), logits]) if k == 1 else logits
    given = jnp.asarray(logits[:, 0] if k == 1 else logits, x64)
    found = uniform_loss(given)
    assert found.dtype == x64
    np.testing.assert_allclose(found, -np.log(softmax(pair)).mean(axis=1), rtol=1e-5)
    floor = np.log(max(k, 2))
    assert (found > floor).all()
    np.testing.assert_allclose(uniform_loss(0 * given), floor, rtol=1e-6)
    np.testing.assert_array_less(uniform_loss(0.9 * given), found)


# ---- what a step may change
#
# What a step leaves alone is the same to the bit. Two programs that make the same step are compiled on their own, and
# the last bits of what they compute depend on the processor: see `compare` for the options with which they agree.


def test_the_readout_changes_nothing_of_the_network():
    """Without forgetting the network is that of ERM, and everything of the readout is trained."""
    erm, method = methods.get("erm")(Noisy(), ORDINARY), sieve(Noisy(), forget_rate=0.0)
    expected, state = erm.init(KEY, DATA), method.init(KEY, DATA)
    assert not changed(expected, state._replace(others={}))
    course, losses = compiled(erm.update), []
    for _ in range(4):
        before = state.others["readout"]
        expected, erm_info = course(expected, DATA)
        state, info = updater(forget_rate=0.0)(state, DATA)
        close(state._replace(others={}), expected)
        close((info.objective, info.loss), (erm_info.objective, erm_info.loss))
        after = state.others["readout"]
        unused = {"['Dense_0']['bias']"}  # Adam
        assert changed(before.params, after.params) >= set(paths_of(before.params)) - unused
        assert changed(before.optimizer, after.optimizer) == set(paths_of(before.optimizer))
        assert changed(before.collections, after.collections) == set(paths_of(before.collections))
        losses.append(float(info.penalty))
    assert losses == sorted(losses, reverse=True)


def paths_of(tree) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]


def test_forgetting_changes_only_parameters_up_to_its_stage():
    """Seen alone, where the ordinary step has a rate of zero."""
    still, state = optax.sgd(0.0, momentum=0.5), started()
    after, _ = updater(optimizer=still)(state, DATA)
    assert changed(state.params, after.params) == paths(state.params, *BELOW)
    # All else is what an ordinary step makes of these parameters: optimiser state, running averages, step and key.
    expected, _ = compiled(methods.get("erm")(Noisy(), still).update)(
        state._replace(params=after.params, others={}), DATA
    )
    close(after._replace(others={}), expected)
    assert changed(state.optimizer, after.optimizer) == set(paths_of(state.optimizer))
    assert changed(state.collections, after.collections) == set(paths_of(state.collections))
    # The readout takes one step, forgetting or not.
    without, _ = updater(optimizer=still, every=7)(state, DATA)
    assert not changed(state.params, without.params)
    close(without.others["readout"], after.others["readout"])
    assert changed(state.others["readout"].params, after.others["readout"].params)


def test_the_ordinary_step_follows_the_forgetting_step():
    state = started()
    forgotten, _ = updater(optimizer=optax.sgd(0.0, momentum=0.5))(state, DATA)
    expected, erm_info = compiled(methods.get("erm")(Noisy(), ORDINARY).update)(
        state._replace(params=forgotten.params, others={}), DATA
    )
    after, info = updater()(state, DATA)
    close(after._replace(others={}), expected)
    close(forgotten.others, after.others)
    close((info.objective, info.loss), (erm_info.objective, erm_info.loss))


@pytest.mark.parametrize(("every", "start", "forgets"), [(1, 0, "12345"), (2, 0, "24"), (2, 2, "4"), (3, 1, "3")])
def test_when_it_forgets(every, start, forgets):
    method = sieve(Noisy(), optax.sgd(0.0), every=every, start=start)
    state, update, found = method.init(KEY, DATA), compiled(method.update), ""
    for number in range(1, 6):
        before, (state, _) = state, update(state, DATA)
        found += str(number) if changed(before.params, state.params) else ""
    assert found == forgets


def test_a_stage_after_a_norm_includes_the_norm():
    """The stem of a pre-activation network ends with the norm and the ReLU of its first block."""
    network, x = PreActResNet((2,), (1,), 2), np.random.default_rng(0).standard_normal((6, 4, 4, 1))
    data = Batch(x.astype(np.float32), np.arange(6) % 2)
    method = sieve(network, optax.sgd(0.0), position="stem", every=1, depth=0)
    state = method.init(KEY, data)
    after, _ = compiled(method.update)(state, data)
    assert {path.split("'")[1] for path in changed(state.params, after.params)} == {"Conv_0", "BatchNorm_0"}
    assert set(state.params) > {"Conv_1", "BatchNorm_1", "BatchNorm_2", "Dense_0"}


def test_without_forgetting_only_the_readout_is_added():
    """Outside of the branches, the matrix products of an update are those of ERM."""

    def products(method: Method) -> int:
        state = method.init(KEY, DATA)
        program = jax.make_jaxpr(method.update)(state, jax.tree.map(jnp.asarray, DATA)).jaxpr
        return sum(equation.primitive.name == "dot_general" for equation in program.eqns)

    assert products(sieve(Noisy(), depth=0)) == products(methods.get("erm")(Noisy(), ORDINARY)) > 0


def trained(**options: Any) -> tuple[methods.State, methods.State]:
    """The states of ERM and of the sieve, without its readout, after training in batches."""
    keys, traced, method = jax.random.split(KEY, 3), [], sieve(Noisy(), **options)

    def update(state, batch):
        traced.append(batch)
        return method.update(state, batch)

    run = methods.train(Method(method.init, update), keys, DATA, steps=20, batch_size=6)
    erm = methods.train(methods.get("erm")(Noisy(), ORDINARY), keys, DATA, steps=20, batch_size=6)
    assert len(traced) == 1
    assert run.finite.all()
    assert {leaf.shape[0] for leaf in jax.tree.leaves(run.state)} == {3}
    return erm.state, run.state._replace(others={})


def test_all_seeds_in_one_program():
    close(*trained(forget_rate=0.0), rtol=1e-4, atol=1e-5)
    erm, forgetful = trained()
    assert changed(erm.params, forgetful.params) == set(paths_of(erm.params))


def compare() -> None:
    """Compares ERM and the sieve without forgetting bit for bit."""
    for options in ({"forget_rate": 0.0}, {"start": 20}):
        for position in ("BatchNorm_0", "Dropout_0"):
            assert not changed(*trained(position=position, **options)), (position, options)


@pytest.mark.slow
def test_without_forgetting_training_is_that_of_erm_bit_for_bit():
    """With the default options of the compiler; with those of `make test` it rounds the two programs differently."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = "from tests.methods import test_sieve; test_sieve.compare()"
    subprocess.run([sys.executable, "-c", command], env=environment, check=True)


# ---- what forgetting does


def toy_step(rate: float, seed: int) -> tuple[float, float, float]:
    """The loss of forgetting of a batch before and after a step alone, and the squared norm of its gradient."""
    network = FullyConnected((6, 5), 3, "tanh", batch_norm=True)
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    options = {"position": "h1", "every": 1, "forget_rate": rate, "depth": 1, "width": 4}
    method = methods.get("sieve")(network, optax.sgd(0.0), readout_optimizer=optax.sgd(1.0), **options)
    state = method.init(jax.random.key(seed), Batch(x, y))
    update, before = compiled(method.update), state
    for _ in range(5):
        before, (state, _) = state, update(state, Batch(x, y))
    reader = state.others["readout"]

    def loss(params):
        apply = {"train": True, "mutable": ["batch_stats"]}
        (_, found), _ = stages.apply(network, {"params": params, **before.collections}, x, ("h1",), **apply)
        readout = Readout(3, 1, 4)
        logits, _ = readout.apply({"params": reader.params, **reader.collections}, found["h1"], **apply)
        return -(jax.nn.log_softmax(logits) / 3).sum(axis=1).mean()

    slope = sum(float((leaf**2).sum()) for leaf in leaves(compiled(jax.grad(loss))(before.params)))
    return float(loss(before.params)), float(loss(state.params)), slope


def test_a_forgetting_step_lowers_its_loss():
    """For a small rate, by the rate times the squared norm of the gradient."""
    rate = 1e-3
    with jax.enable_x64(True):
        before, after, slope = toy_step(rate, 0)
        np.testing.assert_allclose((before - after) / rate, slope, rtol=0.02)


def features(rng, n, tied):
    """A simple feature, one coordinate, and a complex one, whether two others agree; `tied` features are the same."""
    simple, sign = rng.choice([-1.0, 1.0], (2, n))
    complex_ = simple if tied else rng.choice([-1.0, 1.0], n)
    x = np.stack([simple, sign, sign * complex_], axis=1) + 0.3 * rng.standard_normal((n, 3))
    return jax.tree.map(np.float32, (x, simple, complex_))


@pytest.mark.slow
def test_a_fresh_probe_of_the_simple_feature_falls():
    """Where both features have the label in training, probes of each on examples where they are independent."""
    rng, seeds, network = np.random.default_rng(0), 10, FullyConnected((16, 16))
    (x, y, _), known, held_out = features(rng, 400, True), features(rng, 600, False), features(rng, 600, False)

    @jax.jit
    @jax.vmap
    def probe_losses(state):
        """The cross-entropy of fresh linear probes, for the simple and the complex feature."""
        given = network, {"params": state.params}, "h2", known[0]
        logits = [probes.early_readout(*given, fit, held_out[0], at).logits for fit, at in pairs]
        return jnp.stack([losses(f, at).mean() for f, (_, at) in zip(logits, pairs, strict=True)])

    pairs, found = list(zip(known[1:], held_out[1:], strict=True)), []
    options = {"position": "h2", "forget_rate": 0.3, "every": 1, "depth": 0, "readout_optimizer": optax.adam(0.01)}
    for name, given in (("erm", {}), ("sieve", options)):
        method = methods.get(name)(network, optax.adam(3e-3), **given)
        run = methods.train(method, jax.random.split(KEY, seeds), Batch(x, y), steps=600, batch_size=100)
        found.append(np.array(probe_losses(run.state)))
    rise = found[1] - found[0]
    assert (rise[:, 0] > 0).all()
    assert statistics.mean(rise[:, 0]).low > 0.1
    assert statistics.mean(rise[:, 1]).high < 0.1  # the complex feature is no harder to read than before
    assert statistics.mean(rise[:, 0] - rise[:, 1]).low > 0


# ---- bad input


class NoParameters(nn.Module):
    @nn.compact
    def __call__(self, h):
        return h.sum(axis=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": "h1"}, "position: expected one of the stages Dense_0, .*, got 'h1'"),
        ({"readout": NoParameters()}, "readout: expected a module with parameters, got NoParameters without"),
        (
            {"readout": Readout(3)},
            r"readout: expected outputs of shape \(12,\), that of the network's, got .*\(12, 3\)",
        ),
    ],
)
def test_what_only_init_can_refuse(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        sieve(Noisy(), **options).init(KEY, DATA)


def test_a_readout_of_one_s_own():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, h, train=False):
            h = nn.Dropout(0.5, deterministic=not train)(nn.tanh(nn.Dense(3)(h)))
            return nn.Dense(1)(h)[:, 0]

    method = sieve(Noisy(), readout=Own(), every=1)
    state = method.init(KEY, DATA)
    assert jax.tree.map(jnp.shape, state.others["readout"].params["Dense_0"]) == {"bias": (3,), "kernel": (8, 3)}
    after, info = compiled(method.update)(state, DATA)
    assert changed(state.params, after.params) == set(paths_of(state.params))
    assert np.isfinite(info.penalty)
