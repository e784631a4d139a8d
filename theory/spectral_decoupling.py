"""Spectral decoupling: Eqs. 17 and 18, and the absence of starvation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from gsjax import SpectralDecoupling, objectives
from gsjax.dual import problem
from gsjax.dual.links import link
from theory import direct, instances
from theory.claim import Claim, Control, Observation

STRENGTH = 0.05
FULL = ("pair", "random", "digits")
SMALL = ("pair", "random", "deficient")  # for exact Hessians and many minima


def _given(name: str):
    """`u (n, r)`, strengths `(r,)` and labels of an instance as NumPy arrays."""
    feats = instances.feats(name)
    return np.asarray(feats.u), np.asarray(feats.s2), np.asarray(feats.y)


def decoupled(names: tuple[str, ...] = FULL) -> Observation:
    """The largest off-diagonal entry of the Jacobian of the field at random alpha, in units of its diagonal.

    The field follows from its definition: it is the gradient of Eq. 6 where theta minimises `(lambda / 2) |Phi theta|^2
    - alpha Y Phi theta`, solved by least squares with Phi. The library's field has to be the same.
    """
    rows = []
    for name in names:
        u, s2, y = _given(name)
        feats, n = instances.feats(name), len(y)
        phi = y[:, None] * u * np.sqrt(s2)
        linear = y[:, None] * (phi @ np.linalg.lstsq(phi, np.diag(y) / STRENGTH)[0])
        alpha = np.asarray(jax.random.uniform(jax.random.key(8), (n,), minval=0.01, maxval=0.99))
        field = -special.logit(alpha) - linear @ alpha
        known = problem.field(problem.whiten(feats, SpectralDecoupling(STRENGTH)), link("exact"), jnp.asarray(alpha))
        jacobian = -np.diag(1 / (alpha * (1 - alpha))) - linear
        coupling = direct.off_diagonal(jacobian) / np.abs(np.diag(jacobian)).min()
        error = float(np.max(np.abs(known - field)) / np.max(np.abs(field)))
        rows.append({"instance": name, "coupling": coupling, "library's field": error})
    errors = [[row["coupling"], row["library's field"]] for row in rows]
    return Observation.equal(0.0, errors, 1e-10, details={"instances": rows})


def _margin(strength: float, offset: float = 0.0) -> float:
    """The margin m that solves `lambda (m - offset) = sigma(-m)`."""
    root = optimize.brentq(
        lambda m: strength * (m - offset) - special.expit(-m), offset, offset + 1 / strength, xtol=1e-14
    )
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


def spectrum_free(penalised: str = "outputs") -> Observation:
    """Responses at the minimum of Eq. 17 over theta, with the given strengths and with the same in reversed order.

    With `penalised="parameters"` the objective is Eq. 5. One instance has r < n, where z can still take any value.
    """
    penalty: dict[str, Any] = {"hold" if penalised == "outputs" else "ridge": STRENGTH}
    errors = {}
    for name in SMALL:
        u, s2, y = _given(name)
        given, reversed_ = (
            direct.responses(u, strengths, y, direct.logistic(y), **penalty) for strengths in (s2, s2[::-1])
        )
        errors[name] = float(np.abs(reversed_ - given).max() / np.abs(given).max())
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


def deficient_rank(projected: bool = True) -> Observation:
    """`lambda m = U U^T sigma(-m)` at the minimum of Eq. 17 with 8 features of 24 examples; and the library's m.

    Without the projection it is Eq. 18, which needs full row rank.
    """
    u, s2, y = _given("deficient")
    m = u @ direct.responses(u, s2, y, direct.logistic(y), hold=STRENGTH)
    alpha = special.expit(-m)
    known = instances.equilibrium(instances.feats("deficient"), SpectralDecoupling(STRENGTH)).margins
    errors = {
        "lambda m": np.abs(STRENGTH * m - (u @ (u.T @ alpha) if projected else alpha)).max(),
        "the library's m": np.abs(known - m).max(),
    }
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors) | {"margins": m})


def no_starvation(penalised: str = "outputs") -> Observation:
    """The largest `|d z_j* / d log s_i^2|` in units of |z*|, by finite differences of directly minimised objectives."""
    penalty: dict[str, Any] = {"hold" if penalised == "outputs" else "ridge": STRENGTH}
    errors = {}
    for name in SMALL:
        u, s2, y = _given(name)
        strengths = np.geomspace(s2[0], s2[0] / 100, len(s2)) if name == "random" else s2  # 1e5 apart as they are
        errors[name] = float(np.abs(direct.elasticities(u, strengths, y, direct.logistic(y), **penalty)).max())
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


# Strength and target of the classes -1 and +1, the targets those published for CelebA.
BY_CLASS = ((0.02, 0.44), (0.1, 2.5))


def _by_class(y):
    """Strengths and targets `(n,)`."""
    (low, dark), (high, blond) = BY_CLASS
    return np.where(y > 0, high, low), np.where(y > 0, blond, dark)


def _mixed(name: str):
    """Features of an instance whose labels are of both classes, in turn."""
    feats = instances.feats(name)
    return feats._replace(y=jnp.where(jnp.arange(len(feats.y)) % 3 > 0, 1.0, -1.0))


def by_class(strengths: str = "by class") -> Observation:
    """Margins under the penalty of CelebA: from direct minimisation, one scalar equation per class, and the library.

    The scalar equation `lambda_c (m - y gamma_c) = sigma(-m)` needs full row rank; at r < n only the library's margins
    are compared. The field of Eq. 18 has to vanish at these margins. With `strengths="one for both"` the library is
    given the mean of the two strengths.
    """
    errors = {}
    for name in SMALL:
        feats = _mixed(name)
        u, s2, y = map(np.asarray, (feats.u, feats.s2, feats.y))
        hold, target = _by_class(y)
        m = u @ direct.responses(u, s2, y, direct.logistic(y), hold=hold, target=target)
        theirs = hold if strengths == "by class" else np.full(len(y), np.mean([low for low, _ in BY_CLASS]))
        penalty = SpectralDecoupling(jnp.asarray(theirs), jnp.asarray(target))
        if name != "deficient":
            scalar = [_margin(strength, sign * goal) for strength, sign, goal in zip(hold, y, target, strict=True)]
            errors[f"{name}: one equation a class"] = np.abs(m - scalar).max()
        errors[f"{name}: equilibrium"] = np.abs(instances.equilibrium(feats, penalty).margins - m).max()
        field = problem.field(problem.whiten(feats, penalty), link("exact"), jnp.asarray(special.expit(-m)))
        errors[f"{name}: field"] = np.abs(field).max()
    return Observation.equal(0.0, [float(error) for error in errors.values()], 1e-8, details=instances.table(errors))


def by_class_no_starvation(penalised: str = "outputs") -> Observation:
    """The largest off-diagonal sensitivity under the penalty of CelebA, by finite differences of direct minima."""
    errors = {}
    for name in SMALL:
        feats = _mixed(name)
        u, y = np.asarray(feats.u), np.asarray(feats.y)
        hold, target = _by_class(y)
        penalty: dict[str, Any] = {"hold": hold, "target": target} if penalised == "outputs" else {"ridge": STRENGTH}
        s2 = np.geomspace(10, 0.1, u.shape[1])
        errors[name] = direct.off_diagonal(direct.elasticities(u, s2, y, direct.logistic(y), **penalty))
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


def duality(constant: bool = True) -> Observation:
    """The directly minimised Eq. 17, with strength and target by class, against the maximum of its dual.

    The dual omits the constant `sum_i lambda_i t_i^2 / 2 - |c|^2 / 2`, where c is the centre of the whitened problem.
    It does not depend on theta, and is zero at full row rank.
    """
    rows = []
    for name in SMALL:
        feats = _mixed(name)
        u, s2, y = map(np.asarray, (feats.u, feats.s2, feats.y))
        hold, target = _by_class(y)
        phi = y[:, None] * u * np.sqrt(s2)
        _, primal = direct.minimum(phi, direct.logistic(y), hold=hold, target=target)
        penalty = SpectralDecoupling(jnp.asarray(hold), jnp.asarray(target))
        whitened = problem.whiten(feats, penalty)
        dual = float(problem.objective(whitened, instances.equilibrium(feats, penalty).alpha))
        # The part of the targets that no theta can reach, by least squares.
        root = np.sqrt(hold)
        left = root * target - root * (phi @ np.linalg.lstsq(root[:, None] * phi, root * target)[0])
        dual += float(left @ left) / 2 if constant else 0.0
        rows.append({"instance": name, "primal minimum": primal, "dual maximum": dual})
    primal, maximum = ([row[side] for row in rows] for side in ("primal minimum", "dual maximum"))
    return Observation.equal(primal, maximum, 1e-9, details={"instances": rows})


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
        reference="Eqs. 17, 18",
        statement="The minimum of Eq. 17 does not depend on S, at any rank: it is the same for two spectra.",
        check=spectrum_free,
        control=Control("ridge", "ridge of the same strength", {"penalised": "parameters"}),
    ),
    Claim(
        name="eq18-deficient-rank",
        reference="Eqs. 17, 18",
        statement="With fewer features than examples Eq. 18 needs a projection: lambda m = U U^T sigma(-m).",
        check=deficient_rank,
        control=Control("eq18", "Eq. 18 as published, without the projection", {"projected": False}),
    ),
    Claim(
        name="eq17-strong-duality",
        reference="Eqs. 7, 8, 17",
        statement="The minimum of Eq. 17, with strength and target by class, is the maximum of its dual plus the "
        "penalty on the part of the targets that no theta can reach.",
        check=duality,
        control=Control("constant", "without the part that no theta can reach", {"constant": False}),
    ),
    Claim(
        name="sd-no-starvation",
        reference="Definition 2, Eqs. 17, 18",
        statement="Under spectral decoupling no response changes with any strength, at any rank: by finite differences "
        "of Eq. 17, minimised over theta.",
        check=no_starvation,
        control=Control("ridge", "ridge of the same strength", {"penalised": "parameters"}),
    ),
    Claim(
        name="sd-by-class",
        reference="The variant of Eq. 17 for CelebA",
        statement="With strength and target by class every margin solves an equation that depends only on its class: "
        "lambda_c (m - y gamma_c) = sigma(-m).",
        check=by_class,
        control=Control("one-strength", "the mean strength for both classes", {"strengths": "one for both"}),
    ),
    Claim(
        name="sd-by-class-no-starvation",
        reference="The variant of Eq. 17 for CelebA, Definition 2",
        statement="With strength and target by class d z*/d s^2 is also zero off the diagonal, at any rank.",
        check=by_class_no_starvation,
        control=Control("ridge", "ridge instead", {"penalised": "parameters"}),
    ),
)
