"""Imports neural-tangents 0.6.5 on current versions of JAX; all workarounds for it are in this file.

Its last release is from 2023. It imports names that JAX has moved or removed since, and a submodule of its own that
needs TensorFlow. `load` provides these names during the import. Its analytic kernels (`stax`, `predict`) then work, and
so do the empirical ones by `NtkImplementation.JACOBIAN_CONTRACTION` and `NTK_VECTOR_PRODUCTS`. The third
implementation, `STRUCTURED_DERIVATIVES`, relies on more of JAX's internals than can be provided.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from types import ModuleType
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.interpreters.ad
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

__all__ = ["load"]

_MOVED = ("ClosedJaxpr", "Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")
_LOCK = threading.RLock()


def load() -> ModuleType:
    """The module `neural_tangents`, imported on the first call.

    JAX and the other entries of `sys.modules` are restored, even if the import fails. Afterwards a plain
    `import neural_tangents` finds the module too.

    Raises:
        ModuleNotFoundError: neural-tangents is not installed.

    >>> load().__version__
    '0.6.5'
    """
    with _LOCK:
        loaded = sys.modules.get("neural_tangents")
        return loaded if loaded else _import()


def _import() -> ModuleType:
    loaded = set(sys.modules)
    primitive = jax.extend.core.Primitive("zeros_like")
    util = ModuleType("jax.util")
    vars(util).update(safe_map=_safe_map, safe_zip=_safe_zip)
    stubs = {"jax.util": util, "neural_tangents.experimental": ModuleType("neural_tangents.experimental")}
    moved = {name: getattr(jax.extend.core, name) for name in _MOVED}
    try:
        with (
            _lent(jax.core.__dict__, moved),
            _lent(jax.interpreters.ad.__dict__, {"zeros_like_p": primitive}),
            _lent(sys.modules, stubs),
        ):
            package = importlib.import_module("neural_tangents")
            empirical = importlib.import_module("neural_tangents._src.empirical")
            linear = importlib.import_module("neural_tangents._src.stax.linear")
    except BaseException as error:
        for name in set(sys.modules) - loaded:
            if name.split(".")[0] == "neural_tangents":
                del sys.modules[name]
        if isinstance(error, ModuleNotFoundError) and error.name in ("neural_tangents", "frozendict"):
            message = "this kernel needs neural-tangents: install the extra gsjax[infinite-width]"
            raise ModuleNotFoundError(message, name=error.name) from error
        raise
    # Without the stub, an import of the real submodule says that TensorFlow is missing.
    del package.__dict__["experimental"]
    linear.__dict__["_conv_kernel_full_spatial_shared"] = _patch_covariance
    # It uses abstract shapes as arrays, which JAX no longer allows.
    basis = empirical.__dict__["_std_basis"]
    empirical.__dict__["_std_basis"] = lambda specs: basis(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), specs))
    return package


@contextlib.contextmanager
def _lent(namespace: MutableMapping[str, Any], names: dict[str, Any]) -> Iterator[None]:
    """Adds `names` to `namespace` within the context."""
    own = {name: namespace[name] for name in names if name in namespace}
    namespace.update(names)
    try:
        yield
    finally:
        for name in names:
            del namespace[name]
        namespace.update(own)


def _safe_zip(*sequences: Any) -> list[tuple[Any, ...]]:
    return list(zip(*sequences, strict=True))


def _safe_map(function: Callable[..., Any], *sequences: Any) -> list[Any]:
    return [function(*values) for values in zip(*sequences, strict=True)]


def _patch_covariance(
    covariance: Array | None, window: tuple[int, ...], strides: tuple[int, ...], padding: Any, batch_ndim: int
) -> Array | None:
    """The covariance of means over patches: at (p, p'), the mean over offsets o of the covariance at (p + o, p' + o).

    This replaces the function of neural-tangents, a convolution with one channel. In float64, XLA's convolution
    (jaxlib 0.10.2, CPU) reads before the start of its padded operand, which crashes the process if the operand is at
    the start of a page. As in neural-tangents, the spatial axes are returned in reverse order.

    Args:
        covariance: `(n1[, n2], h, h, w, w, ...)`; None and scalars are returned unchanged.
        window: the size of the patch per spatial axis.
        strides: one stride per spatial axis.
        padding: SAME, VALID or CIRCULAR, from an enumeration of neural-tangents.
        batch_ndim: 1 or 2, the number of leading axes.
    """
    if covariance is None or not covariance.ndim:
        return covariance
    for spatial, (size, stride) in enumerate(zip(window, strides, strict=True)):
        axes = (batch_ndim + 2 * spatial, batch_ndim + 2 * spatial + 1)
        shape = tuple(covariance.shape[axis] for axis in axes)
        rule = "VALID" if padding.name == "VALID" else "SAME"
        pads = lax.padtype_to_pads(shape, (size, size), (stride, stride), rule)
        widths = [(0, 0)] * covariance.ndim
        for axis, pad in zip(axes, pads, strict=True):
            widths[axis] = pad
        padded = jnp.pad(covariance, widths, "wrap" if padding.name == "CIRCULAR" else "constant")
        shifted = (_shifted(padded, axes, offset, size, stride) for offset in range(size))
        covariance = functools.reduce(jnp.add, shifted) / size
    pairs = [(axis, axis + 1) for axis in range(batch_ndim, covariance.ndim, 2)]
    return covariance.transpose(*range(batch_ndim), *itertools.chain(*reversed(pairs)))


def _shifted(padded: Array, axes: tuple[int, int], offset: int, size: int, stride: int) -> Array:
    for axis in axes:
        padded = lax.slice_in_dim(padded, offset, padded.shape[axis] - size + offset + 1, stride, axis)
    return padded
