"""Kernels of functions that change between calls, or differ in a number that is not an argument."""

from __future__ import annotations

import functools
import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gsjax.tangent import ntk, ntk_operator, ntrf
from tests.tangent.derivatives import N, applied, features, w, x


class Scaled:
    """A network that is an object, with a hash."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, w, x):
        return self.scale * (x @ w)

    def method(self, w, x):
        return self.scale * (x @ w)


def in_a_dict():
    box = {"scale": 1.0}
    return lambda w, x: box["scale"] * (x @ w), lambda scale: box.update(scale=scale)


def in_a_dict_of_arrays():
    box = {"scale": jnp.ones(3)}
    return lambda w, x: x @ (box["scale"] * w), lambda scale: box.update(scale=scale * jnp.ones(3))


def in_an_attribute():
    network = Scaled(1.0)
    return network, lambda scale: setattr(network, "scale", scale)


def in_an_attribute_of_a_method():
    network = Scaled(1.0)
    return network.method, lambda scale: setattr(network, "scale", scale)


def in_a_closed_over_object():
    box = types.SimpleNamespace(scale=jnp.asarray(1.0))
    return lambda w, x: box.scale * (x @ w), lambda scale: setattr(box, "scale", jnp.asarray(scale))


def in_a_rebound_variable():
    scale = jnp.asarray(1.0)

    def rebind(value):
        nonlocal scale
        scale = jnp.asarray(value)

    return lambda w, x: scale * (x @ w), rebind


def in_an_array_of_numpy():
    scale = np.ones(3)

    def fill(value):
        scale[:] = value

    return lambda w, x: x @ (scale * w), fill


def in_a_partial():
    box = {"scale": 1.0}
    return functools.partial(lambda box, w, x: box["scale"] * (x @ w), box), lambda scale: box.update(scale=scale)


def in_a_list_of_layers():
    layers = [lambda h: h]

    def apply_fn(w, x):
        h = x @ w
        for layer in layers:
            h = layer(h)
        return h

    return apply_fn, lambda scale: layers.append(lambda h: scale * h)


def in_a_custom_rule():
    box = {"scale": 1.0}

    def apply_fn(w, x):
        product = jax.custom_vjp(lambda w: x @ w)
        scale = box["scale"]
        product.defvjp(lambda w: (x @ w, None), lambda _, ct: (scale * (x.T @ ct),))
        return product(w)

    return apply_fn, lambda scale: box.update(scale=scale)


def in_statistics():
    """A normalisation closed over, then trained."""
    layer: Any = nn.BatchNorm(use_running_average=True, use_bias=False, use_scale=False, epsilon=0.0)
    kept = {"batch_stats": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}

    def train(scale):
        kept["batch_stats"] = {"mean": jnp.ones(1), "var": jnp.full(1, scale**-2.0)}

    return lambda w, x: layer.apply(kept, (x @ w)[:, None])[:, 0], train


CHANGING = [
    in_a_dict,
    in_a_dict_of_arrays,
    in_an_attribute,
    in_an_attribute_of_a_method,
    in_a_closed_over_object,
    in_a_rebound_variable,
    in_an_array_of_numpy,
    in_a_partial,
    in_a_list_of_layers,
    in_a_custom_rule,
    in_statistics,
]

WAYS = {
    "kernel": ntk,
    "blocks": functools.partial(ntk, batch_size=2),
    "jacobian": functools.partial(ntk, method="jacobian"),
    "rectangular": lambda f, w, x: ntk(f, w, x, x),
    "features": lambda f, w, x: (phi := ntrf(f, w, x)) @ phi.T,
    "operator": lambda f, w, x: jnp.stack([ntk_operator(f, w, x).mv(column) for column in jnp.eye(N)]),
    "matrix of the operator": lambda f, w, x: ntk_operator(f, w, x).as_matrix(),
    "under jit": lambda f, w, x: jax.jit(lambda w, x: ntk(f, w, x))(w, x),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("changing", CHANGING)
def test_changes_of_what_the_function_depends_on(changing, way):
    apply_fn, change = changing()
    np.testing.assert_allclose(way(apply_fn, w, x), x @ x.T, rtol=1e-4, atol=1e-5)
    change(3.0)
    np.testing.assert_allclose(way(apply_fn, w, x), 9 * (x @ x.T), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changing", CHANGING)
def test_an_operator_does_not_change_with_its_function(changing):
    """Products and matrix belong to the network at the time of construction, even if the function has changed."""
    apply_fn, change = changing()
    operator = ntk_operator(apply_fn, w, x)
    change(3.0)
    products = jnp.stack([operator.mv(column) for column in jnp.eye(N)])
    np.testing.assert_allclose(operator.as_matrix(), products, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changing", CHANGING)
def test_blocks_of_a_function_that_has_changed_are_refused(changing, tmp_path):
    apply_fn, change = changing()
    first = ntk(apply_fn, w, x, batch_size=2, cache=tmp_path)
    np.testing.assert_array_equal(ntk(apply_fn, w, x, batch_size=2, cache=tmp_path), first)
    change(3.0)
    with pytest.raises(ValueError, match=r"^cache: expected blocks of this kernel"):
        ntk(apply_fn, w, x, batch_size=2, cache=tmp_path)


# Networks that differ in a hidden constant: each function takes the constant and gives a network.


def constant_in_jit(c):
    return jax.jit(lambda w, x: c * (x @ w))


def constant_in_jit_in_jit(c):
    return jax.jit(lambda w, x: jax.jit(lambda h: h * jnp.full(1, c))(x @ w))


def array_in_jit(c):
    factors = np.ones((3, 400))
    factors[1, 200] = c
    array = jnp.asarray(factors)
    inner = jax.jit(lambda w: w * array.sum(1))
    return lambda w, x: x @ inner(w)


def array_outside(c):
    factors = np.ones((3, 2000))
    factors[1, 1000] = c
    return lambda w, x: x @ (w * jnp.asarray(factors).sum(1))


def constant_in_a_scan(c):
    factors = jnp.array([1.0, c])
    return lambda w, x: lax.scan(lambda h, i: (h * factors[i], None), x @ w, jnp.arange(2))[0]


def array_in_a_scan_body(c):
    array = np.full(3, c)
    return lambda w, x: lax.scan(lambda h, _: (h + x @ (array * w), None), x @ w, None, length=2)[0]


def constant_in_a_branch(c):
    array = jnp.full(3, c)
    return lambda w, x: lax.cond(w[0] < 100, lambda w: x @ (array * w), lambda w: x @ w, w)


def constant_in_a_checkpoint(c):
    array = jnp.full(3, c)
    return lambda w, x: jax.checkpoint(lambda w: jnp.sin(x @ (array * w)))(w)


def constant_in_a_loop(c):
    array = jnp.full(3, c)
    return lambda w, x: lax.fori_loop(0, 2, lambda i, h: h + x @ (array * w), x @ w)


def constant_in_a_derivative(c):
    product = jax.custom_jvp(lambda w, x: x @ w)
    product.defjvp(lambda primals, tangents: (product(*primals), c * (primals[1] @ tangents[0])))
    return lambda w, x: product(w, x)


def array_in_a_gradient(c):
    array = jnp.full(3, c)
    product = jax.custom_vjp(lambda w, x: x @ w)
    product.defvjp(lambda w, x: (x @ w, x), lambda x, ct: (array * (x.T @ ct), jnp.zeros_like(x)))
    return lambda w, x: product(w, x)


def residual_in_a_gradient(c):
    product = jax.custom_vjp(lambda w, x: x @ w)
    product.defvjp(lambda w, x: (x @ w, c * x), lambda x, ct: (x.T @ ct, jnp.zeros_like(x)))
    return lambda w, x: product(w, x)


def custom_values(c):
    """Only the values that the rule gives differ, which the later layer sees."""
    product = jax.custom_jvp(lambda w, x: c * (x @ w))
    product.defjvp(lambda primals, tangents: (product(*primals), primals[1] @ tangents[0]))
    return lambda w, x: product(w, x) ** 2


def key_of_random_numbers(c):
    return lambda w, x: x @ (w * jax.random.normal(jax.random.key(round(10 * c)), (3,)))


def vmapped(c):
    array = jnp.full(3, c)
    return lambda w, x: jax.vmap(lambda example: example @ (array * w))(x)


HIDDEN = [
    constant_in_jit,
    constant_in_jit_in_jit,
    array_in_jit,
    array_outside,
    constant_in_a_scan,
    array_in_a_scan_body,
    constant_in_a_branch,
    constant_in_a_checkpoint,
    constant_in_a_loop,
    constant_in_a_derivative,
    array_in_a_gradient,
    residual_in_a_gradient,
    custom_values,
    key_of_random_numbers,
    vmapped,
]


def per_example_kernel(apply_fn):
    phi = features(apply_fn, w, x)
    return phi @ phi.T


@pytest.mark.parametrize("network", HIDDEN)
def test_networks_that_differ_in_a_constant_are_told_apart(network, tmp_path):
    """Also where programs are shared, and where the folder has the blocks of one; the same network finds its own."""
    one, two, repeated = network(2.0), network(3.0), network(2.0)
    np.testing.assert_allclose(ntk(one, w, x), per_example_kernel(one), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ntk(two, w, x), per_example_kernel(two), rtol=1e-4, atol=1e-4)
    first = ntk(one, w, x, batch_size=2, cache=tmp_path)
    with pytest.raises(ValueError, match=r"^cache: expected blocks of this kernel"):
        ntk(two, w, x, batch_size=2, cache=tmp_path)
    np.testing.assert_array_equal(ntk(repeated, w, x, batch_size=2, cache=tmp_path), first)


def called_back(c):
    def scale(x):
        return np.asarray(c * x, x.dtype)

    def apply_fn(w, x):
        return jax.pure_callback(scale, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential") @ w

    return apply_fn


def called_back_in_a_rule(c):
    def scale(x):
        return np.asarray(c * x, x.dtype)

    product = jax.custom_vjp(lambda w, x: x @ w)

    def backward(x, ct):
        read = jax.pure_callback(scale, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")
        return read.T @ ct, jnp.zeros_like(x)

    product.defvjp(lambda w, x: (x @ w, x), backward)
    return lambda w, x: product(w, x)


@pytest.mark.parametrize("network", [called_back, called_back_in_a_rule])
def test_callbacks_are_right_or_refused(network, tmp_path):
    """What Python does within a callback cannot be read, so no block of it can be known again."""
    for c in (2.0, 3.0):
        np.testing.assert_allclose(ntk(network(c), w, x), c**2 * (x @ x.T), rtol=1e-4, atol=1e-5)
        try:
            kernel = ntk(network(c), w, x, batch_size=2, cache=tmp_path)
        except ValueError as error:
            assert str(error).startswith("cache: ")  # noqa: PT017 - either is right
        else:
            np.testing.assert_allclose(kernel, c**2 * (x @ x.T), rtol=1e-4, atol=1e-5)


def widened(w, x):
    """The function uses the default float type, whatever the type of its arguments."""
    return jnp.sin(x.astype(float) @ w.astype(float))


def widened_by_a_constant(w, x):
    return jnp.tanh(x * np.full(3, 0.1)) @ (w * np.arange(1.0, 4.0))


def linear_layer(w, x):
    return jnp.tanh(applied(nn.Dense(2), {"kernel": jnp.outer(w, w[:2]), "bias": w[:2]}, x)).sum(1)


NARROWER = [widened, widened_by_a_constant, linear_layer]


@pytest.mark.parametrize("wide_first", [False, True])
@pytest.mark.parametrize("way", [name for name in WAYS if name != "under jit"])
@pytest.mark.parametrize("apply_fn", NARROWER)
def test_the_default_types_at_an_earlier_call_do_not_matter(apply_fn, way, wide_first):
    def fresh(w, x):
        return apply_fn(w, x)

    def seen(w, x):
        return apply_fn(w, x)

    for wide in (wide_first, not wide_first):
        with jax.enable_x64(wide):
            kernel = np.asarray(WAYS[way](seen, w, x))
            double = [jnp.asarray(value, float) for value in (w, x)]
            exact = np.asarray(WAYS[way](seen, *double))
            phi = features(apply_fn, *double)
        assert exact.dtype == (np.float64 if wide else np.float32)
        np.testing.assert_allclose(kernel, phi @ phi.T, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(exact, phi @ phi.T, rtol=1e-12 if wide else 1e-5, atol=1e-12 if wide else 1e-5)
    with jax.enable_x64(not wide_first):
        fresh_kernel = np.asarray(WAYS[way](fresh, w, x))
    assert fresh_kernel.dtype == kernel.dtype
    np.testing.assert_array_equal(fresh_kernel, kernel)


def test_parameters_of_other_types_one_after_the_other():
    def apply_fn(w, x):
        return jnp.tanh(x @ w)

    with jax.enable_x64(True):
        for dtype, tolerance in (
            (jnp.float32, 1e-5),
            (jnp.bfloat16, 0.1),
            (jnp.float64, 1e-13),
            (jnp.float16, 0.01),
        ) * 2:
            cast = [value.astype(dtype) for value in (w, x)]
            phi = features(apply_fn, *(value.astype(float) for value in cast))
            np.testing.assert_allclose(
                np.asarray(ntk(apply_fn, *cast), float), phi @ phi.T, rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("precision", ["bfloat16", "float32", "highest", "tensorfloat32"])
def test_the_precision_of_one_call_is_not_kept_for_the_next(precision):
    def apply_fn(w, x):
        return jnp.tanh(x @ w)

    def other(w, x):
        return jnp.tanh(x @ w)

    with jax.default_matmul_precision(precision):
        ntk(apply_fn, w, x)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_array_equal(ntk(apply_fn, w, x), ntk(other, w, x))
    phi = features(apply_fn, w, x)
    np.testing.assert_allclose(ntk(apply_fn, w, x), phi @ phi.T, rtol=1e-5, atol=1e-5)
