"""The functions of `apply_fn`, `params` and `x`: which trees of parameters they take, and what they differentiate."""

# pyright: reportArgumentType=false, reportCallIssue=false
# Bad input is of any type, and NumPy's arrays stand for JAX's.

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

from gsjax import Ridge, networks, tangent, training
from gsjax.tangent.calls import check_problem

N = 5
X, Y = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32), np.array([1.0, -1.0, 1.0, 1.0, -1.0])
W = jnp.arange(1.0, 4.0)


def linear(w, x):
    return x @ w


TANGENT: dict[str, Callable[[Any, Any, Any], Any]] = {
    "ntk": tangent.ntk,
    "ntrf": tangent.ntrf,
    "ntk_operator": tangent.ntk_operator,
    "check_problem": lambda apply_fn, params, x: check_problem(apply_fn, params, x, Y),
}
tangents = pytest.mark.parametrize("call", TANGENT.values(), ids=list(TANGENT))
# For expensive calls; all functions share the check of params.
some_tangents = pytest.mark.parametrize("call", [TANGENT[name] for name in ("ntrf", "check_problem")])


@tangents
def test_arguments_in_another_order(call):
    network = networks.MLP((4,))
    params = network.init(jax.random.key(1), X)
    with pytest.raises(ValueError, match=r"^x1?: expected an array of examples .*got dict.* order apply_fn, params, x"):
        call(network.apply, X, params)
    with pytest.raises(ValueError, match=r"^x1?: expected "):
        call(network.apply, X, [*jax.tree.leaves(params)])
    for apply_fn in (network, params, X, "apply", None):
        with pytest.raises(ValueError, match=r"^(apply_fn|params): expected "):
            call(apply_fn, params, X)
    with pytest.raises(
        ValueError, match=r"^(apply_fn: expected a function of the given params|y: expected shape \(3,\))"
    ):
        call(linear, X, np.asarray(W))
    with pytest.raises(ValueError, match=r"^apply_fn: expected a function of the given params and of x1?, .*\(5, 2\)"):
        call(network.apply, params, X[:, :2])
    with pytest.raises(ValueError, match=r"^apply_fn: expected a function .*Error: "):
        call(lambda x: x[:, 0], params, X)


@tangents
def test_differentiated_outputs_are_an_array_of_floating_point_numbers(call):
    for wrong in (
        lambda w, x: x @ w > 0,
        lambda w, x: (x @ w).astype(int),
        lambda w, x: x @ w + 1j,
        lambda w, x: (x @ w, {}),  # as from a network with mutable collections
        lambda w, x: None,
    ):
        with pytest.raises(ValueError, match=r"^apply_fn: expected outputs in "):
            call(wrong, W, X)


class Normed(nnx.Module):
    """A network with batch norm in inference mode, and dropout that holds a counter and a key."""

    def __init__(self, dropout: bool):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.params = nnx.Linear(4, 1, rngs=rngs)  # also the name of a collection in flax
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs) if dropout else None

    def __call__(self, x):
        h = nnx.relu(self.norm(self.hidden(x)))
        return self.params(self.dropout(h) if self.dropout else h)[:, 0]


