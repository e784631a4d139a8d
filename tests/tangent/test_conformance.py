"""Every way to the kernel gives the same numbers on every architecture, and layers are recognised."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from gsjax.tangent import ntk
from gsjax.tangent.calls import check_call, trainable
from gsjax.tangent.gradients import gradients
from gsjax.tangent.products import leaves
from gsjax.tangent.programs import shaped

from .architectures import CASES

cases = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
N = 6


def gram_of_derivatives(apply_fn, params, x):
    """By JAX alone: our own features are evaluated from the same program as our kernels."""
    tree, rebuild = trainable(params)
    blocks = jax.tree.leaves(jax.jit(jax.jacrev(lambda tree: apply_fn(rebuild(tree), x)))(tree))
    outputs = jax.eval_shape(lambda: apply_fn(params, x)).shape
    phi = np.concatenate([np.asarray(block).reshape(*outputs, -1) for block in blocks], axis=-1)
    return phi @ phi.T if phi.ndim == 2 else np.einsum("akm,blm->abkl", phi, phi)


def as_matrix(kernel):
    return kernel if kernel.ndim == 2 else kernel.transpose(0, 2, 1, 3).reshape(N * kernel.shape[2], -1)


@cases
def test_structured_versus_the_gram_matrix_of_derivatives(case):
    with jax.enable_x64(True):
        apply_fn, params, x = case.problem(N)
        expected = gram_of_derivatives(apply_fn, params, x)
        kernel = np.asarray(ntk(apply_fn, params, x, method="structured", batch_size=3))
        scale = np.abs(expected).max()
        assert kernel.shape == expected.shape
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-13 * scale)

        matrix = as_matrix(kernel)
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix)[0] > -1e-13 * scale * len(matrix)


@pytest.mark.parametrize("name", ["mlp", "cnn of two outputs", "residual", "attention", "tokens"])
def test_structured_versus_jacobian_in_single_precision(name):
    apply_fn, params, x = CASES[name].problem(N, seed=1)
    expected = ntk(apply_fn, params, x, method="jacobian")
    kernel = np.asarray(ntk(apply_fn, params, x))
    np.testing.assert_array_equal(as_matrix(kernel), as_matrix(kernel).T)
    assert kernel.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@cases
def test_all_parameters_that_act_in_layers_alone_are_found(case):
    apply_fn, params, x = case.problem(N)
    found = leaves(gradients(apply_fn, params, x, check_call(apply_fn, params, x, "x")))
    assert sum(shaped(leaf.gradient).size for leaf in found if not leaf.structured) == case.rest
