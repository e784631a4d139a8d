"""Structured features (Zhang et al., ICML 2024): a core that depends on the label, and a background that does not.

    x = sum over core of y z_j m_j + sum over background of z_j m_j,    m_j orthonormal, z_j independent.

A change of the distribution of the background, whose mean is not zero, is the distribution shift. The label says
nothing about the background, neither before nor after the shift.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from gsjax import _check
from gsjax.data import _arguments

__all__ = ["Normal", "Spheres", "Structured", "Uniform", "random_basis", "sample"]

Number = float | Float[Array, ""] | Float[Array, " features"]


class Uniform(NamedTuple):
    """The uniform distribution on [low, high); numbers for all features, or arrays `(features,)`."""

    low: Number
    high: Number


class Normal(NamedTuple):
    """The normal distribution; numbers for all features, or arrays `(features,)`."""

    mean: Number
    deviation: Number


class Spheres(NamedTuple):
    """A core that is uniform on a sphere around 0, whose radius depends on the class: no linear function predicts y."""

    positive: float | Float[Array, ""] = 1.0
    negative: float | Float[Array, ""] = 2.0


class Structured(NamedTuple):
    """Examples with their coordinates in the basis of features, x = z @ basis; it starts with `x, y`.

    Attributes:
        x: examples, `(n, dimension)`.
        y: labels, `(n,)`, -1 and +1.
        z: coordinates, `(n, core + background)`, the core first; y z_j for the linear core.
        basis: the features m_j, orthonormal rows, `(core + background, dimension)`.
    """

    x: Float[Array, "n dimension"]
    y: Float[Array, " n"]
    z: Float[Array, "n features"]
    basis: Float[Array, "features dimension"]


def sample(
    key: Key[Array, ""],
    n: int,
    *,
    core: int = 32,
    background: int = 32,
    dimension: int = 256,
    shifted: bool = False,
    core_distribution: Uniform | Normal | Spheres = Uniform(0.0, 1.0),  # noqa: B008 (an immutable tuple)
    background_distribution: Uniform | Normal = Uniform(0.0, 1.0),  # noqa: B008
    shifted_distribution: Uniform | Normal | None = None,
    basis: Float[Array, "features dimension"] | None = None,
) -> Structured:
    """Examples of the structured feature model (Zhang et al. 2024), in distribution or shifted.

    The defaults are the published numerical experiment: z_j uniform on [0, 1), for the core y z_j, and the background
    on (-1, 0] if shifted. The same key gives the same labels and the same core with and without the shift, and for all
    distributions of the background. Numbers in distributions may be traced, so that a grid over them is one program.
    Features with `Uniform(0, 0)` are absent; their number can vary in one program as well.

    Args:
        key: determines the coordinates.
        n: the number of examples.
        core: the number of core features.
        background: the number of background features.
        dimension: the dimension of x.
        shifted: whether the background is drawn from the shifted distribution.
        core_distribution: of z_j in the core coordinates y z_j, or `Spheres`, whose coordinates do not contain y.
        background_distribution: of z_j in the background.
        shifted_distribution: the same after the shift; None is the distribution of -z_j.
        basis: orthonormal rows `(core + background, dimension)`, as from `random_basis`; by default unit vectors.

    Returns:
        x, y, z and the basis, in JAX's default float type. The labels are +1 and -1 in turn.

    Raises:
        ValueError: n, core, background or dimension below 1; a `dimension` below core + background; a distribution of
            another kind, with numbers that are not finite or have another shape than `()` or `(features,)`, with low
            above high, a negative deviation or a radius that is not positive; a `basis` of another shape or whose rows
            are not orthonormal.

    >>> x, y, z, basis = sample(jax.random.key(0), 4, core=2, background=1, dimension=5)
    >>> x.shape, y.tolist(), bool((y[:, None] * z[:, :2] >= 0).all() & (z[:, 2] >= 0).all())
    ((4, 5), [1.0, -1.0, 1.0, -1.0], True)
    """
    _arguments.key("key", key)
    n, core, background = (
        _check.whole(name, value, least=1) for name, value in (("n", n), ("core", core), ("background", background))
    )
    count = core + background
    dimension = _check.whole("dimension", dimension, least=1)
    expected = f"at least {count}, the number of features"
    _check.require(dimension >= count, "dimension", expected, dimension)
    shifted = _check.flag("shifted", shifted)
    _distribution("core_distribution", core_distribution, core, (Uniform, Normal, Spheres))
    _distribution("background_distribution", background_distribution, background, (Uniform, Normal))
    if shifted_distribution is not None:
        _distribution("shifted_distribution", shifted_distribution, background, (Uniform, Normal))
    if basis is not None:
        basis = _orthonormal("basis", basis, (count, dimension))

    core_key, background_key = jax.random.split(key)
    y = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    if isinstance(core_distribution, Spheres):
        directions = jax.random.normal(core_key, (n, core))
        radius = jnp.where(y > 0, core_distribution.positive, core_distribution.negative)
        z_core = (radius / jnp.linalg.norm(directions, axis=1))[:, None] * directions
    else:
        z_core = y[:, None] * _drawn(core_key, core_distribution, (n, core))
    replaced = shifted and shifted_distribution is not None
    z_background = _drawn(
        background_key, shifted_distribution if replaced else background_distribution, (n, background)
    )
    if shifted and not replaced:
        z_background = -z_background
    z = jnp.concatenate([z_core, z_background], axis=1).astype(float)
    if basis is None:
        return Structured(jnp.pad(z, ((0, 0), (0, dimension - count))), y, z, jnp.eye(count, dimension))
    return Structured(jnp.matmul(z, basis, precision="highest"), y, z, basis)


def random_basis(key: Key[Array, ""], count: int, dimension: int) -> Float[Array, "count dimension"]:
    """`count` orthonormal vectors in `dimension` dimensions, as rows, uniformly distributed (Haar).

    Raises:
        ValueError: a `count` that is not a whole number of at least 1, or a `dimension` below it.

    >>> basis = random_basis(jax.random.key(0), 2, 3)
    >>> bool(jnp.allclose(basis @ basis.T, jnp.eye(2), atol=1e-6))
    True
    """
    _arguments.key("key", key)
    count = _check.whole("count", count, least=1)
    dimension = _check.whole("dimension", dimension, least=count)
    q, r = jnp.linalg.qr(jax.random.normal(key, (dimension, count)))
    return (q * jnp.where(jnp.diag(r) < 0, -1.0, 1.0)).T


def _drawn(key: Key[Array, ""], distribution: Any, shape: tuple[int, int]) -> Float[Array, "n features"]:
    if isinstance(distribution, Uniform):
        low, high = map(jnp.asarray, distribution)
        return low + (high - low) * jax.random.uniform(key, shape)
    mean, deviation = map(jnp.asarray, distribution)
    return mean + deviation * jax.random.normal(key, shape)


def _distribution(name: str, value: Any, count: int, kinds: tuple[type, ...]) -> None:
    """Checks that a distribution is of one of the `kinds`, with good numbers for `count` features."""
    _check.require(
        isinstance(value, kinds), name, f"a distribution: {', '.join(kind.__name__ for kind in kinds)}", repr(value)
    )
    shapes = ((),) if isinstance(value, Spheres) else ((), (count,))
    for field, number in zip(value._fields, value, strict=True):
        _check.finite(f"{name}.{field}", number)
        shape = _check.array_shape(number)
        _check.require(shape in shapes, f"{name}.{field}", f"shape {' or '.join(map(str, shapes))}", f"shape {shape}")
    if isinstance(value, Uniform) and _check.is_concrete(value):
        ordered = np.all(np.asarray(value.low) <= np.asarray(value.high))
        _check.require(ordered, f"{name}.low", "at most high", f"{value.low} and {value.high}")
    elif isinstance(value, Normal):
        _check.not_negative(f"{name}.deviation", value.deviation)
    elif isinstance(value, Spheres):
        for field, number in zip(value._fields, value, strict=True):
            _check.positive(f"{name}.{field}", number)


def _orthonormal(name: str, value: Any, shape: tuple[int, int]) -> Float[Array, "count dimension"]:
    """`value` as an array of orthonormal rows of the given shape, in JAX's default float type."""
    _check.real(name, value)
    got = _check.array_shape(value)
    _check.require(got == shape, name, f"shape {shape}", f"shape {got}")
    _check.finite(name, value)
    rows = jnp.asarray(value, float)
    if _check.is_concrete(rows):
        gram = np.asarray(value, float) @ np.asarray(value, float).T
        error = np.abs(gram - np.eye(len(gram))).max()
        tolerance = 100 * float(jnp.finfo(jnp.asarray(value).dtype).eps) if _is_float(value) else 0.0
        _check.require(error <= tolerance, name, "orthonormal rows", f"inner products that differ by {error:.3g}")
    return rows


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating)
