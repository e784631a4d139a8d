"""Starvation in higher dimension: how much of it there is in an ensemble of bases.

With `w = z* / s = V^T theta*`, the optimum's weights, and the Hessian `P = I + S U^T D U S / lambda` of the whitened
problem, the starvation matrix of Definition 2 (Pezeshki et al. 2021) has the dimensionless form

    E[j, i] = d log|z_j*| / d log s_i^2 = (P^-1)_ji w_i / w_j.

P^-1 is symmetric and between 0 and I. So starvation is mutual: the two directions of a pair have one sign, that of
`(P^-1)_ij w_i w_j`; their geometric mean `|(P^-1)_ij|` is at most 1/2; and their ratio is `E[j, i] / E[i, j] = (w_i /
w_j)^2`: whichever feature weighs more in theta* takes more than it gives. All pairs starve where `w_i (P^-1)_ij w_j` is
an M-matrix. What the sign depends on, with `C = U^T D U` and `c = U^T alpha*`:

- To first order in the coupling, i and j starve each other iff `C_ij c_i c_j > 0`. With D a multiple of the identity so
  is C, and nothing starves, as with equal strengths (Eq. 12): it takes examples that are not equally hard.
- Two strengths, `s_1^2` and all others equal, and a strongest feature that is `+-1 / sqrt(n)`, with q exceptions: D has
  two values, and two of the other features starve each other iff `(x_i.x_j) (1.x_i) (1.x_j) > 0`, x (q,) being their
  entries on the exceptions, whose D is the larger. That is every pair for q = 1, and for a random basis with n >> q
  the share `1 - E[t] / pi`, t the angle between the lines along x and 1: 3/4 for q = 2, 1/2 + 0.25 / sqrt(q) for many.
- A feature whose overlap with the labels, `1.u_1 / sqrt(n)`, is nearly 1 starves exactly the features weaker than
  itself: then `C_1j c_1 c_j` has the sign of `s_1^2 - s_j^2`. This is Theorem 2 in n dimensions.
- In a perturbed identity a stronger feature starves a weaker one iff it loads positively on the weaker one's example,
  while the loadings are small against the difference of the two examples' D.
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
    """What starves in each of k bases, all `(k,)`; NaN where the equilibrium did not converge, or nothing starves.

    - `share` of all ordered pairs of features that starve. Pairs whose coupling is no more than rounding do not;
      `coupled` is the share of the others.
    - `strongest`: the largest geometric mean of the two directions of a starving pair, `sqrt(E[j, i] E[i, j])`, which
      is at most 1/2; 0 where nothing starves. (A single direction has no bound, nor a mean over random bases: it is
      inversely proportional to a response that may be small.)
    - `inequality`: the median over starving pairs of `|log10(E[j, i] / E[i, j])|`.
    - `downhill`: the share of starving pairs, of different strengths, in which the stronger feature takes more than it
      gives, relative to what there is.
    - `by_strongest`: the share of all other features that the strongest one starves.
    - `by_aligned`: the share of the weaker features that are starved by the one that agrees best with the labels, of
      the largest `|1.u_j|`. NaN if that is the weakest.
    - `support`: the share of examples that carry the loss, `(sum alpha)^2 / (n sum alpha^2)`, from 1 / n to 1.
    - `converged`: whether the equilibrium did.
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
    """What starves in each of the bases `u (k, n, r)` with strengths `s2 (k, r)`, or `(r,)` for all of them.

    From the matrix of `elasticity` (Definition 2 of Pezeshki et al. 2021, oriented) at the equilibrium of Eq. 9, or of
    Eq. 10 for `form="linearized"`; labels are in `u`. The features may be in any order. One compiled program, one basis
    after another.

    Raises:
        ValueError: `u` is not a stack of orthonormal columns, two or more; `s2` are not positive strengths, one per
            column; an unknown `form` or `penalty`.

    >>> from gsjax.features import planar
    >>> bases = jnp.stack([planar(delta, jnp.ones(2)).u for delta in (-0.3, 0.3)])
    >>> ensemble(bases, jnp.array([4.0, 1.0]), Ridge(0.1)).share.tolist()
    [0.0, 1.0]
    """
    u, s2 = _check.floating("u", u), _check.floating("s2", s2)
    link(form)  # an unknown one is named here
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
    """The starvation matrix without dimensions `(r, r)`: `E[j, i] = d log|z_j*| / d log s_i^2`; negative: i starves j.

    It is `matrix(feats, penalty)[j, i] s_i^2 / |z_j*|` (Definition 2 of Pezeshki et al. 2021, oriented by itself), and
    compares features of any strength and problems of any scale. A row sums to `-d log|z_j*| / d log lambda`. Zero under
    spectral decoupling; NaN in the rows of features without response, and where the equilibrium did not converge.

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
    # One after the other: a batch would go on until its slowest member has converged.
    return lax.map(lambda basis: _summary(from_spectrum(basis[0], jnp.sqrt(basis[1])), penalty, form), (u, s2))


def _summary(feats: Features, penalty: Penalty, form: Form) -> Ensemble:
    """The fields of `Ensemble`, scalars, of one basis."""
    state = equilibrium(feats, penalty, form=form)
    e, s2, r = _elasticity(feats, penalty, state, form), feats.s2, feats.s.shape[0]
    mutual = jnp.sqrt(e * e.T)  # |P^-1|; as neither P^-1 nor I - P^-1 is negative, their diagonals bound the rest of it
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
    """What counts as rounding, relative to what there could be: a few times the solver's own tolerance."""
    return 8 * jnp.asarray(jnp.finfo(dtype).eps, dtype) ** (2 / 3)
