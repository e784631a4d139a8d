"""The training loops: all seeds in one compiled program on all devices, or one network on a stream of batches."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Key, PyTree

from gsjax import _check, progress
from gsjax._devices import AXIS, gathered, over_devices, over_seeds, padded
from gsjax.methods.protocol import Batch, Method, State, check_batch

__all__ = ["Run", "stream", "train"]

_UPDATES = 50  # how often the progress bar moves; the steps are divided into as many program calls


class Run(NamedTuple):
    """The result of training, on the host.

    `state` is the final state; its leaves have a leading axis of seeds. `steps (T,)` are the recorded steps. `records`
    has leaves `(seeds, T, ...)`, and is None without `evaluate`. `finite` tells which seeds had a finite objective at
    every step. `stream` trains one network, so its results have no axis of seeds.
    """

    state: State
    steps: Int[np.ndarray, " T"]
    records: PyTree
    finite: Bool[np.ndarray, "*seeds"]


class _Carry(NamedTuple):
    """The loop state of one seed; `order`, drawn from `key`, is that of the current epoch, None for full batches."""

    state: State
    key: Key[Array, ""]
    order: Int[Array, " n"] | None
    finite: Bool[Array, ""]


def train(
    method: Method,
    keys: Key[Array, " seeds"],
    data: Batch,
    *,
    steps: int,
    batch_size: int | None = None,
    record: Sequence[int] | None = None,
    evaluate: Callable[[State, Any], PyTree] | None = None,
    held_out: PyTree = None,
    per_seed: bool = False,
    mesh: Mesh | None = None,
    what: str = "training",
) -> Run:
    """Trains one network per key: `steps` updates of the `method`, in one compiled program over the seeds.

    Initialisation, order of examples and dropout depend only on the key of a seed. The number of seeds, the number of
    devices and the recorded steps do not change its results. On a CPU each device trains its seeds one after another;
    accelerators train them as a batch. A program is compiled once per method, shape of data and batch size.

    Args:
        method: a method from a constructor of this package, or any object with the same protocol.
        keys: typed keys, `(seeds,)`.
        data: all examples: `x (n, ...)`, shared by the seeds, or `x (seeds, n, ...)` if `per_seed`.
        steps: the number of updates.
        batch_size: the number of examples per update. Every epoch is a fresh permutation; the examples at its end that
            do not fill a batch are left out. None takes all n examples in their order at every update.
        record: the increasing numbers of updates after which `evaluate` is called, where 0 is the initialisation; by
            default only the end.
        evaluate: `evaluate(state, held_out)` -> pytree of arrays, for one seed; it is compiled.
        held_out: the second argument of `evaluate`, shared by the seeds, or with a leading axis of seeds if `per_seed`.
        per_seed: whether every seed has its own data.
        mesh: devices, with an axis "seeds"; by default all devices of all processes.
        what: label of the progress bar.

    Raises:
        ValueError: `keys` that are not typed keys `(seeds,)`; `steps`, `batch_size` or `record` out of range; data
            that are empty, of different lengths or, if `per_seed`, of different numbers of seeds; a mesh without the
            axis; the errors of the method's `init`.

    >>> import optax
    >>> from gsjax import methods, networks
    >>> network, x = networks.MLP((8,)), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> method = methods.get("erm")(network, optax.sgd(0.5))
    >>> run = train(method, jax.random.split(jax.random.key(0), 3), Batch(x, jnp.array([-1.0, 1.0])), steps=100,
    ...             record=[0, 100], evaluate=lambda state, x: methods.predict(network, state, x) > 0, held_out=x)
    >>> run.records[:, 1].tolist(), run.finite.tolist()
    ([[False, True], [False, True], [False, True]], [True, True, True])
    """
    typed = jnp.issubdtype(getattr(keys, "dtype", np.dtype(float)), jax.dtypes.prng_key) and keys.ndim == 1
    got = f"{getattr(keys, 'shape', '')} of {type(keys).__name__}"
    _check.require(typed and len(keys), "keys", "typed keys (seeds,)", got)
    no_function = evaluate is not None and not callable(evaluate)
    _check.require(not no_function, "evaluate", "a function of a state and held_out, or None", type(evaluate).__name__)
    check_batch("data", data)
    _check_method(method)
    steps, per_seed = _check.whole("steps", steps, least=1), _check.flag("per_seed", per_seed)
    points = _points(record, steps)
    seeds, mesh = len(keys), over_devices(mesh)
    n = _examples(method, keys, data, held_out, per_seed)
    if batch_size is not None:
        batch_size = _check.whole("batch_size", batch_size, least=1)
        _check.require(batch_size <= n, "batch_size", f"at most {n}, the number of examples", batch_size)

    # Devices without a seed of their own train a repeated one, which is dropped at the end.
    rows = np.arange(padded(seeds, mesh)) % seeds
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((AXIS,), ()))

    def placed(tree: PyTree) -> PyTree:
        # Placed once here, not at every call of a program.
        if not per_seed:
            return jax.device_put(tree, whole)
        return jax.device_put(tree if len(rows) == seeds else jax.tree.map(lambda leaf: leaf[rows], tree), spread)

    data, held_out = placed(data), placed(held_out)
    start, advance, measure = _programs()
    carry = start(method, mesh, per_seed, batch_size is not None, jax.device_put(keys[rows], spread), data)
    records = []

    def recorded(count: int) -> None:
        if evaluate is not None and count in points:
            records.append(gathered(measure(evaluate, mesh, per_seed, carry.state, held_out), seeds))

    recorded(0)
    pauses = sorted({*points, *range(0, steps, math.ceil(steps / _UPDATES)), 0, steps})
    segments = list(itertools.pairwise(pauses))
    for first, last in progress.track(segments, what) if jax.process_index() == 0 else segments:
        carry = advance(method, mesh, per_seed, batch_size, carry, data, np.int32(first), np.int32(last))
        jax.block_until_ready(carry.finite)
        recorded(last)
    return Run(
        _on_host(carry.state, seeds),
        np.array(points),
        jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *records) if records else None,
        gathered(carry.finite, seeds),
    )


def stream(
    method: Method,
    state: State,
    batches: Callable[..., Iterable[Batch]],
    *,
    epochs: int,
    steps: int,
    evaluate: Callable[[State], PyTree] | None = None,
    what: str = "training",
) -> Run:
    """Trains one network on batches that are read one after another, for data that do not fit into memory.

    An update is one compiled program, shared by all streams with the same method and shape of batch. It is dispatched
    to the device before the next batch is requested, so an iterator that prefetches keeps both busy.

    Args:
        method: a method from a constructor of this package, or any object with the same protocol.
        state: the initial state, from `method.init`, a file or an earlier stream; it is not changed.
        batches: `batches(epoch)` -> an iterable of the batches of an epoch; epochs count from 0. At most `steps`
            batches are requested per epoch.
        epochs: the number of epochs.
        steps: the number of updates per epoch.
        evaluate: `evaluate(state)` -> pytree of arrays, called after every epoch. It is not compiled, so it can read
            its own batches. It must not keep references to the state, whose memory later updates reuse.
        what: label of the progress bar.

    Returns:
        A `Run` without an axis of seeds: the final state; the number of updates after each epoch, `(epochs,)`; records
        `(epochs, ...)`; and whether the objective was finite at every step, a bool `()`.

    Raises:
        ValueError: `method` is not a method, or `state` not a state; `epochs` or `steps` below 1; an epoch with fewer
            batches than `steps`.

    >>> import optax
    >>> from gsjax import methods, networks
    >>> network, x = networks.MLP((8,)), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> method = methods.get("erm")(network, optax.sgd(0.5))
    >>> batch = Batch(x, jnp.array([-1.0, 1.0]))
    >>> run = stream(method, method.init(jax.random.key(0), batch), lambda epoch: [batch] * 50, epochs=2, steps=50,
    ...              evaluate=lambda state: methods.predict(network, state, x) > 0)
    >>> run.records[-1].tolist(), run.steps.tolist(), bool(run.finite)
    ([False, True], [50, 100], True)
    """
    _check_method(method)
    _check.require(isinstance(state, State), "state", "a state of the method", type(state).__name__)
    epochs, steps = _check.whole("epochs", epochs, least=1), _check.whole("steps", steps, least=1)
    update = _update()
    state, finite, records = jax.tree.map(jnp.copy, state), jnp.array(True), []  # updates donate their arguments
    for epoch in range(epochs):
        given = iter(batches(epoch))
        for done in progress.track(range(steps), f"{what}, epoch {epoch + 1} of {epochs}"):
            batch = next(given, None)
            if batch is None:
                raise ValueError(f"batches: expected {steps} in epoch {epoch}, got {done}")
            check_batch("batches", batch)
            state, finite = update(method, state, finite, batch)
        if evaluate is not None:
            records.append(jax.tree.map(np.array, evaluate(state)))
    return Run(
        _on_host(state),
        steps * np.arange(1, epochs + 1),
        jax.tree.map(lambda *leaves: np.stack(leaves), *records) if records else None,
        np.asarray(finite),
    )


@functools.cache
def _update() -> Callable[[Method, State, Array, Batch], tuple[State, Array]]:
    """The program of `stream`: an update, and whether all objectives so far were finite."""

    def update(method: Method, state: State, finite: Array, batch: Batch) -> tuple[State, Array]:
        state, info = method.update(state, batch)
        return state, finite & jnp.isfinite(info.objective)

    return jax.jit(update, static_argnames="method", donate_argnames=("state", "finite"))


def _check_method(method: Any) -> None:
    is_method = hasattr(method, "init") and hasattr(method, "update")
    expected = 'a method, such as methods.get("erm")(network, optimizer)'
    _check.require(is_method and not isinstance(method, optax.GradientTransformation), "method", expected, type(method))


@functools.cache
def _programs() -> tuple[Callable[..., _Carry], Callable[..., _Carry], Callable[..., PyTree]]:
    """The three programs of `train`: initialisation, a number of steps, and the evaluation of a state."""

    def start(method: Method, mesh: Mesh, per_seed: bool, epochs: bool, keys: Array, data: Batch) -> _Carry:
        def one(key: Array, data: Batch) -> _Carry:
            state_key, order_key = jax.random.split(key)
            order = jnp.arange(len(data.y)) if epochs else None
            return _Carry(method.init(state_key, data), order_key, order, jnp.array(True))

        return _map_seeds(one, mesh, per_seed, keys, data)

    def advance(
        method: Method,
        mesh: Mesh,
        per_seed: bool,
        batch_size: int | None,
        carry: _Carry,
        data: Batch,
        first: Array,
        last: Array,
    ) -> _Carry:
        def one(carry: _Carry, data: Batch, first: Array, last: Array) -> _Carry:
            return lax.fori_loop(first, last, functools.partial(_step, method, data, batch_size), carry)

        return _map_seeds(one, mesh, per_seed, carry, data, first, last)

    def measure(evaluate: Callable[[State, Any], PyTree], mesh: Mesh, per_seed: bool, state: State, held_out: PyTree):
        return _map_seeds(evaluate, mesh, per_seed, state, held_out)

    return (
        jax.jit(start, static_argnames=("method", "mesh", "per_seed", "epochs")),
        jax.jit(advance, static_argnames=("method", "mesh", "per_seed", "batch_size"), donate_argnames="carry"),
        jax.jit(measure, static_argnames=("evaluate", "mesh", "per_seed")),
    )


def _step(method: Method, data: Batch, batch_size: int | None, step: Array, carry: _Carry) -> _Carry:
    """One step of one seed, on a batch or on all data."""
    batch, order = data, carry.order
    if batch_size is not None:
        n = len(data.y)
        epoch, position = jnp.divmod(step, n // batch_size)
        # All seeds have the same step number, so this remains a branch when they are batched.
        order = lax.cond(
            position == 0,
            lambda: jax.random.permutation(jax.random.fold_in(carry.key, epoch), n),
            lambda: carry.order,
        )
        rows = lax.dynamic_slice(order, (position * batch_size,), (batch_size,))
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
    state, info = method.update(carry.state, batch)
    return _Carry(state, carry.key, order, carry.finite & jnp.isfinite(info.objective))


def _map_seeds(
    one: Callable[..., PyTree], mesh: Mesh, per_seed: bool, seeds: PyTree, data: PyTree, *shared: Array
) -> PyTree:
    """`one(seed, data, *shared)` for every seed, with its own data or shared data."""
    if per_seed:
        return over_seeds(lambda pair, shared: one(*pair, *shared), mesh, (seeds, data), shared)
    return over_seeds(lambda seed, shared: one(seed, *shared), mesh, seeds, (data, *shared))


def _points(record: Sequence[int] | None, steps: int) -> list[int]:
    """The checked numbers of steps after which to record."""
    points = [steps] if record is None else list(_check.wholes("record", record))
    increasing = points and points == sorted(set(points)) and points[0] >= 0 and points[-1] <= steps
    _check.require(increasing, "record", f"increasing whole numbers from 0 to {steps}", record)
    return points


def _examples(method: Method, keys: Array, data: Batch, held_out: PyTree, per_seed: bool) -> int:
    """Checks all data and returns the number of examples per seed."""
    axes = 2 if per_seed else 1
    expected = "(seeds, n, ...)" if per_seed else "(n, ...)"
    shape = jnp.shape(data.x)[:axes]
    _check.require(
        len(shape) == axes and 0 not in shape, "x", f"a non-empty array {expected}", f"shape {jnp.shape(data.x)}"
    )
    for name, value in data._asdict().items():
        if value is not None:
            got = jnp.shape(value)
            _check.require(got[:axes] == shape, name, f"{expected}, with {shape} as in x", f"shape {got}")
    if per_seed:
        for name, tree in (("data", data), ("held_out", held_out)):
            counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
            _check.require(counts <= {(len(keys),)}, name, f"{len(keys)} seeds on the first axis", counts)
        data = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), data)
    # Compiled programs cannot check values. Here only the network is traced, so `init` can check the data.
    jax.eval_shape(lambda key: method.init(key, data), keys[0])
    return shape[-1]


def _on_host(tree: PyTree, seeds: int | None = None) -> Any:
    """The arrays of `tree` on the host, keys included; if `seeds` is given, gathered from the devices and cut to it."""

    def typed(leaf: Array) -> bool:
        return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)

    bare = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if typed(leaf) else leaf, tree)
    return jax.tree.map(
        lambda leaf, bits: jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf)) if typed(leaf) else bits,
        tree,
        jax.device_get(bare) if seeds is None else gathered(bare, seeds),
    )
