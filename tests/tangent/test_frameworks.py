"""Networks of other frameworks: their kernels are those of the same network in flax.linen, and so are the features."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gsjax.tangent import ntk, ntrf
from tests.frameworks import OTHERS, in_linen
from tests.frameworks.networks import NETWORKS

N = 5


# What the others have as well.
SLOW = ("cnn", "recurrent", "strided", "layer norm", "attention", "tokens")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS],
)
def reference(request):
    """A network, its variables in flax.linen, examples, and its kernel and features there."""
    network = NETWORKS[request.param]
    with jax.enable_x64(True):
        x, variables = network.examples(N), in_linen.draw_variables(network)
        apply_fn, params = in_linen.build(network, variables)
        phi = np.asarray(jax.jit(ntrf, static_argnums=0)(apply_fn, params, x))
        return network, variables, x, phi @ phi.T if phi.ndim == 2 else np.einsum("akm,blm->abkl", phi, phi), phi


@pytest.mark.parametrize("framework", OTHERS.values(), ids=list(OTHERS))
def test_the_same_kernel_and_the_same_features_as_in_linen(reference, framework):
    network, variables, x, kernel, phi = reference
    with jax.enable_x64(True):
        apply_fn, params = framework(network, variables)
        # Where each parameter has come from: in the layout of the framework, but the numbers of the columns.
        theta, unravel = ravel_pytree(variables["params"])
        numbers = {**variables, "params": unravel(jnp.arange(theta.size, dtype=theta.dtype))}
        columns = ravel_pytree(framework(network, numbers)[1])[0].astype(int)
        np.testing.assert_array_equal(np.sort(columns), np.arange(theta.size))

        found = jax.jit(lambda params, x: (ntk(apply_fn, params, x), ntrf(apply_fn, params, x)))(params, x)
        for value, expected in zip(found, (kernel, phi[..., columns]), strict=True):
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
