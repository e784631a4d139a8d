"""Two moons, made one-sided and shifted (Pezeshki et al. 2021, Fig. 1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from gsjax import _check
from gsjax.data import _arguments
from gsjax.data.dataset import Dataset

__all__ = ["two_moons"]


def two_moons(key: Key[Array, ""], n: int = 300, *, noise: float = 0.1, delta: float = 0.1) -> Dataset:
    """Two moons that the first coordinate alone separates if `delta` is positive, and does not if it is negative.

    The moons are those of scikit-learn's `make_moons` with Gaussian noise on both coordinates; the upper moon (n // 2
    points) has label -1, the lower +1. They are then changed as in Pezeshki et al. 2021, Fig. 1: X1 -= 1/2;
    X2 -= 3y/10; X2 is centred; X2 <- -y |X2|, which makes each class one-sided; X2 -= y delta; and the axes are
    swapped. Hence y x_1 <= -delta. With delta > 0 the label is the sign of -x_1, and the gap between the classes is at
    least 2 delta wide. With delta < 0 the classes overlap along x_1, and only a curved boundary separates them.

    Args:
        key: determines the noise and the order of the examples.
        n: the number of examples of both classes together.
        noise: the standard deviation of the noise.
        delta: the paper's Delta, which is 0.1 and -0.1 there.

    Returns:
        x `(n, 2)` and y `(n,)` of -1 and +1, in random order, in JAX's default float type.

    Raises:
        ValueError: an n that is not a whole number of at least 2; `noise` negative or not finite; `delta` not finite.

    >>> x, y = two_moons(jax.random.key(0), 100)
    >>> x.shape, bool((y * x[:, 0] <= -0.1).all())
    ((100, 2), True)
    """
    _arguments.key("key", key)
    n = _check.whole("n", n, least=2)
    _arguments.reals("delta", delta, "a finite number")
    expected = "a standard deviation of at least 0"
    _check.require(_arguments.reals("noise", noise, expected) >= 0, "noise", expected, noise)
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
