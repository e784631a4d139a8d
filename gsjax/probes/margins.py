"""Adversarial accuracy and margins: the smallest change of an input that changes a network's prediction.

The attack is projected gradient descent (PGD, Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial
Attacks"), here as ascent on the loss. It is a first-order search, so its results are upper bounds on the accuracy under
attack and on the margin.

Attacks change the direct input of `logits_fn`. If a network takes normalised images, (pixels - mean) / std per channel,
a radius of 5/255 in pixels is the array `radius = 5 / 255 / std`, and the range of pixels gives the bounds
`((0 - mean) / std, (1 - mean) / std)`. Each function is one program under `jax.jit`, and can be mapped over networks:

    jax.jit(jax.vmap(lambda state: margins(lambda x: methods.predict(network, state, x), x, y, max_radius=1.0)))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Key, Real

from gsjax import _check

__all__ = ["Bounds", "LogitsFn", "Margins", "Norm", "Size", "accuracy", "correct", "margins", "pgd"]

LogitsFn = Callable[[Any], Any]
Norm = Literal["linf", "l2"]
Size = Real[ArrayLike, "..."]
Bounds = tuple[Size, Size] | None


class Margins(NamedTuple):
    """Upper bounds on the margins of examples.

    `adversarial (n, ...)` are the adversarial examples, `distance (n,)` their distances from the originals, and
    `flipped (n,)` whether an attack succeeded. If none did, the distance is infinite and `adversarial` is the original.
    """

    distance: Float[Array, " n"]
    flipped: Bool[Array, " n"]
    adversarial: Float[Array, "n ..."]


def correct(logits: Float[Array, " n"] | Float[Array, "n k"], y: Real[ArrayLike, " n"]) -> Bool[Array, " n"]:
    """Which examples are classified correctly: y f > 0 for outputs `(n,)`, f_y > f_j for all j != y for `(n, k)`.

    y is -1 and +1 for outputs `(n,)`, and class indices for outputs `(n, k)`.

    Raises:
        ValueError: outputs of another shape (including k = 1), or y that are not labels of these outputs.

    >>> correct(jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([0, 1])).tolist()
    [True, False]
    """
    logits = _check.array("logits", logits)
    _check.require(logits.ndim > 0, "logits", "outputs (n,) or (n, k)", f"shape {logits.shape}")
    _check.outputs("logits", logits.shape, len(logits), classes=True)
    y = _labels(y, logits.shape)
    if logits.ndim == 1:
        return y * logits > 0
    own, rest = _split(logits, y)
    return own > rest.max(axis=1)


def pgd(
    logits_fn: LogitsFn,
    x: Real[ArrayLike, "n ..."],
    y: Real[ArrayLike, " n"],
    *,
    radius: Size,
    step_size: Size,
    steps: int = 10,
    norm: Norm = "linf",
    bounds: Bounds = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "n ..."]:
    r"""Adversarial examples: gradient ascent on the loss within ||delta / radius|| <= 1 (Madry et al. 2018, Eq. 2.1).

    .. math::

        \delta \leftarrow \text{project}(\delta + \text{step size} \cdot d), \qquad d = \text{sign}(g) \; (\text{linf})
        \; \text{ or } \; \frac{\text{radius} \cdot g}{\lVert \text{radius} \cdot g \rVert_2} \; (\text{l2}),

    where g is the gradient of log(exp(loss) - 1), the log-odds against the label. This gradient has the direction of
    that of the cross-entropy, and does not vanish where the network is confident. x + delta is then clipped to the
    bounds.

    Args:
        logits_fn: x -> `(n,)` or `(n, k)`, each example independently, i.e. without statistics of the batch.
        x: examples, `(n, ...)`, the direct input of the network.
        y: labels `(n,)`: -1 and +1 for outputs `(n,)`, class indices for outputs `(n, k)`.
        radius: the radius of the ball, in the units of x; one number, or an array that broadcasts against x, e.g. one
            number per channel.
        step_size: the step size, of the same kind as `radius`.
        steps: the number of steps.
        norm: "linf" or "l2", of delta / radius over all axes but the first.
        bounds: the smallest and largest values of x, each one number or an array that broadcasts against x.
        key: determines a random starting point in the ball; None starts at x.

    Returns:
        The final points, `(n, ...)`, within ball and bounds.

    Raises:
        ValueError: x empty or not finite, y that are not labels of the outputs, radius or step_size not positive,
            `steps` below one, an unknown norm, or x outside the bounds.

    >>> pgd(lambda x: x @ jnp.array([1.0, -2.0]), jnp.ones((1, 2)), jnp.ones(1), radius=0.5, step_size=0.1).tolist()
    [[0.5, 1.5]]
    """
    x, y, bounds = _checked(logits_fn, x, y, norm, bounds)
    _check.positive("radius", radius)
    _check.positive("step_size", step_size)
    steps = _check.whole("steps", steps, least=1)
    if key is not None:
        _check.key("key", key)
    radius = jnp.asarray(radius, x.dtype)
    ball = _Ball(x, norm, bounds)
    delta = jnp.zeros_like(x) if key is None else ball.project(ball.draw(key, radius), radius)

    def ascend(_: int, delta: Array) -> Array:
        gradient = jax.grad(lambda point: _log_odds(logits_fn(point), y).sum())(ball.point(delta))
        return ball.project(delta + jnp.asarray(step_size, x.dtype) * ball.direction(gradient, radius), radius)

    return ball.point(lax.fori_loop(0, steps, ascend, delta))


def accuracy(
    logits_fn: LogitsFn, x: Real[ArrayLike, "n ..."], y: Real[ArrayLike, " n"], **attack: Any
) -> Float[Array, ""]:
    """The fraction of examples that are still correct after an attack, an upper bound on the robust accuracy.

    Arguments and errors are those of `pgd`.

    >>> x, y = jnp.array([[1.0], [3.0]]), jnp.ones(2)
    >>> accuracy(lambda x: x[:, 0], x, y, radius=2.0, step_size=0.5).item()
    0.5
    """
    return correct(logits_fn(pgd(logits_fn, x, y, **attack)), y).mean()


def margins(
    logits_fn: LogitsFn,
    x: Real[ArrayLike, "n ..."],
    y: Real[ArrayLike, " n"],
    *,
    max_radius: float,
    norm: Norm = "linf",
    steps: int = 20,
    bisections: int = 10,
    bounds: Bounds = None,
) -> Margins:
    r"""The smallest perturbation found that flips each example (Pezeshki et al. 2021, Fig. 2), an upper bound.

    .. math::

        \text{margin}(x) = \min \lVert \delta \rVert \text{ such that } x + \delta \text{ is not classified as } y

    The search starts with PGD within `max_radius` and then bisects the radius separately for each example. An attack
    within a smaller ball starts from the closest adversarial example so far, projected into that ball, and its steps
    have size 2.5 radius / steps. All points on the way are tested. For a linear network the result is the margin up to
    `max_radius / 2^bisections`; for other networks a stronger attack may find a smaller margin. Examples that are
    misclassified without attack have margin 0.

    Args:
        logits_fn, x, y, norm, bounds: as in `pgd`; the norm is that of delta, in the units of x.
        max_radius: the largest perturbation that is tried.
        steps: the number of steps of every attack.
        bisections: the number of attacks after the first.

    Raises:
        ValueError: as in `pgd`; `max_radius` that is not a positive scalar; `bisections` negative.

    >>> found = margins(lambda x: x[:, 0] - 1, jnp.array([[1.5, 0.0], [0.0, 0.0]]), jnp.ones(2), max_radius=1.0)
    >>> found.distance.round(2).tolist()
    [0.5, 0.0]
    """
    x, y, bounds = _checked(logits_fn, x, y, norm, bounds)
    _check.number("max_radius", max_radius, "(0, inf)")
    steps = _check.whole("steps", steps, least=1)
    bisections = _check.whole("bisections", bisections, least=0)
    ball, columns = _Ball(x, norm, bounds), (-1,) + (1,) * (x.ndim - 1)

    def judged(point: Array) -> tuple[Array, Array]:
        logits = logits_fn(point)
        return _log_odds(logits, y).sum(), ~correct(logits, y)

    def closer(wrong: Array, delta: Array, best: _Best) -> _Best:
        distance = ball.norm(delta)
        better = wrong & (distance < best.distance)
        return _Best(jnp.where(better, distance, best.distance), jnp.where(better.reshape(columns), delta, best.delta))

    def attack(radius: Array, delta: Array, best: _Best) -> tuple[Array, _Best]:
        wide = radius.reshape(columns)

        def ascend(_: int, carry: tuple[Array, _Best]) -> tuple[Array, _Best]:
            delta, best = carry
            gradient, wrong = jax.grad(judged, has_aux=True)(ball.point(delta))
            step = 2.5 / steps * wide * ball.direction(gradient, wide)
            return ball.project(delta + step, wide), closer(wrong, delta, best)

        delta, best = lax.fori_loop(0, steps, ascend, (ball.project(delta, wide), best))
        return delta, closer(judged(ball.point(delta))[1], delta, best)

    def bisect(_: int, carry: tuple[Array, Array, _Best]) -> tuple[Array, Array, _Best]:
        safe, delta, best = carry
        flipped = jnp.isfinite(best.distance)
        radius = jnp.where(flipped & (best.distance > 0), (safe + best.distance) / 2, max_radius)
        start = jnp.where(flipped.reshape(columns), best.delta, delta)  # unflipped examples continue
        delta, found = attack(radius.astype(x.dtype), start, best)
        failed = flipped & (found.distance == best.distance)
        return jnp.where(failed, radius, safe), delta, found

    zero = jnp.zeros_like(x)
    none = _Best(jnp.full(len(x), jnp.inf, x.dtype), zero)
    begin = jnp.zeros(len(x), x.dtype), zero, closer(judged(x)[1], zero, none)
    _, _, best = lax.fori_loop(0, bisections + 1, bisect, begin)
    return Margins(best.distance, jnp.isfinite(best.distance), ball.point(best.delta))


class _Best(NamedTuple):
    """The shortest perturbation so far that flips an example, and its length, infinite if there is none."""

    distance: Float[Array, " n"]
    delta: Float[Array, "n ..."]


class _Ball(NamedTuple):
    """The perturbations allowed for an attack on x: ||delta / radius|| <= 1, and x + delta within bounds."""

    x: Float[Array, "n ..."]
    kind: str
    bounds: tuple[Array, Array] | None

    def point(self, delta: Array) -> Array:
        """The perturbed point x + delta, within the bounds in spite of rounding."""
        point = self.x + delta
        return point if self.bounds is None else jnp.clip(point, *self.bounds)

    def norm(self, delta: Array) -> Float[Array, " n"]:
        """||delta|| of each example."""
        flat = delta.reshape(len(delta), -1)
        return jnp.abs(flat).max(axis=1) if self.kind == "linf" else jnp.linalg.norm(flat, axis=1)

    def direction(self, gradient: Array, radius: Array) -> Array:
        """The direction of steepest ascent, of length one; zero where the gradient vanishes."""
        if self.kind == "linf":
            return jnp.sign(gradient)
        scaled = gradient * radius
        # First scaled to a largest entry of 1, because the squares of small entries would underflow.
        scaled = self._divide(scaled, jnp.abs(scaled).reshape(len(scaled), -1).max(axis=1))
        return self._divide(scaled, self.norm(scaled))

    def project(self, delta: Array, radius: Array) -> Array:
        """`delta` projected into the ball, then into the bounds, which only shortens it, as x lies within them."""
        if self.kind == "linf":
            delta = jnp.clip(delta, -radius, radius)
        else:
            delta = self._divide(delta, jnp.maximum(1, self.norm(delta / radius)))
        return delta if self.bounds is None else jnp.clip(self.x + delta, *self.bounds) - self.x

    def draw(self, key: Key[Array, ""], radius: Array) -> Array:
        """A perturbation drawn uniformly from the ball."""
        if self.kind == "linf":
            return radius * jax.random.uniform(key, self.x.shape, self.x.dtype, -1, 1)
        flat = self.x.reshape(len(self.x), -1)
        return radius * jax.random.ball(key, flat.shape[1], 2, flat.shape[:1], flat.dtype).reshape(self.x.shape)

    def _divide(self, delta: Array, divisor: Array) -> Array:
        divisor = jnp.where(divisor > 0, divisor, 1)
        return delta / divisor.reshape((-1,) + (1,) * (delta.ndim - 1))


def _split(logits: Array, y: Array) -> tuple[Float[Array, " n"], Float[Array, "n k"]]:
    """f_y, and all f_j with f_y replaced by minus infinity."""
    own = jnp.arange(logits.shape[1]) == y[:, None]
    return jnp.where(own, logits, 0).sum(axis=1), jnp.where(own, -jnp.inf, logits)


def _log_odds(logits: Array, y: Array) -> Float[Array, " n"]:
    """log(exp(loss) - 1), i.e. log p(not y) - log p(y)."""
    if logits.ndim == 1:
        return -y * logits
    own, rest = _split(logits, y)
    return jax.nn.logsumexp(rest, axis=1) - own


def _checked(
    logits_fn: LogitsFn, x: Any, y: Any, norm: str, bounds: Bounds
) -> tuple[Float[Array, "n ..."], Real[Array, " n"], tuple[Array, Array] | None]:
    """Examples in floating point, labels and bounds, as arrays."""
    _check.choice("norm", norm, ("linf", "l2"))
    _check.real("x", x)
    _check.require(
        len(_check.array_shape(x)) >= 2 and 0 not in _check.array_shape(x),
        "x",
        "a non-empty array (n, ...)",
        f"shape {_check.array_shape(x)}",
    )
    _check.finite("x", x)
    x = _check.as_float(x)
    _check.require(callable(logits_fn), "logits_fn", "a function of x", type(logits_fn).__name__)
    try:
        output = jax.eval_shape(logits_fn, x)
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise ValueError(f"logits_fn: expected a function of x, {x.dtype} of shape {x.shape}, got {got}") from error
    shape = _check.output("logits_fn", output)
    _check.outputs("logits_fn", shape, len(x), classes=True)
    y = _labels(y, shape)
    if bounds is None:
        return x, y, None
    pair = isinstance(bounds, tuple | list) and len(bounds) == 2
    _check.require(pair, "bounds", "a pair of the smallest and largest values of x", type(bounds).__name__)
    for bound in bounds:
        _check.real("bounds", bound)
    low, high = (jnp.asarray(bound, x.dtype) for bound in bounds)
    covered = jnp.all((low <= x) & (x <= high))
    _check.require(covered, "bounds", "bounds that contain x", f"x from {jnp.min(x)} to {jnp.max(x)}")
    return x, y, (low, high)


def _labels(y: Any, shape: tuple[int, ...]) -> Real[Array, " n"]:
    """Checks the labels of outputs of this shape and returns them as an array."""
    n = shape[0]
    if len(shape) == 1:
        _check.labels("y", y, n)
    else:
        _check.real("y", y, f"class indices ({n},)")
        y = y if hasattr(y, "dtype") else np.asarray(y)
        whole = _check.array_shape(y) == (n,) and jnp.issubdtype(jnp.result_type(y), jnp.integer)
        _check.require(whole, "y", f"class indices ({n},)", f"{jnp.result_type(y)} of shape {_check.array_shape(y)}")
        valid = (jnp.min(jnp.asarray(y)) >= 0) & (jnp.max(jnp.asarray(y)) < shape[1])
        _check.require(valid, "y", f"class indices from 0 to {shape[1] - 1}", y)
    return jnp.asarray(y)
