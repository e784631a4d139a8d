"""Feature contamination: how far the first layer has learned features that say nothing about the label.

The measures are those of Zhang et al. (2024), "Feature Contamination: Neural Networks Learn Uncorrelated Features and
Fail to Generalize", for the first layer of any network and orthonormal features, the core before the background. A
kernel is `(dimension, width)`, as in flax's dense layers; transpose one that is stored as `(width, dimension)`. Without
a basis, the rows of a kernel belong to the features themselves, as after training on coordinates. All functions work
under `jit` and `vmap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, ArrayLike, Float, Real
from scipy import optimize, special

from gsjax import _check
from gsjax.methods.protocol import check_logits
from gsjax.methods.terms import losses

__all__ = [
    "Components",
    "Growth",
    "Parts",
    "Rates",
    "activation_rates",
    "components",
    "gradient",
    "growth",
    "norms",
    "projections",
]

Kernel = Real[ArrayLike, "dimension width"]
Basis = Real[ArrayLike, "features dimension"]


class Parts(NamedTuple):
    """A quantity for the core features and for the background features."""

    core: Float[Array, "core width"]
    background: Float[Array, "background width"]


class Components(NamedTuple):
    """The components of an array `(dimension, width)` in the span of the core, of the background, and outside of both.

    Their sum is the array.
    """

    core: Float[Array, "dimension width"]
    background: Float[Array, "dimension width"]
    rest: Float[Array, "dimension width"]


class Rates(NamedTuple):
    """How often each neuron is active on examples of its own class and of the other class, `(width,)` each."""

    own: Float[Array, " width"]
    other: Float[Array, " width"]


class Growth(NamedTuple):
    """What theory expects of the first layer of a ReLU network.

    `ratio` is that of the growth of a neuron's weights along the background to that along the core, both as norms.
    `other` is its rate of activation on the other class. `margin` is the mean margin after the background's sign has
    been reversed, relative to that before.
    """

    ratio: float
    other: float
    margin: float


def projections(
    kernel: Kernel,
    core: int,
    *,
    basis: Basis | None = None,
    initial: Kernel | None = None,
    output: Real[ArrayLike, " width"] | None = None,
) -> Parts:
    """The projections <w_k - w_k(0), m_j> of every neuron k on the core and background features m_j, with their sign.

    If `output` is given, they are multiplied by sign(a_k) and say what a feature does to the output: where neuron k is
    active, the output rises along m_j if the projection is positive. Core projections grow with this sign. Background
    projections grow with the sign of E[z_j] for either sign of a_k, so that they are added up without `output`.

    The function applies to the gradient of the kernel in the same way.

    Args:
        kernel: the kernel of the first layer, `(dimension, width)`, with w_k in column k.
        core: the number of core features, the first ones.
        basis: orthonormal rows `(features, dimension)`; None stands for unit vectors, one per row of the kernel.
        initial: the kernel at initialisation, which is subtracted; None subtracts nothing.
        output: the output weights a_k, `(width,)`.

    Returns:
        The projections, `(core, width)` and `(background, width)`.

    Raises:
        ValueError: arrays that are not finite or do not have these shapes; a `core` that leaves no background; a
            `basis` whose rows are not orthonormal.

    >>> kernel, initial = jnp.array([[2.0, -3.0], [0.5, 1.0]]), jnp.array([[1.0, -1.0], [0.5, 0.5]])
    >>> found = projections(kernel, 1, initial=initial, output=jnp.array([0.5, -0.5]))
    >>> found.core.tolist(), found.background.tolist()
    ([[1.0, 2.0]], [[0.0, -0.5]])
    """
    kernel, basis, core = _checked(kernel, core, basis)
    if initial is not None:
        initial = _array("initial", initial, kernel.shape)
        kernel = kernel - initial
    if output is not None:
        kernel = kernel * jnp.sign(_array("output", output, kernel.shape[1:]))
    found = kernel if basis is None else _product(basis, kernel)
    return Parts(found[:core], found[core:])


def norms(parts: Parts) -> Parts:
    """The Euclidean norms over features of projections, `(width,)` for the core and for the background.

    The published correlations are the means of the norms of `projections(kernel, core)` over neurons, from which those
    at initialisation have to be subtracted.

    Raises:
        ValueError: the parts are not two arrays with two axes, or not finite.

    >>> [found.tolist() for found in norms(Parts(jnp.array([[3.0], [4.0]]), jnp.array([[-2.0]])))]
    [[5.0], [2.0]]
    """
    two = isinstance(parts, tuple) and len(parts) == 2
    _check.require(two, "parts", "core and background, such as those of projections", type(parts).__name__)
    for part in parts:
        _check.finite("parts", part)
        _check.shape("parts", part, ndim=2)
    return Parts(*(jnp.linalg.norm(_check.as_float(part), axis=0) for part in parts))


def components(array: Kernel, core: int, *, basis: Basis | None = None) -> Components:
    """The components of a kernel, or of its gradient, in the span of the core, of the background, and outside of both.

    Args:
        array: `(dimension, width)`.
        core, basis: as in `projections`.

    Returns:
        Three arrays of the same shape, whose sum is `array`. For the gradient of a loss on structured examples the last
        is zero up to rounding; for a kernel it is the part that no example sees.

    Raises:
        ValueError: as in `projections`.

    >>> [part.tolist() for part in components(jnp.array([[1.0], [2.0], [3.0]]), 1, basis=jnp.eye(2, 3))]
    [[[1.0], [0.0], [0.0]], [[0.0], [2.0], [0.0]], [[0.0], [0.0], [3.0]]]
    """
    array, basis, core = _checked(array, core, basis, name="array")
    if basis is None:
        is_core = jnp.arange(len(array))[:, None] < core
        return Components(jnp.where(is_core, array, 0), jnp.where(is_core, 0, array), jnp.zeros_like(array))
    first, second = (_product(rows.T, _product(rows, array)) for rows in (basis[:core], basis[core:]))
    return Components(first, second, array - first - second)


def activation_rates(
    preactivations: Real[ArrayLike, "n width"],
    y: Real[ArrayLike, " n"],
    *,
    output: Real[ArrayLike, " width"] | None = None,
) -> Rates:
    """The share of the examples of each class for which a neuron is active, i.e. its pre-activation is positive.

    A neuron's own class is the sign of its output weight, or +1 if `output` is not given. Without `output`, own - other
    is P(active | y = +1) - P(active | y = -1), which multiplies a_k E[z_j] in the background part of the gradient.

    Args:
        preactivations: x @ kernel + bias, `(n, width)`. A stage after relu, gelu, tanh or identity has the same signs.
        y: labels `(n,)`, -1 and +1, both present.
        output: the output weights a_k, `(width,)`.

    Raises:
        ValueError: arrays that are not finite or do not have these shapes; labels that are not -1 and +1, or without
            one of the classes.

    >>> rates = activation_rates(jnp.array([[1.0], [-2.0], [-3.0], [4.0]]), jnp.array([1, 1, -1, -1]))
    >>> rates.own.tolist(), rates.other.tolist()
    ([0.5], [0.5])
    """
    _check.finite("preactivations", preactivations)
    _check.shape("preactivations", preactivations, ndim=2)
    active = jnp.asarray(preactivations) > 0
    _check.labels("y", y, len(active))
    if _check.is_concrete(y):
        classes = np.unique(np.asarray(y)).tolist()
        _check.require(len(classes) == 2, "y", "both classes, -1 and +1", classes)
    dtype = _check.as_float(preactivations).dtype
    positive, negative = (jnp.mean(active, axis=0, dtype=dtype, where=(jnp.asarray(y) == c)[:, None]) for c in (1, -1))
    if output is None:
        return Rates(positive, negative)
    up = _array("output", output, active.shape[1:]) > 0
    return Rates(jnp.where(up, positive, negative), jnp.where(up, negative, positive))


def gradient(
    network: nn.Module,
    variables: Mapping[str, Any],
    x: Real[Array, "n ..."],
    y: Real[Array, " n"],
    *,
    loss: str = "cross_entropy",
    layer: str = "hidden",
) -> Float[Array, "dimension width"]:
    """The gradient of the mean loss by the kernel of a layer, which `projections` and `components` take apart.

    For two layers f = sum_k a_k sigma(w_k x) its column k is -a_k mean_i r_i sigma'(w_k x_i) x_i with r_i = -dl_i/df_i,
    that is y_i 1{y_i f_i < 1} for the hinge loss. Its background part vanishes for sigma' = 1 if the classes have equal
    shares of active examples; for ReLU and a background that is independent of everything else in the mean, it is
    -a_k (P+ - P-) E[z_j] with the probabilities P+- that the example is of the class, active, and pulls.

    Args:
        network: a flax.linen module, in evaluation mode.
        variables: its variables.
        x: examples, `(n, ...)`.
        y: labels, as in `methods`.
        loss: a loss of `methods.terms`.
        layer: the path of the layer in the params, joined by "/".

    Raises:
        ValueError: a network that is not a flax.linen module, or whose outputs are neither `(n,)` nor `(n, k)`; a
            `layer` without kernel with two axes; an unknown `loss`; labels that are not those of the outputs.

    >>> from gsjax import networks
    >>> network, x = networks.TwoLayer(2, bias=False), jnp.eye(2)
    >>> variables = network.init(jax.random.key(0), x)
    >>> variables = {**variables, "params": {"hidden": {"kernel": jnp.ones((2, 2))}}}
    >>> gradient(network, variables, x, jnp.array([1.0, 1.0]), loss="hinge").tolist()
    [[-0.25, 0.25], [-0.25, 0.25]]
    """
    is_module = isinstance(network, nn.Module)
    _check.require(is_module, "network", "a flax.linen module", type(network).__name__)
    path, kernel = (*str(layer).split("/"), "kernel"), variables.get("params")
    for name in path:
        kernel = kernel[name] if isinstance(kernel, Mapping) and name in kernel else None
    shape = () if kernel is None else jnp.shape(kernel)
    _check.require(len(shape) == 2, "layer", "the path of a layer with a kernel (dimension, width)", repr(layer))
    _check.finite("x", x)

    def value(kernel: Array) -> Array:
        params = flatten_dict(variables["params"]) | {path: kernel}
        logits: Any = network.apply({**variables, "params": unflatten_dict(params)}, jnp.asarray(x))
        check_logits(logits, len(x))
        return losses(logits, y, loss).mean()

    return jax.grad(value)(jnp.asarray(kernel))


def growth(core: int, background: int, *, mean: float = 0.5, deviation: float = 12**-0.5) -> Growth:
    r"""To which ratio a ReLU network with two layers and a frozen output learns background and core features.

    The features are those of `data.structured`, c of the core and b of the background, whose z_j are independent with
    one mean mu and one standard deviation s. The weights of a neuron grow by equal amounts C / sqrt(c) along each core
    feature, with its own sign, and B / sqrt(b) along each background feature, with r = B / C. With the normal
    distribution Phi and its density phi,

    .. math::

        r = \sqrt{\frac{b}{c}} \, \frac{1 - P}{1 + P}, \qquad P = \Phi(h), \qquad
        h = \frac{\mu}{s} \, \frac{\sqrt{b} \, r - \sqrt{c}}{\sqrt{1 + r^2}},

    whose solution is unique, as h increases with r. P is the rate of activation on the other class, and the mean margin
    falls by the factor

    .. math::

        \left( \phi(h) - h \, \Phi(-h) \right) \frac{s}{\mu} \, \frac{\sqrt{1 + r^2}}{\sqrt{c} + \sqrt{b} \, r}

    where the background is reversed. Derived in `theory/feature_contamination.py`, for many features, while all margins
    are below those at which the loss lets go of an example, and once the initial weights are forgotten. The claims
    `contamination-growth` and `contamination-shift` of `python -m theory` compare both with trained networks.

    Args:
        core: c.
        background: b.
        mean: mu, above zero; by default that of the uniform distribution on [0, 1).
        deviation: s, above zero; by default the same.

    Raises:
        ValueError: `core` or `background` not whole numbers of at least 1; `mean` or `deviation` not a finite number
            above zero.

    >>> found = growth(32, 32)
    >>> round(found.ratio, 2), round(found.margin, 2), round(growth(32, 8).margin, 2)
    (0.83, 0.1, 0.6)
    """
    core, background = _check.whole("core", core, least=1), _check.whole("background", background, least=1)
    _check.number("mean", mean, "(0, inf)")
    _check.number("deviation", deviation, "(0, inf)")
    c, b, size = np.sqrt(core), np.sqrt(background), float(mean) / float(deviation)

    def height(r: Any) -> Any:
        return size * (b * r - c) / np.hypot(1, r)

    def excess(r: Any) -> Any:
        other = special.ndtr(height(r))
        return r - b / c * (1 - other) / (1 + other)

    r: Any = optimize.brentq(excess, 0, b / c)
    h = height(r)
    density = np.exp(-(h**2) / 2) / np.sqrt(2 * np.pi)
    margin = (density - h * special.ndtr(-h)) / size * np.hypot(1, r) / (c + b * r)
    return Growth(float(r), float(special.ndtr(h)), float(margin))


def _checked(
    kernel: Any, core: Any, basis: Any, name: str = "kernel"
) -> tuple[Float[Array, "dimension width"], Float[Array, "features dimension"] | None, int]:
    _check.finite(name, kernel)
    _check.shape(name, kernel, ndim=2)
    kernel = _check.as_float(kernel)
    if basis is not None:
        basis = _check.orthonormal("basis", basis).astype(kernel.dtype)
        good = basis.shape[1] == len(kernel)
        _check.require(
            good, "basis", f"rows of the length {len(kernel)} of the {name}'s columns", f"shape {basis.shape}"
        )
    features = len(kernel if basis is None else basis)
    core = _check.whole("core", core, least=1)
    _check.require(core < features, "core", f"fewer than {features}, the number of features", core)
    return kernel, basis, core


def _array(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    _check.finite(name, value)
    got = _check.array_shape(value)
    _check.require(got == shape, name, f"shape {shape}", f"shape {got}")
    return _check.as_float(value)


def _product(one: Array, other: Array) -> Array:
    return jnp.matmul(one, other, precision="highest")
