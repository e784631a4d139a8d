"""Convolutions in random networks."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from .random_draws import LAYERS, Draw, Layer, Shape, option
from .random_vectors import flax_layer
from .random_weights import weight

option(
    "strides",
    "dilated kernel",
    "dilated input",
    "negative padding",
    "groups",
    "channels first",
    "kernel first",
    "uneven padding",
    "padding same",
    "batch groups",
    "kernel transposed",
)


def convolution(d: Draw, shape, out, *, plain=False, groups=None):
    """A `conv_general_dilated` of any kind over `len(shape) - 1` axes."""
    spatial, channels = shape[:-1], shape[-1]
    rank = len(spatial)
    kernel = [d.whole(1, 3) for _ in spatial]
    if groups is None:
        groups = d.choice([g for g in range(1, channels + 1) if channels % g == 0])
    out = -(-out // groups) * groups
    if plain:
        strides, rhs, lhs = [1] * rank, [1] * rank, [1] * rank
        padding = [(k // 2, k - 1 - k // 2) for k in kernel]
    else:
        strides, rhs = [d.whole(1, 2) for _ in spatial], [d.whole(1, 2) for _ in spatial]
        lhs = [d.whole(1, 2) if d.chance(0.8) else 1 for _ in spatial]
        padding, fits = [], []
        for size, k, dilation, spread in zip(spatial, kernel, rhs, lhs, strict=True):
            pads = (d.whole(-1, 2), d.whole(-1, 2))
            fits.append((size - 1) * spread + 1 + sum(pads) >= (k - 1) * dilation + 1 and size > 2)
            padding.append(pads if fits[-1] else ((k - 1) * dilation, (k - 1) * dilation))
    if groups > 1:
        d.mark("groups")
    for name, found in (
        ("strides", max(strides) > 1),
        ("dilated kernel", max(rhs) > 1),
        ("dilated input", max(lhs) > 1),
        ("negative padding", min(min(pads) for pads in padding) < 0),
        ("uneven padding", any(low != high for low, high in padding)),
    ):
        if found:
            d.mark(name)
    axes = "XYZ"[:rank]
    first, turned = d.chance(), d.chance()
    layout = (
        f"NC{axes}" if first else f"N{axes}C",
        f"OI{axes}" if turned else f"{axes}IO",
        f"NC{axes}" if first else f"N{axes}C",
    )
    if first:
        d.mark("channels first")
    if turned:
        d.mark("kernel first")
    size = (out, channels // groups, *kernel) if turned else (*kernel, channels // groups, out)
    w = weight(d, *size)
    string = not plain and min(min(pads) for pads in padding) >= 0 and max(lhs) == 1 and d.chance(0.8)
    if string:
        d.mark("padding same")

    def convolved(p, h):
        h = jnp.moveaxis(h, -1, 1) if first else h
        y = lax.conv_general_dilated(
            h,
            w(p).astype(h.dtype),
            strides,
            "SAME" if string else padding,
            lhs,
            rhs,
            dimension_numbers=layout,
            feature_group_count=groups,
        )
        return jnp.moveaxis(y, 1, -1) if first else y

    return convolved, shape_after(d, convolved, shape)


def shape_after(d: Draw, layer: Layer, shape: Shape) -> Shape:
    """What the layer makes of one example."""
    return jax.eval_shape(layer, d.leaves, jax.ShapeDtypeStruct((2, *shape), jnp.result_type(float))).shape[1:]


@LAYERS.add("convolution", "image", needs="whole")
def conv(d, shape, out):
    return convolution(d, shape, out)


@LAYERS.add("convolution in time", "series", needs="whole")
def conv_in_time(d, shape, out):
    return convolution(d, shape, out)


@LAYERS.add("convolution that keeps the shape", "image", keeps=True, needs="whole")
def conv_same(d, shape, out):
    return convolution(d, shape, out, plain=True, groups=1)


@LAYERS.add("depthwise convolution", "image", needs="whole")
def depthwise(d, shape, out):
    return convolution(d, shape, shape[-1], groups=shape[-1])


@LAYERS.add("convolution in batch groups", "image", keeps=True, needs="whole")
def batch_groups(d, shape, out):
    """Each group of output channels reads a version of its own of every example."""
    groups = d.choice([g for g in (2, 3, 1) if out % g == 0])
    d.mark("batch groups")
    w, factors = weight(d, 2, 2, shape[-1], out), 1 + d.constant(groups) ** 2

    def convolved(p, h):
        h = (factors[:, None, None, None, None] * h).reshape(-1, *h.shape[1:]).astype(h.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            h, w(p).astype(h.dtype), (1, 1), "SAME", dimension_numbers=numbers, batch_group_count=groups
        )

    return convolved, (*shape[:-1], out)


@LAYERS.add("transposed convolution", "image", needs="whole")
def transposed_convolution(d, shape, out):
    strides, turned = (d.whole(1, 2), d.whole(1, 2)), d.chance()
    padding = d.choice(["SAME", "VALID", [(0, 1), (1, 0)]])
    kernel = (d.whole(1, 3), d.whole(1, 3))
    if turned:
        d.mark("kernel transposed")
    w = weight(d, *kernel, out, shape[-1]) if turned else weight(d, *kernel, shape[-1], out)

    def convolved(p, h):
        return lax.conv_transpose(
            h,
            w(p).astype(h.dtype),
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            transpose_kernel=turned,
        )

    return convolved, shape_after(d, convolved, shape)


@LAYERS.add("one kernel in convolutions of different groups", "image", needs="whole")
def regrouped(d, shape, out):
    """The same leaf in a convolution of one group and in one of two; one bias for both."""
    w, b = weight(d, 2, 2, 2, 4), weight(d, 4)

    def convolved(p, h):
        h = jnp.concatenate([h, jnp.sin(h), jnp.cos(h), h**2], -1)[..., :4].astype(h.dtype)
        h = jnp.resize(h, (*h.shape[:-1], 4)) if h.shape[-1] < 4 else h
        convolve = functools.partial(
            lax.conv_general_dilated,
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        kernel = w(p).astype(h.dtype)
        first = jnp.tanh(convolve(h, kernel, feature_group_count=2) + b(p)).astype(h.dtype)
        return convolve(first[..., :2], kernel) + b(p)

    return convolved, (*shape[:-1], 4)


@LAYERS.add("kernels from the example", "image", needs="whole")
def dynamic_convolution(d, shape, out):
    w = weight(d, shape[-1], 2, 2, shape[-1], out)

    def one(p, image):
        kernel = jnp.tanh(jnp.tensordot(image.mean((0, 1)), w(p), 1)).astype(image.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(image[None], kernel, (1, 1), "SAME", dimension_numbers=numbers)[0]

    return lambda p, h: jax.vmap(functools.partial(one, p))(h), (*shape[:-1], out)


@LAYERS.add("weight as the image", "image", needs="whole")
def correlation(d, shape, out):
    """The example is the kernel, the weight what it slides over."""
    w = weight(d, out, shape[0] + 1, shape[1] + 1, shape[2])

    def one(p, image):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            w(p).astype(image.dtype), image[..., None], (1, 1), "VALID", dimension_numbers=numbers
        )
        return jnp.moveaxis(y[..., 0], 0, -1)

    return lambda p, h: jax.vmap(functools.partial(one, p))(h), (2, 2, out)


@LAYERS.add("convolution by patches", "image", keeps=True, needs="whole")
def patches(d, shape, out):
    w = weight(d, shape[-1] * 4, out)

    def convolved(p, h):
        cut = lax.conv_general_dilated_patches(h, (2, 2), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return cut @ w(p)

    return convolved, (*shape[:-1], out)


@LAYERS.add("convolution by shifted slices", "image", keeps=True)
def shifted(d, shape, out):
    w = weight(d, 2, shape[-1], out)

    def convolved(p, h):
        kernel = w(p)
        return h @ kernel[0] + jnp.roll(h, 1, 1) @ kernel[1]

    return convolved, (*shape[:-1], out)


@LAYERS.add("pooling", "image")
def pooling(d, shape, out):
    w, noise, largest = weight(d, shape[-1], out), 0.1 * d.constant(*shape[:-1], out), d.chance()

    def pooled(p, h):
        h = h @ w(p) + noise
        return nn.max_pool(h, (2, 2), (1, 2), "SAME") if largest else nn.avg_pool(h, (2, 2), (2, 1), "SAME")

    return pooled, shape_after(d, pooled, shape)


@LAYERS.add("flax convolution", "image", needs="whole")
def flax_conv(d, shape, out):
    module = nn.Conv(
        out,
        (d.whole(1, 3), d.whole(1, 2)),
        strides=d.whole(1, 2),
        padding=d.choice(["SAME", "CIRCULAR", "REFLECT"] if min(shape[:2]) > 2 else ["SAME"]),
        use_bias=d.chance(),
    )
    made = flax_layer(d, module, shape)
    return made, shape_after(d, made, shape)


@LAYERS.add("flax transposed convolution", "image", needs="whole")
def flax_transposed(d, shape, out):
    made = flax_layer(d, nn.ConvTranspose(out, (2, 2), strides=(2, 1), transpose_kernel=d.chance()), shape)
    return made, shape_after(d, made, shape)
