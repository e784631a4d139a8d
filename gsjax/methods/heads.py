"""The last layer of a trained network: which parameters it has, and its fit to other examples, balanced over groups."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, Real

from gsjax import _check
from gsjax.methods.protocol import Batch, State, check_batch, predict
from gsjax.methods.terms import classes, members
from gsjax.networks import stages

__all__ = ["Refit", "last_layer", "refit"]

_FEW = 16  # examples on which the form of the last layer is checked


class Refit(NamedTuple):
    """A state with a new last layer, and how the solver ended.

    `objective` is what `refit` minimises. `gradient` is the largest entry of its gradient, projected where the penalty
    has a kink, relative to that at weights of zero, after `steps` steps. `converged` says whether it is within the
    tolerance.
    """

    state: State
    objective: float
    gradient: float
    steps: int
    converged: bool


def last_layer(
    network: nn.Module, variables: dict[str, Any], x: Real[Array, "n ..."] | jax.ShapeDtypeStruct
) -> PyTree[bool]:
    """Which parameters belong to the last layer, as Python bools in the structure of `variables["params"]`.

    They are those that the last stage does not depend on. In a network whose stages are the outputs of all its modules,
    the last stage can be the output itself; the stage before it counts then.

    Raises:
        ValueError: every stage depends on all parameters.

    >>> from gsjax import networks
    >>> network, x = networks.MLP((8, 4)), jnp.ones((5, 3))
    >>> last_layer(network, network.init(jax.random.key(0), x), x)
    {'W1': {'kernel': False}, 'W2': {'kernel': False}, 'W3': {'kernel': True}}
    """
    return _last(network, variables, x)[1]


def refit(
    network: nn.Module,
    state: State,
    batch: Batch,
    *,
    groups: int,
    l1: float = 0.0,
    l2: float = 0.0,
    tolerance: float = 1e-6,
    max_steps: int = 10_000,
    batch_size: int = 256,
) -> Refit:
    r"""Fits a new last layer on a batch, balanced over groups: DFR of Kirichenko et al. 2023 for any trained network.

    .. math::

        \min_{W, b} \; \frac{1}{G} \sum_g L_g + l_1 \sum |W| + \frac{l_2}{2} \sum W^2, \qquad \text{outputs } z W + b,

    with L_g the mean loss of the examples of group g in nats, and G the number of groups that have examples. z are the
    inputs of the last layer in evaluation mode, minus their mean and divided by their standard deviation over the batch
    if that is not zero. The bias has no penalty; a last layer without bias takes inputs that are not centred. Held-out
    examples with groups give DFR_Tr^Val, the training data DFR_Tr^Tr.

    As in the paper, the penalty is l1 on standardised inputs; its C corresponds to l1 = 1 / (C n) for a subset of n
    examples. The paper averages the solutions of several balanced subsets; here the loss is its mean over them. The
    problem is convex, so neither the start nor the optimiser plays a role. It is solved in double precision by L-BFGS
    with bounds (`scipy.optimize`), one network at a time, not under `jit`. Without penalty, groups that a linear layer
    can separate have no minimum, and the solver does not converge.

    Args:
        network: a network with a linear last layer, which `last_layer` selects.
        state: a state of any method with this network; the main learner's last layer is replaced.
        batch: examples with groups.
        groups: the number of groups; `batch.group (n,)` counts from 0.
        l1: zero or above.
        l2: zero or above.
        tolerance: on the largest entry of the gradient, relative to that at zero, in (0, 1).
        max_steps: the maximal number of steps; if it is reached, `converged` is false.
        batch_size: how many examples the network takes at a time.

    Raises:
        ValueError: an option out of range; groups missing or out of range; labels that do not fit; a network without
            parameters after its stages, or whose last layer is not linear.

    >>> import optax
    >>> from gsjax import methods, networks
    >>> network, x = networks.FullyConnected((8,)), jnp.array([[0.0], [1.0], [2.0]])
    >>> batch = Batch(x, jnp.array([-1.0, 1.0, -1.0]), group=jnp.array([0, 1, 0]))
    >>> state = methods.get("erm")(network, optax.sgd(0.1)).init(jax.random.key(0), batch)
    >>> refit(network, state, batch, groups=2, l2=0.1).converged
    True
    """
    check_batch("batch", batch)
    groups = _check.whole("groups", groups, least=1)
    _check.number("l1", l1, "[0, inf)")
    _check.number("l2", l2, "[0, inf)")
    _check.number("tolerance", tolerance, "(0, 1)")
    max_steps, batch_size = (
        _check.whole(name, value, least=1) for name, value in (("max_steps", max_steps), ("batch_size", batch_size))
    )
    _check.floating("x", batch.x)
    x = jnp.asarray(batch.x)
    variables = {"params": state.params, **state.collections}
    position, last = _last(network, variables, x)

    def one(x: Array) -> tuple[Array, Array]:
        logits, found = stages.apply(network, variables, x[None], (position,))
        return logits[0], found[position][0]

    logits, inputs = lax.map(one, x, batch_size=min(batch_size, len(x)))
    label, _ = classes(logits, batch.y)
    group = np.asarray(members("group", batch.group, len(x), groups))
    h = np.asarray(inputs, float).reshape(len(x), -1)
    sizes = np.bincount(group)[group]
    weight = 1 / sizes / len(np.unique(group))

    head = _Head(network, state, last, h.shape[1], logits.shape[1] if logits.ndim == 2 else 1)
    mean = h.mean(axis=0) * head.has_bias
    scale = np.where(h.std(axis=0) > 0, h.std(axis=0), 1)
    kernel, bias, ended = _regression(
        (h - mean) / scale,
        np.asarray(label),
        weight,
        head.outputs,
        head.has_bias,
        l1=float(l1),
        l2=float(l2),
        tolerance=float(tolerance),
        max_steps=max_steps,
    )
    kernel = kernel / scale[:, None]
    fitted = head.fitted(kernel, bias - mean @ kernel, x[:_FEW], h[:_FEW])
    return Refit(fitted, *ended)


def _last(
    network: nn.Module, variables: dict[str, Any], x: Real[Array, "n ..."] | jax.ShapeDtypeStruct
) -> tuple[str, PyTree[bool]]:
    """The name of the stage before the last layer, and which parameters belong to the last layer."""
    for position in reversed(stages.names(network, x)):
        before = stages.upto(network, variables, x, position)
        if not all(jax.tree.leaves(before)):
            return position, jax.tree.map(lambda take: not take, before)
    got = f"{type(network).__name__} without"
    raise ValueError(f"network: expected parameters after one of its stages, got {got}")


class _Head:
    """A linear last layer: the params of a state as a function of its kernel and bias."""

    def __init__(self, network: nn.Module, state: State, last: PyTree[bool], inputs: int, outputs: int) -> None:
        self.network, self.state, self.outputs = network, state, outputs
        self.leaves, self.structure = jax.tree.flatten(state.params)
        chosen = [number for number, take in enumerate(jax.tree.leaves(last)) if take]
        kernels = [number for number in chosen if self.leaves[number].shape == (inputs, outputs)]
        self.biases = [number for number in chosen if self.leaves[number].shape == (outputs,)]
        self.require(len(kernels) == 1 and len(self.biases) <= 1 and len(kernels) + len(self.biases) == len(chosen))
        self.kernel, self.has_bias = kernels[0], len(self.biases) == 1

    def require(self, good: Any) -> None:
        _check.require(good, "network", "a linear layer after its last stage", type(self.network).__name__)

    def changed(self, kernel: Any, bias: Any) -> State:
        """The state with this kernel and this bias, or parts of them that broadcast."""
        leaves = list(self.leaves)
        for number, value in ((self.kernel, kernel), *((number, bias) for number in self.biases)):
            leaves[number] = jnp.broadcast_to(jnp.asarray(value, leaves[number].dtype), leaves[number].shape)
        return self.state._replace(params=jax.tree.unflatten(self.structure, leaves))

    def fitted(self, kernel: np.ndarray, bias: np.ndarray, x: Array, h: np.ndarray) -> State:
        """The state whose outputs are h @ kernel + bias, up to factors in the network, read from its outputs for x."""

        def outputs(state: State) -> np.ndarray:
            return np.asarray(predict(self.network, state, x), float).reshape(len(x), -1)

        sums = np.repeat(h.sum(axis=1, keepdims=True), self.outputs, axis=1)
        factor = (sums * outputs(self.changed(1, 0))).sum() / np.maximum(np.square(sums).sum(), np.finfo(float).tiny)
        shift = outputs(self.changed(0, 1)).mean()
        self.require(factor != 0 and (shift != 0 or not self.has_bias))
        state = self.changed(kernel / factor, bias / shift if self.has_bias else bias)
        wanted = h @ kernel + bias
        self.require(np.allclose(outputs(state), wanted, rtol=0, atol=1e-2 * max(1, np.abs(wanted).max())))
        return state


class _Ended(NamedTuple):
    """The last fields of `Refit`."""

    objective: float
    gradient: float
    steps: int
    converged: bool


def _regression(
    z: Float[np.ndarray, "n d"],
    label: Int[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
    outputs: int,
    has_bias: bool,
    *,
    l1: float,
    l2: float,
    tolerance: float,
    max_steps: int,
) -> tuple[Float[np.ndarray, "d k"], Float[np.ndarray, " k"], _Ended]:
    """Logistic regression: kernel, bias, and how the solver ended."""
    n, shape = len(z), (z.shape[1], outputs)
    size = shape[0] * shape[1]
    aims = label[:, None].astype(float) if outputs == 1 else np.eye(outputs)[label]

    def value_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        up, down, bias = np.split(point, [size, 2 * size])
        kernel = (up - down).reshape(shape)
        logits = z @ kernel + bias
        if outputs == 1:
            loss, probabilities = np.logaddexp(0, (1 - 2 * aims) * logits)[:, 0], scipy.special.expit(logits)
        else:
            logarithms = scipy.special.log_softmax(logits, axis=1)
            loss, probabilities = -logarithms[np.arange(n), label], np.exp(logarithms)
        slope = weight[:, None] * (probabilities - aims)
        by_kernel = (z.T @ slope + l2 * kernel).ravel()
        value = weight @ loss + l1 * (up + down).sum() + l2 / 2 * np.square(kernel).sum()
        return value, np.concatenate([by_kernel + l1, l1 - by_kernel, slope.sum(axis=0)])

    # The kernel is the difference of two parts above zero, so that l1 has no kink. Without l1 one part suffices.
    sizes = [size, size, outputs]
    low = np.repeat([0.0 if l1 > 0 else -np.inf, 0.0, -np.inf if has_bias else 0.0], sizes)
    high = np.repeat([np.inf, np.inf if l1 > 0 else 0.0, np.inf if has_bias else 0.0], sizes)

    def projected(point: np.ndarray) -> float:
        return float(np.abs(point - np.clip(point - value_and_gradient(point)[1], low, high)).max())

    start = np.zeros(2 * size + outputs)
    first = projected(start)
    found = scipy.optimize.minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options={"maxiter": max_steps, "maxfun": 20 * max_steps, "maxcor": 20, "ftol": 0, "gtol": tolerance * first},
    )
    up, down, bias = np.split(found.x, [size, 2 * size])
    last = projected(found.x)
    relative = last / first if first > 0 else 0.0
    ended = _Ended(float(found.fun), relative, int(found.nit), relative <= tolerance)
    return (up - down).reshape(shape), bias, ended
