"""The dual dynamics: vector field, trajectories, equilibrium, closed forms, and the choice of a penalty."""

from gsjax.dual import closed_form
from gsjax.dual.choosing import Match, decoupling_for, match
from gsjax.dual.equilibrium import Equilibrium, equilibrium
from gsjax.dual.integrate import Trajectory, integrate
from gsjax.dual.matrix_free import OperatorEquilibrium, equilibrium_from_operator

__all__ = [
    "Equilibrium",
    "Match",
    "OperatorEquilibrium",
    "Trajectory",
    "closed_form",
    "decoupling_for",
    "equilibrium",
    "equilibrium_from_operator",
    "integrate",
    "match",
]
