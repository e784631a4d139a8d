"""Random programs over arrays of examples, some of which mix them, and whether numbers show that they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def program(seed: int, steps: int = 5) -> Callable[[Any], Any]:
    """A function of examples `(n, 3, 4)`, for any n, to outputs `(n,)`.

    Operations draw their axes without regard to which of them is the batch, but every other one spares the first.
    """

    def function(x):
        random = np.random.default_rng(seed)
        pool = [x]
        for _ in range(steps):
            # Later values more often; otherwise most results would not be used.
            h = pool[-1 - min(random.geometric(0.6) - 1, len(pool) - 1)]
            name = list(STEPS)[random.integers(len(STEPS))]
            made = STEPS[name](random, h, pool)
            if made is not None and 1 <= made.ndim <= 5 and made.size <= 5000 and 0 not in made.shape:
                pool.append(_wrapped(random, made, h, name))
        h = pool[-1]
        ends = [axis for axis, size in enumerate(h.shape) if size == len(x)]
        if not ends:
            return x.sum((1, 2)) * jnp.sin(h).sum()
        end = ends[0] if random.random() < 0.8 else ends[-1]
        out = jnp.tanh(jnp.moveaxis(h, end, 0).reshape(len(x), -1)).sum(1)
        return out

    return function


def _wrapped(random, made, _h, _name):
    kind = random.integers(8)
    if kind == 0:
        return jax.jit(jnp.sin)(made)
    if kind == 1:
        return jax.checkpoint(jnp.tanh)(made)
    if kind == 2:
        return lax.stop_gradient(made)
    return jax.nn.relu(made) if kind == 3 else made


def axis(random, h):
    """Any axis, or one of those after the first."""
    spare = h.ndim > 1 and random.random() < 0.7
    return int(random.integers(int(spare), h.ndim))


def constant(random, *shape):
    """Of numbers that differ, or that are equal along some axes."""
    kind, values = random.integers(4), random.normal(size=shape)
    if kind == 0:
        return jnp.full(shape, float(random.normal()))
    if kind == 1:
        chosen = int(random.integers(len(shape)))
        return jnp.broadcast_to(values.take([0], chosen), shape)
    return lax.broadcasted_iota(float, shape, int(random.integers(len(shape)))) if kind == 2 else values


def _reduced(random, h, _pool):
    chosen = axis(random, h)
    if h.ndim == 1:
        return None
    reduce = [jnp.sum, jnp.max, jnp.prod, lambda h, axis: jnp.argmax(h, axis) * 1.0][random.integers(4)]
    return reduce(h, axis=chosen)


def _centred(random, h, _pool):
    return h - h.mean(axis(random, h), keepdims=True)


def _along(random, h, _pool):
    chosen = axis(random, h)
    act = [
        jnp.cumsum,
        jnp.sort,
        jax.nn.softmax,
        jnp.flip,
        lambda h, axis: jnp.roll(h, 1, axis),
        lambda h, axis: jnp.fft.fft(h, axis=axis).real,
        lambda h, axis: lax.associative_scan(jnp.add, h, axis=axis),
        lambda h, axis: jnp.concatenate([lax.slice_in_dim(h, 0, h.shape[axis], 2, axis)] * 2, axis),
        lambda h, axis: jnp.concatenate([h, -h], axis),
        lambda h, axis: lax.slice_in_dim(h, h.shape[axis] // 2, h.shape[axis], axis=axis),
        lambda h, axis: jnp.repeat(h, 2, axis),
        lambda h, axis: jnp.stack([h, h * 2], axis),
        lambda h, axis: jnp.stack(jnp.unstack(h, axis=axis)[::-1], axis),
    ][random.integers(13)]
    return act(h, axis=chosen)


def _transposed(random, h, _pool):
    return h.transpose(random.permutation(h.ndim))


def _tiled(random, h, _pool):
    return jnp.tile(h, tuple(random.integers(1, 3, h.ndim).tolist()))


def _merged(random, h, pool):
    """Two axes as one, something along it, and, mostly, two again, perhaps the other way round."""
    if h.ndim < 2:
        return None
    chosen = int(random.integers(h.ndim - 1))
    shape = [*h.shape[:chosen], h.shape[chosen] * h.shape[chosen + 1], *h.shape[chosen + 2 :]]
    flat = h.reshape(shape)
    name = ["const", "along", "einsum", "reduced", "tanh"][random.integers(5)]
    done = STEPS[name](random, flat, pool) if name != "tanh" else jnp.tanh(flat)
    if done is None or done.shape != flat.shape:
        return done
    pair = [h.shape[chosen], h.shape[chosen + 1]]
    return done.reshape([*h.shape[:chosen], *(pair if random.random() < 0.8 else pair[::-1]), *h.shape[chosen + 2 :]])


def _const(random, h, _pool):
    chosen = axis(random, h)
    kind, size = random.integers(3), h.shape[chosen]
    if kind == 0:
        row = constant(random, size)
        return h * jnp.expand_dims(row, [a for a in range(h.ndim) if a != chosen])
    return (
        h + constant(random, *h.shape)
        if kind == 1
        else jnp.expand_dims(h, chosen) * constant(random, 2, *[1] * (h.ndim - chosen))
    )


def _product(random, h, _pool):
    chosen = axis(random, h)
    return jnp.moveaxis(
        jnp.tensordot(h, constant(random, h.shape[chosen], 2), axes=(chosen, 0)), -1, random.integers(h.ndim)
    )


def _einsum(random, h, pool):
    g = pool[random.integers(len(pool))]
    letters, sizes, names = "abcdefghij", {}, []
    for array in (h, g):
        name = ""
        for size in array.shape:
            same = [c for c, s in sizes.items() if s == size and c not in name]
            letter = same[random.integers(len(same))] if same and random.random() < 0.75 else letters[len(sizes)]
            sizes[letter] = size
            name += letter
        names.append(name)
    out = [c for c in sizes if random.random() < 0.7] or [next(iter(sizes))]
    random.shuffle(out)
    return jnp.einsum(f"{names[0]},{names[1]}->{''.join(out[:4])}", h, g)


def _binary(random, h, pool):
    g = pool[random.integers(len(pool))]
    try:
        jnp.broadcast_shapes(h.shape, g.shape)
    except ValueError:
        return None
    return [jnp.add, jnp.multiply, jnp.minimum, lambda a, b: jnp.where(a > 0, a, b)][random.integers(4)](h, g)


def _indexed(random, h, _pool):
    chosen = axis(random, h)
    size, kind = h.shape[chosen], random.integers(6)
    if kind == 0:
        return jnp.take(h, random.integers(0, size, 2), axis=chosen)
    if kind == 1:
        return jnp.take_along_axis(h, jnp.argsort(h, axis=chosen), axis=chosen)
    if kind == 2:
        return jnp.take_along_axis(h, jnp.abs(h * 7).astype(int) % size, axis=chosen)
    if kind == 3:
        return lax.dynamic_index_in_dim(h, int(random.integers(size)), chosen, keepdims=bool(random.integers(2)))
    if kind == 4:
        start = [0] * h.ndim
        return lax.dynamic_update_slice(h, lax.slice_in_dim(h, 0, 1, axis=chosen) * 2, start)
    moved = jnp.moveaxis(h, chosen, 0)
    return jnp.moveaxis(moved.at[random.integers(0, size, 2)].add(1.5), 0, chosen)


def _looked_up(random, h, _pool):
    return jnp.asarray(constant(random, 5, 2))[jnp.abs(h * 5).astype(int) % 5][..., 0]


def _looped(random, h, _pool):
    moved, kind = jnp.moveaxis(h, axis(random, h), 0), random.integers(5)
    if kind == 0:
        return lax.scan(lambda c, v: (jnp.tanh(c + v), c), jnp.zeros(moved.shape[1:]), moved)[random.integers(2)]
    if kind == 1:
        return lax.map(lambda v: jnp.sort(v, 0) if v.ndim else v, moved)
    if kind == 2:
        return lax.scan(lambda c, v: (c, v * c), moved.sum(0), moved, reverse=True)[1]
    if kind == 3:
        return lax.fori_loop(0, 2, lambda i, c: jnp.sin(c) + i * c.mean(0), moved)
    return lax.scan(lambda c, _: ((c[1], jnp.tanh(c[0] + c[1])), None), (moved, moved * 2), length=2)[0][0]


def _branched(random, h, _pool):
    chosen = axis(random, h)
    test = [h.sum() > 0, h.mean() < 9, jnp.asarray(True)][random.integers(3)]
    if random.random() < 0.5:
        return lax.cond(test, lambda h: h * 2, lambda h: h - h.mean(chosen, keepdims=True), h)
    return jax.vmap(lambda v: lax.cond(v.sum() > 0, jnp.sin, lambda v: -v, v), chosen, chosen)(h)


def _mapped(random, h, _pool):
    chosen, target = axis(random, h), int(random.integers(h.ndim))
    act = [
        lambda v: v - v.mean(),
        lambda v: v - lax.pmean(v, "i"),
        lambda v: jnp.outer(v.ravel(), v.ravel()),
        lambda v: jax.nn.softmax(v.ravel()),
        lambda v: lax.while_loop(lambda c: (c**2).sum() < 4, lambda c: c * 1.5 + 0.1, v),
        lambda v: v * lax.axis_index("i"),
        lambda v: v + jax.random.normal(jax.random.key(0), v.shape),
        jax.grad(lambda v: (jnp.tanh(v) ** 2).sum()),
    ][random.integers(8)]
    out_ndim = jax.eval_shape(jax.vmap(act, chosen, axis_name="i"), h).ndim
    return jax.vmap(act, chosen, min(target, out_ndim - 1), axis_name="i")(h)


def _convolved(random, h, _pool):
    if h.ndim != 3:
        return None
    order, groups = "".join(random.permutation(list("NCH"))), int(random.integers(1, 3))
    features = h.shape[order.index("C")]
    groups = groups if features % groups == 0 else 1
    kernel = constant(random, 2 * groups, features // groups, 2)
    out = "".join(random.permutation(list("NCH")))
    return lax.conv_general_dilated(
        h, kernel, (1,), "SAME", dimension_numbers=(order, "OIH", out), feature_group_count=groups
    )


def _windowed(random, h, _pool):
    window = [1] * h.ndim
    window[axis(random, h)] = 2
    pooled = lambda h: lax.reduce_window(h, 0.0, lax.add, window, [1] * h.ndim, "SAME")  # noqa: E731
    highest = lambda h: lax.reduce_window(h, -jnp.inf, lax.max, window, [1] * h.ndim, "SAME")  # noqa: E731
    if random.random() < 0.3:
        return jax.grad(lambda h: (highest(h) ** 2).sum())(h)
    return pooled(h) if random.random() < 0.5 else highest(h)


def _padded(random, h, _pool):
    config = [(0, 0, 0)] * h.ndim
    config[axis(random, h)] = [(1, 0, 0), (1, -1, 0), (-1, 1, 0), (0, 0, 1)][random.integers(4)]
    return lax.pad(h, 0.5, config)


def _drawn(random, h, _pool):
    shape = list(h.shape)
    for chosen in range(h.ndim):
        shape[chosen] = 1 if random.random() < 0.5 else shape[chosen]
    return h * jax.random.uniform(jax.random.key(int(random.integers(9))), shape)


def _solved(random, h, _pool):
    if h.ndim < 2:
        return None
    a = jnp.einsum("...ij,...kj->...ik", h, h) + 3 * jnp.eye(h.shape[-2])
    return [jnp.linalg.cholesky, jnp.linalg.inv, jnp.linalg.eigvalsh, lambda a: jnp.linalg.solve(a, h)][
        random.integers(4)
    ](a)


STEPS: dict[str, Callable[..., Any]] = {
    "reduced": _reduced,
    "centred": _centred,
    "along": _along,
    "transposed": _transposed,
    "tiled": _tiled,
    "merged": _merged,
    "const": _const,
    "product": _product,
    "einsum": _einsum,
    "binary": _binary,
    "indexed": _indexed,
    "looked up": _looked_up,
    "looped": _looped,
    "branched": _branched,
    "mapped": _mapped,
    "convolved": _convolved,
    "windowed": _windowed,
    "padded": _padded,
    "drawn": _drawn,
    "solved": _solved,
}


def shown(function: Callable[[Any], Any], n: int, seed: int = 0) -> str:
    """What numbers show: examples are "mixed", they are "separate", or neither is shown ("")."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 3, 4))
    others = [np.where(np.arange(n)[:, None, None] == j, random.normal(size=x.shape), x) for j in range(n)]
    order = random.permutation(n)
    order = np.roll(np.arange(n), 1) if (order == np.arange(n)).all() else order
    run = jax.jit(lambda xs: lax.map(function, xs))
    out, *changed, turned = np.asarray(run(np.stack([x, *others, x[order]])))
    if not all(np.isfinite(values).all() for values in (out, turned, *changed)):
        return ""
    allowed = 1e-7 * max(np.abs(out).max(), 1e-30)
    moved = max(np.abs(np.delete(values - out, j)).max() for j, values in enumerate(changed))
    return "mixed" if moved > allowed or np.abs(turned - out[order]).max() > allowed else "separate"
