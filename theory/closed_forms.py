"""Equilibria in closed form: Eqs. 12 and 13, and Lemma 1."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gsjax import Ridge, dual, features, plotting
from gsjax.dual import closed_form
from gsjax.statistics import loglog_slope
from theory import instances
from theory.claim import Claim, Control, Observation

SIZE = 12
STRENGTHS = (1e-4, 1e-2, 1.0, 100.0)


@jax.jit
def _solved(u, s2, strength):
    return dual.equilibrium(features.from_spectrum(u, jnp.sqrt(s2)), Ridge(strength), form="linearized")


def equal_strengths(spread: float = 0.0) -> Observation:
    """Eq. 12 against Newton's method for random orthogonal U; strengths vary by factors 1 - spread to 1 + spread."""
    errors = {}
    for seed, strength in enumerate(STRENGTHS):
        u = instances.orthogonal(jax.random.key(seed), SIZE)
        alpha, response = closed_form.equal_strengths(3.0, u, strength)
        solved = _solved(u, 3.0 * (1 + spread * jnp.linspace(1, -1, SIZE)), strength)
        error = jnp.stack(
            [(solved.alpha - alpha) / jnp.max(alpha), (solved.response - response) / jnp.max(jnp.abs(response))]
        )
        errors[f"lambda = {strength:g}"] = float(jnp.max(jnp.abs(error)))
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


def permutation(angle: float = 0.0) -> Observation:
    """Eq. 13 against Newton's method, for U a random permutation, rotated by `angle` in a random direction."""
    errors = {}
    for seed, strength in enumerate(STRENGTHS):
        key = jax.random.key(seed)
        order = jax.random.permutation(key, SIZE)
        s2 = jnp.geomspace(10.0, 0.1, SIZE)
        alpha, response = closed_form.permutation(s2, strength)
        u = jnp.eye(SIZE)[order] @ _perturbed_identity(key, angle)
        solved = _solved(u, s2, strength)
        error = jnp.stack(
            [(solved.alpha - alpha[order]) / jnp.max(alpha), (solved.response - response) / jnp.max(response)]
        )
        errors[f"lambda = {strength:g}"] = float(jnp.max(jnp.abs(error)))
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


def _perturbed_identity(key, delta, n: int = SIZE):
    """The orthogonal matrix exp(delta A), A antisymmetric with entries N(0, 1); off-diagonal entries of order delta."""
    a = jnp.triu(jax.random.normal(key, (n, n)), 1)
    return jax.scipy.linalg.expm(delta * (a - a.T))


def lemma1(order: int = 1) -> Observation:
    """Slope, in delta, of the error of Lemma 1, or of the fixed point at the identity alone (`order=0`)."""
    deltas = np.geomspace(1e-4, 1e-2, 5)
    s2, strength = jnp.geomspace(10.0, 0.5, 6), 0.05

    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def error(key, delta):
        u = _perturbed_identity(key, delta, 6)
        solved = _solved(u, s2, strength).alpha
        first = closed_form.lemma1(u, s2, strength) if order else closed_form.permutation(s2, strength)[0]
        return jnp.linalg.norm(first - solved)

    errors = np.asarray(jax.jit(error)(jax.random.split(jax.random.key(6), 8), jnp.asarray(deltas)))
    slope = loglog_slope(deltas, errors)

    def draw():
        figure, axes = plotting.panels()
        plotting.error_against_width(
            deltas,
            errors,
            slope,
            reference=2.0,
            ax=axes[0, 0],
            label=r"Lemma 1, $\alpha^*$",
            xlabel=r"off-diagonal $\delta$",
        )
        return figure

    return Observation.slope(2.0, slope, 0.1, details={"delta": deltas.tolist(), "seeds": 8}, figure=draw)


CLAIMS = (
    Claim(
        name="eq12-equal-strengths",
        reference="Eq. 12",
        statement="Equal strengths: alpha_i = lambda W(s^2/lambda + 1)/(s^2 + lambda) and "
        "z_j = s^2 W(s^2/lambda + 1)/(s^2 + lambda) sum_i u_ij solve Eq. 10 for any orthogonal U.",
        check=equal_strengths,
        control=Control("unequal", "strengths that differ by up to 10%", {"spread": 0.1}),
    ),
    Claim(
        name="eq13-permutation",
        reference="Eq. 13",
        statement="U a permutation: each feature has its own alpha and z, as in Eq. 12 with s_i^2 and without the sum.",
        check=permutation,
        control=Control("rotated", "U rotated away from the permutation, by entries of order 0.01", {"angle": 0.01}),
    ),
    Claim(
        name="lemma1",
        reference="Lemma 1, Eq. 14",
        statement="U a perturbed identity: Lemma 1 gives alpha* up to an error of second order in the perturbation.",
        check=lemma1,
        control=Control(
            "order-0", "the fixed point of the unperturbed identity: the error is of first order", {"order": 0}
        ),
    ),
)
