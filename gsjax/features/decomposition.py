"""Tangent features: the singular value decomposition of `Y Phi_0`, and responses to them (Definition 1).

With labels `Y = diag(y)` and the feature matrix `Phi_0` (`n` examples, `m` parameters), Eq. 4 of Pezeshki et al.
(2021) reads `Y Phi_0 = U S V^T`, `z = U^T Y yhat = S V^T theta`. Column `u_j` holds the weights of the examples in
feature `j`, `s_j^2` is the strength of the feature, and `z_j` is how far the network has learned it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gsjax import _check
from gsjax.features import derivatives

MULTICLASS = "for several outputs or classes see gsjax.multiclass"

__all__ = [
    "MULTICLASS",
    "Features",
    "Origin",
    "eigenfeatures",
    "from_ntk",
    "from_ntrf",
    "from_spectrum",
    "planar",
    "require_binary",
    "response",
]


class Origin(NamedTuple):
    """The input of a decomposition: the `matrix`, Phi `(n, m)` or K `(n, n)`, which of the two, and labels `y (n,)`."""

    matrix: Float[Array, "n _"]
    is_kernel: bool
    y: Float[Array, " n"]

    def product(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """`Y K Y v (n,)` with `K = Phi Phi^T`."""
        image = self.y * v
        if self.is_kernel:
            return self.y * ((self.matrix @ image + image @ self.matrix) / 2)
        return self.y * (self.matrix @ (image @ self.matrix))


class _Fields(NamedTuple):
    u: Float[Array, "n r"]
    s: Float[Array, " r"]
    vt: Float[Array, "r m"] | None
    y: Float[Array, " n"]
    rank: int | Int[Array, ""]


class Features(_Fields):
    """The decomposition `Y Phi_0 = U S V^T` of Eq. 4: a named tuple.

    - `u (n, r)` has orthonormal columns;
    - `s (r,)` holds the singular values; their squares `s2` are the strengths;
    - `vt (r, m)` holds directions in parameter space; it is None if only a kernel or a spectrum was given;
    - `y (n,)` holds the labels;
    - `rank` is the number of features with positive strength. For a feature matrix or a kernel, `r == rank` outside of
      tracing. Under `jit`, where shapes cannot depend on values, the features beyond `rank` are kept, with `s` exactly
      zero.

    `origin` is the matrix that was decomposed, for derivatives that need no eigenvectors (see `dual.equilibrium`). It
    is not a field: features lose it when they are changed by `_replace` or passed into a transformed function.
    """

    origin: Origin | None = None

    @property
    def s2(self) -> Float[Array, " r"]:
        """Strengths `s_j^2`, the eigenvalues of the kernel `Y Phi Phi^T Y`."""
        return self.s**2

    def response(self, logits: Float[Array, "*batch n"]) -> Float[Array, "*batch r"]:
        """Responses `z = U^T Y yhat`, see `response`."""
        return response(self, logits)


def from_ntrf(phi: Float[Array, "n m"], y: Float[Array, " n"], *, rtol: float | None = None) -> Features:
    """Features of a tangent feature matrix `phi (n, m)` and labels `y (n,)` in {-1, +1} (Eq. 4), strongest first.

    Singular values up to `rtol` times the largest count as zero; the default `max(n, m) * eps` is the rounding error of
    the decomposition itself. The signs of singular vectors are arbitrary. Half precision is computed in float32.

    Equal strengths and their features have no derivatives, which are NaN. Functions that do not depend on the choice of
    a basis among such features have their right derivatives.

    Raises:
        ValueError: `phi` is not a finite, non-empty, real matrix, `y` is not `n` labels -1 or +1, or all strengths
            are zero.

    Warns:
        UserWarning: the singular values have no gap above the rounding error, so the rank depends on the precision; or
            `phi` was float64 and has a larger rank there, but 64-bit types are off.

    >>> feats = from_ntrf(jnp.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), jnp.array([1.0, -1.0]))
    >>> feats.s.tolist(), feats.rank
    ([3.0, 2.0], 2)
    """
    given, phi, y = phi, _check.single("phi", phi), jnp.asarray(y)
    if phi.ndim == 3:
        _check.one_output("phi", "shape (n, m)", phi.shape, phi.shape[1])
    _check.shape("phi", phi, ndim=2)
    _check.labels("y", y, phi.shape[0])
    _check.finite("phi", phi)
    y = y.astype(phi.dtype)
    u, s, vt = derivatives.svd(y[:, None] * phi)
    _check_rtol(rtol)
    rounding = max(phi.shape) * float(jnp.finfo(phi.dtype).eps)
    keep = s > (rounding if rtol is None else rtol) * s[0]
    if rtol is None:
        _warn_without_gap("phi", s, keep, rounding)
        _warn_if_narrowed("phi", given, keep, lambda matrix: np.linalg.svd(matrix, compute_uv=False))
    return _truncate(u, s, vt, Origin(phi, False, y), keep, "phi")


def from_ntk(ntk: Float[Array, "n n"], y: Float[Array, " n"], *, rtol: float | None = None) -> Features:
    """Features of a tangent kernel `ntk (n, n)` and labels `y (n,)` in {-1, +1}, strongest first; `vt` is None.

    Eigenvalues `s^2` of `Y K Y` up to `rtol` times the largest count as zero. With the default `n * eps`, a kernel
    resolves singular values down to `sqrt(n * eps)` times the largest, where a feature matrix resolves them down to
    `max(n, m) * eps`. Half precision is computed in float32. Derivatives are as in `from_ntrf`.

    Raises:
        ValueError: `ntk` is not a finite, real, symmetric, positive semi-definite matrix (to rounding), `y` is not `n`
            labels -1 or +1, or all strengths are zero.

    Warns:
        UserWarning: the eigenvalues have no gap above the rounding error, so the rank depends on the precision; or
            `ntk` was float64 and has a larger rank there, but 64-bit types are off.

    >>> from_ntk(jnp.array([[4.0, 0.0], [0.0, 9.0]]), jnp.array([1.0, -1.0])).s.tolist()
    [3.0, 2.0]
    """
    given, ntk, y = ntk, _check.single("ntk", ntk), jnp.asarray(y)
    if ntk.ndim == 4:
        _check.one_output("ntk", "shape (n, n)", ntk.shape, ntk.shape[-1])
    _check.shape("ntk", ntk, ndim=2)
    n = ntk.shape[0]
    _check.require(ntk.shape == (n, n), "ntk", "a square matrix", f"shape {ntk.shape}")
    _check.labels("y", y, n)
    y = y.astype(ntk.dtype)
    s2, u = eigenfeatures(y[:, None] * ntk * y)
    _check_rtol(rtol)
    rounding = n * float(jnp.finfo(ntk.dtype).eps)
    keep = s2 > (rounding if rtol is None else rtol) * s2[0]
    if rtol is None:
        _warn_without_gap("ntk", s2, keep, rounding)
        _warn_if_narrowed("ntk", given, keep, lambda matrix: np.linalg.eigvalsh(matrix)[::-1])
    s = jnp.where(keep, jnp.sqrt(jnp.where(keep, s2, 1)), 0)
    return _truncate(u, s, None, Origin(ntk, True, y), keep, "ntk")


def eigenfeatures(kernel: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues, largest first, and eigenvectors of a kernel, which is checked.

    Raises:
        ValueError: `kernel` (named `ntk`) is not finite, not symmetric, or has an eigenvalue below `-sqrt(eps)` times
            the largest.
    """
    _check.finite("ntk", kernel)
    tolerance = jnp.sqrt(jnp.finfo(kernel.dtype).eps)
    asymmetry = jnp.max(jnp.abs(kernel - kernel.T))
    _check.require(
        asymmetry <= tolerance * jnp.max(jnp.abs(kernel)), "ntk", "a symmetric matrix", f"an asymmetry of {asymmetry}"
    )
    s2, u = derivatives.eigh(kernel)
    _check.require(s2[-1] >= -tolerance * s2[0], "ntk", "a positive semi-definite matrix", f"the eigenvalue {s2[-1]}")
    return s2, u


