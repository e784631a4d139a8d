"""Phase diagrams of two coupled features (Theorem 2).

In two dimensions everything except the equilibrium has a closed form. The equilibrium takes a few Newton steps with
explicit 2 x 2 solves. Grid points are independent, so a chunk of them is solved in one vectorised loop.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from gsjax import _check
from gsjax.dual.links import link
from gsjax.objectives import Ridge, SpectralDecoupling

__all__ = ["PhaseDiagram", "phase_diagram"]

_CHUNK = 4096
_MAX_ITERATIONS = 100


class PhaseDiagram(NamedTuple):
    """Equilibria of two coupled features (Eq. 15) and their starvation matrices on a grid, with `s_2^2 = 1`.

    The axes are `ratio (R,)` = s_1^2 / s_2^2, `delta (D,)` and `strength (L,)` = lambda / s_2^2. `response (R, D, L,
    2)` has the signs of Eq. 15. `starvation (R, D, L, 2, 2)` is d z_j* / d (s_i^2) at `[..., j, i]`. `converged (R, D,
    L)` tells which points converged; the others are NaN.
    """

    ratio: Float[Array, " R"]
    delta: Float[Array, " D"]
    strength: Float[Array, " L"]
    response: Float[Array, "R D L 2"]
    starvation: Float[Array, "R D L 2 2"]
    converged: Bool[Array, "R D L"]


def phase_diagram(
    ratio: Float[Array, " R"],
    delta: Float[Array, " D"],
    strength: Float[Array, " L"],
    *,
    penalty: type[Ridge] | type[SpectralDecoupling] = Ridge,
    oriented: bool = True,
) -> PhaseDiagram:
    """Equilibria and starvation matrices of two features on the grid `ratio (R,)` x `delta (D,)` x `strength (L,)`.

    The features are those of Eq. 15 (`features.planar`) with strengths `(ratio, 1)`, and the penalty is
    `penalty(strength)`. The dynamics are those of Eq. 9, or of Eq. 18 under spectral decoupling, where nothing starves.
    The matrix is that of `starvation.matrix`. There is one compiled program per shape of grid; it needs 2.6 times the
    memory of the result. `converged` has the meaning of `dual.equilibrium`.

    Raises:
        ValueError: an axis that is not one-dimensional and finite, `|delta| >= 1`, `ratio <= 0`, `strength <= 0`, or
            another `penalty`.

    >>> found = phase_diagram(jnp.array([0.5, 2.0]), jnp.array([0.3, 0.9]), jnp.array([0.1]))
    >>> (found.starvation[:, :, 0, 1, 0] < 0).tolist()
    [[False, False], [True, True]]
    """
    axes = {"ratio": ratio, "delta": delta, "strength": strength}
    axes = {name: _check.single(name, axis) for name, axis in axes.items()}
    oriented = _check.flag("oriented", oriented)
    for name, axis in axes.items():
        _check.shape(name, axis, ndim=1)
        _check.finite(name, axis)
    _check.positive("ratio", axes["ratio"])
    _check.positive("strength", axes["strength"])
    _check.require(jnp.all(jnp.abs(axes["delta"]) < 1), "delta", "numbers in (-1, 1)", axes["delta"])
    known = penalty is Ridge or penalty is SpectralDecoupling
    _check.require(known, "penalty", "the class Ridge or SpectralDecoupling", repr(penalty))
    dtype = jnp.result_type(*axes.values())
    return jax.jit(_diagram, static_argnums=(3, 4))(
        *(axis.astype(dtype) for axis in axes.values()), penalty is SpectralDecoupling, oriented
    )


def _diagram(ratio: Array, delta: Array, strength: Array, decoupled: bool, oriented: bool) -> PhaseDiagram:
    shape = (len(strength), len(ratio), len(delta))  # first axis, because the number of iterations depends on lambda
    points = math.prod(shape)
    grid = jnp.broadcast_arrays(strength[:, None, None], ratio[:, None], delta)
    chunk = min(_CHUNK, points)
    chunks = [jnp.resize(axis, (-(-points // chunk), chunk)) for axis in grid]  # padded with the first points

    def solve(chunk: list[Array]) -> tuple[Array, Array, Array]:
        strength, ratio, delta = chunk
        cosine, one = jnp.sqrt((1 - delta) * (1 + delta)), jnp.ones_like(ratio)
        u, s2 = jnp.array([[cosine, -delta], [delta, cosine]]), jnp.array([ratio, one])
        # Spectral decoupling whitens the features, so the problem is always that of equal strengths.
        response, margins, converged = _equilibrium(u, jnp.ones_like(s2) if decoupled else s2, strength)
        slopes = jnp.zeros((2, *s2.shape), s2.dtype) if decoupled else _starvation(u, s2, strength, response, margins)
        if oriented:
            slopes = jnp.where(response < 0, -1, 1)[:, None] * slopes
        return jnp.where(converged, response, jnp.nan), jnp.where(converged, slopes, jnp.nan), converged

    def unfolded(value: Array) -> Array:
        flat = jnp.moveaxis(value, 0, -2).reshape(*value.shape[1:-1], -1)[..., :points]
        order = [value.ndim - 2 + axis for axis in (1, 2, 0)]
        return flat.reshape(*flat.shape[:-1], *shape).transpose(*order, *range(value.ndim - 2))

    return PhaseDiagram(ratio, delta, strength, *map(unfolded, lax.map(solve, chunks)))


def _equilibrium(
    u: Float[Array, "2 2 N"], s2: Float[Array, "2 N"], strength: Float[Array, " N"]
) -> tuple[Float[Array, "2 N"], Float[Array, "2 N"], Bool[Array, " N"]]:
    """Responses and margins at the minimum over w of `sum_i softplus(-m_i) + |w|^2 / 2`, and which points converged.

    Here `m = B w` and `B = U S / sqrt(lambda)` (`dual.problem`). Newton's method takes full steps from w = 0, where the
    curvature is largest; no step has been seen to overshoot. The Hessian is `I + H` with `H = B^T D B`, where
    `D = diag(d)` are the curvatures. Its determinant `1 + tr H + det(B)^2 d_1 d_2` is a sum of positive terms.
    """
    eps = float(jnp.finfo(u.dtype).eps)
    rule = link("exact")
    scale = jnp.sqrt(s2 / strength)
    basis, volume = u * scale, (scale[0] * scale[1]) ** 2

    def forward(basis: Array, w: Array) -> Array:
        return basis[:, 0] * w[0] + basis[:, 1] * w[1]

    def backward(basis: Array, alpha: Array) -> Array:
        return basis[0] * alpha[0] + basis[1] * alpha[1]

    def size(values: Array) -> Array:
        return jnp.maximum(*jnp.abs(values))

    def evaluate(w: Array) -> tuple[Array, Array]:
        """The Newton step, and whether w has converged."""
        margins = forward(basis, w)
        alpha, curvature = rule.alpha(margins), rule.curvature(margins)
        pull = backward(basis, alpha)
        gradient = w - pull
        diagonal = backward(basis**2, curvature)
        coupling = backward(basis[:, 0] * basis[:, 1], curvature)
        determinant = 1 + diagonal[0] + diagonal[1] + volume * curvature[0] * curvature[1]
        step = (coupling * gradient[::-1] - (1 + diagonal[::-1]) * gradient) / determinant
        linear = forward(basis, pull)
        residual = size(margins - linear) / (1 + size(linear))
        # As in `dual.newton`, the rounding of the linear term counts where it exceeds the tolerance.
        magnitude = jnp.abs(basis)
        rounding = 8 * eps * size(forward(magnitude, backward(magnitude, alpha))) / (1 + size(margins))
        return step, residual <= jnp.clip(rounding, eps ** (2 / 3), eps ** (1 / 3))

    def advance(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        iterations, w, step, converged = carry
        following = w + jnp.where(converged, 0, step)
        return iterations + 1, following, *evaluate(following)

    def unfinished(carry: tuple[Array, ...]) -> Array:
        iterations, _, _, converged = carry
        return ~jnp.all(converged) & (iterations < _MAX_ITERATIONS)

    zero = jnp.zeros_like(s2)
    _, w, step, converged = lax.while_loop(unfinished, advance, (jnp.array(0), zero, *evaluate(zero)))
    w = w + step  # this step is already computed, and squares the error once more
    return scale * w, forward(basis, w), converged


def _starvation(u: Array, s2: Array, strength: Array, response: Array, margins: Array) -> Float[Array, "2 2 N"]:
    """`(1 / lambda) (I + S^2 C / lambda)^-1 diag(U^T alpha)`, as `starvation.sensitivity`, in closed form."""
    rule = link("exact")
    alpha, curvature = rule.alpha(margins), rule.curvature(margins)
    relative = s2 / strength
    diagonal = relative * (u[0] ** 2 * curvature[0] + u[1] ** 2 * curvature[1])
    coupling = relative * u[0, 0] * u[0, 1] * (curvature[0] - curvature[1])  # columns of U are orthogonal
    determinant = 1 + diagonal[0] + diagonal[1] + relative[0] * relative[1] * curvature[0] * curvature[1]
    # U^T alpha = lambda z / s^2 at the optimum. The left is inaccurate for strong features, the right for weak ones.
    pull = (u[0] * alpha[0] + u[1] * alpha[1] + response) / (s2 + strength)
    return jnp.array([[1 + diagonal[1], -coupling[0]], [-coupling[1], 1 + diagonal[0]]]) * (pull / determinant)
