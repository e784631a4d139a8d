"""The dual dynamics: vector field, trajectories, equilibrium, and closed forms."""

from gsjax.dual import closed_form
from gsjax.dual.equilibrium import Equilibrium, equilibrium
from gsjax.dual.integrate import Trajectory, integrate

__all__ = ["Equilibrium", "Trajectory", "closed_form", "equilibrium", "integrate"]
