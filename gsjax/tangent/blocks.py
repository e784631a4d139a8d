"""The tangent kernel, block by block: in one program, in steps with progress and a cache, or over devices.

All blocks have the same size, chosen such that they divide the kernel as evenly as possible. The last block starts
early enough to be full, and its overlap with the previous one is computed twice. A symmetric kernel is computed on and
above the diagonal of blocks and mirrored.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from gsjax import progress
from gsjax.tangent.cache import Blocks
from gsjax.tangent.factors import Factors, Given, Plan, contract, factors

__all__ = ["Grid", "Kernel", "grid", "in_one_program", "in_steps", "in_two_programs", "over_devices", "symmetrise"]

Kernel = Float[Array, "nk mk"]


class Grid(NamedTuple):
    """The blocks of a kernel: the first rows and columns of the blocks, and their numbers of examples."""

    rows: tuple[int, ...]
    columns: tuple[int, ...] | None  # None for a symmetric kernel, whose columns start like its rows
    size: int
    width: int

    def pairs(self) -> list[tuple[int, int]]:
        """The starts of all blocks to compute, ordered such that the factors of the rows are reused."""
        if self.columns is None:
            return list(itertools.combinations_with_replacement(self.rows, 2))
        return list(itertools.product(self.rows, self.columns))


def grid(n: int, m: int | None, batch_size: int) -> Grid:
    """Divides a kernel of n by m examples, or a symmetric one (m None), into blocks of at most `batch_size`."""

    def cut(n: int) -> tuple[tuple[int, ...], int]:
        count = -(-n // batch_size)
        size = -(-n // count)
        return tuple(min(start, n - size) for start in range(0, n, size)), size

    rows, size = cut(n)
    columns, width = (None, size) if m is None else cut(m)
    return Grid(rows, columns, size, width)


def in_one_program(plan: Plan, grid: Grid, given: Given, x1: Array, x2: Array | None) -> Kernel:
    """All blocks in one compiled loop."""
    symmetric, others = x2 is None, x1 if x2 is None else x2
    pairs = grid.pairs()
    if len(pairs) == 1:
        rows = factors(plan, given, x1)
        return symmetrise(contract(rows, rows)) if symmetric else contract(rows, factors(plan, given, others))

    def step(carry: tuple[Kernel, Factors], pair: Array) -> tuple[tuple[Kernel, Factors], None]:
        kernel, rows = carry
        i, j = pair
        columns = factors(plan, given, _block(others, j, grid.width))
        if symmetric:
            # Every row of blocks starts on the diagonal, so the factors of its rows are those of the first columns.
            rows = lax.cond(i == j, lambda: columns, lambda: rows)
        else:
            rows = lax.cond(j == 0, lambda: factors(plan, given, _block(x1, i, grid.size)), lambda: rows)
        return (_place(grid, kernel, contract(rows, columns), i, j), rows), None

    kernel = _empty(plan, grid, given, x1, x2)
    spec = jax.eval_shape(lambda given, x: factors(plan, given, x), given, x1[: grid.size])
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), spec)
    return lax.scan(step, (kernel, nothing), jnp.asarray(pairs))[0][0]


def in_two_programs(plan: Plan, given: Given, x1: Array, x2: Array | None) -> Kernel:
    """A single block. In one program with the products, factors might be computed twice and rounded differently."""
    compute = jax.jit(factors, static_argnums=0)
    rows = compute(plan, given, x1)
    if x2 is None:
        return jax.jit(_square)(rows)
    return jax.jit(contract)(rows, compute(plan, given, x2))


def _square(rows: Factors) -> Kernel:
    return symmetrise(contract(rows, rows))


def in_steps(plan: Plan, grid: Grid, given: Given, x1: Array, x2: Array | None, blocks: Blocks | None) -> Kernel:
    """One compiled step per block, with a progress bar; cached blocks are not computed again."""
    compute = jax.jit(factors, static_argnums=0)
    place = jax.jit(_place, static_argnums=0, donate_argnums=1)
    product = jax.jit(contract)
    kernel = jax.jit(_empty, static_argnums=(0, 1))(plan, grid, given, x1, x2)
    others = x1 if x2 is None else x2
    k = len(kernel) // len(x1)
    spec = jax.ShapeDtypeStruct((grid.size * k, grid.width * k), kernel.dtype)
    rows, current = None, None
    for i, j in progress.track(grid.pairs(), "blocks of the tangent kernel"):
        block = blocks.load(i, j, spec) if blocks else None
        if block is None:
            if current != i:
                rows, current = compute(plan, given, x1[i : i + grid.size]), i
            same = x2 is None and i == j
            columns = rows if same else compute(plan, given, others[j : j + grid.width])
            block = product(rows, columns)
            if blocks:
                blocks.save(i, j, np.asarray(block))
        kernel = place(grid, kernel, block, i, j)
    return kernel


def over_devices(plan: Plan, grid: Grid, mesh: Mesh, given: Given, x1: Array, x2: Array | None) -> Kernel:
    """The kernel with rows sharded over the first axis of `mesh`; `grid` is the grid of one device."""
    mesh = Mesh(mesh.devices, mesh.axis_names)  # drops explicit axis types: shardings are chosen here
    axis, n = mesh.axis_names[0], len(x1)
    spread, whole = PartitionSpec(axis), PartitionSpec()
    filled = jnp.pad(x1, [(0, -n % mesh.shape[axis])] + [(0, 0)] * (x1.ndim - 1), mode="edge")
    local = functools.partial(in_one_program, plan, grid)
    # Nothing is communicated. The loops' carry starts from constants that do not vary over the mesh, which the check
    # would refuse.
    shards = jax.shard_map(local, mesh=mesh, in_specs=(whole, spread, whole), out_specs=spread, check_vma=False)
    kernel = shards(given, filled, x1 if x2 is None else x2)
    kernel = kernel[: len(kernel) // len(filled) * n]
    if x2 is None:
        kernel = symmetrise(kernel)
    return lax.with_sharding_constraint(kernel, NamedSharding(mesh, spread)) if len(filled) == n else kernel


def symmetrise(kernel: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The upper triangle and its mirror image, symmetric to the last bit."""

    def mirror(_, kernel: Array) -> Array:
        return jnp.triu(kernel) + jnp.triu(kernel, 1).T

    # If XLA fused this with the computation of the kernel, it would compute both triangles separately, and round them
    # differently. XLA fuses nothing into a loop, but it unrolls a loop of one step.
    return lax.fori_loop(0, 2, mirror, kernel)


def _block(x: Array, start: int | Array, size: int) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size)


def _empty(plan: Plan, grid: Grid, given: Given, x1: Array, x2: Array | None) -> Kernel:
    """A kernel of zeros in the dtype of its blocks."""

    def block(given: Given, x1: Array, x2: Array) -> Kernel:
        return contract(factors(plan, given, x1[: grid.size]), factors(plan, given, x2[: grid.width]))

    x2 = x1 if x2 is None else x2
    shape = jax.eval_shape(block, given, x1, x2)
    k = shape.shape[0] // grid.size
    return jnp.zeros((len(x1) * k, len(x2) * k), shape.dtype)


def _place(grid: Grid, kernel: Kernel, block: Kernel, i: int | Array, j: int | Array) -> Kernel:
    """Writes the block of rows from i and columns from j into the kernel; also its mirror image if it is symmetric."""
    k = len(block) // grid.size
    if grid.columns is not None:
        return lax.dynamic_update_slice(kernel, block, (i * k, j * k))
    block = lax.cond(i == j, symmetrise, lambda block: block, block)
    kernel = lax.dynamic_update_slice(kernel, block, (i * k, j * k))
    return lax.dynamic_update_slice(kernel, block.T, (j * k, i * k))
