"""Where in its input a network looks: Grad-CAM, the gradient of the input, and the share that falls on a region.

All maps belong to one class of each example, the `target`. By default it is the class that the network predicts. The
score of the target is the logit f_target for outputs `(n, k)`, and target * f for outputs `(n,)`, where the targets are
-1 and +1. Networks are in evaluation mode, so the map of an example does not depend on the other examples.

Maps are not normalised: divide each by its maximum for pictures. Compile the functions for speed:

    maps = jax.jit(functools.partial(gradcam, network, position="layer4_1"))(variables, x)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from gsjax import _check
from gsjax.networks import stages

__all__ = ["RegionShare", "gradcam", "region_share", "saliency"]


class RegionShare(NamedTuple):
    """The share of each map that falls on a region, `share (n,)`, and the share of its area, `area (n,)`.

    The area is the chance level: a map that is the same everywhere has this share. A map that is zero everywhere has no
    share, and gets NaN.
    """

    share: Float[Array, " n"]
    area: Float[Array, " n"]


def gradcam(
    network: nn.Module,
    variables: Mapping[str, Any],
    x: Real[Array, "n height width c"],
    *,
    position: str,
    target: Real[ArrayLike, "*n"] | None = None,
) -> Float[Array, "n height width"]:
    r"""Grad-CAM (Selvaraju et al. 2017, Eqs. 1 and 2): which parts of an image speak for a class, seen from a stage.

    .. math::

        \alpha_k = \frac{1}{P} \sum_{ij} \frac{\partial \, \text{score}}{\partial A_{ijk}},
        \qquad \text{map}_{ij} = \max\left(0, \sum_k \alpha_k A_{ijk}\right)

    where A is the stage, an image of P pixels. The map is then resized to the input, linearly between the centres of
    pixels. For a stage that is followed by the mean over the image and a linear readout it is 1/P times the positive
    part of the class activation map (Zhou et al. 2016). Stages near the output of a convolutional network are the
    usual choice. Where the network has paths around the stage, only the gradient through the stage counts.

    Args:
        network: a flax.linen module with outputs `(n,)` or `(n, k)`.
        variables: the variables of the network: "params" and its other collections.
        x: images `(n, height, width, c)`.
        position: the name of a stage whose shape is `(n, h, w, channels)`, see `networks.stages`.
        target: the classes, one for all examples or `(n,)`: -1 and +1 for outputs `(n,)`, indices for `(n, k)`. None
            is the predicted class, of two +1 where the output is 0.

    Returns:
        Maps `(n, height, width)`, 0 or above. A map is zero everywhere if nothing speaks for the class.

    Raises:
        ValueError: x is not an array of finite images; the network is not a flax.linen module, has no stages, or has
            other outputs; `position` is not the name of a stage of images; `target` are not classes of the outputs.

    >>> from gsjax import networks
    >>> network, x = networks.CNN((4, 4), 2), jnp.ones((3, 6, 6, 1))
    >>> gradcam(network, network.init(jax.random.key(0), x), x, position="h2", target=1).shape
    (3, 6, 6)
    """
    x = _examples(x)
    _check.shape("x", x, ndim=4)
    stage, rest = stages.after(network, variables, x, position)
    _check.require(stage.ndim == 4, "position", "a stage of images (n, h, w, c)", f"{position}: shape {stage.shape}")
    gradient = _gradient(rest, stage, target)
    maps = jax.nn.relu((gradient.mean(axis=(1, 2), keepdims=True) * stage).sum(axis=3))
    return jax.image.resize(maps, x.shape[:3], "linear")


def saliency(
    network: nn.Module,
    variables: Mapping[str, Any],
    x: Real[Array, "n ..."],
    *,
    target: Real[ArrayLike, "*n"] | None = None,
    channels: Literal["max", "sum"] = "max",
    times_input: bool = False,
) -> Float[Array, "n ..."]:
    """The size of the gradient of a class's score with respect to the input, |d score / dx| (Simonyan et al. 2014).

    Args:
        network: a flax.linen module with outputs `(n,)` or `(n, k)`.
        variables: the variables of the network: "params" and its other collections.
        x: examples `(n, ...)`. The last axis of four, `(n, height, width, c)`, are channels.
        target: as in `gradcam`. For outputs `(n,)` it changes nothing.
        channels: the "max" of the sizes over the channels of a pixel, as published, or their "sum".
        times_input: whether the gradient is multiplied by x, |x d score / dx|; for a linear network without biases
            these numbers, with their signs, add up to the score.

    Returns:
        Maps, 0 or above: `(n, height, width)` for images, and in the shape of x otherwise.

    Raises:
        ValueError: x is not a non-empty array `(n, ...)` of finite numbers; the network is not a flax.linen module, or
            has other outputs; `target` are not classes of the outputs; `channels` or `times_input` is something else.

    >>> from gsjax import networks
    >>> network, x = networks.FullyConnected((), outputs=2), jnp.ones((1, 2))
    >>> variables = {"params": {"Dense_0": {"kernel": jnp.array([[1.0, -3.0], [2.0, 0.0]]), "bias": jnp.zeros(2)}}}
    >>> saliency(network, variables, x).tolist(), saliency(network, variables, x, target=1).tolist()
    ([[1.0, 2.0]], [[3.0, 0.0]])
    """
    x = _examples(x)
    _check.choice("channels", channels, ("max", "sum"))
    times_input = _check.flag("times_input", times_input)
    gradient = _gradient(lambda x: stages.apply(network, variables, x, ())[0], x, target)
    sizes = jnp.abs(gradient * x if times_input else gradient)
    if x.ndim != 4:
        return sizes
    return sizes.max(axis=3) if channels == "max" else sizes.sum(axis=3)


def region_share(maps: Real[ArrayLike, "n ..."], region: Bool[ArrayLike, "..."]) -> RegionShare:
    """The share of each map that falls on a region, from 0 to 1, beside the share of the area.

    Args:
        maps: maps `(n, ...)`, 0 or above, such as those of `gradcam` and `saliency`.
        region: bools, True in the region: one region for all maps, in the shape of one map, or `(n, ...)`.

    Raises:
        ValueError: maps that are negative, not finite, or not a non-empty array `(n, ...)`; a region that does not hold
            bools, or has another shape.

    >>> found = region_share([[3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], [True, False, False, False])
    >>> found.share.tolist(), found.area.tolist()
    ([0.75, nan], [0.25, 0.25])
    """
    _check.not_negative("maps", maps)
    maps = _check.single("maps", maps)
    _check.require(maps.ndim > 1 and maps.size, "maps", "a non-empty array (n, ...)", f"shape {maps.shape}")
    given = region if isinstance(region, jax.Array) else np.asarray(region)
    _check.require(given.dtype == bool, "region", "an array of bools", given.dtype)
    shapes = (maps.shape[1:], maps.shape)
    _check.require(given.shape in shapes, "region", f"shape {shapes[0]} or {shapes[1]}", f"shape {given.shape}")
    chosen = jnp.broadcast_to(given, maps.shape)
    axes = tuple(range(1, maps.ndim))
    inside, outside = (jnp.where(part, maps, 0).sum(axes) for part in (chosen, ~chosen))
    total = inside + outside
    share = jnp.where(total > 0, inside / jnp.where(total > 0, total, 1), jnp.nan)
    return RegionShare(share, chosen.mean(axes, dtype=maps.dtype))


def _examples(x: Any) -> Float[Array, "n ..."]:
    """`x` as a non-empty array `(n, ...)` of finite numbers in floating point."""
    _check.finite("x", x)
    x = _check.floating("x", x)
    _check.require(x.ndim > 1 and x.size, "x", "a non-empty array (n, ...)", f"shape {x.shape}")
    return x


def _gradient(outputs_fn: Callable[[Array], Any], h: Array, target: Any) -> Array:
    """The gradient of each example's score with respect to `h`, of the shape of `h`."""

    def total(h: Array) -> Array:
        outputs = outputs_fn(h)
        shape = _check.output("network", outputs)
        _check.outputs("network", shape, len(h), classes=True)
        classes = _classes(target, outputs)
        if outputs.ndim == 1:
            return (classes * outputs).sum()
        return jnp.take_along_axis(outputs, classes[:, None], axis=1).sum()

    return jax.grad(total)(h)


def _classes(target: Any, outputs: Array) -> Array:
    """The classes of the scores, `(n,)`: signs for outputs `(n,)`, indices for outputs `(n, k)`."""
    n = len(outputs)
    if target is None:
        return jnp.where(outputs >= 0, 1, -1) if outputs.ndim == 1 else outputs.argmax(axis=1)
    _check.real("target", target, "classes")
    shape = _check.array_shape(target)
    _check.require(shape in ((), (n,)), "target", f"one class or shape ({n},)", f"shape {shape}")
    numpy = np if _check.is_concrete(target) else jnp  # the values of JAX's arrays cannot be read under `jit`
    classes: Any = numpy.broadcast_to(numpy.asarray(target), (n,))
    if outputs.ndim == 1:
        _check.labels("target", classes, n)
        return jnp.asarray(classes)
    _check.require(jnp.issubdtype(classes.dtype, jnp.integer), "target", "indices of classes", classes.dtype)
    k = outputs.shape[1]
    _check.require(((classes >= 0) & (classes < k)).all(), "target", f"classes from 0 to {k - 1}", target)
    return jnp.asarray(classes)
