"""The network with two layers of studies of feature learning, whose second layer is usually frozen at +-1/width."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsjax import _check
from gsjax.networks._arguments import examples
from gsjax.networks.stages import Stage
from gsjax.networks.standard import squeezed, torch_bias, torch_dense

__all__ = ["ACTIVATIONS", "TwoLayer"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda f: f,
}


class TwoLayer(nn.Module):
    r"""Network with two layers, the second one frozen at +-1/width or trained (Zhang et al. 2024).

    .. math::

        f = \text{scale} \, (a^\top \xi(W^\top x + b) + c), \qquad
        a_k = \pm \frac{1}{\text{width}}, \text{ positive for the first half of the units}

    The initialisation is the published one: W, b and c are uniform in +-1/sqrt(fan_in), PyTorch's default, where the
    fan-in is the dimension of x for W and b, and the width for c. A trained a is drawn in the same way as c. A frozen
    output layer, a and c, lies in the collection "frozen" instead of "params", so that neither an optimiser nor weight
    decay changes it.

    `init(key, x)` returns variables with the layers `hidden` and `output`. `apply(variables, x)` flattens x `(n, ...)`
    to `(n, d)` and returns `(n,)` for one output and `(n, k)` for k. The stage is `h1`, xi(W^T x + b), `(n, width)`.

    Attributes:
        width: the number of hidden neurons.
        activation: xi: "relu", "gelu" (exact), "tanh", "sigmoid" or "identity".
        trained: whether the output layer is trained.
        bias: whether both layers have biases, b and c.
        outputs: k; 1 for a frozen output layer.
        scale: a factor of the outputs, above zero; it may be traced. Large values train lazily: for x of order 1 and
            outputs centred at initialisation, features hardly change.

    Raises:
        ValueError: a width or `outputs` below one, several outputs of a frozen layer, an unknown activation, a `scale`
            that is not positive, or an x that is empty or has no batch axis.

    >>> x = jnp.ones((5, 3))
    >>> variables = TwoLayer(4).init(jax.random.key(0), x)
    >>> variables["frozen"]["output"]["kernel"][:, 0].tolist(), list(variables["params"])
    ([0.25, 0.25, -0.25, -0.25], ['hidden'])
    >>> TwoLayer(4).apply(variables, x).shape
    (5,)
    """

    width: int = 256
    activation: str = "relu"
    trained: bool = False
    bias: bool = True
    outputs: int = 1
    scale: float | Float[Array, ""] = 1.0

    def __post_init__(self) -> None:
        self.width = _check.whole("width", self.width, least=1)
        _check.choice("activation", self.activation, ACTIVATIONS)
        self.trained = _check.flag("trained", self.trained)
        self.bias = _check.flag("bias", self.bias)
        self.outputs = _check.whole("outputs", self.outputs, least=1)
        _check.require(self.trained or self.outputs == 1, "outputs", "1 for a frozen output layer", self.outputs)
        _check.number("scale", self.scale, "(0, inf)")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Real[Array, "n ..."]) -> Float[Array, " n"] | Float[Array, "n k"]:
        """The outputs, `(n,)` or `(n, k)`, of x `(n, ...)`."""
        x = examples(x)
        h = _check.as_float(x).reshape(len(x), -1)
        h = torch_dense(h, self.width, name="hidden", bias=self.bias)
        h = Stage(name="h1")(ACTIVATIONS[self.activation](h))
        if self.trained:
            f = torch_dense(h, self.outputs, name="output", bias=self.bias)
        else:
            f = _Frozen(self.bias, name="output")(h)
        return squeezed(jnp.asarray(self.scale, f.dtype) * f)


class _Frozen(nn.Module):
    """The frozen output layer."""

    bias: bool

    @nn.compact
    def __call__(self, h: Float[Array, "n width"]) -> Float[Array, "n 1"]:
        width = h.shape[1]

        def signs() -> Float[Array, "width 1"]:
            return jnp.where(jnp.arange(width) < width // 2, 1.0, -1.0).astype(h.dtype)[:, None] / width

        f = h @ self.variable("frozen", "kernel", signs).value
        if not self.bias:
            return f
        bias = self.variable("frozen", "bias", lambda: torch_bias(width)(self.make_rng("params"), (1,), h.dtype))
        return f + bias.value
