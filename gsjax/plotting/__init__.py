"""Every figure of the project; the only package that imports matplotlib.

Figures are objects of their own: pyplot and its global state stay untouched, and no display is needed. Every
function draws into the axes that it is given, or into a new figure, and returns the axes. Lines use the palette of
Okabe and Ito; signs are blue and red around white. Both can be told apart by readers with any colour vision, and what
colour says, a mark, a dash, a width or a word says again.
"""

from matplotlib.figure import Figure

from gsjax.plotting._save import save
from gsjax.plotting._style import OKABE_ITO, panels
from gsjax.plotting.dynamics import courses, paths, plane, starvation_over_time, trajectories
from gsjax.plotting.grids import phase_diagram, sign_map
from gsjax.plotting.practice import against, categories, curves, decision_boundary, error_against_width
from gsjax.plotting.spectra import spectrum, starvation

__all__ = [
    "OKABE_ITO",
    "Figure",
    "against",
    "categories",
    "courses",
    "curves",
    "decision_boundary",
    "error_against_width",
    "panels",
    "paths",
    "phase_diagram",
    "plane",
    "save",
    "sign_map",
    "spectrum",
    "starvation",
    "starvation_over_time",
    "trajectories",
]
