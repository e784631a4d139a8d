"""Gradient starvation: how the response to one feature changes with the strength of another."""

from gsjax.starvation.definition import matrix, orient, sensitivity
from gsjax.starvation.diagram import PhaseDiagram, phase_diagram

__all__ = ["PhaseDiagram", "matrix", "orient", "phase_diagram", "sensitivity"]
