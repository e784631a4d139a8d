"""Spectral decoupling: Eqs. 17 and 18, and what becomes of starvation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from gsjax import Ridge, SpectralDecoupling, objectives
from gsjax.dual import problem
from gsjax.dual.links import link
from gsjax.features import Features
from gsjax.objectives import Penalty
from theory import instances
from theory.claim import Claim, Control, Observation

STRENGTH = 0.05
FULL = ("pair", "random", "digits")


def decoupled(names: tuple[str, ...] = FULL) -> Observation:
    """The largest off-diagonal entry of the Jacobian of the field at random alpha, in units of its diagonal."""

    def error(feats: Features):
        whitened = problem.whiten(feats, SpectralDecoupling(STRENGTH))
        alpha = jax.random.uniform(jax.random.key(8), (len(feats.u),), minval=0.01, maxval=0.99)
        jacobian = jax.jacfwd(lambda a: problem.field(whitened, link("exact"), a))(alpha)
        diagonal = jnp.diag(jacobian)
        return jnp.max(jnp.abs(jacobian - jnp.diag(diagonal))) / jnp.min(jnp.abs(diagonal))

    errors = instances.worst(error, names)
    return Observation.equal(0.0, list(errors.values()), 1e-10, details=instances.table(errors))


def _margin(strength: float) -> float:
    """The margin m that solves `lambda m = sigma(-m)`."""
    root = optimize.brentq(lambda m: strength * m - special.expit(-m), 0, 1 / strength, xtol=1e-14)
    return float(np.asarray(root))


def margins(names: tuple[str, ...] = FULL) -> Observation:
    """Margins of the directly minimised Eq. 17 against the m of one scalar equation."""
    penalty, errors = SpectralDecoupling(STRENGTH), {}
    for name in names:
        feats = instances.feats(name)
        phi, y = feats.y[:, None] * feats.u * feats.s, feats.y

        def objective(theta, phi=phi, y=y):
            return objectives.objective(penalty, theta, phi @ theta, y)

        minimised = y * (phi @ instances.minimum(objective, phi.shape[1]).x)
        errors[name] = float(jnp.max(jnp.abs(minimised / _margin(STRENGTH) - 1)))
    details = instances.table(errors) | {"margin": _margin(STRENGTH)}
    return Observation.equal(0.0, list(errors.values()), 1e-6, details=details)


def spectrum_free(penalty: Penalty = SpectralDecoupling(STRENGTH)) -> Observation:
    """alpha* with the strengths as they are against alpha* with their order reversed."""

    def error(feats: Features):
        given = instances.equilibrium(feats, penalty).alpha
        return jnp.max(jnp.abs(instances.equilibrium(feats._replace(s=feats.s[::-1]), penalty).alpha / given - 1))

    errors = instances.worst(error, ("random", "deficient"))
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


def no_starvation(penalty: Penalty = SpectralDecoupling(STRENGTH)) -> Observation:
    """The largest `|d z_j* / d(s_i^2)| s_i^2 / |z*|`, by automatic differentiation through the equilibrium."""

    def sensitivity(feats: Features):
        def response(log_s2):
            return instances.equilibrium(feats._replace(s=jnp.exp(log_s2 / 2)), penalty).response

        log_s2 = jnp.log(feats.s2)
        return jnp.max(jnp.abs(jax.jit(jax.jacfwd(response))(log_s2))) / jnp.max(jnp.abs(response(log_s2)))

    errors = instances.worst(sensitivity, ("random", "deficient"))
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


CLAIMS = (
    Claim(
        name="eq18-decoupled",
        reference="Eqs. 17, 18",
        statement="Under spectral decoupling the Jacobian of the dual field is diagonal: each alpha_i evolves alone.",
        check=decoupled,
        control=Control("deficient", "24 examples with 8 features: no full row rank", {"names": ("deficient",)}),
    ),
    Claim(
        name="eq18-margins",
        reference="Eqs. 17, 18",
        statement="At the minimum of Eq. 17 every margin equals the m that solves lambda m = sigma(-m).",
        check=margins,
        control=Control("deficient", "24 examples with 8 features", {"names": ("deficient",)}),
    ),
    Claim(
        name="eq18-no-spectrum",
        reference="Eq. 18",
        statement="Under spectral decoupling the equilibrium does not depend on S.",
        check=spectrum_free,
        control=Control("ridge", "ridge of the same strength", {"penalty": Ridge(STRENGTH)}),
    ),
    Claim(
        name="sd-no-starvation",
        reference="Definition 2, Eq. 18",
        statement="Under spectral decoupling the starvation matrix is zero, at any rank.",
        check=no_starvation,
        control=Control("ridge", "ridge of the same strength", {"penalty": Ridge(STRENGTH)}),
    ),
)
