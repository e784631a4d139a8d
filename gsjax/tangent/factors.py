"""The tangent kernel between two blocks of examples, contracted from factors that are computed per block.

A leaf of the parameters contributes the inner products of its gradients. If these are products, the gradient of output
a of example i is a sum over positions of h_ip g_aip^T (see `products`), and

    sum_pq (h_ip . h_jq) (g_aip . g_bjq)  =  < sum_p h_ip g_aip^T, sum_q h_jq g_bjq^T >

is computed from the side that takes fewer multiplications: Gram matrices on the left, gradients on the right. Sums are
accumulated in the precision of the parameters, at least in float32.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Var
from jaxtyping import Array, Float, PyTree, Shaped

from gsjax.tangent.gradients import Gradients
from gsjax.tangent.products import Leaf, Product, Sum
from gsjax.tangent.programs import Program, evaluate, shaped

__all__ = ["Factors", "Given", "Gram", "Group", "Plan", "contract", "factors", "plan"]

Given: TypeAlias = tuple[Sequence[Any], Sequence[Array]]  # the constants of a program, and the leaves of the parameters


class Gram(NamedTuple):
    """Inputs and output cotangents of the layers that share a weight; for an embedding, the inputs are row numbers."""

    inputs: Shaped[Array, "n positions groups fan_in"]
    cotangents: Float[Array, "n k positions groups fan_out"]


class Factors(NamedTuple):
    """What is computed per block of examples: gradients, or the factors of their inner products."""

    gradients: list[Float[Array, "nk size"]]
    grams: list[Gram]


class Group(NamedTuple):
    """Entries of a leaf whose gradient is a sum of products."""

    leaf: int
    products: tuple[Product, ...]
    alike: bool
    by_gram: bool  # contracted as Gram matrices; otherwise as gradients
    work: int  # multiplications


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """How the kernel of a network is computed; plans are equal if the computations are."""

    program: Program
    k: int
    leaves: tuple[Leaf, ...]
    groups: tuple[Group, ...]
    rest: tuple[int, ...]  # the leaves whose gradients are evaluated as they are
    dtype: Any  # dtype of the kernel, that of the parameters or float32
    numbers: int  # the size of the factors per example

    def _key(self) -> Any:
        return self.program, self.k, tuple(group.by_gram for group in self.groups), self.rest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def plan(found: Gradients, forms: Sequence[Leaf], rows: int, columns: int) -> Plan:
    """The cheapest plan for a kernel between blocks of `rows` and `columns` examples, given the form of gradients."""
    k = math.prod(shaped(found.cotangent).shape)
    variables = found.program.jaxpr.invars[:-2]
    dtype = functools.reduce(jnp.promote_types, (shaped(var).dtype for var in variables), jnp.float32)

    groups, numbers = [], 0
    for number, leaf in enumerate(forms):
        for part in leaf.sums or ():
            products = part.products
            cost, held = _costs(part, k, rows, columns)
            by_gram = part.alike and cost[0] <= cost[1]
            numbers += held[0 if by_gram else 1]
            groups.append(Group(number, tuple(products), part.alike, by_gram, cost[0 if by_gram else 1]))
    rest = [number for number, leaf in enumerate(forms) if leaf.sums is None]
    if not groups and not rest:
        rest = [0]  # its gradients are zero, and so is the kernel
    numbers += k * sum(shaped(variables[number]).size for number in rest)
    return Plan(found.program, k, tuple(forms), tuple(groups), tuple(rest), dtype, numbers)


def _costs(part: Sum, k: int, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Multiplications by Gram matrices and by gradients, and the numbers that either holds per example."""
    pairs, products = rows * columns, part.products
    positions = sum(product.sizes[0] for product in products)
    _, groups, fan_in, fan_out = products[0].sizes
    embeds = products[0].kind == "rows"
    size = groups * fan_in * fan_out
    by_gram = pairs * positions**2 * groups * ((1 if embeds else fan_in) + k**2 * fan_out)
    forming = sum(
        math.prod(product.sizes) // (product.sizes[2] if product.kind == "rows" else 1) for product in products
    )
    held = sum(shaped(product.h).size + k * shaped(product.g).size for product in products)
    stacked = positions * groups * ((1 if embeds else fan_in) + k * fan_out)
    return (by_gram, (rows + columns) * k * forming + pairs * k**2 * size), (held + stacked, held + k * size)


