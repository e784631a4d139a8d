"""The lines of docs/frameworks.md: results with other frameworks equal those with flax.linen."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gsjax import Ridge, SpectralDecoupling, dual, features, linearized, multiclass, starvation, tangent, training

N, INPUTS, WIDTH = 5, 3, 8
TIMES = (0.0, 1.0, 10.0)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(jnp.tanh(nn.Dense(WIDTH)(x)))[:, 0]


class Nnx(nnx.Module):
    """A network with dropout, whose key and counter are not parameters."""

    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(INPUTS, WIDTH, rngs=rngs), nnx.Linear(WIDTH, 1, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(jnp.tanh(self.hidden(x))))[:, 0]


def haiku_model(x):
    return hk.Linear(1)(jnp.tanh(hk.Linear(WIDTH)(x)))[:, 0]


MODELS = {
    "flax.nnx": lambda: Nnx(nnx.Rngs(0)),
    "Equinox": lambda: eqx.nn.MLP(INPUTS, "scalar", WIDTH, 1, jnp.tanh, key=jax.random.key(0)),
    "Haiku": lambda: haiku_model,
    "plain JAX": lambda: None,
}


def lines() -> dict[str, str]:
    """The code on the page for each framework."""
    text = (Path(__file__).parents[1] / "docs" / "frameworks.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return dict(part.split("\n", 1) for part in re.split(r"^# ", block, flags=re.MULTILINE) if part)


def problem() -> tuple[Any, Any, Any]:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(N, INPUTS)), np.where(np.arange(N) % 2, 1.0, -1.0)
    like = jax.eval_shape(Linen().init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), like), jnp.asarray(x), jnp.asarray(y)


def matching_params(variables: Any, params: Any) -> Any:
    """`params` with the values of the flax.linen network, matched by shape: its four leaves have different shapes."""
    leaves = [leaf for value in jax.tree.leaves(variables) for leaf in (value, value.T)]
    leaves = leaves + [value.reshape(1, WIDTH) for value in leaves if value.shape == (WIDTH, 1)]
    found = {leaf.shape: leaf for leaf in leaves}
    return jax.tree.map(lambda leaf: found[leaf.shape], params)


@functools.partial(jax.jit, static_argnums=0)
def network(apply_fn: Any, params: Any, x: Any, y: Any) -> dict[str, Any]:
    """Results computed from a network."""
    fitted = training.fit(apply_fn, params, x, y, Ridge(0.1), tolerance=1e-9)
    path = training.descend(apply_fn, params, x, y, SpectralDecoupling(0.1), step_size=0.01, steps=[0, 5])
    return {
        "kernel": tangent.ntk(apply_fn, params, x),
        "features": features.from_ntrf(tangent.ntrf(apply_fn, params, x), y).s,
        "operator": tangent.ntk_operator(apply_fn, params, x).mv(y),
        "fit": fitted.logits,
        "converged": fitted.converged,
        "descent": path.logits,
    }


@jax.jit
def theory(kernel: Any, y: Any) -> dict[str, Any]:
    """Results computed from its kernel."""
    penalty, feats = Ridge(0.1), features.from_ntk(kernel, y)
    classes = multiclass.from_ntk(kernel[:, :, None, None] * jnp.eye(2), jnp.arange(N) % 2)
    return {
        "strengths": feats.s,
        "equilibrium": dual.equilibrium(feats, penalty).alpha,
        "starvation": jnp.abs(starvation.matrix(feats, penalty)),
        "share": starvation.share(feats, penalty),
        "linearized": linearized.flow(feats, penalty, times=jnp.array(TIMES)).logits,
        "classes": classes.s,
    }


def chain(apply_fn: Any, params: Any, x: Any, y: Any) -> dict[str, Any]:
    found = network(apply_fn, params, x, y)
    return found | theory(found["kernel"], y)


@pytest.fixture(scope="module")
def expected():
    with jax.enable_x64(True):
        variables, x, y = problem()
        return chain(Linen().apply, variables, x, y)


@pytest.mark.parametrize("framework", MODELS)
def test_the_lines_of_the_page_and_all_results(framework, expected):
    with jax.enable_x64(True):
        variables, x, y = problem()
        given = {"eqx": eqx, "hk": hk, "jax": jax, "jnp": jnp, "nnx": nnx, "tangent": tangent}
        given |= {"model": MODELS[framework](), "x": x}
        exec(lines()[framework], given)
        assert given["kernel"].shape == (N, N)
        apply_fn, params = given["apply_fn"], matching_params(variables, given["params"])
        found = chain(apply_fn, params, x, y)
    assert found["converged"]
    for name, value in expected.items():
        tolerance = 1e-6 if name in ("fit", "linearized") else 1e-9
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def test_trained_parameters_go_back_into_the_model():
    """`fit` keeps the tree and its type float32, also for examples in float64."""
    with jax.enable_x64(True):
        _, x, y = problem()
        model = MODELS["flax.nnx"]()
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def apply_fn(params, x):
            return nnx.merge(graph, params, rest)(x)

        fitted = jax.jit(lambda params: training.fit(apply_fn, params, x, y, Ridge(0.1), max_steps=3))(params)
        before = model(x)
        nnx.update(model, fitted.params)
        assert {leaf.dtype for leaf in jax.tree.leaves(fitted.params)} == {jnp.dtype(jnp.float32)}
        np.testing.assert_allclose(model(x) - before, fitted.logits, rtol=1e-5)
