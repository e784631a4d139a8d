"""Two moons, made one-sided and shifted (Pezeshki et al. 2021, Fig. 1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from gsjax import _check
from gsjax.data.dataset import Dataset

__all__ = ["two_moons"]


def two_moons(key: Key[Array, ""], n: int = 300, *, noise: float = 0.1, delta: float = 0.1) -> Dataset:
    """Two moons that the first coordinate alone separates, by a margin, or does not, by the sign of `delta`.

    The two moons of scikit-learn's `make_moons`, the upper labelled -1 (n // 2 points) and the lower +1, with
    Gaussian noise on both coordinates; then (Pezeshki et al. 2021, Fig. 1) X1 -= 1/2; X2 -= 3y/10; X2 is
    centred; X2 <- -y |X2|, which makes each class one-sided; X2 -= y delta; the axes are swapped. So
    y x_1 <= -delta: with delta > 0 the sign of -x_1 is the label and the gap between the classes is at least
    2 delta wide; with delta < 0 they overlap along x_1, and only a curved boundary separates them.

    Args:
        key: the noise and the order of the examples.
        n: examples, of both classes together.
        noise: standard deviation.
        delta: the paper's Delta; 0.1 and -0.1 there.

    Returns:
        x `(n, 2)` and y `(n,)` of -1 and +1, in random order, in JAX's default float type.

    Raises:
        ValueError: n below 2, `noise` negative or not finite, `delta` not finite.

    >>> x, y = two_moons(jax.random.key(0), 100)
    >>> x.shape, bool((y * x[:, 0] <= -0.1).all())
    ((100, 2), True)
    """
    _check.require(n >= 2, "n", "at least 2 examples", n)
    _check.finite("delta", delta)
    _check.finite("noise", noise)
    _check.require(noise >= 0, "noise", "a standard deviation of at least 0", noise)
    noise_key, order_key = jax.random.split(key)
    upper, lower = jnp.linspace(0, jnp.pi, n // 2), jnp.linspace(0, jnp.pi, n - n // 2)
    x1 = jnp.concatenate([jnp.cos(upper), 1 - jnp.cos(lower)])
    x2 = jnp.concatenate([jnp.sin(upper), 0.5 - jnp.sin(lower)])
    y = jnp.concatenate([-jnp.ones_like(upper), jnp.ones_like(lower)])
    x1, x2 = jnp.stack([x1, x2]) + noise * jax.random.normal(noise_key, (2, n))

    x2 = x2 - 0.3 * y
    x2 = -y * (jnp.abs(x2 - x2.mean()) + delta)
    order = jax.random.permutation(order_key, n)
    return Dataset(jnp.stack([x2, x1 - 0.5], axis=1)[order], y[order])
