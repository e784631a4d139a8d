"""Layers of vectors in random networks."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .random_activations import LETTERS
from .random_draws import LAYERS, Draw, Layer, Shape
from .random_weights import weight


@LAYERS.add("dense", "vector", keeps=True)
@LAYERS.add("dense of a series", "series", keeps=True)
@LAYERS.add("dense of an image", "image", keeps=True)
def dense(d: Draw, shape, out):
    w, how = weight(d, shape[-1], out), d.whole(0, 2)
    if how == 0:
        return lambda p, h: h @ w(p), (*shape[:-1], out)
    if how == 1:
        return lambda p, h: jnp.dot(h, w(p), precision="highest"), (*shape[:-1], out)
    return lambda p, h: jnp.tensordot(h, w(p), 1), (*shape[:-1], out)


@LAYERS.add("dense from the left", "vector", keeps=True)
def dense_from_the_left(d, shape, out):
    w, inner = weight(d, out, *shape), d.chance()
    return lambda p, h: jnp.inner(h, w(p)) if inner else (w(p) @ h.T).T, (out,)


@LAYERS.add("einsum", "vector", keeps=True)
@LAYERS.add("einsum of a series", "series", keeps=True)
@LAYERS.add("einsum of an image", "image", keeps=True)
def einsum(d, shape, out):
    """Some axes contracted, others shared with the weight, all letters of either side in any order."""
    kinds = [d.choice(["contracted", "shared", "free"]) for _ in shape[:-1]] + ["contracted"]
    letters = [*LETTERS[: len(shape)]]
    joined = [c for c, kind in zip(letters, kinds, strict=True) if kind != "free"]
    lost = [c for c, kind in zip(letters[:-1], kinds, strict=False) if kind == "contracted"]
    # What is contracted has a new axis in its place: the shape is kept where `out` asks for it.
    new = {c: c.upper() for c in lost}
    sizes = dict(zip(letters, shape, strict=True)) | {"o": out} | {new[c]: shape[letters.index(c)] for c in lost}
    mine = d.rng.permutation([*joined, *new.values(), "o"])
    w = weight(d, *(sizes[c] for c in mine))
    result = "".join(new.get(c, c) for c in letters[:-1])
    formula = [f"n{''.join(letters)}", "".join(mine)]
    turned, shuffled = d.chance(), d.chance()
    target = "".join(d.rng.permutation([*result, "o", "n"])) if shuffled else f"n{result}o"

    def contracted(p, h):
        operands = (w(p), h) if turned else (h, w(p))
        spelled = ",".join(formula[::-1] if turned else formula)
        y = jnp.einsum(f"{spelled}->{target}", *operands)
        return y.transpose([target.index(c) for c in f"n{result}o"])

    return contracted, (*shape[:-1], out)


@LAYERS.add("dot_general", "vector", keeps=True)
def dot_general(d, shape, out):
    """Contracted axes of the weight apart from one another, in another order than those of the values."""
    a = d.choice([i for i in range(1, shape[0] + 1) if shape[0] % i == 0])
    b, first = shape[0] // a, d.chance()
    w = weight(d, b, out, a)

    def contracted(p, h):
        h = h.reshape(-1, a, b)
        if first:
            return lax.dot_general(w(p), h, (((2, 0), (1, 2)), ((), ()))).T
        return lax.dot_general(h, w(p), (((2, 1), (0, 2)), ((), ())))

    return contracted, (out,)


@LAYERS.add("dot_general with a batch of weights", "vector", keeps=True)
def heads(d, shape, out):
    groups = d.choice([i for i in range(1, out + 1) if out % i == 0])
    how, separate = d.whole(0, 3), shape[0] % groups == 0 and d.chance()
    size = shape[0] // groups if separate else shape[0]
    each = out // groups
    order = d.rng.permutation(3)
    w = weight(d, *np.array([groups, size, each])[order])

    def batched(p, h):
        h = h.reshape(-1, groups, size) if separate else jnp.broadcast_to(h[:, None], (len(h), groups, size))
        heads = w(p).transpose(np.argsort(order))
        if how == 0:
            y = lax.dot_general(h, heads, (((2,), (1,)), ((1,), (0,)))).transpose(1, 0, 2)
        elif how == 1:
            y = lax.dot_general(heads, h, (((1,), (2,)), ((0,), (1,)))).transpose(2, 0, 1)
        elif how == 2:
            y = (h.transpose(1, 0, 2) @ heads).swapaxes(0, 1)
        else:
            y = jnp.einsum("ngi,gio->ngo", h, heads)
        return y.reshape(len(h), out)

    return batched, (out,)


@LAYERS.add("bilinear", "vector", keeps=True)
def bilinear(d, shape, out):
    w = weight(d, *shape, out, *shape)
    return lambda p, h: jnp.einsum("ni,ioj,nj->no", h, w(p), jnp.tanh(h)), (out,)


@LAYERS.add("product of weights first", "vector", keeps=True)
def two_weights(d, shape, out):
    a, b, c = weight(d, *shape, 2), weight(d, 2, 2), weight(d, 2, out)
    return lambda p, h: h @ (a(p) @ b(p) @ c(p)), (out,)


@LAYERS.add("low rank beside", "vector", keeps=True)
def low_rank(d, shape, out):
    w, a, b = weight(d, *shape, out), weight(d, *shape, 1), weight(d, 1, out)
    return lambda p, h: h @ w(p) + 0.5 * ((h @ a(p)) @ b(p)), (out,)


@LAYERS.add("weights from the example", "vector", keeps=True)
def hypernetwork(d, shape, out):
    w = weight(d, *shape, *shape, out)
    return lambda p, h: jnp.einsum("nio,ni->no", jnp.tanh(jnp.tensordot(h, w(p), 1)), h), (out,)


@LAYERS.add("experts", "vector", keeps=True)
def experts(d, shape, out):
    w, gate, soft = weight(d, 3, *shape, out), d.constant(*shape, 3), d.chance()

    def routed(p, h):
        scores = h @ gate + np.array([0.1, 0.2, 0.3])
        if soft:
            return jnp.einsum("ne,ni,eio->no", jax.nn.softmax(scores), h, w(p))
        return jnp.einsum("ni,nio->no", h, w(p)[jnp.argmax(scores, -1)])

    return routed, (out,)


@LAYERS.add("complex dense", "vector", keeps=True, needs="wide")
def complex_dense(d, shape, out):
    a, b, how = weight(d, *shape, out), weight(d, *shape, out), d.whole(0, 2)

    def transformed(p, h):
        z = jnp.fft.fft(h) if how else h + 1j * jnp.sin(h)
        y = z @ (a(p) + 1j * b(p)) if how == 1 else z @ a(p)
        return y.real + 0.5 * y.imag if how else jnp.abs(y + (0.4 - 0.3j))

    return transformed, (out,)


@LAYERS.add("solve", "vector", keeps=True, needs="wide")
def solve(d, shape, out):
    w, a = weight(d, *shape, out), weight(d, out, out)

    def solved(p, h):
        matrix = a(p)
        return jnp.linalg.solve(matrix @ matrix.T + jnp.eye(out), (h @ w(p)).T).T

    return solved, (out,)


@LAYERS.add("rule of its own for dense", "vector", keeps=True, needs="reverse")
def dense_of_custom_vjp(d, shape, out):
    w, factor, noise = weight(d, *shape, out), d.constant(), d.constant(*shape, out)

    @jax.custom_vjp
    def product(w, h):
        return h @ w

    def backward(kept, ct):
        w, h = kept  # neither of the two is the true gradient
        return (factor * jnp.sin(h).T @ ct).astype(w.dtype), (ct @ (w + noise).T).astype(h.dtype)

    product.defvjp(lambda w, h: (h @ w, (w, h)), backward)
    return lambda p, h: product(w(p), h), (out,)


@LAYERS.add("derivative of its own for dense", "vector", keeps=True)
def dense_of_custom_jvp(d, shape, out):
    w, factor = weight(d, *shape, out), d.constant()

    @jax.custom_jvp
    def product(w, h):
        return h @ w

    @product.defjvp
    def rule(primals, tangents):
        w, h = primals
        return product(w, h), factor * (jnp.cos(h) @ tangents[0]) + tangents[1] @ (w * w)

    return lambda p, h: product(w(p).astype(h.dtype), h), (out,)


@LAYERS.add("half the features empty", "vector")
def empty(d, shape, out):
    w, nothing, none = weight(d, *shape, out), d.leaf(*shape, 0), d.leaf(0, out)

    def with_nothing(p, h):
        return jnp.concatenate([h @ w(p), h @ p[nothing]], -1) + (h @ p[nothing]) @ p[none]

    return with_nothing, (out,)


@LAYERS.add("beside its input", "vector")
def parallel(d, shape, out):
    w = weight(d, *shape, out)
    return lambda p, h: jnp.concatenate([h, jnp.tanh(h @ w(p))], -1)[:, -4:], (min(4, shape[0] + out),)


@LAYERS.add("unused output", "vector", keeps=True)
def unused_output(d, shape, out):
    w, v = weight(d, *shape, out), weight(d, *shape, 2)

    @jax.jit
    def both(w, v, h):
        return h @ w, h @ v

    return lambda p, h: both(w(p), v(p), h)[0], (out,)


@LAYERS.add("chosen by data", "vector", keeps=True)
def chosen_by_data(d, shape, out):
    w, v, noise = weight(d, *shape, out), weight(d, *shape, out), d.constant(out)
    return lambda p, h: jnp.where(h.sum(-1, keepdims=True) + noise > 0, h @ w(p), jnp.tanh(h) @ v(p)), (out,)


@LAYERS.add("kernel and read-out", "vector", keeps=True)
def autoencoder(d, shape, out):
    w, v = weight(d, *shape, 3), weight(d, *shape, out)

    def tied(p, h):
        decoded = jnp.tanh(h @ w(p)) @ w(p).T
        return decoded @ v(p)

    return tied, (out,)


@LAYERS.add("radial basis", "vector", keeps=True)
def radial(d, shape, out):
    centres = weight(d, out, *shape)
    return lambda p, h: jnp.exp(-((h[:, None] - centres(p)) ** 2).mean(-1)), (out,)


@LAYERS.add("dense after dense without a name", "vector", keeps=True)
def deep_linear(d, shape, out):
    w, v = weight(d, *shape, out), weight(d, out, out)
    return lambda p, h: jnp.linalg.multi_dot([h, w(p), v(p)]), (out,)


@LAYERS.add("half precision product", "vector", keeps=True)
def half_precision(d, shape, out):
    w, dtype, wide = weight(d, *shape, out), d.choice([jnp.float16, jnp.bfloat16]), d.chance()
    d.lower(dtype)
    preferred = jnp.float32 if wide else None

    def rounded(p, h):
        return jnp.dot(h.astype(dtype), w(p).astype(dtype), preferred_element_type=preferred)

    return rounded, (out,)


@LAYERS.add("single precision product", "vector", keeps=True)
def single_precision(d, shape, out):
    w = weight(d, *shape, out)
    d.lower(jnp.float32)
    return lambda p, h: h.astype(np.float32) @ w(p).astype(np.float32), (out,)


def flax_layer(d: Draw, module: nn.Module, shape: Shape, **values) -> Layer:
    """A layer of flax, its parameters out of weights drawn here."""
    like = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape), **values))["params"]
    paths, tree = jax.tree.flatten(like)
    gets = [weight(d, *leaf.shape) for leaf in paths]
    return lambda p, h: module.apply({"params": jax.tree.unflatten(tree, [get(p) for get in gets])}, h)


@LAYERS.add("flax dense", "vector", keeps=True)
def flax_dense(d, shape, out):
    return flax_layer(d, nn.Dense(out), shape), (out,)


@LAYERS.add("flax dense, intercepted", "vector", keeps=True)
def flax_intercepted(d, shape, out):
    factor, gain = d.constant(), d.leaf()
    module = flax_layer(d, nn.Dense(out), shape)

    def intercepted(p, h):
        def interceptor(call, args, kwargs, context):
            return p[gain] * factor * call(jnp.sin(args[0]), *args[1:], **kwargs) + args[0].sum(-1, keepdims=True)

        with nn.intercept_methods(interceptor):
            return module(p, h)

    return intercepted, (out,)
