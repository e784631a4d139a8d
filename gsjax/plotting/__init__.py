"""All figures of the project; the only package that imports matplotlib.

The functions use neither pyplot nor its global state, and need no display. Every function draws into given axes, or
into a new figure, and returns the axes. Lines use the palette of Okabe and Ito, and signs are blue and red around
white; both work with any colour vision. A marker, dash, line width or word repeats what colour shows.
"""

from matplotlib.figure import Figure

from gsjax.plotting._save import save
from gsjax.plotting._style import OKABE_ITO, panels
from gsjax.plotting.diagnosis import alignments, pictures, responses
from gsjax.plotting.dynamics import courses, paths, plane, starvation_over_time, trajectories
from gsjax.plotting.examples import depths, saliency_maps
from gsjax.plotting.grids import phase_diagram, sign_map
from gsjax.plotting.monitoring import monitor
from gsjax.plotting.practice import against, categories, curves, decision_boundary, error_against_width
from gsjax.plotting.spectra import spectrum, starvation

__all__ = [
    "OKABE_ITO",
    "Figure",
    "against",
    "alignments",
    "categories",
    "courses",
    "curves",
    "decision_boundary",
    "depths",
    "error_against_width",
    "monitor",
    "panels",
    "paths",
    "phase_diagram",
    "pictures",
    "plane",
    "responses",
    "saliency_maps",
    "save",
    "sign_map",
    "spectrum",
    "starvation",
    "starvation_over_time",
    "trajectories",
]
