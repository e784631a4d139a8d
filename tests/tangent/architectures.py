"""Networks on which every way to a tangent kernel has to agree, each for a feature of networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.networks import CNN, MLP


class Case(NamedTuple):
    network: Any
    shape: tuple[int, ...]  # of one example
    tokens: int | None = None  # examples are whole numbers below it
    compiled: bool = False  # whether the network's apply is compiled
    rest: int = 0  # number of parameters whose gradients are formed per example

    def problem(self, n: int, seed: int = 0):
        """`apply_fn`, random parameters, and n examples."""
        random = np.random.default_rng(seed)
        shape = (n, *self.shape)
        x = jnp.asarray(random.integers(0, self.tokens, shape) if self.tokens else random.normal(size=shape))
        like = jax.eval_shape(self.network.init, jax.random.key(0), x)
        # Positive on average, for positive running variances.
        values = [random.normal(size=leaf.shape) / 2 + (leaf.ndim < 2) for leaf in jax.tree.leaves(like)]
        params = jax.tree.unflatten(jax.tree.structure(like), map(jnp.asarray, map(np.abs, values)))
        apply_fn = self.network.apply
        return jax.jit(apply_fn) if self.compiled else apply_fn, params, x


class Plain(nn.Module):
    """Dense layers with biases, one of them over two axes at once."""

    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.DenseGeneral((3, 2))(x))
        h = nn.gelu(nn.DenseGeneral(4, axis=(-2, -1))(h))
        return nn.Dense(1)(h)[:, 0]


class Convolutions(nn.Module):
    """All kinds of padding, stride, dilation and grouping."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Conv(4, (3, 3), strides=2, padding="CIRCULAR")(x))
        h = nn.tanh(nn.Conv(4, (3, 2), kernel_dilation=(1, 2), padding="SAME")(h))
        h = nn.max_pool(nn.gelu(nn.Conv(6, (2, 2), feature_group_count=2, padding=[(1, 0), 2])(h)), (2, 2), (1, 1))
        h = nn.Conv(2, (2, 3), input_dilation=2, padding=1, strides=(1, 2))(h)
        return nn.Conv(3, (3, 3), padding="REFLECT", use_bias=False)(h).mean((1, 2))


class Depthwise(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Conv(3, (3, 3), feature_group_count=3)(x))
        h = nn.relu(nn.Conv(6, (3, 3), feature_group_count=3, strides=2)(h))
        h = nn.Conv(4, (1, 1))(h)
        return nn.Dense(2)(nn.avg_pool(h, (2, 2)).reshape(len(x), -1))


class Causal(nn.Module):
    """A convolution in time, over two axes of examples."""

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Conv(3, 2, padding="CAUSAL", kernel_dilation=2)(x))
        return nn.Conv(1, (2,), padding="VALID")(h)[..., 0].sum((1, 2))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Conv(4, (3, 3))(x)
        for channels, stride in ((4, 1), (6, 2)):
            f = nn.Conv(channels, (3, 3), stride)(nn.relu(nn.GroupNorm(2)(h)))
            f = nn.Conv(channels, (3, 3))(nn.relu(f))
            h = f + nn.Conv(channels, (1, 1), stride, use_bias=False)(h)
        return nn.Dense(1)(h.mean((1, 2)))[:, 0]


class LayerNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm()(nn.relu(nn.Dense(5)(x)))
        scale = self.param("scale", nn.initializers.ones, (5,))
        return nn.Dense(1)(scale * h)[:, 0]


class BatchNorm(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        h = nn.BatchNorm(use_running_average=not self.train)(nn.Conv(3, (3, 3))(x))
        return nn.Dense(2)(nn.relu(h).mean((1, 2)))


class Recurrent(nn.Module):
    """The same layers at every step, in an unrolled loop."""

    @nn.compact
    def __call__(self, x):
        cell, read = nn.Dense(4), nn.Dense(4, use_bias=False)
        h = jnp.zeros((len(x), 4), x.dtype)
        for time in range(x.shape[1]):
            h = jnp.tanh(cell(h) + read(x[:, time]))
        return nn.Dense(1)(h)[:, 0]


class Tied(nn.Module):
    """A kernel that is used in its layer and outside of it, and one that two layers of different kinds share."""

    @nn.compact
    def __call__(self, x):
        encode, mix = nn.Dense(4), nn.Dense(4)
        h = jnp.tanh(encode(x))
        h = mix(jnp.tanh(mix(h)))
        kernel = encode.variables["params"]["kernel"]
        return (h @ kernel.T).sum(1)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)(nn.LayerNorm()(x))
        h = h + nn.Dense(4)(nn.gelu(nn.Dense(6)(h)))
        return nn.Dense(2)(h.mean(1))


