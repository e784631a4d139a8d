"""Derivatives of the kernels of networks with derivative rules of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gsjax.tangent import ntk
from tests.tangent.derivatives import N, check, normal


def rule_that_calls_its_function(p, x):
    activation = jax.custom_jvp(jnp.sin)
    activation.defjvp(lambda primals, tangents: (activation(*primals), activation(*primals) * tangents[0]))
    return activation(activation(x @ p["w"]) @ p["v"])


def rule_of_a_gradient(p, x):
    activation = jax.custom_vjp(jnp.sin)
    activation.defvjp(lambda h: (activation(h), activation(h)), lambda kept, ct: (jnp.tanh(kept) * ct,))
    return activation(x @ p["w"]) @ p["v"]


def safe_root(p, x):
    """A function whose derivative rule in JAX avoids infinities in second derivatives."""
    return jax.nn.relu(x @ p["w"]) @ p["v"] + jax.nn.logsumexp(x @ p["w"], -1) + jax.nn.silu(x @ p["w"]).sum(-1)


def fixed_point(p, x):
    """A root, with its derivative by the implicit function theorem."""
    drive = jnp.tanh(x @ p["w"])

    def newton(function, start):
        return lax.fori_loop(0, 30, lambda _, z: z - function(z) / (1 + 0.5 * jnp.cos(z)), start)

    return (
        lax.custom_root(lambda z: z + 0.5 * jnp.sin(z) - drive, drive, newton, lambda g, y: y / g(jnp.ones_like(y)))
        @ p["v"]
    )


RULES = [rule_that_calls_its_function, rule_of_a_gradient, safe_root, fixed_point]


@pytest.mark.parametrize("apply_fn", RULES)
def test_derivatives_of_kernels_of_networks_with_rules(apply_fn):
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(normal(3, 3)), "v": jnp.asarray(normal(3))}
        x, factor = jnp.asarray(normal(N, 3)), normal(N, N)
        check(apply_fn, params, x)

        def by_rows(params):
            rows = [jax.jacrev(lambda p, e: apply_fn(p, e[None])[0])(params, example) for example in x]
            phi = jnp.stack([jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(row)]) for row in rows])
            return (factor * (phi @ phi.T)).sum()

        expected = jax.jit(jax.grad(by_rows))(params)
        found = jax.jit(jax.grad(lambda params: (factor * ntk(apply_fn, params, x)).sum()))(params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected)
