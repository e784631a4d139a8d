"""The optimum of a task in its strongest features, in one form for binary tasks and for several classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from gsjax import dual, features, multiclass, starvation
from gsjax.objectives import Penalty, Ridge

__all__ = ["Solution", "Status", "compiled", "from_features", "match_shape", "oriented", "solve", "terms"]


class Status(NamedTuple):
    """Whether the solver of the optimum `converged`, its `residual`, and the number of its `iterations`."""

    converged: bool
    residual: float
    iterations: int


class Solution(NamedTuple):
    """The optimum of a task in its r strongest features, as arrays of JAX or NumPy.

    - `u (n, c, r)`: weights of the examples in the features; c = 1 for a binary task, else the number of classes.
    - `s (r,)`, `response (r,)`, `starvation (r, r)`: singular values, responses z* and starvation matrix; after
      `oriented`, features have the signs for which responses are >= 0.
    - `margins (n, c)`: `y yhat` of centred outputs for a binary task, else the centred outputs themselves.
    - `pull (n, c)`: alpha for a binary task, `e_y - p` for several classes.
    - `curved (n, c, r)`: a root of the curvature of the loss in the features: `C_ij = sum over n and c of curved_i
      curved_j`, where C is `U^T D U`.
    - `confidence (n,)`: the probability of the right label, from centred outputs.
    - `rank`: the number of features of the kernel, None where it is not known.
    - `status`: the entries of `Status`, also while it is traced.
    """

    u: Float[Any, "n c r"]
    s: Float[Any, " r"]
    response: Float[Any, " r"]
    starvation: Float[Any, "r r"]
    margins: Float[Any, "n c"]
    pull: Float[Any, "n c"]
    curved: Float[Any, "n c r"]
    confidence: Float[Any, " n"]
    rank: Any
    status: Any


def from_features(feats: Any, penalty: Penalty) -> Solution:
    """The optimum in all features of `features.Features` or `multiclass.Features`, signs as in `feats.u`."""
    if isinstance(feats, multiclass.Features):
        found = multiclass.equilibrium(feats, penalty)
        n, k = found.logits.shape
        pull, curved, confidence = _several(feats.u.reshape(n, k, -1), found.logits, feats.labels)
        margins = found.logits
    else:
        found = dual.equilibrium(feats, penalty)
        margins = found.margins[:, None]
        pull, curved, confidence = _binary(feats.u[:, None], margins)
    slopes = jnp.zeros((feats.s.shape[0],) * 2, feats.s.dtype)
    if isinstance(penalty, Ridge):
        flat = curved.reshape(feats.u.shape)
        pulls = starvation.pulls(feats.u, feats.s2, pull.ravel(), found.response, penalty.strength)
        slopes = starvation.sensitivity(feats.s2, flat.T @ flat, pulls, penalty.strength)
    slopes = jnp.where(found.converged, slopes, jnp.nan)
    u = feats.u.reshape(curved.shape)
    status = (found.converged, found.residual, found.iterations)
    return Solution(u, feats.s, found.response, slopes, margins, pull, curved, confidence, feats.rank, status)


def match_shape(u: Array, margins: Array, labels: Array | None) -> tuple[Array, Array, Array]:
    """`pull`, `curved` and `confidence` of a `Solution`, from `u (n, c, r)`, `margins (n, c)` and class indices."""
    return _binary(u, margins) if labels is None else _several(u, margins, labels)


def solve(kernel: Array, y: Shaped[Array, " n"], penalty: Penalty) -> Solution:
    """The optimum in all features of a kernel, `(n, n)`, or `(n, n, k, k)` with class indices y."""
    return from_features(multiclass.from_ntk(kernel, y) if kernel.ndim == 4 else features.from_ntk(kernel, y), penalty)


@functools.cache
def compiled() -> Callable[[Array, Array, Penalty], Solution]:
    """`solve` as one program for all kernels of a shape; features beyond the rank are kept, with zero strength."""
    return jax.jit(solve)


def oriented(solution: Solution, top: int) -> Solution:
    """The `top` strongest features on the host, with the signs for which their responses are >= 0."""
    host = jax.tree.map(np.asarray, solution)
    count = min(top, int(np.sum(host.s > 0)))
    sign = np.where(host.response[:count] < 0, -1, 1).astype(host.s.dtype)
    return host._replace(
        u=host.u[..., :count] * sign,
        s=host.s[:count],
        response=host.response[:count] * sign,
        # d z_j / d s_i^2 has the sign of feature j; that of feature i does not enter.
        starvation=host.starvation[:count, :count] * sign[:, None],
        curved=host.curved[..., :count] * sign,
        rank=None if solution.rank is None else int(solution.rank),
        status=Status(bool(host.status[0]), float(host.status[1]), int(host.status[2])),
    )


def terms(solution: Solution, i: int, j: int) -> Float[np.ndarray, " n"]:
    """The terms `u_ki u_kj D_k (n,)` whose sum over examples k is `C_ij`; for several classes, `u_ki^T D_k u_kj`."""
    return np.sum(solution.curved[..., i] * solution.curved[..., j], axis=1)


def _binary(u: Array, margins: Array) -> tuple[Array, Array, Array]:
    alpha, confidence = jax.nn.sigmoid(-margins), jax.nn.sigmoid(margins)
    return alpha, jnp.sqrt(alpha * confidence)[..., None] * u, confidence[:, 0]


def _several(u: Array, logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    p = jax.nn.softmax(logits)
    one_hot = jax.nn.one_hot(labels, p.shape[1], dtype=p.dtype)
    rest = p * (1 - one_hot)  # 1 - p of the right class as a sum, which is accurate for p near one
    pull = one_hot * rest.sum(axis=1, keepdims=True) - rest
    means = jnp.einsum("nk,nkr->nr", p, u)
    return pull, jnp.sqrt(p)[..., None] * (u - means[:, None]), jnp.sum(p * one_hot, axis=1)
