"""Softmax probabilities, the gradient of cross-entropy, and its curvature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["bound", "gram", "probabilities", "residuals"]


def probabilities(outputs: Float[Array, " nk"], classes: int) -> Float[Array, "n k"]:
    """Of stacked outputs, in one row for each example."""
    return jax.nn.softmax(outputs.reshape(-1, classes))


def residuals(probabilities: Float[Array, "n k"], one_hot: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """`e_c - p`, with `1 - p_c` computed as the sum of the other probabilities, which is accurate for p_c near one."""
    rest = probabilities * (1 - one_hot)
    return one_hot * rest.sum(axis=1, keepdims=True) - rest


def gram(probabilities: Float[Array, "n k"], basis: Float[Array, "nk r"]) -> Float[Array, "r r"]:
    """`B^T W B`, where W has one block `diag(p) - p p^T` per example, the covariance of the rows of B under p."""
    rows = basis.reshape(*probabilities.shape, -1)
    means = jnp.einsum("nk,nkr->nr", probabilities, rows)
    # Rows are centred first, because the difference of the two moments cancels if one class has nearly all of p.
    centred = (rows - means[:, None]).reshape(basis.shape)
    return centred.T @ (probabilities.reshape(-1, 1) * centred)


def bound(probabilities: Float[Array, "n k"], a: Float[Array, " nk"]) -> Float[Array, " nk"]:
    """An upper bound on `|W| a` for `a >= 0`, with the W of `gram`."""
    weighted = probabilities * a.reshape(probabilities.shape)
    return (weighted + probabilities * weighted.sum(axis=1, keepdims=True)).ravel()
