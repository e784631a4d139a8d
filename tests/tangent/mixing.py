"""Functions of examples `(n, 5, 3)` that mix them, and others that do not, by the operation that they test."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

N, D = 4, 3
ONES = np.ones((2, 5, 2), np.float32)


def doubled(rule):
    """`2 x` with a rule of its own, through a function that mixes or does not."""
    jvp, vjp = jax.custom_jvp(rule), jax.custom_vjp(rule)
    jvp.defjvp(lambda primals, tangents: (rule(*primals), rule(*tangents)))
    vjp.defvjp(lambda x: (rule(x), None), lambda _, g: (g,))
    return lambda x: jvp(x) + vjp(x)


def centred(x):
    return x - x.mean(0)


def keys(n):
    return jax.random.split(jax.random.key(0), n)


def contrastive(h):
    h = h.reshape(len(h), -1)
    logits = h @ h.T
    return -jax.nn.log_softmax(logits)[jnp.arange(len(h)), jnp.arange(len(h))]


MIXED = {
    "mean": lambda x: x - x.mean(0),
    "stopped mean": lambda x: x - lax.stop_gradient(x.mean(0)),
    "softmax": lambda x: jax.nn.softmax(x, 0),
    "cumulative sum": lambda x: jnp.cumsum(x, 0),
    "associative scan": lambda x: lax.associative_scan(jnp.add, x),
    "sort": lambda x: jnp.sort(x, 0),
    "argsort": lambda x: jnp.argsort(x, 0) * 1.0,
    "max": lambda x: x / jnp.max(x),
    "argmax": lambda x: x + jnp.argmax(x, 0),
    "roll": lambda x: jnp.roll(x, 1, 0),
    "a little of another": lambda x: x + 1e-12 * jnp.roll(x, 1, 0),
    "flip": lambda x: x[::-1],
    "matmul": lambda x: jnp.einsum("ntd,mtd->nm", x, x),
    "matmul with its transpose": lambda x: x[:, 0] @ x[:, 1].T,
    "mixing matrix": lambda x: jnp.einsum("ntd,nm->mtd", x, jnp.ones((len(x), len(x)))),
    "first example": lambda x: x - x[0],
    "first example as a slice": lambda x: x - x[:1],
    "an example by its number": lambda x: x + lax.dynamic_index_in_dim(x, 1),
    "an example by indexing": lambda x: x + x[jnp.array([1])],
    "neighbours": lambda x: jnp.diff(x, axis=0, prepend=0.0),
    "pairs": lambda x: jnp.concatenate([x[: len(x) // 2], x[: len(x) // 2]]),
    "contrastive": contrastive,
    "pooling over examples": lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1, 1), (1, 1, 1), "SAME"),
    "convolution over examples": lambda x: lax.conv(x.transpose(1, 2, 0), jnp.ones((D, D, 3)), (1,), "SAME").transpose(
        2, 0, 1
    ),
    "fourier": lambda x: jnp.fft.fft(x, axis=0).real,
    "norm": lambda x: x / jnp.linalg.norm(x),
    "standardised": lambda x: jax.nn.standardize(x, axis=(0, 1)),
    "covariance": lambda x: x[:, 0] @ jnp.linalg.inv(x[:, 0].T @ x[:, 0] + jnp.eye(D)),
    "any": lambda x: jnp.where(jnp.any(x > 1), x, -x),
    "scan": lambda x: lax.scan(lambda c, v: (c + v, c + v), x[:, 0] * 0, (x - x.mean(0)).swapaxes(0, 1))[0],
    "mixing in scan": lambda x: lax.scan(lambda c, v: (c + v - c.mean(0), c), x[:, 0], x.swapaxes(0, 1))[0],
    "mixing in scan, later": lambda x: lax.scan(lambda c, _: ((c[1], c[0].sum(0) + c[1]), None), (x, x), length=3)[0][
        1
    ],
    "scan over examples": lambda x: lax.scan(lambda c, v: (c + v, c + v), x[0] * 0, x)[1],
    "map that sees all": lambda x: lax.map(lambda v: v + x.sum(0), x),
    "map that sees each": lambda x: lax.map(lambda v: (v * x).sum(0), x),
    "cond": lambda x: lax.cond(True, lambda v: v, lambda v: v - v.mean(0), x),
    "predicate": lambda x: lax.cond(x.sum() > 0, lambda v: v, lambda v: -v, x),
    "while": lambda x: lax.while_loop(lambda c: c.max() > 1, lambda c: c / 2, x),
    "mixing in while": lambda x: lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] - c[1].mean(0)), (0, x))[
        1
    ],
    "jit": jax.jit(lambda x: x - x.mean(0)),
    "remat": jax.checkpoint(lambda x: x - x.mean(0)),
    "custom rules": doubled(lambda x: x - x.mean(0)),
    "pmean": jax.vmap(lambda v: v - lax.pmean(v, "batch"), axis_name="batch"),
    "gathered": jax.vmap(lambda v: v * lax.all_gather(v, "batch").max(0), axis_name="batch"),
    "permuted": jax.vmap(lambda v: lax.ppermute(v, "batch", [(i, (i + 1) % N) for i in range(N)]), axis_name="batch"),
    "place": jax.vmap(lambda v: v * lax.axis_index("batch"), axis_name="batch"),
    "vmap with all": lambda x: jax.vmap(lambda v: (v - x).sum(0))(x),
    "positions": lambda x: x + jnp.arange(len(x))[:, None, None],
    "table": lambda x: x + jnp.asarray(np.random.default_rng(0).normal(size=(len(x), 1, D))),
    "table times": lambda x: jnp.einsum("ntd,n->nt", x, np.arange(len(x))),
    "dropout": lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.99, x.shape), x, 0),
    "noise": lambda x: x + 1e-12 * jax.random.normal(jax.random.key(0), x.shape),
    "a key each": lambda x: jax.vmap(lambda v, key: v + jax.random.normal(key, v.shape))(x, keys(len(x))),
    "ghost batches": lambda x: (x.reshape(2, -1, 5, D) - x.reshape(2, -1, 5, D).mean(1, keepdims=True)).reshape(
        x.shape
    ),
    "merged": lambda x: x.reshape(-1, D) - x.reshape(-1, D).mean(0),
    "merged the other way": lambda x: (x.swapaxes(0, 1).reshape(-1, D)).reshape(len(x), 5, D),
    "cumulative along merged": lambda x: jnp.cumsum(x.reshape(-1, D), 0).reshape(x.shape),
    "scattered": lambda x: jnp.zeros_like(x).at[jnp.arange(len(x))[::-1]].set(x),
    "segments": lambda x: jax.ops.segment_sum(x, jnp.zeros(len(x), int), len(x)),
    "whole": lambda x: jnp.broadcast_to(x.sum(), (len(x),)),
    "top": lambda x: lax.top_k(x.T, len(x))[0].T,
    "approximate top": lambda x: lax.approx_max_k(x[..., 0].T, len(x))[0].T,
    "median": lambda x: x - jnp.median(x, 0),
    "outputs along another axis": lambda x: (x[:, 0] @ jnp.ones((D, N))).T,
    "stacked": lambda x: jnp.stack(jnp.unstack(x)[::-1]),
    "padded": lambda x: lax.pad(x, 0.0, [(1, -1, 0), (0, 0, 0), (0, 0, 0)]),
    "svd": lambda x: jnp.linalg.svd(x[:, 0], full_matrices=False)[0],
    "triangular": lambda x: jax.scipy.linalg.solve_triangular(jnp.tril(jnp.ones((len(x),) * 2)), x[:, 0]),
    "updated": lambda x: x.at[0].set(x[1]),
    "loop": lambda x: lax.fori_loop(1, len(x), lambda i, h: h.at[i].add(h[i - 1]), x),
}


def solved(x):
    a = jnp.einsum("ntd,nte->nde", x, x) + jnp.eye(x.shape[-1])
    return jnp.linalg.solve(a, x.sum(1)[..., None])


def grown(v):
    return lax.while_loop(lambda c: (c**2).sum() < 9, lambda c: 1.5 * c + 0.1, v)


def looked_up(x):
    table = jnp.arange(30.0).reshape(10, 3)
    return table[jnp.clip(jnp.abs(x * 3).astype(int), 0, 9)]


def taken(x):
    return jnp.take_along_axis(x, jnp.argsort(x[..., 0], axis=1)[..., None], axis=1)


def chunks(x):
    """Two parts of each example through one network, as in a siamese network."""
    both = jnp.tanh(jnp.concatenate([x, 2 * x]))
    one, other = jnp.split(both, 2)
    return one * other + both[len(x) :]


def all_steps(x):
    _, steps = lax.scan(lambda h, v: (jnp.tanh(h + v), h), jnp.zeros((len(x), D)), x.swapaxes(0, 1), reverse=True)
    return steps.swapaxes(0, 1)


SEPARATE = {
    "itself": lambda x: x,
    "constant": lambda x: jnp.zeros(len(x)),
    "elementwise": lambda x: jnp.where(x > 0, jnp.clip(x, -1, 1), jnp.arctan2(x, 2.0) + jax.lax.erf(x) ** 3),
    "bias": lambda x: x + jnp.arange(3.0) + jnp.arange(5.0)[:, None],
    "bias along the batch": lambda x: x + jnp.full((len(x), 1, 1), 2.0) + np.ones((1, 5, D)),
    "constant along the batch": lambda x: x * np.ones((len(x), 5, 1)),
    "reductions": lambda x: x.sum((1, 2)) + x.max((1, 2)) + jnp.argmin(x[:, 0], -1) + jnp.all(x > 0, (1, 2)),
    "softmax": lambda x: jax.nn.softmax(x, -1) @ jnp.ones((D, 2)),
    "cumulative": lambda x: jnp.cumsum(x, 1) + jnp.cumprod(x, 2) + lax.cummax(x, 1) + lax.cumlogsumexp(x, 2),
    "associative scan": lambda x: lax.associative_scan(jnp.multiply, x, axis=1),
    "sorted": lambda x: jnp.sort(x, 1) + lax.top_k(x, D)[0] + jnp.median(x, 2, keepdims=True),
    "sorted with others": lambda x: lax.sort((x, -x), dimension=1)[1],
    "flipped": lambda x: x[:, ::-1] + jnp.roll(x, 2, 1) + jnp.flip(x, (1, 2)),
    "pieces": lambda x: jnp.concatenate([x[:, 1:], x[:, :1]], 1) + jnp.pad(x[:, 1:-1], ((0, 0), (1, 1), (0, 0))),
    "split": lambda x: sum(jnp.split(x, [2], 1)[0].sum((1, 2))[None]) + jnp.split(x, 3, 2)[1].sum((1, 2)),
    "strides": lambda x: x[:, ::2, None],
    "merged": lambda x: (x.reshape(-1, D) @ jnp.ones((D, 2))).reshape(len(x), -1),
    "merged with a table": lambda x: (
        (x + jnp.arange(5.0)[:, None]).reshape(-1, D) * jnp.tile(jnp.arange(5.0)[:, None], (len(x), 1))
    ).reshape(x.shape),
    "merged with positions": lambda x: (
        x.reshape(-1, D) * jnp.broadcast_to(jnp.arange(5.0), (len(x), 5)).reshape(-1, 1)
    ).reshape(x.shape),
    "merged from behind": lambda x: (x.transpose(1, 0, 2).reshape(-1, D)).reshape(5, -1, D).transpose(1, 2, 0),
    "merged with all": lambda x: x.transpose(2, 0, 1).reshape(-1).reshape(D, len(x), 5).swapaxes(0, 1),
    "repeated": lambda x: jnp.repeat(x, 2, 0).reshape(len(x), 2, -1).sum(1),
    "tiled": lambda x: jnp.tile(x, (2, 1, 1)).reshape(2, len(x), -1).sum(0),
    "batches after one another": chunks,
    "transposed layout": lambda x: jnp.tanh(x.T * jnp.ones((D, 5, 1))).T,
    "einsum": lambda x: jnp.einsum("ntd,nsd,de->nste", x, x, jnp.ones((D, 2))),
    "einsum, batch in the middle": lambda x: jnp.einsum("tnd,sd->nts", x.swapaxes(0, 1), jnp.ones((2, D))),
    "einsum, batch last": lambda x: jnp.einsum("dtn,tn->nd", x.T, x[:, :, 0].T),
    "einsum, operand first": lambda x: jnp.einsum("ed,ntd->ent", jnp.ones((2, D)), x).swapaxes(0, 1),
    "outer": lambda x: x[:, :, None] * x[:, None],
    "convolution": lambda x: lax.conv(x, jnp.ones((2, 5, 2)), (1,), "SAME"),
    "convolution, batch last": lambda x: lax.conv_general_dilated(
        x.transpose(2, 1, 0), jnp.ones((2, 5, 2)), (1,), "SAME", dimension_numbers=("HCN", "OIH", "NHC")
    ),
    "a kernel each": jax.vmap(lambda v: lax.conv(v[None], v[:2, None] * jnp.ones((1, 5, 1)), (1,), "SAME")[0]),
    "a kernel each, in groups": jax.vmap(
        lambda v: lax.conv_general_dilated(v[None, :4], v[:4, None, :2], (1,), "SAME", feature_group_count=4)[0]
    ),
    "gradient of a convolution": jax.vmap(
        jax.grad(lambda v: (lax.conv(v[None], jnp.asarray(ONES), (1,), "SAME") ** 3).sum())
    ),
    "stacked": lambda x: jnp.stack([x, -x], 1).sum(1) + jnp.stack(jnp.unstack(x, axis=2), 2),
    "pooling": lambda x: nn.max_pool(x, (2,)) + nn.avg_pool(x, (2,)),
    "gradient of pooling": jax.vmap(jax.grad(lambda v: (nn.max_pool(v[None], (2,)) ** 2).sum())),
    "lookup": looked_up,
    "lookup by position": lambda x: x[:, jnp.array([2, 0])] + x[:, :2, jnp.array([1])],
    "take along": taken,
    "dynamic slice": lambda x: lax.dynamic_slice(x, (0, 1, 0), (len(x), 2, D)),
    "a slice each": jax.vmap(lambda v: lax.dynamic_slice(v, (jnp.argmax(v[:, 0]), 0), (1, D))),
    "update": lambda x: x.at[:, 1].set(0.0).at[:, :, 0].add(x[:, :, 1]),
    "an update each": jax.vmap(lambda v: v.at[jnp.argmax(v[:, 0])].mul(3.0)),
    "dynamic update": lambda x: lax.dynamic_update_slice(x, 2 * x[:, :2], (0, 1, 0)),
    "fourier": lambda x: jnp.fft.fft(x, axis=1).real + jnp.fft.fft2(x).imag,
    "solve": solved,
    "decompositions": lambda x: (
        jnp.linalg.svd(x[:, :3])[1] + jnp.linalg.qr(x[:, :3])[1].sum(1) + jnp.linalg.eigvalsh(x[:, :3])
    ),
    "cholesky": lambda x: jnp.linalg.cholesky(x[:, :3] @ x[:, :3].swapaxes(1, 2) + jnp.eye(3)),
    "determinant": lambda x: jnp.linalg.det(x[:, :3]),
    "scan over time": lambda x: lax.scan(lambda h, v: (jnp.tanh(h + v), h), jnp.zeros((len(x), D)), x.swapaxes(0, 1))[
        0
    ],
    "scan, all steps": all_steps,
    "gradient": jax.vmap(jax.grad(lambda v: jnp.tanh(v @ jnp.ones(D)).sum())),
    "jacobian": jax.vmap(jax.jacfwd(lambda v: jnp.tanh(v @ jnp.ones(D)))),
    "barrier": lambda x: lax.optimization_barrier((x, 2 * x))[1],
    "unused mean": lambda x: (x.mean(0), x)[1],
    "complex": lambda x: jnp.abs(lax.complex(x, x) * 1j),
    "half": lambda x: x.astype(jnp.bfloat16).astype(float),
    "unit axes": lambda x: x[:, :1, None, :1] + jnp.ones((1, 1, 1, 1)),
    "nothing added": lambda x: jnp.concatenate([x, x[:, :0]], 1) + jnp.concatenate([x[:0], x]),
    "attention": lambda x: jax.nn.dot_product_attention(*[x[:, :, None]] * 3)[:, :, 0],
    "interpolation": lambda x: jax.image.resize(x, (len(x), 7, D), "linear"),
    "bits": lambda x: lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.uint32), jnp.float32),
}
