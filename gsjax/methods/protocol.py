"""The protocol of the methods: what they take and give, and the networks that their state carries.

A network is a flax.linen module with outputs `(n,)`, one logit for the class +1 against -1, or `(n, k)`, logits of k
classes. Where its `__call__` takes `train`, updates call it with True: dropout draws from the rng collection
"dropout", and collections beside "params", such as "batch_stats", are carried from step to step.
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
    "checked",
    "map_learners",
    "predict",
]


class Batch(NamedTuple):
    """Examples, and what is known of them; None where a method does not ask for it.

    `x (n, ...)`; `y (n,)`, -1 and +1 for a network with outputs `(n,)`, class indices for one with outputs `(n, k)`;
    `group`, `environment` and `index` (the example's number in the data set), whole numbers `(n,)`; `teacher_logits`,
    of the shape of the outputs.
    """

    x: Real[Array, "n ..."]
    y: Real[Array, " n"]
    group: Int[Array, " n"] | None = None
    environment: Int[Array, " n"] | None = None
    index: Int[Array, " n"] | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
    teacher_logits: Float[Array, "n ..."] | None = None


class Learner(NamedTuple):
    """A network that a method trains, or, without a state of the optimiser, one that it only asks (a teacher).

    The network's `params` and its other `collections`, the `optimizer`'s own state, and the `key` from which dropout
    draws. `init_learner` makes one, `minimise` trains it.
    """

    params: PyTree
    collections: dict[str, Any] = {}  # noqa: RUF012 (replaced, never changed)
    optimizer: PyTree = None
    key: Key[Array, ""] | None = None


class State(NamedTuple):
    """What training carries from step to step.

    The main learner, the network that predicts, has its fields at the top: `params`, `collections`, `optimizer` and
    `key`, as in `Learner`. Further learners of the method are in `others`, by name. Beside them are the number of the
    `step` and the method's own `memory`, which is no network, `()` where it keeps none.
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
        """All learners by name, the one that predicts as "main"."""
        return {"main": self.main, **self.others}

    def with_learners(self, **learners: Learner) -> State:
        """The state with these `learners`, in place of those of the same names where there are any."""
        changed = {**self.learners, **learners}
        return self._replace(**changed.pop("main")._asdict(), others=changed)

    def stepped(self, **learners: Learner) -> State:
        """The state after an update: with these `learners`, and the step counted."""
        return self.with_learners(**learners)._replace(step=self.step + 1)


class Info(NamedTuple):
    """How the params before the step stood on its batch.

    The `objective`, which the step was to lower, weight decay included; the `loss`, the mean over examples (in `irm`
    and `vrex`: over environments) of the classification loss in nats; the method's own `penalty`, 0 where it has none.
    """

    objective: Float[Array, ""]
    loss: Float[Array, ""]
    penalty: Float[Array, ""]


class Method(NamedTuple):
    """A way of training: `init(key, batch) -> state` and `update(state, batch) -> (state, info)`, pure functions.

    `init` takes one batch, or all data, for their shapes. It also checks their values, which a compiled `update` can
    not: a `ValueError` names what is wrong.
    """

    init: Callable[[Key[Array, ""], Batch], State]
    update: Callable[[State, Batch], tuple[State, Info]]


def predict(
    network: nn.Module, state: State | Learner, x: Real[Array, "n ..."]
) -> Float[Array, " n"] | Float[Array, "n k"]:
    """The outputs, `(n,)` or `(n, k)`, of a learner for x `(n, ...)`, of the main one of a `state`.

    The network is not in training mode.

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
    """The state after `change` of each of its learners, whatever the method.

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
    """Checks what every constructor takes.

    Raises:
        ValueError: `network` is no flax.linen module, `optimizer` none of optax, or `weight_decay` no number, 0 or
            above.
    """
    is_module = isinstance(network, nn.Module)
    _check.require(is_module, "network", "a flax.linen module", _class(network))
    is_optimizer = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    _check.require(is_optimizer, "optimizer", "an optimiser of optax, such as optax.adam(1e-3)", _class(optimizer))
    _check.number("weight_decay", weight_decay, "[0, inf)")


def check_batch(name: str, batch: Any) -> None:
    """`batch` is a `Batch`."""
    _check.require(isinstance(batch, Batch), name, "a gsjax.methods.Batch(x, y)", _class(batch))


def check_logits(logits: Any, n: int) -> None:
    """Checks that a network gave outputs `(n,)` or `(n, k)`.

    Raises:
        ValueError: they are of another shape, not in one array, or not in floating point.
    """
    _check.outputs("network", _check.output("network", logits), n, classes=True)


def checked(
    init: Callable[[Key[Array, ""], Batch], State], update: Callable[[State, Batch], tuple[State, Info]]
) -> Method:
    """The method of `init` and `update`, whose `init` raises whatever `update` would on the same batch."""

    def init_checked(key: Key[Array, ""], batch: Batch) -> State:
        state = init(key, batch)
        if _check.is_concrete(batch):
            jax.eval_shape(lambda state: update(state, batch), state)  # the values of the batch stay in sight
        return state

    return Method(init_checked, update)


def _class(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
