"""The protocol of the methods: their inputs and outputs, and the networks in their state.

A network is a flax.linen module. Its outputs are `(n,)`, one logit for class +1 against -1, or `(n, k)`, the logits of
k classes. If its `__call__` takes `train`, updates pass True. Dropout draws from the rng "dropout", and collections
other than "params", such as "batch_stats", are carried from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int, Key, PyTree, Real

from gsjax import _check

__all__ = [
    "Batch",
    "Info",
    "Learner",
    "Method",
    "State",
    "check_batch",
    "check_common",
    "check_logits",
    "check_optimizer",
    "checked",
    "map_learners",
    "predict",
]


class Batch(NamedTuple):
    """Examples with their labels and optional annotations; fields that the method does not need may be None.

    `x` is `(n, ...)`. `y (n,)` is -1 and +1 for a network with outputs `(n,)`, and class indices for outputs `(n, k)`.
    `group`, `environment` and `index` (the position of an example in the data set) are whole numbers `(n,)`.
    `teacher_logits` has the shape of the outputs, and `teacher_features` that of a stage of the network.
    """

    x: Real[Array, "n ..."]
    y: Real[Array, " n"]
    group: Int[Array, " n"] | None = None
    environment: Int[Array, " n"] | None = None
    index: Int[Array, " n"] | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
    teacher_logits: Float[Array, "n ..."] | None = None
    teacher_features: Float[Array, "n ..."] | None = None


class Learner(NamedTuple):
    """A network that a method trains, or one that it only evaluates (a teacher), which has no optimiser state.

    It consists of the network's `params`, its other `collections`, the state of its `optimizer`, and the `key` from
    which dropout draws. `init_learner` makes a learner, and `minimise` trains it.
    """

    params: PyTree
    collections: dict[str, Any] = {}  # noqa: RUF012 (replaced, never changed)
    optimizer: PyTree = None
    key: Key[Array, ""] | None = None


class State(NamedTuple):
    """The state that training carries from step to step.

    The main learner is the network that predicts. Its fields are at the top: `params`, `collections`, `optimizer` and
    `key`, as in `Learner`. `others` holds further learners of the method by name. `step` is the number of updates so
    far. `memory` holds anything else that the method keeps, and is `()` if it keeps nothing.
    """

    params: PyTree
    collections: dict[str, Any]
    optimizer: PyTree
    step: Int[Array, ""]
    key: Key[Array, ""]
    memory: PyTree
    others: dict[str, Learner] = {}  # noqa: RUF012 (replaced, never changed)

    @property
    def main(self) -> Learner:
        """The learner of the network that predicts."""
        return Learner(self.params, self.collections, self.optimizer, self.key)

    @property
    def learners(self) -> dict[str, Learner]:
        """All learners by name; the one that predicts is "main"."""
        return {"main": self.main, **self.others}

    def with_learners(self, **learners: Learner) -> State:
        """The state with these `learners`, which replace those of the same names."""
        changed = {**self.learners, **learners}
        return self._replace(**changed.pop("main")._asdict(), others=changed)

    def stepped(self, **learners: Learner) -> State:
        """The state after an update: with these `learners`, and `step` increased by one."""
        return self.with_learners(**learners)._replace(step=self.step + 1)


class Info(NamedTuple):
    """Values on the batch of a step, at the params before the step.

    `objective` is what the step lowers, including weight decay. `loss` is the classification loss, in nats if it is
    cross-entropy, a mean over examples (in `irm` and `vrex`, over environments). `penalty` is the method's own, or 0.
    """

    objective: Float[Array, ""]
    loss: Float[Array, ""]
    penalty: Float[Array, ""]


class Method(NamedTuple):
    """A training method: the pure functions `init(key, batch) -> state` and `update(state, batch) -> (state, info)`.

    `init` takes one batch or all data, to learn their shapes. It also checks their values, which a compiled `update`
    cannot do, and raises a `ValueError` that names the wrong field.
    """

    init: Callable[[Key[Array, ""], Batch], State]
    update: Callable[[State, Batch], tuple[State, Info]]


def predict(
    network: nn.Module, state: State | Learner, x: Real[Array, "n ..."]
) -> Float[Array, " n"] | Float[Array, "n k"]:
    """The outputs, `(n,)` or `(n, k)`, of a learner for x `(n, ...)`, outside training mode.

    For a `State`, the main learner predicts.

    >>> import optax, jax.numpy as jnp
    >>> from gsjax import methods, networks
    >>> network, x = networks.MLP((4,)), jnp.ones((3, 2))
    >>> state = methods.erm.erm(network, optax.sgd(0.1)).init(jax.random.key(0), Batch(x, jnp.ones(3)))
    >>> predict(network, state, x).shape
    (3,)
    """
    logits: Any = network.apply({"params": state.params, **state.collections}, x)
    check_logits(logits, len(x))
    return logits


def map_learners(change: Callable[[Learner], Learner], state: State) -> State:
    """The state with `change` applied to each of its learners, for any method.

    >>> import optax, jax.numpy as jnp
    >>> from gsjax import methods, networks
    >>> lff = methods.get("lff")(networks.MLP((4,)), optax.sgd(0.1))
    >>> state = lff.init(jax.random.key(0), Batch(jnp.ones((3, 2)), jnp.ones(3)))
    >>> state = map_learners(lambda learner: learner._replace(params=optax.tree.zeros_like(learner.params)), state)
    >>> {name: float(optax.tree.norm(learner.params)) for name, learner in state.learners.items()}
    {'main': 0.0, 'biased': 0.0}
    """
    return state.with_learners(**{name: change(learner) for name, learner in state.learners.items()})


def check_common(network: Any, optimizer: Any, weight_decay: Any) -> None:
    """Checks the arguments that all constructors share.

    Raises:
        ValueError: `network` is not a flax.linen module, `optimizer` is not an optax optimiser, or `weight_decay` is
            not a number >= 0.
    """
    is_module = isinstance(network, nn.Module)
    _check.require(is_module, "network", "a flax.linen module", _class(network))
    check_optimizer("optimizer", optimizer)
    _check.number("weight_decay", weight_decay, "[0, inf)")


def check_optimizer(name: str, optimizer: Any) -> None:
    """Checks that `optimizer` is an optax optimiser."""
    is_optimizer = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    _check.require(is_optimizer, name, "an optax optimiser, such as optax.adam(1e-3)", _class(optimizer))


def check_batch(name: str, batch: Any) -> None:
    """Checks that `batch` is a `Batch`."""
    _check.require(isinstance(batch, Batch), name, "a gsjax.methods.Batch(x, y)", _class(batch))


def check_logits(logits: Any, n: int) -> None:
    """Checks that the outputs of a network are `(n,)` or `(n, k)`.

    Raises:
        ValueError: they have another shape, are not one array, or are not floating point.
    """
    _check.outputs("network", _check.output("network", logits), n, classes=True)


def checked(
    init: Callable[[Key[Array, ""], Batch], State], update: Callable[[State, Batch], tuple[State, Info]]
) -> Method:
    """The method with this `init` and `update`; its `init` also raises the errors that `update` would raise."""

    def init_checked(key: Key[Array, ""], batch: Batch) -> State:
        state = init(key, batch)
        if _check.is_concrete(batch):
            jax.eval_shape(
                lambda state: update(state, batch), state
            )  # only the state is traced, so the checks see the values of the batch
        return state

    return Method(init_checked, update)


def _class(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