class WithStatistics(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        own = self.variable("counts", "calls", jnp.zeros, ())  # a collection with a name of the user
        return nn.Dense(1)(nn.BatchNorm(use_running_average=not train)(x))[:, 0] + 0 * own.value


@some_tangents
@pytest.mark.parametrize("dropout", [False, True])
def test_modules_of_nnx_are_split_into_parameters_and_the_rest(call, dropout):
    model = Normed(dropout)
    with pytest.raises(ValueError, match=r"^params: .* the module Normed: .* nnx\.split\(model, nnx\.Param, \.\.\.\)"):
        call(lambda model, x: model(x), model, X)
    graph, everything = nnx.split(model)
    unfiltered = r"^params: .* one of \w+ at \w+.*: .* nnx\.split\(model, nnx\.Param, \.\.\.\)"
    with pytest.raises(ValueError, match=unfiltered):
        call(lambda state, x: nnx.merge(graph, state)(x), everything, X)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    call(lambda state, x: nnx.merge(graph, state, rest)(x), params, X)


@some_tangents
def test_statistics_and_modules_in_a_tree_are_not_parameters(call):
    _, statistics, _ = nnx.split(Normed(False), nnx.BatchStat, ...)
    with pytest.raises(ValueError, match=r"^params: .* one of BatchStat at norm/mean"):
        call(lambda state, x: x @ state["norm"]["mean"][:3], statistics, X)
    with pytest.raises(ValueError, match=r"^params: .* the module Linear at 0"):
        call(lambda models, x: models[0](x)[:, 0], [nnx.Linear(3, 1, rngs=nnx.Rngs(0))], X)


def test_an_attribute_of_nnx_that_is_called_params_is_differentiated_like_all_others():
    graph, params, rest = nnx.split(Normed(False), nnx.Param, ...)

    def apply_fn(state, x):
        return nnx.merge(graph, state, rest)(x)

    phi = tangent.ntrf(apply_fn, params, X)
    assert phi.shape == (N, sum(leaf.size for leaf in jax.tree.leaves(params)))
    np.testing.assert_allclose(tangent.ntk(apply_fn, params, X), phi @ phi.T, rtol=1e-5, atol=1e-6)


@some_tangents
def test_models_of_equinox_are_partitioned(call):
    model = eqx.nn.MLP(3, "scalar", 4, 1, key=jax.random.key(0))

    def unpartitioned(model, x):
        return jax.vmap(model)(x)

    partition = r"eqx\.partition\(model, eqx\.is_inexact_array\)"
    with pytest.raises(ValueError, match=rf"^params: expected an Equinox module .* got MLP with .*: .*{partition}"):
        call(unpartitioned, model, X)
    with pytest.raises(ValueError, match=rf"^params: .* got MLP with .* at inner: .*{partition}"):
        call(lambda params, x: unpartitioned(params["inner"], x), {"inner": model}, X)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    call(lambda params, x: unpartitioned(eqx.combine(params, static), x), params, X)

    class Scaled(eqx.Module):
        weight: jax.Array
        scale: float  # by the convention of Equinox a constant

    with pytest.raises(ValueError, match=rf"^params: .* got Scaled with a leaf of float: {'.*'}{partition}"):
        call(lambda model, x: model.scale * (x @ model.weight), Scaled(W, 2.0), X)


@some_tangents
def test_only_the_collection_params_of_flax_variables_is_differentiated(call):
    network = WithStatistics()
    variables = network.init(jax.random.key(0), X)
    assert set(variables) == {"params", "batch_stats", "counts"}
    call(network.apply, variables, X)
    call(functools.partial(network.apply, train=False), freeze(variables), X)
    call(jax.jit(network.apply), variables, X)
    with pytest.raises(
        ValueError, match=r"^params: .* got 'params' beside 'counts': rename .* params=variables\['params'\]"
    ):
        call(lambda variables, x: network.apply(variables, x), variables, X)
    rest = {key: value for key, value in variables.items() if key != "params"}
    call(lambda params, x: network.apply({**rest, "params": params}, x), variables["params"], X)
    norm = nn.BatchNorm(use_running_average=True)
    known = norm.init(jax.random.key(0), X)
    call(lambda variables, x: norm.apply(variables, x)[:, 0], known, X)
    for nested in ([known], {"norm": known, "scale": W}):
        with pytest.raises(ValueError, match=r"^params: expected parameters, got the collection 'batch_stats' of flax"):
            call(lambda params, x: norm.apply(jax.tree.leaves(params)[0], x), nested, X)
    with pytest.raises(ValueError, match=r"^params: expected parameters, got the collection 'batch_stats' of flax"):
        call(lambda params, x: norm.apply(params, x), {"batch_stats": known["batch_stats"]}, X)


@tangents
@pytest.mark.parametrize(
    "others",
    [{"scale": jnp.float32(2)}, {"scale": 2.0, "shift": {"b": W}}, {"batch_stats": W}, {"head": {"kernel": W}}],
)
def test_no_other_key_beside_params_is_dropped_silently(call, others):
    params = {"params": W, **others}
    with pytest.raises(ValueError, match=rf"^params: .* got 'params' beside '{next(iter(others))}'"):
        call(lambda params, x: x @ params["params"] + sum(map(jnp.sum, jax.tree.leaves(others))), params, X)


def test_a_dict_without_the_key_params_is_differentiated_completely():
    def apply_fn(params, x):
        return params["scale"] * (x @ params["weight"])

    phi = tangent.ntrf(apply_fn, {"weight": W, "scale": 2.0}, X)
    np.testing.assert_allclose(phi, np.concatenate([(X @ W)[:, None], 2 * X], axis=1), rtol=1e-6)
    np.testing.assert_allclose(tangent.ntk(apply_fn, {"weight": W, "scale": 2.0}, X), phi @ phi.T, rtol=1e-5)
    single = tangent.ntrf(lambda params, x: x @ params["params"], {"params": W}, X)
    np.testing.assert_allclose(single, X, rtol=1e-6)


@tangents
@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (W + 1j, "complex64"),
        (1j, "complex64"),
        ("relu", "str"),
        (jax.nn.relu, r"\w+"),
        (object(), "object"),
    ],
)
def test_leaves_of_other_types_are_refused(call, leaf, said):
    params = {"layer": [W, leaf]}
    with pytest.raises(
        ValueError, match=rf"^params: expected floating point numbers, got a leaf of {said} at layer/1: "
    ):
        call(lambda params, x: x @ params["layer"][0], params, X)


