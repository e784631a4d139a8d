"""Tangent features and kernels, of a network at its parameters and in the limit of infinite width."""

from gsjax.tangent.empirical import ntk, ntrf
from gsjax.tangent.explanation import explain
from gsjax.tangent.infinite_width import infinite_ntk
from gsjax.tangent.operator import ntk_operator

__all__ = ["explain", "infinite_ntk", "ntk", "ntk_operator", "ntrf"]
