"""How the kernel of a network is computed for each leaf of the parameters, and what it costs."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, PyTree, Real
from rich.console import Console
from rich.table import Table

from gsjax.tangent.calls import ApplyFn, check_call, check_examples, trainable
from gsjax.tangent.factors import Plan, plan
from gsjax.tangent.gradients import gradients
from gsjax.tangent.products import leaves
from gsjax.tangent.programs import shaped

__all__ = ["Explanation", "LeafWork", "explain", "explained", "warn_if_slow"]

_SLOW = 10**9  # multiplications, about a second; less work gives no warning


class LeafWork(NamedTuple):
    """How the contribution of one leaf of the parameters to a kernel is computed."""

    path: str
    shape: tuple[int, ...]
    way: str  # "Gram matrices", "products", "sums", "gradients" or "zero", see `explain`
    structured: bool  # False for "gradients" alone
    reason: str  # the operations that the gradient consists of, or why it is not a product
    multiplications: int


class Explanation(NamedTuple):
    """The leaves in order, and the unstructured share of all multiplications; printed as a table."""

    leaves: list[LeafWork]
    unstructured: float

    def __str__(self) -> str:
        table = Table("leaf", "shape", "way", "reason", "multiplications", box=None)
        for leaf in self.leaves:
            table.add_row(leaf.path, str(leaf.shape), leaf.way, leaf.reason, f"{leaf.multiplications:.1e}")
        console = Console(file=io.StringIO(), width=160, color_system=None)
        with console.capture() as captured:
            console.print(table)
        return f"{captured.get()}unstructured: {self.unstructured:.0%} of all multiplications"


def explain(apply_fn: ApplyFn, params: PyTree, x: Real[Array, "n ..."]) -> Explanation:
    """How `ntk(apply_fn, params, x)` computes the kernel: for each leaf, the method, the reason and the work.

    The gradient of an output with respect to a leaf of the parameters is read from the program that computes it. Its
    contribution is computed in one of these ways:

    - "Gram matrices": the gradient is a sum of products of a layer's inputs and the cotangents of its outputs. Inputs
      and cotangents are contracted with each other, without forming the gradient;
    - "products": the same, but forming the gradients as products takes fewer multiplications;
    - "sums": the gradient is a sum of cotangents, possibly scaled: the leaf is added or is a scale;
    - "gradients": anything else; the gradient is formed by ordinary differentiation for every example, which is slow;
    - "zero": the leaf is not used.

    Args:
        apply_fn: `apply_fn(params, x)` -> `(n,)` or `(n, k)`; each output depends on its own example only.
        params: the first argument of `apply_fn`, as in `ntk`.
        x: examples, `(n, ...)`; their values are used only in the checks that `ntk` makes.

    Returns:
        an `Explanation`; `print` shows it as a table. It counts the multiplications of the matrix products and
        convolutions that form gradients and kernel, not those of the passes through the network.

    Raises:
        ValueError: as for `ntk`.

    >>> import jax.numpy as jnp
    >>> def linear(params, x):
    ...     return x @ params["w"] + params["b"]
    >>> found = explain(linear, {"w": jnp.ones(2), "b": jnp.ones(())}, jnp.ones((3, 2)))
    >>> [(leaf.path, leaf.way) for leaf in found.leaves]
    [('b', 'sums'), ('w', 'Gram matrices')]
    """
    x = check_examples("x", x)
    output = check_call(apply_fn, params, x, "x")
    found = gradients(apply_fn, params, x, output)
    return explained(plan(found, leaves(found), len(x), len(x)), params, len(x), len(x))


def explained(plan: Plan, params: PyTree, rows: int, columns: int) -> Explanation:
    """How a plan treats the leaves of `params`."""
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in _leaves(params)]
    found = []
    for number, (path, leaf, var) in enumerate(zip(paths, plan.leaves, plan.program.jaxpr.invars, strict=False)):
        shape = shaped(var).shape
        size, own = math.prod(shape), [group for group in plan.groups if group.leaf == number]
        contracted = rows * columns * plan.k**2 * size
        if leaf.sums is None:
            way = "sums" if leaf.structured else "gradients"
            work = contracted + (rows + columns) * plan.k * leaf.work
        else:
            ways = {"Gram matrices" if group.by_gram else "products" for group in own}
            way, work = " and ".join(sorted(ways)) or "zero", sum(group.work for group in own)
        found.append(LeafWork(path, shape, way, leaf.structured, leaf.reason, work))
    total = sum(leaf.multiplications for leaf in found)
    slow = sum(leaf.multiplications for leaf in found if not leaf.structured)
    return Explanation(found, slow / max(total, 1))


def warn_if_slow(plan: Plan, params: PyTree, rows: int, columns: int) -> None:
    """Warns if most of the work on a large kernel is unstructured."""
    found = explained(plan, params, rows, columns)
    slow = [leaf for leaf in found.leaves if not leaf.structured]
    if found.unstructured > 0.5 and sum(leaf.multiplications for leaf in slow) > _SLOW:
        most = max(slow, key=lambda leaf: leaf.multiplications)
        warnings.warn(
            f"ntk: {found.unstructured:.0%} of the multiplications form gradients example by example, most of them of "
            f"{most.path} {most.shape}: {most.reason}; tangent.explain lists all leaves",
            stacklevel=3,
        )


def _leaves(params: PyTree) -> Sequence[tuple[tuple, Array]]:
    return jax.tree.leaves_with_path(trainable(params)[0])
