"""Starvation in higher dimensions: how common it is in an ensemble of bases.

With the weights of the optimum, `w = z* / s = V^T theta*`, and the Hessian `P = I + S U^T D U S / lambda` of the
whitened problem, the starvation matrix of Definition 2 (Pezeshki et al. 2021) has the dimensionless form

    E[j, i] = d log|z_j*| / d log s_i^2 = (P^-1)_ji w_i / w_j.

P^-1 is symmetric and between 0 and I. Starvation is therefore mutual:

- the two directions of a pair have the same sign, that of `(P^-1)_ij w_i w_j`;
- their geometric mean `|(P^-1)_ij|` is at most 1/2;
- their ratio is `E[j, i] / E[i, j] = (w_i / w_j)^2`, so the feature with the larger weight in theta* starves the other
  more than it is starved.

All pairs starve if `w_i (P^-1)_ij w_j` is an M-matrix. With `C = U^T D U` and `c = U^T alpha*`, the sign depends on the
structure:

- To first order in the coupling, i and j starve each other iff `C_ij c_i c_j > 0`. If D is a multiple of the identity,
  so is C, and nothing starves, as with equal strengths (Eq. 12). Starvation needs examples that are not equally hard.
- Let the strengths be `s_1^2` and one common value for the rest, and let the strongest feature be `1 / sqrt(n)` except
  for a sign change on q examples, the exceptions. Then D has two values, the larger one on the exceptions. Two of the
  other features starve each other iff `(x_i.x_j) (1.x_i) (1.x_j) > 0`, where x (q,) are their entries on the
  exceptions. For q = 1 these are all pairs. For a random basis with n >> q their share is `1 - E[t] / pi`, where t is
  the angle between the lines along x and 1: 3/4 for q = 2, and 1/2 + 0.25 / sqrt(q) for large q.
- A feature whose overlap with the labels, `1.u_1 / sqrt(n)`, is nearly 1 starves exactly the weaker features, because
  `C_1j c_1 c_j` then has the sign of `s_1^2 - s_j^2`. This is Theorem 2 in n dimensions.
- In a perturbed identity, a stronger feature starves a weaker one iff it has a positive loading on the example of the
  weaker one, provided that the loadings are small compared with the difference of D between the two examples.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from gsjax import _check
from gsjax.dual import equilibrium
from gsjax.dual.equilibrium import Equilibrium
from gsjax.dual.links import Form, link
from gsjax.dual.newton import definite_solve
from gsjax.features import Features, from_spectrum
from gsjax.objectives import Penalty, Ridge

__all__ = ["Ensemble", "elasticity", "ensemble"]


class Ensemble(NamedTuple):
    """Measures of starvation in each of k bases, all `(k,)`.

    They are NaN if the equilibrium did not converge. Statistics over starving pairs are NaN if nothing starves.

    - `share`: the share of starving pairs among all ordered pairs of features. Pairs whose coupling is within rounding
      do not count as starving.
    - `coupled`: the share of pairs whose coupling exceeds rounding.
    - `strongest`: the largest geometric mean of the two directions of a starving pair, `sqrt(E[j, i] E[i, j])`, which
      is at most 1/2; 0 if nothing starves. (A single direction has no upper bound and no mean over random bases,
      because it is inversely proportional to a response that may be small.)
    - `inequality`: the median over starving pairs of `|log10(E[j, i] / E[i, j])|`.
    - `downhill`: the share of starving pairs of different strengths in which the stronger feature starves the weaker
      one more than the reverse, by elasticity.
    - `by_strongest`: the share of all other features that the strongest feature starves.
    - `by_aligned`: the share of weaker features starved by the feature that agrees best with the labels, which has the
      largest `|1.u_j|`. NaN if that feature is the weakest.
    - `support`: the effective share of examples that carry the loss, `(sum alpha)^2 / (n sum alpha^2)`, in [1 / n, 1].
    - `converged`: whether the equilibrium converged.
    """

    share: Float[Array, " k"]
    coupled: Float[Array, " k"]
    strongest: Float[Array, " k"]
    inequality: Float[Array, " k"]
    downhill: Float[Array, " k"]
    by_strongest: Float[Array, " k"]
    by_aligned: Float[Array, " k"]
    support: Float[Array, " k"]
    converged: Bool[Array, " k"]


def ensemble(
    u: Float[Array, "k n r"], s2: Float[Array, "k r"] | Float[Array, " r"], penalty: Penalty, *, form: Form = "exact"
) -> Ensemble:
    """Measures of starvation in each of the bases `u (k, n, r)`, with strengths `s2 (k, r)`, or `(r,)` for all bases.

    They are computed from the matrix of `elasticity` (Definition 2 of Pezeshki et al. 2021, oriented) at the
    equilibrium of Eq. 9, or of Eq. 10 for `form="linearized"`. `u` includes the labels. Features may be in any order.
    One compiled program processes the bases one after another.

    Raises:
        ValueError: `u` is not a stack of orthonormal columns, two or more; `s2` are not positive strengths, one per
            column; an unknown `form` or `penalty`.

    >>> from gsjax.features import planar
    >>> bases = jnp.stack([planar(delta, jnp.ones(2)).u for delta in (-0.3, 0.3)])
    >>> ensemble(bases, jnp.array([4.0, 1.0]), Ridge(0.1)).share.tolist()
    [0.0, 1.0]
    """
    u, s2 = _check.single("u", u), _check.single("s2", s2)
    link(form)  # raises for an unknown form
    _check.shape("u", u, ndim=3)
    k, n, r = u.shape
    _check.require(2 <= r <= n, "u", "shape (k, n, r) with 2 <= r <= n", f"shape {u.shape}")
    _check.require(s2.shape in ((k, r), (r,)), "s2", f"shape {(k, r)} or {(r,)}", f"shape {s2.shape}")
    _check.finite("u", u)
    _check.positive("s2", s2)
    defect = jnp.max(jnp.abs(jnp.swapaxes(u, 1, 2) @ u - jnp.eye(r, dtype=u.dtype)))
    expected = "orthonormal columns"
    _check.require(defect <= jnp.sqrt(jnp.finfo(u.dtype).eps), "u", expected, f"u.T @ u off the identity by {defect}")
    # One program for all ensembles of a shape.
    return jax.jit(_ensemble, static_argnames="form")(u, jnp.broadcast_to(s2, (k, r)), penalty, form=form)


def elasticity(feats: Features, penalty: Penalty, *, form: Form = "exact") -> Float[Array, "r r"]:
    """The dimensionless starvation matrix `(r, r)`, `E[j, i] = d log|z_j*| / d log s_i^2`; i starves j if negative.

    It is `matrix(feats, penalty)[j, i] s_i^2 / |z_j*|` (Definition 2 of Pezeshki et al. 2021) and needs no orientation.
    It allows comparisons between features of any strength and problems of any scale. Row j sums to `-d log|z_j*| / d
    log lambda`. The matrix is zero under spectral decoupling. Rows of features without response are NaN, and so is the
    whole matrix if the equilibrium did not converge.

    Raises:
        ValueError: an unknown `form` or `penalty`, or per-example arrays of the wrong length.

    >>> from gsjax.features import planar
    >>> (elasticity(planar(0.6, jnp.array([4.0, 1.0])), Ridge(0.1)) < 0).tolist()
    [[False, True], [True, False]]
    """
    return _elasticity(feats, penalty, equilibrium(feats, penalty, form=form), form)


def _elasticity(feats: Features, penalty: Penalty, state: Equilibrium, form: Form) -> Float[Array, "r r"]:
    r, dtype = feats.s.shape[0], feats.s.dtype
    if not isinstance(penalty, Ridge):
        return jnp.where(state.converged, jnp.zeros((r, r), dtype), jnp.nan)
    b = feats.s / jnp.sqrt(jnp.asarray(penalty.strength, dtype))
    whitened = feats.u * b
    hessian = jnp.eye(r, dtype=dtype) + whitened.T @ (link(form).curvature(state.margins)[:, None] * whitened)
    inverse = definite_solve(hessian)(jnp.eye(r, dtype=dtype))
    pull = feats.u.T @ state.alpha + state.response
    known = (jnp.abs(pull) > _rounding(dtype) * jnp.linalg.norm(state.alpha + state.margins)) & (b > 0)
    weight = jnp.where(known, state.response / jnp.where(known, b, 1), 0)
    return jnp.where(state.converged & known[:, None], inverse * weight / weight[:, None], jnp.nan)


def _ensemble(u: Float[Array, "k n r"], s2: Float[Array, "k r"], penalty: Penalty, form: Form) -> Ensemble:
    # One basis after another, because a batch would iterate until its slowest member has converged.
    return lax.map(lambda basis: _summary(from_spectrum(basis[0], jnp.sqrt(basis[1])), penalty, form), (u, s2))


def _summary(feats: Features, penalty: Penalty, form: Form) -> Ensemble:
    """The fields of `Ensemble` for one basis, as scalars."""
    state = equilibrium(feats, penalty, form=form)
    e, s2, r = _elasticity(feats, penalty, state, form), feats.s2, feats.s.shape[0]
    mutual = jnp.sqrt(
        e * e.T
    )  # |P^-1|; P^-1 and I - P^-1 are positive semi-definite, so their diagonals bound the other entries
    own = jnp.diagonal(mutual)
    bound = jnp.sqrt(jnp.minimum(own[:, None] * own, (1 - own[:, None]) * (1 - own)))
    clear = (mutual > _rounding(e.dtype) * bound) & ~jnp.eye(r, dtype=bool)
    starves = clear & (e < 0)
    pairs = r * (r - 1)

    leader, best = jnp.argmax(s2), jnp.argmax(jnp.abs(jnp.sum(feats.u, axis=0)))
    weaker = s2 < s2[best]
    towards_weaker = starves & (s2[:, None] < s2)
    found = Ensemble(
        share=jnp.sum(starves) / pairs,
        coupled=jnp.sum(clear) / pairs,
        strongest=jnp.max(jnp.where(starves, mutual, 0)),
        inequality=jnp.nanmedian(jnp.where(starves, jnp.abs(jnp.log10(e / e.T)), jnp.nan)),
        downhill=jnp.sum(towards_weaker & (e < e.T)) / jnp.sum(towards_weaker),
        by_strongest=jnp.sum(starves[:, leader]) / (r - 1),
        by_aligned=jnp.sum(starves[:, best] & weaker) / jnp.sum(weaker),
        support=jnp.sum(state.alpha) ** 2 / (feats.u.shape[0] * jnp.sum(state.alpha**2)),
        converged=state.converged,
    )
    numbers = jax.tree.map(lambda number: jnp.where(state.converged, number, jnp.nan), found)
    return numbers._replace(converged=state.converged)


def _rounding(dtype) -> Float[Array, ""]:
    """The relative size below which a coupling counts as rounding: a few times the tolerance of the solver."""
    return 8 * jnp.asarray(jnp.finfo(dtype).eps, dtype) ** (2 / 3)
