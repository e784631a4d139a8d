"""Gradient starvation (Definition 2): how the response to one feature changes with the strength of another."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from gsjax import _check
from gsjax.dual import equilibrium
from gsjax.dual.links import Form, link
from gsjax.dual.newton import definite_solve
from gsjax.features import Features
from gsjax.objectives import Penalty, Ridge

__all__ = ["matrix", "orient", "pulls", "sensitivity", "share"]


def matrix(feats: Features, penalty: Penalty, *, form: Form = "exact", oriented: bool = True) -> Float[Array, "r r"]:
    r"""The starvation matrix `(r, r)`, `d z_j* / d(s_i^2)` at entry `[j, i]`; i starves j if the entry is negative.

    By the implicit function theorem on Eqs. 9 and 11, with `C = U^T D U`, `D = diag(alpha* (1 - alpha*))`
    (`alpha* / (1 + alpha*)` for `form="linearized"`, Eq. 10) and `c = U^T alpha*`,

    .. math::

        \frac{\partial z^*}{\partial s^2} = \frac{1}{\lambda} \left(I + S^2 C / \lambda\right)^{-1} \text{diag}(c),

    which takes one linear solve. Under spectral decoupling the optimum does not depend on the strengths, and the matrix
    is zero. `oriented=True` multiplies row j by the sign of `z_j*` (of `c_j`, where `s_j` is zero). Without it the sign
    of an entry is as arbitrary as that of a singular vector. `oriented=False` keeps the signs of `feats.u`. The matrix
    is NaN if the equilibrium did not converge.

    Raises:
        ValueError: features that are not binary, an unknown `form` or `penalty`, or per-example arrays of the wrong
            length.

    >>> from gsjax.features import from_spectrum
    >>> u = jnp.array([[0.8, -0.6], [0.6, 0.8]])
    >>> bool(matrix(from_spectrum(u, jnp.array([3.0, 1.0])), Ridge(0.1))[1, 0] < 0)
    True
    """
    oriented = _check.flag("oriented", oriented)
    state = equilibrium(feats, penalty, form=form)
    if isinstance(penalty, Ridge):
        curvature = link(form).curvature(state.margins)
        gram = feats.u.T @ (curvature[:, None] * feats.u)
        pull = pulls(feats.u, feats.s2, state.alpha, state.response, penalty.strength)
        slopes = sensitivity(feats.s2, gram, pull, penalty.strength)
    else:
        pull, slopes = state.response, jnp.zeros((feats.s.shape[0],) * 2, feats.s.dtype)
    slopes = orient(slopes, pull) if oriented else slopes
    return jnp.where(state.converged, slopes, jnp.nan)


def share(feats: Features, penalty: Penalty, *, form: Form = "exact", weighted: bool = False) -> Float[Array, ""]:
    """The share, in [0, 1], of starving pairs among the ordered pairs of distinct features of nonzero strength.

    A pair (j, i) starves if entry `[j, i]` of the oriented `matrix` (Definition 2 of Pezeshki et al. 2021) is negative.
    Features of zero strength do not count, so the share is the same under `jit`, which keeps them. It is zero for fewer
    than two features, and NaN if the equilibrium did not converge.

    By default all pairs count equally, even those of very weak features, so the share depends on how many features a
    kernel resolves in its precision. With `weighted=True` the weight of a pair is the geometric mean of its two
    elasticities, `d log|z_j*| / d log s_i^2` and `d log|z_i*| / d log s_j^2`. It lies between 0 and 1/2 and vanishes
    with the strength of either feature, so pairs of very weak features have no influence.

    Raises:
        ValueError: features that are not binary, an unknown `form` or `penalty`, or per-example arrays of the wrong
            length.

    >>> from gsjax.features import planar
    >>> [share(planar(delta, jnp.array([4.0, 1.0])), Ridge(0.1)).item() for delta in (0.6, -0.6)]
    [1.0, 0.0]
    """
    weighted = _check.flag("weighted", weighted)
    slopes = matrix(feats, penalty, form=form)
    strong = feats.s > 0
    pairs = strong[:, None] & strong & ~jnp.eye(strong.shape[0], dtype=bool)
    if not weighted:
        weight = pairs.astype(slopes.dtype)
    else:
        response = jnp.abs(equilibrium(feats, penalty, form=form).response)
        size = jnp.sqrt(jnp.abs(slopes))
        scale = jnp.where(response > 0, feats.s / jnp.sqrt(jnp.where(response > 0, response, 1)), 0)
        weight = jnp.where(pairs, size * size.T * scale[:, None] * scale, 0)
    total = jnp.sum(weight)
    found = jnp.sum(jnp.where(slopes < 0, weight, 0)) / jnp.where(total > 0, total, 1)
    return jnp.where(jnp.any(jnp.isnan(slopes)), jnp.nan, found)


def pulls(
    u: Float[Array, "n r"],
    s2: Float[Array, " r"],
    alpha: Float[Array, " n"],
    response: Float[Array, " r"],
    strength: float | Float[Array, ""],
) -> Float[Array, " r"]:
    """`U^T alpha* (r,)` to the accuracy of the response `z* = S^2 U^T alpha* / strength` (Eq. 11).

    For `s^2 >> strength` the direct sum cancels, so the result is computed from the response. Otherwise the direct sum
    is accurate, and avoids a division by strengths that may be zero.
    """
    _check.number("strength", strength, "(0, inf)")
    scaled = s2 / strength
    strong = scaled > 1e-3
    return jnp.where(strong, response / jnp.where(strong, scaled, 1), u.T @ alpha)


def sensitivity(
    s2: Float[Array, " r"],
    gram: Float[Array, "r r"],
    pull: Float[Array, " r"],
    strength: float | Float[Array, ""],
) -> Float[Array, "r r"]:
    """`(1 / strength) (I + S^2 gram / strength)^-1 diag(pull)`: how `z* = S^2 pull / strength` changes with `s2 (r,)`.

    `gram (r, r)` is the curvature of the loss in the features, `U^T W U`, and `pull (r,)` is `U^T alpha*`. Let `b = s /
    sqrt(strength)` and `P = I + diag(b) gram diag(b)`, which is symmetric and positive definite. The column of feature
    i is that of `diag(b) P^-1 / b_i`, or equivalently of `I - diag(b) P^-1 diag(b) gram`. The first form is accurate
    for strong features, the second for weak features, including zero strength.
    """
    _check.number("strength", strength, "(0, inf)")
    b = jnp.sqrt(s2 / strength)
    identity = jnp.eye(b.shape[0], dtype=b.dtype)
    strong = b > 1
    columns = jnp.where(strong, identity / jnp.where(strong, b, 1), -b[:, None] * gram)
    solved = b[:, None] * definite_solve(identity + b[:, None] * gram * b)(columns)
    return jnp.where(strong, solved, identity + solved) * (pull / strength)


def orient(slopes: Float[Array, "r r"], response: Float[Array, " r"]) -> Float[Array, "r r"]:
    """Multiplies row j by the sign of `response_j`, so that a negative entry means that the response shrinks.

    >>> orient(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, -6.0])).tolist()
    [[1.0, 2.0], [-3.0, -4.0]]
    """
    return jnp.where(response < 0, -1, 1)[:, None] * slopes
