"""Gradient starvation: Theorem 2, its orientation, and the starvation matrix, also in higher dimensions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gsjax import Ridge, features, plotting, starvation, statistics
from gsjax.dual import closed_form
from gsjax.dual.links import Form
from gsjax.statistics import loglog_slope
from theory import instances
from theory.claim import Claim, Control, Observation


@functools.partial(jax.jit, static_argnames=("form", "oriented"))
def _slopes(delta, ratio, strength, form: Form = "exact", oriented=True):
    """`d z_2* / d(s_1^2)` `(L, R, D)` over `delta (D,)`, `ratio (R,)` = s_1^2 / s_2^2, `strength (L,)`; s_2 = 1."""

    def slope(delta, ratio, strength):
        feats = features.planar(delta, jnp.array([ratio, 1.0]))
        return starvation.matrix(feats, Ridge(strength), form=form, oriented=oriented)[1, 0]

    over_delta = jax.vmap(slope, in_axes=(0, None, None))
    return jax.vmap(jax.vmap(over_delta, in_axes=(None, 0, None)), in_axes=(None, None, 0))(delta, ratio, strength)


def theorem2(
    low: float = 0.01,
    high: float = 0.7,
    ratios: tuple[float, float] = (1.05, 50.0),
    form: Form = "exact",
    oriented: bool = False,
) -> Observation:
    """The largest `d z_2* / d(s_1^2)` over a grid of delta in (low, high), s_1^2 / s_2^2 and lambda.

    If oriented, it is 0 at delta = 1 / sqrt(2), where both examples are equally hard. This is also checked.
    """
    delta, ratio = jnp.linspace(low, high, 40), jnp.geomspace(*ratios, 25)
    strength = jnp.array([1e-3, 1e-2, 1e-1, 1.0])
    slopes = _slopes(delta, ratio, strength, form, oriented)

    def draw():
        figure, axes = plotting.panels()
        delta, ratio = jnp.linspace(-0.99, 0.99, 100), jnp.geomspace(0.1, 10, 80)
        values = _slopes(delta, ratio, jnp.array([0.1]), form, oriented)[0]
        ax = plotting.sign_map(delta, ratio, values, axes[0, 0])
        ax.set_yscale("log")
        ax.set_title(("oriented" if oriented else "signs as in Eq. 15") + r", $\lambda = 0.1\, s_2^2$")
        return figure

    grid = {"delta": (low, high), "s1^2 / s2^2": ratios, "lambda / s2^2": (1e-3, 1.0), "points": slopes.size}
    touching = _slopes(jnp.sqrt(jnp.array([0.5])), ratio, strength, form, oriented)
    nothing = float(jnp.max(jnp.abs(touching)) / jnp.max(jnp.abs(slopes)))
    details = {"grid": grid, "largest at delta = 1/sqrt(2), relative to the grid": nothing}
    found = Observation.below(0.0, slopes, details=details, figure=draw)
    return found._replace(holds=found.holds and nothing < 1e-12) if oriented else found


def first_order(ratio_term: bool = True) -> Observation:
    """Slope, in delta, of the error of the first-order formula for `d z_2* / d(s_1^2)` under Eq. 10."""
    deltas = np.geomspace(1e-4, 1e-2, 5)
    errors = []
    for ratio, strength in ((2.0, 0.01), (2.0, 1.0), (10.0, 0.01), (10.0, 1.0)):
        exact = _slopes(jnp.asarray(deltas), jnp.array([ratio]), jnp.array([strength]), "linearized", False)[0, 0]
        s2 = jnp.array([ratio, 1.0])
        predicted = jnp.array([closed_form.theorem2_slope(delta, s2, strength) for delta in deltas])
        if not ratio_term:
            alpha = closed_form.permutation(s2, strength)[0]
            predicted = predicted / (1 - alpha[0] / alpha[1])
        errors.append(np.abs(np.asarray(exact - predicted)))
    slope = loglog_slope(deltas, np.stack(errors))
    return Observation.slope(2.0, slope, 0.1, details={"delta": deltas.tolist(), "pairs of strengths and lambda": 4})


def finite_differences(coupling: bool = True) -> Observation:
    """The closed form of the starvation matrix against central differences of the equilibrium, for both forms."""
    strength, errors = 0.1, {}
    for form in ("exact", "linearized"):
        for name in ("random", "deficient") if form == "exact" else ("random",):
            feats = instances.feats(name)
            if coupling:
                closed = instances.matrix(feats, Ridge(strength), form=form, oriented=False)
            else:
                closed = jnp.diag(feats.u.T @ instances.equilibrium(feats, Ridge(strength), form=form).alpha) / strength
            columns = []
            for step in 1e-5 * jnp.diag(feats.s2):
                raised, lowered = (feats._replace(s=jnp.sqrt(feats.s2 + sign * step)) for sign in (1, -1))
                change = (
                    instances.equilibrium(raised, Ridge(strength), form=form).response
                    - instances.equilibrium(lowered, Ridge(strength), form=form).response
                )
                columns.append(change / (2 * jnp.sum(step)))
            error = jnp.max(jnp.abs(closed - jnp.stack(columns, axis=1))) / jnp.max(jnp.abs(closed))
            errors[f"{name}, {form}"] = float(error)
    return Observation.equal(0.0, list(errors.values()), 1e-6, details=instances.table(errors))


def _oriented(name: str, oriented: bool = True):
    """Starvation matrix, absolute responses and strengths of the 20 strongest features of an instance."""
    feats, penalty = instances.feats(name), Ridge(0.1)
    response = instances.equilibrium(feats, penalty).response
    slopes = instances.matrix(feats, penalty, oriented=False)
    slopes = starvation.orient(slopes, response) if oriented else slopes
    return slopes[:20, :20], jnp.abs(response[:20]), feats.s2[:20]


def mutual_sign(oriented: bool = True) -> Observation:
    """The share of pairs of features whose two sensitivities have the same sign."""
    rows = []
    for name in instances.NAMES:
        matrix, _, _ = _oriented(name, oriented)
        same = np.sign(matrix) == np.sign(matrix.T)
        rows.append({"instance": name, "share": float(np.mean(same[np.triu_indices(len(matrix), 1)]))})
    return Observation.equal(1.0, [row["share"] for row in rows], 0.0, details={"instances": rows})


def mutual_ratio(power: int = 4) -> Observation:
    """`G[j, i] z_j / s_j^power` against its transpose, over the 20 strongest features."""
    errors = {}
    for name in instances.NAMES:
        matrix, response, s2 = _oriented(name)
        symmetric = matrix * (response / s2 ** (power / 2))[:, None]
        errors[name] = float(jnp.max(jnp.abs(symmetric - symmetric.T)) / jnp.max(jnp.abs(symmetric)))
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


def half_starve(delta: float | None = None, seeds: int = 40) -> Observation:
    """The share of ordered pairs that starve, for n = 32: random orthogonal U, or a perturbed identity with `delta`.

    The perturbed identity generalises Eq. 15 to n dimensions: `exp(delta A)` with A antisymmetric and near -1 above the
    diagonal.
    """
    n = 32
    s2 = jnp.geomspace(10.0, 0.1, n)

    @jax.jit
    @jax.vmap
    def share(key):
        if delta is None:
            u = instances.orthogonal(key, n)
        else:
            upper = jnp.triu(jnp.ones((n, n)) + 0.1 * jax.random.normal(key, (n, n)), 1)
            u = jax.scipy.linalg.expm(delta * (upper.T - upper))
        return starvation.share(features.from_spectrum(u, jnp.sqrt(s2)), Ridge(0.1))

    shares = np.asarray(share(jax.random.split(jax.random.key(7), seeds)))
    mean = statistics.mean(shares)
    holds = float(mean.low) > 0.45 and float(mean.high) < 0.55
    details = {"interval": (float(mean.low), float(mean.high)), "seeds": seeds, "n": n}
    return Observation(0.5, float(mean.value), 0.05, holds, details)


CLAIMS = (
    Claim(
        name="theorem2-sign",
        reference="Theorem 2, Eqs. 15, 16",
        statement="s_1^2 > s_2^2 implies d z_2*/d s_1^2 < 0, for 0 < delta < 0.7 and the exact dynamics.",
        check=theorem2,
        control=Control("delta-negative", "delta between -0.7 and -0.01", {"low": -0.7, "high": -0.01}),
    ),
    Claim(
        name="theorem2-sign-linearised",
        reference="Theorem 2, Eqs. 10, 15, 16",
        statement="The same for the fixed point of Eq. 10, for which the paper proves it.",
        check=functools.partial(theorem2, form="linearized"),
        control=Control("s1-below-s2", "s_1^2 < s_2^2", {"ratios": (0.02, 0.95)}),
    ),
    Claim(
        name="theorem2-oriented",
        reference="Theorem 2; Definition 2 with z_2* made positive",
        statement="With orientation, s_1^2 > s_2^2 implies d z_2*/d s_1^2 < 0 for every delta in (0, 1) except "
        "1 / sqrt(2), where it is 0.",
        check=functools.partial(theorem2, high=0.99, oriented=True),
        control=Control(
            "as-written", "signs as in Eq. 15: z_2* changes its sign at delta = 1 / sqrt(2)", {"oriented": False}
        ),
    ),
    Claim(
        name="theorem2-slope",
        reference="Theorem 2 to first order in delta",
        statement="The first-order formula for d z_2*/d s_1^2 has an error of second order in delta.",
        check=first_order,
        control=Control("ratio-dropped", "without the factor 1 - a_1 / a_2", {"ratio_term": False}),
    ),
    Claim(
        name="starvation-matrix",
        reference="Definition 2, Eqs. 9 to 11",
        statement="d z*/d s^2 = (1 / lambda) (I + S^2 C / lambda)^-1 diag(U^T alpha*): one solve for all entries.",
        check=finite_differences,
        control=Control("no-reaction", "alpha* held fixed: diag(U^T alpha*) / lambda", {"coupling": False}),
    ),
    Claim(
        name="starvation-mutual",
        reference="Definition 2, oriented",
        statement="If feature i starves feature j, then j starves i: the oriented signs of G[j, i] and G[i, j] agree.",
        check=mutual_sign,
        control=Control("not-oriented", "without orientation of the singular vectors", {"oriented": False}),
    ),
    Claim(
        name="starvation-mutual-ratio",
        reference="Definition 2, oriented",
        statement="G[j, i] and G[i, j] differ in size: G[j, i] / G[i, j] = (z_i* / s_i^4) / (z_j* / s_j^4).",
        check=mutual_ratio,
        control=Control("power", "s^2 instead of s^4", {"power": 2}),
    ),
    Claim(
        name="starvation-random-u",
        reference="Definition 2, oriented, n = 32",
        statement="For a random orthogonal U about half of all ordered pairs starve, so the sign of Theorem 2 does not "
        "carry over.",
        check=half_starve,
        control=Control("structured", "U close to the identity, as in Eq. 15 with delta = 0.01", {"delta": 0.01}),
    ),
)
