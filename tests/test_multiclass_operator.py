"""Features, optimum and starvation of several classes by products with the kernel, against dense linear algebra."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.special import softmax

from gsjax import Ridge, SpectralDecoupling, dual, features, multiclass, networks, starvation, tangent
from gsjax.multiclass.matrix_free import cross_entropy as curve
from tests.operators import cross_entropy, hidden, kernel, optimum, slopes

N, K, TOP = 15, 3, 4
LABELS = np.random.default_rng(5).integers(0, K, N)


@pytest.mark.parametrize(("decades", "strength"), [(1, 5.0), (3, 0.1), (3, 1e-3)])
def test_products_versus_dense_algebra(decades, strength, x64):
    matrix, eps = kernel(N * K, decades), float(jnp.finfo(x64).eps)
    operator = hidden(matrix, x64, (N, K))
    feats = multiclass.from_operator(operator, LABELS, top=TOP)
    assert feats.u.shape == (N * K, TOP)
    np.testing.assert_allclose(feats.s2, np.linalg.eigvalsh(matrix)[: -TOP - 1 : -1], rtol=100 * eps)
    found = multiclass.equilibrium_from_operator(operator, LABELS, Ridge(strength), feats=feats)
    made = multiclass.starvation_from_operator(operator, LABELS, Ridge(strength), feats=feats, equilibrium=found)
    assert found.converged
    assert made.converged
    assert {found.logits.dtype, found.response.dtype, made.matrix.dtype} == {jnp.dtype(x64)}
    expected, u = optimum(matrix, strength, cross_entropy(LABELS, K)), np.asarray(feats.u, float)
    tolerance = 10 * eps ** (2 / 3) + eps * 10 / strength
    np.testing.assert_allclose(found.logits.ravel(), expected.outputs, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.response, u.T @ expected.outputs, rtol=10 * tolerance)
    np.testing.assert_allclose(made.matrix, slopes(matrix, strength, expected, u), rtol=20 * eps**0.5)


def test_it_is_the_block_of_the_whole_matrix():
    matrix, penalty = kernel(N * K, 1), Ridge(0.5)
    whole = multiclass.from_ntk(matrix.reshape(N, K, N, K).transpose(0, 2, 1, 3).astype(np.float32), LABELS)
    found = multiclass.starvation_from_operator(OPERATOR, LABELS, penalty, feats=FEATS)
    np.testing.assert_allclose(found.matrix, multiclass.starvation_matrix(whole, penalty)[:2, :2], rtol=1e-3)
    state = multiclass.equilibrium_from_operator(OPERATOR, LABELS, penalty, feats=FEATS)
    np.testing.assert_allclose(state.logits, multiclass.equilibrium(whole, penalty).logits, rtol=1e-4, atol=1e-5)


def test_vectors_of_the_same_entries_give_the_same():
    matrix = kernel(N * K, 1)
    found = []
    for shape in ((N, K), (N * K,)):
        operator = hidden(matrix, np.float32, shape)
        feats = multiclass.from_operator(operator, LABELS, top=2)
        state = multiclass.equilibrium_from_operator(operator, LABELS, Ridge(0.5), feats=feats)
        made = multiclass.starvation_from_operator(operator, LABELS, Ridge(0.5), feats=feats)
        found.append((feats.u, state.logits, made.matrix))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_network_versus_its_kernel():
    """As `features.held` makes a matrix of it, and by its own products."""
    n, network = 6, networks.MLP((4,), outputs=K)
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(n, 4))
        params = network.init(jax.random.key(1), x)
        operator = tangent.ntk_operator(network.apply, params, x)
        held = features.held(operator)
        assert isinstance(held, lx.MatrixLinearOperator)
        matrix, labels = np.asarray(operator.as_matrix()), LABELS[:n]
        own = lx.FunctionLinearOperator(operator.fn, operator.in_structure(), operator.tags, closure_convert=False)
        expected = optimum(matrix, 0.5, cross_entropy(labels, K))
        for given in (own, operator, held):
            feats = multiclass.from_operator(given, labels, top=TOP)
            found = multiclass.equilibrium_from_operator(given, labels, Ridge(0.5), feats=feats)
            made = multiclass.starvation_from_operator(given, labels, Ridge(0.5), feats=feats, equilibrium=found)
            np.testing.assert_allclose(found.logits.ravel(), expected.outputs, rtol=1e-8, atol=1e-9)
            entries = slopes(matrix, 0.5, expected, np.asarray(feats.u))
            np.testing.assert_allclose(made.matrix, entries, rtol=1e-6, atol=1e-9)


def test_two_classes_are_the_binary_case():
    """Outputs f of a binary task are logits (-f/2, f/2); the kernel of the logits has the blocks +-K/4."""
    n, penalty = 12, Ridge(0.3)
    matrix, y = kernel(n, 1), np.where(LABELS[:n] > 0, 1.0, -1.0)
    sides = np.array([-0.5, 0.5])
    logits = np.einsum("ij,a,b->iajb", matrix, sides, sides).reshape(2 * n, 2 * n)
    with jax.enable_x64(True):
        one, two = hidden(matrix, float), hidden(logits, float, (n, 2))
        feats = features.from_operator(one, y, top=2)
        binary = dual.equilibrium_from_operator(one, y, penalty, feats=feats)
        labels = (y > 0).astype(int)
        pairs = multiclass.from_operator(two, labels, top=2)
        found = multiclass.equilibrium_from_operator(two, labels, penalty, feats=pairs)
        made = multiclass.starvation_from_operator(two, labels, penalty, feats=pairs)
        single = starvation.matrix_from_operator(one, y, penalty, feats=feats)
    np.testing.assert_allclose(pairs.s, np.asarray(feats.s) / 2**0.5, rtol=1e-9)  # |(-1/2, 1/2)|^2 = 1/2
    np.testing.assert_allclose(np.asarray(found.logits) @ [-1, 1], y * np.asarray(binary.margins), rtol=1e-8)
    # With s'^2 = s^2 / 2, z' = z / sqrt(2), so that dz' / ds'^2 = sqrt(2) dz / ds^2.
    np.testing.assert_allclose(
        np.abs(np.asarray(found.response)), np.abs(np.asarray(binary.response)) / 2**0.5, rtol=1e-8
    )
    np.testing.assert_allclose(made.matrix, 2**0.5 * np.asarray(single.matrix), rtol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 3.0, 30.0])
def test_the_root_of_the_curvature_is_accurate_for_confident_outputs(margin):
    """Relative to each entry, at probabilities within 1e-13 of one."""
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(N, K))
    outputs[np.arange(N), LABELS] += margin
    apply, transpose = curve(LABELS, K).root(outputs.ravel())
    product = apply(transpose(np.eye(N * K))).reshape(N, K, N, K)
    for i, row in enumerate(outputs):
        p = softmax(row)
        expected = -np.outer(p, p)
        np.fill_diagonal(expected, 0)
        expected -= np.diag(expected.sum(axis=1))  # rows of diag(p) - p p^T sum to zero
        np.testing.assert_allclose(product[i, :, i], expected, rtol=1e-12)
    vector, other = rng.normal(size=(2, N * K))
    np.testing.assert_allclose(apply(vector) @ other, vector @ transpose(other), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(curve(LABELS, K).dual(outputs.ravel()).reshape(N, K).sum(axis=1), 0, atol=1e-16)


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 1e3])
def test_decoupling_solves_the_equations_of_each_example(scale):
    rng = np.random.default_rng(1)
    strength, target = scale * np.exp(rng.normal(size=N * K)), rng.normal(size=N * K)
    with jax.enable_x64(True):
        operator = hidden(kernel(N * K, 1), float, (N, K))
        feats = multiclass.from_operator(operator, LABELS, top=2)
        penalty = SpectralDecoupling(jnp.asarray(strength), jnp.asarray(target))
        found = multiclass.equilibrium_from_operator(operator, LABELS, penalty, feats=feats)
        made = multiclass.starvation_from_operator(operator, LABELS, penalty, feats=feats, equilibrium=found)
    assert (found.converged, found.decoupled, found.products, made.products) == (True, True, 0, 0)
    assert not np.any(made.matrix)
    outputs = np.asarray(found.logits)
    pull = np.eye(K)[LABELS] - softmax(outputs, axis=1)
    np.testing.assert_allclose(strength * (outputs.ravel() - target), pull.ravel(), rtol=1e-7, atol=1e-13)
    np.testing.assert_allclose(found.response, np.asarray(feats.u).T @ outputs.ravel(), rtol=1e-10)


def test_what_is_not_known_to_the_tolerance_is_said():
    operator, penalty = hidden(kernel(N * K, 3), np.float32, (N, K)), Ridge(0.01)
    feats = multiclass.from_operator(operator, LABELS, top=TOP)
    few = multiclass.equilibrium_from_operator(operator, LABELS, penalty, feats=feats, max_products=5)
    assert not few.converged
    for options in ({"equilibrium": few}, {"max_products": 12}, {"tolerance": 1e-14}):
        made = multiclass.starvation_from_operator(operator, LABELS, penalty, feats=feats, **options)
        assert not made.converged
        assert np.isnan(made.matrix).all()


OPERATOR = hidden(kernel(N * K, 1), np.float32, (N, K))
FEATS = multiclass.from_operator(OPERATOR, LABELS, top=2)
SIX = hidden(np.eye(6), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": lx.MatrixLinearOperator(jnp.eye(N * K))}, "operator: expected a lineax operator that is tagged"),
        ({"operator": hidden(np.eye(N), np.float32, (N, 1))}, r"operator: expected one on outputs \(n, k\)"),
        ({"operator": hidden(np.eye(N), np.float32)}, r"operator: expected one on outputs \(n, k\)"),
        ({"operator": hidden(np.eye(N * K + 1), np.float32)}, r"operator: expected one on outputs \(n, k\)"),
        ({"operator": hidden(np.eye(N * K), np.float32, (N, 3, 1))}, r"operator: expected one on outputs \(n, k\)"),
        ({"labels": LABELS[1:]}, r"labels: expected integers of shape \(15,\)"),
        ({"labels": LABELS + 1}, r"labels: expected class indices in 0..2, got"),
        ({"labels": LABELS * 1.0}, "labels: expected integers"),
    ],
)
def test_what_all_functions_refuse(change, message):
    arguments = {"operator": OPERATOR, "labels": LABELS} | change
    with pytest.raises(ValueError, match=message):
        multiclass.from_operator(**arguments, top=2)
    for function in (multiclass.equilibrium_from_operator, multiclass.starvation_from_operator):
        with pytest.raises(ValueError, match=message):
            function(**arguments, penalty=Ridge(1.0), feats=FEATS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feats": FEATS.unlabelled()}, "feats: expected gsjax.multiclass.Features"),
        ({"feats": FEATS._replace(labels=jnp.asarray(LABELS[::-1]))}, "feats: expected features of these 15 examples"),
        ({"feats": multiclass.from_operator(SIX, np.array([0, 1]), top=1)}, "feats: expected features of these 15"),
        (
            {"feats": FEATS._replace(u=jnp.eye(N * K, dtype=jnp.float32)[:, :2])},
            "feats: expected features of this operator, got a relative residual of",
        ),
        ({"penalty": 0.1}, "penalty: expected"),
        ({"penalty": SpectralDecoupling(jnp.ones(N))}, "penalty.strength: expected"),
        ({"tolerance": 0.0}, "tolerance: expected a finite positive number"),
        ({"max_products": 0}, "max_products: expected a whole number"),
    ],
)
@pytest.mark.parametrize("function", [multiclass.equilibrium_from_operator, multiclass.starvation_from_operator])
def test_what_the_solvers_refuse(function, change, message):
    arguments = {"operator": OPERATOR, "labels": LABELS, "penalty": Ridge(1.0), "feats": FEATS} | change
    with pytest.raises(ValueError, match=message):
        function(**arguments)


def test_an_equilibrium_of_something_else_is_refused():
    other = multiclass.equilibrium_from_operator(OPERATOR, LABELS, SpectralDecoupling(0.1), feats=FEATS)
    for change in ({"logits": other.logits[1:]}, {"response": other.response[1:]}):
        with pytest.raises(ValueError, match="equilibrium: expected logits and responses of shapes"):
            multiclass.starvation_from_operator(
                OPERATOR, LABELS, Ridge(1.0), feats=FEATS, equilibrium=other._replace(**change)
            )