def factors(plan: Plan, given: Given, x: Shaped[Array, "n ..."]) -> Factors:
    """The factors of the block of examples x in its kernels with any other block."""
    inputs, cotangents, rest = _pull_back(plan, given, x)

    grams, gradients, end = [], [], 0
    for group in plan.groups:
        own = slice(end, end := end + len(group.products))
        if group.by_gram:
            pairs = [
                _stacked(*args, plan.dtype) for args in zip(group.products, inputs[own], cotangents[own], strict=True)
            ]
            h, g = zip(*pairs, strict=True)
            grams.append(Gram(jnp.concatenate(h, axis=1), jnp.concatenate(g, axis=2)))
        else:
            gradients.append(_formed(plan, group, inputs[own], cotangents[own]))
    rows = [gradient.astype(plan.dtype) for gradient in (*gradients, *rest)]
    return Factors([row.reshape(len(x) * plan.k, math.prod(row.shape[2:])) for row in rows], grams)


def _stacked(product: Product, h: Array, g: Array, dtype: Any) -> tuple[Array, Array]:
    """The factors of a product for all examples, `(n, positions, groups, fan_in)` and `(n, k, positions, ...)`."""
    h = jnp.concatenate(jax.vmap(product.inputs)(h), axis=-1)
    if product.kind == "rows":
        return h, g * (h < product.sizes[2])[:, None]
    return h.astype(dtype), g


def _formed(plan: Plan, group: Group, inputs: Sequence[Array], cotangents: Sequence[Array]) -> Float[Array, "n k ..."]:
    """The gradients of all examples, as sums over positions and products."""

    def one(product: Product, h: Array, g: Array) -> Array:
        if product.kind == "windows":
            formed = _each(functools.partial(_by_windows, product, plan.dtype), h, g)
        elif product.kind == "rows":
            formed = jax.vmap(functools.partial(_by_rows, product))(h, g)
        else:
            formed = _by_matrices(jnp.concatenate(jax.vmap(product.inputs)(h), axis=-1).astype(plan.dtype), g)
        if group.alike:  # the order of entries does not matter
            return formed
        return jax.vmap(jax.vmap(product.placed))(formed.swapaxes(3, 4) if product.kind == "matrices" else formed)

    return _sum(map(one, group.products, inputs, cotangents))


def _by_windows(product: Product, dtype: Any, h: Array, g: Array) -> Float[Array, "k groups out in"]:
    """The gradient for one example, whose patches are small enough to stay in the cache of a CPU."""
    return jnp.concatenate([_outer(g, piece.astype(dtype)) for piece in product.inputs(h)], axis=-1)


def _by_rows(product: Product, h: Array, g: Array) -> Float[Array, "k 1 out in"]:
    """The gradient of an embedding for one example."""
    [places] = product.inputs(h)
    table = jnp.zeros((len(g), product.sizes[2], g.shape[-1]), g.dtype)
    return table.at[:, places[:, 0, 0]].add(g[:, :, 0], mode="drop").swapaxes(1, 2)[:, None]


def _by_matrices(
    h: Float[Array, "n positions groups fan_in"], g: Float[Array, "n k positions groups fan_out"]
) -> Float[Array, "n k groups in out"]:
    """The gradients for all examples, as one batch of matrix products; axes of one entry would slow these on a CPU."""
    n, k, positions, groups, fan_out = g.shape
    fan_in = h.shape[3]
    left = h.transpose(0, 2, 1, 3).reshape(n * groups, positions, fan_in)
    right = g.transpose(0, 3, 2, 1, 4).reshape(n * groups, positions, k * fan_out)
    formed = jnp.einsum("bpi,bpo->bio", left, right, precision="highest").reshape(n, groups, fan_in, k, fan_out)
    return formed.transpose(0, 3, 1, 2, 4)


def contract(a: Factors, b: Factors) -> Float[Array, "nk mk"]:
    """The kernel between two blocks, in full precision also on accelerators, whose default is lower."""
    return _sum(itertools.chain(map(_matmul, a.gradients, b.gradients), map(_product, a.grams, b.grams)))


