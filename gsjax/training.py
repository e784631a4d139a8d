"""Finite networks trained on Eqs. 5 and 17 of Pezeshki et al. (2021): to the optimum, and in the course of time.

Outputs and parameters are centred at initialisation, as in Eq. 3: with `theta_0` the parameters at the start,

    L(theta) = sum_i log(1 + exp(-y_i yhat_i)) + penalty(theta - theta_0, yhat),    yhat = f(theta) - f(theta_0),

a sum over examples, in nats (module `objectives`). Where the network is linear in its parameters, the minimum of L is what
`dual.equilibrium` solves for, and gradient descent follows `linearized.flow`.

`init` and `step` are the two halves of the optimiser, `fit` is the loop around them and `descend` is plain gradient
descent. None of them compiles anything by itself: wrap them in `jax.jit`, and over seeds in `jax.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree, Real

from gsjax import _check
from gsjax.objectives import Penalty, objective

ApplyFn = Callable[[Any, Any], Any]

_OPTIMIZER = optax.lbfgs(memory_size=20)


class State(NamedTuple):
    """What the optimiser carries from step to step.

    `params` as `apply_fn` takes them; `origin`, the same at initialisation, and `origin_logits (n,)`, the outputs
    there, about which everything is centred; `optimizer`, the state of optax.
    """

    params: PyTree
    origin: PyTree
    origin_logits: Float[Array, " n"]
    optimizer: Any


class Info(NamedTuple):
    """Of the new parameters: `objective`, the L above; `gradient_norm`, ||dL/dtheta||_2; and whether the line search was
    `stalled`, having found no better parameters along its direction."""

    objective: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    stalled: Bool[Array, ""]


class Fit(NamedTuple):
    """A trained network: `params`; its centred outputs `logits (n,)`; `objective` and `gradient_norm` there;
    `initial_gradient_norm`, in whose units the tolerance was; `iterations` of the optimiser; and `converged`."""

    params: PyTree
    logits: Float[Array, " n"]
    objective: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    initial_gradient_norm: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class Descent(NamedTuple):
    """The time course of training: `times (T,)`, centred outputs `logits (T, n)`, `objective (T,)`, and the last `params`."""

    times: Float[Array, " T"]
    logits: Float[Array, "T n"]
    objective: Float[Array, " T"]
    params: PyTree


def init(apply_fn: ApplyFn, params: PyTree, x: Real[Array, "n ..."], y: Real[Array, " n"], penalty: Penalty) -> State:
    x, y = _checked(apply_fn, params, x, y)
    trainable, _ = _split(params)
    origin = Origin(params, apply_fn(params, x))
    value, gradient = jax.value_and_grad(_loss(apply_fn, origin, x, y, penalty))(trainable)
    *rest, search = _OPTIMIZER.init(trainable)
    return State(params, origin, (*rest, search._replace(value=value, grad=gradient)))


def step(
    apply_fn: ApplyFn, state: State, x: Real[Array, "n ..."], y: Real[Array, " n"], penalty: Penalty
) -> tuple[State, Info]:
    loss = _loss(apply_fn, state.origin, jnp.asarray(x), jnp.asarray(y), penalty)
    trainable, join = _split(state.params)
    search = state.optimizer[-1]
    updates, optimizer = _OPTIMIZER.update(
        search.grad, state.optimizer, trainable, value=search.value, grad=search.grad, value_fn=loss
    )
    state = State(join(optax.apply_updates(trainable, updates)), state.origin, optimizer)
    return state, _info(state)


class Origin(NamedTuple):
    params: PyTree
    logits: Array


class State(NamedTuple):
    params: PyTree
    origin: Origin
    optimizer: Any


def _info(state):
    search = state.optimizer[-1]
    return Info(
        search.value,
        optax.tree.norm(search.grad),
        search.info.num_linesearch_steps,
        search.info.decrease_error,
        search.info.curvature_error,
        search.learning_rate,
    )


class Info(NamedTuple):
    objective: Any
    gradient_norm: Any
    ls: Any
    de: Any
    ce: Any
    lr: Any


def fit(apply_fn, params, x, y, penalty, *, tolerance=None, max_steps=1000, trace=False):
    state = init(apply_fn, params, x, y, penalty)
    info0 = _info(state)
    dtype = info0.gradient_norm.dtype
    tol = float(jnp.finfo(dtype).eps) ** 0.5 if tolerance is None else tolerance
    target = tol * info0.gradient_norm
    if trace:

        def body(state, _):
            state, info = step(apply_fn, state, x, y, penalty)
            return state, info

        return lax.scan(body, state, None, length=max_steps)

    def cond(c):
        state, k = c
        return (_info(state).gradient_norm > target) & (k < max_steps)

    def body(c):
        state, k = c
        return step(apply_fn, state, x, y, penalty)[0], k + 1

    state, k = lax.while_loop(cond, body, (state, 0))
    i = _info(state)
    return Fit(
        state.params,
        apply_fn(state.params, x) - state.origin.logits,
        i.objective,
        i.gradient_norm,
        info0.gradient_norm,
        k,
        i.gradient_norm <= target,
    )


def _loss(apply_fn, origin, x, y, penalty):
    start, join = _split(origin.params)

    def loss(trainable):
        logits = apply_fn(join(trainable), x) - origin.logits
        return objective(penalty, jax.tree.map(jnp.subtract, trainable, start), logits, y.astype(logits.dtype))

    return loss


def _split(params):
    if isinstance(params, Mapping) and "params" in params:
        return params["params"], lambda trainable: {**params, "params": trainable}
    return params, lambda trainable: trainable


def _checked(apply_fn, params, x, y):
    return jnp.asarray(x), jnp.asarray(y)
