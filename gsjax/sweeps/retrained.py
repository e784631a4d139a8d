"""Measured gradient starvation, from networks that are retrained with the strength of one feature changed."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from gsjax import _check, training
from gsjax._devices import gathered, over_devices, over_seeds, padded
from gsjax.data import Dataset
from gsjax.dual import equilibrium
from gsjax.features import from_ntk
from gsjax.networks import MLP
from gsjax.starvation import matrix, orient
from gsjax.sweeps.grid import PENALTIES, Cell, Sweep
from gsjax.sweeps.programs import Task, prepare, scaled
from gsjax.tangent import ntk

__all__ = ["Starvation", "starvation"]


class Starvation(NamedTuple):
    """Definition 2 in theory and practice.

    Entry `[seed, j, i]` of `predicted` and of `measured` is d z_j / d(s_i^2) times the sign of z_j*; features are
    ordered by strength. `converged` tells whether all trainings of a seed and the equilibrium converged.
    """

    predicted: Float[Array, "seeds k k"]
    measured: Float[Array, "seeds k k"]
    converged: Bool[Array, " seeds"]


def starvation(
    sweep: Sweep,
    cell: Cell,
    train: Dataset,
    *,
    features: int = 3,
    change: float = 0.1,
    mesh: Mesh | None = None,
) -> Starvation:
    r"""Starvation (Definition 2) in networks that are retrained after the strength of one feature was changed.

    With v_i = Phi^T Y u_i / s_i and A = I + (c - 1) v_i v_i^T, consider the network f(theta_0 + A (theta - theta_0)).
    It has the same outputs at initialisation and can express the same functions. Its tangent features are U S' V^T with
    s_i' = c s_i and all other strengths unchanged. Training it with c^2 = 1 + `change` and c^2 = 1 - `change` gives

    .. math::

        \frac{\partial z_j}{\partial (s_i^2)} \approx \frac{z_j(+) - z_j(-)}{2 \, \text{change} \, s_i^2},

    a central difference with an error of second order in `change`. For a linear network it approximates
    `gsjax.starvation.matrix`. Responses are those to the features at initialisation, z = U^T Y yhat.

    Each seed is trained 2 `features` times, to `sweep.tolerance`, which should be far below `change`. Seeds, devices
    and processes are those of `run`. There is one program per width, depth and kind of penalty.

    Args:
        sweep: the options of training and the number of seeds.
        cell: the network and the penalty.
        train: the training examples.
        features: the number of features, starting with the strongest.
        change: the relative change of a strength s_i^2.
        mesh: as in `run`.

    Raises:
        ValueError: `features` outside 1 to n, `change` outside (0, 1); the errors of `run`.
    """
    is_cell = isinstance(cell, tuple) and len(cell) == len(Cell._fields)
    _check.require(is_cell, "cell", "a gsjax.sweeps.Cell(width, depth, penalty, strength)", type(cell).__name__)
    width, depth, penalty, strength = cell
    sweep = replace(sweep, widths=(width,), depths=(depth,), penalties=(penalty,), strengths=(strength,))
    task, mesh = prepare(sweep, train, train), over_devices(mesh)
    n = len(task.y)
    features = _check.whole("features", features, least=1, most=n)
    _check.number("change", change, "(0, 1)")
    network, count = sweep.network(width, depth), padded(sweep.seeds, mesh)
    numbers = (np.asarray(number, task.x.dtype) for number in (change, sweep.scale(width, depth)))
    given = PENALTIES[penalty](np.asarray(strength, task.x.dtype)), *numbers
    found = _starve()(network, mesh, count, features, task, *given)
    return gathered(found, sweep.seeds)


@functools.cache
def _starve():
    """The program that measures starvation, compiled once per network and kind of penalty."""

    def starve(network: MLP, mesh: Mesh, count: int, features: int, task: Task, penalty, change, scale) -> Starvation:
        def one(number, shared):
            task, penalty, change, scale = shared
            params = task.draw(network, number)
            apply_fn, scaled_penalty = scaled(network, scale, penalty)
            start, unravel = ravel_pytree(params)
            feats = from_ntk(ntk(network.apply, params, task.x), task.y)
            _, pull = jax.vjp(lambda theta: network.apply(unravel(theta), task.x), start)

            def retrain(variation):
                i, relative = variation
                [v] = pull(feats.y * feats.u[:, i])
                v = v / jnp.linalg.norm(v)
                stretch = jnp.sqrt(1 + relative) - 1

                def stretched(theta, x):
                    return apply_fn(unravel(theta + stretch * (v @ (theta - start)) * v), x)

                fit = training.fit(
                    stretched, start, task.x, task.y, scaled_penalty, tolerance=task.tolerance, max_steps=task.max_steps
                )
                return feats.response(fit.logits)[:features], fit.converged

            variations = jnp.repeat(jnp.arange(features), 2), jnp.tile(jnp.stack([change, -change]), features)
            responses, converged = lax.map(retrain, variations)
            measured = (responses[0::2] - responses[1::2]).T / (2 * change * feats.s2[:features])
            state = equilibrium(feats, penalty)
            predicted = matrix(feats, penalty)[:features, :features]
            measured = orient(measured, state.response[:features])
            return Starvation(predicted, measured, jnp.all(converged) & state.converged)

        return over_seeds(one, mesh, jnp.arange(count), (task, penalty, change, scale))

    return jax.jit(starve, static_argnames=("network", "mesh", "count", "features"))