def from_spectrum(u: Float[Array, "n r"], s: Float[Array, " r"], y: Float[Array, " n"] | None = None) -> Features:
    """Features given by orthonormal `u (n, r)` and singular values `s (r,)` >= 0; order and signs stay as given.

    `y` defaults to ones, i.e. logits are taken as margins. Every `s_j > 0` counts towards the rank. Half precision
    is converted to float32.

    Raises:
        ValueError: `u` has columns that are not orthonormal (to `sqrt(eps)`), `s` is negative, not finite or not
            `(r,)`, or `y` is not `n` labels -1 or +1.

    >>> from_spectrum(jnp.eye(2), jnp.array([1.0, 3.0])).s2.tolist()
    [1.0, 9.0]
    """
    u, s = _check.single("u", u), _check.single("s", s)
    dtype = jnp.result_type(u, s)
    u, s = u.astype(dtype), s.astype(dtype)
    _check.shape("u", u, ndim=2)
    n, r = u.shape
    _check.require(r <= n, "u", "at most n columns", f"shape {u.shape}")
    _check.require(s.shape == (r,), "s", f"shape ({r},), one singular value per column of u", f"shape {s.shape}")
    _check.finite("u", u)
    _check.finite("s", s)
    _check.require(jnp.all(s >= 0), "s", "singular values >= 0 (strengths are their squares)", jnp.min(s))
    defect = jnp.max(jnp.abs(u.T @ u - jnp.eye(r, dtype=dtype)))
    _check.require(
        defect <= jnp.sqrt(jnp.finfo(dtype).eps), "u", "orthonormal columns", f"u.T @ u off the identity by {defect}"
    )
    y = jnp.ones(n, dtype) if y is None else jnp.asarray(y)
    _check.labels("y", y, n)
    return Features(u, s, None, y.astype(dtype), _count(s > 0))


