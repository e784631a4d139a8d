"""The compiled programs of a sweep: training, which depends on the network, and the theory, which does not."""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from gsjax import _check, training
from gsjax._devices import over_seeds
from gsjax.data import Dataset
from gsjax.dual import equilibrium
from gsjax.features import Features, from_ntk
from gsjax.networks import MLP
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling
from gsjax.sweeps.grid import Sweep
from gsjax.tangent import infinite_ntk, ntk

__all__ = ["Comparison", "Outcome", "Task", "Trained", "comparer", "limit", "prepare", "scaled", "trainer"]


class Task(NamedTuple):
    """The arguments that all programs of a sweep share, on the host, so that all processes pass the same values."""

    key: np.ndarray  # data of the key for the initial networks
    x: Float[np.ndarray, "n ..."]
    y: Float[np.ndarray, " n"]
    x_test: Float[np.ndarray, "t ..."]
    y_test: Float[np.ndarray, " t"]
    tolerance: Float[np.ndarray, ""]
    max_steps: Int[np.ndarray, ""]

    def draw(self, network: MLP, number: Int[Array, ""]) -> PyTree:
        """The parameters of network `number`, which is folded into the key, so the number of seeds has no influence."""
        key: Key[Array, ""] = jax.random.wrap_key_data(jnp.asarray(self.key))
        return network.init(jax.random.fold_in(key, number), self.x)


class Trained(NamedTuple):
    """The part of a trained network that the theory needs: kernel, centred outputs, and Phi_0 (theta - theta_0).

    The kernel is that at initialisation, for the unscaled outputs of Eq. 1. Together with the sweep's lambda it gives
    z* in both scalings.
    """

    kernel: Float[Array, "n n"]
    logits: Float[Array, " n"]
    linear: Float[Array, " n"]


class Outcome(NamedTuple):
    """The columns of a row that depend only on training."""

    drift: Float[Array, ""]
    test_accuracy: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    initial_gradient_norm: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class Comparison(NamedTuple):
    """The columns that compare a network with theory; errors are in order of strength, zero beyond the rank."""

    error_empirical: Float[Array, ""]
    error_infinite: Float[Array, ""]
    errors_empirical: Float[Array, " n"]
    errors_infinite: Float[Array, " n"]
    error_parameters: Float[Array, ""]
    rank_empirical: Int[Array, ""]
    rank_infinite: Int[Array, ""]
    converged: Bool[Array, ""]


