"""Networks in the standard parametrisation of deep learning frameworks: widths enter through the initialisation.

Parameters have the dtype of the input. Integer inputs are converted to the default float type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Real

from gsjax import _check
from gsjax.networks import ntk
from gsjax.networks._arguments import examples, images
from gsjax.networks.convolution import conv
from gsjax.networks.stages import Stage

__all__ = [
    "ACTIVATIONS",
    "ConvNet",
    "FullyConnected",
    "batch_norm",
    "he_normal",
    "squeezed",
    "torch_bias",
    "torch_dense",
]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {**ntk.ACTIVATIONS, "leaky_relu": jax.nn.leaky_relu}

# He et al. 2015 with the fan-out, as in torchvision's networks with batch norm.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class FullyConnected(nn.Module):
    r"""Fully connected network in standard parametrisation.

    .. math::

        h^{(0)} = x, \qquad h^{(l)} = \text{dropout}(\xi(\text{norm}(W^{(l)} h^{(l-1)} + b^{(l)}))),
        \qquad f = W^{(L+1)} h^{(L)} + b^{(L+1)}

    `init(key, x)` returns variables. `apply(variables, x)` flattens x `(n, ...)` to `(n, d_0)` and returns `(n,)` for
    one output and `(n, k)` for k. With `train=True` dropout needs the rng "dropout", and batch norm updates the
    collection "batch_stats". The stages are `h1`, ..., `hL`, where `h{l}` is h^(l), of shape `(n, d_l)`; in training
    they are taken after dropout.

    Attributes:
        widths: the sizes d_1, ..., d_L of the hidden layers; `()` is a linear model.
        outputs: k.
        activation: xi: "relu", "leaky_relu" (slope 0.01), "erf", "tanh" or "linear".
        initialization: "torch": weights and biases uniform in +-1/sqrt(fan_in), PyTorch's default; "xavier": weights
            uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010), biases zero.
        dropout: the probability that a hidden unit is dropped in training; the remaining units are scaled up.
        batch_norm: whether layers are normalised before the activation (Ioffe and Szegedy 2015).

    Raises:
        ValueError: a width or `outputs` below one, an unknown activation or initialisation, `dropout` outside [0, 1),
            or an x that is empty or has no batch axis.

    >>> x = jnp.ones((5, 3))
    >>> network = FullyConnected((8, 8), outputs=2, dropout=0.5)
    >>> network.apply(network.init(jax.random.key(0), x), x).shape
    (5, 2)
    """

    widths: Sequence[int]
    outputs: int = 1
    activation: str = "relu"
    initialization: str = "torch"
    dropout: float = 0.0
    batch_norm: bool = False

    def __post_init__(self) -> None:
        self.widths = _check.wholes("widths", self.widths, least=1)
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        _known(self.activation)
        _check.choice("initialization", self.initialization, ("torch", "xavier"))
        _check.number("dropout", self.dropout, "[0, 1)")
        self.batch_norm = _check.flag("batch_norm", self.batch_norm)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Real[Array, "n ..."], train: bool = False) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, ...)`; `train` switches to dropout and statistics of the batch."""
        x = examples(x)
        h = _check.as_float(x).reshape(len(x), -1)
        layer = torch_dense if self.initialization == "torch" else _xavier_dense
        for number, width in enumerate(self.widths, 1):
            h = layer(h, width)
            if self.batch_norm:
                h = batch_norm(h, train)
            h = ACTIVATIONS[self.activation](h)
            h = nn.Dropout(self.dropout, deterministic=not train)(h)
            h = Stage(name=f"h{number}")(h)
        return squeezed(layer(h, self.outputs))


