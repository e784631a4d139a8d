"""Equilibria in closed form: Eqs. 12 and 13, Lemma 1, and the first-order form of Theorem 2.

All of them solve the linearised dynamics of Eq. 10, `-log alpha = (1 / lambda) U (S^2 + lambda I) U^T alpha`. Their
arguments are the strengths `s2 = s^2` and the ridge `strength`, the paper's lambda. `W` is Lambert's function.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from gsjax import _check
from gsjax.dual.lambert import lambertw

__all__ = ["equal_strengths", "lambertw", "lemma1", "permutation", "theorem2_slope"]


def equal_strengths(
    s2: float | Float[Array, ""], u: Float[Array, "n n"], strength: float | Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """`(alpha, response)`, each `(n,)`, for features of equal strength and any orthogonal `u (n, n)` (Eq. 12).

    `alpha_i = lambda W(s^2/lambda + 1) / (s^2 + lambda)` for all i, and `z_j = s^2 W(s^2/lambda + 1) / (s^2 + lambda)
    sum_i u_ij`.

    Raises:
        ValueError: `s2` is not one number >= 0, `strength` not positive, or `u` not square and orthogonal.

    >>> alpha, response = equal_strengths(4.0, jnp.eye(2), 1.0)
    >>> bool(jnp.allclose(response, 4 * alpha))
    True
    """
    u = _orthogonal(u)
    _check.number("s2", s2, "[0, inf)")
    s2 = jnp.asarray(s2, u.dtype)
    alpha = _uncoupled(s2, strength)
    return jnp.full(u.shape[0], alpha), s2 / strength * alpha * jnp.sum(u, axis=0)


def permutation(
    s2: Float[Array, " n"], strength: float | Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """`(alpha, response)`, each `(n,)`, if U is a permutation, so that every example has its own feature (Eq. 13).

    Strengths `s2 (n,)` and results are in the order of the features: `alpha_i` is that of the example with feature i.

    Raises:
        ValueError: `s2` is not `(n,)` and >= 0, or `strength` not positive.

    >>> [f"{z:.3f}" for z in permutation(jnp.array([0.0, 1.0]), 1.0)[1]]
    ['0.000', '0.426']
    """
    s2 = _check.single("s2", s2)
    _check.shape("s2", s2, ndim=1)
    alpha = _uncoupled(s2, strength)
    return alpha, s2 / strength * alpha


def lemma1(u: Float[Array, "n n"], s2: Float[Array, " n"], strength: float | Float[Array, ""]) -> Float[Array, " n"]:
    """`alpha (n,)` to first order in the off-diagonal of a perturbed identity `u (n, n)` (Lemma 1, Eq. 14).

    `alpha = (1 - log alpha_0) [A + diag(1 / alpha_0)]^-1` with `A = U (S^2 + lambda I) U^T / lambda`. This is one
    Newton step on Eq. 10 from `alpha_0`, the solution at the identity. The error is of second order in the
    off-diagonal.

    Raises:
        ValueError: `u` is not square and orthogonal, `s2` not `(n,)` and >= 0, or `strength` not positive.

    >>> bool(jnp.allclose(lemma1(jnp.eye(2), jnp.array([1.0, 2.0]), 1.0), permutation(jnp.array([1.0, 2.0]), 1.0)[0]))
    True
    """
    u = _orthogonal(u)
    s2 = _check.array("s2", s2).astype(u.dtype)
    _check.require(s2.shape == u.shape[:1], "s2", f"shape {u.shape[:1]}, one strength per feature", f"shape {s2.shape}")
    start = _uncoupled(s2, strength)
    kernel = (u * (s2 / strength + 1)) @ u.T
    return jnp.linalg.solve(kernel + jnp.diag(1 / start), 1 - jnp.log(start))


def theorem2_slope(
    delta: float | Float[Array, ""], s2: Float[Array, " 2"], strength: float | Float[Array, ""]
) -> Float[Array, ""]:
    r"""`d z_2* / d(s_1^2)` to first order in `delta`, for the U of Eq. 15 and `s2 = (s_1^2, s_2^2)` (Theorem 2).

    With `x_i = s_i^2/lambda + 1`, `W_i = W(x_i)` and `a_i = W_i / x_i`:

    .. math::

        -\frac{\delta s_2^2}{\lambda (s_2^2 + \lambda)} \, \frac{W_1}{x_1 (1 + W_1)} \, \frac{W_2}{1 + W_2}
        \left(1 - \frac{a_1}{a_2}\right),

    which is negative for `delta > 0` and `s_1^2 > s_2^2`. The error is of second order in `delta`.

    Raises:
        ValueError: `delta` is not in (-1, 1), `s2` not two positive numbers, or `strength` not positive.

    >>> bool(theorem2_slope(0.1, jnp.array([4.0, 1.0]), 0.1) < 0)
    True
    """
    s2 = _check.single("s2", s2)
    _check.require(s2.shape == (2,), "s2", "shape (2,)", f"shape {s2.shape}")
    _check.positive("s2", s2)
    _check.number("strength", strength, "(0, inf)")
    _check.number("delta", delta, "(-1, 1)")
    delta = jnp.asarray(delta, s2.dtype)
    x = s2 / strength + 1
    w = lambertw(x)
    ratio = (w[0] / x[0]) / (w[1] / x[1])
    scale = s2[1] / (strength * (s2[1] + strength))
    return -delta * scale * w[0] / (x[0] * (1 + w[0])) * w[1] / (1 + w[1]) * (1 - ratio)


def _uncoupled(s2, strength):
    """The fixed point of `-log alpha = (s^2 / lambda + 1) alpha`, for an example whose only feature is not shared."""
    _check.number("strength", strength, "(0, inf)")
    _check.not_negative("s2", s2)
    x = s2 / strength + 1
    return lambertw(x) / x


def _orthogonal(u):
    u = _check.single("u", u)
    _check.shape("u", u, ndim=2)
    _check.require(u.shape[0] == u.shape[1], "u", "a square matrix", f"shape {u.shape}")
    defect = jnp.max(jnp.abs(u.T @ u - jnp.eye(u.shape[0], dtype=u.dtype)))
    _check.require(
        defect <= jnp.sqrt(jnp.finfo(u.dtype).eps), "u", "an orthogonal matrix", f"u.T @ u off the identity by {defect}"
    )
    return u
