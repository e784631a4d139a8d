"""Gradient starvation from theory to practice: tangent features, dual dynamics and trained networks.

The rooms, in the order in which data flows through them: `networks`, `tangent`, `features`, `objectives`, `dual`,
`starvation`, `multiclass`, `linearized`, `training`, `methods`, `probes`, `data`, `records`, `sweeps`, `plotting`.
"""

from gsjax.objectives import Ridge, SpectralDecoupling

__all__ = ["Ridge", "SpectralDecoupling"]
