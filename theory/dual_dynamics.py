"""The dual dynamics: the field of Eq. 9, its approximation Eq. 10, and Theorem 1 on its fixed points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr
from scipy import optimize

from gsjax import Ridge, dual, features, linearized, plotting
from gsjax.dual import problem
from gsjax.dual.links import link
from theory import instances
from theory.claim import Claim, Control, Observation


def gradient(misprint: bool = False, names: Sequence[str] = instances.NAMES) -> Observation:
    """The field of Eq. 9 against the gradient of Eq. 8, written out with K = Y Phi Phi^T Y, at random alpha."""
    strength = 0.1
    errors = {}
    for name in names:
        feats = instances.feats(name)
        kernel = (feats.u * feats.s2) @ feats.u.T
        if misprint:
            feats = feats._replace(u=feats.u.T)

        def objective(alpha, kernel=kernel):
            return jnp.sum(entr(alpha) + entr(1 - alpha)) - alpha @ kernel @ alpha / (2 * strength)

        alpha = jax.random.uniform(jax.random.key(4), (kernel.shape[0],), minval=0.01, maxval=0.99)
        field = problem.field(problem.whiten(feats, Ridge(strength)), link("exact"), alpha)
        expected = jax.grad(objective)(alpha)
        errors[name] = float(jnp.max(jnp.abs(field - expected)) / jnp.max(jnp.abs(expected)))
    return Observation.equal(0.0, list(errors.values()), 1e-12, details=instances.table(errors))


def invariance(form: str = "exact") -> Observation:
    """The largest outward component of the field over random points on the faces of a cube inside (0, 1)^n.

    On the faces `|logit alpha_i|` exceeds by one the largest linear term that any alpha in the cube can have. The
    hardest known instance has 20 equal examples and one of the other class.
    """
    opposed = features.from_ntk(jnp.ones((21, 21)), jnp.ones(21).at[20].set(-1))
    outward = {}
    for name, feats in {"opposed": opposed, "pair": instances.feats("pair")}.items():
        whitened = problem.whiten(feats, Ridge(1.0))
        n = feats.u.shape[0]
        bound = jnp.max(jnp.sum(jnp.abs(whitened.basis @ whitened.basis.T), axis=1)) + 1
        key_points, key_axes = jax.random.split(jax.random.key(5))
        points = jax.random.uniform(key_points, (4000, n)).at[:1000].set(1.0).at[1000:2000].set(0.0)
        points = points.at[2000:3000].set(jnp.round(points[2000:3000]))
        points = jnp.clip(points, jax.nn.sigmoid(-bound), jax.nn.sigmoid(bound))
        axes = jax.random.randint(key_axes, (4000,), 0, n)
        for side in (-1.0, 1.0):
            on_face = points.at[jnp.arange(4000), axes].set(jax.nn.sigmoid(side * bound))
            field = jax.vmap(lambda alpha, w=whitened: problem.field(w, link(form), alpha))(on_face)
            outward[f"{name}, alpha_i near {(side + 1) // 2:g}"] = float(jnp.max(side * field[jnp.arange(4000), axes]))
    return Observation.below(0.0, list(outward.values()), details=instances.table(outward))


def approximation(shift: float = 0.0) -> Observation:
    """Slope of the relative difference between the fixed points of Eqs. 9 and 10 against its first-order estimate.

    Eq. 10 omits `log(1 - alpha) + alpha ~ -alpha^2 / 2`, which changes alpha by `(diag(1 / alpha) + A)^-1 alpha^2 / 2`.
    `shift` is added to the strengths in Eq. 10, in units of lambda.
    """
    scales = np.geomspace(1e-4, 1e-2, 5)

    def compare(feats, strength):
        exact = instances.equilibrium(feats, Ridge(strength)).alpha
        shifted = feats._replace(s=jnp.sqrt(feats.s2 + shift * strength))
        difference = instances.equilibrium(shifted, Ridge(strength), form="linearized").alpha - exact
        jacobian = jnp.diag(1 / exact + 1) + (feats.u * (feats.s2 / strength)) @ feats.u.T
        estimate = jnp.linalg.solve(jacobian, exact**2 / 2)
        return jnp.max(jnp.abs(estimate / exact)), jnp.max(jnp.abs(difference / exact)), jnp.max(exact)

    rows = []
    for name in ("pair", "random", "few digits"):
        feats = instances.feats(name)
        estimates, differences, sizes = np.log([compare(feats, scale * feats.s2[-1]) for scale in scales]).T
        slope, against_alpha = (float(np.polyfit(x, differences, 1)[0]) for x in (estimates, sizes))
        rows.append({"instance": name, "slope": slope, "slope against the largest alpha": against_alpha})
    details = {"instances": rows, "lambda / smallest s^2": scales.tolist()}
    return Observation.equal(1.0, [row["slope"] for row in rows], 0.02, details=details)


def attraction(kernels: Mapping[str, np.ndarray] | None = None) -> Observation:
    """The largest eigenvalue of the Jacobian of Eq. 10 at fixed points from SciPy's root finder.

    `kernels` are the matrices `U (S^2 / lambda + I) U^T`; by default those of the instances at lambda = 1. If the root
    finder fails on a kernel, or its root is not in (0, 1)^n, the value is NaN, with which no claim holds.
    """
    if kernels is None:
        kernels = {}
        for name in instances.NAMES:
            feats = instances.feats(name)
            kernels[name] = np.asarray((feats.u * feats.s2) @ feats.u.T)[:60, :60] + np.eye(min(60, len(feats.u)))
    rows = []
    for name, matrix in kernels.items():

        def field(log_alpha, matrix=matrix):
            return -log_alpha - matrix @ np.exp(log_alpha)

        def slope(log_alpha, matrix=matrix):
            return -np.eye(len(matrix)) - matrix * np.exp(log_alpha)

        solved = optimize.root(field, np.full(len(matrix), -np.log(1 + np.max(matrix))), jac=slope, tol=1e-12)
        alpha = np.exp(solved.x)
        jacobian = -np.diag(1 / alpha) - matrix
        left = float(np.max(np.abs(field(solved.x))))
        interior = bool(np.max(alpha) < 1 and left < 1e-9)
        value = float(np.max(np.linalg.eigvals(jacobian).real)) if interior else np.nan
        rows.append({"instance": name, "largest eigenvalue": value, "field": left, "largest alpha": float(alpha.max())})
    return Observation.below(0.0, [row["largest eigenvalue"] for row in rows], details={"instances": rows})


_dual_flow = jax.jit(lambda feats, penalty, times: dual.integrate(feats, penalty, times=times).response)
_primal_flow = jax.jit(lambda feats, penalty, times: linearized.flow(feats, penalty, times=times).response)


def shared_optimum(time: float = 1e6) -> Observation:
    """The relative difference of responses between the dual flow of Eq. 9 and the primal flow of training at a time."""
    penalty, errors = Ridge(0.1), {}
    for name in ("pair", "random", "few digits"):
        feats, times = instances.feats(name), jnp.array([time])
        ascent, training = (flow(feats, penalty, times)[-1] for flow in (_dual_flow, _primal_flow))
        errors[name] = float(jnp.max(jnp.abs(training - ascent)) / jnp.max(jnp.abs(ascent)))

    def draw():
        figure, axes = plotting.panels(columns=2)
        feats, times = instances.feats("pair"), jnp.geomspace(1e-6, 1e4, 200)
        for ax, title, flow in (
            (axes[0, 0], "dual flow, Eq. 9", _dual_flow),
            (axes[0, 1], "primal flow of training", _primal_flow),
        ):
            plotting.paths(times, flow(feats, penalty, times), ax)
            ax.set_title(title)
        return figure

    return Observation.equal(0.0, list(errors.values()), 1e-5, details=instances.table(errors), figure=draw)


CLAIMS = (
    Claim(
        name="eq9-gradient",
        reference="Eqs. 8, 9",
        statement="The field of Eq. 9 is the gradient of the dual objective, Eq. 8.",
        check=gradient,
        control=Control(
            "misprint",
            "U^T S^2 U instead of U S^2 U^T, as in the text after Theorem 2",
            {"misprint": True, "names": ("random",)},
        ),
    ),
    Claim(
        name="eq9-invariance",
        reference="Eq. 9",
        statement="(0, 1)^n is invariant: close to its faces the field of Eq. 9 points inwards.",
        check=invariance,
        control=Control("eq10", "the field of Eq. 10, whose entropy has no upper wall", {"form": "linearized"}),
    ),
    Claim(
        name="eq10-approximation",
        reference="Eq. 10",
        statement="For lambda << s_k^2 the fixed point of Eq. 10 differs from that of Eq. 9 by the response to the "
        "omitted term, alpha^2 / 2.",
        check=approximation,
        control=Control(
            "no-lambda", "S^2 instead of S^2 + lambda I: the difference is of first order", {"shift": -1.0}
        ),
    ),
    Claim(
        name="theorem1-attraction",
        reference="Theorem 1",
        statement="A fixed point of Eq. 10 in (0, 1)^n is attractive: every eigenvalue of the Jacobian is negative.",
        check=attraction,
        control=Control(
            "indefinite",
            "the strengths 25 and -15, which no Gram matrix has",
            {"kernels": {"indefinite": np.array([[6.0, 20.0], [20.0, 6.0]])}},
        ),
    ),
    Claim(
        name="flows-share-optimum",
        reference="Eqs. 3, 5, 9",
        statement="The dual flow and the gradient flow of training end at the same responses.",
        check=shared_optimum,
        control=Control(
            "on-the-way", "compared at time 1: the dual flow is not the time course of training", {"time": 1.0}
        ),
    ),
)