class ConvNet(nn.Module):
    """Convolutions with pooling, then fully connected layers (as LeCun et al. 1998), in standard parametrisation.

    Every convolution has no padding and is followed by the activation and a 2 x 2 max pool. The resulting image is
    flattened and passed through the hidden layers to a linear readout. The defaults are the network of Pezeshki et al.
    2021, Fig. 2, for 32 x 32 images. Weights and biases are initialised uniformly in +-1/sqrt(fan_in), PyTorch's
    default.

    `init(key, x)` returns variables. `apply(variables, x)` with x `(n, height, width, c)` returns `(n,)` for one output
    and `(n, k)` for k. The stages are `conv1`, `pool1`, `conv2`, `pool2`, ..., images `(n, height, width, channels)`
    after each activation and each pool, and then `dense1`, `dense2`, ..., the hidden layers, `(n, width)`.

    Attributes:
        channels: the numbers of channels of the convolutions.
        widths: the widths of the hidden layers.
        outputs: k.
        kernel_size: the height and width of the convolution kernels.
        activation: "relu", "leaky_relu" (slope 0.01), "erf", "tanh" or "linear".

    Raises:
        ValueError: a size below one, an unknown activation, or an x that is empty, does not have four axes, or has
            images too small for the convolutions and pools.

    >>> x = jax.ShapeDtypeStruct((2, 32, 32, 3), float)
    >>> jax.eval_shape(ConvNet().init_with_output, jax.random.key(0), x)[0].shape
    (2, 2)
    """

    channels: Sequence[int] = (12, 32)
    widths: Sequence[int] = (240, 192)
    outputs: int = 2
    kernel_size: int = 5
    activation: str = "leaky_relu"

    def __post_init__(self) -> None:
        self.channels = _check.wholes("channels", self.channels, least=1)
        self.widths = _check.wholes("widths", self.widths, least=1)
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        self.kernel_size = _check.whole("kernel_size", self.kernel_size, least=1)
        _known(self.activation)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Real[Array, "n height width c"], train: bool = False
    ) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, height, width, c)`; `train` makes no difference."""
        del train
        h = images(x)
        xi, q = ACTIVATIONS[self.activation], self.kernel_size
        for number, channels in enumerate(self.channels, 1):
            large = min(h.shape[1:3]) > q
            _check.require(large, "x", f"images large enough for {len(self.channels)} convolutions", f"shape {x.shape}")
            fan_in = q * q * h.shape[-1]
            convolve = conv(channels, q, kernel_init=_torch_kernel, bias_init=torch_bias(fan_in), dtype=h.dtype)
            h = Stage(name=f"conv{number}")(xi(convolve(h)))
            h = Stage(name=f"pool{number}")(nn.max_pool(h, (2, 2), (2, 2)))
        h = h.reshape(len(h), -1)
        for number, width in enumerate(self.widths, 1):
            h = Stage(name=f"dense{number}")(xi(torch_dense(h, width)))
        return squeezed(torch_dense(h, self.outputs))


# Variance 1 / (3 fan_in); in PyTorch this is kaiming_uniform with a = sqrt(5).
_torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_dense(
    h: Float[Array, "n d"], width: int, name: str | None = None, *, bias: bool = True
) -> Float[Array, "n width"]:
    """A dense layer of a module, with weights and biases uniform in +-1/sqrt(d), PyTorch's default."""
    draw = torch_bias(h.shape[-1])
    return nn.Dense(width, bias, kernel_init=_torch_kernel, bias_init=draw, param_dtype=h.dtype, name=name)(h)


def batch_norm(h: Float[Array, "n ... d"], train: bool, name: str | None = None) -> Float[Array, "n ... d"]:
    """Batch norm in a module, with PyTorch's constants: eps 1e-5, and weight 0.1 of each batch in running averages.

    The running variance averages the population variance of the batches. PyTorch averages the sample variance, which
    is n / (n - 1) times as large.
    """
    # Flax keeps the averages in float32 but updates them in the dtype of h, and a compiled loop rejects this change.
    double = h.dtype == jnp.float64
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        param_dtype=h.dtype,
        force_float32_reductions=not double,
        name=name,
    )(h)


def squeezed(f: Float[Array, "n k"]) -> Float[Array, " n"] | Float[Array, "n k"]:
    """Outputs in the shape that all networks return: `(n,)` for one output, else `(n, k)`."""
    return f[:, 0] if f.shape[1] == 1 else f


def _xavier_dense(h: Float[Array, "n d"], width: int) -> Float[Array, "n width"]:
    return nn.Dense(width, kernel_init=nn.initializers.xavier_uniform(), param_dtype=h.dtype)(h)


def torch_bias(fan_in: int) -> Callable[..., Array]:
    """An initialiser that is uniform in +-1/sqrt(fan_in), PyTorch's default for biases."""
    end = 1 / math.sqrt(fan_in)

    def bias(key: Key[Array, ""], shape: Sequence[int], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -end, end)

    return bias


def _known(activation: str) -> None:
    _check.choice("activation", activation, sorted(ACTIVATIONS))
