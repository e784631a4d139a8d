"""The checked arguments of a diagnosis: network, data and penalty."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

from gsjax import _check
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling, logistic_loss, penalty_value
from gsjax.tangent.calls import ApplyFn, check_examples, check_params, traced

__all__ = [
    "BATCH",
    "Task",
    "check_group",
    "check_task",
    "check_trained",
    "find_pictures",
    "outputs",
    "penalised",
    "reduced",
]

BATCH = 1024  # examples in one pass through the network


class Task(NamedTuple):
    """A network, data and a penalty, checked.

    `x (n, ...)`; `y (n,)`, -1 and +1 as floats for a binary task, or class indices; `classes` is None for a binary
    task; `start` holds the outputs at `params`, `(n,)` or `(n, classes)`, on the host.
    """

    apply_fn: ApplyFn
    params: PyTree
    x: Shaped[Array, "n ..."]
    y: Shaped[Array, " n"]
    penalty: Penalty
    classes: int | None
    start: Float[np.ndarray, "n ..."]

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.x)

    @property
    def rows(self) -> int:
        """The number of outputs of all examples, the size of the kernel."""
        return self.start.size


def check_task(apply_fn: ApplyFn, params: PyTree, x: Any, y: Any, penalty: Any) -> Task:
    """The task of these arguments.

    Raises:
        ValueError: one of them is invalid; for labels and outputs of another kind, the message says what to write.
    """
    x = check_examples("x", x)
    n = len(x)
    _check_penalty(penalty)
    check_params(apply_fn, params)
    shape = traced(apply_fn, params, x, "x")[1].shape
    given = _check.array_shape(y) if _is_array(y) else None
    _check.require(given is not None, "y", f"labels ({n},)", type(y).__name__)
    _check.require(given == (n,), "y", f"shape ({n},), one label per example of x", f"shape {given}")
    signed = _is_signed(y)
    _check.outputs("apply_fn", shape, n, classes=not signed)
    if len(shape) == 1:
        y = _binary_labels(y, n)
        classes = None
    else:
        classes = shape[1]
        y = _class_labels(y, classes)
    if isinstance(penalty, SpectralDecoupling):
        rows = n * (classes or 1)
        for name in ("strength", "target"):
            got = jnp.shape(getattr(penalty, name))
            expected = f"a scalar or shape ({rows},), one per output"
            _check.require(got in ((), (rows,)), f"penalty.{name}", expected, f"shape {got}")
    start = outputs(apply_fn, params, x)
    _check.require(np.all(np.isfinite(start)), "apply_fn", "finite outputs", "NaN or infinite ones")
    dtype = jnp.result_type(start.dtype, jnp.float32)
    return Task(apply_fn, params, x, y if classes else y.astype(dtype), penalty, classes, start)


def check_trained(task: Task, trained: PyTree) -> Float[np.ndarray, "n ..."]:
    """The outputs at the trained parameters, `(n,)` or `(n, classes)`.

    Raises:
        ValueError: the parameters do not have the structure, shapes and types of `params`, or are not finite.
    """
    wanted, got = (jax.tree.structure(tree) for tree in (task.params, trained))
    _check.require(got == wanted, "trained_params", f"the structure of params, {wanted}", got)
    for (path, leaf), other in zip(jax.tree.leaves_with_path(task.params), jax.tree.leaves(trained), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf"
        same = jnp.shape(leaf) == jnp.shape(other)
        _check.require(same, "trained_params", f"shape {jnp.shape(leaf)} at {name}", f"shape {jnp.shape(other)}")
        if jnp.issubdtype(jnp.result_type(other), jnp.floating):
            _check.finite(f"trained_params at {name}", other)
    found = outputs(task.apply_fn, trained, task.x)
    _check.require(np.all(np.isfinite(found)), "trained_params", "parameters with finite outputs", "NaN or infinite")
    return found


def check_group(group: Any, n: int) -> np.ndarray:
    """`group` as an array of n whole numbers."""
    expected = f"whole numbers ({n},), one group per example of x"
    _check.require(_is_array(group), "group", expected, type(group).__name__)
    given = np.asarray(group)
    whole = np.issubdtype(given.dtype, np.integer)
    words = given.dtype.kind in "USO"
    write = ": number the groups by np.unique(group, return_inverse=True)[1]" if words and given.shape == (n,) else ""
    got = f"{given.dtype} of shape {given.shape}{write}"
    _check.require(whole and given.shape == (n,), "group", expected, got)
    return given


def find_pictures(inputs: Any, x: Array) -> np.ndarray | None:
    """The pictures of all examples, `(n, h, w, 1 or 3)`: `inputs`, or x where x are pictures, else None.

    Raises:
        ValueError: `inputs` that are not `(n, h, w)` or `(n, h, w, 1 or 3)`, or are not finite.
    """
    if inputs is None:
        return _picture_shaped(np.asarray(x)) if _are_pictures(x.shape) else None
    n = len(x)
    expected = f"pictures ({n}, h, w), ({n}, h, w, 1) or ({n}, h, w, 3), one per example of x"
    _check.require(_is_array(inputs), "inputs", expected, type(inputs).__name__)
    given = np.asarray(inputs)
    _check.real("inputs", given, expected)
    good = _are_pictures(given.shape) and len(given) == n
    _check.require(good, "inputs", expected, f"shape {given.shape}")
    _check.finite("inputs", given)
    return _picture_shaped(given)


def outputs(apply_fn: ApplyFn, params: PyTree, x: Array) -> Float[np.ndarray, "n ..."]:
    """The outputs on the host, computed for some examples at a time, in full precision."""
    apply = jax.jit(apply_fn)
    with jax.default_matmul_precision("highest"):
        parts = [np.asarray(apply(params, x[low : low + BATCH])) for low in range(0, len(x), BATCH)]
    return np.concatenate(parts)


def penalised(task: Task, logits: Float[Array, "n ..."]) -> Float[Array, ""]:
    """The sum of the losses at centred outputs, plus spectral decoupling; a ridge is left out."""
    if task.classes is None:
        loss = logistic_loss(task.y * logits)
    else:
        right = jnp.take_along_axis(logits, task.y[:, None], axis=1)[:, 0]
        loss = jnp.sum(jax.nn.logsumexp(logits, axis=1) - right)
    return loss if isinstance(task.penalty, Ridge) else loss + penalty_value(task.penalty, (), logits.ravel())


def reduced(penalty: Penalty, rows: np.ndarray, total: int) -> Penalty:
    """The penalty of the same weight per example for some `rows` of `total` outputs.

    The loss is a sum over examples, so a ridge strength is multiplied by the share of the rows. Spectral decoupling is
    a sum over examples itself; its arrays lose the other rows.
    """
    if isinstance(penalty, Ridge):
        return Ridge(jnp.asarray(penalty.strength) * (len(rows) / total))

    def kept(value: Any) -> Array:
        return jnp.asarray(value)[rows] if jnp.ndim(value) else jnp.asarray(value)

    return SpectralDecoupling(kept(penalty.strength), kept(penalty.target))


def _check_penalty(penalty: Any) -> None:
    good = isinstance(penalty, Ridge | SpectralDecoupling)
    expected = "Ridge(strength) or SpectralDecoupling(strength)"
    _check.require(good, "penalty", expected, type(penalty).__name__)
    _check.require(_check.is_concrete(penalty), "penalty", "known numbers", "traced ones")
    if isinstance(penalty, Ridge):
        _check.scalar("penalty.strength", penalty.strength)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") or isinstance(value, list | tuple)


def _is_signed(y: Any) -> bool:
    """Whether these are labels -1 and +1, for which only a network with one output makes sense."""
    values = np.asarray(y)
    return np.issubdtype(values.dtype, np.number) and bool(np.isin(values, (-1, 1)).all() and np.any(values == -1))


def _binary_labels(y: Any, n: int) -> Array:
    values = np.asarray(y)
    if values.dtype == bool:
        raise ValueError("y: expected labels -1 and +1, got bools: write np.where(y, 1, -1)")
    if np.issubdtype(values.dtype, np.number) and np.isin(values, (0, 1)).all() and np.any(values == 0):
        raise ValueError(
            "y: expected labels -1 and +1 for a network with one output, got 0 and 1: write 2 * y - 1"
            if np.any(values == 1)
            else "y: expected labels -1 and +1 for a network with one output, got 0 alone: write 2 * y - 1"
        )
    _check.labels("y", y, n)
    return jnp.asarray(y)


def _class_labels(y: Any, classes: int) -> Array:
    values = np.asarray(y)
    expected = f"class indices, whole numbers in 0..{classes - 1}, for outputs (n, {classes})"
    whole = np.issubdtype(values.dtype, np.integer)
    _check.require(whole, "y", expected, f"{values.dtype}: write y.astype(int)")
    low, high = int(values.min()), int(values.max())
    _check.require(low >= 0 and high < classes, "y", expected, f"{low}..{high}")
    return jnp.asarray(y)


def _are_pictures(shape: tuple[int, ...]) -> bool:
    large = len(shape) >= 3 and min(shape[1:3]) >= 2
    return large and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)))


def _picture_shaped(pictures: np.ndarray) -> np.ndarray:
    return pictures[..., None] if pictures.ndim == 3 else pictures
