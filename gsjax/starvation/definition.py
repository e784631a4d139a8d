"""Gradient starvation (Definition 2): how the response to one feature changes with the strength of another."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from gsjax.dual import equilibrium
from gsjax.dual.links import Form, link
from gsjax.features import Features
from gsjax.objectives import Penalty, Ridge

__all__ = ["matrix", "orient", "sensitivity"]


def matrix(feats: Features, penalty: Penalty, *, form: Form = "exact", oriented: bool = True) -> Float[Array, "r r"]:
    """The starvation matrix `(r, r)`: entry `[j, i]` is `d z_j* / d(s_i^2)` at the optimum; negative: i starves j.

    By the implicit function theorem on Eqs. 9 and 11, with `C = U^T D U`, `D = diag(alpha* (1 - alpha*))`
    (`alpha* / (1 + alpha*)` for `form="linearized"`, Eq. 10) and `c = U^T alpha*`,

        d z* / d s^2 = (1 / lambda) (I + S^2 C / lambda)^-1 diag(c),

    one linear solve for all entries. Under spectral decoupling the optimum does not depend on the strengths, and
    the matrix is zero. `oriented=True` multiplies row j by the sign of `z_j*` (of `c_j`, where `s_j` is zero), without
    which the sign of an entry is as arbitrary as that of a singular vector; `oriented=False` keeps the signs of
    `feats.u`. NaN where the equilibrium did not converge.

    Raises:
        ValueError: an unknown `form` or `penalty`, or per-example arrays of the wrong length.

    >>> from gsjax.features import from_spectrum
    >>> u = jnp.array([[0.8, -0.6], [0.6, 0.8]])
    >>> bool(matrix(from_spectrum(u, jnp.array([3.0, 1.0])), Ridge(0.1))[1, 0] < 0)
    True
    """
    state = equilibrium(feats, penalty, form=form)
    if isinstance(penalty, Ridge):
        curvature = link(form).curvature(feats.u @ state.response)
        gram = feats.u.T @ (curvature[:, None] * feats.u)
        # U^T alpha alone is the difference of large numbers where s^2 >> lambda; there it is lambda z / s^2.
        pull = penalty.strength * (feats.u.T @ state.alpha + state.response) / (feats.s2 + penalty.strength)
        slopes = sensitivity(feats.s2, gram, pull, penalty.strength)
    else:
        pull, slopes = state.response, jnp.zeros((feats.s.shape[0],) * 2, feats.s.dtype)
    slopes = orient(slopes, pull) if oriented else slopes
    return jnp.where(state.converged, slopes, jnp.nan)


def sensitivity(
    s2: Float[Array, " r"],
    gram: Float[Array, "r r"],
    pull: Float[Array, " r"],
    strength: float | Float[Array, ""],
) -> Float[Array, "r r"]:
    """`(1 / strength) (I + S^2 gram / strength)^-1 diag(pull)`: how `z* = S^2 pull / strength` changes with `s2 (r,)`.

    `gram (r, r)` is the loss's curvature among the features, `U^T W U`, and `pull (r,)` is `U^T alpha*`. The rows are
    scaled by `s_j^2 + strength`, so neither a vanishing strength nor a vanishing feature divides by zero.
    """
    total = s2 + strength
    system = jnp.diag(strength / total) + (s2 / total)[:, None] * gram
    return jnp.linalg.solve(system, jnp.diag(pull / total))


def orient(slopes: Float[Array, "r r"], response: Float[Array, " r"]) -> Float[Array, "r r"]:
    """Row j times the sign of `response_j`, so that a negative entry means a response drawn towards zero.

    >>> orient(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, -6.0])).tolist()
    [[1.0, 2.0], [-3.0, -4.0]]
    """
    return jnp.where(response < 0, -1, 1)[:, None] * slopes
