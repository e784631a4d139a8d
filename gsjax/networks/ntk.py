"""Networks in NTK parametrisation (Pezeshki et al. 2021, Eq. 1), as flax.linen modules.

    h^(0) = x / sqrt(d_0),    f^(l) = W^(l) h^(l-1),    h^(l) = sqrt(gamma / d_l) xi(f^(l)),    W ~ N(0, 1),

without biases. The output f^(L+1) is a linear readout of the last h. The scale factor is in the forward pass, not in
the initialisation, so that the tangent kernel has a limit as the widths grow. Parameters have the dtype of the input.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Real

from gsjax import _check
from gsjax.networks._arguments import examples
from gsjax.networks.stages import Stage

__all__ = ["ACTIVATIONS", "CNN", "MLP", "gamma"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "erf": jax.scipy.special.erf,
    "tanh": jnp.tanh,
    "linear": lambda f: f,
}


def gamma(activation: str) -> float:
    """The constant of Eq. 1 that preserves the norm from layer to layer: 1 / E[xi(g)^2], g ~ N(0, 1).

    It is exact for "relu" (2) and "linear" (1), and accurate to float64 rounding for "erf" and "tanh".

    Raises:
        ValueError: an unknown activation.

    >>> gamma("relu")
    2.0
    """
    _known(activation)
    return _gamma(activation)


@functools.cache
def _gamma(activation: str) -> float:
    if activation in (exact := {"relu": 2.0, "linear": 1.0}):
        return exact[activation]
    # The trapezoid rule converges geometrically for an analytic integrand with Gaussian tails. For tanh, which has
    # poles, Gauss-Hermite converges only like exp(-c sqrt(n)). Steps of 1/16 leave an error far below rounding.
    g = np.arange(-160, 161) / 16
    density = np.exp(-(g**2) / 2)
    xi = {"erf": scipy.special.erf, "tanh": np.tanh}[activation]
    return float(density.sum() / (density @ xi(g) ** 2))


class MLP(nn.Module):
    """Fully connected network of Eq. 1 (Pezeshki et al. 2021).

    `init(key, x)` returns variables. `apply(variables, x)` flattens x `(n, ...)` to `(n, d_0)` and returns `(n,)` for
    one output and `(n, k)` for k. The weights are `W1`, `W2`, ..., of shape `(d_(l-1), d_l)`. The stages are `h1`,
    ..., `hL`, where `h{l}` is h^(l), of shape `(n, d_l)`.

    Attributes:
        widths: the sizes d_1, ..., d_L of the hidden layers; `()` is the linear model W x / sqrt(d_0).
        outputs: k.
        activation: xi: "relu", "erf", "tanh" or "linear".

    Raises:
        ValueError: a width or `outputs` below one, an unknown activation, or an x that is empty or has no batch axis.

    >>> x = jnp.ones((5, 3))
    >>> variables = MLP((8, 8)).init(jax.random.key(0), x)
    >>> MLP((8, 8)).apply(variables, x).shape
    (5,)
    """

    widths: Sequence[int]
    outputs: int = 1
    activation: str = "relu"

    def __post_init__(self) -> None:
        self.widths = _check.wholes("widths", self.widths, least=1)
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        _known(self.activation)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Real[Array, "n ..."]) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, ...)`."""
        x = examples(x)
        d0 = math.prod(x.shape[1:])
        h = x.reshape(-1, d0) / math.sqrt(d0)
        xi = ACTIVATIONS[self.activation]
        for layer, width in enumerate(self.widths, 1):
            h = math.sqrt(gamma(self.activation) / width) * xi(_dense(width, layer, h.dtype)(h))
            h = Stage(name=f"h{layer}")(h)
        return _readout(h, self.outputs, len(self.widths) + 1)


