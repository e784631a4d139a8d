"""The tangent kernel between two blocks of examples, contracted from what is computed for each block alone.

A leaf of the parameters contributes the inner products of its gradients. Where it is the kernel of linear
layers, the gradient of output a of example i is a sum over positions of h_ip g_aip^T (see `layers`), and

    sum_pq (h_ip . h_jq) (g_aip . g_bjq)  =  < sum_p h_ip g_aip^T, sum_q h_jq g_bjq^T >

is computed from the side that takes fewer multiplications: Gram matrices on the left, gradients on the right.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree, Shaped

from gsjax.tangent.calls import ApplyFn, trainable
from gsjax.tangent.layers import Layer, Structure, intercepted

__all__ = ["Factors", "Gram", "Plan", "contract", "factors", "plan"]


class Gram(NamedTuple):
    """Inputs and output cotangents of the layers that share a kernel."""

    inputs: Float[Array, "n positions groups fan_in"]
    cotangents: Float[Array, "n k positions groups fan_out"]


class Factors(NamedTuple):
    """What is computed for a block of examples alone: gradients, or the means to their inner products."""

    gradients: list[Float[Array, "nk size"]]
    grams: list[Gram]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """How the kernel of a network is computed; compared by identity, so that programs are compiled once for it."""

    apply_fn: ApplyFn
    structure: Structure
    kernels: dict[int, list[int]]  # leaf -> places of the calls in which it is the kernel
    biases: dict[int, list[int]]
    gram: frozenset[int]  # the kernels that are contracted as Gram matrices
    numbers: int  # that the factors of one example hold


def plan(apply_fn: ApplyFn, params: PyTree, structure: Structure, k: int, rows: int, columns: int) -> Plan:
    """The cheapest way to a kernel of k outputs between blocks of `rows` and `columns` examples."""
    sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: trainable(params)[0]))]
    kernels: dict[int, list[int]] = {}
    biases: dict[int, list[int]] = {}
    for place, call in structure.calls.items():
        for group, leaf in ((kernels, call.kernel), (biases, call.bias)):
            if leaf is not None:
                group.setdefault(leaf, []).append(place)

    gram = set()
    numbers = sum(call.h.size + k * call.y.size for call in structure.calls.values())
    numbers += k * sum(sizes[leaf] for leaf in (*structure.rest, *biases))
    for leaf, places in kernels.items():
        calls = [structure.calls[place].sizes() for place in places]
        positions = sum(size[0] for size in calls)
        groups, fan_in, fan_out = calls[0][1:]
        by_products = rows * columns * positions**2 * (fan_in + k**2 * fan_out)
        by_gradients = ((rows + columns) * k * positions + rows * columns * k**2) * fan_in * fan_out
        if by_products <= by_gradients:
            gram.add(leaf)
            numbers += positions * groups * (fan_in + k * fan_out)
        else:
            numbers += k * sizes[leaf]
    return Plan(apply_fn, structure, kernels, biases, frozenset(gram), numbers)


def factors(plan: Plan, params: PyTree, x: Shaped[Array, "n ..."]) -> Factors:
    """What the block of examples x contributes to its kernel with any block."""
    inputs, cotangents, gradients = _pull_back(plan, params, x)
    calls = plan.structure.calls

    def gradient(h: dict[int, Array], g: dict[int, Array]) -> Float[Array, "k groups fan_out fan_in"]:
        """Of one example, by the kernel of the calls that h and g are of: a sum over positions and calls."""
        return _sum(
            jnp.concatenate([_outer(g[place], piece) for piece in calls[place].inputs(h[place])], axis=-1)
            for place in h
        )

    def patches(place: int) -> Float[Array, "n positions groups fan_in"]:
        return jnp.concatenate(jax.vmap(calls[place].inputs)(inputs[place]), axis=-1)

    grams = []
    for leaf, places in plan.kernels.items():
        if leaf in plan.gram:
            h, g = [patches(place) for place in places], [cotangents[place] for place in places]
            grams.append(Gram(jnp.concatenate(h, axis=1), jnp.concatenate(g, axis=2)))
        else:
            gradients.append(_each(gradient, *({place: of[place] for place in places} for of in (inputs, cotangents))))
    for places in plan.biases.values():
        gradients.append(_sum(cotangents[place].sum(2) for place in places))
    return Factors([gradient.reshape(-1, gradient[0, 0].size) for gradient in gradients], grams)


def contract(a: Factors, b: Factors) -> Float[Array, "nk mk"]:
    """The kernel between two blocks; not in the reduced precision that accelerators default to."""
    return _sum(itertools.chain(map(_matmul, a.gradients, b.gradients), map(_product, a.grams, b.grams)))


def _pull_back(plan: Plan, params: PyTree, x: Array) -> tuple[dict[int, Array], dict[int, Array], list[Array]]:
    """What layers are applied to, the cotangents of their outputs, and the gradients by the remaining leaves.

    Of every example, with axes `(n, ...)`, `(n, k, positions, groups, fan_out)` and `(n, k, ...)`.
    """
    tree, rebuild = trainable(params)
    leaves, treedef = jax.tree.flatten(tree)
    calls, rest = plan.structure

    def one(example: Array) -> tuple[dict[int, Array], dict[int, Array], list[Array]]:
        def run(shifts: dict[int, Array], values: list[Array]) -> tuple[Array, dict[int, Array]]:
            inputs = {}

            def visit(place: int, layer: Layer, h: Array, y: Array) -> Array:
                if place not in calls:
                    return y
                inputs[place] = h.astype(y.dtype)
                return y + shifts[place]

            replaced = dict(enumerate(leaves)) | dict(zip(rest, values, strict=True))
            params = rebuild(jax.tree.unflatten(treedef, replaced.values()))
            return intercepted(plan.apply_fn, params, example[None], visit)[0], inputs

        shifts = {place: jnp.zeros(call.y.shape, call.y.dtype) for place, call in calls.items()}
        output, pull, inputs = jax.vjp(run, shifts, [jnp.asarray(leaves[leaf]) for leaf in rest], has_aux=True)
        basis = jnp.eye(output.size, dtype=output.dtype).reshape(-1, *output.shape)
        cotangents, gradients = jax.vmap(pull)(basis)
        return inputs, {place: jax.vmap(calls[place].cotangents)(g) for place, g in cotangents.items()}, gradients

    return jax.vmap(one)(x)


def _outer(
    g: Float[Array, "k positions groups fan_out"], h: Float[Array, "positions groups fan_in"]
) -> Float[Array, "k groups fan_out fan_in"]:
    """The sum over positions of the outer products; fan_in, the larger one, goes last."""
    if h.shape[1] == 1:  # a batch of one is slower than none
        return jnp.einsum("kpo,pi->koi", g[:, :, 0], h[:, 0], precision="highest")[:, None]
    return jnp.einsum("kpco,pci->kcoi", g, h, precision="highest")


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _each(f: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """`f` of every example: batched on accelerators; one by one on a CPU, whose batched products are slow."""
    return lax.platform_dependent(
        *args, cpu=lambda *args: lax.map(lambda arg: f(*arg), args), default=lambda *args: jax.vmap(f)(*args)
    )


def _matmul(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    return jnp.matmul(a, b.T, precision="highest")


def _product(a: Gram, b: Gram) -> Float[Array, "nk mk"]:
    """Pair of positions after pair, so that nothing larger than the result is held."""

    def pair(p: int | Array, q: int | Array, group: int | Array) -> Array:
        h = _matmul(a.inputs[:, p, group], b.inputs[:, q, group])
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
