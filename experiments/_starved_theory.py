"""What a tangent kernel predicts about core-only accuracy, in the experiment `starvation_and_depth`.

Features, responses and the starvation matrix are those of the kernel on the n training images, at the equilibrium of
Eq. 9 of Pezeshki et al. 2021 under ridge. Images whose halves are independent of each other tell which features carry
the core half, and which the spurious half.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from gsjax import dual, features, starvation, tangent
from gsjax.objectives import Ridge, SpectralDecoupling

COLUMNS: dict[str, Any] = {
    "accuracy": float,
    "blank": float,
    "share": float,
    "starvation": float,
    "loss": float,
    "released": float,
    "core": (float, None),
    "spurious": (float, None),
    "rank": int,
    "converged": bool,
}


class Held(NamedTuple):
    """Held-out images of a network: `random (t, ...)`, whose halves are independent, `blank (t, ...)`, and labels.

    The spurious half of `blank` is black. `core (t,)` and `spurious (t,)` are the labels -1 and +1 of the halves of
    `random`; `core` are those of `blank`, too.
    """

    random: Float[Array, "t height width c"]
    blank: Float[Array, "t height width c"]
    core: Float[Array, " t"]
    spurious: Float[Array, " t"]


class Predicted(NamedTuple):
    """What the kernel predicts, see `predict`."""

    accuracy: Float[Array, ""]
    blank: Float[Array, ""]
    share: Float[Array, ""]
    starvation: Float[Array, ""]
    loss: Float[Array, ""]
    released: Float[Array, ""]
    core: Float[Array, " r"]
    spurious: Float[Array, " r"]
    rank: Any
    converged: Bool[Array, ""]


def signals(
    outputs: Float[Array, "t ..."], core: Float[Array, " t"], spurious: Float[Array, " t"]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The coefficients b and d of the least squares fit `outputs = a + b core + d spurious`.

    For independent halves with balanced labels these are E[core outputs] and E[spurious outputs]; the fit removes what
    chance leaves of their means and of their correlation.

    >>> core, spurious = jnp.array([1.0, 1.0, -1.0, -1.0]), jnp.array([1.0, -1.0, 1.0, -1.0])
    >>> [round(float(each), 5) for each in signals(7 + 3 * core - 2 * spurious, core, spurious)]
    [3.0, -2.0]
    """
    design = jnp.stack([jnp.ones_like(core), core, spurious], axis=1)
    _, b, d = jnp.linalg.solve(design.T @ design, jnp.tensordot(design.T, outputs, 1).reshape(3, -1))
    return b.reshape(outputs.shape[1:]), d.reshape(outputs.shape[1:])


def share(core: Any, spurious: Any) -> Any:
    """The share of the core signal b among both, `b / (|b| + |d|)`, from -1 to 1.

    >>> share(np.array(3.0), np.array(-1.0)).item()
    0.75
    """
    return core / (abs(core) + abs(spurious))


