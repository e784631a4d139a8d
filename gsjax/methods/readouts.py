"""Readouts of a stage of the network that a method trains: the parts that `dedier` and `sieve` share."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, Real

from gsjax import _check
from gsjax.methods.protocol import Learner, predict
from gsjax.methods.steps import init_learner
from gsjax.networks import Readout, stages

__all__ = ["check_readout", "fitting", "init_readout", "readout_of"]


def check_readout(position: object, readout: object) -> None:
    """Checks the options of a constructor that need no data.

    Raises:
        ValueError: `position` is not a string; `readout` is neither a flax.linen module nor None.
    """
    _check.require(isinstance(position, str), "position", "the name of a stage", repr(position))
    got = f"the class {readout.__name__}" if isinstance(readout, type) else type(readout).__name__
    _check.require(readout is None or isinstance(readout, nn.Module), "readout", "a flax.linen module, or None", got)


def fitting(
    network: nn.Module,
    learner: Learner,
    x: Real[Array, "n ..."],
    position: str,
    readout: nn.Module | None,
    *,
    depth: int,
    width: int,
    pooled: bool,
) -> tuple[nn.Module, jax.ShapeDtypeStruct]:
    """The readout of the stage `position`, whose outputs have the shape of the network's, and the shape of the stage.

    Nothing is computed. None makes a `networks.Readout` with this `depth`, `width` and `pooled`.

    Raises:
        ValueError: `position` is not a stage of the network; a `readout` that has no parameters, or whose outputs for
            the stage have another shape than those of the network.
    """
    examples = jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    known = stages.names(network, examples)
    _check.require(position in known, "position", f"one of the stages {', '.join(known)}", repr(position))

    def both(learner: Learner, x: Array) -> tuple[Array, Array]:
        variables = {"params": learner.params, **learner.collections}
        return predict(network, learner, x), stages.apply(network, variables, x, (position,))[1][position]

    outputs, stage = jax.eval_shape(both, learner, examples)
    whose = "that of the network's"
    return readout_of(stage, outputs.shape, whose, readout, depth=depth, width=width, pooled=pooled), stage


def readout_of(
    stage: jax.ShapeDtypeStruct,
    shape: tuple[int, ...],
    whose: str,
    readout: nn.Module | None,
    *,
    depth: int,
    width: int,
    pooled: bool,
) -> nn.Module:
    """The `readout`, whose outputs for a stage have this `shape`; None makes a `networks.Readout`.

    Raises:
        ValueError: a `readout` that has no parameters, or with outputs of another shape; the message says `whose` the
            shape is.
    """
    if readout is None:
        readout = Readout(shape[1] if len(shape) == 2 else 1, depth=depth, width=width, pooled=pooled)
    got, variables = jax.eval_shape(readout.init_with_output, jax.random.key(0), stage)
    _check.require("params" in variables, "readout", "a module with parameters", f"{type(readout).__name__} without")
    found = _check.output("readout", got)
    _check.outputs("readout", found, stage.shape[0], classes=True)
    _check.require(found == shape, "readout", f"outputs of shape {shape}, {whose}", f"shape {found}")
    return readout


def init_readout(
    readout: nn.Module, optimizer: optax.GradientTransformation, key: Key[Array, ""], stage: jax.ShapeDtypeStruct
) -> Learner:
    """A learner with a readout initialised from `key`, for a stage of this shape and dtype."""
    return init_learner(readout, optimizer, key, jnp.zeros((1, *stage.shape[1:]), stage.dtype))