class Language(nn.Module):
    """Whole numbers in; the embedding is used again to read out."""

    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(7, 4)
        h = nn.Dense(4)(embed(x).mean(1))
        return embed.attend(h)[:, :3]


class Dropout(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        h = nn.Dropout(0.5, deterministic=not self.train)(nn.relu(nn.Dense(6)(x)))
        return nn.Dense(1)(h)[:, 0]


class Lifted(nn.Module):
    """Layers that flax transforms; they are differentiated in the ordinary way."""

    @nn.compact
    def __call__(self, x):
        h = nn.remat(nn.Dense)(4)(x)
        stack = nn.scan(_Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        h, _ = stack()(h, None)
        return nn.WeightNorm(nn.Dense(2))(jnp.tanh(h))


class _Step(nn.Module):
    @nn.compact
    def __call__(self, h, _):
        return jnp.tanh(nn.Dense(4)(h)), None


class Transposed(nn.Module):
    """Linear layers of other kinds, and one with a mask."""

    @nn.compact
    def __call__(self, x):
        h = nn.ConvTranspose(3, (2, 2), strides=(2, 2))(x)
        mask = jnp.ones((3, 3, 3, 2)).at[0].set(0)
        h = nn.relu(nn.Conv(2, (3, 3), mask=mask)(h))
        return nn.Einsum((2, 1), "nhwc,ck->nk")(h)


class Centred(nn.Module):
    """Parameters in a custom tree, one layer scaled, and the output minus that at other parameters."""

    network: nn.Module = Plain()

    def init(self, key, x):
        return {"net": self.network.init(key, x), "scale": jnp.ones(())}

    def apply(self, params, x):
        layers = dict(params["net"]["params"])
        layers["Dense_0"] = jax.tree.map(lambda leaf: params["scale"] * leaf, layers["Dense_0"])
        origin = jax.tree.map(jnp.ones_like, params["net"])
        apply_fn: Callable[..., Any] = self.network.apply
        return apply_fn({"params": layers}, x) - apply_fn(origin, x)


class Regrouped:
    """A kernel in convolutions with one and with two groups: its gradient is not a sum of products of one form."""

    def init(self, key, x):
        return {"kernel": jnp.ones((3, 3, 2, 4))}

    def apply(self, params, x):
        def convolved(h, groups):
            convolution: Any = nn.Conv(4, (3, 3), use_bias=False, feature_group_count=groups)
            return jnp.tanh(convolution.apply({"params": params}, h))

        return convolved(convolved(x, 1), 2).mean((1, 2, 3))


class Inside(nn.Module):
    """A network that is transformed where it is applied, example by example, with its parameters as they are."""

    network: nn.Module = Plain()

    def init(self, key, x):
        return self.network.init(key, x)

    def apply(self, params, x):
        apply_fn: Callable[..., Any] = self.network.apply
        return jax.vmap(lambda example: apply_fn(params, example[None])[0])(x)


image, vector, series = (8, 8, 3), (5,), (6, 4)
CASES = {
    "mlp": Case(MLP((6, 5)), vector),
    "mlp of two outputs": Case(MLP((6, 5), 2, "erf"), vector),
    "linear": Case(MLP(()), vector),
    "cnn": Case(CNN((4, 5), strides=(1, 2)), image),
    "cnn of two outputs": Case(CNN((4, 5), 2, padding="CIRCULAR"), image),
    "with biases": Case(Plain(), vector),
    "compiled": Case(Plain(), vector, compiled=True),
    "all convolutions": Case(Convolutions(), image),
    "depthwise": Case(Depthwise(), image),
    "causal": Case(Causal(), (2, 7, 3)),
    "residual": Case(Residual(), image),
    "layer norm": Case(LayerNorm(), vector),
    "batch norm": Case(BatchNorm(), image),
    "recurrent": Case(Recurrent(), series),
    "tied": Case(Tied(), vector),
    "attention": Case(Attention(), series),
    "tokens": Case(Language(), (5,), tokens=7),
    "dropout off": Case(Dropout(), vector),
    "lifted": Case(Lifted(), (4,), rest=8 + 2),
    "other layers": Case(Transposed(), (4, 4, 2), rest=54),
    "regrouped": Case(Regrouped(), (4, 4, 2)),
    "inside": Case(Inside(), vector),
    "centred": Case(Centred(), vector, rest=1),
}