def prepare(sweep: Sweep, train: Dataset, test: Dataset) -> Task:
    """Checks the arguments of `run` and returns them on the host, in the precision of `train.x`."""
    _check.require(isinstance(sweep, Sweep), "sweep", "a gsjax.sweeps.Sweep", type(sweep).__name__)
    for name, dataset in (("train", train), ("test", test)):
        is_data = hasattr(dataset, "x") and hasattr(dataset, "y")
        _check.require(is_data, name, "a gsjax.data.Dataset(x, y)", type(dataset).__name__)
    dtype = _check.as_float(_check.array("train.x", train.x)).dtype

    def checked(name: str, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        _check.finite(f"{name}.x", dataset.x)
        x, y = np.asarray(dataset.x), np.asarray(dataset.y)
        _check.require(x.ndim >= 2 and x.size, f"{name}.x", "a non-empty array (n, ...)", f"shape {x.shape}")
        _check.labels(f"{name}.y", dataset.y, len(x))
        return x.astype(dtype), y.astype(dtype)

    (x, y), (x_test, y_test) = checked("train", train), checked("test", test)
    expected = f"examples of the same shape as in train.x, {x.shape[1:]}"
    _check.require(x.shape[1:] == x_test.shape[1:], "test.x", expected, x_test.shape[1:])
    eps = float(jnp.finfo(dtype).eps)
    if sweep.tolerance < 8 * eps:
        warnings.warn(f"tolerance {sweep.tolerance} is below the precision of {dtype} ({8 * eps:.1e})", stacklevel=3)
    key = np.asarray(jax.random.key_data(jax.random.key(sweep.seed)))
    return Task(key, x, y, x_test, y_test, np.asarray(sweep.tolerance, dtype), np.asarray(sweep.max_steps, np.int32))


def scaled(network: MLP, scale: Float[Array, ""], penalty: Penalty) -> tuple[training.ApplyFn, Penalty]:
    """The network with its outputs multiplied by `scale`, and the penalty for which z* stays the same."""

    def apply_fn(params: PyTree, x: Array) -> Array:
        return scale * jnp.asarray(network.apply(params, x))

    return apply_fn, Ridge(scale**2 * penalty.strength) if isinstance(penalty, Ridge) else penalty


@functools.cache
def trainer():
    """The program that trains `count` seeds, compiled once per network; the strength of an unused penalty is zero."""

    def train(network: MLP, mesh: Mesh, count: int, task: Task, ridge, decoupling, scale) -> tuple[Trained, Outcome]:
        def one(number, shared):
            task, ridge, decoupling, scale = shared
            params = task.draw(network, number)
            apply_fn, ridge = scaled(network, scale, Ridge(ridge))
            penalty = (ridge, SpectralDecoupling(decoupling))
            fit = training.fit(
                apply_fn, params, task.x, task.y, penalty, tolerance=task.tolerance, max_steps=task.max_steps
            )
            theta = jax.tree.map(jnp.subtract, fit.params, params)
            _, linear = jax.jvp(lambda params: apply_fn(params, task.x), (params,), (theta,))
            initial_kernel, kernel = (ntk(network.apply, theta, task.x) for theta in (params, fit.params))
            outputs, initial_outputs = (
                jnp.asarray(network.apply(theta, task.x_test)) for theta in (fit.params, params)
            )
            return Trained(initial_kernel, fit.logits, linear), Outcome(
                jnp.linalg.norm(kernel - initial_kernel) / jnp.linalg.norm(initial_kernel),
                jnp.mean(task.y_test * (outputs - initial_outputs) > 0, dtype=outputs.dtype),
                fit.gradient_norm,
                fit.initial_gradient_norm,
                fit.iterations,
                fit.converged,
            )

        return over_seeds(one, mesh, jnp.arange(count), (task, ridge, decoupling, scale))

    return jax.jit(train, static_argnames=("network", "mesh", "count"))


@functools.cache
def limit():
    """The program for the features of the infinite-width kernel, compiled once per depth."""

    def infinite(network: MLP, x: Float[Array, "n ..."], y: Float[Array, " n"]) -> Features:
        return from_ntk(infinite_ntk(network, x), y)

    return jax.jit(infinite, static_argnames="network")


@functools.cache
def comparer():
    """The program that compares trained networks with theory, compiled once per kind of penalty, for all widths."""

    def compare(mesh: Mesh, networks: Trained, infinite: Features, penalty: Penalty) -> Comparison:
        def one(network, shared):
            infinite, penalty = shared
            empirical = from_ntk(network.kernel, infinite.y)

            def comparison(feats):
                state = equilibrium(feats, penalty)
                scale = jnp.linalg.norm(state.response)

                def errors(logits):
                    return jnp.where(feats.s > 0, jnp.abs(feats.response(logits) - state.response), 0) / scale

                return errors, state.converged

            empirical_errors, empirical_converged = comparison(empirical)
            infinite_errors, infinite_converged = comparison(infinite)
            errors_empirical, errors_infinite = empirical_errors(network.logits), infinite_errors(network.logits)
            return Comparison(
                jnp.linalg.norm(errors_empirical),
                jnp.linalg.norm(errors_infinite),
                errors_empirical,
                errors_infinite,
                jnp.linalg.norm(empirical_errors(network.linear)),
                jnp.asarray(empirical.rank),
                jnp.asarray(infinite.rank),
                empirical_converged & infinite_converged,
            )

        return over_seeds(one, mesh, networks, (infinite, penalty))

    return jax.jit(compare, static_argnames="mesh")
