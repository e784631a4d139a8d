"""Without the matrix of the kernel, a diagnosis has the same numbers."""

# pyright: reportArgumentType=false
from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, SpectralDecoupling, diagnose
from gsjax.features import products
from tests.diagnosis.problem import N, centred, problem

RIDGE = Ridge(1.0)


@pytest.fixture(scope="module", params=[None, 3], ids=["binary", "classes"])
def both(request):
    """The report of each path; the kernel is never held as a matrix on the second."""
    with jax.enable_x64(True):
        params, x, y, group = problem(classes=request.param)
        apply_fn = centred(params)
        given = {"penalty": RIDGE, "top": 4, "group": group}
        given["trained_params"] = jax.tree.map(lambda leaf: 1.01 * leaf, params)
        exact = diagnose(apply_fn, params, x, y, path="exact", **given)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "_HELD", 0)
            operator = diagnose(apply_fn, params, x, y, path="operator", **given)
    return exact, operator


def test_the_paths_agree(both):
    exact, operator = both
    assert (exact.path, operator.path) == ("exact", "operator")
    np.testing.assert_allclose(operator.s, exact.s, rtol=1e-9)
    np.testing.assert_allclose(operator.response, exact.response, rtol=1e-6)
    size = np.abs(exact.starvation).max()
    np.testing.assert_allclose(operator.starvation, exact.starvation, rtol=1e-5, atol=1e-7 * size)
    np.testing.assert_allclose(operator.confidence, exact.confidence, rtol=1e-7)
    np.testing.assert_allclose(operator.size, exact.size, rtol=1e-7)
    np.testing.assert_allclose(operator.alignment.group, exact.alignment.group, rtol=1e-6)
    np.testing.assert_allclose(operator.stability.overlap, exact.stability.overlap, rtol=1e-6)
    np.testing.assert_array_equal(operator.stability.agreement, exact.stability.agreement)
    np.testing.assert_allclose(operator.trained.error, exact.trained.error, rtol=1e-6)
    np.testing.assert_allclose(operator.trained.kernel.relative, exact.trained.kernel.relative, rtol=1e-9)
    np.testing.assert_allclose(operator.decoupling.response, exact.decoupling.response, rtol=1e-6)
    assert [(pair.starver, pair.starved) for pair in operator.pairs] == [
        (pair.starver, pair.starved) for pair in exact.pairs
    ]
    for first, second in zip(operator.pairs, exact.pairs, strict=True):
        np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(operator.examples.rows, exact.examples.rows)


def test_it_says_what_it_did_and_does_not_know(both):
    _, operator = both
    assert operator.rank is None
    assert operator.share is None
    assert operator.decoupling.assumed
    assert "assumed_rank" in {caution.code for caution in operator.cautions}
    assert "without the kernel" in operator.notes[0]
    assert "products" in operator.notes[1]
    assert "rank not computed" in str(operator)
    assert "of all" not in str(operator)


def test_auto_takes_the_operator_path_for_many_outputs(monkeypatch):
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        assert diagnose(centred(params), params, x, y, penalty=RIDGE, top=4).path == "exact"
        monkeypatch.setattr("gsjax.diagnosis.front.EXACT", N - 1)
        found = diagnose(centred(params), params, x, y, penalty=RIDGE, top=4)
    assert found.path == "operator"
    assert "a matrix that was held" in found.notes[0]


def test_the_movement_of_the_kernel_is_that_of_a_subset(monkeypatch):
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        monkeypatch.setattr("gsjax.diagnosis.front._DRIFT", 12)
        moved = jax.tree.map(lambda leaf: 1.01 * leaf, params)
        found = diagnose(centred(params), params, x, y, penalty=RIDGE, top=4, trained_params=moved, path="operator")
    assert found.trained is not None
    assert found.trained.kernel.examples == 12
    assert any("12 random examples" in note for note in found.notes)


def test_spectral_decoupling_assumes_full_rank():
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        penalty = SpectralDecoupling(0.1)
        exact = diagnose(centred(params), params, x, y, penalty=penalty, top=4)
        found = diagnose(centred(params), params, x, y, penalty=penalty, top=4, path="operator")
    np.testing.assert_allclose(found.response, exact.response, rtol=1e-7)
    assert found.decoupling is None
    assert any("assumes full row rank" in note for note in found.notes)
    assert any("was not computed" in note for note in found.notes)


def test_a_kernel_of_low_rank_has_fewer_features():
    with jax.enable_x64(True):
        x, y = np.random.default_rng(0).normal(size=(N, 3)), np.where(np.arange(N) % 2, 1, -1)
        found = diagnose(lambda w, x: x @ w, jnp.zeros(3), x, y, penalty=RIDGE, top=6, path="operator")
    assert found.rank == len(found.s) == 3
    assert "rank" in {caution.code for caution in found.cautions}


def test_too_few_products_are_refused_by_name():
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        with pytest.raises(ValueError, match=r"^max_products: expected"):
            diagnose(centred(params), params, x, y, penalty=RIDGE, top=4, path="operator", max_products=2)