CONSTANTS = {
    "whole numbers": jnp.arange(3),
    "NumPy's": np.ones(3, np.uint8),
    "bools": jnp.ones(3, bool),
    "a bool of NumPy": np.True_,
    "a bool of Python": True,
    "a whole number of Python": 3,
    "a key": jax.random.key(0),
    "several keys": jax.random.split(jax.random.key(0), 1),
    "an older key": jax.random.PRNGKey(0),
}
constants = pytest.mark.parametrize("constant", CONSTANTS.values(), ids=list(CONSTANTS))


def with_constant(params, x):
    """A linear network whose output depends on the constant, which keeps its type."""
    weight, constant = params["layer"]
    if isinstance(constant, jax.Array) and jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    assert not jnp.issubdtype(jnp.result_type(constant), jnp.floating)
    return (x @ weight) * (1 + jnp.sum(jnp.asarray(constant) % 7))


@constants
def test_constants_are_not_differentiated(constant):
    params = {"layer": [W, constant]}
    factor = with_constant(params, X)[0] / (X @ W)[0]
    phi = factor * X
    np.testing.assert_allclose(tangent.ntrf(with_constant, params, X), phi, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(tangent.ntk, static_argnums=0)(with_constant, params, X), phi @ phi.T, rtol=1e-4)
    operator = tangent.ntk_operator(with_constant, params, X)
    np.testing.assert_allclose(operator.mv(jnp.asarray(Y, X.dtype)), phi @ (phi.T @ Y), rtol=1e-4)
    np.testing.assert_allclose(operator.as_matrix(), phi @ phi.T, rtol=1e-4)


def test_constants_are_not_trained():
    def apply_fn(params, x):
        pairs = ({"layer": [params["weight"], constant]} for constant in params["constants"].values())
        return jnp.stack([with_constant(pair, x) for pair in pairs]).mean(0)

    params = {"weight": W, "constants": CONSTANTS}
    with jax.enable_x64(True):
        fitted = training.fit(apply_fn, params, X, Y, Ridge(1.0))
        state = training.init(apply_fn, params, X, Y, Ridge(1.0))
        stepped = training.step(apply_fn, state, X, Y, Ridge(1.0))[0].params
        descended = training.descend(apply_fn, params, X, Y, Ridge(1.0), step_size=0.01, steps=[1]).params
        assert fitted.converged
        for found in (fitted.params, stepped, descended):
            assert not np.allclose(found["weight"], W)
            for name, constant in CONSTANTS.items():
                assert jnp.result_type(found["constants"][name]) == jnp.result_type(constant)
                assert jnp.all(found["constants"][name] == constant), name


def test_a_cached_kernel_belongs_to_its_constants(tmp_path):
    for name, other in (("a whole number of Python", 4), ("bools", jnp.zeros(3, bool)), ("a key", jax.random.key(1))):
        params, changed = ({"layer": [W, constant]} for constant in (CONSTANTS[name], other))
        kernel = tangent.ntk(with_constant, params, X, cache=tmp_path / name)
        np.testing.assert_array_equal(tangent.ntk(with_constant, params, X, cache=tmp_path / name), kernel)
        with pytest.raises(ValueError, match=r"^cache: "):
            tangent.ntk(with_constant, changed, X, cache=tmp_path / name)


