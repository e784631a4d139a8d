"""Checks of the networks' arguments, beyond those of the library."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from gsjax import _check

__all__ = ["examples", "images"]


def examples(x: Any) -> Array:
    """`x` as a non-empty batch `(n, ...)` of real numbers."""
    x = _check.array("x", x)
    _check.require(x.ndim >= 2 and x.size, "x", "a non-empty array (n, ...)", f"shape {x.shape}")
    return x


def images(x: Any) -> Float[Array, "n height width c"]:
    """`x` as a batch of images in floating point."""
    x = _check.floating("x", x)
    _check.shape("x", x, ndim=4)
    return x
