r"""Structured features (Zhang et al., ICML 2024): a core that depends on the label, and a background that does not.

.. math::

    x = \sum_{j \in \text{core}} y z_j m_j + \sum_{j \in \text{background}} z_j m_j,
    \qquad m_j \text{ orthonormal, } z_j \text{ independent.}

A change of the distribution of the background, whose mean is not zero, is the distribution shift. The label says
nothing about the background, neither before nor after the shift.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree

from gsjax import _check
from gsjax.data import _arguments

__all__ = ["Normal", "Spheres", "Structured", "Uniform", "random_basis", "reduced", "sample"]

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
        basis = _check.orthonormal("basis", basis, (count, dimension))

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


def reduced(
    params: PyTree,
    basis: Float[Array, "features dimension"],
    optimizer: optax.GradientTransformation,
    *,
    layer: str = "hidden",
    weight_decay: float = 0.0,
) -> PyTree:
    """The params of a network on x in the basis of features: training them on z is the same as training on x.

    The first layer multiplies x by a kernel W `(dimension, width)`, and nothing else depends on x. For x = z B, with
    the basis B, the outputs depend on W only through B W, and the gradient has no part outside of the rows of B. If the
    update of the optimiser commutes with B, training on z from B W gives the projections B W_t of training on x from W,
    all other params, and all outputs, exactly. The part of W outside of the features never enters; it only decays.
    The state of the optimiser starts anew, `optimizer.init(reduced(...))`.

    Whether the optimiser commutes is decided by what it does in both bases to random params and gradients of these
    shapes and of several magnitudes. SGD and momentum commute, with any schedule and any decay of the weights. Adam,
    other rescalings of single coordinates, and signs do not. Clipping by the global norm does, unless a decay of the
    weights enters before it, because the norm then contains the part of W outside of the features. An optimiser that
    changes its kind, such as from SGD to Adam after many steps, is judged by its first steps only.

    Args:
        params: the params of a network on x; its kernels and biases may be traced.
        basis: orthonormal rows, as in `Structured`.
        optimizer: the optax optimiser of the training.
        layer: the path of the first layer in the params, joined by "/", a dense layer that multiplies x unscaled.
        weight_decay: the factor of the method, whose gradient enters before the optimiser.

    Raises:
        ValueError: an `optimizer` that does not commute, changes nothing in 256 steps, or has traced numbers; a `layer`
            without kernel `(dimension, width)`; rows of the `basis` that are not orthonormal; a negative `weight_decay`
            or one that is not finite.

    >>> params = {"hidden": {"kernel": jnp.arange(6.0).reshape(3, 2)}}
    >>> reduced(params, jnp.eye(2, 3), optax.sgd(0.1, momentum=0.9))["hidden"]["kernel"].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    >>> reduced(params, jnp.eye(2, 3), optax.adam(0.1))
    Traceback (most recent call last):
    ValueError: optimizer: expected one that commutes with rotations of the first layer, got updates that differ by ...
    """
    basis = _check.orthonormal("basis", basis)
    path = _kernel_path(layer, params, basis.shape[1])
    _check.number("weight_decay", weight_decay, "[0, inf)")
    is_optimizer = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    _check.require(is_optimizer, "optimizer", "an optax optimiser, such as optax.sgd(1e-3)", type(optimizer).__name__)
    decay = float(weight_decay) if _check.is_concrete(weight_decay) else 1.0  # which value above 0 makes no difference
    _check_commutes(optimizer, params, path, len(basis), decay)
    return _changed(params, path, lambda kernel: _product(basis, kernel))


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


# Magnitudes of the params and of the gradients in `_check_commutes`. Small and large ones, so that clipping acts, and
# params that are large enough for their decay to weigh against the gradient.
_MAGNITUDES = ((1.0, 1.0), (1.0, 1e-3), (1e3, 1.0), (1e6, 1.0), (1e6, 1e3), (1.0, 1e3), (1.0, 1e6), (1.0, 1.0))
_MOST_STEPS = 256  # an optimiser may wait, as in a warm-up or while it accumulates gradients


def _check_commutes(
    optimizer: optax.GradientTransformation, params: PyTree, path: tuple[str, ...], count: int, decay: float
) -> None:
    """Checks that the updates of `optimizer` are the same in a basis of `count` features and in all dimensions."""
    rng = np.random.default_rng(0)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params)
    kernel = functools.reduce(lambda tree, name: tree[name], path, shapes)

    def drawn(scale: float) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), shapes)

    with jax.ensure_compile_time_eval():
        basis = jnp.asarray(np.linalg.qr(rng.normal(size=(kernel.shape[0], count)))[0].T, kernel.dtype)
        projected = functools.partial(_changed, path=path, change=lambda array: _product(basis, array))

        def updated(state: Any, gradient: PyTree, params: PyTree) -> tuple[PyTree, Any]:
            gradient = jax.tree.map(lambda g, p: g + jnp.asarray(decay, p.dtype) * p, gradient, params)
            return optimizer.update(gradient, state, params)

        @jax.jit
        def compared(states: Any, gradient: PyTree, params: PyTree) -> tuple[Any, Array, Array]:
            gradient = projected(gradient)
            lifted = _changed(gradient, path, lambda array: _product(basis.T, array))
            full, all_dimensions = updated(states[0], lifted, params)
            features, in_features = updated(states[1], gradient, projected(params))
            difference = optax.tree.sub(projected(full), features)
            norms = [jnp.stack([*map(jnp.linalg.norm, jax.tree.leaves(tree))]) for tree in (difference, full, features)]
            return (all_dimensions, in_features), norms[0], jnp.maximum(*norms[1:])

        params = drawn(1.0)
        states, seen = (optimizer.init(params), optimizer.init(projected(params))), 0
        tolerance = float(jnp.finfo(kernel.dtype).eps) ** 0.5
        for step in range(_MOST_STEPS):
            params_scale, scale = _MAGNITUDES[seen]
            states, difference, size = compared(states, drawn(scale), drawn(params_scale))
            known = _check.is_concrete(difference, size)
            _check.require(
                known, "optimizer", "one without traced numbers, whose updates can be compared", "traced ones"
            )
            if not np.any(size):
                continue
            relative = np.max(np.asarray(difference)[size != 0] / np.asarray(size)[size != 0])
            expected = "one that commutes with rotations of the first layer"
            got = f"updates that differ by {relative:.2g} of their norm in step {step + 1}"
            _check.require(relative <= tolerance, "optimizer", expected, got)
            seen += 1
            if seen == len(_MAGNITUDES):
                return
        _check.require(seen, "optimizer", f"one that changes params within {_MOST_STEPS} steps", "no change")


def _changed(tree: PyTree, path: Sequence[str], change: Callable[[Array], Array]) -> PyTree:
    """Nested dicts with `change` applied to the leaf at `path`."""
    first, *rest = path
    return {**tree, first: _changed(tree[first], rest, change) if rest else change(tree[first])}


def _product(one: Array, other: Array) -> Array:
    return jnp.matmul(one, other, precision="highest").astype(other.dtype)


def _kernel_path(layer: Any, params: Any, dimension: int) -> tuple[str, ...]:
    """The path of the kernel `(dimension, width)` of a layer of `params`."""
    path, found = (*str(layer).split("/"), "kernel"), params
    for name in path:
        found = found[name] if isinstance(found, Mapping) and name in found else None
    shape = () if found is None else jnp.shape(found)
    expected = f"the path of a layer in params, joined by /, with a kernel ({dimension}, width)"
    _check.require(len(shape) == 2 and shape[0] == dimension, "layer", expected, f"{layer!r} with shape {shape}")
    return path
