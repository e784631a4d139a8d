"""Finite width against theory: networks trained to their optimum over widths, depths, penalties and seeds.

One program trains all seeds of a width and depth, under any penalty and strength, and is compiled once. Seeds are
spread over the devices of a mesh with `jax.shard_map`, the successor of `jax.pmap`: every device trains its own, with
no communication, so that the time a seed takes does not depend on how many devices there are.

The same call serves a laptop and a pod. Where `jax.distributed` has been initialised, every process makes it with the
same arguments; the mesh spans all their devices, and process 0 keeps the records.

What is measured (Pezeshki et al. 2021, Eqs. 3, 5, 9, 11, 17): the responses of the trained networks against the
equilibrium z* of the dual dynamics, for the features of the same network at initialisation and for those of the limit
of infinite width; how far the tangent kernel has moved; and how much a feature's response changes with the strength
of another (Definition 2) in networks that are trained anew. Outputs and parameters are centred at initialisation.
"""

from gsjax.sweeps.grid import Cell, Sweep, cells
from gsjax.sweeps.retrained import Starvation, starvation
from gsjax.sweeps.rows import program, run
from gsjax.sweeps.tables import READINGS, against_width

__all__ = ["READINGS", "Cell", "Starvation", "Sweep", "against_width", "cells", "program", "run", "starvation"]
