"""From the training objective to its dual and its responses: Eqs. 5 to 8, and 11."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from scipy import optimize

from gsjax import Ridge, objectives
from gsjax.dual import problem
from theory import instances
from theory.claim import Claim, Control, Observation

STRENGTH = 0.1
DATA = ("random", "moons", "digits")


def _entropy(alpha):
    return -(alpha * np.log(alpha) + (1 - alpha) * np.log1p(-alpha))


def bound(unit: float = 1.0) -> Observation:
    """The largest H(alpha) - alpha m - log(1 + exp(-m)) over a grid; `unit` is that of H, in nats."""
    alpha = np.linspace(0, 1, 2001)[1:-1, None]
    m = np.linspace(-30, 30, 2001)
    excess = _entropy(alpha) / unit - alpha * m - np.logaddexp(0, -m)
    return Observation.below(0.0, excess, 1e-12)


def tightness(sign: float = -1.0) -> Observation:
    """The gap of Eq. 6 at alpha = sigma(sign m)."""
    m = np.linspace(-15, 15, 2001)
    alpha = 1 / (1 + np.exp(-sign * m))
    gap = np.logaddexp(0, -m) - (_entropy(alpha) - alpha * m)
    return Observation.equal(0.0, gap, 1e-12)


@functools.cache
def _primal(name: str, factor: float) -> optimize.OptimizeResult:
    """The minimum of Eq. 5 over theta in the linearised network, its penalty multiplied by `factor`."""
    phi, y = instances.phi(name)
    penalty = Ridge(STRENGTH * factor)
    return instances.minimum(lambda theta: objectives.objective(penalty, theta, phi @ theta, y), phi.shape[1])


def strong_duality(factor: float = 1.0, names: tuple[str, ...] = DATA) -> Observation:
    """The primal's minimum over parameters against the dual's maximum over alpha."""
    primal, maximum = [], []
    for name in names:
        feats, penalty = instances.feats(name), Ridge(STRENGTH)
        alpha = instances.equilibrium(feats, penalty).alpha
        maximum.append(float(problem.objective(problem.whiten(feats, penalty), alpha)))
        primal.append(float(_primal(name, factor).fun))
    rows = [
        {"instance": n, "primal minimum": p, "dual maximum": d} for n, p, d in zip(names, primal, maximum, strict=True)
    ]
    return Observation.equal(primal, maximum, 1e-9, details={"instances": rows})


def responses_at_optimum(power: int = 2) -> Observation:
    """Responses of the minimised primal against (1 / lambda) S^power U^T alpha*."""
    errors = {}
    for name in DATA:
        (phi, _), feats = instances.phi(name), instances.feats(name)
        alpha = instances.equilibrium(feats, Ridge(STRENGTH)).alpha
        predicted = feats.s**power * (feats.u.T @ alpha) / STRENGTH
        measured = feats.response(phi @ jnp.asarray(_primal(name, 1.0).x))
        errors[name] = float(jnp.max(jnp.abs(measured - predicted)) / (1 + jnp.max(jnp.abs(predicted))))
    norms = {name: float(np.max(np.abs(_primal(name, 1.0).jac))) for name in DATA}
    details = instances.table(errors) | {"gradient max-norm of the primal": norms}
    return Observation.equal(0.0, list(errors.values()), 1e-6, details=details)


CLAIMS = (
    Claim(
        name="eq6-bound",
        reference="Eq. 6",
        statement="log(1 + exp(-m)) >= H(alpha) - alpha m for every margin m and alpha in (0, 1).",
        check=bound,
        control=Control("bits", "the entropy in bits", {"unit": float(np.log(2))}),
    ),
    Claim(
        name="eq6-tight",
        reference="Eq. 6",
        statement="Eq. 6 is an equality at alpha = sigma(-m).",
        check=tightness,
        control=Control("sign", "alpha = sigma(m)", {"sign": 1.0}),
    ),
    Claim(
        name="eq7-8-strong-duality",
        reference="Eqs. 5, 7, 8",
        statement="The minimum of the training objective over theta is the maximum of its dual over alpha.",
        check=strong_duality,
        control=Control("half", "the primal with lambda instead of lambda / 2", {"factor": 2.0, "names": ("random",)}),
    ),
    Claim(
        name="eq11-responses",
        reference="Eq. 11",
        statement="At the optimum of training, z* = (1 / lambda) S^2 U^T alpha*.",
        check=responses_at_optimum,
        control=Control("power", "S instead of S^2", {"power": 1}),
    ),
)
