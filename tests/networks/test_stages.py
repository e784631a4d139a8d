"""Stages: a table of our networks and of others, and properties of the stages of every network.

A network of `gsjax.networks` that is not in `ROWS` fails `test_every_network_is_in_the_table`.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from gsjax import networks
from gsjax.networks import CNN, MLP, VGG, ConvNet, FullyConnected, PreActResNet, ResNet, Stage, TwoLayer, stages

KEY, X = jax.random.key(0), np.ones((3, 6))


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    """Float64 for finite differences; every row of the table is compiled once for all tests."""
    with jax.enable_x64(True):
        yield


# ---- networks of users


class Block(nn.Module):
    @nn.compact
    def __call__(self, h, train):
        h = nn.tanh(nn.Dense(4, name="up")(h))
        self.sow("intermediates", "inner", h)
        return nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(h)


class Plain(nn.Module):
    """Modules from `setup`: one called twice with another in between, one of two layers, dropout, and `sow`."""

    def setup(self):
        self.encode, self.mix, self.block = nn.Dense(4), nn.Dense(4), Block()
        self.drop, self.decode = nn.Dropout(0.5), nn.Dense(3)

    def __call__(self, x, train=False):
        h = nn.tanh(self.mix(nn.tanh(self.encode(x))))
        h = self.block(h, train)
        h = nn.tanh(self.mix(h))
        self.sow("intermediates", "last", 2 * h)
        return self.decode(self.drop(h, deterministic=not train))


class Chain(nn.Module):
    """More than ten layers, so that names do not sort in order of depth; compiled as one step of the program."""

    @nn.compact
    def __call__(self, x):
        for _ in range(11):
            x = nn.tanh(nn.Dense(3)(x))
        return x


class Rematerialised(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="out")(nn.remat(Chain)(name="chain")(x))


class Compiled(nn.Module):
    """Two calls of one compiled module: the second passes the output of the first on."""

    @nn.compact
    def __call__(self, x):
        layer = nn.jit(nn.Dense)(6, name="layer")
        return nn.Dense(2, name="out")(nn.tanh(layer(nn.tanh(layer(x)))))


class Declared(nn.Module):
    """A network that declares two stages, one of them inside a module."""

    @nn.compact
    def __call__(self, x):
        h = Stage(name="first")(nn.tanh(nn.Dense(4)(x)))
        h = Ends(name="block")(h)
        return nn.Dense(2)(h)


class Ends(nn.Module):
    @nn.compact
    def __call__(self, h):
        return nn.Dense(3)(Stage(name="hidden")(nn.tanh(nn.Dense(5)(h))))


class InNnx(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.hidden, self.norm = nnx.Linear(6, width, rngs=rngs), nnx.BatchNorm(width, rngs=rngs)
        self.drop, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(width, 3, rngs=rngs)

    def activate(self, h):
        return jnp.tanh(h)

    def __call__(self, x, train=False):
        h = self.activate(self.norm(self.hidden(x), use_running_average=not train))
        return self.out(self.drop(h, deterministic=not train))


class Row(NamedTuple):
    """A network, the shape of its examples, the names of its stages, and whether training differs."""

    network: nn.Module
    shape: tuple[int, ...]
    names: str
    train: bool = False


IMAGE = (8, 8, 2)
OURS = {
    "mlp": Row(MLP((4, 3), activation="tanh"), (2, 3), "h1 h2"),
    "cnn": Row(CNN((3, 2), 2), IMAGE, "h1 h2 pool"),
    "fully_connected": Row(FullyConnected((4, 3), dropout=0.5, batch_norm=True), (6,), "h1 h2", train=True),
    "convnet": Row(ConvNet((2, 3), (4,), kernel_size=2), IMAGE, "conv1 pool1 conv2 pool2 dense1"),
    "vgg": Row(VGG(((2,), (3, 2)), 3), IMAGE, "conv1_1 pool1 conv2_1 conv2_2 pool2", train=True),
    "preact_resnet": Row(PreActResNet((2, 3), (1, 1), 3), IMAGE, "stem layer1_0 layer2_0 pool", train=True),
    "resnet": Row(ResNet((1,), 3), IMAGE, "stem layer1_0 pool", train=True),
    "two_layer": Row(TwoLayer(4), (2, 3), "h1"),
    "resnet18": Row(ResNet((2, 1), 3, "basic", "small", 2), IMAGE, "stem layer1_0 layer1_1 layer2_0 pool", train=True),
}
OTHERS = {
    "plain": Row(Plain(), (6,), "encode mix block/up block/inner block/norm block mix#2 drop last decode", train=True),
    "remat": Row(Rematerialised(), (6,), " ".join(f"chain/Dense_{layer}" for layer in range(11)) + " chain out"),
    "declared": Row(Declared(), (6,), "first block/hidden"),
    "nnx": Row(nnx.bridge.to_linen(InNnx, 4), (6,), "hidden norm activate drop out", train=True),
}
ROWS = OURS | OTHERS
rows = pytest.mark.parametrize("name", ROWS)


class Drawn(NamedTuple):
    """A row with random variables, and compiled results that its tests share."""

    row: Row
    names: tuple[str, ...]
    variables: Any
    x: Any
    every: Any  # (variables) -> outputs, stages
    outputs: Any
    stages: Any


@functools.cache
def drawn(name: str) -> Drawn:
    row, rng = ROWS[name], np.random.default_rng(0)
    x = rng.normal(size=(3, *row.shape))
    like = jax.eval_shape(row.network.init, {"params": KEY, "dropout": KEY}, x)
    # Not the initial values, at which norms hide earlier layers; variances stay positive.
    variables = jax.tree.map(lambda leaf: rng.uniform(0.2, 1, leaf.shape), like)
    variables["params"] = jax.tree.map(
        lambda leaf: leaf * rng.choice([-1, 1], leaf.shape) * np.sqrt(3 / fan_in(leaf)), variables["params"]
    )
    every = jax.jit(lambda variables: stages.apply(row.network, variables, x))
    outputs, found = every(variables)
    return Drawn(row, tuple(row.names.split()), variables, x, every, outputs, found)


@functools.cache
def perturbed(name: str) -> tuple[Any, Any, Any]:
    """A batch of variables with one changed leaf of the parameters each, and the results of `apply` under `vmap`."""
    _, _, variables, _, every, *_ = drawn(name)
    rng = np.random.default_rng(2)
    leaves, structure = jax.tree.flatten(variables["params"])
    batch = [np.repeat(leaf[None], len(leaves), axis=0) for leaf in leaves]
    for number, leaf in enumerate(leaves):
        batch[number][number] += 0.3 * rng.normal(size=leaf.shape)
    rest = {key: jax.tree.map(lambda leaf: leaf[None], value) for key, value in variables.items() if key != "params"}
    seeds = {"params": jax.tree.unflatten(structure, batch)}
    seeds |= jax.tree.map(lambda leaf: np.repeat(leaf, len(leaves), axis=0), rest)
    return seeds, *jax.jit(jax.vmap(every))(seeds)


def program(function: Any, *args: Any) -> str:
    return str(jax.make_jaxpr(function)(*args))


def fan_in(leaf: Any) -> Any:
    return np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 1


# ---- properties of all networks


def test_every_network_is_in_the_table():
    assert set(OURS) == {*networks.NAMES, "resnet18"}
    assert all(isinstance(OURS[name].network, networks.get(name)) for name in networks.NAMES)


@rows
def test_names_in_order_and_shapes_of_the_outputs(name):
    network, names, found = drawn(name).row.network, drawn(name).names, drawn(name).stages
    like = jax.ShapeDtypeStruct(drawn(name).x.shape, float)
    listed = stages.shapes(network, like)
    assert tuple(listed) == names
    assert listed == {stage: value.shape for stage, value in found.items()}
    if name in OURS:
        assert all(stage in (type(network).__doc__ or "") for stage in ("h1", "pool") if stage in names)


@rows
def test_the_program_of_the_outputs_is_that_of_the_network(name):
    """Equal programs give equal bits. Outputs compiled together with stages may be rounded differently."""
    row, _, variables, x, *_ = drawn(name)
    expected = program(row.network.apply, variables, x)
    for wanted in ((),) if name == "remat" else (None, ()):  # its stages are outputs of the rematerialised part
        got = program(
            lambda variables, x, wanted=wanted: stages.apply(row.network, variables, x, wanted)[0], variables, x
        )
        assert got == expected


@pytest.mark.parametrize("name", ["mlp", "plain", "nnx"])
def test_outputs_bit_by_bit_and_any_choice_of_stages(name):
    row, names, variables, x, _, outputs, found = drawn(name)
    plain: Any = row.network.apply(variables, x)
    for wanted in (None, (), (names[-1], names[0])):
        got, some = stages.apply(row.network, variables, x, wanted)
        np.testing.assert_array_equal(got, plain)
        assert tuple(some) == (names if wanted is None else wanted)
        for stage, value in some.items():
            np.testing.assert_allclose(value, found[stage], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(outputs, plain, rtol=1e-12, atol=1e-12)


@rows
def test_seeds_in_a_batch(name):
    seeds, outputs, found = perturbed(name)
    single = drawn(name).every(jax.tree.map(lambda leaf: leaf[1], seeds))
    jax.tree.map(
        lambda stacked, one: np.testing.assert_allclose(stacked[1], one, rtol=1e-9, atol=1e-12),
        (outputs, found),
        single,
    )


@rows
def test_gradients_through_stages_match_differences(name):
    """For a random sum over all stages, along a random direction of the parameters."""
    _, names, variables, _, every, _, found = drawn(name)
    rng = np.random.default_rng(1)
    weights = {stage: rng.normal(size=found[stage].shape) / found[stage].size for stage in names}
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), variables["params"])

    @jax.jit
    @jax.value_and_grad
    def total(size):
        params = jax.tree.map(lambda leaf, step: leaf + size * step, variables["params"], direction)
        _, found = every({**variables, "params": params})
        return sum((weights[stage] * found[stage]).sum() for stage in names)

    (upper, _), (lower, _), (_, slope) = map(total, (1e-7, -1e-7, 0.0))
    assert abs(slope) > 1e-4
    np.testing.assert_allclose((upper - lower) / 2e-7, slope, rtol=1e-5)


@pytest.mark.parametrize("name", [*ROWS, "compiled"])
def test_the_rest_of_the_network_is_a_function_of_a_stage(name):
    """At the stage of other examples it gives their outputs, and its derivative along a curve of examples is theirs.

    Paths around the stage and sown values are the exception.
    """
    if name == "compiled":
        network, x, names = Compiled(), np.random.default_rng(0).normal(size=(3, 6)), ("layer", "layer#2", "out")
        variables = network.init(KEY, x)
    else:
        (network, *_), names, variables, x, *_ = drawn(name)
    wanted = {names[0], names[-2:][0]}
    other, step = np.random.default_rng(3).normal(size=(2, *x.shape))

    def whole(x):
        outputs, found = stages.apply(network, variables, x, tuple(wanted))
        return found, outputs

    @jax.jit
    def both(variables, x, other, step):
        (found, outputs), (slopes, slope) = jax.jvp(whole, (other,), (step,))
        rests = {stage: stages.after(network, variables, x, stage) for stage in wanted}
        along = {stage: jax.jvp(rest, (found[stage],), (slopes[stage],)) for stage, (_, rest) in rests.items()}
        return (outputs, slope), along, whole(x), {stage: (h, rest(h)) for stage, (h, rest) in rests.items()}

    expected, along, (found, outputs), here = both(variables, x, other, step)
    for stage in wanted:
        np.testing.assert_allclose(here[stage][0], found[stage], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(here[stage][1], outputs, rtol=1e-10, atol=1e-12)
        around = (name, stage) in (("preact_resnet", "stem"), ("plain", "last"))
        for got, true in zip(along[stage], expected, strict=True):
            assert np.allclose(got, true, rtol=1e-9, atol=1e-11) is not around


@rows
def test_upto_finds_the_parameters_that_a_stage_depends_on(name):
    """A perturbed leaf changes the stage if and only if `upto` says that the stage depends on it."""
    row, names, variables, x, _, _, found = drawn(name)
    _, _, changed = perturbed(name)
    structure = jax.tree.structure(variables["params"])
    for stage in names if len(names) < 6 else (names[0], names[4], names[-1]):
        # The batched program may be rounded differently.
        distance = np.abs(changed[stage] - found[stage]).reshape(structure.num_leaves, -1).max(axis=1)
        assert not np.any((distance > 1e-10) & (distance < 1e-5))
        expected = jax.tree.unflatten(structure, (distance > 1e-5).tolist())
        assert stages.upto(row.network, variables, x, stage) == expected


def training_functions(name: str) -> tuple[Any, Any]:
    """`stages.apply` and the network itself in training mode, as functions of the variables."""
    network, x, options = drawn(name).row.network, drawn(name).x, {"rngs": {"dropout": KEY}, "mutable": ["batch_stats"]}
    apply: Any = network.apply
    return (
        lambda variables: stages.apply(network, variables, x, train=True, **options),
        lambda variables: apply(variables, x, train=True, **options),
    )


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.train and name != "nnx"])
def test_the_program_of_training_is_that_of_the_network(name):
    apply, plain = training_functions(name)

    def with_collections(variables):
        (outputs, _), collections = apply(variables)
        return outputs, collections

    assert program(with_collections, drawn(name).variables) == program(plain, drawn(name).variables)


@pytest.mark.parametrize("name", ["fully_connected", "plain", "nnx"])
def test_numbers_in_training_mode(name):
    """Dropout draws, and batch norm takes the statistics of the batch and updates its averages."""
    (apply, plain), variables = training_functions(name), drawn(name).variables
    before = jax.tree.map(jnp.array, variables)
    (outputs, found), collections = apply(variables)
    jax.tree.map(np.testing.assert_array_equal, variables, before)  # NumPy's arrays are mutable
    jax.tree.map(np.testing.assert_array_equal, (outputs, collections), plain(before))
    assert set(found) == set(drawn(name).names)
    last = drawn(name).names[-1]
    assert np.any(np.abs(found[last] - drawn(name).stages[last]) > 1e-3)
    assert collections.keys() == {"batch_stats"}
    moved = jax.tree.map(lambda new, old: np.any(new != old), collections["batch_stats"], before["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_upto_in_training_mode():
    """Training mode switches a layer on, and the mask includes it."""

    class Switched(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Dropout(0.5, deterministic=not train)(x)
            return Stage(name="h")(nn.Dense(2)(x) + (nn.Dense(2)(x) if train or self.is_initializing() else 0))

    variables = Switched().init(KEY, X)
    assert used(stages.upto(Switched(), variables, X, "h")) == [True, True, False, False]
    assert used(stages.upto(Switched(), variables, X, "h", train=True, rngs={"dropout": KEY})) == [True] * 4


def used(mask: Any) -> list[bool]:
    return jax.tree.leaves(mask)


# ---- ours


@pytest.mark.parametrize("name", OURS)
def test_the_readout_is_linear_in_the_last_stage(name):
    _, names, variables, _, _, outputs, found = drawn(name)
    params = variables["params"] | variables.get("frozen", {})
    last = max(params, key=lambda module: (module in ("fc", "output"), module[0] in "DW", module))
    readout = params[last]
    f = np.reshape(found[names[-1]], (3, -1)) @ readout["kernel"] + readout.get("bias", 0)
    np.testing.assert_allclose(f if outputs.ndim == 2 else f[:, 0], outputs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", OURS)
def test_stages_are_after_the_nonlinearity(name):
    """ReLU gives no negative numbers; tanh times the factor of Eq. 1 is bounded by that factor."""
    _, _, _, _, _, _, found = drawn(name)
    if name == "mlp":
        for value, width in zip(found.values(), (4, 3), strict=True):
            assert np.abs(value).max() < np.sqrt(networks.gamma("tanh") / width)
    elif name == "convnet":  # leaky: negative numbers are divided by 100
        for value in found.values():
            assert np.min(value) > -0.1 * np.max(value)
    else:
        assert all(np.min(value) >= 0 for value in found.values())


def test_the_first_stages_of_an_mlp_by_hand():
    _, _, variables, x, _, _, found = drawn("mlp")
    w1, w2 = (variables["params"][layer]["kernel"] for layer in ("W1", "W2"))
    factor = networks.gamma("tanh")
    h1 = np.sqrt(factor / 4) * np.tanh(x.reshape(3, 6) / np.sqrt(6) @ w1)
    np.testing.assert_allclose(found["h1"], h1, rtol=1e-12)
    np.testing.assert_allclose(found["h2"], np.sqrt(factor / 3) * np.tanh(h1 @ w2), rtol=1e-12)


@pytest.mark.parametrize("name", OURS)
def test_stages_change_neither_parameters_nor_outputs(name, monkeypatch):
    """The program that initialises and applies the network is the same without the declarations of stages."""
    network, x = OURS[name].network, drawn(name).x
    before, like = program(network.init_with_output, KEY, x), jax.eval_shape(network.init, KEY, x)
    for module in ("ntk", "standard", "vgg", "preact", "resnet", "two_layer"):
        monkeypatch.setattr(f"gsjax.networks.{module}.Stage", lambda name: lambda h: h)
    assert program(network.init_with_output, KEY, x) == before
    assert jax.eval_shape(network.init, KEY, x) == like
    assert name.startswith("resnet") or set(stages.names(network, x)).isdisjoint(
        drawn(name).names
    )  # blocks are modules


TREES = {  # records and files of weights depend on these names
    "mlp": "W1/kernel W2/kernel W3/kernel",
    "cnn": "W1/kernel W2/kernel W3/kernel",
    "convnet": "Conv_0/bias Conv_0/kernel Conv_1/bias Conv_1/kernel Dense_0/bias Dense_0/kernel Dense_1/bias"
    " Dense_1/kernel",
    "fully_connected": "BatchNorm_0/bias BatchNorm_0/scale BatchNorm_1/bias BatchNorm_1/scale Dense_0/bias"
    " Dense_0/kernel Dense_1/bias Dense_1/kernel Dense_2/bias Dense_2/kernel",
    "two_layer": "hidden/bias hidden/kernel",
    "vgg": "BatchNorm_0/bias BatchNorm_0/scale BatchNorm_1/bias BatchNorm_1/scale BatchNorm_2/bias BatchNorm_2/scale"
    " Conv_0/kernel Conv_1/kernel Conv_2/kernel Dense_0/bias Dense_0/kernel",
}


@pytest.mark.parametrize("name", TREES)
def test_names_of_parameters(name):
    assert sorted(flatten_dict(drawn(name).variables["params"], sep="/")) == TREES[name].split()


# ---- others


class Scanned(nn.Module):
    """As many layers as examples: in a scan, with or without their outputs, and in a vmap over members."""

    collections: Any

    @nn.compact
    def __call__(self, x):
        lifted: Any = {"variable_axes": dict(self.collections), "split_rngs": {"params": True}}
        h = nn.Dense(4, name="first")(x)
        h, _ = nn.scan(Carried, length=3, **lifted)(name="layers")(h)
        h = nn.vmap(nn.Dense, in_axes=None, out_axes=1, axis_size=3, **lifted)(4, name="members")(h)
        return nn.Dense(1, name="out")(h.mean(axis=1))[:, 0]


class Carried(nn.Module):
    @nn.compact
    def __call__(self, h):
        return nn.tanh(nn.Dense(4, name="dense")(h)), None


@pytest.mark.parametrize("collections", [(("params", 0),), (("params", 0), ("intermediates", 0))])
def test_outputs_of_lifted_layers_are_refused(collections):
    """There are three layers and three examples, so that only another number of examples tells the axes apart."""
    network, x = Scanned(collections), np.ones((3, 5))
    variables = jax.jit(network.init)(KEY, x)
    assert stages.names(network, x) == ("first", "out")
    for name in ("layers/dense", "members"):
        with pytest.raises(
            ValueError, match=rf"^names: expected one of the stages first, out, got '{name}', whose output is "
        ):
            stages.apply(network, variables, x, (name,))


class Several(nn.Module):
    """Modules that return a pair, one row for two examples, and no axis of examples."""

    @nn.compact
    def __call__(self, x):
        carry, h = nn.GRUCell(4, name="cell")(jnp.zeros((len(x), 4)), x)
        pairs = nn.Dense(4, name="pairs")(h.reshape(-1, 2, 4)).reshape(h.shape)
        tokens = nn.Embed(3, 4, name="places")(jnp.arange(len(carry) if len(carry) == 3 else 3))
        mean = nn.Dense(4, name="mean")(h.mean(axis=0))
        return nn.Dense(2, name="out")(pairs + mean + tokens.sum())


def test_outputs_that_are_not_arrays_of_examples_are_not_stages():
    found = stages.names(Several(), np.ones((4, 5)))
    assert found[-1] == "out"
    assert {"cell", "pairs", "places", "mean"}.isdisjoint(found)
    assert "cell/hn" in found


def test_earlier_intermediates_are_ignored():
    """Intermediates of an earlier call do not enter, and sown values are returned as stages only."""
    row, _, variables, x, _, outputs, found = drawn("plain")
    _, earlier = row.network.apply(variables, x, mutable=["intermediates"])
    for mutable in (True, ["intermediates", "batch_stats"], "intermediates"):
        (repeated, stage), collections = stages.apply(
            row.network, {**variables, **earlier}, x, ("last",), mutable=mutable
        )
        np.testing.assert_allclose(repeated, outputs, rtol=1e-12)
        np.testing.assert_allclose(stage["last"], found["last"], rtol=1e-12)
        assert "intermediates" not in collections


def test_a_step_in_the_layers_up_to_a_stage():
    """The gradient of a loss of the stage is zero outside the mask, and zero everywhere with a stopped gradient."""
    row, _, variables, x, *_ = drawn("fully_connected")
    mask = stages.upto(row.network, variables, x, "h1")

    @functools.partial(jax.jit, static_argnums=1)
    @jax.grad
    def gradient(params, stop):
        _, found = stages.apply(row.network, {**variables, "params": params}, x, ("h1",))
        h = jax.lax.stop_gradient(found["h1"]) if stop else found["h1"]
        return (h**2).sum()

    moved = jax.tree.map(lambda grad: bool(np.any(grad != 0)), gradient(variables["params"], False))
    assert moved == mask
    assert 0 < sum(used(mask)) < len(used(mask))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient(variables["params"], True)))


def test_the_mask_is_concrete_under_tracing():
    row, names, variables, x, *_ = drawn("mlp")
    seen = []

    def update(variables, x):
        seen.append(stages.upto(row.network, variables, x, names[0]))
        return jax.tree.map(lambda leaf, used: leaf if used else 0 * leaf, variables["params"], seen[0])

    params = jax.jit(jax.vmap(update, in_axes=(0, None)))(jax.tree.map(lambda leaf: leaf[None], variables), x)
    assert seen[0] == {"W1": {"kernel": True}, "W2": {"kernel": False}, "W3": {"kernel": False}}
    assert np.any(params["W1"]["kernel"])
    assert not np.any(params["W2"]["kernel"])


def test_train_is_passed_to_networks_that_take_it():
    assert {name for name, row in ROWS.items() if stages.mode(row.network, True)} - {"convnet"} == {
        name for name, row in ROWS.items() if row.train
    }
    assert stages.mode(OURS["convnet"].network, False) == {"train": False}
    assert stages.mode(nn.remat(Plain)(), True) == {"train": True}


class Bare(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("w", nn.initializers.ones, x.shape[1:])


def applied(network: nn.Module, names: Any = None, x: Any = X, **options: Any) -> Any:
    return stages.apply(network, network.init(KEY, X), x, names, **options)


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (lambda: stages.names(Bare(), X), "network: expected a network with stages, got Bare without"),
        (lambda: applied(Bare()), "network: expected a network with stages, got Bare without"),
        (lambda: stages.names(MLP, X), "network: expected a flax.linen module, got the class MLP"),
        (lambda: stages.apply(InNnx(4, nnx.Rngs(0)), {}, X), "network: expected a flax.linen module, got InNnx"),
        (lambda: stages.upto(None, {"params": {}}, X, "h1"), "network: expected a flax.linen module, got NoneType"),
        (lambda: applied(MLP((4, 3)), ("h1", "h3")), "names: expected one of the stages h1, h2, got 'h3'"),
        (lambda: applied(MLP((4, 3)), "h1"), "names: expected a sequence of names of stages, got 'h1'"),
        (lambda: applied(MLP((4, 3)), (1,)), "names: expected one of the stages h1, h2, got 1"),
        (
            lambda: stages.upto(MLP((4,)), MLP((4,)).init(KEY, X), X, "W1"),
            "position: expected one of the stages h1, got 'W1'",
        ),
        (lambda: stages.after(MLP, {}, X, "h1"), "network: expected a flax.linen module, got the class MLP"),
        (
            lambda: stages.after(MLP((4,)), MLP((4,)).init(KEY, X), X, "h2"),
            "position: expected one of the stages h1, got 'h2'",
        ),
        (
            lambda: stages.after(MLP((4,)), MLP((4,)).init(KEY, X), X, "h1")[1](np.ones((3, 5))),
            r"h: expected shape \(3, 4\), that of h1, got shape \(3, 5\)",
        ),
        (lambda: stages.upto(MLP((4,)), {}, X, "h1"), "variables: expected a collection params, got none"),
        (lambda: stages.names(MLP((4,)), np.ones((0, 3))), r"x: expected a non-empty array \(n, ...\)"),
        (lambda: stages.names(MLP((4,)), jax.ShapeDtypeStruct((), float)), r"x: expected a non-empty array \(n, ...\)"),
        (lambda: applied(MLP((4,)), x=jax.ShapeDtypeStruct((3, 6), float)), "x: expected an array of real numbers"),
    ],
)  # fmt: skip
def test_bad_arguments(bad, complaint):
    with pytest.raises(ValueError, match=rf"^{complaint}"):
        bad()


def test_a_network_without_stages_still_has_outputs():
    variables = Bare().init(KEY, X)
    outputs, found = stages.apply(Bare(), variables, X, ())
    np.testing.assert_array_equal(outputs, X.sum(axis=1))
    assert found == {}


def test_without_hidden_layers_the_readout_is_found():
    assert stages.shapes(MLP((), 2), X) == {"W1": (3, 2)}
