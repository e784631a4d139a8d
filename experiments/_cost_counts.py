"""What a tangent kernel costs by count: the multiplications of its program, a lower bound, and the memory it holds."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments._architectures import Transformer
from experiments._multiplications import multiplications
from gsjax import networks
from gsjax.tangent import factors
from gsjax.tangent.empirical import planned, program_inputs
from gsjax.tangent.gradients import Gradients, gradients

__all__ = ["KINDS", "LABELS", "Kind", "Work", "network", "shape", "variables", "work"]

Kind = Literal["mlp", "cnn", "vgg", "resnet", "transformer"]
KINDS: tuple[Kind, ...] = ("mlp", "cnn", "vgg", "resnet", "transformer")
LABELS: Mapping[str, str] = {
    "mlp": "MLP",
    "cnn": "CNN",
    "vgg": "VGG-11",
    "resnet": "ResNet-18",
    "transformer": "transformer",
}


class Work(NamedTuple):
    """Counts for one kernel, in multiplications except where it says so.

    - `parameters`: m.
    - `forward`: one pass of all examples through the network.
    - `factors`: the passes and gradients behind the factors of all blocks, each as often as it is computed.
    - `contraction`: of the factors into blocks of the kernel.
    - `total`: factors and contraction, all that `tangent.ntk` does.
    - `floor`: one forward and one backward pass, and for each weight the cheaper way to the upper triangle.
    - `product`: of one product of the matrix-free kernel with a vector.
    - `blocks`, `size`: the number of blocks, and of examples in each.
    - `kernel_bytes`: of the kernel; `factor_bytes`: of the factors of the one or two blocks that are held.
    """

    parameters: int
    forward: int
    factors: int
    contraction: int
    total: int
    floor: int
    product: int
    blocks: int
    size: int
    kernel_bytes: int
    factor_bytes: int


@functools.cache
def network(kind: Kind, width: int) -> nn.Module:
    """The network of a kind, for images of 32 x 32 x 3, with one output; `width` 1024 is that of the table."""
    small = max(width // 64, 1)
    channels = [small * factor // 4 or 1 for factor in (16, 32, 64, 128, 128)]
    return {
        "mlp": networks.MLP((width, width)),
        "cnn": networks.CNN((2 * small,) * 3),
        "vgg": networks.VGG([channels[:1], channels[1:2], channels[2:3] * 2, channels[3:4] * 2, channels[4:] * 2], 1),
        "resnet": networks.ResNet((2, 2, 2, 2), block="basic", stem="small", width=small),
        "transformer": Transformer(8 * small, heads=4, depth=2),
    }[kind]


def shape(n: int) -> tuple[int, ...]:
    """The shape of n examples, images in colour."""
    return (n, 32, 32, 3)


def variables(kind: Kind, width: int, seed: int) -> Any:
    """Parameters in float32."""
    return jax.jit(network(kind, width).init)(jax.random.key(seed), jnp.zeros(shape(1)))


@functools.cache
def _read(kind: Kind, width: int) -> tuple[Any, Gradients]:
    """Variables of zeros, which have no influence on counts, and the program of the gradients."""
    specs = jax.eval_shape(network(kind, width).init, jax.random.key(0), jnp.zeros(shape(1)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), specs)
    output = jax.ShapeDtypeStruct((), jnp.float32)
    return zeros, gradients(network(kind, width).apply, zeros, jnp.zeros(shape(2)), output)


@functools.cache
def _passes(kind: Kind, width: int) -> tuple[int, int, int]:
    """For one example: a forward pass, this and the pass back to all gradients, and a product of the operator.

    The operator keeps the activations, so the forward pass is not a part of a product.
    """
    apply_fn, (given, _) = network(kind, width).apply, _read(kind, width)
    rest = {name: value for name, value in given.items() if name != "params"}
    x, vector = jnp.zeros(shape(1)), jnp.zeros(1)

    def pulled_back(params: Any, vector: Any) -> Any:
        return jax.vjp(lambda params: apply_fn({"params": params, **rest}, x), params)[1](vector)

    def product(params: Any, vector: Any) -> Any:
        pull = jax.vjp(lambda params: apply_fn({"params": params, **rest}, x), params)[1]
        return jax.linear_transpose(pull, vector)(pull(vector))[0]

    forward = multiplications(apply_fn, given, x)
    return (
        forward,
        multiplications(pulled_back, given["params"], vector),
        multiplications(product, given["params"], vector) - forward,
    )


def work(kind: Kind, width: int, n: int) -> Work:
    """The counts for the kernel of n examples in float32; nothing of the size of n is computed."""
    given_variables, found = _read(kind, width)
    plan, grid = planned(found, n)
    given = program_inputs(found, given_variables)
    block = jax.ShapeDtypeStruct(shape(grid.size), jnp.float32)
    pairs = len(grid.pairs())

    def factored(given: Any, x: Any) -> Any:
        return factors.factors(plan, given, x)

    held = jax.eval_shape(factored, given, block)
    # The factors of a row of blocks are computed once, on the diagonal, and those of the columns for each block.
    factoring = pairs * multiplications(factored, given, block)
    contracting = pairs * multiplications(factors.contract, held, held)

    forward, pulled, product = (n * count for count in _passes(kind, width))
    weights = sum(int(np.prod(part.sizes)) for group in plan.groups for part in group.products) * n
    backward = pulled - forward - weights
    triangle = n * (n + 1) // 2
    cheapest = sum(min(_ways(group, n, triangle)) for group in plan.groups)
    return Work(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(given_variables["params"])),
        forward=forward,
        factors=factoring,
        contraction=contracting,
        total=factoring + contracting,
        floor=forward + backward + cheapest,
        product=product,
        blocks=pairs,
        size=grid.size,
        kernel_bytes=4 * n**2,
        factor_bytes=4 * (1 if pairs == 1 else 2) * grid.size * plan.numbers,
    )


def _ways(group: Any, n: int, pairs: int) -> tuple[int, int]:
    """The multiplications of one weight by Gram matrices of inputs and cotangents, and by gradients, for one output."""
    positions = sum(part.sizes[0] for part in group.products)
    _, groups, fan_in, fan_out = group.products[0].sizes
    forming = sum(int(np.prod(part.sizes)) for part in group.products)
    return pairs * positions**2 * groups * (fan_in + fan_out), n * forming + pairs * groups * fan_in * fan_out
