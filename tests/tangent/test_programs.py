"""Programs: partial evaluation, equality, and the products that they contain."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gsjax.tangent import explain, ntk
from gsjax.tangent.calls import check_call
from gsjax.tangent.gradients import gradients
from gsjax.tangent.products import leaves
from gsjax.tangent.programs import Program, digest, evaluate, inline, run

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
W = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))


def program(function, *args):
    closed = inline(jax.make_jaxpr(lambda *args: function(*args))(*args))
    return Program.from_jaxpr(closed.jaxpr, rules=True), closed.consts


def test_a_program_with_calls_inlined_computes_the_same():
    @jax.jit
    def inner(x):
        return jax.checkpoint(jnp.sin)(x) + jax.jit(jnp.cos)(x * W)

    def function(x):
        return lax.scan(lambda carry, row: (carry + inner(row).sum(), inner(row)), 0.0, jnp.stack([x, 2 * x]))

    found, consts = program(function, W)
    assert not {"jit", "remat2"} & {eqn.primitive.name for eqn in found.jaxpr.eqns}
    expected = jax.tree.leaves(function(W))
    for value, other in zip(run(found.jaxpr, consts, [W]), expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6)


def test_only_what_is_needed_is_evaluated():
    def function(x):
        return x + 1, jnp.linalg.cholesky(x)

    found, consts = program(function, W)
    [total, _] = found.jaxpr.outvars
    [value] = evaluate(found.jaxpr, {found.jaxpr.invars[0]: "not a matrix"}, []) or [None]
    assert value is None
    [value] = evaluate(found.jaxpr, {found.jaxpr.invars[0]: W}, [total])
    np.testing.assert_array_equal(value, W + 1)
    assert consts == []


def constant_function(value, scale=2.0):
    def function(x):
        return scale * jnp.sin(x @ jnp.asarray(value))

    return function


def test_programs_are_equal_if_they_differ_in_constants_alone():
    one, consts = program(constant_function(W), X)
    other, others = program(constant_function(W + 1), X)
    assert one == other
    assert hash(one) == hash(other)
    assert not np.array_equal(consts[0], others[0])
    assert digest("cache", one, *consts) == digest("cache", other, *consts) != digest("cache", other, *others)


@pytest.mark.parametrize(
    "other",
    [
        constant_function(W, 3.0),
        constant_function(W, -2.0),
        constant_function(W[:, :2]),
        lambda x: 2.0 * jnp.cos(x @ W),
        lambda x: jnp.sin(x @ W) * 2.0,
        lambda x: 2.0 * jnp.sin(x @ W.astype(jnp.bfloat16)),
        lambda x: lax.scan(lambda c, _: (c, 2.0 * jnp.sin(x @ W)), 0.0, None, length=1)[1],
    ],
)
def test_programs_of_other_structure_are_not_equal(other):
    one, consts = program(constant_function(W), X)
    two, others = program(other, X)
    assert one != two
    assert digest("cache", one, *consts) != digest("cache", two, *others)


@pytest.mark.parametrize("constants", [(0.0, -0.0), (1.0, float("nan")), (1.0, 2.0)])
def test_constants_within_loops_count_as_structure(constants):
    def function(constant):
        return lambda x: lax.scan(lambda carry, _: (carry * constant, None), x, None, length=2)[0]

    one, two = (program(function(constant), X)[0] for constant in constants)
    assert one != two
    assert one == program(function(constants[0]), X)[0]


def test_what_is_called_back_has_no_digest():
    def function(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    found, _ = program(function, X)
    with pytest.raises(ValueError, match=r"^cache: expected None for a program that calls back Python functions"):
        digest("cache", found)


def test_random_numbers_have_a_digest():
    found, consts = program(lambda x: x + jax.random.normal(jax.random.key(0), x.shape), X)
    other, others = program(lambda x: x + jax.random.normal(jax.random.key(1), x.shape), X)
    assert digest("cache", found, *consts) != digest("cache", other, *others)


def stacked(params, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params)[0].sum(1)


def rematerialised(params, x):
    step = jax.checkpoint(lambda h, w: (jnp.tanh(jnp.sin(h) @ w), None))
    return lax.scan(step, x, params)[0].sum(1)


def repeated(params, x):
    def step(h, _):
        return jnp.tanh(h @ params[0] + h[..., :1] * params[1][0]), None

    return lax.scan(step, x, None, length=3, reverse=True)[0].sum(1)


def twice_a_step(params, x):
    def step(h, _):
        return jnp.tanh(jnp.sin(h @ params[0]) @ params[0]), None

    return lax.scan(step, x @ params[0], None, length=3)[0].sum(1)


def nested(params, x):
    def outer(h, w):
        return lax.scan(lambda h, _: (jnp.tanh(h @ w), None), h, None, length=2)[0], None

    return lax.scan(outer, x, params)[0].sum(1)


def branches(params, x):
    first, second, which = params
    return lax.cond(which > 0, lambda x: jnp.tanh(x @ first), lambda x: jnp.sin(x @ first @ second) ** 2, x).sum(1)


def looped(params, x):
    return lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ params[0].T), x).sum(1)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("apply_fn", [stacked, rematerialised, repeated, twice_a_step, nested, branches, looped])
def test_products_within_loops_and_branches_are_found(apply_fn, sign):
    with jax.enable_x64(True):
        params = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 3)) / 2)
        if apply_fn in (repeated, twice_a_step, looped, branches):
            params = [*params, jnp.asarray(sign)]
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
        found = leaves(gradients(apply_fn, params, x, check_call(apply_fn, params, x, "x")))
        assert found[0].structured, found[0].reason
        kernel = ntk(apply_fn, params, x)
        # By JAX alone: our own gradients come from the same program, with products behind the loops.
        rows = jax.tree.leaves(jax.jacrev(apply_fn)(params, x))
        phi = np.concatenate([np.asarray(leaf).reshape(len(x), -1) for leaf in rows], axis=1)
        expected = phi @ phi.T
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_explained_leaf_by_leaf():
    def apply_fn(params, x):
        h = jnp.tanh(x @ params["weight"] + params["bias"]) * params["scale"]
        return h @ (params["normed"] / jnp.linalg.norm(params["normed"]))

    params = {name: jnp.ones(3) for name in ("bias", "normed", "scale", "unused")} | {"weight": W}
    found = explain(apply_fn, params, X)
    ways = {leaf.path: leaf.way for leaf in found.leaves}
    assert ways["weight"] in ("Gram matrices", "products")
    assert (ways["bias"], ways["scale"], ways["normed"], ways["unused"]) == ("sums", "sums", "gradients", "zero")
    assert [leaf.structured for leaf in found.leaves] == [True, False, True, True, True]
    assert 0 < found.unstructured < 1
    for leaf in found.leaves:
        assert leaf.path in str(found)
        assert leaf.reason in str(found)


def test_a_slow_kernel_warns(monkeypatch):
    def apply_fn(params, x):
        return jnp.tanh(x @ (params / jnp.linalg.norm(params))).sum(1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel = ntk(apply_fn, W, X)
        monkeypatch.setattr("gsjax.tangent.explanation._SLOW", 10)
        ntk(apply_fn, W, X, method="jacobian")
    with pytest.warns(UserWarning, match=r"^ntk: 100% of the multiplications form gradients example by example"):
        np.testing.assert_array_equal(ntk(apply_fn, W, X), kernel)
