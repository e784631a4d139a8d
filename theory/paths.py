"""Training over time: the primal flow of the linearised network, and networks that follow it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, special

from gsjax import Ridge, SpectralDecoupling, data, features, linearized, networks, tangent, training
from gsjax.statistics import loglog_slope
from theory import instances
from theory.claim import Claim, Control, Observation

TIMES = (0.01, 0.1, 1.0, 10.0, 100.0)
STRENGTH = 0.1


_flow = jax.jit(lambda feats, penalty, times: linearized.flow(feats, penalty, times=times))


def flow(clock: float = 1.0) -> Observation:
    """Outputs of `linearized.flow` against SciPy's integration of dtheta/dt = -dL/dtheta with Phi.

    Penalties are ridge, and spectral decoupling with strength and target by class. `clock` multiplies SciPy's times.
    """
    errors = {}
    for name in ("pair", "random", "deficient"):
        feats = instances.feats(name)
        y = np.where(np.arange(len(feats.y)) % 3 > 0, 1.0, -1.0)
        feats = feats._replace(y=jnp.asarray(y))
        phi = y[:, None] * np.asarray(feats.u * feats.s)
        by_class = np.where(y > 0, 0.1, 0.02), np.where(y > 0, 2.5, 0.44)
        for penalty, decay, (hold, target) in (
            (Ridge(STRENGTH), STRENGTH, (0.0, 0.0)),
            (SpectralDecoupling(*map(jnp.asarray, by_class)), 0.0, by_class),
        ):

            def velocity(_, theta, phi=phi, y=y, decay=decay, hold=hold, target=target):
                f = phi @ theta
                return phi.T @ (y * special.expit(-y * f) - hold * (f - target)) - decay * theta

            def slope(_, theta, phi=phi, y=y, decay=decay, hold=hold):
                f = phi @ theta
                curvature = special.expit(f) * special.expit(-f) + hold
                return -(phi.T * curvature) @ phi - decay * np.eye(len(theta))

            times = clock * np.asarray(TIMES)
            path = integrate.solve_ivp(
                velocity, (0, times[-1]), np.zeros(phi.shape[1]), "Radau", times, jac=slope, rtol=1e-10, atol=1e-12
            )
            logits = phi @ path.y
            found = _flow(feats, penalty, jnp.asarray(TIMES))
            error = np.abs(np.asarray(found.logits).T - logits).max() / np.abs(logits).max()
            errors[f"{name}, {type(penalty).__name__}"] = float(error) if found.converged and path.success else np.nan
    return Observation.equal(0.0, list(errors.values()), 1e-6, details=instances.table(errors))


WIDTHS = (64, 128, 256, 512)


@functools.cache
def _descents(width: int, seeds: int):
    """Outputs of networks at four times by gradient descent, `(seeds, T, n)`, and of their linearised flow."""
    x, y = data.digits((3, 8), n=20)
    network = networks.MLP((width,), activation="tanh")
    penalty, size, steps = Ridge(STRENGTH), 2.0**-6, (4, 16, 64, 256)

    def one(key):
        params = network.init(key, x)

        # Two step sizes, whose first-order errors cancel (Richardson extrapolation).
        def logits(k):
            finer = {"step_size": size / k, "steps": [k * step for step in steps]}
            return training.descend(network.apply, params, x, y, penalty, **finer).logits

        coarse, fine = logits(1), logits(2)
        feats = features.from_ntk(tangent.ntk(network.apply, params, x), y)
        return 2 * fine - coarse, linearized.flow(feats, penalty, times=size * jnp.asarray(steps)).logits

    return jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(11), seeds))


def trained(shift: int = 0, seeds: int = 32) -> Observation:
    """Slope, in the width, of the distance between the outputs of a network during training and those of the flow.

    Gradient descent has two step sizes, extrapolated to zero. `shift` compares with the flow at a later time.
    """
    distances = []
    for width in WIDTHS:
        outputs, linear = _descents(width, seeds)
        outputs, linear = outputs[:, : len(outputs[0]) - shift], linear[:, shift:]
        distances.append(jnp.max(jnp.linalg.norm(outputs - linear, axis=2) / jnp.linalg.norm(linear, axis=2), axis=1))
    errors = np.stack(distances, axis=1)
    details = {"widths": WIDTHS, "seeds": seeds, "errors": np.exp(np.log(errors).mean(axis=0))}
    return Observation.slope(-1.0, loglog_slope(WIDTHS, errors), 0.3, details=details)


CLAIMS = (
    Claim(
        name="flow-in-time",
        reference="Eqs. 3, 5, 17",
        statement="The flow of the responses is the gradient flow of the linearised network: it agrees with SciPy's "
        "Radau over theta, under ridge and under spectral decoupling with strength and target by class.",
        check=flow,
        control=Control("clock", "SciPy's times are later by 1%", {"clock": 1.01}),
    ),
    Claim(
        name="flow-networks",
        reference="Eqs. 3, 5; Dyer and Gur-Ari 2020",
        statement="During training networks follow the linearised flow at the same times, up to an error of 1/width.",
        check=trained,
        control=Control("later", "the flow at four times the time", {"shift": 1}),
    ),
)