def planar(delta: float | Float[Array, ""], s2: Float[Array, " 2"]) -> Features:
    """Two coupled features (Eq. 15): `U = [[sqrt(1 - delta^2), -delta], [delta, sqrt(1 - delta^2)]]`, strengths `s2`.

    All labels are 1. At `delta = 0` the coupling vanishes, and each feature has its own example.

    Raises:
        ValueError: `delta` is not a scalar in (-1, 1), or `s2` is not two finite numbers >= 0.

    >>> planar(0.6, jnp.array([4.0, 1.0])).u.tolist()
    [[0.8, -0.6], [0.6, 0.8]]
    """
    s2 = _check.single("s2", s2)
    _check.number("delta", delta, "(-1, 1)")
    delta = jnp.asarray(delta, s2.dtype)
    _check.require(s2.shape == (2,), "s2", "shape (2,), two strengths", f"shape {s2.shape}")
    _check.require(jnp.all(s2 >= 0), "s2", "strengths >= 0", s2)
    cosine = jnp.sqrt((1 - delta) * (1 + delta))
    return from_spectrum(jnp.stack([jnp.stack([cosine, -delta]), jnp.stack([delta, cosine])]), jnp.sqrt(s2))


def response(feats: Features, logits: Float[Array, "*batch n"]) -> Float[Array, "*batch r"]:
    """Responses `z = U^T Y yhat (..., r)` of centred outputs `logits (..., n)` to the features (Eq. 4).

    Raises:
        ValueError: the last axis of `logits` does not have one output per example.

    >>> response(from_spectrum(jnp.eye(2), jnp.ones(2), jnp.array([1.0, -1.0])), jnp.array([0.5, -0.5])).tolist()
    [0.5, 0.5]
    """
    require_binary(feats)
    n, shape = feats.u.shape[0], _check.array_shape(logits)
    _check.real("logits", logits)
    expected = f"shape (..., {n}), one output per example"
    if shape[-1:] != (n,) and shape[-2:-1] == (n,):
        _check.one_output("logits", expected, shape, shape[-1])
    _check.require(shape[-1:] == (n,), "logits", expected, f"shape {shape}")
    return (feats.y * logits) @ feats.u


def require_binary(feats: object) -> None:
    """Checks that `feats` are features of binary labels.

    Raises:
        ValueError: they are features of several classes, or not features at all.
    """
    if not isinstance(feats, Features):
        raise ValueError(
            f"feats: expected gsjax.features.Features; {MULTICLASS}, got {type(feats).__module__}.Features"
        )


def _check_rtol(rtol: float | None) -> None:
    if rtol is not None:
        _check.number("rtol", rtol, "[0, inf)")


def _warn_without_gap(name: str, values: Float[Array, " k"], keep: Bool[Array, " k"], rounding: float) -> None:
    """Warns if there is no gap between the kept and the dropped values: rounding truncated the spectrum."""
    if not _check.is_concrete(values):
        return
    kept, total = int(jnp.sum(keep)), len(values)
    if 0 < kept < total and values[kept - 1] < 16 * rounding * values[0]:
        warnings.warn(
            f"{name}: {values.dtype} resolves {kept} of {total} features; the others are below its rounding error. "
            "Quantities that count features depend on this: compute the kernel in float64, or choose rtol",
            stacklevel=3,
        )


def _warn_if_narrowed(
    name: str, given: Any, keep: Bool[Array, " k"], spectrum: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Warns if a NumPy matrix in float64 has features that its conversion to float32 has lost.

    JAX converts without a word where 64-bit types are off, and the lost features may lie far below the gap that
    `_warn_without_gap` looks at. The spectrum is computed in float64 only if features are missing.
    """
    narrowed = isinstance(given, np.ndarray) and given.dtype == np.float64 and not jax.config.read("jax_enable_x64")
    if not narrowed or not _check.is_concrete(keep) or bool(jnp.all(keep)):
        return
    values = spectrum(given)
    kept, found = int(jnp.sum(keep)), int(np.sum(values > max(given.shape) * np.finfo(float).eps * values[0]))
    if found > kept:
        warnings.warn(
            f"{name}: 64-bit types are off, so a float64 array became float32, which resolves {kept} of its {found} "
            "features; call this within jax.enable_x64(True), or choose rtol",
            stacklevel=3,
        )


def _truncate(u, s, vt, origin: Origin, keep, name: str) -> Features:
    rank = _count(keep)
    if isinstance(rank, int):
        _check.require(rank > 0, name, "at least one feature of positive strength", "a matrix of rank 0")
        u, s, vt = u[:, :rank], s[:rank], None if vt is None else vt[:rank]
    else:
        s = jnp.where(keep, s, 0)
    feats = Features(u, s, vt, origin.y, rank)
    feats.origin = origin
    return feats


def _count(keep: Array) -> int | Int[Array, ""]:
    count = jnp.sum(keep)
    return int(count) if _check.is_concrete(count) else count
