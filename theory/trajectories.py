"""Starvation during training: the ends and the beginnings of its trajectories."""

# pyright: reportArgumentType=false
# NumPy arrays are passed where JAX arrays are annotated.

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gsjax import Ridge, SpectralDecoupling, features, plotting, starvation
from gsjax.statistics import loglog_slope
from theory import direct, instances
from theory.claim import Claim, Control, Observation

# Random problems with the same shape and number of times, so that they share compiled programs.
N, R, DRAWS = 8, 5, 8
S2, Y = np.geomspace(9, 0.3, R), np.where(np.arange(N) % 3 > 0, 1.0, -1.0)
TIMES = np.geomspace(1e-4, 1e-3, 6)  # when s^2 t << 1
BY_CLASS = np.where(Y > 0, 0.1, 0.3), np.where(Y > 0, 2.5, 0.44)

# Strengths are arrays, so that all penalties of a type share one compiled program.
RIDGES = {f"ridge {strength:g}": Ridge(np.array(strength)) for strength in (0.01, 0.3)}
ONE_STRENGTH = {
    "SD 0.3": SpectralDecoupling(np.full(N, 0.3), np.zeros(N)),
    "SD 0.3, targets by class": SpectralDecoupling(np.full(N, 0.3), BY_CLASS[1]),
}
UNEQUAL = {"SD by class": SpectralDecoupling(*BY_CLASS)}


def _basis() -> jax.Array:
    """Random U `(DRAWS, N, R)`."""
    return jnp.stack([instances.orthogonal(key, N)[:, :R] for key in jax.random.split(jax.random.key(3), DRAWS)])


@jax.jit
def _trajectories(u, penalty, times):
    def one(u):
        feats = features.from_spectrum(u, jnp.sqrt(S2), jnp.asarray(Y))
        return starvation.trajectory(feats, penalty, times=times)

    return jax.vmap(one)(u)


def limit(time: float = 1e4) -> Observation:
    """`d z_j / d log s_i^2` in units of |z*| at a late time, against differences of directly minimised objectives."""
    errors, bases, loss = {}, _basis(), direct.logistic(Y)
    for name, penalty in (RIDGES | ONE_STRENGTH | UNEQUAL).items():
        found = _trajectories(bases, penalty, jnp.linspace(0, time, len(TIMES)))
        if isinstance(penalty, Ridge):
            written = {"ridge": float(penalty.strength)}
        else:
            written = {"hold": penalty.strength, "target": penalty.target}
        distances = []
        for u, sensitivity in zip(np.asarray(bases), np.asarray(found.sensitivity[:, -1]), strict=True):
            size = np.linalg.norm(direct.responses(u, S2, Y, loss, **written))
            expected = direct.elasticities(u, S2, Y, loss, step=1e-4, **written)
            distances.append(np.abs(sensitivity * S2 / size - expected).max())
        errors[name] = float(np.max(distances)) if found.converged.all() else np.nan

    def draw():
        figure, axes = plotting.panels()
        times = jnp.geomspace(1e-2, 1e3, 200)
        arms = {"ridge": Ridge(0.05), "SD": SpectralDecoupling(0.05)}
        feats = instances.feats("pair")
        paths = {name: starvation.trajectory(feats, penalty, times=times) for name, penalty in arms.items()}
        plotting.starvation_over_time(paths, axes[0, 0])
        return figure

    return Observation.equal(0.0, list(errors.values()), 1e-6, details=instances.table(errors), figure=draw)


def onset(power: float = 4.0, unequal: bool = False) -> Observation:
    """Slope, in time, of the norm of all off-diagonal entries.

    Penalties are ridge and spectral decoupling with one strength, or spectral decoupling with `unequal` strengths.
    """
    penalties = UNEQUAL if unequal else RIDGES | ONE_STRENGTH
    found = [_trajectories(_basis(), penalty, jnp.asarray(TIMES)).sensitivity for penalty in penalties.values()]
    sizes = np.linalg.norm(np.concatenate(found)[..., ~np.eye(R, dtype=bool)], axis=-1)
    details = {"times": TIMES, "random U": DRAWS, "sizes": np.exp(np.log(sizes).mean(axis=0))}
    return Observation.slope(power, loglog_slope(TIMES, sizes), 0.05, details=details)


CLAIMS = (
    Claim(
        name="trajectory-limit",
        reference="Definition 2 along Eqs. 5, 17",
        statement="The sensitivities along the path of training converge to the starvation matrix: under ridge to that "
        "at the minimum of Eq. 5, and under spectral decoupling, also by class, to zero.",
        check=limit,
        control=Control("early", "stopped at time 1", {"time": 1.0}),
    ),
    Claim(
        name="trajectory-onset",
        reference="Definition 2 along Eqs. 5, 17, to leading order in time",
        statement="Under ridge, and under spectral decoupling with one strength, starvation sets in with the fourth "
        "power of time.",
        check=onset,
        control=Control("unequal", "strengths of spectral decoupling that depend on the class", {"unequal": True}),
    ),
    Claim(
        name="trajectory-onset-unequal",
        reference="Definition 2 along Eq. 17, to leading order in time",
        statement="Under spectral decoupling with strengths that depend on the class starvation sets in with the "
        "second power of time.",
        check=functools.partial(onset, power=2.0, unequal=True),
        control=Control("one-strength", "ridge, and one strength for all examples", {"unequal": False}),
    ),
)
