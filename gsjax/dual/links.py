"""The link between margins and dual variables, for the exact dynamics (Eq. 9) and the linearised dynamics (Eq. 10).

At an optimum every dual variable is a function of its margin, `alpha = -loss'(m)`, with a convex loss. For the logistic
loss this is `alpha = sigma(-m)`, the equality case of Eq. 6. Eq. 10 replaces `log(1 - alpha)` in Eq. 9 by `-alpha`.
Then `-log alpha - alpha = m`, so `alpha = W(exp(-m))` with Lambert's W, and the corresponding loss is
`alpha + alpha^2 / 2`. Everything else is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gsjax import _check
from gsjax.dual.lambert import wright_omega

__all__ = ["LINKS", "Elementwise", "Form", "Link", "link"]

Form = Literal["exact", "linearized"]
Elementwise = Callable[[Float[Array, "..."]], Float[Array, "..."]]


class Link(NamedTuple):
    """A loss on margins and its dual variable; all functions are elementwise.

    `loss(m)` is in nats, `alpha(m) = -loss'(m)`, and `curvature(m) = loss''(m)`. `coordinate(alpha)` is the coordinate
    v in which the flow of alpha is integrated, `from_coordinate(v)` is its inverse, and `speed(v) = d alpha / d v`.
    `margin(v)` is the margin with this alpha. `absorbed(alpha)` is the part of the linear term of Eq. 10 that the link
    includes.
    """

    loss: Elementwise
    alpha: Elementwise
    curvature: Elementwise
    coordinate: Elementwise
    from_coordinate: Elementwise
    speed: Elementwise
    margin: Elementwise
    absorbed: Elementwise


def _logistic_curvature(m):
    return jax.nn.sigmoid(-m) * jax.nn.sigmoid(m)


def _omega_loss(m):
    alpha = wright_omega(-m)
    return alpha + alpha**2 / 2


def _omega_curvature(m):
    alpha = wright_omega(-m)
    return alpha / (1 + alpha)


LINKS: dict[str, Link] = {
    "exact": Link(
        loss=lambda m: jax.nn.softplus(-m),
        alpha=lambda m: jax.nn.sigmoid(-m),
        curvature=_logistic_curvature,
        coordinate=lambda alpha: jnp.log(alpha) - jnp.log1p(-alpha),
        from_coordinate=jax.nn.sigmoid,
        speed=_logistic_curvature,
        margin=lambda v: -v,
        absorbed=jnp.zeros_like,
    ),
    "linearized": Link(
        loss=_omega_loss,
        alpha=lambda m: wright_omega(-m),
        curvature=_omega_curvature,
        coordinate=jnp.log,
        from_coordinate=jnp.exp,
        speed=jnp.exp,
        margin=lambda v: -v - jnp.exp(v),
        absorbed=lambda alpha: alpha,
    ),
}


def link(form: str) -> Link:
    """The link of `form`.

    Raises:
        ValueError: `form` is neither "exact" (Eq. 9) nor "linearized" (Eq. 10).
    """
    _check.choice("form", form, LINKS)
    return LINKS[form]
