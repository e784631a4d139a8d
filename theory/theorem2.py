"""Theorem 2 for every coupling, strength and lambda, for Eqs. 9 and 10: the statement, and each step of its proof.

The proof is in `docs/theorem2.md`; this file uses its notation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from gsjax import Ridge, dual, features, starvation
from gsjax.dual.links import Form
from theory import instances
from theory.claim import Claim, Control, Observation

DRAWS = 4000
NOTHING = 1e-9  # a difference counts as zero below this, relative to its terms
RESOLVED = (
    1e-12  # a difference of D, relative to D, has a certain sign above this: equilibria are precise to about 1e-15
)


class Draws(NamedTuple):
    """Random points, and all quantities of the proof at their equilibria; every leaf is `(draws, ...)`."""

    delta: np.ndarray
    ratio: np.ndarray
    strength: np.ndarray
    alpha: np.ndarray
    margins: np.ndarray
    pulls: np.ndarray
    curvature: np.ndarray
    matrix: np.ndarray
    converged: np.ndarray


@functools.partial(jax.jit, static_argnames=("form", "oriented"))
def _solved(delta, ratio, strength, form: Form, oriented: bool):
    def one(delta, ratio, strength):
        feats, penalty = features.planar(delta, jnp.array([ratio, 1.0])), Ridge(strength)
        found = dual.equilibrium(feats, penalty, form=form)
        matrix = starvation.matrix(feats, penalty, form=form, oriented=oriented)
        return found.alpha, feats.u.T @ found.alpha, feats.u @ found.response, matrix, found.converged

    return jax.vmap(one)(delta, ratio, strength)


def _draws(form: Form = "exact", oriented: bool = True, inner: bool | None = None) -> Draws:
    """Random points: delta in (-.999, .999), s_1^2 / s_2^2 in 1e-2..1e2, lambda / s_2^2 in 1e-3..1e3.

    With `inner` True the draws have s_1 > s_2 and c > |delta|, to which the proof reduces all other cases. With False
    they have s_1 > s_2 and c < |delta|.
    """
    rng, half = np.random.default_rng(0), np.sqrt(0.5)
    delta, log_ratio = rng.uniform(-0.999, 0.999, DRAWS), rng.uniform(-2, 2, DRAWS)
    strength = 10 ** rng.uniform(-3, 3, DRAWS)
    if inner is not None:
        low, high = (0, half) if inner else (half, 0.999)
        delta, log_ratio = np.sign(delta) * rng.uniform(low, high, DRAWS), np.abs(log_ratio)
    ratio = 10**log_ratio
    found = _solved(jnp.asarray(delta), jnp.asarray(ratio), jnp.asarray(strength), form, oriented)
    alpha, pulls, margins, matrix, converged = map(np.asarray, found)
    curvature = alpha * (1 - alpha) if form == "exact" else alpha / (1 + alpha)
    return Draws(delta, ratio, strength, alpha, margins, pulls, curvature, matrix, converged)


def signs(form: Form = "exact", oriented: bool = True) -> Observation:
    """The share of draws, in all four quadrants, with a sensitivity of another sign than -delta (s_1^2 - s_2^2)."""
    draws = _draws(form, oriented)
    sought = -np.sign(draws.delta * (draws.ratio - 1))
    couplings = np.stack([draws.matrix[:, 1, 0], draws.matrix[:, 0, 1]])
    # The relative size of the coupling. Close to rounding the sign is uncertain, and the draw counts as wrong.
    left = np.abs(np.diff(draws.curvature)[:, 0]) / draws.curvature.sum(axis=1)
    told = draws.converged & (left > RESOLVED)
    wrong = ~told | (np.sign(couplings) != sought).any(axis=0)
    details = {
        "draws": DRAWS,
        "starving": float(np.mean(sought < 0)),
        "smallest |D_2 - D_1| / (D_1 + D_2)": float(left.min()),
        "draws whose sign cannot be told": int(np.sum(~told)),
    }
    return Observation.equal(0.0, float(np.mean(wrong)), 0.0, details=details)


def steps(inner: bool = True) -> Observation:
    """The share of draws, for both equations, at which a step of the proof is wrong."""
    shares = {}
    for form in ("exact", "linearized"):
        draws = _draws(form, inner=inner)
        c, (first, second) = np.sqrt(1 - draws.delta**2), draws.alpha.T
        (m_1, m_2), (c_1, c_2), (d_1, d_2) = draws.margins.T, draws.pulls.T, draws.curvature.T
        q = first - second
        right = q + (draws.ratio - 1) * (c - draws.delta) * c_1
        size = first + second + (draws.ratio + 1) * (np.abs(c_1) + np.abs(c_2))
        checks = {
            "0: converged": draws.converged,
            "1: the identity": np.abs(draws.strength * (m_1 - m_2) - right) <= NOTHING * size,
            "2: q < 0": q < 0,
            "3: m_1 > m_2": m_1 > m_2,
            "3: c_1 > 0": c_1 > 0,
            "3: c_2 > 0": c_2 > 0,
            "4: m_1 > |m_2|": m_1 > np.abs(m_2),
            "5: D_1 < D_2": d_1 < d_2,
        }
        shares |= {f"{form}, {name}": float(np.mean(~good)) for name, good in checks.items()}
    return Observation.equal(0.0, list(shares.values()), 0.0, details=instances.table(shares))


def exceptions(offset: float = 0.0) -> Observation:
    """The largest sensitivity at delta = 0, +-1/sqrt(2) and s_1 = s_2, relative to its row; `offset` moves them."""
    rng, half = np.random.default_rng(1), np.sqrt(0.5)
    delta, ratio = rng.uniform(-0.999, 0.999, 400), 10 ** rng.uniform(-2, 2, 400)
    strength = 10 ** rng.uniform(-3, 3, 400)
    delta[:300] = np.repeat([0.0, half, -half], 100) + offset
    ratio[300:] = 1 + offset
    largest = {}
    for form in ("exact", "linearized"):
        *_, matrix, _ = _solved(jnp.asarray(delta), jnp.asarray(ratio), jnp.asarray(strength), form, True)
        matrix = np.abs(np.asarray(matrix))
        relative = np.array([matrix[:, 1, 0], matrix[:, 0, 1]]) / np.array([matrix[:, 1, 1], matrix[:, 0, 0]])
        # At delta = -1/sqrt(2) a pull vanishes and with it its row, so the scale is that of the whole matrix.
        relative = np.minimum(relative, np.array([matrix[:, 1, 0], matrix[:, 0, 1]]) / matrix.max(axis=(1, 2)))
        largest[form] = float(relative.max())
    return Observation.equal(0.0, list(largest.values()), 1e-9, details=instances.table(largest))


# The dual variable g of an example as a function of its margin, and D = -dg/dm. In Eq. 10 log g + g = -m. The first
# five satisfy (A) and (B); the last three break one hypothesis each.
FORCES = {
    "logistic": (lambda m: special.expit(-m), lambda m: special.expit(m) * special.expit(-m)),
    "Eq. 10": (lambda m: special.wrightomega(-m), lambda m: 1 - 1 / (1 + special.wrightomega(-m))),
    "exponential": (lambda m: np.exp(-m), lambda m: np.exp(-m)),
    "hyperbolic": (lambda m: np.sqrt(1 + m**2) - m, lambda m: 1 - m / np.sqrt(1 + m**2)),
    "arctangent": (lambda m: np.pi / 2 - np.arctan(m), lambda m: 1 / (1 + m**2)),
    "exponential less 2": (lambda m: np.exp(-m) - 2, lambda m: np.exp(-m)),
    "rising arctangent": (lambda m: np.pi / 2 + np.arctan(m), lambda m: -1 / (1 + m**2)),
    "logistic, margins less 4": (lambda m: special.expit(4 - m), lambda m: special.expit(m - 4) * special.expit(4 - m)),
}


def hypotheses(losses: Sequence[str], tilt: float = 0.0) -> Observation:
    """The share of draws with a sensitivity of another sign than -delta (s_1^2 - s_2^2), for each of `losses`.

    No equation is solved and the library is not used: margins are drawn instead of strengths. With m = U z and z_k =
    (s_k^2 / lambda) u_k . g(m), every m is the optimum for one pair of strengths, and is kept if both are in 1e-3..1e3.
    The sensitivities solve (I + S^2 C / lambda) dz = diag(c) d(s^2) / lambda. `tilt` rotates u_2, in radians.
    """
    rng, shares, counts = np.random.default_rng(2), {}, {}
    for name in losses:
        force, slope = FORCES[name]
        m = rng.normal(size=(5 * DRAWS, 2)) * 10 ** rng.uniform(-1.5, 0.7, (5 * DRAWS, 1))
        delta = rng.uniform(-0.999, 0.999, len(m))
        angle = np.arcsin(delta)
        u = np.array([[np.cos(angle), -np.sin(angle + tilt)], [np.sin(angle), np.cos(angle + tilt)]])
        u = np.moveaxis(u, 2, 0)
        z = np.linalg.solve(u, m[..., None])[..., 0]
        pulls = np.einsum("nki,nk->ni", u, force(m))
        ratio = z / pulls
        kept = ((ratio > 1e-3) & (ratio < 1e3)).all(axis=1)
        delta, u, m, z, pulls, ratio = (array[kept] for array in (delta, u, m, z, pulls, ratio))
        coupling = np.einsum("nki,nk,nkj->nij", u, slope(m), u)
        matrix = np.linalg.solve(np.eye(2) + ratio[:, :, None] * coupling, pulls[:, :, None] * np.eye(2))
        oriented = np.where(z < 0, -1, 1)[:, :, None] * matrix
        sought = -np.sign(delta * (ratio[:, 0] - ratio[:, 1]))
        told = np.abs(coupling[:, 0, 1]) > RESOLVED * np.abs(slope(m)).sum(axis=1)
        right = told & (np.sign(oriented[:, 1, 0]) == sought) & (np.sign(oriented[:, 0, 1]) == sought)
        shares[name], counts[name] = float(np.mean(~right)), int(kept.sum())
    details = {"draws": counts, "draws with another sign": shares}
    return Observation.equal(0.0, list(shares.values()), 0.0, details=details)


def pairs(others: bool = True) -> Observation:
    """The closed form for two of many features against the starvation matrix; `others=False` omits all others."""
    errors = {}
    forms: tuple[Form, ...] = ("exact", "exact", "linearized")
    for seed, form in enumerate(forms):
        n = 8
        u = np.asarray(instances.orthogonal(jax.random.key(seed), n))
        s2, strength = np.geomspace(10.0, 0.1, n), 0.3
        feats = features.from_spectrum(jnp.asarray(u), jnp.sqrt(jnp.asarray(s2)))
        alpha = np.asarray(dual.equilibrium(feats, Ridge(strength), form=form).alpha)
        matrix = np.asarray(starvation.matrix(feats, Ridge(strength), form=form, oriented=False))
        d = alpha * (1 - alpha) if form == "exact" else alpha / (1 + alpha)
        pulls, closed = u.T @ alpha, np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                if i != j:
                    rest = [k for k in range(n) if k not in (i, j)] if others else []
                    left = np.linalg.inv(np.diag(1 / d) + (u[:, rest] * s2[rest] / strength) @ u[:, rest].T)
                    both = u[:, [i, j]].T @ left @ u[:, [i, j]]
                    det = np.linalg.det(np.eye(2) + s2[[i, j], None] * both / strength)
                    closed[j, i] = -s2[j] / strength**2 * both[1, 0] * pulls[i] / det
        mask = ~np.eye(n, dtype=bool)
        errors[f"n = {n}, {form}, U {seed}"] = float(np.abs(closed - matrix)[mask].max() / np.abs(matrix[mask]).max())
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


CLAIMS = (
    Claim(
        name="theorem2-exact",
        reference="Theorem 2, Eqs. 9, 15; docs/theorem2.md",
        statement="For every coupling, strength and lambda the oriented d z_2*/d s_1^2 and d z_1*/d s_2^2 both have "
        "the sign of -delta (s_1^2 - s_2^2).",
        check=signs,
        control=Control("not-oriented", "the signs of the singular vectors as in Eq. 15", {"oriented": False}),
    ),
    Claim(
        name="theorem2-exact-linearised",
        reference="Theorem 2, Eqs. 10, 15; docs/theorem2.md",
        statement="The same for the fixed point of Eq. 10.",
        check=functools.partial(signs, "linearized"),
        control=Control("not-oriented", "the signs of the singular vectors as in Eq. 15", {"oriented": False}),
    ),
    Claim(
        name="theorem2-proof",
        reference="docs/theorem2.md, steps 1 to 5",
        statement="Each step of the proof holds for s_1 > s_2 and |delta| < 1/sqrt(2), for Eq. 9 and for Eq. 10.",
        check=steps,
        control=Control("outer", "|delta| > 1/sqrt(2), where the examples are exchanged", {"inner": False}),
    ),
    Claim(
        name="theorem2-exceptions",
        reference="docs/theorem2.md",
        statement="Both sensitivities vanish at delta = 0, at delta = +-1/sqrt(2), and at equal strengths.",
        check=exceptions,
        control=Control("close", "0.01 away from there", {"offset": 0.01}),
    ),
    Claim(
        name="theorem2-positive",
        reference="docs/theorem2.md, (A)",
        statement="The same for the exponential loss, whose force on an example is positive and falls with its margin.",
        check=functools.partial(hypotheses, losses=["exponential"]),
        control=Control("not-positive", "the force minus the constant 2", {"losses": ["exponential less 2"]}),
    ),
    Claim(
        name="theorem2-falling",
        reference="docs/theorem2.md, (A)",
        statement="The same for the force pi/2 - arctan m, which falls with the margin.",
        check=functools.partial(hypotheses, losses=["arctangent"]),
        control=Control("rising", "pi/2 + arctan m, which rises", {"losses": ["rising arctangent"]}),
    ),
    Claim(
        name="theorem2-curvature",
        reference="docs/theorem2.md, (B)",
        statement="The same for the logistic loss, whose slope D is largest at the margin 0.",
        check=functools.partial(hypotheses, losses=["logistic"]),
        control=Control(
            "shifted", "a loss that wants a margin of 4, where D is largest", {"losses": ["logistic, margins less 4"]}
        ),
    ),
    Claim(
        name="theorem2-orthogonal",
        reference="docs/theorem2.md",
        statement="The same for Eq. 10 and for the force sqrt(1 + m^2) - m, where the columns of U are orthogonal.",
        check=functools.partial(hypotheses, losses=["Eq. 10", "hyperbolic"]),
        control=Control("tilted", "u_2 rotated by 0.02 radians: not singular vectors", {"tilt": 0.02}),
    ),
    Claim(
        name="theorem2-pairs",
        reference="docs/theorem2.md",
        statement="Any two of many features starve each other like two features alone, with D~ in place of D.",
        check=pairs,
        control=Control("others-left-out", "D itself, as if there were no other features", {"others": False}),
    ),
)