def predict(
    kernel: Float[Array, "n n"],
    random: Float[Array, "t n"],
    blank: Float[Array, "t n"],
    y: Float[Array, " n"],
    core: Float[Array, " t"],
    spurious: Float[Array, " t"],
    strength: float | Float[Array, ""],
    penalty: type[Ridge] | type[SpectralDecoupling] = Ridge,
) -> Predicted:
    """The predictions of a tangent kernel that is known on training images, and between these and held-out ones.

    The penalty is ridge, or another one of this strength.

    With `Y K Y = U S^2 U^T`, responses z* at the equilibrium of Eq. 9 for lambda = `strength`, and the starvation
    matrix `G_ji = d z_j* / d(s_i^2)`:

    - the feature i of an image x is `f_i(x) = k(x, X) Y u_i / s_i = v_i . grad f(x)`; the predictor of the equilibrium
      is `sum_i f_i(x) z_i* / s_i`, the change of the output in linearised training to the optimum.
    - `accuracy` and `blank` are the shares of `random` and of `blank` images where it has the sign of the core label.
    - feature i has the coefficients `b_i` of the core and `d_i` of the spurious label in `f_i` over `random` images
      (`signals`). It contributes `core_i = b_i z_i* / s_i` and `spurious_i = d_i z_i* / s_i` to the signals of the
      predictor, which are their sums.
    - `share = sum core_i / (|sum core_i| + |sum spurious_i|)`.
    - the spurious part of feature i is `p_i = d_i^2 / (b_i^2 + d_i^2)`, its core part `1 - p_i`.
    - `starvation = - sum_j q_j sum_(i != j) p_i d log|z_j*| / d log s_i^2` with weights `q_j` of sum one, proportional
      to `(1 - p_j) |z_j*|`: the mean relative loss of the responses to core-carrying features, if those that carry the
      spurious half become stronger. Its terms are the oriented entries of Definition 2 as elasticities, so it has no
      unit.
    - `loss = - sum_j (b_j / s_j) sum_(i != j) p_i s_i^2 G_ji / sum_j |core_j|`: the same derivative of the core signal
      through other features in place of responses.
    - `released = (c' - c) / (|c'| + |c|)`, from -1 to 1: how the core signal c of the predictor grows to c' if every
      strength is lowered to `(1 - p_i) s_i^2`. It adds up what `loss` is the beginning of.

    None depends on the signs of the `u_i`.
    """
    feats = features.from_ntk(kernel, y)
    state = dual.equilibrium(feats, penalty(strength))
    slopes = starvation.matrix(feats, penalty(strength), oriented=False)
    inverse = jnp.where(feats.s > 0, 1 / jnp.where(feats.s > 0, feats.s, 1), 0)
    directions, weights = y[:, None] * feats.u * inverse, state.response * inverse
    b, d = signals(random @ directions, core, spurious)
    parts = jnp.where(inverse > 0, d**2 / (b**2 + d**2), 0)
    others = slopes * feats.s2 * (1 - jnp.eye(len(weights)))
    weakened = dual.equilibrium(feats._replace(s=feats.s * jnp.sqrt(1 - parts)), penalty(strength))
    before, after = (b * weights).sum(), (b * inverse) @ weakened.response
    return Predicted(
        accuracy=jnp.mean((random @ directions @ weights) * core > 0, dtype=core.dtype),
        blank=jnp.mean((blank @ directions @ weights) * core > 0, dtype=core.dtype),
        share=share((b * weights).sum(), (d * weights).sum()),
        starvation=-((1 - parts) * jnp.sign(state.response)) @ others @ parts / ((1 - parts) @ jnp.abs(state.response)),
        loss=-(b * inverse) @ others @ parts / jnp.abs(b * weights).sum(),
        released=(after - before) / (jnp.abs(after) + jnp.abs(before)),
        core=b * weights,
        spurious=d * weights,
        rank=feats.rank,
        converged=state.converged & weakened.converged,
    )


def by_rank(values: Float[np.ndarray, " r"]) -> list[float]:
    """Sums over features 1, 2 and 3, 4 to 7, and so on in powers of two.

    >>> by_rank(np.ones(5))
    [1.0, 2.0, 2.0]
    """
    starts = 2 ** np.arange(int(np.log2(len(values))) + 1) - 1
    return np.add.reduceat(values, starts).tolist()


def of_kernel(
    network: nn.Module,
    params: PyTree,
    x: Float[ArrayLike, "n height width c"],
    labels: Mapping[str, Float[ArrayLike, " n"]],
    held: Held,
    strength: float,
) -> dict[str, dict[str, Any]]:
    """The predictions of the tangent kernel at `params`, in double precision, as a row for each of the `labels`."""
    with jax.enable_x64(True):
        given: Any = (params, x, held, dict(labels))
        params, images, held, labels = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), given)
        every = jnp.concatenate([images, held.random, held.blank])
        gram = tangent.ntk(network.apply, {"params": params}, every, images)
        n = len(gram) - 2 * len(held.core)
        kernel, random, blank = jnp.split(gram, [n, n + len(held.core)])
        return {
            name: _row(_compiled()(kernel, random, blank, y, held.core, held.spurious, strength))
            for name, y in labels.items()
        }


def _row(found: Predicted) -> dict[str, Any]:
    row: Mapping[str, Any] = {name: np.asarray(value) for name, value in found._asdict().items()}
    return {
        **{name: float(row[name]) for name in ("accuracy", "blank", "share", "starvation", "loss", "released")},
        **{name: by_rank(row[name]) for name in ("core", "spurious")},
        "rank": int(row["rank"]),
        "converged": bool(row["converged"]),
    }


@functools.cache
def _compiled() -> Any:
    return jax.jit(predict)
