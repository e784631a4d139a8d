"""Gradient starvation: how the response to one feature changes with the strength of another."""

from gsjax.starvation import structures
from gsjax.starvation.definition import matrix, orient, pulls, sensitivity, share
from gsjax.starvation.diagram import PhaseDiagram, phase_diagram
from gsjax.starvation.ensemble import Ensemble, elasticity, ensemble
from gsjax.starvation.trajectory import Trajectory, trajectory

__all__ = [
    "Ensemble",
    "PhaseDiagram",
    "Trajectory",
    "elasticity",
    "ensemble",
    "matrix",
    "orient",
    "phase_diagram",
    "pulls",
    "sensitivity",
    "share",
    "structures",
    "trajectory",
]
