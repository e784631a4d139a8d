"""The problems on which the claims are checked: analytic ones, and tangent features of real networks on real data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy import optimize

from gsjax import data, dual, features, networks, starvation, tangent
from gsjax.features import Features

equilibrium = jax.jit(dual.equilibrium, static_argnames=("form", "tolerance"))
matrix = jax.jit(starvation.matrix, static_argnames=("form", "oriented"))


def orthogonal(key: Key[Array, ""], n: int) -> Float[Array, "n n"]:
    """A random orthogonal matrix, uniform in the sense of Haar."""
    return jax.random.orthogonal(key, n)


@functools.cache
def phi(name: str) -> tuple[Float[Array, "n m"], Float[Array, " n"]]:
    """Tangent features at initialisation, and labels: "moons" or "digits", n = 200, or "random", n = 24, m = 60."""
    key = jax.random.key(0)
    if name == "random":
        return jax.random.normal(key, (24, 60)) * 2.0 ** -(jnp.arange(60.0) ** 0.5), jnp.sign(
            jnp.cos(jnp.arange(24.0) ** 2)
        )
    x, y = data.two_moons(key, 200) if name == "moons" else data.digits((3, 8), n=200)
    network = networks.MLP((64, 64))
    return tangent.ntrf(network.apply, network.init(key, x), x), y


@functools.cache
def feats(name: str) -> Features:
    """Features of an instance, by name.

    The names are the three of `phi`, and:

    - "few digits": 50 of the digits,
    - "pair": Eq. 15 with delta = 1/2 and strengths 9 and 4,
    - "deficient": 8 features of 24 examples.
    """
    if name == "pair":
        return features.planar(0.5, jnp.array([9.0, 4.0]))
    if name == "deficient":
        return features.from_spectrum(orthogonal(jax.random.key(1), 24)[:, :8], jnp.linspace(4, 1, 8))
    if name == "few digits":
        rows, y = phi("digits")
        return features.from_ntrf(rows[:50], y[:50])
    return features.from_ntrf(*phi(name))


NAMES = ("pair", "random", "deficient", "moons", "digits")


def worst(check: Callable[[Features], Float[Array, "..."]], names: Iterable[str] = NAMES) -> dict[str, float]:
    """The largest entry of `check(feats)` on each of the named instances."""
    return {name: float(np.max(check(feats(name)))) for name in names}


def table(errors: dict[str, float]) -> dict[str, list[dict[str, object]]]:
    """The details of an observation: one row per instance."""
    return {"instances": [{"instance": name, "error": error} for name, error in errors.items()]}


def minimum(objective: Callable[[Float[Array, " m"]], Float[Array, ""]], size: int) -> optimize.OptimizeResult:
    """The minimum over theta `(size,)` of a smooth convex objective, by SciPy's L-BFGS-B from zero.

    It shares only the objective with the library's solver.
    """
    value_and_grad = jax.jit(jax.value_and_grad(objective))

    def evaluate(theta):
        value, grad = value_and_grad(jnp.asarray(theta))
        return float(value), np.asarray(grad)

    options = {"maxiter": 20_000, "maxfun": 40_000, "gtol": 1e-11, "ftol": 1e-16, "maxcor": 50}
    return optimize.minimize(evaluate, np.zeros(size), jac=True, method="L-BFGS-B", options=options)
