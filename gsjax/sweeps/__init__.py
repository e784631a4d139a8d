"""Finite width against theory: networks trained to their optimum over widths, depths, penalties and seeds.

One program per width and depth trains all seeds, under any penalty and strength, and is compiled once. `jax.shard_map`
distributes the seeds over the devices of a mesh. Devices do not communicate, so the time per seed does not depend on
their number.

The same call works on a laptop and on a pod. If `jax.distributed` has been initialised, every process must make the
call with the same arguments. The mesh then spans the devices of all processes, and process 0 keeps the records.

A sweep measures (Pezeshki et al. 2021, Eqs. 3, 5, 9, 11, 17)

- the responses of the trained networks against the equilibrium z* of the dual dynamics, for the features of the same
  network at initialisation and for those of the infinite-width limit;
- the change of the tangent kernel during training;
- the change of a feature's response with the strength of another feature (Definition 2) in retrained networks.

Outputs and parameters are centred at initialisation.
"""

from gsjax.sweeps.grid import Cell, Sweep, cells
from gsjax.sweeps.retrained import Starvation, starvation
from gsjax.sweeps.rows import program, run
from gsjax.sweeps.tables import READINGS, against_width

__all__ = ["READINGS", "Cell", "Starvation", "Sweep", "against_width", "cells", "program", "run", "starvation"]
