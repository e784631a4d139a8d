"""The program of the experiment `feature_contamination`: all networks of one shape, of every kind, in one program.

A run is a network with two layers on its own draw of the structured feature model, trained by full-batch SGD or AdamW.
What distinguishes runs (activation, loss, optimiser, whether the output layer is trained, numbers) is data, so all runs
of one shape are one compiled program. A device takes its runs one after another; then a branch is a real branch.

What it saves against `methods.train` on the same data, with which it agrees to rounding:

- SGD commutes with rotations, so weights are kept in the basis of the features; what is orthogonal to it only decays.
- AdamW does not. It needs all dimensions, but x = z basis, so the products with n examples are those of the features.
- With the identity as activation, f = (a^T W) x + ...: two products with a vector take the place of those with W.
- Each network's arrays stay in the cache, with examples on the fast axis, along which sums over neurons vectorise.

A step of the other networks is then little more than two matrix products, 4 n (features + 1) width operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from gsjax import methods
from gsjax.data import structured
from gsjax.networks import TwoLayer
from gsjax.networks.two_layer import ACTIVATIONS
from gsjax.probes import contamination

NAMES = tuple(ACTIVATIONS)
OPTIMIZERS = ("sgd", "adamw")


class Sizes(NamedTuple):
    """The shape of a program.

    Attributes:
        core, background, dimension: of the data.
        width: hidden neurons.
        n: training examples.
        test: fresh examples for evaluation.
        record: increasing numbers of steps after which a network is evaluated; the last one is the end.
    """

    core: int
    background: int
    dimension: int
    width: int
    n: int
    test: int
    record: tuple[int, ...]


class Arm(NamedTuple):
    """What distinguishes runs: numbers for one run, or `(runs,)`.

    Attributes:
        activation: index in `NAMES`.
        optimizer: index in `OPTIMIZERS`.
        hinge: whether the loss is the hinge loss, otherwise the logistic loss.
        trained: whether the output layer is trained.
        centred: whether the outputs at initialisation are subtracted.
        scale: of the outputs.
        mean: of the background, which is uniform in an interval of length 1 around it; shifted, around -mean.
        learning_rate: constant.
        weight_decay: coupled in SGD, decoupled in AdamW.
    """

    activation: Any
    optimizer: Any
    hinge: Any
    trained: Any
    centred: Any
    scale: Any
    mean: Any
    learning_rate: Any
    weight_decay: Any


class Weights(NamedTuple):
    """The parameters: `hidden (width, d)`, `bias (width,)`, `output (width,)` and `offset ()`."""

    hidden: Float[Array, "width d"]
    bias: Float[Array, " width"]
    output: Float[Array, " width"]
    offset: Float[Array, ""]


class Course(NamedTuple):
    """What is recorded of a run, `(T, ...)`; sets of examples are as in training, shifted, and shifted as published.

    Attributes:
        hinge, logistic, accuracy: `(T, 3)`: mean hinge loss, mean logistic loss, and accuracy, by set. The first two
            sets are fresh. The published one has the core of the training examples.
        norms: `(T, 2)`: mean over neurons of the norms of the weights' projections on core and background.
        learned: `(T, 2)`: the same of the weights minus their initial values.
        signed: `(T, 2)`: mean over neurons and features of the projections of the weights minus their initial values;
            those on the core times the sign of the neuron's output weight.
        active: `(T, 2)`: mean over neurons of `contamination.activation_rates`, own and other class.
    """

    hinge: Float[Array, "T 3"]
    logistic: Float[Array, "T 3"]
    accuracy: Float[Array, "T 3"]
    norms: Float[Array, "T 2"]
    learned: Float[Array, "T 2"]
    signed: Float[Array, "T 2"]
    active: Float[Array, "T 2"]


class Trained(NamedTuple):
    """The results of runs: courses, weights in the basis of the features before and after, and final outputs.

    `outputs (2, test)` are those on fresh examples as in training and shifted, which have the labels `y (test,)`.
    """

    course: Course
    before: Weights
    after: Weights
    outputs: Float[Array, "2 test"]
    y: Float[Array, " test"]


class Task(NamedTuple):
    """The examples of a run, as coordinates: to train; fresh and shifted, of the same core; shifted, of the train core.

    All have the labels 1, -1, 1, ...
    """

    train: Float[Array, "n features"]
    fresh: Float[Array, "test features"]
    shifted: Float[Array, "test features"]
    published: Float[Array, "n features"]


def task(key: Key[Array, ""], sizes: Sizes, mean: Float[Array, ""] | float) -> Task:
    """The examples of the run with this key."""
    train_key, test_key = jax.random.split(jax.random.fold_in(key, 1))

    def drawn(key: Key[Array, ""], n: int, shifted: bool) -> Float[Array, "n features"]:
        background = structured.Uniform(jnp.asarray(mean) - 0.5, jnp.asarray(mean) + 0.5)
        return structured.sample(
            key,
            n,
            core=sizes.core,
            background=sizes.background,
            dimension=sizes.core + sizes.background,
            shifted=shifted,
            background_distribution=background,
        ).z

    return Task(
        drawn(train_key, sizes.n, False),
        drawn(test_key, sizes.test, False),
        drawn(test_key, sizes.test, True),
        drawn(train_key, sizes.n, True),
    )


def labels(n: int) -> Float[Array, " n"]:
    """The labels of n examples, in turn."""
    return jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)


def basis(state_key: Key[Array, ""], sizes: Sizes) -> Float[Array, "features dimension"]:
    """The features of the run whose method starts from this key, random as in the published experiment."""
    return structured.random_basis(jax.random.fold_in(state_key, 2), sizes.core + sizes.background, sizes.dimension)


def state_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key that `methods.train` gives to the `init` of a method, for the run with this key."""
    return jax.random.split(key)[0]