def _pull_back(plan: Plan, given: Given, x: Array) -> tuple[list[Array], list[Array], list[Array]]:
    """The factors of the products, and the gradients with respect to the remaining leaves, for every example.

    Their axes are `(n, ...)`, `(n, k, positions, groups, fan_out)` and `(n, k, ...)`.
    """
    jaxpr = plan.program.jaxpr
    consts, variables = given
    products = [product for group in plan.groups for product in group.products]
    cotangent = shaped(jaxpr.invars[-1])
    basis = jnp.eye(plan.k, dtype=cotangent.dtype).reshape(-1, *cotangent.shape)

    def one(example: Array) -> tuple[list[Array], list[Array], list[Array]]:
        def pullback(cotangent: Array) -> tuple[list[Array], list[Array], list[Array]]:
            names = (*jaxpr.constvars, *jaxpr.invars)
            values = dict(zip(names, (*consts, *variables, example, cotangent), strict=True))
            scales = [[scale for scale, _ in product.scales if isinstance(scale, Var)] for product in products]
            wanted = [
                *(product.h for product in products),
                *(product.g for product in products),
                *(plan.leaves[number].gradient for number in plan.rest),
                *itertools.chain(*scales),
            ]
            found = iter(evaluate(jaxpr, values, wanted))
            h, g = (list(itertools.islice(found, len(products))) for _ in range(2))
            rest = list(itertools.islice(found, len(plan.rest)))
            for number, product in enumerate(products):
                value = product.cotangents(g[number].astype(plan.dtype))
                for scale, divides in product.scales:
                    factor = next(found) if isinstance(scale, Var) else _number(scale)
                    factor = jnp.asarray(factor, plan.dtype).reshape(())
                    value = value / factor if divides else value * factor
                h[number], g[number] = product.turned(h[number]), value
            return h, g, rest

        # The inputs of layers do not depend on the cotangent.
        return jax.vmap(pullback, out_axes=(None, 0, 0), axis_size=plan.k)(basis)

    return jax.vmap(one)(x)


def _number(scale: Any) -> Any:
    return getattr(scale, "val", scale)


def _outer(
    g: Float[Array, "k positions groups fan_out"], h: Float[Array, "positions groups fan_in"]
) -> Float[Array, "k groups fan_out fan_in"]:
    """The sum over positions of the outer products; fan_in comes last, since it is larger."""
    if h.shape[1] == 1:  # a batch axis of one entry would be slower
        return jnp.einsum("kpo,pi->koi", g[:, :, 0], h[:, 0], precision="highest")[:, None]
    return jnp.einsum("kpco,pci->kcoi", g, h, precision="highest")


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _each(f: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """`f` for every example: batched on accelerators; one by one on a CPU, whose batched products are slow."""
    return lax.platform_dependent(
        *args, cpu=lambda *args: lax.map(lambda arg: f(*arg), args), default=lambda *args: jax.vmap(f)(*args)
    )


def _matmul(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    return jnp.matmul(a, b.T, precision="highest")


def _product(a: Gram, b: Gram) -> Float[Array, "nk mk"]:
    """One pair of positions at a time, so that nothing larger than the result is held."""

    def pair(p: int | Array, q: int | Array, group: int | Array) -> Array:
        left, right = a.inputs[:, p, group], b.inputs[:, q, group]
        embeds = jnp.issubdtype(left.dtype, jnp.integer)
        h = left == right.T if embeds else _matmul(left, right)
        left, right = a.cotangents[:, :, p, group], b.cotangents[:, :, q, group]
        g = _matmul(left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1]))
        n, m, k = *h.shape, left.shape[1]
        return (h[:, None, :, None] * g.reshape(n, k, m, k)).reshape(n * k, m * k)

    sizes = a.inputs.shape[1], b.inputs.shape[1], a.inputs.shape[2]
    if sizes == (1, 1, 1):
        return pair(0, 0, 0)
    indices = jnp.asarray(np.indices(sizes).reshape(3, -1))
    start = jnp.zeros_like(pair(0, 0, 0))
    return lax.scan(lambda total, index: (total + pair(*index), None), start, indices.T)[0]