@some_tangents
def test_constants_alone_are_refused(call):
    only = r"^params: expected at least one parameter .*, got only a leaf of key<fry>, a leaf of int32"
    with pytest.raises(ValueError, match=only):
        call(lambda params, x: x[:, 0], {"steps": jnp.arange(3), "key": jax.random.key(0)}, X)


@some_tangents
def test_counters_and_keys_beside_the_collection_params(call):
    """`params` is differentiated whether the dict holds flax variables or not."""
    for others in ({"step": 3, "key": jax.random.key(0)}, {"batch_stats": {"mean": W}, "step": jnp.int32(3)}):
        call(lambda params, x: x @ params["params"]["w"], {"params": {"w": W, "calls": 0}, **others}, X)
    with pytest.raises(ValueError, match=r"^params: .* got 'params' beside 'name'"):
        call(lambda params, x: x @ params["params"], {"params": W, "step": 3, "name": "mlp"}, X)


@some_tangents
def test_counters_and_keys_of_nnx_and_equinox(call):
    """Counters and keys of nnx are left out; an Equinox model with a counter has to be partitioned."""

    class Dropped(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.hidden, self.dropout = nnx.Linear(3, 1, rngs=rngs), nnx.Dropout(0.5, deterministic=True, rngs=rngs)

        def __call__(self, x):
            return self.dropout(self.hidden(x))[:, 0]

    graph, everything = nnx.split(Dropped())
    assert any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(everything))
    call(lambda state, x: nnx.merge(graph, state)(x), everything, X)

    class Counted(eqx.Module):
        weight: jax.Array
        calls: jax.Array

    model = Counted(W, jnp.array(0))
    partition = r"eqx\.partition\(model, eqx\.is_inexact_array\)"
    with pytest.raises(ValueError, match=rf"^params: .* got Counted with a leaf of int32: .*{partition}"):
        call(lambda model, x: x @ model.weight, model, X)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    call(lambda params, x: x @ eqx.combine(params, static).weight, params, X)


@some_tangents
def test_running_statistics_of_equinox(call):
    """The model holds their initial values until `make_with_state` removes them."""

    class Norm(eqx.Module):
        weight: jax.Array
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.weight, self.norm = W, eqx.nn.BatchNorm(3, "batch", inference=True, mode="batch")

    with_values, _ = eqx.partition(Norm(), eqx.is_inexact_array)
    with pytest.raises(ValueError, match=r"^params: .* got Norm with initial values of a state: .*make_with_state"):
        call(lambda params, x: x @ params.weight, with_values, X)
    model, state = eqx.nn.make_with_state(Norm)()
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def apply_fn(params, x):
        model = eqx.combine(params, static)
        return jax.vmap(lambda x: model.norm(x, state)[0] @ model.weight, axis_name="batch")(x)

    call(apply_fn, params, X)


@tangents
def test_params_without_parameters_and_with_numbers_that_are_not_finite(call):
    for empty in ({}, None, [], (None, {}), {"params": {}}, jnp.zeros(0), {"w": None}):
        with pytest.raises(ValueError, match=r"^params: expected at least one parameter to differentiate, got none"):
            call(lambda params, x: x[:, 0], empty, X)
    for bad in (W.at[1].set(jnp.nan), W.at[1].set(jnp.inf)):
        with pytest.raises(ValueError, match=r"^params: expected finite numbers, got 1 NaN or infinite entries"):
            call(lambda params, x: x @ params["w"], {"w": bad}, X)
    call(lambda params, x: x @ params["w"], {"w": W, "absent": None}, X)
    call(lambda params, x: x @ params["w"], {"w": np.asarray(W)}, X)


def test_types_are_checked_under_tracing():
    """Values are not checked under `jit`; other types are refused as they are outside."""
    kernel = jax.jit(lambda w: tangent.ntk(linear, w, X))
    np.testing.assert_allclose(kernel(W), X @ X.T, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"^params: expected floating point numbers, got a leaf of complex64"):
        kernel(W + 1j)
    with pytest.raises(ValueError, match=r"^params: expected at least one parameter .*, got only a leaf of int32"):
        kernel(jnp.arange(3))
    with pytest.raises(ValueError, match=r"^x1: expected an array of real numbers, got complex64 of shape \(5, 3\)"):
        jax.jit(lambda x: tangent.ntk(linear, W, x))(X + 1j)
    with pytest.raises(ValueError, match=r"^y: expected labels -1 and \+1"):
        jax.jit(lambda y: check_problem(linear, W, X, y))(Y > 0)
