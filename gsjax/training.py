r"""Training of finite networks on Eqs. 5 and 17 of Pezeshki et al. (2021): to the optimum, or by gradient descent.

Outputs and parameters are centred at their values at initialisation, theta_0, as in Eq. 3:

.. math::

    L(\theta) = \sum_i \log(1 + \exp(-y_i \hat y_i)) + \text{penalty}(\theta - \theta_0, \hat y),
    \qquad \hat y = f(\theta) - f(\theta_0),

a sum over examples, in nats (module `objectives`). For a network that is linear in its parameters, `dual.equilibrium`
computes the minimum of L, and gradient descent follows `linearized.flow`.

`init` and `step` are the optimiser, `fit` is the loop around them, and `descend` is plain gradient descent. Each is one
program under `jax.jit`; without it, every call compiles again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from gsjax import _check
from gsjax.objectives import Penalties, Ridge, objective, per_example
from gsjax.tangent.calls import check_problem, trainable

__all__ = ["ApplyFn", "Descent", "Fit", "Info", "Origin", "State", "descend", "fit", "init", "step"]

ApplyFn = Callable[[Any, Any], Any]

# Twice the usual memory saves a third of the iterations for ill-conditioned kernels. Its inner products are cheap
# compared with the gradient on the full batch.
_OPTIMIZER = optax.lbfgs(memory_size=20)

# Rounding makes conjugate gradients lose orthogonality, mostly in float32. Progress can then be small for many
# iterations before a weak direction is found. A shorter window would mistake this for convergence.
_RECENT = 100
_MAX_CONJUGATE = 300


class Origin(NamedTuple):
    """The starting point of training: `params`, and the outputs `logits (n,)` there."""

    params: PyTree
    logits: Float[Array, " n"]


class State(NamedTuple):
    """The state that training carries from step to step.

    It consists of the `params` for `apply_fn`, the `origin` at which everything is centred, and the state of the
    `optimizer`.
    """

    params: PyTree
    origin: Origin
    optimizer: Any


class Info(NamedTuple):
    """Diagnostics of a state.

    `objective` is L and `gradient_norm` is ||dL/dtheta||_2, both at the params of the state. `evaluations` counts the
    evaluations of L and its gradient in the last line search.
    """

    objective: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    evaluations: Int[Array, ""]


class Fit(NamedTuple):
    """A trained network.

    It has the final `params`, with the centred outputs `logits (n,)`, `objective` and `gradient_norm` there; the
    `initial_gradient_norm`, to which the tolerance is relative; the number of `iterations`; and whether training
    `converged`, as defined in `fit`.
    """

    params: PyTree
    logits: Float[Array, " n"]
    objective: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    initial_gradient_norm: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class Descent(NamedTuple):
    """The trajectory of gradient descent.

    At the recorded steps it has `times (T,)`, centred outputs `logits (T, n)` and `objective (T,)`. `params` and the
    number of `steps` are those of the end, which is later than the last record if the descent continued. `converged`
    tells whether the gradient norm fell to at most `tolerance` of the initial one; it is False without a `tolerance`.
    """

    times: Float[Array, " T"]
    logits: Float[Array, "T n"]
    objective: Float[Array, " T"]
    params: PyTree
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


class _Conjugate(NamedTuple):
    """The state of conjugate gradients for a Newton step.

    `direction (m,)` is the search direction and `size` the squared norm of the residual. `force (n,)` and `drift (m,)`
    are the remaining parts of the residual, from the outputs and from ridge. `change (n,)` is the change of the outputs
    by the Newton step, and `energy` its squared norm nu^2. `recent` are the contributions of the last iterations to it.
    """

    direction: Float[Array, " m"]
    size: Float[Array, ""]
    force: Float[Array, " n"]
    drift: Float[Array, " m"]
    change: Float[Array, " n"]
    energy: Float[Array, ""]
    recent: Float[Array, " d"]
    iterations: Int[Array, ""]


def init(apply_fn: ApplyFn, params: PyTree, x: Real[Array, "n ..."], y: Real[Array, " n"], penalty: Penalties) -> State:
    """The state of training at `params`, which become the origin. Arguments and errors are those of `fit`.

    >>> from gsjax.objectives import Ridge
    >>> state = init(lambda w, x: x @ w, jnp.zeros(2), jnp.eye(2), jnp.ones(2), Ridge(1.0))
    >>> state.origin.logits.tolist()
    [0.0, 0.0]
    """
    x, y = check_problem(apply_fn, params, x, y)
    origin = Origin(params, apply_fn(params, x))
    theta, _ = _ravel(params)
    state = State(params, origin, _OPTIMIZER.init(theta))
    # In optax the first evaluation is a branch of the step, and `vmap` would run both branches in every step.
    value, grad = jax.value_and_grad(_loss(apply_fn, origin, x, y, penalty))(theta)
    *rest, search = state.optimizer
    return state._replace(optimizer=(*rest, search._replace(value=value, grad=grad)))


def step(
    apply_fn: ApplyFn, state: State, x: Real[Array, "n ..."], y: Real[Array, " n"], penalty: Penalties
) -> tuple[State, Info]:
    """One step of L-BFGS with a zoom line search (Nocedal and Wright 2006, Algorithms 7.4 and 3.5).

    `state` comes from `init` or an earlier step, with the same x `(n, ...)`, y `(n,)` and `penalty`.

    >>> from gsjax.objectives import Ridge
    >>> x, y = jnp.eye(2), jnp.ones(2)
    >>> state = init(lambda w, x: x @ w, jnp.zeros(2), x, y, Ridge(1.0))
    >>> state, info = step(lambda w, x: x @ w, state, x, y, Ridge(1.0))
    >>> bool(info.objective < 2 * jnp.log(2))
    True
    """
    theta, unravel = _ravel(state.params)
    search = state.optimizer[-1]
    updates, optimizer = _OPTIMIZER.update(
        search.grad,
        state.optimizer,
        theta,
        value=search.value,
        grad=search.grad,
        value_fn=_loss(apply_fn, state.origin, jnp.asarray(x), jnp.asarray(y), penalty),
    )
    state = State(unravel(optax.apply_updates(theta, updates)), state.origin, optimizer)
    return state, _info(state)


def fit(
    apply_fn: ApplyFn,
    params: PyTree,
    x: Real[Array, "n ..."],
    y: Real[Array, " n"],
    penalty: Penalties,
    *,
    tolerance: float | None = None,
    max_steps: int = 2000,
) -> Fit:
    """Trains on the full batch to a minimum of L (Eq. 5 or 17 of Pezeshki et al. 2021), by L-BFGS.

    Training stops as `converged` when two conditions hold, both up to rounding:

    - ||dL/dtheta||_2 is at most `tolerance` times its initial value, and
    - L - min L is at most `tolerance` times L, for a network that is linear in its parameters. Any other network is
      linearised at the current params, so the condition concerns their neighbourhood, not the whole landscape.

    With a weak penalty and separable data, L and its gradient both fall by orders of magnitude, so the first condition
    alone does not bound the relative error of L. With a strong penalty, the second alone does not bound the error of
    theta. Both are independent of widths, output scales and the number of examples.

    The second condition is tested with a duality gap, at a point from conjugate gradients (at most 300 products with
    the Jacobian each time that the first condition holds). Part of the gap is estimated from the last 100 iterations if
    the rank is deficient under `SpectralDecoupling`, or if lambda is so small that rounding dominates its bound. If
    rounding or `max_steps` end training first, `converged` is false. This includes minima on kinks: for ReLU under
    `Ridge` the gradient need not vanish there.

    One seed, or many:

        train = jax.jit(lambda params: fit(network.apply, params, x, y, penalty))
        train_all = jax.jit(jax.vmap(lambda key: fit(network.apply, network.init(key, x), x, y, penalty)))

    Under `vmap` all seeds take as many steps, and line search trials, as the slowest of them. The results are the same.
    On one CPU `lax.map` is faster than `vmap`. The optimiser keeps 40 vectors of the size of the parameters.

    Args:
        apply_fn: `apply_fn(params, x)` -> `(n,)`.
        params: theta_0, the first argument of `apply_fn`. For flax variables only the collection "params" is trained;
            for nnx and Equinox modules see the docstring of `gsjax`. Leaves that cannot be differentiated (whole
            numbers, bools, typed PRNG keys) are not parameters and are passed to `apply_fn` unchanged.
        x: examples, `(n, ...)`.
        y: labels -1 and +1, `(n,)`.
        penalty: `Ridge` on theta - theta_0, `SpectralDecoupling` on yhat, or a tuple of penalties, which are added. If
            both strengths are traced, one program trains under either penalty, with zero for the other strength.
        tolerance: on the gradient norm relative to the initial one, and on L - min L relative to L. The default is
            sqrt(eps) for the first and eps for the second, where L is within rounding of its minimum.
        max_steps: the maximal number of iterations; if it is reached, `converged` is false.

    Raises:
        ValueError: x empty; labels that are not `(n,)` of -1 and +1; NaN or infinity in x or the parameters; outputs
            that are not `(n,)`; an unknown `penalty`; a `tolerance` that is not positive; `max_steps` below one.

    >>> from gsjax.objectives import Ridge
    >>> fitted = fit(lambda w, x: x @ w, jnp.zeros(2), jnp.eye(2), jnp.ones(2), Ridge(1.0))
    >>> fitted.logits.tolist(), bool(fitted.converged)
    ([0.4011, 0.4011], True)
    """
    if _check.is_concrete(max_steps):  # `sweeps` traces it
        max_steps = _check.whole("max_steps", max_steps, least=1)
    state = init(apply_fn, params, x, y, penalty)
    initial = _info(state).gradient_norm
    eps = float(jnp.finfo(initial.dtype).eps)
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")
        if _check.is_concrete(tolerance) and tolerance < 8 * eps:
            warnings.warn(
                f"tolerance {tolerance} is below the precision of {initial.dtype} ({8 * eps:.1e})", stacklevel=2
            )
    gradient_tolerance, objective_tolerance = (
        jnp.asarray(bound, initial.dtype)
        for bound in ((eps**0.5, eps) if tolerance is None else (tolerance, tolerance))
    )
    x, y = jnp.asarray(x), jnp.asarray(y)

    def optimise(state: State, iterations: Array, goal: Array) -> tuple[State, Array]:
        """Steps until the gradient norm is at most `goal`, or NaN, or `max_steps` are reached."""

        def unfinished(carry: tuple[State, Array]) -> Array:
            state, iterations = carry
            return (_info(state).gradient_norm > goal) & (iterations < max_steps)

        def advance(carry: tuple[State, Array]) -> tuple[State, Array]:
            state, iterations = carry
            return step(apply_fn, state, x, y, penalty)[0], iterations + 1

        return lax.while_loop(unfinished, advance, (state, iterations))

    def attempt(carry: tuple[State, Array, Array, Array]) -> tuple[State, Array, Array, Array]:
        state, iterations, goal, _ = carry
        state, iterations = optimise(state, iterations, goal)
        info = _info(state)
        allowed = objective_tolerance * info.objective
        excess = _excess(apply_fn, state, x, y, penalty, allowed)
        # The bound is quadratic in the gradient. If its direction does not change, its norm must fall by this factor.
        fall = jnp.clip(jnp.sqrt(allowed / excess) / 2, 0.1, 0.5)
        following = (info.gradient_norm * fall).astype(goal.dtype)
        return state, iterations, following, (info.gradient_norm <= goal) & (excess <= allowed)

    def open_ended(carry: tuple[State, Array, Array, Array]) -> Array:
        state, iterations, _, converged = carry
        return ~converged & (iterations < max_steps) & jnp.isfinite(_info(state).gradient_norm)

    start = (state, jnp.array(0), gradient_tolerance * initial, jnp.array(False))
    state, iterations, _, converged = lax.while_loop(open_ended, attempt, start)
    info = _info(state)
    logits = apply_fn(state.params, x) - state.origin.logits
    return Fit(state.params, logits, info.objective, info.gradient_norm, initial, iterations, converged)


def _excess(
    apply_fn: ApplyFn, state: State, x: Array, y: Array, penalty: Penalties, allowed: Float[Array, ""]
) -> Float[Array, ""]:
    """An upper bound on L - min L for the network linearised at its params; any larger value if it exceeds `allowed`.

    Let J = dyhat/dtheta, let D = W + Lambda be the curvatures of the loss and of the penalty in every output, and
    lambda the ridge strength. Conjugate gradients approximate the Newton step `(J^T D J + lambda) delta = -dL/dtheta`.
    After any number of iterations, let nu^2 = delta^T (J^T D J + lambda) delta and let r be the remaining gradient.
    Then

        L - min L  <=  nu^2 + |r|^2 / (2 lambda)    where |J delta| <= 1 on every example.

    The right side bounds the duality gap at alpha - W Y J delta. The loss contributes the Kullback-Leibler divergences
    between dual variables that differ by W |J delta|, each at most W (J delta)^2. Without ridge, `rho^T Lambda^-1 rho /
    2` replaces the last term, where rho is the remainder of dL/dyhat. This term vanishes only at full row rank. Either
    term is replaced by what the last iterations added to nu^2 if that is smaller.
    """
    theta, unravel = _ravel(state.params)
    start, _ = _ravel(state.origin.params)
    terms = penalty if isinstance(penalty, tuple) else (penalty,)

    def outputs(theta: Array) -> Array:
        return apply_fn(unravel(theta), x) - state.origin.logits

    logits, pullback = jax.vjp(outputs, theta)
    # J itself, by transposition, because a network with a `custom_vjp` has no jvp.
    pushforward = jax.linear_transpose(pullback, logits)
    # All computations have one dtype, even if parameters and outputs have different dtypes.
    dtype, output_dtype = jnp.result_type(theta, logits), logits.dtype

    def pull(force: Array) -> Array:
        return pullback(force.astype(output_dtype))[0].astype(dtype)

    def push(direction: Array) -> Array:
        return pushforward((direction.astype(theta.dtype),))[0].astype(dtype)

    logits = logits.astype(dtype)
    y, allowed = y.astype(dtype), allowed.astype(dtype)
    decay = sum((jnp.asarray(term.strength, dtype) for term in terms if isinstance(term, Ridge)), jnp.zeros((), dtype))
    pairs = [per_example(term, len(y), dtype) for term in terms if not isinstance(term, Ridge)]
    hold = sum((strength for strength, _ in pairs), jnp.zeros(len(y), dtype))
    alpha = jax.nn.sigmoid(-y * logits)
    curvature = alpha * jax.nn.sigmoid(y * logits) + hold
    # Three forces balance at the minimum: loss and penalty act on the outputs, and ridge acts on the parameters.
    forces = -y * alpha, sum((strength * (logits - target) for strength, target in pairs), jnp.zeros(len(y), dtype))
    drift = decay * (theta - start).astype(dtype)
    parts = [*(pull(force) for force in forces), drift]
    rounding = (jnp.finfo(dtype).eps * sum(jnp.linalg.norm(part) for part in parts)) ** 2

    def rest(cg: _Conjugate) -> Array:
        """A bound on what further iterations add to `energy`, or what the last ones added if that is less."""
        bound = jnp.where(decay > 0, cg.size / (2 * decay), jnp.sum(cg.force**2 / hold) / 2)
        return jnp.where(cg.size <= rounding, 0, jnp.fmin(bound, jnp.sum(cg.recent)))

    def unfinished(cg: _Conjugate) -> Array:
        hopeless = (cg.energy > allowed) | (jnp.max(jnp.abs(cg.change)) > 1)
        return (cg.energy + rest(cg) > allowed) & ~hopeless & (cg.iterations < _MAX_CONJUGATE)

    def advance(cg: _Conjugate) -> _Conjugate:
        q = push(cg.direction)
        length = cg.size / (jnp.sum(curvature * q**2) + decay * jnp.sum(cg.direction**2))
        force, drift = cg.force - length * curvature * q, cg.drift - length * decay * cg.direction
        # Computed from the remaining force, not from the last residual, to avoid the rounding of the gradient.
        residual = pull(force) + drift
        size = jnp.sum(residual**2)
        return _Conjugate(
            residual + size / cg.size * cg.direction,
            size,
            force,
            drift,
            cg.change - length * q,
            cg.energy + length * cg.size,
            jnp.roll(cg.recent, 1).at[0].set(length * cg.size),
            cg.iterations + 1,
        )

    gradient, zero = sum(parts, 0 * drift), jnp.zeros((), dtype)
    recent = jnp.full(_RECENT, jnp.inf, dtype)
    cg = _Conjugate(
        gradient, jnp.sum(gradient**2), sum(forces, 0 * alpha), drift, 0 * alpha, zero, recent, jnp.array(0)
    )
    cg = lax.while_loop(unfinished, advance, cg)
    return jnp.where(jnp.max(jnp.abs(cg.change)) <= 1, cg.energy + rest(cg), jnp.inf)


def descend(
    apply_fn: ApplyFn,
    params: PyTree,
    x: Real[Array, "n ..."],
    y: Real[Array, " n"],
    penalty: Penalties,
    *,
    step_size: float,
    steps: Sequence[int] | Int[Array, " T"],
    tolerance: float | None = None,
    max_steps: int = 1_000_000,
) -> Descent:
    """Gradient descent on L from `params`, theta <- theta - step_size dL/dtheta, recorded after given steps.

    L is a sum over examples, so step k corresponds to time `k * step_size` of the gradient flow, the time axis of
    `linearized.flow`, with an error proportional to `step_size`. The descent diverges or oscillates if `step_size`
    exceeds 2 over the curvature of L, which is about `s_1^2 / 4 + lambda` (ridge) or `s_1^2 (1 / 4 + lambda)` (spectral
    decoupling); `objective` shows this.

    Args:
        apply_fn, params, x, y, penalty: as in `fit`.
        step_size: positive.
        steps: increasing numbers of steps, `(T,)`, at least 0.
        tolerance: if given, the descent continues after the last of `steps`, without records, until ||dL/dtheta||_2 is
            at most `tolerance` times its value at `params`.
        max_steps: the maximal total number of steps of a descent that continues.

    Raises:
        ValueError: as in `fit`; a `step_size` that is not positive; `steps` empty, negative or not increasing; a
            `tolerance` that is not positive; `max_steps` below one.

    >>> from gsjax.objectives import Ridge
    >>> path = descend(lambda w, x: x @ w, jnp.zeros(1), jnp.ones((1, 1)), jnp.ones(1), Ridge(1.0),
    ...                step_size=0.5, steps=[0, 1, 100])
    >>> path.times.tolist(), path.logits[:, 0].tolist()
    ([0.0, 0.5, 50.0], [0.0, 0.25, 0.4011])
    """
    x, y = check_problem(apply_fn, params, x, y)
    _check.number("step_size", step_size, "(0, inf)")
    _check.real("steps", steps, "increasing whole numbers from 0 upwards")
    steps = jnp.asarray(steps)
    _check.shape("steps", steps, ndim=1)
    increasing = jnp.issubdtype(steps.dtype, jnp.integer) & (steps[0] >= 0) & jnp.all(jnp.diff(steps) > 0)
    _check.require(increasing, "steps", "increasing whole numbers from 0 upwards", steps)
    max_steps = _check.whole("max_steps", max_steps, least=1)
    if tolerance is not None:
        _check.number("tolerance", tolerance, "(0, inf)")

    origin = Origin(params, apply_fn(params, x))
    theta, unravel = _ravel(params)
    loss = _loss(apply_fn, origin, x, y, penalty)
    gradient = jax.grad(loss)

    def record(theta: Array, count: Array) -> tuple[Array, tuple[Array, Array]]:
        theta = lax.fori_loop(0, count, lambda _, theta: theta - step_size * gradient(theta), theta)
        return theta, (apply_fn(unravel(theta), x) - origin.logits, loss(theta))

    start = theta
    theta, (logits, objectives) = lax.scan(record, theta, jnp.diff(steps, prepend=0))
    times = steps * jnp.asarray(step_size, logits.dtype)
    if tolerance is None:
        return Descent(times, logits, objectives, unravel(theta), steps[-1], jnp.array(False))
    target = tolerance * jnp.linalg.norm(gradient(start))

    def unfinished(carry: tuple[Array, Array]) -> Array:
        theta, taken = carry
        return (jnp.linalg.norm(gradient(theta)) > target) & (taken < max_steps)

    def advance(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        theta, taken = carry
        return theta - step_size * gradient(theta), taken + 1

    theta, taken = lax.while_loop(unfinished, advance, (theta, steps[-1]))
    converged = jnp.linalg.norm(gradient(theta)) <= target
    return Descent(times, logits, objectives, unravel(theta), taken, converged)


def _loss(
    apply_fn: ApplyFn, origin: Origin, x: Array, y: Array, penalty: Penalties
) -> Callable[[Float[Array, " m"]], Float[Array, ""]]:
    """L as a function of the vector of parameters."""
    start, unravel = _ravel(origin.params)

    def loss(theta: Float[Array, " m"]) -> Float[Array, ""]:
        logits = apply_fn(unravel(theta), x) - origin.logits
        return objective(penalty, theta - start, logits, y.astype(logits.dtype))

    return loss


def _info(state: State) -> Info:
    search = state.optimizer[-1]  # the line search has evaluated L and its gradient at the params of the state
    return Info(search.value, jnp.linalg.norm(search.grad), search.info.num_linesearch_steps)


def _ravel(params: PyTree) -> tuple[Float[Array, " m"], Callable[[Any], PyTree]]:
    """The trained parameters as one vector, which compiles faster than a tree, and the function back to `params`."""
    tree, rebuild = trainable(params)
    theta, unravel = ravel_pytree(tree)
    return theta, lambda theta: rebuild(unravel(theta))