class CNN(nn.Module):
    r"""Convolutional network in the NTK parametrisation, with global average pooling and a linear readout.

    It is Eq. 1 (Pezeshki et al. 2021) at every position p of the image, with c_l channels in place of d_l and a sum
    over the q x q offsets o of the kernel:

    .. math::

        h^{(0)} = \frac{x}{\sqrt{c_0}}, \qquad f^{(l)}(p) = \frac{1}{q} \sum_o W^{(l)}_o h^{(l-1)}(p + o),
        \qquad h^{(l)} = \sqrt{\frac{\gamma}{c_l}} \, \xi(f^{(l)}),

    and yhat = W mean_p h^(L)(p). Each layer thus divides by the root of its fan-in q q c_(l-1), like `stax.Conv` of
    neural-tangents with `parameterization="ntk"`. With "CIRCULAR" padding and stride 1, the variance of f^(l) over the
    weights, averaged over positions, is the mean of |h^(l-1)|^2. With "SAME" it is smaller, because of the zeros
    beyond the border.

    `init(key, x)` returns variables. `apply(variables, x)` with x `(n, height, width, c_0)` returns `(n,)` for one
    output and `(n, k)` for k. The weights are `W1`, `W2`, ..., of shape `(q, q, c_(l-1), c_l)`; the last one is
    `(c_L, k)`. The stages are `h1`, ..., `hL`, where `h{l}` is h^(l), of shape `(n, height, width, c_l)`, and `pool`,
    the mean over positions, `(n, c_L)`.

    Attributes:
        channels: the numbers c_1, ..., c_L of channels.
        outputs: k.
        activation: xi: "relu", "erf", "tanh" or "linear".
        kernel_size: q.
        strides: one per layer; `()` means 1 in every layer.
        padding: "SAME" (zeros) or "CIRCULAR".

    Raises:
        ValueError: a size below one, a number of strides other than the number of layers, an unknown activation or
            padding, or an x that is empty or does not have four axes.

    >>> x = jnp.ones((5, 8, 8, 1))
    >>> variables = CNN((4, 4)).init(jax.random.key(0), x)
    >>> CNN((4, 4)).apply(variables, x).shape
    (5,)
    """

    channels: Sequence[int]
    outputs: int = 1
    activation: str = "relu"
    kernel_size: int = 3
    strides: Sequence[int] = ()
    padding: str = "SAME"

    def __post_init__(self) -> None:
        self.channels = _check.wholes("channels", self.channels, least=1)
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        _known(self.activation)
        self.kernel_size = _check.whole("kernel_size", self.kernel_size, least=1)
        self.strides = _check.wholes("strides", self.strides, least=1) or (1,) * len(self.channels)
        one_per_layer = len(self.strides) == len(self.channels)
        _check.require(one_per_layer, "strides", f"{len(self.channels)} numbers, one per layer", self.strides)
        _check.choice("padding", self.padding, ("SAME", "CIRCULAR"))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Real[Array, "n height width c"]) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, height, width, c_0)`."""
        x = _check.array("x", x)
        _check.shape("x", x, ndim=4)
        h = x / math.sqrt(x.shape[-1])
        xi, q = ACTIVATIONS[self.activation], self.kernel_size
        for layer, (channels, stride) in enumerate(zip(self.channels, self.strides, strict=True), 1):
            convolve = nn.Conv(
                channels,
                (q, q),
                stride,
                padding=self.padding,
                use_bias=False,
                kernel_init=nn.initializers.normal(1.0),
                param_dtype=h.dtype,
                name=f"W{layer}",
            )
            h = math.sqrt(gamma(self.activation) / channels) * xi(convolve(h) / q)
            h = Stage(name=f"h{layer}")(h)
        h = Stage(name="pool")(h.mean(axis=(1, 2)))
        return _readout(h, self.outputs, len(self.channels) + 1)


def _dense(width: int, layer: int, dtype: Any) -> nn.Dense:
    init = nn.initializers.normal(1.0)
    return nn.Dense(width, use_bias=False, kernel_init=init, param_dtype=dtype, name=f"W{layer}")


def _readout(h: Float[Array, "n d"], outputs: int, layer: int) -> Float[Array, " n"] | Float[Array, "n k"]:
    f = _dense(outputs, layer, h.dtype)(h)
    return f[:, 0] if outputs == 1 else f


def _known(activation: str) -> None:
    _check.choice("activation", activation, sorted(ACTIVATIONS))
