"""Tangent features and kernels: of a network at its parameters, and in the limit of infinite width."""

from gsjax.tangent.empirical import ntk, ntrf
from gsjax.tangent.infinite_width import infinite_ntk

__all__ = ["infinite_ntk", "ntk", "ntrf"]
