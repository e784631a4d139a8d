"""Linear layers inside a network: which parameters act through them alone, and what their gradients are made of.

At every position p of what it is applied to, and for every group c of channels, a dense or convolutional layer
maps inputs h to h W_c + b_c. The gradient of an output of the network with respect to W_c is therefore the sum
over positions of h_(p,c) g_(p,c)^T, with g the cotangent of the layer's output, and with respect to b_c it is
the sum of g_(p,c). Layers are met through flax's interception of method calls. All other parameters, and those
of a layer that are used in another way too, are left to ordinary differentiation: nothing here is approximate.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.extend.core import Literal, get_opaque_trace_state
from jaxtyping import Array, PyTree

from gsjax.tangent.calls import ApplyFn, trainable

__all__ = ["Call", "Layer", "Structure", "Visit", "intercepted", "structure", "unstructured"]

Layer = nn.Dense | nn.DenseGeneral | nn.Conv
Visit = Callable[[int, Layer, Array, Array], Array]


class Call(NamedTuple):
    """A call of a linear layer, for a single example."""

    kernel: int | None  # which leaf of the parameters, if such calls are its only use
    bias: int | None
    inputs: Callable[[Array], list[Array]]  # what the layer is applied to -> (positions, groups, fan_in), in pieces
    cotangents: Callable[[Array], Array]  # cotangent of its output -> (positions, groups, fan_out)
    h: jax.ShapeDtypeStruct  # what the layer is applied to
    y: jax.ShapeDtypeStruct  # its output

    def sizes(self) -> tuple[int, int, int, int]:
        """Positions, groups, fan_in and fan_out."""
        pieces, g = jax.eval_shape(self.inputs, self.h), jax.eval_shape(self.cotangents, self.y)
        positions, groups, fan_out = g.shape
        return positions, groups, sum(piece.shape[-1] for piece in pieces), fan_out


class Structure(NamedTuple):
    """How the parameters of a network, numbered as leaves, act on its output."""

    calls: dict[int, Call]  # by the place of the call among all calls of linear layers
    rest: tuple[int, ...]  # the leaves for ordinary differentiation


def unstructured(params: PyTree) -> Structure:
    """Every parameter is left to ordinary differentiation."""
    return Structure({}, tuple(range(len(jax.tree.leaves(trainable(params)[0])))))


def structure(apply_fn: ApplyFn, params: PyTree, x: jax.ShapeDtypeStruct) -> Structure:
    """How the parameters act on the output of `apply_fn` for the one example x; shapes alone are needed.

    A layer inside a transformation (`nn.scan`, `nn.remat`, `jax.jit`, `jax.vmap`), one that has a mask or products
    of its own, and one whose parameters are not leaves of `params` just as they are, is left to ordinary
    differentiation.
    """
    calls: dict[int, Call] = {}

    def cut(leaves: list[Array], params: PyTree, x: Array) -> list[Array]:
        """The network cut open at its layers: all that the leaves have an effect on apart from acting in them."""
        effects = []
        number_of = {id(leaf): number for number, leaf in enumerate(leaves)}

        def visit(place: int, layer: Layer, h: Array, y: Array) -> Array:
            kernel, bias = (_parameter(layer, name) for name in ("kernel", "bias"))
            effects.extend([h, *(value for value in (kernel, bias) if id(value) not in number_of)])
            calls[place] = _call(layer, number_of.get(id(kernel)), number_of.get(id(bias)), h, y)
            return jnp.zeros(y.shape, y.dtype)

        tree, rebuild = trainable(params)
        params = rebuild(jax.tree.unflatten(jax.tree.structure(tree), leaves))
        return [intercepted(apply_fn, params, x, visit), *effects]

    leaves = jax.tree.leaves(trainable(params)[0])
    jaxpr = jax.make_jaxpr(cut)(leaves, params, x).jaxpr
    needed = {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(var for var in eqn.invars if not isinstance(var, Literal))
    rest = {number for number, var in enumerate(jaxpr.invars[: len(leaves)]) if var in needed}

    # A leaf with more than one role, e.g. in layers of different numbers of groups, has no gradient of one form.
    roles = defaultdict(set)
    for call in calls.values():
        roles[call.kernel].add(("kernel", *call.sizes()[1:]))
        roles[call.bias].add(("bias",))
    rest |= {leaf for leaf, found in roles.items() if leaf is not None and len(found) > 1}

    def keep(call: Call) -> Call:
        return call._replace(
            kernel=None if call.kernel in rest else call.kernel, bias=None if call.bias in rest else call.bias
        )

    kept = {place: keep(call) for place, call in calls.items()}
    return Structure({place: c for place, c in kept.items() if (c.kernel, c.bias) != (None, None)}, tuple(sorted(rest)))


def intercepted(apply_fn: ApplyFn, params: PyTree, x: Array, visit: Visit) -> Array:
    """`apply_fn(params, x)` with the output y of every linear layer replaced by `visit(place, layer, h, y)`.

    Calls are counted from 0, `h` is what the layer is applied to.
    """
    level, places = get_opaque_trace_state(), itertools.count()

    def interceptor(next_fun, args, kwargs, context):
        y = next_fun(*args, **kwargs)
        if context.method_name != "__call__" or not _is_linear(context.module) or get_opaque_trace_state() != level:
            return y
        (h,) = (*args, *kwargs.values())
        return visit(next(places), context.module, jnp.asarray(h), y)

    if isinstance(apply_fn, jax.stages.Wrapped):  # layers within a compiled function are out of reach
        apply_fn = inspect.unwrap(apply_fn, stop=lambda f: not isinstance(f, jax.stages.Wrapped))
    with nn.intercept_methods(interceptor):
        return apply_fn(params, x)


def _is_linear(module: nn.Module) -> bool:
    if module.is_initializing():
        return False
    if type(module) is nn.Dense:
        plain = module.dot_general is module.dot_general_cls is None
    elif type(module) is nn.DenseGeneral:
        plain = module.dot_general is module.dot_general_cls is None and not _axes(module.batch_dims)
    elif type(module) is nn.Conv:
        plain = module.conv_general_dilated is module.conv_general_dilated_cls is module.mask is None
    else:
        return False
    return plain and module.promote_dtype is promote_dtype


def _parameter(layer: Layer, name: str) -> Array | None:
    """The value of a layer's parameter, free of flax's metadata; None if it has no such parameter."""
    return nn.meta.unbox(layer.get_variable("params", name))


def _axes(axes: int | Sequence[int] | None) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes or ())


def _call(layer: Layer, kernel: int | None, bias: int | None, h: Array, y: Array) -> Call:
    if isinstance(layer, nn.Conv):
        groups, inputs = layer.feature_group_count, _patches(layer)
    else:
        groups, inputs = 1, _vectors(_axes(layer.axis) if isinstance(layer, nn.DenseGeneral) else (-1,))
    features = math.prod(_axes(layer.features))

    def cotangents(g: Array) -> Array:
        return g.reshape(-1, groups, features // groups)

    shapes = (jax.ShapeDtypeStruct(value.shape, value.dtype) for value in (h, y))
    return Call(kernel, bias, inputs, cotangents, *shapes)


def _vectors(axis: tuple[int, ...]) -> Callable[[Array], list[Array]]:
    """Takes what a dense layer is applied to along `axis` apart into vectors, `(positions, 1, fan_in)`."""

    def vectors(h: Array) -> list[Array]:
        fan_in = math.prod(h.shape[a] for a in axis)
        return [jnp.moveaxis(h, axis, range(-len(axis), 0)).reshape(-1, 1, fan_in)]

    return vectors


def _patches(layer: nn.Conv) -> Callable[[Array], list[Array]]:
    """Cuts what a convolution is applied to into the patches that its kernel meets.

    Pieces `(positions, groups, fan_in)`, which joined along fan_in are the patches.
    """
    size = _axes(layer.kernel_size)

    def each(value):
        return (value,) * len(size) if isinstance(value, int) else tuple(value or (1,) * len(size))

    strides, dilation, spread = each(layer.strides), each(layer.kernel_dilation), each(layer.input_dilation)
    extent = [(q - 1) * d + 1 for q, d in zip(size, dilation, strict=True)]

    def patches(h: Array) -> list[Array]:
        h = h.reshape(-1, *h.shape[-len(size) - 1 :])
        padding = layer.padding
        if padding == "CIRCULAR" or padding == "REFLECT":
            around = [(0, 0), *(((e - 1) // 2, e // 2) for e in extent), (0, 0)]
            h, padding = jnp.pad(h, around, mode="wrap" if padding == "CIRCULAR" else "reflect"), "VALID"
        elif padding == "CAUSAL":
            padding = [(extent[0] - 1, 0)]
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(h.shape[1:-1], extent, strides, padding)
        pairs = [(p, p) if isinstance(p, int) else p for p in each(padding)]
        borders = [(0, 0, 0), *((*pair, d - 1) for pair, d in zip(pairs, spread, strict=True)), (0, 0, 0)]
        h = lax.pad(h, jnp.zeros((), h.dtype), borders)

        h = h.reshape(*h.shape[:-1], layer.feature_group_count, -1)

        def windows(h: Array, axis: int) -> list[Array]:
            """What every offset of the kernel along a spatial axis, counted from 0, meets."""
            q, e, d, t = size[axis], extent[axis], dilation[axis], strides[axis]
            length = h.shape[axis + 1] - e + 1
            return [lax.slice_in_dim(h, o * d, o * d + length, t, axis + 1) for o in range(q)]

        for axis in reversed(range(1, len(size))):
            h = jnp.concatenate(windows(h, axis), axis=-1)
        # Copying all offsets along the first axis too would cost more than the products it saves.
        pieces = windows(h, 0) if len(size) > 1 else [jnp.concatenate(windows(h, 0), axis=-1)]
        return [piece.reshape(-1, *piece.shape[-2:]) for piece in pieces]

    return patches
