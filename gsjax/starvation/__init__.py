"""Gradient starvation: how the response to one feature changes with the strength of another."""

from gsjax.starvation import structures
from gsjax.starvation.definition import matrix, orient, pulls, sensitivity, share
from gsjax.starvation.diagram import PhaseDiagram, phase_diagram
from gsjax.starvation.ensemble import Ensemble, elasticity, ensemble
from gsjax.starvation.matrix_free import OperatorMatrix, matrix_from_operator
from gsjax.starvation.trajectory import Trajectory, trajectory

__all__ = [
    "Ensemble",
    "OperatorMatrix",
    "PhaseDiagram",
    "Trajectory",
    "elasticity",
    "ensemble",
    "matrix",
    "matrix_from_operator",
    "orient",
    "phase_diagram",
    "pulls",
    "sensitivity",
    "share",
    "structures",
    "trajectory",
]
