"""The tangent kernels of `feature_contamination`: what they see at initialisation, and how far they move."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments._contamination_program import Task, Weights, labels, variables
from gsjax import Ridge, dual, features, tangent
from gsjax.networks import TwoLayer

SHOWN = 8  # features, the strongest ones


class Distance(NamedTuple):
    """How far a kernel has moved from K_0 to K, in Frobenius norms and inner products.

    `relative` is ||K - K_0|| / ||K_0||, `angle` is 1 - <K, K_0> / (||K|| ||K_0||), and `centred` is the angle between
    the kernels with means over rows and columns subtracted, i.e. of features without their mean.
    """

    relative: float
    angle: float
    centred: float


def distance(before: Float[np.ndarray, "n n"], after: Float[np.ndarray, "n n"]) -> Distance:
    """The distance between two kernels.

    >>> [round(found, 6) + 0.0 for found in distance(np.eye(2), 3 * np.eye(2))]
    [2.0, 0.0, 0.0]
    """

    def angle(one: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"]) -> float:
        return float(1 - (one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))

    def centred(each: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
        return each - each.mean(axis=0) - each.mean(axis=1)[:, None] + each.mean()

    before, after = (np.asarray(each, float) for each in (before, after))
    relative = float(np.linalg.norm(after - before) / np.linalg.norm(before))
    return Distance(relative, angle(before, after), angle(centred(before), centred(after)))


def kernel(found: Weights, activation: str, x1: Any, x2: Any = None) -> Float[np.ndarray, "n1 n2"]:
    """The tangent kernel of a network with a frozen output layer, on coordinates `(n, features)`.

    It is that in all dimensions, since the kernel depends on x only through inner products and pre-activations.
    """
    network = TwoLayer(len(found.bias), activation)
    params = jax.tree.map(jnp.asarray, variables(found, trained=False))
    return np.asarray(tangent.ntk(network.apply, params, jnp.asarray(x1), None if x2 is None else jnp.asarray(x2)))


def glasses(before: Weights, activation: str, data: Task, *, core: int, ridge: float) -> dict[str, Any]:
    """Features and equilibrium responses of the kernel at initialisation, and its predictor, as a row.

    The predictor is the equilibrium of the logistic loss, a sum over examples, under `Ridge(ridge)`:
    f(x) = K(x, X) Y alpha / ridge. It is a sum over features u_j of the functions K(x, X) Y u_j (u_j^T alpha) / ridge.
    Computed in float64.

    The row has mean margins (`kept`), risks and accuracies of the predictor, on fresh examples as in training and
    shifted. Of the strongest features it has the strengths s_j^2, the responses, the mean parts of the margins in both
    sets, and the sizes of the correlations of their functions with the label and with the sum of the background, as in
    training.

    Args:
        before: the network at initialisation, whose output is subtracted.
        activation: its name.
        data: the examples.
        core: the number of core features.
        ridge: the strength of the penalty.
    """
    with jax.enable_x64(True):
        before, data = (jax.tree.map(lambda leaf: np.asarray(leaf, float), tree) for tree in (before, data))
        y = np.asarray(labels(len(data.train)))
        feats = features.from_ntk(jnp.asarray(kernel(before, activation, data.train)), jnp.asarray(y))
        found = dual.equilibrium(feats, Ridge(ridge))
        u, alpha = np.asarray(feats.u), np.asarray(found.alpha)
        weights = u * (u.T @ alpha) / ridge  # (n, r): the parts of alpha / ridge
        margins, parts = {}, {}
        for name, z in (("fresh", data.fresh), ("shifted", data.shifted)):
            new = np.asarray(labels(len(z)))
            each = new[:, None] * (kernel(before, activation, z, data.train) @ (y[:, None] * weights))
            margins[name], parts[name] = each.sum(axis=1), each
    seen = parts["fresh"][:, :SHOWN] * np.asarray(labels(len(data.fresh)))[:, None]  # functions of x, without y
    told = np.asarray(labels(len(data.fresh))), data.fresh[:, core:].sum(axis=1)
    return {
        "converged": bool(found.converged),
        "kept": [float(each.mean()) for each in margins.values()],
        "hinge": [float(np.maximum(1 - each, 0).mean()) for each in margins.values()],
        "logistic": [float(np.logaddexp(0, -each).mean()) for each in margins.values()],
        "accuracy": [float((each > 0).mean()) for each in margins.values()],
        "strengths": np.asarray(feats.s2)[:SHOWN].tolist(),
        "responses": np.asarray(found.response)[:SHOWN].tolist(),
        "margins": [each.mean(axis=0)[:SHOWN].tolist() for each in parts.values()],
        "correlations": [[abs(float(np.corrcoef(each, other)[0, 1])) for each in seen.T] for other in told],
    }


COLUMNS: dict[str, Any] = {
    "converged": bool,
    **dict.fromkeys(("kept", "hinge", "logistic", "accuracy"), (float, 2)),
    **dict.fromkeys(("strengths", "responses"), (float, None)),
    **dict.fromkeys(("margins", "correlations"), (float, 2, None)),
}
