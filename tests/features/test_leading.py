"""The leading features of a kernel operator: products, tolerances, repeated strengths and bad input."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from gsjax import features
from gsjax.networks import MLP
from gsjax.tangent import ntk
from gsjax.tangent.operator import TangentKernel, ntk_operator
from tests.instances import ROUNDING, orthogonal


def as_operator(kernel, *, tags: object = lx.positive_semidefinite_tag) -> lx.MatrixLinearOperator:
    return lx.MatrixLinearOperator(jnp.asarray(kernel, float), tags)


def counted(operator):
    """The same operator, and a list that grows by one entry per product."""
    calls = []

    def product(v):
        jax.debug.callback(lambda: calls.append(None))
        return operator.mv(v)

    tags = lx.positive_semidefinite_tag
    return lx.FunctionLinearOperator(product, operator.in_structure(), tags, closure_convert=False), calls


def test_leading_features_of_a_network_are_those_of_its_kernel():
    network, n, top = MLP((16,), activation="tanh"), 200, 4
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (n, 6)) * np.arange(1, 7)
        y = np.where(x[:, 0] > 0, 1, -1)
        variables = jax.jit(network.init)(jax.random.key(1), x)
        feats = features.from_operator(ntk_operator(network.apply, variables, x), y, top=top)
        expected = features.from_ntk(jax.jit(ntk, static_argnums=0)(network.apply, variables, x), y)
    assert feats.rank == top
    assert feats.vt is None
    np.testing.assert_array_equal(feats.y, y)
    np.testing.assert_allclose(feats.s2, expected.s2[:top], rtol=1e-10)
    u, leading = np.asarray(feats.u), np.asarray(expected.u)[:, :top]
    np.testing.assert_allclose(u.T @ u, np.eye(top), atol=1e-12)
    np.testing.assert_allclose(u @ u.T, leading @ leading.T, atol=1e-6)


def test_krylov_spaces_grow_until_the_tolerance_is_met():
    n, top, tolerance = 300, 4, 1e-6
    with jax.enable_x64(True):
        # Strengths so close that the first Krylov space does not resolve them.
        s2 = np.linspace(2, 1, n)
        operator, calls = counted(lx.DiagonalLinearOperator(jnp.asarray(s2)))
        feats = features.from_operator(operator, np.ones(n), top=top, tolerance=tolerance)
        jax.effects_barrier()
        # Each space and the vectors found in it; then a space of up to half the dimension as a check for missed ones.
        assert 68 + top + 136 + top + 17 <= len(calls) <= 68 + top + 136 + top + 68
        for most, found in (
            (71, "none are resolved yet"),
            (200, r"\d are resolved after 72, the largest relative residual is"),
            (280, "they are resolved after 212, but"),
        ):
            with pytest.raises(ValueError, match=rf"^max_products: expected \d+ or more, .*, got {most}; {found}"):
                features.from_operator(operator, np.ones(n), top=top, tolerance=tolerance, max_products=most)
    residual = np.linalg.norm((s2[:, None] - np.asarray(feats.s2)) * np.asarray(feats.u), axis=0)
    assert np.all(residual <= tolerance * np.asarray(feats.s2))
    np.testing.assert_allclose(feats.s2, s2[:top], rtol=1e-10)


@pytest.mark.parametrize("top", [1, 5])
def test_fast_decay_needs_few_products(x64, top):
    """Strengths that decay fast take a few products per feature, and about 20 to check that none was missed."""
    n = 500
    s2 = np.asarray(0.7 ** np.arange(n), x64)
    operator, calls = counted(lx.DiagonalLinearOperator(jnp.asarray(s2)))
    feats = features.from_operator(operator, np.ones(n), top=top)
    jax.effects_barrier()
    assert len(calls) < (50 if x64 == jnp.float32 else 70) < 2 * top + 60 + top + top + 30
    np.testing.assert_allclose(feats.s2, s2[:top], rtol=10 * float(jnp.finfo(x64).eps))


@pytest.mark.parametrize("excess", [1.02, 1.1, 3.0])
@pytest.mark.parametrize("top", [1, 3])
def test_a_second_start_finds_a_repeated_strength(x64, excess, top):
    """Repeated strengths barely above a dense spectrum of n strengths."""
    n = 2000
    s2 = np.linspace(1, 0, n)
    s2[: 2 * top] = excess + np.repeat(np.arange(top)[::-1], 2)
    feats = features.from_operator(lx.DiagonalLinearOperator(jnp.asarray(s2, x64)), np.ones(n), top=2 * top)
    np.testing.assert_allclose(feats.s2, s2[: 2 * top], rtol=1e-5)


@pytest.mark.parametrize(("scale", "held"), [(1.0, True), (1e-14, False), (1e19, False), (1e-18, False)])
def test_the_kernel_of_a_network_is_stored_if_its_entries_are_normal(scale, held):
    """A stored kernel makes no products with the network; otherwise products are made, and scaled."""
    made = []

    def product(v):
        jax.debug.callback(lambda: made.append(None))
        return operator.mv(v)

    def linear(w, x):
        return scale * (x @ w)

    x = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    operator = ntk_operator(linear, jnp.zeros(5), x)
    known = TangentKernel(product, operator.in_structure(), operator.program, operator.given, operator.x)
    feats = features.from_operator(known, np.ones(300), top=2)
    jax.effects_barrier()
    assert (not made) == held
    expected = np.linalg.svd(x.astype(float), compute_uv=False)[:2]
    np.testing.assert_allclose(np.asarray(feats.s, float), scale * expected, rtol=1e-5)


U, V = (orthogonal(np.random.default_rng(0), n) for n in (300, 30))
POINTS = np.random.default_rng(1).standard_normal((300, 12))
COPIES = np.repeat(POINTS[:10], 30, axis=0)


@pytest.mark.parametrize(
    ("kernel", "rank"),
    [
        ((U[:, :10] * [5, 5, 5, 4, 4, 3, 1.5, 1, 0.9, 0.5]) @ U[:, :10].T, 6),
        (2 * np.eye(300), 6),
        (COPIES @ COPIES.T, 6),
        (POINTS[:, :4] @ POINTS[:, :4].T, 4),
    ],
    ids=["repeated strengths", "one strength", "copies", "low rank"],
)
def test_an_exhausted_krylov_space_hides_no_feature(x64, kernel, rank):
    """In exact arithmetic its dimension is the number of different strengths."""
    y = np.random.default_rng(2).choice([-1, 1], 300)
    feats = features.from_operator(as_operator(kernel), y, top=6)
    assert feats.rank == rank
    assert {leaf.dtype for leaf in (feats.u, feats.s, feats.y)} == {jnp.dtype(x64)}
    tolerance, s2, u = ROUNDING[x64], np.asarray(feats.s2), y[:, None] * np.asarray(feats.u)
    np.testing.assert_allclose(s2, np.linalg.eigvalsh(kernel)[: -rank - 1 : -1], rtol=tolerance)
    np.testing.assert_allclose(kernel @ u, u * s2, atol=tolerance * s2[0])
    np.testing.assert_allclose(u.T @ u, np.eye(rank), atol=tolerance)


@pytest.mark.parametrize(
    ("scale", "expected"), [(0, "at least one feature"), (-1, "a positive semi"), (np.nan, "finite")]
)
def test_an_operator_that_is_not_a_kernel_is_refused(scale, expected):
    with pytest.raises(ValueError, match=f"^operator: expected {expected}"):
        features.from_operator(as_operator(scale * np.eye(300)), np.ones(300), top=6)


@pytest.mark.parametrize("n", [20, 300])
@pytest.mark.parametrize("exponent", [-290, -30, -18, -16, 0, 30, 37, 290])
def test_leading_features_do_not_depend_on_the_scale(x64, exponent, n):
    scale = 10.0**exponent
    if not float(jnp.finfo(x64).tiny) < scale < float(jnp.finfo(x64).max):
        return  # not representable in this type
    s2 = np.asarray(scale / np.arange(1, n + 1), x64)
    feats = features.from_operator(as_operator(np.diag(s2)), np.ones(n), top=3)
    tolerance = 10 * float(jnp.finfo(x64).eps)
    np.testing.assert_allclose(np.asarray(feats.s, float), np.sqrt(s2[:3].astype(float)), rtol=tolerance)
    np.testing.assert_allclose(np.abs(feats.u[:3]), np.eye(3), atol=ROUNDING[x64])


@pytest.mark.parametrize("scale", [1e-36, 1e-38, 1e-40])
def test_features_below_the_normal_numbers_are_refused(scale):
    kernel = np.diag(scale / np.arange(1, 301))
    with pytest.raises(ValueError, match=r"^operator: expected (3 features whose strengths are normal|at least one)"):
        features.from_operator(as_operator(kernel), np.ones(300), top=3)


def test_strengths_that_the_precision_does_not_resolve_are_refused():
    kernel = (V * 100.0 ** -np.arange(30)) @ V.T
    operator = as_operator(kernel)
    assert features.from_operator(operator, np.ones(30), top=2).rank == 2
    with pytest.raises(
        ValueError, match=r"^top: expected features that float32 resolves .*, got 3; 1 are resolved after 30, "
    ):
        features.from_operator(operator, np.ones(30), top=3, tolerance=1e-6)


ONES, EYE = np.ones(2), np.eye(2)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("operator", lambda: features.from_operator(EYE, ONES, top=1)),
        ("operator", lambda: features.from_operator(as_operator(EYE, tags=()), ONES, top=1)),
        ("operator", lambda: features.from_operator(lx.IdentityLinearOperator(EYE), ONES, top=1)),
        ("operator", lambda: features.from_operator(as_operator(-EYE), ONES, top=1)),
        ("operator", lambda: features.from_operator(as_operator(np.diag([1, -0.1])), ONES, top=1)),
        ("operator", lambda: features.from_operator(as_operator(np.zeros((2, 2))), ONES, top=1)),
        ("operator", lambda: features.from_operator(as_operator(EYE * np.nan), ONES, top=1)),
        ("operator", lambda: jax.jit(lambda k: features.from_operator(as_operator(k), ONES, top=1).s)(EYE)),
        ("y", lambda: features.from_operator(as_operator(EYE), np.ones(3), top=1)),
        ("y", lambda: features.from_operator(as_operator(EYE), np.array([1, 0]), top=1)),
        ("top", lambda: features.from_operator(as_operator(EYE), ONES, top=0)),
        ("top", lambda: features.from_operator(as_operator(EYE), ONES, top=3)),
        ("top", lambda: features.from_operator(as_operator(EYE), ONES, top=True)),
        ("operator", lambda: features.from_operator(lx.DiagonalLinearOperator(jnp.ones(2, jnp.float16)), ONES, top=1)),
        ("tolerance", lambda: features.from_operator(as_operator(EYE), ONES, top=1, tolerance=0.0)),
        ("max_products", lambda: features.from_operator(as_operator(EYE), ONES, top=1, max_products=1)),
    ],
)
def test_bad_input_is_named(x64, argument, call):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        call()
