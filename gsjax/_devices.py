"""Distribution of seeds over the devices of a mesh, and communication between the processes of a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from gsjax import _check

__all__ = ["AXIS", "batched", "from_process_0", "gathered", "over_devices", "over_seeds", "padded"]

AXIS = "seeds"


def over_seeds(one: Callable[[Any, Any], Any], mesh: Mesh, seeds: PyTree, shared: PyTree) -> PyTree:
    """`one(seed, shared)` for every seed, distributed over the devices of the mesh."""

    def local(seeds: PyTree, shared: PyTree) -> PyTree:
        # In reduced precision, the default of accelerators, training stops short of the optimum.
        with jax.default_matmul_precision("highest"):
            if batched(mesh):
                return jax.vmap(one, in_axes=(0, None))(seeds, shared)
            return lax.map(lambda seed: one(seed, shared), seeds)

    spread, whole = PartitionSpec(AXIS), PartitionSpec()
    # Nothing is communicated. The loops' carry starts from constants that do not vary over the mesh, which the check
    # would refuse.
    shards = jax.shard_map(local, mesh=mesh, in_specs=(spread, whole), out_specs=spread, check_vma=False)
    return shards(seeds, shared)


def batched(mesh: Mesh) -> bool:
    """Whether a device trains its seeds as a batch; a CPU is faster with one seed after another."""
    return mesh.devices.flat[0].platform != "cpu"


def padded(seeds: int, mesh: Mesh) -> int:
    """The number of seeds, rounded up to a multiple of the number of devices."""
    devices = mesh.shape[AXIS]
    return -(-seeds // devices) * devices


def over_devices(mesh: Mesh | None) -> Mesh:
    """The given mesh, checked; by default a mesh of all devices of all processes.

    Raises:
        ValueError: `mesh` is not a mesh, or has no axis "seeds".
    """
    if mesh is None:
        return Mesh(np.array(jax.devices()), (AXIS,))
    _check.require(isinstance(mesh, Mesh), "mesh", "a jax.sharding.Mesh or None", type(mesh).__name__)
    _check.require(AXIS in mesh.axis_names, "mesh", f"an axis {AXIS!r}", mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names)  # drops explicit axis types: shardings are chosen here


def gathered(tree: PyTree, seeds: int) -> Any:
    """The first `seeds` entries of arrays that are sharded over the devices, on the host of every process."""
    return jax.tree.map(lambda leaf: leaf[:seeds], multihost_utils.process_allgather(tree, tiled=True))


def from_process_0(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of process 0, in every process."""
    if jax.process_count() == 1:
        return rows
    text = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    return json.loads(multihost_utils.broadcast_one_to_all(np.resize(text, size)).tobytes())