def initial(key: Key[Array, ""], sizes: Sizes, trained: Array | bool) -> Weights:
    """The initial network of the run with this key, in all dimensions: that of `methods.train` for the same key."""
    inputs = jnp.zeros((1, sizes.dimension))

    def drawn(trained: bool) -> Weights:
        network = TwoLayer(sizes.width, trained=trained)
        start = methods.init_learner(network, optax.identity(), state_key(key), inputs)
        return weights({"params": start.params, **start.collections})

    return jax.tree.map(functools.partial(jnp.where, trained), drawn(True), drawn(False))


def weights(variables: Any) -> Weights:
    """The weights in the variables of a `TwoLayer` network."""
    hidden, (output,) = variables["params"]["hidden"], [v["output"] for v in variables.values() if "output" in v]
    return Weights(hidden["kernel"].T, hidden["bias"], output["kernel"][:, 0], output["bias"][0])


def variables(found: Weights, *, trained: bool) -> dict[str, Any]:
    """The variables of a `TwoLayer` network with these weights."""
    hidden = {"kernel": found.hidden.T, "bias": found.bias}
    output = {"kernel": found.output[:, None], "bias": found.offset[None]}
    if trained:
        return {"params": {"hidden": hidden, "output": output}}
    return {"params": {"hidden": hidden}, "frozen": {"output": output}}


def train(keys: Key[Array, " runs"], arms: Arm, sizes: Sizes) -> Trained:
    """Trains all runs on all devices and returns NumPy arrays with an axis of runs.

    Equal keys give the same examples and, for the same kind of output layer, the same initial network.

    Args:
        keys: one per run.
        arms: leaves `(runs,)`.
        sizes: those of all runs.
    """
    # A device gets every d-th run, so that it has its share of every kind. If there is one run too few, the first is
    # repeated.
    devices = jax.local_device_count()
    rows = np.arange(-(-len(keys) // devices) * devices).reshape(-1, devices).T.ravel() % len(keys)
    # Only the number of records belongs to the shape, so that runs of different lengths share a program.
    record = jnp.array(sizes.record, jnp.int32)
    program = _program(sizes._replace(record=(0,) * len(record)))
    found = program(keys[rows], jax.tree.map(lambda leaf: leaf[rows], arms), record)
    first = {int(row): place for place, row in reversed(list(enumerate(rows)))}
    order = [first[row] for row in range(len(keys))]
    return jax.tree.map(lambda leaf: np.asarray(leaf)[order], found)


@functools.lru_cache(maxsize=8)
def _program(sizes: Sizes) -> Callable[[Key[Array, " runs"], Arm, Int[Array, " T"]], Trained]:
    """The compiled function (keys, arms, record) for runs of these sizes, of whose record only the length counts."""
    sgd, adamw = (functools.partial(_trained, sizes, name) for name in OPTIMIZERS)

    def local(keys: Key[Array, " runs"], arms: Arm, record: Int[Array, " T"]) -> Trained:
        def one(run: tuple[Key[Array, ""], Arm]) -> Trained:
            key, arm = run
            return lax.cond(arm.optimizer == OPTIMIZERS.index("sgd"), sgd, adamw, key, arm, record)

        with jax.default_matmul_precision("highest"):
            return lax.map(one, (keys, arms))

    mesh = Mesh(np.array(jax.local_devices()), ("runs",))
    spread, whole = PartitionSpec("runs"), PartitionSpec()
    # Nothing is communicated, and the loops' carry starts from constants that do not vary over the mesh.
    specs = {"in_specs": (spread, spread, whole), "out_specs": spread}
    return jax.jit(jax.shard_map(local, mesh=mesh, **specs, check_vma=False))


def _trained(sizes: Sizes, optimizer: str, key: Key[Array, ""], arm: Arm, record: Int[Array, " T"]) -> Trained:
    """One run: steps, with records in between."""
    data, rows = task(key, sizes, arm.mean), basis(state_key(key), sizes)
    y, test_y = labels(sizes.n), labels(sizes.test)
    columns = jnp.concatenate([data.train, jnp.ones_like(data.train[:, :1])], axis=1).T
    start = initial(key, sizes, arm.trained)
    if optimizer == "sgd":
        rule = optax.chain(optax.add_decayed_weights(arm.weight_decay), optax.sgd(arm.learning_rate, momentum=0.9))
        rows, start = None, start._replace(hidden=start.hidden @ rows.T)
    else:
        rule = optax.adamw(arm.learning_rate, weight_decay=arm.weight_decay)

    def inside(found: Weights) -> Weights:
        return found if rows is None else found._replace(hidden=found.hidden @ rows.T)

    def outside(gradient: Weights) -> Weights:
        return gradient if rows is None else gradient._replace(hidden=gradient.hidden @ rows)

    before, examples = inside(start), jnp.concatenate(data)
    ends = np.cumsum([len(z) for z in data])[:-1]
    # The outputs at initialisation, which are subtracted, if at all.
    origin = jnp.where(arm.centred, outputs(before, arm, examples), 0.0)

    def step(_: Array, carry: tuple[Weights, Any]) -> tuple[Weights, Any]:
        found, state = carry
        gradient = slope(inside(found), arm, columns, y, origin[: sizes.n])
        change: Any
        change, state = rule.update(outside(gradient), state, found)
        kept = jnp.where(arm.trained, 1.0, 0.0)
        change = change._replace(output=kept * change.output, offset=kept * change.offset)
        return jax.tree.map(jnp.add, found, change), state

    def interval(carry: tuple[Weights, Any], bounds: tuple[Array, Array]) -> tuple[Any, tuple[Course, Array]]:
        found, state = lax.fori_loop(*bounds, step, carry)
        _, *logits = jnp.split(outputs(inside(found), arm, examples) - origin, ends)
        course = measured(inside(found), before, data.fresh, sizes.core, logits)
        return (found, state), (course, jnp.stack(logits[:2]))

    bounds = jnp.concatenate([jnp.zeros_like(record[:1]), record[:-1]]), record
    (end, _), (course, logits) = lax.scan(interval, (start, rule.init(start)), bounds)
    return Trained(course, before, inside(end), logits[-1], test_y)


def slope(
    found: Weights, arm: Arm, columns: Float[Array, "features+1 n"], y: Float[Array, " n"], origin: Array
) -> Weights:
    """The gradient of the mean loss, where `columns` are examples with a last coordinate 1, transposed."""
    hidden = jnp.concatenate([found.hidden, found.bias[:, None]], axis=1)

    def force(f: Float[Array, " n"]) -> Float[Array, " n"]:
        margins = y * (arm.scale * f - origin)
        each = jnp.where(arm.hinge, jnp.where(margins < 1, -1.0, 0.0), -jax.nn.sigmoid(-margins))
        return arm.scale * y * each / len(y)

    def nonlinear(xi: Callable[[Array], Array]) -> tuple[Array, Array, Array]:
        h = hidden @ columns
        values, derivatives = jax.jvp(xi, (h,), (jnp.ones_like(h),))
        r = force((found.output[:, None] * values).sum(axis=0) + found.offset)
        gradient = (found.output[:, None] * r * derivatives) @ columns.T
        # Evaluated anew, so that the values need not be stored where the output layer is frozen.
        output = lax.cond(arm.trained, lambda h: xi(h) @ r, lambda h: jnp.zeros_like(h[:, 0]), h)
        return gradient, output, r.sum()

    def linear() -> tuple[Array, Array, Array]:
        r = force((found.output @ hidden) @ columns + found.offset)
        pulled = columns @ r
        return found.output[:, None] * pulled, hidden @ pulled, r.sum()

    kinds = [linear if name == "identity" else functools.partial(nonlinear, xi) for name, xi in ACTIVATIONS.items()]
    gradient, output, offset = lax.switch(arm.activation, kinds)
    return Weights(gradient[:, :-1], gradient[:, -1], output, offset)


def outputs(found: Weights, arm: Arm, z: Float[Array, "n features"]) -> Float[Array, " n"]:
    """The outputs at coordinates z."""
    h = found.hidden @ z.T + found.bias[:, None]
    kinds = [lambda h, xi=xi: (found.output[:, None] * xi(h)).sum(axis=0) for xi in ACTIVATIONS.values()]
    return arm.scale * (lax.switch(arm.activation, kinds, h) + found.offset)


def measured(
    found: Weights, before: Weights, fresh: Float[Array, "test features"], core: int, logits: Sequence[Array]
) -> Course:
    """The records at one step, without the axis T, from the outputs on the three sets."""
    margins = [labels(len(f)) * f for f in logits]
    kernel, initial = found.hidden.T, before.hidden.T

    def means(parts: contamination.Parts) -> Array:
        return jnp.stack([part.mean() for part in parts])

    learned = contamination.projections(kernel, core, initial=initial)
    signed = contamination.projections(kernel, core, initial=initial, output=found.output)
    rates = contamination.activation_rates(fresh @ kernel + found.bias, labels(len(fresh)), output=found.output)
    return Course(
        jnp.stack([jax.nn.relu(1 - m).mean() for m in margins]),
        jnp.stack([jax.nn.softplus(-m).mean() for m in margins]),
        jnp.stack([(m > 0).mean() for m in margins]),
        means(contamination.norms(contamination.projections(kernel, core))),
        means(contamination.norms(learned)),
        jnp.stack([signed.core.mean(), learned.background.mean()]),
        jnp.stack([rate.mean() for rate in rates]),
    )
